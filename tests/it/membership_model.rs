//! Memberships against a naive model of them, under random changes: sets and loops, and the rules
//! of the contract.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike as _, Days, NaiveDate, Utc};
use customer_accounts::proto::{
    Account, AccountStatus, AccountUser, AddAccountUserRequest, BatchCheckMembershipsRequest,
    BillingRecipientKind, CheckMembershipRequest, Contact, CreateOrganizationRequest,
    LinkOrganizationRequest, ListAccountUsersRequest, ListBillingRecipientsRequest,
    ListLinkedOrganizationsRequest, ListPersonAccountsRequest, Organization, Person, PersonKind,
    RemoveAccountUserRequest, SetPurchasingAccountRequest, UnlinkOrganizationRequest,
    UpdateAccountUserRequest, google::r#type::Date,
};
use futures_util::future::join_all;
use tonic::{Status, transport::Channel};

use crate::support::{
    Tenant, account, anybody,
    calls::{mask, only, only_person, person},
    connect,
    dice::{Dice, seed, seed_or, times},
    real_server, refusal, refused, shared, trail,
};

const ORGANIZATIONS: u64 = 5;
const PEOPLE: u64 = 4;
const ACCOUNTS: u64 = 2;
const ROLES: [&str; 3] = ["buyer", "member", "owner"];
/// Histories played at the same time.
const WIDTH: u64 = 8;

/// A day, counted from today.
type Day = i64;

/// What an account names a person.
const SLOTS: [&str; 3] = ["primary_contact", "billing_contact_id", "cc_billing_contact_id"];

/// One call that may change something.
#[derive(Debug, Clone)]
enum Step {
    AddUser {
        account: String,
        person: String,
        set: Set,
    },
    UpdateUser {
        account: String,
        person: String,
        paths: Vec<&'static str>,
        set: Set,
    },
    RemoveUser {
        account: String,
        person: String,
    },
    Link {
        account: String,
        organization: String,
        below: bool,
    },
    Unlink {
        account: String,
        organization: String,
    },
    Join {
        organization: String,
        person: String,
    },
    Leave {
        organization: String,
        person: String,
    },
    CreateOrganization {
        id: String,
        parent: String,
    },
    Move {
        id: String,
        parent: String,
    },
    DeleteOrganization {
        id: String,
    },
    CreatePerson {
        id: String,
    },
    SetActive {
        id: String,
        active: bool,
    },
    SetStaff {
        id: String,
        staff: bool,
    },
    DeletePerson {
        id: String,
    },
    CreateAccount {
        id: String,
        organization: String,
    },
    DeleteAccount {
        id: String,
    },
    /// The organization and the three contacts; what is `None` stays as it is.
    UpdateAccount {
        id: String,
        organization: Option<String>,
        contacts: [Option<String>; 3],
    },
    SetStatus {
        id: String,
        active: bool,
    },
    Purchase {
        person: String,
        account: String,
    },
}

impl Step {
    /// The account that must be there.
    fn account(&self) -> Option<&String> {
        match self {
            Self::AddUser { account, .. }
            | Self::UpdateUser { account, .. }
            | Self::RemoveUser { account, .. }
            | Self::Link { account, .. }
            | Self::Unlink { account, .. } => Some(account),
            Self::UpdateAccount { id, .. }
            | Self::SetStatus { id, .. }
            | Self::DeleteAccount { id } => Some(id),
            Self::Purchase { account, .. } => Some(account).filter(|account| !account.is_empty()),
            _ => None,
        }
    }
}

/// What is set for a person on an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Set {
    roles: BTreeSet<&'static str>,
    billing: bool,
    start: Option<Day>,
    end: Option<Day>,
}

#[derive(Debug, Clone)]
struct Somebody {
    active: bool,
    staff: bool,
    purchasing: String,
}

#[derive(Debug, Clone)]
struct Somewhere {
    organization: String,
    active: bool,
    /// Empty = nobody.
    contacts: [String; 3],
    /// Organization, and whether those below it are covered too; its own among them.
    links: BTreeMap<String, bool>,
}

/// What the service is to know, kept as simply as can be.
#[derive(Debug, Clone, Default)]
struct Model {
    /// Organization and parent (empty at the top).
    parents: BTreeMap<String, String>,
    people: BTreeMap<String, Somebody>,
    /// Organization and person.
    members: BTreeSet<(String, String)>,
    accounts: BTreeMap<String, Somewhere>,
    /// Account and person: those added by name.
    individual: BTreeSet<(String, String)>,
    /// Account and person: what is set for any user.
    set: BTreeMap<(String, String), Set>,
}

