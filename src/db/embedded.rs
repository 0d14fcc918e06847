//! The embedded PostgreSQL: what `cargo run` stores its data in when there is no `DATABASE_URL`.
//!
//! `pglite-oxide` is PostgreSQL 17 compiled to WebAssembly. Three of its habits are kept from its
//! users here:
//! - It overlays a new data folder on a template in the user's cache, which ties the data to one
//!   release of the crate and copies files non-atomically while it runs. The folder is therefore
//!   filled completely, aside, before it is first used.
//! - It can sync nothing to disk: `fsync=on` reaches no system call, and panics on folders. So
//!   `fsync` stays off inside, and the host flushes the write-ahead log, and after a checkpoint all
//!   else, before any answer reaches the client.
//! - It ends for good at a connection's first I/O error. Clients talk to a relay that shows the
//!   engine only orderly endings, and every connection (there is one at a time, the others wait)
//!   gets a fresh engine.
//!
//! The engine has no timers: `statement_timeout`, cancel requests and autovacuum have no effect in
//! it.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use pglite_oxide::{DataDirArchiveFormat, Pglite, PgliteServer, PgliteServerBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, copy};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long [`Embedded::stop`] waits for a statement that is still running.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a new client may be silent while others wait behind it.
const SILENCE: Duration = Duration::from_secs(5);
/// The folder of users' caches.
#[cfg(unix)]
const CACHE: &str = "XDG_CACHE_HOME";
/// Coarser than the clock of any file system that is likely to hold the data.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// Why the embedded server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the folder.
    #[error("the data folder {} is in use by another customer-accounts process; stop it or choose another with --data-dir", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be made, locked or given a socket.
    #[error("the data folder {} cannot be used: {source}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// PostgreSQL itself; the text is the whole chain of causes.
    #[error("the embedded PostgreSQL cannot start: {0}")]
    Engine(String),
}

/// A running embedded server; dropping it stops it, and waits for that at most 5 seconds.
#[derive(Debug)]
pub struct Embedded {
    config: tokio_postgres::Config,
    stop: CancellationToken,
    relay: JoinHandle<()>,
}

impl Embedded {
    /// Starts a server on the data in `dir`, which is made if it is missing. Nobody else on the
    /// machine can read the data or reach the server (except where there are no Unix sockets: there
    /// it listens on 127.0.0.1).
    ///
    /// # Errors
    /// [`StartError::InUse`] while another process, or another `Embedded` in this one, has the
    /// folder.
    pub async fn start(dir: &Path) -> Result<Self, StartError> {
        let dir = dir.to_owned();
        spawn_blocking(move || Self::start_blocking(&dir)).await.map_err(engine_error)?
    }

