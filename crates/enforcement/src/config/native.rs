//! Our own form of the configuration (`crate::wire`). In: what stands under `aiquota`, and rules that name a
//! policy. Out: policies, each read by itself, so that a broken one refuses only what it matches. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ConfigError, Flavor, Invalid, Policy, Store, Stores, Table, Target, flag};
use crate::paths::Paths;
use crate::values;
use crate::wire;

/// The key of a rule that names its policy.
pub(super) const POLICY: &str = "policy";

/// What stands under `aiquota`, read as far as it can be.
pub(super) struct Native {
    guard: bool,
    policies: BTreeMap<String, Result<Compiled, Invalid>>,
}

enum Compiled {
    Policy(Arc<Policy>),
    Unavailable { reason: String, paths: Paths },
}

impl Native {
    pub(super) fn read(mut native: Value, stores: &mut Stores) -> Result<Self, ConfigError> {
        let version = native.get("version");
        if version.and_then(Value::as_u64) != Some(wire::VERSION.into()) {
            return Err(ConfigError::Version(version.unwrap_or(&Value::Null).to_string()));
        }
        // Stores hold secrets, which the reader's messages would quote: they are read apart.
        let declared = match native.as_object_mut().and_then(|native| native.remove("stores")) {
            None => Map::new(),
            Some(Value::Object(declared)) => declared,
            Some(_) => return Err(ConfigError::Native("stores is not an object".into())),
        };
        let wire::Native { version: _, guard, stores: _, schedules, policies } =
            serde_json::from_value::<wire::Native<Value, Value>>(native)
                .map_err(|error| ConfigError::Native(error.to_string()))?;
        let declared: BTreeMap<String, Result<Store, Invalid>> = declared
            .into_iter()
            .map(|(name, value)| {
                let store = store(value).map_err(|invalid| invalid.under(&format!("aiquota.stores.{name}")));
                (name, store)
            })
            .collect();
        let schedules: BTreeMap<String, Result<Table, Invalid>> = schedules
            .into_iter()
            .map(|(name, value)| {
                let table = table(value).map_err(|invalid| invalid.under(&format!("aiquota.schedules.{name}")));
                (name, table)
            })
            .collect();
        let policies = policies
            .into_iter()
            .map(|(name, value)| {
                let policy = read::<wire::Policy>(value)
                    .and_then(|policy| compile(policy, &declared, &schedules, stores))
                    .map_err(|invalid| invalid.under(&format!("aiquota.policies.{name}")));
                (name, policy)
            })
            .collect();
        Ok(Self { guard, policies })
    }

    pub(super) const fn is_guard(&self) -> bool {
        self.guard
    }

    /// What a rule with these keys asks for.
    pub(super) fn target(&self, keys: &Map<String, Value>) -> Result<Target, Invalid> {
        let Some(name) = keys.get(POLICY).and_then(Value::as_str) else {
            return Err(Invalid::new(POLICY, "is not a name"));
        };
        let open = flag(keys.get("open")).ok_or_else(|| Invalid::new("open", "is neither true nor false"))?;
        match self.policies.get(name) {
            None => Err(Invalid::new(POLICY, "names a policy that is not there")),
            Some(Err(invalid)) => Err(invalid.clone()),
            Some(Ok(Compiled::Policy(policy))) => Ok(Target::Enforce { policy: Arc::clone(policy), open }),
            Some(Ok(Compiled::Unavailable { reason, paths })) => {
                Ok(Target::Refuse { reason: reason.clone(), only: open.then(|| paths.clone()) })
            }
        }
    }
}

fn store(value: Value) -> Result<Store, Invalid> {
    let wire::Store { service, port, database, timeout_ms, username, password } = read(value)?;
    if service.is_empty() {
        return Err(Invalid::new("service", "is empty"));
    }
    if port == 0 {
        return Err(Invalid::new("port", "is not a port"));
    }
    if !(values::TIMEOUT_MS_MIN..=values::TIMEOUT_MS_MAX).contains(&timeout_ms) {
        return Err(Invalid::new("timeoutMs", "is out of range"));
    }
    let user = (username.unwrap_or_default(), password.unwrap_or_default());
    Ok(Store::new(&service, port, database, timeout_ms, user))
}

