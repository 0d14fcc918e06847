//! Subscriptions: Put by a service whose messages come late and twice, cancellations that only
//! `UncancelSubscription` undoes, and lists by the state of a moment.

mod orders;
mod overview;
mod revenue;

use std::collections::BTreeMap;

use customer_accounts::proto::{
    BatchGetSubscriptionsRequest, IntervalUnit, ListSubscriptionsRequest, Subscription,
    SubscriptionState::{self, Active, Cancelled, Ended, Paused, Scheduled, Trial},
    TenantSettings,
    google::r#type::Money,
};
use futures_util::future::join_all;
use prost_types::Timestamp;
use serde_json::json;

use crate::support::{
    Tenant, account,
    calls::metadata,
    commerce::{at, subscription},
    contracts::contract,
    refusal,
    sales::money,
    trail::replay,
    violations,
};

/// The moment at which the clock of [`scene`] stands: noon of a day.
const NOON: &str = "2027-03-15T12:00:00Z";

/// An organization `acme` with an account `a`, and `other` with `b`, at noon.
async fn scene() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.stop_clock(NOON);
    for (organization_id, account_id) in [("acme", "a"), ("other", "b")] {
        tenant.organization(organization_id, "").await;
        tenant.account(account(account_id, organization_id)).await;
    }
    tenant
}

/// A subscription `s` from -100 seconds to this end.
fn ending(end_time: Option<Timestamp>) -> Subscription {
    Subscription { start_time: Some(at(-100)), end_time, ..subscription("s", "a") }
}

fn state(subscription: &Subscription) -> SubscriptionState {
    subscription.state()
}

/// A subscription with everything that it can have.
fn full() -> Subscription {
    Subscription {
        display_name: "Gold".into(),
        product_code: "GOLD-1".into(),
        unit_amount: Some(money(9, 990_000_001, "USD")),
        quantity: Some(3),
        interval: IntervalUnit::Week.into(),
        interval_count: 2,
        start_time: Some(Timestamp { nanos: 123_456_000, ..at(-10) }),
        trial_end_time: Some(at(-5)),
        end_time: Some(at(1000)),
        discount_percent: 33.333,
        paused: true,
        contract_id: "c".into(),
        source_time: Some(at(-50)),
        metadata: BTreeMap::from([("billing".into(), "42".into())]),
        ..subscription("s", "a")
    }
}

#[tokio::test]
async fn a_put_states_all_of_a_subscription_and_the_same_again_changes_nothing() {
    let tenant = scene().await;
    tenant.contract(contract("c", "a")).await;
    let first = tenant.bill(full()).await.unwrap();
    assert!(first.created && !first.stale);
    let stored = first.subscription.unwrap();
    let expected = Subscription {
        state: Paused.into(),
        etag: stored.etag.clone(),
        create_time: stored.create_time,
        update_time: stored.update_time,
        ..full()
    };
    assert_eq!(stored, expected);
    assert_eq!(tenant.get_subscription("s").await.unwrap(), stored);
    let batch = BatchGetSubscriptionsRequest { subscription_ids: vec!["s".into()] };
    let batch = tenant.commerce().batch_get_subscriptions(batch).await.unwrap().into_inner();
    assert_eq!(batch.subscriptions, std::slice::from_ref(&stored));

    // The service keeps microseconds, so a difference in nanoseconds is no change.
    let precise = Timestamp { nanos: 123_456_789, ..at(-10) };
    for same in [full(), Subscription { start_time: Some(precise), ..full() }] {
        let again = tenant.bill(same).await.unwrap();
        assert_eq!((again.created, again.subscription.as_ref()), (false, Some(&stored)));
    }
    let told = tenant.trail_of("s").await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].change("unit_amount"), (&json!(null), &json!("9.990000001 USD")));
    assert_eq!(told[0].change("discount_percent"), (&json!(null), &json!(33.333)));
    assert_eq!(told[0].change("interval"), (&json!(null), &json!("WEEK")));
    assert_eq!(told[0].account_id.as_deref(), Some("a"));

    // A put empties the fields that it leaves out. Without a source time it keeps the stored one.
    let emptied = tenant.subscription(subscription("s", "a")).await;
    let expected = Subscription {
        state: Active.into(),
        quantity: Some(1),
        interval_count: 1,
        source_time: stored.source_time,
        etag: emptied.etag.clone(),
        create_time: stored.create_time,
        update_time: emptied.update_time,
        ..subscription("s", "a")
    };
    assert_eq!(emptied, expected);
    assert_ne!(emptied.etag, stored.etag);
    replay(&tenant).await;
}

