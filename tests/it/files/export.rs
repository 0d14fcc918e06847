//! `export`: the same to the byte, complete or not there, and gone on with.

use std::{fs, io::Write as _, path::Path, process::Stdio, time::Duration};

use customer_accounts::proto::{
    AddAccountUserRequest, CreatePersonRequest, LinkOrganizationRequest, ListActivitiesRequest,
    Person, PersonKind, WatchActivitiesRequest,
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener, process::Command, time::timeout};

use super::{Scene, many, names, records};
use crate::support::{
    Tenant, account,
    calls::object,
    cluster::is_root,
    eventually,
    process::{Service, plain_command, run},
};

const DEADLINE: Duration = Duration::from_mins(1);

/// An account manager and a user.
async fn people(tenant: &Tenant) {
    for (id, kind) in [("staff", PersonKind::Staff), ("user", PersonKind::Customer)] {
        let person = Person {
            person_id: id.into(),
            display_name: format!("Person {id}"),
            email: format!("{id}@example.com"),
            kind: kind.into(),
            ..Default::default()
        };
        let request = CreatePersonRequest { person: Some(person), ..Default::default() };
        tenant.people().create_person(request).await.unwrap();
    }
}

/// Accounts in which every field of a file is set, and some whose texts are hard to write.
async fn filled(scene: &Scene) {
    let tenant = &scene.tenant;
    tenant.organization("p", "o").await;
    people(&scene.tenant).await;
    let mut full = account("full", "o");
    full.description = "=1+1".into();
    full.status_reason = "'quoted'".into();
    full.billing_details = "{\"iban\": \"x\"}\nnext, line; \"q\"\r\ttab".into();
    full.preferences =
        Some(object(json!({ "a": [1, 2.5, 1e300, null, true, "x"], "b": { "c": "ü" } })));
    full.comment = "-dash".into();
    full.tax_id = "@id".into();
    full.metadata =
        [("k".to_owned(), "+380".to_owned()), ("a/b.c".to_owned(), "v".to_owned())].into();
    full.account_manager_id = "staff".into();
    full.is_primary = true;
    let address = customer_accounts::proto::Address {
        line1: "1".into(),
        line2: "'".into(),
        city: "Köln".into(),
        state: "=".into(),
        postal_code: "00123".into(),
        country: "DE".into(),
    };
    full.billing_address = Some(address.clone());
    full.shipping_address = Some(address.clone());
    full.postal_address = Some(address.clone());
    full.official_address = Some(address);
    tenant.account(full).await;
    let user = AddAccountUserRequest {
        account_id: "full".into(),
        person_id: "user".into(),
        roles: vec!["buyer".into()],
        billing: true,
        ..Default::default()
    };
    tenant.memberships().add_account_user(user).await.unwrap();
    let link = LinkOrganizationRequest {
        account_id: "full".into(),
        organization_id: "p".into(),
        include_descendants: true,
        ..Default::default()
    };
    tenant.memberships().link_organization(link).await.unwrap();
    let mut contact = tenant.get("full").await.unwrap();
    contact.primary_contact =
        Some(customer_accounts::proto::Contact { person_id: "user".into(), ..Default::default() });
    contact.billing_contact_id = "user".into();
    contact.etag = String::new();
    let update = customer_accounts::proto::UpdateAccountRequest {
        account: Some(contact),
        ..Default::default()
    };
    tenant.accounts().update_account(update).await.unwrap();
    for id in ["Ünï 😀", "a,b", "a\"b", "=2", "zz"] {
        tenant.account(account(id, "p")).await;
    }
}

/// How many changes the tenant has on record.
async fn changes(scene: &Scene) -> i32 {
    let request = ListActivitiesRequest { include_total_size: true, ..Default::default() };
    let listed = scene.tenant.activities().list_activities(request).await.unwrap();
    listed.into_inner().total_size
}

