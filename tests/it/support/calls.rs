//! The calls that many tests make, and the activity trail behind them.

use std::time::Duration;

use customer_accounts::{
    accounts,
    caller::Caller,
    db::{Db, Tx},
    overview,
    proto::{
        Account, AccountType, AddOrganizationMemberRequest, CreateAccountTypeRequest,
        CreatePersonRequest, DeactivateAccountTypeRequest, DeleteAccountRequest,
        DeleteOrganizationRequest, DeletePersonRequest, GetAccountRequest, GetPersonRequest,
        ListAccountsRequest, ListOrganizationMembersRequest, ListPeopleRequest, ModuleSetting,
        ModuleState, MoveOrganizationRequest, Organization, Person, PersonKind,
        RemoveOrganizationMemberRequest, SetModuleActivationRequest, TenantSettings,
        UpdateAccountRequest, UpdatePersonRequest, UpdateTenantSettingsRequest,
    },
    schema::activities,
    share::Percent,
    streams::{self, Streams},
    transfers,
};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use prost_types::{FieldMask, ListValue, Struct, Timestamp, value::Kind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Refused, Tenant, shared, violations};

/// One activity of the trail.
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
        let change = changes
            .iter()
            .find(|change| change["field"] == field)
            .unwrap_or_else(|| panic!("no {field}: {self:?}"));
        (&change["before"], &change["after"])
    }
}

impl Tenant {
    pub async fn get(&self, id: &str) -> Result<Account, Status> {
        let request = GetAccountRequest { account_id: id.into() };
        self.accounts()
            .get_account(request)
            .await
            .map(|response| response.into_inner().account.unwrap())
    }

