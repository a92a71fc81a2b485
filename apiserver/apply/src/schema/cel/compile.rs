//! Rules to programs. What the evaluator can't do (or would panic on) is refused here, when the CRD is created.

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, operators};
use kube_cel::cel::parser::Parser;

use super::access::Access;
use super::check::{Wanted, check as check_types};
use super::estimate::Estimator;
use super::field_path::{ArrayNotation, parse as parse_field_path};
use super::{Place, Rule, cost, macros};
use crate::schema::Schema;

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Compiled {
    /// `None` for an empty rule, which holds.
    pub(super) program: Result<Option<IdedExpr>, String>,
    pub(super) message: Option<IdedExpr>,
    pub(super) uses_old_self: bool,
    /// Where errors are reported, below the node.
    pub(super) field_path: Option<String>,
}

impl Compiled {
    pub(super) fn collect_access(&self, access: &mut Access) {
        let program = self.program.as_ref().ok().and_then(Option::as_ref);
        program.into_iter().chain(&self.message).for_each(|expression| access.collect(expression));
    }
}

pub(super) fn compile(rule: &Rule, schema: &Schema, place: Place) -> Compiled {
    let program = match rule.rule.trim() {
        "" => Ok(None),
        _ => compile_expression(&rule.rule).map_err(|error| format!("compilation failed: {error}")).and_then(
            |expression| {
                check_types(&expression, &rule.rule, rule, schema, place, Wanted::Bool)?;
                Ok(Some(evaluable(expression)))
            },
        ),
    };
    let uses_old_self = matches!(&program, Ok(Some(program)) if program.references().has_variable("oldSelf"));
    let message = Some(rule.message_expression.as_str())
        .filter(|expression| !expression.trim().is_empty())
        .and_then(|expression| compile_expression(expression).ok())
        .map(evaluable);
    let field_path = Some(rule.field_path.as_str())
        .filter(|path| !path.is_empty())
        .and_then(|path| parse_field_path(path, schema, ArrayNotation::Allowed).ok())
        .filter(|path| !path.is_empty());
    Compiled { program, message, uses_old_self, field_path }
}

/// Compiles an expression that is no rule, with a check of its types.
pub(super) fn compile_alone<T>(
    source: &str,
    check: impl FnOnce(&IdedExpr) -> Result<T, String>,
) -> Result<(IdedExpr, T), String> {
    let expression = compile_expression(source)?;
    let checked = check(&expression)?;
    Ok((evaluable(expression), checked))
}

fn compile_expression(source: &str) -> Result<IdedExpr, String> {
    parse(source).map(|expression| rewrite_after(expression, &macros::expand))
}

/// An expression with the macros in it that the parser doesn't know.
fn parse(source: &str) -> Result<IdedExpr, String> {
    let expression = Parser::new().enable_optional_syntax(true).parse(source).map_err(|error| {
        // cel-go has a space before the bar.
        error.to_string().replace("\n| ", "\n | ")
    })?;
    refuse_structs(&expression)?;
    Ok(unquote(expression))
}

/// ``a.`b` `` as `a.b`: the parser leaves the quotes in the name.
fn unquote(expression: IdedExpr) -> IdedExpr {
    rewrite(expression, &|expression| {
        if let Expr::Select(select) = expression
            && let Some(name) = select.field.strip_prefix('`').and_then(|f| f.strip_suffix('`'))
        {
            select.field = name.to_owned();
        }
    })
}

/// What was checked, as it is evaluated.
fn evaluable(expression: IdedExpr) -> IdedExpr {
    rewrite(index_optionally(expression), &cost::counted)
}

/// `a.?b` as `a[?'b']`: the evaluator takes a missing field for an error in the first, for an empty optional in the second.
fn index_optionally(expression: IdedExpr) -> IdedExpr {
    rewrite(expression, &|expression| {
        if let Expr::Call(call) = expression
            && call.func_name == operators::OPT_SELECT
        {
            call.func_name = operators::OPT_INDEX.to_owned();
        }
    })
}

/// Changes every node of an expression, from the outside in.
fn rewrite(mut expression: IdedExpr, change: &dyn Fn(&mut Expr)) -> IdedExpr {
    change(&mut expression.expr);
    each_part(&mut expression.expr, &|part| *part = rewrite(std::mem::take(part), change));
    expression
}

