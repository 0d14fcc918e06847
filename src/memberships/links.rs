//! The organizations linked to an account.

use chrono::{DateTime, Utc};
use diesel::{dsl::case_when, prelude::*, upsert::excluded};
use diesel_async::RunQueryDsl;
use futures_util::TryStreamExt as _;

use super::refusals;
use crate::{
    accounts::store::Account,
    budget::{self, Weighed},
    db::{Tx, WriteTx},
    error::{Error, Result},
    modules,
    page::{Listed, Listing, Page, keyset, total},
    relations::{
        links::{Terms, record},
        organization,
        slots::{self, Scope},
    },
    schema::{account_organizations, organizations},
};

/// Bytes of a link in an answer, without its texts.
const ROW: usize = 128;

/// An organization linked to an account.
#[derive(Debug, Clone, Queryable)]
pub struct Link {
    /// The account.
    pub account_id: String,
    /// The organization.
    pub organization_id: String,
    /// Its name.
    pub display_name: String,
    /// Its name without case and accents.
    pub sort_key: String,
    /// Its creation, which lists are ordered by.
    pub organization_create_time: DateTime<Utc>,
    /// Whether it is the organization the account belongs to.
    pub own: bool,
    /// Whether the link covers the organizations below too.
    pub include_descendants: bool,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

impl Weighed for Link {
    fn weight(&self) -> usize {
        ROW + budget::texts([&self.account_id, &self.organization_id, &self.display_name])
    }
}

impl Listed for Link {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.sort_key, self.organization_create_time, &self.organization_id)
    }
}

type LinkColumns = (
    account_organizations::account_id,
    account_organizations::organization_id,
    organizations::display_name,
    organizations::sort_key,
    organizations::create_time,
    account_organizations::own,
    account_organizations::include_descendants,
    account_organizations::create_time,
    account_organizations::update_time,
);
const LINK: LinkColumns = (
    account_organizations::account_id,
    account_organizations::organization_id,
    organizations::display_name,
    organizations::sort_key,
    organizations::create_time,
    account_organizations::own,
    account_organizations::include_descendants,
    account_organizations::create_time,
    account_organizations::update_time,
);

macro_rules! links {
    ($tx:expr, $account_id:expr) => {
        organizations::table
            .filter($tx.owns(organizations::tenant_id))
            .inner_join(
                account_organizations::table.on(account_organizations::tenant_id
                    .eq(organizations::tenant_id)
                    .and(
                        account_organizations::organization_id.eq(organizations::organization_id),
                    )),
            )
            .filter(account_organizations::account_id.eq($account_id))
            .select(LINK)
    };
}

impl Link {
    /// Returns the link, if there is one.
    pub async fn find(tx: &Tx, account_id: &str, organization_id: &str) -> Result<Option<Self>> {
        let query = links!(tx, account_id)
            .filter(account_organizations::organization_id.eq(organization_id));
        Ok(query.first(&mut tx.conn()).await.optional()?)
    }

    /// Returns one page of the links of an account.
    pub async fn list(tx: &Tx, account_id: &str, page: &Page) -> Result<Listing<Self>> {
        Account::find(tx, account_id).await?;
        let nameless = Self::out_of_reach(tx, account_id).await?;
        // The order and the page token must not reveal organizations that the list leaves out.
        let named = || organizations::organization_id.ne_all(&nameless);
        let name = || case_when(named(), organizations::sort_key).otherwise("");
        let created = || {
            case_when(named(), organizations::create_time)
                .otherwise(account_organizations::create_time)
        };
        let total = total!(tx, page, links!(tx, account_id).into_boxed());
        let query = links!(tx, account_id).into_boxed();
        let query = keyset!(query, page, by name(), created(), organizations::organization_id);
        let rows = query.load_stream::<Self>(&mut tx.conn()).await?;
        let hide = |row: Self| {
            if !nameless.contains(&row.organization_id) {
                return row;
            }
            Self {
                display_name: String::new(),
                sort_key: String::new(),
                organization_create_time: row.create_time,
                ..row
            }
        };
        page.read(tx, total, rows.map_ok(hide)).await
    }