/// The reasons of which a refusal must give one, and how many slots it names if it is about those.
type Refusal = (BTreeSet<&'static str>, usize);

fn no(reason: &'static str) -> Refusal {
    ([reason].into(), 0)
}

impl Model {
    /// Whether `organization` lies below `top`, or is it.
    fn within(&self, organization: &str, top: &str) -> bool {
        let mut at = organization;
        loop {
            if at == top {
                return true;
            }
            match self.parents.get(at) {
                Some(parent) if !parent.is_empty() => at = parent,
                _ => return false,
            }
        }
    }

    /// The organizations of a person that a link of the account covers.
    fn through(&self, account: &str, person: &str) -> Vec<String> {
        let mut all = Vec::new();
        let Some(account) = self.accounts.get(account) else { return all };
        for (organization, member) in &self.members {
            let covered = account.links.iter().any(|(linked, below)| {
                linked == organization || (*below && self.within(organization, linked))
            });
            if member == person && covered {
                all.push(organization.clone());
            }
        }
        all
    }

    fn is_individual(&self, account: &str, person: &str) -> bool {
        self.individual.contains(&key(account, person))
    }

    fn set(&self, account: &str, person: &str) -> Set {
        self.set.get(&key(account, person)).cloned().unwrap_or_default()
    }

    fn individual_today(&self, account: &str, person: &str) -> bool {
        let set = self.set(account, person);
        self.is_individual(account, person)
            && set.start.is_none_or(|day| day <= 0)
            && set.end.is_none_or(|day| day >= 0)
    }

    fn has_source(&self, account: &str, person: &str) -> bool {
        self.is_individual(account, person) || !self.through(account, person).is_empty()
    }

    fn in_force(&self, account: &str, person: &str) -> bool {
        let source =
            self.individual_today(account, person) || !self.through(account, person).is_empty();
        self.people[person].active && source
    }

    fn may_purchase(&self, account: &str, person: &str) -> bool {
        self.in_force(account, person)
            && self.people[person].purchasing == account
            && self.accounts[account].active
    }

    /// Why a person cannot be a contact of the account: every reason.
    fn no_contact(&self, account: &str, person: &str) -> BTreeSet<&'static str> {
        let mut why = BTreeSet::new();
        let Some(somebody) = self.people.get(person) else { return ["PERSON_NOT_FOUND"].into() };
        if somebody.staff {
            why.insert("PERSON_NOT_CUSTOMER");
        }
        if !somebody.active {
            why.insert("PERSON_INACTIVE");
        } else if self.through(account, person).is_empty() {
            if !self.individual_today(account, person) {
                why.insert("NOT_AN_ACCOUNT_USER");
            } else if self.set(account, person).end.is_some() {
                why.insert("CONTACT_MEMBERSHIP_ENDS");
            }
        }
        why
    }

    fn is_contact(&self, account: &str, person: &str) -> bool {
        self.accounts[account].contacts.iter().any(|contact| contact == person)
    }

    /// The answer: nothing, or the refusal, after which all is as it was.
    fn take(&mut self, step: &Step) -> Result<(), Refusal> {
        let mut after = self.clone();
        after.change(self, step)?;
        let mut lost = 0;
        for (id, account) in &after.accounts {
            lost += account
                .contacts
                .iter()
                .filter(|contact| !contact.is_empty() && !after.no_contact(id, contact).is_empty())
                .count();
        }
        if lost > 0 {
            return Err((["CONTACT_SLOT_HELD"].into(), lost));
        }
        let gone: Vec<_> = after
            .set
            .keys()
            .filter(|(account, person)| !after.has_source(account, person))
            .cloned()
            .collect();
        for key in gone {
            after.set.remove(&key);
        }
        *self = after;
        Ok(())
    }

    /// Why a call is refused whose account is not there: what else is wrong with it may be found
    /// first.
    fn without_account(&self, step: &Step) -> BTreeSet<&'static str> {
        let mut why = BTreeSet::from(["ACCOUNT_NOT_FOUND"]);
        match step {
            Step::AddUser { person, .. } | Step::Purchase { person, .. } => {
                match self.people.get(person) {
                    None => why.insert("PERSON_NOT_FOUND"),
                    Some(person) => !person.active && why.insert("PERSON_INACTIVE"),
                }
            }
            _ => false,
        };
        why
    }

    #[expect(clippy::too_many_lines, reason = "a case for each call")]
    fn change(&mut self, before: &Self, step: &Step) -> Result<(), Refusal> {
        let organization = |id: &str| {
            if before.parents.contains_key(id) { Ok(()) } else { Err(no("ORGANIZATION_NOT_FOUND")) }
        };
        let somebody = |id: &str| {
            if before.people.contains_key(id) { Ok(()) } else { Err(no("PERSON_NOT_FOUND")) }
        };
        if step.account().is_some_and(|account| !before.accounts.contains_key(account)) {
            return Err((before.without_account(step), 0));
        }
        match step {
            Step::AddUser { account, person, set } => {
                somebody(person)?;
                if !before.people[person].active {
                    return Err(no("PERSON_INACTIVE"));
                }
                if before.is_individual(account, person) {
                    return Err(no("ACCOUNT_USER_ALREADY_EXISTS"));
                }
                let mut set = set.clone();
                let old = before.set(account, person);
                set.billing |= old.billing;
                if set.roles.is_empty() {
                    set.roles = old.roles;
                }
                self.individual.insert(key(account, person));
                self.set.insert(key(account, person), set);
            }
            Step::UpdateUser { account, person, paths, set } => {
                if !before.people.contains_key(person) || !before.has_source(account, person) {
                    return Err(no("ACCOUNT_USER_NOT_FOUND"));
                }
                let mut now = before.set(account, person);
                for path in paths {
                    match *path {
                        "roles" => now.roles.clone_from(&set.roles),
                        "billing" => now.billing = set.billing,
                        "start_date" => now.start = set.start,
                        "end_date" => now.end = set.end,
                        _ => now = set.clone(),
                    }
                }
                let dated = now.start.is_some() || now.end.is_some();
                let reversed = now.start.zip(now.end).is_some_and(|(start, end)| end < start);
                if reversed || (dated && !before.is_individual(account, person)) {
                    return Err(no("INVALID_FIELD"));
                }
                self.set.insert(key(account, person), now);
            }
            Step::RemoveUser { account, person } => {
                if !before.people.contains_key(person) || !before.has_source(account, person) {
                    return Err(no("ACCOUNT_USER_NOT_FOUND"));
                }
                if !self.individual.remove(&key(account, person)) {
                    return Err(no("USER_THROUGH_ORGANIZATION"));
                }
                let set = self.set.get_mut(&key(account, person)).unwrap();
                (set.start, set.end) = (None, None);
            }
            Step::Link { account, organization: id, below } => {
                organization(id)?;
                self.accounts.get_mut(account).unwrap().links.insert(id.clone(), *below);
            }
            Step::Unlink { account, organization } => {
                let account = self.accounts.get_mut(account).unwrap();
                if account.organization == *organization {
                    return Err(no("OWN_ORGANIZATION_LINKED"));
                }
                account.links.remove(organization).ok_or_else(|| no("ORGANIZATION_NOT_LINKED"))?;
            }
            Step::Join { organization: id, person } => {
                organization(id)?;
                somebody(person)?;
                self.members.insert(key(id, person));
            }
            Step::Leave { organization: id, person } => {
                organization(id)?;
                if !self.members.remove(&key(id, person)) {
                    return Err(no("ORGANIZATION_MEMBER_NOT_FOUND"));
                }
            }
            Step::CreateOrganization { id, parent } => {
                if !parent.is_empty() {
                    organization(parent)?;
                }
                if self.parents.insert(id.clone(), parent.clone()).is_some() {
                    return Err(no("ORGANIZATION_ALREADY_EXISTS"));
                }
            }
            Step::Move { id, parent } => {
                organization(id)?;
                if !parent.is_empty() {
                    organization(parent)?;
                    if before.within(parent, id) {
                        return Err(no("ORGANIZATION_CYCLE"));
                    }
                }
                self.parents.insert(id.clone(), parent.clone());
            }
            Step::DeleteOrganization { id } => {
                organization(id)?;
                let linked = before.accounts.values().any(|account| account.links.contains_key(id));
                if linked || before.parents.values().any(|parent| parent == id) {
                    return Err(no("ORGANIZATION_NOT_EMPTY"));
                }
                self.parents.remove(id);
                self.members.retain(|(organization, _)| organization != id);
            }
            Step::CreatePerson { id } => {
                let new = Somebody { active: true, staff: false, purchasing: String::new() };
                if self.people.insert(id.clone(), new).is_some() {
                    return Err(no("PERSON_ALREADY_EXISTS"));
                }
            }
            Step::SetActive { id, active } => {
                somebody(id)?;
                self.people.get_mut(id).unwrap().active = *active;
            }
            Step::SetStaff { id, staff } => {
                somebody(id)?;
                self.people.get_mut(id).unwrap().staff = *staff;
            }
            Step::DeletePerson { id } => {
                somebody(id)?;
                self.people.remove(id);
                self.members.retain(|(_, person)| person != id);
                self.individual.retain(|(_, person)| person != id);
                self.set.retain(|(_, person), _| person != id);
            }
            Step::CreateAccount { id, organization: of } => {
                let taken = before.accounts.contains_key(id).then_some("ACCOUNT_ALREADY_EXISTS");
                let nowhere =
                    (!before.parents.contains_key(of)).then_some("ORGANIZATION_NOT_FOUND");
                let why: BTreeSet<_> = taken.into_iter().chain(nowhere).collect();
                if !why.is_empty() {
                    return Err((why, 0));
                }
                let links = [(of.clone(), false)].into();
                let new = Somewhere {
                    organization: of.clone(),
                    active: true,
                    contacts: Default::default(),
                    links,
                };
                self.accounts.insert(id.clone(), new);
            }
            Step::DeleteAccount { id } => {
                self.accounts.remove(id);
                self.individual.retain(|(account, _)| account != id);
                self.set.retain(|(account, _), _| account != id);
                for person in self.people.values_mut().filter(|person| person.purchasing == *id) {
                    person.purchasing.clear();
                }
            }
            Step::UpdateAccount { id, organization: to, contacts } => {
                let account = self.accounts.get_mut(id).unwrap();
                let mut why = BTreeSet::new();
                if let Some(to) = to {
                    if organization(to).is_err() {
                        why.insert("ORGANIZATION_NOT_FOUND");
                    }
                    if account.organization != *to {
                        account.links.remove(&account.organization);
                        account.links.entry(to.clone()).or_insert(false);
                        account.organization.clone_from(to);
                    }
                }
                for (slot, contact) in account.contacts.iter_mut().zip(contacts) {
                    if let Some(contact) = contact {
                        slot.clone_from(contact);
                    }
                }
                // A contact that this change names can be refused for any reason. A contact that
                // stays can only be lost, as after any other change.
                let mut lost = 0;
                for contact in self.accounts[id].contacts.clone() {
                    let wrong = if contact.is_empty() {
                        BTreeSet::new()
                    } else {
                        self.no_contact(id, &contact)
                    };
                    if before.is_contact(id, &contact) {
                        lost += usize::from(!wrong.is_empty());
                    } else {
                        why.extend(wrong);
                    }
                }
                if !why.is_empty() {
                    if lost > 0 {
                        why.insert("CONTACT_SLOT_HELD");
                    }
                    return Err((why, lost));
                }
            }
            Step::SetStatus { id, active } => self.accounts.get_mut(id).unwrap().active = *active,
            Step::Purchase { person, account } => {
                somebody(person)?;
                if !account.is_empty() {
                    if !before.people[person].active {
                        return Err(no("PERSON_INACTIVE"));
                    }
                    let mut why = BTreeSet::new();
                    if !before.accounts[account].active {
                        why.insert("ACCOUNT_NOT_ACTIVE");
                    }
                    if !before.in_force(account, person) {
                        why.insert("NOT_AN_ACCOUNT_USER");
                    }
                    if !why.is_empty() {
                        return Err((why, 0));
                    }
                }
                self.people.get_mut(person).unwrap().purchasing.clone_from(account);
            }
        }
        Ok(())
    }
}

