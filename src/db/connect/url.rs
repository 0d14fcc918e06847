//! The URL of a database, as the configuration gives it.

use std::{borrow::Cow, error::Error, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{ChannelBinding, Host, SslMode, TargetSessionAttrs},
};
use url::form_urlencoded;

use super::login::{Identity, Login, Mode, Roots, Tls, is_local};

/// How long a server may take to accept a connection, unless the URL has `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The parameters of TLS, which the driver does not have or has with fewer values.
const TLS: [&str; 5] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation"];

/// Why the URL of a database cannot be used. The text quotes only names and fixed values of
/// parameters from the URL, because the URL may contain a password.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Not a PostgreSQL URL, or a parameter that is not supported.
    #[error(
        "{0}; it takes postgres://user:password@host:port/database, and the parameters \
         application_name, channel_binding, connect_timeout, hostaddr, keepalives, \
         keepalives_idle, keepalives_interval, keepalives_retries, load_balance_hosts, options, \
         sslcert, sslkey, sslmode (disable, require, verify-ca or verify-full), sslnegotiation \
         (postgres or direct), sslrootcert (a PEM file, or system), target_session_attrs (any, \
         read-write or read-only) and tcp_user_timeout"
    )]
    Malformed(String),
    /// The parameters of TLS do not say clearly whether and how the connection is encrypted.
    #[error("{0}")]
    Tls(String),
}

