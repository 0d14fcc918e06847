//! What the accounts of a batch refer to: checked and locked by one query each, in the order of
//! locks: the tree, organizations, people.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    plan::{Change, Creation, Plan},
    wire::{Refused, refused},
};
use crate::{
    account_types::store::AccountType,
    db::WriteTx,
    error::{Error, Result},
    organizations::store::{NewOrganization, Organization},
    people::store::Person,
    proto::ErrorReason,
    relations::organization,
};

/// What the transaction holds for the accounts that it creates.
#[derive(Debug)]
pub struct References {
    /// The type of accounts that name none.
    pub default_type: Option<String>,
    /// How many organizations were created.
    pub organizations_created: i64,
    /// The rows that were refused when the organization that they bring was created already, by
    /// position.
    pub late: BTreeMap<usize, Refused>,
}

impl References {
    /// Locks what the rows refer to, creates the organizations that they bring, and refuses the rows
    /// whose references do not exist or are not allowed.
    pub async fn hold(tx: &WriteTx, plans: &mut [Plan<'_>]) -> Result<Self> {
        let default_type = hold_types(tx, plans).await?;
        if plans.iter().any(relies_on_tree) {
            tx.lock_tree_shared().await?;
        }
        let creators = create_organizations(tx, plans).await?;
        let brought: Vec<_> = plans.iter().map(brought).collect();
        hold_organizations(tx, plans).await?;
        let is_open: Vec<_> = plans.iter().map(|it| !matches!(it, Plan::Refuse(_))).collect();
        hold_people(tx, plans).await?;
        let late = too_late(plans, &creators, &brought, &is_open);
        let organizations_created = i64::try_from(creators.len()).unwrap_or(i64::MAX);
        Ok(Self { default_type, organizations_created, late })
    }
}

/// The rows that were refused after they created an organization, and the refused ones that would
/// create it without them, and be refused then: those that say the same of it, and those that were
/// refused for their people (`is_open` until then), whatever they say of it.
fn too_late(
    plans: &[Plan<'_>],
    creators: &[usize],
    brought: &[Option<&NewOrganization>],
    is_open: &[bool],
) -> BTreeMap<usize, Refused> {
    let refused = |position: usize| match plans.get(position) {
        Some(Plan::Refuse(why)) => Some(why.clone()),
        _ => None,
    };
    let brings = |position: usize| brought.get(position).copied().flatten();
    let undone: BTreeMap<_, _> = creators
        .iter()
        .filter(|position| refused(**position).is_some())
        .filter_map(|position| brings(*position))
        .map(|organization| (&organization.organization_id, organization))
        .collect();
    let is_late = |position: &usize| {
        let new = brings(*position);
        let made = new.and_then(|new| undone.get(&new.organization_id));
        made.is_some_and(|made| is_open.get(*position) == Some(&true) || Some(*made) == new)
    };
    let late = (0..plans.len()).filter(is_late);
    late.filter_map(|position| Some((position, refused(position)?))).collect()
}

/// Refuses the rows for which a check fails.
fn check<'a>(plans: &mut [Plan<'a>], check: impl Fn(&Plan<'a>) -> Result<()>) -> Result<()> {
    for plan in plans {
        if let Err(why) = refused(check(plan))? {
            *plan = Plan::Refuse(why);
        }
    }
    Ok(())
}

/// The accounts that are created.
fn created<'p, 'a>(plans: &'p [Plan<'a>]) -> impl Iterator<Item = &'p Creation<'a>> {
    plans.iter().filter_map(|plan| match plan {
        Plan::Create(creation) => Some(creation),
        _ => None,
    })
}

