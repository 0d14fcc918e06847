//! Checks of request fields. A parser collects every violation of a request, so that one error
//! reports them all.

use std::fmt::Display;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use prost::Name;
use prost_types::Timestamp;
use url::Url;

use crate::{
    encoded,
    error::{Error, Result, Violation},
    id,
    proto::google::r#type::Date,
    search,
    text::{self, Use},
};

/// Longest `request_id` in characters.
const MAX_REQUEST_ID: usize = 100;
/// Longest search query in characters.
const MAX_QUERY: usize = 200;
/// Longest address of a web page in characters.
const MAX_URI: usize = 2000;
/// Longest email address in characters (RFC 5321, 4.5.3.1.3, without the angle brackets).
const MAX_EMAIL: usize = 254;
/// The seconds that a `google.protobuf.Timestamp` can have: the years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Longest label of a domain in characters (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;
/// Characters that a label of a domain can contain besides letters, digits, marks and hyphens (RFC
/// 5892, appendix A): joiners, and marks between letters in Catalan, Greek, Hebrew and Japanese.
const INSIDE_LABELS: &str = "\u{200c}\u{200d}\u{b7}\u{375}\u{5f3}\u{5f4}\u{30fb}";

/// Longest field path or rule in an error, in characters.
const MAX_QUOTED: usize = 150;

/// Most violations that are kept. Further ones are only counted; an error has room for fewer still.
const MAX_KEPT: usize = 100;

/// A half-open period: from `start`, before `end`. Without a bound it is open on that side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    /// The first moment.
    pub start: Option<DateTime<Utc>>,
    /// The first moment after the period.
    pub end: Option<DateTime<Utc>>,
}

/// The violations found so far.
#[derive(Debug, Default)]
pub struct Violations {
    kept: Vec<Violation>,
    count: usize,
}

impl Violations {
    /// Adds the violation of `rule` by `field`.
    pub fn add(&mut self, field: impl Display, rule: impl Into<String>) {
        self.count += 1;
        if self.kept.len() < MAX_KEPT {
            self.kept
                .push(Violation { field: shorten(field.to_string()), rule: shorten(rule.into()) });
        }
    }

    /// Returns the parsed value, or an error with every violation.
    pub fn finish<T>(self, parsed: T) -> Result<T> {
        if self.count == 0 {
            Ok(parsed)
        } else {
            Err(Error::Invalid { violations: self.kept, count: self.count })
        }
    }

    /// Returns a message that must be set. For an unset one returns an empty message, so that the
    /// violations of its fields are reported too.
    pub fn message<M: Default>(&mut self, field: impl Display, message: Option<M>) -> M {
        message.unwrap_or_else(|| {
            self.add(field, "is required");
            M::default()
        })
    }

    /// Parses an optional text of at most `max` characters. Converts it to normalization form C.
    /// Rejects control characters except line breaks and tabs.
    pub fn text(&mut self, field: impl Display, value: String, max: usize) -> String {
        self.exact(field, text::normalize(value), max)
    }

