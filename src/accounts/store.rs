//! Accounts in the database: rows and the words they are found by.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not},
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::Value;

pub use super::value::Status;
use super::{
    refusals::ACCOUNT,
    value::{Address, Contact, Json},
};
use crate::{
    account_types::store::AccountType,
    batch::Ids,
    budget::{self, Weighed},
    db::{AccountRef, BelongsTo, Condition, Event, Tx, WriteTx, snapshot},
    error::{Error, Result},
    id,
    memberships::{
        checks,
        links::Link,
        slots::{self, Contacts, Scope},
        store::Record,
    },
    metadata::Metadata,
    modules,
    organizations::refusals::ORGANIZATION,
    organizations::store::Organization,
    page::{self, By, Listed, Listing, Page, keyset, total},
    people::store::Person,
    schema::{
        account_organizations, account_words, accounts, organization_ancestors, people,
        person_words,
    },
    search::{self, Batch, unnest},
    validate::Period,
};

/// What an account takes in an answer beside its texts.
const ROW: usize = 256;
/// Most primary contacts whom a search of accounts names. Of more, their accounts are so many that
/// the list is found sooner by walking the accounts.
const NAMED: i64 = 1000;

/// The primary account of an organization, if it is not `except`.
macro_rules! primary_of {
    ($organization_id:expr, $except:expr) => {
        accounts::table
            .filter(accounts::organization_id.eq($organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne($except)))
            .select(accounts::account_id)
    };
}

/// An account as it is kept.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
pub struct Account {
    /// Chosen by the caller or generated.
    pub account_id: String,
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
    /// Generated, and never used again, unlike the id.
    #[serde(skip)]
    pub incarnation: String,
    /// The revision and the folding of `sort_key` and words: [`search::stamp`] if they are those of
    /// this version.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of an account that a caller can change.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg), treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Name for people.
    pub display_name: String,
    /// The name without case and accents: the order of lists.
    #[serde(skip)]
    pub sort_key: String,
    /// What the account is about.
    pub description: String,
    /// The organization it belongs to.
    pub organization_id: String,
    /// Its type; `None` is Unassigned.
    pub account_type_id: Option<String>,
    /// Its status.
    pub status: Status,
    /// Why it has that status.
    pub status_reason: String,
    /// The customer's first person to talk to.
    pub primary_contact: Option<Json<Contact>>,
    /// Where invoices go.
    pub billing_address: Option<Json<Address>>,
    /// Where deliveries go.
    pub shipping_address: Option<Json<Address>>,
    /// Where letters go.
    pub postal_address: Option<Json<Address>>,
    /// The registered seat.
    pub official_address: Option<Json<Address>>,
    /// Free text or JSON text for billing.
    pub billing_details: String,
    /// The customer's preferences: a JSON object.
    pub preferences: Option<Value>,
    /// Whether it is its organization's primary account.
    pub is_primary: bool,
    /// Internal remark.
    pub comment: String,
    /// For callers' own use.
    pub metadata: Metadata,
    /// Number under which tax authorities know it; empty for none.
    pub tax_id: String,
    /// The person of the tenant's staff who looks after it.
    pub account_manager_id: Option<String>,
    /// The user who is the primary contact, instead of one named inline.
    pub primary_contact_id: Option<String>,
    /// The user who gets the invoices.
    pub billing_contact_id: Option<String>,
    /// The user who gets copies of the invoices.
    pub cc_billing_contact_id: Option<String>,
}

impl Fields {
    /// Whether there is somebody to turn to, inline or by person.
    pub const fn has_primary_contact(&self) -> bool {
        self.primary_contact.is_some() || self.primary_contact_id.is_some()
    }

    /// Whether they differ from others in the status or its reason, and in nothing else.
    fn differ_in_status_only(&self, others: &Self) -> bool {
        self != others
            && Self {
                status: others.status,
                status_reason: others.status_reason.clone(),
                ..self.clone()
            } == *others
    }

    /// The people in its contact slots.
    fn contacts(&self) -> impl Iterator<Item = &String> {
        [&self.primary_contact_id, &self.billing_contact_id, &self.cc_billing_contact_id]
            .into_iter()
            .flatten()
    }

