//! What people type: scripts, spellings, signs and characters that do not show, in names, ids,
//! emails and searches.

use std::collections::BTreeSet;

use customer_accounts::proto::{
    Account, AccountType, AddAccountUserRequest, Contact, CreateOrganizationRequest, FieldBehavior,
    ListAccountTypesRequest, ListAccountUsersRequest, ListAccountsRequest,
    ListOrganizationsRequest, ListPeopleRequest, Organization, POOL, Person, TenantSettings,
    UpdateAccountTypeRequest, UpdateOrganizationRequest, behaviors,
};
use prost::Message as _;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use tonic::Status;

use crate::{
    lists::execute,
    support::{
        Tenant, account,
        calls::{account_type, only, only_person, person},
        contracts::{contract, setup},
        raw::call,
        refusal,
        sales::portfolio,
        violations,
    },
};

/// `Zürich` with the two dots as a character of their own, as macOS and some keyboards have it.
const DECOMPOSED: &str = "Zu\u{308}rich";
const COMPOSED: &str = "Zürich";

/// The paths of all texts in a message, in lists and maps too, with the names that a field mask has
/// for them.
fn texts(message: &MessageDescriptor, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for field in message.fields() {
        let path = format!("{prefix}{}", field.name());
        match field.kind() {
            Kind::String => paths.push(path),
            Kind::Message(_) if field.is_map() => paths.push(path),
            Kind::Message(below) if !below.package_name().starts_with("google.") => {
                paths.extend(texts(&below, &(path + ".")));
            }
            _ => {}
        }
    }
    paths
}

/// Sets a text, a list or a map of texts along a path.
fn set(message: &mut DynamicMessage, path: &str, text: &str) {
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    let field = message.descriptor().get_field_by_name(name).unwrap();
    let text_value = || Value::String(text.into());
    if field.is_map() {
        message.set_field(
            &field,
            Value::Map([(prost_reflect::MapKey::String("key".into()), text_value())].into()),
        );
    } else if let (true, Kind::Message(below)) = (field.is_list(), field.kind()) {
        // An element that has no more than it needs and this text.
        let mut element = DynamicMessage::new(below.clone());
        let required =
            |field: &FieldDescriptor| behaviors(field).contains(&FieldBehavior::Required);
        for field in below.fields().filter(required) {
            set(&mut element, field.name(), "x");
        }
        set(&mut element, rest, text);
        message.set_field(&field, Value::List(vec![Value::Message(element)]));
    } else if field.is_list() {
        message.set_field(&field, Value::List(vec![text_value()]));
    } else if rest.is_empty() {
        message.set_field(&field, text_value());
    } else {
        set(message.get_field_mut(&field).as_message_mut().unwrap(), rest, text);
    }
}

