//! Metadata: the callers' own data on a resource, as a map of strings, and the words by which lists
//! find it.
//!
//! Under row-level security no index over jsonb can be used (see `crate::search`). So each entry is
//! stored as a word of its resource, beside the words of the search, and looked up by equality.

use std::collections::BTreeMap;

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    serialize::{self, Output, ToSql},
    sql_types::Jsonb,
};
use serde::Serialize;

use crate::{text, validate::Violations};

/// Most entries, as the contract says of a request. An update of single entries adds to those that
/// are there.
const MAX_ENTRIES: usize = 64;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 500;

/// The first character of an entry's word. No query contains it, so no search finds these words.
const MARK: char = '\u{1}';

/// Bytes of an entry in an answer beside its texts.
const ENTRY: usize = 64;

/// The metadata of a resource, or entries that a list must find in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, FromSqlRow, AsExpression)]
#[serde(transparent)]
#[diesel(sql_type = Jsonb)]
pub struct Metadata(pub BTreeMap<String, String>);

impl Metadata {
    /// Parses the metadata in a field. Every entry that breaks a rule is a violation, and so are
    /// too many entries.
    pub fn parse(v: &mut Violations, field: &str, mut entries: BTreeMap<String, String>) -> Self {
        let count = entries.len();
        if count > MAX_ENTRIES {
            v.add(field, format!("must have at most {MAX_ENTRIES} entries, has {count}"));
        }
        for (key, value) in &mut entries {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
            if !(1..=MAX_KEY).contains(&key.len()) || !key.chars().all(fits) {
                v.add(
                    format_args!("{field}[{key:?}]"),
                    format!(
                        "key must have 1 to {MAX_KEY} characters, each a letter, a digit \
                         or one of _.-/"
                    ),
                );
            }
            *value = v.text(format_args!("{field}[{key:?}]"), std::mem::take(value), MAX_VALUE);
        }
        Self(entries)
    }

    /// The word of each entry. No key contains `=`. A value that was stored before texts were
    /// normalized is found by its normalized form; a list's filter is normalized too.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(key, value)| format!("{MARK}{key}={}", text::normalize(value.clone())))
    }

    /// Its size in an answer.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len() + ENTRY).sum()
    }
}

impl ToSql<Jsonb, Pg> for Metadata {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let value = serde_json::to_value(&self.0)?;
        <serde_json::Value as ToSql<Jsonb, Pg>>::to_sql(&value, &mut out.reborrow())
    }
}

impl FromSql<Jsonb, Pg> for Metadata {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let value = <serde_json::Value as FromSql<Jsonb, Pg>>::from_sql(value)?;
        Ok(Self(serde_json::from_value(value)?))
    }
}
