//! The WasmPlugins as they should be written, given which balances are in Redis: a rule that was never in force
//! waits for its balances, everything else is there at once. Pure.

use std::{collections::BTreeMap, sync::Arc};

use api::{MANAGED_BY, MANAGER, MatchRule, WasmPlugin, WasmPluginSpec};
use enforcement::wire::{self, Native, VERSION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::{
    Guard, GuardModule, Phase, Plan, Seeded, Settings,
    form::{self, Body, POLICIES, Ruled},
    gateway::{Gateway, Matcher, Part, Policy},
    kind::Kind,
    merge::{Holder, Loser, Slot},
    templates,
};

pub const GUARD: &str = "aiquota-guard";
pub const AI_QUOTA: &str = "aiquota-ai-quota";
pub const AI_TOKEN_RATELIMIT: &str = "aiquota-ai-token-ratelimit";

/// What is to be written, in this order.
pub struct Program {
    pub plugins: Vec<PluginWrite>,
    /// For each verdict, whether each of its targets has its rule.
    pub(crate) rules: Vec<Vec<bool>>,
    /// For each verdict, whether what was found says about it all that is wanted: a write that is still to be made
    /// is another object's matter.
    pub(crate) stands: Vec<bool>,
    /// For each verdict, whether it keeps a rule that it has lost, until the winner is ready.
    pub(crate) keeps: Vec<bool>,
}

/// One WasmPlugin in the gateway's namespace.
pub struct PluginWrite {
    pub name: &'static str,
    /// As it is; to be replaced with its resourceVersion.
    pub found: Option<Arc<WasmPlugin>>,
    /// As it should be, with the foreign metadata of what was found; `None`: it should not be.
    pub wanted: Option<WasmPlugin>,
    /// Why it must not be written as it should be: it stays as it is.
    pub refused: Option<String>,
}

impl PluginWrite {
    /// Whether what was found means something else than what is wanted.
    #[must_use]
    pub fn differs(&self) -> bool {
        match (&self.found, &self.wanted) {
            _ if self.refused.is_some() => false,
            (None, None) => false,
            (Some(found), Some(wanted)) => {
                !form::same(found, wanted) || found.metadata.labels != wanted.metadata.labels
            }
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// Whether all but the rules and what they name is as wanted.
    fn frame_stands(&self) -> bool {
        match (&self.found, &self.wanted) {
            (Some(found), Some(wanted)) => frame(&found.spec) == frame(&wanted.spec),
            _ => false,
        }
    }
}

fn frame(spec: &WasmPluginSpec) -> impl PartialEq {
    let WasmPluginSpec {
        url,
        sha256,
        image_pull_policy,
        image_pull_secret,
        plugin_name,
        phase,
        priority,
        fail_strategy,
        default_config,
        default_config_disable,
        match_rules: _,
        rest,
    } = spec;
    let keys = default_config.as_ref().and_then(Value::as_object).map(Map::len);
    let image = (url, sha256, image_pull_policy, image_pull_secret, plugin_name);
    (image, phase, priority, fail_strategy, keys, default_config_disable, rest)
}

/// `seeded` has an entry for each of the plan's seeds, in their order; what is missing is pending.
#[must_use]
pub fn program(plan: &Plan, seeded: &[Seeded]) -> Program {
    let mut came = Came {
        rules: plan.verdicts.iter().map(|verdict| vec![false; verdict.targets.len()]).collect(),
        stands: vec![true; plan.verdicts.len()],
        keeps: vec![false; plan.verdicts.len()],
    };
    let quotas = plan.quotas.decided(plan, seeded, &mut came);
    let limits = plan.limits.decided(plan, seeded, &mut came);
    let guard = plan.gateway.guard(plan.quotas.believes(&quotas) || plan.limits.believes(&limits));
    let quotas = plan.quotas.write(&plan.gateway, quotas, &mut came);
    let limits = plan.limits.write(&plan.gateway, limits, &mut came);
    let Came { rules, stands, keeps } = came;
    Program { plugins: vec![guard, quotas, limits], rules, stands, keeps }
}

/// What came of each verdict: see [`Program`].
struct Came {
    rules: Vec<Vec<bool>>,
    stands: Vec<bool>,
    keeps: Vec<bool>,
}

impl<K: Kind> Part<K> {
    /// Who decides on what: all who share a slot have equal settings, and the oldest whose balances are there speaks
    /// for them. Where none does and the settings were in force before, they stay, whoever they were written for.
    fn decided(&self, plan: &Plan, seeded: &[Seeded], came: &mut Came) -> Vec<(&Matcher, usize)> {
        let is_ready = |policy: &Policy<K>| {
            let mut seeds = plan.verdicts[policy.verdict].seeds.clone();
            policy.programmed
                || (policy.unavailable.is_none() && seeds.all(|seed| seeded.get(seed).is_some_and(Seeded::is_final)))
        };
        let ready: Vec<bool> = self.policies.iter().map(is_ready).collect();
        let written = self.written(&plan.gateway);
        let mut decided: Vec<(&Matcher, usize)> = Vec::with_capacity(self.slots.len());
        let speaker = |slot: &Slot<Matcher>| {
            let waits = |holder: &&Holder| self.waiting.contains(&(holder.by, holder.target));
            let holders = || slot.holders.iter().filter(|holder| !waits(holder));
            let in_force = |holder: &&Holder| self.policies[holder.by].in_force;
            holders().find(|holder| ready[holder.by]).or_else(|| holders().find(in_force)).copied()
        };
        let speakers: Vec<Option<Holder>> = self.slots.iter().map(speaker).collect();
        for (slot, speaker) in self.slots.iter().zip(&speakers) {
            let Some(holder) = speaker else {
                // Somebody lost it to them, or to a ceiling that has no rule yet, and had it until now: nothing becomes
                // free meanwhile.
                let keeps_it = |loser: &&Loser| {
                    loser.ceiling.is_none_or(|ceiling| speakers[ceiling].is_none())
                        && self.enforces(&self.policies[loser.by], &slot.what)
                };
                if let Some(loser) = slot.losers.iter().find(keeps_it) {
                    decided.push((&slot.what, loser.by));
                    came.keeps[self.policies[loser.by].verdict] = true;
                }
                continue;
            };
            decided.push((&slot.what, holder.by));
            let there = written[holder.by] && self.found.has(&slot.what, &self.policies[holder.by].name);
            for holder in &slot.holders {
                let verdict = self.policies[holder.by].verdict;
                came.stands[verdict] &= there;
                if let Some(rule) = came.rules[verdict].get_mut(holder.target) {
                    *rule = true;
                }
            }
        }
        decided
    }

    /// For each policy, whether what was found has it, and its store, as they are wanted.
    fn written(&self, gateway: &Gateway) -> Vec<bool> {
        let is = |policy: &Policy<K>| {
            let settings = policy.written();
            self.found.says(&policy.name, &settings)
                && K::store(&settings).is_none_or(|name| self.found.stores.get(name) == gateway.stores.get(name))
                && K::refresh(&self.form.said(&settings)).is_none_or(|refresh| {
                    let found = self.found.schedules.get(&refresh.schedule);
                    gateway.tables.get(&refresh.schedule).is_none_or(|table| table.stands(found))
                })
        };
        self.policies.iter().map(is).collect()
    }

    /// Whether something is under this policy, or an equal one, now.
    fn enforces(&self, policy: &Policy<K>, what: &Matcher) -> bool {
        self.existing.is_under(what, &policy.name) || self.existing.holds(what, &policy.settings)
    }

    /// Whether anything decided on depends on who calls.
    fn believes(&self, decided: &[(&Matcher, usize)]) -> bool {
        decided.iter().any(|(_, by)| K::believes(&self.policies[*by].settings))
    }

    fn write(&self, gateway: &Gateway, decided: Vec<(&Matcher, usize)>, came: &mut Came) -> PluginWrite {
        let wanted = match K::module(&gateway.settings) {
            None => self.plugin.as_deref().cloned(),
            // While all rules wait for another plugin's to go, gateways load the module: without rules it enforces nothing,
            // and there will be nothing to wait for when the other rule goes.
            Some(_) if decided.is_empty() && (self.waiting.is_empty() || !self.form.loads_ahead()) => None,
            Some(place) => {
                let body = self.form.write(gateway, self, self.ruled(decided));
                Some(gateway.owned(K::OURS, self.plugin.as_deref(), place, body))
            }
        };
        let write = gateway.checked(K::OURS, self.plugin.clone(), wanted);
        if !write.frame_stands() {
            for policy in &self.policies {
                came.stands[policy.verdict] = false;
            }
        }
        write
    }

    /// Each policy with what it decides on, the most specific first.
    fn ruled(&self, mut decided: Vec<(&Matcher, usize)>) -> Vec<Ruled> {
        decided.sort_by(|(a, by_a), (b, by_b)| {
            let specific = |matcher| rank(matcher);
            specific(a).cmp(&specific(b)).then(by_a.cmp(by_b)).then(a.cmp(b))
        });
        let mut rules: Vec<Ruled> = Vec::new();
        let mut last = None;
        for (matcher, by) in decided {
            let (kind, name, open) = match matcher {
                Matcher::Route(name) => ("ingress", name.as_str(), false),
                Matcher::Service(name) => ("service", name.as_str(), false),
                Matcher::Domain(name) => ("domain", name.as_str(), true),
                Matcher::Gateway => ("domain", "*", true),
            };
            // Routes and services are told apart by their names alone: all of a policy make one rule.
            if open || last != Some((kind, by)) {
                rules.push(Ruled { rule: MatchRule::default(), by, open });
            }
            last = Some((kind, by));
            if let Some(Ruled { rule, .. }) = rules.last_mut() {
                let into = match kind {
                    "ingress" => &mut rule.ingress,
                    "service" => &mut rule.service,
                    _ => &mut rule.domain,
                };
                into.get_or_insert_default().push(name.to_owned());
            }
        }
        rules
    }
}

/// Where a module is loaded from, and where in the gateway's chain.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) url: &'a str,
    pub(crate) sha256: Option<&'a String>,
    pub(crate) phase: Phase,
    pub(crate) priority: i64,
}

impl Gateway {
    /// `wanted`: whether anything believes who calls.
    fn guard(&self, wanted: bool) -> PluginWrite {
        let Settings { guard, guard_module: GuardModule { url, sha256 }, .. } = &self.settings;
        let wanted = (wanted && *guard == Guard::On).then(|| {
            let native = Native::<wire::Policy> {
                version: VERSION,
                guard: true,
                stores: BTreeMap::new(),
                schedules: BTreeMap::new(),
                policies: BTreeMap::new(),
                // It has no store in which it could say anything.
                report: None,
            };
            let body = Body { default_config: Some(form::config(&native)), ..Body::default() };
            let place = Place { url, sha256: sha256.as_ref(), phase: Phase::Authn, priority: self.guard_priority };
            self.owned(GUARD, self.guard.as_deref(), place, body)
        });
        self.checked(GUARD, self.guard.clone(), wanted)
    }

    fn checked(&self, name: &'static str, found: Option<Arc<WasmPlugin>>, wanted: Option<WasmPlugin>) -> PluginWrite {
        // Nothing that gets here should have one: this is looked at whatever was looked at before.
        let unknown = wanted.as_ref().and_then(|plugin| templates::unknown(&plugin.spec, &self.templates));
        let refused = unknown.map(|path| {
            format!("{path} has a template that is no store's, or that the gateway cannot replace: nothing is written")
        });
        PluginWrite { name, found, wanted, refused }
    }

    /// The spec is all ours; the metadata only by one label and one annotation.
    fn owned(&self, name: &str, found: Option<&WasmPlugin>, place: Place<'_>, body: Body) -> WasmPlugin {
        let Place { url, sha256, phase, priority } = place;
        let Body { default_config, match_rules, policies } = body;
        let module = &self.settings.module;
        let spec = WasmPluginSpec {
            url: Some(url.to_owned()),
            sha256: sha256.cloned(),
            image_pull_policy: Some(module.image_pull_policy.as_str().to_owned()),
            image_pull_secret: module.image_pull_secret.clone(),
            plugin_name: None,
            phase: Some(phase.as_str().to_owned()),
            priority: Some(priority),
            fail_strategy: Some(module.fail_strategy.as_str().to_owned()),
            default_config,
            default_config_disable: None,
            match_rules: Some(match_rules).filter(|rules| !rules.is_empty()),
            rest: Map::new(),
        };
        let mut metadata = found.map_or_else(
            || ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.settings.gateway_namespace.clone()),
                ..ObjectMeta::default()
            },
            |found| found.metadata.clone(),
        );
        metadata.managed_fields = None;
        metadata.labels.get_or_insert_default().insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        match (policies, &mut metadata.annotations) {
            (Some(policies), all) => drop(all.get_or_insert_default().insert(POLICIES.to_owned(), policies)),
            (None, Some(all)) => drop(all.remove(POLICIES)),
            (None, None) => {}
        }
        metadata.annotations.take_if(|all| all.is_empty());
        WasmPlugin { metadata, spec }
    }
}

/// Routes, services, exact domains, wildcards (the longest first), the gateway.
fn rank(matcher: &Matcher) -> (u8, usize) {
    match matcher {
        Matcher::Route(_) => (0, 0),
        Matcher::Service(_) => (1, 0),
        Matcher::Domain(name) if name.starts_with('*') => (3, usize::MAX - name.len()),
        Matcher::Domain(_) => (2, 0),
        Matcher::Gateway => (4, 0),
    }
}
