//! The reasons for which a call on the settings of the tenant is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// The settings of the tenant have changed since the caller read them.
pub fn settings_changed() -> Error {
    let message = "the settings have changed since their etag was read";
    Refusal::new(ErrorReason::EtagMismatch, message).into()
}
