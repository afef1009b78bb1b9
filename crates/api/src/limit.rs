//! AITokenRateLimit: how many tokens in which window, per value of something in the request or for all requests
//! together. The comments with three slashes are what `kubectl explain` shows.

use enforcement::values::{
    MAX_AMOUNT, MODELS_MAX, PATH_MAX_LENGTH, PATH_PATTERN, PATHS_MAX, REJECTION_CODE_MAX, REJECTION_CODE_MIN,
    RULES_MAX, WARN_AT_MAX, WARN_AT_MIN,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    admission::{Admission, Reservation, reservation_with_reserve},
    ends::{Errors, Mode, OnMissingUsage, OnStoreFailure, UnlistedPaths},
    models::LimitedModel,
    null_is_absent,
    quota::{
        NAME_PATTERN, StoreRef, TARGET_NAME_MAX_LENGTH, TARGETS_MAX, TargetRef, only_wide_targets_have_narrower_ones,
        targets_are_unique,
    },
    status::AiTokenRateLimitStatus,
};

/// Limits of one rule.
pub const LIMITS_MAX: usize = 64;
/// Without a dot: names with one are those of objects that choose none.
pub(crate) const RULE_NAME_CHOICE_PATTERN: &str = r"^[!-\-/-z|~]{1,128}$";
pub const RULE_NAME_CHOICE_MAX_LENGTH: usize = 128;
pub(crate) const WINDOW_PATTERN: &str = "^[1-9][0-9]{0,6}[smhd]$";
/// Secrets and ConfigMaps of one object.
pub const OVERRIDES_FROM_MAX: usize = 32;
/// Names of headers, parameters and cookies.
pub(crate) const SOURCE_PATTERN: &str = "^[!-z|~]{1,128}$";
pub const SOURCE_MAX_LENGTH: usize = 128;
pub const VALUE_MAX_LENGTH: usize = 253;
pub const MESSAGE_MAX_LENGTH: usize = 1_024;
/// No control characters.
pub(crate) const VALUE_PATTERN: &str = r"^[^\x00-\x1f\x7f]*$";

/// Token rate limits for the LLM traffic of some targets. What an answer used is added to counters in Redis, one per
/// limit that the request is under; a request is refused while one of them is above its limit, until its window ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "quota.higress.io",
    version = "v1alpha1",
    kind = "AITokenRateLimit",
    root = "AiTokenRateLimit",
    plural = "aitokenratelimits",
    shortname = "atrl",
    namespaced,
    status = "AiTokenRateLimitStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [something_is_limited(), only_wide_targets_have_narrower_ones(), reservation_with_reserve(), overrides_are_bounded()]))]
pub struct AiTokenRateLimitSpec {
    /// What the limits apply to: a request is under them when any of these matches. 1 to 16, each at most once.
    #[schemars(length(min = 1, max = TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [targets_are_unique()]))]
    pub target_refs: Vec<TargetRef>,

    /// Whether limits of other namespaces may apply to less than a target of kind `Gateway` or `Domain` of this one:
    /// to an Ingress, HTTPRoute, Service or narrower Domain in it. Absent or false: none may, whatever its age, and it
    /// says `Accepted=False` with reason `Overridden`. Only together with such a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_narrower: Option<bool>,

    /// The AIQuotaStore that holds the counters. Absent: the store `default`. Stores live in the gateway's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_ref: Option<StoreRef>,

    /// Names the counters in Redis; limits with the same name, store, value and window share them. 1 to 128 visible
    /// ASCII characters without braces and dots. Only namespaces the administrator trusts may choose one. Absent:
    /// `<namespace>.<name>` of this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = RULE_NAME_CHOICE_MAX_LENGTH), regex(pattern = RULE_NAME_CHOICE_PATTERN))]
    pub rule_name: Option<String>,

    /// Limits for all requests together, at most 10, each with another window.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [windows_differ()]))]
    pub global: Vec<Rate>,

    /// Limits per value of something in the request, at most 10 rules, each by something else. All that find their
    /// value in the request apply. At most 32 `overridesFrom` in all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [rules_differ()]))]
    pub rules: Vec<Rule>,

    /// What tokens of some models count, and limits that requests for them are under besides. At most 32, each name once.
    /// The body of a limited request says which model it is for, or the path, as Gemini's does; where neither does, the
    /// header `x-higress-llm-model`. Where two of them differ, the request is refused with 403. A model that is not listed
    /// is counted as `other`, each token once. Absent: models are not told apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = MODELS_MAX))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<LimitedModel>,

    /// What a request over a limit is answered with. Absent: 429 with the text `Too many requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,

