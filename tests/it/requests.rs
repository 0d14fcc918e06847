//! What every changing call has in common: request ids, `validate_only` and the activity trail.

use chrono::{TimeDelta, Utc};
use customer_accounts::{
    db::{Meta, Tx},
    proto::{
        Account, AccountType, CreateAccountRequest, CreateAccountTypeRequest,
        CreateOrganizationRequest, DeactivateAccountTypeRequest, DeleteAccountRequest,
        ListAccountsRequest, Organization, UpdateAccountRequest, UpdateAccountTypeRequest,
    },
    schema::{accounts, activities, organizations, requests},
    validate::Violations,
};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{account_type, fields, mask, only},
    refusal, shared,
};

async fn with_organization() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant
}

fn creation(request_id: &str, account: Account) -> CreateAccountRequest {
    CreateAccountRequest {
        account: Some(account),
        request_id: request_id.into(),
        ..Default::default()
    }
}

fn comment(request_id: &str, comment: &str) -> UpdateAccountRequest {
    let account = Account { comment: comment.into(), ..only("a") };
    UpdateAccountRequest {
        account: Some(account),
        request_id: request_id.into(),
        ..Default::default()
    }
}

fn deletion(request_id: &str) -> DeleteAccountRequest {
    DeleteAccountRequest {
        account_id: "a".into(),
        request_id: request_id.into(),
        ..Default::default()
    }
}

async fn create(tenant: &Tenant, request: CreateAccountRequest) -> Result<Account, Status> {
    tenant
        .accounts()
        .create_account(request)
        .await
        .map(|response| response.into_inner().account.unwrap())
}

async fn update(tenant: &Tenant, request: UpdateAccountRequest) -> Result<Account, Status> {
    tenant
        .accounts()
        .update_account(request)
        .await
        .map(|response| response.into_inner().account.unwrap())
}

async fn delete(tenant: &Tenant, request: DeleteAccountRequest) -> Result<(), Status> {
    tenant.accounts().delete_account(request).await.map(|_| ())
}

/// How many rows the tenant has: request ids, activities, organizations and accounts.
async fn rows(tenant: &Tenant) -> [i64; 4] {
    let caller = tenant.caller();
    let rows = async |tx: &Tx| {
        Ok([
            requests::table
                .filter(tx.owns(requests::tenant_id))
                .count()
                .get_result(&mut tx.conn())
                .await?,
            activities::table
                .filter(tx.owns(activities::tenant_id))
                .count()
                .get_result(&mut tx.conn())
                .await?,
            organizations::table
                .filter(tx.owns(organizations::tenant_id))
                .count()
                .get_result(&mut tx.conn())
                .await?,
            accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .count()
                .get_result(&mut tx.conn())
                .await?,
        ])
    };
    shared().on_its_runtime(async move { shared().db.read(&caller, rows).await.unwrap() }).await
}

/// Makes all answers of the tenant older.
async fn age(tenant: &Tenant, by: TimeDelta) {
    let caller = tenant.caller();
    let meta = Meta::of(&mut Violations::default(), &caller, &CreateAccountRequest::default());
    let aged = async move {
        let work = shared().db.write(&caller, &meta, async |tx| {
            diesel::update(requests::table.filter(tx.owns(requests::tenant_id)))
                .set(requests::create_time.eq(Utc::now() - by))
                .execute(&mut tx.conn())
                .await?;
            Ok(())
        });
        work.await.unwrap();
    };
    shared().on_its_runtime(aged).await;
}

