//! A bell for each tenant: who waits for changes hears of those that this process has committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch::{Receiver, Sender};

use crate::caller::TenantId;

/// The bells of all tenants that somebody listens to. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Bells(Arc<Mutex<HashMap<TenantId, Sender<()>>>>);

impl Bells {
    /// Rings for everybody who listens to the tenant.
    pub fn ring(&self, tenant: &TenantId) {
        let mut bells = self.lock();
        if bells.get(tenant).is_some_and(|bell| bell.send(()).is_err()) {
            // Nobody listens any more.
            bells.remove(tenant);
        }
    }

    /// Listens from now on.
    pub fn listen(&self, tenant: &TenantId) -> Listener {
        let mut bells = self.lock();
        bells.retain(|_, bell| !bell.is_closed());
        Listener(bells.entry(tenant.clone()).or_default().subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Someone who listens to a tenant's bell.
#[derive(Debug)]
pub struct Listener(Receiver<()>);

impl Listener {
    /// Waits until the bell has rung since this last returned, or since the listening began.
    pub async fn rung(&mut self) {
        if self.0.changed().await.is_err() {
            // The bell is gone with the database; then there is nothing to hear.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_bell_is_heard_by_its_own_tenant_and_forgotten_when_nobody_listens() {
        let bells = Bells::default();
        let tenant = |name| TenantId::parse(name).unwrap();
        let (mut first, mut second) = (bells.listen(&tenant("a")), bells.listen(&tenant("a")));
        let mut other = bells.listen(&tenant("b"));
        bells.ring(&tenant("a"));
        bells.ring(&tenant("a"));
        first.rung().await;
        second.rung().await;
        assert!(
            first.rung().now_or_never().is_none(),
            "two rings that were not waited for are one"
        );
        assert!(other.rung().now_or_never().is_none());
        drop((first, second));
        bells.ring(&tenant("a"));
        assert_eq!(bells.lock().len(), 1);
        bells.ring(&tenant("nobody"));
        drop(other);
        drop(bells.listen(&tenant("c")));
        assert_eq!(bells.lock().len(), 1, "only the last, which no ring has cleared yet");
    }
}
