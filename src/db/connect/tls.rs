//! TLS to the server: its request, the handshake, and what is verified.
//!
//! The files are read for each connection, so that certificates can be replaced while the service
//! runs. No session is resumed, so that every connection is verified.

use std::{error::Error, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use hyper_rustls::ConfigBuilderExt as _;
use postgres_protocol::message::frontend;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, client::Resumption, pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::spawn_blocking,
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    login::{Identity, Mode, Roots, Tls},
    verifier::Verifier,
};
use crate::certificates::{self, FileError};

const ROOTS: &str = "sslrootcert";
const CERT: &str = "sslcert";
const KEY: &str = "sslkey";
/// The protocol that both sides name in the handshake, so that no other server is talked to.
const PROTOCOL: &[u8] = b"postgresql";
/// How long to wait before files that cannot be used are read once more: they may be being
/// replaced.
const SETTLING: Duration = Duration::from_millis(200);

/// Why a connection to a server is not encrypted as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file of the URL's parameters cannot be used.
    #[error("{0}")]
    File(#[from] FileError),
    /// The authorities of the operating system cannot be used.
    #[error("sslrootcert=system: {0}")]
    System(String),
    /// The server does not offer TLS.
    #[error(
        "the server does not offer TLS. Turn it on there (ssl = on), or, if the network in between \
         is private, set sslmode=disable in the URL"
    )]
    NotOffered,
    /// The server's certificate is not trusted.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The server's certificate is not for the host of the URL.
    #[error(
        "the server's certificate is not for the host of the URL: {0}. Use a name of the \
         certificate; hostaddr=… in the URL says where that host is"
    )]
    OtherHost(String),
    /// The server wants a client certificate, or another one.
    #[error("the server does not accept the client certificate (sslcert): {0}")]
    ClientCertificate(String),
    /// The server wants a client certificate, and the URL names none.
    #[error("the server requires a client certificate: set sslcert and sslkey in the URL")]
    NoClientCertificate,
    /// The handshake failed in another way.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

/// Encrypts a connection to a server on which nothing has been sent. `host` is the server's name or
/// number.
pub async fn encrypt(
    mut stream: TcpStream,
    client: Arc<ClientConfig>,
    tls: &Tls,
    mode: Mode,
    host: &str,
) -> Result<TlsStream<TcpStream>, TlsFault> {
    let name = match ServerName::try_from(host) {
        Ok(name) => name.to_owned(),
        Err(_) if mode == Mode::VerifyFull => {
            return Err(TlsFault::OtherHost(format!("no certificate can be for {host:?}")));
        }
        // The name is not verified, so the number does as well.
        Err(_) => stream.peer_addr().map_err(|error| broken(&error))?.ip().into(),
    };
    if !tls.direct {
        request(&mut stream).await?;
    }
    let shows = tls.identity.is_some();
    let handshake = TlsConnector::from(client).connect(name, stream).await;
    let stream = handshake.map_err(|error| TlsFault::of(&error, shows))?;
    if tls.direct && stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(TlsFault::Handshake(
            "with sslnegotiation=direct the server must name the protocol postgresql; PostgreSQL \
             17 or later does"
                .into(),
        ));
    }
    Ok(stream)
}

/// Asks the server for TLS. Reads exactly its answer: what could follow would not be encrypted.
async fn request(stream: &mut TcpStream) -> Result<(), TlsFault> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| broken(&error))?;
    match stream.read_u8().await.map_err(|error| broken(&error))? {
        b'S' => Ok(()),
        b'N' => Err(TlsFault::NotOffered),
        _ => Err(TlsFault::Handshake("the server has not answered the request for TLS".into())),
    }
}

fn broken(error: &io::Error) -> TlsFault {
    TlsFault::Handshake(error.to_string())
}

