//! Connecting to PostgreSQL: the addresses of the configuration, the handshake, what is asked of a server before it is used, and
//! cancel requests.
//!
//! The driver could open sockets itself; they are opened here because [`Coded`] has to lie between socket and driver.

use std::{future::poll_fn, io, net::SocketAddr, time::Duration};

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

use super::{pool::ConnectError, sqlstate::Coded};

/// Time that a server has to take a connection, unless the URL says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 5432;
/// How often two clients take turns to find out what a pooler does, and how long one waits for the other.
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

/// Reads the URL of a database. Unless it says otherwise, its server must take writes (`target_session_attrs=read-write`): of
/// several hosts the first that does is used, and a standby is none.
pub fn login(url: &str) -> Result<Config, tokio_postgres::Error> {
    let mut config: Config = url.parse()?;
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
    for address in addresses(config).await.map_err(|error| ConnectError::of(&error))? {
        let attempt = open_one(config, address);
        let opened = match config.get_connect_timeout() {
            Some(limit) => timeout(*limit, attempt).await,
            None => Ok(attempt.await),
        };
        match opened {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => refusal = error,
            Err(_) => refusal = ConnectError::Connect("the server does not answer".into()),
        }
    }
    Err(refusal)
}

async fn open_one(config: &Config, address: Address) -> Result<(Client, Link), ConnectError> {
    let socket = dial(config, &address).await.map_err(|error| ConnectError::of(&error))?;
    let (client, mut connection) =
        config.connect_raw(Coded::new(socket), NoTls).await.map_err(|error| ConnectError::of(&error))?;
    #[expect(clippy::disallowed_methods, reason = "lives as long as the connection, which holds its handle")]
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

/// Whether a server takes writes: one that is a standby, or was made read only, does not.
async fn takes_writes(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let answers = client.simple_query("SHOW transaction_read_only").await?;
    Ok(answers.iter().any(|answer| matches!(answer, SimpleQueryMessage::Row(row) if row.get(0) == Some("off"))))
}

/// The addresses to be tried, in their order.
async fn addresses(config: &Config) -> io::Result<Vec<Address>> {
    let (hosts, numbers, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let mut addresses = Vec::new();
    for index in 0..hosts.len().max(numbers.len()) {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match (numbers.get(index), hosts.get(index)) {
            // A number spares the name's look-up.
            (Some(number), _) => addresses.push(Address::Tcp(SocketAddr::new(*number, port))),
            (None, Some(Host::Tcp(name))) => addresses.extend(lookup_host((&**name, port)).await?.map(Address::Tcp)),
            #[cfg(unix)]
            (None, Some(Host::Unix(folder))) => addresses.push(Address::Unix(folder.join(format!(".s.PGSQL.{port}")))),
            (None, None) => {}
        }
    }
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random && !addresses.is_empty() {
        let (_, random) = uuid::Uuid::now_v7().as_u64_pair();
        let first = usize::try_from(random).unwrap_or_default() % addresses.len();
        addresses.rotate_left(first);
    }
    Ok(addresses)
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
    /// Asks the server to cancel what runs on the connection, and waits until it has passed the request on: it closes the socket
    /// then.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        let mut socket = dial(&self.config, &self.address).await.map_err(|error| ConnectError::of(&error))?;
        token.cancel_query_raw(&mut socket, NoTls).await.map_err(|error| ConnectError::of(&error))?;
        let _ = socket.read_u8().await;
        Ok(())
    }
}

/// Finds out whether prepared statements work: a pooler may give a client another server connection for each transaction, on
/// which a statement that was prepared on the one before is not known.
///
/// Two clients take turns, so that such a pooler has to exchange them.
pub async fn keeps_prepared_statements(config: &Config) -> Result<(), ConnectError> {
    let (first, _link) = open(config).await?;
    let (second, _other_link) = open(config).await?;
    let probe = async {
        let prepared = first.prepare("SELECT pg_backend_pid()").await?;
        for _ in 0..TURNS {
            second.batch_execute("BEGIN; SELECT 1").await?;
            // Where the pooler has but one server connection, this waits for the end of the transaction, and proves nothing.
            let execution = timeout(TURN, first.query_one(&prepared, &[])).await;
            second.batch_execute("ROLLBACK").await?;
            if let Ok(execution) = execution {
                execution?;
            }
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    probe.await.map_err(|error| match error.code() {
        Some(&SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT) => ConnectError::Pooler,
        _ => ConnectError::of(&error),
    })
}
