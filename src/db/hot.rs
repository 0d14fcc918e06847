//! Hot reads: questions by id that are asked so often that a transaction for each costs more than
//! its rows. While a connection is under way, the questions that arrive gather, and go as one
//! flight ([`super::lane`]) when it is back. If a connection is idle, a question goes alone and at
//! once: nothing waits for a time.
//!
//! A flight has role and bounds first, then for each of its tenants the tenant, the tenant row, and
//! what is asked. Row-level security holds as in every transaction. In addition each row's
//! `tenant_id`, its first column, is compared with the tenant that asked.
//!
//! A hot read never fails where `Db::read` would not: whatever cannot be answered here (no
//! connection yet, a flight that fails, no row) is asked there. Tenant row and rows are read by two
//! statements of one transaction at READ COMMITTED: a module that is switched off between them
//! counts from the next call on.

mod flight;
mod queue;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    QueryResult,
    connection::{InstrumentationEvent, get_default_instrumentation},
    debug_query,
    deserialize::FromSqlRow,
    pg::Pg,
    query_builder::{Query, QueryFragment},
    result::Error as DieselError,
};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use self::{
    flight::{Answer, Ask, Asked, Flight, Opening},
    queue::{Queue, Waiting},
};
use super::{
    lane::{self, Lane, Lost, RawRow, Statement},
    pool::{GRACE, Manager},
    tenant::{TENANT, Tenant},
};
use crate::{
    caller::Caller,
    error::{Error, Result},
    telemetry::{self, Operation, PoolState, metrics::FLIGHT_SIZE},
};

/// What the connections are called in metrics.
const NAME: &str = "read_lanes";
/// How long a connection may take to open, and the pause after one that could not be opened.
const OPENING: Duration = Duration::from_secs(1);

/// What the values of a key are, in the order of the columns behind `tenant_id`.
pub type Key = Vec<String>;

/// A question by id. Each row of its statement begins with `tenant_id` and the columns of the key.
pub struct Question<R: 'static> {
    /// Most keys of a statement.
    keys: usize,
    /// Makes the statement for keys of one tenant, by [`Question::statement`].
    ask: fn(&Self, &str, &[Key]) -> QueryResult<Statement>,
    known: OnceLock<Known<R>>,
}

/// The SQL of a question and the function that reads its rows: one for all its statements.
struct Known<R> {
    sql: Arc<str>,
    read: fn(&RawRow) -> QueryResult<R>,
}

impl<R> Question<R> {
    /// A question whose statements have at most so many keys.
    pub const fn new(keys: usize, ask: fn(&Self, &str, &[Key]) -> QueryResult<Statement>) -> Self {
        Self { keys, ask, known: OnceLock::new() }
    }

    /// The statement of a Diesel query. The query may differ in its values only.
    pub fn statement<Q>(&self, query: &Q) -> QueryResult<Statement>
    where
        Q: Query + QueryFragment<Pg>,
        R: FromSqlRow<Q::SqlType, Pg>,
    {
        let known = if let Some(known) = self.known.get() {
            known
        } else {
            // A process-wide instrumentation, such as that of the tests, gets each statement once.
            if let Some(mut watcher) = get_default_instrumentation() {
                watcher.on_connection_event(InstrumentationEvent::start_query(&debug_query(query)));
            }
            let sql = lane::sql(query)?;
            let read =
                |row: &RawRow| R::build_from_row(row).map_err(DieselError::DeserializationError);
            self.known.get_or_init(|| Known { sql, read })
        };
        Statement::of_query(&known.sql, query)
    }

    /// Reads a row of the question's statement.
    fn read(&self, row: &RawRow) -> Result<R> {
        let known = self.known.get().ok_or_else(|| Error::internal("a row without a question"))?;
        Ok((known.read)(row)?)
    }
}

impl<R> fmt::Debug for Question<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl<R> Ask for Question<R> {
    fn keys(&self) -> usize {
        self.keys
    }

    fn ask(&self, tenant: &str, keys: &[Key]) -> QueryResult<Statement> {
        (self.ask)(self, tenant, keys)
    }
}

/// What a hot read has found: at least one row.
#[derive(Debug)]
pub struct Found<R> {
    /// The rows.
    pub rows: Vec<R>,
    tenant: Tenant,
    time: DateTime<Utc>,
}

impl<R> Found<R> {
    /// The day in the tenant's time zone, as [`super::Tx::today`].
    pub fn today(&self) -> Result<NaiveDate> {
        self.tenant.day_at(self.time)
    }
}

/// The connections of hot reads. Clones share them.
#[derive(Clone)]
pub struct Lanes(Arc<Inner>);

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("size", &self.0.size).finish_non_exhaustive()
    }
}

