//! One watch: it reads the feed when there may be new activities, and sends a checkpoint when there
//! have been none for a while.
//!
//! It holds no connection while it waits, and reads the next batch only after the client has
//! received the one before.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::{
    Lag,
    store::{Activity, Moment, Position, Step, Watched},
    wire::{self, Start},
};
use crate::{
    caller::Caller,
    db::{Db, Listener},
    error::Result,
    page::Binding,
    proto::{self, WatchActivitiesResponse},
    streams::{StreamPermit, patiently},
    telemetry,
};

/// Least time between two reads of a feed that was read to its end: while changes arrive steadily,
/// a watch sends those of this time together.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Time that one read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a watch polls and sends checkpoints.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between two polls for changes of other processes.
    pub poll: Duration,
    /// Time after which a watch without new activities sends a checkpoint.
    pub checkpoint: Duration,
}

/// An open watch.
#[derive(Debug)]
pub struct Watch {
    permit: StreamPermit,
    feed: Feed,
}

/// The feed, read up to a position.
#[derive(Debug)]
struct Feed {
    db: Db,
    caller: Caller,
    pace: Pace,
    lag: Lag,
    changes: Listener,
    watched: Watched,
    binding: Binding,
    position: Position,
    /// Whether the feed may continue beyond the position.
    more: bool,
    /// When the feed was last read.
    last_read: Option<Instant>,
    /// When the next message must be sent at the latest.
    due: Instant,
}

impl Watch {
    /// Opens a watch at the cursor, or at the end of the feed. Fails if the cursor has expired.
    pub async fn open(
        (db, pace, lag): (Db, Pace, Lag),
        caller: Caller,
        start: Start,
        permit: StreamPermit,
    ) -> Result<Self> {
        // Subscribes before reading the end of the feed, so that no change after that end is
        // missed.
        let changes = db.listen(&caller);
        let moment = db.read(&caller, async |tx| Moment::now(tx).await).await?;
        let position = start.position.unwrap_or_else(|| moment.end());
        moment.require(position)?;
        let Start { watched, binding, .. } = start;
        let feed = Feed {
            db,
            caller,
            pace,
            lag,
            changes,
            watched,
            binding,
            position,
            more: true,
            last_read: None,
            due: Instant::now(),
        };
        Ok(Self { permit, feed })
    }

    /// The messages of the watch, and the error that ends it.
    pub fn stream(self) -> impl Stream<Item = Result<WatchActivitiesResponse, Status>> + Send {
        stream::unfold(Some(self), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(message) => Some((Ok(message), Some(watch))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<WatchActivitiesResponse> {
        tokio::select! {
            biased;
            why = self.permit.over() => {
                telemetry::set_planned_end();
                Err(why)
            }
            message = self.feed.next() => message,
        }
    }
}

impl Feed {
    /// Returns the next message: activities, or a checkpoint when it is due.
    async fn next(&mut self) -> Result<WatchActivitiesResponse> {
        loop {
            self.wait().await;
            let step = self.read().await?;
            (self.position, self.more) = (step.position, step.more);
            self.lag.note(step.held_by);
            let activities: Vec<_> =
                step.activities.into_iter().map(proto::Activity::from).collect();
            let now = Instant::now();
            if !activities.is_empty() || now >= self.due {
                self.due = now + self.pace.checkpoint;
                return Ok(WatchActivitiesResponse {
                    activities,
                    cursor: wire::cursor(&self.binding, self.position),
                });
            }
        }
    }

    /// Waits until there may be new activities.
    async fn wait(&mut self) {
        let Some(last_read) = self.last_read.filter(|_| !self.more) else { return };
        sleep_until(last_read + MIN_PAUSE).await;
        tokio::select! {
            () = self.changes.changed() => {}
            () = sleep_until((last_read + self.pace.poll).min(self.due)) => {}
        }
    }

    /// Reads the feed. Retries for a while if the database does not answer.
    async fn read(&mut self) -> Result<Step> {
        self.last_read = Some(Instant::now());
        let Self { db, caller, watched, position, .. } = self;
        let position = *position;
        patiently(|| async {
            let caller = Caller { deadline: Instant::now() + READ_TIMEOUT, ..caller.clone() };
            db.list(&caller, async |tx| Activity::follow(tx, watched, position).await).await
        })
        .await
    }
}
