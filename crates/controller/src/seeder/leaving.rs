//! Recorded balances and the plan in, calls that park, release or delete them out, and what Redis said into the
//! index. Unchanged objects cost nothing but a look at each. I/O: Redis.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use enforcement::redis::{Balance, Delete, Fence, Invocation, LeaveOutcome, Ledgers, ReplyError, Scanned};
use plan::{Deletion, Departure, Fate, Key, Leftovers, Plan, Seeded};
use tokio::time::{Instant, timeout};

use super::calls::layout;
use super::database::Database;
use super::index::{Entry, Index, Left, Settled};
use crate::connection::{Connection, Failure, LONGEST_WAIT, with_reply};

const BATCH: usize = 256;
/// How often a balance is tried again that could not be parked, released or deleted.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// What keeps a balance that a newer controller settles.
pub(super) const OVERTAKEN: &str = "a newer controller was there first";

/// What one round came to.
#[derive(Default)]
pub(super) struct Round {
    /// Whether there was time for all.
    pub(super) complete: bool,
    /// The highest term somebody else wrote with.
    pub(super) newer: Option<i64>,
}

/// The search for balances that no index lists, of objects that are deleted with them.
#[derive(Default)]
pub(super) struct Sweeps(HashMap<String, Sweep>);

enum Sweep {
    From(u64),
    Done,
    /// Redis does not allow it: when to ask again, and from where.
    Refused {
        error: String,
        again: Instant,
        from: u64,
    },
}

/// One balance of an owner and what becomes of it.
struct Step {
    owner: usize,
    balance: Balance,
    fate: Fate,
    call: Option<Invocation>,
}

/// Makes so what is recorded and not wanted in the database of a store, of the owners that are this store's. `seeded`:
/// what became of the plan's seeds. Begins no call after `deadline`.
pub(super) async fn settle(
    index: &mut Index,
    connection: &Connection,
    (plan, leftovers): (&Plan, &Leftovers<'_>),
    (store, is_its): (usize, impl Fn(&str, &Entry) -> bool),
    seeded: &[Seeded],
    deadline: Instant,
) -> Result<Round, Failure> {
    let now = Instant::now();
    let mut owners: Vec<Unsettled> = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    for (owner, entry) in &mut index.owners {
        let Some(recorded) = leftovers.of(store, owner).filter(|_| is_its(owner, entry)) else { continue };
        let stamp = recorded.stamp();
        let due = |settled: &Settled| settled.problem.as_ref().is_none_or(|(_, again)| now < *again);
        if entry.settled.as_ref().is_some_and(|settled| settled.stamp == stamp && due(settled)) {
            continue;
        }
        entry.settled = None;
        if recorded.is_as_wanted(&entry.balances) {
            entry.parked.clear();
            entry.settled = Some(Settled { stamp, problem: None });
            continue;
        }
        let number = owners.len();
        owners.push(Unsettled { name: owner.clone(), stamp, ..Unsettled::default() });
        for balance in &entry.balances {
            let fate = recorded.fate(balance);
            let parks = fate == Fate::Park;
            if !parks {
                entry.parked.remove(balance);
            }
            let call = recorded.invocation(balance, fate).filter(|_| !(parks && entry.parked.contains(balance)));
            if call.is_some() || matches!(fate, Fate::Taken { .. } | Fate::Unclear { .. }) {
                steps.push(Step { owner: number, balance: balance.clone(), fate, call });
            }
        }
    }
    let mut round = Round { complete: true, newer: None };
    // Whoever wrote last may have ended between dropping, or recording, an owner's balances and the owner.
    let empty = index.owners.iter().filter(|(_, entry)| entry.balances.is_empty());
    let empty: Vec<(String, Vec<Balance>)> = empty.map(|(owner, _)| (owner.clone(), Vec::new())).collect();
    let mut gone: HashMap<usize, Vec<Balance>> = HashMap::new();
    let (calls, taken): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| step.call.is_some());
    for Step { owner, balance, fate, call: _ } in taken {
        match fate {
            Fate::Taken { seed } if seeded[seed] == Seeded::Applied => gone.entry(owner).or_default().push(balance),
            Fate::Unclear { store } => owners[owner].unclear = Some(store),
            _ => owners[owner].taken = true,
        }
    }
    let mut failure = None;
    for batch in calls.chunks(BATCH) {
        if Instant::now() >= deadline || failure.is_some() {
            round.complete &= failure.is_some();
            batch.iter().for_each(|step| owners[step.owner].waits = true);
            continue;
        }
        let scripts: Vec<Invocation> = batch.iter().filter_map(|step| step.call.clone()).collect();
        let replies = match call(connection, &scripts).await {
            Ok(replies) => replies,
            Err(error) => {
                failure = Some(error);
                batch.iter().for_each(|step| owners[step.owner].waits = true);
                continue;
            }
        };
        for (step, reply) in batch.iter().zip(replies) {
            let unsettled = &mut owners[step.owner];
            match reply {
                Ok(LeaveOutcome::Done { .. }) if step.fate == Fate::Park => unsettled.parked.push(step.balance.clone()),
                Ok(LeaveOutcome::Done { .. } | LeaveOutcome::Absent | LeaveOutcome::Foreign { .. }) => {
                    gone.entry(step.owner).or_default().push(step.balance.clone());
                }
                Ok(LeaveOutcome::Stale { term }) => {
                    round.newer = round.newer.max(Some(term));
                    unsettled.problem = Some(OVERTAKEN.to_owned());
                }
                Ok(LeaveOutcome::Malformed { .. }) => {
                    unsettled.problem = Some(format!("{} is not a balance", step.balance));
                }
                Err(error) if is_of_the_store(&error) => {
                    unsettled.waits = true;
                    failure = Some(error.into());
                }
                Err(ReplyError::Layout(version)) => {
                    unsettled.problem = Some(format!("the ledger of {} has {}", step.balance, layout(&version)));
                }
                Err(error) => unsettled.problem = Some(format!("{}: {error}", step.balance)),
            }
        }
    }
    let gone = gone.into_iter().map(|(owner, balances)| (owners[owner].name.clone(), balances));
    let gone: Vec<(String, Vec<Balance>)> = gone.chain(empty).collect();
    for Unsettled { name, parked, .. } in &mut owners {
        if let Some(entry) = index.owners.get_mut(name) {
            entry.parked.extend(std::mem::take(parked));
        }
    }
    // Nobody is settled before what is gone is dropped: the next round tries again what fails here.
    index.forget(connection, plan.cluster(), &gone).await?;
    for Unsettled { name, stamp, problem, waits, taken, unclear, .. } in owners {
        let Some(entry) = index.owners.get_mut(&name) else { continue };
        entry.left = match unclear {
            _ if waits || problem.is_some() => Left::Something,
            Some(store) => Left::Unclear { store: Key::of(&plan.stores[store].object.metadata).name },
            None if taken => Left::Nothing,
            None => Left::Something,
        };
        entry.refusals += usize::from(problem.is_some());
        let problem = problem.map(|problem| (problem, now + TRY_AGAIN));
        entry.settled = (!waits && !taken && unclear.is_none()).then_some(Settled { stamp, problem });
    }
    failure.map_or(Ok(round), Err)
}

