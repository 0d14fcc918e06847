//! Limits the rate of log lines that a peer could cause at will.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets each cause be logged once in a time, and counts how often it was not logged.
#[derive(Debug)]
pub struct Seldom {
    pause: Duration,
    causes: Mutex<BTreeMap<&'static str, (Instant, u64)>>,
}

impl Seldom {
    /// Each cause is logged at most once in `pause`.
    pub const fn new(pause: Duration) -> Self {
        Self { pause, causes: Mutex::new(BTreeMap::new()) }
    }

    /// `Some` if the cause is to be logged now, with the number of times that it was not logged
    /// since the last time. Causes are constants of the code, so callers cannot create new ones.
    pub fn due(&self, cause: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        match causes.get_mut(cause) {
            Some((last, unlogged)) if now.duration_since(*last) < self.pause => {
                *unlogged += 1;
                None
            }
            _ => Some(causes.insert(cause, (now, 0)).map_or(0, |(_, unlogged)| unlogged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_in_its_time() {
        let often = Seldom::new(Duration::ZERO);
        assert_eq!((often.due("a"), often.due("a")), (Some(0), Some(0)));
        let seldom = Seldom::new(Duration::from_hours(1));
        assert_eq!((seldom.due("a"), seldom.due("a"), seldom.due("b")), (Some(0), None, Some(0)));
    }
}
