//! `WatchActivities` while accounts are created: how long after its answer a change is received.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use customer_accounts_client::v1::WatchActivitiesRequest;

use crate::{
    cases::{Target, create_one},
    load::{self, Call, Sample, micros, percentile},
};

/// Writers at once.
pub const WRITERS: usize = 8;
/// Longest that the last change may take to be received.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each created account must be received exactly once. The delay begins with the answer to its
/// creation, shortly after the commit; a change that is received before counts as zero.
pub async fn run(on: Arc<Target>, time: Duration) -> Result<Sample, String> {
    let client = on.first().clone();
    let watch = client.activities().watch_activities(WatchActivitiesRequest::default()).await;
    let mut watch = watch.map_err(|error| error.to_string())?.into_inner();
    // The first message says that the watch has begun.
    watch.message().await.map_err(|error| error.to_string())?;
    let received = tokio::spawn(async move {
        let mut received = Vec::new();
        while let Ok(Ok(Some(message))) = tokio::time::timeout(PATIENCE / 5, watch.message()).await
        {
            let now = Instant::now();
            let created =
                message.activities.into_iter().filter(|it| it.action == "account.created");
            received.extend(created.map(|it| (it.resource_id, now)));
        }
        received
    });
    let answered = Arc::new(Mutex::new(HashMap::new()));
    let (target, noted) = (on, answered.clone());
    let call: Call = Arc::new(move |worker| {
        let (target, noted) = (target.clone(), noted.clone());
        Box::pin(async move {
            let id = create_one(&target, worker, false).await?;
            noted.lock().unwrap().insert(id, Instant::now());
            Ok(())
        })
    });
    let writes = load::run(&call, WRITERS, time).await?;
    let received = received.await.map_err(|error| error.to_string())?;
    let mut answered = answered.lock().unwrap();
    let mut delays = Vec::new();
    for (id, at) in received {
        let Some(answer) = answered.remove(&id) else {
            return Err(format!("{id} was received twice, or never created"));
        };
        delays.push(micros(at.saturating_duration_since(answer)));
    }
    if !answered.is_empty() {
        return Err(format!("{} changes were never received", answered.len()));
    }
    delays.sort_by(f64::total_cmp);
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| percentile(&delays, share));
    Ok(Sample { rate: writes.rate, p50, p99, p999, ..Sample::default() })
}
