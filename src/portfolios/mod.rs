//! Portfolios: the services that an account can have, has or has had.

mod items;
mod list;
mod refusals;
pub mod store;
mod wire;
mod words;

use tonic::Request;

use self::{
    list::Filter,
    store::{NewPortfolio, Portfolio, Row},
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
        BatchGetPortfoliosRequest, BatchGetPortfoliosResponse, CreatePortfolioRequest,
        CreatePortfolioResponse, DeletePortfolioRequest, DeletePortfolioResponse,
        GetPortfolioRequest, GetPortfolioResponse, ListPortfoliosRequest, ListPortfoliosResponse,
        UpdatePortfolioRequest, UpdatePortfolioResponse,
        portfolio_service_server::PortfolioService,
    },
};

/// The calls of `accounts.v1.PortfolioService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl PortfolioService for Service {
    async fn create_portfolio(
        &self,
        request: Request<CreatePortfolioRequest>,
    ) -> Reply<CreatePortfolioResponse> {
        let (caller, meta, new) = request.change(NewPortfolio::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            Ok(CreatePortfolioResponse { portfolio: Some(new.insert(tx).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_portfolio(
        &self,
        request: Request<GetPortfolioRequest>,
    ) -> Reply<GetPortfolioResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| Portfolio::find(tx, &id).await).await?;
        reply(Ok(GetPortfolioResponse { portfolio: Some(found.into()) }))
    }

    async fn batch_get_portfolios(
        &self,
        request: Request<BatchGetPortfoliosRequest>,
    ) -> Reply<BatchGetPortfoliosResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| Row::find_all(tx, &ids).await).await?;
        let portfolios = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetPortfoliosResponse { portfolios }))
    }

    async fn list_portfolios(
        &self,
        request: Request<ListPortfoliosRequest>,
    ) -> Reply<ListPortfoliosResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Row::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListPortfoliosResponse { portfolios }, listing)))
    }

    async fn update_portfolio(
        &self,
        request: Request<UpdatePortfolioRequest>,
    ) -> Reply<UpdatePortfolioResponse> {
        let (caller, meta, update) = request.update(wire::ELSEWHERE)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = Portfolio::find_for_update(tx, update.id()).await?;
            let contents = update.contents(&current)?;
            let updated = current.update(tx, &contents).await?;
            Ok(UpdatePortfolioResponse { portfolio: Some(updated.into()) })
        });
        reply(work.await)
    }

    async fn delete_portfolio(
        &self,
        request: Request<DeletePortfolioRequest>,
    ) -> Reply<DeletePortfolioResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Portfolio::find_for_update(tx, id)).await?;
            current.delete(tx).await?;
            Ok(DeletePortfolioResponse {})
        });
        reply(work.await)
    }
}

/// The portfolios of an account.
#[derive(Debug)]
pub struct OfAccount;

#[tonic::async_trait]
impl Dependents for OfAccount {
    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<Option<Removed>> {
        Portfolio::remove_all(tx, &account.account_id).await?;
        Ok(None)
    }
}
