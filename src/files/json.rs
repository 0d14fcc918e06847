//! A line of JSON as a row: an account, or an object with an account as an export has it.

use std::{
    fmt,
    io::{BufRead, Read as _},
};

use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Fault, columns, scan::MAX_RECORD, source::Refusal};
use crate::proto::{ErrorReason, ImportRow};

/// The key of a line that is no JSON object, in a file of refused rows.
const LINE: &str = "_line";

/// The next line; `None` at the end.
pub fn next_line(reader: &mut impl BufRead, line: u64) -> Result<Option<String>, Fault> {
    let mut bytes = Vec::new();
    let read = reader.take(MAX_RECORD + 1).read_until(b'\n', &mut bytes);
    let read = read.map_err(|error| Fault::Failed(error.to_string()))?;
    if read as u64 > MAX_RECORD {
        return Err(Fault::Failed(format!("line {line} is longer than {MAX_RECORD} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| Fault::Failed(error.to_string()))?;
    Ok((read > 0).then_some(text))
}

/// The row of a line: an account, or an object with an `account` as an export has it.
pub fn row(
    text: &str,
    descriptor: &MessageDescriptor,
    ignore: &[String],
) -> Result<ImportRow, Refusal> {
    let invalid = |message: String| Refusal::new(ErrorReason::InvalidField, message);
    let Unique(value) = serde_json::from_str(text).map_err(|error| {
        let told = told(&error);
        Refusal::malformed(if error.is_data() {
            told
        } else {
            format!("the line is not JSON: {told}")
        })
    })?;
    let Value::Object(mut object) = value else {
        return Err(Refusal::malformed("the line is not a JSON object"));
    };
    object.retain(|key, _| !key.starts_with('_'));
    if !object.get("account").is_some_and(Value::is_object) {
        object = Map::from_iter([("account".to_owned(), Value::Object(object))]);
    }
    for key in ["row", "update_mask", "updateMask"] {
        if object.contains_key(key) {
            return Err(invalid(format!("{key}: is not part of a line")));
        }
    }
    if let Some(path) = named_twice(descriptor, &object) {
        return Err(invalid(format!("{path}: has a value under each of its two names")));
    }
    let mut paths = Vec::new();
    let mut without_type = false;
    let described = descriptor.get_field_by_name("account").map(|field| field.kind());
    let described = described.as_ref().and_then(|kind| kind.as_message());
    if let (Some(Value::Object(account)), Some(described)) = (object.get_mut("account"), described)
    {
        for name in ignore {
            remove(account, Some(described), name);
        }
        if let Some(Value::String(status)) = account.get_mut("status")
            && let Ok(known) = columns::status(status)
        {
            known.as_str_name().clone_into(status);
        }
        paths = paths_of(account, described, "");
        let named =
            ["account_type_id", "accountTypeId"].into_iter().find_map(|key| account.get(key));
        without_type = named.is_some_and(|value| value.is_null() || value == "");
    }
    for name in ignore {
        remove(&mut object, Some(descriptor), name);
    }
    let value = Value::Object(object);
    let message = message(descriptor, &value).map_err(|rule| {
        let found = value.as_object().and_then(|object| culprit(descriptor, object));
        invalid(found.map_or(rule, |(path, rule)| format!("{path}: {rule}")))
    })?;
    let mut row =
        message.transcode_to::<ImportRow>().map_err(|error| invalid(error.to_string()))?;
    row.without_account_type |= without_type;
    columns::finish(&mut row, paths);
    Ok(row)
}

fn message(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
        .map_err(|error| told(&error))
}

/// The entry that makes an object no message: its path, and what is wrong with it.
fn culprit(
    descriptor: &MessageDescriptor,
    object: &Map<String, Value>,
) -> Option<(String, String)> {
    object.iter().find_map(|(key, value)| {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        let rule = message(descriptor, &alone).err()?;
        let field = descriptor
            .fields()
            .find(|it| [it.name(), it.json_name()].contains(&key.as_str()) && !it.is_map());
        let Some(field) = field else { return Some((key.clone(), rule)) };
        let kind = field.kind();
        let below = kind.as_message().filter(|it| !it.full_name().starts_with("google."));
        let inside = |value: &Value| culprit(below?, value.as_object()?);
        let (step, found) = match value {
            Value::Array(items) => (0..)
                .zip(items)
                .find_map(|(i, item)| Some((format!("[{i}]."), inside(item)?)))
                .unzip(),
            value => (Some(".".to_owned()), inside(value)),
        };
        Some(match step.zip(found) {
            Some((step, (path, rule))) => (format!("{key}{step}{path}"), rule),
            None => (key.clone(), rule),
        })
    })
}

/// The path of a field that an object has under both of its names.
fn named_twice(descriptor: &MessageDescriptor, object: &Map<String, Value>) -> Option<String> {
    descriptor.fields().filter(|field| !field.is_map()).find_map(|field| {
        let (name, kind) = (field.name(), field.kind());
        let value = object.get(name).or_else(|| object.get(field.json_name()))?;
        if name != field.json_name()
            && [name, field.json_name()].iter().all(|name| object.contains_key(*name))
        {
            return Some(name.to_owned());
        }
        let below = kind.as_message()?;
        let inside = |value: &Value| named_twice(below, value.as_object()?);
        match value {
            Value::Array(items) => (0..)
                .zip(items)
                .find_map(|(i, item)| Some(format!("{name}[{i}].{}", inside(item)?))),
            value => Some(format!("{name}.{}", inside(value)?)),
        }
    })
}

/// A value in which no object has a key twice: one of the two would be lost.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, _>()? {
            if all.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key {key:?} occurs twice")));
            }
            all.insert(key, value);
        }
        Ok(all.into())
    }
}

