//! Connects to PostgreSQL: the addresses of the configuration, the handshake, checks of the server,
//! and cancel requests.
//!
//! The sockets are opened here and not by the driver, because [`Coded`] must be between socket and
//! driver.

mod url;

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Config, NoTls, SimpleQueryMessage,
    config::{Host, LoadBalanceHosts, TargetSessionAttrs},
    error::SqlState,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use self::url::{UrlError, login};
use super::{pool::ConnectError, sqlstate::Coded};

const DEFAULT_PORT: u16 = 5432;
/// How many turns two clients take to detect a pooler that does not keep prepared statements, and
/// how long one waits for the other.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(1);

/// A socket to the server.
#[cfg(unix)]
pub type Socket = tokio_util::either::Either<TcpStream, tokio::net::UnixStream>;
/// A socket to the server.
#[cfg(not(unix))]
pub type Socket = TcpStream;

/// The address of a server.
#[derive(Debug, Clone)]
pub enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

/// The oldest version of PostgreSQL that the service works with.
const OLDEST: u32 = 15;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The server of a connection, which can cancel the connection's statement.
#[derive(Debug)]
pub struct Server {
    config: Config,
    address: Address,
}

/// Runs a connection of the driver as long as it exists, and can cancel its statement.
#[derive(Debug)]
pub struct Link {
    server: Server,
    /// The task that runs the connection; it ends when this value is dropped.
    _driver: AbortOnDropHandle<()>,
}

/// Connects to the first server of the configuration that has the wanted `target_session_attrs`.
pub async fn open(config: &Config) -> Result<(Client, Link), ConnectError> {
    first(config, |address| open_one(config, address)).await
}

/// Connects to a server, and returns the socket after the handshake instead of a driver. [`Coded`]
/// does not see what the server sends on it.
pub async fn open_raw(
    config: &Config,
    address: Address,
) -> Result<(Socket, CancelToken, Server), ConnectError> {
    let mut socket = connect_to(config, &address).await?;
    let (client, connection) =
        config.connect_raw(&mut socket, NoTls).await.map_err(|error| ConnectError::of(&error))?;
    require_version(connection.parameter("server_version"))?;
    let cancel = client.cancel_token();
    // Neither sends anything when it is dropped without having been polled.
    drop((client, connection));
    Ok((socket, cancel, Server { config: config.clone(), address }))
}

/// Returns what `open` returns for the first address of the configuration for which it succeeds.
pub async fn first<T, F, Fut>(config: &Config, open: F) -> Result<T, ConnectError>
where
    F: Fn(Address) -> Fut,
    Fut: Future<Output = Result<T, ConnectError>>,
{
    let mut refusal = ConnectError::Connect("the URL names no host".into());
    for address in addresses(config).await? {
        let place = address.to_string();
        let attempt = open(address);
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
    let socket = connect_to(config, &address).await?;
    let (client, mut connection) = config
        .connect_raw(Coded::new(socket), NoTls)
        .await
        .map_err(|error| ConnectError::of(&error))?;
    require_version(connection.parameter("server_version"))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "lives as long as the connection, which holds its handle"
    )]
    let driver = tokio::spawn(async move {
        // Polled message by message: `connection.await` would log the server's notices, which may
        // quote rows.
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let Err(error) = message {
                let cause = ConnectError::of(&error);
                tracing::warn!(%cause, "a database connection has ended");
                return;
            }
        }
    });
    if config.get_target_session_attrs() != TargetSessionAttrs::Any {
        let writes = takes_writes(&client).await.map_err(|error| ConnectError::of(&error))?;
        require_attributes(config, writes)?;
    }
    let server = Server { config: config.clone(), address };
    Ok((client, Link { server, _driver: AbortOnDropHandle::new(driver) }))
}

async fn connect_to(config: &Config, address: &Address) -> Result<Socket, ConnectError> {
    let socket = dial(config, address).await;
    socket.map_err(|error| ConnectError::Connect(format!("{address}: {error}")))
}

fn require_version(version: Option<&str>) -> Result<(), ConnectError> {
    match version {
        Some(version) if is_too_old(version) => Err(ConnectError::TooOld(version.to_owned())),
        _ => Ok(()),
    }
}

/// Fails unless a server that accepts writes, or does not, has the wanted `target_session_attrs`.
pub fn require_attributes(config: &Config, writes: bool) -> Result<(), ConnectError> {
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite if !writes => Err(ConnectError::ReadOnly),
        TargetSessionAttrs::ReadOnly if writes => Err(ConnectError::TakesWrites),
        _ => Ok(()),
    }
}

/// Whether a server's version is too old. A version in an unknown form is accepted: such a server
/// may be compatible.
fn is_too_old(version: &str) -> bool {
    let major = version.split(|c: char| !c.is_ascii_digit()).next();
    major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < OLDEST)
}

/// Whether the server accepts writes. A standby does not, nor does a database that is set to read
/// only.
async fn takes_writes(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let answers = client.simple_query("SHOW transaction_read_only").await?;
    Ok(answers
        .iter()
        .any(|answer| matches!(answer, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"))))
}

/// The addresses to try, in order. A host that cannot be resolved is skipped if there are others.
async fn addresses(config: &Config) -> Result<Vec<Address>, ConnectError> {
    let (hosts, numbers, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let (mut addresses, mut unknown) = (Vec::new(), None);
    for index in 0..hosts.len().max(numbers.len()) {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match (numbers.get(index), hosts.get(index)) {
            // With `hostaddr` the name is not looked up.
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
        let (_, random) = Uuid::now_v7().as_u64_pair();
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
    /// [`Server::cancel`] for this connection.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        self.server.cancel(token).await
    }
}

impl Server {
    /// Asks the server to cancel the statement of a connection, and waits until the server
    /// closes the socket: then the request has been delivered.
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

/// Fails if prepared statements do not work: a pooler may use another server connection for each
/// transaction, which does not know the statements that were prepared on the first, or has another
/// client's statement of that name.
///
/// Two clients take turns, so that such a pooler has to swap their server connections.
pub async fn keeps_prepared_statements(config: &Config) -> Result<(), ConnectError> {
    let (first, _link) = open(config).await?;
    let (second, _other_link) = open(config).await?;
    let mark = Uuid::now_v7().simple().to_string();
    let probe = async {
        let prepared = first.prepare(&format!("SELECT '{mark}'::text")).await?;
        for _ in 0..TURNS {
            second.batch_execute("BEGIN; SELECT 1").await?;
            // If the pooler has only one server connection, this waits for the end of the other's
            // transaction, and shows nothing.
            let mut execution = pin!(first.query_one(&prepared, &[]));
            let early = timeout(TURN, &mut execution).await;
            second.batch_execute("ROLLBACK").await?;
            let row = match early {
                Ok(row) => row?,
                Err(_) => execution.await?,
            };
            if row.try_get::<_, &str>(0).ok() != Some(&mark) {
                return Ok(false);
            }
        }
        Ok::<_, tokio_postgres::Error>(true)
    };
    match probe.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ConnectError::Pooler),
        Err(error) => Err(match error.code() {
            Some(&SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT) => {
                ConnectError::Pooler
            }
            _ => ConnectError::of(&error),
        }),
    }
}
