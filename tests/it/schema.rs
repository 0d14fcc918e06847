//! The schema: generated code that matches the migrations, rules that every table keeps, and
//! migrations up and down.

use std::{fmt::Write as _, path::Path};

use customer_accounts::{
    caller::Caller,
    db::{Db, Manager, Meta, migrate},
    error::{Error, Result},
    proto::{
        Account, AccountType, AddAccountUserRequest, CreateAccountRequest,
        CreateAccountTypeRequest, CreateOrganizationRequest, DeleteAccountRequest, ModuleSetting,
        Portfolio, PortfolioItemState,
    },
    validate::Violations,
};
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use tokio::time::Duration;

use crate::support::{
    self, Tenant, account,
    commerce::{order, subscription},
    contracts::{contract, setup},
    process::command,
    real_database,
    sales::{item, opportunity, portfolio},
    shared, sources, unique,
};

/// Diesel's own record of the migrations, which belongs to no tenant.
const MIGRATIONS: &str = "__diesel_schema_migrations";
/// What belongs to no tenant: that, and how far renewals have come.
const OWN_TABLES: &str = "('__diesel_schema_migrations', 'renewals')";
const APP: &str = "customer_accounts_app";

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// The column `line` of a query that the service's own role makes in this tenant.
pub async fn lines(tenant: &Tenant, sql: &str) -> Vec<String> {
    read(tenant, "", sql).await.unwrap()
}

/// The column `line` of a query, after a first statement in the same transaction.
async fn read(tenant: &Tenant, first: &str, sql: &str) -> Result<Vec<String>> {
    // Whatever modules are off.
    let caller = Caller { module: "administration", ..tenant.caller() };
    let work = shared().db.read(&caller, async |tx| {
        (&mut tx.conn()).batch_execute(first).await?;
        query(&mut tx.conn(), sql).await
    });
    shared().on_its_runtime(work).await
}

#[expect(clippy::disallowed_methods, reason = "the catalogue is no table of ours")]
async fn query(conn: &mut &diesel_async::AsyncPgConnection, sql: &str) -> Result<Vec<String>> {
    Ok(diesel::sql_query(sql).load::<Line>(conn).await?.into_iter().map(|row| row.line).collect())
}

/// The tables of tenants.
async fn tables(tenant: &Tenant) -> Vec<String> {
    tables_except(tenant, OWN_TABLES).await
}

async fn tables_except(tenant: &Tenant, others: &str) -> Vec<String> {
    let sql = format!(
        "SELECT relname::text AS line FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') \
         AND relname NOT IN {others} ORDER BY relname COLLATE \"C\""
    );
    lines(tenant, &sql).await
}

#[tokio::test]
async fn schema_rs_is_generated_from_the_migrations() {
    let tenant = Tenant::new().await;
    let mut code =
        "// Generated from the migrations: `UPDATE_SCHEMA=1 cargo test schema` writes it anew, the same test fails when \
                    it differs.\n"
            .to_owned();
    let tables = tables_except(&tenant, &format!("('{MIGRATIONS}')")).await;
    for table in &tables {
        let key = format!(
            "SELECT attname::text AS line FROM pg_index CROSS JOIN unnest(indkey) WITH ORDINALITY AS key (attnum, position) \
             JOIN pg_attribute USING (attnum) WHERE indrelid = '{table}'::regclass AND attrelid = indrelid AND indisprimary \
             ORDER BY position"
        );
        let columns = format!(
            "SELECT concat_ws(' ', attname, typname, CASE WHEN attnotnull THEN '' ELSE 'nullable' END) AS line FROM pg_attribute \
             JOIN pg_type ON pg_type.oid = atttypid WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped \
             ORDER BY attnum"
        );
        let key = lines(&tenant, &key).await.join(", ");
        write!(code, "\ndiesel::table! {{\n    {table} ({key}) {{\n").unwrap();
        for column in lines(&tenant, &columns).await {
            let [name, sql_type, nullable] = column.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{column}")
            };
            let diesel = diesel_type(sql_type);
            let diesel = if nullable.is_empty() { diesel } else { format!("Nullable<{diesel}>") };
            writeln!(code, "        {name} -> {diesel},").unwrap();
        }
        code.push_str("    }\n}\n");
    }
    code.push_str("\ndiesel::allow_tables_to_appear_in_same_query!(\n");
    for table in &tables {
        writeln!(code, "    {table},").unwrap();
    }
    code.push_str(");\n");
    if wants_update() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/schema.rs"), code).unwrap();
        return; // what was just written needs no comparison
    }
    let present = include_str!("../../src/schema.rs");
    assert!(
        code == present,
        "src/schema.rs does not match the migrations (UPDATE_SCHEMA=1 writes it). It should be:\n{code}"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "a switch for the developer, not configuration of the service"
)]
fn wants_update() -> bool {
    std::env::var("UPDATE_SCHEMA").is_ok_and(|value| value == "1")
}

