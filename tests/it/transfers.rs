//! Imports: what becomes of rows, batches and streams.

mod brought;

use std::collections::{BTreeMap, BTreeSet};

use customer_accounts::proto::{
    Account, AccountStatus, Address, Contact, CreateAccountRequest, ImportAccountsRequest,
    ImportAction, ImportRow, ImportUser, ListAccountsRequest, Organization, UpdateAccountRequest,
};
use prost::Message as _;
use serde_json::json;
use tonic::Status;
use tonic_types::pb;

use crate::support::{
    Tenant, account, apart,
    calls::{fields, mask, metadata, object, only},
    refusal,
    transfers::{batch, counts, outcomes, row, status_of},
    waiting_for_locks,
};

/// Accounts that `CreateAccount` refuses, each in another way.
fn bad_accounts() -> Vec<Account> {
    let good = || unnamed("o");
    let contact = |contact| Account { primary_contact: Some(contact), ..good() };
    let by_id = |person_id: &str| Contact { person_id: person_id.into(), ..Default::default() };
    let address = Address { country: "QQ".into(), line1: "x".repeat(201), ..Default::default() };
    let entries = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
    let values: Vec<_> = (0..2001).collect();
    vec![
        Account::default(),
        Account { display_name: String::new(), ..good() },
        Account { display_name: "two\nlines".into(), tax_id: "x".repeat(51), ..good() },
        Account { account_id: " blank".into(), ..good() },
        Account { account_id: "nul\0".into(), ..good() },
        Account { account_id: "x".repeat(51), ..good() },
        Account { organization_id: "nowhere".into(), ..good() },
        Account { organization_id: String::new(), ..good() },
        Account { account_type_id: "no-type".into(), ..good() },
        Account { account_type_id: "inactive".into(), ..good() },
        Account { status: 9, ..good() },
        Account { billing_address: Some(address), ..good() },
        Account { metadata: [("no key".to_owned(), String::new())].into(), ..good() },
        Account { metadata: entries, ..good() },
        Account { preferences: Some(object(json!({ "values": values }))), ..good() },
        Account { account_manager_id: "nobody".into(), ..good() },
        Account { account_manager_id: "customer".into(), ..good() },
        Account { billing_contact_id: "nobody".into(), ..good() },
        Account { billing_contact_id: "customer".into(), ..good() },
        Account { cc_billing_contact_id: "staff".into(), ..good() },
        Account { primary_contact: None, ..good() },
        contact(Contact { email: "no email".into(), ..Default::default() }),
        contact(by_id("nobody")),
        contact(by_id("customer")),
        Account { account_id: "taken".into(), ..good() },
    ]
}

/// An account that leaves its id to the service.
fn unnamed(organization_id: &str) -> Account {
    Account { account_id: String::new(), ..account("unnamed", organization_id) }
}

async fn scene() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account_type("inactive").await;
    tenant.deactivate("inactive").await;
    tenant.person("customer").await;
    tenant.person("member").await;
    tenant.staff("staff").await;
    tenant.add_member("o", "member").await.unwrap();
    tenant.account(account("taken", "o")).await;
    tenant
}

/// The error of a call and of a row, as far as they must be the same.
fn told(status: &Status) -> (i32, String, BTreeSet<Vec<u8>>) {
    let details = pb::Status::decode(status.details()).unwrap().details;
    let encoded = details.into_iter().map(|detail| match &*detail.type_url {
        // Metadata is a map, encoded in any order.
        "type.googleapis.com/google.rpc.ErrorInfo" => {
            let info = pb::ErrorInfo::decode(&*detail.value).unwrap();
            let metadata: BTreeMap<_, _> = info.metadata.into_iter().collect();
            format!("{} {} {metadata:?}", info.reason, info.domain).into_bytes()
        }
        _ => detail.value,
    });
    (status.code().into(), status.message().to_owned(), encoded.collect())
}

