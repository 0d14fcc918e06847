//! A connection pooler (`PgBouncer`) of the test's own.

use std::{
    fs,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio_postgres::{Config, config::Host};

use super::{cluster, eventually, skip};

/// Where Debian installs it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler; ended when dropped.
pub struct Pooler {
    process: Child,
    _folder: TempDir,
    /// URL of the database through the pooler.
    pub url: String,
}

impl Pooler {
    /// Starts one in front of a database, or skips the test where there is no such program.
    pub async fn start(url: &str, pool_mode: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            skip(&format!("there is no {PROGRAM}"));
            return None;
        }
        let config = url.parse::<Config>().unwrap();
        let host = match &config.get_hosts()[0] {
            Host::Tcp(host) => host.clone(),
            Host::Unix(folder) => folder.to_str().unwrap().to_owned(),
        };
        let (user, database) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let server_port = config.get_ports().first().copied().unwrap_or(5432);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::Builder::new().prefix("ca-pooler").tempdir().unwrap();
        let settings = format!(
            "[databases]\n{database} = host={host} port={server_port} user={user}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = 20\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        let mut command =
            if cluster::is_root() { Command::new("setpriv") } else { Command::new(PROGRAM) };
        if cluster::is_root() {
            cluster::open_to_all(folder.path());
            // It refuses to run as root.
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", PROGRAM]);
        }
        let process = command
            .arg(&file)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pooler = Self {
            process,
            _folder: folder,
            url: format!("postgres://{user}@127.0.0.1:{port}/{database}"),
        };
        eventually(
            Duration::from_secs(10),
            "the pooler listens",
            async || match TcpStream::connect(("127.0.0.1", port)) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
                connected => Some(connected.unwrap()),
            },
        )
        .await;
        Some(pooler)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