/// Every text of every resource that can be updated: what is kept is normalized, or nothing is.
#[tokio::test]
async fn every_text_is_normalized_at_the_door() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(account("id", "o")).await;
    tenant.person("id").await;
    tenant.account_type("id").await;
    tenant.organization("id", "").await;
    tenant.portfolio(portfolio("id", "id")).await;
    tenant.contract(contract("id", "id")).await;
    tenant.setup(setup("id", "id", "id")).await;
    let mut normalized = BTreeSet::new();
    let mut resources = 0;
    for service in POOL.services() {
        for method in service.methods().filter(|method| method.name().starts_with("Update")) {
            let request = method.input();
            let noun = method.name().trim_start_matches("Update");
            let is_resource =
                |kind: &Kind| kind.as_message().is_some_and(|message| message.name() == noun);
            let Some(resource) = request.fields().find(|field| is_resource(&field.kind())) else {
                continue;
            };
            let message = resource.kind().as_message().unwrap().clone();
            resources += 1;
            for path in texts(&message, "") {
                let mut wanted = DynamicMessage::new(message.clone());
                if let Some(id) =
                    message.fields().next().filter(|field| field.name().ends_with("_id"))
                {
                    wanted.set_field(&id, Value::String("id".into()));
                }
                // An email has its own form, and is normalized within it.
                let around = if path.ends_with("email") { "@example.com" } else { "" };
                set(&mut wanted, &path, &format!("{DECOMPOSED}{around}"));
                if path.starts_with("primary_contact.") {
                    for (other, text) in [
                        ("primary_contact.email", "a@example.com"),
                        ("primary_contact.name", "Ann"),
                    ] {
                        if other != path {
                            set(&mut wanted, other, text);
                        }
                    }
                }
                let mut update = DynamicMessage::new(request.clone());
                update.set_field(&resource, Value::Message(wanted));
                set_mask(&mut update, path.split('.').next().unwrap());
                let headers = [("x-tenant-id", tenant.caller.tenant.as_bytes())];
                let name = format!("{}/{}", service.name(), method.name());
                if let Ok(answer) =
                    call(&tenant.channel, &name, &headers, &update.encode_to_vec()).await
                {
                    let answer = String::from_utf8_lossy(&answer.concat()).into_owned();
                    assert!(!answer.contains(DECOMPOSED), "{noun}.{path} is kept as it was sent");
                    if answer.contains(COMPOSED) {
                        normalized.insert(format!("{noun}.{path}"));
                    }
                }
            }
        }
    }
    assert!(resources >= 6, "{resources}");
    for path in [
        "Account.display_name",
        "Account.description",
        "Account.comment",
        "Account.billing_details",
        "Account.status_reason",
        "Account.primary_contact.name",
        "Account.primary_contact.email",
        "Account.primary_contact.phone",
        "Account.billing_address.line1",
        "Account.official_address.city",
        "Account.shipping_address.state",
        "Account.postal_address.postal_code",
        "Account.metadata",
        "AccountType.display_name",
        "AccountType.description",
        "Contract.title",
        "Contract.reference",
        "Contract.description",
        "Contract.metadata",
        "DeliverySetup.project_id",
        "DeliverySetup.delivery_model",
        "DeliverySetup.description",
        "DeliverySetup.state_reason",
        "Organization.display_name",
        "Person.display_name",
        "Person.email",
        "Person.phone",
        "Portfolio.display_name",
        "Portfolio.description",
        "Portfolio.items.code",
        "Portfolio.items.display_name",
        "Portfolio.items.description",
        "TenantSettings.membership_roles",
    ] {
        assert!(normalized.contains(path), "{path} is not among {normalized:?}");
    }
}

fn set_mask(update: &mut DynamicMessage, path: &str) {
    let field = update.descriptor().get_field_by_name("update_mask").unwrap();
    let mask = prost_types::FieldMask { paths: vec![path.to_owned()] }.encode_to_vec();
    let mask = DynamicMessage::decode(field.kind().as_message().unwrap().clone(), &*mask).unwrap();
    update.set_field(&field, Value::Message(mask));
}

/// What is in the list of accounts, by name.
const NAMES: &[&str] = &[
    "株式会社トヨタ自動車",
    "ガス工業",
    "カスミ商店",
    "中国(北京)科技有限公司",
    "ธนาคารกรุงไทย",
    "บ้านสวน",
    "भारत पेट्रोलियम",
    "क्रम संस्थान",
    "कर्म संस्थान",
    "شركة أحمد للتجارة",
    "بانک می\u{200c}خواهم",
    "חברת שָׁלוֹם",
    "주식회사 삼성",
    "O’Brien & Sons",
    "Müller–Lüdenscheidt GmbH",
    "Donau\u{ad}dampf\u{ad}schiff",
    "Zero\u{200b}Width Ltd",
    "C++ Builders",
    "C# House",
    "Cosmos C",
    "🍕 Palace",
    "test_1 lab",
    "test1 lab",
    "100% Wool",
    "Five * Star",
    "Ｗｉｄｅ Letters",
    "Straße 7",
    "Ελληνικός Δρόμος",
    "Ёлка",
    "!!!",
];

