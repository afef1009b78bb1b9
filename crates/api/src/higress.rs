//! Narrow views of objects that are not ours. A WasmPlugin keeps the fields we do not know, so that a spec can be
//! compared entirely.

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::null_is_absent;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "extensions.higress.io",
    version = "v1alpha1",
    kind = "WasmPlugin",
    plural = "wasmplugins",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct WasmPluginSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_config_disable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_rules: Option<Vec<MatchRule>>,
    /// What else stands in the spec.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MatchRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_disable: Option<bool>,
    /// What else stands in the rule.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "networking.higress.io",
    version = "v1",
    kind = "McpBridge",
    plural = "mcpbridges",
    namespaced,
    schema = "disabled"
)]
#[serde(default)]
pub struct McpBridgeSpec {
    pub registries: Vec<Registry>,
}

/// A registry of an McpBridge: `<name>.static` is `domain` as a list of `ip:port`, `<name>.dns` is `domain` as host
/// names with `port`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub domain: String,
    pub port: u32,
}

/// Whether it exists, and for which hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    root = "HttpRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled"
)]
#[serde(default)]
pub struct HttpRouteSpec {
    /// None: those of its Gateway's listeners.
    #[serde(deserialize_with = "null_is_absent")]
    pub hostnames: Vec<String>,
}
