//! Which policy decides on what requests made from defaults, whoever made them: policies with what they match in, and to
//! each whether it yields to another that has its balances in the same place out. Pure.

use std::collections::HashSet;

use crate::{gateway::Part, kind::Quota, stores::Stores};

/// Of all that are in force with their balances in one place, the oldest with a default decides; where none has one, the
/// oldest. Such a balance is nobody's who lists it: when the object that made it is gone, or moved, the next one has it.
pub(super) fn decide(quotas: &mut Part<Quota>, stores: &Stores) {
    let Part { policies, slots, waiting, .. } = quotas;
    let holders = slots.iter().flat_map(|slot| &slot.holders);
    let ruling = holders.filter(|holder| !waiting.contains(&(holder.by, holder.target))).map(|holder| holder.by);
    let mut ruling: Vec<usize> = ruling.filter(|by| policies[*by].unavailable.is_none()).collect();
    // Policies stand in the order of their age.
    ruling.sort_unstable_by_key(|by| (policies[*by].settings.default_quota.is_none(), *by));
    ruling.dedup();
    let mut deciding = HashSet::with_capacity(ruling.len());
    let mut yields = vec![false; policies.len()];
    for by in ruling {
        let settings = &policies[by].settings;
        let store = settings.store.as_deref().unwrap_or_default();
        // A store that cannot be read has no database, but a name.
        let database = stores.find(store).map(|index| stores.databases.number(index)).map_err(|_| store);
        yields[by] = !deciding.insert((database, settings.key_prefix.as_str()));
    }
    for (policy, yields) in policies.iter_mut().zip(yields) {
        policy.settings.yields = yields;
    }
}
