//! Converts people between messages of the contract and rows.

use super::store::{Fields, Filter, NewPerson, Person};
use crate::{
    caller::{MAX_ACTOR, is_actor},
    change::{Update, Versioned as _},
    enums::contract_enum,
    error::Result,
    mask::Elsewhere,
    proto::{self, PersonKind as ContractKind},
    relations::PersonKind,
    search,
    validate::Violations,
    wire::timestamp,
};

const MAX_NAME: usize = 200;
const MAX_PHONE: usize = 50;

/// The fields of a person that other calls than `UpdatePerson` change.
pub const ELSEWHERE: &Elsewhere =
    &[("purchasing_account_id", "is changed by SetPurchasingAccount only")];

impl Fields {
    fn parse(v: &mut Violations, person: proto::Person) -> Self {
        let display_name = v.required_line("person.display_name", person.display_name, MAX_NAME);
        let subject = person.subject;
        require_subject(v, &subject);
        Self {
            sort_key: search::fold(&display_name),
            display_name,
            email: v.email("person.email", person.email),
            phone: v.line("person.phone", person.phone, MAX_PHONE),
            kind: PersonKind::parse(v, "person.kind", person.kind).unwrap_or(PersonKind::Customer),
            subject: (!subject.is_empty()).then_some(subject),
            active: person.active.unwrap_or_default(),
        }
    }
}

/// Checks that the subject can be the actor of a call, because the two are compared.
fn require_subject(v: &mut Violations, subject: &str) {
    if !subject.is_empty() && !is_actor(subject) {
        v.add(
            "person.subject",
            format!(
                "must be what an actor can be: at most {MAX_ACTOR} characters, none a control \
                 character"
            ),
        );
    }
}

impl NewPerson {
    /// Parses a create request. The person is active unless the request says otherwise.
    pub fn parse(v: &mut Violations, request: proto::CreatePersonRequest) -> Self {
        let mut person = v.message("person", request.person);
        let id = std::mem::take(&mut person.person_id);
        let person_id = v.new_id("person.person_id", id, "pers");
        let active = person.active.unwrap_or(true);
        let fields = Fields { active, ..Fields::parse(v, person) };
        let organization_id = v.optional_id("organization_id", request.organization_id);
        Self { person_id, fields, organization_id }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListPeopleRequest) -> Self {
        let subject = request.subject;
        Self {
            query: v.query("query", request.query),
            organization_id: v.optional_id("organization_id", request.organization_id),
            include_descendants: request.include_descendants,
            kind: PersonKind::parse(v, "kind", request.kind),
            subject: (!subject.is_empty()).then(|| v.text("subject", subject, MAX_ACTOR)),
        }
    }
}

impl Update<proto::Person> {
    /// Returns the fields that the update leads to.
    pub fn fields(&self, current: &Person) -> Result<Fields> {
        let mut draft = self.apply(current)?;
        if draft.merged.kind == ContractKind::Unspecified as i32 {
            draft.refuse("kind", "must be specified when the update mask names it");
        }
        let fields = draft.parse(Fields::parse)?;
        draft.finish(fields)
    }
}

impl From<Person> for proto::Person {
    fn from(row: Person) -> Self {
        let etag = row.etag();
        let fields = row.fields;
        Self {
            etag,
            person_id: row.person_id,
            display_name: fields.display_name,
            email: fields.email,
            phone: fields.phone,
            kind: fields.kind.into(),
            subject: fields.subject.unwrap_or_default(),
            active: Some(fields.active),
            purchasing_account_id: row.purchasing_account_id.unwrap_or_default(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

contract_enum!(PersonKind = ContractKind { Customer, Staff });
