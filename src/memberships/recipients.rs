//! Who gets the invoices of an account.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use diesel::{
    dsl::{AsSelect, exists},
    pg::Pg,
    prelude::*,
};
use diesel_async::RunQueryDsl;
use futures_util::future::try_join;

use crate::{
    accounts::store::Account,
    budget,
    db::Tx,
    error::Result,
    page::{Listing, Page, Total, keyset, total},
    people::store::Person,
    relations::sources::covered,
    schema::{account_organizations, account_users, organization_members, people},
};

/// The query for the users of an account who are in force and have the billing flag.
#[diesel::dsl::auto_type(no_type_alias)]
fn flagged_users(tenant: String, account_id: String, today: NaiveDate) -> _ {
    let sources: covered = covered(tenant.clone());
    let through = sources
        .filter(account_organizations::account_id.eq(account_users::account_id))
        .filter(organization_members::person_id.eq(account_users::person_id));
    let started = account_users::start_date.is_null().or(account_users::start_date.le(today));
    let not_ended = account_users::end_date.is_null().or(account_users::end_date.ge(today));
    let columns: AsSelect<Person, Pg> = Person::as_select();
    account_users::table
        .inner_join(
            people::table.on(people::tenant_id
                .eq(account_users::tenant_id)
                .and(people::person_id.eq(account_users::person_id))),
        )
        .filter(account_users::tenant_id.eq(tenant))
        .filter(account_users::account_id.eq(account_id))
        .filter(account_users::billing)
        .filter(people::active)
        .filter(exists(through).or(account_users::individual.and(started).and(not_ended)))
        .select(columns)
}

/// Someone who gets the invoices of an account.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The person.
    pub person: Person,
    /// Whether they get a copy only (CC).
    pub copy: bool,
}

impl Recipient {
    /// Returns one page of the recipients: the billing contacts, and every user in force who has
    /// the billing flag.
    pub async fn list(tx: &Tx, account_id: &str, page: &Page) -> Result<Listing<Self>> {
        let account = Account::find(tx, account_id).await?;
        let (to, cc) = (account.fields.billing_contact_id, account.fields.cc_billing_contact_id);
        let contacts: BTreeSet<_> = to.iter().chain(&cc).cloned().collect();
        let contacts: Vec<_> = contacts.into_iter().collect();
        let today = tx.today().await?;
        let others = || {
            flagged_users(tx.tenant_id().into(), account_id.into(), today)
                .filter(people::person_id.ne_all(&contacts))
                .into_boxed()
        };
        let total = if page.counts() {
            total!(tx, page, others()).plus(contacts.len())
        } else {
            Total::default()
        };
        let (mut rows, (flagged, complete)) =
            try_join(contacts_behind(tx, contacts, page), flagged(tx, account_id, page)).await?;
        let flagged_ids: BTreeSet<_> =
            flagged.iter().map(|person| person.person_id.clone()).collect();
        let last = flagged.last().map(|person| person.person_id.clone()).filter(|_| !complete);
        rows.retain(|contact| !flagged_ids.contains(&contact.person_id));
        rows.extend(flagged);
        // Both lists have their first people, so the first of both together are the page. Behind
        // the last flagged user that was read there may be more.
        page.sort(&mut rows);
        if let Some(last) = rows.iter().position(|person| Some(&person.person_id) == last.as_ref())
        {
            rows.truncate(last + 1);
        }
        let (rows, next_page_token) = page.cut(rows, complete);
        let recipient = |person: Person| {
            let copy =
                to.as_ref() != Some(&person.person_id) && !flagged_ids.contains(&person.person_id);
            Self { person, copy }
        };
        Ok(Listing { rows, next_page_token, total }.map(recipient))
    }
}

/// Returns the contacts that can be on the page.
async fn contacts_behind(tx: &Tx, person_ids: Vec<String>, page: &Page) -> Result<Vec<Person>> {
    let query = people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq_any(person_ids))
        .select(Person::as_select())
        .into_boxed();
    Ok(keyset!(query, page, people(sort_key, person_id)).load(&mut tx.conn()).await?)
}

/// Returns the flagged users in force that can be on the page, and whether the answer was read to
/// its end.
async fn flagged(tx: &Tx, account_id: &str, page: &Page) -> Result<(Vec<Person>, bool)> {
    let today = tx.today().await?;
    let query = keyset!(
        flagged_users(tx.tenant_id().into(), account_id.into(), today).into_boxed(),
        page,
        account_users(sort_key, person_create_time, person_id)
    );
    budget::read(tx, query.load_stream(&mut tx.conn()).await?).await
}
