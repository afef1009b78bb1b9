//! `${secret.<namespace>/<name>.<key>}`, which the gateway replaces wherever it stands in a WasmPlugin: Secrets in;
//! whether one can be replaced, and whether a spec has any other, out. Pure.

use std::collections::HashSet;

use api::WasmPluginSpec;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::{Reason, World};

/// What begins a template of any kind.
const BEGIN: &str = "${";

pub(crate) fn of(namespace: &str, name: &str, key: &str) -> String {
    format!("${{secret.{namespace}/{name}.{key}}}")
}

/// What the gateway would put there, if it is one of ours and can be replaced.
pub(crate) fn resolve(world: &World, template: &str) -> Option<String> {
    let inner = template.strip_prefix("${secret.")?.strip_suffix('}')?;
    let (namespace, rest) = inner.split_once('/')?;
    let (name, key) = rest.split_once('.')?;
    let ours = namespace == world.settings.gateway_namespace && template == of(namespace, name, key);
    if ours { secret(world, name, key).ok() } else { None }
}

/// The value under a key of a Secret in the gateway's namespace, if it survives being put into a configuration.
pub(crate) fn secret(world: &World, name: &str, key: &str) -> Result<String, Reason> {
    let namespace = &world.settings.gateway_namespace;
    let is = |secret: &&std::sync::Arc<Secret>| secret.metadata.name.as_deref() == Some(name);
    let found = world.secrets.iter().find(is);
    let found = found.ok_or_else(|| Reason::SecretNotFound { namespace: namespace.clone(), name: name.to_owned() })?;
    value(found, key).map_err(|problem| Reason::SecretInvalid {
        namespace: namespace.clone(),
        name: name.to_owned(),
        problem,
    })
}

/// A value that survives being pasted into JSON unescaped, and a template in it would be expanded once more.
fn value(secret: &Secret, key: &str) -> Result<String, String> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| format!("it has no key {key}"))?;
    let text = std::str::from_utf8(&bytes.0).map_err(|_| format!("the value of {key} is not UTF-8"))?;
    if text.is_empty() {
        return Err(format!("the value of {key} is empty"));
    }
    if text.ends_with(['\n', '\r']) {
        return Err(format!("the value of {key} ends in a line break, which would break the gateway's configuration"));
    }
    if text.chars().any(|char| matches!(char, '"' | '\\') || char.is_control()) || text.contains(BEGIN) {
        return Err(format!(
            "the value of {key} has a quote, backslash, control character or ${{, which would break the gateway's configuration"
        ));
    }
    Ok(text.to_owned())
}

/// Where a spec has a template that is not one of these: it would show any Secret to whoever may read an answer, and
/// one that cannot be replaced leaves all of the object's as they are.
pub(crate) fn unknown(spec: &WasmPluginSpec, known: &HashSet<String>) -> Option<String> {
    let spec = serde_json::to_value(spec).ok()?;
    let mut path = "spec".to_owned();
    find(&spec, known, &mut path).then_some(path)
}

fn find(value: &Value, known: &HashSet<String>, path: &mut String) -> bool {
    let length = path.len();
    let mut inside = |step: String, value: &Value| {
        path.truncate(length);
        path.push_str(&step);
        find(value, known, path)
    };
    match value {
        Value::String(text) => text.contains(BEGIN) && !known.contains(text),
        Value::Array(items) => items.iter().enumerate().any(|(index, item)| inside(format!("[{index}]"), item)),
        // Such a name is not shown.
        Value::Object(fields) => {
            fields.keys().any(|name| name.contains(BEGIN))
                || fields.iter().any(|(name, field)| inside(format!(".{name}"), field))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unknown_in(config: Value) -> Option<String> {
        let known = HashSet::from([of("higress-system", "redis-auth", "password")]);
        unknown(&WasmPluginSpec { default_config: Some(config), ..WasmPluginSpec::default() }, &known)
    }

    #[test]
    fn only_our_own_templates_may_stand_in_a_spec_and_only_by_themselves() {
        let ours = "${secret.higress-system/redis-auth.password}";
        assert_eq!(
            unknown_in(json!({"stores": {"default": {"password": ours}}, "n": [1, true, null, "a$b{c}"]})),
            None
        );
        for (config, at) in [
            (json!({"a": [{"b": "${secret.higress-system/other.password}"}]}), "spec.defaultConfig.a[0].b"),
            (json!({"a": "x", "b": format!("{ours} ")}), "spec.defaultConfig.b"),
            (json!({"a": ["ok", "${"]}), "spec.defaultConfig.a[1]"),
            (json!({"a": {ours: 1}}), "spec.defaultConfig.a"),
        ] {
            assert_eq!(unknown_in(config.clone()).as_deref(), Some(at), "{config}");
        }
        let url = WasmPluginSpec { url: Some("oci://${secret.a/b.c}".to_owned()), ..WasmPluginSpec::default() };
        assert_eq!(unknown(&url, &HashSet::new()).as_deref(), Some("spec.url"));
    }
}