#[tokio::test]
async fn account_etag_time_and_cancellation_are_checked_in_this_order() {
    let tenant = scene().await;
    let absent = Subscription { etag: "x".into(), ..subscription("s", "a") };
    assert_eq!(refusal(tenant.bill(absent).await), "ETAG_MISMATCH");
    let timed = |seconds| Subscription { source_time: Some(at(seconds)), ..ending(None) };
    tenant.subscription(timed(-2)).await;
    tenant.cancel_subscription("s", None).await.unwrap();
    let elsewhere = Subscription { account_id: "b".into(), etag: "x".into(), ..timed(-3) };
    let refused = tenant.bill(elsewhere).await;
    assert_eq!(metadata(&refused, "subscription_id"), "s");
    assert_eq!(refusal(refused), "RECORD_OF_ANOTHER_ACCOUNT");
    let etag = Subscription { etag: "x".into(), ..timed(-3) };
    assert_eq!(refusal(tenant.bill(etag).await), "ETAG_MISMATCH");
    assert!(tenant.bill(timed(-3)).await.unwrap().stale);
    assert!(!tenant.bill(timed(-2)).await.unwrap().stale, "a repeat");
    let renamed = Subscription { display_name: "other".into(), ..timed(-1) };
    assert_eq!(refusal(tenant.bill(renamed).await), "SUBSCRIPTION_CANCELLED");
}

/// The table of puts and cancellations: the state before, the put, what becomes of it.
#[tokio::test]
async fn only_uncancel_undoes_a_cancellation() {
    let tenant = scene().await;
    tenant.subscription(ending(None)).await;
    let cancelled = tenant.cancel_subscription("s", None).await.unwrap();
    assert_eq!(
        (state(&cancelled), cancelled.end_time, cancelled.cancel_time, &*cancelled.cancel_reason),
        (Cancelled, Some(at(0)), Some(at(0)), "moves away")
    );
    // A repeat of the last put, from a queue or by a nightly job, does not undo the cancellation.
    let again = tenant.bill(ending(None)).await.unwrap();
    assert_eq!((again.created, again.stale), (false, false));
    assert_eq!(again.subscription.unwrap(), cancelled);
    let resent = Subscription { source_time: Some(at(-1)), ..ending(None) };
    assert_eq!(state(&tenant.subscription(resent).await), Cancelled);
    // Another message that would run on is refused; one that ends no later is kept.
    for running in [
        Subscription { quantity: Some(2), ..ending(None) },
        Subscription { quantity: Some(2), ..ending(Some(at(1))) },
        ending(Some(at(1))),
    ] {
        let refused = tenant.bill(running).await;
        assert_eq!(metadata(&refused, "end_time"), "2027-03-15T12:00:00.000000Z");
        assert_eq!(refusal(refused), "SUBSCRIPTION_CANCELLED");
    }
    for (end, shown) in [(0, 0), (-1, -1)] {
        let kept = tenant.subscription(ending(Some(at(end)))).await;
        assert_eq!((state(&kept), kept.end_time), (Cancelled, Some(at(shown))));
    }
    // Between what the last put says and the cancellation, the cancellation still is the limit.
    let kept = tenant.subscription(ending(Some(at(0)))).await;
    assert_eq!((state(&kept), kept.end_time), (Cancelled, Some(at(0))));
    // The end is then that of the last put.
    let back = tenant.uncancel_subscription("s").await.unwrap();
    assert_eq!(
        (state(&back), back.end_time, back.cancel_time, &*back.cancel_reason),
        (Ended, Some(at(0)), None, "")
    );
    assert_eq!(tenant.uncancel_subscription("s").await.unwrap(), back, "nothing is cancelled");
    // A service that only puts ends and never cancels can move the end: that is a renewal.
    let renewed = tenant.subscription(ending(Some(at(9)))).await;
    assert_eq!(state(&renewed), Active);
    replay(&tenant).await;
}

