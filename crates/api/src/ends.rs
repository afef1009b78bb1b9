//! How the requests under an object may end. No comments on the variants: they would turn the enums into alternatives,
//! which a structural schema may not have; what they do is said where they are used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnStoreFailure {
    Refuse,
    Admit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnMissingUsage {
    #[default]
    Estimate,
    Ignore,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnlistedPaths {
    #[default]
    Admit,
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Errors {
    #[default]
    Text,
    #[serde(rename = "OpenAI")]
    OpenAi,
    Anthropic,
}
