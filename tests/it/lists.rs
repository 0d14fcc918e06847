//! Lists, pages and search against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use customer_accounts::{
    db::Meta,
    proto::{
        Account, AccountOrderBy, AccountStatus, AccountType, Contact, CreateAccountTypeRequest,
        CreateOrganizationRequest, DeactivateAccountTypeRequest, DeleteAccountRequest,
        ListAccountTypesRequest, ListAccountsRequest, ListAccountsResponse,
        ListOrganizationsRequest, Organization, UpdateAccountRequest,
    },
    validate::Violations,
};
use diesel_async::SimpleAsyncConnection as _;
use prost_types::Timestamp;
use tonic::Status;

use crate::support::{
    Tenant, account, anybody,
    dice::{Dice, seed_or},
    refusal, shared, violations,
};

/// Words of names, and by hand what they are without case and accents.
const WORDS: &[(&str, &str)] = &[
    ("ACME", "acme"),
    ("Acme", "acme"),
    ("Société", "societe"),
    ("Générale", "generale"),
    ("Zürich", "zurich"),
    ("Zulu", "zulu"),
    ("Øresund", "oresund"),
    ("Straße", "strasse"),
    ("Łódź", "lodz"),
    ("ÅNGSTRÖM", "angstrom"),
    ("naïve", "naive"),
    ("42", "42"),
    ("β-Labs", "β-labs"),
    ("(North)", "(north)"),
    ("O'Neil", "o'neil"),
    ("œuvre", "oeuvre"),
    ("東京", "東京"),
    ("ΣΊΣΥΦΟΣ", "σισυφοσ"),
];

const PEOPLE: &[(&str, &str)] =
    &[("Jane Doe", "jane doe"), ("José Müller", "jose muller"), ("Ann-Sofie Ek", "ann-sofie ek")];

/// An account as the model knows it: what it was created with, and its texts without case and
/// accents.
#[derive(Clone)]
struct Row {
    account: Account,
    name: String,
    texts: Vec<String>,
}

/// The accounts of a tenant.
struct Model {
    tenant: Tenant,
    rows: Vec<Row>,
}

const ORGANIZATIONS: [&str; 3] = ["north", "south", "west"];
const TYPES: [&str; 2] = ["enterprise", "trial"];

impl Model {
    /// A tenant with so many accounts, some of which have the same name or the same time of
    /// creation.
    async fn new(dice: &mut Dice, size: usize) -> Self {
        let tenant = Tenant::new().await;
        for organization in ORGANIZATIONS {
            tenant.organization(organization, "").await;
        }
        for id in TYPES {
            account_type(&tenant, id, id).await;
        }
        let mut model = Self { tenant, rows: Vec::new() };
        for number in 0..size {
            let row = random_row(dice, number);
            model.tenant.account(row.account.clone()).await;
            model.rows.push(row);
        }
        // A few moments for all of them, each in the past of none.
        let times = "UPDATE accounts SET create_time = to_timestamp(1e9 + ascii(right(account_id, 1)) % 7), \
                     update_time = to_timestamp(1e9 + ascii(right(account_id, 1)) % 5)";
        execute(&model.tenant, times).await;
        let deactivate =
            DeactivateAccountTypeRequest { account_type_id: "trial".into(), ..Default::default() };
        model.tenant.account_types().deactivate_account_type(deactivate).await.unwrap();
        for page in
            walk(&model.tenant, &ListAccountsRequest { page_size: 1000, ..Default::default() })
                .await
        {
            for account in page {
                let row = model
                    .rows
                    .iter_mut()
                    .find(|row| row.account.account_id == account.account_id)
                    .unwrap();
                row.account = account;
            }
        }
        model
    }

