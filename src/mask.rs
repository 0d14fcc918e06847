//! Update masks (AIP-134, AIP-161): which fields of a resource an update changes.
//!
//! Which fields an update leaves alone stands in the contract: `google.api.field_behavior`.
//!
//! A mask works on encoded messages: the fields that it names are taken from one encoding, the
//! others from the other. Messages made from descriptors would take a hundred times as much memory.

use std::{collections::BTreeSet, sync::LazyLock};

use prost::{
    DecodeError, Message, Name,
    bytes::{Buf as _, BufMut as _},
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use prost_types::FieldMask;

use crate::{
    error::{Error, Result},
    proto::{self, FieldBehavior, POOL},
    validate::Violations,
};

/// The fields of the contract that an update does not change, by their full names: identifiers,
/// what is output only, and etags, which are checked instead. Clients send them back as they read
/// them.
static KEPT: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let fields = POOL.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let kept = fields.filter(|field| {
        let is = |behavior| proto::behaviors(field).contains(&behavior);
        is(FieldBehavior::Identifier) || is(FieldBehavior::OutputOnly) || field.name() == "etag"
    });
    kept.map(|field| field.full_name().to_owned()).collect()
});

/// Output-only fields that another call changes, and what an update is told whose mask names one
/// with another value: `("email", "is changed by UpdatePerson only")`.
pub type Elsewhere = [(&'static str, &'static str)];

/// What an update changes.
#[derive(Debug)]
pub struct Mask {
    /// The fields, each as the path from the resource down.
    paths: Vec<Vec<FieldDescriptor>>,
    /// Fields that are named, but that another call changes, and what the update is told.
    fixed: Vec<(FieldDescriptor, &'static str)>,
}

impl Mask {
    /// The fields that `mask` names in a resource: the populated ones without a mask, all for `*`.
    /// A message without any content is not populated: clients that fill forms into messages send
    /// it for what they left empty. Identifiers, output-only fields and the etag are left out.
    /// Unknown paths are violations.
    pub fn parse<M: Name>(
        violations: &mut Violations,
        resource: &M,
        mask: Option<FieldMask>,
        elsewhere: &Elsewhere,
    ) -> Result<Self> {
        let name = M::full_name();
        let descriptor = POOL
            .get_message_by_name(&name)
            .ok_or_else(|| Error::internal(format!("no descriptor of {name}")))?;
        let paths = mask.map(|mask| mask.paths).unwrap_or_default();
        let encoded = resource.encode_to_vec();
        let populated = populated(&descriptor, &encoded).map_err(|error| fault(&error))?;
        let mut fields = Vec::new();
        if paths.is_empty() {
            fields.extend(populated.iter().map(|field| vec![field.clone()]));
        }
        for path in paths.iter().filter(|path| *path != "*") {
            match resolve(&descriptor, path) {
                Some(resolved) => fields.push(resolved),
                None => violations
                    .add("update_mask", format!("{path:?} is no field of {}", descriptor.name())),
            }
        }
        // Only a field that is named is refused: what a client sends back may have changed since it
        // was read (AIP-203).
        let mut fixed = Vec::new();
        if !paths.is_empty() {
            let named = fields.iter().filter_map(|path| path.first());
            for field in named.filter(|field| is_kept(field)) {
                let rule = elsewhere.iter().find(|(name, _)| *name == field.name());
                fixed.extend(rule.map(|(_, rule)| (field.clone(), *rule)));
            }
        }
        if paths.iter().any(|path| path == "*") {
            fields = descriptor.fields().map(|field| vec![field]).collect();
        }
        fields.retain(|path| !path.iter().any(is_kept));
        Ok(Self { paths: fields, fixed })
    }

    /// Whether the update changes the field `name` of the resource, or something inside it.
    pub fn has(&self, name: &str) -> bool {
        self.paths.iter().any(|path| path.first().is_some_and(|field| field.name() == name))
    }

    /// The fields inside the message `name` that the mask names one by one.
    pub fn inside(&self, name: &str) -> impl Iterator<Item = &str> {
        self.paths.iter().filter_map(move |path| match path.as_slice() {
            [outer, inner, ..] if outer.name() == name => Some(inner.name()),
            _ => None,
        })
    }

    /// `current` with the masked fields taken from `wanted`, both called `resource` in the request.
    /// A field that would change and that another call changes is a violation.
    pub fn apply<M: Message + Default>(
        &self,
        v: &mut Violations,
        resource: &str,
        current: &M,
        wanted: &M,
    ) -> Result<M> {
        let (current, wanted) = (current.encode_to_vec(), wanted.encode_to_vec());
        for (field, rule) in &self.fixed {
            let of = |message| content(message, field.number()).map_err(|error| fault(&error));
            if of(&current)? != of(&wanted)? {
                v.add(format_args!("{resource}.{}", field.name()), *rule);
            }
        }
        let paths: Vec<_> = self.paths.iter().map(Vec::as_slice).collect();
        let merged = overlay(&current, &wanted, &paths).map_err(|error| fault(&error))?;
        M::decode(&*merged).map_err(|error| fault(&error))
    }
}

/// Whether a field of two messages of one type has the same content. The path leads from the
/// resource down, as in a violation: what is inside a list or a map is not told apart.
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

fn is_kept(field: &FieldDescriptor) -> bool {
    KEPT.contains(field.full_name())
}

fn fault(error: &DecodeError) -> Error {
    Error::internal(format!("field mask: {error}"))
}

/// The fields along a path such as `billing_address.city`, if each exists; maps, lists and
/// well-known types end a path.
fn resolve(descriptor: &MessageDescriptor, path: &str) -> Option<Vec<FieldDescriptor>> {
    let mut message = Some(descriptor.clone());
    path.split('.')
        .map(|name| {
            let field = message.take()?.get_field_by_name(name)?;
            if let Kind::Message(below) = field.kind()
                && !field.is_list()
                && !field.is_map()
                && !below.package_name().starts_with("google.")
            {
                message = Some(below);
            }
            Some(field)
        })
        .collect()
}

/// One occurrence of a field in an encoded message.
struct Record<'a> {
    number: u32,
    /// With its key.
    whole: &'a [u8],
    /// What is in it, if it is a text or a message.
    content: &'a [u8],
}

