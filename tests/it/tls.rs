//! TLS, mutual TLS, and the workloads at the other end: real certificates, connections and files.

mod commands;
mod rotation;

use std::{io, net::SocketAddr, time::Duration};

use customer_accounts::{proto::ListAccountTypesRequest, server};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rustls::version::{TLS12, TLS13};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Instant, timeout},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Tenant,
    certs::{Authority, Days, LONG, Mounted, Pair, Trust},
    config, connect, eventually, raw, refusal, shared,
};

/// Room for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
const PORTAL: &str = "spiffe://example.org/ns/shop/sa/portal";
const PROXY: &str = "spiffe://example.org/proxy";
const LIST: &str = "AccountTypeService/ListAccountTypes";

/// A service of the test's own on the shared database; ends when dropped.
struct Here {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Here {
    async fn serve(options: &[&[String]]) -> Self {
        let options = options.concat();
        let (started, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        shared().runtime.spawn(async move {
            let config = config(&options.iter().map(String::as_str).collect::<Vec<_>>());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(listener.local_addr().unwrap()).unwrap();
            let stop = async move { drop(stopped.await) };
            server::serve(listener, shared().db.clone(), &config, stop).await.unwrap();
        });
        Self { address: address.await.unwrap(), _stop: stop }
    }
}

fn options(given: &[&str]) -> Vec<String> {
    given.iter().map(ToString::to_string).collect()
}

/// One call of an ordinary caller.
async fn ask(channel: Channel) -> Result<(), Status> {
    Tenant::on(channel)
        .account_types()
        .list_account_types(ListAccountTypesRequest::default())
        .await
        .map(drop)
}

/// Whether one call passes, on a connection of its own.
async fn passes(trust: &Trust<'_>, address: SocketAddr) -> bool {
    let passed = async {
        let (channel, _) = trust.connect(address).await.ok()?;
        ask(channel).await.ok()
    };
    timeout(PATIENCE, passed).await.expect("an answer in time").is_some()
}

async fn health(channel: Channel) -> Result<(), Status> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop)
}

/// One call with these headers.
async fn with_headers(channel: &Channel, headers: &[(&str, &str)]) -> Result<(), Status> {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    raw::call(channel, LIST, &headers, &[]).await.map(drop)
}

#[tokio::test]
async fn tls_is_spoken_in_both_versions_and_plain_text_is_not() {
    let authority = Authority::new();
    let (pair, mounted) = served(&authority, None);
    let here = Here::serve(&[&mounted.options(false)]).await;
    for version in [&TLS12, &TLS13] {
        let trust = Trust { version: Some(version), ..Trust::of(&authority) };
        let stream = trust.handshake(here.address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let (channel, serial) = trust.connect(here.address).await.unwrap();
        assert_eq!(serial, pair.serial);
        ask(channel.clone()).await.unwrap();
        health(channel).await.unwrap();
    }
    assert!(
        !passes(&Trust::of(&Authority::new()), here.address).await,
        "the client must know the authority"
    );
    let plain = Endpoint::from_shared(format!("http://{}", here.address)).unwrap().connect_lazy();
    assert!(timeout(PATIENCE, health(plain)).await.expect("refused in time").is_err());
}

#[tokio::test]
async fn mutual_tls_lets_in_who_the_authority_has_signed() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let here = Here::serve(&[&mounted.options(true)]).await;
    let trust = Trust::of(&authority);
    let (right, nameless) = (clients.client(&[PORTAL]), clients.client(&[]));
    for version in [&TLS12, &TLS13] {
        let trust = Trust { version: Some(version), ..trust.clone() };
        for pair in [&right, &nameless] {
            assert!(passes(&trust.clone().showing(pair), here.address).await);
        }
        assert!(!passes(&trust, here.address).await, "no certificate");
        for (what, pair) in [
            ("another authority's", others.client(&[PORTAL])),
            ("the server's authority's", authority.client(&[PORTAL])),
            ("one that has ended", clients.client_for(&[PORTAL], Days(-1))),
            ("one for servers only", clients.sign(&[PORTAL], LONG, "admin", &[ServerAuth])),
        ] {
            assert!(!passes(&trust.clone().showing(&pair), here.address).await, "{what}");
        }
        // Not even health is told to whom TLS does not let in.
        if let Ok((channel, _)) = trust.connect(here.address).await {
            assert!(health(channel).await.is_err());
        }
    }
}

