//! How the service logs in to a database: what the driver needs, and whether and how the connection
//! is encrypted, which the driver's configuration cannot say.

use std::{net::IpAddr, path::PathBuf};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, SslNegotiation},
};

/// The login of a database.
#[derive(Debug, Clone)]
pub struct Login {
    pub(super) config: Config,
    pub(super) tls: Tls,
}

impl From<Config> for Login {
    /// The login of a configuration without files for TLS. Its `sslmode` counts if it is `disable`
    /// or `require`; otherwise the host decides.
    fn from(config: Config) -> Self {
        let mode = match config.get_ssl_mode() {
            SslMode::Disable => Some(Mode::Disable),
            SslMode::Require => Some(Mode::Require),
            _ => None,
        };
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        Self { config, tls: Tls { mode, direct, ..Tls::default() } }
    }
}

impl Login {
    /// Sets the `application_name`, unless the URL has one.
    #[must_use]
    pub fn or_application_name(mut self, name: &str) -> Self {
        if self.config.get_application_name().is_none() {
            self.config.application_name(name);
        }
        self
    }
}

/// Whether a connection is encrypted, and what is checked of the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Not encrypted.
    Disable,
    /// Encrypted; any certificate is accepted.
    Require,
    /// The certificate must be signed by a trusted authority.
    VerifyCa,
    /// The certificate must also have the host's name.
    VerifyFull,
}

/// The authorities that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those in a PEM file.
    File(PathBuf),
    /// Those that the operating system trusts.
    System,
}

/// The files of the client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The settings of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// `None` if the host decides.
    pub mode: Option<Mode>,
    pub roots: Option<Roots>,
    pub identity: Option<Identity>,
    /// Whether TLS begins at once, without PostgreSQL's own request for it (`sslnegotiation`).
    pub direct: bool,
}

impl Tls {
    /// The mode for a host. Without `sslmode` the connection to a local host is not encrypted, and
    /// that to any other is. As in libpq, `require` verifies the certificate's authority if there
    /// are authorities to verify it by.
    pub fn mode_for(&self, local: bool) -> Mode {
        let default = if local { Mode::Disable } else { Mode::Require };
        match self.mode.unwrap_or(default) {
            Mode::Require if self.roots.is_some() => Mode::VerifyCa,
            mode => mode,
        }
    }
}

/// Whether a server is on this machine by what the URL says of it: its host, and the number that
/// replaces the lookup of the host. A name other than `localhost` is not local, whatever its
/// address is.
pub fn is_local(host: Option<&Host>, number: Option<IpAddr>) -> bool {
    let is_name_local = match host {
        None => true,
        Some(Host::Tcp(name)) => {
            name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
        }
        #[cfg(unix)]
        Some(Host::Unix(_)) => true,
    };
    is_name_local && number.is_none_or(is_loopback)
}

/// Whether an address is of this machine only.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
