//! Concurrent calls that exclude each other: one succeeds, no change is made by half, and the
//! others are told the reason.

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use customer_accounts::{
    accounts::store,
    db::Meta,
    error::Error,
    proto::{
        Account, AccountType, CreateAccountTypeRequest, DeactivateAccountTypeRequest,
        DeleteAccountRequest, DeleteAccountResponse, ListAccountTypesRequest, ListAccountsRequest,
        UpdateAccountRequest, UpdateAccountTypeRequest,
    },
    validate::Violations,
};
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use prost_types::FieldMask;
use tokio::{
    sync::Barrier,
    time::{Instant, timeout},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    ALONE, Tenant, account, apart, calls::only, has_real_server, process::Service, real_database,
    refusal, sql, waiting_for_locks,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_racing_for_the_primary_account_leave_exactly_one() {
    let Some(tenant) = tenant().await else { return };
    for round in 0..25 {
        let organization = format!("o{round}");
        tenant.organization(&organization, "").await;
        let ids = ["a", "b"].map(|name| format!("{name}{round}"));
        for id in &ids {
            tenant.account(account(id, &organization)).await;
        }
        let answers =
            join_all(ids.iter().map(|id| make_primary(&tenant, id, "is_primary", &organization)))
                .await;
        all_succeed_or_lose(&answers);
        assert_eq!(primaries(&tenant, &organization).await.len(), 1, "round {round}");
    }
}

/// Accounts that change places as primary accounts are locked in one order: no two wait for each
/// other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_move_as_primary_accounts_do_not_wait_for_each_other() {
    let Some(url) = real_database(ALONE).await else { return };
    let service = Service::on(&url, &["--tenant-share", "100"]).await;
    let tenant = Tenant::on(service.channel().await);
    for organization in ["o", "q"] {
        tenant.organization(organization, "").await;
    }
    for n in 0..6 {
        tenant.account(account(&format!("a{n}"), "o")).await;
    }
    let answers = join_all((0..6_usize).map(|worker| {
        let tenant = tenant.clone();
        async move {
            let mut answers = Vec::new();
            for round in 0..25_usize {
                let organization_id = ["o", "q"][(worker + round / 2) % 2].to_owned();
                let id = format!("a{}", (worker + round * 5) % 6);
                let wanted = Account { organization_id, is_primary: true, ..only(&id) };
                answers.push(tenant.update(wanted, &["organization_id", "is_primary"]).await);
            }
            answers
        }
    }))
    .await
    .concat();
    let lost = answers.iter().filter(|answer| answer.is_err()).count();
    all_succeed_or_lose(&answers.into_iter().map(|answer| answer.map(drop)).collect::<Vec<_>>());
    assert!(lost <= 15, "{lost} of 150 lost every race");
    // A session tells its deadlocks when it ends.
    service.terminate();
    service.ended().await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(sql(&url).await.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_racing_for_the_primary_account_leave_exactly_one() {
    let Some(tenant) = tenant().await else { return };
    for round in 0..5 {
        let (here, elsewhere) = (format!("here{round}"), format!("elsewhere{round}"));
        tenant.organization(&here, "").await;
        tenant.organization(&elsewhere, "").await;
        let old: Vec<_> = (0..10).map(|n| format!("old{round}-{n}")).collect();
        for (n, id) in old.iter().enumerate() {
            let organization = if n < 7 { &here } else { &elsewhere };
            tenant
                .account(Account { is_primary: n == 0 || n == 7, ..account(id, organization) })
                .await;
        }
        let updates = old.iter().map(|id| async {
            if old[7..].contains(id) {
                make_primary(&tenant, id, "organization_id,is_primary", &here).await
            } else {
                make_primary(&tenant, id, "is_primary", &here).await
            }
        });
        let creations = (0..10).map(|n| {
            let new = Account { is_primary: true, ..account(&format!("new{round}-{n}"), &here) };
            tenant.try_account(new)
        });
        let (of_updates, of_creations) = tokio::join!(join_all(updates), join_all(creations));
        all_succeed_or_lose(&of_updates);
        all_succeed_or_lose(&of_creations);
        assert_eq!(primaries(&tenant, &here).await.len(), 1, "round {round}");
        assert!(primaries(&tenant, &elsewhere).await.len() <= 1, "round {round}");
    }
}

/// Each holds its own account and waits for the other's: a deadlock, which one of them survives by
/// trying again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_primary_accounts_change_places() {
    let Some(tenant) = tenant().await else { return };
    tenant.organization("x", "").await;
    tenant.organization("y", "").await;
    tenant.account(Account { is_primary: true, ..account("a", "x") }).await;
    tenant.account(Account { is_primary: true, ..account("b", "y") }).await;
    for (to_a, to_b) in [("y", "x"), ("x", "y"), ("y", "x")] {
        let mask = "organization_id,is_primary";
        let (a, b) = tokio::join!(
            make_primary(&tenant, "a", mask, to_a),
            make_primary(&tenant, "b", mask, to_b)
        );
        all_succeed_or_lose(&[a, b]);
        for organization in ["x", "y"] {
            assert!(primaries(&tenant, organization).await.len() <= 1);
        }
        // The account that moved last may have displaced the other: make both primary again.
        for (id, organization) in [("a", to_a), ("b", to_b)] {
            make_primary(&tenant, id, mask, organization).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_racing_for_the_default_account_type_leave_exactly_one() {
    let Some(tenant) = tenant().await else { return };
    for (round, clients) in [2, 2, 2, 2, 2, 20, 20, 20].into_iter().enumerate() {
        for n in 0..clients / 2 {
            let account_type = AccountType {
                account_type_id: format!("old{round}-{n}"),
                ..named(&format!("Old {round} {n}"))
            };
            create_type(&tenant, account_type).await.unwrap();
        }
        let updates =
            (0..clients / 2).map(|n| format!("old{round}-{n}")).map(|account_type_id| async {
                let account_type =
                    AccountType { account_type_id, is_default: true, ..Default::default() };
                let request = UpdateAccountTypeRequest {
                    account_type: Some(account_type),
                    update_mask: Some(FieldMask { paths: vec!["is_default".into()] }),
                    ..Default::default()
                };
                tenant.account_types().update_account_type(request).await
            });
        let creations = (0..clients - clients / 2).map(|n| {
            create_type(
                &tenant,
                AccountType { is_default: true, ..named(&format!("New {round} {n}")) },
            )
        });
        let (of_updates, of_creations) = tokio::join!(join_all(updates), join_all(creations));
        all_succeed_or_lose(&of_updates);
        all_succeed_or_lose(&of_creations);
        let request =
            ListAccountTypesRequest { page_size: 1000, show_inactive: true, ..Default::default() };
        let types = tenant
            .account_types()
            .list_account_types(request)
            .await
            .unwrap()
            .into_inner()
            .account_types;
        assert_eq!(
            types.iter().filter(|account_type| account_type.is_default).count(),
            1,
            "round {round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_updates_with_one_etag_exactly_one_wins() {
    let Some(tenant) = tenant().await else { return };
    tenant.organization("o", "").await;
    let created = tenant.account(account("a", "o")).await;
    let updates = (0..50).map(|n| {
        let account = Account {
            account_id: "a".into(),
            comment: format!("from {n}"),
            etag: created.etag.clone(),
            ..Default::default()
        };
        let mut accounts = tenant.accounts();
        async move {
            let request = UpdateAccountRequest { account: Some(account), ..Default::default() };
            accounts
                .update_account(request)
                .await
                .map(|response| response.into_inner().account.unwrap())
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) =
        join_all(updates).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        assert_eq!(refusal(answer), "ETAG_MISMATCH");
    }
    let now = &list(&tenant, "o").await[0];
    assert_eq!(*now, won.into_iter().next().unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_creations_with_one_id_exactly_one_wins() {
    let Some(tenant) = tenant().await else { return };
    tenant.organization("o", "").await;
    for round in 0..5 {
        let id = format!("a{round}");
        let answers = join_all((0..20).map(|_| tenant.try_account(account(&id, "o")))).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for answer in lost {
            assert_eq!(refusal(answer), "ACCOUNT_ALREADY_EXISTS");
        }
    }
    assert_eq!(list(&tenant, "o").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_tried_again() {
    let Some((tenant, _sql, db)) = apart().await else { return };
    tenant.organization("o", "").await;
    for id in ["a", "b"] {
        tenant.account(account(id, "o")).await;
    }
    let (attempts, both_hold_one) = (AtomicU32::new(0), Barrier::new(2));
    let hold = async |first: &str, second: &str| {
        let (caller, meta) = (
            tenant.caller(),
            Meta::of(
                &mut Violations::default(),
                &tenant.caller(),
                &DeleteAccountRequest::default(),
            ),
        );
        let (attempts, both_hold_one) = (&attempts, &both_hold_one);
        db.write(&caller, &meta, async move |tx| {
            store::Account::find_for_update(tx, first).await?;
            if attempts.fetch_add(1, Ordering::Relaxed) < 2 {
                both_hold_one.wait().await;
            }
            store::Account::find_for_update(tx, second).await?;
            Ok(DeleteAccountResponse {})
        })
        .await
    };
    let (ab, ba) = tokio::join!(hold("a", "b"), hold("b", "a"));
    ab.unwrap();
    ba.unwrap();
    assert_eq!(attempts.into_inner(), 3, "one of the two had to try again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loses_every_race_is_given_up_after_three_more_attempts() {
    let Some((tenant, _sql, db)) = apart().await else { return };
    let (attempts, meta) = (
        AtomicU32::new(0),
        Meta::of(&mut Violations::default(), &tenant.caller(), &DeleteAccountRequest::default()),
    );
    let answer = db
        .write(&tenant.caller(), &meta, async |tx| {
            attempts.fetch_add(1, Ordering::Relaxed);
            let serialization =
                "DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$";
            (&mut tx.conn()).batch_execute(serialization).await?;
            Ok(DeleteAccountResponse {})
        })
        .await;
    assert!(matches!(answer, Err(Error::Conflict)), "{answer:?}");
    assert_eq!(attempts.into_inner(), 4);
    let status = Status::from(Error::Conflict);
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_account_gets_a_type_after_its_deactivation() {
    let Some(tenant) = tenant().await else { return };
    tenant.organization("o", "").await;
    for round in 0..10 {
        let id = format!("t{round}");
        create_type(&tenant, AccountType { account_type_id: id.clone(), ..named(&id) })
            .await
            .unwrap();
        let started = Instant::now();
        let creations = (0..12).map(|n| {
            let (tenant, id) = (&tenant, &id);
            async move {
                // Some at once, some once the deactivation is under way or over.
                tokio::time::sleep(Duration::from_micros(700 * n)).await;
                let began = started.elapsed();
                let new =
                    Account { account_type_id: id.clone(), ..account(&format!("{id}-{n}"), "o") };
                (began, tenant.try_account(new).await)
            }
        });
        let deactivation = async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            deactivate(&tenant, &id).await.unwrap();
            started.elapsed()
        };
        let (created, deactivated) = tokio::join!(join_all(creations), deactivation);
        for (began, answer) in created {
            match answer {
                Ok(_) => assert!(
                    began < deactivated,
                    "round {round}: created {began:?}, deactivated {deactivated:?}"
                ),
                Err(_) => assert_eq!(refusal(answer), "ACCOUNT_TYPE_INACTIVE"),
            }
        }
    }
}

/// The two orders in which the race can go, each held in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_an_account_and_deactivating_its_type_wait_for_each_other() {
    let Some((tenant, mut other, _)) = apart().await else { return };
    tenant.organization("o", "").await;
    create_type(&tenant, AccountType { account_type_id: "t".into(), ..named("T") }).await.unwrap();
    let of_type =
        |id: &str| Account { account_type_id: "t".into(), is_primary: true, ..account(id, "o") };

    // The account has its type and waits for its organization: the deactivation has to wait for the
    // account.
    let held = other.transaction().await.unwrap();
    held.batch_execute("SELECT FROM organizations FOR UPDATE").await.unwrap();
    let creation = background(tenant.clone(), of_type("first"));
    waiting_for_locks(held.client(), 1).await;
    let mut deactivation = tokio::spawn({
        let tenant = tenant.clone();
        async move { deactivate(&tenant, "t").await }
    });
    waiting_for_locks(held.client(), 2).await;
    assert!(
        timeout(Duration::from_millis(50), &mut deactivation).await.is_err(),
        "the deactivation overtook the account"
    );
    held.commit().await.unwrap();
    creation.await.unwrap().unwrap();
    deactivation.await.unwrap().unwrap();
    let late = tenant.try_account(of_type("late")).await;
    assert_eq!(refusal(late), "ACCOUNT_TYPE_INACTIVE");

    // The type is being deactivated: the account has to wait, and then does not get it.
    create_type(
        &tenant,
        AccountType { account_type_id: "u".into(), is_default: true, ..named("U") },
    )
    .await
    .unwrap();
    let held = other.transaction().await.unwrap();
    held.batch_execute(
        "UPDATE account_types SET active = false, is_default = false WHERE account_type_id = 'u'",
    )
    .await
    .unwrap();
    let by_id = background(
        tenant.clone(),
        Account { account_type_id: "u".into(), ..account("by-id", "o") },
    );
    let by_default = background(tenant.clone(), account("by-default", "o"));
    waiting_for_locks(held.client(), 2).await;
    held.commit().await.unwrap();
    assert_eq!(refusal(by_id.await.unwrap()), "ACCOUNT_TYPE_INACTIVE");
    assert_eq!(by_default.await.unwrap().unwrap().account_type_id, "");
}

/// While the default goes from one type to another there always is one, so every new account gets
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_created_while_the_default_type_changes_gets_the_old_or_the_new_one() {
    let Some((tenant, mut other, _)) = apart().await else { return };
    tenant.organization("o", "").await;
    create_type(
        &tenant,
        AccountType { account_type_id: "old".into(), is_default: true, ..named("Old") },
    )
    .await
    .unwrap();
    create_type(&tenant, AccountType { account_type_id: "new".into(), ..named("New") })
        .await
        .unwrap();
    let held = other.transaction().await.unwrap();
    held.batch_execute("UPDATE account_types SET is_default = false WHERE account_type_id = 'old'")
        .await
        .unwrap();
    held.batch_execute("UPDATE account_types SET is_default = true WHERE account_type_id = 'new'")
        .await
        .unwrap();
    let creation = background(tenant.clone(), account("a", "o"));
    waiting_for_locks(held.client(), 1).await;
    held.commit().await.unwrap();
    assert_eq!(creation.await.unwrap().unwrap().account_type_id, "new");
}

/// A tenant of the shared service, if that has a real server.
async fn tenant() -> Option<Tenant> {
    if has_real_server(ALONE) { Some(Tenant::new().await) } else { None }
}

fn background(
    tenant: Tenant,
    account: Account,
) -> tokio::task::JoinHandle<Result<Account, Status>> {
    tokio::spawn(async move { tenant.try_account(account).await })
}

fn make_primary(
    tenant: &Tenant,
    id: &str,
    mask: &str,
    organization_id: &str,
) -> impl Future<Output = Result<Account, Status>> + use<> {
    let account = Account { is_primary: true, ..account(id, organization_id) };
    let request = UpdateAccountRequest {
        account: Some(account),
        update_mask: Some(FieldMask { paths: mask.split(',').map(Into::into).collect() }),
        ..Default::default()
    };
    let mut accounts = tenant.accounts();
    async move {
        accounts
            .update_account(request)
            .await
            .map(|response| response.into_inner().account.unwrap())
    }
}

fn named(display_name: &str) -> AccountType {
    AccountType { display_name: display_name.into(), ..Default::default() }
}

async fn create_type(tenant: &Tenant, account_type: AccountType) -> Result<(), Status> {
    let request =
        CreateAccountTypeRequest { account_type: Some(account_type), ..Default::default() };
    tenant.account_types().create_account_type(request).await.map(drop)
}

async fn deactivate(tenant: &Tenant, id: &str) -> Result<(), Status> {
    let request = DeactivateAccountTypeRequest { account_type_id: id.into(), ..Default::default() };
    tenant.account_types().deactivate_account_type(request).await.map(drop)
}

async fn list(tenant: &Tenant, organization_id: &str) -> Vec<Account> {
    let request = ListAccountsRequest {
        organization_id: organization_id.into(),
        page_size: 1000,
        ..Default::default()
    };
    tenant.accounts().list_accounts(request).await.unwrap().into_inner().accounts
}

async fn primaries(tenant: &Tenant, organization_id: &str) -> Vec<String> {
    let accounts = list(tenant, organization_id).await;
    accounts
        .into_iter()
        .filter(|account| account.is_primary)
        .map(|account| account.account_id)
        .collect()
}

#[track_caller]
fn all_succeed_or_lose<T: std::fmt::Debug>(answers: &[Result<T, Status>]) {
    for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refusal(status), "CONFLICT", "{status:?}");
    }
    assert!(answers.iter().any(Result::is_ok), "nobody won");
}
