//! The table of attacks: valid objects of a tenant, of a trusted namespace and of a colleague of the victim, each with
//! one thing changed, and what becomes of it. Data only.

use serde_json::{Value, json};

use crate::stage::NAMESPACE;

pub(super) const OURS: &str = "quota.higress.io/v1alpha1";
/// Not trusted: who is attacked, and who attacks.
pub(super) const VICTIM: &str = "team-a";
pub(super) const TENANT: &str = "team-b";
/// Trusted, but not with what is the administrator's.
pub(super) const PARTNER: &str = "partner";
pub(super) const TEMPLATE: &str = "${secret.higress-system/redis-auth.password}";
/// Longer than a key prefix can be, so that it is cut.
pub(super) const LONG: &str = "an-ingress-with-a-name-so-long-that-no-key-prefix-can-have-all-of-it-and-therefore-it-is-cut-to-what-\
                    fits-and-told-from-others-by-a-hash";

const OTHER_REDIS: &str = "redis.higress-system.svc.cluster.local";

/// What becomes of it.
pub(super) enum Fate {
    /// The API server refuses it and says this.
    AtOnce(&'static str),
    /// It is taken, and this condition is false for this reason and says this.
    Later(&'static str, &'static str, &'static str),
    /// It is in force for what is the tenant's own.
    OwnOnly,
}
use Fate::{AtOnce, Later, OwnOnly};

pub(super) struct Attack {
    pub(super) what: &'static str,
    /// The valid object.
    pub(super) of: Value,
    /// The JSON pointer of what is changed in it.
    pub(super) at: &'static str,
    pub(super) to: Value,
    pub(super) fate: Fate,
}

pub(super) fn ingress(namespace: &str, name: &str, host: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": namespace},
    "spec": {"ingressClassName": "higress", "rules": [{"host": host, "http": {"paths": [{
        "path": "/", "pathType": "Prefix",
        "backend": {"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}},
    }]}}]}})
}

pub(super) fn quota(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": OURS, "kind": "AIQuota", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A tenant's own.
pub(super) fn tenants() -> Value {
    let spec = json!({
        "targetRefs": [{"kind": "Ingress", "name": "own"}],
        "storeRef": {"name": "default"},
        "admin": {"consumer": "chief", "path": "/quota"},
        "consumers": [{"name": "user1", "quota": 5}],
        "paths": ["/v1/chat/completions"],
    });
    quota(TENANT, "try", &spec)
}

/// A trusted namespace's own.
pub(super) fn partners() -> Value {
    let spec = json!({
        "targetRefs": [{"kind": "Domain", "name": "partner.example"}],
        "keyPrefix": "partner:",
        "consumers": [{"name": "user1", "quota": 5}],
    });
    quota(PARTNER, "try", &spec)
}

/// Of the victim's namespace, on the same route with the same settings.
pub(super) fn colleagues() -> Value {
    let spec = json!({
        "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
        "admin": {"consumer": "boss"},
        "consumers": [{"name": "user9", "quota": 5}],
    });
    quota(VICTIM, "try", &spec)
}

/// One more store, of a Redis of its own or of the administrator's.
fn store(namespace: &str, service: &str) -> Value {
    json!({"apiVersion": OURS, "kind": "AIQuotaStore", "metadata": {"name": "try", "namespace": namespace},
        "spec": {"service": {"name": service}, "timeout": "2s",
            "auth": {"secretName": "redis-auth", "passwordKey": "password"}}})
}

pub(super) fn attacks() -> Vec<Attack> {
    let tenant = |what, at, to, fate| Attack { what, of: tenants(), at, to, fate };
    let partner = |what, at, to, fate| Attack { what, of: partners(), at, to, fate };
    let colleague = |what, at, to, fate| Attack { what, of: colleagues(), at, to, fate };
    let target = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let mut attacks = vec![
        // prefixes
        tenant(
            "a free prefix",
            "/spec/keyPrefix",
            json!("chat_quota:"),
            Later("Accepted", "NotTrusted", "spec.keyPrefix"),
        ),
        tenant(
            "the victim's prefix",
            "/spec/keyPrefix",
            json!("aiquota:team-a/Ingress/qwen:"),
            AtOnce("spec.keyPrefix"),
        ),
        partner(
            "the victim's prefix, though trusted",
            "/spec/keyPrefix",
            json!("aiquota:team-a/Ingress/qwen:"),
            AtOnce("spec.keyPrefix"),
        ),
        partner("a beginning of the victim's prefix", "/spec/keyPrefix", json!("aiquota"), AtOnce("spec.keyPrefix")),
        partner("a prefix with a hash tag", "/spec/keyPrefix", json!("{corp:user1}"), AtOnce("spec.keyPrefix")),
        partner(
            "the administrator's prefix",
            "/spec/keyPrefix",
            json!("corp:"),
            Later("Accepted", "Conflicted", "the balance of consumer user1 already belongs"),
        ),
        partner("a beginning of the administrator's prefix", "/spec/keyPrefix", json!("cor"), OwnOnly),
        // names with separators
        tenant(
            "a consumer named like a path",
            "/spec/consumers/0/name",
            json!("../../team-a/Ingress/qwen:user1"),
            OwnOnly,
        ),
        tenant(
            "a consumer named like a whole key",
            "/spec/consumers/0/name",
            json!("aiquota:team-a/Ingress/qwen:user1"),
            OwnOnly,
        ),
        tenant("a consumer named like a ledger", "/spec/consumers/0/name", json!(":ledger"), OwnOnly),
        tenant("a consumer with the mark of a cut name", "/spec/consumers/0/name", json!("~user1"), OwnOnly),
        tenant(
            "a consumer with a hash tag",
            "/spec/consumers/0/name",
            json!("{user1}"),
            AtOnce("spec.consumers[0].name"),
        ),
        tenant(
            "a consumer with a brace",
            "/spec/consumers/0/name",
            json!("user1}:ledger"),
            AtOnce("spec.consumers[0].name"),
        ),
        tenant("a consumer with a blank", "/spec/consumers/0/name", json!("user1 x"), AtOnce("spec.consumers[0].name")),
        tenant(
            "a consumer with a line",
            "/spec/consumers/0/name",
            json!("user1\r\nSET a b"),
            AtOnce("spec.consumers[0].name"),
        ),
        tenant("a target whose name is cut as the victim's is", "/spec/targetRefs/0/name", json!(LONG), OwnOnly),
        tenant("the name of the victim's object", "/metadata/name", json!("chat"), OwnOnly),
        tenant(
            "a name that would be the victim's policy",
            "/metadata/name",
            json!("../team-a/chat"),
            AtOnce("metadata.name"),
        ),
        // targets
        tenant(
            "the victim's route",
            "/spec/targetRefs/0/name",
            json!("qwen"),
            Later("Accepted", "TargetNotFound", "in namespace team-b"),
        ),
        tenant(
            "the victim's route by its whole name",
            "/spec/targetRefs/0/name",
            json!("team-a/qwen"),
            AtOnce("spec.targetRefs[0].name"),
        ),
        tenant(
            "a route derived from the victim's",
            "/spec/targetRefs/0/name",
            json!("qwen-default"),
            Later("Accepted", "TargetNotFound", "in namespace team-b"),
        ),
        tenant(
            "the victim's HTTPRoute",
            "/spec/targetRefs/0",
            target("HTTPRoute", "qwen"),
            Later("Accepted", "TargetNotFound", "HTTPRoute qwen"),
        ),
        tenant(
            "the victim's Service",
            "/spec/targetRefs/0",
            target("Service", "model.team-a.svc.cluster.local"),
            Later("Accepted", "NotTrusted", "spec.targetRefs[0]"),
        ),
        tenant(
            "the victim's domain",
            "/spec/targetRefs/0",
            target("Domain", "a.example"),
            Later("Accepted", "NotTrusted", "spec.targetRefs[0]"),
        ),
        tenant(
            "the whole gateway",
            "/spec/targetRefs/0",
            json!({"kind": "Gateway"}),
            Later("Accepted", "NotTrusted", "spec.targetRefs[0]"),
        ),
        tenant(
            "a word that lifts a ceiling it has not",
            "/spec/allowNarrower",
            json!(true),
            AtOnce("spec.allowNarrower"),
        ),
        partner(
            "a domain inside the administrator's",
            "/spec/targetRefs/0/name",
            json!("a.corp.example"),
            Later("Accepted", "Overridden", "the ceiling Domain *.corp.example of AIQuota higress-system/corp"),
        ),
        // merging into another's rule
        partner(
            "the administrator's domain, with other settings",
            "/spec/targetRefs/0/name",
            json!("*.corp.example"),
            Later("Accepted", "Conflicted", "keyPrefix"),
        ),
        colleague(
            "a consumer that another object owns",
            "/spec/consumers/0/name",
            json!("user1"),
            Later(
                "Accepted",
                "Conflicted",
                "the balance of consumer user1 already belongs to the older AIQuota team-a/chat",
            ),
        ),
        colleague(
            "itself as the admin of another's balances",
            "/spec/admin/consumer",
            json!("user9"),
            Later("Accepted", "Conflicted", "admin"),
        ),
        colleague(
            "a default for everybody",
            "/spec/defaultQuota",
            json!(1_000_000),
            Later("Accepted", "Conflicted", "defaultQuota"),
        ),
        colleague(
            "paths that are metered no longer",
            "/spec/paths",
            json!(["/v1/none"]),
            Later("Accepted", "Conflicted", "paths"),
        ),
        tenant("the victim's admin", "/spec/admin/consumer", json!("boss"), OwnOnly),
        // stores and secrets
        tenant(
            "a store of its own",
            "/spec/storeRef/name",
            json!("theirs"),
            Later("Programmed", "StoreNotFound", "in the gateway's namespace"),
        ),
        Attack {
            what: "a store outside the gateway's namespace",
            of: store(TENANT, OTHER_REDIS),
            at: "/spec/timeout",
            to: json!("3s"),
            fate: Later("Ready", "NotInGatewayNamespace", NAMESPACE),
        },
        Attack {
            what: "a Secret of another namespace",
            of: store(NAMESPACE, OTHER_REDIS),
            at: "/spec/auth/secretName",
            to: json!("their-redis"),
            fate: Later("Ready", "SecretNotFound", "higress-system/their-redis"),
        },
        Attack {
            what: "a Secret of another namespace by its whole name",
            of: store(NAMESPACE, OTHER_REDIS),
            at: "/spec/auth/secretName",
            to: json!("team-a/their-redis"),
            fate: AtOnce("spec.auth.secretName"),
        },
        Attack {
            what: "a Secret with a dot",
            of: store(NAMESPACE, OTHER_REDIS),
            at: "/spec/auth/secretName",
            to: json!("redis.auth"),
            fate: AtOnce("spec.auth.secretName"),
        },
        Attack {
            what: "other options for the administrator's Redis",
            of: store(NAMESPACE, "local-redis.static"),
            at: "/spec/database",
            to: json!(3),
            fate: Later("Ready", "Conflicted", "database"),
        },
        // metadata
        tenant("a template in an annotation", "/metadata/annotations", json!({"note": TEMPLATE}), OwnOnly),
        tenant("a template in a label", "/metadata/labels", json!({"note": TEMPLATE}), AtOnce("metadata.labels")),
        tenant("a finalizer that nobody takes away", "/metadata/finalizers", json!(["example.com/stays"]), OwnOnly),
        tenant(
            "the mark of what the controller makes",
            "/metadata/labels",
            json!({"app.kubernetes.io/managed-by": "aiquota"}),
            OwnOnly,
        ),
        // size
        tenant("more consumers than there may be", "/spec/consumers", consumers(10_001, 8), AtOnce("spec.consumers")),
        tenant("more than the API server stores", "/spec/consumers", consumers(10_000, 250), AtOnce("large")),
        tenant(
            "more targets than there may be",
            "/spec/targetRefs",
            json!((0..17).map(|n| target("Ingress", &format!("i{n}"))).collect::<Vec<_>>()),
            AtOnce("spec.targetRefs"),
        ),
        tenant(
            "an amount no balance can be",
            "/spec/consumers/0/quota",
            json!(1_i64 << 53),
            AtOnce("spec.consumers[0].quota"),
        ),
    ];
    // Every text that gets into a WasmPlugin: a template there would show any Secret.
    for (at, field) in [
        ("/metadata/name", "metadata.name"),
        ("/spec/targetRefs/0/name", "spec.targetRefs[0].name"),
        ("/spec/storeRef/name", "spec.storeRef.name"),
        ("/spec/keyPrefix", "spec.keyPrefix"),
        ("/spec/admin/consumer", "spec.admin.consumer"),
        ("/spec/admin/path", "spec.admin.path"),
        ("/spec/consumers/0/name", "spec.consumers[0].name"),
        ("/spec/paths/0", "spec.paths[0]"),
    ] {
        let text = if field.contains("path") { format!("/{TEMPLATE}") } else { TEMPLATE.to_owned() };
        attacks.push(Attack { what: "a template", of: tenants(), at, to: json!(text), fate: AtOnce(field) });
    }
    for (at, field) in
        [("/spec/service/name", "spec.service.name"), ("/spec/auth/passwordKey", "spec.auth.passwordKey")]
    {
        let of = store(NAMESPACE, OTHER_REDIS);
        attacks.push(Attack { what: "a template in a store", of, at, to: json!(TEMPLATE), fate: AtOnce(field) });
    }
    attacks
}

fn consumers(count: usize, length: usize) -> Value {
    json!((0..count).map(|n| json!({"name": format!("{n:0length$}"), "quota": 1})).collect::<Vec<_>>())
}

impl Attack {
    pub(super) fn object(&self) -> Value {
        let mut object = self.of.clone();
        let (parent, key) = self.at.rsplit_once('/').expect("a pointer");
        match object.pointer_mut(parent).expect("the parent exists") {
            Value::Object(fields) => drop(fields.insert(key.to_owned(), self.to.clone())),
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = self.to.clone(),
            other => panic!("{parent} is {other}"),
        }
        object
    }
}
