//! Migrations, the roles they need, and what the service insists on before it serves.

use diesel::{
    QueryableByName,
    migration::{Migration, MigrationSource as _},
    pg::Pg,
    sql_types,
};
use diesel_async::{
    AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _,
    TransactionManager as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{
    Db,
    pool::{ConnectError, Manager},
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
const ROLES: &str = include_str!("roles.sql");
/// Two replicas that both find an empty database can collide while they make what the lock below needs.
const ATTEMPTS: u32 = 5;

/// Opens the migrating transaction: as the owner of the tables, and alone. Who comes second waits for the lock and then
/// finds nothing left to do. The table is Diesel's own record of what was applied.
const ALONE: &str = "SET LOCAL ROLE customer_accounts_owner; \
    SET LOCAL client_min_messages = warning; \
    CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (\
        version varchar(50) PRIMARY KEY NOT NULL, run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP); \
    LOCK TABLE __diesel_schema_migrations IN ACCESS EXCLUSIVE MODE; \
    GRANT SELECT ON __diesel_schema_migrations TO customer_accounts_app";

/// Why the schema is not as the service needs it.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database refused something.
    #[error("migrating the database: {0}")]
    Database(#[from] diesel::result::Error),
    /// A migration failed; it was rolled back whole.
    #[error("migrating the database: {0}")]
    Migration(Box<dyn std::error::Error + Send + Sync>),
    /// The role could get around row-level security.
    #[error(
        "the service would use the database as role {role:?}, which {why}: row-level security would not hold tenants apart. \
         Let it use a role such as customer_accounts_app, which `customer-accounts migrate` creates (--database-role)"
    )]
    UnsafeRole {
        /// The role.
        role: String,
        /// What is wrong with it.
        why: String,
    },
    /// Migrations are missing.
    #[error("the database lacks migration {0}: run `customer-accounts migrate`, or let the service do it with --migrate")]
    Pending(String),
}

/// Which way to migrate.
#[derive(Debug, Clone, Copy)]
pub enum Direction {
    /// Apply what is missing.
    Up,
    /// Revert the last so many migrations.
    Down(usize),
}

/// Applies or reverts migrations in one transaction and returns their versions. Safe to run by several at once.
pub async fn run(manager: &Manager, direction: Direction) -> Result<Vec<String>, MigrateError> {
    let mut attempt = 1;
    loop {
        match migrate(manager.login().await?, direction).await {
            Err(MigrateError::Database(error)) if attempt < ATTEMPTS && collided(&error) => attempt += 1,
            versions => return versions,
        }
    }
}

async fn migrate(mut conn: AsyncPgConnection, direction: Direction) -> Result<Vec<String>, MigrateError> {
    conn.batch_execute(ROLES).await?;
    AnsiTransactionManager::begin_transaction(&mut conn).await?;
    conn.batch_execute(ALONE).await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    let versions = match direction {
        Direction::Up => harness.run_pending_migrations(MIGRATIONS),
        Direction::Down(count) => (0..count).map(|_| harness.revert_last_migration(MIGRATIONS)).collect(),
    };
    let versions = versions.map_err(MigrateError::Migration)?.iter().map(ToString::to_string).collect();
    AnsiTransactionManager::commit_transaction(&mut harness.into_inner()).await?;
    Ok(versions)
}

/// Whether another migrating process was in the way: what both tried to make is there now.
fn collided(error: &diesel::result::Error) -> bool {
    use diesel::result::{DatabaseErrorKind as Kind, Error};
    match error {
        Error::DatabaseError(Kind::UniqueViolation | Kind::SerializationFailure, _) => true,
        Error::DatabaseError(_, info) => {
            let message = info.message();
            message.contains("already exists") || message.contains("concurrently updated") || message == "deadlock detected"
        }
        _ => false,
    }
}

#[derive(QueryableByName)]
struct Session {
    #[diesel(sql_type = sql_types::Text)]
    role: String,
    /// Why the role could get around row-level security, if it could.
    #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
    fault: Option<String>,
    #[diesel(sql_type = sql_types::Bool)]
    migrated: bool,
}

const SESSION: &str = "SELECT current_user::text AS role, \
    CASE WHEN rolsuper THEN 'is a superuser' \
         WHEN rolbypassrls THEN 'bypasses row-level security' \
         WHEN EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace \
                      AND pg_has_role(current_user, relowner, 'USAGE')) THEN 'owns tables of the service' END AS fault, \
    to_regclass('public.__diesel_schema_migrations') IS NOT NULL AS migrated \
    FROM pg_roles WHERE rolname = current_user";

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = sql_types::Text)]
    version: String,
}

impl Db {
    /// Refuses a role that could get around row-level security, and a schema that is older than the service.
    #[expect(clippy::disallowed_methods, reason = "asks the catalogue, once, at the start")]
    pub async fn verify(&self) -> Result<(), MigrateError> {
        let conn = self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => error,
            bb8::RunError::TimedOut => ConnectError::Connect(format!("no connection within {:?}", self.wait)),
        })?;
        let mut pg = conn.pg();
        let session: Session = diesel::sql_query(SESSION).get_result(&mut pg).await?;
        if let Some(why) = session.fault {
            return Err(MigrateError::UnsafeRole { role: session.role, why });
        }
        let applied: Vec<Applied> = if session.migrated {
            diesel::sql_query("SELECT version::text FROM __diesel_schema_migrations").load(&mut pg).await?
        } else {
            Vec::new()
        };
        let missing = versions().into_iter().find(|version| applied.iter().all(|row| row.version != *version));
        missing.map_or(Ok(()), |version| Err(MigrateError::Pending(version)))
    }
}

/// The versions of all migrations, oldest first.
fn versions() -> Vec<String> {
    let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().unwrap_or_default();
    let mut versions: Vec<_> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort();
    versions
}
