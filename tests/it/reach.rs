//! Reach: a caller who is not tenant-wide sees what belongs to the organizations of their person
//! and to the organizations below these.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use customer_accounts::{
    policy::Policies,
    proto::{
        Account, CreateOrganizationRequest, CreatePersonRequest, GetOrganizationRequest,
        ListAccountsRequest, ListActivitiesRequest, ListLinkedOrganizationsRequest,
        ListModuleActivationsRequest, ListOrganizationsRequest, ListPeopleRequest, ModuleSetting,
        MoveOrganizationRequest, Organization, Person, UpdatePersonRequest,
    },
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use tonic::{Code, Status};

use crate::support::{
    Tenant, account, assert_same_words,
    calls::{only, only_person, person, preconditions},
    dice::{Dice, seed},
    every_call::{self, descriptor},
    raw::call,
    refusal, refused,
    watch::Watch,
};

impl Tenant {
    /// Makes this identity the person's.
    pub async fn identify(&self, person_id: &str, subject: &str) {
        let person = Person { subject: subject.into(), ..only_person(person_id) };
        self.update_person(person, &["subject"]).await.unwrap();
    }

    /// Two regions with an office each, an account for each of the four, and a manager in charge of
    /// the north.
    pub async fn regions() -> (Self, Self) {
        let tenant = Self::new().await;
        for (id, parent_id) in [("north", ""), ("south", ""), ("oslo", "north"), ("rome", "south")]
        {
            tenant.organization(id, parent_id).await;
            tenant.account(account(&format!("{id}-account"), id)).await;
        }
        tenant.person("manager").await;
        tenant.identify("manager", "subject-of-manager").await;
        tenant.add_member("north", "manager").await.unwrap();
        let manager = tenant.reaching("subject-of-manager", "editor");
        (tenant, manager)
    }

    async fn organizations_seen(&self) -> Vec<String> {
        let request = ListOrganizationsRequest { page_size: 1000, ..Default::default() };
        let organizations = self
            .organizations()
            .list_organizations(request)
            .await
            .unwrap()
            .into_inner()
            .organizations;
        organizations.into_iter().map(|organization| organization.organization_id).collect()
    }

    async fn accounts_seen(&self) -> Vec<String> {
        self.list(ListAccountsRequest { page_size: 1000, ..Default::default() }).await
    }

    async fn people_seen(&self) -> Vec<String> {
        self.list_people(ListPeopleRequest { page_size: 1000, ..Default::default() }).await
    }

    async fn create_below(&self, id: &str, parent_id: &str) -> Result<Organization, Status> {
        let (organization_id, display_name) = (id.to_owned(), id.to_owned());
        let organization = Organization {
            organization_id,
            display_name,
            parent_id: parent_id.into(),
            ..Default::default()
        };
        let request =
            CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        self.organizations()
            .create_organization(request)
            .await
            .map(|response| response.into_inner().organization.unwrap())
    }

    async fn create_member(&self, person: Person, organization_id: &str) -> Result<Person, Status> {
        let request = CreatePersonRequest {
            person: Some(person),
            organization_id: organization_id.into(),
            ..Default::default()
        };
        self.people()
            .create_person(request)
            .await
            .map(|response| response.into_inner().person.unwrap())
    }
}

#[tokio::test]
async fn a_regional_manager_sees_the_accounts_of_the_region_and_below() {
    let (tenant, manager) = Tenant::regions().await;
    assert_eq!(manager.accounts_seen().await, ["north-account", "oslo-account"]);
    assert_eq!(manager.organizations_seen().await, ["north", "oslo"]);
    assert_eq!(manager.people_seen().await, ["manager"]);
    manager.get("oslo-account").await.unwrap();
    let (elsewhere, nowhere) = (
        manager.get("rome-account").await.unwrap_err(),
        manager.get("none-account").await.unwrap_err(),
    );
    assert_eq!(elsewhere.code(), Code::NotFound);
    assert_same_words("GetAccount", (&elsewhere, "rome-account"), (&nowhere, "none-account"));

    // An office that moves is in reach where it is.
    tenant.move_organization("rome", "north").await.unwrap();
    assert_eq!(manager.accounts_seen().await, ["north-account", "oslo-account", "rome-account"]);
    tenant.move_organization("oslo", "south").await.unwrap();
    assert_eq!(manager.accounts_seen().await, ["north-account", "rome-account"]);
}

