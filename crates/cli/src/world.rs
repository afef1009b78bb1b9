//! Objects of files as the planner's world: what is there is taken as it is, what only a cluster can have is stood in
//! for, and each of these is told. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::{
    AiQuotaStore, AiTokenRateLimit, HttpRoute, McpBridge, OverridesFrom, OverridesKind, Registry, TargetKind,
    TargetRef, WasmPlugin,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use plan::{Key, Settings, World};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::check::objects::{Objects, Taken};
use crate::files::{Document, Place};
use crate::problem::{Level, Named, Problem, unreadable};

/// The world that the files make, with what only a cluster knows stood in for.
pub(crate) struct Assembled {
    pub(crate) world: World,
    /// Of our objects, where each stands.
    pub(crate) places: HashMap<Named, Document>,
    /// Targets for which something stands in: nothing is known of their hosts.
    pub(crate) assumed: HashSet<(TargetKind, Key)>,
    pub(crate) problems: Vec<Problem>,
}

/// When things are looked at, and in which cluster.
pub(crate) struct Where {
    pub(crate) now: Timestamp,
    /// The uid of the namespace kube-system.
    pub(crate) cluster: String,
}

/// What stands in for the uid of kube-system where it is not given.
pub(crate) const NO_CLUSTER: &str = "00000000-0000-0000-0000-000000000000";

/// `documents` are all that were read, of any kind.
pub(crate) fn assemble(documents: &[Document], settings: Settings, around: Where) -> Assembled {
    let Objects { taken, mut problems, places } = crate::check::objects::read(documents);
    let mut world = World {
        settings,
        now: around.now,
        cluster: around.cluster,
        term: 1,
        quotas: Vec::new(),
        undecodable: Vec::new(),
        limits: Vec::new(),
        stores: Vec::new(),
        undecodable_stores: HashSet::new(),
        ingresses: Vec::new(),
        http_routes: HashMap::new(),
        services: HashMap::new(),
        secrets: Vec::new(),
        config_maps: Vec::new(),
        plugins: Vec::new(),
        last_written: Vec::new(),
        bridges: Vec::new(),
        databases: HashMap::new(),
    };
    for object in taken {
        match object {
            Taken::Quota(quota) => world.quotas.push(Arc::new(plain(*quota))),
            Taken::Limit(limit) => world.limits.push(Arc::new(plain(*limit))),
            Taken::Store(store) => world.stores.push(Arc::new(plain(*store))),
        }
    }
    for document in documents {
        if let Err(problem) = other(&mut world, document) {
            problems.push(*problem);
        }
    }
    let mut missing = Missing { world, places: &places, seen: BTreeMap::new(), assumed: HashSet::new() };
    missing.stand_in();
    let Missing { world, seen, assumed, .. } = missing;
    for ((_, what), Unknown { place, object, field, users, message, remedy }) in seen {
        let others = if users > 1 { format!(" (and {} more name it)", users - 1) } else { String::new() };
        let message = format!("{what} {message}{others}");
        problems.push(Problem::new(Level::Warning, &place, "NotInFiles", message).of(object).at(field).with(remedy));
    }
    Assembled { world, places, assumed, problems }
}

/// As who applies it anew would make it: nobody deletes it, and it has an identity of its own.
fn plain<K: Resource<DynamicType = ()>>(mut object: K) -> K {
    let key = Key::of(object.meta());
    let ObjectMeta { uid, generation, deletion_timestamp, finalizers, .. } = object.meta_mut();
    uid.get_or_insert_with(|| format!("{}/{key}", K::kind(&())));
    generation.get_or_insert(1);
    (*deletion_timestamp, *finalizers) = (None, None);
    object
}

