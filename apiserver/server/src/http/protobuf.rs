//! Request bodies in Kubernetes' protobuf encoding, as JSON.
//!
//! kubectl and other Go clients send built-in kinds as `application/vnd.kubernetes.protobuf`: four magic bytes, then a `runtime.Unknown` that
//! names the kind and wraps the object. Custom resources have no such encoding. Answers are always JSON, which these clients accept too.
//!
//! A table of field numbers (facts of `k8s.io/api` and `k8s.io/apimachinery`, `generated.proto`, Kubernetes 1.37) drives one decoder; unknown
//! fields are skipped, as protobuf has it. Fields that Go writes even when empty become absent, as its JSON encoder has it.

mod tables;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde_json::{Map, Value};

/// `k8s` and a zero byte.
const MAGIC: &[u8] = b"k8s\0";
/// Schemas nest; the JSON decoder's limit is 128 brackets, two to a level.
const MAX_DEPTH: usize = 64;

/// What a field holds, and thereby how it is written in JSON.
enum Field {
    /// Absent when empty.
    Text,
    /// Present even when empty: a pointer in Go.
    OptionalText,
    /// Absent when zero.
    Number,
    /// Present even when zero: a pointer in Go.
    OptionalNumber,
    /// Present even when false: a pointer in Go, or a field that is always written.
    Boolean,
    /// Absent when false.
    Flag,
    /// Present even when zero: a pointer in Go.
    Float,
    /// Base64 in JSON.
    Binary,
    /// Known, and dropped as the JSON decoder would refuse it.
    Ignored,
    /// Whole seconds.
    Time,
    /// Microseconds.
    MicroTime,
    /// JSON in a message of its own (`FieldsV1`).
    RawJson,
    RawJsons,
    Texts,
    TextMap,
    BytesMap,
    /// Lists of texts by key, each list a message of its own (`ExtraValue`).
    TextsMap,
    /// Amounts by name, each a text in a message of its own (`Quantity`).
    QuantityMap,
    MessageMap(&'static Message),
    /// Absent when empty.
    Message(&'static Message),
    /// Present even when empty: a pointer in Go.
    Pointer(&'static Message),
    Messages(&'static Message),
    /// Its fields are those of the message that it stands in.
    Inline(&'static Message),
    /// What the last of these fields holds, without a name (`JSONSchemaPropsOrBool`).
    OneOf(&'static Message),
}

/// The fields of a message by number.
type Message = [(u64, &'static str, Field)];

const OWNER_REFERENCE: &Message = &[
    (5, "apiVersion", Field::Text),
    (1, "kind", Field::Text),
    (3, "name", Field::Text),
    (4, "uid", Field::Text),
    (6, "controller", Field::Boolean),
    (7, "blockOwnerDeletion", Field::Boolean),
];
const MANAGED_FIELDS: &Message = &[
    (1, "manager", Field::Text),
    (2, "operation", Field::Text),
    (3, "apiVersion", Field::Text),
    (4, "time", Field::Time),
    (6, "fieldsType", Field::Text),
    (7, "fieldsV1", Field::RawJson),
    (8, "subresource", Field::Text),
];
const OBJECT_META: &Message = &[
    (1, "name", Field::Text),
    (2, "generateName", Field::Text),
    (3, "namespace", Field::Text),
    (4, "selfLink", Field::Text),
    (5, "uid", Field::Text),
    (6, "resourceVersion", Field::Text),
    (7, "generation", Field::Number),
    (8, "creationTimestamp", Field::Time),
    (9, "deletionTimestamp", Field::Time),
    (10, "deletionGracePeriodSeconds", Field::OptionalNumber),
    (11, "labels", Field::TextMap),
    (12, "annotations", Field::TextMap),
    (13, "ownerReferences", Field::Messages(OWNER_REFERENCE)),
    (14, "finalizers", Field::Texts),
    (17, "managedFields", Field::Messages(MANAGED_FIELDS)),
];
const NAMESPACE_CONDITION: &Message = &[
    (1, "type", Field::Text),
    (2, "status", Field::Text),
    (4, "lastTransitionTime", Field::Time),
    (5, "reason", Field::Text),
    (6, "message", Field::Text),
];
const NAMESPACE_SPEC: &Message = &[(1, "finalizers", Field::Texts)];
const NAMESPACE_STATUS: &Message =
    &[(1, "phase", Field::Text), (2, "conditions", Field::Messages(NAMESPACE_CONDITION))];
const NAMESPACE: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "spec", Field::Message(NAMESPACE_SPEC)),
    (3, "status", Field::Message(NAMESPACE_STATUS)),
];
const CONFIG_MAP: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "data", Field::TextMap),
    (3, "binaryData", Field::BytesMap),
    (4, "immutable", Field::Boolean),
];
const SECRET: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "data", Field::BytesMap),
    (3, "type", Field::Text),
    (4, "stringData", Field::TextMap),
    (5, "immutable", Field::Boolean),
];
const OBJECT_REFERENCE: &Message = &[
    (1, "kind", Field::Text),
    (2, "namespace", Field::Text),
    (3, "name", Field::Text),
    (4, "uid", Field::Text),
    (5, "apiVersion", Field::Text),
    (6, "resourceVersion", Field::Text),
    (7, "fieldPath", Field::Text),
];
const LOCAL_OBJECT_REFERENCE: &Message = &[(1, "name", Field::Text)];
const SERVICE_ACCOUNT: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "secrets", Field::Messages(OBJECT_REFERENCE)),
    (3, "imagePullSecrets", Field::Messages(LOCAL_OBJECT_REFERENCE)),
    (4, "automountServiceAccountToken", Field::Boolean),
];
const EVENT_SOURCE: &Message = &[(1, "component", Field::Text), (2, "host", Field::Text)];
const EVENT_SERIES: &Message = &[(1, "count", Field::Number), (2, "lastObservedTime", Field::MicroTime)];
const CORE_EVENT: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "involvedObject", Field::Message(OBJECT_REFERENCE)),
    (3, "reason", Field::Text),
    (4, "message", Field::Text),
    (5, "source", Field::Message(EVENT_SOURCE)),
    (6, "firstTimestamp", Field::Time),
    (7, "lastTimestamp", Field::Time),
    (8, "count", Field::Number),
    (9, "type", Field::Text),
    (10, "eventTime", Field::MicroTime),
    (11, "series", Field::Message(EVENT_SERIES)),
    (12, "action", Field::Text),
    (13, "related", Field::Message(OBJECT_REFERENCE)),
    (14, "reportingComponent", Field::Text),
    (15, "reportingInstance", Field::Text),
];
const EVENT: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "eventTime", Field::MicroTime),
    (3, "series", Field::Message(EVENT_SERIES)),
    (4, "reportingController", Field::Text),
    (5, "reportingInstance", Field::Text),
    (6, "action", Field::Text),
    (7, "reason", Field::Text),
    (8, "regarding", Field::Message(OBJECT_REFERENCE)),
    (9, "related", Field::Message(OBJECT_REFERENCE)),
    (10, "note", Field::Text),
    (11, "type", Field::Text),
    (12, "deprecatedSource", Field::Message(EVENT_SOURCE)),
    (13, "deprecatedFirstTimestamp", Field::Time),
    (14, "deprecatedLastTimestamp", Field::Time),
    (15, "deprecatedCount", Field::Number),
];
const LEASE_SPEC: &Message = &[
    (1, "holderIdentity", Field::OptionalText),
    (2, "leaseDurationSeconds", Field::OptionalNumber),
    (3, "acquireTime", Field::MicroTime),
    (4, "renewTime", Field::MicroTime),
    (5, "leaseTransitions", Field::OptionalNumber),
    (6, "strategy", Field::OptionalText),
    (7, "preferredHolder", Field::OptionalText),
];
const LEASE: &Message = &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Message(LEASE_SPEC))];
const LABEL_REQUIREMENT: &Message =
    &[(1, "key", Field::Text), (2, "operator", Field::Text), (3, "values", Field::Texts)];
