//! A small, realistic example in the tenant `demo`, created by calls to the service.

mod commerce;
mod example;

use std::collections::{HashMap, HashSet};

use tonic::{
    Code, Request, Status, metadata::MetadataValue, service::interceptor::InterceptedService,
    transport::Channel,
};

use self::example::{ACCOUNTS, BILLING, MANAGER, ORGANIZATIONS, PEOPLE, TYPES};
use crate::{
    files::Caller,
    proto::{
        Account, AccountType, AddOrganizationMemberRequest, Address, Contact, CreateAccountRequest,
        CreateAccountTypeRequest, CreateOrganizationRequest, CreatePersonRequest,
        GetAccountRequest, GetAccountTypeRequest, GetOrganizationRequest, GetPersonRequest,
        LinkOrganizationRequest, ListAccountTypesRequest, Organization, Person, PersonKind,
        SetPurchasingAccountRequest, UpdateAccountRequest,
        account_service_client::AccountServiceClient,
        account_type_service_client::AccountTypeServiceClient,
        commerce_service_client::CommerceServiceClient,
        contract_service_client::ContractServiceClient,
        membership_service_client::MembershipServiceClient,
        opportunity_service_client::OpportunityServiceClient,
        organization_service_client::OrganizationServiceClient,
        person_service_client::PersonServiceClient,
        portfolio_service_client::PortfolioServiceClient,
    },
    text::caseless,
};

const TENANT: &str = "demo";
const ACTOR: &str = "seed";

/// What a run has created and found.
#[derive(Debug, Default)]
pub struct Seeded {
    /// Resources that this run has created.
    pub created: usize,
    /// Resources that existed before.
    pub kept: usize,
}

type Authorized = InterceptedService<Channel, Caller>;

/// Fills the tenant, as the caller of the token if there is one. Existing resources stay as they
/// are, whoever created or changed them, so it can be run again.
pub async fn seed(channel: Channel, token: Option<&str>) -> Result<Seeded, Status> {
    let caller = Caller::new(token, None).map_err(Status::unauthenticated)?;
    let channel = InterceptedService::new(channel, caller);
    let mut run = Run::default();
    run.types(&mut AccountTypeServiceClient::new(channel.clone())).await?;
    let mut organizations = OrganizationServiceClient::new(channel.clone());
    run.organizations(&mut organizations).await?;
    run.people(&mut PersonServiceClient::new(channel.clone()), &mut organizations).await?;
    let mut accounts = AccountServiceClient::new(channel.clone());
    run.accounts(&mut accounts).await?;
    run.users(&mut accounts, &mut MembershipServiceClient::new(channel.clone())).await?;
    run.contracts(&mut ContractServiceClient::new(channel.clone())).await?;
    run.portfolios(&mut PortfolioServiceClient::new(channel.clone())).await?;
    run.opportunities(&mut OpportunityServiceClient::new(channel.clone())).await?;
    let mut commerce = CommerceServiceClient::new(channel);
    run.subscriptions(&mut commerce).await?;
    run.orders(&mut commerce).await?;
    Ok(Seeded { created: run.created.len(), kept: run.kept })
}

/// One run.
#[derive(Default)]
struct Run {
    /// The ids of the resources that it has created. No two resources of the example have the same
    /// id.
    created: HashSet<&'static str>,
    /// How many resources existed before.
    kept: usize,
    /// The active account type for each of the example's: the one with its id, or else the one with
    /// its name.
    types: HashMap<&'static str, String>,
}

impl Run {
    /// Whether a resource must be created, from the answer to the call that gets it.
    fn is_missing<T>(
        &mut self,
        id: &'static str,
        answer: Result<T, Status>,
    ) -> Result<bool, Status> {
        match answer {
            Ok(_) => {
                self.kept += 1;
                Ok(false)
            }
            Err(status) if status.code() == Code::NotFound => Ok(self.created.insert(id)),
            Err(status) => Err(of(id, &status)),
        }
    }

    /// The account type to use for one of the example's, if there is one.
    fn account_type(&self, id: &str) -> String {
        self.types.get(id).cloned().unwrap_or_default()
    }

    async fn types(
        &mut self,
        types: &mut AccountTypeServiceClient<Authorized>,
    ) -> Result<(), Status> {
        let has_default = Self::active_types(types).await?.iter().any(|found| found.is_default);
        for (id, name, description) in TYPES {
            let found = types
                .get_account_type(as_seed(GetAccountTypeRequest { account_type_id: id.into() }))
                .await;
            if !self.is_missing(id, found)? {
                continue;
            }
            let account_type = AccountType {
                account_type_id: id.into(),
                display_name: name.into(),
                description: description.into(),
                is_default: id == "smb" && !has_default,
                ..Default::default()
            };
            let request =
                CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
            match types.create_account_type(as_seed(request)).await {
                // Another account type has the name.
                Err(status) if status.code() == Code::AlreadyExists => {
                    self.created.remove(id);
                    self.kept += 1;
                }
                answer => drop(answer.map_err(|status| of(id, &status))?),
            }
        }
        let active = Self::active_types(types).await?;
        for (id, name, _) in TYPES {
            let by_id = active.iter().find(|found| found.account_type_id == id);
            let by_name =
                || active.iter().find(|found| caseless(&found.display_name) == caseless(name));
            if let Some(found) = by_id.or_else(by_name) {
                self.types.insert(id, found.account_type_id.clone());
            }
        }
        Ok(())
    }

    async fn active_types(
        types: &mut AccountTypeServiceClient<Authorized>,
    ) -> Result<Vec<AccountType>, Status> {
        let request = ListAccountTypesRequest { page_size: 1000, ..Default::default() };
        Ok(types.list_account_types(as_seed(request)).await?.into_inner().account_types)
    }