#[tokio::test]
async fn a_row_is_refused_with_the_error_of_the_single_call() {
    let tenant = scene().await;
    // With ids, which their errors name.
    let bad = (0..).zip(bad_accounts()).map(|(n, account)| match &*account.account_id {
        "" => Account { account_id: format!("bad-{n}"), ..account },
        _ => account,
    });
    let mut rows: Vec<_> = bad.map(row).collect();
    // Among them rows that are kept.
    for (n, id) in [(0, "first"), (7, "middle"), (20, "last")] {
        rows.insert(n, row(account(id, "o")));
    }
    let creating = ImportAccountsRequest { action: ImportAction::Create.into(), ..batch(rows) };
    let answer = tenant.try_import(creating.clone()).await.unwrap();
    assert_eq!(counts(answer.batch.as_ref()), [3, 0, 0, 25], "{answer:?}");
    for (row, result) in creating.rows.iter().zip(&answer.results) {
        let Some(error) = &result.error else {
            tenant.get(&result.account_id).await.unwrap();
            continue;
        };
        let request = CreateAccountRequest { account: row.account.clone(), ..Default::default() };
        let single = tenant.accounts().create_account(request).await.unwrap_err();
        assert_eq!(told(&status_of(error)), told(&single), "{row:?}");
    }
}

#[tokio::test]
async fn an_update_is_refused_with_the_error_of_the_single_call() {
    let tenant = scene().await;
    for id in ["a", "b", "c", "d", "e"] {
        tenant.account(account(id, "o")).await;
    }
    let inactive = AccountStatus::Inactive.into();
    tenant.update(Account { status: inactive, ..only("b") }, &[]).await.unwrap();
    let rows = [
        (Account { display_name: "x\ny".into(), ..only("a") }, &[][..]),
        (Account { status: AccountStatus::Suspended.into(), ..only("b") }, &[]),
        (only("c"), &["nickname"]),
        (Account { organization_id: "nowhere".into(), ..only("d") }, &[]),
        (Account { billing_contact_id: "customer".into(), ..only("e") }, &[]),
        (Account { comment: "c".into(), etag: "1".into(), ..only("taken") }, &[]),
        (Account { comment: "c".into(), ..only("missing") }, &[]),
    ];
    let of = |(account, paths): &(Account, &[&str])| ImportRow {
        account: Some(account.clone()),
        update_mask: mask(paths),
        ..Default::default()
    };
    let updating = ImportAccountsRequest {
        action: ImportAction::Update.into(),
        ..batch(rows.iter().map(of).collect())
    };
    let answer = tenant.try_import(updating).await.unwrap();
    assert_eq!(counts(answer.batch.as_ref()), [0, 0, 0, 7], "{answer:?}");
    for ((account, paths), result) in rows.iter().zip(&answer.results) {
        let (account, update_mask) = (Some(account.clone()), mask(paths));
        let request = UpdateAccountRequest { account, update_mask, ..Default::default() };
        let single = tenant.accounts().update_account(request).await.unwrap_err();
        assert_eq!(told(&status_of(result.error.as_ref().unwrap())), told(&single));
    }
}

/// Twice, because the first time statements are prepared on the way, which changes what fails.
#[tokio::test]
async fn a_type_that_an_update_may_not_take_refuses_its_row_alone() {
    let tenant = scene().await;
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        tenant.account(account(id, "o")).await;
    }
    let typed =
        |id: &str, to: &str| row(Account { account_type_id: to.into(), ..account(id, "o") });
    for comment in ["first", "second"] {
        let named = |id: &str| row(Account { comment: comment.into(), ..account(id, "o") });
        let mut rows: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| typed(id, "nothing")).into();
        rows.extend([named("f"), typed("taken", "inactive"), named("g")]);
        let mut expected = ["ACCOUNT_TYPE_NOT_FOUND"; 8];
        (expected[5], expected[6], expected[7]) = ("UPDATED", "ACCOUNT_TYPE_INACTIVE", "UPDATED");
        assert_eq!(tenant.import(rows.clone()).await, expected, "{comment}");
        let whole = ImportAccountsRequest { all_or_nothing: true, ..batch(rows) };
        let answer = tenant.try_import(whole).await.unwrap();
        (expected[5], expected[7]) = ("BATCH_REFUSED", "BATCH_REFUSED");
        assert_eq!(outcomes(&answer), expected, "{comment}");
    }
}

