//! The reasons for which a transaction refuses a call.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// The caller's reach is limited and does not include what the call would change. `why` says what
/// would be changed, or why that is for others.
pub fn out_of_reach(why: &str) -> Error {
    let message = format!("{why}: ask someone who reaches the whole tenant");
    Refusal::new(ErrorReason::OutOfReach, message).into()
}

/// The request id already belongs to another request.
pub fn request_id_reused() -> Error {
    let message = "request_id was used for another request in the last 24 hours";
    Refusal::new(ErrorReason::RequestIdReused, message).field("request_id").into()
}

/// The module of the call is switched off for the whole tenant.
pub fn module_off_for_tenant(module: &str) -> Error {
    module_not_activated(module, "TENANT", "the tenant").into()
}

/// The module of the call is switched off by the setting of this organization.
pub fn module_off_for_organization(module: &str, organization_id: &str) -> Error {
    let whom = format!("organization {organization_id:?} and what inherits from it");
    module_not_activated(module, "ORGANIZATION", &whom)
        .with("organization_id", organization_id)
        .into()
}

fn module_not_activated(module: &str, level: &str, whom: &str) -> Refusal {
    let message = format!("the module {module} is off for {whom}");
    Refusal::new(ErrorReason::ModuleNotActivated, message)
        .with("module", module)
        .with("level", level)
}
