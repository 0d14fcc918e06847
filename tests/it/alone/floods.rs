//! Floods by misbehaving peers of a service in a process of its own. The memory of the service must
//! stay small, and another tenant must be answered all the while. Most floods come from sixteen
//! connections; some of those that need an identity come from sixty-four.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::{Message as _, bytes::Bytes};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body, client::GrpcService as _};

use super::WHY;
use crate::peers::{CHECK, HEALTH_WATCH, LIST, REFLECTION, ask};
use crate::support::{
    As, Tenant, account, connect,
    frames::{
        CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, RawPeer, SETTINGS,
        WINDOW_UPDATE, frame, header_block, message,
    },
    process::Service,
    real_database,
};
use customer_accounts::proto::{Account, GetAccountRequest, ListAccountsRequest};

/// Most memory of the service in KiB, without its program, with sixteen peers.
const MEMORY: u64 = 75 * 1024;
/// The same, with 64 connections that have large requests or answers: each connection holds 16 KiB
/// that no limit counts.
const MEMORY_OF_CALLERS: u64 = 111 * 1024;
/// Longest that another tenant waits for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Longest that another tenant waits for an answer beside 64 connections, over which this process
/// sends some 700 MB.
const ANSWER_BESIDE_CALLERS: Duration = Duration::from_secs(3);
const PEERS: usize = 16;
/// Connections of each peer that needs an identity.
const CONNECTIONS: usize = 4;
/// A tenant with large lists.
const LARGE: &str = "large-lists";
const LIST_ACCOUNTS: &str = "/accounts.v1.AccountService/ListAccounts";
/// Calls that another tenant makes beside the peers when all of them are there.
const CALLS: usize = 20;
const MIB: usize = 1024 * 1024;
/// How long each flood goes on, unless the service ends it earlier.
const FLOOD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_bad_peers_cost_little_and_disturb_nobody() {
    let Some(url) = real_database(WHY).await else { return };
    let service = Service::on(&url, &["--default-deadline", "5s"]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let large =
        Tenant { caller: As { tenant: LARGE.into(), ..tenant.caller.clone() }, ..tenant.clone() };
    large.organization("o", "").await;
    for n in 0..100 {
        large
            .account(Account { comment: "€".repeat(5000), ..account(&format!("a{n}"), "o") })
            .await;
    }
    for _ in 0..100 {
        ask(&tenant).await.unwrap();
    }
    let before = service.own_kib();
    macro_rules! measure {
        ($memory:expr, $answer:expr; $($attack:ident),*) => {$(
            let mut most = 0;
            let mut longest = Duration::ZERO;
            let mut attacks = pin!(join_all((0..PEERS).map(|_| $attack(service.address))));
            let mut peers = None;
            // While they begin, and for some calls after they all have.
            let mut calls = CALLS;
            while calls > 0 {
                let asked = Instant::now();
                let mut accounts = tenant.accounts();
                let call = accounts.get_account(GetAccountRequest { account_id: "a".into() });
                let mut call = pin!(call);
                if peers.is_none() {
                    tokio::select! {
                        biased;
                        begun = &mut attacks => peers = Some(begun),
                        answer = &mut call => { answer.unwrap(); }
                    }
                } else {
                    call.await.unwrap();
                    calls -= 1;
                }
                longest = longest.max(asked.elapsed());
                most = most.max(service.own_kib());
            }
            let name = stringify!($attack);
            eprintln!("{name:26} {:3} MiB (before: {}), longest answer {longest:?}", most / 1024, before / 1024);
            assert!(most < $memory, "{name}: {most} KiB");
            assert!(longest < $answer, "{name}: {longest:?}");
            drop(peers);
        )*};
    }
    measure!(
        MEMORY,
        ANSWER;
        half_greetings,
        half_headers,
        unfinished_health_checks,
        long_health_checks,
        health_watches,
        reflection_unread,
        answers_unread,
        unfinished_calls,
        pings,
        settings,
        resets,
        continuations,
        empty_data,
        window_updates
    );
    measure!(MEMORY_OF_CALLERS, ANSWER_BESIDE_CALLERS; large_bodies_unfinished, large_answers_unread);
    timeout(ANSWER, ask(&tenant)).await.expect("an answer in time").unwrap();
}

async fn half_greetings(address: SocketAddr) -> Vec<RawPeer> {
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = RawPeer::silent(address).await;
        peer.send(b"PRI").await;
        peers.push(peer);
    }
    peers
}

async fn half_headers(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 65_535).await;
    let block = header_block(&[("x-large", &"x".repeat(1_200_000))]);
    let mut kind = HEADERS;
    for piece in block.chunks(16 * 1024) {
        peer.send(&frame(kind, 0, 1, piece)).await;
        kind = CONTINUATION;
    }
    peer
}

