//! The kinds of rules that faults are played on: their module and configuration, their documented answers, and where
//! Redis shows what was booked. No I/O.

use std::time::Duration;

use serde_json::{Value, json};

/// A kind of rule, and what it does while its store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    enforces: Enforces,
    /// What its objects say of a store that fails; nothing: what is usual.
    on_store_failure: Option<&'static str>,
    /// What requests are answered while the store fails.
    failing: &'static str,
    /// Whether tokens are held for requests in flight.
    reserves: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Enforces {
    Quota,
    Limit,
}

/// Before a consumer's name, in Redis.
const BALANCE: &str = "faults:";
const COUNTER: &str = "higress-token-ratelimit:{faults}:limit_by_per_consumer:3600:x-mse-consumer:";

const ADMITTED: &str = "200";
const NO_QUOTA: &str = "403 No quota left";
const LIMITED: &str = "429 Too many requests";
const QUOTA_UNAVAILABLE: &str = "503 Quota store unavailable";
const LIMIT_UNAVAILABLE: &str = "503 Limit store unavailable";

impl Kind {
    pub const ALL: [Self; 4] = [
        Self {
            name: "AIQuota",
            enforces: Enforces::Quota,
            on_store_failure: None,
            failing: QUOTA_UNAVAILABLE,
            reserves: false,
        },
        Self {
            name: "AIQuota, onStoreFailure: Admit",
            enforces: Enforces::Quota,
            on_store_failure: Some("Admit"),
            failing: ADMITTED,
            reserves: false,
        },
        Self {
            name: "AITokenRateLimit",
            enforces: Enforces::Limit,
            on_store_failure: None,
            failing: ADMITTED,
            reserves: false,
        },
        Self {
            name: "AITokenRateLimit, onStoreFailure: Refuse",
            enforces: Enforces::Limit,
            on_store_failure: Some("Refuse"),
            failing: LIMIT_UNAVAILABLE,
            reserves: false,
        },
    ];

    /// Both kinds, with tokens held for requests in flight.
    pub const RESERVING: [Self; 2] = [Self::ALL[0].reserving(), Self::ALL[2].reserving()];

    /// What its faults are shown under.
    #[must_use]
    pub fn title(&self) -> String {
        if self.reserves { format!("{}, admission: Reserve", self.name) } else { self.name.to_owned() }
    }

    /// Whether its objects leave to the kind what becomes of requests while the store fails.
    pub(super) const fn is_usual(&self) -> bool {
        self.on_store_failure.is_none()
    }

    /// The same with `admission: Reserve`.
    #[must_use]
    pub const fn reserving(self) -> Self {
        Self { reserves: true, ..self }
    }

    #[must_use]
    pub const fn reserves(&self) -> bool {
        self.reserves
    }

