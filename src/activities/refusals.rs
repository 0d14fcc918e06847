//! The reasons for which a watch is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// The cursor is not one that this watch gave in this tenant.
pub fn invalid_cursor() -> Error {
    let message = "cursor was not given out for this watch with this account_id";
    Refusal::new(ErrorReason::InvalidCursor, message).field("cursor").into()
}

/// Activities behind the cursor are gone, or the database has never been where the cursor is.
pub fn cursor_expired() -> Error {
    let message = "the cursor is older than the activities that are kept, or comes from another \
                   database: list again and watch from now on";
    Refusal::new(ErrorReason::CursorExpired, message).into()
}
