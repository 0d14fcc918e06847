//! Accounts: created, read, deleted; their ids, types at creation, and the primary account of an
//! organization.

mod fields;
mod lists;
mod managers;
mod status;
mod updates;

use customer_accounts::proto::{
    Account, AccountStatus, Address, BatchGetAccountsRequest, Contact, CreateAccountRequest, POOL,
};
use futures_util::future::join_all;
use prost_reflect::DynamicMessage;
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{account_type, fields, later, metadata, object, only},
    refusal, refused,
};

/// An account that has every field an account can be given, but people.
fn acme(id: &str, organization_id: &str, account_type_id: &str) -> Account {
    let address = |line1: &str, city: &str, postal_code: &str, country: &str| {
        Some(Address {
            line1: line1.into(),
            line2: "c/o Jane Doe".into(),
            city: city.into(),
            state: format!("State of {city}"),
            postal_code: postal_code.into(),
            country: country.into(),
        })
    };
    Account {
        account_id: id.into(),
        display_name: "Acme Corporation".into(),
        description: "Anvils,\nrockets\tand tunnels".into(),
        organization_id: organization_id.into(),
        account_type_id: account_type_id.into(),
        status: AccountStatus::Suspended.into(),
        status_reason: "waits for its credit check".into(),
        primary_contact: Some(Contact {
            name: "Jane Doe".into(),
            email: "jane.doe@acme.example".into(),
            phone: "+1 (555) 010-0000".into(),
            ..Default::default()
        }),
        billing_address: address("1 Invoice Way", "New York", "10001", "US"),
        shipping_address: address("2 Loading Dock", "Zürich", "8001", "CH"),
        postal_address: address("PO box 3", "London", "SW1A 1AA", "GB"),
        official_address: address("4 Registry Lane", "東京", "100-0001", "JP"),
        billing_details: r#"{"iban": "DE02120300000000202051", "terms": 30}"#.into(),
        preferences: Some(object(json!({
            "language": "en",
            "seats": 500,
            "ratio": 0.25,
            "newsletter": false,
            "nothing": null,
            "notifications": { "channels": ["email", "sms", { "webhook": { "retries": [1, 2, 4] } }], "quiet": {} },
            "empty": [],
        }))),
        is_primary: true,
        comment: "Came through the road runner campaign.".into(),
        metadata: [
            ("crm.id".to_owned(), "0042".to_owned()),
            ("region/emea-1".to_owned(), String::new()),
        ]
        .into(),
        tax_id: "DE811128135".into(),
        ..Default::default()
    }
}

/// What `sent` looks like once it is stored: with what only the service sets.
fn stored(sent: &Account, by: &Account) -> Account {
    Account {
        etag: by.etag.clone(),
        create_time: by.create_time,
        update_time: by.update_time,
        ..sent.clone()
    }
}

async fn create(tenant: &Tenant, request: CreateAccountRequest) -> Result<Account, Status> {
    tenant
        .accounts()
        .create_account(request)
        .await
        .map(|response| response.into_inner().account.unwrap())
}

/// The ids of the organization's primary accounts.
async fn primaries(tenant: &Tenant, ids: &[&str]) -> Vec<String> {
    let accounts = batch(tenant, ids).await.unwrap();
    accounts
        .into_iter()
        .filter(|account| account.is_primary)
        .map(|account| account.account_id)
        .collect()
}

async fn batch(tenant: &Tenant, ids: &[&str]) -> Result<Vec<Account>, Status> {
    let request =
        BatchGetAccountsRequest { account_ids: ids.iter().map(ToString::to_string).collect() };
    tenant
        .accounts()
        .batch_get_accounts(request)
        .await
        .map(|response| response.into_inner().accounts)
}

/// UAT-C-CA-ACCT-001
#[tokio::test]
async fn acme_corporation_is_created_with_all_fields_and_an_own_id_of_fifty_characters() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Enterprise").await;
    let id = format!("acme-é-{}", "x".repeat(43));
    assert_eq!(id.chars().count(), 50);
    let sent = acme(&id, "acme", "Enterprise");
    let created = tenant.account(sent.clone()).await;
    assert_eq!(created, stored(&sent, &created));
    assert!(
        !created.etag.is_empty()
            && created.create_time.is_some()
            && created.update_time == created.create_time
    );

    let again = || async { tenant.try_account(account(&id, "acme")).await };
    assert_eq!(refusal(again().await), "ACCOUNT_ALREADY_EXISTS");
    assert_eq!(metadata(again().await, "account_id"), id);
    assert_eq!(refused(again().await).1.resource_info().unwrap().resource_name, id);
    assert_eq!(tenant.get(&id).await.unwrap(), created, "the first one is untouched");

    assert_eq!(
        fields(tenant.try_account(acme(&format!("{id}x"), "acme", "Enterprise")).await),
        ["account.account_id"]
    );
}

