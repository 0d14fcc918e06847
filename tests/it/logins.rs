//! What the service insists on before it serves: its login, its role, and row-level security on
//! every table.

use std::time::Duration;

use customer_accounts::{
    db::{Db, Manager, migrate},
    proto::GetAccountRequest,
};

use crate::support::{
    self, Tenant, account,
    cluster::Cluster,
    process::{Service, run},
    real_database, sql, unique,
};

const APP: &str = "customer_accounts_app";
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

/// The service's view of a database as this login.
fn database(url: &str, login: &str, allowed: bool) -> Db {
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    config.user(login);
    let manager = Manager::new(config, Some(APP.into())).allow_privileged_login(allowed);
    Db::new(manager, 1, Duration::from_secs(5), None)
}

async fn migrated(why: &str) -> Option<(String, tokio_postgres::Client)> {
    let url = real_database(why).await?;
    migrate::run(
        &Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None),
        migrate::Direction::Up,
    )
    .await
    .unwrap();
    let sql = sql(&url).await;
    Some((url, sql))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_could_get_around_row_level_security_is_refused() {
    let Some((url, sql)) = migrated("logins").await else { return };
    let name = |kind: &str| format!("it_{kind}_{}", &unique()[20..]);
    let (between, mighty) = (name("between"), name("mighty"));
    let groups = format!(
        "CREATE ROLE {between} NOINHERIT IN ROLE customer_accounts_owner; CREATE ROLE {mighty} SUPERUSER"
    );
    sql.batch_execute(&groups).await.unwrap();
    let logins = [
        ("SUPERUSER", "is a superuser".to_owned()),
        ("BYPASSRLS", "bypasses row-level security".to_owned()),
        ("CREATEROLE", "may create and grant roles".to_owned()),
        ("REPLICATION", "may copy the whole server by replication".to_owned()),
        ("IN ROLE pg_execute_server_program", "reaches the files of the server".to_owned()),
        (
            "IN ROLE customer_accounts_owner",
            "can become customer_accounts_owner, which owns tables of the service".to_owned(),
        ),
        (
            "NOINHERIT IN ROLE customer_accounts_owner",
            "can become customer_accounts_owner".to_owned(),
        ),
        (
            &*format!("IN ROLE {between}"),
            "can become customer_accounts_owner, which owns tables of the service".to_owned(),
        ),
        (&*format!("IN ROLE {mighty}"), format!("can become {mighty}, which is a superuser")),
        ("", String::new()),
    ];
    let mut answers = Vec::new();
    for (options, wanted) in logins {
        let login = name("login");
        sql.batch_execute(&format!("CREATE ROLE {login} LOGIN {options}; GRANT {APP} TO {login}"))
            .await
            .unwrap();
        let (strict, allowed) = (
            database(&url, &login, false).verify().await,
            database(&url, &login, true).verify().await,
        );
        sql.batch_execute(&format!("DROP ROLE {login}")).await.unwrap();
        answers.push((options.to_owned(), wanted, strict, allowed));
    }
    let strange = name("stranger");
    sql.batch_execute(&format!("CREATE ROLE {strange} LOGIN")).await.unwrap();
    let stranger = database(&url, &strange, false).verify().await;
    // Before anything can fail: roles belong to the whole server.
    sql.batch_execute(&format!("DROP ROLE {strange}; DROP ROLE {between}; DROP ROLE {mighty}"))
        .await
        .unwrap();
    for (options, wanted, strict, allowed) in answers {
        allowed.unwrap_or_else(|error| panic!("{options}: {error}"));
        if wanted.is_empty() {
            strict.unwrap();
            continue;
        }
        let Err(error @ migrate::MigrateError::UnsafeLogin { .. }) = strict else {
            panic!("{options}: {strict:?}")
        };
        let words = error.to_string();
        assert!(
            words.contains(&wanted) && words.contains("--allow-privileged-login"),
            "{options}: {words}"
        );
    }
    assert!(matches!(stranger, Err(migrate::MigrateError::NoRole { .. })), "{stranger:?}");
}

