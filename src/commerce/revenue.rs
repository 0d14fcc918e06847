//! The rules of recurring revenue: the state of a subscription at an instant, what it adds to a
//! month, and sums without rounding.
//!
//! Intervals are half-open everywhere: at the instant at which a trial ends a subscription counts,
//! at the instant at which it ends it does not. Nothing here knows a calendar or a time zone, and
//! nothing is a floating-point number: what a subscription adds is a fraction, and a sum is rounded
//! once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    prelude::*,
    serialize::{self, Output, ToSql},
    sql_types::{self, Numeric},
};
use num_bigint::BigInt;
use num_rational::BigRational;
use serde::{Serialize, Serializer};

use crate::{
    currency,
    db::{instant, moment},
    enums::text_enum,
    error::{Error, Result},
    money::{Amount, Money, UNIT},
    schema::subscriptions,
};

/// Decimals of what one subscription adds, as it is shown.
const SHOWN: u32 = 12;

text_enum! {
    /// The unit of an interval.
    pub enum Unit {
        /// A day, of which a year has 365.
        Day = "DAY",
        /// A week, of which a year has 52.
        Week = "WEEK",
        /// A month.
        Month = "MONTH",
        /// A year.
        Year = "YEAR",
    }
}

text_enum! {
    /// Where a subscription stands at an instant. It is not stored.
    pub enum State {
        /// Before its start.
        Scheduled = "SCHEDULED",
        /// In its trial.
        Trial = "TRIAL",
        /// In force and paid for.
        Active = "ACTIVE",
        /// In force, but not paid for now.
        Paused = "PAUSED",
        /// After its end.
        Ended = "ENDED",
        /// Ended by a cancellation.
        Cancelled = "CANCELLED",
    }
}

/// Why a subscription counts at an instant, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It counts.
    Counted,
    /// It has not started.
    NotStarted,
    /// It is in its trial.
    InTrial,
    /// It is paused.
    Paused,
    /// It has ended.
    Ended,
    /// A cancellation has ended it.
    Cancelled,
    /// It counts, and costs nothing.
    Free,
    /// It counts, and its discount is all of the price.
    FullDiscount,
    /// It counts, and there are no units.
    NoQuantity,
}

/// A discount in millionths of the price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromSqlRow, AsExpression)]
#[diesel(sql_type = sql_types::Integer)]
pub struct Discount(pub i32);

impl Discount {
    /// The whole price.
    pub const ALL: Self = Self(1_000_000);

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) * 100.0 / f64::from(Self::ALL.0)
    }

    /// What it leaves of an amount. Any `google.type.Money` fits.
    pub fn of(self, amount: Amount) -> Discounted {
        Discounted(Amount(amount.0 * i128::from(Self::ALL.0 - self.0)))
    }
}

impl ToSql<sql_types::Integer, Pg> for Discount {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<sql_types::Integer, Pg>::to_sql(&self.0, out)
    }
}

impl FromSql<sql_types::Integer, Pg> for Discount {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<sql_types::Integer, Pg>::from_sql(value).map(Self)
    }
}

/// In percent, as the contract has it. A whole number is an integer, which jsonb keeps as such.
impl Serialize for Discount {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let one_percent = Self::ALL.0 / 100;
        if self.0 % one_percent == 0 {
            to.serialize_i32(self.0 / one_percent)
        } else {
            to.serialize_f64(self.percent())
        }
    }
}

/// The time for which a price is paid.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = subscriptions, check_for_backend(Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Interval {
    /// The unit.
    #[diesel(column_name = interval_unit)]
    #[serde(rename = "interval")]
    pub unit: Unit,
    /// How many units.
    #[diesel(column_name = interval_count)]
    #[serde(rename = "interval_count")]
    pub count: i32,
}

/// For what time a price is paid, and how much less of it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = subscriptions, check_for_backend(Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Rate {
    /// The time.
    #[diesel(embed)]
    #[serde(flatten)]
    pub interval: Interval,
    /// The discount.
    #[serde(rename = "discount_percent")]
    pub discount: Discount,
}

