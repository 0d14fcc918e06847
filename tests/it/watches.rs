//! Watching the activity trail: from now or from a cursor, exactly once and in order, until
//! somebody ends it.

use std::time::Duration;

use customer_accounts::{
    db::Meta,
    proto::{
        Account, Activity, CreateAccountTypeRequest, ListActivitiesRequest, WatchActivitiesRequest,
    },
    validate::Violations,
};
use diesel_async::SimpleAsyncConnection as _;
use tokio::time::Instant;
use tonic::Request;

use crate::support::{
    self, Tenant, account,
    calls::only,
    eventually,
    process::Service,
    refusal, refused, shared,
    watch::{PATIENCE, Watch, quiet, raw_activity, sealed},
};

/// Room for a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(5);

/// The ids of the whole trail so far, in the order of the feed.
async fn feed(tenant: &Tenant) -> Vec<String> {
    let mut all = Vec::new();
    let mut request = ListActivitiesRequest { order_by: 2, page_size: 1000, ..Default::default() };
    loop {
        let response =
            tenant.activities().list_activities(request.clone()).await.unwrap().into_inner();
        all.extend(response.activities.into_iter().map(|activity| activity.activity_id));
        if response.next_page_token.is_empty() {
            return all;
        }
        request.page_token = response.next_page_token;
    }
}

fn ids(activities: &[Activity]) -> Vec<String> {
    activities.iter().map(|activity| activity.activity_id.clone()).collect()
}

async fn comment(tenant: &Tenant, id: &str, comment: &str) {
    tenant.update(Account { comment: comment.into(), ..only(id) }, &[]).await.unwrap();
}

#[tokio::test]
async fn a_watch_from_now_gets_what_happens_from_then_on() {
    let tenant = Tenant::new().await;
    let mut before = Watch::now(&tenant).await;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let history = feed(&tenant).await;
    assert_eq!(ids(&before.take(history.len()).await), history);

    // The feed has come beyond all of that.
    let opened = Instant::now();
    let mut watch = Watch::open(&tenant, "", "").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), [], "nothing of the past");
    assert!(opened.elapsed() < MARGIN, "the first message comes at once");
    comment(&tenant, "a", "one").await;
    comment(&tenant, "a", "two").await;
    let seen = watch.take(2).await;
    assert_eq!(ids(&seen), feed(&tenant).await[history.len()..]);
    let listed = ListActivitiesRequest {
        order_by: 2,
        account_id: "a".into(),
        page_size: 1000,
        ..Default::default()
    };
    let listed = tenant.activities().list_activities(listed).await.unwrap().into_inner().activities;
    assert!(listed.ends_with(&seen), "a watch and a list tell the same");
}

#[tokio::test]
async fn a_watch_goes_on_behind_every_cursor_it_gave() {
    let tenant = Tenant::new().await;
    let start = Watch::now(&tenant).await.cursor;
    tenant.organization("o", "").await;
    for n in 0..5 {
        tenant.account(account(&format!("a{n}"), "o")).await;
    }
    let history = feed(&tenant).await;
    let mut watch = Watch::open(&tenant, &start, "").await.unwrap();
    let (mut seen, mut cursors) = (0, vec![(0, start)]);
    while seen < history.len() {
        let step = ids(&watch.next().await.unwrap());
        assert_eq!(step, history[seen..seen + step.len()]);
        seen += step.len();
        cursors.push((seen, watch.cursor.clone()));
    }
    for (seen, cursor) in cursors {
        let mut again = Watch::open(&tenant, &cursor, "").await.unwrap();
        assert_eq!(ids(&again.take(history.len() - seen).await), history[seen..]);
    }
}

#[tokio::test]
async fn a_watch_of_an_account_is_sent_that_accounts_changes() {
    let tenant = Tenant::new().await;
    let mut all = Watch::now(&tenant).await;
    let mut start = Watch::open(&tenant, "", "a").await.unwrap();
    start.next().await.unwrap();
    tenant.organization("o", "").await;
    for id in ["a", "b"] {
        tenant.account(account(id, "o")).await;
    }
    for n in 0..4 {
        comment(&tenant, if n % 2 == 0 { "b" } else { "a" }, &n.to_string()).await;
    }
    let total = feed(&tenant).await.len();
    let mut expected = all.take(total).await;
    expected.retain(|activity| activity.account_id == "a");
    assert!(expected.len() >= 3, "{expected:?}");
    assert_eq!(start.take(expected.len()).await, expected);
    let mut resumed = Watch::open(&tenant, &start.cursor, "a").await.unwrap();
    assert_eq!(resumed.next().await.unwrap(), [], "nothing more");
}