/// One that was cancelled before its start ends at its start. An earlier start would let it run
/// until then.
#[tokio::test]
async fn a_put_begins_no_subscription_that_was_cancelled_before_its_start() {
    let tenant = scene().await;
    let from = |start: i64| Subscription { start_time: Some(at(start)), ..ending(Some(at(900))) };
    tenant.subscription(from(500)).await;
    let cancelled = tenant.cancel_subscription("s", None).await.unwrap();
    assert_eq!((state(&cancelled), cancelled.end_time), (Cancelled, Some(at(500))));
    for start in [-100, 100] {
        let begins = Subscription { end_time: Some(at(500)), ..from(start) };
        assert_eq!(refusal(tenant.bill(begins).await), "SUBSCRIPTION_CANCELLED", "{start}");
    }
    for (start, end) in [(500, 500), (-100, -50)] {
        let kept = Subscription { end_time: Some(at(end)), ..from(start) };
        assert_eq!(state(&tenant.subscription(kept).await), Cancelled, "{start}");
    }
}

/// A cancellation that has waited for another one finds the subscription cancelled, even if it
/// began earlier.
#[tokio::test]
async fn of_many_cancellations_at_once_one_counts() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account(account("a", "acme")).await;
    for round in 0..5 {
        let id = format!("s{round}");
        tenant.subscription(subscription(&id, "a")).await;
        let all = join_all((0..20).map(|_| tenant.cancel_subscription(&id, None))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let told = tenant.trail_of(&id).await;
        assert_eq!(told.len(), 2, "{told:?}");
    }
}

#[tokio::test]
async fn a_cancellation_ends_a_subscription_earlier_and_never_later() {
    let tenant = scene().await;
    let cancel = async |before: Subscription, end: Option<i64>| {
        tenant.subscription(before).await;
        let after = tenant.cancel_subscription("s", end.map(at)).await.unwrap();
        let told = tenant.trail_of("s").await.len();
        let repeated = tenant.cancel_subscription("s", end.map(at)).await.unwrap();
        assert_eq!(repeated, after, "safe to repeat");
        assert_eq!(tenant.trail_of("s").await.len(), told);
        tenant.uncancel_subscription("s").await.unwrap();
        (state(&after), after.end_time, after.cancel_time.is_some())
    };
    let starts = |start: i64| Subscription { start_time: Some(at(start)), ..ending(None) };
    for (before, end, expected) in [
        // SCHEDULED
        (starts(50), None, (Cancelled, Some(at(50)), true)),
        (starts(50), Some(60), (Scheduled, Some(at(60)), true)),
        (starts(50), Some(50), (Cancelled, Some(at(50)), true)),
        // ACTIVE, TRIAL and PAUSED
        (ending(None), None, (Cancelled, Some(at(0)), true)),
        (ending(None), Some(-100), (Cancelled, Some(at(-100)), true)),
        (ending(None), Some(5), (Active, Some(at(5)), true)),
        (ending(Some(at(5))), Some(9), (Active, Some(at(5)), true)),
        (
            Subscription { trial_end_time: Some(at(9)), ..ending(None) },
            Some(5),
            (Trial, Some(at(5)), true),
        ),
        (Subscription { paused: true, ..ending(None) }, Some(5), (Paused, Some(at(5)), true)),
        // ENDED
        (ending(Some(at(-1))), None, (Ended, Some(at(-1)), false)),
        (ending(Some(at(0))), Some(9), (Ended, Some(at(0)), false)),
    ] {
        assert_eq!(cancel(before.clone(), end).await, expected, "{before:?} {end:?}");
    }
    // With a cancellation to come, the earlier of both holds.
    tenant.subscription(ending(None)).await;
    for (end, shown) in [(Some(50), 50), (Some(70), 50), (Some(40), 40), (None, 0), (Some(-9), 0)] {
        let after = tenant.cancel_subscription("s", end.map(at)).await.unwrap();
        assert_eq!(after.end_time, Some(at(shown)), "{end:?}");
    }
    let early = tenant.cancel_subscription("s", Some(at(-101))).await;
    assert_eq!(violations(early)[0].0, "end_time");
    assert_eq!(refusal(tenant.cancel_subscription("t", None).await), "SUBSCRIPTION_NOT_FOUND");
    assert_eq!(refusal(tenant.uncancel_subscription("t").await), "SUBSCRIPTION_NOT_FOUND");
}

