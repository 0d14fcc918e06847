//! The settings of people on accounts: individual membership, roles, billing flag.

use std::{borrow::Cow, collections::BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{OfAccount, References};
use crate::{
    db::{AccountRef, BelongsTo, Recorded, Tx, WriteTx},
    error::Result,
    id,
    schema::account_users,
};

/// The settings of a person on an account.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Serialize)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg))]
pub struct UserSettings {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// Counts the changes; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
}

/// The settings that a caller can change.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg), treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Whether the person was added individually.
    pub individual: bool,
    /// Roles on the account, in alphabetical order.
    pub roles: Vec<String>,
    /// Whether the person gets the invoices.
    pub billing: bool,
    /// The first day of the individual membership; `None` is from the beginning.
    pub start_date: Option<NaiveDate>,
    /// The last day of the individual membership, included; `None` is without end.
    pub end_date: Option<NaiveDate>,
}

impl Fields {
    /// Whether the person is an individual user on a day.
    pub fn individual_on(&self, day: NaiveDate) -> bool {
        self.individual
            && self.start_date.is_none_or(|start| start <= day)
            && self.end_date.is_none_or(|end| end >= day)
    }
}

impl UserSettings {
    /// Returns the settings of a person on an account, if there are any.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Option<Self>> {
        Ok(account_users::table
            .filter(tx.owns(account_users::tenant_id))
            .filter(
                account_users::account_id
                    .eq(account_id)
                    .and(account_users::person_id.eq(person_id)),
            )
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?)
    }

    /// Records in the trail that these settings were deleted.
    pub async fn record_ends(tx: &WriteTx, mut ended: Vec<Self>) -> Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        ended.sort_by(|one, other| {
            (&one.account_id, &one.person_id).cmp(&(&other.account_id, &other.person_id))
        });
        let account_ids: BTreeSet<_> = ended.iter().map(|it| it.account_id.as_str()).collect();
        let accounts = References::find(tx, account_ids).await?;
        ended.iter().try_for_each(|it| record(tx, accounts.get(&it.account_id)?, Some(it), None))
    }

    /// Deletes the settings of all people on an account. The caller must hold the account FOR
    /// UPDATE, so that nobody adds any meanwhile.
    pub async fn remove_all_of_account(tx: &WriteTx, account_id: &str) -> Result<()> {
        let all = diesel::delete(
            account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::account_id.eq(account_id)),
        );
        Self::record_ends(
            tx,
            all.returning(Self::as_returning()).get_results(&mut tx.conn()).await?,
        )
        .await
    }

    /// Deletes the settings of a person on all accounts. The caller must hold the person FOR
    /// UPDATE, so that nobody adds any meanwhile.
    pub async fn remove_all_of_person(tx: &WriteTx, person_id: &str) -> Result<()> {
        let all = diesel::delete(
            account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::person_id.eq(person_id)),
        );
        Self::record_ends(
            tx,
            all.returning(Self::as_returning()).get_results(&mut tx.conn()).await?,
        )
        .await
    }
}

/// Records in the trail that the settings of a person on an account have changed.
pub fn record(
    tx: &WriteTx,
    account: AccountRef<'_>,
    before: Option<&UserSettings>,
    after: Option<&UserSettings>,
) -> Result<()> {
    let of_account = |row| OfAccount { account, row };
    tx.changed(before.map(of_account).as_ref(), after.map(of_account).as_ref())
}

impl Recorded for OfAccount<'_, UserSettings> {
    const NOUN: &'static str = "account_user";

    fn id(&self) -> Cow<'_, str> {
        id::pair(self.account.account_id, &self.row.person_id).into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account)
    }
}
