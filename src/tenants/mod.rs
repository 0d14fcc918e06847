//! The tenant itself: its settings, and for which organizations each module is on or off.

mod refusals;
pub mod store;
mod wire;

use tonic::Request;

use self::{
    store::{Activation, Switch},
    wire::Asked,
};
use crate::{
    call::{Call as _, Reply, reply},
    db::Db,
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
    /// The database.
    pub db: Db,
    /// Least number of days that a tenant can choose to keep activities.
    pub min_retention: i32,
}

#[tonic::async_trait]
impl TenantService for Service {
    async fn get_tenant_settings(
        &self,
        request: Request<GetTenantSettingsRequest>,
    ) -> Reply<GetTenantSettingsResponse> {
        let (caller, ()) = request.read(|_, _| ())?;
        let tenant = self.db.read(&caller, async |tx| Ok(tx.tenant().await?.clone())).await?;
        reply(Ok(GetTenantSettingsResponse { tenant_settings: Some(tenant.into()) }))
    }

    async fn update_tenant_settings(
        &self,
        request: Request<UpdateTenantSettingsRequest>,
    ) -> Reply<UpdateTenantSettingsResponse> {
        let (caller, meta, update) = request.update(&[])?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = tx.lock_tenant().await?;
            let settings = update.settings(&current, self.min_retention)?;
            let updated = current.update(tx, &settings).await?;
            Ok(UpdateTenantSettingsResponse { tenant_settings: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn set_module_activation(
        &self,
        request: Request<SetModuleActivationRequest>,
    ) -> Reply<SetModuleActivationResponse> {
        let (caller, meta, switch) = request.change(Switch::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(SetModuleActivationResponse { module_state: Some(switch.set(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn list_module_activations(
        &self,
        request: Request<ListModuleActivationsRequest>,
    ) -> Reply<ListModuleActivationsResponse> {
        let (caller, Asked { filter, modules }, page) = request.list(Asked::parse)?;
        let work = self.db.list(&caller, async |tx| {
            let states = store::states(tx, &modules, filter.organization_id.as_deref()).await?;
            Ok((states, Activation::list(tx, &filter, &page).await?))
        });
        let (states, listing) = work.await?;
        let module_states = states.into_iter().map(Into::into).collect();
        reply(Ok(response!(
            ListModuleActivationsResponse { module_activations, module_states: module_states },
            listing
        )))
    }
}
