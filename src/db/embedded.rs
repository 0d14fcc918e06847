//! The embedded PostgreSQL, which `cargo run` uses when there is no `DATABASE_URL`.
//!
//! `pglite-oxide` is PostgreSQL 17 compiled to WebAssembly. This module hides three of its
//! properties:
//! - It overlays a new data folder on a template in the user's cache. This ties the data to one
//!   release of the crate, and files are copied non-atomically while it runs. So a new folder is
//!   filled completely under another name, and then renamed.
//! - It cannot sync to disk: `fsync=on` reaches no system call, and panics on folders. So `fsync`
//!   is off in the engine. The relay flushes the write-ahead log, and all files after a checkpoint,
//!   before any answer reaches the client.
//! - It stops for good at the first I/O error of a connection. So clients connect to a relay, which
//!   shows the engine only orderly ends, and every connection gets a new engine. One connection is
//!   served at a time; the others wait.
//!
//! The engine has no timers: `statement_timeout`, cancel requests and autovacuum have no effect.

#[cfg(not(unix))]
mod elsewhere;
mod flushed;
#[cfg(unix)]
mod unix;

use std::{
    fmt::Display,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use pglite_oxide::{DataDirArchiveFormat, Pglite, PgliteServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest, copy},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

#[cfg(not(unix))]
use self::elsewhere as socket;
use self::flushed::{Flushed, flush};
#[cfg(unix)]
use self::unix as socket;

/// How long [`Embedded::stop`] waits for a statement that is still running.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a new client may be silent before the next one is served.
const SILENCE: Duration = Duration::from_secs(5);
/// The variable that names the folder of the user's caches.
#[cfg(unix)]
const CACHE: &str = "XDG_CACHE_HOME";

/// Why the embedded server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process uses the folder.
    #[error(
        "the data folder {} is in use by another customer-accounts process: stop that process, \
         or choose another folder with --data-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The folder cannot be made, locked or given a socket.
    #[error("the data folder {} cannot be used: {source}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// PostgreSQL failed; the text is the whole chain of causes.
    #[error("the embedded PostgreSQL cannot start: {0}")]
    Engine(String),
}

/// A running embedded server. Dropping it stops it, and waits for that at most 5 seconds.
#[derive(Debug)]
pub struct Embedded {
    config: tokio_postgres::Config,
    stop: CancellationToken,
    relay: JoinHandle<()>,
}

impl Embedded {
    /// Starts a server on the data in `dir`, which is created if it is missing. Other users of the
    /// machine can neither read the data nor reach the server. (Where there are no Unix sockets,
    /// they can reach it: it listens on 127.0.0.1.)
    ///
    /// # Errors
    /// [`StartError::InUse`] while another process, or another `Embedded` of this process, uses the
    /// folder.
    pub async fn start(dir: &Path) -> Result<Self, StartError> {
        let dir = dir.to_owned();
        spawn_blocking(move || Self::start_blocking(&dir)).await.map_err(engine_error)?
    }

    fn start_blocking(dir: &Path) -> Result<Self, StartError> {
        let unusable = |source| StartError::Folder { dir: dir.to_owned(), source };
        let home = std::path::absolute(dir).map_err(unusable)?.join("postgres");
        socket::private_folder(&home).map_err(unusable)?;
        let lock = File::create(home.join("lock")).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StartError::InUse(dir.to_owned()),
            TryLockError::Error(source) => unusable(source),
        })?;
        if !home.join("tmp").exists() {
            fill(&home)?;
        }
        let (listener, endpoint) = socket::listen(&home).map_err(unusable)?;
        let data = home.join("tmp/pglite/base");
        let engine =
            Engine { home, endpoint, flushed: Flushed { data, until: SystemTime::UNIX_EPOCH } };
        // Shows now, not on the first query, what is wrong with the data or the cache.
        drop(engine.open()?);
        let mut config = engine.endpoint.config();
        config.user("postgres").dbname("postgres");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A thread of its own, because the server outlives the runtime that it was started on:
        // tests share one server.
        let relay = thread::Builder::new().name("embedded-postgres".into()).spawn(move || {
            if let Err(error) = runtime.block_on(engine.serve(listener, &stopped)) {
                tracing::error!(%error, "the embedded PostgreSQL accepts no more connections");
            }
            drop(lock);
        });
        Ok(Self { config, stop, relay: relay.map_err(unusable)? })
    }

    /// How to connect, as the superuser. One connection is served at a time; others wait until it
    /// is closed.
    pub fn config(&self) -> tokio_postgres::Config {
        self.config.clone()
    }

    /// Rolls back the open transaction, disconnects the client and closes the data cleanly. Gives
    /// up after 5 seconds; the next start then replays the write-ahead log, as after a crash.
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
                    "the embedded PostgreSQL is still running a statement; the next start will \
                     replay its write-ahead log"
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Makes the engine unpack its files (99 MB, on first use) in `dir` instead of the user's cache,
/// because a container may have no writable home. It does so by running the program again with the
/// variable that the engine reads, so call it before anything else. A variable that is set already
/// is left as it is. On macOS the engine reads no variable.
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
        again.env("HOME", dir); // the engine requires one
    }
    let _ = again.exec(); // returns only if it fails; then the user's cache is used
}

