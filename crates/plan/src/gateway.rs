//! What the WasmPlugins are made of, before it is known which balances are in Redis. Data only.

use std::{collections::BTreeMap, sync::Arc};

use api::WasmPlugin;
use enforcement::wire;

use crate::{Settings, merge::Slot};

pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    /// Above every auth plugin.
    pub(crate) guard_priority: i64,
    /// The stores that can be used, by name.
    pub(crate) stores: BTreeMap<String, wire::Store>,
    /// Oldest first.
    pub(crate) policies: Vec<Policy>,
    /// What is matched, each with the policies that have a claim to it, the oldest first.
    pub(crate) slots: Vec<Slot<Matcher>>,
    /// The WasmPlugins as found.
    pub(crate) guard: Option<Arc<WasmPlugin>>,
    pub(crate) ai_quota: Option<Arc<WasmPlugin>>,
}

/// An object's settings, as a policy of its own; objects with equal settings on one target need only one.
pub(crate) struct Policy {
    /// `<namespace>/<name>` of the object.
    pub(crate) name: String,
    /// The index of its verdict.
    pub(crate) verdict: usize,
    pub(crate) settings: wire::Policy,
    /// Whether the gateway has it already.
    pub(crate) programmed: bool,
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
