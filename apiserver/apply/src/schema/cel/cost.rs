//! A bound on what rules compute, so that nobody's rule on somebody's object keeps the server.
//!
//! Kubernetes counts costs of every operation, at most 1,000,000 in one evaluation and 10,000,000 for one object (apiserver,
//! `cel/limits.go`). Loops alone make an evaluation long here, and a turn of one costs four there at least (condition, step, and what they
//! read): turns are counted, at most a quarter of that.

use std::cell::Cell;

use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::extractors::This;
use kube_cel::cel::objects::Value;
use kube_cel::cel::{ExecutionError, ResolveResult};

/// Turns of all loops of one evaluation.
const PER_CALL: u32 = 1_000_000 / 4;
/// Turns of all loops of all rules on one object.
const PER_OBJECT: u32 = 10_000_000 / 4;
/// Counts a turn, and is what it is given.
pub(super) const COUNT: &str = "__count";
/// As cel-go says it.
const EXCEEDED: &str = "operation cancelled: actual cost limit exceeded";

thread_local! {
    /// Turns that are left to the evaluation, and to the object.
    static LEFT: Cell<(u32, u32)> = const { Cell::new((PER_CALL, PER_OBJECT)) };
}

/// The next evaluations are about another object.
pub(super) fn begin_object() {
    LEFT.set((PER_CALL, PER_OBJECT));
}

/// Another evaluation begins.
pub(super) fn begin_call() {
    LEFT.set((PER_CALL, LEFT.get().1));
}

pub(super) fn is_exceeded(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::FunctionError { function, .. } if function == COUNT)
}

pub(super) fn count(This(this): This<Value>) -> ResolveResult {
    let (call, object) = LEFT.get();
    match (call.checked_sub(1), object.checked_sub(1)) {
        (Some(call), Some(object)) => {
            LEFT.set((call, object));
            Ok(this)
        }
        _ => Err(ExecutionError::FunctionError { function: COUNT.to_owned(), message: EXCEEDED.to_owned() }),
    }
}

/// Has a loop count its turns.
pub(super) fn counted(expression: &mut Expr) {
    if let Expr::Comprehension(l) = expression {
        let condition = std::mem::take(&mut l.loop_cond);
        let call = CallExpr { func_name: COUNT.to_owned(), target: None, args: vec![condition] };
        l.loop_cond = IdedExpr { expr: Expr::Call(call), ..IdedExpr::default() };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::error::Path;
    use crate::schema::cel::{Place, Rules, expression};
    use crate::schema::{Schema, cel};

    fn refusals(rules: &[&str], items: usize) -> Vec<String> {
        let rules: Vec<Value> = rules.iter().map(|rule| json!({"rule": rule})).collect();
        let list = json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rules});
        let schema = Schema::parse(&json!({"type": "object", "properties": {"x": list}})).unwrap();
        let object = json!({"x": (0..items).collect::<Vec<_>>()});
        let errors = Rules::new(&schema, Place::Part).validate(&Path::Root, &schema, &object, None, Place::Part);
        errors.into_iter().map(|error| error.detail).collect()
    }

    #[test]
    fn an_evaluation_that_computes_for_long_is_broken_off() {
        let cubic = "self.all(x, self.all(y, self.all(z, x + y + z >= 0)))";
        assert_eq!(refusals(&[cubic], 60), Vec::<String>::new());
        let refused = refusals(&[cubic, "self.size() > 0", "self.all(x, x >= 0)"], 600);
        assert_eq!(refused.len(), 1, "the next rules have what they need: {refused:?}");
        assert_eq!(
            refused[0],
            format!(
                "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {cubic}"
            )
        );
        // Whatever hides the error from the loop around it.
        let hidden = "self.exists(x, self.exists(y, self.exists(z, self.exists(w, x + y + z + w < 0 || x > 1000000))))";
        assert_eq!(refusals(&[hidden], 600).len(), 1);
        // Flat lists of any length are read.
        assert_eq!(refusals(&["self.all(x, x >= 0)"], 200_000), Vec::<String>::new());
        // All rules on one object together.
        let quadratic = "self.all(x, self.all(y, x + y >= 0))";
        assert_eq!(refusals(&[quadratic; 40], 450).len(), 28, "12 of them make 2,430,000 turns and more");
    }

    #[test]
    fn so_is_an_expression_of_a_policy() {
        let source = "object.x.all(a, object.x.all(b, object.x.all(c, a + b + c >= 0)))";
        let names = expression::Names::untyped(&["object"]);
        let expression = expression::compile(source, &names, expression::Wanted::Bool).unwrap();
        let evaluate = |items: usize| {
            let mut scope = cel::expression::Scope::default();
            scope.bind("object", &json!({"x": (0..items).collect::<Vec<_>>()}));
            scope.evaluate(&expression)
        };
        assert_eq!(evaluate(50), Ok(cel::expression::Outcome::Bool(true)));
        assert_eq!(evaluate(600), Err("operation cancelled: actual cost limit exceeded".to_owned()));
    }
}
