//! Follows the statements of a connection: how many it has prepared, and which are slow.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};

use crate::telemetry;

/// What Diesel puts between the SQL of a query and its values, where it shows both.
const VALUES: &str = " -- binds: ";

/// The statements of a connection. Clones share them.
#[derive(Clone)]
pub(super) struct Statements {
    prepared: Arc<AtomicUsize>,
    /// The time from which on a statement is slow, and the statements of the present transaction;
    /// `None` if nobody wants to know.
    slow: Option<(Duration, Arc<Mutex<UnderWay>>)>,
}

/// The statements that are under way. A connection answers one statement after the other, so each
/// has taken as long as it is since it was sent, or since the answer before it.
#[derive(Default)]
struct UnderWay {
    /// How many. More than there are if one was dropped before its answer: the transaction is over
    /// then.
    count: usize,
    /// When the server could begin with the first of them; `None` outside a transaction.
    since: Option<Instant>,
}

impl UnderWay {
    fn begin(&mut self) {
        if self.count == 0 && self.since.is_some() {
            self.since = Some(Instant::now());
        }
        self.count += 1;
    }

    /// Returns how long the statement has taken.
    fn end(&mut self) -> Option<Duration> {
        self.count = self.count.saturating_sub(1);
        let since = self.since.as_mut()?;
        let now = Instant::now();
        Some(now.duration_since(std::mem::replace(since, now)))
    }
}

impl Statements {
    /// For a new connection, whose statements are slow from `slow` on.
    pub(super) fn new(slow: Option<Duration>) -> Self {
        Self { prepared: Arc::default(), slow: slow.map(|slow| (slow, Arc::default())) }
    }

    /// How many the connection has prepared, or begun to prepare.
    pub(super) fn prepared(&self) -> usize {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Begins a transaction of a call.
    pub(super) fn begin(&self) {
        if let Some((_, under_way)) = &self.slow {
            *lock(under_way) = UnderWay { count: 0, since: Some(Instant::now()) };
        }
    }

    /// Ends it: what is sent from now on belongs to no call. Warns if a statement is under way and
    /// slow.
    pub(super) fn end(&self) {
        let Some((slow, under_way)) = &self.slow else { return };
        let UnderWay { count, since } = std::mem::take(&mut *lock(under_way));
        let took = since.map(|since| since.elapsed()).filter(|took| count > 0 && took >= slow);
        if let Some(took) = took {
            telemetry::warn_statement_given_up(took);
        }
    }

    /// What Diesel tells of the statements of this connection.
    pub(super) fn watcher(&self) -> impl Instrumentation + use<> {
        // A process-wide instrumentation, such as that of the tests, also receives the events of
        // this connection.
        Watcher { statements: self.clone(), other: get_default_instrumentation() }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watcher {
    statements: Statements,
    other: Option<Box<dyn Instrumentation>>,
}

impl Instrumentation for Watcher {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        let slow = self.statements.slow.as_ref();
        match &event {
            InstrumentationEvent::CacheQuery { .. } => {
                self.statements.prepared.fetch_add(1, Ordering::Relaxed);
            }
            InstrumentationEvent::StartQuery { .. } => {
                if let Some((_, under_way)) = slow {
                    lock(under_way).begin();
                }
            }
            InstrumentationEvent::FinishQuery { query, .. } => {
                if let Some((slow, under_way)) = slow
                    && let Some(took) = lock(under_way).end().filter(|took| took >= slow)
                {
                    let text = query.to_string();
                    let sql = text.split(VALUES).next().unwrap_or_default();
                    telemetry::warn_slow_statement(took, sql);
                }
            }
            _ => {}
        }
        if let Some(other) = &mut self.other {
            other.on_connection_event(event);
        }
    }
}
