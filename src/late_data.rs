//! The data of a request that arrive after its answer.
//!
//! A call can be refused by its headers alone, while its data are on their way: a proxy sends both
//! apart. Data that come for a stream that nobody reads any more count as faults of the peer, and a
//! connection with too many of them is closed (`LOCAL_RESETS` in `transport`), with all its other
//! calls, although its peer did nothing wrong. So the data are read and dropped, within limits.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::{runtime::Handle, time::timeout};

/// How long data are awaited after the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes that are read after the answer: a message of the usual limit of 1 MiB and its frames.
const MAX_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// The body of a request, which is read to its end even if its call ends earlier.
pub struct ReadToEnd(Option<Incoming>);

impl ReadToEnd {
    /// Wraps a body.
    pub const fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for ReadToEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream())
            && let Ok(runtime) = Handle::try_current()
        {
            #[expect(clippy::disallowed_methods, reason = "the call has been answered")]
            runtime.spawn(timeout(PATIENCE, read(body)));
        }
    }
}

/// Reads and drops the data of a body.
async fn read(mut body: Incoming) {
    let mut bytes = 0;
    while bytes < MAX_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
