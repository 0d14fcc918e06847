//! Shares: how much of a common limit one tenant may use at once.
//!
//! Calls under way, buffers, database connections and watches have a limit for the whole service. A
//! share is a lower limit for each tenant, so that a tenant with many or slow calls cannot take all
//! of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::caller::TenantId;

/// Number of tenants from which on those that hold no permit are removed.
const SWEEP: usize = 64;

/// The part of a limit that one tenant may use, in percent from 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u32);

impl Percent {
    /// The whole limit.
    pub const ALL: Self = Self(100);

    /// Parses the value of an option, such as `75`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let percent = text.parse().ok().filter(|percent| (1..=100).contains(percent));
        percent.map(Self).ok_or_else(|| "a whole number of percent, from 1 to 100".to_owned())
    }

    /// This part of `whole`, rounded down, but at least 1.
    fn of(self, whole: usize) -> usize {
        let percent = self.0 as usize;
        (whole / 100 * percent + whole % 100 * percent / 100).max(1)
    }
}

/// The shares of all tenants in one limit. Clones share them.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Permits that one tenant may hold.
    size: usize,
    tenants: Arc<Mutex<Tenants>>,
}

/// The tenants that hold or wait for permits, and some that no longer do. A semaphore lives as long
/// as its permits and the tasks that wait for them.
#[derive(Debug, Default)]
struct Tenants {
    semaphores: HashMap<TenantId, Weak<Semaphore>>,
    /// The number of tenants at which those without a semaphore are removed next.
    sweep_at: usize,
}

impl Shares {
    /// Each tenant may hold `percent` of `whole` permits.
    pub fn new(whole: usize, percent: Percent) -> Self {
        Self { size: percent.of(whole), tenants: Arc::default() }
    }

    /// Permits that one tenant may hold.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Takes permits of the tenant's share; `None` if fewer are left.
    pub fn try_take(&self, tenant: &TenantId, permits: u32) -> Option<OwnedSemaphorePermit> {
        self.semaphore(tenant).try_acquire_many_owned(permits).ok()
    }

    /// Waits for a permit of the tenant's share, in the order of arrival.
    pub async fn take(&self, tenant: &TenantId) -> Option<OwnedSemaphorePermit> {
        // Never `None`: the semaphore is never closed.
        self.semaphore(tenant).acquire_owned().await.ok()
    }

    fn semaphore(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = tenants.semaphores.get(tenant).and_then(Weak::upgrade) {
            return semaphore;
        }
        if tenants.semaphores.len() >= tenants.sweep_at {
            tenants.semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
            tenants.sweep_at = SWEEP.max(2 * tenants.semaphores.len());
        }
        let semaphore = Arc::new(Semaphore::new(self.size));
        tenants.semaphores.insert(tenant.clone(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    #[test]
    fn a_share_is_a_part_of_the_whole_and_at_least_one() {
        let of = |percent: &str, whole| Percent::parse(percent).unwrap().of(whole);
        assert_eq!(
            [of("75", 8), of("75", 4), of("75", 1), of("1", 8), of("100", 8)],
            [6, 3, 1, 1, 8]
        );
        assert_eq!([of("75", 1024), of("33", 1000), of("99", 100)], [768, 330, 99]);
        assert!(["0", "101", "-1", "50%", ""].into_iter().all(|bad| Percent::parse(bad).is_err()));
    }

    #[tokio::test]
    async fn a_tenant_takes_its_own_share_and_nobody_elses() {
        let shares = Shares::new(4, Percent::parse("50").unwrap());
        let (first, second) =
            (shares.try_take(&tenant("a"), 1).unwrap(), shares.take(&tenant("a")).await);
        assert!(shares.try_take(&tenant("a"), 1).is_none());
        assert!(shares.try_take(&tenant("b"), 1).is_some());
        let a = tenant("a");
        let mut third = std::pin::pin!(shares.take(&a));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().unwrap().is_some());
        drop(second);
    }

    #[test]
    fn tenants_that_hold_nothing_are_forgotten() {
        let shares = Shares::new(4, Percent::ALL);
        let held: Vec<_> =
            (0..10).map(|n| shares.try_take(&tenant(&format!("held-{n}")), 1).unwrap()).collect();
        for n in 0..10_000 {
            drop(shares.try_take(&tenant(&format!("t-{n}")), 1).unwrap());
        }
        assert!(shares.tenants.lock().unwrap().semaphores.len() <= 2 * SWEEP);
        for _ in 1..4 {
            std::mem::forget(shares.try_take(&tenant("held-3"), 1).unwrap());
        }
        assert!(
            shares.try_take(&tenant("held-3"), 1).is_none(),
            "permits taken before still count"
        );
        drop(held);
    }
}
