//! Lists of contracts: 50,000 of a tenant, of which 20,000 renew.

use customer_accounts::proto::{ContractOrderBy, ContractState, ListContractsRequest};

use super::{FEW, Measured, Uses};

const FILL: &str = "
CREATE TEMP TABLE filled AS SELECT CASE WHEN n <= 50000 THEN '$tenant' ELSE 'other-' || n % 2 END AS tenant, n
    FROM generate_series(1, 55000) AS n;
INSERT INTO organizations (tenant_id, organization_id, display_name, sort_key)
    SELECT DISTINCT tenant, 'org', 'Org', 'org' FROM filled;
INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, status)
    SELECT DISTINCT tenant, 'a' || n % 1000, 'A', 'a', 'org', 'ACTIVE' FROM filled;
INSERT INTO contracts (tenant_id, contract_id, account_id, incarnation, title, sort_key, reference, description, document_uri,
    metadata, stage, start_date, end_date, renewal_months, notice_days, last_date, state_reason)
    SELECT tenant, 'c' || n, 'a' || n % 1000, accounts.incarnation, 'Lease ' || n, 'lease ' || hashint4(n), '', 'agreed', '', '{}',
        CASE WHEN n % 5 < 2 OR n % 50 = 3 THEN 'APPROVED' WHEN n % 2 = 0 THEN 'DRAFT' ELSE 'TERMINATED' END,
        '2024-01-01'::date + n % 300, '2025-01-01'::date + n % 900, CASE WHEN n % 5 < 2 THEN 1 + n % 24 END, n % 100,
        CASE WHEN n % 5 >= 2 THEN '2025-01-01'::date + n % 900 END, ''
    FROM filled JOIN accounts ON accounts.tenant_id = tenant AND accounts.account_id = 'a' || n % 1000;
INSERT INTO contract_words (tenant_id, contract_id, word)
    SELECT tenant, 'c' || n, unnest(ARRAY['lease', 'c' || n, n::text]) FROM filled;
";

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_found_among_the_contracts_that_renew() {
    let why = "plans are those of many contracts";
    let Some(on) = Measured::start_with(FILL, why).await else { return };
    let list = async |request: ListContractsRequest| {
        let page = on.tenant.contracts().list_contracts(request.clone()).await;
        let page = page.unwrap().into_inner();
        assert!(!page.contracts.is_empty(), "{request:?}");
        page.next_page_token
    };
    let deadlines = ListContractsRequest {
        order_by: ContractOrderBy::NoticeDeadlineDate.into(),
        ..Default::default()
    };
    let mut page_token = String::new();
    for page in 0..3 {
        page_token = list(ListContractsRequest { page_token, ..deadlines.clone() }).await;
        let texts = ["\"contracts\".\"last_date\" IS NULL", "array_position"];
        let [dates, rows] = on.plans_of(texts).await;
        // All contracts that renew are read, in an order that goes back and forth between the pages
        // they are on.
        let what = format!("deadlines, page {page}");
        dates.check(&what, &Uses("contracts_renewing_idx", "tenant_id"), 8000);
        rows.check(&what, &Uses("contracts_pkey", "contract_id = ANY"), 4 * FEW);
    }
    for (what, request, uses) in [
        ("titles", ListContractsRequest::default(), Uses("contracts_sort_key_idx", "tenant_id")),
        (
            "of an account",
            ListContractsRequest { account_id: "a7".into(), ..Default::default() },
            Uses("contracts_account_idx", "account_id = "),
        ),
        (
            "a word",
            ListContractsRequest { query: "c4242".into(), ..Default::default() },
            Uses("contract_words_word_idx", "word"),
        ),
        (
            "in two states, of an account",
            ListContractsRequest {
                account_id: "a7".into(),
                states: vec![ContractState::Active.into(), ContractState::Terminated.into()],
                ..Default::default()
            },
            Uses("contracts_account_idx", "account_id = "),
        ),
    ] {
        list(request).await;
        on.plan("\"contracts\".\"title\"").await.check(what, &uses, 4 * FEW);
    }
}
