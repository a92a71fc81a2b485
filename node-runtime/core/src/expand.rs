//! `$(NAME)` in commands, arguments and environment values.
//!
//! The rules are Kubernetes': `$(NAME)` is replaced by the variable's value, or stays as it is if there is none; `$$` is a dollar sign, so
//! that `$$(NAME)` is the text `$(NAME)`; any other `$` is itself. What a value contains isn't expanded again.

/// `text` with every reference replaced for which `lookup` has a value.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_escapes_and_everything_else() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "" => Some("empty"),
            _ => None,
        };
        for (given, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$", "$"),
            ("$x", "$x"),
            ("$(A", "$(A"),
            ("$()", "empty"),
            ("ü$(A)ü", "ü1ü"),
            ("", ""),
        ] {
            assert_eq!(expand(given, lookup), expected, "{given}");
        }
    }
}
