//! The tenant itself: its settings, and which modules are switched on where.

mod refusals;
pub mod store;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    store::{Activation, Switch},
    wire::{Asked, Update},
};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta, Tenant},
    page::response,
    proto::{
        GetTenantSettingsRequest, GetTenantSettingsResponse, ListModuleActivationsRequest,
        ListModuleActivationsResponse, SetModuleActivationRequest, SetModuleActivationResponse,
        UpdateTenantSettingsRequest, UpdateTenantSettingsResponse,
        tenant_service_server::TenantService,
    },
};

/// The calls of `accounts.v1.TenantService`.
#[derive(Debug)]
pub struct Service {
    /// Where the tenants are.
    pub db: Db,
    /// Least number of days that a tenant can choose to keep activities.
    pub min_retention: i32,
}

#[tonic::async_trait]
impl TenantService for Service {
    async fn get_tenant_settings(
        &self,
        mut request: Request<GetTenantSettingsRequest>,
    ) -> Result<Response<GetTenantSettingsResponse>, Status> {
        let caller = request.caller()?;
        let tenant = self.db.read(&caller, async |tx| Ok(tx.tenant().await?.clone())).await?;
        Ok(Response::new(GetTenantSettingsResponse { tenant_settings: Some(tenant.into()) }))
    }

    async fn update_tenant_settings(
        &self,
        mut request: Request<UpdateTenantSettingsRequest>,
    ) -> Result<Response<UpdateTenantSettingsResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Tenant::take(tx).await?;
                let settings = update.apply(&current, self.min_retention)?;
                let updated = current.update(tx, caller.tenant.as_str(), &settings).await?;
                Ok(UpdateTenantSettingsResponse { tenant_settings: Some(updated.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn set_module_activation(
        &self,
        mut request: Request<SetModuleActivationRequest>,
    ) -> Result<Response<SetModuleActivationResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let switch = Switch::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Ok(SetModuleActivationResponse { module_state: Some(switch.set(tx).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn list_module_activations(
        &self,
        mut request: Request<ListModuleActivationsRequest>,
    ) -> Result<Response<ListModuleActivationsResponse>, Status> {
        let caller = request.caller()?;
        let (Asked { filter, modules }, page) = Asked::parse(&caller, request.into_inner())?;
        let (states, listing) = self
            .db
            .list(&caller, async |tx| {
                let states = store::states(tx, &modules, filter.organization_id.as_deref()).await?;
                Ok((states, Activation::list(tx, &filter, &page).await?))
            })
            .await?;
        let module_states = states.into_iter().map(Into::into).collect();
        Ok(Response::new(response!(
            ListModuleActivationsResponse { module_activations, module_states: module_states },
            listing
        )))
    }
}
