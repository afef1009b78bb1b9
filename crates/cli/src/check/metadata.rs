//! `metadata` as the API server takes it: which fields there are, names, labels and annotations. An object in; every
//! field that is refused, and its metadata without what cannot be read, out. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plan::{Refusal, Refused};
use serde_json::{Map, Value, json};

use super::schema::{hint, told};

const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

pub(crate) fn check(object: &Value, refusals: &mut Vec<Refusal>) -> Value {
    let mut refuse = |field: &str, reason, message: String| {
        refusals.push(Refusal { field: format!("metadata{field}"), reason, message });
    };
    let mut kept = Map::new();
    let Some(given) = object.get("metadata").and_then(Value::as_object) else {
        refuse("", Refused::Unreadable, "must be an object".to_owned());
        return kept.into();
    };
    for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
        if !FIELDS.contains(&name.as_str()) {
            let hint = hint(name, FIELDS.iter().copied());
            refuse(&format!(".{name}"), Refused::Unreadable, format!("there is no such field{hint}"));
            continue;
        }
        if let ("annotations" | "labels", Some(entries)) = (name.as_str(), value.as_object()) {
            let mut texts = Map::new();
            for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
                let field = format!(".{name}.{key}");
                match value.as_str() {
                    None => refuse(&field, Refused::Unreadable, format!("must be a text, and is {}", told(value))),
                    Some(_) if !is_key(key, name == "labels") => refuse(&field, Refused::Characters, KEY.to_owned()),
                    Some(text) if name == "labels" && !text.is_empty() && !is_word(text) => {
                        refuse(&field, Refused::Characters, WORD.to_owned());
                    }
                    Some(_) => drop(texts.insert(key.clone(), value.clone())),
                }
            }
            kept.insert(name.clone(), texts.into());
            continue;
        }
        match serde_json::from_value::<ObjectMeta>(json!({name: value})) {
            Ok(_) => drop(kept.insert(name.clone(), value.clone())),
            Err(_) => refuse(&format!(".{name}"), Refused::Unreadable, format!("cannot be {}", told(value))),
        }
    }
    for (name, is, message) in [("name", is_subdomain as fn(&str) -> bool, SUBDOMAIN), ("namespace", is_label, LABEL)] {
        if kept.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty() && !is(text)) {
            refuse(&format!(".{name}"), Refused::Characters, message.to_owned());
        }
    }
    kept.into()
}

const SUBDOMAIN: &str = "must be lower-case letters, digits, `-` and `.`, at most 253, with a letter or digit at both ends of \
                         each part between dots";
const LABEL: &str = "must be lower-case letters, digits and `-`, at most 63, with a letter or digit at both ends";
const KEY: &str = "must be letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends, and before it at \
                   most a domain and /";
const WORD: &str =
    "must be letters, digits, `-`, `_` and `.`, at most 63, with a letter or digit at both ends, or nothing";

fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|end| end.is_some_and(plain)) && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// The name of an object. Only all of it has a length.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_word(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 63
        && ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && text.bytes().all(inner)
}

/// Of an annotation capital letters may be before the `/` too.
fn is_key(key: &str, of_label: bool) -> bool {
    let (domain, word) = key.rsplit_once('/').map_or((None, key), |(domain, word)| (Some(domain), word));
    let is_domain =
        |domain: &str| if of_label { is_subdomain(domain) } else { is_subdomain(&domain.to_ascii_lowercase()) };
    is_word(word) && domain.is_none_or(is_domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(metadata: &Value) -> Vec<String> {
        let mut refusals = Vec::new();
        check(&json!({"metadata": metadata}), &mut refusals);
        refusals.iter().map(|refusal| refusal.field.clone()).collect()
    }

    #[test]
    fn what_the_api_server_refuses_in_metadata_is_refused_by_its_field() {
        let valid = json!({
            "name": "a-1.b", "namespace": "team-1", "labels": {"app.kubernetes.io/name": "A_b.c", "empty": ""},
            "annotations": {"quota.higress.io/refresh": "any text!"}, "finalizers": ["x/y"], "ownerReferences": null,
        });
        assert_eq!(refused(&valid), Vec::<String>::new());
        for (field, value, says) in [
            ("name", json!("a..b"), "metadata.name"),
            ("name", json!("a.-b"), "metadata.name"),
            ("name", json!("a-.b"), "metadata.name"),
            ("name", json!(7), "metadata.name"),
            ("namespace", json!("a.b"), "metadata.namespace"),
            ("namespace", json!("a".repeat(64)), "metadata.namespace"),
            ("labls", json!({"a": "b"}), "metadata.labls"),
            ("labels", json!({"x y": "b"}), "metadata.labels.x y"),
            ("labels", json!({"a": "not ok!"}), "metadata.labels.a"),
            ("labels", json!({"a": "b".repeat(64)}), "metadata.labels.a"),
            ("labels", json!({"A.b/c": "d"}), "metadata.labels.A.b/c"),
            ("annotations", json!({"a/b/c": "d"}), "metadata.annotations.a/b/c"),
            ("annotations", json!({"a": 5}), "metadata.annotations.a"),
            ("annotations", json!("a"), "metadata.annotations"),
            ("finalizers", json!("nope"), "metadata.finalizers"),
        ] {
            let mut metadata = valid.clone();
            metadata[field] = value;
            assert_eq!(refused(&metadata), [says], "{metadata}");
        }
    }

    #[test]
    fn what_can_be_read_is_left() {
        let object = json!({"metadata": {"name": "a", "labels": {"a": 1, "b": "c"}, "finalizers": 5, "x": 1}});
        assert_eq!(check(&object, &mut Vec::new()), json!({"name": "a", "labels": {"b": "c"}}));
    }
}
