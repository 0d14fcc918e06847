//! Answers are bounded in bytes: what one list or batch may hold in memory, and so on the wire.
//!
//! Rows are read one by one, and reading stops where they would weigh more than [`ANSWER`]: a list
//! then ends its page there, and a batch is refused. The rest of the rows is never in memory.

use diesel::QueryResult;
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use crate::{
    db::Tx,
    error::{Error, Result},
};

/// Most bytes of an answer that holds many resources, by their weight. Clients accept 4 MiB unless
/// told otherwise; rows, messages and their encoding may be in memory at the same time, for each
/// call under way.
pub const ANSWER: usize = 2 * 1024 * 1024;

/// What a value of JSON takes in memory beside its texts, and what an object takes more: a node of
/// a tree has room for eleven entries, however few it has.
const JSON_VALUE: usize = 64;
const JSON_OBJECT: usize = 640;

/// A row that becomes part of an answer.
pub trait Weighed {
    /// How many bytes it takes, about: at least as many as on the wire, and for JSON as many as in
    /// memory.
    fn weight(&self) -> usize;
}

/// What is left of an answer's bytes.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(ANSWER)
    }
}

impl Budget {
    /// Takes the weight of what is added to the answer. Fails with `ResponseTooLarge` if it does
    /// not fit.
    pub fn spend(&mut self, weight: usize) -> Result<()> {
        self.0 = self.0.checked_sub(weight).ok_or(Error::ResponseTooLarge)?;
        Ok(())
    }
}

/// The rows of a query that fit into an answer, and whether they are all there are. The first
/// always fits.
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

/// The bytes of texts.
pub fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    texts.into_iter().map(String::len).sum()
}

/// What a list of texts takes, each with what an element of a list takes beside it.
pub fn list(texts: &[String]) -> usize {
    texts.iter().map(|text| text.len() + size_of::<String>()).sum()
}

/// What JSON takes in memory.
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
