//! Delivery setups: their states, and one open setup a project.

use customer_accounts::proto::{
    AccountStatus, DeleteDeliverySetupRequest, DeliverySetup,
    DeliverySetupState::{self, Active, Cancelled, Completed, Planned, Ready},
    ListDeliverySetupsRequest,
};
use futures_util::future::join_all;
use tonic::Status;

use crate::support::{
    Tenant, account, apart,
    calls::metadata,
    contracts::{Step, contract, setup, term},
    refusal, violations,
};

impl Tenant {
    async fn delete_setup(&self, id: &str) -> Result<(), Status> {
        let request =
            DeleteDeliverySetupRequest { delivery_setup_id: id.into(), ..Default::default() };
        self.contracts().delete_delivery_setup(request).await.map(|_| ())
    }

    async fn list_setups(&self, request: ListDeliverySetupsRequest) -> Vec<String> {
        let page = self.contracts().list_delivery_setups(request).await.unwrap().into_inner();
        page.delivery_setups.into_iter().map(|setup| setup.delivery_setup_id).collect()
    }
}

fn name(state: DeliverySetupState) -> &'static str {
    state.as_str_name().trim_start_matches("DELIVERY_SETUP_STATE_")
}

#[tokio::test]
async fn every_pair_of_states() {
    let tenant = Tenant::with_account("2027-06-15").await;
    tenant.approved(contract("c", "a")).await;
    let ways: [(DeliverySetupState, &[DeliverySetupState], &str); 5] = [
        (Planned, &[], "READY,CANCELLED"),
        (Ready, &[Ready], "ACTIVE,CANCELLED"),
        (Active, &[Ready, Active], "COMPLETED,CANCELLED"),
        (Completed, &[Ready, Active, Completed], ""),
        (Cancelled, &[Cancelled], ""),
    ];
    for (from, way, allowed) in ways {
        for to in [Planned, Ready, Active, Completed, Cancelled] {
            let id = format!("{}-{}", name(from), name(to));
            tenant.setup(setup(&id, "c", &id)).await;
            for state in way {
                tenant.move_setup(&id, *state).await.unwrap();
            }
            let answer = tenant.move_setup(&id, to).await;
            if from == to || allowed.split(',').any(|it| it == name(to)) {
                assert_eq!(answer.unwrap().state(), to, "{id}");
                continue;
            }
            let status = answer.unwrap_err();
            assert_eq!(refusal(&status), "DELIVERY_SETUP_STATE_TRANSITION", "{id}");
            assert_eq!(metadata(&status, "from"), name(from), "{id}");
            assert_eq!(metadata(&status, "to"), name(to), "{id}");
            assert_eq!(metadata(&status, "allowed"), allowed, "{id}");
        }
        // A setup that is under way stays.
        let id = format!("{}-delete", name(from));
        tenant.setup(setup(&id, "c", &id)).await;
        for state in way {
            tenant.move_setup(&id, *state).await.unwrap();
        }
        match tenant.delete_setup(&id).await {
            Err(status) if from == Active => assert_eq!(refusal(status), "DELIVERY_SETUP_ACTIVE"),
            answer => answer.unwrap(),
        }
    }
    for state in [Completed, Cancelled] {
        let new = DeliverySetup { state: state.into(), ..setup("x", "c", "x") };
        let status = tenant.try_setup(new).await.unwrap_err();
        assert_eq!(refusal(&status), "DELIVERY_SETUP_STATE_TRANSITION");
        assert_eq!(metadata(&status, "from"), "UNSPECIFIED");
    }
    let at_once = DeliverySetup { state: Active.into(), ..setup("now", "c", "now") };
    assert_eq!(tenant.setup(at_once).await.state(), Active);
}

#[tokio::test]
async fn a_setup_becomes_active_under_a_contract_and_an_account_in_force_only() {
    let tenant = Tenant::with_account("2027-06-15").await;
    tenant.approved(term("later", "a", ["2027-07-01", ""], 0, 0)).await;
    tenant.setup(setup("s", "later", "p")).await;
    tenant.move_setup("s", Ready).await.unwrap();
    let status = tenant.move_setup("s", Active).await.unwrap_err();
    assert_eq!(refusal(&status), "CONTRACT_NOT_IN_FORCE");
    assert_eq!(metadata(&status, "state"), "SCHEDULED");
    tenant.stop_clock("2027-07-01T00:00:00Z");
    tenant.set_status("a", AccountStatus::Suspended).await;
    assert_eq!(refusal(tenant.move_setup("s", Active).await), "ACCOUNT_NOT_ACTIVE");
    tenant.set_status("a", AccountStatus::Active).await;
    tenant.move_setup("s", Active).await.unwrap();
    // The setup stays as it is when its contract ends, and shows it.
    tenant.step("later", Step::Terminate("", "")).await.unwrap();
    let only = DeliverySetup { delivery_setup_id: "s".into(), ..Default::default() };
    let same = tenant.update_setup(only, &["etag"]).await.unwrap();
    assert_eq!(same.state(), Active);
    assert_eq!(same.contract_state().as_str_name(), "CONTRACT_STATE_TERMINATED");
    let refused = tenant.try_setup(setup("t", "later", "q")).await;
    assert_eq!(refusal(refused), "CONTRACT_NOT_IN_FORCE");
}

