//! What a rule costs at most, judged when its CRD is created: a rule that might keep the server on a value that its schema allows is
//! refused before there is such a value.
//!
//! The unit and what everything costs are cel-go's (`checker/cost.go`) and those of Kubernetes' functions
//! (`k8s.io/apiserver/pkg/cel/library/cost.go`): a variable or a field 1, a new list 10, a new map 30, a character that is read 0.1; a
//! loop costs its body for each element. Sizes come from the schema ([`declared`]); a size that nobody knows is without a bound, so that
//! reading it is refused. What looks odd here (objects and numbers are compared for nothing; a field of a call's result has the size of
//! `self`) is so there, and a rule that is accepted there is accepted here.

mod call;
mod declared;
mod size;

use kube_cel::cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, SelectExpr};

use self::declared::Declared;
pub use self::declared::cardinality;
use self::size::Size;
use super::Place;
use super::check::{Checker, Ty};
use crate::schema::Schema;

/// What making a list costs.
const LIST: u64 = 10;
const MAP: u64 = 30;

/// Where an expression's value comes from.
#[derive(Clone, Copy)]
enum Origin<'s> {
    /// It was computed.
    Nowhere,
    Declared(Declared<'s>),
    /// A part that the schema doesn't tell of.
    Lost,
}

/// The sizes of what a list or a map has in it.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Size,
    value: Size,
}

impl Entries {
    fn union(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (one, other) = (one?, other?);
        Some(Self { list: one.list, key: one.key.union(other.key), value: one.value.union(other.value) })
    }
}

/// What is known of an expression.
#[derive(Clone)]
struct Known<'s> {
    cost: u64,
    ty: Ty<'s>,
    origin: Origin<'s>,
    size: Option<Size>,
    entries: Option<Entries>,
    /// Of a type of Kubernetes' libraries (a quantity, an address), which the checker doesn't follow.
    library: bool,
}

impl<'s> Known<'s> {
    /// A value that was computed, of a size that is only known if its type tells.
    fn computed(cost: u64, ty: Ty<'s>) -> Self {
        let size = scalar(&ty);
        Self { cost, ty, origin: Origin::Nowhere, size, entries: None, library: false }
    }

    fn sized(mut self, size: Size) -> Self {
        self.size = Some(size);
        self
    }

    fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }

    fn is_dyn(&self) -> bool {
        matches!(self.ty, Ty::Dyn) && !self.library
    }

    fn is_text(&self) -> bool {
        matches!(self.ty, Ty::String | Ty::Bytes)
    }
}

/// Values of these types have the size 1.
fn scalar(ty: &Ty<'_>) -> Option<Size> {
    match ty {
        Ty::Bool | Ty::Double | Ty::Duration | Ty::Int | Ty::Timestamp | Ty::Uint => Some(Size::exactly(1)),
        Ty::Optional(of) => scalar(of),
        _ => None,
    }
}

/// Estimates expressions about the values of one schema.
pub(super) struct Estimator<'s> {
    root: Declared<'s>,
    own: Ty<'s>,
    old: Ty<'s>,
    locals: Vec<(String, Known<'s>)>,
    checker: Checker<'static, 's>,
}

impl<'s> Estimator<'s> {
    /// `None` for a schema that rules can't see.
    pub(super) fn new(schema: &'s Schema, place: Place, optional_old: bool) -> Option<Self> {
        let own = Ty::of(schema, place)?;
        let old = if optional_old { Ty::Optional(Box::new(own.clone())) } else { own.clone() };
        let root = Declared::Of(schema, place);
        Some(Self { root, own, old, locals: Vec::new(), checker: Checker::without_source() })
    }

    /// What an expression costs at most. It was checked before.
    pub(super) fn cost(&mut self, expression: &IdedExpr) -> u64 {
        self.known(expression).cost
    }

