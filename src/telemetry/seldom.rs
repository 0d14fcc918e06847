//! Log lines that a peer can cause at will are written at a bounded rate.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets each cause be logged once in a time, and counts how often it was not.
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

    /// If the cause is to be logged now: how often it was not since the last time. Causes are
    /// constants of the code, so that no caller can make up new ones.
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
