//! Converts what subscriptions, orders and revenue share between messages of the contract and rows.

use super::{
    calculate::{Contribution, Revenue, Wanted, Whose},
    revenue::{Discount, Reason, State, Unit},
};
use crate::{
    accounts::scope::Scope,
    change::{ById, Etagged},
    enums::contract_enum,
    money::Money,
    proto::{self, IntervalUnit, RevenueReason, SubscriptionState},
    validate::Violations,
    wire::timestamp,
};

const MAX_REASON: usize = 500;
/// Decimals of a discount in percent.
const DECIMALS: usize = 4;

contract_enum!(State = SubscriptionState { Scheduled, Trial, Active, Paused, Ended, Cancelled });
contract_enum!(Unit = IntervalUnit { Day, Week, Month, Year });

/// Parses the state of a filter.
pub(super) fn state(v: &mut Violations, field: &str, number: i32) -> Option<State> {
    State::parse(v, field, number)
}

/// Parses the unit of an interval.
pub(super) fn unit(v: &mut Violations, field: &str, number: i32) -> Option<Unit> {
    Unit::parse(v, field, number)
}

/// Parses a discount in percent by its shortest decimal; this is the only floating-point number.
pub(super) fn discount(v: &mut Violations, field: &str, percent: f64) -> Discount {
    if !(0.0..=100.0).contains(&percent) {
        v.add(field, "must be between 0 and 100 percent");
        return Discount::default();
    }
    // Minus zero is zero.
    let text = (percent + 0.0).to_string();
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    if decimals.len() > DECIMALS {
        v.add(field, format!("must have at most {DECIMALS} decimals"));
        return Discount::default();
    }
    let millionths = format!("{whole}{decimals:0<DECIMALS$}").parse();
    Discount(millionths.unwrap_or_default())
}

/// Parses a request that ends something: what it names, and why.
pub(super) fn ending<M: Etagged>(v: &mut Violations, request: M, reason: String) -> (ById, String) {
    let reason = v.text("reason", reason, MAX_REASON);
    (ById::parse(v, request), reason)
}

impl Wanted {
    /// Parses a request for recurring revenue.
    pub fn parse(v: &mut Violations, request: proto::CalculateRecurringRevenueRequest) -> Self {
        let proto::CalculateRecurringRevenueRequest {
            account_id,
            organization_id,
            include_descendants,
            as_of_time,
            explain,
        } = request;
        if account_id.is_empty() == organization_id.is_empty() {
            v.add("account_id", "must be given if organization_id is not, and only then");
        }
        if explain && account_id.is_empty() {
            v.add("explain", "needs an account_id");
        }
        let scope = Scope::parse(v, account_id, organization_id.clone(), include_descendants);
        let whose = match &scope.account_id {
            Some(account_id) => Whose::Account(account_id.clone()),
            None => Whose::Organization(organization_id, scope),
        };
        Self { whose, at: v.instant("as_of_time", as_of_time), explain }
    }
}

impl From<Reason> for i32 {
    fn from(reason: Reason) -> Self {
        let reason = match reason {
            Reason::Counted => RevenueReason::Counted,
            Reason::NotStarted => RevenueReason::NotStarted,
            Reason::InTrial => RevenueReason::InTrial,
            Reason::Paused => RevenueReason::Paused,
            Reason::Ended => RevenueReason::Ended,
            Reason::Cancelled => RevenueReason::Cancelled,
            Reason::Free => RevenueReason::Free,
            Reason::FullDiscount => RevenueReason::FullDiscount,
            Reason::NoQuantity => RevenueReason::NoQuantity,
        };
        reason.into()
    }
}

/// The sums of a month and of a year in one currency.
pub(super) fn recurring((mrr, arr): (Money, Money)) -> proto::RecurringRevenue {
    proto::RecurringRevenue { mrr: Some(mrr.into()), arr: Some(arr.into()) }
}

impl From<Contribution> for proto::RevenueContribution {
    fn from(contribution: Contribution) -> Self {
        Self {
            subscription_id: contribution.subscription_id,
            account_id: contribution.account_id,
            reasons: contribution.reasons.into_iter().map(Into::into).collect(),
            monthly_amount: contribution.monthly_amount,
            currency_code: contribution.currency_code,
            changes_time: contribution.changes.map(timestamp),
        }
    }
}

impl From<Revenue> for proto::CalculateRecurringRevenueResponse {
    fn from(revenue: Revenue) -> Self {
        Self {
            as_of_time: Some(timestamp(revenue.at)),
            recurring_revenue: revenue.sums.into_iter().map(recurring).collect(),
            contributions: revenue.contributions.into_iter().map(Into::into).collect(),
            subscription_count: revenue.subscriptions,
            account_count: revenue.accounts,
        }
    }
}
