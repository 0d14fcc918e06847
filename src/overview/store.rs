//! The queries of an overview. Each of them knows the account by its id, so they wait for nothing
//! but the day and the time, and all of them take two round trips. What they find is thrown away if
//! the caller does not see the account.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{count, count_star},
    prelude::*,
};
use diesel_async::RunQueryDsl;
use futures_util::join;

use crate::{
    account_types::store::AccountType,
    accounts::store::{Account, WithContact},
    commerce::{calculate, orders::OrderState, subscriptions},
    contracts::{self, setups::SetupState, terms::State::Active},
    db::Tx,
    error::{Error, Result},
    modules,
    money::Money,
    opportunities::store::State::Open,
    organizations::store::Organization,
    people::store::Person,
    relations::sources::users_of,
    schema,
};

/// What the page of an account shows.
pub struct Overview {
    /// The account with its contact.
    pub account: WithContact,
    /// Its organization.
    pub organization: Organization,
    /// Its type.
    pub account_type: Option<AccountType>,
    /// Its manager.
    pub manager: Option<Person>,
    /// The modules that are off for it.
    pub off: Vec<&'static str>,
    /// Its figures.
    pub figures: Figures,
}

/// How many rows there are, and how many of them are in force or the like.
#[derive(Debug, Clone, Copy, Default, Queryable)]
pub struct Count {
    /// All.
    pub all: i64,
    /// Those in force.
    pub in_force: i64,
}

/// The figures of an account, whatever its modules.
#[derive(Debug)]
pub struct Figures {
    /// When they were calculated.
    pub time: DateTime<Utc>,
    /// Its users today.
    pub users: i64,
    /// Its orders, without cancelled ones.
    pub orders: i64,
    /// Its recurring revenue in each currency, for a month and for a year.
    pub revenue: Vec<(Money, Money)>,
    /// Contracts, and those ACTIVE.
    pub contracts: Count,
    /// Delivery setups, and those ACTIVE.
    pub delivery_setups: Count,
    /// Portfolios.
    pub portfolios: i64,
    /// Opportunities, and those OPEN.
    pub opportunities: Count,
    /// Subscriptions, and those that are TRIAL, ACTIVE or PAUSED.
    pub subscriptions: Count,
}

/// The rows of a table that belong to the account.
macro_rules! of_account {
    ($tx:ident, $account_id:ident, $table:ident) => {
        schema::$table::table
            .filter($tx.owns(schema::$table::tenant_id))
            .filter(schema::$table::account_id.eq($account_id))
    };
}

/// Counts these rows, and those of them that meet a condition.
macro_rules! count {
    ($tx:ident, $account_id:ident, $table:ident, $in_force:expr) => {
        of_account!($tx, $account_id, $table)
            .select((count_star(), count(schema::$table::account_id).aggregate_filter($in_force)))
            .get_result::<Count>(&mut $tx.conn())
    };
}

/// The row of a table whose id is in this column of the account, if there is one.
macro_rules! named_by {
    ($tx:ident, $account_id:ident, $column:ident, $table:ident($id:ident): $row:ty) => {
        schema::$table::table
            .filter($tx.owns(schema::$table::tenant_id))
            .filter(
                schema::$table::$id.nullable().eq_any(
                    of_account!($tx, $account_id, accounts)
                        .select(schema::accounts::$column.nullable()),
                ),
            )
            .select(<$row>::as_select())
            .first::<$row>(&mut $tx.conn())
    };
}

impl Overview {
    /// Returns the overview of an account. Fails if the caller does not see the account.
    pub async fn find(tx: &Tx, account_id: &str) -> Result<Self> {
        // Answers are read to the end, so nothing is left unread if the account is not there.
        let (account, contact, organization, account_type, manager, off, figures) = join!(
            Account::find(tx, account_id),
            named_by!(tx, account_id, primary_contact_id, people(person_id): Person),
            named_by!(
                tx,
                account_id,
                organization_id,
                organizations(organization_id): Organization
            ),
            named_by!(tx, account_id, account_type_id, account_types(account_type_id): AccountType),
            named_by!(tx, account_id, account_manager_id, people(person_id): Person),
            modules::off_for_account(tx, account_id),
            Figures::find(tx, account_id),
        );
        let organization = organization.optional();
        Ok(Self {
            account: WithContact(account?, contact.optional()?),
            organization: organization?
                .ok_or_else(|| Error::internal("an account without its organization"))?,
            account_type: account_type.optional()?,
            manager: manager.optional()?,
            off: off?,
            figures: figures?,
        })
    }
}

impl Figures {
    async fn find(tx: &Tx, account_id: &str) -> Result<Self> {
        let (today, time) = join!(tx.today(), tx.now());
        let (today, time) = (today?, time?);
        let users = schema::people::table
            .filter(tx.owns(schema::people::tenant_id))
            .filter(users_of(tx, account_id, today));
        let recorded = of_account!(tx, account_id, orders)
            .filter(schema::orders::state.eq(OrderState::Recorded));
        let active = contracts::list::in_state(Active, today);
        let running = subscriptions::list::in_force(time);
        let (users, orders, revenue, contracts, setups, portfolios, opportunities, billed) = join!(
            users.count().get_result(&mut tx.conn()),
            recorded.count().get_result(&mut tx.conn()),
            calculate::of_account(tx, account_id, time),
            count!(tx, account_id, contracts, active),
            count!(
                tx,
                account_id,
                delivery_setups,
                schema::delivery_setups::state.eq(SetupState::Active)
            ),
            of_account!(tx, account_id, portfolios).count().get_result(&mut tx.conn()),
            count!(tx, account_id, opportunities, schema::opportunities::state.eq(Open)),
            count!(tx, account_id, subscriptions, running),
        );
        Ok(Self {
            time,
            users: users?,
            orders: orders?,
            revenue: revenue?.0,
            contracts: contracts?,
            delivery_setups: setups?,
            portfolios: portfolios?,
            opportunities: opportunities?,
            subscriptions: billed?,
        })
    }
}
