//! The rows of a file, whatever its format.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, BufReader, Cursor, IsTerminal as _, Read},
    path::Path,
};

use prost_reflect::MessageDescriptor;

use super::{
    Fault, columns,
    header::{self, Imported},
    json,
    options::{Empty, Format, ImportOptions},
    progress::counted,
    scan::{Checked, Record, Scanner},
};
use crate::proto::{ErrorReason, ImportRow, POOL};

/// The reason of a row that is no row of this file: a wrong number of cells, or no JSON object.
pub const MALFORMED_ROW: &str = "MALFORMED_ROW";
/// The name of standard input and standard output.
pub const STANDARD: &str = "-";
/// The most columns of a file whose empty cells empty their fields, so that every row names all of
/// them: a limit of the contract (`ImportRow.update_mask`).
const MAX_CLEARED: usize = 128;
/// The most bytes of a header.
const MAX_HEADER: usize = 64 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A row of a file.
#[derive(Debug)]
pub struct FileRow {
    /// The line in which it begins.
    pub line: u64,
    /// The position of its first byte.
    pub position: u64,
    /// The id of its account, as far as it can be read.
    pub account_id: String,
    /// As the file has it.
    pub raw: Raw,
    /// What is sent, or why it is refused at once.
    pub row: Result<ImportRow, Refusal>,
}

/// A row as the file has it.
#[derive(Debug)]
pub enum Raw {
    /// The cells of a CSV file.
    Cells(Vec<String>),
    /// The text of a row of a CSV file that cannot be told by its cells.
    Text(String),
    /// A line of JSON.
    Line(String),
}

/// Why a row is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// One of the contract's `ErrorReason`, without its prefix, or [`MALFORMED_ROW`].
    pub reason: String,
    /// What is wrong, and with which field.
    pub message: String,
}

impl Refusal {
    /// A refusal for one of the contract's reasons.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned();
        Self { reason, message: message.into() }
    }

    /// A refusal of a row that is no row of this file.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self { reason: MALFORMED_ROW.into(), message: message.into() }
    }
}

/// A file that is imported.
pub struct Source {
    rows: Rows,
    clear: bool,
    raw: bool,
    ignore: Vec<String>,
    generate_ids: bool,
    /// By the hash of an account id, the line that has it. Two ids have the same hash once in
    /// 30 million files of a million rows.
    seen: HashMap<u64, u64>,
    hasher: RandomState,
    /// The size in bytes, if it is known.
    pub size: Option<u64>,
    /// The file that is read, also where it is standard input.
    pub about: Option<fs::Metadata>,
    /// The format that was found.
    pub format: Format,
}

/// What a CSV file says of its rows.
#[derive(Debug, Clone)]
pub struct Table {
    /// The names of the columns.
    pub header: Vec<String>,
    /// What separates the cells.
    pub delimiter: u8,
}

enum Rows {
    Csv { reader: Box<CsvReader>, table: Table, columns: Vec<Imported> },
    Json { reader: BufReader<Checked<Bytes>>, position: u64, line: u64, row: MessageDescriptor },
}

type Bytes = Box<dyn Read + Send>;
type CsvReader = csv::Reader<Scanner<Checked<Bytes>>>;

impl Source {
    /// Opens a file and reads its header.
    pub fn open(options: &ImportOptions) -> Result<Self, Fault> {
        let (file, size, about): (Bytes, _, _) = if options.file == STANDARD {
            let input = io::stdin();
            if input.is_terminal() {
                return Err(Fault::Usage(
                    "there is nothing on standard input: name a file, or pipe one in".into(),
                ));
            }
            let about = about_standard_input();
            (Box::new(input), None, about)
        } else {
            let named = |error| Fault::Failed(format!("{}: {error}", options.file));
            let file = File::open(&options.file).map_err(named)?;
            let about = file.metadata().map_err(named)?;
            if about.is_dir() {
                return Err(Fault::Failed(format!("{}: is a directory", options.file)));
            }
            (Box::new(file), about.is_file().then_some(about.len()), Some(about))
        };
        Ok(Self { about, ..Self::read(file, size, options)? })
    }

