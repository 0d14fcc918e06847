//! Converts activities between messages of the contract and rows.

use serde_json::Value;

use super::{
    refusals,
    store::{Activity, Filter, Position, Watched},
};
use crate::{
    caller::{Caller, MAX_ACTOR},
    error::Result,
    id::MAX_PAIR_CHARS,
    page::Binding,
    proto,
    validate::Violations,
    wire::{json, timestamp},
};

/// Longest resource type in characters.
const MAX_TYPE: usize = 50;

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListActivitiesRequest) -> Self {
        let mut given =
            |field, value: String, max| (!value.is_empty()).then(|| v.exact(field, value, max));
        let resource_type = given("resource_type", request.resource_type, MAX_TYPE);
        let resource_id = given("resource_id", request.resource_id, MAX_PAIR_CHARS);
        let actor = given("actor", request.actor, MAX_ACTOR);
        if resource_id.is_some() && resource_type.is_none() {
            v.add("resource_type", "is required with resource_id");
        }
        let period = v.period("", request.start_time, request.end_time);
        let account_id = v.optional_id("account_id", request.account_id);
        Self { account_id, resource_type, resource_id, actor, period }
    }
}

/// The permission and the name of `WatchActivities`, as its policy has them.
pub const PERMISSION: &str = "activities.read";
const METHOD: &str = "accounts.v1.ActivityService/WatchActivities";

/// What the cursors of the caller's watches of all activities belong to, for another call.
pub fn binding_of_all(caller: &Caller) -> Binding {
    let caller = Caller { method: METHOD, ..caller.clone() };
    Binding::of(&caller, &proto::WatchActivitiesRequest::default())
}

/// Where a watch begins, and what it receives.
#[derive(Debug)]
pub struct Start {
    /// It begins after this position; `None` for the present end of the feed.
    pub position: Option<Position>,
    /// Which activities it receives.
    pub watched: Watched,
    /// What its cursors belong to.
    pub binding: Binding,
}

impl Start {
    /// Parses a watch request.
    pub fn parse(caller: &Caller, mut request: proto::WatchActivitiesRequest) -> Result<Self> {
        let mut v = Violations::default();
        let cursor = std::mem::take(&mut request.cursor);
        let binding = Binding::of(caller, &request);
        let account_id = v.optional_id("account_id", request.account_id);
        let start = v.finish(Self { position: None, watched: Watched { account_id }, binding })?;
        if cursor.is_empty() {
            return Ok(start);
        }
        let position = start.binding.open(&cursor).and_then(|(transaction_id, ordinal)| {
            Some(Position {
                transaction_id: transaction_id.parse().ok()?,
                ordinal: ordinal.parse().ok()?,
            })
        });
        Ok(Self { position: Some(position.ok_or_else(refusals::invalid_cursor)?), ..start })
    }
}

/// Returns the cursor from which [`Start::parse`] reads this position.
pub fn cursor(binding: &Binding, position: Position) -> String {
    binding.seal(&position.transaction_id.to_string(), &position.ordinal.to_string())
}

impl From<Activity> for proto::Activity {
    fn from(activity: Activity) -> Self {
        let changes = match activity.changes {
            Value::Array(changes) => changes.into_iter().map(change).collect(),
            _ => Vec::new(),
        };
        Self {
            activity_id: activity.activity_id,
            actor: activity.actor,
            create_time: Some(timestamp(activity.create_time)),
            method: activity.method,
            request_id: activity.request_id.unwrap_or_default(),
            action: activity.action,
            resource_type: activity.resource_type,
            resource_id: activity.resource_id,
            account_id: activity.account_id.unwrap_or_default(),
            changes,
        }
    }
}

fn change(mut change: Value) -> proto::FieldChange {
    let field = change["field"].as_str().unwrap_or_default().to_owned();
    proto::FieldChange {
        field,
        before: Some(json(change["before"].take())),
        after: Some(json(change["after"].take())),
    }
}
