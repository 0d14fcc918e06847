//! Update masks (AIP-134, AIP-161): which fields of a resource an update changes.

use prost::Name;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use prost_types::FieldMask;

use crate::{
    error::{Error, Result},
    proto::POOL,
    validate::Violations,
};

/// Fields that the service sets itself; naming one in a mask does nothing.
const OUTPUT_ONLY: [&str; 4] = ["etag", "create_time", "update_time", "purchasing_account_id"];

/// The fields that an update changes, each as the path from the resource down.
#[derive(Debug)]
pub struct Mask(Vec<Vec<FieldDescriptor>>);

impl Mask {
    /// The fields that `mask` names in a resource: the populated ones without a mask, all for `*`. The field `id` is what
    /// the update is found by and never changes. Unknown paths are violations.
    pub fn parse<M: Name>(violations: &mut Violations, resource: &M, mask: Option<FieldMask>, id: &str) -> Result<Self> {
        let message = dynamic(resource)?;
        let descriptor = message.descriptor();
        let paths = mask.map(|mask| mask.paths).unwrap_or_default();
        let mut fields = Vec::new();
        if paths.is_empty() {
            fields.extend(descriptor.fields().filter(|field| message.has_field(field)).map(|field| vec![field]));
        }
        for path in paths {
            if path == "*" {
                fields.extend(descriptor.fields().map(|field| vec![field]));
            } else if let Some(resolved) = resolve(&descriptor, &path) {
                fields.push(resolved);
            } else {
                violations.add("update_mask", format!("{path:?} is no field of {}", descriptor.name()));
            }
        }
        fields.retain(|path| path.first().is_some_and(|field| field.name() != id && !OUTPUT_ONLY.contains(&field.name())));
        Ok(Self(fields))
    }

    /// Whether the update changes the field `name` of the resource, or something inside it.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|path| path.first().is_some_and(|field| field.name() == name))
    }

    /// `current` with the masked fields taken from `wanted`.
    pub fn apply<M: Name + Default>(&self, current: &M, wanted: &M) -> Result<M> {
        let mut merged = dynamic(current)?;
        let wanted = dynamic(wanted)?;
        for path in &self.0 {
            overlay(&mut merged, Some(&wanted), path);
        }
        merged.transcode_to().map_err(|error| Error::Internal(format!("field mask: {error}")))
    }
}

/// The fields along a path such as `billing_address.city`, if each exists; maps, lists and well-known types end a path.
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

/// Sets the field at the end of `path` to what it is in `wanted`, or clears it.
fn overlay(merged: &mut DynamicMessage, wanted: Option<&DynamicMessage>, path: &[FieldDescriptor]) {
    let Some((field, below)) = path.split_first() else { return };
    let value = wanted.filter(|message| message.has_field(field)).map(|message| message.get_field(field));
    if below.is_empty() {
        match value {
            Some(value) => merged.set_field(field, value.into_owned()),
            None => merged.clear_field(field),
        }
    } else if let Value::Message(inner) = merged.get_field_mut(field) {
        overlay(inner, value.as_deref().and_then(Value::as_message), below);
    }
}

fn dynamic<M: Name>(message: &M) -> Result<DynamicMessage> {
    let descriptor = POOL
        .get_message_by_name(&M::full_name())
        .ok_or_else(|| Error::Internal(format!("no descriptor of {}", M::full_name())))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| Error::Internal(format!("field mask: {error}")))?;
    Ok(dynamic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Account, Address};

    fn account(name: &str, city: &str, country: &str) -> Account {
        let billing_address = Some(Address { city: city.into(), country: country.into(), ..Default::default() });
        Account { account_id: "a".into(), display_name: name.into(), billing_address, ..Default::default() }
    }

    fn merge(current: &Account, wanted: &Account, paths: &[&str]) -> Account {
        let mut violations = Violations::default();
        let mask = FieldMask { paths: paths.iter().map(ToString::to_string).collect() };
        let mask = Mask::parse(&mut violations, wanted, Some(mask), "account_id").unwrap();
        violations.finish(()).unwrap();
        mask.apply(current, wanted).unwrap()
    }

    #[test]
    fn takes_only_what_is_named() {
        let current = account("old", "Bern", "CH");
        let wanted = account("new", "Wien", "");
        assert_eq!(merge(&current, &wanted, &["display_name"]), account("new", "Bern", "CH"));
        assert_eq!(merge(&current, &wanted, &["billing_address.city"]), account("old", "Wien", "CH"));
        assert_eq!(merge(&current, &wanted, &["billing_address.country"]), account("old", "Bern", ""));
        assert_eq!(merge(&current, &Account::default(), &["billing_address"]).billing_address, None);
        assert_eq!(merge(&current, &Account::default(), &["billing_address.city"]), account("old", "", "CH"));
    }

    #[test]
    fn without_a_mask_the_populated_fields_and_with_a_star_all() {
        let current = Account { comment: "kept".into(), etag: "1".into(), ..account("old", "Bern", "CH") };
        let wanted = Account { etag: "2".into(), ..account("new", "Wien", "") };
        let merged = merge(&current, &wanted, &[]);
        assert_eq!(merged, Account { comment: "kept".into(), etag: "1".into(), ..account("new", "Wien", "") });
        let merged = merge(&current, &wanted, &["*"]);
        assert_eq!(merged, Account { etag: "1".into(), ..account("new", "Wien", "") });
    }

    #[test]
    fn the_id_and_output_only_fields_stay() {
        let wanted = Account { account_id: "b".into(), etag: "x".into(), ..Default::default() };
        let current = account("old", "", "");
        assert_eq!(merge(&current, &wanted, &["account_id", "etag", "update_time", "create_time.seconds_"][..3]), current);
    }

    #[test]
    fn unknown_paths_are_violations() {
        for path in
            ["nickname", "billing_address.town", "display_name.first", "metadata.key", "preferences.fields", "", "Display_Name"]
        {
            let mut violations = Violations::default();
            let mask = FieldMask { paths: vec![path.to_owned()] };
            Mask::parse(&mut violations, &Account::default(), Some(mask), "account_id").unwrap();
            assert!(violations.finish(()).is_err(), "{path:?}");
        }
    }
}
