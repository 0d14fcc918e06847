//! The settings of a tenant: how they are read and changed, and what they do.

use customer_accounts::proto::{
    Account, AccountUser, AddAccountUserRequest, CreateAccountRequest, GetTenantSettingsRequest,
    TenantSettings, UpdateAccountUserRequest, UpdateTenantSettingsRequest,
};
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, mask},
    refusal, violations,
};

impl Tenant {
    async fn settings(&self) -> TenantSettings {
        self.tenants()
            .get_tenant_settings(GetTenantSettingsRequest {})
            .await
            .unwrap()
            .into_inner()
            .tenant_settings
            .unwrap()
    }

    async fn add_with_roles(&self, person_id: &str, roles: &[&str]) -> Result<AccountUser, Status> {
        let (account_id, person_id) = ("a".into(), person_id.into());
        let request = AddAccountUserRequest {
            account_id,
            person_id,
            roles: words(roles),
            ..Default::default()
        };
        self.memberships()
            .add_account_user(request)
            .await
            .map(|response| response.into_inner().account_user.unwrap())
    }

    async fn update_roles(&self, user: AccountUser, paths: &[&str]) -> Result<AccountUser, Status> {
        let request = UpdateAccountUserRequest {
            account_user: Some(user),
            update_mask: mask(paths),
            ..Default::default()
        };
        self.memberships()
            .update_account_user(request)
            .await
            .map(|response| response.into_inner().account_user.unwrap())
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn prefix(account_id_prefix: &str) -> TenantSettings {
    TenantSettings { account_id_prefix: account_id_prefix.into(), ..Default::default() }
}

#[tokio::test]
async fn a_tenant_has_settings_before_anyone_has_chosen_any() {
    let tenant = Tenant::new().await;
    let settings = tenant.settings().await;
    assert_eq!((&*settings.account_id_prefix, &*settings.default_currency), ("acct", ""));
    assert_eq!(settings.time_zone, "UTC");
    assert_eq!(
        (settings.membership_roles.clone(), settings.activity_retention_days),
        (words(&["buyer", "member", "owner"]), 0)
    );
    assert!(!settings.etag.is_empty() && settings.update_time.is_none(), "{settings:?}");
    // What gives the tenant a row for another reason changes nothing about them, the etag included.
    tenant.organization("top", "").await;
    tenant.organization("below", "top").await;
    assert_eq!(tenant.settings().await, settings);
    assert_eq!(tenant.with_roles("viewer").settings().await, settings, "a viewer may read them");
}

#[tokio::test]
async fn settings_change_by_mask_and_every_change_is_on_record() {
    let tenant = Tenant::new().await;
    let before = tenant.settings().await;
    let wanted = TenantSettings {
        account_id_prefix: "cust".into(),
        default_currency: "CHF".into(),
        membership_roles: words(&["zookeeper", "approver"]),
        activity_retention_days: 36_500,
        time_zone: "America/Argentina/Buenos_Aires".into(),
        ..Default::default()
    };
    let all = tenant.update_settings(wanted.clone(), &[]).await.unwrap();
    assert_ne!(all.etag, before.etag);
    assert!(all.update_time.is_some());
    let roles = words(&["approver", "zookeeper"]);
    let expected = TenantSettings {
        membership_roles: roles,
        etag: all.etag.clone(),
        update_time: all.update_time,
        ..wanted
    };
    assert_eq!((&all, &tenant.settings().await), (&expected, &expected));
    let again = tenant.update_settings(all.clone(), &["*"]).await.unwrap();
    assert_eq!(again, all, "what is so already is no change");
    let one = tenant
        .update_settings(TenantSettings::default(), &["default_currency", "etag", "update_time"])
        .await
        .unwrap();
    assert_eq!((&*one.default_currency, &*one.account_id_prefix), ("", "cust"));
    let forever = tenant
        .update_settings(TenantSettings::default(), &["activity_retention_days"])
        .await
        .unwrap();
    assert_eq!(forever.activity_retention_days, 0);

    let trail = tenant.trail().await;
    assert_eq!(trail.len(), 3, "{trail:?}");
    assert!(
        trail
            .iter()
            .all(|it| it.resource_type == "tenant_settings"
                && it.resource_id == tenant.caller.tenant),
        "{trail:?}"
    );
    assert_eq!(trail[0].action, "tenant_settings.updated");
    assert_eq!(trail[0].change("account_id_prefix"), (&json!("acct"), &json!("cust")));
    assert_eq!(trail[0].change("membership_roles").1, &json!(["approver", "zookeeper"]));
    assert_eq!(trail[1].change("default_currency"), (&json!("CHF"), &json!(null)));
    crate::support::trail::replay(&tenant).await;
}

#[tokio::test]
async fn an_etag_that_is_not_current_is_refused() {
    let tenant = Tenant::new().await;
    let first = tenant.settings().await;
    let second = tenant
        .update_settings(TenantSettings { etag: first.etag.clone(), ..prefix("b") }, &[])
        .await
        .unwrap();
    let stale =
        tenant.update_settings(TenantSettings { etag: first.etag, ..prefix("c") }, &[]).await;
    assert_eq!(refusal(stale), "ETAG_MISMATCH");
    assert_eq!(tenant.settings().await, second);
    tenant.update_settings(TenantSettings { etag: second.etag, ..prefix("c") }, &[]).await.unwrap();
}

#[tokio::test]
async fn a_repeated_request_id_gets_the_first_answer_and_validate_only_keeps_nothing() {
    let tenant = Tenant::new().await;
    let request = |prefix_: &str, request_id: &str, validate_only| UpdateTenantSettingsRequest {
        tenant_settings: Some(prefix(prefix_)),
        request_id: request_id.into(),
        validate_only,
        ..Default::default()
    };
    let send = async |request| {
        let answer = tenant.tenants().update_tenant_settings(request).await;
        answer.map(|response| response.into_inner().tenant_settings.unwrap())
    };
    let before = tenant.settings().await;
    assert_eq!(send(request("tried", "r", true)).await.unwrap().account_id_prefix, "tried");
    assert_eq!(tenant.settings().await, before);
    let first = send(request("one", "r", false)).await.unwrap();
    send(request("two", "", false)).await.unwrap();
    assert_eq!(send(request("one", "r", false)).await.unwrap(), first);
    assert_eq!(tenant.settings().await.account_id_prefix, "two");
    assert_eq!(refusal(send(request("three", "r", false)).await), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn every_setting_that_breaks_a_rule_is_named_at_once() {
    let tenant = Tenant::new().await;
    let at = |field: &str| format!("tenant_settings.{field}");
    let bad = TenantSettings {
        account_id_prefix: "Acct_".into(),
        default_currency: "eur".into(),
        membership_roles: words(&["owner", "", " x", "owner", "a\nb", &"r".repeat(51)]),
        activity_retention_days: -1,
        time_zone: "Mars/Olympus".into(),
        ..Default::default()
    };
    let expected = [
        at("account_id_prefix"),
        at("default_currency"),
        at("activity_retention_days"),
        at("time_zone"),
        at("membership_roles[1]"),
        at("membership_roles[2]"),
        at("membership_roles[3]"),
        // A line break is broken twice over, as a line and as a character.
        at("membership_roles[4]"),
        at("membership_roles[5]"),
    ];
    assert_eq!(fields(tenant.update_settings(bad, &["*"]).await), expected);
    let refused = async |settings: TenantSettings, field: &str| {
        assert_eq!(
            fields(tenant.update_settings(settings, &[field]).await),
            [at(field)],
            "{field}"
        );
    };
    for account_id_prefix in ["", "_a", "a_", "a1", "a-b", "ä", &"a".repeat(21)] {
        refused(prefix(account_id_prefix), "account_id_prefix").await;
    }
    for default_currency in ["EURO", "XXX", "E", "   "] {
        let default_currency = default_currency.into();
        refused(TenantSettings { default_currency, ..Default::default() }, "default_currency")
            .await;
    }
    for time_zone in ["", "europe/berlin", "Berlin", "UTC+1", "+01:00", "Europe/Berlin ", "Z"] {
        refused(TenantSettings { time_zone: time_zone.into(), ..Default::default() }, "time_zone")
            .await;
    }
    let many: Vec<_> = (0..51).map(|n| n.to_string()).collect();
    for membership_roles in [Vec::new(), many] {
        refused(TenantSettings { membership_roles, ..Default::default() }, "membership_roles")
            .await;
    }
    for activity_retention_days in [36_501, 29, 1] {
        refused(
            TenantSettings { activity_retention_days, ..Default::default() },
            "activity_retention_days",
        )
        .await;
    }
    assert_eq!(fields(tenant.update_settings(prefix("a"), &["prefix"]).await), ["update_mask"]);
    let none =
        tenant.tenants().update_tenant_settings(UpdateTenantSettingsRequest::default()).await;
    assert_eq!(fields(none), ["tenant_settings"]);
    assert!(tenant.trail().await.is_empty());
}

#[tokio::test]
async fn generated_account_ids_begin_with_the_tenants_prefix() {
    let (tenant, other) = (Tenant::new().await, Tenant::new().await);
    for tenant in [&tenant, &other] {
        tenant.organization("o", "").await;
    }
    let longest = "a_".repeat(9) + "zz";
    let unnamed = || Account { display_name: "Generated".into(), ..account("", "o") };
    for prefix_ in ["k", &longest] {
        tenant.update_settings(prefix(prefix_), &[]).await.unwrap();
        let new = tenant.account(unnamed()).await;
        assert_eq!(new.account_id.rsplit_once('_').unwrap().0, prefix_, "{}", new.account_id);
        assert_eq!(tenant.get(&new.account_id).await.unwrap(), new);
    }
    assert!(
        other.account(unnamed()).await.account_id.starts_with("acct_"),
        "the others keep theirs"
    );
    // A repeat gets the first id, whatever the prefix is by then.
    let request = || CreateAccountRequest {
        account: Some(unnamed()),
        request_id: "twice".into(),
        ..Default::default()
    };
    let create = async || {
        tenant.accounts().create_account(request()).await.unwrap().into_inner().account.unwrap()
    };
    let first = create().await;
    tenant.update_settings(prefix("later"), &[]).await.unwrap();
    assert_eq!(create().await, first);
    assert_eq!(tenant.account(account("chosen", "o")).await.account_id, "chosen");
    // Without a type there is no query before the id is made.
    let untyped = CreateAccountRequest { without_account_type: true, ..request() };
    let untyped = CreateAccountRequest { request_id: String::new(), ..untyped };
    let untyped =
        tenant.accounts().create_account(untyped).await.unwrap().into_inner().account.unwrap();
    assert!(untyped.account_id.starts_with("later_"), "{untyped:?}");
}

#[tokio::test]
async fn roles_of_users_are_those_of_the_tenant() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(Account { ..account("a", "o") }).await;
    for id in ["ann", "bob"] {
        tenant.person(id).await;
    }
    let ann = tenant.add_with_roles("ann", &["owner", "buyer"]).await.unwrap();
    let roles =
        TenantSettings { membership_roles: words(&["buyer", "approver"]), ..Default::default() };
    tenant.update_settings(roles, &[]).await.unwrap();
    let refused = violations(tenant.add_with_roles("bob", &["approver", "owner", "member"]).await);
    let rule = "must be one of the tenant's roles: approver, buyer".to_owned();
    assert_eq!(
        refused,
        [("roles[1]".to_owned(), rule.clone()), ("roles[2]".to_owned(), rule.clone())]
    );
    assert_eq!(tenant.add_with_roles("bob", &["approver"]).await.unwrap().roles, ["approver"]);
    // A role that is no longer in the settings stays with its users until they are updated.
    let billing = AccountUser { billing: true, ..ann };
    let refused = violations(tenant.update_roles(billing.clone(), &["billing"]).await);
    assert_eq!(refused, [("account_user.roles[1]".to_owned(), rule)]);
    let left = AccountUser { roles: words(&["buyer"]), ..billing };
    let left = tenant.update_roles(left, &["billing", "roles"]).await.unwrap();
    assert_eq!((left.roles, left.billing), (words(&["buyer"]), true));
}
