//! Scenario conditions: what a condition over vehicle signals amounts to, given the values that are known.
//!
//! A condition is one comparison or a list that must hold in all its items. Signals come and go, so a third truth value is
//! needed: [`Truth::Unknown`], with Kleene's strong logic for the conjunction (False beats Unknown, Unknown beats True).
//!
//! How two texts compare, in this order:
//!
//! 1. **Numbers**, if both are plain decimals: an optional sign, digits, optionally a point and digits. They compare exactly, at any
//!    length, without floating point: `0.1` equals `0.10`, and `9007199254740993` is greater than `9007199254740992`. Exponents (`1e3`),
//!    hexadecimal (`0x10`), `NaN`, `inf`, digit separators, a bare `.5` and surrounding blanks are *not* numbers.
//! 2. **Booleans**, if both are `true` or `false` in any case. They have no order: only `eq` and `ne` decide.
//! 3. **Text** otherwise, byte for byte. It has no order: only `eq` and `ne` decide, the rest is Unknown and says why.
//!
//! Nothing here keeps state, reads a clock or allocates for a comparison.

mod decimal;
mod eval;

pub use decimal::Decimal;
pub use eval::{Evaluation, Field, Undecided, Values, Why, evaluate, fields, invalid_terms};
pub use pullpiri_crds::scenario::Truth;

/// Kleene's conjunction.
#[must_use]
pub const fn and(a: Truth, b: Truth) -> Truth {
    match (a, b) {
        (Truth::False, _) | (_, Truth::False) => Truth::False,
        (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
        (Truth::True, Truth::True) => Truth::True,
    }
}
