//! Makes the gRPC status of each error, small enough for clients.
//!
//! A status is sent in HTTP headers, encoded, and many clients accept no more than 8 KiB of
//! headers: for them, a larger error is a broken connection. So every status is kept within
//! [`MAX_STATUS`]: texts are cut, and lists keep the entries that fit. The reason is always there.

use tonic::{Status, metadata::MetadataValue};
use tonic_types::StatusExt as _;

use super::{Error, NAMED, Refusal, code};
use crate::proto::PACKAGE;

/// Most bytes of an encoded status: `grpc-message` and `grpc-status-details-bin` together. 1 KiB of
/// the 8 is left for the other headers of the answer and those that proxies add.
const MAX_STATUS: usize = 7 * 1024;
/// Most bytes of an encoded message. The details repeat the message up to twice.
pub(super) const MAX_MESSAGE: usize = 1024;
/// Most bytes of a resource's name in the details.
pub(super) const MAX_NAME: usize = 1024;
/// Most bytes of any other text in the details. An id has at most 200.
pub(super) const MAX_TEXT: usize = 512;
/// Bytes of a list's entry beside its texts, and of a list beside its entries: the name of its
/// type, and the entry that counts what was left out.
const ENTRY: usize = 16;
const LIST: usize = 160;

impl Refusal {
    /// The status, with as many entries of its lists as fit.
    fn into_status(mut self) -> Status {
        let code = code(self.reason);
        // The reason as `ErrorInfo` has it: the name of the enum value without its prefix.
        let reason = self.reason.as_str_name().trim_start_matches("ERROR_REASON_");
        self.details.set_error_info(reason, PACKAGE, self.metadata);
        let fixed =
            Status::with_error_details(code, &*self.message, self.details.clone()).details().len()
                + LIST;
        // Base64 encodes three bytes as four.
        let mut left =
            ((MAX_STATUS - percent_encoded_len(&self.message)) / 4 * 3).saturating_sub(fixed);
        let mut fits = |texts: &[&str]| {
            let rest = left.checked_sub(texts.iter().map(|text| text.len()).sum::<usize>() + ENTRY);
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let short = |text: String| cut(text, MAX_TEXT, char::len_utf8);
        let mut left_out = self.uncounted + self.violations.len();
        for violation in self.violations {
            let (field, rule) = (short(violation.field), short(violation.rule));
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
        for (subject, description) in self.preconditions.into_iter().take(NAMED) {
            let (subject, description) = (short(subject), short(description));
            if !fits(&[reason, &subject, &description]) {
                break;
            }
            self.details.add_precondition_failure_violation(reason, subject, description);
        }
        let mut status = Status::with_error_details(code, self.message, self.details);
        if let Some((name, value)) = self.header {
            status.metadata_mut().insert(name, MetadataValue::from_static(value));
        }
        status
    }
}

/// The beginning of a text, of at most `max` bytes; `bytes` is the size of a character.
pub(super) fn cut(mut text: String, max: usize, bytes: fn(char) -> usize) -> String {
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

/// The size of a text as `grpc-message`.
pub(super) fn percent_encoded_len(text: &str) -> usize {
    text.chars().map(percent_encoded_char).sum()
}

/// The size of a character in `grpc-message`: `%` and two digits for each byte that is not a plain
/// character (gRPC over HTTP/2, Status-Message). tonic encodes a few more characters than it must.
pub(super) fn percent_encoded_char(c: char) -> usize {
    if c.is_ascii_graphic() && !"\"#%<>`?{}".contains(c) { 1 } else { 3 * c.len_utf8() }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if let Error::Internal { cause, at } = &error {
            tracing::error!(cause, %at, "internal error");
        }
        error.into_refusal().into_status()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::{error::Violation, proto::ErrorReason};

    #[test]
    fn inner_details_never_reach_a_client() {
        let status =
            Status::from(Error::internal("password authentication failed for user ca at 10.0.0.3"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("password"), "{status:?}");
    }

    #[test]
    fn an_internal_error_says_where_in_the_code_it_was_noticed() {
        let place = |error| match error {
            Error::Internal { at, .. } => (at.file(), at.line()),
            other => panic!("{other:?}"),
        };
        assert_eq!(place(Error::internal("a fault")), (file!(), line!()));
        let query = || -> Result<(), Error> {
            Err::<(), _>(diesel::result::Error::NotFound)?;
            Ok(())
        };
        let line = line!() - 3;
        assert_eq!(query().map_err(place), Err((file!(), line)), "the line of the `?`");
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

    /// The longest id: 50 characters of 4 bytes. In a message each byte is encoded as 3.
    fn id() -> String {
        "\u{1f600}".repeat(50)
    }

    /// Errors with ids, names and texts of the maximum size: every kind of detail that a slice can
    /// add, and every error that has a text of its own.
    fn worst() -> Vec<Error> {
        let text = || "\u{1f600}".repeat(10_000);
        let refusal = || Refusal::new(ErrorReason::OrganizationNotEmpty, text());
        let ids = |refusal: Refusal| {
            ["account_id", "person_id", "organization_id", "parent_id"]
                .into_iter()
                .fold(refusal, |refusal, key| refusal.with(key, &id()))
        };
        let preconditions = |subject: &str, description: &str| {
            (0..1000).fold(ids(refusal()), |refusal, _| refusal.precondition(subject, description))
        };
        let violation = |chars: usize| Violation {
            field: "\u{1f600}".repeat(chars),
            rule: "\u{1f600}".repeat(chars),
        };
        let mut errors: Vec<Error> = [
            ids(refusal()).resource("account_type", &text()).with("field", "display_name"),
            ids(refusal()).broken_by("organization", &id()),
            ids(refusal()).broken_by("organization", &id()).resource("organization", &id()),
            ids(refusal()).field("request_id").retry_after(Duration::from_secs(5)),
            ids(refusal()).header("grpc-accept-encoding", "gzip,identity"),
            preconditions("s", "d"),
            preconditions(&format!("account/{}/cc_billing_contact", id()), &text()),
            preconditions(&text(), &text()).resource("account_type", &text()).field("cursor"),
            refusal().with("permission", &text()).with("encoding", &text()),
        ]
        .map(Error::from)
        .into();
        errors.extend([1, 20, 150, 10_000].map(|chars| Error::Invalid {
            violations: vec![violation(chars); 100],
            count: 4_000_000,
        }));
        errors.extend([
            Error::invalid(text(), text()),
            Error::Conflict,
            Error::Overloaded,
            Error::DeadlineExceeded,
            Error::DatabaseUnavailable,
            Error::DatabaseReadOnly,
            Error::Locked,
            Error::OutcomeUnknown { repeatable: true },
            Error::Unimplemented(text()),
            Error::RequestTooLarge,
            Error::ResponseTooLarge,
            Error::MalformedRequest,
            Error::internal(text()),
        ]);
        errors
    }

    #[test]
    fn every_error_fits_into_the_headers_that_clients_accept_and_keeps_its_reason() {
        for error in worst() {
            let name: String = format!("{error:?}").chars().take(60).collect();
            let reason = error.reason();
            let headers = Status::from(error).into_http::<()>().headers().clone();
            let size: usize = headers
                .iter()
                .filter(|(name, _)| name.as_str().starts_with("grpc-"))
                .map(|(name, value)| name.as_str().len() + value.len() + 32)
                .sum();
            // This much of the 8 KiB that clients accept is left for other headers.
            assert!(size + 800 <= 8 * 1024, "{name}: {size} bytes");
            let status = Status::from_header_map(&headers).unwrap();
            let details = status.get_error_details();
            let info = details.error_info().unwrap_or_else(|| panic!("{name} has no reason"));
            assert_eq!(format!("ERROR_REASON_{}", info.reason), reason.as_str_name(), "{name}");
            assert_eq!(status.code(), code(reason), "{name}");
            assert!(!status.message().is_empty(), "{name}");
            // Ids, which programs read, are never cut.
            for (key, value) in info.metadata.iter().filter(|(key, _)| key.ends_with("_id")) {
                assert_eq!(*value, id(), "{name}: {key}");
            }
        }
    }

    #[test]
    fn lists_have_the_entries_that_fit_and_count_the_others() {
        let entries = |id: &str| {
            let subject = format!("account/{id}/billing_contact");
            let description = format!("held by person {id:?}: put someone else there, or nobody");
            let refusal = Refusal::new(ErrorReason::ContactSlotHeld, "1000 slots");
            let refusal = (0..1000).fold(refusal.with("slots", &1000), |refusal, _| {
                refusal.precondition(&subject, &description)
            });
            let details = Status::from(Error::from(refusal)).get_error_details();
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
