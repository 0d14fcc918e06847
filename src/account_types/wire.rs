//! Account types between the contract and the rows.

use super::{
    refusals::{self, ACCOUNT_TYPE},
    store::{AccountType, Fields, Filter, NewAccountType},
};
use crate::{
    batch::Ids,
    caller::Caller,
    error::Result,
    mask::Mask,
    page::Page,
    proto, text,
    validate::Violations,
    wire::{etag, require_etag, timestamp},
};

const MAX_NAME: usize = 100;
const MAX_DESCRIPTION: usize = 1000;

impl Fields {
    fn parse(v: &mut Violations, account_type: proto::AccountType) -> Self {
        let display_name =
            v.label("account_type.display_name", account_type.display_name, MAX_NAME);
        Self {
            name_key: text::caseless(&display_name),
            display_name,
            description: v.text(
                "account_type.description",
                account_type.description,
                MAX_DESCRIPTION,
            ),
            is_default: account_type.is_default,
            active: account_type.active.unwrap_or_default(),
        }
    }
}

impl NewAccountType {
    /// A valid new account type, active unless told otherwise, or every violation of the request.
    pub fn parse(request: proto::CreateAccountTypeRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let account_type = v.message("account_type", request.account_type);
        let account_type_id =
            v.new_id("account_type.account_type_id", account_type.account_type_id.clone(), "atyp");
        let active = account_type.active.unwrap_or(true);
        let fields = Fields { active, ..Fields::parse(&mut v, account_type) };
        let new = v.finish(Self { account_type_id, fields })?;
        if new.fields.is_default && !new.fields.active {
            return Err(refusals::default_account_type_inactive(&new.account_type_id));
        }
        Ok(new)
    }
}

/// The id of a get request.
pub fn id(request: proto::GetAccountTypeRequest) -> Result<String> {
    let mut v = Violations::default();
    let id = v.id("account_type_id", request.account_type_id);
    v.finish(id)
}

/// The ids of a batch get request.
pub fn ids(request: proto::BatchGetAccountTypesRequest) -> Result<Ids> {
    Ids::parse("account_type_ids", request.account_type_ids)
}

impl Filter {
    /// What a list request asks for, and which page of it.
    pub fn parse(
        caller: &Caller,
        mut request: proto::ListAccountTypesRequest,
    ) -> Result<(Self, Page)> {
        let mut v = Violations::default();
        let page = Page::take(&mut v, caller, &mut request)?;
        let display_name = v.line("display_name", request.display_name, MAX_NAME);
        let name_key = (!display_name.is_empty()).then(|| text::caseless(&display_name));
        v.finish((Self { show_inactive: request.show_inactive, name_key }, page))
    }
}

/// An update as it was asked for; what it comes to depends on the present account type.
pub struct Update {
    /// Which account type.
    pub id: String,
    wanted: proto::AccountType,
    mask: Mask,
}

impl Update {
    /// The update, or every violation that shows without the present account type.
    pub fn parse(request: proto::UpdateAccountTypeRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let wanted = v.message("account_type", request.account_type);
        let id = v.id("account_type.account_type_id", wanted.account_type_id.clone());
        let mask = Mask::parse(&mut v, &wanted, request.update_mask, &[])?;
        v.finish(Self { id, wanted, mask })
    }

    /// The fields that the account type gets. Deactivating the default makes it no default; asking
    /// for an inactive default is refused.
    pub fn apply(&self, current: &AccountType) -> Result<Fields> {
        let present = proto::AccountType::from(current.clone());
        require_etag(&self.wanted.etag, &present.etag, &ACCOUNT_TYPE, &self.id)?;
        let mut v = Violations::default();
        let merged = self.mask.apply(&mut v, "account_type", &present, &self.wanted)?;
        let mut fields = v.update("account_type", &present, &merged, Fields::parse)?;
        if fields.display_name == current.fields.display_name {
            // It may be from before, when a name that is the same now was another one.
            fields.name_key.clone_from(&current.fields.name_key);
        }
        if fields.is_default && !fields.active {
            if self.mask.has("is_default") {
                return Err(refusals::default_account_type_inactive(&self.id));
            }
            fields.is_default = false;
        }
        v.finish(fields)
    }
}

/// A deactivation as it was asked for.
pub struct Deactivation {
    /// Which account type.
    pub id: String,
    etag: String,
}

impl Deactivation {
    /// The deactivation, or every violation of the request.
    pub fn parse(request: proto::DeactivateAccountTypeRequest) -> Result<Self> {
        let mut v = Violations::default();
        v.request_id(&request.request_id);
        let id = v.id("account_type_id", request.account_type_id);
        v.finish(Self { id, etag: request.etag })
    }

    /// The fields that the account type gets.
    pub fn apply(&self, current: &AccountType) -> Result<Fields> {
        require_etag(
            &self.etag,
            &etag(current.create_time, current.revision),
            &ACCOUNT_TYPE,
            &self.id,
        )?;
        Ok(Fields { active: false, is_default: false, ..current.fields.clone() })
    }
}

impl From<AccountType> for proto::AccountType {
    fn from(row: AccountType) -> Self {
        Self {
            etag: etag(row.create_time, row.revision),
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
