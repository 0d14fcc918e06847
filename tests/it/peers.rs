//! Misbehaving peers: silent ones, ones that stop half way, that send too much or that do not read.
//! They cost the service little, and other peers nothing.

use std::{net::SocketAddr, time::Duration};

use customer_accounts::{
    proto::{AccountType, ListAccountTypesRequest, WatchActivitiesRequest},
    server,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::body::Body;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Tenant, config, connect, eventually,
    frames::{
        DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, RawPeer, SETTINGS,
        frame, greeting, message,
    },
    refusal, shared,
    tokens::{Answer, Guarded, Issuer, Key},
    unique,
    watch::Watch,
};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
pub const LIST: &str = "/accounts.v1.AccountTypeService/ListAccountTypes";
const WATCH: &str = "/accounts.v1.ActivityService/WatchActivities";
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// CANCEL, of the error codes of HTTP/2.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A service of the test's own on the shared database; ends when dropped.
struct Here {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Here {
    fn serve(options: &[&str]) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let config = config(options);
        shared().runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            server::serve(
                listener,
                shared().db.clone(),
                &config,
                async move { drop(stopped.await) },
            )
            .await
            .unwrap();
        });
        Self { address, _stop: stop }
    }

    async fn tenant(&self) -> Tenant {
        Tenant::on(connect(self.address).await)
    }

    /// A peer with a tenant of its own, whose initial window of each stream has this size.
    async fn peer(&self, window: u32) -> RawPeer {
        RawPeer::greeted(self.address, window)
            .await
            .calling_as(&[("x-tenant-id", &format!("t-{}", unique()))])
    }
}

pub async fn ask(tenant: &Tenant) -> Result<(), tonic::Status> {
    tenant.account_types().list_account_types(ListAccountTypesRequest::default()).await.map(drop)
}

const OVERLOADED: &str = "OVERLOADED";

#[tokio::test]
async fn answers_that_nobody_reads_are_given_up_and_the_rest_of_the_connection_goes_on() {
    let here =
        Here::serve(&["--max-calls", "8", "--tenant-share", "100", "--answer-timeout", "2s"]);
    let tenant = here.tenant().await;
    let mut peer = here.peer(0).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(peer.call(LIST, b"").await);
    }
    for _ in 0..8 {
        assert_eq!(peer.until(HEADERS).await.flags & END_STREAM, 0, "an answer with data");
    }
    assert_eq!(refusal(ask(&tenant).await), OVERLOADED);
    for _ in 0..8 {
        let reset = peer.until(RST_STREAM).await;
        assert_eq!(reset.payload, CANCEL);
        unread.retain(|stream| *stream != reset.stream);
    }
    assert!(unread.is_empty(), "{unread:?}");
    ask(&tenant).await.unwrap();
    // A call whose answer is read is answered on the same connection.
    let stream = peer.call(LIST, b"").await;
    peer.give_room(stream, 1000).await;
    assert!(!peer.answer(stream).await.is_empty());
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends_and_one_without_news_does_not() {
    let here =
        Here::serve(&["--max-watches", "2", "--tenant-share", "100", "--answer-timeout", "1s"]);
    let tenant = here.tenant().await;
    let mut quiet = Watch::open(&tenant, "", "").await.unwrap();
    quiet.next().await.unwrap();
    let mut peer = here.peer(0).await;
    let unread = peer.call(WATCH, b"").await;
    let watch = async || {
        let answer = tenant.activities().watch_activities(WatchActivitiesRequest::default()).await;
        answer.map(drop)
    };
    assert_eq!(peer.until(HEADERS).await.flags & END_STREAM, 0, "an answer with data");
    assert_eq!(refusal(watch().await), OVERLOADED);
    let reset = peer.until(RST_STREAM).await;
    assert_eq!((reset.stream, &*reset.payload), (unread, &CANCEL[..]));
    eventually(PATIENCE, "a permit again", async || watch().await.ok()).await;
    tenant.organization("news", "").await;
    assert_eq!(quiet.take(1).await[0].resource_id, "news");
}

/// Requests that never end hold bytes, which are bounded for the tenant and in all.
#[tokio::test]
async fn unfinished_requests_hold_no_more_bytes_than_they_may() {
    let here = Here::serve(&["--max-buffered-bytes", "262144", "--tenant-share", "50"]);
    let settled = async || {
        let mut peer = here.peer(1000).await;
        peer.settle().await;
        peer
    };
    let (mut peer, mut other) = (settled().await, settled().await);
    // What the windows of a stream and a connection have room for.
    let unfinished = [&[0, 0, 15, 0, 0][..], &vec![0; 100_000]].concat();
    let both = [peer.begin(LIST, &unfinished).await, peer.begin(LIST, &unfinished).await];
    // One of them is too much for the tenant, and is told so; another tenant still has its share.
    assert!(both.contains(&peer.until(HEADERS).await.stream));
    other.begin(LIST, &unfinished).await;
    ask(&here.tenant().await).await.unwrap();
    drop(peer);
    drop(other);
    // The service learns of the two ends in its own time, and gives back what they held.
    eventually(PATIENCE, "room for a third", async || {
        let mut third = settled().await;
        third.begin(LIST, &unfinished).await;
        timeout(Duration::from_millis(500), third.until(HEADERS)).await.err()
    })
    .await;
}

