//! Memberships in the database: who is a user of an account, through what, and which organizations are linked to it.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{prelude::*, sql_types::Bool};
use diesel_async::RunQueryDsl;
use futures_util::future::{try_join, try_join_all};
use serde::Serialize;
use serde_json::json;

use super::slots::{self, Holder, Scope, Slot};
use crate::{
    accounts::store::Account,
    db::{Event, Tx, WriteTx, snapshot},
    error::{Error, Kind, Result},
    modules,
    organizations::store::Organization,
    page::{Page, keyset},
    people::store::Person,
    schema::{
        account_organizations, account_users, accounts, organization_ancestors, organization_members, organizations, people,
        person_words,
    },
    search,
};

/// The members of organizations with the accounts whose links cover them: each row is a source of membership.
macro_rules! covered {
    () => {{
        use $crate::schema::{account_organizations, organization_ancestors, organization_members};
        organization_members::table
            .inner_join(
                organization_ancestors::table
                    .on(organization_ancestors::organization_id.eq(organization_members::organization_id)),
            )
            .inner_join(
                account_organizations::table.on(account_organizations::organization_id.eq(organization_ancestors::ancestor_id)),
            )
            .filter(organization_ancestors::distance.eq(0).or(account_organizations::include_descendants))
    }};
}
pub(super) use covered;

/// The individual memberships whose dates include today.
macro_rules! individual_today {
    () => {{
        use $crate::schema::account_users;
        account_users::table
            .filter(account_users::individual)
            .filter(account_users::start_date.is_null().or(account_users::start_date.le(today())))
            .filter(account_users::end_date.is_null().or(account_users::end_date.ge(today())))
    }};
}

/// Today, in UTC, which bounds individual memberships.
pub fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// What is set for a person on an account.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Serialize)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg))]
pub struct Record {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// Counts the changes; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
}

/// The fields of a record that a caller can change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize)]
#[diesel(table_name = account_users, check_for_backend(diesel::pg::Pg), treat_none_as_null = true)]
pub struct Fields {
    /// Added by name.
    pub individual: bool,
    /// Roles on the account, in alphabetical order.
    pub roles: Vec<String>,
    /// Gets the invoices.
    pub billing: bool,
    /// First day.
    pub start_date: Option<NaiveDate>,
    /// Last day.
    pub end_date: Option<NaiveDate>,
}

impl Fields {
    /// Whether the person is an individual user on a day.
    pub fn individual_on(&self, day: NaiveDate) -> bool {
        self.individual && self.start_date.is_none_or(|start| start <= day) && self.end_date.is_none_or(|end| end >= day)
    }
}

/// A user of an account, with everything they are one through.
#[derive(Debug, Clone)]
pub struct User {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person: Person,
    /// What is set for them, if anything.
    pub record: Option<Record>,
    /// The organizations they are a member of that links cover.
    pub organization_ids: Vec<String>,
    /// The slots they hold.
    pub slots: Vec<Slot>,
}

