//! Contracts in the database.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{
    refusals::{self, CONTRACT},
    terms::{Derived, Stage, Terms},
};
use crate::{
    accounts::{self, store::Account},
    batch::Ids,
    budget::{self, Weighed},
    change::{Versioned, resource},
    db::{AccountRef, BelongsTo, Tx, WriteTx, instant, taken},
    error::{Error, Result},
    metadata::Metadata,
    modules,
    page::{self, By, Listed},
    rows::{by_id, found_by_id, set_row},
    schema::contracts,
    search,
};

/// Bytes that a contract adds to a response besides its texts.
const ROW: usize = 256;

/// A row of `contracts`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = contracts, check_for_backend(diesel::pg::Pg))]
pub struct Contract {
    /// Chosen by the caller or generated.
    pub contract_id: String,
    /// The account that the contract is with.
    pub account_id: String,
    /// The incarnation of the account.
    #[serde(skip)]
    pub incarnation: String,
    /// What can be changed in every state.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// What is agreed, and what has become of it.
    #[diesel(embed)]
    #[serde(flatten)]
    pub terms: Terms,
    /// Who has moved the contract, and why.
    #[diesel(embed)]
    #[serde(flatten)]
    pub steps: Steps,
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

/// The fields that a caller can change in every state.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = contracts, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Fields {
    /// What it is called.
    pub title: String,
    /// The title without case and accents: lists are ordered by it.
    #[serde(skip)]
    pub sort_key: String,
    /// The number on the paper.
    pub reference: String,
    /// What is agreed.
    pub description: String,
    /// Where the document lies.
    pub document_uri: String,
    /// Entries for callers' own use.
    pub metadata: Metadata,
}

/// Who has moved the contract, and why.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = contracts, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Steps {
    /// Why it has its state.
    pub state_reason: String,
    /// When it was last submitted.
    #[serde(serialize_with = "instant")]
    pub submit_time: Option<DateTime<Utc>>,
    /// Who last submitted it.
    pub submitter: Option<String>,
    /// When it was approved.
    #[serde(serialize_with = "instant")]
    pub approve_time: Option<DateTime<Utc>>,
    /// Who approved it.
    pub approver: Option<String>,
}

resource!(Contract: CONTRACT, contract_id, |row| BelongsTo::Account(AccountRef {
    account_id: &row.account_id,
    incarnation: &row.incarnation,
}));

/// A contract as it is on a day.
#[derive(Debug, Clone)]
pub struct OnDay(pub Contract, pub NaiveDate);

impl OnDay {
    /// The state and the dates of that day.
    pub fn derived(&self) -> Derived {
        self.0.terms.on(self.1)
    }
}

impl Versioned for OnDay {
    fn etag(&self) -> String {
        self.0.etag()
    }

    fn mismatch(&self) -> Error {
        self.0.mismatch()
    }
}

impl Weighed for Contract {
    fn weight(&self) -> usize {
        let Fields { title, reference, description, document_uri, metadata, .. } = &self.fields;
        let Steps { state_reason, submitter, approver, .. } = &self.steps;
        let texts = [title, reference, description, document_uri, state_reason];
        let texts = texts.into_iter().chain([&self.contract_id, &self.account_id]);
        ROW + budget::texts(texts.chain(submitter).chain(approver)) + metadata.weight()
    }
}

impl Listed for Contract {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.fields.sort_key, self.create_time, &self.contract_id)
    }
}

impl Weighed for OnDay {
    fn weight(&self) -> usize {
        self.0.weight()
    }
}

impl Listed for OnDay {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        self.0.key()
    }

    fn value(&self, by: By) -> String {
        let Fields { sort_key, .. } = &self.0.fields;
        position(by, sort_key, self.0.create_time, &self.derived()).unwrap_or_default()
    }
}

/// The value that orders a contract in a list; `None` if it has no such date.
pub(super) fn position(
    by: By,
    sort_key: &str,
    create_time: DateTime<Utc>,
    derived: &Derived,
) -> Option<String> {
    match by {
        By::TermEndDate => derived.term_end.map(|date| date.to_string()),
        By::NoticeDeadlineDate => derived.deadline.map(|date| date.to_string()),
        By::CreateTime => Some(page::micros(create_time)),
        _ => Some(sort_key.to_owned()),
    }
}

