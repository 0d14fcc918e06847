//! A refusal: what a client is told about an error.

use std::{collections::HashMap, time::Duration};

use tonic_types::ErrorDetails;

use super::{
    Violation,
    answer::{MAX_MESSAGE, MAX_NAME, MAX_TEXT, cut, percent_encoded_char},
};
use crate::proto::{ErrorReason, PACKAGE};

/// Most resources that an error names.
pub const NAMED: usize = 20;

/// Why a call was refused, and what the client is told about it: a reason, which decides the code,
/// a message for people, and details for programs.
///
/// Each reason of a slice is made by a function in its `refusals.rs`.
#[derive(Debug, Clone)]
#[must_use]
pub struct Refusal {
    pub(super) reason: ErrorReason,
    pub(super) message: String,
    pub(super) metadata: HashMap<String, String>,
    pub(super) details: ErrorDetails,
    /// Fields of the request and the rules that they break.
    pub(super) violations: Vec<Violation>,
    /// How many violations are not in the list.
    pub(super) uncounted: usize,
    /// Subjects and what is wrong with them.
    pub(super) preconditions: Vec<(String, String)>,
    /// A header of the answer.
    pub(super) header: Option<(&'static str, &'static str)>,
}

impl Refusal {
    /// A refusal without details. The message says what the reader can do: it names the field, the
    /// rule, or who can help.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: cut(message.into(), MAX_MESSAGE, percent_encoded_char),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
            violations: Vec::new(),
            uncounted: 0,
            preconditions: Vec::new(),
            header: None,
        }
    }

    /// Adds a value to the error's metadata, for programs.
    pub fn with(mut self, key: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.metadata.insert(key.to_owned(), cut(value.to_string(), MAX_TEXT, char::len_utf8));
        self
    }

    /// Adds a field of the request that breaks a rule; the message is the rule.
    pub fn field(mut self, field: &str) -> Self {
        self.violations.push(Violation { field: field.to_owned(), rule: self.message.clone() });
        self
    }

    /// Sets the resource that the error is about, by its noun in `snake_case` and its id or unique
    /// value.
    pub fn resource(mut self, noun: &str, name: &str) -> Self {
        let words = noun.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        let kind = format!("{PACKAGE}.{}", words.collect::<String>());
        let name = cut(name.to_owned(), MAX_NAME, char::len_utf8);
        self.details.set_resource_info(kind, name, "", &self.message);
        self
    }

    /// Adds a subject that does not meet a precondition, and what is wrong with it. Only the first
    /// [`NAMED`] are sent.
    pub fn precondition(mut self, subject: &str, description: &str) -> Self {
        self.preconditions.push((subject.to_owned(), description.to_owned()));
        self
    }

    /// Adds a resource that does not meet a precondition; the message says which.
    pub fn broken_by(self, noun: &str, id: &str) -> Self {
        let message = self.message.clone();
        self.precondition(&format!("{noun}/{id}"), &message)
    }

    /// Tells the client to repeat the request after this time.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    /// Sets a header of the answer.
    pub const fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }
}
