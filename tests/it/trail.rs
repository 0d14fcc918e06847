//! The trail is complete: the state of a tenant can be rebuilt from its activities alone, and every
//! row that a deletion takes along has an activity.

use std::collections::BTreeSet;

use customer_accounts::proto::{
    Account, AccountUser, AddAccountUserRequest, LinkOrganizationRequest, ModuleSetting,
    Opportunity, Order, Portfolio, PortfolioItemState, SetPurchasingAccountRequest, Subscription,
    UnlinkOrganizationRequest, UpdateAccountUserRequest,
};
use serde_json::json;
use tonic::Status;

use crate::{
    schema::{execute, lines},
    support::{
        Tenant, account,
        calls::{Activity, mask, only},
        commerce::{order, subscription},
        contracts::{contract, setup},
        refusal,
        sales::{item, opportunity, portfolio},
        trail::replay,
    },
};

/// The foreign keys that may change rows of their own accord, and why nobody needs to hear of that.
const DERIVED: &[(&str, &str)] = &[
    ("account_words_account_fkey", "words of the account"),
    ("contract_words_contract_fkey", "words of the contract"),
    ("opportunity_words_opportunity_fkey", "words of the opportunity"),
    (
        "orders_purchaser_fkey",
        "the order stays what it was: the activity of its recording keeps who it was",
    ),
    ("organization_ancestors_ancestor_fkey", "follows from the parents of organizations"),
    ("organization_ancestors_organization_fkey", "follows from the parents of organizations"),
    ("organization_words_organization_fkey", "words of the organization"),
    ("person_words_person_fkey", "words of the person"),
    ("portfolio_words_portfolio_fkey", "words of the portfolio"),
    (
        "account_users_person_fkey",
        "ON UPDATE: the sort key is the person's, whose change of name is recorded",
    ),
    (
        "organization_members_person_fkey",
        "ON UPDATE: the sort key is the person's, whose change of name is recorded",
    ),
];

/// Foreign keys that change rows of their own accord.
const BY_THEMSELVES: &str = "SELECT conname::text AS line FROM pg_constraint WHERE contype = 'f' \
    AND connamespace = 'public'::regnamespace AND (confdeltype NOT IN ('a', 'r') OR confupdtype NOT IN ('a', 'r')) ORDER BY 1";

/// All of them.
const FOREIGN_KEYS: &str = "SELECT conname::text AS line FROM pg_constraint WHERE contype = 'f' \
    AND connamespace = 'public'::regnamespace ORDER BY 1";

#[tokio::test]
async fn no_foreign_key_deletes_or_clears_what_should_be_on_record() {
    let found = lines(&Tenant::new().await, BY_THEMSELVES).await;
    let mut derived: Vec<_> = DERIVED.iter().map(|(name, _)| *name).collect();
    derived.sort_unstable();
    assert_eq!(
        found, derived,
        "a row that goes by a foreign key goes without an activity: let the store delete and record it"
    );
}

