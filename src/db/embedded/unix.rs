//! How clients reach the embedded server: by a Unix socket, in the data folder if the path is short
//! enough.

pub(super) use std::os::unix::net::UnixListener as StdListener;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use pglite_oxide::{PgliteServer, PgliteServerBuilder};
pub(super) use tokio::net::{UnixListener as Listener, UnixStream as Stream};

const SOCKET: &str = ".s.PGSQL.5432";
/// Longest path of a socket in bytes; macOS has the smallest limit.
const LONGEST: usize = 103;

/// The socket that clients connect to; a temporary folder of it is removed when this is dropped.
pub(super) struct Endpoint {
    folder: PathBuf,
    temporary: bool,
}

impl Endpoint {
    /// How to connect.
    pub(super) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.folder).port(5432);
        config
    }

    /// Lets the engine listen where only the relay connects.
    pub(super) fn configure(&self, builder: PgliteServerBuilder) -> PgliteServerBuilder {
        builder.unix(self.folder.join("engine"))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Makes a folder that only its owner can read.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Listens for clients.
pub(super) fn listen(home: &Path) -> io::Result<(StdListener, Endpoint)> {
    let mut endpoint = Endpoint { folder: home.to_owned(), temporary: false };
    if home.join(SOCKET).as_os_str().len() > LONGEST {
        let unique = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        endpoint.folder = std::env::temp_dir().join(format!("ca-{unique:x}"));
        fs::DirBuilder::new().mode(0o700).create(&endpoint.folder)?; // fails if the folder exists
        endpoint.temporary = true;
    }
    let socket = endpoint.folder.join(SOCKET);
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok((listener, endpoint))
}

/// Connects to the engine.
pub(super) async fn connect(server: &PgliteServer) -> io::Result<Stream> {
    Stream::connect(server.socket_path().ok_or(io::ErrorKind::NotConnected)?).await
}

/// Flushes the names of the files in a folder, if they have changed since `since`.
pub(super) fn flush_folder(folder: &Path, since: SystemTime) -> io::Result<()> {
    if fs::metadata(folder)?.modified()? >= since { File::open(folder)?.sync_all() } else { Ok(()) }
}
