//! The members of an organization.

use std::borrow::Cow;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{refusals, store::Organization};
use crate::{
    db::{BelongsTo, Recorded, WriteTx},
    error::Result,
    id,
    memberships::slots::{self, Scope},
    people::store::Person,
    resource::PERSON,
    schema::{organization_members, people},
};

/// A member of an organization, as the trail records it.
#[derive(Debug, Serialize)]
pub(super) struct Member<'a> {
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

impl Organization {
    /// Adds a person as a member; a present member changes nothing. Locks the person FOR KEY SHARE.
    /// The caller must hold the tree lock, at least shared.
    pub async fn add_member(&self, tx: &WriteTx, person_id: &str) -> Result<Person> {
        // The lock keeps the person from being deleted, and from getting another sort key, until
        // commit.
        let person = people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq(person_id).and(tx.people_in_reach()))
            .select(Person::as_select())
            .for_key_share()
            .first::<Person>(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| PERSON.not_found(person_id))?;
        tx.require_member_in_reach(person_id).await?;
        self.insert_member(tx, &person).await?;
        Ok(person)
    }

    /// Adds a person as a member; a present member changes nothing. The caller must hold the tree
    /// lock, at least shared, and the lock of the person's row.
    pub async fn insert_member(&self, tx: &WriteTx, person: &Person) -> Result<()> {
        let added = diesel::insert_into(organization_members::table)
            .values((
                tx.owns(organization_members::tenant_id),
                organization_members::organization_id.eq(&self.organization_id),
                organization_members::person_id.eq(&person.person_id),
                organization_members::sort_key.eq(&person.fields.sort_key),
                organization_members::person_create_time.eq(person.create_time),
            ))
            .on_conflict_do_nothing()
            .execute(&mut tx.conn())
            .await?;
        if added > 0 {
            let organization_id = &self.organization_id;
            tx.created(&Member { organization_id, person_id: &person.person_id })?;
        }
        Ok(())
    }

    /// Removes a member. Fails if the person is not one.
    pub async fn remove_member(&self, tx: &WriteTx, person_id: &str) -> Result<()> {
        let guard = slots::guard(tx, Scope::Person(person_id)).await?;
        let removed = diesel::delete(
            organization_members::table.filter(tx.owns(organization_members::tenant_id)),
        )
        .filter(organization_members::organization_id.eq(&self.organization_id))
        .filter(organization_members::person_id.eq(person_id))
        .execute(&mut tx.conn())
        .await?;
        if removed == 0 {
            let organization_id = &self.organization_id;
            return Err(refusals::organization_member_not_found(organization_id, person_id));
        }
        guard.verify(tx).await?;
        tx.deleted(&Member { organization_id: &self.organization_id, person_id })
    }

    /// Removes a person from every organization. The caller must hold the person FOR UPDATE, so
    /// that no other transaction adds the person to one.
    pub async fn remove_from_all(tx: &WriteTx, person_id: &str) -> Result<()> {
        let mut left: Vec<String> = diesel::delete(
            organization_members::table.filter(tx.owns(organization_members::tenant_id)),
        )
        .filter(organization_members::person_id.eq(person_id))
        .returning(organization_members::organization_id)
        .get_results(&mut tx.conn())
        .await?;
        left.sort();
        for organization_id in &left {
            tx.deleted(&Member { organization_id, person_id })?;
        }
        Ok(())
    }
}
