//! Converts contracts between messages of the contract and rows.

use chrono::NaiveDate;

use super::{
    list::{Days, Filter},
    refusals,
    steps::Asked,
    store::{Fields, NewContract, OnDay},
    terms::{Stage, State, Step, Terms},
};
use crate::{
    accounts::scope::Scope,
    change::{ById, Etagged, Update, Versioned as _},
    enums::contract_enum,
    error::Result,
    mask::Elsewhere,
    metadata::Metadata,
    money::Purpose,
    proto::{
        self, ContractState,
        google::r#type::{Date, Money},
    },
    search,
    validate::Violations,
    wire::{timestamp, to_date},
};

const MAX_TITLE: usize = 200;
const MAX_REFERENCE: usize = 100;
const MAX_DESCRIPTION: usize = 2000;
const MAX_REASON: usize = 500;
const MAX_RENEWAL_MONTHS: i32 = 120;
const DEFAULT_RENEWAL_MONTHS: i32 = 12;
const MAX_NOTICE_DAYS: i32 = 1000;
const VALUE: &str = "contract.value";

/// The fields that an update does not change although it can name them.
pub const ELSEWHERE: &Elsewhere = &[
    ("account_id", "cannot be changed: a contract stays with its account"),
    ("state", "is changed by SubmitContract and the calls that follow it only"),
    (
        "state_reason",
        "is changed by RejectContract, VoidContract, CancelContract and TerminateContract only",
    ),
];

contract_enum!(
    State = ContractState { Draft, InApproval, Scheduled, Active, Expired, Terminated, Void }
);

impl Fields {
    fn parse(v: &mut Violations, wanted: &mut proto::Contract) -> Self {
        use std::mem::take;
        let title = v.required_line("contract.title", take(&mut wanted.title), MAX_TITLE);
        Self {
            sort_key: search::fold(&title),
            title,
            reference: v.line("contract.reference", take(&mut wanted.reference), MAX_REFERENCE),
            description: v.text(
                "contract.description",
                take(&mut wanted.description),
                MAX_DESCRIPTION,
            ),
            document_uri: v.uri("contract.document_uri", take(&mut wanted.document_uri)),
            metadata: Metadata::parse(v, "contract.metadata", take(&mut wanted.metadata)),
        }
    }
}

impl Terms {
    /// Parses the terms of a draft. [`Terms::complete`] checks the currency, inside the transaction.
    fn parse(v: &mut Violations, wanted: &proto::Contract) -> Self {
        let start_date = v.date("contract.start_date", wanted.start_date);
        let end_date = v.date("contract.end_date", wanted.end_date);
        if start_date.zip(end_date).is_some_and(|(start, end)| end < start) {
            v.add("contract.end_date", "must not be before start_date");
        }
        let months = wanted.renewal_months;
        let renewal_months = match months {
            0 => DEFAULT_RENEWAL_MONTHS,
            1..=MAX_RENEWAL_MONTHS => months,
            _ => {
                v.add(
                    "contract.renewal_months",
                    format!("must be between 1 and {MAX_RENEWAL_MONTHS}, or 0 for 12"),
                );
                DEFAULT_RENEWAL_MONTHS
            }
        };
        if wanted.auto_renewal && end_date.is_none() {
            v.add("contract.auto_renewal", "needs an end_date: what has no end does not renew");
        }
        if !wanted.auto_renewal && months != 0 {
            v.add("contract.renewal_months", "must not be set without auto_renewal");
        }
        if !(0..=MAX_NOTICE_DAYS).contains(&wanted.notice_days) {
            v.add("contract.notice_days", format!("must be between 0 and {MAX_NOTICE_DAYS}"));
        }
        // A message in which nothing is set is none, as a date is.
        let value = wanted.value.clone().filter(|value| *value != Money::default());
        let mut terms = Self {
            stage: Stage::Draft,
            start_date,
            end_date,
            renewal_months: wanted.auto_renewal.then_some(renewal_months),
            notice_days: wanted.notice_days,
            value: v.money(VALUE, value, Purpose::Agreed).into(),
            cancel_time: None,
            last_date: None,
        };
        terms.last_date = terms.agreed_end();
        terms
    }

    /// Gives a value without a currency the default of the tenant.
    pub fn complete(&mut self, default_currency: Option<&str>) -> Result<()> {
        let (mut v, mut money) = (Violations::default(), self.value.get());
        v.currency(VALUE, &mut money, Purpose::Agreed, default_currency);
        self.value = money.into();
        v.finish(())
    }

    /// The fields in which the terms differ from others.
    fn differences(&self, others: &Self) -> Vec<&'static str> {
        let months = |terms: &Self| terms.renewal_months.unwrap_or_default();
        let all = [
            ("start_date", self.start_date == others.start_date),
            ("end_date", self.end_date == others.end_date),
            ("value", self.value == others.value),
            ("auto_renewal", self.renewal_months.is_some() == others.renewal_months.is_some()),
            ("renewal_months", months(self) == months(others)),
            ("notice_days", self.notice_days == others.notice_days),
        ];
        all.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }
}

