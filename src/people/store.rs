//! People in the database: rows and the words they are found by.

use chrono::{DateTime, Utc};
use diesel::{pg::Pg, prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::refusals::{self, PERSON};
use crate::{
    accounts::store::Account,
    batch::Ids,
    budget::{self, Weighed},
    change::Resource,
    db::{BelongsTo, Condition, Tx, WriteTx, taken},
    enums::text_enum,
    error::{Error, Result},
    memberships::{
        checks,
        slots::{self, Scope},
        sources::{Members, Merged, Sources},
        store::UserSettings,
    },
    modules,
    organizations::{refusals::ORGANIZATION, store::Organization},
    page::{Listed, Listing, Page, keyset, total},
    resource::Kind,
    schema::{accounts, organization_members, people, person_words},
    search::{self, Batch, unnest},
};

/// Most accounts that a refusal names: an error travels in headers, which more would not fit into.
const NAMED: i64 = 20;
/// Most organizations whose members a list merges. Each costs an index look-up a page; of more, the
/// members are so many of the tenant's people that the list is found sooner by walking these.
const MERGED: usize = 200;

/// What a person takes in an answer beside their texts.
const ROW: usize = 128;

/// Why a limited caller may not say which identity is a person: they could take over someone else's
/// reach.
const SUBJECT: &str = "the subject of a person decides who reaches what";
/// Why a limited caller may not deactivate or reactivate a person: it ends or restores that
/// person's reach.
const ACTIVE: &str = "deactivating or reactivating a person decides who reaches what";

text_enum! {
    /// Whose person someone is.
    pub enum Side {
        /// A customer's.
        Customer = "CUSTOMER",
        /// The tenant's own.
        Staff = "STAFF",
    }
}

/// A person as they are kept.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = people, check_for_backend(Pg))]
pub struct Person {
    /// Chosen by the caller or generated.
    pub person_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// The account they buy on; no part of the version.
    #[serde(skip)]
    pub purchasing_account_id: Option<String>,
    /// Counts the changes; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When they were created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When they were last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
    /// The revision and the folding of `sort_key` and words: [`search::stamp`] if they are those of
    /// this version.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of a person that a caller can change.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = people, check_for_backend(Pg), treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Name for people.
    pub display_name: String,
    /// The name without case and accents: the order of lists.
    #[serde(skip)]
    pub sort_key: String,
    /// Email address; empty for none.
    pub email: String,
    /// Phone number as people write it; empty for none.
    pub phone: String,
    /// Whose person it is.
    pub kind: Side,
    /// The caller identity that is this person.
    pub subject: Option<String>,
    /// Whether the person takes part.
    pub active: bool,
}

impl Fields {
    fn is_active(&self, side: Side) -> bool {
        self.active && self.kind == side
    }
}

impl Resource for Person {
    const KIND: Kind = PERSON;

    fn id(&self) -> &str {
        &self.person_id
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Tenant
    }

    fn version(&self) -> (DateTime<Utc>, i64) {
        (self.create_time, self.revision)
    }
}

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

/// A valid person who is not there yet.
#[derive(Debug)]
pub struct NewPerson {
    /// Their id.
    pub person_id: String,
    /// The rest.
    pub fields: Fields,
    /// The organization they belong to from the beginning, if any.
    pub organization_id: Option<String>,
}

/// Which people a list shows.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only members of this organization.
    pub organization_id: Option<String>,
    /// And of those below it.
    pub include_descendants: bool,
    /// Only these.
    pub kind: Option<Side>,
    /// Only the one who is this caller identity.
    pub subject: Option<String>,
}

impl NewPerson {
    /// Inserts them with their words.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Person> {
        if self.fields.subject.is_some() {
            tx.require_whole_tenant(SUBJECT)?;
        }
        let organization = if let Some(id) = &self.organization_id {
            tx.lock_tree_shared().await?;
            Some(Organization::find_and_keep(tx, id).await?)
        } else {
            tx.require_whole_tenant("a person in no organization is in nobody's reach")?;
            None
        };
        let person = diesel::insert_into(people::table)
            .values((
                tx.owns(people::tenant_id),
                people::person_id.eq(&self.person_id),
                people::folded.eq(search::stamp(1)),
                &self.fields,
            ))
            .returning(Person::as_returning())
            .get_result::<Person>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.person_id, &self.fields))?;
        person.insert_words(tx).await?;
        tx.created(&person)?;
        if let Some(organization) = organization {
            organization.insert_member(tx, &person).await?;
        }
        Ok(person)
    }
}