fn diesel_type(sql_type: &str) -> String {
    if let Some(element) = sql_type.strip_prefix('_') {
        return format!("Array<{}>", diesel_type(element));
    }
    let diesel = match sql_type {
        "bool" => "Bool",
        "bytea" => "Bytea",
        "date" => "Date",
        "float8" => "Float8",
        "int2" => "Int2",
        "int4" => "Int4",
        "int8" => "Int8",
        "jsonb" => "Jsonb",
        "numeric" => "Numeric",
        "text" => "Text",
        "timestamptz" => "Timestamptz",
        unknown => panic!("say here what {unknown} is in Diesel"),
    };
    diesel.to_owned()
}

/// What the catalogue must not contain: a rule, and a query for what breaks it. `t` is a table of
/// the service.
const RULES: &[(&str, &str)] = &[
    ("has row-level security", "SELECT relname FROM t WHERE NOT relrowsecurity"),
    (
        "forces row-level security on its owner too",
        "SELECT relname FROM t WHERE NOT relforcerowsecurity",
    ),
    (
        // Some tables have a second policy, by which the owner finds the tenants to prune and
        // renew.
        "has one policy, for everything and everyone, on the tenant",
        "SELECT relname FROM t WHERE (SELECT array_agg(concat_ws(' ', polpermissive, polcmd, polroles, \
           pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))) FROM pg_policy WHERE polrelid = t.oid \
           AND NOT (relname IN ('tenants', 'organizations', 'people', 'account_types') AND polname = 'owner' AND polcmd = 'r' \
                    AND polroles = ARRAY[relowner])) \
         IS DISTINCT FROM ARRAY['t * {0} (tenant_id = ( SELECT NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text) AS \"nullif\"))']",
    ),
    (
        "has a tenant that is given, text, compared by bytes, and the transaction's by default",
        "SELECT relname FROM t WHERE NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum \
           WHERE attrelid = t.oid AND attname = 'tenant_id' AND attnotnull AND atttypid = 'text'::regtype \
           AND attcollation = '\"C\"'::regcollation \
           AND pg_get_expr(adbin, adrelid) = 'NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text)')",
    ),
    (
        "has a primary key",
        "SELECT relname FROM t WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t.oid AND indisprimary)",
    ),
    (
        "begins every index, every unique one and every primary key with the tenant",
        "SELECT concat(relname, ': ', indexrelid::regclass) FROM t JOIN pg_index ON indrelid = t.oid \
         WHERE indkey[0] IS DISTINCT FROM (SELECT attnum FROM pg_attribute WHERE attrelid = t.oid AND attname = 'tenant_id')",
    ),
    (
        "begins every foreign key with the tenant, on both sides",
        "SELECT concat(relname, ': ', conname) FROM t JOIN pg_constraint ON conrelid = t.oid WHERE contype = 'f' AND (\
           conkey[1] IS DISTINCT FROM (SELECT attnum FROM pg_attribute WHERE attrelid = conrelid AND attname = 'tenant_id') OR \
           confkey[1] IS DISTINCT FROM (SELECT attnum FROM pg_attribute WHERE attrelid = confrelid AND attname = 'tenant_id'))",
    ),
    (
        "has an index that begins with the columns of each foreign key",
        "SELECT concat(relname, ': ', conname) FROM t JOIN pg_constraint ON conrelid = t.oid WHERE contype = 'f' AND NOT EXISTS (\
           SELECT FROM pg_index WHERE indrelid = conrelid \
           AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) = (SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute \
                WHERE attrelid = conrelid AND attnum = conkey[cardinality(conkey)])) \
           AND (SELECT array_agg(key ORDER BY position) FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (key, position) \
                WHERE position <= cardinality(conkey)) = conkey)",
    ),
    (
        "has no exclusion constraint, trigger of its own, or rule, which a distributed database does not carry",
        "SELECT concat(relname, ': ', conname) FROM t JOIN pg_constraint ON conrelid = t.oid WHERE contype IN ('x', 't') \
         UNION ALL SELECT concat(relname, ': ', tgname) FROM t JOIN pg_trigger ON tgrelid = t.oid WHERE NOT tgisinternal \
         UNION ALL SELECT concat(relname, ': ', rulename) FROM t JOIN pg_rewrite ON ev_class = t.oid",
    ),
    (
        "has a comment",
        "SELECT relname FROM t WHERE coalesce(obj_description(oid, 'pg_class'), '') = ''",
    ),
    (
        "has a comment on every column",
        "SELECT concat(relname, '.', attname) FROM t JOIN pg_attribute ON attrelid = t.oid WHERE attnum > 0 AND NOT attisdropped \
         AND coalesce(col_description(attrelid, attnum), '') = ''",
    ),
    (
        "compares every id and key by bytes, so that ranges can use an index under row-level security",
        "SELECT concat(relname, '.', attname) FROM t JOIN pg_index ON indrelid = t.oid JOIN pg_attribute ON attrelid = t.oid \
         AND attnum = ANY (indkey) WHERE attcollation NOT IN (0, '\"C\"'::regcollation)",
    ),
    (
        "belongs to the owner",
        "SELECT relname FROM t WHERE relowner <> 'customer_accounts_owner'::regrole",
    ),
    (
        "gives the service no more than the four verbs, and nothing to grant on",
        "SELECT concat_ws(' ', relname, grantee::regrole, privilege_type) FROM t CROSS JOIN aclexplode(relacl) \
         WHERE grantee <> relowner AND (grantee <> 'customer_accounts_app'::regrole OR is_grantable \
         OR privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))",
    ),
];

