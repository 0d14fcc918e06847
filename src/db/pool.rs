//! Connections: how the pool makes one, when it replaces one, and how it cleans up one whose call
//! was cancelled.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bb8::{ManageConnection, PooledConnection};
use diesel::ConnectionError;
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _,
    pooled_connection::PoolableConnection as _,
};
use futures_util::future::join;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::timeout};
use tokio_postgres::error::SqlState;

use super::{
    connect::{self, Link, Login, TlsFault},
    sqlstate,
    statements::Statements,
};
use crate::telemetry;

/// What the pool is called in metrics.
pub(super) const NAME: &str = "pool";
/// How long a statement of a cancelled call may still run before the server is asked to cancel it.
pub(super) const GRACE: Duration = Duration::from_millis(100);
/// How long its connection may then take to roll back before it is closed.
pub(super) const RECOVERY: Duration = Duration::from_secs(10);

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// Outside any transaction: the server has acknowledged COMMIT or ROLLBACK.
    Idle,
    /// A BEGIN may have been sent, so the connection may be in a transaction with a running
    /// statement.
    Running,
    /// In a transaction whose statements have all been answered.
    Settled,
    /// Unusable; the pool closes it.
    Lost,
}

/// Statements that a connection prepares before the pool replaces it. Diesel keeps each one as long
/// as the connection lives, and PostgreSQL keeps a plan with it of some tens of kB. Combinations of
/// filters make more statements than a server has memory for.
const MAX_STATEMENTS: usize = 250;

/// A connection and its state.
pub struct Conn {
    pg: AsyncPgConnection,
    statements: Statements,
    link: Link,
    /// Whether the server accepts cancel requests.
    cancels: bool,
    session: Session,
    opening: Arc<Opening>,
    /// The value of `eras` when the connection was made.
    era: u64,
    eras: Arc<AtomicU64>,
}

impl Conn {
    /// The connection of Diesel. Several queries can be sent through the shared reference before
    /// the first is answered.
    pub const fn pg(&self) -> &AsyncPgConnection {
        &self.pg
    }

    /// How many statements it has prepared, or begun to prepare.
    pub fn prepared(&self) -> usize {
        self.statements.prepared()
    }

    /// The statements that set the role and the bounds of a transaction. They are sent in the same
    /// message as BEGIN, after it.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Makes the pool close all its present connections, each when it is idle: their server no
    /// longer accepts writes, and another one does or soon will.
    pub fn retire_all(&self) {
        // If several connections notice this at once, one exchange is enough.
        let _ = self.eras.compare_exchange(
            self.era,
            self.era + 1,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Rolls back after the running statement. Cancels a statement that runs long, because no call
    /// waits for it.
    async fn recover(&mut self) {
        let mut pg = &self.pg;
        let rollback = pg.batch_execute("ROLLBACK");
        tokio::pin!(rollback);
        let grace = if self.session == Session::Running { GRACE } else { RECOVERY };
        let mut rolled_back = timeout(grace, &mut rollback).await;
        if rolled_back.is_err() && self.session == Session::Running {
            let cancel = timeout(RECOVERY, self.cancel());
            let (heard, late) = join(cancel, timeout(RECOVERY, rollback)).await;
            // If the server has not confirmed the cancel request, it could still cancel a statement
            // of the next borrower. Then the connection is not reused. A confirmed request cancels
            // this statement or none.
            rolled_back = heard.and(late);
        }
        if matches!(rolled_back, Ok(Ok(()))) {
            self.session = Session::Idle;
        }
    }

    /// Whether the connection has so many prepared statements that a new connection costs less.
    fn is_full(&self) -> bool {
        self.prepared() >= MAX_STATEMENTS
    }

    async fn cancel(&self) {
        if self.cancels
            && let Err(error) = self.link.cancel(&self.pg.cancel_token()).await
        {
            tracing::warn!(%error, "cannot cancel a statement whose call has ended");
        }
    }
}

/// Why a connection could not be made. The text is for logs and operators, not for clients.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached or rejects the login.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// The connection cannot be encrypted, or the server's certificate is not accepted. Boxed,
    /// because the future of every call has room for this error.
    #[error("cannot connect to the database: {address}: {fault}")]
    Tls {
        /// The address of the server.
        address: Box<str>,
        /// The reason.
        fault: Box<TlsFault>,
    },
    /// The server is older than the service supports.
    #[error("the database is PostgreSQL {0}; the service needs version 15 or later")]
    TooOld(String),
    /// The server is a standby or read only.
    #[error(
        "cannot connect to the database: the server takes no writes (it is a standby, or read \
         only); name the primary, or all servers separated by commas. With \
         target_session_attrs=any in its URL the service would use such a server"
    )]
    ReadOnly,
    /// The URL asks for a server that does not accept writes.
    #[error(
        "cannot connect to the database: the server takes writes, and \
         target_session_attrs=read-only asks for one that does not"
    )]
    TakesWrites,
    /// A connection pooler in between loses prepared statements.
    #[error(
        "between the service and its database is a connection pooler that loses prepared \
         statements: it gives each transaction any of its server connections. Use PgBouncer 1.21 \
         or later with max_prepared_statements above 0, or pool_mode = session, or no pooler"
    )]
    Pooler,
}

