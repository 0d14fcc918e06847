//! The activity trail: the changes of a transaction, written in the same transaction.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use diesel::{
    prelude::*,
    sql_types::{Nullable, Text},
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::tx::WriteTx;
use crate::{
    caller::Caller,
    error::{Error, Result},
    id,
    schema::activities,
    search::unnest,
};

/// Most activities that one statement inserts. The deletion of an account with thousands of users
/// records each user.
const BATCH: usize = 500;

/// A row whose changes the trail records. The trail contains its fields as they are serialized.
pub trait Recorded: Serialize {
    /// The type of the resource, a noun in `snake_case`.
    const NOUN: &'static str;
    /// The id. A row that belongs to two resources has both ids (`id::pair`).
    fn id(&self) -> Cow<'_, str>;
    /// What the row belongs to.
    fn belongs_to(&self) -> BelongsTo<'_>;
}

/// What a row belongs to, which decides who sees its events (`super::reach`). A later resource can
/// get the id of a deleted one, but never its incarnation, so whoever sees the later resource does
/// not see events of the deleted one.
#[derive(Debug, Clone, Copy)]
pub enum BelongsTo<'a> {
    /// An account.
    Account(AccountRef<'a>),
    /// The organization that the event is about, by its incarnation.
    Organization {
        /// Its incarnation.
        incarnation: &'a str,
    },
    /// The tenant: only callers who see the whole tenant see the event.
    Tenant,
}

/// A reference to an account.
#[derive(Debug, Clone, Copy)]
pub struct AccountRef<'a> {
    /// The account's id.
    pub account_id: &'a str,
    /// Its incarnation.
    pub incarnation: &'a str,
}

/// A change that the trail will contain.
pub struct Change {
    action: String,
    resource: &'static str,
    id: String,
    account_id: Option<String>,
    incarnation: Option<String>,
    changes: Value,
}

impl Change {
    /// Compares a row before and after a change; returns `None` if no field differs. `before` is
    /// `None` for a created row, `after` for a deleted one.
    pub(super) fn between<R: Recorded>(
        before: Option<&R>,
        after: Option<&R>,
    ) -> Result<Option<Self>> {
        let verb = match (before, after) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "updated",
        };
        let changes = differences(&fields(before)?, &fields(after)?);
        let Some(resource) = after.or(before) else { return Ok(None) };
        if verb == "updated" && changes.is_empty() {
            return Ok(None);
        }
        let (account_id, incarnation) = match resource.belongs_to() {
            BelongsTo::Account(account) => (Some(account.account_id), Some(account.incarnation)),
            BelongsTo::Organization { incarnation } => (None, Some(incarnation)),
            BelongsTo::Tenant => (None, None),
        };
        Ok(Some(Self {
            action: format!("{}.{verb}", R::NOUN),
            resource: R::NOUN,
            id: resource.id().into_owned(),
            account_id: account_id.map(ToOwned::to_owned),
            incarnation: incarnation.map(ToOwned::to_owned),
            changes: Value::Array(changes),
        }))
    }
}

/// Serializes a time for the trail: in UTC, always with microseconds, the precision that PostgreSQL
/// stores.
pub fn instant<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => moment(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// [`instant`] for a time that is always there.
pub fn moment<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn fields(row: Option<&impl Serialize>) -> Result<Map<String, Value>> {
    match row.map(serde_json::to_value).transpose() {
        Ok(Some(Value::Object(fields))) => Ok(fields),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(Error::internal(format!("snapshot for the trail: {error}"))),
    }
}

/// Returns `{field, before, after}` for every field that differs. Null stands for an unset field,
/// an empty text or an empty object.
fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Value> {
    fn set<'v>(fields: &'v Map<String, Value>, field: &str) -> Option<&'v Value> {
        let empty =
            |value: &Value| *value == json!(null) || *value == json!("") || *value == json!({});
        fields.get(field).filter(|value| !empty(value))
    }
    let added = after.keys().filter(|field| !before.contains_key(*field));
    before
        .keys()
        .chain(added)
        .map(|field| (field, set(before, field), set(after, field)))
        .filter(|(_, before, after)| before != after)
        .map(|(field, before, after)| json!({ "field": field, "before": before, "after": after }))
        .collect()
}

