//! The organizations linked to accounts, as the trail records them, and the link of each account to
//! its own organization.

use std::borrow::Cow;

use diesel::{
    prelude::*,
    sql_types::{Bool, Text},
};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::OfAccount;
use crate::{
    db::{AccountRef, BelongsTo, Recorded, WriteTx},
    error::Result,
    id,
    schema::account_organizations,
    search::unnest,
};

/// A link as the trail records it.
#[derive(Debug, Queryable, Selectable, Serialize)]
#[diesel(table_name = account_organizations, check_for_backend(diesel::pg::Pg))]
pub struct Terms {
    /// The organization.
    pub organization_id: String,
    /// Whether the link covers the organizations below too.
    pub include_descendants: bool,
    /// Whether it is the organization that the account belongs to.
    pub own: bool,
}

impl Recorded for OfAccount<'_, Terms> {
    const NOUN: &'static str = "account_organization";

    fn id(&self) -> Cow<'_, str> {
        id::pair(self.account.account_id, &self.row.organization_id).into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Account(self.account)
    }
}

/// Records in the trail that a link of an account has changed.
pub fn record(
    tx: &WriteTx,
    account: AccountRef<'_>,
    before: Option<&Terms>,
    after: Option<&Terms>,
) -> Result<()> {
    let of_account = |row| OfAccount { account, row };
    tx.changed(before.map(of_account).as_ref(), after.map(of_account).as_ref())
}

/// Links the organization of a new account to it. The trail has no activity of its own for
/// this: the account's says it.
pub async fn insert_own(tx: &WriteTx, account_id: &str, organization_id: &str) -> Result<()> {
    let link = diesel::insert_into(account_organizations::table).values((
        tx.owns(account_organizations::tenant_id),
        account_organizations::account_id.eq(account_id),
        account_organizations::organization_id.eq(organization_id),
        account_organizations::own.eq(true),
    ));
    tx.send(link).await?;
    Ok(())
}

/// [`insert_own`] for many new accounts, each with its organization.
pub async fn insert_own_all(
    tx: &WriteTx,
    account_ids: Vec<&String>,
    organization_ids: Vec<&str>,
) -> Result<()> {
    let links = diesel::insert_into(account_organizations::table)
        .values(diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            unnest(account_ids),
            unnest(organization_ids),
            true.into_sql::<Bool>(),
        )))
        .into_columns((
            account_organizations::tenant_id,
            account_organizations::account_id,
            account_organizations::organization_id,
            account_organizations::own,
        ));
    tx.send(links).await?;
    Ok(())
}

/// Makes `organization_id` the own organization of an account, and deletes the link to the own
/// organization before. An existing link to the new one keeps its extent. The caller must hold
/// the account FOR UPDATE.
pub async fn replace_own(
    tx: &WriteTx,
    account: AccountRef<'_>,
    organization_id: &str,
) -> Result<()> {
    let account_id = account.account_id;
    let links = || {
        account_organizations::table
            .filter(tx.owns(account_organizations::tenant_id))
            .filter(account_organizations::account_id.eq(account_id))
    };
    let ended = diesel::delete(links().filter(account_organizations::own))
        .returning(Terms::as_returning())
        .get_result::<Terms>(&mut tx.conn())
        .await
        .optional()?;
    record(tx, account, ended.as_ref(), None)?;
    let linked = links()
        .filter(account_organizations::organization_id.eq(organization_id))
        .select(Terms::as_select());
    let before = linked.first::<Terms>(&mut tx.conn()).await.optional()?;
    if before.is_some() {
        diesel::update(links().filter(account_organizations::organization_id.eq(organization_id)))
            .set(account_organizations::own.eq(true))
            .execute(&mut tx.conn())
            .await?;
    } else {
        insert_own(tx, account_id, organization_id).await?;
    }
    let include_descendants = before.as_ref().is_some_and(|before| before.include_descendants);
    let after =
        Terms { organization_id: organization_id.to_owned(), include_descendants, own: true };
    record(tx, account, before.as_ref(), Some(&after))
}

/// Deletes the links of an account. The caller must hold the account FOR UPDATE, so that nobody
/// adds a link meanwhile.
pub async fn remove_all(tx: &WriteTx, account: AccountRef<'_>) -> Result<()> {
    let mut ended: Vec<Terms> = diesel::delete(
        account_organizations::table.filter(tx.owns(account_organizations::tenant_id)),
    )
    .filter(account_organizations::account_id.eq(account.account_id))
    .returning(Terms::as_returning())
    .get_results(&mut tx.conn())
    .await?;
    ended.sort_by(|one, other| one.organization_id.cmp(&other.organization_id));
    ended.iter().try_for_each(|link| record(tx, account, Some(link), None))
}
