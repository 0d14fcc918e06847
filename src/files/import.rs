//! `import`: sends the rows of a file in batches, and notes what became of each.
//!
//! Two batches are under way at most: the service works on one while it receives the other. A batch
//! that was not answered is sent again when the connection is lost, under the same `request_id`.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    mem::size_of,
    thread,
};

use futures_util::{future::LocalBoxFuture, stream};
use prost::Message as _;
use prost_types::{Value, value::Kind};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::pb as rpc;

use super::{
    Ended, Fault, failed,
    options::ImportOptions,
    progress::{Progress, grouped},
    report::{Outcome, Report},
    say,
    service::{self, Accounts, Patience, explain, is_foreign, is_planned, is_transient, reason},
    source::{FileRow, Raw, Refusal, Source},
};
use crate::proto::{
    ErrorReason, ImportAccountsRequest, ImportAccountsResponse, ImportAction, ImportOutcome,
    ImportResult, ImportRow,
};

/// Batches that are sent and not answered.
const UNDER_WAY: usize = 2;
/// Most bytes of the rows of a batch. With the rest of the message it is within what the service
/// accepts by default, 1 MiB.
const MAX_BYTES: usize = 1000 * 1024;
/// Most bytes of the rows of a batch as the file has them, which are kept until it is answered.
const MAX_RAW: usize = 8 * 1024 * 1024;
/// Most entries of all lists, maps, masks and preferences in the rows of a batch. It is what the
/// service accepts of any one of them (`ImportAccountsRequest.rows`).
const MAX_ENTRIES: usize = 50_000;
/// Most bytes of a response, in which every row has an error.
const LARGEST: usize = 8 * 1024 * 1024;

/// Imports a file, tells the person at the terminal, and returns how it ended. `connect` makes the
/// connection. The first interruption ends the import behind the batches that are under way, the
/// second one at once.
pub async fn import(
    options: &ImportOptions,
    connect: impl FnOnce() -> LocalBoxFuture<'static, Result<Channel, String>>,
    interrupts: Interrupts<'_>,
) -> Ended {
    run(options, connect, interrupts).await.unwrap_or_else(failed)
}

async fn run(
    options: &ImportOptions,
    connect: impl FnOnce() -> LocalBoxFuture<'static, Result<Channel, String>>,
    interrupts: Interrupts<'_>,
) -> Result<Ended, Fault> {
    let source = Source::open(options)?;
    let report = Report::new(options, source.format, source.header())?;
    let channel = connect().await.map_err(Fault::Failed)?;
    let accounts = service::accounts(channel, &options.target, LARGEST)?;
    let run_id = options.run_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let progress = Progress::begin(source.size, options.quiet);
    if let Some(warning) = source.warning() {
        progress.say(warning);
    }
    if !options.quiet && !options.dry_run {
        progress.say(&format!("run {run_id}"));
    }
    let shape = Shape { options: options.clone(), run_id: run_id.clone() };
    let (sender, batches) = mpsc::channel(1);
    let (faulted, fault) = oneshot::channel();
    // Reading waits for the disk, and parsing keeps a processor busy.
    thread::spawn(move || {
        let ended = read(source, &shape, &sender);
        drop(sender);
        let _ = faulted.send(ended.err());
    });
    let mut run = Run {
        options,
        accounts,
        batches,
        read_all: false,
        under_way: VecDeque::new(),
        report,
        progress,
        patience: Patience::new(options.target.retry_for),
        next_row: options.start_row.unwrap_or(1),
        stop: None,
        interrupt: interrupts(),
        interrupts,
    };
    let mut ended = run.import_all().await;
    let (took, report) = (run.progress.end(), run.report);
    // An error of the file is printed after the rows before it were imported.
    if let Ok(Ended::Done) = ended
        && let Some(fault) = fault.await.ok().flatten()
    {
        ended = Err(fault);
    }
    let ended = match ended {
        Ok(Ended::Done) if report.refused() > 0 => Ended::Refused,
        Ok(ended) => ended,
        Err(fault) => failed(fault),
    };
    say(&report.summary(took, options.dry_run));
    let is_complete = matches!(ended, Ended::Done | Ended::Refused);
    let next_row = (!is_complete).then_some(run.next_row);
    if let Some(line) = next_row {
        let run = if options.dry_run { String::new() } else { format!(" --run-id {run_id}") };
        say(&format!("it did not get to the end; go on with: --start-row {line}{run}"));
    }
    if options.json {
        let _ = writeln!(io::stdout(), "{}", report.json(took, &run_id, next_row));
    }
    Ok(ended)
}

