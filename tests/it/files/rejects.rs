//! The files that an import writes, refused rows and results: they have the rows of one run, each
//! once, and one import writes them.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::{
    HEADER, Scene,
    broken::{ended, spawn},
    many, names, records,
};
use crate::support::process::{plain_command, run};

fn run_id(summary: &Value) -> String {
    summary["run_id"].as_str().unwrap().to_owned()
}

/// The lines that a file of results names.
fn told(results: &str) -> Vec<u64> {
    let results = results.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    results.map(|result| result["row"].as_u64().unwrap()).collect()
}

/// The lines that a file of refused rows names.
fn refused(rejects: &str) -> Vec<u64> {
    records(rejects).iter().map(|row| row[0].parse().unwrap()).collect()
}

#[tokio::test]
async fn a_row_that_cannot_be_noted_is_the_one_to_go_on_with() {
    let scene = Scene::new().await;
    let text = format!("{HEADER}\na,A,o,a@b.example\nb,B,nowhere,a@b.example\n");
    // The last batch.
    let full = ["--batch-size", "1", "--rejects", "/dev/full"];
    let (summary, finished) = scene.import("a.csv", &text, &full).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("--rejects /dev/full: No space left"), "{finished:?}");
    let found = [&summary["created"], &summary["refused"], &summary["next_row"]];
    assert_eq!(found, [1, 0, 3], "{finished:?}");
    let run = run_id(&summary);
    let advice = format!("go on with: --start-row 3 --run-id {run}\n");
    assert!(finished.stderr.ends_with(&advice), "{finished:?}");
    let rest = ["--batch-size", "1", "--start-row", "3", "--run-id", &run];
    let (summary, finished) = scene.import("a.csv", &text, &rest).await;
    assert_eq!((finished.code, &summary["refused"]), (Some(3), &Value::from(1)), "{finished:?}");
    assert_eq!(refused(&scene.read("a.rejects.csv")), [3]);
    // The only batch.
    for option in ["--rejects", "--results"] {
        let (summary, finished) = scene.import("b.csv", &text, &[option, "/dev/full"]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert_eq!([&summary["rows"], &summary["next_row"]], [0, 1], "{finished:?}");
        let advice = format!("; run it again with: --run-id {}\n", run_id(&summary));
        assert!(finished.stderr.ends_with(&advice), "{finished:?}");
        assert!(!scene.path("b.rejects.csv").exists());
        let (summary, finished) = scene.import("b.csv", &text, &[option, "/dev/null"]).await;
        assert_eq!((finished.code, &summary["rows"]), (Some(3), &Value::from(2)), "{finished:?}");
        let _ = fs::remove_file(scene.path("b.rejects.csv"));
    }
}

