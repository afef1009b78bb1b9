//! The answers of quotas, byte for byte as upstream gives them. In: what happened. Out: responses. Pure.

use std::borrow::Cow;

use crate::models::Unclear;
use crate::response::Response;
use crate::steps::Count;

const UNAUTHORIZED: &str = "ai-quota.unauthorized";
const ERROR: &str = "ai-quota.error";

pub(super) const fn no_key() -> Response {
    let body = "Request denied by ai quota check. No Key Authentication information found.";
    Response::text(401, "ai-quota.no_key", body)
}

pub(super) const fn unauthorized_consumer() -> Response {
    Response::text(403, UNAUTHORIZED, "Request denied by ai quota check. Unauthorized consumer.")
}

pub(super) const fn no_quota() -> Response {
    Response::text(403, "ai-quota.noquota", "Request denied by ai quota check, No quota left")
}

/// The native form's, when the store does not answer a check; with upstream's configuration it is
/// [`no_quota`].
pub(super) fn store_unavailable() -> Response {
    Response::text(503, ERROR, "Request denied by ai quota check. Quota store unavailable.")
        .counting(&[Count::Refused, Count::StoreFailure])
}

/// What a rule matches that cannot be enforced, with the reason.
pub(super) fn unenforceable(reason: &str) -> Response {
    let body = Cow::Owned(format!("Request denied by ai quota check. {reason}"));
    Response { body, ..Response::text(503, ERROR, "") }
}

pub(super) const fn websocket() -> Response {
    Response::text(403, "ai-quota.websocket", "Request denied by ai quota check. A WebSocket cannot be metered.")
}

/// The native form's, where the body of a metered request is awaited.
pub(super) const fn too_long() -> Response {
    let body = "Request denied by ai quota check. The request body is longer than 10 MiB.";
    Response::text(413, "ai-quota.body_too_long", body)
}

/// The native form's, where no other paths than the listed ones are open.
pub(super) const fn unlisted_path() -> Response {
    Response::text(403, "ai-quota.unlisted_path", "Request denied by ai quota check. This path is not listed.")
}

/// The native form's, where models are declared and it is not clear which of them a request is for.
pub(super) const fn unclear_model(why: Unclear) -> Response {
    match why {
        Unclear::Contradiction => {
            let body = "Request denied by ai quota check. It is not clear which model the request is for.";
            Response::text(403, "ai-quota.unclear_model", body)
        }
        Unclear::Form => {
            let body = "Request denied by ai quota check. The model in a form is not read: serve this path by an \
                        AIQuota without models.";
            Response::text(415, "ai-quota.form_body", body)
        }
    }
}

pub(super) const fn unauthorized_admin() -> Response {
    Response::text(403, UNAUTHORIZED, "Request denied by ai quota check. Unauthorized admin consumer.")
}

pub(super) const fn no_consumer() -> Response {
    Response::text(403, UNAUTHORIZED, "Request denied by ai quota check. consumer can't be empty.")
}

/// The native form's.
pub(super) const fn no_model() -> Response {
    Response::text(403, UNAUTHORIZED, "Request denied by ai quota check. This model has no balances of its own.")
}

pub(super) const fn bad_refresh() -> Response {
    let body = "Request denied by ai quota check. consumer can't be empty and quota must be integer.";
    Response::text(403, UNAUTHORIZED, body)
}

pub(super) const fn bad_delta() -> Response {
    let body = "Request denied by ai quota check. consumer can't be empty and value must be integer.";
    Response::text(403, UNAUTHORIZED, body)
}

pub(super) fn quota(consumer: &[u8], quota: i64) -> Response {
    let body = format!(r#"{{"consumer":{},"quota":{quota}}}"#, go_json(consumer));
    let content_type = "application/json";
    Response { content_type, body: Cow::Owned(body), ..Response::text(200, "ai-quota.queryquota", "") }
}

pub(super) const fn refreshed() -> Response {
    Response::text(200, "ai-quota.refreshquota", "refresh quota successful")
}

pub(super) const fn changed() -> Response {
    Response::text(200, "ai-quota.deltaquota", "delta quota successful")
}

pub(super) fn redis_error(error: &str) -> Response {
    let response = Response::text(503, ERROR, "").counting(&[Count::StoreFailure]);
    Response { body: Cow::Owned(format!("redis error:{error}")), ..response }
}

/// A JSON string as Go's encoder writes it: what HTML or JavaScript could mistake is escaped too.
fn go_json(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                other => out.push(other),
            }
        }
        // Go replaces each byte that is no text by itself.
        chunk.invalid().iter().for_each(|_| out.push_str("\\ufffd"));
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_are_quoted_as_go_quotes_them() {
        let body = |consumer: &[u8]| quota(consumer, -7).body.into_owned();
        assert_eq!(body(b"consumer1"), r#"{"consumer":"consumer1","quota":-7}"#);
        assert_eq!(
            body(b"a\"\\<b>&\n\x01\x7f"),
            "{\"consumer\":\"a\\\"\\\\\\u003cb\\u003e\\u0026\\n\\u0001\x7f\",\"quota\":-7}"
        );
        assert_eq!(body("ü\u{2028}".as_bytes()), "{\"consumer\":\"ü\\u2028\",\"quota\":-7}");
        assert_eq!(body(b"\xff\xe2\x82x"), r#"{"consumer":"\ufffd\ufffd\ufffdx","quota":-7}"#);
    }
}