/// Changes every node of an expression, from the inside out: what a change puts in isn't changed again.
pub(super) fn rewrite_after(mut expression: IdedExpr, change: &dyn Fn(&mut Expr)) -> IdedExpr {
    each_part(&mut expression.expr, &|part| *part = rewrite_after(std::mem::take(part), change));
    change(&mut expression.expr);
    expression
}

/// Visits the parts of a node.
fn each_part(expression: &mut Expr, visit: &dyn Fn(&mut IdedExpr)) {
    match expression {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| visit(target));
            call.args.iter_mut().for_each(visit);
        }
        Expr::Select(select) => visit(&mut select.operand),
        Expr::Comprehension(l) => {
            for part in [&mut l.iter_range, &mut l.accu_init, &mut l.loop_cond, &mut l.loop_step, &mut l.result] {
                visit(part);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(visit),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| {
            if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                visit(&mut entry.key);
                visit(&mut entry.value);
            }
        }),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Messages (`Type{field: value}`) have no place in rules, and the evaluator has none for them.
fn refuse_structs(expression: &IdedExpr) -> Result<(), String> {
    let all = |parts: &[&IdedExpr]| parts.iter().try_for_each(|part| refuse_structs(part));
    match &expression.expr {
        Expr::Struct(object) => Err(format!("ERROR: undeclared reference to '{}' (in container '')", object.type_name)),
        Expr::Unspecified => Err("ERROR: unsupported expression".to_owned()),
        Expr::Select(select) => refuse_structs(&select.operand),
        Expr::Call(call) => {
            call.target.iter().try_for_each(|target| refuse_structs(target))?;
            call.args.iter().try_for_each(refuse_structs)
        }
        Expr::Comprehension(l) => all(&[&l.iter_range, &l.accu_init, &l.loop_cond, &l.loop_step, &l.result]),
        Expr::List(list) => list.elements.iter().try_for_each(refuse_structs),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => all(&[&entry.key, &entry.value]),
            EntryExpr::StructField(_) => Err("ERROR: unsupported expression".to_owned()),
        }),
        Expr::Ident(_) | Expr::Literal(_) => Ok(()),
    }
}

/// What there is to say about a rule when its CRD is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Why the rule doesn't compile.
    pub rule: Option<String>,
    /// Why the `messageExpression` doesn't compile.
    pub message_expression: Option<String>,
    pub uses_old_self: bool,
    /// What the rule costs at most on one value.
    pub cost: u64,
    /// What the `messageExpression` costs at most on one value.
    pub message_cost: u64,
}

/// Compiles the rules of one node, one report for each.
#[must_use]
pub fn check(schema: &Schema, place: Place) -> Vec<Report> {
    schema.rules.iter().map(|rule| report(rule, schema, place)).collect()
}

fn report(rule: &Rule, schema: &Schema, place: Place) -> Report {
    let compiled = compile(rule, schema, place);
    let estimate = |source: &str| {
        let estimator = Estimator::new(schema, place, rule.optional_old_self == Some(true));
        parse(source).ok().zip(estimator).map_or(0, |(expression, mut estimator)| estimator.cost(&expression))
    };
    let mut report = Report { uses_old_self: compiled.uses_old_self, ..Report::default() };
    match compiled.program {
        Err(error) => {
            report.rule = Some(error);
            return report;
        }
        Ok(None) => return report,
        Ok(Some(_)) => report.cost = estimate(&rule.rule),
    }
    if !rule.message_expression.trim().is_empty() {
        report.message_expression = check_message(rule, schema, place).err();
        if report.message_expression.is_none() {
            report.message_cost = estimate(&rule.message_expression);
        }
    }
    report
}

fn check_message(rule: &Rule, schema: &Schema, place: Place) -> Result<(), String> {
    let source = &rule.message_expression;
    let expression =
        compile_expression(source).map_err(|error| format!("messageExpression compilation failed: {error}"))?;
    check_types(&expression, source, rule, schema, place, Wanted::String).map_err(|error| {
        match error.strip_prefix("compilation failed: ") {
            Some(error) => format!("messageExpression compilation failed: {error}"),
            None => error,
        }
    })
}
