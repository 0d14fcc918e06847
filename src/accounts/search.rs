//! Searches of accounts: how the words of a query find them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{And, AsSelect, GtEq, Lt, SqlTypeOf, exists},
    pg::Pg,
    prelude::*,
    sql_types::{Record, Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
use futures_util::future::{try_join, try_join_all};

use super::{
    store::{Account, Status},
    words::reference_to,
};
use crate::{
    db::{Condition, Tx},
    error::Result,
    page::{By, Listing, Order, Page, Total, keyset},
    schema::{account_words, accounts, person_words},
    search,
};

/// Most primary contacts whose ids a search of accounts names. More contacts have so many accounts
/// that PostgreSQL finds the page sooner by testing each account.
const NAMED: i64 = 1000;

/// Most words of accounts that make a term a rare one: PostgreSQL can collect so many accounts, and
/// then sort them.
const FEW: i64 = 1000;

/// Least accounts of the list that a search for common words tests in their order before it
/// collects all that have the words. Collecting costs as much as testing some thousands.
const WALKED: i64 = 1000;
/// Accounts that are tested for each row of a large page, before the walk ends: a page of 1000 rows
/// cannot be filled from 1000 accounts.
const WALKED_PER_ROW: i64 = 4;

/// How PostgreSQL applies a term.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// As it plans.
    Planned,
    /// To each account of the list in turn.
    Probed,
    /// By collecting the accounts that have the words, before anything else.
    Collected,
}

/// The terms of a search.
#[derive(Debug)]
pub struct Search(Vec<Term>);

/// A term of a search of accounts: the range of words that begin with it.
#[derive(Debug)]
struct Term {
    from: String,
    to: String,
    /// References to the primary contacts who have such a word, if they are few enough.
    contacts: Option<Vec<String>>,
    /// Whether more than [`FEW`] accounts have such a word, or more than [`NAMED`] contacts.
    common: bool,
}

impl Search {
    /// Looks up the terms of a query.
    ///
    /// This finds the contacts who have the words first. With their ids each term is one condition
    /// on one table, and PostgreSQL can begin with the words or with the list, whichever is
    /// cheaper. With two subqueries PostgreSQL would scan all accounts.
    pub async fn look_up(tx: &Tx, query: &str) -> Result<Self> {
        let terms = search::ranges(query).into_iter().map(|range| Term::look_up(tx, range));
        Ok(Self(try_join_all(terms).await?))
    }

    /// Whether there is no term: every account matches.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every term is common. PostgreSQL assumes that accounts with a common word lie evenly
    /// in the list, so it would walk through all of the list to find those at its end.
    fn is_common(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|term| term.common)
    }

    /// The accounts of a list that have a word of each term.
    pub fn filter<'a>(&self, tx: &Tx, list: Rows<'a>, way: Way) -> Rows<'a> {
        self.0.iter().fold(list, |found, term| {
            found.filter(match way {
                Way::Planned => term.planned(tx),
                Way::Probed => term.probed(tx),
                Way::Collected => term.collected(tx),
            })
        })
    }

    /// Returns the page of what the search finds in a list.
    pub async fn page<'a>(
        &self,
        tx: &Tx,
        list: impl Fn() -> Rows<'a>,
        page: &Page,
        total: Total,
    ) -> Result<Listing<Account>> {
        if !self.is_common() {
            return read(tx, self.filter(tx, list(), Way::Planned), page, total).await;
        }
        let walked_to = Place::walked_to(tx, page, list()).await?;
        let walks_all = walked_to.is_none();
        let mut found = self.filter(tx, list(), Way::Probed);
        if let Some(place) = walked_to {
            found = found.filter(place.up_to(page.order()));
        }
        let listing = read(tx, found, page, total).await?;
        if walks_all || !listing.next_page_token.is_empty() {
            return Ok(listing);
        }
        let found = self.filter(tx, list(), Way::Collected);
        // Ids only: then PostgreSQL reads the list from its index.
        let ids: Vec<String> = keyset!(found, page, accounts)
            .select(accounts::account_id)
            .load(&mut tx.conn())
            .await?;
        let rows = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::account_id.eq_any(ids))
            .select(Account::as_select())
            .into_boxed();
        read(tx, rows, page, total).await
    }
}