/// Parses the URL of a database. Unless it says otherwise, the server must accept writes
/// (`target_session_attrs=read-write`): of several hosts the first such server is used, and never a
/// standby.
///
/// # Errors
/// The URL is malformed or has a parameter that is not supported, or its parameters of TLS
/// contradict each other.
pub fn login(url: &str) -> Result<Login, UrlError> {
    let malformed = |error: &dyn Error| {
        UrlError::Malformed(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    };
    // Files of secrets often end in a line break.
    let url = url.trim();
    let (others, parameters) = match url.split_once("://") {
        Some(("postgres" | "postgresql", _)) => split_url(url),
        None if url.contains('=') => split_pairs(url), // the form host=… dbname=…
        _ => return Err(UrlError::Malformed("it does not begin with postgres://".to_owned())),
    };
    let mut config: Config = others.parse().map_err(|error| malformed(&error))?;
    require_hosts(&config)?;
    let tls = tls(parameters)?;
    require_sense(&config, &tls)?;
    config.ssl_mode(SslMode::Disable);
    if !url.contains("target_session_attrs") {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(Login { config, tls })
}

/// Fails for a host with a character that no host has: it would be a part of the password, in which
/// that character is not percent-encoded, and later errors name the host.
fn require_hosts(config: &Config) -> Result<(), UrlError> {
    let foreign =
        |name: &str| name.contains(|c: char| c.is_whitespace() || "@&?=/#\\'\"<>{}|^`".contains(c));
    let foreign = |host: &Host| matches!(host, Host::Tcp(name) if foreign(name));
    if config.get_hosts().iter().any(foreign) {
        return Err(UrlError::Malformed(
            "the host has a character that no host has; in a user or password write @ as %40, / \
             as %2F, ? as %3F and : as %3A"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The parameters of TLS, in their order.
type Parameters = Vec<(&'static str, String)>;

fn name_of_tls(name: &str) -> Option<&'static str> {
    TLS.into_iter().find(|known| *known == name)
}

/// Takes the parameters of TLS out of a URL. The rest is divided where the driver divides it.
fn split_url(url: &str) -> (String, Parameters) {
    let host = url.find('@').unwrap_or_default();
    let Some(query) = url[host..].find('?').map(|mark| host + mark) else {
        return (url.to_owned(), Vec::new());
    };
    let (mut parameters, mut others) = (Vec::new(), Vec::new());
    for parameter in url[query + 1..].split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name_of_tls(&decoded(name)) {
            Some(name) => parameters.push((name, decoded(value).into_owned())),
            None => others.push(parameter),
        }
    }
    let separator = if others.is_empty() { "" } else { "?" };
    (format!("{}{separator}{}", &url[..query], others.join("&")), parameters)
}

/// Percent-decodes a text. Unlike in a form, `+` is no blank.
fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('%') {
        let form = text.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
        let pair = form_urlencoded::parse(form.as_bytes()).next();
        return pair.map_or(Cow::Borrowed(text), |(name, _)| name.into_owned().into());
    }
    Cow::Borrowed(text)
}

/// Takes the parameters of TLS out of the form `host=… dbname=…`.
fn split_pairs(text: &str) -> (String, Parameters) {
    let (mut parameters, mut others) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, length) = pair_value(after);
        let next = rest.len() - after.len() + length;
        match name_of_tls(name.trim()) {
            Some(name) => {
                parameters.push((name, value));
                others.push(' '); // nothing divides the neighbours otherwise
            }
            None => others.push_str(&rest[..next]),
        }
        rest = &rest[next..];
    }
    (others + rest, parameters)
}

/// The value at the beginning of a text, which may be in quotes and have escaped characters, and
/// the length of what it takes.
fn pair_value(text: &str) -> (String, usize) {
    let blanks = text.len() - text.trim_start().len();
    let (mut value, mut quoted, mut escaped) = (String::new(), false, false);
    for (place, character) in text.char_indices().skip_while(|(place, _)| *place < blanks) {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '\'' if quoted => return (value, place + 1),
            '\'' if place == blanks => quoted = true,
            _ if character.is_whitespace() && !quoted => return (value, place),
            _ => value.push(character),
        }
    }
    (value, text.len())
}

/// The settings that the parameters of TLS make. Of one that is given twice, the last counts.
fn tls(parameters: Parameters) -> Result<Tls, UrlError> {
    let (mut tls, mut cert, mut key) = (Tls::default(), None, None);
    for (name, value) in parameters {
        let unknown = || UrlError::Malformed(format!("{name} has no such value"));
        match name {
            "sslmode" => {
                tls.mode = Some(match &*value {
                    "disable" => Mode::Disable,
                    "require" => Mode::Require,
                    "verify-ca" => Mode::VerifyCa,
                    "verify-full" => Mode::VerifyFull,
                    "allow" | "prefer" => {
                        return Err(UrlError::Tls(format!(
                            "sslmode={value} would leave it to the network whether the connection is \
                         encrypted: use verify-full, verify-ca or require, or disable"
                        )));
                    }
                    _ => return Err(unknown()),
                });
            }
            "sslnegotiation" => {
                tls.direct = match &*value {
                    "postgres" => false,
                    "direct" => true,
                    _ => return Err(unknown()),
                };
            }
            _ if value.is_empty() => {
                return Err(UrlError::Malformed(format!("{name} names no file")));
            }
            "sslrootcert" if value == "system" => tls.roots = Some(Roots::System),
            "sslrootcert" => tls.roots = Some(Roots::File(value.into())),
            "sslcert" => cert = Some(PathBuf::from(value)),
            _ => key = Some(PathBuf::from(value)),
        }
    }
    tls.identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert, key }),
        (None, None) => None,
        (Some(_), None) => return Err(UrlError::Tls("sslcert needs sslkey, its key".into())),
        (None, Some(_)) => {
            return Err(UrlError::Tls("sslkey needs sslcert, the certificate of the key".into()));
        }
    };
    // As in libpq: these authorities sign for everybody, so only the name tells the server.
    if tls.roots == Some(Roots::System) && tls.mode.is_none() {
        tls.mode = Some(Mode::VerifyFull);
    }
    Ok(tls)
}

/// Fails if a parameter of TLS would have no effect, or needs another one.
fn require_sense(config: &Config, tls: &Tls) -> Result<(), UrlError> {
    let wrong = |text: String| Err(UrlError::Tls(text));
    let (hosts, numbers) = (config.get_hosts(), config.get_hostaddrs());
    let mut all = (0..hosts.len().max(numbers.len()))
        .map(|index| is_local(hosts.get(index), numbers.get(index).copied()));
    let needs_tls = [
        (tls.roots.is_some(), "sslrootcert"),
        (tls.identity.is_some(), "sslcert"),
        (tls.direct, "sslnegotiation=direct"),
        (config.get_channel_binding() == ChannelBinding::Require, "channel_binding=require"),
    ];
    let needs_tls = needs_tls.into_iter().find_map(|(set, name)| set.then_some(name));
    match (tls.mode, needs_tls) {
        (Some(Mode::Disable), Some(name)) => {
            return wrong(format!("{name} has no effect with sslmode=disable: remove one of them"));
        }
        (None, Some(name)) if all.any(|local| local) => {
            return wrong(format!(
                "{name} needs an sslmode: without one, a connection to this machine is not \
                 encrypted"
            ));
        }
        _ => {}
    }
    match (tls.mode, &tls.roots) {
        (Some(Mode::VerifyCa | Mode::VerifyFull), None) => wrong(
            "sslmode=verify-ca and verify-full need sslrootcert: a PEM file with the authorities \
             to trust, or system"
                .into(),
        ),
        (Some(Mode::Require | Mode::VerifyCa), Some(Roots::System)) => wrong(
            "sslrootcert=system needs sslmode=verify-full: these authorities sign for everybody, \
             so the certificate's name has to be verified"
                .into(),
        ),
        (Some(Mode::Require | Mode::VerifyCa | Mode::VerifyFull), _)
            if hosts.iter().any(is_unix) =>
        {
            wrong(
                "PostgreSQL does not encrypt Unix sockets: remove the parameters that begin with \
                 ssl, or name a host"
                    .into(),
            )
        }
        _ => Ok(()),
    }
}

