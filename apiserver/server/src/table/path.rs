//! JSONPath as printer columns use it: a template's inside without braces, such as `.status.conditions[?(@.type=="Ready")].status`.
//!
//! Supported: `.name`, `['name']`, `\.` in a name, `[3]`, `[-1]`, `[1:3]`, `[*]`, `.*`, `..name` and filters `[?(@.path OP value)]` with
//! `== != < <= > >=` or no operator (existence). Missing keys find nothing. After `k8s.io/client-go/util/jsonpath`.

use std::cmp::Ordering;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Child(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// `..`: the node and everything below it.
    Descend,
    Filter(Path, Option<(Operator, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A parsed path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

impl Path {
    /// # Errors
    /// Says what is wrong and at which byte.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, at: 0 };
        let path = parser.path()?;
        if parser.at < text.len() { Err(parser.error("expected '.' or '['")) } else { Ok(path) }
    }

    /// The first value that the path finds.
    #[must_use]
    pub fn first<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.find(object).into_iter().next()
    }

    /// Every value that the path finds, in document order.
    #[must_use]
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.steps
            .iter()
            .fold(vec![object], |found, step| found.into_iter().flat_map(|value| step.apply(value)).collect())
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Child(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                position(*index, items.len()).and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice(from, to) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let bound = |given: Option<i64>, otherwise: usize| {
                    given
                        .map_or(otherwise, |given| position(given, items.len()).unwrap_or(items.len()).min(items.len()))
                };
                let (from, to) = (bound(*from, 0), bound(*to, items.len()));
                items.get(from..to.max(from)).unwrap_or_default().iter().collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Descend => {
                let mut all = Vec::new();
                descend(value, &mut all);
                all
            }
            Self::Filter(path, test) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                items
                    .iter()
                    .filter(|item| match (path.first(item), test) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some(found), Some((operator, wanted))) => operator.holds(found, wanted),
                    })
                    .collect()
            }
        }
    }
}

fn descend<'a>(value: &'a Value, all: &mut Vec<&'a Value>) {
    all.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, all)),
        Value::Object(map) => map.values().for_each(|item| descend(item, all)),
        _ => {}
    }
}

/// A place in a list of this length; negative ones count from the end.
fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => usize::try_from(index.unsigned_abs()).ok().and_then(|back| length.checked_sub(back)),
    }
}

