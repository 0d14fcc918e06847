//! Watches of the activity trail.

use std::time::Duration;

use customer_accounts::{
    caller::Caller,
    page::Binding,
    proto::{Activity, WatchActivitiesRequest, WatchActivitiesResponse},
};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{Tenant, cluster::Cluster, has_real_server, unique};

/// Longest wait for what must come: other tests may hold transactions open, which hold every watch
/// back.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A watch, and the cursor of its last message.
pub struct Watch {
    pub stream: Streaming<WatchActivitiesResponse>,
    pub cursor: String,
}

impl Watch {
    pub async fn open(tenant: &Tenant, cursor: &str, account_id: &str) -> Result<Self, Status> {
        let request =
            WatchActivitiesRequest { cursor: cursor.into(), account_id: account_id.into() };
        let stream = tenant.activities().watch_activities(request).await?.into_inner();
        Ok(Self { stream, cursor: cursor.into() })
    }

    /// A watch from now on, which has had its first message.
    pub async fn now(tenant: &Tenant) -> Self {
        let mut watch = Self::open(tenant, "", "").await.unwrap();
        let first = watch.next().await.unwrap();
        assert_eq!(first, [], "nothing has happened in this tenant");
        watch
    }

    pub async fn next(&mut self) -> Result<Vec<Activity>, Status> {
        let message = timeout(PATIENCE, self.stream.message()).await.expect("a message in time")?;
        let message = message.expect("a watch ends with an error");
        assert!(!message.cursor.is_empty());
        self.cursor = message.cursor;
        Ok(message.activities)
    }

    /// The next `count` activities, from as many messages as it takes.
    pub async fn take(&mut self, count: usize) -> Vec<Activity> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.extend(self.next().await.unwrap());
        }
        assert_eq!(taken.len(), count, "{taken:?}");
        taken
    }

    /// The error with which it ends.
    pub async fn ends(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// A cursor as the service would give it for this position.
pub fn sealed(tenant: &Tenant, account_id: &str, transaction_id: &str, ordinal: &str) -> String {
    let caller =
        Caller { method: "accounts.v1.ActivityService/WatchActivities", ..tenant.caller() };
    let request = WatchActivitiesRequest { account_id: account_id.into(), ..Default::default() };
    Binding::of(&caller, &request).seal(transaction_id, ordinal)
}

/// A server of the test's own, on which no other test holds transactions.
pub fn quiet() -> Option<Cluster> {
    if has_real_server("the embedded server has no second connection") {
        Cluster::start()
    } else {
        None
    }
}

/// Adds an activity of a resource to a tenant's trail, in a transaction of the login's own.
pub fn raw_activity(tenant: &str, resource_id: &str) -> String {
    format!(
        "INSERT INTO activities (tenant_id, activity_id, ordinal, actor, method, action, resource_type, resource_id, changes) \
         VALUES ('{tenant}', '{}', 0, 'raw', 'raw', 'raw.created', 'raw', '{resource_id}', '[]')",
        unique()
    )
}