const REUSED: &str = "REQUEST_ID_REUSED";

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_changes_nothing() {
    let tenant = with_organization().await;
    // Its id is generated: a second account would have another one.
    let sent = || {
        creation(
            "r1",
            Account { display_name: "A".into(), is_primary: true, ..account("", "acme") },
        )
    };
    let first = create(&tenant, sent()).await.unwrap();
    let before = rows(&tenant).await;
    assert_eq!(create(&tenant, sent()).await.unwrap(), first);
    assert_eq!(create(&tenant, sent()).await.unwrap(), first);
    assert_eq!(rows(&tenant).await, before);
    assert_eq!(tenant.get(&first.account_id).await.unwrap(), first);
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_even_after_the_account_has_changed() {
    let tenant = with_organization().await;
    let created = create(&tenant, creation("create", account("a", "acme"))).await.unwrap();
    let updated = update(&tenant, comment("update", "first")).await.unwrap();
    let latest = update(&tenant, comment("", "latest")).await.unwrap();
    let before = rows(&tenant).await;
    assert_eq!(create(&tenant, creation("create", account("a", "acme"))).await.unwrap(), created);
    assert_eq!(update(&tenant, comment("update", "first")).await.unwrap(), updated);
    assert_eq!(tenant.get("a").await.unwrap(), latest);
    delete(&tenant, deletion("delete")).await.unwrap();
    assert_eq!(
        create(&tenant, creation("create", account("a", "acme"))).await.unwrap(),
        created,
        "also when it is gone"
    );
    assert_eq!(refusal(tenant.get("a").await), "ACCOUNT_NOT_FOUND");
    delete(&tenant, deletion("delete")).await.expect("a repeated deletion succeeds again");
    let again = tenant.account(account("a", "acme")).await;
    delete(&tenant, deletion("delete")).await.expect("and again");
    assert_eq!(tenant.get("a").await.unwrap(), again, "without deleting what came since");
    let after = rows(&tenant).await;
    assert_eq!(
        (after[0] - before[0], after[1] - before[1]),
        (1, 3),
        "one deletion, with the link, and one creation since"
    );
}

#[tokio::test]
async fn without_a_request_id_a_repeat_is_a_new_call() {
    let tenant = with_organization().await;
    let sent = || creation("", Account { display_name: "A".into(), ..account("", "acme") });
    let (first, second) =
        (create(&tenant, sent()).await.unwrap(), create(&tenant, sent()).await.unwrap());
    assert_ne!(first.account_id, second.account_id);
    assert_eq!(rows(&tenant).await[0], 0, "and nothing is kept for a repeat");
}

#[tokio::test]
async fn every_changing_call_can_be_repeated() {
    let tenant = Tenant::new().await;
    let organization = || CreateOrganizationRequest {
        organization: Some(Organization { display_name: "Acme".into(), ..Default::default() }),
        request_id: "organization".into(),
        ..Default::default()
    };
    let creation = || CreateAccountTypeRequest {
        account_type: Some(AccountType { account_type_id: String::new(), ..account_type("Trial") }),
        request_id: "type".into(),
        ..Default::default()
    };
    let (mut organizations, mut types) = (tenant.organizations(), tenant.account_types());
    let first = organizations.create_organization(organization()).await.unwrap().into_inner();
    assert_eq!(
        organizations.create_organization(organization()).await.unwrap().into_inner(),
        first
    );
    let first = types.create_account_type(creation()).await.unwrap().into_inner();
    assert_eq!(types.create_account_type(creation()).await.unwrap().into_inner(), first);
    let id = first.account_type.unwrap().account_type_id;
    let rename = || UpdateAccountTypeRequest {
        account_type: Some(AccountType {
            account_type_id: id.clone(),
            ..account_type("Evaluation")
        }),
        update_mask: mask(&["display_name"]),
        request_id: "rename".into(),
        ..Default::default()
    };
    let deactivation = || DeactivateAccountTypeRequest {
        account_type_id: id.clone(),
        request_id: "deactivate".into(),
        ..Default::default()
    };
    let renamed = types.update_account_type(rename()).await.unwrap().into_inner();
    let deactivated = types.deactivate_account_type(deactivation()).await.unwrap().into_inner();
    assert_eq!(types.update_account_type(rename()).await.unwrap().into_inner(), renamed);
    assert_eq!(
        types.deactivate_account_type(deactivation()).await.unwrap().into_inner(),
        deactivated
    );
    assert_eq!(
        types
            .create_account_type(creation())
            .await
            .unwrap()
            .into_inner()
            .account_type
            .unwrap()
            .display_name,
        "Trial"
    );
    assert_eq!(rows(&tenant).await, [4, 4, 1, 0]);
}

#[tokio::test]
async fn a_request_id_belongs_to_one_request_of_one_actor() {
    let tenant = with_organization().await;
    let created = create(&tenant, creation("r1", account("a", "acme"))).await.unwrap();
    let before = rows(&tenant).await;
    let answer = create(&tenant, creation("r1", account("b", "acme"))).await;
    assert_eq!(refusal(&answer), REUSED, "another request");
    assert_eq!(fields(answer), ["request_id"]);
    let other = Account { comment: "x".into(), ..account("a", "acme") };
    assert_eq!(refusal(create(&tenant, creation("r1", other)).await), REUSED, "one field more");
    assert_eq!(refusal(update(&tenant, comment("r1", "x")).await), REUSED, "another call");
    assert_eq!(refusal(delete(&tenant, deletion("r1")).await), REUSED, "another call");
    // Validating answers what the real call would.
    let validated = |id: &str| CreateAccountRequest {
        validate_only: true,
        ..creation("r1", account(id, "acme"))
    };
    assert_eq!(create(&tenant, validated("a")).await.unwrap(), created);
    assert_eq!(refusal(create(&tenant, validated("b")).await), REUSED, "another request");
    assert_eq!(rows(&tenant).await, before);
    assert_eq!(
        create(&tenant, creation("r1", account("a", "acme"))).await.unwrap(),
        created,
        "the first one is still known"
    );
}

#[tokio::test]
async fn two_actors_may_use_the_same_request_id() {
    let tenant = with_organization().await;
    let first = create(&tenant, creation("r1", account("a", "acme"))).await.unwrap();
    let someone = tenant.with_actor("someone else");
    let taken = refusal(create(&someone, creation("r1", account("a", "acme"))).await);
    assert_eq!(taken, "ACCOUNT_ALREADY_EXISTS", "another actor does not get the kept answer");
    let second = create(&someone, creation("r1", account("b", "acme"))).await.unwrap();
    assert_eq!(create(&someone, creation("r1", account("b", "acme"))).await.unwrap(), second);
    assert_eq!(create(&tenant, creation("r1", account("a", "acme"))).await.unwrap(), first);
}

#[tokio::test]
async fn two_tenants_may_use_the_same_request_id() {
    let (one, two) = (with_organization().await, with_organization().await);
    let first = create(&one, creation("r1", account("a", "acme"))).await.unwrap();
    let other = Account { comment: "two".into(), ..account("a", "acme") };
    let second = create(&two, creation("r1", other.clone())).await.unwrap();
    assert_eq!((&*first.comment, &*second.comment), ("", "two"));
    assert_eq!(create(&two, creation("r1", other)).await.unwrap(), second);
    assert_eq!(one.get("a").await.unwrap(), first);
}

#[tokio::test]
async fn twenty_identical_requests_at_once_create_one_account_and_get_one_answer() {
    let tenant = with_organization().await;
    let sent = creation("r1", Account { display_name: "A".into(), ..account("", "acme") });
    let answers = join_all((0..20).map(|_| {
        let (tenant, sent) = (tenant.clone(), sent.clone());
        async move { create(&tenant, sent).await }
    }))
    .await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(tenant.list(ListAccountsRequest::default()).await, [answers[0].account_id.clone()]);
    assert_eq!(rows(&tenant).await, [1, 2, 1, 1]);
}

#[tokio::test]
async fn of_different_requests_at_once_under_one_id_one_is_carried_out() {
    let tenant = with_organization().await;
    let ids: Vec<_> = (0..10).map(|i| format!("a{i}")).collect();
    let answers =
        join_all(ids.iter().map(|id| create(&tenant, creation("r1", account(id, "acme"))))).await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 9));
    for answer in refused {
        assert_eq!(refusal(answer), REUSED);
    }
    assert_eq!(rows(&tenant).await, [1, 2, 1, 1]);
}

