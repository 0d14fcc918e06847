//! The shell of a call: what it is given, and what it gives back.
//!
//! A call takes its request apart by one of the methods of [`Call`], with a parser that collects
//! what the request violates. All of it is answered at once, the request id's violations included:
//! whoever wants the [`Meta`] of a change gets them with it.

use tonic::{Request, Response, Status};

use crate::{
    caller::{Caller, RequestExt as _},
    change::{Update, Updating},
    db::{Change, Meta},
    error::Result,
    mask::Elsewhere,
    page::{Page, Paged},
    validate::Violations,
};

/// What a call returns.
pub type Reply<T> = Result<Response<T>, Status>;

/// The answer of a call.
pub fn reply<T>(answer: Result<T>) -> Reply<T> {
    Ok(Response::new(answer?))
}

/// A request that the guard has let through, to be taken apart. Each method fails with everything
/// that the request violates.
pub trait Call<M>: Sized {
    /// The caller, and what a reading request asks for.
    fn read<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T)>;

    /// The caller, what a list request asks for, and which page of it.
    fn list<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T, Page)>
    where
        M: Paged;

    /// The caller, the request's meta for [`crate::db::Db::write`], and what a changing request
    /// asks for.
    fn change<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, Meta, T)>
    where
        M: Change;

    /// The caller, the request's meta for [`crate::db::Db::write`], and the update that the request
    /// asks for. `elsewhere` names the fields that another call changes.
    fn update(self, elsewhere: &Elsewhere) -> Result<(Caller, Meta, Update<M::Resource>)>
    where
        M: Updating;
}

impl<M> Call<M> for Request<M> {
    fn read<T>(mut self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T)> {
        let caller = self.caller()?;
        let mut v = Violations::default();
        let parsed = parse(&mut v, self.into_inner());
        v.finish((caller, parsed))
    }

    fn list<T>(mut self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T, Page)>
    where
        M: Paged,
    {
        let caller = self.caller()?;
        let mut v = Violations::default();
        let mut request = self.into_inner();
        let page = Page::take(&mut v, &caller, &mut request)?;
        let parsed = parse(&mut v, request);
        v.finish((caller, parsed, page))
    }

    fn change<T>(mut self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, Meta, T)>
    where
        M: Change,
    {
        let caller = self.caller()?;
        let mut v = Violations::default();
        let meta = Meta::of(&mut v, &caller, self.get_ref());
        let parsed = parse(&mut v, self.into_inner());
        v.finish((caller, meta, parsed))
    }

    fn update(self, elsewhere: &Elsewhere) -> Result<(Caller, Meta, Update<M::Resource>)>
    where
        M: Updating,
    {
        let (caller, meta, update) =
            self.change(|v, request| Update::parse(v, request, elsewhere))?;
        Ok((caller, meta, update?))
    }
}
