//! What an operator sees of the service: logs on stderr always, OTLP traces and metrics when a
//! collector is configured.
//!
//! [`start`] reads the standard `OTEL_*` variables; without an endpoint there are no exporters and
//! nothing is recorded. [`RpcLayer`] watches every call. Nothing here may carry personal data: a
//! tenant id is none, an actor, a name, an e-mail address or a request's content is.

mod call;
mod layer;
mod logs;
mod otlp;
mod seldom;

use std::sync::OnceLock;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use opentelemetry_sdk::trace::SdkTracer;
use tracing_subscriber::{
    Layer, Registry, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt,
};

pub use self::{
    call::{set_planned_end, set_tenant, set_workload},
    layer::{Rpc, RpcLayer},
    logs::{LogFormat, log_filter},
    seldom::Seldom,
};

/// Where logs go and how; traces and metrics follow the `OTEL_*` environment variables.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which log lines are written: `EnvFilter` directives such as `info` or
    /// `info,customer_accounts=debug`, as [`log_filter`] takes them.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Why telemetry cannot start. Each names the option that is wrong and what it accepts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter does not parse.
    #[error("--log: {0}; it takes directives such as `info` or `warn,customer_accounts=debug`")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// [`start`] was called twice, or something else installed a subscriber.
    #[error("a global log subscriber is already installed")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// OTLP by anything but gRPC.
    #[error("{variable}={value}: this service exports by gRPC only; leave it unset or say `grpc`")]
    Protocol {
        /// The environment variable that asks for it.
        variable: &'static str,
        /// What it asks for.
        value: String,
    },
    /// An `OTEL_EXPORTER_OTLP_*` setting that cannot be used, such as an endpoint that is no URL.
    #[error("OpenTelemetry exporter: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The system gave no thread.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Running telemetry. Dropping it flushes and stops the exporters, as [`Telemetry::shutdown`] does.
#[must_use = "dropping it stops the exporters"]
#[derive(Debug)]
pub struct Telemetry {
    /// Stops the exporters when dropped.
    _exporters: Option<otlp::Exporters>,
}

/// What the rest of this module records with; unset until [`start`], and each part absent when not
/// exported.
static SINKS: OnceLock<Sinks> = OnceLock::new();

#[derive(Debug, Default)]
struct Sinks {
    tracer: Option<SdkTracer>,
    meter: Option<Meter>,
}

fn tracer() -> Option<&'static SdkTracer> {
    SINKS.get()?.tracer.as_ref()
}

fn meter() -> Option<&'static Meter> {
    SINKS.get()?.meter.as_ref()
}

/// Installs the global subscriber and, where an endpoint is set, the exporters. Call it once,
/// before building [`RpcLayer`] and [`observe_pool`]; it needs no async runtime, and works inside
/// one.
///
/// # Errors
/// An unusable log filter or `OTEL_*` setting, or a subscriber that is already installed. A
/// collector that cannot be reached is no error, now or later.
pub fn start(options: &Options) -> Result<Telemetry, Error> {
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![logs::layer(options)?];
    let exporters = otlp::Exporters::from_env()?;
    let sinks = exporters.as_ref().map(otlp::Exporters::sinks).unwrap_or_default();
    if let Some(tracer) = &sinks.tracer {
        // The calls' own spans are made by `RpcLayer`; this brings in what the code below them
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
    // Cannot be set already: the line above succeeds once in a process.
    let _ = SINKS.set(sinks);
    Ok(Telemetry { _exporters: exporters })
}

impl Telemetry {
    /// Flushes what is recorded and stops the exporters. Blocks the calling thread for at most
    /// three seconds, also when the collector is gone; the exporters have threads of their own, so
    /// it may be called inside any async runtime.
    pub fn shutdown(self) {
        drop(self);
    }
}

/// Counts a token that was refused as `customer_accounts.tokens.refused`, by `cause`: one of a
/// fixed few texts.
pub fn count_refused_token(cause: &'static str) {
    static COUNTER: OnceLock<Option<Counter<u64>>> = OnceLock::new();
    let counter = COUNTER.get_or_init(|| {
        let counter = meter()?.u64_counter("customer_accounts.tokens.refused").with_unit("{token}");
        Some(counter.with_description("Tokens that were refused, by cause").build())
    });
    if let Some(counter) = counter {
        counter.add(1, &[KeyValue::new("cause", cause)]);
    }
}

/// How many database connections there are.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// Open connections, in use or not.
    pub connections: u32,
    /// Those of them that wait for work.
    pub idle: u32,
}

/// Exports the pool's state as `db.client.connection.count` by `db.client.connection.state`
/// (`used`, `idle`). `state` is asked once an export interval, on the exporter's thread, so it must
/// not block. Does nothing when metrics are off.
pub fn observe_pool(state: impl Fn() -> PoolState + Send + Sync + 'static) {
    let Some(meter) = meter() else { return };
    let idle = [KeyValue::new("db.client.connection.state", "idle")];
    let used = [KeyValue::new("db.client.connection.state", "used")];
    // The semantic conventions make this an up-down counter, which sums over replicas; backends
    // show it as a gauge. The instrument lives in the provider, not in the value that `build`
    // returns.
    let _instrument = meter
        .i64_observable_up_down_counter("db.client.connection.count")
        .with_unit("{connection}")
        .with_description("Database connections by state")
        .with_callback(move |observer| {
            let PoolState { connections, idle: waiting } = state();
            observer.observe(i64::from(waiting), &idle);
            observer.observe(i64::from(connections.saturating_sub(waiting)), &used);
        })
        .build();
}
