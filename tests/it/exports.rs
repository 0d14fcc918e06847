//! Exports: which accounts they send, how they go on, and how their streams and those of imports
//! end.

use std::time::Duration;

use customer_accounts::proto::{
    Account, AccountStatus, ExportAccountsRequest, ExportAccountsResponse, ImportAccountsRequest,
    ImportLink, ImportUser,
};
use futures_util::{StreamExt as _, stream};
use tokio::{sync::oneshot, time::Instant};
use tonic::Request;

use crate::support::{
    Tenant, account, apart,
    calls::{fields, only},
    eventually,
    process::Service,
    refusal,
    transfers::{again, batch, outcomes, row},
    watch::{PATIENCE, Watch},
};

fn all() -> ExportAccountsRequest {
    ExportAccountsRequest::default()
}

async fn many(tenant: &Tenant, count: usize) -> Vec<String> {
    tenant.organization("o", "").await;
    let mut ids: Vec<_> = (0..count).map(|n| format!("a{n}")).collect();
    for ids in ids.chunks(1000) {
        let rows = ids.iter().map(|id| row(account(id, "o"))).collect();
        tenant.try_import(batch(rows)).await.unwrap();
    }
    ids.sort();
    ids
}

#[tokio::test]
async fn every_filter_is_that_of_the_list() {
    let tenant = Tenant::new().await;
    for (id, parent_id) in [("top", ""), ("below", "top"), ("aside", "")] {
        tenant.organization(id, parent_id).await;
    }
    tenant.account_type("t").await;
    tenant.staff("boss").await;
    tenant.account(Account { account_type_id: "t".into(), ..account("a", "top") }).await;
    tenant.account(Account { account_manager_id: "boss".into(), ..account("b", "below") }).await;
    tenant.account(account("c", "aside")).await;
    let suspended = AccountStatus::Suspended.into();
    tenant.update(Account { status: suspended, ..only("c") }, &[]).await.unwrap();
    assert_eq!(tenant.exported(all()).await, ["a", "b", "c"]);
    let top = ExportAccountsRequest { organization_id: "top".into(), ..all() };
    assert_eq!(tenant.exported(top.clone()).await, ["a"]);
    let below = ExportAccountsRequest { include_descendants: true, ..top };
    assert_eq!(tenant.exported(below).await, ["a", "b"]);
    let of_type = ExportAccountsRequest { account_type_id: "t".into(), ..all() };
    assert_eq!(tenant.exported(of_type).await, ["a"]);
    let managed = ExportAccountsRequest { account_manager_id: "boss".into(), ..all() };
    assert_eq!(tenant.exported(managed).await, ["b"]);
    let in_status = ExportAccountsRequest { statuses: vec![suspended], ..all() };
    assert_eq!(tenant.exported(in_status).await, ["c"]);
    let bad = ExportAccountsRequest { statuses: vec![0], organization_id: "x".repeat(51), ..all() };
    let bad = tenant.export_messages(bad).await;
    assert_eq!(fields(bad), ["statuses[0]", "organization_id"]);
}

#[tokio::test]
async fn an_export_sends_every_account_once_by_ascending_id_and_goes_on_from_each_cursor() {
    let tenant = Tenant::new().await;
    let ids = many(&tenant, 1234).await;
    let messages = tenant.export_messages(all()).await.unwrap();
    let sent = |message: &ExportAccountsResponse| {
        let accounts = message.accounts.iter();
        accounts.map(|it| it.account.clone().unwrap().account_id).collect::<Vec<_>>()
    };
    assert_eq!(messages.iter().flat_map(sent).collect::<Vec<_>>(), ids);
    assert!(messages.len() >= 3 && messages.iter().all(|message| message.accounts.len() <= 500));
    let mut before = 0;
    for message in &messages {
        before += message.accounts.len();
        let cursor = message.cursor.clone();
        let rest = tenant.exported(ExportAccountsRequest { cursor, ..all() }).await;
        assert_eq!(rest, ids[before..]);
    }
    let cursor = messages[0].cursor.clone();
    let other = ExportAccountsRequest { organization_id: "o".into(), cursor, ..all() };
    assert_eq!(refusal(tenant.export_messages(other.clone()).await), "INVALID_CURSOR");
    let elsewhere = Tenant::new().await;
    let foreign = ExportAccountsRequest { organization_id: String::new(), ..other };
    assert_eq!(refusal(elsewhere.export_messages(foreign).await), "INVALID_CURSOR");
}