    /// Parses a text that a query compares with stored ones. Does not normalize it, because older
    /// stored texts may not be normalized.
    pub fn exact(&mut self, field: impl Display, value: String, max: usize) -> String {
        let chars = value.chars().count();
        if chars > max {
            self.add(&field, format!("must have at most {max} characters, has {chars}"));
        }
        if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.add(&field, "must not contain control characters other than line breaks and tabs");
        }
        value
    }

    /// Parses a search query. Rejects one with more words than a search supports.
    pub fn query(&mut self, field: impl Display, value: String) -> String {
        let value = self.text(&field, value, MAX_QUERY);
        let terms = search::ranges(&value).len();
        if terms > search::MAX_TERMS {
            self.add(
                field,
                format!("must have at most {} different words, has {terms}", search::MAX_TERMS),
            );
        }
        value
    }

    /// Parses a text of one line, such as a name. Rejects blanks at its ends, and a text of which
    /// nothing is visible.
    pub fn line(&mut self, field: impl Display, value: String, max: usize) -> String {
        self.line_for(Use::Line, &field, value, max)
    }

    /// Parses a line that must not be empty.
    pub fn required_line(&mut self, field: impl Display, value: String, max: usize) -> String {
        self.required(Use::Line, &field, value, max)
    }

    /// Parses the name of an account type or a role: a required line without invisible characters.
    pub fn label(&mut self, field: impl Display, value: String, max: usize) -> String {
        self.required(Use::Label, &field, value, max)
    }

    fn required(&mut self, purpose: Use, field: &dyn Display, value: String, max: usize) -> String {
        if value.is_empty() {
            self.add(field, "is required");
            return value;
        }
        self.line_for(purpose, field, value, max)
    }

    fn line_for(&mut self, purpose: Use, field: &dyn Display, value: String, max: usize) -> String {
        let value = text::normalize(value);
        self.one_line(field, &value);
        if let Some(refused) = purpose.refused(&value) {
            self.add(field, does_not_show(refused));
        } else if !value.trim().is_empty() && !text::is_visible(&value) {
            self.add(field, "must contain a character that shows");
        } else if value.trim_matches(text::is_blank) != value.trim() {
            self.add(field, "must not begin or end with a character that looks like a blank");
        }
        self.exact(field, value, max)
    }

    fn one_line(&mut self, field: &dyn Display, value: &str) {
        if value.trim() != value {
            self.add(field, "must not begin or end with blanks");
        }
        if value.contains(['\n', '\r', '\t']) {
            self.add(field, "must be a single line");
        }
    }

    /// Parses a time that a query compares with stored ones. Rounds it up to the next microsecond,
    /// the precision that PostgreSQL stores.
    pub fn time(&mut self, field: impl Display, time: Option<Timestamp>) -> Option<DateTime<Utc>> {
        let time = self.nanos(field, time);
        let whole = cut(time?)?;
        Some(if Some(whole) < time { whole + TimeDelta::microseconds(1) } else { whole })
    }

    /// Parses a time that is stored. Cuts what is smaller than a microsecond, as PostgreSQL would,
    /// so that the stored time equals the parsed one.
    pub fn instant(
        &mut self,
        field: impl Display,
        time: Option<Timestamp>,
    ) -> Option<DateTime<Utc>> {
        cut(self.nanos(field, time)?)
    }

    fn nanos(&mut self, field: impl Display, time: Option<Timestamp>) -> Option<DateTime<Utc>> {
        let Timestamp { seconds, nanos } = time?;
        let nanos = u32::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000 && SECONDS.contains(&seconds));
        let time = nanos.and_then(|nanos| DateTime::from_timestamp(seconds, nanos));
        if time.is_none() {
            self.add(
                field,
                "must be a time in the years 1 to 9999, with 0 to 999999999 nanoseconds",
            );
        }
        time
    }

    /// Parses an optional full date; the zero date is `None`.
    pub fn date(&mut self, field: impl Display, date: Option<Date>) -> Option<NaiveDate> {
        let date = date.filter(|date| *date != Date::default())?;
        let parsed = || {
            let year = (1..=9999).contains(&date.year).then_some(date.year)?;
            let (month, day) = (u32::try_from(date.month).ok()?, u32::try_from(date.day).ok()?);
            NaiveDate::from_ymd_opt(year, month, day)
        };
        let parsed = parsed();
        if parsed.is_none() {
            self.add(field, "must be a full date of the calendar, from year 1 to 9999");
        }
        parsed
    }

    /// Parses the fields `…start_time` and `…end_time` of a filter. The end must be after the
    /// start.
    pub fn period(
        &mut self,
        prefix: &str,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Period {
        let start = self.time(format_args!("{prefix}start_time"), start);
        let end = self.time(format_args!("{prefix}end_time"), end);
        if start.zip(end).is_some_and(|(start, end)| start >= end) {
            self.add(
                format_args!("{prefix}end_time"),
                format!("must be later than {prefix}start_time"),
            );
        }
        Period { start, end }
    }

    /// Parses the id of a resource that must be named. Accepts an id that could not be chosen
    /// today, because a stored one may be older than the rule.
    pub fn id(&mut self, field: impl Display, value: String) -> String {
        if value.is_empty() {
            self.add(field, "is required");
            return value;
        }
        self.one_line(&field, &value);
        self.exact(field, value, id::MAX_CHARS)
    }

    /// Parses the id of a resource that may be named.
    pub fn optional_id(&mut self, field: impl Display, value: String) -> Option<String> {
        (!value.is_empty()).then(|| self.id(field, value))
    }

    /// Parses the id chosen for a new resource, or generates one.
    pub fn new_id(&mut self, field: impl Display, value: String, prefix: &str) -> String {
        self.chosen_id(field, value).unwrap_or_else(|| id::generate(prefix))
    }

    /// Parses the id chosen for a new resource, if there is one.
    pub fn chosen_id(&mut self, field: impl Display, value: String) -> Option<String> {
        if value.is_empty() {
            return None;
        }
        if text::is_normal(&value) {
            return Some(self.line_for(Use::Id, &field, value, id::MAX_CHARS));
        }
        // A normalized id would differ from the id that the caller uses afterwards.
        self.add(
            &field,
            "must be in Unicode normalization form C, since ids are compared character by \
             character",
        );
        Some(self.id(field, value))
    }

    /// Parses the result of an update. Ignores a violation that the present resource has too, in a
    /// field that the update does not change: a rule that became stricter must not stop updates of
    /// other fields.
    pub fn update<M: Name + Clone, T>(
        &mut self,
        resource: &str,
        present: &M,
        merged: &M,
        parse: impl Fn(&mut Self, M) -> T,
    ) -> Result<T> {
        let mut found = Self::default();
        let parsed = parse(&mut found, merged.clone());
        if found.count == 0 {
            return Ok(parsed);
        }
        let mut before = Self::default();
        parse(&mut before, present.clone());
        self.count += found.count - found.kept.len();
        for violation in found.kept {
            let path =
                violation.field.strip_prefix(resource).and_then(|path| path.strip_prefix('.'));
            let stays = match path {
                Some(path) if before.kept.contains(&violation) => {
                    encoded::is_same(path, present, merged)?
                }
                _ => false,
            };
            if !stays {
                self.add(violation.field, violation.rule);
            }
        }
        Ok(parsed)
    }

    /// Checks the id that the client chose for a changing request ([`crate::db::Meta::of`]).
    pub fn request_id(&mut self, value: &str) {
        if value.chars().count() > MAX_REQUEST_ID {
            self.add("request_id", format!("must have at most {MAX_REQUEST_ID} characters"));
        }
        if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.add("request_id", "must consist of printable characters without blanks");
        } else if let Some(refused) = Use::Id.refused(value) {
            self.add("request_id", does_not_show(refused));
        }
    }

    /// Parses an email address: one `@` between a local part and a domain, as HTML's `input
    /// type=email` checks it.
    pub fn email(&mut self, field: impl Display, value: String) -> String {
        let value = self.line(&field, value, MAX_EMAIL);
        if !value.is_empty() && !is_email(&value) {
            self.add(field, "must be an email address, such as name@example.com");
        }
        value
    }

    /// Parses an address with http or https.
    pub fn uri(&mut self, field: impl Display, value: String) -> String {
        let value = self.line(&field, value, MAX_URI);
        if !value.is_empty() && !is_uri(&value) {
            self.add(field, "must be an http or https address, such as https://crm.example/42");
        }
        value
    }

    /// Parses an enum value of the contract; `None` for unspecified. Rejects an unknown number.
    pub fn known<T: TryFrom<i32> + Default + PartialEq>(
        &mut self,
        field: impl Display,
        value: i32,
    ) -> Option<T> {
        let Ok(known) = T::try_from(value) else {
            self.add(field, format!("has no value {value}"));
            return None;
        };
        (known != T::default()).then_some(known)
    }
}

