//! Expressions that stand alone: those of admission policies. They see whole objects under names of their own, without a schema, so that
//! nothing is known of types and keys are as in JSON.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::IdedExpr;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{self};
use serde_json::Value;

use super::check::{Ty, check_free};
use super::compile::compile_alone;
use super::{FUNCTIONS, Place, cost, execution_error};
use crate::schema::Schema;
use crate::schema::number::Num;

/// The name under which earlier expressions' results are seen.
const VARIABLES: &str = "variables";

/// A compiled expression.
#[derive(Debug)]
pub struct Expression(IdedExpr);

/// What an expression must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Bool,
    Text,
    TextOrNull,
    Anything,
}

/// What an expression may name, with the types as far as they are known.
#[derive(Clone, Debug)]
pub struct Names<'s> {
    known: Vec<(String, Ty<'s>)>,
    /// Results of earlier expressions, where there may be some.
    variables: Option<Vec<(String, Option<Ty<'s>>)>>,
}

impl<'s> Names<'s> {
    /// Names of which nothing is known.
    #[must_use]
    pub fn untyped(names: &[&str]) -> Self {
        Self { known: names.iter().map(|name| ((*name).to_owned(), Ty::Dyn)).collect(), variables: None }
    }

    /// Whole objects of a schema.
    #[must_use]
    pub fn with_object(mut self, name: &str, schema: &'s Schema) -> Self {
        self.known.push((name.to_owned(), Ty::Whole(schema)));
        self
    }

    /// A value of a schema, which is no object of its own.
    #[must_use]
    pub fn with_part(mut self, name: &str, schema: &'s Schema) -> Self {
        self.known.push((name.to_owned(), Ty::of(schema, Place::Part).unwrap_or(Ty::Dyn)));
        self
    }

    /// `variables`, of which there are none yet.
    #[must_use]
    pub fn with_variables(mut self) -> Self {
        self.variables = Some(Vec::new());
        self
    }

    /// Lets later expressions name the result of this one as `variables.NAME`, also when it is no good: then its type is unknown.
    ///
    /// # Errors
    /// Why it doesn't compile, in cel-go's words.
    pub fn define(&mut self, name: &str, source: &str) -> Result<(), String> {
        let checked = compile_alone(source, |parsed| check_free(parsed, source, self.scope()));
        let ty = checked.as_ref().ok().and_then(|(_, ty)| ty.clone());
        self.variables.get_or_insert_default().push((name.to_owned(), ty));
        checked.map(drop).map_err(failed)
    }

    fn scope(&self) -> Vec<(String, Ty<'s>)> {
        let variables = self.variables.iter().map(|known| (VARIABLES.to_owned(), Ty::Named(known.clone())));
        self.known.iter().cloned().chain(variables).collect()
    }
}

fn failed(why: String) -> String {
    format!("compilation failed: {why}")
}

/// Compiles an expression.
///
/// # Errors
/// Why not, in the words of cel-go and Kubernetes.
pub fn compile(source: &str, names: &Names<'_>, wanted: Wanted) -> Result<Expression, String> {
    let (parsed, ty) = compile_alone(source, |parsed| check_free(parsed, source, names.scope())).map_err(failed)?;
    let fits = match (wanted, &ty) {
        (Wanted::Anything, _) | (_, None) => true,
        (Wanted::Bool, Some(ty)) => matches!(ty, Ty::Bool),
        (Wanted::Text, Some(ty)) => matches!(ty, Ty::String),
        (Wanted::TextOrNull, Some(ty)) => matches!(ty, Ty::String | Ty::Null),
    };
    let wanted = match wanted {
        _ if fits => return Ok(Expression(parsed)),
        Wanted::Bool => "bool",
        Wanted::Text => "string",
        Wanted::TextOrNull | Wanted::Anything => "one of [string null_type]",
    };
    let given = match ty {
        Some(Ty::Null) => "null_type".to_owned(),
        other => other.map_or_else(String::new, |ty| ty.name()),
    };
    Err(format!("must evaluate to {wanted} but got {given}"))
}

/// What is wrong with an expression, given the types of what it names.
///
/// # Errors
/// The first thing that is wrong, in cel-go's words.
pub fn check(source: &str, names: &Names<'_>) -> Result<(), String> {
    compile_alone(source, |parsed| check_free(parsed, source, names.scope())).map(drop)
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

    fn names() -> Names<'static> {
        Names::untyped(&["object", "params", "variables"])
    }

    fn compiled(source: &str) -> Result<Expression, String> {
        compile(source, &names(), Wanted::Anything)
    }

    fn evaluate(source: &str, object: &Value) -> Result<Outcome, String> {
        let expression = compiled(source).unwrap();
        let mut scope = Scope::default();
        scope.bind("object", object);
        scope.define("name", &compiled("object.metadata.name").unwrap());
        scope.evaluate(&expression)
    }

    #[test]
    fn what_may_be_null_or_anything_is_anything() {
        let mut names = Names::untyped(&["object", "oldObject"]).with_variables();
        names.define("old", "object.kind == 'New' ? null : oldObject").unwrap();
        for source in [
            "variables.old == null || variables.old.spec.node == object.spec.node",
            "(object.kind == 'New' ? null : oldObject.spec.node) == 'hpc'",
            "{'a': 1, 'b': object.port}['b'] == 'http'",
        ] {
            compile(source, &names, Wanted::Bool).unwrap();
        }
    }

    #[test]
    fn chains_of_macros_stay_of_a_size() {
        let chained = |count: usize| format!("[1]{}.size() == 1", ".transformList(i, v, v)".repeat(count));
        compiled(&chained(3)).unwrap();
        compiled(&chained(60)).unwrap_err();
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
        assert!(compiled("object ==").unwrap_err().starts_with("compilation failed: ERROR: "));
        assert!(compiled("nobody == 1").unwrap_err().contains("undeclared reference to 'nobody'"));
    }

    #[test]
    fn types_are_checked_against_a_schema() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}});
        let schema = Schema::parse(&schema).unwrap();
        let names = Names::untyped(&["params"]).with_object("object", &schema);
        let check = |source| check(source, &names);
        assert_eq!(check("object.spec.n > 1 && object.metadata.labels['a'] == 'b' && params.x == 1"), Ok(()));
        assert!(
            check("object.spec.n > '1'")
                .unwrap_err()
                .contains("no matching overload for '_>_' applied to '(int, string)'")
        );
        assert!(check("object.spec.m < 1").unwrap_err().contains("undefined field 'm'"));
    }

    #[test]
    fn an_expression_comes_to_what_is_wanted() {
        let mut names = Names::untyped(&["object"]).with_variables();
        names.define("n", "1").unwrap();
        names.define("any", "object.x").unwrap();
        assert!(names.define("bad", "[").unwrap_err().starts_with("compilation failed: "));
        for (source, wanted, refusal) in [
            ("object.x == 1", Wanted::Bool, ""),
            ("sets.contains([1], [1])", Wanted::Bool, ""),
            // What isn't followed may be anything.
            ("quantity('1').add(quantity('2'))", Wanted::Bool, ""),
            ("variables.bad == 1", Wanted::Bool, ""),
            ("1 + 1", Wanted::Bool, "must evaluate to bool but got int"),
            ("object.x + 1", Wanted::Bool, "must evaluate to bool but got int"),
            ("object.x[0].y", Wanted::Bool, "must evaluate to bool but got dyn"),
            ("variables.any", Wanted::Bool, "must evaluate to bool but got dyn"),
            ("variables.n", Wanted::Bool, "must evaluate to bool but got int"),
            ("{'a': [1]}", Wanted::Bool, "must evaluate to bool but got map(string, list(int))"),
            ("null", Wanted::Text, "must evaluate to string but got null_type"),
            ("'a' + string(object.x)", Wanted::Text, ""),
            ("null", Wanted::TextOrNull, ""),
            ("1", Wanted::TextOrNull, "must evaluate to one of [string null_type] but got int"),
        ] {
            let refused = compile(source, &names, wanted).err().unwrap_or_default();
            assert_eq!(refused, refusal, "{source}");
        }
        let unknown = compile("variables.m == 1", &names, Wanted::Bool).unwrap_err();
        assert!(unknown.contains("undefined field 'm'"), "{unknown}");
    }
}
