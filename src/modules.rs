//! Modules: parts of the service that are switched on or off for a tenant and for its
//! organizations.
//!
//! The setting of the tenant is checked by the gate of every transaction (`crate::db`). This file
//! has the settings of organizations: a module is on or off for an organization as its own setting
//! says, else as that of the nearest organization above it, else on. Code that finds a row of an
//! account or an organization for a call calls [`require`] or one of its like; lists leave out the
//! organizations that [`off`] returns. Code that only keeps rows consistent (contact slots, the
//! primary flag, the tree) checks neither.

use std::{borrow::Cow, collections::BTreeMap};

use diesel::{dsl::not, prelude::*};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::{
    db::refusals,
    db::{BelongsTo, Recorded, Tx, WriteTx},
    error::Result,
    id,
    schema::{accounts, module_activations, organization_ancestors, tenants},
};

/// The modules that can be switched, as the policies of calls name them, in alphabetical order.
pub const ALL: [&str; 4] = ["commerce", "contracts", "customer_accounts", "portfolios"];

/// Selects, for each organization that has a setting of the module or lies below one that has, the
/// setting that decides.
macro_rules! nearest {
    ($tx:expr, $module:expr) => {
        organization_ancestors::table
            .filter($tx.owns(organization_ancestors::tenant_id))
            .inner_join(module_activations::table.on(
                module_activations::tenant_id.eq(organization_ancestors::tenant_id).and(
                    module_activations::organization_id.eq(organization_ancestors::ancestor_id),
                ),
            ))
            .filter(module_activations::module.eq($module))
            .distinct_on(organization_ancestors::organization_id)
            .order((organization_ancestors::organization_id, organization_ancestors::distance))
            .select((
                organization_ancestors::organization_id,
                organization_ancestors::ancestor_id,
                module_activations::active,
            ))
    };
}

/// The setting that decides for an organization.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct Nearest {
    /// The organization that the setting decides for.
    pub organization_id: String,
    /// The organization that has the setting: the same one, or one above it.
    pub decides: String,
    /// Whether the module is on.
    pub active: bool,
}

/// Fails if the module of the call is off for this organization. An organization that does not
/// exist has no setting.
pub async fn require(tx: &Tx, organization_id: &str) -> Result<()> {
    require_all(tx, [organization_id]).await
}

/// Fails if the module of the call is off for one of these organizations.
pub async fn require_all(tx: &Tx, organization_ids: impl IntoIterator<Item = &str>) -> Result<()> {
    match off_among(tx, organization_ids).await?.into_values().next() {
        Some(decides) => Err(refusals::module_off_for_organization(tx.module(), &decides)),
        None => Ok(()),
    }
}

/// Returns those of these organizations for which the module of the call is off, each with the
/// organization whose setting decides.
pub async fn off_among(
    tx: &Tx,
    organization_ids: impl IntoIterator<Item = &str>,
) -> Result<BTreeMap<String, String>> {
    if !tx.tenant().await?.is_off_below(tx.module()) {
        return Ok(BTreeMap::new());
    }
    let organization_ids: Vec<_> = organization_ids.into_iter().collect();
    let nearest = nearest!(tx, tx.module())
        .filter(organization_ancestors::organization_id.eq_any(organization_ids));
    let nearest: Vec<Nearest> = nearest.load(&mut tx.conn()).await?;
    let off = nearest.into_iter().filter(|nearest| !nearest.active);
    Ok(off.map(|nearest| (nearest.organization_id, nearest.decides)).collect())
}

/// Fails if the module of the call is off for the organization of one of these accounts. An account
/// that does not exist has none.
pub async fn require_for_accounts(
    tx: &Tx,
    account_ids: impl IntoIterator<Item = &str>,
) -> Result<()> {
    if !tx.tenant().await?.is_off_below(tx.module()) {
        return Ok(());
    }
    let account_ids: Vec<_> = account_ids.into_iter().collect();
    let organization_ids: Vec<String> = accounts::table
        .filter(tx.owns(accounts::tenant_id))
        .filter(accounts::account_id.eq_any(account_ids))
        .select(accounts::organization_id)
        .load(&mut tx.conn())
        .await?;
    require_all(tx, organization_ids.iter().map(String::as_str)).await
}

/// Rejects a list filtered by an account for whose organization the module is off. Limited callers
/// get an empty list instead, as in [`require_named`].
pub async fn require_named_account(tx: &Tx, account_id: Option<&str>) -> Result<()> {
    match account_id {
        Some(account_id) if !tx.is_limited() && tx.module_off_somewhere() => {
            require_for_accounts(tx, [account_id]).await
        }
        _ => Ok(()),
    }
}

