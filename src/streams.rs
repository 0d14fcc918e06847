//! Answers that are streams: watches, which have no end, and imports and exports, which last as long
//! as their data. How many there may be, how long they last, and what ends them.
//!
//! The guard limits a call until its answer begins. A call whose answer never ends by itself takes
//! a [`StreamPermit`] here. It marks its answer as [`Unending`], so that a shutdown does not wait
//! for a peer that no longer reads.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    caller::Caller,
    error::{Error, Refusal, Result},
    proto::ErrorReason,
    share::{Percent, Shares},
    telemetry::metrics::{self, Level},
};

/// How long a client should wait before it opens its stream again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a stream retries a read while the database is unavailable or busy, and the pause between
/// two tries.
const MAX_OUTAGE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The deadline that the client itself set, if it did. The guard puts it into the request's
/// extensions.
#[derive(Debug, Clone, Copy)]
pub struct ClientDeadline(pub Instant);

/// In the extensions of an answer that does not end by itself.
#[derive(Debug, Clone, Copy)]
pub struct Unending;

/// What streams are for.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Watches of the feed.
    Watch,
    /// Imports and exports.
    Transfer,
}

impl Kind {
    /// The option that says how many there may be.
    const fn option(self) -> &'static str {
        match self {
            Self::Watch => "max_watches",
            Self::Transfer => "max_transfers",
        }
    }

    /// How many are open, and how many there may be.
    const fn metrics(self) -> (&'static Level, &'static Level) {
        match self {
            Self::Watch => (&metrics::WATCHES_OPEN, &metrics::WATCHES_MAX),
            Self::Transfer => (&metrics::TRANSFERS_OPEN, &metrics::TRANSFERS_MAX),
        }
    }

    /// The error of a stream that ends because its time is over.
    fn ended(self) -> Error {
        match self {
            Self::Watch => watch_ended(),
            Self::Transfer => transfer_ended(),
        }
    }
}

/// The permits for such streams. Clones share them.
#[derive(Debug, Clone)]
pub struct Streams {
    kind: Kind,
    permits: Arc<Semaphore>,
    /// The part of the permits that each tenant may hold.
    shares: Shares,
    size: u32,
    max_age: Duration,
    draining: CancellationToken,
}

impl Streams {
    /// Permits for `size` streams of at most `max_age`, of which one tenant may hold `share`. All
    /// streams end when `draining` is cancelled. Exports how many are open.
    pub fn new(
        kind: Kind,
        size: u32,
        share: Percent,
        max_age: Duration,
        draining: CancellationToken,
    ) -> Self {
        let most = size as usize;
        let permits = Arc::new(Semaphore::new(most));
        let observed = Arc::clone(&permits);
        let (open, max) = kind.metrics();
        open.observe(move || most.saturating_sub(observed.available_permits()));
        max.observe(move || most);
        Self { kind, permits, shares: Shares::new(most, share), size, max_age, draining }
    }

    /// Takes a permit for one more stream of the caller's tenant. The stream ends when the caller's
    /// credentials expire, when `deadline` passes, and when its connection takes no further calls,
    /// which cancels `retiring`.
    pub fn enter(
        &self,
        caller: &Caller,
        deadline: Option<ClientDeadline>,
        retiring: CancellationToken,
    ) -> Result<StreamPermit> {
        let share = self.shares.try_take(&caller.tenant, 1);
        let share = share.ok_or_else(|| Error::overloaded("tenant_share"))?;
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| Error::overloaded(self.kind.option()))?;
        let left =
            |expires: SystemTime| expires.duration_since(SystemTime::now()).unwrap_or_default();
        let ends = Instant::now() + caller.expires.map_or(self.max_age, left).min(self.max_age);
        Ok(StreamPermit {
            _share: share,
            _permit: permit,
            ends,
            deadline: deadline.map(|deadline| deadline.0),
            draining: self.draining.clone(),
            retiring,
            kind: self.kind,
        })
    }

    /// Waits until no stream is left, but at most `limit`: a stream whose peer does not read is
    /// never polled, so it does not notice its end.
    pub async fn ended(&self, limit: Duration) {
        let all = timeout(limit, self.permits.acquire_many(self.size)).await;
        if all.is_err() {
            tracing::info!(
                "some streams did not end because their peers do not read; they are cut off"
            );
        }
    }
}

/// The permit of one stream; given back when dropped.
#[derive(Debug)]
pub struct StreamPermit {
    _share: OwnedSemaphorePermit,
    _permit: OwnedSemaphorePermit,
    ends: Instant,
    deadline: Option<Instant>,
    draining: CancellationToken,
    retiring: CancellationToken,
    kind: Kind,
}

/// The watch has lasted for its maximum time, or the service shuts down.
fn watch_ended() -> Error {
    let message = "the watch has ended, as every watch does: watch again from the last cursor";
    Refusal::new(ErrorReason::WatchEnded, message).retry_after(RETRY_AFTER).into()
}

/// The import or export has lasted for its maximum time, its client has sent nothing for too long,
/// or the service shuts down.
pub fn transfer_ended() -> Error {
    let message = "the stream has ended, as every stream does: import the batches behind the last \
                   answered one, or export from the last cursor";
    Refusal::new(ErrorReason::StreamEnded, message).retry_after(RETRY_AFTER).into()
}

/// Runs a read of a stream, and runs it again for a while if the database does not answer.
pub async fn patiently<T, F>(read: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let patience = Instant::now() + MAX_OUTAGE;
    loop {
        match read().await {
            Err(
                Error::DatabaseUnavailable
                | Error::Overloaded
                | Error::DeadlineExceeded
                | Error::Retry,
            ) => {
                if Instant::now() > patience {
                    return Err(Error::DatabaseUnavailable);
                }
                sleep(RETRY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

impl StreamPermit {
    /// The deadline of a step of the stream that may take `limit`. The deadline that the client set
    /// for the stream may be earlier.
    pub fn deadline_of_step(&self, limit: Duration) -> Instant {
        let step = Instant::now() + limit;
        self.deadline.map_or(step, |deadline| deadline.min(step))
    }

    /// Waits until the stream must end, and returns why.
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
            () = self.draining.cancelled() => self.kind.ended(),
            () = self.retiring.cancelled() => self.kind.ended(),
            () = sleep_until(self.ends) => self.kind.ended(),
        }
    }
}
