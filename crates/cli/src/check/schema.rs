//! What the API server reads out of the schema of a kind: fields there are not, fields that are missing, other types,
//! and bounds. An object and the CRD in; every field that is refused out, and the object without what nobody can read.
//! Rules that span fields are for `plan::validate`, which decides by itself; this only sees to it that all of an
//! object's fields are told at once. Pure.

use std::collections::{BTreeMap, HashMap};

use plan::{Refusal, Refused};
use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::files::yaml::{Step, steps};

/// What a schema says about an object.
pub(crate) struct Checked {
    /// Fields that cannot be read at all.
    pub(crate) unreadable: Vec<Refusal>,
    /// Fields beyond a bound of the schema.
    pub(crate) bounds: Vec<Refusal>,
    /// The object without the fields and list items that cannot be read.
    pub(crate) rest: Value,
    gone: Gone,
}

/// The list items that were taken out, by the list's path as the file has it.
type Gone = BTreeMap<String, Vec<usize>>;

impl Checked {
    /// A field of what is left, as the file has it.
    pub(crate) fn in_file(&self, field: &str) -> String {
        if self.gone.is_empty() {
            return field.to_owned();
        }
        let mut path = String::new();
        for step in steps(field) {
            match step {
                Step::Key(name) if path.is_empty() => path = name,
                Step::Key(name) => path = format!("{path}.{name}"),
                Step::Index(index) => {
                    let gone = self.gone.get(&path).map(Vec::as_slice).unwrap_or_default();
                    let index = gone.iter().fold(index, |index, gone| index + usize::from(*gone <= index));
                    path = format!("{path}[{index}]");
                }
            }
        }
        path
    }
}

/// `schema` is the `openAPIV3Schema` of the kind.
pub(crate) fn check(schema: &Value, object: &Value) -> Checked {
    let mut walk = Walk::default();
    let mut rest = object.clone();
    if let Some(fields) = rest.as_object_mut() {
        // What the controller reports is not for files to say, and metadata is the API server's own.
        fields.remove("status");
        let known = |name: &&String| ["apiVersion", "kind", "metadata"].contains(&name.as_str());
        fields.retain(|name, value| name != "spec" || !value.is_null());
        for name in fields.keys().filter(|name| !known(name)).cloned().collect::<Vec<_>>() {
            match schema.pointer("/properties").and_then(|all| all.get(&name)) {
                None => {
                    walk.unknown(&name, schema, "");
                    fields.remove(&name);
                }
                Some(schema) => {
                    if let Some(value) = fields.get_mut(&name)
                        && !walk.node(schema, value, &name)
                    {
                        *value = Value::Null;
                    }
                }
            }
        }
        if !fields.contains_key("spec") {
            walk.refuse("spec", Refused::Required, "must be given");
        }
    }
    let Walk { unreadable, bounds, gone, patterns: _ } = walk;
    Checked { unreadable, bounds, rest, gone }
}

#[derive(Default)]
struct Walk {
    unreadable: Vec<Refusal>,
    bounds: Vec<Refusal>,
    gone: Gone,
    /// Each is made once: there may be thousands of consumers.
    patterns: HashMap<String, Option<Regex>>,
}

impl Walk {
    fn refuse(&mut self, field: &str, reason: Refused, message: impl Into<String>) {
        self.unreadable.push(Refusal { field: field.to_owned(), reason, message: message.into() });
    }

    fn bound(&mut self, field: &str, reason: Refused, message: impl Into<String>) {
        self.bounds.push(Refusal { field: field.to_owned(), reason, message: message.into() });
    }

    fn unknown(&mut self, name: &str, schema: &Value, path: &str) {
        let known = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let hint = hint(name, known.map(String::as_str));
        let field = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        self.refuse(&field, Refused::Unreadable, format!("there is no such field{hint}"));
    }

