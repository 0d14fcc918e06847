//! The addresses of a login's servers, and how a socket to one is opened.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts},
};
use uuid::Uuid;

use super::login::{is_local, is_loopback};
use crate::db::pool::ConnectError;

const DEFAULT_PORT: u16 = 5432;

/// The address of a server.
#[derive(Debug, Clone)]
pub enum Address {
    Tcp {
        address: SocketAddr,
        /// The host that the certificate must name: a name, or the number of the address.
        host: String,
        /// Whether the server is on this machine.
        local: bool,
    },
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// The address of a host. `named` says whether the host is local by the name in the URL.
    fn tcp(address: SocketAddr, host: &str, named: bool) -> Self {
        let local = named && is_loopback(address.ip());
        Self::Tcp { address, host: host.to_owned(), local }
    }

    /// The addresses to try, in order. A host that cannot be resolved is skipped if there are
    /// others.
    pub async fn all(config: &Config) -> Result<Vec<Self>, ConnectError> {
        let (hosts, numbers) = (config.get_hosts(), config.get_hostaddrs());
        let (mut addresses, mut unknown) = (Vec::new(), None);
        for index in 0..hosts.len().max(numbers.len()) {
            let (host, number) = (hosts.get(index), numbers.get(index).copied());
            let ports = config.get_ports();
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT);
            let local = is_local(host, number);
            match (number, host) {
                // With `hostaddr` the name is not looked up.
                (Some(number), Some(Host::Tcp(name))) => {
                    addresses.push(Self::tcp((number, port).into(), name, local));
                }
                (Some(number), _) => addresses.push(Self::of_number(number, port, local)),
                (None, Some(Host::Tcp(name))) => match lookup_host((&**name, port)).await {
                    Ok(found) => addresses.extend(found.map(|it| Self::tcp(it, name, local))),
                    Err(error) => {
                        unknown = Some(format!("the host {name:?} is not found: {error}"));
                    }
                },
                #[cfg(unix)]
                (None, Some(Host::Unix(folder))) => {
                    addresses.push(Self::Unix(folder.join(format!(".s.PGSQL.{port}"))));
                }
                (None, None) => {}
            }
        }
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random && !addresses.is_empty() {
            let (_, random) = Uuid::now_v7().as_u64_pair();
            let first = usize::try_from(random).unwrap_or_default() % addresses.len();
            addresses.rotate_left(first);
        }
        match unknown {
            Some(unknown) if addresses.is_empty() => Err(ConnectError::Connect(unknown)),
            _ => Ok(addresses),
        }
    }

    fn of_number(number: IpAddr, port: u16, local: bool) -> Self {
        Self::tcp((number, port).into(), &number.to_string(), local)
    }
}

/// Opens a TCP connection with the configuration's keepalives and timeouts.
pub async fn dial(config: &Config, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        #[cfg(not(windows))]
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    SockRef::from(&stream).set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    Ok(stream)
}
