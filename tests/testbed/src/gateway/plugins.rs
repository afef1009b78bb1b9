//! From WasmPlugin and Secret objects to what the chain is built of, as Higress serves them: templates expanded in the
//! text of the spec, rules flattened into one configuration, order by phase and priority. Pure.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::route::list;

/// One plugin of the chain.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginSpec {
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) priority: i64,
    pub(super) fail_open: bool,
    pub(super) url: String,
    pub(super) sha256: String,
    pub(super) config: Value,
}

/// In the order of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Authn,
    Authz,
    Stats,
    Unspecified,
}

/// The plugins of the gateway's namespace in chain order, and what was wrong with others.
pub(super) fn read(plugins: &[Value], secrets: &[Value], gateway_namespace: &str) -> (Vec<PluginSpec>, Vec<String>) {
    let mut specs = Vec::new();
    let mut problems = Vec::new();
    for plugin in plugins.iter().filter(|plugin| plugin["metadata"]["namespace"] == gateway_namespace) {
        let name = plugin["metadata"]["name"].as_str().unwrap_or_default();
        let spec = match expand(&plugin["spec"], secrets, gateway_namespace) {
            Ok(spec) => spec,
            Err(error) => {
                problems.push(format!("{name}: no template is expanded: {error:#}"));
                plugin["spec"].clone()
            }
        };
        match one(name, &spec) {
            Ok(Some(spec)) => specs.push(spec),
            Ok(None) => {}
            Err(error) => problems.push(format!("{name}: rejected: {error:#}")),
        }
    }
    specs.sort_by(|a, b| (a.phase, -a.priority, &a.name).cmp(&(b.phase, -b.priority, &b.name)));
    (specs, problems)
}

fn one(name: &str, spec: &Value) -> Result<Option<PluginSpec>> {
    let Some(config) = flatten(spec)? else { return Ok(None) };
    Ok(Some(PluginSpec {
        name: name.to_owned(),
        phase: match spec["phase"].as_str() {
            None | Some("UNSPECIFIED_PHASE") => Phase::Unspecified,
            Some("AUTHN") => Phase::Authn,
            Some("AUTHZ") => Phase::Authz,
            Some("STATS") => Phase::Stats,
            Some(other) => bail!("no phase {other}"),
        },
        priority: spec["priority"].as_i64().unwrap_or_default(),
        fail_open: spec["failStrategy"] == "FAIL_OPEN",
        url: spec["url"].as_str().unwrap_or_default().to_owned(),
        sha256: spec["sha256"].as_str().unwrap_or_default().to_owned(),
        config,
    }))
}

/// One object: the default's fields, and `_rules_`; `None` when nothing of it is enabled.
fn flatten(spec: &Value) -> Result<Option<Value>> {
    let disabled = spec["defaultConfigDisable"] == true;
    let mut config = match &spec["defaultConfig"] {
        Value::Object(fields) if !disabled => as_struct(fields),
        _ => Map::new(),
    };
    let mut rules = Vec::new();
    for rule in list(&spec["matchRules"]) {
        if rule["configDisable"] == true {
            continue;
        }
        let mut flat = rule["config"].as_object().map(as_struct).unwrap_or_default();
        let matchers = [("ingress", "_match_route_"), ("service", "_match_service_"), ("domain", "_match_domain_")];
        let mut matches = false;
        for (from, to) in matchers {
            if !list(&rule[from]).is_empty() {
                flat.insert(to.to_owned(), rule[from].clone());
                matches = true;
            }
        }
        if !matches {
            bail!("invalid match rule has no match condition");
        }
        rules.push(Value::Object(flat));
    }
    if rules.is_empty() && disabled {
        return Ok(None);
    }
    if !rules.is_empty() {
        config.insert("_rules_".to_owned(), Value::Array(rules));
    }
    Ok(Some(Value::Object(config)))
}

/// Numbers of a configuration travel as doubles.
fn as_struct(fields: &Map<String, Value>) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (name.clone(), as_struct_value(value))).collect()
}

fn as_struct_value(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(as_struct(fields)),
        Value::Array(items) => items.iter().map(as_struct_value).collect(),
        Value::Number(number) => {
            let double = number.as_f64().unwrap_or_default();
            if double.fract() == 0.0 && double.abs() < 1e18 { json!(double as i64) } else { json!(double) }
        }
        other => other.clone(),
    }
}

