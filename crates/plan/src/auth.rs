//! Who tells the gateway which consumer calls: WasmPlugins in, whether one runs before ours on a target and which
//! consumers it lets through out. Pure.

use std::{collections::HashSet, fmt::Write};

use api::WasmPlugin;
use serde_json::Value;

use crate::{
    World,
    foreign::{Rules, is_ours, is_plugin},
    gateway::Matcher,
    settings::Phase,
};

/// WasmPlugins that authenticate consumers.
const KNOWN: [&str; 9] = [
    "key-auth",
    "jwt-auth",
    "basic-auth",
    "hmac-auth",
    "hmac-auth-apisix",
    "simple-jwt-auth",
    "oidc",
    "oauth",
    "ext-auth",
];
/// Of these, those that list their consumers, and enforce where a rule has `allow`, or everywhere by `global_auth`.
const LISTING: [&str; 4] = ["key-auth", "jwt-auth", "basic-auth", "hmac-auth"];
/// The guard's priority unless an auth plugin has as high a one.
const GUARD_PRIORITY: i64 = 1_000;

pub(crate) struct AuthPlugins<'a> {
    plugins: Vec<AuthPlugin<'a>>,
}

struct AuthPlugin<'a> {
    name: &'a str,
    phase: Phase,
    priority: i64,
    /// Whether it enforces where none of its rules does.
    everywhere: bool,
    rules: Rules<'a>,
    /// For each rule, who is let through, if it says so.
    allowed: Vec<Option<HashSet<&'a str>>>,
    listing: bool,
    /// Those it knows, if it lists them.
    consumers: Option<HashSet<&'a str>>,
}

/// A plugin of ours that believes who a request says it is of, in the gateway's chain.
#[derive(Clone, Copy)]
pub(crate) struct Believer {
    pub(crate) phase: Phase,
    pub(crate) priority: i64,
}

/// The auth plugins in front of a believer on one target.
pub(crate) struct Covering<'a, 'b>(Vec<(&'b AuthPlugin<'a>, Option<usize>)>);

/// What becomes of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// Or it cannot be told.
    Yes,
    /// No plugin knows it.
    Unknown,
    /// This plugin knows it, and does not let it through on this target.
    NotAllowed,
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

    /// Those that run before it on what is matched. `hosts` are a route's, none if they are not known.
    pub(crate) fn covering(
        &self,
        believer: Believer,
        matcher: &Matcher,
        hosts: impl Fn() -> Vec<&'a str>,
    ) -> Covering<'a, '_> {
        let ahead = self.plugins.iter().filter(|plugin| plugin.is_ahead_of(believer));
        Covering(ahead.filter_map(|plugin| Some((plugin, plugin.covers(matcher, &hosts)?))).collect())
    }

    /// What was seen, for the author of an object whose target is not covered.
    pub(crate) fn seen(&self, believer: Believer) -> String {
        const SHOWN: usize = 5;
        if self.plugins.is_empty() {
            return "no auth plugin was seen: install one such as key-auth, or name yours with --auth-plugin"
                .to_owned();
        }
        let mut text = "seen: ".to_owned();
        for (index, plugin) in self.plugins.iter().take(SHOWN).enumerate() {
            let AuthPlugin { name, phase, priority, .. } = plugin;
            let how = if plugin.is_ahead_of(believer) { "does not cover it" } else { "runs too late" };
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
        let is = |known: &str| is_plugin(plugin, known);
        let known = KNOWN.iter().any(|known| is(known)) || world.settings.auth_plugins.iter().any(|extra| is(extra));
        if is_ours(plugin) || !known {
            return None;
        }
        let (phase, priority) = (Phase::of(spec.phase.as_deref()), spec.priority.unwrap_or(0));
        let rules = Rules::of(spec);
        let listing = LISTING.iter().any(|known| is(known));
        let global = rules.default.and_then(|config| config.get("global_auth")).and_then(Value::as_bool);
        let allow = |config: &Option<&'a Value>| Some(config.as_ref()?.get("allow")?.as_array()?.iter());
        let allowed = |config| allow(config).map(|names| names.filter_map(Value::as_str).collect());
        let listed = rules.default.and_then(|config| config.get("consumers")?.as_array()).filter(|_| listing);
        let name_of = |consumer: &'a Value| consumer.get("name")?.as_str();
        Some(Self {
            name,
            phase,
            priority,
            everywhere: rules.default.is_some() && (!listing || global.unwrap_or(rules.configs.is_empty())),
            allowed: rules.configs.iter().map(allowed).collect(),
            rules,
            listing,
            consumers: listed.map(|consumers| consumers.iter().filter_map(name_of).collect()),
        })
    }

    fn is_ahead_of(&self, Believer { phase, priority }: Believer) -> bool {
        self.phase < phase || (self.phase == phase && self.priority > priority)
    }

    /// The rule by which it enforces, none where it does so everywhere; nothing where it does not.
    fn covers(&self, matcher: &Matcher, hosts: impl Fn() -> Vec<&'a str>) -> Option<Option<usize>> {
        let rule = self.rules.on(matcher, hosts);
        let enforces = rule.is_some_and(|rule| !self.listing || self.allowed[rule].is_some());
        (self.everywhere || enforces).then_some(rule)
    }
}

impl<'a> Covering<'a, '_> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is known of all of them who they let through.
    pub(crate) fn can_tell(&self) -> bool {
        !self.is_empty() && self.0.iter().all(|(plugin, _)| plugin.consumers.is_some())
    }

    /// Whether a consumer comes through.
    pub(crate) fn passes(&self, consumer: &str) -> Passes {
        let knows = |plugin: &AuthPlugin<'_>| plugin.consumers.as_ref().is_some_and(|known| known.contains(consumer));
        let mut known = false;
        for (plugin, rule) in self.0.iter().filter(|(plugin, _)| knows(plugin)) {
            known = true;
            let allowed = rule.and_then(|rule| plugin.allowed[rule].as_ref());
            if allowed.is_none_or(|allowed| allowed.contains(consumer)) {
                return Passes::Yes;
            }
        }
        if known { Passes::NotAllowed } else { Passes::Unknown }
    }

    /// Their names.
    pub(crate) fn names(&self) -> String {
        self.0.iter().map(|(plugin, _)| plugin.name).collect::<Vec<_>>().join(", ")
    }
}
