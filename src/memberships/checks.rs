//! Whether a person is a user of an account, and may buy there.

use chrono::NaiveDate;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use futures_util::{StreamExt as _, stream::FuturesOrdered};

use crate::{
    accounts::{
        refusals::account_not_active,
        store::{Account, Status},
    },
    budget::{self, Budget, Weighed},
    caller::Caller,
    db::{Db, Question, Tx, WriteTx},
    error::Result,
    modules,
    people::store::Person,
    relations::{
        References, purchasing,
        refusals::{not_an_account_user, person_inactive},
        settings::Fields,
    },
    resource::PERSON,
    schema::{
        account_organizations, account_users, accounts, organization_ancestors,
        organization_members, people,
    },
};

/// Most checks of a batch that are sent before the answer of the first is read.
const AHEAD: usize = 100;
/// Bytes of a check in an answer, without its organizations.
const ROW: usize = 64;

/// What decides whether a person is a user of an account and may buy there.
#[derive(Debug, Clone)]
pub struct Check {
    /// Whether the account is ACTIVE.
    pub account_active: bool,
    /// Whether the person is active.
    pub person_active: bool,
    /// Whether the account is the one the person buys on.
    pub purchasing_account: bool,
    /// The individual membership, if there is one.
    pub individual: Option<Fields>,
    /// The organizations through which they are a user.
    pub organization_ids: Vec<String>,
    /// The day for which this is found out.
    pub today: NaiveDate,
}

/// Why a person is a user of an account, or is not, and may buy there, or may not. Several hold at
/// once; answers have them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A user: the dates of an individual membership include today.
    Individual,
    /// A user through an organization.
    ThroughOrganization,
    /// Neither added individually nor in an organization that is linked.
    NotAUser,
    /// The individual membership starts after today.
    NotStarted,
    /// The individual membership ended before today.
    Ended,
    /// The person is inactive, and so no user whatever else holds.
    PersonInactive,
    /// The account is the one that the person buys on.
    PurchasingAccount,
    /// It is not.
    NotPurchasingAccount,
    /// The account is not ACTIVE.
    AccountNotActive,
}

impl Reason {
    /// The name in the contract without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Individual => "INDIVIDUAL",
            Self::ThroughOrganization => "THROUGH_ORGANIZATION",
            Self::NotAUser => "NOT_A_USER",
            Self::NotStarted => "NOT_STARTED",
            Self::Ended => "ENDED",
            Self::PersonInactive => "PERSON_INACTIVE",
            Self::PurchasingAccount => "PURCHASING_ACCOUNT",
            Self::NotPurchasingAccount => "NOT_PURCHASING_ACCOUNT",
            Self::AccountNotActive => "ACCOUNT_NOT_ACTIVE",
        }
    }
}

/// A row of the query of a check: what account and person are, what is set for the person, and one
/// of the person's organizations with one link that covers it, if there are any.
#[derive(Debug, Queryable, Selectable)]
#[diesel(check_for_backend(diesel::pg::Pg))]
struct Row {
    #[diesel(select_expression = accounts::organization_id)]
    organization_id: String,
    #[diesel(select_expression = accounts::status)]
    status: Status,
    #[diesel(select_expression = people::active)]
    person_active: bool,
    #[diesel(select_expression = people::purchasing_account_id)]
    purchasing_account_id: Option<String>,
    #[diesel(select_expression = account_users::individual.nullable())]
    individual: Option<bool>,
    #[diesel(select_expression = account_users::start_date.nullable())]
    start_date: Option<NaiveDate>,
    #[diesel(select_expression = account_users::end_date.nullable())]
    end_date: Option<NaiveDate>,
    #[diesel(select_expression = organization_members::organization_id.nullable())]
    member_of: Option<String>,
    #[diesel(select_expression = account_organizations::organization_id.nullable())]
    link: Option<String>,
}

impl Weighed for Check {
    fn weight(&self) -> usize {
        ROW + budget::list(&self.organization_ids)
    }
}

