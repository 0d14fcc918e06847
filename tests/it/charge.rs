//! Charge: what a caller with a limited reach may change of what they see.

use std::collections::BTreeSet;

use customer_accounts::{
    policy::Policies,
    proto::{
        Account, AccountUser, AddAccountUserRequest, AddOrganizationMemberRequest,
        ApproveContractRequest, CancelContractRequest, CancelOrderRequest,
        CancelSubscriptionRequest, Contract, CreateAccountRequest, CreateContractRequest,
        CreateDeliverySetupRequest, CreateOrganizationRequest, CreatePersonRequest,
        CreatePortfolioRequest, ImportAccountsRequest, ImportLink, ImportRow,
        LinkOrganizationRequest, ModuleSetting, MoveOrganizationRequest, Order, Organization,
        Person, Portfolio, PutOpportunityRequest, PutSubscriptionRequest, RecordOrderRequest,
        RejectContractRequest, RemoveAccountUserRequest, RemoveOrganizationMemberRequest,
        SetPurchasingAccountRequest, SubmitContractRequest, TerminateContractRequest,
        UncancelContractRequest, UncancelSubscriptionRequest, UnlinkOrganizationRequest,
        UpdateAccountRequest, UpdateAccountUserRequest, UpdateContractRequest,
        UpdateDeliverySetupRequest, UpdateOrganizationRequest, UpdatePersonRequest,
        UpdatePortfolioRequest, VoidContractRequest,
    },
};
use prost::Message as _;

use crate::support::{
    Tenant, account, anybody,
    calls::{only, only_person, person},
    commerce::{order, subscription},
    contracts::{contract, setup},
    raw::call,
    refusal,
    sales::{opportunity, portfolio},
    transfers::row,
};

/// How a call is answered that asks to change something which the caller sees.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// `OUT_OF_REACH`: the caller sees it and is not in charge of it.
    Refused,
    /// What the caller sees of it is its id, or where it belongs: it is as if it did not exist.
    NotFound,
    /// Carried out. To see it is to be in charge of it.
    Done,
}

use Answer::{Done, NotFound, Refused};

/// A manager of `north` and `depot`. Their reach also has `oslo` below north, with an account, and
/// `north-account`. The account in oslo is used by `guest`, who is in no organization, and by
/// `shown`, who is a member of `rome` and buys on the account. Rome is linked to the account, and
/// together with its own account out of reach, as is `top` above everything else.
async fn scene() -> (Tenant, Tenant) {
    let tenant = Tenant::new().await;
    for (id, parent_id) in [
        ("top", ""),
        ("north", "top"),
        ("south", "top"),
        ("oslo", "north"),
        ("lund", "north"),
        ("rome", "south"),
        ("depot", ""),
    ] {
        tenant.organization(id, parent_id).await;
    }
    for id in ["oslo", "north", "rome"] {
        tenant.account(account(&format!("{id}-account"), id)).await;
    }
    for id in ["manager", "shown", "guest", "inside"] {
        tenant.person(id).await;
    }
    tenant.identify("manager", "subject-of-manager").await;
    for (organization_id, person_id) in
        [("north", "manager"), ("depot", "manager"), ("rome", "shown"), ("oslo", "inside")]
    {
        tenant.add_member(organization_id, person_id).await.unwrap();
    }
    for person_id in ["shown", "guest"] {
        tenant.add_user("oslo-account", person_id).await;
    }
    tenant.buys_on("shown", "oslo-account").await.unwrap();
    tenant.link("oslo-account", "rome", false).await.unwrap();
    tenant.portfolio(portfolio("p", "oslo-account")).await;
    for id in ["oslo", "rome"] {
        tenant.contract(contract(id, &format!("{id}-account"))).await;
    }
    let manager = tenant.reaching("subject-of-manager", "editor");
    (tenant, manager)
}

