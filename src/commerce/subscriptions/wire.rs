//! Converts subscriptions between messages of the contract and rows.

use chrono::{DateTime, Utc};

use super::{At, Fields, Outcome, Subscription, Wanted, list::Filter};
use crate::{
    accounts::scope::Scope,
    change::{ById, Versioned as _},
    commerce::{
        revenue::{Interval, Rate, Times, Unit},
        wire,
    },
    currency,
    error::{Error, Result, Violation},
    metadata::Metadata,
    money::{Money, Purpose, TOO_MANY, UNIT},
    proto::{self, IntervalUnit},
    put::Statement,
    validate::Violations,
    wire::timestamp,
};

const MAX_NAME: usize = 200;
const MAX_CODE: usize = 100;
const MAX_QUANTITY: i64 = 10_000_000;
const MAX_COUNT: i32 = 366;
const AMOUNT: &str = "subscription.unit_amount";

impl Fields {
    fn parse(v: &mut Violations, wanted: proto::Subscription) -> Self {
        let price = v.required_money(AMOUNT, wanted.unit_amount, Purpose::Price);
        let quantity = wanted.quantity.unwrap_or(1);
        if !(0..=MAX_QUANTITY).contains(&quantity) {
            v.add("subscription.quantity", format!("must be between 0 and {MAX_QUANTITY}"));
        } else if price.amount.0 * i128::from(quantity) >= i128::from(TOO_MANY) * UNIT {
            v.add(
                "subscription.quantity",
                format!("must be so low that unit_amount times quantity is below {TOO_MANY}"),
            );
        }
        Self {
            display_name: v.required_line(
                "subscription.display_name",
                wanted.display_name,
                MAX_NAME,
            ),
            product_code: v.line("subscription.product_code", wanted.product_code, MAX_CODE),
            unit_amount: price.into(),
            quantity,
            rate: rate(v, wanted.interval, wanted.interval_count, wanted.discount_percent),
            times: times(
                v,
                wanted.start_time,
                wanted.trial_end_time,
                wanted.end_time,
                wanted.paused,
            ),
            contract_id: v.optional_id("subscription.contract_id", wanted.contract_id),
            source_time: v.instant("subscription.source_time", wanted.source_time),
            metadata: Metadata::parse(v, "subscription.metadata", wanted.metadata),
        }
    }
}

fn rate(v: &mut Violations, unit: i32, count: i32, percent: f64) -> Rate {
    if unit == IntervalUnit::Unspecified as i32 {
        v.add("subscription.interval", "is required");
    }
    if !(0..=MAX_COUNT).contains(&count) {
        let rule = format!("must be between 1 and {MAX_COUNT}, or 0 for 1");
        v.add("subscription.interval_count", rule);
    }
    Rate {
        interval: Interval {
            unit: wire::unit(v, "subscription.interval", unit).unwrap_or(Unit::Month),
            count: count.max(1),
        },
        discount: wire::discount(v, "subscription.discount_percent", percent),
    }
}

fn times(
    v: &mut Violations,
    start: Option<prost_types::Timestamp>,
    trial_end: Option<prost_types::Timestamp>,
    end: Option<prost_types::Timestamp>,
    paused: bool,
) -> Times {
    if start.is_none() {
        v.add("subscription.start_time", "is required");
    }
    let start_time = v.instant("subscription.start_time", start).unwrap_or_default();
    let mut later = |field: &str, time| {
        let time = v.instant(field, time);
        if start.is_some() && time.is_some_and(|time| time < start_time) {
            v.add(field, "must not be before start_time");
        }
        time
    };
    let trial_end_time = later("subscription.trial_end_time", trial_end);
    let stated_end_time = later("subscription.end_time", end);
    Times { start_time, trial_end_time, stated_end_time, paused }
}

