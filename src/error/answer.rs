//! How each error is answered: its code, its reason and its details.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Error, Kind, NAMED, Violation, fitting};
use crate::{
    memberships::slots::Holder,
    proto::{ErrorReason, PACKAGE},
};

/// Most bytes of violations in the details, for the reason that bounds those in the message.
const MAX_VIOLATIONS: usize = 2560;
/// How long a client should wait before it tries again what failed for lack of room or of a database.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client should wait before it tries again what failed for lack of an issuer's keys.
const RETRY_ISSUER_AFTER: Duration = Duration::from_secs(5);
/// How long a client should wait before it tries again what lost a race.
const RETRY_RACE_AFTER: Duration = Duration::from_millis(100);

impl Kind {
    /// The name of the id field.
    fn id_field(self) -> String {
        format!("{}_id", self.noun())
    }

    const fn not_found(self) -> ErrorReason {
        match self {
            Self::Account => ErrorReason::AccountNotFound,
            Self::AccountType => ErrorReason::AccountTypeNotFound,
            Self::Organization => ErrorReason::OrganizationNotFound,
            Self::Person => ErrorReason::PersonNotFound,
        }
    }

    const fn already_exists(self) -> ErrorReason {
        match self {
            Self::Account => ErrorReason::AccountAlreadyExists,
            Self::AccountType => ErrorReason::AccountTypeAlreadyExists,
            Self::Organization => ErrorReason::OrganizationAlreadyExists,
            Self::Person => ErrorReason::PersonAlreadyExists,
        }
    }
}

