//! What fits into one WasmPlugin. Policies and what they match in, claims that have no room out. Pure.

use std::collections::HashSet;

use crate::{
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
/// first, then the oldest.
pub(crate) fn fit(policies: &[Policy], slots: &mut Vec<Slot<Matcher>>) -> Vec<(usize, usize)> {
    let mut sizes = vec![0; policies.len()];
    for slot in slots.iter() {
        let by = slot.holders[0].by;
        let (rule, name) = match &slot.what {
            Matcher::Route(name) | Matcher::Service(name) => (0, name.len()),
            Matcher::Domain(name) => (RULE + policies[by].name.len(), name.len()),
            Matcher::Gateway => (RULE + policies[by].name.len(), 1),
        };
        if sizes[by] == 0 {
            let settings = serde_json::to_vec(&policies[by].settings).map_or(0, |settings| settings.len());
            sizes[by] = settings + 2 * policies[by].name.len() + ENTRY + RULE;
        }
        sizes[by] += rule + name + ENTRY;
    }
    if sizes.iter().sum::<usize>() <= LIMIT {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..policies.len()).collect();
    order.sort_by_key(|policy| (!policies[*policy].programmed && !policies[*policy].in_force, *policy));
    let mut left = LIMIT;
    let mut out = HashSet::new();
    for policy in order {
        match left.checked_sub(sizes[policy]) {
            Some(rest) => left = rest,
            None => drop(out.insert(policy)),
        }
    }
    let mut lost = Vec::new();
    slots.retain(|slot| {
        let fits = !out.contains(&slot.holders[0].by);
        if !fits {
            lost.extend(slot.holders.iter().map(|holder| (holder.by, holder.target)));
        }
        fits
    });
    lost
}
