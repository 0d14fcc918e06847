//! Contact slots: primary, billing and CC billing contact of an account, and the promise that their
//! holders stay its users.
//!
//! Whoever may end a membership of a holder first calls [`guard`], which locks the holders' rows in
//! `people`, then makes the change, then calls [`Guard::settle`], which asks whether each holder is
//! still a user and refuses the change if not. Whoever fills a slot locks the person too, so the
//! two cannot pass each other.
//!
//! Whoever adds a source of membership or fills a slot holds the forest
//! (`WriteTx::lock_tree_shared`): a move of an organization finds the people below it and locks
//! them then, and nobody may come to them in between.
//!
//! Rows are locked in this order: accounts, the tenant's row (the forest), organizations, people.
//! Whoever takes the forest for itself locks no account.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    refusals,
    store::{Record, covered},
};
use crate::{
    db::{Tx, WriteTx},
    error::{Error, Result},
    people::refusals::{PERSON, person_inactive},
    people::store::Side,
    schema::{account_users, accounts, organization_ancestors, organization_members, people},
};

/// A place that an account gives to one of its users.
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

/// Someone in a slot of an account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The account.
    pub account_id: String,
    /// The slot.
    pub slot: Slot,
    /// Who holds it.
    pub person_id: String,
}

/// Whose memberships a change may end.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// One person's, on every account.
    Person(&'a str),
    /// Those of one account.
    Account(&'a str),
    /// Those of the members of an organization and everything below it.
    Organization(&'a str),
}

/// The people whom a change must leave users of the accounts that they hold slots of.
#[derive(Debug)]
pub struct Guard<'a> {
    scope: Scope<'a>,
    /// The people locked: those who hold slots, and those who have something set that may have to
    /// go.
    person_ids: Vec<String>,
}

/// Who holds the slots of an account: primary, billing, CC billing contact.
pub type Contacts = [Option<String>; 3];

const SLOTS: [Slot; 3] = [Slot::Primary, Slot::Billing, Slot::CcBilling];

/// The slots that a person holds among these.
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

/// The slots that these people hold, on any account.
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

/// The slots of one account.
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
/// People are found first and locked then, so nobody may join them in between. For an organization
/// the transaction must have taken the forest: whoever adds a member, fills a slot or sets
/// something for a user holds it. For an account it must hold the account.
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
    /// Refuses the change if it has cost a holder their place, and clears away what was set for
    /// people who are no users any more.
    pub async fn settle(self, tx: &WriteTx) -> Result<()> {
        // Asked only now: while this transaction waited for the locks, an account may have emptied
        // a slot.
        let holders = match self.scope {
            Scope::Account(account_id) => held_on(tx, account_id).await?,
            Scope::Person(_) | Scope::Organization(_) => held_by(tx, &self.person_ids).await?,
        };
        let mut lost = Vec::new();
        for holder in holders {
            if why_not(tx, &holder.account_id, &holder.person_id).await?.is_some() {
                lost.push(holder);
            }
        }
        if !lost.is_empty() {
            return Err(refusal(tx, lost).await?);
        }
        let gone = diesel::delete(account_users::table.filter(tx.owns(account_users::tenant_id)))
            .filter(diesel::dsl::not(account_users::individual))
            .filter(diesel::dsl::not(diesel::dsl::exists(
                covered!(tx).filter(
                    crate::schema::account_organizations::account_id
                        .eq(account_users::account_id)
                        .and(organization_members::person_id.eq(account_users::person_id)),
                ),
            )));
        let all = Record::as_returning;
        let gone: Vec<Record> = match self.scope {
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
        Record::record_ends(tx, gone).await
    }
}

/// The refusal of what would cost these holders their place. It names the slots of accounts in the
/// caller's reach, and counts the others with them.
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

/// Why a person may not be a contact of an account, if they may not: a contact is an active person
/// of a customer who is a user through an organization, or individually without an end.
pub async fn why_not(tx: &WriteTx, account_id: &str, person_id: &str) -> Result<Option<Error>> {
    let person = people::table
        .filter(tx.owns(people::tenant_id))
        .filter(people::person_id.eq(person_id))
        .select((people::kind, people::active))
        .first::<(Side, bool)>(&mut tx.conn())
        .await
        .optional()?;
    match person {
        None => return Ok(Some(PERSON.not_found(person_id))),
        Some((Side::Staff, _)) => {
            return Ok(Some(refusals::person_not_customer(person_id)));
        }
        Some((Side::Customer, false)) => {
            return Ok(Some(person_inactive(person_id)));
        }
        Some((Side::Customer, true)) => {}
    }
    let through = covered!(tx)
        .filter(crate::schema::account_organizations::account_id.eq(account_id))
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
        .first::<(bool, Option<chrono::NaiveDate>, Option<chrono::NaiveDate>)>(&mut tx.conn())
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

/// Locks people who are to become contacts. The transaction must hold the forest: a move of an
/// organization could otherwise end the membership of one of them unseen. [`why_not`] judges them
/// once the account is written.
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
