//! Kubernetes quantities (`500m`, `128Mi`, `1.5`, `1e3`) as integers.
//!
//! A quantity is a decimal number with a suffix: binary (`Ki` = 2^10 … `Ei` = 2^60), decimal (`n` = 10^-9 … `E` = 10^18) or an exponent
//! (`e3`, `E-2`). The grammar and its limits are those of apimachinery's `resource.Quantity`: no more than 2^63 − 1 in magnitude, nothing
//! finer than 10^-9, and what is finer than the unit that is asked for is rounded away from zero. So a limit of `0.1m` CPU is one
//! thousandth of a CPU and never none. Arithmetic is exact: integers of 10^-9 in 128 bits.

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantity is empty; expected a number such as 500m, 1.5 or 128Mi")]
    Empty,
    #[error("{given:?} is no quantity; expected a number such as 500m, 1.5 or 128Mi")]
    Malformed { given: String },
    #[error(
        "{given:?} has the unknown suffix {suffix:?}; expected one of n u m k M G T P E Ki Mi Gi Ti Pi Ei or an exponent"
    )]
    Suffix { given: String, suffix: String },
    #[error("{given:?} is out of range; expected at most 2^63-1")]
    Range { given: String },
    #[error("{given:?} is negative; expected zero or more")]
    Negative { given: String },
}

const NANO: i128 = 1_000_000_000;
/// 2^63 − 1 in units of 10^-9.
const MAX_NANO: i128 = 9_223_372_036_854_775_807 * NANO;
/// More digits than any value in range needs, few enough that 128 bits hold them.
const MAX_DIGITS: usize = 28;

/// A quantity in units of 10^-9, rounded away from zero.
///
/// # Errors
/// [`QuantityError`] if `text` isn't one.
pub fn nano(text: &str) -> Result<i128, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Empty);
    }
    let malformed = || QuantityError::Malformed { given: text.to_owned() };
    let range = || QuantityError::Range { given: text.to_owned() };
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_len = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = unsigned.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let scale = scale(suffix)
        .ok_or_else(|| QuantityError::Suffix { given: text.to_owned(), suffix: suffix.to_owned() })?
        .map_err(|()| range())?;

    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return Ok(0);
    }
    if whole.len() > MAX_DIGITS {
        return Err(range());
    }
    // What lies beyond the digits kept only decides that the value is rounded up.
    let kept = fraction.get(..MAX_DIGITS.saturating_sub(whole.len())).unwrap_or(fraction);
    let mut inexact = kept.len() < fraction.len();
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(kept.bytes()) {
        mantissa = mantissa * 10 + i128::from(digit - b'0');
    }
    let mut exponent = i64::try_from(kept.len()).map_or(i64::MIN, |n| 9 - n);
    let mut value = mantissa;
    match scale {
        Scale::Binary(bits) => value = value.checked_mul(1_i128 << bits).ok_or_else(range)?,
        Scale::Decimal(power) => exponent = exponent.saturating_add(power),
    }
    while exponent > 0 {
        value = value.checked_mul(10).ok_or_else(range)?;
        exponent -= 1;
    }
    while exponent < 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        exponent += 1;
        if value == 0 {
            break;
        }
    }
    if inexact {
        value += 1;
    }
    if value > MAX_NANO {
        return Err(range());
    }
    Ok(if negative { -value } else { value })
}

enum Scale {
    /// Times 2^n.
    Binary(u32),
    /// Times 10^n.
    Decimal(i64),
}

/// `None`: no such suffix. `Some(Err)`: an exponent beyond every range.
fn scale(suffix: &str) -> Option<Result<Scale, ()>> {
    let known = match suffix {
        "" => Scale::Decimal(0),
        "n" => Scale::Decimal(-9),
        "u" => Scale::Decimal(-6),
        "m" => Scale::Decimal(-3),
        "k" => Scale::Decimal(3),
        "M" => Scale::Decimal(6),
        "G" => Scale::Decimal(9),
        "T" => Scale::Decimal(12),
        "P" => Scale::Decimal(15),
        "E" => Scale::Decimal(18),
        "Ki" => Scale::Binary(10),
        "Mi" => Scale::Binary(20),
        "Gi" => Scale::Binary(30),
        "Ti" => Scale::Binary(40),
        "Pi" => Scale::Binary(50),
        "Ei" => Scale::Binary(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            return Some(match digits.parse::<i64>() {
                Ok(power) if power.abs() <= 100 => Ok(Scale::Decimal(power)),
                _ => Err(()),
            });
        }
    };
    Some(Ok(known))
}

