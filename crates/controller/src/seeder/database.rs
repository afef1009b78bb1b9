//! One Redis database, whatever stores lead to it: what is recorded there and what nobody wants of that in, calls that
//! settle it out. Balances are made and settled through the stores of their objects, as users whom Redis may permit
//! different keys; what has none through one that answers. I/O: Redis.

use plan::{Departure, Leftovers, OverrideSet, Plan, Seeded};
use tokio::time::Instant;

use super::index::{Entry, Index};
use super::leaving::{self, Round, Sweeps};
use super::overrides::Sets;
use super::store::Store;
use crate::connection::Failure;

/// What is known of a database. Several stores that lead to one must not each have its own opinion of what is recorded.
#[derive(Default)]
pub(super) struct Database {
    pub(super) index: Index,
    pub(super) sweeps: Sweeps,
    overrides: Sets,
    /// Whether the last round left something for the next one.
    unfinished: bool,
    /// The highest term with which somebody else settled leftovers.
    newer: Option<i64>,
}

/// A store and its index in the plan.
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) store: Store,
}

impl Database {
    /// Makes the balances of its stores so. Begins no call after `deadline`.
    pub(super) async fn make(&mut self, members: &mut [Member], plan: &Plan, held: &[bool], deadline: Instant) {
        for Member { index, store } in members {
            store.make(&mut self.index, plan, (*index, held), deadline).await;
        }
    }

    /// Makes the limits of single values so, through a store that answers; what Redis refuses its user, through others.
    pub(super) async fn set_overrides(&mut self, members: &mut [Member], plan: &Plan) {
        let stores: Vec<usize> = members.iter().map(|member| member.index).collect();
        self.overrides.newer = None;
        let mut again = false;
        for Member { store, .. } in members {
            let Some(connection) = store.connection() else { continue };
            match self.overrides.run((connection, &store.access), (plan, &stores), again).await {
                Ok(true) => return,
                Ok(false) => again = true,
                Err(error) => store.lost(error),
            }
        }
    }

    /// Looks at a set of the store, which leads to this. Whether it is otherwise than it was told.
    pub(super) async fn look_at_overrides(&mut self, store: &mut Store, plan: &Plan, set: &OverrideSet) -> bool {
        let Some(connection) = store.connection() else { return false };
        let looked = self.overrides.look((connection, &store.access), plan, set).await;
        looked.unwrap_or_else(|error| {
            store.lost(error);
            true
        })
    }

    /// What became of those of its stores, into their places among all.
    pub(super) fn tell_overrides(&self, members: &[Member], plan: &Plan, into: &mut [Seeded]) {
        for (set, into) in plan.overrides.iter().zip(into) {
            let Some(member) = members.iter().find(|member| member.index == set.store) else { continue };
            *into = match (self.overrides.became(set), member.store.answers()) {
                (Some(became), _) => became.clone(),
                (None, Err(error)) => Seeded::Unreachable { error },
                (None, Ok(())) => Seeded::Pending,
            };
        }
    }

    /// Settles what is recorded and not wanted. `seeded`: what became of the plan's seeds.
    pub(super) async fn settle(
        &mut self,
        members: &mut [Member],
        (plan, leftovers, departures): (&Plan, &Leftovers<'_>, &[Departure]),
        seeded: &[Seeded],
        deadline: Instant,
    ) {
        (self.unfinished, self.newer) = (false, None);
        self.sweeps.begin(departures);
        let up = members.iter().filter(|member| member.store.connection().is_some());
        let up: Vec<usize> = up.map(|member| member.index).collect();
        for member in members {
            let settled = self.try_to_settle(member, &up, (plan, leftovers, departures), seeded, deadline).await;
            if let Err(error) = settled {
                member.store.lost(error);
            }
        }
    }

    /// What is a store's to settle. `up`: the stores of the database that answer.
    async fn try_to_settle(
        &mut self,
        member: &Member,
        up: &[usize],
        (plan, leftovers, departures): (&Plan, &Leftovers<'_>, &[Departure]),
        seeded: &[Seeded],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let Some(connection) = member.store.connection().filter(|_| self.index.is_known()) else { return Ok(()) };
        let (here, store) = ((plan, leftovers), member.index);
        let is_its = |owner: &str, entry: &Entry| settles(up, leftovers.store(owner), entry.refusals) == Some(store);
        let settled = leaving::settle(&mut self.index, connection, here, (store, is_its), seeded, deadline).await?;
        let Round { complete, newer } = settled;
        self.newer = self.newer.max(newer);
        let swept = self.sweeps.run(connection, store, (leftovers, departures), &self.index, deadline).await?;
        self.unfinished |= !complete || !swept;
        Ok(())
    }

    /// Of each owner what could not be settled, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.index.owners.iter().filter_map(|(owner, entry)| {
            let (problem, _) = entry.settled.as_ref()?.problem.as_ref()?;
            (problem != leaving::OVERTAKEN).then_some((owner.as_str(), problem.as_str()))
        })
    }

    /// Whether nothing of an owner is recorded, for all that is known.
    pub(super) fn has_nothing_of(&self, owner: &str) -> bool {
        self.index.is_known() && !self.index.owners.contains_key(owner)
    }

    /// The highest term with which somebody else settled leftovers, in the last round.
    pub(super) fn newer_term(&self) -> Option<i64> {
        self.newer.max(self.overrides.newer)
    }

    /// When to come again, as long as a store of it answers.
    pub(super) fn again(&self) -> Option<Instant> {
        if self.unfinished { Some(Instant::now()) } else { self.index.again() }
    }
}

/// Which of the stores that answer settles what an owner has: the one that it names, and after each refusal the next.
fn settles(up: &[usize], named: Option<usize>, refusals: usize) -> Option<usize> {
    let first = up.iter().position(|store| Some(*store) == named).unwrap_or_default();
    up.iter().cycle().nth((first + refusals) % up.len().max(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_settled_through_its_own_store_and_after_a_refusal_through_another() {
        assert_eq!(settles(&[2, 5, 7], Some(5), 0), Some(5));
        assert_eq!(settles(&[2, 5, 7], Some(5), 1), Some(7));
        assert_eq!(settles(&[2, 5, 7], Some(5), 2), Some(2));
        assert_eq!(settles(&[2, 5, 7], None, 0), Some(2), "of an object that is gone");
        assert_eq!(settles(&[2, 7], Some(5), 4), Some(2), "its own is away");
        assert_eq!(settles(&[], Some(5), 0), None);
    }
}
