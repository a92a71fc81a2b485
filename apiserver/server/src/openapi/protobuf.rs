//! A Swagger 2.0 document as protobuf: the message `openapi.v2.Document` of gnostic, which client-go reads instead of JSON.
//!
//! Only what our documents hold is written. Field numbers are those of `openapiv2/OpenAPIv2.proto` in
//! github.com/google/gnostic-models. Values without a message of their own (`default`, `enum`, extensions) travel as YAML text, and
//! JSON is YAML.

use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn key(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, BYTES);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// Proto3 leaves zero values out.
    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.key(field, VARINT);
            self.varint(1);
        }
    }

    fn integer(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64).filter(|&number| number != 0) {
            self.key(field, VARINT);
            self.varint(u64::from_le_bytes(number.to_le_bytes()));
        }
    }

    fn double(&mut self, field: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_f64).filter(|&number| number != 0.0) {
            self.key(field, FIXED64);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// `Any { yaml }`.
    fn any(&mut self, field: u32, value: &Value) {
        let mut any = Self::default();
        any.bytes(2, value.to_string().as_bytes());
        self.message(field, &any);
    }

    /// `Named… { name, value }`.
    fn named(&mut self, field: u32, name: &str, value: &Self) {
        let mut named = Self::default();
        named.bytes(1, name.as_bytes());
        named.message(2, value);
        self.message(field, &named);
    }

    /// Every `x-…` field as `NamedAny`.
    fn extensions(&mut self, field: u32, of: &Map<String, Value>) {
        for (name, value) in of.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut named = Self::default();
            named.bytes(1, name.as_bytes());
            named.any(2, value);
            self.message(field, &named);
        }
    }
}

fn fields(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn items(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// Encodes a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (name, item) in fields(document.get("paths")) {
        paths.named(2, name, &path_item(item));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in fields(document.get("definitions")) {
        definitions.named(1, name, &schema(definition));
    }
    out.message(9, &definitions);
    for requirement in items(document.get("security")) {
        let mut message = Message::default();
        for (name, scopes) in fields(Some(requirement)) {
            let mut list = Message::default();
            list.texts(1, Some(scopes));
            message.named(1, name, &list);
        }
        out.message(12, &message);
    }
    let mut security = Message::default();
    for (name, definition) in fields(document.get("securityDefinitions")) {
        let mut api_key = Message::default();
        api_key.text(1, definition.get("type"));
        api_key.text(2, definition.get("name"));
        api_key.text(3, definition.get("in"));
        api_key.text(4, definition.get("description"));
        let mut item = Message::default();
        item.message(2, &api_key);
        security.named(1, name, &item);
    }
    out.message(13, &security);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(Value::Object(map)) = item.get(method) {
            out.message(field, &operation(map));
        }
    }
    for one in items(item.get("parameters")) {
        out.message(9, &parameter(one));
    }
    out
}

fn operation(operation: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.get("tags"));
    out.text(3, operation.get("description"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    for one in items(operation.get("parameters")) {
        out.message(8, &parameter(one));
    }
    let mut responses = Message::default();
    for (code, value) in fields(operation.get("responses")) {
        let mut response = Message::default();
        response.text(1, value.get("description"));
        if let Some(of) = value.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(of));
            response.message(2, &item);
        }
        let mut either = Message::default();
        either.message(1, &response);
        responses.named(1, code, &either);
    }
    out.message(9, &responses);
    out.texts(10, operation.get("schemes"));
    out.extensions(13, operation);
    out
}

/// `ParametersItem { Parameter { BodyParameter | NonBodyParameter { query | path } } }`.
fn parameter(one: &Value) -> Message {
    let mut inner = Message::default();
    let mut parameter = Message::default();
    if one.get("in").and_then(Value::as_str) == Some("body") {
        inner.text(1, one.get("description"));
        inner.text(2, one.get("name"));
        inner.text(3, one.get("in"));
        inner.flag(4, one.get("required"));
        if let Some(of) = one.get("schema") {
            inner.message(5, &schema(of));
        }
        parameter.message(1, &inner);
    } else {
        let in_path = one.get("in").and_then(Value::as_str) == Some("path");
        inner.flag(1, one.get("required"));
        inner.text(2, one.get("in"));
        inner.text(3, one.get("description"));
        inner.text(4, one.get("name"));
        // The path message lacks allowEmptyValue, so its later fields are one lower.
        let (kind, unique, variant) = if in_path { (5, 19, 4) } else { (6, 20, 3) };
        inner.text(kind, one.get("type"));
        inner.flag(unique, one.get("uniqueItems"));
        let mut non_body = Message::default();
        non_body.message(variant, &inner);
        parameter.message(2, &non_body);
    }
    let mut item = Message::default();
    item.message(1, &parameter);
    item
}

