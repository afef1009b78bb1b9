//! The form that our own module reads: stores and policies once in `defaultConfig`, and rules that name them. It says
//! everything. Pure.

use std::{borrow::Cow, collections::BTreeMap};

use api::{AiQuotaSpec, MatchRule, WasmPluginSpec};
use enforcement::{
    values::DEFAULT_PATHS,
    wire::{self, Rule, VERSION},
};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{Body, Form, Read, Ruled, Size, Stores, text, value};
use crate::{
    Refusal,
    gateway::{Gateway, Matcher, Policy},
};

/// Around a rule's matchers: `{"ingress":[],"config":{"policy":"","open":true}},`
const RULE: usize = 56;
/// Around a policy's name: `"":,`.
const ENTRY: usize = 4;

/// A whole table: `{"first":,"at":[]}`, an ordinal, and 66 seconds of 10 digits with their commas.
const SCHEDULE: usize = 18 + 10 + 66 * 11;

pub(super) struct Native;

impl Form for Native {
    fn unsupported(&self, _: &AiQuotaSpec) -> Vec<Refusal> {
        Vec::new()
    }

    fn default_paths(&self) -> Vec<String> {
        DEFAULT_PATHS.map(str::to_owned).to_vec()
    }

    fn said<'a>(&self, settings: &'a wire::Policy) -> Cow<'a, wire::Policy> {
        if settings.paths.is_empty() {
            // As upstream's form has it: what the module meters by itself.
            return Cow::Owned(wire::Policy { paths: self.default_paths(), ..settings.clone() });
        }
        Cow::Borrowed(settings)
    }

    fn rolls(&self) -> bool {
        true
    }

    fn keeps(&self, _: &Matcher, _: bool) -> bool {
        true
    }

    fn write(&self, gateway: &Gateway, rules: Vec<Ruled>) -> Body {
        let mut policies = BTreeMap::new();
        let mut stores = BTreeMap::new();
        let mut schedules = BTreeMap::new();
        let rules = rules.into_iter().map(|Ruled { rule, by, open }| {
            let policy = &gateway.policies[by];
            if !policies.contains_key(&policy.name) {
                let settings = policy.written();
                let store = settings.store.as_ref().and_then(|name| gateway.stores.get_key_value(name));
                stores.extend(store.map(|(name, store)| (name.clone(), store.clone())));
                if let Some(refresh) = &settings.refresh
                    && let Some(table) = gateway.tables.get(&refresh.schedule)
                {
                    schedules.insert(refresh.schedule.clone(), table.written.clone());
                }
                policies.insert(policy.name.clone(), settings);
            }
            MatchRule { config: Some(value(&Rule { policy: policy.name.clone(), open })), ..rule }
        });
        let match_rules = rules.collect();
        let native = wire::Native { version: VERSION, guard: false, stores, schedules, policies };
        Body { default_config: Some(config(&native)), match_rules, policies: None }
    }

    fn size(&self, policy: &Policy, _: Stores<'_>) -> Size {
        let name = policy.name.len();
        Size { once: text(&policy.settings).len() + name + ENTRY, rule: RULE + name, note: 0 }
    }

    fn schedule_size(&self, name: &str) -> usize {
        SCHEDULE + name.len() + ENTRY
    }
}

/// The `defaultConfig` of a module of ours.
pub(crate) fn config(native: &wire::Native) -> Value {
    Value::Object(Map::from_iter([(wire::KEY.to_owned(), value(native))]))
}

/// Nothing where this is another form.
pub(super) fn read(spec: &WasmPluginSpec) -> Option<Read> {
    let native = spec.default_config.as_ref()?.get(wire::KEY)?;
    let native = wire::Native::<Value, Value>::deserialize(native).ok()?;
    let policies = native.policies.into_iter();
    let policies = policies.filter_map(|(name, policy)| Some((name, serde_json::from_value(policy).ok()?)));
    let rules =
        spec.match_rules.iter().flatten().map(|rule| Some(Rule::deserialize(rule.config.as_ref()?).ok()?.policy));
    let schedules = native.schedules.into_iter();
    let schedules = schedules.filter_map(|(name, schedule)| Some((name, serde_json::from_value(schedule).ok()?)));
    Some(Read {
        open: true,
        policies: policies.collect(),
        stores: native.stores,
        schedules: schedules.collect(),
        rules: rules.collect(),
    })
}
