//! Activities in the database: a list by time, and a feed in the order of transactions.

use chrono::{DateTime, Utc};
use diesel::{
    IntoSql as _,
    deserialize::{self, FromSql},
    pg::{Pg, PgValue},
    prelude::*,
    sql_types::{BigInt, Integer, Record, SqlType},
};
use diesel_async::RunQueryDsl;
use futures_util::future::try_join;
use serde_json::Value;

use super::refusals;
use crate::{
    budget::{self, Weighed},
    db::Tx,
    error::Result,
    page::{By, Listed, Listing, Page, keyset, total},
    schema::{activities, tenants},
    validate::Period,
};

/// Most activities that one step of the feed returns.
const BATCH: i64 = 100;
/// Most activities that one step reads, so that its time is bounded however few of them match.
const MAX_READ: i64 = 1000;

/// Bytes that an activity adds to a response besides its texts and changes.
const ROW: usize = 128;

/// A row of `activities`.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = activities, check_for_backend(Pg))]
pub struct Activity {
    /// Generated.
    pub activity_id: String,
    /// Its position in the feed.
    #[diesel(embed)]
    pub position: Position,
    /// When its transaction began.
    pub create_time: DateTime<Utc>,
    /// Who made the change.
    pub actor: String,
    /// The method of the call.
    pub method: String,
    /// The request id of the call, if it had one.
    pub request_id: Option<String>,
    /// What happened: `account.created`.
    pub action: String,
    /// The type of the resource.
    pub resource_type: String,
    /// The id of the resource.
    pub resource_id: String,
    /// The account that the resource belongs to, if any.
    pub account_id: Option<String>,
    /// Array of `{field, before, after}`.
    pub changes: Value,
}

impl Weighed for Activity {
    fn weight(&self) -> usize {
        let Self { activity_id, actor, method, action, resource_type, resource_id, .. } = self;
        let texts = [activity_id, actor, method, action, resource_type, resource_id];
        let optional = self.request_id.iter().chain(&self.account_id);
        ROW + budget::texts(texts.into_iter().chain(optional)) + budget::json(&self.changes)
    }
}

impl Listed for Activity {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        // Activities have no name.
        ("", self.create_time, &self.activity_id)
    }
}

/// Which activities a list contains: those that match every part that is set.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only activities of this account.
    pub account_id: Option<String>,
    /// Only activities of resources of this type.
    pub resource_type: Option<String>,
    /// Only activities of the resource with this id.
    pub resource_id: Option<String>,
    /// Only activities by this actor.
    pub actor: Option<String>,
    /// Only activities in this period.
    pub period: Period,
}

/// Which activities a watch receives.
#[derive(Debug, Default)]
pub struct Watched {
    /// Only activities of this account.
    pub account_id: Option<String>,
}

/// A position in the feed: after all activities of the transactions before this one, and after this
/// one's activities up to the ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Queryable, Selectable)]
#[diesel(table_name = activities, check_for_backend(Pg))]
pub struct Position {
    /// The transaction.
    pub transaction_id: i64,
    /// The ordinal in it.
    pub ordinal: i32,
}

impl Position {
    /// The position before the first activity of a transaction.
    pub const fn before(transaction_id: i64) -> Self {
        Self { transaction_id: transaction_id - 1, ordinal: i32::MAX }
    }
}

/// The result of one step of the feed.
#[derive(Debug)]
pub struct Step {
    /// The activities that match, in order.
    pub activities: Vec<Activity>,
    /// The position after everything that the step read.
    pub position: Position,
    /// Whether the feed may continue beyond this position.
    pub more: bool,
    /// The transaction that holds the feed back, if one does.
    pub held_by: Option<i64>,
}

