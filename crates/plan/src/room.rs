//! What fits into one WasmPlugin. Policies and what they match in; slots, and edits, that have no room out. Pure.

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

/// What does not fit, and the limit it would exceed.
pub(crate) struct Lacking {
    pub(crate) slots: Vec<NoRoom>,
    /// Policies whose settings, as the gateway has them, were edited to what takes more.
    pub(crate) grown: Vec<(usize, Reason)>,
}

/// A slot that has no room.
pub(crate) struct NoRoom {
    pub(crate) slot: usize,
    pub(crate) why: Reason,
}

/// The parts of what a policy takes: what the gateway has under rules already, by the settings it has there; what those
/// take in addition as they are now; and what it has not under any rule.
const COVERED: usize = 0;
const GROWTH: usize = 1;
const MORE: usize = 2;

impl<'a, K: Kind> Room<'a, K> {
    pub(crate) const fn new(settings: &'a Settings, form: &'static dyn Form<K>) -> Self {
        Self { settings, form }
    }

    /// What is programmed goes first, also before what older objects want in addition, be that targets or larger
    /// settings; of what is new the administrator's, then what the oldest want. No namespace that is not trusted adds
    /// anything beyond its share, also while there is room: what is programmed is not taken out to make some for others.
    pub(crate) fn lacks(
        &self,
        policies: &[Policy<K>],
        stores: Stores<'_>,
        existing: &Existing<K>,
        slots: &[Slot<Matcher>],
    ) -> Lacking {
        let part = |slot: &Slot<Matcher>| if existing.covers(&slot.what) { COVERED } else { MORE };
        let held = || slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot, slot.holders.first()?.by)));
        let sizes: Vec<[Size; 2]> = policies.iter().map(|policy| self.sizes(policy, stores, existing)).collect();
        let mut needs = vec![[Need::default(); 3]; policies.len()];
        // Whether it has a rule for all of its routes, and one for all of its services.
        let mut shared = vec![[false; 2]; policies.len()];
        for (_, slot, by) in held() {
            let [before, growth] = sizes[by];
            let need = &mut needs[by][part(slot)];
            let (new_rule, name) = match &slot.what {
                Matcher::Route(name) => (!std::mem::replace(&mut shared[by][0], true), name.as_str()),
                Matcher::Service(name) => (!std::mem::replace(&mut shared[by][1], true), name.as_str()),
                Matcher::Domain(name) => (true, name.as_str()),
                Matcher::Gateway => (true, "*"),
            };
            need.add(ENTRY + name.len(), 0);
            if new_rule {
                need.add(before.rule, before.note);
                needs[by][GROWTH].add(growth.rule, growth.note);
            }
        }
        for (needs, [before, growth]) in needs.iter_mut().zip(&sizes) {
            if let Some(first) = [COVERED, MORE].into_iter().find(|part| needs[*part] != Need::default()) {
                needs[first].add(before.once, 0);
                needs[GROWTH].add(growth.once, 0);
            }
        }

        // What several policies share is paid for by the first.
        let schedule = |policy: usize| K::refresh(&policies[policy].settings).map(|refresh| refresh.schedule.as_str());
        let mut order: Vec<(usize, usize)> =
            (0..policies.len()).flat_map(|policy| [COVERED, GROWTH, MORE].map(|part| (policy, part))).collect();
        order.retain(|(policy, part)| needs[*policy][*part] != Need::default());
        let stays = |policy: usize| policies[policy].programmed || policies[policy].in_force;
        order.sort_by_key(|(policy, part)| {
            let is_new = !stays(*policy) || *part != COVERED;
            let whose = is_new.then(|| !self.settings.trusts(policies[*policy].namespace()));
            (whose, !stays(*policy), *part, *policy)
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
            let is_new = !stays(policy) || part != COVERED;
            let of_share = own.as_ref().map(|own| match own.without(need) {
                Err(_) if !is_new => Ok(Need::default()),
                rest => rest,
            });
            match (left.without(need), of_share.unwrap_or(Ok(left))) {
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
        let grown = |policy| Some((policy, out.get(&(policy, GROWTH))?.clone()));
        Lacking { slots: held().filter_map(lost).collect(), grown: (0..policies.len()).filter_map(grown).collect() }
    }

    /// By the settings that the gateway has of it, and what it takes in addition as it is now.
    fn sizes(&self, policy: &Policy<K>, stores: Stores<'_>, existing: &Existing<K>) -> [Size; 2] {
        let now = self.form.size(policy, stores);
        let edited = (policy.programmed && !policy.kept).then(|| existing.before(&policy.name, &policy.settings));
        let Some(before) = edited.flatten() else { return [now, Size::default()] };
        let before = self.form.size(&policy.with(before.clone()), stores);
        let before =
            Size { once: before.once.min(now.once), rule: before.rule.min(now.rule), note: before.note.min(now.note) };
        let growth = Size { once: now.once - before.once, rule: now.rule - before.rule, note: now.note - before.note };
        [before, growth]
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
