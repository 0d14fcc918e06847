//! Opportunities: Put by a CRM whose messages come late, twice and at once.

use std::collections::BTreeMap;

use customer_accounts::proto::{
    BatchGetOpportunitiesRequest, DeleteOpportunityRequest, ListOpportunitiesRequest,
    ModuleSetting::Off, Opportunity, OpportunityState as State, PutOpportunityRequest,
    TenantSettings,
};
use futures_util::future::join_all;
use prost_types::Timestamp;
use serde_json::json;
use tonic::Status;

use crate::support::{
    Tenant, account,
    calls::{fields, metadata, only_person, staff},
    contracts::{contract, day},
    dice::{Dice, seed},
    refusal,
    sales::{money, opportunity},
    trail::replay,
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

/// So many seconds after some time.
fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 }
}

/// An opportunity `o` in this stage, as the CRM has it at a time.
fn staged(stage: &str, source_time: Option<Timestamp>) -> Opportunity {
    Opportunity { stage: stage.into(), source_time, ..opportunity("o", "a") }
}

/// An opportunity with everything that it can have.
fn full() -> Opportunity {
    Opportunity {
        stage: "Negotiation".into(),
        state: State::Won.into(),
        amount: Some(money(-12, -345_678_901, "EUR")),
        probability: Some(33.3),
        expected_close_date: day("2027-03-31"),
        close_date: day("2027-04-01"),
        uri: "https://crm.example/42".into(),
        contract_id: "c".into(),
        owner_id: "sam".into(),
        source_time: Some(Timestamp { nanos: 123_456_000, ..at(0) }),
        metadata: BTreeMap::from([("crm".into(), "42".into())]),
        ..opportunity("o", "a")
    }
}

async fn delete(tenant: &Tenant, id: &str, etag: &str) -> Result<(), Status> {
    let request = DeleteOpportunityRequest {
        opportunity_id: id.into(),
        etag: etag.into(),
        ..Default::default()
    };
    tenant.opportunities().delete_opportunity(request).await.map(drop)
}

#[tokio::test]
async fn a_put_states_all_of_an_opportunity_and_the_same_again_changes_nothing() {
    let tenant = scene().await;
    tenant.staff("sam").await;
    tenant.contract(contract("c", "a")).await;
    let first = tenant.push(full()).await.unwrap();
    assert!(first.created && !first.stale);
    let stored = first.opportunity.unwrap();
    let times = Opportunity {
        etag: stored.etag.clone(),
        create_time: stored.create_time,
        update_time: stored.update_time,
        ..full()
    };
    assert_eq!(stored, times);
    assert_eq!(tenant.get_opportunity("o").await.unwrap(), stored);
    let batch = BatchGetOpportunitiesRequest { opportunity_ids: vec!["o".into()] };
    let batch = tenant.opportunities().batch_get_opportunities(batch).await.unwrap().into_inner();
    assert_eq!(batch.opportunities, std::slice::from_ref(&stored));

    // The service keeps microseconds, so a difference in nanoseconds is no change.
    let precise = Timestamp { nanos: 123_456_789, ..at(0) };
    for same in [full(), Opportunity { source_time: Some(precise), ..full() }] {
        let again = tenant.push(same).await.unwrap();
        assert_eq!(
            (again.created, again.stale, again.opportunity.unwrap()),
            (false, false, stored.clone())
        );
    }
    let told = tenant.trail_of("o").await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].change("amount"), (&json!(null), &json!("-12.345678901 EUR")));
    assert_eq!(told[0].change("state"), (&json!(null), &json!("WON")));
    assert_eq!(told[0].account_id.as_deref(), Some("a"));

    // A put empties the fields that it leaves out. Without a source time it keeps the stored one.
    let emptied = tenant.opportunity(opportunity("o", "a")).await;
    let expected = Opportunity {
        state: State::Open.into(),
        source_time: stored.source_time,
        etag: emptied.etag.clone(),
        create_time: stored.create_time,
        update_time: emptied.update_time,
        ..opportunity("o", "a")
    };
    assert_eq!(emptied, expected);
    assert_ne!(emptied.etag, stored.etag);
    delete(&tenant, "o", &emptied.etag).await.unwrap();
    replay(&tenant).await;
}