    async fn organizations(
        &mut self,
        organizations: &mut OrganizationServiceClient<Authorized>,
    ) -> Result<(), Status> {
        for (id, name, parent) in ORGANIZATIONS {
            let found = organizations
                .get_organization(as_seed(GetOrganizationRequest { organization_id: id.into() }))
                .await;
            if !self.is_missing(id, found)? {
                continue;
            }
            let organization = Organization {
                organization_id: id.into(),
                display_name: name.into(),
                parent_id: parent.into(),
                ..Default::default()
            };
            let request = CreateOrganizationRequest {
                organization: Some(organization),
                ..Default::default()
            };
            organizations
                .create_organization(as_seed(request))
                .await
                .map_err(|status| of(id, &status))?;
        }
        Ok(())
    }

    async fn people(
        &mut self,
        people: &mut PersonServiceClient<Authorized>,
        organizations: &mut OrganizationServiceClient<Authorized>,
    ) -> Result<(), Status> {
        for (id, name, subject, organization) in PEOPLE {
            let found = people.get_person(as_seed(GetPersonRequest { person_id: id.into() })).await;
            if !self.is_missing(id, found)? {
                continue;
            }
            let kind =
                if organization.is_empty() { PersonKind::Staff } else { PersonKind::Customer };
            let person = Person {
                person_id: id.into(),
                display_name: name.into(),
                email: format!("{id}@people.example"),
                kind: kind.into(),
                subject: subject.into(),
                ..Default::default()
            };
            let without_subject = Person { subject: String::new(), ..person.clone() };
            let create = |person| {
                as_seed(CreatePersonRequest { person: Some(person), ..Default::default() })
            };
            match people.create_person(create(person)).await {
                // Another person has the subject.
                Err(status) if status.code() == Code::AlreadyExists => {
                    people.create_person(create(without_subject)).await
                }
                answer => answer,
            }
            .map_err(|status| of(id, &status))?;
            if !organization.is_empty() {
                let member = AddOrganizationMemberRequest {
                    organization_id: organization.into(),
                    person_id: id.into(),
                    ..Default::default()
                };
                organizations
                    .add_organization_member(as_seed(member))
                    .await
                    .map_err(|status| of(id, &status))?;
            }
        }
        Ok(())
    }

    async fn accounts(
        &mut self,
        accounts: &mut AccountServiceClient<Authorized>,
    ) -> Result<(), Status> {
        for (id, name, organization, account_type, city, country) in ACCOUNTS {
            let found =
                accounts.get_account(as_seed(GetAccountRequest { account_id: id.into() })).await;
            if !self.is_missing(id, found)? {
                continue;
            }
            let managed = id.starts_with("acct-acme") && self.created.contains(MANAGER);
            let account = Account {
                account_id: id.into(),
                display_name: name.into(),
                organization_id: organization.into(),
                account_type_id: self.account_type(account_type),
                // An existing organization may have a primary account, which would lose the flag.
                is_primary: self.created.contains(organization),
                account_manager_id: if managed { MANAGER.into() } else { String::new() },
                primary_contact: Some(Contact {
                    name: format!("{name} Purchasing"),
                    email: format!("purchasing@{organization}.example"),
                    ..Default::default()
                }),
                billing_address: Some(Address {
                    city: city.into(),
                    country: country.into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let request = CreateAccountRequest { account: Some(account), ..Default::default() };
            accounts.create_account(as_seed(request)).await.map_err(|status| of(id, &status))?;
            if account_type == "trial" {
                let converted = converted(id, self.account_type("premium"));
                accounts
                    .update_account(as_seed(converted))
                    .await
                    .map_err(|status| of(id, &status))?;
            }
        }
        Ok(())
    }

    /// Adds the users of the accounts that were created, and their roles.
    async fn users(
        &self,
        accounts: &mut AccountServiceClient<Authorized>,
        memberships: &mut MembershipServiceClient<Authorized>,
    ) -> Result<(), Status> {
        if self.created.contains("acct-acme") {
            let link = LinkOrganizationRequest {
                account_id: "acct-acme".into(),
                organization_id: "acme".into(),
                include_descendants: true,
                ..Default::default()
            };
            memberships
                .link_organization(as_seed(link))
                .await
                .map_err(|status| of("acct-acme", &status))?;
        }
        for (account, person) in BILLING {
            if !(self.created.contains(account) && self.created.contains(person)) {
                continue;
            }
            let contact = Account {
                account_id: account.into(),
                billing_contact_id: person.into(),
                ..Default::default()
            };
            let request = UpdateAccountRequest { account: Some(contact), ..Default::default() };
            accounts
                .update_account(as_seed(request))
                .await
                .map_err(|status| of(account, &status))?;
            let purchasing = SetPurchasingAccountRequest {
                person_id: person.into(),
                account_id: account.into(),
                ..Default::default()
            };
            memberships
                .set_purchasing_account(as_seed(purchasing))
                .await
                .map_err(|status| of(person, &status))?;
        }
        Ok(())
    }
}

/// The error of a call, with the id of the resource it was for.
fn of(id: &str, status: &Status) -> Status {
    Status::new(status.code(), format!("{id}: {}", status.message()))
}

/// The update of a trial account that became a customer.
fn converted(id: &str, account_type_id: String) -> UpdateAccountRequest {
    let account = Account {
        account_id: id.into(),
        account_type_id,
        comment: "Converted from a trial".into(),
        ..Default::default()
    };
    UpdateAccountRequest { account: Some(account), ..Default::default() }
}

fn as_seed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in [("x-tenant-id", TENANT), ("x-actor", ACTOR)] {
        request.metadata_mut().insert(name, MetadataValue::from_static(value));
    }
    request
}
