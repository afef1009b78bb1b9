//! How policies are written into a WasmPlugin and read back, by whose module enforces them: what a configuration can
//! say at all, what it takes, and what one that was found says. Pure.

mod native;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use api::{MatchRule, WasmPlugin};
use enforcement::wire;
use serde_json::Value;

use crate::gateway::Gateway;
pub(crate) use native::config;

/// One way to write policies. All of them are read, whichever is written.
pub(crate) trait Form: Send + Sync {
    /// What is left of these settings when they are written so and read back.
    fn said<'a>(&self, settings: &'a wire::Policy) -> Cow<'a, wire::Policy>;

    fn write(&self, gateway: &Gateway, rules: Vec<Ruled>) -> Body;

    /// Bytes of the spec that a policy takes once.
    fn policy_size(&self, name: &str, settings: &wire::Policy) -> usize;

    /// Bytes of the spec that each of its rules takes, without what it matches.
    fn rule_size(&self, name: &str, settings: &wire::Policy) -> usize;
}

/// A rule to be written: which policy what it matches is under.
pub(crate) struct Ruled {
    /// Without its configuration.
    pub(crate) rule: MatchRule,
    /// The index of the policy.
    pub(crate) by: usize,
    /// Whether requests without consumer pass on paths that the policy has nothing to do with.
    pub(crate) open: bool,
}

/// What of a WasmPlugin a form writes.
pub(crate) struct Body {
    pub(crate) default_config: Option<Value>,
    pub(crate) match_rules: Vec<MatchRule>,
}

/// What a WasmPlugin that was found says, as far as it can be read.
#[derive(Default)]
pub(crate) struct Read {
    pub(crate) policies: HashMap<String, wire::Policy>,
    pub(crate) stores: BTreeMap<String, wire::Store>,
    /// For each rule its policy; nothing where it is not as any form writes it.
    pub(crate) rules: Vec<Option<String>>,
}

/// The form of the module that is to enforce.
pub(crate) fn wanted() -> &'static dyn Form {
    &native::Native
}

/// Reads a WasmPlugin in the form it is in.
pub(crate) fn read(plugin: &WasmPlugin) -> Read {
    native::read(&plugin.spec).unwrap_or_default()
}

/// Structs of strings, numbers and maps with string keys: always a value.
pub(crate) fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn size(of: &impl serde::Serialize) -> usize {
    serde_json::to_vec(of).map_or(0, |text| text.len())
}
