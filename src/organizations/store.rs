//! Organizations in the database: rows, the table of ancestors, the words they are found by.

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::json;

use super::{
    MAX_DEPTH,
    refusals::{self, ORGANIZATION},
};
use crate::{
    batch::Ids,
    budget::{self, Weighed},
    db::{BelongsTo, Event, Tx, WriteTx, snapshot},
    error::{Error, Result},
    id,
    memberships::slots::{self, Scope},
    metadata::Metadata,
    modules,
    page::{Listed, Listing, Page, keyset, total},
    people::refusals::PERSON,
    people::store::Person,
    schema::{
        account_organizations, accounts, organization_ancestors, organization_members,
        organization_words, organizations, people, tenants,
    },
    search::{self, Batch, unnest},
};

/// The columns of an ancestor.
const ANCESTOR: (
    organization_ancestors::organization_id,
    organization_ancestors::ancestor_id,
    organization_ancestors::distance,
) = (
    organization_ancestors::organization_id,
    organization_ancestors::ancestor_id,
    organization_ancestors::distance,
);

/// Why a limited caller may not move an organization.
const LEAVES: &str = "the organization would leave a parent, or the top, that you do not reach";
/// What an organization takes in an answer beside its texts.
const ROW: usize = 128;

/// An organization as it is kept.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = organizations, check_for_backend(diesel::pg::Pg))]
pub struct Organization {
    /// Chosen by the caller or generated.
    pub organization_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// The organization above, if any.
    pub parent_id: Option<String>,
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

/// The fields of an organization that a caller can change; its place in the forest is changed by a
/// move.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = organizations, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Fields {
    /// Name for people.
    pub display_name: String,
    /// The name without case and accents: the order of lists.
    #[serde(skip)]
    pub sort_key: String,
    /// For callers' own use.
    pub metadata: Metadata,
}

impl Weighed for Organization {
    fn weight(&self) -> usize {
        let texts = [&self.organization_id, &self.fields.display_name];
        ROW + budget::texts(texts.into_iter().chain(&self.parent_id))
            + self.fields.metadata.weight()
    }
}

impl Listed for Organization {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.organization_id)
    }
}

/// A valid organization that is not there yet.
#[derive(Debug)]
pub struct NewOrganization {
    /// Its id.
    pub organization_id: String,
    /// What a caller can change.
    pub fields: Fields,
    /// The organization above, if any.
    pub parent_id: Option<String>,
}

/// Which organizations a list shows.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only those directly below this one.
    pub parent_id: Option<String>,
    /// Only those below none that the caller sees.
    pub roots_only: bool,
    /// Only those that this person is a member of.
    pub person_id: Option<String>,
    /// Only those with all these entries.
    pub metadata: Metadata,
}

impl NewOrganization {
    /// Inserts it below its parent, with its ancestors and words.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Organization> {
        if let Some(parent_id) = &self.parent_id {
            Organization::hold_the_forest(tx).await?;
            Organization::require(tx, parent_id).await?;
            Organization::require_room(tx, parent_id, 1).await?;
        } else {
            tx.require_whole_tenant("an organization without a parent begins a new tree")?;
        }
        let organization = diesel::insert_into(organizations::table)
            .values((
                organizations::organization_id.eq(&self.organization_id),
                &self.fields,
                organizations::folded.eq(search::stamp(1)),
                organizations::parent_id.eq(&self.parent_id),
            ))
            .returning(Organization::as_returning())
            .get_result(&mut tx.conn())
            .await
            .map_err(|error| self.translate(error))?;
        self.insert_ancestors(tx).await?;
        organization.insert_words(tx).await?;
        organization.record(tx, None)?;
        Ok(organization)
    }

    async fn insert_ancestors(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(organization_ancestors::table)
            .values((
                organization_ancestors::organization_id.eq(&self.organization_id),
                organization_ancestors::ancestor_id.eq(&self.organization_id),
                organization_ancestors::distance.eq(0),
            ))
            .execute(&mut tx.conn())
            .await?;
        let Some(parent_id) = &self.parent_id else { return Ok(()) };
        let above = organization_ancestors::table
            .filter(organization_ancestors::organization_id.eq(parent_id))
            .select((
                self.organization_id.as_str().into_sql::<Text>(),
                organization_ancestors::ancestor_id,
                organization_ancestors::distance + 1,
            ));
        diesel::insert_into(organization_ancestors::table)
            .values(above)
            .into_columns(ANCESTOR)
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    fn translate(&self, error: DieselError) -> Error {
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info)
                if info.constraint_name() == Some("organizations_pkey") =>
            {
                ORGANIZATION.id_taken(&self.organization_id)
            }
            _ => error.into(),
        }
    }
}

