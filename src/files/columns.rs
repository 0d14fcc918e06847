//! The columns of a CSV file. Each is a field of the contract, named by its path.

use prost_reflect::{DeserializeOptions, DynamicMessage, ReflectMessage as _, SerializeOptions};
use prost_types::{FieldMask, Struct};
use serde_json::json;

use super::{header::unknown, json};
use crate::proto::{
    Account, AccountStatus, Address, Contact, ExportedAccount, ImportLink, ImportRow, Organization,
    POOL,
};

const STATUS_PREFIX: &str = "ACCOUNT_STATUS_";

/// A column that exports and imports share.
#[derive(Debug)]
pub struct Column {
    /// The name in the header: the path of the field.
    pub name: &'static str,
    show: fn(&ExportedAccount) -> Result<String, String>,
    read: fn(&mut ImportRow, &str) -> Result<(), String>,
    part: Part,
}

/// What a column is to a row of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A field that an update changes.
    Field,
    /// What identifies the account, or checks its version.
    Identity,
    /// Something beside the account. Nothing is emptied by it.
    Beside,
    /// Told by the service only.
    OutputOnly,
}

/// A column of the account: its name, and how its text is read and written.
macro_rules! text {
    ($part:ident $name:literal $field:ident) => {
        Column {
            name: $name,
            show: |it| Ok(account(it).$field.clone()),
            read: |row, cell| {
                account_of(row).$field = cell.to_owned();
                Ok(())
            },
            part: Part::$part,
        }
    };
    ($name:literal $message:ident: $type:ident . $field:ident) => {
        Column {
            name: $name,
            show: |it| {
                let inner = account(it).$message.as_ref();
                Ok(inner.map(|inner: &$type| inner.$field.clone()).unwrap_or_default())
            },
            read: |row, cell| {
                account_of(row).$message.get_or_insert_default().$field = cell.to_owned();
                Ok(())
            },
            part: Part::Field,
        }
    };
}

macro_rules! address {
    ($($name:literal $message:ident.$field:ident,)+) => {
        [$(text!($name $message: Address.$field),)+]
    };
}

static COLUMNS: [Column; 23] = [
    text!(Identity "account_id" account_id),
    text!(Field "display_name" display_name),
    text!(Field "description" description),
    text!(Field "organization_id" organization_id),
    text!(Field "account_type_id" account_type_id),
    Column { name: "status", show: |it| Ok(show_status(it)), read: read_status, part: Part::Field },
    text!(Field "status_reason" status_reason),
    text!("primary_contact.person_id" primary_contact: Contact.person_id),
    text!("primary_contact.name" primary_contact: Contact.name),
    text!("primary_contact.email" primary_contact: Contact.email),
    text!("primary_contact.phone" primary_contact: Contact.phone),
    text!(Field "billing_details" billing_details),
    Column {
        name: "preferences",
        show: show_preferences,
        read: read_preferences,
        part: Part::Field,
    },
    Column {
        name: "is_primary",
        show: |it| Ok(show_primary(it)),
        read: read_primary,
        part: Part::Field,
    },
    text!(Field "account_manager_id" account_manager_id),
    text!(Field "billing_contact_id" billing_contact_id),
    text!(Field "cc_billing_contact_id" cc_billing_contact_id),
    text!(Field "comment" comment),
    text!(Field "tax_id" tax_id),
    Column {
        name: "metadata",
        show: |it| Ok(show_metadata(it)),
        read: read_metadata,
        part: Part::Field,
    },
    Column {
        name: "linked_organizations",
        show: show_links,
        read: |row, cell| {
            read_links(row, cell);
            Ok(())
        },
        part: Part::Beside,
    },
    text!(Identity "etag" etag),
    Column {
        name: "update_time",
        show: |it| Ok(show_update_time(it)),
        read: |_, _| Ok(()),
        part: Part::OutputOnly,
    },
];

static ADDRESSES: [Column; 24] = address![
    "billing_address.line1" billing_address.line1,
    "billing_address.line2" billing_address.line2,
    "billing_address.city" billing_address.city,
    "billing_address.state" billing_address.state,
    "billing_address.postal_code" billing_address.postal_code,
    "billing_address.country" billing_address.country,
    "shipping_address.line1" shipping_address.line1,
    "shipping_address.line2" shipping_address.line2,
    "shipping_address.city" shipping_address.city,
    "shipping_address.state" shipping_address.state,
    "shipping_address.postal_code" shipping_address.postal_code,
    "shipping_address.country" shipping_address.country,
    "postal_address.line1" postal_address.line1,
    "postal_address.line2" postal_address.line2,
    "postal_address.city" postal_address.city,
    "postal_address.state" postal_address.state,
    "postal_address.postal_code" postal_address.postal_code,
    "postal_address.country" postal_address.country,
    "official_address.line1" official_address.line1,
    "official_address.line2" official_address.line2,
    "official_address.city" official_address.city,
    "official_address.state" official_address.state,
    "official_address.postal_code" official_address.postal_code,
    "official_address.country" official_address.country,
];

