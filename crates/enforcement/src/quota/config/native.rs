//! A quota in our own form (`crate::wire::Policy`). In: what was written. Out: the policy, or the field that cannot be
//! used. Pure.

use std::sync::Arc;

use serde_json::Value;

use super::{Flavor, Own, Policy, Table, Tables};
use crate::config::{Common, Compiled, ConfigError, Invalid, NamedStores, read};
use crate::models::{self, Model, Models};
use crate::paths::Paths;
use crate::redis;
use crate::values::{self, MODELS_MAX};
use crate::wire;

pub(super) fn common(native: Value) -> Result<Common<Tables>, ConfigError> {
    let wire::Native { version: _, guard, stores: _, schedules, policies: _, report: _ } =
        read::<wire::Native<Value, Value, Value>>(native)
            .map_err(|invalid| ConfigError::Native(invalid.to_string()))?;
    if guard {
        return Ok(Common::Guard);
    }
    let tables = schedules.into_iter().map(|(name, value)| {
        let table = table(value).map_err(|invalid| invalid.under(&format!("aiquota.schedules.{name}")));
        (name, table)
    });
    let mut shared = Tables::new();
    shared.extend(tables);
    Ok(Common::Shared(shared))
}

fn table(value: Value) -> Result<Table, Invalid> {
    let boundaries = read::<wire::Schedule>(value)?.boundaries();
    boundaries.map(Table::from).ok_or_else(|| Invalid::new("at", "is not a table of boundaries"))
}

pub(super) fn policy(
    wire: wire::Policy,
    tables: &Tables,
    stores: NamedStores<'_>,
) -> Result<Compiled<Policy>, Invalid> {
    let wire::Policy {
        store,
        key_prefix,
        owner,
        paths,
        admin,
        default_quota,
        yields,
        refresh,
        reserve,
        ends,
        models,
        unavailable,
    } = wire;
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
    if !ends.warn_at.is_none_or(|percent| (values::WARN_AT_MIN..=values::WARN_AT_MAX).contains(&percent)) {
        return Err(Invalid::new("ends.warnAt", "is out of range"));
    }
    let models = declared(models, &key_prefix)?;
    let reserve = crate::config::reserve(reserve, &ends)?;
    let paths = Paths::new(paths, admin.as_ref().map(|admin| admin.path.as_str())).tolerant();
    let paths = paths.closed(ends.unlisted_paths == wire::UnlistedPaths::Refuse);
    if let Some(reason) = unavailable {
        // Who only observes refuses nothing for that either.
        let paths = if ends.observes() { Paths::none() } else { paths };
        return Ok(Compiled::Unavailable { reason, paths });
    }
    let refresh = refresh.map(|refresh| scheduled(refresh, tables)).transpose()?;
    let store = stores.named(store.as_deref())?;
    let flavor = Flavor::Native { owner, default_quota, yields, refresh };
    let admin = admin.map(|admin| admin.consumer);
    Ok(Compiled::Policy(Arc::new(Policy { store, key_prefix, paths, admin, flavor, reserve, ends, models })))
}

fn declared(models: Vec<wire::Model>, key_prefix: &str) -> Result<Models<Option<Own>>, Invalid> {
    if models.len() > MODELS_MAX {
        return Err(Invalid::new("models", "are too many"));
    }
    let model = |(index, wire::Model { name, weights, own }): (usize, _)| {
        let at = |field| format!("models[{index}]{field}");
        if !models::is_declarable(&name) || !weights.are_valid() {
            return Err(Invalid::new(at(""), "is no model, or weighs too much"));
        }
        if !own.and_then(|own| own.default_quota).is_none_or(values::is_amount) {
            return Err(Invalid::new(at(".own.defaultQuota"), "is out of range"));
        }
        let held_to = own.map(|said| Own { key_prefix: redis::of_model(key_prefix, &name), said });
        Ok(Model { name, weights, held_to })
    };
    Ok(Models::new((0..).zip(models).map(model).collect::<Result<_, _>>()?))
}

fn scheduled(refresh: wire::Refresh, tables: &Tables) -> Result<(wire::Refresh, Table), Invalid> {
    if !refresh.max_balance.is_none_or(values::is_amount) {
        return Err(Invalid::new("refresh.maxBalance", "is out of range"));
    }
    match tables.get(&refresh.schedule) {
        None => Err(Invalid::new("refresh.schedule", "is not there")),
        Some(Err(invalid)) => Err(invalid.clone()),
        Some(Ok(table)) => Ok((refresh, table.clone())),
    }
}
