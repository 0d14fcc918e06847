//! Account types: configured by each tenant for itself.

use customer_accounts::proto::{
    AccountType, AccountTypeOrderBy, CreateAccountTypeRequest, DeactivateAccountTypeRequest,
    GetAccountTypeRequest, ListAccountTypesRequest, UpdateAccountTypeRequest,
};
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{account_type, fields, later, mask, metadata},
    refusal, refused,
};

async fn get(tenant: &Tenant, id: &str) -> Result<AccountType, Status> {
    let request = GetAccountTypeRequest { account_type_id: id.into() };
    tenant
        .account_types()
        .get_account_type(request)
        .await
        .map(|response| response.into_inner().account_type.unwrap())
}

async fn update(
    tenant: &Tenant,
    account_type: AccountType,
    paths: &[&str],
) -> Result<AccountType, Status> {
    let request = UpdateAccountTypeRequest {
        account_type: Some(account_type),
        update_mask: mask(paths),
        ..Default::default()
    };
    tenant
        .account_types()
        .update_account_type(request)
        .await
        .map(|response| response.into_inner().account_type.unwrap())
}

async fn list(tenant: &Tenant, request: ListAccountTypesRequest) -> Vec<String> {
    let types = tenant
        .account_types()
        .list_account_types(request)
        .await
        .unwrap()
        .into_inner()
        .account_types;
    types.into_iter().map(|account_type| account_type.account_type_id).collect()
}

/// The id of the default type among all.
async fn default_of(tenant: &Tenant) -> Vec<String> {
    let request = ListAccountTypesRequest { show_inactive: true, ..Default::default() };
    let types = tenant
        .account_types()
        .list_account_types(request)
        .await
        .unwrap()
        .into_inner()
        .account_types;
    types
        .into_iter()
        .filter(|account_type| account_type.is_default)
        .map(|account_type| account_type.account_type_id)
        .collect()
}

fn only(id: &str) -> AccountType {
    AccountType { account_type_id: id.into(), ..Default::default() }
}

fn named(id: &str, name: &str) -> AccountType {
    AccountType { display_name: name.into(), ..only(id) }
}

const EXISTS: &str = "ACCOUNT_TYPE_ALREADY_EXISTS";

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn a_tenant_configures_its_own_account_types() {
    let tenant = Tenant::new().await;
    let sent = AccountType {
        description: "Large\ncustomers".into(),
        is_default: true,
        ..named("ent", "Enterprise")
    };
    let created = tenant
        .try_account_type(AccountType { etag: "ignored".into(), ..sent.clone() })
        .await
        .unwrap();
    let expected = AccountType {
        active: Some(true),
        etag: created.etag.clone(),
        create_time: created.create_time,
        update_time: created.create_time,
        ..sent
    };
    assert_eq!(created, expected);
    assert!(created.create_time.is_some() && created.etag != "ignored");
    assert_eq!(get(&tenant, "ent").await.unwrap(), created);
    let generated = tenant.try_account_type(named("", "SMB")).await.unwrap();
    assert!(generated.account_type_id.starts_with("atyp_"), "{}", generated.account_type_id);

    let other = Tenant::new().await;
    assert_eq!(refusal(get(&other, "ent").await), "ACCOUNT_TYPE_NOT_FOUND");
    other
        .try_account_type(named("ent", "Enterprise"))
        .await
        .expect("another tenant has the same id and name");
    assert_eq!(get(&tenant, "ent").await.unwrap(), created);
}

