//! A PostgreSQL server of the test's own, which it may stop and kill.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use super::{certs::Pair, skip};

/// Where Debian keeps the server's programs, which are on no PATH.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";

/// A running server; stopped and deleted when dropped.
pub struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    /// Locales that the machine does not have.
    locales: Option<TempDir>,
}

impl Cluster {
    /// Starts a server, or skips the test where its programs are missing. It has the version of the
    /// programs in `POSTGRES_BIN`, as `.ci/postgres` sets it, or else of those on the PATH or of
    /// Debian.
    pub fn start() -> Option<Self> {
        Self::start_with("", None, &[])
    }

    /// Starts a server of a version that also has these programs, which the server from npm lacks.
    pub fn having(programs: &[&str]) -> Option<Self> {
        Self::start_with("", None, programs)
    }

    /// Starts a server whose messages are in German, or skips the test.
    pub fn german() -> Option<Self> {
        let locales = tempfile::Builder::new().prefix("ca-locale").tempdir().unwrap();
        open_to_all(locales.path());
        let locale = locales.path().join("de_DE.UTF-8");
        let made =
            Command::new("localedef").args(["-i", "de_DE", "-f", "UTF-8"]).arg(&locale).output();
        if !made.is_ok_and(|made| made.status.success()) {
            skip(
                "localedef cannot make the locale de_DE (Debian has its sources in the package locales)",
            );
            return None;
        }
        // Packages that have psql also have the messages in other languages.
        Self::start_with("lc_messages = 'de_DE.UTF-8'\n", Some(locales), &["psql"])
    }

    /// Starts a server with TLS. `postgres` may log in without TLS, for what the test itself does;
    /// the others are what `logins` says, in the form of `pg_hba.conf`.
    pub fn encrypted(pair: &Pair, client_ca: &str, logins: &str) -> Option<Self> {
        let settings = "ssl = on\nssl_ca_file = 'root.crt'\n";
        let cluster = Self::make(settings, None, &[])?;
        cluster.write("pg_hba.conf", &format!("host all postgres 127.0.0.1/32 trust\n{logins}"));
        cluster.certify(pair, client_ca);
        cluster.resume();
        Some(cluster)
    }

    /// Gives the server another certificate, and other authorities for clients' certificates; they
    /// count when it is started.
    pub fn certify(&self, pair: &Pair, client_ca: &str) {
        self.write("server.crt", &pair.cert);
        self.write("server.key", &pair.key);
        self.write("root.crt", client_ca);
    }

    /// Writes a file of the data folder, which the server's user owns.
    pub fn write(&self, name: &str, text: &str) {
        let file = self.folder.path().join("data").join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        if is_root() {
            let owner = fs::metadata(self.folder.path()).unwrap();
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    }

    /// Stops it and starts it again.
    pub fn restart(&self) {
        self.crash();
        self.resume();
    }

    fn start_with(settings: &str, locales: Option<TempDir>, needed: &[&str]) -> Option<Self> {
        let cluster = Self::make(settings, locales, needed)?;
        cluster.resume();
        Some(cluster)
    }

    /// Makes a server that does not run yet.
    fn make(settings: &str, locales: Option<TempDir>, needed: &[&str]) -> Option<Self> {
        let [first, path] =
            ["POSTGRES_BIN", "PATH"].map(|name| std::env::var_os(name).unwrap_or_default());
        let mut folders = [PathBuf::from(first)]
            .into_iter()
            .chain(std::env::split_paths(&path))
            .chain([DEBIAN.into()]);
        let has_all = |folder: &PathBuf| {
            ["initdb"].iter().chain(needed).all(|program| folder.join(program).exists())
        };
        let Some(programs) = folders.find(has_all) else {
            skip(&format!(
                "initdb {needed:?} are neither in POSTGRES_BIN, nor on the PATH, nor in {DEBIAN}"
            ));
            return None;
        };
        // In /tmp itself: a socket's path must be short.
        let folder = tempfile::Builder::new().prefix("ca-pg").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { programs, folder, port, locales };
        if is_root() {
            let id = |flag| {
                String::from_utf8(
                    Command::new("id").args([flag, "postgres"]).output().unwrap().stdout,
                )
                .unwrap()
            };
            let (Ok(user), Ok(group)) = (id("-u").trim().parse(), id("-g").trim().parse()) else {
                skip("PostgreSQL refuses to run as root, and there is no user postgres");
                return None;
            };
            std::os::unix::fs::chown(cluster.folder.path(), Some(user), Some(group)).unwrap();
        }
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"]);
        // Only the server crashes in a test, not the machine, so no write needs to reach the disk.
        let settings = format!(
            "\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n{settings}"
        );
        let file = cluster.folder.path().join("data/postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &settings).unwrap();
        Some(cluster)
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The folder of its programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Starts a standby of the server.
    pub fn standby(&self) -> Self {
        let folder = tempfile::Builder::new().prefix("ca-pg").tempdir().unwrap();
        if is_root() {
            let owner = fs::metadata(self.folder.path()).unwrap();
            std::os::unix::fs::chown(folder.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let standby = Self { programs: self.programs.clone(), folder, port, locales: None };
        let from = format!("host=127.0.0.1 port={} user=postgres", self.port);
        self.run(
            "pg_basebackup",
            &["-D", &standby.data(), "-d", &from, "-R", "--checkpoint=fast", "--no-sync"],
        );
        let file = standby.folder.path().join("data/postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &format!("\nport = {port}\n"))
            .unwrap();
        standby.resume();
        standby
    }

    /// Promotes a standby to a server that takes writes.
    pub fn promote(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    /// Ends the server as a crash does, without a checkpoint and without closing its connections.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again and waits until it takes connections.
    pub fn resume(&self) {
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"]);
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // The folder on the PATH may have only some of the programs.
        let path = [&*self.programs, Path::new(DEBIAN)].map(|folder| folder.join(program));
        let mut command = command(path.iter().find(|path| path.exists()).expect(program));
        if let Some(locales) = &self.locales {
            command.env("LOCPATH", locales.path());
        }
        let Output { status, stderr, .. } = command.args(arguments).output().unwrap();
        assert!(status.success(), "{program}: {}", String::from_utf8_lossy(&stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stop = ["-D", &self.data(), "-m", "immediate", "-w", "stop"];
        let _ = command(&self.programs.join("pg_ctl")).args(stop).output();
    }
}

pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// Lets every user read a folder.
pub fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A command that runs a program as a user other than root.
fn command(program: &Path) -> Command {
    let mut command = if is_root() { Command::new("setpriv") } else { Command::new(program) };
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    }
    command.current_dir("/");
    command
}
