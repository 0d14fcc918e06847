//! `customer-accounts seed` on a tenant that people have worked in.

use customer_accounts::proto::{
    Account, AccountType, CancelOrderRequest, Contract, CreateAccountTypeRequest,
    DeactivateAccountTypeRequest, DeleteAccountRequest, DeliverySetup, GetAccountRequest,
    LinkOrganizationRequest, ListAccountTypesRequest, ListActivitiesRequest, ModuleSetting,
    Organization, Person, Portfolio, RemoveOrganizationMemberRequest, SetPurchasingAccountRequest,
    UpdateAccountRequest, UpdateAccountTypeRequest, UpdateOrganizationRequest, UpdatePersonRequest,
};
use prost_types::FieldMask;

use crate::support::{
    As, Tenant, account,
    calls::person,
    process::{Finished, Service, run},
    sales::{opportunity, portfolio},
};

async fn seed(service: &Service) -> Finished {
    let seeded = run(&["seed", "--listen", &service.address.to_string()], &[]).await;
    assert_eq!(seeded.code, Some(0), "{seeded:?}");
    seeded
}

async fn demo(service: &Service) -> Tenant {
    let caller = As {
        tenant: "demo".into(),
        actor: "robin".into(),
        roles: "admin".into(),
        tenant_wide: true,
    };
    Tenant { caller, channel: service.channel().await }
}

/// How many changes the tenant has on record, of anybody.
async fn changes(tenant: &Tenant) -> usize {
    let request = ListActivitiesRequest { page_size: 1000, ..Default::default() };
    tenant.activities().list_activities(request).await.unwrap().into_inner().activities.len()
}

#[expect(clippy::unnecessary_wraps, reason = "as the field of the message has it")]
fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

/// Every resource of the example is changed by hand, in what the seed has set.
async fn change_everything(tenant: &Tenant) {
    let clear = mask(&[
        "billing_contact_id",
        "is_primary",
        "account_manager_id",
        "billing_address",
        "account_type_id",
        "comment",
    ]);
    for id in ["acct-acme", "acct-acme-emea", "acct-acme-amer", "acct-acme-apac", "acct-globex"] {
        let account = Account { account_id: id.into(), ..Default::default() };
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: clear.clone(),
            ..Default::default()
        };
        tenant.accounts().update_account(request).await.unwrap();
    }
    for id in ["acme-stone", "acme-meier", "globex-scorpio"] {
        let buys = SetPurchasingAccountRequest { person_id: id.into(), ..Default::default() };
        tenant.memberships().set_purchasing_account(buys).await.unwrap();
    }
    let narrow = LinkOrganizationRequest {
        account_id: "acct-acme".into(),
        organization_id: "acme".into(),
        ..Default::default()
    };
    tenant.memberships().link_organization(narrow).await.unwrap();
    for id in ["staff-costa", "acme-stone", "acme-meier", "acme-silva", "globex-scorpio"] {
        let person = Person {
            person_id: id.into(),
            display_name: "Somebody Else".into(),
            ..Default::default()
        };
        let paths = mask(&["display_name", "email", "subject", "active"]);
        let request =
            UpdatePersonRequest { person: Some(person), update_mask: paths, ..Default::default() };
        tenant.people().update_person(request).await.unwrap();
    }
    let remove = RemoveOrganizationMemberRequest {
        organization_id: "acme".into(),
        person_id: "acme-stone".into(),
        ..Default::default()
    };
    tenant.organizations().remove_organization_member(remove).await.unwrap();
    for id in ["acme", "acme-emea", "acme-amer", "acme-apac", "globex"] {
        let organization = Organization {
            organization_id: id.into(),
            display_name: "Renamed".into(),
            ..Default::default()
        };
        let request =
            UpdateOrganizationRequest { organization: Some(organization), ..Default::default() };
        tenant.organizations().update_organization(request).await.unwrap();
    }
    for id in ["ctr-emea-support", "ctr-amer-rollout", "ctr-apac-pilot"] {
        let contract =
            Contract { contract_id: id.into(), title: "Renamed".into(), ..Default::default() };
        tenant.update_contract(contract, &[]).await.unwrap();
    }
    let setup = DeliverySetup {
        delivery_setup_id: "dset-emea-support".into(),
        delivery_model: "of our own".into(),
        ..Default::default()
    };
    tenant.update_setup(setup, &[]).await.unwrap();
    let portfolio = Portfolio { display_name: "Ours".into(), ..portfolio("port-acme-emea", "") };
    tenant.update_portfolio(portfolio, &["display_name", "items"]).await.unwrap();
    for (id, account) in
        [("opp-apac-rollout", "acct-acme-apac"), ("opp-globex-support", "acct-globex")]
    {
        tenant.opportunity(opportunity(id, account)).await;
    }
    for id in ["sub-emea-support", "sub-emea-status-page", "sub-emea-monitoring"] {
        tenant.cancel_subscription(id, None).await.unwrap();
    }
    for id in ["ord-emea-onboarding", "ord-globex-workshop"] {
        let cancel = CancelOrderRequest { order_id: id.into(), ..Default::default() };
        tenant.commerce().cancel_order(cancel).await.unwrap();
    }
    for id in ["enterprise", "smb", "trial", "premium", "partner", "reseller"] {
        let renamed = AccountType {
            account_type_id: id.into(),
            display_name: format!("Our {id}"),
            ..Default::default()
        };
        let request = UpdateAccountTypeRequest {
            account_type: Some(renamed),
            update_mask: mask(&["display_name", "description", "is_default"]),
            ..Default::default()
        };
        tenant.account_types().update_account_type(request).await.unwrap();
        let request =
            DeactivateAccountTypeRequest { account_type_id: id.into(), ..Default::default() };
        tenant.account_types().deactivate_account_type(request).await.unwrap();
    }
}

