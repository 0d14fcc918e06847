//! The service that a command calls: the connection, the identity, and when to try again.

use std::{error::Error as _, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tonic_types::StatusExt as _;

use super::{Fault, options::Target, progress::Progress};
use crate::proto::{ErrorReason, account_service_client::AccountServiceClient};

/// The pause before the first retry; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A client for accounts, with an identity.
pub type Accounts = AccountServiceClient<InterceptedService<Channel, Caller>>;

/// Makes a client that takes messages of this many bytes.
pub fn accounts(channel: Channel, target: &Target, largest: usize) -> Result<Accounts, Fault> {
    let caller = Caller::new(target.token.as_deref(), target.tenant.as_deref());
    let caller = caller.map_err(Fault::Usage)?;
    Ok(AccountServiceClient::with_interceptor(channel, caller).max_decoding_message_size(largest))
}

/// Adds the token or the tenant to each call.
#[derive(Debug, Clone)]
pub struct Caller {
    bearer: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// The caller with a token, and on a service without credentials of a tenant. The error names
    /// the option whose value no header may have.
    pub fn new(token: Option<&str>, tenant: Option<&str>) -> Result<Self, String> {
        let metadata = |option: &str, value: Option<String>| {
            let parsed = value.map(|value| value.parse::<MetadataValue<Ascii>>()).transpose();
            parsed.map_err(|_| format!("{option}: has characters that no header may have"))
        };
        Ok(Self {
            bearer: metadata("--token", token.map(|token| format!("Bearer {token}")))?,
            tenant: metadata("--tenant", tenant.map(ToOwned::to_owned))?,
        })
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in [("authorization", &self.bearer), ("x-tenant-id", &self.tenant)] {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// Whether a call that ended so can succeed when it is made again. A batch has a `request_id`, so
/// that a repeat does nothing twice.
fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted | Code::DeadlineExceeded => true,
        Code::ResourceExhausted => reason(status).as_deref() == Some("OVERLOADED"),
        // Of the connection, not of the service, whose errors have a reason.
        Code::Unknown | Code::Internal | Code::Cancelled => {
            status.details().is_empty() && status.source().is_some()
        }
        _ => false,
    }
}

/// An error of a peer that speaks another protocol, or of a connection that has broken.
fn is_foreign(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal) && status.details().is_empty()
}

/// The reason of an error, without the prefix of the contract.
pub fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

/// What is wrong, in a line: the reason, the message, and the fields.
pub fn explain(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = reason(status).unwrap_or_else(|| format!("{:?}", status.code()));
    let fields = details.bad_request().map(|it| it.field_violations.as_slice()).unwrap_or_default();
    match fields {
        [] => format!("{reason}: {}", status.message()),
        fields => {
            let fields: Vec<_> =
                fields.iter().map(|it| format!("{}: {}", it.field, it.description)).collect();
            format!("{reason}: {}", fields.join("; "))
        }
    }
}

/// The time of a stream ended, not the service: the next one can begin at once.
fn is_planned(status: &Status) -> bool {
    let ended = ErrorReason::StreamEnded.as_str_name().trim_start_matches("ERROR_REASON_");
    reason(status).as_deref() == Some(ended)
}

/// The pauses between tries, since the last one that achieved something.
#[derive(Debug)]
pub struct Patience {
    longest: Duration,
    since: Option<Instant>,
    pause: Duration,
    has_reached: bool,
}

impl Patience {
    /// Gives up after this time without success.
    pub const fn new(longest: Duration) -> Self {
        Self { longest, since: None, pause: FIRST_PAUSE, has_reached: false }
    }

    /// Whether a call that ended so is made again. An error of a peer that has never answered as the
    /// service does is that of another protocol.
    pub fn allows(&self, status: &Status) -> bool {
        is_transient(status) && (self.has_reached || !is_foreign(status))
    }

    /// The peer has answered as the service does.
    pub const fn reached(&mut self) {
        self.has_reached = true;
    }

    /// Something was achieved.
    pub const fn reset(&mut self) {
        (self.since, self.pause) = (None, FIRST_PAUSE);
    }

    /// Waits before the next try, and says why; `false` if it has been too long. The service ends
    /// streams as planned: the next one can begin at once.
    pub async fn wait(&mut self, status: &Status, progress: &Progress) -> bool {
        if is_planned(status) && self.since.is_none() {
            return true;
        }
        progress.say(&format!("{}; trying again", explain(status)));
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() + self.pause > self.longest {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        true
    }
}
