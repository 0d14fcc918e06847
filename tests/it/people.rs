//! People: created, found, changed and deleted, and kept where an account needs them.

use customer_accounts::proto::{
    Account, CreatePersonRequest, DeletePersonRequest, GetPersonRequest, ListPeopleRequest, Person,
    PersonKind, PersonOrderBy, UpdatePersonRequest,
};
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, later, metadata, only, only_person, person, preconditions, staff},
    refusal, refused,
};

/// A person who has every field that a person can be given.
fn jane(id: &str) -> Person {
    Person {
        person_id: id.into(),
        display_name: "Jane Döe".into(),
        email: "jane.doe@acme.example".into(),
        phone: "+1 (555) 010-0000 ext. 7".into(),
        kind: PersonKind::Staff.into(),
        subject: "auth0|Jane".into(),
        active: Some(true),
        ..Default::default()
    }
}

fn search(query: &str) -> ListPeopleRequest {
    ListPeopleRequest { query: query.into(), ..Default::default() }
}

fn within(organization_id: &str, include_descendants: bool) -> ListPeopleRequest {
    ListPeopleRequest {
        organization_id: organization_id.into(),
        include_descendants,
        ..Default::default()
    }
}

#[track_caller]
fn assert_taken(answer: Result<Person, Status>, field: &str, value: &str) {
    assert_eq!(refusal(&answer), "PERSON_ALREADY_EXISTS", "{field}");
    assert_eq!(metadata(&answer, "field"), field);
    let resource = refused(answer).1.resource_info().unwrap().clone();
    assert_eq!((&*resource.resource_type, &*resource.resource_name), ("accounts.v1.Person", value));
}

#[tokio::test]
async fn a_person_is_created_with_every_field_and_read_back() {
    let tenant = Tenant::new().await;
    let sent = Person { etag: "ignored".into(), active: None, ..jane("jane") };
    let created = tenant.try_person(sent).await.unwrap();
    let (etag, create_time) = (created.etag.clone(), created.create_time);
    assert!(create_time.is_some() && !etag.is_empty() && etag != "ignored");
    assert_eq!(
        created,
        Person { etag, create_time, update_time: create_time, ..jane("jane") },
        "an active one unless told otherwise"
    );
    assert_eq!(tenant.get_person("jane").await.unwrap(), created);
    assert_eq!(refusal(Tenant::new().await.get_person("jane").await), "PERSON_NOT_FOUND");
}

#[tokio::test]
async fn a_person_needs_nothing_but_a_name() {
    let tenant = Tenant::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let created = tenant
            .try_person(Person { display_name: "Jane".into(), ..Default::default() })
            .await
            .unwrap();
        assert!(created.person_id.starts_with("pers_"), "{}", created.person_id);
        assert_eq!(
            (&*created.email, &*created.phone, &*created.subject, created.active()),
            ("", "", "", true)
        );
        ids.push(created.person_id);
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "generated ids sort by age: {ids:?}");
}

#[tokio::test]
async fn an_id_and_a_subject_are_taken_once_in_a_tenant() {
    let tenant = Tenant::new().await;
    let first = tenant.try_person(jane("jane")).await.unwrap();
    assert_taken(
        tenant.try_person(Person { subject: String::new(), ..jane("jane") }).await,
        "person_id",
        "jane",
    );
    assert_taken(tenant.try_person(jane("joan")).await, "subject", "auth0|Jane");
    let john = tenant
        .try_person(Person { subject: "auth0|jane".into(), ..person("john") })
        .await
        .expect("compared exactly");
    let answer = tenant
        .update_person(Person { subject: "auth0|Jane".into(), ..only_person("john") }, &[])
        .await;
    assert_taken(answer, "subject", "auth0|Jane");
    assert_eq!(tenant.get_person("john").await.unwrap(), john);
    // Inactive people keep theirs.
    let first = tenant
        .update_person(Person { etag: first.etag, ..only_person("jane") }, &["active"])
        .await
        .unwrap();
    assert_taken(tenant.try_person(jane("joan")).await, "subject", "auth0|Jane");
    tenant.update_person(only_person("jane"), &["subject"]).await.unwrap();
    tenant.try_person(jane("joan")).await.expect("the subject was given up");
    for id in ["none-1", "none-2"] {
        tenant
            .try_person(Person { subject: String::new(), ..jane(id) })
            .await
            .expect("email and name need not be unique");
    }
    assert!(!first.active());
    Tenant::new().await.try_person(jane("jane")).await.expect("free in another tenant");
}

