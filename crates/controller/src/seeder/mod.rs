//! Balances as they should be in, script calls to the stores' Redis, and what became of each balance and store out:
//! the listed are made, those that nobody lists any more are parked, released or deleted. I/O: Redis.

mod calls;
mod database;
mod index;
mod leaving;
mod made;
mod overrides;
mod poll;
mod store;
mod warned;

#[cfg(test)]
pub(crate) use made::tests::plan as plan_of_two;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use plan::{
    Access, Deletion, Deletions, Departure, Figures, Key, Leftovers, Life, Notes, ObjectKind, Plan, Seeded, StorePlan,
    Verdict, Words,
};
use tokio::time::Instant;

use crate::connection::LONGEST_WAIT;
use crate::metrics::Metrics;
use database::{Database, Member};
use poll::Poll;
use store::Store;

/// What one round came to.
pub(crate) struct Seeding {
    /// As [`Plan::stores`]: whether each store answers; nothing for a store that cannot be used anyway.
    pub(crate) stores: Vec<Option<Result<(), String>>>,
    /// As [`Plan::stores`]: which have not answered for a while.
    pub(crate) away: Vec<bool>,
    /// As [`Plan::stores`]: the maxmemory-policy of those that may let keys go.
    pub(crate) evicts: Vec<Option<String>>,
    /// As [`Plan::stores`]: its name, what modules said there of themselves, and how long ago that was read.
    pub(crate) words: Vec<(String, Option<(Words, Duration)>)>,
    /// As [`Plan::seeds`].
    pub(crate) seeds: Vec<Seeded>,
    /// As [`Plan::seeds`]: what each was when it was last looked at.
    pub(crate) figures: Vec<Option<Figures>>,
    /// As [`Plan::overrides`].
    pub(crate) overrides: Vec<Seeded>,
    /// As [`Plan::verdicts`]: what the gateway had noted of their limits when that was last looked at.
    pub(crate) notes: Vec<Option<Notes>>,
    /// How far the balances are of objects that are deleted with them, and which of others could not be parked.
    pub(crate) deletions: Deletions,
    /// The highest term with which somebody else settled leftovers.
    newer: Option<i64>,
    /// When to come again without a change of the world.
    pub(crate) again: Option<Instant>,
}

impl Seeding {
    /// The highest term above `term` that somebody acted with.
    pub(crate) fn newer_term(&self, term: i64) -> Option<i64> {
        let terms = self.seeds.iter().chain(&self.overrides).filter_map(|seeded| match seeded {
            Seeded::Stale { term } => Some(*term),
            _ => None,
        });
        terms.chain(self.newer).filter(|newer| *newer > term).max()
    }
}

/// The controller's side of all stores.
pub(crate) struct Seeder {
    stores: HashMap<Key, Store>,
    /// By the text that tells a database from others.
    databases: HashMap<String, Database>,
    /// Of each database, the run of its Redis that was connected to last.
    runs: HashMap<String, String>,
    /// Whether all stores are to be asked which database they are: one was found to be another.
    asks_all: bool,
    poll: Poll,
    metrics: Arc<Metrics>,
    /// Of each object with limits that warn.
    notes: HashMap<Key, Notes>,
}

