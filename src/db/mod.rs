//! The database: every slice reaches it through [`Db::read`] and [`Db::write`], one transaction a
//! call.
//!
//! A transaction belongs to one tenant and one call. Its first flight has BEGIN, the role, the
//! tenant, the timeouts, the query for the tenant row, and the first query of the call. The tenant
//! row says whether the call's module is on (the *gate*); if it is off, the transaction returns
//! nothing and keeps nothing. [`Db::write`] does once for all calls what each call could forget:
//! the replay of request ids, `validate_only`, the activity trail, and the retry of lost races.

mod clock;
mod connect;
#[cfg(feature = "embedded")]
pub mod embedded;
mod hot;
mod lane;
pub mod migrate;
mod notifier;
mod order;
mod owner;
mod pool;
pub mod prune;
mod reach;
pub(crate) mod refusals;
mod replay;
mod sqlstate;
mod statements;
mod tenant;
mod trail;
pub mod transfer;
mod tx;
mod verify;

use std::{future::Future, time::Duration};

use diesel_async::RunQueryDsl as _;
use prost::Message;
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use self::{
    clock::Clock,
    connect::{Login, TlsFault, UrlError, login},
    hot::{Found, Key, Question},
    migrate::is_passing,
    notifier::Listener,
    owner::Owner,
    pool::{Bounds, ConnectError, Manager},
    reach::Condition,
    replay::Meta,
    tenant::{Settings, Tenant},
    trail::{AccountRef, BelongsTo, Recorded, instant, moment},
    tx::{Tx, WriteTx, taken},
};
use self::{hot::Lanes, notifier::ChangeNotifier, pool::Lease};
use crate::{
    caller::{Caller, Reach},
    error::{Error, Result},
    share::{Percent, Shares},
    telemetry::{Operation, PoolState, Waiting},
};

/// The mode of a transaction that only reads.
const READ: &str = "ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// The mode of a transaction that changes something. It names the isolation level because the
/// default of the session can be another one.
const WRITE: &str = "ISOLATION LEVEL READ COMMITTED";
/// [`READ`], with each query planned for its own values.
const LIST: &str =
    "ISOLATION LEVEL REPEATABLE READ READ ONLY;SET LOCAL plan_cache_mode=force_custom_plan";
/// Most retries of a transaction that lost a race.
const RETRIES: u32 = 3;
/// Pause before the first retry. Each further pause is twice as long, and a random part of up to
/// the same length is added.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

