//! Imports: what rows bring and change beside their account, and what a caller may import.

use customer_accounts::proto::{
    Account, ImportAccountsRequest, ImportAction, ImportLink, ImportRow, ImportUser, ModuleSetting,
    Organization,
};

use super::scene;
use crate::{
    modules::denial,
    support::{
        account,
        calls::{fields, only},
        transfers::{batch, outcomes, row, status_of},
    },
};

#[tokio::test]
async fn links_and_users_of_rows_are_added_and_changed_and_others_stay() {
    let tenant = scene().await;
    for id in ["p", "q"] {
        tenant.organization(id, "o").await;
    }
    let link =
        |id: &str, below| ImportLink { organization_id: id.into(), include_descendants: below };
    let user = |id: &str, role: &str| ImportUser {
        person_id: id.into(),
        roles: vec![role.into()],
        ..Default::default()
    };
    let connected = |links, account_users| ImportRow {
        linked_organizations: links,
        account_users,
        ..row(Account { billing_contact_id: "customer".into(), ..account("a", "o") })
    };
    // The billing contact is a user by the same row.
    let rows = vec![connected(vec![link("p", true)], vec![user("customer", "OWNER")])];
    assert_eq!(tenant.import(rows.clone()).await, ["CREATED"]);
    assert_eq!(tenant.import(rows).await, ["UNCHANGED"]);
    let rows = vec![connected(vec![link("q", false)], vec![user("customer", "buyer")])];
    let etag = tenant.get("a").await.unwrap().etag;
    assert_eq!(tenant.import(rows).await, ["UPDATED"]);
    assert_eq!(tenant.get("a").await.unwrap().etag, etag, "of the account nothing has changed");
    let links: Vec<_> = tenant.links("a").await.into_iter().map(|it| it.organization_id).collect();
    assert_eq!(links, ["o", "p", "q"]);
    let users = tenant.users("a").await;
    let customer = users.iter().find(|user| user.person_id == "customer").unwrap();
    assert_eq!((&*customer.roles, customer.individual), (&["buyer".to_owned()][..], true));
    // Someone who is a user through an organization becomes an individual one, as the row says.
    let rows = || vec![connected(Vec::new(), vec![user("member", "member")])];
    assert_eq!(tenant.import(rows()).await, ["UPDATED"]);
    assert_eq!(tenant.import(rows()).await, ["UNCHANGED"]);
    let bad = vec![connected(vec![link("nowhere", false)], Vec::new())];
    assert_eq!(tenant.import(bad).await, ["ORGANIZATION_NOT_FOUND"]);
    let bad = vec![connected(Vec::new(), vec![user("customer", "king")])];
    let answer = tenant.try_import(batch(bad)).await.unwrap();
    let error = status_of(answer.results[0].error.as_ref().unwrap());
    assert_eq!(fields(error), ["account_users[0].roles[0]"]);
}

#[tokio::test]
async fn many_refused_rows_with_one_organization_leave_it_to_a_good_one() {
    let tenant = scene().await;
    let brings = |id: &str, organization: &str, manager: &str| ImportRow {
        organization: Some(Organization {
            organization_id: organization.into(),
            display_name: organization.into(),
            ..Default::default()
        }),
        ..row(Account { account_manager_id: manager.into(), ..account(id, organization) })
    };
    let mut rows: Vec<_> = (0..20).map(|n| brings(&format!("bad-{n}"), "new", "nobody")).collect();
    rows.extend((0..20).map(|n| brings(&format!("other-{n}"), "none", "nobody")));
    // What they say of it does not matter.
    for (n, row) in rows.iter_mut().enumerate().take(20) {
        row.organization.as_mut().unwrap().display_name = format!("New {n}");
    }
    rows.extend([brings("good", "new", "staff"), row(account("plain", "o"))]);
    let mut expected = vec!["PERSON_NOT_FOUND"; 40];
    expected.extend(["CREATED", "CREATED"]);
    assert_eq!(tenant.import(rows).await, expected);
    assert_eq!(tenant.get("good").await.unwrap().organization_id, "new");
    let none = tenant.import(vec![row(account("late", "none"))]).await;
    assert_eq!(none, ["ORGANIZATION_NOT_FOUND"], "nobody has brought it");
}

#[tokio::test]
async fn a_row_that_is_refused_after_it_was_written_leaves_nothing_and_the_others_stay() {
    let tenant = scene().await;
    let contact = |id: &str, person: &str| {
        row(Account { billing_contact_id: person.into(), ..account(id, "o") })
    };
    let rows = vec![
        row(account("a", "o")),
        contact("b", "customer"),
        contact("c", "member"),
        contact("d", "customer"),
        row(account("e", "o")),
    ];
    let expected = ["CREATED", "NOT_AN_ACCOUNT_USER", "CREATED", "NOT_AN_ACCOUNT_USER", "CREATED"];
    assert_eq!(tenant.import(rows).await, expected);
    for (id, there) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", true)] {
        assert_eq!(tenant.get(id).await.is_ok(), there, "{id}");
        let activities = usize::from(there);
        assert_eq!(tenant.trail_of(id).await.len(), activities, "{id}");
    }
}

