//! TLS and mutual TLS: reads the configured certificates, checks that they fit together, and makes
//! rustls configurations of them.
//!
//! `reload` replaces them while the service runs. `client` connects the service's own commands to
//! it.

pub mod client;
mod reload;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{sync::watch, time::sleep};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::{caller::workload, config::Transport};

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
    #[error("{option} {}: {fault}", .path.display())]
    File {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
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
    ends: Vec<End>,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads and checks the certificates, if any are configured.
    pub async fn load(config: &Transport) -> Result<Option<Self>, TlsError> {
        let Some(files) = Files::of(config)? else { return Ok(None) };
        let (contents, Usable { config: server, ends }) = files.settled().await?;
        let interval = config.tls_reload_interval;
        Ok(Some(Self { files, interval, contents, ends, current: watch::Sender::new(server) }))
    }

    /// The configuration of new connections.
    pub fn current(&self) -> Current {
        self.current.subscribe()
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
        let (chain, end) = certificates(CERT, &self.cert, &contents.cert)?;
        let mut ends = vec![end];
        let key = private_key(KEY, &self.key, &contents.key)?;
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(pem)) => {
                let (authorities, end) = certificates(CLIENT_CA, path, pem)?;
                ends.push(end);
                builder.with_client_cert_verifier(verifier(path, authorities, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let cert = self.cert.display();
                file(
                    KEY,
                    &self.key,
                    format!("is not the key of the first certificate in {CERT} {cert}"),
                )
            }
            rustls::Error::General(fault) => file(KEY, &self.key, fault),
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
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| {
            file(CLIENT_CA, path, format!("has a certificate that cannot be trusted: {error}"))
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| file(CLIENT_CA, path, error.to_string()))
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

/// The only implementation of cryptography. It is passed explicitly, because the default of the
/// process could be another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn file(option: &'static str, path: &Path, fault: impl Into<String>) -> TlsError {
    TlsError::File { option, path: path.to_owned(), fault: fault.into() }
}

async fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: io::Error| file(option, path, format!("cannot be read: {error}"));
    tokio::fs::read(path).await.map_err(unreadable)
}

/// The certificates of a PEM file, at least one, and when the first of them expires.
fn certificates(
    option: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, End), TlsError> {
    let wrong = |fault: String| file(option, path, fault);
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(not_pem(&error)))?;
    if all.is_empty() {
        return Err(wrong(nothing(pem, "certificate")));
    }
    let mut ends = Vec::with_capacity(all.len());
    for certificate in &all {
        let parsed =
            X509Certificate::from_der(certificate).ok().filter(|(rest, _)| rest.is_empty());
        let (_, parsed) =
            parsed.ok_or_else(|| wrong("has a CERTIFICATE that cannot be parsed".into()))?;
        let end = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0);
        ends.push(end.unwrap_or(DateTime::<Utc>::MAX_UTC));
    }
    let at = ends.into_iter().min().unwrap_or(DateTime::<Utc>::MAX_UTC);
    Ok((all, End { option, at }))
}

fn private_key(
    option: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let fault = match error {
            pem::Error::NoItemsFound if contains(pem, b"ENCRYPTED PRIVATE KEY") => {
                "is encrypted; give the key without a password".into()
            }
            pem::Error::NoItemsFound => nothing(pem, "private key"),
            error => not_pem(&error),
        };
        file(option, path, fault)
    })
}

fn nothing(pem: &[u8], wanted: &str) -> String {
    if contains(pem, b"-----BEGIN ") {
        format!("has no {wanted}")
    } else {
        format!("is not PEM: it has no {wanted}")
    }
}

/// Says nothing of the file's contents, because they may be a key.
fn not_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is not PEM: a BEGIN has no END".into(),
        pem::Error::Base64Decode(_) => {
            "is not PEM: the text between BEGIN and END is not base64".into()
        }
        _ => "is not PEM".into(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
