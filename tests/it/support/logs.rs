//! What the shared service logs while all tests run: everything at the level `debug`, and nothing
//! about people.

use std::io;

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Personal data in the calls of tests: names, emails, phone numbers, actors, search terms.
const PERSONAL: [&str; 9] =
    ["@acme.", "@mail.", "@other.", "jane", "döe", "+1 (555)", "tester", "subject-of", "auth0|"];

/// Ends the whole run with the first log line that carries personal data.
pub fn watch() {
    // Tests fill databases by statements of their own, in this process.
    let filter = EnvFilter::new("debug,tokio_postgres=info");
    // Another test of this process may have installed one; then there is no log to watch.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Watch)
        .try_init();
}

struct Watch;

impl<'w> MakeWriter<'w> for Watch {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        Self
    }
}

impl io::Write for Watch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line).to_lowercase();
        if let Some(found) = PERSONAL.iter().find(|personal| text.contains(**personal)) {
            // Not by `eprintln`, whose output the tests keep back.
            writeln!(io::stderr(), "personal data ({found:?}) in the log of the service: {text}")?;
            // A panic here would only fail the call that logs.
            std::process::exit(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
