//! Connections: how one is made, when it is still good, and how a used one comes back clean.

use std::{fmt, time::Duration};

use bb8::{ManageConnection, PooledConnection};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _, pooled_connection::PoolableConnection as _};
use tokio::{runtime::Handle, time::timeout};
use tokio_postgres::{Config, NoTls};

/// How long a connection whose call was given up may take to come back clean before it is closed instead.
const RECOVERY: Duration = Duration::from_secs(10);

/// A connection, and whether it is outside any transaction.
pub struct Conn {
    pg: AsyncPgConnection,
    /// False from the moment a BEGIN may have been sent until a COMMIT or ROLLBACK was acknowledged.
    idle: bool,
}

impl Conn {
    /// The connection of Diesel; through a shared reference, queries can be sent before earlier ones are answered.
    pub const fn pg(&self) -> &AsyncPgConnection {
        &self.pg
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
        Self { config, role }
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
        // Messages in English where the login may ask for it: SQLSTATEs of deadlocks and timeouts do not pass through Diesel.
        let mut setup = "SELECT CASE WHEN has_parameter_privilege('lc_messages', 'SET') \
                         THEN set_config('lc_messages', 'C', false) END;"
            .to_owned();
        if let Some(role) = &self.role {
            setup.push_str("SET ROLE \"");
            setup.push_str(&role.replace('"', "\"\""));
            setup.push('"');
        }
        pg.batch_execute(&setup)
            .await
            .map_err(|error| ConnectError::Setup { role: self.role.clone().unwrap_or_default(), cause: error.to_string() })?;
        Ok(Conn { pg, idle: true })
    }

    /// Costs no round trip: a connection that died is noticed by its socket, and one that dies later by its call.
    async fn is_valid(&self, conn: &mut Conn) -> Result<(), ConnectError> {
        if self.has_broken(conn) { Err(ConnectError::Connect("connection is closed".into())) } else { Ok(()) }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        !conn.idle || conn.pg.is_broken()
    }
}

/// A connection taken from the pool for one transaction.
///
/// It can be dropped at any moment, as a cancelled call does: a transaction left open is then rolled back behind whatever
/// is still running, and only after that does the next borrower get the connection. Nothing of a tenant survives that.
pub struct Lease(Option<PooledConnection<'static, Manager>>);

impl Lease {
    /// Marks `conn` as in use.
    pub fn new(mut conn: PooledConnection<'static, Manager>) -> Self {
        conn.idle = false;
        Self(Some(conn))
    }

    /// The connection; `None` never happens before the lease is dropped.
    pub fn conn(&self) -> Option<&Conn> {
        self.0.as_deref()
    }

    /// Notes that the server has acknowledged the end of the transaction.
    pub fn ended(&mut self) {
        if let Some(conn) = &mut self.0 {
            conn.idle = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut conn) = self.0.take() else { return };
        if conn.idle {
            return;
        }
        // Without a runtime the process is ending; the connection is then closed, not reused.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let rolled_back = timeout(RECOVERY, (&mut &conn.pg).batch_execute("ROLLBACK")).await;
                conn.idle = matches!(rolled_back, Ok(Ok(())));
            });
        }
    }
}
