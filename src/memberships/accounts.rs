//! The accounts of a person.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use futures_util::future::try_join;

use crate::{
    accounts::store::Account,
    db::Tx,
    error::Result,
    modules,
    page::{Listing, Page, keyset, total},
    people::store::Person,
    relations::{
        settings::UserSettings,
        slots::{self, Slot},
        sources::{through, used_by},
    },
    schema::{account_users, accounts},
};

/// An account that a person is a user of.
#[derive(Debug, Clone)]
pub struct PersonAccount {
    /// The account.
    pub account: Account,
    /// The settings of the person there, if there are any.
    pub record: Option<UserSettings>,
    /// The organizations through which they are a user.
    pub organization_ids: Vec<String>,
    /// The contact slots that the person holds there.
    pub slots: Vec<Slot>,
    /// Whether it is the account that the person buys on.
    pub is_purchasing_account: bool,
}

impl PersonAccount {
    /// Returns one page of the accounts that a person is a user of today.
    pub async fn list(tx: &Tx, person_id: &str, page: &Page) -> Result<Listing<Self>> {
        let person = Person::find(tx, person_id).await?;
        let off = modules::off(tx).await?;
        let today = tx.today().await?;
        let filtered = || {
            let query = accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .select(Account::as_select())
                .filter(tx.accounts_in_reach())
                .into_boxed();
            let query = query.filter(used_by(tx, person_id, today));
            match &off {
                Some(off) => query.filter(accounts::organization_id.ne_all(off)),
                None => query,
            }
        };
        let total = total!(tx, page, filtered());
        let rows =
            keyset!(filtered(), page, accounts).load_stream::<Account>(&mut tx.conn()).await?;
        let accounts = page.read(tx, total, rows).await?;
        let ids: Vec<_> = accounts.rows.iter().map(|account| account.account_id.clone()).collect();
        let (mut records, mut through) =
            try_join(records(tx, &ids, person_id), through(tx, &ids, person_id)).await?;
        let complete = |account: Account| Self {
            record: records.remove(&account.account_id),
            organization_ids: through.remove(&account.account_id).unwrap_or_default(),
            slots: slots::held(&account.fields.slots(), person_id),
            is_purchasing_account: person.purchasing_account_id.as_ref()
                == Some(&account.account_id),
            account,
        };
        Ok(accounts.map(complete))
    }
}

/// Returns the settings of a person on these accounts, by account.
async fn records(
    tx: &Tx,
    account_ids: &[String],
    person_id: &str,
) -> Result<BTreeMap<String, UserSettings>> {
    let rows = account_users::table
        .filter(tx.owns(account_users::tenant_id))
        .filter(
            account_users::account_id
                .eq_any(account_ids)
                .and(account_users::person_id.eq(person_id)),
        )
        .select(UserSettings::as_select())
        .load::<UserSettings>(&mut tx.conn())
        .await?;
    Ok(rows.into_iter().map(|row| (row.account_id.clone(), row)).collect())
}
