//! Lists and searches of contracts. The state is found by conditions on what is stored. The dates
//! of terms move with today and are in no index: a list by them reads the dates of the contracts in
//! force, derives the rest, keeps what the page shows, and then reads the rows of its page.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    dsl::not,
    pg::Pg,
    prelude::*,
    sql_types::{Array, Text},
};
use diesel_async::RunQueryDsl;
use futures_util::TryStreamExt as _;

use super::{
    store::{Contract, OnDay, position},
    terms::{Stage, State, Terms},
};
use crate::{
    accounts::scope::{Covered, Scope},
    db::{Condition, Tx},
    error::Result,
    page::{By, Listing, Page, Total, keyset, total},
    schema::{contract_words, contracts},
    search,
};

diesel::define_sql_function! {
    /// The place of an element in an array.
    fn array_position(elements: Array<Text>, element: Text) -> Nullable<Integer>;
}

/// Which contracts a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose contracts.
    pub scope: Scope,
    /// Only contracts in one of these states today; empty for all.
    pub states: Vec<State>,
    /// Search terms; empty for all.
    pub query: String,
    /// Only contracts that renew (`true`), or only others (`false`).
    pub auto_renewal: Option<bool>,
    /// Only contracts in force whose term ends on one of these days.
    pub term_end: Days,
    /// Only contracts in force whose next deadline is one of these days.
    pub deadline: Days,
}

/// Days from one to another, both included. Without a bound they are open on that side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Days {
    /// The first day.
    pub from: Option<NaiveDate>,
    /// The last day.
    pub until: Option<NaiveDate>,
}

impl Days {
    const fn is_set(self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    /// Whether a date is one of the days. An absent date is none of them, if there is a bound.
    fn contain(self, date: Option<NaiveDate>) -> bool {
        !self.is_set()
            || date.is_some_and(|date| {
                self.from.is_none_or(|from| from <= date)
                    && self.until.is_none_or(|until| date <= until)
            })
    }
}

/// What decides whether and where a contract is in a list by dates.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = contracts, check_for_backend(Pg))]
struct Dated {
    contract_id: String,
    sort_key: String,
    create_time: DateTime<Utc>,
    #[diesel(embed)]
    terms: Terms,
}

type Query = contracts::BoxedQuery<'static, Pg>;

impl Filter {
    /// The rows that match everything but the days.
    fn rows(&self, tx: &Tx, covered: &Covered<'_>, today: NaiveDate) -> Query {
        let mut query = contracts::table.filter(tx.owns(contracts::tenant_id)).into_boxed();
        if let Some(account_id) = self.scope.account_id.clone() {
            query = query.filter(contracts::account_id.eq(account_id));
        }
        if let Some(accounts) = covered.account_ids(tx) {
            query = query.filter(contracts::account_id.eq_any(accounts));
        }
        for (from, to) in search::ranges(&self.query) {
            let found = contract_words::table
                .filter(tx.owns(contract_words::tenant_id))
                .filter(contract_words::word.ge(from).and(contract_words::word.lt(to)))
                .select(contract_words::contract_id);
            query = query.filter(contracts::contract_id.eq_any(found));
        }
        match self.auto_renewal {
            Some(true) => query = query.filter(contracts::renewal_months.is_not_null()),
            Some(false) => query = query.filter(contracts::renewal_months.is_null()),
            None => {}
        }
        let states = self.states.iter().map(|state| in_state(*state, today));
        match states.reduce(|one, other| Box::new(one.or(other))) {
            Some(condition) => query.filter(condition),
            None => query,
        }
    }

