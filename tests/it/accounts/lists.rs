//! Lists of accounts: order, filters, search and pages.

use customer_accounts::proto::{
    Account, AccountOrderBy,
    AccountStatus::{self, Active, Inactive, Suspended},
    Contact, ListAccountsRequest, ListAccountsResponse,
};
use tonic::Status;

use crate::support::{
    Tenant, account, anybody,
    calls::{fields, only},
    refusal,
};

async fn page(
    tenant: &Tenant,
    request: ListAccountsRequest,
) -> Result<ListAccountsResponse, Status> {
    tenant.accounts().list_accounts(request).await.map(tonic::Response::into_inner)
}

/// Every page of a list, as the ids on it.
async fn pages(tenant: &Tenant, mut request: ListAccountsRequest) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let answer = page(tenant, request.clone()).await.unwrap();
        pages.push(answer.accounts.into_iter().map(|account| account.account_id).collect());
        if answer.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = answer.next_page_token;
    }
}

fn search(query: &str) -> ListAccountsRequest {
    ListAccountsRequest { query: query.into(), ..Default::default() }
}

fn with_statuses(statuses: &[AccountStatus]) -> ListAccountsRequest {
    ListAccountsRequest {
        statuses: statuses.iter().map(|status| *status as i32).collect(),
        ..Default::default()
    }
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn accounts_are_listed_in_the_order_asked_for_page_by_page() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let named = |id: &str, name: &str| Account { display_name: name.into(), ..account(id, "acme") };
    // Without case and accents; equal names by id.
    for (id, name) in [
        ("3", "Zoo"),
        ("5", "émile"),
        ("2", "emile"),
        ("4", "ÉMILE"),
        ("1", "Émile 2"),
        ("6", "apple"),
    ] {
        tenant.account(named(id, name)).await;
    }
    for (order_by, expected) in [
        (AccountOrderBy::Unspecified, ["6", "2", "4", "5", "1", "3"]),
        (AccountOrderBy::DisplayName, ["6", "2", "4", "5", "1", "3"]),
        (AccountOrderBy::DisplayNameDesc, ["3", "1", "5", "4", "2", "6"]),
        (AccountOrderBy::CreateTime, ["3", "5", "2", "4", "1", "6"]),
        (AccountOrderBy::CreateTimeDesc, ["6", "1", "4", "2", "5", "3"]),
    ] {
        for page_size in [0, 1, 2, 3, 5, 6, 7] {
            let request =
                ListAccountsRequest { order_by: order_by.into(), page_size, ..Default::default() };
            let pages = pages(&tenant, request).await;
            assert_eq!(pages.concat(), expected, "{order_by:?} by {page_size}");
            let size = if page_size == 0 { 50 } else { usize::try_from(page_size).unwrap() };
            assert_eq!(
                pages.len(),
                expected.len().div_ceil(size),
                "{order_by:?} by {page_size}: no empty page"
            );
        }
    }
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn filters_are_combined() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    tenant.organization("acme-emea", "acme").await;
    tenant.account_type("Enterprise").await;
    let make =
        async |id: &str, organization_id: &str, status: AccountStatus, account_type_id: &str| {
            let made = Account {
                status: status.into(),
                account_type_id: account_type_id.into(),
                ..account(id, organization_id)
            };
            tenant.account(made).await
        };
    make("a", "acme", Active, "Enterprise").await;
    make("b", "acme", Suspended, "").await;
    make("c", "acme", Inactive, "Enterprise").await;
    make("d", "acme-emea", Active, "Enterprise").await;
    make("e", "acme-emea", Suspended, "").await;
    let of = |organization_id: &str| ListAccountsRequest {
        organization_id: organization_id.into(),
        ..Default::default()
    };
    let typed = |account_type_id: &str| ListAccountsRequest {
        account_type_id: account_type_id.into(),
        ..Default::default()
    };
    for (request, expected) in [
        (ListAccountsRequest::default(), "a b c d e"),
        (with_statuses(&[Active]), "a d"),
        (with_statuses(&[Inactive, Active, Active]), "a c d"),
        (with_statuses(&[Active, Suspended, Inactive]), "a b c d e"),
        (of("acme"), "a b c"),
        (of("acme-emea"), "d e"),
        (of("nowhere"), ""),
        (typed("Enterprise"), "a c d"),
        (typed("Nothing"), ""),
        (ListAccountsRequest { organization_id: "acme".into(), ..with_statuses(&[Active]) }, "a"),
        (
            ListAccountsRequest {
                organization_id: "acme".into(),
                query: "c".into(),
                ..typed("Enterprise")
            },
            "c",
        ),
        (
            ListAccountsRequest {
                organization_id: "acme-emea".into(),
                query: "c".into(),
                ..typed("Enterprise")
            },
            "",
        ),
    ] {
        assert_eq!(tenant.list(request.clone()).await.join(" "), expected, "{request:?}");
        let by_one = ListAccountsRequest { page_size: 1, ..request.clone() };
        assert_eq!(
            pages(&tenant, by_one).await.concat().join(" "),
            expected,
            "one by one: {request:?}"
        );
    }
    assert_eq!(
        Tenant::new().await.list(ListAccountsRequest::default()).await,
        [""; 0],
        "another tenant"
    );
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn search_finds_beginnings_of_words_in_id_name_and_primary_contact() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let contact = Contact {
        name: "Jürgen Müller".into(),
        email: "j.mueller@acme.example".into(),
        ..Default::default()
    };
    let account_of =
        |id: &str, name: &str| Account { display_name: name.into(), ..account(id, "acme") };
    tenant
        .account(Account {
            primary_contact: Some(contact),
            ..account_of("ACC-0042", "Société Générale (Zürich) AG")
        })
        .await;
    tenant.account(account_of("other", "Generic Société, Inc. 100%")).await;
    for (query, expected) in [
        ("soc", &["other", "ACC-0042"][..]),
        ("SOCIETE gen", &["other", "ACC-0042"]),
        ("générale", &["ACC-0042"]),
        ("zur soc", &["ACC-0042"]),
        ("acc-00", &["ACC-0042"]),
        ("0042", &["ACC-0042"]),
        ("MULLER jurgen", &["ACC-0042"]),
        ("j.mueller@acme", &["ACC-0042"]),
        ("müller generic", &[]),
        ("ociete", &[]),
        ("100", &["other"]),
        ("%", &["other"]),
        ("_ther", &[]),
        ("' OR 1=1 --", &[]),
        (" ", &[]),
        ("", &["other", "ACC-0042"]),
    ] {
        assert_eq!(tenant.list(search(query)).await, expected, "{query:?}");
    }
}

