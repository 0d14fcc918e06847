//! The SQLSTATE of an error, which does not depend on the language of PostgreSQL's messages.
//!
//! Diesel passes on the message of an error, but not its SQLSTATE. So [`Coded`], between socket and
//! driver, puts the SQLSTATE in front of the message of every error that the server sends: `40P01:
//! deadlock detected`. [`of`] reads it from Diesel's error. The service decides nothing by the
//! words of a message.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use diesel::result::Error as DieselError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::error::SqlState;

/// The type of the server's message that reports an error.
const ERROR: u8 = b'E';
/// Bytes of a message before its body: the type, and the length of itself and the body.
const HEADER: usize = 5;
/// Between the SQLSTATE and the server's own message.
const SEPARATOR: &str = ": ";

/// The SQLSTATE of an error that the server has sent; `None` for errors of the driver, such as a
/// lost connection.
pub fn of(error: &DieselError) -> Option<SqlState> {
    let DieselError::DatabaseError(_, info) = error else { return None };
    let (code, _) = info.message().split_once(SEPARATOR)?;
    let is_code = code.len() == 5
        && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    is_code.then(|| SqlState::from_code(code))
}

/// A connection to PostgreSQL whose error messages begin with their SQLSTATE. All other messages
/// are unchanged.
#[derive(Debug)]
pub struct Coded<S> {
    stream: S,
    /// The received part of the current message's header, and its length.
    header: [u8; HEADER],
    seen: usize,
    /// Bytes of the current message's body that are still to come.
    body: usize,
    /// The received part of an error message, with its header; empty if the current message is
    /// another.
    error: Vec<u8>,
    /// Received bytes that the reader has not taken; those before `handed_on` have been.
    held: Vec<u8>,
    handed_on: usize,
}

impl<S> Coded<S> {
    /// Wraps a connection before anything is received on it.
    pub const fn new(stream: S) -> Self {
        Self {
            stream,
            header: [0; HEADER],
            seen: 0,
            body: 0,
            error: Vec::new(),
            held: Vec::new(),
            handed_on: 0,
        }
    }

    /// The number of bytes before the next error message; they can be passed on at once.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if !self.error.is_empty() {
            return 0;
        }
        let mut passed = 0;
        while passed < bytes.len() {
            if self.body > 0 {
                let some = self.body.min(bytes.len() - passed);
                self.body -= some;
                passed += some;
                continue;
            }
            if self.seen == 0 && bytes[passed] == ERROR {
                break;
            }
            self.header[self.seen] = bytes[passed];
            self.seen += 1;
            passed += 1;
            if self.seen == HEADER {
                self.seen = 0;
                self.body = length(&self.header).saturating_sub(4);
            }
        }
        passed
    }

    /// Takes bytes that may be part of error messages, and adds to `held` what can be passed on.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.pass(bytes);
            self.held.extend_from_slice(&bytes[..passed]);
            bytes = &bytes[passed..];
            while !bytes.is_empty() && self.error.len() < HEADER {
                self.error.push(bytes[0]);
                bytes = &bytes[1..];
            }
            if self.error.len() < HEADER {
                return;
            }
            let missing = (1 + length(&self.error)).saturating_sub(self.error.len());
            let some = missing.min(bytes.len());
            self.error.extend_from_slice(&bytes[..some]);
            bytes = &bytes[some..];
            if some == missing {
                self.held.extend_from_slice(&coded(&self.error));
                self.error.clear();
            }
        }
    }
}

/// The length in a message's header.
fn length(header: &[u8]) -> usize {
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    usize::try_from(length).unwrap_or(usize::MAX - 1)
}

