//! Balances as they should be in, script calls to Redis, and what became of each balance and store out. Remembers
//! what it applied, so that unchanged objects cost Redis nothing. I/O: Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use enforcement::redis::{Balance, Grant};
use plan::{Access, Deletions, Key, Owner, Plan, Seed, Seeded};
use tokio::time::{Instant, timeout};

use crate::calls::{Calls, call_all};
use crate::connection::{Connection, Failure, LONGEST_WAIT, address};

/// How often a store that nothing is asked of is asked whether it still answers.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How often a balance is tried again that could not be made as declared, though its store answers.
const TRY_AGAIN: Duration = Duration::from_secs(30);
const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

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
        terms.filter(|newer| *newer > term).max()
    }
}

/// The controller's side of all stores.
#[derive(Default)]
pub(crate) struct Seeder {
    stores: HashMap<Key, Store>,
}

impl Seeder {
    /// Makes the balances of the plan so, as far as their stores answer.
    pub(crate) async fn run(&mut self, plan: &Plan) -> Seeding {
        let mut seeds_of: Vec<Vec<usize>> = vec![Vec::new(); plan.stores.len()];
        for (index, seed) in plan.seeds.iter().enumerate() {
            seeds_of[seed.store].push(index);
        }
        let mut before = std::mem::take(&mut self.stores);
        let rounds = plan.stores.iter().zip(seeds_of).map(|(store, seeds)| {
            let name = Key::of(&store.object.metadata);
            // A store that is reached in another way is another store: nothing is known about what it holds.
            let known = before.remove(&name).filter(|known| Ok(&known.access) == store.access.as_ref());
            let access = store.access.as_ref().ok().cloned();
            async move {
                let mut store = known.or_else(|| access.map(Store::new))?;
                let seeded = store.run(plan, &seeds).await;
                Some((name, store, seeds, seeded))
            }
        });
        // Stores do not wait for each other: one that is slow to fail costs its own timeout, once.
        let rounds = futures::future::join_all(rounds).await;
        let mut outcome = Seeding {
            stores: Vec::with_capacity(rounds.len()),
            evicts: Vec::with_capacity(rounds.len()),
            seeds: vec![Seeded::Pending; plan.seeds.len()],
            deletions: Deletions::new(),
            again: None,
        };
        for round in rounds {
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
            outcome.again = outcome.again.into_iter().chain([store.again()]).min();
            self.stores.insert(name, store);
        }
        outcome
    }
}

/// One store, for as long as it is reached in the same way.
struct Store {
    access: Access,
    link: Link,
    /// Failures since the store last did what it was asked.
    failures: u32,
    run_id: Option<String>,
    /// Its maxmemory-policy as last seen, where that lets keys go.
    evicts: Option<String>,
    applied: HashMap<Balance, Applied>,
    /// Whether the last round left seeds for the next one.
    unfinished: bool,
}

enum Link {
    Up { connection: Connection, checked: Instant },
    Down { error: Option<Failure>, retry: Instant },
}

/// What is known of a balance.
struct Applied {
    owner: Arc<Owner>,
    grant: Grant,
    takeover: bool,
    seeded: Seeded,
    at: Instant,
}

impl Store {
    fn new(access: Access) -> Self {
        let link = Link::Down { error: None, retry: Instant::now() };
        Self { access, link, failures: 0, run_id: None, evicts: None, applied: HashMap::new(), unfinished: false }
    }

    /// What became of each of the plan's `seeds`, in the same order.
    async fn run(&mut self, plan: &Plan, seeds: &[usize]) -> Vec<Seeded> {
        let deadline = Instant::now() + LONGEST_WAIT;
        self.reach().await;
        self.unfinished = false;
        let open: Vec<usize> = seeds.iter().copied().filter(|&index| !self.knows(plan, &plan.seeds[index])).collect();
        if !open.is_empty() {
            self.apply(plan, &open, deadline).await;
        }
        // What was applied stays applied while the store is away; what no object wants any more is forgotten.
        let error = self.answers().err().map(|error| format!("{}: {error}", address(&self.access)));
        let mut known = HashMap::with_capacity(seeds.len());
        let seeded = seeds.iter().map(|&index| {
            let seed = &plan.seeds[index];
            match self.applied.remove(&seed.balance).filter(|applied| applied.is_about(seed)) {
                Some(applied) => {
                    let seeded = applied.seeded.clone();
                    known.insert(seed.balance.clone(), applied);
                    seeded
                }
                None => error.clone().map_or(Seeded::Pending, |error| Seeded::Unreachable { error }),
            }
        });
        let seeded = seeded.collect();
        self.applied = known;
        seeded
    }

    /// Connects where that is due, and asks a silent store whether it is still there.
    async fn reach(&mut self) {
        if timeout(LONGEST_WAIT, self.try_to_reach()).await.is_err() {
            self.lost(Failure::late());
        }
    }

    async fn try_to_reach(&mut self) {
        let now = Instant::now();
        match &mut self.link {
            Link::Up { connection, checked } if now.duration_since(*checked) >= CHECK_EVERY => {
                match connection.ping().await {
                    Ok(()) => {
                        connection.look_at_memory().await;
                        self.evicts = connection.evicts().map(str::to_owned);
                        *checked = now;
                        self.failures = 0;
                    }
                    // A connection that died while it was idle says nothing about the store.
                    Err(_) => self.connect().await,
                }
            }
            Link::Down { retry, .. } if *retry <= now => self.connect().await,
            Link::Up { .. } | Link::Down { .. } => {}
        }
    }

