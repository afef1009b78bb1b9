//! What the controller asks of the API server, as rules of RBAC: one list for the chart's roles and for the tests that
//! compare it with what is asked. Pure.

use k8s_openapi::api::rbac::v1::PolicyRule;

const OURS: &str = "quota.higress.io";
const READ: &[&str] = &["list", "watch"];

/// What it may do in every namespace. It reads what objects of any namespace may target, and no Secrets.
#[must_use]
pub fn everywhere() -> Vec<PolicyRule> {
    vec![
        // A patch of metadata puts the finalizer of objects whose balances go with them.
        rule(OURS, &["aiquotas"], &["list", "watch", "patch"]),
        rule(OURS, &["aitokenratelimits", "aiquotastores"], READ),
        rule(OURS, &["aiquotas/status", "aitokenratelimits/status", "aiquotastores/status"], &["patch"]),
        rule("networking.k8s.io", &["ingresses"], READ),
        rule("gateway.networking.k8s.io", &["httproutes"], READ),
        rule("", &["services"], READ),
        // Its uid is the name of the cluster in the ledgers.
        named(rule("", &["namespaces"], &["get"]), &["kube-system"]),
        // Each in the namespace of the object that it is about.
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// What it may do in the gateway's namespace besides.
#[must_use]
pub fn in_gateway_namespace() -> Vec<PolicyRule> {
    let plugins = [plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT];
    vec![
        rule("", &["secrets", "configmaps"], READ),
        rule("networking.higress.io", &["mcpbridges"], READ),
        // What is created has no name yet that a rule could compare.
        rule("extensions.higress.io", &["wasmplugins"], &["list", "watch", "create"]),
        named(rule("extensions.higress.io", &["wasmplugins"], &["get", "update", "delete"]), &plugins),
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named(rule("coordination.k8s.io", &["leases"], &["get", "update"]), &[crate::lease::NAME]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn named(rule: PolicyRule, names: &[&str]) -> PolicyRule {
    PolicyRule { resource_names: Some(owned(names)), ..rule }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
