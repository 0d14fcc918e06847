//! Contracts: their steps, their dates, what can be changed when, and the life of their account.

mod lists;
mod setups;

use std::collections::BTreeMap;

use customer_accounts::proto::{
    Account, AccountStatus, Contract, DeleteAccountRequest, DeliverySetupState,
    ListContractsRequest, ModuleSetting, TenantSettings, google::r#type::Money,
};
use futures_util::future::join_all;
use tonic::{Code, Status};

use crate::support::{
    Tenant, account,
    calls::{fields, metadata, only, preconditions},
    contracts::{Step, contract, setup, state, term, text},
    refusal, violations,
};

impl Tenant {
    pub async fn force_delete(&self, id: &str) -> Result<(), Status> {
        let account_id = id.into();
        let request = DeleteAccountRequest { account_id, force: true, ..Default::default() };
        self.accounts().delete_account(request).await.map(|_| ())
    }

    async fn set_status(&self, id: &str, status: AccountStatus) {
        let account = Account { status: status.into(), ..only(id) };
        self.update(account, &["status"]).await.unwrap();
    }
}

const STEPS: [Step; 7] = [
    Step::Submit,
    Step::Approve,
    Step::Reject("no"),
    Step::Void("no"),
    Step::Cancel("no", ""),
    Step::Uncancel,
    Step::Terminate("no", ""),
];

