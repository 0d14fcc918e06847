//! Kinds of resources, and the errors that every kind has.

use diesel::{OptionalExtension as _, QueryResult};

use crate::{
    error::{Error, Refusal, Result},
    proto::ErrorReason,
};

/// A kind of resource. Kinds that several slices name are defined here, the others in the
/// `refusals.rs` of their slice.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The noun in `snake_case`: the resource type in the trail. With `_id` it is the name of the
    /// id field.
    pub noun: &'static str,
    /// The reason of the error for an id that no resource has.
    pub not_found: ErrorReason,
    /// The reason of the error for an id, or a value that must be unique, that another resource
    /// has.
    pub already_exists: ErrorReason,
}

/// `accounts.v1.Account`
pub const ACCOUNT: Kind = Kind {
    noun: "account",
    not_found: ErrorReason::AccountNotFound,
    already_exists: ErrorReason::AccountAlreadyExists,
};

/// `accounts.v1.Organization`
pub const ORGANIZATION: Kind = Kind {
    noun: "organization",
    not_found: ErrorReason::OrganizationNotFound,
    already_exists: ErrorReason::OrganizationAlreadyExists,
};

/// `accounts.v1.Person`
pub const PERSON: Kind = Kind {
    noun: "person",
    not_found: ErrorReason::PersonNotFound,
    already_exists: ErrorReason::PersonAlreadyExists,
};

impl Kind {
    /// No resource of this kind has the id, or the caller may not see it. The error does not tell
    /// which.
    pub fn not_found(&self, id: &str) -> Error {
        Refusal::new(self.not_found, format!("no {} {id:?}", self.words()))
            .with(&self.id_field(), id)
            .resource(self.noun, id)
            .into()
    }

    /// Returns the row that a query by id found. Fails if it found none.
    pub fn found<T>(&self, id: &str, row: QueryResult<T>) -> Result<T> {
        row.optional()?.ok_or_else(|| self.not_found(id))
    }

    /// Whether `error` is the [`Kind::not_found`] error of this kind.
    pub fn is_not_found(&self, error: &Error) -> bool {
        error.reason() == self.not_found
    }

    /// Another resource has the id. For kinds whose id is their only unique value.
    pub fn id_taken(&self, id: &str) -> Error {
        let field = self.id_field();
        self.taken(&field, id).with(&field, id).into()
    }

    /// Another resource has the value of this field. For kinds with more unique values than the id.
    pub fn value_taken(&self, field: &str, value: &str) -> Error {
        self.taken(field, value).with("field", field).into()
    }

    /// A resource of another account has the id. The error does not name that account.
    pub fn of_another_account(&self, id: &str, account_id: &str) -> Error {
        let words = self.words();
        let message = format!("the {words} {id:?} belongs to another account than {account_id:?}");
        Refusal::new(ErrorReason::RecordOfAnotherAccount, message)
            .broken_by(self.noun, id)
            .with("resource_type", self.noun)
            .with(&self.id_field(), id)
            .into()
    }

    /// The resource has changed since the caller read it.
    pub fn etag_mismatch(&self, id: &str) -> Error {
        let message = format!("{} {id:?} has changed since its etag was read", self.words());
        Refusal::new(ErrorReason::EtagMismatch, message).with(&self.id_field(), id).into()
    }

    /// The error for an etag of a resource that does not exist.
    pub fn etag_of_none(&self, id: &str) -> Error {
        let words = self.words();
        let message =
            format!("{words} {id:?} does not exist, and an etag is that of one that does");
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
