//! What the gateway enforces now: our WasmPlugin as found in, its policies and what they match out. Pure.

use std::collections::{BTreeMap, HashMap};

use api::{MatchRule, WasmPlugin};
use enforcement::wire::{self, Native, Rule};
use serde_json::Value;

use crate::gateway::{Matcher, difference};

/// Nothing where there is no WasmPlugin, or none that we could have written.
#[derive(Default)]
pub(crate) struct Existing {
    pub(crate) policies: HashMap<String, wire::Policy>,
    pub(crate) stores: BTreeMap<String, wire::Store>,
    /// By policy.
    pub(crate) matchers: HashMap<String, Vec<Matcher>>,
    over: HashMap<Matcher, String>,
    /// Whether there are rules that are not as we write them.
    foreign: bool,
}

impl Existing {
    pub(crate) fn of(plugin: Option<&WasmPlugin>) -> Self {
        let Some(native) = plugin
            .and_then(|plugin| plugin.spec.default_config.as_ref()?.get(wire::KEY))
            .and_then(|native| <Native<Value, Value> as serde::Deserialize>::deserialize(native).ok())
        else {
            return Self::default();
        };
        let mut matchers: HashMap<String, Vec<Matcher>> = HashMap::new();
        let (mut over, mut foreign) = (HashMap::new(), false);
        for rule in plugin.iter().flat_map(|plugin| plugin.spec.match_rules.iter().flatten()).cloned() {
            let MatchRule { ingress, domain, service, config, config_disable, rest } = rule;
            let parsed = config.as_ref().and_then(|config| <Rule as serde::Deserialize>::deserialize(config).ok());
            foreign |= parsed.is_none() || config_disable.is_some() || !rest.is_empty();
            if let Some(Rule { policy, open: _ }) = parsed.filter(|_| config_disable != Some(true)) {
                let mut all: Vec<Matcher> = ingress.into_iter().flatten().map(Matcher::Route).collect();
                all.extend(service.into_iter().flatten().map(Matcher::Service));
                all.extend(domain.into_iter().flatten().map(|name| match name.as_str() {
                    "*" => Matcher::Gateway,
                    _ => Matcher::Domain(name),
                }));
                for matcher in &all {
                    over.entry(matcher.clone()).or_insert_with(|| policy.clone());
                }
                matchers.entry(policy).or_default().extend(all);
            }
        }
        let policies = native.policies.into_iter();
        let policies = policies.filter_map(|(name, policy)| Some((name, serde_json::from_value(policy).ok()?)));
        Self { policies: policies.collect(), stores: native.stores, matchers, over, foreign }
    }

    /// Whether the gateway has a rule with this policy.
    pub(crate) fn enforces(&self, policy: &str) -> bool {
        self.policies.contains_key(policy) && self.matchers.contains_key(policy)
    }

    /// Whether there is a rule over something.
    pub(crate) fn covers(&self, matcher: &Matcher) -> bool {
        self.over.contains_key(matcher)
    }

    /// The policy something is under: of several rules the first counts.
    pub(crate) fn over(&self, matcher: &Matcher) -> Option<&wire::Policy> {
        self.over.get(matcher).and_then(|policy| self.policies.get(policy))
    }

    /// Whether something is held to these settings already, whoever they were written for.
    pub(crate) fn holds(&self, matcher: &Matcher, settings: &wire::Policy) -> bool {
        self.over(matcher).is_some_and(|over| {
            let gone = over.unavailable.is_some();
            difference(settings, over).is_none_or(|field| gone && field == "storeRef")
        })
    }

    /// Whether the rule of this policy over something is there, and no rule is that we would not write.
    pub(crate) fn has(&self, matcher: &Matcher, policy: &str) -> bool {
        !self.foreign && self.is_under(matcher, policy)
    }

    /// Whether something is under this policy.
    pub(crate) fn is_under(&self, matcher: &Matcher, policy: &str) -> bool {
        self.over.get(matcher).is_some_and(|over| over == policy)
    }
}
