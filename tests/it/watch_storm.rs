//! Watches under load and failures: writers on two instances and directly on the database, commits
//! out of order, rollbacks, terminated sessions, a killed instance, and watchers that reconnect.
//! Every change that was acknowledged must arrive once and in order.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use customer_accounts::proto::{Account, UpdateAccountRequest};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    self, Tenant, account,
    calls::only,
    dice::{Dice, seed},
    eventually,
    process::Service,
    unique,
    watch::{Watch, quiet},
};

const TENANTS: usize = 3;
const WRITERS: usize = 8;
/// Changes that each writer has acknowledged.
const CHANGES: usize = 60;
const PATIENCE: Duration = Duration::from_mins(2);
/// Longest that the storm may last.
const LENGTH: Duration = Duration::from_mins(5);
/// Name of the sessions that are never cut off.
const SPARED: &str = "spared";

/// What everyone in the storm knows.
#[derive(Clone)]
struct Storm {
    url: Arc<str>,
    /// Where instances serve; one of them may be dead.
    addresses: Arc<Mutex<[SocketAddr; 2]>>,
    tenants: Arc<Vec<Tenant>>,
    /// Tenant and mark of every change whose commit was acknowledged.
    acknowledged: Arc<Mutex<Vec<(usize, String)>>>,
    over: Arc<AtomicBool>,
    /// Held while an instance starts, which may end if its first session is cut off, and while
    /// sessions are.
    starting: Arc<tokio::sync::Mutex<()>>,
}

impl Storm {
    /// A tenant as one of the instances serves it, if that instance can be reached.
    async fn reach(&self, tenant: usize, dice: &mut Dice) -> Option<Tenant> {
        let address = self.addresses.lock().unwrap()[dice.index(2)];
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = timeout(Duration::from_secs(5), endpoint.connect()).await.ok()?.ok()?;
        Some(Tenant { channel, ..self.tenants[tenant].clone() })
    }

    /// Makes changes through the service, and some by transactions of its own that last.
    async fn write(self, writer: usize, mut dice: Dice) {
        let raw = self.spared().await;
        for change in 0..CHANGES {
            let (tenant, mark) = (dice.index(TENANTS), format!("{writer}-{change}-{}", unique()));
            let committed = if dice.roll(3) == 0 {
                self.commit_late(&raw, tenant, &mark, &mut dice).await
            } else {
                self.update(tenant, &mark, &mut dice).await;
                true
            };
            if committed {
                self.acknowledged.lock().unwrap().push((tenant, mark));
            }
        }
    }

    /// A session that is never cut off. It says so as it begins: a moment later would be too late.
    async fn spared(&self) -> tokio_postgres::Client {
        support::sql(&format!("{}?application_name={SPARED}", self.url)).await
    }

    /// A transaction that is open for a while after it has written, and may be rolled back.
    async fn commit_late(
        &self,
        raw: &tokio_postgres::Client,
        tenant: usize,
        mark: &str,
        dice: &mut Dice,
    ) -> bool {
        let tenant = &self.tenants[tenant].caller.tenant;
        let insert = format!(
            "BEGIN; INSERT INTO activities (tenant_id, activity_id, ordinal, actor, method, action, resource_type, resource_id, \
             account_id, changes, request_id) VALUES ('{tenant}', '{}', 0, 'raw', 'raw', 'raw.created', 'raw', 'raw', 'a', '[]', '{mark}')",
            unique()
        );
        raw.batch_execute(&insert).await.unwrap();
        sleep(Duration::from_millis(dice.roll(400))).await;
        let commits = dice.roll(4) > 0;
        raw.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        commits
    }

