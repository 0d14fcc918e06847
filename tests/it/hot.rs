//! Hot reads: `GetAccount` and `CheckMembership` through connections of their own, on which the
//! calls of several tenants go together. The shared service has such connections too, so every
//! other test of these calls runs through them.

use std::time::Duration;

use customer_accounts::{
    caller::Caller,
    db::Db,
    proto::{GetAccountRequest, account_service_server::AccountService as _},
};
use futures_util::{
    FutureExt as _,
    future::{join, join_all},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic::{Code, Request, Status};

use crate::support::{
    ALONE, Tenant, account, calls::accounts_service, eventually, real_database, sql, with_lanes,
};

/// Calls at once.
const CALLERS: usize = 256;

/// Tenants with accounts and people of the same ids, on a pool of one connection beside those of
/// hot reads. The name of each account contains its tenant.
struct Scene {
    url: String,
    db: Db,
    tenants: Vec<Tenant>,
}

impl Scene {
    async fn new(tenants: usize) -> Option<Self> {
        Self::with_wait(tenants, Duration::from_secs(1)).await
    }

    /// `wait`: how long a call waits for the connection of the pool.
    async fn with_wait(tenants: usize, wait: Duration) -> Option<Self> {
        let url = real_database(ALONE).await?;
        let (first, db) = with_lanes(&url, 1, 2, wait).await;
        let tenants: Vec<_> = (0..tenants).map(|_| Tenant::on(first.channel.clone())).collect();
        for tenant in &tenants {
            tenant.organization("o", "").await;
            tenant.person("ann").await;
            tenant.person("bob").await;
            tenant.add_member("o", "ann").await.unwrap();
            for id in ["a", "b", "c"] {
                let mut account = account(id, "o");
                account.display_name = name(tenant, id);
                tenant.account(account).await;
            }
        }
        Some(Self { url, db, tenants })
    }

    /// Takes the only connection of the pool, and waits until hot reads have one of their own: from
    /// now on a call that needs the pool fails. The connection is given back when the sender is
    /// dropped.
    async fn without_pool(&self) -> (oneshot::Sender<()>, JoinHandle<()>) {
        let (release, released) = oneshot::channel();
        let released = tokio::sync::Mutex::new(Some(released));
        let (db, caller) = (self.db.clone(), self.tenants[0].caller());
        let holding = tokio::spawn(async move {
            let hold = async |_: &_| {
                let _ = released.lock().await.take().unwrap().await;
                Ok(())
            };
            db.read(&caller, hold).await.unwrap();
        });
        eventually(Duration::from_secs(20), "a hot read without the pool", async || {
            self.tenants[0].get("a").await.ok()
        })
        .await;
        (release, holding)
    }

    async fn get(&self, tenant: usize, id: &str) -> Result<(), Status> {
        let tenant = &self.tenants[tenant];
        let found = tenant.get(id).await?;
        assert_eq!((&*found.account_id, found.display_name), (id, name(tenant, id)));
        Ok(())
    }

    async fn check(&self, tenant: usize, account_id: &str, person_id: &str) -> Result<(), Status> {
        let found = self.tenants[tenant].check(account_id, person_id).await?;
        let organizations = if person_id == "ann" { vec!["o"] } else { Vec::new() };
        assert_eq!(found.is_user, person_id == "ann");
        assert_eq!(found.organization_ids, organizations);
        Ok(())
    }

    /// Makes a call of each kind for each tenant, `CALLERS` at once. Returns the failures.
    async fn calls(&self) -> Vec<Status> {
        let calls = (0..CALLERS).map(async |caller| {
            let (tenant, id) = (caller % self.tenants.len(), ["a", "b", "c"][caller / 8 % 3]);
            match caller % 3 {
                0 => self.check(tenant, id, ["ann", "bob"][caller / 16 % 2]).await,
                _ => self.get(tenant, id).await,
            }
        });
        join_all(calls).await.into_iter().filter_map(Result::err).collect()
    }
}

fn name(tenant: &Tenant, id: &str) -> String {
    format!("{} {id}", tenant.caller.tenant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_many_tenants_go_together_and_each_gets_its_own() {
    let Some(scene) = Scene::new(8).await else { return };
    let (release, holding) = scene.without_pool().await;
    for _ in 0..20 {
        let failed = scene.calls().await;
        assert!(failed.is_empty(), "{failed:?}");
    }
    drop(release);
    holding.await.unwrap();
    // What the flights do not find out themselves is found out by the pool.
    let missing = scene.tenants[0].get("z").await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "no account \"z\""));
}

/// Ends the connections of hot reads. Returns how many they were.
async fn lose_connections(server: &tokio_postgres::Client) -> i64 {
    // The connection of the pool is in its transaction, so it is the only one that is not counted.
    let lost = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() \
         AND state <> 'idle in transaction'";
    server.query_one(lost, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_fail_no_call() {
    // All calls may go to the one connection of the pool, one after the other.
    let Some(scene) = Scene::with_wait(4, Duration::from_secs(20)).await else { return };
    let (release, holding) = scene.without_pool().await;
    let server = sql(&scene.url).await;
    assert!(lose_connections(&server).await > 0, "no connection of hot reads was there");
    drop(release);
    holding.await.unwrap();
    for _ in 0..10 {
        let failed = scene.calls().await;
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_lost_again_and_again_are_replaced() {
    let Some(scene) = Scene::new(4).await else { return };
    let (_release, _holding) = scene.without_pool().await;
    let server = sql(&scene.url).await;
    for _ in 0..4 {
        let (failed, lost) = join(scene.calls(), async {
            sleep(Duration::from_millis(2)).await;
            lose_connections(&server).await
        })
        .await;
        // They go to the pool, which has no connection left for them.
        assert!(failed.iter().all(|status| status.code() == Code::ResourceExhausted), "{failed:?}");
        assert!(failed.is_empty() || lost > 0, "{failed:?}");
        // The next round begins with a connection, so its failures are due to its own losses.
        eventually(Duration::from_secs(20), "new connections", async || {
            scene.calls().await.is_empty().then_some(())
        })
        .await;
    }
}

/// A request of `GetAccount` as the guard passes it on.
fn get(tenant: &Tenant, id: &str, deadline: Instant) -> Request<GetAccountRequest> {
    let mut request = Request::new(GetAccountRequest { account_id: id.into() });
    request.extensions_mut().insert(Caller { deadline, ..tenant.caller() });
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_to_a_dropped_call_reach_no_other_call() {
    let Some(scene) = Scene::new(2).await else { return };
    let (_release, _holding) = scene.without_pool().await;
    let service = accounts_service(&scene.db);
    // PostgreSQL can answer so fast that the first poll is the last.
    let mut count = 0;
    while count < 50 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let dropped = service.get_account(get(&scene.tenants[0], "a", deadline)).now_or_never();
        count += usize::from(dropped.is_none());
        // Without the pool this call needs the connection of the dropped one.
        scene.get(1, "b").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_leaves_its_connection_to_the_others() {
    let Some(scene) = Scene::new(2).await else { return };
    let (_release, _holding) = scene.without_pool().await;
    let mut server = sql(&scene.url).await;
    let lock = server.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // One call is given up by its client, the other meets its deadline in the service.
    let mut given_up = Request::new(GetAccountRequest { account_id: "a".into() });
    given_up.set_timeout(Duration::from_millis(300));
    let deadline = Instant::now() + Duration::from_millis(300);
    let late = get(&scene.tenants[1], "b", deadline);
    let (mut client, service) = (scene.tenants[0].accounts(), accounts_service(&scene.db));
    let began = Instant::now();
    let (given_up, late) = join(client.get_account(given_up), service.get_account(late)).await;
    // Client and service measure the same time: whichever is first ends the call.
    let given_up = given_up.unwrap_err().code();
    assert!(matches!(given_up, Code::Cancelled | Code::DeadlineExceeded), "{given_up:?}");
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(lock);
    eventually(Duration::from_secs(20), "a connection after a cancelled flight", async || {
        scene.calls().await.is_empty().then_some(())
    })
    .await;
}
