//! The answers the gateway gives by itself, byte for byte as upstream gives them. In: what happened. Out: status,
//! content type, body, response code details. Pure.

use std::borrow::Cow;

/// An answer instead of the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Cow<'static, str>,
    /// Envoy's response code details.
    pub details: &'static str,
    /// What the operator should read in the gateway's log; never sent.
    pub log: Option<String>,
}

const TEXT: &str = "text/plain";
const UNAUTHORIZED: &str = "ai-quota.unauthorized";
const ERROR: &str = "ai-quota.error";

impl Response {
    const fn text(status: u16, details: &'static str, body: &'static str) -> Self {
        Self { status, content_type: TEXT, body: Cow::Borrowed(body), details, log: None }
    }

    pub(crate) fn logged(self, log: impl std::fmt::Display) -> Self {
        Self { log: Some(log.to_string()), ..self }
    }

    pub(crate) const fn no_key() -> Self {
        let body = "Request denied by ai quota check. No Key Authentication information found.";
        Self::text(401, "ai-quota.no_key", body)
    }

    pub(crate) const fn unauthorized_consumer() -> Self {
        Self::text(403, UNAUTHORIZED, "Request denied by ai quota check. Unauthorized consumer.")
    }

    pub(crate) const fn no_quota() -> Self {
        Self::text(403, "ai-quota.noquota", "Request denied by ai quota check, No quota left")
    }

    /// The native form's, when the store does not answer a check; with upstream's configuration it is
    /// [`Self::no_quota`].
    pub(crate) const fn store_unavailable() -> Self {
        Self::text(503, ERROR, "Request denied by ai quota check. Quota store unavailable.")
    }

    /// What a rule matches that cannot be enforced, with the reason.
    pub(crate) fn unenforceable(reason: &str) -> Self {
        let body = Cow::Owned(format!("Request denied by ai quota check. {reason}"));
        Self { body, ..Self::text(503, ERROR, "") }
    }

    /// What nobody announced cannot be held to anything.
    #[must_use]
    pub fn unknown_stream() -> Self {
        Self::unenforceable("The request is unknown.")
    }

    pub(crate) const fn websocket() -> Self {
        Self::text(403, "ai-quota.websocket", "Request denied by ai quota check. A WebSocket cannot be metered.")
    }

    pub(crate) const fn unauthorized_admin() -> Self {
        Self::text(403, UNAUTHORIZED, "Request denied by ai quota check. Unauthorized admin consumer.")
    }

    pub(crate) const fn no_consumer() -> Self {
        Self::text(403, UNAUTHORIZED, "Request denied by ai quota check. consumer can't be empty.")
    }

    pub(crate) const fn bad_refresh() -> Self {
        let body = "Request denied by ai quota check. consumer can't be empty and quota must be integer.";
        Self::text(403, UNAUTHORIZED, body)
    }

    pub(crate) const fn bad_delta() -> Self {
        let body = "Request denied by ai quota check. consumer can't be empty and value must be integer.";
        Self::text(403, UNAUTHORIZED, body)
    }

    pub(crate) fn quota(consumer: &[u8], quota: i64) -> Self {
        let body = format!(r#"{{"consumer":{},"quota":{quota}}}"#, go_json(consumer));
        Self {
            status: 200,
            content_type: "application/json",
            body: Cow::Owned(body),
            details: "ai-quota.queryquota",
            log: None,
        }
    }

    pub(crate) const fn refreshed() -> Self {
        Self::text(200, "ai-quota.refreshquota", "refresh quota successful")
    }

    pub(crate) const fn changed() -> Self {
        Self::text(200, "ai-quota.deltaquota", "delta quota successful")
    }

    pub(crate) fn redis_error(error: &str) -> Self {
        Self { body: Cow::Owned(format!("redis error:{error}")), ..Self::text(503, ERROR, "") }
    }
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
        let body = |consumer: &[u8]| Response::quota(consumer, -7).body.into_owned();
        assert_eq!(body(b"consumer1"), r#"{"consumer":"consumer1","quota":-7}"#);
        assert_eq!(
            body(b"a\"\\<b>&\n\x01\x7f"),
            "{\"consumer\":\"a\\\"\\\\\\u003cb\\u003e\\u0026\\n\\u0001\x7f\",\"quota\":-7}"
        );
        assert_eq!(body("ü\u{2028}".as_bytes()), "{\"consumer\":\"ü\\u2028\",\"quota\":-7}");
        assert_eq!(body(b"\xff\xe2\x82x"), r#"{"consumer":"\ufffd\ufffd\ufffdx","quota":-7}"#);
    }
}