const LABEL_SELECTOR: &Message =
    &[(1, "matchLabels", Field::TextMap), (2, "matchExpressions", Field::Messages(LABEL_REQUIREMENT))];
const POLICY_RULE: &Message = &[
    (1, "verbs", Field::Texts),
    (2, "apiGroups", Field::Texts),
    (3, "resources", Field::Texts),
    (4, "resourceNames", Field::Texts),
    (5, "nonResourceURLs", Field::Texts),
];
const AGGREGATION_RULE: &Message = &[(1, "clusterRoleSelectors", Field::Messages(LABEL_SELECTOR))];
const ROLE: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "rules", Field::Messages(POLICY_RULE)),
    (3, "aggregationRule", Field::Message(AGGREGATION_RULE)),
];
const ROLE_REF: &Message = &[(1, "apiGroup", Field::Text), (2, "kind", Field::Text), (3, "name", Field::Text)];
const SUBJECT: &Message =
    &[(1, "kind", Field::Text), (2, "apiGroup", Field::Text), (3, "name", Field::Text), (4, "namespace", Field::Text)];
const ROLE_BINDING: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "subjects", Field::Messages(SUBJECT)),
    (3, "roleRef", Field::Message(ROLE_REF)),
];
const SELECTOR_ATTRIBUTES: &Message =
    &[(1, "rawSelector", Field::Text), (2, "requirements", Field::Messages(LABEL_REQUIREMENT))];
