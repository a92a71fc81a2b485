//! `pattern` of a schema, in the syntax of Go's `regexp`, run by the `regex` crate.
//!
//! The two agree but for: Perl classes and `\b` are ASCII in Go; `[`, `&&`, `--` and `~~` have no meaning inside a Go class;
//! `\Q…\E`, `\z`, `\C` and octal escapes exist in Go only; `{` that begins no repetition is a literal there. [`translate`] rewrites
//! them. A pattern matches anywhere in the text, as in Go.

use std::sync::OnceLock;

use regex::Regex;

/// A pattern, compiled when it is first needed.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    source: String,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self { source: source.to_owned(), compiled: OnceLock::new() }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// # Errors
    /// What is wrong with the pattern.
    pub fn matches(&self, text: &str) -> Result<bool, &str> {
        match self.compiled.get_or_init(|| compile(&self.source)) {
            Ok(regex) => Ok(regex.is_match(text)),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// What is wrong with the pattern.
    pub fn check(&self) -> Result<(), &str> {
        self.matches("").map(|_| ())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

fn compile(source: &str) -> Result<Regex, String> {
    let translated = translate(source)?;
    Regex::new(&translated).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("error parsing regexp: expression too large: `{source}`"),
        other => {
            // The crate draws the pattern with a marker over several lines; the last one says what is wrong.
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let said = match last {
                "unclosed group" => "missing closing )",
                "unopened group" => "unexpected )",
                "unclosed character class" => "missing closing ]",
                "repetition operator missing expression" => "missing argument to repetition operator",
                other => other,
            };
            format!("error parsing regexp: {said}: `{source}`")
        }
    })
}

/// Rewrites Go syntax into that of the `regex` crate.
fn translate(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    // The repetition that was just read, which none may follow.
    let mut repetition: Option<&str> = None;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if let Some(length) = repetition_length(rest) {
            let length = if rest[length..].starts_with('?') { length + 1 } else { length };
            let (operator, left) = rest.split_at(length);
            if let Some(before) = repetition {
                let both = format!("{before}{operator}");
                return Err(format!("error parsing regexp: invalid nested repetition operator: `{both}`"));
            }
            out.push_str(operator);
            repetition = Some(operator);
            rest = left;
            continue;
        }
        repetition = None;
        rest = match c {
            '\\' => escape(after, Place::Outside, &mut out)?,
            '[' => class(after, &mut out)?,
            '{' => {
                out.push_str("\\{");
                after
            }
            // Behind an opening parenthesis `?` is no repetition.
            '(' if after.starts_with('?') => {
                out.push_str("(?");
                &after[1..]
            }
            c => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

/// How long the repetition is that a text begins with, without a `?` that makes it lazy.
fn repetition_length(text: &str) -> Option<usize> {
    match text.chars().next()? {
        '*' | '+' | '?' => Some(1),
        '{' if begins_repetition(&text[1..]) => text.find('}').map(|end| end + 1),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    InClass,
}

fn begins_repetition(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else { return false };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// `after` begins behind the backslash; returns what is left.
fn escape<'a>(after: &'a str, place: Place, out: &mut String) -> Result<&'a str, String> {
    let Some(c) = after.chars().next() else {
        return Err("error parsing regexp: trailing backslash at end of expression: ``".to_owned());
    };
    let rest = &after[c.len_utf8()..];
    let outside = place == Place::Outside;
    match c {
        'd' => out.push_str(if outside { "[0-9]" } else { "0-9" }),
        'w' => out.push_str(if outside { "[0-9A-Za-z_]" } else { "0-9A-Za-z_" }),
        's' => out.push_str(if outside { "[\\t\\n\\x0C\\r ]" } else { "\\t\\n\\x0C\\r " }),
        'D' => out.push_str("[^0-9]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'S' => out.push_str("[^\\t\\n\\x0C\\r ]"),
        'b' if outside => out.push_str("(?-u:\\b)"),
        // ASCII non-boundaries may fall inside a character, which the crate refuses; two look-alikes don't exist either.
        'B' if outside => out.push_str("\\B"),
        'Q' if outside => {
            let (literal, left) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(literal));
            return Ok(left);
        }
        'E' if outside => {}
        'C' if outside => out.push_str("(?s:.)"),
        '0'..='7' => {
            let digits: String = after.chars().take(3).take_while(|d| matches!(d, '0'..='7')).collect();
            // `\1` to `\7` alone would be a back reference, which Go refuses.
            if c != '0' && digits.len() < 2 {
                return Err(format!("error parsing regexp: invalid escape sequence: `\\{c}`"));
            }
            let code = u32::from_str_radix(&digits, 8).unwrap_or(0);
            out.push_str(&format!("\\x{{{code:x}}}"));
            return Ok(&after[digits.len()..]);
        }
        'x' | 'p' | 'P' | 'A' | 'z' | 'a' | 'f' | 't' | 'n' | 'r' | 'v' => {
            out.push('\\');
            out.push(c);
        }
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => {
            out.push('\\');
            out.push(c);
        }
        c => return Err(format!("error parsing regexp: invalid escape sequence: `\\{c}`")),
    }
    Ok(rest)
}

/// `after` begins behind the opening bracket; returns what is left behind the closing one.
fn class<'a>(after: &'a str, out: &mut String) -> Result<&'a str, String> {
    out.push('[');
    let mut rest = after;
    if let Some(left) = rest.strip_prefix('^') {
        out.push('^');
        rest = left;
    }
    let mut first = true;
    loop {
        let Some(c) = rest.chars().next() else {
            return Err(format!("error parsing regexp: missing closing ]: `[{after}`"));
        };
        let left = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !first => {
                out.push(']');
                return Ok(left);
            }
            '[' if left.starts_with(':') && left[1..].contains(":]") => {
                let end = left.find(":]").map_or(left.len(), |at| at + 2);
                out.push('[');
                out.push_str(&left[..end]);
                &left[end..]
            }
            '\\' => escape(left, Place::InClass, out)?,
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                left
            }
            c => {
                out.push(c);
                left
            }
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax() {
        for (pattern, text, expected) in [
            ("^\\d+$", "12", true),
            ("^\\d+$", "٣", false),
            ("^[\\w.-]+$", "a_b.c-d", true),
            ("^[[a]+$", "[a[", true),
            ("^[a&&b]$", "&", true),
            ("^\\Qa.b\\E$", "a.b", true),
            ("^\\Qa.b\\E$", "axb", false),
            ("^x{,3}$", "x{,3}", true),
            ("^x{2}$", "xx", true),
            ("^[[:alpha:]]+$", "abc", true),
            ("^[]a]+$", "]a", true),
            ("^\\101$", "A", true),
            ("b+", "abbc", true),
            ("^[^/]+/[^/]+$", "a/b", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), Ok(expected), "{pattern} on {text}");
        }
        assert_eq!(Pattern::new("^(?:a|b)*?c??d{2}?$").matches("abcdd"), Ok(true));
        for bad in ["(", "[a", "\\1", "a**", "a{2}{3}", "a+?*", "\\", "*"] {
            let error = Pattern::new(bad).check().map_err(str::to_owned).unwrap_err();
            assert!(error.starts_with("error parsing regexp: "), "{bad}: {error}");
        }
    }
}
