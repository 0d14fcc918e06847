//! The reasons for which a call on activities is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// The cursor does not belong to this watch in this tenant.
pub fn invalid_cursor() -> Error {
    let message = "cursor was not given out for this watch with this account_id";
    Refusal::new(ErrorReason::InvalidCursor, message).field("cursor").into()
}

/// Activities after the cursor have been deleted, or the database has never reached the cursor.
pub fn cursor_expired() -> Error {
    let message = "the cursor is older than the activities that are kept, or comes from another \
                   database: list again and watch from now on";
    Refusal::new(ErrorReason::CursorExpired, message).into()
}
