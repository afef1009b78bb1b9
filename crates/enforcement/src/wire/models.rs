//! What a policy says about models, in the native configuration. What is as usual is left out. Pure.

use serde::{Deserialize, Serialize};

use crate::models::Weights;
use crate::wire::limit::{Rate, Rule};

/// A declared model of a quota: what its tokens weigh, and whether requests for it draw on balances of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// As in [`crate::models::Model`].
    pub name: String,
    #[serde(default, skip_serializing_if = "Weights::is_default")]
    pub weights: Weights,
    /// Absent: requests for it draw on the common balances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

/// Balances of one model; their prefix is [`crate::redis::of_model`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Own {
    /// As that of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_quota: Option<i64>,
    /// As that of the policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yields: bool,
}

/// A declared model of token rate limits: what its tokens weigh, and limits that requests for it are under besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitedModel {
    /// As in [`crate::models::Model`].
    pub name: String,
    #[serde(default, skip_serializing_if = "Weights::is_default")]
    pub weights: Weights,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub global: Vec<Rate>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}
