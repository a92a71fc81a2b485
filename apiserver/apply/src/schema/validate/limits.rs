//! Bounds of one value: lengths, counts, patterns, minimum and maximum.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{At, Check, Outcome, Problem};
use crate::error::{FieldError, print};
use crate::schema::number::{Num, Range, as_float, compare, is_multiple, same, truncate};
use crate::schema::{Exclusive, Schema, Type, Validation};

impl Check<'_> {
    /// The first violated of length and pattern. Lengths count characters, though the message of Kubernetes says bytes.
    pub(super) fn check_text(&self, rules: &Validation, text: &str, at: &At<'_>) -> Option<Problem> {
        if rules.max_length.is_some() || rules.min_length.is_some() {
            let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
            if let Some(max) = rules.max_length.filter(|max| length > *max) {
                let name = at.text();
                let error = FieldError::too_long(self.field_path(&name), max);
                return Some(Problem { text: format!("{name} in body should be at most {max} chars long"), error });
            }
            if let Some(min) = rules.min_length.filter(|min| length < *min) {
                return Some(self.invalid(at, Value::from(text), |name| {
                    format!("{name} in body should be at least {min} chars long")
                }));
            }
        }
        let pattern = rules.pattern.as_ref()?;
        let because = match pattern.matches(text) {
            Ok(true) => return None,
            Ok(false) => String::new(),
            Err(error) => format!(", but pattern is invalid: {error}"),
        };
        Some(self.invalid(at, Value::from(text), |name| {
            format!("{name} in body should match '{}{because}'", pattern.as_str())
        }))
    }

    pub(super) fn check_number(
        &self,
        schema: &Schema,
        rules: Option<&Validation>,
        form: Option<&str>,
        num: Num,
        at: &At<'_>,
        outcome: &mut Outcome,
    ) {
        let range = range(schema, form);
        if !range.holds(num) {
            outcome.add(self.out_of_range("Checked", range, at));
        }
        let Some(rules) = rules else { return };
        if let Some(factor) = rules.multiple_of.as_ref().map(as_float) {
            let fits = range.holds(whole(factor));
            if !fits {
                outcome.add(self.out_of_range("MultipleOf", range, at));
            }
            if factor <= 0.0 || (fits && matches!(num, Num::Int(_)) && truncate(factor) <= 0) {
                outcome.add(self.unfit_factor(num, factor, fits, at));
            } else if !is_multiple(num, factor, fits) {
                let factor = factor_text(num, factor, fits);
                outcome.add(
                    self.invalid(at, number(num), |name| format!("{name} in body should be a multiple of {factor}")),
                );
            }
        }
        // The order of the results, not of the checks, in Kubernetes: multiple, minimum, maximum.
        let bounds = [
            (&rules.minimum, "Minimum boundary", Ordering::Less, "greater"),
            (&rules.maximum, "Maximum boundary", Ordering::Greater, "less"),
        ];
        for (bound, called, beyond, than) in bounds {
            let Some((bound, exclusive)) = bound else { continue };
            let bound = as_float(bound);
            let fits = range.holds(whole(bound));
            if !fits {
                outcome.add(self.out_of_range(called, range, at));
            }
            let ordering = compare(num, bound, fits);
            let violated =
                ordering == Some(beyond) || (*exclusive == Exclusive::Yes && ordering == Some(Ordering::Equal));
            if violated {
                let or_equal = if *exclusive == Exclusive::Yes { "" } else { " or equal to" };
                let bound = factor_text(num, bound, fits);
                let given = if fits { number(num) } else { Value::from(num.float()) };
                outcome.add(self.invalid(at, given, |name| match or_equal {
                    "" => format!("{name} in body should be {than} than {bound}"),
                    _ => format!("{name} in body should be {than} than{or_equal} {bound}"),
                }));
            }
        }
    }

    fn out_of_range(&self, what: &str, range: Range, at: &At<'_>) -> Problem {
        self.unplaced(format!("{what} value must be of type {} in {}", range.words(), at.text()))
    }

    fn unfit_factor(&self, num: Num, factor: f64, fits: bool, at: &At<'_>) -> Problem {
        let text = factor_text(num, factor, fits);
        let given = match num {
            Num::Int(_) if fits => Value::from(truncate(factor)),
            _ => Value::from(factor),
        };
        self.invalid(at, given, |name| format!("factor MultipleOf declared for {name} must be positive: {text}"))
    }

    pub(super) fn check_item_limits(&self, rules: &Validation, items: &[Value], at: &At<'_>, outcome: &mut Outcome) {
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if let Some(min) = rules.min_items.filter(|min| count < *min) {
            outcome.add(
                self.invalid(at, Value::from(count), |name| format!("{name} in body should have at least {min} items")),
            );
        }
        if let Some(max) = rules.max_items.filter(|max| count > *max) {
            let name = at.text();
            let error = FieldError::too_many(self.field_path(&name), count, max);
            outcome.add(Problem { text: format!("{name} in body should have at most {max} items"), error });
        }
        if rules.unique_items {
            let repeats = items.iter().enumerate().any(|(i, item)| items[..i].iter().any(|before| same(before, item)));
            if repeats {
                outcome.add(
                    self.invalid(at, Value::from(""), |name| format!("{name} in body shouldn't contain duplicates")),
                );
            }
        }
    }

    pub(super) fn check_property_limits(
        &self,
        rules: &Validation,
        map: &Map<String, Value>,
        at: &At<'_>,
        outcome: &mut Outcome,
    ) {
        let count = u64::try_from(map.len()).unwrap_or(u64::MAX);
        if let Some(min) = rules.min_properties.filter(|min| count < *min) {
            outcome.add(self.invalid(at, Value::from(count), |name| {
                format!("{name} in body should have at least {min} properties")
            }));
        }
        if let Some(max) = rules.max_properties.filter(|max| count > *max) {
            let name = at.text();
            let error = FieldError::too_many(self.field_path(&name), count, max);
            outcome.add(Problem { text: format!("{name} in body should have at most {max} properties"), error });
        }
    }
}

/// The range that a type and format stand for. Only one type, not int-or-string, has one.
fn range(schema: &Schema, form: Option<&str>) -> Range {
    match (schema.int_or_string, schema.kind, form) {
        (false, Some(Type::Integer), Some("int32")) => Range::Int32,
        (false, Some(Type::Integer), Some("int64")) => Range::Int64,
        (false, Some(Type::Integer), _) => Range::Integer,
        (false, Some(Type::Number), Some("float")) => Range::Float32,
        _ => Range::Any,
    }
}

/// A bound is a float whatever it looks like.
fn whole(bound: f64) -> Num {
    Num::Float(bound)
}

/// A bound as a message shows it: as an integer where it was compared as one.
fn factor_text(num: Num, bound: f64, fits: bool) -> String {
    match num {
        Num::Int(_) if fits => truncate(bound).to_string(),
        _ => print::general(bound),
    }
}

fn number(num: Num) -> Value {
    match num {
        Num::Int(int) => Value::from(int),
        Num::Float(float) => Value::from(float),
    }
}
