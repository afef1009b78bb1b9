//! How policies are written into a WasmPlugin and read back, by whose module enforces them: what a configuration can
//! say at all, what it takes, and what one that was found says. Pure.

mod native;
mod upstream;
mod upstream_limits;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use api::{MatchRule, WasmPlugin};
use enforcement::wire;
use serde_json::Value;

use crate::{
    Refusal, Refused,
    gateway::{Gateway, Matcher, Part, Policy},
    kind::Kind,
};
pub(crate) use native::{Native, config, parsed, read as read_native};
pub(crate) use upstream::{Upstream, read as read_upstream};
pub(crate) use upstream_limits::{UpstreamLimits, read as read_upstream_limits};

/// The annotation of the ai-quota WasmPlugin with what rules in upstream's form cannot say: a list with an entry for
/// each rule.
pub const POLICIES: &str = "quota.higress.io/policies";

/// Before the name of what was found without one: neither policies nor stores are called so.
pub(crate) const NAMELESS: char = '?';

/// One way to write policies. All of them are read, whichever is written.
pub(crate) trait Form<K: Kind>: Sync {
    /// What a spec asks for that the module has no means for.
    fn unsupported(&self, object: &K::Object) -> Vec<Refusal>;

    /// What is metered where a spec has no paths; nothing: what the module meters by itself.
    fn default_paths(&self) -> Vec<String>;

    /// What is left of these settings when they are written so and read back.
    fn said<'a>(&self, settings: &'a K::Settings) -> Cow<'a, K::Settings>;

    /// Whether the module begins new periods by itself; otherwise whoever applies balances does.
    fn rolls(&self) -> bool;

    /// Whether what is in force over this may stay, though its object cannot be taken at its word: it must not become
    /// stricter for requests that nobody meant. `open`: whether it lets requests without consumer pass now.
    fn keeps(&self, what: &Matcher, open: bool) -> bool;

    /// Whether settings that are in force, in whichever form, do in this one what they did: what it cannot say is not
    /// kept as something else.
    fn can_say(&self, settings: &K::Settings) -> bool;

    /// Whether the module may run without any rule: then gateways load it while rules wait.
    fn loads_ahead(&self) -> bool;

    fn write(&self, gateway: &Gateway, part: &Part<K>, rules: Vec<Ruled>) -> Body;

    fn size(&self, policy: &Policy<K>, stores: Stores<'_>) -> Size;

    /// Bytes of the spec that a schedule of this name takes once.
    fn schedule_size(&self, _name: &str) -> usize {
        0
    }
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
#[derive(Default)]
pub(crate) struct Body {
    pub(crate) default_config: Option<Value>,
    pub(crate) match_rules: Vec<MatchRule>,
    /// The annotation [`POLICIES`].
    pub(crate) policies: Option<String>,
}

/// Bytes that a policy takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// In the spec, once.
    pub(crate) once: usize,
    /// In the spec, for each of its rules, without what that matches.
    pub(crate) rule: usize,
    /// In annotations, for each of its rules.
    pub(crate) note: usize,
}

/// The stores that rules may lead to, by name.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    pub(crate) usable: &'a BTreeMap<String, wire::Store>,
    /// What the gateway knows now.
    pub(crate) known: &'a BTreeMap<String, wire::Store>,
}

/// What a WasmPlugin that was found says, as far as it can be read.
pub(crate) struct Read<K: Kind> {
    /// Whether rules over Domains and the gateway let requests without consumer pass where nothing is metered.
    pub(crate) open: bool,
    pub(crate) policies: HashMap<String, K::Settings>,
    pub(crate) stores: BTreeMap<String, wire::Store>,
    pub(crate) schedules: BTreeMap<String, wire::Schedule>,
    /// For each rule its policy; nothing where it is not as any form writes it.
    pub(crate) rules: Vec<Option<String>>,
}

impl<K: Kind> Default for Read<K> {
    fn default() -> Self {
        Self {
            open: false,
            policies: HashMap::new(),
            stores: BTreeMap::new(),
            schedules: BTreeMap::new(),
            rules: Vec::new(),
        }
    }
}

/// Models are nothing to upstream's modules.
fn beyond_upstream(without_models: bool) -> Option<Refusal> {
    (!without_models).then(|| Refusal {
        field: "spec.models".to_owned(),
        reason: Refused::Unsupported,
        message: "the module does not tell models apart: leave it out".to_owned(),
    })
}

/// Whether two WasmPlugins enforce the same and say the same about it.
pub(crate) fn same(a: &WasmPlugin, b: &WasmPlugin) -> bool {
    a.spec == b.spec && policies(a) == policies(b)
}

fn policies(plugin: &WasmPlugin) -> Option<&String> {
    plugin.metadata.annotations.as_ref()?.get(POLICIES)
}

/// Structs of strings, numbers and maps with string keys: always a value.
pub(crate) fn value(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// The same, as text.
pub(crate) fn text(of: &impl serde::Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}