impl Error {
    /// Code, reason, metadata and details: the one place that says how each error is answered.
    #[expect(clippy::too_many_lines, reason = "a line or a few for each error, in the one place to look it up")]
    fn answer(&self) -> Answer {
        use ErrorReason as Reason;
        let answer = |code, reason| Answer::new(code, reason, self.to_string());
        match self {
            Self::Invalid(violations) => answer(Code::InvalidArgument, Reason::InvalidField).violations(violations),
            Self::PageToken => answer(Code::InvalidArgument, Reason::InvalidPageToken).field("page_token"),
            Self::Cursor => answer(Code::InvalidArgument, Reason::InvalidCursor).field("cursor"),
            // Like reading before the beginning of a file; etcd answers a compacted revision the same way.
            Self::CursorExpired => answer(Code::OutOfRange, Reason::CursorExpired),
            Self::WatchEnded => answer(Code::Unavailable, Reason::WatchEnded).retry_after(RETRY_RACE_AFTER),
            Self::RequestIdReused => answer(Code::InvalidArgument, Reason::RequestIdReused).field("request_id"),
            Self::MalformedRequest => answer(Code::InvalidArgument, Reason::MalformedRequest),
            Self::RequestTooLarge => answer(Code::OutOfRange, Reason::RequestTooLarge),
            Self::Unauthenticated(_) => answer(Code::Unauthenticated, Reason::Unauthenticated),
            Self::PermissionDenied { permission } => {
                answer(Code::PermissionDenied, Reason::PermissionDenied).with("permission", permission)
            }
            Self::OutOfReach { .. } => answer(Code::PermissionDenied, Reason::OutOfReach),
            Self::ModuleOff { module, organization_id } => {
                let level = if organization_id.is_some() { "ORGANIZATION" } else { "TENANT" };
                let answer =
                    answer(Code::PermissionDenied, Reason::ModuleNotActivated).with("module", module).with("level", &level);
                organization_id.iter().fold(answer, |answer, id| answer.with("organization_id", id))
            }
            Self::WorkloadNotAllowed { workload } => answer(Code::PermissionDenied, Reason::WorkloadNotAllowed)
                .with("workload", &workload.as_deref().unwrap_or_default()),
            Self::NotFound { kind, id } => {
                answer(Code::NotFound, kind.not_found()).with(&kind.id_field(), id).resource(*kind, id)
            }
            Self::OrganizationMemberNotFound { organization_id, person_id } => {
                let answer = answer(Code::NotFound, Reason::OrganizationMemberNotFound).resource(Kind::Person, person_id);
                answer.with("organization_id", organization_id).with("person_id", person_id)
            }
            Self::AlreadyExists { kind, field, value } => {
                let answer = answer(Code::AlreadyExists, kind.already_exists()).resource(*kind, value);
                match kind {
                    // More than the id can be taken.
                    Kind::AccountType | Kind::Person => answer.with("field", field),
                    Kind::Account | Kind::Organization => answer.with(field, value),
                }
            }
            Self::EtagMismatch { kind, id } => answer(Code::Aborted, Reason::EtagMismatch).with(&kind.id_field(), id),
            Self::SettingsChanged => answer(Code::Aborted, Reason::EtagMismatch),
            Self::AccountUserEtagMismatch { account_id, person_id } => {
                answer(Code::Aborted, Reason::EtagMismatch).with("account_id", account_id).with("person_id", person_id)
            }
            Self::Conflict | Self::Retry => answer(Code::Aborted, Reason::Conflict).retry_after(RETRY_RACE_AFTER),
            Self::AccountTypeInactive { id } => answer(Code::FailedPrecondition, Reason::AccountTypeInactive)
                .broken("account_type", id)
                .with("account_type_id", id),
            Self::DefaultAccountTypeInactive { id } => answer(Code::FailedPrecondition, Reason::DefaultAccountTypeInactive)
                .broken("account_type", id)
                .with("account_type_id", id),
            Self::StatusTransition { id, from, to } => answer(Code::FailedPrecondition, Reason::AccountStatusTransition)
                .broken("account", id)
                .with("account_id", id)
                .with("from", from)
                .with("to", to),
            Self::OrganizationTooDeep { parent_id } => answer(Code::FailedPrecondition, Reason::OrganizationTooDeep)
                .broken("organization", parent_id)
                .with("parent_id", parent_id),
            Self::OrganizationCycle { organization_id, parent_id } => answer(Code::FailedPrecondition, Reason::OrganizationCycle)
                .broken("organization", organization_id)
                .with("organization_id", organization_id)
                .with("parent_id", parent_id),
            Self::OrganizationNotEmpty { organization_id, children, accounts, links } => {
                let counts = [("children", children), ("accounts", accounts), ("links", links)];
                let answer =
                    answer(Code::FailedPrecondition, Reason::OrganizationNotEmpty).with("organization_id", organization_id);
                counts.into_iter().fold(answer, |answer, (what, count)| {
                    let answer = answer.with(what, count);
                    let subject = format!("organization/{organization_id}");
                    if *count > 0 { answer.precondition(&subject, &format!("it has {count} {what}")) } else { answer }
                })
            }
            Self::NotAnAccountUser { account_id, person_id } => answer(Code::FailedPrecondition, Reason::NotAnAccountUser)
                .broken("account", account_id)
                .with("account_id", account_id)
                .with("person_id", person_id),
            Self::AccountUserNotFound { account_id, person_id } => answer(Code::NotFound, Reason::AccountUserNotFound)
                .resource(Kind::Person, person_id)
                .with("account_id", account_id)
                .with("person_id", person_id),
            Self::AccountUserAlreadyExists { account_id, person_id } => {
                answer(Code::AlreadyExists, Reason::AccountUserAlreadyExists)
                    .resource(Kind::Person, person_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::OrganizationNotLinked { account_id, organization_id } => answer(Code::NotFound, Reason::OrganizationNotLinked)
                .resource(Kind::Organization, organization_id)
                .with("account_id", account_id)
                .with("organization_id", organization_id),
            Self::OwnOrganizationLinked { account_id, organization_id } => {
                answer(Code::FailedPrecondition, Reason::OwnOrganizationLinked)
                    .broken("organization", organization_id)
                    .with("account_id", account_id)
                    .with("organization_id", organization_id)
            }
            Self::UserThroughOrganization { account_id, person_id, organization_ids } => {
                let answer = answer(Code::FailedPrecondition, Reason::UserThroughOrganization)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
                    .with("organizations", &organization_ids.len());
                organization_ids.iter().take(NAMED).fold(answer, |answer, id| {
                    answer.precondition(&format!("organization/{id}"), "take the person out of it, or unlink it")
                })
            }
            Self::ContactMembershipEnds { account_id, person_id } => {
                answer(Code::FailedPrecondition, Reason::ContactMembershipEnds)
                    .broken("account", account_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::ContactSlotHeld { slots, count } => {
                let answer = answer(Code::FailedPrecondition, Reason::ContactSlotHeld).with("slots", count);
                slots.iter().take(NAMED).fold(answer, |answer, Holder { account_id, slot, person_id }| {
                    let subject = format!("account/{account_id}/{}", slot.name());
                    answer.precondition(&subject, &format!("held by person {person_id:?}: put someone else there, or nobody"))
                })
            }
            Self::PersonNotCustomer { person_id } => answer(Code::FailedPrecondition, Reason::PersonNotCustomer)
                .broken("person", person_id)
                .with("person_id", person_id),
            Self::AccountNotActive { account_id } => answer(Code::FailedPrecondition, Reason::AccountNotActive)
                .broken("account", account_id)
                .with("account_id", account_id),
            Self::PersonInactive { person_id } => {
                answer(Code::FailedPrecondition, Reason::PersonInactive).broken("person", person_id).with("person_id", person_id)
            }
            Self::PersonNotStaff { person_id } => {
                answer(Code::FailedPrecondition, Reason::PersonNotStaff).broken("person", person_id).with("person_id", person_id)
            }
            Self::PersonInUse { person_id, accounts, first } => {
                let answer =
                    answer(Code::FailedPrecondition, Reason::PersonInUse).with("person_id", person_id).with("accounts", accounts);
                first.iter().fold(answer, |answer, account_id| {
                    let subject = format!("account/{account_id}/account_manager");
                    answer.precondition(&subject, "give the account another manager, or none")
                })
            }
            Self::Overloaded => answer(Code::ResourceExhausted, Reason::Overloaded).retry_after(RETRY_AFTER),
            Self::DeadlineExceeded => answer(Code::DeadlineExceeded, Reason::DeadlineExceeded),
            Self::DatabaseUnavailable => answer(Code::Unavailable, Reason::DatabaseUnavailable).retry_after(RETRY_AFTER),
            Self::IssuerUnavailable => answer(Code::Unavailable, Reason::IssuerUnavailable).retry_after(RETRY_ISSUER_AFTER),
            Self::Unimplemented(_) => answer(Code::Unimplemented, Reason::Unimplemented),
            Self::Internal(_) => Answer {
                message: "a fault inside the service; it has been recorded".to_owned(),
                ..answer(Code::Internal, Reason::Internal)
            },
        }
    }
}

/// A `google.rpc.Status` in the making.
struct Answer {
    code: Code,
    reason: String,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Answer {
    fn new(code: Code, reason: ErrorReason, message: String) -> Self {
        // The reason as it stands in `ErrorInfo`: the name of the enum value without its prefix.
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned();
        Self { code, reason, message, metadata: HashMap::new(), details: ErrorDetails::new() }
    }

    /// What a program reads from the error besides its reason.
    fn with(mut self, key: &str, value: &impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The message, as the rule that one field breaks.
    fn field(mut self, field: &str) -> Self {
        self.details.add_bad_request_violation(field, &self.message);
        self
    }

    fn violations(mut self, violations: &[Violation]) -> Self {
        let (listed, left_out) = fitting(violations, MAX_VIOLATIONS);
        for violation in listed {
            self.details.add_bad_request_violation(&violation.field, &violation.rule);
        }
        if left_out > 0 {
            self.details.add_bad_request_violation("", format!("and {left_out} more, too many to list"));
        }
        self
    }

    fn resource(mut self, kind: Kind, name: &str) -> Self {
        let words = kind.noun().split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        self.details.set_resource_info(format!("{PACKAGE}.{}", words.collect::<String>()), name, "", &self.message);
        self
    }

    fn precondition(mut self, subject: &str, description: &str) -> Self {
        self.details.add_precondition_failure_violation(&self.reason, subject, description);
        self
    }

    /// The message, as the precondition that a resource does not meet.
    fn broken(self, noun: &str, id: &str) -> Self {
        let message = self.message.clone();
        self.precondition(&format!("{noun}/{id}"), &message)
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if let Error::Internal(cause) = &error {
            tracing::error!(%cause, "internal error");
        }
        let mut answer = error.answer();
        answer.details.set_error_info(answer.reason, PACKAGE, answer.metadata);
        Self::with_error_details(answer.code, answer.message, answer.details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_details_never_reach_a_client() {
        let status = Status::from(Error::Internal("password authentication failed for user ca at 10.0.0.3".into()));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("password"), "{status:?}");
    }

    #[test]
    fn all_violations_are_listed_and_named_in_the_message() {
        let status = Status::from(Error::Invalid(vec![
            Violation { field: "account.display_name".into(), rule: "is required".into() },
            Violation { field: "page_size".into(), rule: "must not be negative".into() },
        ]));
        assert_eq!(status.message(), "2 invalid fields: account.display_name: is required; page_size: must not be negative");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        assert_eq!(details.error_info().unwrap().domain, "accounts.v1");
    }
}
