//! The native configuration of the module ai-token-ratelimit: what the controller writes under `aiquota` in its
//! WasmPlugin's `defaultConfig`; a rule's `config` is [`super::Rule`] without `open`. One type for both ends. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Ends, LimitedModel, Report, Reserve, Store};
use crate::values::{DEFAULT_REJECTION_CODE, DEFAULT_REJECTION_MESSAGE};

/// `defaultConfig.aiquota`. `P` is [`Policy`] and `R` is [`Report`] for who writes it; the module reads each by itself, so that a broken one
/// refuses only what it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Native<P = Policy, R = Report> {
    /// [`super::VERSION`].
    pub version: u32,
    /// How rules in Higress' own form are read that stand beside the policies. Policies are always enforced, and their
    /// keys spelled, as `v2` has it.
    #[serde(default, skip_serializing_if = "Dialect::is_default")]
    pub dialect: Dialect,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<String, Store>,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, P>,
    /// Absent: the module says nothing of itself.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub report: Option<R>,
}

/// A generation of Higress' own module: how it spells keys and which of the items that match it enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Until July 2026, the guides' 1.0.0: a global threshold or items, and of the items only the first that matches.
    V1,
    /// Since then: both together, all items that match, and one hash slot per rule name.
    #[default]
    V2,
}

/// What requests under one or several merged objects are held to. Every limit that applies must have something left;
/// what a request used counts against each of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// The name of the store. Absent only together with `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Part of every key; who has the same shares counters.
    pub rule_name: String,
    /// Path suffixes that are limited and metered.
    pub paths: Vec<String>,
    /// Limits for all requests together.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub global: Vec<Rate>,
    /// In order; each that finds its value in the request applies.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// By name. Absent: requests are not asked which model they are for.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<LimitedModel>,
    /// The answer to a request over a limit.
    #[serde(default, skip_serializing_if = "Rejection::is_default")]
    pub rejection: Rejection,
    /// Tokens are held for requests in flight. Absent: a request passes while no counter is above its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
    #[serde(default, skip_serializing_if = "Ends::is_default")]
    pub ends: Ends,
    /// Everything that is matched is answered with 503 and this reason: the store or its secret vanished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// So many tokens in a window, which its first charge opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rate {
    pub tokens: i64,
    pub window_seconds: u32,
}

/// Limits per value of something in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub by: By,
    /// The first whose match is the value's decides; all with that same match apply.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// Whether values may have limits of their own in Redis, which take the place of these.
    #[serde(default, skip_serializing_if = "is_false")]
    pub overridden: bool,
}

/// Where the value is taken from: `{"header": "x-api-key"}`, `{"consumer": {}}`, `{"ip": {"fromHeader": "X-Real-IP"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// The first value of this request header.
    Header(String),
    /// The first value of this query parameter.
    Param(String),
    /// The value of this cookie, if it is not empty.
    Cookie(String),
    /// The authenticated consumer.
    Consumer(Consumer),
    Ip(Ip),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl By {
    /// What it is and its name, for keys.
    #[must_use]
    pub fn source(&self) -> (&'static str, &str) {
        match self {
            Self::Header(name) => ("header", name),
            Self::Param(name) => ("param", name),
            Self::Cookie(name) => ("cookie", name),
            Self::Consumer(Consumer {}) => ("consumer", ""),
            Self::Ip(Ip { from_header }) => ("ip", from_header.as_deref().unwrap_or_default()),
        }
    }
}

/// Nothing more is to be said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumer {}

/// The client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ip {
    /// The first address in this header. Absent: the address of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_header: Option<String>,
}

/// A limit, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    #[serde(rename = "match")]
    pub matches: Match,
    pub tokens: i64,
    pub window_seconds: u32,
}

/// Which values: `{"exact": "vip"}`, `{"pattern": "^a"}`, `"any"`, `{"cidr": "10.0.0.0/8"}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Match {
    Exact(String),
    /// Those that a regular expression (RE2) finds itself in.
    Pattern(String),
    Any,
    /// Addresses: one, or a network. Only, and nothing else, under [`By::Ip`].
    Cidr(String),
}

/// What a request over a limit is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rejection {
    pub code: u16,
    pub message: String,
}

impl Default for Rejection {
    fn default() -> Self {
        Self { code: DEFAULT_REJECTION_CODE, message: DEFAULT_REJECTION_MESSAGE.into() }
    }
}

impl Rejection {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Dialect {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::models::Weights;