    /// Returns the organizations that are linked to an account and out of the caller's reach.
    async fn out_of_reach(tx: &Tx, account_id: &str) -> Result<Vec<String>> {
        if !tx.is_limited() {
            return Ok(Vec::new());
        }
        let links = account_organizations::table
            .filter(tx.owns(account_organizations::tenant_id))
            .filter(account_organizations::account_id.eq(account_id));
        let out_of_reach = links
            .filter(diesel::dsl::not(tx.links_in_reach()))
            .select(account_organizations::organization_id);
        Ok(out_of_reach.load(&mut tx.conn()).await?)
    }

    /// Links an organization to an account, or sets what an existing link covers.
    pub async fn put(
        tx: &WriteTx,
        account_id: &str,
        organization_id: &str,
        include_descendants: bool,
    ) -> Result<Self> {
        let account = Account::find_for_update(tx, account_id).await?;
        tx.lock_tree_shared().await?;
        organization::keep(tx, organization_id).await?;
        let before = Self::find(tx, account_id, organization_id).await?;
        if before.as_ref().is_none_or(|before| before.include_descendants != include_descendants) {
            // Only a link that covers less can end a membership.
            let narrows = before.is_some() && !include_descendants;
            let guard = if narrows {
                Some(slots::guard(tx, Scope::Account(account_id)).await?)
            } else {
                None
            };
            diesel::insert_into(account_organizations::table)
                .values((
                    tx.owns(account_organizations::tenant_id),
                    account_organizations::account_id.eq(account_id),
                    account_organizations::organization_id.eq(organization_id),
                    account_organizations::own.eq(false),
                    account_organizations::include_descendants.eq(include_descendants),
                ))
                .on_conflict((
                    account_organizations::tenant_id,
                    account_organizations::account_id,
                    account_organizations::organization_id,
                ))
                .do_update()
                .set((
                    account_organizations::include_descendants.eq(include_descendants),
                    account_organizations::update_time
                        .eq(excluded(account_organizations::update_time)),
                ))
                .execute(&mut tx.conn())
                .await?;
            if let Some(guard) = guard {
                guard.verify(tx).await?;
            }
        }
        let after = Self::find(tx, account_id, organization_id).await?;
        let after = after.ok_or_else(|| Error::internal("a link is gone that was just made"))?;
        record(
            tx,
            account.reference(),
            before.map(|before| before.terms()).as_ref(),
            Some(&after.terms()),
        )?;
        Ok(after)
    }

    /// Unlinks an organization from an account. Fails if it is the account's own organization, if
    /// it is not linked, or if a contact would no longer be a user.
    pub async fn remove(tx: &WriteTx, account_id: &str, organization_id: &str) -> Result<()> {
        let account = Account::find_for_update(tx, account_id).await?;
        let Some(link) = Self::find(tx, account_id, organization_id).await? else {
            return Err(refusals::organization_not_linked(account_id, organization_id));
        };
        tx.require_organization_in_reach(
            organization_id,
            "the link is to an organization that you do not reach",
        )
        .await?;
        modules::require(tx, organization_id).await?;
        if link.own {
            return Err(refusals::own_organization_linked(account_id, organization_id));
        }
        let guard = slots::guard(tx, Scope::Account(account_id)).await?;
        diesel::delete(
            account_organizations::table.filter(tx.owns(account_organizations::tenant_id)),
        )
        .filter(account_organizations::account_id.eq(account_id))
        .filter(account_organizations::organization_id.eq(organization_id))
        .execute(&mut tx.conn())
        .await?;
        guard.verify(tx).await?;
        record(tx, account.reference(), Some(&link.terms()), None)
    }

    fn terms(&self) -> Terms {
        let organization_id = self.organization_id.clone();
        Terms { organization_id, include_descendants: self.include_descendants, own: self.own }
    }
}