/// An object of another kind, as far as the planner looks at it.
fn other(world: &mut World, document: &Document) -> Result<(), Box<Problem>> {
    let gateways = document.key.namespace == world.settings.gateway_namespace;
    match (document.group(), document.kind.as_str()) {
        ("networking.k8s.io", "Ingress") => world.ingresses.push(Arc::new(read::<Ingress>(document)?)),
        ("gateway.networking.k8s.io", "HTTPRoute") => {
            let route = read::<HttpRoute>(document)?;
            world.http_routes.insert(document.key.clone(), route.spec.hostnames);
        }
        ("", "Service") => {
            let ports = read::<Service>(document)?.spec.and_then(|spec| spec.ports).unwrap_or_default();
            let ports = ports.iter().filter_map(|port| u16::try_from(port.port).ok()).collect();
            world.services.insert(document.key.clone(), ports);
        }
        ("networking.higress.io", "McpBridge") if gateways => {
            world.bridges.push(Arc::new(read::<McpBridge>(document)?));
        }
        ("extensions.higress.io", "WasmPlugin") if gateways => {
            // Our own are what is asked for, not what there is.
            let ours = [plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT].contains(&document.key.name.as_str());
            if !ours {
                world.plugins.push(Arc::new(read::<WasmPlugin>(document)?));
            }
        }
        ("", "Secret") if gateways => {
            let mut secret = read::<Secret>(document)?;
            for (key, text) in secret.string_data.take().unwrap_or_default() {
                secret.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
            }
            world.secrets.push(Arc::new(secret));
        }
        ("", "ConfigMap") if gateways => world.config_maps.push(Arc::new(read::<ConfigMap>(document)?)),
        _ => {}
    }
    Ok(())
}

fn read<K: DeserializeOwned>(document: &Document) -> Result<K, Box<Problem>> {
    plan::decode(document.value.clone()).map_err(|refusal| {
        let Document { kind, key, .. } = document;
        let place = document.place(&refusal.field);
        let message = format!("cannot be read and is left out: {}", unreadable(kind, &refusal));
        let problem = Problem::new(Level::Warning, &place, "Unreadable", message);
        Box::new(problem.of(Named::new(kind, key)).at(refusal.field))
    })
}

/// Something that only a cluster can have, and who names it first.
struct Unknown {
    place: Place,
    object: Named,
    field: String,
    users: usize,
    message: &'static str,
    remedy: &'static str,
}

struct Missing<'a> {
    world: World,
    places: &'a HashMap<Named, Document>,
    /// By kind of thing, then by what it is.
    seen: BTreeMap<(u8, String), Unknown>,
    assumed: HashSet<(TargetKind, Key)>,
}

const LOOKED_UP: &str = "is not in these files: only the cluster knows whether it exists";
const TARGET: &str = "add its file with another -f, or see status.targets in the cluster";
const SOURCE: &str = "add its file with another -f, or see the condition OverridesInvalid in the cluster";
const REDIS: &str = "add its file with another -f, or see the condition Ready of the store in the cluster";

