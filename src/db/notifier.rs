//! Notifies listeners of the changes of their tenant that this process has committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch::{Receiver, Sender};

use crate::caller::TenantId;

/// The notifiers of all tenants that have a listener. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ChangeNotifier(Arc<Mutex<HashMap<TenantId, Sender<()>>>>);

impl ChangeNotifier {
    /// Notifies all listeners of the tenant.
    pub fn notify(&self, tenant: &TenantId) {
        let mut tenants = self.lock();
        if tenants.get(tenant).is_some_and(|changes| changes.send(()).is_err()) {
            // There are no listeners any more.
            tenants.remove(tenant);
        }
    }

    /// A listener for the tenant's changes from now on.
    pub fn subscribe(&self, tenant: &TenantId) -> Listener {
        let mut tenants = self.lock();
        tenants.retain(|_, changes| !changes.is_closed());
        Listener(tenants.entry(tenant.clone()).or_default().subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener for the changes of one tenant.
#[derive(Debug)]
pub struct Listener(Receiver<()>);

impl Listener {
    /// Waits for a change since this returned last, or since the listener was made.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The notifier was dropped with the database; no change can follow.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_change_reaches_its_own_tenant_and_tenants_without_listeners_are_removed() {
        let notifier = ChangeNotifier::default();
        let tenant = |name| TenantId::parse(name).unwrap();
        let (mut first, mut second) =
            (notifier.subscribe(&tenant("a")), notifier.subscribe(&tenant("a")));
        let mut other = notifier.subscribe(&tenant("b"));
        notifier.notify(&tenant("a"));
        notifier.notify(&tenant("a"));
        first.changed().await;
        second.changed().await;
        assert!(
            first.changed().now_or_never().is_none(),
            "two changes before the listener waits are one"
        );
        assert!(other.changed().now_or_never().is_none());
        drop((first, second));
        notifier.notify(&tenant("a"));
        assert_eq!(notifier.lock().len(), 1);
        notifier.notify(&tenant("nobody"));
        drop(other);
        drop(notifier.subscribe(&tenant("c")));
        assert_eq!(notifier.lock().len(), 1, "the last, which no notification has removed yet");
    }
}