#[tokio::test]
async fn names_are_unique_without_regard_to_case() {
    let tenant = Tenant::new().await;
    for (id, name) in [("ent", "Enterprise"), ("summer", "ÉTÉ"), ("old", "Ωmega")] {
        tenant.try_account_type(named(id, name)).await.unwrap();
    }
    tenant.deactivate("old").await;
    for name in ["Enterprise", "enterprise", "ENTERPRISE", "été", "Été", "ωMEGA"] {
        let answer = tenant.try_account_type(named("", name)).await;
        assert_eq!(refusal(&answer), EXISTS, "{name}");
        assert_eq!(metadata(&answer, "field"), "display_name");
        assert_eq!(refused(answer).1.resource_info().unwrap().resource_name, name);
    }
    let answer = tenant.try_account_type(named("ent", "Other")).await;
    assert_eq!(refusal(&answer), EXISTS);
    assert_eq!(metadata(answer, "field"), "account_type_id");
    tenant.try_account_type(named("plain", "ete")).await.expect("an accent is a difference");

    tenant.try_account_type(named("smb", "SMB")).await.unwrap();
    let answer = update(&tenant, named("smb", "ENTERPRISE"), &[]).await;
    assert_eq!(refusal(&answer), EXISTS, "renaming");
    assert_eq!(metadata(answer, "field"), "display_name");
    assert_eq!(
        update(&tenant, named("smb", "smb"), &[]).await.unwrap().display_name,
        "smb",
        "its own name in another case"
    );
}