#[tokio::test]
async fn a_request_that_failed_can_be_sent_again_under_its_id() {
    let tenant = Tenant::new().await;
    let answer = create(&tenant, creation("r1", account("a", "acme"))).await;
    assert_eq!(refusal(answer), "ORGANIZATION_NOT_FOUND");
    assert_eq!(
        fields(create(&tenant, creation("r1", account("a", ""))).await),
        ["account.organization_id"]
    );
    assert_eq!(rows(&tenant).await, [0; 4]);
    tenant.organization("acme", "").await;
    create(&tenant, creation("r1", account("a", "acme"))).await.expect("the same one");
    assert_eq!(
        refusal(create(&tenant, creation("r2", account("a", "acme"))).await),
        "ACCOUNT_ALREADY_EXISTS"
    );
    create(&tenant, creation("r2", account("b", "acme"))).await.expect("another one");
}

#[tokio::test]
async fn an_answer_is_forgotten_after_twenty_four_hours() {
    let tenant = with_organization().await;
    let first = create(&tenant, creation("r1", account("a", "acme"))).await.unwrap();
    age(&tenant, TimeDelta::minutes(24 * 60 - 1)).await;
    assert_eq!(
        create(&tenant, creation("r1", account("a", "acme"))).await.unwrap(),
        first,
        "a minute before"
    );
    age(&tenant, TimeDelta::minutes(24 * 60 + 1)).await;
    let answer = create(&tenant, creation("r1", account("a", "acme"))).await;
    assert_eq!(refusal(answer), "ACCOUNT_ALREADY_EXISTS", "a minute later it is a new call");
    let second =
        create(&tenant, creation("r1", account("b", "acme"))).await.expect("and its id is free");
    assert_eq!(
        create(&tenant, creation("r1", account("b", "acme"))).await.unwrap(),
        second,
        "for another 24 hours"
    );
    // Some of the others clear away what is forgotten.
    age(&tenant, TimeDelta::hours(25)).await;
    for n in 1..=400 {
        let new = account(&format!("c{n}"), "acme");
        create(&tenant, creation(&format!("again-{n}"), new)).await.unwrap();
        if rows(&tenant).await[0] == n {
            break;
        }
        assert!(n < 400, "an expired answer is still there after {n} requests");
    }
}

