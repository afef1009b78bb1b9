//! What the administrator should know about a store though it is in use: other plugins that set up the gateway's
//! client of the same Redis in another way, and what its service and options make of it. Pure.

use api::{AiQuotaStoreSpec, WasmPlugin};
use enforcement::{values::DEFAULT_TIMEOUT_MS, wire};
use serde_json::{Map, Value};

use crate::{Access, StoreWarning, World, foreign::is_ours, templates};

/// A store that can be used: as the controller reaches it, and as the gateway is told.
pub(crate) fn warnings(
    world: &World,
    spec: &AiQuotaStoreSpec,
    access: &Access,
    wire: &wire::Store,
    addresses: usize,
) -> Vec<StoreWarning> {
    let service = format!("{}:{}", wire.service, wire.port);
    let mut warnings = Vec::new();
    let others = world.plugins.iter().filter(|plugin| !is_ours(plugin));
    let mut differing = others.filter_map(|plugin| Some((plugin, difference(world, plugin, access, wire)?)));
    if let Some((plugin, option)) = differing.next() {
        let plugin = plugin.metadata.name.clone().unwrap_or_default();
        let more = differing.count();
        warnings.push(StoreWarning::RedisShared { service: service.clone(), plugin, option, more });
    }
    if wire.database != 0 && spec.auth.is_none() {
        warnings.push(StoreWarning::DatabaseWithoutPassword { database: wire.database });
    }
    if addresses > 1 {
        warnings.push(StoreWarning::SeveralAddresses { service, addresses });
    }
    warnings
}

/// The first option by which a plugin sets up the client of this store's service in another way.
fn difference(world: &World, plugin: &WasmPlugin, access: &Access, wire: &wire::Store) -> Option<&'static str> {
    let spec = &plugin.spec;
    let default = spec.default_config.iter().filter(|_| spec.default_config_disable != Some(true));
    let rules = spec.match_rules.iter().flatten().filter(|rule| rule.config_disable != Some(true));
    let mut configs = default.chain(rules.filter_map(|rule| rule.config.as_ref()));
    configs.find_map(|config| first(config, &|block| differs(world, block, access, wire)))
}

/// Looks into all objects of a configuration, the outer ones first.
fn first(value: &Value, look: &impl Fn(&Map<String, Value>) -> Option<&'static str>) -> Option<&'static str> {
    match value {
        Value::Object(fields) => look(fields).or_else(|| fields.values().find_map(|field| first(field, look))),
        Value::Array(items) => items.iter().find_map(|item| first(item, look)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A block with this service's name, as `redis: {service_name, service_port, ..}` of most plugins and
/// `cache: {serviceName, servicePort, ..}` of others.
fn differs(world: &World, block: &Map<String, Value>, access: &Access, wire: &wire::Store) -> Option<&'static str> {
    let (name, port) = ["service_name", "serviceName"]
        .into_iter()
        .zip(["service_port", "servicePort"])
        .find_map(|(name, port)| Some((block.get(name)?.as_str()?, block.get(port))))?;
    let port = port.and_then(Value::as_u64).unwrap_or(if name.ends_with(".static") { 80 } else { 6379 });
    if name != wire.service || port != u64::from(wire.port) {
        return None;
    }
    let number = |key: &str| block.get(key).and_then(Value::as_u64);
    let text = |key: &str| block.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    // The value, if it is known: a Secret elsewhere is not.
    let meant = |given: Option<&str>| match given {
        Some(template) if template.contains("${") => templates::resolve(world, template).map(Some),
        given => Some(given.map(str::to_owned)),
    };
    let is_other = |given: Option<&str>, ours: &Option<String>| {
        given.is_some() != ours.is_some() || meant(given).is_some_and(|given| given != *ours)
    };
    // Plugins that spell the name in the other way have another timeout by default.
    let default = block.contains_key("service_name").then_some(u64::from(DEFAULT_TIMEOUT_MS));
    let timeout = number("timeout").or(default);
    [
        ("database", number("database").unwrap_or(0) != u64::from(wire.database)),
        ("username", is_other(text("username"), &access.username)),
        ("password", is_other(text("password"), &access.password)),
        ("timeout", timeout.is_some_and(|timeout| timeout != u64::from(wire.timeout_ms))),
    ]
    .into_iter()
    .find_map(|(option, differs)| differs.then_some(option))
}