/// The query of a check. It returns a row for each organization of the person and each one above
/// it; those count that a link of the account covers.
#[diesel::dsl::auto_type(no_type_alias)]
fn rows(tenant: String, account_id: String, person_id: String) -> _ {
    accounts::table
        .inner_join(
            people::table
                .on(people::tenant_id.eq(accounts::tenant_id).and(people::person_id.eq(person_id))),
        )
        .left_join(
            account_users::table.on(account_users::tenant_id.eq(accounts::tenant_id).and(
                account_users::account_id
                    .eq(accounts::account_id)
                    .and(account_users::person_id.eq(people::person_id)),
            )),
        )
        .left_join(
            organization_members::table.on(organization_members::tenant_id
                .eq(people::tenant_id)
                .and(organization_members::person_id.eq(people::person_id))),
        )
        .left_join(organization_ancestors::table.on(
            organization_ancestors::tenant_id.eq(organization_members::tenant_id).and(
                organization_ancestors::organization_id.eq(organization_members::organization_id),
            ),
        ))
        .left_join(
            account_organizations::table.on(account_organizations::tenant_id
                .eq(accounts::tenant_id)
                .and(
                    account_organizations::account_id
                        .eq(accounts::account_id)
                        .and(
                            account_organizations::organization_id
                                .eq(organization_ancestors::ancestor_id),
                        )
                        .and(
                            organization_ancestors::distance
                                .eq(0_i32)
                                .or(account_organizations::include_descendants),
                        ),
                )),
        )
        .filter(accounts::tenant_id.eq(tenant))
        .filter(accounts::account_id.eq(account_id))
}

/// Checks for hot reads. A statement for several pairs would not cost less.
static CHECK: Question<(String, String, String, Row)> =
    Question::new(1, |question, tenant, keys| {
        let key = |place| keys.first().and_then(|key| key.get(place).cloned()).unwrap_or_default();
        question.statement(&rows(tenant.to_owned(), key(0), key(1)).select((
            accounts::tenant_id,
            accounts::account_id,
            people::person_id,
            Row::as_select(),
        )))
    });

impl Check {
    /// Checks one person on one account, as a hot read where that is possible.
    pub async fn get(db: &Db, caller: &Caller, account_id: &str, person_id: &str) -> Result<Self> {
        if let Some(found) = db.find(caller, &CHECK, &[account_id, person_id]).await? {
            let today = found.today()?;
            let rows: Vec<_> = found.rows.into_iter().map(|(_, _, _, row)| row).collect();
            if let Some(first) = rows.as_slice().first() {
                return Ok(Self::of(account_id, first, &rows, today));
            }
        }
        db.read(caller, async |tx| Self::find(tx, account_id, person_id).await).await
    }

    /// Checks one person on one account in one query.
    pub async fn find(tx: &Tx, account_id: &str, person_id: &str) -> Result<Self> {
        if tx.is_limited() {
            Account::find(tx, account_id).await?;
            Person::find(tx, person_id).await?;
        }
        let rows = rows(tx.tenant_id().into(), account_id.into(), person_id.into());
        let rows = rows.select(Row::as_select()).load::<Row>(&mut tx.conn()).await?;
        let Some(first) = rows.as_slice().first() else {
            // One of them is not there, which these say.
            Account::find(tx, account_id).await?;
            return Err(PERSON.not_found(person_id));
        };
        modules::require(tx, &first.organization_id).await?;
        Ok(Self::of(account_id, first, &rows, tx.today().await?))
    }

    /// The check that the rows of its query make; `first` is one of them.
    fn of(account_id: &str, first: &Row, rows: &[Row], today: NaiveDate) -> Self {
        let mut organization_ids: Vec<_> =
            rows.iter().filter_map(|row| row.link.as_ref().and(row.member_of.clone())).collect();
        organization_ids.sort();
        organization_ids.dedup();
        Self {
            account_active: first.status == Status::Active,
            person_active: first.person_active,
            purchasing_account: first.purchasing_account_id.as_deref() == Some(account_id),
            // Not a condition of the query: PostgreSQL would look through the index of individual
            // users.
            individual: first.individual.filter(|individual| *individual).map(|individual| {
                Fields {
                    individual,
                    start_date: first.start_date,
                    end_date: first.end_date,
                    ..Fields::default()
                }
            }),
            organization_ids,
            today,
        }
    }

    /// Checks several pairs of account and person, in their order. Queries are sent without waiting
    /// for earlier answers, at most `AHEAD`: a thousand at once would keep a worker thread busy
    /// for too long.
    pub async fn find_all(tx: &Tx, pairs: &[(String, String)]) -> Result<Vec<Self>> {
        let (mut sent, mut unsent) = (FuturesOrdered::new(), pairs.iter());
        let (mut found, mut budget) = (Vec::with_capacity(pairs.len()), Budget::default());
        loop {
            for (account_id, person_id) in unsent.by_ref().take(AHEAD - sent.len()) {
                sent.push_back(Self::find(tx, account_id, person_id));
            }
            let Some(check) = sent.next().await else { return Ok(found) };
            let check = check?;
            if let Err(too_large) = budget.spend(check.weight()) {
                tx.leave_unread();
                return Err(too_large);
            }
            found.push(check);
        }
    }

