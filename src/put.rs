//! Put: a request states a whole resource whose master is another system. Its messages may come
//! more than once and in any order.
//!
//! The checks come in this order: the source time lies far ahead; the resource belongs to another
//! account; its etag is not the one sent; the stored resource is newer. Then the slice replaces the
//! resource, where equal contents change nothing.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    change::{Resource, Versioned as _},
    db::WriteTx,
    error::{Error, Result},
};

/// How far ahead a source time may be. Clocks differ; but a time in the far future would make every
/// later message stale, without an error that anybody sees.
const AHEAD: TimeDelta = TimeDelta::days(1);

/// A row that requests state as a whole.
pub trait Stated: Resource {
    /// The account that it belongs to.
    fn account_id(&self) -> &str;
    /// When the other system last changed it, as far as it is known.
    fn source_time(&self) -> Option<DateTime<Utc>>;
}

/// What a request states besides the contents.
#[derive(Debug)]
pub struct Statement {
    /// The id of the resource.
    pub id: String,
    /// The account that it belongs to.
    pub account_id: String,
    /// The etag that the resource must have; empty for no check.
    pub etag: String,
    /// When the other system last changed it.
    pub source_time: Option<DateTime<Utc>>,
}

/// What a statement does.
#[derive(Debug)]
pub enum Put<R> {
    /// Creates the resource.
    Create,
    /// Replaces this row.
    Replace(R),
    /// Nothing, because this row is newer.
    Stale(R),
}

impl Statement {
    /// Compares the statement with the row that has its id. The row must be locked, whichever
    /// account it belongs to. Fails if its time lies too far ahead.
    pub async fn against<R: Stated>(&self, tx: &WriteTx, current: Option<R>) -> Result<Put<R>> {
        if let Some(time) = self.source_time
            && time > tx.now().await? + AHEAD
        {
            let field = format!("{}.source_time", R::KIND.noun);
            return Err(Error::invalid(field, "must be at most a day ahead"));
        }
        let Some(current) = current else {
            return if self.etag.is_empty() {
                Ok(Put::Create)
            } else {
                Err(R::KIND.etag_mismatch(&self.id))
            };
        };
        if current.account_id() != self.account_id {
            return Err(R::KIND.of_another_account(&self.id, &self.account_id));
        }
        current.require_etag(&self.etag)?;
        let is_older = self.source_time.is_some() && self.source_time < current.source_time();
        Ok(if is_older { Put::Stale(current) } else { Put::Replace(current) })
    }
}
