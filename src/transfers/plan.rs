//! What an import does with each row, given what is there: it locks the accounts of the batch and
//! compares. Nothing is written here.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    row::{Content, Row, within_user},
    wire::{Action, Refused, refused},
};
use crate::{
    accounts::store::{Account, Fields, Locked, NewAccount},
    change::Versioned as _,
    db::{WriteTx, refusals::module_off_for_organization},
    error::Result,
    memberships::store::NewUser,
    modules,
    relations::settings::{Fields as Settings, UserSettings},
    resource::ACCOUNT,
    schema::{account_organizations, account_users},
};

/// What is done with a row.
#[derive(Debug)]
pub enum Plan<'a> {
    /// It is refused.
    Refuse(Refused),
    /// Everything is as the row has it: the account has this etag.
    Keep(String),
    /// Its account is created.
    Create(Creation<'a>),
    /// Something of its account is changed.
    Update(Box<Change<'a>>),
}

impl Plan<'_> {
    /// The organization of which the row makes its account the primary one.
    pub fn takes_primary(&self) -> Option<&str> {
        let fields = match self {
            Self::Create(creation) => &creation.new.fields,
            Self::Update(change) if !change.keeps_primary() => &change.fields,
            _ => return None,
        };
        fields.is_primary.then_some(&*fields.organization_id)
    }
}

/// An account to create.
#[derive(Debug, Clone, Copy)]
pub struct Creation<'a> {
    /// The row.
    pub content: &'a Content,
    /// Its account.
    pub new: &'a NewAccount,
}

/// A change of an account that is there.
#[derive(Debug)]
pub struct Change<'a> {
    /// The row.
    pub content: &'a Content,
    /// The account, which is locked.
    pub current: Account,
    /// The fields that it gets.
    pub fields: Fields,
    /// The links that differ.
    pub links: Vec<&'a (String, bool)>,
    /// The users that differ, with their settings.
    pub users: Vec<Membership<'a>>,
}

impl Change<'_> {
    fn keeps_primary(&self) -> bool {
        let present = &self.current.fields;
        present.is_primary && present.organization_id == self.fields.organization_id
    }
}

/// A user who is added, or whose settings change.
#[derive(Debug)]
pub struct Membership<'a> {
    /// The user as the row has them.
    pub user: &'a NewUser,
    /// Their settings, with the tenant's roles.
    pub settings: Settings,
}

/// What there is of the accounts of a batch.
#[derive(Debug)]
pub struct Present {
    locked: Locked,
    /// The accounts' organizations for which the module is off, each with the one whose setting
    /// decides.
    off: BTreeMap<String, String>,
    /// Whether each link of these accounts covers the organizations below.
    links: BTreeMap<(String, String), bool>,
    settings: BTreeMap<(String, String), Settings>,
}

impl Present {
    /// Locks the accounts that these rows name, and looks up what the rows are compared with.
    pub async fn lock(tx: &WriteTx, rows: &[Row]) -> Result<Self> {
        let contents = || rows.iter().filter_map(|row| Some((row, row.content.as_ref().ok()?)));
        let named = contents().filter(|(row, it)| it.can_exist && !row.account_id.is_empty());
        let ids: BTreeSet<_> = named.map(|(row, _)| &*row.account_id).collect();
        let primary_of = contents().map(|(_, content)| content).filter(|it| it.is_primary());
        let primary_of = primary_of.map(Content::organization_id).collect();
        let locked = Account::lock_all(tx, &ids, &primary_of).await?;
        let organizations = locked.accounts.values().map(|it| &*it.fields.organization_id);
        let off = modules::off_among(tx, organizations).await?;
        let with = |has: fn(&Content) -> bool| {
            let there = contents().filter(|(row, content)| {
                has(content) && locked.accounts.contains_key(&row.account_id)
            });
            there.map(|(row, _)| &*row.account_id).collect::<Vec<_>>()
        };
        let links = links_of(tx, with(|content| !content.links.is_empty())).await?;
        let settings = settings_of(tx, with(|content| !content.users.is_empty())).await?;
        Ok(Self { locked, off, links, settings })
    }

    /// The organization whose primary account the row names.
    pub fn has_primary(&self, row: &Row) -> Option<&str> {
        let account = self.locked.accounts.get(&row.account_id)?;
        account.fields.is_primary.then_some(&*account.fields.organization_id)
    }

