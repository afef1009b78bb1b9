//! What fits into one WasmPlugin. Policies and what they match in, slots that have no room out. Pure.

use std::collections::{HashMap, HashSet};

use crate::{
    existing::Existing,
    form::{Form, Size, Stores},
    gateway::{Matcher, Policy},
    merge::Slot,
};

/// Bytes of policies and rules in the WasmPlugin's spec. etcd takes 1.5 MiB with all metadata.
pub(crate) const LIMIT: usize = 1 << 20;
/// Bytes of our annotation. The API server takes 256 KiB of them; some are left to others.
const NOTES_LIMIT: usize = 240 << 10;
/// Around a matcher: `"",`.
const ENTRY: usize = 4;

/// Bytes of the spec and of annotations.
#[derive(Clone, Copy, Default, PartialEq)]
struct Need {
    spec: usize,
    notes: usize,
}

/// A slot that has no room, and the limit it would exceed.
pub(crate) struct NoRoom {
    pub(crate) slot: usize,
    pub(crate) limit: usize,
}

/// The slots that do not fit. What is programmed goes first, also before what older objects want in addition, then
/// the oldest.
pub(crate) fn without_room(
    policies: &[Policy],
    form: &dyn Form,
    stores: Stores<'_>,
    existing: &Existing,
    slots: &[Slot<Matcher>],
) -> Vec<NoRoom> {
    let part = |slot: &Slot<Matcher>| usize::from(!existing.covers(&slot.what));
    let held = || slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot, slot.holders.first()?.by)));
    let sizes: Vec<Size> = policies.iter().map(|policy| form.size(policy, stores)).collect();
    // Of each policy, what it has of the gateway already, and what it wants in addition.
    let mut needs = vec![[Need::default(); 2]; policies.len()];
    // Whether it has a rule for all of its routes, and one for all of its services.
    let mut shared = vec![[false; 2]; policies.len()];
    for (_, slot, by) in held() {
        let need = &mut needs[by][part(slot)];
        let (new_rule, name) = match &slot.what {
            Matcher::Route(name) => (!std::mem::replace(&mut shared[by][0], true), name.as_str()),
            Matcher::Service(name) => (!std::mem::replace(&mut shared[by][1], true), name.as_str()),
            Matcher::Domain(name) => (true, name.as_str()),
            Matcher::Gateway => (true, "*"),
        };
        need.add(ENTRY + name.len(), 0);
        if new_rule {
            need.add(sizes[by].rule, sizes[by].note);
        }
    }
    for (needs, size) in needs.iter_mut().zip(&sizes) {
        if let Some(first) = needs.iter_mut().find(|need| **need != Need::default()) {
            first.add(size.once, 0);
        }
    }
    let all = |of: fn(&Need) -> usize| needs.iter().flatten().map(of).sum::<usize>();
    // What several policies share is paid for by the first.
    let schedule = |policy: usize| policies[policy].settings.refresh.as_ref().map(|refresh| refresh.schedule.as_str());
    let deciding = (0..policies.len()).filter(|policy| needs[*policy].iter().any(|need| *need != Need::default()));
    let schedules: HashSet<&str> = deciding.filter_map(schedule).collect();
    let schedules = schedules.iter().map(|name| form.schedule_size(name)).sum::<usize>();
    if all(|need| need.spec) + schedules <= LIMIT && all(|need| need.notes) <= NOTES_LIMIT {
        return Vec::new();
    }
    let mut order: Vec<(usize, usize)> = (0..policies.len()).flat_map(|policy| [(policy, 0), (policy, 1)]).collect();
    order.sort_by_key(|(policy, part)| {
        let programmed = policies[*policy].programmed || policies[*policy].in_force;
        (!programmed, *part, *policy)
    });
    let mut left = Need { spec: LIMIT, notes: NOTES_LIMIT };
    let mut out = HashMap::new();
    let mut paid = HashSet::new();
    for (policy, part) in order.into_iter().filter(|(policy, part)| needs[*policy][*part] != Need::default()) {
        let Need { spec, notes } = needs[policy][part];
        let schedule = schedule(policy).filter(|name| !paid.contains(name));
        let spec = spec + schedule.map_or(0, |name| form.schedule_size(name));
        match (left.spec.checked_sub(spec), left.notes.checked_sub(notes)) {
            (Some(spec), Some(notes)) => {
                left = Need { spec, notes };
                paid.extend(schedule);
            }
            (None, _) => drop(out.insert((policy, part), LIMIT)),
            (Some(_), None) => drop(out.insert((policy, part), NOTES_LIMIT)),
        }
    }
    let lost = |(slot, what, by): (usize, &Slot<Matcher>, usize)| {
        out.get(&(by, part(what))).map(|limit| NoRoom { slot, limit: *limit })
    };
    held().filter_map(lost).collect()
}

impl Need {
    const fn add(&mut self, spec: usize, notes: usize) {
        self.spec += spec;
        self.notes += notes;
    }
}
