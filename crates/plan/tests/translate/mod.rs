//! Scenarios of our module in, the same for upstream's module out, where it can play them: with an admin, which it
//! needs, and with admins that differ where native quotas differ in the default that it does not have.

use serde_json::{Value, json};

/// What upstream's module has no means for, whatever the scenario is about.
const NATIVE_ONLY: [&str; 3] = [r#""kind":"Gateway""#, r#""unlimited":true"#, r#""onStoreFailure":"Admit""#];

/// Nothing for a scenario that is about what only our module does.
pub(crate) fn for_upstream(scenario: &Value) -> Option<Value> {
    let text = scenario.to_string();
    if NATIVE_ONLY.iter().any(|field| text.contains(field)) {
        return None;
    }
    let text = text
        .replace("differs in defaultQuota", "differs in admin")
        .replace("answered with 503", "refused with 403")
        .replace(" (open)", "");
    let mut scenario: Value = serde_json::from_str(&text).unwrap();
    for step in scenario["steps"].as_array_mut().unwrap() {
        for object in step
            .get_mut("put")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter(|object| object["kind"] == "AIQuota")
        {
            let spec = object["spec"].as_object_mut().unwrap();
            let default = spec.remove("defaultQuota").unwrap_or_default();
            spec.entry("admin").or_insert_with(|| json!({"consumer": format!("admin{default}")}));
        }
        // How our module is configured.
        step["expect"].as_object_mut().unwrap().remove("config");
    }
    Some(scenario)
}
