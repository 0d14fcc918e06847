//! The rules of a contract's life, without a database: the state and the dates that follow from
//! what is stored, and what each step does. Nothing is written when time passes, so everything here
//! depends on the day that is asked about.
//!
//! Terms are counted from the day after the first term, so the ends of months and leap days do not
//! drift: a term that renews on 31 January ends on 27 February and then on 30 March.

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, Utc};
use diesel::prelude::*;
use serde::Serialize;

use crate::{db::instant, enums::text_enum, money::money_columns, schema::contracts};

/// The first and the last day that `google.type.Date` can have. Dates stop there.
const FIRST_DAY: NaiveDate = day_or(1, 1, 1, NaiveDate::MIN);
const LAST_DAY: NaiveDate = day_or(9999, 12, 31, NaiveDate::MAX);

const fn day_or(year: i32, month: u32, day: u32, other: NaiveDate) -> NaiveDate {
    match NaiveDate::from_ymd_opt(year, month, day) {
        Some(day) => day,
        None => other,
    }
}

text_enum! {
    /// The stage that is stored. The state follows from it and from the dates.
    pub enum Stage {
        /// Being written.
        Draft = "DRAFT",
        /// Waits for approval.
        InApproval = "IN_APPROVAL",
        /// Approved: the dates say whether it is in force.
        Approved = "APPROVED",
        /// Ended by a call.
        Terminated = "TERMINATED",
        /// Given up as a draft.
        Void = "VOID",
    }
}

text_enum! {
    /// The state of a contract on a day.
    pub enum State {
        /// Being written.
        Draft = "DRAFT",
        /// Waits for approval.
        InApproval = "IN_APPROVAL",
        /// Approved, and not yet in force.
        Scheduled = "SCHEDULED",
        /// Approved and in force.
        Active = "ACTIVE",
        /// Approved, and no longer in force.
        Expired = "EXPIRED",
        /// Ended by a call.
        Terminated = "TERMINATED",
        /// Given up as a draft.
        Void = "VOID",
    }
}

/// A call that moves a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Asks for approval.
    Submit,
    /// Approves.
    Approve,
    /// Returns it to its writer.
    Reject,
    /// Gives it up.
    Void,
    /// Gives notice.
    Cancel,
    /// Takes the notice back.
    Uncancel,
    /// Ends it at once.
    Terminate,
}

impl Step {
    /// All steps, in the order in which refusals name them.
    pub const ALL: [Self; 7] = [
        Self::Submit,
        Self::Approve,
        Self::Reject,
        Self::Void,
        Self::Cancel,
        Self::Uncancel,
        Self::Terminate,
    ];

    /// The name of the call.
    pub const fn call(self) -> &'static str {
        match self {
            Self::Submit => "SubmitContract",
            Self::Approve => "ApproveContract",
            Self::Reject => "RejectContract",
            Self::Void => "VoidContract",
            Self::Cancel => "CancelContract",
            Self::Uncancel => "UncancelContract",
            Self::Terminate => "TerminateContract",
        }
    }

    /// The stage to which the step leads from a state; `None` if the state does not allow it.
    /// `cancelled` tells whether notice was given.
    pub const fn leads_to(self, state: State, cancelled: bool) -> Option<Stage> {
        match (state, self) {
            (State::Draft, Self::Submit) => Some(Stage::InApproval),
            (State::Draft, Self::Void) => Some(Stage::Void),
            (State::InApproval, Self::Approve) => Some(Stage::Approved),
            (State::InApproval, Self::Reject) => Some(Stage::Draft),
            (State::Scheduled | State::Active, Self::Cancel) if !cancelled => Some(Stage::Approved),
            (State::Scheduled | State::Active, Self::Uncancel) if cancelled => {
                Some(Stage::Approved)
            }
            (State::Scheduled | State::Active, Self::Terminate) => Some(Stage::Terminated),
            _ => None,
        }
    }
}

money_columns! {
    /// What a contract is worth in all.
    pub struct Value = contracts(value_amount, value_currency)
}

/// What is stored of a contract's life.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = contracts, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Terms {
    /// The stage.
    #[serde(rename = "state")]
    pub stage: Stage,
    /// The first day in force; `None` until approval says it.
    pub start_date: Option<NaiveDate>,
    /// The last day of the first term; `None` for an open end.
    pub end_date: Option<NaiveDate>,
    /// The length of each further term; `None` if the contract does not renew.
    pub renewal_months: Option<i32>,
    /// Days between the last day for a notice and the end of the term.
    pub notice_days: i32,
    /// What it is worth in all.
    #[diesel(embed)]
    pub value: Value,
    /// When notice was given; `None` if it was not, or was taken back.
    #[serde(serialize_with = "instant")]
    pub cancel_time: Option<DateTime<Utc>>,
    /// The last day in force as far as it is known. Depends on no clock.
    #[serde(rename = "effective_end_date")]
    pub last_date: Option<NaiveDate>,
}

