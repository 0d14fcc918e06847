//! The reasons for which a caller is refused.

use std::time::Duration;

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// How long a client should wait before it repeats a call for which the issuer's keys were missing.
const RETRY_ISSUER_AFTER: Duration = Duration::from_secs(5);

/// The call has no valid identity. `why` is for its caller.
pub fn unauthenticated(why: impl Into<String>) -> Error {
    Refusal::new(ErrorReason::Unauthenticated, why).into()
}

/// The caller's roles do not include the permission that the call needs.
pub fn permission_denied(permission: &str) -> Error {
    let message =
        format!("the call needs the permission {permission}, which none of the caller's roles has");
    Refusal::new(ErrorReason::PermissionDenied, message).with("permission", permission).into()
}

/// The caller's workload is not one that may call, or its certificate names none.
pub fn workload_not_allowed(workload: Option<&str>) -> Error {
    let message = "the workload that calls, as its certificate names it, is not among those that \
                   may call this service";
    Refusal::new(ErrorReason::WorkloadNotAllowed, message)
        .with("workload", workload.unwrap_or_default())
        .into()
}

/// The keys of the token's issuer cannot be fetched, or were fetched too long ago.
pub fn issuer_unavailable() -> Error {
    let message = "the keys to check the token with cannot be fetched from its issuer";
    Refusal::new(ErrorReason::IssuerUnavailable, message).retry_after(RETRY_ISSUER_AFTER).into()
}
