//! A collector of traces and metrics.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{HistogramDataPoint, Metric, metric::Data},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufStream,
    },
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::certs::Pair;

/// How long anything sent may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

/// An OTLP collector in this process that keeps what it is sent.
pub struct Collector {
    pub endpoint: String,
    seen: watch::Receiver<Seen>,
}

#[derive(Default)]
pub struct Seen {
    pub spans: Vec<(Resource, Span)>,
    /// The latest export; its numbers are cumulative.
    pub metrics: Vec<Metric>,
}

impl Seen {
    /// The calls of a method, if it was called.
    pub fn durations(&self, method: &str) -> Option<HistogramDataPoint> {
        let metric =
            self.metrics.iter().find(|metric| metric.name == "rpc.server.call.duration")?;
        assert_eq!(metric.unit, "s");
        let Some(Data::Histogram(histogram)) = &metric.data else {
            panic!("not a histogram: {metric:?}")
        };
        histogram
            .data_points
            .iter()
            .find(|point| text(&point.attributes, "rpc.method") == method)
            .cloned()
    }

    fn take_spans(&mut self, request: ExportTraceServiceRequest) {
        for batch in request.resource_spans {
            let resource = batch.resource.unwrap_or_default();
            let spans = batch.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.extend(spans.map(|span| (resource.clone(), span)));
        }
    }

    fn take_metrics(&mut self, request: ExportMetricsServiceRequest) {
        let scopes = request.resource_metrics.into_iter().flat_map(|batch| batch.scope_metrics);
        self.metrics = scopes.flat_map(|scope| scope.metrics).collect();
    }
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn listen(tls: bool) -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if tls { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        (listener, endpoint)
    }

    /// One that shows this certificate, if it is given.
    pub async fn start_with(pair: Option<&Pair>) -> Self {
        let (listener, endpoint) = Self::listen(pair.is_some()).await;
        let (sender, seen) = watch::channel(Seen::default());
        let inbox = Inbox(sender);
        let mut server = Server::builder();
        if let Some(pair) = pair {
            let identity = Identity::from_pem(&pair.cert, &pair.key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let server = server
            .add_service(TraceServiceServer::new(inbox.clone()))
            .add_service(MetricsServiceServer::new(inbox))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { endpoint, seen }
    }

    /// One that speaks HTTP/1.1.
    pub async fn by_http(pair: Option<&Pair>) -> Self {
        let (listener, endpoint) = Self::listen(pair.is_some()).await;
        let (sender, seen) = watch::channel(Seen::default());
        let acceptor = pair.map(Pair::acceptor);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, inbox) = (acceptor.clone(), Inbox(sender.clone()));
                tokio::spawn(async move {
                    match acceptor {
                        None => inbox.receive(stream).await,
                        Some(acceptor) => {
                            inbox.receive(acceptor.accept(stream).await.unwrap()).await;
                        }
                    }
                });
            }
        });
        Self { endpoint, seen }
    }

    /// Waits until `wanted` finds something in what was sent.
    pub async fn received<T>(&self, wanted: impl Fn(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.clone();
        let seen = timeout(DEADLINE, seen.wait_for(|seen| wanted(seen).is_some()))
            .await
            .expect("it arrives in time")
            .expect("the collector runs");
        wanted(&seen).expect("it was just there")
    }
}

#[derive(Clone)]
struct Inbox(watch::Sender<Seen>);

impl Inbox {
    /// Takes the requests of a connection.
    async fn receive(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufStream::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap_or_default() == 0 {
                    return;
                }
            }
            let head = head.to_lowercase();
            let header = |name: &str| {
                head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
            };
            assert_eq!(header("content-type"), "application/x-protobuf");
            assert_eq!(header("authorization"), "bearer secret");
            let mut body = vec![0; header("content-length").parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            self.0.send_modify(|seen| match head.split(' ').nth(1) {
                Some("/v1/traces") => seen.take_spans(Message::decode(&*body).unwrap()),
                Some("/v1/metrics") => seen.take_metrics(Message::decode(&*body).unwrap()),
                other => panic!("{other:?}"),
            });
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

#[tonic::async_trait]
impl TraceService for Inbox {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send_modify(|seen| seen.take_spans(request.into_inner()));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Inbox {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.send_modify(|seen| seen.take_metrics(request.into_inner()));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found
        .and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
        .unwrap_or_else(|| panic!("no {key} in {attributes:?}"))
}

/// The text of an attribute.
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match value(attributes, key) {
        Value::StringValue(text) => text,
        other => panic!("{key} is no text: {other:?}"),
    }
}
