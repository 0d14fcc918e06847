//! `export`: writes the accounts of a tenant into a file, message after message of the service.

use std::{collections::HashSet, io, path::Path, time::Instant};

use futures_util::future::LocalBoxFuture;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, value::Serializer};
use tokio::task::yield_now;
use tonic::{Status, transport::Channel};

use super::{
    Ended, Fault,
    columns::{self, Column, guard},
    failed,
    options::{ExportOptions, Format},
    part::{Output, Standing, is_no_file},
    progress::{Progress, counted},
    say,
    service::{self, Accounts, Patience, explain},
    source::{STANDARD, format_of},
};
use crate::proto::{ExportAccountsRequest, ExportAccountsResponse, ExportedAccount, POOL};

/// Most bytes of a response.
const LARGEST: usize = 16 * 1024 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Exports accounts, tells the person at the terminal, and returns how it ended. `connect` makes
/// the connection to the service with this address; when `interrupt` is over, the export ends.
pub async fn export(
    options: &ExportOptions,
    address: &str,
    connect: impl FnOnce() -> LocalBoxFuture<'static, Result<Channel, String>>,
    interrupt: LocalBoxFuture<'static, ()>,
) -> Ended {
    run(options, address, connect, interrupt).await.unwrap_or_else(|fault| failed(&fault))
}

async fn run(
    options: &ExportOptions,
    address: &str,
    connect: impl FnOnce() -> LocalBoxFuture<'static, Result<Channel, String>>,
    mut interrupt: LocalBoxFuture<'static, ()>,
) -> Result<Ended, Fault> {
    let form = Form::of(options)?;
    let request = request(options, &form);
    let asked = format!("{request:?} {form:?} {address} {:?}", options.target.tenant);
    let resumed = if options.resume { Some(Output::resume(&options.file, &asked)?) } else { None };
    let channel = tokio::select! {
        connected = connect() => connected.map_err(Fault::Failed)?,
        () = &mut interrupt => return Err(Fault::Interrupted),
    };
    let accounts = service::accounts(channel, &options.target, LARGEST)?;
    let (output, standing, header) = if let Some((output, standing)) = resumed {
        (output, standing, None)
    } else {
        let header = form.header()?;
        let output = tokio::select! {
            created = Output::create(&options.file) => created?,
            () = &mut interrupt => return Err(Fault::Interrupted),
        };
        let standing = Standing {
            cursor: String::new(),
            length: 0,
            accounts: 0,
            watch_cursor: String::new(),
            options: asked,
        };
        (output, standing, Some(header))
    };
    let mut run = Run { accounts, request, form, output, standing };
    let mut progress = Progress::begin(None, options.quiet || options.file == STANDARD);
    let began = Instant::now();
    let patience = Patience::new(options.target.retry_for);
    let done = tokio::select! {
        done = run.export_all(header, patience, &mut progress) => done,
        () = interrupt => Ok(Ended::Interrupted),
    };
    progress.end();
    let can_resume = run.output.can_resume();
    let ended = match done {
        Ok(Ended::Done) => match run.output.finish() {
            Ok(()) => Ended::Done,
            Err(error) => return closed(&error),
        },
        Ok(ended) => ended,
        Err(End::Output(error)) => return closed(&error),
        Err(End::Fault(fault)) => failed(&fault),
        Err(End::Status(status)) => failed(&Fault::Failed(explain(&status))),
    };
    let standing = run.standing;
    if ended != Ended::Done {
        if can_resume {
            say("it did not get to the end; go on with --resume and the same options");
        }
    } else if !options.quiet {
        let seconds = began.elapsed().as_secs_f64();
        say(&format!("{} in {seconds:.1} s", counted(standing.accounts, "account")));
    }
    if options.print_watch_cursor && ended == Ended::Done {
        say(&format!("watch cursor: {}", standing.watch_cursor));
    }
    Ok(ended)
}

