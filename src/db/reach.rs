//! Reach: which rows of the tenant the caller of a transaction sees, and which people they are in
//! charge of. A caller with a limited reach sees what is bound to the organizations that their
//! person is a member of, and to those below; other rows do not exist for them. They may change
//! each organization and account that they see. A person whom they see may also belong to
//! organizations out of reach, so changing people has a narrower condition.
//!
//! This is the only file with these conditions. Code that finds or lists accounts, organizations or
//! people for a caller filters by them; code that keeps the tenant's data consistent does not,
//! because it must see all rows.

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

use super::{refusals, tx::Tx};
use crate::{
    caller::{Caller, Reach},
    error::{Error, Result},
    schema::{
        account_organizations, account_users, accounts, activities, contracts, delivery_setups,
        module_activations, opportunities, orders, organization_ancestors, organization_members,
        organizations, people, portfolios, subscriptions,
    },
};

/// Most organizations, and most accounts, of a small reach.
const FEW: i64 = 1000;

/// Why a limited caller may not change a person whom they see.
const NOT_IN_CHARGE: &str = "the person is in no organization, or is bound to an organization or \
    account, that you do not reach";
/// Why a limited caller may not add a person whom they see as a member.
const NO_MEMBER: &str = "the person is a member of no organization that you reach";

/// A condition on the rows of a table.
pub type Condition<T> = Box<dyn BoxableExpression<T, Pg, SqlType = Bool>>;

/// What a transaction's caller sees.
#[derive(Debug)]
pub(super) enum Sight {
    /// The whole tenant.
    Tenant,
    /// The rows that are bound to the roots or to organizations below them; no rows until
    /// `load_reach_roots` has loaded the roots.
    Below(OnceLock<Roots>),
}

/// The organizations at which a limited reach begins, and the caller's person.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// The caller's person.
    person_id: Option<String>,
    /// The organizations that the person is a member of.
    organization_ids: Vec<String>,
}

/// The organizations and accounts of a small reach, as ids and incarnations, for a query that lists
/// them.
#[derive(Debug)]
pub struct Few {
    organizations: (Vec<String>, Vec<String>),
    accounts: (Vec<String>, Vec<String>),
}

impl Sight {
    /// The sight of a caller; a limited one gets its roots from `load_reach_roots`.
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
            // A bind, because Diesel does not cache a query with a literal.
            Self::Tenant => Box::new(true.into_sql::<Bool>()),
            Self::Below(roots) => condition(roots.get().unwrap_or(&Roots::default())),
        }
    }
}

/// The ancestor rows of all organizations at or below the roots.
macro_rules! reached {
    ($tx:expr, $roots:expr) => {
        organization_ancestors::table
            .filter($tx.owns(organization_ancestors::tenant_id))
            .filter(organization_ancestors::ancestor_id.eq_any($roots.organization_ids.clone()))
    };
}

/// Whether the organization in this column is in reach.
macro_rules! is_reached {
    ($tx:expr, $roots:expr, $organization_id:expr) => {
        exists(
            reached!($tx, $roots)
                .filter(organization_ancestors::organization_id.eq($organization_id)),
        )
    };
}

/// The ids of the accounts of organizations in reach.
macro_rules! shown_accounts {
    ($tx:expr, $roots:expr) => {
        accounts::table
            .filter($tx.owns(accounts::tenant_id))
            .filter(is_reached!($tx, $roots, accounts::organization_id))
            .select(accounts::account_id)
    };
}

/// EXISTS evaluated once per outer row. `OFFSET 0` keeps PostgreSQL from flattening it into a
/// semi-join.
macro_rules! by_row {
    ($rows:expr) => {
        exists($rows.offset(0))
    };
}

/// EXISTS that PostgreSQL may evaluate once, as a semi-join.
macro_rules! by_set {
    ($rows:expr) => {
        exists($rows)
    };
}