#[tokio::test]
async fn every_field_of_an_account_comes_back_as_it_was_sent() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Enterprise").await;
    tenant.staff("sam").await;
    let sent = Account { account_manager_id: "sam".into(), ..acme("a", "acme", "Enterprise") };
    // No field is forgotten here: each is either sent, set by the service, or a contact, whom a new
    // account cannot have yet.
    let descriptor = POOL.get_message_by_name("accounts.v1.Account").unwrap();
    let mut message = DynamicMessage::new(descriptor.clone());
    message.transcode_from(&sent).unwrap();
    let missing = descriptor
        .fields()
        .filter(|field| !message.has_field(field))
        .map(|field| field.name().to_owned());
    assert_eq!(
        missing.collect::<Vec<_>>(),
        ["billing_contact_id", "cc_billing_contact_id", "etag", "create_time", "update_time"]
    );

    let created = tenant.account(sent.clone()).await;
    assert_eq!(created, stored(&sent, &created));
    assert_eq!(tenant.get("a").await.unwrap(), created);
    assert_eq!(batch(&tenant, &["a"]).await.unwrap(), std::slice::from_ref(&created));
    let listed = tenant
        .accounts()
        .list_accounts(customer_accounts::proto::ListAccountsRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().accounts, [created]);
}

#[tokio::test]
async fn an_account_needs_only_a_name_and_an_organization() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let sent = Account { account_id: String::new(), ..account("", "acme") };
    let (first, second) =
        (tenant.account(Account { display_name: "A".into(), ..sent.clone() }).await, {
            tenant.account(Account { display_name: "A".into(), ..sent.clone() }).await
        });
    for created in [&first, &second] {
        let (prefix, suffix) = created.account_id.split_once('_').unwrap();
        assert_eq!((prefix, suffix.len()), ("acct", 26), "a TypeID");
        let bare = Account {
            account_id: created.account_id.clone(),
            display_name: "A".into(),
            ..sent.clone()
        };
        let bare = Account { status: AccountStatus::Active.into(), ..bare };
        assert_eq!(*created, stored(&bare, created));
    }
    assert_ne!(first.account_id, second.account_id);
}

#[tokio::test]
async fn the_etag_and_the_times_of_a_new_account_are_the_services() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let sent = Account {
        etag: "mine".into(),
        create_time: long_ago,
        update_time: long_ago,
        ..account("a", "acme")
    };
    let created = tenant.account(sent).await;
    assert_ne!(created.etag, "mine");
    assert!(later(created.create_time, long_ago) && later(created.update_time, long_ago));
}