#[tokio::test]
async fn every_violation_is_reported_at_once() {
    let tenant = Tenant::new().await;
    let with = |id: usize, name: usize, phone: usize, subject: usize| Person {
        person_id: "é".repeat(id),
        display_name: "É".repeat(name),
        phone: "5".repeat(phone),
        subject: "ü".repeat(subject),
        ..Default::default()
    };
    let created = tenant.try_person(with(50, 200, 50, 200)).await.unwrap();
    assert_eq!(tenant.get_person(&"é".repeat(50)).await.unwrap(), created);
    let wrong = Person { email: "jane at acme".into(), kind: 7, ..with(51, 201, 51, 201) };
    let all = [
        "person.person_id",
        "person.display_name",
        "person.subject",
        "person.email",
        "person.phone",
        "person.kind",
    ];
    assert_eq!(sorted(fields(tenant.try_person(wrong.clone()).await)), sorted(all));
    let request = CreatePersonRequest {
        person: Some(wrong),
        request_id: "r".repeat(101),
        ..Default::default()
    };
    let answer = tenant.people().create_person(request).await;
    assert_eq!(sorted(fields(answer)), sorted(all.into_iter().chain(["request_id"])));
    let answer = tenant.people().create_person(CreatePersonRequest::default()).await;
    assert_eq!(fields(answer), ["person", "person.display_name"]);
    for (field, bad) in [
        ("person.display_name", Person { display_name: " padded".into(), ..person("a") }),
        ("person.display_name", Person { display_name: "two\nlines".into(), ..person("a") }),
        (
            "person.email",
            Person { email: format!("{}@acme.example", "j".repeat(250)), ..person("a") },
        ),
        ("person.phone", Person { phone: "\u{7}".into(), ..person("a") }),
        ("person.subject", Person { subject: "a\0b".into(), ..person("a") }),
        ("person.kind", Person { kind: -1, ..person("a") }),
    ] {
        let answer = tenant.try_person(bad.clone()).await;
        assert_eq!(fields(answer)[0], field, "{bad:?}");
    }
    assert_eq!(
        fields(tenant.people().get_person(GetPersonRequest::default()).await),
        ["person_id"]
    );
    assert_eq!(fields(tenant.delete_person("", "").await), ["person_id"]);
    let list = ListPeopleRequest {
        page_size: -1,
        query: "q".repeat(201),
        organization_id: "o".repeat(51),
        kind: 3,
        ..Default::default()
    };
    let answer = tenant.people().list_people(list).await;
    assert_eq!(sorted(fields(answer)), ["kind", "organization_id", "page_size", "query"]);
}

fn sorted<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut all: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_person_is_a_customers_unless_said_otherwise() {
    let tenant = Tenant::new().await;
    for (id, given, expected) in [
        ("none", PersonKind::Unspecified, PersonKind::Customer),
        ("customer", PersonKind::Customer, PersonKind::Customer),
        ("staff", PersonKind::Staff, PersonKind::Staff),
    ] {
        let created = tenant.try_person(Person { kind: given.into(), ..person(id) }).await.unwrap();
        assert_eq!(created.kind(), expected, "{given:?}");
    }
    let staff = tenant.update_person(staff("none"), &[]).await.unwrap();
    assert_eq!(staff.kind(), PersonKind::Staff);
    for paths in [&["kind"][..], &["*"]] {
        assert_eq!(
            fields(tenant.update_person(person("none"), paths).await),
            ["person.kind"],
            "{paths:?}"
        );
    }
    tenant.update_person(person("none"), &[]).await.expect("not populated, not changed");
    assert_eq!(tenant.get_person("none").await.unwrap(), staff);
    let customer = Person { kind: PersonKind::Customer.into(), ..only_person("none") };
    assert_eq!(
        tenant.update_person(customer, &["kind"]).await.unwrap().kind(),
        PersonKind::Customer
    );
}

