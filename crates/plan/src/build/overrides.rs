//! The limits of single values that are to be in Redis: policies and what their Secrets and ConfigMaps say in, one set
//! for each rule that has them out, and which sets anybody wants, or looks up still. What cannot be read leaves what is
//! there. Pure.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use enforcement::redis::overrides::Overrides;

use super::Draft;
use crate::{
    Key, Object, OverrideSet, Reason, Warning, World,
    existing::Existing,
    gateway::Matcher,
    kind::Limit,
    merge::Slot,
    overrides::{digest, read},
    plan::Wanted,
    stores::Stores,
};

impl Draft<Limit> {
    /// Each set belongs to one object: the oldest of those that decide on anything, else the oldest that has it. One
    /// with the same Secrets and ConfigMaps shares it.
    pub(super) fn overrides(
        &mut self,
        world: &World,
        stores: &Stores,
        (slots, existing): (&[Slot<Matcher>], &Existing<Limit>),
    ) -> (Vec<OverrideSet>, Wanted) {
        let (mut sets, mut wanted) = (Vec::new(), HashSet::new());
        // Until the WasmPlugin is written, the gateway looks up what it has now.
        for found in existing.policies.values() {
            let store = found.store.as_deref().and_then(|store| stores.find(store).ok());
            let rules = found.rules.iter().filter(|rule| rule.overridden);
            wanted.extend(rules.map(|rule| (store, Overrides::new(&found.rule_name, &rule.by))));
        }
        let mut owners: HashMap<(usize, Overrides), usize> = HashMap::new();
        let objects: Vec<Object> =
            self.policies.iter().map(|policy| self.verdicts[policy.verdict].object.clone()).collect();
        let deciding: HashSet<usize> = slots.iter().flat_map(|slot| &slot.holders).map(|holder| holder.by).collect();
        let (first, others): (Vec<usize>, Vec<usize>) = (0..self.policies.len()).partition(|by| deciding.contains(by));
        for by in first.into_iter().chain(others) {
            let policy = &self.policies[by];
            let rules = || policy.settings.rules.iter().enumerate().filter(|(_, rule)| rule.overridden);
            let store = policy.settings.store.as_deref().and_then(|store| stores.find(store).ok());
            let key = |by| Overrides::new(&policy.settings.rule_name, by);
            wanted.extend(rules().map(|(_, rule)| (store, key(&rule.by))));
            let Some(store) = store else { continue };
            let verdict = &mut self.verdicts[policy.verdict];
            let (owner, begin) = (verdict.owner.clone(), sets.len());
            for (at, rule) in rules() {
                let key = key(&rule.by);
                let winner = match owners.entry((stores.databases.number(store), key.clone())) {
                    Entry::Vacant(entry) => *entry.insert(by),
                    Entry::Occupied(entry) => *entry.get(),
                };
                let Some(declared) = objects[by].rules().get(at).filter(|_| !policy.kept) else { continue };
                if winner != by {
                    let same =
                        |other: &api::Rule| other.by == declared.by && other.overrides_from == declared.overrides_from;
                    // Both are in the gateway's namespace.
                    if self.policies[winner].kept || !objects[winner].rules().iter().any(same) {
                        let winner = Key::of(objects[winner].metadata());
                        verdict.refused.push(Reason::OverridesConflicted { rule: at, winner });
                    }
                    continue;
                }
                match read(world, at, declared, &policy.settings.rule_name) {
                    Ok(entries) => {
                        let digest = digest(&entries);
                        sets.push(OverrideSet { store, key, object: Arc::clone(&owner), digest, entries });
                    }
                    Err(problem) => verdict.warnings.push(Warning::OverridesInvalid(problem)),
                }
            }
            verdict.overrides = begin..sets.len();
        }
        (sets, Wanted(wanted))
    }
}
