//! Dates as a table, every pair of state and step, and random contracts against a model that knows
//! nothing but days.

use super::*;

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no day"))
}

fn some(text: &str) -> Option<NaiveDate> {
    (!text.is_empty()).then(|| day(text))
}

fn noon(date: NaiveDate) -> DateTime<Utc> {
    date.and_hms_opt(12, 0, 0).unwrap().and_utc()
}

fn approved(start: &str, end: &str, renewal_months: Option<i32>, notice_days: i32) -> Terms {
    let mut terms = Terms {
        stage: Stage::Approved,
        start_date: some(start),
        end_date: some(end),
        renewal_months,
        notice_days,
        value: Value::default(),
        cancel_time: None,
        last_date: None,
    };
    terms.last_date = terms.agreed_end();
    terms
}

impl Terms {
    fn cancelled_on(mut self, date: NaiveDate) -> Self {
        self.last_date = self.end_by_notice(date);
        self.cancel_time = Some(noon(date));
        self
    }
}

/// Number, start, end, months, notice, today, day of the notice; state, term end, deadline,
/// effective end.
type Case = (
    &'static str,
    [&'static str; 2],
    i32,
    i32,
    &'static str,
    &'static str,
    State,
    [&'static str; 3],
);

const CASES: [Case; 21] = [
    (
        "D01",
        ["2027-01-01", "2027-12-31"],
        0,
        0,
        "2026-12-31",
        "",
        State::Scheduled,
        ["2027-12-31", "", "2027-12-31"],
    ),
    (
        "D03",
        ["2027-01-01", "2027-12-31"],
        0,
        0,
        "2027-12-31",
        "",
        State::Active,
        ["2027-12-31", "", "2027-12-31"],
    ),
    (
        "D04",
        ["2027-01-01", "2027-12-31"],
        0,
        0,
        "2028-01-01",
        "",
        State::Expired,
        ["2027-12-31", "", "2027-12-31"],
    ),
    (
        "D08",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2027-01-01",
        "",
        State::Active,
        ["2027-12-31", "2027-10-02", ""],
    ),
    (
        "D09",
        ["2024-08-29", "2025-08-28"],
        12,
        60,
        "2026-11-02",
        "",
        State::Active,
        ["2027-08-28", "2027-06-29", ""],
    ),
    (
        "D10",
        ["2020-08-01", "2023-07-31"],
        12,
        90,
        "2023-10-31",
        "",
        State::Active,
        ["2024-07-31", "2024-05-02", ""],
    ),
    (
        "D12",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2026-10-03",
        "",
        State::Active,
        ["2026-12-31", "2027-10-02", ""],
    ),
    (
        "D13",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2026-10-02",
        "2026-10-02",
        State::Active,
        ["2026-12-31", "", "2026-12-31"],
    ),
    (
        "D14",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2026-10-03",
        "2026-10-03",
        State::Active,
        ["2026-12-31", "", "2027-12-31"],
    ),
    (
        "D15",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2027-06-30",
        "2026-10-03",
        State::Active,
        ["2027-12-31", "", "2027-12-31"],
    ),
    (
        "D17",
        ["2026-01-01", "2026-12-31"],
        12,
        0,
        "2026-12-31",
        "2026-12-31",
        State::Active,
        ["2026-12-31", "", "2026-12-31"],
    ),
    (
        "D18",
        ["2026-12-31", "2027-01-30"],
        1,
        0,
        "2027-02-27",
        "",
        State::Active,
        ["2027-02-27", "2027-02-27", ""],
    ),
    (
        "D19",
        ["2026-12-31", "2027-01-30"],
        1,
        0,
        "2027-03-28",
        "",
        State::Active,
        ["2027-03-30", "2027-03-30", ""],
    ),
    (
        "D20",
        ["2027-03-01", "2028-02-29"],
        12,
        0,
        "2028-03-01",
        "",
        State::Active,
        ["2029-02-28", "2029-02-28", ""],
    ),
    (
        "D21",
        ["2027-03-01", "2028-02-29"],
        12,
        0,
        "2031-03-01",
        "",
        State::Active,
        ["2032-02-29", "2032-02-29", ""],
    ),
    (
        "D22",
        ["2026-03-01", "2027-02-28"],
        12,
        30,
        "2027-03-01",
        "",
        State::Active,
        ["2028-02-29", "2028-01-30", ""],
    ),
    (
        "D24",
        ["2027-01-01", "2027-01-31"],
        1,
        90,
        "2027-01-15",
        "2027-01-15",
        State::Active,
        ["2027-01-31", "", "2027-04-30"],
    ),
    (
        "D25",
        ["2026-01-01", ""],
        0,
        30,
        "2027-03-01",
        "2027-03-01",
        State::Active,
        ["", "", "2027-03-31"],
    ),
    (
        "D26",
        ["2027-06-01", ""],
        0,
        30,
        "2027-03-01",
        "2027-03-01",
        State::Scheduled,
        ["", "", "2027-07-01"],
    ),
    (
        "fixed, cancelled",
        ["2027-01-01", "2027-12-31"],
        0,
        30,
        "2027-03-01",
        "2027-03-01",
        State::Active,
        ["2027-12-31", "", "2027-12-31"],
    ),
    (
        "long expired",
        ["2026-01-01", "2026-12-31"],
        12,
        90,
        "2099-01-01",
        "2026-10-03",
        State::Expired,
        ["2027-12-31", "", "2027-12-31"],
    ),
];

#[test]
fn the_dates_are_those_of_the_design() {
    for (case, [start, end], months, notice, today, cancelled, state, [term, deadline, last]) in
        CASES
    {
        let mut terms = approved(start, end, (months > 0).then_some(months), notice);
        if let Some(date) = some(cancelled) {
            terms = terms.cancelled_on(date);
        }
        let found = terms.on(day(today));
        assert_eq!(
            (found.state, found.term_end, found.deadline, found.effective_end),
            (state, some(term), some(deadline), some(last)),
            "{case}"
        );
    }
}

#[test]
fn a_terminated_contract_shows_the_term_in_which_it_was_ended() {
    let mut terms = approved("2026-01-01", "2026-12-31", Some(12), 90);
    terms.stage = Stage::Terminated;
    terms.last_date = some("2027-03-01");
    for today in ["2027-03-01", "2030-01-01"] {
        let found = terms.on(day(today));
        assert_eq!((found.state, found.deadline), (State::Terminated, None), "D28 on {today}");
        assert_eq!(
            (found.term_start, found.term_end, found.effective_end, found.renewals),
            (some("2027-01-01"), some("2027-12-31"), some("2027-03-01"), 1),
            "D28 on {today}"
        );
    }
    // It never came into force.
    terms.last_date = None;
    let found = terms.on(day("2030-01-01"));
    assert_eq!((found.term_end, found.effective_end), (some("2026-12-31"), None));
}

#[test]
fn a_contract_that_is_not_approved_shows_its_first_term() {
    for stage in [Stage::Draft, Stage::InApproval, Stage::Void] {
        let mut terms = approved("2026-01-01", "2026-12-31", Some(12), 90);
        terms.stage = stage;
        let found = terms.on(day("2030-05-05"));
        assert_eq!(found.state.name(), stage.name());
        assert_eq!(
            (found.term_start, found.term_end, found.deadline, found.renewals),
            (some("2026-01-01"), some("2026-12-31"), some("2026-10-02"), 0),
            "{stage:?}"
        );
    }
}

#[test]
fn an_agreed_end_cuts_the_term() {
    let mut terms = approved("2026-01-01", "2026-12-31", Some(12), 90);
    terms.cancel_time = Some(noon(day("2026-03-01")));
    terms.last_date = some("2026-06-30");
    let found = terms.on(day("2026-03-01"));
    assert_eq!((found.state, found.term_end), (State::Active, some("2026-06-30")));
    assert_eq!(terms.on(day("2026-07-01")).state, State::Expired);
}

#[test]
fn an_agreed_end_can_lengthen_the_only_term() {
    let mut terms = approved("2026-01-01", "2026-12-31", None, 0);
    terms.cancel_time = Some(noon(day("2026-03-01")));
    terms.last_date = some("2027-03-31");
    for today in ["2026-03-01", "2027-01-01", "2027-04-01"] {
        assert_eq!(terms.on(day(today)).term_end, some("2027-03-31"), "{today}");
    }
    assert_eq!(terms.on(day("2027-01-01")).state, State::Active);
    // Ended after its agreed term.
    terms.stage = Stage::Terminated;
    terms.last_date = some("2027-02-01");
    assert_eq!(terms.on(day("2027-06-01")).term_end, some("2027-02-01"));
}

#[test]
fn a_contract_that_ends_before_it_begins_is_over_then() {
    for months in [None, Some(12)] {
        let mut terms = approved("2026-06-01", "2026-12-31", months, 0);
        terms.cancel_time = Some(noon(day("2026-03-01")));
        terms.last_date = some("2026-03-01");
        assert_eq!(terms.on(day("2026-03-01")).state, State::Scheduled);
        assert_eq!(terms.on(day("2026-03-02")).state, State::Expired);
        assert_eq!(terms.on(day("2026-06-02")).state, State::Expired);
    }
}

#[test]
fn no_date_leaves_the_years_1_to_9999() {
    let last = day("9999-12-31");
    let open = approved("9999-12-30", "", None, 1000);
    assert_eq!(open.end_by_notice(day("2026-01-01")), Some(last));
    let late = approved("9999-01-01", "9999-12-31", Some(120), 1000);
    for today in ["2026-01-01", "9999-06-01", "9999-12-31"] {
        let found = late.on(day(today));
        assert_eq!((found.term_end, found.renewals), (Some(last), 0), "{today}");
        assert!(found.deadline.is_some_and(|deadline| deadline <= last), "{today}");
        assert_eq!(late.end_by_notice(day(today)), Some(last), "{today}");
    }
    let mut early = approved("0001-01-01", "0001-01-05", Some(1), 1000);
    early.stage = Stage::Draft;
    assert_eq!(early.on(day("2026-01-01")).deadline, some("0001-01-01"));
}

/// For each state the steps that it allows, and the stages that they lead to.
#[test]
fn every_pair_of_state_and_step() {
    use State as S;
    for (state, cancelled, expected) in [
        (S::Draft, false, "SubmitContract IN_APPROVAL, VoidContract VOID"),
        (S::InApproval, false, "ApproveContract APPROVED, RejectContract DRAFT"),
        (S::Scheduled, false, "CancelContract APPROVED, TerminateContract TERMINATED"),
        (S::Scheduled, true, "UncancelContract APPROVED, TerminateContract TERMINATED"),
        (S::Active, false, "CancelContract APPROVED, TerminateContract TERMINATED"),
        (S::Active, true, "UncancelContract APPROVED, TerminateContract TERMINATED"),
        (S::Expired, false, ""),
        (S::Expired, true, ""),
        (S::Terminated, false, ""),
        (S::Terminated, true, ""),
        (S::Void, false, ""),
    ] {
        let allowed = Step::ALL.into_iter().filter_map(|step| {
            let stage = step.leads_to(state, cancelled)?;
            Some(format!("{} {}", step.call(), stage.name()))
        });
        assert_eq!(allowed.collect::<Vec<_>>().join(", "), expected, "{state:?} {cancelled}");
    }
}

/// The model: terms as a list of days, made one after another with a calendar of its own.
struct Model {
    ends: Vec<NaiveDate>,
}

impl Model {
    /// The ends of the terms up to a day, counted month by month from the first boundary.
    fn new(end: NaiveDate, months: i32, until: NaiveDate) -> Self {
        let first = end.succ_opt().unwrap();
        let (mut ends, mut year, mut month) = (vec![end], first.year(), first.month());
        while *ends.last().unwrap() < until {
            for _ in 0..months {
                (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            }
            let boundary = (1..=first.day())
                .rev()
                .find_map(|day| NaiveDate::from_ymd_opt(year, month, day))
                .unwrap();
            ends.push(boundary.pred_opt().unwrap());
        }
        Self { ends }
    }

    /// The number of the term that a day lies in.
    fn number(&self, day: NaiveDate) -> usize {
        self.ends.iter().filter(|end| **end < day).count()
    }

    /// The end of the first term whose deadline is not before a day.
    fn notice(&self, day: NaiveDate, notice: i32) -> NaiveDate {
        let mut from = day;
        for _ in 0..notice {
            from = from.succ_opt().unwrap();
        }
        *self.ends.iter().find(|end| **end >= from).unwrap()
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "TEST_SEED is for developers")]
fn random_contracts_agree_with_a_model_of_days_over_100_years() {
    let seed = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let origin = day("1999-12-01");
    for _ in 0..24 {
        let start = days_after(origin, dice.i32(0..800));
        let end = days_after(start, dice.i32(0..1200));
        let (months, notice) = (dice.i32(1..=24), dice.i32(0..=200));
        let terms = approved(&start.to_string(), &end.to_string(), Some(months), notice);
        let last = days_after(origin, 36_600);
        let model = Model::new(end, months, days_after(last, 1200));
        let cancelled = days_after(start, dice.i32(0..30_000));
        let ended = terms.clone().cancelled_on(cancelled);
        let mut today = days_before(start, 40);
        while today < last {
            let found = terms.on(today);
            let number = model.number(today);
            let deadline = days_before(model.notice(today, notice), notice);
            let context = format!("{terms:?} on {today}");
            assert_eq!(found.state == State::Scheduled, today < start, "{context}");
            assert_eq!(found.renewals, i32::try_from(number).unwrap(), "{context}");
            assert_eq!(found.term_end, Some(model.ends[number]), "{context}");
            let begins = number
                .checked_sub(1)
                .map_or(start, |before| model.ends[before].succ_opt().unwrap());
            assert_eq!(found.term_start, Some(begins), "{context}");
            assert_eq!(found.deadline, Some(deadline), "{context}");
            assert!(deadline >= today && found.effective_end.is_none(), "{context}");
            let end = model.notice(cancelled, notice);
            let found = ended.on(today);
            assert_eq!(found.effective_end, Some(end), "{context} cancelled on {cancelled}");
            assert_eq!(found.state == State::Expired, today > end, "{context}");
            let shown = model.ends[model.number(today.min(end))];
            assert_eq!(found.term_end, Some(shown), "{context} cancelled on {cancelled}");
            // Every day of the first years, and then now and then.
            today = days_after(today, if dice.u8(..) < 200 { 1 } else { dice.i32(1..60) });
        }
    }
}