#[tokio::test]
async fn an_account_is_created_in_an_organization_that_exists() {
    let tenant = Tenant::new().await;
    assert_eq!(
        refusal(tenant.try_account(account("a", "nowhere")).await),
        "ORGANIZATION_NOT_FOUND"
    );
    let primary = Account { is_primary: true, ..account("a", "nowhere") };
    assert_eq!(metadata(tenant.try_account(primary).await, "organization_id"), "nowhere");
    let other = Tenant::new().await;
    other.organization("theirs", "").await;
    assert_eq!(
        refusal(tenant.try_account(account("a", "theirs")).await),
        "ORGANIZATION_NOT_FOUND",
        "of another tenant"
    );
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn a_new_account_without_a_type_gets_the_default_type_unless_it_is_to_have_none() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Enterprise").await;
    assert_eq!(
        tenant.account(account("before", "acme")).await.account_type_id,
        "",
        "there is no default yet"
    );
    tenant.default_type("Trial").await;
    assert_eq!(tenant.account(account("defaulted", "acme")).await.account_type_id, "Trial");
    let chosen = Account { account_type_id: "Enterprise".into(), ..account("chosen", "acme") };
    assert_eq!(tenant.account(chosen).await.account_type_id, "Enterprise");
    let unassigned = |account| CreateAccountRequest {
        account: Some(account),
        without_account_type: true,
        ..Default::default()
    };
    let created = create(&tenant, unassigned(account("unassigned", "acme"))).await.unwrap();
    assert_eq!(created.account_type_id, "");
    let both = Account { account_type_id: "Enterprise".into(), ..account("both", "acme") };
    assert_eq!(fields(create(&tenant, unassigned(both)).await), ["without_account_type"]);
    assert_eq!(
        tenant.get("before").await.unwrap().account_type_id,
        "",
        "a default is for new accounts"
    );
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn an_account_cannot_be_created_with_an_unknown_or_a_deactivated_type() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Legacy").await;
    tenant.deactivate("Legacy").await;
    let with = |account_type_id: &str| Account {
        account_type_id: account_type_id.into(),
        ..account("a", "acme")
    };
    let unknown = tenant.try_account(with("Nothing")).await;
    assert_eq!(refusal(&unknown), "ACCOUNT_TYPE_NOT_FOUND");
    assert_eq!(metadata(unknown, "account_type_id"), "Nothing");
    let inactive = tenant.try_account(with("Legacy")).await;
    assert_eq!(refusal(&inactive), "ACCOUNT_TYPE_INACTIVE");
    assert_eq!(metadata(&inactive, "account_type_id"), "Legacy");
    assert_eq!(
        refused(inactive).1.precondition_failure().unwrap().violations[0].subject,
        "account_type/Legacy"
    );
    assert_eq!(refusal(tenant.get("a").await), "ACCOUNT_NOT_FOUND");
    // Another tenant's type is unknown here.
    let other = Tenant::new().await;
    other.try_account_type(account_type("Theirs")).await.unwrap();
    assert_eq!(refusal(tenant.try_account(with("Theirs")).await), "ACCOUNT_TYPE_NOT_FOUND");
}

#[tokio::test]
async fn deleting_an_account_frees_its_id_for_another_account() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let first = tenant.account(account("a", "acme")).await;
    tenant.delete("a", "").await.unwrap();
    assert_eq!(refusal(tenant.get("a").await), "ACCOUNT_NOT_FOUND");
    assert_eq!(refusal(tenant.delete("a", "").await), "ACCOUNT_NOT_FOUND");
    assert_eq!(refusal(tenant.update(account("a", "acme"), &[]).await), "ACCOUNT_NOT_FOUND");
    let second = tenant.account(account("a", "acme")).await;
    assert_ne!(second.etag, first.etag, "whoever read the first cannot overwrite the second");
    assert_eq!(refusal(tenant.delete("a", &first.etag).await), "ETAG_MISMATCH");
    assert_eq!(tenant.get("a").await.unwrap(), second);
}

#[tokio::test]
async fn an_account_is_deleted_only_as_it_was_read_when_an_etag_is_sent() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let read = tenant.account(account("a", "acme")).await;
    let changed = tenant.update(Account { comment: "new".into(), ..only("a") }, &[]).await.unwrap();
    let stale = tenant.delete("a", &read.etag).await;
    assert_eq!(refusal(&stale), "ETAG_MISMATCH");
    assert_eq!(metadata(stale, "account_id"), "a");
    tenant.delete("a", &changed.etag).await.unwrap();
    assert_eq!(refusal(tenant.get("a").await), "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn a_batch_get_answers_in_the_order_asked_repeating_repeated_ids() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for id in ["a", "b", "c"] {
        tenant.account(account(id, "acme")).await;
    }
    let order = ["c", "a", "c", "b", "a"];
    let ids = batch(&tenant, &order)
        .await
        .unwrap()
        .into_iter()
        .map(|account| account.account_id)
        .collect::<Vec<_>>();
    assert_eq!(ids, order);
    let most = batch(&tenant, &["b"; 1000]).await.unwrap();
    assert!(most.len() == 1000 && most.iter().all(|account| account.account_id == "b"));
}

#[tokio::test]
async fn a_batch_get_fails_as_a_whole_and_names_the_account_that_is_missing() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account(account("a", "acme")).await;
    let other = Tenant::new().await;
    other.organization("acme", "").await;
    other.account(account("theirs", "acme")).await;
    for unknown in ["nobody", "theirs"] {
        let answer = batch(&tenant, &["a", unknown]).await;
        assert_eq!(refusal(&answer), "ACCOUNT_NOT_FOUND");
        assert_eq!(metadata(answer, "account_id"), unknown);
    }
    assert_eq!(fields(batch(&tenant, &[]).await), ["account_ids"]);
    assert_eq!(fields(batch(&tenant, &["a"; 1001]).await), ["account_ids"]);
    assert_eq!(
        fields(batch(&tenant, &["a", "", &"x".repeat(51)]).await),
        ["account_ids[1]", "account_ids[2]"]
    );
}

