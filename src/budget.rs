//! The limit of an answer in bytes: how much one list or batch may hold in memory, and so send.
//!
//! Rows are read one by one. Reading stops before they would weigh more than [`ANSWER`]: a list
//! then ends its page, and a batch is refused. Further rows are never in memory.

use diesel::QueryResult;
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use crate::{
    db::Tx,
    error::{Error, Result},
};

/// Most bytes of an answer with many resources, by their weight. Clients accept 4 MiB by default.
/// Rows, messages and the encoded answer may be in memory at the same time, for each call under
/// way.
pub const ANSWER: usize = 2 * 1024 * 1024;

/// Memory of a JSON value beside its strings, and of an object in addition: a node of its tree has
/// space for eleven entries, however few it has.
const JSON_VALUE: usize = 64;
const JSON_OBJECT: usize = 640;

/// A row that becomes part of an answer.
pub trait Weighed {
    /// About how many bytes the row takes: at least its size in the encoded answer, and for JSON
    /// its size in memory.
    fn weight(&self) -> usize;
}

/// The bytes of an answer that are not used yet.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(ANSWER)
    }
}

impl Budget {
    /// Takes a weight from the budget. Fails with `ResponseTooLarge` if it does not fit.
    pub fn spend(&mut self, weight: usize) -> Result<()> {
        self.0 = self.0.checked_sub(weight).ok_or(Error::ResponseTooLarge)?;
        Ok(())
    }
}

/// Reads the rows of a query that fit into an answer, and returns whether they are all. The first
/// row always fits.
pub async fn read<T: Weighed>(
    tx: &Tx,
    rows: impl Stream<Item = QueryResult<T>>,
) -> Result<(Vec<T>, bool)> {
    let mut rows = std::pin::pin!(rows);
    let (mut kept, mut budget) = (Vec::new(), Budget::default());
    while let Some(row) = rows.next().await {
        let row = row?;
        if budget.spend(row.weight()).is_err() && !kept.is_empty() {
            tx.leave_unread();
            return Ok((kept, false));
        }
        kept.push(row);
    }
    Ok((kept, true))
}

/// The bytes of strings.
pub fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    texts.into_iter().map(String::len).sum()
}

/// The memory of a list of strings.
pub fn list(texts: &[String]) -> usize {
    texts.iter().map(|text| text.len() + size_of::<String>()).sum()
}

/// The memory of a JSON value.
pub fn json(value: &Value) -> usize {
    JSON_VALUE
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(json).sum(),
            Value::Object(fields) => {
                JSON_OBJECT
                    + fields.iter().map(|(key, value)| key.len() + json(value)).sum::<usize>()
            }
        }
}
