//! One call under way: what is known of it, and what is recorded when it ends.
//!
//! While a task polls a call, the call is the current one of the thread. Log lines and the
//! functions below find it there.
//!
//! A `tracing` span for each call would do the same, but is slower. Measured in a release build
//! without traces, with the log filter at `info`: a call whose task is polled 8 times takes 0.2 µs
//! here (two readings of the clock included, and 9 ns for each further poll), and 2.2 µs with a
//! span (80 ns for each further poll).

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use opentelemetry::{
    Context, ContextGuard, KeyValue,
    metrics::Histogram,
    trace::{SpanId, Status, TraceContextExt as _, TraceId},
};
use tonic::Code;

thread_local! {
    static CURRENT: Cell<Option<Box<Call>>> = const { Cell::new(None) };
}

/// Records the tenant of the thread's current call, so that log lines and the span have it.
/// `tenant` must be a valid tenant id (`[A-Za-z0-9_-]`), because it is written without escaping.
/// Does nothing outside a call.
pub fn set_tenant(tenant: &str) {
    swap(|current| {
        if let Some(call) = current {
            call.tenant = Some(tenant.into());
        }
    });
}

/// Records that the current call ends as planned, whatever its code, such as a stream that the
/// service ends. Does nothing outside a call.
pub fn set_planned_end() {
    swap(|current| {
        if let Some(call) = current {
            call.planned = true;
        }
    });
}

/// Records the workload of the current call. It must be a valid name (`caller::workload`), because
/// it is written without escaping. Does nothing outside a call.
pub fn set_workload(workload: &Arc<str>) {
    swap(|current| {
        if let Some(call) = current {
            call.workload = Some(Arc::clone(workload));
        }
    });
}

/// Calls `show` with the thread's current call, if there is one.
pub(super) fn with_current(show: impl FnOnce(&Call) -> std::fmt::Result) -> std::fmt::Result {
    swap(|current| current.as_deref().map_or(Ok(()), show)).unwrap_or(Ok(()))
}

/// Gives `work` the thread's current call. `None` only while the thread is ending.
fn swap<T>(work: impl FnOnce(&mut Option<Box<Call>>) -> T) -> Option<T> {
    CURRENT
        .try_with(|current| {
            let mut call = current.take();
            let result = work(&mut call);
            current.set(call);
            result
        })
        .ok()
}

/// A method, with the attributes of its metrics, which are made once.
#[derive(Debug)]
pub(super) struct Method {
    /// `accounts.v1.AccountService/GetAccount`
    name: Arc<str>,
    /// `rpc.system.name`, `rpc.method`
    attributes: [KeyValue; 2],
    /// Attributes by status code, made when the code first occurs.
    by_code: [OnceLock<Box<[KeyValue]>>; CODES.len()],
}

impl Method {
    /// `path` is `package.Service/Method`.
    pub(super) fn new(path: &str) -> Self {
        let name = Arc::<str>::from(path);
        // A reference-counted text, so that cloning the attributes allocates nothing.
        let method = KeyValue::new("rpc.method", Arc::clone(&name));
        let attributes = [KeyValue::new("rpc.system.name", "grpc"), method];
        Self { name, attributes, by_code: Default::default() }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The attributes that a span of this method starts with.
    pub(super) fn attributes(&self) -> [KeyValue; 2] {
        self.attributes.clone()
    }

    fn measured(&self, code: Code) -> &[KeyValue] {
        let made = self.by_code.get(code as usize).map(|slot| {
            slot.get_or_init(|| self.attributes().into_iter().chain(outcome(code, false)).collect())
        });
        made.map_or(&[], |attributes| attributes.as_ref())
    }
}

/// The attributes of a call that has ended. The planned end of a stream is no error.
fn outcome(code: Code, planned: bool) -> impl Iterator<Item = KeyValue> {
    let error = (is_our_fault(code) && !planned).then(|| KeyValue::new("error.type", name(code)));
    std::iter::once(KeyValue::new("rpc.response.status_code", name(code))).chain(error)
}

/// The metrics of calls.
#[derive(Debug)]
pub(super) struct Meters {
    /// Seconds; `None` when metrics are off.
    pub(super) duration: Option<Histogram<f64>>,
    pub(super) in_flight: AtomicUsize,
}

/// The method, times and log fields of a call in progress.
#[derive(Debug)]
pub(super) struct Call {
    method: Arc<Method>,
    meters: Arc<Meters>,
    started: Instant,
    /// The call's span; `None` when traces are off.
    context: Option<Context>,
    trace: Option<(TraceId, SpanId)>,
    tenant: Option<Box<str>>,
    /// See [`set_planned_end`].
    planned: bool,
    workload: Option<Arc<str>>,
}

impl Call {
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    pub(super) fn workload(&self) -> Option<&str> {
        self.workload.as_deref()
    }

