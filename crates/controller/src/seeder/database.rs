//! One Redis database, whatever stores lead to it: what is recorded there and what nobody wants of that in, calls that
//! settle it out. Balances are made through their own stores, the rest through the first that answers. I/O: Redis.

use plan::{Departure, Leftovers, Plan, Seeded};
use tokio::time::Instant;

use super::index::Index;
use super::leaving::{self, Round, Sweeps};
use super::store::Store;
use crate::connection::Failure;

/// What is known of a database. Several stores that lead to one must not each have its own opinion of what is recorded.
#[derive(Default)]
pub(super) struct Database {
    pub(super) index: Index,
    pub(super) sweeps: Sweeps,
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

    /// Settles what is recorded and not wanted. `seeded`: what became of the plan's seeds.
    pub(super) async fn settle(
        &mut self,
        members: &mut [Member],
        (plan, leftovers, departures): (&Plan, &Leftovers<'_>, &[Departure]),
        seeded: &[Seeded],
        deadline: Instant,
    ) {
        (self.unfinished, self.newer) = (false, None);
        let stores: Vec<usize> = members.iter().map(|member| member.index).collect();
        let Some(member) = members.iter_mut().find(|member| member.store.connection().is_some()) else { return };
        let settled = self.try_to_settle(member, &stores, (plan, leftovers, departures), seeded, deadline).await;
        if let Err(error) = settled {
            member.store.lost(error);
        }
    }

    async fn try_to_settle(
        &mut self,
        member: &Member,
        stores: &[usize],
        (plan, leftovers, departures): (&Plan, &Leftovers<'_>, &[Departure]),
        seeded: &[Seeded],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let Some(connection) = member.store.connection().filter(|_| self.index.is_known()) else { return Ok(()) };
        let here = (plan, leftovers);
        let settled = leaving::settle(&mut self.index, connection, here, member.index, seeded, deadline).await?;
        let Round { complete, newer } = settled;
        self.newer = newer;
        let swept = self.sweeps.run(connection, stores, (leftovers, departures), deadline).await?;
        self.unfinished = !complete || !swept;
        Ok(())
    }

    /// Whether nothing of an owner is recorded, for all that is known.
    pub(super) fn has_nothing_of(&self, owner: &str) -> bool {
        self.index.is_known() && !self.index.owners.contains_key(owner)
    }

    /// The highest term with which somebody else settled leftovers, in the last round.
    pub(super) fn newer_term(&self) -> Option<i64> {
        self.newer
    }

    /// When to come again, as long as a store of it answers.
    pub(super) fn again(&self) -> Option<Instant> {
        if self.unfinished { Some(Instant::now()) } else { self.index.again() }
    }
}
