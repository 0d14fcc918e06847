//! Applies and reverts migrations, and creates the roles that they need.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use diesel::{
    QueryableByName,
    connection::InstrumentationEvent,
    migration::{Migration, MigrationSource as _},
    pg::Pg,
    result::Error as DieselError,
    sql_types,
};
use diesel_async::{
    AnsiTransactionManager, AsyncConnection as _, AsyncMigrationHarness, AsyncPgConnection,
    RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::{
    pool::{ConnectError, Manager},
    sqlstate,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
const ROLES: &str = include_str!("roles.sql");
/// Attempts after a collision: two replicas that both find an empty database can collide while they
/// create what the lock below needs.
const COLLISIONS: u32 = 5;
/// Attempts of a migration that does not get a table's lock in time, and the pause between them.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_secs(2);

/// Begins the migrating transaction: as the owner of the tables, and alone. A second process waits
/// for the lock, and then finds no migration missing. The table is Diesel's own record of applied
/// migrations.
///
/// All other locks compete with calls. While a migration waits for a table that a long transaction
/// uses, all calls that need the table wait behind it. So it waits for less time than they do
/// (`--lock-timeout`), then lets them through and is tried again.
const ALONE: &str = "SET LOCAL ROLE customer_accounts_owner; \
    SET LOCAL search_path = public, pg_temp; \
    SET LOCAL client_min_messages = warning; \
    SET LOCAL lock_timeout = 0; \
    CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (\
        version varchar(50) PRIMARY KEY NOT NULL, \
        run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP); \
    LOCK TABLE __diesel_schema_migrations IN ACCESS EXCLUSIVE MODE; \
    SET LOCAL lock_timeout = '1s'; \
    GRANT SELECT ON __diesel_schema_migrations TO customer_accounts_app";
/// Whether the login may change to the owner's role. Before PostgreSQL 16 every member may.
const IS_OWNER: &str = "SELECT pg_has_role('customer_accounts_owner', \
    CASE WHEN current_setting('server_version_num')::int >= 160000 \
        THEN 'SET' ELSE 'MEMBER' END) AS is_owner";
/// A login that may grant itself the owner's role holds it while it migrates, and gives it up
/// afterwards.
pub(super) const BECOME_OWNER: &str = "GRANT customer_accounts_owner TO CURRENT_USER";
pub(super) const LEAVE_OWNER: &str = "RESET ROLE; REVOKE customer_accounts_owner FROM CURRENT_USER";

#[derive(QueryableByName)]
struct Login {
    #[diesel(sql_type = sql_types::Bool)]
    is_owner: bool,
}

/// Why the database cannot be used or migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// There is no connection that can be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("migrating the database: {0}")]
    Database(#[from] DieselError),
    /// A migration failed. It was rolled back completely.
    #[error("migrating the database: {0}")]
    Migration(Box<dyn std::error::Error + Send + Sync>),
    /// The login may not migrate.
    #[error(
        "migrating the database: {0}. The login that migrates (--migration-database-url, or else \
         DATABASE_URL) must be a member of customer_accounts_owner, or be allowed to create roles: \
         docs/OPERATIONS.md has the statements"
    )]
    NotAllowed(DieselError),
    /// The login could bypass row-level security, whatever role the service changes to.
    #[error(
        "the service would log in to the database as {login:?}, which {why}: whoever obtains that \
         login could bypass row-level security, which keeps tenants apart. Give the service a \
         login that is a member of the role customer_accounts_app and nothing more \
         (docs/OPERATIONS.md has the statements), and migrate with another login \
         (--migration-database-url). For development: --allow-privileged-login"
    )]
    UnsafeLogin {
        /// The login.
        login: String,
        /// What is wrong with it.
        why: String,
    },
    /// The service does not work with a setting of the login or the database.
    #[error(
        "the login {login:?} of the database {why}. Remove the setting from the login or the \
         database (ALTER ROLE or ALTER DATABASE … RESET)"
    )]
    UnsafeSetting {
        /// The login.
        login: String,
        /// The setting, and what it does.
        why: String,
    },
    /// The login cannot change to the role, or the role does not exist.
    #[error(
        "the service cannot use the database as role {role:?} (--database-role): {cause}. \
         `customer-accounts migrate` creates customer_accounts_app; then: GRANT {role} TO the \
         login of DATABASE_URL (from PostgreSQL 16 on WITH SET TRUE, if it was granted without)"
    )]
    NoRole {
        /// The role.
        role: String,
        /// The error of the database.
        cause: String,
    },
    /// The role could bypass row-level security.
    #[error(
        "the service would use the database as role {role:?}, which {why}: row-level security \
         would not keep tenants apart. Let it use a role such as customer_accounts_app, which \
         `customer-accounts migrate` creates (--database-role)"
    )]
    UnsafeRole {
        /// The role.
        role: String,
        /// What is wrong with it.
        why: String,
    },
    /// Migrations are missing.
    #[error(
        "the database lacks migration {0}: run `customer-accounts migrate`, or let the service do \
         it with --migrate"
    )]
    Pending(String),
    /// Rows have words and sort keys of a previous version.
    #[error(
        "words and sort keys in the database are those of a previous version: run \
         `customer-accounts migrate`, or let the service do it with --migrate"
    )]
    NotRenewed,
    /// A table does not isolate tenants.
    #[error(
        "the table {table:?} {why}: it does not keep tenants apart. The migrations give every \
         table that has a tenant_id row-level security, enabled and forced, and one policy; \
         somebody has changed that, and must change it back"
    )]
    OpenTable {
        /// The table.
        table: String,
        /// What is wrong with it.
        why: String,
    },
}