diesel::define_sql_function! {
    /// The value of a setting.
    fn current_setting(name: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

/// A request that changes something; implemented by build.rs for every message with `request_id`
/// and `validate_only`.
pub trait Change: Message + Sized {
    /// The id the client chose for the request, or empty.
    fn request_id(&self) -> &str;
    /// Whether to run everything and keep nothing (AIP-163).
    fn validate_only(&self) -> bool;
    /// A copy of the request without `validate_only`: the request that it validates.
    #[must_use]
    fn for_real(&self) -> Self;
}

/// An async closure over a transaction, whose future can be sent between threads and which can be
/// run again.
///
/// `AsyncFn` alone cannot say that its future is `Send`; the second bound gives the future a name
/// to say it of.
pub trait Work<T, R>: AsyncFn(T) -> R + Fn(T) -> <Self as Work<T, R>>::Future {
    /// What the closure returns.
    type Future: Future<Output = R>;
}

impl<F, T, Fut, R> Work<T, R> for F
where
    F: AsyncFn(T) -> R + Fn(T) -> Fut,
    Fut: Future<Output = R>,
{
    type Future = Fut;
}

/// The database.
#[derive(Debug, Clone)]
pub struct Db {
    pool: bb8::Pool<Manager>,
    /// Most connections of the pool.
    size: u32,
    manager: Manager,
    /// Longest wait for a connection.
    wait: Duration,
    /// Notified after every commit.
    changes: ChangeNotifier,
    /// How many connections each tenant may hold at once.
    shares: Shares,
    /// Set by tests only.
    clock: Clock,
    /// The connections of hot reads; `None` makes them reads like others.
    lanes: Option<Lanes>,
}

impl Db {
    /// A pool of at most `size` connections, none of which is made yet. A single tenant may hold
    /// all of them.
    pub fn new(
        manager: Manager,
        size: u32,
        wait: Duration,
        max_lifetime: Option<Duration>,
    ) -> Self {
        let pool = bb8::Pool::builder()
            .max_size(size)
            .connection_timeout(wait)
            .idle_timeout(None)
            .max_lifetime(max_lifetime)
            .error_sink(Box::new(LogErrors))
            .build_unchecked(manager.clone());
        let shares = Shares::new(size as usize, Percent::ALL);
        Self {
            pool,
            manager,
            size,
            wait,
            changes: ChangeNotifier::default(),
            shares,
            clock: Clock::default(),
            lanes: None,
        }
    }

    /// Limits how much of the pool the calls of one tenant may hold at once, so that slow calls of
    /// one tenant leave connections for the others.
    #[must_use]
    pub fn with_tenant_share(self, percent: Percent) -> Self {
        Self { shares: Shares::new(self.size as usize, percent), ..self }
    }

    /// Makes hot reads through connections of their own, at most `lanes`; with 0 they are reads
    /// like others. A connection is replaced at the age of `max_lifetime`.
    #[must_use]
    pub fn with_lanes(self, lanes: usize, max_lifetime: Option<Duration>) -> Self {
        let lanes = (lanes > 0).then(|| Lanes::new(self.manager.clone(), lanes, max_lifetime));
        Self { lanes, ..self }
    }

    /// Lets a test set the time of transactions.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Runs `work` in a read-only transaction that sees one moment of the tenant's data.
    ///
    /// The transaction is ended in the background: nothing is left to wait for once the work is
    /// done.
    pub async fn read<R, F>(&self, caller: &Caller, work: F) -> Result<R>
    where
        for<'t> F: AsyncFn(&'t Tx) -> Result<R> + Work<&'t Tx, Result<R>, Future: Send>,
    {
        self.read_in(READ, caller, work).await
    }

    /// Asks a hot question, together with others that arrive meanwhile. Returns `None` if the
    /// caller has to ask by [`Db::read`]: if there is no row, the caller's reach is limited, the
    /// module is off for some organization, or no connection could answer.
    pub async fn find<R>(
        &self,
        caller: &Caller,
        question: &'static Question<R>,
        key: &[&str],
    ) -> Result<Option<Found<R>>> {
        match &self.lanes {
            Some(lanes) if caller.reach == Reach::Tenant => {
                lanes.find(caller, self.clock.of(&caller.tenant), question, key).await
            }
            _ => Ok(None),
        }
    }

    /// [`Db::read`] for a list with filters: PostgreSQL plans each query for its own values. The
    /// best plan of a list depends on whether a filter leaves few rows or many, which the generic
    /// plan of a prepared statement cannot tell.
    pub async fn list<R, F>(&self, caller: &Caller, work: F) -> Result<R>
    where
        for<'t> F: AsyncFn(&'t Tx) -> Result<R> + Work<&'t Tx, Result<R>, Future: Send>,
    {
        self.read_in(LIST, caller, work).await
    }

    async fn read_in<R, F>(&self, mode: &str, caller: &Caller, work: F) -> Result<R>
    where
        for<'t> F: AsyncFn(&'t Tx) -> Result<R> + Work<&'t Tx, Result<R>, Future: Send>,
    {
        let mut tx = self.begin(caller).await?;
        let operation = Operation::begin(if mode == LIST { "LIST" } else { "READ" });
        let done = async {
            tx.load_reach_roots(caller).await?;
            work(&tx).await
        };
        // Polled in this order, so sent in this order: nothing may go before BEGIN.
        let (begun, open, mut done) = tokio::join!(biased; tx.begin(mode, caller), tx.gate(), done);
        if begun.is_ok() && open.is_ok() && tx.assumed_on_wrongly() {
            done = work(&tx).await;
        }
        tx.settled();
        let done = verdict(begun, open, done);
        operation.end(done.as_ref().err().and_then(fault));
        match done {
            // The transaction itself is read-only, so the error does not mean that the server is.
            Err(Error::DatabaseReadOnly) => {
                Err(Error::internal("a change in a transaction that only reads"))
            }
            Err(error) => {
                tx.close_after(&error);
                Err(error)
            }
            answer => answer,
        }
    }

    /// Runs `work` in a transaction and commits it, or keeps nothing if the request only wants to
    /// be validated.
    ///
    /// The work is run again, at most three times, when it loses a race against other transactions;
    /// it must not have effects outside its transaction. A repeated `request_id` gets the first
    /// answer without running the work.
    pub async fn write<R, F>(&self, caller: &Caller, meta: &Meta, work: F) -> Result<R>
    where
        R: Message + Default,
        for<'t> F:
            AsyncFn(&'t WriteTx) -> Result<R> + Work<&'t WriteTx, Result<R>, Future: Send> + Sync,
    {
        let mut pause = RETRY_PAUSE;
        for _ in 0..RETRIES {
            match self.attempt(caller, meta, &work).await {
                Err(Error::Retry) => {}
                Err(Error::OutcomeUnknown { .. }) if !meta.request_id.is_empty() => {
                    return self.find_out(caller, meta, &work).await;
                }
                answer => return answer,
            }
            let spread = uuid::Uuid::now_v7().as_u128() % pause.as_micros();
            sleep(pause + Duration::from_micros(u64::try_from(spread).unwrap_or_default())).await;
            pause *= 2;
        }
        match self.attempt(caller, meta, &work).await {
            Err(Error::Retry) => Err(Error::Conflict),
            Err(Error::OutcomeUnknown { .. }) if !meta.request_id.is_empty() => {
                self.find_out(caller, meta, &work).await
            }
            answer => answer,
        }
    }

    /// Runs a change once more whose COMMIT was not answered. If it was committed, the `request_id`
    /// finds the first answer.
    async fn find_out<R, F>(&self, caller: &Caller, meta: &Meta, work: &F) -> Result<R>
    where
        R: Message + Default,
        for<'t> F:
            AsyncFn(&'t WriteTx) -> Result<R> + Work<&'t WriteTx, Result<R>, Future: Send> + Sync,
    {
        match self.attempt(caller, meta, work).await {
            Err(error) if error.says_nothing() => Err(Error::OutcomeUnknown { repeatable: true }),
            answer => answer,
        }
    }

    async fn attempt<R, F>(&self, caller: &Caller, meta: &Meta, work: &F) -> Result<R>
    where
        R: Message + Default,
        for<'t> F:
            AsyncFn(&'t WriteTx) -> Result<R> + Work<&'t WriteTx, Result<R>, Future: Send> + Sync,
    {
        let mut tx = WriteTx::new(self.begin(caller).await?);
        let operation = Operation::begin("WRITE");
        let answer = async {
            tx.load_reach_roots(caller).await?;
            if let Some(first) = meta.first_answer(&tx).await? {
                let first = R::decode(&*first);
                let first = first.map_err(|error| Error::internal(format!("kept answer: {error}")));
                return Ok(Answer::First(first?));
            }
            Ok(Answer::New(work(&tx).await?))
        };
        let (begun, open, answer) =
            tokio::join!(biased; tx.begin(WRITE, caller), tx.gate(), answer);
        tx.settled();
        let done = match verdict(begun, open, answer) {
            Ok(Answer::First(answer)) => Ok(answer),
            Ok(Answer::New(answer)) => {
                // Boxed, because it would make the future of each call larger.
                let finished = Box::pin(tx.finish(caller, meta, answer.encode_to_vec())).await;
                // Also if it is unknown whether it committed: a listener that finds nothing new
                // loses nothing.
                self.changes.notify(&caller.tenant);
                finished.map(|()| answer)
            }
            Err(error) => {
                tx.close_after(&error);
                Err(error)
            }
        };
        operation.end(done.as_ref().err().and_then(fault));
        done
    }

    /// Subscribes to the commits of the caller's tenant that this value and its clones make from
    /// now on. Commits of other processes do not notify.
    pub fn listen(&self, caller: &Caller) -> Listener {
        self.changes.subscribe(&caller.tenant)
    }

    /// Whether the database answers within `limit` and takes writes. A pool whose connections are
    /// all in use counts as an answer.
    pub async fn ping(&self, limit: Duration) -> Result<()> {
        let ping = async {
            match self.pool.get().await {
                Ok(conn) => {
                    let read_only: String =
                        diesel::select(current_setting("transaction_read_only"))
                            .get_result(&mut conn.pg())
                            .await?;
                    if read_only == "off" {
                        return Ok(());
                    }
                    conn.retire_all();
                    Err(Error::DatabaseReadOnly)
                }
                Err(_) if self.pool.state().connections > 0 => Ok(()),
                Err(_) => Err(Error::DatabaseUnavailable),
            }
        };
        // Longer than the pool waits, so that its answer is heard.
        timeout(limit + self.wait, ping).await.map_err(|_| Error::DatabaseUnavailable)?
    }

    /// How the pools of connections are used: that of transactions, and that of hot reads.
    pub fn pools(&self) -> Vec<PoolState> {
        let state = self.pool.state();
        let pool = PoolState {
            name: pool::NAME,
            connections: state.connections as usize,
            idle: state.idle_connections as usize,
            max: self.size as usize,
            pending: None,
        };
        [pool].into_iter().chain(self.lanes.as_ref().map(Lanes::pool)).collect()
    }

    async fn begin(&self, caller: &Caller) -> Result<Tx> {
        Ok(Tx::new(self.lease(caller).await?, caller, self.clock.of(&caller.tenant)))
    }

    async fn lease(&self, caller: &Caller) -> Result<Lease> {
        let left = caller.deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + left.min(self.wait);
        let waiting = Waiting::begin();
        // If the pool has as many connections as it may have, the call waits for other calls. If it
        // has fewer, the server does not accept another connection.
        let most = match timeout_at(until, self.shares.take(&caller.tenant)).await {
            Ok(share) => match timeout_at(until, self.pool.get_owned()).await {
                Ok(Ok(conn)) => return Ok(Lease::new(conn, share)),
                _ => self.size as usize,
            },
            Err(_) => self.shares.size(),
        };
        waiting.count_timeout();
        if left < self.wait {
            Err(Error::DeadlineExceeded)
        } else if self.pool.state().connections as usize >= most {
            Err(Error::overloaded("pool_wait"))
        } else {
            Err(Error::DatabaseUnavailable)
        }
    }
}

/// The kind of fault that ended a transaction, for the metric; `None` for a refusal.
const fn fault(error: &Error) -> Option<&'static str> {
    match error {
        Error::Retry => Some("lost_race"),
        Error::Locked => Some("lock_timeout"),
        Error::DeadlineExceeded => Some("deadline_exceeded"),
        Error::DatabaseUnavailable => Some("unavailable"),
        Error::DatabaseReadOnly => Some("read_only"),
        Error::OutcomeUnknown { .. } => Some("outcome_unknown"),
        Error::Internal { .. } => Some("internal"),
        _ => None,
    }
}

/// The answer of a change.
enum Answer<R> {
    /// The first answer to a repeated request.
    First(R),
    /// That of a change that has just been made.
    New(R),
}

/// The outcome of a transaction whose three parts were sent in one flight. `Retry` of the gate can
/// mean that the transaction had failed already; then the error of the work says why.
fn verdict<R>(begun: Result<()>, open: Result<()>, done: Result<R>) -> Result<R> {
    begun?;
    match (open, done) {
        (Err(Error::Retry), Err(cause)) => Err(cause),
        (open, done) => open.and(done),
    }
}

#[derive(Debug, Clone, Copy)]
struct LogErrors;

impl bb8::ErrorSink<ConnectError> for LogErrors {
    fn sink(&self, error: ConnectError) {
        tracing::warn!(%error, "database connection");
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<ConnectError>> {
        Box::new(*self)
    }
}
