//! Reach: how much of its tenant a transaction shows, and what of that its caller is in charge of.
//! A caller whose reach is limited sees what is bound to the organizations their person belongs to,
//! and to those below; everything else is to them as if it did not exist. They change an
//! organization or account that they see. A person whom they see may also belong elsewhere, so
//! there is a narrower condition for changing people.
//!
//! The one place that says so. Whoever finds or lists accounts, organizations or people for a
//! caller filters by what is here; what keeps the tenant's data consistent does not, for it has to
//! see all of it.

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
        account_organizations, account_users, accounts, activities, module_activations,
        organization_ancestors, organization_members, organizations, people,
    },
};

/// Most organizations and most accounts of a reach that counts as little.
const FEW: i64 = 1000;

/// Why a limited caller may not change a person whom they see.
const NOT_IN_CHARGE: &str = "the person is in no organization, or is bound to an organization or account, that you do not reach";
/// Why a limited caller may not make a person whom they see a member.
const NO_MEMBER: &str = "the person is a member of no organization that you reach";

/// A condition on the rows of a table.
pub type Condition<T> = Box<dyn BoxableExpression<T, Pg, SqlType = Bool>>;

/// How far a transaction sees.
#[derive(Debug)]
pub(super) enum Sight {
    /// The whole tenant.
    Tenant,
    /// What is bound to these organizations and everything below them; nothing until it is known
    /// which they are.
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

/// The organizations and accounts of a limited reach, by id and incarnation, where they are few
/// enough to be listed in a query.
#[derive(Debug)]
pub struct Few {
    organizations: (Vec<String>, Vec<String>),
    accounts: (Vec<String>, Vec<String>),
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

/// Whether there is such a row, to be looked for with each row anew: a subquery with an OFFSET is
/// never made into a set.
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
            // The account's own organization is in reach with all its members.
            .filter(
                not(account_organizations::own)
                    .and(organization_members::person_id.eq(people::person_id)),
            );
        let manages = shown().filter(accounts::account_manager_id.eq(people::person_id.nullable()));
        // No id is empty.
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
    /// Looks up where a limited reach begins. For a caller who sees the whole tenant there is
    /// nothing to ask.
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
        roots.set(found).map_err(|_| Error::internal("a transaction looks around twice"))
    }

    /// Whether the caller does not see the whole tenant.
    pub fn is_limited(&self) -> bool {
        matches!(self.sight(), Sight::Below(_))
    }

    /// Refuses what would be out of the reach of its own caller, or change it.
    pub fn require_whole_tenant(&self, why: &'static str) -> Result<()> {
        require(!self.is_limited(), why)
    }

    /// Refuses a change of something that belongs to an organization out of the caller's reach. The
    /// caller knows its id.
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

    /// Refuses to change a person, whom the caller sees and the transaction has locked, unless the
    /// caller is in charge of them. With the row locked nobody binds the person to anything else.
    pub async fn require_charge_of(&self, person_id: &str) -> Result<()> {
        self.require_person(person_id, self.people_in_charge(), NOT_IN_CHARGE).await
    }

    /// Refuses to make a person, whom the caller sees, a member of an organization unless they are
    /// a member of one in reach. The caller would otherwise take charge of people whom those above
    /// have put nowhere, such as users of an account.
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

    /// The organizations in reach below none that is in reach: for a caller who sees the whole
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

    /// The accounts in reach: those of organizations in reach.
    pub fn accounts_in_reach(&self) -> Condition<accounts::table> {
        self.sight().below(|roots| Box::new(is_reached!(self, roots, accounts::organization_id)))
    }

    /// What organizations in reach have set for modules.
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

    /// The trail in reach: what happened to accounts in reach, to what belongs to them, and to
    /// organizations in reach. What happened to an account that is gone belongs to no organization
    /// any more, nor to an account that took its id: ids find the row, incarnations decide.
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

    /// [`Tx::activities_in_reach`] for a list. Little that is in reach is named, and the list
    /// begins with it; elsewhere the next activity in reach is never far.
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

    /// The people in reach: the caller's own person, members of organizations in reach, and whoever
    /// is shown with an account in reach: its individual users, its users through an organization
    /// linked to it, its manager.
    pub fn people_in_reach(&self) -> Condition<people::table> {
        self.sight().below(|roots| people_in_reach!(self, roots, by_row))
    }

    /// The members of organizations in reach: of the people in reach, those who are not only shown
    /// with an account.
    fn members_in_reach(&self) -> Condition<people::table> {
        self.sight().below(|roots| {
            let member = organization_members::table
                .filter(self.owns(organization_members::tenant_id))
                .filter(organization_members::person_id.eq(people::person_id))
                .filter(is_reached!(self, roots, organization_members::organization_id));
            Box::new(exists(member))
        })
    }

    /// The people of whom the caller is in charge: members of organizations in reach whom nothing
    /// binds to anything out of reach. All organizations they belong to are in reach, and so are
    /// all accounts on which something is set for them, whose contact or manager they are, or on
    /// which they buy.
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
                .filter(account_users::person_id.eq(people::person_id));
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
            Box::new(
                exists(member())
                    .and(not(exists(member_elsewhere)))
                    .and(not(exists(user_elsewhere)))
                    .and(not(exists(named_elsewhere)))
                    .and(not(exists(buys_elsewhere))),
            )
        })
    }

    /// [`Tx::people_in_reach`] for a list. Where little is in reach the people in reach are found
    /// first; elsewhere the next one is never far.
    pub fn list_people_in_reach(&self, few: Option<&Few>) -> Condition<people::table> {
        match few {
            Some(_) => self.sight().below(|roots| people_in_reach!(self, roots, by_set)),
            None => self.people_in_reach(),
        }
    }

    /// The organizations and accounts in reach, for the conditions of a list; `None` if the reach
    /// is not limited, or has too many.
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
