//! Modules: what is denied when one is switched off, for the tenant or for an office, and what is
//! not.

use std::collections::BTreeSet;

use customer_accounts::proto::{
    Account, BatchGetAccountsRequest, CreateAccountRequest, CreateOrganizationRequest,
    ListAccountsRequest, ListModuleActivationsRequest, ListOrganizationsRequest, ListPeopleRequest,
    ListPersonAccountsRequest, ModuleLevel,
    ModuleSetting::{Inherited, Off, On, Unspecified},
    ModuleState, Organization, SetModuleActivationRequest,
};
use futures_util::future::join_all;
use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    Refused, Tenant, account,
    calls::{fields, only},
    has_real_server, refusal, refused, shared, sql,
};

const MODULE: &str = "customer_accounts";
pub const ALL: [&str; 4] = ["commerce", "contracts", "customer_accounts", "portfolios"];

/// Module, level and organization of a denial.
#[track_caller]
pub fn denial(answer: impl Refused) -> (String, String, Option<String>) {
    assert_eq!(refusal(&answer), "MODULE_NOT_ACTIVATED");
    let (_, details) = refused(answer);
    let info = details.error_info().unwrap();
    (
        info.metadata["module"].clone(),
        info.metadata["level"].clone(),
        info.metadata.get("organization_id").cloned(),
    )
}

fn by_organization(id: &str) -> (String, String, Option<String>) {
    (MODULE.into(), "ORGANIZATION".into(), Some(id.into()))
}

pub fn by_tenant(module: &str) -> (String, String, Option<String>) {
    (module.into(), "TENANT".into(), None)
}

impl Tenant {
    /// The state of the module for an organization: whether it is on, and the organization that
    /// decides, or none.
    async fn state(&self, organization_id: &str) -> (bool, String) {
        let (organization_id, module) = (organization_id.into(), MODULE.into());
        let request =
            ListModuleActivationsRequest { organization_id, module, ..Default::default() };
        let states = self
            .tenants()
            .list_module_activations(request)
            .await
            .unwrap()
            .into_inner()
            .module_states;
        let [state] = &*states else { panic!("{states:?}") };
        let level = if state.organization_id.is_empty() {
            ModuleLevel::Tenant
        } else {
            ModuleLevel::Organization
        };
        assert_eq!(state.level(), level);
        (state.active, state.organization_id.clone())
    }

    /// Region and offices, each with an account; `ann` is a customer's person in both offices.
    pub async fn offices(&self) {
        self.person("ann").await;
        self.organization("region", "").await;
        for (office, account_id) in [("office", "a"), ("branch", "b")] {
            self.organization(office, "region").await;
            self.add_member(office, "ann").await.unwrap();
            self.account(account(account_id, office)).await;
        }
    }

    async fn list_organizations(
        &self,
        request: ListOrganizationsRequest,
    ) -> Result<Vec<String>, Status> {
        let organizations =
            self.organizations().list_organizations(request).await?.into_inner().organizations;
        Ok(organizations.into_iter().map(|organization| organization.organization_id).collect())
    }

    async fn batch(&self, ids: &[&str]) -> Result<usize, Status> {
        let account_ids = ids.iter().map(ToString::to_string).collect();
        let answer =
            self.accounts().batch_get_accounts(BatchGetAccountsRequest { account_ids }).await;
        answer.map(|response| response.into_inner().accounts.len())
    }
}

