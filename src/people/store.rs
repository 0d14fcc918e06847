//! People in the database: the rows, and the words that searches find them by.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::{pg::Pg, prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::{
    refusals,
    sources::{MERGED, Members, Merged, Sources},
};
use crate::{
    budget::{self, Weighed},
    change::resource,
    db::{BelongsTo, Condition, Tx, WriteTx, taken},
    error::{Error, Result},
    modules,
    page::{Listed, Listing, Page, keyset, total},
    relations::{
        PersonKind, References,
        members::{self, Member},
        organization, owners, purchasing,
        refusals::person_inactive,
        settings::UserSettings,
        slots::{self, Scope},
    },
    resource::PERSON,
    rows::{by_id, found_by_id, set_row},
    schema::{accounts, organization_members, people, person_words},
    search::{self, Batch, unnest},
};

/// Most accounts that a refusal names: an error travels in headers, where more would not fit.
const NAMED: i64 = 20;
/// Bytes that a person adds to a response besides their texts.
const ROW: usize = 128;

/// Why a limited caller may not change the subject of a person: the caller could assign another
/// person's reach.
const SUBJECT: &str = "the subject of a person decides who reaches what";
/// Why a limited caller may not deactivate or reactivate a person: this ends or restores the
/// person's reach.
const ACTIVE: &str = "deactivating or reactivating a person decides who reaches what";

/// A row of `people`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = people, check_for_backend(Pg))]
pub struct Person {
    /// Chosen by the caller or generated.
    pub person_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// The account they buy on; not covered by the revision.
    #[serde(skip)]
    pub purchasing_account_id: Option<String>,
    /// Each change increases it; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When they were created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When they were last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
    /// Equal to [`search::stamp`] of the revision if this version derived `sort_key` and the words.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of a person that a caller can change.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = people, check_for_backend(Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read.
    pub display_name: String,
    /// The name without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// Email address; empty for none.
    pub email: String,
    /// Phone number as people write it; empty for none.
    pub phone: String,
    /// Whether the person is a customer's or staff.
    pub kind: PersonKind,
    /// The actor of calls that this person makes.
    pub subject: Option<String>,
    /// Whether the person is active.
    pub active: bool,
}

impl Fields {
    /// The words that searches find the person by.
    fn words(&self, person_id: &str) -> Vec<String> {
        search::words([person_id, &self.display_name, &self.email])
    }

    fn is_active(&self, kind: PersonKind) -> bool {
        self.active && self.kind == kind
    }
}

resource!(Person: PERSON, person_id, |_row| BelongsTo::Tenant);

impl Weighed for Person {
    fn weight(&self) -> usize {
        let Fields { display_name, email, phone, subject, .. } = &self.fields;
        let optional = subject.iter().chain(&self.purchasing_account_id);
        ROW + budget::texts(
            [&self.person_id, display_name, email, phone].into_iter().chain(optional),
        )
    }
}

impl Listed for Person {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.person_id)
    }
}

/// A valid person who has not been inserted yet.
#[derive(Debug)]
pub struct NewPerson {
    /// Their id.
    pub person_id: String,
    /// Their other fields.
    pub fields: Fields,
    /// The organization that they become a member of, if any.
    pub organization_id: Option<String>,
}

/// Which people a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only members of this organization.
    pub organization_id: Option<String>,
    /// Whether members of the organizations below it are included.
    pub include_descendants: bool,
    /// Only people of this kind.
    pub kind: Option<PersonKind>,
    /// Only the person with this subject.
    pub subject: Option<String>,
}

