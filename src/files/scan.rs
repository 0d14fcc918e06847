//! What a file's bytes must be before a parser sees them: UTF-8, and of a CSV file, records of a
//! bounded length whose quotes are closed. The parser of CSV takes every input for some table: one
//! quote that is not closed would make the rest of the file one cell.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

/// Longest record, in bytes: twice what a message takes, so that a refused row is still read when
/// the reason stands in front of it.
pub const MAX_RECORD: u64 = 2 * 1024 * 1024;

/// Counts the lines that end in LF, CR or CR LF.
#[derive(Debug, Clone, Copy)]
struct Lines {
    line: u64,
    after_cr: bool,
}

impl Lines {
    const fn new() -> Self {
        Self { line: 1, after_cr: false }
    }

    fn pass(&mut self, byte: u8) {
        match byte {
            b'\n' if self.after_cr => {}
            b'\n' | b'\r' => self.line += 1,
            _ => {}
        }
        self.after_cr = byte == b'\r';
    }
}

/// Passes the bytes of a reader on as long as they are UTF-8.
#[derive(Debug)]
pub struct Checked<R> {
    inner: R,
    /// The position of the next byte in the file, from 0.
    position: u64,
    lines: Lines,
    /// The beginning of a character that is not complete.
    begun: Vec<u8>,
}

impl<R: Read> Checked<R> {
    /// `position` is that of the reader's first byte in the file.
    pub const fn new(inner: R, position: u64) -> Self {
        Self { inner, position, lines: Lines::new(), begun: Vec::new() }
    }

    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        let first = self.position - self.begun.len() as u64;
        let mut text = std::mem::take(&mut self.begun);
        text.extend_from_slice(bytes);
        let valid = match str::from_utf8(&text) {
            Ok(_) => text.len(),
            Err(error) if error.error_len().is_none() && !bytes.is_empty() => error.valid_up_to(),
            Err(error) => {
                let valid = error.valid_up_to();
                text.iter().take(valid).for_each(|byte| self.lines.pass(*byte));
                return Err(io::Error::other(format!(
                    "line {}, byte {} of the file: this is not UTF-8; save the file as UTF-8 (in a \
                     spreadsheet: \"CSV UTF-8\")",
                    self.lines.line,
                    first + valid as u64 + 1
                )));
            }
        };
        text.iter().take(valid).for_each(|byte| self.lines.pass(*byte));
        self.begun = text.split_off(valid);
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.check(buffer.get(..read).unwrap_or_default())?;
        Ok(read)
    }
}

/// Where the scanner is in a record, as RFC 4180 and the parser see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a record; empty lines are none.
    Between,
    /// At the beginning of a cell.
    Cell,
    /// In a cell without quotes, or behind its closing quote.
    Plain,
    /// Between quotes that were opened in this line.
    Quoted(u64),
    /// Behind a quote between quotes, which closes them unless another one follows.
    Closing(u64),
}

/// Where a record stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The position of its first byte.
    pub position: u64,
    /// The line of that byte.
    pub line: u64,
    /// Text behind a closing quote, if it stands anywhere. The parser would take it for a part of
    /// the cell, and after a quote that was not closed, the next record, too.
    pub text_behind_quote: Option<Misquoted>,
}

/// A record in which text stands behind a closing quote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misquoted {
    /// The line of that text.
    pub line: u64,
    /// The record as the file has it, without the end of its last line.
    pub record: String,
}

/// Passes the bytes of a CSV file on, and notes where its records begin.
#[derive(Debug)]
pub struct Scanner<R> {
    inner: R,
    delimiter: u8,
    position: u64,
    lines: Lines,
    state: State,
    /// Where the last record begins.
    begin: u64,
    /// Its bytes, as far as they were passed on.
    record: Vec<u8>,
    /// The records that were scanned and not parsed.
    records: VecDeque<Record>,
}

impl<R: Read> Scanner<R> {
    /// `position` is that of the reader's first byte in the file.
    pub fn new(inner: R, position: u64, delimiter: u8) -> Self {
        let (lines, state, records) = (Lines::new(), State::Between, VecDeque::new());
        let (begin, record) = (position, Vec::new());
        Self { inner, delimiter, position, lines, state, begin, record, records }
    }

    /// The next record that the parser returns.
    pub fn next_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    fn pass(&mut self, byte: u8) {
        let ends = matches!(byte, b'\r' | b'\n');
        if self.state == State::Between && !ends {
            self.begin = self.position;
            self.record.clear();
            let (position, line) = (self.position, self.lines.line);
            self.records.push_back(Record { position, line, text_behind_quote: None });
            self.state = State::Cell;
        }
        self.state = match self.state {
            State::Between => State::Between,
            State::Quoted(line) if byte == b'"' => State::Closing(line),
            State::Quoted(line) => State::Quoted(line),
            State::Closing(line) if byte == b'"' => State::Quoted(line),
            State::Cell if byte == b'"' => State::Quoted(self.lines.line),
            _ if ends => State::Between,
            _ if byte == self.delimiter => State::Cell,
            State::Closing(_) => {
                if let Some(record) = self.records.back_mut() {
                    record.text_behind_quote.get_or_insert_with(|| {
                        let line = self.lines.line;
                        Misquoted { line, record: String::new() }
                    });
                }
                State::Plain
            }
            _ => State::Plain,
        };
        if self.state == State::Between {
            self.end_record();
        } else {
            self.record.push(byte);
        }
        self.lines.pass(byte);
        self.position += 1;
    }

