//! Balances as they should be in, script calls to the stores' Redis, and what became of each balance and store out:
//! the listed are made, those that nobody lists any more are parked, released or deleted. I/O: Redis.

mod calls;
mod index;
mod leaving;
mod store;

use std::collections::HashMap;

use plan::{Deletion, Deletions, Departure, Key, Leftovers, Plan, Seeded};
use tokio::time::Instant;

use store::{Store, Work};

/// What one round came to.
pub(crate) struct Seeding {
    /// As [`Plan::stores`]: whether each store answers; nothing for a store that cannot be used anyway.
    pub(crate) stores: Vec<Option<Result<(), String>>>,
    /// As [`Plan::stores`]: the maxmemory-policy of those that may let keys go.
    pub(crate) evicts: Vec<Option<String>>,
    /// As [`Plan::seeds`].
    pub(crate) seeds: Vec<Seeded>,
    /// How far the balances are of objects that are deleted with them.
    pub(crate) deletions: Deletions,
    /// The highest term with which somebody else settled leftovers.
    newer: Option<i64>,
    /// When to come again without a change of the world.
    pub(crate) again: Option<Instant>,
}

impl Seeding {
    /// The highest term above `term` that somebody acted with.
    pub(crate) fn newer_term(&self, term: i64) -> Option<i64> {
        let terms = self.seeds.iter().filter_map(|seeded| match seeded {
            Seeded::Stale { term } => Some(*term),
            _ => None,
        });
        terms.chain(self.newer).filter(|newer| *newer > term).max()
    }
}

/// The controller's side of all stores.
#[derive(Default)]
pub(crate) struct Seeder {
    stores: HashMap<Key, Store>,
}

impl Seeder {
    /// Makes the balances of the plan so, as far as their stores answer. `held`: by seed, whether it is to wait;
    /// nothing where none is.
    pub(crate) async fn run(&mut self, plan: &Plan, held: &[bool]) -> Seeding {
        let leftovers = &Leftovers::new(plan);
        let departures: &[Departure] = &plan.departures().collect::<Vec<_>>();
        let mut seeds_of: Vec<Vec<usize>> = vec![Vec::new(); plan.stores.len()];
        for (index, seed) in plan.seeds.iter().enumerate() {
            seeds_of[seed.store].push(index);
        }
        let mut before = std::mem::take(&mut self.stores);
        let rounds = plan.stores.iter().zip(seeds_of).enumerate().map(|(index, (store, seeds))| {
            let name = Key::of(&store.object.metadata);
            // A store that is reached in another way is another store: nothing is known about what it holds.
            let known = before.remove(&name).filter(|known| Ok(&known.access) == store.access.as_ref());
            let access = store.access.as_ref().ok().cloned();
            async move {
                let mut store = known.or_else(|| access.map(Store::new))?;
                let work = Work { plan, leftovers, departures, store: index, seeds: &seeds, held };
                let seeded = store.run(&work).await;
                Some((name, store, seeds, seeded))
            }
        });
        // Stores do not wait for each other: one that is slow to fail costs its own timeout, once.
        let rounds = futures::future::join_all(rounds).await;
        let mut outcome = Seeding {
            stores: Vec::with_capacity(rounds.len()),
            evicts: Vec::with_capacity(rounds.len()),
            seeds: vec![Seeded::Pending; plan.seeds.len()],
            deletions: begun(departures),
            newer: None,
            again: None,
        };
        for (index, round) in rounds.into_iter().enumerate() {
            let Some((name, store, seeds, seeded)) = round else {
                outcome.stores.push(None);
                outcome.evicts.push(None);
                continue;
            };
            for (index, seeded) in seeds.into_iter().zip(seeded) {
                outcome.seeds[index] = seeded;
            }
            outcome.stores.push(Some(store.answers()));
            outcome.evicts.push(store.evicts.clone());
            for departure in departures {
                let there = store.deletion(index, &name.name, departure);
                outcome.deletions.entry(departure.verdict).and_modify(|all| *all = worse(all.clone(), there));
            }
            outcome.newer = outcome.newer.max(store.newer_term());
            outcome.again = outcome.again.into_iter().chain([store.again()]).min();
            self.stores.insert(name, store);
        }
        outcome
    }
}

/// What can be said of departures before any store is asked.
fn begun(departures: &[Departure]) -> Deletions {
    let begun = |departure: &Departure| match &departure.withheld {
        Some((store, reason)) => Deletion::Stuck { store: store.clone(), error: reason.to_string() },
        None => Deletion::Done,
    };
    departures.iter().map(|departure| (departure.verdict, begun(departure))).collect()
}

/// Of two stores, the one that an object still waits for; the first that needs a person.
fn worse(one: Deletion, other: Deletion) -> Deletion {
    match (one, other) {
        (stuck @ Deletion::Stuck { .. }, _) | (_, stuck @ Deletion::Stuck { .. }) => stuck,
        (Deletion::Done, Deletion::Done) => Deletion::Done,
        _ => Deletion::Working,
    }
}
