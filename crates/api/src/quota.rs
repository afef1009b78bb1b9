//! AIQuota: whose requests to which targets spend how many tokens. The comments with three slashes are what
//! `kubectl explain` shows.

use enforcement::values::{
    ADMIN_PATH_PATTERN, CONSUMER_MAX_LENGTH, CONSUMER_PATTERN, KEY_PREFIX_MAX_LENGTH, KEY_PREFIX_PATTERN, MAX_AMOUNT,
    MODELS_MAX, PATH_MAX_LENGTH, PATH_PATTERN, PATHS_MAX, WARN_AT_MAX, WARN_AT_MIN,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admission::{Admission, Reservation, reservation_with_reserve},
    ends::{Errors, Mode, OnMissingUsage, OnStoreFailure, UnlistedPaths},
    models::Model,
    null_is_absent,
    refresh::Refresh,
    status::AiQuotaStatus,
};

pub const TARGETS_MAX: usize = 16;
pub const CONSUMERS_MAX: usize = 10_000;
pub const TARGET_NAME_MAX_LENGTH: usize = 253;
/// What Kubernetes accepts as a name, and host names with a leading `*.` (for domains only).
pub const TARGET_NAME_PATTERN: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// A token budget for the LLM traffic of some targets. Each consumer listed has a balance of tokens in Redis;
/// what an answer used is taken off it, and a consumer with nothing left is refused with 403.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "quota.higress.io",
    version = "v1alpha1",
    kind = "AIQuota",
    root = "AiQuota",
    plural = "aiquotas",
    shortname = "aiq",
    namespaced,
    status = "AiQuotaStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Consumers","type":"integer","jsonPath":".status.summary.consumers"}"#,
    printcolumn = r#"{"name":"Exhausted","type":"integer","jsonPath":".status.summary.exhausted"}"#,
    printcolumn = r#"{"name":"Next refresh","type":"string","jsonPath":".status.nextRefresh"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [admin_path_is_not_metered(), only_wide_targets_have_narrower_ones(), reservation_with_reserve()]))]
pub struct AiQuotaSpec {
    /// What the quota applies to: a request is under it when any of these matches. 1 to 16, each at most once.
    #[schemars(length(min = 1, max = TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [targets_are_unique()]))]
    pub target_refs: Vec<TargetRef>,

    /// Whether quotas of other namespaces may apply to less than a target of kind `Gateway` or `Domain` of this one:
    /// to an Ingress, HTTPRoute, Service or narrower Domain in it. True: such a quota decides there instead of this one;
    /// a request is under one of them, never under both. Absent or false: none may, whatever its age, and it
    /// says `Accepted=False` with reason `Overridden`. An Ingress or HTTPRoute lies in a Domain with any of its hosts,
    /// and in every Domain if it has none. Quotas of this namespace and of the gateway's may always. Only together with
    /// such a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_narrower: Option<bool>,

    /// The AIQuotaStore that holds the balances. Absent: the store `default`. Stores live in the gateway's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<StoreRef>,

    /// The balance of a consumer is the Redis key made of this prefix and the consumer's name: 1 to 128 visible
    /// ASCII characters without braces. Only namespaces the administrator trusts may choose one, and none may begin
    /// with `aiquota:` or be a beginning of that. Absent: `aiquota:<namespace>/<kind>/<name of the first target>:`, so
    /// that with another first target all balances begin anew.
    /// Quotas with the same prefix and store share the balances of equal names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = KEY_PREFIX_MAX_LENGTH), regex(pattern = KEY_PREFIX_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [prefix_is_free()]))]
    pub key_prefix: Option<String>,

    /// Who may read and correct balances over HTTP. Absent: nobody, there is no admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,

    /// Who may spend, each with a quota or unlimited. At most 10,000, each name once. Raising or lowering a quota
    /// changes the balance by the difference; what was spent stays spent. The balance of who is taken off the list is
    /// put aside: the consumer is refused, or starts with `defaultQuota`, but never with more than it had left. Who
    /// is listed again has what was put aside. Who was never listed is obeyed by a balance that is in Redis already, as
    /// the admin API and Higress' own plugin make them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = CONSUMERS_MAX))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub consumers: Vec<Consumer>,