fn key(one: &str, other: &str) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

fn date(from: NaiveDate, day: Option<Day>) -> Option<Date> {
    let day = day?;
    let days = Days::new(day.unsigned_abs());
    let at =
        if day < 0 { from.checked_sub_days(days) } else { from.checked_add_days(days) }.unwrap();
    let small = |number: u32| i32::try_from(number).unwrap();
    Some(Date { year: at.year(), month: small(at.month()), day: small(at.day()) })
}

fn roll_set(dice: &mut Dice) -> Set {
    let roles = ROLES.into_iter().filter(|_| dice.roll(3) == 0).collect();
    let start = *dice.pick(&[None, None, None, Some(-2), Some(0), Some(1)]);
    let ends: &[_] = if start == Some(1) {
        &[None, Some(1), Some(3)]
    } else {
        &[None, None, None, Some(0), Some(2), Some(-1)]
    };
    let end = *dice.pick(ends);
    // Without a call that is wrong in itself: that is for UpdateAccountUser to find.
    let end = end.filter(|end| start.is_none_or(|start| start <= *end));
    Set { roles, billing: dice.roll(2) == 0, start, end }
}

/// The people who can be a contact of an account.
fn able(model: &Model, account: &str) -> Vec<String> {
    model
        .people
        .keys()
        .filter(|person| model.no_contact(account, person).is_empty())
        .cloned()
        .collect()
}

