//! How upstream reads a JSON value that has another type than expected: a number in quotes is a number, a lone
//! value is a list of one, what is absent is empty. In: JSON values. Out: text, integers, lists. Pure.

use serde_json::Value;

/// The value as text: `null` and what is absent are empty, numbers and booleans as they are written.
#[must_use]
pub fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if !number.is_i64() && !number.is_u64() => float.to_string(),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

/// The value as an integer: fractions are cut off, text counts if it is digits with at most a minus, what is no
/// number is 0.
#[must_use]
pub fn integer(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Bool(true)) => 1,
        Some(Value::Number(number)) => number.as_i64().unwrap_or_else(|| saturate(number.as_f64().unwrap_or(0.0))),
        Some(Value::String(text)) if !text.starts_with('+') => text.parse().unwrap_or(0),
        _ => 0,
    }
}

/// The value as a list: a lone value is a list of one, what is absent is empty.
#[must_use]
pub fn list(value: Option<&Value>) -> &[Value] {
    match value {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items,
        Some(other) => std::slice::from_ref(other),
    }
}

/// The same, of a value that is taken apart.
pub(crate) fn into_list(value: Option<Value>) -> Vec<Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(other) => vec![other],
    }
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, which is what is wanted")]
const fn saturate(float: f64) -> i64 {
    float as i64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_other_types_are_read_as_upstream_reads_them() {
        let of = |value: Value| {
            assert_eq!(list(Some(&value)), into_list(Some(value.clone())));
            (text(Some(&value)), integer(Some(&value)), list(Some(&value)).len())
        };
        assert_eq!(of(json!("80")), ("80".into(), 80, 1));
        assert_eq!(of(json!("-5")), ("-5".into(), -5, 1));
        assert_eq!(of(json!("+5")), ("+5".into(), 0, 1));
        assert_eq!(of(json!("80x")), ("80x".into(), 0, 1));
        assert_eq!(of(json!(80)), ("80".into(), 80, 1));
        assert_eq!(of(json!(80.9)), ("80.9".into(), 80, 1));
        assert_eq!(of(json!(1e21)), ("1000000000000000000000".into(), i64::MAX, 1));
        assert_eq!(of(json!(true)), ("true".into(), 1, 1));
        assert_eq!(of(json!(false)), ("false".into(), 0, 1));
        assert_eq!(of(json!(null)), (String::new(), 0, 0));
        assert_eq!(of(json!([1, 2])), ("[1,2]".into(), 0, 2));
        assert_eq!((text(None), integer(None), list(None).len()), (String::new(), 0, 0));
    }
}
