//! Orders: facts, recorded once, by someone who may buy until the order is there.

use customer_accounts::proto::{
    Account, AccountStatus, CancelOrderRequest, CheckMembershipRequest, DeleteAccountRequest,
    ListOrdersRequest, Order, OrderState, Person, RecordOrderRequest, RemoveAccountUserRequest,
    SetPurchasingAccountRequest, TenantSettings, UnlinkOrganizationRequest,
};
use futures_util::future::{BoxFuture, join};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Status;

use super::scene;
use crate::support::{
    Tenant, account, apart,
    calls::{metadata, only, only_person, preconditions},
    commerce::{at, order, subscription},
    contracts::contract,
    refusal,
    sales::money,
    trail::replay,
    violations, waiting_for_locks,
};

/// An order `o` by `ann` at a time.
fn bought(order_time: Option<Timestamp>) -> Order {
    Order { purchaser_id: "ann".into(), order_time, ..order("o", "a") }
}

async fn cancel(tenant: &Tenant, id: &str, reason: &str) -> Result<Order, Status> {
    let request =
        CancelOrderRequest { order_id: id.into(), reason: reason.into(), ..Default::default() };
    let response = tenant.commerce().cancel_order(request).await;
    response.map(|response| response.into_inner().order.unwrap())
}

/// Makes a person an individual user of the account, on which they then buy.
async fn let_buy(tenant: &Tenant, person_id: &str, account_id: &str) {
    tenant.person(person_id).await;
    tenant.add_user(account_id, person_id).await;
    tenant.buys_on(person_id, account_id).await.unwrap();
}

#[tokio::test]
async fn an_order_is_recorded_once_and_never_changes() {
    let tenant = scene().await;
    let_buy(&tenant, "ann", "a").await;
    let recorded = tenant.buy(bought(None)).await.unwrap();
    let expected = Order {
        state: OrderState::Recorded.into(),
        etag: recorded.etag.clone(),
        create_time: recorded.create_time,
        update_time: recorded.update_time,
        ..bought(Some(at(0)))
    };
    assert_eq!(recorded, expected);
    // Later, with the time and without it, the same order is the same.
    tenant.stop_clock("2027-03-15T13:00:00Z");
    for same in [bought(None), bought(Some(at(0)))] {
        assert_eq!(tenant.buy(same).await.unwrap(), recorded);
    }
    for other in [
        bought(Some(at(1))),
        Order { amount: Some(money(6, 0, "EUR")), ..bought(None) },
        Order { description: "d".into(), ..bought(None) },
        Order { purchaser_id: "bob".into(), ..bought(None) },
        Order { metadata: [("k".to_owned(), "v".to_owned())].into(), ..bought(None) },
    ] {
        assert_eq!(refusal(tenant.buy(other).await), "ORDER_ALREADY_EXISTS");
    }
    // An order without a purchaser is another one, too.
    let nobodys = Order { purchaser_id: String::new(), order_id: "n".into(), ..bought(None) };
    tenant.try_order(nobodys.clone()).await.unwrap();
    tenant.try_order(nobodys.clone()).await.unwrap();
    for purchaser in ["ann", "nobody"] {
        let named = Order { purchaser_id: purchaser.into(), ..nobodys.clone() };
        assert_eq!(refusal(tenant.buy(named).await), "ORDER_ALREADY_EXISTS");
    }
    let elsewhere = Order { account_id: "b".into(), ..bought(None) };
    assert_eq!(refusal(tenant.buy(elsewhere).await), "RECORD_OF_ANOTHER_ACCOUNT");

    let cancelled = cancel(&tenant, "o", "by mistake").await.unwrap();
    assert_eq!(
        (cancelled.state(), &*cancelled.cancel_reason),
        (OrderState::Cancelled, "by mistake")
    );
    assert_eq!(cancel(&tenant, "o", "again").await.unwrap(), cancelled, "the first reason stays");
    assert_eq!(tenant.buy(bought(None)).await.unwrap(), cancelled, "a late repeat revives nothing");
    assert_eq!(refusal(cancel(&tenant, "p", "").await), "ORDER_NOT_FOUND");
    // A repeat needs no right any more.
    tenant.remove_user("a", "ann", "").await.unwrap();
    assert_eq!(tenant.buy(bought(None)).await.unwrap(), cancelled);
    let told = tenant.trail_of("o").await;
    let actions: Vec<_> = told.iter().map(|it| &*it.action).collect();
    assert_eq!(actions, ["order.created", "order.updated"]);
    assert_eq!(told[0].change("amount"), (&json!(null), &json!("5.00 EUR")));
    replay(&tenant).await;
    // The deletion of a person empties the purchaser of their orders; the trail keeps it.
    tenant.delete_person("ann", "").await.unwrap();
    let forgotten = tenant.buy(bought(None)).await.unwrap();
    assert_eq!((&*forgotten.purchaser_id, forgotten.state), ("", cancelled.state));
    assert_eq!(told[0].change("purchaser_id"), (&json!(null), &json!("ann")));
}

