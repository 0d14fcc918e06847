//! How each error is answered: its code, its reason and its details, within what clients accept.
//!
//! An error travels in HTTP headers, encoded, and many clients take no more than 8 KiB of these: to
//! them a longer error is a broken connection. So every status is made here within [`MAX_STATUS`]:
//! texts are cut, and of a list those entries stay that fit. The reason always stays.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Error, Kind, NAMED, Violation};
use crate::{
    gzip,
    memberships::slots::Holder,
    proto::{ErrorReason, PACKAGE},
};

/// Most bytes of an encoded status: `grpc-message` and `grpc-status-details-bin` together. 1 KiB of
/// the 8 is left for the other headers of an answer and for what proxies add.
const MAX_STATUS: usize = 7 * 1024;
/// Most bytes of an encoded message. The details repeat it up to twice.
pub(super) const MAX_MESSAGE: usize = 1024;
/// Most bytes of a resource's name in the details.
const MAX_NAME: usize = 1024;
/// Most bytes of another text in the details. An id has at most 200.
const MAX_TEXT: usize = 512;
/// Bytes that an entry of a list takes beside its texts, and those that a list takes beside its
/// entries: the name of its type, and the entry that counts what was left out.
const ENTRY: usize = 16;
const LIST: usize = 160;
/// How long a client should wait before it tries again what failed for lack of room or of a
/// database.
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
    #[expect(
        clippy::too_many_lines,
        reason = "a line or a few for each error, in the one place to look it up"
    )]
    fn answer(&self) -> Answer {
        use ErrorReason as Reason;
        let answer = |code, reason| Answer::new(code, reason, self.to_string());
        match self {
            Self::Invalid { violations, count } => {
                answer(Code::InvalidArgument, Reason::InvalidField).violations(violations, *count)
            }
            Self::PageToken => {
                answer(Code::InvalidArgument, Reason::InvalidPageToken).field("page_token")
            }
            Self::Cursor => answer(Code::InvalidArgument, Reason::InvalidCursor).field("cursor"),
            // Like reading before the beginning of a file; etcd answers a compacted revision the
            // same way.
            Self::CursorExpired => answer(Code::OutOfRange, Reason::CursorExpired),
            Self::WatchEnded => {
                answer(Code::Unavailable, Reason::WatchEnded).retry_after(RETRY_RACE_AFTER)
            }
            Self::RequestIdReused => {
                answer(Code::InvalidArgument, Reason::RequestIdReused).field("request_id")
            }
            Self::MalformedRequest => answer(Code::InvalidArgument, Reason::MalformedRequest),
            Self::RequestTooLarge => answer(Code::OutOfRange, Reason::RequestTooLarge),
            Self::ResponseTooLarge => answer(Code::OutOfRange, Reason::ResponseTooLarge),
            Self::Unauthenticated(_) => answer(Code::Unauthenticated, Reason::Unauthenticated),
            Self::PermissionDenied { permission } => {
                answer(Code::PermissionDenied, Reason::PermissionDenied)
                    .with("permission", permission)
            }
            Self::OutOfReach { .. } => answer(Code::PermissionDenied, Reason::OutOfReach),
            Self::ModuleOff { module, organization_id } => {
                let level = if organization_id.is_some() { "ORGANIZATION" } else { "TENANT" };
                let answer = answer(Code::PermissionDenied, Reason::ModuleNotActivated)
                    .with("module", module)
                    .with("level", &level);
                organization_id.iter().fold(answer, |answer, id| answer.with("organization_id", id))
            }
            Self::WorkloadNotAllowed { workload } => {
                answer(Code::PermissionDenied, Reason::WorkloadNotAllowed)
                    .with("workload", &workload.as_deref().unwrap_or_default())
            }
            Self::NotFound { kind, id } => answer(Code::NotFound, kind.not_found())
                .with(&kind.id_field(), id)
                .resource(*kind, id),
            Self::OrganizationMemberNotFound { organization_id, person_id } => {
                let answer = answer(Code::NotFound, Reason::OrganizationMemberNotFound)
                    .resource(Kind::Person, person_id);
                answer.with("organization_id", organization_id).with("person_id", person_id)
            }
            Self::AlreadyExists { kind, field, value } => {
                let answer =
                    answer(Code::AlreadyExists, kind.already_exists()).resource(*kind, value);
                match kind {
                    // More than the id can be taken.
                    Kind::AccountType | Kind::Person => answer.with("field", field),
                    Kind::Account | Kind::Organization => answer.with(field, value),
                }
            }
            Self::EtagMismatch { kind, id } => {
                answer(Code::Aborted, Reason::EtagMismatch).with(&kind.id_field(), id)
            }
            Self::SettingsChanged => answer(Code::Aborted, Reason::EtagMismatch),
            Self::AccountUserEtagMismatch { account_id, person_id } => {
                answer(Code::Aborted, Reason::EtagMismatch)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::Conflict | Self::Retry => {
                answer(Code::Aborted, Reason::Conflict).retry_after(RETRY_RACE_AFTER)
            }
            Self::AccountTypeInactive { id } => {
                answer(Code::FailedPrecondition, Reason::AccountTypeInactive)
                    .broken("account_type", id)
                    .with("account_type_id", id)
            }
            Self::DefaultAccountTypeInactive { id } => {
                answer(Code::FailedPrecondition, Reason::DefaultAccountTypeInactive)
                    .broken("account_type", id)
                    .with("account_type_id", id)
            }
            Self::StatusTransition { id, from, to } => {
                answer(Code::FailedPrecondition, Reason::AccountStatusTransition)
                    .broken("account", id)
                    .with("account_id", id)
                    .with("from", from)
                    .with("to", to)
            }
            Self::OrganizationTooDeep { parent_id } => {
                answer(Code::FailedPrecondition, Reason::OrganizationTooDeep)
                    .broken("organization", parent_id)
                    .with("parent_id", parent_id)
            }
            Self::OrganizationCycle { organization_id, parent_id } => {
                answer(Code::FailedPrecondition, Reason::OrganizationCycle)
                    .broken("organization", organization_id)
                    .with("organization_id", organization_id)
                    .with("parent_id", parent_id)
            }
            Self::OrganizationNotEmpty { organization_id, children, accounts, links } => {
                let counts = [("children", children), ("accounts", accounts), ("links", links)];
                let answer = answer(Code::FailedPrecondition, Reason::OrganizationNotEmpty)
                    .with("organization_id", organization_id);
                counts.into_iter().fold(answer, |answer, (what, count)| {
                    let answer = answer.with(what, count);
                    let subject = format!("organization/{organization_id}");
                    if *count > 0 {
                        answer.precondition(&subject, &format!("it has {count} {what}"))
                    } else {
                        answer
                    }
                })
            }
            Self::NotAnAccountUser { account_id, person_id } => {
                answer(Code::FailedPrecondition, Reason::NotAnAccountUser)
                    .broken("account", account_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::AccountUserNotFound { account_id, person_id } => {
                answer(Code::NotFound, Reason::AccountUserNotFound)
                    .resource(Kind::Person, person_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::AccountUserAlreadyExists { account_id, person_id } => {
                answer(Code::AlreadyExists, Reason::AccountUserAlreadyExists)
                    .resource(Kind::Person, person_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::OrganizationNotLinked { account_id, organization_id } => {
                answer(Code::NotFound, Reason::OrganizationNotLinked)
                    .resource(Kind::Organization, organization_id)
                    .with("account_id", account_id)
                    .with("organization_id", organization_id)
            }
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
                    answer.precondition(
                        &format!("organization/{id}"),
                        "take the person out of it, or unlink it",
                    )
                })
            }
            Self::ContactMembershipEnds { account_id, person_id } => {
                answer(Code::FailedPrecondition, Reason::ContactMembershipEnds)
                    .broken("account", account_id)
                    .with("account_id", account_id)
                    .with("person_id", person_id)
            }
            Self::ContactSlotHeld { slots, count } => {
                let answer =
                    answer(Code::FailedPrecondition, Reason::ContactSlotHeld).with("slots", count);
                slots.iter().take(NAMED).fold(
                    answer,
                    |answer, Holder { account_id, slot, person_id }| {
                        let subject = format!("account/{account_id}/{}", slot.name());
                        answer.precondition(
                            &subject,
                            &format!(
                                "held by person {person_id:?}: put someone else there, or nobody"
                            ),
                        )
                    },
                )
            }
            Self::PersonNotCustomer { person_id } => {
                answer(Code::FailedPrecondition, Reason::PersonNotCustomer)
                    .broken("person", person_id)
                    .with("person_id", person_id)
            }
            Self::AccountNotActive { account_id } => {
                answer(Code::FailedPrecondition, Reason::AccountNotActive)
                    .broken("account", account_id)
                    .with("account_id", account_id)
            }
            Self::PersonInactive { person_id } => {
                answer(Code::FailedPrecondition, Reason::PersonInactive)
                    .broken("person", person_id)
                    .with("person_id", person_id)
            }
            Self::PersonNotStaff { person_id } => {
                answer(Code::FailedPrecondition, Reason::PersonNotStaff)
                    .broken("person", person_id)
                    .with("person_id", person_id)
            }
            Self::PersonInUse { person_id, accounts, first } => {
                let answer = answer(Code::FailedPrecondition, Reason::PersonInUse)
                    .with("person_id", person_id)
                    .with("accounts", accounts);
                first.iter().fold(answer, |answer, account_id| {
                    let subject = format!("account/{account_id}/account_manager");
                    answer.precondition(&subject, "give the account another manager, or none")
                })
            }
            Self::Overloaded => {
                answer(Code::ResourceExhausted, Reason::Overloaded).retry_after(RETRY_AFTER)
            }
            Self::DeadlineExceeded => answer(Code::DeadlineExceeded, Reason::DeadlineExceeded),
            Self::Locked => answer(Code::Aborted, Reason::Conflict).retry_after(RETRY_AFTER),
            Self::DatabaseUnavailable | Self::DatabaseReadOnly => {
                answer(Code::Unavailable, Reason::DatabaseUnavailable).retry_after(RETRY_AFTER)
            }
            Self::OutcomeUnknown { repeatable } => {
                let answer = answer(Code::Unknown, Reason::OutcomeUnknown);
                if *repeatable { answer.retry_after(RETRY_AFTER) } else { answer }
            }
            Self::IssuerUnavailable => {
                answer(Code::Unavailable, Reason::IssuerUnavailable).retry_after(RETRY_ISSUER_AFTER)
            }
            Self::Unimplemented(_) => answer(Code::Unimplemented, Reason::Unimplemented),
            Self::UnsupportedEncoding { encoding } => {
                answer(Code::Unimplemented, Reason::UnsupportedEncoding)
                    .with("encoding", encoding)
                    .with("accepted", &gzip::ACCEPTED)
            }
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
    /// Fields of the request with their rules.
    violations: Vec<(String, String)>,
    /// How many violations there are beside these.
    uncounted: usize,
    /// Subjects with what is wrong with them.
    preconditions: Vec<(String, String)>,
}

impl Answer {
    fn new(code: Code, reason: ErrorReason, message: String) -> Self {
        // The reason as it stands in `ErrorInfo`: the name of the enum value without its prefix.
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned();
        Self {
            code,
            reason,
            message: cut(message, MAX_MESSAGE, percent_encoded_char),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
            violations: Vec::new(),
            uncounted: 0,
            preconditions: Vec::new(),
        }
    }

    /// What a program reads from the error besides its reason.
    fn with(mut self, key: &str, value: &impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), cut(value.to_string(), MAX_TEXT, char::len_utf8));
        self
    }

    /// The message, as the rule that one field breaks.
    fn field(mut self, field: &str) -> Self {
        self.violations.push((field.to_owned(), self.message.clone()));
        self
    }

    fn violations(mut self, violations: &[Violation], count: usize) -> Self {
        let entry = |violation: &Violation| (violation.field.clone(), violation.rule.clone());
        self.violations.extend(violations.iter().map(entry));
        self.uncounted = count - violations.len();
        self
    }

    fn resource(mut self, kind: Kind, name: &str) -> Self {
        let words = kind.noun().split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        let name = cut(name.to_owned(), MAX_NAME, char::len_utf8);
        self.details.set_resource_info(
            format!("{PACKAGE}.{}", words.collect::<String>()),
            name,
            "",
            &self.message,
        );
        self
    }

    fn precondition(mut self, subject: &str, description: &str) -> Self {
        self.preconditions.push((subject.to_owned(), description.to_owned()));
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

    /// The status, with as many entries of its lists as fit.
    fn status(mut self) -> Status {
        self.details.set_error_info(&*self.reason, PACKAGE, self.metadata);
        let fixed = Status::with_error_details(self.code, &*self.message, self.details.clone())
            .details()
            .len()
            + LIST;
        // Base64 makes four bytes of three.
        let mut left =
            ((MAX_STATUS - percent_encoded_len(&self.message)) / 4 * 3).saturating_sub(fixed);
        let mut fits = |texts: &[&str]| {
            let rest = left.checked_sub(texts.iter().map(|text| text.len()).sum::<usize>() + ENTRY);
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let short = |text: String| cut(text, MAX_TEXT, char::len_utf8);
        let mut left_out = self.uncounted + self.violations.len();
        for (field, rule) in
            self.violations.into_iter().map(|(field, rule)| (short(field), short(rule)))
        {
            if !fits(&[&field, &rule]) {
                break;
            }
            self.details.add_bad_request_violation(field, rule);
            left_out -= 1;
        }
        if left_out > 0 {
            self.details
                .add_bad_request_violation("", format!("and {left_out} more, too many to list"));
        }
        for (subject, description) in
            self.preconditions.into_iter().map(|(subject, text)| (short(subject), short(text)))
        {
            if !fits(&[&self.reason, &subject, &description]) {
                break;
            }
            self.details.add_precondition_failure_violation(&*self.reason, subject, description);
        }
        Status::with_error_details(self.code, self.message, self.details)
    }
}

/// The beginning of a text that takes at most `max` bytes, of which each character takes `bytes`.
fn cut(mut text: String, max: usize, bytes: fn(char) -> usize) -> String {
    const ELLIPSIS: char = '…';
    if text.chars().map(bytes).sum::<usize>() <= max {
        return text;
    }
    let mut taken = bytes(ELLIPSIS);
    let first_left_out = text.char_indices().find(|(_, c)| {
        taken += bytes(*c);
        taken > max
    });
    if let Some((end, _)) = first_left_out {
        text.truncate(end);
    }
    text.push(ELLIPSIS);
    text
}

/// The bytes that a text takes as `grpc-message`.
pub(super) fn percent_encoded_len(text: &str) -> usize {
    text.chars().map(percent_encoded_char).sum()
}

/// `%` and two digits for each byte that is not a plain character (gRPC over HTTP/2,
/// Status-Message); tonic encodes a few more than it must.
fn percent_encoded_char(c: char) -> usize {
    if c.is_ascii_graphic() && !"\"#%<>`?{}".contains(c) { 1 } else { 3 * c.len_utf8() }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if let Error::Internal(cause) = &error {
            tracing::error!(%cause, "internal error");
        }
        let mut status = error.answer().status();
        if matches!(error, Error::UnsupportedEncoding { .. }) {
            // As gRPC asks for (Compression, "Unsupported algorithm").
            let accepted = MetadataValue::from_static(gzip::ACCEPTED);
            status.metadata_mut().insert(gzip::ACCEPT_ENCODING, accepted);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memberships::slots::Slot;

    #[test]
    fn inner_details_never_reach_a_client() {
        let status = Status::from(Error::Internal(
            "password authentication failed for user ca at 10.0.0.3".into(),
        ));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("password"), "{status:?}");
    }

    #[test]
    fn all_violations_are_listed_and_named_in_the_message() {
        let violations = vec![
            Violation { field: "account.display_name".into(), rule: "is required".into() },
            Violation { field: "page_size".into(), rule: "must not be negative".into() },
        ];
        let status = Status::from(Error::Invalid { violations, count: 2 });
        assert_eq!(
            status.message(),
            "2 invalid fields: account.display_name: is required; page_size: must not be negative"
        );
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 2);
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        assert_eq!(details.error_info().unwrap().domain, "accounts.v1");
    }

    /// One error at least of each reason, with ids, names and texts as large as they get.
    fn worst() -> Vec<Error> {
        // The longest id: 50 characters of 4 bytes; 3 bytes each on the wire for every byte in a
        // message.
        let id = || "\u{1f600}".repeat(50);
        let ids = || vec![id(); 1000];
        let text = || "\u{1f600}".repeat(10_000);
        let kinds = [Kind::Account, Kind::AccountType, Kind::Organization, Kind::Person];
        let (account_id, person_id, organization_id, parent_id) = (id, id, id, id);
        let violation = |chars: usize| Violation {
            field: "\u{1f600}".repeat(chars),
            rule: "\u{1f600}".repeat(chars),
        };
        let holder = || Holder { account_id: id(), slot: Slot::CcBilling, person_id: id() };
        let mut errors: Vec<_> =
            kinds.iter().map(|kind| Error::NotFound { kind: *kind, id: id() }).collect();
        errors.extend(kinds.iter().map(|kind| Error::EtagMismatch { kind: *kind, id: id() }));
        errors.extend(kinds.iter().map(|kind| Error::AlreadyExists {
            kind: *kind,
            field: "display_name",
            value: text(),
        }));
        errors.extend([1, 20, 150, 10_000].map(|chars| Error::Invalid {
            violations: vec![violation(chars); 100],
            count: 4_000_000,
        }));
        errors.extend(
            [1, 1000].map(|count| Error::ContactSlotHeld { slots: vec![holder(); count], count }),
        );
        errors.extend([
            Error::ContactSlotHeld { slots: Vec::new(), count: 3 },
            Error::invalid(text(), text()),
            Error::PageToken,
            Error::UnsupportedEncoding { encoding: text() },
            Error::Cursor,
            Error::CursorExpired,
            Error::WatchEnded,
            Error::RequestIdReused,
            Error::OutOfReach { why: "it is out of reach" },
            Error::SettingsChanged,
            Error::AccountUserEtagMismatch { account_id: account_id(), person_id: person_id() },
            Error::Conflict,
            Error::AccountTypeInactive { id: id() },
            Error::DefaultAccountTypeInactive { id: id() },
            Error::StatusTransition { id: id(), from: "INACTIVE", to: "SUSPENDED" },
            Error::OrganizationTooDeep { parent_id: parent_id() },
            Error::OrganizationCycle { organization_id: organization_id(), parent_id: parent_id() },
            Error::OrganizationNotEmpty {
                organization_id: organization_id(),
                children: i64::MAX,
                accounts: i64::MAX,
                links: i64::MAX,
            },
            Error::OrganizationMemberNotFound {
                organization_id: organization_id(),
                person_id: person_id(),
            },
            Error::NotAnAccountUser { account_id: account_id(), person_id: person_id() },
            Error::AccountUserNotFound { account_id: account_id(), person_id: person_id() },
            Error::AccountUserAlreadyExists { account_id: account_id(), person_id: person_id() },
            Error::UserThroughOrganization {
                account_id: account_id(),
                person_id: person_id(),
                organization_ids: ids(),
            },
            Error::OrganizationNotLinked {
                account_id: account_id(),
                organization_id: organization_id(),
            },
            Error::OwnOrganizationLinked {
                account_id: account_id(),
                organization_id: organization_id(),
            },
            Error::ContactMembershipEnds { account_id: account_id(), person_id: person_id() },
            Error::PersonNotCustomer { person_id: person_id() },
            Error::AccountNotActive { account_id: account_id() },
            Error::PersonInactive { person_id: person_id() },
            Error::PersonNotStaff { person_id: person_id() },
            Error::PersonInUse { person_id: person_id(), accounts: i64::MAX, first: ids() },
            Error::Unauthenticated(text()),
            Error::PermissionDenied { permission: text() },
            Error::ModuleOff {
                module: "customer_accounts",
                organization_id: Some(organization_id()),
            },
            Error::WorkloadNotAllowed { workload: Some(text().into()) },
            Error::Overloaded,
            Error::DeadlineExceeded,
            Error::DatabaseUnavailable,
            Error::DatabaseReadOnly,
            Error::Locked,
            Error::OutcomeUnknown { repeatable: true },
            Error::IssuerUnavailable,
            Error::Unimplemented(text()),
            Error::RequestTooLarge,
            Error::ResponseTooLarge,
            Error::MalformedRequest,
            Error::Internal(text()),
        ]);
        errors
    }

    #[test]
    fn every_error_fits_into_the_headers_that_clients_accept_and_keeps_its_reason() {
        let mut reasons = std::collections::BTreeSet::new();
        for error in worst() {
            let what: String = format!("{error:?}").chars().take(60).collect();
            let headers = Status::from(error).into_http::<()>().headers().clone();
            let size: usize = headers
                .iter()
                .filter(|(name, _)| name.as_str().starts_with("grpc-"))
                .map(|(name, value)| name.as_str().len() + value.len() + 32)
                .sum();
            // Of the 8 KiB that clients accept, so much stays for the other headers.
            assert!(size + 800 <= 8 * 1024, "{what}: {size} bytes");
            let status = Status::from_header_map(&headers).unwrap();
            let details = status.get_error_details();
            let info = details.error_info().unwrap_or_else(|| panic!("{what} has no reason"));
            assert!(!status.message().is_empty(), "{what}");
            reasons.insert(info.reason.clone());
            // An id that a program reads is never cut.
            for (key, value) in info.metadata.iter().filter(|(key, _)| key.ends_with("_id")) {
                assert_eq!(value.chars().count(), 50, "{what}: {key}");
            }
        }
        let all = crate::proto::POOL.get_enum_by_name("accounts.v1.ErrorReason").unwrap();
        let all = all.values().filter(|value| value.number() != 0);
        let all: std::collections::BTreeSet<_> =
            all.map(|value| value.name().replace("ERROR_REASON_", "")).collect();
        assert_eq!(reasons, all, "`worst` has an error of each reason");
    }

    #[test]
    fn lists_have_the_entries_that_fit_and_count_the_others() {
        let entries = |id: &str| {
            let holder =
                Holder { account_id: id.to_owned(), slot: Slot::Billing, person_id: id.to_owned() };
            let details =
                Status::from(Error::ContactSlotHeld { slots: vec![holder; 1000], count: 1000 })
                    .get_error_details();
            assert_eq!(details.error_info().unwrap().metadata["slots"], "1000");
            details.precondition_failure().unwrap().violations.len()
        };
        assert_eq!(entries(&"x".repeat(20)), NAMED);
        assert!((3..NAMED).contains(&entries(&"\u{1f600}".repeat(50))), "fewer, but some");
        let violations =
            vec![Violation { field: "f".repeat(150), rule: "is required".into() }; 100];
        let details = Status::from(Error::Invalid { violations, count: 250 }).get_error_details();
        let listed = &details.bad_request().unwrap().field_violations;
        let (last, fitting) = listed.split_last().unwrap();
        assert!(fitting.len() > 10 && fitting.len() < 100, "{}", fitting.len());
        assert_eq!(last.description, format!("and {} more, too many to list", 250 - fitting.len()));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("short".into(), 5, char::len_utf8), "short");
        assert_eq!(cut("sh\u{e9}rter".into(), 6, char::len_utf8), "sh\u{2026}");
        assert_eq!(cut("\u{1f600}".repeat(3), 11, char::len_utf8), "\u{1f600}\u{1f600}\u{2026}");
        assert_eq!(percent_encoded_len("a b\u{e9}%"), 1 + 3 + 1 + 6 + 3);
    }
}
