//! The members of an organization.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{refusals, wire::Member};
use crate::{
    db::WriteTx,
    error::Result,
    people::store::Person,
    relations::{
        members, organization,
        slots::{self, Scope},
    },
    resource::PERSON,
    schema::{organization_members, people},
};

impl Member {
    /// Makes the person a member; a present member changes nothing. Locks the tree shared, and the
    /// organization and the person FOR KEY SHARE.
    pub async fn add(&self, tx: &WriteTx) -> Result<Person> {
        // A move of the organization must not miss the new member.
        tx.lock_tree_shared().await?;
        organization::keep(tx, &self.organization_id).await?;
        // The lock keeps the person from being deleted, and from getting another sort key, until
        // commit.
        let query = people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq(&self.person_id).and(tx.people_in_reach()))
            .select(Person::as_select())
            .for_key_share();
        let person: Person = PERSON.found(&self.person_id, query.first(&mut tx.conn()).await)?;
        tx.require_member_in_reach(&self.person_id).await?;
        self.record().insert(tx, &person.fields.sort_key, person.create_time).await?;
        Ok(person)
    }

    /// Removes the person from the organization. Fails if they are not a member.
    pub async fn remove(&self, tx: &WriteTx) -> Result<()> {
        organization::keep(tx, &self.organization_id).await?;
        let guard = slots::guard(tx, Scope::Person(&self.person_id)).await?;
        let removed = diesel::delete(
            organization_members::table.filter(tx.owns(organization_members::tenant_id)),
        )
        .filter(organization_members::organization_id.eq(&self.organization_id))
        .filter(organization_members::person_id.eq(&self.person_id))
        .execute(&mut tx.conn())
        .await?;
        if removed == 0 {
            let Self { organization_id, person_id } = self;
            return Err(refusals::organization_member_not_found(organization_id, person_id));
        }
        guard.verify(tx).await?;
        tx.deleted(&self.record())
    }

    fn record(&self) -> members::Member<'_> {
        members::Member { organization_id: &self.organization_id, person_id: &self.person_id }
    }
}
