//! Updates of accounts: masks, etags, and what is no change.

use customer_accounts::proto::{
    Account, AccountStatus, Address, Contact, POOL, UpdateAccountRequest,
};
use prost_reflect::DynamicMessage;
use serde_json::json;

use super::{acme, stored};
use crate::support::{
    Tenant, account,
    calls::{fields, later, mask, metadata, object, only},
    refusal, violations,
};

/// A tenant with Acme's account `a`, which has every field.
async fn with_acme() -> (Tenant, Account) {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Enterprise").await;
    let account = tenant.account(acme("a", "acme", "Enterprise")).await;
    (tenant, account)
}

#[tokio::test]
async fn without_a_mask_the_populated_fields_are_replaced_each_as_a_whole() {
    let (tenant, current) = with_acme().await;
    let wanted = Account {
        display_name: "Acme, Inc.".into(),
        billing_address: Some(Address { city: "Boston".into(), ..Default::default() }),
        preferences: Some(object(json!({ "language": "fr" }))),
        metadata: [("new".to_owned(), "1".to_owned())].into(),
        ..only("a")
    };
    let updated = tenant.update(wanted.clone(), &[]).await.unwrap();
    let expected = Account {
        display_name: wanted.display_name,
        billing_address: wanted.billing_address,
        preferences: wanted.preferences,
        metadata: wanted.metadata,
        ..current.clone()
    };
    assert_eq!(updated, stored(&expected, &updated), "empty and false fields stay as they are");
    assert_ne!(updated.etag, current.etag);
    assert_eq!(updated.create_time, current.create_time);
    assert!(later(updated.update_time, current.update_time));
    assert_eq!(tenant.get("a").await.unwrap(), updated);
}

#[tokio::test]
async fn a_star_replaces_all_fields_and_empties_those_left_out() {
    let (tenant, current) = with_acme().await;
    let wanted = Account { status: AccountStatus::Active.into(), ..account("a", "acme") };
    let updated = tenant.update(wanted.clone(), &["*"]).await.unwrap();
    assert_eq!(updated, stored(&wanted, &updated));
    assert_eq!(
        tenant.update(current.clone(), &["*"]).await.map_err(|_| ()),
        Err(()),
        "its etag is not the present one"
    );
    let back =
        tenant.update(Account { etag: String::new(), ..current.clone() }, &["*"]).await.unwrap();
    assert_eq!(back, stored(&current, &back));
    let nothing = tenant.update(only("a"), &["*"]).await;
    let required = [
        "account.status",
        "account.display_name",
        "account.organization_id",
        "account.primary_contact.email",
    ];
    assert_eq!(fields(nothing), required);
}

#[tokio::test]
async fn a_nested_path_changes_that_field_alone() {
    let (tenant, current) = with_acme().await;
    let wanted = Account {
        display_name: "not in the mask".into(),
        billing_address: Some(Address {
            city: "Boston".into(),
            country: "not in the mask".into(),
            ..Default::default()
        }),
        ..only("a")
    };
    let updated = tenant
        .update(wanted, &["billing_address.city", "billing_address.line2", "primary_contact.phone"])
        .await
        .unwrap();
    let mut expected = current.clone();
    let address = expected.billing_address.as_mut().unwrap();
    (address.city, address.line2) = ("Boston".into(), String::new());
    expected.primary_contact.as_mut().unwrap().phone = String::new();
    assert_eq!(updated, stored(&expected, &updated));

    // A message that was not there begins with the field; one that loses its last field is there no
    // more.
    tenant.update(only("a"), &["shipping_address"]).await.unwrap();
    let wanted = Account {
        shipping_address: Some(Address { city: "Bern".into(), ..Default::default() }),
        ..only("a")
    };
    let updated = tenant.update(wanted.clone(), &["shipping_address.city"]).await.unwrap();
    assert_eq!(updated.shipping_address, wanted.shipping_address);
    let updated = tenant.update(only("a"), &["shipping_address.city"]).await.unwrap();
    assert_eq!(updated.shipping_address, None);
    let wanted = Account {
        primary_contact: Some(Contact { phone: "1".into(), ..Default::default() }),
        ..only("a")
    };
    let answer = tenant.update(wanted, &["primary_contact.phone", "primary_contact.email"]).await;
    assert_eq!(fields(answer), ["account.primary_contact.email"]);
}

