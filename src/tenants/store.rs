//! Tenants in the database: their settings, and the module settings of organizations.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::{prelude::*, upsert::excluded};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::refusals;
use crate::{
    budget::{self, Weighed},
    change::Versioned,
    db::{BelongsTo, Recorded, Settings, Tenant, Tx, WriteTx},
    error::{Error, Result},
    id,
    modules::{self, Setting},
    organizations::store::Organization,
    page::{Listed, Listing, Page, keyset, total},
    relations::organization,
    schema::{module_activations, tenants},
};

impl Tenant {
    /// Sets the settings of the tenant; equal settings change nothing. The caller must hold the
    /// lock of the tenant row.
    pub async fn update(self, tx: &WriteTx, settings: &Settings) -> Result<Self> {
        if self.settings == *settings {
            return Ok(self);
        }
        let updated = diesel::update(tenants::table.filter(tx.owns(tenants::tenant_id)))
            .set((
                settings,
                tenants::revision.eq(tenants::revision + 1),
                tenants::update_time.eq(diesel::dsl::now),
            ))
            .returning(Self::as_returning())
            .get_result::<Self>(&mut tx.conn())
            .await?;
        let recorded = |settings| RecordedSettings { tenant_id: tx.tenant_id(), settings };
        tx.updated(&recorded(&self.settings), &recorded(&updated.settings))?;
        Ok(updated)
    }
}

impl Versioned for Tenant {
    /// The etag has no creation time, because the row may exist before settings are first changed.
    fn etag(&self) -> String {
        format!("{:x}", self.revision)
    }

    fn mismatch(&self) -> Error {
        refusals::settings_changed()
    }
}

/// The settings of a tenant, as the trail records them.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct RecordedSettings<'a> {
    #[serde(skip)]
    tenant_id: &'a str,
    settings: &'a Settings,
}

impl Recorded for RecordedSettings<'_> {
    const NOUN: &'static str = "tenant_settings";

    fn id(&self) -> Cow<'_, str> {
        self.tenant_id.into()
    }

    fn belongs_to(&self) -> BelongsTo<'_> {
        BelongsTo::Tenant
    }
}

/// Bytes that a module setting adds to a response besides its texts.
const ROW: usize = 128;

/// A row of `module_activations`: whether a module is on for an organization.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = module_activations, check_for_backend(diesel::pg::Pg))]
pub struct Activation {
    /// The organization.
    pub organization_id: String,
    /// The module.
    pub module: String,
    /// The pair of organization and module, as an id.
    pub activation_id: String,
    /// Whether the module is on.
    pub active: bool,
    /// When the setting was first made.
    pub create_time: DateTime<Utc>,
    /// When the setting last changed.
    pub update_time: DateTime<Utc>,
}

impl Weighed for Activation {
    fn weight(&self) -> usize {
        ROW + budget::texts([&self.organization_id, &self.module])
    }
}

impl Listed for Activation {
    fn key(&self) -> (&str, DateTime<Utc>, &str) {
        (&self.activation_id, self.create_time, &self.activation_id)
    }
}

/// Which module settings a list contains.
#[derive(Debug)]
pub struct Filter {
    /// Only settings of this organization.
    pub organization_id: Option<String>,
    /// Only settings of this module.
    pub module: Option<&'static str>,
}

impl Activation {
    /// Returns one page of module settings.
    pub async fn list(tx: &Tx, filter: &Filter, page: &Page) -> Result<Listing<Self>> {
        let filtered = || {
            let query = module_activations::table
                .filter(tx.owns(module_activations::tenant_id))
                .select(Self::as_select())
                .filter(tx.module_activations_in_reach());
            let mut query = query.into_boxed();
            if let Some(organization_id) = &filter.organization_id {
                query = query.filter(module_activations::organization_id.eq(organization_id));
            }
            if let Some(module) = filter.module {
                query = query.filter(module_activations::module.eq(module));
            }
            query
        };
        let total = total!(tx, page, filtered());
        let query = keyset!(filtered(), page, module_activations(activation_id, activation_id));
        page.read(tx, total, query.load_stream::<Self>(&mut tx.conn()).await?).await
    }
}

/// Whether a module is on, and which setting decides that.
#[derive(Debug, Clone)]
pub struct State {
    /// The module.
    pub module: &'static str,
    /// Whether the module is on.
    pub active: bool,
    /// The organization whose setting decides; `None` for the tenant.
    pub decides: Option<String>,
}

