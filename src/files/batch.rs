//! The batches of a file: as many rows as the service takes in one message.

use std::mem::size_of;

use prost::Message as _;
use prost_types::{Value, value::Kind};
use tokio::sync::mpsc;

use super::{
    Fault,
    options::ImportOptions,
    source::{FileRow, Raw, Refusal, Source},
};
use crate::proto::{ErrorReason, ImportAccountsRequest, ImportAction};

/// Most bytes of the rows of a batch. With the rest of the message it is within what the service
/// accepts by default, 1 MiB.
const MAX_BYTES: usize = 1000 * 1024;
/// Most bytes of the rows of a batch as the file has them, which are kept until it is answered.
const MAX_RAW: usize = 8 * 1024 * 1024;
/// Most entries of all lists, maps, masks and preferences in the rows of a batch. It is what the
/// service accepts of any one of them (`ImportAccountsRequest.rows`).
const MAX_ENTRIES: usize = 50_000;

/// The options and the run by which rows become batches.
pub struct Shape {
    /// The options of the command.
    pub options: ImportOptions,
    /// The id of the run.
    pub run_id: String,
}

/// Rows that go together.
pub struct Batch {
    /// All of them, also those that are not sent.
    pub rows: Vec<Pending>,
    /// `None` if no row is sent.
    pub request: Option<ImportAccountsRequest>,
    /// The position of the file behind it.
    pub end: u64,
    /// Whether no row of the file is behind it.
    pub is_last: bool,
}

/// A row that waits for the answer of its batch: the parts of it that the report needs.
pub struct Pending {
    /// The line in which it begins.
    pub line: u64,
    /// The id of its account.
    pub account_id: String,
    /// As the file has it.
    pub raw: Raw,
    /// Why it is not sent.
    pub refusal: Option<Refusal>,
}

impl Shape {
    /// A batch of rows. A row that is refused here refuses the others if it has to.
    fn batch(&self, rows: Vec<FileRow>, end: u64, is_last: bool) -> Batch {
        let refuses_all = self.options.all_or_nothing && rows.iter().any(|row| row.row.is_err());
        let first = rows.first().map_or(0, |row| row.line);
        let (mut pending, mut sent) = (Vec::with_capacity(rows.len()), Vec::new());
        for FileRow { line, account_id, raw, row, .. } in rows {
            let refusal = match row {
                Err(refusal) => Some(refusal),
                Ok(_) if refuses_all => Some(Refusal::new(
                    ErrorReason::BatchRefused,
                    "another row of the batch was refused, and the batch asked for all or nothing",
                )),
                Ok(row) => {
                    sent.push(row);
                    None
                }
            };
            pending.push(Pending { line, account_id, raw, refusal });
        }
        let action: ImportAction = self.options.action.into();
        let dry_run = self.options.dry_run;
        let request = (!sent.is_empty()).then(|| ImportAccountsRequest {
            rows: sent,
            action: action.into(),
            all_or_nothing: self.options.all_or_nothing,
            request_id: if dry_run { String::new() } else { format!("{}-{first}", self.run_id) },
            validate_only: dry_run,
        });
        Batch { rows: pending, request, end, is_last }
    }
}

/// Reads the file to its end, or until nobody takes the batches.
pub fn read(mut source: Source, shape: &Shape, batches: &mpsc::Sender<Batch>) -> Result<(), Fault> {
    let start = shape.options.start_row.unwrap_or_default();
    let most = usize::try_from(shape.options.batch_size).unwrap_or(1);
    let (mut rows, mut held) = (Vec::new(), Size::default());
    let send = |rows, end, is_last| batches.blocking_send(shape.batch(rows, end, is_last)).is_ok();
    loop {
        let next = match source.next() {
            Ok(next) => next,
            Err(fault) => {
                // The rows before are good.
                if !rows.is_empty() {
                    send(rows, source.size.unwrap_or_default(), false);
                }
                return Err(fault);
            }
        };
        let Some(mut row) = next else { break };
        if row.line < start {
            continue;
        }
        let mut size = Size::of(&row);
        if let Some(excess) = size.excess() {
            row.row = Err(Refusal::new(ErrorReason::RequestTooLarge, excess));
            size = Size::of(&row);
        }
        if rows.len() == most || (!rows.is_empty() && !held.has_room_for(&size)) {
            if !send(std::mem::take(&mut rows), row.position, false) {
                return Ok(());
            }
            held = Size::default();
        }
        held.add(&size);
        rows.push(row);
    }
    if !rows.is_empty() {
        send(rows, source.size.unwrap_or_default(), true);
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
            // An empty cell takes memory, too.
            Raw::Cells(cells) => cells.iter().map(|cell| size_of::<String>() + cell.len()).sum(),
            Raw::Text(text) | Raw::Line(text) => text.len(),
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

    /// What of a row is more than a message takes.
    fn excess(&self) -> Option<String> {
        let Self { encoded, entries, .. } = self;
        if *encoded > MAX_BYTES {
            return Some(format!(
                "the row has {encoded} bytes, of which a message takes {MAX_BYTES}"
            ));
        }
        (*entries > MAX_ENTRIES).then(|| {
            format!(
                "the row has {entries} entries in its lists, metadata and preferences, of which a \
                 message takes {MAX_ENTRIES}"
            )
        })
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
