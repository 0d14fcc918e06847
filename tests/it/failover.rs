//! Databases that vanish, take no writes, speak German, or do not say what became of a COMMIT.

use std::time::Duration;

use customer_accounts::{
    accounts::store,
    db::{Db, Manager, Meta, login, migrate},
    error::Error,
    proto::{
        Account, CreateAccountRequest, DeleteAccountRequest, DeleteAccountResponse,
        GetAccountRequest, UpdateAccountRequest,
    },
    server::READINESS,
    validate::Violations,
};
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use tokio::{sync::Barrier, time::Instant};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    Tenant, account,
    cluster::Cluster,
    eventually,
    process::Service,
    proxy::{Fault, Proxy},
    real_database, refusal, refused, skip, sql, unique,
};

fn create(id: &str, request_id: &str) -> CreateAccountRequest {
    let account = Account { display_name: "Account".into(), ..account(id, "o") };
    CreateAccountRequest {
        account: Some(account),
        request_id: request_id.into(),
        ..Default::default()
    }
}

fn update(id: &str, comment: &str) -> UpdateAccountRequest {
    let account = Account { account_id: id.into(), comment: comment.into(), ..Default::default() };
    UpdateAccountRequest { account: Some(account), ..Default::default() }
}

/// A service on a database behind a proxy, and a tenant with an organization.
async fn proxied() -> Option<(Proxy, Service, Tenant)> {
    let url = real_database("connections that are cut").await?;
    let proxy = Proxy::to(&url).await;
    let service = Service::on(&proxy.url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    Some((proxy, service, tenant))
}

async fn exists(tenant: &Tenant, id: &str) -> bool {
    let get = async || match tenant
        .accounts()
        .get_account(GetAccountRequest { account_id: id.into() })
        .await
    {
        Ok(_) => Some(true),
        Err(status) if status.code() == Code::NotFound => Some(false),
        Err(_) => None,
    };
    eventually(Duration::from_secs(5), "the database answers", get).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_not_called_a_failure() {
    let Some((proxy, _service, tenant)) = proxied().await else { return };
    for (fault, id) in [(Fault::AfterCommit, "made"), (Fault::BeforeCommit, "not-made")] {
        proxy.fail(fault);
        let answer = tenant.accounts().create_account(create(id, "")).await;
        assert!(proxy.has_failed());
        assert_eq!(refusal(&answer), "OUTCOME_UNKNOWN", "{fault:?}");
        assert!(
            refused(answer).1.retry_info().is_none(),
            "{fault:?}: to send it again could make a second account"
        );
        assert_eq!(exists(&tenant, id).await, fault == Fault::AfterCommit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_out_by_the_request_id() {
    let Some((proxy, _service, tenant)) = proxied().await else { return };
    for fault in [Fault::AfterCommit, Fault::BeforeCommit] {
        let request = create("", &unique());
        proxy.fail(fault);
        let first = tenant
            .accounts()
            .create_account(request.clone())
            .await
            .unwrap()
            .into_inner()
            .account
            .unwrap();
        assert!(proxy.has_failed());
        let again =
            tenant.accounts().create_account(request).await.unwrap().into_inner().account.unwrap();
        assert_eq!(first, again, "{fault:?}");
    }
    let accounts = tenant
        .accounts()
        .list_accounts(customer_accounts::proto::ListAccountsRequest::default())
        .await
        .unwrap();
    assert_eq!(accounts.into_inner().accounts.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_cannot_be_found_out_may_be_asked_for_again() {
    let Some((proxy, _service, tenant)) = proxied().await else { return };
    proxy.fail_for_good(Fault::AfterCommit);
    let answer = tenant.accounts().create_account(create("", &unique())).await;
    assert_eq!(refusal(&answer), "OUTCOME_UNKNOWN");
    assert!(refused(answer).1.retry_info().is_some());
}

/// A replica that vanishes in the middle of a change, without its connections being closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_vanishes_shuts_nobody_out() {
    let Some(url) = real_database("two replicas").await else { return };
    let bounds = ["--lock-timeout", "500ms", "--idle-in-transaction-timeout", "3s"];
    let proxy = Proxy::to(&url).await;
    let (vanishing, staying) =
        (Service::on(&proxy.url, &bounds).await, Service::on(&url, &bounds).await);
    let tenant = Tenant::on(staying.channel().await);
    let other = Tenant::on(staying.channel().await);
    for tenant in [&tenant, &other] {
        tenant.organization("o", "").await;
        tenant.account(account("a", "o")).await;
    }
    proxy.fail(Fault::Silence);
    let gone = Tenant { channel: vanishing.channel().await, ..tenant.clone() };
    let started = Instant::now();
    let lost =
        tokio::spawn(async move { gone.accounts().update_account(update("a", "never")).await });
    eventually(Duration::from_secs(5), "its COMMIT is lost", async || {
        proxy.has_failed().then_some(())
    })
    .await;
    // More callers than the pool has connections.
    let calls =
        join_all((0..10).map(|number| {
            let tenant = tenant.clone();
            async move {
                tenant.accounts().update_account(update("a", &format!("comment {number}"))).await
            }
        }));
    let others = async {
        let get = async || {
            other.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await.ok()
        };
        eventually(Duration::from_secs(2), "another tenant's call works", get).await;
    };
    let (calls, ()) = tokio::join!(calls, others);
    let mut refused_for_a_lock = 0;
    for call in calls {
        let reason = refusal(&call);
        let (status, details) = refused(call);
        assert!(["CONFLICT", "OVERLOADED"].contains(&&*reason), "{status:?}");
        assert!(details.retry_info().is_some(), "{status:?}");
        refused_for_a_lock += usize::from(reason == "CONFLICT");
    }
    assert!(
        refused_for_a_lock > 0 && started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    let again = async || tenant.accounts().update_account(update("a", "mine")).await.ok();
    eventually(Duration::from_secs(10), "the lock is free", again).await;
    lost.abort();
}

async fn is_ready(health: &mut HealthClient<tonic::transport::Channel>, wanted: bool) {
    let wanted = if wanted { ServingStatus::Serving } else { ServingStatus::NotServing };
    let request = HealthCheckRequest { service: READINESS.into() };
    eventually(Duration::from_secs(10), "readiness", async || {
        (health.check(request.clone()).await.unwrap().into_inner().status() == wanted).then_some(())
    })
    .await;
}

fn is_unavailable(status: &Status) -> bool {
    refusal(status) == "DATABASE_UNAVAILABLE" && refused(status).1.retry_info().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_made_read_only_is_noticed() {
    let Some(cluster) = Cluster::start() else { return };
    let service = Service::on(&cluster.url(), &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let mut health = HealthClient::new(service.channel().await);
    tenant.organization("o", "").await;
    let sql = sql(&cluster.url()).await;
    sql.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    for round in 0..2 {
        tenant.account(account(&format!("a{round}"), "o")).await;
        sql.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
        sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let refusal = async || tenant.accounts().create_account(create("", "")).await.err();
        let status = eventually(Duration::from_secs(5), "a refusal", refusal).await;
        assert!(is_unavailable(&status), "{status:?}");
        is_ready(&mut health, false).await;
        sql.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
        sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        is_ready(&mut health, true).await;
    }
    tenant.account(account("after", "o")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_that_takes_writes_is_found_before_and_after_a_failover() {
    let Some(primary) = Cluster::having(&["pg_basebackup"]) else { return };
    let standby = primary.standby();
    // The standby comes first.
    let url = format!("postgres://postgres@{},{}/postgres", standby.address(), primary.address());
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("before", "o")).await;
    let caught_up = sql(&standby.url()).await;
    eventually(Duration::from_secs(10), "the standby has it", async || {
        let query = "SELECT count(*) FROM accounts WHERE account_id = 'before'";
        caught_up.query_one(query, &[]).await.ok().filter(|row| row.get::<_, i64>(0) == 1)
    })
    .await;
    primary.crash();
    standby.promote();
    let write = async || tenant.try_account(account("after", "o")).await.ok();
    eventually(Duration::from_secs(10), "the new primary is used", write).await;
    assert!(exists(&tenant, "before").await);
    // A service whose only server is a standby does not start, and says why.
    let second = standby.standby();
    let refused =
        crate::support::process::run(&["check"], &[("DATABASE_URL", &second.url())]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("takes no writes"), "{refused:?}");
}

/// The documented login on a server whose messages are German: nothing is told apart by words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_told_apart_in_any_language() {
    let Some(cluster) = Cluster::german() else { return };
    migrate::run(
        &Manager::new(cluster.url().parse::<tokio_postgres::Config>().unwrap(), None),
        migrate::Direction::Up,
    )
    .await
    .unwrap();
    let superuser = sql(&cluster.url()).await;
    superuser
        .batch_execute("CREATE ROLE service LOGIN IN ROLE customer_accounts_app")
        .await
        .unwrap();
    let german = superuser.batch_execute("SELECT 1/0").await.unwrap_err();
    if german.as_db_error().unwrap().message() != "Division durch Null" {
        skip("this PostgreSQL has no German messages");
        return;
    }
    let url = cluster.url().replace("postgres@", "service@");
    let manager = Manager::new(login(&url).unwrap(), Some("customer_accounts_app".into()));
    let db = Db::new(manager, 4, Duration::from_secs(1), None);
    db.verify().await.unwrap();
    let service = Service::start(
        &[],
        &[("DATABASE_URL", &url), ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false")],
    )
    .await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    for id in ["a", "b"] {
        tenant.account(account(id, "o")).await;
    }
    let meta =
        Meta::of(&mut Violations::default(), &tenant.caller(), &DeleteAccountRequest::default());

    let both_hold_one = Barrier::new(2);
    let hold = async |first: &str, second: &str| {
        let tried = std::sync::atomic::AtomicBool::new(false);
        let (tried, both_hold_one) = (&tried, &both_hold_one);
        db.write(&tenant.caller(), &meta, async move |tx| {
            store::Account::find_for_update(tx, first).await?;
            if !tried.swap(true, std::sync::atomic::Ordering::Relaxed) {
                both_hold_one.wait().await;
            }
            store::Account::find_for_update(tx, second).await?;
            Ok(DeleteAccountResponse {})
        })
        .await
    };
    let (ab, ba) = tokio::join!(hold("a", "b"), hold("b", "a"));
    ab.and(ba).expect("a deadlock is tried again");

    let run = async |statement: &str, time: Duration| {
        let mut caller = tenant.caller();
        caller.deadline = Instant::now() + time;
        db.write(&caller, &meta, async |tx| {
            (&mut tx.conn()).batch_execute(statement).await?;
            Ok(DeleteAccountResponse {})
        })
        .await
    };
    let late = run("SELECT pg_sleep(10)", Duration::from_millis(300)).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
    superuser
        .batch_execute("BEGIN; SELECT 1 FROM accounts WHERE account_id = 'a' FOR UPDATE")
        .await
        .unwrap();
    let locked =
        run("SELECT 1 FROM accounts WHERE account_id = 'a' FOR UPDATE", Duration::from_secs(10))
            .await;
    assert!(matches!(locked, Err(Error::Locked)), "{locked:?}");
    superuser.batch_execute("ROLLBACK").await.unwrap();
    let terminate = async || {
        let sleeping =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        superuser.query_opt(sleeping, &[]).await.unwrap()
    };
    let sleep = run("SELECT pg_sleep(10)", Duration::from_secs(10));
    let (cut, _) = tokio::join!(sleep, eventually(Duration::from_secs(5), "it sleeps", terminate));
    assert!(matches!(cut, Err(Error::DatabaseUnavailable)), "{cut:?}");
    let read_only =
        run("SET TRANSACTION READ ONLY; DELETE FROM accounts", Duration::from_secs(10)).await;
    assert!(matches!(read_only, Err(Error::DatabaseReadOnly)), "{read_only:?}");
    let unknown = run("SELECT 1/0", Duration::from_secs(10)).await;
    assert!(
        matches!(&unknown, Err(Error::Internal { cause, .. }) if cause.contains("22012: Division durch Null")),
        "{unknown:?}"
    );
    let taken = tenant.try_account(account("a", "o")).await;
    assert_eq!(refusal(taken), "ACCOUNT_ALREADY_EXISTS");
}