/// The next thing to try. What others depend on comes more often than what takes it away.
fn roll(dice: &mut Dice, model: &Model) -> Step {
    let organization = format!("o{}", dice.roll(ORGANIZATIONS));
    let other =
        if dice.roll(4) == 0 { String::new() } else { format!("o{}", dice.roll(ORGANIZATIONS)) };
    let person = format!("p{}", dice.roll(PEOPLE));
    let account = format!("a{}", dice.roll(ACCOUNTS));
    // By chance alone most calls would find nothing to take away, and hardly anybody would be a
    // contact.
    let known = |dice: &mut Dice, all: Vec<String>, otherwise: &str| {
        if dice.once_in(4) || all.is_empty() {
            otherwise.to_owned()
        } else {
            dice.pick(&all).clone()
        }
    };
    // Contacts are what most rules are about.
    let contacts = model
        .accounts
        .values()
        .flat_map(|account| &account.contacts)
        .filter(|contact| !contact.is_empty());
    let victim = known(dice, contacts.cloned().collect(), &person);
    match dice.roll(45) {
        0..=4 => Step::AddUser { account, person, set: roll_set(dice) },
        5..=8 => {
            let paths = [
                &["roles"][..],
                &["billing"],
                &["start_date"],
                &["end_date"],
                &["*"],
                &["roles", "billing"],
                &["end_date", "start_date"],
            ];
            let paths = dice.pick(&paths).to_vec();
            Step::UpdateUser { account, person, paths, set: roll_set(dice) }
        }
        9..=10 => {
            let added = model
                .individual
                .iter()
                .filter(|(on, _)| *on == account)
                .map(|(_, person)| person.clone())
                .collect();
            Step::RemoveUser { person: known(dice, added, &person), account }
        }
        11..=14 => Step::Link { account, organization, below: dice.roll(2) == 0 },
        15 | 40 => {
            let linked = model.accounts.get(&account).into_iter().flat_map(|account| {
                let others = account.links.keys().filter(|linked| **linked != account.organization);
                others.cloned()
            });
            let linked = linked.collect();
            Step::Unlink { organization: known(dice, linked, &organization), account }
        }
        16..=20 => Step::Join { organization, person },
        21..=22 => {
            let joined = model
                .members
                .iter()
                .filter(|(_, member)| *member == victim)
                .map(|(joined, _)| joined.clone())
                .collect();
            Step::Leave { organization: known(dice, joined, &organization), person: victim }
        }
        23 => Step::CreateOrganization { id: organization, parent: other },
        24..=25 => Step::Move { id: organization, parent: other },
        26 => Step::DeleteOrganization { id: organization },
        27 => Step::CreatePerson { id: person },
        28 => Step::SetActive { id: victim, active: false },
        29 => Step::SetActive { id: person, active: true },
        30 => Step::SetStaff { id: person, staff: dice.roll(3) > 0 },
        31 => Step::DeletePerson { id: victim },
        32..=35 => {
            let mut contacts = [const { None }; 3];
            for contact in &mut contacts {
                if dice.roll(2) == 0 {
                    let person = format!("p{}", dice.roll(PEOPLE));
                    *contact = Some(if dice.roll(8) == 0 {
                        String::new()
                    } else {
                        known(dice, able(model, &account), &person)
                    });
                }
            }
            // Something must change.
            let moves = dice.roll(3) == 0 || contacts.iter().all(Option::is_none);
            let organization = moves.then_some(organization);
            Step::UpdateAccount { id: account, organization, contacts }
        }
        36 => Step::SetStatus { id: account, active: dice.roll(2) == 0 },
        41 => Step::DeleteAccount { id: account },
        // Not long without it.
        42..=44 => Step::CreateAccount { id: account, organization },
        _ => Step::Purchase {
            person,
            account: if dice.roll(6) == 0 { String::new() } else { account },
        },
    }
}

