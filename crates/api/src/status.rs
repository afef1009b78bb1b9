//! What the controller reports about the objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quota::TargetKind;

pub type Condition = v1::Condition;

/// What the controller found and did about an AIQuota.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AiQuotaStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the spec is valid, permitted and its targets exist. `Programmed`: the gateway's plugin has the
    /// rules. `Seeded`: Redis has the balances. `Ready`: all of these. `Loaded`: each gateway that reports runs the
    /// declared module with the current configuration. Warnings are there while they last:
    /// `NoAuthentication`, `ConsumerUnknown`, `ConsumerNotAllowed`, `ForeignRule`, `IdentityUnguarded`,
    /// `NobodyMaySpend`, `RefreshUnreadable`, `NotParked`, `StoreUnreachable`, `NearlyExhausted`. `Deleting`: how far the deletion of an object with
    /// `deletionPolicy: Delete` is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// What became of each target.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub targets: Vec<TargetStatus>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,

    /// What the listed consumers have left: those with the smallest part of their quota first, at most 100. Balances
    /// are looked at when they are made or edited and about every 60 s; in between the figures stay as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub consumers: Vec<ConsumerStatus>,

    /// When the next period begins, in UTC. Absent without `spec.refresh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh: Option<String>,

    /// The value of the annotation `quota.higress.io/refresh` that was last honoured for all listed consumers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refreshed: Option<String>,
}

/// What became of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    pub kind: TargetKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the quota applies to it.
    pub accepted: bool,
    /// `Accepted`, or why the quota does not apply to it.
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The object in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// Consumers listed in the spec; who is listed for models too counts once for each.
    pub consumers: i64,
    /// Those of them whose balance is in Redis.
    pub seeded: i64,
    /// Those of them who had nothing left when their balances were last looked at, about every 60 s.
    pub exhausted: i64,
}

/// What the controller found and did about an AITokenRateLimit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AiTokenRateLimitStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Accepted`: the spec is valid, permitted and its targets exist. `Programmed`: the gateway's plugin has the
    /// rules. `Seeded`, with `overridesFrom`: Redis has the limits of single values. `Ready`: all of these. `Loaded`: each
    /// gateway that reports runs the declared module with the current configuration. Warnings are
    /// there while they last: `NoAuthentication`, `ConsumerUnknown`, `ConsumerNotAllowed`, `ForeignRule`,
    /// `IdentityUnguarded`, `StoreUnreachable`, `OverridesInvalid`, `NearlyExhausted`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// What became of each target.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub targets: Vec<TargetStatus>,

    /// The limits of which `spec.warnAt` percent or more were counted in a window that had not ended when the controller
    /// last looked, about every 60 s; at most 100. It is shown for at least 2 minutes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub nearly_exhausted: Vec<NearLimit>,
}

/// A limit that is nearly reached, or was just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NearLimit {
    /// Whose tokens it counts: `all requests`, or each value of a `header`, `param` or `cookie` with its name, of
    /// `consumer` or of `ip`. The values themselves are not shown: they may be credentials.
    pub by: String,
    /// The entry of `spec.models` whose limit it is. Absent: it is for all models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its tokens. Absent: values of `overridesFrom`, which have each their own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<i64>,
    /// Its window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// When the first value came there, by the clock of Redis.
    pub since: String,
    /// How many values did since then.
    pub counters: i64,
}

/// A listed consumer when its balance was last looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    pub name: String,
    /// The entry of `spec.models` whose balance this is. Absent: the common one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What `spec.consumers` gives it, in tokens. Absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// Tokens it has left; below 0 where an answer took more than there was. Absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<i64>,
    /// Tokens it spent in this period; without `spec.refresh`, ever. With the flavor `upstream`: the quota less the
    /// balance.
    #[serde(default)]
    pub used: i64,
    /// Whether that is `spec.warnAt` percent of the quota or more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nearly_exhausted: bool,
}

/// How many of them a status has.
pub const CONSUMERS_SHOWN: usize = 100;

/// What the controller found about an AIQuotaStore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AiQuotaStoreStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Connected`: the controller reaches Redis with these credentials. `Ready`: connected, and the gateway can be
    /// told. Warnings are there while they last: `RedisShared`, `DatabaseWithoutPassword`, `SeveralAddresses`,
    /// `MayEvict`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The gateways that reported in this store within 90 s which module they run, at most 100. A gateway reports when
    /// it takes a configuration and every 60 s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub gateways: Vec<GatewayStatus>,
}

/// What a gateway runs: one entry where all of its worker threads run the same, else one for each that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// The gateway's pod and namespace, `<pod>.<namespace>`, as Envoy's node id has it.
    pub name: String,
    /// The WasmPlugin whose module it runs.
    pub plugin: String,
    /// The module's version, as the module itself says.
    pub version: String,
    pub configuration: GatewayConfiguration,
}

/// `Current`, or `Stale`: 30 s after the WasmPlugin was written it still reported an older configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GatewayConfiguration {
    Current,
    Stale,
}

/// How many of them a status has.
pub const GATEWAYS_SHOWN: usize = 100;