/// Every changing call that an editor may make, asked for something that the manager of [`scene`]
/// sees and that is bound to something out of their reach.
fn asked() -> Vec<(&'static str, Vec<u8>, Answer)> {
    let id = str::to_owned;
    let (oslo, rome, shown, guest) =
        (|| id("oslo-account"), || id("rome"), || id("shown"), || id("guest"));
    let organization = |organization_id, parent_id| Organization {
        organization_id,
        parent_id,
        display_name: id("n"),
        ..Default::default()
    };
    let user =
        AccountUser { account_id: oslo(), person_id: shown(), billing: true, ..Default::default() };
    let email =
        |person_id: &str| Some(Person { email: id("new@acme.example"), ..only_person(person_id) });
    let link = ImportLink { organization_id: rome(), include_descendants: true };
    let linked = ImportRow { linked_organizations: vec![link], ..row(only("oslo-account")) };
    let commented = Account { comment: id("c"), ..only("oslo-account") };
    let top = organization(id("new"), String::new());
    let renamed = Portfolio { display_name: id("other"), ..portfolio("p", "") };
    macro_rules! ask {
        ($request:ident { $($fields:tt)* }) => {
            $request { $($fields)*, ..Default::default() }.encode_to_vec()
        };
    }
    macro_rules! step {
        ($call:literal, $request:ident, $id:literal, $answer:expr) => {
            (concat!("ContractService/", $call), ask!($request { contract_id: id($id) }), $answer)
        };
    }
    let retitled =
        |id: &str| Contract { contract_id: id.into(), title: "T".into(), ..Default::default() };
    let update_person = |person_id| ask!(UpdatePersonRequest { person: email(person_id) });
    let buy = |on| ask!(SetPurchasingAccountRequest { person_id: shown(), account_id: on });
    let add =
        |who| ask!(AddOrganizationMemberRequest { organization_id: id("oslo"), person_id: who });
    vec![
        // A person belongs to every organization and account that names them.
        ("PersonService/UpdatePerson", update_person("shown"), Refused),
        ("PersonService/UpdatePerson", update_person("guest"), Refused),
        (
            "PersonService/CreatePerson",
            ask!(CreatePersonRequest { person: Some(person("new")), organization_id: rome() }),
            NotFound,
        ),
        ("MembershipService/SetPurchasingAccount", buy(oslo()), Refused),
        ("MembershipService/SetPurchasingAccount", buy(String::new()), Refused),
        // Members reach their organization, and charge is measured by membership.
        ("OrganizationService/AddOrganizationMember", add(shown()), Refused),
        ("OrganizationService/AddOrganizationMember", add(guest()), Refused),
        (
            "OrganizationService/RemoveOrganizationMember",
            ask!(RemoveOrganizationMemberRequest { organization_id: rome(), person_id: shown() }),
            NotFound,
        ),
        // The top of a reach belongs to those above.
        (
            "OrganizationService/MoveOrganization",
            ask!(MoveOrganizationRequest { organization_id: id("north"), parent_id: id("depot") }),
            Refused,
        ),
        (
            "OrganizationService/MoveOrganization",
            ask!(MoveOrganizationRequest { organization_id: id("depot"), parent_id: id("oslo") }),
            Refused,
        ),
        (
            "OrganizationService/CreateOrganization",
            ask!(CreateOrganizationRequest {
                organization: Some(organization(id("new"), id("top")))
            }),
            NotFound,
        ),
        (
            "OrganizationService/UpdateOrganization",
            ask!(UpdateOrganizationRequest {
                organization: Some(organization(id("top"), String::new()))
            }),
            NotFound,
        ),
        // A link belongs to both of its ends.
        (
            "MembershipService/UnlinkOrganization",
            ask!(UnlinkOrganizationRequest { account_id: oslo(), organization_id: rome() }),
            Refused,
        ),
        (
            "MembershipService/LinkOrganization",
            ask!(LinkOrganizationRequest {
                account_id: oslo(),
                organization_id: rome(),
                include_descendants: true
            }),
            NotFound,
        ),
        // An account belongs to one organization, and what is set on it to the account.
        (
            "AccountService/CreateAccount",
            ask!(CreateAccountRequest { account: Some(account("new", "rome")) }),
            NotFound,
        ),
        (
            "AccountService/UpdateAccount",
            ask!(UpdateAccountRequest {
                account: Some(Account { organization_id: rome(), ..only("oslo-account") })
            }),
            NotFound,
        ),
        (
            "AccountService/ImportAccounts",
            ask!(ImportAccountsRequest { rows: vec![row(account("new", "rome"))] }),
            NotFound,
        ),
        (
            "AccountService/ImportAccounts",
            ask!(ImportAccountsRequest { rows: vec![linked] }),
            NotFound,
        ),
        (
            "AccountService/ImportAccounts",
            ask!(ImportAccountsRequest {
                rows: vec![ImportRow { organization: Some(top), ..row(account("new", "")) }]
            }),
            Refused,
        ),
        (
            "AccountService/ImportAccounts",
            ask!(ImportAccountsRequest { rows: vec![row(commented)] }),
            Done,
        ),
        (
            "PortfolioService/CreatePortfolio",
            ask!(CreatePortfolioRequest { portfolio: Some(portfolio("new", "rome-account")) }),
            NotFound,
        ),
        (
            "PortfolioService/UpdatePortfolio",
            ask!(UpdatePortfolioRequest { portfolio: Some(renamed) }),
            Done,
        ),
        (
            "OpportunityService/PutOpportunity",
            ask!(PutOpportunityRequest { opportunity: Some(opportunity("new", "rome-account")) }),
            NotFound,
        ),
        // So do subscriptions and orders, which bind nobody: they are facts.
        (
            "CommerceService/PutSubscription",
            ask!(PutSubscriptionRequest {
                subscription: Some(subscription("new", "rome-account"))
            }),
            NotFound,
        ),
        (
            "CommerceService/PutSubscription",
            ask!(PutSubscriptionRequest { subscription: Some(subscription("s", "oslo-account")) }),
            Done,
        ),
        (
            "CommerceService/CancelSubscription",
            ask!(CancelSubscriptionRequest { subscription_id: id("s") }),
            Done,
        ),
        (
            "CommerceService/UncancelSubscription",
            ask!(UncancelSubscriptionRequest { subscription_id: id("s") }),
            Done,
        ),
        (
            "CommerceService/RecordOrder",
            ask!(RecordOrderRequest {
                order: Some(order("new", "rome-account")),
                purchaser_checked: true
            }),
            NotFound,
        ),
        (
            "CommerceService/RecordOrder",
            ask!(RecordOrderRequest {
                order: Some(Order { purchaser_id: shown(), ..order("o", "oslo-account") })
            }),
            Done,
        ),
        ("CommerceService/CancelOrder", ask!(CancelOrderRequest { order_id: id("o") }), Done),
        (
            "MembershipService/UpdateAccountUser",
            ask!(UpdateAccountUserRequest { account_user: Some(user) }),
            Done,
        ),
        (
            "MembershipService/RemoveAccountUser",
            ask!(RemoveAccountUserRequest { account_id: oslo(), person_id: shown() }),
            Done,
        ),
        (
            "MembershipService/AddAccountUser",
            ask!(AddAccountUserRequest { account_id: id("north-account"), person_id: shown() }),
            Done,
        ),
        // A contract belongs to its account, and a delivery setup to its contract.
        (
            "ContractService/CreateContract",
            ask!(CreateContractRequest { contract: Some(contract("new", "rome-account")) }),
            NotFound,
        ),
        (
            "ContractService/CreateContract",
            ask!(CreateContractRequest { contract: Some(contract("new", "oslo-account")) }),
            Done,
        ),
        (
            "ContractService/UpdateContract",
            ask!(UpdateContractRequest { contract: Some(retitled("rome")) }),
            NotFound,
        ),
        (
            "ContractService/UpdateContract",
            ask!(UpdateContractRequest { contract: Some(retitled("oslo")) }),
            Done,
        ),
        step!("SubmitContract", SubmitContractRequest, "oslo", Done),
        step!("RejectContract", RejectContractRequest, "oslo", Done),
        step!("SubmitContract", SubmitContractRequest, "oslo", Done),
        step!("ApproveContract", ApproveContractRequest, "oslo", Done),
        step!("CancelContract", CancelContractRequest, "oslo", Done),
        step!("UncancelContract", UncancelContractRequest, "oslo", Done),
        (
            "ContractService/CreateDeliverySetup",
            ask!(CreateDeliverySetupRequest { delivery_setup: Some(setup("s", "rome", "p")) }),
            NotFound,
        ),
        (
            "ContractService/CreateDeliverySetup",
            ask!(CreateDeliverySetupRequest { delivery_setup: Some(setup("s", "oslo", "p")) }),
            Done,
        ),
        (
            "ContractService/UpdateDeliverySetup",
            ask!(UpdateDeliverySetupRequest { delivery_setup: Some(setup("s", "oslo", "q")) }),
            Done,
        ),
        step!("TerminateContract", TerminateContractRequest, "oslo", Done),
        step!("VoidContract", VoidContractRequest, "new", Done),
        step!("SubmitContract", SubmitContractRequest, "rome", NotFound),
        step!("VoidContract", VoidContractRequest, "rome", NotFound),
    ]
}