#[tokio::test]
async fn actions_say_what_happens_to_what_is_there_and_to_what_is_not() {
    let tenant = scene().await;
    let named = |id: &str, comment: &str| Account { comment: comment.into(), ..account(id, "o") };
    for (action, id, expected) in [
        (ImportAction::Update, "new", ["ACCOUNT_NOT_FOUND", "UPDATED"]),
        (ImportAction::Create, "created", ["CREATED", "ACCOUNT_ALREADY_EXISTS"]),
        (ImportAction::CreateMissing, "missing", ["CREATED", "UNCHANGED"]),
        (ImportAction::Upsert, "upserted", ["CREATED", "UPDATED"]),
        (ImportAction::Unspecified, "unspecified", ["CREATED", "UPDATED"]),
    ] {
        let comment = format!("by {action:?}");
        let rows = vec![row(named(id, &comment)), row(named("taken", &comment))];
        let request = ImportAccountsRequest { action: action.into(), ..batch(rows) };
        let answer = tenant.try_import(request).await.unwrap();
        assert_eq!(outcomes(&answer), expected, "{action:?}");
        let etag = tenant.get("taken").await.unwrap().etag;
        if expected[1] != "ACCOUNT_ALREADY_EXISTS" {
            assert_eq!(answer.results[1].etag, etag, "{action:?}");
        }
    }
    let request = ImportAccountsRequest { action: 9, ..batch(vec![row(account("x", "o"))]) };
    assert_eq!(fields(tenant.try_import(request).await), ["action"]);
}

#[tokio::test]
async fn all_or_nothing_keeps_nothing_of_a_batch_with_a_refused_row() {
    let tenant = scene().await;
    let all_or_nothing = |ids: [&str; 2], organization: &str| ImportAccountsRequest {
        all_or_nothing: true,
        ..batch(vec![row(account(ids[0], "o")), row(account(ids[1], organization))])
    };
    let batches = vec![
        all_or_nothing(["a", "b"], "o"),
        all_or_nothing(["c", "d"], "nowhere"),
        all_or_nothing(["e", "f"], "o"),
    ];
    let (answers, ended) = tenant.import_all(batches).await;
    ended.unwrap();
    assert_eq!(outcomes(&answers[1]), ["BATCH_REFUSED", "ORGANIZATION_NOT_FOUND"]);
    assert_eq!(counts(answers[2].total.as_ref()), [4, 0, 0, 2]);
    for (id, kept) in [("a", true), ("b", true), ("c", false), ("d", false), ("f", true)] {
        assert_eq!(tenant.get(id).await.is_ok(), kept, "{id}");
    }
}

#[tokio::test]
async fn a_validated_batch_is_answered_as_the_real_one_and_kept_by_nobody() {
    let tenant = scene().await;
    let rows = || {
        let organization = Organization {
            organization_id: "brought".into(),
            display_name: "Brought".into(),
            ..Default::default()
        };
        vec![
            row(account("a", "o")),
            row(account("b", "nowhere")),
            row(Account { comment: "c".into(), ..only("taken") }),
            ImportRow { organization: Some(organization), ..row(account("c", "")) },
        ]
    };
    let validated = ImportAccountsRequest { validate_only: true, ..batch(rows()) };
    let trail = tenant.trail().await.len();
    let before = tenant.try_import(validated).await.unwrap();
    assert_eq!(tenant.trail().await.len(), trail);
    assert_eq!(refusal(tenant.get("a").await), "ACCOUNT_NOT_FOUND");
    let real = tenant.try_import(batch(rows())).await.unwrap();
    assert_eq!(outcomes(&before), outcomes(&real));
    assert_eq!(before.batch, real.batch);
    assert_eq!(real.batch.unwrap().organizations_created, 1);
}