impl User {
    /// Whether they were added by name, whatever the dates.
    pub fn is_individual(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.fields.individual)
    }

    /// Whether they are a user today.
    pub fn in_force(&self) -> bool {
        let individually = self.record.as_ref().is_some_and(|record| record.fields.individual_on(today()));
        self.person.fields.active && (individually || !self.organization_ids.is_empty())
    }

    /// Whether they can be removed here.
    pub fn is_removable(&self) -> bool {
        self.is_individual() && (self.slots.is_empty() || !self.organization_ids.is_empty())
    }

    /// The user with this id, or none if nothing makes the person one.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Option<Self>> {
        let person = people::table
            .filter(people::person_id.eq(person_id))
            .select(Person::as_select())
            .first::<Person>(&mut tx.conn())
            .await
            .optional()?;
        let users = Self::complete(tx, account_id, person.into_iter().collect()).await?;
        Ok(users.into_iter().next().filter(|user| user.is_individual() || !user.organization_ids.is_empty()))
    }

    /// People as users of an account.
    async fn complete(tx: &Tx, account_id: &str, people: Vec<Person>) -> Result<Vec<Self>> {
        let ids: Vec<_> = people.iter().map(|person| person.person_id.clone()).collect();
        let (mut records, mut organizations) =
            try_join(records(tx, &[account_id.to_owned()], &ids), sources(tx, &[account_id.to_owned()], &ids)).await?;
        let slots = slots::held_by(tx, &ids).await?;
        let user = |person: Person| {
            let key = (account_id.to_owned(), person.person_id.clone());
            Self {
                account_id: account_id.to_owned(),
                record: records.remove(&key),
                organization_ids: organizations.remove(&key).unwrap_or_default(),
                slots: slots_of(&slots, account_id, &person.person_id),
                person,
            }
        };
        Ok(people.into_iter().map(user).collect())
    }

    /// One page of the users of an account, and the token of the next: those in force, or all that have a source.
    pub async fn list(tx: &Tx, filter: &UserFilter, page: &Page) -> Result<(Vec<Self>, String)> {
        Account::find(tx, &filter.account_id).await?;
        let through =
            covered!().filter(account_organizations::account_id.eq(&filter.account_id)).select(organization_members::person_id);
        let mut query = people::table.select(Person::as_select()).into_boxed();
        for (from, to) in search::ranges(&filter.query) {
            let found = person_words::table
                .filter(person_words::word.ge(from).and(person_words::word.lt(to)))
                .select(person_words::person_id);
            query = query.filter(people::person_id.eq_any(found));
        }
        if filter.show_not_in_force {
            let added = account_users::table
                .filter(account_users::individual)
                .filter(account_users::account_id.eq(&filter.account_id))
                .select(account_users::person_id);
            query = query.filter(people::person_id.eq_any(through).or(people::person_id.eq_any(added)));
        } else {
            let added =
                individual_today!().filter(account_users::account_id.eq(&filter.account_id)).select(account_users::person_id);
            query = query.filter(people::active);
            query = query.filter(people::person_id.eq_any(through).or(people::person_id.eq_any(added)));
        }
        let mut rows = keyset!(query, page, people(sort_key, person_id)).load::<Person>(&mut tx.conn()).await?;
        let next = cut_people(page, &mut rows);
        Ok((Self::complete(tx, &filter.account_id, rows).await?, next))
    }
}

fn cut_people(page: &Page, rows: &mut Vec<Person>) -> String {
    page.cut(rows, |row| (&row.fields.sort_key, row.create_time, &row.person_id))
}

fn slots_of(holders: &[Holder], account_id: &str, person_id: &str) -> Vec<Slot> {
    let theirs = |holder: &&Holder| holder.account_id == account_id && holder.person_id == person_id;
    holders.iter().filter(theirs).map(|holder| holder.slot).collect()
}

/// What is set for these people on these accounts, by account and person.
async fn records(tx: &Tx, account_ids: &[String], person_ids: &[String]) -> Result<BTreeMap<(String, String), Record>> {
    let rows = account_users::table
        .filter(account_users::account_id.eq_any(account_ids).and(account_users::person_id.eq_any(person_ids)))
        .select(Record::as_select())
        .load::<Record>(&mut tx.conn())
        .await?;
    Ok(rows.into_iter().map(|row| ((row.account_id.clone(), row.person_id.clone()), row)).collect())
}

/// The organizations through which these people are users of these accounts, by account and person.
async fn sources(tx: &Tx, account_ids: &[String], person_ids: &[String]) -> Result<BTreeMap<(String, String), Vec<String>>> {
    let rows = covered!()
        .filter(account_organizations::account_id.eq_any(account_ids))
        .filter(organization_members::person_id.eq_any(person_ids))
        .select((account_organizations::account_id, organization_members::person_id, organization_members::organization_id))
        .distinct()
        .order(organization_members::organization_id)
        .load::<(String, String, String)>(&mut tx.conn())
        .await?;
    let mut sources = BTreeMap::<_, Vec<String>>::new();
    for (account_id, person_id, organization_id) in rows {
        sources.entry((account_id, person_id)).or_default().push(organization_id);
    }
    Ok(sources)
}

/// Which users of an account a list shows.
#[derive(Debug)]
pub struct UserFilter {
    /// The account.
    pub account_id: String,
    /// Search terms; empty for all.
    pub query: String,
    /// Also those who are not users today.
    pub show_not_in_force: bool,
}

