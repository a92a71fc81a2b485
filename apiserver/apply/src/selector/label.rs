//! `a=b,c!=d,e in (x,y),!f,g,h>1`: requirements on labels, all of which must hold.
//!
//! The scanner and the parser follow `k8s.io/apimachinery/pkg/labels`, since its errors name the token found. Requirements are
//! kept sorted by key, so a selector prints the same whatever order it was given in.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::SelectorError;
use crate::error::{FieldError, aggregate, print};
use crate::metadata::name;

/// What a requirement asks of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Exists,
    DoesNotExist,
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    GreaterThan,
    LessThan,
}

const BINARY: &str = "in, notin, =, ==, !=, gt, lt";

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// # Errors
    /// Every rule that key, operator or values violate.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors: Vec<FieldError> = check_key(key, "key").into_iter().collect();
        let shown = || Value::from(values.clone());
        let mut bad_values = |detail: &str| errors.push(FieldError::invalid("values", shown(), detail));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                bad_values("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                bad_values("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                bad_values("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                bad_values("for 'Gt', 'Lt' operators, exactly one value is required");
            }
            _ => {}
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(format!("values[{i}]"), value.as_str(), detail));
            }
        }
        for (i, value) in values.iter().enumerate() {
            let complaints = name::label_value(value);
            if !complaints.is_empty() {
                let path = format!("values[{i}][{key}]");
                errors.push(FieldError::invalid(path, value.as_str(), complaints.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(SelectorError(aggregate(&errors)))
        }
    }

    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    #[must_use]
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether it holds for a value; `None` means that the label isn't there.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|one| one == value);
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::GreaterThan => self.compare(value).is_some_and(std::cmp::Ordering::is_gt),
            Operator::LessThan => self.compare(value).is_some_and(std::cmp::Ordering::is_lt),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<std::cmp::Ordering> {
        let given: i64 = value?.parse().ok()?;
        let bound: i64 = self.values.first()?.parse().ok()?;
        Some(given.cmp(&bound))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort_unstable();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements that must all hold. An empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The selector of a `LabelSelector` that is null.
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Parses the text of a `labelSelector` parameter.
    ///
    /// # Errors
    /// What was found where something else was expected, or which key or value is no label.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { tokens: scan(text), position: 0 }.selector().map(Self::new)
    }

    /// From a `metav1.LabelSelector` object: `matchLabels` and `matchExpressions`. Null selects nothing, `{}` everything.
    ///
    /// # Errors
    /// The first requirement that isn't valid.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let Some(selector) = selector.as_object() else {
            return if selector.is_null() {
                Ok(Self::nothing())
            } else {
                Err(SelectorError(format!("a label selector must be an object, not {}", print::json(selector))))
            };
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self::new(requirements))
    }

    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether `labels`, the `metadata.labels` of an object, fit.
    #[must_use]
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Whether labels fit, given how to look one up.
    #[must_use]
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

fn from_expression(expression: &Value) -> Result<Requirement, SelectorError> {
    let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(SelectorError(format!("{} is not a valid label selector operator", print::quote(other)))),
    };
    let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
    let values = values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
    Requirement::new(text("key"), operator, values)
}

