//! Connections: how one is made, when it is still good, and how a used one comes back clean.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bb8::{ManageConnection, PooledConnection};
use diesel::{
    ConnectionError,
    connection::{InstrumentationEvent, get_default_instrumentation},
};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _,
    pooled_connection::PoolableConnection as _,
};
use futures_util::future::join;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::timeout};
use tokio_postgres::{Config, error::SqlState};

use super::{
    connect::{self, Link},
    sqlstate,
};

/// How long the statement of a call that was given up may run on before the server is asked to
/// cancel it.
const GRACE: Duration = Duration::from_millis(100);
/// How long its connection may then take to come back clean before it is closed instead.
const RECOVERY: Duration = Duration::from_secs(10);

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// Outside any transaction: a COMMIT or ROLLBACK was acknowledged.
    Idle,
    /// Perhaps in a transaction, with a statement perhaps running: from the moment a BEGIN may have
    /// been sent.
    Running,
    /// In a transaction whose statements have all been answered.
    Settled,
    /// Of no further use: to be closed.
    Lost,
}

/// Statements that a connection prepares before it is replaced. Diesel keeps each for as long as
/// the connection lives, and PostgreSQL keeps a plan with it, some tens of kB: filters of lists
/// combine to more statements than a server has memory for.
const MAX_STATEMENTS: usize = 250;

/// A connection, and where it is.
pub struct Conn {
    pg: AsyncPgConnection,
    /// The statements it has prepared.
    statements: Arc<AtomicUsize>,
    link: Link,
    /// Whether the server takes cancel requests.
    cancels: bool,
    session: Session,
    opening: Arc<Opening>,
    /// The value of `eras` when the connection was made.
    era: u64,
    eras: Arc<AtomicU64>,
}

impl Conn {
    /// The connection of Diesel; through a shared reference, queries can be sent before earlier
    /// ones are answered.
    pub const fn pg(&self) -> &AsyncPgConnection {
        &self.pg
    }

    /// The statements that give a transaction its role and its bounds, to be sent behind BEGIN in
    /// the same message.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Lets the pool close all connections that it has now, each when nobody uses it any more:
    /// their server takes no writes, and another one does or will.
    pub fn retire_all(&self) {
        // Of several that find this out at once one is enough.
        let _ = self.eras.compare_exchange(
            self.era,
            self.era + 1,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Rolls back behind whatever is still running. What runs long is cancelled: nobody waits for
    /// it any more.
    async fn recover(&mut self) {
        let mut pg = &self.pg;
        let rollback = pg.batch_execute("ROLLBACK");
        tokio::pin!(rollback);
        let grace = if self.session == Session::Running { GRACE } else { RECOVERY };
        let mut rolled_back = timeout(grace, &mut rollback).await;
        if rolled_back.is_err() && self.session == Session::Running {
            let cancel = timeout(RECOVERY, self.cancel());
            let (heard, late) = join(cancel, timeout(RECOVERY, rollback)).await;
            // A request still on its way could hit the statement of the next borrower: then there
            // is no next borrower. Once the server has heard it, it cancels what runs now, or
            // nothing.
            rolled_back = heard.and(late);
        }
        if matches!(rolled_back, Ok(Ok(()))) {
            self.session = Session::Idle;
        }
    }

    /// Whether it holds so many prepared statements that a new connection costs less.
    fn is_full(&self) -> bool {
        self.statements.load(Ordering::Relaxed) >= MAX_STATEMENTS
    }

    async fn cancel(&self) {
        if self.cancels
            && let Err(error) = self.link.cancel(&self.pg.cancel_token()).await
        {
            tracing::warn!(%error, "cannot cancel a statement that nobody waits for");
        }
    }
}

/// Why a connection could not be made. The text is for the log and for the operator, not for
/// clients.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached or refuses the login.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// The server is older than the service supports.
    #[error("the database is PostgreSQL {0}; the service needs version 15 or later")]
    TooOld(String),
    /// The server is a standby, or was made read only.
    #[error(
        "cannot connect to the database: the server takes no writes (it is a standby, or read only); name the primary, or all \
         servers separated by commas. With target_session_attrs=any in its URL such a server would be used all the same"
    )]
    ReadOnly,
    /// The URL asks for a server that takes no writes.
    #[error(
        "cannot connect to the database: the server takes writes, and target_session_attrs=read-only asks for one that does not"
    )]
    TakesWrites,
    /// A pooler is in between that forgets prepared statements.
    #[error(
        "between the service and its database is a connection pooler that loses prepared statements: it gives each transaction any of \
         its server connections. Use PgBouncer 1.21 or later with max_prepared_statements above 0, or pool_mode = session, or no pooler"
    )]
    Pooler,
}

impl ConnectError {
    /// An error of the system or of the driver, with its cause.
    pub fn of(error: &dyn Error) -> Self {
        Self::Connect(Self::words(error))
    }

    /// What an error of the system or of the driver says, with its cause.
    pub fn words(error: &dyn Error) -> String {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{cause}")
    }
}