#[derive(Default)]
struct Unsettled {
    name: String,
    stamp: u64,
    parked: Vec<Balance>,
    problem: Option<String>,
    /// Whether something is left for another round.
    waits: bool,
    /// Whether others are still to take something over.
    taken: bool,
    /// A store that has to answer before it is known what becomes of something.
    unclear: Option<usize>,
}

impl Sweeps {
    /// Forgets objects that do not leave any more.
    pub(super) fn begin(&mut self, departures: &[Departure]) {
        let leaving: HashSet<&str> = departures.iter().map(|departure| departure.owner.name.as_str()).collect();
        self.0.retain(|owner, _| leaving.contains(owner.as_str()));
    }

    /// Deletes what requests made from the defaults of leaving objects that name this store. Whether there was time for
    /// all.
    pub(super) async fn run(
        &mut self,
        connection: &Connection,
        store: usize,
        (leftovers, departures): (&Leftovers<'_>, &[Departure]),
        index: &Index,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        for departure in departures {
            let Some((_, key_prefix)) = departure.lazy.as_ref().filter(|(at, _)| *at == store) else { continue };
            let plan::Owner { name: owner, uid, generation, term, refresh: _ } = &*departure.owner;
            let fence = Fence { term: *term, uid, generation: *generation };
            let sweep = self.0.entry(owner.clone()).or_insert(Sweep::From(0));
            if let Sweep::Refused { again, from, .. } = sweep
                && *again <= Instant::now()
            {
                *sweep = Sweep::From(*from);
            }
            while let Sweep::From(cursor) = *sweep {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                let scan = connection.send(std::iter::once(Ledgers { key_prefix }.scan(cursor)));
                let replies = timeout(LONGEST_WAIT, scan).await.unwrap_or_else(|_| Err(Failure::late()))?;
                let scanned = match replies.first().map(|reply| with_reply(reply, Scanned::of)) {
                    Some(Ok(scanned)) => scanned,
                    Some(Err(error)) if is_of_the_store(&error) => return Err(error.into()),
                    Some(Err(error)) => {
                        let again = Instant::now() + TRY_AGAIN;
                        *sweep = Sweep::Refused { error: error.to_string(), again, from: cursor };
                        continue;
                    }
                    None => return Err(Failure::late()),
                };
                // What another object lists stays with that.
                let own = scanned.balances.iter().filter(|balance| {
                    !leftovers.lists(store, balance) && !leftovers.is_inherited(departure, store, balance)
                });
                let mut left: Vec<(&Balance, String)> = own.map(|balance| (balance, owner.clone())).collect();
                let mut refused = None;
                while !left.is_empty() {
                    let deletes = left.iter().map(|(balance, of)| {
                        let fence = if of == owner { fence } else { Fence { uid: "", generation: 0, ..fence } };
                        Delete { balance, owner: of, fence }.invocation()
                    });
                    let replies = call_all(connection, &deletes.collect::<Vec<_>>()).await?;
                    let mut of_the_dead = Vec::new();
                    for ((balance, of), reply) in left.into_iter().zip(replies) {
                        match reply {
                            // What requests made from the default of an object that is gone went on under this one's.
                            Ok(LeaveOutcome::Foreign { owner: dead })
                                if of == *owner && leftovers.is_dead(&dead) && !index.has(&dead, balance) =>
                            {
                                of_the_dead.push((balance, dead));
                            }
                            // What is another's, or another version's, is not ours to delete.
                            Ok(_) | Err(ReplyError::Layout(_)) => {}
                            Err(error) if is_of_the_store(&error) => return Err(error.into()),
                            Err(error) => refused = Some(error.to_string()),
                        }
                    }
                    left = of_the_dead;
                }
                *sweep = match (refused, scanned.next) {
                    (Some(error), _) => Sweep::Refused { error, again: Instant::now() + TRY_AGAIN, from: cursor },
                    (None, next) => next.map_or(Sweep::Done, Sweep::From),
                };
            }
        }
        Ok(true)
    }

    fn is_done(&self, owner: &str) -> bool {
        matches!(self.0.get(owner), Some(Sweep::Done))
    }

    fn refusal(&self, owner: &str) -> Option<&str> {
        match self.0.get(owner) {
            Some(Sweep::Refused { error, .. }) => Some(error),
            _ => None,
        }
    }
}

/// How far the departure of an object is in one store, which answers or does not. `database`: what is known of it.
pub(super) fn deletion(
    database: Option<&Database>,
    (store, name): (usize, &str),
    departure: &Departure,
    answers: Result<(), String>,
) -> Deletion {
    let owner = &departure.owner.name;
    let stuck = |store: &str, error: String| Deletion::Stuck { store: store.to_owned(), error };
    let entry = database.and_then(|database| database.index.owners.get(owner));
    let left = entry.map_or(&Left::Nothing, |entry| &entry.left);
    let sweeps_here = departure.lazy.as_ref().is_some_and(|(at, _)| *at == store);
    let swept = !sweeps_here || database.is_some_and(|database| database.sweeps.is_done(owner));
    if database.is_some_and(|database| database.index.is_known()) && *left == Left::Nothing && swept {
        return Deletion::Done;
    }
    if let Err(error) = answers {
        return stuck(name, error);
    }
    if let Left::Unclear { store } = left {
        return stuck(store, "it has not said yet whether it is the same Redis database as another store".to_owned());
    }
    let problem = entry.and_then(|entry| entry.settled.as_ref()?.problem.as_ref()).map(|(problem, _)| problem.as_str());
    let refusal = || database.and_then(|database| database.sweeps.refusal(owner));
    problem.or_else(refusal).map_or(Deletion::Working, |problem| stuck(name, problem.to_owned()))
}

async fn call_all(
    connection: &Connection,
    scripts: &[Invocation],
) -> Result<Vec<Result<LeaveOutcome, ReplyError>>, Failure> {
    let mut all = Vec::with_capacity(scripts.len());
    for batch in scripts.chunks(BATCH) {
        all.extend(call(connection, batch).await?);
    }
    Ok(all)
}

async fn call(
    connection: &Connection,
    scripts: &[Invocation],
) -> Result<Vec<Result<LeaveOutcome, ReplyError>>, Failure> {
    let replies = timeout(LONGEST_WAIT, connection.call(scripts)).await.unwrap_or_else(|_| Err(Failure::late()))?;
    Ok(replies.iter().map(|reply| with_reply(reply, LeaveOutcome::of)).collect())
}

/// Whether no other call would fare better.
pub(super) fn is_of_the_store(error: &ReplyError) -> bool {
    match error {
        ReplyError::NoAuth(_)
        | ReplyError::Cluster(_)
        | ReplyError::ReadOnly(_)
        | ReplyError::NotReady(_)
        | ReplyError::OutOfMemory(_) => true,
        ReplyError::NoScript
        | ReplyError::Refused(_)
        | ReplyError::Malformed(_)
        | ReplyError::Unexpected
        | ReplyError::Layout(_) => false,
    }
}
