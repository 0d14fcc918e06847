//! The one error of the service, and its one translation to `google.rpc.Status`.
//!
//! Every answer carries an `ErrorInfo` with a stable reason; the reasons are
//! `accounts.v1.ErrorReason`. What went wrong inside (SQL, addresses, panics) goes to the log and
//! never to a client.
//!
//! The variants of [`Error`] are technical. What a rule of a slice refuses is a [`Refusal`], made
//! by the slice's `refusals.rs`.

mod answer;
mod code;
mod refusal;

use std::{panic::Location, time::Duration};

pub use self::{
    code::code,
    refusal::{NAMED, Refusal},
};
use crate::proto::ErrorReason;

/// What the calls and everything below them return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes that stand around the violations in the message of an error: how many there are, and how
/// many are left out.
const SUMMARY_FRAME: usize = 100;
/// How long a client should wait before it tries again what failed for lack of room or of a
/// database.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client should wait before it tries again what lost a race.
const RETRY_RACE_AFTER: Duration = Duration::from_millis(100);

/// One rule that one field of a request breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field from the request: `account.billing_address.country`.
    pub field: String,
    /// The rule, for the person who reads the error.
    pub rule: String,
}

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request break rules.
    #[error("{}", summary(.violations, *.count))]
    Invalid {
        /// The violations, or the first of very many.
        violations: Vec<Violation>,
        /// How many there are in all.
        count: usize,
    },
    /// A rule of a slice, or of who may call, refuses the call.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The change lost against others made at the same time, more often than it was worth trying
    /// again.
    #[error("too many others changed the same resources at the same time; nothing was changed")]
    Conflict,
    /// The service, or its share of the database, is busy; the call was not started.
    #[error("the service is busy; the call was not started")]
    Overloaded,
    /// The caller's deadline, or the service's own, has passed.
    #[error("the call took longer than its deadline")]
    DeadlineExceeded,
    /// A lock that the change needs was held by another one for too long.
    #[error(
        "another change holds what this one needs and has not ended in time; nothing was changed"
    )]
    Locked,
    /// The database cannot be reached.
    #[error("the database cannot be reached; nothing was changed")]
    DatabaseUnavailable,
    /// The database takes no writes at present: it is a standby, or was made read only.
    #[error("the database takes no writes at present; nothing was changed")]
    DatabaseReadOnly,
    /// The connection to the database was lost while it committed the change.
    #[error(
        "the connection to the database was lost while the change was committed: it may have been made or not"
    )]
    OutcomeUnknown {
        /// Whether the request can be sent again without making the change twice.
        repeatable: bool,
    },
    /// There is no such call.
    #[error("the service has no call {0}")]
    Unimplemented(String),
    /// The request message, or its metadata, is larger than the service accepts.
    #[error("the request is larger than the service accepts")]
    RequestTooLarge,
    /// The answer would be larger than clients accept.
    #[error("the answer would be larger than clients accept: ask for fewer at once")]
    ResponseTooLarge,
    /// The request is not encoded as the call's message.
    #[error("the request could not be decoded")]
    MalformedRequest,
    /// A fault of the service itself, for the log; see [`Error::internal`].
    #[error("{cause}")]
    Internal {
        /// What went wrong.
        cause: String,
        /// Where in the code it was noticed.
        at: &'static Location<'static>,
    },
    /// A fault that trying the transaction again can mend; `write` turns it into `Conflict` when it
    /// gives up.
    #[error("transaction lost a race")]
    Retry,
}

impl Error {
    /// One field, one rule.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid {
            violations: vec![Violation { field: field.into(), rule: rule.into() }],
            count: 1,
        }
    }

    /// No such call.
    pub fn unimplemented(path: &str) -> Self {
        Self::Unimplemented(path.trim_start_matches('/').to_owned())
    }

    /// A fault of the service itself. The log gets the cause, with the file and line of the caller
    /// of this function; the client learns only that there is a fault.
    #[track_caller]
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::Internal { cause: cause.into(), at: Location::caller() }
    }

    /// Whether a call that failed so says nothing about an earlier one with the same request.
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

    /// The reason that a client is told.
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

    /// What a client is told: nothing of what went wrong inside.
    fn into_refusal(self) -> Refusal {
        let plain = Refusal::new(self.reason(), self.to_string());
        match self {
            Self::Refused(refusal) => *refusal,
            Self::Invalid { violations, count } => {
                Refusal { uncounted: count - violations.len(), violations, ..plain }
            }
            Self::Internal { .. } => {
                Refusal::new(plain.reason, "a fault inside the service; it has been recorded")
            }
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

/// The violations as one text, of those that fit into a message.
fn summary(violations: &[Violation], count: usize) -> String {
    let mut text = format!("{count} invalid {}: ", if count == 1 { "field" } else { "fields" });
    let mut left = answer::MAX_MESSAGE - SUMMARY_FRAME;
    for (i, violation) in violations.iter().enumerate() {
        let line =
            format!("{}{}: {}", if i == 0 { "" } else { "; " }, violation.field, violation.rule);
        // The first is there in any case, if only its beginning.
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