impl Term {
    async fn look_up(tx: &Tx, (from, to): (String, String)) -> Result<Self> {
        let more = async {
            let next = account_words::table
                .filter(tx.owns(account_words::tenant_id))
                .filter(between(&from, &to))
                .select(account_words::account_id)
                .offset(FEW)
                .limit(1);
            let found: Option<String> = next.get_result(&mut tx.conn()).await.optional()?;
            Ok(found.is_some())
        };
        let (contacts, more) = try_join(Self::contacts(tx, &from, &to), more).await?;
        let common = more || contacts.is_none();
        let contacts = contacts.map(|ids| ids.iter().map(|id| reference_to(id)).collect());
        Ok(Self { from, to, contacts, common })
    }

    /// Returns the primary contacts who have a word in this range; `None` if they are more than
    /// [`NAMED`].
    async fn contacts(tx: &Tx, from: &str, to: &str) -> Result<Option<BTreeSet<String>>> {
        let of_an_account = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::primary_contact_id.eq(person_words::person_id.nullable()));
        let found: Vec<String> = person_words::table
            .filter(tx.owns(person_words::tenant_id))
            .filter(person_words::word.ge(from).and(person_words::word.lt(to)))
            .filter(exists(of_an_account))
            .limit(NAMED + 1)
            .select(person_words::person_id)
            .load(&mut tx.conn())
            .await?;
        Ok(i64::try_from(found.len())
            .is_ok_and(|count| count <= NAMED)
            .then(|| found.into_iter().collect()))
    }

    /// Returns the condition that a word of the account, or of the person who is its primary
    /// contact, begins with the term. PostgreSQL plans how to test it.
    fn planned(&self, tx: &Tx) -> Condition<accounts::table> {
        match &self.contacts {
            Some(contacts) => {
                Box::new(accounts::account_id.eq_any(self.account_ids(tx, contacts.clone())))
            }
            None => self.probed(tx),
        }
    }

    /// Returns the condition of [`Self::planned`] in a form that PostgreSQL tests for each account:
    /// it makes no join of a subquery with OFFSET.
    fn probed(&self, tx: &Tx) -> Condition<accounts::table> {
        let own = account_words::table
            .filter(tx.owns(account_words::tenant_id))
            .filter(account_words::account_id.eq(accounts::account_id));
        let word = between(&self.from, &self.to);
        match &self.contacts {
            Some(contacts) if contacts.is_empty() => Box::new(exists(own.filter(word).offset(0))),
            Some(contacts) => {
                let word = word.or(account_words::word.eq_any(contacts.clone()));
                Box::new(exists(own.filter(word).offset(0)))
            }
            None => {
                let contact = person_words::table
                    .filter(tx.owns(person_words::tenant_id))
                    .filter(person_words::person_id.nullable().eq(accounts::primary_contact_id))
                    .filter(person_words::word.ge(self.from.clone()))
                    .filter(person_words::word.lt(self.to.clone()));
                Box::new(exists(own.filter(word).offset(0)).or(exists(contact.offset(0))))
            }
        }
    }

    /// Returns the condition of [`Self::planned`] in a form whose subquery PostgreSQL runs once: it
    /// has OFFSET or UNION, so PostgreSQL does not test it for each account.
    fn collected(&self, tx: &Tx) -> Condition<accounts::table> {
        if let Some(contacts) = &self.contacts {
            let found = self.account_ids(tx, contacts.clone()).offset(0);
            return Box::new(accounts::account_id.eq_any(found));
        }
        let people = person_words::table
            .filter(tx.owns(person_words::tenant_id))
            .filter(person_words::word.ge(self.from.clone()))
            .filter(person_words::word.lt(self.to.clone()))
            .select(person_words::person_id.nullable());
        let theirs = diesel::alias!(accounts as theirs);
        let of_contacts = theirs
            .filter(tx.owns(theirs.field(accounts::tenant_id)))
            .filter(theirs.field(accounts::primary_contact_id).eq_any(people))
            .select(theirs.field(accounts::account_id));
        let own = self.account_ids(tx, Vec::new());
        Box::new(accounts::account_id.eq_any(own.union(of_contacts)))
    }

    /// The accounts with such a word or one of these references.
    fn account_ids(
        &self,
        tx: &Tx,
        contacts: Vec<String>,
    ) -> account_words::BoxedQuery<'static, Pg, Text> {
        let words = account_words::table
            .filter(tx.owns(account_words::tenant_id))
            .select(account_words::account_id)
            .into_boxed();
        let word = between(&self.from, &self.to);
        if contacts.is_empty() {
            words.filter(word)
        } else {
            words.filter(word.or(account_words::word.eq_any(contacts)))
        }
    }
}

