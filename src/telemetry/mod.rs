//! Telemetry: logs on stderr always, OTLP traces and metrics if a collector is configured, and
//! metrics for Prometheus if there is an address for them.
//!
//! [`start`] reads the standard `OTEL_*` variables; without an endpoint there are no exporters and
//! nothing is recorded. [`RpcLayer`] records every call, and [`metrics`] has everything else that
//! is measured. Telemetry must not carry personal data: a tenant id is none; an actor, a name, an
//! email address and the content of a request are.

mod call;
mod database;
mod endpoint;
mod exporters;
mod instrument;
mod layer;
mod logs;
pub mod metrics;
mod seldom;
mod sender;

use std::sync::OnceLock;

use opentelemetry::{KeyValue, metrics::Meter};
use opentelemetry_sdk::trace::SdkTracer;
use prometheus::Registry;
use tracing_subscriber::{
    Layer, Registry as Subscriber, filter::LevelFilter, layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use self::{
    call::{set_planned_end, set_tenant, set_workload},
    database::{
        Operation, PoolState, Waiting, observe_pools, record_connect, warn_slow_statement,
        warn_statement_given_up,
    },
    endpoint::serve_metrics,
    layer::{Rpc, RpcLayer},
    logs::{LogFormat, log_filter},
    seldom::Seldom,
};

/// How logs are written, and whether metrics are served. The `OTEL_*` environment variables
/// configure what is sent to a collector.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which log lines are written: `EnvFilter` directives such as `info` or
    /// `info,customer_accounts=debug`, in the form that [`log_filter`] accepts.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether [`serve_metrics`] will be called.
    pub serves_metrics: bool,
}

/// Why telemetry cannot start. Each message names the wrong option and what it accepts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter does not parse.
    #[error("--log: {0}; it takes directives such as `info` or `warn,customer_accounts=debug`")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// [`start`] was called twice, or something else installed a subscriber.
    #[error("a global log subscriber is already installed")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// An unknown protocol of OTLP.
    #[error("{variable}={value}: it takes grpc, which is the default, or http/protobuf")]
    Protocol {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// An `OTEL_EXPORTER_OTLP_*` setting that cannot be used, such as an endpoint that is not a
    /// URL.
    #[error("OpenTelemetry exporter: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The metrics for Prometheus cannot be registered.
    #[error("--metrics-listen: {0}")]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// The system could not start a thread.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(std::io::Error),
    /// There are no certificate authorities to check a collector with.
    #[error(
        "OpenTelemetry exporter: no certificate authorities: {0}; SSL_CERT_FILE can name a file of \
         them"
    )]
    Authorities(std::io::Error),
}

/// Running telemetry. Dropping it flushes and stops the exporters, as [`Telemetry::shutdown`] does.
#[must_use = "dropping it stops the exporters"]
#[derive(Debug)]
pub struct Telemetry {
    /// Stops the exporters when dropped.
    _exporters: Option<exporters::Exporters>,
}

/// The tracer, the meter and the registry of Prometheus; unset until [`start`], and each `None` if
/// it is not exported.
static RECORDERS: OnceLock<Recorders> = OnceLock::new();

#[derive(Debug, Default)]
struct Recorders {
    tracer: Option<SdkTracer>,
    meter: Option<Meter>,
    registry: Option<Registry>,
}

fn tracer() -> Option<&'static SdkTracer> {
    RECORDERS.get()?.tracer.as_ref()
}

fn meter() -> Option<&'static Meter> {
    RECORDERS.get()?.meter.as_ref()
}

fn registry() -> Option<&'static Registry> {
    RECORDERS.get()?.registry.as_ref()
}

/// Installs the global subscriber and, if an endpoint is set or metrics are served, the exporters.
/// Call it once, before [`RpcLayer::new`] and before anything is measured. It needs no async
/// runtime, and works inside one.
///
/// # Errors
/// The log filter or an `OTEL_*` setting cannot be used, or a subscriber is already installed. A
/// collector that cannot be reached is not an error, now or later.
pub fn start(options: &Options) -> Result<Telemetry, Error> {
    let mut layers: Vec<Box<dyn Layer<Subscriber> + Send + Sync>> = vec![logs::layer(options)?];
    let exporters = exporters::Exporters::start(options.serves_metrics)?;
    let recorders = exporters.as_ref().map(exporters::Exporters::recorders).unwrap_or_default();
    if let Some(tracer) = &recorders.tracer {
        // `RpcLayer` makes the spans of calls. This layer adds the spans that the code below them
        // opens with `info_span!`.
        let ours = tracing_subscriber::filter::filter_fn(|metadata| {
            metadata.is_span() && metadata.target().starts_with("customer_accounts")
        });
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO));
        layers.push(spans.boxed());
    }
    tracing_subscriber::registry().with(layers).try_init()?;
    // It is not set yet: `try_init` succeeds once in a process.
    let _ = RECORDERS.set(recorders);
    for events in metrics::EVENTS {
        events.begin();
    }
    metrics::BUILD_INFO.observe_each(|observe| {
        observe(1.0, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
    });
    Ok(Telemetry { _exporters: exporters })
}

impl Telemetry {
    /// Flushes what is recorded and stops the exporters. Blocks the calling thread for at most
    /// three seconds, also if the collector does not answer. The exporters have their own threads,
    /// so it may be called inside any async runtime.
    pub fn shutdown(self) {
        drop(self);
    }
}
