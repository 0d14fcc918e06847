//! Converts opportunities between messages of the contract and rows.

use super::{
    list::Filter,
    store::{Fields, Opportunity, Outcome, State, Wanted, Worth},
};
use crate::{
    accounts::scope::Scope,
    change::Versioned as _,
    enums::contract_enum,
    error::Result,
    metadata::Metadata,
    money::Purpose,
    proto::{self, OpportunityState},
    put::Statement,
    search,
    validate::Violations,
    wire::{timestamp, to_date},
};

const MAX_NAME: usize = 200;
const MAX_STAGE: usize = 100;
const AMOUNT: &str = "opportunity.amount";

impl Fields {
    /// Parses everything but the amount.
    fn parse(v: &mut Violations, wanted: proto::Opportunity) -> Self {
        let display_name =
            v.required_line("opportunity.display_name", wanted.display_name, MAX_NAME);
        let state = State::parse(v, "opportunity.state", wanted.state).unwrap_or(State::Open);
        let close_date = v.date("opportunity.close_date", wanted.close_date);
        if close_date.is_some() && state == State::Open {
            v.add("opportunity.close_date", "must not be set while the state is OPEN");
        }
        Self {
            sort_key: search::fold(&display_name),
            display_name,
            stage: v.line("opportunity.stage", wanted.stage, MAX_STAGE),
            state,
            amount: Worth::default(),
            probability: wanted.probability.map(|percent| probability(v, percent)),
            expected_close_date: v
                .date("opportunity.expected_close_date", wanted.expected_close_date),
            close_date,
            uri: v.uri("opportunity.uri", wanted.uri),
            contract_id: v.optional_id("opportunity.contract_id", wanted.contract_id),
            owner_id: v.optional_id("opportunity.owner_id", wanted.owner_id),
            source_time: v.instant("opportunity.source_time", wanted.source_time),
            metadata: Metadata::parse(v, "opportunity.metadata", wanted.metadata),
        }
    }
}

/// Parses a percentage. Minus zero is zero, which it equals.
fn probability(v: &mut Violations, percent: f64) -> f64 {
    if !(0.0..=100.0).contains(&percent) {
        v.add("opportunity.probability", "must be between 0 and 100 percent");
    }
    percent + 0.0
}

impl Wanted {
    /// Parses a put request.
    pub fn parse(v: &mut Violations, request: proto::PutOpportunityRequest) -> Self {
        let mut wanted = v.message("opportunity", request.opportunity);
        let id = std::mem::take(&mut wanted.opportunity_id);
        if id.is_empty() {
            v.add("opportunity.opportunity_id", "is required");
        }
        let id = v.chosen_id("opportunity.opportunity_id", id).unwrap_or_default();
        let account_id = std::mem::take(&mut wanted.account_id);
        let account_id = v.id("opportunity.account_id", account_id);
        let etag = std::mem::take(&mut wanted.etag);
        let amount = v.money(AMOUNT, wanted.amount.take(), Purpose::Forecast);
        let fields = Fields::parse(v, wanted);
        let statement = Statement { id, account_id, etag, source_time: fields.source_time };
        Self { statement, fields, amount }
    }

    /// Returns the fields with the amount, whose currency is the tenant's default unless it has
    /// one.
    pub fn fields(&self, default_currency: Option<&str>) -> Result<Fields> {
        let mut v = Violations::default();
        let mut amount = self.amount.clone();
        v.currency(AMOUNT, &mut amount, Purpose::Forecast, default_currency);
        v.finish(Fields { amount: amount.into(), ..self.fields.clone() })
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListOpportunitiesRequest) -> Self {
        let states = (0..).zip(request.states).filter_map(|(i, number)| {
            let field = format!("states[{i}]");
            if number == 0 {
                v.add(&field, "must not be OPPORTUNITY_STATE_UNSPECIFIED");
            }
            State::parse(v, field, number)
        });
        let states = states.collect();
        let from = v.date("expected_close_from", request.expected_close_from);
        let until = v.date("expected_close_until", request.expected_close_until);
        if from.zip(until).is_some_and(|(from, until)| until < from) {
            v.add("expected_close_until", "must not be before expected_close_from");
        }
        Self {
            states,
            query: v.query("query", request.query),
            contract_id: v.optional_id("contract_id", request.contract_id),
            expected_close_from: from,
            expected_close_until: until,
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
        }
    }
}

contract_enum!(State = OpportunityState { Open, Won, Lost });

impl From<Opportunity> for proto::Opportunity {
    fn from(row: Opportunity) -> Self {
        let etag = row.etag();
        let fields = row.fields;
        Self {
            etag,
            opportunity_id: row.opportunity_id,
            account_id: row.account_id,
            display_name: fields.display_name,
            stage: fields.stage,
            state: fields.state.into(),
            amount: fields.amount.get().map(Into::into),
            probability: fields.probability,
            expected_close_date: fields.expected_close_date.map(to_date),
            close_date: fields.close_date.map(to_date),
            uri: fields.uri,
            contract_id: fields.contract_id.unwrap_or_default(),
            owner_id: fields.owner_id.unwrap_or_default(),
            source_time: fields.source_time.map(timestamp),
            metadata: fields.metadata.0,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

impl From<Outcome> for proto::PutOpportunityResponse {
    fn from(Outcome { opportunity, created, stale }: Outcome) -> Self {
        Self { opportunity: Some(opportunity.into()), created, stale }
    }
}
