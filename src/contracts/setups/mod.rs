//! Delivery setups in the database: how a contract is delivered, as projects of another system.

mod list;
pub(super) mod wire;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::RunQueryDsl;
use serde::Serialize;

pub use self::list::Filter;
use self::list::show;
use super::{
    refusals::{self, CONTRACT, DELIVERY_SETUP},
    store::{Contract, Kept},
    terms::State,
};
use crate::{
    accounts::{self, store::Status},
    batch::Ids,
    budget::{self, Weighed},
    change::{Versioned, resource},
    db::{AccountRef, BelongsTo, Tx, WriteTx, taken},
    enums::text_enum,
    error::{Error, Result},
    modules,
    page::Listed,
    rows::{by_id, found_by_id, set_row},
    schema::delivery_setups,
};

/// Bytes that a delivery setup adds to a response besides its texts.
const ROW: usize = 128;
/// The unique index that holds at most one open setup of a project.
const ONE_OPEN: &str = "delivery_setups_project_key";

text_enum! {
    /// How far a delivery is.
    pub enum SetupState {
        /// Being prepared.
        Planned = "PLANNED",
        /// Ready to begin.
        Ready = "READY",
        /// Under way.
        Active = "ACTIVE",
        /// Done.
        Completed = "COMPLETED",
        /// Given up.
        Cancelled = "CANCELLED",
    }
}

impl SetupState {
    /// The states of an open setup: a project has at most one.
    const OPEN: [Self; 3] = [Self::Planned, Self::Ready, Self::Active];

    /// The states that can follow a state, or in which a setup can be created (`None`).
    const fn next(from: Option<Self>) -> &'static [Self] {
        match from {
            None => &Self::OPEN,
            Some(Self::Planned) => &[Self::Ready, Self::Cancelled],
            Some(Self::Ready) => &[Self::Active, Self::Cancelled],
            Some(Self::Active) => &[Self::Completed, Self::Cancelled],
            Some(Self::Completed | Self::Cancelled) => &[],
        }
    }
}

/// A row of `delivery_setups`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = delivery_setups, check_for_backend(diesel::pg::Pg))]
pub struct DeliverySetup {
    /// Chosen by the caller or generated.
    pub delivery_setup_id: String,
    /// The contract that it delivers under.
    pub contract_id: String,
    /// The account of the contract.
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
}

/// The fields of a delivery setup that a caller can change.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = delivery_setups, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// The project in the other system.
    pub project_id: String,
    /// How it is delivered, in the tenant's own word.
    pub delivery_model: String,
    /// What is delivered.
    pub description: String,
    /// The state.
    pub state: SetupState,
    /// Why it has its state.
    pub state_reason: String,
    /// The first day as planned.
    pub start_date: Option<NaiveDate>,
    /// The last day as planned.
    pub end_date: Option<NaiveDate>,
}

resource!(DeliverySetup: DELIVERY_SETUP, delivery_setup_id, |row| {
    BelongsTo::Account(AccountRef { account_id: &row.account_id, incarnation: &row.incarnation })
});

/// A delivery setup, and the state of its contract on a day.
#[derive(Debug, Clone)]
pub struct Shown(pub DeliverySetup, pub State);

impl Versioned for Shown {
    fn etag(&self) -> String {
        self.0.etag()
    }

    fn mismatch(&self) -> Error {
        self.0.mismatch()
    }
}

impl Weighed for DeliverySetup {
    fn weight(&self) -> usize {
        let Fields { project_id, delivery_model, description, state_reason, .. } = &self.fields;
        let Self { delivery_setup_id, contract_id, account_id, .. } = self;
        let texts = [project_id, delivery_model, description, state_reason];
        ROW + budget::texts(texts.into_iter().chain([delivery_setup_id, contract_id, account_id]))
    }
}

impl Listed for DeliverySetup {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        ("", self.create_time, &self.delivery_setup_id)
    }
}

/// A valid delivery setup that has not been inserted yet.
#[derive(Debug)]
pub struct NewSetup {
    /// Its id.
    pub delivery_setup_id: String,
    /// Its contract.
    pub contract_id: String,
    /// Its other fields.
    pub fields: Fields,
}

