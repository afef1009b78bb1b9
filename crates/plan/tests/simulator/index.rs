//! What Redis has recorded, as the controller keeps it: each applied seed in, and after every run what the plan
//! wants of the rest done.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::FINALIZER;
use enforcement::redis::Balance;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plan::{Deletion, Deletions, Fate, Finalizer, Leftovers, Object, Plan, Seeded, StorePlan, Verdict, World};

/// By store and owner, the balances and whether each is listed or parked.
#[derive(Default)]
pub(super) struct Index(BTreeMap<(String, String), BTreeMap<Balance, &'static str>>);

impl Index {
    /// Each as in `default team/chat q:user1 parked`.
    pub(super) fn shown(&self) -> Vec<String> {
        let all = self.0.iter().flat_map(|(place, balances)| balances.iter().map(move |found| (place, found)));
        all.map(|((store, owner), (balance, state))| {
            let owner = owner.strip_prefix("cluster-uid/").expect("owners begin with the cluster");
            format!("{store} {owner} {balance} {state}")
        })
        .collect()
    }

    pub(super) fn record(&mut self, plan: &Plan, seeded: &[Seeded]) {
        for (seed, _) in plan.seeds.iter().zip(seeded).filter(|(_, seeded)| **seeded == Seeded::Applied) {
            let place = (store(plan, seed.store), seed.object.name.clone());
            self.0.entry(place).or_default().insert(seed.balance.clone(), "listed");
        }
    }

    /// Does what becomes of every recorded balance in the stores that are up, and says how far departures are.
    pub(super) fn settle(&mut self, plan: &Plan, seeded: &[Seeded], up: impl Fn(&StorePlan) -> bool) -> Deletions {
        let leftovers = Leftovers::new(plan);
        for (index, _) in plan.stores.iter().enumerate().filter(|(_, store)| up(store)) {
            for ((_, owner), balances) in self.0.iter_mut().filter(|((name, _), _)| *name == store(plan, index)) {
                let recorded = leftovers.of(index, owner).expect("only this cluster's are recorded");
                let all: HashSet<Balance> = balances.keys().cloned().collect();
                let fates: Vec<Fate> = balances.keys().map(|balance| recorded.fate(balance)).collect();
                let as_wanted = !all.is_empty() && recorded.is_as_wanted(&all);
                assert!(!as_wanted || fates.iter().all(|fate| *fate == Fate::Stays), "{owner}: {fates:?}");
                for (balance, fate) in all.iter().map(|balance| (balance, recorded.fate(balance))) {
                    let asks = recorded.invocation(balance, fate).is_some();
                    assert_eq!(asks, matches!(fate, Fate::Park | Fate::Release | Fate::Delete), "{owner}: {fate:?}");
                    match fate {
                        Fate::Stays | Fate::Unclear { .. } => {}
                        Fate::Park => drop(balances.insert(balance.clone(), "parked")),
                        Fate::Taken { seed } if seeded[seed] != Seeded::Applied => {}
                        Fate::Taken { .. } | Fate::Release | Fate::Delete => drop(balances.remove(balance)),
                    }
                }
            }
        }
        self.0.retain(|_, balances| !balances.is_empty());
        let departures = plan.departures().map(|departure| {
            let stuck = |store: &str, error: String| Deletion::Stuck { store: store.to_owned(), error };
            let deletion = match departure.withheld {
                Some((store, reason)) => stuck(&store, reason.to_string()),
                // It may be there, for all that this one remembers.
                None if let Some((name, reason)) = plan.unusable_stores().next() => {
                    stuck(&name.name, reason.to_string())
                }
                None if plan.stores.iter().any(|store| store.access.is_ok() && !up(store)) => {
                    stuck("default", "connection refused".to_owned())
                }
                None => Deletion::Done,
            };
            (departure.verdict, deletion)
        });
        departures.collect()
    }
}

fn store(plan: &Plan, index: usize) -> String {
    plan.stores[index].object.metadata.name.clone().expect("a store with a name")
}

/// What the controller does before it makes balances: those that shall go with their object wait for its finalizer.
pub(super) fn finalize(world: &mut World, plan: &Plan) {
    for verdict in &plan.verdicts {
        let finalizers = metadata(world, verdict, |metadata| {
            let all = metadata.finalizers.get_or_insert_default();
            match verdict.finalizer {
                Finalizer::Right => {}
                Finalizer::Add => all.push(FINALIZER.to_owned()),
                Finalizer::Remove => all.retain(|finalizer| finalizer != FINALIZER),
            }
            (all.is_empty() && metadata.deletion_timestamp.is_some()).then_some(())
        });
        if finalizers.is_some() {
            super::remove(world, verdict);
        }
    }
}

/// The objects whose balances are deleted go, unless somebody else's finalizer keeps them.
pub(super) fn depart(world: &mut World, plan: &Plan, deletions: &Deletions) {
    for (index, _) in deletions.iter().filter(|(_, deletion)| **deletion == Deletion::Done) {
        let verdict = &plan.verdicts[*index];
        let left = metadata(world, verdict, |metadata| {
            let all = metadata.finalizers.get_or_insert_default();
            all.retain(|finalizer| finalizer != FINALIZER);
            all.len()
        });
        if left == 0 {
            super::remove(world, verdict);
        }
    }
}

fn metadata<T>(world: &mut World, verdict: &Verdict, change: impl FnOnce(&mut ObjectMeta) -> T) -> T {
    let key = &verdict.key;
    match &verdict.object {
        Object::Read(_) => {
            let found = world.quotas.iter_mut().find(|quota| plan::Key::of(&quota.metadata) == *key);
            change(&mut Arc::make_mut(found.expect("it is in the world")).metadata)
        }
        Object::Limit(_) => {
            let found = world.limits.iter_mut().find(|limit| plan::Key::of(&limit.metadata) == *key);
            change(&mut Arc::make_mut(found.expect("it is in the world")).metadata)
        }
        Object::Undecodable(_) => {
            let found = world.undecodable.iter_mut().find(|unread| plan::Key::of(&unread.metadata) == *key);
            change(&mut Arc::make_mut(found.expect("it is in the world")).metadata)
        }
    }
}