impl Organization {
    /// The organization with this id.
    pub async fn find(tx: &Tx, organization_id: &str) -> Result<Self> {
        let organization: Self = organizations::table
            .filter(
                organizations::organization_id.eq(organization_id).and(tx.organizations_in_reach()),
            )
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ORGANIZATION.not_found(organization_id))?;
        modules::require(tx, organization_id).await?;
        Ok(organization)
    }

    /// The organizations with these ids.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        let query =
            organizations::table.filter(organizations::organization_id.eq_any(ids.unique()));
        let query = query.filter(tx.organizations_in_reach()).select(Self::as_select());
        let found = ids
            .collect(tx, &ORGANIZATION, query.load_stream::<Self>(&mut tx.conn()).await?)
            .await?;
        modules::require_all(
            tx,
            found.iter().map(|organization| organization.organization_id.as_str()),
        )
        .await?;
        Ok(found)
    }

    /// The same, held against others who would change or delete it until the transaction ends.
    pub async fn find_for_update(tx: &WriteTx, organization_id: &str) -> Result<Self> {
        let organization: Self = organizations::table
            .filter(
                organizations::organization_id.eq(organization_id).and(tx.organizations_in_reach()),
            )
            .select(Self::as_select())
            .for_update()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ORGANIZATION.not_found(organization_id))?;
        modules::require(tx, organization_id).await?;
        Ok(organization)
    }

    /// The same, which is not deleted until the transaction ends.
    pub async fn find_and_keep(tx: &WriteTx, organization_id: &str) -> Result<Self> {
        let organization: Self = organizations::table
            .filter(
                organizations::organization_id.eq(organization_id).and(tx.organizations_in_reach()),
            )
            .select(Self::as_select())
            .for_key_share()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| ORGANIZATION.not_found(organization_id))?;
        modules::require(tx, organization_id).await?;
        Ok(organization)
    }

    /// Refuses an organization for something to be bound to: one that the caller does not see, or
    /// for which the module of the call is off. For who sees the whole tenant, that it exists is
    /// for a foreign key to say.
    pub async fn require(tx: &WriteTx, organization_id: &str) -> Result<()> {
        if tx.is_limited() {
            Self::find_and_keep(tx, organization_id).await?;
            return Ok(());
        }
        modules::require(tx, organization_id).await
    }

    /// Holds the organization against others who lock it, until the transaction ends; whoever
    /// changes what only one of its accounts can be does this first.
    pub async fn lock(tx: &WriteTx, organization_id: &str) -> Result<()> {
        organizations::table
            .filter(organizations::organization_id.eq(organization_id))
            .select(organizations::organization_id)
            .for_no_key_update()
            .first::<String>(&mut tx.conn())
            .await
            .optional()?
            .map(|_| ())
            .ok_or_else(|| ORGANIZATION.not_found(organization_id))
    }

    /// Whether the organization is in the caller's reach. A list of what is below one that is not
    /// is empty, as if there were no such organization.
    pub async fn is_in_reach(tx: &Tx, organization_id: &str) -> Result<bool> {
        if !tx.is_limited() {
            return Ok(true);
        }
        let found = organizations::table
            .filter(
                organizations::organization_id.eq(organization_id).and(tx.organizations_in_reach()),
            )
            .select(organizations::organization_id);
        Ok(found.first::<String>(&mut tx.conn()).await.optional()?.is_some())
    }

    /// The ids of the organization and of all below it; none if it does not exist.
    pub async fn below(tx: &Tx, organization_id: &str) -> Result<Vec<String>> {
        let below = organization_ancestors::table
            .filter(organization_ancestors::ancestor_id.eq(organization_id));
        Ok(below.select(organization_ancestors::organization_id).load(&mut tx.conn()).await?)
    }

    /// One page of organizations, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        modules::require_named(tx, filter.parent_id.as_deref()).await?;
        let off = modules::off(tx).await?;
        let filtered = || {
            let mut query = organizations::table
                .select(Self::as_select())
                .filter(tx.organizations_in_reach())
                .into_boxed();
            let words = || organization_words::table.select(organization_words::organization_id);
            for (from, to) in search::ranges(&filter.query) {
                let found = words()
                    .filter(organization_words::word.ge(from).and(organization_words::word.lt(to)));
                query = query.filter(organizations::organization_id.eq_any(found));
            }
            for entry in filter.metadata.words() {
                let found = words().filter(organization_words::word.eq(entry));
                query = query.filter(organizations::organization_id.eq_any(found));
            }
            if let Some(parent_id) = &filter.parent_id {
                query = query.filter(organizations::parent_id.eq(parent_id));
            }
            if filter.roots_only {
                query = query.filter(tx.topmost_in_reach());
            }
            if let Some(person_id) = &filter.person_id {
                let of_person = organization_members::table
                    .filter(organization_members::person_id.eq(person_id))
                    .select(organization_members::organization_id);
                query = query.filter(organizations::organization_id.eq_any(of_person));
            }
            if let Some(off) = &off {
                query = query.filter(organizations::organization_id.ne_all(off));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = keyset!(filtered(), page, organizations(sort_key, organization_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }

    /// Gives the organization, which the transaction holds, new fields. Nothing happens if they are
    /// the present ones.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        if self.fields == *fields {
            return Ok(self);
        }
        let updated = diesel::update(organizations::table)
            .filter(organizations::organization_id.eq(&self.organization_id))
            .set((
                fields,
                organizations::folded.eq(search::stamp(self.revision + 1)),
                organizations::revision.eq(self.revision + 1),
                organizations::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await?;
        diesel::delete(
            organization_words::table
                .filter(organization_words::organization_id.eq(&self.organization_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        updated.insert_words(tx).await?;
        updated.record(tx, Some(&self))?;
        Ok(updated)
    }

    /// Puts the organization, which the transaction holds together with the forest, below
    /// `parent_id` or at the top, with everything below it. Nothing happens if it is there already.
    pub async fn put_below(self, tx: &WriteTx, parent_id: Option<&str>) -> Result<Self> {
        if self.parent_id.as_deref() == parent_id {
            return Ok(self);
        }
        match parent_id {
            Some(parent_id) => Self::require(tx, parent_id).await?,
            None => {
                tx.require_whole_tenant("an organization without a parent begins a new tree")?;
            }
        }
        // Else those above would lose the organization, and it would lose the modules that they
        // have set. No id is empty.
        tx.require_organization_in_reach(self.parent_id.as_deref().unwrap_or_default(), LEAVES)
            .await?;
        let below = || {
            organization_ancestors::table
                .filter(organization_ancestors::ancestor_id.eq(&self.organization_id))
        };
        if let Some(parent_id) = parent_id {
            let cycle = below().filter(organization_ancestors::organization_id.eq(parent_id));
            if diesel::select(diesel::dsl::exists(cycle)).get_result(&mut tx.conn()).await? {
                return Err(refusals::organization_cycle(&self.organization_id, parent_id));
            }
            let height = below().select(diesel::dsl::max(organization_ancestors::distance));
            let height =
                height.get_result::<Option<i32>>(&mut tx.conn()).await?.unwrap_or_default();
            Self::require_room(tx, parent_id, i64::from(height) + 1).await?;
        }
        let guard = slots::guard(tx, Scope::Organization(&self.organization_id)).await?;
        let moved: Vec<String> =
            below().select(organization_ancestors::organization_id).load(&mut tx.conn()).await?;
        diesel::delete(organization_ancestors::table)
            .filter(organization_ancestors::organization_id.eq_any(&moved))
            .filter(organization_ancestors::ancestor_id.ne_all(&moved))
            .execute(&mut tx.conn())
            .await?;
        if let Some(parent_id) = parent_id {
            let above = diesel::alias!(organization_ancestors as above);
            // Each of those moved, with each at or above the parent.
            let pairs = organization_ancestors::table
                .inner_join(
                    above.on(above.field(organization_ancestors::organization_id).eq(parent_id)),
                )
                .filter(organization_ancestors::ancestor_id.eq(&self.organization_id))
                .select((
                    organization_ancestors::organization_id,
                    above.field(organization_ancestors::ancestor_id),
                    organization_ancestors::distance
                        + above.field(organization_ancestors::distance)
                        + 1,
                ));
            diesel::insert_into(organization_ancestors::table)
                .values(pairs)
                .into_columns(ANCESTOR)
                .execute(&mut tx.conn())
                .await?;
        }
        let moved = diesel::update(organizations::table)
            .filter(organizations::organization_id.eq(&self.organization_id))
            .set((
                organizations::parent_id.eq(parent_id),
                organizations::folded.eq(organizations::folded + search::FOLDINGS),
                organizations::revision.eq(organizations::revision + 1),
                organizations::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await?;
        guard.settle(tx).await?;
        moved.record(tx, Some(&self))?;
        Ok(moved)
    }

    /// Deletes the organization, which the transaction holds together with the forest, for good.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        let children: i64 = organizations::table
            .filter(organizations::parent_id.eq(&self.organization_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        let accounts: i64 = accounts::table
            .filter(accounts::organization_id.eq(&self.organization_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        // Those of accounts that belong to it are counted with them.
        let links: i64 = account_organizations::table
            .filter(account_organizations::organization_id.eq(&self.organization_id))
            .filter(diesel::dsl::not(account_organizations::own))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        if children + accounts + links > 0 {
            let id = &self.organization_id;
            return Err(refusals::organization_not_empty(id, children, accounts, links));
        }
        let guard = slots::guard(tx, Scope::Organization(&self.organization_id)).await?;
        // Nobody adds to them any more: that takes the organization's row.
        let mut members: Vec<String> = diesel::delete(organization_members::table)
            .filter(organization_members::organization_id.eq(&self.organization_id))
            .returning(organization_members::person_id)
            .get_results(&mut tx.conn())
            .await?;
        members.sort();
        for person_id in members {
            record_member(tx, &self.organization_id, &person_id, false);
        }
        modules::inherit_all(tx, &self.organization_id).await?;
        diesel::delete(
            organizations::table.filter(organizations::organization_id.eq(&self.organization_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        guard.settle(tx).await?;
        tx.record(Event {
            resource: ORGANIZATION.noun,
            id: &self.organization_id,
            belongs_to: BelongsTo::Organization { incarnation: &self.incarnation },
            before: snapshot(&self)?,
            after: None,
        });
        Ok(())
    }

    /// Makes a person a member. Nothing happens if they are one. The transaction must hold the
    /// forest.
    pub async fn add_member(&self, tx: &WriteTx, person_id: &str) -> Result<Person> {
        // Held, so that neither is deleted meanwhile, nor the person's place in lists changed.
        let person = people::table
            .filter(people::person_id.eq(person_id).and(tx.people_in_reach()))
            .select(Person::as_select())
            .for_key_share()
            .first::<Person>(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| PERSON.not_found(person_id))?;
        tx.require_member_in_reach(person_id).await?;
        self.insert_member(tx, &person).await?;
        Ok(person)
    }

    /// The same with a person whom the transaction holds.
    pub async fn insert_member(&self, tx: &WriteTx, person: &Person) -> Result<()> {
        let added = diesel::insert_into(organization_members::table)
            .values((
                organization_members::organization_id.eq(&self.organization_id),
                organization_members::person_id.eq(&person.person_id),
                organization_members::sort_key.eq(&person.fields.sort_key),
                organization_members::person_create_time.eq(person.create_time),
            ))
            .on_conflict_do_nothing()
            .execute(&mut tx.conn())
            .await?;
        if added > 0 {
            record_member(tx, &self.organization_id, &person.person_id, true);
        }
        Ok(())
    }

    /// Takes a member out.
    pub async fn remove_member(&self, tx: &WriteTx, person_id: &str) -> Result<()> {
        let guard = slots::guard(tx, Scope::Person(person_id)).await?;
        let removed = diesel::delete(organization_members::table)
            .filter(organization_members::organization_id.eq(&self.organization_id))
            .filter(organization_members::person_id.eq(person_id))
            .execute(&mut tx.conn())
            .await?;
        if removed == 0 {
            let organization_id = &self.organization_id;
            return Err(refusals::organization_member_not_found(organization_id, person_id));
        }
        guard.settle(tx).await?;
        record_member(tx, &self.organization_id, person_id, false);
        Ok(())
    }

    /// Takes a person, whom the transaction holds FOR UPDATE, out of every organization. Nobody
    /// adds them to one meanwhile.
    pub async fn remove_from_all(tx: &WriteTx, person_id: &str) -> Result<()> {
        let mut left: Vec<String> = diesel::delete(organization_members::table)
            .filter(organization_members::person_id.eq(person_id))
            .returning(organization_members::organization_id)
            .get_results(&mut tx.conn())
            .await?;
        left.sort();
        for organization_id in left {
            record_member(tx, &organization_id, person_id, false);
        }
        Ok(())
    }

    /// Holds the shape of the forest: nobody moves or deletes an organization until the transaction
    /// ends. Whoever adds a source of membership calls this, after it has locked accounts and
    /// before it locks an organization or a person.
    pub async fn hold_the_forest(tx: &WriteTx) -> Result<()> {
        let tenant = || tenants::table.select(tenants::tenant_id);
        if tenant().for_share().first::<String>(&mut tx.conn()).await.optional()?.is_none() {
            Self::first_row(tx).await?;
            tenant().for_share().first::<String>(&mut tx.conn()).await?;
        }
        Ok(())
    }

    /// Takes the forest for a change of its shape: others who do the same, or hold it, go before or
    /// after.
    pub async fn take_the_forest(tx: &WriteTx) -> Result<()> {
        Self::first_row(tx).await?;
        tenants::table
            .select(tenants::tenant_id)
            .for_update()
            .first::<String>(&mut tx.conn())
            .await?;
        Ok(())
    }

    async fn first_row(tx: &WriteTx) -> Result<()> {
        diesel::insert_into(tenants::table)
            .values(tenants::create_time.eq(diesel::dsl::now))
            .on_conflict_do_nothing()
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    /// Refuses a parent that does not exist, or that has no room for so many levels below it.
    async fn require_room(tx: &Tx, parent_id: &str, levels: i64) -> Result<()> {
        let depth: i64 = organization_ancestors::table
            .filter(organization_ancestors::organization_id.eq(parent_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        match depth {
            0 => Err(ORGANIZATION.not_found(parent_id)),
            depth if depth + levels > MAX_DEPTH => {
                Err(refusals::organization_too_deep(parent_id, MAX_DEPTH))
            }
            _ => Ok(()),
        }
    }

    /// Renews sort keys and words of the next rows of a tenant behind this id. The connection is
    /// the owner's.
    pub async fn renew(
        conn: &mut AsyncPgConnection,
        tenant: &str,
        after: &str,
    ) -> QueryResult<Batch> {
        search::renew!(
            conn,
            tenant,
            after,
            organizations,
            organization_words,
            organization_id,
            |row| row.fields
        )
    }

    fn words(&self) -> Vec<String> {
        let mut words = search::words([self.organization_id.as_str(), &self.fields.display_name]);
        words.extend(self.fields.metadata.words());
        words
    }

    async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(organization_words::table)
            .values(diesel::select((
                self.organization_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((organization_words::organization_id, organization_words::word))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    fn record(&self, tx: &WriteTx, before: Option<&Self>) -> Result<()> {
        tx.record(Event {
            resource: ORGANIZATION.noun,
            id: &self.organization_id,
            belongs_to: BelongsTo::Organization { incarnation: &self.incarnation },
            before: before.map(snapshot).transpose()?.flatten(),
            after: snapshot(self)?,
        });
        Ok(())
    }
}

fn record_member(tx: &WriteTx, organization_id: &str, person_id: &str, is_member: bool) {
    let member = Some(json!({ "organization_id": organization_id, "person_id": person_id }));
    let (before, after) = if is_member { (None, member) } else { (member, None) };
    let id = id::pair(organization_id, person_id);
    tx.record(Event {
        resource: "organization_member",
        id: &id,
        belongs_to: BelongsTo::Tenant,
        before,
        after,
    });
}