#[tokio::test]
async fn search_follows_every_change_of_an_account() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    let contact = |name: &str| {
        Some(Contact { name: name.into(), email: "x@y.example".into(), ..Default::default() })
    };
    tenant.account(Account { primary_contact: contact("Jane"), ..account("a", "acme") }).await;
    tenant
        .update(
            Account {
                display_name: "Renamed".into(),
                primary_contact: contact("Joan"),
                ..only("a")
            },
            &[],
        )
        .await
        .unwrap();
    for (query, found) in [
        ("account", false),
        ("jane", false),
        ("renamed", true),
        ("joan", true),
        ("a", true),
        ("x@y", true),
    ] {
        assert_eq!(!tenant.list(search(query)).await.is_empty(), found, "{query}");
    }
    tenant
        .update(Account { primary_contact: anybody(), ..only("a") }, &["primary_contact"])
        .await
        .unwrap();
    assert_eq!(tenant.list(search("joan")).await, [""; 0]);
    tenant.delete("a", "").await.unwrap();
    assert_eq!(tenant.list(search("renamed")).await, [""; 0]);
    tenant.account(account("a", "acme")).await;
    assert_eq!(tenant.list(search("renamed")).await, [""; 0]);
}

#[tokio::test]
async fn a_page_has_fifty_accounts_unless_told_otherwise() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for i in 0..51 {
        tenant.account(account(&format!("{i:02}"), "acme")).await;
    }
    let sizes = async |page_size| {
        let request = ListAccountsRequest { page_size, ..Default::default() };
        pages(&tenant, request).await.iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!(sizes(0).await, [50, 1]);
    assert_eq!(sizes(20).await, [20, 20, 11]);
    assert_eq!(sizes(i32::MAX).await, [51], "more than 1000 counts as 1000");
    let negative = ListAccountsRequest { page_size: -1, ..Default::default() };
    assert_eq!(fields(page(&tenant, negative).await), ["page_size"]);
}

