//! Converts exports and imports between messages of the contract and rows.

use prost::Message as _;
use tonic::Status;
use tonic_types::pb as rpc;

use super::{
    page::{Exported, Page},
    refusals,
    row::Row,
};
use crate::{
    accounts::{list::Filter, store::Account},
    caller::Caller,
    change::Versioned as _,
    error::{Error, Result},
    page::Binding,
    proto::{
        self, ExportAccountsRequest, ExportAccountsResponse, ImportAccountsResponse, ImportAction,
        ImportOutcome, ImportResult, ImportTotals, ListAccountsRequest,
    },
    relations::{links::Terms, settings::UserSettings},
    validate::Violations,
    wire::to_date,
};

/// Most bytes of the errors of a batch. With the rest of the answer it is within what clients
/// accept, 4 MiB by default.
const MAX_ERRORS: usize = 2 * 1024 * 1024;
/// Most bytes of an error beyond these.
const MAX_SHORT: usize = 1024;

/// What an export sends.
#[derive(Debug)]
pub struct Wanted {
    /// Which accounts.
    pub filter: Filter,
    /// Whether their linked organizations.
    pub links: bool,
    /// Whether their individual users.
    pub users: bool,
    /// What its cursors belong to.
    binding: Binding,
}

impl Wanted {
    /// Parses a request, and the id of the account behind which its cursor stands.
    pub fn parse(
        caller: &Caller,
        mut request: ExportAccountsRequest,
    ) -> Result<(Self, Option<String>)> {
        let cursor = std::mem::take(&mut request.cursor);
        let binding = Binding::of(caller, &request);
        let (links, users) = (request.include_links, request.include_users);
        let list = ListAccountsRequest {
            organization_id: request.organization_id,
            include_descendants: request.include_descendants,
            statuses: request.statuses,
            account_type_id: request.account_type_id,
            account_manager_id: request.account_manager_id,
            ..Default::default()
        };
        let mut v = Violations::default();
        let filter = Filter::parse(&mut v, list);
        let wanted = v.finish(Self { filter, links, users, binding })?;
        if cursor.is_empty() {
            return Ok((wanted, None));
        }
        let (_, after) = wanted.binding.open(&cursor).ok_or_else(refusals::invalid_cursor)?;
        Ok((wanted, Some(after).filter(|after| !after.is_empty())))
    }

    /// The cursor behind the account with this id, or at the beginning.
    pub fn cursor(&self, after: Option<&str>) -> String {
        self.binding.seal("", after.unwrap_or_default())
    }
}

/// A message of an export.
pub fn response(
    page: Page,
    cursor: String,
    watch_cursor: Option<String>,
) -> ExportAccountsResponse {
    let accounts = page.accounts.into_iter().map(Into::into).collect();
    ExportAccountsResponse { accounts, cursor, watch_cursor: watch_cursor.unwrap_or_default() }
}

impl From<Exported> for proto::ExportedAccount {
    fn from(exported: Exported) -> Self {
        Self {
            account: Some(exported.account.into()),
            linked_organizations: exported.links.into_iter().map(Into::into).collect(),
            account_users: exported.users.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Terms> for proto::ImportLink {
    fn from(link: Terms) -> Self {
        let Terms { organization_id, include_descendants, .. } = link;
        Self { organization_id, include_descendants }
    }
}

impl From<UserSettings> for proto::ImportUser {
    fn from(UserSettings { person_id, fields, .. }: UserSettings) -> Self {
        Self {
            person_id,
            roles: fields.roles,
            billing: fields.billing,
            start_date: fields.start_date.map(to_date),
            end_date: fields.end_date.map(to_date),
        }
    }
}

/// What an import does with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Creates or updates.
    Upsert,
    /// Creates, and refuses what is there.
    Create,
    /// Updates, and refuses what is not there.
    Update,
    /// Creates, and leaves what is there.
    CreateMissing,
}

impl Action {
    /// Parses the action of a batch.
    pub fn parse(v: &mut Violations, number: i32) -> Self {
        match v.known("action", number) {
            None | Some(ImportAction::Unspecified | ImportAction::Upsert) => Self::Upsert,
            Some(ImportAction::Create) => Self::Create,
            Some(ImportAction::Update) => Self::Update,
            Some(ImportAction::CreateMissing) => Self::CreateMissing,
        }
    }
}

/// Why a row is refused: the status that a call would have.
#[derive(Debug, Clone)]
pub struct Refused(rpc::Status);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = Status::from(error);
        // The details of a status of the service are the whole status, encoded.
        Self(rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        }))
    }
}

/// Separates an error that refuses a row from one after which the batch cannot go on.
pub fn refused<T>(result: Result<T>) -> Result<Result<T, Refused>> {
    match result {
        Err(error @ (Error::Refused(_) | Error::Invalid { .. })) => Ok(Err(error.into())),
        result => result.map(Ok),
    }
}

/// What became of a row.
#[derive(Debug)]
pub enum Outcome {
    /// Its account was created, with this id and this etag.
    Created(String, String),
    /// Something of its account was changed; the account has this etag.
    Updated(String),
    /// Nothing was changed; the account has this etag.
    Unchanged(String),
    /// It was refused.
    Refused(Refused),
}

impl Outcome {
    /// The outcome of a row whose account was created.
    pub fn created(account: &Account) -> Self {
        Self::Created(account.account_id.clone(), account.etag())
    }

    /// Whether the row was refused.
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// The answer to a batch.
pub fn answer(
    rows: &[Row],
    outcomes: Vec<Outcome>,
    organizations_created: i64,
) -> ImportAccountsResponse {
    let mut batch = ImportTotals { organizations_created, ..Default::default() };
    let mut left = MAX_ERRORS;
    let mut results = Vec::with_capacity(rows.len());
    for (row, outcome) in rows.iter().zip(outcomes) {
        let mut result = ImportResult {
            row: row.number,
            account_id: row.account_id.clone(),
            ..Default::default()
        };
        batch.rows += 1;
        let (outcome, count) = match outcome {
            Outcome::Created(account_id, etag) => {
                (result.account_id, result.etag) = (account_id, etag);
                (ImportOutcome::Created, &mut batch.created)
            }
            Outcome::Updated(etag) => {
                result.etag = etag;
                (ImportOutcome::Updated, &mut batch.updated)
            }
            Outcome::Unchanged(etag) => {
                result.etag = etag;
                (ImportOutcome::Unchanged, &mut batch.unchanged)
            }
            Outcome::Refused(Refused(error)) => {
                result.error = Some(within(&mut left, error));
                (ImportOutcome::Refused, &mut batch.refused)
            }
        };
        *count += 1;
        result.outcome = outcome.into();
        results.push(result);
    }
    ImportAccountsResponse { results, batch: Some(batch), total: None }
}

/// Takes the bytes of an error from what is left for errors. An error that does not fit keeps its
/// code and its reason.
fn within(left: &mut usize, mut error: rpc::Status) -> rpc::Status {
    let size = error.encoded_len();
    if let Some(rest) = left.checked_sub(size) {
        *left = rest;
        return error;
    }
    error.details.retain(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"));
    if error.encoded_len() > MAX_SHORT {
        "there are too many errors to tell more".clone_into(&mut error.message);
    }
    error
}

/// Adds the totals of a batch.
pub fn add(total: &mut ImportTotals, batch: Option<&ImportTotals>) {
    let Some(batch) = batch else { return };
    total.rows += batch.rows;
    total.created += batch.created;
    total.updated += batch.updated;
    total.unchanged += batch.unchanged;
    total.refused += batch.refused;
    total.organizations_created += batch.organizations_created;
}
