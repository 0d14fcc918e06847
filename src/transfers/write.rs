//! Writes the accounts of a batch. New accounts that need nothing but their rows are inserted
//! together; the others one by one, by the code of the single calls.

use std::{collections::BTreeMap, slice};

use super::{
    plan::{Change, Creation, Membership, Plan, Present, memberships},
    references::{References, lost_race},
    row::Row,
    wire::{Action, Outcome, Refused, refused},
};
use crate::{
    accounts::store::{Account, NewAccount},
    change::Versioned as _,
    db::WriteTx,
    error::Result,
    id,
    memberships::{
        links::Link,
        store::NewUser,
        users::{HeldUser, User},
    },
};

/// What became of the rows, and of which the refusal came when something of the row was written
/// already.
#[derive(Debug, Default)]
pub struct Written {
    /// One outcome for each row, up to the first that failed behind a late one.
    pub outcomes: Vec<Outcome>,
    /// The rows that were refused too late, by position.
    pub late: BTreeMap<usize, Refused>,
}

/// Rows that are planned again when their turn comes, by position.
#[derive(Debug)]
pub struct Again<'a> {
    /// The rows.
    pub rows: BTreeMap<usize, &'a Row>,
    /// What is done with them.
    pub action: Action,
}

/// Writes what the plans say. The transaction must hold what they refer to.
pub async fn write(
    tx: &WriteTx,
    plans: Vec<Plan<'_>>,
    again: Again<'_>,
    references: &References,
) -> Result<Written> {
    let mut together = insert_together(tx, &plans, references).await?;
    let mut written = Written::default();
    for (position, plan) in plans.into_iter().enumerate() {
        let inserted = together.remove(&position);
        match one(tx, position, plan, inserted, &again, &mut written.late).await {
            Ok(outcome) => written.outcomes.push(outcome),
            // A constraint that refuses a row ends the transaction for the rows behind it.
            Err(_) if !written.late.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Writes one row, unless its account was `inserted` already.
async fn one(
    tx: &WriteTx,
    position: usize,
    mut plan: Plan<'_>,
    inserted: Option<Account>,
    again: &Again<'_>,
    late: &mut BTreeMap<usize, Refused>,
) -> Result<Outcome> {
    if let Some(row) = again.rows.get(&position).filter(|_| !matches!(plan, Plan::Refuse(_))) {
        let present = Present::lock(tx, slice::from_ref(row)).await?;
        plan = present.plan(tx, again.action, row).await?;
    }
    let outcome = match (plan, inserted) {
        (Plan::Refuse(why), _) => return Ok(Outcome::Refused(why)),
        (Plan::Keep(etag), _) => return Ok(Outcome::Unchanged(etag)),
        (Plan::Create(_), Some(account)) => return Ok(Outcome::created(&account)),
        // Boxed, because they would make the future of the stream larger.
        (Plan::Create(creation), None) => Box::pin(create(tx, creation)).await,
        (Plan::Update(change), _) => Box::pin(update(tx, *change)).await,
    };
    Ok(refused(outcome.map_err(lost_race))?.unwrap_or_else(|why| {
        late.insert(position, why.clone());
        Outcome::Refused(why)
    }))
}

/// Inserts the new accounts that have no contacts, links and users and are not primary, and returns
/// them by the position of their row.
async fn insert_together(
    tx: &WriteTx,
    plans: &[Plan<'_>],
    references: &References,
) -> Result<BTreeMap<usize, Account>> {
    let prefix = &tx.tenant().await?.settings.account_id_prefix;
    let mut rows = BTreeMap::new();
    let mut positions = BTreeMap::new();
    for (position, plan) in plans.iter().enumerate() {
        let Plan::Create(creation) = plan else { continue };
        if !is_plain(creation) {
            continue;
        }
        let NewAccount { account_id, fields, without_account_type } = creation.new;
        let mut fields = fields.clone();
        if fields.account_type_id.is_none() && !without_account_type {
            fields.account_type_id.clone_from(&references.default_type);
        }
        let id = account_id.clone().unwrap_or_else(|| id::generate(prefix));
        positions.insert(id.clone(), position);
        rows.insert(id, fields);
    }
    let accounts = Account::insert_all(tx, rows.into_iter().collect()).await?;
    let at = |account: Account| Some((positions.remove(&account.account_id)?, account));
    Ok(accounts.into_iter().filter_map(at).collect())
}

fn is_plain(Creation { content, new }: &Creation<'_>) -> bool {
    content.links.is_empty()
        && content.users.is_empty()
        && !new.fields.is_primary
        && new.fields.contacts().next().is_none()
}

/// Creates an account, then its links and users, and then checks its contacts, who may be among
/// these users.
async fn create(tx: &WriteTx, Creation { content, new }: Creation<'_>) -> Result<Outcome> {
    let account = new.insert_before_contacts(tx).await?;
    let users = memberships(tx, content).await?;
    connect(tx, &account.account_id, content.links.iter().collect(), users).await?;
    account.require_own_contacts(tx).await?;
    Ok(Outcome::created(&account))
}

/// Changes an account, after its links and users, among whom its new contacts may be.
async fn update(tx: &WriteTx, change: Change<'_>) -> Result<Outcome> {
    let Change { current, fields, links, users, .. } = change;
    connect(tx, &current.account_id, links, users).await?;
    let etag = if current.fields == fields {
        current.etag()
    } else {
        current.update(tx, &fields).await?.0.etag()
    };
    Ok(Outcome::Updated(etag))
}

async fn connect(
    tx: &WriteTx,
    account_id: &str,
    links: Vec<&(String, bool)>,
    users: Vec<Membership<'_>>,
) -> Result<()> {
    for (organization_id, include_descendants) in links {
        Link::put(tx, account_id, organization_id, *include_descendants).await?;
    }
    for Membership { user, settings } in users {
        let current = User::find(tx, account_id, &user.person_id).await?;
        let present = if current.as_ref().is_some_and(User::is_individual) {
            current
        } else {
            let new = NewUser {
                account_id: account_id.to_owned(),
                person_id: user.person_id.clone(),
                fields: user.fields.clone(),
            };
            Some(new.insert(tx).await?)
        };
        // Someone who was a user through an organization keeps settings that the row does not have.
        if present.and_then(|it| it.record).is_none_or(|it| it.fields != settings) {
            HeldUser::find(tx, account_id, &user.person_id).await?.update(tx, &settings).await?;
        }
    }
    Ok(())
}
