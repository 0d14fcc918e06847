//! Organizations: created, found and listed.

use customer_accounts::proto::{
    CreateOrganizationRequest, GetOrganizationRequest, ListOrganizationsRequest, Organization, OrganizationOrderBy,
};
use tonic::{Code, Status};

use crate::support::{
    Tenant,
    calls::{fields, metadata},
    reason, refused,
};

async fn create(tenant: &Tenant, organization: Organization) -> Result<Organization, Status> {
    let request = CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    tenant.organizations().create_organization(request).await.map(|response| response.into_inner().organization.unwrap())
}

async fn get(tenant: &Tenant, id: &str) -> Result<Organization, Status> {
    let request = GetOrganizationRequest { organization_id: id.into() };
    tenant.organizations().get_organization(request).await.map(|response| response.into_inner().organization.unwrap())
}

async fn list(tenant: &Tenant, request: ListOrganizationsRequest) -> Vec<String> {
    let organizations = tenant.organizations().list_organizations(request).await.unwrap().into_inner().organizations;
    organizations.into_iter().map(|organization| organization.organization_id).collect()
}

fn named(id: &str, name: &str, parent_id: &str) -> Organization {
    Organization { organization_id: id.into(), display_name: name.into(), parent_id: parent_id.into(), ..Default::default() }
}

#[tokio::test]
async fn an_organization_is_created_at_the_top_or_below_a_parent() {
    let tenant = Tenant::new().await;
    let sent = named("acme", "Acme Corp", "");
    let top = create(&tenant, Organization { etag: "ignored".into(), ..sent.clone() }).await.unwrap();
    let stored = Organization { etag: top.etag.clone(), create_time: top.create_time, update_time: top.create_time, ..sent };
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
    assert_eq!(reason(answer.clone()), (Code::AlreadyExists, "ORGANIZATION_ALREADY_EXISTS".into()));
    assert_eq!(metadata(answer, "organization_id"), "acme");
    let answer = create(&tenant, named("acme", "Another", "acme")).await;
    assert_eq!(reason(answer).1, "ORGANIZATION_ALREADY_EXISTS", "below itself");
    assert_eq!(get(&tenant, "acme").await.unwrap(), first);
    create(&tenant, named("acme-2", "acme", "")).await.expect("names need not be unique");
    let other = Tenant::new().await;
    assert_eq!(reason(get(&other, "acme").await), (Code::NotFound, "ORGANIZATION_NOT_FOUND".into()));
    other.organization("acme", "").await;
}

#[tokio::test]
async fn a_parent_must_exist_in_the_tenant() {
    let tenant = Tenant::new().await;
    let other = Tenant::new().await;
    other.organization("theirs", "").await;
    for parent in ["nowhere", "theirs", "itself"] {
        let answer = create(&tenant, named("itself", "Acme", parent)).await;
        assert_eq!(reason(answer.clone()), (Code::NotFound, "ORGANIZATION_NOT_FOUND".into()), "{parent}");
        assert_eq!(metadata(answer.clone(), "organization_id"), parent);
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
    assert_eq!(reason(answer.clone()), (Code::FailedPrecondition, "ORGANIZATION_TOO_DEEP".into()));
    assert_eq!(metadata(answer.clone(), "parent_id"), "level-16");
    let failure = refused(answer).1.precondition_failure().unwrap().violations.clone();
    assert_eq!((&*failure[0].r#type, &*failure[0].subject), ("ORGANIZATION_TOO_DEEP", "organization/level-16"));
    assert_eq!(reason(get(&tenant, "level-17").await), (Code::NotFound, "ORGANIZATION_NOT_FOUND".into()));
    create(&tenant, named("sibling", "Beside it", "level-15")).await.expect("another at the deepest level");
}

#[tokio::test]
async fn the_fields_of_an_organization_have_limits() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let created = create(&tenant, named(&"é".repeat(50), &"É".repeat(200), "acme")).await.unwrap();
    assert_eq!(get(&tenant, &"é".repeat(50)).await.unwrap(), created);
    let wrong = named(&"é".repeat(51), &"É".repeat(201), &"p".repeat(51));
    let expected = ["organization.organization_id", "organization.display_name", "organization.parent_id"];
    assert_eq!(fields(create(&tenant, wrong).await), expected);
    let answer = tenant.organizations().create_organization(CreateOrganizationRequest::default()).await;
    assert_eq!(fields(answer), ["organization", "organization.display_name"]);
    assert_eq!(fields(create(&tenant, named("", " padded", "")).await), ["organization.display_name"]);
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
        let mut request = ListOrganizationsRequest { order_by: order_by.into(), page_size: 3, ..Default::default() };
        let first = tenant.organizations().list_organizations(request.clone()).await.unwrap().into_inner();
        request.page_token = first.next_page_token;
        let second = tenant.organizations().list_organizations(request.clone()).await.unwrap().into_inner();
        assert_eq!((second.organizations.len(), &*second.next_page_token), (1, ""));
        let ids = first.organizations.into_iter().chain(second.organizations).map(|organization| organization.organization_id);
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{order_by:?}");
        let other = ListOrganizationsRequest { parent_id: "1".into(), ..request };
        assert_eq!(reason(tenant.organizations().list_organizations(other).await).1, "INVALID_PAGE_TOKEN");
    }
}
