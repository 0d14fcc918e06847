//! Sends OTLP by HTTP, with TLS where the endpoint asks for it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::crypto::aws_lc_rs;
use tokio::{runtime::Handle, time::timeout};

use super::Error;

/// Longest answer of a collector in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A client that sends on the exporters' runtime: their threads have none of their own.
#[derive(Debug)]
pub(super) struct HttpSender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    background: Handle,
}

impl HttpSender {
    /// A client that trusts the certificate authorities of this machine.
    pub(super) fn new(background: &Handle) -> Result<Self, Error> {
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(aws_lc_rs::default_provider())
            .map_err(Error::Authorities)?;
        let client =
            Client::builder(TokioExecutor::new()).build(tls.https_or_http().enable_http1().build());
        Ok(Self { client, background: background.clone() })
    }
}

#[tonic::async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let received = async move {
            let (parts, body) = client.request(request.map(Full::from)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        // The timer belongs to the runtime, too.
        let received = async { timeout(ANSWER, received).await };
        #[expect(clippy::disallowed_methods, reason = "the exporter awaits it")]
        self.background.spawn(received).await??
    }
}
