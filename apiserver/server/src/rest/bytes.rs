//! Bytes in built-in kinds: base64, as Go reads it. Line breaks in it are passed over, as are bits at its end that stand for nothing, and
//! what is stored is written anew.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullpiri_apply::schema::{Additional, Schema, Type};
use serde_json::Value;

/// Writes every base64 text of an object in its one form.
///
/// # Errors
/// A text that is no base64, in Go's words.
pub(super) fn canonical(schema: &Schema, value: &mut Value) -> Result<(), String> {
    match value {
        Value::String(text) if is_bytes(schema) => {
            let bytes = decode(text.as_bytes()).map_err(|at| format!("illegal base64 data at input byte {at}"))?;
            *text = STANDARD.encode(bytes);
        }
        Value::Array(items) => {
            if let Some(of) = schema.items.as_deref() {
                items.iter_mut().try_for_each(|item| canonical(of, item))?;
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                match (schema.properties.get(name), &schema.additional) {
                    (Some(property), _) => canonical(property, field)?,
                    (None, Some(Additional::Of(of))) => canonical(of, field)?,
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn is_bytes(schema: &Schema) -> bool {
    schema.kind == Some(Type::String)
        && schema.validation.as_deref().is_some_and(|v| v.format.as_deref() == Some("byte"))
}

fn six_bits(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

/// Four letters at a time.
///
/// # Errors
/// Where it stops being base64, as Go counts.
fn decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut at = 0;
    loop {
        let (mut letters, mut bits) = (0, 0);
        let padded = loop {
            if letters == 4 {
                break false;
            }
            let Some(&byte) = text.get(at) else {
                return if letters == 0 { Ok(bytes) } else { Err(at - letters) };
            };
            at += 1;
            match (byte, six_bits(byte)) {
                (_, Some(six)) => {
                    bits = bits << 6 | six;
                    letters += 1;
                }
                (b'\n' | b'\r', None) => {}
                (b'=', None) if letters >= 2 => break true,
                _ => return Err(at - 1),
            }
        };
        bits <<= 6 * (4 - letters);
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend([first, second, third].iter().take(letters - 1));
        if padded {
            return padding(text, at, letters).map(|()| bytes);
        }
    }
}

/// What may follow the first `=`: another one behind two letters, and line breaks.
fn padding(text: &[u8], mut at: usize, letters: usize) -> Result<(), usize> {
    let breaks = |at: &mut usize| {
        while text.get(*at).is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            *at += 1;
        }
    };
    if letters == 2 {
        breaks(&mut at);
        match text.get(at) {
            None => return Err(text.len()),
            Some(b'=') => at += 1,
            Some(_) => return Err(at - 1),
        }
    }
    breaks(&mut at);
    if at == text.len() { Ok(()) } else { Err(at) }
}

#[cfg(test)]
mod tests {
    use pullpiri_apply::schema::Schema;
    use serde_json::json;

    use super::{canonical, decode};

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (text, bytes) in [
            ("", ""),
            ("\n", ""),
            ("YWJj", "abc"),
            ("YW\r\nJj\n", "abc"),
            ("\nYWJj", "abc"),
            ("YQ==", "a"),
            ("YQ=\n=\n", "a"),
            ("YR==", "a"),
            ("YWI=", "ab"),
            ("YWJjYQ==", "abca"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Ok(bytes.as_bytes()), "{text:?}");
        }
        for (text, at) in [
            (" YWJj", 0),
            ("YWJj ", 4),
            ("YWJ", 0),
            ("YQ", 0),
            ("Y_Jj", 1),
            ("é", 0),
            ("YW\n*Jj", 3),
            ("YQ=", 3),
            ("YQ=x", 2),
            ("YQ==x", 4),
            ("YWI=x", 4),
            ("=", 0),
            ("Y=", 1),
        ] {
            assert_eq!(decode(text.as_bytes()), Err(at), "{text:?}");
        }
    }

    #[test]
    fn every_text_of_bytes_gets_its_one_form() {
        let bytes = json!({"type": "string", "format": "byte"});
        let schema = json!({"type": "object", "properties": {
            "data": {"type": "object", "additionalProperties": bytes},
            "list": {"type": "array", "items": {"type": "object", "properties": {"ca": bytes}}},
            "plain": {"type": "string"},
        }});
        let schema = Schema::parse(&schema).unwrap();
        let mut object =
            json!({"data": {"a": "YW\nJj", "b": ""}, "list": [{"ca": "YR=="}], "plain": "Y W", "more": "Y W"});
        assert_eq!(canonical(&schema, &mut object), Ok(()));
        assert_eq!(
            object,
            json!({"data": {"a": "YWJj", "b": ""}, "list": [{"ca": "YQ=="}], "plain": "Y W", "more": "Y W"})
        );
        let refused = canonical(&schema, &mut json!({"list": [{"ca": "YWJj?"}]}));
        assert_eq!(refused, Err("illegal base64 data at input byte 4".to_owned()));
    }
}
