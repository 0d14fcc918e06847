//! The frame of a call: how it reads its request and answers.
//!
//! A call reads its request by one of the methods of [`Call`], with a parser that collects
//! violations. The method fails with all of them at once, including those of the request id: a call
//! that needs the [`Meta`] of a change gets them only with this check.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status};

use crate::{
    caller::{Caller, RequestExt as _},
    change::{Update, Updating},
    db::{Change, Meta},
    error::Result,
    mask::Elsewhere,
    page::{Page, Paged},
    peer::Peer,
    streams::{ClientDeadline, StreamPermit, Streams, Unending},
    validate::Violations,
};

/// What a call returns.
pub type Reply<T> = Result<Response<T>, Status>;

/// The messages of an answer that is a stream.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns the answer of a call.
pub fn reply<T>(answer: Result<T>) -> Reply<T> {
    Ok(Response::new(answer?))
}

/// Takes a permit for the stream that answers a request.
pub fn enter<M>(
    streams: &Streams,
    caller: &Caller,
    request: &mut Request<M>,
) -> Result<StreamPermit> {
    let deadline = request.extensions_mut().remove::<ClientDeadline>();
    let retiring = request.extensions().get().map(Peer::retiring).cloned().unwrap_or_default();
    streams.enter(caller, deadline, retiring)
}

/// Returns the answer of a call that is a stream. A shutdown ends it instead of waiting for it.
pub fn stream<T>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Reply<Answers<T>> {
    let mut response: Response<Answers<T>> = Response::new(Box::pin(messages));
    response.extensions_mut().insert(Unending);
    Ok(response)
}

/// A request that has passed the guard. Each method fails with every violation of the request.
pub trait Call<M>: Sized {
    /// Returns the caller and the parsed request.
    fn read<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T)>;

    /// Returns the caller, the parsed request and the requested page.
    fn list<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, T, Page)>
    where
        M: Paged;

    /// Returns the caller, the meta that [`crate::db::Db::write`] needs, and the parsed request.
    fn change<T>(self, parse: impl FnOnce(&mut Violations, M) -> T) -> Result<(Caller, Meta, T)>
    where
        M: Change;

    /// Returns the caller, the meta that [`crate::db::Db::write`] needs, and the update.
    /// `elsewhere` names the fields that other calls change.
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