    /// Tokens that an authenticated consumer who is not listed starts with, 0 to 9007199254740991. Raising or lowering
    /// it changes the balances made from it by the difference, each with the next request of its consumer. Absent: such
    /// a consumer is refused, unless a balance of its name is in Redis already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_AMOUNT))]
    pub default_quota: Option<i64>,

    /// When balances are refreshed, and how. Absent: never, except once for each new value of the annotation
    /// `quota.higress.io/refresh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,

    /// What tokens of some models count, and which models have quotas of their own. At most 32, each name once. The body of
    /// a metered request says which model it is for, or the path, as Gemini's does; where neither does, the header
    /// `x-higress-llm-model`. Where two of them differ, the request is refused with 403. A model that is not listed is
    /// `other`: its requests draw on the common quotas, each token counts once. Absent: models are not told apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = MODELS_MAX))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<Model>,

    /// Which requests spend tokens: those whose path, without its query, ends in one of these. 1 to 32 suffixes that
    /// begin with `/` or `:`. Absent: `/v1/chat/completions`, `/v1/messages` and `/v1/responses`. What becomes of other
    /// paths is said by `unlistedPaths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = PATHS_MAX), extend("x-kubernetes-list-type" = "set"))]
    #[schemars(inner(length(max = PATH_MAX_LENGTH), regex(pattern = PATH_PATTERN)))]
    pub paths: Option<Vec<String>>,

    /// When a metered request passes. `Check`: while a token is left; requests in flight together may spend more than
    /// is left. `Reserve`: if what it may cost is left besides what is held for requests in flight: the largest number
    /// of tokens that it lets its answer have (`max_tokens`, `max_completion_tokens`, `max_output_tokens`,
    /// `generationConfig.maxOutputTokens`; no less than `reservation.defaultMaxTokens` where it does not clearly say
    /// it), times the answers it asks for to each of its prompts, and a token for each 4 bytes of its body, at most
    /// 131072 for the latter. That is held until its answer is charged. So a balance falls below zero by at most what
    /// requests that were admitted together cost more than that. Nothing is held of a balance without ledger, which was
    /// made by hand and which no object lists or gives a default: for it this is as `Check`. The request waits until
    /// its body has come; one of more than 10 MiB is answered 413. With `mode: Observe` as `Check`. Absent: `Check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,

    /// What is held for requests that do not say how long their answers may be. Required with `admission: Reserve`, and
    /// allowed with no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,

    /// Whether anything is refused. `Enforce`: what this object says. `Observe`: nothing but misuse of the admin API; each
    /// request passes, and those that would be refused are counted by the gateway's metric `would_refuse`. What is
    /// used meanwhile is noted beside the balances and counts only for what would be refused; when `Enforce` begins,
    /// nothing of it counts. Quotas that share balances should agree in it. Absent: `Enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// What becomes of a metered request while the store does not answer, or cannot book it. `Refuse`: 503, text
    /// `Request denied by ai quota check. Quota store unavailable.`, details `ai-quota.error`. `Admit`: it passes without
    /// being checked, and what its answer used is charged if the store is back when the answer ends; otherwise, and for a
    /// consumer that has no balance yet and would have got one from `defaultQuota`, it is lost and counted as unknown.
    /// Either way a store that hangs costs a request the store's `timeout` and up to 50 ms.
    /// Absent: `Refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<OnStoreFailure>,

    /// What a metered request is charged whose answer is 2xx but says nothing of its usage. `Estimate`: a token for each 4
    /// bytes of generated text that was seen, and one for each 4 bytes of the request's body, at most 4096 for the
    /// latter; a stream that ends before it has counted its output is charged its input and what was generated.
    /// `Ignore`: what usage was seen, if any. Absent: `Estimate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_missing_usage: Option<OnMissingUsage>,