#[tokio::test]
async fn a_message_that_is_older_than_the_stored_opportunity_is_stale() {
    let tenant = scene().await;
    let second = tenant.opportunity(staged("two", Some(at(2)))).await;
    let late = tenant.push(staged("one", Some(at(1)))).await.unwrap();
    assert_eq!((late.created, late.stale, late.opportunity), (false, true, Some(second.clone())));
    // It is answered even if it could not be carried out any more.
    let gone = Opportunity { owner_id: "gone".into(), ..staged("one", Some(at(1))) };
    assert!(tenant.push(gone).await.unwrap().stale);
    assert_eq!(tenant.trail_of("o").await.len(), 1);

    let equal = tenant.push(staged("two again", Some(at(2)))).await.unwrap();
    assert!(!equal.stale, "the last writer wins");
    let timeless = tenant.push(staged("by hand", None)).await.unwrap();
    assert_eq!(timeless.opportunity.unwrap().source_time, Some(at(2)));
    assert!(tenant.push(staged("one", Some(at(1)))).await.unwrap().stale);
    // A newer time alone is kept, or a message in between would win later.
    let newer = tenant.opportunity(staged("by hand", Some(at(4)))).await;
    assert_eq!(newer.source_time, Some(at(4)));
    assert!(tenant.push(staged("three", Some(at(3)))).await.unwrap().stale);
    // A deletion forgets the time.
    delete(&tenant, "o", "").await.unwrap();
    assert!(tenant.push(staged("one", Some(at(1)))).await.unwrap().created);
}

#[tokio::test]
async fn account_etag_and_time_are_checked_in_this_order() {
    let tenant = scene().await;
    let absent = Opportunity { etag: "x".into(), ..opportunity("o", "a") };
    assert_eq!(refusal(tenant.push(absent).await), "ETAG_MISMATCH");
    let stored = tenant.opportunity(staged("two", Some(at(2)))).await;
    let elsewhere =
        Opportunity { account_id: "b".into(), etag: "x".into(), ..staged("one", Some(at(1))) };
    let refused = tenant.push(elsewhere.clone()).await;
    assert_eq!(
        (metadata(&refused, "opportunity_id"), metadata(&refused, "resource_type")),
        ("o".into(), "opportunity".into())
    );
    assert_eq!(refusal(refused), "RECORD_OF_ANOTHER_ACCOUNT");
    let changed = Opportunity { etag: "x".into(), ..staged("one", Some(at(1))) };
    assert_eq!(refusal(tenant.push(changed).await), "ETAG_MISMATCH");
    let stale = Opportunity { etag: stored.etag.clone(), ..staged("one", Some(at(1))) };
    assert!(tenant.push(stale).await.unwrap().stale);
    let next = Opportunity { etag: stored.etag.clone(), ..staged("three", Some(at(3))) };
    let next = tenant.opportunity(next).await;
    let same = Opportunity { etag: next.etag.clone(), ..staged("three", Some(at(3))) };
    assert_eq!(tenant.opportunity(same).await, next);
    let in_a_year =
        Timestamp::from(std::time::SystemTime::now() + std::time::Duration::from_hours(365 * 24));
    let ahead = fields(tenant.push(staged("four", Some(in_a_year))).await);
    assert_eq!(ahead, ["opportunity.source_time"]);
    let nowhere = Opportunity { account_id: "x".into(), ..elsewhere };
    assert_eq!(refusal(tenant.push(nowhere).await), "ACCOUNT_NOT_FOUND");
    let trial = PutOpportunityRequest {
        opportunity: Some(staged("four", Some(at(4)))),
        validate_only: true,
        ..Default::default()
    };
    tenant.opportunities().put_opportunity(trial).await.unwrap();
    assert_eq!(tenant.get_opportunity("o").await.unwrap(), next);
}

