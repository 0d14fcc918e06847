//! Recurring revenue from the database: sums by currency, and why each subscription counts.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{count, count_star, sum},
    pg::Pg,
    prelude::*,
    sql_types::{Integer, Numeric},
};
use diesel_async::RunQueryDsl;

use super::{
    revenue::{Discount, Discounted, Interval, Reason, State, Sums, reasons, shown},
    subscriptions::{Fields, Subscription, list::in_state},
};
use crate::{
    accounts::{scope::Scope, store::Account},
    db::{Condition, Tx},
    error::Result,
    money::{Amount, Money},
    organizations::store::Organization,
    schema::subscriptions,
};

/// Most subscriptions that are explained.
const EXPLAINED: i64 = 1000;

diesel::infix_operator!(Times, " * ", Numeric, backend: Pg);

/// Whose subscriptions are added up.
#[derive(Debug)]
pub enum Whose {
    /// Those of an account.
    Account(String),
    /// Those of the accounts of an organization, and perhaps of those below it.
    Organization(String, Scope),
}

/// What a request for recurring revenue asks for.
#[derive(Debug)]
pub struct Wanted {
    /// Whose.
    pub whose: Whose,
    /// The instant; `None` for now.
    pub at: Option<DateTime<Utc>>,
    /// Whether to say why each subscription counts.
    pub explain: bool,
}

/// The recurring revenue at an instant.
#[derive(Debug)]
pub struct Revenue {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The sums for a month and a year in each currency.
    pub sums: Vec<(Money, Money)>,
    /// The first subscriptions, if they are to be explained.
    pub contributions: Vec<Contribution>,
    /// How many subscriptions count.
    pub subscriptions: i64,
    /// Of how many accounts they are.
    pub accounts: i64,
}

/// What a subscription adds.
#[derive(Debug)]
pub struct Contribution {
    /// The subscription.
    pub subscription_id: String,
    /// Its account.
    pub account_id: String,
    /// Why it counts or does not.
    pub reasons: Vec<Reason>,
    /// What it adds to a month, or would add.
    pub monthly_amount: String,
    /// The currency of that.
    pub currency_code: String,
    /// When it will count otherwise.
    pub changes: Option<DateTime<Utc>>,
}

type OfWhom = Condition<subscriptions::table>;

impl Wanted {
    /// Calculates the revenue. Fails if the account or the organization does not exist.
    pub async fn calculate(&self, tx: &Tx) -> Result<Revenue> {
        let at = match self.at {
            Some(at) => at,
            None => tx.now().await?,
        };
        match &self.whose {
            Whose::Account(account_id) => {
                Account::find(tx, account_id).await?;
                let (sums, subscriptions) = of_account(tx, account_id, at).await?;
                let contributions =
                    if self.explain { explain(tx, account_id, at).await? } else { Vec::new() };
                let accounts = subscriptions.min(1);
                Ok(Revenue { at, sums, contributions, subscriptions, accounts })
            }
            Whose::Organization(organization_id, scope) => {
                Organization::find(tx, organization_id).await?;
                let covered = scope.cover(tx).await?;
                let of_whom = || -> OfWhom {
                    match covered.as_ref().and_then(|covered| covered.account_ids(tx)) {
                        Some(ids) => Box::new(subscriptions::account_id.eq_any(ids)),
                        None => Box::new(subscriptions::account_id.eq("")),
                    }
                };
                let (sums, subscriptions) = sums(tx, of_whom(), at).await?;
                let counted = subscriptions::table
                    .filter(tx.owns(subscriptions::tenant_id))
                    .filter(in_state(State::Active, at))
                    .filter(of_whom())
                    .select(count(subscriptions::account_id).aggregate_distinct());
                let accounts = counted.get_result(&mut tx.conn()).await?;
                Ok(Revenue { at, sums, contributions: Vec::new(), subscriptions, accounts })
            }
        }
    }
}

/// Returns the revenue of an account in each currency, for a month and a year, and how many of its
/// subscriptions count. Does not look whether the caller sees the account.
pub async fn of_account(
    tx: &Tx,
    account_id: &str,
    at: DateTime<Utc>,
) -> Result<(Vec<(Money, Money)>, i64)> {
    sums(tx, Box::new(subscriptions::account_id.eq(account_id.to_owned())), at).await
}

/// Adds up in one statement what is paid for each kind of interval, so that few rows come back
/// however many subscriptions and discounts there are. What that comes to for a month is a
/// fraction, so Rust adds the rest. A sum that the numbers of Rust cannot hold is one that `Money`
/// cannot hold either.
async fn sums(tx: &Tx, of_whom: OfWhom, at: DateTime<Utc>) -> Result<(Vec<(Money, Money)>, i64)> {
    let left = Discount::ALL.into_sql::<Integer>() - subscriptions::discount;
    let amount = Times::new(subscriptions::unit_amount, subscriptions::quantity);
    let interval = (subscriptions::interval_unit, subscriptions::interval_count);
    let groups = subscriptions::table
        .filter(tx.owns(subscriptions::tenant_id))
        .filter(in_state(State::Active, at))
        .filter(of_whom)
        .group_by((subscriptions::currency_code, interval))
        .select((
            subscriptions::currency_code,
            Interval::as_select(),
            sum(Times::new(amount, left)).assume_not_null(),
            count_star(),
        ))
        .load::<(String, Interval, Discounted, i64)>(&mut tx.conn())
        .await?;
    let (mut sums, mut counted) = (Sums::default(), 0);
    for (currency, interval, paid, count) in groups {
        sums.add(currency, interval, paid);
        counted += count;
    }
    Ok((sums.rounded()?, counted))
}

/// Says of the first subscriptions of an account why each counts or does not.
async fn explain(tx: &Tx, account_id: &str, at: DateTime<Utc>) -> Result<Vec<Contribution>> {
    let rows = subscriptions::table
        .filter(tx.owns(subscriptions::tenant_id))
        .filter(subscriptions::account_id.eq(account_id))
        .order(subscriptions::subscription_id)
        .limit(EXPLAINED)
        .select(Subscription::as_select())
        .load::<Subscription>(&mut tx.conn())
        .await?;
    Ok(rows.into_iter().map(|row| Contribution::of(row, at)).collect())
}

impl Contribution {
    fn of(row: Subscription, at: DateTime<Utc>) -> Self {
        let life = row.life();
        let Fields { quantity, rate, .. } = row.fields;
        let Money { amount, currency } = row.fields.unit_amount.get();
        Self {
            reasons: reasons(&life, amount, quantity, rate.discount, at),
            monthly_amount: shown(&rate.monthly(Amount(amount.0 * i128::from(quantity)))),
            changes: life.changes(at),
            currency_code: currency,
            subscription_id: row.subscription_id,
            account_id: row.account_id,
        }
    }
}
