//! Organizations: created, found, listed, renamed, moved and deleted; their members.

use customer_accounts::proto::{
    AddOrganizationMemberRequest, CreateOrganizationRequest, DeleteOrganizationRequest,
    GetOrganizationRequest, ListAccountsRequest, ListOrganizationMembersRequest,
    ListOrganizationsRequest, ListPeopleRequest, MoveOrganizationRequest, Organization,
    OrganizationOrderBy, Person, PersonOrderBy, RemoveOrganizationMemberRequest,
    UpdateOrganizationRequest,
};
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, later, mask, metadata, only_person, person, preconditions},
    refusal, refused,
};

async fn create(tenant: &Tenant, organization: Organization) -> Result<Organization, Status> {
    let request =
        CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    tenant
        .organizations()
        .create_organization(request)
        .await
        .map(|response| response.into_inner().organization.unwrap())
}

async fn get(tenant: &Tenant, id: &str) -> Result<Organization, Status> {
    let request = GetOrganizationRequest { organization_id: id.into() };
    tenant
        .organizations()
        .get_organization(request)
        .await
        .map(|response| response.into_inner().organization.unwrap())
}

async fn list(tenant: &Tenant, request: ListOrganizationsRequest) -> Vec<String> {
    let organizations = tenant
        .organizations()
        .list_organizations(request)
        .await
        .unwrap()
        .into_inner()
        .organizations;
    organizations.into_iter().map(|organization| organization.organization_id).collect()
}

async fn update(
    tenant: &Tenant,
    organization: Organization,
    paths: &[&str],
) -> Result<Organization, Status> {
    let request = UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: mask(paths),
        ..Default::default()
    };
    tenant
        .organizations()
        .update_organization(request)
        .await
        .map(|response| response.into_inner().organization.unwrap())
}

/// The accounts of an organization and of those below it.
async fn accounts_below(tenant: &Tenant, organization_id: &str) -> String {
    let organization_id = organization_id.into();
    tenant
        .list(ListAccountsRequest {
            organization_id,
            include_descendants: true,
            ..Default::default()
        })
        .await
        .join(" ")
}