impl Operator {
    fn holds(self, found: &Value, wanted: &Value) -> bool {
        let order = match (found, wanted) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn error(&self, what: &str) -> String {
        format!("{what} at byte {} of {:?}", self.at, self.text)
    }

    fn path(&mut self) -> Result<Path, String> {
        let mut steps = Vec::new();
        // `metadata.name` and `$.metadata.name` are taken too.
        if !self.take("$") && !self.rest().is_empty() && !self.rest().starts_with(['.', '[']) {
            steps.push(Step::Child(self.name()?));
        }
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                if !self.rest().starts_with('[') {
                    steps.push(self.child()?);
                }
            } else if self.take(".") {
                // A lone dot is the root.
                if !self.rest().is_empty() && !self.rest().starts_with('[') {
                    steps.push(self.child()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(Path { steps });
            }
        }
    }

    fn child(&mut self) -> Result<Step, String> {
        if self.take("*") { Ok(Step::All) } else { Ok(Step::Child(self.name()?)) }
    }

    /// Up to the next of `.[` and, inside a filter, operators and the closing parenthesis; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(c) = self.rest().chars().next() {
            match c {
                '.' | '[' | ']' | ')' | '=' | '!' | '<' | '>' | ' ' => break,
                '\\' => {
                    self.at += 1;
                    let Some(escaped) = self.rest().chars().next() else { break };
                    name.push(escaped);
                    self.at += escaped.len_utf8();
                }
                c => {
                    name.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        if name.is_empty() { Err(self.error("expected a name")) } else { Ok(name) }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.spaces();
        let step = if self.take("?(") {
            self.filter()?
        } else if self.take("*") {
            Step::All
        } else if self.rest().starts_with(['\'', '"']) {
            Step::Child(self.quoted()?)
        } else {
            let from = self.integer()?;
            if self.take(":") {
                Step::Slice(from, self.integer()?)
            } else {
                Step::Index(from.ok_or_else(|| self.error("expected an index, '*', a quoted name or a filter"))?)
            }
        };
        self.spaces();
        if self.take("]") { Ok(step) } else { Err(self.error("expected ']'")) }
    }

    fn filter(&mut self) -> Result<Step, String> {
        self.spaces();
        if !self.take("@") {
            return Err(self.error("expected '@'"));
        }
        let path = self.path()?;
        self.spaces();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let operator = operators.into_iter().find(|(token, _)| self.take(token)).map(|(_, operator)| operator);
        let test = match operator {
            None => None,
            Some(operator) => {
                self.spaces();
                Some((operator, self.literal()?))
            }
        };
        self.spaces();
        if self.take(")") { Ok(Step::Filter(path, test)) } else { Err(self.error("expected ')'")) }
    }

    fn literal(&mut self) -> Result<Value, String> {
        if self.rest().starts_with(['\'', '"']) {
            return Ok(Value::String(self.quoted()?));
        }
        let word: String = self.rest().chars().take_while(|c| !matches!(c, ')' | ' ')).collect();
        self.at += word.len();
        serde_json::from_str(&word).map_err(|_| self.error("expected a quoted text, a number, true or false"))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let Some(quote) = self.rest().chars().next() else { return Err(self.error("expected a quote")) };
        self.at += quote.len_utf8();
        let mut text = String::new();
        let mut escaped = false;
        while let Some(c) = self.rest().chars().next() {
            self.at += c.len_utf8();
            if escaped || (c != quote && c != '\\') {
                text.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else {
                return Ok(text);
            }
        }
        Err(self.error("unterminated quote"))
    }

    fn integer(&mut self) -> Result<Option<i64>, String> {
        let digits: String = self
            .rest()
            .char_indices()
            .take_while(|(i, c)| c.is_ascii_digit() || (*i == 0 && *c == '-'))
            .map(|(_, c)| c)
            .collect();
        if digits.is_empty() {
            return Ok(None);
        }
        self.at += digits.len();
        digits.parse().map(Some).map_err(|_| self.error("expected an integer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object = json!({
            "spec": {"a": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, {"n": "z"}], "a.b/c": "dotted"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Odd", "status": "False"}]},
        });
        let cases = [
            (".spec.a", json!([1])),
            ("spec.a", json!([1])),
            ("$.spec.a", json!([1])),
            (".spec.absent.deeper", json!([])),
            (".spec.list[1].n", json!(["y"])),
            (".spec.list[-1].n", json!(["z"])),
            (".spec.list[9].n", json!([])),
            (".spec.list[0:2].n", json!(["x", "y"])),
            (".spec.list[*].n", json!(["x", "y", "z"])),
            (".spec.list[*].v", json!([1, 2])),
            (r".spec.a\.b/c", json!(["dotted"])),
            (".spec['a.b/c']", json!(["dotted"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type == 'Odd')].status", json!(["False"])),
            (".spec.list[?(@.v>1)].n", json!(["y"])),
            (".spec.list[?(@.v)].n", json!(["x", "y"])),
            (".spec.list[?(@.n!='x')].n", json!(["y", "z"])),
            ("..status", json!([object["status"], "True", "False"])),
        ];
        for (path, expected) in cases {
            let found: Vec<Value> = Path::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (path, expected) in [
            (".spec.[", "expected an index"),
            (".spec[", "expected an index"),
            (".a[?(type)]", "expected '@' at byte 5"),
            (".a[?(@.b==)]", "expected a quoted text"),
            (".a['b", "unterminated quote"),
            (".a..", "expected a name at byte 4"),
            (".a)", "expected '.' or '['"),
        ] {
            let error = Path::parse(path).unwrap_err();
            assert!(error.contains(expected), "{path}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            if let Ok(path) = Path::parse(&text) {
                let _ = path.find(&json!({"a": [{"b": 1}], "é": null}));
            }
        }
    }
}