impl NewContract {
    /// Parses a create request.
    pub fn parse(v: &mut Violations, request: proto::CreateContractRequest) -> Self {
        let mut wanted = v.message("contract", request.contract);
        let id = std::mem::take(&mut wanted.contract_id);
        let account_id = std::mem::take(&mut wanted.account_id);
        Self {
            contract_id: v.new_id("contract.contract_id", id, "ctr"),
            account_id: v.id("contract.account_id", account_id),
            fields: Fields::parse(v, &mut wanted),
            terms: Terms::parse(v, &wanted),
        }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListContractsRequest) -> Self {
        Self {
            scope: Scope::parse(
                v,
                request.account_id,
                request.organization_id,
                request.include_descendants,
            ),
            states: states(v, &request.states),
            query: v.query("query", request.query),
            auto_renewal: request.auto_renewal,
            term_end: days(v, "term_end_", request.term_end_from, request.term_end_until),
            deadline: days(
                v,
                "notice_deadline_",
                request.notice_deadline_from,
                request.notice_deadline_until,
            ),
        }
    }
}

fn states(v: &mut Violations, numbers: &[i32]) -> Vec<State> {
    let states = (0..).zip(numbers).filter_map(|(i, number)| {
        let field = format!("states[{i}]");
        if *number == 0 {
            v.add(&field, "must not be CONTRACT_STATE_UNSPECIFIED");
        }
        State::parse(v, &field, *number)
    });
    states.collect()
}

/// Parses the fields `…from` and `…until`: days, both included.
fn days(v: &mut Violations, prefix: &str, from: Option<Date>, until: Option<Date>) -> Days {
    let from = v.date(format_args!("{prefix}from"), from);
    let until = v.date(format_args!("{prefix}until"), until);
    if from.zip(until).is_some_and(|(from, until)| until < from) {
        v.add(format_args!("{prefix}until"), format!("must not be before {prefix}from"));
    }
    Days { from, until }
}

impl Asked {
    /// Parses a step that has neither a reason nor a date.
    pub fn parse<M: Etagged>(v: &mut Violations, request: M, step: Step) -> (ById, Self) {
        Self::with(v, request, step, String::new(), None)
    }

    /// Parses a step with the reason and the date of its request.
    pub fn with<M: Etagged>(
        v: &mut Violations,
        request: M,
        step: Step,
        reason: String,
        date: Option<(&str, Option<Date>)>,
    ) -> (ById, Self) {
        let reason = v.text("reason", reason, MAX_REASON);
        let date = date.and_then(|(field, date)| v.date(field, date));
        (ById::parse(v, request), Self { step, reason, date })
    }
}

impl Update<proto::Contract> {
    /// Returns the fields and terms that the update leads to. Without `auto_renewal` there are no
    /// `renewal_months`, so an update that switches it off need not name them. Fails if terms would
    /// change and the contract is no draft.
    pub fn contents(&self, current: &OnDay, currency: Option<&str>) -> Result<(Fields, Terms)> {
        let mut draft = self.apply(current)?;
        if !draft.merged.auto_renewal && !self.has("renewal_months") {
            draft.merged.renewal_months = 0;
        }
        let parse = |v: &mut Violations, mut wanted: proto::Contract| {
            let terms = Terms::parse(v, &wanted);
            (Fields::parse(v, &mut wanted), terms)
        };
        let (fields, mut terms) = draft.parse(parse)?;
        let (fields, ()) = draft.finish((fields, ()))?;
        terms.complete(currency)?;
        let OnDay(contract, today) = current;
        if contract.terms.stage == Stage::Draft {
            return Ok((fields, terms));
        }
        let differences = terms.differences(&contract.terms);
        if !differences.is_empty() {
            let state = contract.terms.state(*today);
            return Err(refusals::contract_terms_fixed(self.id(), state, &differences));
        }
        Ok((fields, contract.terms.clone()))
    }
}

impl From<OnDay> for proto::Contract {
    fn from(row: OnDay) -> Self {
        let (etag, derived) = (row.etag(), row.derived());
        let OnDay(row, _) = row;
        let (fields, terms, steps) = (row.fields, row.terms, row.steps);
        let date = |date: Option<NaiveDate>| date.map(to_date);
        Self {
            etag,
            contract_id: row.contract_id,
            account_id: row.account_id,
            title: fields.title,
            reference: fields.reference,
            description: fields.description,
            document_uri: fields.document_uri,
            start_date: date(terms.start_date),
            end_date: date(terms.end_date),
            value: terms.value.get().map(Into::into),
            auto_renewal: terms.renewal_months.is_some(),
            renewal_months: terms.renewal_months.unwrap_or_default(),
            notice_days: terms.notice_days,
            state: derived.state.into(),
            state_reason: steps.state_reason,
            term_start_date: date(derived.term_start),
            term_end_date: date(derived.term_end),
            renewal_count: derived.renewals,
            notice_deadline_date: date(derived.deadline),
            effective_end_date: date(derived.effective_end),
            submit_time: steps.submit_time.map(timestamp),
            submitter: steps.submitter.unwrap_or_default(),
            approve_time: steps.approve_time.map(timestamp),
            approver: steps.approver.unwrap_or_default(),
            cancel_time: terms.cancel_time.map(timestamp),
            metadata: fields.metadata.0,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}