/// Unread answers count against the limit of buffered bytes. A call whose answer does not fit any
/// more fails with OVERLOADED.
#[tokio::test]
async fn unread_answers_hold_no_more_bytes_than_they_may() {
    let here = Here::serve(&["--max-buffered-bytes", "262144", "--tenant-share", "50"]);
    let tenant = here.tenant().await;
    for n in 0..60 {
        let (display_name, description) = (format!("Type {n}"), "d".repeat(1000));
        tenant
            .try_account_type(AccountType { display_name, description, ..Default::default() })
            .await
            .unwrap();
    }
    let id = tenant.caller.tenant.clone();
    let mut unread = RawPeer::greeted(here.address, 0).await.calling_as(&[("x-tenant-id", &id)]);
    // A list of some 56 kB: three are within the 128 KiB of the tenant, beside 16 KiB each that are
    // not counted.
    for _ in 0..3 {
        unread.call(LIST, b"").await;
        unread.until(HEADERS).await;
    }
    assert_eq!(refusal(ask(&tenant).await), OVERLOADED);
    let small = ListAccountTypesRequest { page_size: 1, ..Default::default() };
    tenant.account_types().list_account_types(small).await.unwrap();
    ask(&here.tenant().await).await.unwrap();
    drop(unread);
    eventually(PATIENCE, "the bytes again", async || ask(&tenant).await.ok()).await;
}

/// A peer that opens its windows as far as possible, and then does not read from its socket.
#[tokio::test]
async fn a_connection_whose_peer_takes_no_bytes_is_cut_off() {
    let here = Here::serve(&["--answer-timeout", "1s"]);
    let mut peer = here.peer((1 << 31) - 1).await;
    peer.give_room(0, (1 << 31) - 1 - 65_535).await;
    // One reflection stream; each answer has tens of kilobytes, more together than the sockets'
    // buffers.
    let ask = message(b"\x22\x1aaccounts.v1.AccountService");
    let began = Instant::now();
    peer.begin(REFLECTION, &ask.repeat(1000)).await;
    tokio::time::sleep_until(began + Duration::from_secs(4)).await;
    // What had been sent before is there, and then the end; sooner than a peer that answers no ping
    // is given up.
    timeout(PATIENCE, peer.cut_off()).await.expect("cut off");
    ask_once(&here).await;
}

async fn ask_once(here: &Here) {
    ask(&here.tenant().await).await.unwrap();
}

#[tokio::test]
async fn who_does_not_finish_a_greeting_or_headers_is_sent_away() {
    let here = Here::serve(&["--handshake-timeout", "1s"]);
    let headers = RawPeer::silent(here.address).await.headers(LIST);
    let whole = greeting(1000);
    let unfinished: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"P".to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[0; 6])[..8]].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[0; 6])[..12]].concat(),
        [&whole[..], &frame(HEADERS, END_HEADERS, 1, &headers)[..20]].concat(),
        [&whole[..], &frame(HEADERS, 0, 1, &headers)].concat(),
        [&whole[..], &frame(HEADERS, END_HEADERS, 1, &headers)[..4]].concat(),
    ];
    let began = Instant::now();
    let mut peers = Vec::new();
    for bytes in &unfinished {
        let mut peer = RawPeer::silent(here.address).await;
        peer.send(bytes).await;
        peers.push(peer);
    }
    let mut idle = RawPeer::greeted(here.address, 1000).await;
    for peer in &mut peers {
        timeout(PATIENCE, peer.cut_off()).await.expect("sent away");
    }
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "not before their time: {:?}",
        began.elapsed()
    );
    // A peer that has sent its preface may be silent, and is answered later.
    let stream = idle.call(LIST, b"").await;
    idle.answer(stream).await;
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_in_order_and_one_with_a_call_is_not() {
    let here = Here::serve(&["--max-connection-idle", "1s", "--max-connection-grace", "1s"]);
    let tenant = here.tenant().await;
    let mut watch = Watch::open(&tenant, "", "").await.unwrap();
    watch.next().await.unwrap();
    let mut polite = RawPeer::greeted(here.address, 1000).await;
    let mut mute = RawPeer::greeted(here.address, 1000).await;
    let began = Instant::now();
    assert_eq!(polite.until(GOAWAY).await.payload[4..8], [0; 4], "for no error");
    polite.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    // One that answers nothing is cut off later.
    mute.cut_off().await;
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    tenant.organization("news", "").await;
    assert_eq!(watch.take(1).await[0].resource_id, "news");
}

