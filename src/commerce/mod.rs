//! Commerce: subscriptions, orders, and what they come to.

pub mod calculate;
pub mod orders;
mod refusals;
mod revenue;
pub mod subscriptions;
mod wire;

use tonic::Request;

use self::{
    calculate::Wanted as Asked,
    orders::{NewOrder, Order},
    subscriptions::{At, Subscription, Wanted, wire::Cancel},
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
    money::Money,
    page::response,
    proto::{
        BatchGetOrdersRequest, BatchGetOrdersResponse, BatchGetSubscriptionsRequest,
        BatchGetSubscriptionsResponse, CalculateRecurringRevenueRequest,
        CalculateRecurringRevenueResponse, CancelOrderRequest, CancelOrderResponse,
        CancelSubscriptionRequest, CancelSubscriptionResponse, GetOrderRequest, GetOrderResponse,
        GetSubscriptionRequest, GetSubscriptionResponse, ListOrdersRequest, ListOrdersResponse,
        ListSubscriptionsRequest, ListSubscriptionsResponse, PutSubscriptionRequest,
        PutSubscriptionResponse, RecordOrderRequest, RecordOrderResponse, RecurringRevenue,
        UncancelSubscriptionRequest, UncancelSubscriptionResponse,
        commerce_service_server::CommerceService,
    },
};

/// The calls of `accounts.v1.CommerceService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
}

#[tonic::async_trait]
impl CommerceService for Service {
    async fn put_subscription(
        &self,
        request: Request<PutSubscriptionRequest>,
    ) -> Reply<PutSubscriptionResponse> {
        let (caller, meta, wanted) = request.change(Wanted::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let default = tx.tenant().await?.settings.default_currency.clone();
            let fields = wanted.fields(default.as_deref())?;
            Ok(wanted.put(tx, fields).await?.into())
        });
        reply(work.await)
    }

    async fn get_subscription(
        &self,
        request: Request<GetSubscriptionRequest>,
    ) -> Reply<GetSubscriptionResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| At::find(tx, &id).await).await?;
        reply(Ok(GetSubscriptionResponse { subscription: Some(found.into()) }))
    }

    async fn batch_get_subscriptions(
        &self,
        request: Request<BatchGetSubscriptionsRequest>,
    ) -> Reply<BatchGetSubscriptionsResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let work = self.db.read(&caller, async |tx| At::find_all(tx, &ids).await);
        let subscriptions = work.await?.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetSubscriptionsResponse { subscriptions }))
    }

    async fn cancel_subscription(
        &self,
        request: Request<CancelSubscriptionRequest>,
    ) -> Reply<CancelSubscriptionResponse> {
        let (caller, meta, Cancel { named, end, reason }) = request.change(Cancel::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Subscription::find_for_update(tx, id)).await?;
            let cancelled = current.cancel(tx, end, &reason).await?;
            Ok(CancelSubscriptionResponse { subscription: Some(cancelled.into()) })
        });
        reply(work.await)
    }

    async fn uncancel_subscription(
        &self,
        request: Request<UncancelSubscriptionRequest>,
    ) -> Reply<UncancelSubscriptionResponse> {
        let (caller, meta, named) = request.change(ById::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Subscription::find_for_update(tx, id)).await?;
            let uncancelled = current.uncancel(tx).await?;
            Ok(UncancelSubscriptionResponse { subscription: Some(uncancelled.into()) })
        });
        reply(work.await)
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Reply<ListSubscriptionsResponse> {
        let (caller, filter, page) = request.list(subscriptions::list::Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Subscription::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListSubscriptionsResponse { subscriptions }, listing)))
    }

    async fn record_order(
        &self,
        request: Request<RecordOrderRequest>,
    ) -> Reply<RecordOrderResponse> {
        let (caller, meta, new) = request.change(NewOrder::parse)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let default = tx.tenant().await?.settings.default_currency.clone();
            let facts = new.facts(default.as_deref())?;
            Ok(RecordOrderResponse { order: Some(new.record(tx, &facts).await?.into()) })
        });
        reply(work.await)
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Reply<GetOrderResponse> {
        let (caller, id) = request.read(change::id)?;
        let found = self.db.read(&caller, async |tx| Order::find(tx, &id).await).await?;
        reply(Ok(GetOrderResponse { order: Some(found.into()) }))
    }

    async fn batch_get_orders(
        &self,
        request: Request<BatchGetOrdersRequest>,
    ) -> Reply<BatchGetOrdersResponse> {
        let (caller, ids) = request.read(Ids::parse)?;
        let found = self.db.read(&caller, async |tx| Order::find_all(tx, &ids).await).await?;
        let orders = found.into_iter().map(Into::into).collect();
        reply(Ok(BatchGetOrdersResponse { orders }))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Reply<CancelOrderResponse> {
        let (caller, meta, (named, reason)) = request.change(orders::wire::cancel)?;
        let work = self.db.write(&caller, &meta, async |tx| {
            let current = named.find(|id| Order::find_for_update(tx, id)).await?;
            let cancelled = current.cancel(tx, &reason).await?;
            Ok(CancelOrderResponse { order: Some(cancelled.into()) })
        });
        reply(work.await)
    }

    async fn list_orders(&self, request: Request<ListOrdersRequest>) -> Reply<ListOrdersResponse> {
        let (caller, filter, page) = request.list(orders::list::Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Order::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListOrdersResponse { orders }, listing)))
    }

    async fn calculate_recurring_revenue(
        &self,
        request: Request<CalculateRecurringRevenueRequest>,
    ) -> Reply<CalculateRecurringRevenueResponse> {
        let (caller, asked) = request.read(Asked::parse)?;
        let revenue = self.db.list(&caller, async |tx| asked.calculate(tx).await).await?;
        reply(Ok(revenue.into()))
    }
}

/// The sums of a month and of a year in each currency, as the contract has them.
pub fn recurring(sums: Vec<(Money, Money)>) -> Vec<RecurringRevenue> {
    sums.into_iter().map(wire::recurring).collect()
}

/// The subscriptions and orders of an account, for its deletion.
#[derive(Debug)]
pub struct OfAccount;

#[tonic::async_trait]
impl Dependents for OfAccount {
    async fn in_force(&self, tx: &WriteTx, account: &Account, limit: i64) -> Result<Vec<Use>> {
        let (ids, count) = Subscription::in_force(tx, &account.account_id, limit).await?;
        Ok(vec![Use { noun: refusals::SUBSCRIPTION.noun, plural: "subscriptions", ids, count }])
    }

    async fn remove_all(&self, tx: &WriteTx, account: &Account) -> Result<Option<Removed>> {
        Subscription::remove_all(tx, &account.account_id).await?;
        let orders = Order::remove_all(tx, &account.account_id).await?;
        Ok(orders.map(|orders| ("orders", orders)))
    }
}
