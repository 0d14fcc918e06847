//! What is broken off and gone on with ends as if it had not been: nothing is lost, nothing is
//! there twice.

use std::{
    borrow::Cow,
    process::{Output, Stdio},
    time::Duration,
};

use customer_accounts::proto::ListAccountsRequest;
use tokio::{io::AsyncReadExt as _, process::Child};

use super::{Scene, many, records};
use crate::support::{
    Tenant, eventually,
    process::{Service, plain_command},
    real_database, sql, waiting_for_locks,
};

const ROWS: usize = 6000;
const DEADLINE: Duration = Duration::from_mins(1);

/// The accounts of the tenant: their ids and etags.
async fn exported(scene: &Scene) -> Vec<Vec<String>> {
    let finished = scene
        .run(&["export", "--format", "csv", "--columns", "account_id,display_name,etag"])
        .await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    records(&finished.stdout)
}

/// Each row is an account that was created once and never changed.
#[track_caller]
fn assert_once(accounts: &[Vec<String>], rows: usize) {
    assert_eq!(accounts.len(), rows);
    for (i, account) in accounts.iter().enumerate() {
        assert_eq!(account[0], format!("n-{i:05}"));
        assert!(account[2].ends_with("-1"), "{account:?} was changed");
    }
}

/// The command `import` with these arguments, which runs.
pub fn spawn(scene: &Scene, arguments: &[&str]) -> Child {
    let target = scene.target();
    let target: Vec<_> = target.iter().map(String::as_str).collect();
    plain_command(&[&["import"], arguments, &target].concat(), &[])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until some accounts, and not all, are there.
async fn under_way(tenant: &Tenant) {
    eventually(DEADLINE, "some accounts", async || {
        let request =
            ListAccountsRequest { include_total_size: true, page_size: 1, ..Default::default() };
        let listed = tenant.accounts().list_accounts(request).await.ok()?.into_inner();
        (listed.total_size > 0).then_some(())
    })
    .await;
}

/// The exit code of a command, and what it has said.
pub async fn ended(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn a_killed_import_is_gone_on_with() {
    let scene = Scene::new().await;
    let file = scene.write("many.csv", many(ROWS));
    let arguments = [&*file, "--batch-size", "50", "--run-id", "r"];
    for kills in 0..2 {
        let mut child = spawn(&scene, &arguments);
        if kills == 0 {
            under_way(&scene.tenant).await;
            child.kill().await.unwrap();
        } else {
            let mut said = [0; 6];
            child.stderr.as_mut().unwrap().read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"run r\n", "it has begun");
            let pid = child.id().unwrap().to_string();
            std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
            let (code, said) = ended(child).await;
            if code != Some(0) {
                assert_eq!(code, Some(130), "{said}");
                assert!(said.contains("it did not get to the end; "), "{said}");
            }
        }
    }
    // The same run: what was created is answered again, and is no update.
    let finished = scene.run(&[&["import"], &arguments[..], &["--json"]].concat()).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(
        [&summary["rows"], &summary["created"]],
        [ROWS, ROWS].map(|it| it as u64),
        "{summary}"
    );
    assert_once(&exported(&scene).await, ROWS);
    // Another run changes nothing.
    let again = scene.kept("many.csv", &many(ROWS), &[]).await;
    assert_eq!(again, [0, 0, ROWS as u64]);
    // Another file under the same id of a run is refused, not taken for the first.
    let other = scene.write("other.csv", many(ROWS).replace("Account 0", "Other"));
    let refused = scene.run(&["import", &other, "--batch-size", "50", "--run-id", "r"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("REQUEST_ID_REUSED"), "{refused:?}");
    let advice = refused.stderr.split_once("it did not get to the end; ").unwrap().1;
    assert_eq!(advice, "run it again\n", "with --run-id it would be refused again: {refused:?}");
}

#[tokio::test]
async fn an_import_survives_the_end_of_its_service() {
    let scene = Scene::new().await;
    let file = scene.write("many.csv", many(ROWS));
    let Scene { folder, service, tenant } = scene;
    let address = service.address.to_string();
    let child = {
        let server = format!("http://{address}");
        let id = tenant.caller().tenant.as_str().to_owned();
        plain_command(
            &["import", &file, "--batch-size", "50", "--server", &server, "--tenant", &id],
            &[],
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
    };
    under_way(&tenant).await;
    let service = service.killed_and_started_again().await;
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("trying again"), "{said}");
    let scene = Scene { folder, service, tenant };
    assert_once(&exported(&scene).await, ROWS);
    assert!(said.contains("6,000 created, 0 updated, 0 unchanged, 0 refused"), "{said}");
}

#[tokio::test]
async fn an_import_survives_the_loss_of_database_connections() {
    let Some(url) = real_database("terminates connections").await else { return };
    let scene = Scene::on(Service::on(&url, &[]).await).await;
    let file = scene.write("many.csv", many(ROWS));
    let child = spawn(&scene, &[&file, "--batch-size", "50"]);
    under_way(&scene.tenant).await;
    let sql = sql(&url).await;
    for _ in 0..5 {
        sql.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid(); SELECT pg_sleep(0.1)",
        )
        .await
        .unwrap();
    }
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(0), "{said}");
    assert_once(&exported(&scene).await, ROWS);
    assert!(said.contains("6,000 created, 0 updated, 0 unchanged, 0 refused"), "{said}");
}

