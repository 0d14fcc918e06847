//! Lists and searches of opportunities.

use chrono::NaiveDate;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::store::{Opportunity, State};
use crate::{
    accounts::scope::Scope,
    contracts::store::Contract,
    db::Tx,
    error::Result,
    page::{Listing, Page, keyset, total},
    schema::{opportunities, opportunity_words},
    search,
};

/// Which opportunities a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose opportunities.
    pub scope: Scope,
    /// Search terms; empty for all.
    pub query: String,
    /// Only opportunities in one of these states; empty for all.
    pub states: Vec<State>,
    /// Only opportunities that this contract came of.
    pub contract_id: Option<String>,
    /// Only opportunities expected to close on this day or later.
    pub expected_close_from: Option<NaiveDate>,
    /// Only opportunities expected to close on this day or earlier.
    pub expected_close_until: Option<NaiveDate>,
}

impl Opportunity {
    /// Returns one page of opportunities.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        Contract::require_named(tx, filter.contract_id.as_deref()).await?;
        let filtered = || {
            let mut query = opportunities::table
                .filter(tx.owns(opportunities::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if let Some(account_ids) = covered.account_ids(tx) {
                query = query.filter(opportunities::account_id.eq_any(account_ids));
            }
            if let Some(account_id) = &filter.scope.account_id {
                query = query.filter(opportunities::account_id.eq(account_id));
            }
            if let Some(contract_id) = &filter.contract_id {
                query = query.filter(opportunities::contract_id.assume_not_null().eq(contract_id));
            }
            for (from, to) in search::ranges(&filter.query) {
                let found = opportunity_words::table
                    .filter(tx.owns(opportunity_words::tenant_id))
                    .filter(opportunity_words::word.ge(from).and(opportunity_words::word.lt(to)))
                    .select(opportunity_words::opportunity_id);
                query = query.filter(opportunities::opportunity_id.eq_any(found));
            }
            query = match &*filter.states {
                [] => query,
                // An equality lets PostgreSQL use the order of the index over state and name.
                [state] => query.filter(opportunities::state.eq(*state)),
                states => query.filter(opportunities::state.eq_any(states)),
            };
            let expected = opportunities::expected_close_date.assume_not_null();
            if let Some(from) = filter.expected_close_from {
                query = query.filter(expected.ge(from));
            }
            if let Some(until) = filter.expected_close_until {
                query = query.filter(expected.le(until));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = keyset!(filtered(), page, opportunities(sort_key, opportunity_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }
}