impl NewPerson {
    /// Inserts the person with their words and their first membership.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Person> {
        if self.fields.subject.is_some() {
            tx.require_whole_tenant(SUBJECT)?;
        }
        if let Some(id) = &self.organization_id {
            tx.lock_tree_shared().await?;
            organization::keep(tx, id).await?;
        } else {
            tx.require_whole_tenant("a person in no organization is in nobody's reach")?;
        }
        let insert = async {
            let row = diesel::insert_into(people::table)
                .values((
                    tx.owns(people::tenant_id),
                    people::person_id.eq(&self.person_id),
                    people::folded.eq(search::stamp(1)),
                    &self.fields,
                ))
                .returning(Person::as_returning());
            tx.send_returning::<_, Person>(row)
                .await
                .map_err(|error| translate(error, &self.person_id, &self.fields))
        };
        let words = insert_words(tx, &self.person_id, self.fields.words(&self.person_id));
        let (person, ()) = tx.together(insert, words).await?;
        tx.created(&person)?;
        if let Some(organization_id) = &self.organization_id {
            let member = Member { organization_id, person_id: &person.person_id };
            member.insert(tx, &person.fields.sort_key, person.create_time).await?;
        }
        Ok(person)
    }
}

found_by_id!(
    Person: PERSON,
    (people.person_id, people_in_reach),
    (),
    /// Returns the person with this id, for a change of something that refers to them. Locks the
    /// row FOR UPDATE, as [`Person::find_for_update`] does.
    find_and_hold: for_update
);

/// People who are to become account managers, with their kinds and whether they are active.
#[derive(Debug, Default)]
pub struct Managers(BTreeMap<String, (PersonKind, bool)>);

impl Managers {
    /// [`Person::require_manager`] for one of these people.
    pub fn require(&self, person_id: &str) -> Result<()> {
        let found = self.0.get(person_id).ok_or_else(|| PERSON.not_found(person_id))?;
        may_manage(person_id, *found)
    }
}

/// Fails unless a person of this kind, active or not, may be an account manager.
fn may_manage(person_id: &str, found: (PersonKind, bool)) -> Result<()> {
    match found {
        (PersonKind::Customer, _) => Err(refusals::person_not_staff(person_id)),
        (PersonKind::Staff, false) => Err(person_inactive(person_id)),
        (PersonKind::Staff, true) => Ok(()),
    }
}

impl Person {
    /// Returns the person with this id, for a change of that person. Locks the row FOR UPDATE.
    /// Fails if the person is visible to the caller, but the caller is not in charge of them.
    pub async fn find_for_update(tx: &WriteTx, person_id: &str) -> Result<Self> {
        let person = Self::find_and_hold(tx, person_id).await?;
        tx.require_charge_of(person_id).await?;
        Ok(person)
    }

    /// Fails unless the person is an active STAFF member. Locks the row FOR SHARE, so this holds
    /// until commit.
    pub async fn require_manager(tx: &WriteTx, person_id: &str) -> Result<()> {
        let query = by_id!(tx, people.person_id.eq(person_id), people_in_reach);
        let query = query.select((people::kind, people::active)).for_share();
        may_manage(person_id, PERSON.found(person_id, query.first(&mut tx.conn()).await)?)
    }

    /// Locks people FOR SHARE who are to become account managers, in the order of their ids.
    pub async fn managers_among(tx: &WriteTx, ids: &BTreeSet<&str>) -> Result<Managers> {
        if ids.is_empty() {
            return Ok(Managers::default());
        }
        let people = by_id!(tx, people.person_id.eq_any(ids), people_in_reach)
            .order(people::person_id)
            .select((people::person_id, people::kind, people::active))
            .for_share();
        let found = people.load::<(String, PersonKind, bool)>(&mut tx.conn()).await?;
        Ok(Managers(found.into_iter().map(|(id, kind, active)| (id, (kind, active))).collect()))
    }

    /// Locks people as [`Person::find_and_hold`] does, in the order of their ids, so that two
    /// transactions that later lock some of them in another order do not wait for each other.
    pub async fn hold_all(tx: &WriteTx, ids: &BTreeSet<&str>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let people = by_id!(tx, people.person_id.eq_any(ids), people_in_reach)
            .order(people::person_id)
            .select(people::person_id)
            .for_update();
        people.load::<String>(&mut tx.conn()).await?;
        Ok(())
    }

