//! A row of an import as the request has it, checked as far as that needs no other row and no
//! database.

use prost::Message as _;

use super::{refusals, wire::Refused};
use crate::{
    accounts::store::NewAccount,
    change::Update,
    codec::{Bounded as _, measure},
    error::{Error, Result},
    memberships::store::NewUser,
    organizations::store::NewOrganization,
    proto::{
        self, AddAccountUserRequest, CreateAccountRequest, CreateOrganizationRequest, ImportRow,
        UpdateAccountRequest,
    },
    validate::Violations,
};

/// Stands for the id of an account that has none yet, where users are checked.
const NO_ID: &str = "-";

/// A row of a batch.
#[derive(Debug)]
pub struct Row {
    /// The client's number, or the position in the batch.
    pub number: i64,
    /// The id of the account; empty to generate one.
    pub account_id: String,
    /// What the row has, or why it is refused whatever there is.
    pub content: Result<Content, Refused>,
}

/// The valid content of a row.
#[derive(Debug)]
pub struct Content {
    /// The account as a new one, or why it cannot be one.
    pub new: Result<NewAccount, Refused>,
    /// Whether an account may have this id. Otherwise nothing can be looked up by it.
    pub can_exist: bool,
    /// The request of the update, if there is such an account.
    update: UpdateAccountRequest,
    /// Organizations to link, each with whether the link covers those below.
    pub links: Vec<(String, bool)>,
    /// Individual users.
    pub users: Vec<NewUser>,
    /// The organization that is created if it does not exist.
    pub organization: Option<NewOrganization>,
}

impl Row {
    /// Parses the row at a position, from 0.
    pub fn parse(position: usize, mut row: ImportRow) -> Self {
        let number = match row.row {
            0 => i64::try_from(position).unwrap_or(i64::MAX).saturating_add(1),
            number => number,
        };
        let account_id =
            row.account.as_ref().map(|account| account.account_id.clone()).unwrap_or_default();
        let content = Content::parse(&mut row).map_err(Refused::from);
        Self { number, account_id, content }
    }

    /// Refuses the row because an earlier one has the same id.
    pub fn refuse_as_duplicate(&mut self, earlier: i64) {
        self.content = Err(refusals::duplicate_row(&self.account_id, earlier).into());
    }
}

impl Content {
    fn parse(row: &mut ImportRow) -> Result<Self> {
        measure(&row.encode_to_vec(), ImportRow::BOUNDS)?;
        let mut v = Violations::default();
        if row.row < 0 {
            v.add("row", "must not be negative");
        }
        let organization = organization(&mut v, row);
        let links = (0..).zip(std::mem::take(&mut row.linked_organizations)).map(|(i, link)| {
            let field = format_args!("linked_organizations[{i}].organization_id");
            (v.id(field, link.organization_id), link.include_descendants)
        });
        let links = links.collect();
        let account_id = row.account.as_ref().map_or("", |account| &account.account_id).to_owned();
        let users = (0..).zip(std::mem::take(&mut row.account_users));
        let users: Result<Vec<_>> =
            users.map(|(i, user)| user_of(&account_id, user).map_err(within_user(i))).collect();
        let users = v.finish(users)??;
        let mut v = Violations::default();
        let create = CreateAccountRequest {
            account: row.account.clone(),
            without_account_type: row.without_account_type,
            ..Default::default()
        };
        let new = NewAccount::parse(&mut v, create);
        let new = v.finish(new).map_err(Refused::from);
        let mut v = Violations::default();
        v.id("account.account_id", account_id);
        let can_exist = v.finish(()).is_ok();
        let update = UpdateAccountRequest {
            account: row.account.take(),
            update_mask: row.update_mask.take(),
            ..Default::default()
        };
        Ok(Self { new, can_exist, update, links, users, organization })
    }

    /// The row as an update of an account that is there.
    pub fn update(&self) -> Result<Update<proto::Account>> {
        let mut v = Violations::default();
        let update = Update::parse(&mut v, self.update.clone(), &[])?;
        v.finish(update)
    }

    /// The etag that the row has; empty for none.
    pub fn etag(&self) -> &str {
        self.update.account.as_ref().map_or("", |account| &account.etag)
    }

    /// The organization that the row names for the account; empty for none.
    pub fn organization_id(&self) -> &str {
        self.update.account.as_ref().map_or("", |account| &account.organization_id)
    }

    /// Whether the row names the account as primary.
    pub fn is_primary(&self) -> bool {
        self.update.account.as_ref().is_some_and(|account| account.is_primary)
    }
}

/// Parses the organization of a row, and makes it that of the account.
fn organization(v: &mut Violations, row: &mut ImportRow) -> Option<NewOrganization> {
    let organization = row.organization.take()?;
    let id = organization.organization_id.clone();
    if id.is_empty() {
        v.add("organization.organization_id", "is required");
    }
    let account = row.account.get_or_insert_default();
    if account.organization_id.is_empty() {
        account.organization_id = id;
    } else if account.organization_id != id {
        v.add("organization.organization_id", "must be that of account.organization_id");
    }
    let organization = Some(organization);
    let request = CreateOrganizationRequest { organization, ..Default::default() };
    Some(NewOrganization::parse(v, request))
}

/// Parses a user of a row as `AddAccountUser` does.
fn user_of(account_id: &str, user: proto::ImportUser) -> Result<NewUser> {
    let account_id = if account_id.is_empty() { NO_ID } else { account_id };
    let request = AddAccountUserRequest {
        account_id: account_id.to_owned(),
        person_id: user.person_id,
        roles: user.roles,
        billing: user.billing,
        start_date: user.start_date,
        end_date: user.end_date,
        ..Default::default()
    };
    let mut v = Violations::default();
    let user = NewUser::parse(&mut v, request);
    v.finish(user)
}

/// Makes the fields of an error those of the user at a position.
pub fn within_user(position: usize) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Invalid { mut violations, count } => {
            for violation in &mut violations {
                violation.field = format!("account_users[{position}].{}", violation.field);
            }
            Error::Invalid { violations, count }
        }
        error => error,
    }
}
