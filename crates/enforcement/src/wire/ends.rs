//! How the requests under a policy may end, in the native configuration. What is as usual is left out. Pure.

use serde::{Deserialize, Serialize};

/// What a policy says about the ends of its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ends {
    /// Absent: what is usual for the kind of enforcement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<OnStoreFailure>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_missing_usage: OnMissingUsage,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unlisted_paths: UnlistedPaths,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: PolicyMode,
    /// Whether clients are told what is left to them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate_limit_headers: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub errors: Errors,
    /// Whether streams that do not ask for their usage are made to, and clients are spared it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub include_usage: bool,
    /// Hundredths of what may be used at which somebody is to be warned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_at: Option<u8>,
}

/// What becomes of a request about which the store says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStoreFailure {
    Refuse,
    /// It passes unchecked, and is charged at its end.
    Admit,
}

/// What a 2xx answer has cost that does not say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMissingUsage {
    #[default]
    Estimate,
    /// Nothing.
    Ignore,
}

/// What becomes of a request on a path that is neither metered nor the admin's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnlistedPaths {
    #[default]
    Admit,
    Refuse,
}

/// Whether anything is refused at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyMode {
    #[default]
    Enforce,
    /// Nothing but misuse of the admin API; what would be is counted, and what is used counts against nothing.
    Observe,
}

/// The shape of refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errors {
    #[default]
    Text,
    #[serde(rename = "OpenAI")]
    OpenAi,
    Anthropic,
}

impl Ends {
    #[must_use]
    pub fn observes(&self) -> bool {
        self.mode == PolicyMode::Observe
    }

    /// Whether nothing unusual is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        is_default(self)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