#[tokio::test]
async fn a_person_is_deactivated_by_a_mask_only_and_reactivated() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.person("jane").await;
    tenant.add_member("acme", "jane").await.unwrap();
    let now = tenant
        .update_person(Person { phone: "1".into(), ..only_person("jane") }, &[])
        .await
        .unwrap();
    assert!(now.active(), "not set is not populated");
    assert!(!tenant.update_person(only_person("jane"), &["active"]).await.unwrap().active());
    assert!(
        !tenant
            .update_person(Person { phone: "2".into(), ..only_person("jane") }, &[])
            .await
            .unwrap()
            .active()
    );
    assert_eq!(
        tenant.members("acme", false).await.unwrap(),
        ["jane"],
        "someone inactive keeps their memberships"
    );
    assert_eq!(tenant.list_people(search("")).await, ["jane"]);
    assert!(
        tenant
            .update_person(Person { active: Some(true), ..only_person("jane") }, &[])
            .await
            .unwrap()
            .active()
    );
    let all = Person { kind: PersonKind::Customer.into(), ..person("jane") };
    assert!(
        !tenant.update_person(all, &["*"]).await.unwrap().active(),
        "what is left out is set to false"
    );
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names() {
    let tenant = Tenant::new().await;
    let created = tenant.try_person(jane("jane")).await.unwrap();
    let wanted = Person {
        display_name: "ignored".into(),
        phone: "2".into(),
        etag: String::new(),
        ..only_person("jane")
    };
    let now =
        tenant.update_person(wanted, &["phone", "person_id", "etag", "update_time"]).await.unwrap();
    assert!(now.etag != created.etag && later(now.update_time, created.update_time));
    let expected = Person {
        phone: "2".into(),
        etag: now.etag.clone(),
        update_time: now.update_time,
        ..created.clone()
    };
    assert_eq!(now, expected);
    let now =
        tenant.update_person(only_person("jane"), &["email", "subject", "phone"]).await.unwrap();
    assert_eq!(
        (&*now.email, &*now.subject, &*now.phone, &*now.display_name),
        ("", "", "", "Jane Döe")
    );
    let now = tenant
        .update_person(Person { email: "j@x.example".into(), ..only_person("jane") }, &[])
        .await
        .unwrap();
    assert_eq!((&*now.email, now.kind(), now.active()), ("j@x.example", PersonKind::Staff, true));
    let all = Person { kind: PersonKind::Customer.into(), ..person("jane") };
    let now = tenant.update_person(all.clone(), &["*"]).await.unwrap();
    let active = Some(false);
    let expected = Person {
        etag: now.etag.clone(),
        create_time: created.create_time,
        update_time: now.update_time,
        active,
        ..all
    };
    assert_eq!(now, expected);
    assert_eq!(
        fields(tenant.update_person(only_person("jane"), &["nickname"]).await),
        ["update_mask"]
    );
    assert_eq!(
        fields(tenant.update_person(only_person("jane"), &["display_name"]).await),
        ["person.display_name"]
    );
    assert_eq!(
        fields(
            tenant.update_person(Person { email: "@".into(), ..only_person("jane") }, &[]).await
        ),
        ["person.email"]
    );
    let expected = ["person.display_name", "person.kind"];
    assert_eq!(sorted(fields(tenant.update_person(only_person("jane"), &["*"]).await)), expected);
    assert_eq!(fields(tenant.update_person(Person::default(), &[]).await), ["person.person_id"]);
    assert_eq!(refusal(tenant.update_person(person("joe"), &[]).await), "PERSON_NOT_FOUND");
    assert_eq!(metadata(tenant.update_person(person("joe"), &[]).await, "person_id"), "joe");
    assert_eq!(tenant.get_person("jane").await.unwrap(), now);
}