    /// The ids that a list must give, in its order.
    fn expected(&self, request: &ListAccountsRequest, folded_query: &str) -> Vec<String> {
        let mut rows: Vec<_> =
            self.rows.iter().filter(|row| row.matches(request, folded_query)).collect();
        rows.sort_by(|a, b| {
            let names = || (&a.name, &a.account.account_id).cmp(&(&b.name, &b.account.account_id));
            let times =
                || (a.created(), &a.account.account_id).cmp(&(b.created(), &b.account.account_id));
            let updates =
                || (a.updated(), &a.account.account_id).cmp(&(b.updated(), &b.account.account_id));
            let statuses = || a.status().cmp(b.status()).then_with(names);
            match request.order_by() {
                AccountOrderBy::Unspecified | AccountOrderBy::DisplayName => names(),
                AccountOrderBy::DisplayNameDesc => names().reverse(),
                AccountOrderBy::CreateTime => times(),
                AccountOrderBy::CreateTimeDesc => times().reverse(),
                AccountOrderBy::UpdateTime => updates(),
                AccountOrderBy::UpdateTimeDesc => updates().reverse(),
                AccountOrderBy::Status => statuses(),
                AccountOrderBy::StatusDesc => statuses().reverse(),
            }
        });
        rows.into_iter().map(|row| row.account.account_id.clone()).collect()
    }
}

impl Row {
    fn created(&self) -> (i64, i32) {
        self.account.create_time.map(|time| (time.seconds, time.nanos)).unwrap()
    }

    fn updated(&self) -> (i64, i32) {
        self.account.update_time.map(|time| (time.seconds, time.nanos)).unwrap()
    }

    fn status(&self) -> &'static str {
        ["", "ACTIVE", "SUSPENDED", "INACTIVE"][usize::try_from(self.account.status).unwrap()]
    }

    fn matches(&self, request: &ListAccountsRequest, folded_query: &str) -> bool {
        let account = &self.account;
        let within = |time: (i64, i32), start: Option<Timestamp>, end: Option<Timestamp>| {
            start.is_none_or(|start| (start.seconds, 0) <= time)
                && end.is_none_or(|end| time < (end.seconds, 0))
        };
        let created = within(self.created(), request.create_start_time, request.create_end_time);
        if !created || !within(self.updated(), request.update_start_time, request.update_end_time) {
            return false;
        }
        if request.without_account_type && !account.account_type_id.is_empty()
            || request.is_primary.is_some_and(|is_primary| is_primary != account.is_primary)
        {
            return false;
        }
        (request.statuses.is_empty() || request.statuses.contains(&account.status))
            && (request.organization_id.is_empty()
                || request.organization_id == account.organization_id)
            && (request.account_type_id.is_empty()
                || request.account_type_id == account.account_type_id)
            && folded_query
                .split_whitespace()
                .all(|term| self.texts.iter().any(|text| has_word(text, term)))
    }
}

/// Whether the text has the term where letters or digits begin.
fn has_word(text: &str, term: &str) -> bool {
    let around = |c: char| !c.is_alphanumeric() && !"@_".contains(c);
    let term = term.trim_start_matches(around).trim_end_matches(|c| around(c) && c != '-');
    let begins = |at: usize| {
        !text[..at].ends_with(char::is_alphanumeric)
            && text[at..].starts_with(char::is_alphanumeric)
    };
    text.char_indices().any(|(at, _)| begins(at) && text[at..].starts_with(term))
}

fn random_row(dice: &mut Dice, number: usize) -> Row {
    let words: Vec<_> = (0..=dice.index(3)).map(|_| *dice.pick(WORDS)).collect();
    let join = |words: Vec<&str>| words.join(" ");
    let (shown, name) = (
        join(words.iter().map(|word| word.0).collect()),
        join(words.iter().map(|word| word.1).collect()),
    );
    let id = format!("A-{:03}-{}", dice.index(900) + 100, number);
    let mut texts = vec![id.to_lowercase(), name.clone()];
    let contact = dice.once_in(3).then(|| {
        let (person, folded) = *dice.pick(PEOPLE);
        let email =
            format!("{}.{number}@mail{}.example", folded.split(' ').next().unwrap(), dice.index(4));
        texts.extend([folded.to_owned(), email.clone()]);
        Contact { name: person.into(), email, ..Default::default() }
    });
    let contact = contact.or_else(|| {
        texts.push("qq@qq.example".into());
        anybody()
    });
    let account = Account {
        account_id: id,
        display_name: shown,
        organization_id: (*dice.pick(&ORGANIZATIONS)).into(),
        account_type_id: (*dice.pick(&["", "enterprise", "trial"])).into(),
        status: *dice.pick(&[1, 1, 1, 2, 3]),
        primary_contact: contact,
        ..Default::default()
    };
    Row { account, name, texts }
}