impl ConnectError {
    /// The error for one of the operating system or the driver, with its cause.
    pub fn of(error: &dyn Error) -> Self {
        Self::Connect(Self::words(error))
    }

    /// The text of an error of the operating system or the driver, with its cause.
    pub fn words(error: &dyn Error) -> String {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{cause}")
    }
}

/// How long a transaction may wait for others, or make others wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest wait for a lock (`lock_timeout`).
    pub lock_timeout: Duration,
    /// Longest time between two statements (`idle_in_transaction_session_timeout`), such as after a
    /// crash of the service.
    pub idle_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(2), idle_timeout: Duration::from_secs(5) }
    }
}

/// Makes connections for the pool.
#[derive(Clone)]
pub struct Manager {
    config: Login,
    /// The role of each transaction; `None` keeps the role of the login.
    role: Option<String>,
    opening: Arc<Opening>,
    /// Whether the server is the embedded one.
    embedded: bool,
    /// Whether the login may be able to bypass row-level security.
    privileged: bool,
    /// The time from which on a statement is slow and logged.
    slow: Option<Duration>,
    /// How often [`Conn::retire_all`] has replaced all connections.
    eras: Arc<AtomicU64>,
}

impl fmt::Debug for Manager {
    /// Leaves out the configuration, because it contains the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Manager {
    /// Returns a manager that logs in with `login`. Its transactions run in `role`, or in the role
    /// of the login if that is `None`.
    pub fn new(login: impl Into<Login>, role: Option<String>) -> Self {
        let (config, opening) =
            (login.into(), Opening::of(role.as_deref(), Bounds::default()).into());
        let (embedded, privileged, slow) = (false, false, None);
        Self { config, role, opening, embedded, privileged, slow, eras: Arc::default() }
    }

    /// Sets the bounds of transactions.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.opening = Opening::of(self.role.as_deref(), bounds).into();
        self
    }

    /// Sets up the manager for the embedded server. That server accepts no cancel requests, because
    /// it has no second connection for them; its only login is a superuser; and no pooler is in
    /// between.
    #[must_use]
    pub const fn embedded(mut self) -> Self {
        self.embedded = true;
        self.privileged = true;
        self
    }

    /// Allows a login that can bypass row-level security, such as a superuser, for development.
    #[must_use]
    pub const fn allow_privileged_login(mut self, allowed: bool) -> Self {
        self.privileged |= allowed;
        self
    }

    /// Warns of statements of calls that take at least this long; none if it is zero.
    #[must_use]
    pub fn warn_from(mut self, slow: Duration) -> Self {
        self.slow = Some(slow).filter(|slow| !slow.is_zero());
        self
    }

    /// The time from which on a statement is slow.
    pub(super) const fn slow(&self) -> Option<Duration> {
        self.slow
    }

    pub(super) const fn allows_privileged_login(&self) -> bool {
        self.privileged
    }

    pub(super) const fn config(&self) -> &Login {
        &self.config
    }

    /// Increases with each [`Conn::retire_all`]; connections of an earlier era are replaced.
    pub(super) fn era(&self) -> u64 {
        self.eras.load(Ordering::Relaxed)
    }

    pub(super) fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// Fails if a connection pooler loses prepared statements.
    pub(super) async fn verify_pooler(&self) -> Result<(), ConnectError> {
        if self.embedded { Ok(()) } else { connect::keeps_prepared_statements(&self.config).await }
    }

    /// Opens a connection outside the pool. The connection lives as long as the returned link.
    pub async fn login(&self) -> Result<(AsyncPgConnection, Link), ConnectError> {
        let (client, link) = connect::open(&self.config).await?;
        let pg = AsyncPgConnection::try_from(client).await.map_err(|error| match &error {
            ConnectionError::CouldntSetupConfiguration(cause)
                if matches!(
                    sqlstate::of(cause),
                    Some(SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT)
                ) =>
            {
                ConnectError::Pooler
            }
            _ => ConnectError::of(&error),
        })?;
        Ok((pg, link))
    }
}

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Conn, ConnectError> {
        let (era, began) = (self.era(), Instant::now());
        let (mut pg, link) = self.login().await?;
        telemetry::record_connect(NAME, began.elapsed());
        let (opening, eras) = (Arc::clone(&self.opening), Arc::clone(&self.eras));
        let statements = Statements::new(self.slow);
        pg.set_instrumentation(statements.watcher());
        Ok(Conn {
            pg,
            statements,
            link,
            cancels: !self.embedded,
            session: Session::Idle,
            opening,
            era,
            eras,
        })
    }

    /// Needs no round trip: the socket shows whether the connection is closed, and if it closes
    /// later, the call fails.
    async fn is_valid(&self, conn: &mut Conn) -> Result<(), ConnectError> {
        if self.has_broken(conn) {
            Err(ConnectError::Connect("connection is closed".into()))
        } else {
            Ok(())
        }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        conn.session != Session::Idle
            || conn.pg.is_broken()
            || conn.is_full()
            || conn.era != self.era()
    }
}

