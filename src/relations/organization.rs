//! Organizations by id, for whatever refers to one.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::{
    db::{Tx, WriteTx, refusals::module_off_for_organization},
    error::Result,
    modules,
    resource::ORGANIZATION,
    schema::{organization_ancestors, organizations},
};

/// Fails unless the organization exists, is in the caller's reach and has the call's module on.
/// Locks its row FOR KEY SHARE, so that it is not deleted until commit.
pub async fn keep(tx: &WriteTx, organization_id: &str) -> Result<()> {
    let query = organizations::table
        .filter(tx.owns(organizations::tenant_id))
        .filter(organizations::organization_id.eq(organization_id))
        .filter(tx.organizations_in_reach())
        .select(organizations::organization_id)
        .for_key_share();
    ORGANIZATION.found(organization_id, query.first::<String>(&mut tx.conn()).await)?;
    modules::require(tx, organization_id).await
}

/// Organizations that the transaction holds, and the module of the call.
#[derive(Debug)]
pub struct Kept {
    found: BTreeSet<String>,
    /// Organizations for which the module is off, each with the one whose setting decides.
    off: BTreeMap<String, String>,
    module: &'static str,
}

impl Kept {
    /// [`keep`] for one of the organizations.
    pub fn require(&self, organization_id: &str) -> Result<()> {
        if !self.found.contains(organization_id) {
            return Err(ORGANIZATION.not_found(organization_id));
        }
        match self.off.get(organization_id) {
            Some(decides) => Err(module_off_for_organization(self.module, decides)),
            None => Ok(()),
        }
    }
}

/// [`keep`] for many organizations. Locks those that are found, in the order of their ids.
pub async fn keep_all(tx: &WriteTx, organization_ids: &BTreeSet<&str>) -> Result<Kept> {
    let query = organizations::table
        .filter(tx.owns(organizations::tenant_id))
        .filter(organizations::organization_id.eq_any(organization_ids))
        .filter(tx.organizations_in_reach())
        .order(organizations::organization_id)
        .select(organizations::organization_id)
        .for_key_share();
    let found = query.load::<String>(&mut tx.conn()).await?.into_iter().collect();
    let off = modules::off_among(tx, organization_ids.iter().copied()).await?;
    Ok(Kept { found, off, module: tx.module() })
}

/// Checks that a row may reference this organization: it must be visible to the caller and have the
/// call's module on. For tenant-wide callers existence is left to the foreign key.
pub async fn require(tx: &WriteTx, organization_id: &str) -> Result<()> {
    if tx.is_limited() {
        return keep(tx, organization_id).await;
    }
    modules::require(tx, organization_id).await
}

/// Whether the organization is in the caller's reach. A list of what lies below an organization out
/// of reach is empty, as if that organization did not exist.
pub async fn is_in_reach(tx: &Tx, organization_id: &str) -> Result<bool> {
    if !tx.is_limited() {
        return Ok(true);
    }
    let found = organizations::table
        .filter(tx.owns(organizations::tenant_id))
        .filter(organizations::organization_id.eq(organization_id))
        .filter(tx.organizations_in_reach())
        .select(organizations::organization_id);
    Ok(found.first::<String>(&mut tx.conn()).await.optional()?.is_some())
}

/// Returns the ids of the organization and of all below it; empty if it does not exist.
pub async fn below(tx: &Tx, organization_id: &str) -> Result<Vec<String>> {
    let below = organization_ancestors::table
        .filter(tx.owns(organization_ancestors::tenant_id))
        .filter(organization_ancestors::ancestor_id.eq(organization_id));
    Ok(below.select(organization_ancestors::organization_id).load(&mut tx.conn()).await?)
}
