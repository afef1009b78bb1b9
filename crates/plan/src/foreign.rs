//! Other people's WasmPlugins: which plugin one is, what its rules say about a target, and whether it is the same
//! plugin as ours, so that both would charge. Pure.

use std::collections::HashMap;

use api::{WasmPlugin, WasmPluginSpec};
use serde_json::{Map, Value};

use crate::{AI_QUOTA, AI_TOKEN_RATELIMIT, GUARD, World, gateway::Matcher};

/// Whether we write it.
pub(crate) fn is_ours(plugin: &WasmPlugin) -> bool {
    plugin.metadata.name.as_deref().is_some_and(|name| [GUARD, AI_QUOTA, AI_TOKEN_RATELIMIT].contains(&name))
}

/// Whether it is that plugin, as `ai-quota`, by its object, its plugin name or its image.
#[must_use]
pub fn is_plugin(plugin: &WasmPlugin, known: &str) -> bool {
    let spec = &plugin.spec;
    let names = [plugin.metadata.name.as_deref(), spec.plugin_name.as_deref()];
    names.into_iter().flatten().any(|name| is_named(name, known))
        || spec.url.as_deref().is_some_and(|url| is_image(url, known))
}

/// `key-auth`, `key-auth.internal`, `key-auth-2`, `key-auth-1.0.0`; not `key-auth-exporter`, which is another's name.
fn is_named(name: &str, known: &str) -> bool {
    let name = name.strip_suffix(".internal").unwrap_or(name);
    name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_version))
}

/// `oci://registry/plugins/key-auth:1.0.0`, `.../key-auth@sha256:..`, `.../key-auth-1.0.0.wasm` and, as Higress' plugin
/// server has them, `.../key-auth/1.0.0/plugin.wasm`.
fn is_image(url: &str, known: &str) -> bool {
    let path = url.split_once("://").map_or(url, |(_, path)| path).split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.rsplit('/');
    let mut last = segments.next().unwrap_or_default();
    if last == "plugin.wasm" {
        last = segments.find(|segment| !is_version(segment)).unwrap_or_default();
    }
    let name = last.split([':', '@']).next().unwrap_or_default();
    is_named(name.strip_suffix(".wasm").unwrap_or(name), known)
}

/// `2`, `1.0.0`, `v2.0.1-rc.1`.
fn is_version(text: &str) -> bool {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rest) = text.split_once('-').unwrap_or((text, ""));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_preview = ["alpha", "beta", "rc"].iter().any(|word| rest.starts_with(word));
    numbers.split('.').all(is_number) && (rest.is_empty() || is_preview)
}

/// What one WasmPlugin says where. Of several rules the first counts.
pub(crate) struct Rules<'a> {
    /// What holds where no rule does.
    pub(crate) default: Option<&'a Map<String, Value>>,
    /// The configuration of each rule that is on.
    pub(crate) configs: Vec<Option<&'a Value>>,
    routes: HashMap<&'a str, usize>,
    services: HashMap<&'a str, usize>,
    domains: Vec<(&'a str, usize)>,
}

impl<'a> Rules<'a> {
    pub(crate) fn of(spec: &'a WasmPluginSpec) -> Self {
        let default = spec.default_config.as_ref().and_then(Value::as_object);
        let default = default.filter(|config| !config.is_empty() && spec.default_config_disable != Some(true));
        let mut found = Self {
            default,
            configs: Vec::new(),
            routes: HashMap::new(),
            services: HashMap::new(),
            domains: Vec::new(),
        };
        for rule in spec.match_rules.iter().flatten().filter(|rule| rule.config_disable != Some(true)) {
            let index = found.configs.len();
            found.configs.push(rule.config.as_ref());
            for name in rule.ingress.iter().flatten() {
                found.routes.entry(name).or_insert(index);
            }
            for name in rule.service.iter().flatten() {
                found.services.entry(name.split(':').next().unwrap_or_default()).or_insert(index);
            }
            found.domains.extend(rule.domain.iter().flatten().map(|name| (name.as_str(), index)));
        }
        found
    }

    /// The rule that holds on all that is matched. `hosts` are a route's, none if they are not known.
    pub(crate) fn on(&self, matcher: &Matcher, hosts: impl Fn() -> Vec<&'a str>) -> Option<usize> {
        let domain = |host: &str| {
            let covers = |(pattern, _): &&(&str, usize)| domain_covers(pattern, host);
            self.domains.iter().find(covers).map(|(_, index)| *index)
        };
        match matcher {
            Matcher::Route(name) => {
                let by_name = self.routes.get(name.as_str()).copied();
                let by_hosts = || {
                    let of_each: Option<Vec<usize>> = hosts().into_iter().map(domain).collect();
                    of_each?.into_iter().max()
                };
                let by_hosts = if self.domains.is_empty() { None } else { by_hosts() };
                by_name.into_iter().chain(by_hosts).min()
            }
            Matcher::Service(name) => self.services.get(name.as_str()).copied(),
            Matcher::Domain(name) => domain(name),
            Matcher::Gateway => domain("*"),
        }
    }

