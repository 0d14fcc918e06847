//! Pruning: activities that are older than their tenant keeps them are deleted, by the owner of the
//! tables and not by the service, whose role cannot.
//!
//! What is deleted leaves a floor behind in the tenant's row, in the same transaction: a watch that
//! would have had to read something below it is told so.

use chrono::{TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use tokio_postgres::error::SqlState;

use super::{ConnectError, Manager, sqlstate};
use crate::{
    caller::TenantId,
    schema::{activities, tenants},
};

/// Most activities that one transaction deletes: it holds the tenant's row for as long.
const BATCH: i64 = 1000;
/// How each transaction begins: as the owner of the tables, who does not wait long for a tenant's
/// row.
const BEGIN: &str = "BEGIN; SET LOCAL ROLE customer_accounts_owner; SET LOCAL search_path = public, pg_temp; \
    SET LOCAL lock_timeout = '5s'; SET LOCAL client_min_messages = warning";

/// Why nothing, or not everything, was pruned. What was is gone, and the rest is found the next
/// time.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database refused something.
    #[error("pruning the activity trail: {0}")]
    Database(#[from] diesel::result::Error),
    /// The login is not the one that may prune.
    #[error(
        "pruning the activity trail: {0}. The login (--migration-database-url, or else DATABASE_URL) must be a member of \
         customer_accounts_owner; the service's login must not be one"
    )]
    NotAllowed(diesel::result::Error),
}

/// Deletes what tenants keep no longer, but nothing that is younger than `min_days`, whatever a
/// tenant's row says. Returns from how many tenants something was deleted, and how much in all.
pub async fn run(manager: &Manager, min_days: i32) -> Result<(usize, usize), PruneError> {
    let (mut conn, _link) = manager.login().await?;
    conn.batch_execute(BEGIN).await.map_err(|error| match sqlstate::of(&error) {
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => PruneError::NotAllowed(error),
        _ => error.into(),
    })?;
    let keeping =
        tenants::table.filter(tenants::activity_retention_days.ge(1)).order(tenants::tenant_id);
    let keeping: Vec<String> = keeping.select(tenants::tenant_id).load(&mut conn).await?;
    conn.batch_execute("COMMIT").await?;
    let (mut pruned, mut activities) = (0, 0);
    for tenant in keeping {
        let Some(tenant) = TenantId::parse(&tenant) else { continue };
        let mut deleted = 0;
        while let batch @ 1.. = prune(&mut conn, &tenant, min_days).await? {
            deleted += batch;
        }
        tracing::info!(%tenant, deleted, "activities pruned");
        pruned += usize::from(deleted > 0);
        activities += deleted;
    }
    Ok((pruned, activities))
}

/// Deletes a batch of a tenant's old activities and raises the floor above it. Returns how many
/// there were.
async fn prune(
    conn: &mut AsyncPgConnection,
    tenant: &TenantId,
    min_days: i32,
) -> Result<usize, PruneError> {
    // A tenant id has no character that could end the literal. A failure ends the connection with
    // the transaction.
    conn.batch_execute(&format!("{BEGIN}; SET LOCAL app.tenant_id = '{tenant}'")).await?;
    // Asked with the row locked: since the batch before, the tenant may have decided to keep its
    // activities longer.
    let days = tenants::table
        .filter(tenants::tenant_id.eq(tenant.as_str()))
        .select(tenants::activity_retention_days);
    let Some(days) = days.for_no_key_update().first::<Option<i32>>(conn).await? else {
        conn.batch_execute("COMMIT").await?;
        return Ok(0);
    };
    let before = Utc::now() - TimeDelta::days(days.max(min_days).into());
    // Nothing that a watch cannot have seen yet, because an older transaction is still running.
    let ended = "transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let batch = activities::table
        .filter(activities::tenant_id.eq(tenant.as_str()))
        .filter(diesel::dsl::sql::<diesel::sql_types::Bool>(ended))
        .filter(activities::create_time.lt(before))
        .order((activities::create_time, activities::activity_id))
        .limit(BATCH)
        .select(activities::activity_id)
        .load::<String>(conn)
        .await?;
    let deleted = diesel::delete(activities::table)
        .filter(activities::tenant_id.eq(tenant.as_str()))
        .filter(activities::activity_id.eq_any(&batch))
        .returning(activities::transaction_id)
        .get_results::<i64>(conn)
        .await?;
    if let Some(last) = deleted.iter().max() {
        let floor = last + 1;
        diesel::update(
            tenants::table.filter(
                tenants::tenant_id.eq(tenant.as_str()).and(tenants::activity_floor.lt(floor)),
            ),
        )
        .set(tenants::activity_floor.eq(floor))
        .execute(conn)
        .await?;
    }
    conn.batch_execute("COMMIT").await?;
    Ok(deleted.len())
}