impl NewSetup {
    /// Inserts the delivery setup.
    pub async fn insert(&self, tx: &WriteTx) -> Result<Shown> {
        let kept = Contract::find_and_keep(tx, &self.contract_id).await?;
        let (account, state) = (&kept.account, kept.on_day.derived().state);
        if matches!(state, State::Expired | State::Terminated | State::Void) {
            let wanted = "DRAFT, IN_APPROVAL, SCHEDULED or ACTIVE";
            return Err(refusals::contract_not_in_force(&self.contract_id, state, wanted));
        }
        let id = &*self.delivery_setup_id;
        require_next(id, None, self.fields.state, &kept)?;
        require_no_other(tx, id, None, &self.fields).await?;
        let created = diesel::insert_into(delivery_setups::table)
            .values((
                tx.owns(delivery_setups::tenant_id),
                delivery_setups::delivery_setup_id.eq(id),
                delivery_setups::contract_id.eq(&self.contract_id),
                delivery_setups::account_id.eq(&account.account_id),
                delivery_setups::incarnation.eq(&account.incarnation),
                &self.fields,
            ))
            .returning(DeliverySetup::as_returning())
            .get_result::<DeliverySetup>(&mut tx.conn())
            .await
            .map_err(|error| translate(error, id))?;
        tx.created(&created)?;
        Ok(Shown(created, state))
    }
}

found_by_id!(
    DeliverySetup: DELIVERY_SETUP,
    (delivery_setups.delivery_setup_id, delivery_setups_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR NO KEY UPDATE.
    lock: for_no_key_update
);

impl Shown {
    /// Returns the delivery setup with this id.
    pub async fn find(tx: &Tx, id: &str) -> Result<Self> {
        let mut shown = show(tx, vec![DeliverySetup::find(tx, id).await?]).await?;
        shown.pop().ok_or_else(|| Error::internal("no contract for a delivery setup"))
    }

    /// Returns the delivery setups with these ids.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        show(tx, DeliverySetup::find_all(tx, ids).await?).await
    }
}

impl DeliverySetup {
    /// Returns the delivery setup with this id, and its contract with the account. Locks the setup
    /// FOR NO KEY UPDATE and the others FOR SHARE, in the order account, contract, setup.
    pub async fn find_for_update(tx: &WriteTx, id: &str) -> Result<(Shown, Kept)> {
        let this = by_id!(tx, delivery_setups.delivery_setup_id.eq(id), delivery_setups_in_reach);
        let query = this.select(delivery_setups::contract_id);
        let contract_id: String = DELIVERY_SETUP.found(id, query.first(&mut tx.conn()).await)?;
        let kept = Contract::find_and_keep(tx, &contract_id).await.map_err(|error| {
            if CONTRACT.is_not_found(&error) { DELIVERY_SETUP.not_found(id) } else { error }
        })?;
        let setup = Self::lock(tx, id).await?;
        Ok((Shown(setup, kept.on_day.derived().state), kept))
    }

    /// Sets the fields of the delivery setup; equal fields change nothing. The caller must hold the
    /// locks of [`DeliverySetup::find_for_update`].
    pub async fn update(self, tx: &WriteTx, fields: &Fields, kept: &Kept) -> Result<Shown> {
        let state = kept.on_day.derived().state;
        if self.fields == *fields {
            return Ok(Shown(self, state));
        }
        let id = &*self.delivery_setup_id;
        if self.fields.state != fields.state {
            require_next(id, Some(self.fields.state), fields.state, kept)?;
        }
        if self.fields.project_id != fields.project_id {
            if self.fields.state != SetupState::Planned {
                return Err(refusals::delivery_setup_project_fixed(id, self.fields.state));
            }
            require_no_other(tx, id, Some(id), fields).await?;
        }
        let updated = set_row!(tx, Self: delivery_setups.delivery_setup_id(id), fields).await;
        let updated = updated.map_err(|error| translate(error, id))?;
        tx.updated(&self, &updated)?;
        Ok(Shown(updated, state))
    }

