//! What an expression reads of `self` and `oldSelf`, so that only that becomes a CEL value.
//!
//! `self.spec.replicas > 1 && has(self.status)` reads `spec.replicas` and `status`. Whatever isn't a chain of field selections (an
//! index, a function's argument, a comparison, a comprehension's range) reads everything below its chain.

use std::collections::BTreeMap;

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// A tree of escaped field names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    everything: bool,
    fields: BTreeMap<String, Access>,
}

/// Reads everything.
pub(super) static ALL: Access = Access { everything: true, fields: BTreeMap::new() };

impl Access {
    /// What is read of a field, if it is read at all.
    pub(super) fn field(&self, name: &str) -> Option<&Access> {
        if self.everything { Some(&ALL) } else { self.fields.get(name) }
    }

    fn add(&mut self, chain: &[&str]) {
        match chain {
            [] => self.everything = true,
            [first, rest @ ..] => self.fields.entry((*first).to_owned()).or_default().add(rest),
        }
    }

    pub(super) fn collect(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Ident(name) => {
                if is_self(name) {
                    self.everything = true;
                }
            }
            Expr::Select(select) => match chain(expression) {
                Some(chain) => self.add(&chain),
                None => self.collect(&select.operand),
            },
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.collect(target));
                call.args.iter().for_each(|argument| self.collect(argument));
            }
            Expr::Comprehension(loop_) => {
                for part in [&loop_.iter_range, &loop_.accu_init, &loop_.loop_cond, &loop_.loop_step, &loop_.result] {
                    self.collect(part);
                }
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.collect(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.collect(&entry.key);
                    self.collect(&entry.value);
                }
                EntryExpr::StructField(field) => self.collect(&field.value),
            }),
            Expr::Struct(object) => object.entries.iter().for_each(|entry| {
                if let EntryExpr::StructField(field) = &entry.expr {
                    self.collect(&field.value);
                }
            }),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }
}

fn is_self(name: &str) -> bool {
    matches!(name, "self" | "oldSelf")
}

/// The fields of a chain that begins at `self` or `oldSelf`.
fn chain(expression: &IdedExpr) -> Option<Vec<&str>> {
    match &expression.expr {
        Expr::Ident(name) if is_self(name) => Some(Vec::new()),
        Expr::Select(select) => {
            let mut chain = chain(&select.operand)?;
            chain.push(&select.field);
            Some(chain)
        }
        _ => None,
    }
}