#[tokio::test]
async fn every_rule_of_an_opportunity_is_reported_with_its_field() {
    let tenant = scene().await;
    let wrong = Opportunity {
        opportunity_id: String::new(),
        account_id: String::new(),
        display_name: String::new(),
        stage: "s".repeat(101),
        amount: Some(money(1, -1, "EURO")),
        probability: Some(100.5),
        expected_close_date: Some(customer_accounts::proto::google::r#type::Date {
            year: 2027,
            month: 2,
            day: 30,
        }),
        close_date: day("2027-01-01"),
        uri: "ftp://crm.example".into(),
        source_time: Some(Timestamp { seconds: 0, nanos: -1 }),
        ..Default::default()
    };
    let mut found = fields(tenant.push(wrong).await);
    found.sort_unstable();
    let expected = [
        "opportunity.account_id",
        "opportunity.amount.currency_code",
        "opportunity.amount.nanos",
        "opportunity.close_date",
        "opportunity.display_name",
        "opportunity.expected_close_date",
        "opportunity.opportunity_id",
        "opportunity.probability",
        "opportunity.source_time",
        "opportunity.stage",
        "opportunity.uri",
    ];
    assert_eq!(found, expected);
    for probability in [-0.1, f64::NAN, f64::INFINITY] {
        let wrong = Opportunity { probability: Some(probability), ..opportunity("o", "a") };
        assert_eq!(fields(tenant.push(wrong).await), ["opportunity.probability"]);
    }
    for probability in [0.0, -0.0, 100.0, 33.333] {
        let right = Opportunity { probability: Some(probability), ..opportunity("o", "a") };
        let stored = tenant.opportunity(right.clone()).await;
        assert_eq!(stored.probability, Some(probability + 0.0));
        assert_eq!(tenant.opportunity(right).await, stored);
    }
    for uri in [
        "https://",
        "http:///x",
        "crm.example",
        "https://a b",
        "javascript:alert(1)",
        "http://@",
        "http://:80",
        "http://[::1",
        "http://.",
        "http://%",
        "http://\\evil",
        "http://x\"><script>",
    ] {
        let wrong = Opportunity { uri: uri.into(), ..opportunity("o", "a") };
        assert_eq!(fields(tenant.push(wrong).await), ["opportunity.uri"], "{uri}");
    }
}

#[tokio::test]
async fn texts_of_an_opportunity_are_normalized() {
    const DECOMPOSED: &str = "Zu\u{308}rich";
    let tenant = scene().await;
    let wanted = Opportunity {
        display_name: DECOMPOSED.into(),
        stage: DECOMPOSED.into(),
        metadata: BTreeMap::from([("city".into(), DECOMPOSED.into())]),
        ..opportunity("o", "a")
    };
    let stored = tenant.opportunity(wanted.clone()).await;
    assert_eq!([&stored.display_name, &stored.stage, &stored.metadata["city"]], ["Zürich"; 3]);
    assert_eq!(tenant.opportunity(wanted).await, stored, "compared as it is kept");
    let id = Opportunity { opportunity_id: DECOMPOSED.into(), ..opportunity("o", "a") };
    assert_eq!(fields(tenant.push(id).await), ["opportunity.opportunity_id"]);
}

