//! Each object by itself: whether it is valid, permitted and can be enforced, and whether its targets are there, in;
//! its policy with what it claims out, or what was in force before. Pure.

use std::sync::Arc;

use super::{
    Draft, Held, Surroundings,
    kept::{Last, kept},
    owner_name,
};
use crate::{
    Life, Reason, Verdict, World,
    gateway::Policy,
    kind::Kind,
    merge::{Claim, Narrower},
    plan::Declared,
    stores::Stores,
};

impl<K: Kind> Draft<K> {
    /// `held`: what was found to have no room.
    pub(super) fn examine(&mut self, around: &Surroundings<'_, '_, K>, held: &Held) {
        for index in 0..self.verdicts.len() {
            let verdict = &mut self.verdicts[index];
            if verdict.life != Life::Stays {
                leave::<K>(verdict, around.world, around.stores);
                continue;
            }
            let understood = understood(verdict, around);
            match held.get(&index).map_or(understood, |why| Err(vec![why.clone()])) {
                Ok(object) => self.take(index, &object, around),
                Err(reasons) => self.keep(index, reasons, around),
            }
        }
    }

    /// It is as it says.
    fn take(&mut self, index: usize, object: &K::Object, around: &Surroundings<'_, '_, K>) {
        let Surroundings { world, form: _, existing, stores, targets } = *around;
        let verdict = &mut self.verdicts[index];
        let by = self.policies.len();
        let before = self.named.len();
        for (at, target) in K::targets(object).iter().enumerate() {
            let problem = match targets.matched(&verdict.key.namespace, at, target) {
                Ok(matched) => {
                    self.named.push(Claim { what: matched.named, by, target: at });
                    let claim = |what| Claim { what, by, target: at };
                    self.derived.extend(matched.derived.into_iter().map(claim));
                    self.beside.extend(matched.beside.into_iter().map(claim));
                    None
                }
                Err(reason) => Some(reason),
            };
            verdict.targets.push((target.clone(), problem));
        }
        let settings = K::settings(world, object, &verdict.key);
        (verdict.declared, verdict.withheld) = declared::<K>(&settings, stores);
        if self.named.len() > before {
            let name = verdict.key.to_string();
            self.policies.push(Policy {
                programmed: existing.enforces(&name),
                in_force: self.named[before..].iter().any(|claim| existing.holds(&claim.what, &settings)),
                name,
                verdict: index,
                unavailable: unavailable(K::store(&settings), stores),
                settings,
                narrower: if K::allows_narrower(object) { Narrower::Allowed } else { Narrower::Refused },
                kept: false,
            });
        }
    }

    /// It cannot be taken at its word, and keeps its last rule: nothing becomes free by a typo.
    fn keep(&mut self, index: usize, reasons: Vec<Reason>, around: &Surroundings<'_, '_, K>) {
        let Surroundings { world, form: _, existing: _, stores, targets } = *around;
        let verdict = &mut self.verdicts[index];
        let name = verdict.key.to_string();
        let kept = kept::<K>(verdict, &name, around);
        verdict.refused = reasons;
        verdict.targets = kept.targets;
        let Some(Last { settings, named, derived, refuses }) = kept.last else {
            if let (Some(object), Some(reason @ Reason::NotTrusted { .. })) =
                (K::of(&verdict.object), verdict.refused.first())
            {
                let refused = |(at, target)| {
                    let matched = targets.matched(&verdict.key.namespace, at, target);
                    (target.clone(), Some(matched.err().unwrap_or_else(|| reason.clone())))
                };
                verdict.targets = K::targets(object).iter().enumerate().map(refused).collect();
            }
            return;
        };
        let settings = K::owned_by(settings, owner_name(world, &verdict.key));
        let refusing = refuses.as_ref().map(|reason| format!("{}: {}", reason.reason(), K::CHOICE.0));
        let unavailable = refusing.or_else(|| unavailable(K::store(&settings), stores));
        if let Some(refuses) = &refuses
            && !verdict.refused.contains(refuses)
        {
            verdict.refused.push(refuses.clone());
        }
        verdict.withheld = refuses.or_else(|| stores.find(K::store(&settings)?).err());
        let by = self.policies.len();
        let claim = |(target, what)| Claim { what, by, target };
        self.named.extend(named.into_iter().map(claim));
        self.derived.extend(derived.into_iter().map(claim));
        self.policies.push(Policy {
            name,
            verdict: index,
            unavailable,
            settings,
            programmed: true,
            in_force: true,
            narrower: Narrower::AsItIs,
            kept: true,
        });
    }
}

