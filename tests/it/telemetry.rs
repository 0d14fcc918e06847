//! Traces and metrics reach a collector, and a missing collector hurts nobody.

use std::time::{Duration, Instant};

use customer_accounts::proto::{
    Account, Address, Contact, GetAccountRequest, ListAccountTypesRequest, ListAccountsRequest,
    UpdateAccountRequest, account_type_service_client::AccountTypeServiceClient,
};
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
    trace::v1::{Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};

use crate::support::{Tenant, account, eventually, process::Service};

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(10);
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";

#[tokio::test]
async fn a_call_is_exported_as_span_and_measurement() {
    let collector = Collector::start().await;
    // The export intervals stay at their defaults of many seconds: what arrives was flushed at
    // shutdown.
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_SDK_DISABLED", "false"),
        ("OTEL_SERVICE_NAME", "accounts-under-test"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
    ];
    let service = Service::fresh(&[], &environment).await;
    list_account_types(&service).await.expect("the call succeeds");
    service.terminate();
    assert!(service.ended().await.success());

    let name = "accounts.v1.AccountTypeService/ListAccountTypes";
    let (resource, span) = collector
        .received(|seen| seen.spans.iter().find(|(_, span)| span.name == name).cloned())
        .await;
    assert_eq!(hex(&span.trace_id), TRACE_ID);
    assert_eq!(hex(&span.parent_span_id), PARENT_ID);
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(span.kind, SpanKind::Server as i32);
    assert_eq!(text(&span.attributes, "rpc.system"), "grpc");
    assert_eq!(text(&span.attributes, "rpc.service"), "accounts.v1.AccountTypeService");
    assert_eq!(text(&span.attributes, "rpc.method"), "ListAccountTypes");
    assert_eq!(number(&span.attributes, "rpc.grpc.status_code"), 0);
    assert_eq!(text(&resource.attributes, "service.name"), "accounts-under-test");
    assert_eq!(text(&resource.attributes, "deployment.environment.name"), "test");

    let point = collector.received(|seen| seen.durations("ListAccountTypes")).await;
    assert_eq!(point.count, 1);
    assert_eq!(text(&point.attributes, "rpc.service"), "accounts.v1.AccountTypeService");
    assert_eq!(number(&point.attributes, "rpc.grpc.status_code"), 0);
    let seconds = point.sum.expect("a histogram has a sum");
    assert!(seconds > 0.0 && seconds < DEADLINE.as_secs_f64(), "{seconds} s");
    let gauge = "db.client.connection.count";
    collector
        .received(|seen| seen.metrics.iter().any(|metric| metric.name == gauge).then_some(()))
        .await;
}

#[tokio::test]
async fn an_absent_collector_delays_neither_calls_nor_shutdown() {
    // A port that was free a moment ago: connections to it are refused.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    drop(listener);
    let service = Service::fresh(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]).await;
    list_account_types(&service).await.expect("the call succeeds");
    let stopping = Instant::now();
    service.terminate();
    assert!(service.ended().await.success());
    assert!(stopping.elapsed() < DEADLINE);
}

