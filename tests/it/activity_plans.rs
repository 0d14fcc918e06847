//! How PostgreSQL answers the queries of the trail: by index, under row-level security, however
//! long the trail is and however deep the page.

use customer_accounts::proto::ListActivitiesRequest;
use prost_types::Timestamp;

use crate::{
    plans::{FEW, Measured, Plan, Uses},
    support::watch::Watch,
};

/// 60,000 activities of the tenant that asks, a second apart, among 20,000 of others; in large
/// transactions, so that their ids are behind even a new cluster. A tenth belongs to one account
/// and the rest to 1000; two actors made nearly all; one change in a thousand is of a type of its
/// own.
const TRAIL: &str = "
INSERT INTO activities (tenant_id, activity_id, transaction_id, ordinal, create_time, actor, method, action, resource_type,
        resource_id, account_id, changes)
    SELECT CASE WHEN n % 4 = 0 THEN 'other-' || n % 3 ELSE '$tenant' END, 'actv_' || lpad(n::text, 8, '0'), 1 + n / 300, n % 300,
        '2026-01-01Z'::timestamptz + n * interval '1 second', CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'actor-' || n % 2 END, 'm', 'x',
        CASE WHEN n % 1000 = 1 THEN 'account_type' ELSE 'account' END, 'acct-' || CASE WHEN n % 10 = 1 THEN 0 ELSE n % 1000 END,
        'acct-' || CASE WHEN n % 10 = 1 THEN 0 ELSE n % 1000 END, '[]'
    FROM generate_series(1, 80000) AS n;
";

const fn at(second: i64) -> Timestamp {
    Timestamp { seconds: 1_767_225_600 + second, nanos: 0 }
}

impl Measured {
    /// The plan of a page of 50, and the token of the next.
    async fn trail(&self, request: &ListActivitiesRequest) -> (usize, String, Plan) {
        let response =
            self.tenant.activities().list_activities(request.clone()).await.unwrap().into_inner();
        (
            response.activities.len(),
            response.next_page_token,
            self.plan("ORDER BY \"activities\"").await,
        )
    }

    /// The token of the last of many large pages.
    async fn deep_in_the_trail(&self, request: &ListActivitiesRequest) -> String {
        let mut request = ListActivitiesRequest { page_size: 1000, ..request.clone() };
        loop {
            let response = self
                .tenant
                .activities()
                .list_activities(request.clone())
                .await
                .unwrap()
                .into_inner();
            if response.next_page_token.is_empty() {
                self.settle().await;
                self.tap.take();
                return request.page_token;
            }
            request.page_token = response.next_page_token;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_trail_is_a_range_of_an_index() {
    let Some(on) = Measured::start_with(TRAIL, "the embedded server has no auto_explain").await
    else {
        return;
    };
    let all = ListActivitiesRequest::default;
    let account = |id: &str| ListActivitiesRequest { account_id: id.into(), ..all() };
    let resource = |id: &str| ListActivitiesRequest {
        resource_type: "account".into(),
        resource_id: id.into(),
        ..all()
    };
    let by_time = || Uses("activities_create_time_idx", "tenant_id");
    let cases = [
        (all(), by_time(), FEW),
        (ListActivitiesRequest { order_by: 2, ..all() }, by_time(), FEW),
        (
            ListActivitiesRequest { end_time: Some(at(40_000)), ..all() },
            Uses("activities_create_time_idx", "create_time"),
            FEW,
        ),
        (
            ListActivitiesRequest {
                start_time: Some(at(40_000)),
                end_time: Some(at(41_000)),
                order_by: 2,
                ..all()
            },
            Uses("activities_create_time_idx", "create_time"),
            FEW,
        ),
        (account("acct-0"), Uses("activities_account_idx", "account_id = "), FEW),
        (account("acct-7"), Uses("activities_account_idx", "account_id = "), FEW),
        (
            ListActivitiesRequest { end_time: Some(at(40_000)), ..account("acct-0") },
            Uses("activities_account_idx", "account_id = "),
            FEW,
        ),
        (resource("acct-0"), Uses("activities_resource_idx", "resource_id = "), FEW),
        (
            ListActivitiesRequest { order_by: 2, ..resource("acct-9") },
            Uses("activities_resource_idx", "resource_id = "),
            FEW,
        ),
        (
            ListActivitiesRequest { actor: "rare".into(), ..all() },
            Uses("activities_actor_idx", "actor = "),
            FEW,
        ),
        (
            ListActivitiesRequest { actor: "nobody".into(), ..all() },
            Uses("activities_actor_idx", "actor = "),
            FEW,
        ),
        // Most are by this actor: they are picked out of the order by time, or read in the actor's
        // own.
        (
            ListActivitiesRequest { actor: "actor-1".into(), ..all() },
            Uses("activities_", "tenant_id"),
            2 * FEW,
        ),
        // A type without an id: the few are found and sorted, the many picked out of the order by
        // time.
        (
            ListActivitiesRequest { resource_type: "account".into(), ..all() },
            Uses("activities_", "tenant_id"),
            FEW,
        ),
        (
            ListActivitiesRequest { resource_type: "account_type".into(), ..all() },
            Uses("activities_", "tenant_id"),
            4 * FEW,
        ),
        // Two filters: the rarer one's index.
        (
            ListActivitiesRequest { actor: "rare".into(), ..account("acct-0") },
            Uses("activities_", "tenant_id"),
            2 * FEW,
        ),
    ];
    for (request, uses, pages) in cases {
        let (_, next, plan) = on.trail(&request).await;
        plan.check(&format!("{request:?}"), &uses, pages);
        if !next.is_empty() {
            let page_token = on.deep_in_the_trail(&request).await;
            let (_, _, plan) =
                on.trail(&ListActivitiesRequest { page_token, ..request.clone() }).await;
            plan.check(&format!("{request:?}, deep"), &uses, pages);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_watch_is_a_range_of_the_feed_however_little_of_it_is_wanted() {
    let Some(on) = Measured::start_with(TRAIL, "the embedded server has no auto_explain").await
    else {
        return;
    };
    for (account_id, expected) in
        [("", 60_000), ("acct-0", 6_000), ("acct-7", 60), ("acct-none", 0)]
    {
        let start = crate::support::watch::sealed(&on.tenant, account_id, "0", "0");
        let mut watch = Watch::open(&on.tenant, &start, account_id).await.unwrap();
        let (mut told, mut steps, mut deepest) = (0, 0, 0);
        loop {
            let message = watch.next().await.unwrap();
            told += message.len();
            for mut plan in on.tap.take() {
                if plan["Query Text"].as_str().unwrap().contains("FROM \"activities\"") {
                    let plan = Plan(plan["Plan"].take());
                    // For an account with little on record the planner may prefer to read all of
                    // that.
                    plan.check(account_id, &Uses("activities_", "tenant_id"), 500);
                    deepest = deepest.max(plan.pages());
                    steps += 1;
                }
            }
            // The first message may be a checkpoint.
            if message.is_empty() && told >= expected && steps > 10 {
                break;
            }
        }
        println!("{account_id:?}: {told} told, {steps} queries, {deepest} pages at most");
        assert!(told >= expected, "{account_id}: {told}");
    }
}