/// Whether a text is an address that a browser opens as it stands: `url` parses as browsers do, so
/// it also takes a missing slash and a backslash for one.
fn is_uri(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let rest = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://"));
    let is_literal = rest.is_some_and(|rest| !rest.starts_with('/'))
        && !value.contains(|c: char| c.is_whitespace() || c == '\\');
    let host = Url::parse(value).ok().and_then(|url| url.host_str().map(ToOwned::to_owned));
    is_literal && host.is_some_and(|host| host.contains(|c: char| c.is_ascii_alphanumeric()))
}

/// Cuts a time to whole microseconds. Nanoseconds since 1970 fit 64 bits only until 2262, so this
/// cuts the nanoseconds of the second.
fn cut(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let nanos = time.timestamp_subsec_nanos();
    DateTime::from_timestamp(time.timestamp(), nanos - nanos % 1000)
}

/// Cuts a text that quotes the request, because an error travels in headers, which have little
/// space.
fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn does_not_show(refused: char) -> String {
    format!("must not contain the character U+{:04X}, which does not show", u32::from(refused))
}

/// Whether a text is an email address by
/// <https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address>. Beyond ASCII it
/// accepts every visible character in the local part (RFC 6531). In the domain it accepts letters
/// with their marks, as people write them (RFC 5890, U-labels), or `xn--…`.
fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.split_once('@') else { return false };
    let in_local = |c: char| {
        if c.is_ascii() {
            c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c)
        } else {
            !c.is_whitespace() && is_written(c)
        }
    };
    let in_label = |c: char| {
        c == '-'
            || c.is_alphanumeric()
            || text::is_mark(c)
            || is_written(c) && INSIDE_LABELS.contains(c)
    };
    let at_end = |c: char| c == '-' || text::is_joiner(c);
    let begins = |part: &str| !part.starts_with(|c| text::is_mark(c) || text::is_joiner(c));
    !local.is_empty()
        && local.chars().all(in_local)
        && begins(local)
        && !local.ends_with(text::is_joiner)
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.chars().count() <= MAX_LABEL
                && label.chars().all(in_label)
                && !label.starts_with(at_end)
                && !label.ends_with(at_end)
                && begins(label)
        })
}