#[tokio::test]
async fn to_see_something_does_not_suffice_to_change_it() {
    let (tenant, manager) = scene().await;
    let tenant_id = tenant.caller.tenant.clone();
    let identity: [(&str, &[u8]); 4] = [
        ("x-tenant-id", tenant_id.as_bytes()),
        ("x-actor", b"subject-of-manager"),
        ("x-roles", b"editor"),
        ("x-tenant-wide", b"false"),
    ];
    let mut tested = BTreeSet::new();
    for (method, request, expected) in asked() {
        let before = tenant.trail().await.len();
        let answer = call(&manager.channel, method, &identity, &request).await;
        let (answer, changes) = match answer.map_err(refusal) {
            Ok(_) => (Done, 1),
            Err(reason) if reason == "OUT_OF_REACH" => (Refused, 0),
            Err(reason) if reason.ends_with("_NOT_FOUND") => (NotFound, 0),
            other => panic!("{method}: {other:?}"),
        };
        assert_eq!(answer, expected, "{method} {:?}", String::from_utf8_lossy(&request));
        assert_eq!(tenant.trail().await.len(), before + changes, "{method}");
        tested.insert(method.to_owned());
    }
    let policies = Policies::read().unwrap();
    let all: BTreeSet<_> = policies
        .iter()
        .filter(|policy| {
            ["write", "approve"]
                .iter()
                .any(|verb| policy.permission.rsplit_once('.').is_some_and(|it| it.1 == *verb))
        })
        .map(|policy| policy.method.trim_start_matches("accounts.v1.").to_owned())
        .collect();
    assert_eq!(
        tested, all,
        "`asked` has every changing call of an editor: say of a new one what it takes to be in charge"
    );
}