#[tokio::test]
async fn an_entry_of_the_metadata_is_changed_alone() {
    let (tenant, _) = with_acme().await;
    let set = |pairs: &[(&str, &str)]| Account {
        metadata: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..only("a")
    };
    let before = set(&[("crm", "1"), ("erp.id", "2"), ("kept", "3")]);
    tenant.update(before, &["metadata"]).await.unwrap();
    let wanted = set(&[("crm", "10"), ("kept", "30")]);
    let updated = tenant.update(wanted.clone(), &["metadata.crm", "metadata.`erp.id`"]).await;
    assert_eq!(updated.unwrap().metadata, set(&[("crm", "10"), ("kept", "3")]).metadata);
    let again = tenant.update(wanted, &["metadata.crm"]).await.unwrap();
    assert_eq!(again, tenant.get("a").await.unwrap(), "nothing changes");
    // The rules are those of the metadata.
    let wrong = tenant.update(set(&[("crm", "\u{1}")]), &["metadata.crm"]).await;
    assert_eq!(fields(wrong), ["account.metadata[\"crm\"]"]);
    // Also that of how many entries there may be, however few are sent.
    let many = (0..64).map(|i| (format!("k{i}"), String::new()));
    let full = Account { metadata: many.collect(), ..only("a") };
    let full = tenant.update(full, &["metadata"]).await.unwrap();
    let one_more = tenant.update(set(&[("crm", "1")]), &["metadata.crm"]).await;
    assert_eq!(fields(one_more), ["account.metadata"]);
    let instead = tenant.update(set(&[("crm", "1")]), &["metadata.crm", "metadata.k0"]).await;
    assert_eq!(instead.unwrap().metadata.len(), full.metadata.len());
}

#[tokio::test]
async fn each_path_that_is_no_field_is_a_violation() {
    let (tenant, current) = with_acme().await;
    let wrong = [
        "nickname",
        "Display_Name",
        "displayName",
        "",
        "billing_address.town",
        "display_name.first",
        "metadata.crm.id",
        "preferences.language",
        "* ",
    ];
    for path in wrong {
        assert_eq!(
            fields(tenant.update(Account { comment: "new".into(), ..only("a") }, &[path]).await),
            ["update_mask"],
            "{path:?}"
        );
    }
    let all = violations(tenant.update(only("a"), &["comment", "nickname", "town"]).await);
    let all: Vec<_> = all.iter().map(|(field, rule)| format!("{field} {rule}")).collect();
    assert_eq!(
        all,
        [
            "update_mask \"nickname\" is not a field of Account",
            "update_mask \"town\" is not a field of Account"
        ]
    );
    assert_eq!(tenant.get("a").await.unwrap(), current);
}

