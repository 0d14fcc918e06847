//! Fuzzing of files of accounts; see `crate::fuzzing`.

use std::io::Cursor;

use clap::Parser;

use super::{
    options::ImportOptions,
    source::{Raw, Source},
};

/// How the file is read (one byte), and the file. Rows come one behind the other, each with a place
/// in the file, and the file ends.
pub fn import_rows(data: &[u8]) {
    let Some((how, file)) = data.split_first() else { return };
    let options = options(*how);
    let size = file.len() as u64;
    let Ok(mut source) = Source::read(Box::new(Cursor::new(file.to_vec())), Some(size), &options)
    else {
        return;
    };
    let width = source.table().map(|table| table.header.len());
    let (mut line, mut position, mut rows) = (0, None, 0);
    while let Ok(Some(read)) = source.next() {
        rows += 1;
        assert!(read.line > line, "line {} stands behind line {line}", read.line);
        assert!(Some(read.position) > position, "{} behind {position:?}", read.position);
        assert!(read.position < size, "{} is behind the end", read.position);
        assert!(rows <= size, "more rows than bytes");
        (line, position) = (read.line, Some(read.position));
        if let Ok(row) = &read.row {
            let account = row.account.as_ref().expect("a row that is sent has an account");
            assert_eq!(account.account_id, read.account_id);
            assert_eq!(row.row, i64::try_from(line).expect("a line"));
            assert!(!read.account_id.is_empty() || options.generate_ids);
            if let Raw::Cells(cells) = &read.raw {
                assert_eq!(Some(cells.len()), width);
            }
        }
    }
}

/// A bit for each option, and the format in the two highest.
fn options(how: u8) -> ImportOptions {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        import: ImportOptions,
    }
    let format = match how >> 6 {
        0 => "--format=csv",
        1 => "--format=jsonl",
        _ => "--format=auto",
    };
    let flags = ["--raw", "--generate-ids", "--empty=clear", "--delimiter=;"];
    let chosen = flags.iter().enumerate().filter(|(i, _)| how & (1 << i) != 0);
    let chosen = chosen.map(|(_, flag)| *flag);
    Only::parse_from(["", "-", format].into_iter().chain(chosen)).import
}
