//! What was acknowledged stays: through `kill -9` of the service, of its database, and of its
//! connections.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use customer_accounts::{
    db::embedded::Embedded,
    proto::{
        Account, CreateAccountRequest, GetAccountRequest, ListAccountsRequest, UpdateAccountRequest,
    },
    server::{LIVENESS, READINESS},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{
    Tenant, account,
    cluster::Cluster,
    connect,
    dice::{Dice, seed},
    eventually,
    process::Service,
    real_database, refusal, refused, sql,
};

const WRITERS: usize = 4;
/// Longest that a call may take to learn that there is no database.
const AWAY: Duration = Duration::from_millis(1500);
/// Longest until calls work again once there is one.
const BACK: Duration = Duration::from_secs(2);
/// Room for a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_has_lost_nothing_on_the_embedded_server() {
    let folder = tempfile::Builder::new().prefix("ca-it").tempdir().unwrap();
    let (writes, mut dice) = (Writes::default(), Dice::seeded(seed()));
    let mut tenant = None;
    for round in 0..3 {
        let service = Service::embedded(folder.path(), &[]).await;
        tenant = Some(kill_during_writes(service, tenant, &writes, round, &mut dice).await);
    }
    let tenant = tenant.unwrap();
    let service = Service::embedded(folder.path(), &[]).await;
    writes.are_there(&moved(&tenant, &service).await).await;
    // An ordinary end and start keeps everything too.
    service.terminate();
    assert!(service.ended().await.success());
    let service = Service::embedded(folder.path(), &[]).await;
    writes.are_there(&moved(&tenant, &service).await).await;
    service.terminate();
    assert!(service.ended().await.success());
    every_write_is_whole_embedded(folder.path(), &writes, &tenant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_has_lost_nothing_on_a_real_server() {
    let Some(url) = real_database("writes of several connections at once").await else { return };
    let (writes, mut dice) = (Writes::default(), Dice::seeded(seed()));
    let mut tenant = None;
    for round in 0..5 {
        let service = Service::on(&url, &[]).await;
        tenant = Some(kill_during_writes(service, tenant, &writes, round, &mut dice).await);
    }
    let tenant = tenant.unwrap();
    let service = Service::on(&url, &[]).await;
    writes.are_there(&moved(&tenant, &service).await).await;
    writes.are_whole(&sql(&url).await, &tenant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_crashes_is_reported_and_found_again() {
    let Some(cluster) = Cluster::start() else { return };
    let service = Service::on(&cluster.url(), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    let (writes, mut health) = (Writes::default(), HealthClient::new(service.channel().await));
    for round in 0..2 {
        let load = Load::start(&tenant, &writes, &format!("r{round}"));
        load.acknowledged(&writes, 100).await;
        cluster.crash();
        let crashed = Instant::now();
        let answer =
            tenant.accounts().get_account(GetAccountRequest { account_id: "any".into() }).await;
        assert_eq!(refusal(answer), "DATABASE_UNAVAILABLE");
        eventually(Duration::from_secs(10), "not ready", async || {
            (status(&mut health, READINESS).await == ServingStatus::NotServing).then_some(())
        })
        .await;
        println!("not ready {:?} after the crash", crashed.elapsed());
        load.failed(&writes, WRITERS).await;
        assert_eq!(
            status(&mut health, "accounts.v1.AccountService").await,
            ServingStatus::NotServing
        );
        assert_eq!(status(&mut health, LIVENESS).await, ServingStatus::Serving);
        cluster.resume();
        let resumed = Instant::now();
        eventually(BACK + MARGIN, "calls work again", async || {
            let answer = tenant.accounts().list_accounts(ListAccountsRequest::default()).await;
            answer.inspect_err(is_unavailable).ok()
        })
        .await;
        println!("calls work again after {:?}", resumed.elapsed());
        eventually(Duration::from_secs(10), "ready again", async || {
            (status(&mut health, READINESS).await == ServingStatus::Serving).then_some(())
        })
        .await;
        println!("ready again after {:?}", resumed.elapsed());
        let before = writes.acknowledged();
        load.acknowledged(&writes, before + 50).await;
        load.stop().await;
        writes.are_there(&tenant).await;
        writes.are_whole(&sql(&cluster.url()).await, &tenant).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_terminated_are_replaced_at_once() {
    let Some(url) = real_database("terminates connections").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    let (writes, sql) = (Writes::default(), sql(&url).await);
    let load = Load::start(&tenant, &writes, "r");
    for _ in 0..10 {
        let before = writes.acknowledged();
        load.acknowledged(&writes, before + 50).await;
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let terminated: i64 = sql.query_one(terminate, &[]).await.unwrap().get(0);
        assert!(terminated > 0);
        let started = Instant::now();
        let before = writes.acknowledged();
        load.acknowledged(&writes, before + 1).await;
        assert!(started.elapsed() < MARGIN, "writes again after {:?}", started.elapsed());
    }
    load.stop().await;
    // Those that nobody uses are terminated too: a call that comes later does not notice, or may
    // try again at once.
    for _ in 0..5 {
        sql.query_one("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()", &[])
            .await
            .unwrap();
        let list = async || {
            tenant
                .accounts()
                .list_accounts(ListAccountsRequest::default())
                .await
                .inspect_err(is_unavailable)
                .ok()
        };
        eventually(MARGIN, "a call works", list).await;
    }
    writes.are_there(&tenant).await;
    writes.are_whole(&sql, &tenant).await;
}

/// Lets writers work on the service, kills it at some moment, and tells the tenant they worked in.
async fn kill_during_writes(
    service: Service,
    tenant: Option<Tenant>,
    writes: &Writes,
    round: u32,
    dice: &mut Dice,
) -> Tenant {
    let tenant = if let Some(tenant) = tenant {
        moved(&tenant, &service).await
    } else {
        let tenant = Tenant::on(service.channel().await);
        tenant.organization("o", "").await;
        tenant
    };
    writes.are_there(&tenant).await;
    let before = writes.acknowledged();
    let load = Load::start(&tenant, writes, &format!("r{round}"));
    let enough = before + 40 + dice.index(60);
    load.acknowledged(writes, enough).await;
    service.kill().await;
    load.stop().await;
    println!("round {round}: {} acknowledged", writes.acknowledged() - before);
    tenant
}

/// The tenant's client of a service at another address.
async fn moved(tenant: &Tenant, service: &Service) -> Tenant {
    Tenant { channel: connect(service.address).await, ..tenant.clone() }
}

async fn status(health: &mut HealthClient<tonic::transport::Channel>, name: &str) -> ServingStatus {
    health.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner().status()
}

/// Fails unless the error is one of those of a service without a database: nothing was changed, or
/// the outcome of the COMMIT is unknown.
#[track_caller]
fn is_lost(status: &Status) {
    if status.code() != Code::Unknown {
        return is_unavailable(status);
    }
    assert_eq!(refusal(status), "OUTCOME_UNKNOWN", "{status:?}");
    let (_, details) = refused(status);
    assert!(details.retry_info().is_none(), "there was no request_id: {status:?}");
}

#[track_caller]
fn is_unavailable(status: &Status) {
    assert_eq!(refusal(status), "DATABASE_UNAVAILABLE", "{status:?}");
    let (_, details) = refused(status);
    assert!(details.retry_info().is_some(), "{status:?}");
}

/// What writers asked for, by account.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<BTreeMap<String, Write>>>);

#[derive(Clone, Default)]
struct Write {
    /// Comments in the order in which they were sent; the first with the creation.
    sent: Vec<String>,
    /// Which of them was acknowledged last, and how many were.
    acknowledged: Option<usize>,
    count: usize,
    /// Failed calls.
    failed: usize,
}

impl Writes {
    fn acknowledged(&self) -> usize {
        self.0.lock().unwrap().values().map(|write| write.count).sum()
    }

    fn failed(&self) -> usize {
        self.0.lock().unwrap().values().map(|write| write.failed).sum()
    }

    fn sending(&self, id: &str, comment: &str) -> usize {
        let mut writes = self.0.lock().unwrap();
        let write = writes.entry(id.to_owned()).or_default();
        write.sent.push(comment.to_owned());
        write.sent.len() - 1
    }

    fn answered(&self, id: &str, sent: usize, answer: &Result<(), Status>) {
        let mut writes = self.0.lock().unwrap();
        let write = writes.get_mut(id).unwrap();
        match answer {
            Ok(()) => (write.acknowledged, write.count) = (Some(sent), write.count + 1),
            Err(_) => write.failed += 1,
        }
    }

    /// Every acknowledged write is there, or one that was sent later.
    async fn are_there(&self, tenant: &Tenant) {
        let writes = self.0.lock().unwrap().clone();
        for (id, write) in writes {
            let Some(acknowledged) = write.acknowledged else { continue };
            let request = GetAccountRequest { account_id: id.clone() };
            let account = tenant
                .accounts()
                .get_account(request)
                .await
                .unwrap_or_else(|status| panic!("{id}: {status:?}"));
            let comment = account.into_inner().account.unwrap().comment;
            assert!(
                write.sent[acknowledged..].contains(&comment),
                "{id} has {comment:?}, not {:?}",
                write.sent[acknowledged]
            );
        }
    }

    /// Every write that is there has its activity, and every activity its write.
    async fn are_whole(&self, sql: &tokio_postgres::Client, tenant: &Tenant) {
        let query = "SELECT account_id, coalesce(revision, 0), \
                count(action) FILTER (WHERE action = 'account.created'), count(action) FILTER (WHERE action = 'account.updated'), \
                EXISTS (SELECT FROM account_words w WHERE w.tenant_id = $1 AND w.account_id = both_sides.account_id) \
            FROM (SELECT * FROM (SELECT account_id, revision FROM accounts WHERE tenant_id = $1) a FULL JOIN \
                (SELECT resource_id AS account_id, action FROM activities WHERE tenant_id = $1 AND resource_type = 'account') b \
                USING (account_id)) both_sides \
            GROUP BY account_id, revision";
        let rows = sql.query(query, &[&tenant.caller.tenant]).await.unwrap();
        let writes = self.0.lock().unwrap().clone();
        for row in &rows {
            let (id, revision, created, updated): (String, i64, i64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            assert_eq!((created, updated), (1, revision - 1), "{id}");
            assert!(row.get::<_, bool>(4), "{id} has no words");
            let acknowledged = i64::try_from(writes[&id].count).unwrap();
            assert!(
                revision >= acknowledged,
                "{id} was acknowledged {acknowledged} times and is at {revision}"
            );
        }
        assert!(rows.len() >= writes.values().filter(|write| write.count > 0).count());
    }
}

async fn every_write_is_whole_embedded(folder: &Path, writes: &Writes, tenant: &Tenant) {
    let embedded = Embedded::start(folder).await.unwrap();
    let (client, connection) = embedded.config().connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    writes.are_whole(&client, tenant).await;
    drop(client);
    connection.await.unwrap().unwrap();
    embedded.stop().await;
}

/// Writers that create accounts and update each of them a few times, until they are stopped or the
/// service is gone.
struct Load {
    writers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Load {
    fn start(tenant: &Tenant, writes: &Writes, name: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { writers: JoinSet::new(), stop };
        for writer in 0..WRITERS {
            let (tenant, writes, stopped) = (tenant.clone(), writes.clone(), stopped.clone());
            let name = format!("{name}-{writer}");
            load.writers.spawn(async move {
                for number in 0.. {
                    let id = format!("{name}-{number}");
                    for turn in 0..4 {
                        if *stopped.borrow() || !write(&tenant, &writes, &id, turn).await {
                            return;
                        }
                    }
                }
            });
        }
        load
    }

    async fn acknowledged(&self, writes: &Writes, count: usize) {
        eventually(Duration::from_secs(30), "acknowledged writes", async || {
            (writes.acknowledged() >= count).then_some(())
        })
        .await;
    }

    async fn failed(&self, writes: &Writes, more: usize) {
        let count = writes.failed() + more;
        eventually(Duration::from_secs(30), "failed writes", async || {
            (writes.failed() >= count).then_some(())
        })
        .await;
    }

    /// Waits until all have ended; what a writer found wrong fails the test here.
    async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
    }
}

/// Makes one call; whether there still is a service.
async fn write(tenant: &Tenant, writes: &Writes, id: &str, turn: u32) -> bool {
    let comment = format!("{id} turn {turn}");
    let sent = writes.sending(id, &comment);
    let account = Account { comment, ..account(id, "o") };
    let started = Instant::now();
    let answer = if turn == 0 {
        let request = CreateAccountRequest { account: Some(account), ..Default::default() };
        tenant.accounts().create_account(request).await.map(drop)
    } else {
        let request = UpdateAccountRequest { account: Some(account), ..Default::default() };
        tenant.accounts().update_account(request).await.map(drop)
    };
    writes.answered(id, sent, &answer);
    let Err(status) = answer else { return true };
    if status.get_error_details().error_info().is_none() {
        return false; // the service was killed: this is the client's own error
    }
    match status.code() {
        // A creation that was not answered may have happened or not.
        Code::NotFound => {}
        _ => is_lost(&status),
    }
    assert!(started.elapsed() < AWAY, "{:?}: {status:?}", started.elapsed());
    sleep(Duration::from_millis(5)).await; // an impatient client, yet no busy loop
    true
}
