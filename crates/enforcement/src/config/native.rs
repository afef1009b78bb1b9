//! Our own form of the configuration (`crate::wire`). In: what stands under `aiquota`, and rules that name a
//! policy. Out: policies, each read by itself, so that a broken one refuses only what it matches. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::node::{self, Unreadable};
use super::{Common, Compiled, ConfigError, Invalid, NamedStores, Policy, Store, Stores, Target};
use crate::wire;

/// The key of a rule that names its policy.
pub(super) const POLICY: &str = "policy";

/// What stands under `aiquota`.
pub(super) enum Read<P: Policy> {
    Guard,
    Policies(Native<P>),
}

/// Policies, read as far as they can be.
pub(super) struct Native<P: Policy> {
    pub(super) shared: P::Shared,
    pub(super) report: Option<wire::Report>,
    policies: BTreeMap<String, Result<Compiled<P>, Invalid>>,
}

/// For each rule the name of its policy; equal ones are one text.
pub(super) fn names(rules: &[Map<String, Value>]) -> Vec<Option<Arc<str>>> {
    let mut known: BTreeMap<&str, Arc<str>> = BTreeMap::new();
    let names = rules.iter().map(|keys| {
        let name = keys.get(POLICY)?.as_str()?;
        Some(Arc::clone(known.entry(name).or_insert_with(|| name.into())))
    });
    names.collect()
}

impl<P: Policy> Native<P> {
    pub(super) fn read(mut native: Value, stores: &mut Stores) -> Result<Read<P>, ConfigError> {
        let version = native.get("version");
        if version.and_then(Value::as_u64) != Some(wire::VERSION.into()) {
            return Err(ConfigError::Version(version.unwrap_or(&Value::Null).to_string()));
        }
        // Stores hold secrets, which the reader's messages would quote: they are read apart.
        let mut declared = BTreeMap::new();
        for (name, value) in take(&mut native, "stores")? {
            let store = Store::native(value).map_err(|invalid| invalid.under(&format!("aiquota.stores.{name}")));
            declared.insert(name, store);
        }
        let policies = take(&mut native, "policies")?;
        let report = report(&mut native)?;
        let shared = match P::common(native)? {
            Common::Guard => return Ok(Read::Guard),
            Common::Shared(shared) => shared,
        };
        let mut named = BTreeMap::new();
        for (name, value) in policies {
            let stores = NamedStores { declared: &declared, used: &mut *stores };
            let policy = read(value)
                .and_then(|policy| P::native(policy, &shared, stores))
                .map_err(|invalid| invalid.under(&format!("aiquota.policies.{name}")));
            named.insert(name, policy);
        }
        Ok(Read::Policies(Self { shared, report, policies: named }))
    }

    /// What a rule with these keys asks for.
    pub(super) fn target(&self, keys: &Map<String, Value>) -> Result<Target<P>, Invalid> {
        let Some(name) = keys.get(POLICY).and_then(Value::as_str) else {
            return Err(Invalid::new(POLICY, "is not a name"));
        };
        let open = flag(keys.get("open")).ok_or_else(|| Invalid::new("open", "is neither true nor false"))?;
        match self.policies.get(name) {
            None => Err(Invalid::new(POLICY, "names a policy that is not there")),
            Some(Err(invalid)) => Err(invalid.clone()),
            Some(Ok(Compiled::Policy(policy))) => Ok(Target::Enforce { policy: Arc::clone(policy), open }),
            Some(Ok(Compiled::Unavailable { reason, paths })) => {
                Ok(Target::Refuse { reason: reason.clone(), only: (open || paths.is_none()).then(|| paths.clone()) })
            }
        }
    }
}

/// Takes an object out of the envelope; an absent one is empty.
fn take(native: &mut Value, field: &str) -> Result<Map<String, Value>, ConfigError> {
    match native.as_object_mut().and_then(|native| native.remove(field)) {
        None => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields),
        Some(_) => Err(ConfigError::Native(format!("{field} is not an object"))),
    }
}

/// Takes out what the module is to say of itself.
fn report(native: &mut Value) -> Result<Option<wire::Report>, ConfigError> {
    let Some(report) = native.as_object_mut().and_then(|native| native.remove("report")) else { return Ok(None) };
    let text = |field| report.get(field).and_then(Value::as_str).map(str::to_owned);
    match (text("of"), text("revision")) {
        (Some(of), Some(revision)) => Ok(Some(wire::Report { of, revision })),
        _ => Err(ConfigError::Native("report has not its texts".to_owned())),
    }
}

/// Whether a value is `true`; anything else that is not absent is `None`.
const fn flag(value: Option<&Value>) -> Option<bool> {
    match value {
        None => Some(false),
        Some(Value::Bool(flag)) => Some(*flag),
        Some(_) => None,
    }
}

/// Reads a value as a type of [`wire`], or names the field that cannot be read.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Invalid> {
    let Value::Object(fields) = value else { return Err(Invalid::new("", "is not an object")) };
    node::parse::<T>(fields.clone()).map_err(|Unreadable { missing }| {
        if let Some(field) = missing {
            return Invalid::new(field, "is missing");
        }
        // The field without which the complaint goes away, or becomes one about its absence, is the one.
        let culprit = fields.keys().find(|key| {
            let mut others = fields.clone();
            others.remove(*key);
            let left = node::parse::<T>(others);
            left.map_or_else(|Unreadable { missing }| missing == Some(key.as_str()), |_| true)
        });
        Invalid::new(culprit.map_or("", String::as_str), "is unknown or not what it should be")
    })
}
