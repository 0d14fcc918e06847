//! The service as a process of its own, for tests that stop, kill or configure it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tonic::transport::Channel;

/// Longest that a process may take to start, or to end after it should have.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `customer-accounts serve`; killed when dropped.
pub struct Service {
    child: Child,
    pub address: SocketAddr,
}

impl Service {
    /// Starts it on a free port with these further arguments and environment variables, and waits until it serves.
    pub async fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = command(arguments, environment).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("starts in time").unwrap().expect("serves");
        let address = first.split(" serves on ").nth(1).and_then(|rest| rest.split(',').next()).expect("names its address");
        let address = address.parse().unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
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

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        let pid = self.child.id().expect("still runs").to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("ends in time").unwrap()
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The binary with `--listen 127.0.0.1:0`, these arguments, and no configuration from the test's own environment.
pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_customer-accounts"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CUSTOMER_ACCOUNTS_") || name.starts_with("OTEL_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.args(["--listen", "127.0.0.1:0"]).args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
    command
}
