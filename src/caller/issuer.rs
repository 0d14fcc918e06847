//! An issuer of tokens and its keys. One task fetches the keys for all calls.
//!
//! Calls never fetch keys themselves. A call that does not find the key of its token requests a
//! fetch and waits for its end, together with all other calls that wait. So a fetch does not end
//! when a call ends, only one runs at a time, and there is a minimum time between two, so that
//! invented key ids cannot overload the issuer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    jwks::{Key, KeySet, NoKey},
    options::{KeySource, TokenIssuer, TokenOptions},
    source::{Source, read},
};
use crate::telemetry::{Seldom, metrics::CALLS_SHED};

/// After a failure the next try comes after the refresh time divided by this.
const RETRY_DIVISOR: u32 = 20;
/// Limits how often is logged that too many calls wait for an issuer's keys.
static TOO_MANY_WAIT: Seldom = Seldom::new(Duration::from_secs(10));

/// An issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    /// The exact `iss` of its tokens.
    pub(super) name: String,
    /// The prefix that makes an actor of the `sub` of its tokens.
    pub(super) prefix: String,
    source: Source,
    /// Time between two fetches if no call requests one.
    refresh: Duration,
    /// Time to the next fetch after a failed one.
    retry: Duration,
    /// Minimum time between two fetches.
    floor: Duration,
    /// How long keys are used after the last successful fetch.
    max_stale: Duration,
    began: Instant,
    /// Until when the keys may be used, in milliseconds since `began`. An atomic outside of
    /// `state`, because every call reads it.
    good_until: AtomicU64,
    state: watch::Sender<State>,
    /// Permits to wait for the keys. A waiting call holds none of the permits for calls, and each
    /// issuer has its own.
    waiting: Semaphore,
}

#[derive(Debug)]
struct State {
    keys: KeySet,
    /// Fetches that have ended, successful or not.
    fetches: u64,
    /// Whether the last one failed.
    failed: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A fetch may begin.
    Idle,
    /// A call has requested a fetch.
    Wanted,
    /// A fetch is running.
    Fetching,
    /// The minimum time since the last fetch has not passed.
    Resting,
}

/// Why there is no key for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The issuer has no such key.
    Refused(NoKey),
    /// The issuer's keys cannot be fetched.
    Unavailable,
}

impl Issuer {
    /// An issuer whose keys are fetched later. Keys from a file are read now; fails if that is not
    /// possible.
    pub(super) fn new(issuer: &TokenIssuer, options: &TokenOptions) -> Result<Self, String> {
        let is_file = matches!(issuer.keys, KeySource::File(_));
        let floor = options.jwks_floor;
        // Early enough that keys are fetched again before they become too old.
        let refresh =
            if is_file { floor } else { options.jwks_refresh.min(options.jwks_max_stale / 2) };
        let state =
            State { keys: KeySet::default(), fetches: 0, failed: false, phase: Phase::Wanted };
        let made = Self {
            name: issuer.issuer.clone(),
            prefix: options.prefix_of(&issuer.issuer).unwrap_or_default().to_owned(),
            source: Source::new(&issuer.keys)?,
            refresh,
            retry: if is_file { floor } else { (refresh / RETRY_DIVISOR).max(floor) },
            floor,
            max_stale: options.jwks_max_stale,
            began: Instant::now(),
            good_until: AtomicU64::new(0),
            state: watch::Sender::new(state),
            waiting: Semaphore::new(options.jwks_max_waiting),
        };
        if let KeySource::File(path) = &issuer.keys {
            made.take(Ok(read(path).map_err(|cause| format!("{} {cause}", path.display()))?));
            made.state.send_modify(|state| state.phase = Phase::Idle);
        }
        Ok(made)
    }

    /// Whether the keys were fetched recently enough to be used.
    pub(super) fn is_good(&self) -> bool {
        self.millis() < self.good_until.load(Ordering::Relaxed)
    }