/// Whether a row changes something that a move of an organization must not change meanwhile.
fn relies_on_tree(plan: &Plan<'_>) -> bool {
    match plan {
        Plan::Refuse(_) | Plan::Keep(_) => false,
        Plan::Create(Creation { content, new }) => {
            content.organization.is_some()
                || !content.links.is_empty()
                || !content.users.is_empty()
                || new.fields.contacts().next().is_some()
        }
        Plan::Update(change) => {
            change.content.organization.is_some()
                || !change.links.is_empty()
                || !change.users.is_empty()
                || change.moves()
                || change.new_contacts().next().is_some()
        }
    }
}

impl Change<'_> {
    fn moves(&self) -> bool {
        self.fields.organization_id != self.current.fields.organization_id
    }

    fn new_contacts(&self) -> impl Iterator<Item = &String> {
        let held = |id: &String| self.current.fields.contacts().any(|held| held == id);
        self.fields.contacts().filter(move |id| !held(id))
    }
}

/// Locks the types that accounts get, refuses the rows that name none that is active, and returns
/// the default type if an account needs it.
async fn hold_types(tx: &WriteTx, plans: &mut [Plan<'_>]) -> Result<Option<String>> {
    let named: BTreeSet<_> = plans.iter().filter_map(new_type).map(ToOwned::to_owned).collect();
    let types = AccountType::hold_all(tx, &named.iter().map(String::as_str).collect()).await?;
    check(plans, |plan| new_type(plan).map_or(Ok(()), |id| types.require_active(id)))?;
    let needed = created(plans)
        .any(|it| it.new.fields.account_type_id.is_none() && !it.new.without_account_type);
    if needed { AccountType::default_id(tx).await } else { Ok(None) }
}

/// Creates the organizations that rows bring and that do not exist, and returns the positions of
/// these rows. A parent that a row brings, too, is created first, wherever that row stands.
async fn create_organizations(tx: &WriteTx, plans: &mut [Plan<'_>]) -> Result<Vec<usize>> {
    let ids: BTreeSet<_> =
        plans.iter().filter_map(brought).map(|it| it.organization_id.clone()).collect();
    let mut creators = Vec::new();
    if ids.is_empty() {
        return Ok(creators);
    }
    let mut existing =
        Organization::existing(tx, &ids.iter().map(String::as_str).collect()).await?;
    let mut waiting: Vec<_> = plans.iter_mut().enumerate().collect();
    loop {
        waiting.retain(|(_, plan)| {
            brought(plan).is_some_and(|it| !existing.contains(&it.organization_id))
        });
        // The first row that brings an organization says what it is.
        let mut awaited = BTreeMap::new();
        for (position, plan) in &waiting {
            if let Some(new) = brought(plan) {
                awaited.entry(new.organization_id.clone()).or_insert(*position);
            }
        }
        let waits_for_parent = |plan: &Plan<'_>| {
            let parent = brought(plan).and_then(|it| it.parent_id.as_ref());
            parent.is_some_and(|parent| awaited.contains_key(parent))
        };
        let (mut later, mut ready): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(position, plan)| {
                let is_first = brought(plan)
                    .is_some_and(|it| awaited.get(&it.organization_id) == Some(position));
                !is_first || waits_for_parent(plan)
            });
        if ready.is_empty() {
            if later.is_empty() {
                return Ok(creators);
            }
            // They are below each other. Another row may say otherwise of one of them; if none
            // does, the first one is refused.
            let other = later.iter().position(|(_, plan)| !waits_for_parent(plan));
            ready.push(later.remove(other.unwrap_or(0)));
        }
        waiting = later;
        for (position, plan) in ready {
            let Some(new) = brought(plan) else { continue };
            match refused(new.insert(tx).await.map_err(lost_race))? {
                Ok(created) => {
                    existing.insert(created.organization_id);
                    creators.push(position);
                }
                Err(why) => *plan = Plan::Refuse(why),
            }
        }
    }
}