/// The end of an export whose reader has gone, as `head` does; or an error.
fn closed(error: &io::Error) -> Result<Ended, Fault> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(Ended::Done)
    } else {
        Err(Fault::Failed(format!("cannot write: {error}")))
    }
}

fn request(options: &ExportOptions, form: &Form) -> ExportAccountsRequest {
    let names_links = match form {
        Form::Csv { columns, .. } => columns.iter().any(|column| column.is_links()),
        Form::Json { .. } => options.with_links,
    };
    ExportAccountsRequest {
        organization_id: options.organization.clone(),
        include_descendants: options.include_descendants,
        statuses: options.status.iter().map(|status| i32::from(*status)).collect(),
        account_type_id: options.account_type.clone(),
        account_manager_id: options.account_manager.clone(),
        include_links: names_links,
        include_users: options.with_users,
        cursor: String::new(),
    }
}

/// The form of the file.
enum Form {
    Csv { columns: Vec<&'static Column>, raw: bool, bom: bool, delimiter: u8 },
    Json { exported: MessageDescriptor },
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Csv { columns, raw, bom, delimiter } => {
                let names: Vec<_> = columns.iter().map(|column| column.name).collect();
                write!(f, "csv {names:?} {raw} {bom} {delimiter}")
            }
            Self::Json { .. } => write!(f, "jsonl"),
        }
    }
}

impl Form {
    fn of(options: &ExportOptions) -> Result<Self, Fault> {
        let format = match options.format {
            Format::Auto => match format_of(&options.file) {
                Some(format) => format,
                None if options.file == STANDARD || is_no_file(Path::new(&options.file)) => {
                    Format::Jsonl
                }
                None => {
                    return Err(Fault::Usage(format!(
                        "{}: the name says no format: end it in .csv or .jsonl, or add --format",
                        options.file
                    )));
                }
            },
            format => format,
        };
        if format == Format::Jsonl {
            for (option, is_given) in [
                ("--columns", !options.columns.is_empty()),
                ("--raw", options.raw),
                ("--bom", options.bom),
            ] {
                if is_given {
                    return Err(Fault::Usage(format!("{option}: is for CSV; add --format csv")));
                }
            }
            let exported = POOL
                .get_message_by_name("accounts.v1.ExportedAccount")
                .ok_or_else(|| Fault::Failed("the contract has no ExportedAccount".into()))?;
            return Ok(Self::Json { exported });
        }
        if options.with_users {
            return Err(Fault::Usage(
                "--with-users: CSV has no form for users; add --format jsonl".into(),
            ));
        }
        let columns = match &*options.columns {
            [] => columns::exports(options.with_links),
            columns if options.with_links && !columns.iter().any(|it| it.is_links()) => {
                return Err(Fault::Usage(
                    "--with-links: --columns says what is exported; name linked_organizations"
                        .into(),
                ));
            }
            columns => columns.to_vec(),
        };
        let mut names = HashSet::new();
        if let Some(twice) = columns.iter().find(|column| !names.insert(column.name)) {
            return Err(Fault::Usage(format!("--columns: {} is named twice", twice.name)));
        }
        let is_tabs = Path::new(&options.file).extension().is_some_and(|it| it == "tsv");
        let delimiter = if is_tabs { b'\t' } else { b',' };
        Ok(Self::Csv { columns, raw: options.raw, bom: options.bom, delimiter })
    }

    /// What the file begins with.
    fn header(&self) -> Result<Vec<u8>, Fault> {
        let Self::Csv { columns, bom, delimiter, .. } = self else { return Ok(Vec::new()) };
        let mark = if *bom { BOM } else { &[] };
        let names = columns.iter().map(|column| column.name.to_owned()).collect();
        Ok([mark, &lines([Ok(names)].into_iter(), *delimiter)?].concat())
    }

