//! Log lines: text on a terminal, one JSON object a line elsewhere, each with the call that it
//! belongs to.
//!
//! The call is added when a line is written, from [`call::with_current`]. So a call that logs
//! nothing costs nothing here.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, LevelFilter},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, JsonFields, Writer},
    },
    layer::{Context, Filter},
    registry::LookupSpan,
};

use super::{
    Error, Options,
    call::{self, Call},
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// Checks the filter of log lines. `EnvFilter` takes a word that is not a level, such as `verbose`,
/// as the name of a target, and then writes nothing else. So here a target must have a level.
///
/// # Errors
/// The directive that cannot be used, and what is accepted.
pub fn log_filter(text: &str) -> Result<String, String> {
    const FORM: &str = "it takes off, error, warn, info, debug or trace, and targets with one of \
                        them: warn,customer_accounts=debug";
    EnvFilter::builder().parse(text).map_err(|error| format!("{error}; {FORM}"))?;
    let bare = text
        .split(',')
        .find(|directive| !directive.contains('=') && directive.parse::<LevelFilter>().is_err());
    bare.map_or_else(
        || Ok(text.to_owned()),
        |directive| Err(format!("{directive:?} is not a level; {FORM}")),
    )
}

/// The layer that writes to stderr.
#[expect(
    clippy::disallowed_methods,
    reason = "NO_COLOR is a convention of terminals, not an option of this service"
)]
pub(super) fn layer(options: &Options) -> Result<Box<dyn Layer<Registry> + Send + Sync>, Error> {
    let filter = EnvFilter::builder().parse(&options.log)?.and(OncePerMinute::default());
    let terminal = io::stderr().is_terminal();
    let json = match options.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    Ok(if json {
        let format = format::json().flatten_event(true).with_span_list(false);
        layer
            .fmt_fields(JsonFields::new())
            .event_format(WithCall { format, json })
            .with_filter(filter)
            .boxed()
    } else {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let format = format::format().with_ansi(colours);
        layer.with_ansi(colours).event_format(WithCall { format, json }).with_filter(filter).boxed()
    })
}

/// Adds the current call to the line that `format` writes.
struct WithCall<F> {
    format: F,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithCall<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.format.format_event(ctx, Writer::new(&mut line), event)?;
        call::with_current(|call| append(&mut line, call, self.json))?;
        writer.write_str(&line)
    }
}

/// Adds the call's fields to the end of a finished line.
fn append(line: &mut String, call: &Call, json: bool) -> fmt::Result {
    line.truncate(line.trim_end_matches('\n').len());
    let closed = json && line.ends_with('}');
    if closed {
        line.pop();
    }
    let mut field = |name: &str, value: &dyn fmt::Display| {
        if closed {
            write!(line, r#","{name}":"{value}""#)
        } else {
            write!(line, " {name}={value}")
        }
    };
    // None of these needs escaping: they are known method names, hexadecimal digits, ids of
    // [A-Za-z0-9_-], SPIFFE IDs and DNS names.
    field("method", &call.method().name())?;
    if let Some(tenant) = call.tenant() {
        field("tenant", &tenant)?;
    }
    if let Some(workload) = call.workload() {
        field("workload", &workload)?;
    }
    if let Some((trace, span)) = call.trace() {
        field("trace_id", &trace)?;
        field("span_id", &span)?;
    }
    line.push_str(if closed { "}\n" } else { "\n" });
    Ok(())
}

/// Writes each warning or error of the OpenTelemetry libraries at most once a minute: they repeat
/// it with every export while the collector cannot be reached.
#[derive(Default)]
struct OncePerMinute(Mutex<HashMap<Identifier, Instant>>);

impl OncePerMinute {
    const PAUSE: Duration = Duration::from_mins(1);

    fn limits(metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("opentelemetry")
    }
}

impl<S> Filter<S> for OncePerMinute {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        if !Self::limits(metadata) {
            return true;
        }
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due =
            last.get(&metadata.callsite()).is_none_or(|at| now.duration_since(*at) >= Self::PAUSE);
        if due {
            last.insert(metadata.callsite(), now);
        }
        due
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::limits(metadata) { Interest::sometimes() } else { Interest::always() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}
