//! Hashes of resources that stay the same from release to release.
//!
//! What is hashed is JSON with object keys in byte order, no blanks and no nulls, so that neither the order of fields in a struct nor a map
//! implementation matters. Names get the first 50 bits of the SHA-256 as ten characters of base 32: by the birthday bound, one in a million odds
//! of a clash take some 47,000 instances of one model on one node.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Crockford's base 32 in lower case: no `i`, `l`, `o` and `u`, so nothing is misread, and RFC 1123 allows all of it.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a suffix.
pub const SUFFIX_LENGTH: usize = 10;

/// Canonical JSON.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

/// The suffix of a name: the first 50 bits of the SHA-256 of `text` in base 32.
#[must_use]
pub fn suffix(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest.iter().take(8).fold(0_u64, |bits, &byte| (bits << 8) | u64::from(byte));
    (0..SUFFIX_LENGTH)
        .filter_map(|i| {
            let five = usize::try_from((bits >> (59 - 5 * i)) & 0x1f).ok()?;
            ALPHABET.get(five).map(|&byte| char::from(byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_json_has_one_form() {
        let value = json!({"b": [1, null, {"z": "\u{e9}\n", "a": true}], "a": null, "\"": {}});
        assert_eq!(canonical(&value), "{\"\\\"\":{},\"b\":[1,null,{\"a\":true,\"z\":\"\u{e9}\\n\"}]}");
    }

    /// The values are part of what is stored in clusters: a change here replaces every running instance.
    #[test]
    fn suffixes_never_change() {
        assert_eq!(suffix(""), "werc8gmrzg");
        assert_eq!(suffix("a").len(), SUFFIX_LENGTH);
        assert_ne!(suffix("a"), suffix("b"));
    }
}