    /// Keeps the record that has ended if it is needed as the file has it.
    fn end_record(&mut self) {
        let last = self.records.back_mut().and_then(|record| record.text_behind_quote.as_mut());
        if let Some(misquoted) = last.filter(|it| it.record.is_empty()) {
            misquoted.record = String::from_utf8_lossy(&self.record).into_owned();
        }
    }

    fn open_quote(&self) -> Option<io::Error> {
        let State::Quoted(line) = self.state else { return None };
        Some(io::Error::other(format!("the quote opened in line {line} is not closed")))
    }
}

impl<R: Read> Read for Scanner<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        for byte in buffer.get(..read).unwrap_or_default() {
            self.pass(*byte);
            if self.state != State::Between && self.position - self.begin > MAX_RECORD {
                return Err(self.open_quote().unwrap_or_else(|| {
                    let line = self.lines.line;
                    io::Error::other(format!("line {line} is longer than {MAX_RECORD} bytes"))
                }));
            }
        }
        if read == 0 && !buffer.is_empty() {
            if let Some(error) = self.open_quote() {
                return Err(error);
            }
            self.end_record();
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in pieces of this size.
    fn read_in(mut reader: impl Read, size: usize) -> io::Result<Vec<u8>> {
        let (mut all, mut piece) = (Vec::new(), vec![0; size]);
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&piece[..read]),
            }
        }
    }

    #[test]
    fn what_is_not_utf_8_is_told_by_line_and_byte() {
        for size in [1, 2, 3, 100] {
            let good = "a\nö€😀\r\nb".as_bytes();
            assert_eq!(read_in(Checked::new(good, 0), size).unwrap(), good);
            for bad in [&b"a\r\n\xf6b"[..], b"a\n\xe2\x82", b"a\r\xe2(\xa1"] {
                let error = read_in(Checked::new(bad, 3), size).unwrap_err().to_string();
                let byte = if bad[1] == b'\r' && bad[2] == b'\n' { 7 } else { 6 };
                let place = format!("line 2, byte {byte} of the file");
                assert!(error.starts_with(&place), "{bad:?}: {error}");
            }
        }
    }

    #[test]
    fn records_begin_where_the_parser_finds_them() {
        let text = "h,i\r\n\r\n\"a\nb\",\"c\"\"\r\n\"\"\"\rplain,x\"y\n\n\nlast,\"z\" tail";
        for size in [1, 7, 1000] {
            let mut scanner = Scanner::new(text.as_bytes(), 10, b',');
            read_in(&mut scanner, size).unwrap();
            let found: Vec<_> = std::iter::from_fn(|| scanner.next_record()).collect();
            let lines: Vec<_> = found.iter().map(|record| record.line).collect();
            let behind: Vec<_> = found.iter().map(|it| it.text_behind_quote.clone()).collect();
            let last = Misquoted { line: 9, record: "last,\"z\" tail".into() };
            assert_eq!(behind, [None, None, None, Some(last)]);
            assert_eq!(lines, [1, 3, 6, 9]);
            let mut csv = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(text.as_bytes());
            let records: Vec<_> = csv.records().map(Result::unwrap).collect();
            assert_eq!(records.len(), lines.len());
            let begins = ["h", "\"a", "plain", "last"].map(|it| text.find(it).unwrap() as u64 + 10);
            assert_eq!(found.iter().map(|record| record.position).collect::<Vec<_>>(), begins);
        }
    }

    #[test]
    fn a_quote_that_is_not_closed_is_an_error() {
        for (text, line) in [
            ("a,b\nc,\"d\ne,f\n", Some(2)),
            ("a\n\"b\"\"", Some(2)),
            ("a,5\" pipe\nb,c\n", None),
            ("\"a\"\n\"b\"", None),
        ] {
            let result = read_in(Scanner::new(text.as_bytes(), 0, b','), 5);
            let expected =
                line.map(|line| format!("the quote opened in line {line} is not closed"));
            assert_eq!(result.err().map(|error| error.to_string()), expected, "{text}");
        }
        let endless = io::Cursor::new(b"h\n\"").chain(io::repeat(b'x'));
        let error = read_in(Scanner::new(endless, 0, b','), 4096).unwrap_err();
        assert_eq!(error.to_string(), "the quote opened in line 2 is not closed");
        let endless = io::Cursor::new(b"h\n").chain(io::repeat(b'x'));
        let error = read_in(Scanner::new(endless, 0, b','), 4096).unwrap_err();
        assert_eq!(error.to_string(), "line 2 is longer than 2097152 bytes");
    }
}
