//! Update masks (AIP-134, AIP-161): which fields of a resource an update changes.
//!
//! The fields that no update changes are marked in the contract by `google.api.field_behavior`.
//!
//! A mask works on encoded messages (`encoded`): it takes the named fields from one encoding and
//! the others from the other.

use std::{collections::BTreeSet, sync::LazyLock};

use prost::{Message, Name};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use prost_types::FieldMask;

use crate::{
    encoded::{content, fault, overlay, populated},
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
    /// The fields, each as the path from the resource to it.
    paths: Vec<Vec<FieldDescriptor>>,
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
            fields.extend(populated.iter().map(|field| vec![field.clone()]));
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
            let named = fields.iter().filter_map(|path| path.first());
            for field in named.filter(|field| is_never_changed(field)) {
                let rule = elsewhere.iter().find(|(name, _)| *name == field.name());
                fixed.extend(rule.map(|(_, rule)| (field.clone(), *rule)));
            }
        }
        if paths.iter().any(|path| path == "*") {
            fields = descriptor.fields().map(|field| vec![field]).collect();
        }
        fields.retain(|path| !path.iter().any(is_never_changed));
        Ok(Self { paths: fields, fixed })
    }

    /// Whether the update changes the field `name` of the resource, or a field inside it.
    pub fn has(&self, name: &str) -> bool {
        self.paths.iter().any(|path| path.first().is_some_and(|field| field.name() == name))
    }

    /// The fields inside the message `name` that the mask names individually.
    pub fn inside(&self, name: &str) -> impl Iterator<Item = &str> {
        self.paths.iter().filter_map(move |path| match path.as_slice() {
            [outer, inner, ..] if outer.name() == name => Some(inner.name()),
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

/// The fields along a path such as `billing_address.city`; `None` if one does not exist. Maps,
/// lists and well-known types end a path.
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
