//! The CustomResourceDefinitions as JSON, the same bytes on every run: what `aiquota crds` prints and tests install.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Number, Value};

use crate::{AiQuota, AiQuotaStore};

/// All CRDs of aiquota, keys in alphabetical order.
///
/// # Errors
/// Never in practice: only if a CRD cannot be written as JSON.
pub fn crds() -> Result<Vec<Value>, serde_json::Error> {
    [AiQuota::crd(), AiQuotaStore::crd()].iter().map(definition).collect()
}

fn definition(crd: &CustomResourceDefinition) -> Result<Value, serde_json::Error> {
    let mut crd = serde_json::to_value(crd)?;
    if let Some(versions) = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for schema in versions.iter_mut().filter_map(|version| version.pointer_mut("/schema/openAPIV3Schema")) {
            strict(schema);
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
    if node.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        node.remove("format");
    }
    for list in ["properties"] {
        if let Some(Value::Object(properties)) = node.get_mut(list) {
            properties.values_mut().for_each(strict);
        }
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
