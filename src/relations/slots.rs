//! Contact slots: primary, billing and CC billing contact of an account. A person who holds a slot
//! must stay a user of the account.
//!
//! A change that can end a membership calls [`guard`], which locks the rows of the people it can
//! affect, then makes the change, then calls [`Guard::verify`], which fails if a holder is no
//! longer a user. A change that fills a slot locks the person as well, so the two run one after the
//! other. Callers of [`guard`]: `UpdateAccountUser`, `RemoveAccountUser`, `UnlinkOrganization`,
//! `LinkOrganization` (when it covers less), `RemoveOrganizationMember`, `MoveOrganization`,
//! `DeleteOrganization`, `UpdatePerson` and `UpdateAccount`.
//!
//! A change that adds a source of membership or fills a slot holds the tree
//! (`WriteTx::lock_tree_shared`); `CreateAccount` does so only with contacts, because nobody can
//! hold a slot of a new account before. A move of an organization locks the tree, then finds and
//! locks the people below it; without the shared lock, a person could be added in between.
//!
//! Locks are taken in this order: accounts, the tenant row (the tree), organizations, people. A
//! change that holds the tree FOR UPDATE must not lock an account.

use chrono::NaiveDate;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{PersonKind, refusals, settings::UserSettings, sources::covered};
use crate::{
    db::{Tx, WriteTx},
    error::{Error, Result},
    resource::PERSON,
    schema::{
        account_organizations, account_users, accounts, organization_ancestors,
        organization_members, people,
    },
};

/// A contact slot of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The customer's first person to talk to.
    Primary,
    /// Gets the invoices.
    Billing,
    /// Gets copies of the invoices.
    CcBilling,
}

impl Slot {
    /// The name in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary_contact",
            Self::Billing => "billing_contact",
            Self::CcBilling => "cc_billing_contact",
        }
    }
}

/// A person who holds a contact slot of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The account.
    pub account_id: String,
    /// The slot.
    pub slot: Slot,
    /// The person.
    pub person_id: String,
}

/// The people whose memberships a change can end.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// One person, on every account.
    Person(&'a str),
    /// The users of one account.
    Account(&'a str),
    /// The members of an organization and of everything below it, on every account.
    Organization(&'a str),
}

/// The people, now locked, whom a change must leave users of the accounts on which they hold slots.
#[derive(Debug)]
pub struct Guard<'a> {
    scope: Scope<'a>,
    /// The locked people: those who hold slots, and those with settings that may have to be
    /// deleted.
    person_ids: Vec<String>,
}

/// The holders of an account's slots: primary, billing, CC billing contact.
pub type Contacts = [Option<String>; 3];

const SLOTS: [Slot; 3] = [Slot::Primary, Slot::Billing, Slot::CcBilling];

/// Returns the slots that a person holds.
pub fn held(contacts: &Contacts, person_id: &str) -> Vec<Slot> {
    let held = SLOTS
        .into_iter()
        .zip(contacts)
        .filter(|(_, contact)| contact.as_deref() == Some(person_id));
    held.map(|(slot, _)| slot).collect()
}

fn spread((account_id, primary, billing, cc): Slots) -> impl Iterator<Item = Holder> {
    SLOTS.into_iter().zip([primary, billing, cc]).filter_map(move |(slot, person_id)| {
        person_id.map(|person_id| Holder { account_id: account_id.clone(), slot, person_id })
    })
}

type Slots = (String, Option<String>, Option<String>, Option<String>);

const COLUMNS: (
    accounts::account_id,
    accounts::primary_contact_id,
    accounts::billing_contact_id,
    accounts::cc_billing_contact_id,
) = (
    accounts::account_id,
    accounts::primary_contact_id,
    accounts::billing_contact_id,
    accounts::cc_billing_contact_id,
);

/// Returns the slots that these people hold on any account.
pub async fn held_by(tx: &Tx, person_ids: &[String]) -> Result<Vec<Holder>> {
    let rows = accounts::table
        .filter(tx.owns(accounts::tenant_id))
        .filter(
            accounts::primary_contact_id
                .eq_any(person_ids)
                .or(accounts::billing_contact_id.eq_any(person_ids))
                .or(accounts::cc_billing_contact_id.eq_any(person_ids)),
        )
        .select(COLUMNS)
        .load::<Slots>(&mut tx.conn())
        .await?;
    let mut holders: Vec<_> = rows
        .into_iter()
        .flat_map(spread)
        .filter(|holder| person_ids.contains(&holder.person_id))
        .collect();
    holders.sort();
    Ok(holders)
}

/// Returns the holders of the slots of one account.
pub async fn held_on(tx: &Tx, account_id: &str) -> Result<Vec<Holder>> {
    let row = accounts::table
        .filter(tx.owns(accounts::tenant_id))
        .filter(accounts::account_id.eq(account_id))
        .select(COLUMNS);
    let row = row.first::<Slots>(&mut tx.conn()).await.optional()?;
    Ok(row.into_iter().flat_map(spread).collect())
}

/// Locks people, in the order of their ids.
async fn lock(tx: &WriteTx, person_ids: &[String]) -> Result<()> {
    people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq_any(person_ids))
        .order(people::person_id)
        .select(people::person_id)
        .for_no_key_update()
        .load::<String>(&mut tx.conn())
        .await?;
    Ok(())
}

