//! Converts portfolios between messages of the contract and rows.

use std::collections::BTreeMap;

use super::{
    items::{Item, ItemState, Items},
    list::Filter,
    store::{Contents, Fields, NewPortfolio, Portfolio, Row},
};
use crate::{
    accounts::scope::Scope,
    change::Update,
    enums::contract_enum,
    error::Result,
    mask::Elsewhere,
    proto::{self, PortfolioItemState},
    search, text,
    validate::Violations,
    wire::{etag, timestamp},
};

/// The immutable fields.
pub const ELSEWHERE: &Elsewhere =
    &[("account_id", "cannot be changed: a portfolio stays with its account")];

const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 2000;
const MAX_CODE: usize = 50;
const MAX_ITEM_DESCRIPTION: usize = 1000;

impl Contents {
    fn parse(v: &mut Violations, wanted: proto::Portfolio) -> Self {
        let display_name = v.required_line("portfolio.display_name", wanted.display_name, MAX_NAME);
        let fields = Fields {
            sort_key: search::fold(&display_name),
            display_name,
            description: v.text("portfolio.description", wanted.description, MAX_DESCRIPTION),
        };
        Self { fields, items: Items::parse(v, wanted.items) }
    }
}

impl Items {
    /// Parses items. Each code can appear once, without regard to case.
    fn parse(v: &mut Violations, wanted: Vec<proto::PortfolioItem>) -> Self {
        let mut seen = BTreeMap::new();
        let mut items = Vec::new();
        for (i, item) in wanted.into_iter().enumerate() {
            let at = |field: &str| format!("portfolio.items[{i}].{field}");
            let code = v.label(at("code"), item.code, MAX_CODE);
            if let Some(first) = seen.get(&text::caseless(&code)) {
                v.add(at("code"), format!("is the code of items[{first}]"));
            } else if !code.is_empty() {
                seen.insert(text::caseless(&code), i);
            }
            items.push(Item {
                code,
                display_name: v.required_line(at("display_name"), item.display_name, MAX_NAME),
                description: v.text(at("description"), item.description, MAX_ITEM_DESCRIPTION),
                state: ItemState::parse(v, at("state"), item.state).unwrap_or(ItemState::Active),
            });
        }
        Self(items)
    }
}

impl NewPortfolio {
    /// Parses a create request.
    pub fn parse(v: &mut Violations, request: proto::CreatePortfolioRequest) -> Self {
        let mut wanted = v.message("portfolio", request.portfolio);
        let id = std::mem::take(&mut wanted.portfolio_id);
        let account_id = std::mem::take(&mut wanted.account_id);
        Self {
            portfolio_id: v.new_id("portfolio.portfolio_id", id, "port"),
            account_id: v.id("portfolio.account_id", account_id),
            contents: Contents::parse(v, wanted),
        }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListPortfoliosRequest) -> Self {
        let item_states = (0..).zip(request.item_states).filter_map(|(i, number)| {
            let field = format!("item_states[{i}]");
            if number == 0 {
                v.add(&field, "must not be PORTFOLIO_ITEM_STATE_UNSPECIFIED");
            }
            ItemState::parse(v, field, number)
        });
        let item_states = item_states.collect();
        let code = v.line("item_code", request.item_code, MAX_CODE);
        Self {
            item_states,
            code_key: (!code.is_empty()).then(|| text::caseless(&code)),
            query: v.query("query", request.query),
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
        }
    }
}

impl Update<proto::Portfolio> {
    /// Returns the contents that the update leads to.
    pub fn contents(&self, current: &Portfolio) -> Result<Contents> {
        let mut draft = self.apply(current)?;
        let contents = draft.parse(Contents::parse)?;
        draft.finish(contents)
    }
}

contract_enum!(ItemState = PortfolioItemState { Planned, Active, Retired });

/// Without items, as lists have it.
impl From<Row> for proto::Portfolio {
    fn from(row: Row) -> Self {
        Self {
            etag: etag(row.create_time, row.revision),
            portfolio_id: row.portfolio_id,
            account_id: row.account_id,
            display_name: row.fields.display_name,
            description: row.fields.description,
            items: Vec::new(),
            item_count: row.item_count,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

impl From<Portfolio> for proto::Portfolio {
    fn from(Portfolio { row, items }: Portfolio) -> Self {
        let item = |item: Item| proto::PortfolioItem {
            code: item.code,
            display_name: item.display_name,
            description: item.description,
            state: item.state.into(),
        };
        Self { items: items.0.into_iter().map(item).collect(), ..row.into() }
    }
}