    /// The lines of these accounts.
    fn lines(&self, accounts: &[ExportedAccount]) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Csv { columns, raw, delimiter, .. } => lines(
                accounts.iter().map(|account| {
                    let cells = columns.iter().map(|column| {
                        let cell = column.show(account)?;
                        Ok(if *raw { cell } else { guard(cell) })
                    });
                    cells.collect::<Result<Vec<_>, String>>().map_err(|error| {
                        let id = account.account.as_ref().map_or("", |account| &account.account_id);
                        Fault::Failed(format!("account {id:?}: {error}"))
                    })
                }),
                *delimiter,
            ),
            Self::Json { exported } => {
                let mut bytes = Vec::new();
                for account in accounts {
                    let line = json(account, exported)
                        .map_err(|error| Fault::Failed(format!("cannot write as JSON: {error}")))?;
                    bytes.extend_from_slice(line.to_string().as_bytes());
                    bytes.push(b'\n');
                }
                Ok(bytes)
            }
        }
    }
}

fn lines(
    records: impl Iterator<Item = Result<Vec<String>, Fault>>,
    delimiter: u8,
) -> Result<Vec<u8>, Fault> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    let failed =
        |error: &dyn std::fmt::Display| Fault::Failed(format!("cannot write as CSV: {error}"));
    for record in records {
        writer.write_record(record?).map_err(|error| failed(&error))?;
    }
    writer.into_inner().map_err(|error| failed(&error))
}

/// An account as protobuf's JSON, with the names of the contract, sorted, so that two exports are
/// equal. An account without a type says so: an import would give a new one the default type.
fn json(account: &ExportedAccount, exported: &MessageDescriptor) -> Result<Value, String> {
    let mut message = DynamicMessage::new(exported.clone());
    message.transcode_from(account).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut json =
        message.serialize_with_options(Serializer, &options).map_err(|error| error.to_string())?;
    if let Some(Value::Object(account)) = json.get_mut("account") {
        account.entry("account_type_id").or_insert_with(|| Value::from(""));
    }
    Ok(json)
}

struct Run {
    accounts: Accounts,
    request: ExportAccountsRequest,
    form: Form,
    output: Output,
    standing: Standing,
}

enum End {
    Status(Box<Status>),
    Fault(Fault),
    Output(io::Error),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Run {
    /// Writes the header of a new export, and reads everything, over as many connections as that
    /// takes.
    async fn export_all(
        &mut self,
        header: Option<Vec<u8>>,
        mut patience: Patience,
        progress: &mut Progress,
    ) -> Result<Ended, End> {
        if let Some(header) = header {
            self.output.write(header).await?;
        }
        loop {
            let status = match self.stream(&mut patience, progress).await {
                Err(End::Status(status)) if patience.allows(&status) => status,
                ended => return ended.map(|()| Ended::Done),
            };
            if !patience.wait(&status, progress).await {
                return Err(End::Status(status));
            }
        }
    }

    /// Reads from where the export stands, until the end or an error.
    async fn stream(
        &mut self,
        patience: &mut Patience,
        progress: &mut Progress,
    ) -> Result<(), End> {
        let request =
            ExportAccountsRequest { cursor: self.standing.cursor.clone(), ..self.request.clone() };
        let mut messages = self.accounts.export_accounts(request).await?.into_inner();
        patience.reached();
        while let Some(message) = messages.message().await? {
            self.keep(message).await?;
            patience.reset();
            progress.show(0, self.standing.accounts, 0);
            // The next message may be there already. An interruption is noticed here.
            yield_now().await;
        }
        Ok(())
    }

    async fn keep(&mut self, message: ExportAccountsResponse) -> Result<(), End> {
        let ExportAccountsResponse { accounts, cursor, watch_cursor } = message;
        self.output.write(self.form.lines(&accounts)?).await?;
        self.standing.accounts += accounts.len() as u64;
        self.standing.cursor = cursor;
        if !watch_cursor.is_empty() {
            self.standing.watch_cursor = watch_cursor;
        }
        Ok(self.output.note(self.standing.clone())?)
    }
}
