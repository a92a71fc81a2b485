//! What operators and functions cost, and how large their results are.

use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};

use super::size::{Size, search, traversal};
use super::{Entries, Estimator, Known, LIST};
use crate::schema::cel::check::{LIBRARIES, Ty};
use crate::schema::cel::macros;

/// The longest regular expression of a named format.
const FORMAT_PATTERN: u64 = 128;
/// The longest address, in bytes.
const ADDRESS: u64 = 16;
/// Calling one of the functions of lists and sets.
const CALL: u64 = 1;

/// Functions whose results are of a library's type.
const LIBRARY_VALUES: [&str; 9] = ["ip", "cidr", "quantity", "semver", "url", "add", "sub", "masked", "format.named"];

/// What a call itself costs, and the size of its result if the call tells it.
struct Price {
    cost: u64,
    size: Option<Size>,
}

impl Price {
    const ONE: Self = Self { cost: 1, size: None };

    const fn of(cost: u64) -> Self {
        Self { cost, size: None }
    }

    const fn sized(cost: u64, size: Size) -> Self {
        Self { cost, size: Some(size) }
    }

    /// A new list, of which each element costs so much.
    fn list(each: u64, size: Size) -> Self {
        Self::sized(size.max.saturating_mul(each).saturating_add(CALL + LIST), size)
    }
}

