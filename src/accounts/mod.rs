//! Accounts: a customer's business entity, bound to an organization.

mod country;
pub(crate) mod refusals;
pub mod store;
mod value;
mod wire;

use tonic::{Request, Response, Status};

use self::{
    store::{Account, Filter, NewAccount},
    wire::{Deletion, Update},
};
use crate::{
    caller::RequestExt as _,
    db::{Db, Meta},
    page::{Listing, response},
    proto::{
        BatchGetAccountsRequest, BatchGetAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, DeleteAccountRequest, DeleteAccountResponse, GetAccountRequest,
        GetAccountResponse, ListAccountsRequest, ListAccountsResponse, UpdateAccountRequest,
        UpdateAccountResponse, account_service_server::AccountService,
    },
};

/// The calls of `accounts.v1.AccountService`.
#[derive(Debug)]
pub struct Service {
    /// Where the accounts are.
    pub db: Db,
}

#[tonic::async_trait]
impl AccountService for Service {
    async fn create_account(
        &self,
        mut request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let new = NewAccount::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let account = new.insert(tx).await?;
                Ok(CreateAccountResponse { account: Some(account.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn get_account(
        &self,
        mut request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let caller = request.caller()?;
        let id = wire::id(request.into_inner())?;
        let account = self
            .db
            .read(&caller, async |tx| Account::show(tx, Account::find(tx, &id).await?).await)
            .await?;
        Ok(Response::new(GetAccountResponse { account: Some(account.into()) }))
    }

    async fn batch_get_accounts(
        &self,
        mut request: Request<BatchGetAccountsRequest>,
    ) -> Result<Response<BatchGetAccountsResponse>, Status> {
        let caller = request.caller()?;
        let ids = wire::ids(request.into_inner())?;
        let accounts = self
            .db
            .read(&caller, async |tx| Account::shown(tx, Account::find_all(tx, &ids).await?).await)
            .await?;
        Ok(Response::new(BatchGetAccountsResponse {
            accounts: accounts.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_accounts(
        &self,
        mut request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let caller = request.caller()?;
        let (filter, page) = Filter::parse(&caller, request.into_inner())?;
        let listing = self
            .db
            .list(&caller, async |tx| {
                let Listing { rows, next_page_token, total } =
                    Account::list(tx, &filter, &page).await?;
                Ok(Listing { rows: Account::shown(tx, rows).await?, next_page_token, total })
            })
            .await?;
        Ok(Response::new(response!(ListAccountsResponse { accounts }, listing)))
    }

    async fn update_account(
        &self,
        mut request: Request<UpdateAccountRequest>,
    ) -> Result<Response<UpdateAccountResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let update = Update::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Account::find_for_update_to(tx, &update.id, &update.target()).await?;
                let fields = update.apply(&current)?;
                let account = current.update(tx, &fields).await?;
                Ok(UpdateAccountResponse { account: Some(account.into()) })
            })
            .await?;
        Ok(Response::new(response))
    }

    async fn delete_account(
        &self,
        mut request: Request<DeleteAccountRequest>,
    ) -> Result<Response<DeleteAccountResponse>, Status> {
        let caller = request.caller()?;
        let meta = Meta::of(&caller, request.get_ref());
        let deletion = Deletion::parse(request.into_inner())?;
        let response = self
            .db
            .write(&caller, &meta, async |tx| {
                let current = Account::find_for_update(tx, &deletion.id).await?;
                deletion.check(&current)?;
                current.delete(tx).await?;
                Ok(DeleteAccountResponse {})
            })
            .await?;
        Ok(Response::new(response))
    }
}
