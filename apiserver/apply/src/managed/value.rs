//! Equality and order of JSON values as field ownership sees them.
//!
//! Numbers compare by what they are worth (`1` equals `1.0`), and values of different types have a fixed order, so that path
//! elements sort the same way everywhere: numbers, strings, booleans, lists, maps, null.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

/// Equality with numbers compared by value.
pub(crate) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right) == Ordering::Equal,
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => equal_maps(left, right, None),
        _ => left == right,
    }
}

/// Equality of two maps; `ignored` is a key left out of the comparison.
pub(crate) fn equal_maps(left: &Map<String, Value>, right: &Map<String, Value>, ignored: Option<&str>) -> bool {
    let kept = |map: &Map<String, Value>| map.len() - usize::from(ignored.is_some_and(|key| map.contains_key(key)));
    kept(left) == kept(right)
        && left
            .iter()
            .filter(|(key, _)| ignored != Some(key.as_str()))
            .all(|(key, left)| right.get(key).is_some_and(|right| equal(left, right)))
}

/// Equality of two objects apart from `metadata.managedFields`.
pub(crate) fn equal_objects(left: &Value, right: &Value) -> bool {
    let (Value::Object(left), Value::Object(right)) = (left, right) else {
        return equal(left, right);
    };
    left.len() == right.len()
        && left.iter().all(|(key, left)| match (left, right.get(key)) {
            (Value::Object(left), Some(Value::Object(right))) if key == "metadata" => {
                equal_maps(left, right, Some("managedFields"))
            }
            (left, Some(right)) => equal(left, right),
            (_, None) => false,
        })
}

/// A total order over values of any type.
pub(crate) fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => compare_numbers(left, right),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => left
            .iter()
            .zip(right)
            .map(|(left, right)| compare(left, right))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| left.len().cmp(&right.len())),
        (Value::Object(left), Value::Object(right)) => compare_maps(left, right),
        _ => rank(left).cmp(&rank(right)),
    }
}

fn compare_maps(left: &Map<String, Value>, right: &Map<String, Value>) -> Ordering {
    fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
        let mut fields: Vec<_> = map.iter().collect();
        fields.sort_by_key(|(name, _)| name.as_str());
        fields
    }
    let (left, right) = (sorted(left), sorted(right));
    left.iter()
        .zip(&right)
        .map(|((left_name, left), (right_name, right))| left_name.cmp(right_name).then_with(|| compare(left, right)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| left.len().cmp(&right.len()))
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        return left.cmp(&right);
    }
    if let (Some(left), Some(right)) = (left.as_u64(), right.as_u64()) {
        return left.cmp(&right);
    }
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right).unwrap_or(Ordering::Equal),
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_compare_by_value() {
        assert!(equal(&json!({"a": [1, 2.0]}), &json!({"a": [1.0, 2]})));
        assert!(!equal(&json!(1), &json!("1")));
        assert_eq!(compare(&json!(9), &json!(10)), Ordering::Less);
        assert_eq!(compare(&json!(2.5), &json!(2)), Ordering::Greater);
        assert_eq!(compare(&json!(u64::MAX), &json!(1)), Ordering::Greater);
    }

    #[test]
    fn types_have_an_order() {
        let order = [json!(1), json!("a"), json!(true), json!([]), json!({}), json!(null)];
        for pair in order.windows(2) {
            assert_eq!(compare(&pair[0], &pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn managed_fields_do_not_make_objects_differ() {
        let left = json!({"metadata": {"name": "a", "managedFields": [1]}, "spec": {}});
        assert!(equal_objects(&left, &json!({"metadata": {"name": "a"}, "spec": {}})));
        assert!(!equal_objects(&left, &json!({"metadata": {"name": "b"}, "spec": {}})));
        assert!(!equal_objects(&left, &json!({"metadata": {"name": "a"}})));
    }
}