#[tokio::test]
async fn without_an_active_person_in_an_organization_nothing_is_in_reach() {
    let (tenant, manager) = Tenant::regions().await;
    let stranger = tenant.reaching("nobody's subject", "editor");
    assert!(stranger.accounts_seen().await.is_empty() && stranger.people_seen().await.is_empty());
    assert_eq!(refusal(stranger.get("north-account").await), "ACCOUNT_NOT_FOUND");

    tenant.update_person(only_person("manager"), &["active"]).await.unwrap();
    assert!(manager.accounts_seen().await.is_empty() && manager.people_seen().await.is_empty());
    tenant
        .update_person(Person { active: Some(true), ..only_person("manager") }, &["active"])
        .await
        .unwrap();
    tenant.remove_member("north", "manager").await.unwrap();
    assert!(manager.accounts_seen().await.is_empty());
    assert_eq!(manager.people_seen().await, ["manager"], "everyone sees themselves");
}

#[tokio::test]
async fn administrators_and_tenant_wide_callers_see_everything() {
    let (tenant, manager) = Tenant::regions().await;
    let all = ["north-account", "oslo-account", "rome-account", "south-account"];
    assert_eq!(tenant.reaching("nobody's subject", "admin").accounts_seen().await, all);
    assert_eq!(tenant.with_roles("viewer").accounts_seen().await, all);
    assert_eq!(
        manager.with_roles("viewer").accounts_seen().await,
        ["north-account", "oslo-account"]
    );
}

