//! Renaming a person who is on very many accounts.

use std::time::Duration;

use customer_accounts::proto::{ListAccountsRequest, Person};
use tokio::time::Instant;

use crate::support::{self, Tenant, calls::only_person, process::Service, real_database};

/// Accounts whose primary and billing contact the person is, and on which they are an individual
/// user.
const ACCOUNTS: i32 = 2000;
/// Renames of which the fastest counts: the machine has other work too.
const ROUNDS: usize = 7;
/// What a rename may take for all the accounts of a person, on a debug build and a busy machine.
const LIMIT: Duration = Duration::from_millis(400);

/// The accounts refer to the person, and only the order of lists stands beside each membership: one
/// statement moves that along.
#[tokio::test(flavor = "multi_thread")]
async fn renaming_the_contact_of_two_thousand_accounts_writes_no_account() {
    let Some(url) = real_database("the cost is that of a real server").await else { return };
    let service = Service::on(&url, &[]).await;
    let tenant = Tenant::on(service.channel().await);
    tenant.organization("o", "").await;
    tenant.person("alone").await;
    tenant.person("everywhere").await;
    let sql = support::sql(&url).await;
    let fill = format!(
        "SET app.tenant_id = '{}'; \
         INSERT INTO accounts (account_id, display_name, sort_key, organization_id, status, primary_contact_id, billing_contact_id) \
             SELECT 'a' || n, 'Account ' || n, 'account ' || n, 'o', 'ACTIVE', 'everywhere', 'everywhere' FROM generate_series(1, {ACCOUNTS}) AS n; \
         INSERT INTO account_words (account_id, word) SELECT account_id, unnest(ARRAY['@everywhere', account_id]) FROM accounts; \
         INSERT INTO account_organizations (account_id, organization_id, own, include_descendants) SELECT account_id, 'o', true, false FROM accounts; \
         INSERT INTO account_users (account_id, person_id, individual, billing, sort_key, person_create_time) \
             SELECT account_id, person_id, true, true, people.sort_key, people.create_time FROM accounts, people WHERE person_id = 'everywhere'; \
         RESET app.tenant_id; ANALYZE",
        tenant.caller.tenant
    );
    sql.batch_execute(&fill).await.unwrap();
    let written = "SELECT (SELECT max(xmin::text::bigint) FROM accounts), (SELECT max(xmin::text::bigint) FROM account_words)";
    let written = async || {
        let row = sql.query_one(written, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let before = written().await;
    let fastest = async |id: &str| {
        let mut fastest = Duration::MAX;
        for round in 0..ROUNDS {
            let renamed =
                Person { display_name: format!("Renamed {id} {round}"), ..only_person(id) };
            let start = Instant::now();
            tenant.update_person(renamed, &[]).await.unwrap();
            fastest = fastest.min(start.elapsed());
        }
        fastest
    };
    let (alone, everywhere) = (fastest("alone").await, fastest("everywhere").await);
    eprintln!(
        "renaming a person takes {alone:?}, and {everywhere:?} for one on {ACCOUNTS} accounts"
    );
    assert_eq!(written().await, before, "neither an account nor its words are written");
    assert!(everywhere < LIMIT, "{everywhere:?}");
    let found = ListAccountsRequest {
        query: format!("everywhere {}", ROUNDS - 1),
        page_size: 1000,
        ..Default::default()
    };
    assert_eq!(tenant.list(found).await.len(), 1000);
    let behind = "SELECT count(*) FROM account_users JOIN people USING (tenant_id, person_id) WHERE account_users.sort_key <> people.sort_key";
    assert_eq!(sql.query_one(behind, &[]).await.unwrap().get::<_, i64>(0), 0);
}
