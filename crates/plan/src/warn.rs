//! Other people's plugins beside ours: what was decided and their WasmPlugins in; what an author should know though
//! the rule is in force, and which targets wait until another plugin no longer charges for them, out. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    Guard, ObjectKind, Reason, Verdict, Warning, World,
    auth::{AuthPlugins, Believer, Covering, Passes},
    existing::Existing,
    foreign::Twins,
    gateway::{Matcher, Policy},
    kind::Kind,
    manual,
    merge::Slot,
    program::Place,
    reason::Target,
    targets::Targets,
};

/// Names shown in one message.
const SHOWN: usize = 5;

pub(crate) struct Beside<'a, 'b, K: Kind> {
    pub(crate) world: &'b World,
    pub(crate) targets: &'b Targets<'a>,
    pub(crate) auth: &'b AuthPlugins<'a>,
    /// The WasmPlugins that would charge as well.
    pub(crate) twins: &'b Twins<'a>,
    pub(crate) existing: &'b Existing<K>,
}

/// What is to be said about one object: by target, so that the first is the first of its spec.
#[derive(Default)]
struct Found<'a> {
    uncovered: BTreeSet<usize>,
    unknown: BTreeMap<usize, Stopped<'a>>,
    not_allowed: BTreeMap<usize, Stopped<'a>>,
    foreign: BTreeMap<usize, &'a str>,
}

/// Consumers that do not come through.
struct Stopped<'a> {
    names: Vec<&'a str>,
    plugins: String,
}

impl<'a, K: Kind> Beside<'a, '_, K> {
    /// Adds to each verdict what is to be said of it, and returns which targets wait: the policy and the index of the
    /// target.
    pub(crate) fn look(
        &self,
        policies: &[Policy<K>],
        slots: &[Slot<Matcher>],
        verdicts: &mut [Verdict],
    ) -> HashSet<(usize, usize)> {
        let mut waiting = HashSet::new();
        let Some(Place { phase, priority, .. }) = K::module(&self.world.settings) else { return waiting };
        let believer = Believer { phase, priority };
        let mut all: Vec<Found<'_>> = Vec::new();
        all.resize_with(policies.len(), Found::default);
        let hosts = |route: &str| self.targets.hosts(route).unwrap_or_default();
        for slot in slots {
            let of_this = || match &slot.what {
                Matcher::Route(route) => hosts(route),
                Matcher::Service(_) | Matcher::Domain(_) | Matcher::Gateway => Vec::new(),
            };
            let mut known = None;
            for holder in &slot.holders {
                let (by, at) = (holder.by, holder.target);
                let policy = &policies[by];
                let verdict = &verdicts[policy.verdict];
                // What one has that cannot be taken at its word stays.
                let Some((target, _)) = verdict.targets.get(at).filter(|_| !policy.kept) else { continue };
                if !self.targets.names(&verdict.key.namespace, target, &slot.what) {
                    continue;
                }
                let (covering, twin) = known.get_or_insert_with(|| {
                    let over = |twins: &Twins<'a>| twins.over(&slot.what, &hosts);
                    let twin = Some(self.twins).filter(|twins| !twins.is_empty()).and_then(over);
                    (self.auth.covering(believer, &slot.what, of_this), twin)
                });
                let found = &mut all[by];
                if !K::believes(&policy.settings) {
                    // It does not depend on who calls.
                } else if covering.is_empty() {
                    found.uncovered.insert(at);
                } else if covering.can_tell() && self.world.settings.trusts(&verdict.key.namespace) {
                    // Nobody else is told whom the gateway knows: to list names would be to ask for them.
                    let (unknown, not_allowed) = stopped::<K>(covering, policy, verdict);
                    let stopped = |names| Stopped { names, plugins: covering.names() };
                    if !unknown.is_empty() {
                        found.unknown.insert(at, stopped(unknown));
                    }
                    if !not_allowed.is_empty() {
                        found.not_allowed.insert(at, stopped(not_allowed));
                    }
                }
                if let Some(twin) = twin {
                    found.foreign.insert(at, twin);
                    if !self.existing.is_under(&slot.what, &policy.name)
                        && !self.existing.holds(&slot.what, &policy.settings)
                    {
                        waiting.insert((by, at));
                    }
                }
            }
        }
        let said: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(by, found)| self.say(by, found, believer, policies, verdicts, &waiting))
            .collect();
        for (policy, (warnings, waits)) in policies.iter().zip(said) {
            let verdict = &mut verdicts[policy.verdict];
            verdict.warnings.extend(warnings);
            verdict.waits.extend(waits);
        }
        waiting
    }

    fn say(
        &self,
        by: usize,
        found: &Found<'_>,
        believer: Believer,
        policies: &[Policy<K>],
        verdicts: &[Verdict],
        waiting: &HashSet<(usize, usize)>,
    ) -> (Vec<Warning>, Vec<(usize, Reason)>) {
        let Found { uncovered, unknown, not_allowed, foreign } = found;
        let target = |at: &usize| verdicts[policies[by].verdict].targets[*at].0.clone();
        let named = |at: &usize| Target(&target(at)).to_string();
        let mut warnings = Vec::new();
        if !uncovered.is_empty() {
            let targets = uncovered.iter().map(named).collect::<Vec<_>>().join(", ");
            let seen = self.auth.seen(believer);
            warnings.push(Warning::NoAuthentication { targets, seen, before: K::PLUGIN, nobody: K::NOBODY });
        }
        if let Some((at, Stopped { names, plugins })) = unknown.first_key_value() {
            let (consumers, plugins) = (listed(names), plugins.clone());
            warnings.push(Warning::ConsumerUnknown { consumers, target: named(at), plugins, before: K::PLUGIN });
        }
        if let Some((at, Stopped { names, plugins })) = not_allowed.first_key_value() {
            let (consumers, plugins) = (listed(names), plugins.clone());
            warnings.push(Warning::ConsumerNotAllowed { consumers, target: named(at), plugins, before: K::PLUGIN });
        }
        if let Some((at, plugin)) = foreign.iter().find(|(at, _)| !waiting.contains(&(by, **at))) {
            warnings.push(Warning::ForeignRule { target: named(at), plugin: (*plugin).to_owned(), known: K::PLUGIN });
        }
        if K::KIND == ObjectKind::AiQuota
            && let Some(Err(_)) = manual::annotated(verdicts[policies[by].verdict].object.metadata())
        {
            warnings.push(Warning::RefreshUnreadable);
        }
        if self.world.settings.guard == Guard::Off && K::believes(&policies[by].settings) {
            warnings.push(Warning::IdentityUnguarded);
        }
        let waits = foreign.iter().filter(|(at, _)| waiting.contains(&(by, **at)));
        let reason = |at: &usize, plugin: &&str| Reason::ForeignRule {
            target: target(at),
            plugin: (*plugin).to_owned(),
            known: K::PLUGIN,
        };
        (warnings, waits.map(|(at, plugin)| (*at, reason(at, plugin))).collect())
    }
}

/// The consumers of an object that no plugin knows, and those that none lets through.
fn stopped<'v, K: Kind>(
    covering: &Covering<'_, '_>,
    policy: &'v Policy<K>,
    verdict: &'v Verdict,
) -> (Vec<&'v str>, Vec<&'v str>) {
    let (mut unknown, mut not_allowed) = (Vec::new(), Vec::new());
    for name in K::consumers(&policy.settings, &verdict.object) {
        match covering.passes(name) {
            Passes::Yes => {}
            Passes::Unknown => unknown.push(name),
            Passes::NotAllowed => not_allowed.push(name),
        }
    }
    (unknown, not_allowed)
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
