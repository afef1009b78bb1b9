//! Which limits the gateway may note as nearly reached: policies in, for each object what to look for out. Pure.

use std::collections::HashSet;

use enforcement::limit::declared::declared;

use super::Draft;
use crate::{
    kind::Limit,
    near_limits::{Watched, WatchedLimit},
    stores::Stores,
};

impl Draft<Limit> {
    /// What stays of an object that cannot be read, and what limits nothing, says nothing.
    pub(super) fn watch(&mut self, stores: &Stores) {
        for policy in self.policies.iter().filter(|policy| !policy.kept) {
            let verdict = &mut self.verdicts[policy.verdict];
            let mut seen = HashSet::new();
            let limits = declared(&policy.settings).into_iter();
            let limits: Vec<_> =
                limits.filter(|limit| seen.insert(limit.field.clone())).map(WatchedLimit::of).collect();
            let store = policy.settings.store.as_deref().and_then(|store| stores.find(store).ok());
            let limits_any = verdict.targets.iter().any(|(_, problem)| problem.is_none());
            let store = store.filter(|_| limits_any && !limits.is_empty());
            verdict.watched =
                store.map(|store| Watched { store, rule_name: policy.settings.rule_name.clone(), limits });
        }
    }
}
