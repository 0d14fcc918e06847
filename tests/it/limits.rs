//! What the service refuses or gives up to stay well: late calls, too many, too large, and its own
//! panics.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use customer_accounts::{
    caller::{Identity, workload::Admission},
    guard::{GuardLayer, Limits},
    policy::Policies,
    proto::{
        Account, GetAccountRequest, ListAccountsRequest, UpdateAccountRequest,
        account_service_client::AccountServiceClient,
    },
    share::Percent,
};
use futures_util::future::join_all;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::Instant};
use tonic::{Code, Request, Status, body::Body, service::interceptor::InterceptedService};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use crate::support::{
    As, Tenant, account, eventually, process::Service, real_database, refusal, refused, sql,
    waiting_for_locks,
};

const LOCKS: &str = "a call is made slow by a lock that another connection holds";
/// Room for a machine that is busy with other tests.
const MARGIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_call_that_outlives_its_deadline_is_told_so_and_its_sql_ends() {
    let Some(scene) = Scene::new(&[]).await else { return };
    let lock = scene.lock().await;
    let mut accounts = scene.patient().await;
    let started = Instant::now();
    let answer = accounts.update_account(within(Duration::from_millis(300))).await;
    let took = started.elapsed();
    assert_eq!(refusal(answer), "DEADLINE_EXCEEDED");
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_millis(300) + MARGIN,
        "{took:?}"
    );
    // The lock is still held: nothing but the deadline can have ended the statement.
    no_statement_runs(&lock).await;
    lock.batch_execute("COMMIT").await.unwrap();
    accounts.update_account(within(Duration::from_secs(10))).await.unwrap();
}

/// Other timers run at the same moment, such as tonic's own, which knows nothing of reasons.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_late_call_is_answered_by_the_deadline_and_by_nothing_else() {
    let Some(scene) = Scene::new(&[]).await else { return };
    let lock = scene.lock().await;
    for round in 0..20 {
        let calls = (0..10).map(|n| {
            let scene = &scene;
            async move {
                scene
                    .patient()
                    .await
                    .update_account(within(Duration::from_micros(20_000 + 173 * n)))
                    .await
            }
        });
        for answer in join_all(calls).await {
            assert_eq!(refusal(answer), "DEADLINE_EXCEEDED", "round {round}");
        }
    }
    no_statement_runs(&lock).await;
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_the_default_one() {
    let Some(scene) = Scene::new(&["--default-deadline", "300ms"]).await else { return };
    let lock = scene.lock().await;
    let started = Instant::now();
    let answer = scene.tenant.accounts().update_account(update()).await;
    let took = started.elapsed();
    assert_eq!(refusal(answer), "DEADLINE_EXCEEDED");
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_millis(300) + MARGIN,
        "{took:?}"
    );
    no_statement_runs(&lock).await;
}

#[tokio::test]
async fn no_caller_gets_more_than_the_maximum() {
    let Some(scene) = Scene::new(&["--default-deadline", "1h", "--max-deadline", "300ms"]).await
    else {
        return;
    };
    let lock = scene.lock().await;
    for request in [within(Duration::from_hours(1)), Request::new(update())] {
        let started = Instant::now();
        let answer = scene.patient().await.update_account(request).await;
        assert_eq!(refusal(answer), "DEADLINE_EXCEEDED");
        assert!(started.elapsed() < Duration::from_millis(300) + MARGIN, "{:?}", started.elapsed());
    }
    no_statement_runs(&lock).await;
}

#[tokio::test]
async fn a_deadline_that_is_none_is_refused() {
    let tenant = Tenant::new().await;
    let mut accounts = patient(crate::support::shared().address, &tenant).await;
    let mut request = Request::new(GetAccountRequest { account_id: "a".into() });
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(refusal(accounts.get_account(request).await), "INVALID_FIELD");
}

