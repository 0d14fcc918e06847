//! The status of an account, and what becomes of an account whose type is deactivated.

use customer_accounts::proto::{
    Account,
    AccountStatus::{self, Active, Inactive, Suspended},
    ListAccountsRequest,
};

use crate::support::{
    Tenant, account,
    calls::{fields, metadata, only},
    refusal, refused,
};

const ALL: [AccountStatus; 3] = [Active, Suspended, Inactive];

/// UAT-C-CA-LIFECYCLE-001
#[tokio::test]
async fn an_account_goes_from_any_status_to_any_other_except_from_inactive_to_suspended() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for (from, to) in ALL.into_iter().flat_map(|from| ALL.map(|to| (from, to))) {
        let id = format!("{from:?} to {to:?}");
        let first = Account {
            status: from.into(),
            status_reason: "the first".into(),
            ..account(&id, "acme")
        };
        let current = tenant.account(first).await;
        assert_eq!(
            (current.status(), &*current.status_reason),
            (from, "the first"),
            "{id}: created"
        );
        let answer = tenant.update(Account { status: to.into(), ..only(&id) }, &[]).await;
        if (from, to) == (Inactive, Suspended) {
            assert_eq!(refusal(&answer), "ACCOUNT_STATUS_TRANSITION");
            let named = ["account_id", "from", "to"].map(|key| metadata(&answer, key));
            assert_eq!(named, [&id, "INACTIVE", "SUSPENDED"]);
            let failure = refused(answer).1.precondition_failure().unwrap().violations.clone();
            assert_eq!(failure[0].r#type, "ACCOUNT_STATUS_TRANSITION");
            assert_eq!(tenant.get(&id).await.unwrap(), current, "{id}: nothing changed");
        } else if from == to {
            assert_eq!(answer.unwrap(), current, "{id}: no change");
            assert_eq!(tenant.trail_of(&id).await.len(), 1, "{id}: nothing but its creation");
        } else {
            let now = answer.unwrap();
            assert_eq!(
                (now.status(), &*now.status_reason),
                (to, ""),
                "{id}: the old reason does not explain it"
            );
            assert_ne!(now.etag, current.etag);
            assert_eq!(tenant.get(&id).await.unwrap(), now);
            let activity = tenant.trail_of(&id).await.pop().unwrap();
            let names = (from.as_str_name(), to.as_str_name());
            let (before, after) = activity.change("status");
            let full =
                |name: &serde_json::Value| format!("ACCOUNT_STATUS_{}", name.as_str().unwrap());
            assert_eq!((&*full(before), &*full(after)), names);
        }
    }
}

/// UAT-C-CA-LIFECYCLE-001
#[tokio::test]
async fn a_reason_belongs_to_the_status_it_was_given_with() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account(account("a", "acme")).await;
    let to = |status: AccountStatus, reason: &str| Account {
        status: status.into(),
        status_reason: reason.into(),
        ..only("a")
    };
    let reason_after = async |account: Account, paths: &[&str]| {
        tenant.update(account, paths).await.unwrap().status_reason
    };
    assert_eq!(reason_after(to(Suspended, "unpaid"), &[]).await, "unpaid");
    assert_eq!(
        reason_after(Account { comment: "new".into(), ..only("a") }, &[]).await,
        "unpaid",
        "another field changes"
    );
    assert_eq!(
        reason_after(to(Suspended, ""), &["status"]).await,
        "unpaid",
        "the same status is no change"
    );
    assert_eq!(
        reason_after(to(Active, "unpaid"), &["status", "status_reason"]).await,
        "unpaid",
        "given again"
    );
    assert_eq!(
        reason_after(to(Inactive, "ignored"), &["status"]).await,
        "",
        "the mask does not name the reason"
    );
    assert_eq!(
        reason_after(to(Inactive, "left us"), &["status_reason"]).await,
        "left us",
        "a reason can be added later"
    );
    assert_eq!(reason_after(only("a"), &["status_reason"]).await, "");
}