    /// The span of the call; when traces are off, the span of its caller.
    pub(super) fn trace(&self) -> Option<(TraceId, SpanId)> {
        self.trace
    }

    /// Records the duration, ends the span, and returns the milliseconds that the call took.
    fn end(&self, code: Code) -> f64 {
        let took = self.started.elapsed();
        self.meters.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(duration) = &self.meters.duration {
            let seconds = took.as_secs_f64();
            if self.planned {
                let method = self.method.attributes();
                let attributes: Vec<_> = method.into_iter().chain(outcome(code, true)).collect();
                duration.record(seconds, &attributes);
            } else {
                duration.record(seconds, self.method.measured(code));
            }
        }
        if let Some(span) = self.context.as_ref().map(|context| context.span())
            && span.is_recording()
        {
            span.set_attributes(outcome(code, self.planned));
            if let Some(tenant) = &self.tenant {
                span.set_attribute(KeyValue::new("tenant.id", tenant.to_string()));
            }
            if let Some(workload) = &self.workload {
                span.set_attribute(KeyValue::new("workload", Arc::clone(workload)));
            }
            if is_our_fault(code) && !self.planned {
                span.set_status(Status::error(name(code)));
            }
            span.end();
        }
        // Rounded to microseconds.
        (took.as_secs_f64() * 1e6).round() / 1e3
    }
}

/// A call that ends with [`Running::finish`], or by being dropped, which counts as `CANCELLED`.
#[derive(Debug)]
pub(super) struct Running(Option<Box<Call>>);

impl Running {
    pub(super) fn new(
        method: Arc<Method>,
        meters: Arc<Meters>,
        context: Option<Context>,
        trace: Option<(TraceId, SpanId)>,
    ) -> Self {
        meters.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Some(Box::new(Call {
            method,
            meters,
            started: Instant::now(),
            context,
            trace,
            tenant: None,
            workload: None,
            planned: false,
        })))
    }

    /// Makes this the thread's current call until the guard is dropped.
    pub(super) fn enter(&mut self) -> Entered<'_> {
        let context = self.0.as_ref().and_then(|call| call.context.clone()).map(Context::attach);
        let outer = swap(|current| std::mem::replace(current, self.0.take())).flatten();
        Entered { running: self, outer, _context: context }
    }

    /// Ends the call. Does nothing the second time.
    pub(super) fn finish(&mut self, code: Code) {
        let Some(call) = &self.0 else { return };
        let (duration_ms, planned) = (call.end(code), call.planned);
        let entered = self.enter();
        log(code, duration_ms, planned);
        drop(entered);
        self.0 = None;
    }

    /// Moves the call to whatever continues it.
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

/// See [`Running::enter`].
pub(super) struct Entered<'a> {
    running: &'a mut Running,
    outer: Option<Box<Call>>,
    _context: Option<ContextGuard>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let outer = self.outer.take();
        self.running.0 = swap(|current| std::mem::replace(current, outer)).flatten();
    }
}

/// Logs the one line of a finished call. The writer adds the method, the tenant and the trace.
fn log(code: Code, duration_ms: f64, planned: bool) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "customer_accounts::rpc",
                code = name(code),
                duration_ms,
                "call finished"
            )
        };
    }
    match code {
        // Every watch ends as cancelled.
        Code::Ok | Code::Cancelled => line!(debug),
        _ if planned => line!(debug),
        Code::Unknown | Code::Internal | Code::DataLoss => line!(error),
        Code::DeadlineExceeded | Code::Unavailable => line!(warn),
        _ => line!(info),
    }
}

/// Whether a server's span with this code is an error (OpenTelemetry conventions for gRPC).
fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN")
}

/// The names of the gRPC status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
