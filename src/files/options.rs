//! The options of the commands.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use http::Uri;

use super::columns;
use crate::{
    option_values::duration,
    proto::{AccountStatus, ImportAction},
};

/// Most rows of a batch, which is a limit of the service.
const MAX_BATCH: i64 = 1000;

/// The service that a command calls, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The service to call: http://HOST:PORT, or https://HOST:PORT for TLS. By default the service
    /// on --listen.
    #[arg(long, env = "CUSTOMER_ACCOUNTS_SERVER", value_name = "URL", value_parser = server,
          help_heading = "Service")]
    pub server: Option<Uri>,

    /// PEM file of the authorities that may sign the certificate of --server; by default those of
    /// the operating system. Without --server it is not read.
    #[arg(long, env = "CUSTOMER_ACCOUNTS_TLS_CA", value_name = "FILE", help_heading = "Service")]
    pub tls_ca: Option<PathBuf>,

    /// A token for the service. It names the tenant.
    #[arg(long, env = "CUSTOMER_ACCOUNTS_TOKEN", hide_env_values = true, help_heading = "Service")]
    pub token: Option<String>,

    /// The tenant, for a service without credentials, in development. Not beside a token.
    #[arg(long, value_name = "ID", help_heading = "Service")]
    pub tenant: Option<String>,

    /// How long to try again when the connection is lost, the service restarts, or its answer says
    /// to try again: a number and ms, s, m or h, such as 30s. If no service answers at the start,
    /// the command ends at once.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration,
          help_heading = "Service")]
    pub retry_for: Duration,
}

/// The format of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// By the ending of the name: .csv, .tsv, .txt; .jsonl, .ndjson, .json. With another ending an
    /// import looks at the first character, and an export to a file is refused. Standard output is
    /// JSON lines.
    #[default]
    Auto,
    /// Values separated by commas, with a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// What is done with a row.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Action {
    /// Create the accounts that do not exist, update those that do.
    #[default]
    Upsert,
    /// Create only: an account that exists is refused.
    Create,
    /// Update only: an account that does not exist is refused.
    Update,
    /// Create the accounts that do not exist, leave those that do as they are.
    CreateMissing,
}

impl From<Action> for ImportAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Upsert => Self::Upsert,
            Action::Create => Self::Create,
            Action::Update => Self::Update,
            Action::CreateMissing => Self::CreateMissing,
        }
    }
}

/// What an empty cell of a CSV file means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Empty {
    /// The field stays as it is.
    #[default]
    Keep,
    /// The field is emptied.
    Clear,
}

/// The options of `import`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ImportOptions {
    /// The file with the accounts; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: String,

    /// The format of the file.
    #[arg(long, value_enum, default_value_t, help_heading = "File")]
    pub format: Format,

    /// What separates the cells of a CSV file: one character, or `tab`. By default a comma, a
    /// semicolon or a tab: the one that occurs most often in the header.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter, help_heading = "File")]
    pub delimiter: Option<u8>,

    /// What an empty cell of a CSV file means.
    #[arg(long, value_enum, default_value_t, help_heading = "File")]
    pub empty: Empty,

    /// Ignore a column, named exactly as the header has it, or a field of JSON. May be repeated.
    #[arg(long, value_name = "COLUMN", help_heading = "File")]
    pub ignore: Vec<String>,

    /// Take cells as they are: do not remove the apostrophe that `export` puts in front of what a
    /// spreadsheet would run as a formula.
    #[arg(long, help_heading = "File")]
    pub raw: bool,

    /// Check everything and keep nothing. Each batch is checked against the accounts that are
    /// there, not against the batches before it.
    #[arg(long, help_heading = "Import")]
    pub dry_run: bool,

    /// What to do with each row.
    #[arg(long, value_enum, default_value_t, help_heading = "Import")]
    pub action: Action,

    /// Refuse a batch as a whole if one of its rows is refused.
    #[arg(long, help_heading = "Import")]
    pub all_or_nothing: bool,

    /// Create accounts without `account_id` under an id that the service generates. A second run
    /// creates them again.
    #[arg(long, help_heading = "Import")]
    pub generate_ids: bool,

    /// Rows of a batch, which is one transaction.
    #[arg(long, value_name = "N", default_value_t = MAX_BATCH,
          value_parser = clap::value_parser!(i64).range(1..=MAX_BATCH), help_heading = "Import")]
    pub batch_size: i64,

    /// Stop when more rows than this are refused.
    #[arg(long, value_name = "N", help_heading = "Import")]
    pub max_refused: Option<u64>,

    /// The line of the file to go on at, as a run that ended early has printed it.
    #[arg(long, value_name = "LINE", help_heading = "Import")]
    pub start_row: Option<u64>,

    /// The id of the run to go on with, which it has printed. Within 24 hours nothing of it is done
    /// twice.
    #[arg(long, value_name = "ID", value_parser = run_id, help_heading = "Import")]
    pub run_id: Option<String>,

    /// Where refused rows go, as they came and with the reason. Can be corrected and imported. By
    /// default FILE.rejects.csv or the like; made only if a row is refused.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub rejects: Option<PathBuf>,

    /// Write what became of each row to this file, as JSON lines.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub results: Option<PathBuf>,

    /// Print the summary to standard output as JSON.
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print errors and the summary only.
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,

    /// The service.
    #[command(flatten)]
    pub target: Target,
}

