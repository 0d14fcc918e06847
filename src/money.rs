//! Money: an exact amount with its currency.
//!
//! An amount is a whole number of billionths, the precision of `google.type.Money`. Stored it is a
//! `numeric(22,9)` beside a text, so that SQL can add amounts and no rounding happens anywhere. No
//! type of a decimal crate is needed: nothing is computed here.

use std::fmt::{self, Display};

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue, data_types::PgNumeric},
    serialize::{self, Output, ToSql},
    sql_types::Numeric,
};
use serde::{Serialize, Serializer};

use crate::{currency, proto::google::r#type as proto, validate::Violations};

/// Billionths in a unit.
pub const UNIT: i128 = 1_000_000_000;
/// Decimals of an amount.
const DECIMALS: usize = 9;
/// The first number of units that is too large.
pub const TOO_MANY: i64 = 10_000_000_000_000;
/// Base of PostgreSQL's digits.
const BASE: i128 = 10_000;
/// PostgreSQL groups decimals by four, so an amount has this many groups of decimals.
const GROUPS: i16 = 3;
/// What makes of billionths the unit of the last of these groups.
const PADDING: i128 = 1_000;

/// The rule for the code of a currency.
pub const NO_CODE: &str = "must be a currency code of ISO 4217 in upper case, such as EUR";

/// What an amount is for, which decides what it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Agreed or paid: not negative, and a multiple of the currency's minor unit.
    Agreed,
    /// A price: not negative, up to 9 decimals.
    Price,
    /// A forecast: up to 9 decimals, and negative where less is expected than before.
    Forecast,
}

/// An exact amount, in billionths of the currency's unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, FromSqlRow, AsExpression)]
#[diesel(sql_type = Numeric)]
pub struct Amount(pub i128);

/// An amount with its currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// How much.
    pub amount: Amount,
    /// The currency's code. Empty until [`Violations::currency`] has filled in the default.
    pub currency: String,
}

/// Declares the two columns of an amount that a row may have, as a part of the row that Diesel
/// embeds. The trail has both as one text, `"1000.00 EUR"`.
macro_rules! money_columns {
    ($(#[$doc:meta])* pub struct $name:ident = $table:ident($amount:ident, $currency:ident)) => {
        $(#[$doc])*
        #[derive(
            Debug,
            Clone,
            Default,
            PartialEq,
            Eq,
            diesel::Queryable,
            diesel::Selectable,
            diesel::Insertable,
            diesel::AsChangeset,
        )]
        #[diesel(table_name = $table, check_for_backend(diesel::pg::Pg))]
        #[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
        pub struct $name {
            $amount: Option<$crate::money::Amount>,
            $currency: Option<String>,
        }

        impl $name {
            /// The money in these columns.
            pub fn get(&self) -> Option<$crate::money::Money> {
                let (amount, currency) = (self.$amount?, self.$currency.clone()?);
                Some($crate::money::Money { amount, currency })
            }
        }

        impl From<Option<$crate::money::Money>> for $name {
            fn from(money: Option<$crate::money::Money>) -> Self {
                let (amount, currency) =
                    money.map(|money| (money.amount, money.currency)).unzip();
                Self { $amount: amount, $currency: currency }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.get().serialize(to)
            }
        }
    };
}
pub(crate) use money_columns;

/// Declares the two columns of an amount that a row always has, like [`money_columns`].
macro_rules! required_money_columns {
    ($(#[$doc:meta])* pub struct $name:ident = $table:ident($amount:ident, $currency:ident)) => {
        $(#[$doc])*
        #[derive(
            Debug,
            Clone,
            PartialEq,
            Eq,
            diesel::Queryable,
            diesel::Selectable,
            diesel::Insertable,
            diesel::AsChangeset,
        )]
        #[diesel(table_name = $table, check_for_backend(diesel::pg::Pg))]
        #[diesel(treat_none_as_default_value = false)]
        pub struct $name {
            $amount: $crate::money::Amount,
            $currency: String,
        }

        impl $name {
            /// The money in these columns.
            pub fn get(&self) -> $crate::money::Money {
                $crate::money::Money { amount: self.$amount, currency: self.$currency.clone() }
            }
        }

        impl From<$crate::money::Money> for $name {
            fn from($crate::money::Money { amount, currency }: $crate::money::Money) -> Self {
                Self { $amount: amount, $currency: currency }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                self.get().serialize(to)
            }
        }
    };
}
pub(crate) use required_money_columns;

