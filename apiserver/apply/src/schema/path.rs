//! The JSONPath of printer columns, selectable fields and scale paths, as `k8s.io/client-go/util/jsonpath` has it:
//! `.spec.x`, `.metadata.labels.app\.kubernetes\.io/name`, `.spec.list[0].x`, `.spec.list[*].x`, `['x']`, `[0:2]`, `..x`, `.*`,
//! `.status.conditions[?(@.type=="Ready")].status`. Keys that are missing give nothing, and so does an index out of bounds.

use std::cmp::Ordering;

use serde_json::Value;

use crate::error::print;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(String);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// `.*` and `[*]`.
    Wildcard,
    /// `..`: the value and everything below.
    Recursive,
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: Option<i64>,
    },
    Index(i64),
    /// `[a,b]`.
    Union(Vec<JsonPath>),
    Filter(Box<Filter>),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    test: Option<(Comparison, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// # Errors
    /// What was found that can't stand there.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let mut steps = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = if let Some(after) = rest.strip_prefix("[?(") {
                filter(after, &mut steps)?
            } else if let Some(after) = rest.strip_prefix("..") {
                if steps.last() == Some(&Step::Recursive) {
                    return Err(PathError("invalid multiple recursive descent".to_owned()));
                }
                steps.push(Step::Recursive);
                if after.starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
                    field(after, &mut steps)
                } else {
                    after
                }
            } else {
                match c {
                    ' ' | '@' | '$' => after,
                    '.' => field(after, &mut steps),
                    '[' => array(after, &mut steps)?,
                    '\n' | '\r' => return Err(PathError("unclosed action".to_owned())),
                    c if c == '_' || c.is_alphabetic() => {
                        let word = rest[..terminator(rest)].to_owned();
                        return Err(PathError(format!("unrecognized identifier {word}")));
                    }
                    c => {
                        let code = u32::from(c);
                        return Err(PathError(format!("unrecognized character in action: U+{code:04X} '{c}'")));
                    }
                }
            };
        }
        Ok(Self { steps })
    }

    /// Everything that the path leads to.
    #[must_use]
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.walk(vec![value]).unwrap_or_default()
    }

    fn walk<'v>(&self, from: Vec<&'v Value>) -> Option<Vec<&'v Value>> {
        self.steps.iter().try_fold(from, |found, step| {
            let mut next = Vec::new();
            if let Step::Union(paths) = step {
                // One path after the other, each from all values (jsonpath.evalUnion): what is printed is what the first path finds.
                for path in paths {
                    next.extend(path.walk(found.clone())?);
                }
            } else {
                for value in found {
                    step.follow(value, &mut next)?;
                }
            }
            Some(next)
        })
    }

    /// The first value that the path leads to, unless that is null.
    #[must_use]
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.find(value).into_iter().next().filter(|value| !value.is_null())
    }

    /// The text of the value, as field selectors compare it; empty when there is none.
    #[must_use]
    pub fn text(&self, value: &Value) -> String {
        match self.first(value) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => print::bad_value(other),
        }
    }
}

/// How far a name reaches; a backslash takes the character behind it along.
fn terminator(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}' => return i,
            _ => {}
        }
    }
    text.len()
}

fn field<'a>(rest: &'a str, steps: &mut Vec<Step>) -> &'a str {
    let (name, rest) = rest.split_at(terminator(rest));
    match name {
        // A dot alone is the value itself.
        "" => {}
        "*" => steps.push(Step::Wildcard),
        name => steps.push(Step::Field(name.replace('\\', ""))),
    }
    rest
}

fn array<'a>(after: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, PathError> {
    let Some((text, rest)) = after.split_once(']').filter(|(text, _)| !text.contains('\n')) else {
        return Err(PathError("unterminated array".to_owned()));
    };
    steps.extend(array_steps(text)?);
    Ok(rest)
}

fn array_steps(text: &str) -> Result<Vec<Step>, PathError> {
    if text == "*" {
        return Ok(vec![Step::Wildcard]);
    }
    if text.contains(',') {
        let parts: Result<Vec<JsonPath>, PathError> =
            text.split(',').map(|part| Ok(JsonPath { steps: array_steps(part.trim_matches(' '))? })).collect();
        return Ok(vec![Step::Union(parts?)]);
    }
    let quoted = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|t| !t.contains('\''));
    if let Some(name) = quoted {
        // `['a.b']` is `.a.b`, `['a\.b']` the one field.
        return JsonPath::parse(&format!(".{name}")).map(|path| path.steps);
    }
    let bad = || PathError(format!("invalid array index {text}"));
    let number = |part: &str| match part {
        "" => Ok(None),
        part => part.parse::<i64>().map(Some).map_err(|_| bad()),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [index] => Ok(vec![Step::Index(number(index)?.unwrap_or(0))]),
        [start, end] => Ok(vec![Step::Slice { start: number(start)?, end: number(end)?, step: None }]),
        [start, end, step] => Ok(vec![Step::Slice { start: number(start)?, end: number(end)?, step: number(step)? }]),
        _ => Err(bad()),
    }
}

