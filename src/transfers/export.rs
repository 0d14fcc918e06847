//! One export: it reads a page when the client has received the one before, in a transaction of its
//! own. It holds no connection while the client is slow.

use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::Status;

use super::{
    page::Page,
    wire::{Wanted, response},
};
use crate::{
    activities,
    caller::Caller,
    db::Db,
    error::Result,
    proto::{ExportAccountsRequest, ExportAccountsResponse},
    streams::{StreamPermit, patiently},
    telemetry,
};

/// Time that one page may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// An open export.
#[derive(Debug)]
pub struct Export {
    permit: StreamPermit,
    reader: Reader,
}

/// The accounts, read up to a position.
#[derive(Debug)]
struct Reader {
    db: Db,
    caller: Caller,
    wanted: Wanted,
    /// The id of the last account that was read.
    after: Option<String>,
    /// What comes next.
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first page of an export from the beginning.
    Beginning,
    /// A page of an export that goes on.
    GoingOn,
    /// Nothing: the last page was read.
    Complete,
}

impl Export {
    /// Opens an export at its cursor, or at the beginning.
    pub fn open(
        db: Db,
        caller: Caller,
        permit: StreamPermit,
        request: ExportAccountsRequest,
    ) -> Result<Self> {
        let resumed = !request.cursor.is_empty();
        let (wanted, after) = Wanted::parse(&caller, request)?;
        let state = if resumed { State::GoingOn } else { State::Beginning };
        Ok(Self { permit, reader: Reader { db, caller, wanted, after, state } })
    }

    /// The messages of the export, and the error that ends it early.
    pub fn stream(self) -> impl Stream<Item = Result<ExportAccountsResponse, Status>> + Send {
        stream::unfold(Some(self), async |export| {
            let mut export = export?;
            match export.next().await {
                Ok(message) => message.map(|message| (Ok(message), Some(export))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ExportAccountsResponse>> {
        tokio::select! {
            biased;
            why = self.permit.over() => {
                telemetry::set_planned_end();
                Err(why)
            }
            message = self.reader.next() => message,
        }
    }
}

impl Reader {
    /// Returns the next message; `None` after the last. The first message of an export from the
    /// beginning is sent even if it has no accounts.
    async fn next(&mut self) -> Result<Option<ExportAccountsResponse>> {
        if self.state == State::Complete {
            return Ok(None);
        }
        let begins = self.state == State::Beginning;
        let (page, watch_cursor) = self.read(begins).await?;
        self.state = if page.more { State::GoingOn } else { State::Complete };
        if page.accounts.is_empty() && !begins {
            return Ok(None);
        }
        self.after = page.last_id().map(ToOwned::to_owned).or_else(|| self.after.take());
        let cursor = self.wanted.cursor(self.after.as_deref());
        Ok(Some(response(page, cursor, watch_cursor)))
    }

    /// Reads a page, and if the export begins, in the same snapshot the cursor of a watch that
    /// begins there. Retries for a while if the database does not answer.
    async fn read(&self, begins: bool) -> Result<(Page, Option<String>)> {
        let Self { db, caller, wanted, after, .. } = self;
        patiently(|| async {
            let caller = Caller { deadline: Instant::now() + READ_TIMEOUT, ..caller.clone() };
            let work = db.list(&caller, async |tx| {
                let cursor =
                    if begins { activities::cursor_of_now(tx, &caller).await? } else { None };
                Ok((Page::read(tx, wanted, after.as_deref()).await?, cursor))
            });
            work.await
        })
        .await
    }
}
