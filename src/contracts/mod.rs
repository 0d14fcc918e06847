//! Contracts: what is agreed with the customer of an account, and the delivery setups under it.

pub mod list;
pub(crate) mod refusals;
pub mod setups;
mod steps;
pub mod store;
pub mod terms;
mod wire;
mod words;

use tonic::Request;

use self::{
    list::Filter,
    setups::{DeliverySetup, NewSetup, Shown},
    steps::Asked,
    store::{Contract, NewContract, OnDay},
    terms::Step,
};
use crate::{
    accounts::{
        dependents::{Dependents, Removed, Use},
        store::Account,
    },
    batch::Ids,
    call::{Call as _, Reply, reply},
    change::{self, ById},
    db::{Db, WriteTx},
    error::Result,
    page::response,
    proto::{
        ApproveContractRequest, ApproveContractResponse, BatchGetContractsRequest,
        BatchGetContractsResponse, BatchGetDeliverySetupsRequest, BatchGetDeliverySetupsResponse,
        CancelContractRequest, CancelContractResponse, CreateContractRequest,
        CreateContractResponse, CreateDeliverySetupRequest, CreateDeliverySetupResponse,
        DeleteDeliverySetupRequest, DeleteDeliverySetupResponse, GetContractRequest,
        GetContractResponse, GetDeliverySetupRequest, GetDeliverySetupResponse,
        ListContractsRequest, ListContractsResponse, ListDeliverySetupsRequest,
        ListDeliverySetupsResponse, RejectContractRequest, RejectContractResponse,
        SubmitContractRequest, SubmitContractResponse, TerminateContractRequest,
        TerminateContractResponse, UncancelContractRequest, UncancelContractResponse,
        UpdateContractRequest, UpdateContractResponse, UpdateDeliverySetupRequest,
        UpdateDeliverySetupResponse, VoidContractRequest, VoidContractResponse,
        contract_service_server::ContractService,
    },
};

/// The calls of `accounts.v1.ContractService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

/// Takes the step of a request, and answers with the contract. The closure parses the request.
macro_rules! step {
    ($service:ident, $request:ident, $response:ident, $parse:expr) => {{
        let (caller, meta, (named, asked)) = $request.change($parse)?;
        let work = $service.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Contract::find_for_update(tx, id)).await?;
            let moved = current.take(tx, &asked, &caller.actor).await?;
            Ok($response { contract: Some(moved.into()) })
        });
        reply(work.await)
    }};
}