/// Rejects a list filtered by an organization whose module is off. Limited callers get an empty
/// list instead, so the error cannot reveal an organization outside their reach.
pub async fn require_named(tx: &Tx, organization_id: Option<&str>) -> Result<()> {
    match organization_id {
        Some(organization_id) if !tx.is_limited() && tx.module_off_somewhere() => {
            require(tx, organization_id).await
        }
        _ => Ok(()),
    }
}

/// Returns the organizations for which the module of the call is off, if there are any, so that a
/// list can leave them out.
///
/// A list calls this first. With the ids in the statement PostgreSQL can estimate how many rows
/// remain; a condition on the settings takes longer to plan than most lists take in all.
pub async fn off(tx: &Tx) -> Result<Option<Vec<String>>> {
    if !tx.module_off_somewhere() {
        return Ok(None);
    }
    let nearest: Vec<Nearest> = nearest!(tx, tx.module()).load(&mut tx.conn()).await?;
    Ok(Some(
        nearest
            .into_iter()
            .filter(|nearest| !nearest.active)
            .map(|nearest| nearest.organization_id)
            .collect(),
    ))
}

/// Returns which modules are off for the organization of an account, also of modules that are not
/// that of the call.
pub async fn off_for_account(tx: &Tx, account_id: &str) -> Result<Vec<&'static str>> {
    let organization = accounts::table
        .filter(tx.owns(accounts::tenant_id))
        .filter(accounts::account_id.eq(account_id))
        .select(accounts::organization_id);
    let settings = organization_ancestors::table
        .filter(tx.owns(organization_ancestors::tenant_id))
        .inner_join(
            module_activations::table.on(module_activations::tenant_id
                .eq(organization_ancestors::tenant_id)
                .and(module_activations::organization_id.eq(organization_ancestors::ancestor_id))),
        )
        .filter(organization_ancestors::organization_id.eq_any(organization))
        .order(organization_ancestors::distance)
        .select((module_activations::module, module_activations::active))
        .load::<(String, bool)>(&mut tx.conn())
        .await?;
    let tenant = tx.tenant().await?;
    // The nearest setting decides.
    let is_off = |module: &str| {
        let nearest = settings.iter().find(|(set, _)| set == module);
        tenant.is_off(module) || nearest.is_some_and(|(_, active)| !active)
    };
    Ok(ALL.into_iter().filter(|module| is_off(module)).collect())
}

/// Returns the setting of a module that decides for an organization, if there is one.
pub async fn deciding(tx: &Tx, module: &str, organization_id: &str) -> Result<Option<Nearest>> {
    let nearest =
        nearest!(tx, module).filter(organization_ancestors::organization_id.eq(organization_id));
    Ok(nearest.first(&mut tx.conn()).await.optional()?)
}

/// Deletes all settings of an organization. The caller must hold the row of the organization FOR
/// UPDATE, and the lock of the tenant row.
pub async fn inherit_all(tx: &WriteTx, organization_id: &str) -> Result<()> {
    let mut settings: Vec<(String, bool)> =
        diesel::delete(module_activations::table.filter(tx.owns(module_activations::tenant_id)))
            .filter(module_activations::organization_id.eq(organization_id))
            .returning((module_activations::module, module_activations::active))
            .get_results(&mut tx.conn())
            .await?;
    settings.sort();
    for (module, active) in &settings {
        let organization_id = Some(organization_id);
        tx.deleted(&Setting { module, organization_id, active: *active })?;
    }
    if settings.is_empty() { Ok(()) } else { renew(tx).await }
}

/// The setting of a module, as the trail records it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Setting<'a> {
    /// The module.
    pub module: &'a str,
    /// The organization that has the setting; `None` for the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<&'a str>,
    /// Whether the module is on.
    pub active: bool,
}

impl Recorded for Setting<'_> {
    const NOUN: &'static str = "module_activation";

    fn id(&self) -> Cow<'_, str> {
        match self.organization_id {
            Some(organization_id) => id::pair(self.module, organization_id).into(),
            None => self.module.into(),
        }
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Tenant
    }
}

/// Writes to the tenant row which modules are off for at least one organization. The caller must
/// hold the lock of the tenant row.
pub async fn renew(tx: &WriteTx) -> Result<()> {
    let off: Vec<String> = module_activations::table
        .filter(tx.owns(module_activations::tenant_id))
        .filter(not(module_activations::active))
        .select(module_activations::module)
        .distinct()
        .order(module_activations::module)
        .load(&mut tx.conn())
        .await?;
    diesel::update(
        tenants::table
            .filter(tx.owns(tenants::tenant_id))
            .filter(tenants::modules_off_below.ne(&off)),
    )
    .set(tenants::modules_off_below.eq(&off))
    .execute(&mut tx.conn())
    .await?;
    Ok(())
}