#[tokio::test]
async fn a_request_id_is_at_most_a_hundred_printable_characters() {
    let tenant = with_organization().await;
    create(&tenant, creation(&"é".repeat(100), account("a", "acme"))).await.unwrap();
    for (i, wrong) in
        [&*"é".repeat(101), "with blank", "tab\t", "nul\0", "\u{a0}"].into_iter().enumerate()
    {
        assert_eq!(
            fields(create(&tenant, creation(wrong, account(&format!("b{i}"), "acme"))).await),
            ["request_id"],
            "{wrong:?}"
        );
        assert_eq!(fields(update(&tenant, comment(wrong, "x")).await), ["request_id"], "{wrong:?}");
        assert_eq!(fields(delete(&tenant, deletion(wrong)).await), ["request_id"], "{wrong:?}");
    }
}

#[tokio::test]
async fn validate_only_answers_as_the_real_call_would_and_keeps_nothing() {
    let tenant = with_organization().await;
    tenant.default_type("Trial").await;
    let present = tenant.account(Account { is_primary: true, ..account("a", "acme") }).await;
    let (before, trail) = (rows(&tenant).await, tenant.trail().await);
    let wanted = Account { is_primary: true, ..account("b", "acme") };
    let validated = CreateAccountRequest { validate_only: true, ..creation("r1", wanted.clone()) };
    let would = create(&tenant, validated).await.unwrap();
    assert_eq!(
        (&*would.account_type_id, would.is_primary, would.etag.is_empty()),
        ("Trial", true, false)
    );
    let validated = UpdateAccountRequest { validate_only: true, ..comment("r2", "new") };
    assert_eq!(update(&tenant, validated).await.unwrap().comment, "new");
    delete(&tenant, DeleteAccountRequest { validate_only: true, ..deletion("r3") }).await.unwrap();
    let organization = CreateOrganizationRequest {
        organization: Some(Organization {
            display_name: "New".into(),
            parent_id: "acme".into(),
            ..Default::default()
        }),
        validate_only: true,
        request_id: "r4".into(),
    };
    let would_be = tenant
        .organizations()
        .create_organization(organization)
        .await
        .unwrap()
        .into_inner()
        .organization
        .unwrap();
    assert_eq!((&*would_be.display_name, &*would_be.parent_id), ("New", "acme"));
    let new = AccountType { is_default: true, ..account_type("New") };
    let new = CreateAccountTypeRequest {
        account_type: Some(new),
        validate_only: true,
        request_id: "r5".into(),
    };
    assert!(
        tenant
            .account_types()
            .create_account_type(new)
            .await
            .unwrap()
            .into_inner()
            .account_type
            .unwrap()
            .is_default
    );
    let deactivation = DeactivateAccountTypeRequest {
        account_type_id: "Trial".into(),
        validate_only: true,
        request_id: "r6".into(),
        ..Default::default()
    };
    let off = tenant
        .account_types()
        .deactivate_account_type(deactivation)
        .await
        .unwrap()
        .into_inner()
        .account_type
        .unwrap();
    assert!(!off.active() && !off.is_default);
    let renaming = UpdateAccountTypeRequest {
        account_type: Some(AccountType {
            account_type_id: "Trial".into(),
            ..account_type("Renamed")
        }),
        update_mask: mask(&["display_name"]),
        validate_only: true,
        request_id: "r7".into(),
    };
    let renamed = tenant
        .account_types()
        .update_account_type(renaming)
        .await
        .unwrap()
        .into_inner()
        .account_type
        .unwrap();
    assert_eq!(renamed.display_name, "Renamed");

    assert_eq!(rows(&tenant).await, before);
    assert_eq!(tenant.trail().await, trail);
    assert_eq!(tenant.get("a").await.unwrap(), present, "it is still primary");
    assert_eq!(refusal(tenant.get("b").await), "ACCOUNT_NOT_FOUND");
    assert_eq!(
        tenant.account(account("c", "acme")).await.account_type_id,
        "Trial",
        "the default is still the default"
    );
    // The ids are free for the real calls.
    create(&tenant, creation("r1", wanted)).await.unwrap();
    update(&tenant, comment("r2", "new")).await.unwrap();
    delete(&tenant, deletion("r3")).await.unwrap();
}

