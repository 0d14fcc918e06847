//! Update masks (AIP-134, AIP-161): which fields of a resource an update changes.
//!
//! The fields that no update changes are marked in the contract by `google.api.field_behavior`.
//!
//! A mask works on encoded messages (`encoded`): it takes the named fields from one encoding and
//! the others from the other.

use std::{collections::BTreeSet, sync::LazyLock};

use prost::{Message, Name};
use prost_reflect::{FieldDescriptor, MessageDescriptor};
use prost_types::FieldMask;

use crate::{
    encoded::{Step, content, fault, overlay, populated},
    error::{Error, Result},
    proto::{self, FieldBehavior, POOL},
    validate::Violations,
};

/// The fields that an update does not change, by their full names: identifiers, immutable and
/// output-only fields, and etags, which are compared instead. Clients send them back as they read
/// them.
static NEVER_CHANGED: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let fields = POOL.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let kept = fields.filter(|field| {
        let is = |behavior| proto::behaviors(field).contains(&behavior);
        is(FieldBehavior::Identifier)
            || is(FieldBehavior::Immutable)
            || is(FieldBehavior::OutputOnly)
            || field.name() == "etag"
    });
    kept.map(|field| field.full_name().to_owned()).collect()
});

/// Output-only fields that another call changes, immutable fields, and the violation for an update
/// whose mask names one with another value: `("email", "is changed by UpdatePerson only")`.
pub type Elsewhere = [(&'static str, &'static str)];

/// What an update changes.
#[derive(Debug)]
pub struct Mask {
    /// The fields and entries of maps, each as the path from the resource to it.
    paths: Vec<Vec<Step>>,
    /// Fields that the mask names but another call changes, with the violation.
    fixed: Vec<(FieldDescriptor, &'static str)>,
}

impl Mask {
    /// The fields that `mask` names in a resource: without a mask, all populated fields; for `*`,
    /// all fields. A message without content does not count as populated, because clients that fill
    /// messages from forms send it for what was left empty. Identifiers, output-only fields and the
    /// etag are left out. Unknown paths are violations.
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
            fields.extend(populated.into_iter().map(|field| vec![Step::Field(field)]));
        }
        for path in paths.iter().filter(|path| *path != "*") {
            match resolve(&descriptor, path) {
                Some(resolved) => fields.push(resolved),
                None => violations.add(
                    "update_mask",
                    format!("{path:?} is not a field of {}", descriptor.name()),
                ),
            }
        }
        // Only a field that the mask names is refused. What a client sends back may have changed
        // since it was read (AIP-203).
        let mut fixed = Vec::new();
        if !paths.is_empty() {
            let named = fields.iter().filter_map(|path| path.first()?.field());
            for field in named.filter(|field| is_never_changed(field)) {
                let rule = elsewhere.iter().find(|(name, _)| *name == field.name());
                fixed.extend(rule.map(|(_, rule)| (field.clone(), *rule)));
            }
        }
        if paths.iter().any(|path| path == "*") {
            fields = descriptor.fields().map(|field| vec![Step::Field(field)]).collect();
        }
        fields.retain(|path| !path.iter().filter_map(Step::field).any(is_never_changed));
        Ok(Self { paths: fields, fixed })
    }

    /// Whether the update changes the field `name` of the resource, or a field inside it.
    pub fn has(&self, name: &str) -> bool {
        let mut first = self.paths.iter().filter_map(|path| path.first()?.field());
        first.any(|field| field.name() == name)
    }

    /// The fields inside the message `name` that the mask names individually.
    pub fn inside(&self, name: &str) -> impl Iterator<Item = &str> {
        self.paths.iter().filter_map(move |path| match path.as_slice() {
            [Step::Field(outer), Step::Field(inner), ..] if outer.name() == name => {
                Some(inner.name())
            }
            _ => None,
        })
    }

    /// `current` with the fields of the mask taken from `wanted`, both called `resource` in the
    /// request. If a field would change that another call changes, that is a violation.
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

fn is_never_changed(field: &FieldDescriptor) -> bool {
    NEVER_CHANGED.contains(field.full_name())
}

/// The steps along a path such as `billing_address.city`; `None` if one does not exist. Lists and
/// well-known types end a path. Behind a map stands the key of an entry (AIP-161).
fn resolve(descriptor: &MessageDescriptor, path: &str) -> Option<Vec<Step>> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = descriptor.get_field_by_name(name)?;
    let kind = field.kind();
    let mut steps = vec![Step::Field(field.clone())];
    let Some(rest) = rest else { return Some(steps) };
    let below = kind.as_message().filter(|below| !below.package_name().starts_with("google."))?;
    if field.is_map() {
        steps.push(Step::Key(key(rest)?));
    } else if field.is_list() {
        return None;
    } else {
        steps.extend(resolve(below, rest)?);
    }
    Some(steps)
}

/// The key in a path: letters, digits, `_` and `-` as they are, any other text between backticks,
/// where two of them stand for one.
fn key(text: &str) -> Option<String> {
    if let Some(quoted) = text.strip_prefix('`') {
        let inside = quoted.strip_suffix('`')?;
        let is_one = !inside.replace("``", "").contains('`');
        return is_one.then(|| inside.replace("``", "`"));
    }
    let is_plain = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-');
    (!text.is_empty() && text.chars().all(is_plain)).then(|| text.to_owned())
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
    fn an_entry_of_a_map_is_taken_alone() {
        let account = |entries: &[(&str, &str)]| Account {
            metadata: entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..account("name", "Bern", "CH")
        };
        let current = account(&[("a", "1"), ("b", "2"), ("x.y", "3"), ("q`q", "4")]);
        let wanted = account(&[("a", "10"), ("x.y", "30"), ("new", "50"), ("q`q", "40")]);
        for (paths, expected) in [
            (&["metadata.a"][..], &[("a", "10"), ("b", "2"), ("x.y", "3"), ("q`q", "4")][..]),
            (&["metadata.`a`"], &[("a", "10"), ("b", "2"), ("x.y", "3"), ("q`q", "4")]),
            (&["metadata.b"], &[("a", "1"), ("x.y", "3"), ("q`q", "4")]),
            (&["metadata.nothing"], &[("a", "1"), ("b", "2"), ("x.y", "3"), ("q`q", "4")]),
            (&["metadata.`x.y`"], &[("a", "1"), ("b", "2"), ("x.y", "30"), ("q`q", "4")]),
            (&["metadata.`q``q`"], &[("a", "1"), ("b", "2"), ("x.y", "3"), ("q`q", "40")]),
            (
                &["metadata.new", "metadata.b", "metadata.a"],
                &[("a", "10"), ("x.y", "3"), ("q`q", "4"), ("new", "50")],
            ),
            (
                &["metadata.b", "metadata"],
                &[("a", "10"), ("x.y", "30"), ("new", "50"), ("q`q", "40")],
            ),
        ] {
            assert_eq!(merge(&current, &wanted, paths), account(expected), "{paths:?}");
        }
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
    fn unknown_paths_are_violations() {
        for path in [
            "nickname",
            "billing_address.town",
            "display_name.first",
            "metadata.",
            "metadata.a.b",
            "metadata.`a",
            "metadata.a`",
            "metadata.`a`b`",
            "metadata.`a`.b",
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