const RESOURCE_ATTRIBUTES: &Message = &[
    (1, "namespace", Field::Text),
    (2, "verb", Field::Text),
    (3, "group", Field::Text),
    (4, "version", Field::Text),
    (5, "resource", Field::Text),
    (6, "subresource", Field::Text),
    (7, "name", Field::Text),
    (8, "fieldSelector", Field::Message(SELECTOR_ATTRIBUTES)),
    (9, "labelSelector", Field::Message(SELECTOR_ATTRIBUTES)),
];
const NON_RESOURCE_ATTRIBUTES: &Message = &[(1, "path", Field::Text), (2, "verb", Field::Text)];
const ACCESS_REVIEW_SPEC: &Message = &[
    (1, "resourceAttributes", Field::Message(RESOURCE_ATTRIBUTES)),
    (2, "nonResourceAttributes", Field::Message(NON_RESOURCE_ATTRIBUTES)),
    (3, "user", Field::Text),
    (4, "groups", Field::Texts),
    (5, "extra", Field::TextsMap),
    (6, "uid", Field::Text),
];
const ACCESS_REVIEW: &Message =
    &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Message(ACCESS_REVIEW_SPEC))];
const RULES_REVIEW_SPEC: &Message = &[(1, "namespace", Field::Text)];
const RULES_REVIEW: &Message =
    &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Message(RULES_REVIEW_SPEC))];
const SELF_REVIEW: &Message = &[(1, "metadata", Field::Message(OBJECT_META))];
const TOKEN_REVIEW_SPEC: &Message = &[(1, "token", Field::Text), (2, "audiences", Field::Texts)];
const TOKEN_REVIEW: &Message =
    &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Message(TOKEN_REVIEW_SPEC))];
const BOUND_OBJECT: &Message =
    &[(1, "kind", Field::Text), (2, "apiVersion", Field::Text), (3, "name", Field::Text), (4, "uid", Field::Text)];
const TOKEN_REQUEST_SPEC: &Message = &[
    (1, "audiences", Field::Texts),
    (4, "expirationSeconds", Field::OptionalNumber),
    (3, "boundObjectRef", Field::Message(BOUND_OBJECT)),
    (5, "attestations", Field::TextsMap),
];
const TOKEN_REQUEST: &Message =
    &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Message(TOKEN_REQUEST_SPEC))];
const PRECONDITIONS: &Message = &[(1, "uid", Field::OptionalText), (2, "resourceVersion", Field::OptionalText)];
const DELETE_OPTIONS: &Message = &[
    (1, "gracePeriodSeconds", Field::OptionalNumber),
    (2, "preconditions", Field::Message(PRECONDITIONS)),
    (3, "orphanDependents", Field::Boolean),
    (4, "propagationPolicy", Field::OptionalText),
    (5, "dryRun", Field::Texts),
    (6, "ignoreStoreReadErrorWithClusterBreakingPotential", Field::Boolean),
];

fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    Some(match (api_version, kind) {
        // Delete options carry the group of what is deleted, or none.
        (_, "DeleteOptions") => DELETE_OPTIONS,
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        ("v1", "ServiceAccount") => SERVICE_ACCOUNT,
        ("v1", "ResourceQuota") => tables::RESOURCE_QUOTA,
        ("v1", "Event") => CORE_EVENT,
        ("events.k8s.io/v1", "Event") => EVENT,
        ("coordination.k8s.io/v1", "Lease") => LEASE,
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => tables::CUSTOM_RESOURCE_DEFINITION,
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => tables::POLICY,
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => tables::POLICY_BINDING,
        ("rbac.authorization.k8s.io/v1", "ClusterRole" | "Role") => ROLE,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding" | "RoleBinding") => ROLE_BINDING,
        ("authorization.k8s.io/v1", "SubjectAccessReview" | "LocalSubjectAccessReview" | "SelfSubjectAccessReview") => {
            ACCESS_REVIEW
        }
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => RULES_REVIEW,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => SELF_REVIEW,
        ("authentication.k8s.io/v1", "TokenReview") => TOKEN_REVIEW,
        ("authentication.k8s.io/v1", "TokenRequest") => TOKEN_REQUEST,
        _ => return None,
    })
}

/// The object in a body.
///
/// # Errors
/// What is wrong with the encoding, or that the kind has none.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(rest);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(type_meta)) => {
                let mut reader = Reader(type_meta);
                while let Some((number, wire)) = reader.field()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = message_of(&api_version, &kind)
        .ok_or_else(|| format!("no protobuf encoding is known for {kind:?} in {api_version:?}; send JSON"))?;
    let mut object = object(raw, message, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

fn object(bytes: &[u8], message: &Message, depth: usize) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("protobuf: nested more than {MAX_DEPTH} deep"));
    }
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some((_, name, field)) = message.iter().find(|(known, ..)| *known == number) else { continue };
        add(&mut object, name, field, wire, depth).map_err(|problem| format!("{name}: {problem}"))?;
    }
    Ok(object)
}

fn add(object: &mut Map<String, Value>, name: &str, field: &Field, wire: Wire<'_>, depth: usize) -> Result<(), String> {
    let value = match field {
        Field::Text => Some(wire.text()?).filter(|text| !text.is_empty()).map(Value::String),
        Field::OptionalText => Some(Value::String(wire.text()?)),
        Field::Number => Some(wire.number()?).filter(|number| *number != 0).map(Value::from),
        Field::OptionalNumber => Some(Value::from(wire.number()?)),
        Field::Boolean => Some(Value::Bool(wire.number()? != 0)),
        Field::Time => time(wire.bytes()?, 0)?,
        Field::MicroTime => time(wire.bytes()?, 6)?,
        Field::Flag => (wire.number()? != 0).then_some(Value::Bool(true)),
        Field::Float => Some(float(wire.double()?)?),
        Field::Binary => Some(Value::String(STANDARD.encode(wire.bytes()?))),
        Field::Ignored => None,
        Field::RawJson => raw_json(wire.bytes()?)?,
        Field::RawJsons => {
            append(object, name, raw_json(wire.bytes()?)?.unwrap_or(Value::Null));
            None
        }
        Field::Pointer(message) => Some(Value::Object(self::object(wire.bytes()?, message, depth + 1)?)),
        Field::Inline(message) => {
            object.append(&mut self::object(wire.bytes()?, message, depth + 1)?);
            None
        }
        Field::OneOf(message) => {
            let mut held = self::object(wire.bytes()?, message, depth + 1)?;
            held.remove("")
        }
        Field::Message(message) => {
            let below = self::object(wire.bytes()?, message, depth + 1)?;
            (!below.is_empty()).then_some(Value::Object(below))
        }
        Field::Texts => {
            append(object, name, Value::String(wire.text()?));
            None
        }
        Field::Messages(message) => {
            append(object, name, Value::Object(self::object(wire.bytes()?, message, depth + 1)?));
            None
        }
        Field::TextMap | Field::BytesMap | Field::TextsMap | Field::QuantityMap | Field::MessageMap(_) => {
            let (key, bytes) = map_entry(wire.bytes()?)?;
            let value: Value = match field {
                Field::TextMap => text(bytes)?.into(),
                Field::BytesMap => STANDARD.encode(bytes).into(),
                Field::QuantityMap => items(bytes)?.pop().unwrap_or_else(|| "0".to_owned()).into(),
                Field::MessageMap(message) => Value::Object(self::object(bytes, message, depth + 1)?),
                _ => items(bytes)?.into(),
            };
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
            None
        }
    };
    if let Some(value) = value {
        object.insert(name.to_owned(), value);
    }
    Ok(())
}