/// A person to become an individual user.
#[derive(Debug)]
pub struct NewUser {
    /// The account.
    pub account_id: String,
    /// The person.
    pub person_id: String,
    /// What is set for them.
    pub fields: Fields,
}

impl NewUser {
    /// Adds them. For someone who is there through an organization, what was set stays unless something else is given.
    pub async fn insert(&self, tx: &WriteTx) -> Result<User> {
        Account::find_for_update(tx, &self.account_id).await?;
        let person = Person::find_for_update(tx, &self.person_id).await?;
        if !person.fields.active {
            return Err(Error::PersonInactive { person_id: person.person_id });
        }
        let current = Record::find(tx, &self.account_id, &self.person_id).await?;
        let mut fields = self.fields(&tx.tenant().await?.settings.membership_roles)?;
        if let Some(current) = &current {
            if current.fields.individual {
                let (account_id, person_id) = (self.account_id.clone(), self.person_id.clone());
                return Err(Error::AccountUserAlreadyExists { account_id, person_id });
            }
            if fields.roles.is_empty() {
                fields.roles.clone_from(&current.fields.roles);
            }
            fields.billing |= current.fields.billing;
        }
        Record::put(tx, &self.account_id, &self.person_id, current, &fields).await?;
        User::find(tx, &self.account_id, &self.person_id).await?.ok_or_else(|| not_a_user(&self.account_id, &self.person_id))
    }
}

/// The answer to a person who is in no way a user of the account.
pub fn not_a_user(account_id: &str, person_id: &str) -> Error {
    Error::AccountUserNotFound { account_id: account_id.to_owned(), person_id: person_id.to_owned() }
}

impl Record {
    async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Option<Self>> {
        Ok(account_users::table
            .filter(account_users::account_id.eq(account_id).and(account_users::person_id.eq(person_id)))
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?)
    }

    /// Sets what is set for a person, whose account the transaction holds. Nothing happens if it is set already.
    pub async fn put(tx: &WriteTx, account_id: &str, person_id: &str, current: Option<Self>, fields: &Fields) -> Result<()> {
        // Nothing set is what someone without a record has.
        if current.as_ref().map_or_else(Fields::default, |current| current.fields.clone()) == *fields {
            return Ok(());
        }
        let now = if let Some(current) = &current {
            diesel::update(account_users::table)
                .filter(account_users::account_id.eq(account_id).and(account_users::person_id.eq(person_id)))
                .set((fields, account_users::revision.eq(current.revision + 1), account_users::update_time.eq(diesel::dsl::now)))
                .returning(Self::as_returning())
                .get_result::<Self>(&mut tx.conn())
                .await?
        } else {
            diesel::insert_into(account_users::table)
                .values((account_users::account_id.eq(account_id), account_users::person_id.eq(person_id), fields))
                .returning(Self::as_returning())
                .get_result::<Self>(&mut tx.conn())
                .await?
        };
        record(tx, account_id, person_id, current.as_ref(), Some(&now))
    }

    /// Notes that what was set is gone with the last membership.
    pub fn record_end(&self, tx: &WriteTx) -> Result<()> {
        record(tx, &self.account_id, &self.person_id, Some(self), None)
    }

    /// Ends an individual membership, whose account the transaction holds. What is set stays for someone who is also there
    /// through an organization.
    pub async fn remove(tx: &WriteTx, user: &User) -> Result<()> {
        let (account_id, person_id) = (&user.account_id, &user.person.person_id);
        let Some(current) = user.record.clone() else { return Ok(()) };
        if !user.organization_ids.is_empty() {
            let fields = Fields { individual: false, start_date: None, end_date: None, ..current.fields.clone() };
            return Self::put(tx, account_id, person_id, Some(current), &fields).await;
        }
        diesel::delete(account_users::table)
            .filter(account_users::account_id.eq(account_id).and(account_users::person_id.eq(person_id)))
            .execute(&mut tx.conn())
            .await?;
        record(tx, account_id, person_id, Some(&current), None)
    }
}

