//! A rule of ai-quota as the spec of an AIQuota without its targets. Pure.

use enforcement::rules::lenient::{list, text};
use serde_json::{Map, Value, json};

/// What upstream meters where nothing is configured.
const USUAL: [&str; 2] = ["/v1/chat/completions", "/v1/messages"];

pub(crate) fn spec(config: &Map<String, Value>) -> Value {
    let or = |field: &str, usual: &str| {
        let text = text(config.get(field));
        if text.is_empty() { usual.to_owned() } else { text }
    };
    let paths: Vec<String> = match config.get("enable_path_suffixes") {
        None | Some(Value::Null) => USUAL.map(str::to_owned).to_vec(),
        some => list(some).iter().map(|suffix| text(Some(suffix))).filter(|suffix| !suffix.is_empty()).collect(),
    };
    json!({
        "keyPrefix": or("redis_key_prefix", "chat_quota:"),
        "admin": {"consumer": text(config.get("admin_consumer")), "path": or("admin_path", "/quota")},
        "paths": paths,
        // Upstream books nothing for an answer without usage.
        "onMissingUsage": "Ignore",
    })
}
