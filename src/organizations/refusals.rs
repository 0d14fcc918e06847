//! The reasons for which a call on organizations is refused.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
    resource::{ORGANIZATION, PERSON},
};

/// With another level below `parent_id` the tree would have more than `max` levels.
pub fn organization_too_deep(parent_id: &str, max: i64) -> Error {
    let message = format!(
        "organization {parent_id:?} is at level {max}, the deepest there is: it cannot have \
         organizations below it"
    );
    Refusal::new(ErrorReason::OrganizationTooDeep, message)
        .broken_by(ORGANIZATION.noun, parent_id)
        .with("parent_id", parent_id)
        .into()
}

/// The organization cannot move below itself or below one of its descendants.
pub fn organization_cycle(organization_id: &str, parent_id: &str) -> Error {
    let message = format!(
        "organization {organization_id:?} cannot be moved below {parent_id:?}, which is itself or \
         lies below it"
    );
    Refusal::new(ErrorReason::OrganizationCycle, message)
        .broken_by(ORGANIZATION.noun, organization_id)
        .with("organization_id", organization_id)
        .with("parent_id", parent_id)
        .into()
}

/// The organization cannot be deleted while it has `children` directly below it, `accounts`, or
/// `links` to accounts of other organizations.
pub fn organization_not_empty(
    organization_id: &str,
    children: i64,
    accounts: i64,
    links: i64,
) -> Error {
    let message = format!(
        "organization {organization_id:?} has {children} organizations directly below it, \
         {accounts} accounts, and links to {links} accounts of others"
    );
    let refusal = Refusal::new(ErrorReason::OrganizationNotEmpty, message)
        .with("organization_id", organization_id);
    let subject = format!("{}/{organization_id}", ORGANIZATION.noun);
    [("children", children), ("accounts", accounts), ("links", links)]
        .into_iter()
        .fold(refusal, |refusal, (what, count)| {
            let refusal = refusal.with(what, &count);
            if count > 0 {
                refusal.precondition(&subject, &format!("it has {count} {what}"))
            } else {
                refusal
            }
        })
        .into()
}

/// The person is not a direct member of the organization.
pub fn organization_member_not_found(organization_id: &str, person_id: &str) -> Error {
    let message =
        format!("person {person_id:?} is not a member of organization {organization_id:?}");
    Refusal::new(ErrorReason::OrganizationMemberNotFound, message)
        .resource(PERSON.noun, person_id)
        .with("organization_id", organization_id)
        .with("person_id", person_id)
        .into()
}