#[tokio::test]
async fn an_amount_without_a_currency_gets_the_default_of_the_tenant() {
    let tenant = scene().await;
    let worth = |amount| Opportunity { amount, ..opportunity("o", "a") };
    let refused = violations(tenant.push(worth(Some(money(5, 0, "")))).await);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, "opportunity.amount.currency_code");
    assert!(refused[0].1.starts_with("is required"), "{refused:?}");

    let default = |default_currency: &str| TenantSettings {
        default_currency: default_currency.into(),
        ..Default::default()
    };
    tenant.update_settings(default("CHF"), &["default_currency"]).await.unwrap();
    let stored = tenant.opportunity(worth(Some(money(5, 0, "")))).await;
    assert_eq!(stored.amount, Some(money(5, 0, "CHF")));
    // Compared with the currency filled in, and kept when the setting changes.
    assert_eq!(tenant.opportunity(worth(Some(money(5, 0, "")))).await, stored);
    assert_eq!(tenant.opportunity(worth(Some(money(5, 0, "CHF")))).await, stored);
    tenant.update_settings(default("JPY"), &["default_currency"]).await.unwrap();
    assert_eq!(tenant.get_opportunity("o").await.unwrap(), stored);
    // A forecast may have fractions of any minor unit, and the largest amounts are exact.
    for (units, nanos) in [(0, 1), (9_999_999_999_999, 999_999_999), (-9_999_999_999_999, -1)] {
        let stored = tenant.opportunity(worth(Some(money(units, nanos, "")))).await;
        assert_eq!(stored.amount, Some(money(units, nanos, "JPY")));
    }
    // Nothing is an amount of its own, and an empty message none.
    for (sent, kept) in
        [(Some(money(0, 0, "EUR")), Some(money(0, 0, "EUR"))), (Some(money(0, 0, "")), None)]
    {
        assert_eq!(tenant.opportunity(worth(sent)).await.amount, kept);
    }
}

#[tokio::test]
async fn owner_and_contract_are_checked_when_they_are_named() {
    let tenant = scene().await;
    tenant.staff("sam").await;
    tenant.person("ann").await;
    tenant.contract(contract("ours", "a")).await;
    tenant.contract(contract("theirs", "b")).await;
    let owned = |owner_id: &str, stage: &str| Opportunity {
        owner_id: owner_id.into(),
        ..staged(stage, None)
    };
    assert_eq!(refusal(tenant.push(owned("nobody", "")).await), "PERSON_NOT_FOUND");
    assert_eq!(refusal(tenant.push(owned("ann", "")).await), "PERSON_NOT_STAFF");
    tenant.opportunity(owned("sam", "one")).await;
    let customer = customer_accounts::proto::Person { kind: 1, ..only_person("sam") };
    tenant.update_person(customer, &["kind"]).await.unwrap();
    tenant.opportunity(owned("sam", "two")).await;
    tenant.opportunity(owned("", "three")).await;
    assert_eq!(refusal(tenant.push(owned("sam", "four")).await), "PERSON_NOT_STAFF");

    let under = |contract_id: &str| Opportunity {
        contract_id: contract_id.into(),
        ..opportunity("o", "a")
    };
    assert_eq!(refusal(tenant.push(under("x")).await), "CONTRACT_NOT_FOUND");
    let refused = tenant.push(under("theirs")).await;
    assert_eq!(
        (metadata(&refused, "contract_id"), metadata(&refused, "account_id")),
        ("theirs".into(), "a".into())
    );
    assert_eq!(refusal(refused), "CONTRACT_OF_ANOTHER_ACCOUNT");
    tenant.opportunity(under("ours")).await;
    let of = |contract_id: &str| ListOpportunitiesRequest {
        contract_id: contract_id.into(),
        ..Default::default()
    };
    assert_eq!(tenant.opportunities_of(of("ours")).await, ["o"]);
    assert_eq!(tenant.opportunities_of(of("theirs")).await, [""; 0]);
    replay(&tenant).await;
}

#[tokio::test]
async fn who_owned_an_opportunity_is_emptied_with_the_person_and_told() {
    let tenant = scene().await;
    tenant.staff("sam").await;
    for (id, account_id) in [("o1", "a"), ("o2", "b")] {
        let owned = Opportunity { owner_id: "sam".into(), ..opportunity(id, account_id) };
        tenant.opportunity(owned).await;
    }
    let before = tenant.get_opportunity("o1").await.unwrap();
    tenant.delete_person("sam", "").await.unwrap();
    let after = tenant.get_opportunity("o1").await.unwrap();
    assert!(after.owner_id.is_empty() && after.etag != before.etag, "{after:?}");
    for (id, account_id) in [("o1", "a"), ("o2", "b")] {
        let told = tenant.trail_of(id).await.pop().unwrap();
        assert_eq!(
            (&*told.action, told.account_id.as_deref()),
            ("opportunity.updated", Some(account_id))
        );
        assert_eq!(told.changes, json!([{ "field": "owner_id", "before": "sam", "after": null }]));
    }
    replay(&tenant).await;
}