#[tokio::test]
async fn an_office_that_is_off_is_denied_and_its_siblings_are_not() {
    let tenant = Tenant::new().await;
    tenant.offices().await;
    let off = tenant.set_module(MODULE, "office", Off).await.unwrap();
    let (level, organization_id) = (ModuleLevel::Organization.into(), "office".into());
    assert_eq!(off, ModuleState { module: MODULE.into(), active: false, level, organization_id });
    assert_eq!(denial(tenant.get("a").await), by_organization("office"));
    assert_eq!(
        denial(tenant.update(Account { comment: "c".into(), ..only("a") }, &[]).await),
        by_organization("office")
    );
    assert_eq!(denial(tenant.delete("a", "").await), by_organization("office"));
    assert_eq!(denial(tenant.batch(&["b", "a"]).await), by_organization("office"));
    assert_eq!(
        denial(tenant.try_account(account("new", "office")).await),
        by_organization("office")
    );
    let into = Account { organization_id: "office".into(), ..only("b") };
    assert_eq!(
        denial(tenant.update(into, &[]).await),
        by_organization("office"),
        "nothing moves there"
    );
    let (status, _) = refused(tenant.get("a").await);
    assert_eq!(
        status.message(),
        "the module customer_accounts is off for organization \"office\" and what inherits from it"
    );

    assert_eq!(tenant.get("b").await.unwrap().organization_id, "branch");
    assert_eq!(tenant.batch(&["b"]).await.unwrap(), 1);
    tenant.account(account("new", "branch")).await;
    assert_eq!(tenant.list(ListAccountsRequest::default()).await, ["b", "new"]);
    let above = ListAccountsRequest {
        organization_id: "region".into(),
        include_descendants: true,
        ..Default::default()
    };
    assert_eq!(tenant.list(above).await, ["b", "new"]);
    assert_eq!(
        tenant.list(ListAccountsRequest { query: "account".into(), ..Default::default() }).await,
        ["b", "new"]
    );
    assert_eq!(
        tenant.list_organizations(ListOrganizationsRequest::default()).await.unwrap(),
        ["branch", "region"]
    );
    let anns = ListPersonAccountsRequest { person_id: "ann".into(), ..Default::default() };
    let anns = tenant.memberships().list_person_accounts(anns).await.unwrap().into_inner().accounts;
    assert_eq!(anns.iter().map(|row| &*row.account_id).collect::<Vec<_>>(), ["b", "new"]);

    // Another module is another matter.
    for other in ["commerce", "contracts", "portfolios"] {
        tenant.set_module(other, "", Off).await.unwrap();
        tenant.set_module(other, "branch", Off).await.unwrap();
    }
    tenant.get("b").await.unwrap();
    tenant.set_module(MODULE, "office", On).await.unwrap();
    assert_eq!(tenant.list(ListAccountsRequest::default()).await, ["a", "b", "new"]);
    tenant.get("a").await.unwrap();
}

#[tokio::test]
async fn a_list_of_what_is_off_is_denied() {
    let tenant = Tenant::new().await;
    tenant.offices().await;
    tenant.set_module(MODULE, "office", Off).await.unwrap();
    let organization_id = || "office".to_owned();
    let accounts = ListAccountsRequest { organization_id: organization_id(), ..Default::default() };
    assert_eq!(denial(tenant.accounts().list_accounts(accounts).await), by_organization("office"));
    let people = ListPeopleRequest { organization_id: organization_id(), ..Default::default() };
    assert_eq!(denial(tenant.people().list_people(people).await), by_organization("office"));
    let below = ListOrganizationsRequest { parent_id: organization_id(), ..Default::default() };
    assert_eq!(denial(tenant.list_organizations(below).await), by_organization("office"));
    assert_eq!(denial(tenant.members("office", false).await), by_organization("office"));
    assert_eq!(tenant.members("branch", false).await.unwrap(), ["ann"]);
}