impl<'s> Estimator<'s> {
    pub(super) fn call(&mut self, call: &CallExpr) -> Known<'s> {
        if let Some(comprehension) = macros::comprehension(call) {
            return self.comprehension(&comprehension);
        }
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            ("optMap", Some(target), [variable, body]) => self.opt_map(target, variable, body),
            ("dyn", None, [argument]) => {
                let argument = self.known(argument);
                let computed = Known::computed(argument.cost.saturating_add(1), Ty::Dyn);
                Known { size: argument.size, entries: argument.entries, ..computed }
            }
            ("_?._", None, [operand, name]) => {
                let operand = self.known(operand);
                let ty = match &name.expr {
                    Expr::Literal(LiteralValue::String(name)) => operand.ty.field(name.inner()).unwrap_or(Ty::Dyn),
                    _ => Ty::Dyn,
                };
                let optional = if matches!(ty, Ty::Optional(_)) { ty } else { Ty::Optional(Box::new(ty)) };
                Known::computed(operand.cost.saturating_add(1), optional)
            }
            (name, target, arguments) if name.starts_with(['_', '@', '!', '-']) && target.is_none() => {
                let arguments: Vec<Known<'s>> = arguments.iter().map(|argument| self.known(argument)).collect();
                self.operator(name, &arguments)
            }
            (name, target, arguments) => self.function(name, target, arguments),
        }
    }

    /// `target.optMap(variable, body)`: the target is asked whether it has a value, and bound to the variable.
    fn opt_map(&mut self, target: &IdedExpr, variable: &IdedExpr, body: &IdedExpr) -> Known<'s> {
        let target = self.known(target);
        let Expr::Ident(name) = &variable.expr else { return Known::computed(u64::MAX, Ty::Dyn) };
        let of = match &target.ty {
            Ty::Optional(of) => (**of).clone(),
            _ => Ty::Dyn,
        };
        self.locals.push((name.clone(), Known::computed(1, of)));
        let body = self.known(body);
        self.locals.pop();
        let asked = target.cost.saturating_add(1);
        let bound = asked.saturating_add(LIST).saturating_add(body.cost).saturating_add(1);
        Known::computed(asked.saturating_add(bound), Ty::Optional(Box::new(body.ty)))
    }

    fn operator(&mut self, name: &str, arguments: &[Known<'s>]) -> Known<'s> {
        let all = sum(arguments);
        let types: Vec<Ty<'s>> = arguments.iter().map(|argument| argument.ty.clone()).collect();
        let ty = self.checker.operator(name, &types).unwrap_or(Ty::Dyn);
        match (name, arguments) {
            ("_&&_" | "_||_", _) => Known::computed(all, ty),
            ("_?_:_", [condition, yes, no]) => {
                let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
                let mut known = Known::computed(cost, ty).sized(yes.size().union(no.size()));
                known.entries = Entries::union(yes.entries, no.entries);
                known.library = yes.library && no.library;
                known
            }
            ("_[_]", [of, _]) => {
                let origin = self.part(of.origin, super::Declared::element);
                let mut known = self.at(all.saturating_add(1), ty, origin);
                known.size = of.entries.map(|entries| entries.value).or(known.size);
                known
            }
            ("_+_", [one, other]) => {
                let price = add(one, other);
                let mut known = Known::computed(all.saturating_add(price.cost), ty);
                known.size = price.size.or(known.size);
                known.entries = Entries::union(one.entries, other.entries);
                known
            }
            (_, [one, other]) => Known::computed(all.saturating_add(compare(name, one, other)), ty),
            _ => Known::computed(all.saturating_add(1), ty),
        }
    }

    fn function(&mut self, name: &str, target: Option<&IdedExpr>, arguments: &[IdedExpr]) -> Known<'s> {
        let library = target.and_then(|target| match &target.expr {
            Expr::Ident(library) if LIBRARIES.contains(&library.as_str()) && !self.is_local(library) => Some(library),
            _ => None,
        });
        let target = target.filter(|_| library.is_none()).map(|target| self.known(target));
        let known: Vec<Known<'s>> = arguments.iter().map(|argument| self.known(argument)).collect();
        let all = sum(&known).saturating_add(target.as_ref().map_or(0, |target| target.cost));
        let full = library.map(|library| format!("{library}.{name}"));
        let full = full.as_deref().unwrap_or(name);
        let ty = match library {
            Some(_) if full.starts_with("sets.") || full == "ip.isCanonical" => Ty::Bool,
            Some(_) => Ty::Dyn,
            None => {
                let types: Vec<Ty<'s>> = target.iter().chain(&known).map(|known| known.ty.clone()).collect();
                self.checker.function(name, &types).unwrap_or(Ty::Dyn)
            }
        };
        let price = match &target {
            Some(target) => self.of_value(full, target, &known, arguments),
            None => global(full, &known, arguments),
        };
        let mut result = Known::computed(all.saturating_add(price.cost), ty);
        result.size = price.size.or(result.size);
        result.library = LIBRARY_VALUES.contains(&full) || full.starts_with("format.");
        result
    }

    fn is_local(&self, name: &str) -> bool {
        self.locals.iter().any(|(local, _)| local == name)
    }

    /// The size of each element of a list.
    fn element_size(&self, list: &Known<'s>) -> Size {
        match list.origin {
            // Nothing is asked of the schema for what was computed.
            super::Origin::Nowhere => Size::UNKNOWN,
            origin => match self.part(origin, super::Declared::element) {
                super::Origin::Declared(declared) => declared.size(),
                _ => Size::UNKNOWN,
            },
        }
    }

    /// What `target.name(arguments)` costs.
    fn of_value(&self, name: &str, target: &Known<'s>, known: &[Known<'s>], arguments: &[IdedExpr]) -> Price {
        let size = target.size();
        let first = known.first().map_or(Size::UNKNOWN, Known::size);
        match name {
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => match &target.ty {
                Ty::List(of) => {
                    let read = matches!(**of, Ty::String | Ty::Bytes).then(|| traversal(self.element_size(target).max));
                    Price::of(size.max.saturating_mul(read.unwrap_or(0).saturating_add(1)))
                }
                _ => Price::of(traversal(size.max)),
            },
            "lowerAscii" | "upperAscii" | "substring" | "trim" => Price::sized(traversal(size.max), size),
            "replace" if known.len() >= 2 => replaced(size, first, known.get(1).map_or(Size::UNKNOWN, Known::size)),
            "split" => {
                let most = arguments.get(1).and_then(literal_integer);
                let most = most.map_or(size.max, |most| u64::try_from(most).unwrap_or(u64::MAX));
                Price::sized(size.max.div_ceil(5), Size::up_to(most))
            }
            "join" => {
                let mut joined = size.times(self.element_size(target));
                if !known.is_empty() {
                    let between = Size { min: size.min.saturating_sub(1), max: size.max.saturating_sub(1) };
                    joined = joined.plus(first.times(between));
                }
                Price::sized(traversal(joined.max), joined)
            }
            "find" | "findAll" => Price::sized(search(size.max, first.max), Size::up_to(size.max)),
            "matches" => Price::of(search(size.max, first.max)),
            "startsWith" | "endsWith" => Price::of(traversal(first.max)),
            "contains" => Price::of(traversal(size.max).saturating_mul(traversal(first.max))),
            "format" => Price::of(traversal(size.max)),
            "validate" => Price::of(traversal(first.max).saturating_mul(FORMAT_PATTERN / 4)),
            "containsIP" => Price::of(traversal(2 * ADDRESS).saturating_add(text_argument(known))),
            "containsCIDR" => {
                let own = traversal(2 * ADDRESS) + traversal(ADDRESS) + 1;
                Price::of(own.saturating_add(text_argument(known)))
            }
            "reverse" => Price::list(1, size),
            "flatten" => {
                let depth =
                    arguments.first().map_or(Some(1), literal_integer).map(|depth| u64::try_from(depth).unwrap_or(0));
                Price::list(depth.unwrap_or(u64::MAX), size)
            }
            "distinct" => Price::list(2, size.times(size)),
            "sort" => sorted(size, target),
            "slice" => {
                let bound = |at: usize, otherwise: u64| match arguments.get(at).and_then(literal_integer) {
                    Some(given) => u64::try_from(given).unwrap_or(0),
                    None => otherwise,
                };
                Price::list(1, Size::exactly(bound(1, size.max).wrapping_sub(bound(0, 0))))
            }
            _ => Price::ONE,
        }
    }
}

