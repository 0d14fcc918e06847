//! Changes of an existing resource: the id that an update, a deletion or a deactivation names, and
//! the etag that the resource must still have. `build.rs` implements the traits of requests and
//! resources for every message that has their fields.

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

/// A changing request whose first field is the id of a resource, and that has a field for its etag.
pub trait Etagged: Named + Change {
    /// Takes the etag out.
    fn take_etag(&mut self) -> String;
}

/// A request that updates a resource.
pub trait Updating: Change {
    /// The resource.
    type Resource: Content;
    /// The resource with the wanted content, and the update mask.
    fn parts(self) -> (Option<Self::Resource>, Option<FieldMask>);
}

/// A resource as requests and responses contain it.
pub trait Content: Message + Name + Default + Clone {
    /// The field of the update request that contains the resource.
    const FIELD: &'static str;
    /// The names of the id fields.
    const IDS: &'static [&'static str];
    /// The values of the id fields.
    fn ids(&self) -> Vec<&str>;
    /// The etag.
    fn etag(&self) -> &str;
}

/// A row, or several rows together, with an etag.
pub trait Versioned {
    /// The etag; every change makes a new one.
    fn etag(&self) -> String;

    /// The error for a caller who has read another etag.
    fn mismatch(&self) -> Error;

    /// Fails if the caller sent an etag that is not the present one.
    fn require_etag(&self, sent: &str) -> Result<()> {
        if sent.is_empty() || sent == self.etag() { Ok(()) } else { Err(self.mismatch()) }
    }
}

/// A row of a resource of the contract, with what the trail and the etag need.
pub trait Resource: Serialize {
    /// The kind of resource.
    const KIND: Kind;
    /// Its id.
    fn id(&self) -> &str;
    /// What the row belongs to, which decides who sees its changes in the trail.
    fn belongs_to(&self) -> BelongsTo<'_>;
    /// Its creation time, and its revision, which each change increases.
    fn version(&self) -> (DateTime<Utc>, i64);
}

/// Implements [`Resource`] for a row of a kind whose id is this field, and that has `create_time`
/// and `revision`. The closure says what the row belongs to.
macro_rules! resource {
    ($row:ty: $kind:expr, $id:ident, |$this:ident| $belongs_to:expr) => {
        impl $crate::change::Resource for $row {
            const KIND: $crate::resource::Kind = $kind;

            fn id(&self) -> &str {
                &self.$id
            }

            fn belongs_to(&self) -> $crate::db::BelongsTo<'_> {
                let $this = self;
                $belongs_to
            }

            fn version(&self) -> (chrono::DateTime<chrono::Utc>, i64) {
                (self.create_time, self.revision)
            }
        }
    };
}
pub(crate) use resource;

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

/// Parses a request that names one resource, and returns the id.
pub fn id<M: Named>(v: &mut Violations, mut request: M) -> String {
    let id = request.take_id();
    v.id(M::ID, id)
}

/// The id of a resource that a request changes. [`ById::find`] is the only way to the row, so that
/// no change misses the check of the etag.
#[derive(Debug)]
pub struct ById<I = String> {
    id: I,
    etag: String,
}

impl ById {
    /// Parses the id and the etag of a request.
    pub fn parse<M: Etagged>(v: &mut Violations, mut request: M) -> Self {
        let etag = request.take_etag();
        Self { id: id(v, request), etag }
    }
}

impl<I> ById<I> {
    /// For a resource whose id has several parts.
    pub const fn new(id: I, etag: String) -> Self {
        Self { id, etag }
    }

    /// Returns the row that `find` finds by the id. `find` must lock the row. Fails if the caller
    /// sent an etag that is not the row's.
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

/// An update as the request has it. Its result depends on the present resource.
#[derive(Debug)]
pub struct Update<M> {
    /// The resource, with the wanted content in the fields that the mask names.
    pub wanted: M,
    mask: Mask,
}

impl<M: Content> Update<M> {
    /// Parses an update request, and reports every violation that needs no comparison with the
    /// present resource. `elsewhere` names the fields that other calls change. Fails at once if the
    /// mask cannot be applied to the message.
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

    /// The id of the resource, or the first part of its id.
    pub fn id(&self) -> &str {
        self.wanted.ids().first().copied().unwrap_or_default()
    }

    /// Whether the update changes the field `name` of the resource, or a field inside it.
    pub fn has(&self, name: &str) -> bool {
        self.mask.has(name)
    }

    /// The fields inside the message `name` that the mask names individually.
    pub fn inside(&self, name: &str) -> impl Iterator<Item = &str> {
        self.mask.inside(name)
    }

    /// Applies the update to a row. Fails if the caller sent an etag that is not the row's.
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

/// The result of an update, before it is parsed.
#[derive(Debug)]
pub struct Draft<M> {
    /// The present resource with the updated fields.
    pub merged: M,
    /// The violations of the update.
    pub violations: Violations,
    present: M,
}

impl<M: Content> Draft<M> {
    /// Adds the violation of `rule` by the field `name` of the resource, or by a field inside it.
    pub fn refuse(&mut self, name: &str, rule: impl Into<String>) {
        self.violations.add(format_args!("{}.{name}", M::FIELD), rule);
    }

    /// Parses the fields of the row. A rule that the present resource breaks does not stop an
    /// update of other fields ([`Violations::update`]).
    pub fn parse<T>(&mut self, parse: impl Fn(&mut Violations, M) -> T) -> Result<T> {
        self.violations.update(M::FIELD, &self.present, &self.merged, parse)
    }

    /// Returns the fields of the row, or an error with every violation.
    pub fn finish<T>(self, fields: T) -> Result<T> {
        self.violations.finish(fields)
    }
}
