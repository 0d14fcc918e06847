//! gzip: decompresses requests and compresses large answers.
//!
//! In gRPC each message is compressed on its own; before it stand a byte that says so and its
//! length. tonic could do this too, but it would also compress small answers, and the decompressed
//! bytes of requests would not be counted (`buffers`).

use std::{
    io::{Read as _, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use prost::bytes::{Bytes, BytesMut};
use tokio::{sync::Semaphore, task::yield_now};
use tonic::{Status, body::Body};

use crate::{
    error::{Error, Refusal, Result},
    proto::ErrorReason,
};

/// The encodings of requests that are accepted, as the header `grpc-accept-encoding` lists them.
pub const ACCEPTED: &str = "gzip,identity";
/// The header that lists the encodings that its sender accepts.
pub const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// The header that names the encoding of compressed messages.
const ENCODING: &str = "grpc-encoding";
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// The header of each message: whether it is compressed, and its length in four bytes.
const HEADER: usize = 5;
/// Bytes that are compressed before the task yields; this takes less than a millisecond.
const TURN: usize = 64 * 1024;
/// Most answers that are compressed at once. Each takes about 300 KiB; further ones are sent
/// uncompressed.
const AT_ONCE: usize = 8;
static COMPRESSING: Semaphore = Semaphore::const_new(AT_ONCE);

/// Whether the messages of a request may be compressed. Fails for an encoding that the service does
/// not accept.
pub fn is_compressed(request: &HeaderMap) -> Result<bool> {
    match request.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => Err(unsupported_encoding(&String::from_utf8_lossy(other))),
    }
}

/// The encoding of the request's messages is not accepted.
fn unsupported_encoding(encoding: &str) -> Error {
    let message = format!(
        "messages in the encoding {encoding:?} are not understood: send them compressed with gzip, \
         or uncompressed"
    );
    Refusal::new(ErrorReason::UnsupportedEncoding, message)
        .with("encoding", encoding)
        .with("accepted", ACCEPTED)
        // gRPC demands this header (Compression, "Unsupported algorithm").
        .header(ACCEPT_ENCODING, ACCEPTED)
        .into()
}

/// Whether the client accepts compressed answers.
pub fn is_accepted(request: &HeaderMap) -> bool {
    let values = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|encoding| encoding.trim() == "gzip")
}

/// Sets the header that says that messages of an answer may be compressed.
pub fn declare(answer: &mut HeaderMap) {
    answer.insert(ENCODING, GZIP);
}

/// Decompresses the messages of a request as they arrive. A message of more than `limit` bytes,
/// compressed or not, ends the request with [`Error::RequestTooLarge`].
pub fn decompressed(mut request: http::Request<Body>, limit: usize) -> http::Request<Body> {
    request.headers_mut().remove(ENCODING);
    request.map(|body| Body::new(Decompressed { body, limit, received: BytesMut::new() }))
}

struct Decompressed {
    body: Body,
    limit: usize,
    /// Received bytes that have not been passed on.
    received: BytesMut,
}

impl Decompressed {
    /// The next message with its header, if it is complete.
    fn next_message(&mut self) -> Result<Option<Bytes>> {
        let Some(&[flag, ref length @ ..]) = self.received.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.limit {
            return Err(Error::RequestTooLarge);
        }
        if self.received.len() - HEADER < length {
            return Ok(None);
        }
        let message = self.received.split_to(HEADER + length).freeze();
        // tonic refuses any other value than 0 and 1.
        if flag == 1 {
            decompress(&message[HEADER..], self.limit).map(Some)
        } else {
            Ok(Some(message))
        }
    }
}