/// A state, the dates of a contract, the steps by which it comes from a draft to that state, and the
/// states to which each of [`STEPS`] leads from there (empty: refused).
type Row<'a> = (&'a str, [&'a str; 2], &'a [Step], [&'a str; 7]);

#[tokio::test]
async fn every_step_is_taken_or_refused_as_its_state_says() {
    let now = ["2027-01-01", "2027-12-31"];
    let (later, past) = (["2028-01-01", "2028-12-31"], ["2026-01-01", "2026-12-31"]);
    let submit = [Step::Submit];
    let approve = [Step::Submit, Step::Approve];
    let cancel = [Step::Submit, Step::Approve, Step::Cancel("no", "")];
    let end = [Step::Submit, Step::Approve, Step::Terminate("no", "")];
    let rows: [Row; 9] = [
        ("DRAFT", now, &[], ["IN_APPROVAL", "", "", "VOID", "", "", ""]),
        ("IN_APPROVAL", now, &submit, ["", "ACTIVE", "DRAFT", "", "", "", ""]),
        ("SCHEDULED", later, &approve, ["", "", "", "", "SCHEDULED", "", "TERMINATED"]),
        ("SCHEDULED", later, &cancel, ["", "", "", "", "", "SCHEDULED", "TERMINATED"]),
        ("ACTIVE", now, &approve, ["", "", "", "", "ACTIVE", "", "TERMINATED"]),
        ("ACTIVE", now, &cancel, ["", "", "", "", "", "ACTIVE", "TERMINATED"]),
        ("EXPIRED", past, &approve, [""; 7]),
        ("TERMINATED", now, &end, [""; 7]),
        ("VOID", now, &[Step::Void("no")], [""; 7]),
    ];
    let calls = ["Submit", "Approve", "Reject", "Void", "Cancel", "Uncancel", "Terminate"];
    let tenant = Tenant::with_account("2027-06-15").await;
    for (row, (from, days, steps, expected)) in rows.iter().enumerate() {
        let allowed = calls.iter().zip(expected).filter(|(_, to)| !to.is_empty());
        let allowed: Vec<_> = allowed.map(|(call, _)| format!("{call}Contract")).collect();
        for ((step, call), to) in STEPS.iter().zip(calls).zip(expected) {
            let id = format!("{row}-{call}");
            tenant.contract(term(&id, "a", *days, 12, 30)).await;
            if *from == "EXPIRED" {
                // A contract that renews does not expire.
                let fixed = Contract { contract_id: id.clone(), ..Default::default() };
                tenant.update_contract(fixed, &["auto_renewal"]).await.unwrap();
            }
            for before in *steps {
                tenant.step(&id, *before).await.unwrap();
            }
            let before = tenant.get_contract(&id).await.unwrap();
            assert_eq!(state(&before), *from, "{id}");
            let answer = tenant.step(&id, *step).await;
            if !to.is_empty() {
                let moved = answer.unwrap();
                assert_eq!(state(&moved), *to, "{id}");
                assert_eq!(tenant.get_contract(&id).await.unwrap(), moved, "{id}");
                continue;
            }
            let status = answer.unwrap_err();
            assert_eq!(refusal(&status), "CONTRACT_STATE_TRANSITION", "{id}");
            assert_eq!(metadata(&status, "state"), *from, "{id}");
            assert_eq!(metadata(&status, "call"), format!("{call}Contract"), "{id}");
            assert_eq!(metadata(&status, "allowed"), allowed.join(","), "{id}");
            assert_eq!(metadata(&status, "contract_id"), id);
            assert_eq!(preconditions(&status)[0].1, format!("contract/{id}"));
            assert_eq!(tenant.get_contract(&id).await.unwrap(), before, "{id} is as it was");
        }
    }
}

#[tokio::test]
async fn a_late_notice_costs_a_term_and_can_be_taken_back() {
    let tenant = Tenant::with_account("2026-10-02").await;
    tenant.approved(term("c", "a", ["2026-01-01", "2026-12-31"], 12, 90)).await;
    let in_time = tenant.step("c", Step::Cancel("in time", "")).await.unwrap();
    assert_eq!(text(in_time.effective_end_date), "2026-12-31");
    assert!(in_time.cancel_time.is_some() && in_time.notice_deadline_date.is_none());
    let back = tenant.step("c", Step::Uncancel).await.unwrap();
    assert_eq!(text(back.notice_deadline_date), "2026-10-02");
    assert!(back.cancel_time.is_none() && back.effective_end_date.is_none());
    // A day later the notice is late.
    tenant.stop_clock("2026-10-03T12:00:00Z");
    let late = tenant.step("c", Step::Cancel("late", "")).await.unwrap();
    assert_eq!((state(&late), &*late.state_reason), ("ACTIVE", "late"));
    assert_eq!(text(late.effective_end_date), "2027-12-31");
    // Time goes on, and nothing is written.
    for (today, expected, term_end) in [
        ("2026-12-31", "ACTIVE", "2026-12-31"),
        ("2027-12-31", "ACTIVE", "2027-12-31"),
        ("2028-01-01", "EXPIRED", "2027-12-31"),
    ] {
        tenant.stop_clock(&format!("{today}T12:00:00Z"));
        let found = tenant.get_contract("c").await.unwrap();
        assert_eq!((state(&found), &*text(found.term_end_date)), (expected, term_end), "{today}");
        assert_eq!((&found.etag, found.update_time), (&late.etag, late.update_time));
    }
}

#[tokio::test]
async fn ends_that_are_agreed_or_at_once() {
    let tenant = Tenant::with_account("2027-03-01").await;
    tenant.approved(term("c", "a", ["2026-01-01", "2026-12-31"], 12, 90)).await;
    let past = tenant.step("c", Step::Cancel("", "2027-02-28")).await;
    assert_eq!(fields(past), ["end_date"]);
    let agreed = tenant.step("c", Step::Cancel("agreed", "2027-04-30")).await.unwrap();
    assert_eq!(text(agreed.effective_end_date), "2027-04-30");
    for (last, rule) in [
        ("2027-03-02", "must not be after today: use CancelContract"),
        ("2025-12-31", "must not be before the start_date of the contract"),
    ] {
        let found = violations(tenant.step("c", Step::Terminate("", last)).await);
        assert_eq!(found, [("termination_date".to_owned(), rule.to_owned())]);
    }
    let ended = tenant.step("c", Step::Terminate("broken", "2027-02-15")).await.unwrap();
    assert_eq!((state(&ended), &*text(ended.effective_end_date)), ("TERMINATED", "2027-02-15"));
    // One that has not begun has no last day.
    tenant.approved(term("later", "a", ["2028-01-01", "2028-12-31"], 0, 0)).await;
    assert_eq!(
        fields(tenant.step("later", Step::Terminate("", "2027-03-01")).await),
        ["termination_date"]
    );
    let never = tenant.step("later", Step::Terminate("", "")).await.unwrap();
    assert_eq!((state(&never), never.effective_end_date), ("TERMINATED", None));
    // Approval says when a contract begins that does not say it: today, or its end.
    let open = tenant.approved(contract("open", "a")).await;
    assert_eq!((state(&open), &*text(open.start_date)), ("ACTIVE", "2027-03-01"));
    let history = tenant.approved(term("old", "a", ["", "2020-05-31"], 0, 0)).await;
    assert_eq!((state(&history), &*text(history.start_date)), ("EXPIRED", "2020-05-31"));
}

#[tokio::test]
async fn words_change_at_any_time_and_terms_in_drafts_only() {
    let tenant = Tenant::with_account("2027-06-15").await;
    let money = |units| Some(Money { currency_code: "EUR".into(), units, nanos: 0 });
    let draft =
        Contract { value: money(1000), ..term("c", "a", ["2027-01-01", "2027-12-31"], 6, 30) };
    tenant.contract(draft.clone()).await;
    let other = Contract { value: money(2000), notice_days: 60, ..draft.clone() };
    let changed = tenant.update_contract(other.clone(), &["value", "notice_days"]).await.unwrap();
    assert_eq!((changed.value, changed.notice_days), (money(2000), 60));
    tenant.step("c", Step::Submit).await.unwrap();
    tenant.step("c", Step::Approve).await.unwrap();
    let words = Contract {
        title: "New".into(),
        reference: "R-1".into(),
        document_uri: "https://docs.example/1.pdf".into(),
        metadata: BTreeMap::from([("crm".into(), "1".into())]),
        ..other.clone()
    };
    // All fields are sent, and the terms are what they are.
    let updated = tenant.update_contract(words.clone(), &[]).await.unwrap();
    assert_eq!((&*updated.title, &*updated.reference), ("New", "R-1"));
    let fixed = Contract { value: money(3000), renewal_months: 3, ..words };
    let status = tenant.update_contract(fixed, &[]).await.unwrap_err();
    assert_eq!(refusal(&status), "CONTRACT_TERMS_FIXED");
    assert_eq!(metadata(&status, "fields"), "value,renewal_months");
    assert_eq!(metadata(&status, "state"), "ACTIVE");
    assert_eq!(tenant.get_contract("c").await.unwrap(), updated);
}

#[tokio::test]
async fn terms_that_make_no_sense_are_refused() {
    let tenant = Tenant::with_account("2027-06-15").await;
    let good = || term("c", "a", ["2027-01-01", "2027-12-31"], 12, 30);
    let money = |code: &str, nanos| Some(Money { currency_code: code.into(), units: 1, nanos });
    for (bad, field) in [
        (Contract { title: String::new(), ..good() }, "contract.title"),
        (
            Contract { document_uri: "javascript:alert(1)".into(), ..good() },
            "contract.document_uri",
        ),
        (Contract { document_uri: "https://".into(), ..good() }, "contract.document_uri"),
        (term("c", "a", ["2027-01-01", "2026-12-31"], 0, 0), "contract.end_date"),
        (term("c", "a", ["2027-01-01", ""], 12, 0), "contract.auto_renewal"),
        (Contract { auto_renewal: false, ..good() }, "contract.renewal_months"),
        (Contract { renewal_months: 121, ..good() }, "contract.renewal_months"),
        (Contract { renewal_months: -1, ..good() }, "contract.renewal_months"),
        (Contract { notice_days: 1001, ..good() }, "contract.notice_days"),
        (Contract { notice_days: -1, ..good() }, "contract.notice_days"),
        (Contract { value: money("EUR", 1_000_000), ..good() }, "contract.value"),
        (Contract { value: money("", 0), ..good() }, "contract.value.currency_code"),
    ] {
        assert_eq!(fields(tenant.try_contract(bad).await), [field]);
    }
    let settings = TenantSettings { default_currency: "CHF".into(), ..Default::default() };
    tenant.update_settings(settings, &["default_currency"]).await.unwrap();
    let kept = tenant.contract(Contract { renewal_months: 0, value: money("", 0), ..good() }).await;
    assert_eq!((kept.renewal_months, kept.value), (12, money("CHF", 0)));
    let taken = tenant.try_contract(good()).await;
    assert_eq!(refusal(taken), "CONTRACT_ALREADY_EXISTS");
    let other = Contract { account_id: "b".into(), ..contract("c", "b") };
    let refused = violations(tenant.update_contract(other, &["account_id"]).await);
    assert_eq!(refused[0].0, "contract.account_id");
}

#[tokio::test]
async fn of_twenty_approvals_at_once_one_succeeds() {
    let tenant = Tenant::with_account("2027-06-15").await;
    tenant.contract(contract("c", "a")).await;
    tenant.step("c", Step::Submit).await.unwrap();
    let answers = join_all((0..20).map(|_| tenant.step("c", Step::Approve))).await;
    let (approved, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((approved.len(), refused.len()), (1, 19));
    for status in refused {
        assert_eq!(refusal(status), "CONTRACT_STATE_TRANSITION");
    }
    let approvals = tenant.trail_of("c").await;
    let approvals = approvals.iter().filter(|it| it.method.ends_with("/ApproveContract"));
    assert_eq!(approvals.count(), 1);
}

#[tokio::test]
async fn a_step_checks_the_etag() {
    let tenant = Tenant::with_account("2027-06-15").await;
    let draft = tenant.contract(contract("c", "a")).await;
    tenant
        .update_contract(
            Contract { description: "d".into(), ..contract("c", "a") },
            &["description"],
        )
        .await
        .unwrap();
    let request = customer_accounts::proto::SubmitContractRequest {
        contract_id: "c".into(),
        etag: draft.etag,
        ..Default::default()
    };
    assert_eq!(refusal(tenant.contracts().submit_contract(request).await), "ETAG_MISMATCH");
}

#[tokio::test]
async fn an_inactive_account_gets_no_new_contracts_and_keeps_those_it_has() {
    let tenant = Tenant::with_account("2027-06-15").await;
    for id in ["draft", "waits", "rejected"] {
        tenant.contract(contract(id, "a")).await;
    }
    for id in ["waits", "rejected"] {
        tenant.step(id, Step::Submit).await.unwrap();
    }
    tenant.approved(contract("runs", "a")).await;
    tenant.set_status("a", AccountStatus::Suspended).await;
    tenant.contract(contract("suspended", "a")).await;
    tenant.set_status("a", AccountStatus::Inactive).await;
    for status in [
        tenant.try_contract(contract("new", "a")).await.unwrap_err(),
        tenant.step("draft", Step::Submit).await.unwrap_err(),
        tenant.step("waits", Step::Approve).await.unwrap_err(),
    ] {
        assert_eq!(refusal(&status), "ACCOUNT_NOT_ACTIVE");
        assert_eq!(metadata(&status, "status"), "INACTIVE");
    }
    tenant.step("rejected", Step::Reject("no")).await.unwrap();
    tenant.step("rejected", Step::Void("no")).await.unwrap();
    tenant.step("runs", Step::Cancel("no", "")).await.unwrap();
    tenant.step("runs", Step::Uncancel).await.unwrap();
    tenant.step("runs", Step::Terminate("no", "")).await.unwrap();
}

#[tokio::test]
async fn an_account_with_a_contract_in_force_is_deleted_by_force_only() {
    let tenant = Tenant::with_account("2027-06-15").await;
    for n in 0..22 {
        tenant.approved(contract(&format!("c{n:02}"), "a")).await;
    }
    tenant.contract(contract("draft", "a")).await;
    tenant.setup(setup("s", "c00", "p")).await;
    let status = tenant.delete("a", "").await.unwrap_err();
    assert_eq!(
        (refusal(&status), metadata(&status, "contracts")),
        ("ACCOUNT_IN_USE".into(), "22".into())
    );
    let named = preconditions(&status);
    assert_eq!((named.len(), &*named[0].1), (20, "contract/c00"));
    tenant.force_delete("a").await.unwrap();
    assert_eq!(refusal(tenant.get_contract("c00").await), "CONTRACT_NOT_FOUND");
    let deleted = |kind: &'static str| {
        let tenant = tenant.clone();
        async move {
            let trail = tenant.trail().await;
            trail.iter().filter(|it| it.action == format!("{kind}.deleted")).count()
        }
    };
    assert_eq!((deleted("contract").await, deleted("delivery_setup").await), (23, 1));
    // What is not in force goes along without force.
    tenant.account(account("b", "acme")).await;
    tenant.contract(contract("draft", "b")).await;
    tenant.delete("b", "").await.unwrap();
    assert_eq!(refusal(tenant.get_contract("draft").await), "CONTRACT_NOT_FOUND");
}

#[tokio::test]
async fn nothing_dangles_when_an_account_is_deleted_while_it_gets_a_contract() {
    let tenant = Tenant::with_account("2027-06-15").await;
    for round in 0..20 {
        let id = format!("b{round}");
        tenant.account(account(&id, "acme")).await;
        let (created, deleted) =
            tokio::join!(tenant.try_contract(contract(&id, &id)), tenant.delete(&id, ""));
        deleted.unwrap();
        if let Err(status) = created {
            assert_eq!(refusal(status), "ACCOUNT_NOT_FOUND");
        }
        assert_eq!(refusal(tenant.get_contract(&id).await), "CONTRACT_NOT_FOUND", "{id}");
    }
}

#[tokio::test]
async fn a_contract_is_seen_exactly_when_its_account_is() {
    let (tenant, manager) = Tenant::regions().await;
    for id in ["oslo", "rome"] {
        tenant.contract(contract(id, &format!("{id}-account"))).await;
        tenant.setup(setup(id, id, id)).await;
    }
    assert_eq!(manager.list_contracts(ListContractsRequest::default()).await, ["oslo"]);
    assert!(manager.get_contract("oslo").await.is_ok());
    assert_eq!(refusal(manager.get_contract("rome").await), "CONTRACT_NOT_FOUND");
    assert_eq!(refusal(manager.step("rome", Step::Submit).await), "CONTRACT_NOT_FOUND");
    manager.step("oslo", Step::Submit).await.unwrap();
    manager.step("oslo", Step::Approve).await.unwrap();
    let viewer = manager.with_roles("viewer");
    assert_eq!(
        viewer.step("oslo", Step::Terminate("", "")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    tenant.set_module("contracts", "oslo", ModuleSetting::Off).await.unwrap();
    assert_eq!(refusal(tenant.get_contract("oslo").await), "MODULE_NOT_ACTIVATED");
    assert_eq!(tenant.list_contracts(ListContractsRequest::default()).await, ["rome"]);
    assert_eq!(manager.list_contracts(ListContractsRequest::default()).await, [""; 0]);
}

/// "Create, submit, approve, cancel and terminate a contract; every step is on record; illegal steps
/// are refused with the allowed ones."
#[tokio::test]
async fn uat_c_ca_lifecycle_001_a_contract_from_draft_to_its_end() {
    let tenant = Tenant::with_account("2026-10-03").await;
    let writer = tenant.with_roles("editor").with_actor("writer");
    let boss = tenant.with_roles("editor").with_actor("boss");
    let draft = writer.contract(term("c", "a", ["2026-01-01", "2026-12-31"], 12, 90)).await;
    assert_eq!(state(&draft), "DRAFT");
    let status = boss.step("c", Step::Approve).await.unwrap_err();
    assert_eq!(metadata(&status, "allowed"), "SubmitContract,VoidContract");
    assert_eq!(writer.step("c", Step::Submit).await.unwrap().submitter, "writer");
    let rejected = boss.step("c", Step::Reject("price")).await.unwrap();
    assert_eq!((state(&rejected), &*rejected.state_reason), ("DRAFT", "price"));
    assert_eq!(writer.step("c", Step::Submit).await.unwrap().state_reason, "");
    let active = boss.step("c", Step::Approve).await.unwrap();
    assert_eq!((state(&active), &*active.approver), ("ACTIVE", "boss"));
    writer.setup(setup("s", "c", "p-1")).await;
    writer.move_setup("s", DeliverySetupState::Ready).await.unwrap();
    writer.move_setup("s", DeliverySetupState::Active).await.unwrap();
    let late = writer.step("c", Step::Cancel("moving on", "")).await.unwrap();
    assert_eq!(text(late.effective_end_date), "2027-12-31");
    writer.step("c", Step::Uncancel).await.unwrap();
    boss.step("c", Step::Terminate("insolvent", "")).await.unwrap();
    let trail = tenant.trail_of("c").await;
    let steps: Vec<_> = trail
        .iter()
        .map(|it| {
            let method = it.method.rsplit('/').next().unwrap();
            let changes = it.changes.as_array().unwrap();
            let state = changes.iter().find(|change| change["field"] == "state");
            let state = state.map_or_else(String::new, |change| {
                format!(" {}>{}", change["before"], change["after"]).replace('"', "")
            });
            assert_eq!(it.account_id.as_deref(), Some("a"));
            format!("{} {method}{state}", it.actor)
        })
        .collect();
    assert_eq!(
        steps,
        [
            "writer CreateContract null>DRAFT",
            "writer SubmitContract DRAFT>IN_APPROVAL",
            "boss RejectContract IN_APPROVAL>DRAFT",
            "writer SubmitContract DRAFT>IN_APPROVAL",
            "boss ApproveContract IN_APPROVAL>APPROVED",
            "writer CancelContract",
            "writer UncancelContract",
            "boss TerminateContract APPROVED>TERMINATED",
        ]
    );
    crate::support::trail::replay(&tenant).await;
}
