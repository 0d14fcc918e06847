//! Transfers: imports and exports of many accounts, with their links and users, as streams. The
//! calls belong to `AccountService`, which gets them from the server because the slices of these
//! rows use accounts.

mod batch;
mod export;
mod import;
mod page;
mod plan;
mod references;
mod refusals;
mod row;
mod wire;
mod write;

use tonic::Streaming;

use self::{export::Export, import::Import};
use crate::{
    call::Answers,
    caller::Caller,
    db::Db,
    error::Result,
    proto::{
        ExportAccountsRequest, ExportAccountsResponse, ImportAccountsRequest,
        ImportAccountsResponse,
    },
    streams::StreamPermit,
};

/// Opens an import.
pub fn import(
    db: Db,
    caller: Caller,
    permit: StreamPermit,
    batches: Streaming<ImportAccountsRequest>,
) -> Answers<ImportAccountsResponse> {
    Box::pin(Import::new(db, caller, permit, batches).stream())
}

/// Opens an export.
pub fn export(
    db: Db,
    caller: Caller,
    permit: StreamPermit,
    request: ExportAccountsRequest,
) -> Result<Answers<ExportAccountsResponse>> {
    Ok(Box::pin(Export::open(db, caller, permit, request)?.stream()))
}
