//! The CustomResourceDefinitions as JSON, the same bytes on every run: what `aiquota crds` prints and tests install.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Number, Value};

use crate::{AiQuota, AiQuotaStore, AiTokenRateLimit};

/// All CRDs of aiquota, keys in alphabetical order.
///
/// # Errors
/// Never in practice: only if a CRD cannot be written as JSON.
pub fn crds() -> Result<Vec<Value>, serde_json::Error> {
    [AiQuota::crd(), AiQuotaStore::crd(), AiTokenRateLimit::crd()].iter().map(definition).collect()
}

fn definition(crd: &CustomResourceDefinition) -> Result<Value, serde_json::Error> {
    let mut crd = serde_json::to_value(crd)?;
    if let Some(versions) = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for schema in versions.iter_mut().filter_map(|version| version.pointer_mut("/schema/openAPIV3Schema")) {
            strict(schema);
            // The object itself is described by what it declares.
            schema["description"] = schema["properties"]["spec"]["description"].take();
            schema["properties"]["spec"]["description"] = "What is declared.".into();
        }
    }
    Ok(plain(crd))
}

/// Optional fields become `nullable` when derived: then `null` would pass and every rule would have to expect it.
/// Defaults are left to the controller, so that a stored object is what its author wrote. Formats such as `uint16`
/// are unknown to the API server; the bounds say it.
fn strict(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    node.remove("nullable");
    node.remove("default");
    node.remove("title");
    if let Some(Value::String(text)) = node.get_mut("description") {
        // Lines are broken for readers of the source; terminals break them anew.
        *text = text.replace('\n', " ");
    }
    if node.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        node.remove("format");
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(strict);
    }
    for one in ["items", "additionalProperties"] {
        if let Some(inner) = node.get_mut(one) {
            strict(inner);
        }
    }
}

/// Keys sorted, and whole numbers written without a fraction (bounds are floats in the types).
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, plain(value))).collect();
            Value::Object(sorted.into_iter().collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        Value::Number(number) => Value::Number(whole(&number)),
        other => other,
    }
}

fn whole(number: &Number) -> Number {
    #[expect(clippy::cast_possible_truncation, reason = "only what survives the way back is taken")]
    #[expect(clippy::cast_precision_loss, reason = "only what survives the way back is taken")]
    match number.as_f64() {
        Some(float) if number.is_f64() && (float as i64) as f64 == float => Number::from(float as i64),
        _ => number.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<'a>(value: &'a Value, path: &str, into: &mut Vec<(String, &'a Map<String, Value>)>) {
        match value {
            Value::Object(map) => {
                into.push((path.to_owned(), map));
                map.iter().for_each(|(key, value)| nodes(value, &format!("{path}.{key}"), into));
            }
            Value::Array(items) => items.iter().for_each(|item| nodes(item, path, into)),
            _ => {}
        }
    }

    #[test]
    fn every_field_of_a_spec_is_explained_bounded_and_never_null() {
        for crd in crds().unwrap() {
            let mut all = Vec::new();
            let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
            nodes(spec, "spec", &mut all);
            for (path, node) in all {
                assert!(!node.contains_key("nullable") && !node.contains_key("default"), "{path}");
                let explained = path.rsplit('.').nth(1) != Some("properties") || node.contains_key("description");
                assert!(explained, "{path} has no description");
                let bounded = match node.get("type").and_then(Value::as_str) {
                    Some("string") => node.contains_key("maxLength") || node.contains_key("enum"),
                    Some("array") => node.contains_key("maxItems"),
                    Some("integer") => node.contains_key("minimum") && node.contains_key("maximum"),
                    _ => true,
                };
                assert!(bounded, "{path} has no bound");
            }
        }
    }

    #[test]
    fn an_amount_is_bounded_by_what_the_script_can_count_exactly() {
        let crds = crds().unwrap();
        let quota =
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/consumers/items/properties/quota";
        let maximum = crds[0].pointer(quota).unwrap().get("maximum").unwrap();
        assert_eq!(maximum.to_string(), enforcement::values::MAX_AMOUNT.to_string());
    }
}
