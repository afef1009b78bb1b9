//! Which policy decides on what requests made from defaults, whoever made them: policies with what they match in, and to
//! each whether it yields to another that has its balances in the same place out. Pure.

use std::collections::{BTreeSet, HashSet};

use crate::{gateway::Part, kind::Quota, models, stores::Stores};

/// Of all that are in force with their balances in one place, the oldest with a default decides; where none has one, the
/// oldest. Such a balance is nobody's who lists it: when the object that made it is gone, or moved, the next one has it.
pub(super) fn decide(quotas: &mut Part<Quota>, stores: &Stores) {
    let Part { policies, slots, waiting, .. } = quotas;
    let holders = slots.iter().flat_map(|slot| &slot.holders);
    let ruling = holders.filter(|holder| !waiting.contains(&(holder.by, holder.target))).map(|holder| holder.by);
    let ruling: BTreeSet<usize> = ruling.filter(|by| policies[*by].unavailable.is_none()).collect();
    let places = |by: &usize| {
        let of = |(place, (prefix, default)): (usize, (String, Option<i64>))| (default.is_none(), *by, place, prefix);
        models::places(&policies[*by].settings).enumerate().map(of).collect::<Vec<_>>()
    };
    let mut places: Vec<_> = ruling.iter().flat_map(places).collect();
    // Policies stand in the order of their age.
    places.sort_unstable();
    let mut deciding = HashSet::with_capacity(places.len());
    let mut yielding = HashSet::new();
    for (_, by, place, prefix) in places {
        let store = policies[by].settings.store.as_deref().unwrap_or_default();
        // A store that cannot be read has no database, but a name.
        let database = stores.find(store).map(|index| stores.databases.number(index)).map_err(|_| store);
        if !deciding.insert((database, prefix)) {
            yielding.insert((by, place));
        }
    }
    for (by, policy) in policies.iter_mut().enumerate() {
        for (place, yields) in models::yields(&mut policy.settings).enumerate() {
            *yields = yielding.contains(&(by, place));
        }
    }
}
