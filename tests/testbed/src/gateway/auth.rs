//! What stands in front of the modules: Higress' key-auth, played from its own WasmPlugin. A known key *adds* the
//! consumer header; a request that no rule concerns passes with whatever it carries. Pure.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::abi::Headers;
use super::host::LocalReply;
use super::route::{Route, list, without_port};

pub(super) const CONSUMER_HEADER: &str = "x-mse-consumer";

#[derive(Debug)]
pub(super) struct KeyAuth {
    /// Names by credential.
    consumers: HashMap<String, String>,
    keys: Vec<String>,
    in_header: bool,
    in_query: bool,
    global: Option<bool>,
    rules: Vec<Value>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Known(String),
    Refuse(LocalReply),
}

impl KeyAuth {
    /// Reads the flattened configuration.
    pub(super) fn new(config: &Value) -> Result<Self> {
        let mut consumers = HashMap::new();
        for consumer in list(&config["consumers"]) {
            let name = consumer["name"].as_str().context("a consumer without name")?;
            let credential = consumer["credential"].as_str().context("a consumer without credential")?;
            let double = consumers.insert(credential.to_owned(), name.to_owned()).is_some();
            ensure!(!double, "duplicate consumer credential");
        }
        let keys: Vec<String> = list(&config["keys"]).iter().filter_map(|k| k.as_str().map(str::to_owned)).collect();
        let flag = |name: &str| config[name].as_bool();
        let (in_header, in_query) = (flag("in_header").unwrap_or(false), flag("in_query").unwrap_or(false));
        ensure!(!consumers.is_empty(), "no consumers");
        ensure!(!keys.is_empty(), "at least one key is needed");
        ensure!(in_header || in_query, "one of in_header and in_query must be true");
        let rules = list(&config["_rules_"]).to_vec();
        Ok(Self { consumers, keys, in_header, in_query, global: flag("global_auth"), rules })
    }

    pub(super) fn check(&self, request: &Headers, route: Option<&Route>) -> Verdict {
        let rule = self.rules.iter().find(|rule| concerns(rule, request, route));
        let allow = rule.and_then(|rule| rule["allow"].as_array());
        if allow.is_none() && !self.global.unwrap_or(self.rules.is_empty()) {
            return Verdict::Pass;
        }
        let given = self.given(request);
        let [key] = given.as_slice() else {
            return refuse(401, if given.is_empty() { ("no_key", "No Key") } else { ("multi_key", "Multi Key") });
        };
        let Some(name) = self.consumers.get(key) else { return refuse(403, ("unauthorized", "")) };
        match allow {
            Some(allow) if !allow.iter().any(|allowed| allowed == name) => refuse(403, ("unauthorized", "")),
            _ => Verdict::Known(name.clone()),
        }
    }

    fn given(&self, request: &Headers) -> Vec<String> {
        let path = request.text(":path");
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let mut given = Vec::new();
        for key in &self.keys {
            if let Some(value) = request.get(key).filter(|value| self.in_header && !value.is_empty()) {
                given.push(String::from_utf8_lossy(value).into_owned());
            }
            let parameter = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| name == key);
            if let Some((_, value)) = parameter.filter(|(_, value)| self.in_query && !value.is_empty()) {
                given.push(value.to_owned());
            }
        }
        given
    }
}

fn refuse(status: u16, (details, what): (&str, &str)) -> Verdict {
    let reason = match status {
        401 => format!("{what} Authentication information found."),
        _ => "Unauthorized consumer.".to_owned(),
    };
    let mut headers = Headers::default();
    headers.add("www-authenticate", "Key realm=\"MSE Gateway\"");
    Verdict::Refuse(LocalReply {
        status,
        details: format!("key-auth.{details}"),
        body: format!("Request denied by Key Auth check. {reason}").into_bytes(),
        headers,
    })
}

/// Whether a rule of the flattened configuration matches, by the envelope all plugins share.
fn concerns(rule: &Value, request: &Headers, route: Option<&Route>) -> bool {
    let names = |key: &str| rule[key].as_array().map(|names| names.iter().filter_map(Value::as_str));
    let name = route.map_or("", |route| route.name.as_str());
    let cluster: Vec<&str> = route.map_or("", |route| route.cluster.as_str()).split('|').collect();
    let authority = request.text(":authority");
    let host = without_port(&authority);
    let by_route = names("_match_route_").map(|mut names| names.any(|n| n == name));
    let by_service = names("_match_service_").map(|mut names| {
        names.any(|wanted| match (wanted.rsplit_once(':'), cluster.as_slice()) {
            (Some((fqdn, port)), [_, p, _, f]) => fqdn == *f && port == *p,
            (None, [_, _, _, f]) => wanted == *f,
            _ => false,
        })
    });
    if by_route.is_some() || by_service.is_some() {
        return by_route.unwrap_or(true) && by_service.unwrap_or(true);
    }
    let by_domain = names("_match_domain_").is_some_and(|mut names| {
        names.any(|pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(suffix), _) => host.ends_with(suffix),
            (_, Some(prefix)) => host.starts_with(prefix),
            _ => host == pattern,
        })
    });
    by_domain || names("_match_route_prefix_").is_some_and(|mut names| names.any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn auth(global: Option<bool>, rules: &Value) -> KeyAuth {
        let mut config = json!({"consumers": [{"name": "alice", "credential": "a"}, {"name": "bob", "credential": "b"}],
            "keys": ["x-api-key", "apikey"], "in_header": true, "in_query": true, "_rules_": rules});
        if let Some(global) = global {
            config["global_auth"] = json!(global);
        }
        KeyAuth::new(&config).unwrap()
    }

    fn check(auth: &KeyAuth, key: Option<&str>, path: &str) -> String {
        let mut request = Headers::default();
        request.add(":authority", "llm.example:80");
        request.add(":path", path);
        if let Some(key) = key {
            request.add("x-api-key", key);
        }
        match auth.check(&request, None) {
            Verdict::Pass => "pass".into(),
            Verdict::Known(name) => name,
            Verdict::Refuse(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
        }
    }

    #[test]
    fn without_a_word_on_global_auth_all_is_guarded_until_a_rule_exists() {
        let here = json!([{"_match_domain_": ["llm.example"], "allow": ["alice"]}]);
        let elsewhere = json!([{"_match_domain_": ["*.other"], "allow": ["alice"]}]);
        assert_eq!(check(&auth(None, &json!([])), Some("a"), "/"), "alice");
        assert_eq!(check(&auth(None, &elsewhere), None, "/"), "pass");
        assert_eq!(check(&auth(None, &here), Some("a"), "/"), "alice");
        assert_eq!(check(&auth(Some(true), &elsewhere), Some("b"), "/"), "bob");
        assert_eq!(
            check(&auth(Some(false), &here), Some("b"), "/"),
            "403 Request denied by Key Auth check. Unauthorized consumer."
        );
    }

    #[test]
    fn no_key_several_keys_and_unknown_keys_are_told_apart() {
        let all = auth(Some(true), &json!([]));
        let refused = "Request denied by Key Auth check.";
        assert_eq!(check(&all, None, "/"), format!("401 {refused} No Key Authentication information found."));
        assert_eq!(
            check(&all, Some("a"), "/?apikey=b"),
            format!("401 {refused} Multi Key Authentication information found.")
        );
        assert_eq!(check(&all, Some("c"), "/"), format!("403 {refused} Unauthorized consumer."));
        assert_eq!(check(&all, None, "/?apikey=b"), "bob");
    }
}
