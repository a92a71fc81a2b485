//! Rates: Kubernetes quantities (`20M`, `1.5G`, `100Mi`) as whole bits per second.
//!
//! The grammar is apimachinery's `resource.Quantity`; a fraction of a bit is rounded up, as `Quantity.Value()` does. Arithmetic is exact.

use thiserror::Error;

/// Digits of a number that 128 bits hold after every scale: more than a rate in range has.
const MAX_DIGITS: usize = 19;

/// Why a text is no rate.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("{given:?} is no rate: expected bits per second from {least} to 9223372036854775807, as in 20M or 1500k")]
pub struct RateError {
    pub given: String,
    pub least: u64,
}

/// Bits per second, at least `least`.
///
/// # Errors
/// [`RateError`] if the text isn't a quantity, or less than `least` or more than `i64::MAX`.
pub fn bits_per_second(text: &str, least: u64) -> Result<u64, RateError> {
    parse(text)
        .filter(|&rate| rate >= least && i64::try_from(rate).is_ok())
        .ok_or_else(|| RateError { given: text.to_owned(), least })
}

fn parse(text: &str) -> Option<u64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
        return None;
    }
    let (factor, power) = scale(suffix)?;
    // value = digits × factor × 10^(power − fraction digits)
    let digits = format!("0{whole}{fraction}").parse::<u128>().ok()?;
    let exponent = power - i32::try_from(fraction.len()).ok()?;
    let scaled = digits.checked_mul(factor);
    let magnitude = 10_u128.checked_pow(exponent.unsigned_abs());
    let value = match (digits, exponent >= 0, magnitude) {
        (0, ..) => 0,
        (_, true, Some(magnitude)) => scaled?.checked_mul(magnitude)?,
        (_, true, None) => return None,
        (_, false, Some(magnitude)) => scaled?.div_ceil(magnitude),
        // Less than one bit of anything that fits into 128.
        (_, false, None) => 1,
    };
    u64::try_from(value).ok()
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => (1, exponent.strip_prefix(['e', 'E'])?.parse::<i16>().ok()?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_bits_per_second() {
        for (text, expected) in [
            ("20M", 20_000_000),
            ("1.5G", 1_500_000_000),
            ("100Mi", 104_857_600),
            ("0.5Ki", 512),
            ("1500", 1500),
            ("+1e3", 1000),
            ("25E-1", 3),
            ("500m", 1),
            ("0", 0),
            (".5k", 500),
            ("1e-300", 1),
            ("0000000000000000000000000000001M", 1_000_000),
            ("9223372036854775807", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(bits_per_second(text, 0).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", ".", "M", "-1", "1.2.3", "10Mbit", "1e", "e3", "9223372036854775808", "10E", "1e400", "1 M"] {
            assert!(bits_per_second(text, 0).is_err(), "{text}");
        }
        assert!(bits_per_second("0", 1).is_err());
    }
}