    /// When a metered request passes. `Check`: while no counter is above its limit; requests in flight together may
    /// spend more than is left. `Reserve`: if what it may cost is left under every limit besides what is counted and
    /// held for requests in flight: the largest number of tokens that it lets its answer have (`max_tokens`,
    /// `max_completion_tokens`, `max_output_tokens`, `generationConfig.maxOutputTokens`; no less than
    /// `reservation.defaultMaxTokens` where it does not clearly say it), times the answers it asks for to each of its
    /// prompts, and a token for each 4 bytes of its body, at most 131072 for the latter. That is held until its answer
    /// is counted. So a counter exceeds its limit by at most what requests that were admitted together cost more than
    /// that. The request waits until its body has come; one of more than 10 MiB is answered 413. With `mode: Observe`
    /// as `Check`. Absent: `Check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,

    /// What is held for requests that do not say how long their answers may be. Required with `admission: Reserve`, and
    /// allowed with no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,

    /// Which requests are limited and counted: those whose path, without its query, ends in one of these. 1 to 32
    /// suffixes that begin with `/` or `:`. Absent: `/v1/chat/completions`, `/v1/messages` and `/v1/responses`. What
    /// becomes of other paths is said by `unlistedPaths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = PATHS_MAX), extend("x-kubernetes-list-type" = "set"))]
    #[schemars(inner(length(max = PATH_MAX_LENGTH), regex(pattern = PATH_PATTERN)))]
    pub paths: Option<Vec<String>>,

    /// Whether anything is refused. `Enforce`: what this object says. `Observe`: nothing; each request passes, and those that
    /// would be refused are counted by the gateway's metric `would_refuse`. What is used meanwhile is added to counters
    /// of their own, which count only for what would be refused; when `Enforce` begins, nothing of it counts.
    /// Absent: `Enforce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// What becomes of a limited request while the store does not say where its counters stand. `Admit`: it passes, and what
    /// its answer used is counted if the store is back when the answer ends; otherwise it is lost and counted as
    /// unknown. `Refuse`: 503, text `Request denied by ai token ratelimit check. Limit store unavailable.`, details
    /// `ai-token-ratelimit.error`, also where the store could be read but not written to, or what is stored is no
    /// counter. Either way a store that hangs costs a request the store's `timeout` and up to 50 ms. Absent: `Admit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<OnStoreFailure>,

    /// What a limited request counts whose answer is 2xx but says nothing of its usage. `Estimate`: a token for each 4
    /// bytes of generated text that was seen, and one for each 4 bytes of the request's body, at most 4096 for the
    /// latter; a stream that ends before it has counted its output counts its input and what was generated.
    /// `Ignore`: what usage was seen, if any. Absent: `Estimate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_missing_usage: Option<OnMissingUsage>,

    /// What becomes of requests to the targets on paths that are not in `paths`. `Admit`: they pass and count nothing.
    /// `Refuse`: 403, text `Request denied by ai token ratelimit check. This path is not listed.`, details
    /// `ai-token-ratelimit.unlisted_path`, whoever asks; with a target of kind `Gateway` or `Domain` that is every other
    /// path of the gateway or host. Absent: `Admit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlisted_paths: Option<UnlistedPaths>,

    /// Whether answers to limited requests tell the client where it stands, as OpenAI tells of rate limits, by the limit
    /// with the fewest tokens left: `x-ratelimit-limit-tokens` (its tokens), `x-ratelimit-remaining-tokens` (what was
    /// left before the request) and `x-ratelimit-reset-tokens` (until its window ends, as in `6m0s`), in place of those
    /// of the model's API. A request over a limit is told in `retry-after` too, in seconds, when no limit that it is over
    /// is left. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_headers: Option<bool>,

    /// The shape of refusals. `Text`: plain text. `OpenAI`: JSON as OpenAI's API, for a request over a limit with
    /// `rate_limit_exceeded`. `Anthropic`: JSON as Anthropic's API, for a request over a limit with `rate_limit_error`. What
    /// `rejection` says, code and text, holds in each. Absent: `Text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Errors>,

    /// Whether streams are asked for their usage (`true`), so that they count what they used and not
    /// estimated: a request whose path ends in `/completions`, whose body asks for a stream and does not say
    /// `stream_options.include_usage: true` is made to say it. The client does not see it: the event that has usage and no
    /// choices is taken out of its answer. Requests on such paths are held until their bodies have come; one of more than
    /// 10 MiB is refused with 413. Absent: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,

