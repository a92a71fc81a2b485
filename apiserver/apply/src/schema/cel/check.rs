//! Types of expressions, as far as a schema tells: a rule that names a field that isn't there, an unknown function or variable, or
//! compares a number with a text is refused when its CRD is created, as cel-go's checker refuses it.
//!
//! Less strict than cel-go where that would need the signatures of all functions: what isn't known is [`Ty::Dyn`], and fits.
//! The evaluator's syntax trees have no positions, so the column of an error is that of the first place where the name or operator
//! stands in the text.

use kube_cel::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

use super::escape::{escape, is_keyword};
use super::functions::TYPES;
use super::macros::KEYS;
use super::{Place, Rule};
use crate::schema::{Additional, Schema, Type};

/// A type, as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Ty<'s> {
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Null,
    Type,
    List(Box<Ty<'s>>),
    Map(Box<Ty<'s>>),
    Object(&'s Schema, Place),
    /// A resource with all of its metadata.
    Whole(&'s Schema),
    /// The metadata of a resource, as rules of a schema see it.
    Names,
    Optional(Box<Ty<'s>>),
    /// Results of earlier expressions, by name; `None` where the type isn't followed.
    Named(Vec<(String, Option<Ty<'s>>)>),
}

impl<'s> Ty<'s> {
    /// The type of a schema's values. `None` for schemas that rules can't see.
    pub(super) fn of(schema: &'s Schema, place: Place) -> Option<Self> {
        if schema.int_or_string {
            return Some(Self::Dyn);
        }
        let format = schema.validation.as_ref().and_then(|v| v.format.as_deref());
        Some(match schema.kind? {
            Type::Object => match &schema.additional {
                Some(Additional::Of(of)) => Self::Map(Box::new(Self::of(of, Place::of(of))?)),
                _ => Self::Object(schema, place),
            },
            Type::Array => {
                let items = schema.items.as_deref()?;
                Self::List(Box::new(Self::of(items, Place::of(items))?))
            }
            Type::String => match format {
                Some("byte") => Self::Bytes,
                Some("duration") => Self::Duration,
                Some("date" | "date-time") => Self::Timestamp,
                _ => Self::String,
            },
            Type::Integer => Self::Int,
            Type::Number => Self::Double,
            Type::Boolean => Self::Bool,
        })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Dyn => "dyn".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int => "int".to_owned(),
            Self::Uint => "uint".to_owned(),
            Self::Double => "double".to_owned(),
            Self::String => "string".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::Duration => "google.protobuf.Duration".to_owned(),
            Self::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Type => "type".to_owned(),
            Self::List(of) => format!("list({})", of.name()),
            Self::Map(of) => format!("map(string, {})", of.name()),
            Self::Object(..) | Self::Whole(_) | Self::Names | Self::Named(_) => "object".to_owned(),
            Self::Optional(of) => format!("optional_type({})", of.name()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether two types can be the same.
    pub(super) fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) | (Self::Map(a), Self::Map(b)) | (Self::Optional(a), Self::Optional(b)) => {
                a.fits(b)
            }
            (Self::Object(a, _), Self::Object(b, _)) => std::ptr::eq(*a, *b),
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    pub(super) fn field(&self, name: &str) -> Result<Self, String> {
        let undefined = || format!("undefined field '{name}'");
        match self {
            Self::Dyn => Ok(Self::Dyn),
            Self::Map(of) => Ok((**of).clone()),
            Self::Optional(of) => Ok(Self::Optional(Box::new(of.field(name)?))),
            Self::Names if matches!(name, "name" | "generateName") => Ok(Self::String),
            Self::Whole(_) if name == "metadata" => Ok(Self::Dyn),
            Self::Whole(schema) => Self::Object(schema, Place::Resource).field(name),
            Self::Object(_, Place::Resource) if name == "metadata" => Ok(Self::Names),
            Self::Object(_, Place::Resource) if matches!(name, "apiVersion" | "kind") => Ok(Self::String),
            Self::Object(schema, _) => {
                let found = schema
                    .properties
                    .iter()
                    .find(|(key, _)| escape(key).as_deref() == Some(name) || (is_keyword(key) && key.as_str() == name));
                let (_, property) = found.ok_or_else(undefined)?;
                Self::of(property, Place::of(property)).ok_or_else(undefined)
            }
            Self::Named(known) => {
                let (_, ty) = known.iter().find(|(key, _)| key == name).ok_or_else(undefined)?;
                Ok(ty.clone().unwrap_or(Self::Dyn))
            }
            Self::Names => Err(undefined()),
            other => Err(format!("type '{}' does not support field selection", other.name())),
        }
    }
}

/// What a whole expression must be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Bool,
    String,
}

/// Checks the types of a rule's expression.
pub(super) fn check(
    expression: &IdedExpr,
    source: &str,
    rule: &Rule,
    schema: &Schema,
    place: Place,
    wanted: Wanted,
) -> Result<(), String> {
    let Some(this) = Ty::of(schema, place) else {
        return Ok(());
    };
    let old = match rule.optional_old_self {
        Some(true) => Ty::Optional(Box::new(this.clone())),
        _ => this.clone(),
    };
    let mut checker = Checker { source, scope: vec![("self".to_owned(), this), ("oldSelf".to_owned(), old)] };
    let found = checker.infer(expression).map_err(|error| format!("compilation failed: {error}"))?;
    match (wanted, found) {
        (_, Ty::Dyn) | (Wanted::Bool, Ty::Bool) | (Wanted::String, Ty::String) => Ok(()),
        (Wanted::Bool, _) => Err("cel expression must evaluate to a bool".to_owned()),
        (Wanted::String, _) => Err("messageExpression must evaluate to a string".to_owned()),
    }
}

/// The type of an expression that stands alone, given what it may name. `None` where it isn't known for certain.
pub(super) fn check_free<'s>(
    expression: &IdedExpr,
    source: &str,
    names: Vec<(String, Ty<'s>)>,
) -> Result<Option<Ty<'s>>, String> {
    let mut checker = Checker { source, scope: names };
    Ok(match checker.infer(expression)? {
        Ty::Dyn if !checker.is_dyn(expression) => None,
        known => Some(known),
    })
}

pub(super) struct Checker<'e, 's> {
    source: &'e str,
    scope: Vec<(String, Ty<'s>)>,
}

impl<'s> Checker<'_, 's> {
    /// For what was checked before.
    pub(super) const fn without_source() -> Self {
        Self { source: "", scope: Vec::new() }
    }

    /// An error in cel-go's form, with the line and a mark below the first place where `needle` stands.
    fn error(&self, needle: &str, message: &str) -> String {
        let offset = find_word(self.source, needle).unwrap_or(0);
        // The place of a call is its parenthesis.
        let offset = if needle.ends_with('(') {
            (offset + needle.len()).saturating_sub(1).min(self.source.len())
        } else {
            offset
        };
        let before = &self.source[..offset];
        let line = before.matches('\n').count();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = self.source[start..offset].chars().count();
        let text = self.source.lines().nth(line).unwrap_or_default();
        format!("ERROR: <input>:{}:{}: {message}\n | {text}\n | {}^", line + 1, column + 1, ".".repeat(column))
    }

    fn infer(&mut self, expression: &IdedExpr) -> Result<Ty<'s>, String> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Ty::Bool,
                LiteralValue::Bytes(_) => Ty::Bytes,
                LiteralValue::Double(_) => Ty::Double,
                LiteralValue::Int(_) => Ty::Int,
                LiteralValue::Null => Ty::Null,
                LiteralValue::String(_) => Ty::String,
                LiteralValue::UInt(_) => Ty::Uint,
            }),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let operand = self.infer(&select.operand)?;
                let field = operand.field(&select.field).map_err(|e| self.error(&format!(".{}", select.field), &e))?;
                Ok(if select.test { Ty::Bool } else { field })
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut of: Option<Ty<'s>> = None;
                for element in &list.elements {
                    let next = self.infer(element)?;
                    of = Some(one_type(of, next));
                }
                Ok(Ty::List(Box::new(of.unwrap_or(Ty::Dyn))))
            }
            Expr::Map(map) => {
                let mut of: Option<Ty<'s>> = None;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.infer(&entry.key)?;
                        let next = self.infer(&entry.value)?;
                        of = Some(one_type(of, next));
                    }
                }
                Ok(Ty::Map(Box::new(of.unwrap_or(Ty::Dyn))))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => Ok(Ty::Dyn),
        }
    }

    /// Whether an expression is a part of something of any type, and not just of a type that isn't followed here.
    fn is_dyn(&self, expression: &IdedExpr) -> bool {
        match &expression.expr {
            Expr::Ident(name) => matches!(self.variable(name), Ok(Ty::Dyn)),
            Expr::Select(select) if select.test => false,
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if let Ok(Ty::Named(known)) = self.variable(name) => {
                    known.iter().any(|(key, ty)| *key == select.field && matches!(ty, Some(Ty::Dyn)))
                }
                _ => self.is_dyn(&select.operand),
            },
            Expr::Call(call) => {
                call.func_name == "_[_]" && call.args.first().is_some_and(|operand| self.is_dyn(operand))
            }
            _ => false,
        }
    }

    fn variable(&self, name: &str) -> Result<Ty<'s>, String> {
        if let Some((_, ty)) = self.scope.iter().rev().find(|(known, _)| known == name) {
            return Ok(ty.clone());
        }
        if TYPES.contains(&name) {
            return Ok(Ty::Type);
        }
        Err(self.error(name, &format!("undeclared reference to '{name}' (in container '')")))
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<Ty<'s>, String> {
        let element = match self.infer(&comprehension.iter_range)? {
            Ty::List(of) => *of,
            Ty::Map(_) | Ty::Object(..) | Ty::Whole(_) => Ty::String,
            _ => Ty::Dyn,
        };
        let start = self.infer(&comprehension.accu_init)?;
        let depth = self.scope.len();
        self.scope.push((comprehension.accu_var.clone(), start.clone()));
        self.scope.push((comprehension.iter_var.clone(), element));
        self.infer(&comprehension.loop_cond)?;
        let step = self.infer(&comprehension.loop_step)?;
        // A list that grows from nothing has the type of what is added.
        if let (Ty::List(_), Ty::List(_), Some(accumulated)) = (&start, &step, self.scope.get_mut(depth)) {
            accumulated.1 = step;
        }
        let result = self.infer(&comprehension.result);
        self.scope.truncate(depth);
        result
    }

    fn call(&mut self, call: &CallExpr) -> Result<Ty<'s>, String> {
        let target = call.target.as_deref();
        // `math.greatest(…)` is a function of a library, not of a value.
        let library = match target.map(|t| &t.expr) {
            Some(Expr::Ident(name)) if !self.scope.iter().any(|(known, _)| known == name) => Some(name.as_str()),
            _ => None,
        };
        let library = library.filter(|name| LIBRARIES.contains(name));
        let mut types = Vec::with_capacity(call.args.len() + 1);
        if let Some(target) = target.filter(|_| library.is_none()) {
            types.push(self.infer(target)?);
        }
        if call.func_name == "_?._" {
            return self.optional_field(call);
        }
        for argument in &call.args {
            types.push(self.infer(argument)?);
        }
        if call.func_name.starts_with(['_', '@', '-', '!']) {
            return self.operator(&call.func_name, &types);
        }
        if let Some(library) = library {
            return Ok(if library == "sets" || call.func_name == "isCanonical" { Ty::Bool } else { Ty::Dyn });
        }
        self.function(&call.func_name, &types)
    }

    fn optional_field(&mut self, call: &CallExpr) -> Result<Ty<'s>, String> {
        let [operand, name] = call.args.as_slice() else { return Ok(Ty::Dyn) };
        let operand = self.infer(operand)?;
        let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return Ok(Ty::Dyn) };
        let field = operand.field(name.inner()).map_err(|e| self.error(".?", &e))?;
        Ok(match field {
            optional @ Ty::Optional(_) => optional,
            field => Ty::Optional(Box::new(field)),
        })
    }

    pub(super) fn operator(&self, name: &str, types: &[Ty<'s>]) -> Result<Ty<'s>, String> {
        let symbol = name.trim_matches(['_', '@']);
        let refuse = || {
            let given: Vec<String> = types.iter().map(Ty::name).collect();
            let message = format!("found no matching overload for '{name}' applied to '({})'", given.join(", "));
            Err(self.error(symbol, &message))
        };
        match (name, types) {
            ("_==_" | "_!=_", [a, b]) => {
                let null = matches!(a, Ty::Null) || matches!(b, Ty::Null);
                let nullable =
                    |ty: &Ty<'_>| matches!(ty, Ty::Object(..) | Ty::Whole(_) | Ty::Names | Ty::Dyn | Ty::Null);
                if a.fits(b) || (null && nullable(a) && nullable(b)) { Ok(Ty::Bool) } else { refuse() }
            }
            ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => {
                if a.fits(b) || (a.is_number() && b.is_number()) {
                    Ok(Ty::Bool)
                } else {
                    refuse()
                }
            }
            ("_&&_" | "_||_", types) if types.iter().all(|t| t.fits(&Ty::Bool)) => Ok(Ty::Bool),
            ("!_", [a]) if a.fits(&Ty::Bool) => Ok(Ty::Bool),
            ("_&&_" | "_||_" | "!_", _) => refuse(),
            ("@not_strictly_false" | "@in", _) => Ok(Ty::Bool),
            ("_?:_" | "_?_:_", [condition, a, b]) => {
                if !condition.fits(&Ty::Bool) {
                    return refuse();
                }
                Ok(join(a.clone(), b.clone()))
            }
            ("_+_" | "_-_", [a, b]) => match (a, b) {
                // Numbers, texts and lists go with their like only.
                (Ty::Dyn, known) | (known, Ty::Dyn) => match known {
                    Ty::List(_) | Ty::String | Ty::Bytes if name == "_+_" => Ok(known.clone()),
                    known if known.is_number() => Ok(known.clone()),
                    _ => Ok(Ty::Dyn),
                },
                (Ty::Timestamp, Ty::Duration) => Ok(Ty::Timestamp),
                (Ty::Duration, Ty::Timestamp) if name == "_+_" => Ok(Ty::Timestamp),
                (Ty::Timestamp, Ty::Timestamp) if name == "_-_" => Ok(Ty::Duration),
                (Ty::List(known), Ty::List(other)) if name == "_+_" => {
                    let of = if matches!(**known, Ty::Dyn) { other } else { known };
                    Ok(Ty::List(of.clone()))
                }
                (Ty::String | Ty::Bytes, _) if a.fits(b) && name == "_+_" => Ok(a.clone()),
                (Ty::Duration, Ty::Duration) => Ok(Ty::Duration),
                _ if a.is_number() && a.fits(b) => Ok(a.clone()),
                _ => refuse(),
            },
            ("_*_" | "_/_" | "_%_", [a, b]) => match (a, b) {
                (Ty::Dyn, known) | (known, Ty::Dyn) => Ok(known.clone()),
                _ if a.is_number() && a.fits(b) => Ok(a.clone()),
                _ => refuse(),
            },
            ("-_", [a]) => Ok(a.clone()),
            ("_[_]", [of, _]) => Ok(match of {
                Ty::List(of) | Ty::Map(of) => (**of).clone(),
                _ => Ty::Dyn,
            }),
            ("_[?_]", [Ty::List(of) | Ty::Map(of), _]) => Ok(Ty::Optional(of.clone())),
            _ => Ok(Ty::Dyn),
        }
    }

    pub(super) fn function(&self, name: &str, types: &[Ty<'s>]) -> Result<Ty<'s>, String> {
        let known = match name {
            "size" | "int" | "indexOf" | "lastIndexOf" | "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth"
            | "getDayOfWeek" | "getDayOfYear" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds"
            | "compareTo" | "asInteger" | "sign" | "family" | "prefixLength" | "major" | "minor" | "patch" => Ty::Int,
            "uint" => Ty::Uint,
            "double" | "asApproximateFloat" => Ty::Double,
            "string" | "charAt" | "lowerAscii" | "upperAscii" | "replace" | "substring" | "trim" | "join" | "find"
            | "format" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" => Ty::String,
            "bytes" => Ty::Bytes,
            "duration" => Ty::Duration,
            "timestamp" => Ty::Timestamp,
            "bool"
            | "matches"
            | "startsWith"
            | "endsWith"
            | "contains"
            | "isSorted"
            | "isURL"
            | "isIP"
            | "isIPv4"
            | "isIPv6"
            | "isCIDR"
            | "isCIDRv4"
            | "isCIDRv6"
            | "isQuantity"
            | "isSemver"
            | "isInteger"
            | "isGreaterThan"
            | "isLessThan"
            | "hasValue"
            | "containsIP"
            | "containsCIDR"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast" => Ty::Bool,
            "type" => Ty::Type,
            "findAll" | "split" => Ty::List(Box::new(Ty::String)),
            "sort" | "distinct" | "slice" | "reverse" => types.first().cloned().unwrap_or(Ty::Dyn),
            "sum" | "min" | "max" => match types.first() {
                Some(Ty::List(of)) => (**of).clone(),
                _ => Ty::Dyn,
            },
            name if name == KEYS => Ty::List(Box::new(match types.first() {
                Some(Ty::List(_)) => Ty::Int,
                Some(Ty::Map(_)) => Ty::String,
                _ => Ty::Dyn,
            })),
            "orValue" | "value" => match types.first() {
                Some(Ty::Optional(of)) => (**of).clone(),
                _ => Ty::Dyn,
            },
            name if OTHERS.contains(&name) => Ty::Dyn,
            other => {
                let message = format!("undeclared reference to '{other}' (in container '')");
                return Err(self.error(&format!("{other}("), &message));
            }
        };
        Ok(known)
    }
}

/// Names before the dot of functions that belong to no value.
pub(super) const LIBRARIES: [&str; 6] = ["optional", "sets", "format", "ip", "lists", "strings"];

/// Functions whose results aren't followed.
const OTHERS: [&str; 24] = [
    "dyn",
    "url",
    "ip",
    "cidr",
    "quantity",
    "semver",
    "getQuery",
    "add",
    "sub",
    "first",
    "last",
    "flatten",
    "masked",
    "validate",
    "or",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
    "range",
    "of",
    "none",
];

/// The type of elements of a list, when there is another one.
fn one_type<'s>(known: Option<Ty<'s>>, next: Ty<'s>) -> Ty<'s> {
    match known {
        None => next,
        Some(known) => join(known, next),
    }
}

/// The type of what may be of either: as in cel-go the more general one, where one is the other's.
fn join<'s>(one: Ty<'s>, other: Ty<'s>) -> Ty<'s> {
    match (one, other) {
        (Ty::Dyn, _) | (_, Ty::Dyn) => Ty::Dyn,
        // An empty list is one of anything, and the other says of what.
        (one, other) if one.fits(&other) => one,
        _ => Ty::Dyn,
    }
}

/// Where a name or an operator first stands, not as a part of a longer one.
fn find_word(source: &str, needle: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let name = needle.chars().any(word);
    source.match_indices(needle).map(|(at, _)| at).find(|at| {
        let before = source[..*at].chars().next_back();
        let after = source[at + needle.len()..].chars().next();
        let joined =
            |neighbour: Option<char>, own: Option<char>| name && neighbour.is_some_and(word) && own.is_some_and(word);
        !joined(before, needle.chars().next()) && !joined(after, needle.chars().next_back())
    })
}
