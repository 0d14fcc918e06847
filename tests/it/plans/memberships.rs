//! The queries of memberships, with 200,000 accounts, 50,000 people and organizations of 18,000
//! members.

use customer_accounts::proto::{
    CheckMembershipRequest, ListAccountUsersRequest, ListAccountsRequest,
    ListBillingRecipientsRequest, ListOrganizationsRequest, ListPeopleRequest,
    ListPersonAccountsRequest,
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::Instant,
};

use super::{
    ANY, Bound, CUSTOM_PLANS, FEW, Filled, List, Measured, Plan, Uses, members, people_of,
};
use crate::support::Tenant;

const FILL: &str = include_str!("memberships.sql");
/// How often each page is timed, and how often that is done again before a page counts as slow.
const ROUNDS: usize = 21;
const ATTEMPTS: usize = 6;

/// The database that these tests share: it takes longer to fill than to ask.
pub async fn filled() -> Option<&'static Filled> {
    static FILLED: OnceCell<Option<Filled>> = OnceCell::const_new();
    FILLED
        .get_or_init(|| Filled::new(FILL, "the embedded server has no auto_explain"))
        .await
        .as_ref()
}

/// A service on it whose queries are explained.
pub async fn measured() -> Option<Measured> {
    // Setting the database up for that is for one at a time.
    static TURN: Mutex<()> = Mutex::const_new(());
    let filled = filled().await?;
    let _turn = TURN.lock().await;
    Some(Measured::on(filled).await)
}

/// The id of a person by their place in the alphabet.
pub fn person(n: u32) -> String {
    format!("pers-{:05}", n * 7919 % 50_000)
}

fn users(account_id: &str) -> ListAccountUsersRequest {
    ListAccountUsersRequest { account_id: account_id.into(), ..Default::default() }
}

/// Members by name or creation.
fn by_member(order_by: i32) -> Uses {
    let by_name = "organization_members_sort_key_idx";
    Uses(
        if order_by < 3 { by_name } else { "organization_members_create_time_idx" },
        "organization_id = ",
    )
}