    /// Whether it can be read, if need be without some of what is in it.
    fn node(&mut self, schema: &Value, value: &mut Value, path: &str) -> bool {
        let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
        if !fits(wanted, value) {
            let message = format!("must be {}, and is {}", article(wanted), told(value));
            self.refuse(path, Refused::Unreadable, message);
            return false;
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array)
            && !words.contains(value)
        {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            self.refuse(path, Refused::Unknown, format!("must be one of {}", words.join(", ")));
            return false;
        }
        self.limits(schema, value, path);
        match value {
            Value::Object(fields) => self.fields(schema, fields, path),
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return true };
                let mut index = 0;
                items.retain_mut(|item| {
                    let read = self.node(schema, item, &format!("{path}[{index}]"));
                    if !read {
                        self.gone.entry(path.to_owned()).or_default().push(index);
                    }
                    index += 1;
                    read
                });
                true
            }
            _ => true,
        }
    }

    fn fields(&mut self, schema: &Value, fields: &mut Map<String, Value>, path: &str) -> bool {
        let known = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        for name in fields.keys().cloned().collect::<Vec<_>>() {
            match (known.and_then(|known| known.get(&name)), others) {
                // The API server takes it for a field that is not there.
                (Some(_), _) | (None, Some(_)) if fields.get(&name).is_some_and(Value::is_null) => {
                    fields.remove(&name);
                }
                (Some(schema), _) | (None, Some(schema)) => {
                    if let Some(value) = fields.get_mut(&name)
                        && !self.node(schema, value, &format!("{path}.{name}"))
                    {
                        *value = Value::Null;
                    }
                }
                (None, None) => {
                    self.unknown(&name, schema, path);
                    fields.remove(&name);
                }
            }
        }
        let mut whole = true;
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            match fields.get(name) {
                None => self.refuse(&format!("{path}.{name}"), Refused::Required, "must be given"),
                // It has been refused.
                Some(Value::Null) => {}
                Some(_) => continue,
            }
            // Without a list there are no items, and all else can be read.
            if known.and_then(|known| known.get(name)?.get("type")?.as_str()) == Some("array") {
                fields.insert(name.to_owned(), Value::Array(Vec::new()));
            } else {
                whole = false;
            }
        }
        whole
    }

    fn matches(&mut self, pattern: &str, text: &str) -> bool {
        if !self.patterns.contains_key(pattern) {
            self.patterns.insert(pattern.to_owned(), Regex::new(pattern).ok());
        }
        self.patterns.get(pattern).and_then(Option::as_ref).is_none_or(|pattern| pattern.is_match(text))
    }

    fn limits(&mut self, schema: &Value, value: &Value, path: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        match value {
            Value::Number(number) => {
                let of = |name: &str| schema.get(name).and_then(Value::as_i64);
                if let (Some(min), Some(max), Some(number)) = (of("minimum"), of("maximum"), number.as_i64())
                    && !(min..=max).contains(&number)
                {
                    self.bound(path, Refused::OutOfRange, format!("must be {min} to {max}"));
                }
            }
            Value::String(text) => {
                let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
                let pattern = schema.get("pattern").and_then(Value::as_str).unwrap_or_default();
                if bound("minLength").is_some_and(|min| length < min) {
                    self.bound(path, Refused::Required, "must not be empty");
                } else if let Some(max) = bound("maxLength").filter(|max| length > *max) {
                    self.bound(path, Refused::TooLong, format!("has {length} characters, at most {max} may be"));
                } else if !self.matches(pattern, text) {
                    self.bound(path, Refused::Characters, format!("must match {pattern}"));
                }
            }
            Value::Array(items) => {
                let length = u64::try_from(items.len()).unwrap_or(u64::MAX);
                if bound("minItems").is_some_and(|min| length < min) {
                    self.bound(path, Refused::Required, "must not be empty");
                } else if let Some(max) = bound("maxItems").filter(|max| length > *max) {
                    self.bound(path, Refused::TooMany, format!("has {length} items, at most {max} may be"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Object(_) => {}
        }
    }
}

fn fits(wanted: &str, value: &Value) -> bool {
    match (wanted, value) {
        ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_))
        | ("", _) => true,
        ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    }
}

fn article(wanted: &str) -> &'static str {
    match wanted {
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

/// Which of the known ones may be meant.
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let meant = known.map(|known| (distance(name, known), known)).min().filter(|(distance, _)| *distance <= 2);
    meant.map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"))
}

pub(super) fn told(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => {
            "a number with a fraction or an exponent, with a 0 before it, or too large"
        }
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// How many letters have to be changed, added or taken out, letters of other case counting for nothing.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(kind: &str) -> Value {
        let crds = api::crds().unwrap();
        let crd = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    }

    fn refused(spec: &Value) -> (Vec<String>, Vec<String>) {
        let Checked { unreadable, bounds, .. } = check(&schema("AIQuota"), &json!({"spec": spec}));
        let told = |all: Vec<Refusal>| all.iter().map(ToString::to_string).collect();
        (told(unreadable), told(bounds))
    }

    #[test]
    fn every_field_that_cannot_be_read_is_told_and_what_may_be_meant() {
        let (unreadable, bounds) = refused(&json!({
            "targetRefs": [{"kind": "ingress", "name": "a"}, {"name": "b"}],
            "keyPrefx": "q:",
            "consumers": [{"name": 7, "quota": "many"}, {"name": "a", "Quota": 1}],
            "nonsense": {},
        }));
        assert!(bounds.is_empty(), "{bounds:?}");
        assert_eq!(
            unreadable,
            [
                "spec.consumers[0].name: must be a text, and is a number",
                "spec.consumers[0].quota: must be a whole number, and is a text",
                "spec.consumers[1].Quota: there is no such field; did you mean quota?",
                "spec.keyPrefx: there is no such field; did you mean keyPrefix?",
                "spec.nonsense: there is no such field",
                "spec.targetRefs[0].kind: must be one of Ingress, HTTPRoute, Service, Domain, Gateway",
                "spec.targetRefs[1].kind: must be given",
            ]
        );
    }

    #[test]
    fn bounds_are_those_of_the_schema() {
        let (unreadable, bounds) = refused(&json!({
            "targetRefs": [],
            "consumers": [{"name": "a b", "quota": -1}],
            "paths": ["v1"],
            "mode": null,
        }));
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let fields: Vec<&str> = bounds.iter().filter_map(|bound| Some(bound.split_once(": ")?.0)).collect();
        assert_eq!(fields, ["spec.consumers[0].name", "spec.consumers[0].quota", "spec.paths[0]", "spec.targetRefs"]);
    }

    #[test]
    fn null_is_a_field_that_is_not_there_and_no_item() {
        let target = json!([{"kind": "Gateway"}]);
        for (spec, says) in [
            (json!({"targetRefs": null}), "spec.targetRefs: must be given"),
            (json!({"targetRefs": [{"kind": null, "name": "a"}]}), "spec.targetRefs[0].kind: must be given"),
            (
                json!({"targetRefs": target, "consumers": [{"name": null, "quota": 5}]}),
                "spec.consumers[0].name: must be given",
            ),
            (json!({"targetRefs": target, "refresh": {"schedule": null}}), "spec.refresh.schedule: must be given"),
            (
                json!({"targetRefs": target, "consumers": [null]}),
                "spec.consumers[0]: must be an object, and is nothing",
            ),
            (json!({"targetRefs": target, "nonsense": null}), "spec.nonsense: there is no such field"),
            (json!(null), "spec: must be given"),
        ] {
            assert_eq!(refused(&spec), (vec![says.to_owned()], Vec::new()), "{spec}");
        }
    }

    #[test]
    fn what_can_be_read_is_left() {
        let object = json!({"spec": {"targetRefs": [{"kind": "Gateway"}], "x": 1, "defaultQuota": "a"}, "status": 3});
        let rest = check(&schema("AIQuota"), &object).rest;
        assert_eq!(rest, json!({"spec": {"targetRefs": [{"kind": "Gateway"}], "defaultQuota": null}}));
    }

    #[test]
    fn items_that_cannot_be_read_are_left_out_and_the_others_keep_their_place() {
        let consumers = json!([{"name": 1}, {"name": "a"}, {}, 7, {"name": "b"}]);
        let object = json!({"spec": {"targetRefs": [{"kind": "Gateway"}], "consumers": consumers}});
        let checked = check(&schema("AIQuota"), &object);
        assert_eq!(checked.rest.pointer("/spec/consumers").unwrap(), &json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(checked.in_file("spec.consumers[0].name"), "spec.consumers[1].name");
        assert_eq!(checked.in_file("spec.consumers[1]"), "spec.consumers[4]");
        assert_eq!(checked.in_file("spec.targetRefs[0]"), "spec.targetRefs[0]");
    }

    #[test]
    fn names_are_near_that_differ_in_little() {
        assert_eq!((distance("Quota", "quota"), distance("qouta", "quota"), distance("", "abc")), (0, 2, 3));
    }
}