#[tokio::test]
async fn a_repeated_batch_gets_the_first_answer() {
    let tenant = scene().await;
    let request = ImportAccountsRequest {
        request_id: "run-1".into(),
        ..batch(vec![row(unnamed("o")), row(account("b", "nowhere"))])
    };
    let first = tenant.try_import(request.clone()).await.unwrap();
    let (again, ended) = tenant.import_all(vec![request.clone(), request.clone()]).await;
    ended.unwrap();
    assert_eq!(again[0].results, first.results);
    assert_eq!(counts(again[1].total.as_ref()), [2, 0, 0, 2], "repeats count in the total");
    let other = ImportAccountsRequest { all_or_nothing: true, ..request };
    assert_eq!(refusal(tenant.try_import(other).await), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn an_etag_must_be_the_present_one_and_what_was_deleted_is_not_created_again() {
    let tenant = scene().await;
    let stale = tenant.get("taken").await.unwrap();
    tenant.update(Account { comment: "newer".into(), ..only("taken") }, &[]).await.unwrap();
    let fresh = tenant.get("taken").await.unwrap();
    let gone = Account { account_id: "gone".into(), ..fresh.clone() };
    let rows = vec![row(stale), row(gone)];
    assert_eq!(tenant.import(rows).await, ["ETAG_MISMATCH", "ETAG_MISMATCH"]);
    let changed = Account { comment: "newest".into(), ..fresh };
    assert_eq!(tenant.import(vec![row(changed)]).await, ["UPDATED"]);
}

#[tokio::test]
async fn rows_that_change_nothing_write_nothing() {
    let tenant = scene().await;
    let full = Account {
        description: "d".into(),
        preferences: Some(object(json!({ "a": [1, 2.5, { "b": null }] }))),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        is_primary: true,
        account_manager_id: "staff".into(),
        billing_contact_id: "member".into(),
        ..account("full", "o")
    };
    let user = ImportUser { person_id: "customer".into(), billing: true, ..Default::default() };
    let rows = || {
        vec![
            row(account("plain", "o")),
            ImportRow { account_users: vec![user.clone()], ..row(full.clone()) },
        ]
    };
    assert_eq!(tenant.import(rows()).await, ["CREATED", "CREATED"]);
    let (trail, etag) = (tenant.trail().await.len(), tenant.get("full").await.unwrap().etag);
    assert_eq!(tenant.import(rows()).await, ["UNCHANGED", "UNCHANGED"]);
    assert_eq!(tenant.trail().await.len(), trail);
    assert_eq!(tenant.get("full").await.unwrap().etag, etag);
    // An account keeps its type while nothing else changes, though the type is no longer active.
    tenant.account_type("t").await;
    let typed = Account { account_type_id: "t".into(), ..only("plain") };
    tenant.update(typed, &[]).await.unwrap();
    tenant.deactivate("t").await;
    assert_eq!(tenant.import(rows()).await, ["UNCHANGED", "UNCHANGED"]);
}

#[tokio::test]
async fn the_later_of_two_rows_with_one_id_is_refused_and_in_another_batch_updates() {
    let tenant = scene().await;
    let named = |number, comment: &str| ImportRow {
        row: number,
        ..row(Account { comment: comment.into(), ..account("a", "o") })
    };
    let first = batch(vec![named(17, "one"), named(18, "two"), row(account("b", "o"))]);
    let (answers, ended) = tenant.import_all(vec![first, batch(vec![named(19, "three")])]).await;
    ended.unwrap();
    assert_eq!(outcomes(&answers[0]), ["CREATED", "DUPLICATE_ROW", "CREATED"]);
    let numbers: Vec<_> = answers[0].results.iter().map(|result| result.row).collect();
    assert_eq!(numbers, [17, 18, 3]);
    let duplicate = status_of(answers[0].results[1].error.as_ref().unwrap());
    assert_eq!(metadata(duplicate, "row"), "17");
    assert_eq!(outcomes(&answers[1]), ["UPDATED"]);
    assert_eq!(tenant.get("a").await.unwrap().comment, "three");
}

#[tokio::test]
async fn a_new_account_is_as_one_of_the_single_call() {
    let tenant = scene().await;
    tenant.default_type("default").await;
    let full = |id: &str| Account {
        description: "d".into(),
        tax_id: "VAT 1".into(),
        status: AccountStatus::Suspended.into(),
        status_reason: "why".into(),
        official_address: Some(Address { country: "de".into(), ..Default::default() }),
        preferences: Some(object(json!({ "a": [1, 2.5, 1e30, { "b": null }] }))),
        metadata: [("k".to_owned(), "Zu\u{308}rich".to_owned())].into(),
        account_manager_id: "staff".into(),
        comment: "c".into(),
        billing_details: "b".into(),
        ..account(id, "o")
    };
    let unassigned = ImportRow { without_account_type: true, ..row(full("unassigned")) };
    let (one, other) = (full("same-id-1"), full("same-id-2"));
    let rows = vec![row(one), unassigned, row(unnamed("o"))];
    let answer = tenant.try_import(batch(rows)).await.unwrap();
    assert_eq!(outcomes(&answer), ["CREATED", "CREATED", "CREATED"]);
    let single = tenant.account(other).await;
    let imported = tenant.get("same-id-1").await.unwrap();
    assert_eq!(imported.account_type_id, "default");
    assert_eq!(tenant.get("unassigned").await.unwrap().account_type_id, "");
    assert_eq!(answer.results[0].etag, imported.etag);
    assert!(answer.results[2].account_id.starts_with("acct_"), "{answer:?}");
    let same = |account: Account| Account {
        account_id: String::new(),
        display_name: String::new(),
        etag: String::new(),
        create_time: None,
        update_time: None,
        ..account
    };
    assert_eq!(same(imported), same(single));
    let trail = |id| {
        let tenant = &tenant;
        async move {
            let mut trail = tenant.trail_of(id).await;
            trail.retain(|activity| activity.action == "account.created");
            let changes = trail.remove(0).changes.as_array().unwrap().clone();
            let own = |field: &str| ["account_id", "display_name"].contains(&field);
            changes.into_iter().filter(|it| !own(it["field"].as_str().unwrap())).collect::<Vec<_>>()
        }
    };
    assert_eq!(trail("same-id-1").await, trail("same-id-2").await);
    let found = ListAccountsRequest {
        query: "vat".into(),
        metadata: [("k".to_owned(), "Zürich".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(tenant.list(found).await, ["same-id-1", "same-id-2", "unassigned"]);
}

#[tokio::test]
async fn a_batch_without_rows_or_with_too_many_ends_the_stream() {
    let tenant = scene().await;
    assert_eq!(fields(tenant.try_import(batch(Vec::new())).await), ["rows"]);
    let many = vec![row(unnamed("o")); 1001];
    let (answers, ended) =
        tenant.import_all(vec![batch(vec![row(account("a", "o"))]), batch(many)]).await;
    assert_eq!(answers.len(), 1, "the batch before is kept");
    assert_eq!(fields(ended), ["rows"]);
    tenant.get("a").await.unwrap();
}

#[tokio::test]
async fn two_imports_of_the_same_accounts_at_once_end_as_one_after_the_other() {
    let tenant = scene().await;
    let ids: Vec<_> = (0..200).map(|n| format!("a{n}")).collect();
    let import = |by: &'static str, reversed: bool| {
        let (tenant, mut ids) = (&tenant, ids.clone());
        if reversed {
            ids.reverse();
        }
        async move {
            let named = |id: &String| row(Account { comment: by.into(), ..account(id, "o") });
            let batches = ids.chunks(50).map(|ids| batch(ids.iter().map(named).collect()));
            let (answers, ended) = tenant.import_all(batches.collect()).await;
            ended.unwrap();
            answers.last().unwrap().total
        }
    };
    let (one, other) = tokio::join!(import("one", false), import("other", true));
    let (one, other) = (counts(one.as_ref()), counts(other.as_ref()));
    assert_eq!(one[0] + other[0], 200, "each account is created once: {one:?} {other:?}");
    assert_eq!((one[3], other[3]), (0, 0));
    let trail = tenant.trail().await;
    let created = trail.iter().filter(|it| it.action == "account.created");
    assert_eq!(created.filter(|it| it.resource_id.starts_with('a')).count(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_another_transaction_creates_meanwhile_is_found() {
    let Some((tenant, lock, _db)) = apart().await else { return };
    tenant.organization("o", "").await;
    lock.batch_execute(&format!(
        "BEGIN; INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, status) \
         VALUES ('{}', 'b', 'n', 'n', 'o', 'ACTIVE')",
        tenant.caller().tenant
    ))
    .await
    .unwrap();
    let rows = ["a", "b", "c"].map(|id| row(account(id, "o"))).to_vec();
    let import = tokio::spawn({
        let tenant = tenant.with_actor("importer");
        async move { tenant.import(rows).await }
    });
    waiting_for_locks(&lock, 1).await;
    lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(import.await.unwrap(), ["CREATED", "UPDATED", "CREATED"]);
}
