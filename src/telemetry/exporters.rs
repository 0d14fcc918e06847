//! The exporters: OTLP, configured by the standard `OTEL_*` environment variables, and the registry
//! that [`super::serve_metrics`] reads.
//!
//! Those of OTLP run on a small runtime of their own, so that a busy service does not delay them,
//! they do not delay the service, and the flush at shutdown does not depend on the thread that
//! waits for it. Queues are bounded: while the collector cannot be reached, spans are dropped.

use std::{
    env,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use opentelemetry::{Key, KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{
    MetricExporter, SpanExporter, WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use prometheus::Registry;
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use super::{Error, Recorders, sender::HttpSender};

/// How long a shutdown waits for the last export.
const FLUSH: Duration = Duration::from_secs(3);
const SERVICE: &str = env!("CARGO_PKG_NAME");

/// The exporters that are switched on. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Exporters {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// What Prometheus reads.
    registry: Option<Registry>,
    /// Dropped after the flush.
    _background: Option<Background>,
}

/// A runtime that may be dropped inside another one.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn start() -> Result<Self, Error> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("otlp").enable_all().build();
        Ok(Self(Some(runtime.map_err(Error::Thread)?)))
    }

    fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Exporters {
    /// The exporters that the environment configures, and the registry if metrics are served;
    /// `None` if nothing is exported.
    pub(super) fn start(serves_metrics: bool) -> Result<Option<Self>, Error> {
        let traces = wanted("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let metrics = wanted("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        if !(traces || metrics || serves_metrics) {
            return Ok(None);
        }
        let background = (traces || metrics).then(Background::start).transpose()?;
        // A tonic channel belongs to the runtime in which it is made.
        let inside = background.as_ref().and_then(Background::enter);
        let resource = resource();
        let sender = background.as_ref().and_then(Background::handle);
        let spans = |sender| spans(resource.clone(), sender);
        let traces = sender.filter(|_| traces).map(spans).transpose()?;
        let registry = serves_metrics.then(Registry::new);
        let metrics = (metrics || serves_metrics)
            .then(|| measurements(resource, sender.filter(|_| metrics), registry.as_ref()))
            .transpose()?;
        drop(inside);
        Ok(Some(Self { traces, metrics, registry, _background: background }))
    }

    /// What records for the exporters.
    pub(super) fn recorders(&self) -> Recorders {
        Recorders {
            tracer: self.traces.as_ref().map(|provider| provider.tracer(SERVICE)),
            meter: self.metrics.as_ref().map(|provider| provider.meter(SERVICE)),
            registry: self.registry.clone(),
        }
    }
}

impl Drop for Exporters {
    fn drop(&mut self) {
        // Both are stopped at once, each on a thread of its own. A thread is left behind if the
        // collector does not answer in time.
        let (done, finished) = mpsc::channel::<()>();
        if let Some(traces) = self.traces.take() {
            let done = done.clone();
            thread::spawn(move || {
                let _done = done;
                traces.shutdown_with_timeout(FLUSH)
            });
        }
        if let Some(metrics) = self.metrics.take() {
            thread::spawn(move || {
                let _done = done;
                metrics.shutdown_with_timeout(FLUSH)
            });
        } else {
            drop(done);
        }
        let deadline = Instant::now() + FLUSH;
        // The loop ends with an error: all senders are dropped, or the deadline has passed.
        while finished.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

fn spans(resource: Resource, background: &Handle) -> Result<SdkTracerProvider, Error> {
    let exporter = match protocol("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")? {
        Protocol::Http => {
            let builder = SpanExporter::builder().with_http();
            builder.with_http_client(HttpSender::new(background)?).build()?
        }
        Protocol::Grpc => {
            let builder = SpanExporter::builder().with_tonic();
            match tls("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
                Some(tls) => builder.with_tls_config(tls).build()?,
                None => builder.build()?,
            }
        }
    };
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

fn metric_exporter(background: &Handle) -> Result<MetricExporter, Error> {
    Ok(match protocol("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")? {
        Protocol::Http => {
            let builder = MetricExporter::builder().with_http();
            builder.with_http_client(HttpSender::new(background)?).build()?
        }
        Protocol::Grpc => {
            let builder = MetricExporter::builder().with_tonic();
            match tls("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") {
                Some(tls) => builder.with_tls_config(tls).build()?,
                None => builder.build()?,
            }
        }
    })
}

/// Metrics that are sent to a collector by this runtime, read from a registry, or both.
fn measurements(
    resource: Resource,
    background: Option<&Handle>,
    registry: Option<&Registry>,
) -> Result<SdkMeterProvider, Error> {
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    if let Some(background) = background {
        builder = builder.with_periodic_exporter(metric_exporter(background)?);
    }
    if let Some(registry) = registry {
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false) // there is one scope
            .build()?;
        builder = builder.with_reader(exporter);
    }
    Ok(builder.build())
}

/// The value of an environment variable; an empty one counts as unset (OpenTelemetry
/// specification).
#[expect(
    clippy::disallowed_methods,
    reason = "the OTEL_* variables are OpenTelemetry's own configuration"
)]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Whether a signal is exported: an endpoint is set, and the signal is not switched off.
fn wanted(exporter: &str, endpoint: &str) -> bool {
    let disabled =
        variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = variable(exporter).is_some_and(|value| value.eq_ignore_ascii_case("none"));
    let endpoint = variable(endpoint).or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    endpoint.is_some() && !disabled && !none
}

/// How a signal is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

/// The protocol of a signal: that of its own variable, or of the variable for all signals.
fn protocol(own: &'static str) -> Result<Protocol, Error> {
    for name in [own, "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match variable(name).as_deref() {
            None => {}
            Some("grpc") => return Ok(Protocol::Grpc),
            Some("http/protobuf") => return Ok(Protocol::Http),
            Some(value) => {
                return Err(Error::Protocol { variable: name, value: value.to_owned() });
            }
        }
    }
    Ok(Protocol::Grpc)
}

/// TLS with the authorities of this machine, for an endpoint that asks for it. The authorities are
/// read for no other one: where there are none, that is an error.
fn tls(own: &str) -> Option<ClientTlsConfig> {
    let endpoint = variable(own).or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))?;
    let scheme = endpoint.get(.."https://".len())?;
    scheme.eq_ignore_ascii_case("https://").then(|| ClientTlsConfig::new().with_enabled_roots())
}

/// The resource: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, with defaults for what they do
/// not set.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let detected =
        |key: &'static str| detected.get(&Key::from_static_str(key)).map(|value| value.to_string());
    let mut builder = Resource::builder();
    // In the SDK service.name of OTEL_RESOURCE_ATTRIBUTES precedes OTEL_SERVICE_NAME; the
    // specification says the opposite.
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        builder = builder.with_service_name(name);
    } else if detected("service.name").is_none_or(|name| name.starts_with("unknown_service")) {
        builder = builder.with_service_name(SERVICE);
    }
    if detected("service.version").is_none() {
        builder =
            builder.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    // Without it the counters of two replicas would be one series that jumps between their values.
    if detected("service.instance.id").is_none() {
        builder = builder
            .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()));
    }
    builder.build()
}