/// The condition that a word of an account is in this range.
fn between(
    from: &str,
    to: &str,
) -> And<GtEq<account_words::word, String>, Lt<account_words::word, String>> {
    account_words::word.ge(from.to_owned()).and(account_words::word.lt(to.to_owned()))
}

/// A query of accounts.
pub type Rows<'a> = accounts::BoxedQuery<'a, Pg, SqlTypeOf<AsSelect<Account, Pg>>>;

async fn read(tx: &Tx, rows: Rows<'_>, page: &Page, total: Total) -> Result<Listing<Account>> {
    let rows = keyset!(rows, page, accounts).load_stream::<Account>(&mut tx.conn()).await?;
    page.read(tx, total, rows).await
}

/// Where an account lies in the list.
#[derive(Debug)]
enum Place {
    /// In a list by name.
    Name(String, String),
    /// In a list by a time.
    Time(DateTime<Utc>, String),
    /// In a list by status and name.
    Status(Status, String, String),
}

impl Place {
    /// Returns the place of the last account that the search for a page tests before it collects;
    /// `None` if the list ends before.
    async fn walked_to(tx: &Tx, page: &Page, list: Rows<'_>) -> Result<Option<Self>> {
        let walked = WALKED.max(WALKED_PER_ROW * page.limit());
        let end = keyset!(list, page, accounts).limit(1).offset(walked - 1);
        let mut conn = tx.conn();
        let place = match page.order().by {
            By::CreateTime => end
                .select((accounts::create_time, accounts::account_id))
                .get_result(&mut conn)
                .await
                .map(|(time, id)| Self::Time(time, id)),
            By::UpdateTime => end
                .select((accounts::update_time, accounts::account_id))
                .get_result(&mut conn)
                .await
                .map(|(time, id)| Self::Time(time, id)),
            By::Status => end
                .select((accounts::status, accounts::sort_key, accounts::account_id))
                .get_result(&mut conn)
                .await
                .map(|(status, name, id)| Self::Status(status, name, id)),
            _ => end
                .select((accounts::sort_key, accounts::account_id))
                .get_result(&mut conn)
                .await
                .map(|(name, id)| Self::Name(name, id)),
        };
        Ok(place.optional()?)
    }

    /// The condition that an account is not behind this place.
    fn up_to(self, order: Order) -> Condition<accounts::table> {
        macro_rules! until {
            ($key:expr, $types:ty, $place:expr) => {{
                let key = $key.into_sql::<Record<$types>>();
                if order.descending { Box::new(key.ge($place)) } else { Box::new(key.le($place)) }
            }};
        }
        match self {
            Self::Time(time, id) if order.by == By::UpdateTime => {
                let key = (accounts::update_time, accounts::account_id);
                until!(key, (Timestamptz, Text), (time, id))
            }
            Self::Time(time, id) => {
                let key = (accounts::create_time, accounts::account_id);
                until!(key, (Timestamptz, Text), (time, id))
            }
            Self::Status(status, name, id) => {
                let key = (accounts::status, accounts::sort_key, accounts::account_id);
                until!(key, (Text, Text, Text), (status, name, id))
            }
            Self::Name(name, id) => {
                until!((accounts::sort_key, accounts::account_id), (Text, Text), (name, id))
            }
        }
    }
}