#[tokio::test]
async fn a_stale_etag_is_refused_and_an_update_to_the_same_changes_nothing() {
    let tenant = Tenant::new().await;
    let created = tenant.try_person(jane("jane")).await.unwrap();
    for paths in [&[][..], &["*"], &["phone"]] {
        assert_eq!(
            tenant.update_person(created.clone(), paths).await.unwrap(),
            created,
            "{paths:?}"
        );
    }
    let changed = tenant
        .update_person(Person { phone: "2".into(), ..created.clone() }, &["phone"])
        .await
        .unwrap();
    let stale = "ETAG_MISMATCH";
    let answer =
        tenant.update_person(Person { phone: "3".into(), ..created.clone() }, &["phone"]).await;
    assert_eq!(refusal(&answer), stale);
    assert_eq!(metadata(answer, "person_id"), "jane");
    assert_eq!(
        refusal(tenant.update_person(created.clone(), &["etag"]).await),
        stale,
        "also when nothing would change"
    );
    assert_eq!(refusal(tenant.delete_person("jane", &created.etag).await), stale);
    assert_eq!(tenant.get_person("jane").await.unwrap(), changed);
    tenant.delete_person("jane", &changed.etag).await.unwrap();
}

#[tokio::test]
async fn people_are_found_by_beginnings_of_words_in_id_name_and_email() {
    let tenant = Tenant::new().await;
    for (id, name, email) in [
        ("crm-7", "Zoë Łukasik", "zoe@blue-river.example"),
        ("crm-8", "Ann Lee", "a.lee@acme.example"),
        ("hr-1", "Lee Anders", ""),
    ] {
        tenant.try_person(Person { email: email.into(), ..jane(id) }.named(name)).await.unwrap();
    }
    for (query, expected) in [
        ("", "crm-8 hr-1 crm-7"),
        ("crm", "crm-8 crm-7"),
        ("CRM-7", "crm-7"),
        ("zoe", "crm-7"),
        ("ZOË", "crm-7"),
        ("lee an", "crm-8 hr-1"),
        ("acme", "crm-8"),
        ("river blue", "crm-7"),
        ("lee hr", "hr-1"),
        ("oe", ""),
        ("zoe lee", ""),
    ] {
        assert_eq!(tenant.list_people(search(query)).await.join(" "), expected, "{query:?}");
    }
    let ann = Person {
        display_name: "Bea".into(),
        email: "bea@new.example".into(),
        ..only_person("crm-8")
    };
    tenant.update_person(ann, &[]).await.unwrap();
    for (query, expected) in [
        ("ann", ""),
        ("acme", ""),
        ("lee", "hr-1"),
        ("bea", "crm-8"),
        ("new", "crm-8"),
        ("crm-8", "crm-8"),
    ] {
        assert_eq!(tenant.list_people(search(query)).await.join(" "), expected, "{query:?}");
    }
}

trait Named {
    fn named(self, name: &str) -> Self;
}

impl Named for Person {
    /// Another name, and no subject, which only one can have.
    fn named(self, name: &str) -> Self {
        Self { display_name: name.into(), subject: String::new(), ..self }
    }
}

