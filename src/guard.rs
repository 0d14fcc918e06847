//! What stands before every call: a deadline, an identity, a permission, a permit, and a net for
//! panics.
//!
//! One tower layer for the whole server, so that its limits are the server's and not a
//! connection's. Health and reflection need no identity; they have a deadline too, and permits of
//! their connection. Compressed requests are decompressed here, and large answers compressed.
//! Errors that tonic itself answers (too large, not decodable, unknown) get their reason here.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyStream, StreamBody};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use crate::{
    answer::{Answer, Patience},
    buffers::{Buffers, Metered},
    caller::{Caller, Identity, TenantId, workload::Admission},
    error::{Error, Result},
    gzip,
    peer::Peer,
    policy::Policies,
    proto::PACKAGE,
    share::{Percent, Shares},
    streams::{ClientDeadline, Unending},
    telemetry,
};

/// How much, and how long, the service works at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls under way on all connections together; further ones are refused.
    pub calls: usize,
    /// Bytes of requests and answers that calls may hold at once; further ones are refused.
    pub buffered: usize,
    /// How much of both one tenant may have.
    pub tenant_share: Percent,
    /// Time a call has when its caller sets no deadline.
    pub default_deadline: Duration,
    /// Time a call has at most.
    pub max_deadline: Duration,
    /// Time that a peer has to read an answer.
    pub answer: Duration,
    /// Largest message of a request in bytes, after it has been decompressed.
    pub message: usize,
    /// Largest answer in bytes that is not compressed.
    pub uncompressed: usize,
}

/// Longest headers of a request, all together in bytes. What is longer is refused before anything
/// waits for anything, so that calls under way cannot hold more of it than this each.
const MAX_HEADERS: usize = 16 * 1024;

/// Largest request of health and reflection in bytes: the name of a service, a file or a symbol.
/// Nobody knows who sends it.
pub const MAX_ANONYMOUS_MESSAGE: usize = 4 * 1024;

/// The call of health that answers without end.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The layer that guards every call; see [`Guard`].
#[derive(Debug, Clone)]
pub struct GuardLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policies: Policies,
    identity: Identity,
    admission: Admission,
    limits: Limits,
    permits: Arc<Semaphore>,
    /// How many of the permits each tenant may hold.
    shares: Shares,
    buffers: Buffers,
    under_way: TaskTracker,
}

impl GuardLayer {
    /// A guard that knows the calls and who may make them.
    pub fn new(
        policies: Policies,
        identity: Identity,
        admission: Admission,
        limits: Limits,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(limits.calls));
        let shares = Shares::new(limits.calls, limits.tenant_share);
        let buffers = Buffers::new(limits.buffered, limits.tenant_share);
        let under_way = TaskTracker::new();
        Self(Arc::new(Shared {
            policies,
            identity,
            admission,
            limits,
            permits,
            shares,
            buffers,
            under_way,
        }))
    }

    /// Waits until no call is under way.
    pub async fn idle(&self) {
        self.0.under_way.close();
        self.0.under_way.wait().await;
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, shared: Arc::clone(&self.0) }
    }
}

/// A service whose calls are guarded.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone that was polled ready must make the call; the fresh one waits for its turn.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        if let Some(refusal) = not_grpc(&request) {
            return Box::pin(async move { Ok(refusal) });
        }
        if weight(request.headers()) > MAX_HEADERS {
            let refusal = self.shared.identity.refuse_too_long(request.headers(), MAX_HEADERS);
            let response = Status::from(refusal).into_http();
            return Box::pin(async move { Ok(response) });
        }
        let shared = Arc::clone(&self.shared);
        let arrived = Instant::now();
        if !is_ours(request.uri().path()) {
            return Box::pin(async move { shared.answer_anybody(inner, request, arrived).await });
        }
        Box::pin(async move { shared.answer(inner, request, arrived).await })
    }
}

