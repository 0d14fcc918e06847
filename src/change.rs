//! Changes of a resource that exists: what an update, a deletion or a deactivation names, and the
//! etag that the resource must still have. `build.rs` implements the traits of requests and
//! resources here for every message that has their fields.

use std::{borrow::Cow, future::Future};

use chrono::{DateTime, Utc};
use prost::{Message, Name};
use prost_types::FieldMask;
use serde::Serialize;

use crate::{
    db::{BelongsTo, Change, Recorded},
    error::{Error, Result},
    mask::{Elsewhere, Mask},
    resource::Kind,
    validate::Violations,
    wire,
};

/// A request whose first field is the id of a resource.
pub trait Named {
    /// The name of that field.
    const ID: &'static str;
    /// Takes the id out.
    fn take_id(&mut self) -> String;
}

/// A changing request whose first field is the id of a resource, and that may have its etag.
pub trait Etagged: Named + Change {
    /// Takes the etag out.
    fn take_etag(&mut self) -> String;
}

/// A request that updates a resource.
pub trait Updating: Change {
    /// The resource.
    type Resource: Content;
    /// The wanted content of the resource, and the update mask.
    fn parts(self) -> (Option<Self::Resource>, Option<FieldMask>);
}

/// A resource as requests and answers have it.
pub trait Content: Message + Name + Default + Clone {
    /// The field of an update request that has the resource.
    const FIELD: &'static str;
    /// The fields by which the resource is found.
    const IDS: &'static [&'static str];
    /// What those fields have.
    fn ids(&self) -> Vec<&str>;
    /// The etag.
    fn etag(&self) -> &str;
}

/// A row, or rows together, that have an etag.
pub trait Versioned {
    /// The etag, which is another one after every change.
    fn etag(&self) -> String;

    /// The error for a caller who has read another etag.
    fn mismatch(&self) -> Error;

    /// Fails if the caller sent an etag that is not the present one.
    fn require_etag(&self, sent: &str) -> Result<()> {
        if sent.is_empty() || sent == self.etag() { Ok(()) } else { Err(self.mismatch()) }
    }
}

/// A row that is a resource of the contract: what the trail and the etag need to know of it.
pub trait Resource: Serialize {
    /// What kind of resource.
    const KIND: Kind;
    /// Its id.
    fn id(&self) -> &str;
    /// What it belongs to, which decides who reads its changes in the trail.
    fn belongs_to(&self) -> BelongsTo<'_>;
    /// Its creation and its revision, which each change increases.
    fn version(&self) -> (DateTime<Utc>, i64);
}

impl<R: Resource> Recorded for R {
    const NOUN: &'static str = R::KIND.noun;

    fn id(&self) -> Cow<'_, str> {
        Resource::id(self).into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        Resource::belongs_to(self)
    }
}

impl<R: Resource> Versioned for R {
    fn etag(&self) -> String {
        let (create_time, revision) = self.version();
        wire::etag(create_time, revision)
    }

    fn mismatch(&self) -> Error {
        R::KIND.etag_mismatch(Resource::id(self))
    }
}

/// The id of a request that names one resource.
pub fn id<M: Named>(v: &mut Violations, mut request: M) -> String {
    let id = request.take_id();
    v.id(M::ID, id)
}

/// A resource that a request changes, by its id. The row is reached through [`ById::find`] only,
/// which checks the etag.
#[derive(Debug)]
pub struct ById<I = String> {
    id: I,
    etag: String,
}

impl ById {
    /// The id and the etag of a request.
    pub fn parse<M: Etagged>(v: &mut Violations, mut request: M) -> Self {
        let etag = request.take_etag();
        Self { id: id(v, request), etag }
    }
}

impl<I> ById<I> {
    /// A resource whose id has more than one part.
    pub const fn new(id: I, etag: String) -> Self {
        Self { id, etag }
    }

    /// The row that `find` finds by the id, which should lock it. Fails if the caller sent an etag
    /// that is not the row's.
    pub async fn find<'a, R, F>(&'a self, find: impl FnOnce(&'a I) -> F) -> Result<R>
    where
        R: Versioned,
        F: Future<Output = Result<R>>,
    {
        let row = find(&self.id).await?;
        row.require_etag(&self.etag)?;
        Ok(row)
    }
}

/// An update as it was asked for. What it comes to depends on the present resource.
#[derive(Debug)]
pub struct Update<M> {
    /// The resource with the wanted content of the fields that the mask names.
    pub wanted: M,
    mask: Mask,
}

impl<M: Content> Update<M> {
    /// The update in a request, with every violation reported that shows without the present
    /// resource. `elsewhere` names what another call changes. Fails if the mask cannot be applied
    /// to the message at all.
    pub fn parse(
        v: &mut Violations,
        request: impl Updating<Resource = M>,
        elsewhere: &Elsewhere,
    ) -> Result<Self> {
        let (wanted, mask) = request.parts();
        let wanted = v.message(M::FIELD, wanted);
        for (name, id) in M::IDS.iter().zip(wanted.ids()) {
            v.id(format_args!("{}.{name}", M::FIELD), id.to_owned());
        }
        let mask = Mask::parse(v, &wanted, mask, elsewhere)?;
        Ok(Self { wanted, mask })
    }

    /// The id of the resource, or the first of its ids.
    pub fn id(&self) -> &str {
        self.wanted.ids().first().copied().unwrap_or_default()
    }

    /// Whether the update changes the field `name` of the resource, or something inside it.
    pub fn has(&self, name: &str) -> bool {
        self.mask.has(name)
    }

    /// The fields inside the message `name` that the mask names one by one.
    pub fn inside(&self, name: &str) -> impl Iterator<Item = &str> {
        self.mask.inside(name)
    }

    /// What the update makes of a row. Fails if the caller sent an etag that is not the row's.
    pub fn apply<R: Versioned + Clone>(&self, current: &R) -> Result<Draft<M>>
    where
        M: From<R>,
    {
        current.require_etag(self.wanted.etag())?;
        let present = M::from(current.clone());
        let mut violations = Violations::default();
        let merged = self.mask.apply(&mut violations, M::FIELD, &present, &self.wanted)?;
        Ok(Draft { merged, violations, present })
    }
}

/// What an update makes of a resource, as long as it has not been parsed.
#[derive(Debug)]
pub struct Draft<M> {
    /// The resource with the fields that the update changes.
    pub merged: M,
    /// What the update violates.
    pub violations: Violations,
    present: M,
}

impl<M: Content> Draft<M> {
    /// Notes that the field `name` of the resource, or a field inside it, breaks `rule`.
    pub fn refuse(&mut self, name: &str, rule: impl Into<String>) {
        self.violations.add(format_args!("{}.{name}", M::FIELD), rule);
    }

    /// The fields of the row that come out. A rule that the resource broke before is not held
    /// against fields that stay as they are ([`Violations::update`]).
    pub fn parse<T>(&mut self, parse: impl Fn(&mut Violations, M) -> T) -> Result<T> {
        self.violations.update(M::FIELD, &self.present, &self.merged, parse)
    }

    /// The fields of the row, or every violation.
    pub fn finish<T>(self, fields: T) -> Result<T> {
        self.violations.finish(fields)
    }
}
