//! Converts accounts between messages of the contract and rows.

use prost_types::{Struct, value::Kind as JsonKind};
use serde_json::{Map, Value};

use super::{
    contacts::WithContact,
    country,
    list::Filter,
    primary::Target,
    store::{Account, Fields, NewAccount},
    value::{Address, Contact, Json, Status},
};
use crate::{
    change::{Update, Versioned as _},
    enums::contract_enum,
    error::Result,
    metadata::Metadata,
    proto::{self, AccountStatus},
    validate::Violations,
    wire::{json, timestamp},
};

const MAX_NAME: usize = 200;
const MAX_DESCRIPTION: usize = 2000;
const MAX_REASON: usize = 500;
const MAX_PHONE: usize = 50;
const MAX_ADDRESS_LINE: usize = 200;
const MAX_POSTAL_CODE: usize = 20;
const MAX_BILLING_DETAILS: usize = 10_000;
/// The only required field of an inline primary contact; name and phone are optional.
const EMAIL: &str = "account.primary_contact.email";
const PREFERENCES: &str = "account.preferences";
/// Most bytes of the preferences as JSON text.
const MAX_PREFERENCES: usize = 64 * 1024;
/// Most objects and lists nested in each other.
const MAX_PREFERENCES_DEPTH: usize = 32;
const MAX_COMMENT: usize = 5000;
const MAX_TAX_ID: usize = 50;

impl Fields {
    fn parse(v: &mut Violations, account: proto::Account) -> Self {
        let display_name = v.required_line("account.display_name", account.display_name, MAX_NAME);
        let primary = account
            .primary_contact
            .as_ref()
            .map(|contact| contact.person_id.clone())
            .unwrap_or_default();
        let primary_contact_id = v.optional_id("account.primary_contact.person_id", primary);
        Self {
            sort_key: crate::search::fold(&display_name),
            display_name,
            description: v.text("account.description", account.description, MAX_DESCRIPTION),
            organization_id: v.id("account.organization_id", account.organization_id),
            account_type_id: v.optional_id("account.account_type_id", account.account_type_id),
            status: Status::parse(v, "account.status", account.status).unwrap_or(Status::Active),
            status_reason: v.text("account.status_reason", account.status_reason, MAX_REASON),
            primary_contact: account.primary_contact.and_then(|it| contact(v, it)).map(Json),
            billing_address: address(v, "account.billing_address", account.billing_address),
            shipping_address: address(v, "account.shipping_address", account.shipping_address),
            postal_address: address(v, "account.postal_address", account.postal_address),
            official_address: address(v, "account.official_address", account.official_address),
            billing_details: v.text(
                "account.billing_details",
                account.billing_details,
                MAX_BILLING_DETAILS,
            ),
            preferences: account.preferences.and_then(|preferences| object(v, preferences)),
            is_primary: account.is_primary,
            comment: v.text("account.comment", account.comment, MAX_COMMENT),
            metadata: Metadata::parse(v, "account.metadata", account.metadata),
            tax_id: v.line("account.tax_id", account.tax_id, MAX_TAX_ID),
            account_manager_id: v
                .optional_id("account.account_manager_id", account.account_manager_id),
            primary_contact_id,
            billing_contact_id: v
                .optional_id("account.billing_contact_id", account.billing_contact_id),
            cc_billing_contact_id: v
                .optional_id("account.cc_billing_contact_id", account.cc_billing_contact_id),
        }
    }
}

impl NewAccount {
    /// Parses a create request.
    pub fn parse(v: &mut Violations, request: proto::CreateAccountRequest) -> Self {
        let mut account = v.message("account", request.account);
        if request.without_account_type && !account.account_type_id.is_empty() {
            v.add("without_account_type", "must not be set together with account.account_type_id");
        }
        let id = std::mem::take(&mut account.account_id);
        let account_id = v.chosen_id("account.account_id", id);
        let fields = Fields::parse(v, account);
        if !fields.has_primary_contact() {
            v.add(EMAIL, "is required, unless account.primary_contact.person_id names a person");
        }
        Self { account_id, fields, without_account_type: request.without_account_type }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListAccountsRequest) -> Self {
        let statuses = (0..).zip(request.statuses).filter_map(|(i, number)| {
            let field = format!("statuses[{i}]");
            let status = Status::parse(v, &field, number);
            if number == 0 {
                v.add(field, "must not be ACCOUNT_STATUS_UNSPECIFIED");
            }
            status
        });
        let statuses = statuses.collect();
        if request.without_account_type && !request.account_type_id.is_empty() {
            v.add("without_account_type", "must not be set together with account_type_id");
        }
        Self {
            statuses,
            query: v.query("query", request.query),
            organization_id: v.optional_id("organization_id", request.organization_id),
            account_type_id: v.optional_id("account_type_id", request.account_type_id),
            include_descendants: request.include_descendants,
            person_id: v.optional_id("person_id", request.person_id),
            account_manager_id: v.optional_id("account_manager_id", request.account_manager_id),
            without_account_type: request.without_account_type,
            is_primary: request.is_primary,
            created: v.period("create_", request.create_start_time, request.create_end_time),
            updated: v.period("update_", request.update_start_time, request.update_end_time),
            linked_organization_id: v
                .optional_id("linked_organization_id", request.linked_organization_id),
            contact_id: v.optional_id("contact_id", request.contact_id),
            metadata: Metadata::parse(v, "metadata", request.metadata),
        }
    }
}

