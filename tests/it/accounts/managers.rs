//! Account managers: which people can be one, and the list of a manager's accounts.

use customer_accounts::{
    db::Meta,
    proto::{
        Account, AccountOrderBy,
        AccountStatus::{Active, Inactive},
        CreateAccountRequest, ListAccountsRequest, Person, UpdateAccountRequest,
    },
    schema::people,
    validate::Violations,
};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, metadata, only, only_person, preconditions, staff},
    refusal, shared,
};

/// A tenant with an organization and one person of each sort.
async fn with_people() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for id in ["sam", "kim", "gone"] {
        tenant.staff(id).await;
    }
    tenant.person("jane").await;
    for id in ["gone", "jane"] {
        tenant.update_person(only_person(id), &["active"]).await.unwrap();
    }
    tenant.person("joe").await;
    tenant
}

fn managed(id: &str, manager: &str) -> Account {
    Account { account_manager_id: manager.into(), status: Active.into(), ..account(id, "acme") }
}

fn by(manager: &str) -> ListAccountsRequest {
    ListAccountsRequest { account_manager_id: manager.into(), ..Default::default() }
}

/// The reasons against these people, none of whom can be manager.
const UNFIT: [(&str, &str); 4] = [
    ("nobody", "PERSON_NOT_FOUND"),
    ("joe", "PERSON_NOT_STAFF"),
    ("jane", "PERSON_NOT_STAFF"),
    ("gone", "PERSON_INACTIVE"),
];

#[track_caller]
fn assert_unfit(answer: Result<Account, Status>, id: &str, why: &str) {
    assert_eq!(refusal(&answer), why, "{id}");
    assert_eq!(metadata(&answer, "person_id"), id);
    if why != "PERSON_NOT_FOUND" {
        assert_eq!(preconditions(answer), [(why.to_owned(), format!("person/{id}"))]);
    }
}

#[tokio::test]
async fn only_active_staff_can_manage_an_account() {
    let tenant = with_people().await;
    let first = tenant.account(managed("a", "sam")).await;
    assert_eq!(first.account_manager_id, "sam");
    assert_eq!(tenant.get("a").await.unwrap(), first);
    for (id, why) in UNFIT {
        assert_unfit(tenant.try_account(managed("b", id)).await, id, why);
        let wanted = Account { account_manager_id: id.into(), ..only("a") };
        assert_unfit(tenant.update(wanted.clone(), &[]).await, id, why);
        assert_unfit(tenant.update(wanted, &["account_manager_id"]).await, id, why);
        assert_unfit(tenant.update(managed("a", id), &["*"]).await, id, why);
    }
    assert_eq!(tenant.get("a").await.unwrap(), first);
    assert_eq!(tenant.list(ListAccountsRequest::default()).await, ["a"]);
    let long = "m".repeat(51);
    assert_eq!(
        fields(tenant.try_account(managed("b", &long)).await),
        ["account.account_manager_id"]
    );
    let other = Tenant::new().await;
    other.staff("theirs").await;
    assert_unfit(tenant.try_account(managed("b", "theirs")).await, "theirs", "PERSON_NOT_FOUND");
    // A person who becomes active STAFF can be named.
    tenant.update_person(Person { active: Some(true), ..only_person("gone") }, &[]).await.unwrap();
    tenant.update_person(staff("joe"), &[]).await.unwrap();
    for id in ["gone", "joe"] {
        let now = tenant
            .update(Account { account_manager_id: id.into(), ..only("a") }, &[])
            .await
            .unwrap();
        assert_eq!(now.account_manager_id, id);
    }
    let none = tenant.update(only("a"), &["account_manager_id"]).await.unwrap();
    assert_eq!(none.account_manager_id, "");
    let changes: Vec<_> =
        tenant.trail_of("a").await.into_iter().skip(1).map(|activity| activity.changes).collect();
    let change = |before, after| json!([{ "field": "account_manager_id", "before": before, "after": after }]);
    let (gone, joe) = (Some("gone"), Some("joe"));
    assert_eq!(changes, [change(Some("sam"), gone), change(gone, joe), change(joe, None)]);
}

#[tokio::test]
async fn a_try_without_effect_has_no_manager_either() {
    let tenant = with_people().await;
    for (id, why) in UNFIT {
        let request = CreateAccountRequest {
            account: Some(managed("a", id)),
            validate_only: true,
            ..Default::default()
        };
        let answer = tenant
            .accounts()
            .create_account(request)
            .await
            .map(|response| response.into_inner().account.unwrap());
        assert_unfit(answer, id, why);
    }
    tenant.account(account("a", "acme")).await;
    let wanted = Account { account_manager_id: "sam".into(), ..only("a") };
    let request =
        UpdateAccountRequest { account: Some(wanted), validate_only: true, ..Default::default() };
    let answer =
        tenant.accounts().update_account(request).await.unwrap().into_inner().account.unwrap();
    assert_eq!(answer.account_manager_id, "sam");
    tenant.delete_person("sam", "").await.expect("not the manager of anything");
}