async fn account_type(tenant: &Tenant, id: &str, name: &str) {
    let account_type =
        AccountType { account_type_id: id.into(), display_name: name.into(), ..Default::default() };
    let request =
        CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
    tenant.account_types().create_account_type(request).await.unwrap();
}

/// Changes rows of the tenant behind the API.
pub async fn execute(tenant: &Tenant, sql: &str) {
    let caller = tenant.caller();
    let meta = Meta::of(&mut Violations::default(), &caller, &CreateAccountTypeRequest::default());
    let work = shared()
        .db
        .write(&caller, &meta, async |tx| Ok((&mut tx.conn()).batch_execute(sql).await?));
    shared().on_its_runtime(work).await.unwrap();
}

async fn page(
    tenant: &Tenant,
    request: &ListAccountsRequest,
) -> Result<ListAccountsResponse, Status> {
    tenant.accounts().list_accounts(request.clone()).await.map(tonic::Response::into_inner)
}

/// All pages of a list.
async fn walk(tenant: &Tenant, request: &ListAccountsRequest) -> Vec<Vec<Account>> {
    let mut request = request.clone();
    let mut pages = Vec::new();
    loop {
        let response = page(tenant, &request).await.unwrap();
        pages.push(response.accounts);
        if response.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = response.next_page_token;
    }
}

async fn ids(tenant: &Tenant, request: &ListAccountsRequest) -> Vec<String> {
    walk(tenant, request).await.into_iter().flatten().map(|account| account.account_id).collect()
}

#[tokio::test]
async fn every_order_and_page_size_gives_what_the_model_gives() {
    let model = Model::new(&mut Dice::seeded(seed_or(1)), 60).await;
    for order_by in 0..=8 {
        for page_size in [1, 2, 7, 1000] {
            let request = ListAccountsRequest { order_by, page_size, ..Default::default() };
            let pages = walk(&model.tenant, &request).await;
            let size = usize::try_from(page_size).unwrap();
            assert!(
                pages.iter().all(|page| (1..=size).contains(&page.len())),
                "order {order_by}, pages of {page_size}"
            );
            assert_eq!(
                pages.len(),
                model.rows.len().div_ceil(size),
                "order {order_by}, pages of {page_size}"
            );
            let given: Vec<_> =
                pages.concat().into_iter().map(|account| account.account_id).collect();
            assert_eq!(
                given,
                model.expected(&request, ""),
                "order {order_by}, pages of {page_size}"
            );
        }
    }
}

#[tokio::test]
async fn random_filters_and_searches_give_what_the_model_gives() {
    let mut dice = Dice::seeded(seed_or(2));
    let model = Model::new(&mut dice, 220).await;
    let mut found = BTreeSet::new();
    for _ in 0..80 {
        let mut request = ListAccountsRequest {
            order_by: i32::try_from(dice.index(9)).unwrap(),
            page_size: *dice.pick(&[3, 10, 50, 1000]),
            ..Default::default()
        };
        if dice.once_in(2) {
            request.statuses =
                dice.pick(&[&[1][..], &[2], &[3], &[1, 2], &[3, 2], &[1, 2, 3], &[2, 2]]).to_vec();
        }
        if dice.once_in(3) {
            request.organization_id = (*dice.pick(&["north", "south", "west", "nowhere"])).into();
        }
        if dice.once_in(6) {
            request.without_account_type = true;
        } else if dice.once_in(3) {
            request.account_type_id = (*dice.pick(&["enterprise", "trial", "nothing"])).into();
        }
        let second = |seconds: usize| {
            Some(Timestamp { seconds: 1_000_000_000 + i64::try_from(seconds).unwrap(), nanos: 0 })
        };
        if dice.once_in(4) {
            let from = dice.index(4);
            (request.create_start_time, request.create_end_time) =
                (second(from), second(from + 1 + dice.index(4)));
        }
        if dice.once_in(4) {
            request.update_start_time = second(dice.index(5));
        }
        if dice.once_in(6) {
            request.is_primary = Some(dice.once_in(2));
        }
        request.include_total_size = true;
        let mut query = String::new();
        if !dice.once_in(3) {
            query = random_query(&mut dice, &model.rows, &mut request.query);
        }
        let expected = model.expected(&request, &query);
        found.insert(expected.len());
        assert_eq!(ids(&model.tenant, &request).await, expected, "{request:?}");
        let total = page(&model.tenant, &request).await.unwrap().total_size;
        assert_eq!(usize::try_from(total).unwrap(), expected.len(), "{request:?}");
    }
    assert!(found.len() > 15, "the queries find many and few: {found:?}");
}

