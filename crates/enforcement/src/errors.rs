//! Refusals in the shape in which clients of a model's API expect errors. In: a refusal as text. Out: the same as that
//! API would say it. Its response code details stay. Pure.

use std::borrow::Cow;

use crate::response::Response;
use crate::wire::Errors;

/// How the APIs call one kind of refusal.
struct Fault {
    /// Nothing: as the refusal has it.
    status: Option<u16>,
    /// OpenAI's `type` and `code`.
    openai: (&'static str, &'static str),
    /// Anthropic's `type`.
    anthropic: &'static str,
}

/// By what follows the module's name in the details.
fn fault(details: &str) -> Fault {
    const INVALID: &str = "invalid_request_error";
    if details == "ai-token-ratelimit.rejected" {
        // Its status is configured.
        return Fault { status: None, openai: ("tokens", "rate_limit_exceeded"), anthropic: "rate_limit_error" };
    }
    let (status, openai, anthropic) = match details.rsplit('.').next().unwrap_or_default() {
        "no_key" => (401, (INVALID, "invalid_api_key"), "authentication_error"),
        "unauthorized" => (403, (INVALID, "unauthorized"), "permission_error"),
        "noquota" => (429, ("insufficient_quota", "insufficient_quota"), "rate_limit_error"),
        "unlisted_path" => (404, (INVALID, "unknown_url"), "not_found_error"),
        "body_too_long" => (413, (INVALID, "request_too_large"), "request_too_large"),
        "form_body" => (415, (INVALID, "form_body"), INVALID),
        "unclear_model" => (400, (INVALID, "unclear_model"), INVALID),
        "websocket" => (400, (INVALID, "websocket"), INVALID),
        "value_too_long" => (400, (INVALID, "value_too_long"), INVALID),
        _ => (503, ("server_error", "service_unavailable"), "api_error"),
    };
    Fault { status: Some(status), openai, anthropic }
}

impl Response {
    /// The same in this shape.
    pub(crate) fn shaped(self, errors: Errors) -> Self {
        let Fault { status, openai: (kind, code), anthropic } = fault(self.details);
        let message = serde_json::Value::from(&*self.body);
        let body = match errors {
            Errors::Text => return self,
            Errors::OpenAi => {
                format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":"{code}"}}}}"#)
            }
            Errors::Anthropic => {
                format!(r#"{{"type":"error","error":{{"type":"{anthropic}","message":{message}}}}}"#)
            }
        };
        let status = status.unwrap_or(self.status);
        Self { status, content_type: "application/json", body: Cow::Owned(body), ..self }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shaped(errors: Errors, details: &'static str) -> (u16, Value) {
        let text = Response::text(403, details, "a \"word\"\n\\");
        let response = text.clone().shaped(errors);
        assert_eq!(
            (response.details, response.counts, response.content_type),
            (details, text.counts, "application/json")
        );
        (response.status, serde_json::from_str(&response.body).unwrap())
    }

    #[test]
    fn every_refusal_has_its_shape_and_status() {
        for (details, status, kind, code, anthropic) in [
            ("ai-quota.no_key", 401, "invalid_request_error", "invalid_api_key", "authentication_error"),
            ("ai-quota.unauthorized", 403, "invalid_request_error", "unauthorized", "permission_error"),
            ("ai-quota.noquota", 429, "insufficient_quota", "insufficient_quota", "rate_limit_error"),
            ("ai-quota.unlisted_path", 404, "invalid_request_error", "unknown_url", "not_found_error"),
            ("ai-quota.form_body", 415, "invalid_request_error", "form_body", "invalid_request_error"),
            ("ai-quota.body_too_long", 413, "invalid_request_error", "request_too_large", "request_too_large"),
            ("ai-quota.websocket", 400, "invalid_request_error", "websocket", "invalid_request_error"),
            ("ai-quota.error", 503, "server_error", "service_unavailable", "api_error"),
            ("ai-token-ratelimit.rejected", 403, "tokens", "rate_limit_exceeded", "rate_limit_error"),
            (
                "ai-token-ratelimit.value_too_long",
                400,
                "invalid_request_error",
                "value_too_long",
                "invalid_request_error",
            ),
            ("ai-quota.unclear_model", 400, "invalid_request_error", "unclear_model", "invalid_request_error"),
            ("ai-token-ratelimit.error", 503, "server_error", "service_unavailable", "api_error"),
        ] {
            let message = "a \"word\"\n\\";
            let openai = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
            assert_eq!(shaped(Errors::OpenAi, details), (status, openai));
            let anthropic = json!({"type": "error", "error": {"type": anthropic, "message": message}});
            assert_eq!(shaped(Errors::Anthropic, details), (status, anthropic));
            let text = Response::text(403, details, message);
            assert_eq!(text.clone().shaped(Errors::Text), text);
        }
    }
}
