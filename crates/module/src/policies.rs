//! The gateway's counters of each policy. In: what happened. Out: calls of the host; each counter is defined with the
//! first request under its policy. I/O through the host.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use enforcement::steps::Count;
use guest_abi::host::{self, Counter};

/// The counters of one policy, or of one of the models that it declares.
#[derive(Clone, Debug)]
pub(crate) struct PolicyCounters {
    policy: Arc<str>,
    /// At the places of their numbers; nothing where the host has none.
    all: Rc<[Option<Counter>]>,
}

/// Those of all policies, whose numbers stay the same as long as the VM lives.
#[derive(Debug, Default)]
pub(crate) struct Policies(BTreeMap<Arc<str>, PolicyCounters>);

impl Policies {
    pub(crate) fn of(&mut self, kind: &str, policy: &Arc<str>) -> PolicyCounters {
        if let Some(counters) = self.0.get(policy) {
            return counters.clone();
        }
        let define = |count: Count| host::define_counter(&count.metric(kind, policy)).ok();
        let all = Count::ALL.into_iter().map(define).collect();
        let counters = PolicyCounters { policy: Arc::clone(policy), all };
        self.0.insert(Arc::clone(policy), counters.clone());
        counters
    }

    /// `model` is none of a client's making, but declared.
    pub(crate) fn of_model(&mut self, kind: &str, policy: &PolicyCounters, model: &str) -> PolicyCounters {
        self.of(kind, &[&policy.policy, ".model.", model].concat().into())
    }
}

impl PolicyCounters {
    pub(crate) fn add(&self, count: Count, by: i64) {
        if let Some(Some(counter)) = self.all.get(count as usize) {
            let _ = host::count(*counter, by);
        }
    }

    /// One of each.
    pub(crate) fn each(&self, counts: &[Count]) {
        counts.iter().for_each(|count| self.add(*count, 1));
    }
}