#[tokio::test]
async fn a_type_is_renamed_and_its_old_name_is_free_again() {
    let tenant = Tenant::new().await;
    let created = tenant.account_type("Trial").await;
    let renamed = update(
        &tenant,
        AccountType { etag: created.etag.clone(), ..named("Trial", "Evaluation") },
        &[],
    )
    .await
    .unwrap();
    assert_eq!((&*renamed.display_name, renamed.active()), ("Evaluation", true));
    assert!(renamed.etag != created.etag && later(renamed.update_time, created.update_time));
    assert_eq!(get(&tenant, "Trial").await.unwrap(), renamed);
    tenant.try_account_type(named("", "trial")).await.unwrap();
    let activity = tenant.trail_of("Trial").await.pop().unwrap();
    assert_eq!(
        (&*activity.action, &*activity.resource_type),
        ("account_type.updated", "account_type")
    );
    assert_eq!(
        activity.changes,
        json!([{ "field": "display_name", "before": "Trial", "after": "Evaluation" }])
    );
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn making_a_type_the_default_clears_the_present_default() {
    let tenant = Tenant::new().await;
    let first = tenant.default_type("first").await;
    tenant.default_type("second").await;
    assert_eq!(default_of(&tenant).await, ["second"], "by creating it");
    let cleared = get(&tenant, "first").await.unwrap();
    assert!(cleared.etag != first.etag && cleared.active());
    let activity = tenant.trail_of("first").await.pop().unwrap();
    assert_eq!(
        activity.changes,
        json!([{ "field": "is_default", "before": true, "after": false }])
    );

    update(&tenant, AccountType { is_default: true, ..only("first") }, &[]).await.unwrap();
    assert_eq!(default_of(&tenant).await, ["first"], "by updating it");
    tenant.account_type("third").await;
    assert_eq!(default_of(&tenant).await, ["first"], "a new one is none");
    update(&tenant, only("first"), &["is_default"]).await.unwrap();
    assert_eq!(default_of(&tenant).await, [""; 0], "there need not be one");
    crate::support::trail::replay(&tenant).await;
}

#[tokio::test]
async fn a_default_must_be_active() {
    let tenant = Tenant::new().await;
    tenant.default_type("default").await;
    tenant.account_type("inactive").await;
    let inactive = tenant.deactivate("inactive").await;
    let current = get(&tenant, "default").await.unwrap();
    let wanted =
        |id: &str, is_default, active| AccountType { is_default, active: Some(active), ..only(id) };
    for (account_type, paths) in [
        (wanted("inactive", true, false), &[][..]),
        (wanted("inactive", true, false), &["is_default"]),
        (wanted("inactive", true, false), &["is_default", "active"]),
        (wanted("default", true, false), &["is_default", "active"]),
        (AccountType { display_name: "default".into(), ..wanted("default", true, false) }, &["*"]),
    ] {
        let id = account_type.account_type_id.clone();
        let answer = update(&tenant, account_type, paths).await;
        assert_eq!(refusal(&answer), "DEFAULT_ACCOUNT_TYPE_INACTIVE", "{id} {paths:?}");
        assert_eq!(metadata(&answer, "account_type_id"), id);
        let subject =
            refused(answer).1.precondition_failure().unwrap().violations[0].subject.clone();
        assert_eq!(subject, format!("account_type/{id}"));
    }
    assert_eq!(
        (get(&tenant, "default").await.unwrap(), get(&tenant, "inactive").await.unwrap()),
        (current, inactive)
    );
    let both = update(&tenant, wanted("inactive", true, true), &[]).await.unwrap();
    assert!(both.is_default && both.active(), "reactivated by the same update");
    assert_eq!(default_of(&tenant).await, ["inactive"]);
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn deactivating_the_default_leaves_no_default() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.default_type("by call").await;
    let now = tenant.deactivate("by call").await;
    assert!(!now.active() && !now.is_default);
    let activity = tenant.trail_of("by call").await.pop().unwrap();
    assert_eq!(
        (&*activity.action, &*activity.method),
        ("account_type.updated", "accounts.v1.AccountTypeService/DeactivateAccountType")
    );
    assert_eq!(activity.change("is_default"), (&json!(true), &json!(false)));
    assert_eq!(activity.change("active"), (&json!(true), &json!(false)));
    assert_eq!(
        tenant.account(account("a", "acme")).await.account_type_id,
        "",
        "new accounts are unassigned"
    );

    tenant.default_type("by update").await;
    let now = update(&tenant, only("by update"), &["active"]).await.unwrap();
    assert!(!now.active() && !now.is_default);
    assert_eq!(default_of(&tenant).await, [""; 0]);
    crate::support::trail::replay(&tenant).await;
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn a_deactivated_type_is_hidden_from_lists_unless_asked_for_and_can_be_reactivated() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for id in ["Enterprise", "SMB", "Trial"] {
        tenant.account_type(id).await;
    }
    tenant.deactivate("SMB").await;
    let all = || ListAccountTypesRequest { show_inactive: true, ..Default::default() };
    assert_eq!(list(&tenant, ListAccountTypesRequest::default()).await, ["Enterprise", "Trial"]);
    assert_eq!(list(&tenant, all()).await, ["Enterprise", "SMB", "Trial"]);
    assert!(!get(&tenant, "SMB").await.unwrap().active(), "a get shows it");

    let again =
        update(&tenant, AccountType { active: Some(true), ..only("SMB") }, &[]).await.unwrap();
    assert!(again.active() && !again.is_default);
    assert_eq!(
        list(&tenant, ListAccountTypesRequest::default()).await,
        ["Enterprise", "SMB", "Trial"]
    );
    let smb =
        customer_accounts::proto::Account { account_type_id: "SMB".into(), ..account("a", "acme") };
    assert_eq!(tenant.account(smb).await.account_type_id, "SMB", "and can be assigned again");
}

#[tokio::test]
async fn deactivating_a_deactivated_type_is_no_change() {
    let tenant = Tenant::new().await;
    tenant.account_type("Trial").await;
    let first = tenant.deactivate("Trial").await;
    let trail = tenant.trail().await;
    assert_eq!(tenant.deactivate("Trial").await, first);
    assert_eq!(update(&tenant, first.clone(), &["*"]).await.unwrap(), first);
    assert_eq!(tenant.trail().await, trail);
}

#[tokio::test]
async fn a_stale_etag_of_a_type_is_refused() {
    let tenant = Tenant::new().await;
    let read = tenant.account_type("Trial").await;
    let described = |description: &str, etag: &str| AccountType {
        description: description.into(),
        etag: etag.into(),
        ..only("Trial")
    };
    let second = update(&tenant, described("second", &read.etag), &[]).await.unwrap();
    let stale = update(&tenant, described("third", &read.etag), &[]).await;
    assert_eq!(refusal(&stale), "ETAG_MISMATCH");
    assert_eq!(metadata(stale, "account_type_id"), "Trial");
    let deactivate = async |etag: &str| {
        let request = DeactivateAccountTypeRequest {
            account_type_id: "Trial".into(),
            etag: etag.into(),
            ..Default::default()
        };
        tenant.account_types().deactivate_account_type(request).await
    };
    assert_eq!(refusal(deactivate(&read.etag).await), "ETAG_MISMATCH");
    assert_eq!(get(&tenant, "Trial").await.unwrap(), second);
    deactivate(&second.etag).await.unwrap();
    assert_eq!(
        refusal(deactivate(&second.etag).await),
        "ETAG_MISMATCH",
        "also when it would be no change"
    );
    let third = update(&tenant, described("third", ""), &[]).await.unwrap();
    assert_eq!(third.description, "third", "without an etag nothing is checked");
}

#[tokio::test]
async fn an_update_of_a_type_changes_what_its_mask_names() {
    let tenant = Tenant::new().await;
    let sent = AccountType { description: "old".into(), is_default: true, ..account_type("Trial") };
    let created = tenant.try_account_type(sent).await.unwrap();
    let wanted = AccountType { description: "new".into(), ..named("Trial", "ignored") };
    let now = update(&tenant, wanted, &["description", "etag", "account_type_id", "create_time"])
        .await
        .unwrap();
    let expected = AccountType {
        description: "new".into(),
        etag: now.etag.clone(),
        update_time: now.update_time,
        ..created
    };
    assert_eq!(now, expected);
    let now = update(&tenant, only("Trial"), &["description"]).await.unwrap();
    assert_eq!(now.description, "");
    assert_eq!(fields(update(&tenant, only("Trial"), &["nickname"]).await), ["update_mask"]);
    assert_eq!(fields(update(&tenant, only("Trial"), &["*"]).await), ["account_type.display_name"]);
    let now = update(&tenant, account_type("Trial"), &["*"]).await.unwrap();
    assert!(!now.active() && !now.is_default, "what is left out is emptied or set to false");
    assert_eq!(
        refusal(update(&tenant, named("Nothing", "x"), &[]).await),
        "ACCOUNT_TYPE_NOT_FOUND"
    );
}

#[tokio::test]
async fn the_fields_of_a_type_have_limits() {
    let tenant = Tenant::new().await;
    let with = |id: usize, name: usize, description: usize| AccountType {
        description: "é".repeat(description),
        ..named(&"é".repeat(id), &"É".repeat(name))
    };
    let created = tenant.try_account_type(with(50, 100, 1000)).await.unwrap();
    assert_eq!(
        (created.account_type_id.chars().count(), created.display_name.chars().count()),
        (50, 100)
    );
    let too_long = tenant.try_account_type(with(51, 101, 1001)).await;
    let expected =
        ["account_type.account_type_id", "account_type.display_name", "account_type.description"];
    assert_eq!(fields(too_long), expected);
    let answer =
        tenant.account_types().create_account_type(CreateAccountTypeRequest::default()).await;
    assert_eq!(fields(answer), ["account_type", "account_type.display_name"]);
    assert_eq!(
        fields(tenant.try_account_type(named("", "two\nlines")).await),
        ["account_type.display_name"]
    );
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn types_are_listed_in_the_order_asked_for_page_by_page() {
    let tenant = Tenant::new().await;
    for (id, name) in [("1", "beta"), ("2", "Gamma"), ("3", "ALPHA"), ("4", "delta")] {
        tenant.try_account_type(named(id, name)).await.unwrap();
    }
    tenant.deactivate("4").await;
    for (order_by, expected) in [
        (AccountTypeOrderBy::Unspecified, ["3", "1", "2"]),
        (AccountTypeOrderBy::DisplayName, ["3", "1", "2"]),
        (AccountTypeOrderBy::DisplayNameDesc, ["2", "1", "3"]),
        (AccountTypeOrderBy::CreateTime, ["1", "2", "3"]),
        (AccountTypeOrderBy::CreateTimeDesc, ["3", "2", "1"]),
    ] {
        let request = ListAccountTypesRequest {
            order_by: order_by.into(),
            page_size: 2,
            ..Default::default()
        };
        let first =
            tenant.account_types().list_account_types(request.clone()).await.unwrap().into_inner();
        let next = ListAccountTypesRequest { page_token: first.next_page_token, ..request };
        let second =
            tenant.account_types().list_account_types(next.clone()).await.unwrap().into_inner();
        assert_eq!((first.account_types.len(), &*second.next_page_token), (2, ""));
        let ids = first
            .account_types
            .into_iter()
            .chain(second.account_types)
            .map(|account_type| account_type.account_type_id);
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{order_by:?}");
        let other = ListAccountTypesRequest { show_inactive: true, ..next };
        assert_eq!(
            refusal(tenant.account_types().list_account_types(other).await),
            "INVALID_PAGE_TOKEN"
        );
    }
}
