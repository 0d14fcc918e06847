//! The calls that many tests make, and the activity trail behind them.

use customer_accounts::{
    db::Tx,
    proto::{
        Account, AccountType, CreateAccountTypeRequest, DeactivateAccountTypeRequest, DeleteAccountRequest, GetAccountRequest,
        ListAccountsRequest, UpdateAccountRequest,
    },
    schema::activities,
};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use prost_types::{FieldMask, ListValue, Struct, Timestamp, value::Kind};
use serde_json::Value;
use tonic::Status;

use super::{Tenant, shared, violations};

/// One change, as the trail has it.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = activities, check_for_backend(diesel::pg::Pg))]
pub struct Activity {
    pub actor: String,
    pub method: String,
    pub request_id: Option<String>,
    pub action: String,
    pub resource_type: String,
    pub resource_id: String,
    pub account_id: Option<String>,
    pub changes: Value,
}

impl Activity {
    /// `{field, before, after}` of a field that changed.
    #[track_caller]
    pub fn change(&self, field: &str) -> (&Value, &Value) {
        let changes = self.changes.as_array().unwrap();
        let change = changes.iter().find(|change| change["field"] == field).unwrap_or_else(|| panic!("no {field}: {self:?}"));
        (&change["before"], &change["after"])
    }
}

impl Tenant {
    pub async fn get(&self, id: &str) -> Result<Account, Status> {
        let request = GetAccountRequest { account_id: id.into() };
        self.accounts().get_account(request).await.map(|response| response.into_inner().account.unwrap())
    }

    /// Updates the fields at `paths`; without any, the populated ones.
    pub async fn update(&self, account: Account, paths: &[&str]) -> Result<Account, Status> {
        let request = UpdateAccountRequest { account: Some(account), update_mask: mask(paths), ..Default::default() };
        self.accounts().update_account(request).await.map(|response| response.into_inner().account.unwrap())
    }

    /// Deletes if the etag is the present one; an empty etag is not checked.
    pub async fn delete(&self, id: &str, etag: &str) -> Result<(), Status> {
        let request = DeleteAccountRequest { account_id: id.into(), etag: etag.into(), ..Default::default() };
        self.accounts().delete_account(request).await.map(|_| ())
    }

    /// The ids of the accounts that a request lists on its first page.
    pub async fn list(&self, request: ListAccountsRequest) -> Vec<String> {
        let accounts = self.accounts().list_accounts(request).await.unwrap().into_inner().accounts;
        accounts.into_iter().map(|account| account.account_id).collect()
    }

    /// Creates an account type.
    pub async fn try_account_type(&self, account_type: AccountType) -> Result<AccountType, Status> {
        let request = CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
        self.account_types().create_account_type(request).await.map(|response| response.into_inner().account_type.unwrap())
    }

    /// Creates an account type under this id, which is also its name.
    pub async fn account_type(&self, id: &str) -> AccountType {
        self.try_account_type(account_type(id)).await.unwrap()
    }

    /// Creates the default account type under this id, which is also its name.
    pub async fn default_type(&self, id: &str) -> AccountType {
        self.try_account_type(AccountType { is_default: true, ..account_type(id) }).await.unwrap()
    }

    pub async fn deactivate(&self, account_type_id: &str) -> AccountType {
        let request = DeactivateAccountTypeRequest { account_type_id: account_type_id.into(), ..Default::default() };
        self.account_types().deactivate_account_type(request).await.unwrap().into_inner().account_type.unwrap()
    }

    /// What happened in the tenant so far, in order.
    pub async fn trail(&self) -> Vec<Activity> {
        let caller = self.caller();
        let trail = async move |tx: &Tx| {
            let all = activities::table.select(Activity::as_select());
            Ok(all.order((activities::transaction_id, activities::ordinal)).load(&mut tx.conn()).await?)
        };
        shared().on_its_runtime(async move { shared().db.read(&caller, trail).await.unwrap() }).await
    }

    /// What happened to one resource so far, in order.
    pub async fn trail_of(&self, resource_id: &str) -> Vec<Activity> {
        self.trail().await.into_iter().filter(|activity| activity.resource_id == resource_id).collect()
    }
}

/// The least that an account type needs.
pub fn account_type(id: &str) -> AccountType {
    AccountType { account_type_id: id.into(), display_name: id.into(), ..Default::default() }
}

/// An account with nothing but its id: for updates by mask.
pub fn only(account_id: &str) -> Account {
    Account { account_id: account_id.into(), ..Default::default() }
}

/// An update mask; none without paths.
pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    (!paths.is_empty()).then(|| FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

/// A JSON object as a message.
pub fn object(value: Value) -> Struct {
    match wire(value).kind {
        Some(Kind::StructValue(object)) => object,
        other => panic!("no object: {other:?}"),
    }
}

fn wire(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(wire).collect() }),
        Value::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(key, value)| (key, wire(value))).collect() })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

/// The fields that a request breaks rules of.
#[track_caller]
pub fn fields<T: std::fmt::Debug>(answer: Result<T, Status>) -> Vec<String> {
    violations(answer).into_iter().map(|(field, _)| field).collect()
}

/// What a program reads from an error besides its reason.
#[track_caller]
pub fn metadata<T: std::fmt::Debug>(answer: Result<T, Status>, key: &str) -> String {
    let (status, details) = super::refused(answer);
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    info.metadata.get(key).unwrap_or_else(|| panic!("no {key}: {status:?}")).clone()
}

/// Whether one time is later than another.
pub fn later(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    let parts = |time: Option<Timestamp>| time.map(|time| (time.seconds, time.nanos));
    parts(one) > parts(other)
}