    async fn connect(&mut self) {
        match Connection::open(&self.access).await {
            Ok(connection) => {
                let run_id = connection.run_id().map(str::to_owned);
                // Where the run is not told, every connection may be to a Redis that lost what was written.
                if !self.applied.is_empty() && (run_id.is_none() || self.run_id != run_id) {
                    tracing::info!(
                        address = address(&self.access),
                        "Redis was or may have been restarted: balances are looked at again"
                    );
                    self.applied.clear();
                }
                self.run_id = run_id;
                self.evicts = connection.evicts().map(str::to_owned);
                tracing::debug!(address = address(&self.access), "connected to Redis");
                self.link = Link::Up { connection, checked: Instant::now() };
            }
            Err(error) => self.lost(error),
        }
    }

    fn lost(&mut self, error: Failure) {
        let wait = LONGEST_BACKOFF.min(SHORTEST_BACKOFF * 2u32.saturating_pow(self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(address = address(&self.access), %error, "Redis does not answer, next attempt in {wait:?}");
        self.link = Link::Down { error: Some(error), retry: Instant::now() + wait };
    }

    /// Whether asking for this seed can be left out.
    fn knows(&self, plan: &Plan, seed: &Seed) -> bool {
        let Some(applied) = self.applied.get(&seed.balance).filter(|applied| applied.is_about(seed)) else {
            return false;
        };
        match &applied.seeded {
            Seeded::Applied => true,
            Seeded::Conflict { owner } if !applied.takeover && plan.may_take_over(owner) => false,
            _ => applied.at.elapsed() < TRY_AGAIN,
        }
    }

    /// Begins no call after `deadline`: what is left then is for the next round.
    async fn apply(&mut self, plan: &Plan, open: &[usize], deadline: Instant) {
        let now = Instant::now();
        let Link::Up { connection, checked } = &mut self.link else { return };
        let takeover = |seed: &Seed| match self.applied.get(&seed.balance).map(|applied| &applied.seeded) {
            Some(Seeded::Conflict { owner }) => plan.may_take_over(owner),
            _ => false,
        };
        let calls = open.iter().map(|&index| (index, takeover(&plan.seeds[index])));
        let Calls { mut done, mut failure, mut complete } =
            call_all(connection, &self.access, plan, calls, deadline).await;
        if failure.is_none() {
            // Owners that turn out to be gone: the planner knows who lives.
            let dead: Vec<usize> = done
                .iter()
                .filter(|(_, takeover, seeded)| match seeded {
                    Seeded::Conflict { owner } => !takeover && plan.may_take_over(owner),
                    _ => false,
                })
                .map(|(index, ..)| *index)
                .collect();
            let dead = dead.into_iter().map(|index| (index, true));
            let taken = call_all(connection, &self.access, plan, dead, deadline).await;
            done.extend(taken.done);
            failure = taken.failure;
            complete &= taken.complete;
        }
        *checked = now;
        self.unfinished = !complete;
        for (index, takeover, seeded) in done {
            let seed = &plan.seeds[index];
            let known = Applied { owner: seed.object.clone(), grant: seed.grant, takeover, seeded, at: now };
            self.applied.insert(seed.balance.clone(), known);
        }
        match failure {
            Some(error) => self.lost(error),
            None => self.failures = 0,
        }
    }

    fn answers(&self) -> Result<(), String> {
        match &self.link {
            Link::Up { .. } => Ok(()),
            Link::Down { error, .. } => {
                Err(error.as_ref().map_or_else(|| "not asked yet".to_owned(), ToString::to_string))
            }
        }
    }

    fn again(&self) -> Instant {
        let check = match &self.link {
            Link::Up { .. } if self.unfinished => return Instant::now(),
            Link::Up { checked, .. } => *checked + CHECK_EVERY,
            // Nothing can be tried before that, however long it is due.
            Link::Down { retry, .. } => return *retry,
        };
        let unfinished = self.applied.values().filter(|applied| applied.seeded != Seeded::Applied);
        unfinished.map(|applied| applied.at + TRY_AGAIN).chain([check]).min().unwrap_or(check)
    }
}

impl Applied {
    /// Whether it says what would come of this seed.
    fn is_about(&self, seed: &Seed) -> bool {
        self.grant == seed.grant && self.owner == seed.object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(port: u16, timeout: Duration) -> Access {
        Access { host: "127.0.0.1".to_owned(), port, database: 0, username: None, password: None, timeout }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_holds_up_all_others_for_a_bounded_time_whatever_its_own_timeout() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut store = Store::new(access(silent.local_addr().unwrap().port(), Duration::from_secs(60)));
        let before = Instant::now();
        store.reach().await;
        assert_eq!(store.answers(), Err("no answer in time".to_owned()));
        assert!(before.elapsed() <= LONGEST_WAIT, "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_balance_that_could_not_be_made_is_not_tried_again_before_its_store_is_back() {
        let mut store = Store::new(access(1, Duration::from_secs(1)));
        let owner =
            Owner { name: "c/team/chat".to_owned(), uid: "u".to_owned(), generation: 1, term: 1, refresh: None };
        let malformed = Applied {
            owner: Arc::new(owner),
            grant: Grant::Tokens(1),
            takeover: false,
            seeded: Seeded::Malformed { found: "text".to_owned() },
            at: Instant::now(),
        };
        store.applied.insert(Balance::new("q:", b"user1"), malformed);
        tokio::time::advance(TRY_AGAIN * 2).await;
        let retry = Instant::now() + LONGEST_BACKOFF;
        store.link = Link::Down { error: None, retry };
        assert_eq!(store.again(), retry);
    }
}