/// The condition of [`Tx::people_in_reach`]; `$is_there` (`by_row` or `by_set`) makes each EXISTS.
macro_rules! people_in_reach {
    ($tx:expr, $roots:ident, $is_there:ident) => {{
        let member = reached!($tx, $roots)
            .inner_join(
                organization_members::table.on(organization_members::tenant_id
                    .eq(organization_ancestors::tenant_id)
                    .and(
                        organization_members::organization_id
                            .eq(organization_ancestors::organization_id),
                    )),
            )
            .filter(organization_members::person_id.eq(people::person_id));
        let shown = || {
            reached!($tx, $roots).inner_join(
                accounts::table.on(accounts::tenant_id
                    .eq(organization_ancestors::tenant_id)
                    .and(accounts::organization_id.eq(organization_ancestors::organization_id))),
            )
        };
        let added = shown()
            .inner_join(
                account_users::table.on(account_users::tenant_id
                    .eq(accounts::tenant_id)
                    .and(account_users::account_id.eq(accounts::account_id))),
            )
            .filter(account_users::individual.and(account_users::person_id.eq(people::person_id)));
        let above = diesel::alias!(organization_ancestors as above);
        let through = shown()
            .inner_join(
                account_organizations::table.on(account_organizations::tenant_id
                    .eq(accounts::tenant_id)
                    .and(account_organizations::account_id.eq(accounts::account_id))),
            )
            .inner_join(
                above.on(above
                    .field(organization_ancestors::tenant_id)
                    .eq(account_organizations::tenant_id)
                    .and(
                        above
                            .field(organization_ancestors::ancestor_id)
                            .eq(account_organizations::organization_id),
                    )
                    .and(
                        above
                            .field(organization_ancestors::distance)
                            .eq(0)
                            .or(account_organizations::include_descendants),
                    )),
            )
            .inner_join(
                organization_members::table.on(organization_members::tenant_id
                    .eq(above.field(organization_ancestors::tenant_id))
                    .and(
                        organization_members::organization_id
                            .eq(above.field(organization_ancestors::organization_id)),
                    )),
            )
            // Members through the account's own organization are in reach already, as `member`.
            .filter(
                not(account_organizations::own)
                    .and(organization_members::person_id.eq(people::person_id)),
            );
        let manages = shown().filter(accounts::account_manager_id.eq(people::person_id.nullable()));
        // No person has an empty id.
        let themselves = people::person_id.eq($roots.person_id.clone().unwrap_or_default());
        Box::new(
            themselves
                .or($is_there!(member))
                .or($is_there!(added))
                .or($is_there!(through))
                .or($is_there!(manages)),
        )
    }};
}

impl Tx {
    /// Loads the roots of a limited reach. Does nothing for a caller who sees the whole tenant.
    pub(super) async fn load_reach_roots(&self, caller: &Caller) -> Result<()> {
        let Sight::Below(roots) = self.sight() else { return Ok(()) };
        let rows = people::table
            .filter(self.owns(people::tenant_id))
            .left_join(
                organization_members::table.on(organization_members::tenant_id
                    .eq(people::tenant_id)
                    .and(organization_members::person_id.eq(people::person_id))),
            )
            .filter(people::subject.eq(&*caller.actor).and(people::active))
            .select((people::person_id, organization_members::organization_id.nullable()))
            .load::<(String, Option<String>)>(&mut self.conn())
            .await?;
        let (person_ids, organization_ids): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let found = Roots {
            person_id: person_ids.into_iter().next(),
            organization_ids: organization_ids.into_iter().flatten().collect(),
        };
        roots.set(found).map_err(|_| Error::internal("the roots of a reach are loaded twice"))
    }

    /// Whether the caller sees less than the whole tenant.
    pub fn is_limited(&self) -> bool {
        matches!(self.sight(), Sight::Below(_))
    }

    /// Fails for a limited caller. For changes whose result would be out of their own reach, or
    /// would change it.
    pub fn require_whole_tenant(&self, why: &'static str) -> Result<()> {
        require(!self.is_limited(), why)
    }