fn is_unix(host: &Host) -> bool {
    !matches!(host, Host::Tcp(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mode of each host of a URL, without its part before the host.
    fn modes(rest: &str) -> Result<Vec<Mode>, String> {
        let Login { config, tls } =
            login(&format!("postgres://u:hunter2@{rest}")).map_err(|error| error.to_string())?;
        let (hosts, numbers) = (config.get_hosts(), config.get_hostaddrs());
        let local = |index| is_local(hosts.get(index), numbers.get(index).copied());
        Ok((0..hosts.len().max(numbers.len())).map(|index| tls.mode_for(local(index))).collect())
    }

    #[test]
    fn the_host_decides_without_sslmode() {
        use Mode::{Disable, Require, VerifyCa, VerifyFull};
        for (rest, wanted) in [
            ("localhost/d", &[Disable][..]),
            ("LocalHost/d", &[Disable]),
            ("127.0.0.1/d", &[Disable]),
            ("127.8.8.8/d", &[Disable]),
            ("[::1]/d", &[Disable]),
            ("[::ffff:127.0.0.1]/d", &[Disable]),
            ("%2Fvar%2Frun/d", &[Disable]),
            ("db.example/d", &[Require]),
            ("localhost.example/d", &[Require]),
            ("db/d", &[Require]),
            ("10.0.0.1/d", &[Require]),
            ("0.0.0.0/d", &[Require]),
            ("[::ffff:10.0.0.1]/d", &[Require]),
            ("localhost,db/d", &[Disable, Require]),
            // The address of the connection and the name that it is for: both must be local.
            ("db/d?hostaddr=127.0.0.1", &[Require]),
            ("localhost/d?hostaddr=10.0.0.1", &[Require]),
            ("localhost/d?hostaddr=127.0.0.1", &[Disable]),
            ("/d?hostaddr=127.0.0.1", &[Disable]),
            ("/d?hostaddr=10.0.0.1", &[Require]),
            ("localhost/d?sslmode=require", &[Require]),
            ("db/d?sslmode=disable", &[Disable]),
            ("db/d?sslrootcert=/ca.pem", &[VerifyCa]),
            ("db/d?sslmode=require&sslrootcert=/ca.pem", &[VerifyCa]),
            ("db/d?sslmode=verify-ca&sslrootcert=/ca.pem", &[VerifyCa]),
            ("db/d?sslmode=verify-full&sslrootcert=/ca.pem", &[VerifyFull]),
            ("db/d?sslmode=verify-full&sslrootcert=system", &[VerifyFull]),
            ("localhost/d?sslrootcert=system", &[VerifyFull]),
            ("db/d?sslmode=disable&sslmode=require", &[Require]),
            ("db/d?channel_binding=require", &[Require]),
            ("db/d?channel_binding=disable&sslmode=disable", &[Disable]),
        ] {
            assert_eq!(modes(rest).as_deref(), Ok(wanted), "{rest}");
        }
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused() {
        for (rest, says) in [
            ("db/d?sslmode=allow", "sslmode=allow would leave it to the network"),
            ("localhost/d?sslmode=prefer", "sslmode=prefer would leave it to the network"),
            ("db/d?sslmode=on", "sslmode has no such value; it takes"),
            ("db/d?sslmode", "sslmode has no such value; it takes"),
            ("db/d?sslnegotiation=fast", "sslnegotiation has no such value; it takes"),
            ("db/d?sslrootcert=", "sslrootcert names no file; it takes"),
            ("db/d?sslkey=&sslcert=/a", "sslkey names no file; it takes"),
            ("db/d?sslcrl=/crl.pem", "unknown option `sslcrl`; it takes"),
            ("db/d?sslcert=/a", "sslcert needs sslkey"),
            ("db/d?sslkey=/a", "sslkey needs sslcert"),
            ("db/d?sslmode=verify-full", "verify-full need sslrootcert"),
            ("db/d?sslmode=verify-ca&sslcert=/a&sslkey=/b", "verify-full need sslrootcert"),
            ("db/d?sslmode=require&sslrootcert=system", "system needs sslmode=verify-full"),
            ("db/d?sslmode=verify-ca&sslrootcert=system", "system needs sslmode=verify-full"),
            ("db/d?sslmode=disable&sslrootcert=/a", "sslrootcert has no effect"),
            ("db/d?sslmode=disable&sslcert=/a&sslkey=/b", "sslcert has no effect"),
            ("db/d?sslmode=disable&sslnegotiation=direct", "sslnegotiation=direct has no effect"),
            ("db/d?sslmode=disable&channel_binding=require", "channel_binding=require has no"),
            ("localhost/d?sslrootcert=/a", "sslrootcert needs an sslmode"),
            ("db,127.0.0.1/d?sslcert=/a&sslkey=/b", "sslcert needs an sslmode"),
            ("localhost/d?channel_binding=require", "channel_binding=require needs an sslmode"),
            ("%2Frun/d?sslmode=require", "does not encrypt Unix sockets"),
            ("%2Frun/d?sslrootcert=system", "does not encrypt Unix sockets"),
            ("db,%2Frun/d?sslmode=verify-ca&sslrootcert=/a", "does not encrypt Unix sockets"),
        ] {
            let refused = modes(rest).unwrap_err();
            assert!(refused.contains(says), "{rest}: {refused}");
            assert!(!refused.contains("hunter2"), "{rest}: {refused}");
        }
    }

    #[test]
    fn a_part_of_a_password_is_no_host() {
        for url in [
            "postgres://u:abc@hunter2@db:5432/d?sslmode=disable",
            "postgres://db:5432/d?user=u&application_name=a@b&password=hunter2&sslmode=disable",
            "host='db hunter2' user=u",
        ] {
            let refused = login(url).unwrap_err().to_string();
            assert!(refused.contains("write @ as %40"), "{url}: {refused}");
            assert!(!refused.contains("hunter2"), "{url}: {refused}");
        }
    }

    #[test]
    fn parameters_are_read_in_both_forms() {
        let wanted = Tls {
            mode: Some(Mode::VerifyFull),
            roots: Some(Roots::File("/a+b &=%/it's/ca.pem".into())),
            identity: Some(Identity { cert: "/c.pem".into(), key: "k.pem".into() }),
            direct: true,
        };
        for url in [
            // A password with a question mark, as the driver takes it.
            "postgres://u:p?w@db/d?sslnegotiation=direct&sslmode=verify-full&application_name=x&\
             sslrootcert=%2Fa+b%20%26%3D%25/it's/ca.pem&sslcert=/c.pem&ssl%6Bey=k.pem",
            "host=db user=u password='p w' sslmode=verify-full sslnegotiation = direct \
             sslrootcert='/a+b &=%/it\\'s/ca.pem' application_name=x sslcert= /c.pem sslkey='k.pem' \
             dbname=d",
        ] {
            let Login { config, tls } = login(url).unwrap();
            assert_eq!(tls, wanted, "{url}");
            assert_eq!(config.get_hosts(), [Host::Tcp("db".into())]);
            assert_eq!((config.get_dbname(), config.get_user()), (Some("d"), Some("u")));
            assert_eq!(config.get_application_name(), Some("x"));
            assert!(matches!(config.get_password(), Some(b"p?w" | b"p w")));
        }
        let glued = "host=db user=u application_name=x sslmode='require'channel_binding=require";
        let Login { config, tls } = login(glued).unwrap();
        assert_eq!((config.get_application_name(), tls.mode), (Some("x"), Some(Mode::Require)));
        assert_eq!(config.get_channel_binding(), ChannelBinding::Require);
        let Login { config, tls } = login("postgres://db/d?sslmode=disable").unwrap();
        assert_eq!((config.get_dbname(), tls.mode), (Some("d"), Some(Mode::Disable)));
    }
}
