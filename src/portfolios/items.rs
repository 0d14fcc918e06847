//! The items of portfolios, in a table of their own.

use std::collections::HashMap;

use diesel::{
    prelude::*,
    sql_types::{Integer, Text},
};
use diesel_async::RunQueryDsl;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::{
    db::{Tx, WriteTx},
    enums::text_enum,
    error::Result,
    schema::portfolio_items,
    search::unnest,
    text,
};

text_enum! {
    /// Where a service is in its life.
    pub enum ItemState {
        /// Not offered yet.
        Planned = "PLANNED",
        /// Offered.
        Active = "ACTIVE",
        /// No longer offered.
        Retired = "RETIRED",
    }
}

/// An item of a portfolio.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = portfolio_items, check_for_backend(diesel::pg::Pg))]
pub struct Item {
    /// The caller's code, unique in the portfolio without regard to case.
    pub code: String,
    /// Name that people read.
    pub display_name: String,
    /// What the service is.
    pub description: String,
    /// Where the service is in its life.
    pub state: ItemState,
}

/// The items of a portfolio in their order. The trail has each field of each item as
/// `items[CODE].state`, so that it shows who has retired a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Items(pub Vec<Item>);

impl Serialize for Items {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_map(None)?;
        if !self.0.is_empty() {
            let codes: Vec<_> = self.0.iter().map(|item| &item.code).collect();
            fields.serialize_entry("items", &codes)?;
        }
        for Item { code, display_name, description, state } in &self.0 {
            fields.serialize_entry(&format!("items[{code}].display_name"), display_name)?;
            fields.serialize_entry(&format!("items[{code}].description"), description)?;
            fields.serialize_entry(&format!("items[{code}].state"), state)?;
        }
        fields.end()
    }
}

impl Items {
    /// Returns the items of a portfolio.
    pub async fn find(tx: &Tx, portfolio_id: &str) -> Result<Self> {
        let items = portfolio_items::table
            .filter(tx.owns(portfolio_items::tenant_id))
            .filter(portfolio_items::portfolio_id.eq(portfolio_id))
            .order(portfolio_items::ordinal)
            .select(Item::as_select());
        Ok(Self(items.load(&mut tx.conn()).await?))
    }

    /// Inserts the items of a portfolio. The caller must hold the lock of its row.
    pub async fn insert(&self, tx: &WriteTx, portfolio_id: &str) -> Result<()> {
        let texts = |text: fn(&Item) -> &str| unnest(self.0.iter().map(text).collect::<Vec<_>>());
        let keys: Vec<_> = self.0.iter().map(|item| text::caseless(&item.code)).collect();
        diesel::insert_into(portfolio_items::table)
            .values(diesel::select((
                tx.tenant_id().into_sql::<Text>(),
                portfolio_id.into_sql::<Text>(),
                texts(|item| &item.code),
                unnest(keys),
                unnest::<Integer, _>((0_i32..).zip(&self.0).map(|(at, _)| at).collect::<Vec<_>>()),
                texts(|item| &item.display_name),
                texts(|item| &item.description),
                texts(|item| item.state.name()),
            )))
            .into_columns((
                portfolio_items::tenant_id,
                portfolio_items::portfolio_id,
                portfolio_items::code,
                portfolio_items::code_key,
                portfolio_items::ordinal,
                portfolio_items::display_name,
                portfolio_items::description,
                portfolio_items::state,
            ))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    /// Deletes the items of a portfolio. The caller must hold the lock of its row.
    pub async fn remove_all(tx: &WriteTx, portfolio_id: &str) -> Result<()> {
        let items = portfolio_items::table
            .filter(tx.owns(portfolio_items::tenant_id))
            .filter(portfolio_items::portfolio_id.eq(portfolio_id));
        diesel::delete(items).execute(&mut tx.conn()).await?;
        Ok(())
    }

    /// Deletes the items of portfolios and returns them by portfolio. The caller must hold the rows
    /// of the portfolios.
    pub async fn take_all(tx: &WriteTx, portfolio_ids: &[&str]) -> Result<HashMap<String, Self>> {
        let items = portfolio_items::table
            .filter(tx.owns(portfolio_items::tenant_id))
            .filter(portfolio_items::portfolio_id.eq_any(portfolio_ids));
        let mut taken = diesel::delete(items)
            .returning((portfolio_items::portfolio_id, portfolio_items::ordinal, Item::as_select()))
            .get_results::<(String, i32, Item)>(&mut tx.conn())
            .await?;
        taken.sort_by_key(|(_, ordinal, _)| *ordinal);
        let mut all: HashMap<_, Self> = HashMap::new();
        for (portfolio_id, _, item) in taken {
            all.entry(portfolio_id).or_default().0.push(item);
        }
        Ok(all)
    }

    /// How many items there are.
    pub fn count(&self) -> i32 {
        // The contract has a limit far below.
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}
