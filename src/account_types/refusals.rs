//! The reasons for which a call on account types is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::Kind,
};

/// `accounts.v1.AccountType`
pub const ACCOUNT_TYPE: Kind = Kind {
    noun: "account_type",
    not_found: ErrorReason::AccountTypeNotFound,
    already_exists: ErrorReason::AccountTypeAlreadyExists,
};

/// The account type is deactivated, so an account can neither get nor keep it.
pub fn account_type_inactive(id: &str) -> Error {
    let message = format!("account type {id:?} is deactivated: choose an active one, or none");
    Refusal::new(ErrorReason::AccountTypeInactive, message)
        .broken_by(ACCOUNT_TYPE.noun, id)
        .with("account_type_id", id)
        .into()
}

/// The account type is deactivated, so it cannot be the default.
pub fn default_account_type_inactive(id: &str) -> Error {
    let message = format!("account type {id:?} is deactivated: a default must be active");
    Refusal::new(ErrorReason::DefaultAccountTypeInactive, message)
        .broken_by(ACCOUNT_TYPE.noun, id)
        .with("account_type_id", id)
        .into()
}
