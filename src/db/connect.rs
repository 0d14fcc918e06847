//! Connects to PostgreSQL: the addresses of the configuration, TLS, the login, checks of the
//! server, and cancel requests.
//!
//! The sockets are opened and encrypted here and not by the driver, because [`Coded`] must be
//! between the encryption and the driver.

mod address;
mod binding;
mod login;
mod tls;
mod url;
mod verifier;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Connection, SimpleQueryMessage,
    config::{SslMode, SslNegotiation, TargetSessionAttrs},
    error::SqlState,
};
use tokio_rustls::client::TlsStream;
use tokio_util::{either::Either, task::AbortOnDropHandle};
use uuid::Uuid;

pub use self::{
    address::Address,
    login::Login,
    tls::TlsFault,
    url::{UrlError, login},
};
use self::{
    address::dial,
    binding::{Bound, Established, certificate_hash},
    login::Mode,
};
use super::{pool::ConnectError, sqlstate::Coded};

/// How many turns two clients take to detect a pooler that does not keep prepared statements, and
/// how long one waits for the other.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(1);

/// A socket to the server that is not encrypted.
#[cfg(unix)]
type Plain = Either<TcpStream, tokio::net::UnixStream>;
/// A socket to the server that is not encrypted.
#[cfg(not(unix))]
type Plain = TcpStream;
/// A socket to the server.
pub type Socket = Either<Plain, Box<TlsStream<TcpStream>>>;

/// The oldest version of PostgreSQL that the service works with.
const OLDEST: u32 = 15;

/// The server of a connection, which can cancel the connection's statement.
#[derive(Debug)]
pub struct Server {
    login: Login,
    address: Address,
}

/// Runs a connection of the driver as long as it exists, and can cancel its statement.
#[derive(Debug)]
pub struct Link {
    /// Boxed, because the future of every call has room for its connection.
    server: Box<Server>,
    /// The task that runs the connection; it ends when this value is dropped.
    _driver: AbortOnDropHandle<()>,
}

/// The encryption of a socket, as its handshake has left it.
#[derive(Debug, Clone, Default)]
struct Encryption {
    is_on: bool,
    /// Whether the server may refuse the client's certificate after the handshake.
    late: bool,
    certificate_hash: Option<Vec<u8>>,
}

/// Connects to the first server of the configuration that has the wanted `target_session_attrs`.
pub async fn open(login: &Login) -> Result<(Client, Link), ConnectError> {
    first(login, |address| open_one(login, address)).await
}

/// Connects to a server, and returns the socket after the login instead of a driver. [`Coded`] does
/// not see what the server sends on it.
pub async fn open_raw(
    login: &Login,
    address: Address,
) -> Result<(Socket, CancelToken, Server), ConnectError> {
    let mut socket = connect_to(login, &address).await?;
    let encryption = Encryption::of(&socket);
    let (client, connection) = log_in(login, &address, encryption, &mut socket).await?;
    require_version(connection.parameter("server_version"))?;
    let cancel = client.cancel_token();
    // Neither sends anything when it is dropped without having been polled.
    drop((client, connection));
    Ok((socket, cancel, Server { login: login.clone(), address }))
}