impl TlsFault {
    /// The fault for an error of the handshake, or of what follows on the connection. `shows` says
    /// whether the client has a certificate.
    fn of(error: &io::Error, shows: bool) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(
                cause @ (CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. }),
            )) => Self::OtherHost(cause.to_string()),
            Some(rustls::Error::InvalidCertificate(cause)) => Self::Untrusted(distrust(cause)),
            Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
                Self::NoClientCertificate
            }
            Some(rustls::Error::AlertReceived(alert)) if shows && is_of_certificate(*alert) => {
                Self::ClientCertificate(format!("it answers {alert:?}"))
            }
            _ => Self::Handshake(error.to_string()),
        }
    }

    /// The fault for which a server has ended a connection at the beginning of the login. With TLS
    /// 1.3 (`late`) it reads the client's certificate only after the client's handshake is
    /// complete, and its alert may be lost when it then closes the connection.
    pub fn after_handshake(error: &tokio_postgres::Error, late: bool, shows: bool) -> Option<Self> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        let ends = [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof];
        let is_over = error.is_closed() || cause.is_some_and(|cause| ends.contains(&cause.kind()));
        match cause.map(|cause| Self::of(cause, shows)) {
            Some(fault @ (Self::ClientCertificate(_) | Self::NoClientCertificate)) => Some(fault),
            _ if is_over && late && shows => Some(Self::ClientCertificate(
                "it has closed the connection after the handshake; its log says why".into(),
            )),
            _ => None,
        }
    }
}

/// Whether a server says by this alert that it does not accept a certificate.
const fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

fn distrust(cause: &CertificateError) -> String {
    match cause {
        CertificateError::UnknownIssuer => {
            "none of the authorities of sslrootcert has signed it".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it, or that of an authority, has expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it, or that of an authority, is not valid yet".into()
        }
        // Such as `CaUsedAsEndEntity`: the certificate of an authority that is not in sslrootcert.
        CertificateError::Other(other) => other.0.to_string(),
        cause => cause.to_string(),
    }
}

/// The contents of the files. No `Debug`, because one is a private key.
struct Contents {
    roots: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    async fn read(tls: &Tls) -> Result<Self, FileError> {
        let roots = match &tls.roots {
            Some(Roots::File(path)) => Some(certificates::read(ROOTS, path).await?),
            _ => None,
        };
        let identity = match &tls.identity {
            Some(Identity { cert, key }) => Some((
                certificates::read(CERT, cert).await?,
                certificates::read_private(KEY, key).await?,
            )),
            None => None,
        };
        Ok(Self { roots, identity })
    }
}

/// The client's side of TLS, with the files as they are now.
pub async fn client(tls: &Tls, mode: Mode) -> Result<Arc<ClientConfig>, TlsFault> {
    let contents = Contents::read(tls).await?;
    match made(tls, mode, contents).await {
        Err(TlsFault::File(_)) => {
            sleep(SETTLING).await;
            made(tls, mode, Contents::read(tls).await?).await
        }
        outcome => outcome,
    }
}

async fn made(tls: &Tls, mode: Mode, contents: Contents) -> Result<Arc<ClientConfig>, TlsFault> {
    let provider = certificates::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFault::Handshake(error.to_string()))?;
    let builder = match (&tls.roots, &contents.roots) {
        (Some(Roots::System), _) => spawn_blocking(|| builder.with_native_roots())
            .await
            .map_err(|error| TlsFault::System(error.to_string()))?
            .map_err(|error| TlsFault::System(error.to_string()))?,
        (Some(Roots::File(path)), Some(pem)) => {
            let (trusted, _) = certificates::certificates(ROOTS, path, pem)?;
            // The certificate of a server that is in the file vouches for nobody else.
            let authorities = trusted.iter().filter(|it| certificates::is_authority(it));
            let roots = certificates::authorities(ROOTS, path, authorities.cloned().collect())?;
            let verifier = Verifier::of(roots, trusted, mode == Mode::VerifyFull, provider);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        _ => {
            let verifier = Verifier::of_nobody(provider);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match (&tls.identity, &contents.identity) {
        (Some(identity), Some((cert, key))) => with_identity(builder, identity, cert, key)?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn with_identity(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    Identity { cert, key }: &Identity,
    cert_pem: &[u8],
    key_pem: &[u8],
) -> Result<ClientConfig, FileError> {
    let (chain, _) = certificates::certificates(CERT, cert, cert_pem)?;
    let private = certificates::private_key(KEY, key, key_pem)?;
    builder.with_client_auth_cert(chain, private).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => FileError::other_key(KEY, key, CERT, cert),
        rustls::Error::General(fault) => FileError::new(KEY, key, fault),
        error => FileError::new(CERT, cert, error.to_string()),
    })
}
