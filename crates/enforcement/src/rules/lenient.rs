//! How upstream reads a JSON value that has another type than expected: a number in quotes is a number, a lone
//! value is a list of one, what is absent is empty. In: JSON values. Out: text, integers, lists. Pure.

use serde_json::{Number, Value};

/// The value as text: `null` and what is absent are empty, integers and booleans as they are written, other numbers in
/// digits without an exponent.
#[must_use]
pub fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => plain(number),
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

/// The digits that the number is shown with, moved to where its exponent says: as a float writes itself, whose own tables
/// would take 15 KB of a module.
fn plain(number: &Number) -> String {
    let shown = number.to_string();
    let (shown, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let (sign, shown) = shown.split_at(usize::from(shown.starts_with('-')));
    let (whole, fraction) = shown.split_once('.').unwrap_or((shown, ""));
    let mut digits = [whole, fraction].concat();
    let exponent: i64 = exponent.trim_start_matches('+').parse().unwrap_or(0);
    let mut point = exponent.saturating_add_unsigned(whole.len() as u64);
    while point < 1 {
        digits.insert(0, '0');
        point += 1;
    }
    let point = usize::try_from(point).unwrap_or_default();
    while digits.len() < point {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(point);
    match fraction.trim_end_matches('0') {
        "" => [sign, whole].concat(),
        fraction => [sign, whole, ".", fraction].concat(),
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
    #[test]
    fn numbers_with_a_fraction_or_an_exponent_are_written_as_a_float_writes_itself() {
        let is_the_same = |float: f64| {
            let Some(number) = Number::from_f64(float) else { return };
            let (written, shown) = (plain(&number), float.to_string());
            // Of two that are as short and as near, the even one, as Go has it.
            let is_even = written.ends_with(['2', '4', '6', '8']) && written.parse() == Ok(float);
            assert!(written == shown || (is_even && written.len() == shown.len()), "{float:e}: {written}, {shown}");
        };
        assert_eq!(plain(&Number::from_f64(2.0_f64.powi(-25)).unwrap()), "0.000000029802322387695312");
        for float in
            [0.0, 0.5, 1.0, 100.0, 1e15, 1e16, 1e17, 1e21, 1.5e300, 1e-5, 1e-7, 12.0625, 9_007_199_254_740_993.0]
        {
            is_the_same(float);
            is_the_same(-float);
        }
        for float in [f64::MAX, f64::MIN_POSITIVE, f64::from_bits(1), f64::EPSILON] {
            is_the_same(float);
        }
        // Every exponent, with few and with many digits; then bits as they come.
        for exponent in 0..2_047_u64 {
            is_the_same(f64::from_bits(exponent << 52));
            is_the_same(f64::from_bits(exponent << 52 | 0x000f_edcb_a987_6543));
        }
        let mut bits = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..200_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            is_the_same(f64::from_bits(bits));
        }
        let integers = ["0", "-5", "9007199254740993", "-9223372036854775808", "18446744073709551615"];
        for integer in integers {
            assert_eq!(plain(&integer.parse().unwrap()), integer);
        }
    }
}
