//! Imports and exports.

use customer_accounts::proto::{
    Account, ExportAccountsRequest, ExportAccountsResponse, ExportedAccount, ImportAccountsRequest,
    ImportAccountsResponse, ImportOutcome, ImportResult, ImportRow, ImportTotals,
};
use futures_util::stream;
use tonic::{Code, Status};
use tonic_types::pb;

use super::{Tenant, refusal};

/// A row with only its account.
pub fn row(account: Account) -> ImportRow {
    ImportRow { account: Some(account), ..Default::default() }
}

/// A batch that creates and updates.
pub fn batch(rows: Vec<ImportRow>) -> ImportAccountsRequest {
    ImportAccountsRequest { rows, ..Default::default() }
}

/// The status that a row's error is.
pub fn status_of(error: &pb::Status) -> Status {
    use prost::Message as _;
    Status::with_details(Code::from(error.code), &error.message, error.encode_to_vec().into())
}

/// What became of a row, in a word: `CREATED`, or the reason for which it was refused.
pub fn outcome(result: &ImportResult) -> String {
    match &result.error {
        Some(error) => {
            assert_eq!(result.outcome(), ImportOutcome::Refused, "{result:?}");
            refusal(status_of(error))
        }
        None => result.outcome().as_str_name().trim_start_matches("IMPORT_OUTCOME_").to_owned(),
    }
}

/// What became of each row.
pub fn outcomes(answer: &ImportAccountsResponse) -> Vec<String> {
    answer.results.iter().map(outcome).collect()
}

/// Created, updated, unchanged and refused rows.
pub fn counts(totals: Option<&ImportTotals>) -> [i64; 4] {
    let totals = totals.unwrap();
    assert_eq!(totals.rows, totals.created + totals.updated + totals.unchanged + totals.refused);
    [totals.created, totals.updated, totals.unchanged, totals.refused]
}

impl Tenant {
    /// Imports batches as one stream, and returns the answers and how the stream ended.
    pub async fn import_all(
        &self,
        batches: Vec<ImportAccountsRequest>,
    ) -> (Vec<ImportAccountsResponse>, Result<(), Status>) {
        let mut answers = Vec::new();
        let opened = self.accounts().import_accounts(stream::iter(batches)).await;
        let mut stream = match opened {
            Ok(opened) => opened.into_inner(),
            Err(status) => return (answers, Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => return (answers, Ok(())),
                Err(status) => return (answers, Err(status)),
            }
        }
    }

    /// Imports one batch.
    pub async fn try_import(
        &self,
        batch: ImportAccountsRequest,
    ) -> Result<ImportAccountsResponse, Status> {
        let (mut answers, ended) = self.import_all(vec![batch]).await;
        ended?;
        assert_eq!(answers.len(), 1, "{answers:?}");
        Ok(answers.remove(0))
    }

    /// Imports rows, and returns what became of each.
    pub async fn import(&self, rows: Vec<ImportRow>) -> Vec<String> {
        outcomes(&self.try_import(batch(rows)).await.unwrap())
    }

    /// The messages of an export.
    pub async fn export_messages(
        &self,
        request: ExportAccountsRequest,
    ) -> Result<Vec<ExportAccountsResponse>, Status> {
        let mut stream = self.accounts().export_accounts(request).await?.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// The accounts of an export.
    pub async fn export(&self, request: ExportAccountsRequest) -> Vec<ExportedAccount> {
        let messages = self.export_messages(request).await.unwrap();
        messages.into_iter().flat_map(|message| message.accounts).collect()
    }

    /// The ids of the accounts of an export.
    pub async fn exported(&self, request: ExportAccountsRequest) -> Vec<String> {
        let accounts = self.export(request).await.into_iter();
        accounts.map(|exported| exported.account.unwrap().account_id).collect()
    }
}

/// The row that imports an exported account as it was.
pub fn again(exported: ExportedAccount) -> ImportRow {
    ImportRow {
        account: exported.account,
        linked_organizations: exported.linked_organizations,
        account_users: exported.account_users,
        ..Default::default()
    }
}
