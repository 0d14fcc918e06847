//! Statements that are sent together reach PostgreSQL in their order, whether a connection has
//! prepared them or not.

use std::sync::atomic::{AtomicBool, Ordering};

use customer_accounts::{
    caller::Caller,
    db::{Db, Tx},
    error::{Error, Result},
};
use diesel::{
    dsl::sql,
    select,
    sql_types::{Integer, Text},
};

use diesel_async::SimpleAsyncConnection as _;

use crate::support::{Tenant, shared, unique, with_pool};

/// How the first of two statements is run.
#[derive(Debug, Clone, Copy)]
enum First {
    Prepared,
    New,
    /// By Diesel, which may prepare it anew each time.
    Unknown,
    /// While the connection may still prepare the statement of the gate.
    BehindTheGate,
}

/// The name of the session, by a statement whose text is different for each `mark`.
async fn name(tx: &Tx, mark: &str) -> Result<String> {
    let name = sql::<Text>(&format!("current_setting('application_name') /* {mark} */"));
    Ok(tx.send_returning(select(name)).await?)
}

/// Runs a statement together with one that renames the session, and returns the new name and the
/// one that the first statement has seen. The second is never prepared, as COMMIT is not.
async fn both(tx: &Tx, first: First) -> Result<(String, String)> {
    if !matches!(first, First::BehindTheGate) {
        tx.tenant().await?;
        name(tx, "prepared").await?;
    }
    let mark = if matches!(first, First::New) { unique() } else { "prepared".to_owned() };
    let one = async {
        match first {
            First::Unknown => {
                use diesel_async::RunQueryDsl;
                let name = sql::<Text>("current_setting('application_name')");
                Ok(RunQueryDsl::get_result(select(name), &mut tx.conn()).await?)
            }
            _ => name(tx, &mark).await,
        }
    };
    let new = unique();
    let two = async {
        let rename = format!("SET LOCAL application_name = '{new}'");
        Ok((&mut tx.conn()).batch_execute(&rename).await?)
    };
    let (seen, ()) = tx.together(one, two).await?;
    Ok((new, seen))
}

async fn assert_in_order(db: &Db, caller: &Caller, first: First) {
    let work = db.read(caller, async |tx| both(tx, first).await);
    let (new, seen) = shared().on_its_runtime(work).await.unwrap();
    assert_ne!(seen, new, "{first:?}: the second statement overtook the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_together_is_executed_in_its_order() {
    let caller = Tenant::new().await.caller();
    for first in [First::Prepared, First::New, First::Unknown] {
        for _ in 0..20 {
            assert_in_order(&shared().db, &caller, first).await;
        }
    }
    // On a new connection, which has not prepared the statement of the gate.
    for _ in 0..5 {
        let Some(url) = &shared().url else { break };
        let (_, db) = with_pool(url, 1).await;
        assert_in_order(&db, &caller, First::BehindTheGate).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_the_first_is_the_error_of_both() {
    let caller = Tenant::new().await.caller();
    let failing = async |tx: &Tx| {
        name(tx, "prepared").await?;
        // The second is not begun if the first fails before it sends anything.
        let refused = async { Err::<(), _>(Error::Overloaded) };
        let begun = AtomicBool::new(false);
        let second = async {
            begun.store(true, Ordering::Relaxed);
            Ok(())
        };
        assert!(matches!(tx.together(refused, second).await, Err(Error::Overloaded)));
        assert!(!begun.load(Ordering::Relaxed));
        let divided = async {
            let divided = select(sql::<Integer>("1 / (clock_timestamp() < now())::int"));
            Ok(tx.send_returning::<_, i32>(divided).await?)
        };
        tx.together(divided, name(tx, "prepared")).await
    };
    let error = shared().on_its_runtime(shared().db.read(&caller, failing)).await.unwrap_err();
    assert!(!matches!(error, Error::Retry), "says that the transaction has failed, not why");
    assert!(format!("{error:?}").contains("division by zero"), "{error:?}");
}
