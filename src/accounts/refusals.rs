//! The reasons for which a call on accounts is refused.

use super::value::Status;
use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::ACCOUNT,
};

/// The status `to` cannot follow the present status `from`.
pub fn account_status_transition(id: &str, from: Status, to: Status) -> Error {
    let (from, to) = (from.name(), to.name());
    let message = format!("an account cannot go from {from} to {to}");
    Refusal::new(ErrorReason::AccountStatusTransition, message)
        .broken_by(ACCOUNT.noun, id)
        .with("account_id", id)
        .with("from", from)
        .with("to", to)
        .into()
}
