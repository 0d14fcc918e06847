//! The checks before every call: deadline, workload, identity, permission, and a permit. Around the
//! call: a handler for panics.
//!
//! One tower layer serves all connections, so its limits hold for the whole server. Health and
//! reflection need no identity; they have a deadline too, and permits of their connection. The
//! guard decompresses requests and compresses large answers. Errors that tonic itself answers (too
//! large, not decodable, unknown call) get their reason here.

mod request;

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
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyStream, StreamBody};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use self::request::{grpc_timeout, headers_len, is_in_contract, refuse_non_grpc, with_reason};
use crate::{
    answer::{Answer, Patience},
    buffers::{Buffers, Metered},
    caller::{Caller, Identity, TenantId, workload::Admission},
    error::{Error, Result},
    gzip,
    peer::Peer,
    policy::Policies,
    share::{Percent, Shares},
    streams::{ClientDeadline, Unending},
    telemetry::{self, metrics::CALLS_MAX},
};

/// The limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls under way on all connections together; further calls are refused.
    pub calls: usize,
    /// Bytes of requests and answers that calls may hold at once; calls that need more are refused.
    pub buffered: usize,
    /// The part of both that one tenant may hold.
    pub tenant_share: Percent,
    /// Deadline of a call whose caller sets none.
    pub default_deadline: Duration,
    /// Longest deadline of a call.
    pub max_deadline: Duration,
    /// How long a peer may take to read an answer.
    pub answer: Duration,
    /// Largest request message in bytes, after decompression.
    pub message: usize,
    /// Largest answer in bytes that is sent uncompressed.
    pub uncompressed: usize,
}

/// Longest headers of a request in bytes, all together. Longer ones are refused before the call
/// waits for anything, so that waiting calls hold at most this much each.
const MAX_HEADERS: usize = 16 * 1024;

/// Largest request of health and reflection in bytes. It names a service, a file or a symbol, and
/// comes from a peer without an identity.
pub const MAX_ANONYMOUS_MESSAGE: usize = 4 * 1024;

/// The call of the health service whose answer never ends.
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
    /// The part of `permits` that each tenant may hold.
    shares: Shares,
    buffers: Buffers,
    under_way: TaskTracker,
}