/// Whether a character beyond ASCII is visible or joins letters.
fn is_written(c: char) -> bool {
    text::is_joiner(c) || Use::Id.refused(c.encode_utf8(&mut [0; 4])).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(check: impl FnOnce(&mut Violations)) -> Vec<String> {
        let mut v = Violations::default();
        check(&mut v);
        v.kept.into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn emails() {
        for good in [
            "a@b",
            "jane.doe+x@acme.example",
            "o'neil@x-y.z",
            "a@xn--mnchen-3ya.example",
            "a@xn--h2brj9c",
            "jürgen@münchen.de",
            "संपर्क@डाटामेल.भारत",
            "ติดต่อ@บริษัท.ไทย",
            "اتصال@شركة.مصر",
            "آرش@نمونه\u{200c}ها.ایران",
            "联系@公司.中国",
            "お問い合わせ@トヨタ.日本",
            "почта@почта.рф",
            "дом@Й.рф",
            "문의@회사.한국",
            "தொடர்பு@நிறுவனம்.இந்தியா",
            "ju\u{308}rgen@mu\u{308}nchen.de",
            "l·l@col·lecció.cat",
            "🍕@pizza.example",
        ] {
            for form in [good.to_owned(), text::normalize(good.to_owned())] {
                assert_eq!(rules(|v| drop(v.email("email", form.clone()))), [""; 0], "{form}");
            }
        }
        for bad in [
            "a",
            "@b",
            "a@",
            "a@@b",
            "a b@c",
            "a@b..c",
            "a@-b",
            "a@b-",
            "<a@b>",
            "a@b,c@d",
            "\"a\"@b",
            "a@b_c",
            "a@[127.0.0.1]",
            "a\u{a0}b@c",
            "a\u{200d}@b",
            "a@b\u{3000}c",
            "a\u{200b}@b",
            "a\u{202e}b@c",
            "a@b\u{ad}c",
            "a@\u{94d}क",
            "a@b\u{200d}",
            "\u{301}a@b",
            "a@🍕.example",
            "a@b\u{e000}c",
        ] {
            assert!(!is_email(bad), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_one_to_fifty_characters_without_blanks_at_the_ends_or_control_characters() {
        for (id, named, chosen) in [
            ("x", 0, 0),
            ("an id with blanks inside", 0, 0),
            (&*"é".repeat(50), 0, 0),
            (&"x".repeat(51), 1, 1),
            (" x", 1, 1),
            ("x\u{0}", 1, 1),
            ("x\ny", 1, 1),
            // An older version accepted this id, so requests can still name it.
            ("x\u{200b}", 0, 1),
            ("\u{202e}x", 0, 1),
            ("Zu\u{308}rich", 0, 1),
            ("\u{2800}", 0, 1),
            ("x\u{2028}", 1, 2),
            ("\u{e000}", 0, 1),
        ] {
            assert_eq!(rules(|v| drop(v.id("id", id.to_owned()))).len(), named, "{id:?}");
            let rules = rules(|v| drop(v.new_id("id", id.to_owned(), "x")));
            assert_eq!(rules.len(), chosen, "{id:?}: {rules:?}");
        }
        assert_eq!(rules(|v| drop(v.id("id", String::new()))), ["is required"]);
    }

    #[test]
    fn texts_are_normalized() {
        let mut v = Violations::default();
        let decomposed = || "Zu\u{308}rich".to_owned();
        let parsed = [
            v.text("f", decomposed(), 6),
            v.line("f", decomposed(), 6),
            v.required_line("f", decomposed(), 6),
            v.label("f", decomposed(), 6),
            v.query("f", decomposed()),
        ];
        assert!(parsed.iter().all(|text| text == "Zürich") && v.count == 0, "{parsed:?} {v:?}");
    }

    #[test]
    fn the_character_that_is_refused_is_named() {
        assert_eq!(
            rules(|v| drop(v.line("f", "a\u{202e}b".into(), 9))),
            ["must not contain the character U+202E, which does not show"]
        );
        assert_eq!(
            rules(|v| drop(v.line("f", "\u{200b}".into(), 9))),
            ["must contain a character that shows"]
        );
        assert_eq!(
            rules(|v| drop(v.label("f", "\u{3164}".into(), 9))),
            ["must not contain the character U+3164, which does not show"]
        );
        assert_eq!(
            rules(|v| drop(v.line("f", "a\u{2800}".into(), 9))),
            ["must not begin or end with a character that looks like a blank"]
        );
        assert_eq!(rules(|v| drop(v.line("f", "a\u{2800}b".into(), 9))), [""; 0]);
        assert_eq!(
            rules(|v| v.request_id("a\u{202e}b")),
            ["must not contain the character U+202E, which does not show"]
        );
    }
}
