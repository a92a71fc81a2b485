//! Does a value fit its schema? The checks, their order and their texts are those of kube-openapi's validator, which Kubernetes
//! uses for custom resources: a JSON-Schema walker that says `spec.replicas in body must be of type integer: "string"`.
//!
//! Where several branches of anyOf or oneOf fail, the errors shown are those of the branch with the most checks passed, so every
//! check counts ([`Outcome::matches`]). Where Kubernetes walks a Go map, and so has no order, properties are walked by name.

mod limits;

use serde_json::{Map, Value};

use super::number::{Num, is_json_integer, same, truncate};
use super::ratchet::Correlated;
use super::{Additional, Schema, Type, Validation, format};
use crate::error::{FieldError, FieldErrorKind, Path, print};

/// Validates a value. `base` is put before every path: the root for a whole object, `status` for a status.
#[must_use]
pub fn validate(base: &Path<'_>, value: &Value, schema: &Schema) -> Vec<FieldError> {
    let outcome = Check { base }.node(schema, value, &At::Root, None);
    outcome.problems.into_iter().map(|problem| problem.error).collect()
}

/// Validates an update. What an unchanged value violates isn't reported (KEP-4008).
#[must_use]
pub fn validate_update(base: &Path<'_>, value: &Value, old: &Value, schema: &Schema) -> Vec<FieldError> {
    let correlated = Correlated { new: value, old, schema };
    let outcome = Check { base }.ratcheted(schema, value, &At::Root, correlated);
    outcome.problems.into_iter().map(|problem| problem.error).collect()
}

/// The path of a value as kube-openapi writes it. Unlike a field path it shows keys of a map as `.key`, also at the root.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Property(&'a At<'a>, &'a str),
    /// A key of a map, or a missing field: with a dot also below the root.
    Extra(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl At<'_> {
    fn text(&self) -> String {
        match self {
            At::Root => String::new(),
            At::Property(parent, name) => {
                let parent = parent.text();
                if parent.is_empty() { (*name).to_owned() } else { format!("{parent}.{name}") }
            }
            At::Extra(parent, name) => format!("{}.{name}", parent.text()),
            At::Index(parent, index) => format!("{}[{index}]", parent.text()),
        }
    }
}

/// An error and the message by which the same one is recognised.
struct Problem {
    text: String,
    error: FieldError,
}

/// What came of checking one value.
#[derive(Default)]
struct Outcome {
    problems: Vec<Problem>,
    /// How many checks were made and passed.
    matches: u32,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.matches = self.matches.saturating_add(other.matches);
        for problem in other.problems {
            self.add(problem);
        }
    }

    fn add(&mut self, problem: Problem) {
        if !self.problems.iter().any(|known| known.text == problem.text) {
            self.problems.push(problem);
        }
    }

    fn pass(&mut self) {
        self.matches = self.matches.saturating_add(1);
    }

    fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }
}

struct Check<'a> {
    base: &'a Path<'a>,
}

