//! Converts account types between messages of the contract and rows.

use super::{
    refusals,
    store::{AccountType, Fields, Filter, NewAccountType},
};
use crate::{
    change::{Update, Versioned as _},
    error::Result,
    proto, text,
    validate::Violations,
    wire::timestamp,
};

const MAX_NAME: usize = 100;
const MAX_DESCRIPTION: usize = 1000;

impl Fields {
    fn parse(v: &mut Violations, wanted: proto::AccountType) -> Self {
        let display_name = v.label("account_type.display_name", wanted.display_name, MAX_NAME);
        let description = v.text("account_type.description", wanted.description, MAX_DESCRIPTION);
        Self {
            name_key: text::caseless(&display_name),
            display_name,
            description,
            is_default: wanted.is_default,
            active: wanted.active.unwrap_or_default(),
        }
    }
}

impl NewAccountType {
    /// Parses a create request. The account type is active unless the request says otherwise.
    pub fn parse(v: &mut Violations, request: proto::CreateAccountTypeRequest) -> Self {
        let mut wanted = v.message("account_type", request.account_type);
        let id = std::mem::take(&mut wanted.account_type_id);
        let account_type_id = v.new_id("account_type.account_type_id", id, "atyp");
        let active = wanted.active.unwrap_or(true);
        Self { account_type_id, fields: Fields { active, ..Fields::parse(v, wanted) } }
    }
}

impl Filter {
    /// Parses the filter of a list request.
    pub fn parse(v: &mut Violations, request: proto::ListAccountTypesRequest) -> Self {
        let name = v.line("display_name", request.display_name, MAX_NAME);
        let name_key = (!name.is_empty()).then(|| text::caseless(&name));
        Self { show_inactive: request.show_inactive, name_key }
    }
}

impl Update<proto::AccountType> {
    /// Returns the fields that the update leads to. Deactivating the default clears its flag. Fails
    /// if the update makes an inactive account type the default.
    pub fn fields(&self, current: &AccountType) -> Result<Fields> {
        let mut draft = self.apply(current)?;
        let mut fields = draft.parse(Fields::parse)?;
        if fields.display_name == current.fields.display_name {
            // An older version may have derived this key, under which the name was unique.
            fields.name_key.clone_from(&current.fields.name_key);
        }
        if fields.is_default && !fields.active {
            if self.has("is_default") {
                return Err(refusals::default_account_type_inactive(self.id()));
            }
            fields.is_default = false;
        }
        draft.finish(fields)
    }
}

impl From<AccountType> for proto::AccountType {
    fn from(row: AccountType) -> Self {
        Self {
            etag: row.etag(),
            account_type_id: row.account_type_id,
            display_name: row.fields.display_name,
            description: row.fields.description,
            is_default: row.fields.is_default,
            active: Some(row.fields.active),
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}
