//! Reach: how much of its tenant a transaction shows. A caller whose reach is limited sees what is bound to the organizations
//! their person belongs to, and to those below; everything else is to them as if it did not exist.
//!
//! The one place that says so. Whoever finds or lists accounts, organizations or people for a caller filters by what is here;
//! what keeps the tenant's data consistent does not, for it has to see all of it.

use std::sync::OnceLock;

use diesel::{
    IntoSql as _,
    dsl::{exists, not},
    helper_types::AsExprOf,
    pg::Pg,
    prelude::*,
    sql_types::Bool,
};
use diesel_async::RunQueryDsl;
use futures_util::future::try_join;

use super::tx::Tx;
use crate::{
    caller::{Caller, Reach},
    error::{Error, Result},
    schema::{
        account_organizations, account_users, accounts, activities, module_activations, organization_ancestors,
        organization_members, organizations, people,
    },
};

/// Most organizations and most accounts of a reach that counts as little.
const FEW: i64 = 1000;

/// A condition on the rows of a table.
pub type Condition<T> = Box<dyn BoxableExpression<T, Pg, SqlType = Bool>>;

/// How far a transaction sees.
#[derive(Debug)]
pub(super) enum Sight {
    /// The whole tenant.
    Tenant,
    /// What is bound to these organizations and everything below them; nothing until it is known which they are.
    Below(OnceLock<Roots>),
}

/// Where the reach of a person begins.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// The caller's person.
    person_id: Option<String>,
    /// The organizations they belong to.
    organization_ids: Vec<String>,
}

/// What is in a reach of little.
#[derive(Debug)]
struct Few {
    organization_ids: Vec<String>,
    account_ids: Vec<String>,
}

impl Sight {
    /// What a caller may see, to be looked up in the transaction.
    pub(super) const fn of(caller: &Caller) -> Self {
        match caller.reach {
            Reach::Tenant => Self::Tenant,
            Reach::Person => Self::Below(OnceLock::new()),
        }
    }

    fn below<T>(&self, condition: impl FnOnce(&Roots) -> Condition<T>) -> Condition<T>
    where
        AsExprOf<bool, Bool>: SelectableExpression<T>,
    {
        match self {
            // A bind and no literal, with which Diesel would prepare the query anew each time.
            Self::Tenant => Box::new(true.into_sql::<Bool>()),
            Self::Below(roots) => condition(roots.get().unwrap_or(&Roots::default())),
        }
    }
}

/// The organizations at and below the roots, and the roots above each.
macro_rules! reached {
    ($roots:expr) => {
        organization_ancestors::table.filter(organization_ancestors::ancestor_id.eq_any($roots.organization_ids.clone()))
    };
}

/// Whether there is such a row, to be looked for with each row anew: a subquery with an OFFSET is never made into a set.
macro_rules! by_row {
    ($rows:expr) => {
        exists($rows.offset(0))
    };
}

/// The same, where PostgreSQL may find all such rows once.
macro_rules! by_set {
    ($rows:expr) => {
        exists($rows)
    };
}

/// The condition of [`Tx::people_in_reach`], with each of its subqueries asked so.
macro_rules! people_in_reach {
    ($roots:ident, $is_there:ident) => {{
        let member = reached!($roots)
            .inner_join(
                organization_members::table.on(organization_members::organization_id.eq(organization_ancestors::organization_id)),
            )
            .filter(organization_members::person_id.eq(people::person_id));
        let shown = || {
            reached!($roots).inner_join(accounts::table.on(accounts::organization_id.eq(organization_ancestors::organization_id)))
        };
        let added = shown()
            .inner_join(account_users::table.on(account_users::account_id.eq(accounts::account_id)))
            .filter(account_users::individual.and(account_users::person_id.eq(people::person_id)));
        let above = diesel::alias!(organization_ancestors as above);
        let through = shown()
            .inner_join(account_organizations::table.on(account_organizations::account_id.eq(accounts::account_id)))
            .inner_join(
                above.on(above
                    .field(organization_ancestors::ancestor_id)
                    .eq(account_organizations::organization_id)
                    .and(above.field(organization_ancestors::distance).eq(0).or(account_organizations::include_descendants))),
            )
            .inner_join(
                organization_members::table
                    .on(organization_members::organization_id.eq(above.field(organization_ancestors::organization_id))),
            )
            // The account's own organization is in reach with all its members.
            .filter(not(account_organizations::own).and(organization_members::person_id.eq(people::person_id)));
        let manages = shown().filter(accounts::account_manager_id.eq(people::person_id.nullable()));
        // No id is empty.
        let themselves = people::person_id.eq($roots.person_id.clone().unwrap_or_default());
        Box::new(themselves.or($is_there!(member)).or($is_there!(added)).or($is_there!(through)).or($is_there!(manages)))
    }};
}