/// When a subscription starts and ends, as its last put says.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = subscriptions, check_for_backend(Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Times {
    /// The first instant.
    #[serde(serialize_with = "moment")]
    pub start_time: DateTime<Utc>,
    /// The first instant after the trial.
    #[serde(serialize_with = "instant")]
    pub trial_end_time: Option<DateTime<Utc>>,
    /// The first instant after the end; `None` for an open end.
    #[serde(serialize_with = "instant")]
    pub stated_end_time: Option<DateTime<Utc>>,
    /// Whether it is not paid for now.
    pub paused: bool,
}

/// A cancellation, if there is one.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = subscriptions, check_for_backend(Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Cancellation {
    /// The first instant after the end that it sets.
    #[diesel(column_name = cancel_end_time)]
    #[serde(skip)]
    pub end: Option<DateTime<Utc>>,
    /// When it was made.
    #[diesel(column_name = cancel_time)]
    #[serde(rename = "cancel_time", serialize_with = "instant")]
    pub time: Option<DateTime<Utc>>,
    /// Why.
    #[diesel(column_name = cancel_reason)]
    #[serde(rename = "cancel_reason")]
    pub reason: String,
}

/// What decides whether a subscription counts.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    times: Times,
    /// The earlier of both ends.
    end: Option<DateTime<Utc>>,
    cancelled: bool,
}

impl Life {
    /// The life of a subscription with these times and this cancellation.
    pub fn of(times: Times, cancellation: &Cancellation) -> Self {
        let ends = times.stated_end_time.into_iter().chain(cancellation.end);
        Self { times, end: ends.min(), cancelled: cancellation.end.is_some() }
    }

    /// The first instant after the end.
    pub const fn end(&self) -> Option<DateTime<Utc>> {
        self.end
    }

    /// The state at an instant. `list.rs` has the same as conditions of a query.
    pub fn state(&self, at: DateTime<Utc>) -> State {
        let Times { start_time: start, trial_end_time: trial, paused, .. } = self.times;
        let ended = self.end.is_some_and(|end| at >= end);
        if self.cancelled && (ended || self.end.is_some_and(|end| end <= start)) {
            State::Cancelled
        } else if ended {
            State::Ended
        } else if at < start {
            State::Scheduled
        } else if paused {
            State::Paused
        } else if trial.is_some_and(|trial| at < trial) {
            State::Trial
        } else {
            State::Active
        }
    }

    /// Whether the subscription counts at an instant.
    pub fn counts(&self, at: DateTime<Utc>) -> bool {
        self.state(at) == State::Active
    }

    /// The next instant after `at` at which the subscription begins or ceases to count.
    pub fn changes(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Times { start_time, trial_end_time, paused, .. } = self.times;
        let from = trial_end_time.unwrap_or(start_time);
        if paused || self.end.is_some_and(|end| end <= from) {
            None
        } else if at < from {
            Some(from)
        } else {
            self.end.filter(|end| at < *end)
        }
    }

    /// The reasons that hold at an instant, apart from those of the price.
    fn reasons(&self, at: DateTime<Utc>) -> Vec<Reason> {
        let Times { start_time, trial_end_time, paused, .. } = self.times;
        match self.state(at) {
            State::Active => vec![Reason::Counted],
            State::Ended => vec![Reason::Ended],
            State::Cancelled => vec![Reason::Cancelled],
            State::Scheduled | State::Paused | State::Trial => {
                let started = at >= start_time;
                let in_trial = trial_end_time.is_some_and(|end| at < end);
                let all = [
                    (!started, Reason::NotStarted),
                    (started && in_trial, Reason::InTrial),
                    (paused, Reason::Paused),
                ];
                all.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason).collect()
            }
        }
    }
}

/// Why a subscription with this life, price, quantity and discount counts at an instant, or does
/// not.
pub fn reasons(
    life: &Life,
    price: Amount,
    quantity: i64,
    discount: Discount,
    at: DateTime<Utc>,
) -> Vec<Reason> {
    let mut reasons = life.reasons(at);
    if reasons == [Reason::Counted] {
        let nothing = [
            (price == Amount::default(), Reason::Free),
            (discount == Discount::ALL, Reason::FullDiscount),
            (quantity == 0, Reason::NoQuantity),
        ];
        reasons.extend(nothing.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason));
    }
    reasons
}

