//! Streams that go on until somebody ends them: how many there may be, how long they last, and how
//! they end.
//!
//! The guard bounds a call until its answer begins; for what follows, a call that answers without
//! end asks here. It says so by [`Unending`] in its answer, and a shutdown then does not wait for a
//! peer that has stopped listening.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    caller::Caller,
    error::{Error, Refusal, Result},
    proto::ErrorReason,
    share::{Percent, Shares},
};

/// How long a client should wait before it watches again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// When the client wants its answer to have ended, if it has said so: put into the request by the
/// guard.
#[derive(Debug, Clone, Copy)]
pub struct ClientDeadline(pub Instant);

/// In the extensions of an answer: it ends only when somebody ends it.
#[derive(Debug, Clone, Copy)]
pub struct Unending;

/// The room for such streams, and their end. Clones share it.
#[derive(Debug, Clone)]
pub struct Streams {
    room: Arc<Semaphore>,
    /// How many streams each tenant may have at once.
    shares: Shares,
    size: u32,
    max_age: Duration,
    draining: CancellationToken,
}

impl Streams {
    /// Room for `size` streams of at most `max_age`, of which one tenant may have `share`. All end
    /// when `draining` is cancelled.
    pub fn new(size: u32, share: Percent, max_age: Duration, draining: CancellationToken) -> Self {
        let shares = Shares::new(size as usize, share);
        Self { room: Arc::new(Semaphore::new(size as usize)), shares, size, max_age, draining }
    }

    /// A place for one more stream of the caller's tenant, if there is room; for no longer than the
    /// caller's credentials are good and the connection takes calls, which it does until `retiring`
    /// is cancelled.
    pub fn enter(
        &self,
        caller: &Caller,
        deadline: Option<ClientDeadline>,
        retiring: CancellationToken,
    ) -> Result<Place> {
        let share = self.shares.try_take(&caller.tenant, 1).ok_or(Error::Overloaded)?;
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Error::Overloaded)?;
        let left =
            |expires: SystemTime| expires.duration_since(SystemTime::now()).unwrap_or_default();
        let ends = Instant::now() + caller.expires.map_or(self.max_age, left).min(self.max_age);
        Ok(Place {
            _share: share,
            _room: room,
            ends,
            deadline: deadline.map(|deadline| deadline.0),
            draining: self.draining.clone(),
            retiring,
        })
    }

    /// Waits until no stream is left, at most so long: one that its peer does not read never
    /// notices its end.
    pub async fn ended(&self, limit: Duration) {
        let all = timeout(limit, self.room.acquire_many(self.size)).await;
        if all.is_err() {
            tracing::info!("streams that nobody reads are cut off");
        }
    }
}

/// The place of one stream; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _share: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
    ends: Instant,
    deadline: Option<Instant>,
    draining: CancellationToken,
    retiring: CancellationToken,
}

/// The watch has lasted long enough, or the service shuts down.
fn watch_ended() -> Error {
    let message = "the watch has ended, as every watch does: watch again from the last cursor";
    Refusal::new(ErrorReason::WatchEnded, message).retry_after(RETRY_AFTER).into()
}

impl Place {
    /// Waits until the stream must end, and says why.
    pub async fn over(&self) -> Error {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = deadline => Error::DeadlineExceeded,
            () = self.draining.cancelled() => watch_ended(),
            () = self.retiring.cancelled() => watch_ended(),
            () = sleep_until(self.ends) => watch_ended(),
        }
    }
}