#[tokio::test]
async fn people_are_listed_by_kind_and_organization() {
    let tenant = Tenant::new().await;
    for (id, parent) in [("acme", ""), ("emea", "acme"), ("zrh", "emea"), ("other", "")] {
        tenant.organization(id, parent).await;
    }
    for id in ["ann", "bob", "cyd"] {
        tenant.person(id).await;
    }
    tenant.staff("sam").await;
    for (organization, member) in [
        ("acme", "ann"),
        ("emea", "ann"),
        ("zrh", "bob"),
        ("zrh", "ann"),
        ("other", "cyd"),
        ("emea", "sam"),
    ] {
        tenant.add_member(organization, member).await.unwrap();
    }
    let of_kind = |kind: PersonKind, request| ListPeopleRequest { kind: kind.into(), ..request };
    for (request, expected) in [
        (within("", false), "ann bob cyd sam"),
        (within("", true), "ann bob cyd sam"),
        (within("acme", false), "ann"),
        (within("acme", true), "ann bob sam"),
        (within("emea", false), "ann sam"),
        (within("emea", true), "ann bob sam"),
        (within("zrh", true), "ann bob"),
        (within("nowhere", false), ""),
        (within("nowhere", true), ""),
        (of_kind(PersonKind::Staff, search("")), "sam"),
        (of_kind(PersonKind::Customer, search("")), "ann bob cyd"),
        (of_kind(PersonKind::Customer, within("acme", true)), "ann bob"),
        (of_kind(PersonKind::Staff, within("acme", false)), ""),
        (ListPeopleRequest { query: "b".into(), ..within("acme", true) }, "bob"),
        (ListPeopleRequest { query: "c".into(), ..within("acme", true) }, ""),
    ] {
        assert_eq!(tenant.list_people(request.clone()).await.join(" "), expected, "{request:?}");
    }
}

#[tokio::test]
async fn people_are_listed_in_the_order_asked_for_page_by_page() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for (id, name) in [("1", "beta"), ("2", "Émile"), ("3", "ALPHA"), ("4", "emile")] {
        tenant.try_person(person(id).named(name)).await.unwrap();
        tenant.add_member("acme", id).await.unwrap();
    }
    for (order_by, expected) in [
        (PersonOrderBy::Unspecified, ["3", "1", "2", "4"]),
        (PersonOrderBy::DisplayName, ["3", "1", "2", "4"]),
        (PersonOrderBy::DisplayNameDesc, ["4", "2", "1", "3"]),
        (PersonOrderBy::CreateTime, ["1", "2", "3", "4"]),
        (PersonOrderBy::CreateTimeDesc, ["4", "3", "2", "1"]),
    ] {
        let mut request =
            ListPeopleRequest { order_by: order_by.into(), page_size: 3, ..within("acme", true) };
        let first = tenant.people().list_people(request.clone()).await.unwrap().into_inner();
        request.page_token = first.next_page_token;
        let second = tenant.people().list_people(request.clone()).await.unwrap().into_inner();
        assert_eq!((second.people.len(), &*second.next_page_token), (1, ""));
        let ids = first.people.into_iter().chain(second.people).map(|person| person.person_id);
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{order_by:?}");
        for other in [
            ListPeopleRequest { kind: PersonKind::Customer.into(), ..request.clone() },
            ListPeopleRequest { include_descendants: false, ..request.clone() },
            ListPeopleRequest { organization_id: String::new(), ..request.clone() },
        ] {
            assert_eq!(refusal(tenant.people().list_people(other).await), "INVALID_PAGE_TOKEN");
        }
    }
}

#[tokio::test]
async fn a_deleted_person_leaves_the_id_the_subject_and_their_organizations() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.organization("emea", "acme").await;
    let first = tenant.try_person(jane("jane")).await.unwrap();
    tenant.add_member("acme", "jane").await.unwrap();
    tenant.add_member("emea", "jane").await.unwrap();
    tenant.delete_person("jane", "").await.unwrap();
    let gone = "PERSON_NOT_FOUND";
    assert_eq!(refusal(tenant.get_person("jane").await), gone);
    assert_eq!(refusal(tenant.delete_person("jane", "").await), gone);
    assert_eq!(tenant.list_people(search("jane")).await, [""; 0]);
    assert_eq!(tenant.members("acme", true).await.unwrap(), [""; 0]);
    let second = tenant.try_person(jane("jane")).await.expect("the id and the subject are free");
    assert_ne!(second.etag, first.etag);
    assert_eq!(
        tenant.members("acme", true).await.unwrap(),
        [""; 0],
        "the new one is a member of nothing"
    );
    assert_eq!(tenant.list_people(within("acme", true)).await, [""; 0]);
    tenant.delete_person("jane", "").await.unwrap();
    tenant.try_person(jane("joan")).await.expect("the subject is free for another");
}

