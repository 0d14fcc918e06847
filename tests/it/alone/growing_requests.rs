//! Small compressed requests that become large ones.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use customer_accounts::proto::ListAccountsRequest;
use futures_util::{
    StreamExt as _,
    future::poll_fn,
    stream::{self, FuturesUnordered},
};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::{Message as _, bytes::Bytes};
use tokio::time::{Instant, interval, sleep_until};
use tonic::{Status, body::Body, client::GrpcService as _};

use super::WHY;
use crate::{
    compression::{LIST, bomb, compressed, error},
    support::{process::Service, real_database, refusal},
};

/// Most memory in KiB, as for callers without compression (`floods.rs`).
const MAX_KIB: u64 = 111 * 1024;
const CONNECTIONS: usize = 16;
const CALLS: usize = 40;

/// How long no call is answered before those without an answer count as waiting.
const QUIET: Duration = Duration::from_secs(5);
/// Fewest and most calls that have room at once: 32 MiB are counted, of which one tenant may have
/// three quarters.
const ROOM: RangeInclusive<usize> = 10..=24;

/// Makes calls whose request never ends, beginning with this body. Returns how many were answered
/// with each reason, where `WAITING` counts those without an answer, and the peak of the service's
/// memory.
async fn unfinished(service: &Service, part: &[u8]) -> (BTreeMap<String, usize>, u64) {
    let part = Bytes::copy_from_slice(part);
    let mut calls = FuturesUnordered::new();
    for _ in 0..CONNECTIONS {
        let channel = service.channel().await;
        for _ in 0..CALLS {
            let body = StreamBody::new(
                stream::iter([Ok::<_, Status>(Frame::data(part.clone()))]).chain(stream::pending()),
            );
            let request = Request::post(format!("http://localhost{LIST}"))
                .header("content-type", "application/grpc");
            let request = request
                .header("grpc-encoding", "gzip")
                .header("te", "trailers")
                .header("x-tenant-id", "unfinished");
            let (mut channel, request) = (channel.clone(), request.body(Body::new(body)).unwrap());
            calls.push(async move {
                poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
                let answer = channel.call(request).await.unwrap();
                refusal(error(answer.headers()))
            });
        }
    }
    let (mut answers, mut peak) = (BTreeMap::new(), 0);
    let (mut ticks, mut end) = (interval(Duration::from_millis(5)), Instant::now() + QUIET);
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => peak = peak.max(service.own_kib()),
            () = sleep_until(end) => break,
            answer = calls.next() => {
                let Some(answer) = answer else { break };
                *answers.entry(answer).or_default() += 1;
                end = Instant::now() + QUIET;
            }
        }
    }
    answers.insert("WAITING".to_owned(), calls.len());
    (answers, peak)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_bounded_and_counted_by_what_they_become() {
    let Some(url) = real_database(WHY).await else { return };
    let service = Service::on(&url, &["--default-deadline", "60s"]).await;
    // A kilobyte that becomes nearly a megabyte, which its call keeps until the request ends.
    let page_token = "x".repeat(1024 * 1024 - 10);
    let grows =
        compressed(&ListAccountsRequest { page_token, ..Default::default() }.encode_to_vec());
    assert!(grows.len() < 10_000);
    let (answers, peak) = unfinished(&service, &grows).await;
    println!("small requests that grow: {peak} KiB, {answers:?}");
    let (waiting, refused) = (answers["WAITING"], answers["OVERLOADED"]);
    assert!(ROOM.contains(&waiting) && waiting + refused == CONNECTIONS * CALLS, "{answers:?}");
    assert!(peak < MAX_KIB, "{peak} KiB");

    let (answers, peak) = unfinished(&service, &bomb()).await;
    println!("bombs: {peak} KiB, {answers:?}");
    // Those that have room are told so.
    assert!(answers["REQUEST_TOO_LARGE"] >= *ROOM.start(), "{answers:?}");
    assert!(
        answers
            .keys()
            .all(|answer| ["REQUEST_TOO_LARGE", "OVERLOADED", "WAITING"].contains(&&**answer)),
        "{answers:?}"
    );
    assert_eq!(answers["WAITING"], 0);
    assert!(peak < MAX_KIB, "{peak} KiB");
}
