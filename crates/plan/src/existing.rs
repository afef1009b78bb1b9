//! What the gateway enforces now: our WasmPlugin as found in, its policies and what they match out. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::{MatchRule, WasmPlugin};
use enforcement::wire;

use crate::{
    form::{self, Form, Read},
    gateway::Matcher,
    kind::Kind,
};

/// Nothing where there is no WasmPlugin, or none that we could have written. Settings are what the form that is to be
/// written can say of them.
pub(crate) struct Existing<K: Kind> {
    form: &'static dyn Form<K>,
    /// Whether its rules over Domains and the gateway let requests without consumer pass where nothing is metered.
    pub(crate) open: bool,
    pub(crate) policies: HashMap<String, K::Settings>,
    /// Policies that the form cannot say so that they do what they did.
    pub(crate) unsayable: HashSet<String>,
    pub(crate) stores: BTreeMap<String, wire::Store>,
    pub(crate) schedules: BTreeMap<String, wire::Schedule>,
    /// By policy.
    pub(crate) matchers: HashMap<String, Vec<Matcher>>,
    over: HashMap<Matcher, String>,
    /// Whether there are rules that are not as we write them.
    foreign: bool,
    /// Stores as found, and those of now that are the same though they are called otherwise.
    same_stores: HashSet<(String, String)>,
}

impl<K: Kind> Existing<K> {
    pub(crate) fn of(plugin: Option<&WasmPlugin>, form: &'static dyn Form<K>) -> Self {
        let Read { open, mut policies, stores, schedules, rules } = plugin.map(K::read).unwrap_or_default();
        let mut unsayable = HashSet::new();
        for (name, settings) in &mut policies {
            if !form.can_say(settings) {
                unsayable.insert(name.clone());
            }
            *settings = form.said(settings).into_owned();
        }
        let mut existing = Self {
            form,
            open,
            policies,
            unsayable,
            stores,
            schedules,
            matchers: HashMap::new(),
            over: HashMap::new(),
            foreign: false,
            same_stores: HashSet::new(),
        };
        let found = plugin.into_iter().flat_map(|plugin| plugin.spec.match_rules.iter().flatten());
        for (rule, policy) in found.zip(rules) {
            existing.add(rule, policy);
        }
        existing
    }

    fn add(&mut self, rule: &MatchRule, policy: Option<String>) {
        let MatchRule { ingress, domain, service, config: _, config_disable, rest } = rule.clone();
        self.foreign |= policy.is_none() || config_disable.is_some() || !rest.is_empty();
        let Some(policy) = policy.filter(|_| config_disable != Some(true)) else { return };
        let mut all: Vec<Matcher> = ingress.into_iter().flatten().map(Matcher::Route).collect();
        all.extend(service.into_iter().flatten().map(Matcher::Service));
        all.extend(domain.into_iter().flatten().map(|name| match name.as_str() {
            "*" => Matcher::Gateway,
            _ => Matcher::Domain(name),
        }));
        for matcher in &all {
            self.over.entry(matcher.clone()).or_insert_with(|| policy.clone());
        }
        self.matchers.entry(policy).or_default().extend(all);
    }

    /// With the names that stores have now for those that are the same.
    pub(crate) fn with_names_of(mut self, now: &BTreeMap<String, wire::Store>) -> Self {
        for (found, store) in &self.stores {
            let same = now.iter().filter(|(name, now)| *name != found && *now == store);
            self.same_stores.extend(same.map(|(name, _)| (found.clone(), name.clone())));
        }
        for store in self.policies.values_mut().filter_map(K::store_mut) {
            let known = self.stores.get(store).filter(|_| store.starts_with(form::NAMELESS));
            if let Some((name, _)) = known.and_then(|known| now.iter().find(|(_, now)| *now == known)) {
                store.clone_from(name);
            }
        }
        self
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
    pub(crate) fn over(&self, matcher: &Matcher) -> Option<(&str, &K::Settings)> {
        let policy = self.over.get(matcher)?;
        Some((policy, self.policies.get(policy)?))
    }

    /// Whether something is held to these settings already, whoever they were written for.
    pub(crate) fn holds(&self, matcher: &Matcher, settings: &K::Settings) -> bool {
        self.over(matcher).is_some_and(|(_, over)| self.means(over, settings))
    }

    /// The settings of a policy, where they mean something else than these.
    pub(crate) fn before(&self, policy: &str, settings: &K::Settings) -> Option<&K::Settings> {
        self.policies.get(policy).filter(|found| !self.means(found, settings))
    }

    /// Whether settings that were found say the same as these; what refuses says less.
    fn means(&self, found: &K::Settings, settings: &K::Settings) -> bool {
        let gone = K::unavailable(found).is_some();
        let same_store = || match (K::store(found), K::store(settings)) {
            (Some(found), Some(wanted)) => self.same_stores.contains(&(found.to_owned(), wanted.to_owned())),
            _ => false,
        };
        let field = K::difference(&self.form.said(settings), found);
        K::is_nameless(found) || field.is_none_or(|field| field == "storeRef" && (gone || same_store()))
    }

    /// Whether a policy stands there just so.
    pub(crate) fn says(&self, policy: &str, settings: &K::Settings) -> bool {
        self.policies.get(policy) == Some(&*self.form.said(settings))
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
