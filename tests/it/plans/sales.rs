//! The plans of the lists of portfolios and opportunities.

use customer_accounts::proto::{ListOpportunitiesRequest, ListPortfoliosRequest};

use super::{CUSTOM_PLANS, FEW, FILL, Measured, Uses};
use crate::support::contracts::day;

/// A portfolio with one item and an opportunity for each account.
const SALES: &str = "
SET session_replication_role = replica; -- foreign keys hold by construction
INSERT INTO portfolios (tenant_id, portfolio_id, account_id, incarnation, display_name, sort_key, description, item_count, create_time)
    SELECT tenant, 'port-' || n, id, 'i', name, lower(name), '', 1, '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled;
INSERT INTO portfolio_items (tenant_id, portfolio_id, code, code_key, ordinal, display_name, description, state)
    SELECT tenant, 'port-' || n, 'svc-' || n % 500, 'svc-' || n % 500, 0, 'Service', '', CASE WHEN n % 1000 = 0 THEN 'RETIRED' ELSE 'ACTIVE' END
    FROM filled;
INSERT INTO portfolio_words (tenant_id, portfolio_id, word)
    SELECT DISTINCT tenant, 'port-' || n, unnest(ARRAY['port-' || n, n::text, first, second, 'service']) FROM filled;
INSERT INTO opportunities (tenant_id, opportunity_id, account_id, incarnation, display_name, sort_key, stage, state, uri, metadata,
    expected_close_date, contract_id, create_time)
    SELECT tenant, 'opp-' || n, id, 'i', name, lower(name), '', CASE WHEN n % 100 = 0 THEN 'WON' ELSE 'OPEN' END, '', '{}',
        '2026-01-01'::date + n % 3000, 'ctr-' || n / 10, '2026-01-01Z'::timestamptz + n * interval '1 second' FROM filled;
INSERT INTO opportunity_words (tenant_id, opportunity_id, word)
    SELECT DISTINCT tenant, 'opp-' || n, unnest(ARRAY['opp-' || n, n::text, first, second]) FROM filled;
SET session_replication_role = DEFAULT;
";

async fn measured() -> Option<Measured> {
    Measured::start_with(&format!("{FILL}{SALES}"), "the embedded server has no auto_explain").await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_portfolios_has_its_index() {
    let Some(on) = measured().await else { return };
    let all = ListPortfoliosRequest::default;
    for (request, index, by, most) in [
        (all(), "portfolios_sort_key_idx", "tenant_id", FEW),
        (
            ListPortfoliosRequest { order_by: 4, ..all() },
            "portfolios_create_time_idx",
            "tenant_id",
            FEW,
        ),
        (
            ListPortfoliosRequest { account_id: "acct-0000042".into(), ..all() },
            "portfolios_account_idx",
            "account_id = ",
            FEW,
        ),
        (
            ListPortfoliosRequest { query: "port-4242".into(), ..all() },
            "portfolio_words_word_idx",
            "(word >= ",
            FEW,
        ),
        (
            ListPortfoliosRequest { item_code: "SVC-42".into(), ..all() },
            "portfolio_items_code_idx",
            "code_key = ",
            4 * FEW,
        ),
        (
            ListPortfoliosRequest { item_states: vec![3], ..all() },
            "portfolio_items_state_idx",
            "state = ",
            3 * FEW,
        ),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            let answer = on.tenant.portfolios().list_portfolios(request.clone()).await.unwrap();
            assert!(!answer.into_inner().portfolios.is_empty(), "{request:?}");
            let plan = on.plan("ORDER BY \"portfolios\"").await;
            plan.check(&format!("{request:?}"), &Uses(index, by), most);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_opportunities_has_its_index() {
    let Some(on) = measured().await else { return };
    let all = ListOpportunitiesRequest::default;
    for (request, index, by, most) in [
        (all(), "opportunities_sort_key_idx", "tenant_id", FEW),
        (
            ListOpportunitiesRequest { order_by: 4, ..all() },
            "opportunities_create_time_idx",
            "tenant_id",
            FEW,
        ),
        (
            ListOpportunitiesRequest { account_id: "acct-0000042".into(), ..all() },
            "opportunities_account_idx",
            "account_id = ",
            FEW,
        ),
        (
            ListOpportunitiesRequest { query: "opp-4242".into(), ..all() },
            "opportunity_words_word_idx",
            "(word >= ",
            FEW,
        ),
        (
            ListOpportunitiesRequest { states: vec![2], ..all() },
            "opportunities_state_idx",
            "state = ",
            FEW,
        ),
        (
            ListOpportunitiesRequest { contract_id: "ctr-42".into(), ..all() },
            "opportunities_contract_idx",
            "contract_id = ",
            FEW,
        ),
        (
            ListOpportunitiesRequest {
                expected_close_from: day("2027-01-01"),
                expected_close_until: day("2027-01-02"),
                ..all()
            },
            "opportunities_expected_close_idx",
            "expected_close_date >= ",
            FEW,
        ),
    ] {
        for _ in 0..CUSTOM_PLANS + 2 {
            let answer =
                on.tenant.opportunities().list_opportunities(request.clone()).await.unwrap();
            assert!(!answer.into_inner().opportunities.is_empty(), "{request:?}");
            let plan = on.plan("ORDER BY \"opportunities\"").await;
            plan.check(&format!("{request:?}"), &Uses(index, by), most);
        }
    }
}
