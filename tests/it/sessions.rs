//! What a transaction depends on belongs to the transaction: whatever state its session is in, or
//! which session a pooler gives it.

use std::time::Duration;

use customer_accounts::{
    db::{Db, Meta},
    proto::{
        CreateAccountRequest, DeleteAccountRequest, DeleteAccountResponse, GetAccountRequest,
        ListAccountsRequest,
    },
    validate::Violations,
};
use diesel_async::SimpleAsyncConnection as _;

use crate::support::{
    Tenant, account,
    pooler::Pooler,
    process::{Service, command, run},
    real_database, refusal, sql, with_pool,
};

/// Leaves the session of the only connection in some state.
async fn leave_session(db: &Db, tenant: &Tenant, state: &str) {
    let meta =
        Meta::of(&mut Violations::default(), &tenant.caller(), &DeleteAccountRequest::default());
    let caller = tenant.caller();
    let work = db.write(&caller, &meta, async |tx| {
        (&mut tx.conn()).batch_execute(&format!("COMMIT; {state}; BEGIN")).await?;
        Ok(DeleteAccountResponse {})
    });
    work.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_stay_apart_whatever_state_their_session_is_in() {
    let Some(url) = real_database("the sessions of a superuser's login").await else { return };
    let (ours, db) = with_pool(&url, 1).await;
    let theirs = Tenant::on(ours.channel.clone());
    ours.organization("o", "").await;
    ours.account(account("secret", "o")).await;
    theirs.organization("o", "").await;
    theirs.account(account("other", "o")).await;
    let sql = sql(&url).await;
    sql.batch_execute(
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.accounts AS TABLE public.accounts; \
         GRANT USAGE ON SCHEMA elsewhere TO PUBLIC; GRANT ALL ON elsewhere.accounts TO PUBLIC",
    )
    .await
    .unwrap();
    for state in [
        "RESET ROLE",
        "SET ROLE customer_accounts_owner",
        "SET ROLE postgres",
        "SET search_path = elsewhere, public",
        "CREATE TEMP TABLE IF NOT EXISTS accounts AS TABLE public.accounts; GRANT ALL ON pg_temp.accounts TO PUBLIC",
        "SET default_transaction_isolation = 'serializable'",
    ] {
        leave_session(&db, &ours, state).await;
        let get =
            theirs.accounts().get_account(GetAccountRequest { account_id: "secret".into() }).await;
        assert_eq!(refusal(get), "ACCOUNT_NOT_FOUND", "{state}");
        let list = theirs
            .accounts()
            .list_accounts(ListAccountsRequest::default())
            .await
            .unwrap()
            .into_inner();
        let ids: Vec<_> = list.accounts.iter().map(|account| &*account.account_id).collect();
        assert_eq!(ids, ["other"], "{state}");
        let delete = DeleteAccountRequest { account_id: "secret".into(), ..Default::default() };
        assert_eq!(
            refusal(theirs.accounts().delete_account(delete).await),
            "ACCOUNT_NOT_FOUND",
            "{state}"
        );
    }
    ours.accounts().get_account(GetAccountRequest { account_id: "secret".into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_transaction_mode_without_prepared_statements_is_refused() {
    let Some(url) = real_database("a pooler").await else { return };
    drop(Service::on(&url, &[]).await);
    let Some(pooler) = Pooler::start(&url, "transaction").await else { return };
    for command in ["check", "serve"] {
        let refused =
            run(&[command, "--listen", "127.0.0.1:0"], &[("DATABASE_URL", &pooler.url)]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("PgBouncer 1.21 or later"), "{refused:?}");
    }
}

/// The statement of a service that has ended may have the name of one of a service that starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_has_statements_of_others_is_refused() {
    let Some(url) = real_database("a pooler").await else { return };
    let Some(pooler) = Pooler::start(&url, "transaction").await else { return };
    let (first, second) = (sql(&pooler.url).await, sql(&pooler.url).await);
    first.batch_execute("BEGIN; PREPARE s0 AS SELECT 'of another'::text").await.unwrap();
    second.batch_execute("BEGIN; SELECT 1").await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    // The pooler takes next what it got back last: the connection without the statement.
    second.batch_execute("COMMIT").await.unwrap();
    let refused = run(&["check"], &[("DATABASE_URL", &pooler.url)]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("PgBouncer 1.21 or later"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_session_mode_works() {
    let Some(url) = real_database("a pooler").await else { return };
    let Some(pooler) = Pooler::start(&url, "session").await else { return };
    let service = Service::on(&pooler.url, &[]).await;
    let (ours, theirs) = (Tenant::on(service.channel().await), Tenant::on(service.channel().await));
    ours.organization("o", "").await;
    ours.account(account("a", "o")).await;
    let sql = sql(&url).await;
    for _ in 0..3 {
        // The pooler's own connections are replaced underneath.
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sql.query_one(terminate, &[]).await.unwrap();
        let get = async || {
            ours.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await.ok()
        };
        crate::support::eventually(Duration::from_secs(5), "calls work again", get).await;
        let get = theirs.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await;
        assert!(["ACCOUNT_NOT_FOUND", "DATABASE_UNAVAILABLE"].contains(&&*refusal(get)));
    }
}

/// As a pooler does that has got past the look at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_statement_that_is_lost_later_is_reported_and_costs_one_call() {
    let Some(url) = real_database("the sessions of a superuser's login").await else { return };
    let (tenant, db) = with_pool(&url, 1).await;
    tenant.organization("o", "").await;
    tenant.account(account("a", "o")).await;
    let get =
        async || tenant.accounts().get_account(GetAccountRequest { account_id: "a".into() }).await;
    get().await.unwrap();
    leave_session(&db, &tenant, "DEALLOCATE ALL").await;
    assert_eq!(refusal(get().await), "DATABASE_UNAVAILABLE");
    get().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_are_those_of_the_options() {
    let Some(url) = real_database("timeouts").await else { return };
    let (tenant, db) = with_pool(&url, 1).await;
    let meta =
        Meta::of(&mut Violations::default(), &tenant.caller(), &CreateAccountRequest::default());
    let caller = tenant.caller();
    let asked = db.write(&caller, &meta, async |tx| {
        let check = "DO $$ BEGIN ASSERT current_setting('lock_timeout') = '2s' AND current_setting('random_page_cost') = '1.1' \
                     AND current_setting('idle_in_transaction_session_timeout') = '5s' AND current_user = 'customer_accounts_app'; END $$";
        (&mut tx.conn()).batch_execute(check).await?;
        Ok(DeleteAccountResponse {})
    });
    asked.await.unwrap();
    let left = "DO $$ BEGIN ASSERT current_user = session_user AND current_setting('lock_timeout') = '0' \
                AND current_setting('random_page_cost') = '4'; END $$";
    leave_session(&db, &tenant, left).await;
    let wrong =
        command(&["--lock-timeout", "0s"], &[("DATABASE_URL", &url)]).output().await.unwrap();
    assert!(!wrong.status.success());
}
