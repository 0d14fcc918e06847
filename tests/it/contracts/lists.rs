//! Lists of contracts: by words, states and dates.

use chrono::{Datelike as _, Days, NaiveDate};
use customer_accounts::proto::{
    ContractOrderBy, ContractState, ListContractsRequest, google::r#type::Date,
};

use crate::{
    lists::execute,
    support::{
        Tenant,
        contracts::{Step, contract, term, text, to_date},
        dice::{Dice, seed},
    },
};

impl Tenant {
    /// The ids of the contracts on all pages of a list, and its total.
    async fn all_contracts(&self, mut request: ListContractsRequest) -> (Vec<String>, i32) {
        let (mut ids, mut total) = (Vec::new(), 0);
        request.include_total_size = true;
        loop {
            let page = self.contracts().list_contracts(request.clone()).await.unwrap().into_inner();
            ids.extend(page.contracts.into_iter().map(|contract| contract.contract_id));
            total = total.max(page.total_size);
            if page.next_page_token.is_empty() {
                return (ids, total);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn contracts_are_found_by_words_and_states() {
    let tenant = Tenant::with_account("2027-06-15").await;
    let named = |id: &str, title: &str| customer_accounts::proto::Contract {
        title: title.into(),
        reference: format!("REF/{id}"),
        ..contract(id, "a")
    };
    tenant.contract(named("draft", "Zürich lease")).await;
    tenant.contract(named("waits", "Lease of cars")).await;
    tenant.step("waits", Step::Submit).await.unwrap();
    tenant.approved(named("active", "Support")).await;
    tenant.approved(term("later", "a", ["2028-01-01", ""], 0, 0)).await;
    tenant.approved(term("past", "a", ["2026-01-01", "2026-12-31"], 0, 0)).await;
    tenant.approved(contract("ended", "a")).await;
    tenant.step("ended", Step::Terminate("", "")).await.unwrap();
    tenant.contract(contract("void", "a")).await;
    tenant.step("void", Step::Void("")).await.unwrap();
    let query = |query: &str| ListContractsRequest { query: query.into(), ..Default::default() };
    assert_eq!(tenant.list_contracts(query("lease")).await, ["waits", "draft"]);
    assert_eq!(tenant.list_contracts(query("zurich ref/dr")).await, ["draft"]);
    assert_eq!(tenant.list_contracts(query("nothing")).await, [""; 0]);
    for (state, id) in [
        (ContractState::Draft, "draft"),
        (ContractState::InApproval, "waits"),
        (ContractState::Scheduled, "later"),
        (ContractState::Active, "active"),
        (ContractState::Expired, "past"),
        (ContractState::Terminated, "ended"),
        (ContractState::Void, "void"),
    ] {
        let request = ListContractsRequest { states: vec![state.into()], ..Default::default() };
        assert_eq!(tenant.list_contracts(request).await, [id], "{state:?}");
    }
    let two = vec![ContractState::Void.into(), ContractState::Active.into()];
    let request = ListContractsRequest { states: two, ..Default::default() };
    assert_eq!(tenant.list_contracts(request).await, ["void", "active"]);
    // A new title has new words.
    let renamed =
        customer_accounts::proto::Contract { title: "Bikes".into(), ..contract("waits", "a") };
    tenant.update_contract(renamed, &["title"]).await.unwrap();
    assert_eq!(tenant.list_contracts(query("lease")).await, ["draft"]);
    assert_eq!(tenant.list_contracts(query("bike")).await, ["waits"]);
}

/// Random contracts are listed by term end and by deadline, page by page and filtered, as the
/// contracts themselves show these dates, on days over 30 years.
#[tokio::test]
async fn lists_by_dates_agree_with_what_the_contracts_show() {
    let seed = seed();
    let mut dice = Dice::seeded(seed);
    let tenant = Tenant::with_account("2020-01-01").await;
    let origin: NaiveDate = "2018-01-01".parse().unwrap();
    let mut roll = |sides: u64| dice.roll(sides);
    let mut rows = Vec::new();
    for n in 0..120 {
        let start = origin + Days::new(roll(1500));
        let end = (roll(6) > 0).then(|| start + Days::new(roll(900)));
        let renews = end.is_some() && roll(3) > 0;
        let months = if renews { (1 + roll(24)).to_string() } else { "NULL".into() };
        let stage = ["APPROVED", "APPROVED", "APPROVED", "DRAFT", "VOID"]
            [usize::try_from(roll(5)).unwrap()];
        // An agreed end can be before the start, and beyond the only term.
        let agreed = end.is_some() && roll(5) == 0;
        let last = match end {
            Some(_) if agreed => Some(start + Days::new(roll(1500)) - Days::new(60)),
            Some(_) if renews && roll(4) > 0 => None,
            Some(end) => Some(end + Days::new(if renews { roll(3000) } else { 0 })),
            None => None,
        };
        let date = |date: Option<NaiveDate>| date.map_or("NULL".into(), |date| format!("'{date}'"));
        let cancelled = if agreed || renews && last.is_some() { "now()" } else { "NULL" };
        rows.push(format!(
            "('c{n:03}', 'T', 't', '{stage}', '{start}'::date, {}::date, {months}::int, {}, {cancelled}::timestamptz, {}::date)",
            date(end), roll(120), date(last),
        ));
    }
    execute(
        &tenant,
        &format!(
            "INSERT INTO contracts (contract_id, account_id, incarnation, title, sort_key, reference, description, document_uri, \
             metadata, stage, start_date, end_date, renewal_months, notice_days, cancel_time, last_date, state_reason) \
             SELECT r.id, 'a', accounts.incarnation, r.title, r.key, '', '', '', '{{}}', r.stage, r.s, r.e, r.m, r.n, r.c, r.l, '' \
             FROM (VALUES {}) AS r (id, title, key, stage, s, e, m, n, c, l), accounts WHERE accounts.account_id = 'a'",
            rows.join(", ")
        ),
    )
    .await;
    let mut listed = 0;
    for round in 0..12 {
        let today = origin + Days::new(roll(11_000));
        tenant.stop_clock(&format!("{today}T12:00:00Z"));
        let everything = ListContractsRequest { page_size: 1000, ..Default::default() };
        let all =
            tenant.contracts().list_contracts(everything).await.unwrap().into_inner().contracts;
        assert_eq!(all.len(), 120);
        let from = today + Days::new(roll(200));
        let until = from + Days::new(roll(600));
        let in_force = |state| matches!(state, ContractState::Scheduled | ContractState::Active);
        let expected = |of: &dyn Fn(&customer_accounts::proto::Contract) -> Option<Date>,
                        bound: bool| {
            let dates = all.iter().filter(|contract| in_force(contract.state()));
            let mut dates: Vec<_> = dates
                .filter_map(|contract| {
                    Some((text(Some(of(contract)?)), contract.contract_id.clone()))
                })
                .filter(|(date, _)| {
                    !bound || (from.to_string() <= *date && *date <= until.to_string())
                })
                .collect();
            dates.sort();
            dates.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        for bound in [false, true] {
            let days = bound.then(|| (to_date(from), to_date(until))).unzip();
            let (ids, total) = tenant
                .all_contracts(ListContractsRequest {
                    page_size: 7,
                    order_by: ContractOrderBy::TermEndDate.into(),
                    term_end_from: days.0,
                    term_end_until: days.1,
                    ..Default::default()
                })
                .await;
            let context = format!("{round}: {today}, {from} to {until}, TEST_SEED={seed}");
            assert_eq!(ids, expected(&|it| it.term_end_date, bound), "term ends, {context}");
            assert_eq!(usize::try_from(total).unwrap(), ids.len(), "{context}");
            listed += ids.len();
            let (ids, _) = tenant
                .all_contracts(ListContractsRequest {
                    page_size: 7,
                    order_by: ContractOrderBy::NoticeDeadlineDate.into(),
                    notice_deadline_from: days.0,
                    notice_deadline_until: days.1,
                    ..Default::default()
                })
                .await;
            assert_eq!(ids, expected(&|it| it.notice_deadline_date, bound), "deadlines, {context}");
            listed += ids.len();
        }
        // In the order of titles, all of which are equal, the ids decide.
        let (ids, _) = tenant
            .all_contracts(ListContractsRequest {
                page_size: 7,
                order_by: ContractOrderBy::TitleDesc.into(),
                notice_deadline_from: Some(to_date(from)),
                notice_deadline_until: Some(to_date(until)),
                ..Default::default()
            })
            .await;
        let mut sorted = expected(&|it| it.notice_deadline_date, true);
        sorted.sort_by(|one, other| other.cmp(one));
        assert_eq!(ids, sorted, "{round}: {today}, TEST_SEED={seed}");
        assert!(today.year() < 2050);
    }
    assert!(listed > 100, "{listed}");
}
