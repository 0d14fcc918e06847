//! Calls as bytes: any method, any metadata, any request.

use customer_accounts::proto::{ExportAccountsResponse, ImportAccountsResponse};
use futures_util::stream;
use http::{HeaderName, HeaderValue, Request as HttpRequest, uri::PathAndQuery};
use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _},
};
use tonic::{
    Request, Status,
    body::Body,
    client::{Grpc, GrpcService as _},
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Channel,
};

use super::transfers::status_of;

/// What a call says about its caller: names and values of headers.
pub type Headers<'a> = &'a [(&'a str, &'a [u8])];

/// Calls `AccountService/GetAccount` or the like with one encoded message and returns the encoded
/// answers. Of an import, the error of the first row that is refused is the error of the call; of an
/// export, the answers have no cursors.
pub async fn call(
    channel: &Channel,
    method: &str,
    headers: Headers<'_>,
    message: &[u8],
) -> Result<Vec<Vec<u8>>, Status> {
    let answers = call_path(channel, &format!("/accounts.v1.{method}"), headers, message).await?;
    if method == "AccountService/ImportAccounts" {
        let batches =
            answers.iter().map(|answer| ImportAccountsResponse::decode(&**answer).unwrap());
        let mut results = batches.flat_map(|batch| batch.results);
        if let Some(error) = results.find_map(|result| result.error) {
            return Err(status_of(&error));
        }
    }
    if method == "AccountService/ExportAccounts" {
        let shown = |answer: Vec<u8>| {
            let ExportAccountsResponse { accounts, .. } =
                ExportAccountsResponse::decode(&*answer).unwrap();
            ExportAccountsResponse { accounts, ..Default::default() }.encode_to_vec()
        };
        return Ok(answers.into_iter().map(shown).collect());
    }
    Ok(answers)
}

/// Calls a method by its HTTP path, with one encoded message, and returns the encoded answers.
pub async fn call_path(
    channel: &Channel,
    path: &str,
    headers: Headers<'_>,
    message: &[u8],
) -> Result<Vec<Vec<u8>>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    // On the wire, a unary call is a stream of one.
    let message = message.to_vec();
    let mut request = Request::new(stream::once(async { message }));
    *request.metadata_mut() = MetadataMap::from_headers(header_map(headers));
    let mut answers =
        grpc.streaming(request, path.parse::<PathAndQuery>().unwrap(), Raw).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = answers.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

/// Calls with a body (of ASCII) that need not be a message in a frame, and returns the headers or
/// the error.
pub async fn call_frames(
    channel: &Channel,
    path: &str,
    headers: Headers<'_>,
    body: &[u8],
) -> Result<MetadataMap, Status> {
    let body = Body::new(str::from_utf8(body).unwrap().to_owned());
    let mut request = HttpRequest::post(format!("http://localhost{path}")).body(body).unwrap();
    request.headers_mut().extend(header_map(headers));
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let headers = response.headers().clone();
    match Status::from_header_map(&headers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ => Ok(MetadataMap::from_headers(headers)),
    }
}

fn header_map(headers: Headers<'_>) -> http::HeaderMap {
    let header = |(name, value): &(&str, &[u8])| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap())
    };
    headers.iter().map(header).collect()
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
