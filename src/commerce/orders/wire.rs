//! Converts orders between messages of the contract and rows.

use chrono::TimeDelta;

use super::{Facts, NewOrder, Order, OrderState, list::Filter};
use crate::{
    accounts::scope::Scope,
    change::{ById, Versioned as _},
    commerce::wire,
    enums::contract_enum,
    error::{Error, Result},
    metadata::Metadata,
    money::{Money, Purpose},
    proto::{self, OrderState as State},
    validate::Violations,
    wire::timestamp,
};

const MAX_DESCRIPTION: usize = 2000;
const AMOUNT: &str = "order.amount";

/// How far ahead the time of an order may be: as much as clocks differ.
pub(super) const AHEAD: TimeDelta = TimeDelta::minutes(5);

contract_enum!(OrderState = State { Recorded, Cancelled });

impl NewOrder {
    /// Parses a record request.
    pub fn parse(v: &mut Violations, request: proto::RecordOrderRequest) -> Self {
        let purchaser_checked = request.purchaser_checked;
        let is_there = request.order.is_some();
        let wanted = v.message("order", request.order);
        if wanted.order_id.is_empty() {
            v.add("order.order_id", "is required");
        }
        if wanted.purchaser_id.is_empty() && is_there && !purchaser_checked {
            v.add("order.purchaser_id", "is required without purchaser_checked");
        }
        let facts = Facts {
            purchaser_id: v.optional_id("order.purchaser_id", wanted.purchaser_id),
            amount: v.required_money(AMOUNT, wanted.amount, Purpose::Agreed).into(),
            description: v.text("order.description", wanted.description, MAX_DESCRIPTION),
            contract_id: v.optional_id("order.contract_id", wanted.contract_id),
            metadata: Metadata::parse(v, "order.metadata", wanted.metadata),
        };
        Self {
            order_id: v.chosen_id("order.order_id", wanted.order_id).unwrap_or_default(),
            account_id: v.id("order.account_id", wanted.account_id),
            facts,
            order_time: v.instant("order.order_time", wanted.order_time),
            purchaser_checked,
        }
    }

    /// Returns the facts with a currency, which is the tenant's default unless the amount has one.
    pub fn facts(&self, default_currency: Option<&str>) -> Result<Facts> {
        let mut v = Violations::default();
        let mut amount = Some(self.facts.amount.get());
        v.currency(AMOUNT, &mut amount, Purpose::Agreed, default_currency);
        let facts = self.facts.clone();
        let amount = amount.map_or_else(|| facts.amount.clone(), Money::into);
        v.finish(Facts { amount, ..facts })
    }
}

/// The order lies too far in the future.
pub(super) fn too_far_ahead() -> Error {
    let rule = format!("must be at most {} minutes ahead", AHEAD.num_minutes());
    Error::invalid("order.order_time", rule)
}

/// Parses a cancel request: the order, and why.
pub fn cancel(v: &mut Violations, mut request: proto::CancelOrderRequest) -> (ById, String) {
    let reason = std::mem::take(&mut request.reason);
    wire::ending(v, request, reason)
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListOrdersRequest) -> Self {
        let states = (0..).zip(request.states).filter_map(|(i, number)| {
            let field = format!("states[{i}]");
            if number == 0 {
                v.add(&field, "must not be ORDER_STATE_UNSPECIFIED");
            }
            OrderState::parse(v, field, number)
        });
        let states = states.collect();
        Self {
            states,
            purchaser_id: v.optional_id("purchaser_id", request.purchaser_id),
            contract_id: v.optional_id("contract_id", request.contract_id),
            period: v.period("", request.start_time, request.end_time),
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
        }
    }
}

impl From<Order> for proto::Order {
    fn from(row: Order) -> Self {
        let etag = row.etag();
        let Facts { purchaser_id, amount, description, contract_id, metadata } = row.facts;
        Self {
            etag,
            order_id: row.order_id,
            account_id: row.account_id,
            purchaser_id: purchaser_id.unwrap_or_default(),
            amount: Some(amount.get().into()),
            order_time: Some(timestamp(row.order_time)),
            description,
            contract_id: contract_id.unwrap_or_default(),
            state: row.state.into(),
            cancel_time: row.cancel_time.map(timestamp),
            cancel_reason: row.cancel_reason,
            metadata: metadata.0,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}
