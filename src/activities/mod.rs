//! Activities: who changed what, as a list and as a feed.
//!
//! `crate::db` writes them in the transaction of the change.

mod lag;
mod refusals;
pub mod store;
mod watch;
mod wire;

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status};

use self::{
    store::{Activity, Filter},
    watch::Watch,
    wire::Start,
};
use crate::{
    call::{Call as _, Reply, reply},
    caller::RequestExt as _,
    db::Db,
    page::response,
    peer::Peer,
    proto::{
        ListActivitiesRequest, ListActivitiesResponse, WatchActivitiesRequest,
        WatchActivitiesResponse, activity_service_server::ActivityService,
    },
    streams::{ClientDeadline, Streams, Unending},
};

pub use self::{lag::Lag, watch::Pace};

/// The calls of `accounts.v1.ActivityService`.
#[derive(Debug)]
pub struct Service {
    /// The database.
    pub db: Db,
    /// The permits for watches.
    pub streams: Streams,
    /// How often a watch polls and sends checkpoints.
    pub pace: Pace,
    /// How far watches are behind.
    pub lag: Lag,
}

#[tonic::async_trait]
impl ActivityService for Service {
    async fn list_activities(
        &self,
        request: Request<ListActivitiesRequest>,
    ) -> Reply<ListActivitiesResponse> {
        let (caller, filter, page) = request.list(Filter::parse)?;
        let work = self.db.list(&caller, async |tx| Activity::list(tx, &filter, &page).await);
        let listing = work.await?;
        reply(Ok(response!(ListActivitiesResponse { activities }, listing)))
    }

    type WatchActivitiesStream =
        Pin<Box<dyn Stream<Item = Result<WatchActivitiesResponse, Status>> + Send>>;

    async fn watch_activities(
        &self,
        mut request: Request<WatchActivitiesRequest>,
    ) -> Reply<Self::WatchActivitiesStream> {
        let caller = request.caller()?;
        let deadline = request.extensions_mut().remove::<ClientDeadline>();
        let retiring = request.extensions().get().map(Peer::retiring).cloned().unwrap_or_default();
        let start = Start::parse(&caller, request.into_inner())?;
        let permit = self.streams.enter(&caller, deadline, retiring)?;
        let feed = (self.db.clone(), self.pace, self.lag.clone());
        let watch = Watch::open(feed, caller, start, permit).await?;
        let mut response: Response<Self::WatchActivitiesStream> =
            Response::new(Box::pin(watch.stream()));
        response.extensions_mut().insert(Unending);
        Ok(response)
    }
}
