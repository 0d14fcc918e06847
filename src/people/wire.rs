//! People between the contract and the rows.

use super::{
    refusals::PERSON,
    store::{Fields, Filter, NewPerson, Person, Side},
};
use crate::{
    batch::Ids,
    caller::{Caller, MAX_ACTOR, is_actor},
    error::Result,
    mask::{Elsewhere, Mask},
    page::Page,
    proto::{self, PersonKind},
    search,
    validate::Violations,
    wire::{etag, require_etag, timestamp},
};

const MAX_NAME: usize = 200;
const MAX_PHONE: usize = 50;

/// What of a person other calls change than `UpdatePerson`.
const ELSEWHERE: &Elsewhere =
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
            kind: side(v, "person.kind", person.kind).unwrap_or(Side::Customer),
            subject: (!subject.is_empty()).then_some(subject),
            active: person.active.unwrap_or_default(),
        }
    }
}

/// A subject is what the actor of a call can be, and nothing else, for it is compared with that.
fn require_subject(v: &mut Violations, subject: &str) {
    if !subject.is_empty() && !is_actor(subject) {
        v.add(
            "person.subject",
            format!("must be what an actor can be: at most {MAX_ACTOR} characters, none a control character"),
        );
    }
}

impl NewPerson {
    /// A valid new person, active unless told otherwise, or every violation of the request.
    pub fn parse(request: proto::CreatePersonRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let person = v.message("person", request.person);
        let person_id = v.new_id("person.person_id", person.person_id.clone(), "pers");
        let active = person.active.unwrap_or(true);
        let fields = Fields { active, ..Fields::parse(&mut v, person) };
        let organization_id = v.optional_id("organization_id", request.organization_id);
        v.finish(Self { person_id, fields, organization_id })
    }
}

/// The id of a get request.
pub fn id(request: proto::GetPersonRequest) -> Result<String> {
    let mut v = Violations::default();
    let id = v.id("person_id", request.person_id);
    v.finish(id)
}

/// The ids of a batch get request.
pub fn ids(request: proto::BatchGetPeopleRequest) -> Result<Ids> {
    Ids::parse("person_ids", request.person_ids)
}

impl Filter {
    /// What a list request asks for, and which page of it.
    pub fn parse(caller: &Caller, mut request: proto::ListPeopleRequest) -> Result<(Self, Page)> {
        let mut v = Violations::default();
        let page = Page::take(&mut v, caller, &mut request)?;
        let filter = Self {
            query: v.query("query", request.query),
            organization_id: v.optional_id("organization_id", request.organization_id),
            include_descendants: request.include_descendants,
            kind: side(&mut v, "kind", request.kind),
            subject: (!request.subject.is_empty())
                .then(|| v.text("subject", request.subject, MAX_ACTOR)),
        };
        v.finish((filter, page))
    }
}

/// An update as it was asked for; what it comes to depends on the present person.
pub struct Update {
    /// Which person.
    pub id: String,
    wanted: proto::Person,
    mask: Mask,
}

impl Update {
    /// The update, or every violation that shows without the present person.
    pub fn parse(request: proto::UpdatePersonRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let wanted = v.message("person", request.person);
        let id = v.id("person.person_id", wanted.person_id.clone());
        let mask = Mask::parse(&mut v, &wanted, request.update_mask, ELSEWHERE)?;
        v.finish(Self { id, wanted, mask })
    }

    /// The fields that the person gets.
    pub fn apply(&self, current: &Person) -> Result<Fields> {
        let present = proto::Person::from(current.clone());
        require_etag(&self.wanted.etag, &present.etag, &PERSON, &self.id)?;
        let mut v = Violations::default();
        let merged = self.mask.apply(&mut v, "person", &present, &self.wanted)?;
        if merged.kind == PersonKind::Unspecified as i32 {
            v.add("person.kind", "must be specified when the update mask names it");
        }
        let fields = v.update("person", &present, &merged, Fields::parse)?;
        v.finish(fields)
    }
}

/// A deletion as it was asked for.
pub struct Deletion {
    /// Which person.
    pub id: String,
    etag: String,
}

impl Deletion {
    /// The deletion, or every violation of the request.
    pub fn parse(request: proto::DeletePersonRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let id = v.id("person_id", request.person_id);
        v.finish(Self { id, etag: request.etag })
    }

    /// Refuses to delete a person who has changed since the caller read them.
    pub fn check(&self, current: &Person) -> Result<()> {
        require_etag(&self.etag, &etag(current.create_time, current.revision), &PERSON, &self.id)
    }
}

impl From<Person> for proto::Person {
    fn from(row: Person) -> Self {
        let fields = row.fields;
        Self {
            etag: etag(row.create_time, row.revision),
            person_id: row.person_id,
            display_name: fields.display_name,
            email: fields.email,
            phone: fields.phone,
            kind: match fields.kind {
                Side::Customer => PersonKind::Customer,
                Side::Staff => PersonKind::Staff,
            }
            .into(),
            subject: fields.subject.unwrap_or_default(),
            active: Some(fields.active),
            purchasing_account_id: row.purchasing_account_id.unwrap_or_default(),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

fn side(v: &mut Violations, field: &str, value: i32) -> Option<Side> {
    match v.known(field, value)? {
        PersonKind::Unspecified => None,
        PersonKind::Customer => Some(Side::Customer),
        PersonKind::Staff => Some(Side::Staff),
    }
}
