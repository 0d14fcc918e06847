//! Pruning the activity trail: what a tenant keeps no longer goes, nothing else does, and cursors
//! know.

use customer_accounts::proto::{ListActivitiesRequest, TenantSettings};

use crate::support::{
    self, Tenant, account,
    process::{Service, run},
    refusal, violations,
    watch::{Watch, quiet, raw_activity},
};

/// What `prune` prints, which it must.
async fn prune(url: &str) -> String {
    let pruned = run(&["prune"], &[("DATABASE_URL", url)]).await;
    assert_eq!(pruned.code, Some(0), "{pruned:?}");
    pruned.stdout.trim().to_owned()
}

async fn left(tenant: &Tenant) -> Vec<String> {
    let request = ListActivitiesRequest { page_size: 1000, order_by: 2, ..Default::default() };
    let activities =
        tenant.activities().list_activities(request).await.unwrap().into_inner().activities;
    activities.into_iter().map(|activity| activity.resource_id).collect()
}

#[tokio::test]
async fn what_is_older_than_a_tenant_keeps_goes_and_nothing_else() {
    let Some(cluster) = quiet() else { return };
    let (url, service) = (cluster.url(), Service::on(&cluster.url(), &[]).await);
    let (keeps, forever) =
        (Tenant::on(service.channel().await), Tenant::on(service.channel().await));
    let mut start = Watch::open(&keeps, "", "").await.unwrap();
    start.next().await.unwrap();
    for tenant in [&keeps, &forever] {
        // An organization below another makes the tenant's row.
        tenant.organization("old", "").await;
        tenant.organization("below", "old").await;
        tenant.account(account("a", "old")).await;
    }
    let (before, mut after_old) =
        (left(&forever).await, Watch::open(&keeps, "", "").await.unwrap());
    after_old.next().await.unwrap();
    let sql = support::sql(&url).await;
    sql.batch_execute("UPDATE activities SET create_time = create_time - interval '40 days'")
        .await
        .unwrap();
    keeps.organization("young", "").await;
    assert_eq!(
        prune(&url).await,
        "pruned: 0 activities of 0 tenants",
        "nobody has said how long to keep them"
    );

    let keep = format!(
        "UPDATE tenants SET activity_retention_days = 30 WHERE tenant_id = '{}'",
        keeps.caller.tenant
    );
    assert_eq!(sql.execute(&keep, &[]).await.unwrap(), 1);
    // More than one batch of them, and what the feed has not come to, because something older still
    // runs.
    let many = format!(
        "INSERT INTO activities (tenant_id, activity_id, ordinal, create_time, actor, method, action, resource_type, resource_id, changes) \
         SELECT '{}', 'raw_' || n, n, now() - interval '31 days', 'raw', 'raw', 'raw.created', 'raw', 'many', '[]' \
         FROM generate_series(1, 2500) AS n",
        keeps.caller.tenant
    );
    sql.batch_execute(&many).await.unwrap();
    let open = support::sql(&url).await;
    open.batch_execute(&format!("BEGIN; {}", raw_activity(&forever.caller.tenant, "open")))
        .await
        .unwrap();
    sql.batch_execute(&raw_activity(&keeps.caller.tenant, "unsafe")).await.unwrap();
    sql.batch_execute("UPDATE activities SET create_time = now() - interval '99 days' WHERE resource_id = 'unsafe'")
        .await
        .unwrap();
    let pruned = prune(&url).await;
    assert_eq!(pruned, format!("pruned: {} activities of 1 tenants", before.len() + 2500));
    assert_eq!(left(&keeps).await, ["unsafe", "young"]);
    assert_eq!(left(&forever).await, before, "for ever");

    open.batch_execute("COMMIT").await.unwrap();
    let gone = "CURSOR_EXPIRED";
    assert_eq!(
        refusal(Watch::open(&keeps, &start.cursor, "").await.map(drop)),
        gone,
        "from before what is gone"
    );
    assert_eq!(
        refusal(Watch::open(&keeps, &after_old.cursor, "").await.map(drop)),
        gone,
        "the 2500 are behind it"
    );
    let mut now = Watch::open(&keeps, "", "").await.unwrap();
    now.next().await.unwrap();
    assert_eq!(prune(&url).await, "pruned: 1 activities of 1 tenants", "what was not safe before");
    assert_eq!(left(&keeps).await, ["young"]);
    keeps.organization("younger", "").await;
    let mut resumed = Watch::open(&keeps, &now.cursor, "").await.unwrap();
    assert_eq!(
        resumed.take(1).await[0].resource_id,
        "younger",
        "a cursor behind all that is gone goes on"
    );
    assert_eq!(prune(&url).await, "pruned: 0 activities of 0 tenants");
}

