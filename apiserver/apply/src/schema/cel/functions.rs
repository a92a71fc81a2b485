//! What `kube-cel` and `cel` lack, or do otherwise than kube-apiserver: `type()` and the names of types, `dyn()`, `bool()`, sizes of
//! text in code points, and texts of timestamps, durations and booleans.

use std::sync::Arc;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::objects::{Key, Opaque, OptionalValue, Value};
use kube_cel::cel::{Context, ExecutionError, ResolveResult};

use super::cost;
use super::macros::KEYS;

/// The names of types that are values.
pub(super) const TYPES: [&str; 10] =
    ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];

/// A type as a value, as `type(x)` gives it.
#[derive(Debug, PartialEq, Eq)]
struct TypeName(String);

impl Opaque for TypeName {
    fn runtime_type_name(&self) -> &str {
        "type"
    }
}

fn type_value(name: &str) -> Value {
    Value::Opaque(Arc::new(TypeName(name.to_owned())))
}

/// A context with all functions.
pub(super) fn context() -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_function("type", type_of);
    context.add_function("dyn", |This(this): This<Value>| -> ResolveResult { Ok(this) });
    context.add_function("bool", to_bool);
    context.add_function("size", size);
    context.add_function("string", to_text);
    context.add_function(KEYS, keys);
    context.add_function(cost::COUNT, cost::count);
    for name in TYPES {
        context.add_variable_from_value(name, type_value(name));
    }
    context
}

thread_local! {
    /// The functions before ours took their names.
    static BEFORE: Context<'static> = Context::default().with_all();
}

fn type_of(This(this): This<Value>) -> ResolveResult {
    Ok(type_value(match &this {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Null => "null_type",
        Value::Opaque(opaque) if opaque.downcast_ref::<OptionalValue>().is_some() => "optional_type",
        Value::Opaque(opaque) => opaque.runtime_type_name(),
        Value::Function(..) => "function",
    }))
}

fn to_bool(This(this): This<Value>) -> ResolveResult {
    match &this {
        Value::Bool(_) => Ok(this),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(ExecutionError::function_error("bool", "type conversion error from 'string' to 'bool'")),
        },
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn size(This(this): This<Value>) -> ResolveResult {
    let size = match &this {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.map.len(),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    i64::try_from(size).map(Value::Int).map_err(|_| ExecutionError::NoSuchOverload)
}

fn keys(This(this): This<Value>) -> ResolveResult {
    let keys: Vec<Value> = match &this {
        Value::List(list) => {
            (0..list.len()).map(|index| Value::Int(i64::try_from(index).unwrap_or(i64::MAX))).collect()
        }
        Value::Map(map) => {
            let mut keys: Vec<&Key> = map.map.keys().collect();
            keys.sort();
            keys.into_iter().cloned().map(Value::from).collect()
        }
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    Ok(Value::List(Arc::new(keys)))
}

fn to_text(This(this): This<Value>, Arguments(_): Arguments) -> ResolveResult {
    let text = match &this {
        Value::Bool(flag) => flag.to_string(),
        Value::Timestamp(time) => {
            let text = time.to_utc().to_rfc3339();
            text.strip_suffix("+00:00").map(|text| format!("{text}Z")).unwrap_or(text)
        }
        Value::Duration(duration) => {
            let nanoseconds = duration.num_nanoseconds().unwrap_or(i64::MAX);
            let (sign, rest) =
                if nanoseconds < 0 { ("-", nanoseconds.unsigned_abs()) } else { ("", nanoseconds.unsigned_abs()) };
            let fraction = format!("{:09}", rest % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{sign}{}{point}{fraction}s", rest / 1_000_000_000)
        }
        _ => {
            return BEFORE.with(|before| {
                let mut scope = before.new_inner_scope();
                scope.add_variable_from_value("x", this.clone());
                let program =
                    kube_cel::cel::Program::compile("string(x)").map_err(|_| ExecutionError::NoSuchOverload)?;
                program.execute(&scope)
            });
        }
    };
    Ok(Value::String(Arc::new(text)))
}