#[tokio::test]
async fn pages_of_a_list_go_on_behind_what_is_left_out() {
    let tenant = Tenant::new().await;
    tenant.offices().await;
    for n in 0..5 {
        tenant.account(account(&format!("a{n}"), "office")).await;
        tenant.account(account(&format!("b{n}"), "branch")).await;
    }
    tenant.set_module(MODULE, "office", Off).await.unwrap();
    let (mut seen, mut request) =
        (Vec::new(), ListAccountsRequest { page_size: 2, ..Default::default() });
    loop {
        let page = tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
        seen.extend(page.accounts.into_iter().map(|account| account.account_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ["b", "b0", "b1", "b2", "b3", "b4"]);
}

#[tokio::test]
async fn the_nearest_setting_decides_and_the_tenant_above_all() {
    let tenant = Tenant::new().await;
    for (id, above) in [("1", ""), ("2", "1"), ("3", "2"), ("4", "3")] {
        tenant.organization(id, above).await;
        tenant.account(account(id, id)).await;
    }
    let listed = async || tenant.list(ListAccountsRequest::default()).await;
    assert_eq!(tenant.state("4").await, (true, String::new()), "a new tenant has all on");
    tenant.set_module(MODULE, "1", Off).await.unwrap();
    assert_eq!(tenant.state("4").await, (false, "1".into()));
    assert_eq!(denial(tenant.get("4").await), by_organization("1"));
    assert!(listed().await.is_empty());
    tenant.set_module(MODULE, "3", On).await.unwrap();
    assert_eq!(tenant.state("4").await, (true, "3".into()));
    assert_eq!(listed().await, ["3", "4"]);
    tenant.get("4").await.unwrap();
    assert_eq!(denial(tenant.get("2").await), by_organization("1"));
    tenant.set_module(MODULE, "4", Off).await.unwrap();
    assert_eq!(listed().await, ["3"]);

    let off = tenant.set_module(MODULE, "", Off).await.unwrap();
    assert_eq!((off.active, off.level()), (false, ModuleLevel::Tenant));
    assert_eq!(tenant.state("3").await, (false, String::new()), "whatever organizations say");
    assert_eq!(denial(tenant.get("3").await), by_tenant(MODULE));
    assert_eq!(
        denial(tenant.accounts().list_accounts(ListAccountsRequest::default()).await),
        by_tenant(MODULE)
    );
    assert_eq!(
        denial(tenant.get("never").await),
        by_tenant(MODULE),
        "it is not told what there is"
    );
    let (status, _) = refused(tenant.get("3").await);
    assert_eq!(status.message(), "the module customer_accounts is off for the tenant");
    tenant.set_module(MODULE, "", Inherited).await.unwrap();
    assert_eq!(listed().await, ["3"]);

    // A setting that is taken away inherits again.
    let state = tenant.set_module(MODULE, "4", Inherited).await.unwrap();
    assert_eq!((state.active, &*state.organization_id), (true, "3"));
    let state = tenant.set_module(MODULE, "3", Inherited).await.unwrap();
    assert_eq!((state.active, &*state.organization_id), (false, "1"));
    assert!(listed().await.is_empty());
    tenant.set_module(MODULE, "1", Inherited).await.unwrap();
    assert_eq!(tenant.state("4").await, (true, String::new()));
    assert_eq!(listed().await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn who_is_moved_is_as_the_new_parent() {
    let tenant = Tenant::new().await;
    for (id, above) in [("on", ""), ("off", ""), ("x", "on"), ("y", "x"), ("shut", "on")] {
        tenant.organization(id, above).await;
        tenant.account(account(id, id)).await;
    }
    tenant.set_module(MODULE, "off", Off).await.unwrap();
    assert_eq!(
        denial(tenant.move_organization("x", "off").await),
        by_organization("off"),
        "nothing moves where it is off"
    );
    let below =
        Organization { parent_id: "off".into(), display_name: "n".into(), ..Default::default() };
    let below = CreateOrganizationRequest { organization: Some(below), ..Default::default() };
    assert_eq!(
        denial(tenant.organizations().create_organization(below).await),
        by_organization("off")
    );
    // Switched on for the move, and off again.
    tenant.set_module(MODULE, "off", On).await.unwrap();
    tenant.move_organization("x", "off").await.unwrap();
    tenant.set_module(MODULE, "off", Off).await.unwrap();
    assert_eq!(tenant.state("y").await, (false, "off".into()));
    assert_eq!(denial(tenant.get("y").await), by_organization("off"));
    assert_eq!(denial(tenant.move_organization("x", "on").await), by_organization("off"));
    tenant.set_module(MODULE, "x", On).await.unwrap();
    tenant.move_organization("x", "on").await.unwrap();
    tenant.set_module(MODULE, "x", Inherited).await.unwrap();
    assert_eq!(tenant.state("y").await, (true, String::new()));
    assert_eq!(tenant.list(ListAccountsRequest::default()).await, ["on", "shut", "x", "y"]);
}

#[tokio::test]
async fn a_denied_call_leaves_nothing_and_a_repeat_is_denied_too() {
    let tenant = Tenant::new().await;
    tenant.offices().await;
    let request = |id: &str, request_id: &str| CreateAccountRequest {
        account: Some(account(id, "office")),
        request_id: request_id.into(),
        ..Default::default()
    };
    let create = async |request| {
        tenant.accounts().create_account(request).await.map(|it| it.into_inner().account.unwrap())
    };
    let first = create(request("first", "r1")).await.unwrap();
    for organization_id in ["", "office"] {
        tenant.set_module(MODULE, organization_id, Off).await.unwrap();
        let before = tenant.trail().await;
        assert_eq!(denial(create(request("second", "r2")).await).0, MODULE);
        assert_eq!(tenant.trail().await, before);
        if organization_id.is_empty() {
            assert_eq!(
                denial(create(request("first", "r1")).await),
                by_tenant(MODULE),
                "also what was answered before"
            );
            // Wrong in another way as well: the module is said first, and nothing else.
            assert_eq!(denial(create(request("first", "")).await), by_tenant(MODULE));
        }
        tenant.set_module(MODULE, organization_id, On).await.unwrap();
        assert_eq!(refusal(tenant.get("second").await), "ACCOUNT_NOT_FOUND");
        assert_eq!(create(request("first", "r1")).await.unwrap(), first);
    }
    create(request("second", "r2")).await.unwrap();
}

#[tokio::test]
async fn what_is_set_is_listed_page_by_page_and_on_record() {
    let tenant = Tenant::new().await;
    tenant.offices().await;
    let before = tenant.trail().await.len();
    tenant.set_module("contracts", "office", Off).await.unwrap();
    tenant.set_module("contracts", "office", Off).await.unwrap();
    tenant.set_module("contracts", "branch", On).await.unwrap();
    tenant.set_module("commerce", "region", Off).await.unwrap();
    tenant.set_module("portfolios", "", Off).await.unwrap();
    let list = async |request: ListModuleActivationsRequest| {
        tenant.tenants().list_module_activations(request).await.unwrap().into_inner()
    };
    let mut request = ListModuleActivationsRequest { page_size: 1, ..Default::default() };
    let mut pages = Vec::new();
    for order_by in 1..=4 {
        let (mut seen, mut states) = (Vec::new(), BTreeSet::new());
        request = ListModuleActivationsRequest { order_by, page_token: String::new(), ..request };
        loop {
            let page = list(request.clone()).await;
            seen.extend(
                page.module_activations
                    .iter()
                    .map(|it| format!("{}/{} {}", it.module, it.organization_id, it.active)),
            );
            states.insert(format!("{:?}", page.module_states));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(states.len(), 1, "{states:?}");
        pages.push(seen);
    }
    let mut by_name = ["commerce/region false", "contracts/branch true", "contracts/office false"];
    let mut by_age = ["contracts/office false", "contracts/branch true", "commerce/region false"];
    assert_eq!(
        (&pages[0][..], &pages[2][..]),
        (&by_name.map(str::to_owned)[..], &by_age.map(str::to_owned)[..])
    );
    by_name.reverse();
    by_age.reverse();
    assert_eq!(
        (&pages[1][..], &pages[3][..]),
        (&by_name.map(str::to_owned)[..], &by_age.map(str::to_owned)[..])
    );

    let of = |organization_id: &str| ListModuleActivationsRequest {
        organization_id: organization_id.into(),
        ..Default::default()
    };
    let state = |module: &str, active, decides: &str| {
        let level =
            if decides.is_empty() { ModuleLevel::Tenant } else { ModuleLevel::Organization };
        ModuleState {
            module: module.into(),
            active,
            level: level.into(),
            organization_id: decides.into(),
        }
    };
    let office = list(of("office")).await;
    assert_eq!(office.module_activations.len(), 1, "its own only: {office:?}");
    let expected = [
        state("commerce", false, "region"),
        state("contracts", false, "office"),
        state(MODULE, true, ""),
        state("portfolios", false, ""),
    ];
    assert_eq!(office.module_states, expected);
    let everything = list(of("")).await.module_states;
    assert_eq!(
        everything.iter().map(|it| (it.active, it.level())).collect::<Vec<_>>()[3],
        (false, ModuleLevel::Tenant)
    );
    let contracts =
        list(ListModuleActivationsRequest { module: "contracts".into(), ..of("") }).await;
    assert_eq!((contracts.module_activations.len(), contracts.module_states.len()), (2, 1));

    tenant.set_module("contracts", "office", On).await.unwrap();
    tenant.set_module("contracts", "office", Inherited).await.unwrap();
    let trail = tenant.trail().await.split_off(before);
    assert!(
        trail.iter().all(|it| it.resource_type == "module_activation"
            && it.method.ends_with("/SetModuleActivation"))
    );
    let actions: Vec<_> = trail.iter().map(|it| (&*it.action, &*it.resource_id)).collect();
    let (created, updated) = ("module_activation.created", "module_activation.updated");
    assert_eq!(
        actions,
        [
            (created, "contracts/office"),
            (created, "contracts/branch"),
            (created, "commerce/region"),
            (updated, "portfolios"),
            (updated, "contracts/office"),
            ("module_activation.deleted", "contracts/office"),
        ]
    );
    assert_eq!(trail[3].change("active"), (&json!(true), &json!(false)));
    assert_eq!(trail[4].change("active"), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn only_modules_that_can_be_switched_are() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    for module in ["administration", "", "Contracts", "billing"] {
        assert_eq!(fields(tenant.set_module(module, "o", Off).await), ["module"], "{module}");
    }
    assert_eq!(
        fields(tenant.set_module("contracts", " o", Unspecified).await),
        ["organization_id", "setting"]
    );
    let unknown =
        SetModuleActivationRequest { module: "contracts".into(), setting: 9, ..Default::default() };
    assert_eq!(fields(tenant.tenants().set_module_activation(unknown).await), ["setting"]);
    assert_eq!(
        refusal(tenant.set_module("contracts", "nobody", Off).await),
        "ORGANIZATION_NOT_FOUND"
    );
    let editor = tenant.with_roles("editor");
    assert_eq!(refusal(editor.set_module("contracts", "o", Off).await), "PERMISSION_DENIED");
    let list =
        ListModuleActivationsRequest { module: "administration".into(), ..Default::default() };
    assert_eq!(fields(tenant.tenants().list_module_activations(list).await), ["module"]);
    let tried = SetModuleActivationRequest {
        module: MODULE.into(),
        setting: Off.into(),
        validate_only: true,
        ..Default::default()
    };
    let tried = tenant
        .tenants()
        .set_module_activation(tried)
        .await
        .unwrap()
        .into_inner()
        .module_state
        .unwrap();
    assert!(!tried.active);
    assert_eq!(tenant.state("o").await, (true, String::new()));
}

/// The modules that are off for some organization, first as the tenant row has them, then as the
/// activations have them.
async fn off_below(tenant: &Tenant) -> (Vec<String>, Vec<String>) {
    let sql = sql(shared().url.as_ref().unwrap()).await;
    let query = "SELECT modules_off_below, ARRAY(SELECT DISTINCT module COLLATE \"C\" FROM module_activations AS m \
                 WHERE m.tenant_id = tenants.tenant_id AND NOT active ORDER BY 1) FROM tenants WHERE tenant_id = $1";
    let row = sql.query_one(query, &[&tenant.caller.tenant]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Repeats a call while it fails with RESOURCE_EXHAUSTED: other tests share the pool.
async fn in_room<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<(), Status> {
    loop {
        match call().await {
            Err(status) if status.code() == Code::ResourceExhausted => {}
            answer => return answer.map(|_| ()),
        }
    }
}

#[tokio::test]
async fn the_tenants_row_knows_which_modules_are_off_below() {
    if !has_real_server("races need more than one connection") {
        return;
    }
    let tenant = Tenant::new().await;
    for n in 0..8 {
        tenant.organization(&n.to_string(), "").await;
    }
    for round in 0..20 {
        let sets = (0..16_usize).map(|n| {
            let (tenant, module) = (&tenant, ALL[(n + round) % 4]);
            let setting = [Off, Inherited, On, Off][(n / 4 + round) % 4];
            async move {
                in_room(async || {
                    tenant.set_module(module, &((n + round) % 8).to_string(), setting).await
                })
                .await
            }
        });
        // Beside what else takes the tenant's row.
        let moves =
            (0..4).map(|n| {
                let (tenant, parent) = (&tenant, if round % 2 == 0 { "7" } else { "" });
                async move {
                    in_room(async || tenant.move_organization(&n.to_string(), parent).await).await
                }
            });
        let (sets, moves) = futures_util::future::join(join_all(sets), join_all(moves)).await;
        for answer in sets {
            answer.unwrap();
        }
        for answer in moves {
            // Both are right: before or after the module was switched off.
            assert!(answer.is_ok() || denial(answer).0 == MODULE);
        }
        let (known, off) = off_below(&tenant).await;
        assert_eq!(known, off, "round {round}");
    }
}

#[tokio::test]
async fn a_deleted_organization_takes_its_settings_along() {
    if !has_real_server("the embedded server lets nobody look behind the API") {
        return;
    }
    let tenant = Tenant::new().await;
    tenant.organization("gone", "").await;
    tenant.organization("stays", "").await;
    for (module, id) in [("contracts", "gone"), ("commerce", "gone"), ("commerce", "stays")] {
        tenant.set_module(module, id, Off).await.unwrap();
    }
    tenant.delete_organization("gone", "").await.unwrap();
    assert_eq!(
        off_below(&tenant).await,
        (vec!["commerce".to_owned()], vec!["commerce".to_owned()])
    );
    tenant.organization("gone", "").await;
    let request =
        ListModuleActivationsRequest { organization_id: "gone".into(), ..Default::default() };
    let listed = tenant.tenants().list_module_activations(request).await.unwrap().into_inner();
    assert!(
        listed.module_activations.is_empty()
            && listed.module_states.iter().all(|state| state.active),
        "{listed:?}"
    );
}
