//! Lists of orders.

use diesel::{
    prelude::*,
    sql_types::{Text, Timestamptz},
};
use diesel_async::RunQueryDsl;

use super::{Order, OrderState};
use crate::{
    accounts::scope::Scope,
    contracts::store::Contract,
    db::Tx,
    error::Result,
    page::{By, Listing, Page, behind, total},
    schema::orders,
    validate::Period,
};

/// Which orders a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose orders.
    pub scope: Scope,
    /// Only orders of this person.
    pub purchaser_id: Option<String>,
    /// Only orders in one of these states; empty for all.
    pub states: Vec<OrderState>,
    /// Only orders under this contract.
    pub contract_id: Option<String>,
    /// Only orders of this period.
    pub period: Period,
}

impl Order {
    /// Returns one page of orders.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        Contract::require_named(tx, filter.contract_id.as_deref()).await?;
        let filtered = |period: Period| {
            let mut query = orders::table
                .filter(tx.owns(orders::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if let Some(account_ids) = covered.account_ids(tx) {
                query = query.filter(orders::account_id.eq_any(account_ids));
            }
            if let Some(account_id) = &filter.scope.account_id {
                query = query.filter(orders::account_id.eq(account_id));
            }
            if let Some(person_id) = &filter.purchaser_id {
                query = query.filter(orders::purchaser_id.assume_not_null().eq(person_id));
            }
            if let Some(contract_id) = &filter.contract_id {
                query = query.filter(orders::contract_id.assume_not_null().eq(contract_id));
            }
            query = match &*filter.states {
                [] => query,
                [state] => query.filter(orders::state.eq(*state)),
                states => query.filter(orders::state.eq_any(states)),
            };
            if let Some(start) = period.start {
                query = query.filter(orders::order_time.ge(start));
            }
            if let Some(end) = period.end {
                query = query.filter(orders::order_time.lt(end));
            }
            query
        };
        let total = total!(tx, page, filtered(filter.period));
        let rest = page.rest_of(filter.period, By::OrderTime);
        let rows = behind!(filtered(rest), page, page.after_time()?,
            (orders::order_time, orders::order_id): (Timestamptz, Text));
        page.read(tx, total, rows.load_stream::<Self>(&mut tx.conn()).await?).await
    }
}
