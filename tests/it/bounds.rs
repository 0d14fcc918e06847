//! Requests and answers are bounded in bytes: what is larger is refused or cut, and costs no
//! memory.

use std::collections::BTreeSet;

use customer_accounts::proto::{
    Account, BatchGetAccountsRequest, Limit, ListAccountUsersRequest, ListAccountsRequest,
    ListActivitiesRequest, ListBillingRecipientsRequest, ListPeopleRequest,
    ListPersonAccountsRequest, PACKAGE, POOL,
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Tenant, account,
    calls::{object, only},
    config, raw, refusal, violations,
};

/// A list or the like somewhere in a request: the fields that lead there.
type Path = Vec<FieldDescriptor>;

fn methods() -> Vec<MethodDescriptor> {
    let services = POOL.services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Every list, map, `FieldMask` and `Struct` of a message, at any depth.
fn lists_of(message: &MessageDescriptor, path: &Path) -> Vec<Path> {
    let mut found = Vec::new();
    for field in message.fields() {
        let path = [path.as_slice(), std::slice::from_ref(&field)].concat();
        let kind = field.kind();
        let inner = kind.as_message();
        let holds_many = inner.is_some_and(|inner| {
            ["google.protobuf.Struct", "google.protobuf.FieldMask"].contains(&inner.full_name())
        });
        if field.is_list() || field.is_map() || holds_many {
            found.push(path.clone());
        }
        if let Some(inner) = inner.filter(|_| !holds_many && !field.is_map()) {
            found.extend(lists_of(inner, &path));
        }
    }
    found
}

/// The limit in the options of a field.
fn limit(field: &FieldDescriptor) -> Option<Limit> {
    let extension = POOL.get_extension_by_name("accounts.v1.limit").unwrap();
    let options: DynamicMessage = field.options();
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).as_message().unwrap().transcode_to().unwrap())
}

pub fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut encoded);
    encode_varint(content.len() as u64, &mut encoded);
    [encoded, content.to_vec()].concat()
}

/// A request with nothing but `content` in the message around the last field of the path.
fn around(path: &Path, content: Vec<u8>) -> Vec<u8> {
    let (_, outer) = path.split_last().unwrap();
    outer.iter().rev().fold(content, |content, field| delimited(field.number(), &content))
}

/// A `Struct` and a `FieldMask` hold many as well: the list or map in their first field.
fn list_in(field: &FieldDescriptor) -> Option<FieldDescriptor> {
    let message = (!field.is_list() && !field.is_map()).then(|| field.kind())?;
    message.as_message()?.get_field(1)
}

/// The content of one element, with so many bytes of text. It survives being decoded, and each
/// entry of a map has a key of its own.
fn element(kind: &Kind, index: usize, bytes: usize) -> Vec<u8> {
    let text = || vec![0; bytes];
    let Some(message) = kind.as_message() else { return text() };
    if message.is_map_entry() {
        let value = element(&message.map_entry_value_field().kind(), index, bytes);
        return [delimited(1, index.to_string().as_bytes()), delimited(2, &value)].concat();
    }
    let is_text = |field: &FieldDescriptor| field.kind() == Kind::String && !field.is_list();
    match message.fields().find(is_text).filter(|_| bytes > 0) {
        Some(field) => delimited(field.number(), &text()),
        None => text(),
    }
}

/// A request with so many elements in a list or the like, each with so many bytes of text.
fn with_elements(path: &Path, count: usize, bytes: usize) -> Vec<u8> {
    let field = path.last().unwrap();
    let inner = list_in(field);
    let list = inner.as_ref().unwrap_or(field);
    let content = (0..count).flat_map(|index| {
        let kind = list.kind();
        if matches!(kind, Kind::Message(_) | Kind::String | Kind::Bytes) {
            return delimited(list.number(), &element(&kind, index, bytes));
        }
        let mut number = Vec::new();
        encode_key(list.number(), WireType::Varint, &mut number);
        encode_varint(1, &mut number);
        number
    });
    let content: Vec<u8> = content.collect();
    around(path, if inner.is_some() { delimited(field.number(), &content) } else { content })
}

/// The name of a field as an error has it. Rows of an import are refused by themselves.
fn named(path: &Path) -> String {
    let names = path.iter().enumerate().map(|(i, field)| {
        let inside = field.is_list() && i + 1 < path.len();
        format!("{}{}", field.name(), if inside { "[]" } else { "" })
    });
    names.collect::<Vec<_>>().join(".").trim_start_matches("rows[].").to_owned()
}

