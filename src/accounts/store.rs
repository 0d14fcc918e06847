//! Accounts in the database.

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use serde_json::Value;

pub use super::{bulk::Locked, contacts::WithContact, value::Status};
use super::{
    dependents::{Deleted, Removed},
    value::{Address, Contact, Json},
    words,
};
use crate::{
    account_types::store::AccountType,
    budget::{self, Weighed},
    caller::Caller,
    change::resource,
    db::{AccountRef, BelongsTo, Db, Question, WriteTx, taken},
    error::{Error, Result},
    id,
    metadata::Metadata,
    page::{self, By, Listed},
    people::store::Person,
    relations::{
        links, organization, purchasing,
        settings::UserSettings,
        slots::{self, Contacts},
    },
    resource::{ACCOUNT, Kind, ORGANIZATION},
    rows::found_by_id,
    schema::{accounts, people},
    search,
};

/// Bytes that an account adds to a response besides its texts.
const ROW: usize = 256;

/// A row of `accounts`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
pub struct Account {
    /// Chosen by the caller or generated.
    pub account_id: String,
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
    /// Generated. Unlike the id, no later account gets it.
    #[serde(skip)]
    pub incarnation: String,
    /// Equal to [`search::stamp`] of the revision if this version derived `sort_key` and the words.
    #[serde(skip)]
    pub folded: i64,
}

/// The fields of an account that a caller can change.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset, Serialize)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// Name that people read.
    pub display_name: String,
    /// The name without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// What the account is about.
    pub description: String,
    /// The organization that the account belongs to.
    pub organization_id: String,
    /// Its type; `None` is unassigned.
    pub account_type_id: Option<String>,
    /// Its status.
    pub status: Status,
    /// Why it has that status.
    pub status_reason: String,
    /// The primary contact, given inline.
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
    /// Internal comment.
    pub comment: String,
    /// Entries for callers' own use.
    pub metadata: Metadata,
    /// Tax number; empty for none.
    pub tax_id: String,
    /// The member of the tenant's staff who manages the account.
    pub account_manager_id: Option<String>,
    /// The user who is the primary contact, instead of an inline one.
    pub primary_contact_id: Option<String>,
    /// The user who receives invoices.
    pub billing_contact_id: Option<String>,
    /// The user who receives copies of invoices.
    pub cc_billing_contact_id: Option<String>,
}

impl Fields {
    /// Whether the account has a primary contact, inline or by person.
    pub const fn has_primary_contact(&self) -> bool {
        self.primary_contact.is_some() || self.primary_contact_id.is_some()
    }

    /// Whether these fields differ from `others` in the status or its reason, and in nothing else.
    pub(super) fn differ_in_status_only(&self, others: &Self) -> bool {
        self != others
            && Self {
                status: others.status,
                status_reason: others.status_reason.clone(),
                ..self.clone()
            } == *others
    }

    /// The people in the account's contact slots.
    pub fn contacts(&self) -> impl Iterator<Item = &String> {
        [&self.primary_contact_id, &self.billing_contact_id, &self.cc_billing_contact_id]
            .into_iter()
            .flatten()
    }

    /// The person in each contact slot.
    pub fn slots(&self) -> Contacts {
        [
            self.primary_contact_id.clone(),
            self.billing_contact_id.clone(),
            self.cc_billing_contact_id.clone(),
        ]
    }
}

resource!(Account: ACCOUNT, account_id, |row| BelongsTo::Account(row.reference()));

impl Weighed for Account {
    fn weight(&self) -> usize {
        let Fields {
            display_name,
            description,
            organization_id,
            status_reason,
            billing_details,
            comment,
            ..
        } = &self.fields;
        let texts =
            [display_name, description, organization_id, status_reason, billing_details, comment];
        let texts = texts.into_iter().chain([&self.account_id, &self.fields.tax_id]);
        let Fields { billing_address, shipping_address, postal_address, official_address, .. } =
            &self.fields;
        let addresses = [billing_address, shipping_address, postal_address, official_address]
            .into_iter()
            .flatten();
        let contact =
            self.fields.primary_contact.as_ref().map_or(0, |Json(contact)| contact.weight());
        ROW + budget::texts(texts)
            + budget::texts(
                self.fields
                    .contacts()
                    .chain(&self.fields.account_manager_id)
                    .chain(&self.fields.account_type_id),
            )
            + addresses.map(|Json(address)| address.weight()).sum::<usize>()
            + contact
            + self.fields.metadata.weight()
            + self.fields.preferences.as_ref().map_or(0, budget::json)
    }
}

impl Listed for Account {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.account_id)
    }

    fn value(&self, by: By) -> String {
        match by {
            By::CreateTime => page::micros(self.create_time),
            By::UpdateTime => page::micros(self.update_time),
            By::Status => page::status_and_name(self.fields.status.name(), &self.fields.sort_key),
            _ => self.fields.sort_key.clone(),
        }
    }
}

/// A valid account that has not been inserted yet.
#[derive(Debug)]
pub struct NewAccount {
    /// Its id; `None` to generate one.
    pub account_id: Option<String>,
    /// Its other fields; without a type it gets the default one.
    pub fields: Fields,
    /// Whether the account gets no type, not even the default.
    pub without_account_type: bool,
}

impl NewAccount {
    /// Inserts the account. Checks its type or finds the default. As a primary account, it replaces
    /// the present one of the organization.
    pub async fn insert(&self, tx: &WriteTx) -> Result<WithContact> {
        let account = self.insert_before_contacts(tx).await?;
        account.require_own_contacts(tx).await?;
        Account::with_contact(tx, account).await
    }

