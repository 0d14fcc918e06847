//! The reasons for which a call on contracts or delivery setups is refused.

use super::{
    setups::SetupState,
    terms::{State, Step},
};
use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::Kind,
};

/// `accounts.v1.Contract`
pub const CONTRACT: Kind = Kind {
    noun: "contract",
    not_found: ErrorReason::ContractNotFound,
    already_exists: ErrorReason::ContractAlreadyExists,
};

/// `accounts.v1.DeliverySetup`
pub const DELIVERY_SETUP: Kind = Kind {
    noun: "delivery_setup",
    not_found: ErrorReason::DeliverySetupNotFound,
    already_exists: ErrorReason::DeliverySetupAlreadyExists,
};

/// The state of the contract does not allow the step.
pub fn contract_state_transition(id: &str, state: State, step: Step, allowed: &[&str]) -> Error {
    let (state, call) = (state.name(), step.call());
    let message = match allowed {
        [] => format!("contract {id:?} is {state}, which allows no {call} and no other step"),
        _ => format!(
            "contract {id:?} is {state}, which allows no {call}: allowed are {}",
            allowed.join(" and ")
        ),
    };
    Refusal::new(ErrorReason::ContractStateTransition, message)
        .broken_by(CONTRACT.noun, id)
        .with("contract_id", id)
        .with("state", state)
        .with("call", call)
        .with("allowed", &allowed.join(","))
        .into()
}

/// Terms of the contract would change, and it is no draft.
pub fn contract_terms_fixed(id: &str, state: State, fields: &[&str]) -> Error {
    let (state, fields) = (state.name(), fields.join(","));
    let message =
        format!("contract {id:?} is {state}, and its terms ({fields}) can change only in DRAFT");
    Refusal::new(ErrorReason::ContractTermsFixed, message)
        .broken_by(CONTRACT.noun, id)
        .with("contract_id", id)
        .with("state", state)
        .with("fields", &fields)
        .into()
}

/// A delivery setup cannot be created under the contract, or cannot become ACTIVE. `wanted` says
/// what the contract must be.
pub fn contract_not_in_force(id: &str, state: State, wanted: &str) -> Error {
    let state = state.name();
    let message = format!("contract {id:?} is {state}, and must be {wanted}");
    Refusal::new(ErrorReason::ContractNotInForce, message)
        .broken_by(CONTRACT.noun, id)
        .with("contract_id", id)
        .with("state", state)
        .into()
}

/// The state `to` cannot follow the present state; `from` is `None` for a new setup.
pub fn delivery_setup_state_transition(
    id: &str,
    from: Option<SetupState>,
    to: SetupState,
    allowed: &[&str],
) -> Error {
    let (from, to) = (from.map_or("UNSPECIFIED", SetupState::name), to.name());
    let message = match from {
        "UNSPECIFIED" => format!("a delivery setup cannot be created {to}"),
        _ => format!("a delivery setup cannot go from {from} to {to}"),
    };
    Refusal::new(ErrorReason::DeliverySetupStateTransition, message)
        .broken_by(DELIVERY_SETUP.noun, id)
        .with("delivery_setup_id", id)
        .with("from", from)
        .with("to", to)
        .with("allowed", &allowed.join(","))
        .into()
}

/// The setup is no longer PLANNED, so its project stays.
pub fn delivery_setup_project_fixed(id: &str, state: SetupState) -> Error {
    let state = state.name();
    let message = format!(
        "delivery setup {id:?} is {state}: its project can change only while it is PLANNED"
    );
    Refusal::new(ErrorReason::DeliverySetupProjectFixed, message)
        .broken_by(DELIVERY_SETUP.noun, id)
        .with("delivery_setup_id", id)
        .with("state", state)
        .into()
}

/// The setup is under way and cannot be deleted.
pub fn delivery_setup_active(id: &str) -> Error {
    let message =
        format!("delivery setup {id:?} is ACTIVE: complete or cancel it before you delete it");
    Refusal::new(ErrorReason::DeliverySetupActive, message)
        .broken_by(DELIVERY_SETUP.noun, id)
        .with("delivery_setup_id", id)
        .into()
}

/// The project has another setup that is PLANNED, READY or ACTIVE; `other` is its id, if the caller
/// may see it.
pub fn project_has_open_setup(project_id: &str, other: Option<&str>) -> Error {
    let message = format!(
        "project {project_id:?} has a delivery setup that is PLANNED, READY or ACTIVE: complete or \
         cancel it first"
    );
    let refusal = Refusal::new(ErrorReason::DeliverySetupAlreadyExists, message)
        .resource(DELIVERY_SETUP.noun, other.unwrap_or(project_id))
        .with("field", "project_id");
    match other {
        Some(other) => refusal.with("delivery_setup_id", other).into(),
        None => refusal.into(),
    }
}

/// What refers to the contract belongs to another account.
pub fn contract_of_another_account(id: &str, account_id: &str) -> Error {
    let message = format!("contract {id:?} is of another account than {account_id:?}");
    Refusal::new(ErrorReason::ContractOfAnotherAccount, message)
        .broken_by(CONTRACT.noun, id)
        .with("contract_id", id)
        .with("account_id", account_id)
        .into()
}