#[tokio::test]
async fn the_id_and_what_only_the_service_sets_cannot_be_changed() {
    let (tenant, current) = with_acme().await;
    let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let wanted = Account { create_time: long_ago, update_time: long_ago, ..only("a") };
    let paths = ["account_id", "etag", "create_time", "update_time"];
    assert_eq!(tenant.update(wanted.clone(), &paths).await.unwrap(), current, "by a mask");
    assert_eq!(tenant.update(wanted.clone(), &[]).await.unwrap(), current, "without a mask");
    let wanted = Account { comment: "new".into(), ..wanted };
    let updated = tenant.update(wanted, &["account_id", "create_time", "comment"]).await.unwrap();
    assert_eq!(updated, stored(&Account { comment: "new".into(), ..current.clone() }, &updated));
    assert_eq!(updated.create_time, current.create_time);
    // Another id is another account.
    let other = Account { account_id: "b".into(), comment: "new".into(), ..only("b") };
    assert_eq!(
        refusal(tenant.update(other, &["account_id", "comment"]).await),
        "ACCOUNT_NOT_FOUND"
    );
    assert_eq!(refusal(tenant.get("b").await), "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn every_optional_field_can_be_emptied_by_naming_it_and_a_required_one_cannot() {
    let (tenant, mut current) = with_acme().await;
    let descriptor = POOL.get_message_by_name("accounts.v1.Account").unwrap();
    let required = ["account_id", "display_name", "organization_id", "status", "primary_contact"];
    let kept = |name: &str| {
        required.contains(&name) || ["etag", "create_time", "update_time"].contains(&name)
    };
    for field in descriptor.fields().filter(|field| !kept(field.name())) {
        let updated = tenant.update(only("a"), &[field.name()]).await.unwrap();
        let mut expected = DynamicMessage::new(descriptor.clone());
        expected.transcode_from(&current).unwrap();
        expected.clear_field(&field);
        assert_eq!(
            updated,
            stored(&expected.transcode_to().unwrap(), &updated),
            "{}",
            field.name()
        );
        current = updated;
    }
    let bare = Account { display_name: current.display_name.clone(), ..account("a", "acme") };
    let primary_contact = current.primary_contact.clone();
    let bare = Account { status: AccountStatus::Suspended.into(), primary_contact, ..bare };
    assert_eq!(current, stored(&bare, &current));
    for field in ["display_name", "organization_id", "status"] {
        assert_eq!(fields(tenant.update(only("a"), &[field]).await), [format!("account.{field}")]);
    }
    assert_eq!(
        fields(tenant.update(only("a"), &["primary_contact"]).await),
        ["account.primary_contact.email"]
    );
}

#[tokio::test]
async fn an_update_with_a_stale_etag_is_refused_and_without_one_it_is_not_checked() {
    let (tenant, read) = with_acme().await;
    let comment = |comment: &str, etag: &str| Account {
        comment: comment.into(),
        etag: etag.into(),
        ..only("a")
    };
    let second = tenant.update(comment("second", &read.etag), &[]).await.unwrap();
    let stale = tenant.update(comment("third", &read.etag), &[]).await;
    assert_eq!(refusal(&stale), "ETAG_MISMATCH");
    assert_eq!(metadata(stale, "account_id"), "a");
    assert_eq!(
        refusal(tenant.update(comment("third", "nonsense"), &["comment"]).await),
        "ETAG_MISMATCH"
    );
    assert_eq!(
        refusal(tenant.update(comment("second", &read.etag), &[]).await),
        "ETAG_MISMATCH",
        "even if nothing changes"
    );
    assert_eq!(tenant.get("a").await.unwrap(), second);
    let third = tenant.update(comment("third", ""), &[]).await.unwrap();
    assert!(third.comment == "third" && third.etag != second.etag && third.etag != read.etag);
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_etag_and_leaves_no_trace() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Enterprise").await;
    // Numbers of every size are the same number when they come back: a few known to be difficult,
    // and many without a pattern.
    let difficult =
        [0.1 + 0.2, 1.0, -0.0, 1e16, -1e16, 1e19, 1e20, 1e22, f64::MAX, f64::MIN_POSITIVE, 5e-324];
    let patterns = (0..200_u64)
        .map(|i| f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .filter(|number| number.is_finite());
    let numbers: Vec<_> = difficult.into_iter().chain(patterns).collect();
    let sent = acme("a", "acme", "Enterprise");
    let sent =
        Account { preferences: Some(object(json!({ "numbers": numbers, "empty": {} }))), ..sent };
    let current = tenant.account(sent.clone()).await;
    assert_eq!(current, stored(&sent, &current));
    let trail = tenant.trail().await;
    assert_eq!(tenant.update(current.clone(), &["*"]).await.unwrap(), current);
    assert_eq!(tenant.update(current.clone(), &[]).await.unwrap(), current);
    assert_eq!(
        tenant.update(current.clone(), &["preferences", "metadata"]).await.unwrap(),
        current
    );
    assert_eq!(tenant.update(only("a"), &[]).await.unwrap(), current, "nothing is asked for");
    assert_eq!(tenant.get("a").await.unwrap(), current);
    assert_eq!(tenant.trail().await, trail);
}

#[tokio::test]
async fn every_change_has_a_new_etag_and_an_activity() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let mut current = tenant.account(account("a", "acme")).await;
    let changes = [
        Account { preferences: Some(object(json!({ "": {} }))), ..only("a") },
        Account { preferences: Some(object(json!({ "": [] }))), ..only("a") },
        Account { metadata: [("k".to_owned(), String::new())].into(), ..only("a") },
        Account { is_primary: true, ..only("a") },
        Account { status_reason: "x".into(), ..only("a") },
        Account { display_name: "X".into(), ..only("a") },
        Account { display_name: "x".into(), ..only("a") },
    ];
    for (count, change) in (2..).zip(changes) {
        let updated = tenant.update(change.clone(), &[]).await.unwrap();
        assert_ne!(updated.etag, current.etag, "{change:?}");
        assert_eq!(tenant.trail_of("a").await.len(), count, "{change:?}");
        current = updated;
    }
    // An empty object is none, so that emptying it again is no change.
    let empty = Account { preferences: Some(object(json!({}))), ..account("b", "acme") };
    let created = tenant.account(empty).await;
    assert_eq!(created.preferences, None);
    assert_eq!(tenant.update(only("b"), &["preferences"]).await.unwrap(), created);
    assert_eq!(tenant.trail_of("b").await.len(), 1);
}

#[tokio::test]
async fn an_update_names_its_account() {
    let (tenant, _) = with_acme().await;
    let mut accounts = tenant.accounts();
    let nothing = UpdateAccountRequest { update_mask: mask(&["nickname"]), ..Default::default() };
    assert_eq!(
        fields(accounts.update_account(nothing).await),
        ["account", "account.account_id", "update_mask"]
    );
    let answer = tenant.update(Account { comment: "new".into(), ..Default::default() }, &[]).await;
    assert_eq!(fields(answer), ["account.account_id"]);
}
