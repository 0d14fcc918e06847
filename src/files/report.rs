//! What became of the rows: totals, the file of refused rows, the file of results, and the summary.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    iter,
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Fault,
    batch::Pending,
    json::with_entries,
    options::{Format, ImportOptions},
    part::is_same,
    progress::{counted, grouped},
    source::{Raw, Refusal, Source, Table},
};

/// The columns that a file of refused rows has in front. An import ignores them.
const REJECTED: [&str; 3] = ["_row", "_reason", "_message"];

/// What became of a row.
#[derive(Debug)]
pub enum Outcome {
    /// It is kept: the outcome without the prefix of the contract, the id and the etag.
    Kept(&'static str, String, String),
    /// It is refused.
    Refused(Refusal),
}

/// The report of a run. It has each batch whole or not at all.
pub struct Report {
    rejects: Output,
    results: Option<Output>,
    /// Of a CSV file: its header, with which the file of refused rows begins, and its delimiter.
    table: Option<Table>,
    /// Whether the run does not go on with another one and has noted no batch. Its first batch
    /// replaces what the files contain.
    is_new: bool,
    totals: Totals,
}

/// What became of all rows.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Rows by outcome.
    outcomes: BTreeMap<&'static str, u64>,
    /// Refused rows by reason.
    reasons: BTreeMap<String, u64>,
    /// Organizations that were created.
    organizations: i64,
}

/// How a run ended, for its summary as JSON.
#[derive(Debug, Default)]
pub struct End<'a> {
    /// How long it took.
    pub took: Duration,
    /// Its id; empty if it did not begin.
    pub run_id: &'a str,
    /// The line to go on with, if it did not get to the end.
    pub next_row: Option<u64>,
    /// What ended it early.
    pub error: Option<String>,
}

/// A file that a run writes. No other import writes it at the same time.
struct Output {
    /// The option that names the file.
    option: &'static str,
    path: PathBuf,
    file: File,
    /// Whether it is a regular file, and not a device such as `/dev/null`.
    is_file: bool,
    /// The bytes up to the end of the last batch that is noted.
    length: u64,
    /// Whether the file is removed in the end if it is empty.
    is_removed_if_empty: bool,
}

impl Report {
    /// Opens and locks the files of a run without changing them. Fails if one of them cannot be
    /// opened for writing, so that nothing is sent then.
    pub fn new(options: &ImportOptions, source: &Source) -> Result<Self, Fault> {
        let imported = ("the file that is imported", source.about.clone());
        let path = options.rejects.clone().unwrap_or_else(|| default(&options.file, source));
        let rejects = Output::open("--rejects", path, slice::from_ref(&imported))?;
        let others = [imported, ("the file of --rejects", rejects.file.metadata().ok())];
        let results = options.results.clone();
        let results = results.map(|path| Output::open("--results", path, &others)).transpose()?;
        let first_row = if source.table().is_some() { 2 } else { 1 };
        Ok(Self {
            rejects,
            results,
            table: source.table().cloned(),
            is_new: options.start_row.is_none_or(|line| line <= first_row),
            totals: Totals::default(),
        })
    }

    /// Empties the files if this is a new run that has noted no batch.
    pub fn begin(&mut self) -> Result<(), Fault> {
        if self.is_new {
            for file in iter::once(&mut self.rejects).chain(&mut self.results) {
                file.length = 0;
                file.cut()?;
            }
        }
        // A run without refused rows leaves no rejects file. Results without lines are a file.
        self.rejects.is_removed_if_empty = true;
        if let Some(results) = &mut self.results {
            results.is_removed_if_empty = false;
        }
        Ok(())
    }