/// The options of `export`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ExportOptions {
    /// Where the accounts go; `-` for standard output.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: String,

    /// The format of the file. By default that of its name; JSON lines on standard output.
    #[arg(long, value_enum, default_value_t, help_heading = "File")]
    pub format: Format,

    /// The columns of a CSV file, separated by commas; by default all.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', value_parser = columns::exported,
          help_heading = "File")]
    pub columns: Vec<&'static columns::Column>,

    /// Write cells as they are, for programs: a spreadsheet may run some of them as formulas.
    #[arg(long, help_heading = "File")]
    pub raw: bool,

    /// Begin a CSV file with a byte order mark, by which Excel recognizes UTF-8.
    #[arg(long, help_heading = "File")]
    pub bom: bool,

    /// Only accounts of this organization.
    #[arg(
        long,
        value_name = "ID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Accounts"
    )]
    pub organization: String,

    /// Also those of the organizations below it.
    #[arg(long, requires = "organization", help_heading = "Accounts")]
    pub include_descendants: bool,

    /// Only accounts with this status. May be repeated.
    #[arg(long, value_name = "STATUS", value_parser = columns::status, help_heading = "Accounts")]
    pub status: Vec<AccountStatus>,

    /// Only accounts of this type.
    #[arg(
        long,
        value_name = "ID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Accounts"
    )]
    pub account_type: String,

    /// Only accounts that this person manages.
    #[arg(
        long,
        value_name = "ID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Accounts"
    )]
    pub account_manager: String,

    /// Also write the organizations that are linked to each account.
    #[arg(long, help_heading = "Accounts")]
    pub with_links: bool,

    /// Also write the individual users of each account. Needs JSON lines.
    #[arg(long, help_heading = "Accounts")]
    pub with_users: bool,

    /// Go on with FILE.part, which a run that ended early has left.
    #[arg(long, help_heading = "Output")]
    pub resume: bool,

    /// Print to standard error the cursor with which `WatchActivities` tells every change since the
    /// export began.
    #[arg(long, help_heading = "Output")]
    pub print_watch_cursor: bool,

    /// Print errors only.
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,

    /// The service.
    #[command(flatten)]
    pub target: Target,
}

/// Parses the URL of a service.
fn server(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("must be https://HOST:PORT: {error}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err("must begin with https:// or http://".into());
    }
    let authority = url.authority().map_or("", |it| it.as_str());
    if authority.contains('@') {
        return Err("must have no user and no password; --token has the credentials".into());
    }
    let host = url.host().unwrap_or_default();
    if host.is_empty() || (authority != host && url.port_u16().is_none_or(|port| port == 0)) {
        return Err("must have a host, and a port from 1 to 65535 if any".into());
    }
    match url.path_and_query().map(ToString::to_string).as_deref() {
        None | Some("/" | "") => Ok(url),
        Some(_) => Err("must be https://HOST:PORT, without a path".into()),
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" => Ok(b'\t'),
        [byte] if !byte.is_ascii_alphanumeric() && !b"\"\r\n_.'".contains(byte) => Ok(*byte),
        _ => Err("one character, such as ; or |, or `tab`".into()),
    }
}

/// The longest id of a run: with a line behind it, it must be a `request_id`.
const MAX_RUN_ID: usize = 64;

fn run_id(text: &str) -> Result<String, String> {
    let is_id = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_id && (1..=MAX_RUN_ID).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("1 to {MAX_RUN_ID} characters out of A-Z a-z 0-9 - _ ."))
    }
}
