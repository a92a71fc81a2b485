//! `x-kubernetes-validations`: rules in CEL, compiled once per schema and run on the values they stand at.
//!
//! Evaluation is the `cel` crate's, with the Kubernetes functions of `kube-cel`. The walk is our own, because Kubernetes
//! correlates old values by map keys of lists, forgives unchanged values (KEP-4008), and converts a value only where a rule looks:
//! a rule reads a few fields, and only those become CEL values ([`access`]).

mod access;
mod check;
mod compile;
mod cost;
mod escape;
mod estimate;
pub mod expression;
mod field_path;
mod functions;
mod macros;
mod value;

use std::collections::BTreeMap;

use kube_cel::cel::objects::OptionalValue;
use kube_cel::cel::{self, Context, ExecutionError};
use serde_json::Value;

use self::access::Access;
use self::compile::{Compiled, compile};
pub use self::compile::{Report, check};
pub use self::escape::is_keyword;
pub use self::estimate::cardinality;
use super::ratchet::Correlated;
use super::{Additional, Rule, Schema, Type};
use crate::error::{FieldError, FieldErrorKind, Path};

pub use field_path::{ArrayNotation, parse as parse_field_path, parse_with as parse_field_path_with};

/// The longest message that a `messageExpression` may give.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// The compiled rules of a schema, in the shape of the schema.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<Compiled>,
    /// What the own rules read of the value.
    access: Access,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

/// Whether a schema node is a resource: its rules then see apiVersion, kind and the names in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Resource,
    Part,
}

impl Place {
    fn of(schema: &Schema) -> Self {
        if schema.embedded_resource { Self::Resource } else { Self::Part }
    }
}

impl Rules {
    /// Compiles every rule below a schema. A rule that doesn't compile is kept, and says so of every object.
    #[must_use]
    pub fn new(schema: &Schema, place: Place) -> Self {
        let own: Vec<Compiled> = schema.rules.iter().map(|rule| compile(rule, schema, place)).collect();
        let mut access = Access::default();
        own.iter().for_each(|rule| rule.collect_access(&mut access));
        let below = |schema: &Schema| schema.has_rules.then(|| Self::new(schema, Place::of(schema)));
        Self {
            own,
            access,
            properties: schema.properties.iter().filter_map(|(k, s)| Some((k.clone(), below(s)?))).collect(),
            additional: match &schema.additional {
                Some(Additional::Of(of)) => below(of).map(Box::new),
                _ => None,
            },
            items: schema.items.as_deref().and_then(below).map(Box::new),
        }
    }

    /// Runs the rules on a value below `base`. `old` is the value before an update.
    #[must_use]
    pub fn validate(
        &self,
        base: &Path<'_>,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        place: Place,
    ) -> Vec<FieldError> {
        let mut errors = Vec::new();
        FUNCTIONS.with(|functions| {
            let ratchet = old.map_or(Ratchet::default(), |old| Ratchet {
                here: Some(Correlated { new: value, old, schema }),
                parent: None,
            });
            let run = Run { functions, errors: &mut errors };
            cost::begin_object();
            Walk { run }.node(self, schema, &At { value, old, ratchet, place }, base);
        });
        errors
    }
}

thread_local! {
    /// All functions. A context isn't shared between threads, and filling it isn't free.
    static FUNCTIONS: Context<'static> = functions::context();
}

/// What an error is forgiven by: the correlated value here or, if there is none, the nearest above.
#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    here: Option<Correlated<'a>>,
    parent: Option<Correlated<'a>>,
}

impl<'a> Ratchet<'a> {
    fn key(self, key: &str) -> Self {
        match self.here {
            None => self,
            Some(_) if self.parent.is_none() && matches!(key, "apiVersion" | "kind") => Self::default(),
            Some(here) => Self { here: here.key(key), parent: Some(here) },
        }
    }

    fn index(self, index: usize) -> Self {
        match self.here {
            None => self,
            Some(here) => Self { here: here.index(index), parent: Some(here) },
        }
    }

    fn forgives(self) -> bool {
        self.here.or(self.parent).is_some_and(Correlated::unchanged)
    }
}

/// A value, and what is known of it.
#[derive(Clone, Copy)]
struct At<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    ratchet: Ratchet<'a>,
    place: Place,
}

struct Run<'f, 'e> {
    functions: &'f Context<'static>,
    errors: &'e mut Vec<FieldError>,
}

struct Walk<'f, 'e> {
    run: Run<'f, 'e>,
}

impl Walk<'_, '_> {
    fn node(&mut self, rules: &Rules, schema: &Schema, at: &At<'_>, path: &Path<'_>) {
        if at.value.is_null() {
            return;
        }
        if !rules.own.is_empty() {
            self.run.rules(rules, schema, at, path);
        }
        match at.value {
            Value::Array(items) => {
                if let (Some(rules), Some(schema)) = (&rules.items, schema.items.as_deref()) {
                    for (i, item) in items.iter().enumerate() {
                        let old = correlated_item(at, i);
                        let ratchet = at.ratchet.index(i);
                        let below = At { value: item, old, ratchet, place: Place::of(schema) };
                        self.node(rules, schema, &below, &path.index(i));
                    }
                }
            }
            Value::Object(map) => {
                let old = at.old.and_then(Value::as_object);
                let below = |key: &str, value, schema| At {
                    value,
                    old: old.and_then(|old| old.get(key)).filter(|old| !old.is_null()),
                    ratchet: at.ratchet.key(key),
                    place: Place::of(schema),
                };
                if let (Some(rules), Some(Additional::Of(schema))) = (&rules.additional, &schema.additional) {
                    for (key, value) in map {
                        self.node(rules, schema, &below(key, value, schema), &path.key(key));
                    }
                }
                for (key, rules) in &rules.properties {
                    if let (Some(value), Some(schema)) = (map.get(key), schema.properties.get(key)) {
                        self.node(rules, schema, &below(key, value, schema), &path.child(key));
                    }
                }
            }
            _ => {}
        }
    }
}