#[tokio::test]
async fn every_list_in_a_request_has_a_limit_that_is_kept_before_anything_is_decoded() {
    let tenant = Tenant::new().await;
    let identity = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
    let mut tested = BTreeSet::new();
    for method in methods() {
        for path in lists_of(&method.input(), &Vec::new()) {
            let field = path.last().unwrap();
            let limit =
                limit(field).unwrap_or_else(|| panic!("{} has no limit", field.full_name()));
            let name = named(&path);
            let call = format!("{}/{}", method.parent_service().name(), method.name());
            let refused = async |message: Vec<u8>| match raw::call(
                &tenant.channel,
                &call,
                &identity,
                &message,
            )
            .await
            {
                Err(status) if status.code() == Code::InvalidArgument => {
                    let details = tonic_types::StatusExt::get_error_details(&status);
                    let found = details
                        .bad_request()
                        .map(|it| it.field_violations.clone())
                        .unwrap_or_default();
                    found.into_iter().map(|it| (it.field, it.description)).collect()
                }
                _ => Vec::new(),
            };
            let items = limit.items as usize;
            let rule = format!("must have at most {items} entries, has {}", items + 1);
            assert_eq!(
                refused(with_elements(&path, items + 1, 0)).await,
                [(name.clone(), rule.clone())],
                "{call}"
            );
            let within = refused(with_elements(&path, items, 0)).await;
            assert!(
                within.iter().all(|(_, rule)| !rule.contains("at most")),
                "{call}: {name}: {within:?}"
            );
            let bytes = limit.bytes as usize;
            // Some limits are for a service that takes larger messages.
            if bytes > 0 && bytes < config(&[]).max_message_bytes {
                let found = refused(with_elements(&path, 1, bytes + 1)).await;
                let rule = format!("must have at most {bytes} bytes as encoded, has ");
                let refused = found.iter().any(|it| it.0 == name && it.1.starts_with(&rule));
                // A list around this one may have too many bytes as well.
                let nothing_else = found.iter().all(|it| name.starts_with(&it.0));
                assert!(refused && nothing_else, "{call}: {name}: {found:?}");
            }
            tested.insert(format!("{}.{name}", method.input().name()));
        }
    }
    assert!(tested.len() >= 15, "{tested:?}");
}

/// An account in which most fields are full. `bytes` is about how much of that are preferences.
pub fn filled(id: &str, bytes: usize) -> Account {
    let values: Vec<_> =
        (0..500).map(|i| json!({ "key": i, "text": "x".repeat(bytes / 500) })).collect();
    Account {
        description: "d".repeat(2000),
        billing_details: "b".repeat(10_000),
        comment: "c".repeat(5000),
        preferences: Some(object(json!({ "values": values }))),
        metadata: (0..64).map(|i| (format!("key-{i}"), "v".repeat(500))).collect(),
        ..account(id, "o")
    }
}

/// Goes through all pages of a list: the ids on each. Each page must fit into what clients accept,
/// and none but the only one is empty.
macro_rules! pages {
    ($client:expr, $call:ident, $request:expr, $items:ident, $id:ident) => {{
        let (mut request, mut pages) = ($request, Vec::new());
        loop {
            let response = $client.$call(request.clone()).await.unwrap().into_inner();
            assert!(response.encoded_len() < 3 * 1024 * 1024, "{} bytes", response.encoded_len());
            let ids: Vec<_> = response.$items.iter().map(|item| item.$id.clone()).collect();
            assert!(!ids.is_empty() || pages.is_empty());
            pages.push(ids);
            if response.next_page_token.is_empty() {
                break pages;
            }
            request.page_token = response.next_page_token;
        }
    }};
}

/// That a list ended its pages early, and has each of so many once and in order.
#[track_caller]
fn assert_cut(pages: &[Vec<String>], count: usize) {
    let all: Vec<_> = pages.concat();
    assert_eq!(all.len(), count);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), count);
    assert!(pages.len() > 1, "one page of {count}");
}

