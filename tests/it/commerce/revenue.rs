//! Recurring revenue through the API: examples by name, trees of organizations, reasons,
//! and random subscriptions against a model of whole numbers.

use std::collections::BTreeMap;

use customer_accounts::{
    currency,
    proto::{
        CalculateRecurringRevenueRequest, CalculateRecurringRevenueResponse, IntervalUnit,
        ModuleSetting::Off, RevenueReason as Reason, Subscription,
    },
};
use num_bigint::BigInt;
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::Status;

use super::{ending, scene};
use crate::{
    lists::execute,
    support::{
        Tenant, account,
        commerce::{at, subscription, written},
        dice::{Dice, seed},
        refusal,
        sales::money,
        violations,
    },
};

async fn calculate(
    tenant: &Tenant,
    request: CalculateRecurringRevenueRequest,
) -> Result<CalculateRecurringRevenueResponse, Status> {
    let response = tenant.commerce().calculate_recurring_revenue(request).await;
    response.map(tonic::Response::into_inner)
}

/// What an account comes to at a time, explained.
fn of_account(account_id: &str, as_of_time: Timestamp) -> CalculateRecurringRevenueRequest {
    CalculateRecurringRevenueRequest {
        account_id: account_id.into(),
        as_of_time: Some(as_of_time),
        explain: true,
        ..Default::default()
    }
}

/// The sums as people write them: month and year of each currency.
fn sums(answer: &CalculateRecurringRevenueResponse) -> String {
    let sums = answer.recurring_revenue.iter().cloned();
    let sums = sums.map(|it| format!("{} / {}", written(it.mrr), written(it.arr)));
    sums.collect::<Vec<_>>().join(", ")
}

/// A price for an interval, from long ago.
fn priced(
    id: &str,
    price: (i64, i32, &str),
    quantity: i64,
    interval: (i32, IntervalUnit),
    discount_percent: f64,
) -> Subscription {
    let (units, nanos, currency) = price;
    Subscription {
        unit_amount: Some(money(units, nanos, currency)),
        quantity: Some(quantity),
        interval: interval.1.into(),
        interval_count: interval.0,
        discount_percent,
        ..subscription(id, "a")
    }
}

#[tokio::test]
async fn sums_are_exact_and_rounded_once() {
    use IntervalUnit::{Day, Month, Week, Year};
    let tenant = scene().await;
    for stored in [
        priced("yearly", (1000, 0, "EUR"), 3, (1, Year), 10.0),
        priced("weekly", (10, 0, "JPY"), 1, (1, Week), 0.0),
        priced("day", (1, 0, "USD"), 1, (1, Day), 0.0),
        priced("kwd", (12, 345_000_000, "KWD"), 1, (2, Month), 0.0),
        priced("free", (49, 0, "CHF"), 1, (1, Month), 100.0),
        Subscription {
            trial_end_time: Some(at(1)),
            ..priced("trial", (5, 0, "GBP"), 1, (1, Month), 0.0)
        },
    ] {
        tenant.subscription(stored).await;
    }
    let answer = calculate(&tenant, of_account("a", at(0))).await.unwrap();
    assert_eq!(
        sums(&answer),
        "0 CHF / 0 CHF, 225 EUR / 2700 EUR, 43 JPY / 520 JPY, 6.173 KWD / 74.07 KWD, \
         30.42 USD / 365 USD"
    );
    assert_eq!((answer.subscription_count, answer.account_count), (5, 1));
    for id in ["x", "y", "z"] {
        let third = priced(id, (0, 25_000_000, "EUR"), 1, (3, Month), 0.0);
        tenant.subscription(Subscription { account_id: "b".into(), ..third }).await;
    }
    let answer = calculate(&tenant, of_account("b", at(0))).await.unwrap();
    assert_eq!(sums(&answer), "0.03 EUR / 0.30 EUR");
    let nothing = calculate(&tenant, of_account("a", at(-1_000_000_000))).await.unwrap();
    assert_eq!(
        (sums(&nothing), nothing.subscription_count, nothing.account_count),
        (String::new(), 0, 0)
    );
}

