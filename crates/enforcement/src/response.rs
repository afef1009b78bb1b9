//! An answer that the gateway gives by itself: status, content type, body, response code details, and a line for its
//! log. What is said when stands with each kind of enforcement. Pure.

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

impl Response {
    pub(crate) const fn text(status: u16, details: &'static str, body: &'static str) -> Self {
        Self { status, content_type: TEXT, body: Cow::Borrowed(body), details, log: None }
    }

    pub(crate) fn logged(self, log: impl std::fmt::Display) -> Self {
        Self { log: Some(log.to_string()), ..self }
    }
}