#[tokio::test]
async fn what_happens_to_a_person_is_in_the_trail() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.try_person(jane("jane")).await.unwrap();
    let quiet = tenant.update_person(jane("jane"), &["*"]).await.unwrap();
    tenant
        .with_actor("other")
        .update_person(Person { phone: "2".into(), etag: quiet.etag, ..jane("jane") }, &[])
        .await
        .unwrap();
    tenant.update_person(only_person("jane"), &["active"]).await.unwrap();
    tenant.add_member("acme", "jane").await.unwrap();
    tenant.add_member("acme", "jane").await.unwrap();
    tenant.remove_member("acme", "jane").await.unwrap();
    tenant.delete_person("jane", "").await.unwrap();
    let trail = tenant.trail_of("jane").await;
    let actions: Vec<_> =
        trail.iter().map(|activity| (&*activity.actor, &*activity.action)).collect();
    let expected = [
        ("tester", "person.created"),
        ("other", "person.updated"),
        ("tester", "person.updated"),
        ("tester", "person.deleted"),
    ];
    assert_eq!(actions, expected);
    assert!(
        trail
            .iter()
            .all(|activity| activity.resource_type == "person" && activity.account_id.is_none())
    );
    assert_eq!(trail[0].change("email"), (&json!(null), &json!("jane.doe@acme.example")));
    assert_eq!(trail[0].change("kind"), (&json!(null), &json!("STAFF")));
    assert_eq!(
        trail[1].changes,
        json!([{ "field": "phone", "before": "+1 (555) 010-0000 ext. 7", "after": "2" }])
    );
    assert_eq!(trail[2].change("active"), (&json!(true), &json!(false)));
    assert_eq!(trail[3].change("display_name"), (&json!("Jane Döe"), &json!(null)));
    let memberships = tenant.trail_of("acme/jane").await;
    let actions: Vec<_> = memberships.iter().map(|activity| &*activity.action).collect();
    assert_eq!(
        actions,
        ["organization_member.created", "organization_member.deleted"],
        "the idempotent repeat did nothing"
    );
}

/// What would take an account's manager away from it.
async fn take_away(tenant: &Tenant, id: &str) -> Vec<Result<(), Status>> {
    let customer = Person { kind: PersonKind::Customer.into(), ..only_person(id) };
    vec![
        tenant.update_person(only_person(id), &["active"]).await.map(|_| ()),
        tenant.update_person(customer.clone(), &[]).await.map(|_| ()),
        tenant
            .update_person(Person { display_name: id.into(), ..customer }, &["*"])
            .await
            .map(|_| ()),
        tenant.delete_person(id, "").await,
    ]
}