struct Inner {
    manager: Manager,
    /// Most connections.
    size: usize,
    max_lifetime: Option<Duration>,
    opening: Opening,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Open>,
    /// How many connections there are, idle or under way.
    open: usize,
    /// Whether one is being opened.
    opening: bool,
    /// When a connection could not be opened: when to try again.
    pause: Option<Instant>,
    queue: Queue,
}

impl Inner {
    /// The state. No [`Open`] may be dropped while it is locked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted.
struct Open {
    lane: Lane,
    /// The era of the pool when it was opened.
    era: u64,
    _counted: Counted,
}

/// Counts a connection as long as it exists.
struct Counted(Weak<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(inner) = self.0.upgrade() else { return };
        let mut state = inner.state();
        state.open -= 1;
        // Without a connection nobody would answer them. They go another way.
        let abandoned = (state.open == 0).then(|| std::mem::take(&mut state.queue));
        drop(state);
        drop(abandoned);
    }
}

/// How a call goes on.
#[expect(clippy::large_enum_variant, reason = "a box would cost each call an allocation")]
enum Turn {
    /// A connection was idle.
    Alone(Asked, Open),
    /// All are under way.
    Wait(oneshot::Receiver<Answer>),
    /// There is none.
    Elsewhere,
}

impl Lanes {
    /// At most `size` connections, none of which is made yet.
    pub fn new(manager: Manager, size: usize, max_lifetime: Option<Duration>) -> Self {
        let (opening, state) = (Opening::of(manager.role()), Mutex::default());
        Self(Arc::new(Inner { manager, size, max_lifetime, opening, state }))
    }

    /// Answers a question, or returns `None` if it is to be asked in a transaction of its own.
    pub async fn find<R>(
        &self,
        caller: &Caller,
        stopped: Option<DateTime<Utc>>,
        question: &'static Question<R>,
        key: &[&str],
    ) -> Result<Option<Found<R>>> {
        let asked = Asked {
            tenant: caller.tenant.clone(),
            question,
            key: key.iter().map(ToString::to_string).collect(),
            deadline: caller.deadline,
        };
        let began = Instant::now();
        let answer = self.answer(asked).await;
        if self.0.manager.slow().is_some_and(|slow| began.elapsed() >= slow) {
            let sql = question.known.get().map_or("", |known| &*known.sql);
            telemetry::warn_slow_statement(began.elapsed(), sql);
        }
        let Some(answer) = answer? else { return Ok(None) };
        let (tenant, began) = match answer.tenant.map(|row| TENANT.read(&row)).transpose()? {
            Some((_, tenant, began)) => (tenant, began),
            None => (Tenant::default(), Utc::now()),
        };
        tenant.require_module(caller.module)?;
        if answer.rows.is_empty() || tenant.is_off_below(caller.module) {
            return Ok(None);
        }
        let rows = answer.rows.iter().map(|row| question.read(row)).collect::<Result<_>>()?;
        Ok(Some(Found { rows, tenant, time: stopped.unwrap_or(began) }))
    }

    /// How the connections are used.
    pub(super) fn pool(&self) -> PoolState {
        let state = self.0.state();
        PoolState {
            name: NAME,
            connections: state.open,
            idle: state.idle.len(),
            max: self.0.size,
            pending: Some(state.queue.len()),
        }
    }

    async fn answer(&self, asked: Asked) -> Result<Option<Answer>> {
        let deadline = asked.deadline;
        let answer = match self.turn(asked) {
            Turn::Elsewhere => return Ok(None),
            Turn::Wait(answer) => timeout_at(deadline, answer).await.map(Result::ok),
            Turn::Alone(asked, open) => {
                let mut flying = Flying { open: Some(open), lanes: self.clone() };
                let flown = timeout_at(deadline, flying.fly(&[&asked])).await;
                flown.map(|flown| {
                    let (open, answers) = flown?;
                    self.give_back(open);
                    answers.into_iter().next()
                })
            }
        };
        answer.map_err(|_| Error::DeadlineExceeded)
    }

    fn turn(&self, asked: Asked) -> Turn {
        let mut old = Vec::new();
        let mut state = self.0.state();
        let turn = loop {
            match state.idle.pop() {
                Some(open) if self.is_stale(&open) => old.push(open),
                Some(open) => break Turn::Alone(asked, open),
                None if state.open > old.len() => {
                    let (back, answer) = oneshot::channel();
                    state.queue.push(Waiting { asked, back });
                    break Turn::Wait(answer);
                }
                None => break Turn::Elsewhere,
            }
        };
        let opens = !matches!(turn, Turn::Alone(..))
            && !state.opening
            && state.open - old.len() < self.0.size
            && state.pause.is_none_or(|until| until <= Instant::now());
        state.opening |= opens;
        drop(state);
        drop(old);
        if opens {
            self.open();
        }
        turn
    }