/// A proxy sends headers as soon as it has them. Where they are refused, the request's data arrive
/// after the answer, which is nobody's fault.
#[tokio::test]
async fn calls_refused_before_their_data_arrived_do_not_end_the_connection() {
    let here = Here::serve(&[]);
    let peer = RawPeer::greeted(here.address, 1000).await;
    let mut peer = peer.calling_as(&[("x-tenant-id", "no id")]);
    for _ in 0..3000 {
        let stream = peer.begin(LIST, b"").await;
        peer.answer(stream).await;
        peer.send(&frame(DATA, END_STREAM, stream, &message(b""))).await;
    }
    let last = peer.call(LIST, b"").await;
    peer.answer(last).await;
    ask_once(&here).await;
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_loses_no_call() {
    let here = Here::serve(&["--max-connection-age", "1s", "--max-connection-grace", "1s"]);
    let tenant = here.tenant().await;
    let mut watch = Watch::open(&tenant, "", "").await.unwrap();
    let mut health = HealthClient::new(connect(here.address).await);
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    health.message().await.unwrap();
    // The first notice names no last call: one that a client has sent before it read the notice is
    // answered.
    let mut peer = here.peer(1000).await;
    let notice = peer.until(GOAWAY).await;
    assert_eq!(notice.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let stream = peer.call(LIST, b"").await;
    assert!(!peer.answer(stream).await.is_empty());
    peer.ended().await;
    // The client of the watch opens another connection for its next call.
    ask(&tenant).await.unwrap();
    // A watch is told so and goes on from its cursor; what does not end by itself is cut off.
    let ended = async {
        loop {
            if let Err(status) = watch.next().await {
                break status;
            }
        }
    };
    let ended = timeout(PATIENCE, ended).await.expect("the end of the watch");
    assert_eq!(refusal(ended), "WATCH_ENDED");
    let cut = timeout(PATIENCE, async {
        while health.message().await.is_ok_and(|message| message.is_some()) {}
    })
    .await;
    cut.expect("cut off");
    Watch::open(&tenant, &watch.cursor, "").await.unwrap();
}

#[tokio::test]
async fn health_and_reflection_have_few_permits_of_their_connection_and_a_deadline() {
    let here = Here::serve(&[
        "--max-anonymous-calls",
        "2",
        "--default-deadline",
        "1s",
        "--max-deadline",
        "1s",
    ]);
    let channel = connect(here.address).await;
    let mut health = HealthClient::new(channel.clone());
    let mut watches = Vec::new();
    for _ in 0..2 {
        watches.push(health.watch(HealthCheckRequest::default()).await.unwrap().into_inner());
    }
    assert_eq!(refusal(health.check(HealthCheckRequest::default()).await), OVERLOADED);
    // Neither calls with an identity nor other connections are concerned.
    ask(&Tenant::on(channel)).await.unwrap();
    HealthClient::new(connect(here.address).await)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    watches.pop();
    eventually(PATIENCE, "a permit again", async || {
        health.check(HealthCheckRequest::default()).await.ok()
    })
    .await;
    // A request that does not end is answered, and a stream of reflection ends.
    let mut peer = here.peer(1 << 20).await;
    let stream = peer.begin(CHECK, &message(b"\x0a\x05hello")[..8]).await;
    peer.answer(stream).await;
    let stream = peer.begin(REFLECTION, b"").await;
    peer.answer(stream).await;
    // A long one is refused as soon as it says so.
    let large = HealthCheckRequest { service: "x".repeat(5000) };
    let refused = refusal(HealthClient::new(connect(here.address).await).check(large).await);
    assert_eq!(refused, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn one_address_has_some_connections_and_not_all() {
    let here = Here::serve(&["--max-connections-per-peer", "3"]);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(here.tenant().await);
        ask(open.last().unwrap()).await.unwrap();
    }
    for _ in 0..5 {
        let mut one_too_many = TcpStream::connect(here.address).await.unwrap();
        let read = timeout(PATIENCE, one_too_many.read(&mut [0; 1])).await.expect("closed at once");
        assert!(read.is_err() || read.is_ok_and(|read| read == 0));
    }
    for tenant in &open {
        ask(tenant).await.unwrap();
    }
    drop(open.pop());
    eventually(PATIENCE, "room for another", async || {
        let mut peer =
            RawPeer::greeted(here.address, 1000).await.calling_as(&[("x-tenant-id", "t")]);
        let stream = peer.call(LIST, b"").await;
        let mut answered = false;
        while let Some(frame) = peer.read().await {
            answered = frame.stream == stream;
            if answered {
                break;
            }
        }
        answered.then_some(())
    })
    .await;
}

/// Tokens with made-up key ids wait for a slow issuer with permits of their own, so other calls go
/// on.
#[tokio::test]
async fn who_waits_for_keys_keeps_nobody_out() {
    let key = Key::es256("k");
    let issuer = Issuer::with(&[&key]).await;
    let options = [
        "--max-calls",
        "1",
        "--jwks-floor",
        "20ms",
        "--jwks-refresh",
        "20ms",
        "--jwks-max-waiting",
        "3",
    ];
    let service = Guarded::by(&issuer, &options).await;
    service.until("the keys", || key.sign(&issuer.claims("t")), Result::is_ok).await;
    issuer.answer(Answer::Nothing);
    let asked = issuer.asked();
    eventually(PATIENCE, "a fetch that hangs", async || (issuer.asked() > asked).then_some(()))
        .await;
    let made_up = |n: usize| {
        key.sign_as(
            &serde_json::json!({"alg": "ES256", "kid": format!("made-up-{n}")}),
            &issuer.claims("t"),
        )
    };
    let tokens: Vec<_> = (0..20).map(made_up).collect();
    let waiting = futures_util::future::join_all(tokens.iter().map(|token| async {
        let began = Instant::now();
        (refusal(service.read(token).await), began.elapsed())
    }));
    let others = async {
        for _ in 0..20 {
            service.read(&key.sign(&issuer.claims("t"))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        issuer.answer(Answer::Gone);
    };
    let (waited, ()) = tokio::join!(waiting, others);
    let at_once = waited
        .iter()
        .filter(|(answer, took)| {
            *answer == "ISSUER_UNAVAILABLE" && *took < Duration::from_millis(300)
        })
        .count();
    assert!(at_once >= 15, "most do not wait: {waited:?}");
    assert!(
        waited.iter().any(|(_, took)| *took >= Duration::from_millis(300)),
        "some do: {waited:?}"
    );
}

#[tokio::test]
async fn what_is_no_grpc_is_let_in_nowhere() {
    let here = Here::serve(&[]);
    for path in [LIST, WATCH, CHECK, REFLECTION, "/nothing"] {
        for (method, content_type, status) in [
            ("POST", Some("application/grpc"), 200),
            ("POST", Some("application/grpc+proto"), 200),
            ("POST", Some("application/grpc;charset=utf-8"), 200),
            ("POST", Some("text/plain"), 415),
            ("POST", Some("application/x-www-form-urlencoded"), 415),
            ("POST", Some("application/json"), 415),
            ("POST", Some("application/grpc-web"), 415),
            ("POST", Some("application/grpc-web+proto"), 415),
            ("POST", Some("application/grpcx"), 415),
            ("POST", None, 415),
            ("GET", Some("application/grpc"), 405),
            ("OPTIONS", None, 405),
        ] {
            let answer = request(here.address, "localhost", method, path, content_type).await;
            assert_eq!(answer.status(), status, "{path} {method} {content_type:?}");
        }
    }
}

#[tokio::test]
async fn without_credentials_the_service_is_nobody_by_another_name() {
    let here = Here::serve(&[]);
    for (authority, may) in [
        ("localhost", true),
        ("LocalHost:50051", true),
        ("127.0.0.1:1", true),
        ("127.8.8.8", true),
        ("[::1]:50051", true),
        ("evil.example", false),
        ("localhost.evil.example:50051", false),
        ("127.0.0.1.evil.example", false),
        ("192.0.2.1:50051", false),
        ("0.0.0.0", false),
    ] {
        let answer = request(here.address, authority, "POST", LIST, Some("application/grpc")).await;
        let refused = answer.headers().get("grpc-status").is_some_and(|code| code == "16");
        assert_eq!(refused, !may, "{authority}: {:?}", answer.headers());
        // Health is for everybody, as probes use whatever name they have.
        let health =
            request(here.address, authority, "POST", CHECK, Some("application/grpc")).await;
        assert!(health.headers().get("grpc-status").is_none_or(|code| code != "16"), "{authority}");
    }
}

pub async fn request(
    address: SocketAddr,
    authority: &str,
    method: &str,
    path: &str,
    content_type: Option<&str>,
) -> http::Response<hyper::body::Incoming> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut request =
        http::Request::builder().method(method).uri(format!("http://{authority}{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let body = String::from_utf8(message(b"")).unwrap();
    let body = if method == "POST" { Body::new(body) } else { Body::empty() };
    sender.send_request(request.header("te", "trailers").body(body).unwrap()).await.unwrap()
}
