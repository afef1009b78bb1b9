//! AIQuota: balances per consumer. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use api::{AiQuota, OnStoreFailure, TargetRef, WasmPlugin};
use enforcement::{
    values::{DEFAULT_ADMIN_PATH, RESERVED_KEY_PREFIX},
    wire,
};
use serde_json::Value;

use super::{Kind, unread};
use crate::{
    AI_QUOTA, Flavor, Key, Module, Object, ObjectKind, Reason, Refusal, Settings, World, ends,
    form::{self, Form, Read},
    models, owner_name,
    plan::Declared,
    prefix,
    program::Place,
    stores, tables,
    validate::{admission, validate},
};

pub(crate) struct Quota;

impl Kind for Quota {
    type Object = AiQuota;
    type Settings = wire::Policy;

    const KIND: ObjectKind = ObjectKind::AiQuota;
    const OURS: &'static str = AI_QUOTA;
    const PLUGIN: &'static str = "ai-quota";
    const ASKS_IDENTITY: bool = true;
    const NOBODY: &'static str = "are refused with 401";
    const STRICTER: &'static str = "ask every request there for a consumer";
    const CHOICE: (&'static str, &'static str) = ("spec.keyPrefix", "the choice of a key prefix");

    fn module(settings: &Settings) -> Option<Place<'_>> {
        let Module { url, sha256, phase, priority, .. } = &settings.module;
        Some(Place { url, sha256: sha256.as_ref(), phase: *phase, priority: (*priority).into() })
    }

    fn believes(_: &wire::Policy) -> bool {
        true
    }

    fn form(world: &World) -> &'static dyn Form<Self> {
        match world.settings.flavor {
            Flavor::Native => &form::Native,
            Flavor::Upstream => &form::Upstream,
        }
    }

    fn read(plugin: &WasmPlugin) -> Read<Self> {
        form::read_native(&plugin.spec, |config| {
            let native: wire::Native<Value, Value> = form::parsed(config)?;
            let wire::Native { version: _, guard: _, stores, schedules, policies, report: _ } = native;
            Some((stores, schedules, policies))
        })
        .unwrap_or_else(|| form::read_upstream(plugin))
    }

    fn envelope(
        stores: BTreeMap<String, wire::Store>,
        schedules: BTreeMap<String, wire::Schedule>,
        policies: BTreeMap<String, wire::Policy>,
    ) -> Value {
        form::config(&wire::Native {
            version: wire::VERSION,
            guard: false,
            stores,
            schedules,
            policies,
            report: None::<wire::Report>,
        })
    }

    fn of(object: &Object) -> Option<&Arc<AiQuota>> {
        match object {
            Object::Read(quota) => Some(quota),
            Object::Limit(_) | Object::Undecodable(_) => None,
        }
    }

    fn objects(world: &World) -> Vec<Object> {
        let read = world.quotas.iter().cloned().map(Object::Read);
        read.chain(unread(world, Self::KIND)).collect()
    }

    fn validate(quota: &AiQuota) -> Result<(), Vec<Refusal>> {
        validate(quota)
    }

    fn targets(quota: &AiQuota) -> &[TargetRef] {
        &quota.spec.target_refs
    }

    fn allows_narrower(quota: &AiQuota) -> bool {
        quota.spec.allow_narrower == Some(true)
    }

    fn chosen(quota: &AiQuota) -> bool {
        quota.spec.key_prefix.is_some()
    }

    fn sources(_: &World, _: &AiQuota, _: &Key, _: Option<&Self::Settings>) -> Option<Reason> {
        None
    }

    fn settings(world: &World, quota: &AiQuota, key: &Key) -> wire::Policy {
        let spec = &quota.spec;
        let derived =
            || spec.target_refs.first().map(|target| prefix::derived(&key.namespace, target)).unwrap_or_default();
        let mut paths = match &spec.paths {
            Some(paths) => paths.clone(),
            None => Self::form(world).default_paths(),
        };
        paths.sort_unstable();
        wire::Policy {
            store: Some(spec.store_ref.as_ref().map_or(stores::DEFAULT, |store| &store.name).to_owned()),
            key_prefix: spec.key_prefix.clone().unwrap_or_else(derived),
            owner: owner_name(world, key),
            paths,
            admin: spec.admin.as_ref().map(|admin| wire::Admin {
                consumer: admin.consumer.clone(),
                path: admin.path.clone().unwrap_or_else(|| DEFAULT_ADMIN_PATH.to_owned()),
            }),
            default_quota: spec.default_quota,
            yields: false,
            refresh: spec.refresh.as_ref().and_then(tables::refresh),
            reserve: admission::reserve(spec.admission, spec.reservation),
            ends: ends::ends(spec.ends(), OnStoreFailure::Refuse),
            models: models::declared(&spec.models),
            unavailable: None,
        }
    }

    fn declared(settings: &wire::Policy, store: Option<usize>) -> Option<Declared> {
        Some(Declared { key_prefix: settings.key_prefix.clone(), store })
    }

    fn store(settings: &wire::Policy) -> Option<&str> {
        settings.store.as_deref()
    }

    fn store_mut(settings: &mut wire::Policy) -> Option<&mut String> {
        settings.store.as_mut()
    }

    fn said(settings: &wire::Policy, usual: impl Fn() -> Vec<String>) -> Cow<'_, wire::Policy> {
        if settings.paths.is_empty() {
            // As upstream's form has it: what the module meters by itself.
            return Cow::Owned(wire::Policy { paths: usual(), ..settings.clone() });
        }
        Cow::Borrowed(settings)
    }

    fn unavailable(settings: &wire::Policy) -> Option<&str> {
        settings.unavailable.as_deref()
    }

    fn refusing(settings: wire::Policy, why: String) -> wire::Policy {
        wire::Policy { store: None, unavailable: Some(why), ..settings }
    }

    fn owned_by(settings: wire::Policy, owner: String) -> wire::Policy {
        wire::Policy { owner, ..settings }
    }

    fn is_nameless(settings: &wire::Policy) -> bool {
        settings.unavailable.is_some() && settings.key_prefix.is_empty()
    }

    fn is_chosen(settings: &wire::Policy, namespace: &str) -> bool {
        let own = settings.key_prefix.strip_prefix(RESERVED_KEY_PREFIX).and_then(|rest| rest.strip_prefix(namespace));
        !settings.key_prefix.is_empty() && !own.is_some_and(|rest| rest.starts_with('/'))
    }

    fn places(settings: &wire::Policy) -> usize {
        models::places(settings).count()
    }

    fn consumers<'a>(settings: &'a wire::Policy, object: &'a Object) -> Vec<&'a str> {
        let admin = settings.admin.as_ref().map(|admin| admin.consumer.as_str());
        let listed = object.listed().map(|listed| listed.consumer.name.as_str());
        let mut seen = HashSet::new();
        admin.into_iter().chain(listed).filter(|name| seen.insert(*name)).collect()
    }

    fn refresh(settings: &wire::Policy) -> Option<&wire::Refresh> {
        settings.refresh.as_ref()
    }

    fn difference(a: &wire::Policy, b: &wire::Policy) -> Option<&'static str> {
        // The owner is the object's own; whom it yields to, and whether its store can be used, is not for it to say.
        let wire::Policy {
            store,
            key_prefix,
            owner: _,
            paths,
            admin,
            default_quota,
            yields: _,
            refresh,
            reserve,
            ends,
            models,
            unavailable: _,
        } = a;
        [
            ("keyPrefix", *key_prefix != b.key_prefix),
            ("admin", *admin != b.admin),
            ("defaultQuota", *default_quota != b.default_quota),
            ("paths", *paths != b.paths),
            ("refresh", *refresh != b.refresh),
            ("models", models::differ(models, &b.models)),
            ("admission", reserve.is_some() != b.reserve.is_some()),
            ("reservation", *reserve != b.reserve),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field))
        .or_else(|| ends::difference(ends, &b.ends))
        .or_else(|| (*store != b.store).then_some("storeRef"))
    }
}