impl Missing<'_> {
    fn stand_in(&mut self) {
        let mut named: Vec<(Named, Vec<TargetRef>, Option<String>)> = Vec::new();
        let store = |store: &Option<api::StoreRef>| store.as_ref().map(|store| store.name.clone());
        for quota in &self.world.quotas {
            let object = Named::new("AIQuota", &Key::of(&quota.metadata));
            named.push((object, quota.spec.target_refs.clone(), store(&quota.spec.store_ref)));
        }
        for limit in &self.world.limits {
            let object = Named::new("AITokenRateLimit", &Key::of(&limit.metadata));
            named.push((object, limit.spec.target_refs.clone(), store(&limit.spec.store_ref)));
        }
        named.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        for (object, targets, store) in named {
            for (index, target) in targets.iter().enumerate() {
                self.target(&object, index, target);
            }
            self.store(&object, store);
        }
        for limit in self.world.limits.clone() {
            if Key::of(&limit.metadata).namespace == self.world.settings.gateway_namespace {
                self.sources(&limit);
            }
        }
        for store in self.world.stores.clone() {
            let key = Key::of(&store.metadata);
            if key.namespace == self.world.settings.gateway_namespace {
                self.service(&Named::new("AIQuotaStore", &key), &store);
                self.secret(&Named::new("AIQuotaStore", &key), &store);
            }
        }
    }

    fn tell(
        &mut self,
        rank: u8,
        what: String,
        object: &Named,
        field: &str,
        message: &'static str,
        remedy: &'static str,
    ) {
        if let Some(known) = self.seen.get_mut(&(rank, what.clone())) {
            known.users += 1;
            return;
        }
        let Some(document) = self.places.get(object) else { return };
        let place = document.place(field);
        let (object, field) = (object.clone(), field.to_owned());
        self.seen.insert((rank, what), Unknown { place, object, field, users: 1, message, remedy });
    }

    fn target(&mut self, object: &Named, index: usize, target: &TargetRef) {
        let name = target.name.clone().unwrap_or_default();
        let key = match (target.kind, name.strip_suffix(".svc.cluster.local").and_then(|name| name.split_once('.'))) {
            (TargetKind::Service, Some((name, namespace))) => Key::new(namespace, name),
            _ => Key::new(&object.namespace, &name),
        };
        let is = |metadata: &ObjectMeta| Key::of(metadata) == key;
        let assumed = self.assumed.contains(&(target.kind, key.clone()));
        let there = match target.kind {
            TargetKind::Ingress => self.world.ingresses.iter().any(|ingress| is(&ingress.metadata)),
            TargetKind::HttpRoute => self.world.http_routes.contains_key(&key),
            TargetKind::Service => self.world.services.contains_key(&key),
            TargetKind::Domain | TargetKind::Gateway => true,
        };
        if there && !assumed {
            return;
        }
        self.tell(1, format!("{} {key}", target.kind), object, &format!("spec.targetRefs[{index}]"), LOOKED_UP, TARGET);
        if assumed {
            return;
        }
        match target.kind {
            TargetKind::Ingress => {
                let metadata = ObjectMeta {
                    namespace: Some(key.namespace.clone()),
                    name: Some(key.name.clone()),
                    ..ObjectMeta::default()
                };
                self.world.ingresses.push(Arc::new(Ingress { metadata, ..Ingress::default() }));
            }
            TargetKind::HttpRoute => drop(self.world.http_routes.insert(key.clone(), Vec::new())),
            TargetKind::Service => drop(self.world.services.insert(key.clone(), Vec::new())),
            TargetKind::Domain | TargetKind::Gateway => {}
        }
        self.assumed.insert((target.kind, key));
    }

    /// A store that is not there is one whose service says so.
    fn store(&mut self, object: &Named, named: Option<String>) {
        let field = if named.is_some() { "spec.storeRef" } else { "spec" };
        let name = named.unwrap_or_else(|| "default".to_owned());
        let gateway = self.world.settings.gateway_namespace.clone();
        let key = Key::new(&gateway, &name);
        let what = format!("AIQuotaStore {key}");
        if let Some(known) = self.seen.get_mut(&(0, what.clone())) {
            known.users += 1;
            return;
        }
        if self.world.stores.iter().any(|store| Key::of(&store.metadata) == key)
            || self.places.contains_key(&Named::new("AIQuotaStore", &key))
        {
            return;
        }
        const REMEDY: &str = "add its file with another -f; what is rendered names a service unknown-<store>.static";
        self.tell(0, what, object, field, LOOKED_UP, REMEDY);
        let store = json!({
            "apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
            "metadata": {"namespace": gateway, "name": name},
            "spec": {"service": {"name": format!("unknown-{name}.static"), "port": 80}},
        });
        if let Ok(store) = serde_json::from_value::<AiQuotaStore>(store) {
            self.registry(&store);
            self.world.stores.push(Arc::new(plain(store)));
        }
    }

    /// Secrets and ConfigMaps that say limits of single values: one that is not there says none.
    fn sources(&mut self, limit: &AiTokenRateLimit) {
        let object = Named::new("AITokenRateLimit", &Key::of(&limit.metadata));
        let namespace = self.world.settings.gateway_namespace.clone();
        for (rule, api::Rule { overrides_from, .. }) in limit.spec.rules.iter().enumerate() {
            for (index, OverridesFrom { kind, name }) in overrides_from.iter().enumerate() {
                let is = |metadata: &ObjectMeta| metadata.name.as_ref() == Some(name);
                let (kind, there) = match kind {
                    OverridesKind::Secret => ("Secret", self.world.secrets.iter().any(|found| is(&found.metadata))),
                    OverridesKind::ConfigMap => {
                        ("ConfigMap", self.world.config_maps.iter().any(|found| is(&found.metadata)))
                    }
                };
                let what = format!("{kind} {namespace}/{name}");
                let assumed = self.seen.contains_key(&(4, what.clone()));
                if there && !assumed {
                    continue;
                }
                let field = format!("spec.rules[{rule}].overridesFrom[{index}]");
                self.tell(4, what, &object, &field, LOOKED_UP, SOURCE);
                let (namespace, name) = (Some(namespace.clone()), Some(name.clone()));
                let metadata = ObjectMeta { namespace, name, ..ObjectMeta::default() };
                match kind {
                    _ if assumed => {}
                    "Secret" => self.world.secrets.push(Arc::new(Secret { metadata, ..Secret::default() })),
                    _ => self.world.config_maps.push(Arc::new(ConfigMap { metadata, ..ConfigMap::default() })),
                }
            }
        }
    }

    /// The name of a registry or Service that the gateway knows Redis by.
    fn service(&mut self, object: &Named, store: &AiQuotaStore) {
        let name = store.spec.service.name.clone();
        let service = name.strip_suffix(".svc.cluster.local").and_then(|name| name.split_once('.'));
        if let Some((service, namespace)) = service {
            let key = Key::new(namespace, service);
            if !self.world.services.contains_key(&key) {
                self.tell(2, format!("Service {key}"), object, "spec.service.name", LOOKED_UP, REDIS);
                self.world.services.insert(key, vec![store.spec.port()]);
            }
            return;
        }
        let Some((registry, kind)) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "static" | "dns")) else {
            return;
        };
        let mut all = self.world.bridges.iter().flat_map(|bridge| &bridge.spec.registries);
        if !all.any(|found| found.kind == kind && found.name == registry) {
            let what = format!("the {kind} registry {registry} of an McpBridge");
            self.tell(2, what, object, "spec.service.name", LOOKED_UP, REDIS);
            self.registry(store);
        }
    }

    fn registry(&mut self, store: &AiQuotaStore) {
        let (name, port) = (&store.spec.service.name, store.spec.port());
        let Some((name, kind)) = name.rsplit_once('.') else { return };
        let domain = if kind == "static" { "192.0.2.1:6379" } else { "redis.invalid" };
        let registry =
            Registry { kind: kind.to_owned(), name: name.to_owned(), domain: domain.to_owned(), port: port.into() };
        let mut bridge = McpBridge::new("not-in-files", api::McpBridgeSpec { registries: vec![registry] });
        bridge.metadata.namespace = Some(self.world.settings.gateway_namespace.clone());
        self.world.bridges.push(Arc::new(bridge));
    }

    fn secret(&mut self, object: &Named, store: &AiQuotaStore) {
        let Some(auth) = &store.spec.auth else { return };
        let name = &auth.secret_name;
        if self.world.secrets.iter().any(|secret| secret.metadata.name.as_ref() == Some(name)) {
            return;
        }
        let namespace = self.world.settings.gateway_namespace.clone();
        let what = format!("Secret {namespace}/{name}");
        self.tell(3, what, object, "spec.auth.secretName", LOOKED_UP, REDIS);
        // All keys that any store looks for.
        let keys = self.world.stores.iter().filter_map(|store| store.spec.auth.as_ref());
        let keys = keys.filter(|auth| auth.secret_name == *name).flat_map(|auth| {
            [auth.username_key.clone(), Some(auth.password_key.clone().unwrap_or_else(|| "password".to_owned()))]
        });
        let data = keys.flatten().map(|key| (key, ByteString(b"unknown".to_vec()))).collect();
        let metadata = ObjectMeta { namespace: Some(namespace), name: Some(name.clone()), ..ObjectMeta::default() };
        self.world.secrets.push(Arc::new(Secret { metadata, data: Some(data), ..Secret::default() }));
    }
}
