//! AITokenRateLimit: tokens in a window. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{AiTokenRateLimit, ByIp, OnStoreFailure, TargetRef, WasmPlugin};
use enforcement::{
    identity,
    wire::{
        self,
        limit::{By, Consumer, Dialect, Ip, Limit as WireLimit, Match, Native, Policy, Rate, Rejection, Rule},
    },
};
use serde_json::Value;

use super::{Kind, unread};
use crate::{
    AI_TOKEN_RATELIMIT, Flavor, Key, LimitModule, Object, ObjectKind, Reason, Refusal, Settings, World, ends,
    form::{self, Form, Read},
    models, overrides,
    plan::Declared,
    program::Place,
    stores, validate,
};

pub(crate) struct Limit;

impl Kind for Limit {
    type Object = AiTokenRateLimit;
    type Settings = Policy;

    const KIND: ObjectKind = ObjectKind::AiTokenRateLimit;
    const OURS: &'static str = AI_TOKEN_RATELIMIT;
    const PLUGIN: &'static str = "ai-token-ratelimit";
    const ASKS_IDENTITY: bool = false;
    const NOBODY: &'static str = "are under none of the limits by consumer";
    const STRICTER: &'static str = "limit every path there";
    const CHOICE: (&'static str, &'static str) = ("spec.ruleName", "the choice of a rule name");

