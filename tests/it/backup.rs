//! Backups as docs/OPERATIONS.md has them: dumped, restored on another server, and compared.

use std::{
    path::Path,
    process::{Command, Output},
};

use customer_accounts::{
    db::transfer::NEW_POSITIONS,
    proto::{
        Account, AddOrganizationMemberRequest, CreatePersonRequest, GetAccountRequest,
        ListAccountsRequest, ListActivitiesRequest, Person, SetPurchasingAccountRequest,
        TenantSettings, UpdateAccountRequest, UpdateTenantSettingsRequest, WatchActivitiesRequest,
    },
};

use crate::support::{
    Tenant, account,
    cluster::Cluster,
    process::{Service, run},
    sql,
};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const STRICT: (&str, &str) = ("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "false");

/// The blocks of a section in this language, without what they are indented by.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let (_, rest) = OPERATIONS.split_once(&format!("\n## {section}\n")).expect(section);
    let section = rest.split("\n## ").next().unwrap();
    let mut blocks = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        if line.trim() == format!("```{language}") {
            let block = lines.by_ref().map(str::trim).take_while(|line| *line != "```");
            blocks.push(block.collect::<Vec<_>>().join("\n") + "\n");
        }
    }
    blocks
}

/// A server with the documented roles and logins.
pub async fn documented(cluster: &Cluster) -> [String; 2] {
    let sql = sql(&cluster.url()).await;
    sql.batch_execute(&blocks("Database", "sql")[0]).await.unwrap();
    ["service", "migrator"].map(|login| cluster.url().replace("postgres@", &format!("{login}@")))
}