impl Update<proto::Account> {
    /// What the update says about the account's organization and primary flag.
    pub fn target(&self) -> Target {
        let organization_id = || self.wanted.organization_id.clone();
        Target {
            organization_id: self.has("organization_id").then(organization_id),
            is_primary: self.has("is_primary").then_some(self.wanted.is_primary),
        }
    }

    /// Returns the fields that the update leads to. A status reason explains one status, so a new
    /// status without a reason clears the old one.
    pub fn fields(&self, current: &Account) -> Result<Fields> {
        let mut draft = self.apply(current)?;
        let contact = &draft.merged.primary_contact;
        if contact.as_ref().is_some_and(|contact| !contact.person_id.is_empty()) {
            for field in self.inside("primary_contact").filter(|field| *field != "person_id") {
                draft.refuse(
                    &format!("primary_contact.{field}"),
                    "is read from the person: UpdatePerson changes it",
                );
            }
        }
        if draft.merged.status == AccountStatus::Unspecified as i32 {
            draft.refuse("status", "must be specified when the update mask names it");
        }
        let mut fields = draft.parse(Fields::parse)?;
        if fields.status != current.fields.status && !self.has("status_reason") {
            fields.status_reason.clear();
        }
        // An account that has had no primary contact since before the rule can still be updated.
        if current.fields.has_primary_contact() && !fields.has_primary_contact() {
            draft.violations.add(
                EMAIL,
                "must stay, unless account.primary_contact.person_id names a person: an account \
                 has a primary contact",
            );
        }
        draft.finish(fields)
    }
}

contract_enum!(Status = AccountStatus { Active, Suspended, Inactive });

