//! Converts tenants and module settings between messages of the contract and rows.

use std::collections::BTreeSet;

use chrono_tz::Tz;

use super::store::{Activation, Filter, State, Switch};
use crate::{
    change::{Update, Versioned as _},
    currency,
    db::{Settings, Tenant},
    error::Result,
    id, modules,
    proto::{self, ModuleLevel, ModuleSetting},
    text,
    validate::Violations,
    wire::timestamp,
};

const MAX_ROLE: usize = 50;
const RETENTION: &str = "tenant_settings.activity_retention_days";
/// A hundred years.
const MAX_DAYS: i32 = 36_500;

impl Settings {
    fn parse(v: &mut Violations, settings: proto::TenantSettings) -> Self {
        if !id::is_prefix(&settings.account_id_prefix) {
            v.add(
                "tenant_settings.account_id_prefix",
                format!(
                    "must be 1 to {} lower-case letters, or underscores between them",
                    id::MAX_PREFIX
                ),
            );
        }
        let currency = settings.default_currency;
        if !currency.is_empty() && !currency::is_known(&currency) {
            v.add(
                "tenant_settings.default_currency",
                "must be a currency code of ISO 4217 in upper case, such as EUR",
            );
        }
        let days = settings.activity_retention_days;
        if !(0..=MAX_DAYS).contains(&days) {
            v.add(RETENTION, format!("must be 1 to {MAX_DAYS} days, or 0 for ever"));
        }
        let time_zone = settings.time_zone;
        if time_zone.parse::<Tz>().is_err() {
            v.add(
                "tenant_settings.time_zone",
                "must be a name of the IANA time zone database, such as Europe/Berlin, or UTC",
            );
        }
        Self {
            account_id_prefix: settings.account_id_prefix,
            default_currency: Some(currency).filter(|currency| !currency.is_empty()),
            membership_roles: roles(v, settings.membership_roles),
            activity_retention_days: Some(days).filter(|days| *days != 0),
            time_zone,
        }
    }
}

/// Parses the tenant's roles and sorts them.
fn roles(v: &mut Violations, roles: Vec<String>) -> Vec<String> {
    let field = "tenant_settings.membership_roles";
    if roles.is_empty() {
        v.add(field, "must have at least 1 entry");
    }
    let mut keys = BTreeSet::new();
    let mut sorted = Vec::new();
    for (i, role) in roles.into_iter().enumerate() {
        let role = v.label(format_args!("{field}[{i}]"), role, MAX_ROLE);
        if !keys.insert(text::caseless(&role)) {
            v.add(format_args!("{field}[{i}]"), "must not appear twice, regardless of case");
        }
        sorted.push(role);
    }
    sorted.sort();
    sorted
}

impl Update<proto::TenantSettings> {
    /// Returns the settings that the update leads to. A tenant cannot choose fewer than
    /// `min_retention` days. If it has fewer from before that minimum, it can still change its
    /// other settings.
    pub fn settings(&self, current: &Tenant, min_retention: i32) -> Result<Settings> {
        let mut draft = self.apply(current)?;
        let settings = draft.parse(Settings::parse)?;
        let days = settings.activity_retention_days;
        if days != current.settings.activity_retention_days
            && days.is_some_and(|days| (1..min_retention).contains(&days))
        {
            let rule = format!(
                "must be at least {min_retention} days, the minimum of this service, or 0 for ever"
            );
            draft.violations.add(RETENTION, rule);
        }
        draft.finish(settings)
    }
}

/// Returns the module with this name. A name that no module has is a violation.
fn module(v: &mut Violations, name: &str) -> &'static str {
    if let Some(known) = modules::ALL.into_iter().find(|known| *known == name) {
        return known;
    }
    v.add(
        "module",
        if name.is_empty() {
            "is required".into()
        } else {
            format!("must be one of {}", modules::ALL.join(", "))
        },
    );
    ""
}

impl Switch {
    /// Parses a request to change a module's setting.
    pub fn parse(v: &mut Violations, request: proto::SetModuleActivationRequest) -> Self {
        let module = module(v, &request.module);
        let organization_id = v.optional_id("organization_id", request.organization_id);
        let setting = v.known("setting", request.setting);
        if request.setting == ModuleSetting::Unspecified as i32 {
            v.add("setting", "is required");
        }
        let active = match setting {
            Some(ModuleSetting::On) => Some(true),
            Some(ModuleSetting::Off) => Some(false),
            None | Some(ModuleSetting::Unspecified | ModuleSetting::Inherited) => None,
        };
        Self { module, organization_id, active }
    }
}

/// What a request for module settings asks for.
pub struct Asked {
    /// Which settings the list contains.
    pub filter: Filter,
    /// The modules whose state the response contains.
    pub modules: Vec<&'static str>,
}

impl Asked {
    /// Parses a list request.
    pub fn parse(v: &mut Violations, request: proto::ListModuleActivationsRequest) -> Self {
        let organization_id = v.optional_id("organization_id", request.organization_id);
        let module = (!request.module.is_empty()).then(|| module(v, &request.module));
        let modules = module.map_or_else(|| modules::ALL.to_vec(), |module| vec![module]);
        Self { filter: Filter { organization_id, module }, modules }
    }
}

impl From<Tenant> for proto::TenantSettings {
    fn from(row: Tenant) -> Self {
        Self {
            etag: row.etag(),
            account_id_prefix: row.settings.account_id_prefix,
            default_currency: row.settings.default_currency.unwrap_or_default(),
            membership_roles: row.settings.membership_roles,
            activity_retention_days: row.settings.activity_retention_days.unwrap_or_default(),
            time_zone: row.settings.time_zone,
            update_time: row.update_time.map(timestamp),
        }
    }
}

impl From<Activation> for proto::ModuleActivation {
    fn from(row: Activation) -> Self {
        Self {
            module: row.module,
            organization_id: row.organization_id,
            active: row.active,
            create_time: Some(timestamp(row.create_time)),
            update_time: Some(timestamp(row.update_time)),
        }
    }
}

impl From<State> for proto::ModuleState {
    fn from(state: State) -> Self {
        let level =
            if state.decides.is_some() { ModuleLevel::Organization } else { ModuleLevel::Tenant };
        Self {
            module: state.module.to_owned(),
            active: state.active,
            level: level.into(),
            organization_id: state.decides.unwrap_or_default(),
        }
    }
}
