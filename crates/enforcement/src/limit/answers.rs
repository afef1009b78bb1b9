//! The answers of token rate limits; the rejection is upstream's byte for byte. In: what happened. Out: responses. Pure.

use std::borrow::Cow;

use crate::models::Unclear;
use crate::redis::limits::State;
use crate::response::{ByRoute, Response};
use crate::steps::Count;
use crate::wire::limit::Rejection;

/// Seconds until the window ends.
const RESET: &str = "X-TokenRateLimit-Reset";

pub(super) fn rejected(rejection: &Rejection, state: State, consumer: Option<Vec<u8>>) -> Response {
    Response {
        body: Cow::Owned(rejection.message.clone()),
        headers: vec![(RESET, state.left.to_string())],
        by_route: Some(ByRoute { metric: "token_ratelimit_count", consumer }),
        ..Response::text(rejection.code, "ai-token-ratelimit.rejected", "")
    }
}

pub(super) const fn unauthorized_consumer() -> Response {
    let body = "Request denied by ai token ratelimit check. Unauthorized consumer.";
    Response::text(403, "ai-token-ratelimit.unauthorized", body)
}

/// The native form's, where no other paths than the listed ones are open.
pub(super) const fn unlisted_path() -> Response {
    let body = "Request denied by ai token ratelimit check. This path is not listed.";
    Response::text(403, "ai-token-ratelimit.unlisted_path", body)
}

/// The native form's, where who cannot be counted is not let through.
pub(super) fn store_unavailable() -> Response {
    let body = "Request denied by ai token ratelimit check. Limit store unavailable.";
    Response::text(503, "ai-token-ratelimit.error", body).counting(&[Count::Refused, Count::StoreFailure])
}

/// The native form's: whether patterns match such a value would take too long to say.
pub(super) const fn value_too_long() -> Response {
    let body = "Request denied by ai token ratelimit check. A value is too long for the patterns of its limits.";
    Response::text(403, "ai-token-ratelimit.value_too_long", body)
}

pub(super) const fn websocket() -> Response {
    let body = "Request denied by ai token ratelimit check. A WebSocket cannot be metered.";
    Response::text(403, "ai-token-ratelimit.websocket", body)
}

/// The native form's, where models are declared and it is not clear which of them a request is for.
pub(super) const fn unclear_model(why: Unclear) -> Response {
    match why {
        Unclear::Contradiction => {
            let body = "Request denied by ai token ratelimit check. It is not clear which model the request is for.";
            Response::text(403, "ai-token-ratelimit.unclear_model", body)
        }
        Unclear::Form => {
            let body = "Request denied by ai token ratelimit check. The model in a form is not read: serve this path by an \
                        AITokenRateLimit without models.";
            Response::text(415, "ai-token-ratelimit.form_body", body)
        }
    }
}

/// The native form's, where the body of a limited request is awaited.
pub(super) const fn too_long() -> Response {
    let body = "Request denied by ai token ratelimit check. The request body is longer than 10 MiB.";
    Response::text(413, "ai-token-ratelimit.body_too_long", body)
}

/// What a rule matches that cannot be enforced, with the reason.
pub(super) fn unenforceable(reason: &str) -> Response {
    let body = Cow::Owned(format!("Request denied by ai token ratelimit check. {reason}"));
    Response { body, ..Response::text(503, "ai-token-ratelimit.error", "") }
}