/// The settings of each transaction that are the same for all services.
pub(super) const SETTINGS: [(&str, &str); 2] =
    [("search_path", "public,pg_temp"), ("random_page_cost", "1.1")];

/// The statements that begin each transaction: everything that its safety depends on. They set
/// nothing for the session, because a pooler may hand out another session, and other programs may
/// have changed it.
///
/// - The role, for which row-level security holds.
/// - `search_path`, so that the names in queries mean the service's own tables.
/// - The bounds. A transaction that only reads waits for no lock except that of a migration, so it
///   gets no `lock_timeout`: each statement costs the server 3 to 5 microseconds.
/// - `random_page_cost`, whose default is for spinning disks. With it, a search with a few hundred
///   matches would read the accounts of all tenants from end to end instead of fetching its matches
///   by index.
#[derive(Debug)]
pub struct Opening {
    /// For a transaction that only reads.
    pub read: String,
    /// For a transaction that changes rows.
    pub write: String,
}

impl Opening {
    fn of(role: Option<&str>, bounds: Bounds) -> Self {
        let role = role
            .map(|role| format!("SET LOCAL ROLE \"{}\";", role.replace('"', "\"\"")))
            .unwrap_or_default();
        let (lock, idle) = (bounds.lock_timeout.as_millis(), bounds.idle_timeout.as_millis());
        let same = SETTINGS.map(|(name, value)| format!("SET LOCAL {name}={value};")).concat();
        let read = format!("{role}{same}SET LOCAL idle_in_transaction_session_timeout={idle}");
        let write = format!("{read};SET LOCAL lock_timeout={lock}");
        Self { read, write }
    }
}

/// A connection that one transaction has taken from the pool.
///
/// It can be dropped at any moment, for example by a cancelled call. An open transaction is then
/// rolled back after its running statement, and only then does the next borrower get the
/// connection. Thus no data of one tenant reaches another.
pub struct Lease {
    conn: Option<PooledConnection<'static, Manager>>,
    /// The permit that counts the connection against its tenant's share; released with the
    /// connection.
    share: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Marks `conn` as in use, and keeps `share` as long as it is.
    pub fn new(
        mut conn: PooledConnection<'static, Manager>,
        share: Option<OwnedSemaphorePermit>,
    ) -> Self {
        conn.session = Session::Running;
        conn.statements.begin();
        Self { conn: Some(conn), share }
    }

    /// The connection; `None` only while the lease is being dropped.
    pub fn conn(&self) -> Option<&Conn> {
        self.conn.as_deref()
    }

    /// Records that the server has answered every statement so far.
    pub fn settled(&mut self) {
        self.set(Session::Settled);
    }

    /// Records that the server has acknowledged the end of the transaction.
    pub fn ended(&mut self) {
        self.set(Session::Idle);
    }

    /// Makes the pool close the connection instead of reusing it.
    pub fn close(&mut self) {
        self.set(Session::Lost);
    }

    fn set(&mut self, session: Session) {
        if let Some(conn) = &mut self.conn {
            conn.session = session;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        let share = self.share.take();
        conn.statements.end();
        if matches!(conn.session, Session::Idle | Session::Lost) {
            return; // the pool closes one that is not idle
        }
        // Without a runtime the process is ending, and the connection is closed, not reused.
        if let Ok(runtime) = Handle::try_current() {
            #[expect(clippy::disallowed_methods, reason = "the call that had the lease is over")]
            runtime.spawn(async move {
                conn.recover().await;
                drop(conn);
                drop(share);
            });
        }
    }
}
