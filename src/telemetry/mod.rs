//! Telemetry: logs on stderr always, and OTLP traces and metrics if a collector is configured.
//!
//! [`start`] reads the standard `OTEL_*` variables; without an endpoint there are no exporters and
//! nothing is recorded. [`RpcLayer`] records every call. Telemetry must not carry personal data: a
//! tenant id is none; an actor, a name, an email address and the content of a request are.

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

/// How logs are written. The `OTEL_*` environment variables configure traces and metrics.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which log lines are written: `EnvFilter` directives such as `info` or
    /// `info,customer_accounts=debug`, in the form that [`log_filter`] accepts.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
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
    /// A protocol of OTLP other than gRPC.
    #[error(
        "{variable}={value}: this service exports by gRPC only; leave the variable unset, or set \
         it to `grpc`"
    )]
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
    /// The system could not start a thread.
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

/// The tracer and the meter; unset until [`start`], and each `None` if it is not exported.
static RECORDERS: OnceLock<Recorders> = OnceLock::new();

#[derive(Debug, Default)]
struct Recorders {
    tracer: Option<SdkTracer>,
    meter: Option<Meter>,
}

fn tracer() -> Option<&'static SdkTracer> {
    RECORDERS.get()?.tracer.as_ref()
}

fn meter() -> Option<&'static Meter> {
    RECORDERS.get()?.meter.as_ref()
}

/// Installs the global subscriber and, if an endpoint is set, the exporters. Call it once, before
/// [`RpcLayer::new`] and [`observe_pool`]. It needs no async runtime, and works inside one.
///
/// # Errors
/// The log filter or an `OTEL_*` setting cannot be used, or a subscriber is already installed. A
/// collector that cannot be reached is not an error, now or later.
pub fn start(options: &Options) -> Result<Telemetry, Error> {
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![logs::layer(options)?];
    let exporters = otlp::Exporters::from_env()?;
    let recorders = exporters.as_ref().map(otlp::Exporters::recorders).unwrap_or_default();
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

/// Counts a rejected token in `customer_accounts.tokens.refused`, by `cause`: one of a small fixed
/// number of texts.
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

/// The number of database connections.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// Open connections, used or idle.
    pub connections: u32,
    /// Open connections that are not in use.
    pub idle: u32,
}

/// Exports the pool's state as `db.client.connection.count` by `db.client.connection.state`
/// (`used`, `idle`). `state` is called once in each export interval on the exporter's thread, so it
/// must not block. Does nothing when metrics are off.
pub fn observe_pool(state: impl Fn() -> PoolState + Send + Sync + 'static) {
    let Some(meter) = meter() else { return };
    let idle = [KeyValue::new("db.client.connection.state", "idle")];
    let used = [KeyValue::new("db.client.connection.state", "used")];
    // The semantic conventions make this an up-down counter, which is summed over replicas;
    // backends show it as a gauge. The provider keeps the instrument, not the value that `build`
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
