//! Two JSON documents in, the paths at which they differ out: what an Event about a changed WasmPlugin names. Pure.

use serde_json::Value;

/// More paths than this say no more to a reader, and an Event's note is at most 1 kB.
const MOST_PATHS: usize = 8;
/// Paths longer than this are cut: user-chosen keys can be.
const LONGEST_PATH: usize = 100;

/// Where `found` differs from `wanted`, as `spec.defaultConfig.x`; at most [`MOST_PATHS`], then `and N more`.
/// Values are not shown: a foreign one may be a secret.
pub(crate) fn paths(wanted: &Value, found: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect("spec", wanted, found, &mut all);
    let more = all.len().saturating_sub(MOST_PATHS);
    all.truncate(MOST_PATHS);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all
}

fn collect(path: &str, wanted: &Value, found: &Value, into: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                let path = format!("{path}.{key}");
                match found.get(key) {
                    Some(other) => collect(&path, value, other, into),
                    None => into.push(cut(path)),
                }
            }
            into.extend(found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| cut(format!("{path}.{key}"))));
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (value, other)) in wanted.iter().zip(found).enumerate() {
                collect(&format!("{path}[{index}]"), value, other, into);
            }
        }
        (wanted, found) if wanted == found => {}
        _ => into.push(cut(path.to_owned())),
    }
}

fn cut(path: String) -> String {
    if path.chars().count() <= LONGEST_PATH {
        return path;
    }
    path.chars().take(LONGEST_PATH).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_documents_have_no_paths() {
        let spec = json!({"url": "oci://x", "matchRules": [{"ingress": ["a"]}]});
        assert!(paths(&spec, &spec).is_empty());
    }

    #[test]
    fn added_removed_and_changed_fields_are_named_without_values() {
        let wanted = json!({"phase": "AUTHN", "priority": 1, "defaultConfig": {"aiquota": {"version": 1}}});
        let found = json!({"priority": 2, "defaultConfig": {"aiquota": {"version": 1}, "token": "secret"}});
        let paths = paths(&wanted, &found);
        assert_eq!(paths, ["spec.defaultConfig.token", "spec.phase", "spec.priority"]);
    }

    #[test]
    fn a_list_of_another_length_is_one_path_and_of_the_same_length_its_elements() {
        let wanted = json!({"matchRules": [{"config": {"policy": "a"}}]});
        assert_eq!(paths(&wanted, &json!({"matchRules": []})), ["spec.matchRules"]);
        assert_eq!(
            paths(&wanted, &json!({"matchRules": [{"config": {"policy": "b"}}]})),
            ["spec.matchRules[0].config.policy"]
        );
    }

    #[test]
    fn many_and_long_paths_are_cut() {
        let found: Value =
            (0..20).map(|n| (format!("{n:0300}"), Value::Null)).collect::<serde_json::Map<_, _>>().into();
        let paths = paths(&json!({}), &found);
        assert_eq!(paths.len(), MOST_PATHS + 1);
        assert_eq!(paths.last().unwrap(), "and 12 more");
        assert!(paths.iter().all(|path| path.len() <= LONGEST_PATH + 3));
    }
}