impl MigrateError {
    /// Whether migrating creates what is missing.
    pub const fn migrating_helps(&self) -> bool {
        matches!(self, Self::NoRole { .. } | Self::Pending(_) | Self::NotRenewed)
    }
}

/// The SQLSTATE of the first failed statement. Diesel's harness hides the errors of migrations, but
/// the connection's instrumentation sees them.
#[derive(Debug, Clone, Default)]
struct FirstFailure(Arc<OnceLock<SqlState>>);

impl FirstFailure {
    fn watch(&self, conn: &mut AsyncPgConnection) {
        let first = Arc::clone(&self.0);
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::FinishQuery { error: Some(error), .. } = event
                && let Some(state) = sqlstate::of(error)
            {
                let _ = first.set(state); // refused for every later one
            }
        });
    }
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub enum Direction {
    /// Apply all missing migrations.
    Up,
    /// Revert this many of the last migrations.
    Down(usize),
}

/// Applies or reverts migrations in one transaction, and returns their versions. May run several
/// times at once, and beside calls.
pub async fn run(manager: &Manager, direction: Direction) -> Result<Vec<String>, MigrateError> {
    let (mut collisions, mut waits) = (0, 0);
    loop {
        let (mut conn, _link) = manager.login().await?;
        let first = FirstFailure::default();
        first.watch(&mut conn);
        let error = match migrate(conn, direction).await {
            Err(error) => error,
            versions => return versions,
        };
        match (first.0.get(), error) {
            (Some(&SqlState::LOCK_NOT_AVAILABLE), error) if waits < LOCK_ATTEMPTS => {
                waits += 1;
                tracing::warn!(
                    %error,
                    attempt = waits,
                    "a transaction holds a lock that a migration needs; it is tried again"
                );
                sleep(LOCK_PAUSE).await;
            }
            (Some(state), _) if collisions < COLLISIONS && collided(state) => collisions += 1,
            (Some(&SqlState::INSUFFICIENT_PRIVILEGE), MigrateError::Database(error)) => {
                return Err(MigrateError::NotAllowed(error));
            }
            (_, error) => return Err(error),
        }
    }
}

async fn migrate(
    mut conn: AsyncPgConnection,
    direction: Direction,
) -> Result<Vec<String>, MigrateError> {
    conn.batch_execute(ROLES).await?;
    let is_owner = is_owner(&mut conn).await?;
    AnsiTransactionManager::begin_transaction(&mut conn).await?;
    if !is_owner {
        conn.batch_execute(BECOME_OWNER).await?;
    }
    conn.batch_execute(ALONE).await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    let versions = match direction {
        Direction::Up => harness.run_pending_migrations(MIGRATIONS),
        Direction::Down(count) => {
            (0..count).map(|_| harness.revert_last_migration(MIGRATIONS)).collect()
        }
    };
    let versions =
        versions.map_err(MigrateError::Migration)?.iter().map(ToString::to_string).collect();
    let mut conn = harness.into_inner();
    if !is_owner {
        conn.batch_execute(LEAVE_OWNER).await?;
    }
    AnsiTransactionManager::commit_transaction(&mut conn).await?;
    Ok(versions)
}

/// Whether the login can change to the owner's role.
#[expect(clippy::disallowed_methods, reason = "asks the catalogue, once")]
pub(super) async fn is_owner(conn: &mut AsyncPgConnection) -> Result<bool, DieselError> {
    let Login { is_owner } = diesel::sql_query(IS_OWNER).get_result(conn).await?;
    Ok(is_owner)
}

/// Whether a statement of the owner failed because of concurrent transactions, and may succeed if
/// it is repeated.
pub fn is_passing(error: &DieselError) -> bool {
    sqlstate::of(error)
        .is_some_and(|state| state == SqlState::LOCK_NOT_AVAILABLE || collided(&state))
}

/// Whether another migrating process has just created or changed what this one was about to.
fn collided(state: &SqlState) -> bool {
    matches!(
        *state,
        SqlState::UNIQUE_VIOLATION
            | SqlState::DUPLICATE_OBJECT
            | SqlState::DUPLICATE_TABLE
            | SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            // "tuple concurrently updated" has no code of its own
            | SqlState::INTERNAL_ERROR
    )
}

/// The versions of all migrations, oldest first.
pub(super) fn versions() -> Vec<String> {
    let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().unwrap_or_default();
    let mut versions: Vec<_> =
        migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort();
    versions
}