    /// When to warn: the percentage of a limit's tokens, 1 to 100, that is counted in its window. The gateway's metric
    /// `warned` counts each charge with which a counter comes to it, for each limit and value by itself: once per
    /// window. The condition `NearlyExhausted` names the limits, as `status.nearlyExhausted` has them with the number of
    /// values, and an Event tells of each, once per window. The values are not told: they may be credentials. With `mode:
    /// Observe` the metric counts what would be used, and nothing else is said. Absent: nobody is warned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = WARN_AT_MIN, max = WARN_AT_MAX))]
    pub warn_at: Option<u8>,
}

/// So many tokens in a window, which its first charge opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    /// Tokens, 1 to 9007199254740991. A request passes while no more than these are counted.
    #[schemars(range(min = 1, max = MAX_AMOUNT))]
    pub tokens: i64,

    /// How long they are counted, 1s to 31d: a number and `s`, `m`, `h` or `d`, for example `1m`.
    #[schemars(length(max = 8), regex(pattern = WINDOW_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [window_is_bounded()]))]
    pub window: String,
}

/// Limits per value of one thing in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [networks_are_for_addresses(), rule_limits_something(), credentials_are_secret()]))]
pub struct Rule {
    /// Where the value is taken from.
    pub by: By,

    /// At most 64, at most 10 with the same match, and at least one where there is no `overridesFrom`. The first whose
    /// match is the value's decides, and all with that same match apply. A value that none matches is not limited by this rule, unless an override names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = LIMITS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub limits: Vec<Limit>,

    /// Where single values have limits of their own, which take the place of all limits that this rule has for them.
    /// Each value of the data holds lines `value: tokens/window`, for example `sk-12345: 100000/1m`; empty lines and
    /// those that begin with `#` are left out. They are read in the gateway's namespace only, so that the object must be
    /// there, and stand in Redis as hashes: a change is in force without a change of the gateway's configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = OVERRIDES_FROM_MAX), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub overrides_from: Vec<OverridesFrom>,
}

/// What holds limits of single values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverridesFrom {
    /// `Secret` or `ConfigMap`. Values of headers, parameters and cookies may be credentials: theirs come from Secrets
    /// only.
    pub kind: OverridesKind,

    /// The name of the Secret or ConfigMap, in the namespace of this object.
    #[schemars(length(min = 1, max = TARGET_NAME_MAX_LENGTH), regex(pattern = NAME_PATTERN))]
    pub name: String,
}

// No comments on the variants: they would turn the enum into alternatives, which a structural schema may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OverridesKind {
    Secret,
    ConfigMap,
}

/// Where a value is taken from: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [one_of("header, param, cookie, consumer and ip", &["header", "param", "cookie", "consumer", "ip"])]))]
pub struct By {
    /// The request header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SOURCE_MAX_LENGTH), regex(pattern = SOURCE_PATTERN))]
    pub header: Option<String>,

    /// The query parameter of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SOURCE_MAX_LENGTH), regex(pattern = SOURCE_PATTERN))]
    pub param: Option<String>,

    /// The cookie of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SOURCE_MAX_LENGTH), regex(pattern = SOURCE_PATTERN))]
    pub cookie: Option<String>,

    /// `{}`: the consumer as the auth plugin names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ByConsumer>,

    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<ByIp>,
}

/// Nothing more is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByConsumer {}

/// Which address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ByIp {
    /// The first address in this request header, for example `X-Forwarded-For`. Absent: the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = SOURCE_MAX_LENGTH), regex(pattern = SOURCE_PATTERN))]
    pub from_header: Option<String>,
}

/// A limit, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Which values. Each value has a counter of its own, named in Redis by the value, or by its SHA-1 where it is longer
    /// than 512 bytes.
    #[serde(rename = "match")]
    pub matches: Match,

    /// Tokens, 1 to 9007199254740991. A request passes while no more than these are counted.
    #[schemars(range(min = 1, max = MAX_AMOUNT))]
    pub tokens: i64,

    /// How long they are counted, 1s to 31d: a number and `s`, `m`, `h` or `d`, for example `1m`.
    #[schemars(length(max = 8), regex(pattern = WINDOW_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [window_is_bounded()]))]
    pub window: String,
}

/// Which values: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [one_of("exact, pattern, any and cidr", &["exact", "pattern", "any", "cidr"])]))]
pub struct Match {
    /// This value, 1 to 253 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = VALUE_MAX_LENGTH), regex(pattern = VALUE_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [no_template()]))]
    pub exact: Option<String>,

