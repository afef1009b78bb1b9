//! What Redis has recorded of our balances, as far as this process knows: loaded once after connecting, extended
//! before a balance is made, shortened after one is gone. I/O: Redis.

use std::collections::{HashMap, HashSet};

use enforcement::redis::index::{Owned, Owners, balances, count, names};
use enforcement::redis::{Balance, Command, Reply, ReplyError};
use redis::Value;
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Failure, LONGEST_WAIT, with_reply};

/// Commands in one round trip, and names in one command.
const BATCH: usize = 256;
const NAMES: usize = 512;

/// The recorded balances of one store, by owner.
#[derive(Default)]
pub(super) struct Index {
    pub(super) owners: HashMap<String, Entry>,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// Owners whose balances are still to be read.
    Loading(Vec<String>),
    Known,
}

/// What is known of one owner.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) balances: HashSet<Balance>,
    /// What is left for the owner to do.
    pub(super) left: Left,
    /// Those of them that were parked by this process, and not restored since.
    pub(super) parked: HashSet<Balance>,
    pub(super) settled: Option<Settled>,
    /// How often something could not be made so, although Redis answered: another store of the database may be
    /// permitted what this one is not.
    pub(super) refusals: usize,
}

/// What keeps an owner that is to go.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Left {
    #[default]
    Something,
    /// It may be in this other store that a balance is listed: that must answer first.
    Unclear { store: String },
    /// All that is left will be taken over by others, who need nothing of it for that.
    Nothing,
}

/// That nothing is left to do, for as long as the plan says the same.
pub(super) struct Settled {
    pub(super) stamp: u64,
    /// Why some balances could not be made so, and when to try again.
    pub(super) problem: Option<(String, Instant)>,
}

impl Index {
    pub(super) fn is_known(&self) -> bool {
        matches!(self.state, State::Known)
    }

    /// Begins no call after `deadline`: then the rest is for the next round.
    pub(super) async fn load(
        &mut self,
        connection: &Connection,
        cluster: &str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if let State::Unknown = self.state {
            let replies = send(connection, vec![Owners { cluster }.list()]).await?;
            self.owners.clear();
            self.state = State::Loading(read(&replies, names)?.into_iter().flatten().collect());
        }
        while let State::Loading(left) = &mut self.state {
            if left.is_empty() {
                self.state = State::Known;
            } else if Instant::now() < deadline {
                let batch = left[left.len().saturating_sub(BATCH)..].to_vec();
                let commands = batch.iter().map(|owner| Owned { owner }.list()).collect();
                let all = read(&send(connection, commands).await?, balances)?;
                // Not before: an answer that never came is asked for again.
                left.truncate(left.len() - batch.len());
                for (owner, balances) in batch.into_iter().zip(all) {
                    let entry = Entry { balances: balances.into_iter().collect(), ..Entry::default() };
                    self.owners.insert(owner, entry);
                }
            } else {
                break;
            }
        }
        Ok(())
    }

    /// When what could not be done is to be tried again.
    pub(super) fn again(&self) -> Option<Instant> {
        let problems = self.owners.values().filter_map(|entry| entry.settled.as_ref()?.problem.as_ref());
        problems.map(|(_, again)| *again).min()
    }

    /// Something of this owner became another's.
    pub(super) fn look_again(&mut self, owner: &str) {
        if let Some(entry) = self.owners.get_mut(owner) {
            entry.settled = None;
        }
    }

    pub(super) fn has(&self, owner: &str, balance: &Balance) -> bool {
        self.owners.get(owner).is_some_and(|entry| entry.balances.contains(balance))
    }

    /// Records what is not, before it is made.
    pub(super) async fn record<'s>(
        &mut self,
        connection: &Connection,
        cluster: &str,
        wanted: impl Iterator<Item = (&'s str, &'s Balance)>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut missing: HashMap<&str, Vec<&Balance>> = HashMap::new();
        for (owner, balance) in wanted.filter(|(owner, balance)| !self.has(owner, balance)) {
            missing.entry(owner).or_default().push(balance);
        }
        let missing: Vec<(&str, Vec<&Balance>)> = missing.into_iter().collect();
        for batch in missing.chunks(BATCH) {
            if Instant::now() >= deadline {
                break;
            }
            let new = batch.iter().map(|(owner, _)| *owner).filter(|owner| !self.owners.contains_key(*owner));
            let new: Vec<&str> = new.collect();
            let owners = (!new.is_empty()).then(|| Owners { cluster }.record(new));
            let owned = batch.iter().flat_map(|(owner, balances)| {
                balances.chunks(NAMES).map(|some| Owned { owner }.record(some.iter().copied()))
            });
            let replies = send(connection, owners.into_iter().chain(owned).collect()).await?;
            read(&replies, count)?;
            for (owner, balances) in batch {
                let entry = self.owners.entry((*owner).to_owned()).or_default();
                entry.balances.extend(balances.iter().copied().cloned());
                (entry.left, entry.settled) = (Left::Something, None);
            }
        }
        Ok(())
    }

    /// Takes out what is gone, or another's.
    pub(super) async fn forget(
        &mut self,
        connection: &Connection,
        cluster: &str,
        gone: &[(String, Vec<Balance>)],
    ) -> Result<(), Failure> {
        for batch in gone.chunks(BATCH) {
            let owned = batch
                .iter()
                .flat_map(|(owner, balances)| balances.chunks(NAMES).map(|some| Owned { owner }.forget(some)));
            read(&send(connection, owned.collect()).await?, count)?;
            let mut empty = Vec::new();
            for (owner, balances) in batch {
                let Some(entry) = self.owners.get_mut(owner) else { continue };
                for balance in balances {
                    entry.balances.remove(balance);
                    entry.parked.remove(balance);
                }
                if entry.balances.is_empty() {
                    empty.push(owner.as_str());
                }
            }
            if !empty.is_empty() {
                let forget = Owners { cluster }.forget(empty.iter().copied());
                read(&send(connection, vec![forget]).await?, count)?;
                self.owners.retain(|_, entry| !entry.balances.is_empty());
            }
        }
        Ok(())
    }
}

async fn send(connection: &Connection, commands: Vec<Command>) -> Result<Vec<Value>, Failure> {
    timeout(LONGEST_WAIT, connection.send(commands.into_iter())).await.unwrap_or_else(|_| Err(Failure::late()))
}

/// What cannot be read or written here is of no use anywhere else in the store: nothing could be made safely.
fn read<T>(replies: &[Value], read: impl Fn(&Reply<'_>) -> Result<T, ReplyError>) -> Result<Vec<T>, Failure> {
    replies.iter().map(|reply| with_reply(reply, &read).map_err(Failure::from)).collect()
}