#[tokio::test]
async fn of_two_primary_accounts_of_one_organization_the_later_row_wins() {
    let tenant = scene().await;
    let primary = |id: &str| row(Account { is_primary: true, ..account(id, "o") });
    assert_eq!(tenant.import(vec![primary("a"), primary("b")]).await, ["CREATED", "CREATED"]);
    let flags =
        [tenant.get("a").await.unwrap().is_primary, tenant.get("b").await.unwrap().is_primary];
    assert_eq!(flags, [false, true]);
    // The same again ends the same: the first takes the flag, the second takes it back.
    assert_eq!(tenant.import(vec![primary("a"), primary("b")]).await, ["UPDATED", "UPDATED"]);
    let flags =
        [tenant.get("a").await.unwrap().is_primary, tenant.get("b").await.unwrap().is_primary];
    assert_eq!(flags, [false, true]);
    // A row that changes something else of the one that loses the flag does not give it back.
    let other = row(Account { comment: "kept".into(), ..account("b", "o") });
    assert_eq!(tenant.import(vec![primary("a"), other]).await, ["UPDATED", "UPDATED"]);
    let [a, b] = [tenant.get("a").await.unwrap(), tenant.get("b").await.unwrap()];
    assert_eq!((a.is_primary, b.is_primary, &*b.comment), (true, false, "kept"));
    assert_eq!(tenant.import(vec![primary("b")]).await, ["UPDATED"]);
    assert_eq!(tenant.import(vec![primary("a")]).await, ["UPDATED"]);
    assert!(!tenant.get("b").await.unwrap().is_primary);
}

/// An organization that a row brings.
fn brings(account: Account, id: &str, parent_id: &str) -> ImportRow {
    let organization = Organization {
        organization_id: id.into(),
        display_name: format!("Organization {id}"),
        parent_id: parent_id.into(),
        ..Default::default()
    };
    ImportRow { organization: Some(organization), ..row(account) }
}

#[tokio::test]
async fn rows_bring_organizations() {
    let tenant = scene().await;
    let rows = vec![
        brings(account("a", ""), "x", ""),
        brings(account("b", "x"), "x", "ignored"),
        brings(account("c", ""), "y", "x"),
        brings(account("d", ""), "z", "nowhere"),
        brings(account("e", "other"), "x", ""),
        brings(account("f", ""), "", ""),
        brings(account("g", ""), "o", ""),
    ];
    let answer = tenant.try_import(batch(rows)).await.unwrap();
    let expected = [
        "CREATED",
        "CREATED",
        "CREATED",
        "ORGANIZATION_NOT_FOUND",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "CREATED",
    ];
    assert_eq!(outcomes(&answer), expected, "{answer:?}");
    assert_eq!(answer.batch.unwrap().organizations_created, 2);
    for (id, organization) in [("a", "x"), ("b", "x"), ("c", "y"), ("g", "o")] {
        assert_eq!(tenant.get(id).await.unwrap().organization_id, organization);
    }
}

#[tokio::test]
async fn a_limited_caller_imports_within_their_reach() {
    let tenant = scene().await;
    tenant.organization("mine", "").await;
    tenant.organization("theirs", "").await;
    tenant.account(account("theirs", "theirs")).await;
    tenant.account(account("mine", "mine")).await;
    tenant.person("manager").await;
    tenant.identify("manager", "subject").await;
    tenant.add_member("mine", "manager").await.unwrap();
    let manager = tenant.reaching("subject", "editor");
    let comment = |id: &str, organization: &str| {
        row(Account { comment: "c".into(), ..account(id, organization) })
    };
    let rows = vec![
        comment("new", "mine"),
        comment("mine", "mine"),
        comment("theirs", "theirs"),
        comment("other", "theirs"),
        brings(account("a", ""), "top", ""),
        brings(account("b", ""), "below", "mine"),
        brings(account("c", ""), "aside", "theirs"),
    ];
    let expected = [
        "CREATED",
        "UPDATED",
        "ACCOUNT_ALREADY_EXISTS",
        "ORGANIZATION_NOT_FOUND",
        "OUT_OF_REACH",
        "CREATED",
        "ORGANIZATION_NOT_FOUND",
    ];
    assert_eq!(manager.import(rows).await, expected);
    let updating = ImportAccountsRequest {
        action: ImportAction::Update.into(),
        ..batch(vec![comment("theirs", "theirs")])
    };
    let answer = manager.try_import(updating).await.unwrap();
    assert_eq!(outcomes(&answer), ["ACCOUNT_NOT_FOUND"]);
}

#[tokio::test]
async fn a_module_that_is_off_refuses_rows_of_the_organization_and_ends_the_stream_for_the_tenant()
{
    let tenant = scene().await;
    tenant.organization("off", "").await;
    tenant.account(account("there", "off")).await;
    tenant.set_module("customer_accounts", "off", ModuleSetting::Off).await.unwrap();
    let rows = || {
        vec![
            row(account("a", "off")),
            row(Account { comment: "c".into(), ..only("there") }),
            row(account("b", "o")),
            brings(account("c", ""), "below", "off"),
        ]
    };
    let denied = "MODULE_NOT_ACTIVATED";
    assert_eq!(tenant.import(rows()).await, [denied, denied, "CREATED", denied]);
    tenant.set_module("customer_accounts", "", ModuleSetting::Off).await.unwrap();
    let (module, level, _) = denial(tenant.try_import(batch(rows())).await);
    assert_eq!((&*module, &*level), ("customer_accounts", "TENANT"));
}
