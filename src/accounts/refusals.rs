//! The reasons for which a call on accounts is refused.

use super::{dependents::Use, value::Status};
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

/// The call needs the account ACTIVE, or at least not INACTIVE.
pub fn account_not_active(id: &str, status: Status) -> Error {
    let status = status.name();
    let message = format!("account {id:?} is {status}, and the call needs one that is in use");
    Refusal::new(ErrorReason::AccountNotActive, message)
        .broken_by(ACCOUNT.noun, id)
        .with("account_id", id)
        .with("status", status)
        .into()
}

/// The account has something that is in force, and would be deleted without `force`.
pub fn account_in_use(id: &str, uses: &[Use]) -> Error {
    let words: Vec<_> = uses.iter().map(|used| format!("{} {}", used.count, used.plural)).collect();
    let message = format!(
        "account {id:?} has {} in force: end them, or delete it with force",
        words.join(" and ")
    );
    let refusal = Refusal::new(ErrorReason::AccountInUse, message).with("account_id", id);
    let named = |refusal: Refusal, used: &Use| {
        let refusal = refusal.with(used.plural, &used.count);
        used.ids.iter().fold(refusal, |refusal, other| {
            refusal.precondition(&format!("{}/{other}", used.noun), "is in force")
        })
    };
    uses.iter().fold(refusal, named).into()
}
