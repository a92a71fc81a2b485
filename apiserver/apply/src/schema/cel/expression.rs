//! Expressions that stand alone: those of admission policies. They see whole objects under names of their own, without a schema, so that
//! nothing is known of types and keys are as in JSON.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::IdedExpr;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{self};
use serde_json::Value;

use super::check::check_free;
use super::compile::compile_alone;
use super::{FUNCTIONS, cost, execution_error};
use crate::schema::Schema;
use crate::schema::number::Num;

/// The name under which earlier expressions' results are seen.
const VARIABLES: &str = "variables";

/// A compiled expression.
#[derive(Debug)]
pub struct Expression(IdedExpr);

/// Compiles an expression that may name these variables.
///
/// # Errors
/// Why not, in cel-go's words.
pub fn compile(source: &str, variables: &[&str]) -> Result<Expression, String> {
    let failed = |why| format!("compilation failed: {why}");
    let parsed = compile_alone(source, &|parsed| check_free(parsed, source, variables, None)).map_err(failed)?;
    Ok(Expression(parsed))
}

/// What is wrong with an expression when `object` and `oldObject` are of this schema.
///
/// # Errors
/// The first thing that is wrong, in cel-go's words.
pub fn check(source: &str, variables: &[&str], object: &Schema) -> Result<(), String> {
    compile_alone(source, &|parsed| check_free(parsed, source, variables, Some(object))).map(drop)
}

/// What an expression came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Bool(bool),
    Text(String),
    Null,
    /// Of another type.
    Other,
}

/// What expressions see.
#[derive(Debug, Default)]
pub struct Scope {
    bound: Vec<(String, cel::Value)>,
    variables: HashMap<Key, cel::Value>,
}

impl Scope {
    pub fn bind(&mut self, name: &str, value: &Value) {
        self.bound.push((name.to_owned(), plain(value)));
    }

    /// Evaluates an expression, and lets later ones see the result as `variables.NAME`. One that fails is seen by nobody.
    pub fn define(&mut self, name: &str, expression: &Expression) {
        if let Ok(value) = self.resolve(expression) {
            self.variables.insert(Key::String(Arc::new(name.to_owned())), value);
        }
    }

    fn resolve(&self, expression: &Expression) -> Result<cel::Value, String> {
        FUNCTIONS.with(|functions| {
            let mut scope = functions.new_inner_scope();
            for (name, value) in &self.bound {
                scope.add_variable_from_value(name.as_str(), value.clone());
            }
            let variables = Map { map: Arc::new(self.variables.clone()) };
            scope.add_variable_from_value(VARIABLES, cel::Value::Map(variables));
            cost::begin_object();
            cel::Value::resolve(&expression.0, &scope).map_err(|error| execution_error(&error))
        })
    }

    /// # Errors
    /// Why the expression has no value, in cel-go's words.
    pub fn evaluate(&self, expression: &Expression) -> Result<Outcome, String> {
        Ok(match self.resolve(expression)? {
            cel::Value::Bool(value) => Outcome::Bool(value),
            cel::Value::String(text) => Outcome::Text((*text).clone()),
            cel::Value::Null => Outcome::Null,
            _ => Outcome::Other,
        })
    }
}

/// JSON as it is.
fn plain(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => match Num::of(number) {
            Num::Int(int) => cel::Value::Int(int),
            other => cel::Value::Float(other.float()),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(plain).collect())),
        Value::Object(fields) => {
            let entries = fields.iter().map(|(name, value)| (Key::String(Arc::new(name.clone())), plain(value)));
            cel::Value::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 3] = ["object", "params", "variables"];

    fn evaluate(source: &str, object: &Value) -> Result<Outcome, String> {
        let expression = compile(source, &NAMES).unwrap();
        let mut scope = Scope::default();
        scope.bind("object", object);
        scope.define("name", &compile("object.metadata.name", &NAMES).unwrap());
        scope.evaluate(&expression)
    }

    #[test]
    fn expressions_see_whole_objects_with_keys_as_they_are() {
        let object =
            json!({"metadata": {"name": "a", "namespace": "n", "labels": {"x.y/z": "1"}}, "spec": {"n": 3, "f": 1.5}});
        for (source, outcome) in [
            ("object.spec.n > 2", Outcome::Bool(true)),
            ("object.metadata.labels['x.y/z'] == '1'", Outcome::Bool(true)),
            ("object.metadata.namespace", Outcome::Text("n".to_owned())),
            ("variables.name + '!'", Outcome::Text("a!".to_owned())),
            ("has(object.spec.nothing)", Outcome::Bool(false)),
            ("object.spec.f < 2.0", Outcome::Bool(true)),
            ("null", Outcome::Null),
            ("[1]", Outcome::Other),
        ] {
            assert_eq!(evaluate(source, &object), Ok(outcome), "{source}");
        }
        assert_eq!(evaluate("object.spec.nothing == 1", &object), Err("no such key: nothing".to_owned()));
    }

    #[test]
    fn unknown_names_and_bad_syntax_are_refused() {
        assert!(compile("object ==", &NAMES).unwrap_err().starts_with("compilation failed: ERROR: "));
        assert!(compile("nobody == 1", &NAMES).unwrap_err().contains("undeclared reference to 'nobody'"));
    }

    #[test]
    fn types_are_checked_against_a_schema() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
        let schema = Schema::parse(&schema).unwrap();
        let check = |source| check(source, &NAMES, &schema);
        assert_eq!(check("object.spec.n > 1 && object.metadata.labels['a'] == 'b' && params.x == 1"), Ok(()));
        assert!(
            check("object.spec.n > '1'")
                .unwrap_err()
                .contains("no matching overload for '_>_' applied to '(int, string)'")
        );
        assert!(check("object.spec.m < 1").unwrap_err().contains("undefined field 'm'"));
    }
}