impl Activity {
    /// Returns one page of activities.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let few = match filter {
            // One account or resource has few enough activities to test each one.
            Filter { account_id: Some(_), .. } | Filter { resource_id: Some(_), .. } => None,
            _ => tx.few_in_reach().await?,
        };
        let filtered = |period: Period| {
            let in_reach = tx.list_activities_in_reach(few.as_ref());
            let mut query = activities::table
                .filter(tx.owns(activities::tenant_id))
                .select(Self::as_select())
                .filter(in_reach)
                .into_boxed();
            if let Some(account_id) = &filter.account_id {
                query = query.filter(activities::account_id.eq(account_id));
            }
            if let Some(resource_type) = &filter.resource_type {
                query = query.filter(activities::resource_type.eq(resource_type));
            }
            if let Some(resource_id) = &filter.resource_id {
                query = query.filter(activities::resource_id.eq(resource_id));
            }
            if let Some(actor) = &filter.actor {
                query = query.filter(activities::actor.eq(actor));
            }
            if let Some(start) = period.start {
                query = query.filter(activities::create_time.ge(start));
            }
            if let Some(end) = period.end {
                query = query.filter(activities::create_time.lt(end));
            }
            query
        };
        let total = total!(tx, page, filtered(filter.period));
        // There is no order by name. The ids of one transaction's activities rise like its
        // ordinals.
        let rest = page.rest_of(filter.period, By::CreateTime);
        let query = keyset!(filtered(rest), page, activities(activity_id, activity_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }

    /// Reads one step of the feed, starting at a position that the feed has reached and still has.
    ///
    /// It reads only transactions below the oldest running one. No transaction commits there any
    /// more, so no activity is ever added before a position that was reached.
    pub async fn follow(tx: &Tx, watched: &Watched, from: Position) -> Result<Step> {
        let place = || {
            (activities::transaction_id, activities::ordinal)
                .into_sql::<Record<(BigInt, Integer)>>()
        };
        let ahead = || {
            activities::table
                .filter(tx.owns(activities::tenant_id))
                .filter(place().gt((from.transaction_id, from.ordinal)))
                .order((activities::transaction_id, activities::ordinal))
        };
        let last = async {
            let last = ahead()
                .select(Position::as_select())
                .offset(MAX_READ - 1)
                .first::<Position>(&mut tx.conn());
            Ok(last.await.optional()?)
        };
        let (moment, last) = try_join(Moment::now(tx), last).await?;
        moment.require(from)?;
        let end = Position::before(moment.horizon);
        let until = last.map_or(end, |last| last.min(end));
        let query = ahead()
            .filter(place().le((until.transaction_id, until.ordinal)))
            .filter(tx.activities_in_reach());
        let mut query = query.select(Self::as_select()).limit(BATCH).into_boxed();
        if let Some(account_id) = &watched.account_id {
            query = query.filter(activities::account_id.eq(account_id));
        }
        let (activities, complete) =
            budget::read(tx, query.load_stream::<Self>(&mut tx.conn()).await?).await?;
        let full = !complete || i64::try_from(activities.len()).is_ok_and(|count| count == BATCH);
        // A full batch ends at its last activity, because activities that match may follow it
        // before `until`.
        let position = activities.last().filter(|_| full).map_or(until, |last| last.position);
        let held_by = moment.is_held().then_some(moment.horizon);
        Ok(Step { activities, position, more: full || until < end, held_by })
    }
}

/// The bounds of the feed in one snapshot of the database.
#[derive(Debug)]
pub struct Moment {
    /// The oldest running transaction, or the next one: all transactions below it have ended.
    horizon: i64,
    /// The id that the next transaction gets.
    next: i64,
    /// Activities of transactions below this one may have been deleted.
    floor: i64,
}

impl Moment {
    /// Returns the bounds in the transaction's snapshot.
    pub async fn now(tx: &Tx) -> Result<Self> {
        let snapshot = || functions::pg_current_snapshot();
        let now = diesel::select((
            functions::pg_snapshot_xmin(snapshot()),
            functions::pg_snapshot_xmax(snapshot()),
            tenants::table
                .filter(tx.owns(tenants::tenant_id))
                .select(tenants::activity_floor)
                .single_value(),
        ));
        let (horizon, next, floor) =
            now.get_result::<(i64, i64, Option<i64>)>(&mut tx.conn()).await?;
        Ok(Self { horizon, next, floor: floor.unwrap_or_default() })
    }

    /// The position at the end of the feed.
    pub const fn end(&self) -> Position {
        Position::before(self.horizon)
    }

    /// Whether a transaction that is running holds the feed back.
    const fn is_held(&self) -> bool {
        self.horizon < self.next
    }

    /// Fails if activities after the position may have been deleted, or if this database has not
    /// reached the position: a position is always below the transactions that were running when it
    /// was reached.
    pub fn require(&self, position: Position) -> Result<()> {
        let kept = position >= Position::before(self.floor);
        if kept && position.transaction_id < self.next {
            Ok(())
        } else {
            Err(refusals::cursor_expired())
        }
    }
}

/// `pg_snapshot`, which only SQL functions read.
#[derive(Debug, Clone, Copy, SqlType, diesel::query_builder::QueryId)]
#[diesel(postgres_type(oid = 5038, array_oid = 5039))]
pub struct Snapshot;

/// `xid8`: a transaction id that does not wrap around.
#[derive(Debug, Clone, Copy, SqlType, diesel::query_builder::QueryId)]
#[diesel(postgres_type(oid = 5069, array_oid = 271))]
pub struct Xid8;

impl FromSql<Xid8, Pg> for i64 {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        // PostgreSQL sends it like a bigint. No id reaches the sign bit for thousands of years.
        <Self as FromSql<BigInt, Pg>>::from_sql(value)
    }
}

mod functions {
    use super::{Snapshot, Xid8};

    #[diesel::declare_sql_function]
    extern "SQL" {
        /// The transaction's snapshot.
        fn pg_current_snapshot() -> Snapshot;
        /// The oldest running transaction.
        fn pg_snapshot_xmin(snapshot: Snapshot) -> Xid8;
        /// The first transaction that had not begun.
        fn pg_snapshot_xmax(snapshot: Snapshot) -> Xid8;
    }
}
