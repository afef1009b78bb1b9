//! What the gateway holds an object to that cannot be taken at its word: the object and our WasmPlugin as found in;
//! the settings and targets that stay, and why others do not, out. Pure.

use std::collections::BTreeSet;

use api::TargetRef;

use super::Surroundings;
use crate::{
    Reason, Verdict,
    gateway::Matcher,
    kind::Kind,
    targets::{Matched, Targets},
};

pub(super) struct Kept<K: Kind> {
    /// Each target that it had, and why it is not kept.
    pub(super) targets: Vec<(TargetRef, Option<Reason>)>,
    /// Nothing where nothing of it is in force.
    pub(super) last: Option<Last<K>>,
}

/// Settings in force, and what is held to them, each with the index of its target.
pub(super) struct Last<K: Kind> {
    pub(super) settings: K::Settings,
    pub(super) named: Vec<(usize, Matcher)>,
    pub(super) derived: Vec<(usize, Matcher)>,
    /// Why requests are refused by them.
    pub(super) refuses: Option<Reason>,
}

/// Its own rules, and those that another object with equal settings stands for, on targets that were its own as well
/// when it could be understood. What its namespace may not have any more is not kept, and nothing that the form would
/// make stricter for other people's requests than it was.
pub(super) fn kept<K: Kind>(verdict: &Verdict, name: &str, around: &Surroundings<'_, '_, K>) -> Kept<K> {
    let Surroundings { world, form, existing, stores: _, targets } = *around;
    let namespace = verdict.key.namespace.as_str();
    let mut own: BTreeSet<&Matcher> = existing.matchers.get(name).into_iter().flatten().collect();
    let reported = verdict.object.targets().iter();
    let mut had: Vec<Had> = reported
        .filter_map(|status| {
            let target = TargetRef { kind: status.kind, name: status.name.clone() };
            let matched = targets.meant(namespace, &target)?;
            let is_own = own.remove(&matched.named);
            own.retain(|what| !matched.others().any(|other| other == *what));
            let word = Reason::word(&status.reason).filter(|_| !status.accepted);
            let lost = word.map(|reason| Reason::AsBefore { reason, message: status.message.clone() });
            Some(Had { target, matched, is_own, lost })
        })
        .collect();
    while let Some(what) = own.pop_first() {
        let Some((target, mut matched)) = target_of(namespace, what, targets) else { continue };
        let found = |what: &Matcher| own.contains(what);
        matched.derived.retain(found);
        matched.beside.retain(found);
        own.retain(|what| !matched.others().any(|other| other == *what));
        had.push(Had { target, matched, is_own: true, lost: None });
    }

    let own = existing.policies.get(name).map(|settings| (name, settings));
    let standing = own.filter(|_| had.iter().any(|had| had.is_own)).or_else(|| {
        let shared = had.iter().filter(|had| had.lost.is_none());
        shared.into_iter().find_map(|had| existing.over(&had.matched.named))
    });
    let mut all = Kept { targets: Vec::new(), last: None };
    let Some((policy, settings)) = standing else {
        all.targets = had.into_iter().filter_map(|had| Some((had.target, Some(had.lost?)))).collect();
        return all;
    };
    let (mut named, mut derived) = (Vec::new(), Vec::new());
    for Had { target, matched, is_own, lost } in had {
        let at = all.targets.len();
        let in_force = is_own || (lost.is_none() && existing.holds(&matched.named, settings));
        let problem = if in_force {
            let permitted = targets.permitted(namespace, &target, || crate::reason::Target(&target).to_string());
            let not_kept = || {
                let (target, known) = (target.clone(), K::PLUGIN);
                if existing.unsayable.contains(policy) {
                    return Some(Reason::NotSayable { target, known });
                }
                let stricter = !form.keeps(&matched.named, existing.open);
                stricter.then_some(Reason::NotKept { target, known, stricter: K::STRICTER })
            };
            permitted.err().or_else(not_kept)
        } else if let Some(lost) = lost {
            Some(lost)
        } else {
            continue;
        };
        if problem.is_none() {
            named.push((at, matched.named));
            derived.extend(matched.derived.into_iter().chain(matched.beside).map(|what| (at, what)));
        }
        all.targets.push((target, problem));
    }
    let chosen = K::is_chosen(settings, namespace) && !world.settings.trusts(namespace);
    let refuses = chosen.then(|| Reason::choice_not_trusted::<K>(namespace));
    if !named.is_empty() {
        all.last = Some(Last { settings: settings.clone(), named, derived, refuses });
    }
    all
}

/// A target that the object had.
struct Had {
    target: TargetRef,
    matched: Matched,
    /// Whether the gateway has a rule over it in the object's own name.
    is_own: bool,
    /// Why it was not the object's any more, when that was reported last.
    lost: Option<Reason>,
}

/// What a rule without a report is about; nothing for a route of another namespace.
fn target_of(namespace: &str, what: &Matcher, targets: &Targets<'_>) -> Option<(TargetRef, Matched)> {
    let mut target = what.target();
    if let Matcher::Route(route) = what {
        target.name =
            Some(route.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/')).unwrap_or(route).to_owned());
    }
    let matched = targets.meant(namespace, &target).filter(|matched| matched.named == *what)?;
    Some((target, matched))
}

impl Matched {
    fn others(&self) -> impl Iterator<Item = &Matcher> {
        self.derived.iter().chain(&self.beside)
    }
}