#[tokio::test]
async fn only_allowed_workloads_call() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let allowed = options(&["--allowed-workloads", "spiffe://example.org/ns/shop/*,crm.internal"]);
    let here = Here::serve(&[&mounted.options(true), &allowed]).await;
    for (names, workload, may) in [
        (&[PORTAL][..], PORTAL, true),
        (&["crm.internal"], "crm.internal", true),
        (&["CRM.internal", "other"], "crm.internal", true),
        (&[PORTAL, "other"], PORTAL, true),
        (&["https://example.org/", "crm.internal"], "crm.internal", true),
        (
            &["spiffe://example.org/ns/shopping/sa/portal"],
            "spiffe://example.org/ns/shopping/sa/portal",
            false,
        ),
        (
            &["spiffe://example.com/ns/shop/sa/portal"],
            "spiffe://example.com/ns/shop/sa/portal",
            false,
        ),
        (&["other", "crm.internal"], "other", false),
        (&[PORTAL, "spiffe://example.org/ns/shop/sa/two"], "", false),
        (&["spiffe://example.org", "crm.internal"], "", false),
        (&["*.internal"], "", false),
        (&[], "", false),
    ] {
        let pair = clients.client(names);
        let (channel, _) =
            Trust::of(&authority).showing(&pair).connect(here.address).await.unwrap();
        health(channel.clone()).await.unwrap();
        let answer = ask(channel.clone()).await;
        if may {
            answer.unwrap();
            continue;
        }
        let told = crate::support::calls::metadata(answer, "workload");
        assert_eq!(told, workload, "{names:?}");
        // A header that nobody has switched on names nobody.
        let forged = [("x-forwarded-client-cert", &*format!("URI={PORTAL}"))];
        let refused = refusal(with_headers(&channel, &forged).await);
        assert_eq!(refused, "WORKLOAD_NOT_ALLOWED", "{names:?}");
    }
}

#[tokio::test]
async fn the_workload_is_no_user() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let here =
        Here::serve(&[&mounted.options(true), &options(&["--allowed-workloads", PORTAL])]).await;
    let pair = clients.client(&[PORTAL]);
    let (channel, _) = Trust::of(&authority).showing(&pair).connect(here.address).await.unwrap();
    let tenant = Tenant::on(channel);
    tenant.account_type("a").await;
    assert_eq!(tenant.trail().await[0].actor, "tester");
    let answer = tenant
        .with_roles("viewer")
        .try_account_type(crate::support::calls::account_type("b"))
        .await;
    assert_eq!(refusal(answer), "PERMISSION_DENIED");
}

#[tokio::test]
async fn the_header_of_a_mesh_counts_only_when_switched_on_and_only_its_last_element() {
    const XFCC: &str = "x-forwarded-client-cert";
    let unauthenticated = "UNAUTHENTICATED";
    let denied = "WORKLOAD_NOT_ALLOWED";
    let service = Here::serve(&[]).await;
    let off = connect(service.address).await;
    for value in ["URI=spiffe://example.org/x", "\"malformed"] {
        with_headers(&off, &[(XFCC, value)]).await.unwrap();
    }
    let service =
        Here::serve(&[&options(&["--mesh-header", XFCC, "--allowed-workloads", PORTAL])]).await;
    let on = connect(service.address).await;
    health(on.clone()).await.unwrap();
    assert_eq!(refusal(with_headers(&on, &[]).await), unauthenticated);
    let (good, evil) = (format!("URI={PORTAL}"), "URI=spiffe://example.org/evil".to_owned());
    for values in [
        vec![good.clone()],
        vec![format!("{evil},{good}")],
        vec![evil.clone(), good.clone()],
        vec![format!(
            "By=spiffe://example.org/accounts;Hash=ab;Subject=\"CN=x,{evil};O=\\\"y\\\"\";{good}"
        )],
    ] {
        let headers: Vec<_> = values.iter().map(|value| (XFCC, &**value)).collect();
        with_headers(&on, &headers).await.unwrap_or_else(|status| panic!("{values:?}: {status}"));
    }
    for (values, refused) in [
        (vec![evil.clone()], &denied),
        (vec![format!("{good},{evil}")], &denied),
        (vec![good.clone(), evil.clone()], &denied),
        (vec![format!("{evil};Subject=\"{good}\"")], &denied),
        (vec![format!("{good},")], &unauthenticated),
        (vec![format!("{good};X=\",{evil}")], &unauthenticated),
        (vec![good.clone(), String::new()], &unauthenticated),
        (vec!["By=spiffe://example.org/accounts;Hash=ab".to_owned()], &unauthenticated),
        (vec![format!("{good};{good}")], &unauthenticated),
    ] {
        let headers: Vec<_> = values.iter().map(|value| (XFCC, &**value)).collect();
        assert_eq!(refusal(with_headers(&on, &headers).await), *refused, "{values:?}");
    }
}

