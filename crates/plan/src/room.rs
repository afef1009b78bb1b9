//! What fits into one WasmPlugin. Policies and what they match in, slots that have no room out. Pure.

use std::collections::{HashMap, HashSet};

use crate::{
    Reason, Settings,
    existing::Existing,
    form::{Form, Size, Stores},
    gateway::{Matcher, Policy},
    kind::Kind,
    merge::{Settings as _, Slot},
};

/// Bytes of policies and rules in the WasmPlugin's spec. etcd takes 1.5 MiB with all metadata.
pub(crate) const LIMIT: usize = 1 << 20;
/// Bytes of our annotation. The API server takes 256 KiB of them; some are left to others.
const NOTES_LIMIT: usize = 240 << 10;
/// Around a matcher: `"",`.
const ENTRY: usize = 4;

/// How much there is of it.
pub(crate) struct Room<'a, K: Kind> {
    settings: &'a Settings,
    form: &'static dyn Form<K>,
}

/// Bytes of the spec and of annotations.
#[derive(Clone, Copy, Default, PartialEq)]
struct Need {
    spec: usize,
    notes: usize,
}

/// A slot that has no room, and the limit it would exceed.
pub(crate) struct NoRoom {
    pub(crate) slot: usize,
    pub(crate) why: Reason,
}

impl<'a, K: Kind> Room<'a, K> {
    pub(crate) const fn new(settings: &'a Settings, form: &'static dyn Form<K>) -> Self {
        Self { settings, form }
    }

    /// The slots that do not fit. What is programmed goes first, also before what older objects want in addition, then
    /// the oldest. No namespace that is not trusted takes more than its share, also while there is room: what is
    /// programmed is not taken out to make some for others.
    pub(crate) fn lacks(
        &self,
        policies: &[Policy<K>],
        stores: Stores<'_>,
        existing: &Existing<K>,
        slots: &[Slot<Matcher>],
    ) -> Vec<NoRoom> {
        let part = |slot: &Slot<Matcher>| usize::from(!existing.covers(&slot.what));
        let held = || slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot, slot.holders.first()?.by)));
        let sizes: Vec<Size> = policies.iter().map(|policy| self.form.size(policy, stores)).collect();
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

        // What several policies share is paid for by the first.
        let schedule = |policy: usize| K::refresh(&policies[policy].settings).map(|refresh| refresh.schedule.as_str());
        let mut order: Vec<(usize, usize)> =
            (0..policies.len()).flat_map(|policy| [(policy, 0), (policy, 1)]).collect();
        order.retain(|(policy, part)| needs[*policy][*part] != Need::default());
        order.sort_by_key(|(policy, part)| {
            let programmed = policies[*policy].programmed || policies[*policy].in_force;
            (!programmed, *part, *policy)
        });
        let mut left = Need { spec: LIMIT, notes: NOTES_LIMIT };
        let share = self.share();
        let mut shares: HashMap<&str, Need> = HashMap::new();
        let mut out = HashMap::new();
        let mut paid = HashSet::new();
        for (policy, part) in order {
            let namespace = policies[policy].namespace();
            let schedule = schedule(policy).filter(|name| !paid.contains(name));
            let mut need = needs[policy][part];
            need.add(schedule.map_or(0, |name| self.form.schedule_size(name)), 0);
            let own = (!self.settings.trusts(namespace)).then(|| shares.entry(namespace).or_insert(share));
            match (left.without(need), own.as_ref().map_or(Ok(left), |own| own.without(need))) {
                (Ok(rest), Ok(rest_of_share)) => {
                    left = rest;
                    own.into_iter().for_each(|own| *own = rest_of_share);
                    paid.extend(schedule);
                }
                (Err(limit), _) => drop(out.insert((policy, part), Reason::GatewayFull { limit })),
                (_, Err(_)) => {
                    let namespace = namespace.to_owned();
                    let percent = self.settings.namespace_share;
                    out.insert((policy, part), Reason::ShareFull { namespace, percent, limit: LIMIT });
                }
            }
        }
        let lost = |(slot, what, by): (usize, &Slot<Matcher>, usize)| {
            out.get(&(by, part(what))).map(|why| NoRoom { slot, why: why.clone() })
        };
        held().filter_map(lost).collect()
    }

    /// What one namespace may take.
    fn share(&self) -> Need {
        let of = |limit: usize| limit / 100 * usize::from(self.settings.namespace_share);
        Need { spec: of(LIMIT), notes: of(NOTES_LIMIT) }
    }
}

impl Need {
    const fn add(&mut self, spec: usize, notes: usize) {
        self.spec += spec;
        self.notes += notes;
    }

    /// What is left, or the limit that would be exceeded.
    fn without(self, need: Self) -> Result<Self, usize> {
        let spec = self.spec.checked_sub(need.spec).ok_or(LIMIT)?;
        let notes = self.notes.checked_sub(need.notes).ok_or(NOTES_LIMIT)?;
        Ok(Self { spec, notes })
    }
}
