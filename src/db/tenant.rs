//! The tenant's row: its settings and modules, which every transaction asks for before it answers
//! anything.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::{dsl, prelude::*, sql_types::Timestamptz};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{Tx, WriteTx, hot::Question, refusals, tx::Beginning};
use crate::{
    error::{Error, Result},
    schema::tenants,
};

/// A tenant as it is kept, or as it is by default as long as it has no row.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = tenants, check_for_backend(diesel::pg::Pg))]
pub struct Tenant {
    /// What it has chosen.
    #[diesel(embed)]
    pub settings: Settings,
    /// The modules that are off for all of it.
    pub modules_off: Vec<String>,
    /// The modules that are off for some organization.
    pub modules_off_below: Vec<String>,
    /// Counts the changes of the settings; the etag.
    pub revision: i64,
    /// When the settings were last changed.
    pub update_time: Option<DateTime<Utc>>,
}

/// The settings of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, AsChangeset, Serialize)]
#[diesel(table_name = tenants, check_for_backend(diesel::pg::Pg), treat_none_as_null = true)]
pub struct Settings {
    /// What generated account ids begin with.
    pub account_id_prefix: String,
    /// ISO 4217 code of the currency of amounts for which none is given.
    pub default_currency: Option<String>,
    /// The roles that a user of an account can be given, in alphabetical order.
    pub membership_roles: Vec<String>,
    /// Days for which activities are kept; `None` is for ever.
    pub activity_retention_days: Option<i32>,
    /// IANA name of the time zone whose day is [`Tx::today`].
    pub time_zone: String,
}

/// The tenant row for hot reads, and when the transaction began.
pub(super) static TENANT: Question<(String, Tenant, DateTime<Utc>)> =
    Question::new(1, |question, tenant, _| {
        question.statement(&tenants::table.filter(tenants::tenant_id.eq(tenant)).select((
            tenants::tenant_id,
            Tenant::as_select(),
            dsl::now.into_sql::<Timestamptz>(),
        )))
    });

impl Default for Tenant {
    /// What the columns have by default.
    fn default() -> Self {
        let settings = Settings {
            account_id_prefix: "acct".to_owned(),
            default_currency: None,
            membership_roles: ["buyer", "member", "owner"].map(ToOwned::to_owned).into(),
            activity_retention_days: None,
            time_zone: "UTC".to_owned(),
        };
        Self {
            settings,
            modules_off: Vec::new(),
            modules_off_below: Vec::new(),
            revision: 0,
            update_time: None,
        }
    }
}

impl Tenant {
    /// Fails if a module is off for the tenant.
    pub(super) fn require_module(&self, module: &'static str) -> Result<()> {
        if self.is_off(module) { Err(refusals::module_off_for_tenant(module)) } else { Ok(()) }
    }

    /// Whether a module is off for the whole tenant.
    pub fn is_off(&self, module: &str) -> bool {
        self.modules_off.iter().any(|off| off == module)
    }

    /// The day at a time, in the tenant's time zone.
    pub(super) fn day_at(&self, time: DateTime<Utc>) -> Result<NaiveDate> {
        let name = &self.settings.time_zone;
        let zone: Tz = name
            .parse()
            .map_err(|_| Error::internal(format!("the tenant's time zone {name:?} is unknown")))?;
        Ok(time.with_timezone(&zone).date_naive())
    }

    /// Whether a module is off for some organization.
    pub fn is_off_below(&self, module: &str) -> bool {
        self.modules_off_below.iter().any(|off| off == module)
    }

    /// Returns the tenant of the transaction, and when the transaction began.
    pub(super) async fn find(tx: &Tx) -> Result<Beginning> {
        let found = tenants::table
            .filter(tx.owns(tenants::tenant_id))
            .select((Self::as_select(), dsl::now.into_sql::<Timestamptz>()))
            .first::<(Self, DateTime<Utc>)>(&mut tx.conn())
            .await
            .optional()?;
        let exact = found.is_some();
        let (tenant, time) = found.unwrap_or_else(|| (Self::default(), Utc::now()));
        Ok(Beginning { tenant, time, exact })
    }
}

/// Locks of the tenant row. Order of locks: accounts, the tenant row, organizations, people.
impl WriteTx {
    /// Locks the tenant row FOR SHARE: until commit nobody moves or deletes an organization. The
    /// caller must hold the accounts it changes, and must not yet hold an organization or a person.
    /// Required before a source of membership is added, a contact slot is filled, or something is
    /// set for an account user.
    pub async fn lock_tree_shared(&self) -> Result<()> {
        let row =
            || tenants::table.filter(self.owns(tenants::tenant_id)).select(tenants::tenant_id);
        if row().for_share().first::<String>(&mut self.conn()).await.optional()?.is_none() {
            self.insert_tenant().await?;
            row().for_share().first::<String>(&mut self.conn()).await?;
        }
        Ok(())
    }

    /// Locks the tenant row FOR UPDATE, for a change of the tree's shape: until commit nobody else
    /// changes it or relies on it. The caller must not hold an account.
    pub async fn lock_tree(&self) -> Result<()> {
        self.insert_tenant().await?;
        let row = tenants::table.filter(self.owns(tenants::tenant_id)).select(tenants::tenant_id);
        row.for_update().first::<String>(&mut self.conn()).await?;
        Ok(())
    }

    /// Returns the tenant row, locked FOR NO KEY UPDATE: until commit nobody else changes the
    /// settings, the modules or the tree. The caller must not hold any other row.
    pub async fn lock_tenant(&self) -> Result<Tenant> {
        self.insert_tenant().await?;
        let row = tenants::table.filter(self.owns(tenants::tenant_id)).select(Tenant::as_select());
        Ok(row.for_no_key_update().first(&mut self.conn()).await?)
    }

    /// Inserts the tenant row if there is none.
    async fn insert_tenant(&self) -> Result<()> {
        diesel::insert_into(tenants::table)
            .values(self.owns(tenants::tenant_id))
            .on_conflict_do_nothing()
            .execute(&mut self.conn())
            .await?;
        Ok(())
    }
}
