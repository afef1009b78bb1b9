//! The form that our own module reads: stores and policies once in `defaultConfig`, and rules that name them. It says
//! everything. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use api::{MatchRule, WasmPluginSpec};
use enforcement::{
    values::DEFAULT_PATHS,
    wire::{self, Rule},
};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Body, Form, Read, Ruled, Size, Stores, text, value};
use crate::{
    Refusal,
    gateway::{Gateway, Matcher, Part, Policy},
    kind::Kind,
    loaded,
};

/// Around a rule's matchers: `{"ingress":[],"config":{"policy":"","open":true}},`
const RULE: usize = 56;
/// Around a policy's name: `"":,`.
const ENTRY: usize = 4;
/// `"yields":true,`
const YIELDS: usize = 14;

/// A whole table: `{"first":,"at":[]}`, an ordinal, and 66 seconds of 10 digits with their commas.
const SCHEDULE: usize = 18 + 10 + 66 * 11;

pub(crate) struct Native;

impl<K: Kind> Form<K> for Native {
    fn unsupported(&self, _: &K::Object) -> Vec<Refusal> {
        Vec::new()
    }

    fn default_paths(&self) -> Vec<String> {
        DEFAULT_PATHS.map(str::to_owned).to_vec()
    }

    fn said<'a>(&self, settings: &'a K::Settings) -> Cow<'a, K::Settings> {
        K::said(settings, || Form::<K>::default_paths(self))
    }

    fn rolls(&self) -> bool {
        true
    }

    fn keeps(&self, _: &Matcher, _: bool) -> bool {
        true
    }

    fn can_say(&self, _: &K::Settings) -> bool {
        true
    }

    fn loads_ahead(&self) -> bool {
        true
    }

    fn write(&self, gateway: &Gateway, part: &Part<K>, rules: Vec<Ruled>) -> Body {
        let mut policies = BTreeMap::new();
        let mut stores = BTreeMap::new();
        let mut schedules = BTreeMap::new();
        let rules = rules.into_iter().map(|Ruled { rule, by, open }| {
            let policy = &part.policies[by];
            if !policies.contains_key(&policy.name) {
                let settings = policy.written();
                let store = K::store(&settings).and_then(|name| gateway.stores.get_key_value(name));
                stores.extend(store.map(|(name, store)| (name.clone(), store.clone())));
                if let Some(refresh) = K::refresh(&settings)
                    && let Some(table) = gateway.tables.get(&refresh.schedule)
                {
                    schedules.insert(refresh.schedule.clone(), table.written.clone());
                }
                policies.insert(policy.name.clone(), settings);
            }
            let rule_of_ours = Rule { policy: policy.name.clone(), open: open || !K::ASKS_IDENTITY };
            MatchRule { config: Some(value(&rule_of_ours)), ..rule }
        });
        let match_rules: Vec<MatchRule> = rules.collect();
        let mut default_config = K::envelope(stores, schedules, policies);
        loaded::stamp(&mut default_config, &match_rules, &gateway.whose);
        Body { default_config: Some(default_config), match_rules, policies: None }
    }

    fn size(&self, policy: &Policy<K>, _: Stores<'_>) -> Size {
        let name = policy.name.len();
        Size {
            once: text(&policy.settings).len() + YIELDS * K::places(&policy.settings) + name + ENTRY,
            rule: RULE + name,
            note: 0,
        }
    }

    fn schedule_size(&self, name: &str) -> usize {
        SCHEDULE + name.len() + ENTRY
    }
}

/// The `defaultConfig` of a module of ours.
pub(crate) fn config(native: &impl Serialize) -> Value {
    Value::Object(Map::from_iter([(wire::KEY.to_owned(), value(native))]))
}

/// What stands in it, if it is one.
pub(crate) fn parsed<T: DeserializeOwned>(config: &Value) -> Option<T> {
    T::deserialize(config.get(wire::KEY)?).ok()
}

/// Stores, and schedules and policies of which each is to be read by itself.
pub(crate) type Parts = (BTreeMap<String, wire::Store>, BTreeMap<String, Value>, BTreeMap<String, Value>);

/// Nothing where this is another form. `parts` reads a module's `defaultConfig`.
pub(crate) fn read<K: Kind>(spec: &WasmPluginSpec, parts: impl Fn(&Value) -> Option<Parts>) -> Option<Read<K>> {
    let (stores, schedules, policies) = parts(spec.default_config.as_ref()?)?;
    let policies = policies.into_iter();
    let policies = policies.filter_map(|(name, policy)| Some((name, serde_json::from_value(policy).ok()?)));
    let rules =
        spec.match_rules.iter().flatten().map(|rule| Some(Rule::deserialize(rule.config.as_ref()?).ok()?.policy));
    let schedules = schedules.into_iter();
    let schedules = schedules.filter_map(|(name, schedule)| Some((name, serde_json::from_value(schedule).ok()?)));
    Some(Read {
        open: true,
        policies: policies.collect(),
        stores,
        schedules: schedules.collect(),
        rules: rules.collect(),
    })
}
