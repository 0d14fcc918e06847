//! How clients reach the embedded server where there are no Unix sockets: by a port of 127.0.0.1
//! that the system chooses.

pub(super) use std::net::TcpListener as StdListener;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::SystemTime,
};

use pglite_oxide::{PgliteServer, PgliteServerBuilder};
pub(super) use tokio::net::{TcpListener as Listener, TcpStream as Stream};

/// The port that clients connect to.
pub(super) struct Endpoint(SocketAddr);

impl Endpoint {
    /// How to connect.
    pub(super) fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.0.ip().to_string()).port(self.0.port());
        config
    }

    /// Lets the engine listen on another port, to which the relay connects.
    pub(super) fn configure(&self, builder: PgliteServerBuilder) -> PgliteServerBuilder {
        builder.tcp((Ipv4Addr::LOCALHOST, 0).into())
    }
}

/// Makes a folder.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Listens for clients.
pub(super) fn listen(_home: &Path) -> io::Result<(StdListener, Endpoint)> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let endpoint = Endpoint(listener.local_addr()?);
    Ok((listener, endpoint))
}

/// Connects to the engine.
pub(super) async fn connect(server: &PgliteServer) -> io::Result<Stream> {
    Stream::connect(server.tcp_addr().ok_or(io::ErrorKind::NotConnected)?).await
}

/// Does nothing: folders cannot be flushed here.
pub(super) fn flush_folder(_folder: &Path, _since: SystemTime) -> io::Result<()> {
    Ok(())
}