    /// What becomes of requests to the targets on paths that are neither in `paths` nor the admin API's. `Admit`: they
    /// pass unmetered. `Refuse`: 403, text `Request denied by ai quota check. This path is not listed.`, details
    /// `ai-quota.unlisted_path`, whoever asks; with a target of kind `Gateway` or `Domain` that is every other path of
    /// the gateway or host. Absent: `Admit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlisted_paths: Option<UnlistedPaths>,

    /// Whether answers to metered requests tell the client of its balance, as OpenAI tells of rate limits:
    /// `x-ratelimit-limit-tokens` (what a period gives), `x-ratelimit-remaining-tokens` (what was left before the
    /// request) and, with `refresh`, `x-ratelimit-reset-tokens` (until the next period, as in `6m0s`), in place of those
    /// of the model's API. A refusal for want of balance has `retry-after` too, in seconds, with `refresh`. None of them
    /// for a consumer without limit. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_headers: Option<bool>,

    /// The shape of refusals, but for those of the admin API. `Text`: plain text, 403 for want of balance. `OpenAI`: JSON
    /// as OpenAI's API, 429 with `insufficient_quota` for want of balance. `Anthropic`: JSON as Anthropic's API, 429
    /// with `rate_limit_error` for want of balance. Absent: `Text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Errors>,

    /// Whether streams are asked for their usage (`true`), so that they are charged what they used and not
    /// estimated: a request whose path ends in `/completions`, whose body asks for a stream and does not say
    /// `stream_options.include_usage: true` is made to say it. The client does not see it: the event that has usage and no
    /// choices is taken out of its answer. Requests on such paths are held until their bodies have come; one of more than
    /// 10 MiB is refused with 413. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,

    /// When to warn: the percentage of its quota, 1 to 100, that a consumer has used in a period (without `refresh`: ever).
    /// The charge with which a consumer comes to it is counted by the gateway's metric `warned`, once per period; the
    /// condition `NearlyExhausted` names the listed consumers that are there, as `status.consumers` has them, and an
    /// Event tells of each, once per period. With `mode: Observe` the metric counts what would be used, and nothing
    /// else is said. Absent: nobody is warned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = WARN_AT_MIN, max = WARN_AT_MAX))]
    pub warn_at: Option<u8>,

    /// What becomes of the balances in Redis when this object is deleted. `Retain`: they stay as they are, and an
    /// object that lists the same consumers with the same prefix and store goes on with them; nothing delays the
    /// deletion. `Delete`: the object's rules go first; after the time in which requests under way may still end
    /// (5 minutes, unless the administrator chose another) its balances are deleted, also those put aside and those
    /// made from `defaultQuota`, and only then the object is gone. The condition `Deleting` says how far that is.
    /// Absent: `Retain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

// No comments on the variants: they would turn the enum into alternatives, which a structural schema may not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

/// One thing a quota applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [target_name_by_kind(), only_domains_have_wildcards()]))]
pub struct TargetRef {
    /// `Ingress` and `HTTPRoute` are routes of this namespace, with every route Higress derives from them (default
    /// backend, fallback, canaries). `Service`, `Domain` and `Gateway` (all traffic of the gateway) are for
    /// namespaces the administrator trusts. The most specific target of a request decides: route, service, domain,
    /// gateway.
    pub kind: TargetKind,

    /// The name of the Ingress, HTTPRoute or Service in this namespace; a Service elsewhere as
    /// `<service>.<namespace>.svc.cluster.local` (a registry of an McpBridge cannot be one); for `Domain` the host name, which may begin with `*.`. Absent for
    /// `Gateway`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = TARGET_NAME_MAX_LENGTH), regex(pattern = TARGET_NAME_PATTERN))]
    pub name: Option<String>,
}

// No comments on the variants: they would turn the enum into alternatives, which a structural schema may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    Ingress,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    Service,
    Domain,
    Gateway,
}

/// Which AIQuotaStore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreRef {
    /// The name of an AIQuotaStore in the gateway's namespace.
    #[schemars(length(min = 1, max = TARGET_NAME_MAX_LENGTH), regex(pattern = NAME_PATTERN))]
    pub name: String,
}