/// `after` begins behind `[?(`.
fn filter<'a>(after: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, PathError> {
    let mut quote = None;
    let mut previous = ' ';
    let end = after.char_indices().find(|(_, c)| {
        let closes = quote.is_none() && *c == ')';
        match quote {
            None if matches!(c, '"' | '\'') => quote = Some(*c),
            Some(q) if q == *c && previous != '\\' => quote = None,
            _ => {}
        }
        previous = *c;
        closes
    });
    let Some((end, _)) = end else { return Err(PathError("unterminated filter".to_owned())) };
    let Some(rest) = after[end + 1..].strip_prefix(']') else {
        return Err(PathError("unclosed array expect ]".to_owned()));
    };
    let text = &after[..end];
    let operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
    let parsed = match text.find(operator).filter(|at| *at > 0) {
        None => Filter { left: operand(text)?, test: None },
        Some(at) => {
            let length = text[at..].find(|c| !operator(c)).unwrap_or(text.len() - at);
            let (word, right) = text[at..].split_at(length);
            let comparison = match word {
                "==" => Comparison::Equal,
                "!=" => Comparison::NotEqual,
                "<" => Comparison::Less,
                "<=" => Comparison::LessOrEqual,
                ">" => Comparison::Greater,
                ">=" => Comparison::GreaterOrEqual,
                other => return Err(PathError(format!("unrecognized filter operator {other}"))),
            };
            Filter { left: operand(&text[..at])?, test: Some((comparison, operand(right)?)) }
        }
    };
    steps.push(Step::Filter(Box::new(parsed)));
    Ok(rest)
}

fn operand(text: &str) -> Result<Operand, PathError> {
    let text = text.trim();
    let quoted = ['"', '\''].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q));
    if let Some(inner) = quoted {
        return Ok(Operand::Literal(Value::from(inner.replace("\\\"", "\"").replace("\\'", "'"))));
    }
    match text {
        "true" => return Ok(Operand::Literal(Value::Bool(true))),
        "false" => return Ok(Operand::Literal(Value::Bool(false))),
        _ => {}
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        let number = text.trim_start_matches('+');
        return number
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| number.parse::<f64>().map(Value::from))
            .map(Operand::Literal)
            .map_err(|_| PathError(format!("cannot parse number {text}")));
    }
    JsonPath::parse(text).map(Operand::Path)
}

impl Step {
    /// Adds what the step leads to. `None` is an error, after which a path leads nowhere.
    fn follow<'v>(&self, value: &'v Value, found: &mut Vec<&'v Value>) -> Option<()> {
        match self {
            Self::Field(name) => found.extend(value.get(name.as_str())),
            Self::Wildcard => match value {
                Value::Array(items) => found.extend(items),
                Value::Object(map) => found.extend(map.values()),
                _ => {}
            },
            Self::Recursive => descend(value, found),
            Self::Union(paths) => {
                for path in paths {
                    found.extend(path.walk(vec![value])?);
                }
            }
            Self::Index(index) => match value {
                Value::Null => {}
                Value::Array(items) => {
                    let length = i64::try_from(items.len()).ok()?;
                    let index = if *index < 0 { index.checked_add(length)? } else { *index };
                    found.push(items.get(usize::try_from(index).ok()?)?);
                }
                _ => return None,
            },
            Self::Slice { start, end, step } => match value {
                Value::Null => {}
                Value::Array(items) => {
                    let length = i64::try_from(items.len()).ok()?;
                    let place = |at: i64| if at < 0 { at.checked_add(length) } else { Some(at) };
                    let start = place(start.unwrap_or(0))?;
                    let end = place(end.unwrap_or(length))?;
                    if start == end {
                        return Some(());
                    }
                    let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
                    let step = usize::try_from(step.unwrap_or(1)).ok().filter(|step| *step > 0)?;
                    found.extend(items.get(range)?.iter().step_by(step));
                }
                _ => return None,
            },
            Self::Filter(filter) => match value {
                Value::Array(items) => found.extend(items.iter().filter(|item| filter.holds(item))),
                Value::Object(map) => found.extend(map.values().filter(|item| filter.holds(item))),
                Value::Null => {}
                _ => return None,
            },
        }
        Some(())
    }
}

fn descend<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, found)),
        Value::Object(map) => map.values().for_each(|item| descend(item, found)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, value: &Value) -> bool {
        let Some(left) = self.left.value(value) else { return false };
        let Some((comparison, right)) = &self.test else { return true };
        let Some(right) = right.value(value) else { return false };
        let Some(ordering) = compare(left, right) else {
            return *comparison == Comparison::NotEqual && left != right;
        };
        match comparison {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Operand {
    fn value<'v>(&'v self, value: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Path(path) => path.find(value).into_iter().next(),
        }
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        _ => None,
    }
}