#[tokio::test]
async fn opportunities_are_found_by_words_state_dates_and_account() {
    let tenant = scene().await;
    for (id, account_id, name, state, expected) in [
        ("o1", "a", "Zürich rollout", State::Open, "2027-01-31"),
        ("o2", "b", "Renewal", State::Won, "2027-02-01"),
        ("o3", "a", "Audit", State::Lost, ""),
    ] {
        let known = Opportunity {
            display_name: name.into(),
            stage: format!("Stage of {id}"),
            state: state.into(),
            expected_close_date: day(expected),
            ..opportunity(id, account_id)
        };
        tenant.opportunity(known).await;
    }
    let found =
        async |request: ListOpportunitiesRequest| tenant.opportunities_of(request).await.join(" ");
    assert_eq!(found(ListOpportunitiesRequest::default()).await, "o3 o2 o1", "by name");
    for (query, expected) in [("zur", "o1"), ("stage o2", "o2"), ("ren", "o2"), ("udit", "")] {
        let request = ListOpportunitiesRequest { query: query.into(), ..Default::default() };
        assert_eq!(found(request).await, expected, "{query}");
    }
    for (states, expected) in [(&[1][..], "o1"), (&[2, 3], "o3 o2"), (&[1, 2, 3], "o3 o2 o1")] {
        let request = ListOpportunitiesRequest { states: states.to_vec(), ..Default::default() };
        assert_eq!(found(request).await, expected, "{states:?}");
    }
    for (from, until, expected) in [
        ("2027-01-31", "", "o2 o1"),
        ("2027-02-01", "", "o2"),
        ("", "2027-01-31", "o1"),
        ("2027-01-31", "2027-02-01", "o2 o1"),
        ("2027-02-02", "", ""),
    ] {
        let request = ListOpportunitiesRequest {
            expected_close_from: day(from),
            expected_close_until: day(until),
            ..Default::default()
        };
        assert_eq!(found(request).await, expected, "{from} {until}");
    }
    for (account_id, organization_id, expected) in
        [("a", "", "o3 o1"), ("", "other", "o2"), ("a", "other", ""), ("x", "", "")]
    {
        let request = ListOpportunitiesRequest {
            account_id: account_id.into(),
            organization_id: organization_id.into(),
            ..Default::default()
        };
        assert_eq!(found(request).await, expected, "{account_id} {organization_id}");
    }
    let wrong = ListOpportunitiesRequest {
        states: vec![0],
        expected_close_from: day("2027-02-01"),
        expected_close_until: day("2027-01-31"),
        ..Default::default()
    };
    let refused = tenant.opportunities().list_opportunities(wrong).await;
    assert_eq!(fields(refused), ["states[0]", "expected_close_until"]);
}

