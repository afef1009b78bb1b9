//! How the requests under an object may end: from its spec to what the modules read, in which field two differ, and what
//! of it Higress' own modules have no means for. The same for both kinds. Pure.

use api::{Ends, Errors, Mode, OnMissingUsage, OnStoreFailure, UnlistedPaths};
use enforcement::wire;

use crate::{Refusal, Refused};

/// What is said in many words and what is left out come to the same: objects that mean the same may share a target.
/// `usual`: what becomes of requests without their store where nothing is said.
pub(crate) fn ends(said: Ends, usual: OnStoreFailure) -> wire::Ends {
    let Ends {
        mode,
        on_store_failure,
        on_missing_usage,
        unlisted_paths,
        rate_limit_headers,
        errors,
        include_usage,
        warn_at,
    } = said;
    wire::Ends {
        on_store_failure: on_store_failure.filter(|said| *said != usual).map(|said| match said {
            OnStoreFailure::Refuse => wire::OnStoreFailure::Refuse,
            OnStoreFailure::Admit => wire::OnStoreFailure::Admit,
        }),
        on_missing_usage: match on_missing_usage.unwrap_or_default() {
            OnMissingUsage::Estimate => wire::OnMissingUsage::Estimate,
            OnMissingUsage::Ignore => wire::OnMissingUsage::Ignore,
        },
        unlisted_paths: match unlisted_paths.unwrap_or_default() {
            UnlistedPaths::Admit => wire::UnlistedPaths::Admit,
            UnlistedPaths::Refuse => wire::UnlistedPaths::Refuse,
        },
        mode: match mode.unwrap_or_default() {
            Mode::Enforce => wire::PolicyMode::Enforce,
            Mode::Observe => wire::PolicyMode::Observe,
        },
        rate_limit_headers: rate_limit_headers.unwrap_or(false),
        errors: match errors.unwrap_or_default() {
            Errors::Text => wire::Errors::Text,
            Errors::OpenAi => wire::Errors::OpenAi,
            Errors::Anthropic => wire::Errors::Anthropic,
        },
        include_usage: include_usage.unwrap_or(false),
        warn_at,
    }
}

/// The first field in which two differ.
pub(crate) fn difference(a: &wire::Ends, b: &wire::Ends) -> Option<&'static str> {
    let wire::Ends {
        on_store_failure,
        on_missing_usage,
        unlisted_paths,
        mode,
        rate_limit_headers,
        errors,
        include_usage,
        warn_at,
    } = a;
    [
        ("mode", *mode != b.mode),
        ("onStoreFailure", *on_store_failure != b.on_store_failure),
        ("onMissingUsage", *on_missing_usage != b.on_missing_usage),
        ("unlistedPaths", *unlisted_paths != b.unlisted_paths),
        ("rateLimitHeaders", *rate_limit_headers != b.rate_limit_headers),
        ("errors", *errors != b.errors),
        ("includeUsage", *include_usage != b.include_usage),
        ("warnAt", *warn_at != b.warn_at),
    ]
    .into_iter()
    .find_map(|(field, differs)| differs.then_some(field))
}

/// What is asked for that Higress' own module does otherwise. What it does without its store, and with other paths:
/// `store` and `paths`.
pub(crate) fn beyond_upstream(
    said: Ends,
    (fixed, store): (OnStoreFailure, &'static str),
    paths: &'static str,
) -> impl Iterator<Item = Refusal> {
    let Ends {
        mode,
        on_store_failure,
        on_missing_usage,
        unlisted_paths,
        rate_limit_headers,
        errors,
        include_usage,
        warn_at,
    } = said;
    [
        ("spec.mode", mode == Some(Mode::Observe), "the module cannot but enforce"),
        ("spec.onStoreFailure", on_store_failure.is_some_and(|said| said != fixed), store),
        (
            "spec.onMissingUsage",
            on_missing_usage == Some(OnMissingUsage::Estimate),
            "the module books nothing for an answer without usage: Ignore, or leave it out",
        ),
        ("spec.unlistedPaths", unlisted_paths == Some(UnlistedPaths::Refuse), paths),
        ("spec.rateLimitHeaders", rate_limit_headers == Some(true), "the module tells clients nothing"),
        ("spec.errors", errors.is_some_and(|errors| errors != Errors::Text), "the module refuses with plain text"),
        ("spec.includeUsage", include_usage == Some(true), "the module changes no body"),
        ("spec.warnAt", warn_at.is_some(), "the module warns of nothing"),
    ]
    .into_iter()
    .filter(|(_, asked, _)| *asked)
    .map(|(field, _, message)| Refusal {
        field: field.to_owned(),
        reason: Refused::Unsupported,
        message: message.to_owned(),
    })
}