    /// The same, by slot.
    pub fn slots(&self) -> Contacts {
        [
            self.primary_contact_id.clone(),
            self.billing_contact_id.clone(),
            self.cc_billing_contact_id.clone(),
        ]
    }
}

/// An account as it is shown: with the person who is its primary contact, if there is one.
pub struct Shown(pub Account, pub Option<Person>);

/// Accounts as the trail refers to them: ids and incarnations.
#[derive(Debug)]
pub struct References(BTreeMap<String, String>);

impl References {
    /// The account with this id, which was among those asked for. Fails if there is none: without
    /// its incarnation an event would be shown to nobody with a limited reach.
    pub fn get<'a>(&'a self, account_id: &'a str) -> Result<AccountRef<'a>> {
        let found =
            self.0.get(account_id).map(|incarnation| AccountRef { account_id, incarnation });
        found.ok_or_else(|| {
            Error::internal(format!(
                "an event belongs to account {account_id:?}, which does not exist"
            ))
        })
    }
}

impl Weighed for Account {
    fn weight(&self) -> usize {
        let Fields {
            display_name,
            description,
            organization_id,
            status_reason,
            billing_details,
            comment,
            ..
        } = &self.fields;
        let texts =
            [display_name, description, organization_id, status_reason, billing_details, comment];
        let texts = texts.into_iter().chain([&self.account_id, &self.fields.tax_id]);
        let Fields { billing_address, shipping_address, postal_address, official_address, .. } =
            &self.fields;
        let addresses = [billing_address, shipping_address, postal_address, official_address]
            .into_iter()
            .flatten();
        let contact =
            self.fields.primary_contact.as_ref().map_or(0, |Json(contact)| contact.weight());
        ROW + budget::texts(texts)
            + budget::texts(
                self.fields
                    .contacts()
                    .chain(&self.fields.account_manager_id)
                    .chain(&self.fields.account_type_id),
            )
            + addresses.map(|Json(address)| address.weight()).sum::<usize>()
            + contact
            + self.fields.metadata.weight()
            + self.fields.preferences.as_ref().map_or(0, budget::json)
    }
}

impl Listed for Account {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.account_id)
    }

    fn value(&self, by: By) -> String {
        match by {
            By::DisplayName => self.fields.sort_key.clone(),
            By::CreateTime => page::micros(self.create_time),
            By::UpdateTime => page::micros(self.update_time),
            By::Status => page::status_and_name(self.fields.status.name(), &self.fields.sort_key),
        }
    }
}

/// What an update says of an account's place as a primary account.
#[derive(Debug)]
pub struct Target {
    /// The organization that it names; `None` if that stays.
    pub organization_id: Option<String>,
    /// The primary flag that it names; `None` if that stays.
    pub is_primary: Option<bool>,
}

/// A valid account that is not there yet.
#[derive(Debug)]
pub struct NewAccount {
    /// Its id; `None` to generate one.
    pub account_id: Option<String>,
    /// The rest; without a type it gets the default one.
    pub fields: Fields,
    /// Unassigned on purpose: no type, not even the default.
    pub without_account_type: bool,
}

/// Which accounts a list shows.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only those with one of these; empty for all.
    pub statuses: Vec<Status>,
    /// Only those of this organization.
    pub organization_id: Option<String>,
    /// And of those below it.
    pub include_descendants: bool,
    /// Only those that this person is a user of.
    pub person_id: Option<String>,
    /// Only those with this manager.
    pub account_manager_id: Option<String>,
    /// Only those of this type.
    pub account_type_id: Option<String>,
    /// Only those without a type.
    pub without_account_type: bool,
    /// Only those that are primary accounts, or only those that are not.
    pub is_primary: Option<bool>,
    /// Only those created in this period.
    pub created: Period,
    /// Only those last changed in this period.
    pub updated: Period,
    /// Only those of other organizations that this one is linked to.
    pub linked_organization_id: Option<String>,
    /// Only those with this person as a contact.
    pub contact_id: Option<String>,
    /// Only those with all these entries.
    pub metadata: Metadata,
}

/// A term of a search of accounts: the range of its words, and the primary contacts who have one,
/// if they are few.
#[derive(Debug)]
struct Term {
    from: String,
    to: String,
    contacts: Option<Vec<String>>,
}

