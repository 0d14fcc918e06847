//! Account types: the kinds of account that each tenant distinguishes.

pub(crate) mod refusals;
pub mod store;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    store::{AccountType, Filter, NewAccountType},
    wire::{Deactivation, Update},
};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta},
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
    /// Where the account types are.
    pub db: Db,
}

#[tonic::async_trait]
impl AccountTypeService for Service {
    async fn create_account_type(
        &self,
        mut request: Request<CreateAccountTypeRequest>,
    ) -> Result<Response<CreateAccountTypeResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let new = NewAccountType::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                Ok(CreateAccountTypeResponse { account_type: Some(new.insert(tx).await?.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get_account_type(
        &self,
        mut request: Request<GetAccountTypeRequest>,
    ) -> Result<Response<GetAccountTypeResponse>, Status> {
        let caller = request.caller()?;
        let id = wire::id(request.into_inner())?;
        let account_type =
            self.db.read(&caller, async |tx| AccountType::find(tx, &id).await).await?;
        Ok(Response::new(GetAccountTypeResponse { account_type: Some(account_type.into()) }))
    }

    async fn batch_get_account_types(
        &self,
        mut request: Request<BatchGetAccountTypesRequest>,
    ) -> Result<Response<BatchGetAccountTypesResponse>, Status> {
        let caller = request.caller()?;
        let ids = wire::ids(request.into_inner())?;
        let found = self.db.read(&caller, async |tx| AccountType::find_all(tx, &ids).await).await?;
        Ok(Response::new(BatchGetAccountTypesResponse {
            account_types: found.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_account_types(
        &self,
        mut request: Request<ListAccountTypesRequest>,
    ) -> Result<Response<ListAccountTypesResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = Filter::parse(&caller, request.into_inner())?;
        let listing =
            self.db.read(&caller, async |tx| AccountType::list(tx, &filter, &page).await).await?;
        Ok(Response::new(response!(ListAccountTypesResponse { account_types }, listing)))
    }

    async fn update_account_type(
        &self,
        mut request: Request<UpdateAccountTypeRequest>,
    ) -> Result<Response<UpdateAccountTypeResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = AccountType::find_for_update(tx, &update.id).await?;
                let fields = update.apply(&current)?;
                Ok(UpdateAccountTypeResponse {
                    account_type: Some(current.update(tx, &fields).await?.into()),
                })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn deactivate_account_type(
        &self,
        mut request: Request<DeactivateAccountTypeRequest>,
    ) -> Result<Response<DeactivateAccountTypeResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let deactivation = Deactivation::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = AccountType::find_for_update(tx, &deactivation.id).await?;
                let fields = deactivation.apply(&current)?;
                Ok(DeactivateAccountTypeResponse {
                    account_type: Some(current.update(tx, &fields).await?.into()),
                })
            })
            .await?;
        Ok(Response::new(response))
    }
}
