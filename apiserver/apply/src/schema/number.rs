//! JSON numbers as kube-apiserver holds them: int64 where the text is an integer that fits, float64 otherwise. Bounds are float64.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// A number of an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Num {
    Int(i64),
    Float(f64),
}

impl Num {
    pub(super) fn of(number: &Number) -> Self {
        match number.as_i64() {
            Some(int) => Self::Int(int),
            None => Self::Float(number.as_f64().unwrap_or(f64::INFINITY)),
        }
    }

    pub(super) fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => Some(Self::of(number)),
            _ => None,
        }
    }

    /// The nearest float64.
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(int) => {
                // Two halves, each without loss: only their sum is rounded.
                let high = i32::try_from(int >> 32).unwrap_or_default();
                let low = u32::try_from(int & 0xffff_ffff).unwrap_or_default();
                f64::from(high) * 4_294_967_296.0 + f64::from(low)
            }
            Self::Float(float) => float,
        }
    }
}

/// The integer part of a float within int64; the ends beyond.
pub(super) fn truncate(float: f64) -> i64 {
    // IEEE 754: ±mantissa · 2^(exponent − 1075), where the mantissa's leading one isn't written.
    let bits = float.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    let mantissa = (bits & ((1 << 52) - 1)) | 1 << 52;
    let magnitude = match exponent {
        0..1023 => 0,
        1023..1075 => mantissa >> (1075 - exponent),
        1075..1086 => mantissa << (exponent - 1075),
        _ if float.is_nan() => 0,
        _ => u64::MAX,
    };
    if float.is_sign_negative() {
        0_i64.saturating_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).unwrap_or(i64::MAX)
    }
}

pub(super) fn as_float(number: &Number) -> f64 {
    Num::of(number).float()
}

/// Whether a float is an integer that JSON carries without loss (within 2^53 − 1, up to a relative error of 1e-9).
pub(super) fn is_json_integer(float: f64) -> bool {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    const EPSILON: f64 = 1e-9;
    if !float.is_finite() || float.abs() > LARGEST {
        return false;
    }
    let whole = float.trunc();
    whole == float || (whole != 0.0 && (float - whole).abs() / (float.abs() + whole.abs()) < EPSILON)
}

/// What numbers a type and format hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Int32,
    Int64,
    /// An integer without a format.
    Integer,
    Float32,
    Any,
}

impl Range {
    pub(super) fn holds(self, num: Num) -> bool {
        let in_int32 = |int: i64| i32::try_from(int).is_ok();
        match (self, num) {
            (Self::Any, _) | (Self::Int64 | Self::Integer, Num::Int(_)) => true,
            (Self::Int32, Num::Int(int)) => in_int32(int),
            (Self::Int32, Num::Float(float)) => float.fract() == 0.0 && in_int32(truncate(float)) && float.abs() < 1e10,
            (Self::Int64 | Self::Integer, Num::Float(float)) => {
                float.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float)
            }
            (Self::Float32, num) => num.float().abs() <= f64::from(f32::MAX),
        }
    }

    /// `of type integer with format int32`, as a message has it.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Int32 => "integer with format int32",
            Self::Int64 => "integer with format int64",
            Self::Integer => "integer (default format)",
            Self::Float32 => "number with format float",
            Self::Any => "number (default format)",
        }
    }
}

/// Compares a number with a bound; integers with the integer part of the bound when the bound fits the type.
pub(super) fn compare(num: Num, bound: f64, bound_fits: bool) -> Option<Ordering> {
    match num {
        Num::Int(int) if bound_fits => Some(int.cmp(&truncate(bound))),
        num => num.float().partial_cmp(&bound),
    }
}

/// Whether a number is a multiple of a positive factor.
pub(super) fn is_multiple(num: Num, factor: f64, factor_fits: bool) -> bool {
    match num {
        Num::Int(int) if factor_fits => int.checked_rem(truncate(factor)).is_none_or(|rest| rest == 0),
        num if factor < 1.0 => is_json_integer(1.0 / factor * num.float()),
        num => is_json_integer(num.float() / factor),
    }
}

/// Equality of JSON values as Go sees decoded ones: 1 and 1.0 differ.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Num::of(a) == Num::of(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the conversions are compared with the language's"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conversions_at_the_edges() {
        for int in [
            0,
            1,
            -1,
            i64::MAX,
            i64::MIN,
            1 << 53,
            (1 << 53) + 1,
            -(1 << 53) - 1,
            (1 << 54) + 2,
            (1 << 54) + 6,
            u32::MAX.into(),
        ] {
            assert_eq!(Num::Int(int).float().to_bits(), (int as f64).to_bits(), "{int}");
        }
        let ends = [
            9_223_372_036_854_775_807.0,
            -9_223_372_036_854_775_808.0,
            9_223_372_036_854_774_784.0,
            f64::MAX,
            f64::MIN,
        ];
        let small =
            [0.0, -0.0, 0.999, -0.999, 1.0, -1.5, f64::MIN_POSITIVE, 4_503_599_627_370_495.5, 9_007_199_254_740_993.0];
        for float in ends.into_iter().chain(small).chain([f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
            assert_eq!(truncate(float), float as i64, "{float}");
        }
    }

    proptest! {
        #[test]
        fn conversions_are_those_of_the_language(int: i64, bits: u64, near in -1e19..1e19_f64) {
            prop_assert_eq!(Num::Int(int).float().to_bits(), (int as f64).to_bits());
            prop_assert_eq!(truncate(f64::from_bits(bits)), f64::from_bits(bits) as i64);
            prop_assert_eq!(truncate(near), near as i64);
        }
    }
}