#[tokio::test]
async fn behind_mutual_tls_only_the_proxy_names_the_workload() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_, mounted) = served(&authority, Some(&clients.pem));
    let mesh = [
        "--mesh-header",
        "l5d-client-id",
        "--mesh-proxies",
        PROXY,
        "--allowed-workloads",
        "portal.shop",
    ];
    let here = Here::serve(&[&mounted.options(true), &options(&mesh)]).await;
    let (proxy, portal) = (clients.client(&[PROXY]), clients.client(&["portal.shop"]));
    let (proxy, _) = Trust::of(&authority).showing(&proxy).connect(here.address).await.unwrap();
    with_headers(&proxy, &[("l5d-client-id", "portal.shop")]).await.unwrap();
    assert_eq!(refusal(with_headers(&proxy, &[]).await), "UNAUTHENTICATED");
    assert_eq!(
        refusal(with_headers(&proxy, &[("l5d-client-id", "other.shop")]).await),
        "WORKLOAD_NOT_ALLOWED"
    );
    let (direct, _) = Trust::of(&authority).showing(&portal).connect(here.address).await.unwrap();
    let refused = refusal(with_headers(&direct, &[("l5d-client-id", "portal.shop")]).await);
    assert_eq!(refused, "WORKLOAD_NOT_ALLOWED");
}

#[tokio::test]
async fn silent_peers_hold_up_nobody_and_are_sent_away() {
    let authority = Authority::new();
    let (_, mounted) = served(&authority, None);
    let limit = options(&["--handshake-timeout", "2s"]);
    let (tls, plain) =
        (Here::serve(&[&mounted.options(false), &limit]).await, Here::serve(&[&limit]).await);
    let began = Instant::now();
    let mut silent = Vec::new();
    for address in [tls.address, plain.address] {
        for _ in 0..32 {
            let stream = TcpStream::connect(address).await.unwrap();
            silent.push(stream);
        }
    }
    // Half a ClientHello, and a handshake after which nothing is said.
    let half = TcpStream::connect(tls.address).await.unwrap();
    half.try_write(b"\x16\x03\x01\x02\x00\x01").unwrap();
    silent.push(half);
    let mut mute = Trust::of(&authority).handshake(tls.address).await.unwrap();
    let (channel, _) = Trust::of(&authority).connect(tls.address).await.unwrap();
    ask(channel.clone()).await.unwrap();
    let other = connect(plain.address).await;
    ask(other.clone()).await.unwrap();
    if began.elapsed() < Duration::from_secs(1) {
        assert!(is_open(&silent[0]), "the others are served while these are there");
    }
    for stream in &mut silent {
        timeout(PATIENCE, ended(stream)).await.expect("sent away");
    }
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "not before their time: {:?}",
        began.elapsed()
    );
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, mute.read_to_end(&mut rest)).await.expect("sent away");
    // A peer that has made a call may be silent without limit.
    ask(channel).await.unwrap();
    ask(other).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once_and_the_others_stay() {
    let authority = Authority::new();
    let (_, mounted) = served(&authority, None);
    let bound = options(&["--max-connections", "3"]);
    let here = Here::serve(&[&mounted.options(false), &bound]).await;
    let trust = Trust::of(&authority);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(trust.connect(here.address).await.unwrap().0);
    }
    for channel in &open {
        ask(channel.clone()).await.unwrap();
    }
    for _ in 0..5 {
        let mut one_too_many = TcpStream::connect(here.address).await.unwrap();
        timeout(PATIENCE, ended(&mut one_too_many)).await.expect("closed at once");
    }
    for channel in &open {
        ask(channel.clone()).await.unwrap();
    }
    drop(open.pop());
    eventually(PATIENCE, "room for another", async || {
        passes(&trust, here.address).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_of_a_new_authority_are_let_in_and_those_of_the_old_no_more() {
    let (authority, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let (pair, mounted) = served(&authority, Some(&old.pem));
    let here =
        Here::serve(&[&mounted.options(true), &options(&["--tls-reload-interval", "20ms"])]).await;
    let (of_old, of_new) = (old.client(&[PORTAL]), new.client(&[PORTAL]));
    let (of_old, of_new) =
        (Trust::of(&authority).showing(&of_old), Trust::of(&authority).showing(&of_new));
    assert!(passes(&of_old, here.address).await && !passes(&of_new, here.address).await);
    let (stays, _) = of_old.connect(here.address).await.unwrap();
    mounted.swap(&pair, Some(&format!("{}{}", old.pem, new.pem)));
    eventually(PATIENCE, "both authorities", async || {
        passes(&of_new, here.address).await.then_some(())
    })
    .await;
    assert!(passes(&of_old, here.address).await);
    mounted.swap(&pair, Some(&new.pem));
    eventually(PATIENCE, "the new authority only", async || {
        (!passes(&of_old, here.address).await).then_some(())
    })
    .await;
    assert!(passes(&of_new, here.address).await);
    ask(stays).await.unwrap();
}

fn served(authority: &Authority, client_ca: Option<&str>) -> (Pair, Mounted) {
    let pair = authority.server();
    let mounted = Mounted::new(&pair, client_ca);
    (pair, mounted)
}

/// Waits until the peer has closed; the error of a reset is one way to see it.
async fn ended(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
