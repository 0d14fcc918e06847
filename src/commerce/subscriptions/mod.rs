//! Subscriptions in the database.

pub mod list;
pub mod wire;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{
    refusals::{self, SUBSCRIPTION},
    revenue::{Cancellation, Life, Rate, State, Times},
};
use crate::{
    accounts::store::Account,
    batch::Ids,
    budget::{self, Weighed},
    change::resource,
    contracts::store::Contract,
    db::{AccountRef, BelongsTo, Tx, WriteTx, instant},
    error::{Error, Result},
    metadata::Metadata,
    money::required_money_columns,
    page::Listed,
    put::{Put, Stated, Statement},
    rows::{by_id, found_by_id, set_row},
    schema::subscriptions,
};

/// Bytes that a subscription adds to a response besides its texts.
const ROW: usize = 256;

required_money_columns!(
    /// The price of one unit for one interval.
    pub struct Price = subscriptions(unit_amount, currency_code)
);

/// A row of `subscriptions`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = subscriptions, check_for_backend(diesel::pg::Pg))]
pub struct Subscription {
    /// Chosen by the caller.
    pub subscription_id: String,
    /// The account that pays.
    pub account_id: String,
    /// The incarnation of the account.
    #[serde(skip)]
    pub incarnation: String,
    /// What the last put says.
    #[diesel(embed)]
    #[serde(flatten)]
    pub fields: Fields,
    /// What `CancelSubscription` says.
    #[diesel(embed)]
    #[serde(flatten)]
    pub cancellation: Cancellation,
    /// The earlier of the two ends.
    #[serde(serialize_with = "instant")]
    pub end_time: Option<DateTime<Utc>>,
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

/// What a put says of a subscription.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Serialize,
)]
#[diesel(table_name = subscriptions, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct Fields {
    /// The plan or product.
    pub display_name: String,
    /// The callers' code of the product.
    pub product_code: String,
    /// The price of one unit.
    #[diesel(embed)]
    pub unit_amount: Price,
    /// How many units.
    pub quantity: i64,
    /// For what time the price is paid, and the discount.
    #[diesel(embed)]
    #[serde(flatten)]
    pub rate: Rate,
    /// When it starts and ends.
    #[diesel(embed)]
    #[serde(flatten)]
    pub times: Times,
    /// The contract under which it is paid.
    pub contract_id: Option<String>,
    /// When the pushing service last changed it.
    #[serde(serialize_with = "instant")]
    pub source_time: Option<DateTime<Utc>>,
    /// Entries for callers' own use.
    pub metadata: Metadata,
}

resource!(Subscription: SUBSCRIPTION, subscription_id, |row| BelongsTo::Account(AccountRef {
    account_id: &row.account_id,
    incarnation: &row.incarnation,
}));

impl Stated for Subscription {
    fn account_id(&self) -> &str {
        &self.account_id
    }

    fn source_time(&self) -> Option<DateTime<Utc>> {
        self.fields.source_time
    }
}

/// A subscription as it is at an instant.
#[derive(Debug, Clone)]
pub struct At(pub Subscription, pub DateTime<Utc>);

impl Weighed for Subscription {
    fn weight(&self) -> usize {
        let Self { subscription_id, account_id, fields, cancellation, .. } = self;
        let Fields { display_name, product_code, contract_id, metadata, .. } = fields;
        let texts = [subscription_id, account_id, display_name, product_code, &cancellation.reason];
        ROW + budget::texts(texts.into_iter().chain(contract_id)) + metadata.weight()
    }
}

impl Listed for Subscription {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        ("", self.create_time, &self.subscription_id)
    }
}

/// A valid subscription as a request states it.
#[derive(Debug)]
pub struct Wanted {
    /// Its id, account, etag and time.
    pub statement: Statement,
    /// Its fields. The price may lack the currency.
    pub fields: Fields,
}

/// A subscription, and what a statement of it has done.
#[derive(Debug)]
pub struct Outcome {
    /// The subscription as it is now.
    pub subscription: At,
    /// Whether it is new.
    pub created: bool,
    /// Whether the statement was older.
    pub stale: bool,
}

