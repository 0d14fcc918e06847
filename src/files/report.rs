//! What became of the rows: totals, the file of refused rows, the file of results, and the summary.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
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
    source::{Raw, Refusal, STANDARD, Source, Table},
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

/// The report of a run.
pub struct Report {
    rejects: Rejects,
    results: Option<BufWriter<File>>,
    totals: Totals,
}

/// What became of all rows.
#[derive(Debug, Default)]
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

struct Rejects {
    path: PathBuf,
    /// Of a CSV file: its header, which a new file begins with, and its delimiter.
    table: Option<Table>,
    /// Whether it goes on with a file of an earlier run.
    append: bool,
    file: Option<BufWriter<File>>,
}

impl Report {
    /// A report of nothing.
    pub fn new(options: &ImportOptions, source: &Source) -> Result<Self, Fault> {
        let path = options.rejects.clone();
        let path = path.unwrap_or_else(|| default(&options.file, source.format));
        let all = [
            ("the file that is imported", Some(Path::new(&options.file))),
            ("--rejects", Some(path.as_path())),
            ("--results", options.results.as_deref()),
        ];
        for (i, (name, path)) in all.iter().enumerate().skip(1) {
            let Some(path) = path else { continue };
            for (other, file) in all.iter().take(i) {
                if file.is_some_and(|file| is_one(file, path)) {
                    return Err(Fault::Usage(format!("{name}: {} is {other}", path.display())));
                }
            }
        }
        // Nothing is sent if a refused row could not be written.
        let is_there = path.exists();
        drop(open(&path, true)?);
        if !is_there {
            let _ = fs::remove_file(&path);
        }
        let results = options.results.as_ref().map(|path| open(path, options.start_row.is_some()));
        Ok(Self {
            rejects: Rejects {
                path,
                table: source.table().cloned(),
                append: options.start_row.is_some(),
                file: None,
            },
            results: results.transpose()?.map(BufWriter::new),
            totals: Totals::default(),
        })
    }

    /// Notes what became of a row.
    pub fn note(&mut self, row: &Pending, outcome: &Outcome) -> Result<(), Fault> {
        let (name, result) = match outcome {
            Outcome::Kept(name, id, etag) => {
                (*name, json!({ "row": row.line, "account_id": id, "outcome": name, "etag": etag }))
            }
            Outcome::Refused(Refusal { reason, message }) => {
                self.rejects.write(row, reason, message)?;
                *self.totals.reasons.entry(reason.clone()).or_default() += 1;
                let result = json!({
                    "row": row.line, "account_id": row.account_id, "outcome": "REFUSED",
                    "reason": reason, "message": message,
                });
                ("REFUSED", result)
            }
        };
        *self.totals.outcomes.entry(name).or_default() += 1;
        if let Some(results) = &mut self.results {
            writeln!(results, "{result}")
                .map_err(|error| Fault::Failed(format!("--results: {error}")))?;
        }
        Ok(())
    }

    /// Notes organizations that a batch has created.
    pub const fn note_organizations(&mut self, created: i64) {
        self.totals.organizations += created;
    }

    /// Writes what is buffered, so that it is there if the process is killed.
    pub fn flush(&mut self) -> Result<(), Fault> {
        for (name, file) in
            [("--rejects", &mut self.rejects.file), ("--results", &mut self.results)]
        {
            if let Some(file) = file {
                file.flush().map_err(|error| Fault::Failed(format!("{name}: {error}")))?;
            }
        }
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
            [] => "0 refused".to_owned(),
            reasons => format!("{} {verb}refused ({})", grouped(refused), reasons.join(", ")),
        });
        if totals.organizations > 0 {
            let organizations = u64::try_from(totals.organizations).unwrap_or_default();
            parts.push(format!("{} {verb}created", counted(organizations, "organization")));
        }
        let rejects = if refused > 0 {
            format!("; refused rows are in {}", self.rejects.path.display())
        } else if self.rejects.path.exists() {
            format!("; {} is of an earlier run", self.rejects.path.display())
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

impl Rejects {
    fn write(&mut self, row: &Pending, reason: &str, message: &str) -> Result<(), Fault> {
        let file = match &mut self.file {
            Some(file) => file,
            file => {
                let opened = open(&self.path, self.append)?;
                let is_new = opened.metadata().is_ok_and(|about| about.len() == 0);
                let file = file.insert(BufWriter::new(opened));
                if let Some(table) = self.table.as_ref().filter(|_| is_new) {
                    let own = table.header.iter().filter(|name| !is_about(name));
                    let names = REJECTED.into_iter().chain(own.map(String::as_str));
                    write!(file, "{}", line(names, table.delimiter)?)
                        .map_err(|error| unwritten(&error))?;
                }
                file
            }
        };
        let number = row.line.to_string();
        let about = [number.as_str(), reason, message];
        let table = self.table.as_ref();
        let (header, delimiter) = table.map_or((&[][..], b','), |it| (&it.header, it.delimiter));
        // A file of refused rows that is imported has these columns already.
        let is_own = |i: usize| header.get(i).is_none_or(|name| !is_about(name));
        let text = match &row.raw {
            Raw::Cells(cells) => {
                let own = cells.iter().enumerate().filter(|(i, _)| is_own(*i));
                line(about.into_iter().chain(own.map(|(_, cell)| cell.as_str())), delimiter)?
            }
            Raw::Text(text) => {
                let other = (0..header.len()).take_while(|i| !is_own(*i)).count();
                let about = line(about.into_iter(), delimiter)?;
                let about = about.trim_end_matches('\n');
                format!("{about}{}{}\n", char::from(delimiter), behind(text, other, delimiter))
            }
            Raw::Line(text) => {
                let entries = format!(
                    "\"_row\":{number},\"_reason\":{},\"_message\":{}",
                    Value::from(reason),
                    Value::from(message)
                );
                with_entries(text, &REJECTED, &entries) + "\n"
            }
        };
        file.write_all(text.as_bytes()).map_err(|error| unwritten(&error))
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

/// Whether two paths lead to one file, or will.
fn is_one(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => is_same(&a, &b),
        _ => a == b,
    }
}

fn unwritten(error: &dyn std::fmt::Display) -> Fault {
    Fault::Failed(format!("--rejects: {error}"))
}

/// A line of a CSV file.
fn line<'a>(cells: impl Iterator<Item = &'a str>, delimiter: u8) -> Result<String, Fault> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    writer.write_record(cells).map_err(|error| unwritten(&error))?;
    let bytes = writer.into_inner().map_err(|error| unwritten(&error))?;
    String::from_utf8(bytes).map_err(|error| unwritten(&error))
}

fn open(path: &Path, append: bool) -> Result<File, Fault> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).append(append).truncate(!append).open(path);
    opened.map_err(|error| Fault::Failed(format!("{}: {error}", path.display())))
}

/// `accounts.csv` → `accounts.rejects.csv`.
fn default(file: &str, format: Format) -> PathBuf {
    let extension = if format == Format::Jsonl { "jsonl" } else { "csv" };
    if file == STANDARD {
        return format!("import.rejects.{extension}").into();
    }
    let path = Path::new(file);
    let extension = path.extension().map_or(extension.into(), std::ffi::OsStr::to_string_lossy);
    path.with_extension(format!("rejects.{extension}"))
}
