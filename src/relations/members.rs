//! The members of organizations.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::{
    db::{BelongsTo, Recorded, WriteTx},
    error::Result,
    id,
    schema::organization_members,
};

/// A member of an organization, as the trail records it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Member<'a> {
    /// The organization.
    pub organization_id: &'a str,
    /// The member.
    pub person_id: &'a str,
}

impl Recorded for Member<'_> {
    const NOUN: &'static str = "organization_member";

    fn id(&self) -> Cow<'_, str> {
        id::pair(self.organization_id, self.person_id).into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Tenant
    }
}

impl Member<'_> {
    /// Adds the person, whose sort key and creation lists of members are ordered by. A present
    /// member changes nothing. The caller must hold the tree lock, at least shared, and the lock of
    /// the person's row.
    pub async fn insert(
        &self,
        tx: &WriteTx,
        sort_key: &str,
        create_time: DateTime<Utc>,
    ) -> Result<()> {
        let added = diesel::insert_into(organization_members::table)
            .values((
                tx.owns(organization_members::tenant_id),
                organization_members::organization_id.eq(self.organization_id),
                organization_members::person_id.eq(self.person_id),
                organization_members::sort_key.eq(sort_key),
                organization_members::person_create_time.eq(create_time),
            ))
            .on_conflict_do_nothing()
            .execute(&mut tx.conn())
            .await?;
        if added > 0 { tx.created(self) } else { Ok(()) }
    }
}

/// Removes a person from every organization. The caller must hold the person FOR UPDATE, so that no
/// other transaction adds the person to one.
pub async fn remove_from_all(tx: &WriteTx, person_id: &str) -> Result<()> {
    let mut left: Vec<String> = diesel::delete(
        organization_members::table.filter(tx.owns(organization_members::tenant_id)),
    )
    .filter(organization_members::person_id.eq(person_id))
    .returning(organization_members::organization_id)
    .get_results(&mut tx.conn())
    .await?;
    left.sort();
    left.iter().try_for_each(|organization_id| tx.deleted(&Member { organization_id, person_id }))
}
