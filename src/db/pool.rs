//! Connections: how one is made, when it is still good, and how a used one comes back clean.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bb8::{ManageConnection, PooledConnection};
use diesel::connection::InstrumentationEvent;
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _, pooled_connection::PoolableConnection as _,
};
use futures_util::future::join;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::timeout};
use tokio_postgres::{Config, NoTls};

/// How long the statement of a call that was given up may run on before the server is asked to cancel it.
const GRACE: Duration = Duration::from_millis(100);
/// How long its connection may then take to come back clean before it is closed instead.
const RECOVERY: Duration = Duration::from_secs(10);

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// Outside any transaction: a COMMIT or ROLLBACK was acknowledged.
    Idle,
    /// Perhaps in a transaction, with a statement perhaps running: from the moment a BEGIN may have been sent.
    Running,
    /// In a transaction whose statements have all been answered.
    Settled,
}

/// Statements that a connection prepares before it is replaced. Diesel keeps each for as long as the
/// connection lives, and PostgreSQL keeps a plan with it, some tens of kB: filters of lists combine to
/// more statements than a server has memory for.
const MAX_STATEMENTS: usize = 250;

/// A connection, and where it is.
pub struct Conn {
    pg: AsyncPgConnection,
    /// The statements it has prepared.
    statements: Arc<AtomicUsize>,
    /// Whether the server takes cancel requests.
    cancels: bool,
    session: Session,
}

impl Conn {
    /// The connection of Diesel; through a shared reference, queries can be sent before earlier ones are answered.
    pub const fn pg(&self) -> &AsyncPgConnection {
        &self.pg
    }

    /// Rolls back behind whatever is still running. What runs long is cancelled: nobody waits for it any more.
    async fn recover(&mut self) {
        let mut pg = &self.pg;
        let rollback = pg.batch_execute("ROLLBACK");
        tokio::pin!(rollback);
        let grace = if self.session == Session::Running { GRACE } else { RECOVERY };
        let mut rolled_back = timeout(grace, &mut rollback).await;
        if rolled_back.is_err() && self.session == Session::Running {
            let cancel = timeout(RECOVERY, self.cancel());
            let (heard, late) = join(cancel, timeout(RECOVERY, rollback)).await;
            // A request still on its way could hit the statement of the next borrower: then there is no next borrower.
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
            && let Err(error) = self.pg.cancel_token().cancel_query(NoTls).await
        {
            tracing::warn!(%error, "cannot cancel a statement that nobody waits for");
        }
    }
}

/// Why a connection could not be made. The text is for the log and for the operator, not for clients.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server cannot be reached or refuses the login.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
    /// The session cannot be set up, most likely because the login may not become the service's role.
    #[error("cannot set up the database session as role {role:?}: {cause}")]
    Setup {
        /// The role the session should get.
        role: String,
        /// What the database said.
        cause: String,
    },
}

/// Makes connections for the pool.
#[derive(Clone)]
pub struct Manager {
    config: Config,
    /// Role each session changes to; `None` keeps the login.
    role: Option<String>,
    cancels: bool,
}

impl fmt::Debug for Manager {
    /// Without the configuration, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager that logs in with `config` and changes to `role`.
    pub const fn new(config: Config, role: Option<String>) -> Self {
        Self { config, role, cancels: true }
    }

    /// The same for a server that takes no cancel requests, as the embedded one, which has no second connection for them.
    #[must_use]
    pub const fn without_cancel(mut self) -> Self {
        self.cancels = false;
        self
    }

    /// A connection outside the pool, logged in but in no other role.
    pub async fn login(&self) -> Result<AsyncPgConnection, ConnectError> {
        let fault = |error: &dyn std::error::Error| {
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            ConnectError::Connect(format!("{error}{cause}"))
        };
        let (client, connection) = self.config.connect(NoTls).await.map_err(|error| fault(&error))?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await.map_err(|error| fault(&error))
    }
}

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Conn, ConnectError> {
        let mut pg = self.login().await?;
        // The default of random_page_cost is that of spinning disks: a search with a few hundred matches would then read the
        // accounts of all tenants from end to end rather than fetch its matches by index.
        // Messages in English where the login may ask for it: SQLSTATEs of deadlocks and timeouts do not pass through Diesel.
        let mut setup = "SELECT CASE WHEN has_parameter_privilege('lc_messages', 'SET') \
                         THEN set_config('lc_messages', 'C', false) END; \
                         SET random_page_cost = 1.1;"
            .to_owned();
        if let Some(role) = &self.role {
            setup.push_str("SET ROLE \"");
            setup.push_str(&role.replace('"', "\"\""));
            setup.push('"');
        }
        pg.batch_execute(&setup)
            .await
            .map_err(|error| ConnectError::Setup { role: self.role.clone().unwrap_or_default(), cause: error.to_string() })?;
        let statements = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&statements);
        pg.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if matches!(event, InstrumentationEvent::CacheQuery { .. }) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Conn { pg, statements, cancels: self.cancels, session: Session::Idle })
    }

    /// Costs no round trip: a connection that died is noticed by its socket, and one that dies later by its call.
    async fn is_valid(&self, conn: &mut Conn) -> Result<(), ConnectError> {
        if self.has_broken(conn) { Err(ConnectError::Connect("connection is closed".into())) } else { Ok(()) }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        conn.session != Session::Idle || conn.pg.is_broken() || conn.is_full()
    }
}

/// A connection taken from the pool for one transaction.
///
/// It can be dropped at any moment, as a cancelled call does: a transaction left open is then rolled back behind whatever
/// is still running, and only after that does the next borrower get the connection. Nothing of a tenant survives that.
pub struct Lease {
    conn: Option<PooledConnection<'static, Manager>>,
    /// The connection as part of what its tenant may hold; given back with it.
    share: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// Marks `conn` as in use, and holds `share` for as long as it is.
    pub fn new(mut conn: PooledConnection<'static, Manager>, share: Option<OwnedSemaphorePermit>) -> Self {
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
        if conn.session == Session::Idle {
            return;
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