    /// Fails if the caller is limited and the organization is out of their reach. For changes of
    /// something whose organization the caller already knows by id.
    pub async fn require_organization_in_reach(
        &self,
        organization_id: &str,
        why: &'static str,
    ) -> Result<()> {
        if !self.is_limited() {
            return Ok(());
        }
        let found = organizations::table
            .filter(self.owns(organizations::tenant_id))
            .filter(
                organizations::organization_id
                    .eq(organization_id)
                    .and(self.organizations_in_reach()),
            )
            .select(organizations::organization_id);
        require(found.first::<String>(&mut self.conn()).await.optional()?.is_some(), why)
    }

    /// Fails unless the caller is in charge of the person. The caller must see the person, and the
    /// transaction must hold the lock of the row, so that no other transaction binds the person to
    /// something out of reach.
    pub async fn require_charge_of(&self, person_id: &str) -> Result<()> {
        self.require_person(person_id, self.people_in_charge(), NOT_IN_CHARGE).await
    }

    /// Fails unless the person is a member of an organization in reach. For adding a person whom
    /// the caller sees as a member. Without this check the caller would get charge of people who
    /// are in no organization, such as users of an account.
    pub async fn require_member_in_reach(&self, person_id: &str) -> Result<()> {
        self.require_person(person_id, self.members_in_reach(), NO_MEMBER).await
    }

    async fn require_person(
        &self,
        person_id: &str,
        condition: Condition<people::table>,
        why: &'static str,
    ) -> Result<()> {
        if !self.is_limited() {
            return Ok(());
        }
        let found = people::table
            .filter(self.owns(people::tenant_id))
            .filter(people::person_id.eq(person_id).and(condition))
            .select(people::person_id);
        require(found.first::<String>(&mut self.conn()).await.optional()?.is_some(), why)
    }

    /// The organizations in reach.
    pub fn organizations_in_reach(&self) -> Condition<organizations::table> {
        self.sight()
            .below(|roots| Box::new(is_reached!(self, roots, organizations::organization_id)))
    }

    /// The organizations in reach whose parent is not in reach. For a caller who sees the whole
    /// tenant, those without a parent.
    pub fn topmost_in_reach(&self) -> Condition<organizations::table> {
        match self.sight() {
            Sight::Tenant => Box::new(organizations::parent_id.is_null()),
            Sight::Below(_) => self.sight().below(|roots| {
                let parent = reached!(self, roots).filter(
                    organization_ancestors::organization_id.nullable().eq(organizations::parent_id),
                );
                Box::new(
                    organizations::organization_id
                        .eq_any(roots.organization_ids.clone())
                        .and(not(exists(parent))),
                )
            }),
        }
    }

    /// The accounts of organizations in reach.
    pub fn accounts_in_reach(&self) -> Condition<accounts::table> {
        self.sight().below(|roots| Box::new(is_reached!(self, roots, accounts::organization_id)))
    }

    /// The contracts of accounts in reach.
    pub fn contracts_in_reach(&self) -> Condition<contracts::table> {
        self.sight()
            .below(|roots| Box::new(contracts::account_id.eq_any(shown_accounts!(self, roots))))
    }

    /// The delivery setups of accounts in reach.
    pub fn delivery_setups_in_reach(&self) -> Condition<delivery_setups::table> {
        self.sight().below(|roots| {
            Box::new(delivery_setups::account_id.eq_any(shown_accounts!(self, roots)))
        })
    }

    /// The opportunities of accounts in reach.
    pub fn opportunities_in_reach(&self) -> Condition<opportunities::table> {
        self.sight()
            .below(|roots| Box::new(opportunities::account_id.eq_any(shown_accounts!(self, roots))))
    }

    /// The orders of accounts in reach.
    pub fn orders_in_reach(&self) -> Condition<orders::table> {
        self.sight()
            .below(|roots| Box::new(orders::account_id.eq_any(shown_accounts!(self, roots))))
    }

    /// The subscriptions of accounts in reach.
    pub fn subscriptions_in_reach(&self) -> Condition<subscriptions::table> {
        self.sight()
            .below(|roots| Box::new(subscriptions::account_id.eq_any(shown_accounts!(self, roots))))
    }

    /// The portfolios of accounts in reach.
    pub fn portfolios_in_reach(&self) -> Condition<portfolios::table> {
        self.sight()
            .below(|roots| Box::new(portfolios::account_id.eq_any(shown_accounts!(self, roots))))
    }