/// The text of an error, without the number of its line: the parser gets one line of the file at a
/// time, so that this number is always 1.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.split_once(" at line 1 column "), error.line()) {
        (Some((rule, _)), 0) => rule.to_owned(),
        (Some((rule, column)), _) => format!("{rule} in column {column}"),
        (None, _) => text,
    }
}

/// The id of the account of a line that may be no row.
pub fn account_id(text: &str) -> String {
    let object = serde_json::from_str::<Map<_, _>>(text).unwrap_or_default();
    let account = object.get("account").and_then(Value::as_object).unwrap_or(&object);
    let id = account.get("account_id").or_else(|| account.get("accountId"));
    id.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Removes what stands at a path, under either name of its fields. An object of which nothing is
/// left is removed, too: an empty one would empty the field.
fn remove(object: &mut Map<String, Value>, described: Option<&MessageDescriptor>, path: &str) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = described.and_then(|described| {
        described.fields().find(|field| field.name() == name || field.json_name() == name)
    });
    let names = field.as_ref().map(|field| [field.name(), field.json_name()]);
    for key in names.unwrap_or([name, name]) {
        let Some(rest) = rest else {
            object.remove(key);
            continue;
        };
        let Some(Value::Object(inner)) = object.get_mut(key) else { continue };
        let kind = field.as_ref().map(prost_reflect::FieldDescriptor::kind);
        remove(inner, kind.as_ref().and_then(|kind| kind.as_message()), rest);
        if inner.is_empty() {
            object.remove(key);
        }
    }
}

/// The fields that an object names: those of an account, and those inside its contacts and
/// addresses. A field that is null or an empty object is named as a whole, and thus emptied.
fn paths_of(
    object: &Map<String, Value>,
    described: &MessageDescriptor,
    around: &str,
) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, value) in object {
        let field = described.fields().find(|it| it.name() == key || it.json_name() == key);
        let Some(field) = field else { continue };
        let path = format!("{around}{}", field.name());
        let kind = field.kind();
        let inner = kind
            .as_message()
            .filter(|inner| inner.full_name().starts_with("accounts.v1.") && !inner.is_map_entry());
        match (inner, value) {
            (Some(inner), Value::Object(value)) if !value.is_empty() => {
                paths.extend(paths_of(value, inner, &format!("{path}.")));
            }
            _ => paths.push(path),
        }
    }
    paths
}

/// A line of JSON with these entries in front, in place of the entries with these names.
pub fn with_entries(line: &str, names: &[&str], entries: &str) -> String {
    let Ok(mut object) = serde_json::from_str::<Map<_, _>>(line) else {
        return format!("{{{entries},\"{LINE}\":{}}}", Value::from(line));
    };
    let before = object.len();
    object.retain(|key, _| !names.contains(&key.as_str()));
    // As it came, where possible.
    let rest =
        if object.len() < before { Value::Object(object).to_string() } else { line.to_owned() };
    match rest.strip_prefix('{').map_or("}", str::trim_start) {
        "}" => format!("{{{entries}}}"),
        rest => format!("{{{entries},{rest}"),
    }
}
