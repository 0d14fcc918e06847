//! The OTLP exporters, configured by the standard `OTEL_*` environment variables.
//!
//! They run on a small runtime of their own, so that a busy service does not delay them, they do
//! not delay the service, and the flush at shutdown does not depend on the thread that waits for
//! it. Queues are bounded: while the collector cannot be reached, spans are dropped.

use std::{
    env,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use opentelemetry::{Key, KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tokio::runtime::{Builder, Runtime};

use super::{Error, Recorders};

/// How long a shutdown waits for the last export.
const FLUSH: Duration = Duration::from_secs(3);
const SERVICE: &str = env!("CARGO_PKG_NAME");

/// The exporters that are switched on. Dropping them stops them.
#[derive(Debug)]
pub(super) struct Exporters {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// Dropped after the flush.
    _background: Background,
}

/// A runtime that may be dropped inside another one.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Exporters {
    /// The exporters that the environment configures; `None` if it configures none.
    pub(super) fn from_env() -> Result<Option<Self>, Error> {
        let traces = wanted("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let metrics = wanted("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        if !(traces || metrics) {
            return Ok(None);
        }
        only_grpc("OTEL_EXPORTER_OTLP_PROTOCOL")?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()?;
        let background = Background(Some(runtime));
        // A tonic channel belongs to the runtime in which it is made.
        let inside = background.0.as_ref().map(Runtime::enter);
        let resource = resource();
        let traces = traces.then(|| spans(resource.clone())).transpose()?;
        let metrics = metrics.then(|| measurements(resource)).transpose()?;
        drop(inside);
        Ok(Some(Self { traces, metrics, _background: background }))
    }

    /// The tracer and the meter of the exporters.
    pub(super) fn recorders(&self) -> Recorders {
        Recorders {
            tracer: self.traces.as_ref().map(|provider| provider.tracer(SERVICE)),
            meter: self.metrics.as_ref().map(|provider| provider.meter(SERVICE)),
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

fn spans(resource: Resource) -> Result<SdkTracerProvider, Error> {
    only_grpc("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")?;
    let exporter = SpanExporter::builder().with_tonic().build()?;
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

fn measurements(resource: Resource) -> Result<SdkMeterProvider, Error> {
    only_grpc("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")?;
    let exporter = MetricExporter::builder().with_tonic().build()?;
    Ok(SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(exporter).build())
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

fn only_grpc(name: &'static str) -> Result<(), Error> {
    match variable(name) {
        Some(value) if value != "grpc" => Err(Error::Protocol { variable: name, value }),
        _ => Ok(()),
    }
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