impl Seeder {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            stores: HashMap::new(),
            databases: HashMap::new(),
            runs: HashMap::new(),
            asks_all: false,
            poll: Poll::default(),
            metrics,
            notes: HashMap::new(),
        }
    }

    /// Which database is reached in which way, as far as that is known.
    pub(crate) fn databases(&self) -> HashMap<Access, plan::Database> {
        let mut found: Vec<_> =
            self.stores.values().filter_map(|store| Some((store.access.clone(), store.database()?))).collect();
        // Of several that are reached in one way, one that is there speaks for all.
        found.sort_by(|(_, a), (_, b)| (a.is_there, &a.id).cmp(&(b.is_there, &b.id)));
        found.into_iter().collect()
    }

    /// Makes the balances of the plan so, as far as their stores answer. `held`: by seed, whether it is to wait;
    /// nothing where none is. Nothing is done, or said, where a store leads to another database than the plan supposes.
    pub(crate) async fn run(&mut self, plan: &Plan, held: &[bool]) -> Option<Seeding> {
        let supposed = self.databases();
        self.reach(plan).await;
        self.asks_all = supposed != self.databases();
        if self.asks_all {
            return None;
        }
        let deadline = Instant::now() + LONGEST_WAIT;
        let leftovers = &Leftovers::new(plan);
        let departures: &[Departure] = &plan.departures().collect::<Vec<_>>();
        let mut groups = self.groups(plan);

        let made = groups.iter_mut().map(|(database, members)| database.make(members, plan, held, deadline));
        futures::future::join_all(made).await;
        let mut seeds = vec![Seeded::Pending; plan.seeds.len()];
        let mut figures = vec![None; plan.seeds.len()];
        for Member { index, store } in groups.iter().flat_map(|(_, members)| members) {
            store.tell(plan, *index, (&mut seeds, &mut figures));
        }
        let settled = groups
            .iter_mut()
            .map(|(database, members)| database.settle(members, (plan, leftovers, departures), &seeds, deadline));
        futures::future::join_all(settled).await;
        let set = groups.iter_mut().map(|(database, members)| database.set_overrides(members, plan));
        futures::future::join_all(set).await;
        let mut overrides = vec![Seeded::Pending; plan.overrides.len()];
        for (database, members) in &groups {
            database.tell_overrides(members, plan, &mut overrides);
        }

        let (mut newer, mut again) = (None, None);
        for (database, members) in groups {
            newer = newer.max(database.newer_term());
            let is_up = members.iter().any(|member| member.store.connection().is_some());
            let stores = members.iter().map(|member| member.store.again());
            again = stores.chain(database.again().filter(|_| is_up)).chain(again).min();
            let found = members.iter().find_map(|member| member.store.database());
            self.databases.extend(found.map(|found| (found.id, database)));
            self.stores.extend(members.into_iter().map(|member| (name(plan, member.index), member.store)));
        }
        let watching = plan.verdicts.iter().filter(|verdict| verdict.watched.is_some());
        let watching: HashSet<&Key> = watching.map(|verdict| &verdict.key).collect();
        self.notes.retain(|key, _| watching.contains(key));
        Some(self.outcome(plan, departures, (seeds, figures, overrides), (newer, again)))
    }

    /// Connects to the stores of the plan where that is due, and asks them which database they are.
    async fn reach(&mut self, plan: &Plan) {
        let mut before = std::mem::take(&mut self.stores);
        let all = plan.stores.iter().enumerate().filter_map(|(index, StorePlan { access, .. })| {
            let name = name(plan, index);
            match access {
                // What is recorded there is remembered.
                Err(_) => {
                    let mut store = before.remove(&name)?;
                    store.rest();
                    Some((name, store))
                }
                // A store that is reached in another way is another store: nothing is known about what it holds.
                Ok(access) => {
                    let known = before.remove(&name).filter(|known| known.access == *access);
                    let new = || Store::new(access.clone(), self.metrics.store(&name.name));
                    let store = known.unwrap_or_else(new);
                    Some((name, store))
                }
            }
        });
        self.stores = all.collect();
        let usable: HashSet<Key> = (0..plan.stores.len())
            .filter(|index| plan.stores[*index].access.is_ok())
            .map(|index| name(plan, index))
            .collect();
        let asks_all = self.asks_all;
        let reached = self.stores.iter_mut().filter(|(name, _)| usable.contains(name)).map(|(_, store)| async move {
            let before = store.database();
            let lost = store.reach(plan.whose(), asks_all).await;
            (before, store.database(), store.run_id(), lost)
        });
        // Stores do not wait for each other: one that is slow to fail costs its own timeout, once.
        for (before, now, run, lost) in futures::future::join_all(reached).await {
            let is_first = before.is_none();
            if let Some(before) = before.filter(|_| lost) {
                self.databases.remove(&before.id);
            }
            let Some(plan::Database { id, is_there: true }) = now else { continue };
            // Another Redis may have been filled with what this one had once.
            if lost || (is_first && is_another_run(self.runs.get(&id), run)) {
                self.databases.remove(&id);
            }
            self.runs.extend(run.map(|run| (id, run.to_owned())));
        }
        let known: HashSet<String> = self.stores.values().filter_map(|store| Some(store.database()?.id)).collect();
        self.databases.retain(|id, _| known.contains(id));
        self.runs.retain(|id, _| known.contains(id));
    }

    /// Takes the usable stores of the plan out, by the database they lead to. One that never answered is alone.
    fn groups(&mut self, plan: &Plan) -> Vec<(Database, Vec<Member>)> {
        let mut groups: BTreeMap<Result<String, usize>, Vec<Member>> = BTreeMap::new();
        for index in (0..plan.stores.len()).filter(|index| plan.stores[*index].access.is_ok()) {
            let Some(store) = self.stores.remove(&name(plan, index)) else { continue };
            let id = store.database().map(|database| database.id).ok_or(index);
            groups.entry(id).or_default().push(Member { index, store });
        }
        let mut known =
            |id: Result<String, usize>| id.ok().and_then(|id| self.databases.remove(&id)).unwrap_or_default();
        groups.into_iter().map(|(id, members)| (known(id), members)).collect()
    }

    fn outcome(
        &self,
        plan: &Plan,
        departures: &[Departure],
        (seeds, figures, overrides): (Vec<Seeded>, Vec<Option<Figures>>, Vec<Seeded>),
        (newer, again): (Option<i64>, Option<Instant>),
    ) -> Seeding {
        let of = |index: usize| self.stores.get(&name(plan, index)).filter(|_| plan.stores[index].access.is_ok());
        let stores = 0..plan.stores.len();
        let mut deletions = begun(departures);
        for departure in departures {
            let usable = stores.clone().filter_map(|index| {
                let (store, name) = (of(index)?, name(plan, index).name);
                Some(leaving::deletion(self.known(store), (index, &name), departure, store.answers()))
            });
            let unusable = plan.unusable_stores().filter_map(|(name, reason)| {
                let known = self.stores.get(&name).and_then(|store| self.known(store));
                let stuck = Deletion::Stuck { store: name.name, error: reason.to_string() };
                (!known.is_some_and(|known| known.has_nothing_of(&departure.owner.name))).then_some(stuck)
            });
            for there in usable.chain(unusable) {
                deletions.entry(departure.verdict).and_modify(|all| *all = worse(all.clone(), there));
            }
        }
        deletions.extend(self.unsettled(plan));
        Seeding {
            stores: stores.clone().map(|index| of(index).map(Store::answers)).collect(),
            away: stores.clone().map(|index| of(index).is_some_and(Store::is_away)).collect(),
            evicts: stores.clone().map(|index| of(index).and_then(|store| store.evicts.clone())).collect(),
            words: stores.map(|index| (name(plan, index).name, of(index).and_then(Store::words))).collect(),
            seeds,
            figures,
            overrides,
            notes: plan.verdicts.iter().map(|verdict| self.notes_of(verdict)).collect(),
            deletions,
            newer,
            again,
        }
    }

    /// What living objects list no longer and could not be parked.
    fn unsettled(&self, plan: &Plan) -> Deletions {
        let mut problems: HashMap<&str, (&str, &str)> = HashMap::new();
        for (id, database) in &self.databases {
            let names = self.stores.iter().filter(|(_, store)| store.database().is_some_and(|found| found.id == *id));
            let Some(name) = names.map(|(name, _)| name.name.as_str()).min() else { continue };
            problems.extend(database.problems().map(|(owner, problem)| (owner, (name, problem))));
        }
        let lives = plan.verdicts.iter().enumerate().filter(|_| !problems.is_empty());
        let lives =
            lives.filter(|(_, verdict)| verdict.object.kind() == ObjectKind::AiQuota && verdict.life == Life::Stays);
        let stuck = lives.filter_map(|(index, verdict)| {
            let (store, problem) = problems.get(verdict.owner.name.as_str())?;
            Some((index, Deletion::Stuck { store: (*store).to_owned(), error: (*problem).to_owned() }))
        });
        stuck.collect()
    }

    fn notes_of(&self, verdict: &Verdict) -> Option<Notes> {
        verdict.watched.as_ref().and_then(|_| self.notes.get(&verdict.key).cloned())
    }

    fn known(&self, store: &Store) -> Option<&Database> {
        self.databases.get(&store.database()?.id)
    }
}

/// Whether what is known of a database may be of another Redis than the one that was reached, which tells its run or
/// does not.
fn is_another_run(known: Option<&String>, run: Option<&str>) -> bool {
    run.is_none() || known.map(String::as_str) != run
}

/// The name of a store of the plan.
fn name(plan: &Plan, store: usize) -> Key {
    Key::of(&plan.stores[store].object.metadata)
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
