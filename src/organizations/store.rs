//! Organizations in the database: the rows, and the words that searches find them by.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::{prelude::*, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::{refusals, tree};
use crate::{
    budget::{self, Weighed},
    change::resource,
    db::{BelongsTo, Tx, WriteTx, taken},
    error::Result,
    metadata::Metadata,
    modules,
    page::{Listed, Listing, Page, keyset, total},
    relations::{
        members::Member,
        organization,
        slots::{self, Scope},
    },
    resource::ORGANIZATION,
    rows::{found_by_id, set_row},
    schema::{
        account_organizations, accounts, organization_members, organization_words, organizations,
    },
    search::{self, Batch, unnest},
};

/// Bytes that an organization adds to a response besides its texts.
const ROW: usize = 128;

/// A row of `organizations`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = organizations, check_for_backend(diesel::pg::Pg))]
pub struct Organization {
    /// Chosen by the caller or generated.
    pub organization_id: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// The parent organization, if any.
    pub parent_id: Option<String>,
    /// Each change increases it; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
    /// Generated. Unlike the id, no later organization gets it.
    #[serde(skip)]
    pub incarnation: String,
    /// Equal to [`search::stamp`] of the revision if this version derived `sort_key` and the words.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of an organization that an update can change. Only a move changes the parent.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = organizations, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read.
    pub display_name: String,
    /// The name without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// Entries for callers' own use.
    pub metadata: Metadata,
}

impl Fields {
    /// The words that searches find the organization by.
    fn words(&self, organization_id: &str) -> Vec<String> {
        let mut words = search::words([organization_id, &self.display_name]);
        words.extend(self.metadata.words());
        words
    }
}

resource!(Organization: ORGANIZATION, organization_id, |row| {
    BelongsTo::Organization { incarnation: &row.incarnation }
});

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

/// A valid organization that has not been inserted yet.
#[derive(Debug, PartialEq)]
pub struct NewOrganization {
    /// Its id.
    pub organization_id: String,
    /// The fields that a caller can change.
    pub fields: Fields,
    /// The parent organization, if any.
    pub parent_id: Option<String>,
}

/// Which organizations a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only the children of this organization.
    pub parent_id: Option<String>,
    /// Only organizations whose parent the caller does not see, or that have none.
    pub roots_only: bool,
    /// Only organizations that this person is a member of.
    pub person_id: Option<String>,
    /// Only organizations with all these entries.
    pub metadata: Metadata,
}

impl NewOrganization {
    /// Inserts the organization below its parent, with its ancestors and words.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Organization> {
        let above = if let Some(parent_id) = &self.parent_id {
            tx.lock_tree_shared().await?;
            organization::require(tx, parent_id).await?;
            tree::above(tx, parent_id, 1).await?
        } else {
            tx.require_whole_tenant(tree::NEW_TREE)?;
            Vec::new()
        };
        let id = &*self.organization_id;
        let insert = async {
            let row = diesel::insert_into(organizations::table)
                .values((
                    tx.owns(organizations::tenant_id),
                    organizations::organization_id.eq(id),
                    &self.fields,
                    organizations::folded.eq(search::stamp(1)),
                    organizations::parent_id.eq(&self.parent_id),
                ))
                .returning(Organization::as_returning());
            tx.send_returning::<_, Organization>(row).await.map_err(|error| {
                taken(error, &ORGANIZATION, &[("organizations_pkey", "organization_id", id)])
            })
        };
        let words = insert_words(tx, id, self.fields.words(id));
        let rest = tx.together(tree::insert(tx, id, &above), words);
        let (organization, _) = tx.together(insert, rest).await?;
        tx.created(&organization)?;
        Ok(organization)
    }
}

found_by_id!(
    Organization: ORGANIZATION,
    (organizations.organization_id, organizations_in_reach),
    (require_all(|row| &*row.organization_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    find_for_update: for_update
);

impl Organization {
    /// Locks the organization FOR NO KEY UPDATE. A transaction that changes something that only one
    /// account of an organization can have, such as the primary flag, does this first.
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

    /// Returns those of these ids that organizations of the tenant have, in reach or not.
    pub async fn existing(tx: &Tx, ids: &BTreeSet<&str>) -> Result<BTreeSet<String>> {
        let found = organizations::table
            .filter(tx.owns(organizations::tenant_id))
            .filter(organizations::organization_id.eq_any(ids))
            .select(organizations::organization_id);
        Ok(found.load::<String>(&mut tx.conn()).await?.into_iter().collect())
    }

    /// Returns one page of organizations.
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

    /// Sets the fields of the organization; equal fields change nothing. The caller must hold the
    /// lock of the row.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        if self.fields == *fields {
            return Ok(self);
        }
        let id = &*self.organization_id;
        let update = async {
            let columns = (fields, organizations::folded.eq(search::stamp(self.revision + 1)));
            Ok(set_row!(tx, Self: organizations.organization_id(id), columns).await?)
        };
        let delete = async {
            diesel::delete(
                organization_words::table.filter(tx.owns(organization_words::tenant_id)),
            )
            .filter(organization_words::organization_id.eq(id))
            .execute(&mut tx.conn())
            .await?;
            Ok(())
        };
        let words = tx.together(delete, insert_words(tx, id, fields.words(id)));
        let (updated, _) = tx.together(update, words).await?;
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the organization. The caller must hold the row FOR UPDATE and the tree lock. Fails
    /// if the organization has children, accounts or links.
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
        // Links of its own accounts are not counted: `accounts` counts those accounts.
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
        // No member is added meanwhile, because that locks the organization's row.
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

    /// Renews the sort keys and words of the tenant's next rows, in the order of ids after `after`.
    /// The connection must be the owner's.
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
        self.fields.words(&self.organization_id)
    }
}

async fn insert_words(tx: &WriteTx, organization_id: &str, words: Vec<String>) -> Result<()> {
    let insert = diesel::insert_into(organization_words::table)
        .values(diesel::select((
            tx.tenant_id().into_sql::<Text>(),
            organization_id.into_sql::<Text>(),
            unnest(words),
        )))
        .into_columns((
            organization_words::tenant_id,
            organization_words::organization_id,
            organization_words::word,
        ));
    tx.send(insert).await?;
    Ok(())
}