fn record(tx: &WriteTx, account_id: &str, person_id: &str, before: Option<&Record>, after: Option<&Record>) -> Result<()> {
    let id = format!("{account_id}/{person_id}");
    tx.record(Event {
        resource: "account_user",
        id: &id,
        account_id: Some(account_id),
        before: before.map(snapshot).transpose()?.flatten(),
        after: after.map(snapshot).transpose()?.flatten(),
    });
    Ok(())
}

/// An organization linked to an account.
#[derive(Debug, Clone, Queryable)]
pub struct Link {
    /// The account.
    pub account_id: String,
    /// The organization.
    pub organization_id: String,
    /// Its name.
    pub display_name: String,
    /// Its name without case and accents.
    pub sort_key: String,
    /// Its creation, which lists are ordered by.
    pub organization_create_time: DateTime<Utc>,
    /// Whether it is the organization the account belongs to.
    pub own: bool,
    /// Whether the link covers the organizations below too.
    pub include_descendants: bool,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

type LinkColumns = (
    account_organizations::account_id,
    account_organizations::organization_id,
    organizations::display_name,
    organizations::sort_key,
    organizations::create_time,
    account_organizations::own,
    account_organizations::include_descendants,
    account_organizations::create_time,
    account_organizations::update_time,
);
const LINK: LinkColumns = (
    account_organizations::account_id,
    account_organizations::organization_id,
    organizations::display_name,
    organizations::sort_key,
    organizations::create_time,
    account_organizations::own,
    account_organizations::include_descendants,
    account_organizations::create_time,
    account_organizations::update_time,
);

macro_rules! links {
    ($account_id:expr) => {
        organizations::table
            .inner_join(
                account_organizations::table.on(account_organizations::organization_id.eq(organizations::organization_id)),
            )
            .filter(account_organizations::account_id.eq($account_id))
            .select(LINK)
    };
}

impl Link {
    /// The link, if there is one.
    pub async fn find(tx: &Tx, account_id: &str, organization_id: &str) -> Result<Option<Self>> {
        let query = links!(account_id).filter(account_organizations::organization_id.eq(organization_id));
        Ok(query.first(&mut tx.conn()).await.optional()?)
    }

    /// One page of the links of an account, and the token of the next.
    pub async fn list(tx: &Tx, account_id: &str, page: &Page) -> Result<(Vec<Self>, String)> {
        Account::find(tx, account_id).await?;
        let query = links!(account_id).into_boxed();
        let mut rows = keyset!(query, page, organizations(sort_key, organization_id)).load::<Self>(&mut tx.conn()).await?;
        let next = page.cut(&mut rows, |row| (&row.sort_key, row.organization_create_time, &row.organization_id));
        Ok((rows, next))
    }

    /// Links an organization to an account, or sets what an existing link covers.
    pub async fn put(tx: &WriteTx, account_id: &str, organization_id: &str, include_descendants: bool) -> Result<Self> {
        Account::find_for_update(tx, account_id).await?;
        Organization::find_and_keep(tx, organization_id).await?;
        let before = Self::find(tx, account_id, organization_id).await?;
        if before.as_ref().is_none_or(|before| before.include_descendants != include_descendants) {
            // Only what covers less can cost someone their place.
            let guard = slots::guard(tx, Scope::Account(account_id)).await?;
            diesel::insert_into(account_organizations::table)
                .values((
                    account_organizations::account_id.eq(account_id),
                    account_organizations::organization_id.eq(organization_id),
                    account_organizations::own.eq(false),
                    account_organizations::include_descendants.eq(include_descendants),
                ))
                .on_conflict((
                    account_organizations::tenant_id,
                    account_organizations::account_id,
                    account_organizations::organization_id,
                ))
                .do_update()
                .set((
                    account_organizations::include_descendants.eq(include_descendants),
                    account_organizations::update_time.eq(diesel::dsl::now),
                ))
                .execute(&mut tx.conn())
                .await?;
            guard.settle(tx).await?;
        }
        let after = Self::find(tx, account_id, organization_id).await?;
        let after = after.ok_or_else(|| Error::Internal("a link is gone that was just made".into()))?;
        after.record(tx, before.as_ref(), true);
        Ok(after)
    }

