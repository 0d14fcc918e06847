//! The commands `import` and `export`: accounts from a file into a running service, and back. They
//! are clients like any other, of the calls `ImportAccounts` and `ExportAccounts`.

mod batch;
pub mod columns;
mod export;
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a target fails by a panic")]
pub mod fuzzing;
mod header;
mod import;
mod json;
pub mod options;
mod part;
mod progress;
mod report;
mod scan;
mod service;
mod source;

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

pub use self::{
    export::export,
    import::{Interrupts, import},
    options::{ExportOptions, ImportOptions},
    service::Caller,
};

/// Why a command ends early.
#[derive(Debug)]
pub enum Fault {
    /// The command line or the header of the file is wrong. Nothing was sent.
    Usage(String),
    /// Something else: the file, the connection, the credentials.
    Failed(String),
    /// The id of the run stands for other rows or other options.
    Reused(String),
    /// The person at the terminal interrupted it before anything was sent.
    Interrupted,
}

/// What a command says that was interrupted.
const INTERRUPTED: &str = "interrupted";

/// How a command ends, for programs that run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Done = 0,
    /// It ended early.
    Early = 1,
    /// The command line or the header is wrong; nothing was sent.
    Usage = 2,
    /// It got to the end of the file, and rows were refused.
    Refused = 3,
    /// It was interrupted, as a shell says it for SIGINT.
    Interrupted = 130,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(ended as u8)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) | Self::Reused(message) => {
                f.write_str(message)
            }
            Self::Interrupted => f.write_str(INTERRUPTED),
        }
    }
}

/// Says something to the person at the terminal, if anybody still listens.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// How a command ends that could do nothing.
fn failed(fault: &Fault) -> Ended {
    say(&format!("error: {fault}"));
    match fault {
        Fault::Usage(_) => Ended::Usage,
        Fault::Failed(_) | Fault::Reused(_) => Ended::Early,
        Fault::Interrupted => Ended::Interrupted,
    }
}
