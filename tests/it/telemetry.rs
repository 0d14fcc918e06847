//! Traces and metrics reach a collector, and a missing collector hurts nobody.

use std::time::{Duration, Instant};

use customer_accounts::proto::{
    Account, Address, Contact, GetAccountRequest, ListAccountTypesRequest, ListAccountsRequest,
    UpdateAccountRequest, account_type_service_client::AccountTypeServiceClient,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};

use crate::support::{
    Tenant, account,
    certs::Authority,
    collector::{Collector, text},
    eventually,
    process::{Service, run},
};

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(10);
const LIST: &str = "accounts.v1.AccountTypeService/ListAccountTypes";
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

    let name = LIST;
    let (resource, span) = collector
        .received(|seen| seen.spans.iter().find(|(_, span)| span.name == name).cloned())
        .await;
    assert_eq!(hex(&span.trace_id), TRACE_ID);
    assert_eq!(hex(&span.parent_span_id), PARENT_ID);
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(span.kind, SpanKind::Server as i32);
    assert_eq!(text(&span.attributes, "rpc.system.name"), "grpc");
    assert_eq!(text(&span.attributes, "rpc.method"), name);
    assert_eq!(text(&span.attributes, "rpc.response.status_code"), "OK");
    assert_eq!(text(&resource.attributes, "service.name"), "accounts-under-test");
    assert_eq!(text(&resource.attributes, "deployment.environment.name"), "test");

    let point = collector.received(|seen| seen.durations(name)).await;
    assert_eq!(point.count, 1);
    assert_eq!(text(&point.attributes, "rpc.system.name"), "grpc");
    assert_eq!(text(&point.attributes, "rpc.response.status_code"), "OK");
    assert!(point.attributes.iter().all(|it| it.key != "error.type"), "{point:?}");
    let seconds = point.sum.expect("a histogram has a sum");
    assert!(seconds > 0.0 && seconds < DEADLINE.as_secs_f64(), "{seconds} s");
    let gauge = "db.client.connection.count";
    collector
        .received(|seen| seen.metrics.iter().any(|metric| metric.name == gauge).then_some(()))
        .await;
}

/// The same by HTTP, and with TLS by either protocol. Prometheus can read the metrics meanwhile.
#[tokio::test]
async fn otlp_goes_by_either_protocol_with_and_without_tls() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, &authority.pem).unwrap();
    let pair = authority.server();
    for (protocol, tls) in [("http/protobuf", false), ("http/protobuf", true), ("grpc", true)] {
        let pair = tls.then_some(&pair);
        let collector = match protocol {
            "grpc" => Collector::start_with(pair).await,
            _ => Collector::by_http(pair).await,
        };
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret"),
            ("SSL_CERT_FILE", authorities.to_str().unwrap()),
        ];
        let service = Service::fresh(&["--metrics-listen", "127.0.0.1:0"], &environment).await;
        list_account_types(&service).await.expect("the call succeeds");
        service.terminate();
        assert!(service.ended().await.success());
        let (_, span) = collector
            .received(|seen| seen.spans.iter().find(|(_, span)| span.name == LIST).cloned())
            .await;
        assert_eq!(hex(&span.trace_id), TRACE_ID, "{protocol}, TLS: {tls}");
        let point = collector.received(|seen| seen.durations(LIST)).await;
        assert_eq!(point.count, 1, "{protocol}, TLS: {tls}");
    }
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] {
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), (name, "http/json")];
        let ended = run(&["check"], &environment).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let message = format!("{name}=http/json: it takes grpc");
        assert!(ended.stderr.contains(&message), "{}", ended.stderr);
    }
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

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
