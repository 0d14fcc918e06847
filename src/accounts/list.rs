//! Lists and searches of accounts.

use chrono::NaiveDate;
use diesel::{dsl::not, prelude::*};

use super::{
    search::{Rows, Search, Way},
    store::{Account, Status},
};
use crate::{
    db::{Condition, Tx},
    error::Result,
    metadata::Metadata,
    modules,
    page::{By, Listing, Page, total},
    relations::{organization, sources::used_by},
    schema::{account_organizations, account_words, accounts, organization_ancestors},
    validate::Period,
};

/// Which accounts a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Search terms; empty for all.
    pub query: String,
    /// Only accounts with one of these statuses; empty for all.
    pub statuses: Vec<Status>,
    /// Only accounts of this organization.
    pub organization_id: Option<String>,
    /// Whether accounts of the organizations below it are included.
    pub include_descendants: bool,
    /// Only accounts that this person is a user of.
    pub person_id: Option<String>,
    /// Only accounts with this manager.
    pub account_manager_id: Option<String>,
    /// Only accounts of this type.
    pub account_type_id: Option<String>,
    /// Only accounts without a type.
    pub without_account_type: bool,
    /// Only primary accounts (`true`), or only others (`false`).
    pub is_primary: Option<bool>,
    /// Only accounts created in this period.
    pub created: Period,
    /// Only accounts last changed in this period.
    pub updated: Period,
    /// Only accounts of other organizations that are linked to this one.
    pub linked_organization_id: Option<String>,
    /// Only accounts with this person as a contact.
    pub contact_id: Option<String>,
    /// Only accounts with all these entries.
    pub metadata: Metadata,
}

impl Filter {
    /// The conditions that need not match an index over the list's order: each either finds few
    /// accounts or is cheap to test for each account.
    fn conditions(&self, tx: &Tx, today: Option<NaiveDate>) -> Vec<Condition<accounts::table>> {
        let mut conditions: Vec<Condition<accounts::table>> = Vec::new();
        if let (Some(person_id), Some(today)) = (&self.person_id, today) {
            conditions.push(used_by(tx, person_id, today));
        }
        if let Some(account_manager_id) = &self.account_manager_id {
            conditions.push(Box::new(
                accounts::account_manager_id.assume_not_null().eq(account_manager_id.clone()),
            ));
        }
        if let Some(account_type_id) = &self.account_type_id {
            conditions.push(Box::new(
                accounts::account_type_id.assume_not_null().eq(account_type_id.clone()),
            ));
        }
        if self.without_account_type {
            conditions.push(Box::new(accounts::account_type_id.is_null()));
        }
        match self.is_primary {
            Some(true) => conditions.push(Box::new(accounts::is_primary)),
            Some(false) => conditions.push(Box::new(not(accounts::is_primary))),
            None => {}
        }
        if let Some(organization_id) = &self.linked_organization_id {
            let linked = account_organizations::table
                .filter(tx.owns(account_organizations::tenant_id))
                .filter(
                    account_organizations::organization_id
                        .eq(organization_id.clone())
                        .and(not(account_organizations::own)),
                )
                .select(account_organizations::account_id);
            conditions.push(Box::new(accounts::account_id.eq_any(linked)));
        }
        if let Some(person_id) = &self.contact_id {
            let primary = accounts::primary_contact_id.assume_not_null().eq(person_id.clone());
            let billing = accounts::billing_contact_id.assume_not_null().eq(person_id.clone());
            let cc = accounts::cc_billing_contact_id.assume_not_null().eq(person_id.clone());
            conditions.push(Box::new(primary.or(billing).or(cc)));
        }
        for entry in self.metadata.words() {
            let found = account_words::table
                .filter(tx.owns(account_words::tenant_id))
                .filter(account_words::word.eq(entry))
                .select(account_words::account_id);
            conditions.push(Box::new(accounts::account_id.eq_any(found)));
        }
        conditions
    }
}

