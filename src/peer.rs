//! The peer of a connection: what is known of it, and what it does or fails to do.
//!
//! The connection's input and output (`crate::incoming`), its tasks (`crate::transport`) and the
//! guard share it; it is in the extensions of every request of the connection.

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

use crate::{config::Transport, tls};

/// The peer of a connection. Clones are the same peer.
#[derive(Debug, Clone)]
pub struct Peer(Arc<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    workload: OnceLock<Option<Arc<str>>>,
    /// Since when the service waits for the rest of a greeting or of a block of headers.
    incomplete: Since,
    /// Since when the peer has taken no byte that the service would send.
    blocked: Since,
    /// Calls under way.
    calls: AtomicUsize,
    /// When the last one ended, in milliseconds after the beginning.
    last_ended: AtomicU64,
    /// Permits for calls without an identity.
    anonymous: Arc<Semaphore>,
    /// Cancelled when the connection takes no further calls.
    retiring: CancellationToken,
}

impl Peer {
    /// The peer of a new connection, which has still to greet.
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

    /// The workload that the peer's certificate names. Known as soon as there is a request.
    pub fn workload(&self) -> Option<&Arc<str>> {
        self.0.workload.get()?.as_ref()
    }

    /// Learns from a TLS session who the peer is.
    pub fn identify(&self, session: &ServerConnection) {
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let _ = self.0.workload.set(certificate.and_then(tls::workload));
    }

    /// A permit for one more call without an identity, unless the connection has as many as it may.
    pub fn anonymous_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.anonymous).try_acquire_owned().ok()
    }

    /// Cancelled when the connection takes no further calls: what goes on without end should end
    /// then.
    pub fn retiring(&self) -> &CancellationToken {
        &self.0.retiring
    }

    /// Says whether the service waits for the rest of a greeting or of a block of headers.
    pub fn set_incomplete(&self, incomplete: bool) {
        self.0.incomplete.set(self.0.began, incomplete);
    }

    /// Says whether the peer takes none of the bytes that the service would send.
    pub fn set_blocked(&self, blocked: bool) {
        self.0.blocked.set(self.0.began, blocked);
    }

    /// Counts a call as under way until the answer is dropped.
    pub fn begin_call(&self) -> CallUnderWay {
        self.0.calls.fetch_add(1, Ordering::AcqRel);
        CallUnderWay(self.clone())
    }

    /// How long the connection has been there.
    pub fn age(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// For how long the service has waited for the rest of a greeting or of a block of headers.
    pub fn incomplete_for(&self) -> Duration {
        self.0.incomplete.elapsed(self.0.began)
    }

    /// For how long the peer has taken none of the bytes that the service would send.
    pub fn blocked_for(&self) -> Duration {
        self.0.blocked.elapsed(self.0.began)
    }

    /// For how long no call has been under way.
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

/// Since when something has been so: in milliseconds after the beginning, plus one; 0 while it is
/// not so.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    /// Begins to count, unless it already does, or stops.
    fn set(&self, began: Instant, is_so: bool) {
        if is_so {
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