/// What happens to a row when what it refers to is deleted.
enum Fate {
    /// It keeps that from happening, for this reason.
    Refuses(&'static str),
    /// It goes along, with this activity: action, resource, and the account to whose trail it
    /// belongs.
    Recorded(&'static str, &'static str, Option<&'static str>),
    /// What it refers to is never deleted.
    Never,
}

/// A tenant with a row behind each foreign key.
async fn scene() -> Tenant {
    let tenant = Tenant::new().await;
    for (id, parent) in [("top", ""), ("vendor", "top"), ("partner", "")] {
        tenant.organization(id, parent).await;
    }
    tenant.account_type("type").await;
    tenant.staff("sam").await;
    tenant.staff("tom").await;
    for id in ["ann", "bob"] {
        tenant.person(id).await;
        tenant.add_member("vendor", id).await.unwrap();
    }
    tenant.add_member("partner", "bob").await.unwrap();
    let full = Account {
        account_type_id: "type".into(),
        account_manager_id: "sam".into(),
        billing_contact_id: "ann".into(),
        ..account("a", "vendor")
    };
    tenant.account(full).await;
    let link = LinkOrganizationRequest {
        account_id: "a".into(),
        organization_id: "partner".into(),
        ..Default::default()
    };
    tenant.memberships().link_organization(link).await.unwrap();
    let add = AddAccountUserRequest {
        account_id: "a".into(),
        person_id: "bob".into(),
        ..Default::default()
    };
    tenant.memberships().add_account_user(add).await.unwrap();
    tenant.purchase("bob", "a").await;
    tenant.contract(contract("c", "a")).await;
    tenant.setup(setup("s", "c", "project")).await;
    tenant.set_module("contracts", "partner", ModuleSetting::Off).await.unwrap();
    let items = vec![item("x", PortfolioItemState::Active), item("y", PortfolioItemState::Retired)];
    tenant.portfolio(Portfolio { items, ..portfolio("p", "a") }).await;
    let contract_id = "c".into();
    tenant
        .opportunity(Opportunity { contract_id, owner_id: "tom".into(), ..opportunity("o", "a") })
        .await;
    let contract_id = "c".to_owned();
    tenant
        .subscription(Subscription {
            contract_id: contract_id.clone(),
            end_time: subscription("", "").start_time,
            ..subscription("sub", "a")
        })
        .await;
    tenant.order(Order { contract_id, purchaser_id: "bob".into(), ..order("ord", "a") }).await;
    tenant
}

impl Tenant {
    async fn purchase(&self, person_id: &str, account_id: &str) {
        let (person_id, account_id) = (person_id.into(), account_id.into());
        let request = SetPurchasingAccountRequest { person_id, account_id, ..Default::default() };
        self.memberships().set_purchasing_account(request).await.unwrap();
    }

    async fn delete_partner(&self) -> Result<(), Status> {
        // The account's link is in the way; that is another foreign key's scenario.
        let (account_id, organization_id) = ("a".into(), "partner".into());
        let unlink =
            UnlinkOrganizationRequest { account_id, organization_id, ..Default::default() };
        self.memberships().unlink_organization(unlink).await.unwrap();
        self.delete_organization("partner", "").await
    }
}

/// Deletes what a foreign key refers to: the answer, and what it should be.
async fn parent_goes(tenant: &Tenant, foreign_key: &str) -> (Result<(), Status>, Fate) {
    let account = Some("a");
    match foreign_key {
        "account_organizations_account_fkey" => (
            tenant.delete("a", "").await,
            Fate::Recorded("account_organization.deleted", "a/partner", account),
        ),
        "account_organizations_organization_fkey" => (
            tenant.delete_organization("partner", "").await,
            Fate::Refuses("ORGANIZATION_NOT_EMPTY"),
        ),
        "account_users_account_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("account_user.deleted", "a/bob", account))
        }
        "account_users_person_fkey" => (
            tenant.delete_person("bob", "").await,
            Fate::Recorded("account_user.deleted", "a/bob", account),
        ),
        "accounts_account_manager_fkey" => {
            (tenant.delete_person("sam", "").await, Fate::Refuses("PERSON_IN_USE"))
        }
        "accounts_account_type_fkey" => (Ok(()), Fate::Never),
        "accounts_organization_fkey" => (
            tenant.delete_organization("vendor", "").await,
            Fate::Refuses("ORGANIZATION_NOT_EMPTY"),
        ),
        "accounts_primary_contact_fkey"
        | "accounts_billing_contact_fkey"
        | "accounts_cc_billing_contact_fkey" => {
            (tenant.delete_person("ann", "").await, Fate::Refuses("CONTACT_SLOT_HELD"))
        }
        "contracts_account_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("contract.deleted", "c", account))
        }
        "delivery_setups_contract_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("delivery_setup.deleted", "s", account))
        }
        "module_activations_organization_fkey" => (
            tenant.delete_partner().await,
            Fate::Recorded("module_activation.deleted", "contracts/partner", None),
        ),
        "opportunities_account_fkey" | "opportunities_contract_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("opportunity.deleted", "o", account))
        }
        "subscriptions_account_fkey" | "subscriptions_contract_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("subscription.deleted", "sub", account))
        }
        "orders_account_fkey" | "orders_contract_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("account.deleted", "a", account))
        }
        "opportunities_owner_fkey" => (
            tenant.delete_person("tom", "").await,
            Fate::Recorded("opportunity.updated", "o", account),
        ),
        "portfolios_account_fkey" | "portfolio_items_portfolio_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("portfolio.deleted", "p", account))
        }
        "organization_members_organization_fkey" => (
            tenant.delete_partner().await,
            Fate::Recorded("organization_member.deleted", "partner/bob", None),
        ),
        "organization_members_person_fkey" => (
            tenant.delete_person("bob", "").await,
            Fate::Recorded("organization_member.deleted", "vendor/bob", None),
        ),
        "organizations_parent_fkey" => {
            (tenant.delete_organization("top", "").await, Fate::Refuses("ORGANIZATION_NOT_EMPTY"))
        }
        "people_purchasing_account_fkey" => {
            (tenant.delete("a", "").await, Fate::Recorded("person.updated", "bob", account))
        }
        new => {
            panic!("say here what becomes of a row behind {new} when what it refers to is deleted")
        }
    }
}

