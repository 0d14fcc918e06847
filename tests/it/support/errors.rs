//! What tests assert about errors.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use customer_accounts::proto::POOL;
use prost::Message as _;
use prost_reflect::FileDescriptor;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

/// An answer that is an error, or the error itself.
pub trait Refused {
    fn status(&self) -> &Status;
}

impl Refused for Status {
    fn status(&self) -> &Status {
        self
    }
}

impl<T: std::fmt::Debug> Refused for Result<T, Status> {
    #[track_caller]
    fn status(&self) -> &Status {
        self.as_ref().expect_err("an error")
    }
}

impl<R: Refused> Refused for &R {
    #[track_caller]
    fn status(&self) -> &Status {
        (*self).status()
    }
}

/// The reason of an error. Fails unless the error has the code that the contract gives the reason.
#[track_caller]
pub fn refusal(answer: impl Refused) -> String {
    let (status, details) = refused(answer);
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    let reasons = POOL.get_enum_by_name("accounts.v1.ErrorReason").unwrap();
    let value = reasons.get_value_by_name(&format!("ERROR_REASON_{}", info.reason));
    let value = value.unwrap_or_else(|| panic!("{} is no ErrorReason: {status:?}", info.reason));
    let comment = comment(&reasons.parent_file(), value.path());
    let (code, _) = comment.split_once(". ").expect("a code, and what to do");
    assert_eq!(screaming(status.code()), code, "{} has another code: {status:?}", info.reason);
    info.reason.clone()
}

/// The comment of what a path in a file of the contract leads to, on one line.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let mut locations = info.expect("the descriptor set has the comments").location.iter();
    let location = locations.find(|location| location.path == path);
    let comment = location.map_or("", |location| location.leading_comments());
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name of a code as gRPC has it: `INVALID_ARGUMENT`.
pub fn screaming(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
    }
    name
}

/// The error and its details.
#[track_caller]
pub fn refused(answer: impl Refused) -> (Status, ErrorDetails) {
    let status = answer.status().clone();
    let details = status.get_error_details();
    (status, details)
}

/// The fields and rules that a request breaks.
#[track_caller]
pub fn violations(answer: impl Refused) -> Vec<(String, String)> {
    let (status, details) = refused(answer);
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = details.bad_request().expect("field violations").field_violations.clone();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// That two errors differ in nothing but the id they were asked for.
#[track_caller]
pub fn assert_same_words(
    call: &str,
    (one, id): (&Status, &str),
    (other, other_id): (&Status, &str),
) {
    let words = |status: &Status| {
        let headers: BTreeSet<_> = status.metadata().keys().map(|key| format!("{key:?}")).collect();
        (status.code(), status.message().to_owned(), written_out(status), headers)
    };
    let (code, message, details, headers) = words(one);
    assert_eq!(
        (code, message.replace(id, other_id), details.replace(id, other_id), headers),
        words(other),
        "{call}"
    );
}

/// The details of an error as one text, and how long they are encoded. Metadata is a map, encoded
/// in any order.
fn written_out(status: &Status) -> String {
    let encoded = pb::Status::decode(status.details()).unwrap();
    let details = encoded.details.iter().map(|detail| {
        if detail.type_url.ends_with("/google.rpc.ErrorInfo") {
            let pb::ErrorInfo { reason, domain, metadata } =
                pb::ErrorInfo::decode(&*detail.value).unwrap();
            return format!(
                "{reason} {domain} {:?}",
                metadata.into_iter().collect::<BTreeMap<_, _>>()
            );
        }
        format!("{} {}", detail.type_url, String::from_utf8_lossy(&detail.value))
    });
    let details = details.collect::<Vec<_>>().join("\n");
    format!("{} {} {} bytes\n{details}", encoded.code, encoded.message, status.details().len())
}

#[test]
#[should_panic(expected = "ORGANIZATION_CYCLE has another code")]
fn a_reason_with_another_code_is_noticed() {
    let details =
        ErrorDetails::with_error_info("ORGANIZATION_CYCLE", "accounts.v1", HashMap::new());
    refusal(Status::with_error_details(Code::Aborted, "", details));
}