#[tokio::test]
async fn making_an_account_primary_clears_the_flag_of_the_present_primary_account() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.organization("other", "").await;
    let primary = |id: &str, organization_id: &str| Account {
        is_primary: true,
        ..account(id, organization_id)
    };
    let elsewhere = tenant.account(primary("elsewhere", "other")).await;
    let first = tenant.account(primary("first", "acme")).await;
    assert!(first.is_primary);

    // By creating another one.
    tenant.account(primary("second", "acme")).await;
    let cleared = tenant.get("first").await.unwrap();
    assert!(
        !cleared.is_primary
            && cleared.etag != first.etag
            && later(cleared.update_time, first.update_time)
    );
    let activity = tenant.trail_of("first").await.pop().unwrap();
    assert_eq!(
        (&*activity.action, &*activity.method),
        ("account.updated", "accounts.v1.AccountService/CreateAccount")
    );
    assert_eq!(
        activity.changes,
        json!([{ "field": "is_primary", "before": true, "after": false }])
    );

    // By updating another one.
    tenant.update(Account { is_primary: true, ..only("first") }, &[]).await.unwrap();
    assert_eq!(primaries(&tenant, &["first", "second", "elsewhere"]).await, ["first", "elsewhere"]);
    let activity = tenant.trail_of("second").await.pop().unwrap();
    assert_eq!(
        (&*activity.action, &*activity.method),
        ("account.updated", "accounts.v1.AccountService/UpdateAccount")
    );
    assert_eq!(
        activity.changes,
        json!([{ "field": "is_primary", "before": true, "after": false }])
    );

    // An organization can also have none, and others are not concerned.
    tenant.update(only("first"), &["is_primary"]).await.unwrap();
    assert_eq!(primaries(&tenant, &["first", "second", "elsewhere"]).await, ["elsewhere"]);
    assert_eq!(tenant.get("elsewhere").await.unwrap(), elsewhere);
}

#[tokio::test]
async fn a_primary_account_that_moves_takes_the_place_of_the_primary_account_there() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.organization("other", "").await;
    let here = tenant.account(Account { is_primary: true, ..account("here", "acme") }).await;
    let there = tenant.account(Account { is_primary: true, ..account("there", "other") }).await;
    tenant.account(account("plain", "acme")).await;
    let to_other = |id: &str| Account { organization_id: "other".into(), ..only(id) };

    tenant.update(to_other("plain"), &[]).await.unwrap();
    assert_eq!(
        primaries(&tenant, &["here", "there", "plain"]).await,
        ["here", "there"],
        "an account without the flag"
    );

    let moved = tenant.update(to_other("here"), &[]).await.unwrap();
    assert!(moved.is_primary && moved.organization_id == "other" && moved.etag != here.etag);
    let cleared = tenant.get("there").await.unwrap();
    assert!(!cleared.is_primary && cleared.etag != there.etag);
    let activity = tenant.trail_of("there").await.pop().unwrap();
    assert_eq!(activity.change("is_primary"), (&json!(true), &json!(false)));
    let answer =
        tenant.update(Account { organization_id: "nowhere".into(), ..only("here") }, &[]).await;
    assert_eq!(refusal(answer), "ORGANIZATION_NOT_FOUND");
    let answer =
        tenant.update(Account { organization_id: "nowhere".into(), ..only("plain") }, &[]).await;
    assert_eq!(refusal(answer), "ORGANIZATION_NOT_FOUND");
}

#[tokio::test]
async fn of_those_who_race_to_be_primary_exactly_one_is_in_the_end() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let ids: Vec<_> = (0..12).map(|i| format!("a{i}")).collect();
    // Half are created as primary, half become it.
    for id in &ids[6..] {
        tenant.account(account(id, "acme")).await;
    }
    let answers = join_all(ids.iter().enumerate().map(|(i, id)| {
        let tenant = tenant.clone();
        async move {
            match i {
                0..6 => {
                    tenant.try_account(Account { is_primary: true, ..account(id, "acme") }).await
                }
                _ => tenant.update(Account { is_primary: true, ..only(id) }, &[]).await,
            }
        }
    }))
    .await;
    for answer in answers {
        assert!(answer.unwrap().is_primary);
    }
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    assert_eq!(primaries(&tenant, &ids).await.len(), 1);
}