/// The admin API: `GET <path>?consumer=<name>` answers the balance, `POST <path>/refresh` with the form
/// `consumer=<name>&quota=<tokens>` sets it, `POST <path>/delta` with `consumer=<name>&value=<tokens>` changes it.
/// With `model=<name>` in addition it is the balance that requests for that model draw on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admin {
    /// The consumer that may use the admin API; everybody else is refused with 403.
    #[schemars(length(min = 1, max = CONSUMER_MAX_LENGTH), regex(pattern = CONSUMER_PATTERN))]
    pub consumer: String,

    /// Where the admin API is, below `/v1/chat/completions`. Absent: `/quota`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = PATH_MAX_LENGTH), regex(pattern = ADMIN_PATH_PATTERN))]
    pub path: Option<String>,
}

/// A consumer and what it may spend: exactly one of `quota` and `unlimited: true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [quota_or_unlimited()]))]
pub struct Consumer {
    /// The consumer as the auth plugin names it: 1 to 253 visible ASCII characters without braces.
    #[schemars(length(min = 1, max = CONSUMER_MAX_LENGTH), regex(pattern = CONSUMER_PATTERN))]
    pub name: String,

    /// Tokens it may spend, 0 to 9007199254740991. 0 blocks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_AMOUNT))]
    pub quota: Option<i64>,

    /// True: it is never refused for its balance; what it spends is still counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlimited: Option<bool>,
}

impl TargetKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::HttpRoute => "HTTPRoute",
            Self::Service => "Service",
            Self::Domain => "Domain",
            Self::Gateway => "Gateway",
        }
    }

    /// Whether it may hold other targets.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::Domain | Self::Gateway)
    }
}

impl std::fmt::Display for TargetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) const NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

fn admin_path_is_not_metered() -> serde_json::Value {
    serde_json::json!({
        "rule": "!has(self.admin) || (has(self.paths) ? self.paths : \
                 ['/v1/chat/completions', '/v1/messages', '/v1/responses']).all(p, \
                 ['', '/refresh', '/delta'].all(s, !('/v1/chat/completions' + \
                 (has(self.admin.path) ? self.admin.path : '/quota') + s).endsWith(p)))",
        "message": "the admin API would be taken for a metered path: choose another admin.path or another suffix in paths",
        "fieldPath": ".admin",
    })
}

pub(crate) fn only_wide_targets_have_narrower_ones() -> serde_json::Value {
    serde_json::json!({
        "rule": "!has(self.allowNarrower) || self.targetRefs.exists(t, t.kind in ['Gateway', 'Domain'])",
        "message": "only a target of kind Gateway or Domain has narrower ones: leave allowNarrower out",
        "fieldPath": ".allowNarrower",
    })
}

pub(crate) fn targets_are_unique() -> serde_json::Value {
    serde_json::json!({
        "rule": "self.all(a, self.exists_one(b, a.kind == b.kind && \
                 (has(a.name) ? a.name : '') == (has(b.name) ? b.name : '')))",
        "message": "each target may be listed once",
        "reason": "FieldValueDuplicate",
    })
}

fn target_name_by_kind() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.name) == (self.kind != 'Gateway')",
        "message": "name is required, except for kind Gateway, which is the whole gateway and has no name",
        "fieldPath": ".name",
    })
}

fn only_domains_have_wildcards() -> serde_json::Value {
    serde_json::json!({
        "rule": "self.kind == 'Domain' || !has(self.name) || !self.name.startsWith('*')",
        "message": "only the name of a Domain may begin with *.",
        "fieldPath": ".name",
    })
}

fn prefix_is_free() -> serde_json::Value {
    serde_json::json!({
        "rule": "!self.startsWith('aiquota:') && !'aiquota:'.startsWith(self)",
        "message": "prefixes that begin with aiquota: belong to namespaces that may not choose one, and a beginning of \
                    that would reach them; choose another",
    })
}

fn quota_or_unlimited() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.quota) != (has(self.unlimited) && self.unlimited)",
        "message": "exactly one of quota and unlimited: true must be given",
    })
}
