//! The header of a CSV file that is imported, and its rows.

use std::{borrow::Cow, collections::HashSet};

use super::columns::{self, Column};
use crate::proto::{Account, ImportRow};

/// The name of a column that holds one entry of the metadata begins with this.
const METADATA: &str = "metadata.";
/// What the names of columns that an import ignores begin with.
const PRIVATE: char = '_';

/// A column of a file that is imported.
#[derive(Debug)]
pub enum Imported {
    /// One of the contract's.
    Known(&'static Column),
    /// An entry of the metadata, by its key.
    Metadata(String),
    /// One that is ignored.
    Ignored,
}

impl Imported {
    /// Whether the column has the id of the account.
    pub fn is_id(&self) -> bool {
        matches!(self, Self::Known(column) if column.name == "account_id")
    }
}

/// The columns of a header. The error says what is wrong with it.
pub fn columns(header: &[String], ignore: &[String]) -> Result<Vec<Imported>, String> {
    if let Some(name) = ignore.iter().find(|name| !header.iter().any(|it| it.trim() == **name)) {
        return Err(format!("--ignore {name}: the file has no such column"));
    }
    let mut seen = HashSet::new();
    let mut columns = Vec::new();
    let mut unknown = Vec::new();
    for (position, name) in (1..).zip(header) {
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("column {position} has no name in the header"));
        }
        if !seen.insert(name) {
            return Err(format!("column `{}` occurs twice in the header", shown(name)));
        }
        match one_imported(name, ignore) {
            Ok(column) => columns.push(column),
            Err(message) => unknown.push(message),
        }
    }
    if !unknown.is_empty() {
        let more = unknown.len().saturating_sub(MAX_UNKNOWN);
        unknown.truncate(MAX_UNKNOWN);
        let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
        return Err(format!(
            "{}{more}\n(--ignore NAME leaves a column out; --delimiter says what separates them)",
            unknown.join("\n")
        ));
    }
    let has_all =
        columns.iter().any(|it| matches!(it, Imported::Known(it) if it.name == "metadata"));
    let has_entries = columns.iter().any(|column| matches!(column, Imported::Metadata(_)));
    if has_all && has_entries {
        return Err("the header has both `metadata` and columns of its entries; use one".into());
    }
    Ok(columns)
}

fn one_imported(name: &str, ignore: &[String]) -> Result<Imported, String> {
    if name.starts_with(PRIVATE) || name == "create_time" || ignore.iter().any(|it| it == name) {
        return Ok(Imported::Ignored);
    }
    if let Some(key) = name.strip_prefix(METADATA).filter(|key| !key.is_empty()) {
        return Ok(Imported::Metadata(key.to_owned()));
    }
    let found = columns::imported().find(|column| column.name == name);
    match found.ok_or_else(|| unknown(name, columns::imported()))? {
        column if column.is_output_only() => Ok(Imported::Ignored),
        column => Ok(Imported::Known(column)),
    }
}

/// The error for a name that no column has, with the nearest one.
pub fn unknown(name: &str, known: impl Iterator<Item = &'static Column>) -> String {
    let near = known.map(|column| (distance(name, column.name), column.name));
    let hint = match near.min() {
        Some((changes, near)) if changes <= near.len() / 2 => format!("; do you mean `{near}`?"),
        _ => String::new(),
    };
    format!("there is no column `{}`{hint}", shown(name))
}

/// Most characters of a name in an error.
const MAX_SHOWN: usize = 80;
/// Most names in an error.
const MAX_UNKNOWN: usize = 20;

fn shown(name: &str) -> String {
    name.chars().filter(|it| !it.is_control()).take(MAX_SHOWN).collect()
}

/// How many characters must be added, removed or replaced to make one name the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The cells of a row, of which an empty one means the field is emptied if `clear`, and otherwise
/// that it stays as it is. The error has the column.
pub fn row(columns: &[Imported], cells: &[Cow<'_, str>], clear: bool) -> Result<ImportRow, String> {
    let mut row = ImportRow { account: Some(Account::default()), ..Default::default() };
    let mut paths = Vec::new();
    for (column, cell) in columns.iter().zip(cells) {
        match column {
            Imported::Known(column) => {
                let updates = column.is_updated();
                if !cell.is_empty() {
                    let failed = |rule| format!("{}: {rule}", column.name);
                    column.read(&mut row, cell).map_err(failed)?;
                } else if !(clear && updates) {
                    continue;
                } else if column.name == "status" {
                    return Err(format!(
                        "status: cannot be empty; it {}",
                        columns::statuses_rule()
                    ));
                } else if column.name == "account_type_id" {
                    // Emptied on purpose.
                    row.without_account_type = true;
                }
                if updates {
                    paths.push(column.name.to_owned());
                }
            }
            Imported::Metadata(key) if !cell.is_empty() || clear => {
                if !cell.is_empty() {
                    columns::account_of(&mut row).metadata.insert(key.clone(), cell.to_string());
                }
                paths.push(entry(key));
            }
            Imported::Metadata(_) | Imported::Ignored => {}
        }
    }
    columns::finish(&mut row, paths);
    Ok(row)
}

/// The path of an entry of the metadata (AIP-161).
pub fn entry(key: &str) -> String {
    format!("{METADATA}`{}`", key.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nearly_right_are_found() {
        for (name, near) in [
            ("display_nam", "display_name"),
            ("Account_Id", "account_id"),
            ("billing_address.zip", "billing_address.city"),
            ("tags", "etag"),
        ] {
            let hint = unknown(name, columns::imported());
            assert!(hint.contains(&format!("`{near}`")), "{hint}");
        }
        assert_eq!(
            unknown("revenue_2020_q3", columns::imported()),
            "there is no column `revenue_2020_q3`"
        );
    }
}