    /// Whether the run does not go on with another one and has noted no batch.
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Notes what became of the rows of a batch, which has created so many organizations. If a file
    /// cannot be written, nothing of the batch is noted in any file or in the totals.
    pub fn note<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a Pending, Outcome)>,
        organizations: i64,
    ) -> Result<(), Fault> {
        self.begin()?;
        let mut totals = self.totals.clone();
        totals.organizations += organizations;
        let (mut rejects, mut results) = (String::new(), String::new());
        for (row, outcome) in rows {
            let (name, result) = match outcome {
                Outcome::Kept(name, id, etag) => {
                    let result = json!({
                        "row": row.line, "account_id": id, "outcome": name, "etag": etag,
                    });
                    (name, result)
                }
                Outcome::Refused(Refusal { reason, message }) => {
                    if self.rejects.length == 0 && rejects.is_empty() {
                        rejects.push_str(&head(self.table.as_ref())?);
                    }
                    let rejected = rejected(self.table.as_ref(), row, &reason, &message)?;
                    rejects.push_str(&rejected);
                    let result = json!({
                        "row": row.line, "account_id": row.account_id, "outcome": "REFUSED",
                        "reason": reason, "message": message,
                    });
                    *totals.reasons.entry(reason).or_default() += 1;
                    ("REFUSED", result)
                }
            };
            *totals.outcomes.entry(name).or_default() += 1;
            results.push_str(&result.to_string());
            results.push('\n');
        }
        let mut files = vec![(&mut self.rejects, rejects)];
        files.extend(self.results.as_mut().map(|file| (file, results)));
        let written = files.iter_mut().try_for_each(|(file, text)| file.write(text));
        for (file, text) in files {
            if written.is_ok() {
                file.length += text.len() as u64;
            } else {
                file.cut()?;
            }
        }
        written?;
        self.is_new = false;
        self.totals = totals;
        Ok(())
    }

    /// The rows so far.
    pub fn rows(&self) -> u64 {
        self.totals.rows()
    }

    /// The refused rows so far.
    pub fn refused(&self) -> u64 {
        self.totals.of("REFUSED")
    }

    /// The summary in a line.
    pub fn summary(&self, took: Duration, dry_run: bool) -> String {
        let totals = &self.totals;
        let verb = if dry_run { "would be " } else { "" };
        let mut parts: Vec<_> =
            [("CREATED", "created"), ("UPDATED", "updated"), ("UNCHANGED", "unchanged")]
                .map(|(outcome, word)| format!("{} {verb}{word}", grouped(totals.of(outcome))))
                .into();
        let refused = self.refused();
        let mut reasons: Vec<_> = totals.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<_> = reasons
            .iter()
            .map(|(reason, count)| format!("{reason} {}", grouped(**count)))
            .collect();
        parts.push(match &*reasons {
            [] => format!("0 {verb}refused"),
            reasons => format!("{} {verb}refused ({})", grouped(refused), reasons.join(", ")),
        });
        if totals.organizations > 0 {
            let organizations = u64::try_from(totals.organizations).unwrap_or_default();
            parts.push(format!("{} {verb}created", counted(organizations, "organization")));
        }
        let rejects = if refused > 0 {
            format!("; refused rows are in {}", self.rejects.path.display())
        } else {
            String::new()
        };
        format!("{} in {:.1} s{rejects}", parts.join(", "), took.as_secs_f64())
    }

    /// The summary as JSON.
    pub fn json(&self, end: &End<'_>) -> Value {
        let rejects = (self.refused() > 0).then_some(self.rejects.path.as_path());
        self.totals.json(rejects, end)
    }
}

impl Totals {
    fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    fn rows(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// The totals of a run that ended so, as JSON; `rejects` is the file with the refused rows.
    pub fn json(&self, rejects: Option<&Path>, end: &End<'_>) -> Value {
        json!({
            "rows": self.rows(),
            "created": self.of("CREATED"),
            "updated": self.of("UPDATED"),
            "unchanged": self.of("UNCHANGED"),
            "refused": self.of("REFUSED"),
            "organizations_created": self.organizations,
            "refused_by_reason": self.reasons,
            "rejects": rejects.map(|path| path.display().to_string()),
            "seconds": end.took.as_secs_f64(),
            "run_id": end.run_id,
            "next_row": end.next_row,
            "error": end.error,
        })
    }
}

impl Output {
    /// Opens and locks a file. Fails if it is one of the others, each with what it is called.
    fn open(
        option: &'static str,
        path: PathBuf,
        others: &[(&str, Option<fs::Metadata>)],
    ) -> Result<Self, Fault> {
        let before = fs::metadata(&path);
        if let Ok(about) = &before {
            // Opening or writing a pipe blocks until somebody reads it, and no signal ends that.
            if is_pipe(about) {
                return Err(Fault::Usage(named(option, &path, &"is a pipe; name a file")));
            }
            for (name, other) in others {
                if other.as_ref().is_some_and(|it| it.is_file() && is_same(it, about)) {
                    return Err(Fault::Usage(named(option, &path, &format!("is {name}"))));
                }
            }
        }
        let failed = |error: io::Error| Fault::Failed(named(option, &path, &error));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let is_file = file.metadata().map_err(failed)?.is_file();
        let length = if is_file { lock(&file, &path).map_err(failed)? } else { 0 };
        Ok(Self { option, path, file, is_file, length, is_removed_if_empty: before.is_err() })
    }

    fn write(&mut self, text: &str) -> Result<(), Fault> {
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| Fault::Failed(named(self.option, &self.path, &error)))
    }

