//! Compressed messages: requests that come with gzip, answers that leave with it, and encodings
//! that the service does not read.

use std::{io::Read as _, time::Duration};

use customer_accounts::proto::{
    Account, CreateAccountRequest, ListAccountsRequest, PACKAGE, POOL, WatchActivitiesRequest,
};
use flate2::{Compress, Compression, FlushCompress, Status as Flate, bufread::GzDecoder};
use futures_util::future::poll_fn;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use prost::{Message as _, bytes::Bytes};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{
    Code, Status, body::Body, client::GrpcService as _, codec::CompressionEncoding::Gzip,
    transport::Channel,
};

use crate::{
    bounds::filled,
    support::{Tenant, account, frames, refusal, refused},
};

pub const LIST: &str = "/accounts.v1.AccountService/ListAccounts";
const WATCH: &str = "/accounts.v1.ActivityService/WatchActivities";
const PATIENCE: Duration = Duration::from_secs(20);

/// A message as gRPC sends it when it is compressed.
pub fn compressed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut bytes, Compression::fast());
    std::io::Write::write_all(&mut encoder, message).unwrap();
    encoder.finish().unwrap();
    flagged(&bytes)
}

/// About a megabyte that becomes a gigabyte.
pub fn bomb() -> Vec<u8> {
    let mut zeros = vec![0; 1024 * 1024];
    let mut deflated = Vec::with_capacity(4096);
    let status = Compress::new(Compression::best(), false).compress_vec(
        &zeros,
        &mut deflated,
        FlushCompress::Sync,
    );
    assert_eq!(status.unwrap(), Flate::Ok);
    zeros.clear();
    // The header of a gzip member; blocks can follow each other, because each begins with a zero of
    // its own.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &deflated.repeat(1000)].concat();
    assert!(bomb.len() < 1024 * 1024, "{}", bomb.len());
    flagged(&bomb)
}

fn flagged(compressed: &[u8]) -> Vec<u8> {
    let mut message = frames::message(compressed);
    message[0] = 1;
    message
}