#[tokio::test]
async fn what_is_exported_and_imported_again_is_unchanged() {
    let tenant = Tenant::new().await;
    for id in ["o", "p", "q"] {
        tenant.organization(id, "").await;
    }
    tenant.person("ann").await;
    tenant.person("bob").await;
    tenant.account(account("a", "o")).await;
    tenant.link("a", "o", true).await.unwrap();
    tenant.link("a", "p", false).await.unwrap();
    tenant.add_user("a", "ann").await;
    tenant.account(account("b", "q")).await;
    tenant.add_user("b", "bob").await;
    let by_person = Account { billing_contact_id: "bob".into(), ..only("b") };
    tenant.update(by_person, &[]).await.unwrap();
    let everything = ExportAccountsRequest { include_links: true, include_users: true, ..all() };
    let exported = tenant.export(everything.clone()).await;
    let links =
        |id: &str, below| ImportLink { organization_id: id.into(), include_descendants: below };
    assert_eq!(exported[0].linked_organizations, [links("o", true), links("p", false)]);
    let user = |id: &str| ImportUser { person_id: id.into(), ..Default::default() };
    assert_eq!(exported[0].account_users, [user("ann")]);
    assert_eq!(exported[1].linked_organizations, []);
    let plain = tenant.export(all()).await;
    assert!(
        plain.iter().all(|it| it.account_users.is_empty() && it.linked_organizations.is_empty())
    );
    let trail = tenant.trail().await.len();
    let rows: Vec<_> = exported.iter().cloned().map(again).collect();
    assert_eq!(tenant.import(rows).await, ["UNCHANGED", "UNCHANGED"]);
    assert_eq!(tenant.trail().await.len(), trail);
    assert_eq!(tenant.export(everything).await, exported, "a second export is the same");
    // In another tenant, which has the organizations and the people, the same accounts come about.
    let copy = Tenant::new().await;
    for id in ["o", "p", "q"] {
        copy.organization(id, "").await;
    }
    copy.person("ann").await;
    copy.person("bob").await;
    let rows = exported.into_iter().map(again).map(|mut row| {
        row.account.as_mut().unwrap().etag.clear();
        row
    });
    assert_eq!(copy.import(rows.collect()).await, ["CREATED", "CREATED"]);
    assert_eq!(copy.links("a").await.len(), 2);
    assert_eq!(copy.get("b").await.unwrap().billing_contact_id, "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_very_many_users_is_sent_whole() {
    const USERS: usize = 12_000;
    let Some((tenant, sql, _db)) = apart().await else { return };
    tenant.organization("o", "").await;
    for id in ["a", "b", "c"] {
        tenant.account(account(id, "o")).await;
    }
    let of = &tenant.caller().tenant;
    sql.batch_execute(&format!(
        "INSERT INTO people (tenant_id, person_id, display_name, sort_key, kind) \
         SELECT '{of}', lpad(n::text, 50, 'p'), 'n', 'n', 'CUSTOMER' FROM generate_series(1, {USERS}) n; \
         INSERT INTO account_users (tenant_id, account_id, person_id, individual, sort_key, person_create_time) \
         SELECT '{of}', 'b', person_id, true, sort_key, create_time FROM people WHERE tenant_id = '{of}'; \
         INSERT INTO account_users (tenant_id, account_id, person_id, individual, sort_key, person_create_time) \
         SELECT '{of}', 'c', person_id, true, sort_key, create_time FROM people WHERE tenant_id = '{of}'"
    ))
    .await
    .unwrap();
    let exported = tenant.export(ExportAccountsRequest { include_users: true, ..all() }).await;
    let users: Vec<_> = exported.iter().map(|it| it.account_users.len()).collect();
    assert_eq!(users, [0, USERS, USERS]);
}

#[tokio::test]
async fn a_watch_from_the_first_message_tells_every_change_since() {
    let tenant = Tenant::new().await;
    many(&tenant, 3).await;
    let mut export = tenant.accounts().export_accounts(all()).await.unwrap().into_inner();
    let first = export.message().await.unwrap().unwrap();
    tenant.update(Account { comment: "later".into(), ..only("a1") }, &[]).await.unwrap();
    tenant.account(account("a9", "o")).await;
    let mut watch = Watch::open(&tenant, &first.watch_cursor, "").await.unwrap();
    let mut told = Vec::new();
    while !told.contains(&"a9".to_owned()) {
        let activities = watch.next().await.unwrap();
        told.extend(activities.into_iter().map(|activity| activity.resource_id));
    }
    assert!(told.contains(&"a1".to_owned()), "{told:?}");
    // An export of nothing tells where it began, too; one that goes on began elsewhere.
    let nothing = Tenant::new().await.export_messages(all()).await.unwrap();
    assert!(nothing.len() == 1 && !nothing[0].watch_cursor.is_empty());
    let cursor = first.cursor;
    let rest = tenant.export_messages(ExportAccountsRequest { cursor, ..all() }).await.unwrap();
    assert_eq!((&*rest[0].watch_cursor, rest[0].accounts.len()), ("", 1));
}

#[tokio::test]
async fn there_is_room_for_so_many_imports_and_exports() {
    let service = Service::fresh(&["--max-transfers", "4"], &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let neighbour = Tenant::on(service.channel().await);
    // An import goes on until its client has sent all, which here is when the sender is dropped.
    let hang = |tenant: &Tenant| {
        let mut accounts = tenant.accounts();
        let (send, receive) = oneshot::channel::<()>();
        let batches = stream::once(receive).filter_map(|_| async { None });
        async move { accounts.import_accounts(batches).await.map(|import| (send, import)) }
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(hang(&tenant).await.unwrap());
    }
    assert_eq!(refusal(hang(&tenant).await.map(drop)), "OVERLOADED");
    assert_eq!(refusal(tenant.export_messages(all()).await), "OVERLOADED");
    neighbour.export_messages(all()).await.unwrap();
    open.pop();
    eventually(PATIENCE, "an export in place of an import that ended", async || {
        tenant.export_messages(all()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_stream_outlives_the_deadlines_of_calls_and_ends_between_two_batches() {
    let options = ["--default-deadline", "300ms", "--max-deadline", "300ms"];
    let service = Service::fresh(&[&options[..], &["--watch-max-age", "2s"]].concat(), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    let opened = Instant::now();
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let batches =
        stream::unfold(
            receive,
            |mut receive| async move { Some((receive.recv().await?, receive)) },
        );
    let import = tenant.accounts().import_accounts(batches).await.unwrap();
    let mut import = import.into_inner();
    for n in 0..4 {
        send.send(batch(vec![row(account(&format!("a{n}"), "o"))])).await.unwrap();
        assert_eq!(outcomes(&import.message().await.unwrap().unwrap()), ["CREATED"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let end = import.message().await;
    assert_eq!(refusal(end), "STREAM_ENDED");
    assert!(opened.elapsed() >= Duration::from_millis(1900), "{:?}", opened.elapsed());
    // The deadline that the client sets holds.
    let mut request = Request::new(stream::pending::<ImportAccountsRequest>());
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut import = tenant.accounts().import_accounts(request).await.unwrap().into_inner();
    assert_eq!(refusal(import.message().await), "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read_further() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let (send, receive) = tokio::sync::mpsc::channel::<usize>(1000);
    // Batches whose answers are large: errors of a thousand rows.
    let batches = (0..80).map(move |n| {
        let _ = send.try_send(n);
        batch((0..1000).map(|_| row(account("", &"x".repeat(51)))).collect())
    });
    let import = tenant.accounts().import_accounts(stream::iter(batches)).await.unwrap();
    let mut import = import.into_inner();
    let mut taken = usize::MAX;
    // Until the client has sent nothing more for a second.
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if taken == receive.len() {
            break;
        }
        taken = receive.len();
    }
    assert!(taken < 50, "{taken} batches of 100 KB were taken from a client that does not read");
    let mut answers = 0;
    while import.message().await.unwrap().is_some() {
        answers += 1;
    }
    assert_eq!(answers, 80);
}
