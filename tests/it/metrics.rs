//! The endpoint for Prometheus, what it serves, and what the documents say of it.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr, time::Duration};

use customer_accounts::proto::{ListAccountTypesRequest, WatchActivitiesRequest};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tonic::Code;

use crate::{
    peers::request,
    support::{
        Tenant, account,
        certs::{Authority, Mounted, Trust},
        eventually, has_real_server,
        process::{Service, run},
        real_database, real_server, sql,
        tokens::{Issuer, Key},
        waiting_for_locks,
    },
};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../../docs/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../../docs/monitoring/dashboard.json");
/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// The option that serves metrics, on a free port.
const ON: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

/// The address of a service's metrics, which it logs.
async fn address(service: &Service) -> SocketAddr {
    let log = service.log();
    eventually(DEADLINE, "the address of the metrics", async || {
        let line = lines(&log.text(), "metrics are served at /metrics").pop()?;
        line["address"].as_str()?.parse().ok()
    })
    .await
}

/// The log lines with this message.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// The status line and headers, and the body of an answer.
async fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection may be reset when it is closed with bytes that nobody has read.
    if let Err(error) = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap() {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

async fn scrape(address: SocketAddr) -> String {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    body
}

/// The value of a series, by its name and some of its labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = metrics.lines().find(|line| {
        let named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        named && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The names of all metrics, from the lines about their types.
fn names(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != "target_info")
        .map(ToOwned::to_owned)
        .collect()
}

/// The names that Prometheus has for the metrics of OPERATIONS.
fn documented() -> BTreeSet<String> {
    let (_, table) = OPERATIONS.split_once("| metric | is |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, rest)| {
        let kind = rest.split(" |").next().unwrap();
        let unit = if kind.ends_with(", s") { "_seconds" } else { "" };
        let total = if kind.starts_with("counter") { "_total" } else { "" };
        format!("{}{unit}{total}", name.replace('.', "_"))
    })
    .collect()
}

/// The names of metrics that a text uses.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| {
        ["rpc_server_", "db_client_", "customer_accounts_"].iter().any(|ours| word.starts_with(ours))
            // These are attributes.
            && !word.starts_with("db_client_connection_pool_name")
            && !word.starts_with("db_client_connection_state")
    };
    let base = |word: &str| {
        let suffix = ["_bucket", "_count", "_sum"].iter().find_map(|it| word.strip_suffix(it));
        suffix.filter(|_| word != "db_client_connection_count").unwrap_or(word).to_owned()
    };
    words.filter(ours).map(base).collect()
}

