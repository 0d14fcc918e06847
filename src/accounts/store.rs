//! Accounts in the database: rows and the words they are found by.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use serde_json::Value;

use super::value::{Address, Contact, Json, Status};
use crate::{
    account_types::store::AccountType,
    db::{Event, Tx, WriteTx, snapshot},
    error::{Error, Kind, Result},
    organizations::store::Organization,
    page::{Page, keyset},
    people::store::Person,
    schema::{account_words, accounts, organization_ancestors},
    search::{self, unnest},
};

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
}

/// The fields of an account that a caller can change.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg), treat_none_as_null = true)]
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
    pub metadata: Json<BTreeMap<String, String>>,
    /// The person of the tenant's staff who looks after it.
    pub account_manager_id: Option<String>,
}

/// A valid account that is not there yet.
#[derive(Debug)]
pub struct NewAccount {
    /// Its id.
    pub account_id: String,
    /// The rest; without a type it gets the default one.
    pub fields: Fields,
    /// Unassigned on purpose: no type, not even the default.
    pub without_account_type: bool,
    /// People whom the account is to have as contacts.
    pub contacts: Vec<String>,
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
    /// Only those with this manager.
    pub account_manager_id: Option<String>,
    /// Only those of this type.
    pub account_type_id: Option<String>,
}

impl NewAccount {
    /// Inserts it. Its type is checked or found, and as a primary account it takes the place of the organization's present one.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Account> {
        let mut fields = self.fields.clone();
        match &fields.account_type_id {
            Some(id) => AccountType::require_active(tx, id).await?,
            None if self.without_account_type => {}
            None => fields.account_type_id = AccountType::default_id(tx).await?,
        }
        Account::refuse_contacts(tx, &self.account_id, &self.contacts).await?;
        if let Some(id) = &fields.account_manager_id {
            Person::require_manager(tx, id).await?;
        }
        if fields.is_primary {
            Account::clear_primary(tx, &fields.organization_id, &self.account_id).await?;
        }
        let account = diesel::insert_into(accounts::table)
            .values((accounts::account_id.eq(&self.account_id), &fields))
            .returning(Account::as_returning())
            .get_result::<Account>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.account_id, &fields))?;
        account.insert_words(tx).await?;
        account.record(tx, None)?;
        Ok(account)
    }
}

