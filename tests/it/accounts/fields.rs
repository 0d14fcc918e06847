//! The rules of the fields of an account, each at its limit and just beyond.

use customer_accounts::proto::{Account, Address, Contact, CreateAccountRequest};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::json;

use crate::support::{
    Tenant, account, anybody,
    calls::{fields, metadata, object, only, preconditions},
    refusal, violations,
};

async fn with_organization() -> Tenant {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant
}

/// An account that has only what is required, its id generated.
fn minimal() -> Account {
    Account {
        display_name: "A".into(),
        organization_id: "acme".into(),
        primary_contact: anybody(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_request_with_eight_mistakes_is_answered_with_eight_field_violations() {
    let tenant = Tenant::new().await;
    let account = Account {
        account_id: "x".repeat(51),
        display_name: " padded".into(),
        organization_id: String::new(),
        status: 9,
        primary_contact: Some(Contact {
            name: "Jane".into(),
            email: "nobody".into(),
            ..Default::default()
        }),
        billing_address: Some(Address { country: "xx".into(), ..Default::default() }),
        metadata: [("bad key".to_owned(), String::new())].into(),
        ..Default::default()
    };
    let request = CreateAccountRequest {
        account: Some(account),
        request_id: "with blank".into(),
        ..Default::default()
    };
    let violations = violations(tenant.accounts().create_account(request).await);
    let lines: Vec<_> = violations.iter().map(|(field, rule)| format!("{field}: {rule}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    request_id: must consist of printable characters without blanks
    account.account_id: must have at most 50 characters, has 51
    account.display_name: must not begin or end with blanks
    account.organization_id: is required
    account.status: has no value 9
    account.primary_contact.email: must be an email address, such as name@example.com
    account.billing_address.country: must be a country code of ISO 3166-1 alpha-2, such as DE, or XK
    account.metadata["bad key"]: key must have 1 to 64 characters, each a letter, a digit or one of _.-/
    "#);
}

#[tokio::test]
async fn an_error_fits_into_the_headers_that_clients_accept_however_many_mistakes_there_are() {
    let tenant = with_organization().await;
    let keys = |count: usize, chars: usize| Account {
        metadata: (0..count)
            .map(|i| (format!("{} {i}", "é".repeat(chars)), String::new()))
            .collect(),
        ..minimal()
    };
    let ids = vec![""; 1000];
    for (what, answer) in [
        ("many keys", tenant.try_account(keys(64, 1)).await.map(|_| ())),
        ("too many keys", tenant.try_account(keys(20_000, 1)).await.map(|_| ())),
        ("long keys", tenant.try_account(keys(64, 1000)).await.map(|_| ())),
        ("a huge key", tenant.try_account(keys(1, 50_000)).await.map(|_| ())),
        ("a huge path", tenant.update(only("a"), &["é".repeat(8_000).as_str()]).await.map(|_| ())),
        (
            "too long a path",
            tenant.update(only("a"), &["é".repeat(400_000).as_str()]).await.map(|_| ()),
        ),
        ("too many paths", tenant.update(only("a"), &vec!["x"; 10_000]).await.map(|_| ())),
        ("many paths", tenant.update(only("a"), &vec!["x"; 128]).await.map(|_| ())),
        ("many ids", super::batch(&tenant, &ids).await.map(|_| ())),
    ] {
        let status = answer.clone().expect_err(what);
        // As they are encoded: percent signs in grpc-message, base64 in grpc-status-details-bin.
        let message: usize =
            status.message().chars().map(|c| if c.is_ascii() { 1 } else { 3 * c.len_utf8() }).sum();
        let size = message + status.details().len().div_ceil(3) * 4;
        assert!(size < 8000, "{what}: {size} bytes");
        let found = violations(answer);
        assert!(!found[0].0.is_empty(), "{what}: {found:?}");
    }
    let found = violations(super::batch(&tenant, &ids).await);
    assert_eq!(found[0], ("account_ids[0]".into(), "is required".into()));
    let left_out = 1000 - (found.len() - 1);
    assert_eq!(
        *found.last().unwrap(),
        (String::new(), format!("and {left_out} more, too many to list"))
    );
}

#[tokio::test]
async fn an_empty_request_is_told_what_it_lacks() {
    let tenant = Tenant::new().await;
    let answer = tenant.accounts().create_account(CreateAccountRequest::default()).await;
    assert_eq!(
        fields(answer),
        [
            "account",
            "account.display_name",
            "account.organization_id",
            "account.primary_contact.email"
        ]
    );
}

type Set = fn(&mut Account, String);

/// Every text of an account, and how many characters it may have.
const TEXTS: [(&str, usize, Set); 17] = [
    ("display_name", 200, |account, text| account.display_name = text),
    ("description", 2000, |account, text| account.description = text),
    ("status_reason", 500, |account, text| account.status_reason = text),
    ("primary_contact.name", 200, |account, text| contact(account).name = text),
    ("primary_contact.phone", 50, |account, text| contact(account).phone = text),
    ("billing_address.line1", 200, |account, text| {
        address(&mut account.billing_address).line1 = text;
    }),
    ("billing_address.line2", 200, |account, text| {
        address(&mut account.billing_address).line2 = text;
    }),
    ("billing_address.city", 200, |account, text| {
        address(&mut account.billing_address).city = text;
    }),
    ("billing_address.state", 200, |account, text| {
        address(&mut account.billing_address).state = text;
    }),
    ("billing_address.postal_code", 20, |account, text| {
        address(&mut account.billing_address).postal_code = text;
    }),
    ("shipping_address.line1", 200, |account, text| {
        address(&mut account.shipping_address).line1 = text;
    }),
    ("postal_address.city", 200, |account, text| address(&mut account.postal_address).city = text),
    ("official_address.postal_code", 20, |account, text| {
        address(&mut account.official_address).postal_code = text;
    }),
    ("billing_details", 10_000, |account, text| account.billing_details = text),
    ("comment", 5000, |account, text| account.comment = text),
    ("metadata[\"key\"]", 500, |account, text| _ = account.metadata.insert("key".into(), text)),
    ("account_id", 50, |account, text| account.account_id = text),
];

fn contact(account: &mut Account) -> &mut Contact {
    let jane =
        || Contact { name: "Jane".into(), email: "jane@acme.example".into(), ..Default::default() };
    account.primary_contact.get_or_insert_with(jane)
}

fn address(address: &mut Option<Address>) -> &mut Address {
    address.get_or_insert_default()
}

#[tokio::test]
async fn every_text_has_a_limit_in_characters() {
    let tenant = with_organization().await;
    let (mut longest, mut too_long) = (minimal(), minimal());
    // One character of two bytes, one of four, and one that is eighteen when accents and forms are
    // folded away for search.
    for letter in ["é", "𝔸", "\u{fdfa}"] {
        for (field, max, set) in TEXTS {
            let text = letter.repeat(max);
            set(&mut longest, text.clone());
            set(&mut too_long, text + "x");
            let mut one = account("one", "acme");
            set(&mut one, letter.repeat(max + 1));
            let expected = (
                format!("account.{field}"),
                format!("must have at most {max} characters, has {}", max + 1),
            );
            assert_eq!(violations(tenant.try_account(one).await), [expected]);
        }
        let created = tenant.account(longest.clone()).await;
        assert_eq!(tenant.get(&longest.account_id).await.unwrap(), created);
        let sent = Account { status: 1, ..longest.clone() };
        assert_eq!(created, super::stored(&sent, &created));
    }
    let mut found = fields(tenant.try_account(too_long).await);
    let mut expected: Vec<_> = TEXTS.iter().map(|(field, ..)| format!("account.{field}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "all at once");
}

#[tokio::test]
async fn names_are_single_lines_without_blanks_at_their_ends_and_no_text_has_control_characters() {
    let tenant = with_organization().await;
    for (field, _, set) in TEXTS {
        let is_line =
            !["description", "status_reason", "billing_details", "comment", "metadata[\"key\"]"]
                .contains(&field);
        for (text, fits) in [
            ("a\u{0}b", false),
            ("a\u{1b}b", false),
            (" a", !is_line),
            ("a ", !is_line),
            ("a\n\tb", !is_line),
        ] {
            let mut account = minimal();
            set(&mut account, text.to_owned());
            let answer = tenant.try_account(account).await;
            if fits {
                answer.unwrap();
            } else {
                assert_eq!(fields(answer), [format!("account.{field}")], "{text:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_contact_has_an_email_address_and_perhaps_a_name_and_a_phone_number() {
    let tenant = with_organization().await;
    let with = |name: &str, email: &str, phone: &str| {
        let contact = Contact {
            name: name.into(),
            email: email.into(),
            phone: phone.into(),
            ..Default::default()
        };
        Account { primary_contact: Some(contact), ..minimal() }
    };
    // 254 characters: 60 and @, and three labels of 63 with a dot between, and one of 1.
    let domain = ["x".repeat(63), "y".repeat(63), "z".repeat(63), "e".into()].join(".");
    let longest = format!("{}@{domain}", "j".repeat(59));
    assert_eq!(longest.len(), 253);
    for email in [
        "a@b",
        "jane.doe+invoices@acme.example",
        "o'neil@x-y.example",
        "jürgen@münchen.example",
        &format!("j{longest}"),
    ] {
        let created = tenant.account(with("Jane", email, "")).await;
        assert_eq!(created.primary_contact.unwrap().email, email);
    }
    for email in [
        "jane",
        "@acme.example",
        "jane@",
        "jane@@acme.example",
        "jane doe@acme.example",
        "jane@acme..example",
        "jane@-acme",
        "Jane <jane@acme.example>",
        "a@b,c@d",
        &format!("jj{longest}"),
    ] {
        assert_eq!(
            fields(tenant.try_account(with("Jane", email, "")).await),
            ["account.primary_contact.email"],
            "{email}"
        );
    }
    assert_eq!(
        fields(tenant.try_account(with("Jane", "", "")).await),
        ["account.primary_contact.email"]
    );
    for contact in [with("", "jane@acme.example", ""), with("", "jane@acme.example", "1")] {
        assert_eq!(tenant.account(contact.clone()).await.primary_contact, contact.primary_contact);
    }
    assert_eq!(
        fields(tenant.try_account(with("", "", "1")).await),
        ["account.primary_contact.email"]
    );
}

#[tokio::test]
async fn a_country_is_an_assigned_code_in_either_case() {
    let tenant = with_organization().await;
    let all = |country: &str| {
        let address = Some(Address { country: country.into(), ..Default::default() });
        Account {
            billing_address: address.clone(),
            shipping_address: address.clone(),
            postal_address: address.clone(),
            official_address: address,
            ..minimal()
        }
    };
    for (country, kept) in [
        ("DE", "DE"),
        ("US", "US"),
        ("AX", "AX"),
        ("ZW", "ZW"),
        ("XK", "XK"),
        ("de", "DE"),
        ("xK", "XK"),
    ] {
        let created = tenant.account(all(country)).await;
        assert_eq!(created.official_address.unwrap().country, kept);
    }
    for country in ["UK", "uk", "XX", "ZZ", "D", "É"] {
        let expected = ["billing", "shipping", "postal", "official"]
            .map(|kind| format!("account.{kind}_address.country"));
        assert_eq!(fields(tenant.try_account(all(country)).await), expected, "{country}");
    }
    assert_eq!(fields(tenant.try_account(all("DEU")).await).len(), 4, "one violation for each");
    let created = tenant.account(all("")).await;
    assert_eq!(
        (created.billing_address, created.official_address),
        (None, None),
        "one without content is none"
    );
}

#[tokio::test]
async fn metadata_has_at_most_sixty_four_entries_with_keys_of_plain_characters() {
    let tenant = with_organization().await;
    let entries =
        |count: usize| (0..count).map(|i| (format!("key-{i}"), "value".repeat(100))).collect();
    let with = |metadata| Account { metadata, ..minimal() };
    let full = tenant.account(with(entries(64))).await;
    assert_eq!(full.metadata, entries(64));
    assert_eq!(fields(tenant.try_account(with(entries(65))).await), ["account.metadata"]);
    let one = |key: &str| with([(key.to_owned(), "v".to_owned())].into());
    for key in ["k", "A-z_0.9/x", &"k".repeat(64)] {
        assert_eq!(tenant.account(one(key)).await.metadata, one(key).metadata);
    }
    for key in ["", "with blank", "é", "a:b", &"k".repeat(65)] {
        assert_eq!(
            fields(tenant.try_account(one(key)).await),
            [format!("account.metadata[{key:?}]")]
        );
    }
}

fn prefer(preferences: Struct) -> Account {
    Account { preferences: Some(preferences), ..minimal() }
}

/// Objects inside each other, or lists inside an object, this deep.
fn nested(depth: usize, lists: bool) -> Struct {
    let mut value = Value { kind: Some(Kind::BoolValue(true)) };
    for _ in 1..depth {
        let kind = if lists {
            Kind::ListValue(ListValue { values: vec![value] })
        } else {
            Kind::StructValue(Struct { fields: [("k".to_owned(), value)].into() })
        };
        value = Value { kind: Some(kind) };
    }
    Struct { fields: [("k".to_owned(), value)].into() }
}

#[tokio::test]
async fn preferences_are_at_most_64_kib_of_json_and_32_levels_deep() {
    let tenant = with_organization().await;
    let sized = |bytes: usize| object(json!({ "k": "x".repeat(bytes - r#"{"k":""}"#.len()) }));
    let created = tenant.account(prefer(sized(64 * 1024))).await;
    assert_eq!(created.preferences, Some(sized(64 * 1024)));
    assert_eq!(
        fields(tenant.try_account(prefer(sized(64 * 1024 + 1))).await),
        ["account.preferences"]
    );
    // Numbers count as what is kept of them, which is every digit.
    let numbers = |count: usize| object(json!({ "k": vec![5e-324; count] }));
    let created = tenant.account(prefer(numbers(190))).await;
    assert_eq!(created.preferences, Some(numbers(190)));
    assert_eq!(fields(tenant.try_account(prefer(numbers(210))).await), ["account.preferences"]);
    for lists in [false, true] {
        let created = tenant.account(prefer(nested(32, lists))).await;
        assert_eq!(created.preferences, Some(nested(32, lists)));
        let updated = tenant
            .update(Account { comment: "x".into(), ..only(&created.account_id) }, &[])
            .await
            .unwrap();
        assert_eq!(updated.preferences, created.preferences);
        assert_eq!(
            fields(tenant.try_account(prefer(nested(33, lists))).await),
            ["account.preferences"]
        );
        let deeper = Account { preferences: Some(nested(33, lists)), ..only(&created.account_id) };
        assert_eq!(fields(tenant.update(deeper, &[]).await), ["account.preferences"]);
    }
    // So deep that it is no message any more.
    let answer = tenant.try_account(prefer(nested(60, false))).await;
    assert_eq!(refusal(answer), "MALFORMED_REQUEST");
}

#[tokio::test]
async fn preferences_are_what_json_and_the_database_can_hold() {
    let tenant = with_organization().await;
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let value = Value { kind: Some(Kind::NumberValue(number)) };
        let list = Value { kind: Some(Kind::ListValue(ListValue { values: vec![value] })) };
        let preferences = Struct { fields: [("k".to_owned(), list)].into() };
        assert_eq!(
            fields(tenant.try_account(prefer(preferences)).await),
            ["account.preferences"],
            "{number}"
        );
    }
    for bad in [json!({ "k": "a\0b" }), json!({ "a\0b": 1 }), json!({ "k": [{ "k": "\0" }] })] {
        assert_eq!(
            fields(tenant.try_account(prefer(object(bad.clone()))).await),
            ["account.preferences"],
            "{bad}"
        );
    }
    let odd = json!({ "": "", "\\u0000": "C:\\u0000", "\u{1}\n\"\\": "\u{7f}\u{1f600}\u{ffff}", "k": [[], {}, null] });
    assert_eq!(tenant.account(prefer(object(odd.clone()))).await.preferences, Some(object(odd)));
}

#[tokio::test]
async fn a_person_named_by_id_must_exist_and_be_a_user_to_be_a_contact() {
    let tenant = with_organization().await;
    let created = tenant.account(account("a", "acme")).await;
    tenant.staff("sam").await;
    tenant.person("jane").await;
    let named = |id: &str| {
        let id = || id.to_owned();
        [
            (
                "primary_contact",
                Account {
                    primary_contact: Some(Contact { person_id: id(), ..Default::default() }),
                    ..only("a")
                },
            ),
            ("account_manager_id", Account { account_manager_id: id(), ..only("a") }),
            ("billing_contact_id", Account { billing_contact_id: id(), ..only("a") }),
            ("cc_billing_contact_id", Account { cc_billing_contact_id: id(), ..only("a") }),
        ]
    };
    for (id, why) in [
        ("nobody", "PERSON_NOT_FOUND"),
        ("jane", "NOT_AN_ACCOUNT_USER"),
        ("sam", "PERSON_NOT_CUSTOMER"),
    ] {
        for (field, person) in named(id) {
            // Managers have rules of their own: tests/it/accounts/managers.rs.
            if id != "nobody" && field == "account_manager_id" {
                continue;
            }
            let new = Account {
                display_name: "B".into(),
                organization_id: "acme".into(),
                account_id: "b".into(),
                ..person.clone()
            };
            let new = Account { primary_contact: new.primary_contact.or(anybody()), ..new };
            for (account, answer) in [
                ("b", tenant.try_account(new).await),
                ("a", tenant.update(person.clone(), &[]).await),
                ("a", tenant.update(person, &[field]).await),
            ] {
                assert_eq!(refusal(&answer), why, "{field} {id}");
                assert_eq!(metadata(&answer, "person_id"), id);
                match why {
                    "NOT_AN_ACCOUNT_USER" => {
                        assert_eq!(metadata(&answer, "account_id"), account, "{field} {id}");
                        assert_eq!(
                            preconditions(answer),
                            [(why.to_owned(), format!("account/{account}"))]
                        );
                    }
                    "PERSON_NOT_CUSTOMER" => assert_eq!(
                        preconditions(answer),
                        [(why.to_owned(), format!("person/{id}"))]
                    ),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(tenant.get("a").await.unwrap(), created);
    assert_eq!(refusal(tenant.get("b").await), "ACCOUNT_NOT_FOUND");
}
