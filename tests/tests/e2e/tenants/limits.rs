//! The part of the table on token rate limits. Data only.

use serde_json::{Value, json};

use super::attacks::Fate::{AtOnce, Later, OwnOnly};
use super::attacks::{Attack, OURS, PARTNER, TEMPLATE, TENANT, VICTIM};

pub(super) fn limit(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn rules() -> Value {
    json!([{"by": {"header": "x-api-key"}, "limits": [
        {"match": {"exact": "vip"}, "tokens": 50, "window": "1m"},
        {"match": {"pattern": "^a"}, "tokens": 5, "window": "1m"},
    ]}])
}

/// A tenant's own.
pub(super) fn tenants() -> Value {
    let spec = json!({
        "targetRefs": [{"kind": "Ingress", "name": "own"}],
        "storeRef": {"name": "default"},
        "rules": rules(),
        "rejection": {"message": "later"},
        "paths": ["/v1/chat/completions"],
    });
    limit(TENANT, "try-limit", &spec)
}

/// A trusted namespace's own.
pub(super) fn partners() -> Value {
    let spec = json!({
        "targetRefs": [{"kind": "Domain", "name": "partner.example"}], "ruleName": "partner", "rules": rules(),
    });
    limit(PARTNER, "try-limit", &spec)
}

/// Of the victim's namespace, on the same route with the same settings but for the name of its counters.
fn colleagues() -> Value {
    let spec = json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "rules": rules()});
    limit(VICTIM, "try-limit", &spec)
}

pub(super) fn attacks() -> Vec<Attack> {
    let tenant = |what, at, to, fate| Attack { what, of: tenants(), at, to, fate };
    let partner = |what, at, to, fate| Attack { what, of: partners(), at, to, fate };
    let target = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let secret = |name: &str| json!([{"kind": "Secret", "name": name}]);
    let wide = |what, to| tenant(what, "/spec/targetRefs/0", to, Later("Accepted", "NotTrusted", "spec.targetRefs[0]"));
    let mut attacks = vec![
        // targets
        tenant(
            "limits on the victim's route",
            "/spec/targetRefs/0",
            target("Ingress", "qwen"),
            Later("Accepted", "TargetNotFound", "in namespace team-b"),
        ),
        tenant(
            "limits on the victim's route by its whole name",
            "/spec/targetRefs/0",
            target("Ingress", "team-a/qwen"),
            AtOnce("spec.targetRefs[0].name"),
        ),
        wide("limits on the whole gateway", json!({"kind": "Gateway"})),
        wide("limits on the victim's domain", target("Domain", "a.example")),
        wide("limits on the victim's Service", target("Service", "model.team-a.svc.cluster.local")),
        // counters
        tenant(
            "limits with a free rule name",
            "/spec/ruleName",
            json!("corp"),
            Later("Accepted", "NotTrusted", "spec.ruleName"),
        ),
        tenant("limits with the victim's rule name", "/spec/ruleName", json!("team-a.limit"), AtOnce("spec.ruleName")),
        partner(
            "limits with the victim's rule name, though trusted",
            "/spec/ruleName",
            json!("team-a.limit"),
            AtOnce("spec.ruleName"),
        ),
        partner("limits with a hash tag", "/spec/ruleName", json!("{corp}"), AtOnce("spec.ruleName")),
        tenant("limits named like the victim's counters", "/metadata/name", json!("x.team-a.limit"), OwnOnly),
        Attack {
            what: "other limits on the victim's route by a colleague",
            of: colleagues(),
            at: "/spec/rules/0/limits/0/tokens",
            to: json!(1_000_000),
            fate: Later("Accepted", "Conflicted", "team-a/limit"),
        },
        // Secrets
        tenant(
            "limits of single values from a Secret of its own",
            "/spec/rules/0/overridesFrom",
            secret("keys"),
            Later("Accepted", "NotInGatewayNamespace", "spec.rules[0].overridesFrom"),
        ),
        partner(
            "limits of single values from the gateway's Secret, though trusted",
            "/spec/rules/0/overridesFrom",
            secret("redis-auth"),
            Later("Accepted", "NotInGatewayNamespace", "spec.rules[0].overridesFrom"),
        ),
        tenant(
            "limits of single values from a Secret of another namespace",
            "/spec/rules/0/overridesFrom",
            secret("team-a/their-redis"),
            AtOnce("spec.rules[0].overridesFrom[0].name"),
        ),
        tenant(
            "credentials from a ConfigMap",
            "/spec/rules/0/overridesFrom",
            json!([{"kind": "ConfigMap", "name": "keys"}]),
            AtOnce("spec.rules[0].overridesFrom"),
        ),
        // size
        tenant(
            "a pattern that takes much memory",
            "/spec/rules/0/limits/1/match/pattern",
            json!("((a{100}){100}){100}"),
            AtOnce("spec.rules[0].limits[1].match.pattern"),
        ),
        tenant("as many limits as an object may have", "/spec/rules", most(10, 64), OwnOnly),
        tenant("more rules than there may be", "/spec/rules", most(11, 1), AtOnce("spec.rules")),
        tenant("more limits than there may be", "/spec/rules", most(1, 65), AtOnce("spec.rules[0].limits")),
        tenant("an answer that is no refusal", "/spec/rejection/code", json!(200), AtOnce("spec.rejection.code")),
        tenant(
            "a refusal with a header of its own",
            "/spec/rejection/message",
            json!("x\r\nset-cookie: a=b"),
            AtOnce("spec.rejection.message"),
        ),
    ];
    // Every text that gets into a WasmPlugin: a template there would show any Secret.
    for (at, field) in [
        ("/metadata/name", "metadata.name"),
        ("/spec/targetRefs/0/name", "spec.targetRefs[0].name"),
        ("/spec/storeRef/name", "spec.storeRef.name"),
        ("/spec/ruleName", "spec.ruleName"),
        ("/spec/rules/0/by/header", "spec.rules[0].by.header"),
        ("/spec/rules/0/limits/0/match/exact", "spec.rules[0].limits[0].match.exact"),
        ("/spec/rules/0/limits/1/match/pattern", "spec.rules[0].limits[1].match.pattern"),
        ("/spec/rejection/message", "spec.rejection.message"),
        ("/spec/paths/0", "spec.paths[0]"),
    ] {
        let text = if field.contains("path") { format!("/{TEMPLATE}") } else { TEMPLATE.to_owned() };
        attacks.push(Attack { what: "a template in limits", of: tenants(), at, to: json!(text), fate: AtOnce(field) });
    }
    attacks
}

/// Rules by different headers, of many limits with long values.
fn most(rules: usize, limits: usize) -> Value {
    let limit = |n: usize| json!({"match": {"exact": format!("{n:0250}")}, "tokens": 1, "window": "1m"});
    let limits: Vec<Value> = (0..limits).map(limit).collect();
    json!((0..rules).map(|n| json!({"by": {"header": format!("h{n}")}, "limits": limits})).collect::<Vec<_>>())
}
