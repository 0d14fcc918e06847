//! One watch: it reads the feed on when there may be news, and says where it stands when there are
//! none for a while.
//!
//! It holds no connection while it waits, and reads the next batch only when the client has taken
//! the one before.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::{
    store::{Activity, Moment, Position, Step, Watched},
    wire::{self, Start},
};
use crate::{
    caller::Caller,
    db::{Db, Listener},
    error::{Error, Result},
    page::Binding,
    proto::{self, WatchActivitiesResponse},
    streams::StreamPermit,
    telemetry,
};

/// Least time between two looks at a feed that was read to its end: under a stream of changes, a
/// watch takes those of so long at once.
const BREATH: Duration = Duration::from_millis(50);
/// Time that one look may take.
const LOOK: Duration = Duration::from_secs(5);
/// How long a watch waits for a database that is away or busy, and how often it tries.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How often a watch does what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Looks for what other processes have changed.
    pub poll: Duration,
    /// Says where it stands.
    pub checkpoint: Duration,
}

/// A watch under way.
#[derive(Debug)]
pub struct Watch {
    place: StreamPermit,
    feed: Feed,
}

/// The feed as far as the watch has read it.
#[derive(Debug)]
struct Feed {
    db: Db,
    caller: Caller,
    pace: Pace,
    bell: Listener,
    watched: Watched,
    binding: Binding,
    position: Position,
    /// Whether more is known to lie ahead.
    more: bool,
    /// When it was last looked at.
    looked: Option<Instant>,
    /// When the client is to hear at the latest.
    due: Instant,
}

impl Watch {
    /// Begins at the cursor, or at the end of the feed. A cursor that has expired is refused here.
    pub async fn open(
        db: Db,
        caller: Caller,
        start: Start,
        pace: Pace,
        room: StreamPermit,
    ) -> Result<Self> {
        // Before the end of the feed is looked for, so that nothing behind it goes unheard.
        let bell = db.listen(&caller);
        let moment = db.read(&caller, async |tx| Moment::now(tx).await).await?;
        let position = start.position.unwrap_or_else(|| moment.end());
        moment.require(position)?;
        let Start { watched, binding, .. } = start;
        let feed = Feed {
            db,
            caller,
            pace,
            bell,
            watched,
            binding,
            position,
            more: true,
            looked: None,
            due: Instant::now(),
        };
        Ok(Self { place: room, feed })
    }

    /// Its messages, and the error that it ends with.
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
            why = self.place.over() => {
                telemetry::set_planned_end();
                Err(why)
            }
            message = self.feed.next() => message,
        }
    }
}

impl Feed {
    /// The next message: activities, or a checkpoint when it is due.
    async fn next(&mut self) -> Result<WatchActivitiesResponse> {
        loop {
            self.wait().await;
            let step = self.look().await?;
            (self.position, self.more) = (step.position, step.more);
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

    /// Waits until there may be news.
    async fn wait(&mut self) {
        let Some(looked) = self.looked.filter(|_| !self.more) else { return };
        sleep_until(looked + BREATH).await;
        tokio::select! {
            () = self.bell.changed() => {}
            () = sleep_until((looked + self.pace.poll).min(self.due)) => {}
        }
    }

    /// Looks at the feed, and for a while again if the database does not answer.
    async fn look(&mut self) -> Result<Step> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let now = Instant::now();
            self.looked = Some(now);
            let caller = Caller { deadline: now + LOOK, ..self.caller.clone() };
            match self
                .db
                .list(&caller, async |tx| Activity::follow(tx, &self.watched, self.position).await)
                .await
            {
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
                step => return step,
            }
        }
    }
}
