//! What the service requires before it serves: a login and a role that cannot bypass row-level
//! security, the schema of this version, row-level security on every table of tenants, and a
//! connection that keeps prepared statements.

use diesel::{ExpressionMethods as _, QueryDsl as _, QueryableByName, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use tokio_postgres::error::SqlState;

use super::{
    Db,
    migrate::{self, MigrateError},
    pool::{ConnectError, Lease},
    sqlstate,
};
use crate::{schema::renewals, search};

/// A query for what is wrong with a role: that row-level security does not apply to it, or to a
/// role that it can become (`SET ROLE`) or make itself a member of. The owner of a table can switch
/// row-level security off.
///
/// From PostgreSQL 16 on a membership has options. Each of them leads to the role or to its
/// privileges: SET changes to it, INHERIT has its privileges, ADMIN grants the other two to
/// oneself, and a chain of memberships leads further. So every membership counts, even one with
/// none of these options.
macro_rules! fault_of {
    ($user:literal) => {
        concat!(
            "SELECT ",
            $user,
            "::text AS role, (SELECT concat(CASE WHEN other.oid <> own.oid \
                 THEN format('can become %I, which ', other.rolname) END, fault) \
             FROM pg_roles AS own \
             JOIN pg_roles AS other ON pg_has_role(own.oid, other.oid, 'MEMBER'), \
             LATERAL (SELECT CASE \
                 WHEN other.rolsuper THEN 'is a superuser' \
                 WHEN other.rolbypassrls THEN 'bypasses row-level security' \
                 WHEN other.rolcreaterole THEN 'may create and grant roles' \
                 WHEN other.rolreplication THEN 'may copy the whole server by replication' \
                 WHEN other.rolname IN ('pg_read_server_files', 'pg_write_server_files', \
                     'pg_execute_server_program') THEN 'reaches the files of the server' \
                 WHEN other.rolname = 'customer_accounts_owner' \
                     OR EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p') \
                         AND relnamespace = 'public'::regnamespace AND relowner = other.oid) \
                     THEN 'owns tables of the service' \
                 WHEN EXISTS (SELECT FROM pg_namespace \
                         WHERE nspname = 'public' AND nspowner = other.oid) \
                     THEN 'owns the schema of the service' \
                 END AS fault) AS faults \
             WHERE own.rolname = ",
            $user,
            " AND fault IS NOT NULL ORDER BY other.oid <> own.oid, other.rolname LIMIT 1) AS fault"
        )
    };
}
/// The login, whatever role it has changed to.
const LOGIN: &str = fault_of!("session_user");
/// The role of the transaction.
const ROLE: &str = fault_of!("current_user");

/// A query for a session setting with which the service does not work. Such settings come from the
/// login or the database (`ALTER ROLE … SET`).
const SETTINGS: &str = "SELECT session_user::text AS role, CASE \
     WHEN current_setting('session_replication_role') <> 'origin' \
         THEN 'has the setting session_replication_role, with which foreign keys do not hold' \
     WHEN current_setting('row_security') <> 'on' \
         THEN 'has the setting row_security = off, with which no query is answered' \
     END AS fault";

/// A query for the first table with a tenant whose row-level security or privileges are not as
/// required, for the role of the transaction and for the login. A login that could bypass row-level
/// security anyway is left to `LOGIN`.
///
/// A policy applies to a role if it names that role, a role that it is a member of, or everybody.
/// Permissive policies are alternatives, so the expected policy must be the only one. `pg_get_expr`
/// prints an expression in the same way however it was written.
const OPEN_TABLE: &str = "WITH roles AS ( \
        SELECT oid FROM pg_roles WHERE rolname = current_user \
            OR rolname = session_user AND NOT rolsuper \
                AND NOT pg_has_role(oid, 'customer_accounts_owner', 'MEMBER') \
    ), policies AS ( \
        SELECT polrelid, polname, polcmd = '*' \
            AND EXISTS (SELECT FROM unnest(polroles) AS role \
                WHERE role = 0 OR pg_has_role(current_user, role, 'MEMBER')) \
            AND coalesce(pg_get_expr(polqual, polrelid) = expected, false) \
            AND coalesce(pg_get_expr(polwithcheck, polrelid) = expected, true) AS good \
        FROM pg_policy, (VALUES \
            ('(tenant_id = ( SELECT NULLIF(current_setting(''app.tenant_id''::text, true), \
                ''''::text) AS \"nullif\"))')) \
            AS wanted (expected) \
        WHERE polpermissive \
          AND EXISTS (SELECT FROM unnest(polroles) AS role CROSS JOIN roles \
              WHERE role = 0 OR pg_has_role(oid, role, 'MEMBER')) \
    ), tables AS ( \
        SELECT relname, CASE \
            WHEN relkind IN ('f', 'm') THEN 'can have no row-level security' \
            WHEN relkind = 'v' THEN \
                CASE WHEN NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false) \
                    THEN 'is a view without security_invoker' END \
            WHEN NOT relrowsecurity THEN 'has row-level security disabled' \
            WHEN NOT relforcerowsecurity THEN 'does not have row-level security forced' \
            WHEN NOT EXISTS (SELECT FROM policies WHERE polrelid = pg_class.oid AND good) \
                THEN 'lacks the policy of its tenant' \
            WHEN EXISTS (SELECT FROM roles \
                    WHERE has_table_privilege(roles.oid, pg_class.oid, 'TRUNCATE')) \
                THEN 'can be truncated by the service, which row-level security does not prevent' \
            WHEN relname = 'activities' AND EXISTS (SELECT FROM roles \
                    WHERE has_any_column_privilege(roles.oid, pg_class.oid, 'UPDATE') \
                        OR has_table_privilege(roles.oid, pg_class.oid, 'DELETE')) \
                THEN 'can be rewritten by the service, which may only add to it' \
            ELSE (SELECT format('has the policy %I, which lets more rows through', polname) \
                  FROM policies \
                  WHERE polrelid = pg_class.oid AND NOT good ORDER BY polname LIMIT 1) \
            END AS fault \
        FROM pg_class \
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') \
          AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid \
              AND attname = 'tenant_id' AND NOT attisdropped) \
    ) SELECT relname::text AS name, fault FROM tables \
      WHERE fault IS NOT NULL ORDER BY relname LIMIT 1";

#[derive(QueryableByName)]
struct Role {
    #[diesel(sql_type = sql_types::Text)]
    role: String,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
    fault: Option<String>,
}

#[derive(QueryableByName)]
struct OpenTable {
    #[diesel(sql_type = sql_types::Text)]
    name: String,
    #[diesel(sql_type = sql_types::Text)]
    fault: String,
}

#[derive(QueryableByName)]
struct Migrated {
    #[diesel(sql_type = sql_types::Bool)]
    migrated: bool,
}

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = sql_types::Text)]
    version: String,
}

