//! The words that searches of portfolios find them by, and what else depends on the folding.

use std::collections::BTreeMap;

use diesel::{prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{
    items::{Item, Items},
    store::{Portfolio, Row},
};
use crate::{
    db::WriteTx,
    error::Result,
    schema::{portfolio_items, portfolio_words, portfolios},
    search::{self, Batch, FOLDING, FOLDINGS, unnest},
    text,
};

/// Most portfolios that are renewed in one transaction; each has up to 200 items.
const BATCH: i64 = 50;

impl Portfolio {
    /// Replaces the words of the portfolio if the update changed them or another version derived
    /// them.
    pub(super) async fn renew_words(&self, tx: &WriteTx, updated: &Self) -> Result<()> {
        if updated.words() == self.words() && self.folded == search::stamp(self.revision) {
            return Ok(());
        }
        let words = portfolio_words::table
            .filter(tx.owns(portfolio_words::tenant_id))
            .filter(portfolio_words::portfolio_id.eq(&self.portfolio_id));
        diesel::delete(words).execute(&mut tx.conn()).await?;
        updated.insert_words(tx).await
    }

    pub(super) async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        insert(&mut tx.conn(), tx.tenant_id(), std::slice::from_ref(self)).await?;
        Ok(())
    }

    fn words(&self) -> Vec<String> {
        let own = [self.portfolio_id.as_str(), &self.fields.display_name];
        let items = self.items.0.iter().flat_map(|item| [&*item.code, &item.display_name]);
        search::words(own.into_iter().chain(items))
    }

    /// Renews the sort keys, the words and the keys of items of the tenant's next rows, in the
    /// order of ids after `after`. The connection must be the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        let stamp = || portfolios::revision * FOLDINGS + FOLDING;
        let rows: Vec<Row> = portfolios::table
            .filter(portfolios::tenant_id.eq(tenant).and(portfolios::portfolio_id.gt(after)))
            .filter(portfolios::folded.ne(stamp()))
            .order(portfolios::portfolio_id)
            .limit(BATCH)
            .select(Row::as_select())
            .for_update()
            .load(conn)
            .await?;
        let Some(last) = rows.last().map(|row| row.portfolio_id.clone()) else { return Ok(None) };
        let renewed = with_items(conn, tenant, rows).await?;
        let ids: Vec<_> = renewed.iter().map(|portfolio| &*portfolio.portfolio_id).collect();
        let words = portfolio_words::table.filter(portfolio_words::tenant_id.eq(tenant));
        diesel::delete(words.filter(portfolio_words::portfolio_id.eq_any(&ids)))
            .execute(conn)
            .await?;
        insert(&mut &*conn, tenant, &renewed).await?;
        for Portfolio { row, items } in &renewed {
            for Item { code, .. } in &items.0 {
                let own = portfolio_items::portfolio_id.eq(&row.portfolio_id);
                let item = portfolio_items::table.filter(portfolio_items::tenant_id.eq(tenant));
                diesel::update(item.filter(own.and(portfolio_items::code.eq(code))))
                    .set(portfolio_items::code_key.eq(text::caseless(code)))
                    .execute(conn)
                    .await?;
            }
            let own = portfolios::table.filter(portfolios::tenant_id.eq(tenant));
            diesel::update(own.filter(portfolios::portfolio_id.eq(&row.portfolio_id)))
                .set((
                    portfolios::sort_key.eq(search::fold(&row.fields.display_name)),
                    portfolios::folded.eq(stamp()),
                ))
                .execute(conn)
                .await?;
        }
        Ok(Some((renewed.len(), last)))
    }
}

/// Reads the items of these rows.
async fn with_items(
    conn: &mut AsyncPgConnection,
    tenant: &str,
    rows: Vec<Row>,
) -> QueryResult<Vec<Portfolio>> {
    let ids: Vec<_> = rows.iter().map(|row| &*row.portfolio_id).collect();
    let items: Vec<(String, Item)> = portfolio_items::table
        .filter(portfolio_items::tenant_id.eq(tenant))
        .filter(portfolio_items::portfolio_id.eq_any(ids))
        .order((portfolio_items::portfolio_id, portfolio_items::ordinal))
        .select((portfolio_items::portfolio_id, Item::as_select()))
        .load(conn)
        .await?;
    let mut of_each = BTreeMap::<String, Vec<Item>>::new();
    for (id, item) in items {
        of_each.entry(id).or_default().push(item);
    }
    let mut with = |row: Row| {
        let items = Items(of_each.remove(&row.portfolio_id).unwrap_or_default());
        Portfolio { row, items }
    };
    Ok(rows.into_iter().map(&mut with).collect())
}

/// Inserts the words of these portfolios, which have none.
async fn insert(
    conn: &mut &AsyncPgConnection,
    tenant: &str,
    portfolios: &[Portfolio],
) -> QueryResult<usize> {
    let of_each = |portfolio: &Portfolio| {
        let id = portfolio.portfolio_id.clone();
        portfolio.words().into_iter().map(move |word| (id.clone(), word))
    };
    let (ids, words): (Vec<_>, Vec<_>) = portfolios.iter().flat_map(of_each).unzip();
    diesel::insert_into(portfolio_words::table)
        .values(diesel::select((tenant.into_sql::<Text>(), unnest(ids), unnest(words))))
        .into_columns((
            portfolio_words::tenant_id,
            portfolio_words::portfolio_id,
            portfolio_words::word,
        ))
        .execute(conn)
        .await
}