#[tokio::test]
async fn what_an_order_may_not_be_is_refused() {
    let tenant = scene().await;
    let settings = TenantSettings { default_currency: "JPY".into(), ..Default::default() };
    tenant.update_settings(settings, &["default_currency"]).await.unwrap();
    for (wrong, field) in [
        (Order { amount: None, ..order("o", "a") }, "amount"),
        (Order { amount: Some(money(1, 5_000_000, "EUR")), ..order("o", "a") }, "amount"),
        (Order { amount: Some(money(1, 500_000_000, "")), ..order("o", "a") }, "amount"),
        (Order { amount: Some(money(-1, 0, "EUR")), ..order("o", "a") }, "amount"),
        (Order { order_time: Some(at(301)), ..order("o", "a") }, "order_time"),
        (Order { description: "d".repeat(2001), ..order("o", "a") }, "description"),
    ] {
        let found = violations(tenant.try_order(wrong).await);
        assert_eq!(found[0].0, format!("order.{field}"));
    }
    let nobody = violations(tenant.buy(order("o", "a")).await);
    assert_eq!(nobody[0].0, "order.purchaser_id");
    tenant.contract(contract("c", "b")).await;
    let elsewhere = Order { contract_id: "c".into(), ..order("o", "a") };
    assert_eq!(refusal(tenant.try_order(elsewhere).await), "CONTRACT_OF_ANOTHER_ACCOUNT");
    let nobody = Order { purchaser_id: "nobody".into(), ..order("o", "a") };
    assert_eq!(refusal(tenant.try_order(nobody).await), "PERSON_NOT_FOUND");
    let soon =
        Order { amount: Some(money(7, 0, "")), order_time: Some(at(300)), ..order("o", "a") };
    assert_eq!(tenant.order(soon).await.amount, Some(money(7, 0, "JPY")));
}