    fn start_blocking(dir: &Path) -> Result<Self, StartError> {
        let unusable = |source| StartError::Folder { dir: dir.to_owned(), source };
        let home = std::path::absolute(dir).map_err(unusable)?.join("postgres");
        place::private_folder(&home).map_err(unusable)?;
        let lock = File::create(home.join("lock")).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StartError::InUse(dir.to_owned()),
            TryLockError::Error(source) => unusable(source),
        })?;
        if !home.join("tmp").exists() {
            fill(&home)?;
        }
        let (listener, place) = place::listen(&home).map_err(unusable)?;
        let data = home.join("tmp/pglite/base");
        let engine =
            Engine { home, place, flushed: Flushed { data, until: SystemTime::UNIX_EPOCH } };
        drop(engine.open()?); // what is wrong with the data or the cache shows now, not on the first query
        let mut config = engine.place.config();
        config.user("postgres").dbname("postgres");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A thread of its own: the server outlives the runtime it was started on, as in tests that
        // share one.
        let relay = thread::Builder::new().name("embedded-postgres".into()).spawn(move || {
            if let Err(error) = runtime.block_on(engine.serve(listener, &stopped)) {
                tracing::error!(%error, "the embedded PostgreSQL takes no more connections");
            }
            drop(lock);
        });
        Ok(Self { config, stop, relay: relay.map_err(unusable)? })
    }

    /// How to connect, as the superuser. One connection is served at a time; further ones wait
    /// until it is closed.
    pub fn config(&self) -> tokio_postgres::Config {
        self.config.clone()
    }

    /// Rolls back what is open, disconnects the client and closes the data cleanly. After 5 seconds
    /// it gives up: then the next start repeats the write-ahead log, as after a crash.
    pub async fn stop(self) {
        let _ = spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Embedded {
    #[expect(
        clippy::disallowed_methods,
        reason = "the end of the process waits for the server's thread, which needs no worker"
    )]
    fn drop(&mut self) {
        self.stop.cancel();
        let deadline = Instant::now() + STOP_WITHIN;
        while !self.relay.is_finished() {
            if Instant::now() > deadline {
                return tracing::warn!(
                    "the embedded PostgreSQL is still busy with a statement; leaving it"
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Has the files that the engine unpacks on first use (99 MB) kept in `dir` instead of the user's
/// cache: a container may have no home that can be written to. Call it before anything else, with
/// nothing to lose: it runs the program again with the variable that the engine looks at. Where
/// that variable is set, it has its way. On macOS the engine looks at no variable.
#[cfg(unix)]
#[expect(
    clippy::disallowed_methods,
    reason = "a variable of the engine, which is set for this program alone"
)]
pub fn keep_cache_in(dir: &Path) {
    use std::{env, os::unix::process::CommandExt as _, process::Command};
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let (Ok(program), Ok(dir)) = (env::current_exe(), std::path::absolute(dir)) else { return };
    if cfg!(target_os = "macos") || set(CACHE) {
        return;
    }
    let mut again = Command::new(program);
    again.args(env::args_os().skip(1)).env(CACHE, dir.join("postgres/cache"));
    if !set("HOME") {
        again.env("HOME", dir); // the engine wants to have one
    }
    let _ = again.exec(); // returns only if it fails: then the cache is the user's
}

/// Does nothing on this platform: the crate looks for no `XDG_CACHE_HOME` here, and keeps its cache
/// where the platform has caches.
#[cfg(not(unix))]
pub const fn keep_cache_in(_dir: &Path) {}

fn engine_error(error: impl Display) -> StartError {
    StartError::Engine(format!("{error:#}"))
}

/// Makes a complete, empty database below `home`; killed half-way, it leaves nothing that a later
/// start would take for one.
fn fill(home: &Path) -> Result<(), StartError> {
    let aside = home.join("new");
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(engine_error)?;
    }
    let mut blank = Pglite::builder().path(aside.join("blank")).open().map_err(engine_error)?;
    let archive =
        blank.dump_data_dir_with_format(DataDirArchiveFormat::Tar).map_err(engine_error)?;
    blank.close().map_err(engine_error)?;
    let full = aside.join("full");
    let staged = Pglite::builder().path(&full).load_data_dir_archive(archive).open();
    staged.and_then(|mut staged| staged.close()).map_err(engine_error)?;
    flush(&full, SystemTime::UNIX_EPOCH).map_err(engine_error)?;
    fs::rename(full.join("tmp"), home.join("tmp")).map_err(engine_error)?;
    fs::remove_dir_all(&aside)
        .and_then(|()| place::flush_names(home, SystemTime::UNIX_EPOCH))
        .map_err(engine_error)
}

struct Engine {
    home: PathBuf,
    place: place::Place,
    flushed: Flushed,
}

impl Engine {
    fn open(&self) -> Result<PgliteServer, StartError> {
        let settings = [("allow_system_table_mods", "off"), ("shared_buffers", "32MB")];
        let builder = PgliteServer::builder().path(&self.home).postgres_configs(settings);
        self.place.inner(builder).start().map_err(engine_error)
    }

    async fn serve(mut self, listener: place::Waiting, stop: &CancellationToken) -> io::Result<()> {
        let listener = place::Listener::from_std(listener)?;
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((mut client, _)) = accepted else {
                sleep(Duration::from_millis(100)).await; // out of file descriptors, most likely: they come back
                continue;
            };
            if let Some(Some(opening)) = stop.run_until_cancelled(greet(&mut client)).await {
                self.session(client, opening, stop).await;
            }
        }
        Ok(())
    }

    async fn session(
        &mut self,
        mut client: place::Stream,
        opening: Opening,
        stop: &CancellationToken,
    ) {
        let server = match self.open() {
            Ok(server) => server,
            Err(error) => {
                return tracing::error!(%error, "no connection to the embedded PostgreSQL");
            }
        };
        match place::connect(&server).await {
            Ok(mut engine) => {
                stop.run_until_cancelled(relay(
                    &mut client,
                    opening,
                    &mut engine,
                    &mut self.flushed,
                ))
                .await;
            }
            Err(error) => tracing::error!(%error, "no connection to the embedded PostgreSQL"),
        }
        let _ = spawn_blocking(move || drop(server)).await; // which rolls back and writes a checkpoint
        if let Err(error) = flush(&self.flushed.data, self.flushed.until) {
            tracing::error!(%error, "the embedded PostgreSQL's data is not safe on disk");
        }
    }
}

/// The length and the kind of a client's first message.
type Opening = [u8; 8];

/// Waits for a client to speak. `None` for who gave up before its turn came: it would cost the next
/// one an engine's start.
async fn greet(client: &mut place::Stream) -> Option<Opening> {
    let mut opening = Opening::default();
    timeout(SILENCE, client.read_exact(&mut opening)).await.ok()?.ok()?;
    sleep(Duration::from_millis(1)).await; // in which the runtime hears of a closed end
    let state = client.ready(Interest::READABLE | Interest::WRITABLE).await.ok()?;
    (!state.is_read_closed()).then_some(opening)
}

