//! Portfolios and their items.

use customer_accounts::proto::{
    BatchGetPortfoliosRequest, DeletePortfolioRequest, ListPortfoliosRequest, ModuleSetting::Off,
    Portfolio, PortfolioItem, PortfolioItemState, PortfolioItemState as State,
};
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, later, metadata, only},
    refusal,
    sales::{item, portfolio},
    violations,
};

/// An organization `acme` with an account `a`, and `other` with `b`.
async fn scene() -> Tenant {
    let tenant = Tenant::new().await;
    for (organization_id, account_id) in [("acme", "a"), ("other", "b")] {
        tenant.organization(organization_id, "").await;
        tenant.account(account(account_id, organization_id)).await;
    }
    tenant
}

fn with_items(items: Vec<PortfolioItem>) -> Portfolio {
    Portfolio { items, ..portfolio("p", "a") }
}

/// A portfolio that gets a generated id.
fn unnamed() -> Portfolio {
    Portfolio { portfolio_id: String::new(), ..portfolio("p", "a") }
}

/// A portfolio with nothing but its id: for updates by mask.
fn only_portfolio(id: &str) -> Portfolio {
    Portfolio { portfolio_id: id.into(), ..Default::default() }
}

async fn delete(tenant: &Tenant, id: &str, etag: &str) -> Result<(), Status> {
    let request =
        DeletePortfolioRequest { portfolio_id: id.into(), etag: etag.into(), ..Default::default() };
    tenant.portfolios().delete_portfolio(request).await.map(drop)
}