/// Nothing that a request says about people reaches the log, however the call ends and however much
/// is logged.
#[tokio::test]
async fn no_log_line_carries_personal_data() {
    const SECRETS: [&str; 10] = [
        "Quentin",
        "Zabriskie",
        "zabriskie-mail",
        "zabriskie-actor",
        "5550199",
        "Xanadu",
        "Oubliette",
        "Vellichor",
        "Yggdrasil",
        "Psithur",
    ];
    let service = Service::fresh(&["--log", "debug"], &[]).await;
    let tenant = Tenant::on(service.channel().await).with_actor("zabriskie-actor");
    tenant.organization("o", "").await;
    let person = Account {
        display_name: "Quentin Oubliette".into(),
        primary_contact: Some(Contact {
            name: "Quentin Zabriskie".into(),
            email: "zabriskie-mail@example.com".into(),
            phone: "+41 5550199".into(),
            ..Default::default()
        }),
        billing_address: Some(Address { line1: "Xanadu 1".into(), ..Default::default() }),
        comment: "Vellichor".into(),
        ..account("a", "o")
    };
    tenant.account(person.clone()).await;
    let mut accounts = tenant.accounts();
    let mut codes = Vec::new();
    let no_email =
        Contact { name: "Zabriskie".into(), email: "zabriskie-mail".into(), ..Default::default() };
    for wrong in [
        person.clone(),
        Account { account_id: "b".into(), organization_id: "Yggdrasil".into(), ..person.clone() },
        Account { account_id: "c".into(), account_type_id: "Yggdrasil".into(), ..person.clone() },
        Account { account_id: "d".into(), primary_contact: Some(no_email), ..person.clone() },
        // PostgreSQL has no such character, and says so with the text around it.
        Account { account_id: "e".into(), comment: "Vellichor \0".into(), ..person.clone() },
        Account {
            account_id: "f".into(),
            display_name: "Oubliette \u{fffe}".repeat(40),
            ..person.clone()
        },
    ] {
        codes.push(
            tenant.try_account(wrong).await.map_or_else(|status| status.code(), |_| Code::Ok),
        );
    }
    for (query, page_token) in [("Psithur zabriskie-mail@example.com", ""), ("", "Yggdrasil")] {
        let request = ListAccountsRequest {
            query: query.into(),
            page_token: page_token.into(),
            ..Default::default()
        };
        codes.push(
            accounts.list_accounts(request).await.map_or_else(|status| status.code(), |_| Code::Ok),
        );
    }
    let stale = Account { etag: "Psithur".into(), ..person.clone() };
    let update = UpdateAccountRequest {
        account: Some(stale),
        request_id: "Psithur-1".into(),
        ..Default::default()
    };
    codes.push(
        accounts.update_account(update).await.map_or_else(|status| status.code(), |_| Code::Ok),
    );
    let missing = GetAccountRequest { account_id: "Yggdrasil".into() };
    codes.push(
        accounts
            .get_account(missing.clone())
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok),
    );
    let refused = tenant
        .with_actor("zabriskie-actor")
        .with_roles("Psithur")
        .accounts()
        .get_account(missing)
        .await;
    codes.push(refused.unwrap_err().code());
    assert!(codes.iter().filter(|code| **code != Code::Ok).count() >= 8, "{codes:?}");

    let log = service.log();
    service.terminate();
    service.ended().await;
    let text = eventually(DEADLINE, "the end of the log", async || {
        Some(log.text()).filter(|text| text.contains("shutting down"))
    })
    .await;
    assert!(text.matches("call finished").count() > 10, "the log is there:\n{text}");
    for secret in SECRETS {
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.to_lowercase().contains(&secret.to_lowercase()))
            .collect();
        assert!(lines.is_empty(), "{secret} in the log: {lines:#?}");
    }
}

async fn list_account_types(service: &Service) -> Result<(), Status> {
    let mut request = Request::new(ListAccountTypesRequest::default());
    let parent = format!("00-{TRACE_ID}-{PARENT_ID}-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header value"));
    request.metadata_mut().insert("tracestate", "vendor=1".parse().expect("a header value"));
    AccountTypeServiceClient::new(service.channel().await)
        .list_account_types(request)
        .await
        .map(|_| ())
}

/// An OTLP collector in this process that keeps what it is sent.
struct Collector {
    endpoint: String,
    seen: watch::Receiver<Seen>,
}

#[derive(Default)]
struct Seen {
    spans: Vec<(Resource, Span)>,
    /// The latest export; its numbers are cumulative.
    metrics: Vec<Metric>,
}

impl Seen {
    /// The calls of a method, if it was called.
    fn durations(&self, method: &str) -> Option<HistogramDataPoint> {
        let metric = self.metrics.iter().find(|metric| metric.name == "rpc.server.duration")?;
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
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (sender, seen) = watch::channel(Seen::default());
        let inbox = Inbox(sender);
        let server = Server::builder()
            .add_service(TraceServiceServer::new(inbox.clone()))
            .add_service(MetricsServiceServer::new(inbox))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { endpoint, seen }
    }

    /// Waits until `wanted` finds something in what was sent.
    async fn received<T>(&self, wanted: impl Fn(&Seen) -> Option<T>) -> T {
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

#[tonic::async_trait]
impl TraceService for Inbox {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send_modify(|seen| {
            for batch in request.into_inner().resource_spans {
                let resource = batch.resource.unwrap_or_default();
                let spans = batch.scope_spans.into_iter().flat_map(|scope| scope.spans);
                seen.spans.extend(spans.map(|span| (resource.clone(), span)));
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Inbox {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes =
            request.into_inner().resource_metrics.into_iter().flat_map(|batch| batch.scope_metrics);
        self.0.send_modify(|seen| seen.metrics = scopes.flat_map(|scope| scope.metrics).collect());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> &'a Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found
        .and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
        .unwrap_or_else(|| panic!("no {key} in {attributes:?}"))
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match value(attributes, key) {
        Value::StringValue(text) => text,
        other => panic!("{key} is no text: {other:?}"),
    }
}

fn number(attributes: &[KeyValue], key: &str) -> i64 {
    match value(attributes, key) {
        Value::IntValue(number) => *number,
        other => panic!("{key} is no number: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