/// Whatever is in a tenant's row: nobody removes traces that are younger than the operator's
/// minimum.
#[tokio::test]
async fn nothing_younger_than_the_minimum_is_pruned_and_no_tenant_can_choose_less() {
    let Some(cluster) = quiet() else { return };
    let (url, service) =
        (cluster.url(), Service::on(&cluster.url(), &["--min-activity-retention", "7"]).await);
    let tenant = Tenant::on(service.channel().await);
    let retain = async |activity_retention_days| {
        let settings = TenantSettings { activity_retention_days, ..Default::default() };
        tenant.update_settings(settings, &["activity_retention_days"]).await
    };
    let refused = violations(retain(6).await);
    assert_eq!(refused[0].0, "tenant_settings.activity_retention_days");
    assert!(refused[0].1.contains("at least 7 days"), "{refused:?}");
    assert_eq!(retain(7).await.unwrap().activity_retention_days, 7);
    // As an earlier version or a smaller minimum would have let it be.
    let sql = support::sql(&url).await;
    sql.batch_execute("UPDATE tenants SET activity_retention_days = 1").await.unwrap();
    sql.batch_execute("UPDATE activities SET create_time = create_time - interval '6 days'")
        .await
        .unwrap();
    let other = TenantSettings { default_currency: "EUR".into(), ..Default::default() };
    assert_eq!(
        tenant.update_settings(other, &["default_currency"]).await.unwrap().activity_retention_days,
        1
    );
    let pruned = async |minimum: &str| {
        let pruned =
            run(&["prune", "--min-activity-retention", minimum], &[("DATABASE_URL", &url)]).await;
        assert_eq!(pruned.code, Some(0), "{pruned:?}");
        pruned.stdout.trim().to_owned()
    };
    assert_eq!(prune(&url).await, "pruned: 0 activities of 0 tenants");
    assert_eq!(pruned("7").await, "pruned: 0 activities of 0 tenants");
    assert_eq!(pruned("6").await, "pruned: 1 activities of 1 tenants");
}

/// A tenant that decides to keep its activities for ever while they are pruned keeps them.
#[tokio::test]
async fn a_tenant_that_changes_its_mind_meanwhile_keeps_its_activities() {
    let Some(cluster) = quiet() else { return };
    let (url, service) = (cluster.url(), Service::on(&cluster.url(), &[]).await);
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("old", "").await;
    tenant.organization("below", "old").await;
    let (before, sql, other) =
        (left(&tenant).await, support::sql(&url).await, support::sql(&url).await);
    sql.batch_execute("UPDATE activities SET create_time = create_time - interval '40 days'")
        .await
        .unwrap();
    sql.batch_execute("UPDATE tenants SET activity_retention_days = 30").await.unwrap();
    other.batch_execute("BEGIN; UPDATE tenants SET activity_retention_days = NULL").await.unwrap();
    let pruning = tokio::spawn(async move { prune(&url).await });
    support::waiting_for_locks(&sql, 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(pruning.await.unwrap(), "pruned: 0 activities of 0 tenants");
    assert_eq!(left(&tenant).await, before);
}

/// The separate logins of OPERATIONS.md: the one that migrates prunes, the one that serves cannot.
#[tokio::test]
async fn the_services_login_cannot_prune() {
    let Some(cluster) = quiet() else { return };
    let url = cluster.url();
    drop(Service::on(&url, &[]).await);
    let sql = support::sql(&url).await;
    sql.batch_execute(
        "CREATE ROLE service LOGIN IN ROLE customer_accounts_app; CREATE ROLE migrator LOGIN IN ROLE customer_accounts_owner",
    )
    .await
    .unwrap();
    let [service, migrator] =
        ["service", "migrator"].map(|login| url.replace("postgres@", &format!("{login}@")));
    let refused = run(&["prune"], &[("DATABASE_URL", &service)]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("customer_accounts_owner"), "{refused:?}");
    let options =
        [("DATABASE_URL", &*service), ("CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL", &*migrator)];
    let pruned = run(&["prune"], &options).await;
    assert_eq!(
        (pruned.code, pruned.stdout.trim()),
        (Some(0), "pruned: 0 activities of 0 tenants"),
        "{pruned:?}"
    );
}

#[tokio::test]
async fn an_embedded_trail_is_pruned_while_the_service_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let service = Service::embedded(folder.path(), &[]).await;
    let busy = run(&["prune", "--data-dir", data], &[]).await;
    assert!(busy.code == Some(1) && busy.stderr.contains("in use"), "{busy:?}");
    service.terminate();
    service.ended().await;
    let pruned = run(&["prune", "--data-dir", data], &[]).await;
    assert_eq!(
        (pruned.code, pruned.stdout.trim()),
        (Some(0), "pruned: 0 activities of 0 tenants"),
        "{pruned:?}"
    );
}
