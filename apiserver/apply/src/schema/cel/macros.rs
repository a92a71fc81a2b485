//! Macros that the parser doesn't know, written with those that it does: comprehensions over index and value, and `optMap`.
//!
//! A template is parsed with the names of the loop variables in it, and placeholders then give way to the parts of the call.

use std::cell::Cell;

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr};
use kube_cel::cel::parser::Parser;

/// The keys of a map, or the indexes of a list.
pub(super) const KEYS: &str = "__keys";

/// The target stands in a template more than once: a chain of macros doubles with each. What is larger than any rule needs isn't expanded, and so refused.
const MOST_NODES: usize = 10_000;

const TARGET: &str = "__target";
const BODY: &str = "__body";

/// The template of a macro with its loop variables, if the call is one.
fn template(call: &CallExpr) -> Option<String> {
    let name = |at: usize| match &call.args.get(at)?.expr {
        Expr::Ident(name) => Some(name.as_str()),
        _ => None,
    };
    call.target.as_ref()?;
    Some(match (call.func_name.as_str(), call.args.len()) {
        (quantifier @ ("all" | "exists" | "exists_one" | "existsOne"), 3) => {
            let (outer, inner) = match quantifier {
                "all" => ("all", "all"),
                "exists" => ("exists", "exists"),
                _ => ("exists_one", "exists"),
            };
            let (key, value) = (name(0)?, name(1)?);
            format!("{KEYS}({TARGET}).{outer}({key}, [{TARGET}[{key}]].{inner}({value}, {BODY}))")
        }
        ("transformList", 3) => {
            let (key, value) = (name(0)?, name(1)?);
            format!("{KEYS}({TARGET}).map({key}, [{TARGET}[{key}]].map({value}, {BODY})[0])")
        }
        ("optMap", 2) => {
            let value = name(0)?;
            format!("{TARGET}.hasValue() ? optional.of([{TARGET}.value()].map({value}, {BODY})[0]) : optional.none()")
        }
        _ => return None,
    })
}

/// Expands one node, if it is such a macro.
pub(super) fn expand(expression: &mut Expr) {
    let Expr::Call(call) = expression else { return };
    let Some(template) = template(call) else { return };
    if call.target.as_ref().is_some_and(|target| nodes(target) > MOST_NODES) {
        return;
    }
    let (Some(target), Some(body)) = (call.target.take(), call.args.pop()) else { return };
    if let Some(filled) = fill(&template, &target.expr, &body.expr) {
        *expression = filled;
    }
}

fn nodes(expression: &IdedExpr) -> usize {
    let count = Cell::new(0_usize);
    super::compile::rewrite_after(expression.clone(), &|_: &mut Expr| count.set(count.get() + 1));
    count.get()
}

fn fill(template: &str, target: &Expr, body: &Expr) -> Option<Expr> {
    // The template is ours, so it parses.
    let parsed = Parser::new().parse(template).ok()?;
    let fill = |node: &mut Expr| match node {
        Expr::Ident(name) if name == TARGET => *node = target.clone(),
        Expr::Ident(name) if name == BODY => *node = body.clone(),
        _ => {}
    };
    Some(super::compile::rewrite_after(parsed, &fill).expr)
}

/// A macro over index and value as the comprehension of two variables that it stands for. The evaluator has none of these.
pub(super) fn comprehension(call: &CallExpr) -> Option<ComprehensionExpr> {
    let [first, second, body] = call.args.as_slice() else { return None };
    let (Expr::Ident(first), Expr::Ident(second)) = (&first.expr, &second.expr) else { return None };
    let of_one = match call.func_name.as_str() {
        name @ ("all" | "exists" | "exists_one") => name,
        "existsOne" => "exists_one",
        "transformList" => "map",
        _ => return None,
    };
    let template = format!("{TARGET}.{of_one}({first}, {BODY})");
    match fill(&template, &call.target.as_deref()?.expr, &body.expr)? {
        Expr::Comprehension(comprehension) => {
            Some(ComprehensionExpr { iter_var2: Some(second.clone()), ..*comprehension })
        }
        _ => None,
    }
}