#[tokio::test]
async fn a_project_has_one_open_setup() {
    let tenant = Tenant::with_account("2027-06-15").await;
    tenant.approved(contract("c", "a")).await;
    tenant.setup(setup("s", "c", "p")).await;
    let status = tenant.try_setup(setup("t", "c", "p")).await.unwrap_err();
    assert_eq!(refusal(&status), "DELIVERY_SETUP_ALREADY_EXISTS");
    assert_eq!(metadata(&status, "field"), "project_id");
    assert_eq!(metadata(&status, "delivery_setup_id"), "s");
    let taken = tenant.try_setup(setup("s", "c", "q")).await;
    assert_eq!(metadata(taken, "field"), "delivery_setup_id");
    tenant.move_setup("s", Cancelled).await.unwrap();
    tenant.setup(setup("t", "c", "p")).await;
    let answers =
        join_all((0..10).map(|n| tenant.try_setup(setup(&format!("r{n}"), "c", "race")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for status in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refusal(&status), "DELIVERY_SETUP_ALREADY_EXISTS");
        assert!(metadata(&status, "delivery_setup_id").starts_with('r'));
    }
    // The project of a planned one can change, to one without an open setup.
    let other = |project: &str| DeliverySetup { project_id: project.into(), ..setup("t", "c", "") };
    let status = tenant.update_setup(other("race"), &["project_id"]).await.unwrap_err();
    assert_eq!(metadata(&status, "field"), "project_id");
    tenant.update_setup(other("new"), &["project_id"]).await.unwrap();
    tenant.move_setup("t", Ready).await.unwrap();
    let status = tenant.update_setup(other("p"), &["project_id"]).await.unwrap_err();
    assert_eq!(refusal(&status), "DELIVERY_SETUP_PROJECT_FIXED");
    let moved = DeliverySetup { contract_id: "d".into(), ..setup("t", "d", "new") };
    assert_eq!(
        violations(tenant.update_setup(moved, &["contract_id"]).await)[0].0,
        "delivery_setup.contract_id"
    );
}

/// PostgreSQL checks unique indexes by their age: an index that an operator has made anew comes last.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_id_is_told_whichever_index_is_checked_first() {
    let Some((tenant, server, _)) = apart().await else { return };
    tenant.organization("acme", "").await;
    tenant.account(account("a", "acme")).await;
    tenant.contract(contract("c", "a")).await;
    tenant.setup(setup("s", "c", "p")).await;
    for index in ["delivery_setups_pkey", "delivery_setups_project_key"] {
        let status = tenant.try_setup(setup("s", "c", "p")).await.unwrap_err();
        assert_eq!(refusal(&status), "DELIVERY_SETUP_ALREADY_EXISTS", "before {index}");
        assert_eq!(metadata(&status, "field"), "delivery_setup_id", "before {index}");
        server.batch_execute(&format!("REINDEX INDEX CONCURRENTLY {index}")).await.unwrap();
    }
    let status = tenant.try_setup(setup("s", "c", "q")).await.unwrap_err();
    assert_eq!(metadata(&status, "field"), "delivery_setup_id");
}

/// UAT-C-CA-NAV-001
#[tokio::test]
async fn the_account_of_a_project_is_one_list_call() {
    let (tenant, manager) = Tenant::regions().await;
    for (id, project) in [("oslo", "p"), ("rome", "q")] {
        tenant.contract(contract(id, &format!("{id}-account"))).await;
        tenant.setup(setup(id, id, project)).await;
    }
    let by_project = |project: &str| ListDeliverySetupsRequest {
        project_id: project.into(),
        ..Default::default()
    };
    assert_eq!(tenant.list_setups(by_project("q")).await, ["rome"]);
    assert_eq!(manager.list_setups(by_project("q")).await, [""; 0]);
    assert_eq!(manager.list_setups(by_project("p")).await, ["oslo"]);
    for request in [
        ListDeliverySetupsRequest { contract_id: "rome".into(), ..Default::default() },
        ListDeliverySetupsRequest { account_id: "rome-account".into(), ..Default::default() },
        ListDeliverySetupsRequest {
            organization_id: "south".into(),
            include_descendants: true,
            states: vec![Planned.into()],
            ..Default::default()
        },
    ] {
        assert_eq!(tenant.list_setups(request).await, ["rome"]);
    }
}
