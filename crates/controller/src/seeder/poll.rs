//! The poll of balances, of limits of single values and of what the gateway noted: a plan that was carried out in; that
//! something is otherwise than it was last told, out. What was made is made again, which writes nothing where all is as
//! it should be, tells what is left, and mends what somebody lost or names what somebody broke. At most once a minute, a
//! few thousand a second. I/O: Redis.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use plan::{Key, OverrideSet, Plan, Verdict};
use tokio::time::{Instant, sleep_until};

use super::{Seeder, name, warned};
use crate::connection::LONGEST_WAIT;

/// How often all balances are looked at.
const EVERY: Duration = Duration::from_secs(60);
/// Balances looked at in one go, but never a part of an object: what it shows is of one moment.
const AT_ONCE: usize = 500;
/// The pause for each of them: 5,000 a second leave Redis to the gateway.
const EACH: Duration = Duration::from_micros(200);

/// How far the poll is.
pub(super) struct Poll {
    begun: Instant,
    due: Instant,
    /// The next object, as [`Plan::verdicts`]. Where that changes meanwhile, one may be left out until the next poll.
    next: usize,
    changed: bool,
}

impl Default for Poll {
    /// Everything is looked at when it is made.
    fn default() -> Self {
        let begun = Instant::now();
        Self { begun, due: begun + EVERY, next: 0, changed: false }
    }
}

impl Poll {
    /// The next few objects, and how many balances, limits of single values and notes they have.
    fn objects(&self, plan: &Plan) -> (Range<usize>, usize) {
        let values = |verdict: &Verdict| {
            plan.overrides[verdict.overrides.clone()].iter().map(OverrideSet::values).sum::<usize>()
        };
        let size = |verdict: &Verdict| verdict.seeds.len() + values(verdict) + usize::from(verdict.watched.is_some());
        let sizes: Vec<usize> = plan.verdicts.iter().skip(self.next).map(size).collect();
        let (taken, balances) = some(&sizes);
        (self.next..self.next + taken, balances)
    }

    /// Whether that was all, and something changed.
    fn looked(&mut self, up_to: usize, balances: usize, of: usize) -> bool {
        let pause = EACH.saturating_mul(u32::try_from(balances).unwrap_or(u32::MAX));
        (self.next, self.due) = (up_to, Instant::now() + pause);
        if up_to < of {
            return false;
        }
        (self.next, self.due) = (0, self.due.max(self.begun + EVERY));
        std::mem::take(&mut self.changed)
    }
}

/// How many of the first are taken, and the sum of their sizes.
fn some(sizes: &[usize]) -> (usize, usize) {
    let (mut taken, mut sum) = (0, 0);
    while taken < sizes.len() && sum < AT_ONCE {
        sum += sizes[taken];
        taken += 1;
    }
    (taken, sum)
}

impl Seeder {
    /// Ends when there is something new to tell. It may be dropped at any time, and goes on where it was. Looks at
    /// nothing while this process does not lead.
    pub(crate) async fn look(&mut self, plan: &Plan, leads: impl Fn() -> bool) {
        loop {
            sleep_until(self.poll.due).await;
            if !leads() {
                self.poll.due = Instant::now() + EVERY;
                continue;
            }
            if self.poll.next == 0 {
                self.poll.begun = Instant::now();
            }
            let (objects, balances) = self.poll.objects(plan);
            let mut of: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
            for seeds in plan.verdicts[objects.clone()].iter().map(|verdict| verdict.seeds.clone()) {
                if let Some(first) = plan.seeds[seeds.clone()].first() {
                    of.entry(first.store).or_default().push(seeds);
                }
            }
            let deadline = Instant::now() + LONGEST_WAIT;
            let mut failed = false;
            for (store, objects) in of {
                let store = self.stores.get_mut(&name(plan, store));
                if let Some(store) = store.filter(|store| store.connection().is_some()) {
                    self.poll.changed |= store.look(plan, &objects, deadline).await;
                    failed |= store.connection().is_none();
                }
            }
            for set in
                plan.verdicts[objects.clone()].iter().flat_map(|verdict| &plan.overrides[verdict.overrides.clone()])
            {
                let Some(store) = self.stores.get_mut(&name(plan, set.store)) else { continue };
                let database = store.database().filter(|database| database.is_there);
                if let Some(database) = database.and_then(|found| self.databases.get_mut(&found.id)) {
                    self.poll.changed |= database.look_at_overrides(store, plan, set).await;
                    failed |= store.connection().is_none();
                }
            }
            failed |= self.look_at_notes(plan, objects.clone()).await;
            if self.poll.looked(objects.end, balances, plan.verdicts.len()) || failed {
                return;
            }
        }
    }

    /// What the gateway noted of these objects' limits. Whether a store failed.
    async fn look_at_notes(&mut self, plan: &Plan, objects: Range<usize>) -> bool {
        let mut of: BTreeMap<usize, Vec<(&Key, &str)>> = BTreeMap::new();
        for Verdict { key, watched, .. } in &plan.verdicts[objects] {
            if let Some(watched) = watched {
                of.entry(watched.store).or_default().push((key, &watched.rule_name));
            }
        }
        let mut failed = false;
        for (store, watching) in of {
            let Some(store) = self.stores.get_mut(&name(plan, store)) else { continue };
            let Some(connection) = store.connection() else { continue };
            let (keys, rules): (Vec<&Key>, Vec<&str>) = watching.into_iter().unzip();
            match warned::read(connection, &rules).await {
                Ok(all) => {
                    for (key, notes) in keys.into_iter().zip(all) {
                        let Some(notes) = notes else { continue };
                        self.poll.changed |= self.notes.get(key) != Some(&notes);
                        self.notes.insert(key.clone(), notes);
                    }
                }
                Err(error) => {
                    store.lost(error);
                    failed = true;
                }
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_taken_whole_until_there_are_enough_balances() {
        assert_eq!(some(&[]), (0, 0));
        assert_eq!(some(&[200, 200, 200, 200]), (3, 600));
        assert_eq!(some(&[10_000, 1]), (1, 10_000));
        assert_eq!(some(&[0, 0, 3]), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_begins_a_minute_after_the_one_before_and_takes_a_second_for_five_thousand() {
        let mut poll = Poll::default();
        assert_eq!(poll.due.duration_since(poll.begun), EVERY, "not at the start: then all is looked at anyway");
        tokio::time::advance(EVERY).await;
        (poll.begun, poll.changed) = (Instant::now(), true);
        assert!(!poll.looked(10, 5_000, 20), "not all yet");
        assert_eq!((poll.next, poll.due), (10, poll.begun + Duration::from_secs(1)));
        assert!(poll.looked(20, 10, 20), "all, and something changed");
        assert_eq!((poll.next, poll.due), (0, poll.begun + EVERY));
        assert!(!poll.looked(20, 10, 20), "told already");
    }
}