impl GuardLayer {
    /// A guard for the calls that have a policy.
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
        CALLS_MAX.observe(move || limits.calls);
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
        // The clone that was polled ready must make the call; the new clone stays for the next one.
        let fresh = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, fresh);
        if let Some(refusal) = refuse_non_grpc(&request) {
            return Box::pin(async move { Ok(refusal) });
        }
        if headers_len(request.headers()) > MAX_HEADERS {
            let refusal = self.shared.identity.refuse_too_long(request.headers(), MAX_HEADERS);
            let response = Status::from(refusal).into_http();
            return Box::pin(async move { Ok(response) });
        }
        let shared = Arc::clone(&self.shared);
        let arrived = Instant::now();
        if !is_in_contract(request.uri().path()) {
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
        let Admitted { caller, client, permit, reads, is_stream } =
            match admitted.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                Ok(admitted) => admitted,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
        let (deadline, tenant) = (caller.deadline, caller.tenant.clone());
        let gzip = gzip::is_accepted(request.headers());
        let mut request = match self.read(request, &tenant, is_stream) {
            Ok(request) => request,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        request.extensions_mut().insert(caller);
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        // The async block makes `catch_unwind` also catch a panic of `inner.call` itself, before it
        // returns a future.
        let call = AssertUnwindSafe(timeout_at(deadline, async { inner.call(request).await }))
            .catch_unwind();
        let response = match call.await {
            Ok(Ok(response)) => with_reason(response?, uri.path()),
            Ok(Err(_)) => return Ok(Status::from(Error::DeadlineExceeded).into_http()),
            Err(panic) => return Ok(Status::from(panicked(&*panic)).into_http()),
        };
        Ok(self.send(response, gzip, &tenant, reads, permit).await)
    }

    /// The answer as it is sent: its bytes are counted, it is compressed if it is large and `gzip`
    /// is accepted, and it holds the permit until it has been sent.
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
            // A read can be repeated. The answer of a change is small, and its caller must learn
            // the outcome.
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

    /// The request as its call reads it: the bytes are counted before and after decompression.
    fn read(
        &self,
        request: Request<Body>,
        tenant: &TenantId,
        is_stream: bool,
    ) -> Result<Request<Body>> {
        let compressed = gzip::is_compressed(request.headers())?;
        let metered = |body| {
            let body = Metered::new(body, self.buffers.clone(), tenant.clone());
            Body::new(body.of_stream(is_stream))
        };
        let request = request.map(metered);
        Ok(if compressed {
            gzip::decompressed(request, self.limits.message).map(metered)
        } else {
            request
        })
    }

    /// Answers a call that needs no identity: health, reflection, or a call that does not exist.
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
            Some(None) => {
                return Ok(Status::from(Error::overloaded("max_anonymous_calls")).into_http());
            }
            permit => permit,
        };
        let request = match gzip::is_compressed(request.headers()) {
            Ok(true) => gzip::decompressed(request, MAX_ANONYMOUS_MESSAGE),
            Ok(false) => request,
            Err(error) => return Ok(Status::from(error).into_http()),
        };
        // Reflection reads the requests of its stream in a task of its own, which ends with the
        // stream and not with the call. So the stream is ended here.
        let ends = arrived + self.limits.max_deadline;
        let request = request.map(|body| {
            Body::new(StreamBody::new(BodyStream::new(body).take_until(sleep_until(ends))))
        });
        let Ok(response) =
            timeout_at(arrived + self.limits.default_deadline, inner.call(request)).await
        else {
            return Ok(Status::from(Error::DeadlineExceeded).into_http());
        };
        let response = with_reason(response?, uri.path());
        let patience = if uri.path() == HEALTH_WATCH {
            Patience::ForEach(self.limits.answer)
        } else {
            Patience::Until(ends + self.limits.answer)
        };
        Ok(response.map(|body| Body::new(Answer::new(body, patience, permit))))
    }

    /// Identifies the caller, checks that it may make this call, computes the deadline, and takes a
    /// permit.
    ///
    /// The permit is taken last: identifying the caller may have to wait for keys, and callers
    /// without credentials must not take permits from others meanwhile.
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
        let asked = grpc_timeout(headers)?;
        let deadline =
            arrived + asked.unwrap_or(self.limits.default_deadline).min(self.limits.max_deadline);
        self.identity.check_authority(uri.authority())?;
        let workload = self.admission.admit(headers, peer)?;
        let caller = timeout_at(deadline, self.identity.caller(headers, policy, deadline)).await;
        let caller = Caller { workload, ..caller.map_err(|_| Error::DeadlineExceeded)?? };
        telemetry::set_tenant(caller.tenant.as_str());
        let permit = self.permit(&caller, under_way)?;
        // A deadline that the clock cannot represent counts as none.
        let client = asked.and_then(|asked| arrived.checked_add(asked)).map(ClientDeadline);
        let reads = policy.permission.rsplit('.').next() == Some("read");
        Ok(Admitted { caller, client, permit, reads, is_stream: policy.is_stream })
    }

    /// A permit for one more call of this caller. Permits are taken nowhere else.
    fn permit(&self, caller: &Caller, under_way: TaskTrackerToken) -> Result<Permit> {
        let share = self.shares.try_take(&caller.tenant, 1);
        let share = share.ok_or_else(|| Error::overloaded("tenant_share"))?;
        let call = Arc::clone(&self.permits).try_acquire_owned();
        let call = call.map_err(|_| Error::overloaded("max_calls"))?;
        Ok(Permit { _call: call, _share: share, _under_way: Some(under_way) })
    }
}

/// What `admit` found out about a call.
struct Admitted {
    caller: Caller,
    /// The deadline that the client itself set.
    client: Option<ClientDeadline>,
    permit: Permit,
    /// Whether the call only reads.
    reads: bool,
    /// Whether the request is a stream of messages.
    is_stream: bool,
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("panic: {}", message.unwrap_or("no message")))
}

/// What a call holds; given back when its answer has been sent.
struct Permit {
    _call: OwnedSemaphorePermit,
    /// The permit out of the tenant's share.
    _share: OwnedSemaphorePermit,
    /// A shutdown waits until this is dropped.
    _under_way: Option<TaskTrackerToken>,
}

impl Permit {
    /// The permit for an answer that a shutdown ends instead of waiting for it.
    fn unending(self) -> Self {
        Self { _under_way: None, ..self }
    }
}