/// The changes of a transaction, each with its place among them.
pub(super) struct Trail<'a> {
    changes: Vec<(i32, Change)>,
    caller: &'a Caller,
    request_id: &'a str,
}

impl<'a> Trail<'a> {
    /// Takes the changes that `tx` has recorded so far.
    pub fn of(tx: &WriteTx, caller: &'a Caller, request_id: &'a str) -> Self {
        Self { changes: (0..).zip(tx.take_trail()).collect(), caller, request_id }
    }

    /// Inserts the changes but for the last ones, which one statement can insert.
    pub async fn begin(&self, tx: &WriteTx) -> Result<()> {
        let last = self.changes.len().saturating_sub(1) / BATCH;
        for batch in self.changes.chunks(BATCH).take(last) {
            self.insert(tx, batch).await?;
        }
        Ok(())
    }

    /// Inserts the last changes, by one statement. Does nothing if there are none.
    pub async fn end(&self, tx: &WriteTx) -> Result<()> {
        match self.changes.chunks(BATCH).last() {
            Some(batch) => self.insert(tx, batch).await,
            None => Ok(()),
        }
    }

    async fn insert(&self, tx: &WriteTx, batch: &[(i32, Change)]) -> Result<()> {
        // Sends arrays, because an INSERT with one row for each change would be prepared again for
        // each number of changes.
        let rows = diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            unnest(batch.iter().map(|_| id::generate("actv")).collect::<Vec<_>>()),
            unnest(batch.iter().map(|(ordinal, _)| *ordinal).collect::<Vec<_>>()),
            (&*self.caller.actor).into_sql::<Text>(),
            self.caller.method.into_sql::<Text>(),
            Some(self.request_id).filter(|id| !id.is_empty()).into_sql::<Nullable<Text>>(),
            unnest(batch.iter().map(|(_, change)| &*change.action).collect::<Vec<_>>()),
            unnest(batch.iter().map(|(_, change)| change.resource).collect::<Vec<_>>()),
            unnest(batch.iter().map(|(_, change)| &*change.id).collect::<Vec<_>>()),
            unnest(
                batch.iter().map(|(_, change)| change.account_id.as_deref()).collect::<Vec<_>>(),
            ),
            unnest(
                batch.iter().map(|(_, change)| change.incarnation.as_deref()).collect::<Vec<_>>(),
            ),
            unnest(batch.iter().map(|(_, change)| &change.changes).collect::<Vec<_>>()),
        ));
        let insert = diesel::insert_into(activities::table).values(rows).into_columns((
            activities::tenant_id,
            activities::activity_id,
            activities::ordinal,
            activities::actor,
            activities::method,
            activities::request_id,
            activities::action,
            activities::resource_type,
            activities::resource_id,
            activities::account_id,
            activities::incarnation,
            activities::changes,
        ));
        tx.send(insert).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    #[serde(transparent)]
    struct Row(Value);

    impl Recorded for Row {
        const NOUN: &'static str = "account_type";

        fn id(&self) -> Cow<'_, str> {
            "t".into()
        }

        fn belongs_to(&self) -> BelongsTo<'_> {
            BelongsTo::Tenant
        }
    }

    fn change(before: Option<Value>, after: Option<Value>) -> Option<(String, Value)> {
        let change = Change::between(before.map(Row).as_ref(), after.map(Row).as_ref()).unwrap();
        change.map(|change| (change.action, change.changes))
    }

    #[test]
    fn an_update_holds_the_fields_that_differ_and_is_nothing_without_any() {
        let before = json!({ "name": "a", "active": true, "gone": 1, "null": null });
        let (action, changes) =
            change(Some(before.clone()), Some(json!({ "name": "b", "active": true, "come": 2 })))
                .unwrap();
        assert_eq!(action, "account_type.updated");
        assert_eq!(
            changes,
            json!([
                { "field": "gone", "before": 1, "after": null },
                { "field": "name", "before": "a", "after": "b" },
                { "field": "come", "before": null, "after": 2 },
            ])
        );
        assert!(change(Some(before.clone()), Some(before)).is_none());
    }

    #[test]
    fn a_deletion_holds_the_last_snapshot() {
        let (action, changes) = change(Some(json!({ "name": "a" })), None).unwrap();
        assert_eq!(action, "account_type.deleted");
        assert_eq!(changes, json!([{ "field": "name", "before": "a", "after": null }]));
    }
}