    /// The module settings of organizations in reach.
    pub fn module_activations_in_reach(&self) -> Condition<module_activations::table> {
        self.sight()
            .below(|roots| Box::new(is_reached!(self, roots, module_activations::organization_id)))
    }

    /// The links of accounts to organizations in reach.
    pub fn links_in_reach(&self) -> Condition<account_organizations::table> {
        self.sight().below(|roots| {
            Box::new(is_reached!(self, roots, account_organizations::organization_id))
        })
    }

    /// The events in reach: those of accounts in reach and of what belongs to them, and those of
    /// organizations in reach. Events of a deleted account are in nobody's limited reach, even if a
    /// later account has its id: the id finds the account, but the incarnation must be equal too.
    pub fn activities_in_reach(&self) -> Condition<activities::table> {
        self.sight().below(|roots| {
            let account =
                reached!(self, roots)
                    .inner_join(accounts::table.on(
                        accounts::tenant_id.eq(organization_ancestors::tenant_id).and(
                            accounts::organization_id.eq(organization_ancestors::organization_id),
                        ),
                    ))
                    .filter(accounts::account_id.nullable().eq(activities::account_id))
                    .filter(accounts::incarnation.nullable().eq(activities::incarnation));
            let organization = reached!(self, roots)
                .inner_join(organizations::table.on(
                    organizations::tenant_id.eq(organization_ancestors::tenant_id).and(
                        organizations::organization_id.eq(organization_ancestors::organization_id),
                    ),
                ))
                .filter(organizations::organization_id.eq(activities::resource_id))
                .filter(organizations::incarnation.nullable().eq(activities::incarnation));
            let organization =
                activities::resource_type.eq("organization").and(by_row!(organization));
            Box::new(by_row!(account).or(organization))
        })
    }

    /// [`Tx::activities_in_reach`] for list queries. With a small reach the query names the
    /// reachable ids, and PostgreSQL should begin with them; with a large one most rows match, so
    /// each row is tested.
    pub fn list_activities_in_reach(&self, few: Option<&Few>) -> Condition<activities::table> {
        let Some(Few { organizations, accounts }) = few else { return self.activities_in_reach() };
        let incarnation = activities::incarnation.assume_not_null();
        let organization = activities::resource_type
            .eq("organization")
            .and(activities::resource_id.eq_any(organizations.0.clone()))
            .and(incarnation.eq_any(organizations.1.clone()));
        let account = activities::account_id.assume_not_null();
        let account =
            account.eq_any(accounts.0.clone()).and(incarnation.eq_any(accounts.1.clone()));
        Box::new(account.or(organization))
    }

    /// The people in reach: the caller's own person, members of organizations in reach, and people
    /// who are shown with an account in reach. These are its individual users, its users through a
    /// linked organization, and its manager.
    pub fn people_in_reach(&self) -> Condition<people::table> {
        self.sight().below(|roots| people_in_reach!(self, roots, by_row))
    }

    /// The members of organizations in reach, without the people who are in reach only because they
    /// are shown with an account.
    fn members_in_reach(&self) -> Condition<people::table> {
        self.sight().below(|roots| {
            let member = organization_members::table
                .filter(self.owns(organization_members::tenant_id))
                .filter(organization_members::person_id.eq(people::person_id))
                .filter(is_reached!(self, roots, organization_members::organization_id));
            Box::new(exists(member))
        })
    }

