//! What makes a person a user of an account: the links of the account that cover an organization of
//! the person, and individual membership.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::{
    db::{Condition, Tx},
    error::Result,
    schema::{
        account_organizations, account_users, accounts, organization_ancestors,
        organization_members, people,
    },
};

/// The query for members of organizations joined with the links that cover them. Each row is a
/// source of membership.
#[diesel::dsl::auto_type]
pub(crate) fn covered(tenant: String) -> _ {
    organization_members::table
        .inner_join(organization_ancestors::table.on(
            organization_ancestors::tenant_id.eq(organization_members::tenant_id).and(
                organization_ancestors::organization_id.eq(organization_members::organization_id),
            ),
        ))
        .inner_join(account_organizations::table.on(
            account_organizations::tenant_id.eq(organization_ancestors::tenant_id).and(
                account_organizations::organization_id.eq(organization_ancestors::ancestor_id),
            ),
        ))
        .filter(organization_members::tenant_id.eq(tenant))
        .filter(
            organization_ancestors::distance
                .eq(0_i32)
                .or(account_organizations::include_descendants),
        )
}

/// Returns the organizations through which a person is a user of these accounts, by account.
pub async fn through(
    tx: &Tx,
    account_ids: &[String],
    person_id: &str,
) -> Result<BTreeMap<String, Vec<String>>> {
    let rows = covered(tx.tenant_id().into())
        .filter(account_organizations::account_id.eq_any(account_ids))
        .filter(organization_members::person_id.eq(person_id))
        .select((account_organizations::account_id, organization_members::organization_id))
        .distinct()
        .order(organization_members::organization_id)
        .load::<(String, String)>(&mut tx.conn())
        .await?;
    let mut through = BTreeMap::<_, Vec<String>>::new();
    for (account_id, organization_id) in rows {
        through.entry(account_id).or_default().push(organization_id);
    }
    Ok(through)
}

/// The people who are users of an account on a day.
pub fn users_of(tx: &Tx, account_id: &str, today: NaiveDate) -> Condition<people::table> {
    let through = covered(tx.tenant_id().into())
        .filter(account_organizations::account_id.eq(account_id.to_owned()))
        .select(organization_members::person_id);
    let added = account_users::table
        .filter(tx.owns(account_users::tenant_id))
        .filter(account_users::account_id.eq(account_id.to_owned()))
        .filter(account_users::individual)
        .filter(account_users::start_date.is_null().or(account_users::start_date.le(today)))
        .filter(account_users::end_date.is_null().or(account_users::end_date.ge(today)))
        .select(account_users::person_id);
    // One subquery, from which PostgreSQL can start.
    Box::new(people::active.and(people::person_id.eq_any(through.union_all(added))))
}

/// The condition that an active person is a user of the account on a day.
pub fn used_by(tx: &Tx, person_id: &str, today: NaiveDate) -> Condition<accounts::table> {
    let through = covered(tx.tenant_id().into())
        .filter(organization_members::person_id.eq(person_id.to_owned()))
        .select(account_organizations::account_id);
    let added = account_users::table
        .filter(tx.owns(account_users::tenant_id))
        .filter(account_users::person_id.eq(person_id.to_owned()))
        .filter(account_users::individual)
        .filter(account_users::start_date.is_null().or(account_users::start_date.le(today)))
        .filter(account_users::end_date.is_null().or(account_users::end_date.ge(today)))
        .select(account_users::account_id);
    let active = people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq(person_id.to_owned()).and(people::active))
        .select(people::person_id);
    // One subquery, from which PostgreSQL can start. With two it would scan all accounts.
    Box::new(accounts::account_id.eq_any(through.union_all(added)).and(diesel::dsl::exists(active)))
}
