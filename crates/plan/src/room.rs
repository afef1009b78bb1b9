//! What fits into one WasmPlugin. Policies and what they match in, slots that have no room out. Pure.

use std::collections::HashSet;

use crate::{
    existing::Existing,
    form::Form,
    gateway::{Matcher, Policy},
    merge::Slot,
};

/// Bytes of policies and rules in the WasmPlugin. etcd takes 1.5 MiB with all metadata.
pub(crate) const LIMIT: usize = 1 << 20;
/// Around a matcher: `"",`.
const ENTRY: usize = 4;

/// The slots that do not fit. What is programmed goes first, also before what older objects want in addition, then
/// the oldest.
pub(crate) fn without_room(
    policies: &[Policy],
    form: &dyn Form,
    existing: &Existing,
    slots: &[Slot<Matcher>],
) -> Vec<usize> {
    let rules: Vec<usize> = policies.iter().map(|policy| form.rule_size(&policy.name, &policy.settings)).collect();
    // Of each policy, what it has of the gateway already, and what it wants in addition.
    let mut sizes = vec![[0; 2]; policies.len()];
    let part = |slot: &Slot<Matcher>| usize::from(!existing.covers(&slot.what));
    let held = || slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot, slot.holders.first()?.by)));
    for (_, slot, by) in held() {
        let part = part(slot);
        let (rule, name) = match &slot.what {
            Matcher::Route(name) | Matcher::Service(name) => (0, name.len()),
            Matcher::Domain(name) => (rules[by], name.len()),
            Matcher::Gateway => (rules[by], 1),
        };
        sizes[by][part] += rule + name + ENTRY;
    }
    for ((size, policy), rule) in sizes.iter_mut().zip(policies).zip(&rules) {
        if let Some(first) = size.iter_mut().find(|size| **size > 0) {
            *first += form.policy_size(&policy.name, &policy.settings) + rule;
        }
    }
    if sizes.iter().flatten().sum::<usize>() <= LIMIT {
        return Vec::new();
    }
    let mut order: Vec<(usize, usize)> = (0..policies.len()).flat_map(|policy| [(policy, 0), (policy, 1)]).collect();
    order.sort_by_key(|(policy, part)| {
        let programmed = policies[*policy].programmed || policies[*policy].in_force;
        (!programmed, *part, *policy)
    });
    let mut left = LIMIT;
    let mut out = HashSet::new();
    for (policy, part) in order {
        match left.checked_sub(sizes[policy][part]) {
            Some(rest) => left = rest,
            None => drop(out.insert((policy, part))),
        }
    }
    held().filter(|(_, slot, by)| out.contains(&(*by, part(slot)))).map(|(at, ..)| at).collect()
}
