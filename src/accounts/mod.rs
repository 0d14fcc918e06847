//! Accounts: a customer's business entity, bound to an organization.

mod bulk;
mod contacts;
mod country;
pub mod dependents;
pub mod list;
mod primary;
pub(crate) mod refusals;
pub mod scope;
mod search;
pub mod store;
mod update;
mod value;
mod wire;
mod words;

use futures_util::future::BoxFuture;
use tonic::{Request, Streaming};

use self::{
    dependents::Dependents,
    list::Filter,
    store::{Account, NewAccount},
};
use crate::{
    batch::Ids,
    call::{Answers, Call as _, Reply, enter, reply, stream},
    caller::{Caller, RequestExt as _},
    change::{self, ById},
    db::{Db, Tx},
    error::Result,
    page::{Listing, response},
    proto::{
        BatchGetAccountsRequest, BatchGetAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, DeleteAccountRequest, DeleteAccountResponse, ExportAccountsRequest,
        ExportAccountsResponse, GetAccountOverviewRequest, GetAccountOverviewResponse,
        GetAccountRequest, GetAccountResponse, ImportAccountsRequest, ImportAccountsResponse,
        ListAccountsRequest, ListAccountsResponse, UpdateAccountRequest, UpdateAccountResponse,
        account_service_server::AccountService,
    },
    streams::{StreamPermit, Streams},
};

/// Reads the overview of an account. It has rows of slices that use accounts.
pub type ReadOverview =
    for<'a> fn(&'a Tx, &'a str) -> BoxFuture<'a, Result<GetAccountOverviewResponse>>;

/// The streams of many accounts, which have rows of slices that use accounts.
#[derive(Debug)]
pub struct Transfers {
    /// The permits for imports and exports.
    pub permits: Streams,
    /// Opens an import.
    pub open_import: fn(
        Db,
        Caller,
        StreamPermit,
        Streaming<ImportAccountsRequest>,
    ) -> Answers<ImportAccountsResponse>,
    /// Opens an export.
    pub open_export: fn(
        Db,
        Caller,
        StreamPermit,
        ExportAccountsRequest,
    ) -> Result<Answers<ExportAccountsResponse>>,
}

/// The calls of `accounts.v1.AccountService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
    /// What belongs to accounts and has a slice of its own.
    pub dependents: &'static [&'static dyn Dependents],
    /// Reads an overview.
    pub overview: ReadOverview,
    /// Opens imports and exports.
    pub transfers: Transfers,
}

#[tonic::async_trait]
impl AccountService for Service {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Reply<CreateAccountResponse> {
        let (caller, meta, new) = request.change(NewAccount::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreateAccountResponse { account: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_account(&self, request: Request<GetAccountRequest>) -> Reply<GetAccountResponse> {
        let (caller, id) = request.read(change::id)?;
        let account = Account::get(&self.db, &caller, &id).await?;
        reply(Ok(GetAccountResponse { account: Some(account.into()) }))
    }

    async fn get_account_overview(
        &self,
        request: Request<GetAccountOverviewRequest>,
    ) -> Reply<GetAccountOverviewResponse> {
        let (caller, id) = request.read(change::id)?;
        reply(self.db.read(&caller, async |tx| (self.overview)(tx, &id).await).await)
    }

    async fn batch_get_accounts(
        &self,
        request: Request<BatchGetAccountsRequest>,
    ) -> Reply<BatchGetAccountsResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let work = self.db.read(&caller, async |tx| {
            let accounts = Account::find_all(tx, &ids).await?;
            Account::all_with_contacts(tx, accounts).await
        });
        let accounts = work.await?.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetAccountsResponse { accounts }))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Reply<ListAccountsResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| {
            let Listing { rows, next_page_token, total } =
                Account::list(tx, &filter, &page).await?;
            Ok(Listing {
                rows: Account::all_with_contacts(tx, rows).await?,
                next_page_token,
                total,
            })
        });
        let listing = work.await?;
        reply(Ok(response!(ListAccountsResponse { accounts }, listing)))
    }

    async fn update_account(
        &self,
        request: Request<UpdateAccountRequest>,
    ) -> Reply<UpdateAccountResponse> {
        let (caller, meta, update) = request.update(&[])?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = Account::find_for_update_to(tx, update.id(), &update.target()).await?;
            let fields = update.fields(&current)?;
            let account = current.update(tx, &fields).await?;
            Ok(UpdateAccountResponse { account: Some(account.into()) })
        });
        reply(work.await)
    }

    type ImportAccountsStream = Answers<ImportAccountsResponse>;

    async fn import_accounts(
        &self,
        mut request: Request<Streaming<ImportAccountsRequest>>,
    ) -> Reply<Self::ImportAccountsStream> {
        let caller = request.caller()?;
        let permit = enter(&self.transfers.permits, &caller, &mut request)?;
        stream((self.transfers.open_import)(self.db.clone(), caller, permit, request.into_inner()))
    }

    type ExportAccountsStream = Answers<ExportAccountsResponse>;

    async fn export_accounts(
        &self,
        mut request: Request<ExportAccountsRequest>,
    ) -> Reply<Self::ExportAccountsStream> {
        let caller = request.caller()?;
        let permit = enter(&self.transfers.permits, &caller, &mut request)?;
        let db = self.db.clone();
        stream((self.transfers.open_export)(db, caller, permit, request.into_inner())?)
    }

    async fn delete_account(
        &self,
        request: Request<DeleteAccountRequest>,
    ) -> Reply<DeleteAccountResponse> {
        let force = request.get_ref().force;
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Account::find_for_update(tx, id)).await?;
            if !force {
                current.require_unused(tx, self.dependents).await?;
            }
            let removed = current.delete_dependents(tx, self.dependents).await?;
            current.delete(tx, removed).await?;
            Ok(DeleteAccountResponse {})
        });
        reply(work.await)
    }
}
