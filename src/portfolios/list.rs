//! Lists and searches of portfolios.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{items::ItemState, store::Row};
use crate::{
    accounts::scope::Scope,
    db::Tx,
    error::Result,
    page::{Listing, Page, keyset, total},
    schema::{portfolio_items, portfolio_words, portfolios},
    search,
};

/// Which portfolios a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose portfolios.
    pub scope: Scope,
    /// Search terms; empty for all.
    pub query: String,
    /// Only portfolios with an item in one of these states; empty for all.
    pub item_states: Vec<ItemState>,
    /// Only portfolios with an item whose code has this key.
    pub code_key: Option<String>,
}

impl Row {
    /// Returns one page of portfolios without their items.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        let filtered = || {
            let mut query = portfolios::table
                .filter(tx.owns(portfolios::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if let Some(account_ids) = covered.account_ids(tx) {
                query = query.filter(portfolios::account_id.eq_any(account_ids));
            }
            if let Some(account_id) = &filter.scope.account_id {
                query = query.filter(portfolios::account_id.eq(account_id));
            }
            for (from, to) in search::ranges(&filter.query) {
                let found = portfolio_words::table
                    .filter(tx.owns(portfolio_words::tenant_id))
                    .filter(portfolio_words::word.ge(from).and(portfolio_words::word.lt(to)))
                    .select(portfolio_words::portfolio_id);
                query = query.filter(portfolios::portfolio_id.eq_any(found));
            }
            if filter.code_key.is_some() || !filter.item_states.is_empty() {
                let mut items = portfolio_items::table
                    .filter(tx.owns(portfolio_items::tenant_id))
                    .select(portfolio_items::portfolio_id)
                    .into_boxed();
                if let Some(code_key) = &filter.code_key {
                    items = items.filter(portfolio_items::code_key.eq(code_key));
                }
                if !filter.item_states.is_empty() {
                    items = items.filter(portfolio_items::state.eq_any(&filter.item_states));
                }
                query = query.filter(portfolios::portfolio_id.eq_any(items));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = keyset!(filtered(), page, portfolios(sort_key, portfolio_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }
}
