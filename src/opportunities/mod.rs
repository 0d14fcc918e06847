//! Opportunities: what a CRM expects to sell to an account.

mod list;
mod refusals;
pub mod store;
mod wire;

use tonic::Request;

use self::{
    list::Filter,
    store::{Opportunity, Wanted},
};
use crate::{
    accounts::{
        dependents::{Dependents, Removed},
        store::Account,
    },
    batch::Ids,
    call::{Call as _, Reply, reply},
    change::{self, ById},
    db::{Db, WriteTx},
    error::Result,
    page::response,
    proto::{
        BatchGetOpportunitiesRequest, BatchGetOpportunitiesResponse, DeleteOpportunityRequest,
        DeleteOpportunityResponse, GetOpportunityRequest, GetOpportunityResponse,
        ListOpportunitiesRequest, ListOpportunitiesResponse, PutOpportunityRequest,
        PutOpportunityResponse, opportunity_service_server::OpportunityService,
    },
};

/// The calls of `accounts.v1.OpportunityService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl OpportunityService for Service {
    async fn put_opportunity(
        &self,
        request: Request<PutOpportunityRequest>,
    ) -> Reply<PutOpportunityResponse> {
        let (caller, meta, wanted) = request.change(Wanted::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let default = tx.tenant().await?.settings.default_currency.clone();
            let fields = wanted.fields(default.as_deref())?;
            Ok(wanted.put(tx, fields).await?.into())
        });
        reply(work.await)
    }

    async fn get_opportunity(
        &self,
        request: Request<GetOpportunityRequest>,
    ) -> Reply<GetOpportunityResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| Opportunity::find(tx, &id).await).await?;
        reply(Ok(GetOpportunityResponse { opportunity: Some(found.into()) }))
    }

    async fn batch_get_opportunities(
        &self,
        request: Request<BatchGetOpportunitiesRequest>,
    ) -> Reply<BatchGetOpportunitiesResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| Opportunity::find_all(tx, &ids).await).await?;
        let opportunities = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetOpportunitiesResponse { opportunities }))
    }

    async fn list_opportunities(
        &self,
        request: Request<ListOpportunitiesRequest>,
    ) -> Reply<ListOpportunitiesResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Opportunity::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListOpportunitiesResponse { opportunities }, listing)))
    }

    async fn delete_opportunity(
        &self,
        request: Request<DeleteOpportunityRequest>,
    ) -> Reply<DeleteOpportunityResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Opportunity::find_for_update(tx, id)).await?;
            current.delete(tx).await?;
            Ok(DeleteOpportunityResponse {})
        });
        reply(work.await)
    }
}

/// The opportunities of an account.
#[derive(Debug)]
pub struct OfAccount;

#[tonic::async_trait]
impl Dependents for OfAccount {
    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<Option<Removed>> {
        Opportunity::remove_all(tx, &account.account_id).await?;
        Ok(None)
    }
}