impl Wanted {
    /// Parses a put request.
    pub fn parse(v: &mut Violations, request: proto::PutSubscriptionRequest) -> Self {
        let mut wanted = v.message("subscription", request.subscription);
        let id = std::mem::take(&mut wanted.subscription_id);
        if id.is_empty() {
            v.add("subscription.subscription_id", "is required");
        }
        let id = v.chosen_id("subscription.subscription_id", id).unwrap_or_default();
        let account_id = std::mem::take(&mut wanted.account_id);
        let account_id = v.id("subscription.account_id", account_id);
        let etag = std::mem::take(&mut wanted.etag);
        let fields = Fields::parse(v, wanted);
        let statement = Statement { id, account_id, etag, source_time: fields.source_time };
        Self { statement, fields }
    }

    /// Returns the fields with a currency, which is the tenant's default unless the price has one.
    pub fn fields(&self, default_currency: Option<&str>) -> Result<Fields> {
        let mut v = Violations::default();
        let mut price = Some(self.fields.unit_amount.get());
        v.currency(AMOUNT, &mut price, Purpose::Price, default_currency);
        let fields = self.fields.clone();
        let unit_amount = price.map_or_else(|| fields.unit_amount.clone(), Money::into);
        v.finish(Fields { unit_amount, ..fields })
    }
}

/// What `CancelSubscription` asks for.
#[derive(Debug)]
pub struct Cancel {
    /// The subscription.
    pub named: ById,
    /// The end; `None` for now.
    pub end: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
}

impl Cancel {
    /// Parses a cancel request.
    pub fn parse(v: &mut Violations, mut request: proto::CancelSubscriptionRequest) -> Self {
        let end = v.instant("end_time", request.end_time);
        let reason = std::mem::take(&mut request.reason);
        let (named, reason) = wire::ending(v, request, reason);
        Self { named, end, reason }
    }
}

/// The end of a cancellation is before the subscription starts.
pub(super) fn before_start() -> Error {
    let rule = "must not be before the start_time of the subscription".into();
    Error::Invalid { violations: vec![Violation { field: "end_time".into(), rule }], count: 1 }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListSubscriptionsRequest) -> Self {
        let states = (0..).zip(request.states).filter_map(|(i, number)| {
            let field = format!("states[{i}]");
            if number == 0 {
                v.add(&field, "must not be SUBSCRIPTION_STATE_UNSPECIFIED");
            }
            wire::state(v, &field, number)
        });
        let states = states.collect();
        let currency_code = request.currency_code;
        if !currency_code.is_empty() && !currency::is_known(&currency_code) {
            v.add("currency_code", crate::money::NO_CODE);
        }
        Self {
            states,
            currency_code,
            contract_id: v.optional_id("contract_id", request.contract_id),
            product_code: v.line("product_code", request.product_code, MAX_CODE),
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
        }
    }
}

impl From<At> for proto::Subscription {
    fn from(At(row, at): At) -> Self {
        let (etag, life) = (row.etag(), row.life());
        let Subscription { subscription_id, account_id, fields, cancellation, .. } = row;
        let Fields { unit_amount, rate, times, .. } = fields;
        Self {
            etag,
            subscription_id,
            account_id,
            display_name: fields.display_name,
            product_code: fields.product_code,
            unit_amount: Some(unit_amount.get().into()),
            quantity: Some(fields.quantity),
            interval: rate.interval.unit.into(),
            interval_count: rate.interval.count,
            start_time: Some(timestamp(times.start_time)),
            trial_end_time: times.trial_end_time.map(timestamp),
            end_time: row.end_time.map(timestamp),
            discount_percent: rate.discount.percent(),
            paused: times.paused,
            contract_id: fields.contract_id.unwrap_or_default(),
            source_time: fields.source_time.map(timestamp),
            state: life.state(at).into(),
            cancel_time: cancellation.time.map(timestamp),
            cancel_reason: cancellation.reason,
            metadata: fields.metadata.0,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

impl From<Outcome> for proto::PutSubscriptionResponse {
    fn from(Outcome { subscription, created, stale }: Outcome) -> Self {
        Self { subscription: Some(subscription.into()), created, stale }
    }
}
