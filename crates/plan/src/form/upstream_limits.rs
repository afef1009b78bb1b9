//! The form that upstream's ai-token-ratelimit reads, of the generation that the gateway runs: each rule has all of its
//! limits itself, spelled as items of which the first key that matches counts. What they mean stands in an annotation,
//! once for each policy. Pure.

mod items;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap};

use api::{AiTokenRateLimit, MatchRule, OnStoreFailure, WasmPlugin};
use enforcement::{
    values::RULES_MAX,
    wire::{
        self,
        limit::{Dialect, Match, Policy as Settings, Rule as WireRule},
        upstream_limit::{Rate, Rule},
    },
};
use items::{Unsayable, items, unsayable};
use serde::{Deserialize, Serialize};

use super::{Body, Form, Read, Ruled, Size, Stores, policies, text, upstream::anything, value};
use crate::{
    Refusal, Refused, ends,
    form::beyond_upstream,
    gateway::{Gateway, Matcher, Part, Policy},
    kind::{self, Limit},
    validate::{admission, seconds},
};

/// Around a rule's matchers and its configuration: `{"ingress":[],"config":},`.
const AROUND: usize = 25;
/// Around a name in the annotation: `{"policy":""},`.
const NOTE: usize = 14;

/// Of this generation. What another one reads is read back as well, but not kept as it is.
pub(crate) struct UpstreamLimits(pub(crate) Dialect);

/// What a rule cannot say about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    policy: String,
    /// With the first rule of a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<Settings>,
}

impl Form<Limit> for UpstreamLimits {
    fn unsupported(&self, object: &AiTokenRateLimit) -> Vec<Refusal> {
        let spec = &object.spec;
        let mut refusals = Vec::new();
        let mut refuse = |field: String, message: String| {
            refusals.push(Refusal { field, reason: Refused::Unsupported, message });
        };
        const WINDOWS: &str = "the module knows windows of one second, minute, hour and day only";
        let is_known = |window: &str| seconds(window).is_some_and(|seconds| Rate::new(1, seconds).is_some());
        if spec.paths.is_some() {
            refuse("spec.paths".to_owned(), "the module limits every path: leave it out".to_owned());
        }
        if spec.global.len() > 1 {
            refuse("spec.global".to_owned(), "the module has one limit for all requests together".to_owned());
        }
        for (at, rate) in spec.global.iter().enumerate().filter(|(_, rate)| !is_known(&rate.window)) {
            refuse(format!("spec.global[{at}].window"), format!("{WINDOWS}, not {}", rate.window));
        }
        for (at, rule) in spec.rules.iter().enumerate() {
            if let Some(unknown) = rule.limits.iter().position(|limit| !is_known(&limit.window)) {
                refuse(format!("spec.rules[{at}].limits[{unknown}].window"), WINDOWS.to_owned());
            }
            if !rule.overrides_from.is_empty() {
                let message = "the module looks up no limits of single values: list them in limits";
                refuse(format!("spec.rules[{at}].overridesFrom"), message.to_owned());
            }
        }
        let rules = kind::rules(&spec.rules);
        for what in unsayable(self.0, !spec.global.is_empty(), &matches(&rules)) {
            let (field, message) = told(what);
            refuse(field, message);
        }
        let store = (OnStoreFailure::Admit, "the module lets requests pass while the store does not answer");
        refusals.extend(admission::beyond_upstream(spec.admission));
        refusals.extend(ends::beyond_upstream(spec.ends(), store, "the module limits every path"));
        refusals.extend(beyond_upstream(spec.models.is_empty()));
        refusals
    }

    fn default_paths(&self) -> Vec<String> {
        Vec::new()
    }

    fn said<'a>(&self, settings: &'a Settings) -> Cow<'a, Settings> {
        let ends = wire::Ends::default();
        Cow::Owned(Settings { paths: Vec::new(), models: Vec::new(), reserve: None, ends, ..settings.clone() })
    }

    fn rolls(&self) -> bool {
        true
    }

    fn keeps(&self, what: &Matcher, open: bool) -> bool {
        match what {
            Matcher::Route(_) | Matcher::Service(_) => true,
            Matcher::Domain(_) | Matcher::Gateway => !open,
        }
    }

    /// As it refuses objects for, but for their paths and for how requests end, which change no limit: a rule that it
    /// cannot read would keep it from starting at all, and of limits of models only those for all together would be left.
    fn can_say(&self, settings: &Settings) -> bool {
        let is_known = |seconds: u32| Rate::new(1, seconds).is_some();
        let can_say = |rule: &WireRule| {
            rule.limits.iter().all(|limit| is_known(limit.window_seconds))
                && !rule.limits.is_empty()
                && !rule.overridden
        };
        settings.models.is_empty()
            && settings.rules.iter().all(can_say)
            && settings.global.len() <= 1
            && settings.rules.len() + settings.global.len() > 0
            && settings.global.iter().all(|rate| is_known(rate.window_seconds))
            && unsayable(self.0, !settings.global.is_empty(), &matches(&settings.rules)).is_empty()
            && !settings.ends.observes()
    }

    /// Its start fails where nothing is configured.
    fn loads_ahead(&self) -> bool {
        false
    }

    fn write(&self, gateway: &Gateway, part: &Part<Limit>, rules: Vec<Ruled>) -> Body {
        let stores = Stores { usable: &gateway.stores, known: &part.existing.stores };
        let mut written: HashMap<usize, serde_json::Value> = HashMap::new();
        let mut notes = Vec::with_capacity(rules.len());
        let rules = rules.into_iter().map(|Ruled { rule, by, open: _ }| {
            let policy = &part.policies[by];
            let first = !written.contains_key(&by);
            let settings = self.said(&policy.written()).into_owned();
            let config = written.entry(by).or_insert_with(|| value(&configuration(self.0, &settings, stores)));
            notes.push(Note { policy: policy.name.clone(), settings: first.then_some(settings) });
            MatchRule { config: Some(config.clone()), ..rule }
        });
        let match_rules = rules.collect();
        Body { default_config: None, match_rules, policies: Some(text(&notes)) }
    }

    fn size(&self, policy: &Policy<Limit>, stores: Stores<'_>) -> Size {
        let settings = policy.written();
        Size {
            once: 0,
            rule: text(&configuration(self.0, &settings, stores)).len() + AROUND,
            // As if each rule had them: not all know which is the first.
            note: text(&settings).len() + policy.name.len() + NOTE,
        }
    }
}

