//! Upstream's own configuration of ai-token-ratelimit, of both generations, as the controller writes it: the keys of one
//! rule that upstream's module reads, and no others. Pure.

use serde::{Deserialize, Serialize};

use super::upstream::Redis;

/// The `config` of a match rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub rule_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_threshold: Option<Rate>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub rule_items: Vec<Item>,
    pub rejected_code: u16,
    pub rejected_msg: String,
    pub redis: Redis,
}

/// Exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rate {
    #[serde(rename = "token_per_second")]
    Second(i64),
    #[serde(rename = "token_per_minute")]
    Minute(i64),
    #[serde(rename = "token_per_hour")]
    Hour(i64),
    #[serde(rename = "token_per_day")]
    Day(i64),
}

/// Of these limits the first that a request matches counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    #[serde(flatten)]
    pub limiter: Limiter,
    pub limit_keys: Vec<Key>,
}

/// Where the value is taken from, and whether keys are values or patterns (`per`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limiter {
    #[serde(rename = "limit_by_header")]
    Header(String),
    #[serde(rename = "limit_by_param")]
    Param(String),
    #[serde(rename = "limit_by_cookie")]
    Cookie(String),
    /// Of an empty text.
    #[serde(rename = "limit_by_consumer")]
    Consumer(String),
    #[serde(rename = "limit_by_per_header")]
    PerHeader(String),
    #[serde(rename = "limit_by_per_param")]
    PerParam(String),
    #[serde(rename = "limit_by_per_cookie")]
    PerCookie(String),
    /// Of an empty text.
    #[serde(rename = "limit_by_per_consumer")]
    PerConsumer(String),
    /// `from-remote-addr` or `from-header-<name>`.
    #[serde(rename = "limit_by_per_ip")]
    PerIp(String),
}

/// A value, `*`, `regexp:<RE2>`, or a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub key: String,
    #[serde(flatten)]
    pub rate: Rate,
}

impl Rate {
    /// Nothing where upstream has no such window.
    #[must_use]
    pub const fn new(tokens: i64, window_seconds: u32) -> Option<Self> {
        match window_seconds {
            1 => Some(Self::Second(tokens)),
            60 => Some(Self::Minute(tokens)),
            3_600 => Some(Self::Hour(tokens)),
            86_400 => Some(Self::Day(tokens)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, Target};
    use crate::limit::config::{Flavor, Policy};
    use crate::rules::Subject;
    use crate::wire::limit::Dialect;

    fn rule() -> Rule {
        let key = |key: &str, rate| Key { key: key.into(), rate };
        let item = |limiter, limit_keys| Item { limiter, limit_keys };
        Rule {
            rule_name: "team.chat".into(),
            global_threshold: Some(Rate::Day(9)),
            rule_items: vec![
                item(Limiter::Header("x-api-key".into()), vec![key("vip", Rate::Second(5))]),
                item(
                    Limiter::PerConsumer(String::new()),
                    vec![key(r"regexp:^\Qa.b\E$", Rate::Minute(4)), key("*", Rate::Hour(3))],
                ),
                item(Limiter::PerIp("from-remote-addr".into()), vec![key("10.0.0.0/8", Rate::Day(2))]),
            ],
            rejected_code: 503,
            rejected_msg: "later".into(),
            redis: Redis {
                service_name: "redis.static".into(),
                service_port: 80,
                username: None,
                password: None,
                timeout: 1_000,
                database: 0,
            },
        }
    }

    #[test]
    fn what_is_written_is_pinned_and_read_as_it_was_meant() {
        let written = json!({
            "rule_name": "team.chat",
            "global_threshold": {"token_per_day": 9},
            "rule_items": [
                {"limit_by_header": "x-api-key", "limit_keys": [{"key": "vip", "token_per_second": 5}]},
                {"limit_by_per_consumer": "", "limit_keys": [
                    {"key": r"regexp:^\Qa.b\E$", "token_per_minute": 4}, {"key": "*", "token_per_hour": 3},
                ]},
                {"limit_by_per_ip": "from-remote-addr", "limit_keys": [{"key": "10.0.0.0/8", "token_per_day": 2}]},
            ],
            "rejected_code": 503,
            "rejected_msg": "later",
            "redis": {"service_name": "redis.static", "service_port": 80, "timeout": 1_000},
        });
        assert_eq!(serde_json::to_value(rule()).unwrap(), written);
        assert_eq!(serde_json::from_value::<Rule>(written.clone()).unwrap(), rule());

        let mut config = written;
        config["_match_route_"] = json!(["chat"]);
        let json = serde_json::to_vec(&json!({"_rules_": [config]})).unwrap();
        let Config::<Policy>::Policies(policies) = Config::parse(&json).unwrap() else { panic!("it is no guard") };
        let Some(Target::Enforce { policy, .. }) = policies.target(&Subject { route: b"chat", ..Subject::default() })
        else {
            panic!("it is enforced")
        };
        assert_eq!(policy.flavor, Flavor::Upstream(Dialect::V2));
        assert_eq!(
            (policy.rule_name.as_str(), policy.limits.rules.len(), policy.rejection.code),
            ("team.chat", 3, 503)
        );
        assert_eq!(policy.limits.global[0].window_seconds, 86_400);
    }

    #[test]
    fn other_windows_than_upstreams_cannot_be_written() {
        assert_eq!(Rate::new(7, 60), Some(Rate::Minute(7)));
        assert_eq!(Rate::new(7, 61), None);
        assert_eq!(serde_json::to_value(Rate::new(7, 3_600)).unwrap(), json!({"token_per_hour": 7}) as Value);
    }
}