impl Wanted {
    /// Creates the subscription, or replaces what the last put said, unless the stored subscription
    /// is newer. Fails if the subscription is cancelled and would run on. `fields` are those of the
    /// statement with the currency.
    pub async fn put(&self, tx: &WriteTx, fields: Fields) -> Result<Outcome> {
        let account = Account::find_and_keep(tx, &self.statement.account_id).await?;
        let stored = Subscription::find_stored(tx, &self.statement.id).await?;
        let outcome = |subscription: Subscription, created, stale| async move {
            let now = subscription.now(tx).await?;
            Ok(Outcome { subscription: At(subscription, now), created, stale })
        };
        match self.statement.against(tx, stored).await? {
            Put::Create => {
                Contract::require_link(tx, fields.contract_id.as_deref(), None, &account).await?;
                outcome(self.insert(tx, &account, &fields).await?, true, false).await
            }
            Put::Replace(current) => {
                let source_time = fields.source_time.or(current.fields.source_time);
                let fields = Fields { source_time, ..fields };
                current.require_no_revival(&fields, current.now(tx).await?)?;
                let present = current.fields.contract_id.as_deref();
                Contract::require_link(tx, fields.contract_id.as_deref(), present, &account)
                    .await?;
                let cancellation = current.cancellation.clone();
                outcome(current.set(tx, &fields, &cancellation).await?, false, false).await
            }
            Put::Stale(current) => outcome(current, false, true).await,
        }
    }

    /// Inserts the subscription. If another transaction has just inserted it, this one runs again
    /// and finds it.
    async fn insert(
        &self,
        tx: &WriteTx,
        account: &Account,
        fields: &Fields,
    ) -> Result<Subscription> {
        let created = diesel::insert_into(subscriptions::table)
            .values((
                tx.owns(subscriptions::tenant_id),
                subscriptions::subscription_id.eq(&self.statement.id),
                subscriptions::account_id.eq(&account.account_id),
                subscriptions::incarnation.eq(&account.incarnation),
                fields,
                &Cancellation::default(),
            ))
            .on_conflict_do_nothing()
            .returning(Subscription::as_returning())
            .get_result(&mut tx.conn())
            .await
            .optional()?
            .ok_or(Error::Retry)?;
        tx.created(&created)?;
        Ok(created)
    }
}

