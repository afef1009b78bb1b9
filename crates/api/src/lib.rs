//! The custom resources of aiquota and narrow views of other people's: Higress' WasmPlugin and McpBridge, the
//! Gateway API's HTTPRoute. Types and the CRDs made from them; no I/O.

mod admission;
mod crd;
mod ends;
mod higress;
mod limit;
mod models;
mod quota;
mod refresh;
mod status;
mod store;

pub use admission::{Admission, Reservation};
pub use crd::crds;
pub use ends::{Ends, Errors, Mode, OnMissingUsage, OnStoreFailure, UnlistedPaths};
pub use higress::{HttpRoute, MatchRule, McpBridge, McpBridgeSpec, Registry, WasmPlugin, WasmPluginSpec};
pub use limit::{
    AiTokenRateLimit, AiTokenRateLimitSpec, By, ByConsumer, ByIp, LIMITS_MAX, Limit, MESSAGE_MAX_LENGTH, Match,
    OVERRIDES_FROM_MAX, OverridesFrom, OverridesKind, RULE_NAME_CHOICE_MAX_LENGTH, Rate, Rejection, Rule,
    SOURCE_MAX_LENGTH, VALUE_MAX_LENGTH,
};
pub use models::{LimitedModel, Model, Weights};
pub use quota::{
    Admin, AiQuota, AiQuotaSpec, CONSUMERS_MAX, Consumer, DeletionPolicy, StoreRef, TARGET_NAME_MAX_LENGTH,
    TARGET_NAME_PATTERN, TARGETS_MAX, TargetKind, TargetRef,
};
pub use refresh::{NICKNAMES, Refresh, RefreshMode, SCHEDULE_MAX_LENGTH, TIME_ZONE_MAX_LENGTH};
pub use status::{
    AiQuotaStatus, AiQuotaStoreStatus, AiTokenRateLimitStatus, CONSUMERS_SHOWN, Condition, ConsumerStatus,
    GATEWAYS_SHOWN, GatewayConfiguration, GatewayStatus, NearLimit, Summary, TargetStatus,
};
pub use store::{
    ADDRESS_PATTERN, AiQuotaStore, AiQuotaStoreSpec, Auth, SERVICE_NAME_PATTERN, Service, TIMEOUT_PATTERN,
};

pub const GROUP: &str = "quota.higress.io";
/// The field manager, and the value of the label [`MANAGED_BY`] on what the controller makes.
pub const MANAGER: &str = "aiquota";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// On objects with [`DeletionPolicy::Delete`]: they are not gone before their balances are.
pub const FINALIZER: &str = "quota.higress.io/balances";
/// With the value `true` on an object that is being deleted: it goes without its balances.
pub const ABANDON_BALANCES: &str = "quota.higress.io/abandon-balances";
/// An annotation of an AIQuota: each new value refreshes its listed consumers once.
pub const REFRESH: &str = "quota.higress.io/refresh";

/// The API server drops `null` before it validates; what reads files of users must not be stricter.
pub(crate) fn null_is_absent<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Option::unwrap_or_default)
}
