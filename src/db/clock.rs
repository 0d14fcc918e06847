//! The clock of tests: a rule that depends on the day is tried on the day that a test chooses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::caller::TenantId;

type Times = HashMap<TenantId, DateTime<Utc>>;

/// The times of tenants whose clock a test has set. The service itself sets none: then a
/// transaction's time is the database's.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<Mutex<Times>>>);

impl Clock {
    /// A clock that can be set.
    pub fn settable() -> Self {
        Self(Some(Arc::default()))
    }

    /// Stops the clock of a tenant at a time. Nothing happens if the clock cannot be set.
    pub fn stop(&self, tenant: TenantId, time: DateTime<Utc>) {
        if let Some(times) = &self.0 {
            times.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, time);
        }
    }

    /// The time at which the clock of a tenant was stopped.
    pub(super) fn of(&self, tenant: &TenantId) -> Option<DateTime<Utc>> {
        let times = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(tenant).copied()
    }
}