#[tokio::test]
async fn calls_beyond_the_limit_are_shed_until_there_is_room_again() {
    let Some(scene) = Scene::new(&["--max-calls", "2", "--tenant-share", "100"]).await else {
        return;
    };
    let lock = scene.lock().await;
    let hanging = [scene.background(), scene.background()];
    waiting_for_locks(&lock, 2).await;
    // On another connection too: the limit is the service's.
    for channel in [scene.tenant.channel.clone(), scene.service.channel().await] {
        let tenant = Tenant { channel, ..scene.tenant.clone() };
        let started = Instant::now();
        let answer = tenant.accounts().get_account(get()).await;
        assert_eq!(refusal(&answer), "OVERLOADED");
        let (_, details) = refused(answer);
        assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
        assert!(started.elapsed() < MARGIN, "shed at once");
        HealthClient::new(tenant.channel).check(HealthCheckRequest::default()).await.unwrap();
    }
    // A call that its client cancelled returns its permit, and so does a call that is answered.
    let [first, second] = hanging;
    first.abort();
    eventually(MARGIN, "room after a cancelled call", async || {
        scene.tenant.accounts().get_account(get()).await.ok()
    })
    .await;
    lock.batch_execute("COMMIT").await.unwrap();
    second.await.unwrap().unwrap();
    let both = join_all([scene.background(), scene.background()]).await;
    assert!(both.into_iter().all(|answer| answer.unwrap().is_ok()));
}

#[tokio::test]
async fn a_call_that_gets_no_connection_in_a_second_is_refused() {
    let Some(scene) = Scene::new(&["--pool-size", "1"]).await else { return };
    let lock = scene.lock().await;
    let hanging = scene.background();
    waiting_for_locks(&lock, 1).await;
    let started = Instant::now();
    let answer = scene.tenant.accounts().get_account(get()).await;
    let took = started.elapsed();
    assert_eq!(refusal(&answer), "OVERLOADED");
    let (_, details) = refused(answer);
    assert!(details.retry_info().is_some());
    assert!(
        took >= Duration::from_millis(700) && took < Duration::from_secs(1) + MARGIN,
        "{took:?}"
    );
    lock.batch_execute("COMMIT").await.unwrap();
    hanging.await.unwrap().unwrap();
    scene.tenant.accounts().get_account(get()).await.unwrap();
}

/// A call that was cancelled while its statement waits must not keep the only connection until its
/// deadline.
#[tokio::test]
async fn a_cancelled_call_gives_its_connection_back_soon() {
    let Some(scene) =
        Scene::new(&["--pool-size", "1", "--default-deadline", "1h", "--max-deadline", "1h"]).await
    else {
        return;
    };
    let lock = scene.lock().await;
    let hanging = scene.background();
    waiting_for_locks(&lock, 1).await;
    hanging.abort();
    eventually(2 * MARGIN, "a call gets the connection", async || {
        scene.tenant.accounts().get_account(get()).await.ok()
    })
    .await;
    no_statement_runs(&lock).await;
}

#[tokio::test]
async fn a_panic_is_answered_and_the_next_call_works() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let limits = Limits {
        calls: 1,
        buffered: 1,
        tenant_share: Percent::ALL,
        default_deadline: Duration::from_secs(10),
        max_deadline: Duration::from_secs(10),
        answer: Duration::from_secs(10),
        message: 1024,
        uncompressed: usize::MAX,
    };
    let guard = GuardLayer::new(
        Policies::read().unwrap(),
        Identity::Development,
        Admission::default(),
        limits,
    );
    let mut service = guard.layer(service_fn(|_: http::Request<Body>| {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        assert!(call != 0, "secret before the future");
        async move {
            tokio::task::yield_now().await;
            assert!(call != 1, "secret inside the future");
            Ok::<_, Infallible>(Status::ok("").into_http::<Body>())
        }
    }));
    let mut call = async || {
        let request = http::Request::post("/accounts.v1.AccountService/GetAccount")
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    };
    for _ in 0..2 {
        let status = call().await;
        assert_eq!(refusal(&status), "INTERNAL");
        assert!(!status.message().contains("secret"), "{status:?}");
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"), "{status:?}");
    }
    // The one permit is free: the calls that panicked returned it.
    assert_eq!(call().await.code(), Code::Ok);
    assert_eq!(call().await.code(), Code::Ok);
}

