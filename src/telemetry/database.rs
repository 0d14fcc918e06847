//! What is recorded of the database: transactions, waits for a connection, slow statements.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use opentelemetry::KeyValue;

use super::{Seldom, metrics};

pub(super) const POOL_NAME: &str = "db.client.connection.pool.name";
const STATE: &str = "db.client.connection.state";
/// The name of the pool: that of calls. The other pool has the connections of hot reads.
pub(super) const POOL: &str = "pool";

/// Calls that wait for a connection of the pool.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Limits how often slow statements are logged: a database that is slow is slow for every call.
static SLOW: Seldom = Seldom::new(Duration::from_millis(100));
/// Longest text of a statement in the log, in bytes.
const MAX_TEXT: usize = 2000;

/// A transaction or flight under way. If it is dropped before it has ended, it counts as cancelled.
#[derive(Debug)]
pub struct Operation {
    name: &'static str,
    /// `None` when metrics are off.
    began: Option<Instant>,
}

impl Operation {
    /// Begins to measure. `name` is one of a small fixed number of texts.
    pub fn begin(name: &'static str) -> Self {
        Self { name, began: metrics::OPERATION_DURATION.is_on().then(Instant::now) }
    }

    /// Records the duration, and what kind of error ended the operation, if one did.
    pub fn end(mut self, error: Option<&'static str>) {
        self.record(error);
    }

    fn record(&mut self, error: Option<&'static str>) {
        let Some(began) = self.began.take() else { return };
        let system = KeyValue::new("db.system.name", "postgresql");
        let name = KeyValue::new("db.operation.name", self.name);
        let duration = &metrics::OPERATION_DURATION;
        match error {
            None => duration.record_time(began.elapsed(), &[system, name]),
            Some(error) => {
                let error = KeyValue::new("error.type", error);
                duration.record_time(began.elapsed(), &[system, name, error]);
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.record(Some("cancelled"));
    }
}

/// A call that waits for a connection of the pool, until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    began: Option<Instant>,
}

impl Waiting {
    /// Begins to wait.
    pub fn begin() -> Self {
        let began = metrics::POOL_WAIT_TIME.is_on().then(Instant::now);
        if began.is_some() {
            WAITING.fetch_add(1, Ordering::Relaxed);
        }
        Self { began }
    }

    /// Counts that there was no connection in time.
    pub fn count_timeout(&self) {
        metrics::POOL_TIMEOUTS.count(POOL);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            let name = KeyValue::new(POOL_NAME, POOL);
            metrics::POOL_WAIT_TIME.record_time(began.elapsed(), &[name]);
        }
    }
}

/// Records how long a connection took to open.
pub fn record_connect(pool: &'static str, took: Duration) {
    metrics::POOL_CREATE_TIME.record_time(took, &[KeyValue::new(POOL_NAME, pool)]);
}

/// The connections of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// What the pool is called.
    pub name: &'static str,
    /// Open connections, used or idle.
    pub connections: usize,
    /// Open connections that are not in use.
    pub idle: usize,
    /// Most connections.
    pub max: usize,
    /// Calls that wait for a connection; `None` if [`Waiting`] counts them.
    pub pending: Option<usize>,
}

/// Exports the state of pools. `states` is called with each export, so it must not block.
pub fn observe_pools(states: impl Fn() -> Vec<PoolState> + Clone + Send + Sync + 'static) {
    let name = |pool: &PoolState| KeyValue::new(POOL_NAME, pool.name);
    let read = states.clone();
    metrics::POOL_COUNT.observe_each(move |observe| {
        for pool in read() {
            let used = pool.connections.saturating_sub(pool.idle);
            observe(pool.idle, &[name(&pool), KeyValue::new(STATE, "idle")]);
            observe(used, &[name(&pool), KeyValue::new(STATE, "used")]);
        }
    });
    let read = states.clone();
    metrics::POOL_MAX.observe_each(move |observe| {
        for pool in read() {
            observe(pool.max, &[name(&pool)]);
        }
    });
    metrics::POOL_PENDING.observe_each(move |observe| {
        for pool in states() {
            let pending = pool.pending.unwrap_or_else(|| WAITING.load(Ordering::Relaxed));
            observe(pending, &[name(&pool)]);
        }
    });
}

/// Warns of a slow statement, with the current call. `text` is its SQL, which has no values.
pub fn warn_slow_statement(took: Duration, text: &str) {
    metrics::STATEMENTS_SLOW.count("answered");
    if let Some(unlogged) = SLOW.due("answered") {
        let statement = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text);
        tracing::warn!(duration_ms = millis(took), statement, unlogged, "a statement was slow");
    }
}

/// Warns that a call ended before its slow statement did, so that the text of the statement is not
/// known.
pub fn warn_statement_given_up(took: Duration) {
    metrics::STATEMENTS_SLOW.count("given_up");
    if let Some(unlogged) = SLOW.due("given up") {
        tracing::warn!(
            duration_ms = millis(took),
            unlogged,
            "a call ended before its slow statement was answered"
        );
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