/// What makes batches of rows.
struct Shape {
    options: ImportOptions,
    run_id: String,
}

/// Rows that go together.
struct Batch {
    rows: Vec<FileRow>,
    /// `None` if no row is sent.
    request: Option<ImportAccountsRequest>,
    /// The position of the file behind it.
    end: u64,
}

impl Shape {
    /// A batch of rows. A row that is refused here refuses the others if it has to.
    fn batch(&self, mut rows: Vec<FileRow>, end: u64) -> Batch {
        if self.options.all_or_nothing && rows.iter().any(|row| row.row.is_err()) {
            for row in rows.iter_mut().filter(|row| row.row.is_ok()) {
                row.row = Err(Refusal::new(
                    ErrorReason::BatchRefused,
                    "another row of the batch was refused, and the batch asked for all or nothing",
                ));
            }
        }
        let sent: Vec<ImportRow> =
            rows.iter().filter_map(|row| row.row.as_ref().ok().cloned()).collect();
        let action: ImportAction = self.options.action.into();
        let dry_run = self.options.dry_run;
        let first = rows.first().map_or(0, |row| row.line);
        let request = (!sent.is_empty()).then(|| ImportAccountsRequest {
            rows: sent,
            action: action.into(),
            all_or_nothing: self.options.all_or_nothing,
            request_id: if dry_run { String::new() } else { format!("{}-{first}", self.run_id) },
            validate_only: dry_run,
        });
        Batch { rows, request, end }
    }
}

/// Reads the file to its end, or until nobody takes the batches.
fn read(mut source: Source, shape: &Shape, batches: &mpsc::Sender<Batch>) -> Result<(), Fault> {
    let start = shape.options.start_row.unwrap_or_default();
    let most = usize::try_from(shape.options.batch_size).unwrap_or(1);
    let (mut rows, mut held) = (Vec::new(), Size::default());
    let send = |rows, end| batches.blocking_send(shape.batch(rows, end)).is_ok();
    loop {
        let next = match source.next() {
            Ok(next) => next,
            Err(fault) => {
                // The rows before are good.
                if !rows.is_empty() {
                    send(rows, source.size.unwrap_or_default());
                }
                return Err(fault);
            }
        };
        let Some(mut row) = next else { break };
        if row.line < start {
            continue;
        }
        let mut size = Size::of(&row);
        if size.encoded > MAX_BYTES {
            let message =
                format!("the row has {} bytes, of which a message takes {MAX_BYTES}", size.encoded);
            row.row = Err(Refusal::new(ErrorReason::RequestTooLarge, message));
            size = Size::of(&row);
        }
        if rows.len() == most || (!rows.is_empty() && !held.has_room_for(&size)) {
            if !send(std::mem::take(&mut rows), row.position) {
                return Ok(());
            }
            held = Size::default();
        }
        held.add(&size);
        rows.push(row);
    }
    if !rows.is_empty() {
        send(rows, source.size.unwrap_or_default());
    }
    Ok(())
}

/// What rows take.
#[derive(Debug, Default)]
struct Size {
    /// Bytes of a message.
    encoded: usize,
    /// Bytes of the file.
    raw: usize,
    entries: usize,
}

impl Size {
    fn of(row: &FileRow) -> Self {
        let raw = match &row.raw {
            Raw::Cells(cells) => cells.iter().map(String::len).sum(),
            Raw::Line(line) => line.len(),
        };
        let Ok(row) = &row.row else { return Self { raw, ..Self::default() } };
        let encoded = row.encoded_len() + size_of::<u64>();
        let account = row.account.as_ref();
        let of_account = account.map_or(0, |account| {
            let preferences = account.preferences.as_ref();
            account.metadata.len()
                + preferences.map_or(0, |it| it.fields.values().map(values).sum())
        });
        let roles: usize = row.account_users.iter().map(|user| 1 + user.roles.len()).sum();
        let brought = row.organization.as_ref().map_or(0, |it| it.metadata.len());
        let paths = row.update_mask.as_ref().map_or(0, |mask| mask.paths.len());
        let entries = of_account + roles + brought + paths + row.linked_organizations.len();
        Self { encoded, raw, entries }
    }

