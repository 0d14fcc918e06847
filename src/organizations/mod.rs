//! Organizations: the forest of a customer's business units that accounts are bound to.

pub(crate) mod refusals;
pub mod store;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    store::{Filter, NewOrganization, Organization},
    wire::{Change, Member, Update},
};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta},
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

/// Levels a tree may have, the top one counted.
pub const MAX_DEPTH: i64 = 16;

/// The calls of `accounts.v1.OrganizationService`.
#[derive(Debug)]
pub struct Service {
    /// Where the organizations are.
    pub db: Db,
}

#[tonic::async_trait]
impl OrganizationService for Service {
    async fn create_organization(
        &self,
        mut request: Request<CreateOrganizationRequest>,
    ) -> Result<Response<CreateOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let new = NewOrganization::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Ok(CreateOrganizationResponse { organization: Some(new.insert(tx).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get_organization(
        &self,
        mut request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let id = wire::id(request.into_inner())?;
        let organization =
            self.db.read(&caller, async |tx| Organization::find(tx, &id).await).await?;
        Ok(Response::new(GetOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn batch_get_organizations(
        &self,
        mut request: Request<BatchGetOrganizationsRequest>,
    ) -> Result<Response<BatchGetOrganizationsResponse>, Status> {
        let caller = request.caller()?;
        let ids = wire::ids(request.into_inner())?;
        let found =
            self.db.read(&caller, async |tx| Organization::find_all(tx, &ids).await).await?;
        Ok(Response::new(BatchGetOrganizationsResponse {
            organizations: found.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_organizations(
        &self,
        mut request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = Filter::parse(&caller, request.into_inner())?;
        let listing =
            self.db.list(&caller, async |tx| Organization::list(tx, &filter, &page).await).await?;
        Ok(Response::new(response!(ListOrganizationsResponse { organizations }, listing)))
    }

    async fn update_organization(
        &self,
        mut request: Request<UpdateOrganizationRequest>,
    ) -> Result<Response<UpdateOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Organization::find_for_update(tx, &update.id).await?;
                let fields = update.apply(&current)?;
                Ok(UpdateOrganizationResponse {
                    organization: Some(current.update(tx, &fields).await?.into()),
                })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn move_organization(
        &self,
        mut request: Request<MoveOrganizationRequest>,
    ) -> Result<Response<MoveOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let change = Change::of_place(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Organization::take_the_forest(tx).await?;
                let current = Organization::find_for_update(tx, &change.id).await?;
                change.check(&current)?;
                let moved = current.put_below(tx, change.parent_id.as_deref()).await?;
                Ok(MoveOrganizationResponse { organization: Some(moved.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn delete_organization(
        &self,
        mut request: Request<DeleteOrganizationRequest>,
    ) -> Result<Response<DeleteOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let change = Change::to_nothing(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Organization::take_the_forest(tx).await?;
                let current = Organization::find_for_update(tx, &change.id).await?;
                change.check(&current)?;
                current.delete(tx).await?;
                Ok(DeleteOrganizationResponse {})
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn add_organization_member(
        &self,
        mut request: Request<AddOrganizationMemberRequest>,
    ) -> Result<Response<AddOrganizationMemberResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let AddOrganizationMemberRequest { organization_id, person_id, request_id, .. } =
            request.into_inner();
        let member = Member::parse(organization_id, person_id, &request_id)?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                // A move could otherwise pass by the person whom the membership comes to depend on
                // it.
                Organization::hold_the_forest(tx).await?;
                let organization = Organization::find_and_keep(tx, &member.organization_id).await?;
                let person = organization.add_member(tx, &member.person_id).await?;
                Ok(AddOrganizationMemberResponse { person: Some(person.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn remove_organization_member(
        &self,
        mut request: Request<RemoveOrganizationMemberRequest>,
    ) -> Result<Response<RemoveOrganizationMemberResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let RemoveOrganizationMemberRequest { organization_id, person_id, request_id, .. } =
            request.into_inner();
        let member = Member::parse(organization_id, person_id, &request_id)?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let organization = Organization::find_and_keep(tx, &member.organization_id).await?;
                organization.remove_member(tx, &member.person_id).await?;
                Ok(RemoveOrganizationMemberResponse {})
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_organization_members(
        &self,
        mut request: Request<ListOrganizationMembersRequest>,
    ) -> Result<Response<ListOrganizationMembersResponse>, Status> {
        let caller = request.caller()?;
        let (id, filter, page) = wire::members(&caller, request.into_inner())?;
        let listing = self
            .db
            .list(&caller, async |tx| {
                Organization::find(tx, &id).await?;
                Person::list(tx, &filter, &page).await
            })
            .await?;
        Ok(Response::new(response!(ListOrganizationMembersResponse { people }, listing)))
    }
}
