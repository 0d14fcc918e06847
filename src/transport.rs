//! HTTP/2 on the connections: its limits, how long a connection lasts, and the task of each call.
//!
//! A connection is closed in order (GOAWAY: no further calls, those under way are answered) when it
//! has been idle or has lasted for long enough, and cut off when its peer does not do its part.
//! Whatever a peer does, it ends.

use std::{future::Future, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming as RequestBody, rt::Executor, server::conn::http2, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt as _};

use crate::{
    answer::{self, Outcome},
    config::Transport,
    incoming::{Connection, Incoming},
    peer::Peer,
    telemetry::Seldom,
};

/// Streams that a peer may make the server reset before its connection is closed (a rapid-reset
/// flood).
const LOCAL_RESETS: usize = 1024;
/// Longest headers in bytes that are read from a connection. Those beyond `guard`'s limit are read
/// only to be refused with a status: HTTP/2 itself would answer with one that no gRPC client
/// understands, or end the connection.
const MAX_HEADER_LIST: u32 = 1280 * 1024;
/// Most bytes of each answer that wait in a connection for its peer to read them.
const MAX_SEND_BUFFER: usize = 32 * 1024;
/// How long a silent connection is left alone before it is asked whether its peer is still there,
/// and then has to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often a connection is looked at, unless a limit is so short that it must be more often.
const LOOK: Duration = Duration::from_secs(1);
/// How often each reason for which peers are cut off is logged.
static CUT_OFF: Seldom = Seldom::new(Duration::from_secs(10));

/// The bounds of connections and calls on them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls under way at once on one connection.
    pub streams: u32,
    /// Time that a peer has to take an answer, or any byte at all.
    pub answer: Duration,
    /// What is configured for connections.
    pub transport: Transport,
}

/// Serves on the connections until `draining` is cancelled, and then until all of them have ended.
pub async fn serve<S>(
    mut incoming: Incoming,
    service: S,
    limits: &Limits,
    draining: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = draining.cancelled() => break,
            connection = incoming.accept() => {
                connections.spawn(serve_connection(connection, service.clone(), limits.clone(), draining.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // Closes the port.
    drop(incoming);
    while connections.join_next().await.is_some() {}
}

/// Logs, at a bounded rate, why a connection is cut off.
pub fn tell_cut_off(cause: &'static str) {
    if let Some(unlogged) = CUT_OFF.due(cause) {
        tracing::warn!(cause, unlogged, "a connection was cut off");
    }
}

async fn serve_connection<S>(
    connection: Connection,
    service: S,
    limits: Limits,
    draining: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let peer = connection.peer().clone();
    let answering = {
        let peer = peer.clone();
        service_fn(move |mut request: Request<RequestBody>| {
            request.extensions_mut().insert(peer.clone());
            service.clone().oneshot(request.map(Body::new))
        })
    };
    let http = http2::Builder::new(Calls(peer.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(connection), answering);
    let mut http = pin!(http);
    let mut life = Life::new(peer, limits);
    let mut looks = interval(life.look_interval());
    loop {
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a connection has failed");
                }
                return;
            }
            () = draining.cancelled(), if !life.retired() => {
                http.as_mut().graceful_shutdown();
                life.retire();
            }
            _ = looks.tick() => match life.verdict() {
                Verdict::Stays => {}
                Verdict::Retires => {
                    http.as_mut().graceful_shutdown();
                    life.retire();
                }
                Verdict::Ends(cause) => {
                    tell_cut_off(cause);
                    return;
                }
            }
        }
    }
}

/// How far a connection has come in its life.
struct Life {
    peer: Peer,
    limits: Limits,
    /// At what age it began to take no further calls.
    retired: Option<Duration>,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// It takes no further calls, and ends when those under way are answered.
    Retires,
    /// It ends now, whatever is under way.
    Ends(&'static str),
}

impl Life {
    const fn new(peer: Peer, limits: Limits) -> Self {
        Self { peer, limits, retired: None }
    }

    const fn retired(&self) -> bool {
        self.retired.is_some()
    }

    fn retire(&mut self) {
        self.retired = Some(self.peer.age());
        self.peer.retiring().cancel();
    }

    fn verdict(&self) -> Verdict {
        let Limits { answer, transport, .. } = &self.limits;
        let age = self.peer.age();
        if self.peer.incomplete_for() >= transport.handshake_timeout {
            return Verdict::Ends(
                "no whole handshake, HTTP/2 greeting or headers within --handshake-timeout",
            );
        }
        if self.peer.blocked_for() >= *answer {
            return Verdict::Ends("nothing was read for --answer-timeout");
        }
        match self.retired {
            Some(retired) if age.saturating_sub(retired) >= transport.max_connection_grace => {
                Verdict::Ends("calls were under way at the end of --max-connection-grace")
            }
            None if self.peer.quiet_for() >= transport.max_connection_idle
                || age >= transport.max_connection_age =>
            {
                Verdict::Retires
            }
            _ => Verdict::Stays,
        }
    }

    /// A fraction of the shortest limit.
    fn look_interval(&self) -> Duration {
        let Limits { answer, transport, .. } = &self.limits;
        let times = [
            *answer,
            transport.handshake_timeout,
            transport.max_connection_idle,
            transport.max_connection_age,
            transport.max_connection_grace,
        ];
        let shortest = times.into_iter().min().unwrap_or(LOOK);
        (shortest / 4).clamp(Duration::from_millis(10), LOOK)
    }
}

/// Gives each call of a connection a task.
#[derive(Clone)]
struct Calls(Peer);

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let under_way = self.0.begin_call();
        #[expect(
            clippy::disallowed_methods,
            reason = "a call's task ends with its connection, or with its alarm at the latest"
        )]
        tokio::spawn(async move {
            if answer::run(call).await == Outcome::Unread
                && let Some(unlogged) = CUT_OFF.due("answer")
            {
                tracing::warn!(
                    unlogged,
                    "an answer was given up: its peer did not read it within --answer-timeout"
                );
            }
            drop(under_way);
        });
    }
}
