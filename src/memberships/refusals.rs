//! The reasons for which a call on memberships is refused.

use crate::{
    error::{Error, NAMED, Refusal},
    proto::ErrorReason,
    resource::{ORGANIZATION, PERSON},
};

/// Nothing makes the person a user of the account.
pub fn account_user_not_found(account_id: &str, person_id: &str) -> Error {
    let message = format!("person {person_id:?} is not a user of account {account_id:?}");
    Refusal::new(ErrorReason::AccountUserNotFound, message)
        .resource(PERSON.noun, person_id)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .into()
}

/// The person was already added by name.
pub fn account_user_already_exists(account_id: &str, person_id: &str) -> Error {
    let message =
        format!("person {person_id:?} is an individual user of account {account_id:?} already");
    Refusal::new(ErrorReason::AccountUserAlreadyExists, message)
        .resource(PERSON.noun, person_id)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .into()
}

/// The settings of the user have changed since the caller read the etag.
pub fn account_user_changed(account_id: &str, person_id: &str) -> Error {
    let message = format!(
        "what is set for person {person_id:?} on account {account_id:?} has changed since its etag \
         was read"
    );
    Refusal::new(ErrorReason::EtagMismatch, message)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .into()
}

/// A person who is a user through these organizations only cannot be removed from the account.
pub fn user_through_organization(
    account_id: &str,
    person_id: &str,
    organization_ids: &[String],
) -> Error {
    let message = format!(
        "person {person_id:?} is a user of account {account_id:?} through {}, and users added \
         through an organization cannot be removed here: take them out of it, or unlink it",
        organizations(organization_ids)
    );
    let refusal = Refusal::new(ErrorReason::UserThroughOrganization, message)
        .with("account_id", account_id)
        .with("person_id", person_id)
        .with("organizations", &organization_ids.len());
    organization_ids
        .iter()
        .fold(refusal, |refusal, id| {
            let subject = format!("{}/{id}", ORGANIZATION.noun);
            refusal.precondition(&subject, "take the person out of it, or unlink it")
        })
        .into()
}

fn organizations(ids: &[String]) -> String {
    let listed: Vec<_> = ids.iter().take(NAMED).map(|id| format!("{id:?}")).collect();
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} {}{more}",
        if ids.len() == 1 { "organization" } else { "organizations" },
        listed.join(", ")
    )
}

/// The organization is not linked to the account.
pub fn organization_not_linked(account_id: &str, organization_id: &str) -> Error {
    let message =
        format!("organization {organization_id:?} is not linked to account {account_id:?}");
    Refusal::new(ErrorReason::OrganizationNotLinked, message)
        .resource(ORGANIZATION.noun, organization_id)
        .with("account_id", account_id)
        .with("organization_id", organization_id)
        .into()
}

/// The organization that an account belongs to cannot be unlinked from it.
pub fn own_organization_linked(account_id: &str, organization_id: &str) -> Error {
    let message = format!(
        "account {account_id:?} belongs to organization {organization_id:?}, which is therefore \
         always linked to it"
    );
    Refusal::new(ErrorReason::OwnOrganizationLinked, message)
        .broken_by(ORGANIZATION.noun, organization_id)
        .with("account_id", account_id)
        .with("organization_id", organization_id)
        .into()
}