#[tokio::test]
async fn a_request_larger_than_the_limit_is_refused_and_an_answer_has_none() {
    let service = Service::fresh(&["--max-message-bytes", "4000"], &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    let large = Account { comment: "x".repeat(5000), ..account("large", "o") };
    assert_eq!(refusal(tenant.try_account(large).await), "REQUEST_TOO_LARGE");
    for id in ["a", "b"] {
        tenant.account(Account { comment: "x".repeat(2500), ..account(id, "o") }).await;
    }
    let list =
        tenant.accounts().list_accounts(ListAccountsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.accounts.len(), 2);
}

/// A service on a real database, and an account in it whose row a test can lock.
struct Scene {
    url: String,
    service: Service,
    tenant: Tenant,
}

impl Scene {
    async fn new(arguments: &[&str]) -> Option<Self> {
        let url = real_database(LOCKS).await?;
        let service = Service::on(&url, arguments).await;
        let tenant = Tenant::on(service.channel().await);
        tenant.organization("o", "").await;
        tenant.account(account("a", "o")).await;
        Some(Self { url, service, tenant })
    }

    /// Holds the account until the connection commits or is dropped.
    async fn lock(&self) -> tokio_postgres::Client {
        let sql = sql(&self.url).await;
        sql.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
        sql
    }

    /// A client of its own for each call, which waits for the answer however late it is.
    async fn patient(&self) -> AccountServiceClient<InterceptedService<Patient, As>> {
        patient(self.service.address, &self.tenant).await
    }

    fn background(&self) -> tokio::task::JoinHandle<Result<(), Status>> {
        let mut accounts = self.tenant.accounts();
        tokio::spawn(async move { accounts.update_account(update()).await.map(drop) })
    }
}

fn update() -> UpdateAccountRequest {
    let comment = crate::support::unique();
    UpdateAccountRequest {
        account: Some(Account { comment, ..account("a", "o") }),
        ..Default::default()
    }
}

fn within(deadline: Duration) -> Request<UpdateAccountRequest> {
    let mut request = Request::new(update());
    request.set_timeout(deadline);
    request
}

fn get() -> GetAccountRequest {
    GetAccountRequest { account_id: "a".into() }
}

async fn no_statement_runs(sql: &tokio_postgres::Client) {
    let query = "SELECT state || ' ' || coalesce(wait_event, '') || ' ' || query FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
    let mut runs = Vec::new();
    let deadline = Instant::now() + MARGIN;
    while Instant::now() < deadline {
        sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap(); // see `waiting_for_locks`
        runs = sql
            .query(query, &[])
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.get::<_, String>(0))
            .collect();
        if runs.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still run: {runs:?}");
}

/// A connection without timers: tonic's channel ends a call by itself when its deadline has passed.
#[derive(Clone)]
struct Patient {
    authority: String,
    sender: SendRequest<Body>,
}

async fn patient(
    address: SocketAddr,
    tenant: &Tenant,
) -> AccountServiceClient<InterceptedService<Patient, As>> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    AccountServiceClient::with_interceptor(
        Patient { authority: address.to_string(), sender },
        tenant.caller.clone(),
    )
}

impl tower::Service<http::Request<Body>> for Patient {
    type Response = http::Response<Body>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        *request.uri_mut() = http::Uri::builder()
            .scheme("http")
            .authority(&*self.authority)
            .path_and_query(path)
            .build()
            .unwrap();
        let answer = self.sender.send_request(request);
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}
