//! Files without a WasmPlugin that can be imported: what is in them, in; what to say of it and what to do, out. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::objects::{AI_QUOTA, AI_TOKEN_RATELIMIT};
use crate::files::{Document, Place};
use crate::tell::count;

/// Of what is named, so many.
const NAMED_MAX: usize = 5;

/// What is said where none of it is imported. No value is told: there are passwords among them.
pub(super) fn there(documents: &[Document], plain: &[(Place, Value)]) -> String {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Document { kind, key, .. } in documents {
        kinds.entry(kind).or_default().push(key.to_string());
    }
    let mut there: Vec<String> = kinds.into_iter().map(|(kind, names)| listed(kind, &names)).collect();
    let mut known = None;
    let places: Vec<String> = plain
        .iter()
        .map(|(Place { file, line }, value)| match configured(value) {
            None => format!("{file}:{line}"),
            Some(plugin) => {
                known.get_or_insert(plugin);
                format!("{file}:{line}, with the fields of a configuration of {plugin}")
            }
        })
        .collect();
    if !places.is_empty() {
        there.push(listed(&count(places.len(), "document without apiVersion and kind"), &places));
    }
    if there.is_empty() {
        there.push("nothing".to_owned());
    }
    let plugin = known.unwrap_or(AI_QUOTA);
    format!(
        "no WasmPlugin in these files is {AI_QUOTA} or {AI_TOKEN_RATELIMIT}, by name, pluginName or image; there is {}\n    -> \
         put a configuration, as the console shows it, into a WasmPlugin: apiVersion: extensions.higress.io/v1alpha1, kind: \
         WasmPlugin, metadata.name: {plugin}, and the configuration in spec.defaultConfig, or for single routes in \
         spec.matchRules[].config beside ingress: [<route>]; `kubectl get wasmplugins -n higress-system -o yaml` has those \
         of a cluster, and --from-cluster reads them",
        there.join("; ")
    )
}

fn listed(what: &str, names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{what} ({}{more})", names[..names.len().min(NAMED_MAX)].join(", "))
}

/// The plugin whose fields these are.
fn configured(value: &Value) -> Option<&'static str> {
    let has = |names: &[&str]| names.iter().any(|name| value.get(name).is_some());
    match value {
        _ if has(&["rule_name", "rule_items", "global_threshold"]) => Some(AI_TOKEN_RATELIMIT),
        _ if has(&["admin_consumer", "redis_key_prefix", "admin_path"]) => Some(AI_QUOTA),
        _ => None,
    }
}
