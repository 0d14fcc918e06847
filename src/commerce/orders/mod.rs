//! Orders in the database: facts, which are recorded once and only cancelled.

pub mod list;
pub mod wire;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use serde_json::{Value, json};

use super::refusals::{self, ORDER};
use crate::{
    accounts::store::Account,
    budget::{self, Weighed},
    change::resource,
    contracts::store::Contract,
    db::{AccountRef, BelongsTo, WriteTx, instant, moment},
    enums::text_enum,
    error::{Error, Result},
    memberships::checks::Check,
    metadata::Metadata,
    money::{Amount, Money, required_money_columns},
    page::Listed,
    people::store::Person,
    resource::PERSON,
    rows::{by_id, found_by_id, set_row},
    schema::orders,
};

/// Bytes that an order adds to a response besides its texts.
const ROW: usize = 192;

text_enum! {
    /// Where an order stands.
    pub enum OrderState {
        /// It counts.
        Recorded = "RECORDED",
        /// It counts in no figure.
        Cancelled = "CANCELLED",
    }
}

required_money_columns!(
    /// What an order costs.
    pub struct Cost = orders(amount, currency_code)
);

/// A row of `orders`.
#[derive(Debug, Clone, Queryable, Selectable, Serialize)]
#[diesel(table_name = orders, check_for_backend(diesel::pg::Pg))]
pub struct Order {
    /// Chosen by the caller.
    pub order_id: String,
    /// The account that has bought.
    pub account_id: String,
    /// The incarnation of the account.
    #[serde(skip)]
    pub incarnation: String,
    /// The part of the order that its recording fixes.
    #[diesel(embed)]
    #[serde(flatten)]
    pub facts: Facts,
    /// When it was bought.
    #[serde(serialize_with = "moment")]
    pub order_time: DateTime<Utc>,
    /// Where it stands.
    pub state: OrderState,
    /// When it was cancelled.
    #[serde(serialize_with = "instant")]
    pub cancel_time: Option<DateTime<Utc>>,
    /// Why it was cancelled.
    pub cancel_reason: String,
    /// Each change increases it; part of the etag.
    #[serde(skip)]
    pub revision: i64,
    /// When it was recorded.
    #[serde(skip)]
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    #[serde(skip)]
    pub update_time: DateTime<Utc>,
}

/// What never changes of an order, without the time, which a request may leave out.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, Serialize)]
#[diesel(table_name = orders, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false)]
pub struct Facts {
    /// The id of the person who has bought. The deletion of the person empties it.
    pub purchaser_id: Option<String>,
    /// What it costs.
    #[diesel(embed)]
    pub amount: Cost,
    /// A description of what was bought.
    pub description: String,
    /// The contract under which it was bought.
    pub contract_id: Option<String>,
    /// Entries for callers' own use.
    pub metadata: Metadata,
}

resource!(Order: ORDER, order_id, |row| BelongsTo::Account(AccountRef {
    account_id: &row.account_id,
    incarnation: &row.incarnation,
}));

impl Weighed for Order {
    fn weight(&self) -> usize {
        let Facts { purchaser_id, description, contract_id, metadata, .. } = &self.facts;
        let texts = [&self.order_id, &self.account_id, description, &self.cancel_reason];
        let optional = purchaser_id.iter().chain(contract_id);
        ROW + budget::texts(texts.into_iter().chain(optional)) + metadata.weight()
    }
}

impl Listed for Order {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        ("", self.order_time, &self.order_id)
    }
}

/// A valid order that has not been recorded yet.
#[derive(Debug)]
pub struct NewOrder {
    /// Its id.
    pub order_id: String,
    /// Its account.
    pub account_id: String,
    /// What never changes. The amount may lack the currency.
    pub facts: Facts,
    /// When it was bought; `None` for now.
    pub order_time: Option<DateTime<Utc>>,
    /// Whether the caller has checked that the purchaser may buy.
    pub purchaser_checked: bool,
}

impl NewOrder {
    /// Records the order, or returns the stored one with this id if it has the same content.
    /// `facts` are those of the request with the currency.
    pub async fn record(&self, tx: &WriteTx, facts: &Facts) -> Result<Order> {
        let Self { order_id, account_id, .. } = self;
        let account = Account::find_and_keep(tx, account_id).await?;
        if let Some((stored, has_purchaser)) = Order::find_stored(tx, order_id).await? {
            return if stored.account_id != *account_id {
                Err(ORDER.of_another_account(order_id, account_id))
            } else if self.repeats(&stored, has_purchaser, facts) {
                Ok(stored)
            } else {
                Err(ORDER.id_taken(order_id))
            };
        }
        self.require_time(tx).await?;
        self.require_purchaser(tx, &account).await?;
        Contract::require_link(tx, facts.contract_id.as_deref(), None, &account).await?;
        let order_time = match self.order_time {
            Some(time) => time,
            None => tx.now().await?,
        };
        let recorded = diesel::insert_into(orders::table)
            .values((
                tx.owns(orders::tenant_id),
                orders::order_id.eq(order_id),
                orders::account_id.eq(account_id),
                orders::incarnation.eq(&account.incarnation),
                orders::order_time.eq(order_time),
                orders::has_purchaser.eq(facts.purchaser_id.is_some()),
                facts,
            ))
            .on_conflict_do_nothing()
            .returning(Order::as_returning())
            .get_result(&mut tx.conn())
            .await
            .optional()
            .map_err(|error| translate(error, facts))?
            // Another transaction has just recorded it: this one runs again and finds it.
            .ok_or(Error::Retry)?;
        tx.created(&recorded)?;
        Ok(recorded)
    }

