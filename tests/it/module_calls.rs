//! Every call of the contract, where its module is off: a call that is missing here fails.

use std::collections::BTreeSet;

use customer_accounts::{
    policy::{Policies, Policy},
    proto::{
        Account, AccountUser, AddAccountUserRequest, AddOrganizationMemberRequest,
        BatchCheckMembershipsRequest, BatchGetAccountTypesRequest, BatchGetAccountsRequest,
        BatchGetOrganizationsRequest, BatchGetPeopleRequest, CheckMembershipRequest,
        CreateAccountRequest, CreateAccountTypeRequest, CreateOrganizationRequest,
        CreatePersonRequest, DeactivateAccountTypeRequest, DeleteAccountRequest,
        DeleteOrganizationRequest, DeletePersonRequest, GetAccountRequest, GetAccountTypeRequest,
        GetOrganizationRequest, GetPersonRequest, GetTenantSettingsRequest,
        LinkOrganizationRequest, ListAccountTypesRequest, ListAccountUsersRequest,
        ListAccountsRequest, ListActivitiesRequest, ListBillingRecipientsRequest,
        ListLinkedOrganizationsRequest, ListModuleActivationsRequest,
        ListOrganizationMembersRequest, ListOrganizationsRequest, ListPeopleRequest,
        ListPersonAccountsRequest,
        ModuleSetting::{Inherited, Off, On},
        MoveOrganizationRequest, Organization, RemoveAccountUserRequest,
        RemoveOrganizationMemberRequest, SetModuleActivationRequest, SetPurchasingAccountRequest,
        TenantSettings, UnlinkOrganizationRequest, UpdateAccountRequest, UpdateAccountTypeRequest,
        UpdateAccountUserRequest, UpdateOrganizationRequest, UpdatePersonRequest,
        UpdateTenantSettingsRequest, WatchActivitiesRequest,
    },
};
use prost::Message as _;
use tonic::Status;

use crate::{
    modules::{ALL, by_tenant, denial},
    support::{
        Tenant, account,
        calls::{account_type, person},
        raw, refusal,
    },
};

