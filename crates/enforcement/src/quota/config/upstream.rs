//! Upstream's own configuration of ai-quota. In: the keys of a rule or of the default. Out: a policy. Pure.

use serde_json::{Map, Value};

use super::{Flavor, Policy};
use crate::config::{Invalid, Stores};
use crate::models::Models;
use crate::paths::Paths;
use crate::rules::lenient::{list, text};
use crate::values::DEFAULT_ADMIN_PATH;
use crate::wire::Ends;

const DEFAULT_KEY_PREFIX: &str = "chat_quota:";

/// What upstream meters where nothing is configured; ours meters more (`values::DEFAULT_PATHS`).
const DEFAULT_SUFFIXES: [&str; 2] = ["/v1/chat/completions", "/v1/messages"];

pub(super) fn policy(keys: &Map<String, Value>, stores: &mut Stores) -> Result<Policy, Invalid> {
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
    Ok(Policy {
        store: stores.upstream(keys)?,
        key_prefix,
        paths: Paths::new(metered, Some(&admin_path)),
        admin: Some(admin_consumer),
        flavor: Flavor::Upstream,
        reserve: None,
        ends: Ends::default(),
        models: Models::none(),
    })
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}
