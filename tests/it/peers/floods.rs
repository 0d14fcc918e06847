//! What peers without credentials can make the service hold, sixteen at once, in a process of its own: its memory stays
//! small, and another tenant is answered all the while.

use std::{
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{CHECK, HEALTH_WATCH, LIST, REFLECTION, ask, message};
use crate::support::{
    Tenant, account,
    frames::{CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, RawPeer, SETTINGS, WINDOW_UPDATE, frame, header_block},
    process::Service,
    real_database,
};
use customer_accounts::proto::GetAccountRequest;

/// Most memory of the service in KiB.
const MEMORY: u64 = 100 * 1024;
/// Longest that another tenant waits for an answer.
const ANSWER: Duration = Duration::from_secs(1);
const PEERS: usize = 16;
/// Calls that another tenant makes beside the peers when all of them are there.
const CALLS: usize = 20;
const MIB: usize = 1024 * 1024;
/// How long each flood goes on, unless the service ends it earlier.
const FLOOD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_bad_peers_cost_little_and_disturb_nobody() {
    let Some(url) = real_database("an embedded server takes more memory than the service").await else { return };
    let service = Service::on(&url, &["--default-deadline", "5s"]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    for _ in 0..100 {
        ask(&tenant).await.unwrap();
    }
    let before = service.resident_kib();
    macro_rules! measure {
        ($($attack:ident),*) => {$(
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
                most = most.max(service.resident_kib());
            }
            let name = stringify!($attack);
            eprintln!("{name:26} {:3} MiB (before: {}), longest answer {longest:?}", most / 1024, before / 1024);
            assert!(most < MEMORY, "{name}: {most} KiB");
            assert!(longest < ANSWER, "{name}: {longest:?}");
            drop(peers);
        )*};
    }
    measure!(
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
    let mut peer = RawPeer::greeted(address, 65_535).await.calling_as(&[("x-tenant-id", "unfinished")]);
    let part = &message(&vec![0; 2 * MIB])[..2 * MIB];
    let _ = timeout(FLOOD, peer.begin(LIST, part)).await;
    peer
}

/// Sends the same again and again, reading nothing, until the service takes no more of it or the time is over.
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
    flood(RawPeer::greeted(address, 0).await, &frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await
}