#[tokio::test]
async fn checkpoints_come_when_nothing_else_does_and_move_the_cursor_on() {
    let service = Service::fresh(&["--watch-checkpoint-interval", "150ms"], &[]).await;
    let (tenant, other) =
        (Tenant::on(service.channel().await), Tenant::on(service.channel().await));
    let mut watch = Watch::now(&tenant).await;
    let first = watch.cursor.clone();
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(watch.next().await.unwrap(), []);
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    other.organization("o", "").await;
    let deadline = Instant::now() + PATIENCE;
    while watch.cursor == first {
        assert_eq!(watch.next().await.unwrap(), [], "nothing of another tenant");
        assert!(
            Instant::now() < deadline,
            "the cursor moves on although nothing happened in this tenant"
        );
    }
    tenant.organization("o", "").await;
    let mut resumed = Watch::open(&tenant, &watch.cursor, "").await.unwrap();
    assert_eq!(ids(&resumed.take(1).await), feed(&tenant).await);
}

#[tokio::test]
async fn a_cursor_of_another_tenant_or_account_or_of_none_is_refused() {
    let (tenant, other) = (Tenant::new().await, Tenant::new().await);
    let cursor = Watch::now(&tenant).await.cursor;
    let mut damaged = cursor.clone().into_bytes();
    damaged[20] = if damaged[20] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).unwrap();
    for (who, cursor, account_id) in [
        (&other, &*cursor, ""),
        (&tenant, &*cursor, "a"),
        (&tenant, &*damaged, ""),
        (&tenant, &cursor[1..], ""),
        (&tenant, "0", ""),
        (&tenant, "no cursor", ""),
        (&tenant, &*sealed(&tenant, "", "1 OR true", "0"), ""),
        (&tenant, &*sealed(&tenant, "", "1", "9999999999"), ""),
    ] {
        let answer = Watch::open(who, cursor, account_id).await.map(drop);
        assert_eq!(refusal(&answer), "INVALID_CURSOR");
        let (_, details) = refused(answer);
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "cursor");
    }
    assert!(Watch::open(&tenant, &cursor, "").await.is_ok());
    assert!(Watch::open(&tenant, &sealed(&tenant, "a", "1", "0"), "a").await.is_ok());
}

/// Runs statements as the service in this tenant.
async fn execute(tenant: &Tenant, sql: &str) {
    let caller = tenant.caller();
    let meta = Meta::of(&mut Violations::default(), &caller, &CreateAccountTypeRequest::default());
    let work = shared()
        .db
        .write(&caller, &meta, async |tx| Ok((&mut tx.conn()).batch_execute(sql).await?));
    shared().on_its_runtime(work).await.unwrap();
}