impl Violations {
    /// Parses an amount; a message without content is `None`, as for dates. An amount without a
    /// currency is completed inside the transaction, by [`Violations::currency`].
    pub fn money(
        &mut self,
        field: impl Display,
        money: Option<proto::Money>,
        purpose: Purpose,
    ) -> Option<Money> {
        let proto::Money { currency_code, units, nanos } =
            money.filter(|money| *money != proto::Money::default())?;
        if nanos.unsigned_abs() >= 1_000_000_000 {
            self.add(format_args!("{field}.nanos"), "must be between -999999999 and 999999999");
        } else if i64::from(nanos.signum()) * units.signum() < 0 {
            self.add(format_args!("{field}.nanos"), "must have the sign of units");
        }
        if units.unsigned_abs() >= TOO_MANY.unsigned_abs() {
            self.add(format_args!("{field}.units"), format!("must be below {TOO_MANY}"));
        }
        let amount = Amount(i128::from(units) * UNIT + i128::from(nanos));
        if purpose != Purpose::Forecast && amount < Amount::default() {
            self.add(&field, "must not be negative");
        }
        let money = Money { amount, currency: currency_code };
        if !money.currency.is_empty() {
            if currency::is_known(&money.currency) {
                self.minor_unit(&field, &money, purpose);
            } else {
                self.add(format_args!("{field}.currency_code"), NO_CODE);
            }
        }
        Some(money)
    }

    /// Gives an amount without a currency the default of the tenant, and checks the amount by it.
    pub fn currency(
        &mut self,
        field: impl Display,
        money: &mut Option<Money>,
        purpose: Purpose,
        default: Option<&str>,
    ) {
        let Some(money) = money.as_mut().filter(|money| money.currency.is_empty()) else { return };
        if let Some(default) = default {
            default.clone_into(&mut money.currency);
            self.minor_unit(&field, money, purpose);
        } else {
            self.add(
                format_args!("{field}.currency_code"),
                "is required: the settings of the tenant have no default_currency",
            );
        }
    }

    /// Parses an amount that must be there.
    pub fn required_money(
        &mut self,
        field: impl Display,
        money: Option<proto::Money>,
        purpose: Purpose,
    ) -> Money {
        let money = self.money(&field, money, purpose);
        money.unwrap_or_else(|| {
            self.add(field, "is required");
            Money { amount: Amount::default(), currency: String::new() }
        })
    }

    /// Rejects a fraction of the currency's minor unit in an amount that people have agreed on.
    fn minor_unit(&mut self, field: &dyn Display, money: &Money, purpose: Purpose) {
        let decimals = currency::decimals(&money.currency);
        let smallest = UNIT / 10_i128.pow(decimals);
        if purpose == Purpose::Agreed && money.amount.0 % smallest != 0 {
            let currency = &money.currency;
            let rule = match decimals {
                0 => format!("must be a whole number of {currency}"),
                _ => format!("must have at most {decimals} decimals in {currency}"),
            };
            self.add(field, rule);
        }
    }
}

impl From<Money> for proto::Money {
    fn from(money: Money) -> Self {
        let Money { amount: Amount(amount), currency } = money;
        // The column holds fewer digits than both numbers have.
        Self {
            currency_code: currency,
            units: i64::try_from(amount / UNIT).unwrap_or_default(),
            nanos: i32::try_from(amount % UNIT).unwrap_or_default(),
        }
    }
}

