//! A line of JSON as a row: an account, or an object with an account as an export has it.

use std::{
    cell::Cell,
    fmt,
    io::{BufRead, Read as _},
};

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, MessageDescriptor};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Fault, columns, header, scan::MAX_RECORD, source::Refusal};
use crate::proto::{ErrorReason, ImportRow};

/// The key of a line that is no JSON object, in a file of refused rows.
const LINE: &str = "_line";
/// The most values of a text, so that it takes a bounded amount of memory. No message takes more
/// than 50,000 entries.
const MAX_VALUES: usize = 60_000;
/// The most objects and lists in each other that preferences take, by the contract.
const MAX_DEPTH: usize = 32;

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
    let value = value(text).map_err(|error| {
        let told = told(&error);
        Refusal::malformed(if error.is_data() {
            told
        } else if error.is_eof() {
            "the line ends within an object: each object must be on one line".to_owned()
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
    for name in ignore {
        remove(&mut object, Some(descriptor), name);
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
        if let Some(Value::String(status)) = account.get_mut("status") {
            let known = columns::status(status)
                .map_err(|rule| invalid(format!("account.status: {rule}")))?;
            known.as_str_name().clone_into(status);
        }
        if let Some(preferences) = account.get("preferences") {
            check_preferences(preferences)
                .map_err(|rule| invalid(format!("account.preferences: {rule}")))?;
        }
        paths = paths_of(account, described, "");
        // An entry that is ignored stays, so the others are named.
        if let Some(metadata) = account.get("metadata")
            && ignore.iter().any(|name| is_entry(name))
        {
            let Value::Object(entries) = metadata else {
                return Err(invalid(
                    "account.metadata: cannot be emptied while --ignore keeps an entry".to_owned(),
                ));
            };
            paths.retain(|path| path != "metadata");
            paths.extend(entries.keys().map(|key| header::entry(key)));
        }
        let named =
            ["account_type_id", "accountTypeId"].into_iter().find_map(|key| account.get(key));
        without_type = named.is_some_and(|value| value.is_null() || value == "");
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
    let alone = |key: &str, value: Value| Map::from_iter([(key.to_owned(), value)]);
    object.iter().find_map(|(key, value)| {
        let whole = message(descriptor, &alone(key, value.clone()).into()).err()?;
        let field =
            descriptor.fields().find(|it| [it.name(), it.json_name()].contains(&key.as_str()));
        let Some(field) = field else { return Some((key.clone(), whole)) };
        // The items of a list and the entries of a map, each as the only one.
        let parts: Vec<(String, &Value, Value)> = match value {
            Value::Array(items) if field.is_list() => (0..)
                .zip(items)
                .map(|(i, item)| (format!("{key}[{i}]"), item, vec![item.clone()].into()))
                .collect(),
            Value::Object(entries) if field.is_map() => entries
                .iter()
                .map(|(name, value)| {
                    (format!("{key}.{name}"), value, alone(name, value.clone()).into())
                })
                .collect(),
            value => vec![(key.clone(), value, value.clone())],
        };
        let kind = field.kind();
        let below = kind
            .as_message()
            .filter(|it| !field.is_map() && !it.full_name().starts_with("google."));
        let found = parts.into_iter().find_map(|(path, part, only)| {
            let rule = message(descriptor, &alone(key, only).into()).err()?;
            let inside = below.and_then(|below| culprit(below, part.as_object()?));
            Some(match inside {
                Some((inner, rule)) => (format!("{path}.{inner}"), rule),
                None => (path, rule),
            })
        });
        Some(found.unwrap_or_else(|| (key.clone(), whole)))
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

/// The value of a text in which no object has a key twice, since one of the two would be lost.
pub fn value(text: &str) -> Result<Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Bounded(&Cell::new(MAX_VALUES)).deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// Checks what the value of preferences must be before it becomes a message.
pub fn check_preferences(value: &Value) -> Result<(), String> {
    if depth(value) > MAX_DEPTH {
        return Err(format!("must have at most {MAX_DEPTH} objects and lists in each other"));
    }
    Ok(())
}

/// How many objects and lists are in each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// Reads a value, while so many values are left.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        let Some(left) = self.0.get().checked_sub(1) else {
            return Err(de::Error::custom(format_args!("there are more than {MAX_VALUES} values")));
        };
        self.0.set(left);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
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
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if all.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key {key:?} occurs twice")));
            }
            all.insert(key, entries.next_value_seed(self)?);
        }
        Ok(all.into())
    }
}

/// Whether the name of something to ignore is that of an entry of the metadata.
fn is_entry(name: &str) -> bool {
    name.trim_start_matches("account.").starts_with("metadata.")
}

/// The text of an error, without the number of its line: the parser gets one line of the file at a
/// time, so that this number is always 1.
pub fn told(error: &serde_json::Error) -> String {
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
        if field.as_ref().is_some_and(FieldDescriptor::is_map) {
            // The key of an entry may have dots.
            inner.remove(rest);
        }
        let kind = field.as_ref().map(FieldDescriptor::kind);
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
    let object = serde_json::from_str::<Map<_, _>>(line).ok().filter(|object| {
        // Without one of the names the text stays. Otherwise a key that occurs twice is not lost.
        value(line).is_ok() || !names.iter().any(|name| object.contains_key(*name))
    });
    let Some(mut object) = object else {
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