#[tokio::test]
async fn an_opportunity_is_seen_exactly_when_its_account_is() {
    let tenant = scene().await;
    tenant.opportunity(opportunity("o", "a")).await;
    tenant.opportunity(opportunity("hidden", "b")).await;
    tenant.person("ann").await;
    tenant.identify("ann", "subject-of-ann").await;
    tenant.add_member("acme", "ann").await.unwrap();
    let ann = tenant.reaching("subject-of-ann", "editor");
    assert_eq!(ann.opportunities_of(ListOpportunitiesRequest::default()).await, ["o"]);
    ann.opportunity(staged("one", None)).await;
    assert_eq!(refusal(ann.get_opportunity("hidden").await), "OPPORTUNITY_NOT_FOUND");
    assert_eq!(refusal(ann.push(opportunity("hidden", "b")).await), "ACCOUNT_NOT_FOUND");
    assert_eq!(refusal(ann.push(opportunity("hidden", "a")).await), "RECORD_OF_ANOTHER_ACCOUNT");
    // Staff whom the caller does not see cannot be named.
    tenant.try_person(staff("sam")).await.unwrap();
    let owned = Opportunity { owner_id: "sam".into(), ..opportunity("o", "a") };
    assert_eq!(refusal(ann.push(owned).await), "PERSON_NOT_FOUND");
    // Who owns an opportunity out of reach is not the caller's to change.
    tenant.add_member("acme", "sam").await.unwrap();
    let call = |phone: &str| customer_accounts::proto::Person {
        phone: phone.into(),
        ..only_person("sam")
    };
    ann.update_person(call("1"), &["phone"]).await.unwrap();
    let elsewhere = Opportunity { owner_id: "sam".into(), ..opportunity("hidden", "b") };
    tenant.opportunity(elsewhere).await;
    assert_eq!(refusal(ann.update_person(call("2"), &["phone"]).await), "OUT_OF_REACH");

    tenant.set_module("customer_accounts", "acme", Off).await.unwrap();
    assert_eq!(refusal(tenant.get_opportunity("o").await), "MODULE_NOT_ACTIVATED");
    assert_eq!(refusal(tenant.push(opportunity("o", "a")).await), "MODULE_NOT_ACTIVATED");
    assert_eq!(tenant.opportunities_of(ListOpportunitiesRequest::default()).await, ["hidden"]);
}

#[tokio::test]
async fn opportunities_go_with_their_account() {
    let tenant = scene().await;
    tenant.contract(contract("c", "a")).await;
    for id in ["o1", "o2"] {
        tenant.opportunity(Opportunity { contract_id: "c".into(), ..opportunity(id, "a") }).await;
    }
    tenant.opportunity(opportunity("o3", "b")).await;
    let before = tenant.trail().await.len();
    tenant.delete("a", "").await.unwrap();
    let trail = tenant.trail().await;
    let gone = trail[before..].iter().filter(|it| it.action == "opportunity.deleted");
    let gone: Vec<_> = gone.map(|it| (&*it.resource_id, it.account_id.as_deref())).collect();
    assert_eq!(gone, [("o1", Some("a")), ("o2", Some("a"))]);
    assert_eq!(refusal(tenant.get_opportunity("o1").await), "OPPORTUNITY_NOT_FOUND");
    assert_eq!(refusal(tenant.push(opportunity("o1", "a")).await), "ACCOUNT_NOT_FOUND");
    tenant.get_opportunity("o3").await.unwrap();
    replay(&tenant).await;
}

/// Pushes of one id at once: one of them creates it, and the newest is what is left.
#[tokio::test]
async fn of_pushes_at_once_one_creates_and_the_newest_stays() {
    const PUSHES: i64 = 6;
    let tenant = scene().await;
    for round in 0..10 {
        let id = format!("o{round}");
        let push = |n: i64| {
            let pushed = Opportunity {
                opportunity_id: id.clone(),
                ..staged(&n.to_string(), Some(at(n % (PUSHES - 1))))
            };
            let tenant = tenant.clone();
            async move { tenant.push(pushed).await.unwrap() }
        };
        let answers = join_all((0..PUSHES).map(push)).await;
        let created = answers.iter().filter(|answer| answer.created).count();
        assert_eq!(created, 1, "{answers:#?}");
        let left = tenant.get_opportunity(&id).await.unwrap();
        assert_eq!((left.source_time, &*left.stage), (Some(at(PUSHES - 2)), "4"));
        let kept = answers.iter().filter(|answer| !answer.stale).count();
        assert_eq!(tenant.trail_of(&id).await.len(), kept);
    }
}

/// Messages of a history in any order, each at least once: what is left is the last of it.
#[tokio::test]
async fn a_history_in_any_order_ends_with_its_last_message() {
    let mut dice = Dice::seeded(seed());
    let tenant = scene().await;
    for round in 0..8 {
        let id = format!("o{round}");
        let history: Vec<_> = (0..6).map(|n| (n, format!("stage {}", dice.roll(3)))).collect();
        let mut messages = history.clone();
        messages.extend((0..4).map(|_| dice.pick(&history).clone()));
        while !messages.is_empty() {
            let (time, stage) = messages.swap_remove(dice.index(messages.len()));
            let message =
                Opportunity { opportunity_id: id.clone(), ..staged(&stage, Some(at(time))) };
            tenant.push(message).await.unwrap();
        }
        let (time, stage) = history.last().unwrap();
        let left = tenant.get_opportunity(&id).await.unwrap();
        assert_eq!((&left.stage, left.source_time), (stage, Some(at(*time))), "{history:?}");
    }
    replay(&tenant).await;
}