/// An error message with its SQLSTATE before the text. A message that cannot be parsed is
/// unchanged.
fn coded(error: &[u8]) -> Vec<u8> {
    // A field is a letter and a text that ends with 0. Another 0 ends the fields.
    let fields: Vec<&[u8]> =
        error[HEADER..].split(|byte| *byte == 0).filter(|field| !field.is_empty()).collect();
    let Some(code) = fields.iter().find_map(|field| field.strip_prefix(b"C")) else {
        return error.to_vec();
    };
    let mut message = vec![0; HEADER];
    for field in &fields {
        match field.strip_prefix(b"M") {
            Some(words) => message.extend([b"M", code, SEPARATOR.as_bytes(), words].concat()),
            None => message.extend_from_slice(field),
        }
        message.push(0);
    }
    message.push(0);
    let Ok(length) = u32::try_from(message.len() - 1) else { return error.to_vec() };
    message[0] = ERROR;
    message[1..HEADER].copy_from_slice(&length.to_be_bytes());
    message
}

impl<S: AsyncRead + Unpin> AsyncRead for Coded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let received = &buf.filled()[before..];
            let passed = this.pass(received);
            if passed == received.len() {
                return Poll::Ready(Ok(()));
            }
            let rest = received[passed..].to_vec();
            buf.set_filled(before + passed);
            this.take(&rest);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = &this.held[this.handed_on..];
        let some = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..some]);
        this.handed_on += some;
        if this.handed_on == this.held.len() {
            this.held.clear();
            this.handed_on = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use diesel::result::DatabaseErrorKind;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn error(fields: &[&str]) -> Vec<u8> {
        let body: Vec<u8> =
            fields.iter().flat_map(|field| [field.as_bytes(), b"\0"].concat()).chain([0]).collect();
        message(ERROR, &body)
    }

    /// Sends `bytes` through the stream in pieces of `written` bytes, and returns the bytes that a
    /// reader with a buffer of `read` bytes gets.
    async fn through(bytes: &[u8], written: usize, read: usize) -> Vec<u8> {
        let (mut server, client) = duplex(written);
        let sending = async move {
            server.write_all(bytes).await.unwrap();
        };
        let receiving = async {
            let (mut client, mut all, mut buffer) = (Coded::new(client), Vec::new(), vec![0; read]);
            while let length @ 1.. = client.read(&mut buffer).await.unwrap() {
                all.extend_from_slice(&buffer[..length]);
            }
            all
        };
        tokio::join!(sending, receiving).1
    }

    #[tokio::test]
    async fn errors_begin_with_their_sqlstate_however_the_bytes_are_split() {
        let german =
            ["SFEHLER", "VERROR", "C40P01", "MVerklemmung entdeckt", "HEinzelheiten im Log"];
        let coded =
            ["SFEHLER", "VERROR", "C40P01", "M40P01: Verklemmung entdeckt", "HEinzelheiten im Log"];
        let other = [
            message(b'Z', b"I"),
            message(b'D', b"E\0\0\0\x05E"),
            message(b'I', b""),
            message(b'N', b"C01000\0MEin Hinweis\0\0"),
        ]
        .concat();
        let unreadable = message(ERROR, b"Mno code\0\0");
        let sent = [
            &other[..],
            &error(&german),
            &error(&german),
            &other,
            &unreadable,
            &message(ERROR, b""),
            &other,
        ]
        .concat();
        let wanted = [
            &other[..],
            &error(&coded),
            &error(&coded),
            &other,
            &unreadable,
            &message(ERROR, b""),
            &other,
        ]
        .concat();
        for written in (1..80).chain([sent.len()]) {
            for read in [1, 2, 7, 64, 4096] {
                assert_eq!(
                    through(&sent, written, read).await,
                    wanted,
                    "{written} bytes at a time, {read} read"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_an_error_ends() {
        let sent = error(&["C57P01", "Mterminating connection"]);
        for length in 1..sent.len() {
            assert_eq!(through(&sent[..length], 9, 64).await, b"", "after {length} bytes");
        }
    }

    #[test]
    fn other_errors_have_no_sqlstate() {
        let code = |words: &str| {
            let error =
                DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(words.to_owned()));
            of(&error)
        };
        assert_eq!(code("40P01: Verklemmung entdeckt"), Some(SqlState::T_R_DEADLOCK_DETECTED));
        for words in
            ["connection closed", "", "error: 40P01: x", "abcde: no code", "40P01", "Änder: x"]
        {
            assert_eq!(code(words), None, "{words}");
        }
        assert_eq!(of(&DieselError::NotFound), None);
    }
}
