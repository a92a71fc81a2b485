//! Rates: Kubernetes quantities (`20M`, `1.5G`, `100Mi`) as whole bits per second.
//!
//! A fraction of a bit is rounded up, as `Quantity.Value()` does.

use thiserror::Error;

use crate::quantity::units;

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
    units(text).ok().filter(|&rate| rate >= least).ok_or_else(|| RateError { given: text.to_owned(), least })
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