impl Shared {
    async fn answer<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
        arrived: Instant,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let uri = request.uri().clone();
        let peer = request.extensions().get().and_then(Peer::workload).cloned();
        let admitted = self.admit(&uri, request.headers(), peer.as_ref(), arrived);
        let admitted = AssertUnwindSafe(admitted).catch_unwind().await;
        let Admitted { caller, client, permit, reads } =
            match admitted.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                Ok(admitted) => admitted,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
        let (deadline, tenant) = (caller.deadline, caller.tenant.clone());
        let gzip = gzip::is_accepted(request.headers());
        let mut request = match self.read(request, &tenant) {
            Ok(request) => request,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        request.extensions_mut().insert(caller);
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        // In a block, so that a panic before there is a future is caught too.
        let call = AssertUnwindSafe(timeout_at(deadline, async { inner.call(request).await }))
            .catch_unwind();
        let response = match call.await {
            Ok(Ok(response)) => explain(response?, uri.path()),
            Ok(Err(_)) => return Ok(Status::from(Error::DeadlineExceeded).into_http()),
            Err(panic) => return Ok(Status::from(panicked(&*panic)).into_http()),
        };
        Ok(self.send(response, gzip, &tenant, reads, permit).await)
    }

    /// The answer as it is sent: counted, compressed if it is large and `gzip` is accepted, and
    /// with its permit.
    async fn send(
        &self,
        response: Response<Body>,
        gzip: bool,
        tenant: &TenantId,
        reads: bool,
        permit: Permit,
    ) -> Response<Body> {
        let (mut parts, mut body) = response.into_parts();
        if parts.extensions.get::<Unending>().is_some() {
            if gzip {
                gzip::declare(&mut parts.headers);
                body = gzip::compressed(body, self.limits.uncompressed);
            }
            let answer =
                Answer::new(body, Patience::ForEach(self.limits.answer), permit.unending());
            return Response::from_parts(parts, Body::new(answer));
        }
        let patience = Patience::Until(Instant::now() + self.limits.answer);
        let mut answer = Answer::new(body, patience, (permit, None));
        let bytes = answer.prepare();
        match self.buffers.hold_answer(tenant, bytes) {
            Ok(buffered) => answer.held.1 = buffered,
            // It can be asked for again. What a change has to say is small, and must be said.
            Err(error) if reads => return Status::from(error).into_http(),
            Err(_) => {}
        }
        if gzip && let Some(bytes) = answer.compress(self.limits.uncompressed).await {
            gzip::declare(&mut parts.headers);
            if let Some(buffered) = &mut answer.held.1 {
                buffered.shrink(bytes);
            }
        }
        Response::from_parts(parts, Body::new(answer))
    }

    /// The request as its call reads it: its bytes are counted, before and after they are
    /// decompressed.
    fn read(&self, request: Request<Body>, tenant: &TenantId) -> Result<Request<Body>> {
        let compressed = gzip::is_compressed(request.headers())?;
        let metered = |body| Body::new(Metered::new(body, self.buffers.clone(), tenant.clone()));
        let request = request.map(metered);
        Ok(if compressed {
            gzip::decompressed(request, self.limits.message).map(metered)
        } else {
            request
        })
    }

    /// Answers a call that needs no identity: of health, of reflection, or of nothing that there
    /// is.
    async fn answer_anybody<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
        arrived: Instant,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let uri = request.uri().clone();
        let permit = match request.extensions().get::<Peer>().map(Peer::anonymous_permit) {
            Some(None) => return Ok(Status::from(Error::Overloaded).into_http()),
            permit => permit,
        };
        let request = match gzip::is_compressed(request.headers()) {
            Ok(true) => gzip::decompressed(request, MAX_ANONYMOUS_MESSAGE),
            Ok(false) => request,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        // Reflection reads its questions in a task of its own, which ends with them and not with
        // the call.
        let ends = arrived + self.limits.max_deadline;
        let request = request.map(|body| {
            Body::new(StreamBody::new(BodyStream::new(body).take_until(sleep_until(ends))))
        });
        let Ok(response) =
            timeout_at(arrived + self.limits.default_deadline, inner.call(request)).await
        else {
            return Ok(Status::from(Error::DeadlineExceeded).into_http());
        };
        let response = explain(response?, uri.path());
        let patience = if uri.path() == HEALTH_WATCH {
            Patience::ForEach(self.limits.answer)
        } else {
            Patience::Until(ends + self.limits.answer)
        };
        Ok(response.map(|body| Body::new(Answer::new(body, patience, permit))))
    }

