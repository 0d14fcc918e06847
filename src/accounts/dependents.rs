//! What belongs to accounts and has a slice of its own, such as contracts. Those slices use
//! accounts, so accounts get them from the server: a deletion asks what is in force, and takes the
//! rest along.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;
use serde_json::Value;

use super::{refusals, store::Account};
use crate::{
    db::{BelongsTo, Recorded, WriteTx},
    error::{NAMED, Result},
    resource::ACCOUNT,
};

/// What of a kind keeps an account in use.
#[derive(Debug)]
pub struct Use {
    /// The noun of the kind: `contract`.
    pub noun: &'static str,
    /// Its plural, the name of the count in the refusal: `contracts`.
    pub plural: &'static str,
    /// The first ids, at most [`NAMED`].
    pub ids: Vec<String>,
    /// How many there are in all.
    pub count: i64,
}

/// What the activity of a deleted account says of rows that have no activity of their own: the name
/// of the field, and its value.
pub type Removed = (&'static str, Value);

/// The rows of a slice that belong to accounts.
#[tonic::async_trait]
pub trait Dependents: std::fmt::Debug + Send + Sync {
    /// Returns what of the account is in force, at most `limit` ids. The caller must hold the
    /// account FOR UPDATE, so nothing is added meanwhile. Nothing is in force of a kind that does
    /// not implement this.
    async fn in_force(&self, _tx: &WriteTx, _account: &Account, _limit: i64) -> Result<Vec<Use>> {
        Ok(Vec::new())
    }

    /// Deletes everything of the account and records each deletion, or returns a field that says in
    /// the activity of the account what was deleted. The caller must hold the account FOR UPDATE.
    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<Option<Removed>>;
}

/// A deleted account as the trail has it.
#[derive(Debug, Serialize)]
pub(super) struct Deleted<'a> {
    /// The account.
    #[serde(flatten)]
    pub account: &'a Account,
    /// What its activity says of its dependents.
    #[serde(flatten)]
    pub removed: BTreeMap<&'static str, Value>,
}

impl Recorded for Deleted<'_> {
    const NOUN: &'static str = ACCOUNT.noun;

    fn id(&self) -> Cow<'_, str> {
        self.account.account_id.as_str().into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account.reference())
    }
}

impl Account {
    /// Fails if something of the account is in force.
    pub async fn require_unused(&self, tx: &WriteTx, all: &[&dyn Dependents]) -> Result<()> {
        let limit = i64::try_from(NAMED).unwrap_or(i64::MAX);
        let mut uses = Vec::new();
        for dependents in all {
            uses.extend(dependents.in_force(tx, self, limit).await?);
        }
        uses.retain(|used| used.count > 0);
        if uses.is_empty() {
            Ok(())
        } else {
            Err(refusals::account_in_use(&self.account_id, &uses))
        }
    }

    /// Deletes what depends on the account. Returns what its activity says of that. The caller must
    /// hold the row FOR UPDATE.
    pub async fn delete_dependents(
        &self,
        tx: &WriteTx,
        all: &[&dyn Dependents],
    ) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for dependents in all {
            removed.extend(dependents.remove_all(tx, self).await?);
        }
        Ok(removed)
    }
}