/// Returns what `open` returns for the first address of the configuration for which it succeeds.
pub async fn first<T, F, Fut>(login: &Login, open: F) -> Result<T, ConnectError>
where
    F: Fn(Address) -> Fut,
    Fut: Future<Output = Result<T, ConnectError>>,
{
    let mut refusal = ConnectError::Connect("the URL names no host".into());
    for address in Address::all(&login.config).await? {
        let place = address.to_string();
        let attempt = open(address);
        let opened = match login.config.get_connect_timeout() {
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

async fn open_one(login: &Login, address: Address) -> Result<(Client, Link), ConnectError> {
    let socket = connect_to(login, &address).await?;
    let encryption = Encryption::of(&socket);
    let (client, mut connection) = log_in(login, &address, encryption, Coded::new(socket)).await?;
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
    if login.config.get_target_session_attrs() != TargetSessionAttrs::Any {
        let writes = takes_writes(&client).await.map_err(|error| ConnectError::of(&error))?;
        require_attributes(login, writes)?;
    }
    let server = Box::new(Server { login: login.clone(), address });
    Ok((client, Link { server, _driver: AbortOnDropHandle::new(driver) }))
}

/// Opens a socket to a server, and encrypts it if the login wants that.
async fn connect_to(login: &Login, address: &Address) -> Result<Socket, ConnectError> {
    let failed = |error| ConnectError::Connect(format!("{address}: {error}"));
    match address {
        Address::Tcp { address: number, host, local } => {
            let faulty = |fault| faulty(address, fault);
            let mode = login.tls.mode_for(*local);
            if mode == Mode::Disable {
                let stream = dial(&login.config, *number).await.map_err(failed)?;
                #[cfg(unix)]
                return Ok(Either::Left(Plain::Left(stream)));
                #[cfg(not(unix))]
                return Ok(Either::Left(stream));
            }
            let client = tls::client(&login.tls, mode).await.map_err(faulty)?;
            let stream = dial(&login.config, *number).await.map_err(failed)?;
            let encrypted = tls::encrypt(stream, client, &login.tls, mode, host).await;
            Ok(Either::Right(Box::new(encrypted.map_err(faulty)?)))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            let stream = tokio::net::UnixStream::connect(path).await.map_err(failed)?;
            Ok(Either::Left(Plain::Right(stream)))
        }
    }
}

fn faulty(address: &Address, fault: TlsFault) -> ConnectError {
    ConnectError::Tls { address: address.to_string().into(), fault: fault.into() }
}

impl Encryption {
    fn of(socket: &Socket) -> Self {
        let Either::Right(stream) = socket else { return Self::default() };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        Self {
            is_on: true,
            late: session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3),
            certificate_hash: certificate.and_then(|certificate| certificate_hash(certificate)),
        }
    }
}

/// Logs in on a socket.
async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    login: &Login,
    address: &Address,
    encryption: Encryption,
    socket: S,
) -> Result<(Client, Connection<S, Bound<S>>), ConnectError> {
    let Encryption { is_on, late, certificate_hash } = encryption;
    let mut config = login.config.clone();
    if is_on {
        // The driver then takes the socket for encrypted, and asks for nothing.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    } else {
        config.ssl_mode(SslMode::Disable);
    }
    config.connect_raw(socket, Established { certificate_hash }).await.map_err(|error| {
        let shows = login.tls.identity.is_some();
        let fault = if is_on { TlsFault::after_handshake(&error, late, shows) } else { None };
        if let Some(fault) = fault {
            return faulty(address, fault);
        }
        let hint = match (error.code(), is_on, shows) {
            (Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), false, _) => {
                ". The connection is not encrypted: if the server requires that, set sslmode"
            }
            (Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), true, false) => {
                ". If the server requires a client certificate, set sslcert and sslkey"
            }
            _ => "",
        };
        ConnectError::Connect(ConnectError::words(&error) + hint)
    })
}

fn require_version(version: Option<&str>) -> Result<(), ConnectError> {
    match version {
        Some(version) if is_too_old(version) => Err(ConnectError::TooOld(version.to_owned())),
        _ => Ok(()),
    }
}

/// Fails unless a server that accepts writes, or does not, has the wanted `target_session_attrs`.
pub fn require_attributes(login: &Login, writes: bool) -> Result<(), ConnectError> {
    match login.config.get_target_session_attrs() {
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
        let mut socket = connect_to(&self.login, &self.address).await?;
        token
            .cancel_query_raw(&mut socket, Established::default())
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
pub async fn keeps_prepared_statements(login: &Login) -> Result<(), ConnectError> {
    let (first, _link) = open(login).await?;
    let (second, _other_link) = open(login).await?;
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