fn sum(known: &[Known<'_>]) -> u64 {
    known.iter().fold(0, |sum, known| sum.saturating_add(known.cost))
}

fn literal_integer(expression: &IdedExpr) -> Option<i64> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Int(int)) => Some(*int.inner()),
        _ => None,
    }
}

/// Both are read as far as the shorter one.
fn reading(one: &Known<'_>, other: &Known<'_>) -> u64 {
    traversal(one.size().max.min(other.size().max))
}

fn add(one: &Known<'_>, other: &Known<'_>) -> Price {
    let size = one.size().plus(other.size());
    // What is known of one tells what the other must be.
    let known = if one.is_dyn() { other } else { one };
    match &known.ty {
        Ty::List(_) => Price::sized(1, size),
        _ if known.is_text() || known.is_dyn() => {
            Price::sized(traversal(size.max).max(u64::from(known.is_dyn())), size)
        }
        _ => Price::ONE,
    }
}

/// What an operator of two costs that makes nothing large.
fn compare(name: &str, one: &Known<'_>, other: &Known<'_>) -> u64 {
    match name {
        // Of libraries' values only addresses of the web are read.
        "_==_" if one.library && other.library => other.size.map_or(1, |size| traversal(size.max)),
        "_==_" | "_!=_" => reading(one, other),
        "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let known = if one.is_dyn() { other } else { one };
            match known.is_dyn() {
                true => reading(one, other).max(1),
                false if known.is_text() => reading(one, other),
                false => 1,
            }
        }
        "@in" => match &other.ty {
            Ty::List(_) => other.size().max,
            _ if other.is_dyn() => other.size().max.max(1),
            _ => 1,
        },
        _ => 1,
    }
}

/// What a function costs that belongs to no value.
fn global(name: &str, known: &[Known<'_>], arguments: &[IdedExpr]) -> Price {
    let first = known.first().map_or(Size::UNKNOWN, Known::size);
    let both = || first.max.saturating_mul(known.get(1).map_or(u64::MAX, |second| second.size().max));
    let dynamic = known.first().is_some_and(Known::is_dyn);
    match name {
        "url" => Price::sized(traversal(first.max), first),
        "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            Price::of(traversal(first.max))
        }
        "ip.isCanonical" => Price::of(first.max.div_ceil(5)),
        "matches" if known.len() == 2 => {
            Price::of(search(first.max, known.get(1).map_or(u64::MAX, |pattern| pattern.size().max)))
        }
        "bytes" if dynamic || known.first().is_some_and(|known| matches!(known.ty, Ty::String)) => {
            Price::sized(traversal(first.max), Size { min: first.min, max: first.max.saturating_mul(4) })
        }
        "string" if dynamic || known.first().is_some_and(|known| matches!(known.ty, Ty::Bytes)) => {
            Price::sized(traversal(first.max).max(u64::from(dynamic)), Size { min: first.min / 4, max: first.max })
        }
        "sets.contains" | "sets.intersects" => Price::of(both().saturating_add(CALL)),
        "sets.equivalent" => Price::of(both().saturating_mul(2).saturating_add(CALL)),
        "lists.range" => {
            let to = arguments.first().and_then(literal_integer).map(|to| u64::try_from(to).unwrap_or(0));
            Price::list(1, Size::exactly(to.unwrap_or(u64::MAX)))
        }
        _ => Price::ONE,
    }
}

/// An argument that is a text is parsed.
fn text_argument(known: &[Known<'_>]) -> u64 {
    known.first().filter(|known| known.is_text() || known.is_dyn()).map_or(0, |known| traversal(known.size().max))
}

/// `replace`: how often what is replaced may stand in the text, and how much longer what is put there makes it.
fn replaced(text: Size, old: Size, new: Size) -> Price {
    let (most, kept_most) = if old.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if new.max <= old.min {
        (0, text.max)
    } else {
        (text.max.div_ceil(old.min), 0)
    };
    let (fewest, kept_least) = if old.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if old.max <= new.min {
        (0, text.min)
    } else {
        (text.min.div_ceil(old.max), 0)
    };
    let times = Size { min: fewest, max: most };
    Price::sized(text.max.div_ceil(5), times.times(new).plus(Size { min: kept_least, max: kept_most }))
}

/// Each element is compared with each twice, and texts are read for that.
fn sorted(size: Size, list: &Known<'_>) -> Price {
    let square = size.times(size);
    let reads = match &list.ty {
        Ty::List(of) => matches!(**of, Ty::String | Ty::Bytes | Ty::Dyn),
        _ => true,
    };
    let cost = if reads { square.max.saturating_mul(21).div_ceil(10) } else { square.max.saturating_mul(2) };
    Price::sized(cost.saturating_add(CALL + LIST), square)
}
