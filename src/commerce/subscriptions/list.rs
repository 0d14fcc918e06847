//! Lists of subscriptions. The state follows from the times, so it is found by conditions on these.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::not,
    prelude::*,
    sql_types::{Text, Timestamptz},
};
use diesel_async::RunQueryDsl;

use super::{At, Subscription};
use crate::{
    accounts::scope::Scope,
    commerce::revenue::State,
    contracts::store::Contract,
    db::{Condition, Tx},
    error::Result,
    page::{Listing, Page, behind, total},
    schema::subscriptions,
};

/// Which subscriptions a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose subscriptions.
    pub scope: Scope,
    /// Only subscriptions in one of these states now; empty for all.
    pub states: Vec<State>,
    /// Only subscriptions that name this contract.
    pub contract_id: Option<String>,
    /// Only subscriptions with this code; empty for all.
    pub product_code: String,
    /// Only subscriptions in this currency; empty for all.
    pub currency_code: String,
}

/// The subscriptions that have been cancelled and have ended, or never start.
fn cancelled(at: DateTime<Utc>) -> Condition<subscriptions::table> {
    let end = subscriptions::end_time.assume_not_null();
    let over = end.le(at).or(end.le(subscriptions::start_time));
    Box::new(subscriptions::cancel_end_time.is_not_null().and(over))
}

/// The subscriptions that end after an instant.
fn lasting(at: DateTime<Utc>) -> Condition<subscriptions::table> {
    let end = subscriptions::end_time;
    Box::new(end.is_null().or(end.assume_not_null().gt(at)))
}

/// The subscriptions that have started and not ended at an instant.
pub fn in_force(at: DateTime<Utc>) -> Condition<subscriptions::table> {
    Box::new(subscriptions::start_time.le(at).and(lasting(at)))
}

/// The subscriptions that are SCHEDULED, TRIAL, ACTIVE or PAUSED.
pub fn running(at: DateTime<Utc>) -> Condition<subscriptions::table> {
    Box::new(in_force(at).or(in_state(State::Scheduled, at)))
}

/// The subscriptions that are in this state at an instant, as `Life::state` says.
pub fn in_state(state: State, at: DateTime<Utc>) -> Condition<subscriptions::table> {
    let trial_end = subscriptions::trial_end_time;
    let in_trial = trial_end.assume_not_null().gt(at);
    match state {
        State::Scheduled => Box::new(
            subscriptions::start_time.gt(at).and(lasting(at)).and(
                subscriptions::cancel_end_time
                    .is_null()
                    .or(subscriptions::end_time.assume_not_null().gt(subscriptions::start_time)),
            ),
        ),
        State::Trial => Box::new(in_force(at).and(not(subscriptions::paused)).and(in_trial)),
        State::Active => Box::new(
            in_force(at)
                .and(not(subscriptions::paused))
                .and(trial_end.is_null().or(trial_end.assume_not_null().le(at))),
        ),
        State::Paused => Box::new(in_force(at).and(subscriptions::paused)),
        State::Ended => Box::new(
            subscriptions::end_time
                .assume_not_null()
                .le(at)
                .and(subscriptions::cancel_end_time.is_null()),
        ),
        State::Cancelled => cancelled(at),
    }
}

impl Subscription {
    /// Returns one page of subscriptions, as they are now.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<At>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        Contract::require_named(tx, filter.contract_id.as_deref()).await?;
        let now = tx.now().await?;
        let filtered = || {
            let mut query = subscriptions::table
                .filter(tx.owns(subscriptions::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if let Some(account_ids) = covered.account_ids(tx) {
                query = query.filter(subscriptions::account_id.eq_any(account_ids));
            }
            if let Some(account_id) = &filter.scope.account_id {
                query = query.filter(subscriptions::account_id.eq(account_id));
            }
            if let Some(contract_id) = &filter.contract_id {
                query = query.filter(subscriptions::contract_id.assume_not_null().eq(contract_id));
            }
            if !filter.product_code.is_empty() {
                query = query.filter(subscriptions::product_code.eq(&filter.product_code));
            }
            if !filter.currency_code.is_empty() {
                query = query.filter(subscriptions::currency_code.eq(&filter.currency_code));
            }
            let states = filter.states.iter().map(|state| in_state(*state, now));
            match states.reduce(|one, other| Box::new(one.or(other))) {
                Some(condition) => query.filter(condition),
                None => query,
            }
        };
        let total = total!(tx, page, filtered());
        let rows = behind!(filtered(), page, page.after_time()?,
            (subscriptions::create_time, subscriptions::subscription_id): (Timestamptz, Text));
        let rows = rows.load_stream::<Self>(&mut tx.conn()).await?;
        let Listing { rows, next_page_token, total } = page.read(tx, total, rows).await?;
        let rows = rows.into_iter().map(|row| At(row, now)).collect();
        Ok(Listing { rows, next_page_token, total })
    }
}