/// K35 to K52: one second more or less, at any offset from UTC.
#[tokio::test]
async fn each_subscription_says_why_it_counts_and_until_when() {
    let tenant = scene().await;
    for stored in [
        Subscription { trial_end_time: Some(at(1)), ..ending(None) },
        Subscription { end_time: Some(at(0)), subscription_id: "t".into(), ..ending(None) },
        Subscription {
            paused: true,
            trial_end_time: Some(at(9)),
            subscription_id: "u".into(),
            ..ending(None)
        },
        Subscription { subscription_id: "v".into(), ..ending(Some(at(1))) },
        Subscription {
            quantity: Some(0),
            subscription_id: "w".into(),
            discount_percent: 100.0,
            ..ending(None)
        },
        Subscription { start_time: Some(at(5)), subscription_id: "x".into(), ..ending(None) },
        Subscription { subscription_id: "y".into(), ..ending(None) },
    ] {
        tenant.subscription(stored).await;
    }
    tenant.cancel_subscription("y", Some(at(-1))).await.unwrap();
    let explained = async |as_of_time| {
        let answer = calculate(&tenant, of_account("a", as_of_time)).await.unwrap();
        assert_eq!(answer.as_of_time, Some(as_of_time));
        let one = answer.contributions.into_iter().map(|it| {
            let reasons: Vec<_> =
                it.reasons().map(|reason| reason.as_str_name()[15..].to_owned()).collect();
            let changes = it.changes_time.map(|time| time.seconds - at(0).seconds);
            let changes = changes.map(|after| format!(" until {after}")).unwrap_or_default();
            format!("{} {}{changes}", it.subscription_id, reasons.join("+"))
        });
        one.collect::<Vec<_>>()
    };
    assert!(Reason::Counted.as_str_name().starts_with("REVENUE_REASON_"));
    assert_eq!(
        explained(at(0)).await,
        [
            "s IN_TRIAL until 1",
            "t ENDED",
            "u IN_TRIAL+PAUSED",
            "v COUNTED until 1",
            "w COUNTED+FULL_DISCOUNT+NO_QUANTITY",
            "x NOT_STARTED until 5",
            "y CANCELLED",
        ]
    );
    assert_eq!(
        explained(at(1)).await,
        [
            "s COUNTED",
            "t ENDED",
            "u IN_TRIAL+PAUSED",
            "v ENDED",
            "w COUNTED+FULL_DISCOUNT+NO_QUANTITY",
            "x NOT_STARTED until 5",
            "y CANCELLED",
        ]
    );
    let now = CalculateRecurringRevenueRequest { account_id: "a".into(), ..Default::default() };
    let answer = calculate(&tenant, now).await.unwrap();
    assert_eq!((answer.as_of_time, sums(&answer)), (Some(at(0)), "10 EUR / 120 EUR".into()));
    assert!(answer.contributions.is_empty(), "nobody asked for an explanation");
    let third = Subscription { interval: IntervalUnit::Year.into(), ..subscription("k", "b") };
    tenant.subscription(third).await;
    let answer = calculate(&tenant, of_account("b", at(0))).await.unwrap();
    assert_eq!(answer.contributions[0].monthly_amount, "0.833333333333");
}

#[tokio::test]
async fn a_tree_of_organizations_has_what_the_caller_sees_of_it() {
    let (tenant, manager) = Tenant::regions().await;
    for (id, units) in [("oslo", 10), ("rome", 20)] {
        let unit_amount = Some(money(units, 0, "EUR"));
        let account_id = format!("{id}-account");
        tenant.subscription(Subscription { unit_amount, ..subscription(id, &account_id) }).await;
    }
    let below = |id: &str, include_descendants| CalculateRecurringRevenueRequest {
        organization_id: id.into(),
        include_descendants,
        ..Default::default()
    };
    let found = async |caller: &Tenant, id, descendants| {
        let answer = calculate(caller, below(id, descendants)).await.unwrap();
        (sums(&answer), answer.subscription_count, answer.account_count)
    };
    let ten = ("10 EUR / 120 EUR".to_owned(), 1, 1);
    assert_eq!(found(&tenant, "north", true).await, ten);
    assert_eq!(found(&tenant, "oslo", false).await, ten);
    assert_eq!(found(&tenant, "north", false).await, (String::new(), 0, 0));
    assert_eq!(found(&manager, "north", true).await, ten);
    assert_eq!(refusal(calculate(&manager, below("south", true)).await), "ORGANIZATION_NOT_FOUND");
    assert_eq!(
        refusal(calculate(&manager, of_account("rome-account", at(0))).await),
        "ACCOUNT_NOT_FOUND"
    );
    // Accounts for which the module is off are left out of the tree.
    tenant.set_module("commerce", "oslo", Off).await.unwrap();
    assert_eq!(found(&tenant, "north", true).await, (String::new(), 0, 0));
    assert_eq!(refusal(calculate(&tenant, below("oslo", false)).await), "MODULE_NOT_ACTIVATED");
    for (wrong, field) in [
        (CalculateRecurringRevenueRequest::default(), "account_id"),
        (
            CalculateRecurringRevenueRequest { account_id: "a".into(), ..below("b", false) },
            "account_id",
        ),
        (CalculateRecurringRevenueRequest { explain: true, ..below("b", false) }, "explain"),
    ] {
        assert_eq!(violations(calculate(&tenant, wrong).await)[0].0, field);
    }
}