#[tokio::test]
async fn a_manager_stays_what_an_account_needs() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let sam = tenant.staff("sam").await;
    tenant.staff("kim").await;
    let managed = |id: &str| Account { account_manager_id: "sam".into(), ..account(id, "acme") };
    tenant.account(managed("b")).await;
    tenant.account(managed("a")).await;
    tenant.account(account("c", "acme")).await;
    for answer in take_away(&tenant, "sam").await {
        assert_eq!(refusal(&answer), "PERSON_IN_USE");
        assert_eq!(metadata(&answer, "person_id"), "sam");
        assert_eq!(metadata(&answer, "accounts"), "2");
        let subjects = ["account/a/account_manager", "account/b/account_manager"];
        assert_eq!(
            preconditions(answer),
            subjects.map(|subject| ("PERSON_IN_USE".to_owned(), subject.to_owned()))
        );
    }
    assert_eq!(tenant.get_person("sam").await.unwrap(), sam);
    tenant
        .update_person(Person { phone: "2".into(), ..only_person("sam") }, &[])
        .await
        .expect("the rest can be changed");
    // One with another manager, one with none, and both are free again.
    tenant.update(Account { account_manager_id: "kim".into(), ..only("a") }, &[]).await.unwrap();
    for answer in take_away(&tenant, "sam").await {
        assert_eq!(
            (refusal(&answer), metadata(answer, "accounts")),
            ("PERSON_IN_USE".into(), "1".into())
        );
    }
    tenant.update(only("b"), &["account_manager_id"]).await.unwrap();
    for answer in take_away(&tenant, "sam").await {
        answer.unwrap();
    }
    assert_eq!(refusal(tenant.get_person("sam").await), "PERSON_NOT_FOUND");
    assert_eq!(refusal(tenant.delete_person("kim", "").await), "PERSON_IN_USE");
    tenant.delete("a", "").await.unwrap();
    tenant.delete_person("kim", "").await.expect("the account is gone");
}

#[tokio::test]
async fn a_refusal_names_twenty_accounts_and_counts_all() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.staff("sam").await;
    for n in 0..23 {
        tenant
            .account(Account {
                account_manager_id: "sam".into(),
                ..account(&format!("a-{n:02}"), "acme")
            })
            .await;
    }
    let answer = tenant.delete_person("sam", "").await;
    assert_eq!(metadata(&answer, "accounts"), "23");
    let expected: Vec<_> = (0..20)
        .map(|n| ("PERSON_IN_USE".to_owned(), format!("account/a-{n:02}/account_manager")))
        .collect();
    assert_eq!(preconditions(answer), expected);
}

#[tokio::test]
async fn a_try_changes_nothing_and_a_repeat_gets_the_first_answer() {
    let tenant = Tenant::new().await;
    let mut calls = tenant.people();
    let creating = |validate_only| CreatePersonRequest {
        person: Some(Person { person_id: String::new(), ..jane("") }),
        request_id: "1".into(),
        validate_only,
        ..Default::default()
    };
    let updating = |validate_only, person: &Person| UpdatePersonRequest {
        person: Some(Person { phone: "2".into(), ..only_person(&person.person_id) }),
        request_id: "2".into(),
        validate_only,
        ..Default::default()
    };
    let deleting = |validate_only, person: &Person| DeletePersonRequest {
        person_id: person.person_id.clone(),
        request_id: "3".into(),
        validate_only,
        ..Default::default()
    };
    calls.create_person(creating(true)).await.unwrap();
    assert_eq!(tenant.list_people(search("")).await, [""; 0]);
    let created = calls.create_person(creating(false)).await.unwrap().into_inner().person.unwrap();
    assert_eq!(
        calls.create_person(creating(false)).await.unwrap().into_inner().person.unwrap(),
        created
    );
    assert_eq!(tenant.list_people(search("")).await, [&*created.person_id]);
    let tried =
        calls.update_person(updating(true, &created)).await.unwrap().into_inner().person.unwrap();
    assert_eq!(tried.phone, "2");
    calls.delete_person(deleting(true, &created)).await.unwrap();
    assert_eq!(tenant.get_person(&created.person_id).await.unwrap(), created);
    let updated = calls.update_person(updating(false, &created)).await.unwrap().into_inner();
    let now = tenant
        .update_person(Person { phone: "3".into(), ..only_person(&created.person_id) }, &[])
        .await
        .unwrap();
    assert_eq!(calls.update_person(updating(false, &created)).await.unwrap().into_inner(), updated);
    assert_eq!(tenant.get_person(&created.person_id).await.unwrap(), now);
    calls.delete_person(deleting(false, &created)).await.unwrap();
    let again = tenant.person(&created.person_id).await;
    calls.delete_person(deleting(false, &created)).await.unwrap();
    assert_eq!(
        tenant.get_person(&created.person_id).await.unwrap(),
        again,
        "the repeat did not delete the new one"
    );
}