    /// What its objects say of when a request is admitted.
    #[must_use]
    pub const fn admission(&self) -> &'static str {
        if self.reserves { "Reserve" } else { "Check" }
    }

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

    /// What it is answered where nothing is left.
    pub(super) const fn spent(&self) -> &'static str {
        match self.enforces {
            Enforces::Quota => NO_QUOTA,
            Enforces::Limit => LIMITED,
        }
    }

    /// The documented answer that this is; nothing if it is none.
    pub(super) fn answer(&self, status: u16, body: &str) -> Option<&'static str> {
        match (self.enforces, status, body) {
            (_, 200, body) if body.ends_with("data: [DONE]\n\n") => Some(ADMITTED),
            (Enforces::Quota, 503, "Request denied by ai quota check. Quota store unavailable.") => {
                Some(QUOTA_UNAVAILABLE)
            }
            (Enforces::Limit, 503, "Request denied by ai token ratelimit check. Limit store unavailable.") => {
                Some(LIMIT_UNAVAILABLE)
            }
            (Enforces::Quota, 403, "Request denied by ai quota check, No quota left") => Some(NO_QUOTA),
            (Enforces::Limit, 429, "Too many requests") => Some(LIMITED),
            _ => None,
        }
    }

    /// The module's file in target/modules.
    pub(super) const fn module(&self) -> &'static str {
        match self.enforces {
            Enforces::Quota => "ai-quota",
            Enforces::Limit => "ai-token-ratelimit",
        }
    }

    /// What the module reads: everybody has so many tokens.
    pub(super) fn configuration(&self, timeout: Duration, password: Option<&str>, tokens: i64) -> Value {
        let mut store = json!({"service": "redis.static", "port": 80, "timeoutMs": timeout.as_millis() as u64});
        if let Some(password) = password {
            store["password"] = json!(password);
        }
        let paths = ["/v1/chat/completions"];
        let mut policy = match self.enforces {
            Enforces::Quota => {
                json!({"store": "s", "keyPrefix": BALANCE, "owner": "c/n/q", "paths": paths, "defaultQuota": tokens})
            }
            Enforces::Limit => {
                let limit = json!({"match": "any", "tokens": tokens, "windowSeconds": 3600});
                let rules = [json!({"by": {"consumer": {}}, "limits": [limit]})];
                json!({"store": "s", "ruleName": "faults", "paths": paths, "rules": rules})
            }
        };
        if let Some(ends) = self.on_store_failure {
            policy["ends"] = json!({"onStoreFailure": ends});
        }
        if self.reserves {
            policy["reserve"] = json!({"defaultMaxTokens": 1000});
        }
        json!({"version": 1, "stores": {"s": store}, "policies": {"n/q": policy}})
    }

    /// Where a consumer's balance or counter is.
    pub(super) fn key(&self, consumer: &str) -> String {
        let before = match self.enforces {
            Enforces::Quota => BALANCE,
            Enforces::Limit => COUNTER,
        };
        format!("{before}{consumer}")
    }

    /// Where is what is held for a consumer's requests.
    pub(super) fn holds(&self, consumer: &str) -> String {
        match self.enforces {
            Enforces::Quota => format!("{{{BALANCE}{consumer}}}:holds"),
            Enforces::Limit => format!("aiquota:holds:{COUNTER}{consumer}"),
        }
    }

    /// How many tokens each of those requests holds.
    pub(super) fn amounts(&self, consumer: &str) -> String {
        match self.enforces {
            Enforces::Quota => format!("{{{BALANCE}{consumer}}}:amounts"),
            Enforces::Limit => format!("aiquota:amounts:{COUNTER}{consumer}"),
        }
    }

    /// Whether the keys of what is held expire. A balance's stay with it: what expired there is dropped by the next check.
    pub(super) const fn holds_vanish(&self) -> bool {
        matches!(self.enforces, Enforces::Limit)
    }

    /// The hash and the field of their sum.
    pub(super) fn sum(&self, consumer: &str) -> (String, &'static str) {
        match self.enforces {
            Enforces::Quota => (format!("{{{BALANCE}{consumer}}}:ledger"), "held"),
            Enforces::Limit => (self.amounts(consumer), ""),
        }
    }

    /// What was booked against a consumer who had so many tokens, and of whom this is stored.
    pub(super) fn booked(&self, stored: Option<i64>, tokens: i64) -> i64 {
        match (self.enforces, stored) {
            (_, None) => 0,
            (Enforces::Quota, Some(balance)) => tokens - balance,
            (Enforces::Limit, Some(counted)) => counted,
        }
    }

    /// What is booked of charges of so many tokens each.
    pub(super) fn books(&self, charges: i64, each: i64, tokens: i64) -> i64 {
        match self.enforces {
            Enforces::Quota => charges * each,
            // A counter stops where it refuses.
            Enforces::Limit => (charges * each).min((tokens / each + 1) * each),
        }
    }

    /// Whether what is charged after the store has lost everything is booked.
    pub(super) const fn begins_anew(&self) -> bool {
        matches!(self.enforces, Enforces::Limit)
    }

    /// The key and the tokens of a charge of which the module says that it may not have been booked.
    pub(super) fn unknown<'a>(&self, line: &'a str) -> Option<(&'a str, i64)> {
        let (tokens, rest) = line.split_once(" tokens may not have been booked against ")?;
        let (key, _) = rest.split_once(": ")?;
        Some((key, tokens.parse().ok()?))
    }
}
