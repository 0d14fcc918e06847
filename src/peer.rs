//! The peer of a connection: its workload, and what its connection is waiting for.
//!
//! `crate::incoming`, `crate::transport` and the guard share it. It is in the extensions of every
//! request of the connection.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ServerConnection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{config::Transport, telemetry::Seldom, tls};

/// Limits how often cut-off connections are logged, by cause.
static CUT_OFF: Seldom = Seldom::new(Duration::from_secs(10));

/// Logs that a connection is cut off, each cause at most once in ten seconds.
pub fn log_cut_off(cause: &'static str) {
    if let Some(unlogged) = CUT_OFF.due(cause) {
        tracing::warn!(cause, unlogged, "a connection was cut off");
    }
}

/// The peer of a connection. Clones share the same state.
#[derive(Debug, Clone)]
pub struct Peer(Arc<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    workload: OnceLock<Option<Arc<str>>>,
    /// How long the rest of a greeting, of a block of headers or of a frame header has been
    /// missing.
    incomplete: Since,
    /// How long the peer has taken none of the bytes that the service has for it.
    blocked: Since,
    /// Calls under way.
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds since `began`.
    last_ended: AtomicU64,
    /// Permits for calls that need no identity.
    anonymous: Arc<Semaphore>,
    /// Cancelled when the connection takes no further calls.
    retiring: CancellationToken,
}

impl Peer {
    /// The peer of a new connection, whose greeting is still missing.
    pub fn new(config: &Transport) -> Self {
        let began = Instant::now();
        let peer = Self(Arc::new(State {
            began,
            workload: OnceLock::new(),
            incomplete: Since::default(),
            blocked: Since::default(),
            calls: AtomicUsize::new(0),
            last_ended: AtomicU64::new(0),
            anonymous: Arc::new(Semaphore::new(config.max_anonymous_calls)),
            retiring: CancellationToken::new(),
        }));
        peer.0.incomplete.set(began, true);
        peer
    }

    /// The workload that the peer's certificate names. Known before the first request.
    pub fn workload(&self) -> Option<&Arc<str>> {
        self.0.workload.get()?.as_ref()
    }

    /// Reads the workload from the certificate of the TLS session.
    pub fn identify(&self, session: &ServerConnection) {
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let _ = self.0.workload.set(certificate.and_then(tls::workload));
    }

    /// A permit for one more call without an identity; `None` if the connection holds as many as it
    /// may.
    pub fn anonymous_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.anonymous).try_acquire_owned().ok()
    }

    /// Cancelled when the connection takes no further calls. Streams that never end by themselves
    /// should end then.
    pub fn retiring(&self) -> &CancellationToken {
        &self.0.retiring
    }

    /// Records whether the rest of a greeting, of a block of headers or of a frame header is
    /// missing.
    pub fn set_incomplete(&self, incomplete: bool) {
        self.0.incomplete.set(self.0.began, incomplete);
    }

    /// Records whether the peer takes none of the bytes that the service has for it.
    pub fn set_blocked(&self, blocked: bool) {
        self.0.blocked.set(self.0.began, blocked);
    }

    /// Counts a call as under way until the returned value is dropped.
    pub fn begin_call(&self) -> CallUnderWay {
        self.0.calls.fetch_add(1, Ordering::AcqRel);
        CallUnderWay(self.clone())
    }

    /// How long the connection has existed.
    pub fn age(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// How long the rest of a greeting, of a block of headers or of a frame header has been
    /// missing.
    pub fn incomplete_for(&self) -> Duration {
        self.0.incomplete.elapsed(self.0.began)
    }

    /// How long the peer has taken none of the bytes that the service has for it.
    pub fn blocked_for(&self) -> Duration {
        self.0.blocked.elapsed(self.0.began)
    }

    /// How long no call has been under way.
    pub fn quiet_for(&self) -> Duration {
        let last_ended = Duration::from_millis(self.0.last_ended.load(Ordering::Acquire));
        if self.0.calls.load(Ordering::Acquire) > 0 {
            Duration::ZERO
        } else {
            self.age().saturating_sub(last_ended)
        }
    }
}

/// See [`Peer::begin_call`].
#[derive(Debug)]
pub struct CallUnderWay(Peer);

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.last_ended.store(millis(state.began), Ordering::Release);
        state.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Since when a condition holds: milliseconds since the connection began, plus one; 0 while it does
/// not hold.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    /// Starts the time if the condition begins to hold, and clears it if it no longer does.
    fn set(&self, began: Instant, holds: bool) {
        if holds {
            let _ =
                self.0.compare_exchange(0, millis(began) + 1, Ordering::AcqRel, Ordering::Relaxed);
        } else {
            self.0.store(0, Ordering::Release);
        }
    }

    fn elapsed(&self, began: Instant) -> Duration {
        match self.0.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_millis((millis(began) + 1).saturating_sub(since)),
        }
    }
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}