#[tokio::test]
async fn whatever_goes_along_has_its_activity() {
    for foreign_key in lines(&Tenant::new().await, FOREIGN_KEYS).await {
        // Some cascade a change of name only.
        if !DERIVED
            .iter()
            .any(|(derived, why)| *derived == foreign_key && !why.starts_with("ON UPDATE"))
        {
            check_fate(&foreign_key).await;
        }
    }
}

async fn check_fate(foreign_key: &str) {
    let tenant = scene().await;
    let before = tenant.trail().await.len();
    let (answer, fate) = parent_goes(&tenant, foreign_key).await;
    let trail = &tenant.trail().await[before..];
    match fate {
        Fate::Never => {
            let granted = "SELECT privilege_type AS line FROM pg_class CROSS JOIN aclexplode(relacl) \
                WHERE relname = 'account_types' AND grantee = 'customer_accounts_app'::regrole AND privilege_type = 'DELETE'";
            assert_eq!(lines(&tenant, granted).await, [""; 0], "{foreign_key}");
        }
        Fate::Refuses(why) => assert_eq!(refusal(answer), why, "{foreign_key}"),
        Fate::Recorded(action, resource_id, account_id) => {
            answer.unwrap();
            let is_it = |it: &&Activity| it.action == action && it.resource_id == resource_id;
            let found: Vec<_> = trail.iter().filter(is_it).collect();
            assert_eq!(found.len(), 1, "{foreign_key}: {action} {resource_id} in {trail:#?}");
            assert_eq!(found[0].account_id.as_deref(), account_id, "{foreign_key}");
        }
    }
    replay(&tenant).await;
}

#[tokio::test]
async fn a_watch_of_an_account_hears_of_everyone_who_leaves_it() {
    let tenant = scene().await;
    tenant.account(account("b", "vendor")).await;
    let before = tenant.trail().await.len();
    tenant.purchase("bob", "b").await;
    tenant.delete_person("bob", "").await.unwrap();
    let of = |trail: &[Activity], id: &str| -> Vec<String> {
        let of_account = trail.iter().filter(|it| it.account_id.as_deref() == Some(id));
        of_account.map(|it| format!("{} {} {}", it.action, it.resource_id, it.changes)).collect()
    };
    let trail = &tenant.trail().await[before..];
    let [elsewhere, gone] = &of(trail, "a")[..] else { panic!("{trail:#?}") };
    let change = |before: &str, after: &str| {
        format!(
            "person.updated bob {}",
            json!([{ "field": "purchasing_account_id", "before": before, "after": after }])
        )
        .replace("\"\"", "null")
    };
    assert_eq!(*elsewhere, change("a", ""), "bob buys on b now, which is not told here");
    assert!(gone.starts_with("account_user.deleted a/bob"), "{gone}");
    assert_eq!(of(trail, "b"), [change("", "b"), change("b", "")]);
    let last: Vec<_> = trail.iter().map(|it| &*it.action).collect();
    assert_eq!(
        last.last(),
        Some(&"person.deleted"),
        "what belongs to the person goes before: {last:?}"
    );
    replay(&tenant).await;
}