/// Carries one connection until the engine ends it.
async fn relay(
    client: &mut place::Stream,
    opening: Opening,
    engine: &mut place::Stream,
    flushed: &mut Flushed,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let requests = async {
        let _ = copy(&mut opening.as_slice().chain(&mut from_client), &mut to_engine).await;
        let _ = to_engine.shutdown().await; // however the client's side ended, this is an orderly end
        std::future::pending::<()>().await;
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut heard = true;
        while let Ok(length @ 1..) = from_engine.read(&mut buffer).await {
            let safe = heard
                && flushed
                    .flush()
                    .inspect_err(|error| tracing::error!(%error, "no commit"))
                    .is_ok();
            if heard && !(safe && to_client.write_all(&buffer[..length]).await.is_ok()) {
                heard = false; // the engine must still be heard out
                let _ = to_client.shutdown().await;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// What the engine wrote and the disk has.
struct Flushed {
    data: PathBuf,
    until: SystemTime,
}

impl Flushed {
    fn flush(&mut self) -> io::Result<()> {
        let now = SystemTime::now() - CLOCK_TICK;
        if now < self.until {
            self.until = SystemTime::UNIX_EPOCH; // the clock was set back
        }
        let checkpointed =
            fs::metadata(self.data.join("global/pg_control"))?.modified()? >= self.until;
        let changed = if checkpointed { self.data.clone() } else { self.data.join("pg_wal") };
        flush(&changed, self.until)?;
        self.until = now;
        Ok(())
    }
}

/// Sees to it that the files below `folder` changed since `since` are on disk.
fn flush(folder: &Path, since: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let flushed = fs::metadata(&path).and_then(|found| match found.modified()? {
            _ if found.is_dir() => flush(&path, since),
            changed if changed >= since => {
                File::options().read(true).write(true).open(&path)?.sync_data()
            }
            _ => Ok(()),
        });
        match flushed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    place::flush_names(folder, since)
}

/// The way in: a Unix socket, in the data folder where its path is short enough for one.
#[cfg(unix)]
mod place {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    pub use std::os::unix::net::UnixListener as Waiting;

    pub use tokio::net::{UnixListener as Listener, UnixStream as Stream};

    use super::{File, Path, PathBuf, PgliteServer, PgliteServerBuilder, SystemTime, fs, io};

    const SOCKET: &str = ".s.PGSQL.5432";
    /// Bytes in a socket's path; macOS has the smallest limit.
    const LONGEST: usize = 103;

    pub struct Place {
        folder: PathBuf,
        temporary: bool,
    }

    impl Place {
        pub fn config(&self) -> tokio_postgres::Config {
            let mut config = tokio_postgres::Config::new();
            config.host_path(&self.folder).port(5432);
            config
        }

        pub fn inner(&self, builder: PgliteServerBuilder) -> PgliteServerBuilder {
            builder.unix(self.folder.join("engine"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            if self.temporary {
                let _ = fs::remove_dir_all(&self.folder);
            }
        }
    }

    pub fn private_folder(path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    pub fn listen(home: &Path) -> io::Result<(Waiting, Place)> {
        let mut place = Place { folder: home.to_owned(), temporary: false };
        if home.join(SOCKET).as_os_str().len() > LONGEST {
            let unique = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
            place.folder = std::env::temp_dir().join(format!("ca-{unique:x}"));
            fs::DirBuilder::new().mode(0o700).create(&place.folder)?; // fails if someone else made it
            place.temporary = true;
        }
        let socket = place.folder.join(SOCKET);
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = Waiting::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok((listener, place))
    }

    pub async fn connect(server: &PgliteServer) -> io::Result<Stream> {
        Stream::connect(server.socket_path().ok_or(io::ErrorKind::NotConnected)?).await
    }

    pub fn flush_names(folder: &Path, since: SystemTime) -> io::Result<()> {
        if fs::metadata(folder)?.modified()? >= since {
            File::open(folder)?.sync_all()
        } else {
            Ok(())
        }
    }
}

/// The way in: a port of this machine, chosen by the system.
#[cfg(not(unix))]
mod place {
    pub use std::net::TcpListener as Waiting;
    use std::net::{Ipv4Addr, SocketAddr};

    pub use tokio::net::{TcpListener as Listener, TcpStream as Stream};

    use super::{Path, PgliteServer, PgliteServerBuilder, SystemTime, fs, io};

    pub struct Place(SocketAddr);

    impl Place {
        pub fn config(&self) -> tokio_postgres::Config {
            let mut config = tokio_postgres::Config::new();
            config.host(self.0.ip().to_string()).port(self.0.port());
            config
        }

        pub fn inner(&self, builder: PgliteServerBuilder) -> PgliteServerBuilder {
            builder.tcp((Ipv4Addr::LOCALHOST, 0).into())
        }
    }

    pub fn private_folder(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    pub fn listen(_home: &Path) -> io::Result<(Waiting, Place)> {
        let listener = Waiting::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let place = Place(listener.local_addr()?);
        Ok((listener, place))
    }

    pub async fn connect(server: &PgliteServer) -> io::Result<Stream> {
        Stream::connect(server.tcp_addr().ok_or(io::ErrorKind::NotConnected)?).await
    }

    pub fn flush_names(_folder: &Path, _since: SystemTime) -> io::Result<()> {
        Ok(()) // folders have no sync of their own here
    }
}
