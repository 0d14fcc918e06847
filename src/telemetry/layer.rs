//! The tower layer that records every call, from its headers to the last frame of its answer.
//!
//! The status of a call is in a header if there is no answer, and otherwise in the answer's
//! trailers. So the answer's body is wrapped too; a body that is dropped before its trailers counts
//! as cancelled. Spans and the histogram `rpc.server.call.duration` have the names of the
//! OpenTelemetry semantic conventions 1.44.0: `rpc.system.name`, `rpc.method`,
//! `rpc.response.status_code` and, if the status is a fault of the service, `error.type`.

use std::{
    collections::HashMap,
    error::Error as StdError,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context as TaskContext, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanBuilder, SpanId, SpanKind, TraceContextExt as _, TraceId, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use tonic::{Code, body::Body};
use tower::{BoxError, Layer, Service};

use super::{
    call::{Meters, Method, Running},
    metrics::CALLS_ACTIVE,
};

/// Upper bounds of the duration histogram in seconds: those of the OpenTelemetry RPC conventions,
/// and smaller ones for the reads of this service.
const BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0,
];

/// Records a span, a duration and a log line for every call. Must be the outermost layer, so that
/// it includes the answers and the time of the other layers.
#[derive(Debug, Clone)]
pub struct RpcLayer {
    methods: Arc<Methods>,
}

#[derive(Debug)]
struct Methods {
    /// By request path, `/package.Service/Method`.
    known: HashMap<Box<str>, Arc<Method>>,
    other: Arc<Method>,
    meters: Arc<Meters>,
    tracer: Option<&'static SdkTracer>,
}

impl RpcLayer {
    /// `paths` are the existing methods, as `/package.Service/Method`. A call of any other counts
    /// as `_OTHER`, so that callers cannot create new series. Start telemetry before, if it is to
    /// be used.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let known = paths.into_iter().map(|path| {
            let name = path.as_ref().trim_start_matches('/');
            (format!("/{name}").into_boxed_str(), Arc::new(Method::new(name)))
        });
        let methods = Methods {
            known: known.collect(),
            other: Arc::new(Method::new("_OTHER")),
            meters: meters(),
            tracer: super::tracer(),
        };
        Self { methods: Arc::new(methods) }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = Rpc<S>;

    fn layer(&self, inner: S) -> Rpc<S> {
        Rpc { inner, methods: Arc::clone(&self.methods) }
    }
}

fn meters() -> Arc<Meters> {
    let Some(meter) = super::meter() else {
        return Arc::new(Meters { duration: None, in_flight: 0.into() });
    };
    let duration = meter
        .f64_histogram("rpc.server.call.duration")
        .with_unit("s")
        .with_description("Duration of inbound calls, to the end of the answer")
        .with_boundaries(BUCKETS.to_vec())
        .build();
    let meters = Arc::new(Meters { duration: Some(duration), in_flight: 0.into() });
    let counted = Arc::clone(&meters);
    CALLS_ACTIVE.observe(move || counted.in_flight.load(Ordering::Relaxed));
    meters
}

impl Methods {
    fn start<B>(&self, request: &Request<B>) -> Running {
        let method = self.known.get(request.uri().path()).unwrap_or(&self.other);
        let Some(tracer) = self.tracer else {
            return Running::new(
                Arc::clone(method),
                Arc::clone(&self.meters),
                None,
                caller(request.headers()),
            );
        };
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &Headers(request.headers()));
        let builder = SpanBuilder::from_name(method.name().to_string()).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &parent);
        let context = parent.with_span(span);
        let span = context.span();
        if span.is_recording() {
            span.set_attributes(method.attributes());
        }
        let ids = span.span_context();
        let trace = ids.is_valid().then(|| (ids.trace_id(), ids.span_id()));
        Running::new(Arc::clone(method), Arc::clone(&self.meters), Some(context), trace)
    }
}

/// The caller's span from `traceparent` (`version-trace-span-flags`), for log lines when traces are
/// off.
fn caller(headers: &HeaderMap) -> Option<(TraceId, SpanId)> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-').skip(1);
    Some((TraceId::from_hex(parts.next()?).ok()?, SpanId::from_hex(parts.next()?).ok()?))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// A service whose calls are recorded; see [`RpcLayer`].
#[derive(Debug, Clone)]
pub struct Rpc<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, B> Service<Request<B>> for Rpc<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut running = self.methods.start(&request);
        let entered = running.enter();
        let inner = self.inner.call(request);
        drop(entered);
        Answering { inner: Some(inner), running }
    }
}

pin_project_lite::pin_project! {
    /// A call until the headers of its answer.
    #[derive(Debug)]
    pub struct Answering<F> {
        // `None` only while it is being dropped.
        #[pin]
        inner: Option<F>,
        running: Running,
    }

    impl<F> PinnedDrop for Answering<F> {
        // What is logged while a cancelled call is dropped belongs to it, and comes before its end.
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let entered = this.running.enter();
            this.inner.set(None);
            drop(entered);
        }
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else { return Poll::Pending };
        let entered = this.running.enter();
        let polled = inner.poll(cx);
        drop(entered);
        let response = match ready!(polled) {
            Ok(response) => response,
            Err(error) => {
                let error = error.into();
                this.running.finish(code_of(&*error));
                return Poll::Ready(Err(error));
            }
        };
        if let Some(code) = status(response.headers()) {
            this.running.finish(code);
            return Poll::Ready(Ok(response));
        }
        if response.body().is_end_stream() {
            // An answer without a status: to a request that is not gRPC, which `guard` refuses.
            let is_refusal = response.status().is_client_error();
            this.running.finish(if is_refusal { Code::InvalidArgument } else { Code::Unknown });
            return Poll::Ready(Ok(response));
        }
        let running = this.running.take();
        Poll::Ready(Ok(response.map(|inner| Body::new(Watched { inner, running }))))
    }
}

/// The body of an answer.
struct Watched {
    inner: Body,
    running: Running,
}

impl Drop for Watched {
    // As in `Answering`.
    fn drop(&mut self) {
        let entered = self.running.enter();
        self.inner = Body::empty();
        drop(entered);
    }
}

impl http_body::Body for Watched {
    type Data = <Body as http_body::Body>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let entered = this.running.enter();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        drop(entered);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.running.finish(status(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(error))) => this.running.finish(error.code()),
            Poll::Ready(None) => this.running.finish(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn status(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// The code of the first gRPC status in a chain of errors.
fn code_of(error: &(dyn StdError + 'static)) -> Code {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<tonic::Status>())
        .map_or(Code::Unknown, tonic::Status::code)
}