/// The link of the own organization is told by the account, until something else is set on it.
#[tokio::test]
async fn another_organization_of_an_account_tells_what_becomes_of_its_links() {
    let tenant = scene().await;
    let link = |organization_id: &str, include_descendants: bool| {
        let (account_id, organization_id) = ("a".into(), organization_id.into());
        LinkOrganizationRequest {
            account_id,
            organization_id,
            include_descendants,
            ..Default::default()
        }
    };
    tenant.memberships().link_organization(link("vendor", true)).await.unwrap();
    let set = AccountUser {
        account_id: "a".into(),
        person_id: "ann".into(),
        roles: vec!["buyer".into()],
        ..Default::default()
    };
    let set = UpdateAccountUserRequest {
        account_user: Some(set),
        update_mask: mask(&["roles"]),
        ..Default::default()
    };
    tenant.memberships().update_account_user(set).await.unwrap();
    tenant.update(only("a"), &["billing_contact_id"]).await.unwrap();
    let before = tenant.trail().await.len();
    tenant
        .update(Account { organization_id: "partner".into(), ..only("a") }, &["organization_id"])
        .await
        .unwrap();
    let trail = tenant.trail().await;
    let told: Vec<_> = trail[before..]
        .iter()
        .map(|it| format!("{} {} {}", it.action, it.resource_id, it.changes))
        .collect();
    let wanted = [
        format!(
            "account_organization.deleted a/vendor {}",
            json!([
                { "field": "include_descendants", "before": true, "after": null },
                { "field": "organization_id", "before": "vendor", "after": null },
                { "field": "own", "before": true, "after": null },
            ])
        ),
        format!(
            "account_organization.updated a/partner {}",
            json!([{ "field": "own", "before": false, "after": true }])
        ),
    ];
    assert_eq!(told[..2], wanted);
    assert!(told[2].starts_with("account_user.deleted a/ann"), "{told:#?}");
    assert!(told[3].starts_with("account.updated a "), "{told:#?}");
    assert_eq!(told.len(), 4, "{told:#?}");
    replay(&tenant).await;
}

/// More than one statement of the trail: the order stays, and nothing is lost between two of them.
#[tokio::test]
async fn a_crowd_goes_with_its_account_and_each_of_them_is_on_record() {
    const CROWD: usize = 1203;
    let tenant = scene().await;
    let crowd = format!(
        "INSERT INTO people (person_id, display_name, sort_key, kind) \
         SELECT 'crowd-' || n, 'Crowd', 'crowd', 'CUSTOMER' FROM generate_series(1, {CROWD}) AS n; \
         INSERT INTO account_users (account_id, person_id, sort_key, person_create_time, individual) \
         SELECT 'a', person_id, sort_key, create_time, true FROM people WHERE sort_key = 'crowd'"
    );
    execute(&tenant, &crowd).await.unwrap();
    let before = tenant.trail().await.len();
    tenant.delete("a", "").await.unwrap();
    let trail = tenant.trail().await;
    let gone = trail[before..].iter().filter(|it| it.action == "account_user.deleted");
    assert_eq!(gone.map(|it| &it.resource_id).collect::<BTreeSet<_>>().len(), CROWD + 1);
    assert_eq!(trail.last().map(|it| &*it.action), Some("account.deleted"));
}
