//! Every statement binds the tenant: the harness watches what all tests send
//! (`support::tenancy`), and these hold the watch itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::tenancy::{TABLES, unbound};

#[test]
fn a_statement_that_does_not_bind_its_tenant_is_found() {
    let bound = [
        r#"SELECT "people"."kind" FROM "people" WHERE (("people"."tenant_id" = $1) AND ("people"."person_id" = $2)) -- binds: ["t", "p"]"#,
        r#"SELECT "a"."x" FROM ("accounts" INNER JOIN "people" ON (("people"."tenant_id" = "accounts"."tenant_id"))) WHERE ("accounts"."tenant_id" = $1)"#,
        r#"INSERT INTO "requests" ("tenant_id", "actor") VALUES ($1, $2)"#,
        r#"UPDATE "people" SET "active" = $1 WHERE ("people"."tenant_id" = $2)"#,
        "SELECT 1 FROM accounts AS own WHERE own.tenant_id = $1",
        "BEGIN",
    ];
    for sql in bound {
        assert_eq!(unbound(sql), None, "{sql}");
    }
    let free = [
        (r#"SELECT "people"."kind" FROM "people" WHERE ("people"."person_id" = $1)"#, "people"),
        (
            r#"SELECT 1 FROM ("accounts" INNER JOIN "people" ON ("people"."person_id" = "accounts"."account_manager_id")) WHERE ("accounts"."tenant_id" = $1)"#,
            "people",
        ),
        (r#"INSERT INTO "requests" ("actor") VALUES ($1)"#, "requests"),
        (r#"DELETE  FROM "people" WHERE ("people"."person_id" = $1)"#, "people"),
        (
            r#"SELECT "a"."x" FROM "accounts" AS a JOIN "accounts" AS b ON b.tenant_id = a.tenant_id AND a.tenant_id = b.tenant_id"#,
            "a",
        ),
        (
            r#"SELECT 1 FROM "people" WHERE ("people"."tenant_id" = $1) AND EXISTS (SELECT 1 FROM "people" WHERE "people"."active")"#,
            "people",
        ),
    ];
    for (sql, table) in free {
        assert_eq!(unbound(sql).as_deref(), Some(table), "{sql}");
    }
}

/// The watch does not see hand-written SQL, so no slice has any.
#[test]
fn no_slice_has_hand_written_statements() {
    let sources = walk(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    assert!(sources.len() > 50, "{sources:?}");
    for (path, text) in sources {
        let is_database = path.components().any(|part| part.as_os_str() == "db");
        for raw in ["sql_query(", "batch_execute(", "dsl::sql("] {
            assert!(is_database || !text.contains(raw), "{} has {raw}", path.display());
        }
    }
}

/// The Rust sources in a folder and below it.
fn walk(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sources = entries.flat_map(|path| match path.extension() {
        _ if path.is_dir() => walk(&path),
        Some(extension) if extension == "rs" => {
            let text = fs::read_to_string(&path).unwrap();
            vec![(path, text)]
        }
        _ => Vec::new(),
    });
    sources.collect()
}

#[test]
fn the_watch_knows_every_table_of_tenants() {
    let schema = include_str!("../../src/schema.rs");
    let tables: Vec<_> = schema
        .lines()
        .filter_map(|line| line.trim().split_once(" (tenant_id, ").map(|(table, _)| table))
        .collect();
    assert_eq!(tables, TABLES, "tables with a tenant_id, but for tenants itself");
}
