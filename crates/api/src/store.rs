//! AIQuotaStore: one Redis endpoint as the gateway and the controller reach it. The comments with three slashes
//! are what `kubectl explain` shows.

use enforcement::values::DATABASE_MAX;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{quota::TARGET_NAME_MAX_LENGTH, status::AiQuotaStoreStatus};

/// Names as Higress' service registries make them.
pub const SERVICE_NAME_PATTERN: &str = "^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$";
pub const ADDRESS_PATTERN: &str = r"^redis://([A-Za-z0-9][-A-Za-z0-9._]*|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";
pub(crate) const ADDRESS_MAX_LENGTH: usize = 280;
pub const TIMEOUT_PATTERN: &str = "^[1-9][0-9]{0,4}(ms|s)$";
/// Without a dot: Higress splits `${secret.<namespace>/<name>.<key>}` at dots.
pub(crate) const SECRET_KEY_PATTERN: &str = "^[-_A-Za-z0-9]+$";

/// One Redis endpoint with its credentials, database and timeout. Honoured in the gateway's namespace only. Two
/// stores on one service must have equal options: plugins share one client per service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "quota.higress.io",
    version = "v1alpha1",
    kind = "AIQuotaStore",
    root = "AiQuotaStore",
    plural = "aiquotastores",
    shortname = "aiqs",
    namespaced,
    status = "AiQuotaStoreStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.service.name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AiQuotaStoreSpec {
    /// Redis as the gateway knows it.
    pub service: Service,

    /// Redis for the controller, `redis://<host>:<port>`. Absent: found by the name of the service, through the
    /// Service or the McpBridge in the gateway's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = ADDRESS_MAX_LENGTH), regex(pattern = ADDRESS_PATTERN))]
    pub address: Option<String>,

    /// The number of the Redis database, 0 to 65535. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = DATABASE_MAX))]
    pub database: Option<u32>,

    /// How long a call to Redis may take, 10ms to 60s, for example `500ms` or `2s`. A request that must wait longer
    /// for its balance is refused with 503. Absent: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 7), regex(pattern = TIMEOUT_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [timeout_is_bounded()]))]
    pub timeout: Option<String>,

    /// Where the credentials are. Absent: Redis asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

/// A service of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// `<registry>.static` or `<registry>.dns` of an McpBridge, or `<service>.<namespace>.svc.cluster.local`.
    #[schemars(length(min = 1, max = TARGET_NAME_MAX_LENGTH), regex(pattern = SERVICE_NAME_PATTERN))]
    pub name: String,

    /// The port of the service, 1 to 65535. Absent: 80 for names that end in `.static`, else 6379.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// A Secret in the gateway's namespace. Its name must have no dot, and the values no quote, backslash or control
/// character (a line break at the end is one): the gateway pastes them into JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// The name of the Secret, without a dot.
    #[schemars(length(min = 1, max = TARGET_NAME_MAX_LENGTH), regex(pattern = SECRET_NAME_PATTERN))]
    pub secret_name: String,

    /// The key of the user name in the Secret. Absent: the default user of Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = TARGET_NAME_MAX_LENGTH), regex(pattern = SECRET_KEY_PATTERN))]
    pub username_key: Option<String>,

    /// The key of the password in the Secret. Absent: `password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = TARGET_NAME_MAX_LENGTH), regex(pattern = SECRET_KEY_PATTERN))]
    pub password_key: Option<String>,
}

pub(crate) const SECRET_NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

fn timeout_is_bounded() -> serde_json::Value {
    serde_json::json!({
        "rule": "duration(self) >= duration('10ms') && duration(self) <= duration('60s')",
        "message": "must be 10ms to 60s",
    })
}

impl AiQuotaStoreSpec {
    /// The port as the gateway knows it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.service.port.unwrap_or(if self.service.name.ends_with(".static") { 80 } else { 6379 })
    }
}