    /// Finds out who calls, whether they may, and until when, and takes a permit.
    ///
    /// The permit comes last: to find out who calls may take time, for which somebody without
    /// credentials must not keep those with credentials out.
    async fn admit(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Option<&Arc<str>>,
        arrived: Instant,
    ) -> Result<Admitted> {
        let policy =
            self.policies.get(uri.path()).ok_or_else(|| Error::unimplemented(uri.path()))?;
        let under_way = self.under_way.token();
        let asked = asked_for(headers)?;
        let deadline =
            arrived + asked.unwrap_or(self.limits.default_deadline).min(self.limits.max_deadline);
        self.identity.check_authority(uri.authority())?;
        let workload = self.admission.admit(headers, peer)?;
        let caller = timeout_at(deadline, self.identity.caller(headers, policy, deadline)).await;
        let caller = Caller { workload, ..caller.map_err(|_| Error::DeadlineExceeded)?? };
        telemetry::set_tenant(caller.tenant.as_str());
        let permit = self.permit(&caller, under_way)?;
        // A deadline beyond what the clock can tell is none.
        let client = asked.and_then(|asked| arrived.checked_add(asked)).map(ClientDeadline);
        let reads = policy.permission.rsplit('.').next() == Some("read");
        Ok(Admitted { caller, client, permit, reads })
    }

    /// A permit for one more call of this caller: the one place where they are taken.
    fn permit(&self, caller: &Caller, under_way: TaskTrackerToken) -> Result<Permit> {
        let share = self.shares.try_take(&caller.tenant, 1).ok_or(Error::Overloaded)?;
        let call = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Error::Overloaded)?;
        Ok(Permit { _call: call, _share: share, _under_way: Some(under_way) })
    }
}

/// A call that may be made.
struct Admitted {
    caller: Caller,
    /// What its client has said about its end.
    client: Option<ClientDeadline>,
    permit: Permit,
    /// Whether the call changes nothing.
    reads: bool,
}

/// What a request is answered that is no gRPC: to a web page that a browser shows, a service
/// without credentials must be nothing. A browser sends other types of content without asking
/// first.
fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let is_grpc = |value: &header::HeaderValue| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    let refusal = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = refusal;
    Some(response)
}

/// The size of headers as HTTP/2 counts it (RFC 9113, section 6.5.2).
fn weight(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn is_ours(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(PACKAGE))
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The `grpc-timeout` of the request: at most eight digits and a unit (gRPC over HTTP/2).
fn asked_for(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parse = || {
        let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
        let amount = digits
            .parse()
            .ok()
            .filter(|_| digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit()))?;
        Some(match unit {
            "H" => Duration::from_secs(amount * 3600),
            "M" => Duration::from_secs(amount * 60),
            "S" => Duration::from_secs(amount),
            "m" => Duration::from_millis(amount),
            "u" => Duration::from_micros(amount),
            "n" => Duration::from_nanos(amount),
            _ => return None,
        })
    };
    parse().map(Some).ok_or_else(|| {
        Error::invalid("grpc-timeout", "must be up to eight digits and one of H M S m u n")
    })
}

/// Gives an error that carries no details, because tonic answered it, the reason that the contract
/// promises. Where tonic says INTERNAL, it could not read a message from the request: what goes
/// wrong inside a call comes with details.
fn explain(response: Response<Body>, path: &str) -> Response<Body> {
    let headers = response.headers();
    if headers.get("grpc-status").is_none_or(|code| code == "0")
        || headers.contains_key("grpc-status-details-bin")
    {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else { return response };
    let error = match status.code() {
        Code::OutOfRange => Error::RequestTooLarge,
        Code::Internal => Error::MalformedRequest,
        Code::Unimplemented => Error::unimplemented(path),
        _ => return response,
    };
    let explained = Status::from(error);
    let message = if status.message().is_empty() { explained.message() } else { status.message() };
    let details = explained.get_error_details();
    Status::with_error_details_and_metadata(
        explained.code(),
        message,
        details,
        status.metadata().clone(),
    )
    .into_http()
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("panic: {}", message.unwrap_or("no message")))
}

/// What a call under way holds; given back when its answer has been sent.
struct Permit {
    _call: OwnedSemaphorePermit,
    /// Its part of what the tenant may have under way.
    _share: OwnedSemaphorePermit,
    /// A shutdown waits for it.
    _under_way: Option<TaskTrackerToken>,
}

impl Permit {
    /// The permit of an answer that a shutdown ends instead of waiting for it.
    fn unending(self) -> Self {
        Self { _under_way: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        let parse = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            asked_for(&headers).ok().flatten()
        };
        for (value, limit) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse(value), limit, "{value:?}");
        }
        assert_eq!(asked_for(&HeaderMap::new()).unwrap(), None);
    }
}
