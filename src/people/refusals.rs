//! The reasons for which a call on people is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::PERSON,
};

/// The person is not a member of the tenant's staff, which account managers and owners of
/// opportunities must be.
pub fn person_not_staff(person_id: &str) -> Error {
    let message = format!("person {person_id:?} is not of the kind STAFF: choose someone who is");
    Refusal::new(ErrorReason::PersonNotStaff, message)
        .broken_by(PERSON.noun, person_id)
        .with("person_id", person_id)
        .into()
}

/// The person manages accounts, so they cannot be deleted, deactivated or become CUSTOMER. `count`
/// is how many accounts they manage, and `first` names the first of these.
pub fn person_in_use(person_id: &str, count: i64, first: &[String]) -> Error {
    let message = format!("person {person_id:?} is the manager of {count} accounts");
    let refusal = Refusal::new(ErrorReason::PersonInUse, message)
        .with("person_id", person_id)
        .with("accounts", &count);
    first
        .iter()
        .fold(refusal, |refusal, account_id| {
            let subject = format!("account/{account_id}/account_manager");
            refusal.precondition(&subject, "give the account another manager, or none")
        })
        .into()
}
