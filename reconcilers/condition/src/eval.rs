//! Evaluation of a condition, and which fields of which signals it reads.

use std::collections::BTreeSet;
use std::fmt;

use pullpiri_crds::scenario::{Express, ObservedValue, ScenarioCondition, Term, Truth};

use crate::and;
use crate::decimal::Decimal;

/// A field of a signal, as a condition names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field {
    pub topic: String,
    pub field: String,
}

/// Where values come from: the latest sample of each topic.
pub trait Values {
    /// The value of `field` in the latest sample of `topic`, if there is one.
    fn value(&self, topic: &str, field: &str) -> Option<&str>;
}

impl Values for std::collections::BTreeMap<(String, String), String> {
    fn value(&self, topic: &str, field: &str) -> Option<&str> {
        self.get(&(topic.to_owned(), field.to_owned())).map(String::as_str)
    }
}

/// Why a term can't be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The signal, or this field of it, has no value yet.
    NoValue,
    /// An order was asked for, but the signal's value isn't a number.
    ValueHasNoOrder,
    /// An order was asked for, but the condition's own value isn't a number: no sample can ever decide it.
    ConditionHasNoOrder,
}

/// A term that can't be decided, and why. The text names no value of the signal, so that it stays the same from sample to sample.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Undecided {
    pub why: Why,
    pub field: Field,
    pub express: &'static str,
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Field { topic, field } = &self.field;
        match self.why {
            Why::NoValue => write!(f, "signal {topic} has no value for field {field} yet"),
            Why::ValueHasNoOrder => {
                write!(
                    f,
                    "signal {topic}, field {field}: {} needs a number, but the signal's value isn't one",
                    self.express
                )
            }
            Why::ConditionHasNoOrder => write!(
                f,
                "signal {topic}, field {field}: {} needs a number, but the condition's value isn't one (expected digits, optionally with a sign and a fraction)",
                self.express
            ),
        }
    }
}

/// What a condition amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub truth: Truth,
    /// The values that were compared, ordered, each field once.
    pub values: Vec<ObservedValue>,
    /// The terms that couldn't be decided, whether or not the truth depends on them.
    pub undecided: Vec<Undecided>,
}

/// Evaluates a condition over the values that are known. A condition without terms holds.
#[must_use]
pub fn evaluate(condition: &ScenarioCondition, values: &impl Values) -> Evaluation {
    let mut truth = Truth::True;
    let mut undecided = BTreeSet::new();
    for term in condition.terms() {
        match compare(term, values.value(&term.operands.value, &term.operands.name)) {
            Ok(holds) => truth = and(truth, if holds { Truth::True } else { Truth::False }),
            Err(why) => {
                truth = and(truth, Truth::Unknown);
                undecided.insert(Undecided { why, field: field_of(term), express: express(term.express) });
            }
        }
    }
    let values = fields(condition)
        .into_iter()
        .map(|Field { topic, field }| {
            let value = values.value(&topic, &field).map(ToOwned::to_owned);
            ObservedValue { topic, field, value }
        })
        .collect();
    Evaluation { truth, values, undecided: undecided.into_iter().collect() }
}

/// The fields that a condition reads, ordered, each once.
#[must_use]
pub fn fields(condition: &ScenarioCondition) -> BTreeSet<Field> {
    condition.terms().iter().map(field_of).collect()
}

/// The terms that no sample can ever decide.
#[must_use]
pub fn invalid_terms(condition: &ScenarioCondition) -> Vec<Undecided> {
    condition
        .terms()
        .iter()
        .filter(|term| orders(term.express) && Decimal::parse(&term.value).is_none())
        .map(|term| Undecided { why: Why::ConditionHasNoOrder, field: field_of(term), express: express(term.express) })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn field_of(term: &Term) -> Field {
    Field { topic: term.operands.value.clone(), field: term.operands.name.clone() }
}

const fn orders(express: Express) -> bool {
    match express {
        Express::Eq | Express::Ne => false,
        Express::Lt | Express::Le | Express::Gt | Express::Ge => true,
    }
}

const fn express(express: Express) -> &'static str {
    match express {
        Express::Eq => "eq",
        Express::Ne => "ne",
        Express::Lt => "lt",
        Express::Le => "le",
        Express::Gt => "gt",
        Express::Ge => "ge",
    }
}

fn compare(term: &Term, value: Option<&str>) -> Result<bool, Why> {
    let wanted = Decimal::parse(&term.value);
    if orders(term.express) && wanted.is_none() {
        return Err(Why::ConditionHasNoOrder);
    }
    let value = value.ok_or(Why::NoValue)?;
    if let (Some(left), Some(right)) = (Decimal::parse(value), wanted) {
        return Ok(match term.express {
            Express::Eq => left == right,
            Express::Ne => left != right,
            Express::Lt => left < right,
            Express::Le => left <= right,
            Express::Gt => left > right,
            Express::Ge => left >= right,
        });
    }
    let equal = match (boolean(value), boolean(&term.value)) {
        (Some(left), Some(right)) => left == right,
        _ => value == term.value,
    };
    match term.express {
        Express::Eq => Ok(equal),
        Express::Ne => Ok(!equal),
        Express::Lt | Express::Le | Express::Gt | Express::Ge => Err(Why::ValueHasNoOrder),
    }
}

fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}