/// Columns that only an import has: the organization that a row brings.
static BROUGHT: [Column; 2] = [
    Column {
        name: "organization.display_name",
        show: |_| Ok(String::new()),
        read: |row, cell| {
            cell.clone_into(&mut organization_of(row).display_name);
            Ok(())
        },
        part: Part::Beside,
    },
    Column {
        name: "organization.parent_id",
        show: |_| Ok(String::new()),
        read: |row, cell| {
            cell.clone_into(&mut organization_of(row).parent_id);
            Ok(())
        },
        part: Part::Beside,
    },
];

/// Where the addresses stand among the other columns of an export.
const BEFORE_ADDRESSES: usize = 11;

fn all() -> impl Iterator<Item = &'static Column> {
    let (before, after) = COLUMNS.split_at(BEFORE_ADDRESSES);
    before.iter().chain(&ADDRESSES).chain(after)
}

/// The columns that an import knows.
pub fn imported() -> impl Iterator<Item = &'static Column> {
    all().chain(&BROUGHT)
}

/// The columns of an export that names none.
pub fn exports(with_links: bool) -> Vec<&'static Column> {
    let is_default = |column: &&Column| match column.part {
        Part::Field | Part::Identity => true,
        Part::Beside => with_links,
        Part::OutputOnly => false,
    };
    all().filter(is_default).collect()
}

/// The column of an export with this name.
pub fn exported(name: &str) -> Result<&'static Column, String> {
    all().find(|column| column.name == name).ok_or_else(|| unknown(name, all()))
}

impl Column {
    /// The text of the cell. Fails if CSV has no form for it.
    pub fn show(&self, account: &ExportedAccount) -> Result<String, String> {
        (self.show)(account)
    }

    /// Reads the text of a cell into a row. The error is the rule that it breaks.
    pub fn read(&self, row: &mut ImportRow, cell: &str) -> Result<(), String> {
        (self.read)(row, cell)
    }

    /// Whether it is a field that an update changes.
    pub fn is_updated(&self) -> bool {
        self.part == Part::Field
    }

    /// Whether only the service tells it.
    pub fn is_output_only(&self) -> bool {
        self.part == Part::OutputOnly
    }

    /// Whether the column is that of the linked organizations.
    pub fn is_links(&self) -> bool {
        self.part == Part::Beside
    }
}

/// Completes a row that names these fields.
pub fn finish(row: &mut ImportRow, mut paths: Vec<String>) {
    let account = row.account.get_or_insert_default();
    // Everything else of a contact is read from the person, and refused beside one.
    if account.primary_contact.as_ref().is_some_and(|contact| !contact.person_id.is_empty()) {
        paths.retain(|path| {
            !path.starts_with("primary_contact.") || path == "primary_contact.person_id"
        });
    }
    row.update_mask = Some(FieldMask { paths });
    let organization_id = &account.organization_id;
    if let Some(organization) = &mut row.organization
        && organization.organization_id.is_empty()
    {
        organization.organization_id.clone_from(organization_id);
    }
}

fn account(exported: &ExportedAccount) -> &Account {
    static NONE: std::sync::LazyLock<Account> = std::sync::LazyLock::new(Account::default);
    exported.account.as_ref().unwrap_or(&NONE)
}

/// The account of a row.
pub fn account_of(row: &mut ImportRow) -> &mut Account {
    row.account.get_or_insert_default()
}

fn organization_of(row: &mut ImportRow) -> &mut Organization {
    row.organization.get_or_insert_default()
}

/// Parses a status with or without the prefix of the contract.
pub fn status(text: &str) -> Result<AccountStatus, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix(STATUS_PREFIX).unwrap_or(&upper);
    AccountStatus::from_str_name(&format!("{STATUS_PREFIX}{name}"))
        .filter(|status| *status != AccountStatus::Unspecified)
        .ok_or_else(statuses_rule)
}

/// The rule for a status, with their names without their prefix.
pub fn statuses_rule() -> String {
    let described = POOL.get_enum_by_name("accounts.v1.AccountStatus");
    let values = described.iter().flat_map(|it| it.values().collect::<Vec<_>>());
    let named = values.filter(|value| value.number() != 0);
    let texts = named.map(|value| value.name().trim_start_matches(STATUS_PREFIX).to_owned());
    format!("must be one of {}", texts.collect::<Vec<_>>().join(", "))
}

fn show_status(exported: &ExportedAccount) -> String {
    account(exported).status().as_str_name().trim_start_matches(STATUS_PREFIX).to_owned()
}

fn read_status(row: &mut ImportRow, cell: &str) -> Result<(), String> {
    account_of(row).status = status(cell)?.into();
    Ok(())
}

fn show_primary(exported: &ExportedAccount) -> String {
    account(exported).is_primary.to_string()
}

fn read_primary(row: &mut ImportRow, cell: &str) -> Result<(), String> {
    account_of(row).is_primary = match &*cell.to_ascii_lowercase() {
        "true" => true,
        "false" => false,
        _ => return Err("must be true or false".into()),
    };
    Ok(())
}