#[tokio::test]
async fn what_is_exported_and_imported_changes_nothing() {
    let scene = Scene::new().await;
    filled(&scene).await;
    let before = changes(&scene).await;
    for (name, options) in [
        ("a.csv", &["--with-links"][..]),
        ("b.csv", &["--bom"]),
        ("a.jsonl", &["--with-links", "--with-users"]),
        ("b.jsonl", &[]),
    ] {
        let path = scene.path(name);
        let path = path.to_str().unwrap();
        let exported = scene.run(&[&["export", path], options].concat()).await;
        assert_eq!(exported.code, Some(0), "{exported:?}");
        let first = scene.read(name);
        let imported = scene.run(&["import", path, "--json"]).await;
        assert_eq!(imported.code, Some(0), "{name}: {imported:?}");
        let summary: Value = serde_json::from_str(&imported.stdout).unwrap();
        assert_eq!([&summary["rows"], &summary["unchanged"]], [6, 6], "{name}: {imported:?}");
        // Also if every cell that is empty empties its field.
        if first.starts_with(|it| it != '{') {
            let imported = scene.run(&["import", path, "--json", "--empty", "clear"]).await;
            let summary: Value = serde_json::from_str(&imported.stdout).unwrap();
            assert_eq!(summary["unchanged"], 6, "{name}: {imported:?}");
        }
        assert_eq!(scene.run(&[&["export", path], options].concat()).await.code, Some(0));
        assert_eq!(scene.read(name), first, "{name}");
    }
    assert_eq!(changes(&scene).await, before, "nothing is on record");
    // No cell of a table is a formula.
    for record in records(&scene.read("a.csv")) {
        assert!(record.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])));
    }
    let raw = scene
        .run(&["export", "--format", "csv", "--columns", "description,comment", "--raw"])
        .await;
    assert!(raw.stdout.contains("=1+1,-dash\n"), "{raw:?}");
    // Somebody's change in between is not overwritten.
    let mut changed = scene.tenant.get("zz").await.unwrap();
    changed.comment = "changed".into();
    let update = customer_accounts::proto::UpdateAccountRequest {
        account: Some(changed),
        ..Default::default()
    };
    scene.tenant.accounts().update_account(update).await.unwrap();
    let text = scene.read("a.csv");
    let (summary, _) = scene.import("c.csv", &text, &[]).await;
    assert_eq!(summary["refused_by_reason"], json!({ "ETAG_MISMATCH": 1 }));
    assert_eq!(
        scene.kept("c.csv", &text, &["--ignore", "etag"]).await,
        [0, 0, 6],
        "nothing of its own"
    );
}

