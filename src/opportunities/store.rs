//! Opportunities in the database: the rows, and the words that searches find them by.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::refusals::OPPORTUNITY;
use crate::{
    accounts::store::Account,
    budget::{self, Weighed},
    change::resource,
    contracts::store::Contract,
    db::{AccountRef, BelongsTo, WriteTx, instant},
    enums::text_enum,
    error::{Error, Result, put_aside},
    metadata::Metadata,
    money::{Money, money_columns},
    page::Listed,
    people::store::Person,
    put::{Put, Stated, Statement},
    resource::PERSON,
    rows::{found_by_id, set_row},
    schema::{opportunities, opportunity_words},
    search::{self, Batch, unnest},
};

/// Bytes that an opportunity adds to a response besides its texts.
const ROW: usize = 256;

text_enum! {
    /// Where an opportunity stands.
    pub enum State {
        /// Not decided.
        Open = "OPEN",
        /// The customer buys.
        Won = "WON",
        /// The customer does not buy.
        Lost = "LOST",
    }
}

money_columns!(
    /// What an opportunity is worth.
    pub struct Worth = opportunities(amount, currency_code)
);

/// A row of `opportunities`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = opportunities, check_for_backend(diesel::pg::Pg))]
pub struct Opportunity {
    /// Chosen by the caller.
    pub opportunity_id: String,
    /// The account that it is for.
    pub account_id: String,
    /// The incarnation of the account.
    #[serde(skip)]
    pub incarnation: String,
    /// What a caller can change.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// Each change increases it; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was created.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
    /// Equal to [`search::stamp`] of the revision if this version derived `sort_key` and the words.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of an opportunity that a caller can change.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset, Serialize)]
#[diesel(table_name = opportunities, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read.
    pub display_name: String,
    /// The name without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// The stage in the words of the CRM.
    pub stage: String,
    /// Where it stands.
    pub state: State,
    /// What it is worth.
    #[diesel(embed)]
    pub amount: Worth,
    /// How likely it is to be won, in percent.
    pub probability: Option<f64>,
    /// The day by which the decision is expected.
    pub expected_close_date: Option<NaiveDate>,
    /// The day of the decision.
    pub close_date: Option<NaiveDate>,
    /// Where people find it.
    pub uri: String,
    /// The contract that came of it.
    pub contract_id: Option<String>,
    /// The member of staff who looks after it.
    pub owner_id: Option<String>,
    /// When the CRM last changed it.
    #[serde(serialize_with = "instant")]
    pub source_time: Option<DateTime<Utc>>,
    /// Entries for callers' own use.
    pub metadata: Metadata,
}

resource!(Opportunity: OPPORTUNITY, opportunity_id, |row| BelongsTo::Account(AccountRef {
    account_id: &row.account_id,
    incarnation: &row.incarnation,
}));

impl Stated for Opportunity {
    fn account_id(&self) -> &str {
        &self.account_id
    }

    fn source_time(&self) -> Option<DateTime<Utc>> {
        self.fields.source_time
    }
}

impl Weighed for Opportunity {
    fn weight(&self) -> usize {
        let Fields { display_name, stage, uri, contract_id, owner_id, metadata, .. } = &self.fields;
        let texts = [&self.opportunity_id, &self.account_id, display_name, stage, uri];
        let optional = contract_id.iter().chain(owner_id);
        ROW + budget::texts(texts.into_iter().chain(optional)) + metadata.weight()
    }
}

impl Listed for Opportunity {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.opportunity_id)
    }
}

/// A valid opportunity as a request states it.
#[derive(Debug)]
pub struct Wanted {
    /// Its id, account, etag and time.
    pub statement: Statement,
    /// Its fields without the amount.
    pub fields: Fields,
    /// The amount, which may lack the currency.
    pub amount: Option<Money>,
}

/// An opportunity, and what a statement of it has done.
#[derive(Debug)]
pub struct Outcome {
    /// The opportunity as it is now.
    pub opportunity: Opportunity,
    /// Whether it is new.
    pub created: bool,
    /// Whether the statement was older.
    pub stale: bool,
}

impl Wanted {
    /// Creates the opportunity, or replaces the stored one, unless that is newer. `fields` are
    /// those of the statement with the amount.
    pub async fn put(&self, tx: &WriteTx, fields: Fields) -> Result<Outcome> {
        let account = Account::find_and_keep(tx, &self.statement.account_id).await?;
        // People are locked before what refers to them. Whether the person can be named as the
        // owner matters only if they are not the owner already.
        let owner = match &fields.owner_id {
            Some(owner_id) => put_aside(Person::require_staff(tx, owner_id).await)?,
            None => Ok(()),
        };
        let stored = Opportunity::find_stored(tx, &self.statement.id).await?;
        let (created, stale) = (false, false);
        match self.statement.against(tx, stored).await? {
            Put::Create => {
                owner?;
                Contract::require_link(tx, fields.contract_id.as_deref(), None, &account).await?;
                let opportunity = self.insert(tx, &account, &fields).await?;
                Ok(Outcome { opportunity, created: true, stale })
            }
            Put::Replace(current) => {
                if current.fields.owner_id != fields.owner_id {
                    owner?;
                }
                let present = current.fields.contract_id.as_deref();
                Contract::require_link(tx, fields.contract_id.as_deref(), present, &account)
                    .await?;
                let source_time = fields.source_time.or(current.fields.source_time);
                let opportunity = current.replace(tx, &Fields { source_time, ..fields }).await?;
                Ok(Outcome { opportunity, created, stale })
            }
            Put::Stale(opportunity) => Ok(Outcome { opportunity, created, stale: true }),
        }
    }