/// A service with callers of every kind exports what OPERATIONS lists, and nothing else; alerts and
/// the dashboard ask for nothing else.
#[tokio::test]
async fn documents_alerts_and_dashboard_name_the_metrics_that_there_are() {
    if !has_real_server("the embedded server has no connections for hot reads") {
        return;
    }
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let authority = Authority::new();
    let mounted = Mounted::new(&authority.server(), None);
    let options = [&mounted.options(false)[..], &issuer.options()[..]].concat();
    let options: Vec<_> = options.iter().map(String::as_str).chain(ON).collect();
    let service = Service::fresh(&options, &[]).await;
    let metrics = address(&service).await;
    let (channel, _) = Trust::of(&authority).connect(service.address).await.unwrap();
    let mut types = Tenant::on(channel).account_types();
    let refused = types.list_account_types(ListAccountTypesRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let mut exported = eventually(DEADLINE, "the issuer's keys", async || {
        let metrics = scrape(metrics).await;
        value(&metrics, "customer_accounts_issuer_keys_age_seconds", &[&issuer.name]).map(|age| {
            assert!((0.0..DEADLINE.as_secs_f64()).contains(&age), "{age}");
            metrics
        })
    })
    .await;
    let year = 365.0 * 86_400.0;
    let left =
        value(&exported, "customer_accounts_certificate_remaining_seconds", &["tls-cert"]).unwrap();
    assert!((year - 2.0 * 86_400.0..year + 86_400.0).contains(&left), "{left}");

    let service = Service::fresh(&ON, &[]).await;
    let metrics = address(&service).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    eventually(DEADLINE, "a flight of hot reads", async || {
        tenant.get("a").await.unwrap();
        let text = scrape(metrics).await;
        value(&text, "customer_accounts_hot_reads_flight_size_count", &[])
    })
    .await;
    exported += &scrape(metrics).await;

    let exported = names(&exported);
    assert_eq!(exported, documented());
    for (file, text) in [("alerts.yaml", ALERTS), ("dashboard.json", DASHBOARD)] {
        let used = used(text);
        assert!(used.len() > 10, "{file}: {used:?}");
        assert!(used.is_subset(&exported), "{file}: {:?}", used.difference(&exported));
    }
    let shown = used(DASHBOARD);
    assert!(exported.is_subset(&shown), "not shown: {:?}", exported.difference(&shown));
}

#[tokio::test]
async fn calls_transactions_and_watches_are_measured() {
    let service = Service::fresh(&ON, &[]).await;
    let metrics = address(&service).await;
    let before = scrape(metrics).await;
    assert_eq!(value(&before, "customer_accounts_calls_shed_total", &["\"max_calls\""]), Some(0.0));
    assert_eq!(value(&before, "customer_accounts_ready", &[]), Some(1.0));
    assert_eq!(value(&before, "customer_accounts_calls_max", &[]), Some(1024.0));

    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    assert_eq!(tenant.get("b").await.unwrap_err().code(), Code::NotFound);
    let watch = WatchActivitiesRequest::default();
    let watch = tenant.activities().watch_activities(watch).await.unwrap();
    let after = scrape(metrics).await;
    let method = |name: &str| format!("rpc_method=\"accounts.v1.{name}\"");
    let calls = |name: &str, code: &str| {
        let code = format!("rpc_response_status_code=\"{code}\"");
        let labels = [&*method(name), &*code, "rpc_system_name=\"grpc\""];
        value(&after, "rpc_server_call_duration_seconds_count", &labels)
    };
    assert_eq!(calls("AccountService/CreateAccount", "OK"), Some(1.0));
    assert_eq!(calls("AccountService/GetAccount", "NOT_FOUND"), Some(1.0));
    assert!(!after.contains("error_type=\"NOT_FOUND\""), "no fault of the service:\n{after}");
    for boundary in ["0.00025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "10"] {
        let boundary = format!("le=\"{boundary}\"");
        let labels = [&*method("AccountService/CreateAccount"), &*boundary];
        assert!(value(&after, "rpc_server_call_duration_seconds_bucket", &labels).is_some());
    }
    let writes = ["db_operation_name=\"WRITE\"", "db_system_name=\"postgresql\""];
    assert_eq!(value(&after, "db_client_operation_duration_seconds_count", &writes), Some(2.0));
    assert_eq!(value(&after, "customer_accounts_watches_open", &[]), Some(1.0));
    assert_eq!(value(&after, "customer_accounts_calls_active", &[]), Some(1.0), "the watch");
    assert_eq!(value(&after, "customer_accounts_connections_open", &[]), Some(1.0));
    let pool = "db_client_connection_pool_name=\"pool\"";
    let most = if real_server().is_some() { 8.0 } else { 1.0 };
    assert_eq!(value(&after, "db_client_connection_max", &[pool]), Some(most));
    assert!(value(&after, "db_client_connection_count", &[pool, "\"idle\""]).is_some());
    let id = tenant.caller().tenant;
    assert!(!after.contains(id.as_str()), "no attribute has a tenant");
    drop(watch);
}

#[tokio::test]
async fn a_request_that_is_not_grpc_is_no_error_of_the_service() {
    let service = Service::fresh(&[], &[]).await;
    let path = "/accounts.v1.AccountService/GetAccount";
    let json = Some("application/json");
    let answer = request(service.address, "localhost", "POST", path, json).await;
    assert_eq!(answer.status(), 415);
    let log = service.log();
    let line = eventually(DEADLINE, "the line of the call", async || {
        lines(&log.text(), "call finished").pop()
    });
    let line = line.await;
    assert_eq!([&line["level"], &line["code"]], ["INFO", "INVALID_ARGUMENT"], "{line}");
}

/// The endpoint answers one thing, and no client can hold it.
#[tokio::test]
async fn the_endpoint_is_bounded() {
    let service = Service::fresh(&ON, &[]).await;
    let metrics = address(&service).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("GET /metrics/x HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "405"),
        ("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
        (&*format!("GET /metrics HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(64 * 1024)), "431"),
    ] {
        let (head, _) = ask(metrics, request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {head}");
    }
    // Silent clients take all connections, and are cut off.
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    // A further one is closed at once.
    let mut further = TcpStream::connect(metrics).await.unwrap();
    let _ = further.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, further.read_to_end(&mut answer)).await.expect("closed");
    assert!(answer.is_empty() && began.elapsed() < Duration::from_secs(4));
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("cut off");
    }
    assert!(began.elapsed() > Duration::from_secs(1), "not at once");
    eventually(DEADLINE, "a free connection", async || {
        let mut stream = TcpStream::connect(metrics).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok().filter(|read| *read > 0)
    })
    .await;

    service.terminate();
    assert!(service.ended().await.success());
    assert!(TcpStream::connect(metrics).await.is_err(), "it ends with the service");
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (value, message) in [
        (&*taken, format!("--metrics-listen {taken}: ")),
        ("nowhere", "the port is missing".to_owned()),
    ] {
        let serving = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", value];
        let ended = run(&serving, &[]).await;
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains(&message), "{}", ended.stderr);
    }
}

/// A slow statement is logged with its call, and without its values.
#[tokio::test]
async fn a_slow_statement_is_logged_without_its_values() {
    let why = "a statement is slow because another transaction holds a lock";
    let Some(url) = real_database(why).await else { return };
    let slow = ["--slow-statement", "200ms", "--lock-timeout", "10s"];
    let service = Service::on(&url, &[&slow[..], &ON].concat()).await;
    let metrics = address(&service).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("zabriskie", "o")).await;
    let lock = sql(&url).await;
    lock.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
    let (changed, ()) = tokio::join!(tenant.delete("zabriskie", ""), async {
        waiting_for_locks(&lock, 1).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        lock.batch_execute("ROLLBACK").await.unwrap();
    });
    changed.unwrap();
    let log = service.log();
    let line = eventually(DEADLINE, "the warning", async || {
        lines(&log.text(), "a statement was slow").pop()
    })
    .await;
    assert_eq!(lines(&log.text(), "a statement was slow").len(), 1, "{}", log.text());
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["method"], "accounts.v1.AccountService/DeleteAccount");
    assert_eq!(line["tenant"], tenant.caller().tenant.as_str());
    assert!(line["duration_ms"].as_u64().is_some_and(|ms| (350..10_000).contains(&ms)), "{line}");
    let statement = line["statement"].as_str().unwrap();
    assert!(statement.contains("\"accounts\"") && statement.contains("$1"), "{statement}");
    assert!(!log.text().contains("zabriskie"), "{}", log.text());
    let counted =
        value(&scrape(metrics).await, "customer_accounts_statements_slow_total", &["\"answered\""]);
    assert_eq!(counted, Some(1.0));
}