/// Makes a call with these headers and this body, and returns what comes back as soon as it begins.
async fn call(
    channel: &Channel,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Body> {
    let mut request =
        Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
    for (name, value) in [("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Full::new(Bytes::copy_from_slice(body)))).unwrap();
    let mut channel = channel.clone();
    poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    channel.call(request).await.unwrap()
}

/// The error in headers.
pub fn error(headers: &HeaderMap) -> Result<(), Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok).map_or(Ok(()), Err)
}

/// The paths of every call of the contract, of the health service and of reflection.
fn paths() -> Vec<String> {
    let services = POOL.services().filter(|service| service.package_name() == PACKAGE);
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let ours =
        methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    let others = [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ];
    ours.chain(others.map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_client_that_compresses_reads_and_writes_as_one_that_does_not() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let mut gzip = tenant.accounts().send_compressed(Gzip).accept_compressed(Gzip);
    for n in 0..5 {
        let account = Some(filled(&format!("a{n}"), 20_000));
        let request = CreateAccountRequest { account, ..Default::default() };
        let created = gzip.create_account(request).await.unwrap().into_inner().account.unwrap();
        assert_eq!(created, tenant.get(&created.account_id).await.unwrap());
    }
    let all = gzip.list_accounts(ListAccountsRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        all,
        tenant.accounts().list_accounts(ListAccountsRequest::default()).await.unwrap().into_inner()
    );
    assert!(all.encoded_len() > 100_000);
    let wrong = CreateAccountRequest { account: Some(account("a0", "o")), ..Default::default() };
    assert_eq!(refusal(gzip.create_account(wrong).await), "ACCOUNT_ALREADY_EXISTS");
}

#[tokio::test]
async fn only_large_answers_are_compressed_and_only_for_who_accepts_that() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    for n in 0..10 {
        tenant
            .account(Account {
                comment: "Large as a list ".repeat(300),
                ..account(&format!("a{n}"), "o")
            })
            .await;
    }
    let list = |page_size| {
        frames::message(&ListAccountsRequest { page_size, ..Default::default() }.encode_to_vec())
    };
    let identity = ("x-tenant-id", &*tenant.caller.tenant);
    let accepting = |value| [identity, ("grpc-accept-encoding", value)];
    for (headers, page_size, expected) in [
        (&accepting("gzip")[..], 10, true),
        (&accepting("identity, deflate, gzip"), 10, true),
        (&accepting("identity"), 10, false),
        (&accepting("deflate"), 10, false),
        (&[identity], 10, false),
        (&accepting("gzip"), 2, false),
    ] {
        let plain = call(&tenant.channel, LIST, &[identity], &list(page_size))
            .await
            .collect()
            .await
            .unwrap()
            .to_bytes();
        let answer = call(&tenant.channel, LIST, headers, &list(page_size)).await;
        let encoding = answer.headers().get("grpc-encoding").cloned();
        let wire = answer.collect().await.unwrap().to_bytes();
        if expected {
            assert_eq!(encoding.unwrap(), "gzip");
            assert!(
                wire[0] == 1 && wire.len() * 5 < plain.len(),
                "{} of {}",
                wire.len(),
                plain.len()
            );
            let mut message = Vec::new();
            GzDecoder::new(&wire[5..]).read_to_end(&mut message).unwrap();
            assert!(frames::message(&message) == plain);
        } else {
            assert_eq!(encoding, None);
            assert!(wire == plain, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn large_messages_of_a_watch_are_compressed() {
    let tenant = Tenant::new().await;
    let headers = [("x-tenant-id", &*tenant.caller.tenant), ("grpc-accept-encoding", "gzip")];
    let watch = frames::message(&WatchActivitiesRequest::default().encode_to_vec());
    let answer = call(&tenant.channel, WATCH, &headers, &watch).await;
    assert_eq!(answer.headers()["grpc-encoding"], "gzip");
    tenant.organization("o", "").await;
    tenant.account(filled("a", 20_000)).await;
    let (mut body, mut received, mut flags) = (answer.into_body(), Vec::new(), Vec::new());
    // For all of them together: checkpoints come again and again.
    let deadline = Instant::now() + PATIENCE;
    while !flags.contains(&1) {
        let frame = timeout_at(deadline, body.frame())
            .await
            .expect("a compressed message in time")
            .unwrap()
            .unwrap();
        received.extend(frame.into_data().unwrap());
        while let Some((&[flag, ref length @ ..], rest)) = received.split_first_chunk::<5>() {
            let Some(message) = rest.get(..u32::from_be_bytes(*length) as usize) else { break };
            flags.push(flag);
            if flag == 1 {
                let mut text = Vec::new();
                GzDecoder::new(message).read_to_end(&mut text).unwrap();
                assert!(
                    text.len() > 32 * 1024
                        && text.windows(15).any(|part| part == b"account.created")
                );
            }
            received.drain(..5 + message.len());
        }
    }
    assert!(flags.contains(&0), "a small message goes as it is: {flags:?}");
}

#[tokio::test]
async fn every_call_reads_gzip() {
    let tenant = Tenant::new().await;
    let headers = [("x-tenant-id", &*tenant.caller.tenant), ("grpc-encoding", "gzip")];
    for path in paths() {
        let answer = timeout(PATIENCE, call(&tenant.channel, &path, &headers, &compressed(b"")))
            .await
            .unwrap();
        if let Err(status) = error(answer.headers()) {
            assert!(
                ![Code::Unimplemented, Code::Internal].contains(&status.code()),
                "{path}: {status:?}"
            );
            assert_ne!(refusal(status), "MALFORMED_REQUEST", "{path}");
        }
    }
}

#[tokio::test]
async fn other_encodings_are_refused_by_every_call_with_what_is_accepted() {
    let tenant = Tenant::new().await;
    for path in paths() {
        for encoding in ["deflate", "zstd", "snappy"] {
            let headers = [("x-tenant-id", &*tenant.caller.tenant), ("grpc-encoding", encoding)];
            let answer = call(&tenant.channel, &path, &headers, &frames::message(b"")).await;
            assert_eq!(answer.headers()["grpc-accept-encoding"], "gzip,identity", "{path}");
            let (status, details) = refused(error(answer.headers()));
            assert_eq!(status.code(), Code::Unimplemented);
            let info = details.error_info().unwrap();
            assert_eq!(info.reason, "UNSUPPORTED_ENCODING");
            assert_eq!(
                (&*info.metadata["encoding"], &*info.metadata["accepted"]),
                (encoding, "gzip,identity")
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_gzip_or_too_large_is_told_so() {
    let tenant = Tenant::new().await;
    let cut = &compressed(&[1; 1000])[..20];
    // A field that the contract does not have, with its header of five bytes.
    let large = |bytes: usize| {
        let mut field = vec![0xfa, 0x3e];
        prost::encoding::encode_varint(bytes as u64 - 5, &mut field);
        field.resize(bytes, 0);
        compressed(&field)
    };
    for (path, body, expected) in [
        (LIST, &bomb()[..], "REQUEST_TOO_LARGE"),
        (LIST, &large(1024 * 1024), "OK"),
        (LIST, &large(1024 * 1024 + 1), "REQUEST_TOO_LARGE"),
        (LIST, &flagged(b"no gzip"), "MALFORMED_REQUEST"),
        (LIST, cut, "MALFORMED_REQUEST"),
        ("/grpc.health.v1.Health/Check", &bomb(), "REQUEST_TOO_LARGE"),
        ("/grpc.health.v1.Health/Check", &compressed(&[0; 5000]), "REQUEST_TOO_LARGE"),
    ] {
        let headers = [("x-tenant-id", &*tenant.caller.tenant), ("grpc-encoding", "gzip")];
        let answer = call(&tenant.channel, path, &headers, body).await;
        let answer = error(answer.headers()).map_or_else(refusal, |()| "OK".into());
        assert_eq!(answer, expected, "{path}: {} bytes", body.len());
    }
    // Compressed messages of a request that does not say how.
    let answer =
        call(&tenant.channel, LIST, &[("x-tenant-id", &tenant.caller.tenant)], &compressed(b""))
            .await;
    assert_eq!(refusal(error(answer.headers())), "MALFORMED_REQUEST");
}