    /// Inserts the opportunity. If another transaction has just inserted it, this one runs again
    /// and finds it.
    async fn insert(
        &self,
        tx: &WriteTx,
        account: &Account,
        fields: &Fields,
    ) -> Result<Opportunity> {
        let created = diesel::insert_into(opportunities::table)
            .values((
                tx.owns(opportunities::tenant_id),
                opportunities::opportunity_id.eq(&self.statement.id),
                opportunities::account_id.eq(&account.account_id),
                opportunities::incarnation.eq(&account.incarnation),
                opportunities::folded.eq(search::stamp(1)),
                fields,
            ))
            .on_conflict_do_nothing()
            .returning(Opportunity::as_returning())
            .get_result(&mut tx.conn())
            .await
            .optional()?
            .ok_or(Error::Retry)?;
        tx.created(&created)?;
        created.insert_words(tx).await?;
        Ok(created)
    }
}

found_by_id!(
    Opportunity: OPPORTUNITY,
    (opportunities.opportunity_id, opportunities_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    find_for_update: for_update
);

impl Opportunity {
    /// Returns the opportunity with this id, if there is one, whether the caller sees it or not.
    /// Locks its row FOR UPDATE.
    async fn find_stored(tx: &WriteTx, opportunity_id: &str) -> Result<Option<Self>> {
        let query = opportunities::table
            .filter(tx.owns(opportunities::tenant_id))
            .filter(opportunities::opportunity_id.eq(opportunity_id))
            .select(Self::as_select())
            .for_update();
        Ok(query.first(&mut tx.conn()).await.optional()?)
    }

    /// Sets the fields of the opportunity; equal fields change nothing. The caller must hold the
    /// row FOR UPDATE.
    async fn replace(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        if self.fields == *fields {
            return Ok(self);
        }
        let id = &*self.opportunity_id;
        let columns = (fields, opportunities::folded.eq(search::stamp(self.revision + 1)));
        let updated = set_row!(tx, Self: opportunities.opportunity_id(id), columns).await;
        let updated = updated.map_err(|error| translate(error, fields))?;
        if updated.words() != self.words() || self.folded != search::stamp(self.revision) {
            let words = opportunity_words::table
                .filter(tx.owns(opportunity_words::tenant_id))
                .filter(opportunity_words::opportunity_id.eq(&self.opportunity_id));
            diesel::delete(words).execute(&mut tx.conn()).await?;
            updated.insert_words(tx).await?;
        }
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the opportunity. The caller must hold the row FOR UPDATE.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        diesel::delete(opportunities::table.filter(tx.owns(opportunities::tenant_id)))
            .filter(opportunities::opportunity_id.eq(&self.opportunity_id))
            .execute(&mut tx.conn())
            .await?;
        tx.deleted(&self)
    }

    /// Deletes the opportunities of an account and records each. The caller must hold the account
    /// FOR UPDATE.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<()> {
        let mut removed =
            diesel::delete(opportunities::table.filter(tx.owns(opportunities::tenant_id)))
                .filter(opportunities::account_id.eq(account_id))
                .returning(Self::as_returning())
                .get_results::<Self>(&mut tx.conn())
                .await?;
        removed.sort_by(|one, other| one.opportunity_id.cmp(&other.opportunity_id));
        removed.iter().try_for_each(|opportunity| tx.deleted(opportunity))
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
            opportunities,
            opportunity_words,
            opportunity_id,
            |row| row.fields
        )
    }

    fn words(&self) -> Vec<String> {
        let Fields { display_name, stage, .. } = &self.fields;
        search::words([self.opportunity_id.as_str(), display_name, stage])
    }

    async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(opportunity_words::table)
            .values(diesel::select((
                tx.tenant_id().into_sql::<Text>(),
                self.opportunity_id.as_str().into_sql::<Text>(),
                unnest(self.words()),
            )))
            .into_columns((
                opportunity_words::tenant_id,
                opportunity_words::opportunity_id,
                opportunity_words::word,
            ))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }
}

/// Another transaction may delete a person who stays the owner, before this one has the row.
fn translate(error: DieselError, fields: &Fields) -> Error {
    match (&error, &fields.owner_id) {
        (
            DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, info),
            Some(owner_id),
        ) if info.constraint_name() == Some("opportunities_owner_fkey") => {
            PERSON.not_found(owner_id)
        }
        _ => error.into(),
    }
}