impl Person {
    /// The person with this id.
    pub async fn find(tx: &Tx, person_id: &str) -> Result<Self> {
        people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq(person_id).and(tx.people_in_reach()))
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| PERSON.not_found(person_id))
    }

    /// The people with these ids.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        let query = people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq_any(ids.unique()).and(tx.people_in_reach()));
        let rows = query.select(Self::as_select()).load_stream::<Self>(&mut tx.conn()).await?;
        ids.collect(tx, &PERSON, rows).await
    }

    /// The person with this id, to be changed. Locks the row, so that nobody else changes the
    /// person, or what they may do, until the transaction ends. Fails if the caller sees the person
    /// and is not in charge of them.
    pub async fn find_for_update(tx: &WriteTx, person_id: &str) -> Result<Self> {
        let person = Self::find_and_hold(tx, person_id).await?;
        tx.require_charge_of(person_id).await?;
        Ok(person)
    }

    /// The person with this id, locked like one to be changed, for a change of something else that
    /// they take part in.
    pub async fn find_and_hold(tx: &WriteTx, person_id: &str) -> Result<Self> {
        people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq(person_id).and(tx.people_in_reach()))
            .select(Self::as_select())
            .for_update()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| PERSON.not_found(person_id))
    }

    /// Refuses as an account manager who does not exist, is not STAFF or not active; who is stays
    /// so until the transaction ends.
    pub async fn require_manager(tx: &WriteTx, person_id: &str) -> Result<()> {
        let found = people::table
            .filter(tx.owns(people::tenant_id))
            .filter(people::person_id.eq(person_id).and(tx.people_in_reach()))
            .select((people::kind, people::active))
            .for_share()
            .first::<(Side, bool)>(&mut tx.conn())
            .await
            .optional()?;
        let person_id = person_id.to_owned();
        match found {
            None => Err(PERSON.not_found(&person_id)),
            Some((Side::Customer, _)) => Err(refusals::person_not_staff(&person_id)),
            Some((Side::Staff, false)) => Err(refusals::person_inactive(&person_id)),
            Some((Side::Staff, true)) => Ok(()),
        }
    }

    /// The conditions that a search puts on people: one for each of its terms.
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

    /// One page of people, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        if let Some(id) = filter.organization_id.as_deref().filter(|_| tx.is_limited()) {
            // Who is in an organization out of reach is not to be seen, even of people who are in
            // reach otherwise.
            match Organization::find(tx, id).await {
                Err(error) if ORGANIZATION.is_not_found(&error) => return Ok(Listing::default()),
                found => found?,
            };
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
            Some(id) if filter.include_descendants => Some(Organization::below(tx, id).await?),
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

    /// Gives the person, whom the transaction holds, new fields. Nothing happens if they are the
    /// present ones.
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
        let stops_as = |side| self.fields.is_active(side) && !fields.is_active(side);
        if stops_as(Side::Staff) {
            self.refuse_a_manager(tx).await?;
        }
        let guard = if stops_as(Side::Customer) {
            Some(slots::guard(tx, Scope::Person(&self.person_id)).await?)
        } else {
            None
        };
        let updated = diesel::update(people::table.filter(tx.owns(people::tenant_id)))
            .filter(people::person_id.eq(&self.person_id))
            .set((
                fields,
                people::folded.eq(search::stamp(self.revision + 1)),
                people::revision.eq(self.revision + 1),
                people::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.person_id, fields))?;
        if updated.words() != self.words() || self.folded != search::stamp(self.revision) {
            diesel::delete(
                person_words::table
                    .filter(tx.owns(person_words::tenant_id))
                    .filter(person_words::person_id.eq(&self.person_id)),
            )
            .execute(&mut tx.conn())
            .await?;
            updated.insert_words(tx).await?;
        }
        if let Some(guard) = guard {
            guard.verify(tx).await?;
        }
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the person, whom the transaction holds, with their memberships.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        self.refuse_a_manager(tx).await?;
        let slots = slots::held_by(tx, std::slice::from_ref(&self.person_id)).await?;
        if !slots.is_empty() {
            return Err(slots::refusal(tx, slots).await?);
        }
        if let Some(account_id) = &self.purchasing_account_id {
            let accounts = Account::references(tx, [account_id.as_str()]).await?;
            checks::record_purchasing(tx, &self.person_id, accounts.get(account_id)?, false)?;
        }
        UserSettings::remove_all_of_person(tx, &self.person_id).await?;
        Organization::remove_from_all(tx, &self.person_id).await?;
        diesel::delete(
            people::table
                .filter(tx.owns(people::tenant_id))
                .filter(people::person_id.eq(&self.person_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        tx.deleted(&self)
    }

    /// Refuses what would take the manager away from an account. Whoever makes the person, whom the
    /// transaction holds, a manager meanwhile waits.
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

    /// Renews sort keys and words of the next rows of a tenant behind this id. The connection is
    /// the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(conn, tenant, after, people, person_words, person_id, |row| row.fields)
    }

    fn words(&self) -> Vec<String> {
        search::words([self.person_id.as_str(), &self.fields.display_name, &self.fields.email])
    }

    async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(person_words::table)
            .values(diesel::select((
                tx.tenant_id().into_sql::<Text>(),
                self.person_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((person_words::tenant_id, person_words::person_id, person_words::word))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }
}

fn translate(error: diesel::result::Error, id: &str, fields: &Fields) -> Error {
    let subject = fields.subject.as_deref().unwrap_or_default();
    let unique = [("people_pkey", "person_id", id), ("people_subject_key", "subject", subject)];
    taken(error, &PERSON, &unique)
}