    /// Whether the request repeats a stored order, which was recorded with or without a purchaser.
    /// A purchaser who was deleted, and a time that the request leaves out, are not compared.
    fn repeats(&self, stored: &Order, has_purchaser: bool, facts: &Facts) -> bool {
        let purchaser_id = stored.facts.purchaser_id.as_ref().and(facts.purchaser_id.clone());
        has_purchaser == facts.purchaser_id.is_some()
            && Facts { purchaser_id, ..facts.clone() } == stored.facts
            && self.order_time.is_none_or(|time| time == stored.order_time)
    }

    /// Fails if the order lies in the future.
    async fn require_time(&self, tx: &WriteTx) -> Result<()> {
        let Some(time) = self.order_time else { return Ok(()) };
        if time > tx.now().await? + wire::AHEAD { Err(wire::too_far_ahead()) } else { Ok(()) }
    }

    /// Fails unless the purchaser may buy on the account, or the caller has checked that. The
    /// account is locked. Locks the tree and the purchaser as well: whatever takes the right away
    /// locks one of the three, so the purchaser still has it at commit.
    async fn require_purchaser(&self, tx: &WriteTx, account: &Account) -> Result<()> {
        let Some(person_id) = &self.facts.purchaser_id else { return Ok(()) };
        if self.purchaser_checked {
            return Person::find(tx, person_id).await.map(drop);
        }
        tx.lock_tree_shared().await?;
        Person::find_and_hold(tx, person_id).await?;
        let check = Check::find(tx, &account.account_id, person_id).await?;
        if check.may_purchase() {
            return Ok(());
        }
        let (account_id, reasons) = (&account.account_id, check.forbidding());
        Err(refusals::purchaser_not_allowed(account_id, person_id, &reasons))
    }
}

found_by_id!(
    Order: ORDER,
    (orders.order_id, orders_in_reach),
    (require_for_accounts(|row| &*row.account_id)),
    /// Returns the row with this id. Locks it FOR UPDATE.
    lock: for_update
);

impl Order {
    /// Returns the order with this id. Locks its account FOR SHARE and its row FOR UPDATE.
    pub async fn find_for_update(tx: &WriteTx, order_id: &str) -> Result<Self> {
        let query = by_id!(tx, orders.order_id.eq(order_id), orders_in_reach);
        let query = query.select(orders::account_id);
        let account_id: String = ORDER.found(order_id, query.first(&mut tx.conn()).await)?;
        Account::keep_of(tx, &account_id, &ORDER, order_id).await?;
        Self::lock(tx, order_id).await
    }

    /// Returns the order with this id, if there is one, whether the caller sees it or not, and
    /// whether it was recorded with a purchaser.
    async fn find_stored(tx: &WriteTx, order_id: &str) -> Result<Option<(Self, bool)>> {
        let query = orders::table
            .filter(tx.owns(orders::tenant_id))
            .filter(orders::order_id.eq(order_id))
            .select((Self::as_select(), orders::has_purchaser));
        Ok(query.first(&mut tx.conn()).await.optional()?)
    }

    /// Cancels the order; a cancelled one stays as it is. The caller must hold the row FOR UPDATE.
    pub async fn cancel(self, tx: &WriteTx, reason: &str) -> Result<Self> {
        if self.state == OrderState::Cancelled {
            return Ok(self);
        }
        let columns = (
            orders::state.eq(OrderState::Cancelled),
            orders::cancel_time.eq(tx.now().await?),
            orders::cancel_reason.eq(reason),
        );
        let cancelled = set_row!(tx, Self: orders.order_id(&self.order_id), columns).await?;
        tx.updated(&self, &cancelled)?;
        Ok(cancelled)
    }

    /// Deletes the orders of an account. Returns what the trail says of them, if there were any:
    /// how many, and the sum of each currency, both of those that count, and how many were
    /// cancelled. The caller must hold the account FOR UPDATE.
    pub async fn remove_all(tx: &WriteTx, account_id: &str) -> Result<Option<Value>> {
        let removed = diesel::delete(orders::table.filter(tx.owns(orders::tenant_id)))
            .filter(orders::account_id.eq(account_id))
            .returning((orders::state, Cost::as_returning()))
            .get_results::<(OrderState, Cost)>(&mut tx.conn())
            .await?;
        if removed.is_empty() {
            return Ok(None);
        }
        let (mut count, mut sums) = (0, BTreeMap::<_, Amount>::new());
        for (_, cost) in removed.iter().filter(|(state, _)| *state == OrderState::Recorded) {
            let Money { amount, currency } = cost.get();
            sums.entry(currency).or_default().0 += amount.0;
            count += 1;
        }
        let sums: Vec<_> =
            sums.into_iter().map(|(currency, amount)| Money { amount, currency }).collect();
        let cancelled = removed.len() - count;
        Ok(Some(json!({ "count": count, "amounts": sums, "cancelled": cancelled })))
    }
}

/// Another transaction may delete a purchaser whose right was checked elsewhere, before this one
/// has the row.
fn translate(error: DieselError, facts: &Facts) -> Error {
    match (&error, &facts.purchaser_id) {
        (
            DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, info),
            Some(person_id),
        ) if info.constraint_name() == Some("orders_purchaser_fkey") => PERSON.not_found(person_id),
        _ => error.into(),
    }
}