    /// Decides what is done with a row.
    pub async fn plan<'a>(&self, tx: &WriteTx, action: Action, row: &'a Row) -> Result<Plan<'a>> {
        let content = match &row.content {
            Ok(content) => content,
            Err(why) => return Ok(Plan::Refuse(why.clone())),
        };
        let current = self.locked.accounts.get(&row.account_id);
        let plan = match (action, current) {
            (Action::CreateMissing, Some(current)) => Ok(Plan::Keep(current.etag())),
            (Action::Upsert | Action::Update, Some(current)) => {
                self.update(tx, row, content, current).await
            }
            (Action::Update, None) => {
                content.update().and_then(|_| Err(ACCOUNT.not_found(&row.account_id)))
            }
            (Action::Create, Some(_)) => match &content.new {
                Ok(_) => Err(ACCOUNT.id_taken(&row.account_id)),
                Err(why) => return Ok(Plan::Refuse(why.clone())),
            },
            (Action::Upsert | Action::Create | Action::CreateMissing, None) => match &content.new {
                Ok(new) => self.create(tx, row, content, new).await,
                Err(why) => return Ok(Plan::Refuse(why.clone())),
            },
        };
        Ok(refused(plan)?.unwrap_or_else(Plan::Refuse))
    }

    async fn create<'a>(
        &self,
        tx: &WriteTx,
        row: &Row,
        content: &'a Content,
        new: &'a NewAccount,
    ) -> Result<Plan<'a>> {
        if self.locked.out_of_reach.contains(&row.account_id) {
            return Err(ACCOUNT.id_taken(&row.account_id));
        }
        if !content.etag().is_empty() {
            return Err(ACCOUNT.etag_of_none(&row.account_id));
        }
        memberships(tx, content).await?;
        Ok(Plan::Create(Creation { content, new }))
    }

    async fn update<'a>(
        &self,
        tx: &WriteTx,
        row: &Row,
        content: &'a Content,
        current: &Account,
    ) -> Result<Plan<'a>> {
        let update = content.update()?;
        if let Some(decides) = self.off.get(&current.fields.organization_id) {
            return Err(module_off_for_organization(tx.module(), decides));
        }
        let fields = update.fields(current)?;
        let key = |id: &str| (row.account_id.clone(), id.to_owned());
        let differs = |link: &&(String, bool)| self.links.get(&key(&link.0)) != Some(&link.1);
        let links: Vec<_> = content.links.iter().filter(differs).collect();
        let mut users = memberships(tx, content).await?;
        users.retain(|it| self.settings.get(&key(&it.user.person_id)) != Some(&it.settings));
        if fields == current.fields && links.is_empty() && users.is_empty() {
            return Ok(Plan::Keep(current.etag()));
        }
        let current = current.clone();
        Ok(Plan::Update(Box::new(Change { content, current, fields, links, users })))
    }
}

/// Returns the users of a row with their settings. Fails with every role that the tenant does not
/// have.
pub async fn memberships<'a>(tx: &WriteTx, content: &'a Content) -> Result<Vec<Membership<'a>>> {
    let roles = &tx.tenant().await?.settings.membership_roles;
    let membership = |(i, user): (usize, &'a NewUser)| {
        let settings = user.fields(roles).map_err(within_user(i))?;
        Ok(Membership { user, settings })
    };
    content.users.iter().enumerate().map(membership).collect()
}

async fn links_of(
    tx: &WriteTx,
    account_ids: Vec<&str>,
) -> Result<BTreeMap<(String, String), bool>> {
    if account_ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let links = account_organizations::table
        .filter(tx.owns(account_organizations::tenant_id))
        .filter(account_organizations::account_id.eq_any(account_ids))
        .select((
            (account_organizations::account_id, account_organizations::organization_id),
            account_organizations::include_descendants,
        ));
    let links = links.load::<((String, String), bool)>(&mut tx.conn()).await?;
    Ok(links.into_iter().collect())
}

async fn settings_of(
    tx: &WriteTx,
    account_ids: Vec<&str>,
) -> Result<BTreeMap<(String, String), Settings>> {
    if account_ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let settings = account_users::table
        .filter(tx.owns(account_users::tenant_id))
        .filter(account_users::account_id.eq_any(account_ids))
        .select(UserSettings::as_select());
    let settings = settings.load::<UserSettings>(&mut tx.conn()).await?;
    let by_key = |it: UserSettings| ((it.account_id, it.person_id), it.fields);
    Ok(settings.into_iter().map(by_key).collect())
}
