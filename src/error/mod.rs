//! The error type of the service, and its translation to `google.rpc.Status`.
//!
//! Every error has an `ErrorInfo` with a stable reason, one of `accounts.v1.ErrorReason`. Internal
//! causes (SQL, addresses, panics) are logged and never sent to a client.
//!
//! The variants of [`Error`] are technical. When a rule of a slice refuses a call, the error is a
//! [`Refusal`], made by a function of the slice's `refusals.rs`.

mod answer;
mod code;
mod refusal;

use std::{panic::Location, time::Duration};

pub use self::{
    code::code,
    refusal::{NAMED, Refusal},
};
use crate::{proto::ErrorReason, telemetry::metrics::CALLS_SHED};

/// The result of calls and of everything below them.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of a message beside its violations: how many there are, and how many are left out.
const SUMMARY_FRAME: usize = 100;
/// How long a client should wait before it repeats a call that failed because the service or the
/// database was busy or not there.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client should wait before it repeats a call that lost a race.
const RETRY_RACE_AFTER: Duration = Duration::from_millis(100);

/// A field of a request and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request: `account.billing_address.country`.
    pub field: String,
    /// The rule, for the person who reads the error.
    pub rule: String,
}

/// Separates a refusal, which may turn out not to matter, from an error after which the transaction
/// cannot go on, such as a deadlock.
pub fn put_aside<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(refusal @ Error::Refused(_)) => Ok(Err(refusal)),
        result => result.map(Ok),
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request break rules.
    #[error("{}", summary(.violations, *.count))]
    Invalid {
        /// The violations; of very many, the first.
        violations: Vec<Violation>,
        /// How many there are in all.
        count: usize,
    },
    /// A rule of a slice, or of the caller's permissions, refuses the call.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The change lost races against concurrent changes in every attempt.
    #[error(
        "the change lost against concurrent changes of the same resources several times; nothing \
         was changed"
    )]
    Conflict,
    /// The service or the tenant's share of it is busy; the call was not started.
    #[error("the service is busy; the call was not started")]
    Overloaded,
    /// The caller's deadline, or the service's maximum, has passed.
    #[error("the call took longer than its deadline")]
    DeadlineExceeded,
    /// Another transaction held a lock that the change needs for too long.
    #[error(
        "a concurrent change holds a lock that this one needs, and has not ended in time; nothing \
         was changed"
    )]
    Locked,
    /// The database cannot be reached.
    #[error("the database cannot be reached; nothing was changed")]
    DatabaseUnavailable,
    /// The database accepts no writes: it is a standby, or set to read only.
    #[error("the database accepts no writes at present; nothing was changed")]
    DatabaseReadOnly,
    /// The connection to the database was lost while it committed the change.
    #[error(
        "the connection to the database was lost while the change was committed: it may have been \
         made or not"
    )]
    OutcomeUnknown {
        /// Whether repeating the request cannot make the change twice.
        repeatable: bool,
    },
    /// There is no such call.
    #[error("the service has no call {0}")]
    Unimplemented(String),
    /// The request message, or its metadata, is larger than the service accepts.
    #[error("the request is larger than the service accepts")]
    RequestTooLarge,
    /// The answer would be larger than clients accept.
    #[error("the answer would be larger than clients accept: ask for fewer resources at once")]
    ResponseTooLarge,
    /// The request is not an encoded message of the call.
    #[error("the request could not be decoded")]
    MalformedRequest,
    /// A fault of the service; see [`Error::internal`].
    #[error("{cause}")]
    Internal {
        /// What went wrong.
        cause: String,
        /// Where in the code it was noticed.
        at: &'static Location<'static>,
    },
    /// The transaction lost a race and may succeed if it is repeated. `Db::write` turns this into
    /// `Conflict` when it gives up.
    #[error("transaction lost a race")]
    Retry,
}

