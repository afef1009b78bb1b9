//! How the requests under an object may end, the same for both kinds; each kind has the fields by itself, since what
//! they come to is said in its own words, and errors must name them. No comments on the variants: they would turn the
//! enums into alternatives, which a structural schema may not have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AiQuotaSpec, AiTokenRateLimitSpec};

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

/// What an object of either kind says about the ends of its requests, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub mode: Option<Mode>,
    pub on_store_failure: Option<OnStoreFailure>,
    pub on_missing_usage: Option<OnMissingUsage>,
    pub unlisted_paths: Option<UnlistedPaths>,
    pub rate_limit_headers: Option<bool>,
    pub errors: Option<Errors>,
    pub include_usage: Option<bool>,
    pub warn_at: Option<u8>,
}

impl AiQuotaSpec {
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends {
            mode: self.mode,
            on_store_failure: self.on_store_failure,
            on_missing_usage: self.on_missing_usage,
            unlisted_paths: self.unlisted_paths,
            rate_limit_headers: self.rate_limit_headers,
            errors: self.errors,
            include_usage: self.include_usage,
            warn_at: self.warn_at,
        }
    }
}

impl AiTokenRateLimitSpec {
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends {
            mode: self.mode,
            on_store_failure: self.on_store_failure,
            on_missing_usage: self.on_missing_usage,
            unlisted_paths: self.unlisted_paths,
            rate_limit_headers: self.rate_limit_headers,
            errors: self.errors,
            include_usage: self.include_usage,
            warn_at: self.warn_at,
        }
    }
}
