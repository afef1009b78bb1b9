//! Upstream's own configuration of ai-quota as the controller writes it: the keys of one rule that upstream's module
//! reads, and no others. Pure.

use serde::{Deserialize, Serialize};

use super::{Store, is_zero};

/// The `config` of a match rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub redis_key_prefix: String,
    pub admin_consumer: String,
    pub admin_path: String,
    /// Absent: what the module meters by itself. Builds before May 2026 do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_path_suffixes: Option<Vec<String>>,
    pub redis: Redis,
}

/// One Redis endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub service_name: String,
    pub service_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Milliseconds.
    pub timeout: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub database: u32,
}

impl From<Store> for Redis {
    fn from(store: Store) -> Self {
        let Store { service, port, database, timeout_ms, username, password } = store;
        Self { service_name: service, service_port: port, username, password, timeout: timeout_ms, database }
    }
}

impl From<Redis> for Store {
    fn from(redis: Redis) -> Self {
        let Redis { service_name, service_port, username, password, timeout, database } = redis;
        Self { service: service_name, port: service_port, database, timeout_ms: timeout, username, password }
    }
}

/// As a [`Store`]: without the password.
impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Store::from(self.clone()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, Target};
    use crate::paths::Paths;
    use crate::quota::config::{Flavor, Policy};
    use crate::rules::Subject;

    fn rule() -> Rule {
        Rule {
            redis_key_prefix: "q:".into(),
            admin_consumer: "root".into(),
            admin_path: "/tokens".into(),
            enable_path_suffixes: Some(vec!["/v1/responses".into(), ":generateContent".into()]),
            redis: Redis {
                service_name: "local-redis.static".into(),
                service_port: 81,
                username: Some("quota".into()),
                password: Some("s3cret".into()),
                timeout: 2_000,
                database: 3,
            },
        }
    }

    fn read(rule: &Rule) -> Arc<Policy> {
        let mut config = serde_json::to_value(rule).unwrap();
        config["_match_route_"] = json!(["chat"]);
        let json = serde_json::to_vec(&json!({"_rules_": [config]})).unwrap();
        let Config::Policies(policies) = Config::parse(&json).unwrap() else { panic!("it is no guard") };
        match policies.target(&Subject { route: b"chat", ..Subject::default() }) {
            Some(Target::Enforce { policy, open: false }) => Arc::clone(policy),
            other => panic!("it is enforced on every path: {other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant() {
        let policy = read(&rule());
        let paths = vec!["/v1/responses".to_owned(), ":generateContent".to_owned()];
        assert_eq!(policy.paths, Paths::new(paths, Some("/tokens")));
        assert_eq!((policy.key_prefix.as_str(), policy.admin.as_deref()), ("q:", Some("root")));
        assert_eq!(policy.flavor, Flavor::Upstream);
        assert_eq!(policy.store.cluster, "outbound|81||local-redis.static");
        assert!(policy.store.with_options.contains("?db=3&"), "{}", policy.store.with_options);
        assert_eq!((policy.store.username.as_str(), policy.store.password.as_str()), ("quota", "s3cret"));
        assert_eq!(policy.store.timeout_ms, 2_000);
    }

    #[test]
    fn only_keys_that_upstream_reads_are_written() {
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let mut all = serde_json::to_value(rule()).unwrap();
        assert_eq!(
            keys(&all["redis"]),
            ["database", "password", "service_name", "service_port", "timeout", "username"]
        );
        all["redis"] = Value::Null;
        let ours = ["admin_consumer", "admin_path", "enable_path_suffixes", "redis", "redis_key_prefix"];
        assert_eq!(keys(&all), ours);
        let mut least = rule();
        least.enable_path_suffixes = None;
        (least.redis.username, least.redis.password, least.redis.database) = (None, None, 0);
        let least = serde_json::to_value(least).unwrap();
        assert_eq!(keys(&least), ["admin_consumer", "admin_path", "redis", "redis_key_prefix"]);
        assert_eq!(keys(&least["redis"]), ["service_name", "service_port", "timeout"]);
    }

    #[test]
    fn the_password_is_not_shown() {
        assert!(!format!("{:?}", rule()).contains("s3cret"));
    }
}