    /// Values that this regular expression (RE2 syntax, 1 to 253 characters) finds itself in, for example `^team-.*`.
    /// Compiled, one may take 32 KiB, and all of an object together 64 KiB; most take less than 1 KiB. It is tried on
    /// values of at most 1,024 bytes: a request with a longer one that comes to a pattern is refused with 403, details
    /// `ai-token-ratelimit.value_too_long`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = VALUE_MAX_LENGTH), regex(pattern = VALUE_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [no_template(), is_regex()]))]
    pub pattern: Option<String>,

    /// True: every value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [is_true()]))]
    pub any: Option<bool>,

    /// Addresses of this network, as `10.0.0.0/8`, or this address. Only by `ip`, and nothing else there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("x-kubernetes-validations" = [is_network()]))]
    pub cidr: Option<String>,
}

/// What a request over a limit is answered with; the header `X-TokenRateLimit-Reset` has the seconds to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rejection {
    /// The status, 400 to 599. Absent: 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = REJECTION_CODE_MIN, max = REJECTION_CODE_MAX))]
    pub code: Option<u16>,

    /// The text, at most 1,024 characters. Absent: `Too many requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MESSAGE_MAX_LENGTH), regex(pattern = VALUE_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [no_template()]))]
    pub message: Option<String>,
}

fn something_is_limited() -> Value {
    json!({
        "rule": "(has(self.global) && self.global.size() > 0) || (has(self.rules) && self.rules.size() > 0) || \
                 (has(self.models) && self.models.exists(m, (has(m.global) && m.global.size() > 0) || \
                 (has(m.rules) && m.rules.size() > 0)))",
        "message": "at least one of global and rules must be given, here or for a model",
        "fieldPath": ".rules",
    })
}

/// As they are written: whether `60s` and `1m` stand side by side is left to the controller.
pub(crate) fn windows_differ() -> Value {
    json!({
        "rule": "self.all(a, self.exists_one(b, a.window == b.window))",
        "message": "each window may be listed once",
        "reason": "FieldValueDuplicate",
    })
}

pub(crate) fn rules_differ() -> Value {
    json!({
        "rule": "self.all(a, self.exists_one(b, a.by == b.by))",
        "message": "limits by one thing stand in one rule",
        "reason": "FieldValueDuplicate",
    })
}

fn window_is_bounded() -> Value {
    json!({
        "rule": "self.endsWith('d') ? int(self.substring(0, self.size() - 1)) <= 31 : duration(self) <= duration('744h')",
        "message": "must be 1s to 31d",
    })
}

fn networks_are_for_addresses() -> Value {
    json!({
        "rule": "!has(self.limits) || self.limits.all(l, has(l.match.cidr) == has(self.by.ip))",
        "message": "addresses are matched by cidr, and by nothing else; cidr matches nothing but addresses",
        "fieldPath": ".limits",
    })
}

fn rule_limits_something() -> Value {
    json!({
        "rule": "(has(self.limits) && self.limits.size() > 0) || (has(self.overridesFrom) && self.overridesFrom.size() > 0)",
        "message": "at least one of limits and overridesFrom must be given",
        "fieldPath": ".limits",
    })
}

fn credentials_are_secret() -> Value {
    json!({
        "rule": "!has(self.overridesFrom) || has(self.by.consumer) || has(self.by.ip) || self.overridesFrom.all(o, o.kind == 'Secret')",
        "message": "values of headers, parameters and cookies may be credentials, which come from Secrets only",
        "fieldPath": ".overridesFrom",
    })
}

fn overrides_are_bounded() -> Value {
    json!({
        "rule": format!(
            "!has(self.rules) || self.rules.map(r, has(r.overridesFrom) ? r.overridesFrom.size() : 0).sum() <= {OVERRIDES_FROM_MAX}"
        ),
        "message": format!("at most {OVERRIDES_FROM_MAX} overridesFrom may be given in all rules"),
        "fieldPath": ".rules",
    })
}

fn one_of(names: &str, fields: &[&str]) -> Value {
    let given = fields.iter().map(|field| format!("has(self.{field})")).collect::<Vec<_>>().join(", ");
    json!({
        "rule": format!("[{given}].exists_one(given, given)"),
        "message": format!("exactly one of {names} must be given"),
    })
}

/// The gateway would put a Secret there.
fn no_template() -> Value {
    json!({"rule": "!self.contains('${')", "message": "must not have ${, which the gateway would replace"})
}

fn is_regex() -> Value {
    json!({"rule": "''.matches(self) in [true, false]", "message": "must be a regular expression in RE2 syntax"})
}

fn is_true() -> Value {
    json!({"rule": "self", "message": "must be true, or left out"})
}

fn is_network() -> Value {
    json!({"rule": "isCIDR(self) || isIP(self)", "message": "must be an address or a network, as 10.0.0.0/8"})
}