/// Why a step cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The state does not allow it.
    State(State),
    /// The date in this field of the request breaks this rule.
    Date(&'static str, &'static str),
}

/// What follows from the terms on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derived {
    /// The state.
    pub state: State,
    /// The first day of the term.
    pub term_start: Option<NaiveDate>,
    /// The last day of the term; `None` for an open end.
    pub term_end: Option<NaiveDate>,
    /// How many terms have begun after the first.
    pub renewals: i32,
    /// The last day of the next notice that still ends a term; `None` if none is needed.
    pub deadline: Option<NaiveDate>,
    /// The last day in force; `None` if the contract renews or has an open end.
    pub effective_end: Option<NaiveDate>,
}

impl Terms {
    /// The state on a day.
    pub fn state(&self, today: NaiveDate) -> State {
        match self.stage {
            Stage::Draft => State::Draft,
            Stage::InApproval => State::InApproval,
            Stage::Terminated => State::Terminated,
            Stage::Void => State::Void,
            // An agreed end can lie before the start: such a contract is over without having begun.
            Stage::Approved if self.last_date.is_some_and(|last| last < today) => State::Expired,
            Stage::Approved if self.start_date.is_some_and(|start| start > today) => {
                State::Scheduled
            }
            Stage::Approved => State::Active,
        }
    }

    /// Whether notice was given.
    pub const fn is_cancelled(&self) -> bool {
        self.cancel_time.is_some()
    }

    /// The steps that are allowed on a day.
    pub fn allowed(&self, today: NaiveDate) -> impl Iterator<Item = Step> {
        let (state, cancelled) = (self.state(today), self.is_cancelled());
        Step::ALL.into_iter().filter(move |step| step.leads_to(state, cancelled).is_some())
    }

    /// What follows from the terms on a day. A contract that has not been approved shows its first
    /// term, a terminated one the term in which it was ended. The dates of an approved one do not
    /// go beyond its last day.
    pub fn on(&self, today: NaiveDate) -> Derived {
        let state = self.state(today);
        let shown = match self.stage {
            Stage::Draft | Stage::InApproval | Stage::Void => None,
            Stage::Approved => Some(self.last_date.map_or(today, |last| last.min(today))),
            Stage::Terminated => self.last_date,
        };
        let deadline_day = match state {
            State::Draft | State::InApproval | State::Void => Some(None),
            State::Scheduled | State::Active if !self.is_cancelled() => Some(Some(today)),
            _ => None,
        };
        let renewals = self.renewals().zip(shown).map_or(0, |(terms, day)| terms.number_on(day));
        let start = match self.renewals() {
            Some(terms) if renewals > 0 => Some(terms.boundary(renewals - 1)),
            _ => self.start_date,
        };
        let end = match self.renewals() {
            Some(terms) => Some(terms.end(renewals)),
            // A notice with an agreed end can lengthen the only term.
            None => self.end_date.map(|end| self.last_date.map_or(end, |last| last.max(end))),
        };
        let cut = |date: NaiveDate| match self.last_date {
            Some(last) if self.stage == Stage::Approved => date.min(last),
            _ => date,
        };
        let deadline = self.renewals().zip(deadline_day).map(|(terms, day)| match day {
            None => days_before(terms.end(0), self.notice_days).max(FIRST_DAY),
            Some(today) => days_before(self.notice_ends(terms, today), self.notice_days),
        });
        Derived {
            state,
            term_start: start.map(cut),
            term_end: end.map(cut),
            renewals,
            deadline,
            effective_end: self.last_date,
        }
    }