/// The object as it is to be enforced, or all that has to be mended before it can be taken at its word.
fn understood<K: Kind>(verdict: &Verdict, around: &Surroundings<'_, '_, K>) -> Result<Arc<K::Object>, Vec<Reason>> {
    let Some(object) = K::of(&verdict.object) else {
        let error = verdict.object.error().unwrap_or_default();
        return Err(vec![Reason::Undecodable(error.to_owned())]);
    };
    let mut reasons: Vec<Reason> = K::validate(object).err().map(Reason::Invalid).into_iter().collect();
    let readable = reasons.is_empty();
    let unsupported = if readable { around.form.unsupported(object) } else { Vec::new() };
    if !unsupported.is_empty() {
        reasons.push(Reason::NotSupportedByPlugin(unsupported));
    }
    if K::module(&around.world.settings).is_none() {
        return Err(vec![Reason::NoModule]);
    }
    let namespace = &verdict.key.namespace;
    if K::chosen(object) && !around.world.settings.trusts(namespace) {
        reasons.push(Reason::choice_not_trusted::<K>(namespace));
    }
    let name = verdict.key.to_string();
    let found = around.existing.policies.get(&name).filter(|_| around.existing.enforces(&name));
    reasons.extend(K::sources(around.world, object, &verdict.key, found).filter(|_| readable));
    if reasons.is_empty() {
        return Ok(object.clone());
    }
    let names_targets = |reason: &Reason| match reason {
        Reason::Invalid(refusals) => refusals.iter().any(|refusal| refusal.field.starts_with("spec.targetRefs")),
        _ => false,
    };
    if !reasons.iter().any(names_targets) {
        let targets = K::targets(object).iter().enumerate();
        reasons.extend(targets.filter_map(|(at, target)| around.targets.matched(namespace, at, target).err()));
    }
    Err(reasons)
}

/// It limits nothing any more: its rules are the first that go.
fn leave<K: Kind>(verdict: &mut Verdict, world: &World, stores: &Stores) {
    verdict.refused.push(Reason::BeingDeleted);
    if let Some(object) = K::of(&verdict.object) {
        let all = K::targets(object).iter().cloned();
        verdict.targets.extend(all.map(|target| (target, Some(Reason::BeingDeleted))));
        if K::validate(object).is_ok() {
            (verdict.declared, verdict.withheld) = declared::<K>(&K::settings(world, object, &verdict.key), stores);
        }
    }
}

/// Where the balances of an object are, and why its store cannot be used.
fn declared<K: Kind>(settings: &K::Settings, stores: &Stores) -> (Option<Declared>, Option<Reason>) {
    let store = K::store(settings).map(|store| stores.find(store));
    let found = store.as_ref().and_then(|store| store.as_ref().ok().copied());
    (K::declared(settings, found), store.and_then(Result::err))
}

/// Why requests are refused though the rule is there. It names nothing that users choose freely and no detail that
/// could change without meaning anything new: every change is pushed to all gateways.
fn unavailable(store: Option<&str>, stores: &Stores) -> Option<String> {
    let store = store?;
    if stores.wire.contains_key(store) {
        return None;
    }
    let reason = stores.find(store).err().map_or("StoreNotFound", |reason| reason.reason());
    Some(format!("{reason}: store {store}"))
}
