//! `ImportAccounts` in batches of 1,000 rows, one row in a hundred of them refused, beside the bare
//! INSERT of as many accounts.

use std::{sync::Arc, time::Instant};

use customer_accounts_client::v1::{
    Account, Contact, ImportAccountsRequest, ImportAction, ImportRow,
};
use futures_util::stream;

use crate::{
    cases::Target,
    data::account_id,
    load::{Sample, micros, percentile},
    postgres::Postgres,
};

/// Rows of a batch.
pub const BATCH: u64 = 1000;
/// One row in so many is refused.
const BAD: u64 = 100;
/// The first numbers of the accounts that are imported, and that are inserted.
const IMPORTED: u64 = 3_000_000_000;
const INSERTED: u64 = 4_000_000_000;

/// Imports `rows` accounts as one stream. Returns the accounts a second, and the time of each batch
/// from the answer before.
pub async fn run(on: Arc<Target>, rows: u64) -> Result<Sample, String> {
    let organizations = on.organizations();
    let from = IMPORTED + on.next() * rows;
    let batches = (0..rows / BATCH).map(move |batch| {
        let numbers = from + batch * BATCH..from + (batch + 1) * BATCH;
        let rows = numbers.map(|n| row(n, organizations)).collect();
        ImportAccountsRequest { rows, action: ImportAction::Create.into(), ..Default::default() }
    });
    let client = on.first().clone();
    let began = Instant::now();
    let answers = client.accounts().import_accounts(stream::iter(batches)).await;
    let mut answers = answers.map_err(|error| error.to_string())?.into_inner();
    let (mut last, mut times, mut total) = (began, Vec::new(), None);
    while let Some(answer) = answers.message().await.map_err(|error| error.to_string())? {
        let now = Instant::now();
        times.push(micros(now - last));
        last = now;
        total = answer.total;
    }
    let total = total.ok_or("no batch was answered")?;
    let (kept, refused) = (u64::try_from(total.created), u64::try_from(total.refused));
    if (kept, refused) != (Ok(rows - rows / BAD), Ok(rows / BAD)) {
        return Err(format!("of {rows} rows with 1 percent bad: {total:?}"));
    }
    times.sort_by(f64::total_cmp);
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| percentile(&times, share));
    Ok(Sample {
        rate: rows as f64 / (last - began).as_secs_f64(),
        p50,
        p99,
        p999,
        ..Sample::default()
    })
}

fn row(n: u64, organizations: u64) -> ImportRow {
    let organization =
        if n.is_multiple_of(BAD) { "nowhere".into() } else { organization(n, organizations) };
    let account = Account {
        account_id: account_id(n),
        display_name: name(n),
        organization_id: organization,
        primary_contact: Some(Contact {
            name: "Purchasing".into(),
            email: "purchasing@acme.example".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    ImportRow { account: Some(account), ..Default::default() }
}

fn organization(n: u64, organizations: u64) -> String {
    format!("org-{}", 1 + n * 31 % organizations)
}

fn name(n: u64) -> String {
    format!("main new {n}")
}

/// Inserts `rows` rows into `accounts` alone, 1,000 a transaction, as a superuser: without words,
/// links, activities and row-level security. Returns the rows a second.
pub async fn bare(on: &Target, postgres: &Postgres, rows: u64) -> f64 {
    let sql = postgres.sql("bench").await;
    let insert = sql
        .prepare(
            "INSERT INTO accounts (tenant_id, account_id, display_name, sort_key, organization_id, \
             primary_contact, status, folded) SELECT 'main', unnest($1::text[]), unnest($2::text[]), \
             unnest($2::text[]), unnest($3::text[]), unnest($4::text[])::jsonb, 'ACTIVE', 1002",
        )
        .await
        .unwrap();
    let from = INSERTED + on.next() * rows;
    let began = Instant::now();
    for batch in 0..rows / BATCH {
        let numbers = from + batch * BATCH..from + (batch + 1) * BATCH;
        let of = |value: fn(u64, u64) -> String| {
            numbers.clone().map(|n| value(n, on.organizations())).collect::<Vec<_>>()
        };
        let contact =
            of(|_, _| r#"{"name": "Purchasing", "email": "purchasing@acme.example"}"#.to_owned());
        let (ids, names) = (of(|n, _| account_id(n)), of(|n, _| name(n)));
        sql.execute(&insert, &[&ids, &names, &of(organization), &contact]).await.unwrap();
    }
    rows as f64 / began.elapsed().as_secs_f64()
}
