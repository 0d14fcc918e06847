//! Portfolios in the database.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{items::Items, refusals::PORTFOLIO};
use crate::{
    accounts::store::Account,
    budget::{self, Weighed},
    change::resource,
    db::{AccountRef, BelongsTo, Tx, WriteTx, taken},
    error::Result,
    page::Listed,
    rows::{found_by_id, set_row},
    schema::portfolios,
    search,
};

/// Bytes that a portfolio adds to a response besides its texts.
const ROW: usize = 128;
/// Most portfolios that are deleted with their items by one statement.
const AT_ONCE: usize = 100;

/// A row of `portfolios`: a portfolio without its items.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = portfolios, check_for_backend(diesel::pg::Pg))]
pub struct Row {
    /// Chosen by the caller or generated.
    pub portfolio_id: String,
    /// The account that the portfolio belongs to.
    pub account_id: String,
    /// The incarnation of the account.
    #[serde(skip)]
    pub incarnation: String,
    /// What a caller can change, besides the items.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// How many items the portfolio has.
    #[serde(skip)]
    pub item_count: i32,
    /// Each change increases it; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
    /// Equal to [`search::stamp`] of the revision if this version derived `sort_key`, the words and
    /// the keys of the items.
    #[serde(skip)]
    pub folded: i64,
}

/// The columns that a caller can change.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = portfolios, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read.
    pub display_name: String,
    /// The name without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// What the portfolio is for.
    pub description: String,
}

/// A portfolio with its items.
#[derive(Debug, Clone, Serialize)]
pub struct Portfolio {
    /// Its row.
    #[serde(flatten)]
    pub row: Row,
    /// Its items.
    #[serde(flatten)]
    pub items: Items,
}

impl std::ops::Deref for Portfolio {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.row
    }
}

resource!(Portfolio: PORTFOLIO, portfolio_id, |portfolio| BelongsTo::Account(AccountRef {
    account_id: &portfolio.account_id,
    incarnation: &portfolio.incarnation,
}));

impl Weighed for Row {
    fn weight(&self) -> usize {
        let Fields { display_name, description, .. } = &self.fields;
        ROW + budget::texts([&self.portfolio_id, &self.account_id, display_name, description])
    }
}

impl Listed for Row {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.portfolio_id)
    }
}

/// What a caller can change.
#[derive(Debug)]
pub struct Contents {
    /// The columns of the row.
    pub fields: Fields,
    /// The items.
    pub items: Items,
}

/// A valid portfolio that has not been inserted yet.
#[derive(Debug)]
pub struct NewPortfolio {
    /// Its id.
    pub portfolio_id: String,
    /// Its account.
    pub account_id: String,
    /// The rest.
    pub contents: Contents,
}

impl NewPortfolio {
    /// Inserts the portfolio with its items and words.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Portfolio> {
        let account = Account::find_and_keep(tx, &self.account_id).await?;
        let (id, Contents { fields, items }) = (&*self.portfolio_id, &self.contents);
        let row = diesel::insert_into(portfolios::table)
            .values((
                tx.owns(portfolios::tenant_id),
                portfolios::portfolio_id.eq(id),
                portfolios::account_id.eq(&account.account_id),
                portfolios::incarnation.eq(&account.incarnation),
                fields,
                portfolios::item_count.eq(items.count()),
                portfolios::folded.eq(search::stamp(1)),
            ))
            .returning(Row::as_returning())
            .get_result(&mut tx.conn())
            .await
            .map_err(|error| {
                taken(error, &PORTFOLIO, &[("portfolios_pkey", "portfolio_id", id)])
            })?;
        let created = Portfolio { row, items: items.clone() };
        items.insert(tx, id).await?;
        created.insert_words(tx).await?;
        tx.created(&created)?;
        Ok(created)
    }
}

found_by_id!(
    Row: PORTFOLIO,
    (portfolios.portfolio_id, portfolios_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    find_for_update: for_update
);

impl Portfolio {
    /// Returns the portfolio with this id.
    pub async fn find(tx: &Tx, portfolio_id: &str) -> Result<Self> {
        Self::of(tx, Row::find(tx, portfolio_id).await?).await
    }

    /// Returns the portfolio with this id. Locks its row FOR UPDATE; items change only under this
    /// lock.
    pub async fn find_for_update(tx: &WriteTx, portfolio_id: &str) -> Result<Self> {
        Self::of(tx, Row::find_for_update(tx, portfolio_id).await?).await
    }

    async fn of(tx: &Tx, row: Row) -> Result<Self> {
        let items = Items::find(tx, &row.portfolio_id).await?;
        Ok(Self { row, items })
    }

    /// Sets the contents of the portfolio; equal contents change nothing. The caller must hold the
    /// row FOR UPDATE.
    pub async fn update(self, tx: &WriteTx, contents: &Contents) -> Result<Self> {
        let Contents { fields, items } = contents;
        if self.fields == *fields && self.items == *items {
            return Ok(self);
        }
        let columns = (
            fields,
            portfolios::item_count.eq(items.count()),
            portfolios::folded.eq(search::stamp(self.revision + 1)),
        );
        let row = set_row!(tx, Row: portfolios.portfolio_id(&self.portfolio_id), columns).await?;
        let updated = Self { row, items: items.clone() };
        if self.items != *items {
            Items::remove_all(tx, &self.portfolio_id).await?;
            items.insert(tx, &self.portfolio_id).await?;
        }
        self.renew_words(tx, &updated).await?;
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the portfolio with its items. The caller must hold the row FOR UPDATE.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        Items::remove_all(tx, &self.portfolio_id).await?;
        diesel::delete(portfolios::table.filter(tx.owns(portfolios::tenant_id)))
            .filter(portfolios::portfolio_id.eq(&self.portfolio_id))
            .execute(&mut tx.conn())
            .await?;
        tx.deleted(&self)
    }

    /// Deletes the portfolios of an account and records each. The caller must hold the account FOR
    /// UPDATE.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<()> {
        let rows: Vec<Row> = portfolios::table
            .filter(tx.owns(portfolios::tenant_id))
            .filter(portfolios::account_id.eq(account_id))
            .order(portfolios::portfolio_id)
            .select(Row::as_select())
            .for_update()
            .load(&mut tx.conn())
            .await?;
        for rows in rows.chunks(AT_ONCE) {
            let ids: Vec<_> = rows.iter().map(|row| &*row.portfolio_id).collect();
            let mut items = Items::take_all(tx, &ids).await?;
            diesel::delete(portfolios::table.filter(tx.owns(portfolios::tenant_id)))
                .filter(portfolios::portfolio_id.eq_any(ids))
                .execute(&mut tx.conn())
                .await?;
            for row in rows {
                let items = items.remove(&row.portfolio_id).unwrap_or_default();
                tx.deleted(&Self { row: row.clone(), items })?;
            }
        }
        Ok(())
    }
}