impl From<Account> for proto::Account {
    fn from(row: Account) -> Self {
        let etag = row.etag();
        let fields = row.fields;
        Self {
            etag,
            account_id: row.account_id,
            display_name: fields.display_name,
            description: fields.description,
            organization_id: fields.organization_id,
            account_type_id: fields.account_type_id.unwrap_or_default(),
            status: fields.status.into(),
            status_reason: fields.status_reason,
            primary_contact: match (fields.primary_contact_id, fields.primary_contact) {
                (Some(person_id), _) => Some(proto::Contact { person_id, ..Default::default() }),
                (None, inline) => inline.map(|Json(contact)| proto::Contact {
                    person_id: String::new(),
                    name: contact.name,
                    email: contact.email,
                    phone: contact.phone,
                }),
            },
            billing_address: fields.billing_address.map(Into::into),
            shipping_address: fields.shipping_address.map(Into::into),
            postal_address: fields.postal_address.map(Into::into),
            official_address: fields.official_address.map(Into::into),
            billing_details: fields.billing_details,
            preferences: fields.preferences.and_then(|preferences| match json(preferences).kind {
                Some(JsonKind::StructValue(object)) => Some(object),
                _ => None,
            }),
            is_primary: fields.is_primary,
            account_manager_id: fields.account_manager_id.unwrap_or_default(),
            billing_contact_id: fields.billing_contact_id.unwrap_or_default(),
            cc_billing_contact_id: fields.cc_billing_contact_id.unwrap_or_default(),
            comment: fields.comment,
            metadata: fields.metadata.0,
            tax_id: fields.tax_id,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

/// The primary contact gets the present name, email and phone of the person.
impl From<WithContact> for proto::Account {
    fn from(WithContact(row, person): WithContact) -> Self {
        let mut account = Self::from(row);
        if let (Some(contact), Some(person)) = (&mut account.primary_contact, person) {
            contact.name = person.fields.display_name;
            contact.email = person.fields.email;
            contact.phone = person.fields.phone;
        }
        account
    }
}

impl From<Json<Address>> for proto::Address {
    fn from(Json(address): Json<Address>) -> Self {
        let Address { line1, line2, city, state, postal_code, country } = address;
        Self { line1, line2, city, state, postal_code, country }
    }
}

/// Parses an inline contact; returns `None` for one without content.
fn contact(v: &mut Violations, contact: proto::Contact) -> Option<Contact> {
    if contact == proto::Contact::default() || !contact.person_id.is_empty() {
        return None;
    }
    let field = "account.primary_contact";
    if contact.email.is_empty() {
        v.add(EMAIL, "is required, unless account.primary_contact.person_id names a person");
    }
    Some(Contact {
        name: v.line(format_args!("{field}.name"), contact.name, MAX_NAME),
        email: v.email(EMAIL, contact.email),
        phone: v.line(format_args!("{field}.phone"), contact.phone, MAX_PHONE),
    })
}

/// Parses an address; returns `None` for one without content.
fn address(
    v: &mut Violations,
    field: &str,
    address: Option<proto::Address>,
) -> Option<Json<Address>> {
    let address = address.filter(|address| *address != proto::Address::default())?;
    let country = address.country.to_ascii_uppercase();
    if !country.is_empty() && !country::is_known(&country) {
        v.add(
            format_args!("{field}.country"),
            "must be a country code of ISO 3166-1 alpha-2, such as DE, or XK",
        );
    }
    Some(Json(Address {
        line1: v.line(format_args!("{field}.line1"), address.line1, MAX_ADDRESS_LINE),
        line2: v.line(format_args!("{field}.line2"), address.line2, MAX_ADDRESS_LINE),
        city: v.line(format_args!("{field}.city"), address.city, MAX_ADDRESS_LINE),
        state: v.line(format_args!("{field}.state"), address.state, MAX_ADDRESS_LINE),
        postal_code: v.line(
            format_args!("{field}.postal_code"),
            address.postal_code,
            MAX_POSTAL_CODE,
        ),
        country,
    }))
}

/// Converts preferences to JSON; returns `None` for an empty object. Rejects NUL characters, which
/// jsonb cannot store, and numbers that are not finite, which JSON does not have.
fn object(v: &mut Violations, preferences: Struct) -> Option<Value> {
    if preferences.fields.is_empty() {
        return None;
    }
    let value = map(v, preferences, MAX_PREFERENCES_DEPTH - 1);
    let bytes = value.to_string().len() + written_out(&value);
    if bytes > MAX_PREFERENCES {
        v.add(
            PREFERENCES,
            format!(
                "must have at most {MAX_PREFERENCES} bytes as JSON with its numbers written out, \
                 has {bytes}"
            ),
        );
    }
    Some(value)
}

/// Bytes that jsonb adds by writing numbers without exponents: `5e-324` has 324 decimal places.
fn written_out(value: &Value) -> usize {
    match value {
        Value::Number(number) => {
            let long = number.as_f64().map_or(0, |number| number.to_string().len());
            long.saturating_sub(number.to_string().len())
        }
        Value::Array(values) => values.iter().map(written_out).sum(),
        Value::Object(fields) => fields.values().map(written_out).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

fn map(v: &mut Violations, object: Struct, depth: usize) -> Value {
    let fields =
        object.fields.into_iter().map(|(key, value)| (string(v, key), from_wire(v, value, depth)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn string(v: &mut Violations, text: String) -> String {
    if text.contains('\0') {
        v.add(PREFERENCES, "must not contain NUL characters");
    }
    text
}

fn from_wire(v: &mut Violations, value: prost_types::Value, depth: usize) -> Value {
    match value.kind {
        None | Some(JsonKind::NullValue(_)) => Value::Null,
        Some(JsonKind::BoolValue(value)) => Value::Bool(value),
        Some(JsonKind::StringValue(value)) => Value::String(string(v, value)),
        // Normalizes through the decimal form, as jsonb does (1e16 becomes an integer, -0 becomes
        // 0). Otherwise the value read back differs from the one sent, and every update looks like
        // a change.
        Some(JsonKind::NumberValue(number)) => (number + 0.0).to_string().parse().map_or_else(
            |_| {
                v.add(PREFERENCES, "must not contain numbers that are not finite");
                Value::Null
            },
            Value::Number,
        ),
        Some(JsonKind::StructValue(_) | JsonKind::ListValue(_)) if depth == 0 => {
            v.add(PREFERENCES, format!("must be at most {MAX_PREFERENCES_DEPTH} levels deep"));
            Value::Null
        }
        Some(JsonKind::ListValue(list)) => {
            list.values.into_iter().map(|value| from_wire(v, value, depth - 1)).collect()
        }
        Some(JsonKind::StructValue(object)) => map(v, object, depth - 1),
    }
}