fn show_preferences(exported: &ExportedAccount) -> Result<String, String> {
    let Some(preferences) = &account(exported).preferences else { return Ok(String::new()) };
    let mut message = dynamic("google.protobuf.Struct")?;
    message.transcode_from(preferences).map_err(|error| error.to_string())?;
    let json =
        message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new());
    json.map(|json| json.to_string()).map_err(|error| error.to_string())
}

fn read_preferences(row: &mut ImportRow, cell: &str) -> Result<(), String> {
    const RULE: &str = "must be a JSON object, such as {\"language\": \"de\"}";
    let object = json::value(cell).map_err(|error| format!("{RULE}: {}", json::told(&error)))?;
    if !object.is_object() {
        return Err(RULE.into());
    }
    json::check_preferences(&object)?;
    let options = DeserializeOptions::new();
    let descriptor = dynamic("google.protobuf.Struct")?.descriptor();
    let message = DynamicMessage::deserialize_with_options(descriptor, object, &options);
    let message = message.map_err(|error| error.to_string())?;
    let preferences = message.transcode_to::<Struct>().map_err(|error| error.to_string())?;
    account_of(row).preferences = Some(preferences);
    Ok(())
}

fn dynamic(name: &str) -> Result<DynamicMessage, String> {
    POOL.get_message_by_name(name).map(DynamicMessage::new).ok_or_else(|| format!("no {name}"))
}

fn show_metadata(exported: &ExportedAccount) -> String {
    let metadata = &account(exported).metadata;
    if metadata.is_empty() {
        return String::new();
    }
    // In the order of the keys, so that two exports are equal.
    let sorted: std::collections::BTreeMap<_, _> = metadata.iter().collect();
    json!(sorted).to_string()
}

fn read_metadata(row: &mut ImportRow, cell: &str) -> Result<(), String> {
    const RULE: &str = "must be a JSON object whose values are texts, such as {\"crm\": \"17\"}";
    let object = json::value(cell).map_err(|error| format!("{RULE}: {}", json::told(&error)))?;
    account_of(row).metadata = serde_json::from_value(object).map_err(|_| RULE)?;
    Ok(())
}

/// `org-1;org-2+`, where + means with the organizations below.
fn show_links(exported: &ExportedAccount) -> Result<String, String> {
    let links = exported.linked_organizations.iter().map(|link| {
        let id = &link.organization_id;
        if id.contains(';') || id.ends_with('+') {
            return Err(format!(
                "a CSV file cannot name the linked organization {id:?}; use JSON lines"
            ));
        }
        Ok(format!("{id}{}", if link.include_descendants { "+" } else { "" }))
    });
    Ok(links.collect::<Result<Vec<_>, _>>()?.join(";"))
}

fn read_links(row: &mut ImportRow, cell: &str) {
    let links = cell.split(';').map(str::trim).filter(|link| !link.is_empty()).map(|link| {
        let below = link.strip_suffix('+');
        ImportLink {
            organization_id: below.unwrap_or(link).to_owned(),
            include_descendants: below.is_some(),
        }
    });
    row.linked_organizations = links.collect();
}

fn show_update_time(exported: &ExportedAccount) -> String {
    account(exported).update_time.map(|time| time.to_string()).unwrap_or_default()
}

/// What a spreadsheet takes a cell for that begins with it: a formula, or the sign that it is none.
const FORMULA: [char; 7] = ['=', '+', '-', '@', '\t', '\r', '\''];

/// Puts an apostrophe in front of what a spreadsheet would run as a formula.
pub fn guard(cell: String) -> String {
    if cell.starts_with(FORMULA) { format!("'{cell}") } else { cell }
}

/// Removes the apostrophe that [`guard`] puts in front of a cell.
pub fn unguard(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| rest.starts_with(FORMULA)).unwrap_or(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_an_account_has_its_column() {
        let account = POOL.get_message_by_name("accounts.v1.Account").unwrap();
        let columns: Vec<_> = all().map(|column| column.name).collect();
        for field in account.fields() {
            let name = field.name();
            let inner = field.kind();
            let nested = inner
                .as_message()
                .filter(|it| it.full_name().starts_with("accounts.v1.") && !it.is_map_entry());
            let paths = match nested {
                Some(inner) => inner.fields().map(|it| format!("{name}.{}", it.name())).collect(),
                None => vec![name.to_owned()],
            };
            for path in paths {
                let known = columns.contains(&&*path) || path == "create_time";
                assert!(known, "{path} has no column in src/files/columns.rs");
            }
        }
    }

    #[test]
    fn a_cell_survives_its_guard() {
        for cell in
            ["", "x", "=1+1", "+380", "-3", "@a", "'", "''", "'x", "'=1", "\tx", "'''=", "x'="]
        {
            let guarded = guard(cell.to_owned());
            assert_eq!(unguard(&guarded), cell, "{guarded}");
            assert!(!guarded.starts_with(['=', '+', '-', '@', '\t', '\r']), "{guarded}");
        }
        assert_eq!(unguard("'x"), "'x", "one that a person has written");
    }
}
