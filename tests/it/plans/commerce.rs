//! The plans of the lists of subscriptions and orders, and of what they come to, and the round
//! trips of an overview.

use customer_accounts::proto::{
    CalculateRecurringRevenueRequest, GetAccountOverviewRequest, ListOrdersRequest,
    ListSubscriptionsRequest, ModuleSetting::Off,
};
use prost_types::Timestamp;

use super::{CUSTOM_PLANS, FEW, FILL, Measured, Uses};

/// A subscription and an order for each account. Few subscriptions are in a state other than
/// ACTIVE.
const COMMERCE: &str = "
SET session_replication_role = replica; -- foreign keys hold by construction
INSERT INTO subscriptions (tenant_id, subscription_id, account_id, incarnation, display_name, product_code, unit_amount,
    currency_code, quantity, interval_unit, interval_count, start_time, trial_end_time, stated_end_time, discount, paused,
    contract_id, cancel_end_time, cancel_time, cancel_reason, metadata, create_time)
    SELECT tenant, 'sub-' || n, id, 'i', name, 'svc-' || n % 500, n, CASE WHEN n % 1000 = 0 THEN 'JPY' ELSE 'EUR' END, 1, 'MONTH', 1,
        CASE WHEN n % 1000 = 1 THEN now() + interval '1 year' ELSE '2026-01-01Z' END,
        CASE WHEN n % 1000 = 2 THEN now() + interval '1 year' WHEN n % 10 = 2 THEN '2026-02-01Z' END,
        CASE WHEN n % 1000 = 3 THEN '2026-03-01Z'::timestamptz END, 0, n % 1000 = 4, 'ctr-' || n / 10,
        CASE WHEN n % 1000 = 5 THEN '2026-03-01Z'::timestamptz END, CASE WHEN n % 1000 = 5 THEN now() END, '', '{}',
        '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled;
INSERT INTO orders (tenant_id, order_id, account_id, incarnation, purchaser_id, has_purchaser, amount, currency_code, order_time,
    description,
    contract_id, state, cancel_time, metadata)
    SELECT tenant, 'ord-' || n, id, 'i', 'person-' || n % 500, true, n, 'EUR', '2026-01-01Z'::timestamptz + n * interval '1 second', '',
        'ctr-' || n / 10, CASE WHEN n % 500 = 0 THEN 'CANCELLED' ELSE 'RECORDED' END, CASE WHEN n % 500 = 0 THEN now() END, '{}'
    FROM filled;
SET session_replication_role = DEFAULT;
";

