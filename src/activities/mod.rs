//! Activities: who changed what, as a list and as a feed.
//!
//! `crate::db` writes them in the transaction of the change.

mod lag;
mod refusals;
pub mod store;
mod watch;
mod wire;

use tonic::Request;

use self::{
    store::{Activity, Filter, Moment},
    watch::Watch,
    wire::Start,
};
use crate::{
    call::{Answers, Call as _, Reply, enter, reply, stream},
    caller::{Caller, RequestExt as _, Roles},
    db::{Db, Tx},
    error::Result,
    page::response,
    proto::{
        ListActivitiesRequest, ListActivitiesResponse, WatchActivitiesRequest,
        WatchActivitiesResponse, activity_service_server::ActivityService,
    },
    streams::Streams,
};

pub use self::{lag::Lag, watch::Pace};

/// Returns the cursor from which a watch of all activities receives every change that the snapshot
/// of the transaction does not contain, and perhaps some that it does; `None` for a caller who may
/// not watch.
pub async fn cursor_of_now(tx: &Tx, caller: &Caller) -> Result<Option<String>> {
    if !Roles::having(wire::PERMISSION).is_some_and(|roles| caller.roles.any_of(roles)) {
        return Ok(None);
    }
    let moment = Moment::now(tx).await?;
    Ok(Some(wire::cursor(&wire::binding_of_all(caller), moment.end())))
}

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

    type WatchActivitiesStream = Answers<WatchActivitiesResponse>;

    async fn watch_activities(
        &self,
        mut request: Request<WatchActivitiesRequest>,
    ) -> Reply<Self::WatchActivitiesStream> {
        let caller = request.caller()?;
        let start = Start::parse(&caller, std::mem::take(request.get_mut()))?;
        let permit = enter(&self.streams, &caller, &mut request)?;
        let feed = (self.db.clone(), self.pace, self.lag.clone());
        let watch = Watch::open(feed, caller, start, permit).await?;
        stream(watch.stream())
    }
}