/// The fields of an encoded message, in their order.
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

/// The fields of an encoded message that have content: a message whose fields have none is as good
/// as absent.
fn populated(
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

/// The encoding of `current` with the fields at the ends of `paths` taken from `wanted`, where they
/// may be absent.
fn overlay(
    current: &[u8],
    wanted: &[u8],
    paths: &[&[FieldDescriptor]],
) -> Result<Vec<u8>, DecodeError> {
    let through = |number: u32| {
        paths.iter().filter(move |path| path.first().is_some_and(|field| field.number() == number))
    };
    let is_taken = |number: u32| through(number).any(|path| path.len() == 1);
    let mut merged = Vec::with_capacity(current.len() + wanted.len());
    for (message, taken) in [(current, false), (wanted, true)] {
        for record in records(message) {
            let record = record?;
            // What is merged inside comes below.
            if is_taken(record.number) == taken
                && (taken || through(record.number).next().is_none())
            {
                merged.extend_from_slice(record.whole);
            }
        }
    }
    let mut inside: Vec<_> =
        paths.iter().filter(|path| path.len() > 1).map(|path| path[0].number()).collect();
    inside.sort_unstable();
    inside.dedup();
    for number in inside.into_iter().filter(|number| !is_taken(*number)) {
        let below: Vec<_> = through(number).map(|path| &path[1..]).collect();
        let message = overlay(&content(current, number)?, &content(wanted, number)?, &below)?;
        encode_key(number, WireType::LengthDelimited, &mut merged);
        encode_varint(message.len() as u64, &mut merged);
        merged.put_slice(&message);
    }
    Ok(merged)
}

/// What is in a field, that of a message merged; empty if it is not there.
fn content(message: &[u8], number: u32) -> Result<Vec<u8>, DecodeError> {
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

    fn account(name: &str, city: &str, country: &str) -> Account {
        let billing_address =
            Some(Address { city: city.into(), country: country.into(), ..Default::default() });
        Account {
            account_id: "a".into(),
            display_name: name.into(),
            billing_address,
            ..Default::default()
        }
    }

    fn merge(current: &Account, wanted: &Account, paths: &[&str]) -> Account {
        let mut violations = Violations::default();
        let mask = FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        let mask = Mask::parse(&mut violations, wanted, Some(mask), &[]).unwrap();
        let merged = mask.apply(&mut violations, "account", current, wanted).unwrap();
        violations.finish(merged).unwrap()
    }

    #[test]
    fn takes_only_what_is_named() {
        let current = account("old", "Bern", "CH");
        let wanted = account("new", "Wien", "");
        assert_eq!(merge(&current, &wanted, &["display_name"]), account("new", "Bern", "CH"));
        assert_eq!(
            merge(&current, &wanted, &["billing_address.city"]),
            account("old", "Wien", "CH")
        );
        assert_eq!(
            merge(&current, &wanted, &["billing_address.country"]),
            account("old", "Bern", "")
        );
        assert_eq!(
            merge(&current, &Account::default(), &["billing_address"]).billing_address,
            None
        );
        assert_eq!(
            merge(&current, &Account::default(), &["billing_address.city"]),
            account("old", "", "CH")
        );
    }

    #[test]
    fn without_a_mask_the_populated_fields_and_with_a_star_all() {
        let current =
            Account { comment: "kept".into(), etag: "1".into(), ..account("old", "Bern", "CH") };
        let wanted = Account { etag: "2".into(), ..account("new", "Wien", "") };
        let merged = merge(&current, &wanted, &[]);
        assert_eq!(
            merged,
            Account { comment: "kept".into(), etag: "1".into(), ..account("new", "Wien", "") }
        );
        let merged = merge(&current, &wanted, &["*"]);
        assert_eq!(merged, Account { etag: "1".into(), ..account("new", "Wien", "") });
    }

    #[test]
    fn the_id_and_output_only_fields_stay() {
        let wanted = Account { account_id: "b".into(), etag: "x".into(), ..Default::default() };
        let current = account("old", "", "");
        assert_eq!(
            merge(
                &current,
                &wanted,
                &["account_id", "etag", "update_time", "create_time.seconds_"][..3]
            ),
            current
        );
    }

    #[test]
    fn a_field_is_the_same_if_everything_in_it_is() {
        let (one, mut other) = (account("name", "Bern", "CH"), account("name", "Wien", "CH"));
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

    #[test]
    fn unknown_paths_are_violations() {
        for path in [
            "nickname",
            "billing_address.town",
            "display_name.first",
            "metadata.key",
            "preferences.fields",
            "",
            "Display_Name",
        ] {
            let mut violations = Violations::default();
            let mask = FieldMask { paths: vec![path.to_owned()] };
            Mask::parse(&mut violations, &Account::default(), Some(mask), &[]).unwrap();
            assert!(violations.finish(()).is_err(), "{path:?}");
        }
    }
}