impl Tx {
    /// Looks up where a limited reach begins. For a caller who sees the whole tenant there is nothing to ask.
    pub(super) async fn look_around(&self, caller: &Caller) -> Result<()> {
        let Sight::Below(roots) = self.sight() else { return Ok(()) };
        let rows = people::table
            .left_join(organization_members::table.on(organization_members::person_id.eq(people::person_id)))
            .filter(people::subject.eq(&*caller.actor).and(people::active))
            .select((people::person_id, organization_members::organization_id.nullable()))
            .load::<(String, Option<String>)>(&mut self.conn())
            .await?;
        let (person_ids, organization_ids): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let found = Roots {
            person_id: person_ids.into_iter().next(),
            organization_ids: organization_ids.into_iter().flatten().collect(),
        };
        roots.set(found).map_err(|_| Error::Internal("a transaction looks around twice".into()))
    }

    /// Whether the caller does not see the whole tenant.
    pub fn is_limited(&self) -> bool {
        matches!(self.sight(), Sight::Below(_))
    }

    /// Refuses what would be out of the reach of its own caller, or change it.
    pub fn require_whole_tenant(&self, why: &'static str) -> Result<()> {
        if self.is_limited() { Err(Error::OutOfReach { why }) } else { Ok(()) }
    }

    /// The organizations in reach.
    pub fn organizations_in_reach(&self) -> Condition<organizations::table> {
        self.sight().below(|roots| {
            let reached = reached!(roots).filter(organization_ancestors::organization_id.eq(organizations::organization_id));
            Box::new(exists(reached))
        })
    }

    /// The accounts in reach: those of organizations in reach.
    pub fn accounts_in_reach(&self) -> Condition<accounts::table> {
        self.sight().below(|roots| {
            let reached = reached!(roots).filter(organization_ancestors::organization_id.eq(accounts::organization_id));
            Box::new(exists(reached))
        })
    }

    /// What organizations in reach have set for modules.
    pub fn module_activations_in_reach(&self) -> Condition<module_activations::table> {
        self.sight().below(|roots| {
            let reached = reached!(roots).filter(organization_ancestors::organization_id.eq(module_activations::organization_id));
            Box::new(exists(reached))
        })
    }

    /// The trail in reach: what happened to accounts in reach, to what belongs to them, and to organizations in reach. What
    /// happened to an account that is gone belongs to no organization any more.
    pub fn activities_in_reach(&self) -> Condition<activities::table> {
        self.sight().below(|roots| {
            let account = reached!(roots)
                .inner_join(accounts::table.on(accounts::organization_id.eq(organization_ancestors::organization_id)))
                .filter(accounts::account_id.nullable().eq(activities::account_id));
            let organization = reached!(roots).filter(organization_ancestors::organization_id.eq(activities::resource_id));
            let organization = activities::resource_type.eq("organization").and(by_row!(organization));
            Box::new(by_row!(account).or(organization))
        })
    }

    /// The same for a list. Where little is in reach it is named, and the list begins with it; elsewhere the next activity in
    /// reach is never far.
    pub async fn list_activities_in_reach(&self) -> Result<Condition<activities::table>> {
        let Some(Few { organization_ids, account_ids }) = self.few_in_reach().await? else {
            return Ok(self.activities_in_reach());
        };
        let organization = activities::resource_type.eq("organization").and(activities::resource_id.eq_any(organization_ids));
        Ok(Box::new(activities::account_id.assume_not_null().eq_any(account_ids).or(organization)))
    }

    /// The people in reach: the caller's own person, members of organizations in reach, and whoever is shown with an account in
    /// reach: its individual users, its users through an organization linked to it, its manager.
    pub fn people_in_reach(&self) -> Condition<people::table> {
        self.sight().below(|roots| people_in_reach!(roots, by_row))
    }

    /// The same for a list. Where little is in reach the people in reach are found first; elsewhere the next one is never far.
    pub async fn list_people_in_reach(&self) -> Result<Condition<people::table>> {
        Ok(match self.few_in_reach().await? {
            Some(_) => self.sight().below(|roots| people_in_reach!(roots, by_set)),
            None => self.people_in_reach(),
        })
    }

    /// What is in reach, if that is limited, and little enough to be named.
    async fn few_in_reach(&self) -> Result<Option<Few>> {
        let Sight::Below(roots) = self.sight() else { return Ok(None) };
        let none = Roots::default();
        let roots = roots.get().unwrap_or(&none);
        let organizations = async {
            let ids = reached!(roots).select(organization_ancestors::organization_id).limit(FEW + 1);
            ids.load::<String>(&mut self.conn()).await
        };
        let accounts = async {
            let ids = reached!(roots)
                .inner_join(accounts::table.on(accounts::organization_id.eq(organization_ancestors::organization_id)))
                .select(accounts::account_id)
                .limit(FEW + 1);
            ids.load::<String>(&mut self.conn()).await
        };
        let (organization_ids, account_ids) = try_join(organizations, accounts).await?;
        let few = i64::try_from(organization_ids.len().max(account_ids.len())).is_ok_and(|most| most <= FEW);
        Ok(few.then_some(Few { organization_ids, account_ids }))
    }
}
