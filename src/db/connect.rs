//! Connecting to PostgreSQL: the addresses of the configuration, the handshake, what is asked of a
//! server before it is used, and cancel requests.
//!
//! The driver could open sockets itself; they are opened here because [`Coded`] has to lie between
//! socket and driver.

use std::{error::Error, fmt, future::poll_fn, io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Config, NoTls, SimpleQueryMessage,
    config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs},
    error::SqlState,
};
use tokio_util::task::AbortOnDropHandle;

use super::{pool::ConnectError, sqlstate::Coded};

/// Time that a server has to take a connection, unless the URL says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 5432;
/// How often two clients take turns to find out what a pooler does, and how long one waits for the
/// other.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(1);

#[cfg(unix)]
type Socket = tokio_util::either::Either<TcpStream, tokio::net::UnixStream>;
#[cfg(not(unix))]
type Socket = TcpStream;

/// Where a server listens.
#[derive(Debug, Clone)]
enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// The oldest version of PostgreSQL that has what the service uses.
const OLDEST: u32 = 15;

/// Why the URL of a database cannot be used. Says nothing of its contents but the names of
/// parameters, for it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Not a URL of PostgreSQL, or a parameter that the driver does not know.
    #[error(
        "{0}; it takes postgres://user:password@host:port/database, and the parameters application_name, channel_binding, \
         connect_timeout, hostaddr, keepalives, keepalives_idle, keepalives_interval, keepalives_retries, load_balance_hosts, options, \
         sslmode (disable, allow or prefer), target_session_attrs (any, read-write or read-only) and tcp_user_timeout"
    )]
    Malformed(String),
    /// The URL asks for TLS.
    #[error(
        "{0}: the service does not encrypt its connection to the database yet. Use a local socket, a private network or a proxy that \
         encrypts, and sslmode=disable or no sslmode"
    )]
    Tls(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Reads the URL of a database. Unless it says otherwise, its server must take writes
/// (`target_session_attrs=read-write`): of several hosts the first that does is used, and a standby
/// is none.
///
/// # Errors
/// The URL is malformed, has a parameter that is not supported, or asks for TLS. With the values of
/// `sslmode` that make TLS optional the connection goes without.
pub fn login(url: &str) -> Result<Config, UrlError> {
    let malformed = |error: &dyn Error| {
        UrlError::Malformed(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    };
    // Files of secrets end in a line break.
    let url = url.trim();
    let is_known = match url.split_once("://") {
        Some((scheme, _)) => matches!(scheme, "postgres" | "postgresql"),
        None => url.contains('='), // the form host=… dbname=…
    };
    if !is_known {
        return Err(UrlError::Malformed("it does not begin with postgres://".to_owned()));
    }
    let (server, query) = url.split_once('?').unwrap_or((url, ""));
    let (tls, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|parameter| parameter.starts_with("ssl"));
    if let Some(wanted) = tls
        .iter()
        .find(|tls| !matches!(**tls, "sslmode=disable" | "sslmode=allow" | "sslmode=prefer"))
    {
        return Err(match wanted.split_once('=').unwrap_or((wanted, "")) {
            ("sslmode", "require" | "verify-ca" | "verify-full") => {
                UrlError::Tls((*wanted).to_owned())
            }
            ("sslmode", _) => UrlError::Malformed("sslmode has no such value".to_owned()),
            (name, _) => UrlError::Tls(name.to_owned()),
        });
    }
    let without_tls =
        if tls.is_empty() { url.to_owned() } else { format!("{server}?{}", others.join("&")) };
    let mut config: Config = without_tls.parse().map_err(|error| malformed(&error))?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(UrlError::Tls("sslmode=require".to_owned()));
    }
    config.ssl_mode(SslMode::Disable);
    if !url.contains("target_session_attrs") {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(config)
}

/// What keeps a connection of the driver alive, and can cancel what runs on it.
#[derive(Debug)]
pub struct Link {
    config: Config,
    address: Address,
    /// Carries the connection's traffic; ends with this value.
    _driver: AbortOnDropHandle<()>,
}

/// Connects to the first server of the configuration that is as wanted.
pub async fn open(config: &Config) -> Result<(Client, Link), ConnectError> {
    let mut refusal = ConnectError::Connect("the URL names no host".into());
    for address in addresses(config).await? {
        let place = address.to_string();
        let attempt = open_one(config, address);
        let opened = match config.get_connect_timeout() {
            Some(limit) => timeout(*limit, attempt).await,
            None => Ok(attempt.await),
        };
        match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => refusal = error,
            Err(_) => refusal = ConnectError::Connect(format!("{place} does not answer")),
        }
    }
    Err(refusal)
}

async fn open_one(config: &Config, address: Address) -> Result<(Client, Link), ConnectError> {
    let socket = dial(config, &address)
        .await
        .map_err(|error| ConnectError::Connect(format!("{address}: {error}")))?;
    let (client, mut connection) = config
        .connect_raw(Coded::new(socket), NoTls)
        .await
        .map_err(|error| ConnectError::of(&error))?;
    let version = connection.parameter("server_version").unwrap_or_default();
    if is_too_old(version) {
        return Err(ConnectError::TooOld(version.to_owned()));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "lives as long as the connection, which holds its handle"
    )]
    let driver = tokio::spawn(async move {
        // Awaited as a whole, the connection would log the server's notices, which may quote rows.
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let Err(error) = message {
                tracing::warn!(cause = %ConnectError::of(&error), "a database connection has ended");
                return;
            }
        }
    });
    let wanted = config.get_target_session_attrs();
    if wanted != TargetSessionAttrs::Any {
        let writes = takes_writes(&client).await.map_err(|error| ConnectError::of(&error))?;
        if writes != (wanted == TargetSessionAttrs::ReadWrite) {
            return Err(if writes { ConnectError::TakesWrites } else { ConnectError::ReadOnly });
        }
    }
    Ok((client, Link { config: config.clone(), address, _driver: AbortOnDropHandle::new(driver) }))
}

