//! Which accounts a list of what belongs to accounts covers: of one account, of an organization, of
//! a tree of organizations, and always only of accounts in reach whose organization has the module.

use diesel::{pg::Pg, prelude::*, sql_types::Text};

use crate::{
    db::Tx,
    error::Result,
    modules,
    relations::organization,
    schema::{accounts, organization_ancestors},
    validate::Violations,
};

/// The fields of a list request that say whose rows are listed.
#[derive(Debug)]
pub struct Scope {
    /// Only of this account.
    pub account_id: Option<String>,
    /// Only of accounts of this organization.
    organization_id: Option<String>,
    /// Whether accounts of the organizations below it are included.
    include_descendants: bool,
}

/// A scope whose modules have been looked up.
#[derive(Debug)]
pub struct Covered<'a> {
    scope: &'a Scope,
    off: Option<Vec<String>>,
}

impl Scope {
    /// Parses the fields `account_id`, `organization_id` and `include_descendants`.
    pub fn parse(
        v: &mut Violations,
        account_id: String,
        organization_id: String,
        include_descendants: bool,
    ) -> Self {
        Self {
            account_id: v.optional_id("account_id", account_id),
            organization_id: v.optional_id("organization_id", organization_id),
            include_descendants,
        }
    }

    /// Looks up what the scope depends on; `None` if nothing is in it. Fails if it names an account
    /// or an organization for which the module is off.
    pub async fn cover(&self, tx: &Tx) -> Result<Option<Covered<'_>>> {
        if let Some(id) = self.organization_id.as_deref().filter(|_| self.include_descendants)
            && !organization::is_in_reach(tx, id).await?
        {
            return Ok(None);
        }
        modules::require_named(tx, self.organization_id.as_deref()).await?;
        modules::require_named_account(tx, self.account_id.as_deref()).await?;
        Ok(Some(Covered { scope: self, off: modules::off(tx).await? }))
    }
}

impl Covered<'_> {
    /// The ids of the accounts; `None` if the scope excludes none by its organization, by reach or
    /// by a module.
    pub fn account_ids(&self, tx: &Tx) -> Option<accounts::BoxedQuery<'static, Pg, Text>> {
        let Scope { organization_id, include_descendants, .. } = self.scope;
        if organization_id.is_none() && self.off.is_none() && !tx.is_limited() {
            return None;
        }
        let mut query = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .filter(tx.accounts_in_reach())
            .select(accounts::account_id)
            .into_boxed();
        match organization_id {
            Some(id) if *include_descendants => {
                let below = organization_ancestors::table
                    .filter(tx.owns(organization_ancestors::tenant_id))
                    .filter(organization_ancestors::ancestor_id.eq(id.clone()))
                    .select(organization_ancestors::organization_id);
                query = query.filter(accounts::organization_id.eq_any(below));
            }
            Some(id) => query = query.filter(accounts::organization_id.eq(id.clone())),
            None => {}
        }
        if let Some(off) = self.off.clone() {
            query = query.filter(accounts::organization_id.ne_all(off));
        }
        Some(query)
    }
}