fn matches(rules: &[WireRule]) -> Vec<Vec<&Match>> {
    rules.iter().map(|rule| rule.limits.iter().map(|limit| &limit.matches).collect()).collect()
}

/// The field and what is wrong with it.
fn told(what: Unsayable) -> (String, String) {
    const V1: &str = "the module's first generation (--limit-dialect=v1)";
    let spec = |field: &str, message: String| (format!("spec.{field}"), message);
    match what {
        Unsayable::Widened { rule } => spec(
            &format!("rules[{rule}].limits"),
            "a match has more limits than one before it that may match the same value: in the module that value would be \
             under the rest of them"
                .to_owned(),
        ),
        Unsayable::Items(count) => spec(
            "rules",
            format!(
                "would make {count} items, one for each limit that the same value has, and the module takes at most \
                 {RULES_MAX}"
            ),
        ),
        Unsayable::Beside => spec("global", format!("{V1} has no limits for all requests beside rules: keep one of both")),
        Unsayable::Rules => {
            spec("rules", format!("{V1} enforces only the first rule that has a limit for the request: keep one"))
        }
        Unsayable::Second { rule, limit } => spec(
            &format!("rules[{rule}].limits[{limit}].match"),
            format!("{V1} has one limit for each match, and this one has one already"),
        ),
        Unsayable::Behind { rule, limit } => spec(
            &format!("rules[{rule}].limits[{limit}].match.exact"),
            format!("{V1} looks values up before patterns, and one before it matches this value: put it first, or leave it out"),
        ),
    }
}

/// Where the store cannot be used there is none to ask: the module lets requests pass then.
fn configuration(dialect: Dialect, settings: &Settings, stores: Stores<'_>) -> Rule {
    let Settings { store, rule_name, paths: _, global, rules, models: _, rejection, reserve: _, ends: _, unavailable } =
        settings;
    let store = store.as_ref().filter(|_| unavailable.is_none()).and_then(|store| stores.usable.get(store));
    Rule {
        rule_name: rule_name.clone(),
        global_threshold: global.first().and_then(|rate| Rate::new(rate.tokens, rate.window_seconds)),
        rule_items: rules.iter().flat_map(|rule| items(dialect, rule)).collect(),
        rejected_code: rejection.code,
        rejected_msg: rejection.message.clone(),
        redis: store.map_or_else(|| anything(stores), |store| store.clone().into()),
    }
}

/// Nothing is known of rules that the annotation does not fit.
pub(crate) fn read(plugin: &WasmPlugin) -> Read<Limit> {
    let rules = || plugin.spec.match_rules.iter().flatten();
    let notes = policies(plugin).and_then(|text| serde_json::from_str::<Vec<Note>>(text).ok()).unwrap_or_default();
    let mut read = Read { rules: rules().map(|_| None).collect(), ..Read::default() };
    if notes.len() != read.rules.len() {
        return read;
    }
    for ((rule, Note { policy, settings }), found) in rules().zip(notes).zip(&mut read.rules) {
        let Some(config) = rule.config.as_ref().and_then(|config| Rule::deserialize(config).ok()) else { continue };
        if let Some(settings) = settings {
            let store = wire::Store::from(config.redis.clone());
            if let Some(name) = &settings.store {
                read.stores.insert(name.clone(), store);
            }
            read.policies.insert(policy.clone(), settings);
        }
        let Some(settings) = read.policies.get(&policy) else { continue };
        let stores = Stores { usable: &read.stores, known: &read.stores };
        // Whichever was planned for before.
        let is_meant = [Dialect::V2, Dialect::V1]
            .into_iter()
            .any(|dialect| config == Rule { redis: config.redis.clone(), ..configuration(dialect, settings, stores) });
        *found = is_meant.then_some(policy);
    }
    read
}
