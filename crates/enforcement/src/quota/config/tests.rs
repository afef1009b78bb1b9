//! Configurations and what they come to: upstream's with its defaults and its leniency, ours, both mixed, and broken
//! ones, which must be named by their field and never quote a value.

use serde_json::{Value, json};

use super::*;
use crate::config::Policies;
use crate::models::Weights;
use crate::paths::{Mode, Operation};
use crate::random::Random;
use crate::rules::{EnvelopeError, Subject};

type Config = config::Config<Policy>;
type Quota = Policies<Policy>;
type Target = config::Target<Policy>;

fn parse(json: &Value) -> Result<Config, ConfigError> {
    Config::parse(json.to_string().as_bytes())
}

fn quota(json: &Value) -> Quota {
    match parse(json) {
        Ok(Config::Policies(quota)) => *quota,
        other => panic!("{other:?}"),
    }
}

fn on_route<'a>(quota: &'a Quota, route: &str) -> Option<&'a Target> {
    quota.target(&Subject { route: route.as_bytes(), ..Subject::default() })
}

fn policy(target: Option<&Target>) -> &Policy {
    match target {
        Some(Target::Enforce { policy, .. }) => policy,
        other => panic!("{other:?}"),
    }
}

fn reason(target: Option<&Target>) -> &str {
    match target {
        Some(Target::Refuse { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// A valid value of upstream's form, with one change.
fn upstream(pointer: &str, value: Value) -> Value {
    let mut config = json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static"}});
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
    config
}

/// A valid value of our form, with one change, as seen from the route `r`.
fn native(pointer: &str, value: Option<Value>) -> Value {
    let mut config = json!({
        "aiquota": {
            "version": 1,
            "stores": {"default": {"service": "local-redis.static", "port": 80, "timeoutMs": 2000, "password": "hunter2"}},
            "schedules": {"daily": {"first": 7, "at": [1000, 2000]}},
            "policies": {
                "ns/chat": {
                    "store": "default", "keyPrefix": "chat_quota:", "owner": "uid/ns/chat",
                    "paths": ["/v1/chat/completions", ":generateContent"],
                    "admin": {"consumer": "admin", "path": "/quota"}, "defaultQuota": 1000, "yields": true,
                    "refresh": {"schedule": "daily", "mode": "Reset"}
                },
                "ns/other": {"store": "default", "keyPrefix": "o:", "owner": "uid/ns/other", "paths": ["/v1/messages"]}
            }
        },
        "_rules_": [
            {"_match_route_": ["r"], "policy": "ns/chat"},
            {"_match_route_": ["o"], "policy": "ns/other", "open": true}
        ]
    });
    if !pointer.is_empty() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).unwrap();
        match (parent, value) {
            (Value::Array(parent), Some(value)) => parent[key.parse::<usize>().unwrap()] = value,
            (Value::Object(parent), Some(value)) => drop(parent.insert(key.replace("~1", "/"), value)),
            (Value::Object(parent), None) => drop(parent.remove(key)),
            other => panic!("{other:?}"),
        }
    }
    config
}

#[test]
fn upstreams_defaults_are_upstreams() {
    let quota = quota(&upstream("/admin_consumer", json!("admin")));
    let policy = policy(on_route(&quota, "any"));
    let store = &policy.store;
    assert_eq!(store.cluster, "outbound|80||redis.static");
    assert_eq!(
        store.with_options,
        "outbound|80||redis.static?buffer_flush_timeout=3&max_buffer_size_before_flush=1024"
    );
    assert_eq!((store.username.as_str(), store.password.as_str(), store.timeout_ms), ("", "", 1000));
    assert_eq!(policy.key_prefix, "chat_quota:");
    assert_eq!(policy.admin.as_deref(), Some("admin"));
    assert_eq!(policy.flavor, Flavor::Upstream);
    assert_eq!(policy.paths.mode(b"/v1/chat/completions"), Mode::Metered);
    assert_eq!(policy.paths.mode(b"/v1/messages"), Mode::Metered);
    assert_eq!(policy.paths.mode(b"/v1/responses"), Mode::Other);
    assert_eq!(policy.paths.mode(b"/v1/chat/completions/quota"), Mode::Admin(Operation::Query));
}

#[test]
fn every_key_of_upstream_is_read() {
    let quota = quota(&json!({
        "admin_consumer": "root", "admin_path": "/admin", "redis_key_prefix": "k:",
        "enable_path_suffixes": ["/v1/embeddings"],
        "redis": {
            "service_name": "redis.dns", "service_port": "6380", "username": "u", "password": 123,
            "timeout": "2500", "database": 3
        },
        "_plugin_id_": "x"
    }));
    let policy = policy(on_route(&quota, ""));
    assert_eq!(policy.store.cluster, "outbound|6380||redis.dns");
    assert_eq!(
        policy.store.with_options,
        "outbound|6380||redis.dns?db=3&buffer_flush_timeout=3&max_buffer_size_before_flush=1024"
    );
    let Store { username, password, timeout_ms, .. } = &*policy.store;
    assert_eq!((username.as_str(), password.as_str(), *timeout_ms), ("u", "123", 2500));
    assert_eq!((policy.key_prefix.as_str(), policy.admin.as_deref()), ("k:", Some("root")));
    assert_eq!(policy.paths.mode(b"/v1/embeddings"), Mode::Metered);
    assert_eq!(policy.paths.mode(b"/v1/chat/completions"), Mode::Other);
    assert_eq!(policy.paths.mode(b"/v1/chat/completions/admin/delta"), Mode::Admin(Operation::Delta));
}

#[test]
fn the_port_follows_the_kind_of_service() {
    for (service, cluster) in [
        ("a.static", "outbound|80||a.static"),
        ("a.dns", "outbound|6379||a.dns"),
        ("redis.ns.svc.cluster.local", "outbound|6379||redis.ns.svc.cluster.local"),
    ] {
        let quota = quota(&upstream("/redis/service_name", json!(service)));
        assert_eq!(policy(on_route(&quota, "")).store.cluster, cluster);
    }
}

#[test]
fn what_upstream_cannot_use_is_named_by_its_field() {
    for (pointer, value, message) in [
        ("/admin_consumer", json!(""), "admin_consumer is missing"),
        ("/redis", json!(null), "redis.service_name is missing"),
        ("/redis", json!("redis.static"), "redis.service_name is missing"),
        ("/redis/service_name", json!(null), "redis.service_name is missing"),
        ("/redis/service_port", json!(65536), "redis.service_port is not a port"),
        ("/redis/service_port", json!(-1), "redis.service_port is not a port"),
        ("/redis/timeout", json!(-5), "redis.timeout is out of range"),
        ("/redis/database", json!(-1), "redis.database is out of range"),
        ("/enable_path_suffixes", json!([]), "enable_path_suffixes is empty"),
        ("/enable_path_suffixes", json!([""]), "enable_path_suffixes is empty"),
    ] {
        let default = upstream(pointer, value.clone());
        let error = parse(&default).unwrap_err();
        assert_eq!(error.to_string(), format!("nothing in the configuration can be enforced: {message}"));

        let good = upstream("/admin_consumer", json!("admin"));
        let mut rule = default.clone();
        rule["_match_route_"] = json!(["bad"]);
        let mut config = good.clone();
        config["_rules_"] = json!([rule]);
        let mixed = quota(&config);
        assert_eq!(
            reason(on_route(&mixed, "bad")),
            format!("Invalid configuration: _rules_[0].{message}."),
            "{pointer}"
        );
        assert_eq!(policy(on_route(&mixed, "other")).admin.as_deref(), Some("admin"));

        let mut rule = good;
        rule["_match_route_"] = json!(["good"]);
        let mut config = default;
        config["_rules_"] = json!([rule]);
        let mixed = quota(&config);
        assert_eq!(policy(on_route(&mixed, "good")).admin.as_deref(), Some("admin"));
        assert_eq!(reason(on_route(&mixed, "other")), format!("Invalid configuration: {message}."));
    }
}

#[test]
fn a_configuration_without_anything_to_enforce_does_not_start() {
    for config in [json!({}), json!([]), json!({"_rules_": []}), json!({"_rules_": null}), json!({"x": 1})] {
        assert!(matches!(parse(&config), Err(ConfigError::Nothing(_))), "{config}");
    }
    assert!(matches!(Config::parse(b""), Err(ConfigError::Nothing(_))));
    assert!(matches!(Config::parse(b"{"), Err(ConfigError::Envelope(EnvelopeError::NotJson { .. }))));
}

#[test]
fn equal_stores_are_one() {
    let rule = |route: usize, timeout: u32| {
        let mut rule = upstream("/redis/timeout", json!(timeout));
        rule["_match_route_"] = json!([route.to_string()]);
        rule
    };
    let rules: Vec<Value> = (0..100).map(|n| rule(n, if n % 2 == 0 { 1000 } else { 2000 })).collect();
    let quota = quota(&json!({"_rules_": rules}));
    assert_eq!(quota.stores().len(), 2);
    let of = |route: &str| Arc::as_ptr(&policy(on_route(&quota, route)).store);
    assert_eq!(of("0"), of("98"));
    assert_ne!(of("0"), of("1"));
}

#[test]
fn the_native_form_is_read_whole() {
    let quota = quota(&native("", None));
    let chat = policy(on_route(&quota, "r"));
    assert_eq!(chat.store.cluster, "outbound|80||local-redis.static");
    assert_eq!(chat.store.timeout_ms, 2000);
    assert_eq!(chat.store.password, "hunter2");
    assert_eq!((chat.key_prefix.as_str(), chat.admin.as_deref()), ("chat_quota:", Some("admin")));
    assert_eq!(chat.paths.mode(b"/v1beta/models/g:generateContent"), Mode::Metered);
    let Flavor::Native { owner, default_quota, yields: true, refresh: Some((refresh, schedule)) } = &chat.flavor else {
        panic!("{chat:?}")
    };
    assert_eq!((owner.as_str(), *default_quota), ("uid/ns/chat", Some(1000)));
    assert_eq!((refresh.mode, &**schedule), (wire::RefreshMode::Reset, [(7, 1000), (8, 2000)].as_slice()));
    let other = policy(on_route(&quota, "o"));
    assert_eq!((&other.admin, quota.stores().len()), (&None, 1));
    let owner = "uid/ns/other".into();
    assert_eq!(other.flavor, Flavor::Native { owner, default_quota: None, yields: false, refresh: None });
    assert!(matches!(on_route(&quota, "o"), Some(Target::Enforce { open: true, .. })));
    assert!(matches!(on_route(&quota, "r"), Some(Target::Enforce { open: false, .. })));
    assert!(on_route(&quota, "x").is_none(), "aiquota in the default enforces nothing");
}

#[test]
fn what_the_controller_writes_is_what_the_module_reads() {
    let written: wire::Native = wire::Native {
        version: wire::VERSION,
        guard: false,
        stores: [(
            "s".to_owned(),
            wire::Store {
                service: "r.dns".into(),
                port: 6379,
                database: 2,
                timeout_ms: 500,
                username: Some("u".into()),
                password: Some("p".into()),
            },
        )]
        .into(),
        schedules: [].into(),
        policies: [(
            "p".to_owned(),
            wire::Policy {
                store: Some("s".into()),
                key_prefix: "k:".into(),
                owner: "o".into(),
                paths: vec!["/v1/messages".into()],
                admin: None,
                default_quota: None,
                yields: false,
                refresh: None,
                reserve: None,
                ends: wire::Ends::default(),
                models: vec![wire::Model {
                    name: "gpt-4*".into(),
                    weights: Weights([1, 3, 0, 3]),
                    own: Some(wire::Own { default_quota: Some(5), yields: true }),
                }],
                unavailable: None,
            },
        )]
        .into(),
        report: Some(wire::Report { of: "c/n".into(), revision: "r".into() }),
    };
    let rule = serde_json::to_value(wire::Rule { policy: "p".into(), open: true }).unwrap();
    let mut rule = rule.as_object().unwrap().clone();
    rule.insert("_match_domain_".into(), json!(["*"]));
    let quota = quota(&json!({"aiquota": serde_json::to_value(&written).unwrap(), "_rules_": [rule]}));
    let policy = policy(quota.target(&Subject { authority: b"any:80", ..Subject::default() }));
    assert!(policy.store.with_options.starts_with("outbound|6379||r.dns?db=2&"));
    assert_eq!(quota.report(), written.report.as_ref());
}

#[test]
fn a_broken_policy_refuses_only_what_it_matches_and_is_named() {
    let policies = "/aiquota/policies/ns~1chat";
    for (field, value, message) in [
        ("/store", Some(json!("gone")), "aiquota.policies.ns/chat.store names a store that is not there"),
        ("/store", None, "aiquota.policies.ns/chat.store is missing"),
        (
            "/reserve",
            Some(json!({"defaultMaxTokens": 0})),
            "aiquota.policies.ns/chat.reserve.defaultMaxTokens is out of range",
        ),
        ("/ends", Some(json!({"warnAt": 0})), "aiquota.policies.ns/chat.ends.warnAt is out of range"),
        ("/ends", Some(json!({"warnAt": 101})), "aiquota.policies.ns/chat.ends.warnAt is out of range"),
        ("/owner", None, "aiquota.policies.ns/chat.owner is missing"),
        ("/paths", None, "aiquota.policies.ns/chat.paths is missing"),
        ("/paths", Some(json!([])), "aiquota.policies.ns/chat.paths are not path suffixes"),
        ("/paths", Some(json!(["v1"])), "aiquota.policies.ns/chat.paths are not path suffixes"),
        ("/paths", Some(json!([1])), "aiquota.policies.ns/chat.paths is unknown or not what it should be"),
        ("/keyPrefix", Some(json!("")), "aiquota.policies.ns/chat.keyPrefix is not a key prefix"),
        ("/keyPrefix", Some(json!("a{b}")), "aiquota.policies.ns/chat.keyPrefix is not a key prefix"),
        ("/admin/consumer", Some(json!("a b")), "aiquota.policies.ns/chat.admin.consumer is not a consumer"),
        ("/admin/path", Some(json!("quota")), "aiquota.policies.ns/chat.admin.path is not a path"),
        ("/admin/path", Some(json!(5)), "aiquota.policies.ns/chat.admin is unknown or not what it should be"),
        ("/defaultQuota", Some(json!(-1)), "aiquota.policies.ns/chat.defaultQuota is out of range"),
        ("/defaultQuota", Some(json!(1_u64 << 53)), "aiquota.policies.ns/chat.defaultQuota is out of range"),
        (
            "/defaultQuota",
            Some(json!(1_u64 << 63)),
            "aiquota.policies.ns/chat.defaultQuota is unknown or not what it should be",
        ),
        (
            "/models",
            Some(json!([{"name": "a"}, {"name": "a*b"}])),
            "aiquota.policies.ns/chat.models[1] is no model, or weighs too much",
        ),
        (
            "/models",
            Some(json!([{"name": "a", "weights": [1, 1001, 1, 1]}])),
            "aiquota.policies.ns/chat.models[0] is no model, or weighs too much",
        ),
        (
            "/models",
            Some(json!([{"name": "a", "own": {"defaultQuota": -1}}])),
            "aiquota.policies.ns/chat.models[0].own.defaultQuota is out of range",
        ),
        ("/refresh/schedule", Some(json!("x")), "aiquota.policies.ns/chat.refresh.schedule is not there"),
        ("/refresh/maxBalance", Some(json!(-1)), "aiquota.policies.ns/chat.refresh.maxBalance is out of range"),
        ("/surprise", Some(json!(1)), "aiquota.policies.ns/chat.surprise is unknown or not what it should be"),
    ] {
        let quota = quota(&native(&format!("{policies}{field}"), value));
        assert_eq!(reason(on_route(&quota, "r")), format!("Invalid configuration: {message}."));
        assert!(matches!(on_route(&quota, "o"), Some(Target::Enforce { .. })), "{field}");
    }
    for (pointer, value, message) in [
        ("/_rules_/0/policy", json!("gone"), "_rules_[0].policy names a policy that is not there"),
        ("/_rules_/0/policy", json!(7), "_rules_[0].policy is not a name"),
        ("/_rules_/0/open", json!("yes"), "_rules_[0].open is neither true nor false"),
        ("/aiquota/schedules/daily/at", json!([2000, 1000]), "aiquota.schedules.daily.at is not a table of boundaries"),
        ("/aiquota/schedules/daily/at", json!([]), "aiquota.schedules.daily.at is not a table of boundaries"),
        (
            "/aiquota/schedules/daily/at",
            json!([1000, 1_u64 << 53]),
            "aiquota.schedules.daily.at is not a table of boundaries",
        ),
        (
            "/aiquota/schedules/daily/at",
            json!([1000, 1_u64 << 63]),
            "aiquota.schedules.daily.at is unknown or not what it should be",
        ),
        (
            "/aiquota/schedules/daily/first",
            json!((1_i64 << 53) - 2),
            "aiquota.schedules.daily.at is not a table of boundaries",
        ),
        ("/aiquota/schedules/daily/first", json!(i64::MAX), "aiquota.schedules.daily.at is not a table of boundaries"),
        (
            "/aiquota/schedules/daily/first",
            json!(1.5),
            "aiquota.schedules.daily.first is unknown or not what it should be",
        ),
        ("/aiquota/schedules/daily", json!([7]), "aiquota.schedules.daily is not an object"),
    ] {
        let quota = quota(&native(pointer, Some(value)));
        assert_eq!(reason(on_route(&quota, "r")), format!("Invalid configuration: {message}."));
        assert!(matches!(on_route(&quota, "o"), Some(Target::Enforce { .. })), "{pointer}");
    }
}

#[test]
fn a_broken_store_is_named_without_its_secrets() {
    for (field, value, problem) in [
        ("password", Some(json!(["hunter2"])), "password is unknown or not what it should be"),
        ("passphrase", Some(json!("hunter2")), "passphrase is unknown or not what it should be"),
        ("port", Some(json!("hunter2")), "port is unknown or not what it should be"),
        ("port", Some(json!(0)), "port is not a port"),
        ("service", None, "service is missing"),
        ("service", Some(json!("")), "service is empty"),
        ("timeoutMs", Some(json!(0)), "timeoutMs is out of range"),
    ] {
        let quota = quota(&native(&format!("/aiquota/stores/default/{field}"), value));
        let expected = format!("Invalid configuration: aiquota.stores.default.{problem}.");
        assert_eq!(reason(on_route(&quota, "r")), expected);
        assert!(quota.refusals().all(|reason| reason == expected));
    }
    let whole = format!("{:?}", parse(&native("", None)).unwrap());
    assert!(whole.contains("outbound|80||local-redis.static") && !whole.contains("hunter2"));
}

#[test]
fn an_unavailable_policy_refuses_and_says_why() {
    let pointer = "/aiquota/policies/ns~1other/unavailable";
    let mut config = native(pointer, Some(json!("secret redis-auth is gone")));
    config["aiquota"]["policies"]["ns/other"].as_object_mut().unwrap().remove("store");
    let quota = quota(&config);
    let Some(Target::Refuse { reason, only: Some(paths) }) = on_route(&quota, "o") else { panic!() };
    assert_eq!(reason, "secret redis-auth is gone");
    assert_eq!((paths.mode(b"/v1/messages"), paths.mode(b"/index.html")), (Mode::Metered, Mode::Other));
}

#[test]
fn our_envelope_must_be_of_our_version_and_shape() {
    let error = |pointer: &str, value: Value| parse(&native(pointer, Some(value))).unwrap_err();
    assert_eq!(error("/aiquota/version", json!(2)), ConfigError::Version("2".into()));
    assert_eq!(error("/aiquota/version", json!(null)), ConfigError::Version("null".into()));
    assert!(matches!(error("/aiquota/surprise", json!(1)), ConfigError::Native(_)));
    assert!(matches!(error("/aiquota/stores", json!([])), ConfigError::Native(_)));
    assert!(matches!(error("/aiquota/report", json!({"of": "c/n"})), ConfigError::Native(_)));
    assert!(matches!(error("/aiquota/policies", json!([])), ConfigError::Native(_)));
    assert!(matches!(error("/aiquota", json!("x")), ConfigError::Version(_)));
    assert!(matches!(
        error("/_rules_/1", json!({"policy": "ns/chat"})),
        ConfigError::Envelope(EnvelopeError::NoMatcher(1))
    ));
}

#[test]
fn a_guard_only_guards() {
    assert!(matches!(parse(&json!({"aiquota": {"version": 1, "guard": true}})), Ok(Config::Guard)));
}

#[test]
fn both_forms_may_stand_in_one_configuration() {
    let mut config = native("", None);
    let mut rule = upstream("/admin_consumer", json!("their-admin"));
    rule["_match_route_"] = json!(["u"]);
    config["_rules_"].as_array_mut().unwrap().push(rule);
    config["admin_consumer"] = json!("default-admin");
    config["redis"] = json!({"service_name": "other.static"});
    let quota = quota(&config);
    assert_eq!(policy(on_route(&quota, "u")).admin.as_deref(), Some("their-admin"));
    assert_eq!(policy(on_route(&quota, "x")).admin.as_deref(), Some("default-admin"));
    assert_eq!(policy(on_route(&quota, "r")).admin.as_deref(), Some("admin"));
    assert_eq!(quota.stores().len(), 3);

    let stray = quota_of_stray_policy();
    assert!(reason(on_route(&stray, "r")).contains("_rules_[0].policy names a policy, but there is no aiquota"));
}

fn quota_of_stray_policy() -> Quota {
    let mut config = upstream("/admin_consumer", json!("admin"));
    config["_rules_"] = json!([{"_match_route_": ["r"], "policy": "ns/chat"}]);
    quota(&config)
}

#[test]
fn no_configuration_makes_the_reader_panic() {
    let mut random = Random(3);
    let seeds = [native("", None).to_string(), upstream("/admin_consumer", json!("a")).to_string()];
    let bits =
        ["null", "-1", "18446744073709551616", "1e999", "\"\"", "[]", "{}", "true", "[[[[", "\"\\ud800\"", "\u{7f}"];
    let mut started = 0;
    for _ in 0..10_000 {
        let mut bytes = random.pick(&seeds).clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next().to_le_bytes()[0],
                1 => drop(bytes.splice(at..at, random.pick(&bits).bytes())),
                2 => drop(bytes.drain(at..(at + random.below(30)).min(bytes.len()))),
                _ => {
                    // A whole value is exchanged for another.
                    if let Some(colon) = bytes[at..].iter().position(|byte| *byte == b':') {
                        let start = at + colon + 1;
                        let rest = &bytes[start..];
                        let end =
                            rest.iter().position(|byte| matches!(byte, b',' | b'}')).map_or(bytes.len(), |n| start + n);
                        drop(bytes.splice(start..end, random.pick(&bits).bytes()));
                    }
                }
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        if let Ok(Config::Policies(quota)) = Config::parse(&bytes) {
            started += 1;
            let _ = on_route(&quota, "r");
        }
    }
    assert!(started > 500, "the cases are not close enough to valid ones: {started}");
}
