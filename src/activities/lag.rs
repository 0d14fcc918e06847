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
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen::by(*seen, held_by, Instant::now());
    }

    fn current(&self) -> Duration {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map_or(Duration::ZERO, |seen| seen.lag(Instant::now()))
    }
}

impl Seen {
    fn by(before: Option<Self>, held_by: Option<i64>, now: Instant) -> Option<Self> {
        let transaction = held_by?;
        let known = before.filter(|known| known.transaction == transaction);
        Some(Self { transaction, first: known.map_or(now, |known| known.first), last: now })
    }

    /// For how long the same transaction has been seen.
    fn lag(self, now: Instant) -> Duration {
        if now.duration_since(self.last) < STALE {
            self.last.duration_since(self.first)
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_transaction_that_goes_on_is_a_lag() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut seen = None;
        let mut lag = |held_by, second| {
            seen = Seen::by(seen, held_by, after(second));
            seen.map(|seen| seen.lag(after(second)).as_secs())
        };
        assert_eq!(lag(Some(1), 0), Some(0));
        assert_eq!(lag(Some(2), 2), Some(0), "another transaction");
        assert_eq!(lag(Some(2), 5), Some(3));
        assert_eq!(lag(None, 6), None);
        assert_eq!(lag(Some(2), 7), Some(0), "the feed went on in between");
        assert_eq!(lag(Some(2), 9), Some(2));
        assert_eq!(seen.unwrap().lag(after(9) + STALE), Duration::ZERO, "long ago");
    }
}
