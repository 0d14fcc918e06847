//! The calls on contracts and delivery setups that several tests make.

use chrono::{Datelike as _, NaiveDate};
use customer_accounts::proto::{
    ApproveContractRequest, CancelContractRequest, Contract, ContractState, CreateContractRequest,
    CreateDeliverySetupRequest, DeliverySetup, DeliverySetupState, GetContractRequest,
    ListContractsRequest, RejectContractRequest, SubmitContractRequest, TerminateContractRequest,
    UncancelContractRequest, UpdateContractRequest, UpdateDeliverySetupRequest,
    VoidContractRequest, google::r#type::Date,
};
use tonic::Status;

use super::{Tenant, calls::mask};

/// A step with the reason and the date that its request can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Submit,
    Approve,
    Reject(&'static str),
    Void(&'static str),
    Cancel(&'static str, &'static str),
    Uncancel,
    Terminate(&'static str, &'static str),
}

/// The least that a contract needs.
pub fn contract(id: &str, account_id: &str) -> Contract {
    Contract {
        contract_id: id.into(),
        account_id: account_id.into(),
        title: format!("Contract {id}"),
        ..Default::default()
    }
}

/// A contract that begins and ends on these days, and renews by so many months if they are not 0.
pub fn term(id: &str, account_id: &str, days: [&str; 2], months: i32, notice: i32) -> Contract {
    Contract {
        start_date: day(days[0]),
        end_date: day(days[1]),
        auto_renewal: months > 0,
        renewal_months: months,
        notice_days: notice,
        ..contract(id, account_id)
    }
}

/// The least that a delivery setup needs.
pub fn setup(id: &str, contract_id: &str, project_id: &str) -> DeliverySetup {
    DeliverySetup {
        delivery_setup_id: id.into(),
        contract_id: contract_id.into(),
        project_id: project_id.into(),
        delivery_model: "fixed-price".into(),
        ..Default::default()
    }
}

/// A day as `2027-01-31`; `None` if it is empty.
pub fn day(text: &str) -> Option<Date> {
    (!text.is_empty()).then(|| to_date(text.parse().unwrap()))
}

pub fn to_date(date: NaiveDate) -> Date {
    Date {
        year: date.year(),
        month: date.month().try_into().unwrap(),
        day: date.day().try_into().unwrap(),
    }
}

/// A day of a message as `2027-01-31`; empty if there is none.
pub fn text(date: Option<Date>) -> String {
    date.map(|date| format!("{:04}-{:02}-{:02}", date.year, date.month, date.day))
        .unwrap_or_default()
}

impl Tenant {
    /// An organization `acme` with an account `a`, on a day.
    pub async fn with_account(today: &str) -> Self {
        let tenant = Self::new().await;
        tenant.stop_clock(&format!("{today}T12:00:00Z"));
        tenant.organization("acme", "").await;
        tenant.account(super::account("a", "acme")).await;
        tenant
    }

    pub async fn try_contract(&self, contract: Contract) -> Result<Contract, Status> {
        let request = CreateContractRequest { contract: Some(contract), ..Default::default() };
        let response = self.contracts().create_contract(request).await;
        response.map(|response| response.into_inner().contract.unwrap())
    }

    pub async fn contract(&self, contract: Contract) -> Contract {
        self.try_contract(contract).await.unwrap()
    }

    /// Creates the contract, submits and approves it.
    pub async fn approved(&self, contract: Contract) -> Contract {
        let id = self.contract(contract).await.contract_id;
        self.step(&id, Step::Submit).await.unwrap();
        self.step(&id, Step::Approve).await.unwrap()
    }

    pub async fn get_contract(&self, id: &str) -> Result<Contract, Status> {
        let request = GetContractRequest { contract_id: id.into() };
        let response = self.contracts().get_contract(request).await;
        response.map(|response| response.into_inner().contract.unwrap())
    }

    pub async fn update_contract(
        &self,
        contract: Contract,
        paths: &[&str],
    ) -> Result<Contract, Status> {
        let request = UpdateContractRequest {
            contract: Some(contract),
            update_mask: mask(paths),
            ..Default::default()
        };
        let response = self.contracts().update_contract(request).await;
        response.map(|response| response.into_inner().contract.unwrap())
    }

    /// The ids of the contracts that a request lists on its first page.
    pub async fn list_contracts(&self, request: ListContractsRequest) -> Vec<String> {
        let response = self.contracts().list_contracts(request).await.unwrap().into_inner();
        response.contracts.into_iter().map(|contract| contract.contract_id).collect()
    }

    pub async fn step(&self, id: &str, step: Step) -> Result<Contract, Status> {
        let mut client = self.contracts();
        macro_rules! call {
            ($call:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
                let request = $request {
                    contract_id: id.into(),
                    $($field: $value,)*
                    ..Default::default()
                };
                let response = client.$call(request).await;
                response.map(|response| response.into_inner().contract.unwrap())
            }};
        }
        match step {
            Step::Submit => call!(submit_contract, SubmitContractRequest {}),
            Step::Approve => call!(approve_contract, ApproveContractRequest {}),
            Step::Reject(why) => {
                call!(reject_contract, RejectContractRequest { reason: why.into() })
            }
            Step::Void(why) => call!(void_contract, VoidContractRequest { reason: why.into() }),
            Step::Cancel(why, end) => {
                call!(
                    cancel_contract,
                    CancelContractRequest { reason: why.into(), end_date: day(end) }
                )
            }
            Step::Uncancel => call!(uncancel_contract, UncancelContractRequest {}),
            Step::Terminate(why, last) => {
                call!(
                    terminate_contract,
                    TerminateContractRequest { reason: why.into(), termination_date: day(last) }
                )
            }
        }
    }

    pub async fn try_setup(&self, setup: DeliverySetup) -> Result<DeliverySetup, Status> {
        let request =
            CreateDeliverySetupRequest { delivery_setup: Some(setup), ..Default::default() };
        let response = self.contracts().create_delivery_setup(request).await;
        response.map(|response| response.into_inner().delivery_setup.unwrap())
    }

    pub async fn setup(&self, setup: DeliverySetup) -> DeliverySetup {
        self.try_setup(setup).await.unwrap()
    }

    pub async fn update_setup(
        &self,
        setup: DeliverySetup,
        paths: &[&str],
    ) -> Result<DeliverySetup, Status> {
        let request = UpdateDeliverySetupRequest {
            delivery_setup: Some(setup),
            update_mask: mask(paths),
            ..Default::default()
        };
        let response = self.contracts().update_delivery_setup(request).await;
        response.map(|response| response.into_inner().delivery_setup.unwrap())
    }

    /// Moves a delivery setup to a state.
    pub async fn move_setup(
        &self,
        id: &str,
        state: DeliverySetupState,
    ) -> Result<DeliverySetup, Status> {
        let setup = DeliverySetup {
            delivery_setup_id: id.into(),
            state: state.into(),
            ..Default::default()
        };
        self.update_setup(setup, &["state"]).await
    }
}

/// The name of a contract's state without its prefix.
pub fn state(contract: &Contract) -> &'static str {
    ContractState::try_from(contract.state)
        .unwrap()
        .as_str_name()
        .trim_start_matches("CONTRACT_STATE_")
}