    /// Takes an organization off an account.
    pub async fn remove(tx: &WriteTx, account_id: &str, organization_id: &str) -> Result<()> {
        Account::find_for_update(tx, account_id).await?;
        let ids = || (account_id.to_owned(), organization_id.to_owned());
        let Some(link) = Self::find(tx, account_id, organization_id).await? else {
            let (account_id, organization_id) = ids();
            return Err(Error::OrganizationNotLinked { account_id, organization_id });
        };
        modules::require(tx, organization_id).await?;
        if link.own {
            let (account_id, organization_id) = ids();
            return Err(Error::OwnOrganizationLinked { account_id, organization_id });
        }
        let guard = slots::guard(tx, Scope::Account(account_id)).await?;
        diesel::delete(account_organizations::table)
            .filter(account_organizations::account_id.eq(account_id))
            .filter(account_organizations::organization_id.eq(organization_id))
            .execute(&mut tx.conn())
            .await?;
        guard.settle(tx).await?;
        link.record(tx, Some(&link), false);
        Ok(())
    }

    /// Makes `organization_id` the account's own: always linked, to the extent it was if it was linked already.
    pub async fn own(tx: &WriteTx, account_id: &str, organization_id: &str) -> Result<()> {
        diesel::delete(account_organizations::table)
            .filter(account_organizations::account_id.eq(account_id))
            .filter(account_organizations::own)
            .execute(&mut tx.conn())
            .await?;
        diesel::insert_into(account_organizations::table)
            .values((
                account_organizations::account_id.eq(account_id),
                account_organizations::organization_id.eq(organization_id),
                account_organizations::own.eq(true),
            ))
            .on_conflict((
                account_organizations::tenant_id,
                account_organizations::account_id,
                account_organizations::organization_id,
            ))
            .do_update()
            .set(account_organizations::own.eq(true))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    fn record(&self, tx: &WriteTx, before: Option<&Self>, is_linked: bool) {
        let fields = |link: &Self| json!({ "organization_id": link.organization_id, "include_descendants": link.include_descendants, "own": link.own });
        let id = format!("{}/{}", self.account_id, self.organization_id);
        tx.record(Event {
            resource: "account_organization",
            id: &id,
            account_id: Some(&self.account_id),
            before: before.map(fields),
            after: is_linked.then(|| fields(self)),
        });
    }
}

/// Someone who gets the invoices of an account.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Who.
    pub person: Person,
    /// Whether only as a copy.
    pub copy: bool,
}

impl Recipient {
    /// One page of the recipients, and the token of the next: the billing contacts, and every flagged user in force.
    pub async fn list(tx: &Tx, account_id: &str, page: &Page) -> Result<(Vec<Self>, String)> {
        let account = Account::find(tx, account_id).await?;
        let (to, cc) = (account.fields.billing_contact_id, account.fields.cc_billing_contact_id);
        let contacts: Vec<_> = to.iter().chain(&cc).cloned().collect();
        let flagged = || {
            account_users::table
                .filter(account_users::account_id.eq(account_id))
                .filter(account_users::billing)
                .select(account_users::person_id)
        };
        let through = covered!().filter(account_organizations::account_id.eq(account_id)).select(organization_members::person_id);
        let added = individual_today!().filter(account_users::account_id.eq(account_id)).select(account_users::person_id);
        let in_force = people::active.and(people::person_id.eq_any(through).or(people::person_id.eq_any(added)));
        let query = people::table
            .select(Person::as_select())
            .filter(people::person_id.eq_any(contacts).or(people::person_id.eq_any(flagged()).and(in_force)))
            .into_boxed();
        let mut rows = keyset!(query, page, people(sort_key, person_id)).load::<Person>(&mut tx.conn()).await?;
        let next = cut_people(page, &mut rows);
        let flagged: Vec<String> = flagged().load(&mut tx.conn()).await?;
        let recipient = |person: Person| {
            let copy = to.as_ref() != Some(&person.person_id) && !flagged.contains(&person.person_id);
            Self { person, copy }
        };
        Ok((rows.into_iter().map(recipient).collect(), next))
    }
}

/// An account that a person is a user of.
#[derive(Debug, Clone)]
pub struct PersonAccount {
    /// The account.
    pub account: Account,
    /// What is set for the person there.
    pub record: Option<Record>,
    /// The organizations through which they are a user.
    pub organization_ids: Vec<String>,
    /// The slots they hold there.
    pub slots: Vec<Slot>,
    /// Whether they buy there.
    pub is_purchasing_account: bool,
}

impl PersonAccount {
    /// One page of the accounts a person is a user of today, and the token of the next.
    pub async fn list(tx: &Tx, person_id: &str, page: &Page) -> Result<(Vec<Self>, String)> {
        let person = Person::find(tx, person_id).await?;
        if !person.fields.active {
            return Ok((Vec::new(), String::new()));
        }
        let query = accounts::table.select(Account::as_select()).filter(tx.accounts_in_reach()).into_boxed();
        let mut query = query.filter(Account::used_by(person_id));
        if let Some(off) = modules::off(tx).await? {
            query = query.filter(accounts::organization_id.ne_all(off));
        }
        let mut rows = keyset!(query, page, accounts(sort_key, account_id)).load::<Account>(&mut tx.conn()).await?;
        let next = page.cut(&mut rows, |row| (&row.fields.sort_key, row.create_time, &row.account_id));
        let ids: Vec<_> = rows.iter().map(|account| account.account_id.clone()).collect();
        let person_ids = [person_id.to_owned()];
        let (mut records, mut sources) = try_join(records(tx, &ids, &person_ids), sources(tx, &ids, &person_ids)).await?;
        let slots = slots::held_by(tx, &person_ids).await?;
        let complete = |account: Account| {
            let key = (account.account_id.clone(), person_id.to_owned());
            Self {
                record: records.remove(&key),
                organization_ids: sources.remove(&key).unwrap_or_default(),
                slots: slots_of(&slots, &account.account_id, person_id),
                is_purchasing_account: person.purchasing_account_id.as_ref() == Some(&account.account_id),
                account,
            }
        };
        Ok((rows.into_iter().map(complete).collect(), next))
    }
}

/// A condition on accounts, made of subqueries.
pub type OnAccounts = Box<dyn BoxableExpression<accounts::table, diesel::pg::Pg, SqlType = Bool>>;

impl Account {
    /// Accounts that an active person is a user of today.
    pub fn used_by(person_id: &str) -> OnAccounts {
        let through =
            covered!().filter(organization_members::person_id.eq(person_id.to_owned())).select(account_organizations::account_id);
        let added =
            individual_today!().filter(account_users::person_id.eq(person_id.to_owned())).select(account_users::account_id);
        let active =
            people::table.filter(people::person_id.eq(person_id.to_owned()).and(people::active)).select(people::person_id);
        Box::new(accounts::account_id.eq_any(through).or(accounts::account_id.eq_any(added)).and(diesel::dsl::exists(active)))
    }
}

/// What makes a person a user of an account, or not, and whether they may buy there.
#[derive(Debug, Clone)]
pub struct Check {
    /// Whether the account is ACTIVE.
    pub account_active: bool,
    /// Whether the person is active.
    pub person_active: bool,
    /// Whether the account is the one the person buys on.
    pub purchasing_account: bool,
    /// The individual membership, if there is one.
    pub individual: Option<Fields>,
    /// The organizations through which they are a user.
    pub organization_ids: Vec<String>,
}

impl Check {
    /// Finds out, in one query: a row for each organization of the person and each one above it, of which those count that a
    /// link of the account covers.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Self> {
        if tx.is_limited() {
            Account::find(tx, account_id).await?;
            Person::find(tx, person_id).await?;
        }
        let rows = accounts::table
            .inner_join(people::table.on(people::person_id.eq(person_id.to_owned())))
            .left_join(
                account_users::table.on(account_users::account_id
                    .eq(accounts::account_id)
                    .and(account_users::person_id.eq(people::person_id))
                    .and(account_users::individual)),
            )
            .left_join(organization_members::table.on(organization_members::person_id.eq(people::person_id)))
            .left_join(
                organization_ancestors::table
                    .on(organization_ancestors::organization_id.eq(organization_members::organization_id)),
            )
            .left_join(
                account_organizations::table.on(account_organizations::account_id
                    .eq(accounts::account_id)
                    .and(account_organizations::organization_id.eq(organization_ancestors::ancestor_id))
                    .and(organization_ancestors::distance.eq(0).or(account_organizations::include_descendants))),
            )
            .filter(accounts::account_id.eq(account_id))
            .select((
                accounts::organization_id,
                accounts::status,
                people::active,
                people::purchasing_account_id,
                account_users::individual.nullable(),
                account_users::start_date.nullable(),
                account_users::end_date.nullable(),
                organization_members::organization_id.nullable(),
                account_organizations::organization_id.nullable(),
            ))
            .load::<(
                String,
                crate::accounts::store::Status,
                bool,
                Option<String>,
                Option<bool>,
                Option<NaiveDate>,
                Option<NaiveDate>,
                Option<String>,
                Option<String>,
            )>(&mut tx.conn())
            .await?;
        let Some((organization_id, status, person_active, purchasing, individual, start_date, end_date, ..)) =
            rows.as_slice().first().cloned()
        else {
            // One of them is not there; the rarer way to be told which.
            Account::find(tx, account_id).await?;
            Person::find(tx, person_id).await?;
            return Err(Error::Retry);
        };
        modules::require(tx, &organization_id).await?;
        let mut organization_ids: Vec<_> = rows.into_iter().filter_map(|(.., member_of, link)| link.and(member_of)).collect();
        organization_ids.sort();
        organization_ids.dedup();
        Ok(Self {
            account_active: status == crate::accounts::store::Status::Active,
            person_active,
            purchasing_account: purchasing.as_deref() == Some(account_id),
            individual: individual.map(|individual| Fields { individual, start_date, end_date, ..Fields::default() }),
            organization_ids,
        })
    }

