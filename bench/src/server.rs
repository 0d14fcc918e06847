//! Servers as processes of their own: the service and the baselines.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::postgres::Postgres;

/// A running server; killed when it is dropped.
pub struct Server {
    process: Child,
    /// `http://…`
    pub address: String,
}

impl Server {
    /// Starts a server that names its address on its first line of stdout: `… serves on ADDRESS`.
    pub fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the server did not start").unwrap();
        let address = first.split(" serves on ").nth(1).unwrap().split([',', ' ']).next().unwrap();
        let address = format!("http://{address}");
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Connections to the database of each server.
pub const POOL_SIZE: u32 = 8;

/// The service without any setting of the environment.
pub fn command(binary: &Path, arguments: &[&str]) -> Command {
    // Not searched for in PATH.
    let mut command = Command::new(std::path::absolute(binary).unwrap());
    command.env_clear().args(arguments);
    command
}

/// Makes the roles of docs/OPERATIONS.md and migrates.
pub async fn migrate(binary: &Path, postgres: &Postgres) {
    let roles = "
        CREATE ROLE customer_accounts_owner NOLOGIN;
        CREATE ROLE customer_accounts_app NOLOGIN;
        GRANT USAGE, CREATE ON SCHEMA public TO customer_accounts_owner;
        GRANT USAGE ON SCHEMA public TO customer_accounts_app;
        CREATE ROLE migrator LOGIN IN ROLE customer_accounts_owner;
        CREATE ROLE service LOGIN IN ROLE customer_accounts_app;";
    postgres.sql("bench").await.batch_execute(roles).await.unwrap();
    let mut migrate = command(binary, &["migrate", "--database-url", &postgres.url("migrator")]);
    assert!(migrate.stdout(Stdio::null()).status().unwrap().success(), "migrate failed");
}

/// Starts the service with tokens and a login that row-level security holds for. `keys` is the
/// folder of the key that signs tokens.
pub fn serve(binary: &Path, postgres: &Postgres, keys: &Path) -> Server {
    let issuer =
        format!("customer-accounts-development={}", keys.join("development-jwks.json").display());
    Server::start(&mut command(
        binary,
        &[
            "serve",
            "--listen=127.0.0.1:0",
            "--log=warn",
            "--migrate=false",
            "--pool-wait=1s",
            // One tenant alone may use everything, so that one and many compare.
            "--tenant-share=100",
            "--token-audience=customer-accounts",
            &format!("--pool-size={POOL_SIZE}"),
            &format!("--token-issuer={issuer}"),
            &format!("--database-url={}", postgres.url("service")),
        ],
    ))
}

/// A token of an administrator of the tenant.
pub fn token(binary: &Path, keys: &Path, tenant: &str) -> String {
    let keys = keys.to_str().unwrap();
    let arguments = ["token", "--tenant", tenant, "--key-dir", keys, "--expires-in", "2h"];
    let output = command(binary, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
