//! What belongs to accounts and has a slice of its own, such as contracts. Those slices use
//! accounts, so accounts get them from the server: a deletion asks what is in force, and takes the
//! rest along.

use super::{refusals, store::Account};
use crate::{
    db::WriteTx,
    error::{NAMED, Result},
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

/// The rows of a slice that belong to accounts.
#[tonic::async_trait]
pub trait Dependents: std::fmt::Debug + Send + Sync {
    /// Returns what of the account is in force, at most `limit` ids. The caller must hold the
    /// account FOR UPDATE, so nothing is added meanwhile. Nothing is in force of a kind that does
    /// not implement this.
    async fn in_force(&self, _tx: &WriteTx, _account: &Account, _limit: i64) -> Result<Vec<Use>> {
        Ok(Vec::new())
    }

    /// Deletes everything of the account and records each deletion. The caller must hold the
    /// account FOR UPDATE.
    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<()>;
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

    /// Deletes what depends on the account. The caller must hold the row FOR UPDATE.
    pub async fn delete_dependents(&self, tx: &WriteTx, all: &[&dyn Dependents]) -> Result<()> {
        for dependents in all {
            dependents.remove_all(tx, self).await?;
        }
        Ok(())
    }
}
