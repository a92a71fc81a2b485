//! Request bodies to JSON values, with the duplicate fields that `fieldValidation` asks about.

mod duplicates;

use std::borrow::Cow;

use pullpiri_apply::schema::strict;
use serde_json::Value;

use crate::http::negotiate::{Content, Format};
use crate::http::protobuf;

/// A decoded body.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// `duplicate field "…"`
    pub(crate) problems: Vec<String>,
}

/// Decodes the body of a write or of delete options.
///
/// # Errors
/// The decoder's message.
pub(crate) fn decode_content(body: &[u8], content: Content) -> Result<Decoded, String> {
    match content {
        Content::Text(format) => decode(body, format),
        Content::Protobuf => Ok(Decoded { value: protobuf::decode(body)?, problems: Vec::new() }),
    }
}

/// Decodes a body. Apply patches may be YAML or JSON under one content type, so YAML that starts with `{` is first tried as JSON.
///
/// # Errors
/// The decoder's message.
pub(crate) fn decode(body: &[u8], format: Format) -> Result<Decoded, String> {
    let looks_like_json = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if format == Format::Json || looks_like_json {
        match strict::parse(&readable(body)) {
            Ok(document) => {
                let problems = document.duplicates.iter().map(|path| strict::duplicate_field(path)).collect();
                return Ok(Decoded { value: document.value, problems });
            }
            Err(error) if format == Format::Json => return Err(json_error(&error)),
            Err(_) => {}
        }
    }
    let text = std::str::from_utf8(body).map_err(|error| format!("yaml: {error}"))?;
    let document =
        serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |reader| strict::read(reader))
            .map_err(|error| yaml_error(&error))?;
    let mut problems: Vec<String> = document.duplicates.iter().map(|path| strict::duplicate_field(path)).collect();
    if !problems.is_empty() {
        // As kube-apiserver has it of YAML: by line.
        problems = duplicates::by_line(text, yaml_options()).map_or(problems, |told| vec![told]);
    }
    Ok(Decoded { value: document.value, problems })
}

/// JSON as Go reads it: a byte that is no UTF-8 is a character of its own, the one for what can't be read.
pub(crate) fn readable(body: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(body).is_ok() {
        return Cow::Borrowed(body);
    }
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text.into_bytes())
}

/// What is wrong with a JSON patch that can be applied all the same: fields that are none or stand twice, in its operations and, by them, in
/// the object.
pub(crate) fn patch_problems(patch: Decoded) -> Vec<String> {
    const FIELDS: [&str; 4] = ["op", "from", "path", "value"];
    let Decoded { value, problems } = patch;
    let operations = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found: Vec<String> = problems.iter().map(|problem| format!("json patch {problem}")).collect();
    for (index, operation) in operations.iter().enumerate() {
        let unknown =
            operation.as_object().into_iter().flatten().filter(|(field, _)| !FIELDS.contains(&field.as_str()));
        found.extend(
            unknown.map(|(field, _)| format!("json patch {}", strict::unknown_field(&format!("[{index}].{field}")))),
        );
    }
    for (index, operation) in operations.iter().enumerate() {
        let Some(place) = put_at(operation) else { continue };
        let within = format!("duplicate field \"[{index}].value");
        let below = problems.iter().filter_map(|problem| problem.strip_prefix(&within)?.strip_suffix('"'));
        found.extend(below.map(|below| strict::duplicate_field(&format!("{place}{below}"))));
    }
    found
}

/// Where an operation puts its value, as a path of fields; `None` within a list, whose indexes may change on the way.
fn put_at(operation: &Value) -> Option<String> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    if !matches!(text("op")?, "add" | "replace") {
        return None;
    }
    let steps: Vec<String> =
        text("path")?.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    let is_index = |step: &String| step == "-" || step.bytes().all(|byte| byte.is_ascii_digit());
    (!steps.iter().any(is_index)).then(|| steps.join("."))
}

/// The first line of the reader's message: what and where; the rest shows the text, which the client has.
fn yaml_error(error: &serde_saphyr::Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    format!("yaml: {}", first.strip_prefix("error: ").unwrap_or(first))
}

/// As Go's decoder says it where clients may look for it.
fn json_error(error: &serde_json::Error) -> String {
    let why = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
    format!("couldn't get version/kind; json parse error: {why}")
}

/// `y` and `on` are names as often as booleans; only `true` and `false` are taken for the latter. Of two equal keys the last wins,
/// and both are seen.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_named_and_the_last_wins() {
        let body = br#"{"spec":{"a":1,"a":2,"list":[{"x":1},{"x":1,"x":3}]},"kind":"A","kind":"B"}"#;
        let decoded = decode(body, Format::Json).unwrap();
        assert_eq!(decoded.value, json!({"spec": {"a": 2, "list": [{"x": 1}, {"x": 3}]}, "kind": "B"}));
        assert_eq!(decoded.problems.len(), 3, "{:?}", decoded.problems);
        assert_eq!(decoded.problems[0], "duplicate field \"spec.a\"");
    }

    #[test]
    fn json_patches_have_fields_of_their_own() {
        let problems = |patch: &str| patch_problems(decode(patch.as_bytes(), Format::Json).unwrap());
        assert_eq!(
            problems(r#"[{"op":"add","path":"/data/b","value":"1"},{"op":"test","from":"","path":"/a"}]"#),
            [""; 0]
        );
        assert_eq!(
            problems(
                r#"[{"op":"add","path":"/a","value":1,"foo":1},{"op":"test","path":"/a","value":1,"bar":1,"foo":2}]"#
            ),
            [
                "json patch unknown field \"[0].foo\"",
                "json patch unknown field \"[1].bar\"",
                "json patch unknown field \"[1].foo\"",
            ]
        );
        assert_eq!(problems(r#"[{"op":"add","op":"add","path":"/a"}]"#), ["json patch duplicate field \"[0].op\""]);
        assert_eq!(
            problems(r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b","a":"c"}}]"#),
            ["json patch duplicate field \"[0].value.a\"", "duplicate field \"metadata.labels.a\""]
        );
        assert_eq!(problems("{}"), [""; 0]);
    }

    #[test]
    fn yaml_and_json_under_one_content_type() {
        let expected = json!({"kind": "A", "spec": {"n": 1, "s": "1", "b": true, "f": 1.5, "z": null}});
        let yaml = b"kind: A\nspec:\n  n: 1\n  s: \"1\"\n  b: true\n  f: 1.5\n  z: null\n";
        assert_eq!(decode(yaml, Format::Yaml).unwrap().value, expected);
        assert_eq!(decode(expected.to_string().as_bytes(), Format::Yaml).unwrap().value, expected);
        assert!(decode(b"kind: [", Format::Yaml).unwrap_err().starts_with("yaml: "));
        let twice = decode(b"spec:\n  size: 7\n  size: 8\n", Format::Yaml).unwrap();
        assert_eq!(
            (twice.value, twice.problems),
            (
                json!({"spec": {"size": 8}}),
                vec!["yaml: unmarshal errors:\n  line 3: key \"size\" already set in map".to_owned()]
            )
        );
        assert!(decode(b"{\"a\":", Format::Json).is_err());
        let unreadable = decode(b"{\"a\":\"x\xe2\x82y\xff\"}", Format::Json).unwrap();
        assert_eq!(unreadable.value, json!({"a": "x\u{fffd}\u{fffd}y\u{fffd}"}));
        assert!(decode(b"{} {}", Format::Json).is_err());
    }
}
