//! Organizations in the database: rows and the words they are found by.

use chrono::{DateTime, Utc};
use diesel::{prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::{
    members::Member,
    refusals::{self, ORGANIZATION},
    tree,
};
use crate::{
    batch::Ids,
    budget::{self, Weighed},
    change::Resource,
    db::{BelongsTo, Tx, WriteTx, taken},
    error::Result,
    memberships::slots::{self, Scope},
    metadata::Metadata,
    modules,
    page::{Listed, Listing, Page, keyset, total},
    resource::Kind,
    schema::{
        account_organizations, accounts, organization_members, organization_words, organizations,
    },
    search::{self, Batch, unnest},
};

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

/// The fields of an organization that a caller can change; its place in the tree is changed by a
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

impl Resource for Organization {
    const KIND: Kind = ORGANIZATION;

    fn id(&self) -> &str {
        &self.organization_id
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Organization { incarnation: &self.incarnation }
    }

    fn version(&self) -> (DateTime<Utc>, i64) {
        (self.create_time, self.revision)
    }
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
        let above = if let Some(parent_id) = &self.parent_id {
            tx.lock_tree_shared().await?;
            Organization::require(tx, parent_id).await?;
            tree::above(tx, parent_id, 1).await?
        } else {
            tx.require_whole_tenant(tree::NEW_TREE)?;
            Vec::new()
        };
        let organization = diesel::insert_into(organizations::table)
            .values((
                tx.owns(organizations::tenant_id),
                organizations::organization_id.eq(&self.organization_id),
                &self.fields,
                organizations::folded.eq(search::stamp(1)),
                organizations::parent_id.eq(&self.parent_id),
            ))
            .returning(Organization::as_returning())
            .get_result(&mut tx.conn())
            .await
            .map_err(|error| {
                let unique = [("organizations_pkey", "organization_id", &*self.organization_id)];
                taken(error, &ORGANIZATION, &unique)
            })?;
        tree::insert(tx, &self.organization_id, &above).await?;
        organization.insert_words(tx).await?;
        tx.created(&organization)?;
        Ok(organization)
    }
}

impl Organization {
    /// The organization with this id.
    pub async fn find(tx: &Tx, organization_id: &str) -> Result<Self> {
        let organization: Self = organizations::table
            .filter(tx.owns(organizations::tenant_id))
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
        let query = organizations::table
            .filter(tx.owns(organizations::tenant_id))
            .filter(organizations::organization_id.eq_any(ids.unique()));
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
            .filter(tx.owns(organizations::tenant_id))
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
            .filter(tx.owns(organizations::tenant_id))
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
            .filter(tx.owns(organizations::tenant_id))
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
            .filter(tx.owns(organizations::tenant_id))
            .filter(
                organizations::organization_id.eq(organization_id).and(tx.organizations_in_reach()),
            )
            .select(organizations::organization_id);
        Ok(found.first::<String>(&mut tx.conn()).await.optional()?.is_some())
    }

    /// One page of organizations, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        modules::require_named(tx, filter.parent_id.as_deref()).await?;
        let off = modules::off(tx).await?;
        let filtered = || {
            let mut query = organizations::table
                .filter(tx.owns(organizations::tenant_id))
                .select(Self::as_select())
                .filter(tx.organizations_in_reach())
                .into_boxed();
            let words = || {
                organization_words::table
                    .filter(tx.owns(organization_words::tenant_id))
                    .select(organization_words::organization_id)
            };
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
                    .filter(tx.owns(organization_members::tenant_id))
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
        let updated =
            diesel::update(organizations::table.filter(tx.owns(organizations::tenant_id)))
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
                .filter(tx.owns(organization_words::tenant_id))
                .filter(organization_words::organization_id.eq(&self.organization_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        updated.insert_words(tx).await?;
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the organization. The caller must hold the row and the tree FOR UPDATE. Fails if it
    /// has children, accounts or links.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        let children: i64 = organizations::table
            .filter(tx.owns(organizations::tenant_id))
            .filter(organizations::parent_id.eq(&self.organization_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        let accounts: i64 = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(accounts::organization_id.eq(&self.organization_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        // Those of accounts that belong to it are counted with them.
        let links: i64 = account_organizations::table
            .filter(tx.owns(account_organizations::tenant_id))
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
        let mut members: Vec<String> = diesel::delete(
            organization_members::table.filter(tx.owns(organization_members::tenant_id)),
        )
        .filter(organization_members::organization_id.eq(&self.organization_id))
        .returning(organization_members::person_id)
        .get_results(&mut tx.conn())
        .await?;
        members.sort();
        for person_id in &members {
            tx.deleted(&Member { organization_id: &self.organization_id, person_id })?;
        }
        modules::inherit_all(tx, &self.organization_id).await?;
        diesel::delete(
            organizations::table
                .filter(tx.owns(organizations::tenant_id))
                .filter(organizations::organization_id.eq(&self.organization_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        guard.verify(tx).await?;
        tx.deleted(&self)
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
                tx.tenant_id().into_sql::<Text>(),
                self.organization_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((
                organization_words::tenant_id,
                organization_words::organization_id,
                organization_words::word,
            ))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }
}
