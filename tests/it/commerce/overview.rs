//! The overview of an account: its figures, what modules that are off leave out, and the way from
//! an account to everything that belongs to it and back.

use customer_accounts::proto::{
    Account, AccountCounts, AddAccountUserRequest, ListContractsRequest, ListDeliverySetupsRequest,
    ListOpportunitiesRequest, ListOrdersRequest, ListPortfoliosRequest, ListSubscriptionsRequest,
    ModuleSetting::{Inherited, Off},
    Opportunity, OpportunityState, Order, Person, Subscription,
};

use super::scene;
use crate::support::{
    Tenant, account,
    calls::{only_person, person},
    commerce::{at, order, subscription, written},
    contracts::{contract, day, setup},
    refusal,
    sales::{opportunity, portfolio},
};

/// A tenant whose account `a` has one of everything.
async fn full() -> Tenant {
    let tenant = scene().await;
    tenant.staff("sam").await;
    tenant.account_type("type").await;
    let account = Account {
        account_id: "a".into(),
        account_manager_id: "sam".into(),
        account_type_id: "type".into(),
        ..Default::default()
    };
    tenant.update(account, &["account_manager_id", "account_type_id"]).await.unwrap();
    tenant.approved(contract("c", "a")).await;
    tenant.contract(contract("draft", "a")).await;
    tenant.setup(setup("s", "c", "project")).await;
    tenant.portfolio(portfolio("p", "a")).await;
    for (id, state) in [("open", OpportunityState::Open), ("lost", OpportunityState::Lost)] {
        tenant.opportunity(Opportunity { state: state.into(), ..opportunity(id, "a") }).await;
    }
    tenant.subscription(Subscription { contract_id: "c".into(), ..subscription("sub", "a") }).await;
    let trial = Subscription { trial_end_time: Some(at(1)), ..subscription("trial", "a") };
    tenant.subscription(trial).await;
    tenant.subscription(Subscription { end_time: Some(at(0)), ..subscription("over", "a") }).await;
    tenant.order(Order { contract_id: "c".into(), ..order("o", "a") }).await;
    tenant
}

const COUNTS: AccountCounts = AccountCounts {
    contracts: 2,
    delivery_setups: 1,
    portfolios: 1,
    opportunities: 2,
    subscriptions: 3,
    contracts_in_force: 1,
    delivery_setups_active: 0,
    opportunities_open: 1,
    subscriptions_in_force: 2,
};

#[tokio::test]
async fn the_overview_has_the_account_and_its_figures() {
    let tenant = full().await;
    let overview = tenant.overview("a").await.unwrap();
    assert_eq!(overview.account.as_ref(), Some(&tenant.get("a").await.unwrap()));
    assert_eq!(overview.organization.unwrap().organization_id, "acme");
    assert_eq!(overview.account_type.unwrap().account_type_id, "type");
    assert_eq!(overview.account_manager.unwrap(), tenant.get_person("sam").await.unwrap());
    assert_eq!((overview.counts, &*overview.modules_off), (Some(COUNTS), &[][..]));
    let kpis = overview.kpis.unwrap();
    assert_eq!((kpis.order_count, kpis.calculate_time), (1, Some(at(0))));
    let [revenue] = &kpis.recurring_revenue[..] else { panic!("{kpis:?}") };
    let revenue = [revenue.mrr.clone(), revenue.arr.clone()].map(written);
    assert_eq!(revenue, ["10 EUR", "120 EUR"]);
    // One without a type, a manager or anything else.
    let bare = tenant.overview("b").await.unwrap();
    assert_eq!((bare.account_type, bare.account_manager), (None, None));
    assert_eq!(bare.counts, Some(AccountCounts::default()));
    assert!(bare.kpis.unwrap().recurring_revenue.is_empty());
    assert_eq!(refusal(tenant.overview("c").await), "ACCOUNT_NOT_FOUND");
}

/// Each person once: individually and through two organizations; not before the first day or after
/// the last, and not while inactive.
#[tokio::test]
async fn users_are_counted_as_they_are_listed() {
    let tenant = scene().await;
    let contact_and = tenant.overview("a").await.unwrap().kpis.unwrap().user_count;
    for id in ["unit", "partner"] {
        tenant.organization(id, "acme").await;
    }
    tenant.link("a", "unit", false).await.unwrap();
    tenant.link("a", "partner", false).await.unwrap();
    tenant.person("thrice").await;
    tenant.staff("staff").await;
    for organization in ["unit", "partner"] {
        tenant.add_member(organization, "thrice").await.unwrap();
    }
    tenant.add_member("unit", "staff").await.unwrap();
    tenant.add_user("a", "thrice").await;
    for (id, start, end) in
        [("from", "2027-03-16", ""), ("until", "", "2027-03-15"), ("was", "", "2027-03-14")]
    {
        tenant.person(id).await;
        let user = AddAccountUserRequest {
            account_id: "a".into(),
            person_id: id.into(),
            start_date: day(start),
            end_date: day(end),
            ..Default::default()
        };
        tenant.memberships().add_account_user(user).await.unwrap();
    }
    tenant.person("away").await;
    tenant.add_user("a", "away").await;
    tenant
        .update_person(Person { active: Some(false), ..only_person("away") }, &["active"])
        .await
        .unwrap();
    // Thrice, staff and the one until today.
    let overview = tenant.overview("a").await.unwrap();
    assert_eq!(overview.kpis.unwrap().user_count, contact_and + 3);
    let listed = customer_accounts::proto::ListAccountUsersRequest {
        account_id: "a".into(),
        ..Default::default()
    };
    let listed = tenant.memberships().list_account_users(listed).await.unwrap().into_inner();
    assert_eq!(i64::try_from(listed.account_users.len()).unwrap(), contact_and + 3);
}