const QUERIES: &[(&str, &[&str])] = &[
    ("トヨタ", &["株式会社トヨタ自動車"]),
    ("自動車", &["株式会社トヨタ自動車"]),
    ("ﾄﾖﾀ", &["株式会社トヨタ自動車"]),
    ("ガス", &["ガス工業"]),
    ("ｶﾞｽ", &["ガス工業"]),
    ("カス", &["カスミ商店"]),
    ("北京", &["中国(北京)科技有限公司"]),
    ("有限公司", &["中国(北京)科技有限公司"]),
    ("กรุงไทย", &["ธนาคารกรุงไทย"]),
    ("บ้าน", &["บ้านสวน"]),
    ("บาน", &[]),
    ("पेट्रोलियम", &["भारत पेट्रोलियम"]),
    ("क्रम", &["क्रम संस्थान"]),
    ("कर्म", &["कर्म संस्थान"]),
    ("احمد", &["شركة أحمد للتجارة"]),
    ("أَحْمَد", &["شركة أحمد للتجارة"]),
    ("میخواهم", &["بانک می\u{200c}خواهم"]),
    ("שלום", &["חברת שָׁלוֹם"]),
    ("삼성", &["주식회사 삼성"]),
    ("회사", &[]),
    ("O'Brien", &["O’Brien & Sons"]),
    ("o’brien", &["O’Brien & Sons"]),
    ("\"O'Brien\",", &["O’Brien & Sons"]),
    ("müller-lüdenscheidt", &["Müller–Lüdenscheidt GmbH"]),
    ("MU\u{308}LLER—", &["Müller–Lüdenscheidt GmbH"]),
    ("donaudampfschiff", &["Donau\u{ad}dampf\u{ad}schiff"]),
    ("zerowidth", &["Zero\u{200b}Width Ltd"]),
    ("C++", &["C++ Builders"]),
    ("C#", &["C# House"]),
    ("c", &["C# House", "C++ Builders", "Cosmos C"]),
    ("🍕", &["🍕 Palace"]),
    ("🍔", &[]),
    ("test_", &["test_1 lab"]),
    ("test", &["test1 lab", "test_1 lab"]),
    ("100%", &["100% Wool"]),
    ("%", &["100% Wool"]),
    ("*", &["Five * Star"]),
    ("&", &["O’Brien & Sons"]),
    ("(five)", &["Five * Star"]),
    ("wide", &["Ｗｉｄｅ Letters"]),
    ("STRASSE", &["Straße 7"]),
    ("ΕΛΛΗΝΙΚΟΣ", &["Ελληνικός Δρόμος"]),
    ("елка", &["Ёлка"]),
    ("_", &[]),
    ("\\", &[]),
    (" ", &[]),
    ("\u{200b}", &[]),
    ("!", &["!!!"]),
    ("?", &[]),
];

/// Every call that searches finds the same: accounts by their names and by their contacts',
/// organizations, people, users.
#[tokio::test]
async fn names_are_found_as_people_type_them() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant
        .account(Account {
            account_id: "of-all".into(),
            display_name: "9".into(),
            ..account("", "o")
        })
        .await;
    for (i, name) in NAMES.iter().enumerate() {
        tenant
            .account(Account { display_name: (*name).into(), ..account(&format!("{i}"), "o") })
            .await;
        let contact = Contact { name: (*name).into(), email: "9@9".into(), ..Default::default() };
        let of_contact = Account {
            display_name: "9".into(),
            primary_contact: Some(contact),
            ..account(&format!("9{i}"), "o")
        };
        tenant.account(of_contact).await;
        tenant
            .try_person(Person { display_name: (*name).into(), ..person(&format!("{i}")) })
            .await
            .unwrap();
        let user = AddAccountUserRequest {
            account_id: "of-all".into(),
            person_id: format!("{i}"),
            ..Default::default()
        };
        tenant.memberships().add_account_user(user).await.unwrap();
        organization(&tenant, &format!("{i}"), name).await.unwrap();
    }
    for (query, names) in QUERIES {
        let expected: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        let query_text = || (*query).to_owned();
        let list =
            ListAccountsRequest { query: query_text(), page_size: 1000, ..Default::default() };
        let accounts = tenant.accounts().list_accounts(list).await.unwrap().into_inner().accounts;
        let (of_contacts, by_name): (Vec<_>, Vec<_>) = accounts
            .into_iter()
            .partition(|account| account.primary_contact.as_ref().unwrap().email == "9@9");
        let contact = |account: Account| account.primary_contact.unwrap().name;
        assert_eq!(
            of_contacts.into_iter().map(contact).collect::<BTreeSet<_>>(),
            expected,
            "{query:?} in contacts"
        );
        let name = |account: Account| account.display_name;
        assert_eq!(
            by_name.into_iter().map(name).collect::<BTreeSet<_>>(),
            expected,
            "{query:?} in accounts"
        );
        let list = ListOrganizationsRequest { query: query_text(), ..Default::default() };
        let found = tenant
            .organizations()
            .list_organizations(list)
            .await
            .unwrap()
            .into_inner()
            .organizations;
        assert_eq!(
            found.into_iter().map(|it| it.display_name).collect::<BTreeSet<_>>(),
            expected,
            "{query:?} in organizations"
        );
        let list = ListPeopleRequest { query: query_text(), ..Default::default() };
        let found = tenant.people().list_people(list).await.unwrap().into_inner().people;
        assert_eq!(
            found.into_iter().map(|it| it.display_name).collect::<BTreeSet<_>>(),
            expected,
            "{query:?} in people"
        );
        let list = ListAccountUsersRequest {
            account_id: "of-all".into(),
            query: query_text(),
            ..Default::default()
        };
        let found =
            tenant.memberships().list_account_users(list).await.unwrap().into_inner().account_users;
        assert_eq!(
            found.into_iter().map(|it| it.display_name).collect::<BTreeSet<_>>(),
            expected,
            "{query:?} in users"
        );
    }
}