#[tokio::test]
async fn seeding_again_leaves_what_people_have_changed() {
    let service = Service::fresh(&[], &[]).await;
    seed(&service).await;
    let tenant = demo(&service).await;
    change_everything(&tenant).await;
    let before = changes(&tenant).await;
    let again = seed(&service).await;
    assert!(again.stdout.contains("0 resources created, 33 already there"), "{again:?}");
    assert_eq!(changes(&tenant).await, before, "nothing was changed");

    // What is missing is made again, and nothing else is touched by it.
    let gone = DeleteAccountRequest {
        account_id: "acct-acme-emea".into(),
        force: true,
        ..Default::default()
    };
    tenant.accounts().delete_account(gone).await.unwrap();
    let active = AccountType {
        account_type_id: "enterprise".into(),
        active: Some(true),
        ..Default::default()
    };
    let active = UpdateAccountTypeRequest { account_type: Some(active), ..Default::default() };
    tenant.account_types().update_account_type(active).await.unwrap();
    let before = changes(&tenant).await;
    let again = seed(&service).await;
    assert!(again.stdout.contains("8 resources created, 25 already there"), "{again:?}");
    let request = ListActivitiesRequest { page_size: 1000, ..Default::default() };
    let made =
        tenant.activities().list_activities(request).await.unwrap().into_inner().activities.len()
            - before;
    assert_eq!(
        made, 10,
        "an account, its contract in three steps, a delivery setup, a portfolio, three \
         subscriptions, an order"
    );
}

#[tokio::test]
async fn seeding_takes_nothing_from_what_people_have_made() {
    let service = Service::fresh(&[], &[]).await;
    let tenant = demo(&service).await;
    tenant.organization("acme", "").await;
    let own = tenant.account(Account { is_primary: true, ..account("own", "acme") }).await;
    let standard = AccountType {
        account_type_id: "standard".into(),
        display_name: "Standard".into(),
        is_default: true,
        ..Default::default()
    };
    let request = CreateAccountTypeRequest { account_type: Some(standard), ..Default::default() };
    let standard = tenant
        .account_types()
        .create_account_type(request)
        .await
        .unwrap()
        .into_inner()
        .account_type
        .unwrap();
    seed(&service).await;
    let found = tenant
        .accounts()
        .get_account(GetAccountRequest { account_id: "own".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.account.unwrap(), own, "it stays the primary account");
    let types = tenant
        .account_types()
        .list_account_types(ListAccountTypesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let types = types.account_types;
    assert!(types.contains(&standard), "it stays the default: {types:?}");
}

/// What users have made may have the names, subjects and types of the example.
#[tokio::test]
async fn seed_makes_do_with_what_users_have() {
    let service = Service::fresh(&[], &[]).await;
    let tenant = demo(&service).await;
    let own = AccountType { display_name: "ENTERPRISE".into(), ..Default::default() };
    let own = tenant.try_account_type(own).await.unwrap().account_type_id;
    let seeded = seed(&service).await.stdout;
    assert!(seeded.contains("32 resources created, 1 already there"), "{seeded}");
    assert_eq!(tenant.get("acct-acme").await.unwrap().account_type_id, own);

    tenant.deactivate(&own).await;
    tenant.delete("acct-acme-apac", "").await.unwrap();
    tenant.delete_person("acme-silva", "").await.unwrap();
    let namesake = Person { subject: "alex.silva".into(), ..person("namesake") };
    tenant.try_person(namesake).await.unwrap();
    let seeded = seed(&service).await.stdout;
    assert!(seeded.contains("4 resources created, 29 already there"), "{seeded}");
    assert_eq!(tenant.get("acct-acme-apac").await.unwrap().account_type_id, "smb");
    assert_eq!(tenant.get_person("acme-silva").await.unwrap().subject, "");

    tenant.delete("acct-globex", "").await.unwrap();
    tenant.set_module("customer_accounts", "globex", ModuleSetting::Off).await.unwrap();
    let refused = run(&["seed", "--listen", &service.address.to_string()], &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("globex: the module"), "{refused:?}");
}