    const fn has_room_for(&self, row: &Self) -> bool {
        self.encoded + row.encoded <= MAX_BYTES
            && self.raw + row.raw <= MAX_RAW
            && self.entries + row.entries <= MAX_ENTRIES
    }

    const fn add(&mut self, row: &Self) {
        self.encoded += row.encoded;
        self.raw += row.raw;
        self.entries += row.entries;
    }
}

/// How many values there are in a value, itself included.
fn values(value: &Value) -> usize {
    let inside: usize = match &value.kind {
        Some(Kind::ListValue(list)) => list.values.iter().map(values).sum(),
        Some(Kind::StructValue(object)) => object.fields.values().map(values).sum(),
        _ => 0,
    };
    1 + inside
}

/// A run.
struct Run<'a> {
    options: &'a ImportOptions,
    accounts: Accounts,
    batches: mpsc::Receiver<Batch>,
    /// Whether the file was read to its end.
    read_all: bool,
    /// The batches that were read from the file and are not answered.
    under_way: VecDeque<Batch>,
    report: Report,
    progress: Progress,
    patience: Patience,
    /// The line behind that in which the last row begins that is answered.
    next_row: u64,
    /// Why no further batch is sent.
    stop: Option<Stop>,
    interrupt: LocalBoxFuture<'static, ()>,
    /// Makes a future that is over at the next interruption.
    interrupts: Interrupts<'a>,
}

/// Makes a future that is over when the person at the terminal interrupts the command.
pub type Interrupts<'a> = &'a dyn Fn() -> LocalBoxFuture<'static, ()>;

/// Why a run stops before the end of the file.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Interrupted,
    TooManyRefused,
}

impl Run<'_> {
    /// Sends everything, over as many connections as that takes.
    async fn import_all(&mut self) -> Result<Ended, Fault> {
        loop {
            let status = match self.stream().await {
                Ok(ended) => return Ok(ended),
                Err(End::Fault(fault)) => return Err(fault),
                Err(End::Status(status)) => *status,
            };
            let is_wrong = is_foreign(&status) && !self.patience.has_succeeded();
            if is_wrong || !is_transient(&status) {
                return Err(Fault::Failed(told(&status)));
            }
            if self.stop.is_some() {
                // Nobody waits for what is under way. It has its request_id.
                return self.end();
            }
            if is_planned(&status) && self.patience.is_fresh() {
                continue;
            }
            self.progress.say(&format!("{}; trying again", explain(&status)));
            tokio::select! {
                goes_on = self.patience.wait() => if !goes_on {
                    return Err(Fault::Failed(told(&status)));
                },
                () = &mut self.interrupt => return Ok(Ended::Interrupted),
            }
        }
    }

    /// Sends what is under way and what comes next, until the end or an error.
    async fn stream(&mut self) -> Result<Ended, End> {
        let (sender, requests) = mpsc::channel::<ImportAccountsRequest>(UNDER_WAY);
        for batch in self.under_way.iter().filter_map(|batch| batch.request.as_ref()) {
            // There is room for all that can be under way.
            let _ = sender.try_send(batch.clone());
        }
        let requests = stream::unfold(requests, async |mut requests| {
            requests.recv().await.map(|request| (request, requests))
        });
        // A service that hangs does not answer this call.
        let mut answers = tokio::select! {
            opened = self.accounts.import_accounts(requests) => opened?.into_inner(),
            () = &mut self.interrupt => return Ok(Ended::Interrupted),
        };
        loop {
            let is_all = self.read_all || self.stop.is_some();
            if self.under_way.is_empty() && is_all {
                drop(sender);
                // The service says that it has nothing more.
                let _ = answers.message().await?;
                return Ok(self.end()?);
            }
            tokio::select! {
                batch = self.batches.recv(), if !is_all && self.under_way.len() < UNDER_WAY => {
                    let Some(batch) = batch else {
                        self.read_all = true;
                        continue;
                    };
                    if let Some(request) = &batch.request {
                        // It waits for nothing, and if the stream has ended, an answer says so.
                        let _ = sender.try_send(request.clone());
                    }
                    self.under_way.push_back(batch);
                    self.finish_unsent()?;
                }
                answer = next(&mut answers), if !self.under_way.is_empty() => self.answered(answer?)?,
                () = &mut self.interrupt => {
                    self.interrupt = (self.interrupts)();
                    if matches!(self.stop.replace(Stop::Interrupted), Some(Stop::Interrupted)) {
                        return Ok(Ended::Interrupted);
                    }
                    self.progress.say("interrupted: waiting for the batch that is under way");
                }
            }
        }
    }

    fn end(&self) -> Result<Ended, Fault> {
        match self.stop.filter(|_| !self.read_all) {
            None => Ok(Ended::Done),
            Some(Stop::Interrupted) => Ok(Ended::Interrupted),
            Some(Stop::TooManyRefused) => {
                let (refused, most) = (self.report.refused(), self.options.max_refused);
                let most = grouped(most.unwrap_or_default());
                let refused = grouped(refused);
                let message = format!("{refused} rows are refused, more than --max-refused {most}");
                Err(Fault::Failed(message))
            }
        }
    }

    /// Notes what became of a batch, and of those behind it that were not sent.
    fn answered(&mut self, answer: ImportAccountsResponse) -> Result<(), End> {
        let unexpected =
            || Fault::Failed("the service has answered a batch that was not sent".into());
        let batch = self.under_way.pop_front().ok_or_else(unexpected)?;
        let sent = batch.request.as_ref().map_or(0, |request| request.rows.len());
        if answer.results.len() != sent {
            return Err(unexpected().into());
        }
        self.patience.reset();
        let created = answer.batch.as_ref().map_or(0, |batch| batch.organizations_created);
        self.report.note_organizations(created);
        self.note(&batch, answer.results)?;
        self.finish_unsent()
    }

    /// Finishes batches of which no row is sent, if it is their turn.
    fn finish_unsent(&mut self) -> Result<(), End> {
        while let Some(batch) = self.under_way.pop_front_if(|batch| batch.request.is_none()) {
            self.note(&batch, Vec::new())?;
        }
        Ok(())
    }

    fn note(&mut self, batch: &Batch, results: Vec<ImportResult>) -> Result<(), End> {
        let mut results = results.into_iter();
        for row in &batch.rows {
            let outcome = match &row.row {
                Err(refusal) => Outcome::Refused(refusal.clone()),
                Ok(_) => results.next().map_or_else(unanswered, outcome),
            };
            self.report.note(row, &outcome)?;
        }
        self.report.flush()?;
        self.progress.show(batch.end, self.report.rows(), self.report.refused());
        if let Some(last) = batch.rows.last() {
            self.next_row = last.line + 1;
        }
        if self.options.max_refused.is_some_and(|most| self.report.refused() > most) {
            self.stop.get_or_insert(Stop::TooManyRefused);
        }
        Ok(())
    }
}