async fn organization(tenant: &Tenant, id: &str, name: &str) -> Result<Organization, Status> {
    let organization = Organization {
        organization_id: id.into(),
        display_name: name.into(),
        ..Default::default()
    };
    let request =
        CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    tenant
        .organizations()
        .create_organization(request)
        .await
        .map(|answer| answer.into_inner().organization.unwrap())
}

#[tokio::test]
async fn emails_of_every_script_are_kept_and_found() {
    let tenant = Tenant::new().await;
    for (i, (email, query)) in [
        ("संपर्क@डाटामेल.भारत", "डाटामेल"),
        ("ติดต่อ@บริษัท.ไทย", "บริษัท"),
        ("اتصال@شركة.مصر", "اتصال@"),
        ("联系@公司.中国", "公司"),
        ("தொடர்பு@நிறுவனம்.இந்தியா", "நிறுவனம்"),
        ("почта@почта.рф", "почта@п"),
        ("Jürgen@München.example", "jurgen@munchen"),
        ("Ju\u{308}rgen@Ko\u{308}ln.example", "@koln"),
        ("x@xn--mnchen-3ya.example", "xn--mnchen"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("p{i}");
        let created =
            tenant.try_person(Person { email: email.into(), ..person(&id) }).await.unwrap();
        assert!(!created.email.contains('\u{308}'), "{email}");
        assert_eq!(
            tenant
                .list_people(ListPeopleRequest { query: query.into(), ..Default::default() })
                .await,
            [id],
            "{query}"
        );
    }
    for email in ["a@@b", "a b@c", "a@-b", "a@b..c", "a\u{200b}@b", "a\u{202e}@b", "\"a\"@b"] {
        let refused = violations(
            tenant.try_person(Person { email: email.into(), ..person("refused") }).await,
        );
        assert!(refused.iter().all(|(field, _)| field == "person.email"), "{email:?}: {refused:?}");
    }
}

/// What may be in a name, in the name of a type or a role, and in an id.
#[tokio::test]
async fn names_and_ids_hide_nothing() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    // Where the text is refused: n(ames), l(abels), i(ds).
    for (n, (text, refused)) in [
        ("Zürich 東京", ""),
        ("क्षत्रिय सेवा", ""),
        ("می\u{200c}خواهم", "li"),
        ("👩\u{200d}🚀 Club", "li"),
        ("❤\u{fe0f} Lovers", "i"),
        ("Donau\u{ad}dampf", "li"),
        ("x\u{200b}y", "li"),
        ("\u{200b}", "nli"),
        ("\u{3164}", "nli"),
        ("\u{2800}", "nli"),
        ("\u{2060}\u{200d}", "nli"),
        ("x\u{202e}y", "nli"),
        ("x\u{2066}y\u{2069}", "nli"),
        ("x\u{2028}y", "nli"),
        ("x\u{2029}y", "nli"),
        ("x\u{fdd0}", "nli"),
        ("x\u{e000}", "li"),
        (" x", "nli"),
        ("Zu\u{308}rich West", "i"),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, text) = (format!("{n}"), || text.to_owned());
        let role = TenantSettings { membership_roles: vec![text()], ..Default::default() };
        let answers = [
            (
                'n',
                "account.display_name",
                tenant
                    .try_account(Account { display_name: text(), ..account(&id, "o") })
                    .await
                    .map(drop),
            ),
            (
                'n',
                "person.display_name",
                tenant.try_person(Person { display_name: text(), ..person(&id) }).await.map(drop),
            ),
            ('n', "organization.display_name", organization(&tenant, &id, &text()).await.map(drop)),
            ('l', "account_type.display_name", {
                let named = AccountType { display_name: text(), ..account_type(&id) };
                tenant.try_account_type(named).await.map(drop)
            }),
            (
                'l',
                "tenant_settings.membership_roles[0]",
                tenant.update_settings(role, &["membership_roles"]).await.map(drop),
            ),
            (
                'i',
                "account.account_id",
                tenant
                    .try_account(Account { display_name: "x".into(), ..account(&text(), "o") })
                    .await
                    .map(drop),
            ),
            (
                'i',
                "person.person_id",
                tenant
                    .try_person(Person { display_name: "x".into(), ..person(&text()) })
                    .await
                    .map(drop),
            ),
            (
                'i',
                "organization.organization_id",
                organization(&tenant, &text(), "x").await.map(drop),
            ),
            ('i', "account_type.account_type_id", {
                let named =
                    AccountType { display_name: format!("type {n}"), ..account_type(&text()) };
                tenant.try_account_type(named).await.map(drop)
            }),
        ];
        for (of, field, answer) in answers {
            assert_eq!(
                answer.is_err(),
                refused.contains(of),
                "{:?} as {field}: {answer:?}",
                text()
            );
            if answer.is_err() {
                assert!(
                    violations(answer).iter().all(|(violated, _)| violated == field),
                    "{:?} as {field}",
                    text()
                );
            }
        }
    }
}