fn named(id: &str, name: &str, parent_id: &str) -> Organization {
    Organization {
        organization_id: id.into(),
        display_name: name.into(),
        parent_id: parent_id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_organization_is_created_at_the_top_or_below_a_parent() {
    let tenant = Tenant::new().await;
    let sent = named("acme", "Acme Corp", "");
    let top =
        create(&tenant, Organization { etag: "ignored".into(), ..sent.clone() }).await.unwrap();
    let stored = Organization {
        etag: top.etag.clone(),
        create_time: top.create_time,
        update_time: top.create_time,
        ..sent
    };
    assert_eq!(top, stored);
    assert!(top.create_time.is_some() && !top.etag.is_empty() && top.etag != "ignored");
    let below = create(&tenant, named("", "Acme EMEA", "acme")).await.unwrap();
    assert!(below.organization_id.starts_with("org_"), "{}", below.organization_id);
    assert_eq!(below.parent_id, "acme");
    assert_eq!(get(&tenant, "acme").await.unwrap(), top);
    assert_eq!(get(&tenant, &below.organization_id).await.unwrap(), below);
}

#[tokio::test]
async fn an_organization_id_is_taken_once_in_a_tenant() {
    let tenant = Tenant::new().await;
    let first = tenant.organization("acme", "").await;
    let answer = create(&tenant, named("acme", "Another", "")).await;
    assert_eq!(refusal(&answer), "ORGANIZATION_ALREADY_EXISTS");
    assert_eq!(metadata(answer, "organization_id"), "acme");
    let answer = create(&tenant, named("acme", "Another", "acme")).await;
    assert_eq!(refusal(answer), "ORGANIZATION_ALREADY_EXISTS", "below itself");
    assert_eq!(get(&tenant, "acme").await.unwrap(), first);
    create(&tenant, named("acme-2", "acme", "")).await.expect("names need not be unique");
    let other = Tenant::new().await;
    assert_eq!(refusal(get(&other, "acme").await), "ORGANIZATION_NOT_FOUND");
    other.organization("acme", "").await;
}

#[tokio::test]
async fn a_parent_must_exist_in_the_tenant() {
    let tenant = Tenant::new().await;
    let other = Tenant::new().await;
    other.organization("theirs", "").await;
    for parent in ["nowhere", "theirs", "itself"] {
        let answer = create(&tenant, named("itself", "Acme", parent)).await;
        assert_eq!(refusal(&answer), "ORGANIZATION_NOT_FOUND", "{parent}");
        assert_eq!(metadata(&answer, "organization_id"), parent);
        assert_eq!(refused(answer).1.resource_info().unwrap().resource_name, parent);
    }
    assert_eq!(list(&tenant, ListOrganizationsRequest::default()).await, [""; 0]);
}

#[tokio::test]
async fn a_tree_is_at_most_sixteen_levels_deep() {
    let tenant = Tenant::new().await;
    let mut parent = String::new();
    for level in 1..=16 {
        let id = format!("level-{level}");
        tenant.organization(&id, &parent).await;
        parent = id;
    }
    let answer = create(&tenant, named("level-17", "Too deep", "level-16")).await;
    assert_eq!(refusal(&answer), "ORGANIZATION_TOO_DEEP");
    assert_eq!(metadata(&answer, "parent_id"), "level-16");
    let failure = refused(answer).1.precondition_failure().unwrap().violations.clone();
    assert_eq!(
        (&*failure[0].r#type, &*failure[0].subject),
        ("ORGANIZATION_TOO_DEEP", "organization/level-16")
    );
    assert_eq!(refusal(get(&tenant, "level-17").await), "ORGANIZATION_NOT_FOUND");
    create(&tenant, named("sibling", "Beside it", "level-15"))
        .await
        .expect("another at the deepest level");
}

#[tokio::test]
async fn the_fields_of_an_organization_have_limits() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let created = create(&tenant, named(&"é".repeat(50), &"É".repeat(200), "acme")).await.unwrap();
    assert_eq!(get(&tenant, &"é".repeat(50)).await.unwrap(), created);
    let wrong = named(&"é".repeat(51), &"É".repeat(201), &"p".repeat(51));
    let expected =
        ["organization.organization_id", "organization.display_name", "organization.parent_id"];
    assert_eq!(fields(create(&tenant, wrong).await), expected);
    let answer =
        tenant.organizations().create_organization(CreateOrganizationRequest::default()).await;
    assert_eq!(fields(answer), ["organization", "organization.display_name"]);
    assert_eq!(
        fields(create(&tenant, named("", " padded", "")).await),
        ["organization.display_name"]
    );
    assert_eq!(fields(get(&tenant, "").await), ["organization_id"]);
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn organizations_are_listed_by_parent_and_found_by_beginnings_of_words() {
    let tenant = Tenant::new().await;
    for (id, name, parent) in [
        ("acme", "Acme Corp", ""),
        ("emea", "Acme Europe", "acme"),
        ("apac", "Acme Asia", "acme"),
        ("zrh", "Büro Zürich", "emea"),
        ("other", "Société Générale", ""),
    ] {
        create(&tenant, named(id, name, parent)).await.unwrap();
    }
    let by = |parent_id: &str, query: &str| ListOrganizationsRequest {
        parent_id: parent_id.into(),
        query: query.into(),
        ..Default::default()
    };
    for (request, expected) in [
        (by("", ""), "apac acme emea zrh other"),
        (by("acme", ""), "apac emea"),
        (by("emea", ""), "zrh"),
        (by("zrh", ""), ""),
        (by("nowhere", ""), ""),
        (by("", "acm"), "apac acme emea"),
        (by("", "BURO zur"), "zrh"),
        (by("", "ZRH"), "zrh"),
        (by("", "generale SOC"), "other"),
        (by("", "cme"), ""),
        (by("acme", "acme eu"), "emea"),
        (by("emea", "acme"), ""),
    ] {
        assert_eq!(list(&tenant, request.clone()).await.join(" "), expected, "{request:?}");
    }
    assert_eq!(list(&Tenant::new().await, by("", "")).await, [""; 0], "another tenant");
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn organizations_are_listed_in_the_order_asked_for_page_by_page() {
    let tenant = Tenant::new().await;
    for (id, name) in [("1", "beta"), ("2", "Émile"), ("3", "ALPHA"), ("4", "emile")] {
        create(&tenant, named(id, name, "")).await.unwrap();
    }
    for (order_by, expected) in [
        (OrganizationOrderBy::Unspecified, ["3", "1", "2", "4"]),
        (OrganizationOrderBy::DisplayName, ["3", "1", "2", "4"]),
        (OrganizationOrderBy::DisplayNameDesc, ["4", "2", "1", "3"]),
        (OrganizationOrderBy::CreateTime, ["1", "2", "3", "4"]),
        (OrganizationOrderBy::CreateTimeDesc, ["4", "3", "2", "1"]),
    ] {
        let mut request = ListOrganizationsRequest {
            order_by: order_by.into(),
            page_size: 3,
            ..Default::default()
        };
        let first =
            tenant.organizations().list_organizations(request.clone()).await.unwrap().into_inner();
        request.page_token = first.next_page_token;
        let second =
            tenant.organizations().list_organizations(request.clone()).await.unwrap().into_inner();
        assert_eq!((second.organizations.len(), &*second.next_page_token), (1, ""));
        let ids = first
            .organizations
            .into_iter()
            .chain(second.organizations)
            .map(|organization| organization.organization_id);
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{order_by:?}");
        let other = ListOrganizationsRequest { parent_id: "1".into(), ..request };
        assert_eq!(
            refusal(tenant.organizations().list_organizations(other).await),
            "INVALID_PAGE_TOKEN"
        );
    }
}

#[tokio::test]
async fn a_renamed_organization_is_listed_and_found_by_its_new_name() {
    let tenant = Tenant::new().await;
    for (id, name, parent) in
        [("1", "Alpha Corp", ""), ("2", "Beta Corp", ""), ("3", "Gamma Corp", "1")]
    {
        create(&tenant, named(id, name, parent)).await.unwrap();
    }
    let before = get(&tenant, "1").await.unwrap();
    let below = get(&tenant, "3").await.unwrap();
    let now = update(&tenant, named("1", "Zürich Works", ""), &[]).await.unwrap();
    assert!(now.etag != before.etag && later(now.update_time, before.update_time));
    let expected = Organization {
        display_name: "Zürich Works".into(),
        etag: now.etag.clone(),
        update_time: now.update_time,
        ..before.clone()
    };
    assert_eq!(now, expected);
    assert_eq!(get(&tenant, "1").await.unwrap(), now);
    assert_eq!(get(&tenant, "3").await.unwrap(), below, "those below it have not changed");
    let search =
        |query: &str| ListOrganizationsRequest { query: query.into(), ..Default::default() };
    for (query, expected) in
        [("", "2 3 1"), ("alpha", ""), ("corp", "2 3"), ("zur wor", "1"), ("1", "1")]
    {
        assert_eq!(list(&tenant, search(query)).await.join(" "), expected, "{query:?}");
    }
    // The etag is the present one, or the update is refused; the same name again changes nothing.
    let answer =
        update(&tenant, Organization { etag: before.etag, ..named("1", "Late", "") }, &[]).await;
    assert_eq!(refusal(&answer), "ETAG_MISMATCH");
    assert_eq!(metadata(answer, "organization_id"), "1");
    for paths in [&[][..], &["*"], &["display_name"]] {
        assert_eq!(update(&tenant, now.clone(), paths).await.unwrap(), now, "{paths:?}");
    }
    let trail = tenant.trail_of("1").await;
    assert_eq!(trail.len(), 2, "{trail:?}");
    assert_eq!(trail[1].action, "organization.updated");
    assert_eq!(
        trail[1].changes,
        json!([{ "field": "display_name", "before": "Alpha Corp", "after": "Zürich Works" }])
    );
}

#[tokio::test]
async fn an_update_does_not_move_an_organization() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.organization("other", "").await;
    let emea = tenant.organization("emea", "acme").await;
    for (parent, paths) in [
        ("other", &[][..]),
        ("other", &["parent_id"]),
        ("", &["parent_id"]),
        ("", &["*"]),
        ("nowhere", &["*"]),
    ] {
        let answer = update(&tenant, named("emea", "New", parent), paths).await;
        assert_eq!(fields(answer), ["organization.parent_id"], "{parent:?} {paths:?}");
    }
    assert_eq!(get(&tenant, "emea").await.unwrap(), emea);
    for (name, parent, paths) in [
        ("1", "acme", &[][..]),
        ("2", "acme", &["*"]),
        ("3", "acme", &["parent_id", "display_name"]),
        ("4", "", &[]),
        ("5", "other", &["display_name"]),
    ] {
        let now = update(&tenant, named("emea", name, parent), paths).await.unwrap();
        assert_eq!((&*now.display_name, &*now.parent_id), (name, "acme"), "{parent:?} {paths:?}");
    }
    let wrong = update(&tenant, named("emea", " padded", "other"), &["*"]).await;
    assert_eq!(fields(wrong), ["organization.parent_id", "organization.display_name"]);
    assert_eq!(
        fields(update(&tenant, named("emea", "x", ""), &["nickname"]).await),
        ["update_mask"]
    );
    assert_eq!(
        fields(update(&tenant, named("emea", "", ""), &["display_name"]).await),
        ["organization.display_name"]
    );
    assert_eq!(
        fields(update(&tenant, named("", "x", ""), &[]).await),
        ["organization.organization_id"]
    );
    let answer = update(&tenant, named("nowhere", "x", ""), &[]).await;
    assert_eq!(refusal(answer), "ORGANIZATION_NOT_FOUND");
}

#[tokio::test]
async fn an_organization_is_moved_with_everything_below_it() {
    let tenant = Tenant::new().await;
    for (id, parent) in [
        ("acme", ""),
        ("emea", "acme"),
        ("ch", "emea"),
        ("zrh", "ch"),
        ("other", ""),
        ("north", "other"),
    ] {
        tenant.organization(id, parent).await;
        tenant.account(account(&format!("a-{id}"), id)).await;
    }
    let (emea, ch, zrh) = (
        get(&tenant, "emea").await.unwrap(),
        get(&tenant, "ch").await.unwrap(),
        get(&tenant, "zrh").await.unwrap(),
    );
    let shown = async || {
        let mut shown = Vec::new();
        for id in ["acme", "emea", "other", "north"] {
            shown.push(accounts_below(&tenant, id).await.replace("a-", ""));
        }
        shown
    };
    assert_eq!(shown().await, ["acme ch emea zrh", "ch emea zrh", "north other", "north"]);
    let moved = tenant.move_organization("emea", "north").await.unwrap();
    assert!(moved.etag != emea.etag && later(moved.update_time, emea.update_time));
    let (etag, update_time) = (moved.etag.clone(), moved.update_time);
    assert_eq!(moved, Organization { parent_id: "north".into(), etag, update_time, ..emea });
    assert_eq!(get(&tenant, "emea").await.unwrap(), moved);
    assert_eq!(
        shown().await,
        ["acme", "ch emea zrh", "ch emea north other zrh", "ch emea north zrh"]
    );
    // Where it is already, nothing changes.
    assert_eq!(tenant.move_organization("emea", "north").await.unwrap(), moved);
    let top = tenant.move_organization("emea", "").await.unwrap();
    assert_eq!(top.parent_id, "");
    assert_eq!(shown().await, ["acme", "ch emea zrh", "north other", "north"]);
    assert_eq!(tenant.move_organization("emea", "").await.unwrap(), top);
    // What lay above can go below what it had below it.
    tenant.move_organization("acme", "zrh").await.unwrap();
    assert_eq!(shown().await, ["acme", "acme ch emea zrh", "north other", "north"]);
    assert_eq!(
        [get(&tenant, "ch").await.unwrap(), get(&tenant, "zrh").await.unwrap()],
        [ch, zrh],
        "etags and all"
    );
    let children =
        |parent: &str| ListOrganizationsRequest { parent_id: parent.into(), ..Default::default() };
    assert_eq!(list(&tenant, children("zrh")).await, ["acme"]);
    assert_eq!(list(&tenant, children("acme")).await, [""; 0]);
    let trail = tenant.trail_of("emea").await;
    assert_eq!(trail.len(), 3, "created and moved twice: {trail:?}");
    assert_eq!(
        trail[1].changes,
        json!([{ "field": "parent_id", "before": "acme", "after": "north" }])
    );
    assert_eq!(
        trail[2].changes,
        json!([{ "field": "parent_id", "before": "north", "after": null }])
    );
}

#[tokio::test]
async fn a_move_that_cannot_be_is_refused() {
    let tenant = Tenant::new().await;
    let other = Tenant::new().await;
    other.organization("theirs", "").await;
    for (id, parent) in [("acme", ""), ("emea", "acme"), ("zrh", "emea")] {
        tenant.organization(id, parent).await;
    }
    for parent in ["acme", "emea", "zrh"] {
        let answer = tenant.move_organization("acme", parent).await;
        assert_eq!(refusal(&answer), "ORGANIZATION_CYCLE", "{parent}");
        let named = [metadata(&answer, "organization_id"), metadata(&answer, "parent_id")];
        assert_eq!(named, ["acme", parent]);
        assert_eq!(
            preconditions(answer),
            [("ORGANIZATION_CYCLE".into(), "organization/acme".into())]
        );
    }
    for (id, parent, named) in [
        ("emea", "nowhere", "nowhere"),
        ("emea", "theirs", "theirs"),
        ("theirs", "acme", "theirs"),
        ("nowhere", "", "nowhere"),
    ] {
        let answer = tenant.move_organization(id, parent).await;
        assert_eq!(refusal(&answer), "ORGANIZATION_NOT_FOUND", "{id} below {parent:?}");
        assert_eq!(metadata(answer, "organization_id"), named, "{id} below {parent:?}");
    }
    let before = get(&tenant, "emea").await.unwrap();
    let renamed = update(&tenant, named("emea", "Europe", ""), &[]).await.unwrap();
    let request = |parent_id: &str, etag: &str| MoveOrganizationRequest {
        organization_id: "emea".into(),
        parent_id: parent_id.into(),
        etag: etag.into(),
        ..Default::default()
    };
    for parent in ["", "acme"] {
        let answer = tenant.organizations().move_organization(request(parent, &before.etag)).await;
        assert_eq!(refusal(answer), "ETAG_MISMATCH", "{parent:?}");
    }
    assert_eq!(get(&tenant, "emea").await.unwrap(), renamed);
    tenant
        .organizations()
        .move_organization(request("", &renamed.etag))
        .await
        .expect("the present etag");
    let wrong = MoveOrganizationRequest {
        parent_id: "p".repeat(51),
        request_id: "r".repeat(101),
        ..MoveOrganizationRequest::default()
    };
    let answer = tenant.organizations().move_organization(wrong).await;
    assert_eq!(fields(answer), ["request_id", "organization_id", "parent_id"]);
}

#[tokio::test]
async fn a_move_makes_no_tree_deeper_than_sixteen_levels() {
    let tenant = Tenant::new().await;
    let mut parent = String::new();
    for level in 1..=14 {
        let id = format!("level-{level}");
        tenant.organization(&id, &parent).await;
        parent = id;
    }
    // Three levels: they fit below level 13, but not below level 14.
    for (id, parent) in [("a", ""), ("b", "a"), ("flat", "a"), ("c", "b")] {
        tenant.organization(id, parent).await;
    }
    let before = get(&tenant, "a").await.unwrap();
    let answer = tenant.move_organization("a", "level-14").await;
    assert_eq!(refusal(&answer), "ORGANIZATION_TOO_DEEP");
    assert_eq!(metadata(&answer, "parent_id"), "level-14");
    assert_eq!(
        preconditions(answer),
        [("ORGANIZATION_TOO_DEEP".into(), "organization/level-14".into())]
    );
    assert_eq!(get(&tenant, "a").await.unwrap(), before);
    tenant.move_organization("a", "level-13").await.expect("the deepest at level 16");
    assert_eq!(
        refusal(create(&tenant, named("d", "d", "c")).await),
        "ORGANIZATION_TOO_DEEP",
        "moved down, it has no room"
    );
    // Further up in the same tree one more level fits below the deepest, but not two.
    tenant.move_organization("b", "level-13").await.unwrap();
    tenant.organization("d", "c").await;
    assert_eq!(refusal(create(&tenant, named("e", "e", "d")).await), "ORGANIZATION_TOO_DEEP");
    for (id, parent) in [("b", "level-14"), ("b", "a"), ("level-1", "flat")] {
        let why = if id == "b" { "ORGANIZATION_TOO_DEEP" } else { "ORGANIZATION_CYCLE" };
        assert_eq!(refusal(tenant.move_organization(id, parent).await), why, "{id} below {parent}");
    }
    tenant.move_organization("c", "a").await.expect("as deep as before");
}

#[tokio::test]
async fn only_an_empty_organization_is_deleted() {
    let tenant = Tenant::new().await;
    for (id, parent) in [("acme", ""), ("emea", "acme"), ("apac", "acme"), ("zrh", "emea")] {
        tenant.organization(id, parent).await;
    }
    for id in ["1", "2", "3"] {
        tenant.account(account(id, "acme")).await;
    }
    tenant.account(account("4", "zrh")).await;
    for (id, children, accounts) in [("acme", "2", "3"), ("emea", "1", "0"), ("zrh", "0", "1")] {
        let answer = tenant.delete_organization(id, "").await;
        assert_eq!(refusal(&answer), "ORGANIZATION_NOT_EMPTY", "{id}");
        let said = ["organization_id", "children", "accounts"].map(|key| metadata(&answer, key));
        assert_eq!(said, [id, children, accounts]);
        let both = [children, accounts].iter().filter(|count| **count != "0").count();
        let expected =
            vec![("ORGANIZATION_NOT_EMPTY".to_owned(), format!("organization/{id}")); both];
        assert_eq!(preconditions(answer), expected, "{id}");
    }
    tenant.delete("4", "").await.unwrap();
    tenant.delete_organization("zrh", "").await.unwrap();
    tenant.move_organization("emea", "").await.unwrap();
    let answer = tenant.delete_organization("acme", "").await;
    assert_eq!([metadata(&answer, "children"), metadata(answer, "accounts")], ["1", "3"]);
    tenant.delete_organization("emea", "").await.unwrap();
    let gone = "ORGANIZATION_NOT_FOUND";
    assert_eq!(refusal(get(&tenant, "emea").await), gone);
    assert_eq!(refusal(tenant.delete_organization("emea", "").await), gone);
    assert_eq!(
        refusal(create(&tenant, named("x", "x", "emea")).await),
        gone,
        "nor a parent any more"
    );
    assert_eq!(refusal(tenant.try_account(account("5", "emea")).await), gone);
    assert_eq!(list(&tenant, ListOrganizationsRequest::default()).await, ["acme", "apac"]);
    assert_eq!(fields(tenant.delete_organization("", "").await), ["organization_id"]);
    let trail = tenant.trail_of("emea").await;
    assert_eq!(trail.last().unwrap().action, "organization.deleted");
    assert_eq!(trail.last().unwrap().change("display_name"), (&json!("emea"), &json!(null)));
}

#[tokio::test]
async fn a_deleted_organization_leaves_its_id_and_its_members() {
    let tenant = Tenant::new().await;
    let first = tenant.organization("acme", "").await;
    let jane = tenant.person("jane").await;
    tenant.add_member("acme", "jane").await.unwrap();
    let renamed = update(&tenant, named("acme", "Old words", ""), &[]).await.unwrap();
    let stale = tenant.delete_organization("acme", &first.etag).await;
    assert_eq!(refusal(&stale), "ETAG_MISMATCH");
    assert_eq!(metadata(stale, "organization_id"), "acme");
    tenant
        .delete_organization("acme", &renamed.etag)
        .await
        .expect("members alone do not prevent it");
    assert_eq!(tenant.get_person("jane").await.unwrap(), jane);
    let within = ListPeopleRequest { organization_id: "acme".into(), ..Default::default() };
    assert_eq!(tenant.list_people(within.clone()).await, [""; 0]);
    let second = tenant.organization("acme", "").await;
    assert!(second.etag != first.etag && second.etag != renamed.etag);
    assert_eq!(tenant.members("acme", true).await.unwrap(), [""; 0], "nobody comes back");
    let search =
        |query: &str| ListOrganizationsRequest { query: query.into(), ..Default::default() };
    assert_eq!(list(&tenant, search("words")).await, [""; 0]);
    assert_eq!(list(&tenant, search("acme")).await, ["acme"]);
    tenant.organization("below", "acme").await;
}

#[tokio::test]
async fn people_become_members_and_leave() {
    let tenant = Tenant::new().await;
    let acme = tenant.organization("acme", "").await;
    tenant.organization("emea", "acme").await;
    let jane = tenant.person("jane").await;
    tenant.staff("sam").await;
    for _ in 0..2 {
        assert_eq!(tenant.add_member("acme", "jane").await.unwrap(), jane, "who has not changed");
    }
    tenant.update_person(only_person("sam"), &["active"]).await.unwrap();
    tenant.add_member("acme", "sam").await.expect("someone inactive can be a member");
    tenant.add_member("emea", "jane").await.unwrap();
    assert_eq!(tenant.members("acme", false).await.unwrap(), ["jane", "sam"]);
    assert_eq!(get(&tenant, "acme").await.unwrap(), acme, "members who come do not change it");
    tenant.remove_member("acme", "jane").await.unwrap();
    assert_eq!(get(&tenant, "acme").await.unwrap(), acme, "nor do members who leave");
    assert_eq!(tenant.get_person("jane").await.unwrap(), jane);
    assert_eq!(tenant.members("acme", false).await.unwrap(), ["sam"]);
    assert_eq!(tenant.members("acme", true).await.unwrap(), ["jane", "sam"], "still below it");
    for (organization, person) in [("acme", "jane"), ("acme", "nobody")] {
        let answer = tenant.remove_member(organization, person).await;
        assert_eq!(refusal(&answer), "ORGANIZATION_MEMBER_NOT_FOUND", "{person}");
        let named = [metadata(&answer, "organization_id"), metadata(&answer, "person_id")];
        assert_eq!(named, [organization, person]);
        let resource = refused(answer).1.resource_info().unwrap().clone();
        assert_eq!(
            (&*resource.resource_type, &*resource.resource_name),
            ("accounts.v1.Person", person)
        );
    }
    tenant.add_member("acme", "jane").await.expect("again");
    let answer = tenant.add_member("acme", "nobody").await;
    assert_eq!(
        (refusal(&answer), metadata(answer, "person_id")),
        ("PERSON_NOT_FOUND".into(), "nobody".into())
    );
    let nowhere = "ORGANIZATION_NOT_FOUND";
    assert_eq!(refusal(tenant.add_member("nowhere", "jane").await), nowhere);
    assert_eq!(refusal(tenant.add_member("nowhere", "nobody").await), nowhere);
    assert_eq!(refusal(tenant.remove_member("nowhere", "jane").await), nowhere);
    assert_eq!(refusal(tenant.members("nowhere", true).await), nowhere);
    assert_eq!(fields(tenant.add_member("", "").await), ["organization_id", "person_id"]);
    assert_eq!(fields(tenant.remove_member("", "").await), ["organization_id", "person_id"]);
    assert_eq!(fields(tenant.members("", false).await), ["organization_id"]);
}

#[tokio::test]
async fn members_are_listed_once_each_in_the_order_asked_for_page_by_page() {
    let tenant = Tenant::new().await;
    for (id, parent) in [("acme", ""), ("emea", "acme"), ("zrh", "emea"), ("other", "")] {
        tenant.organization(id, parent).await;
    }
    for (id, name) in
        [("1", "beta"), ("2", "Émile"), ("3", "ALPHA"), ("4", "emile"), ("5", "elsewhere")]
    {
        tenant.try_person(Person { display_name: name.into(), ..person(id) }).await.unwrap();
    }
    for (organization, people) in [("acme", "13"), ("emea", "12"), ("zrh", "1234"), ("other", "51")]
    {
        for id in people.chars() {
            tenant.add_member(organization, &id.to_string()).await.unwrap();
        }
    }
    for (organization, below, expected) in [
        ("acme", false, ["3", "1"].as_slice()),
        ("acme", true, &["3", "1", "2", "4"]),
        ("emea", false, &["1", "2"]),
        ("zrh", true, &["3", "1", "2", "4"]),
        ("other", true, &["1", "5"]),
    ] {
        assert_eq!(
            tenant.members(organization, below).await.unwrap(),
            expected,
            "{organization} {below}"
        );
    }
    for (order_by, expected) in [
        (PersonOrderBy::DisplayName, ["3", "1", "2", "4"]),
        (PersonOrderBy::DisplayNameDesc, ["4", "2", "1", "3"]),
        (PersonOrderBy::CreateTime, ["1", "2", "3", "4"]),
        (PersonOrderBy::CreateTimeDesc, ["4", "3", "2", "1"]),
    ] {
        let mut request = ListOrganizationMembersRequest {
            organization_id: "acme".into(),
            include_descendants: true,
            order_by: order_by.into(),
            page_size: 1,
            ..Default::default()
        };
        let mut ids = Vec::new();
        loop {
            let page = tenant
                .organizations()
                .list_organization_members(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert!(page.people.len() <= 1);
            ids.extend(page.people.into_iter().map(|person| person.person_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(ids, expected, "{order_by:?}");
        for other in [
            ListOrganizationMembersRequest { organization_id: "emea".into(), ..request.clone() },
            ListOrganizationMembersRequest { include_descendants: false, ..request.clone() },
        ] {
            let answer = tenant.organizations().list_organization_members(other).await;
            assert_eq!(refusal(answer), "INVALID_PAGE_TOKEN");
        }
    }
}

#[tokio::test]
async fn a_try_changes_nothing_and_a_repeat_gets_the_first_answer() {
    let tenant = Tenant::new().await;
    for (id, parent) in [("acme", ""), ("emea", "acme"), ("zrh", "emea")] {
        tenant.organization(id, parent).await;
    }
    tenant.person("jane").await;
    let before = get(&tenant, "zrh").await.unwrap();
    let moving = |validate_only, request_id: &str| MoveOrganizationRequest {
        organization_id: "zrh".into(),
        parent_id: "acme".into(),
        request_id: request_id.into(),
        validate_only,
        ..Default::default()
    };
    let adding = |validate_only, request_id: &str| AddOrganizationMemberRequest {
        organization_id: "zrh".into(),
        person_id: "jane".into(),
        request_id: request_id.into(),
        validate_only,
    };
    let removing = |validate_only, request_id: &str| RemoveOrganizationMemberRequest {
        organization_id: "zrh".into(),
        person_id: "jane".into(),
        request_id: request_id.into(),
        validate_only,
    };
    let deleting = |validate_only, request_id: &str| DeleteOrganizationRequest {
        organization_id: "zrh".into(),
        request_id: request_id.into(),
        validate_only,
        ..Default::default()
    };
    let mut calls = tenant.organizations();
    let tried = calls
        .move_organization(moving(true, "1"))
        .await
        .unwrap()
        .into_inner()
        .organization
        .unwrap();
    assert_eq!(tried.parent_id, "acme");
    calls.add_organization_member(adding(true, "2")).await.unwrap();
    assert_eq!(
        refusal(calls.remove_organization_member(removing(true, "3")).await),
        "ORGANIZATION_MEMBER_NOT_FOUND"
    );
    calls.delete_organization(deleting(true, "4")).await.unwrap();
    assert_eq!(get(&tenant, "zrh").await.unwrap(), before);
    assert_eq!(tenant.members("zrh", true).await.unwrap(), [""; 0]);
    assert_eq!(tenant.trail_of("zrh").await.len(), 1);
    // The ids of tries are not used up. Between a call and its repeat everything is undone, and
    // stays so.
    let first = calls.move_organization(moving(false, "1")).await.unwrap().into_inner();
    tenant.move_organization("zrh", "emea").await.unwrap();
    assert_eq!(calls.move_organization(moving(false, "1")).await.unwrap().into_inner(), first);
    assert_eq!(get(&tenant, "zrh").await.unwrap().parent_id, "emea");
    let first = calls.add_organization_member(adding(false, "2")).await.unwrap().into_inner();
    tenant.remove_member("zrh", "jane").await.unwrap();
    assert_eq!(
        calls.add_organization_member(adding(false, "2")).await.unwrap().into_inner(),
        first
    );
    assert_eq!(tenant.members("zrh", true).await.unwrap(), [""; 0]);
    tenant.add_member("zrh", "jane").await.unwrap();
    calls.remove_organization_member(removing(false, "3")).await.unwrap();
    tenant.add_member("zrh", "jane").await.unwrap();
    calls.remove_organization_member(removing(false, "3")).await.unwrap();
    assert_eq!(tenant.members("zrh", true).await.unwrap(), ["jane"]);
    calls.delete_organization(deleting(false, "4")).await.unwrap();
    tenant.organization("zrh", "").await;
    calls.delete_organization(deleting(false, "4")).await.unwrap();
    get(&tenant, "zrh").await.expect("the repeat did not delete the new one");
    let answer = calls.delete_organization(deleting(false, "1")).await;
    assert_eq!(refusal(answer), "REQUEST_ID_REUSED");
}
