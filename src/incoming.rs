//! Accepts connections: at most so many in all and from one address, with TLS if it is configured.
//!
//! `accept` returns a connection before its TLS handshake. The handshake runs with the first read,
//! on the connection's own task, so that a slow or silent peer delays nobody else and handshakes
//! use all cores.

mod addresses;
mod connection;
mod frames;

use std::{io, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use self::addresses::Addresses;
pub use self::connection::Connection;
use crate::{
    config::Transport,
    peer::Peer,
    telemetry::{
        Seldom,
        metrics::{CONNECTIONS_MAX, CONNECTIONS_OPEN, CONNECTIONS_REFUSED},
    },
    tls,
};

/// How long a peer may be silent before the operating system probes the connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long to wait after `accept` failed for a reason that will not go away at once, such as a
/// lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Limits how often refused connections are logged, by cause.
static REFUSED: Seldom = Seldom::new(Duration::from_secs(10));

/// Accepts connections. Dropping it closes the port.
pub struct Incoming {
    listener: TcpListener,
    tls: Option<tls::Current>,
    config: Transport,
    permits: Arc<Semaphore>,
    addresses: Addresses,
}

impl Incoming {
    /// Accepts the listener's connections, with TLS if `tls` is given. Exports how many are open.
    pub fn new(listener: TcpListener, tls: Option<tls::Current>, config: &Transport) -> Self {
        let most = config.max_connections;
        let permits = Arc::new(Semaphore::new(most));
        let observed = Arc::clone(&permits);
        CONNECTIONS_OPEN.observe(move || most.saturating_sub(observed.available_permits()));
        CONNECTIONS_MAX.observe(move || most);
        Self { listener, tls, config: config.clone(), permits, addresses: Addresses::default() }
    }

    /// The next connection. A connection over a limit is closed at once, so that its peer can try
    /// another replica instead of waiting.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if concerns_one_connection(&error) => continue,
                Err(error) => {
                    CONNECTIONS_REFUSED.count("operating_system");
                    log_refused("the operating system gives none", Some(&error));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                CONNECTIONS_REFUSED.count("max_connections");
                log_refused("--max-connections are open", None);
                continue;
            };
            let most = self.config.max_connections_per_peer;
            let Some(counted) = self.addresses.enter(address.ip(), most) else {
                CONNECTIONS_REFUSED.count("max_connections_per_peer");
                log_refused("--max-connections-per-peer are open from one address", None);
                continue;
            };
            set_socket_options(&stream);
            let tls = self.tls.as_ref().map(|current| Arc::clone(&current.borrow()));
            return Connection::new(stream, tls, Peer::new(&self.config), (permit, counted));
        }
    }
}

fn set_socket_options(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // Neither option can fail on a connection that still exists.
    let _ =
        stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
}

fn log_refused(cause: &'static str, error: Option<&io::Error>) {
    if let Some(unlogged) = REFUSED.due(cause) {
        tracing::warn!(
            cause,
            error = error.map(|error| error as &dyn std::error::Error),
            unlogged,
            "connections are refused"
        );
    }
}

/// Whether `accept` failed because of the one connection that it would have returned.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
    )
}
