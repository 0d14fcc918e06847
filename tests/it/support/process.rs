//! The service as a process of its own, for tests that stop, kill or configure it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::transport::Channel;

/// Longest that a process may take to start, or to end after it should have.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running `customer-accounts serve`; killed when dropped.
pub struct Service {
    child: Child,
    pub address: SocketAddr,
    log: Log,
    /// Its arguments and environment variables.
    started_with: (Vec<String>, Vec<(String, String)>),
    /// The data of an embedded server, deleted with this service.
    folder: Option<tempfile::TempDir>,
}

/// What a service has written to stderr so far.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Service {
    /// Starts it on a free port with these further arguments and environment variables, and waits
    /// until it serves.
    pub async fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command(arguments, environment)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Log::default();
        let (mut errors, written) =
            (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                eprintln!("{line}");
                written.0.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line())
            .await
            .expect("starts in time")
            .unwrap()
            .expect("serves");
        let address = first
            .split(" serves on ")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .expect("names its address");
        let address = address.parse().unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let started_with = (
            arguments.iter().map(|it| (*it).to_owned()).collect(),
            environment.iter().map(owned).collect(),
        );
        Self { child, address, log, started_with, folder: None }
    }

    /// Starts it on a fresh database: of the real server if there is one, embedded otherwise.
    pub async fn fresh(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        if let Some(server) = super::real_server() {
            let url = super::fresh_database(&server).await;
            return Self::start(arguments, &[&[("DATABASE_URL", &*url)], environment].concat())
                .await;
        }
        let folder = tempfile::Builder::new().prefix("ca-it").tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        let service = Self::start(&[&["--data-dir", data], arguments].concat(), environment).await;
        Self { folder: Some(folder), ..service }
    }

    /// Starts it on an embedded server in this folder.
    pub async fn embedded(folder: &Path, arguments: &[&str]) -> Self {
        let folder = folder.to_str().unwrap();
        Self::start(&[&["--data-dir", folder], arguments].concat(), &[]).await
    }

    /// Starts it on a real database.
    pub async fn on(url: &str, arguments: &[&str]) -> Self {
        Self::start(arguments, &[("DATABASE_URL", url)]).await
    }

    pub async fn channel(&self) -> Channel {
        super::connect(self.address).await
    }

    /// What it writes to stderr; complete a moment after it has ended.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Memory of the process in KiB, without that of its program: the program of a debug build is
    /// several times as large as the 25 MB of a release build, which bounds leave out.
    pub fn own_kib(&self) -> u64 {
        let name = "RssAnon:";
        let id = self.child.id().expect("still runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a size");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        let pid = self.child.id().expect("still runs").to_string();
        assert!(
            std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success()
        );
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").unwrap()
    }

    /// `kill -9`, and the same again: on its port, with its arguments and its data.
    pub async fn killed_and_started_again(mut self) -> Self {
        self.child.kill().await.unwrap();
        let listen = self.address.to_string();
        let (arguments, environment) = &self.started_with;
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let arguments = [&arguments[..], &["--listen", &listen]].concat();
        let again = Self::start(&arguments, &environment).await;
        Self { folder: self.folder.take(), ..again }
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The binary with `--listen 127.0.0.1:0` unless they say otherwise, these arguments, and no
/// configuration from the test's own environment.
pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    if arguments.contains(&"--listen") {
        return plain_command(arguments, environment);
    }
    plain_command(&[&["--listen", "127.0.0.1:0"], arguments].concat(), environment)
}

/// The binary with exactly these arguments, and no configuration from the test's own environment.
pub fn plain_command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_customer-accounts"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CUSTOMER_ACCOUNTS_")
            || name.starts_with("OTEL_")
            || name == "DATABASE_URL"
        {
            command.env_remove(name);
        }
    }
    // The tests' login is a superuser.
    command.env("CUSTOMER_ACCOUNTS_ALLOW_PRIVILEGED_LOGIN", "true");
    // Shared by all tests: unpacking the embedded engine takes a second and 99 MB.
    command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command.args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
    command
}

/// Runs the binary with nothing but these arguments to its end.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let output =
        timeout(PATIENCE, plain_command(arguments, environment).stdin(Stdio::null()).output());
    let Output { status, stdout, stderr } = output.await.expect("ends in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}
