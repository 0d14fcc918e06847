//! The reasons for which an import or an export is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// The cursor does not belong to an export with these filters in this tenant.
pub fn invalid_cursor() -> Error {
    let message = "cursor does not belong to an export with these filters";
    Refusal::new(ErrorReason::InvalidCursor, message).field("cursor").into()
}

/// An earlier row of the batch has the same account id.
pub fn duplicate_row(account_id: &str, earlier: i64) -> Error {
    let message = format!(
        "row {earlier} of the same batch has the account id {account_id:?} too: merge the rows, or \
         send this one in another batch"
    );
    Refusal::new(ErrorReason::DuplicateRow, message)
        .field("account.account_id")
        .with("account_id", account_id)
        .with("row", &earlier)
        .into()
}

/// Another row of an all-or-nothing batch was refused.
pub fn batch_refused() -> Error {
    let message = "another row of the batch was refused, and the batch asked for all or nothing";
    Refusal::new(ErrorReason::BatchRefused, message).into()
}
