//! Fetches an issuer's key set from an HTTPS URL or a file.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::bytes::Bytes;
use rustls::crypto::aws_lc_rs;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    jwks::{KeySet, MAX_BYTES},
    options::KeySource,
};

/// How long an issuer may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The source of a key set, with the client to fetch it.
#[derive(Debug)]
pub(super) enum Source {
    Url(Box<HttpClient>, Uri),
    File(PathBuf),
}

impl Source {
    /// A source. Its client trusts the certificate authorities of this machine.
    pub(super) fn new(source: &KeySource) -> Result<Self, String> {
        Ok(match source {
            KeySource::File(path) => Self::File(path.clone()),
            KeySource::Url(uri) => {
                let tls = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(aws_lc_rs::default_provider());
                let tls = tls.map_err(|error| {
                    format!(
                        "no certificate authorities to check {uri} with: {error}; \
                         SSL_CERT_FILE can name a file of them"
                    )
                })?;
                // The configuration decides which URLs may be without TLS. Redirects, which could
                // lead elsewhere, are not followed.
                let connector = tls.https_or_http().enable_http1().build();
                let client = Client::builder(TokioExecutor::new())
                    .pool_max_idle_per_host(0)
                    .build(connector);
                Self::Url(Box::new(client), uri.clone())
            }
        })
    }

    /// Fetches the current set, or says why that failed.
    pub(super) async fn load(&self) -> Result<KeySet, String> {
        match self {
            Self::Url(client, uri) => {
                let bytes = timeout(ANSWER, fetch(client, uri)).await;
                KeySet::parse(&bytes.map_err(|_| format!("no answer within {ANSWER:?}"))??)
            }
            Self::File(path) => {
                let path = path.clone();
                spawn_blocking(move || read(&path)).await.map_err(|error| error.to_string())?
            }
        }
    }
}

/// Reads a set from a file, blocking.
pub(super) fn read(path: &Path) -> Result<KeySet, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    KeySet::parse(&bytes)
}

async fn fetch(client: &HttpClient, uri: &Uri) -> Result<Bytes, String> {
    let request = Request::get(uri)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, USER_AGENT);
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| chain(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|error| chain(&*error))?;
    Ok(body.to_bytes())
}

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<_> = std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect();
    causes.join(": ")
}
