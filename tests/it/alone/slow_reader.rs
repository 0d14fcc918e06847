//! A watch whose client does not read.

use std::time::Duration;

use customer_accounts::proto::ListActivitiesRequest;
use tokio::time::Instant;

use super::WHY;
use crate::support::{Tenant, process::Service, real_database, sql, watch::Watch};

/// A client that does not read makes the service wait, not grow.
#[tokio::test]
async fn a_slow_reader_costs_no_memory_and_gets_everything() {
    const ROWS: usize = 12_000;
    let Some(url) = real_database(WHY).await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    let mut watch = Watch::now(&tenant).await;
    let before = service.own_kib();
    // 120 MB, each row a transaction's own, as the feed has them.
    sql(&url)
        .await
        .batch_execute(&format!(
            "INSERT INTO activities (tenant_id, activity_id, ordinal, actor, method, action, resource_type, resource_id, changes) \
             SELECT '{}', 'raw_' || lpad(n::text, 6, '0'), n, 'raw', 'raw', 'raw.created', 'raw', n::text, \
             jsonb_build_array(jsonb_build_object('field', 'f', 'before', NULL, 'after', repeat(md5(n::text), 320))) \
             FROM generate_series(1, {ROWS}) AS n",
            tenant.caller.tenant
        ))
        .await
        .unwrap();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let grown = service.own_kib().saturating_sub(before);
        assert!(grown < 60 * 1024, "{grown} KiB more for a client that does not read");
        // The service has time for others meanwhile.
        tenant
            .activities()
            .list_activities(ListActivitiesRequest { page_size: 1, ..Default::default() })
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen: Vec<_> =
        watch.take(ROWS).await.into_iter().map(|activity| activity.resource_id).collect();
    let expected: Vec<_> = (1..=ROWS).map(|n| n.to_string()).collect();
    assert!(seen == expected, "each once and in order");
}
