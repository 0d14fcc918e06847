//! Organizations: the forest of a customer's business units that accounts are bound to.

pub mod store;
mod wire;

use tonic::{Request, Response, Status};

use self::store::{Filter, NewOrganization, Organization};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta},
    proto::{
        CreateOrganizationRequest, CreateOrganizationResponse, GetOrganizationRequest, GetOrganizationResponse,
        ListOrganizationsRequest, ListOrganizationsResponse, organization_service_server::OrganizationService,
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
            .write(&caller, &meta, async |tx| Ok(CreateOrganizationResponse { organization: Some(new.insert(tx).await?.into()) }))
            .await?;
        Ok(Response::new(response))
    }

    async fn get_organization(
        &self,
        mut request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        let caller = request.caller()?;
        let id = wire::id(request.into_inner())?;
        let organization = self.db.read(&caller, async |tx| Organization::find(tx, &id).await).await?;
        Ok(Response::new(GetOrganizationResponse { organization: Some(organization.into()) }))
    }

    async fn list_organizations(
        &self,
        mut request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = Filter::parse(&caller, request.into_inner())?;
        let (rows, next_page_token) = self.db.read(&caller, async |tx| Organization::list(tx, &filter, &page).await).await?;
        let organizations = rows.into_iter().map(Into::into).collect();
        Ok(Response::new(ListOrganizationsResponse { organizations, next_page_token }))
    }
}
