//! Channel binding: the login proves over an encrypted connection that it is for this server's
//! certificate, so that nobody in between can pass it on.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use aws_lc_rs::digest::{Algorithm, SHA224, SHA256, SHA384, SHA512, digest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, signature_algorithm::SignatureAlgorithm,
};

/// What the driver takes for its TLS: the handshake has been done before the driver gets the
/// socket, and this only tells it the hash of the server's certificate.
#[derive(Debug, Default)]
pub struct Established {
    /// `None` if the connection is not encrypted, or there is no hash for the certificate.
    pub certificate_hash: Option<Vec<u8>>,
}

/// A socket whose handshake has been done.
#[derive(Debug)]
pub struct Bound<S> {
    socket: S,
    certificate_hash: Option<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Established {
    type Stream = Bound<S>;
    type Error = Infallible;
    type Future = Ready<Result<Bound<S>, Infallible>>;

    fn connect(self, socket: S) -> Self::Future {
        ready(Ok(Bound { socket, certificate_hash: self.certificate_hash }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Bound<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let hash = self.certificate_hash.clone();
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The hash of a server's certificate that is bound to (`tls-server-end-point`, RFC 5929): by the
/// hash of the certificate's signature, and SHA-256 instead of MD5 and SHA-1. `None` for signatures
/// without a hash of their own, such as Ed25519, for which the binding is not defined.
pub fn certificate_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let signature = &parsed.signature_algorithm;
    let identifier = match SignatureAlgorithm::try_from(signature).ok()? {
        SignatureAlgorithm::RSASSA_PSS(parameters) => {
            parameters.hash_algorithm_oid().to_id_string()
        }
        _ => signature.algorithm.to_id_string(),
    };
    Some(digest(hash_of(&identifier)?, certificate).as_ref().to_vec())
}

/// The hash for a signature or, of RSASSA-PSS, for a hash, by its object identifier.
fn hash_of(identifier: &str) -> Option<&'static Algorithm> {
    Some(match identifier {
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256; SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => &SHA256,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => &SHA224,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => &SHA512,
        _ => return None,
    })
}