#[tokio::test]
async fn whoever_may_not_buy_is_told_every_reason() {
    let tenant = scene().await;
    tenant.person("ann").await;
    let refused = async |order: Order| {
        let status = tenant.buy(order).await.unwrap_err();
        assert_eq!(refusal(&status), "PURCHASER_NOT_ALLOWED");
        let named = preconditions(&status);
        let reasons = metadata(&status, "reasons");
        assert_eq!(named.len(), reasons.split(',').count());
        reasons
    };
    assert_eq!(refused(bought(None)).await, "NOT_A_USER,NOT_PURCHASING_ACCOUNT");
    tenant.add_user("a", "ann").await;
    assert_eq!(refused(bought(None)).await, "NOT_PURCHASING_ACCOUNT");
    tenant.buys_on("ann", "a").await.unwrap();
    for status in [AccountStatus::Suspended, AccountStatus::Inactive] {
        tenant.update(Account { status: status.into(), ..only("a") }, &["status"]).await.unwrap();
        assert!(refused(bought(None)).await.ends_with("ACCOUNT_NOT_ACTIVE"));
    }
    // An order that was checked elsewhere is recorded in every status of the account.
    tenant.order(bought(None)).await;
    let active = Account { status: AccountStatus::Active.into(), ..only("a") };
    tenant.update(active, &["status"]).await.unwrap();
    tenant
        .update_person(Person { active: Some(false), ..only_person("ann") }, &["active"])
        .await
        .unwrap();
    let next = Order { order_id: "p".into(), ..bought(None) };
    assert!(refused(next).await.starts_with("PERSON_INACTIVE"));
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn orders_are_found_by_account_purchaser_state_contract_and_time() {
    let tenant = scene().await;
    tenant.person("ann").await;
    tenant.contract(contract("c", "a")).await;
    for (id, account_id, seconds) in [("old", "a", -9), ("new", "a", -1), ("other", "b", -5)] {
        tenant
            .order(Order {
                order_time: Some(at(seconds)),
                purchaser_id: if id == "new" { "ann".into() } else { String::new() },
                contract_id: if id == "old" { "c".into() } else { String::new() },
                ..order(id, account_id)
            })
            .await;
    }
    cancel(&tenant, "old", "").await.unwrap();
    let all = ListOrdersRequest::default;
    for (request, expected) in [
        (all(), "new other old"),
        (ListOrdersRequest { order_by: 2, ..all() }, "old other new"),
        (ListOrdersRequest { account_id: "a".into(), ..all() }, "new old"),
        (ListOrdersRequest { purchaser_id: "ann".into(), ..all() }, "new"),
        (ListOrdersRequest { contract_id: "c".into(), ..all() }, "old"),
        (ListOrdersRequest { states: vec![1], ..all() }, "new other"),
        (ListOrdersRequest { states: vec![2], ..all() }, "old"),
        (ListOrdersRequest { organization_id: "other".into(), ..all() }, "other"),
        // Half open.
        (
            ListOrdersRequest { start_time: Some(at(-9)), end_time: Some(at(-1)), ..all() },
            "other old",
        ),
    ] {
        assert_eq!(tenant.orders_of(request).await.join(" "), expected);
    }
    // Page by page, the orders of a period are those of one page.
    let (mut request, mut pages) =
        (ListOrdersRequest { page_size: 1, start_time: Some(at(-9)), ..all() }, Vec::new());
    loop {
        let page = tenant.commerce().list_orders(request.clone()).await.unwrap().into_inner();
        pages.extend(page.orders.into_iter().map(|order| order.order_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages.join(" "), "new other old");
}

#[tokio::test]
async fn an_account_with_a_running_subscription_is_deleted_by_force_only() {
    let tenant = scene().await;
    tenant.subscription(subscription("runs", "a")).await;
    tenant.subscription(subscription("over", "a")).await;
    tenant.cancel_subscription("over", None).await.unwrap();
    for (id, units, currency) in [("x", 5, "EUR"), ("y", 7, "EUR"), ("z", 9, "JPY")] {
        tenant.order(Order { amount: Some(money(units, 0, currency)), ..order(id, "a") }).await;
    }
    tenant.order(order("gone", "a")).await;
    cancel(&tenant, "gone", "").await.unwrap();
    let status = tenant.delete("a", "").await.unwrap_err();
    let named = preconditions(&status);
    assert_eq!((named.len(), &*named[0].1), (1, "subscription/runs"));
    assert_eq!(metadata(&status, "subscriptions"), "1");
    assert_eq!(refusal(status), "ACCOUNT_IN_USE");
    let request =
        DeleteAccountRequest { account_id: "a".into(), force: true, ..Default::default() };
    tenant.accounts().delete_account(request).await.unwrap();
    let trail = tenant.trail().await;
    let deleted = |action: &str| trail.iter().filter(|it| it.action == action).count();
    assert_eq!((deleted("subscription.deleted"), deleted("order.deleted")), (2, 0));
    let told = trail.iter().find(|it| it.action == "account.deleted").unwrap();
    assert_eq!(
        told.change("orders").0,
        &json!({ "count": 3, "amounts": ["12.00 EUR", "9 JPY"], "cancelled": 1 })
    );
    replay(&tenant).await;
    // An ended subscription does not hold its account.
    tenant.subscription(subscription("s", "b")).await;
    tenant.cancel_subscription("s", None).await.unwrap();
    tenant.delete("b", "").await.unwrap();
}

/// What takes the right to buy away from `ann`, a member of `unit` and a user of account `a`
/// through it.
type Take = fn(Tenant) -> BoxFuture<'static, Result<(), Status>>;

const TAKES: [(&str, Take); 7] = [
    ("RemoveAccountUser", |tenant| {
        Box::pin(async move {
            let request = RemoveAccountUserRequest {
                account_id: "a".into(),
                person_id: "ann".into(),
                ..Default::default()
            };
            tenant.memberships().remove_account_user(request).await.map(drop)
        })
    }),
    ("SetPurchasingAccount", |tenant| {
        Box::pin(async move {
            let request =
                SetPurchasingAccountRequest { person_id: "ann".into(), ..Default::default() };
            tenant.memberships().set_purchasing_account(request).await.map(drop)
        })
    }),
    ("UpdatePerson", |tenant| {
        Box::pin(async move {
            tenant
                .update_person(Person { active: Some(false), ..only_person("ann") }, &["active"])
                .await
                .map(drop)
        })
    }),
    ("UpdateAccount", |tenant| {
        Box::pin(async move {
            let suspended = Account { status: AccountStatus::Suspended.into(), ..only("a") };
            tenant.update(suspended, &["status"]).await.map(drop)
        })
    }),
    ("RemoveOrganizationMember", |tenant| {
        Box::pin(async move { tenant.remove_member("unit", "ann").await })
    }),
    ("UnlinkOrganization", |tenant| {
        Box::pin(async move {
            let request = UnlinkOrganizationRequest {
                account_id: "a".into(),
                organization_id: "top".into(),
                ..Default::default()
            };
            tenant.memberships().unlink_organization(request).await.map(drop)
        })
    }),
    ("MoveOrganization", |tenant| {
        Box::pin(async move { tenant.move_organization("unit", "").await.map(drop) })
    }),
];

/// A tenant in which `ann` may buy on `a`, individually or through `unit` below `top`.
async fn with_buyer(tenant: &Tenant, individually: bool) {
    tenant.organization("acme", "").await;
    tenant.organization("top", "").await;
    tenant.organization("unit", "top").await;
    tenant.account(account("a", "acme")).await;
    tenant.person("ann").await;
    if individually {
        tenant.add_user("a", "ann").await;
    } else {
        tenant.add_member("unit", "ann").await.unwrap();
        tenant.link("a", "top", true).await.unwrap();
    }
    tenant.buys_on("ann", "a").await.unwrap();
}

async fn may_purchase(tenant: &Tenant) -> bool {
    let request = CheckMembershipRequest { account_id: "a".into(), person_id: "ann".into() };
    tenant.memberships().check_membership(request).await.unwrap().into_inner().may_purchase
}

/// Every change is held up just before its commit, by a lock on the trail. Whatever takes the right
/// away makes the order wait and then fails it; an order makes it wait in turn.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_recorded_without_the_right_at_commit() {
    let Some((first, sql, _)) = apart().await else { return };
    for (name, take) in TAKES {
        let individually =
            ["RemoveAccountUser", "SetPurchasingAccount", "UpdatePerson", "UpdateAccount"];
        for order_first in [false, true] {
            let tenant = Tenant::on(first.channel.clone());
            with_buyer(&tenant, individually.contains(&name)).await;
            assert!(may_purchase(&tenant).await, "{name}");
            sql.batch_execute("BEGIN; LOCK TABLE activities IN SHARE MODE").await.unwrap();
            let order = async {
                if !order_first {
                    waiting_for_locks(&sql, 1).await;
                }
                tenant.buy(bought(None)).await
            };
            let taken = async {
                if order_first {
                    waiting_for_locks(&sql, 1).await;
                }
                take(tenant.clone()).await
            };
            let release = async {
                waiting_for_locks(&sql, 2).await;
                // Other databases of the server have tests of their own.
                let rows = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE NOT granted AND locktype IN ('transactionid', 'tuple') \
                     AND datname = current_database()";
                let rows: i64 = sql.query_one(rows, &[]).await.unwrap().get(0);
                sql.batch_execute("COMMIT").await.unwrap();
                rows
            };
            let ((ordered, taken), rows) = join(join(order, taken), release).await;
            let what = format!("{name}, order first: {order_first}: {ordered:?} {taken:?}");
            taken.unwrap();
            assert_eq!(rows, 1, "the second waits for a row: {what}");
            assert_eq!(ordered.is_ok(), order_first, "{what}");
            if !order_first {
                assert_eq!(refusal(ordered), "PURCHASER_NOT_ALLOWED", "{what}");
            }
            assert!(!may_purchase(&tenant).await, "{what}");
        }
    }
}

/// Two services record the same order at once: one order, and both are told so.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_recorded_twice_at_once_is_one() {
    let tenant = scene().await;
    for round in 0..10 {
        let id = format!("o{round}");
        let record = || {
            let request = RecordOrderRequest {
                order: Some(order(&id, "a")),
                purchaser_checked: true,
                ..Default::default()
            };
            let mut commerce = tenant.commerce();
            async move { commerce.record_order(request).await.map(tonic::Response::into_inner) }
        };
        let (one, other) = join(record(), record()).await;
        assert_eq!(one.unwrap(), other.unwrap());
        assert_eq!(tenant.trail_of(&id).await.len(), 1);
    }
}