#[tonic::async_trait]
impl ContractService for Service {
    async fn create_contract(
        &self,
        request: Request<CreateContractRequest>,
    ) -> Reply<CreateContractResponse> {
        let (caller, meta, new) = request.change(NewContract::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreateContractResponse { contract: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_contract(
        &self,
        request: Request<GetContractRequest>,
    ) -> Reply<GetContractResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| OnDay::find(tx, &id).await).await?;
        reply(Ok(GetContractResponse { contract: Some(found.into()) }))
    }

    async fn batch_get_contracts(
        &self,
        request: Request<BatchGetContractsRequest>,
    ) -> Reply<BatchGetContractsResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| OnDay::find_all(tx, &ids).await).await?;
        let contracts = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetContractsResponse { contracts }))
    }

    async fn list_contracts(
        &self,
        request: Request<ListContractsRequest>,
    ) -> Reply<ListContractsResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Contract::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListContractsResponse { contracts }, listing)))
    }

    async fn update_contract(
        &self,
        request: Request<UpdateContractRequest>,
    ) -> Reply<UpdateContractResponse> {
        let (caller, meta, update) = request.update(wire::ELSEWHERE)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = Contract::find_for_update(tx, update.id()).await?.on_day;
            let settings = &tx.tenant().await?.settings;
            let (fields, terms) =
                update.contents(&current, settings.default_currency.as_deref())?;
            let steps = current.0.steps.clone();
            let updated = current.0.update(tx, &fields, &terms, &steps).await?;
            Ok(UpdateContractResponse { contract: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn submit_contract(
        &self,
        request: Request<SubmitContractRequest>,
    ) -> Reply<SubmitContractResponse> {
        step!(self, request, SubmitContractResponse, |v, it| Asked::parse(v, it, Step::Submit))
    }

    async fn approve_contract(
        &self,
        request: Request<ApproveContractRequest>,
    ) -> Reply<ApproveContractResponse> {
        step!(self, request, ApproveContractResponse, |v, it| Asked::parse(v, it, Step::Approve))
    }

    async fn reject_contract(
        &self,
        request: Request<RejectContractRequest>,
    ) -> Reply<RejectContractResponse> {
        step!(self, request, RejectContractResponse, |v, mut it: RejectContractRequest| {
            let reason = std::mem::take(&mut it.reason);
            Asked::with(v, it, Step::Reject, reason, None)
        })
    }

    async fn void_contract(
        &self,
        request: Request<VoidContractRequest>,
    ) -> Reply<VoidContractResponse> {
        step!(self, request, VoidContractResponse, |v, mut it: VoidContractRequest| {
            let reason = std::mem::take(&mut it.reason);
            Asked::with(v, it, Step::Void, reason, None)
        })
    }

    async fn cancel_contract(
        &self,
        request: Request<CancelContractRequest>,
    ) -> Reply<CancelContractResponse> {
        step!(self, request, CancelContractResponse, |v, mut it: CancelContractRequest| {
            let (reason, date) = (std::mem::take(&mut it.reason), it.end_date);
            Asked::with(v, it, Step::Cancel, reason, Some(("end_date", date)))
        })
    }

    async fn uncancel_contract(
        &self,
        request: Request<UncancelContractRequest>,
    ) -> Reply<UncancelContractResponse> {
        step!(self, request, UncancelContractResponse, |v, it| Asked::parse(v, it, Step::Uncancel))
    }

    async fn terminate_contract(
        &self,
        request: Request<TerminateContractRequest>,
    ) -> Reply<TerminateContractResponse> {
        step!(self, request, TerminateContractResponse, |v, mut it: TerminateContractRequest| {
            let (reason, date) = (std::mem::take(&mut it.reason), it.termination_date);
            Asked::with(v, it, Step::Terminate, reason, Some(("termination_date", date)))
        })
    }

    async fn create_delivery_setup(
        &self,
        request: Request<CreateDeliverySetupRequest>,
    ) -> Reply<CreateDeliverySetupResponse> {
        let (caller, meta, new) = request.change(NewSetup::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreateDeliverySetupResponse { delivery_setup: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_delivery_setup(
        &self,
        request: Request<GetDeliverySetupRequest>,
    ) -> Reply<GetDeliverySetupResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| Shown::find(tx, &id).await).await?;
        reply(Ok(GetDeliverySetupResponse { delivery_setup: Some(found.into()) }))
    }

    async fn batch_get_delivery_setups(
        &self,
        request: Request<BatchGetDeliverySetupsRequest>,
    ) -> Reply<BatchGetDeliverySetupsResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let work = self.db.read(&caller, async |tx| Shown::find_all(tx, &ids).await);
        let delivery_setups = work.await?.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetDeliverySetupsResponse { delivery_setups }))
    }

    async fn list_delivery_setups(
        &self,
        request: Request<ListDeliverySetupsRequest>,
    ) -> Reply<ListDeliverySetupsResponse> {
        let (caller, filter, page) = request.list(setups::Filter::parse)?;
        let work = self.db.list(&caller, async |tx| DeliverySetup::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListDeliverySetupsResponse { delivery_setups }, listing)))
    }

    async fn update_delivery_setup(
        &self,
        request: Request<UpdateDeliverySetupRequest>,
    ) -> Reply<UpdateDeliverySetupResponse> {
        let (caller, meta, update) = request.update(setups::wire::ELSEWHERE)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let (current, kept) = DeliverySetup::find_for_update(tx, update.id()).await?;
            let fields = update.fields(&current)?;
            let updated = current.0.update(tx, &fields, &kept).await?;
            Ok(UpdateDeliverySetupResponse { delivery_setup: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn delete_delivery_setup(
        &self,
        request: Request<DeleteDeliverySetupRequest>,
    ) -> Reply<DeleteDeliverySetupResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let setup = named
                .find(|id| async move { Ok(DeliverySetup::find_for_update(tx, id).await?.0) })
                .await?;
            setup.0.delete(tx).await?;
            Ok(DeleteDeliverySetupResponse {})
        });
        reply(work.await)
    }
}

/// The contracts and delivery setups of an account, for its deletion.
#[derive(Debug)]
pub struct OfAccount;

#[tonic::async_trait]
impl Dependents for OfAccount {
    async fn in_force(&self, tx: &WriteTx, account: &Account, limit: i64) -> Result<Vec<Use>> {
        let today = tx.today().await?;
        let (ids, count) = Contract::in_force(tx, &account.account_id, today, limit).await?;
        Ok(vec![Use { noun: refusals::CONTRACT.noun, plural: "contracts", ids, count }])
    }

    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<Option<Removed>> {
        DeliverySetup::remove_all(tx, &account.account_id).await?;
        Contract::remove_all(tx, &account.account_id).await?;
        Ok(None)
    }
}