impl Filter {
    /// Looks up what the filter depends on; `None` if no account matches. Fails if the filter names
    /// an organization for which the module is off.
    pub async fn prepare(&self, tx: &Tx) -> Result<Option<Prepared<'_>>> {
        if let Some(id) = self.organization_id.as_deref().filter(|_| self.include_descendants)
            && !organization::is_in_reach(tx, id).await?
        {
            return Ok(None);
        }
        let search = Search::look_up(tx, &self.query).await?;
        let below = match &self.organization_id {
            // Given two subqueries, PostgreSQL may join every row of one with every row of the
            // other, so one of them runs first.
            Some(id) if self.include_descendants && !search.is_empty() => {
                Some(organization::below(tx, id).await?)
            }
            _ => None,
        };
        for named in [&self.organization_id, &self.linked_organization_id] {
            modules::require_named(tx, named.as_deref()).await?;
        }
        let off = modules::off(tx).await?;
        let today = match self.person_id {
            Some(_) => Some(tx.today().await?),
            None => None,
        };
        Ok(Some(Prepared { filter: self, search, below, off, today }))
    }
}

/// A filter, and what it depends on.
#[derive(Debug)]
pub struct Prepared<'a> {
    filter: &'a Filter,
    search: Search,
    /// The organizations of the filter, if they were looked up first.
    below: Option<Vec<String>>,
    /// The organizations for which the module is off.
    off: Option<Vec<String>>,
    today: Option<NaiveDate>,
}

impl Prepared<'_> {
    /// The accounts that match, of which only those that were created and changed in these periods.
    pub fn query(&self, tx: &Tx, created: Period, updated: Period) -> Rows<'_> {
        self.search.filter(tx, self.list(tx, created, updated), Way::Planned)
    }

    /// The accounts that match all filters but the search, created and changed in these periods.
    fn list(&self, tx: &Tx, created: Period, updated: Period) -> Rows<'_> {
        let Self { filter, below, off, today, .. } = self;
        let mut query = accounts::table
            .filter(tx.owns(accounts::tenant_id))
            .select(Account::as_select())
            .filter(tx.accounts_in_reach())
            .into_boxed();
        for condition in filter.conditions(tx, *today) {
            query = query.filter(condition);
        }
        query = match &*filter.statuses {
            [] => query,
            // An equality lets PostgreSQL use the order of the index over status and name.
            [status] => query.filter(accounts::status.eq(*status)),
            statuses => query.filter(accounts::status.eq_any(statuses)),
        };
        query = match (&filter.organization_id, below) {
            (_, Some(ids)) => query.filter(accounts::organization_id.eq_any(ids)),
            (Some(id), None) if filter.include_descendants => {
                let below = organization_ancestors::table
                    .filter(tx.owns(organization_ancestors::tenant_id))
                    .filter(organization_ancestors::ancestor_id.eq(id))
                    .select(organization_ancestors::organization_id);
                query.filter(accounts::organization_id.eq_any(below))
            }
            (Some(id), None) => query.filter(accounts::organization_id.eq(id)),
            (None, None) => query,
        };
        if let Some(start) = created.start {
            query = query.filter(accounts::create_time.ge(start));
        }
        if let Some(end) = created.end {
            query = query.filter(accounts::create_time.lt(end));
        }
        if let Some(start) = updated.start {
            query = query.filter(accounts::update_time.ge(start));
        }
        if let Some(end) = updated.end {
            query = query.filter(accounts::update_time.lt(end));
        }
        match off {
            Some(off) => query.filter(accounts::organization_id.ne_all(off)),
            None => query,
        }
    }
}

impl Account {
    /// Returns one page of accounts.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let Some(prepared) = filter.prepare(tx).await? else { return Ok(Listing::default()) };
        let total = total!(tx, page, prepared.query(tx, filter.created, filter.updated));
        let (created, updated) = (
            page.rest_of(filter.created, By::CreateTime),
            page.rest_of(filter.updated, By::UpdateTime),
        );
        prepared.search.page(tx, || prepared.list(tx, created, updated), page, total).await
    }
}