    /// [`NewAccount::insert`] without checking that the contacts are users of the account. The
    /// caller must do that ([`Account::require_own_contacts`]) when it has added the users.
    pub async fn insert_before_contacts(&self, tx: &WriteTx) -> Result<Account> {
        let mut fields = self.fields.clone();
        match &fields.account_type_id {
            Some(id) => AccountType::require_active(tx, id).await?,
            None if self.without_account_type => {}
            None => fields.account_type_id = AccountType::default_id(tx).await?,
        }
        let contacts: Vec<_> = fields.contacts().cloned().collect();
        if fields.is_primary {
            // No account has an empty id.
            Account::lock_with_primary(
                tx,
                self.account_id.as_deref().unwrap_or_default(),
                &fields.organization_id,
            )
            .await?;
        }
        if !contacts.is_empty() {
            tx.lock_tree_shared().await?;
        }
        // Reads the tenant row: the queries above have been answered, so it has loaded and this
        // does not wait.
        organization::require(tx, &fields.organization_id).await?;
        let account_id = match &self.account_id {
            Some(id) => id.clone(),
            None => id::generate(&tx.tenant().await?.settings.account_id_prefix),
        };
        if fields.is_primary {
            Account::clear_primary(tx, &fields.organization_id, &account_id).await?;
        }
        slots::lock_new(tx, &contacts).await?;
        if let Some(id) = &fields.account_manager_id {
            Person::require_manager(tx, id).await?;
        }
        let insert = async {
            let row = diesel::insert_into(accounts::table)
                .values((
                    tx.owns(accounts::tenant_id),
                    accounts::account_id.eq(&account_id),
                    accounts::folded.eq(search::stamp(1)),
                    &fields,
                ))
                .returning(Account::as_returning());
            tx.send_returning::<_, Account>(row)
                .await
                .map_err(|error| translate(error, &account_id, &fields))
        };
        let link = links::insert_own(tx, &account_id, &fields.organization_id);
        let words = words::insert(tx, &account_id, fields.words(&account_id));
        let (account, _) = tx.together(insert, tx.together(link, words)).await?;
        tx.created(&account)?;
        Ok(account)
    }
}

/// Accounts by id for hot reads, each with the person who is its primary contact.
static BY_ID: Question<(String, String, Account, Option<Person>)> =
    Question::new(32, |question, tenant, keys| {
        let contact = people::tenant_id
            .eq(accounts::tenant_id)
            .and(people::person_id.nullable().eq(accounts::primary_contact_id));
        let ids: Vec<_> = keys.iter().flatten().map(String::as_str).collect();
        question.statement(
            &accounts::table
                .left_join(people::table.on(contact))
                .filter(accounts::tenant_id.eq(tenant))
                .filter(accounts::account_id.eq_any(ids))
                .select((
                    accounts::tenant_id,
                    accounts::account_id,
                    Account::as_select(),
                    Option::<Person>::as_select(),
                )),
        )
    });

found_by_id!(
    Account: ACCOUNT,
    (accounts.account_id, accounts_in_reach),
    (require_all(|row| &*row.fields.organization_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    find_for_update: for_update,
    /// Returns the row with this id. Locks it FOR SHARE, so that no other transaction deletes the
    /// account or changes its status until commit.
    find_and_keep: for_share
);

impl Account {
    /// Returns the account with this id and its contact, as a hot read where that is possible.
    pub async fn get(db: &Db, caller: &Caller, account_id: &str) -> Result<WithContact> {
        if let Some(found) = db.find(caller, &BY_ID, &[account_id]).await?
            && let Some((_, _, account, contact)) = found.rows.into_iter().next()
        {
            return Ok(WithContact(account, contact));
        }
        db.read(caller, async |tx| {
            let account = Self::find(tx, account_id).await?;
            Self::with_contact(tx, account).await
        })
        .await
    }

    /// [`Account::find_and_keep`] for a change of something of the account, which is not found if
    /// the account is not. Accounts are locked before what belongs to them.
    pub async fn keep_of(tx: &WriteTx, account_id: &str, kind: &Kind, id: &str) -> Result<Self> {
        Self::find_and_keep(tx, account_id)
            .await
            .map_err(|error| if ACCOUNT.is_not_found(&error) { kind.not_found(id) } else { error })
    }

    /// Deletes the account and everything that belongs to it. `removed` is what the activity says
    /// of its dependents. The caller must hold the row FOR UPDATE: each insert of something that
    /// belongs to the account locks that row, so none happens meanwhile.
    pub async fn delete(self, tx: &WriteTx, removed: Vec<Removed>) -> Result<()> {
        // Locks people first, because other transactions lock a person before that person's
        // settings.
        purchasing::clear_purchasing_account(tx, self.reference()).await?;
        UserSettings::remove_all_of_account(tx, &self.account_id).await?;
        links::remove_all(tx, self.reference()).await?;
        diesel::delete(
            accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .filter(accounts::account_id.eq(&self.account_id)),
        )
        .execute(&mut tx.conn())
        .await?;
        tx.deleted(&Deleted { account: &self, removed: removed.into_iter().collect() })
    }

    /// The id and incarnation of the account, for the trail.
    pub fn reference(&self) -> AccountRef<'_> {
        AccountRef { account_id: &self.account_id, incarnation: &self.incarnation }
    }
}

pub(super) fn translate(error: DieselError, id: &str, fields: &Fields) -> Error {
    match &error {
        DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, info)
            if info.constraint_name() == Some("accounts_organization_fkey") =>
        {
            ORGANIZATION.not_found(&fields.organization_id)
        }
        _ => taken(error, &ACCOUNT, &[("accounts_pkey", "account_id", id)]),
    }
}