/// From PostgreSQL 16 on a membership has options, none of which makes membership of the owner
/// harmless.
#[tokio::test(flavor = "multi_thread")]
async fn the_options_of_a_membership_make_no_difference() {
    let Some((url, sql)) = migrated("logins").await else { return };
    let version: i32 = sql
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get(0);
    if version < 160_000 {
        return; // PostgreSQL 15 has no options of memberships
    }
    let login = format!("it_member_{}", &unique()[20..]);
    sql.batch_execute(&format!("CREATE ROLE {login} LOGIN IN ROLE {APP}")).await.unwrap();
    let verified = async || database(&url, &login, false).verify().await;
    let mut answers = Vec::new();
    let before = verified().await;
    for options in [
        "SET TRUE, INHERIT FALSE",
        "SET FALSE, INHERIT TRUE",
        "SET FALSE, INHERIT FALSE, ADMIN TRUE",
        "SET FALSE, INHERIT FALSE",
    ] {
        let grant = format!("GRANT customer_accounts_owner TO {login} WITH {options}");
        sql.batch_execute(&grant).await.unwrap();
        answers.push((options, verified().await));
        sql.batch_execute(&format!("REVOKE customer_accounts_owner FROM {login}")).await.unwrap();
    }
    // Without the option SET it cannot take the role that it needs, and the error says what grants
    // it.
    sql.batch_execute(&format!("GRANT {APP} TO {login} WITH SET FALSE")).await.unwrap();
    let unset = verified().await;
    sql.batch_execute(&format!("GRANT {APP} TO {login} WITH SET TRUE")).await.unwrap();
    let again = verified().await;
    sql.batch_execute(&format!("DROP ROLE {login}")).await.unwrap();
    before.unwrap();
    for (options, answer) in answers {
        assert!(
            matches!(answer, Err(migrate::MigrateError::UnsafeLogin { .. })),
            "{options}: {answer:?}"
        );
    }
    let Err(error @ migrate::MigrateError::NoRole { .. }) = unset else { panic!("{unset:?}") };
    assert!(error.to_string().contains("WITH SET TRUE"), "{error}");
    again.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_tenants_must_have_its_row_level_security() {
    let Some((url, sql)) = migrated("changes tables").await else { return };
    let db = database(&url, "postgres", true);
    db.verify().await.unwrap();
    let tables = "SELECT relname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'tenant_id' \
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let tables: Vec<String> =
        sql.query(tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.len() >= 12, "{tables:?}");
    let mut faults = Vec::new();
    for table in &tables {
        faults.push((
            format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
            table.as_str(),
            "disabled",
        ));
        faults.push((format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"), table, "forced"));
        faults.push((format!("DROP POLICY tenant ON {table}"), table, "lacks the policy"));
        faults.push((
            format!("CREATE POLICY more ON {table} USING (true)"),
            table,
            "the policy more",
        ));
    }
    for (change, table, fault) in [
        (
            "CREATE POLICY more ON accounts FOR SELECT TO customer_accounts_app USING (true)",
            "accounts",
            "the policy more",
        ),
        (
            "ALTER POLICY tenant ON accounts USING (tenant_id IS NOT NULL)",
            "accounts",
            "lacks the policy",
        ),
        // Without the sub-select: the plans of one tenant would serve the others.
        (
            "ALTER POLICY tenant ON accounts USING (tenant_id = nullif(current_setting('app.tenant_id', true), ''))",
            "accounts",
            "lacks the policy",
        ),
        ("ALTER POLICY tenant ON accounts WITH CHECK (true)", "accounts", "lacks the policy"),
        (
            "ALTER POLICY tenant ON accounts TO customer_accounts_owner",
            "accounts",
            "lacks the policy",
        ),
        ("ALTER POLICY owner ON tenants TO PUBLIC", "tenants", "the policy owner"),
        ("GRANT TRUNCATE ON people TO customer_accounts_app", "people", "truncated"),
        ("GRANT DELETE ON activities TO customer_accounts_app", "activities", "rewritten"),
        ("GRANT UPDATE (actor) ON activities TO customer_accounts_app", "activities", "rewritten"),
        ("CREATE TABLE another (tenant_id text)", "another", "disabled"),
        ("CREATE VIEW another AS SELECT * FROM accounts", "another", "security_invoker"),
        (
            "CREATE MATERIALIZED VIEW another AS SELECT * FROM accounts",
            "another",
            "no row-level security",
        ),
    ] {
        faults.push((change.to_owned(), table, fault));
    }
    for (change, table, fault) in faults {
        sql.batch_execute(&change).await.unwrap();
        let answer = db.verify().await;
        let Err(migrate::MigrateError::OpenTable { table: named, why }) = &answer else {
            panic!("{change}: {answer:?}")
        };
        assert!(named == table && why.contains(fault), "{change}: {answer:?}");
        sql.batch_execute(&restore(&change, table)).await.unwrap();
    }
    // A policy that only narrows, or that is for others, is no hole.
    sql.batch_execute(
        "CREATE POLICY less ON accounts AS RESTRICTIVE USING (true); CREATE POLICY theirs ON people TO pg_monitor USING (true)",
    )
    .await
    .unwrap();
    db.verify().await.unwrap();
    sql.batch_execute("ALTER TABLE activities DISABLE ROW LEVEL SECURITY").await.unwrap();
    let refused = run(&["check"], &[("DATABASE_URL", &url)]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("activities"), "{refused:?}");
}

/// Takes a change back.
fn restore(change: &str, table: &str) -> String {
    let expected = "tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), ''))";
    if table == "another" {
        let kind = change.trim_start_matches("CREATE ").split(" another").next().unwrap();
        return format!("DROP {kind} another");
    }
    if let Some(granted) = change.strip_prefix("GRANT ") {
        return format!("REVOKE {}", granted.replace(" TO ", " FROM "));
    }
    if change.contains("POLICY owner") {
        return "ALTER POLICY owner ON tenants TO customer_accounts_owner".to_owned();
    }
    format!(
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY; \
         DROP POLICY IF EXISTS more ON {table}; DROP POLICY IF EXISTS tenant ON {table}; CREATE POLICY tenant ON {table} USING ({expected})"
    )
}

/// The statements of docs/OPERATIONS.md, on a server that has never seen the service.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_logins_work() {
    let Some(cluster) = Cluster::start() else { return };
    let (_, rest) = OPERATIONS.split_once("```sql\n").unwrap();
    let (statements, _) = rest.split_once("```").unwrap();
    sql(&cluster.url()).await.batch_execute(statements).await.unwrap();
    let [service, migrator] = ["service", "migrator"]
        .map(|login| cluster.url().replace("postgres@", &format!("{login}@")));
    let strict = ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false");
    let early =
        run(&["serve", "--listen", "127.0.0.1:0"], &[("DATABASE_URL", &service), strict]).await;
    assert!(
        early.code == Some(1) && early.stderr.contains("--migration-database-url"),
        "it may not migrate: {early:?}"
    );
    let migrated = run(&["migrate"], &[("DATABASE_URL", &migrator)]).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    for command in ["check", "migrate"] {
        let login = if command == "check" { &service } else { &migrator };
        let again = run(&[command], &[("DATABASE_URL", login), strict]).await;
        assert_eq!(again.code, Some(0), "{again:?}");
    }
    let running = Service::start(&[], &[("DATABASE_URL", &service), strict]).await;
    let tenant = Tenant::on(running.channel().await);
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    tenant.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await.unwrap();
    let pruned = run(&["prune"], &[("DATABASE_URL", &migrator)]).await;
    assert_eq!(pruned.code, Some(0), "{pruned:?}");
    // The login must have no more rights than the role, also where it is not asked for them.
    let superuser = sql(&cluster.url()).await;
    for (change, back, fault) in [
        (
            "CREATE POLICY x ON people FOR SELECT TO service USING (true)",
            "DROP POLICY x ON people",
            "the policy x",
        ),
        (
            "GRANT ALL ON activities TO service",
            "REVOKE ALL ON activities FROM service",
            "activities",
        ),
        (
            "ALTER DATABASE postgres OWNER TO service",
            "ALTER DATABASE postgres OWNER TO postgres",
            "owns the schema",
        ),
        (
            "ALTER SCHEMA public OWNER TO customer_accounts_app",
            "ALTER SCHEMA public OWNER TO pg_database_owner",
            "owns the schema",
        ),
        (
            "ALTER ROLE service SET session_replication_role = replica",
            "ALTER ROLE service RESET session_replication_role",
            "foreign keys do not hold",
        ),
        (
            "ALTER DATABASE postgres SET row_security = off",
            "ALTER DATABASE postgres RESET row_security",
            "row_security = off",
        ),
    ] {
        superuser.batch_execute(change).await.unwrap();
        let refused = run(&["check"], &[("DATABASE_URL", &service), strict]).await;
        assert!(refused.code == Some(1) && refused.stderr.contains(fault), "{change}: {refused:?}");
        superuser.batch_execute(back).await.unwrap();
    }
    let fine = run(&["check"], &[("DATABASE_URL", &service), strict]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    // The migrator could not serve, nor a superuser, unless told to.
    for login in [&migrator, &cluster.url()] {
        let refused = run(&["check"], &[("DATABASE_URL", login), strict]).await;
        assert!(
            refused.code == Some(1) && refused.stderr.contains("--allow-privileged-login"),
            "{refused:?}"
        );
    }
    // Without DATABASE_URL, and where nothing is, there is nothing to look at, and nothing is made.
    let empty = tempfile::tempdir().unwrap();
    for command in ["check", "prune"] {
        let data = empty.path().join("data");
        let refused = run(&[command, "--data-dir", data.to_str().unwrap()], &[]).await;
        assert!(
            refused.code == Some(1) && refused.stderr.contains("no embedded database"),
            "{refused:?}"
        );
        assert!(!data.exists());
    }
    // Nor anything that another login could belong to.
    let alone = run(&["prune", "--migration-database-url", &migrator], &[]).await;
    assert!(alone.code == Some(1) && alone.stderr.contains("but not DATABASE_URL"), "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_makes_nobody_a_member_of_the_owner() {
    let Some(cluster) = Cluster::start() else { return };
    let sql = sql(&cluster.url()).await;
    sql.batch_execute("CREATE ROLE maker LOGIN CREATEROLE; GRANT CREATE ON SCHEMA public TO maker WITH GRANT OPTION")
        .await
        .unwrap();
    let maker = cluster.url().replace("postgres@", "maker@");
    // Several at once, as replicas do.
    let environment = [("DATABASE_URL", &*maker)];
    let (one, two, three) = tokio::join!(
        run(&["migrate"], &environment),
        run(&["migrate"], &environment),
        run(&["migrate"], &environment)
    );
    for migrated in [one, two, three] {
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
    }
    let members = "SELECT count(*) FROM pg_auth_members WHERE roleid = 'customer_accounts_owner'::regrole \
                   AND (to_jsonb(pg_auth_members) ->> 'set_option' IS DISTINCT FROM 'false')";
    assert_eq!(sql.query_one(members, &[]).await.unwrap().get::<_, i64>(0), 0);
    let refused = run(
        &["check"],
        &[("DATABASE_URL", &maker), ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false")],
    )
    .await;
    assert!(refused.stderr.contains("may create and grant roles"), "{refused:?}");
    sql.batch_execute("ALTER ROLE maker NOCREATEROLE").await.unwrap();
    let checked = run(
        &["check"],
        &[("DATABASE_URL", &maker), ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false")],
    )
    .await;
    // From PostgreSQL 16 on, the creator of a role keeps the ADMIN option on it.
    let version: i32 = sql
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(checked.code == Some(0), version < 160_000, "{checked:?}");
    let refused = run(&["prune"], &[("DATABASE_URL", &maker)]).await;
    assert!(refused.stderr.contains("must be a member of customer_accounts_owner"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_lets_calls_through_while_it_waits_for_a_long_reader() {
    let Some((url, reader)) = migrated("locks").await else { return };
    let versions = migrate::run(
        &Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None),
        migrate::Direction::Up,
    )
    .await
    .unwrap();
    assert_eq!(versions, Vec::<String>::new());
    reader.batch_execute("BEGIN; SELECT count(*) FROM organizations").await.unwrap();
    let (sql, manager) =
        (sql(&url).await, Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None));
    let down =
        tokio::spawn(async move { migrate::run(&manager, migrate::Direction::Down(9)).await });
    support::waiting_for_locks(&sql, 1).await;
    // A call that comes behind the waiting migration is answered although the reader goes on.
    sql.batch_execute("SET lock_timeout = '1500ms'; SELECT count(*) FROM organizations")
        .await
        .unwrap();
    assert!(!down.is_finished());
    support::waiting_for_locks(&sql, 1).await; // it is tried again
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(down.await.unwrap().unwrap().len(), 9);
}
