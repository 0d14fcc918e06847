//! Kinds of resources, and the errors that are the same for every kind.

use crate::{
    error::{Error, Refusal},
    proto::ErrorReason,
};

/// A kind of resource. Each slice has a constant of its own in its `refusals.rs`.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The noun in `snake_case`: the resource type of the trail, and with `_id` the name of the id
    /// field.
    pub noun: &'static str,
    /// The reason if there is none with the id.
    pub not_found: ErrorReason,
    /// The reason if the id, or a value that must be unique, is taken.
    pub already_exists: ErrorReason,
}

impl Kind {
    /// There is no such resource, or the caller may not see it: the two are the same answer.
    pub fn not_found(&self, id: &str) -> Error {
        Refusal::new(self.not_found, format!("no {} {id:?}", self.words()))
            .with(&self.id_field(), id)
            .resource(self.noun, id)
            .into()
    }

    /// Whether this is the error for a resource of this kind that is not there.
    pub fn is_not_found(&self, error: &Error) -> bool {
        error.reason() == self.not_found
    }

    /// The id is taken. For kinds of which nothing else can be taken.
    pub fn id_taken(&self, id: &str) -> Error {
        let field = self.id_field();
        self.taken(&field, id).with(&field, id).into()
    }

    /// The value of this field is taken. For kinds of which more than the id can be taken.
    pub fn value_taken(&self, field: &str, value: &str) -> Error {
        self.taken(field, value).with("field", field).into()
    }

    /// The resource has changed since the caller read it.
    pub fn etag_mismatch(&self, id: &str) -> Error {
        let message = format!("{} {id:?} has changed since its etag was read", self.words());
        Refusal::new(ErrorReason::EtagMismatch, message).with(&self.id_field(), id).into()
    }

    fn taken(&self, field: &str, value: &str) -> Refusal {
        let words = self.words();
        let article = if words.starts_with(['a', 'o']) { "an" } else { "a" };
        let message = format!("there is already {article} {words} with the {field} {value:?}");
        Refusal::new(self.already_exists, message).resource(self.noun, value)
    }

    fn words(&self) -> String {
        self.noun.replace('_', " ")
    }

    /// The name of the id field.
    fn id_field(&self) -> String {
        format!("{}_id", self.noun)
    }
}
