//! The settings of people on accounts: individual membership, roles, billing flag; and the query
//! for the links that make a person a user through organizations.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{refusals, users::User};
use crate::{
    accounts::store::Account,
    db::WriteTx,
    error::Result,
    people::store::Person,
    relations::{
        refusals::person_inactive,
        settings::{Fields, UserSettings, record},
    },
    schema::account_users,
};

/// A person to become an individual user.
#[derive(Debug)]
pub struct NewUser {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// Their settings.
    pub fields: Fields,
}

impl NewUser {
    /// Adds the person. A person who is a user through an organization keeps their settings where
    /// the request gives none. Locks the account, the tree and the person. Fails if the person is
    /// inactive or already an individual user.
    pub async fn insert(&self, tx: &WriteTx) -> Result<User> {
        let account = Account::find_for_update(tx, &self.account_id).await?;
        tx.lock_tree_shared().await?;
        let person = Person::find_and_hold(tx, &self.person_id).await?;
        if !person.fields.active {
            return Err(person_inactive(&person.person_id));
        }
        let current = UserSettings::find(tx, &self.account_id, &self.person_id).await?;
        let mut fields = self.fields(&tx.tenant().await?.settings.membership_roles)?;
        if let Some(current) = &current {
            if current.fields.individual {
                let (account_id, person_id) = (&self.account_id, &self.person_id);
                return Err(refusals::account_user_already_exists(account_id, person_id));
            }
            if fields.roles.is_empty() {
                fields.roles.clone_from(&current.fields.roles);
            }
            fields.billing |= current.fields.billing;
        }
        UserSettings::put(tx, &account, &person, current, &fields).await?;
        User::find(tx, &self.account_id, &self.person_id)
            .await?
            .ok_or_else(|| refusals::account_user_not_found(&self.account_id, &self.person_id))
    }
}

impl UserSettings {
    /// Writes the settings of a person on an account, if they differ from the current ones. The
    /// caller must hold the account and the person.
    pub async fn put(
        tx: &WriteTx,
        account: &Account,
        person: &Person,
        current: Option<Self>,
        fields: &Fields,
    ) -> Result<()> {
        let (account_id, person_id) = (&account.account_id, &person.person_id);
        // A person without a row has the default settings.
        if current.as_ref().map_or_else(Fields::default, |current| current.fields.clone())
            == *fields
        {
            return Ok(());
        }
        let now = if let Some(current) = &current {
            let row = account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::account_id.eq(account_id))
                .filter(account_users::person_id.eq(person_id));
            let update = diesel::update(row)
                .set((
                    fields,
                    account_users::revision.eq(current.revision + 1),
                    account_users::update_time.eq(diesel::dsl::now),
                ))
                .returning(Self::as_returning());
            tx.send_returning::<_, Self>(update).await?
        } else {
            diesel::insert_into(account_users::table)
                .values((
                    tx.owns(account_users::tenant_id),
                    account_users::account_id.eq(account_id),
                    account_users::person_id.eq(person_id),
                    account_users::sort_key.eq(&person.fields.sort_key),
                    account_users::person_create_time.eq(person.create_time),
                    fields,
                ))
                .returning(Self::as_returning())
                .get_result::<Self>(&mut tx.conn())
                .await?
        };
        record(tx, account.reference(), current.as_ref(), Some(&now))
    }

    /// Ends an individual membership. A person who is also a user through an organization keeps
    /// roles and billing flag. The caller must hold the account.
    pub async fn remove(tx: &WriteTx, account: &Account, user: &User) -> Result<()> {
        let (account_id, person_id) = (&user.account_id, &user.person.person_id);
        let Some(current) = user.record.clone() else { return Ok(()) };
        if !user.organization_ids.is_empty() {
            let fields = Fields {
                individual: false,
                start_date: None,
                end_date: None,
                ..current.fields.clone()
            };
            return Self::put(tx, account, &user.person, Some(current), &fields).await;
        }
        diesel::delete(account_users::table.filter(tx.owns(account_users::tenant_id)))
            .filter(
                account_users::account_id
                    .eq(account_id)
                    .and(account_users::person_id.eq(person_id)),
            )
            .execute(&mut tx.conn())
            .await?;
        record(tx, account.reference(), Some(&current), None)
    }
}
