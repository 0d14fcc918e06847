//! Pruning deletes activities that are older than their tenant keeps them. It runs as the owner of
//! the tables, because the role of the service may not delete activities.
//!
//! Each deletion raises the floor in the tenant row in the same transaction, so that a watch whose
//! position is below the floor fails instead of missing activities.

use chrono::{TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use tokio_postgres::error::SqlState;

use super::{ConnectError, Manager, sqlstate};
use crate::{
    caller::TenantId,
    schema::{activities, tenants},
};

/// Most activities that one transaction deletes, because it locks the tenant row until it commits.
const BATCH: i64 = 1000;
/// The beginning of each transaction: it runs as the owner of the tables, and does not wait long
/// for the lock of a tenant row.
const BEGIN: &str = "BEGIN; SET LOCAL ROLE customer_accounts_owner; \
    SET LOCAL search_path = public, pg_temp; SET LOCAL lock_timeout = '5s'; \
    SET LOCAL client_min_messages = warning";

/// Why pruning stopped. Committed deletions stay, and the next run deletes the rest.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The connection failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("pruning the activity trail: {0}")]
    Database(#[from] diesel::result::Error),
    /// The login may not prune.
    #[error(
        "pruning the activity trail: {0}. The login (--migration-database-url, or else \
         DATABASE_URL) must be a member of customer_accounts_owner; the service's \
         login must not be one"
    )]
    NotAllowed(diesel::result::Error),
}

/// Deletes activities that tenants no longer keep, but none younger than `min_days`, whatever the
/// tenant row says. Returns from how many tenants activities were deleted, and how many in all.
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

/// Deletes one batch of a tenant's old activities and raises the floor above it. Returns how many
/// it deleted.
async fn prune(
    conn: &mut AsyncPgConnection,
    tenant: &TenantId,
    min_days: i32,
) -> Result<usize, PruneError> {
    // A tenant id contains no character that could end the literal. If a statement fails, the
    // connection closes, and the transaction with it.
    conn.batch_execute(&format!("{BEGIN}; SET LOCAL app.tenant_id = '{tenant}'")).await?;
    // Reads this with the row locked, because the tenant may have raised it since the batch before.
    let days = tenants::table
        .filter(tenants::tenant_id.eq(tenant.as_str()))
        .select(tenants::activity_retention_days);
    let Some(days) = days.for_no_key_update().first::<Option<i32>>(conn).await? else {
        conn.batch_execute("COMMIT").await?;
        return Ok(0);
    };
    let before = Utc::now() - TimeDelta::days(days.max(min_days).into());
    // Spares activities that a watch may not have read yet, because an older transaction is still
    // running.
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
