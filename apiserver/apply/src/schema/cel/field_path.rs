//! `fieldPath` of a rule: `.spec.replicas`, `.labels['app']`. Fields of the schema only, no elements of lists.

use crate::error::Path;
use crate::schema::{Additional, Schema};

/// The path as errors show it, below the node that has the rule.
///
/// # Errors
/// What is wrong with the path, in the words of Kubernetes.
pub fn parse(path: &str, schema: &Schema, notation: ArrayNotation) -> Result<String, String> {
    parse_with(path, schema, notation).map(|(shown, _)| shown)
}

/// As [`parse`], with the schema that the path leads to.
///
/// # Errors
/// What is wrong with the path, in the words of Kubernetes.
pub fn parse_with<'s>(path: &str, schema: &'s Schema, notation: ArrayNotation) -> Result<(String, &'s Schema), String> {
    let mut tokens = Tokens { rest: path };
    let mut schema = schema;
    let mut shown = String::new();
    while let Some(token) = tokens.next() {
        let name = match token {
            "." => tokens.next().ok_or("unexpected end of JSON path")?.to_owned(),
            "[" => {
                if notation == ArrayNotation::Forbidden {
                    return Err("array notation is not allowed".to_owned());
                }
                let quoted = tokens.next().ok_or("unexpected end of JSON path")?;
                let inner = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\''));
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                unescape(inner)?
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        let (parent, below) = (std::mem::take(&mut shown), schema);
        let parent = if parent.is_empty() { Path::Root } else { Path::At(&parent) };
        if !below.properties.is_empty() {
            schema = below.properties.get(&name).ok_or("does not refer to a valid field")?;
            shown = parent.child(&name).to_string();
        } else if let Some(Additional::Of(of)) = &below.additional {
            schema = of;
            shown = parent.key(&name).to_string();
        } else {
            return Err("does not refer to a valid field".to_owned());
        }
        if token == "[" {
            let close = tokens.next().ok_or("unexpected end of JSON path")?;
            if close != "]" {
                return Err(format!("expected ] but got {close}"));
            }
        }
    }
    Ok((shown, schema))
}

/// Whether `['name']` may stand for `.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayNotation {
    Allowed,
    Forbidden,
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let first = self.rest.chars().next()?;
        let length = match first {
            '.' | '[' | ']' => 1,
            '\'' => {
                let bytes = self.rest.as_bytes();
                (1..bytes.len())
                    .find(|i| bytes.get(*i) == Some(&b'\'') && bytes.get(i - 1) != Some(&b'\\'))
                    .map_or(self.rest.len(), |end| end + 1)
            }
            _ => self.rest.find(['.', '[', ']']).unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(token)
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(c @ ('\'' | '\\')) => out.push(c),
            Some(c) => return Err(format!("invalid string literal: invalid escape char \\{c}")),
            // A lone backslash at the end is no escape.
            None => out.push('\\'),
        }
    }
    Ok(out)
}
