//! The form that upstream's ai-token-ratelimit reads: each rule has all of its limits itself, spelled as items of which
//! the first key that matches counts. What they mean stands in an annotation, once for each policy. Pure.

use std::{borrow::Cow, collections::HashMap};

use api::{AiTokenRateLimit, MatchRule, OnStoreFailure, WasmPlugin};
use enforcement::{
    values::RULES_MAX,
    wire::{
        self,
        limit::{By, Consumer, Ip, Limit as WireLimit, Match, Policy as Settings, Rule as WireRule},
        upstream_limit::{Item, Key, Limiter, Rate, Rule},
    },
};
use serde::{Deserialize, Serialize};

use super::{Body, Form, Read, Ruled, Size, Stores, policies, text, upstream::anything, value};
use crate::{
    Refusal, Refused, ends,
    form::beyond_upstream,
    gateway::{Gateway, Matcher, Part, Policy},
    kind::Limit,
    validate::{admission, seconds},
};

/// Around a rule's matchers and its configuration: `{"ingress":[],"config":},`.
const AROUND: usize = 25;
/// Around a name in the annotation: `{"policy":""},`.
const NOTE: usize = 14;

pub(crate) struct UpstreamLimits;

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
        let mut count = 0;
        for (at, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{at}].limits");
            if let Some(unknown) = rule.limits.iter().position(|limit| !is_known(&limit.window)) {
                refuse(format!("{field}[{unknown}].window"), WINDOWS.to_owned());
            }
            if !rule.overrides_from.is_empty() {
                let message = "the module looks up no limits of single values: list them in limits";
                refuse(format!("spec.rules[{at}].overridesFrom"), message.to_owned());
            }
            let groups = groups(&rule.limits, |limit| &limit.matches);
            if is_widened(&groups, |limit| limit.matches.exact.is_some()) {
                let message = "a match has more limits than one before it that may match the same value: in the module \
                               that value would be under the rest of them";
                refuse(field, message.to_owned());
            }
            count += longest(&groups);
        }
        if count > RULES_MAX {
            let message = format!(
                "would make {count} items, one for each limit that the same value has, and the module takes at most {RULES_MAX}"
            );
            refuse("spec.rules".to_owned(), message);
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
        let mut count = 0;
        let can_say = |rule: &WireRule| {
            let groups = groups(&rule.limits, |limit| &limit.matches);
            count += longest(&groups);
            let is_exact = |limit: &WireLimit| matches!(limit.matches, Match::Exact(_));
            let is_known = rule.limits.iter().all(|limit| is_known(limit.window_seconds));
            is_known && !rule.overridden && !is_widened(&groups, is_exact)
        };
        settings.models.is_empty()
            && settings.rules.iter().all(can_say)
            && count <= RULES_MAX
            && settings.global.len() <= 1
            && count + settings.global.len() > 0
            && settings.global.iter().all(|rate| is_known(rate.window_seconds))
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
            let config = written.entry(by).or_insert_with(|| value(&configuration(&settings, stores)));
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
            rule: text(&configuration(&settings, stores)).len() + AROUND,
            // As if each rule had them: not all know which is the first.
            note: text(&settings).len() + policy.name.len() + NOTE,
        }
    }
}

/// The limits of each match, in the order in which matches are tried.
fn groups<T, M: PartialEq>(limits: &[T], of: impl Fn(&T) -> &M) -> Vec<Vec<&T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for limit in limits {
        match groups.iter_mut().find(|group| of(group[0]) == of(limit)) {
            Some(group) => group.push(limit),
            None => groups.push(vec![limit]),
        }
    }
    groups
}

/// How many items they make: one for each limit that the same value has.
fn longest<T>(groups: &[Vec<&T>]) -> usize {
    groups.iter().map(Vec::len).max().unwrap_or(0)
}

/// Whether a match has more limits than one before it that may match the same value: in later items that value would
/// fall to the later match.
fn is_widened<T>(groups: &[Vec<&T>], is_exact: impl Fn(&T) -> bool) -> bool {
    let is_exact = |group: &[&T]| group.first().is_some_and(|first| is_exact(first));
    groups.iter().enumerate().any(|(later, group)| {
        let mut before = groups[..later].iter().filter(|earlier| !(is_exact(earlier) && is_exact(group)));
        before.any(|earlier| earlier.len() < group.len())
    })
}

/// Where the store cannot be used there is none to ask: the module lets requests pass then.
fn configuration(settings: &Settings, stores: Stores<'_>) -> Rule {
    let Settings { store, rule_name, paths: _, global, rules, models: _, rejection, reserve: _, ends: _, unavailable } =
        settings;
    let store = store.as_ref().filter(|_| unavailable.is_none()).and_then(|store| stores.usable.get(store));
    Rule {
        rule_name: rule_name.clone(),
        global_threshold: global.first().and_then(|rate| Rate::new(rate.tokens, rate.window_seconds)),
        rule_items: rules.iter().flat_map(items).collect(),
        rejected_code: rejection.code,
        rejected_msg: rejection.message.clone(),
        redis: store.map_or_else(|| anything(stores), |store| store.clone().into()),
    }
}

/// The first limits of each match make one item, the second ones another.
fn items(rule: &WireRule) -> Vec<Item> {
    let groups = groups(&rule.limits, |limit| &limit.matches);
    let values = rule.limits.iter().all(|limit| matches!(limit.matches, Match::Exact(_)));
    let limiter = limiter(&rule.by, values);
    let item = |nth: usize| {
        let keys = groups.iter().filter_map(|group| key(group.get(nth)?, values));
        Item { limiter: limiter.clone(), limit_keys: keys.collect() }
    };
    (0..longest(&groups)).map(item).filter(|item| !item.limit_keys.is_empty()).collect()
}

fn limiter(by: &By, values: bool) -> Limiter {
    match (by, values) {
        (By::Header(name), true) => Limiter::Header(name.clone()),
        (By::Header(name), false) => Limiter::PerHeader(name.clone()),
        (By::Param(name), true) => Limiter::Param(name.clone()),
        (By::Param(name), false) => Limiter::PerParam(name.clone()),
        (By::Cookie(name), true) => Limiter::Cookie(name.clone()),
        (By::Cookie(name), false) => Limiter::PerCookie(name.clone()),
        (By::Consumer(Consumer {}), true) => Limiter::Consumer(String::new()),
        (By::Consumer(Consumer {}), false) => Limiter::PerConsumer(String::new()),
        (By::Ip(Ip { from_header: None }), _) => Limiter::PerIp("from-remote-addr".to_owned()),
        (By::Ip(Ip { from_header: Some(name) }), _) => Limiter::PerIp(format!("from-header-{name}")),
    }
}

/// Nothing for a window that upstream has not. `values`: whether keys are values; otherwise they are patterns.
fn key(limit: &WireLimit, values: bool) -> Option<Key> {
    let rate = Rate::new(limit.tokens, limit.window_seconds)?;
    let key = match &limit.matches {
        Match::Exact(value) if values => value.clone(),
        // What ends a quotation is said outside of it.
        Match::Exact(value) => format!(r"regexp:^\Q{}\E$", value.replace(r"\E", r"\E\\E\Q")),
        Match::Pattern(pattern) => format!("regexp:{pattern}"),
        Match::Any => "*".to_owned(),
        Match::Cidr(network) => network.clone(),
    };
    Some(Key { key, rate })
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
        let meant = Rule { redis: config.redis.clone(), ..configuration(settings, stores) };
        *found = (meant == config).then_some(policy);
    }
    read
}
