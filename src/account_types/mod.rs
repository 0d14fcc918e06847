//! Account types: the kinds of account that each tenant distinguishes.

pub(crate) mod refusals;
pub mod store;
mod wire;

use tonic::Request;

use self::store::{AccountType, Filter, NewAccountType};
use crate::{
    batch::Ids,
    call::{Call as _, Reply, reply},
    change::{self, ById},
    db::Db,
    page::response,
    proto::{
        BatchGetAccountTypesRequest, BatchGetAccountTypesResponse, CreateAccountTypeRequest,
        CreateAccountTypeResponse, DeactivateAccountTypeRequest, DeactivateAccountTypeResponse,
        GetAccountTypeRequest, GetAccountTypeResponse, ListAccountTypesRequest,
        ListAccountTypesResponse, UpdateAccountTypeRequest, UpdateAccountTypeResponse,
        account_type_service_server::AccountTypeService,
    },
};

/// The calls of `accounts.v1.AccountTypeService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl AccountTypeService for Service {
    async fn create_account_type(
        &self,
        request: Request<CreateAccountTypeRequest>,
    ) -> Reply<CreateAccountTypeResponse> {
        let (caller, meta, new) = request.change(NewAccountType::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreateAccountTypeResponse { account_type: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_account_type(
        &self,
        request: Request<GetAccountTypeRequest>,
    ) -> Reply<GetAccountTypeResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| AccountType::find(tx, &id).await).await?;
        reply(Ok(GetAccountTypeResponse { account_type: Some(found.into()) }))
    }

    async fn batch_get_account_types(
        &self,
        request: Request<BatchGetAccountTypesRequest>,
    ) -> Reply<BatchGetAccountTypesResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| AccountType::find_all(tx, &ids).await).await?;
        let account_types = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetAccountTypesResponse { account_types }))
    }

    async fn list_account_types(
        &self,
        request: Request<ListAccountTypesRequest>,
    ) -> Reply<ListAccountTypesResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.read(&caller, async |tx| AccountType::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListAccountTypesResponse { account_types }, listing)))
    }

    async fn update_account_type(
        &self,
        request: Request<UpdateAccountTypeRequest>,
    ) -> Reply<UpdateAccountTypeResponse> {
        let (caller, meta, update) = request.update(&[])?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = AccountType::find_for_update(tx, update.id()).await?;
            let fields = update.fields(&current)?;
            let updated = current.update(tx, &fields).await?;
            Ok(UpdateAccountTypeResponse { account_type: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn deactivate_account_type(
        &self,
        request: Request<DeactivateAccountTypeRequest>,
    ) -> Reply<DeactivateAccountTypeResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| AccountType::find_for_update(tx, id)).await?;
            let deactivated = current.deactivate(tx).await?;
            Ok(DeactivateAccountTypeResponse { account_type: Some(deactivated.into()) })
        });
        reply(work.await)
    }
}