fn shell(programs: &Path, folder: &Path, command: &str) -> Output {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    Command::new("sh")
        .args(["-ec", command])
        .env("PATH", path)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Something of everything in a tenant: people and accounts refer to each other.
pub async fn furnish(tenant: &Tenant) {
    tenant.organization("top", "").await;
    tenant.organization("below", "top").await;
    let person = Person {
        person_id: "jo".into(),
        display_name: "Jo Zürcher".into(),
        email: "jo@p.example".into(),
        ..Default::default()
    };
    let person = CreatePersonRequest { person: Some(person), ..Default::default() };
    tenant.people().create_person(person).await.unwrap();
    let member = AddOrganizationMemberRequest {
        organization_id: "below".into(),
        person_id: "jo".into(),
        ..Default::default()
    };
    tenant.organizations().add_organization_member(member).await.unwrap();
    tenant.account(account("a", "below")).await;
    let account =
        Account { account_id: "a".into(), billing_contact_id: "jo".into(), ..Default::default() };
    let update = UpdateAccountRequest {
        account: Some(account),
        request_id: "r".into(),
        ..Default::default()
    };
    tenant.accounts().update_account(update).await.unwrap();
    let buys = SetPurchasingAccountRequest {
        person_id: "jo".into(),
        account_id: "a".into(),
        ..Default::default()
    };
    tenant.memberships().set_purchasing_account(buys).await.unwrap();
    let settings = TenantSettings { activity_retention_days: 40, ..Default::default() };
    let settings =
        UpdateTenantSettingsRequest { tenant_settings: Some(settings), ..Default::default() };
    tenant.tenants().update_tenant_settings(settings).await.unwrap();
}

/// Finds the tenant as [`furnish`] has left it, and lets it go on.
pub async fn find_furnished(tenant: &Tenant) {
    let found = tenant
        .accounts()
        .get_account(GetAccountRequest { account_id: "a".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.account.unwrap().billing_contact_id, "jo");
    let search = ListAccountsRequest { query: "account".into(), ..Default::default() };
    assert_eq!(
        tenant.accounts().list_accounts(search).await.unwrap().into_inner().accounts.len(),
        1
    );
    let before = tenant
        .activities()
        .list_activities(ListActivitiesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(before.activities.len() >= 6, "{before:?}");
    // A watch is sent what happens from now on, and nothing from before.
    let mut watch = tenant
        .activities()
        .watch_activities(WatchActivitiesRequest::default())
        .await
        .unwrap()
        .into_inner();
    tenant.organization("later", "top").await;
    let told = loop {
        let message = watch.message().await.unwrap().unwrap();
        if !message.activities.is_empty() {
            break message.activities;
        }
    };
    assert_eq!(told.iter().map(|activity| &*activity.resource_id).collect::<Vec<_>>(), ["later"]);
}

/// Every row of every table, as a digest, and everything that holds tenants apart. The positions of
/// the feed belong to a server.
pub async fn inventory(url: &str) -> Vec<String> {
    let sql = sql(url).await;
    let lines = async |query: &str| {
        let rows = sql.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let mut found = Vec::new();
    for table in lines(tables).await {
        let row = "(to_jsonb(t) - 'transaction_id' - 'activity_floor')::text";
        let rows = format!(
            "SELECT format('%s rows, %s', count(*), md5(string_agg({row}, '' ORDER BY {row}))) FROM {table} AS t"
        );
        found.push(format!("{table}: {}", lines(&rows).await[0]));
    }
    for query in [
        "SELECT format('%s %s %s of %s', relname, relrowsecurity, relforcerowsecurity, relowner::regrole) FROM pg_class \
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1",
        "SELECT format('%s %s %s %s %s to %s', tablename, policyname, cmd, qual, with_check, roles) FROM pg_policies ORDER BY 1",
        "SELECT format('%s %s %s', relname, grantee::regrole, privilege_type) FROM pg_class, aclexplode(relacl) \
         WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'pg\\_%' ORDER BY 1",
        "SELECT format('%s.%s %s %s', attrelid::regclass, attname, grantee::regrole, privilege_type) \
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid, aclexplode(attacl) \
         WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
        "SELECT format('schema %s %s', grantee::regrole, privilege_type) FROM pg_namespace, aclexplode(nspacl) \
         WHERE nspname = 'public' AND grantee <> 0 ORDER BY 1",
        "SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint \
         WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    ] {
        found.extend(lines(query).await);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restores_everything_on_another_server() {
    let (Some(old), Some(new)) =
        (Cluster::having(&["pg_dump", "pg_restore"]), Cluster::having(&["pg_dump"]))
    else {
        return;
    };
    let [service, migrator] = documented(&old).await;
    let both = [
        ("DATABASE_URL", &*service),
        ("CUSTOMER_ACCOUNTS_MIGRATION_DATABASE_URL", &*migrator),
        STRICT,
    ];
    let running = Service::start(&[], &both).await;
    let channel = running.channel().await;
    let tenants = [Tenant::on(channel.clone()), Tenant::on(channel)];
    for tenant in &tenants {
        furnish(tenant).await;
    }
    // A server that has been used for longer than the new one, and a tenant that prunes.
    let superuser = sql(&old.url()).await;
    let ids =
        "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    superuser.batch_execute(ids).await.unwrap();
    tenants[0].organization("old", "").await;
    superuser
        .batch_execute(
            "UPDATE tenants SET activity_floor = (SELECT max(transaction_id) FROM activities)",
        )
        .await
        .unwrap();
    tenants[0]
        .organizations()
        .delete_organization(customer_accounts::proto::DeleteOrganizationRequest {
            organization_id: "old".into(),
            ..Default::default()
        })
        .await
        .unwrap();

    let folder = tempfile::tempdir().unwrap();
    superuser.batch_execute(&blocks("Backup and restore", "sql")[0]).await.unwrap();
    let backup = old.url().replace("postgres@", "backup@");
    let commands = blocks("Backup and restore", "sh");
    let [dump, restore] = &commands[..] else { panic!("{commands:?}") };
    let dump = |url: &str, options: &str| {
        let command = dump
            .replace("postgres://backup@db/accounts", url)
            .replace("--format", &format!("{options} --format"));
        shell(old.programs(), folder.path(), &command)
    };
    // What the page warns of.
    for login in [&service, &migrator] {
        let refused = dump(login, "");
        assert!(!refused.status.success(), "{login}");
    }
    let lacking = dump(&migrator, "--enable-row-security");
    assert!(lacking.status.success(), "{lacking:?}");
    let listed =
        shell(old.programs(), folder.path(), "pg_restore --data-only --file=- accounts.dump");
    assert!(
        !String::from_utf8_lossy(&listed.stdout).contains("Account a"),
        "the accounts are in the dump: change the page"
    );
    let done = dump(&backup, "");
    assert!(done.status.success(), "{done:?}");

    documented(&new).await;
    let restore = restore.replace("postgres://postgres@new/accounts", &new.url());
    let restored = shell(old.programs(), folder.path(), &restore);
    assert!(restored.status.success(), "{restored:?}");
    let statements = &blocks("Backup and restore", "sql")[1];
    assert_eq!(statements, NEW_POSITIONS, "the page and `transfer` do the same");
    sql(&new.url()).await.batch_execute(statements).await.unwrap();
    let (before, after) = (inventory(&old.url()).await, inventory(&new.url()).await);
    assert!(
        before.iter().any(|line| line.contains("customer_accounts_app")) && before.len() > 100,
        "{before:#?}"
    );
    for line in &before {
        assert!(after.contains(line), "lost: {line}");
    }
    assert_eq!(before, after);

    let [service, _] =
        ["service", "migrator"].map(|login| new.url().replace("postgres@", &format!("{login}@")));
    let checked = run(&["check"], &[("DATABASE_URL", &service), STRICT]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let mighty = run(&["check"], &[("DATABASE_URL", &backup), STRICT]).await;
    assert!(
        mighty.code == Some(1) && mighty.stderr.contains("bypasses row-level security"),
        "{mighty:?}"
    );
    let again =
        Service::start(&["--migrate", "false"], &[("DATABASE_URL", &service), STRICT]).await;
    for tenant in tenants {
        find_furnished(&Tenant { channel: again.channel().await, ..tenant }).await;
    }
}