impl http_body::Body for Decompressed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(message) = self.next_message()? {
                return Poll::Ready(Some(Ok(Frame::data(message))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.received.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                None if !self.received.is_empty() => {
                    self.received.clear();
                    return Poll::Ready(Some(Err(Error::MalformedRequest.into())));
                }
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_empty() && self.body.is_end_stream()
    }
}

/// Decompresses a message, and puts the header of an uncompressed message before it.
fn decompress(compressed: &[u8], limit: usize) -> Result<Bytes> {
    let mut message = Vec::with_capacity(HEADER + limit.min(compressed.len() * 4));
    message.extend([0; HEADER]);
    let mut decoder = GzDecoder::new(compressed).take((limit as u64).saturating_add(1));
    decoder.read_to_end(&mut message).map_err(|_| Error::MalformedRequest)?;
    let length = message.len() - HEADER;
    let length =
        u32::try_from(length).ok().filter(|_| length <= limit).ok_or(Error::RequestTooLarge)?;
    // A second gzip member would be valid gzip, but thousands of empty ones would take long to read
    // for no content.
    if !decoder.into_inner().into_inner().is_empty() {
        return Err(Error::MalformedRequest);
    }
    message[1..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(message.into())
}

/// Compresses the messages of an answer that have more than `above` bytes.
pub fn compressed(body: Body, above: usize) -> Body {
    let frames = BodyStream::new(body).then(move |frame| async move {
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(trailers) => return Ok(trailers),
        };
        Ok::<_, Status>(Frame::data(compress(&data, above).await.unwrap_or(data)))
    });
    Body::new(StreamBody::new(frames))
}

/// Compresses those messages that have more than `above` bytes. `None` if the result would not be
/// smaller, or if the bytes are not whole messages; tonic puts only whole messages into a frame.
pub async fn compress(mut messages: &[u8], above: usize) -> Option<Bytes> {
    let (mut compressed, length) = (Vec::new(), messages.len());
    while let Some((&[0, ref length @ ..], rest)) = messages.split_first_chunk::<HEADER>() {
        let message = rest.get(..u32::from_be_bytes(*length) as usize)?;
        let (whole, rest) = messages.split_at(HEADER + message.len());
        messages = rest;
        match if message.len() > above { compress_message(message).await } else { None } {
            Some(message) => compressed.extend(message),
            None => compressed.extend(whole),
        }
    }
    (messages.is_empty() && compressed.len() < length).then(|| compressed.into())
}

/// Compresses a message and puts a header before it. `None` if [`AT_ONCE`] others are being
/// compressed, or if the result would not be smaller.
async fn compress_message(message: &[u8]) -> Option<Vec<u8>> {
    let _permit = COMPRESSING.try_acquire().ok()?;
    let mut compressed = Vec::with_capacity(HEADER + message.len() / 2);
    compressed.extend([1, 0, 0, 0, 0]);
    // The fastest level. The others make an answer a tenth smaller and take up to four times as
    // long.
    let mut encoder = GzEncoder::new(compressed, Compression::fast());
    for turn in message.chunks(TURN) {
        encoder.write_all(turn).ok()?;
        yield_now().await;
    }
    let mut compressed = encoder.finish().ok()?;
    let length = u32::try_from(compressed.len() - HEADER).ok()?;
    compressed[1..HEADER].copy_from_slice(&length.to_be_bytes());
    (compressed.len() < HEADER + message.len()).then_some(compressed)
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use tonic_types::StatusExt as _;

    use super::*;

    fn message(bytes: &[u8]) -> Vec<u8> {
        [&[0], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    async fn compressed_message(bytes: &[u8]) -> Vec<u8> {
        compress(&message(bytes), 0).await.unwrap().to_vec()
    }

    /// The decompressed body of a request that arrives in pieces of this size.
    async fn read(body: &[u8], piece: usize, limit: usize) -> Result<Vec<u8>, Status> {
        let pieces: Vec<_> = body
            .chunks(piece)
            .map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let body = Body::new(StreamBody::new(futures_util::stream::iter(pieces)));
        let request = decompressed(http::Request::new(body), limit).into_body();
        Ok(request.collect().await?.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn messages_come_back_however_they_are_cut_and_mixed() {
        let large = b"account ".repeat(40_000);
        let wire = [
            compressed_message(&large).await,
            message(b"plain"),
            compressed_message(&[7; 100]).await,
        ]
        .concat();
        assert!(wire.len() < large.len() / 20, "{}", wire.len());
        let plain = [message(&large), message(b"plain"), message(&[7; 100])].concat();
        for piece in [1, 3, 7, 1000, usize::MAX] {
            assert_eq!(read(&wire, piece, large.len()).await.unwrap(), plain);
        }
    }

    #[tokio::test]
    async fn a_message_may_have_as_many_bytes_as_the_limit_and_no_more() {
        let wire = compressed_message(&[0; 10_000]).await;
        assert_eq!(read(&wire, 100, 10_000).await.unwrap().len(), HEADER + 10_000);
        let refused = |status: Status| {
            tonic_types::StatusExt::get_error_details(&status).error_info().unwrap().reason.clone()
        };
        assert_eq!(refused(read(&wire, 100, 9_999).await.unwrap_err()), "REQUEST_TOO_LARGE");
        // Refused for the length in its header, before it has arrived.
        assert_eq!(
            refused(read(&[1, 1, 0, 0, 0], 5, 9_999).await.unwrap_err()),
            "REQUEST_TOO_LARGE"
        );
        let mut damaged = wire.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let twice = {
            let (members, mut twice) = (wire[HEADER..].repeat(2), vec![1]);
            twice.extend(u32::try_from(members.len()).unwrap().to_be_bytes());
            [twice, members].concat()
        };
        for broken in [&wire[..last], &damaged, &twice, &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 3, 1, 2, 3]]
        {
            assert_eq!(
                refused(read(broken, 100, 10_000).await.unwrap_err()),
                "MALFORMED_REQUEST",
                "{broken:?}"
            );
        }
    }

    #[tokio::test]
    async fn only_what_is_large_and_becomes_smaller_is_compressed() {
        assert_eq!(compress(&message(&[0; 1000]), 1000).await, None);
        // xorshift
        let next = |x: &u64| {
            [(13, true), (7, false), (17, true)]
                .iter()
                .fold(*x, |x, (by, left)| x ^ if *left { x << by } else { x >> by })
        };
        let noise =
            std::iter::successors(Some(1_u64 << 40 | 1), |x| Some(next(x))).skip(20).take(5000);
        let noise: Vec<_> = noise.map(|x| x.to_be_bytes()[3]).collect();
        assert_eq!(compress(&message(&noise), 0).await, None);
        assert_eq!(compress(&message(&[0; 1000])[..900], 0).await, None, "part of a message");
        let frame = [message(&[0; 1000]), message(b"small"), message(&[1; 2000])].concat();
        let compressed = compressed(Body::new(Full::new(Bytes::from(frame.clone()))), 100)
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert!(compressed.len() < 200 && compressed.windows(5).any(|part| part == b"small"));
        assert_eq!(read(&compressed, 10, 2000).await.unwrap(), frame);
    }

    #[test]
    fn encodings_are_read_from_headers() {
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
        };
        let accepted = |value: &str| is_accepted(&headers(ACCEPT_ENCODING, value));
        assert!(
            accepted("identity, deflate, gzip") && accepted("gzip") && accepted("gzip,identity")
        );
        assert!(!accepted("identity") && !accepted("gzip2") && !is_accepted(&HeaderMap::new()));
        let compressed = |value: &str| is_compressed(&headers(ENCODING, value));
        assert!(
            compressed("gzip").unwrap()
                && !compressed("identity").unwrap()
                && !is_compressed(&HeaderMap::new()).unwrap()
        );
        for other in ["deflate", "zstd", "GZIP", "gzip,identity", ""] {
            let status = Status::from(compressed(other).unwrap_err());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.reason, "UNSUPPORTED_ENCODING");
            assert_eq!(info.metadata["encoding"], other);
            assert_eq!(status.metadata().get(ACCEPT_ENCODING).unwrap(), ACCEPTED);
        }
    }
}