    /// Whether the person is an individual user today.
    pub fn individual_today(&self) -> bool {
        self.person_active
            && self.individual.as_ref().is_some_and(|fields| fields.individual_on(self.today))
    }

    /// Whether the person is a user today.
    pub fn is_user(&self) -> bool {
        self.person_active && (self.individual_today() || !self.organization_ids.is_empty())
    }

    /// Whether the person may buy: on an ACTIVE account that they are a user of and that is the one
    /// they buy on.
    pub fn may_purchase(&self) -> bool {
        self.is_user() && self.account_active && self.purchasing_account
    }

    /// The reasons that forbid to buy; none if the person may. The dates of an individual
    /// membership forbid nothing to a person who is a user through an organization.
    pub fn forbidding(&self) -> Vec<Reason> {
        let forbids = |reason: &Reason| match reason {
            Reason::Individual | Reason::ThroughOrganization | Reason::PurchasingAccount => false,
            Reason::NotStarted | Reason::Ended => !self.is_user(),
            Reason::NotAUser
            | Reason::PersonInactive
            | Reason::NotPurchasingAccount
            | Reason::AccountNotActive => true,
        };
        self.reasons().into_iter().filter(forbids).collect()
    }

    /// The reasons that hold.
    pub fn reasons(&self) -> Vec<Reason> {
        let through = !self.organization_ids.is_empty();
        let starts = self.individual.as_ref().and_then(|fields| fields.start_date);
        let ends = self.individual.as_ref().and_then(|fields| fields.end_date);
        let of_an_active_person = [
            (self.individual_today(), Reason::Individual),
            (through, Reason::ThroughOrganization),
            (self.individual.is_none() && !through, Reason::NotAUser),
            (starts.is_some_and(|start| start > self.today), Reason::NotStarted),
            (ends.is_some_and(|end| end < self.today), Reason::Ended),
        ];
        let of_anyone = [
            (!self.person_active, Reason::PersonInactive),
            (self.purchasing_account, Reason::PurchasingAccount),
            (!self.purchasing_account, Reason::NotPurchasingAccount),
            (!self.account_active, Reason::AccountNotActive),
        ];
        let of_an_active_person = of_an_active_person.into_iter().filter(|_| self.person_active);
        let all = of_an_active_person.chain(of_anyone);
        all.filter(|(holds, _)| *holds).map(|(_, reason)| reason).collect()
    }
}

/// Sets, or with `None` clears, the account that a person buys on.
pub async fn set_purchasing_account(
    tx: &WriteTx,
    person_id: &str,
    account_id: Option<&str>,
) -> Result<Person> {
    // Every call locks accounts before people. The answer names a missing person first, though.
    let account = match account_id {
        Some(account_id) => Some(Account::find_and_keep(tx, account_id).await),
        None => None,
    };
    let person = Person::find_for_update(tx, person_id).await?;
    if let Some(account) = account.transpose()? {
        let account_id = account.account_id.as_str();
        if !person.fields.active {
            return Err(person_inactive(person_id));
        }
        if account.fields.status != Status::Active {
            return Err(account_not_active(account_id, account.fields.status));
        }
        if !Check::find(tx, account_id, person_id).await?.is_user() {
            return Err(not_an_account_user(account_id, person_id));
        }
    }
    if person.purchasing_account_id.as_deref() == account_id {
        return Ok(person);
    }
    diesel::update(
        people::table.filter(tx.owns(people::tenant_id)).filter(people::person_id.eq(person_id)),
    )
    .set(people::purchasing_account_id.eq(account_id))
    .execute(&mut tx.conn())
    .await?;
    // One activity for each of the two accounts, so that a watch of either account gets one.
    let changed: Vec<_> =
        [(person.purchasing_account_id.as_deref(), false), (account_id, true)].into();
    let accounts =
        References::find(tx, changed.iter().filter_map(|(account_id, _)| *account_id)).await?;
    for (account_id, buys) in changed {
        if let Some(account_id) = account_id {
            purchasing::record_purchasing(tx, person_id, accounts.get(account_id)?, buys)?;
        }
    }
    Person::find(tx, person_id).await
}