/// The service lets no manager become unfit; that another way was found must not hold up changes of
/// the account.
#[tokio::test]
async fn a_manager_who_is_kept_is_not_judged_again() {
    let tenant = with_people().await;
    tenant.account(managed("a", "sam")).await;
    let caller = tenant.caller();
    let meta = Meta::of(&mut Violations::default(), &caller, &CreateAccountRequest::default());
    let work = shared().db.write(&caller, &meta, async |tx| {
        let own = people::table.filter(tx.owns(people::tenant_id));
        let sam = own.filter(people::person_id.eq("sam"));
        diesel::update(sam).set(people::active.eq(false)).execute(&mut tx.conn()).await?;
        Ok(())
    });
    shared().on_its_runtime(work).await.unwrap();
    assert!(!tenant.get_person("sam").await.unwrap().active());
    tenant.update(Account { comment: "new".into(), ..only("a") }, &[]).await.unwrap();
    for paths in [&["*"][..], &["account_manager_id"], &[]] {
        assert_eq!(
            tenant.update(managed("a", "sam"), paths).await.unwrap().account_manager_id,
            "sam",
            "{paths:?}"
        );
    }
    assert_unfit(tenant.try_account(managed("b", "sam")).await, "sam", "PERSON_INACTIVE");
    tenant.update(Account { account_manager_id: "kim".into(), ..only("a") }, &[]).await.unwrap();
    let back = tenant.update(managed("a", "sam"), &[]).await;
    assert_unfit(back, "sam", "PERSON_INACTIVE");
}

#[tokio::test]
async fn accounts_are_listed_by_manager() {
    let tenant = with_people().await;
    for (id, parent) in [("emea", "acme"), ("zrh", "emea"), ("other", "")] {
        tenant.organization(id, parent).await;
    }
    for (id, organization, manager, status) in [
        ("1", "acme", "sam", Active),
        ("2", "emea", "sam", Inactive),
        ("3", "zrh", "kim", Active),
        ("4", "zrh", "sam", Active),
        ("5", "other", "sam", Inactive),
        ("6", "other", "", Active),
    ] {
        let account = Account {
            organization_id: organization.into(),
            status: status.into(),
            ..managed(id, manager)
        };
        tenant.account(account).await;
    }
    let below = |organization: &str, include_descendants, request: ListAccountsRequest| {
        ListAccountsRequest { organization_id: organization.into(), include_descendants, ..request }
    };
    for (request, expected) in [
        (by(""), "1 2 3 4 5 6"),
        (by("sam"), "1 2 4 5"),
        (by("kim"), "3"),
        (by("gone"), ""),
        (by("nobody"), ""),
        (below("acme", false, by("")), "1"),
        (below("acme", true, by("")), "1 2 3 4"),
        (below("emea", true, by("")), "2 3 4"),
        (below("zrh", true, by("")), "3 4"),
        (below("nowhere", true, by("")), ""),
        (below("", true, by("")), "1 2 3 4 5 6"),
        (below("acme", true, by("sam")), "1 2 4"),
        (below("acme", false, by("kim")), ""),
        (
            ListAccountsRequest { statuses: vec![Active.into()], ..below("acme", true, by("sam")) },
            "1 4",
        ),
        (
            ListAccountsRequest { statuses: vec![Active.into(), Inactive.into()], ..by("sam") },
            "1 2 4 5",
        ),
        (ListAccountsRequest { query: "acc 2".into(), ..below("acme", true, by("sam")) }, "2"),
        (ListAccountsRequest { query: "3".into(), ..by("sam") }, ""),
    ] {
        assert_eq!(tenant.list(request.clone()).await.join(" "), expected, "{request:?}");
    }
    // Page by page, in either direction, and never with the token of another filter.
    for (order_by, expected) in [
        (AccountOrderBy::DisplayName, ["1", "2", "4"]),
        (AccountOrderBy::CreateTimeDesc, ["4", "2", "1"]),
    ] {
        let request = below("acme", true, by("sam"));
        let request = ListAccountsRequest { order_by: order_by.into(), page_size: 2, ..request };
        let first = tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
        let next = ListAccountsRequest { page_token: first.next_page_token, ..request };
        let second = tenant.accounts().list_accounts(next.clone()).await.unwrap().into_inner();
        assert_eq!((first.accounts.len(), &*second.next_page_token), (2, ""));
        let ids: Vec<_> = first
            .accounts
            .into_iter()
            .chain(second.accounts)
            .map(|account| account.account_id)
            .collect();
        assert_eq!(ids, expected, "{order_by:?}");
        for other in [
            ListAccountsRequest { include_descendants: false, ..next.clone() },
            ListAccountsRequest { account_manager_id: "kim".into(), ..next.clone() },
        ] {
            assert_eq!(refusal(tenant.accounts().list_accounts(other).await), "INVALID_PAGE_TOKEN");
        }
    }
    tenant.update(Account { account_manager_id: "kim".into(), ..only("1") }, &[]).await.unwrap();
    tenant.update(only("4"), &["account_manager_id"]).await.unwrap();
    tenant.delete("2", "").await.unwrap();
    assert_eq!(
        (tenant.list(by("sam")).await.join(" "), tenant.list(by("kim")).await.join(" ")),
        ("5".into(), "1 3".into())
    );
    let long = by(&"m".repeat(51));
    assert_eq!(fields(tenant.accounts().list_accounts(long).await), ["account_manager_id"]);
}