#[tokio::test]
async fn pages_end_where_they_would_be_larger_than_clients_accept_and_batches_are_refused() {
    const ACCOUNTS: usize = 30;
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.person("ann").await;
    tenant.add_member("o", "ann").await.unwrap();
    let ids: Vec<_> = (0..ACCOUNTS).map(|i| format!("a{i:02}")).collect();
    for id in &ids {
        tenant.account(filled(id, 20_000)).await;
    }
    tenant.account(account("small", "o")).await;

    let all = ListAccountsRequest { page_size: 1000, ..Default::default() };
    let pages = pages!(tenant.accounts(), list_accounts, all, accounts, account_id);
    assert_cut(&pages, ACCOUNTS + 1);
    assert_eq!(pages.concat(), [ids.clone(), vec!["small".into()]].concat());
    let of_ann = ListPersonAccountsRequest {
        person_id: "ann".into(),
        page_size: 1000,
        ..Default::default()
    };
    assert_cut(
        &pages!(tenant.memberships(), list_person_accounts, of_ann, accounts, account_id),
        ACCOUNTS + 1,
    );
    let created = ListActivitiesRequest {
        page_size: 1000,
        resource_type: "account".into(),
        ..Default::default()
    };
    assert_cut(
        &pages!(tenant.activities(), list_activities, created, activities, resource_id),
        ACCOUNTS + 1,
    );

    let batch = async |account_ids: Vec<String>| {
        let answer =
            tenant.accounts().batch_get_accounts(BatchGetAccountsRequest { account_ids }).await;
        answer.map(|response| {
            response.into_inner().accounts.into_iter().map(|it| it.account_id).collect::<Vec<_>>()
        })
    };
    let too_large = "RESPONSE_TOO_LARGE";
    assert_eq!(refusal(batch(ids.clone()).await), too_large);
    assert_eq!(
        refusal(batch(vec!["a00".into(); 300]).await),
        too_large,
        "one id counts as often as it is asked for"
    );
    let some = ["a03", "small", "a03", "a01", "small"].map(str::to_owned).to_vec();
    assert_eq!(batch(some.clone()).await.unwrap(), some);
    assert_eq!(batch(vec!["small".into(); 300]).await.unwrap().len(), 300);
}

#[tokio::test]
async fn pages_of_people_end_early_too() {
    const PEOPLE: usize = 1000;
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    crate::lists::execute(
        &tenant,
        "INSERT INTO people (person_id, display_name, sort_key, email, phone, kind, active) \
         SELECT 'p' || n, 'P', 'p' || lpad(n::text, 4, '0'), repeat('\u{1f600}', 250), repeat('\u{1f600}', 50), 'CUSTOMER', true \
         FROM generate_series(1, 1000) AS n; \
         UPDATE people SET display_name = repeat('\u{1f600}', 200); \
         INSERT INTO account_users (account_id, person_id, individual, billing, sort_key, person_create_time) \
         SELECT 'a', person_id, true, true, sort_key, create_time FROM people WHERE person_id <> 'p500'",
    )
    .await;
    // A recipient who has no billing flag and is sorted between those who have one.
    crate::lists::execute(
        &tenant,
        "INSERT INTO account_users (account_id, person_id, individual, billing, sort_key, person_create_time) \
         SELECT 'a', person_id, true, false, sort_key, create_time FROM people WHERE person_id = 'p500'; \
         UPDATE accounts SET billing_contact_id = 'p500'",
    )
    .await;
    let expected: Vec<_> = (1..=PEOPLE).map(|n| format!("p{n}")).collect();
    for page_size in [1000, 400] {
        let people = ListPeopleRequest { page_size, ..Default::default() };
        let people = pages!(tenant.people(), list_people, people, people, person_id);
        let users =
            ListAccountUsersRequest { account_id: "a".into(), page_size, ..Default::default() };
        let users =
            pages!(tenant.memberships(), list_account_users, users, account_users, person_id);
        let recipients = ListBillingRecipientsRequest {
            account_id: "a".into(),
            page_size,
            ..Default::default()
        };
        let recipients = pages!(
            tenant.memberships(),
            list_billing_recipients,
            recipients,
            recipients,
            person_id
        );
        for pages in [people, users, recipients] {
            assert_cut(&pages, PEOPLE);
            assert_eq!(pages.concat(), expected);
        }
    }
}

#[tokio::test]
async fn repeated_paths_count_as_one() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let created = tenant.account(Account { comment: "old".into(), ..account("a", "o") }).await;
    let paths = ["comment", "*", "comment", "*", "billing_address.city", "billing_address"];
    let all = Account { comment: "new".into(), status: 1, ..account("a", "o") };
    let updated = tenant.update(all.clone(), &paths).await.unwrap();
    assert_eq!((updated.comment, updated.display_name), ("new".into(), created.display_name));
    assert_eq!(tenant.update(all, &["*"; 128]).await.unwrap().comment, "new");
    let refused = violations(tenant.update(only("a"), &["*"; 129]).await);
    assert_eq!(refused, [("update_mask".into(), "must have at most 128 entries, has 129".into())]);
}