#[tokio::test]
async fn a_tenant_is_copied_by_its_lines() {
    let scene = Scene::new().await;
    filled(&scene).await;
    let path = scene.path("all.jsonl");
    let path = path.to_str().unwrap();
    let options = ["--with-links", "--with-users"];
    scene.run(&[&["export", path][..], &options].concat()).await;
    let copy = Scene::on(Service::fresh(&[], &[]).await).await;
    copy.tenant.organization("p", "o").await;
    people(&copy.tenant).await;
    let imported = copy.run(&["import", path, "--ignore", "etag"]).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let there = copy.path("all.jsonl");
    copy.run(&[&["export", there.to_str().unwrap()][..], &options].concat()).await;
    let told = |text: String| {
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            for key in ["etag", "create_time", "update_time"] {
                line["account"].as_object_mut().unwrap().remove(key);
            }
            line
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(told(copy.read("all.jsonl")), told(scene.read("all.jsonl")));
}

/// Kills exports until one has noted where it stood.
async fn broken_off(cursor: &Path, export: impl Fn() -> Command) {
    for attempt in 0.. {
        assert!(attempt < 100, "each run got to the end");
        let mut child = export().stderr(Stdio::null()).spawn().unwrap();
        while !cursor.exists() && child.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        child.kill().await.unwrap();
        if cursor.exists() {
            break;
        }
    }
}

#[tokio::test]
async fn a_file_is_complete_or_not_there_and_can_be_gone_on_with() {
    let scene = Scene::new().await;
    scene.kept("many.csv", &many(2500), &[]).await;
    let path = scene.path("out.jsonl");
    let path = path.to_str().unwrap();
    assert_eq!(scene.run(&["export", path, "--quiet"]).await.code, Some(0));
    let whole = scene.read("out.jsonl");
    assert_eq!(whole.lines().count(), 2500);
    assert!(!names(scene.folder.path()).iter().any(|name| name.contains(".part")));
    let [.., tenant, id] = scene.target();
    let address = scene.service.address.to_string();
    let from = |address, id| ["--listen", address, &*tenant, id].map(ToOwned::to_owned);
    let export = async |more: &[&str], target: [String; 4]| {
        let target: Vec<_> = target.iter().map(String::as_str).collect();
        run(&[&["export", path], more, &target].concat(), &[]).await
    };
    let target = from(&address, &id);
    let begin: Vec<_> =
        ["export", path].into_iter().chain(target.iter().map(String::as_str)).collect();
    let cursor = scene.path("out.jsonl.part.cursor");
    broken_off(&cursor, || {
        let _ = fs::remove_file(path);
        plain_command(&begin, &[])
    })
    .await;
    assert!(!scene.path("out.jsonl").exists());
    let part = scene.path("out.jsonl.part");
    // From before it connects, an export that goes on keeps others from the part.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    let noted = fs::read_to_string(&cursor).unwrap();
    fs::write(&cursor, noted.replace(&address, &silent_address)).unwrap();
    let silent_target = from(&silent_address, &id);
    let going_on: Vec<_> = ["export", path, "--resume"]
        .into_iter()
        .chain(silent_target.iter().map(String::as_str))
        .collect();
    let mut first = plain_command(&going_on, &[]).stderr(Stdio::null()).spawn().unwrap();
    let _connection = timeout(DEADLINE, silent.accept()).await.unwrap().unwrap();
    let second = run(&going_on, &[]).await;
    assert!(second.code == Some(1) && second.stderr.contains("another export"), "{second:?}");
    first.kill().await.unwrap();
    fs::write(&cursor, noted).unwrap();
    // With bytes behind what it noted.
    let mut written = fs::OpenOptions::new().append(true).open(&part).unwrap();
    written.write_all(b"{\"account\":").unwrap();
    // Neither the options nor the service nor the tenant may be another.
    for (more, target) in [
        (&["--resume", "--status", "active"][..], from(&address, &id)),
        (&["--resume"], from("127.0.0.1:1", &id)),
        (&["--resume"], from(&address, "other")),
    ] {
        let other = export(more, target).await;
        assert!(other.code == Some(2) && other.stderr.contains("the options differ"), "{other:?}");
    }
    let resumed = export(&["--resume", "--print-watch-cursor"], target.clone()).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(resumed.stderr.contains("2,500 accounts"), "{resumed:?}");
    let watch_cursor = resumed.stderr.split("watch cursor: ").nth(1).map(str::trim);
    assert!(watch_cursor.is_some_and(|it| it.len() > 10), "{resumed:?}");
    assert_eq!(scene.read("out.jsonl"), whole);
    assert!(!names(scene.folder.path()).iter().any(|name| name.contains(".part")));
    let nothing = export(&["--resume"], target.clone()).await;
    assert!(nothing.code == Some(2) && nothing.stderr.contains("export without it"), "{nothing:?}");
    // An export that fails before its first page cannot be gone on with, also where another one
    // has ended early.
    fs::write(&part, "earlier").unwrap();
    fs::write(&cursor, "{}").unwrap();
    let failed = export(&["--organization", &"x".repeat(51)], target).await;
    assert!(failed.code == Some(1) && !failed.stderr.contains("--resume"), "{failed:?}");
    assert!(!cursor.exists());
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_an_export_quietly() {
    let scene = Scene::new().await;
    scene.kept("many.csv", &many(3000), &[]).await;
    let target = scene.target();
    let arguments: Vec<_> =
        ["export"].into_iter().chain(target.iter().map(String::as_str)).collect();
    let mut child = plain_command(&arguments, &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
    // A pipe is written to, not replaced.
    let fifo = scene.path("pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reading = {
        let fifo = fifo.clone();
        tokio::task::spawn_blocking(move || fs::read_to_string(fifo).unwrap())
    };
    let written = scene.run(&["export", fifo.to_str().unwrap()]).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    assert_eq!(reading.await.unwrap().lines().count(), 3001);
    assert!(fs::metadata(&fifo).is_ok_and(|about| !about.is_file()));
    // Where nothing can be written, an error says so.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = plain_command(&arguments, &[])
        .stdout(Stdio::from(full))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = ended.wait_with_output().await.unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("cannot write"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_keeps_its_mode_and_its_links_and_has_one_writer() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let scene = Scene::new().await;
    scene.tenant.account(account("x", "o")).await;
    let (own, link) = (scene.path("own.csv"), scene.path("link.csv"));
    fs::write(&own, "before").unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&own, &link).unwrap();
    let exported = scene.run(&["export", link.to_str().unwrap()]).await;
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(scene.read("own.csv").lines().count(), 2);
    // While somebody writes the part, nobody else does.
    let part = fs::File::create(scene.path("own.csv.part")).unwrap();
    part.lock().unwrap();
    let second = scene.run(&["export", own.to_str().unwrap()]).await;
    assert!(second.code == Some(1) && second.stderr.contains("another export"), "{second:?}");
    assert_eq!(scene.read("own.csv").lines().count(), 2);
    drop(part);
    assert_eq!(scene.run(&["export", own.to_str().unwrap()]).await.code, Some(0));
    // A link to a file that does not exist stays a link, too.
    for (name, leads_to) in [("new.csv", "other.csv"), ("other.csv", "last.csv")] {
        symlink(leads_to, scene.path(name)).unwrap();
    }
    let exported = scene.run(&["export", scene.path("new.csv").to_str().unwrap()]).await;
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(fs::symlink_metadata(scene.path("last.csv")).unwrap().is_file());
    assert_eq!(scene.read("new.csv").lines().count(), 2);
    for (name, leads_to, says) in
        [("lost.csv", "no/x.csv", "there is no folder"), ("loop.csv", "loop.csv", "too many links")]
    {
        let link = scene.path(name);
        symlink(leads_to, &link).unwrap();
        let failed = scene.run(&["export", link.to_str().unwrap()]).await;
        assert!(failed.code == Some(1) && failed.stderr.contains(says), "{failed:?}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{name}");
    }
}

/// A command that cannot ignore the modes of files, which root can otherwise.
#[cfg(unix)]
fn command_bound_by_modes(arguments: &[&str]) -> Command {
    let plain = plain_command(arguments, &[]);
    if !is_root() {
        return plain;
    }
    let plain = plain.as_std();
    let mut bound = Command::new("setpriv");
    bound.args(["--bounding-set=-all", "--inh-caps=-all"]);
    bound.arg(plain.get_program()).args(plain.get_args()).kill_on_drop(true);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_read_only_and_a_folder_that_cannot_be_read_are_written_to() {
    use std::os::unix::fs::PermissionsExt as _;

    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let scene = Scene::new().await;
    scene.kept("many.csv", &many(2500), &[]).await;
    let folder = scene.path("folder");
    fs::create_dir(&folder).unwrap();
    let own = folder.join("own.jsonl");
    fs::write(&own, "before").unwrap();
    set(&own, 0o444).unwrap();
    let target = scene.target();
    let arguments: Vec<_> = ["export", own.to_str().unwrap()]
        .into_iter()
        .chain(target.iter().map(String::as_str))
        .collect();
    let cursor = folder.join("own.jsonl.part.cursor");
    broken_off(&cursor, || command_bound_by_modes(&arguments)).await;
    assert_eq!(mode(&folder.join("own.jsonl.part")), 0o600);
    set(&folder, 0o333).unwrap();
    for more in [&["--resume"][..], &[]] {
        let export = command_bound_by_modes(&[&arguments[..], more].concat()).output();
        let ended = timeout(DEADLINE, export).await.unwrap().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{more:?}: {ended:?}");
        assert_eq!(mode(&own), 0o444);
        assert_eq!(fs::read_to_string(&own).unwrap().lines().count(), 2500);
    }
    set(&folder, 0o755).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_person_can_interrupt_an_export_whose_reader_does_not_read() {
    let scene = Scene::new().await;
    scene.kept("many.csv", &many(3000), &[]).await;
    let pipe = scene.path("pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let target = scene.target();
    for file in ["-", pipe.to_str().unwrap()] {
        for signal in ["-INT", "-TERM"] {
            let arguments: Vec<_> =
                ["export", file].into_iter().chain(target.iter().map(String::as_str)).collect();
            let mut child = plain_command(&arguments, &[])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let pid = child.id().unwrap().to_string();
            if file == "-" {
                child.stdout.as_mut().unwrap().read_exact(&mut [0]).await.unwrap();
            } else {
                handles_signals(&pid).await;
            }
            // In this time it fills the pipe, or begins to wait for somebody to open it.
            tokio::time::sleep(Duration::from_millis(500)).await;
            std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
            // Sooner than the runtime would give up waiting for a blocking task.
            let ended = timeout(Duration::from_secs(5), child.wait()).await;
            let code = ended.expect("ends at once").unwrap().code();
            assert_eq!(code, Some(130), "{file} {signal}");
        }
    }
}

/// Waits until a process catches SIGINT, so that it no longer ends by it.
#[cfg(unix)]
async fn handles_signals(pid: &str) {
    eventually(DEADLINE, "a handler of signals", async || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught & 0b10 != 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_csv_cannot_say_is_told() {
    let scene = Scene::new().await;
    scene.tenant.organization("a;b", "").await;
    scene.tenant.account(account("x", "o")).await;
    let link = LinkOrganizationRequest {
        account_id: "x".into(),
        organization_id: "a;b".into(),
        ..Default::default()
    };
    scene.tenant.memberships().link_organization(link).await.unwrap();
    let existing = &*scene.write("notes", "mine");
    let failed = scene.run(&["export", "--format", "csv", "--with-links"]).await;
    assert!(failed.code == Some(1) && failed.stderr.contains("use JSON lines"), "{failed:?}");
    for (options, says) in [
        (&["--format", "csv", "--with-users"][..], "CSV has no form for users"),
        (&["--columns", "account_id"], "--columns: is for CSV"),
        (&["--format", "csv", "--columns", "accountid"], "do you mean `account_id`?"),
        (&["--status", "asleep"], "must be one of ACTIVE"),
        (&["--resume"], "--resume: needs a file"),
        (&["accounts.xlsx"], "the name says no format"),
        // Also of a file that is there.
        (&[existing], "the name says no format"),
        (&["--format", "csv", "--columns", "account_id", "--with-links"], "name linked_org"),
        (&["--format", "csv", "--columns", "status,status"], "status is named twice"),
    ] {
        let wrong = scene.run(&[&["export"], options].concat()).await;
        assert!(wrong.code == Some(2) && wrong.stderr.contains(says), "{wrong:?}");
    }
    let some = scene.run(&["export", "--status", "suspended"]).await;
    assert_eq!((some.code, &*some.stdout), (Some(0), ""));
}

#[tokio::test]
async fn a_watch_from_the_cursor_tells_what_changed_since() {
    let scene = Scene::new().await;
    scene.tenant.account(account("x", "o")).await;
    let exported = scene.run(&["export", "--print-watch-cursor"]).await;
    let cursor = exported.stderr.split("watch cursor: ").nth(1).unwrap().trim().to_owned();
    scene.tenant.account(account("y", "o")).await;
    let request = WatchActivitiesRequest { cursor, ..Default::default() };
    let mut watch = scene.tenant.activities().watch_activities(request).await.unwrap().into_inner();
    // It may begin with changes before, of transactions that had just ended.
    let told = async {
        loop {
            let message = watch.message().await.unwrap().unwrap();
            if message.activities.iter().any(|activity| activity.account_id == "y") {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), told).await.unwrap();
}
