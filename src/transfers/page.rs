//! A page of an export: accounts in the order of their ids, with their links and users.

use std::collections::BTreeMap;

use diesel::{dsl::not, prelude::*};
use diesel_async::RunQueryDsl;

use super::wire::Wanted;
use crate::{
    accounts::store::{Account, WithContact},
    budget::{self, Weighed},
    db::Tx,
    error::Result,
    relations::{links::Terms, settings::UserSettings},
    schema::{account_organizations, account_users, accounts},
};

/// Most accounts of a page.
const SIZE: usize = 500;
/// What a link or a user takes in an answer beside its texts.
const ROW: usize = 64;

/// A page of an export.
#[derive(Default)]
pub struct Page {
    /// The accounts, by ascending id.
    pub accounts: Vec<Exported>,
    /// Whether the export may have accounts behind this page.
    pub more: bool,
}

/// An account with what the export is to have of it.
pub struct Exported {
    /// The account, and its primary contact.
    pub account: WithContact,
    /// The linked organizations, the own one only if its link covers more.
    pub links: Vec<Terms>,
    /// The users who were added individually.
    pub users: Vec<UserSettings>,
}

/// A link, and the id of its account.
#[derive(Queryable)]
struct Link(String, Terms);

impl Weighed for Link {
    fn weight(&self) -> usize {
        ROW + budget::texts([&self.0, &self.1.organization_id])
    }
}

impl Weighed for UserSettings {
    fn weight(&self) -> usize {
        ROW + budget::texts([&self.account_id, &self.person_id]) + budget::list(&self.fields.roles)
    }
}

impl Page {
    /// Reads the page behind the account with the id `after`. It ends early where its accounts, or
    /// their links or users, would exceed the bytes of a response.
    pub async fn read(tx: &Tx, wanted: &Wanted, after: Option<&str>) -> Result<Self> {
        let filter = &wanted.filter;
        let Some(prepared) = filter.prepare(tx).await? else { return Ok(Self::default()) };
        let mut query = prepared.query(tx, filter.created, filter.updated);
        if let Some(after) = after {
            query = query.filter(accounts::account_id.gt(after));
        }
        let limit = i64::try_from(SIZE + 1).unwrap_or(i64::MAX);
        let rows = query.order(accounts::account_id).limit(limit);
        let rows = rows.load_stream::<Account>(&mut tx.conn()).await?;
        let (mut rows, complete) = budget::read(tx, rows).await?;
        let mut more = !complete || rows.len() > SIZE;
        rows.truncate(SIZE);
        let mut links = BTreeMap::<_, Vec<_>>::new();
        if wanted.links {
            for Link(account_id, terms) in links_of(tx, &mut rows, &mut more).await? {
                links.entry(account_id).or_default().push(terms);
            }
        }
        let mut users = BTreeMap::<_, Vec<_>>::new();
        if wanted.users {
            for user in users_of(tx, &mut rows, &mut more).await? {
                users.entry(user.account_id.clone()).or_default().push(user);
            }
        }
        let accounts = Account::all_with_contacts(tx, rows).await?;
        let exported = |account: WithContact| Exported {
            links: links.remove(&account.0.account_id).unwrap_or_default(),
            users: users.remove(&account.0.account_id).unwrap_or_default(),
            account,
        };
        Ok(Self { accounts: accounts.into_iter().map(exported).collect(), more })
    }

    /// The id of the last account.
    pub fn last_id(&self) -> Option<&str> {
        self.accounts.last().map(|exported| &*exported.account.0.account_id)
    }
}

/// Reads the rows of accounts, in the order of the accounts, by a query over their ids. If they
/// exceed the bytes of a response, the page ends before the account of the last row that was read,
/// or after the first account, whose rows are then all read.
macro_rules! read_of {
    ($tx:expr, $accounts:expr, $more:expr, |$ids:ident| $query:expr, |$row:ident| $account_id:expr) => {{
        let $ids: Vec<_> = $accounts.iter().map(|account| account.account_id.clone()).collect();
        let (rows, complete) =
            budget::read($tx, $query.load_stream(&mut $tx.conn()).await?).await?;
        if complete {
            return Ok(rows);
        }
        *$more = true;
        let last = rows.last().map(|$row| $account_id.clone()).unwrap_or_default();
        $accounts.retain(|account| account.account_id < last);
        if $accounts.is_empty() {
            let $ids = [last];
            let rows = $query.load(&mut $tx.conn()).await?;
            return Ok(rows);
        }
        Ok(rows.into_iter().filter(|$row| *$account_id < *last).collect())
    }};
}

async fn links_of(tx: &Tx, accounts: &mut Vec<Account>, more: &mut bool) -> Result<Vec<Link>> {
    read_of!(
        tx,
        accounts,
        more,
        |ids| account_organizations::table
            .filter(tx.owns(account_organizations::tenant_id))
            .filter(account_organizations::account_id.eq_any(ids))
            .filter(not(account_organizations::own).or(account_organizations::include_descendants))
            .order((account_organizations::account_id, account_organizations::organization_id))
            .select((account_organizations::account_id, Terms::as_select())),
        |link| link.0
    )
}

async fn users_of(
    tx: &Tx,
    accounts: &mut Vec<Account>,
    more: &mut bool,
) -> Result<Vec<UserSettings>> {
    read_of!(
        tx,
        accounts,
        more,
        |ids| account_users::table
            .filter(tx.owns(account_users::tenant_id))
            .filter(account_users::account_id.eq_any(ids))
            .filter(account_users::individual)
            .order((account_users::account_id, account_users::person_id))
            .select(UserSettings::as_select()),
        |user| user.account_id
    )
}