    /// The terms after a step, in which the caller may have named a date. `now` is the time of the
    /// step, on the day `today`.
    pub fn after(
        &self,
        step: Step,
        date: Option<NaiveDate>,
        today: NaiveDate,
        now: DateTime<Utc>,
    ) -> Result<Self, Unfit> {
        let state = self.state(today);
        let next = step.leads_to(state, self.is_cancelled()).ok_or(Unfit::State(state))?;
        let mut terms = Self { stage: next, ..self.clone() };
        match step {
            Step::Submit | Step::Reject | Step::Void => {}
            Step::Approve => {
                let first = self.end_date.map_or(today, |end| end.min(today));
                terms.start_date = Some(self.start_date.unwrap_or(first));
            }
            Step::Cancel => {
                if date.is_some_and(|date| date < today) {
                    return Err(Unfit::Date("end_date", "must not be before today"));
                }
                terms.cancel_time = Some(now);
                terms.last_date = date.or_else(|| self.end_by_notice(today));
            }
            Step::Uncancel => {
                terms.cancel_time = None;
                terms.last_date = self.agreed_end();
            }
            Step::Terminate => terms.last_date = self.terminated_on(state, date, today)?,
        }
        Ok(terms)
    }

    /// The last day of a contract that is terminated; `None` if it never came into force.
    fn terminated_on(
        &self,
        state: State,
        date: Option<NaiveDate>,
        today: NaiveDate,
    ) -> Result<Option<NaiveDate>, Unfit> {
        let rule = match date {
            Some(_) if state == State::Scheduled => {
                "must not be set: the contract is not in force yet"
            }
            Some(date) if date > today => "must not be after today: use CancelContract",
            Some(date) if self.start_date.is_some_and(|start| date < start) => {
                "must not be before the start_date of the contract"
            }
            _ if state == State::Scheduled => return Ok(None),
            _ => return Ok(Some(date.unwrap_or(today))),
        };
        Err(Unfit::Date("termination_date", rule))
    }

    /// The last day in force as it is agreed, without a notice.
    pub const fn agreed_end(&self) -> Option<NaiveDate> {
        match self.renewal_months {
            Some(_) => None,
            None => self.end_date,
        }
    }

    /// The last day in force of a contract to which notice is given today: of one with a fixed term
    /// its end, of one with an open end the end of the notice, and of one that renews the end of
    /// the first term whose deadline has not passed.
    pub fn end_by_notice(&self, today: NaiveDate) -> Option<NaiveDate> {
        match (self.renewals(), self.end_date) {
            (Some(terms), _) => Some(self.notice_ends(terms, today)),
            (None, Some(end)) => Some(end),
            (None, None) => {
                let from = self.start_date.map_or(today, |start| start.max(today));
                Some(days_after(from, self.notice_days).min(LAST_DAY))
            }
        }
    }

    fn notice_ends(&self, terms: Renewals, today: NaiveDate) -> NaiveDate {
        terms.end(terms.number_on(days_after(today, self.notice_days).min(LAST_DAY)))
    }

    fn renewals(&self) -> Option<Renewals> {
        let months = u32::try_from(self.renewal_months?).ok()?.max(1);
        Some(Renewals { first: days_after(self.end_date?, 1), months })
    }
}

/// The terms of a contract that renews. The first has the number 0.
#[derive(Debug, Clone, Copy)]
struct Renewals {
    /// The day after the first term.
    first: NaiveDate,
    months: u32,
}

impl Renewals {
    /// The day after a term.
    fn boundary(self, number: i32) -> NaiveDate {
        let months = u32::try_from(number).unwrap_or_default().saturating_mul(self.months);
        let day = self.first.checked_add_months(Months::new(months)).unwrap_or(NaiveDate::MAX);
        day.min(days_after(LAST_DAY, 1))
    }

    /// The last day of a term.
    fn end(self, number: i32) -> NaiveDate {
        days_before(self.boundary(number), 1)
    }

    /// The number of the term that includes a day: of the first that ends on that day or later.
    fn number_on(self, day: NaiveDate) -> i32 {
        let month = |date: NaiveDate| i64::from(date.year()) * 12 + i64::from(date.month0());
        let passed = (month(day) - month(self.first)) / i64::from(self.months);
        // The boundary of this number is in an earlier month, so this or one of the next two
        // numbers is the right one.
        let before = i32::try_from(passed - 1).unwrap_or_default().max(0);
        (before..=before + 2).find(|number| self.end(*number) >= day).unwrap_or(before)
    }
}

fn days_after(date: NaiveDate, days: i32) -> NaiveDate {
    date.checked_add_days(Days::new(u64::from(days.unsigned_abs()))).unwrap_or(NaiveDate::MAX)
}

fn days_before(date: NaiveDate, days: i32) -> NaiveDate {
    date.checked_sub_days(Days::new(u64::from(days.unsigned_abs()))).unwrap_or(NaiveDate::MIN)
}

#[cfg(test)]
mod tests;
