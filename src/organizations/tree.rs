//! The tree of organizations: the table of ancestors, and moves.
//!
//! `organization_ancestors` has one row for each pair of an organization and an organization at or
//! above it, with the distance. A transaction that moves or deletes an organization locks the tree
//! ([`WriteTx::lock_tree`]). One that adds an organization below another locks it shared
//! ([`WriteTx::lock_tree_shared`]).

use diesel::{prelude::*, sql_types::Text};
use diesel_async::RunQueryDsl;

use super::{refusals, store::Organization};
use crate::{
    db::{Tx, WriteTx},
    error::Result,
    relations::{
        organization,
        slots::{self, Scope},
    },
    resource::ORGANIZATION,
    rows::set_row,
    schema::{organization_ancestors as ancestors, organizations},
    search::{self, unnest},
};

/// Most levels of a tree, including the top one.
const MAX_DEPTH: i64 = 16;
/// Why a limited caller may not move an organization.
const LEAVES: &str = "the organization would leave a parent, or the top, that you do not reach";
/// Why a limited caller may not create an organization without a parent, or move one there.
pub(super) const NEW_TREE: &str = "an organization without a parent begins a new tree";

/// An organization at or above another one, and its distance.
pub(super) type Above = (String, i32);

/// Rows of `organization_ancestors`.
#[derive(Debug, Default)]
struct Rows<'a> {
    organization_ids: Vec<&'a str>,
    ancestor_ids: Vec<&'a str>,
    distances: Vec<i32>,
}

impl<'a> Rows<'a> {
    fn push(&mut self, organization_id: &'a str, ancestor_id: &'a str, distance: i32) {
        self.organization_ids.push(organization_id);
        self.ancestor_ids.push(ancestor_id);
        self.distances.push(distance);
    }

    /// Inserts the rows from arrays, because one statement for each number of rows would never be
    /// cached.
    async fn insert(self, tx: &WriteTx) -> Result<()> {
        let insert = diesel::insert_into(ancestors::table)
            .values(diesel::select((
                tx.tenant_id().into_sql::<Text>(),
                unnest(self.organization_ids),
                unnest(self.ancestor_ids),
                unnest(self.distances),
            )))
            .into_columns((
                ancestors::tenant_id,
                ancestors::organization_id,
                ancestors::ancestor_id,
                ancestors::distance,
            ));
        tx.send(insert).await?;
        Ok(())
    }
}

/// Inserts the ancestors of a new organization: itself, and the organizations at or above its
/// parent.
pub(super) async fn insert(tx: &WriteTx, organization_id: &str, above: &[Above]) -> Result<()> {
    let mut rows = Rows::default();
    rows.push(organization_id, organization_id, 0);
    for (ancestor_id, distance) in above {
        rows.push(organization_id, ancestor_id, distance + 1);
    }
    rows.insert(tx).await
}

/// Returns the organizations at or above a parent below which a subtree of `levels` levels is
/// added. Fails if the parent does not exist, or if the tree would become too deep.
pub(super) async fn above(tx: &Tx, parent_id: &str, levels: i64) -> Result<Vec<Above>> {
    let above: Vec<Above> = ancestors::table
        .filter(tx.owns(ancestors::tenant_id))
        .filter(ancestors::organization_id.eq(parent_id))
        .select((ancestors::ancestor_id, ancestors::distance))
        .load(&mut tx.conn())
        .await?;
    if above.is_empty() {
        return Err(ORGANIZATION.not_found(parent_id));
    }
    if i64::try_from(above.len()).is_ok_and(|depth| depth + levels > MAX_DEPTH) {
        return Err(refusals::organization_too_deep(parent_id, MAX_DEPTH));
    }
    Ok(above)
}

impl Organization {
    /// Moves the organization, with everything below it, below `parent_id` or to the top. A move to
    /// the present parent changes nothing. The caller must hold the row FOR UPDATE and the tree
    /// lock.
    pub async fn move_below(self, tx: &WriteTx, parent_id: Option<&str>) -> Result<Self> {
        if self.parent_id.as_deref() == parent_id {
            return Ok(self);
        }
        match parent_id {
            Some(parent_id) => organization::require(tx, parent_id).await?,
            None => tx.require_whole_tenant(NEW_TREE)?,
        }
        // A limited caller must also reach the old parent, which loses the organization, while the
        // organization loses the modules set there. No organization has an empty id.
        tx.require_organization_in_reach(self.parent_id.as_deref().unwrap_or_default(), LEAVES)
            .await?;
        let moving = self.at_or_below(tx).await?;
        let above = match parent_id {
            Some(parent_id) => self.new_ancestors(tx, parent_id, &moving).await?,
            None => Vec::new(),
        };
        let guard = slots::guard(tx, Scope::Organization(&self.organization_id)).await?;
        replace_ancestors(tx, &moving, &above).await?;
        let id = &*self.organization_id;
        let columns = (
            organizations::parent_id.eq(parent_id),
            organizations::folded.eq(organizations::folded + search::FOLDINGS),
        );
        let moved = set_row!(tx, Self: organizations.organization_id(id), columns).await?;
        guard.verify(tx).await?;
        tx.updated(&self, &moved)?;
        Ok(moved)
    }

    /// Returns the organization and all below it, each with its distance.
    async fn at_or_below(&self, tx: &Tx) -> Result<Vec<(String, i32)>> {
        let below = ancestors::table
            .filter(tx.owns(ancestors::tenant_id))
            .filter(ancestors::ancestor_id.eq(&self.organization_id));
        Ok(below
            .select((ancestors::organization_id, ancestors::distance))
            .load(&mut tx.conn())
            .await?)
    }

    /// Returns the organizations at or above the new parent. Fails if the parent is one of those
    /// that move, or if the tree would become too deep.
    async fn new_ancestors(
        &self,
        tx: &Tx,
        parent_id: &str,
        moving: &[(String, i32)],
    ) -> Result<Vec<Above>> {
        if moving.iter().any(|(organization_id, _)| organization_id == parent_id) {
            return Err(refusals::organization_cycle(&self.organization_id, parent_id));
        }
        let height = moving.iter().map(|(_, distance)| *distance).max().unwrap_or_default();
        above(tx, parent_id, i64::from(height) + 1).await
    }
}

/// Gives the organizations of a moved subtree the ancestors `above`, in place of their ancestors
/// outside the subtree.
async fn replace_ancestors(tx: &WriteTx, moving: &[(String, i32)], above: &[Above]) -> Result<()> {
    let moving_ids: Vec<_> = moving.iter().map(|(organization_id, _)| organization_id).collect();
    diesel::delete(ancestors::table.filter(tx.owns(ancestors::tenant_id)))
        .filter(ancestors::organization_id.eq_any(&moving_ids))
        .filter(ancestors::ancestor_id.ne_all(&moving_ids))
        .execute(&mut tx.conn())
        .await?;
    // Runs one statement for each ancestor: a subtree can be large, and the arrays of one statement
    // are in memory.
    for (ancestor_id, above) in above {
        let mut rows = Rows::default();
        for (organization_id, below) in moving {
            rows.push(organization_id, ancestor_id, below + above + 1);
        }
        rows.insert(tx).await?;
    }
    Ok(())
}
