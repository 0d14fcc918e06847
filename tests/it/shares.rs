//! Shares: calls, connections and watches that one tenant cannot take from the others, and the
//! statements that a connection keeps.

use std::time::Duration;

use customer_accounts::proto::{
    Account, ListAccountUsersRequest, ListAccountsRequest, ListOrganizationsRequest,
    ListPeopleRequest, UpdateAccountRequest,
};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::support::{
    Tenant, account, calls::fields, eventually, process::Service, real_database, refusal, sql,
    waiting_for_locks, watch::Watch,
};

/// A service of its own, a tenant whose account is locked by another connection, and a neighbour.
struct Scene {
    _service: Service,
    tenant: Tenant,
    neighbour: Tenant,
    lock: tokio_postgres::Client,
}

impl Scene {
    async fn new(arguments: &[&str]) -> Option<Self> {
        let url =
            real_database("a call is made slow by a lock that another connection holds").await?;
        let service = Service::on(&url, arguments).await;
        let tenant = Tenant::on(service.channel().await);
        let neighbour = Tenant::on(service.channel().await);
        for tenant in [&tenant, &neighbour] {
            tenant.organization("o", "").await;
            tenant.account(account("a", "o")).await;
        }
        let lock = sql(&url).await;
        let update = format!(
            "BEGIN; SELECT FROM accounts WHERE tenant_id = '{}' FOR UPDATE",
            tenant.caller.tenant
        );
        lock.batch_execute(&update).await.unwrap();
        Some(Self { _service: service, tenant, neighbour, lock })
    }

    /// Calls of the tenant that wait for the lock.
    fn hang(&self, calls: usize) -> Vec<JoinHandle<Result<(), Status>>> {
        let hang = |n| {
            let account = Account { comment: format!("{n}"), ..account("a", "o") };
            let request = UpdateAccountRequest { account: Some(account), ..Default::default() };
            let mut accounts = self.tenant.accounts();
            tokio::spawn(async move { accounts.update_account(request).await.map(drop) })
        };
        (0..calls).map(hang).collect()
    }

    /// Lets the waiting calls go on, and tells how many were refused as OVERLOADED.
    async fn refused(&self, calls: Vec<JoinHandle<Result<(), Status>>>) -> usize {
        self.lock.batch_execute("COMMIT").await.unwrap();
        let mut refused = 0;
        for call in calls {
            if let Err(status) = call.await.unwrap() {
                assert_eq!(refusal(status), "OVERLOADED");
                refused += 1;
            }
        }
        refused
    }
}

#[tokio::test]
async fn a_tenant_whose_calls_wait_leaves_connections_to_others() {
    let Some(scene) = Scene::new(&["--pool-size", "4"]).await else { return };
    let calls = scene.hang(12);
    waiting_for_locks(&scene.lock, 3).await;
    for _ in 0..20 {
        scene.neighbour.get("a").await.unwrap();
    }
    // Those that got no connection are told so; the three go on.
    let refused =
        eventually(Duration::from_secs(5), "nine calls without a connection", async || {
            let ended = calls.iter().filter(|call| call.is_finished()).count();
            (ended == 9).then_some(ended)
        });
    refused.await;
    assert_eq!(scene.refused(calls).await, 9);
}

#[tokio::test]
async fn a_tenant_with_many_calls_leaves_room_to_others() {
    let Some(scene) = Scene::new(&["--max-calls", "8", "--tenant-share", "50"]).await else {
        return;
    };
    let calls = scene.hang(4);
    waiting_for_locks(&scene.lock, 4).await;
    assert_eq!(refusal(scene.tenant.get("a").await), "OVERLOADED");
    scene.neighbour.get("a").await.unwrap();
    assert_eq!(scene.refused(calls).await, 0);
    scene.tenant.get("a").await.unwrap();
}

#[tokio::test]
async fn a_tenant_with_many_watches_leaves_some_to_others() {
    let service = Service::fresh(&["--max-watches", "4"], &[]).await;
    let (tenant, neighbour) =
        (Tenant::on(service.channel().await), Tenant::on(service.channel().await));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Watch::open(&tenant, "", "").await.unwrap());
    }
    let fourth = Watch::open(&tenant, "", "").await.map(drop);
    assert_eq!(refusal(fourth), "OVERLOADED");
    Watch::open(&neighbour, "", "").await.unwrap();
    open.pop();
    eventually(Duration::from_secs(5), "a watch in place of one that ended", async || {
        Watch::open(&tenant, "", "").await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_search_has_at_most_eight_words() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(Account { display_name: "a b c d e f g h".into(), ..account("x", "o") }).await;
    let list = |query: &str| ListAccountsRequest { query: query.into(), ..Default::default() };
    assert_eq!(tenant.list(list("a b c d e f g h a, B -")).await, ["x"], "each word counts once");
    let (query, too_many) = (String::new, "a b c d e f g h i".to_owned());
    assert_eq!(fields(tenant.accounts().list_accounts(list(&too_many)).await), ["query"]);
    let people = ListPeopleRequest { query: too_many.clone(), ..Default::default() };
    assert_eq!(fields(tenant.people().list_people(people).await), ["query"]);
    let organizations = ListOrganizationsRequest { query: too_many.clone(), ..Default::default() };
    assert_eq!(fields(tenant.organizations().list_organizations(organizations).await), ["query"]);
    let users =
        ListAccountUsersRequest { account_id: "x".into(), query: too_many, ..Default::default() };
    assert_eq!(fields(tenant.memberships().list_account_users(users).await), ["query"]);
    assert_eq!(tenant.list(list(&query())).await, ["x"]);
}

/// Each combination of filters is a statement of its own, which the connection would keep for ever.
#[tokio::test]
async fn a_connection_with_many_statements_is_replaced() {
    let Some(url) = real_database("the sessions of the embedded server cannot be seen").await
    else {
        return;
    };
    let service = Service::on(&url, &["--pool-size", "1"]).await;
    let tenant = Tenant::on(service.channel().await);
    let admin = sql(&url).await;
    let session = async || {
        let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let rows = admin.query(sessions, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    tenant.list(ListAccountsRequest::default()).await;
    let first = session().await;
    assert_eq!(first.len(), 1);
    let mut statements = 0;
    for filters in 0..256_u32 {
        let id = |bit: u32| if filters >> bit & 1 == 1 { "x".to_owned() } else { String::new() };
        let request = ListAccountsRequest {
            order_by: 1 + i32::try_from(filters >> 6).unwrap(),
            query: id(0),
            statuses: if filters >> 1 & 1 == 1 { vec![1] } else { vec![] },
            organization_id: id(2),
            account_type_id: id(3),
            account_manager_id: id(4),
            person_id: id(5),
            ..Default::default()
        };
        tenant.list(request).await;
        statements += 1;
    }
    let last = session().await;
    assert_eq!(last.len(), 1);
    assert_ne!(first, last, "{statements} statements in one session");
    // What is asked again and again stays on its connection.
    for _ in 0..300 {
        tenant.list(ListAccountsRequest::default()).await;
    }
    assert_eq!(session().await, last);
}
