//! Sends answers in small pieces, and only for a limited time.
//!
//! HTTP/2 polls the answer for its next piece when the peer has space for it. A peer that never has
//! space would keep the answer, its memory and its permit for ever, because nothing polls the
//! answer then. Therefore the task of each call has an alarm ([`run`]), which the answer sets
//! ([`Answer`]). When the alarm goes off, the call is dropped; this frees what it holds and resets
//! its HTTP/2 stream. The other calls of the connection go on.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt as _;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, body::Body};

use crate::gzip;

/// Largest piece in bytes: the largest frame that HTTP/2 sends by default. When a call has ended,
/// one piece and what the peer has space for may still be in the connection's queue.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// When the call of this task is dropped; `None` while there is no alarm.
    static ALARM: Cell<Option<Instant>>;
}

/// Runs a call, including the sending of its answer, until it ends or its alarm goes off. Returns
/// which.
pub async fn run(call: impl Future<Output = ()>) -> Outcome {
    ALARM
        .scope(Cell::new(None), async {
            let mut call = pin!(call);
            // Polled, and so registered with the timer, only when a call with an alarm has to wait.
            let mut alarm = pin!(sleep_until(Instant::now()));
            poll_fn(|cx| {
                if call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Outcome::Ended);
                }
                let Some(at) = ALARM.with(Cell::get) else { return Poll::Pending };
                if alarm.deadline() != at {
                    alarm.as_mut().reset(at);
                }
                alarm.as_mut().poll(cx).map(|()| Outcome::Unread)
            })
            .await
        })
        .await
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The call has ended by itself.
    Ended,
    /// The peer did not read the answer in time.
    Unread,
}

/// How long a peer may take to read an answer.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// The whole answer must be read by this time.
    Until(Instant),
    /// Each piece must be read within this time after it was offered. For answers that never end.
    ForEach(Duration),
}

/// The body of an answer. It sets the alarm of its task, and holds `held` until all of it has been
/// handed to HTTP/2.
#[derive(Debug)]
pub struct Answer<T> {
    body: Body,
    /// The rest of the body's last frame, which has not been sent yet.
    rest: Bytes,
    /// The frame after `rest`, if it is known already: an error, or trailers.
    next: Option<Result<Frame<Bytes>, Status>>,
    patience: Patience,
    /// Dropped when the answer has been handed over.
    pub held: T,
}

impl<T> Answer<T> {
    /// An answer that its peer must read with this patience.
    pub fn new(body: Body, patience: Patience, held: T) -> Self {
        Self { body, rest: Bytes::new(), next: None, patience, held }
    }

    /// Polls the body once before the peer asks for it, and returns the size in bytes of what it
    /// gave.
    pub fn prepare(&mut self) -> usize {
        if self.rest.is_empty() && !self.body.is_end_stream() {
            match self.body.frame().now_or_never() {
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => self.next = Some(Ok(trailers)),
                },
                Some(Some(Err(status))) => self.next = Some(Err(status)),
                Some(None) | None => {}
            }
        }
        self.rest.len()
    }

    /// Compresses what [`Self::prepare`] got if it is larger than `above`, and returns the new
    /// size.
    pub async fn compress(&mut self, above: usize) -> Option<usize> {
        self.rest = gzip::compress(&self.rest, above).await?;
        Some(self.rest.len())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            if let Some(next) = self.next.take() {
                return Poll::Ready(Some(next));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl<T: Unpin> http_body::Body for Answer<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let piece = self.poll_piece(cx);
        let alarm = match self.patience {
            Patience::Until(at) => Some(at),
            // While there is nothing to read, the peer cannot be late.
            Patience::ForEach(time) => piece.is_ready().then(|| Instant::now() + time),
        };
        // Outside a connection's task, as in a test of the service alone, there is no alarm to set.
        let _ = ALARM.try_with(|set| set.set(alarm));
        piece
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() && self.next.is_none() {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_sent_whole_and_in_pieces() {
        let sent: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let body = Body::new(http_body_util::Full::new(Bytes::from(sent.clone())));
        let mut answer = Answer::new(body, Patience::ForEach(Duration::from_secs(1)), ());
        let mut pieces = Vec::new();
        while let Some(frame) = answer.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(
            pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
            [PIECE, PIECE, 40_000 - 2 * PIECE]
        );
        assert_eq!(pieces.concat(), sent);
    }

    #[tokio::test]
    async fn a_call_is_dropped_when_its_answer_is_not_read_and_not_before() {
        // The peer has no space: the answer is polled for its first piece and never again.
        let unread = |patience| async move {
            let body = Body::new(http_body_util::Full::new(Bytes::from_static(b"answer")));
            let mut answer = Answer::new(body, patience, ());
            let _ = answer.frame().await;
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        let late = Duration::from_millis(50);
        assert_eq!(run(unread(Patience::ForEach(late))).await, Outcome::Unread);
        assert_eq!(run(unread(Patience::Until(began + 2 * late))).await, Outcome::Unread);
        assert!(began.elapsed() >= 2 * late);
        // Waiting for the next message of a watch is not the peer's fault.
        let waiting = async {
            let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()));
            let mut answer = Answer::new(body, Patience::ForEach(late), ());
            let _ = tokio::time::timeout(3 * late, answer.frame()).await;
        };
        assert_eq!(run(waiting).await, Outcome::Ended);
    }
}