found_by_id!(
    Subscription: SUBSCRIPTION,
    (subscriptions.subscription_id, subscriptions_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    lock: for_update
);

impl At {
    /// Returns the subscription with this id, as it is now.
    pub async fn find(tx: &Tx, id: &str) -> Result<Self> {
        Ok(Self(Subscription::find(tx, id).await?, tx.now().await?))
    }

    /// Returns the subscriptions with these ids, as they are now.
    pub async fn find_all(tx: &Tx, ids: &Ids) -> Result<Vec<Self>> {
        let (found, now) = (Subscription::find_all(tx, ids).await?, tx.now().await?);
        Ok(found.into_iter().map(|row| Self(row, now)).collect())
    }
}

impl Subscription {
    /// What decides whether it counts.
    pub fn life(&self) -> Life {
        Life::of(self.fields.times, &self.cancellation)
    }

    /// Returns the subscription with this id. Locks its account FOR SHARE, so that a deletion does
    /// not miss what becomes of it, and its row FOR UPDATE.
    pub async fn find_for_update(tx: &WriteTx, id: &str) -> Result<Self> {
        let query = by_id!(tx, subscriptions.subscription_id.eq(id), subscriptions_in_reach);
        let query = query.select(subscriptions::account_id);
        let account_id: String = SUBSCRIPTION.found(id, query.first(&mut tx.conn()).await)?;
        Account::keep_of(tx, &account_id, &SUBSCRIPTION, id).await?;
        Self::lock(tx, id).await
    }

    /// Returns the subscription with this id, if there is one, whether the caller sees it or not.
    /// Locks its row FOR UPDATE.
    async fn find_stored(tx: &WriteTx, id: &str) -> Result<Option<Self>> {
        let query = subscriptions::table
            .filter(tx.owns(subscriptions::tenant_id))
            .filter(subscriptions::subscription_id.eq(id))
            .select(Self::as_select())
            .for_update();
        Ok(query.first(&mut tx.conn()).await.optional()?)
    }

    /// The present instant for a change of the subscription: when the transaction began, or when a
    /// cancellation was made for whose end it has waited.
    async fn now(&self, tx: &WriteTx) -> Result<DateTime<Utc>> {
        let began = tx.now().await?;
        Ok(self.cancellation.time.map_or(began, |time| time.max(began)))
    }

    /// Fails if the subscription is cancelled and `fields` would let it run on. What the last put
    /// said may be said again: the cancellation is not undone by it.
    fn require_no_revival(&self, fields: &Fields, now: DateTime<Utc>) -> Result<()> {
        let Some(cancelled) = self.cancellation.end else { return Ok(()) };
        let repeated = Fields { source_time: self.fields.source_time, ..fields.clone() };
        let runs_on = fields.times.stated_end_time.is_none_or(|end| end > cancelled);
        // One that was cancelled before its start would be in force with an earlier start.
        let is_cancelled = |life: Life| life.state(now) == State::Cancelled;
        let begins =
            is_cancelled(self.life()) && !is_cancelled(Life::of(fields.times, &self.cancellation));
        if (runs_on || begins) && repeated != self.fields {
            return Err(refusals::subscription_cancelled(&self.subscription_id, cancelled));
        }
        Ok(())
    }

    /// Cancels the subscription at `end`, or now. Changes nothing if it ends no later already, or
    /// has ended. The caller must hold the row FOR UPDATE.
    pub async fn cancel(
        self,
        tx: &WriteTx,
        end: Option<DateTime<Utc>>,
        reason: &str,
    ) -> Result<At> {
        let now = self.now(tx).await?;
        let start = self.fields.times.start_time;
        if end.is_some_and(|end| end < start) {
            return Err(wire::before_start());
        }
        let end = end.unwrap_or_else(|| now.max(start));
        let present = self.life().end();
        let over = matches!(self.life().state(now), State::Ended | State::Cancelled);
        // A cancellation at the end that was stated anyway is one, too.
        let earlier = match self.cancellation.end {
            Some(_) => present.is_some_and(|present| end < present),
            None => true,
        };
        if over || !earlier {
            return Ok(At(self, now));
        }
        let cancellation = Cancellation {
            end: Some(present.map_or(end, |present| end.min(present))),
            time: Some(now),
            reason: reason.to_owned(),
        };
        let fields = self.fields.clone();
        Ok(At(self.set(tx, &fields, &cancellation).await?, now))
    }

    /// Takes a cancellation back. The caller must hold the row FOR UPDATE.
    pub async fn uncancel(self, tx: &WriteTx) -> Result<At> {
        let (fields, now) = (self.fields.clone(), self.now(tx).await?);
        Ok(At(self.set(tx, &fields, &Cancellation::default()).await?, now))
    }

    /// Sets the contents of the subscription; equal ones change nothing. The caller must hold the
    /// row FOR UPDATE.
    async fn set(self, tx: &WriteTx, fields: &Fields, cancellation: &Cancellation) -> Result<Self> {
        if (&self.fields, &self.cancellation) == (fields, cancellation) {
            return Ok(self);
        }
        let id = &*self.subscription_id;
        let columns = (fields, cancellation);
        let updated = set_row!(tx, Self: subscriptions.subscription_id(id), columns).await?;
        tx.updated(&self, &updated)?;
        Ok(updated)
    }

    /// Deletes the subscriptions of an account and records each. The caller must hold the account
    /// FOR UPDATE.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<()> {
        let mut removed =
            diesel::delete(subscriptions::table.filter(tx.owns(subscriptions::tenant_id)))
                .filter(subscriptions::account_id.eq(account_id))
                .returning(Self::as_returning())
                .get_results::<Self>(&mut tx.conn())
                .await?;
        removed.sort_by(|one, other| one.subscription_id.cmp(&other.subscription_id));
        removed.iter().try_for_each(|subscription| tx.deleted(subscription))
    }

    /// Returns the first ids of the account's subscriptions that have not ended, at most `limit`,
    /// and how many there are in all.
    pub async fn in_force(
        tx: &WriteTx,
        account_id: &str,
        limit: i64,
    ) -> Result<(Vec<String>, i64)> {
        let now = tx.now().await?;
        let running = || {
            subscriptions::table
                .filter(tx.owns(subscriptions::tenant_id))
                .filter(subscriptions::account_id.eq(account_id))
                .filter(list::running(now))
        };
        let count: i64 = running().count().get_result(&mut tx.conn()).await?;
        let first =
            running().order(subscriptions::subscription_id).select(subscriptions::subscription_id);
        Ok((first.limit(limit).load(&mut tx.conn()).await?, count))
    }
}