#[tokio::test]
async fn every_table_keeps_the_rules() {
    let tenant = Tenant::new().await;
    assert!(tables(&tenant).await.len() >= 8);
    let mut broken = String::new();
    for (rule, sql) in RULES {
        let sql = format!(
            "WITH t AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') \
             AND relname NOT IN {OWN_TABLES}) SELECT found.name::text AS line FROM ({sql}) AS found (name) ORDER BY 1"
        );
        for found in lines(&tenant, &sql).await {
            writeln!(broken, "{found}: a table {rule}").unwrap();
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[tokio::test]
async fn views_and_functions_do_not_lend_their_owners_rights() {
    let tenant = Tenant::new().await;
    let views = "SELECT relname::text AS line FROM pg_class WHERE relnamespace = 'public'::regnamespace AND (relkind = 'm' OR \
                 relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (reloptions), false))";
    assert_eq!(lines(&tenant, views).await, Vec::<String>::new());
    let functions = "SELECT proname::text AS line FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef";
    assert_eq!(lines(&tenant, functions).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_services_role_can_get_around_nothing() {
    let tenant = Tenant::new().await;
    let role = "SELECT concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, \
                has_schema_privilege(oid, 'public', 'CREATE'), pg_has_role(oid, 'customer_accounts_owner', 'MEMBER')) AS line \
                FROM pg_roles WHERE rolname = current_user";
    // A database that has had its public schema since before PostgreSQL 15 may let everybody create
    // in it.
    assert_eq!(lines(&tenant, role).await, [format!("{APP} f f f f f f f")]);
}

/// Absent values are said as NULL. Left to their default, as Diesel does otherwise, each
/// combination of absent columns would be a prepared statement of its own, which the connection
/// keeps.
#[test]
fn rows_are_inserted_by_one_statement_whatever_they_lack() {
    let mut insertable = 0;
    for file in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("Insertable,").chain(text.match_indices("Insertable)")) {
            let item = text[at..].split_once("struct ").expect("what is derived for").0;
            assert!(
                item.contains("treat_none_as_default_value = false"),
                "{}: {item}",
                file.display()
            );
            insertable += 1;
        }
    }
    assert!(insertable >= 4, "{insertable}");
}

/// Runs one statement as the service in a transaction of this tenant that is to be committed, and
/// tells what came of it.
pub async fn execute(tenant: &Tenant, sql: &str) -> Result<(), String> {
    let meta = Meta::of(
        &mut Violations::default(),
        &tenant.caller(),
        &CreateAccountTypeRequest::default(),
    );
    let caller = tenant.caller();
    let work = shared()
        .db
        .write(&caller, &meta, async |tx| Ok((&mut tx.conn()).batch_execute(sql).await?));
    shared().on_its_runtime(work).await.map_err(|error| match error {
        Error::Internal { cause, .. } => cause,
        other => format!("{other:?}"),
    })
}

#[tokio::test]
async fn nobody_changes_the_activity_trail() {
    let tenant = Tenant::new().await;
    one_of_everything(&tenant).await;
    let trail = "SELECT md5(string_agg(activities::text, ' ' ORDER BY activity_id)) AS line FROM activities";
    let before = lines(&tenant, trail).await;
    for sql in [
        "UPDATE activities SET actor = 'nobody'",
        "UPDATE activities SET changes = '[]' WHERE false",
        "DELETE FROM activities",
        "TRUNCATE activities",
        "DROP TABLE activities",
        "ALTER TABLE activities NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON activities",
        "SELECT * FROM activities FOR UPDATE",
        "INSERT INTO activities SELECT * FROM activities ON CONFLICT (tenant_id, activity_id) DO UPDATE SET actor = 'nobody'",
    ] {
        let refused = execute(&tenant, sql).await.unwrap_err();
        let fits = [
            "permission denied for table activities",
            "must be owner of table activities",
            "must be owner of relation activities",
        ];
        assert!(fits.iter().any(|words| refused.contains(words)), "{sql}: {refused}");
    }
    assert_eq!(lines(&tenant, trail).await, before);
    let granted = "SELECT privilege_type AS line FROM pg_class CROSS JOIN aclexplode(relacl) WHERE relname = 'activities' \
                   AND grantee = 'customer_accounts_app'::regrole ORDER BY 1";
    assert_eq!(lines(&tenant, granted).await, ["INSERT", "SELECT"]);
    let columns = "SELECT attname::text AS line FROM pg_attribute WHERE attrelid = 'activities'::regclass AND attacl IS NOT NULL";
    assert_eq!(lines(&tenant, columns).await, Vec::<String>::new());
}

#[tokio::test]
async fn rows_are_visible_to_their_tenant_only() {
    let (ours, theirs) = (Tenant::new().await, Tenant::new().await);
    one_of_everything(&ours).await;
    let count = |table: &str| format!("SELECT count(*)::text AS line FROM {table}");
    for table in tables(&ours).await {
        assert_ne!(
            lines(&ours, &count(&table)).await,
            ["0"],
            "{table}: one_of_everything leaves a row in every table"
        );
        assert_eq!(lines(&theirs, &count(&table)).await, ["0"], "{table} with another tenant");
        let of_ours = format!(
            "SELECT count(*)::text AS line FROM {table} WHERE tenant_id = '{}'",
            ours.caller.tenant
        );
        assert_eq!(
            lines(&theirs, &of_ours).await,
            ["0"],
            "{table} with another tenant, asked for ours"
        );
        // After a committed SET LOCAL the setting is empty, not absent; on a new connection it is
        // absent.
        for unset in [
            "SET LOCAL app.tenant_id = ''",
            "RESET app.tenant_id",
            "SET LOCAL app.tenant_id TO DEFAULT",
        ] {
            let seen = read(&ours, unset, &count(&table)).await.unwrap();
            assert_eq!(seen, ["0"], "{table} after {unset}");
        }
    }
}

#[tokio::test]
async fn rows_are_written_for_their_own_tenant_only() {
    let (ours, theirs) = (Tenant::new().await, Tenant::new().await);
    one_of_everything(&ours).await;
    for table in tables(&ours).await {
        let columns = format!(
            "SELECT string_agg(attname::text, ', ') AS line FROM pg_attribute \
             WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        );
        let columns = lines(&ours, &columns).await.remove(0);
        let copy = |tenant: &str| {
            format!(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM (SELECT (jsonb_populate_record(NULL::{table}, \
                 to_jsonb(x) || '{{\"tenant_id\": {tenant}}}')).* FROM {table} AS x) AS x"
            )
        };
        let stranger = format!("\"{}\"", theirs.caller.tenant);
        for (what, sql) in [
            ("another tenant's row", copy(&stranger)),
            ("nobody's row", copy("\"\"")),
            ("a row without tenant", copy("null")),
            (
                "a row given away",
                format!("UPDATE {table} SET tenant_id = {}", stranger.replace('"', "'")),
            ),
        ] {
            let refused = execute(&ours, &sql).await.unwrap_err();
            let unchangeable =
                what == "a row given away" && refused.contains("permission denied for table");
            assert!(
                refused.contains("violates row-level security policy") || unchangeable,
                "{table}, {what}: {refused}"
            );
        }
        let mine = format!("\"{}\"", ours.caller.tenant);
        let unset = format!(
            "CREATE TEMP TABLE copy ON COMMIT DROP AS SELECT * FROM {table}; SET LOCAL app.tenant_id = ''; \
                             INSERT INTO {table} ({columns}) SELECT {columns} FROM copy"
        );
        let refused = execute(&ours, &unset).await.unwrap_err();
        assert!(
            refused.contains("violates row-level security policy"),
            "{table} without a tenant: {refused}"
        );
        // In its own tenant the statement fails only at the primary key.
        let refused = execute(&ours, &copy(&mine)).await.unwrap_err();
        assert!(
            refused.contains("duplicate key value violates unique constraint"),
            "{table}: {refused}"
        );
    }
}

/// At least one row in every table.
async fn one_of_everything(tenant: &Tenant) {
    tenant.organization("top", "").await;
    tenant.set_module("contracts", "top", ModuleSetting::Off).await.unwrap();
    let mut request = CreateOrganizationRequest { request_id: unique(), ..Default::default() };
    request.organization = Some(customer_accounts::proto::Organization {
        organization_id: "below".into(),
        display_name: "Below".into(),
        parent_id: "top".into(),
        ..Default::default()
    });
    tenant.organizations().create_organization(request).await.unwrap();
    let account_type = AccountType {
        account_type_id: "type".into(),
        display_name: "Type".into(),
        ..Default::default()
    };
    let request =
        CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
    tenant.account_types().create_account_type(request).await.unwrap();
    tenant.staff("sam").await;
    tenant.add_member("below", "sam").await.unwrap();
    let manager = "sam".into();
    let kept = Account {
        account_type_id: "type".into(),
        account_manager_id: manager,
        ..account("kept", "below")
    };
    let request =
        CreateAccountRequest { account: Some(kept), request_id: unique(), ..Default::default() };
    tenant.accounts().create_account(request).await.unwrap();
    tenant.person("jane").await;
    let user = AddAccountUserRequest {
        account_id: "kept".into(),
        person_id: "jane".into(),
        ..Default::default()
    };
    tenant.memberships().add_account_user(user).await.unwrap();
    let items = vec![item("x", PortfolioItemState::Active)];
    tenant.portfolio(Portfolio { items, ..portfolio("p", "kept") }).await;
    tenant.opportunity(opportunity("o", "kept")).await;
    tenant.organization("apart", "").await;
    tenant.account(account("apart", "apart")).await;
    tenant.subscription(subscription("s", "apart")).await;
    tenant.order(order("o", "apart")).await;
    tenant.contract(contract("kept", "apart")).await;
    tenant.setup(setup("kept", "kept", "project")).await;
    tenant.account(account("gone", "below")).await;
    tenant
        .accounts()
        .delete_account(DeleteAccountRequest { account_id: "gone".into(), ..Default::default() })
        .await
        .unwrap();
}

/// Migrates as the login of the URL.
async fn run(url: &str, direction: migrate::Direction) -> Vec<String> {
    migrate::run(&Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), None), direction)
        .await
        .unwrap()
}

/// Tables, views, sequences, types and functions in a database.
async fn things(url: &str) -> Vec<String> {
    let sql = "SELECT concat(relkind, ' ', relname) AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i' \
               UNION ALL SELECT concat('type ', typname) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typrelid = 0 \
               AND typelem = 0 UNION ALL SELECT concat('function ', proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace \
               ORDER BY 1";
    support::sql(url).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_down_to_nothing_and_up_again() {
    let Some(url) = real_database("migrating down takes a database of its own").await else {
        return;
    };
    let versions = run(&url, migrate::Direction::Up).await;
    assert!(versions.len() >= 4 && versions.is_sorted(), "{versions:?}");
    let up = things(&url).await;
    assert!(up.len() > 8, "{up:?}");
    assert_eq!(
        run(&url, migrate::Direction::Up).await,
        Vec::<String>::new(),
        "nothing is left to do"
    );
    // One by one: each is reverted by its own down.sql, and comes back by its up.sql.
    for version in versions.iter().rev() {
        assert_eq!(run(&url, migrate::Direction::Down(1)).await, std::slice::from_ref(version));
    }
    assert_eq!(things(&url).await, [format!("r {MIGRATIONS}")]);
    assert_eq!(run(&url, migrate::Direction::Up).await, versions);
    assert_eq!(things(&url).await, up);
    let mut down = run(&url, migrate::Direction::Down(versions.len())).await;
    down.reverse();
    assert_eq!(down, versions);
    assert_eq!(things(&url).await, [format!("r {MIGRATIONS}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_migrate_once() {
    let Some(url) = real_database("the embedded server has one connection").await else { return };
    // As tasks of their own: applying migrations blocks its thread.
    let replica = |_| {
        let url = url.clone();
        tokio::spawn(async move { run(&url, migrate::Direction::Up).await })
    };
    let runs: Vec<_> =
        join_all((0..8).map(replica)).await.into_iter().map(Result::unwrap).collect();
    let mut applied = runs.concat();
    assert_eq!(
        runs.iter().filter(|versions| !versions.is_empty()).count(),
        1,
        "one of them did it: {runs:?}"
    );
    applied.sort();
    let recorded: Vec<String> = support::sql(&url)
        .await
        .query("SELECT version::text FROM __diesel_schema_migrations ORDER BY 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(applied, recorded);
}

/// Accounts used to have copies of the words of the person who is their primary contact.
#[tokio::test(flavor = "multi_thread")]
async fn copied_words_of_contacts_go_and_those_of_the_accounts_stay() {
    let Some(url) = real_database("reverting migrations takes a database of its own").await else {
        return;
    };
    let versions = run(&url, migrate::Direction::Up).await;
    let before = versions.iter().position(|version| version == "20261125000013").unwrap();
    run(&url, migrate::Direction::Down(versions.len() - before)).await;
    let sql = support::sql(&url).await;
    let long = "x".repeat(70);
    // One whose contact has been renamed since; the words of old and new name are there. One whose
    // contact is named like it, one whose id says nothing to SQL, and one with a contact of its
    // own.
    let rows = [
        (
            "acct-1",
            "Acme (Zürich) AG",
            Some("p"),
            "1 ac acct-1 acme ag anna annold anna@acme zurich) new old",
        ),
        (
            "ac-2",
            &*format!("Anna {long}"),
            Some("p"),
            &*format!("2 ac-2 anna anna@acme {}", &long[..60]),
        ),
        ("Ä", "Other", Some("p"), "a other anna left"),
        ("mine", "Mine", None, "mine nina"),
    ];
    sql.batch_execute(
        "SET app.tenant_id = 't'; INSERT INTO organizations (organization_id, display_name, sort_key) VALUES ('o', 'O', 'o'); \
         INSERT INTO people (person_id, display_name, sort_key, kind) VALUES ('p', 'Anna New', 'anna new', 'CUSTOMER'); \
         INSERT INTO person_words (person_id, word) VALUES ('p', 'p'), ('p', 'anna'), ('p', 'new'), ('p', 'anna@acme')",
    )
    .await
    .unwrap();
    for (id, name, contact, words) in rows {
        let account = "INSERT INTO accounts (account_id, display_name, sort_key, organization_id, status, primary_contact_id) \
            VALUES ($1, $2, $3, 'o', 'ACTIVE', $4)";
        sql.query(account, &[&id, &name, &customer_accounts::search::fold(name), &contact])
            .await
            .unwrap();
        let words: Vec<_> = words.split(' ').collect();
        let insert = "INSERT INTO account_words (account_id, word) SELECT $1, unnest($2::text[])";
        sql.query(insert, &[&id, &words]).await.unwrap();
    }
    run(&url, migrate::Direction::Up).await;
    let left = "SELECT account_id || ': ' || string_agg(word, ' ' ORDER BY word) FROM account_words GROUP BY account_id ORDER BY account_id";
    let left: Vec<String> =
        sql.query(left, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let wanted = [
        format!("ac-2: 2 @p ac-2 anna {}", &long[..60]),
        "acct-1: 1 @p acct-1 acme ag zurich)".to_owned(),
        "mine: mine nina".to_owned(),
        "Ä: @p a left other".to_owned(),
    ];
    assert_eq!(left, wanted);
}

/// The service's own view of a database in this role.
fn database(url: &str, role: Option<&str>) -> Db {
    let manager =
        Manager::new(url.parse::<tokio_postgres::Config>().unwrap(), role.map(ToOwned::to_owned))
            .allow_privileged_login(true);
    Db::new(manager, 1, Duration::from_secs(5), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_refuses_a_database_that_lacks_a_migration() {
    let Some(url) = real_database("reverting migrations takes a database of its own").await else {
        return;
    };
    let versions = run(&url, migrate::Direction::Up).await;
    database(&url, Some(APP)).verify().await.unwrap();
    run(&url, migrate::Direction::Down(1)).await;
    let error = database(&url, Some(APP)).verify().await.unwrap_err();
    assert!(
        matches!(&error, migrate::MigrateError::Pending(version) if Some(version) == versions.last()),
        "{error:?}"
    );
    let output =
        command(&["--migrate", "false"], &[("DATABASE_URL", &url)]).output().await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(
        words.contains(versions.last().unwrap()) && words.contains("customer-accounts migrate"),
        "{words}"
    );
    // And one that was never migrated.
    run(&url, migrate::Direction::Down(versions.len() - 1)).await;
    let error = database(&url, Some(APP)).verify().await.unwrap_err();
    assert!(
        matches!(&error, migrate::MigrateError::Pending(version) if *version == versions[0]),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_gets_around_row_level_security_is_refused() {
    let Some(url) = real_database("the embedded server's roles are its own").await else { return };
    run(&url, migrate::Direction::Up).await;
    let sql = support::sql(&url).await;
    let role = |kind: &str| format!("it_{kind}_{}", unique());
    let (bypasses, owner, grandchild) = (role("bypasses"), role("owner"), role("grandchild"));
    sql.batch_execute(&format!(
        "CREATE ROLE {bypasses} BYPASSRLS; GRANT SELECT ON {MIGRATIONS} TO {bypasses}; CREATE ROLE {owner}; \
         GRANT customer_accounts_owner TO {owner}; CREATE ROLE {grandchild}; GRANT {owner} TO {grandchild}"
    ))
    .await
    .unwrap();
    let mut answers = Vec::new();
    for (role, wanted) in [
        (None, "is a superuser"),
        (Some("customer_accounts_owner"), "owns tables of the service"),
        (Some(&*bypasses), "bypasses row-level security"),
        (Some(&*owner), "owns tables of the service"),
        (Some(&*grandchild), "owns tables of the service"),
    ] {
        answers.push((role, wanted, database(&url, role).verify().await));
    }
    let output = command(&["--migrate", "false", "--database-role", ""], &[("DATABASE_URL", &url)])
        .output()
        .await
        .unwrap();
    // Before anything can fail: roles belong to the whole server.
    sql.batch_execute(&format!(
        "DROP OWNED BY {bypasses}; DROP ROLE {grandchild}; DROP ROLE {owner}; DROP ROLE {bypasses}"
    ))
    .await
    .unwrap();
    for (role, wanted, answer) in answers {
        let refused = matches!(&answer, Err(migrate::MigrateError::UnsafeRole { why, .. }) if why.ends_with(wanted));
        assert!(refused, "{role:?} {wanted}: {answer:?}");
    }
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("is a superuser"), "{output:?}");
}