    fn known(&mut self, expression: &IdedExpr) -> Known<'s> {
        match &expression.expr {
            Expr::Literal(literal) => literal_value(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map.entries.iter().map(|entry| &entry.expr)),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => Known::computed(0, Ty::Dyn),
        }
    }

    fn variable(&self, name: &str) -> Known<'s> {
        if let Some((_, local)) = self.locals.iter().rev().find(|(known, _)| known == name) {
            return local.clone();
        }
        let ty = match name {
            "self" => self.own.clone(),
            "oldSelf" => self.old.clone(),
            _ => Ty::Type,
        };
        self.at(1, ty, Origin::Declared(self.root))
    }

    /// What comes from a place of the schema.
    fn at(&self, cost: u64, ty: Ty<'s>, origin: Origin<'s>) -> Known<'s> {
        let size = match origin {
            Origin::Declared(declared) => Some(declared.size()),
            Origin::Nowhere | Origin::Lost => scalar(&ty),
        };
        Known { cost, ty, origin, size, entries: None, library: false }
    }

    /// A part of what something comes from. A part of what was computed passes for `self`.
    fn part(&self, of: Origin<'s>, step: impl Fn(Declared<'s>) -> Option<Declared<'s>>) -> Origin<'s> {
        match of {
            Origin::Nowhere => Origin::Declared(self.root),
            Origin::Declared(declared) => step(declared).map_or(Origin::Lost, Origin::Declared),
            Origin::Lost => Origin::Lost,
        }
    }

    fn select(&mut self, select: &SelectExpr) -> Known<'s> {
        let operand = self.known(&select.operand);
        // `has` costs nothing, so that old rules stay.
        if select.test {
            return Known::computed(operand.cost, Ty::Bool);
        }
        let own = u64::from(matches!(operand.ty, Ty::Map(_) | Ty::Object(..) | Ty::Whole(_) | Ty::Names));
        let ty = operand.ty.field(&select.field).unwrap_or(Ty::Dyn);
        let origin = self.part(operand.origin, |declared| declared.field(&select.field));
        self.at(operand.cost.saturating_add(own), ty, origin)
    }

    fn list(&mut self, list: &ListExpr) -> Known<'s> {
        let mut cost = LIST;
        let mut value = if list.elements.is_empty() { Size::exactly(0) } else { Size::NOTHING };
        let mut of: Option<Ty<'s>> = None;
        for element in &list.elements {
            let element = self.known(element);
            cost = cost.saturating_add(element.cost);
            value = value.union(element.size());
            of = Some(match of {
                Some(known) if !known.fits(&element.ty) => Ty::Dyn,
                Some(known) => known,
                None => element.ty,
            });
        }
        let size = Size::exactly(length(list.elements.len()));
        let mut known = Known::computed(cost, Ty::List(Box::new(of.unwrap_or(Ty::Dyn)))).sized(size);
        known.entries = Some(Entries { list: true, key: Size::exactly(1), value });
        known
    }

    fn map<'e>(&mut self, entries: impl ExactSizeIterator<Item = &'e EntryExpr>) -> Known<'s> {
        let count = entries.len();
        let none = if count == 0 { Size::exactly(0) } else { Size::NOTHING };
        let (mut cost, mut sizes) = (MAP, Entries { list: false, key: none, value: none });
        for entry in entries {
            let EntryExpr::MapEntry(entry) = entry else { continue };
            let (key, value) = (self.known(&entry.key), self.known(&entry.value));
            cost = cost.saturating_add(key.cost).saturating_add(value.cost);
            sizes.key = sizes.key.union(key.size());
            sizes.value = sizes.value.union(value.size());
        }
        let mut known = Known::computed(cost, Ty::Map(Box::new(Ty::Dyn))).sized(Size::exactly(length(count)));
        known.entries = Some(sizes);
        known
    }

    /// A variable of a loop: the keys or the values of what it goes through.
    fn loop_variable(&self, range: &Known<'s>, keys: bool) -> Known<'s> {
        let list = range.entries.map_or(matches!(range.ty, Ty::List(_)), |entries| entries.list);
        let ty = match (&range.ty, keys) {
            (Ty::List(_), true) => Ty::Int,
            (Ty::List(of) | Ty::Map(of), false) => (**of).clone(),
            (Ty::Map(_) | Ty::Object(..) | Ty::Whole(_), true) => Ty::String,
            _ => Ty::Dyn,
        };
        let origin = self.part(range.origin, |declared| match (keys, list) {
            (false, _) => declared.element(),
            (true, false) => declared.key(),
            // Of indexes the schema tells nothing.
            (true, true) => None,
        });
        let mut variable = self.at(1, ty, origin);
        if keys && list {
            variable.size = Some(Size::exactly(0));
        }
        let own = range.entries.map(|entries| if keys { entries.key } else { entries.value });
        variable.size = variable.size.or(own);
        variable
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Known<'s> {
        let range = self.known(&comprehension.iter_range);
        let start = self.known(&comprehension.accu_init);
        let depth = self.locals.len();
        self.locals.push((comprehension.accu_var.clone(), Known { cost: 1, ..start.clone() }));
        let is_list = range.entries.map_or(matches!(range.ty, Ty::List(_)), |entries| entries.list);
        match &comprehension.iter_var2 {
            None => {
                let element = self.loop_variable(&range, !is_list);
                self.locals.push((comprehension.iter_var.clone(), element));
            }
            Some(second) => {
                let (key, value) = (self.loop_variable(&range, true), self.loop_variable(&range, false));
                self.locals.push((comprehension.iter_var.clone(), key));
                self.locals.push((second.clone(), value));
            }
        }
        let condition = self.known(&comprehension.loop_cond);
        let step = self.known(&comprehension.loop_step);
        self.locals.truncate(depth + 1);
        if let (Ty::List(_), Ty::List(_), Some((_, accumulated))) = (&start.ty, &step.ty, self.locals.last_mut()) {
            accumulated.ty = step.ty.clone();
        }
        let result = self.known(&comprehension.result);
        self.locals.truncate(depth);
        let turns = range.size();
        let turn = step.cost.saturating_add(condition.cost);
        let outside = range.cost.saturating_add(start.cost).saturating_add(result.cost);
        let mut known = Known::computed(outside.saturating_add(turns.max.saturating_mul(turn)), result.ty);
        match &comprehension.accu_init.expr {
            Expr::Literal(_) => known.size = start.size,
            Expr::List(_) | Expr::Map(_) => {
                known.size = Some(turns);
                known.entries = step.entries;
            }
            _ => {}
        }
        known
    }
}

fn literal_value<'s>(literal: &LiteralValue) -> Known<'s> {
    let (ty, size) = match literal {
        LiteralValue::Boolean(_) => (Ty::Bool, 1),
        LiteralValue::Bytes(bytes) => (Ty::Bytes, length(bytes.inner().len())),
        LiteralValue::Double(_) => (Ty::Double, 1),
        LiteralValue::Int(_) => (Ty::Int, 1),
        LiteralValue::Null => (Ty::Null, 1),
        LiteralValue::String(text) => (Ty::String, length(text.inner().chars().count())),
        LiteralValue::UInt(_) => (Ty::Uint, 1),
    };
    Known::computed(0, ty).sized(Size::exactly(size))
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