#[tokio::test]
async fn what_a_subscription_may_not_be_is_refused() {
    let tenant = scene().await;
    let s = || subscription("s", "a");
    let priced = |money: Money| Subscription { unit_amount: Some(money), ..s() };
    for (wrong, field) in [
        (Subscription { unit_amount: None, ..s() }, "unit_amount"),
        (priced(money(0, 0, "")), "unit_amount"),
        (priced(money(-1, 0, "EUR")), "unit_amount"),
        (priced(money(1, 0, "eur")), "unit_amount.currency_code"),
        (priced(money(1, 0, "")), "unit_amount.currency_code"),
        (Subscription { quantity: Some(-1), ..s() }, "quantity"),
        (Subscription { quantity: Some(10_000_001), ..s() }, "quantity"),
        (
            Subscription { quantity: Some(10_000_000), ..priced(money(1_000_000, 0, "EUR")) },
            "quantity",
        ),
        (Subscription { interval: 0, ..s() }, "interval"),
        (Subscription { interval: 9, ..s() }, "interval"),
        (Subscription { interval_count: 367, ..s() }, "interval_count"),
        (Subscription { interval_count: -1, ..s() }, "interval_count"),
        (Subscription { start_time: None, ..s() }, "start_time"),
        (Subscription { end_time: Some(at(-101)), ..ending(None) }, "end_time"),
        (Subscription { trial_end_time: Some(at(-101)), ..ending(None) }, "trial_end_time"),
        (Subscription { discount_percent: 100.000_1, ..s() }, "discount_percent"),
        (Subscription { discount_percent: -0.1, ..s() }, "discount_percent"),
        (Subscription { discount_percent: f64::NAN, ..s() }, "discount_percent"),
        (Subscription { discount_percent: 0.000_01, ..s() }, "discount_percent"),
        (Subscription { discount_percent: 1e-300, ..s() }, "discount_percent"),
    ] {
        let found: Vec<_> =
            violations(tenant.bill(wrong).await).into_iter().map(|it| it.0).collect();
        assert_eq!(found, [format!("subscription.{field}")]);
    }
    tenant.contract(contract("c", "b")).await;
    let elsewhere = Subscription { contract_id: "c".into(), ..s() };
    assert_eq!(refusal(tenant.bill(elsewhere).await), "CONTRACT_OF_ANOTHER_ACCOUNT");
    // Free, with the tenant's currency, without discount though with a sign.
    let settings = TenantSettings { default_currency: "JPY".into(), ..Default::default() };
    tenant.update_settings(settings, &["default_currency"]).await.unwrap();
    let stored = tenant
        .subscription(Subscription { discount_percent: -0.0, ..priced(money(1, 5, "")) })
        .await;
    assert_eq!(stored.unit_amount, Some(money(1, 5, "JPY")));
    assert!(stored.discount_percent.is_sign_positive());
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn subscriptions_are_found_by_state_contract_product_currency_and_account() {
    let tenant = scene().await;
    tenant.contract(contract("c", "a")).await;
    let from = |id: &str, start: i64| Subscription {
        start_time: Some(at(start)),
        ..subscription(id, "a")
    };
    for stored in [
        Subscription { contract_id: "c".into(), product_code: "Gold".into(), ..from("active", -9) },
        Subscription { trial_end_time: Some(at(1)), ..from("trial", -9) },
        Subscription { trial_end_time: Some(at(0)), ..from("tried", -9) },
        Subscription { paused: true, trial_end_time: Some(at(1)), ..from("paused", -9) },
        Subscription { unit_amount: Some(money(1, 0, "USD")), ..from("later", 9) },
        Subscription { end_time: Some(at(0)), ..from("ended", -9) },
        from("cancelled", -9),
        from("never", 9),
        from("leaving", -9),
        Subscription { account_id: "b".into(), ..from("other", -9) },
    ] {
        tenant.subscription(stored).await;
    }
    for id in ["cancelled", "never"] {
        tenant.cancel_subscription(id, None).await.unwrap();
    }
    tenant.cancel_subscription("leaving", Some(at(9))).await.unwrap();
    let all = || ListSubscriptionsRequest { account_id: "a".into(), ..Default::default() };
    for (states, expected) in [
        (vec![Active], "active tried leaving"),
        (vec![Trial], "trial"),
        (vec![Paused], "paused"),
        (vec![Scheduled], "later"),
        (vec![Ended], "ended"),
        (vec![Cancelled], "cancelled never"),
        (vec![Trial, Paused], "trial paused"),
        (vec![], "active trial tried paused later ended cancelled never leaving"),
    ] {
        let states: Vec<_> = states.into_iter().map(Into::into).collect();
        let request = ListSubscriptionsRequest { states: states.clone(), ..all() };
        let listed = tenant.commerce().list_subscriptions(request).await.unwrap().into_inner();
        let shows = |it: &Subscription| states.is_empty() || states.contains(&it.state);
        assert!(listed.subscriptions.iter().all(shows), "{expected}");
        let ids: Vec<_> = listed.subscriptions.into_iter().map(|it| it.subscription_id).collect();
        assert_eq!(ids.join(" "), expected);
    }
    let any = ListSubscriptionsRequest::default;
    for (request, expected) in [
        (ListSubscriptionsRequest { contract_id: "c".into(), ..any() }, "active"),
        (ListSubscriptionsRequest { product_code: "Gold".into(), ..any() }, "active"),
        (ListSubscriptionsRequest { product_code: "gold".into(), ..any() }, ""),
        (ListSubscriptionsRequest { currency_code: "USD".into(), ..any() }, "later"),
        (ListSubscriptionsRequest { organization_id: "other".into(), ..any() }, "other"),
        (ListSubscriptionsRequest { states: vec![1, 5], order_by: 2, ..all() }, "ended later"),
    ] {
        assert_eq!(tenant.subscriptions_of(request).await.join(" "), expected);
    }
    let unknown = ListSubscriptionsRequest { currency_code: "XXX".into(), ..any() };
    let unknown = tenant.commerce().list_subscriptions(unknown).await;
    assert_eq!(violations(unknown)[0].0, "currency_code");
}

#[tokio::test]
async fn subscriptions_and_orders_are_seen_exactly_when_their_account_is() {
    let (tenant, manager) = Tenant::regions().await;
    for id in ["oslo", "rome"] {
        tenant.subscription(subscription(id, &format!("{id}-account"))).await;
        tenant.order(crate::support::commerce::order(id, &format!("{id}-account"))).await;
    }
    assert_eq!(manager.subscriptions_of(ListSubscriptionsRequest::default()).await, ["oslo"]);
    assert_eq!(
        manager.orders_of(customer_accounts::proto::ListOrdersRequest::default()).await,
        ["oslo"]
    );
    assert_eq!(refusal(manager.get_subscription("rome").await), "SUBSCRIPTION_NOT_FOUND");
    manager.get_subscription("oslo").await.unwrap();
    // An id out of reach is taken, which is all that the answer says.
    let taken = manager.bill(subscription("rome", "oslo-account")).await;
    assert_eq!(refusal(taken), "RECORD_OF_ANOTHER_ACCOUNT");
}
