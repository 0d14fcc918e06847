//! An issuer of tokens and its keys, which one task gets and keeps fresh for all calls.
//!
//! Calls never fetch: they look at the keys that are there. One that finds none for its token
//! wishes for a fetch and waits for its end, together with all others that wait. A fetch therefore
//! belongs to no call and ends with none, there is one at a time, and between two of them lies a
//! least time, so that made-up key ids cannot hammer the issuer.

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
    source::{Source, read},
};
use crate::{
    config::{KeySource, TokenIssuer, TokenOptions},
    telemetry::Seldom,
};

/// After a failure, the next try comes this much sooner than a refresh would.
const SOONER: u32 = 20;
/// Says that more calls wait for an issuer's keys than may.
static CROWDED: Seldom = Seldom::new(Duration::from_secs(10));

/// An issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    /// The exact `iss` of its tokens.
    pub(super) name: String,
    /// What stands before the `sub` of its tokens to make the actor.
    pub(super) prefix: String,
    source: Source,
    /// Time from one fetch to the next when nobody wishes for one.
    refresh: Duration,
    /// The same after a failure.
    retry: Duration,
    /// Least time between two fetches.
    floor: Duration,
    /// How long keys are used after they were last seen at the source.
    max_stale: Duration,
    began: Instant,
    /// Until when the keys may be used, in milliseconds after `began`. Beside the state, because
    /// every call reads it.
    good_until: AtomicU64,
    state: watch::Sender<State>,
    /// Permits to wait for the keys. A wait holds none of the permits for calls, and nobody waits
    /// with those of another issuer.
    waiting: Semaphore,
}

#[derive(Debug)]
struct State {
    keys: KeySet,
    /// Fetches that have ended, with success or not.
    fetches: u64,
    /// Whether the last one failed.
    failed: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A fetch may begin.
    Idle,
    /// A call wishes for a fetch.
    Wanted,
    /// A fetch is under way.
    Fetching,
    /// The last fetch was a moment ago.
    Resting,
}

/// Why there is no key for a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The issuer has none.
    Refused(NoKey),
    /// The issuer cannot be asked.
    Unavailable,
}

impl Issuer {
    /// An issuer whose key set is not there yet, or, from a file, is; a file must be readable now.
    pub(super) fn new(issuer: &TokenIssuer, options: &TokenOptions) -> Result<Self, String> {
        let is_file = matches!(issuer.keys, KeySource::File(_));
        let floor = options.jwks_floor;
        // Early enough that a set which is fetched every time never becomes stale.
        let refresh =
            if is_file { floor } else { options.jwks_refresh.min(options.jwks_max_stale / 2) };
        let state =
            State { keys: KeySet::default(), fetches: 0, failed: false, phase: Phase::Wanted };
        let made = Self {
            name: issuer.issuer.clone(),
            prefix: options.prefix_of(&issuer.issuer).unwrap_or_default().to_owned(),
            source: Source::new(&issuer.keys)?,
            refresh,
            retry: if is_file { floor } else { (refresh / SOONER).max(floor) },
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

    /// Whether the keys were seen at their source recently enough to be used.
    pub(super) fn is_good(&self) -> bool {
        self.millis() < self.good_until.load(Ordering::Relaxed)
    }

    /// The key for a token. Waits for one fetch if there is none, unless the last one was a moment
    /// ago or too many wait.
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
                let wish = state.phase == Phase::Idle && Some(state.fetches) == before;
                if wish {
                    state.phase = Phase::Wanted;
                }
                wish
            });
            if changes.changed().await.is_err() {
                return Err(Missing::Unavailable);
            }
        }
    }

    fn refuse_to_wait(&self) -> Missing {
        if let Some(unlogged) = CROWDED.due("waiting") {
            tracing::warn!(
                issuer = self.name,
                unlogged,
                "calls are refused: --jwks-max-waiting wait for the issuer's keys"
            );
        }
        Missing::Unavailable
    }

    /// Gets the keys, again and again, for ever.
    pub(super) async fn keep(&self) {
        let mut wishes = self.state.subscribe();
        let mut due = self.began
            + if self.state.borrow().fetches == 0 { Duration::ZERO } else { self.refresh };
        loop {
            let wanted =
                async { drop(wishes.wait_for(|state| state.phase == Phase::Wanted).await) };
            // Either way it is time.
            let _ = timeout_at(due, wanted).await;
            self.state.send_modify(|state| state.phase = Phase::Fetching);
            let began = Instant::now();
            let loaded = self.source.load().await;
            due = began + if self.take(loaded) { self.refresh } else { self.retry };
            sleep_until(began + self.floor).await;
            self.state.send_modify(|state| state.phase = Phase::Idle);
        }
    }

    /// Keeps what a fetch brought, if it brought something; whether it did.
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
                    tracing::info!(issuer = self.name, "the issuer's keys are there");
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