/// How long a transaction may be in the way of others.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest wait for a lock (`lock_timeout`).
    pub lock_timeout: Duration,
    /// Longest time between two statements (`idle_in_transaction_session_timeout`), as when the
    /// service has vanished.
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
    config: Config,
    /// Role of each transaction; `None` keeps the login's own.
    role: Option<String>,
    opening: Arc<Opening>,
    /// Whether the server is the embedded one.
    embedded: bool,
    /// Whether the login may be one that could get around row-level security.
    privileged: bool,
    /// How often all connections were given up so far.
    eras: Arc<AtomicU64>,
}

impl fmt::Debug for Manager {
    /// Without the configuration, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager that logs in with `config`, and whose transactions run in `role`, or in the
    /// login's own role without one.
    pub fn new(config: Config, role: Option<String>) -> Self {
        let opening = Opening::of(role.as_deref(), Bounds::default()).into();
        Self { config, role, opening, embedded: false, privileged: false, eras: Arc::default() }
    }

    /// The same with other bounds of its transactions.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.opening = Opening::of(self.role.as_deref(), bounds).into();
        self
    }

    /// The same for the embedded server. It takes no cancel requests, because it has no second
    /// connection for them; its only login is a superuser; and nothing stands between it and the
    /// service.
    #[must_use]
    pub const fn embedded(mut self) -> Self {
        self.embedded = true;
        self.privileged = true;
        self
    }

    /// Permits a login that could get around row-level security, such as a superuser, for
    /// development.
    #[must_use]
    pub const fn allow_privileged_login(mut self, allowed: bool) -> Self {
        self.privileged |= allowed;
        self
    }

    pub(super) const fn allows_privileged_login(&self) -> bool {
        self.privileged
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// Refuses a pooler that loses prepared statements.
    pub(super) async fn verify_pooler(&self) -> Result<(), ConnectError> {
        if self.embedded { Ok(()) } else { connect::keeps_prepared_statements(&self.config).await }
    }

    /// A connection outside the pool, and what keeps it alive.
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
        let era = self.eras.load(Ordering::Relaxed);
        let (mut pg, link) = self.login().await?;
        let (opening, eras) = (Arc::clone(&self.opening), Arc::clone(&self.eras));
        let statements = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&statements);
        // Whoever watches all connections of the process, as the tests do, watches this one too.
        let mut watcher = get_default_instrumentation();
        pg.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if matches!(event, InstrumentationEvent::CacheQuery { .. }) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(watcher) = &mut watcher {
                watcher.on_connection_event(event);
            }
        });
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

    /// Costs no round trip: a connection that died is noticed by its socket, and one that dies
    /// later by its call.
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
            || conn.era != self.eras.load(Ordering::Relaxed)
    }
}

/// What transactions begin with: whatever their safety depends on. Nothing of this is left to the
/// session, because a pooler may hand out another one, and other programs may have changed it.
///
/// - The role: row-level security holds for it.
/// - `search_path`: the names in queries mean the service's own tables.
/// - The bounds. A transaction that only reads waits for no lock but that of a migration, and so
///   needs none for locks; each statement costs the server 3 to 5 microseconds.
/// - `random_page_cost`: the default is that of spinning disks. A search with a few hundred matches
///   would then read the accounts of all tenants from end to end rather than fetch its matches by
///   index.
#[derive(Debug)]
pub struct Opening {
    /// For a transaction that only reads.
    pub read: String,
    /// For a transaction that changes something.
    pub write: String,
}

impl Opening {
    fn of(role: Option<&str>, bounds: Bounds) -> Self {
        let role = role
            .map(|role| format!("SET LOCAL ROLE \"{}\";", role.replace('"', "\"\"")))
            .unwrap_or_default();
        let (lock, idle) = (bounds.lock_timeout.as_millis(), bounds.idle_timeout.as_millis());
        let read = format!(
            "{role}SET LOCAL search_path=public,pg_temp;SET LOCAL idle_in_transaction_session_timeout={idle};\
             SET LOCAL random_page_cost=1.1"
        );
        let write = format!("{read};SET LOCAL lock_timeout={lock}");
        Self { read, write }
    }
}

/// A connection taken from the pool for one transaction.
///
/// It can be dropped at any moment, as a cancelled call does: a transaction left open is then
/// rolled back behind whatever is still running, and only after that does the next borrower get the
/// connection. Nothing of a tenant survives that.
pub struct Lease {
    conn: Option<PooledConnection<'static, Manager>>,
    /// The connection as part of what its tenant may hold; given back with it.
    share: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Marks `conn` as in use, and holds `share` for as long as it is.
    pub fn new(
        mut conn: PooledConnection<'static, Manager>,
        share: Option<OwnedSemaphorePermit>,
    ) -> Self {
        conn.session = Session::Running;
        Self { conn: Some(conn), share }
    }

    /// The connection; `None` never happens before the lease is dropped.
    pub fn conn(&self) -> Option<&Conn> {
        self.conn.as_deref()
    }

    /// Notes that every statement sent so far has been answered.
    pub fn settled(&mut self) {
        self.set(Session::Settled);
    }

    /// Notes that the server has acknowledged the end of the transaction.
    pub fn ended(&mut self) {
        self.set(Session::Idle);
    }

    /// Has the connection closed instead of used again.
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
        if matches!(conn.session, Session::Idle | Session::Lost) {
            return; // the pool closes one that is not idle
        }
        // Without a runtime the process is ending; the connection is then closed, not reused.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                conn.recover().await;
                drop(conn);
                drop(share);
            });
        }
    }
}
