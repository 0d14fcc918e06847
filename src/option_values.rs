//! Parsers of the values of options.

use std::time::Duration;

/// Longest duration that an option accepts.
const LONGEST: Duration = Duration::from_hours(720);

/// A duration as people write it: `250ms`, `10s`, `5m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (amount, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number and one of ms, s, m, h: 250ms, 10s".to_owned()),
    };
    let amount: u64 =
        amount.parse().map_err(|_| "a duration begins with a number: 250ms, 10s".to_owned())?;
    let duration = amount
        .checked_mul(millis)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= LONGEST);
    duration.ok_or_else(|| "a duration is at most 720h".to_owned())
}

/// A duration from 1ms to 1s.
pub fn at_most_a_second(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&wait) {
        Ok(wait)
    } else {
        Err("from 1ms to 1s".to_owned())
    }
}

/// A duration of at most 5m.
pub fn at_most_five_minutes(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if time <= Duration::from_mins(5) { Ok(time) } else { Err("from 0s to 5m".to_owned()) }
    })
}

/// A duration of at least 1ms.
pub fn not_zero(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("from 1ms on".to_owned()) } else { Ok(duration) }
}

/// A text that is not empty.
pub fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A number that is at least 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number >= 1).ok_or_else(|| "a number from 1 on".to_owned())
}

/// A number of bytes, or `never`.
pub fn bytes_or_never(text: &str) -> Result<usize, String> {
    if text == "never" {
        Ok(usize::MAX)
    } else {
        text.parse().map_err(|_| "a number of bytes, or `never`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5d",
            "99999999999999999999s",
            "18446744073709551615h",
            "721h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(
            at_most_a_second("1s").is_ok()
                && at_most_a_second("2s").is_err()
                && at_most_a_second("0s").is_err()
        );
        assert!(at_most_five_minutes("0s").is_ok() && at_most_five_minutes("5m").is_ok());
        assert!(
            at_most_five_minutes("6m").is_err()
                && not_zero("0s").is_err()
                && not_zero("1ms").is_ok()
        );
    }
}