/// A locked contract as it is today, and its locked account.
#[derive(Debug)]
pub struct Kept {
    /// The account.
    pub account: Account,
    /// The contract.
    pub on_day: OnDay,
}

impl Versioned for Kept {
    fn etag(&self) -> String {
        self.on_day.etag()
    }

    fn mismatch(&self) -> Error {
        self.on_day.mismatch()
    }
}

/// A valid contract that has not been inserted yet.
#[derive(Debug)]
pub struct NewContract {
    /// Its id.
    pub contract_id: String,
    /// Its account.
    pub account_id: String,
    /// Its other fields.
    pub fields: Fields,
    /// Its terms: a draft's.
    pub terms: Terms,
}

impl NewContract {
    /// Inserts the contract. Fails if its account is INACTIVE.
    pub async fn insert(&self, tx: &WriteTx) -> Result<OnDay> {
        let account = Account::find_and_keep(tx, &self.account_id).await?;
        require_not_inactive(&account)?;
        let mut terms = self.terms.clone();
        terms.complete(tx.tenant().await?.settings.default_currency.as_deref())?;
        let created = diesel::insert_into(contracts::table)
            .values((
                tx.owns(contracts::tenant_id),
                contracts::contract_id.eq(&self.contract_id),
                contracts::account_id.eq(&account.account_id),
                contracts::incarnation.eq(&account.incarnation),
                contracts::folded.eq(search::stamp(1)),
                &self.fields,
                &terms,
                &Steps::default(),
            ))
            .returning(Contract::as_returning())
            .get_result::<Contract>(&mut tx.conn())
            .await
            .map_err(|error| {
                taken(error, &CONTRACT, &[("contracts_pkey", "contract_id", &self.contract_id)])
            })?;
        tx.created(&created)?;
        created.insert_words(tx).await?;
        Ok(OnDay(created, tx.today().await?))
    }
}

/// Fails if the account is INACTIVE.
pub(super) fn require_not_inactive(account: &Account) -> Result<()> {
    let status = account.fields.status;
    if status == accounts::store::Status::Inactive {
        return Err(accounts::refusals::account_not_active(&account.account_id, status));
    }
    Ok(())
}

found_by_id!(
    Contract: CONTRACT,
    (contracts.contract_id, contracts_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR NO KEY UPDATE.
    lock: for_no_key_update,
    /// Returns the row with this id. Locks it FOR SHARE.
    hold: for_share
);

impl OnDay {
    /// Returns the contract with this id, as it is today.
    pub async fn find(tx: &Tx, contract_id: &str) -> Result<Self> {
        Ok(Self(Contract::find(tx, contract_id).await?, tx.today().await?))
    }

    /// Returns the contracts with these ids, as they are today.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        let (found, today) = (Contract::find_all(tx, ids).await?, tx.today().await?);
        Ok(found.into_iter().map(|row| Self(row, today)).collect())
    }
}

impl Contract {
    /// Rejects a list filtered by a contract for whose account the module is off. Limited callers
    /// get an empty list instead, as in [`modules::require_named`].
    pub async fn require_named(tx: &Tx, contract_id: Option<&str>) -> Result<()> {
        let Some(contract_id) = contract_id else { return Ok(()) };
        let account = contracts::table
            .filter(tx.owns(contracts::tenant_id))
            .filter(contracts::contract_id.eq(contract_id))
            .select(contracts::account_id);
        let account = account.first::<String>(&mut tx.conn()).await.optional()?;
        modules::require_named_account(tx, account.as_deref()).await
    }

    /// Fails unless the contract to which something of this account refers exists and is of the
    /// account. No contract, and the one to which it refers at `present`, are not looked at. The
    /// caller must hold the account, with which alone a contract is deleted.
    pub async fn require_link(
        tx: &WriteTx,
        wanted: Option<&str>,
        present: Option<&str>,
        Account { account_id, .. }: &Account,
    ) -> Result<()> {
        let Some(contract_id) = wanted.filter(|id| present != Some(*id)) else { return Ok(()) };
        let query = by_id!(tx, contracts.contract_id.eq(contract_id), contracts_in_reach);
        let query = query.select(contracts::account_id);
        let found: String = CONTRACT.found(contract_id, query.first(&mut tx.conn()).await)?;
        modules::require_for_accounts(tx, [&*found]).await?;
        if found == *account_id {
            Ok(())
        } else {
            Err(refusals::contract_of_another_account(contract_id, account_id))
        }
    }