/// Subscriptions with random prices and times, asked for at random moments. The model adds whole
/// numbers over one denominator.
#[tokio::test]
async fn random_subscriptions_agree_with_a_model_of_whole_numbers() {
    let tenant = scene().await;
    let seed = seed();
    let mut dice = Dice::seeded(seed);
    let common = (1..=366_u32).fold(BigInt::from(1), |all, number| {
        let (mut one, mut other) = (all.clone(), BigInt::from(number));
        while other != BigInt::from(0) {
            (one, other) = (other.clone(), one % other);
        }
        all * number / one
    });
    let units = [IntervalUnit::Day, IntervalUnit::Week, IntervalUnit::Month, IntervalUnit::Year];
    let micros = |micros: i64| Timestamp {
        seconds: at(0).seconds + micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap(),
    };
    let mut stored = Vec::new();
    for n in 0..150 {
        let pick = |dice: &mut Dice, below: i64| {
            i64::try_from(dice.roll(u64::try_from(below).unwrap())).unwrap()
        };
        let start = pick(&mut dice, 10) - 5;
        let trial = (pick(&mut dice, 3) == 0).then(|| start + pick(&mut dice, 5));
        let end = (pick(&mut dice, 3) == 0).then(|| start + pick(&mut dice, 8));
        let currency = ["EUR", "JPY", "KWD"][dice.index(3)];
        let discount = [0, 100_000, 333_330, 999_999, 1_000_000][dice.index(5)];
        let one = Subscription {
            start_time: Some(micros(start)),
            trial_end_time: trial.map(micros),
            end_time: end.map(micros),
            paused: pick(&mut dice, 6) == 0,
            ..priced(
                &format!("s{n}"),
                (
                    pick(&mut dice, 10_000),
                    i32::try_from(pick(&mut dice, 1_000_000_000)).unwrap(),
                    currency,
                ),
                pick(&mut dice, 20),
                (i32::try_from(pick(&mut dice, 366)).unwrap() + 1, units[dice.index(4)]),
                f64::from(discount) / 10_000.0,
            )
        };
        tenant.subscription(one.clone()).await;
        stored.push((one, start, trial, end, discount));
    }
    for moment in -6..8 {
        let mut model = BTreeMap::<String, BigInt>::new();
        for (one, start, trial, end, discount) in &stored {
            let in_trial = trial.is_some_and(|trial| moment < trial);
            if *start > moment || end.is_some_and(|end| moment >= end) || one.paused || in_trial {
                continue;
            }
            let price = one.unit_amount.clone().unwrap();
            let billionths = BigInt::from(price.units) * 1_000_000_000 + price.nanos;
            let a_year = [0, 365, 52, 12, 1][usize::try_from(one.interval).unwrap()];
            let exact = billionths * one.quantity.unwrap() * (1_000_000 - discount) * a_year;
            *model.entry(price.currency_code).or_default() +=
                exact * (&common / one.interval_count);
        }
        let whole = BigInt::from(12_000_000_000_000_000_i64) * &common;
        let expected: Vec<_> = model
            .iter()
            .map(|(code, sum)| {
                let scale = BigInt::from(10).pow(currency::decimals(code));
                let minor = |times: u32| (sum * 2 * times * &scale + &whole) / (&whole * 2);
                (code.clone(), minor(1), minor(12))
            })
            .collect();
        let answer = calculate(&tenant, of_account("a", micros(moment))).await.unwrap();
        let minor = |money: &customer_accounts::proto::google::r#type::Money| {
            let billionths = BigInt::from(money.units) * 1_000_000_000 + money.nanos;
            billionths * BigInt::from(10).pow(currency::decimals(&money.currency_code))
                / 1_000_000_000
        };
        let found: Vec<_> = answer
            .recurring_revenue
            .iter()
            .map(|it| {
                let (month, year) = (it.mrr.as_ref().unwrap(), it.arr.as_ref().unwrap());
                (month.currency_code.clone(), minor(month), minor(year))
            })
            .collect();
        assert_eq!(found, expected, "{moment} microseconds, seed {seed}");
    }
}

/// Ten thousand subscriptions of one account in many rates: one statement, far below 100 ms.
#[tokio::test]
async fn ten_thousand_subscriptions_are_summed_in_no_time() {
    let tenant = scene().await;
    tenant.account(account("full", "acme")).await;
    let fill = "INSERT INTO subscriptions (tenant_id, subscription_id, account_id, incarnation, display_name, product_code, unit_amount, \
        currency_code, quantity, interval_unit, interval_count, start_time, discount, paused, cancel_reason, metadata) \
        SELECT '$tenant', 'many-' || n, 'full', 'i', 'n', '', n, (ARRAY['EUR', 'JPY', 'USD'])[1 + n % 3], 1 + n % 7, \
        (ARRAY['DAY', 'WEEK', 'MONTH', 'YEAR'])[1 + n % 4], 1 + n % 366, '2026-01-01Z', n % 1000, false, '', '{}' \
        FROM generate_series(1, 10000) AS n";
    execute(&tenant, &fill.replace("$tenant", &tenant.caller.tenant)).await;
    let mut least = std::time::Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let request =
            CalculateRecurringRevenueRequest { explain: false, ..of_account("full", at(0)) };
        let answer = calculate(&tenant, request).await.unwrap();
        assert_eq!(answer.subscription_count, 10_000);
        least = least.min(began.elapsed());
    }
    eprintln!("10,000 subscriptions are summed in {least:?}");
    // This is without optimization and on a machine that does other things as well.
    assert!(least < std::time::Duration::from_millis(500), "{least:?}");
}
