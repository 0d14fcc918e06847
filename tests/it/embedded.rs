//! The embedded server: what it needs, and the way from it to a real one.

use customer_accounts::proto::WatchActivitiesRequest;

use crate::{
    backup::{documented, find_furnished, furnish, inventory},
    support::{
        Tenant,
        cluster::Cluster,
        process::{Service, run},
        refusal, sql,
    },
};

const STRICT: (&str, &str) = ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false");

/// As in a container whose file system is read only but for the volume of the data.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_writes_nowhere_but_in_its_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (home, data) in [("/dev/null/home", "one"), ("", "two")] {
        let data = folder.path().join(data);
        let environment = [("HOME", home), ("XDG_CACHE_HOME", "")];
        let arguments = ["--data-dir", data.to_str().unwrap()];
        let migrated = run(&[&["migrate"], &arguments[..]].concat(), &environment).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let cache = data.join("postgres/cache");
        assert!(cache.read_dir().unwrap().count() > 0, "the engine is unpacked here");
        let service = Service::start(&arguments, &environment).await;
        Tenant::on(service.channel().await).organization("o", "").await;
        service.terminate();
        assert_eq!(service.ended().await.code(), Some(0));
        let checked = run(&[&["check"], &arguments[..]].concat(), &environment).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_transferred_to_a_real_server() {
    let Some(cluster) = Cluster::start() else { return };
    let [service, migrator] = documented(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let embedded = Service::embedded(&data, &[]).await;
    let channel = embedded.channel().await;
    let tenants = [Tenant::on(channel.clone()), Tenant::on(channel)];
    for tenant in &tenants {
        furnish(tenant).await;
    }
    let mut watch = tenants[0]
        .activities()
        .watch_activities(WatchActivitiesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let cursor = watch.message().await.unwrap().unwrap().cursor;
    drop(watch);
    // A server that has been used for longer.
    let ids =
        "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    sql(&cluster.url()).await.batch_execute(ids).await.unwrap();
    let arguments = ["transfer", "--data-dir", data.to_str().unwrap()];
    let running = run(&arguments, &[("DATABASE_URL", &migrator)]).await;
    assert!(running.code == Some(1) && running.stderr.contains("in use"), "{running:?}");
    embedded.terminate();
    embedded.ended().await;

    let nowhere = run(&arguments, &[]).await;
    assert!(
        nowhere.code == Some(1) && nowhere.stderr.contains("DATABASE_URL is not set"),
        "{nowhere:?}"
    );
    let nothing =
        run(&["transfer", "--data-dir", "/nonexistent"], &[("DATABASE_URL", &migrator)]).await;
    assert!(
        nothing.code == Some(1) && nothing.stderr.contains("no embedded database"),
        "{nothing:?}"
    );
    assert_eq!(run(&["migrate"], &[("DATABASE_URL", &migrator)]).await.code, Some(0));
    let shape = |inventory: Vec<String>| {
        inventory.into_iter().filter(|line| !line.contains(" rows, ")).collect::<Vec<_>>()
    };
    let before = shape(inventory(&cluster.url()).await);
    let wrong = run(&arguments, &[("DATABASE_URL", &service), STRICT]).await;
    assert!(
        wrong.code == Some(1) && wrong.stderr.contains("member of customer_accounts_owner"),
        "{wrong:?}"
    );

    let both = [
        ("DATABASE_URL", &*service),
        ("CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL", &*migrator),
        STRICT,
    ];
    let transferred = run(&arguments, &both).await;
    assert_eq!(transferred.code, Some(0), "{transferred:?}");
    assert_eq!(shape(inventory(&cluster.url()).await), before, "the schema is as it was");
    let highest = "SELECT max(transaction_id) FROM activities";
    let highest: i64 = sql(&cluster.url()).await.query_one(highest, &[]).await.unwrap().get(0);
    assert_eq!(
        highest, 0,
        "what is from the other server lies before all transactions of this one"
    );
    let checked = run(&["check"], &both).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let again = run(&arguments, &both).await;
    assert!(again.code == Some(1) && again.stderr.contains("has rows already"), "{again:?}");
    let there = Service::start(&[], &both).await;
    let goes_on = Tenant { channel: there.channel().await, ..tenants[0].clone() };
    let goes_on = goes_on
        .activities()
        .watch_activities(WatchActivitiesRequest { cursor, ..Default::default() })
        .await;
    assert_eq!(refusal(goes_on), "CURSOR_EXPIRED", "a cursor from the other server");
    for tenant in tenants {
        find_furnished(&Tenant { channel: there.channel().await, ..tenant }).await;
    }
    // What was there stays, and can be served again.
    let _here = Service::embedded(&data, &[]).await;
}