    /// Fails unless the person is a STAFF member, active or not. Locks the row FOR SHARE, so this
    /// holds until commit.
    pub async fn require_staff(tx: &WriteTx, person_id: &str) -> Result<()> {
        let query = by_id!(tx, people.person_id.eq(person_id), people_in_reach);
        let query = query.select(people::kind).for_share();
        match PERSON.found(person_id, query.first(&mut tx.conn()).await)? {
            PersonKind::Customer => Err(refusals::person_not_staff(person_id)),
            PersonKind::Staff => Ok(()),
        }
    }

    /// Returns the conditions of a search of people: one for each of its terms.
    pub fn found_by(tx: &Tx, query: &str) -> Vec<Condition<people::table>> {
        let term = |(from, to): (String, String)| {
            let found = person_words::table
                .filter(tx.owns(person_words::tenant_id))
                .filter(person_words::word.ge(from).and(person_words::word.lt(to)))
                .select(person_words::person_id);
            Box::new(people::person_id.eq_any(found)) as Condition<people::table>
        };
        search::ranges(query).into_iter().map(term).collect()
    }

    /// Returns one page of people.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        if let Some(id) = filter.organization_id.as_deref().filter(|_| tx.is_limited()) {
            // A limited caller must not learn who the members of an organization out of reach are,
            // even of people who are in reach for another reason.
            if !organization::is_in_reach(tx, id).await? {
                return Ok(Listing::default());
            }
            modules::require(tx, id).await?;
        }
        modules::require_named(tx, filter.organization_id.as_deref()).await?;
        let few = tx.few_in_reach().await?;
        let conditions = || {
            let mut conditions = Self::found_by(tx, &filter.query);
            if tx.is_limited() {
                conditions.push(tx.list_people_in_reach(few.as_ref()));
            }
            if let Some(kind) = filter.kind {
                conditions.push(Box::new(people::kind.eq(kind)));
            }
            if let Some(subject) = &filter.subject {
                conditions.push(Box::new(people::subject.assume_not_null().eq(subject.clone())));
            }
            conditions
        };
        let organization_ids = match &filter.organization_id {
            Some(id) if filter.include_descendants => Some(organization::below(tx, id).await?),
            Some(id) => Some(vec![id.clone()]),
            None => None,
        };
        match organization_ids {
            Some(ids) if ids.len() <= MERGED => {
                let sources = Sources::Organizations(&ids);
                let total = Merged::count(tx, sources, conditions, page).await?;
                let members = Members::new(tx, sources, conditions(), page)?;
                page.read(tx, total, members.load_stream::<Self>(&mut tx.conn()).await?).await
            }
            // The members of so many organizations are so many of the tenant's people that
            // PostgreSQL finds the page sooner by testing each person.
            ids => {
                let filtered = || {
                    let mut query = people::table
                        .filter(tx.owns(people::tenant_id))
                        .select(Self::as_select())
                        .into_boxed();
                    for condition in conditions() {
                        query = query.filter(condition);
                    }
                    if let Some(ids) = &ids {
                        let members = organization_members::table
                            .filter(tx.owns(organization_members::tenant_id))
                            .filter(organization_members::organization_id.eq_any(ids))
                            .select(organization_members::person_id);
                        query = query.filter(people::person_id.eq_any(members));
                    }
                    query
                };
                let total = total!(tx, page, filtered());
                let query = keyset!(filtered(), page, people(sort_key, person_id));
                page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
            }
        }
    }

    /// Sets the fields of the person; equal fields change nothing. The caller must hold the row FOR
    /// UPDATE.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        if self.fields == *fields {
            return Ok(self);
        }
        if self.fields.subject != fields.subject {
            tx.require_whole_tenant(SUBJECT)?;
        }
        if self.fields.active != fields.active {
            tx.require_whole_tenant(ACTIVE)?;
        }
        let stops_as = |kind| self.fields.is_active(kind) && !fields.is_active(kind);
        if stops_as(PersonKind::Staff) {
            self.refuse_a_manager(tx).await?;
        }
        let guard = if stops_as(PersonKind::Customer) {
            Some(slots::guard(tx, Scope::Person(&self.person_id)).await?)
        } else {
            None
        };
        let update = async {
            let columns = (fields, people::folded.eq(search::stamp(self.revision + 1)));
            let updated = set_row!(tx, Self: people.person_id(&self.person_id), columns).await;
            updated.map_err(|error| translate(error, &self.person_id, fields))
        };
        let (updated, ()) = tx.together(update, self.renew_words(tx, fields)).await?;
        if let Some(guard) = guard {
            guard.verify(tx).await?;
        }
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the person with their memberships; the opportunities that they own have no owner
    /// then. The caller must hold the row FOR UPDATE. Fails if they manage an account or are in a
    /// contact slot.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        self.refuse_a_manager(tx).await?;
        let slots = slots::held_by(tx, std::slice::from_ref(&self.person_id)).await?;
        if !slots.is_empty() {
            return Err(slots::refusal(tx, slots).await?);
        }
        if let Some(account_id) = &self.purchasing_account_id {
            let accounts = References::find(tx, [account_id.as_str()]).await?;
            purchasing::record_purchasing(tx, &self.person_id, accounts.get(account_id)?, false)?;
        }
        UserSettings::remove_all_of_person(tx, &self.person_id).await?;
        members::remove_from_all(tx, &self.person_id).await?;
        owners::clear(tx, &self.person_id).await?;
        diesel::delete(
            people::table
                .filter(tx.owns(people::tenant_id))
                .filter(people::person_id.eq(&self.person_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        tx.deleted(&self)
    }

    /// Fails if the person manages accounts. The caller must hold the person FOR UPDATE, so that
    /// other transactions that make the person a manager wait.
    async fn refuse_a_manager(&self, tx: &WriteTx) -> Result<()> {
        let managed = || {
            accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .filter(accounts::account_manager_id.eq(&self.person_id))
        };
        let count: i64 = managed().count().get_result(&mut tx.conn()).await?;
        if count == 0 {
            return Ok(());
        }
        let first = managed()
            .filter(tx.accounts_in_reach())
            .order(accounts::sort_key)
            .limit(NAMED)
            .select(accounts::account_id)
            .load(&mut tx.conn())
            .await?;
        Err(refusals::person_in_use(&self.person_id, count, &first))
    }

    /// Renews the sort keys and words of the tenant's next rows, in the order of ids after `after`.
    /// The connection must be the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(conn, tenant, after, people, person_words, person_id, |row| row.fields)
    }

    fn words(&self) -> Vec<String> {
        self.fields.words(&self.person_id)
    }

    /// Replaces the words of the person if the new fields change them or another version derived
    /// them.
    async fn renew_words(&self, tx: &WriteTx, fields: &Fields) -> Result<()> {
        let words = fields.words(&self.person_id);
        if words == self.words() && self.folded == search::stamp(self.revision) {
            return Ok(());
        }
        let delete = async {
            let words =
                diesel::delete(person_words::table.filter(tx.owns(person_words::tenant_id)))
                    .filter(person_words::person_id.eq(&self.person_id));
            tx.send(words).await?;
            Ok(())
        };
        tx.together(delete, insert_words(tx, &self.person_id, words)).await.map(drop)
    }
}

async fn insert_words(tx: &WriteTx, person_id: &str, words: Vec<String>) -> Result<()> {
    let insert = diesel::insert_into(person_words::table)
        .values(diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            person_id.into_sql::<Text>(),
            unnest(words),
        )))
        .into_columns((person_words::tenant_id, person_words::person_id, person_words::word));
    tx.send(insert).await?;
    Ok(())
}

fn translate(error: diesel::result::Error, id: &str, fields: &Fields) -> Error {
    let subject = fields.subject.as_deref().unwrap_or_default();
    let unique = [("people_pkey", "person_id", id), ("people_subject_key", "subject", subject)];
    taken(error, &PERSON, &unique)
}
