//! Who decides on what: claims in, what is matched with those who share it out, and to each object why it lost what
//! it wanted. Pure.

use std::collections::HashMap;

use super::{Draft, Held, Surroundings};
use crate::{
    Reason,
    ceiling::{Ceilings, Context},
    form,
    gateway::{Matcher, Policy},
    kind::Kind,
    merge::{Claim, Loser, Lost, Slot, Why, ceilings_of, resolve},
    room::{Lacking, NoRoom, Room},
};

impl<K: Kind> Draft<K> {
    /// Who decides on what: ceilings, then the older, and with it those whose settings are equal. What has no room in
    /// one WasmPlugin is not accepted; a ceiling without room is none, and what somebody else has in force stays with
    /// them.
    ///
    /// # Errors
    /// By verdict, the objects that were edited to what has no room: all is to be decided again without their edits.
    pub(super) fn decide(&mut self, around: &Surroundings<'_, '_, K>) -> Result<Vec<Slot<Matcher>>, Held> {
        let Surroundings { world, form, existing, stores, targets: _ } = *around;
        let room = Room::new(&world.settings, form);
        let stores = form::Stores { usable: &stores.wire, known: &existing.stores };
        let (named, mut derived) = (std::mem::take(&mut self.named), std::mem::take(&mut self.derived));
        derived.append(&mut self.beside);
        let mut full = HashMap::new();
        let mut stays: HashMap<Matcher, usize> = HashMap::new();
        let (mut slots, lost, no_room) = loop {
            let context = Decided { around, policies: &self.policies };
            let mut ceilings = Ceilings::new(&self.policies, &context);
            let fits = |claim: &&Claim<Matcher>| {
                !full.contains_key(&(claim.by, claim.target))
                    && stays.get(&claim.what).is_none_or(|first| claim.by >= *first)
            };
            let (slots, lost) =
                resolve(named.iter().filter(fits), derived.iter().filter(fits), &self.policies, &mut ceilings);
            let Lacking { slots: no_room, grown } = room.lacks(&self.policies, stores, existing, &slots);
            if !grown.is_empty() {
                return Err(grown.into_iter().map(|(by, why)| (self.policies[by].verdict, why)).collect());
            }
            let ceilings = ceilings_of(&lost);
            let before = (full.len(), stays.len());
            for NoRoom { slot: at, why } in &no_room {
                let slot = &slots[*at];
                let has_it = |loser: &&Loser| loser.ceiling.is_none() && context.is_in_force(&slot.what, loser.by);
                if let Some(has_it) = slot.losers.iter().find(has_it) {
                    let older = named.iter().filter(|claim| claim.by < has_it.by && claim.what == slot.what);
                    full.extend(older.map(|claim| ((claim.by, claim.target), why.clone())));
                    stays.insert(slot.what.clone(), has_it.by);
                } else if ceilings.contains(at) {
                    full.extend(slot.holders.iter().map(|holder| ((holder.by, holder.target), why.clone())));
                }
            }
            if (full.len(), stays.len()) == before {
                break (slots, lost, no_room);
            }
        };
        for Lost { by, target, winner, why } in lost {
            let winner = self.verdicts[self.policies[winner].verdict].key.clone();
            let may_choose = world.settings.trusts(&self.verdicts[self.policies[by].verdict].key.namespace);
            self.refuse(by, target, |target| match why {
                Why::Differs(field) => {
                    let derived = field == K::CHOICE.0.trim_start_matches("spec.") && !may_choose;
                    Reason::TargetConflicted { target, kind: K::KIND, winner, field, derived }
                }
                Why::Under(slot) => {
                    Reason::Overridden { target, kind: K::KIND, winner, ceiling: slots[slot].what.target() }
                }
            });
        }
        for NoRoom { slot, why } in no_room {
            let lost = std::mem::take(&mut slots[slot].holders).into_iter();
            full.extend(lost.map(|lost| ((lost.by, lost.target), why.clone())));
        }
        for ((by, target), why) in full {
            self.refuse(by, target, |_| why);
        }
        Ok(slots)
    }

    fn refuse(&mut self, policy: usize, target: usize, reason: impl FnOnce(api::TargetRef) -> Reason) {
        let verdict = &mut self.verdicts[self.policies[policy].verdict];
        if let Some((target, problem)) = verdict.targets.get_mut(target) {
            problem.get_or_insert_with(|| reason(target.clone()));
        }
    }
}

/// What ceilings ask about.
struct Decided<'a, 'w, K: Kind> {
    around: &'a Surroundings<'a, 'w, K>,
    policies: &'a [Policy<K>],
}

impl<'w, K: Kind> Context<'w> for Decided<'_, 'w, K> {
    fn hosts(&self, route: &str) -> Option<Vec<&'w str>> {
        self.around.targets.hosts(route)
    }

    fn is_in_force(&self, what: &Matcher, by: usize) -> bool {
        let policy = &self.policies[by];
        let existing = self.around.existing;
        existing.is_under(what, &policy.name) || existing.holds(what, &policy.settings)
    }

    fn trusts(&self, namespace: &str) -> bool {
        self.around.world.settings.trusts(namespace)
    }

    fn is_gateways(&self, namespace: &str) -> bool {
        namespace == self.around.world.settings.gateway_namespace
    }
}