    fn module(settings: &Settings) -> Option<Place<'_>> {
        let LimitModule { url, sha256, phase, priority } = settings.limit_module.as_ref()?;
        Some(Place { url, sha256: sha256.as_ref(), phase: *phase, priority: (*priority).into() })
    }

    fn believes(settings: &Policy) -> bool {
        all_rules(settings).any(by_consumer)
    }

    fn form(world: &World) -> &'static dyn Form<Self> {
        match world.settings.flavor {
            Flavor::Native => &form::Native,
            Flavor::Upstream => match world.settings.limit_dialect {
                Dialect::V1 => &form::UpstreamLimits(Dialect::V1),
                Dialect::V2 => &form::UpstreamLimits(Dialect::V2),
            },
        }
    }

    fn read(plugin: &WasmPlugin) -> Read<Self> {
        form::read_native(&plugin.spec, |config| {
            let native: Native<Value> = form::parsed(config)?;
            let Native { version: _, dialect: _, stores, policies, report: _ } = native;
            Some((stores, BTreeMap::new(), policies))
        })
        .unwrap_or_else(|| form::read_upstream_limits(plugin))
    }

    fn envelope(
        stores: BTreeMap<String, wire::Store>,
        _: BTreeMap<String, wire::Schedule>,
        policies: BTreeMap<String, Policy>,
    ) -> Value {
        form::config(&Native {
            version: wire::VERSION,
            dialect: Dialect::V2,
            stores,
            policies,
            report: None::<wire::Report>,
        })
    }

    fn of(object: &Object) -> Option<&Arc<AiTokenRateLimit>> {
        match object {
            Object::Limit(limit) => Some(limit),
            Object::Read(_) | Object::Undecodable(_) => None,
        }
    }

    fn objects(world: &World) -> Vec<Object> {
        world.limits.iter().cloned().map(Object::Limit).chain(unread(world, Self::KIND)).collect()
    }

    fn validate(limit: &AiTokenRateLimit) -> Result<(), Vec<Refusal>> {
        validate::validate_limit(limit)
    }

    fn targets(limit: &AiTokenRateLimit) -> &[TargetRef] {
        &limit.spec.target_refs
    }

    fn allows_narrower(limit: &AiTokenRateLimit) -> bool {
        limit.spec.allow_narrower == Some(true)
    }

    fn chosen(limit: &AiTokenRateLimit) -> bool {
        limit.spec.rule_name.is_some()
    }

    fn sources(world: &World, limit: &AiTokenRateLimit, key: &Key, found: Option<&Policy>) -> Option<Reason> {
        let mut rules = limit.spec.rules.iter().enumerate().filter(|(_, rule)| !rule.overrides_from.is_empty());
        let gateway = &world.settings.gateway_namespace;
        if key.namespace != *gateway {
            return rules.next().map(|(rule, _)| Reason::OverridesElsewhere { rule, gateway: gateway.clone() });
        }
        let name = rule_name(limit, key);
        let store = limit.spec.store_ref.as_ref().map_or(stores::DEFAULT, |store| &store.name);
        let found = found.filter(|found| found.rule_name == name && found.store.as_deref() == Some(store));
        let has = |by: &By| found.is_some_and(|found| found.rules.iter().any(|rule| rule.overridden && rule.by == *by));
        // Where the gateway looks a set up already, what was last read stays: another one would be empty.
        let mut new = rules.filter(|(_, rule)| !source(&rule.by).is_some_and(|by| has(&by)));
        new.find_map(|(at, rule)| overrides::read(world, at, rule, &name).err()).map(Reason::OverridesInvalid)
    }

    fn settings(world: &World, limit: &AiTokenRateLimit, key: &Key) -> Policy {
        let spec = &limit.spec;
        let mut paths = match &spec.paths {
            Some(paths) => paths.clone(),
            None => Self::form(world).default_paths(),
        };
        paths.sort_unstable();
        let usual = Rejection::default();
        let (code, message) = spec.rejection.as_ref().map_or((None, None), |said| (said.code, said.message.clone()));
        Policy {
            store: Some(spec.store_ref.as_ref().map_or(stores::DEFAULT, |store| &store.name).to_owned()),
            rule_name: rule_name(limit, key),
            paths,
            global: rates(&spec.global),
            rules: rules(&spec.rules),
            models: limited(&spec.models),
            rejection: Rejection { code: code.unwrap_or(usual.code), message: message.unwrap_or(usual.message) },
            reserve: validate::admission::reserve(spec.admission, spec.reservation),
            ends: ends::ends(spec.ends(), OnStoreFailure::Admit),
            unavailable: None,
        }
    }

    /// Counters are made by requests and end by themselves.
    fn declared(_: &Policy, _: Option<usize>) -> Option<Declared> {
        None
    }

    fn store(settings: &Policy) -> Option<&str> {
        settings.store.as_deref()
    }

    fn store_mut(settings: &mut Policy) -> Option<&mut String> {
        settings.store.as_mut()
    }

    fn said(settings: &Policy, usual: impl Fn() -> Vec<String>) -> Cow<'_, Policy> {
        if settings.paths.is_empty() {
            return Cow::Owned(Policy { paths: usual(), ..settings.clone() });
        }
        Cow::Borrowed(settings)
    }

    fn unavailable(settings: &Policy) -> Option<&str> {
        settings.unavailable.as_deref()
    }

    fn refusing(settings: Policy, why: String) -> Policy {
        Policy { store: None, unavailable: Some(why), ..settings }
    }

    fn owned_by(settings: Policy, _: String) -> Policy {
        settings
    }

    fn is_nameless(settings: &Policy) -> bool {
        settings.unavailable.is_some() && settings.rule_name.is_empty()
    }

    fn is_chosen(settings: &Policy, namespace: &str) -> bool {
        let own = settings.rule_name.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('.'));
        !settings.rule_name.is_empty() && !own
    }

    fn places(_: &Policy) -> usize {
        0
    }

    fn consumers<'a>(settings: &'a Policy, _: &'a Object) -> Vec<&'a str> {
        let limits = all_rules(settings).filter(|rule| by_consumer(rule)).flat_map(|rule| &rule.limits);
        let exact = limits.filter_map(|limit| match &limit.matches {
            Match::Exact(name) => Some(name.as_str()),
            Match::Pattern(_) | Match::Any | Match::Cidr(_) => None,
        });
        exact.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn refresh(_: &Policy) -> Option<&wire::Refresh> {
        None
    }

    fn difference(a: &Policy, b: &Policy) -> Option<&'static str> {
        // Whether its store can be used is not for the object to say.
        let Policy { store, rule_name, paths, global, rules, models, rejection, reserve, ends, unavailable: _ } = a;
        [
            ("global", *global != b.global),
            ("rules", *rules != b.rules),
            ("models", *models != b.models),
            ("rejection", *rejection != b.rejection),
            ("paths", *paths != b.paths),
            ("ruleName", *rule_name != b.rule_name),
            ("admission", reserve.is_some() != b.reserve.is_some()),
            ("reservation", *reserve != b.reserve),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field))
        .or_else(|| ends::difference(ends, &b.ends))
        .or_else(|| (*store != b.store).then_some("storeRef"))
    }
}

