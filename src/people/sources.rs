//! The query that merges people from several sources of membership in the order of a list.
//!
//! A source is an organization, or the individual users of an account. An index has the people of
//! each source in order, so the query takes the next page of each source and sorts these together.
//! A page therefore costs its size times the number of sources, wherever it lies. Of an account with
//! more than [`MERGED`] organizations it costs the members of them all. The sources of
//! each person on the page are complete: a person among the first of all sources is among the first
//! of every source that has them.
//!
//! Diesel cannot write LATERAL, so this is a query fragment with binds. Diesel caches it by its
//! text, like any other query.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    dsl::AsSelect,
    pg::Pg,
    prelude::*,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{Array, BigInt, Date, Text, Timestamptz},
};

use super::store::Person;
use crate::{
    db::{Condition, Tx},
    error::Result,
    page::{By, COUNTED, Order, Page, Total},
    schema::people,
};

/// Most organizations of which a list takes the next members of each, which costs one look-up in an
/// index each. From more it takes all members and sorts them, which costs as many rows as there are
/// members.
pub const MERGED: usize = 200;

/// Which people of a source a query takes.
#[derive(Debug, Clone, Copy)]
enum Take {
    /// As many as the page reads, in its order.
    Next,
    /// All.
    All,
}

/// The sources whose people are listed.
#[derive(Debug, Clone, Copy)]
pub enum Sources<'a> {
    /// The members of these organizations.
    Organizations(&'a [String]),
    /// The users of an account.
    Account {
        /// The account.
        account_id: &'a str,
        /// Only individual users whose dates include this day; `None` is all of them.
        on: Option<NaiveDate>,
    },
}

/// The query for the next people of the sources, as many as a page reads, in its order. Its columns
/// are `key`, `person_id`, and `organization_ids`: the organizations among the sources that have
/// the person.
pub struct Merged<'a> {
    tenant_id: &'a str,
    sources: Sources<'a>,
    conditions: Vec<Condition<people::table>>,
    order: Order,
    after_name: Option<(String, String)>,
    after_time: Option<(DateTime<Utc>, String)>,
    limit: i64,
}

impl<'a> Merged<'a> {
    /// The people of a page for whom the conditions are true.
    pub fn new(
        tx: &'a Tx,
        sources: Sources<'a>,
        conditions: Vec<Condition<people::table>>,
        page: &Page,
    ) -> Result<Self> {
        let tenant_id = tx.tenant_id();
        let (after_name, after_time) = match page.order().by {
            By::DisplayName => (page.after_name(), None),
            _ => (None, page.after_time()?),
        };
        Ok(Self {
            tenant_id,
            sources,
            conditions,
            order: page.order(),
            after_name,
            after_time,
            limit: page.limit(),
        })
    }

    /// Counts the people of all pages, if the request asks for the total.
    pub async fn count(
        tx: &'a Tx,
        sources: Sources<'a>,
        conditions: impl Fn() -> Vec<Condition<people::table>>,
        page: &Page,
    ) -> Result<Total> {
        if !page.counts() {
            return Ok(Total::default());
        }
        let order = page.order();
        let tenant_id = tx.tenant_id();
        let conditions = conditions();
        Total::count(
            tx,
            Self {
                tenant_id,
                sources,
                conditions,
                order,
                after_name: None,
                after_time: None,
                limit: COUNTED,
            },
        )
        .await
    }

    /// Writes the tenant as a bind.
    pub const fn tenant_id(&self) -> &str {
        self.tenant_id
    }