#[tokio::test]
async fn a_cursor_that_is_too_old_or_from_elsewhere_says_so() {
    let tenant = Tenant::new().await;
    let expired = async |transaction_id: i64, ordinal: i32| {
        let cursor = sealed(&tenant, "", &transaction_id.to_string(), &ordinal.to_string());
        match Watch::open(&tenant, &cursor, "").await {
            Ok(mut watch) => watch.next().await.map(drop),
            Err(status) => Err(status),
        }
    };
    let gone = "CURSOR_EXPIRED";
    // A tenant without a floor has everything, but no database has come as far as this.
    expired(0, 0).await.unwrap();
    assert_eq!(refusal(expired(i64::MAX - 1, 0).await), gone);
    execute(
        &tenant,
        "INSERT INTO tenants (activity_floor) VALUES (100) ON CONFLICT (tenant_id) DO UPDATE SET activity_floor = 100",
    )
    .await;
    for (transaction_id, ordinal) in [(0, 0), (98, i32::MAX), (99, 0), (99, i32::MAX - 1)] {
        assert_eq!(
            refusal(expired(transaction_id, ordinal).await),
            gone,
            "{transaction_id} {ordinal}"
        );
    }
    for (transaction_id, ordinal) in [(99, i32::MAX), (100, 0), (101, 5)] {
        expired(transaction_id, ordinal).await.unwrap();
    }
    assert!(Watch::open(&tenant, "", "").await.is_ok(), "from now on is always possible");
    // A watch under way that has fallen behind the floor is told, too.
    let mut watch = Watch::open(&tenant, "", "").await.unwrap();
    watch.next().await.unwrap();
    execute(
        &tenant,
        "UPDATE tenants SET activity_floor = (pg_current_xact_id()::text)::bigint + 1000000",
    )
    .await;
    assert_eq!(refusal(watch.ends().await), gone);
    assert_eq!(
        refusal(Watch::open(&tenant, &sealed(&tenant, "", "5000", "0"), "").await.map(drop)),
        gone
    );
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_does_not_wait_for_them() {
    let service = Service::fresh(&["--shutdown-deadline", "60s"], &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let watch = Watch::now(&tenant).await;
    // And one that has stopped listening, with more to come than fits on the way.
    let deaf = Tenant::on(service.channel().await);
    let _deaf = Watch::now(&deaf).await;
    deaf.organization("o", "").await;
    deaf.account(account("a", "o")).await;
    for n in 0..400 {
        let billing_details = format!("{n} {}", "x".repeat(9_900));
        deaf.update(Account { billing_details, ..only("a") }, &[]).await.unwrap();
    }
    let signalled = Instant::now();
    service.terminate();
    let end = watch.ends().await;
    assert_eq!(refusal(&end), "WATCH_ENDED");
    let (_, details) = refused(end);
    assert!(details.retry_info().is_some());
    assert_eq!(service.ended().await.code(), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(15), "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn there_is_room_for_so_many_watches() {
    let service = Service::fresh(&["--max-watches", "2", "--tenant-share", "100"], &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let (first, second) = (Watch::now(&tenant).await, Watch::now(&tenant).await);
    let third = Watch::open(&Tenant::on(service.channel().await), "", "").await.map(drop);
    assert_eq!(refusal(&third), "OVERLOADED");
    let (_, details) = refused(third);
    assert!(details.retry_info().is_some());
    tenant.organization("o", "").await;
    drop(first);
    eventually(PATIENCE, "room after a watch has gone", async || {
        Watch::open(&tenant, "", "").await.ok()
    })
    .await;
    drop(second);
}

#[tokio::test]
async fn a_watch_outlives_the_deadlines_of_calls_but_not_its_own() {
    let options = [
        "--default-deadline",
        "300ms",
        "--max-deadline",
        "300ms",
        "--watch-checkpoint-interval",
        "100ms",
    ];
    let service = Service::fresh(&[&options[..], &["--watch-max-age", "2s"]].concat(), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let opened = Instant::now();
    let mut watch = Watch::now(&tenant).await;
    while opened.elapsed() < Duration::from_secs(1) {
        watch.next().await.unwrap();
    }
    let status = watch.ends().await;
    assert_eq!(refusal(status), "WATCH_ENDED");
    assert!(opened.elapsed() >= Duration::from_millis(1900), "{:?}", opened.elapsed());

    // As a bare header: the client has no timer of its own for it.
    let mut request = Request::new(WatchActivitiesRequest::default());
    request.metadata_mut().insert("grpc-timeout", "700m".parse().unwrap());
    let opened = Instant::now();
    let stream = tenant.activities().watch_activities(request).await.unwrap().into_inner();
    let status = Watch { stream, cursor: String::new() }.ends().await;
    assert_eq!(refusal(status), "DEADLINE_EXCEEDED");
    assert!(
        opened.elapsed() >= Duration::from_millis(650) && opened.elapsed() < MARGIN,
        "{:?}",
        opened.elapsed()
    );
    let log = service.log();
    service.terminate();
    service.ended().await;
    let text = eventually(PATIENCE, "the end of the log", async || {
        Some(log.text()).filter(|text| text.contains("shutting down"))
    })
    .await;
    assert!(!text.contains("WatchActivities"), "a watch that ends as planned is no news: {text}");
}

/// What commits late is not skipped, and what must wait for it is told as soon as it has ended.
#[tokio::test]
async fn nothing_is_told_before_what_began_to_write_earlier_has_ended() {
    let Some(cluster) = quiet() else { return };
    let service = Service::on(&cluster.url(), &["--watch-checkpoint-interval", "100ms"]).await;
    let tenant = Tenant::on(service.channel().await);
    let mut watch = Watch::now(&tenant).await;
    for end in ["COMMIT", "ROLLBACK"] {
        let raw = support::sql(&cluster.url()).await;
        raw.batch_execute(&format!(
            "BEGIN; {}",
            raw_activity(&tenant.caller.tenant, &format!("late-{end}"))
        ))
        .await
        .unwrap();
        tenant.organization(&format!("early-{end}"), "").await;
        // Long enough for what is wrong to be sent: checkpoints come instead.
        for _ in 0..8 {
            assert_eq!(watch.next().await.unwrap(), []);
        }
        raw.batch_execute(end).await.unwrap();
        let committed = if end == "COMMIT" { 2 } else { 1 };
        let told: Vec<_> =
            watch.take(committed).await.into_iter().map(|activity| activity.resource_id).collect();
        let expected = [format!("late-{end}"), format!("early-{end}")];
        assert_eq!(told, expected[2 - committed..]);
    }
}

#[tokio::test]
async fn a_change_is_heard_at_once_and_that_of_another_replica_by_the_next_look() {
    let Some(cluster) = quiet() else { return };
    let options = ["--watch-poll-interval", "2s"];
    let first = Service::on(&cluster.url(), &options).await;
    let second = Service::on(&cluster.url(), &options).await;
    let here = Tenant::on(first.channel().await);
    let there = Tenant { channel: second.channel().await, ..here.clone() };
    let mut watch = Watch::now(&here).await;
    let mut took = Vec::new();
    for n in 0..10 {
        let began = Instant::now();
        here.organization(&format!("o{n}"), "").await;
        watch.take(1).await;
        took.push(began.elapsed());
    }
    took.sort();
    assert!(took[5] < Duration::from_secs(1), "half of them long before the next look: {took:?}");
    let began = Instant::now();
    there.organization("elsewhere", "").await;
    assert_eq!(watch.take(1).await[0].resource_id, "elsewhere");
    assert!(began.elapsed() < Duration::from_secs(2) + MARGIN, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_watch_survives_a_database_that_is_away_for_a_moment() {
    let Some(cluster) = quiet() else { return };
    let service = Service::on(&cluster.url(), &["--watch-poll-interval", "50ms"]).await;
    let tenant = Tenant::on(service.channel().await);
    let mut watch = Watch::now(&tenant).await;
    tenant.organization("before", "").await;
    assert_eq!(watch.take(1).await[0].resource_id, "before");
    cluster.crash();
    // Each takes as long as a call waits for a connection, and the watch looks several times
    // meanwhile.
    for _ in 0..3 {
        let answer = tenant.activities().list_activities(ListActivitiesRequest::default()).await;
        assert_eq!(refusal(answer), "DATABASE_UNAVAILABLE");
    }
    cluster.resume();
    eventually(PATIENCE, "the service is back", async || {
        tenant.activities().list_activities(ListActivitiesRequest::default()).await.ok()
    })
    .await;
    tenant.organization("after", "").await;
    assert_eq!(watch.take(1).await[0].resource_id, "after");
    // Away for longer than a watch waits, it ends and says why; nothing is lost.
    cluster.crash();
    let (cursor, away) = (watch.cursor.clone(), Instant::now());
    assert_eq!(refusal(watch.ends().await), "DATABASE_UNAVAILABLE");
    assert!(away.elapsed() > Duration::from_secs(9), "{:?}", away.elapsed());
    cluster.resume();
    let mut watch =
        eventually(PATIENCE, "a new watch", async || Watch::open(&tenant, &cursor, "").await.ok())
            .await;
    tenant.organization("later", "").await;
    assert_eq!(watch.take(1).await[0].resource_id, "later");
}