/// The type that the account of a row gets. An update that is refused for its status is refused for
/// that, as by the single call.
fn new_type<'p>(plan: &'p Plan<'_>) -> Option<&'p str> {
    match plan {
        Plan::Create(Creation { new, .. }) => new.fields.account_type_id.as_deref(),
        Plan::Update(change) => {
            let Change { current, fields, .. } = &**change;
            let id = fields.account_type_id.as_deref();
            id.filter(|_| {
                current.fields.account_type_id != fields.account_type_id
                    && current.fields.status.require_next(fields.status, "").is_ok()
            })
        }
        Plan::Refuse(_) | Plan::Keep(_) => None,
    }
}

/// The organization that the row of a plan brings.
fn brought<'a>(plan: &Plan<'a>) -> Option<&'a NewOrganization> {
    match plan {
        Plan::Create(Creation { content, .. }) => content.organization.as_ref(),
        Plan::Update(change) => change.content.organization.as_ref(),
        Plan::Refuse(_) | Plan::Keep(_) => None,
    }
}

/// Another transaction has created what this one did not find: the work runs again.
pub fn lost_race(error: Error) -> Error {
    match error.reason() {
        ErrorReason::AccountAlreadyExists | ErrorReason::OrganizationAlreadyExists => Error::Retry,
        _ => error,
    }
}

/// The organization that the account of a row gets.
fn entered<'p>(plan: &'p Plan<'_>) -> Option<&'p str> {
    match plan {
        Plan::Create(Creation { new, .. }) => Some(&new.fields.organization_id),
        Plan::Update(change) if change.moves() => Some(&change.fields.organization_id),
        Plan::Update(_) | Plan::Refuse(_) | Plan::Keep(_) => None,
    }
}

/// Locks the organizations, and those of new primary accounts as [`Organization::lock`] does.
async fn hold_organizations(tx: &WriteTx, plans: &mut [Plan<'_>]) -> Result<()> {
    let ids: BTreeSet<_> = plans.iter().filter_map(entered).map(ToOwned::to_owned).collect();
    if !ids.is_empty() {
        let kept = organization::keep_all(tx, &ids.iter().map(String::as_str).collect()).await?;
        check(plans, |plan| entered(plan).map_or(Ok(()), |id| kept.require(id)))?;
    }
    let primary_of = plans.iter().filter_map(|plan| match plan {
        Plan::Create(Creation { new, .. }) => Some(&new.fields),
        Plan::Update(change) => Some(&change.fields),
        Plan::Refuse(_) | Plan::Keep(_) => None,
    });
    let primary_of: BTreeSet<_> =
        primary_of.filter(|fields| fields.is_primary).map(|it| &it.organization_id).collect();
    for id in primary_of {
        Organization::lock(tx, id).await?;
    }
    Ok(())
}

/// Locks the people whom accounts get as managers, contacts and users, and checks the managers of
/// new accounts.
async fn hold_people(tx: &WriteTx, plans: &mut [Plan<'_>]) -> Result<()> {
    let mut people = BTreeSet::new();
    for plan in &*plans {
        match plan {
            Plan::Create(Creation { content, new }) => {
                people.extend(new.fields.contacts().cloned());
                people.extend(content.users.iter().map(|user| user.person_id.clone()));
            }
            Plan::Update(change) => {
                people.extend(change.new_contacts().cloned());
                people.extend(change.users.iter().map(|it| it.user.person_id.clone()));
            }
            Plan::Refuse(_) | Plan::Keep(_) => {}
        }
    }
    Person::hold_all(tx, &people.iter().map(String::as_str).collect()).await?;
    let managers = created(plans).filter_map(|it| it.new.fields.account_manager_id.clone());
    let managers: BTreeSet<_> = managers.collect();
    let found = Person::managers_among(tx, &managers.iter().map(String::as_str).collect()).await?;
    check(plans, |plan| match plan {
        Plan::Create(Creation { new, .. }) => {
            new.fields.account_manager_id.as_deref().map_or(Ok(()), |id| found.require(id))
        }
        _ => Ok(()),
    })
}
