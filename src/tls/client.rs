//! Connects a command of this program to the service that has the same configuration.
//!
//! It trusts exactly the configured certificate, whatever names that has: commands run beside the
//! service and connect to a loopback address, which no certificate names.

use std::{error::Error, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http::Uri;
use hyper_rustls::ConfigBuilderExt as _;
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{self, Channel, Endpoint};

use super::{CERT, KEY, TlsError};
use crate::{
    certificates::{self, FileError, certificates, private_key, provider, read},
    config::Transport,
};

/// Time that a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two signs of life of a connection that is in use for long.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const TLS_CA: &str = "--tls-ca";
const CLIENT_CERT: &str = "--client-cert";
const CLIENT_KEY: &str = "--client-key";

/// Connects to the service that listens on `address` with this configuration. The error is written
/// for the person at the terminal.
pub async fn connect(address: SocketAddr, config: &Transport) -> Result<Channel, Box<dyn Error>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let absent = |error: transport::Error| {
        let cause = std::iter::successors(error.source(), |&error| error.source())
            .last()
            .map_or_else(String::new, |e| format!(": {e}"));
        format!("no service answers on {address} (--listen){cause}")
    };
    let Some(tls) = connector(config).await? else {
        return Ok(endpoint.connect().await.map_err(absent)?);
    };
    let connect = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            tls.connect(ServerName::from(address.ip()), stream).await.map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector(connect).await.map_err(absent)?)
}

/// Connects to the service at a URL. Its certificate must be for the host of the URL, and signed by
/// one of these authorities, by default by those of the operating system.
pub async fn connect_to(
    url: &Uri,
    authorities: Option<&Path>,
    config: &Transport,
) -> Result<Channel, Box<dyn Error>> {
    let absent = |error: transport::Error| {
        let cause = std::iter::successors(error.source(), |&error| error.source()).last();
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        format!("no service answers at {url} (--server): {cause}")
    };
    let host = url.host().unwrap_or_default().to_owned();
    let encrypts = url.scheme_str() != Some("http");
    let port = url.port_u16().unwrap_or(if encrypts { 443 } else { 80 });
    // The connector below encrypts, so the address to connect to has no scheme of its own.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))?
        .origin(url.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if !encrypts {
        return Ok(endpoint.connect().await.map_err(absent)?);
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone())
        .map_err(|_| format!("--server {url}: no certificate can be for {host:?}"))?;
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        Some(path) => {
            let (chain, _) = certificates(TLS_CA, path, &read(TLS_CA, path).await?)?;
            builder.with_root_certificates(certificates::authorities(TLS_CA, path, chain)?)
        }
        None => builder.with_native_roots()?,
    };
    let mut client = match (&config.client_cert, &config.client_key) {
        (Some(cert), Some(key)) => {
            with_identity(builder, (CLIENT_CERT, cert), (CLIENT_KEY, key)).await?
        }
        (Some(_), None) => return Err(TlsError::Alone(CLIENT_CERT, CLIENT_KEY).into()),
        (None, Some(_)) => return Err(TlsError::Alone(CLIENT_KEY, CLIENT_CERT).into()),
        (None, None) => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(client));
    let connect = tower::service_fn(move |_| {
        let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
        async move {
            let stream = TcpStream::connect((host, port)).await?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector(connect).await.map_err(absent)?)
}

async fn connector(config: &Transport) -> Result<Option<TlsConnector>, TlsError> {
    let Some(path) = &config.tls_cert else { return Ok(None) };
    let (chain, _) = certificates(CERT, path, &read(CERT, path).await?)?;
    let provider = provider();
    let pinned = Pinned { certificate: chain.into_iter().next(), provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned));
    // Mutual TLS requires a certificate. Many certificates are made for both sides, so by default
    // the client shows the service's own.
    let mut client = match (&config.client_cert, &config.client_key) {
        (Some(cert), Some(key)) => {
            with_identity(builder, (CLIENT_CERT, cert), (CLIENT_KEY, key)).await?
        }
        (Some(_), None) => return Err(TlsError::Alone(CLIENT_CERT, CLIENT_KEY)),
        (None, Some(_)) => return Err(TlsError::Alone(CLIENT_KEY, CLIENT_CERT)),
        (None, None) => match &config.tls_key {
            Some(key) if config.tls_client_ca.is_some() => {
                with_identity(builder, (CERT, path), (KEY, key)).await?
            }
            _ => builder.with_no_client_auth(),
        },
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(client).into()))
}

async fn with_identity(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    (cert_option, cert): (&'static str, &Path),
    (key_option, key): (&'static str, &Path),
) -> Result<ClientConfig, TlsError> {
    let (chain, _) = certificates(cert_option, cert, &read(cert_option, cert).await?)?;
    let private = private_key(key_option, key, &read(key_option, key).await?)?;
    let identified = builder.with_client_auth_cert(chain, private);
    identified.map_err(|_| FileError::other_key(key_option, key, cert_option, cert).into())
}

/// Trusts one certificate, and verifies that the server has its key.
#[derive(Debug)]
struct Pinned {
    certificate: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificate.as_ref() == Some(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
