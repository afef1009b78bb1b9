//! Each object by itself: whether it is valid, permitted and can be enforced, and whether its targets are there, in;
//! its policy with what it claims out, or what was in force before. Pure.

use std::sync::Arc;

use api::AiQuota;
use enforcement::{values::DEFAULT_ADMIN_PATH, wire};

use super::{
    Draft, Surroundings,
    kept::{Last, kept},
    owner_name,
};
use crate::{
    Key, Life, Object, Reason, Verdict, World, form,
    gateway::Policy,
    merge::{Claim, Narrower},
    plan::Declared,
    prefix,
    stores::{self, Stores},
    tables,
    validate::validate,
};

impl Draft {
    pub(super) fn examine(&mut self, around: &Surroundings<'_, '_>) {
        for index in 0..self.verdicts.len() {
            let verdict = &mut self.verdicts[index];
            if verdict.life != Life::Stays {
                verdict.leave(around.world, around.stores);
                continue;
            }
            match understood(verdict, around) {
                Ok(quota) => self.take(index, &quota, around),
                Err(reason) => self.keep(index, &reason, around),
            }
        }
    }

    /// It is as it says.
    fn take(&mut self, index: usize, quota: &AiQuota, around: &Surroundings<'_, '_>) {
        let Surroundings { world, form: _, existing, stores, targets } = *around;
        let verdict = &mut self.verdicts[index];
        let by = self.policies.len();
        let before = self.named.len();
        for (at, target) in quota.spec.target_refs.iter().enumerate() {
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
        let settings = settings(world, quota, &verdict.key);
        (verdict.declared, verdict.withheld) = declared(&settings, stores);
        if self.named.len() > before {
            let name = verdict.key.to_string();
            self.policies.push(Policy {
                programmed: existing.enforces(&name),
                in_force: self.named[before..].iter().any(|claim| existing.holds(&claim.what, &settings)),
                name,
                verdict: index,
                unavailable: unavailable(settings.store.as_deref(), stores),
                settings,
                narrower: match quota.spec.allow_narrower {
                    Some(true) => Narrower::Allowed,
                    Some(false) | None => Narrower::Refused,
                },
                kept: false,
            });
        }
    }

    /// It cannot be taken at its word, and keeps its last rule: nothing becomes free by a typo.
    fn keep(&mut self, index: usize, reason: &Reason, around: &Surroundings<'_, '_>) {
        let Surroundings { world, form: _, existing: _, stores, targets } = *around;
        let verdict = &mut self.verdicts[index];
        let name = verdict.key.to_string();
        let kept = kept(verdict, &name, around);
        verdict.refused.push(reason.clone());
        verdict.targets = kept.targets;
        let Some(Last { settings, named, derived, refuses }) = kept.last else {
            if let (Object::Read(quota), Reason::NotTrusted { .. }) = (verdict.object.clone(), reason) {
                let refused = |(at, target)| {
                    let matched = targets.matched(&verdict.key.namespace, at, target);
                    (target.clone(), Some(matched.err().unwrap_or_else(|| reason.clone())))
                };
                verdict.targets = quota.spec.target_refs.iter().enumerate().map(refused).collect();
            }
            return;
        };
        let settings = wire::Policy { owner: owner_name(world, &verdict.key), ..settings };
        let refusing = refuses.as_ref().map(|reason| format!("{}: key prefix", reason.reason()));
        let unavailable = refusing.or_else(|| unavailable(settings.store.as_deref(), stores));
        if let Some(refuses) = &refuses
            && refuses != reason
        {
            verdict.refused.push(refuses.clone());
        }
        verdict.withheld = refuses.or_else(|| stores.find(settings.store.as_deref()?).err());
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

/// The object as it is to be enforced, or why it cannot be taken at its word.
fn understood(verdict: &Verdict, around: &Surroundings<'_, '_>) -> Result<Arc<AiQuota>, Reason> {
    let quota = match &verdict.object {
        Object::Read(quota) => quota,
        Object::Undecodable(unread) => return Err(Reason::Undecodable(unread.error.clone())),
    };
    validate(quota).map_err(Reason::Invalid)?;
    let unsupported = around.form.unsupported(&quota.spec);
    if !unsupported.is_empty() {
        return Err(Reason::NotSupportedByPlugin(unsupported));
    }
    let namespace = &verdict.key.namespace;
    if quota.spec.key_prefix.is_some() && !around.world.settings.trusts(namespace) {
        return Err(Reason::prefix_not_trusted(namespace));
    }
    Ok(quota.clone())
}

impl Verdict {
    /// It limits nothing any more: its rules are the first that go.
    fn leave(&mut self, world: &World, stores: &Stores) {
        self.refused.push(Reason::BeingDeleted);
        if let Object::Read(quota) = &self.object {
            let all = quota.spec.target_refs.iter().cloned();
            self.targets.extend(all.map(|target| (target, Some(Reason::BeingDeleted))));
            if validate(quota).is_ok() {
                (self.declared, self.withheld) = declared(&settings(world, quota, &self.key), stores);
            }
        }
    }
}

/// Where the balances of an object are, and why its store cannot be used.
fn declared(settings: &wire::Policy, stores: &Stores) -> (Option<Declared>, Option<Reason>) {
    let store = settings.store.as_deref().map(|store| stores.find(store));
    let found = store.as_ref().and_then(|store| store.as_ref().ok().copied());
    let declared = Declared { key_prefix: settings.key_prefix.clone(), store: found };
    (Some(declared), store.and_then(Result::err))
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

fn settings(world: &World, quota: &AiQuota, key: &Key) -> wire::Policy {
    let spec = &quota.spec;
    let derived = || spec.target_refs.first().map(|target| prefix::derived(&key.namespace, target)).unwrap_or_default();
    let mut paths = match &spec.paths {
        Some(paths) => paths.clone(),
        None => form::of(world.settings.flavor).default_paths(),
    };
    paths.sort_unstable();
    wire::Policy {
        store: Some(spec.store_ref.as_ref().map_or(stores::DEFAULT, |store| &store.name).to_owned()),
        key_prefix: spec.key_prefix.clone().unwrap_or_else(derived),
        owner: owner_name(world, key),
        paths,
        admin: spec.admin.as_ref().map(|admin| wire::Admin {
            consumer: admin.consumer.clone(),
            path: admin.path.clone().unwrap_or_else(|| DEFAULT_ADMIN_PATH.to_owned()),
        }),
        default_quota: spec.default_quota,
        refresh: spec.refresh.as_ref().and_then(tables::refresh),
        unavailable: None,
    }
}
