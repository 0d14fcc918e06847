//! The people in the contact slots of accounts.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::store::Account;
use crate::{
    db::{Tx, WriteTx},
    error::{Error, Result},
    people::store::Person,
    relations::slots,
    schema::people,
};

/// An account, and the person who is its primary contact, if there is one.
pub struct WithContact(pub Account, pub Option<Person>);

impl Account {
    /// Returns the accounts, each with the person who is its primary contact.
    pub async fn all_with_contacts(tx: &Tx, rows: Vec<Self>) -> Result<Vec<WithContact>> {
        let ids: Vec<_> =
            rows.iter().filter_map(|row| row.fields.primary_contact_id.clone()).collect();
        let mut people = BTreeMap::new();
        if !ids.is_empty() {
            let found = people::table
                .filter(tx.owns(people::tenant_id))
                .filter(people::person_id.eq_any(ids))
                .select(Person::as_select());
            for person in found.load::<Person>(&mut tx.conn()).await? {
                people.insert(person.person_id.clone(), person);
            }
        }
        let with = |row: Self| {
            let person =
                row.fields.primary_contact_id.as_ref().and_then(|id| people.get(id).cloned());
            WithContact(row, person)
        };
        Ok(rows.into_iter().map(with).collect())
    }

    /// Returns the account with the person who is its primary contact.
    pub async fn with_contact(tx: &Tx, row: Self) -> Result<WithContact> {
        let mut rows = Self::all_with_contacts(tx, vec![row]).await?;
        rows.pop().ok_or_else(|| Error::internal("no row for one account"))
    }

    /// Fails if one of the account's contacts may not be one. The caller must hold the locks of
    /// their rows.
    pub async fn require_own_contacts(&self, tx: &WriteTx) -> Result<()> {
        let contacts: Vec<_> = self.fields.contacts().cloned().collect();
        Self::require_contacts(tx, &self.account_id, &contacts).await
    }

    /// Fails if one of these people may not be a contact of the account. The caller must hold the
    /// locks of their rows.
    pub(super) async fn require_contacts(
        tx: &WriteTx,
        account_id: &str,
        contacts: &[String],
    ) -> Result<()> {
        for person_id in contacts {
            if let Some(error) = slots::ineligible(tx, account_id, person_id).await? {
                return Err(error);
            }
        }
        Ok(())
    }
}
