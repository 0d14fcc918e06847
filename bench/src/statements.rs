//! The statements of a call, as PostgreSQL logs them, for `pgbench`.

use std::{collections::BTreeSet, fmt::Write as _, fs, time::Duration};

use serde_json::Value;
use tokio_postgres::{Client, types::Type};

use crate::{load::Sample, postgres::Postgres, server::POOL_SIZE};

/// A script that does what one call does, and the settings of its transaction.
pub struct Script {
    text: String,
    /// `NAME=VALUE` of its variables: values that are parameters get the plans that the service
    /// gets.
    variables: Vec<String>,
    settings: String,
}

/// Starts or ends the log of statements.
pub async fn log(sql: &Client, on: bool) {
    let what = if on { "all" } else { "none" };
    sql.batch_execute(&format!("ALTER SYSTEM SET log_statement = '{what}'")).await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// How long the log is. It is an argument of [`Script::read`] later.
pub fn position(postgres: &Postgres) -> usize {
    fs::read(postgres.log()).map_or(0, |log| log.len())
}

impl Script {
    /// Reads the statements that the service has sent since then.
    pub async fn read(postgres: &Postgres, sql: &Client, since: usize, accounts: u64) -> Self {
        let log = fs::read(postgres.log()).unwrap();
        let lines = String::from_utf8_lossy(&log[since..]);
        let (mut logged, mut settings) = (Vec::new(), String::new());
        for line in lines.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let message = line["message"].as_str().unwrap_or_default();
            if line["user"] != "service" || !message.starts_with(['s', 'e']) {
                continue;
            }
            let Some((kind, statement)) = message.split_once(": ") else { continue };
            if kind.starts_with("execute") {
                let detail = line["detail"].as_str().unwrap_or_default().to_owned();
                logged.push((statement.to_owned(), detail));
            } else if statement.starts_with("BEGIN") {
                settings = options(statement);
            }
        }
        let ids: BTreeSet<String> = logged.iter().flat_map(|(_, detail)| ids(detail)).collect();
        let id = if ids.len() == 1 { ids.into_iter().next() } else { None };
        let (mut text, mut variables) = (String::new(), Vec::new());
        if let Some(id) = &id {
            // Odd numbers: an update writes all fields of one account to another, and the service
            // updates even ones, whose names are checked.
            let (from, to) = match id.len() {
                7 => (500_000_u64, 500_000 + accounts / 2 - 1),
                _ => (10_000_000_000, 4_000_000_000_000_000),
            };
            writeln!(text, "\\set id 2 * random({from}, {to}) + 1").unwrap();
        }
        let writes = logged.iter().any(|(statement, _)| !statement.starts_with("SELECT"));
        text.push_str(if writes { "BEGIN;\n" } else { "" });
        for (statement, detail) in &logged {
            text.push_str(&filled(sql, statement, detail, id.as_deref(), &mut variables).await);
            text.push_str(";\n");
        }
        text.push_str(if writes { "END;\n" } else { "" });
        Self { text, variables, settings }
    }

    /// Runs it by `pgbench` on as many connections as the service has.
    pub fn run(&self, postgres: &Postgres, in_flight: usize, time: Duration) -> Sample {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &self.text).unwrap();
        let clients = in_flight.min(POOL_SIZE as usize).to_string();
        let before = postgres.cpu();
        let output = postgres
            .program("pgbench")
            .args(["-n", "-U", "service", "-M", "prepared", "-j", "1", "-c", &clients])
            .args(["-T", &time.as_secs().max(1).to_string(), "-f"])
            .arg(file.path())
            .args(self.variables.iter().flat_map(|variable| ["-D", variable]))
            .env("PGOPTIONS", &self.settings)
            .output()
            .unwrap();
        let cpu = postgres.cpu().checked_sub(before).unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| -> f64 {
            let found = report.lines().find_map(|line| line.strip_prefix(name));
            let found = found.and_then(|rest| rest.split_whitespace().next());
            found.and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        let calls = value("number of transactions actually processed: ");
        assert!(
            output.status.success() && calls > 0.0,
            "pgbench: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.text
        );
        Sample {
            rate: value("tps = "),
            p50: value("latency average = ") * 1e3,
            postgres_cpu: cpu.as_secs_f64() * 1e6 / calls,
            ..Sample::default()
        }
    }
}

