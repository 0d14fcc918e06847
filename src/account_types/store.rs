//! Account types in the database.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::refusals::{self, ACCOUNT_TYPE};
use crate::{
    budget::{self, Weighed},
    change::resource,
    db::{BelongsTo, Tx, WriteTx, taken},
    error::{Error, Result},
    page::{Listed, Listing, Page, keyset, total},
    rows::{by_id, found_by_id, set_row},
    schema::account_types,
};

/// Bytes that an account type adds to a response besides its texts.
const ROW: usize = 128;

/// A row of `account_types`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = account_types, check_for_backend(diesel::pg::Pg))]
pub struct AccountType {
    /// Chosen by the caller or generated.
    pub account_type_id: String,
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
}

/// The fields of an account type that a caller can change.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = account_types, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read, unique in the tenant without regard to case.
    pub display_name: String,
    /// `text::caseless` of the name: must be unique, and lists are ordered by it.
    #[serde(skip)]
    pub name_key: String,
    /// What the type means.
    pub description: String,
    /// Whether new accounts without a type get this one.
    pub is_default: bool,
    /// Whether the type can be assigned.
    pub active: bool,
}

resource!(AccountType: ACCOUNT_TYPE, account_type_id, |_row| BelongsTo::Tenant);

impl Weighed for AccountType {
    fn weight(&self) -> usize {
        let Fields { display_name, description, .. } = &self.fields;
        ROW + budget::texts([&self.account_type_id, display_name, description])
    }
}

impl Listed for AccountType {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.name_key, self.create_time, &self.account_type_id)
    }
}

/// A valid account type that has not been inserted yet.
#[derive(Debug)]
pub struct NewAccountType {
    /// Its id.
    pub account_type_id: String,
    /// Its other fields.
    pub fields: Fields,
}

/// Which account types a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Whether deactivated account types are included.
    pub show_inactive: bool,
    /// Only the account type with this key.
    pub name_key: Option<String>,
}

/// Account types that the transaction holds, each with whether it is active.
#[derive(Debug, Default)]
pub struct Held(BTreeMap<String, bool>);

impl Held {
    /// [`AccountType::require_active`] for one of these types.
    pub fn require_active(&self, id: &str) -> Result<()> {
        match self.0.get(id) {
            Some(true) => Ok(()),
            Some(false) => Err(refusals::account_type_inactive(id)),
            None => Err(ACCOUNT_TYPE.not_found(id)),
        }
    }
}

impl NewAccountType {
    /// Inserts the account type. As the default, it replaces the present default.
    pub async fn insert(&self, tx: &WriteTx) -> Result<AccountType> {
        if self.fields.is_default {
            if !self.fields.active {
                return Err(refusals::default_account_type_inactive(&self.account_type_id));
            }
            AccountType::clear_default(tx, &self.account_type_id).await?;
        }
        let created = diesel::insert_into(account_types::table)
            .values((
                tx.owns(account_types::tenant_id),
                account_types::account_type_id.eq(&self.account_type_id),
                &self.fields,
            ))
            .returning(AccountType::as_returning())
            .get_result(&mut tx.conn())
            .await
            .map_err(|error| translate(error, &self.account_type_id, &self.fields))?;
        tx.created(&created)?;
        Ok(created)
    }
}

found_by_id!(
    AccountType: ACCOUNT_TYPE,
    (account_types.account_type_id),
    (),
    /// Returns the row with this id. Locks it FOR NO KEY UPDATE.
    find_for_update: for_no_key_update
);

impl AccountType {
    /// Fails unless the account type exists and is active. Locks its row FOR SHARE, so this holds
    /// until commit.
    pub async fn require_active(tx: &WriteTx, account_type_id: &str) -> Result<()> {
        let query = by_id!(tx, account_types.account_type_id.eq(account_type_id));
        let query = query.select(account_types::active).for_share();
        if ACCOUNT_TYPE.found(account_type_id, tx.send_returning(query).await)? {
            Ok(())
        } else {
            Err(refusals::account_type_inactive(account_type_id))
        }
    }

    /// Locks account types FOR SHARE, in the order of their ids.
    pub async fn hold_all(tx: &WriteTx, ids: &BTreeSet<&str>) -> Result<Held> {
        if ids.is_empty() {
            return Ok(Held::default());
        }
        let types = by_id!(tx, account_types.account_type_id.eq_any(ids))
            .order(account_types::account_type_id)
            .select((account_types::account_type_id, account_types::active))
            .for_share();
        let types = types.load::<(String, bool)>(&mut tx.conn()).await?;
        Ok(Held(types.into_iter().collect()))
    }

    /// Returns the id of the default, if there is one. Locks its row FOR SHARE, so it stays active
    /// until commit.
    pub async fn default_id(tx: &WriteTx) -> Result<Option<String>> {
        let find = || {
            account_types::table
                .filter(tx.owns(account_types::tenant_id))
                .filter(account_types::is_default)
                .select(account_types::account_type_id)
                .for_share()
        };
        let found = find().first(&mut tx.conn()).await.optional()?;
        if found.is_some() {
            return Ok(found);
        }
        // If this query waited for a transaction that moved the flag, it finds no row. A second
        // query sees the row that has the flag now.
        Ok(find().first(&mut tx.conn()).await.optional()?)
    }

    /// Returns one page of account types.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let filtered = || {
            let mut query = account_types::table
                .filter(tx.owns(account_types::tenant_id))
                .select(Self::as_select())
                .into_boxed();
            if !filter.show_inactive {
                query = query.filter(account_types::active);
            }
            if let Some(name_key) = &filter.name_key {
                query = query.filter(account_types::name_key.eq(name_key));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = keyset!(filtered(), page, account_types(name_key, account_type_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }

    /// Sets the fields of the account type; equal fields change nothing. The caller must hold the
    /// lock of the row.
    pub async fn update(self, tx: &WriteTx, fields: &Fields) -> Result<Self> {
        if self.fields == *fields {
            return Ok(self);
        }
        if fields.is_default && !self.fields.is_default {
            Self::clear_default(tx, &self.account_type_id).await?;
        }
        let id = &*self.account_type_id;
        let updated = set_row!(tx, Self: account_types.account_type_id(id), fields).await;
        let updated = updated.map_err(|error| translate(error, id, fields))?;
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deactivates the account type, which also clears its default flag. The caller must hold the
    /// lock of the row.
    pub async fn deactivate(self, tx: &WriteTx) -> Result<Self> {
        let fields = Fields { active: false, is_default: false, ..self.fields.clone() };
        self.update(tx, &fields).await
    }

    /// Clears the default flag of every account type but `except`.
    async fn clear_default(tx: &WriteTx, except: &str) -> Result<()> {
        let cleared =
            diesel::update(account_types::table.filter(tx.owns(account_types::tenant_id)))
                .filter(account_types::is_default.and(account_types::account_type_id.ne(except)))
                .set((
                    account_types::is_default.eq(false),
                    account_types::revision.eq(account_types::revision + 1),
                    account_types::update_time.eq(diesel::dsl::now),
                ))
                .returning(Self::as_returning())
                .get_results::<Self>(&mut tx.conn())
                .await?;
        for now in cleared {
            let mut before = now.clone();
            before.fields.is_default = true;
            tx.updated(&before, &now)?;
        }
        Ok(())
    }
}

fn translate(error: diesel::result::Error, id: &str, fields: &Fields) -> Error {
    let name = ("account_types_name_key", "display_name", &*fields.display_name);
    taken(error, &ACCOUNT_TYPE, &[("account_types_pkey", "account_type_id", id), name])
}