fn schema(of: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = of.as_object() else { return out };
    out.text(1, map.get("$ref"));
    out.text(2, map.get("format"));
    out.text(3, map.get("title"));
    out.text(4, map.get("description"));
    if let Some(value) = map.get("default") {
        out.any(5, value);
    }
    out.double(6, map.get("multipleOf"));
    out.double(7, map.get("maximum"));
    out.flag(8, map.get("exclusiveMaximum"));
    out.double(9, map.get("minimum"));
    out.flag(10, map.get("exclusiveMinimum"));
    out.integer(11, map.get("maxLength"));
    out.integer(12, map.get("minLength"));
    out.text(13, map.get("pattern"));
    out.integer(14, map.get("maxItems"));
    out.integer(15, map.get("minItems"));
    out.flag(16, map.get("uniqueItems"));
    out.integer(17, map.get("maxProperties"));
    out.integer(18, map.get("minProperties"));
    out.texts(19, map.get("required"));
    for value in items(map.get("enum")) {
        out.any(20, value);
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            // A member of a oneof is written even when it is false.
            item.key(2, VARINT);
            item.varint(u64::from(*allowed));
            out.message(21, &item);
        }
        Some(of) => {
            let mut item = Message::default();
            item.message(1, &schema(of));
            out.message(21, &item);
        }
        None => {}
    }
    if let Some(kind) = map.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        out.message(22, &item);
    }
    if let Some(of) = map.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(of));
        out.message(23, &item);
    }
    if map.contains_key("properties") {
        let mut properties = Message::default();
        for (name, property) in fields(map.get("properties")) {
            properties.named(1, name, &schema(property));
        }
        out.message(25, &properties);
    }
    if let Some(value) = map.get("example") {
        out.any(30, value);
    }
    out.extensions(31, map);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Reads a message into (field, wire type, payload) triples.
    fn read(bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        fn varint(bytes: &[u8], at: &mut usize) -> u64 {
            let mut value = 0;
            let mut shift = 0;
            loop {
                let byte = bytes[*at];
                *at += 1;
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return value;
                }
                shift += 7;
            }
        }
        let (mut at, mut out) = (0, Vec::new());
        while at < bytes.len() {
            let key = varint(bytes, &mut at);
            let length = match key & 7 {
                0 => {
                    let from = at;
                    varint(bytes, &mut at);
                    let length = at - from;
                    at = from;
                    length
                }
                1 => 8,
                2 => usize::try_from(varint(bytes, &mut at)).unwrap(),
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, key & 7, bytes[at..at + length].to_vec()));
            at += length;
        }
        out
    }

    #[test]
    fn varints_and_zeroes() {
        let mut message = Message::default();
        message.integer(1, Some(&json!(300)));
        message.integer(2, Some(&json!(-1)));
        message.integer(3, Some(&json!(0)));
        message.flag(4, Some(&json!(false)));
        message.text(5, Some(&json!("")));
        message.double(16, Some(&json!(0.5)));
        let fields = read(&message.0);
        assert_eq!(fields.len(), 3);
        assert_eq!(fields[0], (1, 0, vec![0xac, 0x02]));
        assert_eq!(fields[1], (2, 0, vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]));
        assert_eq!(fields[2], (16, 1, 0.5_f64.to_le_bytes().to_vec()));
    }

    #[test]
    fn a_schema_keeps_every_part() {
        let bytes = schema(&json!({
            "type": "object", "description": "d", "required": ["a", "b"],
            "properties": {"a": {"type": "string", "enum": ["x"]}},
            "additionalProperties": false, "x-kubernetes-list-type": "map",
        }))
        .0;
        let fields = read(&bytes);
        let numbers: Vec<u64> = fields.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, [4, 19, 19, 21, 22, 25, 31]);
        assert_eq!(read(&fields[3].2), [(2, 0, vec![0])]);
        let property = read(&read(&fields[5].2)[0].2);
        assert_eq!(property[0], (1, 2, b"a".to_vec()));
        let extension = read(&fields[6].2);
        assert_eq!(extension[0].2, b"x-kubernetes-list-type");
        assert_eq!(read(&extension[1].2), [(2, 2, b"\"map\"".to_vec())]);
    }
}