fn check_key(key: &str, path: &str) -> Option<FieldError> {
    let complaints = name::qualified_name(key);
    (!complaints.is_empty()).then(|| FieldError::invalid(path, key, complaints.join("; ")))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Error(String),
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier(String),
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

impl Token {
    /// The text in `found '…'`.
    fn text(&self) -> &str {
        match self {
            Self::Error(text) | Self::Identifier(text) => text,
            Self::End => "",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::DoubleEquals => "==",
            Self::Equals => "=",
            Self::Greater => ">",
            Self::In => "in",
            Self::Less => "<",
            Self::NotEquals => "!=",
            Self::NotIn => "notin",
            Self::Open => "(",
        }
    }

    /// Where a name or a value is wanted, `in` and `notin` are ordinary words.
    fn as_identifier(&self) -> Option<&str> {
        match self {
            Self::Identifier(_) | Self::In | Self::NotIn => Some(self.text()),
            _ => None,
        }
    }

    fn symbol(text: &str) -> Option<Self> {
        Some(match text {
            ")" => Self::Close,
            "," => Self::Comma,
            "!" => Self::Not,
            "==" => Self::DoubleEquals,
            "=" => Self::Equals,
            ">" => Self::Greater,
            "<" => Self::Less,
            "!=" => Self::NotEquals,
            "(" => Self::Open,
            _ => return None,
        })
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn scan(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(c) = rest.chars().next().filter(|c| *c != '\0') {
        let length = if is_symbol(c) {
            let run = rest.find(|c| !is_symbol(c)).unwrap_or(rest.len());
            // The longest known symbol; behind it another begins.
            let longest = (1..=run.min(2)).rev().find_map(|n| Some((n, Token::symbol(&rest[..n])?)));
            let (length, token) = longest
                .unwrap_or_else(|| (run, Token::Error(format!("error expected: keyword found '{}'", &rest[..run]))));
            tokens.push(token);
            length
        } else {
            let length = rest.find(|c| is_symbol(c) || is_space(c) || c == '\0').unwrap_or(rest.len());
            tokens.push(match &rest[..length] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                word => Token::Identifier(word.to_owned()),
            });
            length
        };
        rest = rest[length..].trim_start_matches(is_space);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.position).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn selector(mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                token if token.as_identifier().is_some() || *token == Token::Not => {
                    let requirement = self.requirement();
                    requirements
                        .push(requirement.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
                }
                token => return Err(found(token, ", expected: !, identifier, or 'end of string'")),
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Comma => {
                    let next = self.peek();
                    if next.as_identifier().is_none() && *next != Token::Not {
                        return Err(found(next, ", expected: identifier after ','"));
                    }
                }
                token => return Err(found(&token, ", expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut operator = Operator::Exists;
        let mut token = self.next();
        if token == Token::Not {
            operator = Operator::DoesNotExist;
            token = self.next();
        }
        let Some(key) = token.as_identifier().map(str::to_owned) else {
            return Err(found(&token, ", expected: identifier"));
        };
        if let Some(error) = check_key(&key, "<nil>") {
            return Err(SelectorError(error.to_string()));
        }
        let ends = matches!(self.peek(), Token::End | Token::Comma);
        if ends || operator == Operator::DoesNotExist {
            return Requirement::new(&key, operator, Vec::new());
        }
        let operator = match self.next() {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            token => return Err(found(&token, &format!(", expected: {BINARY}"))),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        Requirement::new(&key, operator, values.into_iter().collect())
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        let token = self.next();
        token.as_identifier().map(str::to_owned).ok_or_else(|| found(&token, ", expected: identifier"))
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let open = self.next();
        if open != Token::Open {
            return Err(found(&open, " expected: '('"));
        }
        let first = self.peek().clone();
        if first == Token::Close {
            self.position += 1;
            return Ok(BTreeSet::from([String::new()]));
        }
        if first.as_identifier().is_none() && first != Token::Comma {
            return Err(found(&first, ", expected: ',', ')' or identifier"));
        }
        let values = self.identifiers()?;
        if self.next() != Token::Close {
            return Err(found(&first, ", expected: ')'"));
        }
        Ok(values)
    }

    /// Up to the closing parenthesis. An empty place between commas is the empty value.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            let token = self.next();
            if let Some(value) = token.as_identifier() {
                values.insert(value.to_owned());
                match self.peek() {
                    Token::Comma => {}
                    Token::Close => return Ok(values),
                    other => return Err(found(other, ", expected: ',' or ')'")),
                }
            } else if token == Token::Comma {
                if values.is_empty() {
                    values.insert(String::new());
                }
                match self.peek() {
                    Token::Close => {
                        values.insert(String::new());
                        return Ok(values);
                    }
                    Token::Comma => {
                        values.insert(String::new());
                    }
                    _ => {}
                }
            } else {
                return Err(found(&token, ", expected: ',', or identifier"));
            }
        }
    }
}

fn found(token: &Token, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}'{expected}", token.text()))
}