    /// The direction of the list, for each column of ORDER BY.
    pub const fn direction(&self) -> &'static str {
        if self.order.descending { " DESC" } else { "" }
    }

    /// The column by which the tables of memberships are ordered, before the person's id.
    const fn key(&self) -> &'static str {
        match self.order.by {
            By::DisplayName => "sort_key",
            _ => "person_create_time",
        }
    }

    /// Writes the organizations that are sources, each once.
    fn covered<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match &self.sources {
            // A constant, so that PostgreSQL can estimate how many members there are.
            Sources::Organizations([id]) => {
                out.push_sql("SELECT ");
                out.push_bind_param::<Text, _>(id)?;
                out.push_sql(" AS organization_id");
            }
            Sources::Organizations(ids) => {
                out.push_sql("SELECT unnest(");
                out.push_bind_param::<Array<Text>, _>(ids)?;
                out.push_sql(") AS organization_id");
            }
            Sources::Account { account_id, .. } => {
                out.push_sql(
                    "SELECT DISTINCT below.organization_id FROM account_organizations AS link \
                     JOIN organization_ancestors AS below ON below.tenant_id = link.tenant_id \
                     AND below.ancestor_id = link.organization_id \
                     AND (below.distance = 0 OR link.include_descendants) \
                     WHERE link.tenant_id = ",
                );
                out.push_bind_param::<Text, _>(self.tenant_id)?;
                out.push_sql(" AND link.account_id = ");
                out.push_bind_param::<Text, _>(*account_id)?;
            }
        }
        Ok(())
    }

    /// Writes the query for people of a table of memberships, which `scope` restricts by the name
    /// `source`.
    fn people_of<'b>(
        &'b self,
        out: &mut AstPass<'_, 'b, Pg>,
        take: Take,
        table: &str,
        scope: impl FnOnce(&mut AstPass<'_, 'b, Pg>) -> QueryResult<()>,
    ) -> QueryResult<()> {
        let (key, direction) = (self.key(), self.direction());
        out.push_sql(&format!(
            "SELECT source.{key} AS key, source.person_id FROM {table} AS source"
        ));
        if !self.conditions.is_empty() {
            out.push_sql(
                " JOIN people ON people.tenant_id = source.tenant_id \
                 AND people.person_id = source.person_id",
            );
        }
        out.push_sql(" WHERE source.tenant_id = ");
        out.push_bind_param::<Text, _>(self.tenant_id)?;
        out.push_sql(" AND ");
        scope(out)?;
        self.behind(out)?;
        for condition in &self.conditions {
            out.push_sql(" AND ");
            condition.walk_ast(out.reborrow())?;
        }
        if matches!(take, Take::All) {
            return Ok(());
        }
        out.push_sql(&format!(
            " ORDER BY source.{key}{direction}, source.person_id{direction} LIMIT "
        ));
        out.push_bind_param::<BigInt, _>(&self.limit)
    }

    /// Writes the condition that a row comes after the position of the page.
    fn behind<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let person_id = match (&self.after_name, &self.after_time) {
            (None, None) => return Ok(()),
            (Some((_, person_id)), _) | (_, Some((_, person_id))) => person_id,
        };
        let than = if self.direction().is_empty() { '>' } else { '<' };
        out.push_sql(&format!(" AND (source.{}, source.person_id) {than} (", self.key()));
        if let Some((name, _)) = &self.after_name {
            out.push_bind_param::<Text, _>(name)?;
        }
        if let Some((time, _)) = &self.after_time {
            out.push_bind_param::<Timestamptz, _>(time)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(person_id)?;
        out.push_sql(")");
        Ok(())
    }

    /// Writes the query for the members of the sources, each with the organization.
    fn members<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>, take: Take) -> QueryResult<()> {
        out.push_sql(
            "SELECT member.key, member.person_id, covered.organization_id \
             FROM covered CROSS JOIN LATERAL (",
        );
        self.people_of(out, take, "organization_members", |out| {
            out.push_sql("source.organization_id = covered.organization_id");
            Ok(())
        })?;
        out.push_sql(") AS member");
        Ok(())
    }

    fn added<'b>(
        &'b self,
        out: &mut AstPass<'_, 'b, Pg>,
        account_id: &'b str,
        on: Option<&'b NaiveDate>,
    ) -> QueryResult<()> {
        out.push_sql(" UNION ALL SELECT key, person_id, NULL FROM (");
        self.people_of(out, Take::Next, "account_users", |out| {
            out.push_sql("source.individual AND source.account_id = ");
            out.push_bind_param::<Text, _>(account_id)?;
            for (missing, bound) in
                [("start_date IS NULL", "start_date <= "), ("end_date IS NULL", "end_date >= ")]
            {
                if let Some(on) = on {
                    out.push_sql(&format!(" AND (source.{missing} OR source.{bound}"));
                    out.push_bind_param::<Date, _>(on)?;
                    out.push_sql(")");
                }
            }
            Ok(())
        })?;
        out.push_sql(") AS added");
        Ok(())
    }
}

impl QueryFragment<Pg> for Merged<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // PostgreSQL writes a table that is read once into the query, with its constant, and makes
        // one that is read several times once.
        out.push_sql("WITH covered AS (");
        self.covered(&mut out)?;
        out.push_sql(
            ") SELECT key, person_id, \
             array_remove(array_agg(organization_id ORDER BY organization_id), NULL) \
             AS organization_ids FROM (",
        );
        self.members(&mut out, Take::Next)?;
        if let Sources::Account { account_id, on } = &self.sources {
            // PostgreSQL runs one of the two: it counts first.
            out.push_sql(&format!(" WHERE (SELECT count(*) FROM covered) <= {MERGED} UNION ALL "));
            self.members(&mut out, Take::All)?;
            out.push_sql(&format!(" WHERE (SELECT count(*) FROM covered) > {MERGED}"));
            self.added(&mut out, account_id, on.as_ref())?;
        }
        let direction = self.direction();
        out.push_sql(&format!(
            ") AS candidate GROUP BY key, person_id \
             ORDER BY key{direction}, person_id{direction} LIMIT "
        ));
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

/// The query for the people of a merged list.
pub struct Members<'a> {
    columns: AsSelect<Person, Pg>,
    merged: Merged<'a>,
}

impl<'a> Members<'a> {
    /// The people of a page for whom the conditions are true.
    pub fn new(
        tx: &'a Tx,
        sources: Sources<'a>,
        conditions: Vec<Condition<people::table>>,
        page: &Page,
    ) -> Result<Self> {
        Ok(Self {
            columns: Person::as_select(),
            merged: Merged::new(tx, sources, conditions, page)?,
        })
    }
}

impl QueryFragment<Pg> for Members<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(" FROM (");
        self.merged.walk_ast(out.reborrow())?;
        let direction = self.merged.direction();
        out.push_sql(") AS page JOIN people ON people.tenant_id = ");
        out.push_bind_param::<Text, _>(self.merged.tenant_id)?;
        out.push_sql(&format!(
            " AND people.person_id = page.person_id \
             ORDER BY page.key{direction}, page.person_id{direction}"
        ));
        Ok(())
    }
}

impl Query for Members<'_> {
    type SqlType = AsSelect<Person, Pg>;
}

/// Diesel caches the query by its text, which depends on the order and the conditions.
impl QueryId for Members<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}