    /// Cuts the file back to the end of the last batch that is noted.
    fn cut(&mut self) -> Result<(), Fault> {
        if !self.is_file {
            return Ok(());
        }
        let cut = self.file.set_len(self.length);
        let cut = cut.and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        cut.map_err(|error| Fault::Failed(named(self.option, &self.path, &error)))?;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // If the path is a link, this removes the file that it leads to.
        if self.is_file
            && self.is_removed_if_empty
            && self.length == 0
            && let Ok(path) = fs::canonicalize(&self.path)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Locks an open file, moves to its end, and returns its length. Fails if another import has it
/// locked, or has removed it: an import removes an empty file before it unlocks it.
fn lock(mut file: &File, path: &Path) -> io::Result<u64> {
    let locked = file.try_lock();
    let own = file.metadata()?;
    match locked {
        Ok(()) if fs::metadata(path).is_ok_and(|there| is_same(&there, &own)) => {
            file.seek(SeekFrom::End(0))
        }
        Ok(()) | Err(TryLockError::WouldBlock) => Err(io::Error::other("another import writes it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_pipe(about: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        about.file_type().is_fifo()
    }
    #[cfg(not(unix))]
    {
        let _ = about;
        false
    }
}

/// A message about the file of an option.
fn named(option: &str, path: &Path, message: &dyn Display) -> String {
    format!("{option} {}: {message}", path.display())
}

/// What a file of refused rows begins with: of a CSV file the header, otherwise nothing.
fn head(table: Option<&Table>) -> Result<String, Fault> {
    let Some(Table { header, delimiter }) = table else { return Ok(String::new()) };
    let own = header.iter().filter(|name| !is_about(name));
    line(REJECTED.into_iter().chain(own.map(String::as_str)), *delimiter)
}

/// A refused row for the file of refused rows.
fn rejected(
    table: Option<&Table>,
    row: &Pending,
    reason: &str,
    message: &str,
) -> Result<String, Fault> {
    let number = row.line.to_string();
    let about = [number.as_str(), reason, message];
    let (header, delimiter) = table.map_or((&[][..], b','), |it| (&it.header, it.delimiter));
    // A file of refused rows that is imported has these columns already.
    let is_own = |i: usize| header.get(i).is_none_or(|name| !is_about(name));
    match &row.raw {
        Raw::Cells(cells) => {
            let own = cells.iter().enumerate().filter(|(i, _)| is_own(*i));
            line(about.into_iter().chain(own.map(|(_, cell)| cell.as_str())), delimiter)
        }
        Raw::Text(text) => {
            let other = (0..header.len()).take_while(|i| !is_own(*i)).count();
            let about = line(about.into_iter(), delimiter)?;
            let about = about.trim_end_matches('\n');
            Ok(format!("{about}{}{}\n", char::from(delimiter), behind(text, other, delimiter)))
        }
        Raw::Line(text) => {
            let entries = format!(
                "\"_row\":{number},\"_reason\":{},\"_message\":{}",
                Value::from(reason),
                Value::from(message)
            );
            Ok(with_entries(text, &REJECTED, &entries) + "\n")
        }
    }
}

/// Whether a column says why a row was refused.
fn is_about(name: &str) -> bool {
    REJECTED.contains(&name.trim())
}

/// The text of a record behind its first cells.
fn behind(record: &str, cells: usize, delimiter: u8) -> &str {
    let mut quoted = false;
    let ends = record.bytes().enumerate().filter(|(_, byte)| {
        quoted ^= *byte == b'"';
        *byte == delimiter && !quoted
    });
    let begin = cells.checked_sub(1).map_or(Some(0), |last| ends.map(|(at, _)| at + 1).nth(last));
    begin.and_then(|begin| record.get(begin..)).unwrap_or_default()
}

fn unwritten(error: &dyn Display) -> Fault {
    Fault::Failed(format!("--rejects: {error}"))
}

/// A line of a CSV file.
fn line<'a>(cells: impl Iterator<Item = &'a str>, delimiter: u8) -> Result<String, Fault> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| unwritten(&error))?;
    let bytes = writer.into_inner().map_err(|error| unwritten(&error))?;
    String::from_utf8(bytes).map_err(|error| unwritten(&error))
}

/// `accounts.csv` → `accounts.rejects.csv`. Standard input and pipes, such as `/dev/fd/63`, may have
/// no folder to write to: their rejects file is in the current one.
fn default(file: &str, source: &Source) -> PathBuf {
    let extension = if source.format == Format::Jsonl { "jsonl" } else { "csv" };
    if source.size.is_none() {
        return format!("import.rejects.{extension}").into();
    }
    let path = Path::new(file);
    let extension = path.extension().map_or(extension.into(), std::ffi::OsStr::to_string_lossy);
    path.with_extension(format!("rejects.{extension}"))
}