/// Returns the states of these modules for an organization, or for the tenant.
pub async fn states(
    tx: &Tx,
    modules: &[&'static str],
    organization_id: Option<&str>,
) -> Result<Vec<State>> {
    if let Some(organization_id) = organization_id {
        Organization::find(tx, organization_id).await?;
    }
    state(tx, tx.tenant().await?, modules, organization_id).await
}

async fn state(
    tx: &Tx,
    tenant: &Tenant,
    modules: &[&'static str],
    organization_id: Option<&str>,
) -> Result<Vec<State>> {
    let mut states = Vec::new();
    for &module in modules {
        let off = tenant.is_off(module);
        let nearest = match organization_id {
            Some(id) if !off => modules::deciding(tx, module, id).await?,
            _ => None,
        };
        let (active, decides) =
            nearest.map_or((!off, None), |nearest| (nearest.active, Some(nearest.decides)));
        states.push(State { module, active, decides });
    }
    Ok(states)
}

/// A valid change of a module's setting.
#[derive(Debug)]
pub struct Switch {
    /// The module.
    pub module: &'static str,
    /// The organization; `None` for the tenant.
    pub organization_id: Option<String>,
    /// On or off; `None` to inherit.
    pub active: Option<bool>,
}

impl Switch {
    /// Changes the setting and returns the state that the module then has.
    pub async fn set(&self, tx: &WriteTx) -> Result<State> {
        let mut tenant = tx.lock_tenant().await?;
        match &self.organization_id {
            Some(organization_id) => self.set_organization(tx, organization_id).await?,
            None => self.set_tenant(tx, &mut tenant).await?,
        }
        let states = state(tx, &tenant, &[self.module], self.organization_id.as_deref()).await?;
        states.into_iter().next().ok_or_else(|| Error::internal("a module without a state"))
    }

    async fn set_tenant(&self, tx: &WriteTx, tenant: &mut Tenant) -> Result<()> {
        let was_active = !tenant.is_off(self.module);
        let active = self.active.unwrap_or(true);
        if active == was_active {
            return Ok(());
        }
        tenant.modules_off.retain(|off| off != self.module);
        if !active {
            tenant.modules_off.push(self.module.to_owned());
            tenant.modules_off.sort();
        }
        diesel::update(tenants::table.filter(tx.owns(tenants::tenant_id)))
            .set(tenants::modules_off.eq(&tenant.modules_off))
            .execute(&mut tx.conn())
            .await?;
        let setting = |active| Setting { module: self.module, organization_id: None, active };
        tx.updated(&setting(was_active), &setting(active))
    }

    async fn set_organization(&self, tx: &WriteTx, organization_id: &str) -> Result<()> {
        organization::keep(tx, organization_id).await?;
        let activation_id = id::pair(self.module, organization_id);
        let own = || {
            module_activations::table
                .filter(tx.owns(module_activations::tenant_id))
                .filter(module_activations::organization_id.eq(organization_id))
                .filter(module_activations::module.eq(self.module))
        };
        let was_active = own()
            .select(module_activations::active)
            .first::<bool>(&mut tx.conn())
            .await
            .optional()?;
        if was_active == self.active {
            return Ok(());
        }
        if let Some(active) = self.active {
            diesel::insert_into(module_activations::table)
                .values((
                    tx.owns(module_activations::tenant_id),
                    module_activations::organization_id.eq(organization_id),
                    module_activations::module.eq(self.module),
                    module_activations::activation_id.eq(&activation_id),
                    module_activations::active.eq(active),
                ))
                .on_conflict((
                    module_activations::tenant_id,
                    module_activations::organization_id,
                    module_activations::module,
                ))
                .do_update()
                .set((
                    module_activations::active.eq(excluded(module_activations::active)),
                    module_activations::update_time.eq(excluded(module_activations::update_time)),
                ))
                .execute(&mut tx.conn())
                .await?;
        } else {
            diesel::delete(own()).execute(&mut tx.conn()).await?;
        }
        modules::renew(tx).await?;
        let (module, organization_id) = (self.module, Some(organization_id));
        let setting = |active| Setting { module, organization_id, active };
        tx.changed(was_active.map(setting).as_ref(), self.active.map(setting).as_ref())
    }
}