/// Whether the version that a server tells is one that the service does not work with. One that is
/// not told as PostgreSQL tells it is let through: it is somebody else's server, which may work.
fn is_too_old(version: &str) -> bool {
    let major = version.split(|c: char| !c.is_ascii_digit()).next();
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < OLDEST)
}

/// Whether a server takes writes: one that is a standby, or was made read only, does not.
async fn takes_writes(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let answers = client.simple_query("SHOW transaction_read_only").await?;
    Ok(answers
        .iter()
        .any(|answer| matches!(answer, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"))))
}

/// The addresses to be tried, in their order. A host that is not found is passed over as long as
/// there is another.
async fn addresses(config: &Config) -> Result<Vec<Address>, ConnectError> {
    let (hosts, numbers, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let (mut addresses, mut unknown) = (Vec::new(), None);
    for index in 0..hosts.len().max(numbers.len()) {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match (numbers.get(index), hosts.get(index)) {
            // A number spares the name's look-up.
            (Some(number), _) => addresses.push(Address::Tcp(SocketAddr::new(*number, port))),
            (None, Some(Host::Tcp(name))) => match lookup_host((&**name, port)).await {
                Ok(found) => addresses.extend(found.map(Address::Tcp)),
                Err(error) => unknown = Some(format!("the host {name:?} is not found: {error}")),
            },
            #[cfg(unix)]
            (None, Some(Host::Unix(folder))) => {
                addresses.push(Address::Unix(folder.join(format!(".s.PGSQL.{port}"))));
            }
            (None, None) => {}
        }
    }
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random && !addresses.is_empty() {
        let (_, random) = uuid::Uuid::now_v7().as_u64_pair();
        let first = usize::try_from(random).unwrap_or_default() % addresses.len();
        addresses.rotate_left(first);
    }
    match unknown {
        Some(unknown) if addresses.is_empty() => Err(ConnectError::Connect(unknown)),
        _ => Ok(addresses),
    }
}

async fn dial(config: &Config, address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if config.get_keepalives() {
                let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
                if let Some(interval) = config.get_keepalives_interval() {
                    keepalive = keepalive.with_interval(interval);
                }
                #[cfg(not(windows))]
                if let Some(retries) = config.get_keepalives_retries() {
                    keepalive = keepalive.with_retries(retries);
                }
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            }
            #[cfg(target_os = "linux")]
            SockRef::from(&stream).set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
            #[cfg(unix)]
            return Ok(Socket::Left(stream));
            #[cfg(not(unix))]
            Ok(stream)
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Socket::Right(tokio::net::UnixStream::connect(path).await?)),
    }
}

impl Link {
    /// Asks the server to cancel what runs on the connection, and waits until it has passed the
    /// request on: it closes the socket then.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        let mut socket =
            dial(&self.config, &self.address).await.map_err(|error| ConnectError::of(&error))?;
        token
            .cancel_query_raw(&mut socket, NoTls)
            .await
            .map_err(|error| ConnectError::of(&error))?;
        let _ = socket.read_u8().await;
        Ok(())
    }
}

/// Finds out whether prepared statements work: a pooler may give a client another server connection
/// for each transaction, on which a statement that was prepared on the one before is not known.
///
/// Two clients take turns, so that such a pooler has to exchange them.
pub async fn keeps_prepared_statements(config: &Config) -> Result<(), ConnectError> {
    let (first, _link) = open(config).await?;
    let (second, _other_link) = open(config).await?;
    let probe = async {
        let prepared = first.prepare("SELECT pg_backend_pid()").await?;
        for _ in 0..TURNS {
            second.batch_execute("BEGIN; SELECT 1").await?;
            // Where the pooler has but one server connection, this waits for the end of the
            // transaction, and proves nothing.
            let execution = timeout(TURN, first.query_one(&prepared, &[])).await;
            second.batch_execute("ROLLBACK").await?;
            if let Ok(execution) = execution {
                execution?;
            }
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    probe.await.map_err(|error| match error.code() {
        Some(&SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT) => {
            ConnectError::Pooler
        }
        _ => ConnectError::of(&error),
    })
}