/// The settings of a transaction as options of a session.
fn options(begin: &str) -> String {
    let settings = begin.split(';').filter_map(|part| part.trim().strip_prefix("SET LOCAL "));
    let settings = settings.filter_map(|setting| {
        let (name, value) = setting
            .split_once('=')
            .or_else(|| setting.split_once(" TO "))
            .or_else(|| setting.split_once(' '))?;
        let name = name.trim().to_lowercase();
        (name != "statement_timeout").then(|| {
            format!("-c {name}={}", value.trim().trim_matches(['\'', '"']).replace(' ', ""))
        })
    });
    settings.collect::<Vec<_>>().join(" ")
}

/// The ids of accounts in a text.
fn ids(text: &str) -> Vec<String> {
    let runs = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id = |run: &&str| {
        run.starts_with('1')
            && (run.len() == 7 || run.len() == 10)
            && run.bytes().all(|c| c.is_ascii_digit())
    };
    runs.filter(is_id).map(str::to_owned).collect()
}

/// The statement with its values in it. The id of the account becomes the variable `:id`.
async fn filled(
    sql: &Client,
    statement: &str,
    detail: &str,
    id: Option<&str>,
    variables: &mut Vec<String>,
) -> String {
    let types = types(sql, statement).await;
    let values = detail.split_once(": ").map_or("", |(_, values)| values);
    let values = values_of(values);
    let mut filled = String::new();
    let mut rest = statement;
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(number) = after[..digits].parse::<usize>() else {
            filled.push('$');
            rest = after;
            continue;
        };
        let (value, kind) = (&values[number - 1], types[number - 1].name());
        let kind =
            kind.strip_prefix('_').map_or_else(|| kind.to_owned(), |kind| format!("{kind}[]"));
        let value = match id {
            Some(id) if *value == format!("'{id}'") => ":id::text".into(),
            Some(id) if value.contains(id) => {
                format!("concat({})", value.replace(id, "', :id::text, '"))
            }
            _ if value.starts_with("'{actv_") => {
                let new = "concat('actv_', gen_random_uuid()::text)";
                format!("ARRAY[{}]", vec![new; value.matches("actv_").count()].join(", "))
            }
            _ if value.starts_with("'actv_") => "concat('actv_', gen_random_uuid()::text)".into(),
            _ if !value.starts_with('\'') || value == "''" => value.clone(), // NULL; pgbench has no empty values
            _ => {
                let name = format!("v{}", variables.len());
                let value = value[1..value.len() - 1].replace("''", "'");
                variables.push(format!("{name}={value}"));
                format!(":{name}")
            }
        };
        write!(filled, "{value}::{kind}").unwrap();
        rest = &after[digits..];
    }
    filled + rest
}

/// The types of the parameters. PostgreSQL cannot tell those of an `unnest`.
async fn types(sql: &Client, statement: &str) -> Vec<Type> {
    let mut types = Vec::new();
    // INSERT INTO "table" ("column", …) SELECT $1, unnest($2), …
    let (into, values) = statement.split_once(") SELECT ").unwrap_or_default();
    let columns = into.split_once('(').map_or("", |(_, columns)| columns).split(", ");
    for (column, value) in columns.zip(values.split(", ")) {
        let Some(number) = value.strip_prefix("unnest($") else { continue };
        let number: usize = number.split(')').next().unwrap().parse().unwrap();
        types.resize(types.len().max(number), Type::UNKNOWN);
        types[number - 1] = match column {
            "\"ordinal\"" => Type::INT4_ARRAY,
            "\"changes\"" => Type::JSONB_ARRAY,
            _ => Type::TEXT_ARRAY,
        };
    }
    let prepared = sql.prepare_typed(statement, &types).await;
    prepared.unwrap_or_else(|error| panic!("{statement}: {error:?}")).params().to_vec()
}

/// The literals of `$1 = 'x', $2 = NULL`.
fn values_of(detail: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = detail;
    while let Some((_, after)) = rest.split_once(" = ") {
        let end = if after.starts_with('\'') {
            let mut end = 1;
            let bytes = after.as_bytes();
            while bytes[end] != b'\'' || bytes.get(end + 1) == Some(&b'\'') {
                end += if bytes[end] == b'\'' { 2 } else { 1 };
            }
            end + 1
        } else {
            after.find(',').unwrap_or(after.len())
        };
        values.push(after[..end].to_owned());
        rest = &after[end..];
    }
    values
}
