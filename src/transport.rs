//! HTTP/2 on the accepted connections: its limits, how long a connection lasts, and one task for
//! each call.
//!
//! A connection is closed gracefully (GOAWAY: no further calls, those under way complete) when it
//! has been idle or has existed for long enough. It is cut off when its peer does not read, or does
//! not complete what it began to send. No peer can keep a connection open beyond these limits.

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
    late_data::ReadToEnd,
    peer::{self, Peer},
    telemetry::Seldom,
};

/// Streams that the service may have to reset for a peer before it closes the connection
/// (protection against rapid resets).
const LOCAL_RESETS: usize = 1024;
/// Longest headers in bytes that are read. Headers beyond the smaller limit of `guard` are read
/// only so that the guard can answer with a status: hyper would answer with HTTP status 431, which
/// gRPC clients do not understand, or close the connection.
const MAX_HEADER_LIST: u32 = 1280 * 1024;
/// Most bytes of requests that a peer may send ahead of what the calls of its connection have read,
/// and ahead of what one call has read. They lie in memory that no other limit counts. The window of
/// a call lets 128 KiB travel in each round trip: 2.6 MB/s of an import over 50 ms.
const CONNECTION_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 128 * 1024;
/// Most bytes of each answer that are buffered in a connection until its peer reads them.
const MAX_SEND_BUFFER: usize = 32 * 1024;
/// How long a connection may be silent before it is sent a PING, and how long the peer then has to
/// acknowledge it.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often a connection is checked against its time limits, unless a limit is so short that it
/// needs checking more often.
const CHECK: Duration = Duration::from_secs(1);
/// Limits how often unread answers are logged.
static UNREAD: Seldom = Seldom::new(Duration::from_secs(10));

/// The limits of connections and of the calls on them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most calls under way on one connection.
    pub streams: u32,
    /// How long a peer may take to read an answer, or not read any byte at all.
    pub answer: Duration,
    /// The configuration of connections.
    pub transport: Transport,
}

/// Serves connections until `draining` is cancelled, and then waits until all of them have ended.
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
                let (service, limits) = (service.clone(), limits.clone());
                connections.spawn(serve_connection(connection, service, limits, draining.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    // Closes the port.
    drop(incoming);
    while connections.join_next().await.is_some() {}
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
            service.clone().oneshot(request.map(|body| Body::new(ReadToEnd::new(body))))
        })
    };
    let http = http2::Builder::new(Calls(peer.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(connection), answering);
    let mut http = pin!(http);
    let mut life = Life::new(peer, limits);
    let mut checks = interval(life.check_interval());
    loop {
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "a connection has failed");
                }
                return;
            }
            () = draining.cancelled(), if !life.retired() => {
                http.as_mut().graceful_shutdown();
                life.retire();
            }
            _ = checks.tick() => match life.verdict() {
                Verdict::Stay => {}
                Verdict::Retire => {
                    http.as_mut().graceful_shutdown();
                    life.retire();
                }
                Verdict::CutOff(cause) => {
                    peer::log_cut_off(cause);
                    return;
                }
            }
        }
    }
}

/// The age of a connection, against its limits.
struct Life {
    peer: Peer,
    limits: Limits,
    /// The age at which it stopped taking calls.
    retired: Option<Duration>,
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Leave it open.
    Stay,
    /// Take no further calls, and close when those under way have been answered.
    Retire,
    /// Close at once, whatever is under way.
    CutOff(&'static str),
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
            return Verdict::CutOff(
                "the handshake, the HTTP/2 greeting or the headers of a call were not complete \
                 within --handshake-timeout",
            );
        }
        if self.peer.blocked_for() >= *answer {
            return Verdict::CutOff("the peer read nothing for --answer-timeout");
        }
        match self.retired {
            Some(retired) if age.saturating_sub(retired) >= transport.max_connection_grace => {
                Verdict::CutOff("calls were under way at the end of --max-connection-grace")
            }
            None if self.peer.quiet_for() >= transport.max_connection_idle
                || age >= transport.max_connection_age =>
            {
                Verdict::Retire
            }
            _ => Verdict::Stay,
        }
    }

    /// A quarter of the shortest limit, but at least 10 ms and at most [`CHECK`].
    fn check_interval(&self) -> Duration {
        let Limits { answer, transport, .. } = &self.limits;
        let times = [
            *answer,
            transport.handshake_timeout,
            transport.max_connection_idle,
            transport.max_connection_age,
            transport.max_connection_grace,
        ];
        let shortest = times.into_iter().min().unwrap_or(CHECK);
        (shortest / 4).clamp(Duration::from_millis(10), CHECK)
    }
}

/// Runs each call of a connection as a task.
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
                && let Some(unlogged) = UNREAD.due("answer")
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