#[tokio::test]
async fn names_of_types_and_roles_that_look_alike_are_one() {
    let tenant = Tenant::new().await;
    for (id, name, other) in [
        ("a", "Straße", "STRASSE"),
        ("b", "Οδός", "ΟΔΌΣ"),
        ("c", "ＶＩＰ", "vip"),
        ("d", "Cafe\u{301}", "CAFÉ"),
        ("e", "İstanbul", "i\u{307}stanbul"),
        ("f", "Partner’s", "partner's"),
        ("g", "Heart ❤\u{fe0f}", "heart ❤"),
    ] {
        let named =
            |id: &str, name: &str| AccountType { display_name: name.into(), ..account_type(id) };
        tenant.try_account_type(named(id, name)).await.unwrap();
        let taken = "ACCOUNT_TYPE_ALREADY_EXISTS";
        assert_eq!(
            refusal(tenant.try_account_type(named("other", other)).await),
            taken,
            "{name} {other}"
        );
    }
    tenant
        .try_account_type(AccountType { display_name: "Cafe".into(), ..account_type("h") })
        .await
        .expect("an accent counts");

    let roles = |roles: &[&str]| TenantSettings {
        membership_roles: roles.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let twice = tenant
        .update_settings(
            roles(&["Owner", "buyer", "OWNER", "Straße", "strasse"]),
            &["membership_roles"],
        )
        .await;
    let fields: Vec<_> = violations(twice).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        fields,
        ["tenant_settings.membership_roles[2]", "tenant_settings.membership_roles[4]"]
    );
    tenant.update_settings(roles(&["Owner", "Straße"]), &["membership_roles"]).await.unwrap();
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    tenant.person("p").await;
    let add = AddAccountUserRequest {
        account_id: "a".into(),
        person_id: "p".into(),
        roles: vec!["OWNER".into(), "owner".into(), "STRASSE".into()],
        ..Default::default()
    };
    let user = tenant
        .memberships()
        .add_account_user(add)
        .await
        .unwrap()
        .into_inner()
        .account_user
        .unwrap();
    assert_eq!(user.roles, ["Owner", "Straße"], "as the tenant writes them, each once");
}