#[tokio::test]
async fn rows_that_come_and_go_do_not_shift_the_pages() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for id in ["b", "d", "f", "h"] {
        tenant.account(account(id, "acme")).await;
    }
    let request = ListAccountsRequest { page_size: 2, ..Default::default() };
    let first = page(&tenant, request.clone()).await.unwrap();
    tenant.account(account("a", "acme")).await;
    tenant.account(account("g", "acme")).await;
    tenant.delete("d", "").await.unwrap();
    let rest = ListAccountsRequest { page_size: 1, page_token: first.next_page_token, ..request };
    assert_eq!(
        pages(&tenant, rest).await,
        [["f"], ["g"], ["h"]],
        "the page size may change on the way"
    );
}

#[tokio::test]
async fn a_page_token_is_good_for_the_list_it_was_given_for_only() {
    let tenant = Tenant::new().await;
    tenant.organization("acme", "").await;
    for id in ["a1", "a2", "a3"] {
        tenant.account(account(id, "acme")).await;
    }
    let request = ListAccountsRequest { page_size: 1, ..search("a") };
    let page_token = page(&tenant, request.clone()).await.unwrap().next_page_token;
    let request = ListAccountsRequest { page_token: page_token.clone(), ..request };
    page(&tenant, request.clone()).await.unwrap();
    let longer = format!("{page_token}A");
    let (cut, _) = page_token.split_at(page_token.len() - 4);
    let last = if page_token.ends_with("AAAA") { "BBBB" } else { "AAAA" };
    for wrong in [
        ListAccountsRequest { query: "acc".into(), ..request.clone() },
        ListAccountsRequest { order_by: AccountOrderBy::DisplayNameDesc.into(), ..request.clone() },
        ListAccountsRequest { order_by: AccountOrderBy::CreateTime.into(), ..request.clone() },
        ListAccountsRequest { statuses: vec![1], ..request.clone() },
        ListAccountsRequest { organization_id: "acme".into(), ..request.clone() },
        ListAccountsRequest { account_type_id: "Trial".into(), ..request.clone() },
        ListAccountsRequest { page_token: "nonsense".into(), ..request.clone() },
        ListAccountsRequest { page_token: "ä".into(), ..request.clone() },
        ListAccountsRequest { page_token: longer, ..request.clone() },
        ListAccountsRequest { page_token: cut.into(), ..request.clone() },
        ListAccountsRequest { page_token: format!("{cut}{last}"), ..request.clone() },
        ListAccountsRequest { page_token: "AAAA".into(), ..request.clone() },
    ] {
        let answer = page(&tenant, wrong.clone()).await;
        assert_eq!(refusal(&answer), "INVALID_PAGE_TOKEN", "{wrong:?}");
        assert_eq!(fields(answer), ["page_token"]);
    }
    let other = Tenant::new().await;
    assert_eq!(refusal(page(&other, request).await), "INVALID_PAGE_TOKEN", "another tenant");
}

#[tokio::test]
async fn a_list_request_is_told_all_its_mistakes() {
    let tenant = Tenant::new().await;
    let wrong = ListAccountsRequest {
        page_size: -1,
        order_by: 9,
        query: "x".repeat(201),
        statuses: vec![1, 0, 9],
        organization_id: "x".repeat(51),
        account_type_id: " x".into(),
        ..Default::default()
    };
    let mut found = fields(page(&tenant, wrong).await);
    found.sort();
    assert_eq!(
        found,
        [
            "account_type_id",
            "order_by",
            "organization_id",
            "page_size",
            "query",
            "statuses[1]",
            "statuses[2]"
        ]
    );
    assert_eq!(tenant.list(search(&"x".repeat(200))).await, [""; 0]);
}
