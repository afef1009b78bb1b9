//! The objects: tenants, each with routes in a namespace of its own and quotas on them, as JSON. No I/O.

use serde_json::{Value, json};

/// Where the gateway is.
pub(super) const GATEWAY: &str = "higress-system";
/// Redis as the gateway knows it.
const SERVICE: &str = "local-redis.static";
const TENANTS: usize = 20;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// AIQuota objects. Those on one route have equal settings and share its rule.
    pub objects: usize,
    /// Of each object; no two objects list the same.
    pub consumers: usize,
    /// Ingresses that the objects target; fewer than objects.
    pub routes: usize,
    /// Ingresses in each namespace that nothing targets yet.
    pub spare_routes: usize,
}

/// What a period gives to everybody at first, in tokens.
pub(super) const GRANT: i64 = 10_000;

impl Size {
    /// Balances that the objects declare.
    #[must_use]
    pub const fn balances(&self) -> usize {
        self.objects * self.consumers
    }

    fn first_spare(&self) -> usize {
        self.routes.next_multiple_of(TENANTS)
    }

    pub(super) fn namespaces() -> impl Iterator<Item = String> {
        (0..TENANTS).map(namespace)
    }

    /// What is there before any quota: where Redis is, who authenticates, and the routes.
    pub(super) fn surroundings(&self, redis: &str) -> impl Iterator<Item = Value> {
        let bridge = json!({
            "apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
            "metadata": {"name": "default", "namespace": GATEWAY},
            "spec": {"registries": [{"type": "static", "name": "local-redis", "domain": redis, "port": 80}]},
        });
        let store = json!({
            "apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
            "metadata": {"name": "default", "namespace": GATEWAY},
            "spec": {"service": {"name": SERVICE, "port": 80}, "timeout": "5s"},
        });
        // So many consumers fit into no WasmPlugin: they are known elsewhere.
        let auth = json!({
            "apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": "ext-auth", "namespace": GATEWAY},
            "spec": {
                "url": "oci://example.com/ext-auth:1.0.0", "phase": "AUTHN", "priority": 360,
                "defaultConfig": {"http_service": {"endpoint": {"service_name": "sso.dns", "service_port": 443}}},
            },
        });
        [bridge, store, auth].into_iter().chain((0..self.first_spare() + TENANTS * self.spare_routes).map(ingress))
    }

    pub(super) fn quotas(&self) -> impl Iterator<Item = Value> {
        (0..self.objects).map(|object| {
            json!({
                "apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuota",
                "metadata": {"name": name(object), "namespace": self.namespace_of(object)},
                "spec": {"targetRefs": [target(object % self.routes)], "consumers": self.consumers_of(object, GRANT)},
            })
        })
    }

    /// The object's consumers, the first of them with this grant.
    pub(super) fn consumers_of(&self, object: usize, first: i64) -> Value {
        let quota = |consumer| if consumer == 0 { first } else { GRANT };
        let all = (0..self.consumers).map(|c| json!({"name": consumer(object, c), "quota": quota(c)}));
        all.collect()
    }

    pub(super) fn namespace_of(&self, object: usize) -> String {
        namespace(object % self.routes)
    }

    /// Where the balance of the object's first consumer is.
    pub(super) fn first_balance(&self, object: usize) -> String {
        let route = object % self.routes;
        format!("aiquota:{}/Ingress/{}:{}", namespace(route), route_name(route), consumer(object, 0))
    }

    /// The object's targets, and a spare route of its namespace besides: what the gateway calls that.
    pub(super) fn with_spare_route(&self, object: usize, spare: usize) -> (Value, String) {
        let route = self.first_spare() + spare * TENANTS + object % self.routes % TENANTS;
        let named = format!("{}/{}", namespace(route), route_name(route));
        (json!([target(object % self.routes), target(route)]), named)
    }
}

pub(super) fn name(object: usize) -> String {
    format!("quota-{object:05}")
}

fn namespace(route: usize) -> String {
    format!("team-{:02}", route % TENANTS)
}

fn consumer(object: usize, consumer: usize) -> String {
    format!("tenant-{object:05}-user-{consumer:02}")
}

fn route_name(route: usize) -> String {
    format!("route-{route:04}")
}

fn target(route: usize) -> Value {
    json!({"kind": "Ingress", "name": route_name(route)})
}

fn ingress(route: usize) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": route_name(route), "namespace": namespace(route)},
        "spec": {"rules": [{"host": format!("{route}.example.com"), "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "model", "port": {"number": 80}}},
        }]}}]},
    })
}