fn append(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(list) = object.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
        list.push(value);
    }
}

fn map_entry(bytes: &[u8]) -> Result<(String, &[u8]), String> {
    let (mut key, mut value) = (String::new(), &[][..]);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = wire.text()?,
            2 => value = wire.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The JSON in a message of its own.
fn raw_json(bytes: &[u8]) -> Result<Option<Value>, String> {
    let mut reader = Reader(bytes);
    let mut parsed = None;
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            parsed = Some(serde_json::from_slice(wire.bytes()?).map_err(|error| error.to_string())?);
        }
    }
    Ok(parsed)
}

/// A number as Go's JSON encoder writes it: without a fraction where there is none.
fn float(value: f64) -> Result<Value, String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole =
        (value.fract() == 0.0 && value.abs() < EXACT).then(|| format!("{value:.0}").parse::<i64>().ok()).flatten();
    match whole {
        Some(whole) => Ok(whole.into()),
        None => {
            serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| format!("{value} is no JSON number"))
        }
    }
}

/// The texts of an `ExtraValue`.
fn items(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            items.push(wire.text()?);
        }
    }
    Ok(items)
}

/// An empty message is Go's zero time, which JSON has no text for.
fn time(bytes: &[u8], digits: u8) -> Result<Option<Value>, String> {
    let (mut seconds, mut nanoseconds) = (None, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = Some(wire.number()?),
            2 => nanoseconds = wire.number()?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| format!("{nanoseconds} nanoseconds are out of range"))?;
    let time = Timestamp::new(seconds, nanoseconds).map_err(|error| error.to_string())?;
    let text = DateTimePrinter::new().precision(Some(digits)).timestamp_to_string(&time);
    Ok(Some(Value::String(text)))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "text that isn't UTF-8".to_owned())
}

/// A field's content by wire type (Protocol Buffers, "Encoding").
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Eight bytes.
    Double(f64),
    /// Four bytes, which no known field uses.
    Other,
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Double(_) | Self::Other => Err("expected bytes, given a number".to_owned()),
        }
    }

    fn text(self) -> Result<String, String> {
        text(self.bytes()?)
    }

    /// Signed numbers are two's complement in a varint.
    fn number(self) -> Result<i64, String> {
        match self {
            Self::Varint(number) => Ok(number.cast_signed()),
            Self::Bytes(_) | Self::Double(_) | Self::Other => Err("expected a number, given bytes".to_owned()),
        }
    }

    fn double(self) -> Result<f64, String> {
        match self {
            Self::Double(number) => Ok(number),
            Self::Varint(_) | Self::Bytes(_) | Self::Other => {
                Err("expected eight bytes, given something else".to_owned())
            }
        }
    }
}

/// Reads fields off the front of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Double(f64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "protobuf: a length beyond the body")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Other
            }
            wire => return Err(format!("protobuf: unknown wire type {wire}")),
        };
        Ok(Some((tag >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("protobuf: a number longer than 64 bits".to_owned())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("protobuf: the body ends within a field")?;
        self.0 = rest;
        Ok(taken)
    }
}
