//! How long the feed has been held back: by one transaction that goes on, as the watches of this
//! process see whenever they read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::telemetry::metrics::FEED_LAG;

/// After this time without a read nothing is known.
const STALE: Duration = Duration::from_mins(1);

/// What the watches have seen. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Lag(Arc<Mutex<Option<Seen>>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The transaction that holds the feed back.
    transaction: i64,
    first: Instant,
    last: Instant,
}

impl Lag {
    /// A lag that is exported.
    pub fn observed() -> Self {
        let lag = Self::default();
        let observed = lag.clone();
        FEED_LAG.observe(move || observed.current().as_secs_f64());
        lag
    }

    /// Notes what a read has seen: the transaction that holds the feed back, if one does.
    pub(super) fn note(&self, held_by: Option<i64>) {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = held_by.map(|transaction| match *seen {
            Some(known) if known.transaction == transaction => Seen { last: now, ..known },
            _ => Seen { transaction, first: now, last: now },
        });
    }

    /// For how long the same transaction has been seen.
    fn current(&self) -> Duration {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.filter(|seen| seen.last.elapsed() < STALE);
        seen.map_or(Duration::ZERO, |seen| seen.last.duration_since(seen.first))
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "time has to pass")]
    fn one_transaction_that_goes_on_is_a_lag() {
        let lag = Lag::default();
        let pause = Duration::from_millis(20);
        lag.note(Some(1));
        sleep(pause);
        lag.note(Some(2));
        assert_eq!(lag.current(), Duration::ZERO, "another transaction");
        sleep(pause);
        lag.note(Some(2));
        assert!(lag.current() >= pause);
        lag.note(None);
        assert_eq!(lag.current(), Duration::ZERO);
    }
}
