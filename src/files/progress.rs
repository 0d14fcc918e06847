//! How far a command is: a bar on a terminal, and otherwise a line every few seconds.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use super::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// What is shown of the progress.
pub struct Progress {
    bar: ProgressBar,
    /// When the next line is due; `None` if there is a bar or nothing is shown.
    next: Option<Instant>,
    began: Instant,
}

impl Progress {
    /// Begins. `size` is the size of the file in bytes, if it is known.
    pub fn begin(size: Option<u64>, quiet: bool) -> Self {
        let began = Instant::now();
        let shows_bar = !quiet && io::stderr().is_terminal();
        let bar = match size {
            Some(size) => ProgressBar::new(size),
            None => ProgressBar::new_spinner(),
        };
        let form = if size.is_some() {
            "{wide_bar} {percent:>3} %  {msg}  {eta} left"
        } else {
            "{spinner} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        bar.set_draw_target(if shows_bar {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        Self { bar, next: (!quiet && !shows_bar).then(|| began + EVERY), began }
    }

    /// So many rows are done, some of them refused, and the file up to this position.
    pub fn show(&mut self, position: u64, rows: u64, refused: u64) {
        let seconds = self.began.elapsed().as_secs().max(1);
        let refused =
            if refused > 0 { format!(", {} refused", grouped(refused)) } else { String::new() };
        let message = format!("{}, {}/s{refused}", counted(rows, "row"), grouped(rows / seconds));
        if let Some(next) = &mut self.next
            && *next <= Instant::now()
        {
            *next = Instant::now() + EVERY;
            say(&message);
        }
        self.bar.set_position(position);
        self.bar.set_message(message);
    }

    /// Says something beside the bar.
    pub fn say(&self, message: &str) {
        self.bar.suspend(|| say(message));
    }

    /// Ends, and returns the time it took.
    pub fn end(&self) -> Duration {
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}

/// A number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and what it counts: `1 account`, `2,000 accounts`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{counted, grouped};

    #[test]
    fn one_is_not_many() {
        for (number, text) in [(0, "0 rows"), (1, "1 row"), (1000, "1,000 rows")] {
            assert_eq!(counted(number, "row"), text);
        }
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