/// Does nothing on this platform: the engine does not read `XDG_CACHE_HOME` here.
#[cfg(not(unix))]
pub const fn keep_cache_in(_dir: &Path) {}

fn engine_error(error: impl Display) -> StartError {
    StartError::Engine(format!("{error:#}"))
}

/// Creates a complete, empty database below `home`. If it is interrupted, it leaves nothing that a
/// later start would take for a database.
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
        .and_then(|()| socket::flush_folder(home, SystemTime::UNIX_EPOCH))
        .map_err(engine_error)
}

struct Engine {
    home: PathBuf,
    endpoint: socket::Endpoint,
    flushed: Flushed,
}

impl Engine {
    fn open(&self) -> Result<PgliteServer, StartError> {
        let settings = [("allow_system_table_mods", "off"), ("shared_buffers", "32MB")];
        let builder = PgliteServer::builder().path(&self.home).postgres_configs(settings);
        self.endpoint.configure(builder).start().map_err(engine_error)
    }

    async fn serve(
        mut self,
        listener: socket::StdListener,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let listener = socket::Listener::from_std(listener)?;
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((mut client, _)) = accepted else {
                // Most likely there are no file descriptors left for the moment.
                sleep(Duration::from_millis(100)).await;
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
        mut client: socket::Stream,
        opening: Opening,
        stop: &CancellationToken,
    ) {
        let server = match self.open() {
            Ok(server) => server,
            Err(error) => {
                return tracing::error!(%error, "the embedded PostgreSQL cannot serve a connection");
            }
        };
        match socket::connect(&server).await {
            Ok(mut engine) => {
                stop.run_until_cancelled(relay(
                    &mut client,
                    opening,
                    &mut engine,
                    &mut self.flushed,
                ))
                .await;
            }
            Err(error) => {
                tracing::error!(%error, "the embedded PostgreSQL cannot serve a connection");
            }
        }
        // Stopping the engine rolls back and writes a checkpoint.
        let _ = spawn_blocking(move || drop(server)).await;
        if let Err(error) = flush(&self.flushed.data, self.flushed.until) {
            tracing::error!(%error, "the embedded PostgreSQL's data may not be on disk");
        }
    }
}

/// The length and the type of a client's first message.
type Opening = [u8; 8];

/// Waits for the first message of a client. `None` for a client that has disconnected while it
/// waited for its turn: serving it would start an engine for nothing.
async fn greet(client: &mut socket::Stream) -> Option<Opening> {
    let mut opening = Opening::default();
    timeout(SILENCE, client.read_exact(&mut opening)).await.ok()?.ok()?;
    sleep(Duration::from_millis(1)).await; // so that the runtime notices a closed connection
    let state = client.ready(Interest::READABLE | Interest::WRITABLE).await.ok()?;
    (!state.is_read_closed()).then_some(opening)
}

/// Relays one connection until the engine ends it.
async fn relay(
    client: &mut socket::Stream,
    opening: Opening,
    engine: &mut socket::Stream,
    flushed: &mut Flushed,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let requests = async {
        let _ = copy(&mut opening.as_slice().chain(&mut from_client), &mut to_engine).await;
        // However the client's connection ended, the engine sees an orderly end.
        let _ = to_engine.shutdown().await;
        std::future::pending::<()>().await;
    };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut client_reads = true;
        while let Ok(length @ 1..) = from_engine.read(&mut buffer).await {
            let safe = client_reads
                && flushed
                    .flush()
                    .inspect_err(
                        |error| tracing::error!(%error, "the write-ahead log cannot be flushed"),
                    )
                    .is_ok();
            if client_reads && !(safe && to_client.write_all(&buffer[..length]).await.is_ok()) {
                client_reads = false; // the engine must still be read to its end
                let _ = to_client.shutdown().await;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}