pub(crate) fn rule_name(limit: &AiTokenRateLimit, key: &Key) -> String {
    limit.spec.rule_name.clone().unwrap_or_else(|| format!("{}.{}", key.namespace, key.name))
}

fn by_consumer(rule: &Rule) -> bool {
    match &rule.by {
        By::Consumer(Consumer {}) => true,
        By::Header(name) => name.eq_ignore_ascii_case(identity::HEADER),
        By::Param(_) | By::Cookie(_) | By::Ip(_) => false,
    }
}

/// Those for all requests, and those for one model.
fn all_rules(settings: &Policy) -> impl Iterator<Item = &Rule> {
    settings.rules.iter().chain(settings.models.iter().flat_map(|model| &model.rules))
}

/// Whatever the order in which they are listed.
fn limited(models: &[api::LimitedModel]) -> Vec<wire::LimitedModel> {
    let model = |model: &api::LimitedModel| wire::LimitedModel {
        name: model.name.clone(),
        weights: models::weights(model.weights),
        global: rates(&model.global),
        rules: rules(&model.rules),
    };
    let mut models: Vec<_> = models.iter().map(model).collect();
    models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    models
}

fn rates(declared: &[api::Rate]) -> Vec<Rate> {
    declared.iter().filter_map(|said| rate(said.tokens, &said.window)).collect()
}

/// As they are enforced; what is refused is not among them.
pub(crate) fn rules(declared: &[api::Rule]) -> Vec<Rule> {
    let limit = |limit: &api::Limit| {
        let rate = rate(limit.tokens, &limit.window)?;
        let matches = matches(&limit.matches)?;
        Some(WireLimit { matches, tokens: rate.tokens, window_seconds: rate.window_seconds })
    };
    let rule = |api::Rule { by, limits, overrides_from }: &api::Rule| {
        let limits = limits.iter().filter_map(limit).collect();
        Some(Rule { by: source(by)?, limits, overridden: !overrides_from.is_empty() })
    };
    declared.iter().filter_map(rule).collect()
}

/// Nothing for what is refused.
fn rate(tokens: i64, window: &str) -> Option<Rate> {
    Some(Rate { tokens, window_seconds: validate::seconds(window)? })
}

fn source(by: &api::By) -> Option<By> {
    let api::By { header, param, cookie, consumer, ip } = by;
    let named = |name: &Option<String>, by: fn(String) -> By| name.clone().map(by);
    named(header, By::Header)
        .or_else(|| named(param, By::Param))
        .or_else(|| named(cookie, By::Cookie))
        .or_else(|| consumer.as_ref().map(|api::ByConsumer {}| By::Consumer(Consumer {})))
        .or_else(|| ip.clone().map(|ByIp { from_header }| By::Ip(Ip { from_header })))
}

fn matches(declared: &api::Match) -> Option<Match> {
    let api::Match { exact, pattern, any, cidr } = declared;
    let any = any.filter(|any| *any).map(|_| Match::Any);
    let exact = exact.clone().map(Match::Exact);
    exact.or_else(|| pattern.clone().map(Match::Pattern)).or(any).or_else(|| cidr.clone().map(Match::Cidr))
}