/// Locks every person whose contact slot, roles or billing flag the change could invalidate.
/// Without the lock, two concurrent changes could each remove one of a person's two memberships
/// while still seeing the other.
///
/// The people are found first and locked then, so nobody may be added in between. For
/// [`Scope::Organization`] the caller must hold the tree FOR UPDATE: calls that add a member, fill
/// a slot or write settings hold it shared. For [`Scope::Account`] the caller must hold the
/// account.
pub async fn guard<'a>(tx: &WriteTx, scope: Scope<'a>) -> Result<Guard<'a>> {
    let (holders, mut person_ids) = match scope {
        Scope::Person(person_id) => (Vec::new(), vec![person_id.to_owned()]),
        Scope::Account(account_id) => {
            let set = account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::account_id.eq(account_id))
                .filter(diesel::dsl::not(account_users::individual))
                .select(account_users::person_id);
            (held_on(tx, account_id).await?, set.load::<String>(&mut tx.conn()).await?)
        }
        Scope::Organization(organization_id) => {
            let members: Vec<String> = organization_members::table
                .filter(tx.owns(organization_members::tenant_id))
                .inner_join(
                    organization_ancestors::table.on(organization_ancestors::tenant_id
                        .eq(organization_members::tenant_id)
                        .and(
                            organization_ancestors::organization_id
                                .eq(organization_members::organization_id),
                        )),
                )
                .filter(organization_ancestors::ancestor_id.eq(organization_id))
                .select(organization_members::person_id)
                .distinct()
                .load(&mut tx.conn())
                .await?;
            let set = account_users::table
                .filter(tx.owns(account_users::tenant_id))
                .filter(account_users::person_id.eq_any(&members))
                .select(account_users::person_id)
                .distinct();
            (held_by(tx, &members).await?, set.load::<String>(&mut tx.conn()).await?)
        }
    };
    person_ids.extend(holders.into_iter().map(|holder| holder.person_id));
    lock(tx, &person_ids).await?;
    Ok(Guard { scope, person_ids })
}

impl Guard<'_> {
    /// Fails if the change has ended the membership of someone who holds a slot. Deletes the
    /// settings of people who are no longer users. To be called after the change.
    pub async fn verify(self, tx: &WriteTx) -> Result<()> {
        // Found again, because another transaction may have emptied a slot while this one waited
        // for the locks.
        let holders = match self.scope {
            Scope::Account(account_id) => held_on(tx, account_id).await?,
            Scope::Person(_) | Scope::Organization(_) => held_by(tx, &self.person_ids).await?,
        };
        let mut lost = Vec::new();
        for holder in holders {
            if ineligible(tx, &holder.account_id, &holder.person_id).await?.is_some() {
                lost.push(holder);
            }
        }
        if !lost.is_empty() {
            return Err(refusal(tx, lost).await?);
        }
        let gone = diesel::delete(account_users::table.filter(tx.owns(account_users::tenant_id)))
            .filter(diesel::dsl::not(account_users::individual))
            .filter(diesel::dsl::not(diesel::dsl::exists(
                covered(tx.tenant_id().into()).filter(
                    account_organizations::account_id
                        .eq(account_users::account_id)
                        .and(organization_members::person_id.eq(account_users::person_id)),
                ),
            )));
        let all = UserSettings::as_returning;
        let gone: Vec<UserSettings> = match self.scope {
            Scope::Person(id) => {
                gone.filter(account_users::person_id.eq(id))
                    .returning(all())
                    .load(&mut tx.conn())
                    .await?
            }
            Scope::Account(id) => {
                gone.filter(account_users::account_id.eq(id))
                    .returning(all())
                    .load(&mut tx.conn())
                    .await?
            }
            Scope::Organization(_) => {
                let theirs = gone.filter(account_users::person_id.eq_any(&self.person_ids));
                theirs.returning(all()).load(&mut tx.conn()).await?
            }
        };
        UserSettings::record_ends(tx, gone).await
    }
}

