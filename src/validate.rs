//! Checks of request fields. A parser collects every violation of a request and answers them all at once.

use std::fmt::Display;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use prost_types::Timestamp;

use crate::{
    error::{Error, Result, Violation},
    id, search,
};

/// Longest search query in characters.
const MAX_QUERY: usize = 200;
/// Longest `request_id` in characters.
const MAX_REQUEST_ID: usize = 100;
/// Longest email address in characters (RFC 5321, 4.5.3.1.3, less the angle brackets).
const MAX_EMAIL: usize = 254;
/// The times that a `google.protobuf.Timestamp` can be, in seconds: the years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Longest field path or rule in an answer, in characters.
const MAX_QUOTED: usize = 150;

/// Most violations that are kept; an answer has room for fewer. Further ones are only counted.
const MAX_KEPT: usize = 100;

/// From one moment on and before another; without them, from the beginning and without end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    /// From this time on.
    pub start: Option<DateTime<Utc>>,
    /// Before this time.
    pub end: Option<DateTime<Utc>>,
}

/// The violations found so far.
#[derive(Debug, Default)]
pub struct Violations {
    kept: Vec<Violation>,
    count: usize,
}

impl Violations {
    /// Notes that `field` breaks `rule`.
    pub fn add(&mut self, field: impl Display, rule: impl Into<String>) {
        self.count += 1;
        if self.kept.len() < MAX_KEPT {
            self.kept.push(Violation { field: shorten(field.to_string()), rule: shorten(rule.into()) });
        }
    }

    /// The parsed value, if nothing was violated.
    pub fn finish<T>(self, parsed: T) -> Result<T> {
        if self.count == 0 { Ok(parsed) } else { Err(Error::Invalid { violations: self.kept, count: self.count }) }
    }

    /// A message that must be there; an empty one stands in for it so that its fields are reported too.
    pub fn message<M: Default>(&mut self, field: impl Display, message: Option<M>) -> M {
        message.unwrap_or_else(|| {
            self.add(field, "is required");
            M::default()
        })
    }

    /// An optional text of at most `max` characters: no NUL, and no other control characters but line breaks and tabs.
    pub fn text(&mut self, field: impl Display, value: String, max: usize) -> String {
        let chars = value.chars().count();
        if chars > max {
            self.add(&field, format!("must have at most {max} characters, has {chars}"));
        }
        if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.add(&field, "must not contain control characters other than line breaks and tabs");
        }
        value
    }

    /// A search query: a text of at most as many words as a search can look for at once.
    pub fn query(&mut self, field: impl Display, value: String) -> String {
        let value = self.text(&field, value, MAX_QUERY);
        let terms = search::ranges(&value).len();
        if terms > search::MAX_TERMS {
            self.add(field, format!("must have at most {} different words, has {terms}", search::MAX_TERMS));
        }
        value
    }

    /// A text of one line, without blanks at its ends: a name.
    pub fn line(&mut self, field: impl Display, value: String, max: usize) -> String {
        if value.trim() != value {
            self.add(&field, "must not begin or end with blanks");
        }
        if value.contains(['\n', '\r', '\t']) {
            self.add(&field, "must be a single line");
        }
        self.text(field, value, max)
    }

    /// A `line` that must not be empty.
    pub fn required_line(&mut self, field: impl Display, value: String, max: usize) -> String {
        if value.is_empty() {
            self.add(field, "is required");
            return value;
        }
        self.line(field, value, max)
    }

    /// A time, as the first microsecond that is not before it: PostgreSQL keeps times to the microsecond.
    pub fn time(&mut self, field: impl Display, time: Option<Timestamp>) -> Option<DateTime<Utc>> {
        let Timestamp { seconds, nanos } = time?;
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000 && SECONDS.contains(&seconds));
        let time = nanos.and_then(|nanos| DateTime::from_timestamp(seconds, nanos));
        if time.is_none() {
            self.add(field, "must be a time in the years 1 to 9999, with 0 to 999999999 nanoseconds");
        }
        let whole = time?.duration_trunc(TimeDelta::microseconds(1)).ok().or(time)?;
        Some(if Some(whole) < time { whole + TimeDelta::microseconds(1) } else { whole })
    }

    /// The fields `…start_time` and `…end_time` of a filter, of which the second must be the later.
    pub fn period(&mut self, prefix: &str, start: Option<Timestamp>, end: Option<Timestamp>) -> Period {
        let start = self.time(format_args!("{prefix}start_time"), start);
        let end = self.time(format_args!("{prefix}end_time"), end);
        if start.zip(end).is_some_and(|(start, end)| start >= end) {
            self.add(format_args!("{prefix}end_time"), format!("must be later than {prefix}start_time"));
        }
        Period { start, end }
    }

    /// The id of a resource that must be named.
    pub fn id(&mut self, field: impl Display, value: String) -> String {
        self.required_line(field, value, id::MAX_CHARS)
    }

    /// The id of a resource that may be named.
    pub fn optional_id(&mut self, field: impl Display, value: String) -> Option<String> {
        (!value.is_empty()).then(|| self.id(field, value))
    }

    /// The id chosen for a new resource, or a generated one.
    pub fn new_id(&mut self, field: impl Display, value: String, prefix: &str) -> String {
        if value.is_empty() { id::generate(prefix) } else { self.id(field, value) }
    }

    /// The `request_id` of a changing request.
    pub fn request_id(&mut self, value: &str) {
        if value.chars().count() > MAX_REQUEST_ID {
            self.add("request_id", format!("must have at most {MAX_REQUEST_ID} characters"));
        }
        if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.add("request_id", "must consist of printable characters without blanks");
        }
    }

    /// An email address: one `@` between a local part and a domain, as HTML's `input type=email` checks it.
    pub fn email(&mut self, field: impl Display, value: String) -> String {
        let value = self.line(&field, value, MAX_EMAIL);
        if !value.is_empty() && !is_email(&value) {
            self.add(field, "must be an email address, such as name@example.com");
        }
        value
    }

    /// An enum value of the contract, or `None` for unspecified; an unknown number is a violation.
    pub fn known<T: TryFrom<i32> + Default + PartialEq>(&mut self, field: impl Display, value: i32) -> Option<T> {
        let Ok(known) = T::try_from(value) else {
            self.add(field, format!("has no value {value}"));
            return None;
        };
        (known != T::default()).then_some(known)
    }
}

/// Cuts a text that quotes what the caller sent: all of it would not fit into the headers that an error travels in.
fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// <https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address>, but letters beyond ASCII are welcome (RFC 6531).
fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.split_once('@') else { return false };
    let letter = |c: char| c.is_alphanumeric();
    !local.is_empty()
        && local.chars().all(|c| letter(c) || ".!#$%&'*+/=?^_`{|}~-".contains(c))
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.chars().count() <= 63
                && label.chars().all(|c| letter(c) || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails() {
        for good in ["a@b", "jane.doe+x@acme.example", "jürgen@münchen.de", "o'neil@x-y.z"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@@b", "a b@c", "a@b..c", "a@-b", "a@b-", "<a@b>", "a@b,c@d"] {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn ids_are_one_to_fifty_characters_without_blanks_at_the_ends_or_control_characters() {
        for (id, violations) in [
            ("x", 0),
            ("an id with blanks inside", 0),
            (&*"é".repeat(50), 0),
            (&"x".repeat(51), 1),
            ("", 1),
            (" x", 1),
            ("x\u{0}", 1),
            ("x\ny", 1),
        ] {
            let mut found = Violations::default();
            found.id("id", id.to_owned());
            assert_eq!(found.count, violations, "{id:?}: {found:?}");
        }
    }
}