/// Makes the call of a step to the service.
async fn call(tenant: &Tenant, day: NaiveDate, step: &Step) -> Result<(), Status> {
    let roles = |set: &Set| set.roles.iter().rev().map(ToString::to_string).collect();
    match step.clone() {
        Step::AddUser { account: account_id, person: person_id, set } => {
            let (start_date, end_date) = (date(day, set.start), date(day, set.end));
            let (roles, billing) = (roles(&set), set.billing);
            let request = AddAccountUserRequest {
                account_id,
                person_id,
                roles,
                billing,
                start_date,
                end_date,
                ..Default::default()
            };
            tenant.memberships().add_account_user(request).await.map(drop)
        }
        Step::UpdateUser { account: account_id, person: person_id, paths, set } => {
            let (start_date, end_date) = (date(day, set.start), date(day, set.end));
            let (roles, billing) = (roles(&set), set.billing);
            let user = AccountUser {
                account_id,
                person_id,
                roles,
                billing,
                start_date,
                end_date,
                ..Default::default()
            };
            let request = UpdateAccountUserRequest {
                account_user: Some(user),
                update_mask: mask(&paths),
                ..Default::default()
            };
            tenant.memberships().update_account_user(request).await.map(drop)
        }
        Step::RemoveUser { account: account_id, person: person_id } => {
            let request = RemoveAccountUserRequest { account_id, person_id, ..Default::default() };
            tenant.memberships().remove_account_user(request).await.map(drop)
        }
        Step::Link {
            account: account_id,
            organization: organization_id,
            below: include_descendants,
        } => {
            let request = LinkOrganizationRequest {
                account_id,
                organization_id,
                include_descendants,
                ..Default::default()
            };
            tenant.memberships().link_organization(request).await.map(drop)
        }
        Step::Unlink { account: account_id, organization: organization_id } => {
            let request =
                UnlinkOrganizationRequest { account_id, organization_id, ..Default::default() };
            tenant.memberships().unlink_organization(request).await.map(drop)
        }
        Step::Join { organization, person } => {
            tenant.add_member(&organization, &person).await.map(drop)
        }
        Step::Leave { organization, person } => tenant.remove_member(&organization, &person).await,
        Step::CreateOrganization { id, parent: parent_id } => {
            let new = Organization {
                display_name: id.clone(),
                organization_id: id,
                parent_id,
                ..Default::default()
            };
            let request =
                CreateOrganizationRequest { organization: Some(new), ..Default::default() };
            tenant.organizations().create_organization(request).await.map(drop)
        }
        Step::Move { id, parent } => tenant.move_organization(&id, &parent).await.map(drop),
        Step::DeleteOrganization { id } => tenant.delete_organization(&id, "").await,
        Step::CreatePerson { id } => tenant.try_person(person(&id)).await.map(drop),
        Step::SetActive { id, active } => tenant
            .update_person(Person { active: Some(active), ..only_person(&id) }, &["active"])
            .await
            .map(drop),
        Step::SetStaff { id, staff } => {
            let kind = if staff { PersonKind::Staff } else { PersonKind::Customer };
            tenant
                .update_person(Person { kind: kind.into(), ..only_person(&id) }, &["kind"])
                .await
                .map(drop)
        }
        Step::DeletePerson { id } => tenant.delete_person(&id, "").await,
        Step::CreateAccount { id, organization } => {
            tenant.try_account(account(&id, &organization)).await.map(drop)
        }
        Step::DeleteAccount { id } => tenant.delete(&id, "").await,
        Step::UpdateAccount { id, organization, contacts } => {
            let mut paths = Vec::new();
            for (path, contact) in SLOTS.into_iter().zip(&contacts) {
                paths.extend(contact.as_ref().map(|_| path));
            }
            paths.extend(organization.as_ref().map(|_| "organization_id"));
            let [primary, billing, cc] = contacts.map(Option::unwrap_or_default);
            // An account has a primary contact: in the place of a person comes one given inline.
            let person =
                (!primary.is_empty()).then(|| Contact { person_id: primary, ..Default::default() });
            let primary = person.or_else(anybody);
            let wanted = Account {
                organization_id: organization.unwrap_or_default(),
                primary_contact: primary,
                billing_contact_id: billing,
                cc_billing_contact_id: cc,
                ..only(&id)
            };
            tenant.update(wanted, &paths).await.map(drop)
        }
        Step::SetStatus { id, active } => {
            let status = if active { AccountStatus::Active } else { AccountStatus::Suspended };
            tenant
                .update(Account { status: status.into(), ..only(&id) }, &["status"])
                .await
                .map(drop)
        }
        Step::Purchase { person: person_id, account: account_id } => {
            let request =
                SetPurchasingAccountRequest { person_id, account_id, ..Default::default() };
            tenant.memberships().set_purchasing_account(request).await.map(drop)
        }
    }
}