    /// The same for several, all asked in one flight.
    pub async fn find_all(tx: &Tx, pairs: &[(String, String)]) -> Result<Vec<Self>> {
        try_join_all(pairs.iter().map(|(account_id, person_id)| Self::find(tx, account_id, person_id))).await
    }

    /// Whether the person is an individual user today.
    pub fn individual_today(&self) -> bool {
        self.person_active && self.individual.as_ref().is_some_and(|fields| fields.individual_on(today()))
    }

    /// Whether the person is a user today.
    pub fn is_user(&self) -> bool {
        self.person_active && (self.individual_today() || !self.organization_ids.is_empty())
    }

    /// Whether the person may buy: on an ACTIVE account that they are a user of and that is the one they buy on.
    pub fn may_purchase(&self) -> bool {
        self.is_user() && self.account_active && self.purchasing_account
    }
}

/// Sets, or with `None` clears, the account that a person buys on.
pub async fn set_purchasing_account(tx: &WriteTx, person_id: &str, account_id: Option<&str>) -> Result<Person> {
    let person = Person::find_for_update(tx, person_id).await?;
    if let Some(account_id) = account_id {
        let account = Account::find_and_keep(tx, account_id).await?;
        if !person.fields.active {
            return Err(Error::PersonInactive { person_id: person_id.to_owned() });
        }
        if account.fields.status != crate::accounts::store::Status::Active {
            return Err(Error::AccountNotActive { account_id: account_id.to_owned() });
        }
        if !Check::find(tx, account_id, person_id).await?.is_user() {
            let (account_id, person_id) = (account_id.to_owned(), person_id.to_owned());
            return Err(Error::NotAnAccountUser { account_id, person_id });
        }
    }
    if person.purchasing_account_id.as_deref() == account_id {
        return Ok(person);
    }
    diesel::update(people::table.filter(people::person_id.eq(person_id)))
        .set(people::purchasing_account_id.eq(account_id))
        .execute(&mut tx.conn())
        .await?;
    let purchasing = |id: Option<&str>| Some(json!({ "purchasing_account_id": id }));
    tx.record(Event {
        resource: Kind::Person.noun(),
        id: person_id,
        account_id: account_id.or(person.purchasing_account_id.as_deref()),
        before: purchasing(person.purchasing_account_id.as_deref()),
        after: purchasing(account_id),
    });
    Person::find(tx, person_id).await
}
