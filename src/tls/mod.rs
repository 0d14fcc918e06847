//! TLS and mutual TLS: reads the configured certificates, checks that they fit together, and makes
//! rustls configurations of them.
//!
//! `reload` replaces them while the service runs. `client` connects the service's own commands to
//! it.

pub mod client;
mod reload;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use opentelemetry::KeyValue;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{sync::watch, time::sleep};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::{
    caller::workload,
    certificates::{FileError, authorities, certificates, private_key, provider, read},
    config::Transport,
    telemetry::metrics::CERTIFICATE_REMAINING,
};

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";
/// How long to wait before files that do not fit together at the start are read again.
const SETTLING: Duration = Duration::from_millis(200);

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An option is set without one that it needs.
    #[error("{0} is set, but not {1}, which it requires")]
    Alone(&'static str, &'static str),
    /// A file does not have the required contents.
    #[error(transparent)]
    File(#[from] FileError),
    /// Each certificate is valid, but rustls cannot serve with them.
    #[error("{CERT}: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The configuration of new connections; changes when the certificates do.
pub type Current = watch::Receiver<Arc<ServerConfig>>;

/// The server's side of TLS, as configured.
pub struct Tls {
    files: Files,
    interval: Duration,
    contents: Contents,
    /// When the certificates in use expire.
    ends: watch::Sender<Vec<End>>,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads and checks the certificates, if any are configured.
    pub async fn load(config: &Transport) -> Result<Option<Self>, TlsError> {
        let Some(files) = Files::of(config)? else { return Ok(None) };
        let (contents, Usable { config: server, ends }) = files.settled().await?;
        let interval = config.tls_reload_interval;
        let (ends, current) = (watch::Sender::new(ends), watch::Sender::new(server));
        Ok(Some(Self { files, interval, contents, ends, current }))
    }

    /// The configuration of new connections.
    pub fn current(&self) -> Current {
        self.current.subscribe()
    }

    /// Exports the time that is left of the certificates.
    fn observe(&self) {
        let ends = self.ends.subscribe();
        CERTIFICATE_REMAINING.observe_each(move |observe| {
            for End { option, at } in ends.borrow().iter() {
                let option = KeyValue::new("option", option.trim_start_matches('-'));
                observe((*at - Utc::now()).as_seconds_f64(), &[option]);
            }
        });
    }
}

/// The configured files.
#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The contents of the files. No `Debug`, because one is a private key.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Certificates that have passed every check.
struct Usable {
    config: Arc<ServerConfig>,
    ends: Vec<End>,
}

/// When the first of a file's certificates expires.
#[derive(Debug, Clone, Copy)]
struct End {
    option: &'static str,
    at: DateTime<Utc>,
}

impl Files {
    fn of(config: &Transport) -> Result<Option<Self>, TlsError> {
        let client_ca = config.tls_client_ca.clone();
        match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => {
                Ok(Some(Self { cert: cert.clone(), key: key.clone(), client_ca }))
            }
            (Some(_), None) => Err(TlsError::Alone(CERT, KEY)),
            (None, Some(_)) => Err(TlsError::Alone(KEY, CERT)),
            (None, None) if client_ca.is_some() => Err(TlsError::Alone(CLIENT_CA, CERT)),
            (None, None) => Ok(None),
        }
    }

    async fn read(&self) -> Result<Contents, TlsError> {
        let client_ca = match &self.client_ca {
            Some(path) => Some(read(CLIENT_CA, path).await?),
            None => None,
        };
        Ok(Contents {
            cert: read(CERT, &self.cert).await?,
            key: read(KEY, &self.key).await?,
            client_ca,
        })
    }

    /// The contents of the files as soon as they can be used; fails once they no longer change and
    /// still cannot. A service may start while the files are being replaced.
    async fn settled(&self) -> Result<(Contents, Usable), TlsError> {
        let mut contents = self.read().await?;
        loop {
            match self.check(&contents) {
                Ok(usable) => return Ok((contents, usable)),
                Err(error) => {
                    sleep(SETTLING).await;
                    let later = self.read().await?;
                    if later == contents {
                        return Err(error);
                    }
                    contents = later;
                }
            }
        }
    }

    /// Checks the contents of all files, and that they fit together.
    fn check(&self, contents: &Contents) -> Result<Usable, TlsError> {
        let (chain, at) = certificates(CERT, &self.cert, &contents.cert)?;
        let mut ends = vec![End { option: CERT, at }];
        let key = private_key(KEY, &self.key, &contents.key)?;
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let (trusted, at) = certificates(CLIENT_CA, path, pem)?;
                ends.push(End { option: CLIENT_CA, at });
                builder.with_client_cert_verifier(verifier(path, trusted, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                FileError::other_key(KEY, &self.key, CERT, &self.cert).into()
            }
            rustls::Error::General(fault) => FileError::new(KEY, &self.key, fault).into(),
            error => TlsError::Unusable(error),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Every connection must show its certificate: a resumed one would be accepted by a
        // certificate that may have expired since. gRPC connections live long, so resumption would
        // save little.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Usable { config: Arc::new(config), ends })
    }
}

/// Verifies that one of these authorities has signed a client's certificate.
fn verifier(
    path: &Path,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    let roots = Arc::new(authorities(CLIENT_CA, path, trusted)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
    verifier.map_err(|error| FileError::new(CLIENT_CA, path, error.to_string()))
}

/// The workload that a verified client certificate names.
pub fn workload(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns.push(*name),
            _ => {}
        }
    }
    workload::named(&uris, &dns)
}
