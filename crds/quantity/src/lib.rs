//! Kubernetes quantities (`500m`, `128Mi`, `1.5`, `1e3`) as integers.
//!
//! A quantity is a decimal number with a suffix: binary (`Ki` = 2^10 … `Ei` = 2^60), decimal (`n` = 10^-9 … `E` = 10^18) or an exponent
//! (`e3`, `E-2`). The grammar and its limits are those of `k8s.io/apimachinery/pkg/api/resource`: no more than 2^63 − 1 in magnitude,
//! nothing finer than 10^-9, and what is finer than the unit that is asked for is rounded away from zero. So a limit of `0.1m` CPU is one
//! thousandth of a CPU and never none. Arithmetic is exact for numbers of any length: integers of 10^-9 in 128 bits.
//!
//! A crate of its own, because the API server knows quantities (ResourceQuota) and nothing of Pullpiri's kinds.

use std::fmt;

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
/// Digits of [`MAX_NANO`].
const MAX_DIGITS: i64 = 28;

/// An amount in units of 10^-9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// The most that Kubernetes keeps.
    pub const MAX: Self = Self(MAX_NANO);

    #[must_use]
    pub fn whole(count: u64) -> Self {
        Self(i128::from(count) * NANO)
    }

    /// # Errors
    /// [`QuantityError`] if the text isn't a quantity, or beyond 2^63 − 1 in magnitude.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let magnitude = parse(text)?.filter(|&nano| nano <= MAX_NANO);
        let nano = magnitude.ok_or_else(|| QuantityError::Range { given: text.to_owned() })?;
        Ok(Self(if text.starts_with('-') { -nano } else { nano }))
    }

    /// As Kubernetes reads them: what is beyond 2^63 − 1 in magnitude is that.
    ///
    /// # Errors
    /// [`QuantityError`] if the text isn't a quantity.
    pub fn capped(text: &str) -> Result<Self, QuantityError> {
        match Self::parse(text) {
            Err(QuantityError::Range { .. }) if text.starts_with('-') => Ok(Self(-MAX_NANO)),
            Err(QuantityError::Range { .. }) => Ok(Self::MAX),
            other => other,
        }
    }

    #[must_use]
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    #[must_use]
    pub fn is_whole(self) -> bool {
        self.0 % NANO == 0
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Amount {
    /// Whole amounts as a number, others in the largest unit that has no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(NANO, ""), (1_000_000, "m"), (1_000, "u")] {
            if self.0 % unit == 0 {
                return write!(f, "{}{suffix}", self.0 / unit);
            }
        }
        write!(f, "{}n", self.0)
    }
}

/// Whole units (bytes, processes, bits per second), rounded up.
///
/// # Errors
/// [`QuantityError`] if `text` isn't a quantity of zero or more.
pub fn units(text: &str) -> Result<u64, QuantityError> {
    in_units_of(text, NANO)
}

/// Thousandths, rounded up.
///
/// # Errors
/// [`QuantityError`] if `text` isn't a quantity of zero or more, or has more thousandths than 64 bits hold.
pub fn millis(text: &str) -> Result<u64, QuantityError> {
    in_units_of(text, NANO / 1000)
}

fn in_units_of(text: &str, unit: i128) -> Result<u64, QuantityError> {
    let Amount(nano) = Amount::parse(text)?;
    if nano < 0 {
        return Err(QuantityError::Negative { given: text.to_owned() });
    }
    let rounded_up = (nano + unit - 1) / unit;
    u64::try_from(rounded_up).map_err(|_| QuantityError::Range { given: text.to_owned() })
}

/// The magnitude in units of 10^-9, rounded up; `None` where 128 bits don't hold it.
fn parse(text: &str) -> Result<Option<i128>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Empty);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = unsigned.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::Malformed { given: text.to_owned() });
    }
    let scale =
        scale(suffix).ok_or_else(|| QuantityError::Suffix { given: text.to_owned(), suffix: suffix.to_owned() })?;
    Ok(match scale {
        Scale::Decimal(power) => decimal(whole, fraction, power),
        Scale::Binary(bits) => binary(whole, fraction, bits),
    })
}

/// `whole.fraction × 10^(power + 9)`, rounded up: the point moves, and what is behind it then says whether to round.
fn decimal(whole: &str, fraction: &str, power: i64) -> Option<i128> {
    let point = i64::try_from(whole.len()).ok()?.saturating_add(power).saturating_add(9);
    let digits = || whole.bytes().chain(fraction.bytes()).map(|digit| i128::from(digit - b'0'));
    let zeros = digits().take_while(|&digit| digit == 0).count();
    let mut digits = digits().skip(zeros).peekable();
    if digits.peek().is_none() {
        return Some(0);
    }
    let before = point.saturating_sub(i64::try_from(zeros).ok()?);
    if before > MAX_DIGITS {
        return None;
    }
    let mut value = 0;
    for _ in 0..before {
        value = value * 10 + digits.next().unwrap_or(0);
    }
    Some(value + i128::from(digits.any(|digit| digit > 0)))
}

/// `whole.fraction × 2^bits × 10^9`, rounded up.
fn binary(whole: &str, fraction: &str, bits: u32) -> Option<i128> {
    let unit = NANO << bits;
    let mut value: i128 = 0;
    for digit in whole.bytes() {
        value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    // From the last digit on: a floor of a floor is the floor of the whole, and a rest anywhere is a rest of the whole.
    let (mut part, mut inexact) = (0, false);
    for digit in fraction.bytes().rev() {
        let tenths = i128::from(digit - b'0') * unit + part;
        inexact |= tenths % 10 != 0;
        part = tenths / 10;
    }
    value.checked_mul(unit)?.checked_add(part + i128::from(inexact))
}

enum Scale {
    /// Times 2^n.
    Binary(u32),
    /// Times 10^n.
    Decimal(i64),
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(match suffix {
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
            let signed = exponent.strip_prefix(['e', 'E'])?;
            let digits = signed.strip_prefix(['+', '-']).unwrap_or(signed);
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            // Beyond 64 bits it is as good as infinite.
            let infinite = if signed.starts_with('-') { i64::MIN } else { i64::MAX };
            Scale::Decimal(signed.parse().unwrap_or(infinite))
        }
    })
}

#[cfg(test)]
mod tests;
