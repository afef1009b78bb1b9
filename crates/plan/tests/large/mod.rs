//! A large world: many objects, each listing some consumers on one of fewer routes, as tenants have them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use enforcement::wire::limit::Dialect;
use plan::{FailStrategy, Flavor, Guard, GuardModule, Module, Phase, PullPolicy, Settings, World};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Objects on one route have equal settings and share its rule.
pub(crate) fn world(objects: usize, consumers: usize, routes: usize) -> World {
    let quotas = (0..objects).map(|n| quota(n, consumers, &[n % routes]));
    of(quotas, routes)
}

/// Each object has the same number of routes for itself.
pub(crate) fn world_of_wide_objects(objects: usize, routes_each: usize) -> World {
    let routes = |n: usize| (n * routes_each..(n + 1) * routes_each).collect::<Vec<_>>();
    of((0..objects).map(|n| quota(n, 1, &routes(n))), objects * routes_each)
}

/// Each object has a route and a schedule for itself, which comes once in four years.
pub(crate) fn world_of_rare_schedules(objects: usize) -> World {
    let zones = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Shanghai"];
    let quotas = (0..objects).map(|n| {
        let mut quota = quota(n, 1, &[n]);
        let schedule = format!("{} {} 29 2 *", n % 60, n / 60 % 24);
        quota["spec"]["refresh"] = json!({"schedule": schedule, "timeZone": zones[n % zones.len()], "mode": "Reset"});
        quota
    });
    let now = "2026-11-22T05:40:00Z".parse().expect("a time");
    World { now, ..of(quotas, objects) }
}

fn of(quotas: impl Iterator<Item = Value>, routes: usize) -> World {
    let gateway = "higress-system";
    World {
        settings: Settings {
            gateway_namespace: gateway.to_owned(),
            trusted_namespaces: BTreeSet::new(),
            flavor: Flavor::Native,
            module: Module {
                url: "oci://example/ai-quota:1.0.0".to_owned(),
                sha256: None,
                image_pull_policy: PullPolicy::IfNotPresent,
                image_pull_secret: None,
                fail_strategy: FailStrategy::Close,
                phase: Phase::Unspecified,
                priority: 750,
            },
            limit_module: None,
            limit_dialect: Dialect::V2,
            guard: Guard::On,
            guard_module: GuardModule { url: "oci://example/ai-quota:1.0.0".to_owned(), sha256: None },
            auth_plugins: Vec::new(),
            namespace_share: 100,
            drain: std::time::Duration::from_secs(300),
        },
        now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        cluster: "7b0c4d1e-0000-4000-8000-000000000000".to_owned(),
        term: 1,
        quotas: quotas.map(read).collect(),
        undecodable: Vec::new(),
        stores: vec![read(json!({
            "metadata": {"name": "default", "namespace": gateway},
            "spec": {"service": {"name": "local-redis.static"}},
        }))],
        undecodable_stores: HashSet::new(),
        ingresses: (0..routes).map(|n| read(ingress(n))).collect(),
        http_routes: HashMap::new(),
        services: HashMap::new(),
        secrets: Vec::new(),
        config_maps: Vec::new(),
        last_written: Vec::new(),
        limits: Vec::new(),
        plugins: vec![read(json!({
            "metadata": {"name": "key-auth", "namespace": gateway},
            "spec": {"phase": "AUTHN", "priority": 310, "defaultConfig": {"global_auth": true}},
        }))],
        databases: HashMap::new(),
        bridges: vec![read(json!({
            "metadata": {"name": "default", "namespace": gateway},
            "spec": {"registries": [
                {"type": "static", "name": "local-redis", "domain": "10.0.0.7:6379", "port": 80},
            ]},
        }))],
    }
}

fn quota(n: usize, consumers: usize, routes: &[usize]) -> Value {
    let targets = routes.iter().map(|route| json!({"kind": "Ingress", "name": format!("route-{route:04}")}));
    let consumers = (0..consumers).map(|c| json!({"name": format!("tenant-{n:05}-user-{c:02}"), "quota": 10_000}));
    json!({
        "metadata": {
            "name": format!("quota-{n:05}"),
            "namespace": "team-0",
            "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "generation": 1,
            "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600 % 24, n / 60 % 60, n % 60),
        },
        "spec": {
            "targetRefs": targets.collect::<Vec<_>>(),
            "consumers": consumers.collect::<Vec<_>>(),
        },
    })
}

fn ingress(n: usize) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": format!("route-{n:04}"), "namespace": "team-0"},
        "spec": {"rules": [{"host": format!("{n}.example.com"), "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {}},
        ]}}]},
    })
}

/// Types made by derive want a version and a kind, which the planner does not look at.
fn read<K: DeserializeOwned>(mut object: Value) -> Arc<K> {
    for field in ["apiVersion", "kind"] {
        object.as_object_mut().expect("an object").entry(field).or_insert_with(|| "any".into());
    }
    Arc::new(serde_json::from_value(object).expect("a valid object"))
}
