//! The kinds of rules that faults are played on: their module and configuration, their documented answers, and where
//! Redis shows what was booked. No I/O.

use std::time::Duration;

use serde_json::{Value, json};

/// A kind of rule, and what it does while its store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    /// The module's file in target/modules.
    pub(super) module: &'static str,
    /// What requests are answered while the store fails.
    failing: &'static str,
}

/// What everybody has who did not spend anything.
const GRANT: i64 = 100_000;
/// Before a consumer's name, in Redis.
pub(super) const PREFIX: &str = "faults:";

const ADMITTED: &str = "200";
const UNAVAILABLE: &str = "503 Quota store unavailable";

impl Kind {
    pub const ALL: [Self; 1] = [Self { name: "AIQuota", module: "ai-quota", failing: UNAVAILABLE }];

    /// What a request is answered that is let through.
    #[must_use]
    pub const fn admitted(&self) -> &'static str {
        ADMITTED
    }

    /// What it is answered while the store fails.
    #[must_use]
    pub const fn failing(&self) -> &'static str {
        self.failing
    }

    /// The documented answer that this is; nothing if it is none.
    pub(super) fn answer(&self, status: u16, body: &str) -> Option<&'static str> {
        match (status, body) {
            (200, body) if body.ends_with("data: [DONE]\n\n") => Some(ADMITTED),
            (503, "Request denied by ai quota check. Quota store unavailable.") => Some(UNAVAILABLE),
            (403, "Request denied by ai quota check, No quota left") => Some(NO_QUOTA),
            _ => None,
        }
    }

    /// What the module reads.
    pub(super) fn configuration(&self, timeout: Duration, password: Option<&str>) -> Value {
        let mut store = json!({"service": "redis.static", "port": 80, "timeoutMs": timeout.as_millis() as u64});
        if let Some(password) = password {
            store["password"] = json!(password);
        }
        let paths = ["/v1/chat/completions"];
        let policy =
            json!({"store": "s", "keyPrefix": PREFIX, "owner": "c/n/q", "paths": paths, "defaultQuota": GRANT});
        json!({"version": 1, "stores": {"s": store}, "policies": {"n/q": policy}})
    }

    /// What was booked against a consumer whose stored value is this.
    pub(super) fn booked(&self, stored: Option<i64>) -> i64 {
        stored.map_or(0, |balance| GRANT - balance)
    }

    /// The consumer and the tokens of a charge of which the module says that it may not have been booked.
    pub(super) fn unknown<'a>(&self, line: &'a str) -> Option<(&'a str, i64)> {
        let (tokens, rest) = line.split_once(" tokens may not have been booked against ")?;
        let consumer = rest.strip_prefix(PREFIX)?.split(':').next()?;
        Some((consumer, tokens.parse().ok()?))
    }
}

/// A consumer whose balance is spent.
pub(super) const NO_QUOTA: &str = "403 No quota left";