/// If a call ends before its statement is answered, the log says that, too, whoever ended it.
#[tokio::test]
async fn a_statement_that_is_given_up_is_logged() {
    let why = "a statement is slow because another transaction holds a lock";
    let Some(url) = real_database(why).await else { return };
    let options =
        ["--slow-statement", "200ms", "--lock-timeout", "10s", "--default-deadline", "1s"];
    let service = Service::on(&url, &options).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let lock = sql(&url).await;
    lock.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
    let log = service.log();
    let of_a_deletion = |line: &Value| {
        assert_eq!(line["method"], "accounts.v1.AccountService/DeleteAccount");
        assert_eq!(line["tenant"], tenant.caller().tenant.as_str());
    };
    let given_up = "a call ended before its slow statement was answered";

    timeout(Duration::from_millis(400), tenant.delete("a", "")).await.unwrap_err();
    of_a_deletion(
        &eventually(DEADLINE, "the client hung up", async || lines(&log.text(), given_up).pop())
            .await,
    );

    let failed = tenant.delete("a", "").await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    // The server may cancel the statement before the call ends.
    let warnings = async || {
        let text = log.text();
        let given_up = lines(&text, given_up).into_iter().skip(1);
        given_up.chain(lines(&text, "a statement was slow")).next()
    };
    of_a_deletion(&eventually(DEADLINE, "the deadline", warnings).await);
}

#[tokio::test]
async fn slow_statements_can_be_left_unlogged() {
    let why = "a statement is slow because another transaction holds a lock";
    let Some(url) = real_database(why).await else { return };
    let service = Service::on(&url, &["--slow-statement", "0s", "--lock-timeout", "10s"]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let lock = sql(&url).await;
    lock.batch_execute("BEGIN; SELECT FROM accounts FOR UPDATE").await.unwrap();
    let (changed, ()) = tokio::join!(tenant.delete("a", ""), async {
        waiting_for_locks(&lock, 1).await;
        lock.batch_execute("SELECT pg_sleep(1.2); ROLLBACK").await.unwrap();
    });
    changed.unwrap();
    assert!(lines(&service.log().text(), "a statement was slow").is_empty());
}

/// A transaction of somebody else that goes on holds the feed back, and the watch sees it.
#[tokio::test]
async fn the_lag_of_the_feed_is_measured() {
    let Some(url) = real_database("another transaction holds the feed back").await else { return };
    let service = Service::on(&url, &[&ON[..], &["--watch-poll-interval", "50ms"]].concat()).await;
    let metrics = address(&service).await;
    let tenant = Tenant::on(service.channel().await);
    let watch = WatchActivitiesRequest::default();
    let mut watch = tenant.activities().watch_activities(watch).await.unwrap().into_inner();
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = watch.message().await {} });
    let lag =
        async || value(&scrape(metrics).await, "customer_accounts_feed_lag_seconds", &[]).unwrap();
    let other = sql(&url).await;
    other.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    eventually(DEADLINE, "a lag", async || Some(lag().await).filter(|lag| *lag > 0.5)).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    // Other tests' transactions come and go, but none stays.
    eventually(DEADLINE, "no lag", async || Some(lag().await).filter(|lag| *lag < 0.5)).await;
    reading.abort();
}