    /// The people whom the caller is in charge of: members of organizations in reach with no tie to
    /// anything out of reach. All their organizations are in reach, and so are all accounts on
    /// which they have settings, on which they are a contact or the manager, or on which they buy,
    /// and those of the opportunities that they own.
    fn people_in_charge(&self) -> Condition<people::table> {
        self.sight().below(|roots| {
            let member = || {
                organization_members::table
                    .filter(self.owns(organization_members::tenant_id))
                    .filter(organization_members::person_id.eq(people::person_id))
            };
            let member_elsewhere = member().filter(not(is_reached!(
                self,
                roots,
                organization_members::organization_id
            )));
            let elsewhere = || {
                accounts::table.filter(self.owns(accounts::tenant_id)).filter(not(is_reached!(
                    self,
                    roots,
                    accounts::organization_id
                )))
            };
            let user_elsewhere = elsewhere()
                .inner_join(
                    account_users::table.on(account_users::tenant_id
                        .eq(accounts::tenant_id)
                        .and(account_users::account_id.eq(accounts::account_id))),
                )
                .filter(account_users::person_id.eq(people::person_id))
                // A user through an organization who was removed as an individual one keeps a row
                // in which nothing is set.
                .filter(
                    account_users::individual
                        .or(account_users::billing)
                        .or(account_users::roles.ne(Vec::<String>::new()))
                        .or(account_users::start_date.is_not_null())
                        .or(account_users::end_date.is_not_null()),
                );
            let person_id = || people::person_id.nullable();
            let named_elsewhere = elsewhere().filter(
                accounts::account_manager_id
                    .eq(person_id())
                    .or(accounts::primary_contact_id.eq(person_id()))
                    .or(accounts::billing_contact_id.eq(person_id()))
                    .or(accounts::cc_billing_contact_id.eq(person_id())),
            );
            let buys_elsewhere = elsewhere()
                .filter(accounts::account_id.nullable().eq(people::purchasing_account_id));
            let owns_elsewhere = elsewhere()
                .inner_join(
                    opportunities::table.on(opportunities::tenant_id
                        .eq(accounts::tenant_id)
                        .and(opportunities::account_id.eq(accounts::account_id))),
                )
                .filter(opportunities::owner_id.eq(person_id()));
            Box::new(
                exists(member())
                    .and(not(exists(member_elsewhere)))
                    .and(not(exists(user_elsewhere)))
                    .and(not(exists(named_elsewhere)))
                    .and(not(exists(buys_elsewhere)))
                    .and(not(exists(owns_elsewhere))),
            )
        })
    }

    /// [`Tx::people_in_reach`] for list queries. With a small reach PostgreSQL should collect the
    /// reachable people first; with a large one most rows match, so each row is tested.
    pub fn list_people_in_reach(&self, few: Option<&Few>) -> Condition<people::table> {
        match few {
            Some(_) => self.sight().below(|roots| people_in_reach!(self, roots, by_set)),
            None => self.people_in_reach(),
        }
    }

    /// Returns the organizations and accounts in reach, for the conditions of a list; `None` if the
    /// reach is not limited, or not small.
    pub async fn few_in_reach(&self) -> Result<Option<Few>> {
        let Sight::Below(roots) = self.sight() else { return Ok(None) };
        let none = Roots::default();
        let roots = roots.get().unwrap_or(&none);
        let organizations = async {
            let ids = reached!(self, roots)
                .inner_join(organizations::table.on(
                    organizations::tenant_id.eq(organization_ancestors::tenant_id).and(
                        organizations::organization_id.eq(organization_ancestors::organization_id),
                    ),
                ))
                .select((organizations::organization_id, organizations::incarnation))
                .limit(FEW + 1);
            ids.load::<(String, String)>(&mut self.conn()).await
        };
        let accounts = async {
            let ids =
                reached!(self, roots)
                    .inner_join(accounts::table.on(
                        accounts::tenant_id.eq(organization_ancestors::tenant_id).and(
                            accounts::organization_id.eq(organization_ancestors::organization_id),
                        ),
                    ))
                    .select((accounts::account_id, accounts::incarnation))
                    .limit(FEW + 1);
            ids.load::<(String, String)>(&mut self.conn()).await
        };
        let (organizations, accounts) = try_join(organizations, accounts).await?;
        let few =
            i64::try_from(organizations.len().max(accounts.len())).is_ok_and(|most| most <= FEW);
        Ok(few.then(|| Few {
            organizations: organizations.into_iter().unzip(),
            accounts: accounts.into_iter().unzip(),
        }))
    }
}

fn require(reached: bool, why: &'static str) -> Result<()> {
    if reached { Ok(()) } else { Err(refusals::out_of_reach(why)) }
}
