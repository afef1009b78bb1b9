//! What the WasmPlugins are made of, before it is known which balances are in Redis. Data only.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use api::{TargetKind, TargetRef, WasmPlugin};
use enforcement::wire;

use crate::{
    Settings,
    existing::Existing,
    form::Form,
    kind::Kind,
    merge::{self, Narrower, Slot},
    tables::Tables,
};

/// What all kinds share.
pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    /// For whom modules say what they run.
    pub(crate) whose: String,
    /// Above every auth plugin.
    pub(crate) guard_priority: i64,
    /// The stores that can be used, by name.
    pub(crate) stores: BTreeMap<String, wire::Store>,
    /// The templates that the gateway can replace now; no other may be written.
    pub(crate) templates: HashSet<String>,
    /// The schedules of policies that decide on anything.
    pub(crate) tables: Tables,
    /// The guard's WasmPlugin as found.
    pub(crate) guard: Option<Arc<WasmPlugin>>,
}

/// What is one kind's.
pub(crate) struct Part<K: Kind> {
    /// How policies are to be written.
    pub(crate) form: &'static dyn Form<K>,
    /// Oldest first.
    pub(crate) policies: Vec<Policy<K>>,
    /// What is matched, each with the policies that have a claim to it, the oldest first.
    pub(crate) slots: Vec<Slot<Matcher>>,
    /// The targets, by policy and index, that wait until another plugin no longer charges for them.
    pub(crate) waiting: HashSet<(usize, usize)>,
    /// Its WasmPlugin as found.
    pub(crate) plugin: Option<Arc<WasmPlugin>>,
    /// What that says.
    pub(crate) found: Existing<K>,
    /// What was in force last: the same, unless somebody else changed it.
    pub(crate) existing: Existing<K>,
}

/// An object's settings, as a policy of its own; objects with equal settings on one target need only one.
pub(crate) struct Policy<K: Kind> {
    /// `<namespace>/<name>` of the object.
    pub(crate) name: String,
    /// The index of its verdict.
    pub(crate) verdict: usize,
    pub(crate) settings: K::Settings,
    /// Whether the gateway has it already.
    pub(crate) programmed: bool,
    /// Whether the gateway holds one of its targets to the same settings, on behalf of another object.
    pub(crate) in_force: bool,
    /// Whether other namespaces may have a part of its Gateway and Domain targets.
    pub(crate) narrower: Narrower,
    /// Why the store cannot be used, so that what is matched is refused.
    pub(crate) unavailable: Option<String>,
    /// Whether it was read from the gateway's WasmPlugin, because the object cannot be: it needs no balances.
    pub(crate) kept: bool,
}

/// What a rule matches. In the order in which they are tried: the most specific first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Matcher {
    Route(String),
    Service(String),
    Domain(String),
    Gateway,
}

impl Matcher {
    /// As an object would name it; a route as if it were an Ingress.
    pub(crate) fn target(&self) -> TargetRef {
        let (kind, name) = match self {
            Self::Route(name) => (TargetKind::Ingress, Some(name)),
            Self::Service(name) => (TargetKind::Service, Some(name)),
            Self::Domain(name) => (TargetKind::Domain, Some(name)),
            Self::Gateway => (TargetKind::Gateway, None),
        };
        TargetRef { kind, name: name.cloned() }
    }
}

impl<K: Kind> Policy<K> {
    /// As the module reads it. Without a usable store it has none: one template that cannot be expanded would leave
    /// all of the gateway's configuration unexpanded.
    pub(crate) fn written(&self) -> K::Settings {
        match &self.unavailable {
            Some(unavailable) => K::refusing(self.settings.clone(), unavailable.clone()),
            None => self.settings.clone(),
        }
    }

    /// The same with other settings.
    pub(crate) fn with(&self, settings: K::Settings) -> Self {
        Self { name: self.name.clone(), unavailable: self.unavailable.clone(), settings, ..*self }
    }
}

impl<K: Kind> merge::Settings for Policy<K> {
    fn difference(&self, other: &Self) -> Option<&'static str> {
        K::difference(&self.settings, &other.settings)
    }

    fn namespace(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(namespace, _)| namespace)
    }

    fn narrower(&self) -> Narrower {
        self.narrower
    }
}