    /// Deletes the delivery setup. Fails if it is ACTIVE. The caller must hold the lock of the row.
    pub async fn delete(self, tx: &WriteTx) -> Result<()> {
        let id = &*self.delivery_setup_id;
        if self.fields.state == SetupState::Active {
            return Err(refusals::delivery_setup_active(id));
        }
        diesel::delete(delivery_setups::table.filter(tx.owns(delivery_setups::tenant_id)))
            .filter(delivery_setups::delivery_setup_id.eq(id))
            .execute(&mut tx.conn())
            .await?;
        tx.deleted(&self)
    }

    /// Deletes the delivery setups of an account and records each. The caller must hold the account
    /// FOR UPDATE.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<()> {
        let mut removed =
            diesel::delete(delivery_setups::table.filter(tx.owns(delivery_setups::tenant_id)))
                .filter(delivery_setups::account_id.eq(account_id))
                .returning(Self::as_returning())
                .get_results::<Self>(&mut tx.conn())
                .await?;
        removed.sort_by(|one, other| one.delivery_setup_id.cmp(&other.delivery_setup_id));
        removed.iter().try_for_each(|setup| tx.deleted(setup))
    }
}

/// Fails if a setup cannot go from one state to another; `from` is `None` for a new one.
fn require_next(id: &str, from: Option<SetupState>, to: SetupState, kept: &Kept) -> Result<()> {
    let next = SetupState::next(from);
    if !next.contains(&to) {
        let allowed: Vec<_> = next.iter().map(|state| state.name()).collect();
        return Err(refusals::delivery_setup_state_transition(id, from, to, &allowed));
    }
    if to != SetupState::Active {
        return Ok(());
    }
    let Kept { account, on_day } = kept;
    let state = on_day.derived().state;
    if state != State::Active {
        return Err(refusals::contract_not_in_force(&on_day.0.contract_id, state, "ACTIVE"));
    }
    let status = account.fields.status;
    if status != Status::Active {
        return Err(accounts::refusals::account_not_active(&account.account_id, status));
    }
    Ok(())
}

/// Fails if the setup would be open and its project has another open one than `present`, the one
/// that is changed. The answer names the other if the caller may see it. Concurrent transactions
/// are left to the unique index.
async fn require_no_other(
    tx: &WriteTx,
    id: &str,
    present: Option<&str>,
    fields: &Fields,
) -> Result<()> {
    if !SetupState::OPEN.contains(&fields.state) {
        return Ok(());
    }
    let open = || {
        delivery_setups::table
            .filter(tx.owns(delivery_setups::tenant_id))
            .filter(delivery_setups::project_id.eq(&fields.project_id))
            .filter(delivery_setups::state.eq_any(SetupState::OPEN))
            .filter(delivery_setups::delivery_setup_id.ne(present.unwrap_or_default()))
            .select((delivery_setups::delivery_setup_id, delivery_setups::account_id))
    };
    let other = open().first::<(String, String)>(&mut tx.conn()).await.optional()?;
    let Some((other, account_id)) = other else { return Ok(()) };
    if other == id {
        return Err(DELIVERY_SETUP.value_taken("delivery_setup_id", id));
    }
    let seen = open().filter(tx.delivery_setups_in_reach());
    let seen = seen.first::<(String, String)>(&mut tx.conn()).await.optional()?.is_some()
        && modules::require_for_accounts(tx, [&*account_id]).await.is_ok();
    Err(refusals::project_has_open_setup(&fields.project_id, seen.then_some(&*other)))
}

/// A transaction that has lost the race for a project runs again, and then finds the other setup.
fn translate(error: DieselError, id: &str) -> Error {
    match &error {
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info)
            if info.constraint_name() == Some(ONE_OPEN) =>
        {
            Error::Retry
        }
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => {
            let id = ("delivery_setups_pkey", "delivery_setup_id", id);
            taken(error, &DELIVERY_SETUP, &[id, (ONE_OPEN, "project_id", "")])
        }
        _ => error.into(),
    }
}
