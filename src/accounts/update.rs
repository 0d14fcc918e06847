//! Updates of accounts.

use diesel::prelude::*;

use super::{
    contacts::WithContact,
    store::{Account, Fields, translate},
};
use crate::{
    account_types::store::AccountType,
    db::WriteTx,
    error::Result,
    people::store::Person,
    relations::{
        links, organization,
        slots::{self, Scope},
    },
    rows::set_row,
    schema::accounts,
    search,
};

impl Account {
    /// Sets the fields of the account; equal fields change nothing. The caller must hold the row
    /// FOR UPDATE.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<WithContact> {
        self.fields.status.require_next(fields.status, &self.account_id)?;
        if self.fields == *fields {
            self.require_active_type(tx, fields).await?;
            return Self::with_contact(tx, self).await;
        }
        let moved = self.fields.organization_id != fields.organization_id;
        let new_contacts: Vec<_> = fields
            .contacts()
            .filter(|id| self.fields.contacts().all(|held| held != *id))
            .cloned()
            .collect();
        self.lock_references(tx, fields, &new_contacts).await?;
        let update = async {
            let columns = (fields, accounts::folded.eq(search::stamp(self.revision + 1)));
            let updated = set_row!(tx, Self: accounts.account_id(&self.account_id), columns).await;
            updated.map_err(|error| translate(error, &self.account_id, fields))
        };
        let rows = tx.together(update, self.renew_words(tx, fields));
        let ((), (updated, ())) = tx.together(self.require_active_type(tx, fields), rows).await?;
        // Runs after the update, so that the check covers the people who are contacts now.
        if moved {
            let guard = slots::guard(tx, Scope::Account(&self.account_id)).await?;
            links::replace_own(tx, updated.reference(), &fields.organization_id).await?;
            Self::require_contacts(tx, &self.account_id, &new_contacts).await?;
            guard.verify(tx).await?;
        } else {
            Self::require_contacts(tx, &self.account_id, &new_contacts).await?;
        }
        tx.updated(&self, &updated)?;
        Self::with_contact(tx, updated).await
    }

    /// Fails if the type is deactivated. An unchanged type is checked too: an account whose type
    /// was deactivated must leave it with its next update. A change of the status alone is allowed,
    /// so that a caller who suspends an account need not choose a type.
    async fn require_active_type(&self, tx: &WriteTx, fields: &Fields) -> Result<()> {
        match &fields.account_type_id {
            Some(id) if !fields.differ_in_status_only(&self.fields) => {
                AccountType::require_active(tx, id).await
            }
            _ => Ok(()),
        }
    }

    /// Locks what the new fields refer to, in the order of locks: the tree, the organization, the
    /// present primary account, people. Fails if a reference does not exist or is not allowed.
    async fn lock_references(
        &self,
        tx: &WriteTx,
        fields: &Fields,
        new_contacts: &[String],
    ) -> Result<()> {
        let moved = self.fields.organization_id != fields.organization_id;
        if moved || !new_contacts.is_empty() {
            tx.lock_tree_shared().await?;
        }
        if moved {
            organization::require(tx, &fields.organization_id).await?;
        }
        if fields.is_primary && (moved || !self.fields.is_primary) {
            Self::clear_primary(tx, &fields.organization_id, &self.account_id).await?;
        }
        slots::lock_new(tx, new_contacts).await?;
        match &fields.account_manager_id {
            Some(id) if self.fields.account_manager_id.as_ref() != Some(id) => {
                Person::require_manager(tx, id).await
            }
            _ => Ok(()),
        }
    }
}
