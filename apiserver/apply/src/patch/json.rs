//! JSON patch.
//!
//! RFC 6902 with kube-apiserver's deviations: a negative index counts from the end, `replace` of a map key that isn't there adds
//! it, `test` takes a missing map key for null, `copy` of one gives null, and what stands before the first slash of a pointer is
//! ignored. Source: evanphx/json-patch v4, `apiserver/pkg/endpoints/handlers/patch.go`.

use serde_json::{Map, Value};

use super::{PatchError, cannot_unmarshal, wrong_type};

/// Operations of one patch.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes of JSON that the copies of one patch may add; without it a few copies of a value into itself fill the memory.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Levels of lists and maps that a patch may build up: what is deeper can't be decoded again once it is stored.
const MAX_DEPTH: usize = 120;
/// How often the depth of one document is measured, so that many moves of a large part don't take forever.
const MAX_MEASUREMENTS: usize = 100;

pub(super) fn apply(patch: &Value, current: &Value) -> Result<Value, PatchError> {
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        other => return Err(wrong_type(other, "value of type []handlers.jsonPatchOp")),
    };
    let operations: Vec<Operation<'_>> = operations.iter().map(Operation::read).collect::<Result<_, _>>()?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = current.clone();
    let mut growth = Growth::of(current);
    for (at, operation) in operations.iter().enumerate() {
        operation.run(&mut document, &mut growth).and_then(|()| growth.check(&document)).map_err(|problem| {
            PatchError::Unprocessable {
                detail: format!(
                    "operation {at} ({} {:?}): {problem}",
                    operation.op,
                    operation.path.unwrap_or_default()
                ),
            }
        })?;
    }
    Ok(document)
}

/// How much a document grows while it is patched.
struct Growth {
    /// Bytes that copies added.
    copied: usize,
    /// The document is no deeper than this.
    depth: usize,
    allowed_depth: usize,
    measurements: usize,
}

impl Growth {
    fn of(document: &Value) -> Self {
        let depth = depth(document);
        Self { copied: 0, depth, allowed_depth: depth.max(MAX_DEPTH), measurements: 0 }
    }

    fn copy(&mut self, value: &Value) -> Result<(), String> {
        self.copied += value.to_string().len();
        if self.copied > MAX_COPIED_BYTES {
            return Err(format!("copies add {} bytes, and {MAX_COPIED_BYTES} are the most", self.copied));
        }
        Ok(())
    }

    /// Something of this depth is put at a place.
    fn put(&mut self, pointer: &str, value_depth: usize) {
        self.depth = self.depth.max(level(pointer) + value_depth);
    }

    /// What is at one place is put at another.
    fn carry(&mut self, from: &str, to: &str) {
        self.put(to, self.depth.saturating_sub(level(from)));
    }

    fn check(&mut self, document: &Value) -> Result<(), String> {
        if self.depth <= self.allowed_depth {
            return Ok(());
        }
        // The bound is a rough one, for what was carried may be shallow.
        self.measurements += 1;
        self.depth = depth(document);
        if self.depth > self.allowed_depth || self.measurements > MAX_MEASUREMENTS {
            return Err(format!("lists and maps stand in each other more than {} deep", self.allowed_depth));
        }
        Ok(())
    }
}

/// How deep in a document a place is.
fn level(pointer: &str) -> usize {
    pointer.matches('/').count()
}

/// Levels of lists and maps; a scalar has none.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

struct Operation<'a> {
    op: &'a str,
    path: Option<&'a str>,
    from: Option<&'a str>,
    value: Option<&'a Value>,
}

impl<'a> Operation<'a> {
    fn read(operation: &'a Value) -> Result<Self, PatchError> {
        let fields = match operation {
            Value::Object(fields) => Some(fields),
            Value::Null => None,
            other => return Err(wrong_type(other, "value of type handlers.jsonPatchOp")),
        };
        let text = |name: &str| match fields.and_then(|fields| fields.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(PatchError::Malformed(format!(
                "error decoding patch: {}",
                cannot_unmarshal(other, &format!("struct field jsonPatchOp.{name} of type string"))
            ))),
        };
        Ok(Self {
            op: text("op")?.unwrap_or("unknown"),
            path: text("path")?,
            from: text("from")?,
            value: fields.and_then(|fields| fields.get("value")),
        })
    }

