//! Conversions to messages that every slice uses.

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use prost_types::{ListValue, Struct, Timestamp, value::Kind as JsonKind};
use serde_json::Value;

use crate::proto::google::r#type::Date;

/// The etag of a row (AIP-154): its creation time and its revision. The time makes it differ for a
/// row that is created again with the same id.
pub fn etag(create_time: DateTime<Utc>, revision: i64) -> String {
    format!("{:x}-{revision:x}", create_time.timestamp_micros())
}

/// Converts a date to its message.
pub fn to_date(date: NaiveDate) -> Date {
    // Months and days are small.
    let small = |number: u32| i32::try_from(number).unwrap_or_default();
    Date { year: date.year(), month: small(date.month()), day: small(date.day()) }
}

/// Converts a time to its message.
pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    // The nanoseconds are below 10^9, so they fit.
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

/// Converts JSON to its message.
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