/// Beginnings of words of one account, or now and then of two, as people would type them, and
/// without case and accents.
fn random_query(dice: &mut Dice, rows: &[Row], shown: &mut String) -> String {
    let row = dice.pick(rows);
    let other = dice.pick(rows);
    let mut folded = Vec::new();
    let mut typed = Vec::new();
    for _ in 0..=dice.index(3) {
        let row = if dice.once_in(6) { other } else { row };
        let words: Vec<_> = row.texts.iter().flat_map(|text| text.split_whitespace()).collect();
        let word = dice.pick(&words);
        let pieces: Vec<_> =
            word.split(|c: char| !c.is_alphanumeric()).filter(|piece| !piece.is_empty()).collect();
        let word = if dice.once_in(2) { word } else { dice.pick(&pieces) };
        let length = 1 + dice.index(word.chars().count());
        let term: String = word.chars().take(length).collect();
        typed.push(match dice.index(3) {
            0 => term.to_uppercase(),
            1 => format!("\"{term},"),
            _ => term.clone(),
        });
        folded.push(term);
    }
    *shown = typed.join(*dice.pick(&[" ", "  ", "\t"]));
    folded.join(" ")
}

#[tokio::test]
async fn rows_that_come_and_go_between_pages_shift_no_others() {
    let mut dice = Dice::seeded(seed_or(3));
    for order_by in 1..=4 {
        let tenant = Tenant::new().await;
        tenant.organization("o", "").await;
        let named = |number: usize| Account {
            display_name: format!("N{}", number % 5),
            ..account(&format!("id-{number:02}"), "o")
        };
        for number in (0..40).step_by(2) {
            tenant.account(named(number)).await;
        }
        // Odd ones come, numbers that four divides go, the rest stays and must be given once each.
        let mut coming: Vec<_> = (1..40).step_by(2).collect();
        let mut going: Vec<_> = (0..40).step_by(4).collect();
        let mut request = ListAccountsRequest { order_by, page_size: 3, ..Default::default() };
        let mut given = BTreeMap::<String, usize>::new();
        loop {
            let response = page(&tenant, &request).await.unwrap();
            for account in response.accounts {
                *given.entry(account.account_id).or_default() += 1;
            }
            if response.next_page_token.is_empty() {
                break;
            }
            request.page_token = response.next_page_token;
            for _ in 0..2 {
                if !coming.is_empty() {
                    let number = coming.swap_remove(dice.index(coming.len()));
                    tenant.account(named(number)).await;
                }
            }
            if !going.is_empty() {
                let account_id = format!("id-{:02}", going.swap_remove(dice.index(going.len())));
                tenant
                    .accounts()
                    .delete_account(DeleteAccountRequest { account_id, ..Default::default() })
                    .await
                    .unwrap();
            }
        }
        assert!(given.values().all(|times| *times == 1), "order {order_by}: {given:?}");
        for number in (2..40).step_by(4) {
            assert!(
                given.contains_key(&format!("id-{number:02}")),
                "order {order_by} lost {number}: {given:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_continues_behind_a_last_row_that_is_gone() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    for id in ["a", "b", "c", "d"] {
        tenant.account(Account { display_name: "Same".into(), ..account(id, "o") }).await;
    }
    for (order_by, first, rest) in [(1, ["a", "b"], ["c", "d"]), (2, ["d", "c"], ["b", "a"])] {
        let mut request = ListAccountsRequest { order_by, page_size: 2, ..Default::default() };
        let response = page(&tenant, &request).await.unwrap();
        assert_eq!(
            response.accounts.iter().map(|account| &*account.account_id).collect::<Vec<_>>(),
            first
        );
        let gone = response.accounts.last().unwrap().account_id.clone();
        tenant
            .accounts()
            .delete_account(DeleteAccountRequest { account_id: gone.clone(), ..Default::default() })
            .await
            .unwrap();
        request.page_token = response.next_page_token;
        assert_eq!(ids(&tenant, &request).await, rest);
        tenant.account(Account { display_name: "Same".into(), ..account(&gone, "o") }).await;
    }
}

#[tokio::test]
async fn page_sizes() {
    let tenant = Tenant::new().await;
    // The cheapest rows there are, many at once.
    execute(
        &tenant,
        "INSERT INTO organizations (organization_id, display_name, sort_key) \
         SELECT 'o' || n, 'O' || n, 'o' || lpad(n::text, 5, '0') FROM generate_series(1, 1003) AS n",
    )
    .await;
    let mut organizations = tenant.organizations();
    for (page_size, given) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
        let request = ListOrganizationsRequest { page_size, ..Default::default() };
        let response = organizations.list_organizations(request).await.unwrap().into_inner();
        assert_eq!(response.organizations.len(), given, "page_size {page_size}");
        assert!(!response.next_page_token.is_empty());
    }
    for page_size in [-1, i32::MIN] {
        let request = ListOrganizationsRequest { page_size, ..Default::default() };
        assert_eq!(violations(organizations.list_organizations(request).await).len(), 1);
    }
    // A page of another size goes on where the last one ended.
    let mut request = ListOrganizationsRequest { page_size: 1, ..Default::default() };
    let mut given = 0;
    for page_size in [1, 2, 400, 0, 1000, 7] {
        request.page_size = page_size;
        let response =
            organizations.list_organizations(request.clone()).await.unwrap().into_inner();
        for organization in &response.organizations {
            given += 1;
            assert_eq!(organization.organization_id, format!("o{given}"));
        }
        request.page_token = response.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(given, 1003);
}

#[tokio::test]
async fn a_page_that_is_full_is_the_last_if_nothing_follows() {
    let tenant = Tenant::new().await;
    assert_eq!(
        page(&tenant, &ListAccountsRequest::default()).await.unwrap(),
        ListAccountsResponse::default()
    );
    tenant.organization("o", "").await;
    for id in ["a", "b"] {
        tenant.account(account(id, "o")).await;
    }
    let response =
        page(&tenant, &ListAccountsRequest { page_size: 2, ..Default::default() }).await.unwrap();
    assert_eq!((response.accounts.len(), &*response.next_page_token), (2, ""));
}

#[tokio::test]
async fn a_token_is_for_one_list_filter_order_and_tenant() {
    let (tenant, other) = (Tenant::new().await, Tenant::new().await);
    for tenant in [&tenant, &other] {
        tenant.organization("o", "").await;
        for id in ["a", "b", "c"] {
            tenant.account(account(id, "o")).await;
            tenant.organization(&format!("o-{id}"), "o").await;
            account_type(tenant, id, id).await;
        }
    }
    let invalid = "INVALID_PAGE_TOKEN";
    let request = ListAccountsRequest { page_size: 1, query: "a".into(), ..Default::default() };
    let token = page(&tenant, &ListAccountsRequest { query: "account".into(), ..request.clone() })
        .await
        .unwrap()
        .next_page_token;
    let request =
        ListAccountsRequest { query: "account".into(), page_token: token.clone(), ..request };
    assert_eq!(page(&tenant, &request).await.unwrap().accounts[0].account_id, "b");
    // Another actor of the tenant may go on.
    assert_eq!(
        page(&tenant.with_actor("colleague"), &request).await.unwrap().accounts[0].account_id,
        "b"
    );
    for changed in [
        ListAccountsRequest { query: String::new(), ..request.clone() },
        ListAccountsRequest { query: "accoun".into(), ..request.clone() },
        ListAccountsRequest { statuses: vec![1], ..request.clone() },
        ListAccountsRequest { organization_id: "o".into(), ..request.clone() },
        ListAccountsRequest { account_type_id: "a".into(), ..request.clone() },
        // Unspecified is the same order as DISPLAY_NAME, but another request.
        ListAccountsRequest { order_by: 1, ..request.clone() },
        ListAccountsRequest { order_by: 2, ..request.clone() },
        ListAccountsRequest { order_by: 3, ..request.clone() },
        ListAccountsRequest { order_by: 4, ..request.clone() },
    ] {
        assert_eq!(refusal(page(&tenant, &changed).await), invalid, "{changed:?}");
    }
    assert_eq!(refusal(page(&other, &request).await), invalid, "another tenant");
    // Requests without filters, whose encodings are all empty, differ by the call.
    let bare = page(&tenant, &ListAccountsRequest { page_size: 1, ..Default::default() })
        .await
        .unwrap()
        .next_page_token;
    let types = ListAccountTypesRequest { page_token: bare.clone(), ..Default::default() };
    assert_eq!(
        refusal(tenant.account_types().list_account_types(types).await),
        invalid,
        "another list"
    );
    let organizations = ListOrganizationsRequest { page_token: bare.clone(), ..Default::default() };
    assert_eq!(
        refusal(tenant.organizations().list_organizations(organizations).await),
        invalid,
        "another list"
    );
    assert!(
        page(&tenant, &ListAccountsRequest { page_token: bare, ..Default::default() })
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_damaged_token_is_refused_whatever_the_damage() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    for id in ["a", "b", "c"] {
        tenant.account(account(id, "o")).await;
    }
    for order_by in [1, 4] {
        let request = ListAccountsRequest { order_by, page_size: 1, ..Default::default() };
        let token = page(&tenant, &request).await.unwrap().next_page_token;
        let mut damaged = vec![
            " ".to_owned(),
            "x".into(),
            "\u{e9}".into(),
            format!("{token}="),
            format!("{token}AA"),
            token.repeat(2),
        ];
        // Every byte changed, every end cut off, and a NUL where PostgreSQL takes none.
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for position in 0..bytes.len() {
            let mut other = bytes.clone();
            other[position] ^= 1;
            damaged.push(URL_SAFE_NO_PAD.encode(&other));
            damaged.push(URL_SAFE_NO_PAD.encode(&bytes[..position]));
        }
        damaged.push(URL_SAFE_NO_PAD.encode([&bytes[..], b"\0"].concat()));
        let mut dice = Dice::seeded(seed_or(4));
        for length in 0..40 {
            damaged.push(URL_SAFE_NO_PAD.encode(dice.bytes(length)));
        }
        for page_token in damaged.into_iter().filter(|token| !token.is_empty()) {
            let answer = page(
                &tenant,
                &ListAccountsRequest { page_token: page_token.clone(), ..request.clone() },
            )
            .await;
            assert_eq!(refusal(answer), "INVALID_PAGE_TOKEN", "{page_token:?} for {token:?}");
        }
    }
}

#[tokio::test]
async fn filters_that_cannot_be_are_violations() {
    let tenant = Tenant::new().await;
    let request = ListAccountsRequest {
        page_size: -1,
        order_by: 9,
        query: "x".repeat(201),
        statuses: vec![1, 0, 4, -1],
        organization_id: "x".repeat(51),
        account_type_id: " x".into(),
        ..Default::default()
    };
    let fields: Vec<_> =
        violations(page(&tenant, &request).await).into_iter().map(|(field, _)| field).collect();
    let expected = [
        "page_size",
        "order_by",
        "statuses[1]",
        "statuses[2]",
        "statuses[3]",
        "query",
        "organization_id",
        "account_type_id",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn search_finds_the_beginnings_of_words_and_nothing_else() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    let contact = Contact {
        name: "Zoë van Dijk".into(),
        email: "zoe.dijk@mail.acme.example".into(),
        phone: "555".into(),
        ..Default::default()
    };
    let found = Account {
        account_id: "ACCT-0042/b".into(),
        display_name: "Société Générale (Zürich) AG & Co. ÐÆRØ ﬁnance Οδός".into(),
        description: "unsearchable".into(),
        primary_contact: Some(contact),
        ..account("", "o")
    };
    tenant.account(found).await;
    tenant.account(account("other", "o")).await;
    let finds = async |query: &str| {
        ids(&tenant, &ListAccountsRequest { query: query.into(), ..Default::default() }).await
    };
    for query in [
        "soc",
        "SOCIÉTÉ",
        "societe gen",
        "gen soc",
        "zurich",
        "ZÜRICH ag",
        "(zü",
        "co.",
        "co",
        "acct-0042/b",
        "acct",
        "0042",
        "zoe",
        "ZOË dijk",
        "van",
        "zoe.dijk@mail.acme.example",
        "zoe.dijk@",
        "mail",
        "acme.example",
        "dijk@mail",
        "0042/b",
        "acme",
        "daero",
        "ðær",
        "finance",
        "FIN soc zoe 0042",
        "soc soc soc s",
        "socie\u{301}t",
        "ΟΔΌΣ",
        "οδος",
    ] {
        assert_eq!(finds(query).await, ["ACCT-0042/b"], "{query:?} finds");
    }
    for query in [
        "ociete",
        "42",
        "cct",
        "oe",
        "soc x",
        "555",
        "unsearchable",
        "o",
        "zoe other",
        "s g x",
        "acct-42",
    ] {
        assert_ne!(finds(query).await, ["ACCT-0042/b"], "{query:?} does not find");
    }
    assert_eq!(finds("").await.len(), 2, "no search");
    assert_eq!(finds("&").await, ["ACCT-0042/b"], "what it says");
    for query in [" ", "\u{200b}", "- -- ,", "*", "%", "🍕", "_", "acct_"] {
        assert_eq!(finds(query).await.len(), 0, "{query:?} finds nothing");
    }
}

#[tokio::test]
async fn search_follows_every_change() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(Account { display_name: "Before".into(), ..account("id", "o") }).await;
    let count = async |query: &str| {
        ids(&tenant, &ListAccountsRequest { query: query.into(), ..Default::default() }).await.len()
    };
    let update = async |account: Account| {
        let request = UpdateAccountRequest {
            account: Some(Account { account_id: "id".into(), ..account }),
            ..Default::default()
        };
        tenant.accounts().update_account(request).await.unwrap();
    };
    assert_eq!((count("before").await, count("after").await, count("id").await), (1, 0, 1));
    update(Account { display_name: "After".into(), ..Default::default() }).await;
    assert_eq!((count("before").await, count("after").await, count("id").await), (0, 1, 1));
    let contact = |name: &str, email: &str| {
        Some(Contact { name: name.into(), email: email.into(), ..Default::default() })
    };
    update(Account { primary_contact: contact("Jane", "j@one.example"), ..Default::default() })
        .await;
    assert_eq!((count("jane").await, count("one").await, count("after").await), (1, 1, 1));
    update(Account { primary_contact: contact("John", "j@two.example"), ..Default::default() })
        .await;
    assert_eq!((count("jane").await, count("one").await, count("john two after").await), (0, 0, 1));
    let cleared = UpdateAccountRequest {
        account: Some(Account {
            account_id: "id".into(),
            primary_contact: anybody(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["primary_contact".into()] }),
        ..Default::default()
    };
    tenant.accounts().update_account(cleared).await.unwrap();
    assert_eq!((count("john").await, count("after").await), (0, 1));
    // What is only tried out changes nothing.
    let tried = UpdateAccountRequest {
        account: Some(Account {
            account_id: "id".into(),
            display_name: "Tried".into(),
            ..Default::default()
        }),
        validate_only: true,
        ..Default::default()
    };
    tenant.accounts().update_account(tried).await.unwrap();
    assert_eq!((count("tried").await, count("after").await), (0, 1));
    tenant
        .accounts()
        .delete_account(DeleteAccountRequest { account_id: "id".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!((count("after").await, count("id").await), (0, 0));
    // Not even a word is left behind, which an account of the same id would inherit.
    tenant.account(Account { display_name: "New".into(), ..account("id", "o") }).await;
    assert_eq!((count("after").await, count("new").await), (0, 1));
}

#[tokio::test]
async fn organizations_are_listed_searched_and_filtered_by_parent() {
    let tenant = Tenant::new().await;
    let create = async |id: &str, name: &str, parent: &str| {
        let organization = Organization {
            organization_id: id.into(),
            display_name: name.into(),
            parent_id: parent.into(),
            ..Default::default()
        };
        let request =
            CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        tenant.organizations().create_organization(request).await.unwrap();
    };
    for (id, name, parent) in [
        ("1", "Zeta", ""),
        ("2", "élan", ""),
        ("3", "Echo", "1"),
        ("4", "ÉLAN", "1"),
        ("5", "alpha Zeta", "3"),
        ("6", "Elan", "3"),
    ] {
        create(id, name, parent).await;
    }
    let list = async |request: ListOrganizationsRequest| {
        let mut request = request;
        let mut given = String::new();
        loop {
            let response = tenant
                .organizations()
                .list_organizations(request.clone())
                .await
                .unwrap()
                .into_inner();
            given.extend(
                response
                    .organizations
                    .iter()
                    .map(|organization| organization.organization_id.as_str()),
            );
            if response.next_page_token.is_empty() {
                return given;
            }
            request.page_token = response.next_page_token;
        }
    };
    for page_size in [1, 2, 7, 1000] {
        for (order_by, all) in
            [(0, "532461"), (1, "532461"), (2, "164235"), (3, "123456"), (4, "654321")]
        {
            let request = ListOrganizationsRequest { page_size, order_by, ..Default::default() };
            assert_eq!(list(request).await, all, "order {order_by}, pages of {page_size}");
        }
        for (query, parent, found) in [
            ("zeta", "", "51"),
            ("ZET alp", "", "5"),
            ("elan", "", "246"),
            ("elan", "3", "6"),
            ("", "1", "34"),
            ("", "3", "56"),
            ("", "6", ""),
            ("4", "", "4"),
            ("eta", "", ""),
        ] {
            let request = ListOrganizationsRequest {
                page_size,
                query: query.into(),
                parent_id: parent.into(),
                ..Default::default()
            };
            assert_eq!(
                list(request).await,
                found,
                "{query:?} below {parent:?}, pages of {page_size}"
            );
        }
    }
}

#[tokio::test]
async fn account_types_are_listed_with_and_without_deactivated_ones() {
    let tenant = Tenant::new().await;
    for (id, name) in
        [("1", "beta"), ("2", "Alpha"), ("3", "ALPHA 2"), ("4", "Zeta"), ("5", "Äther")]
    {
        account_type(&tenant, id, name).await;
    }
    let deactivate =
        DeactivateAccountTypeRequest { account_type_id: "1".into(), ..Default::default() };
    tenant.account_types().deactivate_account_type(deactivate).await.unwrap();
    for page_size in [1, 2, 7, 1000] {
        // By the name in lower case, accents kept: two names that differ by an accent are two
        // names.
        for (order_by, show_inactive, all) in [
            (0, true, "23145"),
            (1, true, "23145"),
            (1, false, "2345"),
            (2, true, "54132"),
            (2, false, "5432"),
            (3, true, "12345"),
            (3, false, "2345"),
            (4, true, "54321"),
            (4, false, "5432"),
        ] {
            let mut request = ListAccountTypesRequest {
                page_size,
                order_by,
                show_inactive,
                ..Default::default()
            };
            let mut given = String::new();
            loop {
                let response = tenant
                    .account_types()
                    .list_account_types(request.clone())
                    .await
                    .unwrap()
                    .into_inner();
                given.extend(
                    response
                        .account_types
                        .iter()
                        .map(|account_type| account_type.account_type_id.as_str()),
                );
                request.page_token = response.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(
                given, all,
                "order {order_by}, inactive {show_inactive}, pages of {page_size}"
            );
        }
    }
}

#[tokio::test]
async fn a_list_shows_statuses_as_they_are() {
    let tenant = Tenant::new().await;
    tenant.organization("o", "").await;
    tenant.account(Account { status: AccountStatus::Suspended.into(), ..account("s", "o") }).await;
    tenant.account(account("a", "o")).await;
    for (statuses, found) in [
        (vec![], &["a", "s"][..]),
        (vec![1], &["a"]),
        (vec![2], &["s"]),
        (vec![3], &[]),
        (vec![3, 2], &["s"]),
    ] {
        let request = ListAccountsRequest { statuses, ..Default::default() };
        assert_eq!(ids(&tenant, &request).await, found, "{request:?}");
    }
}