/// A change of a person in charge of whom someone is only as long as nothing binds them to anything
/// out of reach.
#[tokio::test]
async fn whatever_binds_a_person_elsewhere_takes_them_out_of_charge() {
    let (tenant, manager) = scene().await;
    let mut phone = 0;
    let mut change = async |id: &str| {
        phone += 1;
        let changed = manager
            .update_person(Person { phone: phone.to_string(), ..only_person(id) }, &["phone"])
            .await;
        changed.map(drop).map_err(refusal)
    };
    let refused = Err("OUT_OF_REACH".to_owned());
    let rome = async |account: Account| tenant.update(account, &[]).await.unwrap();
    tenant.staff("staff").await;
    tenant.add_member("lund", "staff").await.unwrap();
    tenant.link("rome-account", "oslo", false).await.unwrap();
    let billing = |billing| AccountUser {
        account_id: "rome-account".into(),
        person_id: "inside".into(),
        billing,
        ..Default::default()
    };

    assert_eq!(change("inside").await, Ok(()));
    tenant.add_member("south", "inside").await.unwrap();
    assert_eq!(change("inside").await, refused, "a member elsewhere");
    tenant.remove_member("south", "inside").await.unwrap();

    // As a mere user through the organization they are no more bound to the account than the
    // organization is.
    assert_eq!(change("inside").await, Ok(()));
    tenant.update_user(billing(true), &["billing"]).await.unwrap();
    assert_eq!(change("inside").await, refused, "gets invoices elsewhere");
    tenant.unlink("rome-account", "oslo").await.unwrap();
    assert_eq!(change("inside").await, Ok(()));

    tenant.add_user("rome-account", "inside").await;
    assert_eq!(change("inside").await, refused, "an individual user elsewhere");
    tenant.remove_user("rome-account", "inside", "").await.unwrap();
    tenant.link("rome-account", "oslo", false).await.unwrap();

    tenant.buys_on("inside", "rome-account").await.unwrap();
    assert_eq!(change("inside").await, refused, "buys elsewhere");
    assert_eq!(refusal(manager.buys_on("inside", "oslo-account").await), "OUT_OF_REACH");
    assert_eq!(refusal(manager.buys_on("inside", "").await), "OUT_OF_REACH");
    tenant.buys_on("inside", "").await.unwrap();
    assert_eq!(
        manager.buys_on("inside", "oslo-account").await.unwrap().purchasing_account_id,
        "oslo-account"
    );
    assert_eq!(change("inside").await, Ok(()));

    for contact in [
        Account { billing_contact_id: "inside".into(), ..only("rome-account") },
        Account { cc_billing_contact_id: "inside".into(), ..only("rome-account") },
        Account {
            primary_contact: Some(customer_accounts::proto::Contact {
                person_id: "inside".into(),
                ..Default::default()
            }),
            ..only("rome-account")
        },
    ] {
        rome(contact).await;
        assert_eq!(change("inside").await, refused, "a contact elsewhere");
        let paths = ["billing_contact_id", "cc_billing_contact_id", "primary_contact"];
        tenant
            .update(Account { primary_contact: anybody(), ..only("rome-account") }, &paths)
            .await
            .unwrap();
        assert_eq!(change("inside").await, Ok(()));
    }

    assert_eq!(change("staff").await, Ok(()));
    rome(Account { account_manager_id: "staff".into(), ..only("rome-account") }).await;
    assert_eq!(change("staff").await, refused, "a manager elsewhere");

    // A tenant-wide caller is in charge of everyone.
    for id in ["inside", "staff", "shown", "guest"] {
        tenant
            .with_roles("editor")
            .update_person(Person { phone: "0".into(), ..only_person(id) }, &["phone"])
            .await
            .unwrap();
    }
    assert_eq!(change("guest").await, refused, "in no organization");
}

#[tokio::test]
async fn an_organization_moves_only_between_places_in_reach() {
    let (tenant, manager) = scene().await;
    tenant.set_module("contracts", "top", ModuleSetting::Off).await.unwrap();
    let out_of_reach = "OUT_OF_REACH";
    assert_eq!(
        refusal(manager.move_organization("north", "depot").await),
        out_of_reach,
        "out of a parent above the reach"
    );
    assert_eq!(
        refusal(manager.move_organization("depot", "oslo").await),
        out_of_reach,
        "from the top"
    );
    // Which is no question where nothing changes.
    manager.move_organization("north", "top").await.unwrap();
    manager.move_organization("oslo", "lund").await.unwrap();
    // Where an organization is a member's own and lies below another of theirs, its parent is in
    // reach.
    tenant.add_member("lund", "manager").await.unwrap();
    manager.move_organization("lund", "depot").await.unwrap();
    let boss = tenant.person("boss").await;
    tenant.identify(&boss.person_id, "subject-of-boss").await;
    tenant.add_member("top", "boss").await.unwrap();
    tenant.reaching("subject-of-boss", "editor").move_organization("north", "south").await.unwrap();
}