/// What was kept before its rule came stays as it is: it can be read, listed and sent back, and
/// everything beside it can change.
#[tokio::test]
async fn rows_from_before_a_rule_can_still_be_changed() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    tenant.person("p").await;
    tenant.account_type("t").await;
    let old = "x\u{202e}y\u{2028}z";
    let plant = format!(
        "UPDATE accounts SET display_name = '{old}', billing_address = '{{\"city\": \"{old}\", \"line1\": \"1\"}}'; \
         UPDATE people SET display_name = '{old}'; UPDATE organizations SET display_name = '{old}'; \
         UPDATE account_types SET display_name = '{old}', name_key = '{old}'; \
         INSERT INTO tenants (membership_roles) VALUES ('{{Owner,owner}}') ON CONFLICT (tenant_id) DO UPDATE SET membership_roles = excluded.membership_roles"
    );
    execute(&tenant, &plant).await;

    let kept = tenant.get("a").await.unwrap();
    assert_eq!(kept.display_name, old);
    let changed = tenant.update(Account { comment: "new".into(), ..only("a") }, &[]).await.unwrap();
    assert_eq!((&*changed.display_name, &*changed.comment), (old, "new"));
    // Read, changed beside it and sent back as a whole.
    let whole = Account { description: "new".into(), ..changed };
    let mut changed = tenant.update(whole, &[]).await.unwrap();
    assert_eq!((&*changed.display_name, &*changed.description), (old, "new"));
    // Beside it in the same message.
    changed.billing_address.as_mut().unwrap().line1 = "2".into();
    let changed = tenant.update(changed, &["billing_address"]).await.unwrap();
    assert_eq!(changed.billing_address.unwrap().line1, "2");
    // Another that breaks the rule, or this one with something else that does, is refused.
    let renamed = Account { display_name: format!("{old}2"), comment: "\u{1}".into(), ..only("a") };
    let fields: Vec<_> =
        violations(tenant.update(renamed, &[]).await).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["account.display_name", "account.comment"]);

    let changed =
        tenant.update_person(Person { phone: "1".into(), ..only_person("p") }, &[]).await.unwrap();
    assert_eq!((&*changed.display_name, &*changed.phone), (old, "1"));
    let renamed = tenant
        .update_person(Person { display_name: format!("{old}2"), ..only_person("p") }, &[])
        .await;
    assert_eq!(violations(renamed)[0].0, "person.display_name");

    let request = |display_name: &str, description: &str| UpdateAccountTypeRequest {
        account_type: Some(AccountType {
            account_type_id: "t".into(),
            display_name: display_name.into(),
            description: description.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    tenant.account_types().update_account_type(request(old, "new")).await.unwrap();
    assert_eq!(
        violations(tenant.account_types().update_account_type(request("a\u{200b}b", "")).await)
            .len(),
        1
    );
    let listed = tenant
        .account_types()
        .list_account_types(ListAccountTypesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*listed.account_types[0].display_name, &*listed.account_types[0].description),
        (old, "new")
    );

    let organization = Organization {
        organization_id: "o".into(),
        display_name: old.into(),
        ..Default::default()
    };
    let request =
        UpdateOrganizationRequest { organization: Some(organization), ..Default::default() };
    tenant.organizations().update_organization(request).await.unwrap();

    let settings = TenantSettings { account_id_prefix: "new".into(), ..Default::default() };
    let settings = tenant.update_settings(settings, &["account_id_prefix"]).await.unwrap();
    assert_eq!(
        (&*settings.account_id_prefix, &settings.membership_roles[..]),
        ("new", &["Owner".into(), "owner".into()][..])
    );
}

/// Ids from before may be none that could be chosen today. They are named as they are.
#[tokio::test]
async fn resources_with_ids_from_before_a_rule_can_still_be_named() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    for id in ["a\u{200b}", DECOMPOSED, "\u{202e}a"] {
        let copy = format!(
            "INSERT INTO accounts (account_id, display_name, sort_key, organization_id, status) VALUES ('{id}', 'old', 'old', 'o', 'ACTIVE'); \
             INSERT INTO account_organizations (account_id, organization_id, own, include_descendants) VALUES ('{id}', 'o', true, false)"
        );
        execute(&tenant, &copy).await;
        assert_eq!(tenant.get(id).await.unwrap().account_id, id);
        let changed =
            tenant.update(Account { comment: "new".into(), ..only(id) }, &[]).await.unwrap();
        assert_eq!((&*changed.account_id, &*changed.comment), (id, "new"));
        tenant.delete(id, "").await.unwrap();
    }
}