/// A row of `ListAccountUsers` as it is to be.
fn user(model: &Model, day: NaiveDate, account_id: &str, person_id: &str) -> AccountUser {
    let set = model.set(account_id, person_id);
    let (individual, through) =
        (model.is_individual(account_id, person_id), model.through(account_id, person_id));
    let held = model.accounts[account_id]
        .contacts
        .iter()
        .zip(1..)
        .filter(|(contact, _)| *contact == person_id);
    let contact_slots: Vec<_> = held.map(|(_, slot)| slot).collect();
    AccountUser {
        account_id: account_id.into(),
        person_id: person_id.into(),
        display_name: person_id.into(),
        removable: individual && (contact_slots.is_empty() || !through.is_empty()),
        in_force: model.in_force(account_id, person_id),
        individual,
        organization_ids: through,
        roles: set.roles.iter().map(ToString::to_string).collect(),
        billing: set.billing,
        start_date: date(day, set.start),
        end_date: date(day, set.end),
        contact_slots,
        ..Default::default()
    }
}

/// The numbers of the reasons for both answers of `CheckMembership`.
fn reasons(model: &Model, account: &str, person: &str) -> Vec<i32> {
    let (somebody, set) = (&model.people[person], model.set(account, person));
    let individual = model.is_individual(account, person);
    let through = !model.through(account, person).is_empty();
    let rules = [
        (1, somebody.active && model.individual_today(account, person)),
        (2, somebody.active && through),
        (3, somebody.active && !individual && !through),
        (4, somebody.active && individual && set.start.is_some_and(|day| day > 0)),
        (5, somebody.active && individual && set.end.is_some_and(|day| day < 0)),
        (6, !somebody.active),
        (7, somebody.purchasing == account),
        (8, somebody.purchasing != account),
        (9, !model.accounts[account].active),
    ];
    rules.into_iter().filter(|(_, applies)| *applies).map(|(reason, _)| reason).collect()
}

/// Compares everything that is shown of one account and of one person. Tells false if the day has
/// changed.
async fn compare(
    tenant: &Tenant,
    model: &Model,
    day: NaiveDate,
    dice: &mut Dice,
    at: &str,
) -> bool {
    compare_account(tenant, model, day, dice, at).await
        && compare_checks(tenant, model, day, at).await
        && compare_person(tenant, model, day, dice, at).await
}

async fn compare_account(
    tenant: &Tenant,
    model: &Model,
    day: NaiveDate,
    dice: &mut Dice,
    at: &str,
) -> bool {
    let mut client = tenant.memberships();
    let account_id = format!("a{}", dice.roll(ACCOUNTS));
    let show_not_in_force = dice.roll(3) != 0;
    let ask_users = ListAccountUsersRequest {
        account_id: account_id.clone(),
        show_not_in_force,
        ..Default::default()
    };
    let ask_recipients =
        ListBillingRecipientsRequest { account_id: account_id.clone(), ..Default::default() };
    let ask_links =
        ListLinkedOrganizationsRequest { account_id: account_id.clone(), ..Default::default() };
    let users = client.list_account_users(ask_users).await;
    let recipients = client.list_billing_recipients(ask_recipients).await;
    let links = client.list_linked_organizations(ask_links).await;
    if today() != day {
        return false;
    }
    let Some(account) = model.accounts.get(&account_id) else {
        for reason in [refusal(users), refusal(recipients), refusal(links)] {
            assert_eq!(reason, "ACCOUNT_NOT_FOUND", "{account_id}, {at}");
        }
        return true;
    };
    let users: Vec<_> = users
        .unwrap()
        .into_inner()
        .account_users
        .into_iter()
        .map(|user| AccountUser {
            etag: String::new(),
            create_time: None,
            update_time: None,
            ..user
        })
        .collect();
    let shown = |person: &&String| {
        if show_not_in_force {
            model.has_source(&account_id, person)
        } else {
            model.in_force(&account_id, person)
        }
    };
    // By name, which is the id.
    let wanted: Vec<_> = model
        .people
        .keys()
        .filter(shown)
        .map(|person| user(model, day, &account_id, person))
        .collect();
    assert_eq!(
        users, wanted,
        "users of {account_id}, also not in force: {show_not_in_force}; {at}\n{model:#?}"
    );

    let recipients: Vec<_> = recipients
        .unwrap()
        .into_inner()
        .recipients
        .into_iter()
        .map(|recipient| (recipient.person_id.clone(), recipient.kind()))
        .collect();
    let [_, billing, cc] = &account.contacts;
    let mut wanted = Vec::new();
    for person in model.people.keys() {
        if person == billing
            || (model.set(&account_id, person).billing && model.in_force(&account_id, person))
        {
            wanted.push((person.clone(), BillingRecipientKind::To));
        } else if person == cc {
            wanted.push((person.clone(), BillingRecipientKind::Cc));
        }
    }
    assert_eq!(recipients, wanted, "recipients of {account_id}, {at}\n{model:#?}");

    let links: Vec<_> = links
        .unwrap()
        .into_inner()
        .linked_organizations
        .into_iter()
        .map(|link| (link.organization_id, link.include_descendants, link.own))
        .collect();
    let own = &account.organization;
    let wanted: Vec<_> =
        account.links.iter().map(|(id, below)| (id.clone(), *below, id == own)).collect();
    assert_eq!(links, wanted, "links of {account_id}, {at}\n{model:#?}");
    true
}