/// An amount times what a discount leaves of it in millionths, which is exact.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub struct Discounted(Amount);

impl FromSql<Numeric, Pg> for Discounted {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<Numeric, Pg>::from_sql(value).map(Self)
    }
}

impl Interval {
    /// Converts what is paid for one interval into the amount for a month, in the [`parts`] of an
    /// interval of one unit: divided by `count` and by the number of parts, it is in whole units of
    /// the currency.
    fn undivided(self, paid: Discounted) -> BigInt {
        let a_year = match self.unit {
            Unit::Day => 365,
            Unit::Week => 52,
            Unit::Month => 12,
            Unit::Year => 1,
        };
        BigInt::from(paid.0.0) * a_year
    }
}

impl Rate {
    /// What an amount for one interval comes to for a month.
    pub fn monthly(&self, amount: Amount) -> BigRational {
        let paid = self.discount.of(amount);
        BigRational::new(self.interval.undivided(paid), parts() * self.interval.count)
    }
}

/// Billionths of a unit of the currency, millionths of the price and months of a year, multiplied.
fn parts() -> BigInt {
    BigInt::from(UNIT) * Discount::ALL.0 * 12
}

/// The sums of what counts, by currency. Of each the whole numbers are added first that have the
/// same denominator, the number of units in an interval: fractions take longer.
#[derive(Debug, Default)]
pub struct Sums(BTreeMap<String, BTreeMap<i32, BigInt>>);

impl Sums {
    /// Adds what is paid for an interval, in a currency.
    pub fn add(&mut self, currency: String, interval: Interval, paid: Discounted) {
        let by_count = self.0.entry(currency).or_default();
        *by_count.entry(interval.count).or_default() += interval.undivided(paid);
    }

    /// The revenue of a month and of a year in each currency, by its code. Each is rounded once.
    pub fn rounded(self) -> Result<Vec<(Money, Money)>> {
        let both = |(currency, by_count): (String, BTreeMap<i32, BigInt>)| {
            let fractions = by_count.into_iter();
            let fractions = fractions.map(|(count, sum)| BigRational::new(sum, count.into()));
            let sum = fractions.sum::<BigRational>() / parts();
            let a_year = &sum * BigInt::from(12);
            Ok((rounded(&sum, &currency)?, rounded(&a_year, &currency)?))
        };
        self.0.into_iter().map(both).collect()
    }
}

/// Rounds half up to the minor unit of the currency.
fn rounded(sum: &BigRational, currency: &str) -> Result<Money> {
    let decimals = currency::decimals(currency);
    let smallest = UNIT / 10_i128.pow(decimals);
    // `google.type.Money` has 64 bits for the units.
    let amount = i128::try_from(half_up(sum, decimals))
        .ok()
        .and_then(|minor| minor.checked_mul(smallest))
        .filter(|amount| i64::try_from(amount / UNIT).is_ok())
        .ok_or_else(|| Error::internal(format!("revenue in {currency} is too large for Money")))?;
    Ok(Money { amount: Amount(amount), currency: currency.to_owned() })
}

/// A number that is not negative in units of its last decimal, rounded half up.
fn half_up(number: &BigRational, decimals: u32) -> BigInt {
    let half = BigRational::new(1.into(), 2.into());
    (number * BigInt::from(10).pow(decimals) + half).floor().to_integer()
}

/// A number that is not negative as a decimal, rounded half up to 12 decimals, without zeros at the
/// end.
pub fn shown(number: &BigRational) -> String {
    let width = usize::try_from(SHOWN).unwrap_or_default() + 1;
    let digits = format!("{:0>width$}", half_up(number, SHOWN).to_string());
    let (units, decimals) = digits.split_at(digits.len() + 1 - width);
    let decimals = decimals.trim_end_matches('0');
    if decimals.is_empty() { units.to_owned() } else { format!("{units}.{decimals}") }
}

#[cfg(test)]
mod tests;
