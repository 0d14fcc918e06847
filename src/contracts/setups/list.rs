//! Lists of delivery setups, and the states of their contracts.

use std::collections::HashMap;

use diesel::{
    prelude::*,
    sql_types::{Text, Timestamptz},
};
use diesel_async::RunQueryDsl;

use super::{DeliverySetup, SetupState, Shown};
use crate::{
    accounts::scope::Scope,
    contracts::{store::Contract, terms::Terms},
    db::Tx,
    error::Result,
    page::{Listing, Page, behind, total},
    schema::{contracts, delivery_setups},
};

/// Which delivery setups a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whose setups.
    pub scope: Scope,
    /// Only setups under this contract.
    pub contract_id: Option<String>,
    /// Only setups of this project.
    pub project_id: Option<String>,
    /// Only setups in one of these states; empty for all.
    pub states: Vec<SetupState>,
}

impl DeliverySetup {
    /// Returns one page of delivery setups.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Shown>> {
        let Some(covered) = filter.scope.cover(tx).await? else { return Ok(Listing::default()) };
        Contract::require_named(tx, filter.contract_id.as_deref()).await?;
        let filtered = || {
            let mut query = delivery_setups::table
                .filter(tx.owns(delivery_setups::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if let Some(account_id) = &filter.scope.account_id {
                query = query.filter(delivery_setups::account_id.eq(account_id));
            }
            if let Some(accounts) = covered.account_ids(tx) {
                query = query.filter(delivery_setups::account_id.eq_any(accounts));
            }
            if let Some(contract_id) = &filter.contract_id {
                query = query.filter(delivery_setups::contract_id.eq(contract_id));
            }
            if let Some(project_id) = &filter.project_id {
                query = query.filter(delivery_setups::project_id.eq(project_id));
            }
            if !filter.states.is_empty() {
                query = query.filter(delivery_setups::state.eq_any(&filter.states));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = behind!(filtered(), page, page.after_time()?,
            (delivery_setups::create_time, delivery_setups::delivery_setup_id):
            (Timestamptz, Text));
        let rows = query.load_stream::<Self>(&mut tx.conn()).await?;
        let Listing { rows, next_page_token, total } = page.read(tx, total, rows).await?;
        Ok(Listing { rows: show(tx, rows).await?, next_page_token, total })
    }
}

/// Adds to each setup the state of its contract today.
pub(super) async fn show(tx: &Tx, setups: Vec<DeliverySetup>) -> Result<Vec<Shown>> {
    let ids: Vec<_> = setups.iter().map(|setup| setup.contract_id.clone()).collect();
    let terms: HashMap<String, Terms> = contracts::table
        .filter(tx.owns(contracts::tenant_id))
        .filter(contracts::contract_id.eq_any(ids))
        .select((contracts::contract_id, Terms::as_select()))
        .load::<(String, Terms)>(&mut tx.conn())
        .await?
        .into_iter()
        .collect();
    let today = tx.today().await?;
    let shown = setups.into_iter().filter_map(|setup| {
        let state = terms.get(&setup.contract_id)?.state(today);
        Some(Shown(setup, state))
    });
    Ok(shown.collect())
}
