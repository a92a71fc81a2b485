//! Durations as text: `250us`, `10ms`, `1.5s`, `1m30s`.
//!
//! The grammar is Go's (time.ParseDuration) without signs: a duration of a task is never negative. Everything is whole nanoseconds; a text that
//! stands for a fraction of one, or for more than an `i64` holds (292 years), is refused.

use std::fmt;

use kube::core::{Message, Rule};

/// The grammar, for schemas.
pub const PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$";
/// The longest text that a field takes.
pub const MAX_LENGTH: u32 = 32;

/// Numbers that are beyond an `i64` of nanoseconds by their first digits, in any unit. What it lets through of 292 to 340 years, [`parse_ns`] refuses.
const TOO_LONG: &str = "(^|[a-z])0*(([1-9][0-9]{7,}|[3-9][0-9]{6})([.][0-9]+)?h\
    |([1-9][0-9]{9,}|[2-9][0-9]{8})([.][0-9]+)?m([0-9]|$)\
    |[1-9][0-9]{10,}([.][0-9]+)?s\
    |[1-9][0-9]{13,}([.][0-9]+)?ms\
    |[1-9][0-9]{16,}([.][0-9]+)?us\
    |([1-9][0-9]{19,}|9[3-9][0-9]{17})ns)";

const UNITS: [(&str, u128); 6] = [
    // Two letters first: `ms` isn't `m`.
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError {
    pub given: String,
    pub expected: &'static str,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no duration: expected {}", self.given, self.expected)
    }
}

impl std::error::Error for DurationError {}

/// That a field isn't beyond an `i64` of nanoseconds. The shortest that is has 8 letters, as `3000000h`: most fields needn't be searched.
pub(crate) fn bounded(field: &str, optional: bool) -> Rule {
    let absent = if optional { format!("!has(self.{field}) || ") } else { String::new() };
    Rule::new(format!("{absent}size(self.{field}) < 8 || !self.{field}.matches('{TOO_LONG}')"))
        .message(Message::Expression(format!(
            "'must be at most 9223372036854775807ns, 292 years; got ' + self.{field}"
        )))
        .field_path(format!(".{field}"))
}

/// Nanoseconds.
///
/// # Errors
/// [`DurationError`] if the text doesn't follow the grammar, isn't a whole number of nanoseconds, or exceeds `i64::MAX`.
pub fn parse_ns(text: &str) -> Result<u64, DurationError> {
    let error = |expected| DurationError { given: text.to_owned(), expected };
    let grammar = || error("a number and a unit (ns, us, ms, s, m, h), as in 250us or 1.5ms");
    let mut rest = text;
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(grammar());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(grammar)?;
        let (number, tail) = rest.split_at(end);
        let (unit, scale) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(grammar)?;
        rest = &tail[unit.len()..];
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Err(grammar()),
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        let too_long = || error("at most 9223372036854775807ns");
        let digits = format!("{whole}{fraction}");
        if whole.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(grammar());
        }
        let value: u128 = digits.parse().map_err(|_| too_long())?;
        let scaled = value.checked_mul(*scale).ok_or_else(too_long)?;
        let divisor = u32::try_from(fraction.len()).ok().and_then(|n| 10_u128.checked_pow(n)).ok_or_else(too_long)?;
        if scaled % divisor != 0 {
            return Err(error("whole nanoseconds"));
        }
        total = total.checked_add(scaled / divisor).ok_or_else(too_long)?;
    }
    i64::try_from(total)
        .ok()
        .and_then(|ns| u64::try_from(ns).ok())
        .ok_or_else(|| error("at most 9223372036854775807ns"))
}

/// The shortest single-unit text of whole numbers: `250us`, not `0.25ms`.
#[must_use]
pub fn format_ns(ns: u64) -> String {
    let mut best = (format!("{ns}"), "ns");
    for (unit, scale) in [("us", 1_000_u64), ("ms", 1_000_000), ("s", 1_000_000_000)] {
        if ns != 0 && ns.is_multiple_of(scale) {
            best = (format!("{}", ns / scale), unit);
        }
    }
    format!("{}{}", best.0, best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_nanoseconds() {
        for (text, ns) in [
            ("250us", 250_000),
            ("1.5ms", 1_500_000),
            ("0s", 0),
            ("1m30s", 90_000_000_000),
            ("1h", 3_600_000_000_000),
            ("9223372036854775807ns", i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(parse_ns(text), Ok(ns), "{text}");
        }
        for bad in [
            "",
            "5",
            "ms",
            "-1ms",
            "1.ms",
            ".5ms",
            "1.5ns",
            "1 ms",
            "1ms,",
            "1d",
            "9223372036854775808ns",
            "99999999999h",
        ] {
            assert!(parse_ns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn printed_durations_read_back() {
        for (ns, text) in [
            (0, "0ns"),
            (1, "1ns"),
            (250_000, "250us"),
            (1_500_000, "1500us"),
            (10_000_000, "10ms"),
            (2_000_000_000, "2s"),
        ] {
            assert_eq!(format_ns(ns), text);
            assert_eq!(parse_ns(text), Ok(ns));
        }
    }
}