/// The program with these arguments. It cannot make files of more than 4 KiB.
fn limited(arguments: &[&str]) -> Command {
    let command = plain_command(arguments, &[]);
    let command = command.as_std();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

#[tokio::test]
async fn a_full_disk_leaves_whole_batches_in_both_files() {
    let scene = Scene::new().await;
    let file = scene.write("a.csv", many(200).replace(",o,", ",nowhere,"));
    let results = scene.path("results");
    let results = results.to_str().unwrap();
    let arguments = ["import", &file, "--json", "--batch-size", "10", "--results", results];
    let target = scene.target();
    let target: Vec<_> = target.iter().map(String::as_str).collect();
    let first = limited(&[&arguments, &target[..]].concat()).output().await.unwrap();
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let summary: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert!(summary["error"].as_str().unwrap().contains("File too large"), "{summary}");
    let noted = summary["refused"].as_u64().unwrap();
    assert!((1..200).contains(&noted), "{summary}");
    assert_eq!([&summary["rows"], &summary["next_row"]], [noted, noted + 2], "{summary}");
    let lines: Vec<_> = (2..noted + 2).collect();
    assert_eq!(refused(&scene.read("a.rejects.csv")), lines);
    assert_eq!(told(&scene.read("results")), lines);
    // With room again, each row is there once.
    let (next, run) = (summary["next_row"].to_string(), run_id(&summary));
    let rest = [&arguments[..], &["--start-row", &next, "--run-id", &run]].concat();
    let finished = scene.run(&rest).await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let lines: Vec<u64> = (2..202).collect();
    assert_eq!(refused(&scene.read("a.rejects.csv")), lines);
    assert_eq!(told(&scene.read("results")), lines);
}

#[tokio::test]
async fn a_new_run_begins_its_files_anew() {
    let scene = Scene::new().await;
    let results = scene.path("results");
    let results = ["--results", results.to_str().unwrap()];
    let import = async |name: &str, text: &str, more: &[&str]| {
        let (summary, finished) = scene.import(name, text, &[&results, more].concat()).await;
        (finished.code, summary, finished.stderr)
    };
    let good = format!("{HEADER}\na,A,o,a@b.example\n");
    let text = format!("{good}b,B,nowhere,a@b.example\n");
    let (code, _, said) = import("a.csv", &good, &["--dry-run"]).await;
    assert!(code == Some(0) && said.contains(" 0 would be refused"), "{said}");
    let (code, ..) = import("a.csv", &text, &["--dry-run"]).await;
    assert_eq!(code, Some(3));
    assert_eq!(refused(&scene.read("a.rejects.csv")), [3]);
    // A run that ends before it comes to the row that the dry run has refused.
    let (code, summary, said) = import("a.csv", &format!("{good}b,\"B"), &[]).await;
    assert_eq!((code, &summary["next_row"]), (Some(1), &Value::from(3)), "{said}");
    assert!(!scene.path("a.rejects.csv").exists());
    assert_eq!(told(&scene.read("results")), [2]);
    let run = run_id(&summary);
    let (code, _, said) = import("a.csv", &text, &["--start-row", "3", "--run-id", &run]).await;
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(refused(&scene.read("a.rejects.csv")), [3]);
    assert_eq!(told(&scene.read("results")), [2, 3]);
    // To go on with the first row is to begin.
    for line in ["1", "2"] {
        let (code, _, said) = import("a.csv", &text, &["--start-row", line]).await;
        assert_eq!(code, Some(3), "{said}");
        assert_eq!(refused(&scene.read("a.rejects.csv")), [3]);
        assert_eq!(told(&scene.read("results")), [2, 3]);
    }
    // A run whose first batch is not answered leaves the files as they are.
    let (code, summary, said) = import("a.csv", &text, &["--run-id", &run]).await;
    assert!(code == Some(1) && said.contains("REQUEST_ID_REUSED"), "{said}");
    assert!(said.ends_with("it did not get to the end; run it again\n"), "{said}");
    assert_eq!(summary["next_row"], 1);
    assert_eq!(refused(&scene.read("a.rejects.csv")), [3]);
    assert_eq!(told(&scene.read("results")), [2, 3]);
    // A run without rows gets to the end.
    let (code, _, said) = import("a.csv", HEADER, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!scene.path("a.rejects.csv").exists());
    assert_eq!(scene.read("results"), "");
}

#[tokio::test]
async fn an_import_that_never_connects_changes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, results) = (at("a.csv"), at("results"));
    fs::write(&file, many(1)).unwrap();
    let import = async || {
        let server = ["--server", "http://127.0.0.1:1"];
        run(&[&["import", &file, "--results", &results], &server[..]].concat(), &[]).await
    };
    let finished = import().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(names(folder.path()), ["a.csv"]);
    for file in [&results, &at("a.rejects.csv")] {
        fs::write(file, "of another run").unwrap();
    }
    let finished = import().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for file in [&results, &at("a.rejects.csv")] {
        assert_eq!(fs::read_to_string(file).unwrap(), "of another run");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_has_one_import_that_writes_it() {
    let scene = Scene::new().await;
    let [pipe, rejects, results] =
        ["pipe.jsonl", "rejects", "results"].map(|name| scene.path(name));
    let [pipe, rejects, results] = [&pipe, &rejects, &results].map(|path| path.to_str().unwrap());
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    // A pipe that is also opened for reading does not wait for the command.
    let mut input = OpenOptions::new().read(true).write(true).open(pipe).unwrap();
    input.write_all(b"\n").unwrap();
    let files = ["--rejects", rejects, "--results", results];
    let mut first = spawn(&scene, &[&[pipe, "--run-id", "r"], &files[..]].concat());
    let mut said = [0; 6];
    first.stderr.as_mut().unwrap().read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"run r\n", "it has begun");
    for (option, file) in [("--rejects", rejects), ("--results", results)] {
        let (_, second) = scene.import("b.csv", &many(1), &[option, file]).await;
        assert_eq!(second.code, Some(1), "{second:?}");
        let says = format!("{option} {file}: another import writes it");
        assert!(second.stderr.contains(&says), "{second:?}");
    }
    assert!(scene.tenant.get("n-00000").await.is_err(), "nothing was sent");
    assert!(!scene.path("b.rejects.csv").exists());
    input.write_all(b"{\"account_id\": \"x\", \"colour\": \"red\"}\n").unwrap();
    drop(input);
    let (code, said) = ended(first).await;
    assert_eq!(code, Some(3), "{said}");
    assert_eq!([scene.read("rejects"), scene.read("results")].map(|it| it.lines().count()), [1, 1]);
    assert_eq!(scene.kept("b.csv", &many(1), &files).await, [1, 0, 0]);
    assert!(!scene.path("rejects").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_of_an_import_are_two_and_no_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("a.csv"), many(1)).unwrap();
    fs::create_dir(at("sub")).unwrap();
    std::os::unix::fs::symlink(at("out"), at("link")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let before = names(folder.path());
    for (rejects, results, says) in [
        ("out", "sub/../out", "is the file of --rejects"),
        ("out", "link", "is the file of --rejects"),
        ("sub/../a.csv", "out", "is the file that is imported"),
        ("pipe", "out", "is a pipe; name a file"),
        ("out", "pipe", "is a pipe; name a file"),
    ] {
        let (file, rejects, results) = (at("a.csv"), at(rejects), at(results));
        let files = ["--rejects", &rejects, "--results", &results];
        let finished = run(&[&["import", &file], &files[..]].concat(), &[]).await;
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(says), "{finished:?}");
        assert_eq!(names(folder.path()), before);
    }
    // Standard input has no name, but can be one of the files.
    for option in ["--rejects", "--results"] {
        let file = at("a.csv");
        let mut command = plain_command(&["import", "-", option, &file], &[]);
        let output = command.current_dir(folder.path()).stdin(fs::File::open(&file).unwrap());
        let output = output.output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is the file that is imported"), "{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), many(1));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn refused_rows_of_a_pipe_go_to_the_current_folder() {
    let scene = Scene::new().await;
    let target = scene.target();
    let target: Vec<_> = target.iter().map(String::as_str).collect();
    let arguments = ["import", "/dev/stdin", "--format", "csv"];
    let mut child = plain_command(&[&arguments, &target[..]].concat(), &[])
        .current_dir(scene.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("{HEADER}\nb,B,nowhere,a@b.example\n");
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let (code, said) = ended(child).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("refused rows are in import.rejects.csv"), "{said}");
    assert_eq!(refused(&scene.read("import.rejects.csv")), [2]);
}