    /// Returns the account of a contract. Locks its row FOR SHARE, so that it keeps its status and
    /// is not deleted until commit.
    async fn keep_account(tx: &WriteTx, contract_id: &str) -> Result<Account> {
        let query = by_id!(tx, contracts.contract_id.eq(contract_id), contracts_in_reach);
        let query = query.select(contracts::account_id);
        let account_id: String = CONTRACT.found(contract_id, query.first(&mut tx.conn()).await)?;
        Account::keep_of(tx, &account_id, &CONTRACT, contract_id).await
    }

    /// Returns the contract with this id, as it is today, and its account. Locks the account FOR
    /// SHARE and the contract FOR NO KEY UPDATE.
    pub async fn find_for_update(tx: &WriteTx, contract_id: &str) -> Result<Kept> {
        let account = Self::keep_account(tx, contract_id).await?;
        let contract = Self::lock(tx, contract_id).await?;
        Ok(Kept { account, on_day: OnDay(contract, tx.today().await?) })
    }

    /// Returns the contract with this id, as it is today, and its account. Locks both FOR SHARE, so
    /// that no other transaction moves them until commit.
    pub async fn find_and_keep(tx: &WriteTx, contract_id: &str) -> Result<Kept> {
        let account = Self::keep_account(tx, contract_id).await?;
        let contract = Self::hold(tx, contract_id).await?;
        Ok(Kept { account, on_day: OnDay(contract, tx.today().await?) })
    }

    /// Sets the contents of the contract; equal ones change nothing. The caller must hold the lock
    /// of the row.
    pub async fn update(
        self,
        tx: &WriteTx,
        fields: &Fields,
        terms: &Terms,
        steps: &Steps,
    ) -> Result<OnDay> {
        let today = tx.today().await?;
        if (&self.fields, &self.terms, &self.steps) == (fields, terms, steps) {
            return Ok(OnDay(self, today));
        }
        let stamp = contracts::folded.eq(search::stamp(self.revision + 1));
        let columns = (fields, terms, steps, stamp);
        let updated = set_row!(tx, Self: contracts.contract_id(&self.contract_id), columns).await?;
        tx.updated(&self, &updated)?;
        self.renew_words(tx, &updated).await?;
        Ok(OnDay(updated, today))
    }

    /// Deletes the contracts of an account and records each. The caller must hold the account FOR
    /// UPDATE, and must have deleted their delivery setups.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<()> {
        let mut removed = diesel::delete(contracts::table.filter(tx.owns(contracts::tenant_id)))
            .filter(contracts::account_id.eq(account_id))
            .returning(Self::as_returning())
            .get_results::<Self>(&mut tx.conn())
            .await?;
        removed.sort_by(|one, other| one.contract_id.cmp(&other.contract_id));
        removed.iter().try_for_each(|contract| tx.deleted(contract))
    }

    /// Returns the first ids of the account's contracts that are SCHEDULED or ACTIVE on a day, at
    /// most `limit`, and how many there are in all.
    pub async fn in_force(
        tx: &WriteTx,
        account_id: &str,
        today: NaiveDate,
        limit: i64,
    ) -> Result<(Vec<String>, i64)> {
        let in_force = || {
            let last = contracts::last_date;
            let lasts = last.is_null().or(last.assume_not_null().ge(today));
            contracts::table
                .filter(tx.owns(contracts::tenant_id))
                .filter(contracts::account_id.eq(account_id))
                .filter(contracts::stage.eq(Stage::Approved).and(lasts))
        };
        let count: i64 = in_force().count().get_result(&mut tx.conn()).await?;
        let first = in_force().order(contracts::contract_id).select(contracts::contract_id);
        Ok((first.limit(limit).load(&mut tx.conn()).await?, count))
    }
}
