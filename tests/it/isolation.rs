//! Calls that are given up at any moment, on a pool of one: the next borrower of the connection
//! never sees another tenant's rows, and no write is half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use customer_accounts::{
    account_types,
    caller::Caller,
    db::{Db, Manager, migrate},
    proto::{
        CreateAccountRequest, GetAccountRequest, ListAccountTypesRequest, ListAccountsRequest,
        UpdateAccountRequest, account_service_server::AccountService as _,
        account_type_service_server::AccountTypeService as _,
    },
    schema, server,
};
use diesel::{
    dsl::{max, min, sql},
    prelude::*,
    sql_types::Text,
};
use diesel_async::RunQueryDsl;
use tokio::{
    net::TcpListener,
    task::yield_now,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status};

use crate::support::{
    Tenant, account,
    calls::accounts_service,
    config, connect,
    dice::{Dice, seed, times},
    fresh_database, real_server, shared,
};

const TENANTS: usize = 4;
/// Callers at once: while one call is given up, others already wait for its connection.
const CALLERS: u64 = 8;

/// What the tenants' writes were answered, by tenant: account and number of the comment it was
/// given.
type Acknowledged = Arc<Mutex<Vec<BTreeMap<String, u64>>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_inside_the_service_leave_nothing_to_the_next_borrower() {
    let db = pool_of_one().await;
    // The embedded server answers more slowly, and all tests share it.
    let to_give_up = times(if real_server().is_some() { 2_500 } else { 500 });
    let (accounts, types) = (accounts_service(&db), account_types::Service { db: db.clone() });
    let services = Arc::new((accounts, types));
    let tenants = tenants(connect(shared_or_own(&db).await).await).await;
    let make = move |tenant: &Tenant, call: Call| {
        let (services, caller) = (Arc::clone(&services), tenant.caller());
        async move {
            let (accounts, types) = &*services;
            match call {
                Call::Create(request) => {
                    accounts.create_account(by(caller, request)).await.map(drop)
                }
                Call::Update(request) => {
                    accounts.update_account(by(caller, request)).await.map(drop)
                }
                Call::Get(request) => accounts.get_account(by(caller, request)).await.map(drop),
                Call::List(request) => accounts.list_accounts(by(caller, request)).await.map(drop),
                Call::Types(request) => {
                    types.list_account_types(by(caller, request)).await.map(drop)
                }
            }
        }
    };
    let dice = Dice::seeded(seed());
    shared().runtime.spawn(storm(db, tenants, to_give_up, dice, make)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_by_their_client_leave_nothing_to_the_next_borrower() {
    let db = pool_of_one().await;
    let to_give_up = times(if real_server().is_some() { 1_250 } else { 250 });
    let tenants = tenants(connect(shared_or_own(&db).await).await).await;
    let make = |tenant: &Tenant, call: Call| {
        let (mut accounts, mut types) = (tenant.accounts(), tenant.account_types());
        async move {
            match call {
                Call::Create(request) => accounts.create_account(request).await.map(drop),
                Call::Update(request) => accounts.update_account(request).await.map(drop),
                Call::Get(request) => accounts.get_account(request).await.map(drop),
                Call::List(request) => accounts.list_accounts(request).await.map(drop),
                Call::Types(request) => types.list_account_types(request).await.map(drop),
            }
        }
    };
    let dice = Dice::seeded(seed());
    shared().runtime.spawn(storm(db, tenants, to_give_up, dice, make)).await.unwrap();
}

enum Call {
    Create(CreateAccountRequest),
    Update(UpdateAccountRequest),
    Get(GetAccountRequest),
    List(ListAccountsRequest),
    Types(ListAccountTypesRequest),
}

/// One connection: the embedded server's, or the only one of a pool on a database of its own, and
/// one for hot reads.
async fn pool_of_one() -> Db {
    let Some(server) = real_server() else { return shared().db.clone() };
    let login: tokio_postgres::Config = fresh_database(&server).await.parse().unwrap();
    migrate::run(&Manager::new(login.clone(), None), migrate::Direction::Up).await.unwrap();
    Db::new(
        Manager::new(login, Some("customer_accounts_app".into())),
        1,
        Duration::from_secs(20),
        None,
    )
    .with_lanes(1, None)
}

/// Where that database is served.
async fn shared_or_own(db: &Db) -> std::net::SocketAddr {
    if real_server().is_none() {
        return shared().address;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, db) = (listener.local_addr().unwrap(), db.clone());
    tokio::spawn(async move { server::serve(listener, db, &config(&[]), pending()).await });
    address
}

/// Tenants whose accounts' ids begin with the tenant's number, and the first account of each.
async fn tenants(channel: tonic::transport::Channel) -> Vec<Tenant> {
    let tenants: Vec<_> = (0..TENANTS).map(|_| Tenant::on(channel.clone())).collect();
    for (number, tenant) in tenants.iter().enumerate() {
        tenant.organization("o", "").await;
        tenant.account(account(&format!("{number}-first"), "o")).await;
    }
    tenants
}

fn by<T>(caller: Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(caller);
    request
}

/// Makes calls until so many were given up, and looks after each few of them what the next borrower
/// sees.
async fn storm<F>(
    db: Db,
    tenants: Vec<Tenant>,
    to_give_up: u64,
    mut dice: Dice,
    make: impl Fn(&Tenant, Call) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let acknowledged: Acknowledged = Arc::new(Mutex::new(vec![BTreeMap::new(); TENANTS]));
    let callers = (0..CALLERS).map(|caller| {
        let (db, tenants, make, acknowledged) =
            (db.clone(), tenants.clone(), make.clone(), Arc::clone(&acknowledged));
        let mut dice = dice.split();
        tokio::spawn(async move {
            let (mut given_up, mut turn) = (0, 0);
            while given_up < to_give_up / CALLERS {
                let number = dice.index(TENANTS);
                let (call, written) = call(number, &format!("{caller}-{turn}"), turn, &mut dice);
                match cut_short(make(&tenants[number], call), &mut dice).await {
                    None => given_up += 1,
                    Some(Ok(())) => {
                        if let Some(id) = written {
                            acknowledged.lock().unwrap()[number].insert(id, turn);
                        }
                    }
                    // An update of an account whose creation was given up.
                    Some(Err(status)) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
                }
                if turn % 4 == 0 {
                    let other = dice.index(TENANTS);
                    sees_only_its_own(&db, &tenants[other], other).await;
                }
                if turn % 128 == 0 {
                    let known = acknowledged.lock().unwrap()[number].keys().cloned().collect();
                    sees_what_was_acknowledged(&db, &tenants[number], known).await;
                }
                turn += 1;
            }
            turn
        })
    });
    let mut calls = 0;
    for caller in callers.collect::<Vec<_>>() {
        calls += caller.await.unwrap();
    }
    println!("{to_give_up} of {calls} calls were given up");
    assert!(
        calls > to_give_up * 10 / 9,
        "{to_give_up} of {calls} calls were given up: too many to prove anything"
    );
    for (number, tenant) in tenants.iter().enumerate() {
        let known = std::mem::take(&mut acknowledged.lock().unwrap()[number]);
        sees_only_its_own(&db, tenant, number).await;
        sees_what_was_acknowledged(&db, tenant, known.into_keys().collect()).await;
        every_write_is_whole(&db, tenant).await;
    }
}

/// A call, and the account that it writes.
fn call(tenant: usize, name: &str, turn: u64, dice: &mut Dice) -> (Call, Option<String>) {
    let new = format!("{tenant}-{name}");
    let (caller, _) = name.split_once('-').unwrap();
    let old = if turn < 4 {
        format!("{tenant}-first")
    } else {
        format!("{tenant}-{caller}-{}", turn - 1 - dice.roll(3))
    };
    match dice.roll(10) {
        0..=3 => (
            Call::Create(CreateAccountRequest {
                account: Some(account(&new, "o")),
                ..Default::default()
            }),
            Some(new),
        ),
        4..=5 => {
            let mut account = account(&old, "o");
            account.comment = name.into();
            (
                Call::Update(UpdateAccountRequest { account: Some(account), ..Default::default() }),
                Some(old),
            )
        }
        6..=7 => (Call::Get(GetAccountRequest { account_id: old }), None),
        8 => (
            Call::List(ListAccountsRequest { query: "account".into(), ..Default::default() }),
            None,
        ),
        _ => (Call::Types(ListAccountTypesRequest::default()), None),
    }
}

/// Runs a call up to a random point: after so many polls, after some time, or in a task that is
/// aborted.
async fn cut_short<F>(call: F, dice: &mut Dice) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    match dice.roll(4) {
        0 => Some(call.await),
        1 => {
            let mut left = dice.roll(12);
            let mut call = pin!(call);
            poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        }
        2 => timeout(Duration::from_micros(dice.roll(6_000)), call).await.ok(),
        _ => {
            let task = tokio::spawn(call);
            for _ in 0..dice.roll(30) {
                yield_now().await;
            }
            if dice.roll(2) == 0 {
                sleep(Duration::from_micros(dice.roll(3_000))).await;
            }
            task.abort();
            task.await.ok()
        }
    }
}

/// The next borrower, for a tenant: without any filter it sees this tenant's accounts and no
/// others, and the setting that row-level security goes by is its own.
async fn sees_only_its_own(db: &Db, tenant: &Tenant, number: usize) {
    let (setting, rows) = db
        .read(&tenant.caller(), async |tx| {
            use schema::accounts::{account_id, table, tenant_id};
            let setting = diesel::select(sql::<Text>("current_setting('app.tenant_id')"))
                .get_result::<String>(&mut tx.conn());
            let setting = setting.await?;
            let rows =
                table.group_by(tenant_id).select((tenant_id, min(account_id), max(account_id)));
            Ok((
                setting,
                rows.load::<(String, Option<String>, Option<String>)>(&mut tx.conn()).await?,
            ))
        })
        .await
        .unwrap();
    assert_eq!(setting, tenant.caller.tenant);
    let [(owner, Some(first), Some(last))] = &rows[..] else { panic!("{number} sees {rows:?}") };
    assert_eq!(*owner, tenant.caller.tenant);
    let own = format!("{number}-");
    assert!(
        first.starts_with(&own) && last.starts_with(&own),
        "{number} sees accounts from {first} to {last}"
    );
}

async fn sees_what_was_acknowledged(db: &Db, tenant: &Tenant, acknowledged: BTreeSet<String>) {
    let ids = schema::accounts::table.select(schema::accounts::account_id);
    let seen = db
        .read(&tenant.caller(), async |tx| Ok(ids.load::<String>(&mut tx.conn()).await?))
        .await
        .unwrap();
    let seen: BTreeSet<_> = seen.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
}

/// Each account has its words, one creation in the trail and as many updates as it counts; the
/// trail has nothing else.
async fn every_write_is_whole(db: &Db, tenant: &Tenant) {
    let (accounts, words, trail) = db
        .read(&tenant.caller(), async |tx| {
            use schema::{account_words, accounts, activities};
            let accounts = accounts::table
                .filter(tx.owns(accounts::tenant_id))
                .select((accounts::account_id, accounts::revision));
            let accounts = accounts.load::<(String, i64)>(&mut tx.conn()).await?;
            let words = account_words::table
                .filter(tx.owns(account_words::tenant_id))
                .select(account_words::account_id)
                .distinct()
                .load::<String>(&mut tx.conn())
                .await?;
            let trail = activities::table
                .filter(tx.owns(activities::tenant_id))
                .filter(activities::resource_type.eq("account"))
                .select((activities::resource_id, activities::action))
                .load::<(String, String)>(&mut tx.conn())
                .await?;
            Ok((accounts, words, trail))
        })
        .await
        .unwrap();
    let mut recorded: BTreeMap<_, (i64, i64)> = BTreeMap::new();
    for (id, action) in trail {
        let (created, updated) = recorded.entry(id).or_default();
        *(if action == "account.created" { created } else { updated }) += 1;
    }
    let expected: BTreeMap<_, _> =
        accounts.iter().map(|(id, revision)| (id.clone(), (1, revision - 1))).collect();
    assert_eq!(recorded, expected);
    assert_eq!(
        words.into_iter().collect::<BTreeSet<_>>(),
        expected.into_keys().collect::<BTreeSet<_>>()
    );
}
