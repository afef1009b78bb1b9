//! The balances that are to be in Redis: what was decided in, one seed per balance with the period it is in out, and
//! to each object which of its consumers' balances are another's. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use enforcement::redis::Grant;

use super::{Draft, Former};
use crate::{
    Reason, Seed, Warning, World,
    existing::Existing,
    gateway::Matcher,
    kind::{Kind as _, Quota},
    merge::Slot,
    models,
    stores::Stores,
    tables::{Known, Refreshing, Tables},
};

impl Draft<Quota> {
    /// The tables of the schedules that are followed, and by policy how balances were refreshed until now where that
    /// is edited. Says of each object when it is refreshed next.
    pub(super) fn schedule(
        &mut self,
        slots: &[Slot<Matcher>],
        existing: &Existing<Quota>,
        known: &Known<'_>,
    ) -> (Tables, Former) {
        let mut tables = Tables::default();
        let mut former = Former::new();
        for slot in slots {
            let Some(before) = existing.over(&slot.what).and_then(|(_, policy)| policy.refresh.as_ref()) else {
                continue;
            };
            let edited = |by: &usize| self.policies[*by].settings.refresh.as_ref() != Some(before);
            for by in slot.holders.iter().map(|holder| holder.by).filter(edited) {
                if let Some(table) = tables.table(&before.schedule, known) {
                    former.entry(by).or_insert_with(|| Arc::new(table.refreshing(before, known.now)));
                }
            }
        }
        let deciding: BTreeSet<usize> =
            slots.iter().flat_map(|slot| slot.holders.iter().map(|holder| holder.by)).collect();
        for policy in deciding.into_iter().map(|by| &self.policies[by]) {
            let refresh = policy.settings.refresh.as_ref();
            let table = refresh.and_then(|refresh| tables.table(&refresh.schedule, known));
            self.verdicts[policy.verdict].next_refresh = table.and_then(|table| table.next(known.now));
        }
        (tables, former)
    }

    /// The balances of all objects that decide on anything. Each belongs to one object: the oldest that lists it.
    pub(super) fn seed(
        &mut self,
        world: &World,
        stores: &Stores,
        slots: &[Slot<Matcher>],
        tables: &Tables,
        former: &Former,
    ) -> Vec<Seed> {
        let form = Quota::form(world);
        let mut in_force = vec![false; self.policies.len()];
        for holder in slots.iter().flat_map(|slot| &slot.holders) {
            in_force[holder.by] = true;
        }
        self.warn(slots);
        let mut seeding = Vec::with_capacity(self.policies.len());
        let consumers = self.verdicts.iter().map(|verdict| verdict.object.listed().count());
        let mut seeds = Vec::with_capacity(consumers.sum());
        for (by, policy) in self.policies.iter().enumerate().filter(|(by, policy)| in_force[*by] && !policy.kept) {
            let Some(Ok(store)) = policy.settings.store.as_deref().map(|store| stores.find(store)) else { continue };
            let verdict = &mut self.verdicts[policy.verdict];
            let object = verdict.owner.clone();
            let refreshing = policy
                .settings
                .refresh
                .as_ref()
                .and_then(|refresh| Some(Arc::new(tables.get(&refresh.schedule)?.refreshing(refresh, world.now))));
            let turn = refreshing.as_deref().filter(|_| !form.rolls()).and_then(Refreshing::turn);
            let begin = seeds.len();
            seeds.extend(verdict.object.listed().enumerate().map(|(consumer, listed)| Seed {
                store,
                balance: listed.balance(&policy.settings.key_prefix),
                grant: listed.consumer.quota.map_or(Grant::Unlimited, Grant::Tokens),
                object: object.clone(),
                refreshing: refreshing.clone(),
                former: former.get(&by).cloned(),
                turn,
                consumer,
            }));
            verdict.seeds = begin..seeds.len();
            seeding.push(by);
        }
        let lost = self.lost(&seeding, &seeds, stores);
        if lost.is_empty() { seeds } else { self.without(&seeding, seeds, &lost, (world, slots)) }
    }

    /// The seeds whose balance an older object has, and the policy of that.
    fn lost(&self, seeding: &[usize], seeds: &[Seed], stores: &Stores) -> HashMap<usize, usize> {
        let mut owners: HashMap<(usize, &[u8]), usize> = HashMap::with_capacity(seeds.len());
        let mut lost = HashMap::new();
        for by in seeding {
            for seed in self.verdicts[self.policies[*by].verdict].seeds.clone() {
                let Seed { store, balance, .. } = &seeds[seed];
                let winner = *owners.entry((stores.databases.number(*store), balance.as_bytes())).or_insert(*by);
                if winner != *by {
                    lost.insert(seed, winner);
                }
            }
        }
        lost
    }

    /// Says so to those whose rules let nobody spend: neither they nor who shares a target with them list anybody.
    fn warn(&mut self, slots: &[Slot<Matcher>]) {
        let lists = |by: usize| self.verdicts[self.policies[by].verdict].object.listed().next().is_some();
        let is_closed = |by: &usize| {
            let policy = &self.policies[*by];
            let refuses = !policy.settings.ends.observes();
            let has_default = models::places(&policy.settings).any(|(_, default)| default.is_some());
            refuses && !policy.kept && !has_default && !lists(*by)
        };
        let holders = |slot: &Slot<Matcher>| slot.holders.iter().map(|holder| holder.by).collect::<Vec<_>>();
        let mut closed: BTreeSet<usize> = slots.iter().flat_map(holders).filter(is_closed).collect();
        if closed.is_empty() {
            return;
        }
        for together in slots.iter().map(holders).filter(|together| together.iter().any(|by| lists(*by))) {
            closed.retain(|by| !together.contains(by));
        }
        for by in closed {
            self.verdicts[self.policies[by].verdict].warnings.push(Warning::NobodyMaySpend);
        }
    }

    fn without(
        &mut self,
        seeding: &[usize],
        seeds: Vec<Seed>,
        lost: &HashMap<usize, usize>,
        (world, slots): (&World, &[Slot<Matcher>]),
    ) -> Vec<Seed> {
        let share = |one: usize, other: usize| {
            let holds = |slot: &Slot<Matcher>, by| slot.holders.iter().any(|holder| holder.by == by);
            slots.iter().any(|slot| holds(slot, one) && holds(slot, other))
        };
        let mut kept = Vec::with_capacity(seeds.len());
        let mut all = seeds.into_iter().enumerate();
        for by in seeding {
            let verdict = self.policies[*by].verdict;
            let begin = kept.len();
            let mut conflicts = Vec::new();
            for (at, seed) in all.by_ref().take(self.verdicts[verdict].seeds.len()) {
                match lost.get(&at) {
                    Some(winner) => conflicts.push((*winner, seed.consumer)),
                    None => kept.push(seed),
                }
            }
            self.verdicts[verdict].seeds = begin..kept.len();
            if let Some((winner, consumer)) = conflicts.first() {
                let may_choose = world.settings.trusts(&self.verdicts[verdict].key.namespace);
                let apart = may_choose && !conflicts.iter().any(|(winner, _)| share(*by, *winner));
                let winner = self.verdicts[self.policies[*winner].verdict].key.clone();
                let verdict = &mut self.verdicts[verdict];
                let consumer = verdict.object.listed_name(*consumer).unwrap_or_default();
                verdict.refused.push(Reason::ConsumerConflicted { consumer, winner, apart, more: conflicts.len() - 1 });
            }
        }
        kept
    }
}
