//! Batches of resources by id (AIP-231). A response has all of them, in the order of the request;
//! if one is missing, the call fails.

use std::collections::BTreeMap;

use diesel::QueryResult;
use futures_util::{Stream, StreamExt as _};

use crate::{
    budget::Budget, db::Tx, error::Result, page::Listed, resource::Kind, validate::Violations,
};

/// A batch get request. `build.rs` implements this for every request whose first field is a list of
/// ids.
pub trait Batch {
    /// The name of that field.
    const IDS: &'static str;
    /// The ids.
    fn ids(self) -> Vec<String>;
}

/// The ids of a batch get request.
#[derive(Debug)]
pub struct Ids(Vec<String>);

impl Ids {
    /// Parses a batch get request. It must have at least one id; a limit in the contract bounds how
    /// many it has.
    pub fn parse<M: Batch>(v: &mut Violations, request: M) -> Self {
        let (field, ids) = (M::IDS, request.ids());
        if ids.is_empty() {
            v.add(field, "must have at least 1 entry");
        }
        Self((0..).zip(ids).map(|(i, id)| v.id(format_args!("{field}[{i}]"), id)).collect())
    }

    /// Each id once, for a query.
    pub fn unique(&self) -> Vec<&str> {
        self.counted().into_keys().collect()
    }

    fn counted(&self) -> BTreeMap<&str, usize> {
        let mut counted = BTreeMap::new();
        for id in &self.0 {
            *counted.entry(id.as_str()).or_default() += 1;
        }
        counted
    }

    /// Puts the rows of a query for the [`Ids::unique`] ids in the order of the request. Fails if
    /// one is missing, or if the response would be too large; a row that is requested twice counts
    /// twice.
    pub async fn collect<T: Listed + Clone>(
        &self,
        tx: &Tx,
        kind: &Kind,
        rows: impl Stream<Item = QueryResult<T>>,
    ) -> Result<Vec<T>> {
        let mut rows = std::pin::pin!(rows);
        let mut asked = self.counted();
        let (mut found, mut budget) = (BTreeMap::new(), Budget::default());
        while let Some(row) = rows.next().await {
            let row = row?;
            let (.., id) = row.key();
            let times = asked.get(id).copied().unwrap_or_default();
            if let Err(too_large) = budget.spend(row.weight().saturating_mul(times)) {
                tx.leave_unread();
                return Err(too_large);
            }
            found.insert(id.to_owned(), row);
        }
        if let Some(missing) = self.0.iter().find(|id| !found.contains_key(*id)) {
            return Err(kind.not_found(missing));
        }
        // A row is cloned only if its id is requested again.
        let row = |id: &String| {
            let left = asked.get_mut(&**id)?;
            *left -= 1;
            if *left == 0 { found.remove(id) } else { found.get(id).cloned() }
        };
        Ok(self.0.iter().filter_map(row).collect())
    }
}