/// Replaces `${secret.<namespace>/<name>.<key>}` anywhere in the text of the spec by the bare value.
///
/// # Errors
/// When one of them cannot be resolved, or the text is no JSON afterwards.
fn expand(spec: &Value, secrets: &[Value], gateway_namespace: &str) -> Result<Value> {
    let text = spec.to_string();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("${") {
        let Some((inner, after)) = rest[at + 2..].split_once('}') else { break };
        out.push_str(&rest[..at]);
        match reference(inner, gateway_namespace) {
            None => write!(out, "${{{inner}}}")?,
            Some((kind, namespace, name, key)) => {
                let value = (kind == "secret").then(|| secret(secrets, namespace, name, key)).flatten();
                out.push_str(&value.with_context(|| format!("{inner} cannot be resolved"))?);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    serde_json::from_str(&out).context("the expanded spec is not JSON")
}

/// `<kind>.[<namespace>/]<name>.<key>`; a dot ends the name, so names with dots are misread.
fn reference<'a>(inner: &'a str, gateway_namespace: &'a str) -> Option<(&'a str, &'a str, &'a str, &'a str)> {
    let (kind, rest) = inner.split_once('.')?;
    let (namespace, rest) = rest.split_once('/').unwrap_or((gateway_namespace, rest));
    let (name, key) = rest.split_once('.')?;
    let whole = !kind.is_empty() && !kind.contains('/') && !namespace.is_empty() && !name.is_empty();
    (whole && !name.contains('/') && !key.is_empty()).then_some((kind, namespace, name, key))
}

fn secret(secrets: &[Value], namespace: &str, name: &str, key: &str) -> Option<String> {
    let secret = secrets.iter().find(|s| s["metadata"]["namespace"] == namespace && s["metadata"]["name"] == name)?;
    if let Some(plain) = secret["stringData"][key].as_str() {
        return Some(plain.to_owned());
    }
    String::from_utf8(base64(secret["data"][key].as_str()?)?).ok()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, spec: &Value) -> Value {
        json!({"metadata": {"namespace": "higress-system", "name": name}, "spec": spec})
    }

    fn secrets() -> Vec<Value> {
        vec![json!({"metadata": {"namespace": "n", "name": "s"}, "data": {"password": "cEBzcw==", "quote": "Ig=="}})]
    }

    #[test]
    fn the_default_and_its_rules_become_one_object() {
        let spec = json!({"defaultConfig": {"a": 1, "big": 9007199254740993u64}, "matchRules": [
            {"ingress": ["team/r"], "service": ["x.static"], "config": {"b": 2}},
            {"domain": ["*.x"], "configDisable": true, "config": {}},
            {"domain": ["y"]}]});
        assert_eq!(
            flatten(&spec).unwrap().unwrap(),
            json!({"a": 1, "big": 9007199254740992u64, "_rules_": [
                {"b": 2, "_match_route_": ["team/r"], "_match_service_": ["x.static"]},
                {"_match_domain_": ["y"]}]})
        );
    }

    #[test]
    fn a_rule_without_matcher_rejects_the_object_and_nothing_enabled_is_nothing() {
        assert!(flatten(&json!({"matchRules": [{"config": {"a": 1}}]})).is_err());
        assert_eq!(flatten(&json!({"defaultConfig": {"a": 1}, "defaultConfigDisable": true})).unwrap(), None);
    }

    #[test]
    fn one_template_that_cannot_be_resolved_leaves_all_of_the_object_unexpanded() {
        let spec = |other: &str| json!({"url": "u", "defaultConfig": {"p": "${secret.n/s.password}", "q": other}});
        let (specs, problems) = read(&[plugin("a", &spec("plain ${x}"))], &secrets(), "higress-system");
        assert_eq!((specs[0].config["p"].as_str(), problems.len()), (Some("p@ss"), 0));
        assert_eq!(specs[0].config["q"], "plain ${x}");
        for other in ["${secret.n/s.absent}", "${secret.n/absent.k}", "${config.n/s.k}", "${secret.n/s.quote}"] {
            let (specs, problems) = read(&[plugin("a", &spec(other))], &secrets(), "higress-system");
            assert_eq!(specs[0].config["p"], "${secret.n/s.password}", "{other}");
            assert_eq!(problems.len(), 1, "{other}");
        }
    }

    #[test]
    fn the_chain_is_ordered_by_phase_then_priority_highest_first() {
        let plugins = [
            ("quota", "UNSPECIFIED_PHASE", 750),
            ("stats", "STATS", 1),
            ("auth", "AUTHN", 310),
            ("limit", "UNSPECIFIED_PHASE", 600),
            ("guard", "AUTHN", 1000),
        ]
        .map(|(name, phase, priority)| plugin(name, &json!({"phase": phase, "priority": priority})));
        let (specs, _) = read(&plugins, &[], "higress-system");
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["guard", "auth", "stats", "quota", "limit"]);
    }
}