impl Account {
    /// The account with this id.
    pub async fn find(tx: &Tx, account_id: &str) -> Result<Self> {
        accounts::table
            .filter(accounts::account_id.eq(account_id))
            .select(Self::as_select())
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| Error::not_found(Kind::Account, account_id))
    }

    /// The same, held against others who would change it until the transaction ends.
    pub async fn find_for_update(tx: &WriteTx, account_id: &str) -> Result<Self> {
        accounts::table
            .filter(accounts::account_id.eq(account_id))
            .select(Self::as_select())
            .for_update()
            .first(&mut tx.conn())
            .await
            .optional()?
            .ok_or_else(|| Error::not_found(Kind::Account, account_id))
    }

    /// The accounts with these ids, in their order; one that is missing fails all.
    pub async fn find_all(tx: &Tx, account_ids: &[String]) -> Result<Vec<Self>> {
        let found: BTreeMap<_, _> = accounts::table
            .filter(accounts::account_id.eq_any(account_ids))
            .select(Self::as_select())
            .load::<Self>(&mut tx.conn())
            .await?
            .into_iter()
            .map(|account| (account.account_id.clone(), account))
            .collect();
        account_ids.iter().map(|id| found.get(id).cloned().ok_or_else(|| Error::not_found(Kind::Account, id))).collect()
    }

    /// One page of accounts, and the token of the next.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<(Vec<Self>, String)> {
        let mut query = accounts::table.select(Self::as_select()).into_boxed();
        for (from, to) in search::ranges(&filter.query) {
            let found = account_words::table
                .filter(account_words::word.ge(from).and(account_words::word.lt(to)))
                .select(account_words::account_id);
            query = query.filter(accounts::account_id.eq_any(found));
        }
        query = match &*filter.statuses {
            [] => query,
            // An equality keeps the order of the index over status and name.
            [status] => query.filter(accounts::status.eq(*status)),
            statuses => query.filter(accounts::status.eq_any(statuses)),
        };
        match &filter.organization_id {
            Some(id) if filter.include_descendants && filter.query.is_empty() => {
                let below = organization_ancestors::table
                    .filter(organization_ancestors::ancestor_id.eq(id))
                    .select(organization_ancestors::organization_id);
                query = query.filter(accounts::organization_id.eq_any(below));
            }
            // Of two subqueries PostgreSQL may take every row of one with every row of the other, so one is asked first.
            Some(id) if filter.include_descendants => {
                query = query.filter(accounts::organization_id.eq_any(Organization::below(tx, id).await?));
            }
            Some(id) => query = query.filter(accounts::organization_id.eq(id)),
            None => {}
        }
        if let Some(account_manager_id) = &filter.account_manager_id {
            query = query.filter(accounts::account_manager_id.eq(account_manager_id));
        }
        if let Some(account_type_id) = &filter.account_type_id {
            query = query.filter(accounts::account_type_id.eq(account_type_id));
        }
        let mut rows = keyset!(query, page, accounts(sort_key, account_id)).load::<Self>(&mut tx.conn()).await?;
        let next = page.cut(&mut rows, |row| (&row.fields.sort_key, row.create_time, &row.account_id));
        Ok((rows, next))
    }

    /// Gives the account, which the transaction holds, new fields. Nothing happens if they are the present ones.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        self.fields.status.require_next(fields.status, &self.account_id)?;
        // Also a type it keeps: an account whose type was deactivated must leave it with its next update.
        if let Some(id) = &fields.account_type_id {
            AccountType::require_active(tx, id).await?;
        }
        if let Some(id) = fields.account_manager_id.as_deref().filter(|id| self.fields.account_manager_id.as_deref() != Some(*id))
        {
            Person::require_manager(tx, id).await?;
        }
        if self.fields == *fields {
            return Ok(self);
        }
        let moved = self.fields.organization_id != fields.organization_id;
        if fields.is_primary && (moved || !self.fields.is_primary) {
            Self::clear_primary(tx, &fields.organization_id, &self.account_id).await?;
        }
        let updated = diesel::update(accounts::table)
            .filter(accounts::account_id.eq(&self.account_id))
            .set((fields, accounts::revision.eq(accounts::revision + 1), accounts::update_time.eq(diesel::dsl::now)))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.account_id, fields))?;
        if updated.words() != self.words() {
            diesel::delete(account_words::table.filter(account_words::account_id.eq(&self.account_id)))
                .execute(&mut tx.conn())
                .await?;
            updated.insert_words(tx).await?;
        }
        updated.record(tx, Some(&self))?;
        Ok(updated)
    }

    /// Deletes the account, which the transaction holds, for good.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        diesel::delete(accounts::table.filter(accounts::account_id.eq(&self.account_id))).execute(&mut tx.conn()).await?;
        tx.record(Event {
            resource: Kind::Account.noun(),
            id: &self.account_id,
            account_id: Some(&self.account_id),
            before: snapshot(&self)?,
            after: None,
        });
        Ok(())
    }

    /// Refuses people as contacts: a contact is a user of the account, and people cannot become users yet.
    pub async fn refuse_contacts(tx: &WriteTx, account_id: &str, contacts: &[String]) -> Result<()> {
        let Some(person_id) = contacts.first() else { return Ok(()) };
        Person::find(tx, person_id).await?;
        Err(Error::NotAnAccountUser { account_id: account_id.to_owned(), person_id: person_id.clone() })
    }

    /// Takes the primary flag from whatever account of the organization has it, unless it is `except`. Others who want the
    /// flag wait for the organization.
    async fn clear_primary(tx: &WriteTx, organization_id: &str, except: &str) -> Result<()> {
        Organization::lock(tx, organization_id).await?;
        let cleared = diesel::update(accounts::table)
            .filter(accounts::organization_id.eq(organization_id))
            .filter(accounts::is_primary.and(accounts::account_id.ne(except)))
            .set((
                accounts::is_primary.eq(false),
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

    fn words(&self) -> Vec<String> {
        let contact = self.fields.primary_contact.as_ref().map(|contact| &contact.0);
        let contact = contact.into_iter().flat_map(|contact| [contact.name.as_str(), &contact.email]);
        search::words([self.account_id.as_str(), &self.fields.display_name].into_iter().chain(contact))
    }

    async fn insert_words(&self, tx: &WriteTx) -> Result<()> {
        diesel::insert_into(account_words::table)
            .values(diesel::select((self.account_id.as_str().into_sql::<Text>(), unnest(self.words()))))
            .into_columns((account_words::account_id, account_words::word))
            .execute(&mut tx.conn())
            .await?;
        Ok(())
    }

    fn record(&self, tx: &WriteTx, before: Option<&Self>) -> Result<()> {
        tx.record(Event {
            resource: Kind::Account.noun(),
            id: &self.account_id,
            account_id: Some(&self.account_id),
            before: before.map(snapshot).transpose()?.flatten(),
            after: snapshot(self)?,
        });
        Ok(())
    }
}

fn translate(error: DieselError, id: &str, fields: &Fields) -> Error {
    let DieselError::DatabaseError(kind, info) = &error else { return error.into() };
    match (kind, info.constraint_name()) {
        (DatabaseErrorKind::UniqueViolation, Some("accounts_pkey")) => {
            Error::AlreadyExists { kind: Kind::Account, field: "account_id", value: id.to_owned() }
        }
        (DatabaseErrorKind::ForeignKeyViolation, Some("accounts_organization_fkey")) => {
            Error::not_found(Kind::Organization, &fields.organization_id)
        }
        _ => error.into(),
    }
}
