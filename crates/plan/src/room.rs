//! What fits into one WasmPlugin. Policies and what they match in, claims that have no room out. Pure.

use std::collections::HashSet;

use crate::{
    existing::Existing,
    gateway::{Matcher, Policy},
    merge::Slot,
};

/// Bytes of policies and rules in the WasmPlugin. etcd takes 1.5 MiB with all metadata.
pub(crate) const LIMIT: usize = 1 << 20;
/// Around a rule's matchers: `{"ingress":[],"config":{"policy":"","open":true}},`
const RULE: usize = 56;
/// Around a matcher or a policy's name: `"",` and `"":,`.
const ENTRY: usize = 4;

/// Takes out of the slots what does not fit, and returns who loses which target by that. What is programmed goes
/// first, also before what older objects want in addition, then the oldest.
pub(crate) fn fit(policies: &[Policy], existing: &Existing, slots: &mut Vec<Slot<Matcher>>) -> Vec<(usize, usize)> {
    // Of each policy, what it has of the gateway already, and what it wants in addition.
    let mut sizes = vec![[0; 2]; policies.len()];
    let part = |slot: &Slot<Matcher>| usize::from(!existing.covers(&slot.what));
    for slot in slots.iter() {
        let (by, part) = (slot.holders[0].by, part(slot));
        let (rule, name) = match &slot.what {
            Matcher::Route(name) | Matcher::Service(name) => (0, name.len()),
            Matcher::Domain(name) => (RULE + policies[by].name.len(), name.len()),
            Matcher::Gateway => (RULE + policies[by].name.len(), 1),
        };
        sizes[by][part] += rule + name + ENTRY;
    }
    for (size, policy) in sizes.iter_mut().zip(policies) {
        if let Some(first) = size.iter_mut().find(|size| **size > 0) {
            let settings = serde_json::to_vec(&policy.settings).map_or(0, |settings| settings.len());
            *first += settings + 2 * policy.name.len() + ENTRY + RULE;
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
    let mut lost = Vec::new();
    slots.retain(|slot| {
        let fits = !out.contains(&(slot.holders[0].by, part(slot)));
        if !fits {
            lost.extend(slot.holders.iter().map(|holder| (holder.by, holder.target)));
        }
        fits
    });
    lost
}