/// The text of the error that ends a run.
fn told(status: &Status) -> String {
    let explained = explain(status);
    match reason(status).as_deref() {
        Some("REQUEST_ID_REUSED") => format!(
            "{explained}. The run of --run-id had another file or other options: begin without it"
        ),
        _ => explained,
    }
}

/// How a stream ends.
enum End {
    Status(Box<Status>),
    Fault(Fault),
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

/// The next answer. A stream that ends without one has lost its connection.
async fn next(
    answers: &mut Streaming<ImportAccountsResponse>,
) -> Result<ImportAccountsResponse, Status> {
    let answer = answers.message().await?;
    answer.ok_or_else(|| Status::unavailable("the service ended the stream early"))
}

fn unanswered() -> Outcome {
    Outcome::Refused(Refusal::new(ErrorReason::Internal, "the service has not answered this row"))
}

fn outcome(result: ImportResult) -> Outcome {
    let name = match (result.outcome(), result.error) {
        (ImportOutcome::Created, None) => "CREATED",
        (ImportOutcome::Updated, None) => "UPDATED",
        (ImportOutcome::Unchanged, None) => "UNCHANGED",
        (_, Some(error)) => return Outcome::Refused(refusal(&error)),
        (_, None) => return unanswered(),
    };
    Outcome::Kept(name, result.account_id, result.etag)
}

fn refusal(error: &rpc::Status) -> Refusal {
    let status = Status::with_details(
        tonic::Code::from(error.code),
        error.message.clone(),
        error.encode_to_vec().into(),
    );
    let explained = explain(&status);
    let (reason, message) = explained.split_once(": ").unwrap_or(("INTERNAL", &explained));
    Refusal { reason: reason.to_owned(), message: message.to_owned() }
}