/// The old element with the same keys, in lists of type map.
fn correlated_item<'a>(at: &At<'a>, index: usize) -> Option<&'a Value> {
    at.ratchet.here.filter(|here| std::ptr::eq(here.new, at.value)).and_then(|here| here.index(index)).map(|c| c.old)
}

impl Run<'_, '_> {
    fn rules(&mut self, rules: &Rules, schema: &Schema, at: &At<'_>, path: &Path<'_>) {
        let convert = |value: &Value| value::convert(value, Some(schema), at.place, &rules.access);
        let mut scope = self.functions.new_inner_scope();
        scope.add_variable_from_value("self", convert(at.value));
        let uses_old = rules.own.iter().any(|rule| rule.uses_old_self);
        let old = at.old.filter(|_| uses_old).map(convert);
        let optional = OptionalValueOf(old.clone()).into_value();
        if let Some(old) = old {
            scope.add_variable_from_value("oldSelf", old);
        }
        for (compiled, rule) in rules.own.iter().zip(&schema.rules) {
            let optional_rule = rule.optional_old_self.unwrap_or(false);
            if compiled.uses_old_self && at.old.is_none() && !optional_rule {
                continue;
            }
            if optional_rule && compiled.uses_old_self {
                let mut inner = scope.new_inner_scope();
                inner.add_variable_from_value("oldSelf", optional.clone());
                self.rule(compiled, rule, &inner, schema, at, path);
            } else {
                self.rule(compiled, rule, &scope, schema, at, path);
            }
        }
    }

    fn rule(
        &mut self,
        compiled: &Compiled,
        rule: &Rule,
        scope: &Context<'_>,
        schema: &Schema,
        at: &At<'_>,
        path: &Path<'_>,
    ) {
        let type_name = schema.kind.map_or("", Type::name);
        let program = match &compiled.program {
            Ok(Some(program)) => program,
            Ok(None) => return,
            Err(error) => {
                self.errors.push(FieldError::invalid(path, type_name, format!("rule compile error: {error}")));
                return;
            }
        };
        cost::begin_call();
        match cel::Value::resolve(program, scope) {
            Ok(cel::Value::Bool(true)) => {}
            // Anything else that isn't an error counts as false, as the type checker of Kubernetes leaves only bool.
            Ok(_) => {
                if compiled.uses_old_self || !at.ratchet.forgives() {
                    let error = refusal(compiled, rule, scope, schema, at.value, path);
                    self.errors.push(error);
                }
            }
            Err(error) => {
                let said = shown_rule(rule);
                let text = execution_error(&error);
                let detail = match error {
                    _ if cost::is_exceeded(&error) => format!(
                        "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {said}"
                    ),
                    ExecutionError::NoSuchOverload => format!(
                        "'{text}': call arguments did not match a supported operator, function or macro signature for \
                         rule: {said}"
                    ),
                    _ => format!("{text} evaluating rule: {said}"),
                };
                self.errors.push(FieldError::invalid(path, type_name, detail));
            }
        }
    }
}

/// `oldSelf` of a rule with `optionalOldSelf`.
struct OptionalValueOf(Option<cel::Value>);

impl OptionalValueOf {
    fn into_value(self) -> cel::Value {
        let optional = self.0.map_or_else(OptionalValue::none, OptionalValue::of);
        cel::Value::Opaque(std::sync::Arc::new(optional))
    }
}

/// The error of a rule that is false.
fn refusal(
    compiled: &Compiled,
    rule: &Rule,
    scope: &Context<'_>,
    schema: &Schema,
    value: &Value,
    path: &Path<'_>,
) -> FieldError {
    let detail = message(compiled, rule, scope);
    let place = match &compiled.field_path {
        Some(below) => path.child(below).to_string(),
        None => path.to_string(),
    };
    let kind = rule.reason.as_deref().and_then(FieldErrorKind::from_reason).unwrap_or(FieldErrorKind::Invalid);
    match kind {
        FieldErrorKind::Required | FieldErrorKind::Forbidden => FieldError::new(kind, place, None, detail),
        kind => {
            // Objects and lists are left out of the message since 1.34: they are long, and may hold secrets.
            let shown = match schema.kind {
                Some(Type::Object | Type::Array) => None,
                _ => Some(value.clone()),
            };
            let detail = if kind == FieldErrorKind::Duplicate { String::new() } else { detail };
            FieldError::new(kind, place, shown, detail)
        }
    }
}

fn message(compiled: &Compiled, rule: &Rule, scope: &Context<'_>) -> String {
    cost::begin_call();
    if let Some(program) = &compiled.message
        && let Ok(cel::Value::String(text)) = cel::Value::resolve(program, scope)
    {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n') {
            return text.to_owned();
        }
    }
    if rule.message.is_empty() { format!("failed rule: {}", shown_rule(rule)) } else { rule.message.trim().to_owned() }
}

fn shown_rule(rule: &Rule) -> &str {
    if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() }
}

/// The text that cel-go has for an error.
fn execution_error(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload => "no such overload".to_owned(),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(cel::Value::Int(index)) => format!("index out of bounds: {index}"),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}
