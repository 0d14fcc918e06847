//! The list page: what it is filtered and ordered by, how many rows there are, the names behind the
//! ids in its rows, and the list that shows what an error names.

use std::collections::{BTreeMap, BTreeSet};

use customer_accounts::proto::{
    Account, AccountOrderBy, AccountType, AccountUser, BatchGetAccountTypesRequest,
    BatchGetOrganizationsRequest, BatchGetPeopleRequest, Contact, CreateOrganizationRequest,
    ListAccountTypesRequest, ListAccountsRequest, ListOrganizationsRequest, ListPeopleRequest,
    ListPersonAccountsRequest, Organization, PACKAGE, POOL, Person, UpdateOrganizationRequest,
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use tonic::Status;

use crate::{
    lists::execute,
    support::{
        Tenant, account,
        calls::{account_type, fields, mask, metadata, only, only_person},
        commerce::{order, subscription},
        contracts::{contract, setup},
        every_call::{self, descriptor},
        raw::call,
        refusal,
    },
};

fn entries(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Tenant {
    async fn organizations_of(&self, request: ListOrganizationsRequest) -> String {
        let organizations = self
            .organizations()
            .list_organizations(request)
            .await
            .unwrap()
            .into_inner()
            .organizations;
        organizations
            .into_iter()
            .map(|organization| organization.organization_id)
            .collect::<Vec<_>>()
            .join(" ")
    }

    async fn put_metadata(&self, id: &str, metadata: &[(&str, &str)]) -> Organization {
        let organization = Organization {
            organization_id: id.into(),
            metadata: entries(metadata),
            ..Default::default()
        };
        let update_mask = mask(&["metadata"]);
        let request = UpdateOrganizationRequest {
            organization: Some(organization),
            update_mask,
            ..Default::default()
        };
        self.organizations()
            .update_organization(request)
            .await
            .unwrap()
            .into_inner()
            .organization
            .unwrap()
    }
}

/// A page of any list, as this caller sees it: how many rows it has, the next page, and what it
/// says of the whole.
async fn page(
    tenant: &Tenant,
    method: &str,
    request: &DynamicMessage,
) -> Result<(usize, String, i32, bool), Status> {
    let identity: [(&str, &[u8]); 4] = [
        ("x-tenant-id", tenant.caller.tenant.as_bytes()),
        ("x-actor", tenant.caller.actor.as_bytes()),
        ("x-roles", tenant.caller.roles.as_bytes()),
        ("x-tenant-wide", if tenant.caller.tenant_wide { b"true" } else { b"false" }),
    ];
    let answer = call(&tenant.channel, method, &identity, &request.encode_to_vec()).await?.concat();
    let answer = DynamicMessage::decode(descriptor(method).output(), &*answer).unwrap();
    let field = |name: &str| answer.get_field_by_name(name).unwrap().into_owned();
    let rows = answer.get_field_by_number(1).unwrap().as_list().unwrap().len();
    let token = field("next_page_token").as_str().unwrap().to_owned();
    Ok((
        rows,
        token,
        field("total_size").as_i32().unwrap(),
        field("total_size_capped").as_bool().unwrap(),
    ))
}

/// Every page of every list has the total number of rows, for a tenant-wide caller and for a caller
/// with a limited reach.
#[tokio::test]
async fn every_list_says_how_many_rows_it_has() {
    let (tenant, manager) = Tenant::regions().await;
    every_call::everything(&tenant, "one").await;
    every_call::everything(&tenant, "two").await;
    for id in ["one", "two"] {
        let other = format!("{id}-{id}");
        tenant.contract(contract(&other, id)).await;
        tenant.setup(setup(&other, id, &other)).await;
        tenant.subscription(subscription(&other, id)).await;
        tenant.order(order(&other, id)).await;
    }
    for id in ["ann", "bob", "cyd"] {
        tenant.person(id).await;
        tenant.add_member(if id == "cyd" { "rome" } else { "oslo" }, id).await.unwrap();
    }
    tenant.link("oslo-account", "rome", false).await.unwrap();
    tenant.link("rome-account", "oslo", false).await.unwrap();
    tenant.add_user("oslo-account", "manager").await;
    let contacts = Account {
        billing_contact_id: "ann".into(),
        cc_billing_contact_id: "ann".into(),
        ..only("oslo-account")
    };
    tenant.update(contacts, &[]).await.unwrap();
    for person_id in ["ann", "bob", "manager"] {
        let (account_id, person_id) = ("oslo-account".into(), person_id.into());
        let user = AccountUser { account_id, person_id, billing: true, ..Default::default() };
        tenant.update_user(user, &["billing"]).await.unwrap();
    }
    let all: BTreeSet<_> = POOL
        .services()
        .filter(|service| service.package_name() == PACKAGE)
        .flat_map(|service| {
            service
                .methods()
                .map(|it| (service.name().to_owned(), it.name().to_owned()))
                .collect::<Vec<_>>()
        })
        .filter(|(_, name)| name.starts_with("List"))
        .map(|(service, name)| format!("{service}/{name}"))
        .collect();
    let (mut counted, mut several) = (BTreeSet::new(), BTreeSet::new());
    for id in ["oslo-account", "oslo", "ann", "one", "north", "manager"] {
        let asked = [every_call::asks_for(id), every_call::lists(id)].concat();
        for (method, request) in asked.into_iter().filter(|(method, _)| method.contains("/List")) {
            let mut request =
                DynamicMessage::decode(descriptor(method).input(), &*request).unwrap();
            request.set_field_by_name("page_size", Value::I32(2));
            request.set_field_by_name("include_total_size", Value::Bool(true));
            for caller in [&tenant, &manager] {
                let (mut rows, mut told, mut next) = (0, Vec::new(), request.clone());
                while let Ok((on_page, token, total, capped)) = page(caller, method, &next).await {
                    assert!(!capped, "{method}");
                    rows += on_page;
                    told.push(total);
                    counted.insert(method.to_owned());
                    if token.is_empty() {
                        break;
                    }
                    next.set_field_by_name("page_token", Value::String(token));
                }
                let expected = i32::try_from(rows).unwrap();
                assert!(
                    told.iter().all(|total| *total == expected),
                    "{method} for {id}: {rows} rows, {told:?}\n{request:?}"
                );
                if rows > 1 {
                    several.insert(method.to_owned());
                }
            }
        }
    }
    assert_eq!(counted, all, "every list is counted here");
    // There is one setting of a module at most.
    let few: Vec<_> = all.difference(&several).collect();
    assert_eq!(
        few,
        ["TenantService/ListModuleActivations"],
        "these lists have no rows to be counted here"
    );
}

#[tokio::test]
async fn a_list_is_counted_up_to_1000_and_says_that_there_are_more() {
    let tenant = Tenant::new().await;
    let insert = |from: i32, to: i32| {
        format!(
            "INSERT INTO people (person_id, display_name, sort_key, kind) \
             SELECT 'p' || n, 'P', 'p' || n, 'CUSTOMER' FROM generate_series({from}, {to}) AS n; \
             INSERT INTO organization_members (organization_id, person_id, sort_key, person_create_time) \
             SELECT 'acme', person_id, sort_key, create_time FROM people ON CONFLICT DO NOTHING"
        )
    };
    tenant.organization("acme", "").await;
    let count = async |include_total_size: bool, organization_id: &str| {
        let organization_id = organization_id.into();
        let request = ListPeopleRequest {
            page_size: 1,
            include_total_size,
            organization_id,
            ..Default::default()
        };
        let page = tenant.people().list_people(request).await.unwrap().into_inner();
        (page.total_size, page.total_size_capped)
    };
    execute(&tenant, &insert(1, 1000)).await;
    assert_eq!((count(true, "").await, count(true, "acme").await), ((1000, false), (1000, false)));
    execute(&tenant, &insert(1001, 1001)).await;
    assert_eq!(
        (count(true, "").await, count(true, "acme").await),
        ((1000, true), (1000, true)),
        "1000+"
    );
    assert_eq!(count(false, "").await, (0, false), "only those who ask are told");
}

/// A page that is asked for with the count, and the next one without, are pages of one list.
#[tokio::test]
async fn a_count_is_asked_for_on_the_first_page_only() {
    let tenant = Tenant::new().await;
    for id in ["a", "b", "c"] {
        tenant.person(id).await;
    }
    let first = ListPeopleRequest { page_size: 2, include_total_size: true, ..Default::default() };
    let page = tenant.people().list_people(first).await.unwrap().into_inner();
    assert_eq!((page.people.len(), page.total_size), (2, 3));
    let next =
        ListPeopleRequest { page_size: 2, page_token: page.next_page_token, ..Default::default() };
    let page = tenant.people().list_people(next).await.unwrap().into_inner();
    assert_eq!((page.people.len(), page.total_size), (1, 0));
}

#[tokio::test]
async fn accounts_are_filtered_by_every_column_of_the_page() {
    let tenant = Tenant::new().await;
    for id in ["acme", "globex"] {
        tenant.organization(id, "").await;
    }
    tenant.account_type("Enterprise").await;
    tenant.person("ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    let make = async |id: &str, organization_id: &str, fields: Account| {
        let (Account { primary_contact, .. }, display_name) =
            (account(id, organization_id), id.to_owned());
        let (account_id, organization_id) = (id.to_owned(), organization_id.to_owned());
        tenant
            .account(Account {
                account_id,
                display_name,
                organization_id,
                primary_contact,
                ..fields
            })
            .await
    };
    let typed = || Account { account_type_id: "Enterprise".into(), ..Default::default() };
    make("a", "acme", Account { is_primary: true, ..typed() }).await;
    make(
        "b",
        "acme",
        Account {
            billing_contact_id: "ann".into(),
            metadata: entries(&[("erp", "1"), ("eu", "yes")]),
            ..typed()
        },
    )
    .await;
    make("c", "acme", Account { cc_billing_contact_id: "ann".into(), ..Default::default() }).await;
    make("d", "globex", Account { metadata: entries(&[("erp", "1")]), ..Default::default() }).await;
    make(
        "e",
        "globex",
        Account { is_primary: true, metadata: entries(&[("erp", "11"), ("eu", "1")]), ..typed() },
    )
    .await;
    tenant.link("d", "acme", false).await.unwrap();
    let contact = Contact { person_id: "ann".into(), ..Default::default() };
    tenant.update(Account { primary_contact: Some(contact), ..only("a") }, &[]).await.unwrap();
    let times = "UPDATE accounts SET create_time = ('2026-03-0' || ascii(account_id) - 96 || ' UTC')::timestamptz, \
                 update_time = ('2026-05-0' || 102 - ascii(account_id) || ' UTC')::timestamptz";
    execute(&tenant, times).await;
    let day = |month: i64, day: i64| {
        // 1 January 2026, and the days of January to the month before.
        let days = [0, 31, 59, 90, 120][usize::try_from(month).unwrap() - 1] + day - 1;
        Some(prost_types::Timestamp { seconds: 1_767_225_600 + days * 86_400, nanos: 0 })
    };
    let all = ListAccountsRequest::default;
    let with =
        |metadata: &[(&str, &str)]| ListAccountsRequest { metadata: entries(metadata), ..all() };
    for (request, expected) in [
        (ListAccountsRequest { without_account_type: true, ..all() }, "c d"),
        (ListAccountsRequest { is_primary: Some(true), ..all() }, "a e"),
        (ListAccountsRequest { is_primary: Some(false), ..all() }, "b c d"),
        (
            ListAccountsRequest { is_primary: Some(false), without_account_type: true, ..all() },
            "c d",
        ),
        (ListAccountsRequest { create_start_time: day(3, 3), ..all() }, "c d e"),
        (ListAccountsRequest { create_end_time: day(3, 3), ..all() }, "a b"),
        (
            ListAccountsRequest {
                create_start_time: day(3, 2),
                create_end_time: day(3, 4),
                ..all()
            },
            "b c",
        ),
        (ListAccountsRequest { update_start_time: day(5, 4), ..all() }, "a b"),
        (ListAccountsRequest { update_end_time: day(5, 2), ..all() }, "e"),
        (
            ListAccountsRequest {
                update_start_time: day(5, 2),
                create_end_time: day(3, 3),
                ..all()
            },
            "a b",
        ),
        (ListAccountsRequest { linked_organization_id: "acme".into(), ..all() }, "d"),
        (ListAccountsRequest { linked_organization_id: "globex".into(), ..all() }, ""),
        (ListAccountsRequest { contact_id: "ann".into(), ..all() }, "a b c"),
        (ListAccountsRequest { contact_id: "bob".into(), ..all() }, ""),
        (with(&[("erp", "1")]), "b d"),
        (with(&[("erp", "1"), ("eu", "yes")]), "b"),
        (with(&[("erp", "11")]), "e"),
        (with(&[("ERP", "1")]), ""),
        (with(&[("erp", "")]), ""),
        (ListAccountsRequest { query: "b".into(), ..with(&[("erp", "1")]) }, "b"),
        (ListAccountsRequest { query: "erp".into(), ..all() }, ""),
    ] {
        assert_eq!(tenant.list(request.clone()).await.join(" "), expected, "{request:?}");
        // In each order, page by page, it is the same set.
        for order_by in 1..=8 {
            let (mut found, mut request) =
                (Vec::new(), ListAccountsRequest { page_size: 1, order_by, ..request.clone() });
            loop {
                let page =
                    tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
                found.extend(page.accounts.into_iter().map(|account| account.account_id));
                assert!(found.len() <= 5, "the pages go round in circles: {request:?}");
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            found.sort();
            assert_eq!(found.join(" "), expected, "{request:?}");
        }
    }
}

#[tokio::test]
async fn accounts_are_ordered_by_update_and_by_status() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for (id, status) in [("e", 1), ("d", 2), ("c", 3), ("b", 1), ("a", 2)] {
        tenant.account(Account { status, ..account(id, "acme") }).await;
    }
    tenant.person("ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    for id in ["c", "a", "e", "b", "d"] {
        tenant.update(Account { comment: "c".into(), ..only(id) }, &[]).await.unwrap();
    }
    for (order_by, expected) in [
        (AccountOrderBy::UpdateTime, "c a e b d"),
        (AccountOrderBy::UpdateTimeDesc, "d b e a c"),
        (AccountOrderBy::Status, "b e c a d"),
        (AccountOrderBy::StatusDesc, "d a c e b"),
    ] {
        for page_size in [1, 2, 3, 50] {
            let (mut found, mut of_ann) = (Vec::new(), Vec::new());
            let mut request =
                ListAccountsRequest { page_size, order_by: order_by.into(), ..Default::default() };
            let person_id = "ann".to_owned();
            let mut of = ListPersonAccountsRequest {
                page_size,
                order_by: order_by.into(),
                person_id,
                ..Default::default()
            };
            loop {
                let page =
                    tenant.accounts().list_accounts(request.clone()).await.unwrap().into_inner();
                found.extend(page.accounts.into_iter().map(|account| account.account_id));
                assert!(found.len() <= 5, "the pages go round in circles: {request:?}");
                request.page_token = page.next_page_token;
                let page = tenant
                    .memberships()
                    .list_person_accounts(of.clone())
                    .await
                    .unwrap()
                    .into_inner();
                of_ann.extend(page.accounts.into_iter().map(|account| account.account_id));
                of.page_token = page.next_page_token;
                if request.page_token.is_empty() && of.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(found.join(" "), expected, "{order_by:?} by {page_size}");
            assert_eq!(of_ann, found, "{order_by:?} by {page_size}");
        }
    }
    // Other lists have no such order.
    let people = ListPeopleRequest { order_by: 5, ..Default::default() };
    assert_eq!(fields(tenant.people().list_people(people).await), ["order_by"]);
}

#[tokio::test]
async fn filters_that_contradict_themselves_are_refused() {
    let tenant = Tenant::new().await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let long = "x".repeat(501);
    let request = ListAccountsRequest {
        account_type_id: "a".into(),
        without_account_type: true,
        create_start_time: time(9),
        create_end_time: time(9),
        update_start_time: time(i64::MAX),
        metadata: entries(&[("a b", "c"), ("k", &long)]),
        order_by: 9,
        ..Default::default()
    };
    let expected = [
        "create_end_time",
        "metadata[\"a b\"]",
        "metadata[\"k\"]",
        "order_by",
        "update_start_time",
        "without_account_type",
    ];
    let mut found = fields(tenant.accounts().list_accounts(request).await);
    found.sort();
    assert_eq!(found, expected);
    let many = entries(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")]);
    let request = ListAccountsRequest { metadata: many, ..Default::default() };
    assert_eq!(fields(tenant.accounts().list_accounts(request).await), ["metadata"]);
    let request = ListOrganizationsRequest {
        roots_only: true,
        parent_id: "acme".into(),
        ..Default::default()
    };
    assert_eq!(fields(tenant.organizations().list_organizations(request).await), ["roots_only"]);
}

#[tokio::test]
async fn organizations_are_filtered_by_place_person_and_metadata() {
    let tenant = Tenant::new().await;
    for (id, parent_id) in
        [("acme", ""), ("emea", "acme"), ("oslo", "emea"), ("rome", "emea"), ("globex", "")]
    {
        tenant.organization(id, parent_id).await;
    }
    for id in ["ann", "bob"] {
        tenant.person(id).await;
    }
    tenant.identify("ann", "subject-of-ann").await;
    for organization_id in ["emea", "oslo", "globex"] {
        tenant.add_member(organization_id, "ann").await.unwrap();
    }
    tenant.put_metadata("oslo", &[("erp", "1")]).await;
    tenant.put_metadata("rome", &[("erp", "1"), ("eu", "yes")]).await;
    let all = ListOrganizationsRequest::default;
    let roots = || ListOrganizationsRequest { roots_only: true, ..all() };
    let of = |person_id: &str| ListOrganizationsRequest { person_id: person_id.into(), ..all() };
    let with = |metadata: &[(&str, &str)]| ListOrganizationsRequest {
        metadata: entries(metadata),
        ..all()
    };
    for (request, expected) in [
        (roots(), "acme globex"),
        (ListOrganizationsRequest { query: "glo".into(), ..roots() }, "globex"),
        (of("ann"), "emea globex oslo"),
        (of("bob"), ""),
        (of("nobody"), ""),
        (ListOrganizationsRequest { parent_id: "emea".into(), ..of("ann") }, "oslo"),
        (with(&[("erp", "1")]), "oslo rome"),
        (with(&[("erp", "1"), ("eu", "yes")]), "rome"),
        (with(&[("eu", "no")]), ""),
        (ListOrganizationsRequest { query: "erp".into(), ..all() }, ""),
    ] {
        assert_eq!(tenant.organizations_of(request.clone()).await, expected, "{request:?}");
    }
    // The top of what a part of the tenant's people see: not all of it is at the top of a tree.
    let ann = tenant.reaching("subject-of-ann", "viewer");
    assert_eq!(ann.organizations_of(all()).await, "emea globex oslo rome");
    assert_eq!(ann.organizations_of(roots()).await, "emea globex");
}

#[tokio::test]
async fn metadata_and_tax_ids_are_found_as_they_are_now() {
    let tenant = Tenant::new().await;
    let made = Organization {
        organization_id: "acme".into(),
        display_name: "Acme".into(),
        ..Default::default()
    };
    let made = Organization { metadata: entries(&[("erp", "1")]), ..made };
    let request = CreateOrganizationRequest { organization: Some(made), ..Default::default() };
    let made = tenant
        .organizations()
        .create_organization(request)
        .await
        .unwrap()
        .into_inner()
        .organization
        .unwrap();
    assert_eq!(made.metadata, entries(&[("erp", "1")]));
    let with = |value: &str| ListOrganizationsRequest {
        metadata: entries(&[("erp", value)]),
        ..Default::default()
    };
    assert_eq!(tenant.organizations_of(with("1")).await, "acme");
    let now = tenant.put_metadata("acme", &[("erp", "2")]).await;
    assert!(now.etag != made.etag && now.display_name == "Acme");
    assert_eq!(
        (tenant.organizations_of(with("1")).await, tenant.organizations_of(with("2")).await),
        (String::new(), "acme".into())
    );
    let trail = tenant.trail_of("acme").await;
    let (before, after) = trail[1].change("metadata");
    assert_eq!((before["erp"].as_str(), after["erp"].as_str()), (Some("1"), Some("2")));
    let bad = Organization {
        organization_id: "acme".into(),
        metadata: entries(&[("a b", "1")]),
        ..Default::default()
    };
    let request = UpdateOrganizationRequest { organization: Some(bad), ..Default::default() };
    let refused = tenant.organizations().update_organization(request).await;
    assert_eq!(fields(refused), ["organization.metadata[\"a b\"]"]);

    let search = |query: &str| ListAccountsRequest { query: query.into(), ..Default::default() };
    tenant.account(Account { tax_id: "DE 811-128.135".into(), ..account("a", "acme") }).await;
    assert_eq!(tenant.get("a").await.unwrap().tax_id, "DE 811-128.135");
    for query in ["811-128", "de 811", "135"] {
        assert_eq!(tenant.list(search(query)).await, ["a"], "{query}");
    }
    let update =
        Account { tax_id: "ATU13585627".into(), metadata: entries(&[("erp", "7")]), ..only("a") };
    tenant.update(update, &["tax_id", "metadata"]).await.unwrap();
    assert_eq!(
        (tenant.list(search("811")).await.len(), tenant.list(search("atu135")).await.len()),
        (0, 1)
    );
    let with = |value: &str| ListAccountsRequest {
        metadata: entries(&[("erp", value)]),
        ..Default::default()
    };
    assert_eq!(tenant.list(with("7")).await, ["a"]);
    tenant.update(only("a"), &["metadata"]).await.unwrap();
    assert!(tenant.list(with("7")).await.is_empty());
    for wrong in ["x".repeat(51), "a\nb".into(), " a".into()] {
        assert_eq!(
            fields(tenant.update(Account { tax_id: wrong, ..only("a") }, &[]).await)[0],
            "account.tax_id"
        );
    }
    tenant.update(Account { tax_id: "é".repeat(50), ..only("a") }, &[]).await.unwrap();
}

/// The names behind the ids in the rows of a list, each kind in one call.
#[tokio::test]
async fn organizations_types_and_people_are_read_in_batches() {
    let tenant = Tenant::new().await;
    for id in ["a", "b"] {
        tenant.organization(id, "").await;
        tenant.account_type(id).await;
        tenant.person(id).await;
    }
    let batch = async |which: usize, ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        match which {
            0 => {
                let request = BatchGetOrganizationsRequest { organization_ids: ids };
                let answer =
                    tenant.organizations().batch_get_organizations(request).await?.into_inner();
                Ok::<Vec<_>, Status>(
                    answer.organizations.into_iter().map(|it| it.organization_id).collect(),
                )
            }
            1 => {
                let request = BatchGetAccountTypesRequest { account_type_ids: ids };
                let answer =
                    tenant.account_types().batch_get_account_types(request).await?.into_inner();
                Ok(answer.account_types.into_iter().map(|it| it.account_type_id).collect())
            }
            _ => {
                let request = BatchGetPeopleRequest { person_ids: ids };
                let answer = tenant.people().batch_get_people(request).await?.into_inner();
                Ok(answer.people.into_iter().map(|it| it.person_id).collect())
            }
        }
    };
    tenant.deactivate("b").await;
    let kinds =
        [("ORGANIZATION", "organization"), ("ACCOUNT_TYPE", "account_type"), ("PERSON", "person")];
    for (which, (reasons, noun)) in kinds.into_iter().enumerate() {
        assert_eq!(batch(which, &["b", "a", "b"]).await.unwrap(), ["b", "a", "b"], "{noun}");
        let missing = batch(which, &["a", "x", "y"]).await;
        assert_eq!(refusal(&missing), format!("{reasons}_NOT_FOUND"));
        assert_eq!(metadata(missing, &format!("{noun}_id")), "x");
        assert_eq!(fields(batch(which, &[]).await), [format!("{noun}_ids")]);
        assert_eq!(fields(batch(which, &["a", ""]).await), [format!("{noun}_ids[1]")]);
        assert_eq!(fields(batch(which, &["a"; 1001]).await), [format!("{noun}_ids")]);
        assert_eq!(batch(which, &["a"; 1000]).await.unwrap().len(), 1000, "{noun}");
    }
}

/// What organizations take in an answer grows with their metadata.
#[tokio::test]
async fn a_batch_or_page_of_organizations_is_no_larger_than_clients_accept() {
    let tenant = Tenant::new().await;
    let ids: Vec<String> = (0..20).map(|n| format!("o{n:02}")).collect();
    let many: Vec<_> = (0..64).map(|n| (format!("key-{n}"), "\u{1f600}".repeat(500))).collect();
    let many: Vec<_> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for id in &ids {
        tenant.organization(id, "").await;
        tenant.put_metadata(id, &many).await;
    }
    let request = BatchGetOrganizationsRequest { organization_ids: ids.clone() };
    let answer = tenant.organizations().batch_get_organizations(request).await;
    assert_eq!(refusal(answer), "RESPONSE_TOO_LARGE");
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListOrganizationsRequest {
            page_size: 1000,
            page_token,
            include_total_size: true,
            ..Default::default()
        };
        let page = tenant.organizations().list_organizations(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < 3 << 20 && page.total_size == 20, "{}", page.encoded_len());
        seen.extend(page.organizations.into_iter().map(|it| it.organization_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);
}

/// For each thing that an error names by something else than its id: the call that shows it, and
/// the field of that call's request which takes what the error says.
const SHOWN_BY: &[(&str, &str, &str, &str)] = &[
    ("ORGANIZATION_NOT_EMPTY", "children", "OrganizationService/ListOrganizations", "parent_id"),
    ("ORGANIZATION_NOT_EMPTY", "accounts", "AccountService/ListAccounts", "organization_id"),
    ("ORGANIZATION_NOT_EMPTY", "links", "AccountService/ListAccounts", "linked_organization_id"),
    ("PERSON_IN_USE", "accounts", "AccountService/ListAccounts", "account_manager_id"),
    ("CONTACT_SLOT_HELD", "slots", "AccountService/ListAccounts", "contact_id"),
    (
        "USER_THROUGH_ORGANIZATION",
        "organizations",
        "MembershipService/CheckMembership",
        "person_id",
    ),
    (
        "ACCOUNT_TYPE_ALREADY_EXISTS",
        "display_name",
        "AccountTypeService/ListAccountTypes",
        "display_name",
    ),
    (
        "DELIVERY_SETUP_ALREADY_EXISTS",
        "project_id",
        "ContractService/ListDeliverySetups",
        "project_id",
    ),
    ("PERSON_ALREADY_EXISTS", "subject", "PersonService/ListPeople", "subject"),
    ("MODULE_NOT_ACTIVATED", "module", "TenantService/ListModuleActivations", "module"),
];

/// What the metadata of errors says that is no resource.
const NO_RESOURCES: &[&str] = &[
    "allowed",
    "call",
    "fields",
    "state",
    "status",
    "field",
    "permission",
    "from",
    "to",
    "workload",
    "resource_type",
    "level",
    "contracts",
    "subscriptions",
    "end_time",
    "reasons",
    "encoding",
    "accepted",
    "row",
];

/// The metadata of a reason, as its comment tells.
fn keys(comment: &str) -> Vec<&str> {
    let said = comment.split_once("Metadata:").map_or("", |(_, said)| said);
    let names = said.split('`').skip(1).step_by(2);
    names.filter(|name| name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')).collect()
}

/// Every reason that names a resource has a call that shows the resource: by its id, or in a list.
#[test]
fn what_an_error_names_can_be_looked_up() {
    let reasons = POOL.get_enum_by_name("accounts.v1.ErrorReason").unwrap();
    let info = reasons.parent_file().file_descriptor_proto().source_code_info.clone().unwrap();
    let gets: BTreeSet<String> = POOL
        .services()
        .filter(|service| service.package_name() == PACKAGE)
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| method.name().starts_with("Get"))
        .filter_map(|method| Some(method.input().get_field(1)?.name().to_owned()))
        .collect();
    let mut looked_up = BTreeSet::new();
    for reason in reasons.values() {
        let location =
            info.location.iter().find(|location| location.path == reason.path()).unwrap();
        let name = reason.name().trim_start_matches("ERROR_REASON_");
        for key in keys(location.leading_comments()) {
            // A parent is an organization.
            let id = if key == "parent_id" { "organization_id" } else { key };
            if gets.contains(id) || NO_RESOURCES.contains(&key) {
                continue;
            }
            let shown =
                SHOWN_BY.iter().find(|(reason, named, ..)| (*reason, *named) == (name, key));
            let (.., method, field) = shown
                .unwrap_or_else(|| panic!("{name} says {key:?}: which call shows what that is?"));
            let call = method.split_once('/').unwrap().1;
            assert!(
                descriptor(method).input().get_field_by_name(field).is_some(),
                "{method} has no {field}"
            );
            let says = location.leading_comments().contains(call)
                || location.leading_comments().contains("SetModuleActivation");
            assert!(says, "the comment of {name} says which call shows {key}: {call}");
            looked_up.insert((name.to_owned(), key.to_owned()));
        }
    }
    let all: BTreeSet<_> =
        SHOWN_BY.iter().map(|(name, key, ..)| ((*name).to_owned(), (*key).to_owned())).collect();
    assert_eq!(looked_up, all, "SHOWN_BY has nothing that no reason says");
}

/// The number that an error tells is the number of rows of the list that shows them.
#[tokio::test]
async fn a_list_shows_as_many_as_the_error_counts() {
    let tenant = Tenant::new().await;
    for (id, parent_id) in [("acme", ""), ("emea", "acme"), ("apac", "acme"), ("other", "")] {
        tenant.organization(id, parent_id).await;
    }
    tenant.staff("mia").await;
    tenant.person("ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    for id in ["a1", "a2", "a3"] {
        tenant
            .account(Account {
                account_manager_id: "mia".into(),
                billing_contact_id: "ann".into(),
                ..account(id, "acme")
            })
            .await;
    }
    for id in ["o1", "o2"] {
        tenant.account(account(id, "other")).await;
        tenant.link(id, "acme", false).await.unwrap();
    }
    let refusals = [
        (
            "ORGANIZATION_NOT_EMPTY",
            "acme",
            tenant.delete_organization("acme", "").await.unwrap_err(),
        ),
        ("PERSON_IN_USE", "mia", tenant.delete_person("mia", "").await.unwrap_err()),
        ("CONTACT_SLOT_HELD", "ann", tenant.delete_person("ann", "").await.unwrap_err()),
    ];
    for (name, id, status) in refusals {
        assert_eq!(refusal(&status), name);
        for (_, key, method, field) in SHOWN_BY.iter().filter(|(reason, ..)| *reason == name) {
            let mut request = DynamicMessage::new(descriptor(method).input());
            request.set_field_by_name(field, Value::String(id.to_owned()));
            request.set_field_by_name("include_total_size", Value::Bool(true));
            let (rows, _, total, _) = page(&tenant, method, &request).await.unwrap();
            assert!(rows > 1, "{method} by {field}");
            assert_eq!(metadata(&status, key), rows.to_string(), "{name}: {key}");
            assert_eq!(total.to_string(), rows.to_string());
        }
    }
    // A user through several organizations, and what is taken.
    let through = tenant.remove_user("o1", "ann", "").await;
    let check = tenant.check("o1", "ann").await.unwrap();
    assert_eq!(metadata(through, "organizations"), check.organization_ids.len().to_string());
    tenant.account_type("Gold").await;
    tenant.deactivate("Gold").await;
    let taken = tenant
        .try_account_type(AccountType {
            account_type_id: "g".into(),
            display_name: "GOLD".into(),
            ..account_type("g")
        })
        .await;
    assert_eq!(metadata(taken, "field"), "display_name");
    let named = ListAccountTypesRequest {
        display_name: "GOLD".into(),
        show_inactive: true,
        ..Default::default()
    };
    let found =
        tenant.account_types().list_account_types(named).await.unwrap().into_inner().account_types;
    assert_eq!(found.iter().map(|it| &*it.account_type_id).collect::<Vec<_>>(), ["Gold"]);
    tenant.identify("ann", "sub-1").await;
    let taken = tenant
        .update_person(Person { subject: "sub-1".into(), ..only_person("mia") }, &["subject"])
        .await;
    assert_eq!(metadata(taken, "field"), "subject");
    for (subject, expected) in [("sub-1", vec!["ann"]), ("SUB-1", vec![]), ("sub", vec![])] {
        let request = ListPeopleRequest { subject: subject.into(), ..Default::default() };
        assert_eq!(tenant.list_people(request).await, expected);
    }
}