async fn compare_checks(tenant: &Tenant, model: &Model, day: NaiveDate, at: &str) -> bool {
    let mut client = tenant.memberships();
    let pairs = model
        .people
        .keys()
        .flat_map(|person| model.accounts.keys().map(move |account| key(account, person)));
    let pairs: Vec<_> = pairs.collect();
    let check = |(account_id, person_id)| CheckMembershipRequest { account_id, person_id };
    let requests: Vec<_> = pairs.iter().cloned().map(check).collect();
    let Some(one) = requests.first().cloned() else { return true };
    let answers = client
        .batch_check_memberships(BatchCheckMembershipsRequest { requests })
        .await
        .unwrap()
        .into_inner()
        .responses;
    let single = [client.check_membership(one).await.unwrap().into_inner()];
    if today() != day {
        return false;
    }
    for ((account, person), answer) in pairs.iter().zip(&answers).chain(pairs.iter().zip(&single)) {
        let through =
            if model.people[person].active { model.through(account, person) } else { Vec::new() };
        let individual = model.people[person].active && model.individual_today(account, person);
        let shown = (
            answer.is_user,
            answer.may_purchase,
            answer.individual,
            answer.organization_ids.clone(),
            answer.reasons.clone(),
        );
        let wanted = (
            model.in_force(account, person),
            model.may_purchase(account, person),
            individual,
            through,
            reasons(model, account, person),
        );
        assert_eq!(shown, wanted, "check of {person} on {account}, {at}\n{model:#?}");
    }
    assert_eq!(answers.len(), pairs.len(), "{at}");
    true
}

async fn compare_person(
    tenant: &Tenant,
    model: &Model,
    day: NaiveDate,
    dice: &mut Dice,
    at: &str,
) -> bool {
    let person_id = format!("p{}", dice.roll(PEOPLE));
    let ask_accounts =
        ListPersonAccountsRequest { person_id: person_id.clone(), ..Default::default() };
    let accounts = tenant.memberships().list_person_accounts(ask_accounts).await;
    if today() != day {
        return false;
    }
    if !model.people.contains_key(&person_id) {
        assert_eq!(refusal(accounts), "PERSON_NOT_FOUND", "accounts of {person_id}, {at}");
        return true;
    }
    let shown: Vec<_> = accounts
        .unwrap()
        .into_inner()
        .accounts
        .into_iter()
        .map(|on| {
            let user = (
                on.individual,
                on.organization_ids,
                on.roles,
                on.billing,
                on.start_date,
                on.end_date,
                on.contact_slots,
            );
            (on.account_id, on.organization_id, on.status, user, on.is_purchasing_account)
        })
        .collect();
    let mut wanted = Vec::new();
    for (id, account) in &model.accounts {
        if model.in_force(id, &person_id) {
            let on = user(model, day, id, &person_id);
            let user = (
                on.individual,
                on.organization_ids,
                on.roles,
                on.billing,
                on.start_date,
                on.end_date,
                on.contact_slots,
            );
            let status =
                if account.active { AccountStatus::Active } else { AccountStatus::Suspended };
            let purchasing = model.people[&person_id].purchasing == *id;
            wanted.push((
                id.clone(),
                account.organization.clone(),
                i32::from(status),
                user,
                purchasing,
            ));
        }
    }
    assert_eq!(shown, wanted, "accounts of {person_id}, {at}\n{model:#?}");
    true
}

/// What a history begins with, besides its organizations: accounts linked to some of them, and
/// people in some.
fn beginning(dice: &mut Dice) -> Vec<Step> {
    let mut steps = Vec::new();
    let organization = |dice: &mut Dice| format!("o{}", dice.roll(ORGANIZATIONS));
    for number in 0..PEOPLE {
        let person = format!("p{number}");
        steps.push(Step::CreatePerson { id: person.clone() });
        steps.extend(
            (dice.roll(3) > 0).then(|| Step::Join { organization: organization(dice), person }),
        );
    }
    for number in 0..ACCOUNTS {
        let account = format!("a{number}");
        steps.push(Step::CreateAccount { id: account.clone(), organization: organization(dice) });
        let below = dice.roll(2) == 0;
        steps.extend((dice.roll(3) > 0).then(|| Step::Link {
            account,
            organization: organization(dice),
            below,
        }));
    }
    steps
}

