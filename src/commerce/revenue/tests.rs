//! Examples by name (K01 and so on), the states as a table, and random sums against another model.

use super::{Unit::*, *};

/// Seconds after 2027-03-15T12:00:00Z.
fn second(after: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_805_112_000 + after, 0).unwrap()
}

/// Microseconds after that.
fn micro(after: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_805_112_000_000_000 + after).unwrap()
}

/// A decimal number in billionths.
fn billionths(text: &str) -> i128 {
    let (units, decimals) = text.split_once('.').unwrap_or((text, ""));
    format!("{units}{decimals:0<9}").parse().unwrap()
}

/// A subscription of an example: price, currency, quantity, interval, discount in millionths.
type Example<'a> = (&'a str, &'a str, i64, (i32, Unit), i32);

/// What examples come to, as people write it: the month and the year of each currency.
fn revenue(examples: &[Example<'_>]) -> (String, String) {
    let mut sums = Sums::default();
    for (price, currency, quantity, (count, unit), discount) in examples {
        let amount = Amount(billionths(price) * i128::from(*quantity));
        let paid = Discount(*discount).of(amount);
        sums.add((*currency).to_owned(), Interval { unit: *unit, count: *count }, paid);
    }
    let rounded = sums.rounded().unwrap();
    let months: Vec<_> = rounded.iter().map(|(month, _)| month.to_string()).collect();
    let years: Vec<_> = rounded.iter().map(|(_, year)| year.to_string()).collect();
    (months.join(", "), years.join(", "))
}

#[test]
fn prices_come_to_what_the_examples_say() {
    let three = |example| [example; 3].to_vec();
    for (name, examples, month, year) in [
        ("K01", vec![("99.00", "EUR", 1, (1, Month), 0)], "99.00 EUR", "1188.00 EUR"),
        ("K03", vec![("1000.00", "EUR", 1, (1, Year), 0)], "83.33 EUR", "1000.00 EUR"),
        ("K06", vec![("2400.00", "USD", 1, (2, Year), 0)], "100.00 USD", "1200.00 USD"),
        ("K07", vec![("100.00", "EUR", 1, (1, Week), 0)], "433.33 EUR", "5200.00 EUR"),
        ("K11", vec![("1.00", "USD", 1, (1, Day), 0)], "30.42 USD", "365.00 USD"),
        ("K13", vec![("7", "JPY", 1, (1, Week), 0)], "30 JPY", "364 JPY"),
        ("K15", vec![("30", "JPY", 1, (1, Year), 0)], "3 JPY", "30 JPY"),
        ("K22", three(("1.00", "EUR", 1, (1, Year), 0)), "0.25 EUR", "3.00 EUR"),
        ("K23", three(("0.025", "EUR", 1, (3, Month), 0)), "0.03 EUR", "0.30 EUR"),
        ("K24", vec![("100.00", "EUR", 1, (1, Month), 333_330)], "66.67 EUR", "800.00 EUR"),
        ("K26", vec![("49.00", "EUR", 1, (1, Month), 1_000_000)], "0.00 EUR", "0.00 EUR"),
        ("K29", vec![("10000.00", "USD", 1, (1, Month), 999_999)], "0.01 USD", "0.12 USD"),
        (
            "K45",
            vec![
                ("1200.00", "EUR", 2, (1, Year), 0),
                ("15.00", "EUR", 1, (1, Month), 100_000),
                ("500", "JPY", 1, (1, Week), 0),
                ("12.345", "KWD", 1, (2, Month), 0),
                ("9.99", "USD", 1, (7, Day), 0),
            ],
            "213.50 EUR, 2167 JPY, 6.173 KWD, 43.41 USD",
            "2562.00 EUR, 26000 JPY, 74.070 KWD, 520.91 USD",
        ),
        (
            "the issue's",
            vec![("1000.00", "EUR", 3, (1, Year), 100_000), ("10", "JPY", 1, (1, Week), 0)],
            "225.00 EUR, 43 JPY",
            "2700.00 EUR, 520 JPY",
        ),
        ("nothing", vec![], "", ""),
    ] {
        assert_eq!(revenue(&examples), (month.into(), year.into()), "{name}");
    }
}

/// The life of a subscription that starts at noon with this end of its trial, stated end, end of
/// the cancellation, and pause.
fn life(
    trial: Option<DateTime<Utc>>,
    stated: Option<DateTime<Utc>>,
    cancelled: Option<DateTime<Utc>>,
    paused: bool,
) -> Life {
    let times =
        Times { start_time: second(0), trial_end_time: trial, stated_end_time: stated, paused };
    Life::of(times, &Cancellation { end: cancelled, ..Cancellation::default() })
}

#[test]
fn the_state_follows_from_the_times_to_the_microsecond() {
    use State::*;
    let at = |after| Some(second(after));
    let (before, noon, open) = (micro(-1), second(0), life(None, None, None, false));
    for (life, time, expected) in [
        (open, before, Scheduled),
        (open, noon, Active),
        (life(None, None, None, true), before, Scheduled),
        (life(None, None, None, true), noon, Paused),
        // Paused stands above the trial.
        (life(at(9), None, None, true), noon, Paused),
        (life(at(9), None, None, false), noon, Trial),
        (life(at(1), None, None, false), micro(999_999), Trial),
        (life(at(1), None, None, false), second(1), Active),
        (life(None, at(1), None, false), micro(999_999), Active),
        (life(None, at(1), None, false), second(1), Ended),
        (life(None, at(1), None, true), second(1), Ended),
        // A trial that outlasts the subscription ends with it.
        (life(at(9), at(1), None, false), second(1), Ended),
        // A cancellation to come, in effect, and later than the stated end.
        (life(None, None, at(5), false), second(4), Active),
        (life(None, None, at(5), false), second(5), Cancelled),
        (life(None, at(9), at(5), true), second(5), Cancelled),
        (life(None, at(1), at(5), false), second(0), Active),
        (life(None, at(1), at(5), false), second(1), Cancelled),
        // Cancelled before it started: at once, though its end lies ahead.
        (life(None, None, at(0), false), before, Cancelled),
        (life(None, at(0), None, false), before, Scheduled),
        (life(None, at(0), None, false), noon, Ended),
    ] {
        assert_eq!(life.state(time), expected, "{life:?} at {time}");
        assert_eq!(life.counts(time), expected == Active);
    }
}

/// K35, K36, K38, K43, and when each counts otherwise.
#[test]
fn a_subscription_counts_from_the_end_of_its_trial_to_its_end() {
    let start = Times {
        start_time: second(-100),
        trial_end_time: None,
        stated_end_time: None,
        paused: false,
    };
    let noon = second(0);
    let explained = |times: Times| {
        let life = Life::of(times, &Cancellation::default());
        (reasons(&life, Amount(1), 1, Discount::default(), noon), life.changes(noon))
    };
    let at = |after| Some(second(after));
    let trial = |after| Times { trial_end_time: at(after), ..start };
    let ending = |after| Times { stated_end_time: at(after), ..start };
    assert_eq!(explained(start), (vec![Reason::Counted], None));
    assert_eq!(explained(trial(1)), (vec![Reason::InTrial], at(1)), "K35");
    assert_eq!(explained(trial(0)), (vec![Reason::Counted], None), "K36");
    assert_eq!(explained(ending(0)), (vec![Reason::Ended], None), "K38");
    assert_eq!(explained(ending(1)), (vec![Reason::Counted], at(1)));
    let paused = Times { paused: true, ..trial(1) };
    assert_eq!(explained(paused), (vec![Reason::InTrial, Reason::Paused], None), "K43");
    let later = Times { start_time: second(5), trial_end_time: at(9), ..paused };
    assert_eq!(explained(later), (vec![Reason::NotStarted, Reason::Paused], None));
    let unpaused = Times { paused: false, ..later };
    assert_eq!(explained(unpaused), (vec![Reason::NotStarted], at(9)));
    let swallowed = Times { stated_end_time: at(1), ..trial(1) };
    assert_eq!(explained(swallowed), (vec![Reason::InTrial], None), "it ends with its trial");
    let cancelled = Life::of(start, &Cancellation { end: at(0), ..Cancellation::default() });
    assert_eq!(reasons(&cancelled, Amount(0), 0, Discount::ALL, noon), [Reason::Cancelled]);
    assert_eq!(
        reasons(&cancelled, Amount(0), 0, Discount::ALL, micro(-1)),
        [Reason::Counted, Reason::Free, Reason::FullDiscount, Reason::NoQuantity]
    );
}

#[test]
fn what_one_subscription_adds_is_shown_to_twelve_places() {
    for (price, interval, expected) in [
        ("1000", (1, Year), "83.333333333333"),
        ("0.000000001", (366, Year), "0"),
        ("0.000000006", (1, Year), "0.0000000005"),
        ("0.000000001", (9, Year), "0.000000000009"),
        ("0.000000001", (24, Year), "0.000000000003"),
        ("12.5", (1, Month), "12.5"),
        ("0", (1, Month), "0"),
        ("9999999999999.999999999", (1, Day), "304166666666666.666666636250"),
    ] {
        let (count, unit) = interval;
        let rate = Rate { interval: Interval { unit, count }, discount: Discount::default() };
        let expected =
            if expected.contains('.') { expected.trim_end_matches('0') } else { expected };
        assert_eq!(shown(&rate.monthly(Amount(billionths(price)))), expected, "{price}");
    }
}

#[test]
fn a_sum_that_money_cannot_hold_is_an_error() {
    let mut sums = Sums::default();
    let paid = Discount::default().of(Amount(i128::from(i64::MAX) * UNIT));
    sums.add("EUR".into(), Interval { unit: Day, count: 1 }, paid);
    assert!(sums.rounded().is_err());
}

/// Numbers that look random, from a seed.
struct Numbers(u64);

impl Numbers {
    /// The next one, below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The model works with whole numbers only: all amounts have one denominator, the least common
/// multiple of 1 to 366, and two whole divisions round.
#[test]
fn random_sums_agree_with_a_model_of_whole_numbers() {
    let common = (1..=366_u32).fold(BigInt::from(1), |all, number| {
        let number = BigInt::from(number);
        let (mut one, mut other) = (all.clone(), number.clone());
        while other != BigInt::default() {
            (one, other) = (other.clone(), one % other);
        }
        all * number / one
    });
    let mut numbers = Numbers(13);
    let currencies = ["EUR", "JPY", "KWD", "USD"];
    let units = [(Day, 365), (Week, 52), (Month, 12), (Year, 1)];
    for round in 0..300 {
        let (mut sums, mut model) = (Sums::default(), BTreeMap::<&str, BigInt>::new());
        for _ in 0..=numbers.below(30) {
            let currency = currencies[usize::try_from(numbers.below(4)).unwrap()];
            let (unit, a_year) = units[usize::try_from(numbers.below(4)).unwrap()];
            let count = i32::try_from(numbers.below(366) + 1).unwrap();
            let digits = numbers.below(20);
            let amount = i128::from(numbers.below(u64::MAX))
                % 10_i128.pow(u32::try_from(digits).unwrap() + 3);
            let discount = match numbers.below(3) {
                0 => 0,
                1 => 1_000_000,
                _ => i32::try_from(numbers.below(1_000_001)).unwrap(),
            };
            let paid = Discount(discount).of(Amount(amount));
            sums.add(currency.into(), Interval { unit, count }, paid);
            let exact = BigInt::from(amount) * (1_000_000 - discount) * a_year * (&common / count);
            *model.entry(currency).or_default() += exact;
        }
        let whole = BigInt::from(12_000_000) * UNIT * &common;
        let expected = model.into_iter().map(|(currency, sum)| {
            let decimals = currency::decimals(currency);
            let minor = |times: u32| {
                (2 * times * &sum * BigInt::from(10).pow(decimals) + &whole) / (2 * &whole)
            };
            (currency.to_owned(), minor(1), minor(12))
        });
        let minor = |money: &Money| {
            BigInt::from(money.amount.0 / (UNIT / 10_i128.pow(currency::decimals(&money.currency))))
        };
        let found = sums.rounded().unwrap();
        let found = found.iter().map(|(a, b)| (a.currency.clone(), minor(a), minor(b)));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "round {round}");
    }
}