    /// Updates the fields at `paths`; without any, the populated ones.
    pub async fn update(&self, account: Account, paths: &[&str]) -> Result<Account, Status> {
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: mask(paths),
            ..Default::default()
        };
        self.accounts()
            .update_account(request)
            .await
            .map(|response| response.into_inner().account.unwrap())
    }

    /// Deletes if the etag is current; an empty etag is not checked.
    pub async fn delete(&self, id: &str, etag: &str) -> Result<(), Status> {
        let request =
            DeleteAccountRequest { account_id: id.into(), etag: etag.into(), ..Default::default() };
        self.accounts().delete_account(request).await.map(|_| ())
    }

    /// The ids of the accounts that a request lists on its first page.
    pub async fn list(&self, request: ListAccountsRequest) -> Vec<String> {
        let accounts = self.accounts().list_accounts(request).await.unwrap().into_inner().accounts;
        accounts.into_iter().map(|account| account.account_id).collect()
    }

    /// Creates an account type.
    pub async fn try_account_type(&self, account_type: AccountType) -> Result<AccountType, Status> {
        let request =
            CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
        self.account_types()
            .create_account_type(request)
            .await
            .map(|response| response.into_inner().account_type.unwrap())
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
        let request = DeactivateAccountTypeRequest {
            account_type_id: account_type_id.into(),
            ..Default::default()
        };
        self.account_types()
            .deactivate_account_type(request)
            .await
            .unwrap()
            .into_inner()
            .account_type
            .unwrap()
    }

    /// Creates a person as they are given.
    pub async fn try_person(&self, person: Person) -> Result<Person, Status> {
        let request = CreatePersonRequest { person: Some(person), ..Default::default() };
        self.people()
            .create_person(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }

    /// Creates a person of a customer under this id, which is also their name.
    pub async fn person(&self, id: &str) -> Person {
        self.try_person(person(id)).await.unwrap()
    }

    /// Creates one of the tenant's own people under this id, which is also their name.
    pub async fn staff(&self, id: &str) -> Person {
        self.try_person(staff(id)).await.unwrap()
    }

    pub async fn get_person(&self, id: &str) -> Result<Person, Status> {
        let request = GetPersonRequest { person_id: id.into() };
        self.people()
            .get_person(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }

    /// Updates the fields at `paths`; without any, the populated ones.
    pub async fn update_person(&self, person: Person, paths: &[&str]) -> Result<Person, Status> {
        let request = UpdatePersonRequest {
            person: Some(person),
            update_mask: mask(paths),
            ..Default::default()
        };
        self.people()
            .update_person(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }

    /// Deletes if the etag is current; an empty etag is not checked.
    pub async fn delete_person(&self, id: &str, etag: &str) -> Result<(), Status> {
        let request =
            DeletePersonRequest { person_id: id.into(), etag: etag.into(), ..Default::default() };
        self.people().delete_person(request).await.map(|_| ())
    }

    /// The ids of the people that a request lists on its first page.
    pub async fn list_people(&self, request: ListPeopleRequest) -> Vec<String> {
        let people = self.people().list_people(request).await.unwrap().into_inner().people;
        people.into_iter().map(|person| person.person_id).collect()
    }

    pub async fn move_organization(
        &self,
        id: &str,
        parent_id: &str,
    ) -> Result<Organization, Status> {
        let (organization_id, parent_id) = (id.into(), parent_id.into());
        let request = MoveOrganizationRequest { organization_id, parent_id, ..Default::default() };
        self.organizations()
            .move_organization(request)
            .await
            .map(|response| response.into_inner().organization.unwrap())
    }

    /// Deletes if the etag is current; an empty etag is not checked.
    pub async fn delete_organization(&self, id: &str, etag: &str) -> Result<(), Status> {
        let request = DeleteOrganizationRequest {
            organization_id: id.into(),
            etag: etag.into(),
            ..Default::default()
        };
        self.organizations().delete_organization(request).await.map(|_| ())
    }

    pub async fn add_member(
        &self,
        organization_id: &str,
        person_id: &str,
    ) -> Result<Person, Status> {
        let (organization_id, person_id) = (organization_id.into(), person_id.into());
        let request =
            AddOrganizationMemberRequest { organization_id, person_id, ..Default::default() };
        self.organizations()
            .add_organization_member(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }

    pub async fn remove_member(
        &self,
        organization_id: &str,
        person_id: &str,
    ) -> Result<(), Status> {
        let (organization_id, person_id) = (organization_id.into(), person_id.into());
        let request =
            RemoveOrganizationMemberRequest { organization_id, person_id, ..Default::default() };
        self.organizations().remove_organization_member(request).await.map(|_| ())
    }

    /// The ids of the members of an organization, or also of those below it: the first page, of at
    /// most 1000.
    pub async fn members(
        &self,
        organization_id: &str,
        include_descendants: bool,
    ) -> Result<Vec<String>, Status> {
        let organization_id = organization_id.into();
        let request = ListOrganizationMembersRequest {
            organization_id,
            include_descendants,
            page_size: 1000,
            ..Default::default()
        };
        let response = self.organizations().list_organization_members(request).await?.into_inner();
        Ok(response.people.into_iter().map(|person| person.person_id).collect())
    }

    /// Sets a module for an organization, or for the tenant if the id is empty. Returns its new
    /// state.
    pub async fn set_module(
        &self,
        module: &str,
        organization_id: &str,
        setting: ModuleSetting,
    ) -> Result<ModuleState, Status> {
        let (module, organization_id, setting) =
            (module.into(), organization_id.into(), setting.into());
        let request =
            SetModuleActivationRequest { module, organization_id, setting, ..Default::default() };
        self.tenants()
            .set_module_activation(request)
            .await
            .map(|response| response.into_inner().module_state.unwrap())
    }

    /// Updates the settings at `paths`; without any, the populated ones.
    pub async fn update_settings(
        &self,
        settings: TenantSettings,
        paths: &[&str],
    ) -> Result<TenantSettings, Status> {
        let request = UpdateTenantSettingsRequest {
            tenant_settings: Some(settings),
            update_mask: mask(paths),
            ..Default::default()
        };
        self.tenants()
            .update_tenant_settings(request)
            .await
            .map(|response| response.into_inner().tenant_settings.unwrap())
    }

    /// Stops the clock of the tenant at a time, as RFC 3339 writes it.
    pub fn stop_clock(&self, time: &str) {
        let time = chrono::DateTime::parse_from_rfc3339(time).unwrap();
        shared().clock.stop(self.caller().tenant, time.into());
    }

    /// The tenant's activities, in order.
    pub async fn trail(&self) -> Vec<Activity> {
        // The module `administration` cannot be switched off.
        let caller = Caller { module: "administration", ..self.caller() };
        let trail = async move |tx: &Tx| {
            let own = activities::table.filter(tx.owns(activities::tenant_id));
            let all = own.select(Activity::as_select());
            Ok(all
                .order((activities::transaction_id, activities::ordinal))
                .load(&mut tx.conn())
                .await?)
        };
        shared()
            .on_its_runtime(async move { shared().db.read(&caller, trail).await.unwrap() })
            .await
    }

    /// The activities of one resource, in order.
    pub async fn trail_of(&self, resource_id: &str) -> Vec<Activity> {
        self.trail()
            .await
            .into_iter()
            .filter(|activity| activity.resource_id == resource_id)
            .collect()
    }
}

/// The calls of `AccountService` on a database, without a server.
pub fn accounts_service(db: &Db) -> accounts::Service {
    let (age, end) = (Duration::from_mins(1), CancellationToken::new());
    let transfers = accounts::Transfers {
        permits: Streams::new(streams::Kind::Transfer, 1, Percent::ALL, age, end),
        open_import: transfers::import,
        open_export: transfers::export,
    };
    accounts::Service { db: db.clone(), dependents: &[], overview: overview::read, transfers }
}

/// The least that an account type needs.
pub fn account_type(id: &str) -> AccountType {
    AccountType { account_type_id: id.into(), display_name: id.into(), ..Default::default() }
}

/// The least that a person needs.
pub fn person(id: &str) -> Person {
    Person { person_id: id.into(), display_name: id.into(), ..Default::default() }
}

/// The least that one of the tenant's own people needs.
pub fn staff(id: &str) -> Person {
    Person { kind: PersonKind::Staff.into(), ..person(id) }
}

/// A person with nothing but their id: for updates by mask.
pub fn only_person(person_id: &str) -> Person {
    Person { person_id: person_id.into(), ..Default::default() }
}

/// An account with nothing but its id: for updates by mask.
pub fn only(account_id: &str) -> Account {
    Account { account_id: account_id.into(), ..Default::default() }
}

/// An update mask; none without paths.
pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    (!paths.is_empty())
        .then(|| FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
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
        Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(wire).collect() })
        }
        Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.into_iter().map(|(key, value)| (key, wire(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The fields in the violations of an error.
#[track_caller]
pub fn fields(answer: impl Refused) -> Vec<String> {
    violations(answer).into_iter().map(|(field, _)| field).collect()
}

/// A value in the metadata of an error.
#[track_caller]
pub fn metadata(answer: impl Refused, key: &str) -> String {
    let (status, details) = super::refused(answer);
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    info.metadata.get(key).unwrap_or_else(|| panic!("no {key}: {status:?}")).clone()
}

/// The violated preconditions of an error, as type and subject.
#[track_caller]
pub fn preconditions(answer: impl Refused) -> Vec<(String, String)> {
    let (status, details) = super::refused(answer);
    let failure = details
        .precondition_failure()
        .unwrap_or_else(|| panic!("no PreconditionFailure: {status:?}"));
    failure
        .violations
        .iter()
        .map(|violation| (violation.r#type.clone(), violation.subject.clone()))
        .collect()
}

/// Whether one time is later than another.
pub fn later(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    let parts = |time: Option<Timestamp>| time.map(|time| (time.seconds, time.nanos));
    parts(one) > parts(other)
}