impl Check<'_> {
    /// A problem of one field. The detail shown is the message.
    fn invalid(&self, at: &At<'_>, value: Value, message: impl FnOnce(&str) -> String) -> Problem {
        self.problem(at, FieldErrorKind::Invalid, value, message)
    }

    fn problem(
        &self,
        at: &At<'_>,
        kind: FieldErrorKind,
        value: Value,
        message: impl FnOnce(&str) -> String,
    ) -> Problem {
        let name = at.text();
        let text = message(&name);
        Problem { error: FieldError::new(kind, self.field_path(&name), Some(value), text.clone()), text }
    }

    /// A problem whose message isn't of one field in kube-openapi, so Kubernetes reports it at the base.
    fn unplaced(&self, text: String) -> Problem {
        let error = FieldError::invalid(self.base, "", text.clone());
        Problem { text, error }
    }

    fn field_path(&self, name: &str) -> String {
        let name = name.strip_prefix('.').unwrap_or(name);
        if name.is_empty() { self.base.to_string() } else { self.base.child(name).to_string() }
    }

    /// `must be of type`: the value shown is what was given, by type or, for formats, itself.
    fn wrong_type(&self, at: &At<'_>, expected: &str, given: &str) -> Problem {
        self.problem(at, FieldErrorKind::TypeInvalid, Value::from(given), |name| {
            format!("{name} in body must be of type {expected}: {}", print::quote(given))
        })
    }

    /// Checks a value, and forgives it everything when it is what it was.
    fn ratcheted(&self, schema: &Schema, value: &Value, at: &At<'_>, old: Correlated<'_>) -> Outcome {
        let mut outcome = self.node(schema, value, at, Some(old));
        if !outcome.is_valid() && old.unchanged() {
            outcome.problems.clear();
        }
        outcome
    }

    fn field(&self, schema: &Schema, value: &Value, at: &At<'_>, key: &str, old: Option<Correlated<'_>>) -> Outcome {
        // apiVersion and kind always change together with the stored form, so they aren't forgiven.
        let type_field = matches!(at, At::Property(At::Root, "kind" | "apiVersion"));
        match old.and_then(|o| o.key(key)) {
            Some(child) if !type_field => self.ratcheted(schema, value, at, child),
            _ => self.node(schema, value, at, None),
        }
    }

    fn node(&self, schema: &Schema, value: &Value, at: &At<'_>, old: Option<Correlated<'_>>) -> Outcome {
        let mut outcome = Outcome::default();
        let rules = schema.validation.as_deref();
        let form = effective_format(schema, rules);
        if value.is_null() {
            match self.check_null(schema, at) {
                Some(problem) => outcome.add(problem),
                None => outcome.pass(),
            }
            if let Some(problem) = rules.and_then(|r| self.check_enum(r, value, at)) {
                outcome.add(problem);
            }
            return outcome;
        }
        if has_type(schema) || form.is_some() {
            match self.check_type(schema, form, value, at) {
                Some(problem) => outcome.add(problem),
                None => outcome.pass(),
            }
            outcome.pass();
        }
        // Junctors always apply: one for them, one for having applied.
        if let Some(rules) = rules {
            self.check_junctors(rules, value, at, &mut outcome);
        }
        outcome.pass();
        outcome.pass();
        self.check_value(schema, rules, form, value, at, old, &mut outcome);
        outcome.pass();
        outcome
    }

    /// The checks that depend on what the value is, the enumeration among them.
    #[expect(
        clippy::too_many_arguments,
        reason = "one step of a walk: what is checked, against what, where, for what result"
    )]
    fn check_value(
        &self,
        schema: &Schema,
        rules: Option<&Validation>,
        form: Option<&str>,
        value: &Value,
        at: &At<'_>,
        old: Option<Correlated<'_>>,
        outcome: &mut Outcome,
    ) {
        match value {
            Value::String(text) => {
                if let Some(problem) = rules.and_then(|r| self.check_text(r, text, at)) {
                    outcome.add(problem);
                }
                outcome.pass();
                if let Some(form) = form.filter(|f| format::is_known(f)) {
                    if !format::matches(form, text) {
                        outcome.add(self.wrong_type(at, form, text));
                    }
                    outcome.pass();
                }
            }
            Value::Number(number) => {
                self.check_number(schema, rules, form, Num::of(number), at, outcome);
                outcome.pass();
                outcome.pass();
            }
            Value::Array(items) => {
                self.check_items(schema, rules, items, at, old, outcome);
                outcome.pass();
                outcome.pass();
            }
            _ => {}
        }
        if let Some(problem) = rules.and_then(|r| self.check_enum(r, value, at)) {
            outcome.add(problem);
        }
        outcome.pass();
        if let Value::Object(map) = value {
            self.check_object(schema, rules, map, at, old, outcome);
            outcome.pass();
        }
    }

    fn check_null(&self, schema: &Schema, at: &At<'_>) -> Option<Problem> {
        (has_type(schema) && !schema.nullable).then(|| self.wrong_type(at, type_names(schema), "null"))
    }

    fn check_type(&self, schema: &Schema, form: Option<&str>, value: &Value, at: &At<'_>) -> Option<Problem> {
        let (given, given_form) = type_and_format(value);
        let float = match value {
            Value::Number(n) if !n.is_i64() => Some(Num::of(n).float()),
            _ => None,
        };
        let numeric = accepts(schema, Type::Number) || accepts(schema, Type::Integer);
        let float_as_int = float.is_some_and(is_json_integer) && accepts(schema, Type::Integer);
        let int_as_float = given == "integer" && accepts(schema, Type::Number);
        let fits = Type::from_name(given).is_some_and(|t| accepts(schema, t)) || float_as_int || int_as_float;
        let texty = matches!(value, Value::String(_) | Value::Array(_));
        if let Some(form) = form {
            if !texty && !fits && given_form != form {
                return Some(self.wrong_type(at, form, given_form));
            }
            if texty && !numeric {
                return None;
            }
        }
        (!fits).then(|| self.wrong_type(at, type_names(schema), given))
    }

    fn check_enum(&self, rules: &Validation, value: &Value, at: &At<'_>) -> Option<Problem> {
        let allowed = &rules.enumeration;
        if allowed.is_empty() || allowed.iter().any(|one| same_after_conversion(value, one)) {
            return None;
        }
        let texts: Vec<String> = allowed
            .iter()
            .map(|one| match one {
                Value::String(text) => text.clone(),
                other => print::json(other),
            })
            .collect();
        let name = at.text();
        let error = FieldError::not_supported(self.field_path(&name), value.clone(), &texts);
        Some(Problem { text: format!("{name} in body should be one of {texts:?}"), error })
    }

    /// Branches know nothing of old values in Kubernetes, so what they refuse isn't forgiven below the node that has them.
    fn check_junctors(&self, rules: &Validation, value: &Value, at: &At<'_>, outcome: &mut Outcome) {
        if !rules.any_of.is_empty() {
            let (_, best) = self.branches(&rules.any_of, value, at, Until::FirstValid);
            if best.as_ref().is_none_or(|b| !b.is_valid()) {
                let name = print::quote(&at.text());
                outcome.add(self.unplaced(format!("{name} must validate at least one schema (anyOf)")));
            }
            best.into_iter().for_each(|best| outcome.merge(best));
        }
        if !rules.one_of.is_empty() {
            let (valid, best) = self.branches(&rules.one_of, value, at, Until::All);
            if valid != 1 {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                let name = print::quote(&at.text());
                outcome.add(self.unplaced(format!("{name} must validate one and only one schema (oneOf). {found}")));
            }
            // Of several valid ones none is merged.
            best.into_iter().filter(|_| valid < 2).for_each(|best| outcome.merge(best));
        }
        if !rules.all_of.is_empty() {
            let mut valid = 0;
            for branch in &rules.all_of {
                let branch = self.node(branch, value, at, None);
                valid += usize::from(branch.is_valid());
                outcome.merge(branch);
            }
            if valid != rules.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                let name = print::quote(&at.text());
                outcome.add(self.unplaced(format!("{name} must validate all the schemas (allOf){none}")));
            }
        }
        if let Some(not) = &rules.not
            && self.node(not, value, at, None).is_valid()
        {
            let name = print::quote(&at.text());
            outcome.add(self.unplaced(format!("{name} must not validate the schema (not)")));
        }
    }

    /// How many branches hold, and the first that does or else the one that came closest.
    fn branches(&self, branches: &[Schema], value: &Value, at: &At<'_>, until: Until) -> (usize, Option<Outcome>) {
        let mut valid = 0;
        let mut best: Option<Outcome> = None;
        for branch in branches {
            let outcome = self.node(branch, value, at, None);
            let better = match &best {
                None => true,
                Some(known) if outcome.is_valid() => !known.is_valid(),
                Some(known) => valid == 0 && outcome.matches > known.matches,
            };
            valid += usize::from(outcome.is_valid());
            if better {
                best = Some(outcome);
            }
            if valid > 0 && until == Until::FirstValid {
                break;
            }
        }
        (valid, best)
    }

    fn check_items(
        &self,
        schema: &Schema,
        rules: Option<&Validation>,
        items: &[Value],
        at: &At<'_>,
        old: Option<Correlated<'_>>,
        outcome: &mut Outcome,
    ) {
        if let Some(below) = schema.items.as_deref() {
            for (i, item) in items.iter().enumerate() {
                let place = At::Index(at, i);
                outcome.merge(match old.and_then(|o| o.index(i)) {
                    Some(child) => self.ratcheted(below, item, &place, child),
                    None => self.node(below, item, &place, None),
                });
            }
        }
        if let Some(rules) = rules {
            self.check_item_limits(rules, items, at, outcome);
        }
    }

    fn check_object(
        &self,
        schema: &Schema,
        rules: Option<&Validation>,
        map: &Map<String, Value>,
        at: &At<'_>,
        old: Option<Correlated<'_>>,
        outcome: &mut Outcome,
    ) {
        if let Some(rules) = rules {
            self.check_property_limits(rules, map, at, outcome);
        }
        for (key, value) in map {
            if schema.properties.contains_key(key) {
                continue;
            }
            match &schema.additional {
                Some(Additional::Allowed(false)) => {
                    outcome.add(self.invalid(at, Value::from(key.as_str()), |name| {
                        format!("{name}.{key} in body is a forbidden property")
                    }));
                }
                Some(Additional::Of(of)) => outcome.merge(self.field(of, value, &At::Extra(at, key), key, old)),
                Some(Additional::Allowed(true)) | None => {}
            }
        }
        for (key, property) in &schema.properties {
            if let Some(value) = map.get(key) {
                outcome.merge(self.field(property, value, &At::Property(at, key), key, old));
            }
        }
        for key in rules.into_iter().flat_map(|r| &r.required) {
            if !map.contains_key(key) {
                let name = At::Extra(at, key).text();
                let error = FieldError::required(self.field_path(&name), "");
                outcome.add(Problem { text: format!("{name} in body is required"), error });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    FirstValid,
    All,
}

fn has_type(schema: &Schema) -> bool {
    schema.int_or_string || schema.kind.is_some()
}

fn accepts(schema: &Schema, given: Type) -> bool {
    if schema.int_or_string {
        return matches!(given, Type::Integer | Type::String);
    }
    schema.kind == Some(given)
}

fn type_names(schema: &Schema) -> &'static str {
    if schema.int_or_string { "integer,string" } else { schema.kind.map_or("", Type::name) }
}

/// The type of a value and the format that its Go type has.
fn type_and_format(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Number(n) if n.is_i64() => ("integer", "int64"),
        Value::Number(_) => ("number", "float64"),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

/// The format, unless Kubernetes doesn't know it for this type: it then means nothing.
fn effective_format<'s>(schema: &Schema, rules: Option<&'s Validation>) -> Option<&'s str> {
    let form = rules?.format.as_deref()?;
    let kind = if schema.int_or_string { None } else { schema.kind };
    let known = match kind {
        None | Some(Type::String) => format::is_known(form),
        Some(Type::Integer) => matches!(form, "int32" | "int64"),
        Some(Type::Number) => matches!(form, "float" | "double"),
        Some(_) => false,
    };
    known.then_some(form)
}

/// Equality with a value of an enumeration: a number is first converted to the kind of number that the enumeration has.
fn same_after_conversion(value: &Value, allowed: &Value) -> bool {
    match (Num::of_value(value), Num::of_value(allowed)) {
        (Some(given), Some(Num::Float(allowed))) => given.float() == allowed,
        (Some(Num::Float(given)), Some(Num::Int(allowed))) => truncate(given) == allowed,
        _ => same(value, allowed),
    }
}