impl Term {
    /// That a word of the account begins with the term, or a word of the person who is its primary
    /// contact.
    fn condition(&self) -> Condition<accounts::table> {
        let Self { from, to, contacts } = self;
        let word = account_words::word.ge(from.clone()).and(account_words::word.lt(to.clone()));
        let Some(contacts) = contacts else {
            let own = account_words::table
                .filter(account_words::account_id.eq(accounts::account_id).and(word));
            let contact = person_words::table
                .filter(person_words::person_id.nullable().eq(accounts::primary_contact_id))
                .filter(person_words::word.ge(from.clone()).and(person_words::word.lt(to.clone())));
            return Box::new(exists(own).or(exists(contact)));
        };
        let words = account_words::table.select(account_words::account_id);
        if contacts.is_empty() {
            Box::new(accounts::account_id.eq_any(words.filter(word)))
        } else {
            Box::new(
                accounts::account_id
                    .eq_any(words.filter(word.or(account_words::word.eq_any(contacts.clone())))),
            )
        }
    }
}

impl Filter {
    /// The conditions that need no index of their own order: each finds few accounts, or is looked
    /// up with each account.
    fn conditions(&self) -> Vec<Condition<accounts::table>> {
        let mut conditions: Vec<Condition<accounts::table>> = Vec::new();
        if let Some(person_id) = &self.person_id {
            conditions.push(Account::used_by(person_id));
        }
        if let Some(account_manager_id) = &self.account_manager_id {
            conditions.push(Box::new(
                accounts::account_manager_id.assume_not_null().eq(account_manager_id.clone()),
            ));
        }
        if let Some(account_type_id) = &self.account_type_id {
            conditions.push(Box::new(
                accounts::account_type_id.assume_not_null().eq(account_type_id.clone()),
            ));
        }
        if self.without_account_type {
            conditions.push(Box::new(accounts::account_type_id.is_null()));
        }
        match self.is_primary {
            Some(true) => conditions.push(Box::new(accounts::is_primary)),
            Some(false) => conditions.push(Box::new(not(accounts::is_primary))),
            None => {}
        }
        if let Some(organization_id) = &self.linked_organization_id {
            let linked = account_organizations::table
                .filter(
                    account_organizations::organization_id
                        .eq(organization_id.clone())
                        .and(not(account_organizations::own)),
                )
                .select(account_organizations::account_id);
            conditions.push(Box::new(accounts::account_id.eq_any(linked)));
        }
        if let Some(person_id) = &self.contact_id {
            let primary = accounts::primary_contact_id.assume_not_null().eq(person_id.clone());
            let billing = accounts::billing_contact_id.assume_not_null().eq(person_id.clone());
            let cc = accounts::cc_billing_contact_id.assume_not_null().eq(person_id.clone());
            conditions.push(Box::new(primary.or(billing).or(cc)));
        }
        for entry in self.metadata.words() {
            let found = account_words::table
                .filter(account_words::word.eq(entry))
                .select(account_words::account_id);
            conditions.push(Box::new(accounts::account_id.eq_any(found)));
        }
        conditions
    }
}

impl NewAccount {
    /// Inserts it. Its type is checked or found, and as a primary account it takes the place of the
    /// organization's present one.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Shown> {
        let mut fields = self.fields.clone();
        match &fields.account_type_id {
            Some(id) => AccountType::require_active(tx, id).await?,
            None if self.without_account_type => {}
            None => fields.account_type_id = AccountType::default_id(tx).await?,
        }
        let contacts: Vec<_> = fields.contacts().cloned().collect();
        if fields.is_primary {
            // No account has an empty id.
            Account::lock_with_primary(
                tx,
                self.account_id.as_deref().unwrap_or_default(),
                &fields.organization_id,
            )
            .await?;
        }
        if !contacts.is_empty() {
            Organization::hold_the_forest(tx).await?;
        }
        // Not earlier: the first query has been answered, so the tenant is here.
        Organization::require(tx, &fields.organization_id).await?;
        let account_id = match &self.account_id {
            Some(id) => id.clone(),
            None => id::generate(&tx.tenant().await?.settings.account_id_prefix),
        };
        if fields.is_primary {
            Account::clear_primary(tx, &fields.organization_id, &account_id).await?;
        }
        slots::lock_new(tx, &contacts).await?;
        if let Some(id) = &fields.account_manager_id {
            Person::require_manager(tx, id).await?;
        }
        let account = diesel::insert_into(accounts::table)
            .values((
                accounts::account_id.eq(&account_id),
                accounts::folded.eq(search::stamp(1)),
                &fields,
            ))
            .returning(Account::as_returning())
            .get_result::<Account>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &account_id, &fields))?;
        Link::insert_own(tx, &account.account_id, &fields.organization_id).await?;
        Account::require_contacts(tx, &account.account_id, &contacts).await?;
        account.record(tx, None)?;
        account.insert_words(tx).await?;
        Account::show(tx, account).await
    }
}