#[tokio::test]
async fn what_is_created_or_moved_stays_in_reach() {
    let (tenant, manager) = Tenant::regions().await;
    let out_of_reach = "OUT_OF_REACH";
    assert_eq!(refusal(manager.create_below("lund", "").await), out_of_reach);
    assert_eq!(refusal(manager.move_organization("oslo", "").await), out_of_reach);
    assert_eq!(refusal(manager.create_below("lund", "south").await), "ORGANIZATION_NOT_FOUND");
    assert_eq!(refusal(manager.move_organization("oslo", "south").await), "ORGANIZATION_NOT_FOUND");
    manager.create_below("lund", "oslo").await.unwrap();
    manager.move_organization("lund", "north").await.unwrap();
    assert_eq!(manager.organizations_seen().await, ["lund", "north", "oslo"]);

    assert_eq!(refusal(manager.create_member(person("ann"), "").await), out_of_reach);
    let elsewhere = manager.create_member(person("ann"), "rome").await;
    assert_eq!(refusal(elsewhere), "ORGANIZATION_NOT_FOUND");
    manager.create_member(person("ann"), "oslo").await.unwrap();
    assert_eq!(tenant.members("oslo", false).await.unwrap(), ["ann"]);

    let elsewhere = manager.try_account(account("new", "rome")).await;
    assert_eq!(refusal(elsewhere), "ORGANIZATION_NOT_FOUND");
    let moved = Account { organization_id: "rome".into(), ..only("oslo-account") };
    assert_eq!(refusal(manager.update(moved, &[]).await), "ORGANIZATION_NOT_FOUND");
    manager
        .update(Account { organization_id: "lund".into(), ..only("oslo-account") }, &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn nobody_extends_their_own_reach() {
    let (tenant, manager) = Tenant::regions().await;
    let out_of_reach = "OUT_OF_REACH";
    // A person in reach who is also a member outside it: a caller who took over their subject would
    // reach that organization as well.
    for id in ["both", "inside"] {
        tenant.person(id).await;
    }
    for organization_id in ["oslo", "south"] {
        tenant.add_member(organization_id, "both").await.unwrap();
    }
    let given_up = Person { subject: String::new(), ..only_person("manager") };
    assert_eq!(refusal(manager.update_person(given_up, &["subject"]).await), out_of_reach);
    let taken = Person { subject: "another subject".into(), ..only_person("both") };
    assert_eq!(refusal(manager.update_person(taken.clone(), &["subject"]).await), out_of_reach);
    let born = Person { person_id: "new".into(), display_name: "n".into(), ..taken };
    assert_eq!(refusal(manager.create_member(born, "oslo").await), out_of_reach);
    assert_eq!(refusal(manager.add_member("south", "manager").await), "ORGANIZATION_NOT_FOUND");
    // Nor does anybody give or take the reach of others by their active flag.
    tenant.add_member("oslo", "inside").await.unwrap();
    let deactivated = manager.update_person(only_person("inside"), &["active"]).await;
    assert_eq!(refusal(deactivated), out_of_reach);
    tenant.update_person(only_person("inside"), &["active"]).await.unwrap();
    let active = Person { active: Some(true), phone: "1".into(), ..only_person("inside") };
    assert_eq!(refusal(manager.update_person(active.clone(), &["active"]).await), out_of_reach);
    // With both as they are, the rest can be changed.
    manager.update_person(active, &["phone"]).await.unwrap();
}

#[tokio::test]
async fn people_are_in_reach_with_the_accounts_they_are_shown_on() {
    let (tenant, manager) = Tenant::regions().await;
    for id in ["added", "linked", "hidden"] {
        tenant.person(id).await;
    }
    tenant.staff("staff").await;
    for id in ["linked", "hidden"] {
        tenant.add_member("rome", id).await.unwrap();
    }
    assert_eq!(manager.people_seen().await, ["manager"]);
    tenant.add_user("oslo-account", "added").await;
    tenant
        .update(Account { account_manager_id: "staff".into(), ..only("oslo-account") }, &[])
        .await
        .unwrap();
    assert_eq!(manager.people_seen().await, ["added", "manager", "staff"]);
    tenant.link("oslo-account", "south", true).await.unwrap();
    assert_eq!(manager.people_seen().await, ["added", "hidden", "linked", "manager", "staff"]);
    // But not what else they belong to.
    let members = ListPeopleRequest { organization_id: "rome".into(), ..Default::default() };
    assert!(manager.list_people(members).await.is_empty());
    tenant.add_user("rome-account", "added").await;
    let accounts = manager.accounts_of("added").await;
    assert_eq!(
        accounts.iter().map(|account| &*account.account_id).collect::<Vec<_>>(),
        ["oslo-account"]
    );
}

#[tokio::test]
async fn a_refusal_names_no_account_out_of_reach() {
    let (tenant, manager) = Tenant::regions().await;
    tenant.person("contact").await;
    tenant.add_member("oslo", "contact").await.unwrap();
    for id in ["oslo-account", "rome-account"] {
        tenant.link(id, "oslo", false).await.unwrap();
        tenant
            .update(Account { billing_contact_id: "contact".into(), ..only(id) }, &[])
            .await
            .unwrap();
    }
    let slot = |id: &str| ("CONTACT_SLOT_HELD".to_owned(), format!("account/{id}/billing_contact"));
    let refusal = tenant.remove_member("oslo", "contact").await;
    assert_eq!(preconditions(refusal), [slot("oslo-account"), slot("rome-account")]);
    let refusal = manager.remove_member("oslo", "contact").await;
    assert_eq!(preconditions(&refusal), [slot("oslo-account")]);
    let (status, details) = refused(refusal);
    assert_eq!(details.error_info().unwrap().metadata["slots"], "2");
    assert!(!format!("{status:?}").contains("rome-account"), "{status:?}");
}

#[tokio::test]
async fn the_trail_is_shown_as_far_as_the_reach() {
    let (tenant, manager) = Tenant::regions().await;
    let seen = async |tenant: &Tenant| {
        let request = ListActivitiesRequest { page_size: 1000, ..Default::default() };
        let activities =
            tenant.activities().list_activities(request).await.unwrap().into_inner().activities;
        activities.into_iter().map(|activity| activity.resource_id).collect::<BTreeSet<_>>()
    };
    let north = ["north", "north-account", "oslo", "oslo-account"].map(str::to_owned);
    assert_eq!(seen(&manager).await, north.into());
    assert!(seen(&tenant).await.len() > 8);

    let mut watch = Watch::open(&manager, "", "").await.unwrap();
    watch.next().await.unwrap();
    for id in ["rome-account", "oslo-account", "south-account", "north-account"] {
        tenant.update(Account { comment: "c".into(), ..only(id) }, &[]).await.unwrap();
    }
    assert_eq!(updates(&mut watch, "north-account").await, ["oslo-account", "north-account"]);
    // Reach is looked up again and again while the watch goes on.
    tenant.move_organization("rome", "north").await.unwrap();
    tenant.update(Account { comment: "d".into(), ..only("rome-account") }, &[]).await.unwrap();
    assert_eq!(updates(&mut watch, "rome-account").await, ["rome", "rome-account"]);
}

/// What a watch tells of updates up to this one. It may begin with what was made a moment before.
async fn updates(watch: &mut Watch, last: &str) -> Vec<String> {
    let mut told = Vec::new();
    while told.last().is_none_or(|id| id != last) {
        let activities = watch.next().await.unwrap();
        told.extend(
            activities
                .into_iter()
                .filter(|it| it.action.ends_with(".updated"))
                .map(|it| it.resource_id),
        );
    }
    told
}

#[tokio::test]
async fn what_organizations_have_set_is_shown_as_far_as_the_reach() {
    let (tenant, manager) = Tenant::regions().await;
    for organization_id in ["oslo", "rome"] {
        tenant.set_module("contracts", organization_id, ModuleSetting::Off).await.unwrap();
    }
    let list = async |tenant: &Tenant, organization_id: &str| {
        let request = ListModuleActivationsRequest {
            organization_id: organization_id.into(),
            ..Default::default()
        };
        tenant.tenants().list_module_activations(request).await.map(|response| {
            let activations = response.into_inner().module_activations;
            activations.into_iter().map(|activation| activation.organization_id).collect::<Vec<_>>()
        })
    };
    assert_eq!(list(&tenant, "").await.unwrap(), ["oslo", "rome"]);
    assert_eq!(list(&manager, "").await.unwrap(), ["oslo"]);
    assert_eq!(refusal(list(&manager, "rome").await), "ORGANIZATION_NOT_FOUND");
}

/// Whether the answer of a call does not depend on reach: account types belong to the tenant, and
/// the roles that may delete or configure are tenant-wide.
fn reaches_further(method: &str, permission: &str) -> bool {
    method.starts_with("AccountTypeService/")
        || ["delete", "configure"].iter().any(|verb| permission.ends_with(verb))
}

#[tokio::test]
async fn what_is_out_of_reach_is_word_for_word_like_what_never_existed() {
    let tenant = Tenant::new().await;
    // As long as an id that nobody has, so that the encoded details are, too.
    let (hidden, free) = ("hidden-id", "nobody-id");
    for id in ["own", hidden] {
        every_call::everything(&tenant, id).await;
    }
    tenant.identify("own", "own-subject").await;
    let policies = Policies::read().unwrap();
    let tenant_id = tenant.caller.tenant.clone();
    let identity: [(&str, &[u8]); 4] = [
        ("x-tenant-id", tenant_id.as_bytes()),
        ("x-actor", b"own-subject"),
        ("x-roles", b"editor"),
        ("x-tenant-wide", b"false"),
    ];
    let (mut asked, mut listed) = (0, 0);
    for ((method, hidden_request), (_, free_request)) in
        every_call::asks_for(hidden).into_iter().zip(every_call::asks_for(free))
    {
        let policy = policies.get(&format!("/accounts.v1.{method}")).unwrap();
        if reaches_further(method, policy.permission) {
            continue;
        }
        let nothing = call(&tenant.channel, method, &identity, &free_request).await.unwrap_err();
        // Account types are not bound to an organization.
        if nothing.message().contains("account type") {
            continue;
        }
        let answer =
            call(&tenant.channel, method, &identity, &hidden_request).await.expect_err(method);
        assert_eq!(answer.code(), Code::NotFound, "{method}: {answer:?}");
        assert_same_words(method, (&answer, hidden), (&nothing, free));
        asked += 1;
    }
    for ((method, hidden_request), (_, free_request)) in
        every_call::lists(hidden).into_iter().zip(every_call::lists(free))
    {
        if reaches_further(method, "accounts.read") {
            continue;
        }
        let shown = call(&tenant.channel, method, &identity, &hidden_request).await.unwrap();
        let text = shown
            .iter()
            .map(|message| String::from_utf8_lossy(message).into_owned())
            .collect::<String>();
        assert!(!text.contains(hidden), "{method}: {text}");
        if !String::from_utf8_lossy(&hidden_request).contains("account_type") {
            let nothing = call(&tenant.channel, method, &identity, &free_request).await.unwrap();
            assert_eq!(shown, nothing, "{method}");
        }
        listed += 1;
    }
    assert!(asked >= 40 && listed >= 14, "{asked} {listed}");

    // The organization above the caller's own is out of reach, although its descendant `own` is in
    // reach.
    let above = "above-own";
    tenant.organization(above, "").await;
    tenant.move_organization("own", above).await.unwrap();
    let mut listed = 0;
    for ((method, above_request), (_, free_request)) in
        every_call::lists(above).into_iter().zip(every_call::lists(free))
    {
        // Each organization names the one above it, so it may be found by that.
        if reaches_further(method, "accounts.read") || method.ends_with("/ListOrganizations") {
            continue;
        }
        let shown = call(&tenant.channel, method, &identity, &above_request).await.unwrap();
        let nothing = call(&tenant.channel, method, &identity, &free_request).await.unwrap();
        assert_eq!(shown, nothing, "{method}");
        listed += 1;
    }
    assert!(listed >= 10, "{listed}");
}

/// What a caller must not learn about resources out of reach: a word in their texts, and a time
/// that lists are ordered by.
struct Secrets {
    word: &'static str,
    time: String,
}

impl Secrets {
    /// Whether something of it is in an answer or an error.
    fn is_in(&self, bytes: &[u8]) -> bool {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        text.contains(self.word) || text.contains(&self.time)
    }
}

/// A tenant in which the person `own` reaches the account `own`. Outside their reach are the
/// organization above, a linked organization, and the account that the person uses and buys on.
async fn secrets() -> (Tenant, Secrets) {
    const WORD: &str = "secretword";
    let tenant = Tenant::new().await;
    for id in ["own", "hidden-id"] {
        every_call::everything(&tenant, id).await;
    }
    tenant.identify("own", "own-subject").await;
    for id in ["above", "linked"] {
        tenant.organization(id, "").await;
    }
    for id in ["above", "linked", "hidden-id"] {
        tenant.rename(id, WORD).await.unwrap();
    }
    let fields = Account { display_name: WORD.into(), comment: WORD.into(), ..only("hidden-id") };
    tenant.update(fields, &["display_name", "comment"]).await.unwrap();
    let fields =
        Person { display_name: WORD.into(), phone: WORD.into(), ..only_person("hidden-id") };
    tenant.update_person(fields, &["display_name", "phone"]).await.unwrap();
    tenant.move_organization("own", "above").await.unwrap();
    tenant.set_module("contracts", "above", ModuleSetting::Off).await.unwrap();
    tenant.link("own", "linked", true).await.unwrap();
    tenant.add_user("hidden-id", "own").await;
    tenant.buys_on("own", "hidden-id").await.unwrap();
    let request = GetOrganizationRequest { organization_id: "linked".into() };
    let linked = tenant
        .organizations()
        .get_organization(request)
        .await
        .unwrap()
        .into_inner()
        .organization
        .unwrap();
    let time = linked.create_time.unwrap();
    let time = (time.seconds * 1_000_000 + i64::from(time.nanos / 1000)).to_string();
    (tenant, Secrets { word: WORD, time })
}

/// The request of a call with this in a field, if it has the field.
fn with(method: &str, request: &[u8], field: &str, value: Value) -> Vec<u8> {
    let input = descriptor(method).input();
    let mut message = DynamicMessage::decode(input.clone(), request).unwrap();
    if input.get_field_by_name(field).is_some() {
        message.set_field_by_name(field, value);
    }
    message.encode_to_vec()
}

#[tokio::test]
async fn nothing_but_ids_of_what_is_out_of_reach_is_told() {
    let (tenant, secrets) = secrets().await;
    let tenant_id = tenant.caller.tenant.clone();
    let identity: [(&str, &[u8]); 4] = [
        ("x-tenant-id", tenant_id.as_bytes()),
        ("x-actor", b"own-subject"),
        ("x-roles", b"editor"),
        ("x-tenant-wide", b"false"),
    ];
    let asked = ["own", "hidden-id", "linked"]
        .map(|id| [every_call::asks_for(id), every_call::lists(id)].concat())
        .concat();
    let (mut answers, mut tokens) = (0, 0);
    for (method, request) in asked {
        let output = descriptor(method).output();
        let pages = output.get_field_by_name("next_page_token").is_some();
        for order_by in if pages { 1..=8 } else { 0..=0 } {
            // What would change something keeps nothing, and a list is read row by row.
            let request = with(method, &request, "validate_only", Value::Bool(true));
            let request = with(method, &request, "page_size", Value::I32(1));
            let mut request = with(method, &request, "order_by", Value::EnumNumber(order_by));
            loop {
                let answer = match call(&tenant.channel, method, &identity, &request).await {
                    Ok(messages) => messages.into_iter().next().unwrap_or_default(),
                    Err(status) => {
                        assert!(
                            !secrets.is_in(status.message().as_bytes())
                                && !secrets.is_in(status.details()),
                            "{method}: {status:?}"
                        );
                        break;
                    }
                };
                answers += 1;
                assert!(!secrets.is_in(&answer), "{method}: {}", String::from_utf8_lossy(&answer));
                let message = DynamicMessage::decode(output.clone(), &*answer).unwrap();
                let token = message.get_field_by_name("next_page_token");
                let Some(token) = token
                    .as_ref()
                    .and_then(|token| token.as_str())
                    .filter(|token| !token.is_empty())
                else {
                    break;
                };
                let position = URL_SAFE_NO_PAD.decode(token).unwrap();
                assert!(
                    !secrets.is_in(&position),
                    "{method}: {}",
                    String::from_utf8_lossy(&position)
                );
                tokens += 1;
                request = with(method, &request, "page_token", Value::String(token.to_owned()));
            }
        }
    }
    assert!(answers > 60 && tokens > 20, "{answers} answers, {tokens} tokens");
}

#[tokio::test]
async fn linked_organizations_out_of_reach_are_listed_by_their_ids() {
    let (tenant, manager) = Tenant::regions().await;
    for (id, name) in [("z", "A first name"), ("y", "The last name"), ("x", "Middle")] {
        tenant.organization(id, "").await;
        tenant.rename(id, name).await.unwrap();
        tenant.link("oslo-account", id, false).await.unwrap();
    }
    tenant.link("oslo-account", "north", false).await.unwrap();
    let list = async |tenant: &Tenant, order_by: i32, page_size: i32| {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let account_id = "oslo-account".into();
            let request = ListLinkedOrganizationsRequest {
                account_id,
                page_size,
                page_token,
                order_by,
                ..Default::default()
            };
            let page =
                tenant.memberships().list_linked_organizations(request).await.unwrap().into_inner();
            all.extend(
                page.linked_organizations
                    .into_iter()
                    .map(|link| (link.organization_id, link.display_name)),
            );
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    };
    let expected =
        |rows: [(&str, &str); 5]| rows.map(|(id, name)| (id.to_owned(), name.to_owned()));
    for page_size in [1, 2, 50] {
        // Without a name in the order of names, and made when they were linked in the order of
        // creation.
        let by_name = [("x", ""), ("y", ""), ("z", ""), ("north", "north"), ("oslo", "oslo")];
        let by_time = [("north", "north"), ("oslo", "oslo"), ("z", ""), ("y", ""), ("x", "")];
        for (order_by, mut rows) in [(1, by_name), (2, by_name), (3, by_time), (4, by_time)] {
            if order_by % 2 == 0 {
                rows.reverse();
            }
            assert_eq!(
                list(&manager, order_by, page_size).await,
                expected(rows),
                "order {order_by} by {page_size}"
            );
        }
        let whole = [
            ("z", "A first name"),
            ("x", "Middle"),
            ("north", "north"),
            ("oslo", "oslo"),
            ("y", "The last name"),
        ];
        assert_eq!(list(&tenant, 1, page_size).await, expected(whole));
    }
    // A caller who reaches one of the organizations later reads its name.
    tenant.move_organization("x", "north").await.unwrap();
    assert!(list(&manager, 1, 50).await.contains(&("x".to_owned(), "Middle".to_owned())));
}

const ORGANIZATIONS: u64 = 12;
const ACCOUNTS: u64 = 14;
const PEOPLE: u64 = 8;

/// What is in reach, as simply as can be said.
#[derive(Default)]
struct Model {
    parents: BTreeMap<String, String>,
    members: BTreeSet<(String, String)>,
    accounts: BTreeMap<String, String>,
    links: BTreeMap<(String, String), bool>,
    users: BTreeSet<(String, String)>,
    managers: BTreeMap<String, String>,
}

impl Model {
    fn is_below(&self, organization: &str, top: &str) -> bool {
        let mut at = organization;
        while at != top && !at.is_empty() {
            at = &self.parents[at];
        }
        at == top
    }

    fn organizations(&self, person: &str) -> BTreeSet<String> {
        let roots: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member == person)
            .map(|(root, _)| root)
            .collect();
        self.parents
            .keys()
            .filter(|id| roots.iter().any(|root| self.is_below(id, root)))
            .cloned()
            .collect()
    }

    fn accounts(&self, person: &str) -> BTreeSet<String> {
        let organizations = self.organizations(person);
        self.accounts
            .iter()
            .filter(|(_, organization)| organizations.contains(*organization))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn is_through(&self, account: &str, person: &str) -> bool {
        let own = (self.accounts[account].clone(), false);
        let linked = self.links.iter().filter(|((id, _), _)| id == account);
        linked.map(|((_, organization), below)| (organization.clone(), *below)).chain([own]).any(
            |(top, below)| {
                self.members.iter().any(|(organization, member)| {
                    member == person
                        && (*organization == top || below && self.is_below(organization, &top))
                })
            },
        )
    }

    /// Whether the caller is in charge of a person: everything they belong to is in the caller's
    /// reach.
    fn is_in_charge(&self, caller: &str, person: &str) -> bool {
        let (organizations, accounts) = (self.organizations(caller), self.accounts(caller));
        let mut memberships =
            self.members.iter().filter(|(_, member)| member == person).map(|(at, _)| at).peekable();
        let used = self.users.iter().filter(|(_, user)| user == person).map(|(account, _)| account);
        let managed = self
            .managers
            .iter()
            .filter(|(_, manager)| *manager == person)
            .map(|(account, _)| account);
        memberships.peek().is_some()
            && memberships.all(|at| organizations.contains(at))
            && used.chain(managed).all(|account| accounts.contains(account))
    }

    fn people(&self, caller: &str) -> BTreeSet<String> {
        let (organizations, accounts) = (self.organizations(caller), self.accounts(caller));
        let member = |person: &str| {
            self.members.iter().any(|(at, who)| who == person && organizations.contains(at))
        };
        let shown = |person: &str| {
            accounts.iter().any(|account| {
                self.users.contains(&(account.clone(), person.to_owned()))
                    || self.is_through(account, person)
                    || self.managers.get(account).is_some_and(|manager| manager == person)
            })
        };
        (0..PEOPLE)
            .map(|i| format!("p{i}"))
            .filter(|id| id == caller || member(id) || shown(id))
            .collect()
    }
}

impl Tenant {
    /// Makes a random change in the service and in the model. What the service refuses is not made
    /// in the model either.
    async fn change(&self, dice: &mut Dice, model: &mut Model) {
        let mut one = |prefix: &str, of: u64| format!("{prefix}{}", dice.roll(of));
        let (organization, other) = (one("o", ORGANIZATIONS), one("o", ORGANIZATIONS));
        let (account, person, staff) =
            (one("a", ACCOUNTS), one("p", PEOPLE - 2), format!("p{}", PEOPLE - 1 - dice.roll(2)));
        let with = dice.roll(2) == 0;
        match dice.roll(7) {
            0 if self.move_organization(&organization, &other).await.is_ok() => {
                model.parents.insert(organization, other);
            }
            1 if self.add_member(&organization, &person).await.is_ok() => {
                model.members.insert((organization, person));
            }
            2 if self.remove_member(&organization, &person).await.is_ok() => {
                model.members.remove(&(organization, person));
            }
            3 if self.link(&account, &organization, with).await.is_ok() => {
                // The link of its own organization covers more, and stays when the account moves
                // only as far as it is its own.
                if model.accounts[&account] != organization {
                    model.links.insert((account, organization), with);
                } else if with {
                    self.link(&account, &organization, false).await.unwrap();
                }
            }
            4 if !model.users.contains(&(account.clone(), person.clone())) => {
                self.add_user(&account, &person).await;
                model.users.insert((account, person));
            }
            5 if self.remove_user(&account, &person, "").await.is_ok() => {
                model.users.remove(&(account, person));
            }
            6 => {
                let manager = Account { account_manager_id: staff.clone(), ..only(&account) };
                self.update(manager, &[]).await.unwrap();
                model.managers.insert(account, staff);
            }
            _ => {}
        }
    }

    /// Compares everything that the person sees with the model.
    async fn compare(&self, model: &Model, person: &str) {
        let caller = self.reaching(&format!("subject-of-{person}"), "viewer");
        let (organizations, accounts, people) =
            (model.organizations(person), model.accounts(person), model.people(person));
        let set = |ids: Vec<String>| ids.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(
            set(caller.organizations_seen().await),
            organizations,
            "organizations that {person} sees"
        );
        assert_eq!(set(caller.accounts_seen().await), accounts, "accounts that {person} sees");
        assert_eq!(set(caller.people_seen().await), people, "people whom {person} sees");
        for id in model.parents.keys() {
            let request = GetOrganizationRequest { organization_id: id.clone() };
            let got = caller.organizations().get_organization(request).await;
            assert_eq!(got.is_ok(), organizations.contains(id), "{person} gets {id}");
        }
        for id in model.accounts.keys() {
            assert_eq!(caller.get(id).await.is_ok(), accounts.contains(id), "{person} gets {id}");
        }
        let editor = caller.with_roles("editor");
        for id in (0..PEOPLE).map(|i| format!("p{i}")) {
            assert_eq!(
                caller.get_person(&id).await.is_ok(),
                people.contains(&id),
                "{person} gets {id}"
            );
            let request = UpdatePersonRequest {
                person: Some(Person { phone: "1".into(), ..only_person(&id) }),
                validate_only: true,
                ..Default::default()
            };
            let changed = editor.people().update_person(request).await;
            let refused = changed.is_err().then(|| refusal(changed));
            let expected = if model.is_in_charge(person, &id) {
                None
            } else if people.contains(&id) {
                Some("OUT_OF_REACH")
            } else {
                Some("PERSON_NOT_FOUND")
            };
            assert_eq!(refused.as_deref(), expected, "{person} changes {id}");
        }
        let Some(top) = organizations.first() else { return };
        for id in &organizations {
            let (organization_id, parent_id) = (id.clone(), top.clone());
            let request = MoveOrganizationRequest {
                organization_id,
                parent_id,
                validate_only: true,
                ..Default::default()
            };
            let moved = editor.organizations().move_organization(request).await;
            let refused = moved.is_err_and(|status| refusal(status) == "OUT_OF_REACH");
            let (parent, stays) = (&model.parents[id], model.parents[id] == *top);
            assert_eq!(
                refused,
                !stays && !organizations.contains(parent),
                "{person} moves {id} out of {parent:?}"
            );
        }
    }
}

#[tokio::test]
async fn reach_is_what_a_naive_model_says() {
    compare_with_model(seed()).await;
}

#[tokio::test]
async fn a_user_on_whom_nothing_is_set_elsewhere_is_in_charge_of_themselves() {
    // It removes an individual user who remains one through an organization.
    compare_with_model(11_252_560_142_902_995_826).await;
}

async fn compare_with_model(seed: u64) {
    let (mut dice, mut model) = (Dice::seeded(seed), Model::default());
    let tenant = Tenant::new().await;
    for i in 0..ORGANIZATIONS {
        let parent = if i < 3 { String::new() } else { format!("o{}", dice.roll(i)) };
        tenant.organization(&format!("o{i}"), &parent).await;
        model.parents.insert(format!("o{i}"), parent);
    }
    for i in 0..PEOPLE {
        let id = format!("p{i}");
        let created =
            if i < PEOPLE - 2 { tenant.person(&id).await } else { tenant.staff(&id).await };
        tenant.identify(&created.person_id, &format!("subject-of-{id}")).await;
        let organization = format!("o{}", dice.roll(ORGANIZATIONS));
        tenant.add_member(&organization, &id).await.unwrap();
        model.members.insert((organization, id));
    }
    for i in 0..ACCOUNTS {
        let organization = format!("o{}", dice.roll(ORGANIZATIONS));
        tenant.account(account(&format!("a{i}"), &organization)).await;
        model.accounts.insert(format!("a{i}"), organization);
    }
    for _ in 0..6 {
        for _ in 0..12 {
            tenant.change(&mut dice, &mut model).await;
        }
        let person = format!("p{}", dice.roll(PEOPLE));
        tenant.compare(&model, &person).await;
    }
}