#[tokio::test]
async fn validate_only_runs_every_check() {
    let tenant = with_organization().await;
    tenant.account(account("a", "acme")).await;
    let validated = |account| CreateAccountRequest { validate_only: true, ..creation("", account) };
    assert_eq!(
        refusal(create(&tenant, validated(account("a", "acme"))).await),
        "ACCOUNT_ALREADY_EXISTS"
    );
    assert_eq!(
        refusal(create(&tenant, validated(account("b", "nowhere"))).await),
        "ORGANIZATION_NOT_FOUND"
    );
    assert_eq!(
        fields(create(&tenant, validated(account("b", ""))).await),
        ["account.organization_id"]
    );
    let stale = Account { comment: "x".into(), etag: "stale".into(), ..only("a") };
    let stale =
        UpdateAccountRequest { account: Some(stale), validate_only: true, ..Default::default() };
    assert_eq!(refusal(update(&tenant, stale).await), "ETAG_MISMATCH");
    let stale = DeleteAccountRequest { etag: "stale".into(), validate_only: true, ..deletion("") };
    assert_eq!(refusal(delete(&tenant, stale).await), "ETAG_MISMATCH");
}

#[tokio::test]
async fn the_trail_tells_who_did_what_by_which_call_and_request() {
    let tenant = with_organization().await;
    let (jane, joan) = (tenant.with_actor("jane"), tenant.with_actor("joan"));
    create(&jane, creation("r1", account("a", "acme"))).await.unwrap();
    update(&joan, comment("", "new")).await.unwrap();
    delete(&jane, deletion("r3")).await.unwrap();
    tenant.account_type("Trial").await;
    let trail = tenant.trail().await;
    let lines = trail.iter().map(|it| {
        let request_id = it.request_id.as_deref().unwrap_or("-");
        let account_id = it.account_id.as_deref().unwrap_or("-");
        format!(
            "{} {} {request_id}: {} {} {} of account {account_id}",
            it.actor, it.method, it.action, it.resource_type, it.resource_id
        )
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
    tester accounts.v1.OrganizationService/CreateOrganization -: organization.created organization acme of account -
    jane accounts.v1.AccountService/CreateAccount r1: account.created account a of account a
    joan accounts.v1.AccountService/UpdateAccount -: account.updated account a of account a
    jane accounts.v1.AccountService/DeleteAccount r3: account_organization.deleted account_organization a/acme of account a
    jane accounts.v1.AccountService/DeleteAccount r3: account.deleted account a of account a
    tester accounts.v1.AccountTypeService/CreateAccountType -: account_type.created account_type Trial of account -
    ");
}

#[tokio::test]
async fn the_trail_holds_the_fields_before_and_after_and_the_last_snapshot_of_what_is_deleted() {
    let tenant = with_organization().await;
    let sent = Account {
        comment: "old".into(),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        ..account("a", "acme")
    };
    tenant.account(sent).await;
    let wanted = Account { status: 2, description: "new".into(), ..only("a") };
    tenant.update(wanted, &["status", "description", "comment"]).await.unwrap();
    tenant.delete("a", "").await.unwrap();
    let trail = tenant.trail_of("a").await;
    let contact = || json!({ "name": "", "email": "qq@qq.example" });
    let added = |field: &str, value: serde_json::Value| json!({ "field": field, "before": null, "after": value });
    let mut created = trail[0].changes.as_array().unwrap().clone();
    created.sort_by_key(|change| change["field"].to_string());
    assert_eq!(
        created,
        [
            added("account_id", json!("a")),
            added("comment", json!("old")),
            added("display_name", json!("Account a")),
            added("is_primary", json!(false)),
            added("metadata", json!({ "k": "v" })),
            added("organization_id", json!("acme")),
            added("primary_contact", contact()),
            added("status", json!("ACTIVE")),
        ]
    );
    let mut updated = trail[1].changes.as_array().unwrap().clone();
    updated.sort_by_key(|change| change["field"].to_string());
    assert_eq!(
        updated,
        [
            json!({ "field": "comment", "before": "old", "after": null }),
            json!({ "field": "description", "before": null, "after": "new" }),
            json!({ "field": "status", "before": "ACTIVE", "after": "SUSPENDED" }),
        ]
    );
    let was = |field: &str, value: serde_json::Value| json!({ "field": field, "before": value, "after": null });
    let mut deleted = trail[2].changes.as_array().unwrap().clone();
    deleted.sort_by_key(|change| change["field"].to_string());
    assert_eq!(
        deleted,
        [
            was("account_id", json!("a")),
            was("description", json!("new")),
            was("display_name", json!("Account a")),
            was("is_primary", json!(false)),
            was("metadata", json!({ "k": "v" })),
            was("organization_id", json!("acme")),
            was("primary_contact", contact()),
            was("status", json!("SUSPENDED")),
        ]
    );
    assert_eq!(trail.len(), 3);
}

#[tokio::test]
async fn a_call_that_changes_several_resources_writes_one_activity_for_each() {
    let tenant = with_organization().await;
    tenant.account(Account { is_primary: true, ..account("a", "acme") }).await;
    create(&tenant, creation("r1", Account { is_primary: true, ..account("b", "acme") }))
        .await
        .unwrap();
    tenant.default_type("one").await;
    tenant.default_type("two").await;
    let trail: Vec<_> = tenant
        .trail()
        .await
        .into_iter()
        .map(|it| (it.action, it.resource_id, it.request_id))
        .collect();
    let (b, none) = (Some("r1".to_owned()), None::<String>);
    let expected = [
        ("organization.created", "acme", none.clone()),
        ("account.created", "a", none.clone()),
        ("account.updated", "a", b.clone()),
        ("account.created", "b", b),
        ("account_type.created", "one", none.clone()),
        ("account_type.updated", "one", none.clone()),
        ("account_type.created", "two", none),
    ];
    assert_eq!(
        trail,
        expected.map(|(action, id, request_id)| (action.to_owned(), id.to_owned(), request_id))
    );
}

#[tokio::test]
async fn a_failed_call_leaves_nothing_in_the_trail() {
    let tenant = with_organization().await;
    tenant.account(Account { is_primary: true, ..account("a", "acme") }).await;
    let trail = tenant.trail().await;
    // The flag of the other one is already cleared when the id turns out to be taken.
    tenant.account(account("b", "acme")).await;
    let again = tenant.try_account(Account { is_primary: true, ..account("b", "acme") }).await;
    assert_eq!(refusal(again), "ACCOUNT_ALREADY_EXISTS");
    assert!(tenant.get("a").await.unwrap().is_primary);
    assert_eq!(tenant.trail().await.len(), trail.len() + 1);
    assert_eq!(tenant.trail_of("a").await.len(), 1);
}
