//! The calls on subscriptions and orders that several tests make.

use customer_accounts::proto::{
    CancelSubscriptionRequest, GetAccountOverviewRequest, GetAccountOverviewResponse,
    GetSubscriptionRequest, IntervalUnit, ListOrdersRequest, ListSubscriptionsRequest, Order,
    PutSubscriptionRequest, PutSubscriptionResponse, RecordOrderRequest, Subscription,
    UncancelSubscriptionRequest, google::r#type::Money,
};
use prost_types::Timestamp;
use tonic::Status;

use super::{Tenant, sales::money};

/// So many seconds after 2027-03-15T12:00:00Z.
pub const fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds: 1_805_112_000 + seconds, nanos: 0 }
}

/// A subscription for 10.00 EUR a month that has run for long and has no end.
pub fn subscription(id: &str, account_id: &str) -> Subscription {
    Subscription {
        subscription_id: id.into(),
        account_id: account_id.into(),
        display_name: id.into(),
        unit_amount: Some(money(10, 0, "EUR")),
        interval: IntervalUnit::Month.into(),
        start_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..Default::default()
    }
}

/// An order for 5.00 EUR without a purchaser.
pub fn order(id: &str, account_id: &str) -> Order {
    Order {
        order_id: id.into(),
        account_id: account_id.into(),
        amount: Some(money(5, 0, "EUR")),
        ..Default::default()
    }
}

/// Money as people write it.
pub fn written(money: Option<Money>) -> String {
    let Money { currency_code, units, nanos } = money.unwrap();
    let decimals = format!("{nanos:09}");
    match decimals.trim_end_matches('0') {
        "" => format!("{units} {currency_code}"),
        decimals => format!("{units}.{decimals:0<2} {currency_code}"),
    }
}

impl Tenant {
    pub async fn bill(
        &self,
        subscription: Subscription,
    ) -> Result<PutSubscriptionResponse, Status> {
        let request =
            PutSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
        self.commerce().put_subscription(request).await.map(tonic::Response::into_inner)
    }

    /// Puts a subscription, and returns it as it is then.
    pub async fn subscription(&self, subscription: Subscription) -> Subscription {
        self.bill(subscription).await.unwrap().subscription.unwrap()
    }

    pub async fn get_subscription(&self, id: &str) -> Result<Subscription, Status> {
        let request = GetSubscriptionRequest { subscription_id: id.into() };
        let response = self.commerce().get_subscription(request).await;
        response.map(|response| response.into_inner().subscription.unwrap())
    }

    /// Cancels a subscription at a time, or now.
    pub async fn cancel_subscription(
        &self,
        id: &str,
        end_time: Option<Timestamp>,
    ) -> Result<Subscription, Status> {
        let request = CancelSubscriptionRequest {
            subscription_id: id.into(),
            end_time,
            reason: "moves away".into(),
            ..Default::default()
        };
        let response = self.commerce().cancel_subscription(request).await;
        response.map(|response| response.into_inner().subscription.unwrap())
    }

    pub async fn uncancel_subscription(&self, id: &str) -> Result<Subscription, Status> {
        let request =
            UncancelSubscriptionRequest { subscription_id: id.into(), ..Default::default() };
        let response = self.commerce().uncancel_subscription(request).await;
        response.map(|response| response.into_inner().subscription.unwrap())
    }

    /// The ids of the subscriptions that a request lists on its first page.
    pub async fn subscriptions_of(&self, request: ListSubscriptionsRequest) -> Vec<String> {
        let answer = self.commerce().list_subscriptions(request).await.unwrap().into_inner();
        answer.subscriptions.into_iter().map(|it| it.subscription_id).collect()
    }

    /// Records an order whose purchaser must be allowed to buy.
    pub async fn buy(&self, order: Order) -> Result<Order, Status> {
        let request = RecordOrderRequest { order: Some(order), ..Default::default() };
        let response = self.commerce().record_order(request).await;
        response.map(|response| response.into_inner().order.unwrap())
    }

    /// Records an order that was checked elsewhere.
    pub async fn try_order(&self, order: Order) -> Result<Order, Status> {
        let request = RecordOrderRequest {
            order: Some(order),
            purchaser_checked: true,
            ..Default::default()
        };
        let response = self.commerce().record_order(request).await;
        response.map(|response| response.into_inner().order.unwrap())
    }

    pub async fn order(&self, order: Order) -> Order {
        self.try_order(order).await.unwrap()
    }

    /// The ids of the orders that a request lists on its first page.
    pub async fn orders_of(&self, request: ListOrdersRequest) -> Vec<String> {
        let answer = self.commerce().list_orders(request).await.unwrap().into_inner();
        answer.orders.into_iter().map(|order| order.order_id).collect()
    }

    pub async fn overview(&self, account_id: &str) -> Result<GetAccountOverviewResponse, Status> {
        let request = GetAccountOverviewRequest { account_id: account_id.into() };
        self.accounts().get_account_overview(request).await.map(tonic::Response::into_inner)
    }
}