/// A call, whether it names an account or an organization, and the request.
type Asked = (&'static str, bool, Vec<u8>);

const fn named(method: &'static str, request: Vec<u8>) -> Asked {
    (method, true, request)
}

const fn unnamed(method: &'static str, request: Vec<u8>) -> Asked {
    (method, false, request)
}

/// A request with these fields.
macro_rules! ask {
    ($request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $request { $($field $(: $value)?,)* ..Default::default() }.encode_to_vec()
    };
}

/// Every call, as it is asked about an account and its organization.
fn asks(account_id: &str, organization_id: &str) -> Vec<Asked> {
    let organizations = asks_about_organizations(organization_id);
    let [accounts, memberships] =
        [asks_about_accounts, asks_about_memberships].map(|ask| ask(account_id, organization_id));
    [accounts, memberships, organizations, asks_about_the_rest(organization_id)].concat()
}

fn asks_about_accounts(account_id: &str, organization_id: &str) -> Vec<Asked> {
    let account_id = || account_id.to_owned();
    let organization_id = || organization_id.to_owned();
    let (id, validate_only) = (|| "none".to_owned(), true);
    let new = || Account { account_id: String::new(), ..account("n", &organization_id()) };
    let of = || Account { account_id: account_id(), comment: "c".into(), ..Default::default() };
    let into = || Account {
        account_id: "b".into(),
        organization_id: organization_id(),
        ..Default::default()
    };
    vec![
        named(
            "AccountService/CreateAccount",
            ask!(CreateAccountRequest { account: Some(new()), validate_only }),
        ),
        named(
            "AccountService/GetAccount",
            GetAccountRequest { account_id: account_id() }.encode_to_vec(),
        ),
        named(
            "AccountService/BatchGetAccounts",
            BatchGetAccountsRequest { account_ids: vec![account_id()] }.encode_to_vec(),
        ),
        named(
            "AccountService/UpdateAccount",
            ask!(UpdateAccountRequest { account: Some(of()), validate_only }),
        ),
        named(
            "AccountService/UpdateAccount",
            ask!(UpdateAccountRequest { account: Some(into()), validate_only }),
        ),
        named(
            "AccountService/DeleteAccount",
            ask!(DeleteAccountRequest { account_id: account_id(), validate_only }),
        ),
        named(
            "AccountService/ListAccounts",
            ask!(ListAccountsRequest { organization_id: organization_id() }),
        ),
        named(
            "AccountService/ListAccounts",
            ask!(ListAccountsRequest { linked_organization_id: organization_id() }),
        ),
        unnamed(
            "AccountService/ListAccounts",
            ask!(ListAccountsRequest { include_total_size: true }),
        ),
        unnamed(
            "AccountTypeService/CreateAccountType",
            ask!(CreateAccountTypeRequest { account_type: Some(account_type("t")), validate_only }),
        ),
        unnamed(
            "AccountTypeService/GetAccountType",
            GetAccountTypeRequest { account_type_id: id() }.encode_to_vec(),
        ),
        unnamed(
            "AccountTypeService/BatchGetAccountTypes",
            BatchGetAccountTypesRequest { account_type_ids: vec![id()] }.encode_to_vec(),
        ),
        unnamed("AccountTypeService/ListAccountTypes", ask!(ListAccountTypesRequest {})),
        unnamed(
            "AccountTypeService/UpdateAccountType",
            ask!(UpdateAccountTypeRequest {
                account_type: Some(account_type("none")),
                validate_only
            }),
        ),
        unnamed(
            "AccountTypeService/DeactivateAccountType",
            ask!(DeactivateAccountTypeRequest { account_type_id: id() }),
        ),
    ]
}

fn asks_about_memberships(account_id: &str, organization_id: &str) -> Vec<Asked> {
    let account_id = || account_id.to_owned();
    let organization_id = || organization_id.to_owned();
    let person_id = || "ann".to_owned();
    let validate_only = true;
    let user = || AccountUser {
        account_id: account_id(),
        person_id: person_id(),
        billing: true,
        ..Default::default()
    };
    let pair = || CheckMembershipRequest { account_id: account_id(), person_id: person_id() };
    vec![
        named(
            "MembershipService/AddAccountUser",
            ask!(AddAccountUserRequest {
                account_id: account_id(),
                person_id: person_id(),
                validate_only
            }),
        ),
        named(
            "MembershipService/UpdateAccountUser",
            ask!(UpdateAccountUserRequest { account_user: Some(user()), validate_only }),
        ),
        named(
            "MembershipService/RemoveAccountUser",
            ask!(RemoveAccountUserRequest {
                account_id: account_id(),
                person_id: person_id(),
                validate_only
            }),
        ),
        named(
            "MembershipService/ListAccountUsers",
            ask!(ListAccountUsersRequest { account_id: account_id() }),
        ),
        named(
            "MembershipService/LinkOrganization",
            ask!(LinkOrganizationRequest {
                account_id: account_id(),
                organization_id: "region".into(),
                validate_only
            }),
        ),
        named(
            "MembershipService/LinkOrganization",
            ask!(LinkOrganizationRequest {
                account_id: "b".into(),
                organization_id: organization_id(),
                validate_only
            }),
        ),
        named(
            "MembershipService/UnlinkOrganization",
            ask!(UnlinkOrganizationRequest {
                account_id: account_id(),
                organization_id: "region".into(),
                validate_only
            }),
        ),
        named(
            "MembershipService/UnlinkOrganization",
            ask!(UnlinkOrganizationRequest {
                account_id: "linked".into(),
                organization_id: organization_id(),
                validate_only
            }),
        ),
        named(
            "MembershipService/ListLinkedOrganizations",
            ask!(ListLinkedOrganizationsRequest { account_id: account_id() }),
        ),
        named(
            "MembershipService/ListBillingRecipients",
            ask!(ListBillingRecipientsRequest { account_id: account_id() }),
        ),
        named(
            "MembershipService/SetPurchasingAccount",
            ask!(SetPurchasingAccountRequest {
                account_id: account_id(),
                person_id: person_id(),
                validate_only
            }),
        ),
        named("MembershipService/CheckMembership", pair().encode_to_vec()),
        named(
            "MembershipService/BatchCheckMemberships",
            BatchCheckMembershipsRequest { requests: vec![pair()] }.encode_to_vec(),
        ),
        unnamed(
            "MembershipService/ListPersonAccounts",
            ask!(ListPersonAccountsRequest { person_id: person_id() }),
        ),
    ]
}

fn asks_about_organizations(organization_id: &str) -> Vec<Asked> {
    let organization_id = || organization_id.to_owned();
    let person_id = || "ann".to_owned();
    let validate_only = true;
    let unit = || Organization {
        organization_id: organization_id(),
        display_name: "n".into(),
        ..Default::default()
    };
    let below = || Organization {
        parent_id: organization_id(),
        display_name: "n".into(),
        ..Default::default()
    };
    vec![
        named(
            "OrganizationService/CreateOrganization",
            ask!(CreateOrganizationRequest { organization: Some(below()), validate_only }),
        ),
        named(
            "OrganizationService/GetOrganization",
            GetOrganizationRequest { organization_id: organization_id() }.encode_to_vec(),
        ),
        named(
            "OrganizationService/BatchGetOrganizations",
            BatchGetOrganizationsRequest { organization_ids: vec![organization_id()] }
                .encode_to_vec(),
        ),
        named(
            "OrganizationService/ListOrganizations",
            ask!(ListOrganizationsRequest { parent_id: organization_id() }),
        ),
        unnamed("OrganizationService/ListOrganizations", ask!(ListOrganizationsRequest {})),
        named(
            "OrganizationService/UpdateOrganization",
            ask!(UpdateOrganizationRequest { organization: Some(unit()), validate_only }),
        ),
        named(
            "OrganizationService/MoveOrganization",
            ask!(MoveOrganizationRequest { organization_id: organization_id(), validate_only }),
        ),
        named(
            "OrganizationService/MoveOrganization",
            ask!(MoveOrganizationRequest {
                organization_id: "mover".into(),
                parent_id: organization_id(),
                validate_only
            }),
        ),
        named(
            "OrganizationService/DeleteOrganization",
            ask!(DeleteOrganizationRequest { organization_id: organization_id(), validate_only }),
        ),
        named(
            "OrganizationService/AddOrganizationMember",
            ask!(AddOrganizationMemberRequest {
                organization_id: organization_id(),
                person_id: person_id()
            }),
        ),
        named(
            "OrganizationService/RemoveOrganizationMember",
            ask!(RemoveOrganizationMemberRequest {
                organization_id: organization_id(),
                person_id: person_id(),
                validate_only
            }),
        ),
        named(
            "OrganizationService/ListOrganizationMembers",
            ask!(ListOrganizationMembersRequest { organization_id: organization_id() }),
        ),
    ]
}

fn asks_about_the_rest(organization_id: &str) -> Vec<Asked> {
    let organization_id = || organization_id.to_owned();
    let person_id = || "ann".to_owned();
    let validate_only = true;
    vec![
        unnamed(
            "PersonService/CreatePerson",
            ask!(CreatePersonRequest { person: Some(person("p")), validate_only }),
        ),
        unnamed(
            "PersonService/GetPerson",
            GetPersonRequest { person_id: person_id() }.encode_to_vec(),
        ),
        unnamed(
            "PersonService/BatchGetPeople",
            BatchGetPeopleRequest { person_ids: vec![person_id()] }.encode_to_vec(),
        ),
        named(
            "PersonService/ListPeople",
            ask!(ListPeopleRequest { organization_id: organization_id() }),
        ),
        unnamed("PersonService/ListPeople", ask!(ListPeopleRequest {})),
        unnamed(
            "PersonService/UpdatePerson",
            ask!(UpdatePersonRequest { person: Some(person("ann")), validate_only }),
        ),
        unnamed(
            "PersonService/DeletePerson",
            ask!(DeletePersonRequest { person_id: person_id(), validate_only }),
        ),
        unnamed(
            "ActivityService/ListActivities",
            ask!(ListActivitiesRequest { resource_type: "organization".into() }),
        ),
        // With a cursor that is none the watch ends at once.
        unnamed(
            "ActivityService/WatchActivities",
            ask!(WatchActivitiesRequest { cursor: "none".into() }),
        ),
        unnamed("TenantService/GetTenantSettings", GetTenantSettingsRequest {}.encode_to_vec()),
        unnamed(
            "TenantService/UpdateTenantSettings",
            ask!(UpdateTenantSettingsRequest { tenant_settings: Some(TenantSettings::default()) }),
        ),
        named(
            "TenantService/SetModuleActivation",
            ask!(SetModuleActivationRequest {
                module: "contracts".into(),
                organization_id: organization_id(),
                setting: Inherited.into()
            }),
        ),
        named(
            "TenantService/ListModuleActivations",
            ask!(ListModuleActivationsRequest { organization_id: organization_id() }),
        ),
    ]
}

fn policies() -> Policies {
    Policies::read().unwrap()
}

fn policy<'p>(policies: &'p Policies, method: &str) -> &'p Policy {
    policies.get(&format!("/accounts.v1.{method}")).unwrap()
}