impl Error {
    /// One field that breaks one rule.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid {
            violations: vec![Violation { field: field.into(), rule: rule.into() }],
            count: 1,
        }
    }

    /// The service has no call with this path.
    pub fn unimplemented(path: &str) -> Self {
        Self::Unimplemented(path.trim_start_matches('/').to_owned())
    }

    /// The service is busy: the limit that this option sets is reached. Counts the call.
    pub fn overloaded(option: &'static str) -> Self {
        CALLS_SHED.count(option);
        Self::Overloaded
    }

    /// A fault of the service. The log gets the cause, and the file and line of the caller of this
    /// function; the client learns only that there is a fault.
    #[track_caller]
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::Internal { cause: cause.into(), at: Location::caller() }
    }

    /// Whether this error says nothing about the outcome of an earlier call with the same request.
    pub const fn says_nothing(&self) -> bool {
        matches!(
            self,
            Self::Retry
                | Self::Conflict
                | Self::Locked
                | Self::Overloaded
                | Self::DeadlineExceeded
                | Self::DatabaseUnavailable
                | Self::DatabaseReadOnly
                | Self::OutcomeUnknown { .. }
                | Self::Internal { .. }
        )
    }

    /// The reason that the client is told.
    pub const fn reason(&self) -> ErrorReason {
        match self {
            Self::Invalid { .. } => ErrorReason::InvalidField,
            Self::Refused(refusal) => refusal.reason,
            Self::Conflict | Self::Retry | Self::Locked => ErrorReason::Conflict,
            Self::Overloaded => ErrorReason::Overloaded,
            Self::DeadlineExceeded => ErrorReason::DeadlineExceeded,
            Self::DatabaseUnavailable | Self::DatabaseReadOnly => ErrorReason::DatabaseUnavailable,
            Self::OutcomeUnknown { .. } => ErrorReason::OutcomeUnknown,
            Self::Unimplemented(_) => ErrorReason::Unimplemented,
            Self::RequestTooLarge => ErrorReason::RequestTooLarge,
            Self::ResponseTooLarge => ErrorReason::ResponseTooLarge,
            Self::MalformedRequest => ErrorReason::MalformedRequest,
            Self::Internal { .. } => ErrorReason::Internal,
        }
    }

    /// What the client is told, without internal causes.
    fn into_refusal(self) -> Refusal {
        let plain = Refusal::new(self.reason(), self.to_string());
        match self {
            Self::Refused(refusal) => *refusal,
            Self::Invalid { violations, count } => {
                Refusal { uncounted: count - violations.len(), violations, ..plain }
            }
            Self::Internal { .. } => Refusal::new(
                plain.reason,
                "an internal fault of the service; its cause has been logged",
            ),
            Self::Conflict | Self::Retry => plain.retry_after(RETRY_RACE_AFTER),
            Self::Overloaded
            | Self::Locked
            | Self::DatabaseUnavailable
            | Self::DatabaseReadOnly
            | Self::OutcomeUnknown { repeatable: true } => plain.retry_after(RETRY_AFTER),
            Self::DeadlineExceeded
            | Self::OutcomeUnknown { repeatable: false }
            | Self::Unimplemented(_)
            | Self::RequestTooLarge
            | Self::ResponseTooLarge
            | Self::MalformedRequest => plain,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// The violations as one text; those that do not fit into a message are counted.
fn summary(violations: &[Violation], count: usize) -> String {
    let mut text = format!("{count} invalid {}: ", if count == 1 { "field" } else { "fields" });
    let mut left = answer::MAX_MESSAGE - SUMMARY_FRAME;
    for (i, violation) in violations.iter().enumerate() {
        let line =
            format!("{}{}: {}", if i == 0 { "" } else { "; " }, violation.field, violation.rule);
        // The first violation is there in any case, even if it is cut.
        match left.checked_sub(answer::percent_encoded_len(&line)) {
            None if i > 0 => return format!("{text}; and {} more", count - i),
            rest => left = rest.unwrap_or_default(),
        }
        text.push_str(&line);
    }
    if count > violations.len() {
        format!("{text}; and {} more", count - violations.len())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_can_be_put_aside() {
        let refusal = Refusal::new(ErrorReason::PersonNotFound, "there is no such person");
        assert!(matches!(put_aside::<()>(Err(refusal.into())), Ok(Err(Error::Refused(_)))));
        assert!(matches!(put_aside::<()>(Err(Error::Retry)), Err(Error::Retry)));
        assert!(matches!(put_aside(Ok(1)), Ok(Ok(1))));
    }
}