    /// Whether a rule or the default holds on some of what is matched, as far as that can be known: which hosts and
    /// routes lead to a Service cannot.
    fn touch(&self, matcher: &Matcher, hosts: &dyn Fn(&str) -> Vec<&'a str>) -> bool {
        let domains = |host: &str| self.domains.iter().any(|(pattern, _)| domains_meet(pattern, host));
        self.default.is_some()
            || match matcher {
                Matcher::Route(name) => {
                    self.routes.contains_key(name.as_str())
                        || (!self.domains.is_empty() && hosts(name).into_iter().any(domains))
                }
                Matcher::Service(name) => self.services.contains_key(name.as_str()),
                Matcher::Domain(name) => {
                    let leads_there = |route: &str| hosts(route).into_iter().any(|host| domains_meet(name, host));
                    domains(name) || self.routes.keys().any(|route| leads_there(route))
                }
                Matcher::Gateway => !self.configs.is_empty(),
            }
    }
}

/// The WasmPlugins that do what one of ours does.
pub(crate) struct Twins<'a> {
    plugins: Vec<(&'a str, Rules<'a>)>,
}

impl<'a> Twins<'a> {
    /// `kind` is the name the plugin is known by.
    pub(crate) fn new(world: &'a World, kind: &str) -> Self {
        let others = world.plugins.iter().filter(|plugin| !is_ours(plugin) && is_plugin(plugin, kind));
        let named =
            |plugin: &'a std::sync::Arc<WasmPlugin>| Some((plugin.metadata.name.as_deref()?, Rules::of(&plugin.spec)));
        Self { plugins: others.filter_map(named).collect() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// The first that would charge for some of what is matched. `hosts` are those of a route.
    pub(crate) fn over(&self, matcher: &Matcher, hosts: &dyn Fn(&str) -> Vec<&'a str>) -> Option<&'a str> {
        self.plugins.iter().find(|(_, rules)| rules.touch(matcher, hosts)).map(|(name, _)| *name)
    }
}

/// Higress' domain rules: `*.x` is a suffix, `x*` a prefix, all else exact.
fn domain_covers(pattern: &str, host: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        return host.ends_with(suffix);
    }
    pattern.strip_suffix('*').map_or(pattern == host, |prefix| host.starts_with(prefix))
}

/// Whether some host is in both.
fn domains_meet(a: &str, b: &str) -> bool {
    domain_covers(a, b) || domain_covers(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_known_by_its_name_and_a_version_alone() {
        for name in ["ai-quota", "ai-quota.internal", "ai-quota-2", "ai-quota-1.0.0", "ai-quota-v2.0.1-rc.1.internal"] {
            assert!(is_named(name, "ai-quota"), "{name}");
        }
        for name in
            ["ai-quotas", "my-ai-quota", "ai", "ai-quota-exporter", "ai-quota-", "ai-quota-2-exporter", "ai-quota.x"]
        {
            assert!(!is_named(name, "ai-quota"), "{name}");
        }
    }

    #[test]
    fn an_image_is_known_by_the_segment_that_names_the_plugin() {
        for url in [
            "ai-quota",
            "oci://registry.example:5000/plugins/ai-quota:1.0.0",
            "oci://registry.example/plugins/ai-quota@sha256:00",
            "file:///opt/plugins/ai-quota/plugin.wasm",
            "http://plugins.example/plugins/ai-quota/2.0.1/plugin.wasm?x=1",
            "https://plugins.example/ai-quota-2.0.1.wasm",
        ] {
            assert!(is_image(url, "ai-quota"), "{url}");
        }
        for url in [
            "oci://registry.example/plugins/ai-quota-exporter:1.0.0",
            "oci://registry.example/ai-quota/exporter:1.0.0",
            "oci://ai-quota/exporter:1.0.0",
            "http://plugins.example/plugins/ai-quota/exporter/plugin.wasm",
            "oci://registry.example/plugins/my-ai-quota:1.0.0",
            "",
        ] {
            assert!(!is_image(url, "ai-quota"), "{url}");
        }
    }

    #[test]
    fn domains_meet_where_one_is_in_the_other() {
        for (a, b) in [("a.x", "a.x"), ("*.x", "a.x"), ("a*", "a.x"), ("*", "a.x"), ("*.x", "*.a.x")] {
            assert!(domains_meet(a, b) && domains_meet(b, a), "{a} {b}");
        }
        for (a, b) in [("a.x", "b.x"), ("*.x", "x"), ("*.a.x", "*.b.x"), ("b*", "a.x")] {
            assert!(!domains_meet(a, b) && !domains_meet(b, a), "{a} {b}");
        }
    }
}