#[tokio::test]
async fn a_status_is_one_of_the_three() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let created = tenant.account(account("a", "acme")).await;
    assert_eq!(created.status(), Active, "unless given");
    assert_eq!(
        fields(tenant.try_account(Account { status: 4, ..account("b", "acme") }).await),
        ["account.status"]
    );
    assert_eq!(
        fields(tenant.update(Account { status: -1, ..only("a") }, &[]).await),
        ["account.status"]
    );
    assert_eq!(
        fields(tenant.update(only("a"), &["status"]).await),
        ["account.status"],
        "unspecified, but named by the mask"
    );
    assert_eq!(
        fields(tenant.update(account("a", "acme"), &["*"]).await),
        ["account.status"],
        "unspecified, but all fields"
    );
    assert_eq!(tenant.get("a").await.unwrap(), created);
}

/// UAT-C-CA-CFG-001
#[tokio::test]
async fn an_account_keeps_its_deactivated_type_until_its_next_update_which_must_replace_it() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Active").await;
    tenant.account_type("Legacy").await;
    for id in ["moves", "leaves", "stays"] {
        tenant.account(Account { account_type_id: "Legacy".into(), ..account(id, "acme") }).await;
    }
    let before = tenant.get("moves").await.unwrap();
    tenant.deactivate("Legacy").await;
    assert_eq!(tenant.get("moves").await.unwrap(), before, "it keeps its type");
    let by_type = || ListAccountsRequest { account_type_id: "Legacy".into(), ..Default::default() };
    assert_eq!(tenant.list(by_type()).await, ["leaves", "moves", "stays"], "and is listed by it");

    let comment = Account { comment: "new".into(), ..only("moves") };
    let inactive = "ACCOUNT_TYPE_INACTIVE";
    let answer = tenant.update(comment.clone(), &[]).await;
    assert_eq!(refusal(&answer), inactive, "the update leaves it where it is");
    assert_eq!(metadata(answer, "account_type_id"), "Legacy");
    let same = Account { account_type_id: "Legacy".into(), ..comment.clone() };
    assert_eq!(refusal(tenant.update(same, &[]).await), inactive, "the update chooses it again");
    assert_eq!(
        refusal(tenant.update(before.clone(), &["*"]).await),
        inactive,
        "the update would change nothing"
    );
    assert_eq!(tenant.get("moves").await.unwrap(), before);

    // An account with an inactive type can be suspended without another type.
    let suspended =
        Account { status: Suspended.into(), status_reason: "unpaid".into(), ..only("moves") };
    let suspended = tenant.update(suspended, &[]).await.unwrap();
    assert_eq!((suspended.status(), &*suspended.account_type_id), (Suspended, "Legacy"));
    let resumed = Account { status: Active.into(), comment: "new".into(), ..only("moves") };
    assert_eq!(
        refusal(tenant.update(resumed, &[]).await),
        inactive,
        "the update changes more than the status"
    );

    let moved =
        tenant.update(Account { account_type_id: "Active".into(), ..comment }, &[]).await.unwrap();
    assert_eq!((&*moved.account_type_id, &*moved.comment), ("Active", "new"));
    let left = tenant.update(only("leaves"), &["account_type_id"]).await.unwrap();
    assert_eq!(left.account_type_id, "");
    assert_eq!(tenant.list(by_type()).await, ["stays"]);
    tenant.delete("stays", "").await.expect("a deletion need not replace the type first");
}

#[tokio::test]
async fn an_account_cannot_be_moved_to_an_unknown_or_a_deactivated_type() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.account_type("Legacy").await;
    tenant.deactivate("Legacy").await;
    let created = tenant.account(account("a", "acme")).await;
    let to =
        |account_type_id: &str| Account { account_type_id: account_type_id.into(), ..only("a") };
    assert_eq!(refusal(tenant.update(to("Nothing"), &[]).await), "ACCOUNT_TYPE_NOT_FOUND");
    assert_eq!(refusal(tenant.update(to("Legacy"), &[]).await), "ACCOUNT_TYPE_INACTIVE");
    assert_eq!(tenant.get("a").await.unwrap(), created);
}
