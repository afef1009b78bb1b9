//! Who tells the gateway which consumer calls: WasmPlugins in, whether one runs before ours on a target out. Pure.

use std::{collections::HashSet, fmt::Write};

use api::WasmPlugin;
use serde_json::Value;

use crate::{AI_QUOTA, GUARD, World, gateway::Matcher, settings::Phase};

/// WasmPlugins that authenticate consumers, by their object, their plugin name or their image.
const KNOWN: [&str; 8] =
    ["key-auth", "jwt-auth", "basic-auth", "hmac-auth", "simple-jwt-auth", "oidc", "oauth", "ext-auth"];
/// Of these, those that enforce where a rule has `allow`, or everywhere by `global_auth`.
const WITH_ALLOW: [&str; 4] = ["key-auth", "jwt-auth", "basic-auth", "hmac-auth"];
/// The guard's priority unless an auth plugin has as high a one.
const GUARD_PRIORITY: i64 = 1_000;

pub(crate) struct AuthPlugins<'a> {
    plugins: Vec<AuthPlugin<'a>>,
}

struct AuthPlugin<'a> {
    name: &'a str,
    phase: Phase,
    priority: i64,
    /// Whether it runs before ai-quota.
    ahead: bool,
    everywhere: bool,
    routes: HashSet<&'a str>,
    domains: Vec<&'a str>,
    services: HashSet<&'a str>,
}

impl<'a> AuthPlugins<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let plugins = world.plugins.iter().filter_map(|plugin| AuthPlugin::new(world, plugin)).collect();
        Self { plugins }
    }

    /// Above every auth plugin: what they write must not be removed.
    pub(crate) fn guard_priority(&self) -> i64 {
        let highest = self.plugins.iter().filter(|plugin| plugin.phase == Phase::Authn).map(|plugin| plugin.priority);
        highest.max().map_or(GUARD_PRIORITY, |highest| GUARD_PRIORITY.max(highest.saturating_add(1)))
    }

    /// Whether one runs before ai-quota on what is matched. `hosts` are a route's, none if they are not known.
    pub(crate) fn cover(&self, matcher: &Matcher, hosts: impl Fn() -> Vec<&'a str>) -> bool {
        self.plugins.iter().any(|plugin| plugin.ahead && plugin.covers(matcher, &hosts))
    }

    /// What was seen, for the author of a quota whose target is not covered.
    pub(crate) fn seen(&self) -> String {
        const SHOWN: usize = 5;
        if self.plugins.is_empty() {
            return "no auth plugin was seen: install one such as key-auth, or name yours with --auth-plugin"
                .to_owned();
        }
        let mut text = "seen: ".to_owned();
        for (index, plugin) in self.plugins.iter().take(SHOWN).enumerate() {
            let AuthPlugin { name, phase, priority, ahead, .. } = plugin;
            let how = if *ahead { "does not cover it" } else { "runs too late" };
            let comma = if index == 0 { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{name} ({} {priority}, {how})", phase.as_str());
        }
        text
    }
}

impl<'a> AuthPlugin<'a> {
    fn new(world: &World, plugin: &'a WasmPlugin) -> Option<Self> {
        let name = plugin.metadata.name.as_deref()?;
        let spec = &plugin.spec;
        let image = spec.url.as_deref().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        let names = [name, spec.plugin_name.as_deref().unwrap_or_default(), image];
        let is = |known: &str| names.iter().any(|name| is_named(name, known));
        let ours = name == GUARD || name == AI_QUOTA;
        let known = KNOWN.iter().any(|known| is(known)) || world.settings.auth_plugins.iter().any(|extra| is(extra));
        if ours || !known {
            return None;
        }
        let module = &world.settings.module;
        let (phase, priority) = (Phase::of(spec.phase.as_deref()), spec.priority.unwrap_or(0));
        let ahead = phase < module.phase || (phase == module.phase && priority > i64::from(module.priority));
        let default = spec
            .default_config
            .as_ref()
            .and_then(Value::as_object)
            .filter(|config| !config.is_empty() && spec.default_config_disable != Some(true));
        let rules: Vec<_> =
            spec.match_rules.iter().flatten().filter(|rule| rule.config_disable != Some(true)).collect();
        let with_allow = WITH_ALLOW.iter().any(|known| is(known));
        let global = default.and_then(|config| config.get("global_auth")).and_then(Value::as_bool);
        let everywhere = default.is_some() && (!with_allow || global.unwrap_or(rules.is_empty()));
        let enforcing = rules
            .into_iter()
            .filter(|rule| !with_allow || rule.config.as_ref().is_some_and(|config| config.get("allow").is_some()));
        let mut found = Self {
            name,
            phase,
            priority,
            ahead,
            everywhere,
            routes: HashSet::new(),
            domains: Vec::new(),
            services: HashSet::new(),
        };
        for rule in enforcing {
            found.routes.extend(rule.ingress.iter().flatten().map(String::as_str));
            found.domains.extend(rule.domain.iter().flatten().map(String::as_str));
            found.services.extend(rule.service.iter().flatten().map(String::as_str));
        }
        Some(found)
    }

    fn covers(&self, matcher: &Matcher, hosts: impl Fn() -> Vec<&'a str>) -> bool {
        let domain = |host: &str| self.domains.iter().any(|pattern| domain_covers(pattern, host));
        self.everywhere
            || match matcher {
                Matcher::Route(name) => {
                    self.routes.contains(name.as_str())
                        || (!self.domains.is_empty() && {
                            let hosts = hosts();
                            !hosts.is_empty() && hosts.into_iter().all(domain)
                        })
                }
                Matcher::Service(name) => self.services.contains(name.as_str()),
                Matcher::Domain(name) => domain(name),
                Matcher::Gateway => domain("*"),
            }
    }
}

/// Whether it is that plugin: `key-auth`, `key-auth.internal`, `key-auth-2`, `key-auth:1.0.0`, `key-auth@sha256:..`.
fn is_named(name: &str, known: &str) -> bool {
    name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', ':', '@']))
}

/// Higress' domain rules: `*.x` is a suffix, `x*` a prefix, all else exact.
fn domain_covers(pattern: &str, host: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        return host.ends_with(suffix);
    }
    pattern.strip_suffix('*').map_or(pattern == host, |prefix| host.starts_with(prefix))
}
