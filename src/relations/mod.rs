//! The rows that connect accounts, organizations and people, below the slices that share them, so
//! that these need not import each other.
//!
//! A change of any of the three can end a membership, which other rows rely on. What it must then
//! check, delete or record is here. Functions take ids and references, not the rows of slices.

pub mod links;
pub mod members;
pub mod organization;
pub mod owners;
pub mod purchasing;
pub mod refusals;
pub mod settings;
pub mod slots;
pub mod sources;

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::{
    db::{AccountRef, Tx},
    enums::text_enum,
    error::{Error, Result},
    schema::accounts,
};

text_enum! {
    /// Whether a person belongs to a customer or to the tenant's staff.
    pub enum PersonKind {
        /// A person of a customer.
        Customer = "CUSTOMER",
        /// A member of the tenant's staff.
        Staff = "STAFF",
    }
}

/// A row of an account, as the trail records it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct OfAccount<'a, T> {
    /// The account.
    #[serde(skip)]
    pub account: AccountRef<'a>,
    /// The row.
    pub row: &'a T,
}

/// The incarnations of accounts by id, for the trail.
#[derive(Debug)]
pub struct References(BTreeMap<String, String>);

impl References {
    /// Reads the incarnations of these accounts, whether the caller reaches them or not.
    pub async fn find(tx: &Tx, account_ids: impl IntoIterator<Item = &str> + Send) -> Result<Self> {
        let account_ids: Vec<_> = account_ids.into_iter().map(ToOwned::to_owned).collect();
        let found = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::account_id.eq_any(account_ids));
        let found = found
            .select((accounts::account_id, accounts::incarnation))
            .load::<(String, String)>(&mut tx.conn())
            .await?;
        Ok(Self(found.into_iter().collect()))
    }

    /// Returns the reference to one of these accounts. Fails if it does not exist: without an
    /// incarnation, no caller with a limited reach would see the event.
    pub fn get<'a>(&'a self, account_id: &'a str) -> Result<AccountRef<'a>> {
        let found =
            self.0.get(account_id).map(|incarnation| AccountRef { account_id, incarnation });
        found.ok_or_else(|| {
            Error::internal(format!(
                "an event belongs to account {account_id:?}, which does not exist"
            ))
        })
    }
}