async fn measured() -> Option<Measured> {
    let why = "the embedded server has no auto_explain";
    Measured::start_with(&format!("{FILL}{COMMERCE}"), why).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_subscriptions_has_its_index() {
    let Some(on) = measured().await else { return };
    let all = ListSubscriptionsRequest::default;
    let of = |account_id: &str| ListSubscriptionsRequest {
        account_id: account_id.into(),
        ..Default::default()
    };
    let in_state = |state| ListSubscriptionsRequest { states: vec![state], ..Default::default() };
    for (request, index, by, most) in [
        (all(), "subscriptions_create_time_idx", "tenant_id", FEW),
        (
            ListSubscriptionsRequest { order_by: 2, ..all() },
            "subscriptions_create_time_idx",
            "tenant_id",
            FEW,
        ),
        (of("acct-0000042"), "subscriptions_account_idx", "account_id = ", FEW),
        (
            ListSubscriptionsRequest { contract_id: "ctr-42".into(), ..all() },
            "subscriptions_contract_idx",
            "contract_id = ",
            FEW,
        ),
        (
            ListSubscriptionsRequest { product_code: "svc-42".into(), ..all() },
            "subscriptions_product_idx",
            "product_code = ",
            FEW,
        ),
        (
            ListSubscriptionsRequest { currency_code: "JPY".into(), ..all() },
            "subscriptions_currency_idx",
            "currency_code = ",
            FEW,
        ),
        (in_state(1), "subscriptions_start_idx", "start_time > ", FEW),
        (in_state(2), "subscriptions_trial_idx", "trial_end_time > ", FEW),
        (in_state(3), "subscriptions_create_time_idx", "tenant_id", FEW),
        (in_state(4), "subscriptions_paused_idx", "tenant_id", FEW),
        (in_state(5), "subscriptions_end_idx", "end_time <= ", FEW),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            let answer = on.tenant.commerce().list_subscriptions(request.clone()).await.unwrap();
            assert!(!answer.into_inner().subscriptions.is_empty(), "{request:?}");
            let plan = on.plan("ORDER BY \"subscriptions\"").await;
            plan.check(&format!("{request:?}"), &Uses(index, by), most);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_orders_has_its_index() {
    let Some(on) = measured().await else { return };
    let all = ListOrdersRequest::default;
    // Seconds after the beginning of 2026.
    let time = |seconds: i64| Some(Timestamp { seconds: 1_767_225_600 + seconds, nanos: 0 });
    for (request, index, by) in [
        (all(), "orders_order_time_idx", "tenant_id"),
        (ListOrdersRequest { order_by: 2, ..all() }, "orders_order_time_idx", "tenant_id"),
        (
            ListOrdersRequest { account_id: "acct-0000042".into(), ..all() },
            "orders_account_idx",
            "account_id = ",
        ),
        (
            ListOrdersRequest { purchaser_id: "person-42".into(), ..all() },
            "orders_purchaser_idx",
            "purchaser_id = ",
        ),
        (
            ListOrdersRequest { contract_id: "ctr-42".into(), ..all() },
            "orders_contract_idx",
            "contract_id = ",
        ),
        (ListOrdersRequest { states: vec![1], ..all() }, "orders_order_time_idx", "tenant_id"),
        (ListOrdersRequest { states: vec![2], ..all() }, "orders_cancelled_idx", "tenant_id"),
        (
            ListOrdersRequest { start_time: time(7200), end_time: time(7230), ..all() },
            "orders_order_time_idx",
            "order_time >= ",
        ),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            let answer = on.tenant.commerce().list_orders(request.clone()).await.unwrap();
            assert!(!answer.into_inner().orders.is_empty(), "{request:?}");
            let plan = on.plan("ORDER BY \"orders\"").await;
            plan.check(&format!("{request:?}"), &Uses(index, by), FEW);
        }
    }
}

/// The sums of an account and of a tree read what they add up, and an overview takes two round
/// trips however often it is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn revenue_of_an_account_reads_its_subscriptions_only() {
    let Some(on) = measured().await else { return };
    let request = CalculateRecurringRevenueRequest {
        account_id: "acct-0000042".into(),
        ..Default::default()
    };
    for _ in 0..CUSTOM_PLANS + 2 {
        let mut commerce = on.tenant.commerce();
        let answer = commerce.calculate_recurring_revenue(request.clone()).await.unwrap();
        assert_eq!(answer.into_inner().subscription_count, 1);
        let plan = on.plan("GROUP BY \"subscriptions\"").await;
        plan.check("an account", &Uses("subscriptions_account_idx", "account_id = "), FEW);
    }
    let overview = async || {
        let request = GetAccountOverviewRequest { account_id: "acct-0000042".into() };
        on.tenant.accounts().get_account_overview(request).await.unwrap().into_inner()
    };
    let flights = async || {
        // The first times, statements are prepared and planned.
        let mut least = usize::MAX;
        for _ in 0..CUSTOM_PLANS + 2 {
            on.settle().await;
            least = least.min(on.tap.flights(async { drop(overview().await) }).await);
        }
        least
    };
    assert_eq!(flights().await, 2);
    on.settle().await;
    on.tap.take();
    let found = overview().await;
    assert_eq!((found.kpis.unwrap().order_count, found.counts.unwrap().subscriptions), (1, 1));
    for plan in on.queries().await {
        let text = plan["Query Text"].as_str().unwrap().to_owned();
        let plan = super::Plan(plan["Plan"].clone());
        assert!(plan.pages() <= FEW, "{text}");
    }
    on.tenant.set_module("commerce", "org-3", Off).await.unwrap();
    on.tenant.set_module("customer_accounts", "org-3", Off).await.unwrap();
    assert_eq!(flights().await, 2, "with modules that are off somewhere");
}