async fn ask(tenant: &Tenant, method: &str, request: &[u8]) -> Result<Vec<Vec<u8>>, Status> {
    raw::call(&tenant.channel, method, &[("x-tenant-id", tenant.caller.tenant.as_bytes())], request)
        .await
}

#[test]
fn what_a_module_denies_is_tested_for_every_call() {
    let policies = policies();
    let all: BTreeSet<_> =
        policies.iter().map(|policy| policy.method.trim_start_matches("accounts.v1.")).collect();
    let tested: BTreeSet<_> = asks("a", "office").into_iter().map(|(method, ..)| method).collect();
    assert_eq!(tested, all, "asks names every call");
    for policy in policies.iter() {
        assert!(
            ALL.contains(&policy.module) || policy.module == "administration",
            "{}: {}",
            policy.method,
            policy.module
        );
    }
}

#[tokio::test]
async fn every_call_is_denied_where_its_module_is_off() {
    let (tenant, policies) = (Tenant::new().await, policies());
    tenant.offices().await;
    tenant.organization("mover", "").await;
    tenant.account(account("linked", "mover")).await;
    let link = |organization_id: &str| LinkOrganizationRequest {
        account_id: "linked".into(),
        organization_id: organization_id.into(),
        ..Default::default()
    };
    for office in ["office", "branch"] {
        tenant.memberships().link_organization(link(office)).await.unwrap();
    }
    let not_denied = |method: &str, answer: Result<Vec<Vec<u8>>, Status>| {
        if let Err(status) = answer {
            let reason = refusal(status);
            assert!(
                !["MODULE_NOT_ACTIVATED", "INVALID_FIELD", "INTERNAL"].contains(&&*reason),
                "{method}: {reason}"
            );
        }
    };
    for (method, _, request) in asks("a", "office") {
        not_denied(method, ask(&tenant, method, &request).await);
    }
    for module in ALL {
        tenant.set_module(module, "office", Off).await.unwrap();
    }
    for (method, is_named, request) in asks("a", "office") {
        let answer = ask(&tenant, method, &request).await;
        let module = policy(&policies, method).module;
        if is_named && module != "administration" {
            let expected =
                (module.to_owned(), "ORGANIZATION".to_owned(), Some("office".to_owned()));
            assert_eq!(denial(answer), expected, "{method} at the organization");
        } else {
            not_denied(method, answer);
        }
    }
    for (method, _, request) in asks("b", "branch") {
        not_denied(method, ask(&tenant, method, &request).await);
    }
    for module in ALL {
        tenant.set_module(module, "office", Inherited).await.unwrap();
        tenant.set_module(module, "", Off).await.unwrap();
    }
    for (method, _, request) in asks("a", "office") {
        let answer = ask(&tenant, method, &request).await;
        let module = policy(&policies, method).module;
        if module == "administration" {
            not_denied(method, answer);
        } else {
            assert_eq!(denial(answer), by_tenant(module), "{method} at the tenant");
        }
    }
    for module in ALL {
        tenant.set_module(module, "", On).await.unwrap();
    }
    for (method, _, request) in asks("a", "office") {
        not_denied(method, ask(&tenant, method, &request).await);
    }
}
