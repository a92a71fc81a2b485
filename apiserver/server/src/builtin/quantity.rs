//! Kubernetes' quantities (`500m`, `1Gi`, `2e3`) as integers.
//!
//! Unit: nano, the finest that Kubernetes keeps (finer is rounded up). Source: `k8s.io/apimachinery/pkg/api/resource`.

use std::fmt;

const NANO: i128 = 1_000_000_000;
/// Above this Kubernetes itself caps (2^63 - 1 whole units).
const MAX_WHOLE: i128 = i64::MAX as i128;

/// An amount in nano units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// A text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct NoQuantity;

impl Quantity {
    #[must_use]
    pub fn whole(count: u64) -> Self {
        Self(i128::from(count) * NANO)
    }

    /// # Errors
    /// The text isn't a number with one of the suffixes.
    pub fn parse(text: &str) -> Result<Self, NoQuantity> {
        let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (negative, digits) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(NoQuantity);
        }
        let mantissa: i128 = format!("0{whole}{fraction}").parse().unwrap_or(i128::MAX);
        let places = u32::try_from(fraction.len()).map_err(|_| NoQuantity)?;
        let scaled = match scale(suffix).ok_or(NoQuantity)? {
            Scale::Binary(power) => mantissa.saturating_mul(NANO).saturating_mul(1_i128 << power),
            Scale::Decimal(exponent) => {
                let exponent = exponent.saturating_add(9);
                let factor = 10_i128.checked_pow(exponent.unsigned_abs()).unwrap_or(i128::MAX);
                if exponent >= 0 { mantissa.saturating_mul(factor) } else { ceil_div(mantissa, factor) }
            }
        };
        let nano = ceil_div(scaled, 10_i128.checked_pow(places).unwrap_or(i128::MAX)).min(MAX_WHOLE * NANO);
        Ok(Self(if negative { -nano } else { nano }))
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

impl fmt::Display for Quantity {
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

enum Scale {
    /// Power of two.
    Binary(u32),
    /// Power of ten.
    Decimal(i32),
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
        other => Scale::Decimal(other.strip_prefix(['e', 'E'])?.parse().ok().filter(|power: &i32| power.abs() < 100)?),
    })
}

fn ceil_div(value: i128, by: i128) -> i128 {
    value / by + i128::from(value % by != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_amounts() {
        for (text, shown) in [
            ("0", "0"),
            ("5", "5"),
            ("500m", "500m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1k", "1000"),
            ("1Ki", "1024"),
            ("1.5Gi", "1610612736"),
            ("2e3", "2000"),
            ("2E3", "2000"),
            ("5e-1", "500m"),
            ("-1", "-1"),
            ("+3", "3"),
            ("0.0000000001", "1n"),
            ("99999999999999999999E", "9223372036854775807"),
        ] {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for text in ["", "a", "1x", "1.2.3", "--1", "1 ", "m", "1e", "0x1", "1kk"] {
            assert_eq!(Quantity::parse(text), Err(NoQuantity), "{text}");
        }
    }

    #[test]
    fn amounts_compare_across_units() {
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::whole(2), Quantity::parse("2000m").unwrap());
        assert!(Quantity::parse("-1m").unwrap().is_negative());
        assert!(!Quantity::parse("1m").unwrap().is_whole());
        assert_eq!(Quantity::whole(1).plus(Quantity::whole(2)), Quantity::whole(3));
    }
}