#[tokio::test]
async fn a_portfolio_keeps_its_items_in_their_order_and_lists_leave_them_out() {
    let tenant = scene().await;
    let items = vec![
        PortfolioItem { description: "All day".into(), ..item("support", State::Active) },
        item("Hosting", State::Planned),
        PortfolioItem { state: 0, ..item("backup", State::Active) },
    ];
    let created = tenant.portfolio(with_items(items.clone())).await;
    let mut expected = items;
    expected[2].state = State::Active.into();
    assert_eq!((&created.items, created.item_count), (&expected, 3));
    assert_eq!(tenant.get_portfolio("p").await.unwrap(), created);

    let listed = Portfolio { items: vec![], ..created.clone() };
    let list = ListPortfoliosRequest { include_total_size: true, ..Default::default() };
    let list = tenant.portfolios().list_portfolios(list).await.unwrap().into_inner();
    assert_eq!((list.portfolios, list.total_size), (vec![listed.clone()], 1));
    let batch = BatchGetPortfoliosRequest { portfolio_ids: vec!["p".into(); 2] };
    let batch = tenant.portfolios().batch_get_portfolios(batch).await.unwrap().into_inner();
    assert_eq!(batch.portfolios, [listed.clone(), listed]);

    let generated = tenant.portfolio(unnamed()).await;
    assert!(generated.portfolio_id.starts_with("port_"), "{generated:?}");
    assert_eq!(
        refusal(tenant.try_portfolio(portfolio("p", "b")).await),
        "PORTFOLIO_ALREADY_EXISTS"
    );
    for id in ["x", "p"] {
        let unknown = Portfolio { account_id: "x".into(), ..portfolio(id, "") };
        assert_eq!(refusal(tenant.try_portfolio(unknown).await), "ACCOUNT_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_code_appears_once_in_a_portfolio_whatever_its_case() {
    let tenant = scene().await;
    let twice = vec![
        item("x", State::Active),
        item("Straße", State::Active),
        item("y", State::Active),
        item("STRASSE", State::Retired),
    ];
    let found = violations(tenant.try_portfolio(with_items(twice.clone())).await);
    let expected = ("portfolio.items[3].code".to_owned(), "is the code of items[1]".to_owned());
    assert_eq!(found, std::slice::from_ref(&expected));
    tenant.portfolio(with_items(vec![item("x", State::Active)])).await;
    let found = violations(tenant.update_portfolio(with_items(twice), &["items"]).await);
    assert_eq!(found, [expected]);
    tenant
        .portfolio(Portfolio {
            portfolio_id: "q".into(),
            ..with_items(vec![item("X", State::Active)])
        })
        .await;
}

#[tokio::test]
async fn every_rule_of_a_portfolio_is_reported_with_its_field() {
    let tenant = scene().await;
    let wrong = Portfolio {
        display_name: " x".into(),
        description: "d".repeat(2001),
        items: vec![
            PortfolioItem {
                code: "c".repeat(51),
                display_name: String::new(),
                description: "d".repeat(1001),
                state: 9,
            },
            PortfolioItem { code: String::new(), ..item("", State::Active) },
        ],
        ..portfolio("p", "")
    };
    let expected = [
        "portfolio.account_id",
        "portfolio.display_name",
        "portfolio.description",
        "portfolio.items[0].code",
        "portfolio.items[0].display_name",
        "portfolio.items[0].description",
        "portfolio.items[0].state",
        "portfolio.items[1].code",
        "portfolio.items[1].display_name",
    ];
    assert_eq!(fields(tenant.try_portfolio(wrong).await), expected);
    let many = (0..201).map(|n| item(&n.to_string(), State::Active)).collect();
    assert_eq!(fields(tenant.try_portfolio(with_items(many)).await), ["portfolio.items"]);
    let all = (0..200).map(|n| item(&n.to_string(), State::Active)).collect();
    assert_eq!(tenant.portfolio(with_items(all)).await.item_count, 200);
    let states = ListPortfoliosRequest { item_states: vec![0, 7], ..Default::default() };
    let answer = tenant.portfolios().list_portfolios(states).await;
    assert_eq!(fields(answer), ["item_states[0]", "item_states[1]"]);
}

/// UAT-C-CA-PORTFOLIO-001: the services of an account are maintained, and everyone can read who
/// has retired one.
#[tokio::test]
async fn uat_c_ca_portfolio_001() {
    let tenant = scene().await;
    let items = vec![item("hosting", State::Planned), item("backup", State::Active)];
    let created = tenant.with_roles("editor").portfolio(with_items(items)).await;
    let offered = vec![item("hosting", State::Active), item("backup", State::Active)];
    let offered = Portfolio { items: offered, etag: created.etag, ..only_portfolio("p") };
    let updated = tenant.with_roles("editor").update_portfolio(offered.clone(), &["items"]).await;
    assert_eq!(updated.unwrap().items, offered.items);
    // The etag that the caller has is that of the portfolio before.
    let again = tenant.update_portfolio(offered, &["items"]).await;
    assert_eq!(refusal(again), "ETAG_MISMATCH");

    let retired = vec![item("hosting", State::Active), item("backup", State::Retired)];
    let retired = Portfolio { items: retired, ..only_portfolio("p") };
    let ann = tenant.with_actor("ann");
    let last = ann.update_portfolio(retired.clone(), &["items"]).await.unwrap();
    let trail = tenant.trail_of("p").await;
    let told = trail.last().unwrap();
    assert_eq!((&*told.actor, &*told.action), ("ann", "portfolio.updated"));
    assert_eq!(told.account_id.as_deref(), Some("a"));
    assert_eq!(
        told.changes,
        json!([{ "field": "items[backup].state", "before": "ACTIVE", "after": "RETIRED" }])
    );
    assert_eq!(
        trail[1].changes,
        json!([{ "field": "items[hosting].state", "before": "PLANNED", "after": "ACTIVE" }])
    );

    // The same again is no change, and a retired service may come back.
    let same = ann.update_portfolio(retired, &["items"]).await.unwrap();
    assert_eq!(same, last);
    assert_eq!(tenant.trail_of("p").await.len(), 3);
    let back = vec![item("hosting", State::Active), item("backup", State::Planned)];
    let back = Portfolio { items: back, ..only_portfolio("p") };
    let back = tenant.update_portfolio(back, &["items"]).await.unwrap();
    assert!(back.etag != last.etag && later(back.update_time, last.update_time));

    let viewer = tenant.with_roles("viewer");
    assert_eq!(viewer.get_portfolio("p").await.unwrap(), back);
    let refused = viewer.update_portfolio(only_portfolio("p"), &["description"]).await;
    assert_eq!(refusal(refused), "PERMISSION_DENIED");
    let editor = tenant.with_roles("editor");
    assert_eq!(refusal(delete(&editor, "p", "").await), "PERMISSION_DENIED");
    assert_eq!(refusal(delete(&tenant, "p", &last.etag).await), "ETAG_MISMATCH");
    delete(&tenant, "p", &back.etag).await.unwrap();
    let gone = tenant.get_portfolio("p").await;
    assert_eq!(metadata(&gone, "portfolio_id"), "p");
    assert_eq!(refusal(gone), "PORTFOLIO_NOT_FOUND");
    let told = tenant.trail_of("p").await;
    let deleted = told.last().unwrap();
    assert_eq!(deleted.action, "portfolio.deleted");
    assert_eq!(deleted.change("items[backup].state"), (&json!("PLANNED"), &json!(null)));
}

/// Items that come, go and change their place are told by their codes.
#[tokio::test]
async fn the_trail_tells_which_items_come_go_and_move() {
    let tenant = scene().await;
    tenant.portfolio(with_items(vec![item("x", State::Active), item("y", State::Active)])).await;
    let update = async |codes: &[&str]| {
        let items = codes.iter().map(|code| item(code, State::Active)).collect();
        tenant.update_portfolio(with_items(items), &["items"]).await.unwrap();
        tenant.trail_of("p").await.pop().unwrap()
    };
    let moved = update(&["y", "x"]).await;
    assert_eq!(
        moved.changes,
        json!([{ "field": "items", "before": ["x", "y"], "after": ["y", "x"] }])
    );
    let replaced = update(&["y", "z"]).await;
    assert_eq!(replaced.change("items[x].state"), (&json!("ACTIVE"), &json!(null)));
    assert_eq!(replaced.change("items[z].display_name"), (&json!(null), &json!("z")));
    let emptied = update(&[]).await;
    assert_eq!(emptied.change("items"), (&json!(["y", "z"]), &json!(null)));
}

#[tokio::test]
async fn portfolios_are_found_by_words_items_account_and_organization() {
    let tenant = scene().await;
    tenant.organization("below", "acme").await;
    tenant.account(account("c", "below")).await;
    for (id, account_id, name, items) in [
        (
            "p1",
            "a",
            "Zürich services",
            vec![item("net-1", State::Active), item("db", State::Retired)],
        ),
        ("p2", "b", "Other", vec![item("NET-1", State::Planned)]),
        ("p3", "c", "Empty", vec![]),
    ] {
        let named = Portfolio { display_name: name.into(), items, ..portfolio(id, account_id) };
        tenant.portfolio(named).await;
    }
    let found =
        async |request: ListPortfoliosRequest| tenant.portfolios_of(request).await.join(" ");
    let query = |query: &str| ListPortfoliosRequest { query: query.into(), ..Default::default() };
    assert_eq!(found(ListPortfoliosRequest::default()).await, "p3 p2 p1", "by name");
    for (words, expected) in
        [("zur", "p1"), ("net-", "p2 p1"), ("p3", "p3"), ("db serv", "p1"), ("et", "")]
    {
        assert_eq!(found(query(words)).await, expected, "{words}");
    }
    let by_item = |code: &str, states: &[PortfolioItemState]| ListPortfoliosRequest {
        item_code: code.into(),
        item_states: states.iter().map(|state| (*state).into()).collect(),
        ..Default::default()
    };
    for (code, states, expected) in [
        ("Net-1", &[][..], "p2 p1"),
        ("net-1", &[State::Planned], "p2"),
        ("db", &[State::Active], ""),
        ("", &[State::Active, State::Planned], "p2 p1"),
        ("", &[State::Retired], "p1"),
        ("net", &[], ""),
    ] {
        assert_eq!(found(by_item(code, states)).await, expected, "{code} {states:?}");
    }
    let of = |account: &str, organization: &str, include_descendants| ListPortfoliosRequest {
        account_id: account.into(),
        organization_id: organization.into(),
        include_descendants,
        ..Default::default()
    };
    for (account, organization, below, expected) in [
        ("a", "", false, "p1"),
        ("", "acme", false, "p1"),
        ("", "acme", true, "p3 p1"),
        ("b", "acme", true, ""),
        ("nobody", "", false, ""),
    ] {
        assert_eq!(
            found(of(account, organization, below)).await,
            expected,
            "{account} {organization}"
        );
    }
    // Words are those of the present items.
    tenant.update_portfolio(only_portfolio("p1"), &["items"]).await.unwrap();
    assert_eq!(found(query("net-")).await, "p2");
}

#[tokio::test]
async fn a_portfolio_is_seen_exactly_when_its_account_is() {
    let tenant = scene().await;
    tenant.portfolio(portfolio("p", "a")).await;
    tenant.portfolio(portfolio("q", "b")).await;
    tenant.person("ann").await;
    tenant.identify("ann", "subject-of-ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    let ann = tenant.reaching("subject-of-ann", "editor");
    assert_eq!(ann.portfolios_of(ListPortfoliosRequest::default()).await, ["p"]);
    ann.get_portfolio("p").await.unwrap();
    ann.update_portfolio(portfolio("p", "a"), &["display_name"]).await.unwrap();
    let update = ann.update_portfolio(portfolio("q", "b"), &["display_name"]).await;
    for answer in [refusal(ann.get_portfolio("q").await), refusal(update)] {
        assert_eq!(answer, "PORTFOLIO_NOT_FOUND");
    }
    assert_eq!(refusal(ann.try_portfolio(portfolio("r", "b")).await), "ACCOUNT_NOT_FOUND");
    let elsewhere = ListPortfoliosRequest { account_id: "b".into(), ..Default::default() };
    assert_eq!(ann.portfolios_of(elsewhere).await, [""; 0]);

    tenant.set_module("portfolios", "acme", Off).await.unwrap();
    for answer in [
        refusal(tenant.get_portfolio("p").await),
        refusal(ann.get_portfolio("p").await),
        refusal(delete(&tenant, "p", "").await),
        refusal(tenant.try_portfolio(portfolio("r", "a")).await),
    ] {
        assert_eq!(answer, "MODULE_NOT_ACTIVATED");
    }
    assert_eq!(tenant.portfolios_of(ListPortfoliosRequest::default()).await, ["q"]);
    assert_eq!(ann.portfolios_of(ListPortfoliosRequest::default()).await, [""; 0]);
}

#[tokio::test]
async fn a_portfolio_stays_with_its_account_whatever_its_status_and_goes_with_it() {
    let tenant = scene().await;
    tenant.portfolio(with_items(vec![item("x", State::Active)])).await;
    tenant.portfolio(portfolio("q", "a")).await;
    let moved = tenant.update_portfolio(portfolio("p", "b"), &["account_id"]).await;
    let expected = (
        "portfolio.account_id".to_owned(),
        "cannot be changed: a portfolio stays with its account".to_owned(),
    );
    assert_eq!(violations(moved), [expected]);
    let same = tenant.update_portfolio(portfolio("p", "a"), &["account_id"]).await.unwrap();
    assert_eq!(same.account_id, "a");
    for status in [2, 3] {
        tenant
            .update(customer_accounts::proto::Account { status, ..only("a") }, &["status"])
            .await
            .unwrap();
        tenant.portfolio(unnamed()).await;
    }
    let before = tenant.trail().await.len();
    tenant.delete("a", "").await.unwrap();
    let trail = tenant.trail().await;
    let gone: Vec<_> =
        trail[before..].iter().filter(|it| it.action == "portfolio.deleted").collect();
    assert_eq!(gone.len(), 4, "{gone:#?}");
    assert!(gone.iter().all(|it| it.account_id.as_deref() == Some("a")));
    let of_p = gone.iter().find(|it| it.resource_id == "p").unwrap();
    assert_eq!(of_p.change("items[x].state"), (&json!("ACTIVE"), &json!(null)));
    assert_eq!(refusal(tenant.get_portfolio("p").await), "PORTFOLIO_NOT_FOUND");
    tenant.account(account("a", "acme")).await;
    tenant.portfolio(portfolio("p", "a")).await;
}