#[tokio::test]
async fn two_imports_of_a_file_at_once_create_each_account_once() {
    let scene = Scene::new().await;
    let file = scene.write("many.csv", many(2000));
    let rejects = scene.path("other.rejects.csv");
    let both = [
        spawn(&scene, &[&file, "--batch-size", "100"]),
        spawn(&scene, &[&file, "--rejects", rejects.to_str().unwrap()]),
    ];
    for child in both {
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(0), "{said}");
    }
    assert_once(&exported(&scene).await, 2000);
}

#[tokio::test]
async fn a_service_that_does_not_come_back_ends_an_import_with_its_place() {
    let scene = Scene::new().await;
    let file = scene.write("many.csv", many(ROWS));
    let child = spawn(&scene, &[&file, "--batch-size", "50", "--retry-for", "1s"]);
    under_way(&scene.tenant).await;
    let Scene { service, folder: _folder, tenant: _ } = scene;
    service.kill().await;
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it did not get to the end; ") && said.contains("--run-id "), "{said}");
}

#[tokio::test]
async fn of_thousands_of_rows_each_is_where_it_was() {
    // One row in a hundred is refused: it has no organization that exists.
    let scene = Scene::new().await;
    let rows = 2000;
    let all = many(rows);
    let lines = all.lines().enumerate().map(|(i, line)| match i {
        i if i > 0 && i % 100 == 0 => Cow::from(line.replace(",o,", ",nowhere,")),
        _ => line.into(),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let (summary, finished) = scene.import("a.csv", &text, &[]).await;
    assert_eq!(finished.code, Some(3));
    assert_eq!([&summary["created"], &summary["refused"]], [1980, 20], "{finished:?}");
    assert_eq!(records(&scene.read("a.rejects.csv")).len(), 20, "as many as the summary says");
    let exported = exported(&scene).await;
    assert_eq!(exported.len(), 1980, "as many as there are");
    for account in exported {
        let number: usize = account[0].trim_start_matches("n-").parse().unwrap();
        assert_eq!(account[1], format!("Account {number}"));
    }
    // In batches of which nothing is kept if a row is refused, nothing is left of any.
    let (summary, _) = scene
        .import("b.csv", &text.replace("n-", "m-"), &["--all-or-nothing", "--batch-size", "100"])
        .await;
    assert_eq!([&summary["created"], &summary["refused"]], [0, 2000]);
    assert_eq!(summary["refused_by_reason"]["BATCH_REFUSED"], 1980);
}

#[tokio::test]
async fn a_person_can_interrupt_a_command_whose_service_hangs() {
    let scene = Scene::new().await;
    let file = scene.write("a.csv", many(1));
    // It accepts connections, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["http", "https"] {
        let server = format!("{scheme}://{}", silent.local_addr().unwrap());
        for arguments in [["import", &file], ["export", "-"]] {
            let child = plain_command(&[&arguments[..], &["--server", &server]].concat(), &[])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let (mut connection, _) = silent.accept().await.unwrap();
            // It has sent something, and waits.
            connection.read_exact(&mut [0; 5]).await.unwrap();
            let pid = child.id().unwrap().to_string();
            std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
            let (code, said) = ended(child).await;
            assert_eq!(code, Some(130), "{scheme} {arguments:?}: {said}");
        }
    }
}

/// An import of one batch, which waits for a lock that `sql` holds.
async fn waiting(scene: &Scene, sql: &tokio_postgres::Client) -> Child {
    let lock = "BEGIN; SELECT FROM organizations WHERE organization_id = 'o' FOR UPDATE";
    sql.batch_execute(lock).await.unwrap();
    let file = scene.write("a.csv", many(3));
    let child = spawn(scene, &[&file, "--json"]);
    waiting_for_locks(sql, 1).await;
    child
}

#[tokio::test]
async fn an_import_is_gone_on_with_when_its_service_ends_during_the_first_batch() {
    let Some(url) = real_database("locks a row").await else { return };
    let scene = Scene::on(Service::on(&url, &[]).await).await;
    let sql = sql(&url).await;
    let child = waiting(&scene, &sql).await;
    let Scene { folder, service, tenant } = scene;
    let service = service.killed_and_started_again().await;
    sql.batch_execute("COMMIT").await.unwrap();
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("3 created"), "{said}");
    assert_once(&exported(&Scene { folder, service, tenant }).await, 3);
}

#[tokio::test]
async fn an_interrupted_import_whose_batch_is_lost_did_not_get_to_the_end() {
    let Some(url) = real_database("locks a row").await else { return };
    let scene = Scene::on(Service::on(&url, &[]).await).await;
    let sql = sql(&url).await;
    let mut child = waiting(&scene, &sql).await;
    let pid = child.id().unwrap().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let mut said = String::new();
    while !said.contains("interrupted: waiting for the batch") {
        let mut more = [0; 256];
        let read = child.stderr.as_mut().unwrap().read(&mut more).await.unwrap();
        assert_ne!(read, 0, "{said}");
        said.push_str(std::str::from_utf8(&more[..read]).unwrap());
    }
    let Scene { service, folder: _folder, tenant: _ } = scene;
    service.kill().await;
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{summary}");
    assert_eq!([&summary["rows"], &summary["next_row"]], [0, 1], "{summary}");
    assert_eq!(summary["error"], "interrupted");
}

#[tokio::test]
async fn a_person_can_interrupt_an_import_that_waits_for_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.csv");
    std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    let child = plain_command(&["import", pipe.to_str().unwrap(), "--json"], &[])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // This waits until the command has opened it. Nothing is written.
    let writer = tokio::task::spawn_blocking(move || {
        std::fs::OpenOptions::new().write(true).open(&pipe).unwrap()
    });
    let _writer = tokio::time::timeout(DEADLINE, writer).await.unwrap().unwrap();
    let pid = child.id().unwrap().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["error"], "interrupted");
}