fn by_user() -> Uses {
    Uses("account_users_sort_key_idx", "account_id = ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_an_account_cost_a_page_wherever_it_lies() {
    let Some(on) = measured().await else { return };
    // 18,000 through an organization and some individually; all four orders.
    for order_by in 1..=4 {
        let list = ListAccountUsersRequest { order_by, ..users("acct-1") };
        on.check(List::Users(list), by_member(order_by), Bound(900, true)).await;
    }
    let all = ListAccountUsersRequest { show_not_in_force: true, ..users("acct-1") };
    on.check(List::Users(all), by_member(0), Bound(600, true)).await;
    // All of them at the end of the alphabet; only individual ones.
    on.check(List::Users(users("acct-2")), by_member(0), Bound(900, true)).await;
    on.check(List::Users(users("acct-3")), by_user(), Bound(900, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_users_is_one_query_and_an_empty_one_asks_for_the_account() {
    let Some(on) = measured().await else { return };
    for (query, queries) in [("", 1), ("group7", 1), ("nobody-at-all", 2)] {
        let list = List::Users(ListAccountUsersRequest { query: query.into(), ..users("acct-1") });
        let (rows, _) = list.page(&on.tenant, 50, String::new()).await;
        assert_eq!((rows == 0, on.queries().await.len()), (queries == 2, queries), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_among_many_users_starts_from_what_there_is_less_of() {
    let Some(on) = measured().await else { return };
    let found = |query: &str| {
        List::Users(ListAccountUsersRequest { query: query.into(), ..users("acct-1") })
    };
    let by_word = || Uses("person_words_word_idx", "(word >= ");
    // The word of one person, of a hundredth, and of everybody.
    on.check(found(&person(16_000)), by_word(), Bound(FEW, true)).await;
    on.check(found("group7"), ANY, Bound(6000, false)).await;
    on.check(found("name"), by_member(0), Bound(1500, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_at_the_end_of_the_alphabet_cost_what_those_at_its_beginning_do() {
    let Some(on) = measured().await else { return };
    for list in [
        |id| List::Members(members(id, 0)),
        |id| List::People(people_of(id, false)),
        |id| List::People(people_of(id, true)),
    ] {
        let (_, first) = list("first").plan(&on, "").await;
        let (_, last) = list("last").plan(&on, "").await;
        assert!(4 * last.pages() <= 5 * first.pages(), "{}\n{}", first.lines(), last.lines());
        on.check(list("last"), by_member(0), Bound(3 * FEW, true)).await;
    }
    let inside = ListPeopleRequest { kind: 2, ..people_of("last", false) };
    on.check(List::People(inside), ANY, Bound(6000, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn billing_recipients_cost_a_page_and_not_the_users() {
    let Some(on) = measured().await else { return };
    for (account_id, pages) in [("acct-1", 1200), ("acct-2", 600), ("acct-3", 1200)] {
        let list =
            ListBillingRecipientsRequest { account_id: account_id.into(), ..Default::default() };
        on.check(
            List::Recipients(list),
            Uses("account_users_billing_idx", "account_id = "),
            Bound(pages, true),
        )
        .await;
    }
    let list = ListBillingRecipientsRequest {
        account_id: "acct-1".into(),
        order_by: 4,
        ..Default::default()
    };
    on.check(
        List::Recipients(list),
        Uses("account_users_billing_time_idx", "account_id = "),
        Bound(1200, true),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_a_person_are_found_from_the_person() {
    let Some(on) = measured().await else { return };
    // Someone with some hundred accounts, and someone with a few.
    for (n, pages) in [(0, 2000), (17_901, FEW)] {
        let by_person = || Uses("account_users_person_idx", "person_id = ");
        let list = ListPersonAccountsRequest { person_id: person(n), ..Default::default() };
        on.check(List::Person(list), by_person(), Bound(pages, true)).await;
        let list = ListAccountsRequest { person_id: person(n), ..Default::default() };
        on.check(List::Accounts(list), by_person(), Bound(pages, true)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_by_a_link_a_contact_or_a_member_begin_with_these() {
    let Some(on) = measured().await else { return };
    for _ in 0..CUSTOM_PLANS + 2 {
        let request = ListOrganizationsRequest { person_id: person(10), ..Default::default() };
        on.tenant.organizations().list_organizations(request).await.unwrap();
        let by_person = Uses("organization_members_person_idx", "person_id = ");
        on.plan("ORDER BY \"organizations\"").await.check(
            "organizations of a person",
            &by_person,
            FEW,
        );
    }
    let subject = ListPeopleRequest { subject: "office".into(), ..Default::default() };
    on.check(List::People(subject), Uses("people_subject_key", "subject = "), Bound(FEW, true))
        .await;
    let linked =
        ListAccountsRequest { linked_organization_id: "unit-52".into(), ..Default::default() };
    let by_link = Uses("account_organizations_", "organization_id = ");
    on.check(List::Accounts(linked), by_link, Bound(FEW, true)).await;
    let contact = ListAccountsRequest { contact_id: person(10), ..Default::default() };
    on.check(List::Accounts(contact), Uses("accounts_", "contact_id = "), Bound(FEW, true)).await;
}

/// The members of an organization and the users of an account are counted up to 1000 of each
/// source.
#[tokio::test(flavor = "multi_thread")]
async fn many_members_and_users_are_counted_up_to_a_bound() {
    let Some(on) = measured().await else { return };
    let people = ListPeopleRequest { include_total_size: true, ..people_of("last", false) };
    let page = on.tenant.people().list_people(people).await.unwrap().into_inner();
    assert_eq!((page.total_size, page.total_size_capped), (1000, true));
    on.plan("SELECT count(*) FROM (").await.check("members", &by_member(0), 60);
    let users = ListAccountUsersRequest { include_total_size: true, ..users("acct-2") };
    let page = on.tenant.memberships().list_account_users(users).await.unwrap().into_inner();
    assert_eq!((page.total_size, page.total_size_capped), (1000, true));
    on.plan("SELECT count(*) FROM (").await.check("users", &by_member(0), 8000);
    let account_id = "acct-1".into();
    let recipients =
        ListBillingRecipientsRequest { account_id, include_total_size: true, ..Default::default() };
    let page =
        on.tenant.memberships().list_billing_recipients(recipients).await.unwrap().into_inner();
    assert_eq!((page.total_size, page.total_size_capped), (1000, true));
    on.plan("SELECT count(*) FROM (").await.check("recipients", &ANY, 17_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_one_query_that_uses_indexes_only() {
    let Some(on) = measured().await else { return };
    // Through an organization and individually, through one only, and not at all.
    for (account_id, n) in [("acct-1", 100), ("acct-2", 49_990), ("acct-3", 17), ("acct-4", 18)] {
        for _ in 0..CUSTOM_PLANS + 2 {
            let request =
                CheckMembershipRequest { account_id: account_id.into(), person_id: person(n) };
            on.tenant.memberships().check_membership(request).await.unwrap();
            let mut queries = on.queries().await;
            assert_eq!(queries.len(), 1, "{queries:?}");
            let plan = Plan(queries.remove(0)["Plan"].take());
            plan.check(account_id, &Uses("organization_members_person_idx", "person_id = "), 60);
            let scans = plan
                .nodes()
                .into_iter()
                .filter_map(|node| node["Node Type"].as_str())
                .filter(|node| node.contains("Scan"));
            assert!(
                scans.clone().count() >= 5 && scans.clone().all(|scan| scan.starts_with("Index")),
                "{}",
                plan.lines()
            );
        }
    }
}

/// The tokens of the first page, one in the middle and the last full one.
async fn three_pages(list: &List, tenant: &Tenant, page_size: i32) -> [String; 3] {
    let mut tokens = vec![String::new()];
    loop {
        let (_, next) = list.page(tenant, page_size, tokens.last().unwrap().clone()).await;
        if next.is_empty() {
            break;
        }
        tokens.push(next);
    }
    [0, tokens.len() / 2, tokens.len() - 2].map(|n| tokens[n].clone())
}

/// The middle of several times of each page, in milliseconds, taken in turns so that what else
/// happens here happens to all.
async fn medians(list: &List, tenant: &Tenant, page_size: i32, tokens: &[String; 3]) -> [f64; 3] {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (token, times) in tokens.iter().zip(&mut times) {
            let start = Instant::now();
            let (rows, _) = list.page(tenant, page_size, token.clone()).await;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!(i32::try_from(rows).unwrap(), page_size);
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_of_eighteen_thousand_users_takes_the_time_of_the_first() {
    let Some(filled) = filled().await else { return };
    let mut login: tokio_postgres::Config = filled.url.parse().unwrap();
    // Other tests have had every statement explained.
    login.options("-c session_preload_libraries=");
    let tenant = filled.serve(login).await;
    let many = List::Users(users("acct-1"));
    for page_size in [50, 1000] {
        let tokens = three_pages(&many, &tenant, page_size).await;
        let mut seen = Vec::new();
        let is_even = loop {
            let [first, middle, last] = medians(&many, &tenant, page_size, &tokens).await;
            seen.push(format!("{first:.2} {middle:.2} {last:.2} ms"));
            let is_even = middle <= 1.2 * first && last <= 1.2 * first;
            if is_even || seen.len() == ATTEMPTS {
                break is_even;
            }
        };
        eprintln!("pages of {page_size}, first, middle, last: {seen:?}");
        assert!(is_even, "pages of {page_size}: {seen:?}");
    }
}