/// The error for a change that would end the memberships of these holders. It names the slots of
/// accounts in the caller's reach, and counts all.
pub async fn refusal(tx: &WriteTx, mut slots: Vec<Holder>) -> Result<Error> {
    let count = slots.len();
    if tx.is_limited() {
        let ids: Vec<_> = slots.iter().map(|holder| holder.account_id.clone()).collect();
        let seen = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::account_id.eq_any(ids).and(tx.accounts_in_reach()));
        let seen: Vec<String> = seen.select(accounts::account_id).load(&mut tx.conn()).await?;
        slots.retain(|holder| seen.contains(&holder.account_id));
    }
    Ok(refusals::contact_slot_held(&slots, count))
}

/// Returns why a person cannot be a contact of an account, or `None` if they can: a contact is an
/// active CUSTOMER person who is a user through an organization, or individually without an end
/// date.
pub async fn ineligible(tx: &WriteTx, account_id: &str, person_id: &str) -> Result<Option<Error>> {
    let person = people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq(person_id))
        .select((people::kind, people::active))
        .first::<(PersonKind, bool)>(&mut tx.conn())
        .await
        .optional()?;
    match person {
        None => return Ok(Some(PERSON.not_found(person_id))),
        Some((PersonKind::Staff, _)) => {
            return Ok(Some(refusals::person_not_customer(person_id)));
        }
        Some((PersonKind::Customer, false)) => {
            return Ok(Some(refusals::person_inactive(person_id)));
        }
        Some((PersonKind::Customer, true)) => {}
    }
    let through = covered(tx.tenant_id().into())
        .filter(account_organizations::account_id.eq(account_id))
        .filter(organization_members::person_id.eq(person_id));
    if diesel::select(diesel::dsl::exists(through)).get_result::<bool>(&mut tx.conn()).await? {
        return Ok(None);
    }
    let dates = account_users::table
        .filter(tx.owns(account_users::tenant_id))
        .filter(
            account_users::account_id.eq(account_id).and(account_users::person_id.eq(person_id)),
        )
        .select((account_users::individual, account_users::start_date, account_users::end_date))
        .first::<(bool, Option<NaiveDate>, Option<NaiveDate>)>(&mut tx.conn())
        .await
        .optional()?;
    let today = tx.today().await?;
    Ok(match dates {
        Some((true, start, None)) if start.is_none_or(|start| start <= today) => None,
        Some((true, start, Some(end)))
            if start.is_none_or(|start| start <= today) && end >= today =>
        {
            Some(refusals::contact_membership_ends(account_id, person_id))
        }
        _ => Some(refusals::not_an_account_user(account_id, person_id)),
    })
}

/// Locks people who are to become contacts. Fails if one does not exist or is out of reach. The
/// caller must hold the tree, and check each person with [`ineligible`] after it has written the
/// account.
pub async fn lock_new(tx: &WriteTx, person_ids: &[String]) -> Result<()> {
    if person_ids.is_empty() {
        return Ok(());
    }
    let people = people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq_any(person_ids).and(tx.people_in_reach()));
    let locked = people.order(people::person_id).select(people::person_id).for_no_key_update();
    let locked: Vec<String> = locked.load(&mut tx.conn()).await?;
    match person_ids.iter().find(|id| !locked.contains(id)) {
        Some(missing) => Err(PERSON.not_found(missing)),
        None => Ok(()),
    }
}
