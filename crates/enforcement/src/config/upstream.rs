//! Upstream's own configuration of ai-quota. In: the keys of a rule or of the default. Out: a policy. Pure.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Flavor, Invalid, Policy, Store, Stores, Target};
use crate::paths::Paths;
use crate::rules::lenient::{integer, list, text};
use crate::values::{DEFAULT_ADMIN_PATH, DEFAULT_TIMEOUT_MS};

const DEFAULT_KEY_PREFIX: &str = "chat_quota:";

/// What upstream meters where nothing is configured; ours meters more (`values::DEFAULT_PATHS`).
const DEFAULT_SUFFIXES: [&str; 2] = ["/v1/chat/completions", "/v1/messages"];

pub(super) fn target(keys: &Map<String, Value>, stores: &mut Stores) -> Result<Target, Invalid> {
    let admin_consumer = text(keys.get("admin_consumer"));
    if admin_consumer.is_empty() {
        return Err(Invalid::new("admin_consumer", "is missing"));
    }
    let admin_path = or(text(keys.get("admin_path")), DEFAULT_ADMIN_PATH);
    let key_prefix = or(text(keys.get("redis_key_prefix")), DEFAULT_KEY_PREFIX);
    let metered = match keys.get("enable_path_suffixes") {
        None | Some(Value::Null) => DEFAULT_SUFFIXES.map(str::to_owned).to_vec(),
        some => list(some).iter().map(|suffix| text(Some(suffix))).filter(|suffix| !suffix.is_empty()).collect(),
    };
    if metered.is_empty() {
        return Err(Invalid::new("enable_path_suffixes", "is empty"));
    }
    let store = match keys.get("redis") {
        None => return Err(Invalid::new("redis", "is missing")),
        Some(redis) => store(redis).map_err(|invalid| invalid.under("redis"))?,
    };
    let policy = Policy {
        store: stores.intern(store),
        key_prefix,
        paths: Paths::new(metered, Some(&admin_path)),
        admin: Some(admin_consumer),
        flavor: Flavor::Upstream,
    };
    Ok(Target::Enforce { policy: Arc::new(policy), open: false })
}

fn store(redis: &Value) -> Result<Store, Invalid> {
    let service = text(redis.get("service_name"));
    if service.is_empty() {
        return Err(Invalid::new("service_name", "is missing"));
    }
    let port = match integer(redis.get("service_port")) {
        0 if service.ends_with(".static") => 80,
        0 => 6379,
        port => u16::try_from(port).map_err(|_| Invalid::new("service_port", "is not a port"))?,
    };
    let timeout = match integer(redis.get("timeout")) {
        0 => DEFAULT_TIMEOUT_MS,
        timeout => u32::try_from(timeout).map_err(|_| Invalid::new("timeout", "is out of range"))?,
    };
    let database =
        u32::try_from(integer(redis.get("database"))).map_err(|_| Invalid::new("database", "is out of range"))?;
    let user = (text(redis.get("username")), text(redis.get("password")));
    Ok(Store::new(&service, port, database, timeout, user))
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}
