//! How the requests under an object may end: from its spec to what the module reads, and what of it Higress' own module
//! has no means for. Pure.

use api::{AiQuotaSpec, Errors, Mode, OnMissingUsage, OnStoreFailure, UnlistedPaths};
use enforcement::wire;

use crate::{Refusal, Refused};

/// What is said in many words and what is left out come to the same: objects that mean the same may share a target.
pub(crate) fn ends(spec: &AiQuotaSpec) -> wire::Ends {
    wire::Ends {
        on_store_failure: match spec.on_store_failure {
            Some(OnStoreFailure::Admit) => Some(wire::OnStoreFailure::Admit),
            Some(OnStoreFailure::Refuse) | None => None,
        },
        on_missing_usage: match spec.on_missing_usage.unwrap_or_default() {
            OnMissingUsage::Estimate => wire::OnMissingUsage::Estimate,
            OnMissingUsage::Ignore => wire::OnMissingUsage::Ignore,
        },
        unlisted_paths: match spec.unlisted_paths.unwrap_or_default() {
            UnlistedPaths::Admit => wire::UnlistedPaths::Admit,
            UnlistedPaths::Refuse => wire::UnlistedPaths::Refuse,
        },
        mode: match spec.mode.unwrap_or_default() {
            Mode::Enforce => wire::PolicyMode::Enforce,
            Mode::Observe => wire::PolicyMode::Observe,
        },
        rate_limit_headers: spec.rate_limit_headers.unwrap_or(false),
        errors: match spec.errors.unwrap_or_default() {
            Errors::Text => wire::Errors::Text,
            Errors::OpenAi => wire::Errors::OpenAi,
            Errors::Anthropic => wire::Errors::Anthropic,
        },
    }
}

/// What is asked for that Higress' own module does otherwise.
pub(crate) fn beyond_upstream(spec: &AiQuotaSpec) -> impl Iterator<Item = Refusal> {
    let AiQuotaSpec { mode, on_store_failure, on_missing_usage, unlisted_paths, rate_limit_headers, errors, .. } = spec;
    [
        ("spec.mode", *mode == Some(Mode::Observe), "the module cannot but enforce"),
        (
            "spec.onStoreFailure",
            *on_store_failure == Some(OnStoreFailure::Admit),
            "the module refuses while the store does not answer",
        ),
        (
            "spec.onMissingUsage",
            *on_missing_usage == Some(OnMissingUsage::Estimate),
            "the module books nothing for an answer without usage: Ignore, or leave it out",
        ),
        ("spec.unlistedPaths", *unlisted_paths == Some(UnlistedPaths::Refuse), "the module lets other paths pass"),
        ("spec.rateLimitHeaders", *rate_limit_headers == Some(true), "the module tells clients nothing"),
        ("spec.errors", errors.is_some_and(|errors| errors != Errors::Text), "the module refuses with plain text"),
    ]
    .into_iter()
    .filter(|(_, asked, _)| *asked)
    .map(|(field, _, message)| Refusal {
        field: field.to_owned(),
        reason: Refused::Unsupported,
        message: message.to_owned(),
    })
}
