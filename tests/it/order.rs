//! Statements that are sent together reach PostgreSQL in their order, whether a connection has
//! prepared them or not.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use customer_accounts::{
    db::Tx,
    error::{Error, Result},
};
use diesel::{
    dsl::sql,
    select,
    sql_types::{Integer, Timestamptz},
};

use crate::support::{Tenant, shared, unique};

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

/// The time at which PostgreSQL executes a statement, whose text is different for each name.
async fn executed(tx: &Tx, name: &str) -> Result<DateTime<Utc>> {
    let now = sql::<Timestamptz>(&format!("clock_timestamp() /* {name} */"));
    Ok(tx.send_returning(select(now)).await?)
}

/// Makes two statements run together, and returns when PostgreSQL has executed them.
async fn both(tx: &Tx, first: First) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    if !matches!(first, First::BehindTheGate) {
        tx.tenant().await?;
    }
    executed(tx, "prepared").await?;
    let name = if matches!(first, First::New) { unique() } else { "prepared".to_owned() };
    let one = async {
        match first {
            First::Unknown => {
                use diesel_async::RunQueryDsl;
                let now = sql::<Timestamptz>("clock_timestamp()");
                Ok(RunQueryDsl::get_result(select(now), &mut tx.conn()).await?)
            }
            _ => executed(tx, &name).await,
        }
    };
    tx.together(one, executed(tx, "prepared")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_together_is_executed_in_its_order() {
    let caller = Tenant::new().await.caller();
    for first in [First::Prepared, First::New, First::Unknown, First::BehindTheGate] {
        for _ in 0..20 {
            let done = shared().db.read(&caller, async |tx| both(tx, first).await).await;
            let (one, two) = done.unwrap();
            assert!(one < two, "{first:?}: the second overtook the first, {one} and {two}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_the_first_is_the_error_of_both() {
    let caller = Tenant::new().await.caller();
    let failing = async |tx: &Tx| {
        executed(tx, "prepared").await?;
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
        tx.together(divided, executed(tx, "prepared")).await
    };
    let error = shared().db.read(&caller, failing).await.unwrap_err();
    assert!(!matches!(error, Error::Retry), "says that the transaction has failed, not why");
    assert!(format!("{error:?}").contains("division by zero"), "{error:?}");
}