    /// Reads the header of a file of this size.
    pub(super) fn read(
        mut file: Bytes,
        size: Option<u64>,
        options: &ImportOptions,
    ) -> Result<Self, Fault> {
        let head = first_line(&mut file).map_err(|error| Fault::Failed(error.to_string()))?;
        // UTF-16 has a NUL beside each letter of ASCII.
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || has_nul(&head) {
            return Err(Fault::Failed(
                "the file is UTF-16; save it as UTF-8 (in a spreadsheet: \"CSV UTF-8\")".into(),
            ));
        }
        let skipped = if head.starts_with(BOM) { BOM.len() } else { 0 };
        let format = match options.format {
            Format::Auto => format_of(&options.file).unwrap_or_else(|| {
                let first = head.iter().skip(skipped).find(|byte| !byte.is_ascii_whitespace());
                if matches!(first, None | Some(b'{')) { Format::Jsonl } else { Format::Csv }
            }),
            format => format,
        };
        let delimiter = options.delimiter.unwrap_or_else(|| delimiter(&head));
        let mut bytes = Cursor::new(head).chain(file);
        io::copy(&mut Read::by_ref(&mut bytes).take(skipped as u64), &mut io::sink())
            .map_err(|error| Fault::Failed(error.to_string()))?;
        let position = skipped as u64;
        let checked = Checked::new(Box::new(bytes) as Bytes, position);
        let whole =
            |name: &&String| name.trim_start_matches("account.").starts_with("preferences.");
        if let Some(name) = options.ignore.iter().find(whole) {
            return Err(Fault::Usage(format!(
                "--ignore {name}: preferences are replaced as a whole, so none of their entries can \
                 be left out"
            )));
        }
        let rows = match format {
            Format::Jsonl => Rows::Json {
                reader: BufReader::new(checked),
                position,
                line: 1,
                row: POOL
                    .get_message_by_name("accounts.v1.ImportRow")
                    .ok_or_else(|| Fault::Failed("the contract has no ImportRow".into()))?,
            },
            _ => Self::csv(checked, position, delimiter, options)?,
        };
        Ok(Self {
            rows,
            clear: options.empty == Empty::Clear,
            raw: options.raw,
            ignore: options.ignore.clone(),
            generate_ids: options.generate_ids,
            seen: HashMap::new(),
            hasher: RandomState::new(),
            size,
            about: None,
            format,
        })
    }

    fn csv(
        bytes: Checked<Bytes>,
        position: u64,
        delimiter: u8,
        options: &ImportOptions,
    ) -> Result<Rows, Fault> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(Scanner::new(bytes, position, delimiter));
        let Some((_, header)) = record(&mut reader)? else {
            return Err(Fault::Usage("the file is empty; it needs a header".into()));
        };
        let columns = header::columns(&header, &options.ignore).map_err(Fault::Usage)?;
        if options.empty == Empty::Clear && columns.len() > MAX_CLEARED {
            return Err(Fault::Usage(format!(
                "the header has {} columns; with --empty clear a file may have {MAX_CLEARED}",
                columns.len()
            )));
        }
        if !columns.iter().any(Imported::is_id) && !options.generate_ids {
            return Err(Fault::Usage(
                "the header has no column account_id; with --generate-ids the service makes an id \
                 for each row, and a second run creates every account again"
                    .into(),
            ));
        }
        Ok(Rows::Csv { reader: Box::new(reader), table: Table { header, delimiter }, columns })
    }

    /// Of a CSV file, what it says of its rows.
    pub const fn table(&self) -> Option<&Table> {
        match &self.rows {
            Rows::Csv { table, .. } => Some(table),
            Rows::Json { .. } => None,
        }
    }

    /// Returns the next row; `None` at the end. Fails if the rest of the file cannot be read.
    pub fn next(&mut self) -> Result<Option<FileRow>, Fault> {
        let read = match &mut self.rows {
            Rows::Csv { reader, table: Table { header, .. }, columns } => {
                let (Record { position, line, text_behind_quote }, cells) = loop {
                    let Some((place, cells)) = record(reader)? else { return Ok(None) };
                    // A spreadsheet writes rows that only look empty.
                    if cells.iter().any(|cell| !cell.is_empty()) {
                        break (place, cells);
                    }
                };
                let row = if let Some(misquoted) = &text_behind_quote {
                    Err(Refusal::malformed(format!(
                        "in line {} text stands behind the quote that closes a cell; a quote \
                         inside a cell is written twice",
                        misquoted.line
                    )))
                } else if cells.len() == header.len() {
                    let taken = |cell| if self.raw { cell } else { columns::unguard(cell) };
                    let taken: Vec<_> =
                        cells.iter().map(|cell| Cow::Borrowed(taken(cell.as_str()))).collect();
                    header::row(columns, &taken, self.clear)
                        .map_err(|message| Refusal::new(ErrorReason::InvalidField, message))
                } else {
                    Err(Refusal::malformed(format!(
                        "the row has {}, the header {}",
                        counted(cells.len() as u64, "cell"),
                        header.len()
                    )))
                };
                let id = columns.iter().position(Imported::is_id).and_then(|at| cells.get(at));
                let id = id.map_or("", String::as_str);
                let account_id = if self.raw { id } else { columns::unguard(id) }.to_owned();
                let text = text_behind_quote.map(|misquoted| Raw::Text(misquoted.record));
                let raw = text.unwrap_or(Raw::Cells(cells));
                FileRow { line, position, account_id, raw, row }
            }
            Rows::Json { reader, position, line, row } => {
                let (text, begin) = loop {
                    let begin = (*position, *line);
                    let Some(text) = json::next_line(reader, *line)? else { return Ok(None) };
                    *position += text.len() as u64;
                    *line += 1;
                    if !text.trim().is_empty() {
                        break (text, begin);
                    }
                };
                let text = text.trim().to_owned();
                let row = json::row(&text, row, &self.ignore);
                let account_id = match &row {
                    Ok(row) => row.account.as_ref().map(|it| it.account_id.clone()),
                    Err(_) => None,
                };
                let account_id = account_id.unwrap_or_else(|| json::account_id(&text));
                let (position, line) = begin;
                FileRow { line, position, account_id, raw: Raw::Line(text), row }
            }
        };
        Ok(Some(self.with_its_own_id(read)))
    }

    /// Refuses a row that has no id, or the id of an earlier row, also of one that is refused: when
    /// that one is corrected, the answer must be the same.
    fn with_its_own_id(&mut self, mut read: FileRow) -> FileRow {
        if let Ok(row) = &mut read.row {
            row.row = i64::try_from(read.line).unwrap_or(i64::MAX);
        }
        let id = &read.account_id;
        let refusal = if id.is_empty() {
            (!self.generate_ids).then(|| {
                Refusal::new(
                    ErrorReason::InvalidField,
                    "account_id: is required, unless --generate-ids is given",
                )
            })
        } else {
            match self.seen.entry(self.hasher.hash_one(id)) {
                Entry::Vacant(first) => {
                    first.insert(read.line);
                    None
                }
                Entry::Occupied(earlier) => {
                    let line = earlier.get();
                    let message = format!("line {line} has the account_id {id:?} already");
                    Some(Refusal::new(ErrorReason::DuplicateRow, message))
                }
            }
        };
        read.row = read.row.and_then(|row| refusal.map_or(Ok(row), Err));
        read
    }
}