    /// Whether the contract is in a list by this order on this day, and its place there.
    fn place(&self, by: By, row: &Dated, today: NaiveDate) -> Option<(String, String)> {
        let derived = row.terms.on(today);
        let listed = matches!(derived.state, State::Scheduled | State::Active)
            && self.term_end.contain(derived.term_end)
            && self.deadline.contain(derived.deadline);
        let value = position(by, &row.sort_key, row.create_time, &derived)?;
        listed.then(|| (value, row.contract_id.clone()))
    }
}

/// The contracts that are in this state on this day.
pub fn in_state(state: State, today: NaiveDate) -> Condition<contracts::table> {
    let at = |stage: Stage| contracts::stage.eq(stage);
    let begun = contracts::start_date.assume_not_null().le(today);
    let ended =
        contracts::last_date.is_not_null().and(contracts::last_date.assume_not_null().lt(today));
    match state {
        State::Draft => Box::new(at(Stage::Draft)),
        State::InApproval => Box::new(at(Stage::InApproval)),
        State::Scheduled => Box::new(at(Stage::Approved).and(not(begun)).and(not(ended))),
        State::Active => Box::new(at(Stage::Approved).and(begun).and(not(ended))),
        State::Expired => Box::new(at(Stage::Approved).and(ended)),
        State::Terminated => Box::new(at(Stage::Terminated)),
        State::Void => Box::new(at(Stage::Void)),
    }
}

impl Contract {
    /// Returns one page of contracts, as they are today.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<OnDay>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        let today = tx.today().await?;
        let by = page.order().by;
        let by_deadline = by == By::NoticeDeadlineDate || filter.deadline.is_set();
        let rows = || filter.rows(tx, &covered, today);
        if by_deadline || by == By::TermEndDate || filter.term_end.is_set() {
            let approved = rows().filter(contracts::stage.eq(Stage::Approved));
            let in_force = if by_deadline {
                // Of those that renew, the ones without a last day have not been cancelled.
                approved
                    .filter(contracts::renewal_months.is_not_null())
                    .filter(contracts::last_date.is_null())
            } else {
                let last = contracts::last_date;
                let lasts: Condition<contracts::table> =
                    Box::new(last.is_null().or(last.assume_not_null().ge(today)));
                approved.filter(contracts::end_date.is_not_null()).filter(lasts)
            };
            return Self::list_by_dates(tx, in_force, filter, page, today).await;
        }
        let selected = || rows().select(Self::as_select());
        let total = total!(tx, page, selected());
        let rows = keyset!(selected(), page, contracts(sort_key, contract_id))
            .load_stream::<Self>(&mut tx.conn())
            .await?;
        page.read(tx, total, rows.map_ok(|row| OnDay(row, today))).await
    }

    /// Returns one page of those of the contracts that match the days of the filter.
    async fn list_by_dates(
        tx: &Tx,
        in_force: Query,
        filter: &Filter,
        page: &Page,
        today: NaiveDate,
    ) -> Result<Listing<OnDay>> {
        let order = page.order();
        let behind = |place: &(String, String)| match page.after_name() {
            Some(after) if order.descending => *place < after,
            Some(after) => *place > after,
            None => true,
        };
        let limit = usize::try_from(page.limit()).unwrap_or(usize::MAX);
        let (mut listed, mut next) = (0, BTreeSet::new());
        let mut dated =
            in_force.select(Dated::as_select()).load_stream::<Dated>(&mut tx.conn()).await?;
        while let Some(row) = dated.try_next().await? {
            let Some(place) = filter.place(order.by, &row, today) else { continue };
            listed += 1;
            if behind(&place) {
                next.insert(place);
            }
            if next.len() > limit {
                let _ = if order.descending { next.pop_first() } else { next.pop_last() };
            }
        }
        drop(dated);
        let total = if page.counts() { Total::default().plus(listed) } else { Total::default() };
        let mut ids: Vec<_> = next.into_iter().map(|(_, id)| id).collect();
        if order.descending {
            ids.reverse();
        }
        let rows = contracts::table
            .filter(tx.owns(contracts::tenant_id))
            .filter(contracts::contract_id.eq_any(ids.clone()))
            .order(array_position(ids, contracts::contract_id))
            .select(Self::as_select())
            .load_stream::<Self>(&mut tx.conn())
            .await?;
        page.read(tx, total, rows.map_ok(|row| OnDay(row, today))).await
    }
}
