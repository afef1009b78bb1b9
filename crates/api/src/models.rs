//! What an object says about models. The comments with three slashes are what `kubectl explain` shows.

use enforcement::values::{MAX_AMOUNT, MODEL_MAX_LENGTH, MODEL_PATTERN, RULES_MAX, WEIGHT_MAX};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    limit::{Rate, Rule, rules_differ, windows_differ},
    null_is_absent,
    quota::{CONSUMERS_MAX, Consumer},
};

/// A model: what its tokens count, and whether it has quotas of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// The model as requests name it, or the beginning of such names with `*` behind it; `*` alone is every other model,
    /// also that of requests that name none. The whole name comes first, then the longest beginning. 1 to 128 visible
    /// ASCII characters without braces; without `models/` before it, which Gemini's names may have in requests.
    #[schemars(length(min = 1, max = MODEL_MAX_LENGTH), regex(pattern = MODEL_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [name_is_bare()]))]
    pub name: String,

    /// How much each token counts. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,

    /// Who may spend how much on this model: its requests draw on these quotas instead of those of `spec.consumers`, and
    /// are refused for want of them alone. As `spec.consumers`: at most 10,000, each name once; refreshed by
    /// `spec.refresh`. Empty: the model has quotas of its own, but none is listed here. Absent, and no `defaultQuota`
    /// here: requests for the model draw on the common quotas.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = CONSUMERS_MAX))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub consumers: Option<Vec<Consumer>>,

    /// Tokens that a consumer who is not listed here starts with for this model, 0 to 9007199254740991. Absent, and
    /// `consumers` here: such a consumer is refused for this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_AMOUNT))]
    pub default_quota: Option<i64>,
}

/// How much a token counts, each a whole number from 0 to 1000. All 0: the model costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Weights {
    /// A token of input, also one that is written to a cache. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = WEIGHT_MAX))]
    pub input: Option<u16>,

    /// A token of output. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = WEIGHT_MAX))]
    pub output: Option<u16>,

    /// A token of input that was read from a cache. Absent: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = WEIGHT_MAX))]
    pub cached_input: Option<u16>,

    /// A token of output that is reasoning. Absent: as `output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = WEIGHT_MAX))]
    pub reasoning: Option<u16>,
}

/// A model: what its tokens count, and limits that its requests are under besides those of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitedModel {
    /// The model as requests name it, or the beginning of such names with `*` behind it; `*` alone is every other model,
    /// also that of requests that name none. The whole name comes first, then the longest beginning. 1 to 128 visible
    /// ASCII characters without braces; without `models/` before it, which Gemini's names may have in requests.
    #[schemars(length(min = 1, max = MODEL_MAX_LENGTH), regex(pattern = MODEL_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = [name_is_bare()]))]
    pub name: String,

    /// How much each token counts, in all limits. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,

    /// Limits for all requests for this model together, at most 10, each with another window. They apply besides
    /// `spec.global`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [windows_differ()]))]
    pub global: Vec<Rate>,

    /// Limits per value of something in the requests for this model, at most 10 rules, each by something else and
    /// without `overridesFrom`. They apply besides `spec.rules`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_absent")]
    #[schemars(length(max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    #[schemars(extend("x-kubernetes-validations" = [rules_differ(), no_overrides()]))]
    pub rules: Vec<Rule>,
}

impl Model {
    /// Whether its requests draw on quotas of its own.
    #[must_use]
    pub const fn has_own(&self) -> bool {
        self.consumers.is_some() || self.default_quota.is_some()
    }
}

fn no_overrides() -> Value {
    json!({
        "rule": "self.all(r, !has(r.overridesFrom) || r.overridesFrom.size() == 0)",
        "message": "overridesFrom is for rules of all models together: put it in spec.rules",
    })
}

fn name_is_bare() -> Value {
    json!({"rule": "!self.startsWith('models/')", "message": "models/ is left out, in requests too"})
}
