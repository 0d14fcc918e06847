//! The endpoint for Prometheus: `GET /metrics` by plain HTTP/1.1, on an address of its own.
//!
//! It asks for no credentials, so it answers nothing else, takes few connections at once, and one
//! request on each, whose headers and answer must be through within a short time.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::TextEncoder;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

/// Most connections at once; further ones are closed.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(10);
/// Longest headers of a request in bytes.
const MAX_HEADERS: usize = 8 * 1024;
/// How long to wait after `accept` failed.
const PAUSE: Duration = Duration::from_millis(100);
const PATH: &str = "/metrics";

/// Answers scrapes until this is dropped.
pub async fn serve_metrics(listener: TcpListener) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(timeout(LIFETIME, serve_connection(stream)));
                }
                Ok(_) => {}
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(stream: TcpStream) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_header_size(MAX_HEADERS)
        .header_read_timeout(LIFETIME / 2)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        tracing::debug!(error = &error as &dyn std::error::Error, "a scrape has failed");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => match spawn_blocking(render).await {
            Ok(Some(metrics)) => {
                let mut response = Response::new(Full::from(metrics));
                let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            _ => empty(StatusCode::INTERNAL_SERVER_ERROR),
        },
        (_, PATH) => {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            response
        }
        _ => empty(StatusCode::NOT_FOUND),
    })
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// All metrics in the text format of Prometheus.
fn render() -> Option<String> {
    TextEncoder::new().encode_to_string(&super::registry()?.gather()).ok()
}