fn table(value: Value) -> Result<Table, Invalid> {
    let boundaries = read::<wire::Schedule>(value)?.boundaries();
    boundaries.map(Table::from).ok_or_else(|| Invalid::new("at", "is not a table of boundaries"))
}

fn compile(
    policy: wire::Policy,
    declared: &BTreeMap<String, Result<Store, Invalid>>,
    schedules: &BTreeMap<String, Result<Table, Invalid>>,
    stores: &mut Stores,
) -> Result<Compiled, Invalid> {
    let wire::Policy { store, key_prefix, owner, paths, admin, default_quota, refresh, unavailable } = policy;
    if !values::is_key_prefix(key_prefix.as_bytes()) {
        return Err(Invalid::new("keyPrefix", "is not a key prefix"));
    }
    if paths.is_empty() || !paths.iter().all(|path| values::is_path(path.as_bytes())) {
        return Err(Invalid::new("paths", "are not path suffixes"));
    }
    if let Some(wire::Admin { consumer, path }) = &admin {
        if !values::is_consumer(consumer.as_bytes()) {
            return Err(Invalid::new("admin.consumer", "is not a consumer"));
        }
        if !values::is_admin_path(path.as_bytes()) {
            return Err(Invalid::new("admin.path", "is not a path"));
        }
    }
    if !default_quota.is_none_or(values::is_amount) {
        return Err(Invalid::new("defaultQuota", "is out of range"));
    }
    let paths = Paths::new(paths, admin.as_ref().map(|admin| admin.path.as_str())).tolerant();
    if let Some(reason) = unavailable {
        return Ok(Compiled::Unavailable { reason, paths });
    }
    let refresh = refresh.map(|refresh| scheduled(refresh, schedules)).transpose()?;
    let store = match store.as_ref().map(|name| declared.get(name)) {
        None => return Err(Invalid::new("store", "is missing")),
        Some(None) => return Err(Invalid::new("store", "names a store that is not there")),
        Some(Some(Err(invalid))) => return Err(invalid.clone()),
        Some(Some(Ok(store))) => stores.intern(store.clone()),
    };
    let flavor = Flavor::Native { owner, default_quota, refresh };
    let admin = admin.map(|admin| admin.consumer);
    Ok(Compiled::Policy(Arc::new(Policy { store, key_prefix, paths, admin, flavor })))
}

fn scheduled(
    refresh: wire::Refresh,
    schedules: &BTreeMap<String, Result<Table, Invalid>>,
) -> Result<(wire::Refresh, Table), Invalid> {
    if !refresh.max_balance.is_none_or(values::is_amount) {
        return Err(Invalid::new("refresh.maxBalance", "is out of range"));
    }
    match schedules.get(&refresh.schedule) {
        None => Err(Invalid::new("refresh.schedule", "is not there")),
        Some(Err(invalid)) => Err(invalid.clone()),
        Some(Ok(table)) => Ok((refresh, Arc::clone(table))),
    }
}

/// Reads a value as a type of [`wire`], or names the field that cannot be read.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, Invalid> {
    let Value::Object(fields) = value else { return Err(Invalid::new("", "is not an object")) };
    let parse = |fields: Map<String, Value>| {
        serde_json::from_value::<T>(Value::Object(fields)).map_err(|error| error.to_string())
    };
    let missing = |message: &str| Some(message.strip_prefix("missing field `")?.split('`').next()?.to_owned());
    parse(fields.clone()).map_err(|message| {
        if let Some(field) = missing(&message) {
            return Invalid::new(field, "is missing");
        }
        // The field without which the complaint goes away, or becomes one about its absence, is the one. Messages
        // themselves are not passed on: they quote values.
        let culprit = fields.keys().find(|key| {
            let mut others = fields.clone();
            others.remove(*key);
            parse(others).map_or_else(|message| missing(&message).as_ref() == Some(key), |_| true)
        });
        Invalid::new(culprit.map_or("", String::as_str), "is unknown or not what it should be")
    })
}