fn in_units_of(text: &str, unit: i128) -> Result<u64, QuantityError> {
    let nano = nano(text)?;
    if nano < 0 {
        return Err(QuantityError::Negative { given: text.to_owned() });
    }
    let rounded_up = (nano + unit - 1) / unit;
    u64::try_from(rounded_up).map_err(|_| QuantityError::Range { given: text.to_owned() })
}

/// Whole units (bytes, processes), rounded up.
///
/// # Errors
/// [`QuantityError`] if `text` isn't a quantity of zero or more.
pub fn units(text: &str) -> Result<u64, QuantityError> {
    in_units_of(text, NANO)
}

/// Thousandths, rounded up.
///
/// # Errors
/// [`QuantityError`] if `text` isn't a quantity of zero or more.
pub fn millis(text: &str) -> Result<u64, QuantityError> {
    in_units_of(text, NANO / 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_suffix_has_its_factor() {
        for (given, expected) in [
            ("0", 0),
            ("1", 1),
            ("+7", 7),
            ("1k", 1_000),
            ("1M", 1_000_000),
            ("1G", 1_000_000_000),
            ("2T", 2_000_000_000_000),
            ("2P", 2_000_000_000_000_000),
            ("2E", 2_000_000_000_000_000_000),
            ("1Ki", 1 << 10),
            ("128Mi", 128 << 20),
            ("1Gi", 1 << 30),
            ("1Ti", 1 << 40),
            ("1Pi", 1 << 50),
            ("7Ei", 7 << 60),
            ("1.5Gi", 3 << 29),
            ("0.5Ki", 512),
            ("1e3", 1_000),
            ("1E3", 1_000),
            ("12e-1", 2),
            (".5", 1),
            ("5.", 5),
            ("1500m", 2),
            ("1n", 1),
            ("1u", 1),
            ("0000000000000000000000000000000000000001", 1),
            ("1.00000000000000000000000000000000000001", 2),
            ("9223372036854775807", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(units(given), Ok(expected), "{given}");
        }
    }

    #[test]
    fn thousandths_round_up() {
        for (given, expected) in
            [("1", 1000), ("500m", 500), ("0.1", 100), ("0.0001", 1), ("1u", 1), ("1.0005", 1001), ("2e-3", 2)]
        {
            assert_eq!(millis(given), Ok(expected), "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for given in
            ["", "m", "1.2.3", "-", "+", ".", "Mi", "1 Mi", " 1", "1e", "1e+", "1mi", "1K", "1MiB", "0x10", "１"]
        {
            assert!(nano(given).is_err(), "{given}");
        }
        for given in
            ["9223372036854775808", "8Ei", "1e19", "1e1000000000000000000000", "99999999999999999999999999999999999999"]
        {
            assert_eq!(nano(given), Err(QuantityError::Range { given: given.to_owned() }));
        }
        assert_eq!(units("-1"), Err(QuantityError::Negative { given: "-1".to_owned() }));
        assert_eq!(units("-0"), Ok(0));
        assert!(matches!(nano("1x"), Err(QuantityError::Suffix { suffix, .. }) if suffix == "x"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[-+]?[0-9.]{0,40}[a-zA-Z0-9+-]{0,5}") {
            let _ = nano(&text);
        }

        #[test]
        fn a_sum_of_thousandths_is_exact(whole in 0_u64..9_000_000_000, milli in 0_u64..1000) {
            prop_assert_eq!(millis(&format!("{whole}.{milli:03}")), Ok(whole * 1000 + milli));
            prop_assert_eq!(millis(&format!("{}m", whole * 1000 + milli)), Ok(whole * 1000 + milli));
        }
    }
}