    /// An update through the service, repeated until it is acknowledged; its mark makes that safe.
    async fn update(&self, tenant: usize, mark: &str, dice: &mut Dice) {
        let deadline = Instant::now() + PATIENCE;
        let request = UpdateAccountRequest {
            account: Some(Account {
                comment: mark.into(),
                ..only(if dice.roll(2) == 0 { "a" } else { "b" })
            }),
            request_id: mark.into(),
            ..Default::default()
        };
        loop {
            assert!(Instant::now() < deadline, "no instance takes the change");
            let Some(tenant) = self.reach(tenant, dice).await else { continue };
            match tenant.accounts().update_account(request.clone()).await {
                Ok(_) => return,
                Err(status) => assert!(is_trouble(&status), "{status:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Follows a tenant's feed from a cursor to the end of the storm, leaving and coming back now
    /// and then.
    async fn follow(
        self,
        tenant: usize,
        account_id: &str,
        mut cursor: String,
        mut dice: Dice,
    ) -> (Vec<String>, usize) {
        let (mut seen, mut opened) = (Vec::new(), 0);
        let mut last_of_all = None;
        while last_of_all.is_none() {
            let Some(there) = self.reach(tenant, &mut dice).await else { continue };
            let mut watch = match Watch::open(&there, &cursor, account_id).await {
                Ok(watch) => watch,
                Err(status) => {
                    assert!(is_trouble(&status), "{status:?}");
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            opened += 1;
            let stay = Instant::now() + Duration::from_millis(50 + dice.roll(1500));
            while Instant::now() < stay {
                // Before the message: what it says is then as late as the end.
                let over = self.over.load(Ordering::SeqCst);
                match watch.next().await {
                    Ok(activities) => {
                        // A checkpoint after the end: everything has been told.
                        last_of_all = (over && activities.is_empty()).then_some(());
                        seen.extend(activities.into_iter().map(|activity| activity.activity_id));
                        // Only now the message is dealt with.
                        cursor.clone_from(&watch.cursor);
                    }
                    Err(status) => {
                        assert!(is_trouble(&status), "{status:?}");
                        break;
                    }
                }
                if last_of_all.is_some() {
                    break;
                }
            }
        }
        (seen, opened)
    }

    /// Cuts off sessions of the service, as a network or an administrator does.
    async fn cut_sessions(self, cut: Arc<AtomicUsize>, mut dice: Dice) {
        let sql = self.spared().await;
        // A session that PostgreSQL is still starting has no name yet: it may be one to spare.
        let victims = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND application_name NOT IN ('', '{SPARED}') \
             ORDER BY random() LIMIT 3) AS victims"
        );
        loop {
            let starting = self.starting.lock().await;
            let count: i64 = sql.query_one(&victims, &[]).await.unwrap().get(0);
            drop(starting);
            cut.fetch_add(usize::try_from(count).unwrap(), Ordering::SeqCst);
            sleep(Duration::from_millis(100 + dice.roll(300))).await;
        }
    }

    /// Kills one of the instances again and again, and starts another in its place.
    async fn kill(self, mut killed: Service, kills: Arc<AtomicUsize>) {
        loop {
            sleep(Duration::from_millis(1500)).await;
            killed.kill().await;
            let starting = self.starting.lock().await;
            killed = start(&self.url).await;
            drop(starting);
            self.addresses.lock().unwrap()[1] = killed.address;
            kills.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What a client tries again after.
fn is_trouble(status: &Status) -> bool {
    // A connection that is cut is UNKNOWN or CANCELLED to the client.
    let cut = matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal)
        && status.details().is_empty();
    // Every change of the storm has its request id, and may be repeated when nobody knows whether
    // it was made.
    let unknown = status
        .get_error_details()
        .error_info()
        .is_some_and(|info| info.reason == "OUTCOME_UNKNOWN");
    cut || unknown
        || matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded
        )
}

async fn start(url: &str) -> Service {
    // Short lives of watches and a pool that is soon full belong to the storm.
    let options =
        ["--watch-checkpoint-interval", "200ms", "--watch-max-age", "3s", "--pool-size", "4"];
    Service::on(url, &options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_change_arrives_once_and_in_order() {
    let Some(cluster) = quiet() else { return };
    let url: Arc<str> = cluster.url().into();
    let (steady, killed) = (start(&url).await, start(&url).await);
    let tenants: Vec<_> = futures_util::future::join_all((0..TENANTS).map(|_| async {
        let tenant = Tenant::on(steady.channel().await);
        tenant.organization("o", "").await;
        for id in ["a", "b"] {
            tenant.account(account(id, "o")).await;
        }
        tenant
    }))
    .await;
    let storm = Storm {
        url: Arc::clone(&url),
        addresses: Arc::new(Mutex::new([steady.address, killed.address])),
        tenants: Arc::new(tenants),
        acknowledged: Arc::default(),
        over: Arc::default(),
        starting: Arc::default(),
    };
    let (mut dice, mut watchers) = (Dice::seeded(seed()), Vec::new());
    for (tenant, account_id) in (0..TENANTS).map(|tenant| (tenant, "")).chain([(0, "a")]) {
        let mut first = Watch::open(&storm.tenants[tenant], "", account_id).await.unwrap();
        assert_eq!(first.next().await.unwrap(), []);
        watchers.push((
            tenant,
            account_id,
            tokio::spawn(storm.clone().follow(tenant, account_id, first.cursor, dice.split())),
        ));
    }
    let began: String = support::sql(&url)
        .await
        .query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[])
        .await
        .unwrap()
        .get(0);
    let (cut, kills) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut disasters = JoinSet::new();
    disasters.spawn(storm.clone().cut_sessions(Arc::clone(&cut), dice.split()));
    disasters.spawn(storm.clone().kill(killed, Arc::clone(&kills)));
    let mut writers: JoinSet<_> =
        (0..WRITERS).map(|writer| storm.clone().write(writer, dice.split())).collect();
    let written = async {
        while let Some(writer) = writers.join_next().await {
            writer.unwrap();
        }
    };
    tokio::select! {
        done = timeout(LENGTH, written) => done.expect("the writers get to the end"),
        ended = disasters.join_next() => panic!("the storm ended before the writers: {ended:?}"),
    }
    disasters.shutdown().await;
    let (cut, kills) = (cut.load(Ordering::SeqCst), kills.load(Ordering::SeqCst));
    storm.over.store(true, Ordering::SeqCst);

    let sql = support::sql(&url).await;
    let acknowledged = storm.acknowledged.lock().unwrap().clone();
    let (mut told, mut opened) = (0, 0);
    for (tenant, account_id, watcher) in watchers {
        let (seen, times) = eventually_joined(watcher).await;
        opened += times;
        let of_account = if account_id.is_empty() {
            String::new()
        } else {
            format!("AND account_id = '{account_id}'")
        };
        let name = &storm.tenants[tenant].caller.tenant;
        let query = format!(
            "SELECT activity_id, request_id FROM activities WHERE tenant_id = '{name}' AND transaction_id >= {began} {of_account} \
             ORDER BY transaction_id, ordinal"
        );
        let rows = sql.query(&query, &[]).await.unwrap();
        let feed: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let once: BTreeSet<_> = seen.iter().collect();
        let missing: Vec<_> = feed.iter().filter(|id| !once.contains(id)).collect();
        assert!(missing.is_empty(), "{} of {} never told: {missing:?}", missing.len(), feed.len());
        assert_eq!(seen.len(), once.len(), "some were told twice");
        assert!(seen == feed, "told in another order than the feed's, or too much");
        if account_id.is_empty() {
            let marks: Vec<String> = rows.iter().filter_map(|row| row.get(1)).collect();
            for (_, mark) in acknowledged.iter().filter(|(of, _)| *of == tenant) {
                assert_eq!(
                    marks.iter().filter(|known| *known == mark).count(),
                    1,
                    "{mark} was acknowledged"
                );
            }
            told += seen.len();
        }
    }
    println!(
        "{} acknowledged, {told} told, {opened} watches, {cut} sessions cut, {kills} kills",
        acknowledged.len()
    );
    assert!(acknowledged.len() > WRITERS * CHANGES * 3 / 4 && told >= acknowledged.len());
    assert!(
        opened > 10 && cut > 5 && kills > 0,
        "no storm: {opened} watches, {cut} sessions cut, {kills} kills"
    );
    eventually(PATIENCE, "the steady instance is well", async || {
        Watch::open(&storm.tenants[0], "", "").await.ok()
    })
    .await;
}

async fn eventually_joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    timeout(PATIENCE, task).await.expect("a watcher gets to the end").unwrap()
}
