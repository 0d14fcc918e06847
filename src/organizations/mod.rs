//! Organizations: trees of a customer's business units, to which accounts are bound.

mod members;
pub(crate) mod refusals;
pub mod store;
mod tree;
mod wire;

use tonic::Request;

use self::{
    store::{Filter, NewOrganization, Organization},
    wire::{Member, Move},
};
use crate::{
    batch::Ids,
    call::{Call as _, Reply, reply},
    change::{self, ById},
    db::Db,
    page::response,
    people::store::Person,
    proto::{
        AddOrganizationMemberRequest, AddOrganizationMemberResponse, BatchGetOrganizationsRequest,
        BatchGetOrganizationsResponse, CreateOrganizationRequest, CreateOrganizationResponse,
        DeleteOrganizationRequest, DeleteOrganizationResponse, GetOrganizationRequest,
        GetOrganizationResponse, ListOrganizationMembersRequest, ListOrganizationMembersResponse,
        ListOrganizationsRequest, ListOrganizationsResponse, MoveOrganizationRequest,
        MoveOrganizationResponse, RemoveOrganizationMemberRequest,
        RemoveOrganizationMemberResponse, UpdateOrganizationRequest, UpdateOrganizationResponse,
        organization_service_server::OrganizationService,
    },
};

/// The calls of `accounts.v1.OrganizationService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl OrganizationService for Service {
    async fn create_organization(
        &self,
        request: Request<CreateOrganizationRequest>,
    ) -> Reply<CreateOrganizationResponse> {
        let (caller, meta, new) = request.change(NewOrganization::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreateOrganizationResponse { organization: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_organization(
        &self,
        request: Request<GetOrganizationRequest>,
    ) -> Reply<GetOrganizationResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| Organization::find(tx, &id).await).await?;
        reply(Ok(GetOrganizationResponse { organization: Some(found.into()) }))
    }

    async fn batch_get_organizations(
        &self,
        request: Request<BatchGetOrganizationsRequest>,
    ) -> Reply<BatchGetOrganizationsResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let work = self.db.read(&caller, async |tx| Organization::find_all(tx, &ids).await);
        let organizations = work.await?.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetOrganizationsResponse { organizations }))
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Reply<ListOrganizationsResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Organization::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListOrganizationsResponse { organizations }, listing)))
    }

    async fn update_organization(
        &self,
        request: Request<UpdateOrganizationRequest>,
    ) -> Reply<UpdateOrganizationResponse> {
        let (caller, meta, update) = request.update(&[])?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = Organization::find_for_update(tx, update.id()).await?;
            let fields = update.fields(&current)?;
            let updated = current.update(tx, &fields).await?;
            Ok(UpdateOrganizationResponse { organization: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn move_organization(
        &self,
        request: Request<MoveOrganizationRequest>,
    ) -> Reply<MoveOrganizationResponse> {
        let (caller, meta, Move { named, parent_id }) = request.change(Move::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            tx.lock_tree().await?;
            let current = named.find(|id| Organization::find_for_update(tx, id)).await?;
            let moved = current.move_below(tx, parent_id.as_deref()).await?;
            Ok(MoveOrganizationResponse { organization: Some(moved.into()) })
        });
        reply(work.await)
    }

    async fn delete_organization(
        &self,
        request: Request<DeleteOrganizationRequest>,
    ) -> Reply<DeleteOrganizationResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            tx.lock_tree().await?;
            let current = named.find(|id| Organization::find_for_update(tx, id)).await?;
            current.delete(tx).await?;
            Ok(DeleteOrganizationResponse {})
        });
        reply(work.await)
    }

    async fn add_organization_member(
        &self,
        request: Request<AddOrganizationMemberRequest>,
    ) -> Reply<AddOrganizationMemberResponse> {
        let (caller, meta, member) = request.change(Member::to_add)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(AddOrganizationMemberResponse { person: Some(member.add(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn remove_organization_member(
        &self,
        request: Request<RemoveOrganizationMemberRequest>,
    ) -> Reply<RemoveOrganizationMemberResponse> {
        let (caller, meta, member) = request.change(Member::to_remove)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            member.remove(tx).await?;
            Ok(RemoveOrganizationMemberResponse {})
        });
        reply(work.await)
    }

    async fn list_organization_members(
        &self,
        request: Request<ListOrganizationMembersRequest>,
    ) -> Reply<ListOrganizationMembersResponse> {
        let (caller, (id, filter), page) = request.list(wire::members)?;
        let work = self.db.list(&caller, async |tx| {
            Organization::find(tx, &id).await?;
            Person::list(tx, &filter, &page).await
        });
        let listing = work.await?;
        reply(Ok(response!(ListOrganizationMembersResponse { people }, listing)))
    }
}