    fn path(&self) -> Result<&'a str, String> {
        self.path.ok_or_else(|| "the operation has no path".to_owned())
    }

    fn from(&self) -> Result<&'a str, String> {
        self.from.ok_or_else(|| "the operation has no from".to_owned())
    }

    fn value(&self) -> Value {
        self.value.cloned().unwrap_or_default()
    }

    fn run(&self, document: &mut Value, growth: &mut Growth) -> Result<(), String> {
        match self.op {
            "add" | "replace" => {
                growth.put(self.path()?, self.value.map_or(0, depth));
                if self.op == "replace" {
                    return self.replace(document);
                }
                parent(document, self.path()?)?.add(self.value())
            }
            "remove" => parent(document, self.path()?)?.remove().map(|_| ()),
            "move" => {
                growth.carry(self.from()?, self.path()?);
                let value = parent(document, self.from()?)?.remove()?;
                parent(document, self.path()?)?.add(value)
            }
            "copy" => {
                growth.carry(self.from()?, self.path()?);
                let value = parent(document, self.from()?)?.get()?.cloned().unwrap_or_default();
                growth.copy(&value)?;
                parent(document, self.path()?)?.add(value)
            }
            "test" => self.test(document),
            _ => Err("the operation is none of add, remove, replace, move, copy, test".to_owned()),
        }
    }

    fn replace(&self, document: &mut Value) -> Result<(), String> {
        let path = self.path()?;
        if path.is_empty() {
            return match self.value {
                Some(value @ (Value::Object(_) | Value::Array(_))) => {
                    *document = value.clone();
                    Ok(())
                }
                _ => Err("the whole document can only be replaced by an object or a list".to_owned()),
            };
        }
        parent(document, path)?.set(self.value())
    }

    fn test(&self, document: &mut Value) -> Result<(), String> {
        let path = self.path()?;
        let null = Value::Null;
        let expected = self.value.unwrap_or(&null);
        let same = if path.is_empty() {
            *document == *expected
        } else {
            let found = parent(document, path)?;
            *found.get()?.unwrap_or(&null) == *expected
        };
        if same { Ok(()) } else { Err("the value is another than the one tested for".to_owned()) }
    }
}

/// A place in a document: a container and the key in it.
enum Place<'d> {
    Map(&'d mut Map<String, Value>, String),
    List(&'d mut Vec<Value>, String),
}

/// Walks to the container that a pointer's last token is in.
fn parent<'d>(document: &'d mut Value, pointer: &str) -> Result<Place<'d>, String> {
    let mut tokens = pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).peekable();
    let mut place = document;
    while let Some(token) = tokens.next() {
        if tokens.peek().is_none() {
            return match place {
                Value::Object(fields) => Ok(Place::Map(fields, token)),
                Value::Array(items) => Ok(Place::List(items, token)),
                _ => Err(format!("what {pointer:?} leads through is neither an object nor a list")),
            };
        }
        let next = match place {
            Value::Object(fields) => fields.get_mut(&token),
            Value::Array(items) => {
                let at = index(&token, items.len())?;
                items.get_mut(at)
            }
            _ => None,
        };
        place = next.ok_or_else(|| format!("there is no {token:?} on the way to {pointer:?}"))?;
    }
    Err(format!("the pointer {pointer:?} names no field"))
}

/// The position that a token means in a list of `len` items, negative ones from the end; `len` itself is out of bounds.
fn index(token: &str, len: usize) -> Result<usize, String> {
    let out_of_bounds = || format!("index {token} is out of bounds of {len} items");
    let at: i64 = token.parse().map_err(|_| format!("{token:?} is not an index"))?;
    let at = if at < 0 {
        let back = usize::try_from(at.unsigned_abs()).map_err(|_| out_of_bounds())?;
        len.checked_sub(back)
    } else {
        usize::try_from(at).ok()
    };
    at.filter(|at| *at < len).ok_or_else(out_of_bounds)
}

impl<'d> Place<'d> {
    /// What is there; nothing for a missing key of a map.
    fn get(self) -> Result<Option<&'d Value>, String> {
        match self {
            Self::Map(fields, key) => Ok(fields.get(&key)),
            Self::List(items, key) => {
                let at = index(&key, items.len())?;
                Ok(items.get(at))
            }
        }
    }

    fn set(self, value: Value) -> Result<(), String> {
        match self {
            Self::Map(fields, key) => {
                fields.insert(key, value);
            }
            Self::List(items, key) => {
                let at = index(&key, items.len())?;
                if let Some(item) = items.get_mut(at) {
                    *item = value;
                }
            }
        }
        Ok(())
    }

    fn add(self, value: Value) -> Result<(), String> {
        match self {
            Self::Map(fields, key) => {
                fields.insert(key, value);
            }
            Self::List(items, key) if key == "-" => items.push(value),
            Self::List(items, key) => {
                // One position more than there are items: behind the last.
                let at = index(&key, items.len() + 1)?;
                items.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(self) -> Result<Value, String> {
        match self {
            Self::Map(fields, key) => fields.remove(&key).ok_or_else(|| format!("there is no key {key:?} to remove")),
            Self::List(items, key) => {
                let at = index(&key, items.len())?;
                Ok(items.remove(at))
            }
        }
    }
}
