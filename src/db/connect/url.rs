//! The URL of a database, as the configuration gives it.

use std::{error::Error, time::Duration};

use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

/// How long a server may take to accept a connection, unless the URL has `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the URL of a database cannot be used. The text quotes only names of parameters from the URL,
/// because the URL may contain a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Not a PostgreSQL URL, or a parameter that is not supported.
    #[error(
        "{0}; it takes postgres://user:password@host:port/database, and the parameters \
         application_name, channel_binding, connect_timeout, hostaddr, keepalives, \
         keepalives_idle, keepalives_interval, keepalives_retries, load_balance_hosts, options, \
         sslmode (disable, allow or prefer), target_session_attrs (any, read-write or read-only) \
         and tcp_user_timeout"
    )]
    Malformed(String),
    /// The URL asks for TLS.
    #[error(
        "{0}: the service does not encrypt its connection to the database yet. Use a local socket, \
         a private network or a proxy that encrypts, and sslmode=disable or no sslmode"
    )]
    Tls(String),
}

/// Parses the URL of a database. Unless it says otherwise, the server must accept writes
/// (`target_session_attrs=read-write`): of several hosts the first such server is used, and never a
/// standby.
///
/// # Errors
/// The URL is malformed, has a parameter that is not supported, or requires TLS. For values of
/// `sslmode` that make TLS optional, the connection does not use TLS.
pub fn login(url: &str) -> Result<Config, UrlError> {
    let malformed = |error: &dyn Error| {
        UrlError::Malformed(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    };
    // Files of secrets often end in a line break.
    let url = url.trim();
    let is_known = match url.split_once("://") {
        Some((scheme, _)) => matches!(scheme, "postgres" | "postgresql"),
        None => url.contains('='), // the form host=… dbname=…
    };
    if !is_known {
        return Err(UrlError::Malformed("it does not begin with postgres://".to_owned()));
    }
    let (server, query) = url.split_once('?').unwrap_or((url, ""));
    let (tls, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|parameter| parameter.starts_with("ssl"));
    if let Some(wanted) = tls
        .iter()
        .find(|tls| !matches!(**tls, "sslmode=disable" | "sslmode=allow" | "sslmode=prefer"))
    {
        return Err(match wanted.split_once('=').unwrap_or((wanted, "")) {
            ("sslmode", "require" | "verify-ca" | "verify-full") => {
                UrlError::Tls((*wanted).to_owned())
            }
            ("sslmode", _) => UrlError::Malformed("sslmode has no such value".to_owned()),
            (name, _) => UrlError::Tls(name.to_owned()),
        });
    }
    let without_tls =
        if tls.is_empty() { url.to_owned() } else { format!("{server}?{}", others.join("&")) };
    let mut config: Config = without_tls.parse().map_err(|error| malformed(&error))?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(UrlError::Tls("sslmode=require".to_owned()));
    }
    config.ssl_mode(SslMode::Disable);
    if !url.contains("target_session_attrs") {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(config)
}
