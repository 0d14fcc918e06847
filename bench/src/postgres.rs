//! A private PostgreSQL server, and what it has spent.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio_postgres::{Client, NoTls};

/// Commits are flushed to the disk, as in production.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = '1GB'
max_wal_size = '8GB'
fsync = on
synchronous_commit = on
random_page_cost = 1.1
logging_collector = on
log_destination = 'jsonlog'
log_directory = 'log'
log_filename = 'bench.log'
log_file_mode = 0644
";

/// A running server; ends when it is dropped.
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    process: Child,
    port: u16,
    /// The line of `postgres --version`.
    pub version: String,
}

impl Postgres {
    /// Starts an empty server in a new folder of /tmp.
    pub async fn start(programs: Option<PathBuf>) -> Self {
        let programs = programs.unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
        assert!(
            programs.join("initdb").exists(),
            "no PostgreSQL programs in {}: install PostgreSQL 15, or set POSTGRES_BIN",
            programs.display()
        );
        let version = Command::new(programs.join("postgres")).arg("--version").output().unwrap();
        // In /tmp, because other users must have access.
        let folder = tempfile::Builder::new().prefix("bench.").tempdir_in("/tmp").unwrap().keep();
        if is_root() {
            assert!(Command::new("chown").arg("nobody").arg(&folder).status().unwrap().success());
        }
        Command::new("chmod").arg("a+rx").arg(&folder).status().unwrap();
        let made = as_user(&programs.join("initdb"), &folder)
            .args(["--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "initdb failed");
        let settings = folder.join("data/postgresql.conf");
        let text = fs::read_to_string(&settings).unwrap();
        let socket = format!("unix_socket_directories = '{}'\n", folder.display());
        fs::write(&settings, text + SETTINGS + &socket).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = as_user(&programs.join("postgres"), &folder)
            .args(["-D", "data", "-p", &port.to_string()])
            .spawn()
            .unwrap();
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let server = Self { programs, folder, process, port, version };
        server.sql("postgres").await.batch_execute("CREATE DATABASE bench").await.unwrap();
        server
    }

    /// The URL of a login. No login needs a password.
    pub fn url(&self, login: &str) -> String {
        format!("postgres://{login}@127.0.0.1:{}/bench", self.port)
    }

    /// A connection of the superuser. Waits until the server is there.
    pub async fn sql(&self, database: &str) -> Client {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port);
        for _ in 0..100 {
            if let Ok((client, connection)) = tokio_postgres::connect(&config, NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("PostgreSQL did not start; its log is in {}", self.folder.display());
    }

    /// One of the programs of PostgreSQL, to be run against the database of the benchmark.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        command.env("PGDATABASE", "bench");
        command
    }

    /// The file with the log, one JSON object a line.
    pub fn log(&self) -> PathBuf {
        self.folder.join("data/log/bench.json")
    }

    /// CPU time that the server has spent so far, with all processes that it has ended.
    pub fn cpu(&self) -> Duration {
        let postmaster = self.process.id();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = fs::read_to_string(children).unwrap_or_default();
        let own = ticks(postmaster, 4);
        let children = children.split_whitespace().map(|pid| ticks(pid.parse().unwrap(), 2));
        duration(own + children.sum::<u64>())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        drop(Command::new("kill").args(["-QUIT", &pid]).status());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// CPU time that a process has spent so far.
pub fn cpu(pid: u32) -> Duration {
    duration(ticks(pid, 2))
}

/// Most memory that a process has held, in MiB.
pub fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// The sum of `utime`, `stime` and, as the third and fourth, those of children that have ended.
/// Zero for a process that is gone: its parent has its time.
fn ticks(pid: u32, fields: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may have blanks.
    let Some((_, fields_after)) = stat.rsplit_once(") ") else { return 0 };
    let times = fields_after.split(' ').skip(11).take(fields);
    times.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// The clock of /proc has 100 ticks a second on Linux.
fn duration(ticks: u64) -> Duration {
    Duration::from_millis(10 * ticks)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// PostgreSQL refuses to run as root: it runs as `nobody` then.
fn as_user(program: &Path, folder: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder).stdin(Stdio::null());
    command
}
