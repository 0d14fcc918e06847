//! An answer on its way to its peer: it goes in small pieces, and only for so long.
//!
//! HTTP/2 asks for the next piece of an answer when the peer has room for it. A peer that gives no
//! room would keep the answer, its memory and its permit for ever, and nothing that the answer
//! itself could do about it would ever be asked for. Therefore the task of each call has an alarm
//! ([`run`]) that the answer sets ([`Answer`]): when it goes off, the call is dropped, which frees
//! what it holds and resets its HTTP/2 stream. The other calls of the connection go on.

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

/// Largest piece in bytes, which is the largest frame that HTTP/2 sends unless told else. As much
/// of an answer, and what the peer has room for, may be left in the connection's queue when the
/// call has ended.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// When the call of this task is dropped; never while it is `None`.
    static ALARM: Cell<Option<Instant>>;
}

/// Carries out a call, the sending of its answer included, until it ends or its alarm goes off.
/// Tells which.
pub async fn run(call: impl Future<Output = ()>) -> Outcome {
    ALARM
        .scope(Cell::new(None), async {
            let mut call = pin!(call);
            // Registered with the clock only when a call that has an alarm must wait.
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
    /// By itself.
    Ended,
    /// Its peer did not read the answer in time.
    Unread,
}

/// How long a peer may take to read an answer.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// All of it must be read by then.
    Until(Instant),
    /// Each piece must be read within this time of when it is there. For answers that go on without
    /// end.
    ForEach(Duration),
}

/// The body of an answer, which sets the alarm of its task and holds `held` until it has been
/// handed over to HTTP/2.
#[derive(Debug)]
pub struct Answer<T> {
    body: Body,
    /// What of the body's last piece has not been sent yet.
    rest: Bytes,
    /// What follows the rest, if it is known already: an error, or trailers.
    next: Option<Result<Frame<Bytes>, Status>>,
    patience: Patience,
    /// What the answer holds until it is handed over.
    pub held: T,
}

impl<T> Answer<T> {
    /// An answer that its peer has to read with this patience.
    pub fn new(body: Body, patience: Patience, held: T) -> Self {
        Self { body, rest: Bytes::new(), next: None, patience, held }
    }

    /// Has what is there of the body made, which without this waits for a peer that reads, and
    /// tells its size in bytes.
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

    /// Compresses what [`Self::prepare`] has made, if it is larger than this; tells its new size if
    /// so.
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
            // While there is nothing to read yet, nobody is late.
            Patience::ForEach(time) => piece.is_ready().then(|| Instant::now() + time),
        };
        // Outside a task of a connection, as in a test of a service alone, there is no alarm to
        // set.
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
        // A peer without room: the answer is asked for its first piece and never again.
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
