//! Work on the tables of all tenants as their owner, one transaction at a time, beside the calls of
//! services.

use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};

use super::{Manager, connect::Link, migrate};
use crate::caller::TenantId;

/// How each transaction begins. It does not wait long for a row that a call holds: its own rows are
/// waited for as well.
const BEGIN: &str = "SET LOCAL ROLE customer_accounts_owner; SET LOCAL search_path = public, pg_temp; \
    SET LOCAL lock_timeout = '2s'; SET LOCAL client_min_messages = warning";

/// A connection of the login that migrates.
pub struct Owner {
    conn: AsyncPgConnection,
    /// Whether the login can change to the owner's role, and need not grant it to itself.
    changes_role: bool,
    /// Whether a transaction was begun and not committed.
    open: bool,
    /// What keeps the connection alive.
    _link: Link,
}

impl Owner {
    /// Opens a connection.
    pub async fn login(manager: &Manager) -> Result<Self, migrate::MigrateError> {
        let (mut conn, link) = manager.login().await?;
        let changes_role = migrate::is_owner(&mut conn).await?;
        Ok(Self { conn, changes_role, open: false, _link: link })
    }

    /// Begins a transaction inside a tenant, or outside all. A transaction that was not committed
    /// is rolled back before.
    pub async fn begin(
        &mut self,
        tenant: Option<&TenantId>,
    ) -> Result<&mut AsyncPgConnection, DieselError> {
        let grant = if self.changes_role { "" } else { migrate::BECOME_OWNER };
        // A tenant id has no character that could end the literal.
        let tenant = tenant
            .map_or_else(String::new, |tenant| format!("SET LOCAL app.tenant_id = '{tenant}'"));
        let end = if std::mem::replace(&mut self.open, true) { "ROLLBACK" } else { "" };
        self.conn.batch_execute(&format!("{end}; BEGIN; {grant}; {BEGIN}; {tenant}")).await?;
        Ok(&mut self.conn)
    }

    /// Commits it.
    pub async fn commit(&mut self) -> Result<(), DieselError> {
        let revoke = if self.changes_role { "" } else { migrate::LEAVE_OWNER };
        self.conn.batch_execute(&format!("{revoke}; COMMIT")).await?;
        self.open = false;
        Ok(())
    }
}