    /// How long ago the keys were last fetched; `None` if they never were.
    pub(super) fn keys_age(&self) -> Option<Duration> {
        let good_until = Duration::from_millis(self.good_until.load(Ordering::Relaxed));
        let fetched = good_until.checked_sub(self.max_stale)?;
        Some(self.began.elapsed().saturating_sub(fetched))
    }

    /// The key for a token. If there is none, waits for one fetch, unless the last fetch has just
    /// ended or too many calls wait.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, Missing> {
        let mut changes = self.state.subscribe();
        let mut before = None;
        let mut permit = None;
        loop {
            {
                let state = changes.borrow_and_update();
                let good = self.is_good();
                let why = match state.keys.find(kid, algorithm) {
                    Ok(key) if good => return Ok(Arc::clone(key)),
                    Err(why @ (NoKey::Algorithm | NoKey::Ambiguous)) if good => {
                        return Err(Missing::Refused(why));
                    }
                    Err(why) if good && !state.failed => Missing::Refused(why),
                    _ => Missing::Unavailable,
                };
                let waited = state.fetches > *before.get_or_insert(state.fetches);
                if waited || state.phase == Phase::Resting {
                    return Err(why);
                }
            }
            if permit.is_none() {
                permit = Some(self.waiting.try_acquire().map_err(|_| self.refuse_to_wait())?);
            }
            self.state.send_if_modified(|state| {
                let request = state.phase == Phase::Idle && Some(state.fetches) == before;
                if request {
                    state.phase = Phase::Wanted;
                }
                request
            });
            if changes.changed().await.is_err() {
                return Err(Missing::Unavailable);
            }
        }
    }

    fn refuse_to_wait(&self) -> Missing {
        CALLS_SHED.count("jwks_max_waiting");
        if let Some(unlogged) = TOO_MANY_WAIT.due("waiting") {
            tracing::warn!(
                issuer = self.name,
                unlogged,
                "calls are refused: --jwks-max-waiting wait for the issuer's keys"
            );
        }
        Missing::Unavailable
    }

    /// Fetches the keys periodically and when a call requests it, for ever.
    pub(super) async fn keep(&self) {
        let mut requests = self.state.subscribe();
        let mut due = self.began
            + if self.state.borrow().fetches == 0 { Duration::ZERO } else { self.refresh };
        loop {
            let wanted =
                async { drop(requests.wait_for(|state| state.phase == Phase::Wanted).await) };
            // Requested or due: both mean to fetch now.
            let _ = timeout_at(due, wanted).await;
            self.state.send_modify(|state| state.phase = Phase::Fetching);
            let began = Instant::now();
            let loaded = self.source.load().await;
            due = began + if self.take(loaded) { self.refresh } else { self.retry };
            sleep_until(began + self.floor).await;
            self.state.send_modify(|state| state.phase = Phase::Idle);
        }
    }

    /// Stores the result of a fetch. Returns whether the fetch succeeded.
    fn take(&self, loaded: Result<KeySet, String>) -> bool {
        let cause = loaded.as_ref().err().cloned();
        self.state.send_modify(|state| {
            if state.failed != cause.is_some() || (state.fetches == 0 && cause.is_none()) {
                if let Some(cause) = &cause {
                    tracing::warn!(
                        issuer = self.name,
                        cause,
                        "the issuer's keys cannot be fetched"
                    );
                } else {
                    tracing::info!(issuer = self.name, "the issuer's keys have been fetched");
                }
            }
            if let Ok(keys) = loaded {
                state.keys.replace(keys);
                let good = self
                    .millis()
                    .saturating_add(u64::try_from(self.max_stale.as_millis()).unwrap_or(u64::MAX));
                self.good_until.store(good, Ordering::Relaxed);
            }
            state.fetches += 1;
            state.failed = cause.is_some();
            state.phase = Phase::Resting;
        });
        cause.is_none()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
