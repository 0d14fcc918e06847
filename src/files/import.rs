//! `import`: sends the rows of a file in batches, and notes what became of each.
//!
//! Two batches are under way at most: the service works on one while it receives the other. A batch
//! that was not answered is sent again, under the same `request_id`, when the connection is lost or
//! the service answers with an error that may pass.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    thread,
};

use futures_util::{future::LocalBoxFuture, stream};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::pb as rpc;

use super::{
    Ended, Fault, INTERRUPTED,
    batch::{self, Batch, Shape},
    failed,
    options::ImportOptions,
    progress::{Progress, counted, grouped},
    report::{self, Outcome, Report, Totals},
    say,
    service::{self, Accounts, Patience, explain, reason},
    source::{Refusal, Source},
};
use crate::proto::{
    ErrorReason, ImportAccountsRequest, ImportAccountsResponse, ImportOutcome, ImportResult,
};

/// Batches that are sent and not answered.
const UNDER_WAY: usize = 2;
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
    run(options, connect, interrupts).await.unwrap_or_else(|fault| {
        if options.json {
            let end = report::End { error: Some(fault.to_string()), ..Default::default() };
            let _ = writeln!(io::stdout(), "{}", Totals::default().json(None, &end));
        }
        failed(&fault)
    })
}

async fn run(
    options: &ImportOptions,
    connect: impl FnOnce() -> LocalBoxFuture<'static, Result<Channel, String>>,
    interrupts: Interrupts<'_>,
) -> Result<Ended, Fault> {
    let mut interrupt = interrupts();
    let of_file = options.clone();
    // Standard input and pipes may have nothing yet. The process can end while a thread waits for
    // them; the runtime would wait for a blocking task.
    let (opened, opening) = oneshot::channel();
    thread::spawn(move || drop(opened.send(Source::open(&of_file))));
    let source = tokio::select! {
        source = opening => source.map_err(|error| Fault::Failed(error.to_string()))??,
        () = &mut interrupt => return Err(Fault::Interrupted),
    };
    let report = Report::new(options, &source)?;
    let channel = tokio::select! {
        connected = connect() => connected.map_err(Fault::Failed)?,
        () = &mut interrupt => return Err(Fault::Interrupted),
    };
    let accounts = service::accounts(channel, &options.target, LARGEST)?;
    let run_id = options.run_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let progress = Progress::begin(source.size, options.quiet);
    if !options.quiet && !options.dry_run {
        progress.say(&format!("run {run_id}"));
    }
    let shape = Shape { options: options.clone(), run_id: run_id.clone() };
    let (sender, batches) = mpsc::channel(1);
    let (faulted, fault) = oneshot::channel();
    // Reading waits for the disk, and parsing keeps a processor busy.
    thread::spawn(move || {
        let ended = batch::read(source, &shape, &sender);
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
        interrupt,
        interrupts,
    };
    let mut ended = run.import_all().await;
    let mut is_complete = run.is_complete();
    let (took, mut report) = (run.progress.end(), run.report);
    if let Ok(Ended::Done) = ended {
        if let Some(fault) = fault.await.ok().flatten() {
            // An error of the file is printed after the rows before it were imported.
            ended = Err(fault);
            is_complete = false;
        } else if let Err(fault) = report.begin() {
            // A file without rows has no batch whose note empties the files of an earlier run.
            ended = Err(fault);
        }
    }
    let is_reused = matches!(&ended, Err(Fault::Reused(_)));
    let error = match &ended {
        Ok(Ended::Interrupted) => Some(INTERRUPTED.to_owned()),
        ended => ended.as_ref().err().map(ToString::to_string),
    };
    let ended = match ended {
        Ok(Ended::Done) if report.refused() > 0 => Ended::Refused,
        Ok(ended) => ended,
        Err(fault) => failed(&fault),
    };
    if let Some(line) = options.start_row
        && ended == Ended::Done
        && report.rows() == 0
    {
        say(&format!("no row begins in line {line} or behind it"));
    }
    say(&report.summary(took, options.dry_run));
    let next_row = (!is_complete).then_some(run.next_row);
    if let Some(line) = next_row {
        let run = (!options.dry_run && !is_reused).then(|| format!(" --run-id {run_id}"));
        let run = run.unwrap_or_default();
        let advice = match (report.is_new(), &*run) {
            (false, run) => format!("go on with: --start-row {line}{run}"),
            (true, "") => "run it again".to_owned(),
            (true, run) => format!("run it again with:{run}"),
        };
        say(&format!("it did not get to the end; {advice}"));
    }
    if options.json {
        let end = report::End { took, run_id: &run_id, next_row, error };
        let _ = writeln!(io::stdout(), "{}", report.json(&end));
    }
    Ok(ended)
}

/// A run.
struct Run<'a> {
    options: &'a ImportOptions,
    accounts: Accounts,
    batches: mpsc::Receiver<Batch>,
    /// Whether all rows of the file were read.
    read_all: bool,
    /// The batches that were read from the file and are not noted.
    under_way: VecDeque<Batch>,
    report: Report,
    progress: Progress,
    patience: Patience,
    /// The line behind that in which the last row begins that is noted.
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
            if !self.patience.allows(&status) {
                return Err(failure(&status));
            }
            if self.stop.is_some() {
                // Nobody waits for what is under way. It has its request_id.
                return self.end();
            }
            tokio::select! {
                goes_on = self.patience.wait(&status, &self.progress) => if !goes_on {
                    return Err(failure(&status));
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
        self.patience.reached();
        loop {
            let is_all = self.read_all || self.stop.is_some();
            if self.under_way.is_empty() && is_all {
                drop(sender);
                // The service says that it has nothing more.
                tokio::select! {
                    ended = answers.message() => drop(ended?),
                    () = &mut self.interrupt => {}
                }
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
                    self.read_all = batch.is_last;
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

    /// Whether the file was read to its end and every batch is noted.
    fn is_complete(&self) -> bool {
        self.read_all && self.under_way.is_empty()
    }

    fn end(&self) -> Result<Ended, Fault> {
        match self.stop {
            Some(Stop::Interrupted) if !self.is_complete() => Ok(Ended::Interrupted),
            None | Some(Stop::Interrupted) => Ok(Ended::Done),
            Some(Stop::TooManyRefused) => {
                let (refused, most) = (self.report.refused(), self.options.max_refused);
                let most = grouped(most.unwrap_or_default());
                let refused = counted(refused, "row");
                let message = format!("{refused} refused, more than --max-refused {most}");
                Err(Fault::Failed(message))
            }
        }
    }

    /// Notes what became of a batch, and of those behind it that were not sent.
    fn answered(&mut self, answer: ImportAccountsResponse) -> Result<(), End> {
        let request = self.under_way.front().and_then(|batch| batch.request.as_ref());
        if request.is_none_or(|request| request.rows.len() != answer.results.len()) {
            let message = "the service has answered a batch that was not sent";
            return Err(Fault::Failed(message.into()).into());
        }
        self.patience.reset();
        let created = answer.batch.as_ref().map_or(0, |batch| batch.organizations_created);
        self.note(answer.results, created)?;
        self.finish_unsent()
    }

    /// Finishes batches of which no row is sent, if it is their turn.
    fn finish_unsent(&mut self) -> Result<(), End> {
        while self.under_way.front().is_some_and(|batch| batch.request.is_none()) {
            self.note(Vec::new(), 0)?;
        }
        Ok(())
    }

    /// Notes what became of the first batch that is under way. If that fails, the batch stays under
    /// way, so that a later run goes on with its first row.
    fn note(&mut self, results: Vec<ImportResult>, organizations: i64) -> Result<(), Fault> {
        let Some(batch) = self.under_way.front() else { return Ok(()) };
        let mut results = results.into_iter();
        let rows = batch.rows.iter().map(|row| match &row.refusal {
            Some(refusal) => (row, Outcome::Refused(refusal.clone())),
            None => (row, results.next().map_or_else(unanswered, outcome)),
        });
        self.report.note(rows, organizations)?;
        self.progress.show(batch.end, self.report.rows(), self.report.refused());
        if let Some(last) = batch.rows.last() {
            self.next_row = last.line + 1;
        }
        self.under_way.pop_front();
        if self.options.max_refused.is_some_and(|most| self.report.refused() > most) {
            self.stop.get_or_insert(Stop::TooManyRefused);
        }
        Ok(())
    }
}

/// The error that ends a run.
fn failure(status: &Status) -> Fault {
    let explained = explain(status);
    match reason(status).as_deref() {
        Some("REQUEST_ID_REUSED") => Fault::Reused(format!(
            "{explained}. The run of --run-id had other rows or other options: go on without it"
        )),
        _ => Fault::Failed(explained),
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
