//! Organizations in the database: rows, the table of ancestors, the words they are found by.

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::MAX_DEPTH;
use crate::{
    db::{Event, Tx, WriteTx, snapshot},
    error::{Error, Kind, Result},
    page::{Page, keyset},
    schema::{organization_ancestors, organization_words, organizations},
    search::{self, unnest},
};

/// An organization as it is kept.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = organizations, check_for_backend(diesel::pg::Pg))]
pub struct Organization {
    /// Chosen by the caller or generated.
    pub organization_id: String,
    /// Name for people.
    pub display_name: String,
    /// The name without case and accents: the order of lists.
    #[serde(skip)]
    pub sort_key: String,
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
}

/// A valid organization that is not there yet.
#[derive(Debug)]
pub struct NewOrganization {
    /// Its id.
    pub organization_id: String,
    /// Its name.
    pub display_name: String,
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
}

impl NewOrganization {
    /// Inserts it below its parent, with its ancestors and words.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Organization> {
        if let Some(parent_id) = &self.parent_id {
            Organization::require_room_below(tx, parent_id).await?;
        }
        let organization = diesel::insert_into(organizations::table)
            .values((
                organizations::organization_id.eq(&self.organization_id),
                organizations::display_name.eq(&self.display_name),
                organizations::sort_key.eq(search::fold(&self.display_name)),
                organizations::parent_id.eq(&self.parent_id),
            ))
            .returning(Organization::as_returning())
            .get_result(&mut tx.conn())
            .await
            .map_err(|error| self.translate(error))?;
        self.insert_ancestors(tx).await?;
        let words = search::words([self.organization_id.as_str(), &self.display_name]);
        diesel::insert_into(organization_words::table)
            .values(diesel::select((self.organization_id.as_str().into_sql::<Text>(), unnest(words))))
            .into_columns((organization_words::organization_id, organization_words::word))
            .execute(&mut tx.conn())
            .await?;
        tx.record(Event {
            kind: Kind::Organization,
            id: &organization.organization_id,
            account_id: None,
            before: None,
            after: snapshot(&organization)?,
        });
        Ok(organization)
    }

    async fn insert_ancestors(&self, tx: &WriteTx) -> Result<()> {
        let columns =
            (organization_ancestors::organization_id, organization_ancestors::ancestor_id, organization_ancestors::distance);
        diesel::insert_into(organization_ancestors::table)
            .values((
                organization_ancestors::organization_id.eq(&self.organization_id),
                organization_ancestors::ancestor_id.eq(&self.organization_id),
                organization_ancestors::distance.eq(0),
            ))
            .execute(&mut tx.conn())
            .await?;
        let Some(parent_id) = &self.parent_id else { return Ok(()) };
        let above = organization_ancestors::table.filter(organization_ancestors::organization_id.eq(parent_id)).select((
            self.organization_id.as_str().into_sql::<Text>(),
            organization_ancestors::ancestor_id,
            organization_ancestors::distance + 1,
        ));
        diesel::insert_into(organization_ancestors::table).values(above).into_columns(columns).execute(&mut tx.conn()).await?;
        Ok(())
    }

    fn translate(&self, error: DieselError) -> Error {
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info)
                if info.constraint_name() == Some("organizations_pkey") =>
            {
                Error::AlreadyExists { kind: Kind::Organization, field: "organization_id", value: self.organization_id.clone() }
            }
            _ => error.into(),
        }
    }
}

impl Organization {
    /// The organization with this id.
    pub async fn find(tx: &Tx, organization_id: &str) -> Result<Self> {
        organizations::table
            .filter(organizations::organization_id.eq(organization_id))
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| Error::not_found(Kind::Organization, organization_id))
    }

    /// Holds the organization against others who lock it, until the transaction ends; whoever changes what only one of its
    /// accounts can be does this first.
    pub async fn lock(tx: &WriteTx, organization_id: &str) -> Result<()> {
        organizations::table
            .filter(organizations::organization_id.eq(organization_id))
            .select(organizations::organization_id)
            .for_no_key_update()
            .first::<String>(&mut tx.conn())
            .await
            .optional()?
            .map(|_| ())
            .ok_or_else(|| Error::not_found(Kind::Organization, organization_id))
    }

    /// One page of organizations, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<(Vec<Self>, String)> {
        let mut query = organizations::table.select(Self::as_select()).into_boxed();
        for (from, to) in search::ranges(&filter.query) {
            let found = organization_words::table
                .filter(organization_words::word.ge(from).and(organization_words::word.lt(to)))
                .select(organization_words::organization_id);
            query = query.filter(organizations::organization_id.eq_any(found));
        }
        if let Some(parent_id) = &filter.parent_id {
            query = query.filter(organizations::parent_id.eq(parent_id));
        }
        let mut rows = keyset!(query, page, organizations(sort_key, organization_id)).load::<Self>(&mut tx.conn()).await?;
        let next = page.cut(&mut rows, |row| (&row.sort_key, row.create_time, &row.organization_id));
        Ok((rows, next))
    }

    /// Refuses a parent that does not exist or lies at the deepest level.
    async fn require_room_below(tx: &Tx, parent_id: &str) -> Result<()> {
        let depth: i64 = organization_ancestors::table
            .filter(organization_ancestors::organization_id.eq(parent_id))
            .count()
            .get_result(&mut tx.conn())
            .await?;
        match depth {
            0 => Err(Error::not_found(Kind::Organization, parent_id)),
            depth if depth >= MAX_DEPTH => Err(Error::OrganizationTooDeep { parent_id: parent_id.to_owned() }),
            _ => Ok(()),
        }
    }
}