/// The file that standard input is redirected from.
fn about_standard_input() -> Option<fs::Metadata> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        let input = io::stdin().as_fd().try_clone_to_owned().ok()?;
        File::from(input).metadata().ok()
    }
    #[cfg(not(unix))]
    None
}

/// Whether a NUL is in the first line.
fn has_nul(head: &[u8]) -> bool {
    head.iter().take_while(|byte| **byte != b'\n').any(|byte| *byte == 0)
}

/// Reads to the end of the first line, and some bytes more.
fn first_line(file: &mut Bytes) -> io::Result<Vec<u8>> {
    let (mut head, mut piece) = (Vec::new(), vec![0; MAX_HEADER]);
    loop {
        let read = file.read(&mut piece)?;
        let read = piece.get(..read).unwrap_or_default();
        head.extend_from_slice(read);
        if read.is_empty() || head.len() >= MAX_HEADER || read.contains(&b'\n') {
            return Ok(head);
        }
    }
}

/// The format that the name of a file says.
pub fn format_of(file: &str) -> Option<Format> {
    let extension = Path::new(file).extension()?.to_str()?.to_ascii_lowercase();
    match &*extension {
        "csv" | "tsv" | "txt" => Some(Format::Csv),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        _ => None,
    }
}

/// The delimiter of a header, in which names of columns have none of these characters.
fn delimiter(head: &[u8]) -> u8 {
    let mut lines = head.split(|byte| matches!(byte, b'\r' | b'\n'));
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let count = |delimiter: u8| line.split(|byte| *byte == delimiter).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|it| count(*it)).unwrap_or(b',')
}

/// The next record of a CSV file: where it stands, and its cells.
fn record(reader: &mut CsvReader) -> Result<Option<(Record, Vec<String>)>, Fault> {
    let mut record = csv::StringRecord::new();
    let more = reader.read_record(&mut record).map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(error) => Fault::Failed(error.to_string()),
        other => Fault::Failed(format!("{other:?}")),
    })?;
    if !more {
        return Ok(None);
    }
    let place = reader.get_mut().next_record().unwrap_or_default();
    Ok(Some((place, record.iter().map(ToOwned::to_owned).collect())))
}