impl Account {
    /// The account with this id.
    pub async fn find(tx: &Tx, account_id: &str) -> Result<Self> {
        let account: Self = accounts::table
            .filter(accounts::account_id.eq(account_id).and(tx.accounts_in_reach()))
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ACCOUNT.not_found(account_id))?;
        modules::require(tx, &account.fields.organization_id).await?;
        Ok(account)
    }

    /// The same, held against others who would change it until the transaction ends.
    pub async fn find_for_update(tx: &WriteTx, account_id: &str) -> Result<Self> {
        let account: Self = accounts::table
            .filter(accounts::account_id.eq(account_id).and(tx.accounts_in_reach()))
            .select(Self::as_select())
            .for_update()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ACCOUNT.not_found(account_id))?;
        modules::require(tx, &account.fields.organization_id).await?;
        Ok(account)
    }

    /// The accounts with these ids.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        let query = accounts::table
            .filter(accounts::account_id.eq_any(ids.unique()).and(tx.accounts_in_reach()));
        let rows = query.select(Self::as_select()).load_stream::<Self>(&mut tx.conn()).await?;
        let found = ids.collect(tx, &ACCOUNT, rows).await?;
        modules::require_all(
            tx,
            found.iter().map(|account| account.fields.organization_id.as_str()),
        )
        .await?;
        Ok(found)
    }

    /// One page of accounts, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        if let Some(id) = filter.organization_id.as_deref().filter(|_| filter.include_descendants)
            && !Organization::is_in_reach(tx, id).await?
        {
            return Ok(Listing::default());
        }
        let terms = Self::look_up(tx, &filter.query).await?;
        let below = match &filter.organization_id {
            // Of two subqueries PostgreSQL may take every row of one with every row of the other,
            // so one is asked first.
            Some(id) if filter.include_descendants && !terms.is_empty() => {
                Some(Organization::below(tx, id).await?)
            }
            _ => None,
        };
        for named in [&filter.organization_id, &filter.linked_organization_id] {
            modules::require_named(tx, named.as_deref()).await?;
        }
        let off = modules::off(tx).await?;
        let filtered = |created: Period, updated: Period| {
            let mut query = accounts::table
                .select(Self::as_select())
                .filter(tx.accounts_in_reach())
                .into_boxed();
            for condition in terms.iter().map(Term::condition).chain(filter.conditions()) {
                query = query.filter(condition);
            }
            query = match &*filter.statuses {
                [] => query,
                // An equality keeps the order of the index over status and name.
                [status] => query.filter(accounts::status.eq(*status)),
                statuses => query.filter(accounts::status.eq_any(statuses)),
            };
            query = match (&filter.organization_id, &below) {
                (_, Some(ids)) => query.filter(accounts::organization_id.eq_any(ids)),
                (Some(id), None) if filter.include_descendants => {
                    let below = organization_ancestors::table
                        .filter(organization_ancestors::ancestor_id.eq(id))
                        .select(organization_ancestors::organization_id);
                    query.filter(accounts::organization_id.eq_any(below))
                }
                (Some(id), None) => query.filter(accounts::organization_id.eq(id)),
                (None, None) => query,
            };
            if let Some(start) = created.start {
                query = query.filter(accounts::create_time.ge(start));
            }
            if let Some(end) = created.end {
                query = query.filter(accounts::create_time.lt(end));
            }
            if let Some(start) = updated.start {
                query = query.filter(accounts::update_time.ge(start));
            }
            if let Some(end) = updated.end {
                query = query.filter(accounts::update_time.lt(end));
            }
            if let Some(off) = &off {
                query = query.filter(accounts::organization_id.ne_all(off));
            }
            query
        };
        let total = total!(tx, page, filtered(filter.created, filter.updated));
        let (created, updated) = (
            page.rest_of(filter.created, By::CreateTime),
            page.rest_of(filter.updated, By::UpdateTime),
        );
        let rows = keyset!(filtered(created, updated), page, accounts)
            .load_stream::<Self>(&mut tx.conn())
            .await?;
        page.read(tx, total, rows).await
    }

    /// The terms of a search, each with the primary contacts who have the word.
    ///
    /// Contacts are asked for first. With their ids in hand both are one condition on one table,
    /// and PostgreSQL can begin with the words or with the list, whichever is less; of two
    /// subqueries it would look through all accounts.
    async fn look_up(tx: &Tx, query: &str) -> Result<Vec<Term>> {
        let term = async |(from, to): (String, String)| {
            let contacts = Self::contacts_with_word(tx, &(from.clone(), to.clone())).await?;
            Ok(Term {
                from,
                to,
                contacts: contacts.map(|ids| ids.iter().map(|id| reference_to(id)).collect()),
            })
        };
        try_join_all(search::ranges(query).into_iter().map(term)).await
    }

    /// The people who are primary contacts and have a word in a range, if they are few enough to be
    /// named.
    async fn contacts_with_word(
        tx: &Tx,
        (from, to): &(String, String),
    ) -> Result<Option<BTreeSet<String>>> {
        let of_an_account = accounts::table
            .filter(accounts::tenant_id.eq(tx.tenant_id()))
            .filter(accounts::primary_contact_id.eq(person_words::person_id.nullable()));
        let found: Vec<String> = person_words::table
            .filter(person_words::tenant_id.eq(tx.tenant_id()))
            .filter(person_words::word.ge(from).and(person_words::word.lt(to)))
            .filter(exists(of_an_account))
            .limit(NAMED + 1)
            .select(person_words::person_id)
            .load(&mut tx.conn())
            .await?;
        Ok(i64::try_from(found.len())
            .is_ok_and(|count| count <= NAMED)
            .then(|| found.into_iter().collect()))
    }

    /// Gives the account, which the transaction holds, new fields. Nothing happens if they are the
    /// present ones.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Shown> {
        self.fields.status.require_next(fields.status, &self.account_id)?;
        // Also a type it keeps: an account whose type was deactivated must leave it with its next
        // update. Whoever suspends it need not know a better one.
        if let Some(id) = &fields.account_type_id
            && !fields.differ_in_status_only(&self.fields)
        {
            AccountType::require_active(tx, id).await?;
        }
        if self.fields == *fields {
            return Self::show(tx, self).await;
        }
        let new: Vec<_> = fields
            .contacts()
            .filter(|id| self.fields.contacts().all(|held| held != *id))
            .cloned()
            .collect();
        let moved = self.fields.organization_id != fields.organization_id;
        if moved || !new.is_empty() {
            Organization::hold_the_forest(tx).await?;
        }
        if moved {
            Organization::require(tx, &fields.organization_id).await?;
        }
        if fields.is_primary && (moved || !self.fields.is_primary) {
            Self::clear_primary(tx, &fields.organization_id, &self.account_id).await?;
        }
        slots::lock_new(tx, &new).await?;
        if let Some(id) = fields
            .account_manager_id
            .as_deref()
            .filter(|id| self.fields.account_manager_id.as_deref() != Some(*id))
        {
            Person::require_manager(tx, id).await?;
        }
        let updated = diesel::update(accounts::table)
            .filter(accounts::account_id.eq(&self.account_id))
            .set((
                fields,
                accounts::folded.eq(search::stamp(self.revision + 1)),
                accounts::revision.eq(self.revision + 1),
                accounts::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.account_id, fields))?;
        if moved {
            // After the update, so that those in the slots now are looked after, and not those who
            // were.
            let guard = slots::guard(tx, Scope::Account(&self.account_id)).await?;
            Link::replace_own(tx, updated.reference(), &fields.organization_id).await?;
            Self::require_contacts(tx, &self.account_id, &new).await?;
            guard.settle(tx).await?;
        } else {
            Self::require_contacts(tx, &self.account_id, &new).await?;
        }
        updated.record(tx, Some(&self))?;
        if updated.words() != self.words() || self.folded != search::stamp(self.revision) {
            diesel::delete(
                account_words::table.filter(account_words::account_id.eq(&self.account_id)),
            )
            .execute(&mut tx.conn())
            .await?;
            updated.insert_words(tx).await?;
        }
        Self::show(tx, updated).await
    }

    /// Deletes the account, which the transaction holds FOR UPDATE, for good, with what belongs to
    /// it. Nobody adds to that meanwhile: a new row of it takes the account's.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        // People first, whom others lock before they change what is set for them.
        checks::clear_purchasing_account(tx, self.reference()).await?;
        Record::remove_all_of_account(tx, &self.account_id).await?;
        Link::remove_all(tx, self.reference()).await?;
        diesel::delete(accounts::table.filter(accounts::account_id.eq(&self.account_id)))
            .execute(&mut tx.conn())
            .await?;
        tx.record(Event {
            resource: ACCOUNT.noun,
            id: &self.account_id,
            belongs_to: BelongsTo::Account(self.reference()),
            before: snapshot(&self)?,
            after: None,
        });
        Ok(())
    }

    /// Refuses people, whom the transaction has locked, who may not be contacts of the account.
    async fn require_contacts(tx: &WriteTx, account_id: &str, contacts: &[String]) -> Result<()> {
        for person_id in contacts {
            if let Some(error) = slots::why_not(tx, account_id, person_id).await? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same account, not deleted and not changed in its status until the transaction ends.
    pub async fn find_and_keep(tx: &WriteTx, account_id: &str) -> Result<Self> {
        let account: Self = accounts::table
            .filter(accounts::account_id.eq(account_id).and(tx.accounts_in_reach()))
            .select(Self::as_select())
            .for_share()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ACCOUNT.not_found(account_id))?;
        modules::require(tx, &account.fields.organization_id).await?;
        Ok(account)
    }

    /// The account as the trail refers to it.
    pub fn reference(&self) -> AccountRef<'_> {
        AccountRef { account_id: &self.account_id, incarnation: &self.incarnation }
    }

    /// Accounts, in reach or not, as the trail refers to them.
    pub async fn references(
        tx: &Tx,
        account_ids: impl IntoIterator<Item = &str> + Send,
    ) -> Result<References> {
        let account_ids: Vec<_> = account_ids.into_iter().map(ToOwned::to_owned).collect();
        let found = accounts::table.filter(accounts::account_id.eq_any(account_ids));
        let found = found
            .select((accounts::account_id, accounts::incarnation))
            .load::<(String, String)>(&mut tx.conn())
            .await?;
        Ok(References(found.into_iter().collect()))
    }

    /// The accounts with the people who are their primary contacts, to be shown.
    pub async fn shown(tx: &Tx, rows: Vec<Self>) -> Result<Vec<Shown>> {
        let ids: Vec<_> =
            rows.iter().filter_map(|row| row.fields.primary_contact_id.clone()).collect();
        let mut people = BTreeMap::new();
        if !ids.is_empty() {
            let found =
                people::table.filter(people::person_id.eq_any(ids)).select(Person::as_select());
            for person in found.load::<Person>(&mut tx.conn()).await? {
                people.insert(person.person_id.clone(), person);
            }
        }
        let with = |row: Self| {
            let person =
                row.fields.primary_contact_id.as_ref().and_then(|id| people.get(id).cloned());
            Shown(row, person)
        };
        Ok(rows.into_iter().map(with).collect())
    }

    /// The same for one.
    pub async fn show(tx: &Tx, row: Self) -> Result<Shown> {
        let mut rows = Self::shown(tx, vec![row]).await?;
        rows.pop().ok_or_else(|| Error::internal("one account is shown as none"))
    }

    /// The account with this id, locked as by `find_for_update`, for an update that may make it the
    /// primary account of the organization it then belongs to: the present primary account is
    /// locked with it.
    pub async fn find_for_update_to(
        tx: &WriteTx,
        account_id: &str,
        target: &Target,
    ) -> Result<Self> {
        let own = accounts::table.filter(accounts::account_id.eq(account_id));
        let own = own.select((accounts::organization_id, accounts::is_primary));
        if let Some((organization_id, is_primary)) =
            own.first::<(String, bool)>(&mut tx.conn()).await.optional()?
            && target.is_primary.unwrap_or(is_primary)
        {
            Self::lock_with_primary(
                tx,
                account_id,
                target.organization_id.as_ref().unwrap_or(&organization_id),
            )
            .await?;
        }
        Self::find_for_update(tx, account_id).await
    }

    /// Locks an account and the primary account of an organization in the order of their ids: two
    /// accounts that take each other's place would otherwise each wait for the other. Accounts are
    /// locked before organizations.
    async fn lock_with_primary(
        tx: &WriteTx,
        account_id: &str,
        organization_id: &str,
    ) -> Result<()> {
        let present = primary_of!(organization_id, account_id)
            .first::<String>(&mut tx.conn())
            .await
            .optional()?;
        if let Some(present) = present {
            let both = accounts::table.filter(accounts::account_id.eq_any([account_id, &present]));
            let both = both.order(accounts::account_id).select(accounts::account_id).for_update();
            both.load::<String>(&mut tx.conn()).await?;
        }
        Ok(())
    }

    /// Takes the primary flag from whatever account of the organization has it, unless it is
    /// `except`. Others who want the flag wait for the organization.
    ///
    /// The transaction has locked that account before (`lock_with_primary`). Another one that has
    /// become primary since is not waited for: whoever holds it may wait for the organization. The
    /// work is then tried again.
    async fn clear_primary(tx: &WriteTx, organization_id: &str, except: &str) -> Result<()> {
        Organization::lock(tx, organization_id).await?;
        let present = primary_of!(organization_id, except)
            .for_update()
            .no_wait()
            .first::<String>(&mut tx.conn())
            .await;
        match present.optional().map_err(Error::from) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(Error::Locked) => return Err(Error::Retry),
            Err(error) => return Err(error),
        }
        let cleared = diesel::update(accounts::table)
            .filter(accounts::organization_id.eq(organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne(except)))
            .set((
                accounts::is_primary.eq(false),
                accounts::folded.eq(accounts::folded + search::FOLDINGS),
                accounts::revision.eq(accounts::revision + 1),
                accounts::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_results::<Self>(&mut tx.conn())
            .await?;
        for now in cleared {
            let mut before = now.clone();
            before.fields.is_primary = true;
            now.record(tx, Some(&before))?;
        }
        Ok(())
    }

    /// Renews sort keys and words of the next rows of a tenant behind this id. The connection is
    /// the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(conn, tenant, after, accounts, account_words, account_id, |row| row.fields)
    }

    /// The words of the account, those of its metadata, and a reference to the person who is its
    /// primary contact. It has none of the person's words: those are the person's to change.
    fn words(&self) -> Vec<String> {
        let inline = self
            .fields
            .primary_contact
            .iter()
            .flat_map(|contact| [contact.0.name.as_str(), &contact.0.email]);
        let own = [self.account_id.as_str(), &self.fields.display_name, &self.fields.tax_id];
        let mut words = search::words(own.into_iter().chain(inline));
        words.extend(self.fields.metadata.words());
        words.extend(self.fields.primary_contact_id.as_deref().map(reference_to));
        words
    }

    async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(account_words::table)
            .values(diesel::select((
                self.account_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((account_words::account_id, account_words::word))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    fn record(&self, tx: &WriteTx, before: Option<&Self>) -> Result<()> {
        tx.record(Event {
            resource: ACCOUNT.noun,
            id: &self.account_id,
            belongs_to: BelongsTo::Account(self.reference()),
            before: before.map(snapshot).transpose()?.flatten(),
            after: snapshot(self)?,
        });
        Ok(())
    }
}

/// How the words of an account refer to a person. No word begins with this character.
fn reference_to(person_id: &str) -> String {
    format!("@{person_id}")
}

fn translate(error: DieselError, id: &str, fields: &Fields) -> Error {
    let DieselError::DatabaseError(kind, info) = &error else { return error.into() };
    match (kind, info.constraint_name()) {
        (DatabaseErrorKind::UniqueViolation, Some("accounts_pkey")) => ACCOUNT.id_taken(id),
        (DatabaseErrorKind::ForeignKeyViolation, Some("accounts_organization_fkey")) => {
            ORGANIZATION.not_found(&fields.organization_id)
        }
        _ => error.into(),
    }
}
