//! What every slice's translation between rows and messages shares.

use chrono::{DateTime, Utc};
use prost_types::{ListValue, Struct, Timestamp, value::Kind as JsonKind};
use serde_json::Value;

use crate::{error::Result, resource::Kind};

/// The etag of a row (AIP-154): its creation, so that a row recreated under the same id has another
/// one, and its revision.
pub fn etag(create_time: DateTime<Utc>, revision: i64) -> String {
    format!("{:x}-{revision:x}", create_time.timestamp_micros())
}

/// Refuses a change when the caller sent an etag and it is not `current`.
pub fn require_etag(sent: &str, current: &str, kind: &Kind, id: &str) -> Result<()> {
    if sent.is_empty() || sent == current { Ok(()) } else { Err(kind.etag_mismatch(id)) }
}

/// A time on the wire.
pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    // Below 10^9, so it fits.
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

/// JSON on the wire.
pub fn json(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => JsonKind::NullValue(0),
        Value::Bool(value) => JsonKind::BoolValue(value),
        Value::Number(number) => JsonKind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(value) => JsonKind::StringValue(value),
        Value::Array(values) => {
            JsonKind::ListValue(ListValue { values: values.into_iter().map(json).collect() })
        }
        Value::Object(fields) => JsonKind::StructValue(Struct {
            fields: fields.into_iter().map(|(key, value)| (key, json(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