    fn policy() -> Policy {
        let limit = |matches| Limit { matches, tokens: 100, window_seconds: 60 };
        let rule = |by, matches| Rule { by, limits: vec![limit(matches)], overridden: false };
        Policy {
            store: Some("default".into()),
            rule_name: "ns.chat".into(),
            paths: vec!["/v1/chat/completions".into()],
            global: vec![Rate { tokens: 9, window_seconds: 1 }],
            rules: vec![
                rule(By::Header("x-api-key".into()), Match::Exact("vip".into())),
                rule(By::Param("k".into()), Match::Pattern("^a".into())),
                rule(By::Cookie("c".into()), Match::Any),
                rule(By::Consumer(Consumer {}), Match::Any),
                rule(By::Ip(Ip { from_header: Some("X-Real-IP".into()) }), Match::Cidr("10.0.0.0/8".into())),
                rule(By::Ip(Ip::default()), Match::Cidr("::/0".into())),
            ],
            models: vec![LimitedModel {
                name: "gpt-4*".into(),
                weights: Weights([1, 3, 0, 3]),
                global: vec![Rate { tokens: 7, window_seconds: 1 }],
                rules: vec![rule(By::Consumer(Consumer {}), Match::Any)],
            }],
            rejection: Rejection { code: 503, message: "later".into() },
            reserve: Some(Reserve { default_max_tokens: 9 }),
            ends: Ends { rate_limit_headers: true, ..Ends::default() },
            unavailable: Some("gone".into()),
        }
    }

    #[test]
    fn the_form_is_pinned_and_read_back() {
        let native: Native = Native {
            version: super::super::VERSION,
            dialect: Dialect::V1,
            stores: [].into(),
            policies: [("ns/chat".to_owned(), policy())].into(),
            report: None,
        };
        let limit = |matches: Value| json!({"match": matches, "tokens": 100, "windowSeconds": 60});
        let rule = |by: Value, matches: Value| json!({"by": by, "limits": [limit(matches)]});
        let written = json!({"version": 1, "dialect": "v1", "policies": {"ns/chat": {
            "store": "default", "ruleName": "ns.chat", "paths": ["/v1/chat/completions"],
            "global": [{"tokens": 9, "windowSeconds": 1}],
            "rules": [
                rule(json!({"header": "x-api-key"}), json!({"exact": "vip"})),
                rule(json!({"param": "k"}), json!({"pattern": "^a"})),
                rule(json!({"cookie": "c"}), json!("any")),
                rule(json!({"consumer": {}}), json!("any")),
                rule(json!({"ip": {"fromHeader": "X-Real-IP"}}), json!({"cidr": "10.0.0.0/8"})),
                rule(json!({"ip": {}}), json!({"cidr": "::/0"})),
            ],
            "models": [{
                "name": "gpt-4*", "weights": [1, 3, 0, 3], "global": [{"tokens": 7, "windowSeconds": 1}],
                "rules": [rule(json!({"consumer": {}}), json!("any"))],
            }],
            "rejection": {"code": 503, "message": "later"}, "reserve": {"defaultMaxTokens": 9}, "ends": {"rateLimitHeaders": true}, "unavailable": "gone"
        }}});
        assert_eq!(serde_json::to_value(&native).unwrap(), written);
        assert_eq!(serde_json::from_value::<Native>(written).unwrap(), native);
    }

    #[test]
    fn what_is_as_usual_is_left_out() {
        let policy = Policy {
            global: vec![],
            rules: vec![],
            models: vec![],
            rejection: Rejection::default(),
            reserve: None,
            ends: Ends::default(),
            unavailable: None,
            ..policy()
        };
        let written = json!({"store": "default", "ruleName": "ns.chat", "paths": ["/v1/chat/completions"]});
        assert_eq!(serde_json::to_value(&policy).unwrap(), written);
        assert_eq!(serde_json::from_value::<Policy>(written).unwrap(), policy);
        let rule = Rule { by: By::Consumer(Consumer {}), limits: vec![], overridden: true };
        let written = json!({"by": {"consumer": {}}, "overridden": true});
        assert_eq!(serde_json::to_value(&rule).unwrap(), written);
        assert_eq!(serde_json::from_value::<Rule>(written).unwrap(), rule);
        let native: Native =
            Native { version: 1, dialect: Dialect::V2, stores: [].into(), policies: [].into(), report: None };
        assert_eq!(serde_json::to_value(&native).unwrap(), json!({"version": 1}));
    }
}
