//! Copies every row from the embedded server into a database that has the same schema and no rows.
//!
//! All rows are copied in one transaction of the target, as the owner of the tables. During this
//! transaction row-level security is not forced, because the owner has no tenant, and foreign keys
//! are deferred, because accounts and people refer to each other.

use futures_util::{SinkExt as _, StreamExt as _, pin_mut};
use prost::bytes::Bytes;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, error::SqlState};

use super::{ConnectError, Manager, connect};

/// Begins the transaction of the target as the owner of the tables. Its lock keeps out migrations.
const BEGIN: &str = "BEGIN; SET LOCAL ROLE customer_accounts_owner; \
    SET LOCAL search_path = public, pg_temp; SET LOCAL lock_timeout = '5s'; \
    SET LOCAL client_min_messages = warning; \
    LOCK TABLE __diesel_schema_migrations IN ACCESS EXCLUSIVE MODE";
const BEGIN_READING: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = public, pg_temp";

/// Stops forcing row-level security, which also locks each table, and defers all foreign keys.
const OPEN: &str = "DO $$ DECLARE found record; BEGIN \
    FOR found IN SELECT oid::regclass AS name FROM pg_class \
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relrowsecurity LOOP \
        EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', found.name); \
    END LOOP; \
    FOR found IN SELECT conrelid::regclass AS name, conname FROM pg_constraint \
        WHERE contype = 'f' AND connamespace = 'public'::regnamespace LOOP \
        EXECUTE format('ALTER TABLE %s ALTER CONSTRAINT %I DEFERRABLE INITIALLY DEFERRED', \
            found.name, found.conname); \
    END LOOP; END $$";
/// Checks the foreign keys, and undoes what `OPEN` has done.
const CLOSE: &str = "SET CONSTRAINTS ALL IMMEDIATE; DO $$ DECLARE found record; BEGIN \
    FOR found IN SELECT conrelid::regclass AS name, conname FROM pg_constraint \
        WHERE contype = 'f' AND connamespace = 'public'::regnamespace LOOP \
        EXECUTE format('ALTER TABLE %s ALTER CONSTRAINT %I NOT DEFERRABLE', \
            found.name, found.conname); \
    END LOOP; \
    FOR found IN SELECT oid::regclass AS name FROM pg_class \
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relrowsecurity LOOP \
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', found.name); \
    END LOOP; END $$";

/// Positions in the feed of activities are transaction ids, which belong to one cluster. This moves
/// the ids of the other cluster, in their order, before all transactions of this one, and makes
/// cursors of the other cluster expire. docs/OPERATIONS.md has the same statements for a restore.
pub const NEW_POSITIONS: &str = concat!(
    "UPDATE activities SET transaction_id = transaction_id",
    " - (SELECT max(transaction_id) FROM activities);\n",
    "UPDATE tenants SET activity_floor = pg_current_xact_id()::text::bigint;\n",
);

/// The tables, whether each holds rows of tenants (`t`), and its columns that are not generated.
const TABLES: &str = "SELECT quote_ident(relname), relrowsecurity, \
        string_agg(quote_ident(attname), ', ' ORDER BY attname) \
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
      AND relname <> '__diesel_schema_migrations' \
      AND attnum > 0 AND NOT attisdropped AND attgenerated = '' \
    GROUP BY relname, relrowsecurity ORDER BY relname";

/// Why nothing was copied. The target is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed in one of the databases.
    #[error("copying the data: {0}")]
    Database(String),
    /// The login may not migrate.
    #[error(
        "copying the data: {0}. The login (--migration-database-url, or else DATABASE_URL) must be \
         a member of customer_accounts_owner"
    )]
    NotAllowed(String),
    /// The target has rows.
    #[error(
        "the table {0:?} of DATABASE_URL has rows already: data can be copied only into a database \
         that has none"
    )]
    NotEmpty(String),
    /// The two databases have different tables.
    #[error(
        "the databases do not have the same tables: both must have the schema of this version, and \
         no other tables in it"
    )]
    OtherSchema,
}

impl From<tokio_postgres::Error> for TransferError {
    fn from(error: tokio_postgres::Error) -> Self {
        let words = ConnectError::words(&error);
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::INVALID_PARAMETER_VALUE) => {
                Self::NotAllowed(words)
            }
            _ => Self::Database(words),
        }
    }
}

/// Copies every row, and returns their number. Both databases must be migrated.
pub async fn run(from: &Manager, to: &Manager) -> Result<u64, TransferError> {
    let (source, _source_link) = connect::open(from.config()).await?;
    let (target, _target_link) = connect::open(to.config()).await?;
    source.batch_execute(BEGIN_READING).await?;
    target.batch_execute(BEGIN).await?;
    let tables = tables(&source).await?;
    if tables != self::tables(&target).await? {
        return Err(TransferError::OtherSchema);
    }
    target.batch_execute(OPEN).await?;
    let mut copied = 0;
    for Table { name: table, of_tenants, columns } in &tables {
        if !of_tenants {
            // Such a table describes the rows, such as which renewals are complete: the source's
            // contents replace the target's.
            target.batch_execute(&format!("DELETE FROM {table}")).await?;
        } else if !rows(&target, &format!("SELECT 1 FROM {table} LIMIT 1")).await?.is_empty() {
            return Err(TransferError::NotEmpty(table.clone()));
        }
        let rows = source.copy_out(&format!("COPY {table} ({columns}) TO STDOUT")).await?;
        let sink =
            target.copy_in::<_, Bytes>(&format!("COPY {table} ({columns}) FROM STDIN")).await?;
        pin_mut!(rows, sink);
        while let Some(some) = rows.next().await {
            sink.send(some?).await?;
        }
        copied += sink.finish().await?;
    }
    target.batch_execute(NEW_POSITIONS).await?;
    target.batch_execute(CLOSE).await?;
    target.batch_execute("COMMIT").await?;
    Ok(copied)
}

#[derive(PartialEq, Eq)]
struct Table {
    name: String,
    of_tenants: bool,
    columns: String,
}

async fn tables(client: &Client) -> Result<Vec<Table>, TransferError> {
    let text = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
    let table =
        |row| Table { name: text(row, 0), of_tenants: text(row, 1) == "t", columns: text(row, 2) };
    Ok(rows(client, TABLES).await?.iter().map(table).collect())
}

async fn rows(client: &Client, query: &str) -> Result<Vec<SimpleQueryRow>, TransferError> {
    let answers = client.simple_query(query).await?;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}