impl Db {
    /// Fails if the service cannot use the database, or if the database would not keep tenants
    /// apart.
    ///
    /// # Errors
    /// In this order: [`MigrateError::Connect`], also for a pooler that loses prepared statements;
    /// [`MigrateError::UnsafeLogin`], unless privileged logins are allowed;
    /// [`MigrateError::UnsafeSetting`]; [`MigrateError::NoRole`]; [`MigrateError::UnsafeRole`];
    /// [`MigrateError::Pending`]; [`MigrateError::OpenTable`]; [`MigrateError::NotRenewed`].
    pub async fn verify(&self) -> Result<(), MigrateError> {
        self.manager.verify_pooler().await?;
        let conn = match self.pool.get_owned().await {
            Ok(conn) => conn,
            Err(bb8::RunError::User(error)) => return Err(error.into()),
            // The pool does not say why; a connection of one's own does.
            Err(bb8::RunError::TimedOut) => {
                self.manager.login().await?;
                return Err(
                    ConnectError::Connect(format!("no connection within {:?}", self.wait)).into()
                );
            }
        };
        let lease = Lease::new(conn, None); // rolls back when dropped
        let Some(conn) = lease.conn() else { return Ok(()) };
        self.verify_login(conn.pg()).await?;
        verify_settings(conn.pg()).await?;
        (&mut conn.pg()).batch_execute("BEGIN READ ONLY").await?;
        if let Err(cause) = (&mut conn.pg()).batch_execute(&conn.opening().read).await {
            return Err(match (sqlstate::of(&cause), self.manager.role()) {
                (
                    Some(SqlState::INVALID_PARAMETER_VALUE | SqlState::INSUFFICIENT_PRIVILEGE),
                    Some(role),
                ) => MigrateError::NoRole { role: role.to_owned(), cause: cause.to_string() },
                _ => cause.into(),
            });
        }
        verify_schema(conn.pg()).await
    }

    #[expect(clippy::disallowed_methods, reason = "asks the catalogue, once, at the start")]
    async fn verify_login(&self, mut pg: &AsyncPgConnection) -> Result<(), MigrateError> {
        let login: Role = diesel::sql_query(LOGIN).get_result(&mut pg).await?;
        match login.fault {
            Some(why) if self.manager.allows_privileged_login() => {
                tracing::debug!(
                    login = login.role,
                    why,
                    "the login could bypass row-level security, which is allowed"
                );
                Ok(())
            }
            Some(why) => Err(MigrateError::UnsafeLogin { login: login.role, why }),
            None => Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "asks the session, once, at the start")]
async fn verify_settings(mut pg: &AsyncPgConnection) -> Result<(), MigrateError> {
    let Role { role, fault } = diesel::sql_query(SETTINGS).get_result(&mut pg).await?;
    fault.map_or(Ok(()), |why| Err(MigrateError::UnsafeSetting { login: role, why }))
}

#[expect(clippy::disallowed_methods, reason = "asks the catalogue, once, at the start")]
async fn verify_schema(mut pg: &AsyncPgConnection) -> Result<(), MigrateError> {
    let Role { role, fault } = diesel::sql_query(ROLE).get_result(&mut pg).await?;
    if let Some(why) = fault {
        return Err(MigrateError::UnsafeRole { role, why });
    }
    let table = "SELECT to_regclass('public.__diesel_schema_migrations') IS NOT NULL AS migrated";
    let Migrated { migrated } = diesel::sql_query(table).get_result(&mut pg).await?;
    let applied: Vec<Applied> = if migrated {
        diesel::sql_query("SELECT version::text FROM public.__diesel_schema_migrations")
            .load(&mut pg)
            .await?
    } else {
        Vec::new()
    };
    let missing = migrate::versions()
        .into_iter()
        .find(|version| applied.iter().all(|row| row.version != *version));
    if let Some(version) = missing {
        return Err(MigrateError::Pending(version));
    }
    let open: Vec<OpenTable> = diesel::sql_query(OPEN_TABLE).load(&mut pg).await?;
    if let Some(OpenTable { name, fault }) = open.into_iter().next() {
        return Err(MigrateError::OpenTable { table: name, why: fault });
    }
    let renewed = renewals::table.filter(renewals::folding.eq(search::FOLDING)).count();
    if renewed.get_result::<i64>(&mut pg).await? == 0 {
        Err(MigrateError::NotRenewed)
    } else {
        Ok(())
    }
}
