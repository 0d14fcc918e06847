//! Encoded messages, read field by field without decoding them.
//!
//! Messages made from descriptors would take a hundred times as much memory.

use std::collections::{BTreeMap, BTreeSet};

use prost::{
    DecodeError, Name,
    bytes::{Buf as _, BufMut as _},
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::{
    error::{Error, Result},
    proto::POOL,
};

/// Whether a field has the same content in two messages of one type. The path leads from the
/// resource to the field, as in a violation. Elements of a list or a map are not compared one by
/// one.
pub fn is_same<M: Name>(path: &str, one: &M, other: &M) -> Result<bool> {
    let mut descriptor = POOL.get_message_by_name(&M::full_name());
    let (mut one, mut other) = (one.encode_to_vec(), other.encode_to_vec());
    for name in path.split('.') {
        let name = name.split_once('[').map_or(name, |(name, _)| name);
        let Some(field) = descriptor.as_ref().and_then(|message| message.get_field_by_name(name))
        else {
            break;
        };
        let inside = |message: &[u8]| {
            let of_field = |record: Result<Record<'_>, DecodeError>| match record {
                Ok(record) => (record.number == field.number()).then(|| Ok(record.whole.to_vec())),
                Err(error) => Some(Err(error)),
            };
            records(message).filter_map(of_field).collect::<Result<Vec<_>, _>>()
        };
        let (in_one, in_other) = (
            inside(&one).map_err(|error| fault(&error))?,
            inside(&other).map_err(|error| fault(&error))?,
        );
        if in_one == in_other {
            return Ok(true);
        }
        match field.kind() {
            Kind::Message(below) if !field.is_list() && !field.is_map() => {
                one = content(&one, field.number()).map_err(|error| fault(&error))?;
                other = content(&other, field.number()).map_err(|error| fault(&error))?;
                descriptor = Some(below);
            }
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// The error for a message that the service itself has encoded and cannot read.
pub fn fault(error: &DecodeError) -> Error {
    Error::internal(format!("field mask: {error}"))
}

/// One occurrence of a field in an encoded message.
struct Record<'a> {
    number: u32,
    /// The field with its key.
    whole: &'a [u8],
    /// Its content, if it is a string or a message.
    content: &'a [u8],
}

/// The fields of an encoded message, in order.
fn records(mut message: &[u8]) -> impl Iterator<Item = Result<Record<'_>, DecodeError>> {
    std::iter::from_fn(move || {
        let start = message;
        let read = || {
            let (number, wire) = decode_key(&mut message)?;
            let behind_key = message;
            skip_field(wire, number, &mut message, DecodeContext::default())?;
            let whole = &start[..start.len() - message.len()];
            let mut content = &behind_key[..behind_key.len() - message.len()];
            if wire == WireType::LengthDelimited {
                decode_varint(&mut content)?;
            }
            Ok(Record { number, whole, content })
        };
        start.has_remaining().then(read)
    })
}

/// The fields of an encoded message that have content. A message none of whose fields has content
/// counts as absent.
pub fn populated(
    descriptor: &MessageDescriptor,
    message: &[u8],
) -> Result<Vec<FieldDescriptor>, DecodeError> {
    let mut found = Vec::new();
    for record in records(message) {
        let record = record?;
        let Some(field) = descriptor.get_field(record.number) else { continue };
        let has_content = match field.kind() {
            Kind::Message(below) if !field.is_list() && !field.is_map() => {
                !populated(&below, record.content)?.is_empty()
            }
            _ => true,
        };
        if has_content && !found.contains(&field) {
            found.push(field);
        }
    }
    Ok(found)
}

/// A step on the way from a message to what a mask names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A field of the message.
    Field(FieldDescriptor),
    /// The entry with this key, of a map whose keys are strings.
    Key(String),
}

impl Step {
    /// The field; `None` for an entry of a map.
    pub const fn field(&self) -> Option<&FieldDescriptor> {
        match self {
            Self::Field(field) => Some(field),
            Self::Key(_) => None,
        }
    }
}

/// The parts of one field that a mask names.
#[derive(Default)]
struct Taken<'a> {
    /// Whether the mask names the whole field.
    whole: bool,
    /// The entries of the map with these keys.
    keys: BTreeSet<&'a [u8]>,
    /// The paths that the mask names inside the message.
    inside: Vec<&'a [Step]>,
}

/// The number of the key in an entry of a map.
const KEY: u32 = 1;

/// The encoding of `current` with what is at the ends of `paths` taken from `wanted`, which may
/// lack it.
pub fn overlay(current: &[u8], wanted: &[u8], paths: &[&[Step]]) -> Result<Vec<u8>, DecodeError> {
    let mut fields = BTreeMap::<u32, Taken<'_>>::new();
    for path in paths {
        let Some((Step::Field(field), rest)) = path.split_first() else { continue };
        let taken = fields.entry(field.number()).or_default();
        match rest {
            [] => taken.whole = true,
            [Step::Key(key)] => _ = taken.keys.insert(key.as_bytes()),
            rest => taken.inside.push(rest),
        }
    }
    let mut merged = Vec::with_capacity(current.len() + wanted.len());
    for (message, is_wanted) in [(current, false), (wanted, true)] {
        for record in records(message) {
            let record = record?;
            let is_taken = match fields.get(&record.number) {
                None => false,
                Some(taken) if taken.whole => true,
                // Merged field by field, below.
                Some(taken) if !taken.inside.is_empty() => continue,
                Some(taken) => taken.keys.contains(&*content(record.content, KEY)?),
            };
            if is_taken == is_wanted {
                merged.extend_from_slice(record.whole);
            }
        }
    }
    for (number, taken) in fields {
        if taken.whole || taken.inside.is_empty() {
            continue;
        }
        let (current, wanted) = (content(current, number)?, content(wanted, number)?);
        let message = overlay(&current, &wanted, &taken.inside)?;
        encode_key(number, WireType::LengthDelimited, &mut merged);
        encode_varint(message.len() as u64, &mut merged);
        merged.put_slice(&message);
    }
    Ok(merged)
}

/// The content of a field; occurrences of a message are joined. Empty if the field is absent.
pub fn content(message: &[u8], number: u32) -> Result<Vec<u8>, DecodeError> {
    let mut content = Vec::new();
    for record in records(message) {
        let record = record?;
        if record.number == number {
            content.extend_from_slice(record.content);
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Account, Address};

    #[test]
    fn a_field_is_the_same_if_everything_in_it_is() {
        let account = |city: &str| Account {
            display_name: "name".into(),
            billing_address: Some(Address {
                city: city.into(),
                country: "CH".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let (one, mut other) = (account("Bern"), account("Wien"));
        let same = |path: &str, other: &Account| is_same(path, &one, other).unwrap();
        for (path, expected) in [
            ("display_name", true),
            ("comment", true),
            ("billing_address", false),
            ("billing_address.city", false),
        ] {
            assert_eq!(same(path, &other), expected, "{path}");
        }
        assert!(
            same("billing_address.country", &other)
                && same("metadata[\"a.b\"]", &other)
                && !same("nothing", &other)
        );
        other.metadata.insert("a.b".into(), "c".into());
        assert!(!same("metadata[\"a.b\"]", &other));
    }
}
