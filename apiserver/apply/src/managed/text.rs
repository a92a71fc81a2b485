//! How the API server prints JSON values in messages, and how it writes them inside field paths.
//!
//! Messages carry values in the notation of Go's `fmt` (`map[a:1]`, `[x y]`, `<nil>`), because that is what clients have always
//! been shown. Inside `fieldsV1` keys, values are JSON in the spelling of Go's encoder: floats in the shortest form without a
//! trailing `.0`, and `<`, `>` and `&` escaped.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// `%v`.
pub(crate) fn plain(value: &Value) -> String {
    let mut out = String::new();
    write_plain(&mut out, value);
    out
}

fn write_plain(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number_plain(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                write_plain(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (at, (name, field)) in sorted(fields).into_iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write_plain(out, field);
            }
            out.push(']');
        }
    }
}

/// `%#v`.
pub(crate) fn source(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_plain(number),
        Value::String(text) => quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(source).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                sorted(fields).into_iter().map(|(name, field)| format!("{}:{}", quote(name), source(field))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
    }
}

/// `%T`.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%q`.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            _ if letter < ' ' || letter == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(letter));
            }
            _ if letter.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A value in a printed path: strings quoted, everything else plain.
pub(crate) fn in_path(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(in_path).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            sorted(fields).into_iter().map(|(name, field)| format!("{name}={}", in_path(field))).collect()
        }
        other => plain(other),
    }
}

fn sorted(fields: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    fields
}

fn number_plain(number: &Number) -> String {
    match (number.is_f64(), number.as_f64()) {
        // %v turns to an exponent below 1e-4 and from 1e21 on.
        (true, Some(float)) => float_text(float, 1e-4, 2),
        _ => number.to_string(),
    }
}

/// A float as Go prints it; an exponent below `small` and from 1e21 on, padded to `digits`.
fn float_text(float: f64, small: f64, digits: usize) -> String {
    let size = float.abs();
    if size == 0.0 || (size >= small && size < 1e21) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{mantissa}e{sign}{exponent:0>digits$}")
        }
        None => text,
    }
}

/// JSON with `<`, `>`, `&` and the line separators escaped in strings, object keys sorted.
pub(crate) fn write_json(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => match (number.is_f64(), number.as_f64()) {
            (true, Some(float)) => out.push_str(&float_text(float, 1e-6, 1)),
            _ => {
                let _ = write!(out, "{number}");
            }
        },
        Value::String(text) => write_string(out, text, Html::Escaped),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_json(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (at, (name, field)) in sorted(fields).into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_string(out, name, Html::Escaped);
                out.push(':');
                write_json(out, field);
            }
            out.push('}');
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Html {
    Escaped,
    Plain,
}

/// A JSON string, quotes included.
pub(crate) fn write_string(out: &mut String, text: &str, html: Html) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if html == Html::Escaped => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ if letter < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_go_prints_them() {
        let table = [
            (json!(null), "<nil>"),
            (json!(true), "true"),
            (json!(1.0), "1"),
            (json!(0.00001), "1e-05"),
            (json!(1e21), "1e+21"),
            (json!("a b"), "a b"),
            (json!({"b": [1, "x"], "a": null}), "map[a:<nil> b:[1 x]]"),
        ];
        for (value, expected) in table {
            assert_eq!(plain(&value), expected);
        }
        assert_eq!(source(&json!({"a": [1, "x"]})), r#"map[string]interface {}{"a":[]interface {}{1, "x"}}"#);
        assert_eq!(quote("a\"\u{1}ü\n"), r#""a\"\x01ü\n""#);
        assert_eq!(in_path(&json!(443)), "443");
        assert_eq!(in_path(&json!("tcp")), r#""tcp""#);
    }

    #[test]
    fn json_in_paths_is_spelt_as_go_spells_it() {
        let table = [
            (json!(1.0), "1"),
            (json!(1.5), "1.5"),
            (json!(1e-7), "1e-7"),
            (json!(1e21), "1e+21"),
            (json!("a<b>&"), r#""a\u003cb\u003e\u0026""#),
            (json!("tab\t\u{8}"), r#""tab\t\u0008""#),
            (json!({"b": 1, "a": [true, null]}), r#"{"a":[true,null],"b":1}"#),
        ];
        for (value, expected) in table {
            let mut out = String::new();
            write_json(&mut out, &value);
            assert_eq!(out, expected);
        }
    }
}