/// Plays one history; how often each answer came.
async fn play(channel: Channel, seed: u64, steps: usize) -> BTreeMap<String, usize> {
    let tenant = Tenant::on(channel);
    let (mut dice, mut model) = (Dice::seeded(seed), Model::default());
    let mut answers = BTreeMap::new();
    for number in 0..ORGANIZATIONS {
        let parent = if number == 0 || dice.roll(3) == 0 {
            String::new()
        } else {
            format!("o{}", dice.roll(number))
        };
        let id = format!("o{number}");
        tenant.organization(&id, &parent).await;
        model.parents.insert(id, parent);
    }
    for step in beginning(&mut dice) {
        call(&tenant, today(), &step).await.unwrap();
        model.take(&step).unwrap();
    }
    for number in 0..ACCOUNTS {
        let id = format!("a{number}");
        let contacts = SLOTS.map(|_| able(&model, &id).into_iter().find(|_| dice.roll(3) == 0));
        if contacts.iter().any(Option::is_some) {
            let step = Step::UpdateAccount { id, organization: None, contacts };
            call(&tenant, today(), &step).await.unwrap();
            model.take(&step).unwrap();
        }
    }
    // Days count from here; a history that midnight falls into ends there.
    let day = today();
    for number in 0..steps {
        let step = roll(&mut dice, &model);
        let at = format!("seed {seed}, step {number}: {step:?}");
        let answer = call(&tenant, day, &step).await;
        if today() != day {
            break;
        }
        let before = model.clone();
        let (answer, slots) = match answer {
            Ok(()) => ("OK".to_owned(), None),
            Err(status) => {
                let (_, details) = refused(status);
                let info = details.error_info().unwrap();
                (
                    info.reason.clone(),
                    info.metadata.get("slots").map(|slots| slots.parse::<usize>().unwrap()),
                )
            }
        };
        match model.take(&step) {
            Ok(()) => assert_eq!(answer, "OK", "{at}\n{before:#?}"),
            Err((reasons, lost)) => {
                assert!(
                    reasons.contains(&*answer),
                    "{answer} is none of {reasons:?}, {at}\n{before:#?}"
                );
                if let Some(slots) = slots {
                    assert_eq!(slots, lost, "slots, {at}\n{before:#?}");
                }
            }
        }
        *answers.entry(answer).or_default() += 1;
        if (number % 5 == 4 || number + 1 == steps)
            && !compare(&tenant, &model, day, &mut dice, &at).await
        {
            break;
        }
    }
    trail::replay(&tenant).await;
    answers
}

/// Plays histories of consecutive seeds, some at a time; how often each answer came.
async fn play_all(first: u64, count: u64, steps: usize) -> BTreeMap<String, usize> {
    eprintln!("{count} histories of {steps} steps, the first with that seed");
    let players = join_all((0..WIDTH).map(|player| async move {
        let channel = connect(shared().address).await;
        let mut all = BTreeMap::<_, usize>::new();
        for number in (player..count).step_by(usize::try_from(WIDTH).unwrap()) {
            for (answer, times) in play(channel.clone(), first.wrapping_add(number), steps).await {
                *all.entry(answer).or_default() += times;
            }
        }
        all
    }));
    let mut all = BTreeMap::<_, usize>::new();
    for (answer, times) in players.await.into_iter().flatten() {
        *all.entry(answer).or_default() += times;
    }
    eprintln!("{all:?}");
    all
}

#[tokio::test]
async fn memberships_are_like_their_model_whatever_is_done_to_them() {
    let count = if real_server().is_some() { 40 } else { 8 };
    let answers = play_all(seed_or(1), count, 60).await;
    if count < 40 {
        return; // too few to come upon every answer
    }
    for answer in [
        "OK",
        "ACCOUNT_ALREADY_EXISTS",
        "ACCOUNT_NOT_ACTIVE",
        "ACCOUNT_NOT_FOUND",
        "ACCOUNT_USER_ALREADY_EXISTS",
        "ACCOUNT_USER_NOT_FOUND",
        "CONTACT_MEMBERSHIP_ENDS",
        "CONTACT_SLOT_HELD",
        "INVALID_FIELD",
        "NOT_AN_ACCOUNT_USER",
        "ORGANIZATION_NOT_EMPTY",
        "ORGANIZATION_NOT_LINKED",
        "OWN_ORGANIZATION_LINKED",
        "PERSON_INACTIVE",
        "PERSON_NOT_CUSTOMER",
        "PERSON_NOT_FOUND",
        "USER_THROUGH_ORGANIZATION",
    ] {
        assert!(answers.contains_key(answer), "{answer} is never tried: {answers:?}");
    }
}

/// The seed in a failure is that of one history.
#[tokio::test]
async fn memberships_are_like_their_model_in_many_short_histories() {
    let count = times(if real_server().is_some() { 200 } else { 20 });
    play_all(seed(), count, 12).await;
}