/// As people write it, with the decimals of the currency, or more where the amount has more.
impl Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { amount: Amount(amount), currency } = self;
        let (units, rest) = (amount.abs() / UNIT, amount.abs() % UNIT);
        let rest = format!("{rest:0DECIMALS$}");
        let least = usize::try_from(currency::decimals(currency)).unwrap_or_default();
        let shown = rest.trim_end_matches('0').len().max(least);
        let sign = if *amount < 0 { "-" } else { "" };
        let point = if shown > 0 { "." } else { "" };
        write!(f, "{sign}{units}{point}{} {currency}", &rest[..shown])
    }
}

/// Text, because the numbers of `google.protobuf.Value` are doubles.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl ToSql<Numeric, Pg> for Amount {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let mut rest = self.0.abs() * PADDING;
        let mut digits = Vec::new();
        while rest > 0 {
            digits.insert(0, i16::try_from(rest % BASE)?);
            rest /= BASE;
        }
        let weight = i16::try_from(digits.len())? - 1 - GROUPS;
        let scale = u16::try_from(DECIMALS)?;
        let numeric = if self.0 < 0 {
            PgNumeric::Negative { weight, scale, digits }
        } else {
            PgNumeric::Positive { weight, scale, digits }
        };
        ToSql::<Numeric, Pg>::to_sql(&numeric, &mut out.reborrow())
    }
}

impl FromSql<Numeric, Pg> for Amount {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let (sign, weight, digits) = match PgNumeric::from_sql(value)? {
            PgNumeric::Positive { weight, digits, .. } => (1, weight, digits),
            PgNumeric::Negative { weight, digits, .. } => (-1, weight, digits),
            PgNumeric::NaN => return Err("an amount that is not a number".into()),
        };
        Self::from_digits(weight, &digits)
            .map(|Self(amount)| Self(sign * amount))
            .ok_or_else(|| "an amount with more digits than its column has".into())
    }
}