async fn unfinished_health_checks(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 65_535).await;
    peer.settle().await;
    let part = &message(&vec![0; 2 * MIB])[..900 * 1024];
    for _ in 0..7 {
        let begun = timeout(FLOOD / 4, peer.begin(CHECK, part)).await;
        if begun.is_err() {
            break;
        }
    }
    peer
}

async fn long_health_checks(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 65_535).await;
    for _ in 0..100 {
        peer.begin(CHECK, &message(&[0; 4000])[..3000]).await;
    }
    peer
}

async fn health_watches(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 0).await;
    for _ in 0..200 {
        peer.call(HEALTH_WATCH, b"").await;
    }
    peer
}

async fn reflection_unread(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 1).await;
    let ask = message(b"\x22\x1aaccounts.v1.AccountService");
    for _ in 0..16 {
        peer.begin(REFLECTION, &ask.repeat(100)).await;
    }
    peer
}

async fn answers_unread(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 0).await.calling_as(&[("x-tenant-id", "unread")]);
    for _ in 0..40 {
        peer.call(LIST, b"").await;
    }
    peer
}

async fn unfinished_calls(address: SocketAddr) -> RawPeer {
    let mut peer =
        RawPeer::greeted(address, 65_535).await.calling_as(&[("x-tenant-id", "unfinished")]);
    peer.settle().await;
    let part = &message(&vec![0; 2 * MIB])[..MIB];
    let _ = timeout(FLOOD, peer.begin(LIST, part)).await;
    peer
}

/// Requests of nearly a megabyte that do not end, from a good client that sends as much as the
/// service takes.
async fn large_bodies_unfinished(address: SocketAddr) -> Vec<AbortOnDropHandle<()>> {
    let mut calls = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = connect(address).await;
        for _ in 0..12 {
            let mut channel = channel.clone();
            let part = Bytes::from(message(&vec![0; MIB])).slice(..1_000_000);
            let body = StreamBody::new(
                stream::iter([Ok::<_, Status>(Frame::data(part))]).chain(stream::pending()),
            );
            let request = Request::post(format!("http://localhost{LIST}"))
                .header("content-type", "application/grpc");
            let request = request
                .header("te", "trailers")
                .header("x-tenant-id", "unfinished")
                .body(Body::new(body))
                .unwrap();
            calls.push(AbortOnDropHandle::new(tokio::spawn(async move {
                poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
                drop(channel.call(request).await);
            })));
        }
    }
    calls
}

/// Answers of 1.5 megabytes that nobody reads.
async fn large_answers_unread(address: SocketAddr) -> Vec<RawPeer> {
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut peer = RawPeer::greeted(address, 0).await.calling_as(&[("x-tenant-id", LARGE)]);
        for _ in 0..6 {
            peer.call(
                LIST_ACCOUNTS,
                &ListAccountsRequest { page_size: 100, ..Default::default() }.encode_to_vec(),
            )
            .await;
        }
        peers.push(peer);
    }
    peers
}

/// Sends the same again and again, reading nothing, until the service takes no more of it or the
/// time is over.
async fn flood(mut peer: RawPeer, frames: &[u8]) -> RawPeer {
    let many = frames.repeat((64 * 1024 / frames.len()).max(1));
    let _ = timeout(FLOOD, async {
        use tokio::io::AsyncWriteExt as _;
        while peer.stream.write_all(&many).await.is_ok() {}
    })
    .await;
    peer
}

async fn pings(address: SocketAddr) -> RawPeer {
    flood(RawPeer::greeted(address, 0).await, &frame(PING, 0, 0, &[0; 8])).await
}

async fn settings(address: SocketAddr) -> RawPeer {
    flood(RawPeer::greeted(address, 0).await, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0])).await
}

async fn resets(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 0).await;
    let headers = peer.headers(CHECK);
    let mut many = Vec::new();
    for _ in 0..20_000 {
        let stream = peer.next_stream();
        many.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        many.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let _ = timeout(FLOOD, peer.send(&many)).await;
    peer
}

async fn continuations(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 0).await;
    peer.send(&frame(HEADERS, 0, 1, &[])).await;
    flood(peer, &frame(CONTINUATION, 0, 1, &[])).await
}

async fn empty_data(address: SocketAddr) -> RawPeer {
    let mut peer = RawPeer::greeted(address, 0).await;
    let stream = peer.begin(CHECK, b"").await;
    flood(peer, &frame(DATA, 0, stream, &[])).await
}

async fn window_updates(address: SocketAddr) -> RawPeer {
    flood(RawPeer::greeted(address, 0).await, &frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))
        .await
}