    /// Opens one more connection in the background.
    fn open(&self) {
        let lanes = self.clone();
        #[expect(clippy::disallowed_methods, reason = "the connection outlives the call")]
        tokio::spawn(async move {
            let (era, began) = (lanes.0.manager.era(), Instant::now());
            let opened = timeout(OPENING, Lane::connect(lanes.0.manager.config())).await;
            let mut state = lanes.0.state();
            state.opening = false;
            if let Ok(Ok(lane)) = opened {
                telemetry::record_connect(NAME, began.elapsed());
                state.open += 1;
                drop(state);
                let counted = Counted(Arc::downgrade(&lanes.0));
                lanes.give_back(Open { lane, era, _counted: counted });
            } else {
                state.pause = Some(Instant::now() + OPENING);
                drop(state);
                if let Ok(Err(error)) = opened {
                    tracing::warn!(%error, "database connection of hot reads");
                }
            }
        });
    }

    /// Whether a connection is to be replaced: for its age, or because the pool replaces all.
    fn is_stale(&self, open: &Open) -> bool {
        open.era != self.0.manager.era()
            || self.0.max_lifetime.is_some_and(|most| open.lane.born().elapsed() >= most)
    }

    /// Takes back a connection whose flight has ended: for those who wait, or until the next asks.
    fn give_back(&self, open: Open) {
        if let Some((open, calls)) = self.next(open) {
            #[expect(clippy::disallowed_methods, reason = "works for several calls")]
            tokio::spawn(self.clone().run(open, calls));
        }
    }

    /// The connection with the calls of its next flight; without any it is idle from now on.
    fn next(&self, open: Open) -> Option<(Open, Vec<Waiting>)> {
        if self.is_stale(&open) {
            return None;
        }
        let mut state = self.0.state();
        let calls = state.queue.take();
        if calls.is_empty() {
            state.idle.push(open);
            return None;
        }
        Some((open, calls))
    }

    /// Answers calls until none waits.
    async fn run(self, open: Open, calls: Vec<Waiting>) {
        let mut turn = Some((open, calls));
        while let Some((open, mut calls)) = turn {
            calls.retain(|call| !call.back.is_closed());
            let Some(until) = calls.iter().map(|call| call.asked.deadline).max() else {
                turn = self.next(open);
                continue;
            };
            let asked: Vec<_> = calls.iter().map(|call| &call.asked).collect();
            let mut flying = Flying { open: Some(open), lanes: self.clone() };
            let flown = timeout_at(until + GRACE, flying.fly(&asked)).await;
            // If it failed, the calls go another way, because nobody will send to them.
            let Ok(Some((open, answers))) = flown else { return };
            for (call, answer) in calls.into_iter().zip(answers) {
                let _ = call.back.send(answer); // it may have ended meanwhile
            }
            turn = self.next(open);
        }
    }
}

/// A connection under way. If it is dropped, the flight goes on to its end in the background, or is
/// cancelled, before another call gets the connection.
struct Flying {
    open: Option<Open>,
    lanes: Lanes,
}

impl Flying {
    /// Returns the connection and an answer for each call; `None` if the flight failed. The
    /// connection is closed then.
    async fn fly(&mut self, asked: &[&Asked]) -> Option<(Open, Vec<Answer>)> {
        let flight = match Flight::of(&self.lanes.0.opening, asked) {
            Ok(flight) => flight,
            Err(error) => {
                self.open = None;
                tracing::error!(%error, "a hot read cannot be asked");
                return None;
            }
        };
        FLIGHT_SIZE.record(f64::from(u32::try_from(asked.len()).unwrap_or(u32::MAX)), &[]);
        let operation = Operation::begin("HOT_READ");
        let flown = self.open.as_mut()?.lane.fly(&flight.statements).await;
        let open = self.open.take()?;
        let answers = flown.and_then(|rows| flight.answers(asked, &rows));
        operation.end(answers.is_err().then_some("lost"));
        match answers {
            Ok(answers) => return Some((open, answers)),
            Err(lost @ Lost::Foreign) => tracing::error!(%lost, "a flight of hot reads failed"),
            Err(lost) => tracing::warn!(%lost, "a flight of hot reads failed"),
        }
        None
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let lanes = self.lanes.clone();
        // Without a runtime the process is ending.
        if let Ok(runtime) = Handle::try_current() {
            #[expect(clippy::disallowed_methods, reason = "nobody waits for the flight any more")]
            runtime.spawn(async move {
                match timeout(GRACE, open.lane.finish()).await {
                    Ok(Ok(_)) => lanes.give_back(open),
                    Ok(Err(_)) => {}
                    Err(_) => open.lane.cancel().await,
                }
            });
        }
    }
}
