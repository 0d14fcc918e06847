//! One import: it reads the next batch when the one before is committed and the client has received
//! its answer, so it holds one batch at a time, however fast the client sends.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{batch::Batch, wire};
use crate::{
    caller::Caller,
    db::Db,
    error::Error,
    proto::{ImportAccountsRequest, ImportAccountsResponse, ImportTotals},
    streams::{StreamPermit, transfer_ended},
    telemetry,
};

/// Time that a batch may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client may send nothing.
const MAX_IDLE: Duration = Duration::from_mins(2);

/// An open import.
pub struct Import {
    db: Db,
    caller: Caller,
    permit: StreamPermit,
    batches: Streaming<ImportAccountsRequest>,
    total: ImportTotals,
}

impl Import {
    /// An import that has read nothing.
    pub fn new(
        db: Db,
        caller: Caller,
        permit: StreamPermit,
        batches: Streaming<ImportAccountsRequest>,
    ) -> Self {
        Self { db, caller, permit, batches, total: ImportTotals::default() }
    }

    /// The answers of the batches, and the error that ends the import early.
    pub fn stream(self) -> impl Stream<Item = Result<ImportAccountsResponse, Status>> + Send {
        stream::unfold(Some(self), async |import| {
            let mut import = import?;
            match import.next().await {
                Ok(answer) => answer.map(|answer| (Ok(answer), Some(import))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    /// Returns the answer of the next batch; `None` when the client has sent all. The time of the
    /// stream ends it between two batches only.
    async fn next(&mut self) -> Result<Option<ImportAccountsResponse>, Status> {
        let received = tokio::select! {
            biased;
            why = self.permit.over() => {
                telemetry::set_planned_end();
                return Err(why.into());
            }
            received = timeout(MAX_IDLE, self.batches.message()) => received,
        };
        let Ok(received) = received else { return Err(transfer_ended().into()) };
        let Some(request) = received.map_err(explained)? else { return Ok(None) };
        let deadline = self.permit.deadline_of_step(BATCH_TIMEOUT);
        let caller = Caller { deadline, ..self.caller.clone() };
        let (meta, batch) = Batch::parse(&caller, request).await?;
        let mut answer = batch.import(&self.db, &caller, &meta).await?;
        wire::add(&mut self.total, answer.batch.as_ref());
        answer.total = Some(self.total);
        Ok(Some(answer))
    }
}

/// Adds the reason that the contract promises to an error of tonic, which has no details.
fn explained(status: Status) -> Status {
    match status.code() {
        _ if !status.details().is_empty() => status,
        Code::OutOfRange => Error::RequestTooLarge.into(),
        Code::Internal => Error::MalformedRequest.into(),
        _ => status,
    }
}