impl Amount {
    /// The amount with these digits of PostgreSQL, the first of which has this weight.
    fn from_digits(weight: i16, digits: &[i16]) -> Option<Self> {
        let mut padded: i128 = 0;
        for (group, digit) in (0_i16..).zip(digits) {
            let power = u32::try_from(weight.checked_sub(group)?.checked_add(GROUPS)?).ok()?;
            let value = BASE.checked_pow(power)?.checked_mul(i128::from(*digit))?;
            padded = padded.checked_add(value)?;
        }
        (padded % PADDING == 0).then_some(Self(padded / PADDING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(units: i64, nanos: i32, currency: &str) -> proto::Money {
        proto::Money { currency_code: currency.into(), units, nanos }
    }

    /// The money that is parsed with this default, and the violations as text.
    fn parsed(
        sent: impl Into<Option<proto::Money>>,
        purpose: Purpose,
        default: Option<&str>,
    ) -> Result<Option<Money>, String> {
        let mut v = Violations::default();
        let mut money = v.money("value", sent.into(), purpose);
        v.currency("value", &mut money, purpose, default);
        v.finish(money).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn an_amount_is_what_units_and_nanos_say_and_goes_back_as_that() {
        for (units, nanos, text) in [
            (1000, 0, "1000.00 EUR"),
            (0, 0, "0.00 EUR"),
            (-1, -750_000_000, "-1.75 EUR"),
            (0, -1, "-0.000000001 EUR"),
            (0, 25_000_000, "0.025 EUR"),
            (9_999_999_999_999, 999_999_999, "9999999999999.999999999 EUR"),
        ] {
            let parsed = parsed(money(units, nanos, "EUR"), Purpose::Forecast, None).unwrap();
            let parsed = parsed.unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(serde_json::to_value(&parsed).unwrap(), text);
            assert_eq!(proto::Money::from(parsed), money(units, nanos, "EUR"));
        }
        for (currency, text) in [("JPY", "7 JPY"), ("KWD", "7.000 KWD"), ("CHF", "7.00 CHF")] {
            let parsed = parsed(money(7, 0, currency), Purpose::Agreed, None).unwrap().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        for none in [None, Some(money(0, 0, ""))] {
            assert_eq!(parsed(none, Purpose::Agreed, Some("EUR")).unwrap(), None);
        }
    }

    #[test]
    fn signs_agree_and_nanos_and_units_are_bounded() {
        for (units, nanos, field, rule) in [
            (1, -1, "value.nanos", "must have the sign of units"),
            (-1, 1, "value.nanos", "must have the sign of units"),
            (0, 1_000_000_000, "value.nanos", "must be between"),
            (0, i32::MIN, "value.nanos", "must be between"),
            (TOO_MANY, 0, "value.units", "must be below 10000000000000"),
            (i64::MIN, 0, "value.units", "must be below 10000000000000"),
            (i64::MAX, 999_999_999, "value.units", "must be below 10000000000000"),
        ] {
            let error = parsed(money(units, nanos, "EUR"), Purpose::Forecast, None).unwrap_err();
            assert!(error.contains(field) && error.contains(rule), "{units} {nanos}: {error}");
        }
    }

    #[test]
    fn only_forecasts_are_negative() {
        for purpose in [Purpose::Agreed, Purpose::Price] {
            let error = parsed(money(-1, 0, "EUR"), purpose, None).unwrap_err();
            assert!(error.contains("must not be negative"), "{error}");
        }
        assert!(parsed(money(-1, 0, "EUR"), Purpose::Forecast, None).is_ok());
    }

    #[test]
    fn what_is_agreed_is_a_multiple_of_the_minor_unit() {
        for (nanos, currency, rule) in [
            (10_000_000, "EUR", None),
            (1_000_000, "EUR", Some("must have at most 2 decimals in EUR")),
            (1_000_000, "KWD", None),
            (100_000, "KWD", Some("must have at most 3 decimals in KWD")),
            (500_000_000, "JPY", Some("must be a whole number of JPY")),
        ] {
            for (sent, default) in [(currency, None), ("", Some(currency))] {
                let found = parsed(money(1, nanos, sent), Purpose::Agreed, default);
                match (&found, rule) {
                    (Ok(Some(money)), None) => assert_eq!(money.currency, currency),
                    (Err(error), Some(rule)) => assert!(error.contains(rule), "{error}"),
                    _ => panic!("{nanos} {currency}: {found:?}"),
                }
                assert!(parsed(money(1, nanos, sent), Purpose::Price, default).is_ok());
            }
        }
    }

    #[test]
    fn the_currency_is_known_or_the_default_of_the_tenant() {
        for code in ["eur", "XXX", "EURO", " "] {
            let error = parsed(money(1, 0, code), Purpose::Price, Some("EUR")).unwrap_err();
            assert!(error.contains("value.currency_code") && error.contains(NO_CODE), "{error}");
        }
        let error = parsed(money(1, 0, ""), Purpose::Price, None).unwrap_err();
        assert!(error.contains("value.currency_code") && error.contains("is required"), "{error}");
        let chosen = parsed(money(1, 0, "USD"), Purpose::Price, Some("EUR")).unwrap().unwrap();
        assert_eq!(chosen.currency, "USD");
    }

    #[test]
    fn digits_of_the_database_are_exact() {
        for (weight, digits, amount) in [
            (0, &[][..], Some(0)),
            (0, &[1], Some(UNIT)),
            (1, &[1], Some(10_000 * UNIT)),
            (-1, &[2500], Some(UNIT / 4)),
            (-3, &[1000], Some(1)),
            (0, &[12, 3456, 7890, 1000], Some(12_345_678_901)),
            (3, &[9, 9999, 9999, 9999, 9999, 9999, 9000], Some(i128::from(TOO_MANY) * UNIT - 1)),
            (-3, &[100], None),
            (-4, &[1000], None),
            (30, &[1], None),
        ] {
            assert_eq!(Amount::from_digits(weight, digits).map(|found| found.0), amount);
        }
    }
}
