//! What the service is compared with: gRPC alone, gRPC with a plain query, and the statements of
//! the service alone.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc};

use bb8::Pool;
use chrono::{DateTime, Utc};
use customer_accounts_client::{
    prost_types::Timestamp,
    v1::{Account, Address, Contact, GetAccountRequest, GetAccountResponse},
};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{
    AsyncPgConnection, RunQueryDsl as _, pooled_connection::AsyncDieselConnectionManager,
};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use prost::Message as _;
use serde_json::Value;
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    transport::Server,
};
use tower_service::Service;

use crate::{data::account_name, schema::accounts, server::POOL_SIZE};

/// `GetAccount` and nothing else.
#[derive(Clone)]
pub enum Baseline {
    /// Answers this account with the id that was asked for.
    Echo(Arc<Account>),
    /// Asks PostgreSQL, without a transaction.
    Plain(Pool<AsyncDieselConnectionManager<AsyncPgConnection>>),
}

impl Baseline {
    /// The echo of the account that is encoded in this file.
    pub fn echo(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        Self::Echo(Arc::new(Account::decode(&*bytes).unwrap()))
    }

    /// Plain tonic and Diesel.
    pub async fn plain(url: &str) -> Self {
        let manager = AsyncDieselConnectionManager::new(url);
        Self::Plain(Pool::builder().max_size(POOL_SIZE).build(manager).await.unwrap())
    }

    /// Serves until the process is killed.
    pub async fn serve(self) {
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        println!("the baseline serves on {}", listener.local_addr().unwrap());
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder().add_service(self).serve_with_incoming(incoming).await.unwrap();
    }

    async fn get(self, id: String) -> Result<Account, Status> {
        match self {
            Self::Echo(account) => {
                let n = id.parse::<u64>().map_or(0, |id| id.saturating_sub(1_000_000));
                let display_name = account_name("main", n);
                Ok(Account { account_id: id, display_name, ..Account::clone(&account) })
            }
            Self::Plain(pool) => {
                let failed = |error: String| Status::internal(error);
                let mut connection = pool.get().await.map_err(|e| failed(e.to_string()))?;
                let row: Row = accounts::table
                    .filter(accounts::tenant_id.eq("main").and(accounts::account_id.eq(id)))
                    .select(Row::as_select())
                    .first(&mut *connection)
                    .await
                    .map_err(|error| failed(error.to_string()))?;
                Ok(row.into())
            }
        }
    }
}

/// The columns of an account that the answer has.
#[derive(Queryable, Selectable)]
#[diesel(table_name = accounts)]
struct Row {
    account_id: String,
    display_name: String,
    description: String,
    organization_id: String,
    account_type_id: Option<String>,
    status: String,
    status_reason: String,
    primary_contact: Option<Value>,
    billing_address: Option<Value>,
    shipping_address: Option<Value>,
    postal_address: Option<Value>,
    official_address: Option<Value>,
    billing_details: String,
    is_primary: bool,
    comment: String,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    account_manager_id: Option<String>,
    billing_contact_id: Option<String>,
    cc_billing_contact_id: Option<String>,
    incarnation: String,
    tax_id: String,
}

impl From<Row> for Account {
    fn from(row: Row) -> Self {
        let text =
            |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let time = |time: DateTime<Utc>| Timestamp {
            seconds: time.timestamp(),
            nanos: time.timestamp_subsec_nanos().cast_signed(),
        };
        let address = |value: Value| Address {
            line1: text(&value, "line1"),
            line2: text(&value, "line2"),
            city: text(&value, "city"),
            state: text(&value, "state"),
            postal_code: text(&value, "postal_code"),
            country: text(&value, "country"),
        };
        Self {
            account_id: row.account_id,
            display_name: row.display_name,
            description: row.description,
            organization_id: row.organization_id,
            account_type_id: row.account_type_id.unwrap_or_default(),
            status: if row.status == "ACTIVE" { 1 } else { 2 },
            status_reason: row.status_reason,
            primary_contact: row.primary_contact.map(|value| Contact {
                name: text(&value, "name"),
                email: text(&value, "email"),
                ..Contact::default()
            }),
            billing_address: row.billing_address.map(address),
            shipping_address: row.shipping_address.map(address),
            postal_address: row.postal_address.map(address),
            official_address: row.official_address.map(address),
            billing_details: row.billing_details,
            is_primary: row.is_primary,
            comment: row.comment,
            etag: format!("{}-{}", row.revision, row.incarnation),
            create_time: Some(time(row.create_time)),
            update_time: Some(time(row.update_time)),
            account_manager_id: row.account_manager_id.unwrap_or_default(),
            billing_contact_id: row.billing_contact_id.unwrap_or_default(),
            cc_billing_contact_id: row.cc_billing_contact_id.unwrap_or_default(),
            tax_id: row.tax_id,
            ..Self::default()
        }
    }
}

impl NamedService for Baseline {
    const NAME: &'static str = "accounts.v1.AccountService";
}

impl Service<Request<Body>> for Baseline {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        let codec = tonic_prost::ProstCodec::<GetAccountResponse, GetAccountRequest>::default();
        Box::pin(async move { Ok(Grpc::new(codec).unary(this, request).await) })
    }
}

impl UnaryService<GetAccountRequest> for Baseline {
    type Response = GetAccountResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<GetAccountResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<GetAccountRequest>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let account = this.get(request.into_inner().account_id).await?;
            Ok(tonic::Response::new(GetAccountResponse { account: Some(account) }))
        })
    }
}