#[tokio::test]
async fn what_a_module_that_is_off_hides_is_left_out_and_named() {
    let tenant = full().await;
    let commerce = AccountCounts { subscriptions: 0, subscriptions_in_force: 0, ..COUNTS };
    let contracts = AccountCounts {
        contracts: 0,
        contracts_in_force: 0,
        delivery_setups: 0,
        delivery_setups_active: 0,
        ..COUNTS
    };
    let portfolios = AccountCounts { portfolios: 0, ..COUNTS };
    for organization in ["acme", ""] {
        for (module, counts) in
            [("commerce", commerce), ("contracts", contracts), ("portfolios", portfolios)]
        {
            tenant.set_module(module, organization, Off).await.unwrap();
            let overview = tenant.overview("a").await.unwrap();
            assert_eq!(
                (overview.counts, overview.modules_off),
                (Some(counts), vec![module.into()])
            );
            let kpis = overview.kpis.unwrap();
            let (orders, revenue) = if module == "commerce" { (0, 0) } else { (1, 1) };
            assert_eq!((kpis.order_count, kpis.recurring_revenue.len()), (orders, revenue));
            let back = if organization.is_empty() {
                customer_accounts::proto::ModuleSetting::On
            } else {
                Inherited
            };
            tenant.set_module(module, organization, back).await.unwrap();
        }
    }
    // One that is off elsewhere hides nothing here.
    tenant.set_module("commerce", "other", Off).await.unwrap();
    assert_eq!(tenant.overview("a").await.unwrap().counts, Some(COUNTS));
    tenant.set_module("customer_accounts", "acme", Off).await.unwrap();
    assert_eq!(refusal(tenant.overview("a").await), "MODULE_NOT_ACTIVATED");
}

#[tokio::test]
async fn an_overview_is_seen_by_who_reaches_the_account() {
    let (tenant, manager) = Tenant::regions().await;
    for id in ["oslo", "rome"] {
        tenant.subscription(subscription(id, &format!("{id}-account"))).await;
    }
    let seen = manager.overview("oslo-account").await.unwrap();
    assert_eq!(seen.counts.unwrap().subscriptions, 1);
    assert_eq!(refusal(manager.overview("rome-account").await), "ACCOUNT_NOT_FOUND");
}

/// UAT-C-CA-NAV-001: from an account to all that belongs to it, and back to the account.
#[tokio::test]
async fn the_way_leads_from_an_account_to_everything_and_back() {
    let tenant = full().await;
    tenant.try_person(person("ann")).await.unwrap();
    tenant.account(account("c", "acme")).await;
    let account_id = || "a".to_owned();
    let contract_id = || "c".to_owned();
    let contracts = ListContractsRequest { account_id: account_id(), ..Default::default() };
    let contracts = tenant.contracts().list_contracts(contracts).await.unwrap().into_inner();
    assert_eq!(contracts.contracts.len(), 2);
    let setups = ListDeliverySetupsRequest { contract_id: contract_id(), ..Default::default() };
    let setups = tenant.contracts().list_delivery_setups(setups).await.unwrap().into_inner();
    // From a project to its account, by the setup.
    let project = &setups.delivery_setups[0].project_id;
    let by_project =
        ListDeliverySetupsRequest { project_id: project.clone(), ..Default::default() };
    let found = tenant.contracts().list_delivery_setups(by_project).await.unwrap().into_inner();
    assert_eq!(found.delivery_setups[0].account_id, "a");
    let portfolios = ListPortfoliosRequest { account_id: account_id(), ..Default::default() };
    assert_eq!(tenant.portfolios_of(portfolios).await, ["p"]);
    let opportunities = ListOpportunitiesRequest { account_id: account_id(), ..Default::default() };
    assert_eq!(tenant.opportunities_of(opportunities).await, ["lost", "open"]);
    let all = ListSubscriptionsRequest { account_id: account_id(), ..Default::default() };
    assert_eq!(tenant.subscriptions_of(all).await, ["sub", "trial", "over"]);
    let under = ListSubscriptionsRequest { contract_id: contract_id(), ..Default::default() };
    assert_eq!(tenant.subscriptions_of(under).await, ["sub"]);
    let all = ListOrdersRequest { account_id: account_id(), ..Default::default() };
    assert_eq!(tenant.orders_of(all).await, ["o"]);
    let under = ListOrdersRequest { contract_id: contract_id(), ..Default::default() };
    let order = tenant.commerce().list_orders(under).await.unwrap().into_inner().orders.remove(0);
    let back = tenant.overview(&order.account_id).await.unwrap().account.unwrap();
    assert_eq!((back.account_id, order.contract_id), (account_id(), contract_id()));
    assert_eq!(tenant.get_subscription("sub").await.unwrap().account_id, "a");
}