/// What the model keeps of an opportunity.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    account_id: String,
    stage: String,
    time: Option<i64>,
    etag: String,
}

/// What a push is answered: the reason of a refusal, or whether it created the opportunity, was
/// stale, and gave it a new etag.
type Answer = Result<(bool, bool, bool), String>;

/// The rules of Put, written down as plainly as they can be.
fn expected(kept: &mut Option<Kept>, push: &Kept) -> Answer {
    let Some(stored) = kept else {
        if !push.etag.is_empty() {
            return Err("ETAG_MISMATCH".into());
        }
        *kept = Some(push.clone());
        return Ok((true, false, true));
    };
    if stored.account_id != push.account_id {
        return Err("RECORD_OF_ANOTHER_ACCOUNT".into());
    }
    if !push.etag.is_empty() && push.etag != stored.etag {
        return Err("ETAG_MISMATCH".into());
    }
    if let (Some(new), Some(old)) = (push.time, stored.time)
        && new < old
    {
        return Ok((false, true, false));
    }
    let time = push.time.or(stored.time);
    let changes = (&stored.stage, stored.time) != (&push.stage, time);
    stored.stage.clone_from(&push.stage);
    stored.time = time;
    Ok((false, false, changes))
}

#[tokio::test]
async fn random_pushes_are_answered_as_a_naive_model_answers_them() {
    let mut dice = Dice::seeded(seed());
    let tenant = scene().await;
    let (mut kept, mut activities) = (None::<Kept>, 0);
    let mut seen = BTreeMap::<String, usize>::new();
    for step in 0..200 {
        if dice.once_in(12) && kept.is_some() {
            delete(&tenant, "o", "").await.unwrap();
            (kept, activities) = (None, activities + 1);
            continue;
        }
        let etags = [
            String::new(),
            "old".into(),
            kept.as_ref().map_or_else(String::new, |kept| kept.etag.clone()),
        ];
        let push = Kept {
            account_id: (*dice.pick(&["a", "a", "a", "a", "b"])).into(),
            stage: (*dice.pick(&["one", "two", "three"])).into(),
            time: (!dice.once_in(4)).then(|| dice.roll(8).cast_signed()),
            etag: if dice.once_in(3) { dice.pick(&etags).clone() } else { String::new() },
        };
        let before = kept.clone();
        let expected = expected(&mut kept, &push);
        let pushed = Opportunity {
            account_id: push.account_id.clone(),
            etag: push.etag.clone(),
            ..staged(&push.stage, push.time.map(at))
        };
        let answer = tenant.push(pushed).await;
        let found: Answer = match &answer {
            Ok(answer) => {
                let stored = answer.opportunity.as_ref().unwrap();
                let changed = before.as_ref().is_none_or(|before| before.etag != stored.etag);
                let kept = kept.as_mut().unwrap();
                assert_eq!(
                    (&stored.stage, stored.source_time),
                    (&kept.stage, kept.time.map(at)),
                    "step {step}"
                );
                kept.etag.clone_from(&stored.etag);
                Ok((answer.created, answer.stale, changed))
            }
            Err(status) => Err(refusal(status)),
        };
        assert_eq!(found, expected, "step {step}: {push:?} on {before:?}");
        activities += usize::from(matches!(expected, Ok((.., true))));
        *seen.entry(format!("{expected:?}")).or_default() += 1;
    }
    assert_eq!(tenant.trail_of("o").await.len(), activities);
    assert!(seen.len() >= 6, "every kind of answer comes up: {seen:?}");
    replay(&tenant).await;
}
