//! Configurations of limits and what is wrong with them: both forms, named by field, one change of a valid one each.

use serde_json::json;

use super::*;
use crate::config::Target;
use crate::rules::Subject;

type Config = config::Config<Policy>;

fn read(json: &Value) -> Result<Box<config::Policies<Policy>>, ConfigError> {
    match Config::parse(json.to_string().as_bytes())? {
        Config::Policies(policies) => Ok(policies),
        Config::Guard => panic!("limits have no guard"),
    }
}

fn reason(json: &Value) -> Option<String> {
    let policies = read(json).unwrap();
    match policies.target(&Subject::default()).unwrap() {
        Target::Refuse { reason, .. } => Some(reason.clone()),
        Target::Enforce { .. } => None,
    }
}

fn changed(mut config: Value, pointer: &str, value: Option<Value>) -> Value {
    if !pointer.is_empty() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match (config.pointer_mut(parent).unwrap(), value) {
            (Value::Object(parent), Some(value)) => drop(parent.insert(key.into(), value)),
            (Value::Object(parent), None) => drop(parent.remove(key)),
            (Value::Array(parent), Some(value)) => parent[key.parse::<usize>().unwrap()] = value,
            other => panic!("{other:?}"),
        }
    }
    config
}

fn upstream(dialect: &str) -> Value {
    json!({
        "aiquota": {"version": 1, "dialect": dialect},
        "_rules_": [{
            "_match_domain_": ["*"], "rule_name": "r", "redis": {"service_name": "redis.static"},
            "rule_items": [
                {"limit_by_per_header": "k", "limit_keys": [{"key": "regexp:^a", "token_per_minute": "5"}]},
                {"limit_by_per_ip": "from-remote-addr", "limit_keys": [{"key": "10.0.0.0/8", "token_per_day": 5}]},
            ]
        }]
    })
}

#[test]
fn what_upstream_cannot_use_is_named_by_its_field() {
    for dialect in ["v1", "v2"] {
        assert_eq!(reason(&upstream(dialect)), None);
        for (field, value, message) in [
            ("/rule_name", None, "rule_name is missing"),
            ("/redis", None, "redis is missing"),
            ("/redis/service_name", None, "redis.service_name is missing"),
            ("/rule_items", None, "rule_items is missing, and so is global_threshold"),
            ("/rule_items", Some(json!([])), "rule_items is empty"),
            ("/rule_items", Some(json!(null)), "rule_items is empty"),
            ("/rejected_code", Some(json!(0)), "rejected_code is not a status"),
            ("/rejected_code", Some(json!(100)), "rejected_code is not a status"),
            ("/rejected_code", Some(json!(1e9)), "rejected_code is not a status"),
            (
                "/rule_items/0/limit_by_per_header",
                Some(json!("")),
                "rule_items[0].limit_by_header is missing, and so is every other limiter",
            ),
            ("/rule_items/0/limit_keys", None, "rule_items[0].limit_keys is missing"),
            ("/rule_items/0/limit_keys", Some(json!([])), "rule_items[0].limit_keys is empty"),
            ("/rule_items/0/limit_keys/0/key", None, "rule_items[0].limit_keys[0].key is missing"),
            ("/rule_items/0/limit_keys/0/key", Some(json!("")), "rule_items[0].limit_keys[0].key is missing"),
            (
                "/rule_items/0/limit_keys/0/key",
                Some(json!("vip")),
                "rule_items[0].limit_keys[0].key is neither * nor begins with regexp:",
            ),
            (
                "/rule_items/0/limit_keys/0/key",
                Some(json!("regexp:(")),
                "rule_items[0].limit_keys[0].key is a pattern that ends too early",
            ),
            (
                "/rule_items/0/limit_keys/0/key",
                Some(json!("regexp:\\pL")),
                "rule_items[0].limit_keys[0].key is a pattern with Unicode classes, or case ignored beyond ASCII",
            ),
            (
                "/rule_items/0/limit_keys/0/token_per_minute",
                None,
                "rule_items[0].limit_keys[0].token_per_minute is missing, and so is every other rate",
            ),
            (
                "/rule_items/0/limit_keys/0/token_per_minute",
                Some(json!(0)),
                "rule_items[0].limit_keys[0].token_per_minute is not a positive integer",
            ),
            (
                "/rule_items/0/limit_keys/0/token_per_day",
                Some(json!(5)),
                "rule_items[0].limit_keys[0].token_per_minute is not the only rate",
            ),
            (
                "/rule_items/1/limit_by_per_ip",
                Some(json!("from-header-")),
                "rule_items[1].limit_by_per_ip is neither from-remote-addr nor from-header-<name>",
            ),
            (
                "/rule_items/1/limit_keys/0/key",
                Some(json!("10.0.0.0/33")),
                "rule_items[1].limit_keys[0].key is neither an address nor a network",
            ),
        ] {
            let config = changed(upstream(dialect), &format!("/_rules_/0{field}"), value);
            let expected = format!("Invalid configuration: _rules_[0].{message}.");
            assert_eq!(reason(&config), Some(expected), "{dialect} {field}");
        }
    }
}

#[test]
fn the_generations_differ_in_what_may_stand_together() {
    let both = Some(json!({"token_per_minute": 5}));
    let with_global = |dialect| reason(&changed(upstream(dialect), "/_rules_/0/global_threshold", both.clone()));
    assert_eq!(with_global("v2"), None);
    let message = "Invalid configuration: _rules_[0].rule_items stands beside global_threshold, which v1 cannot.";
    assert_eq!(with_global("v1").as_deref(), Some(message));

    let item = json!({"limit_by_header": "k", "limit_keys": [{"key": "a", "token_per_second": 5}]});
    let many = |dialect, count| {
        reason(&changed(upstream(dialect), "/_rules_/0/rule_items", Some(json!(vec![item.clone(); count]))))
    };
    assert_eq!(many("v2", 10), None);
    let message = "Invalid configuration: _rules_[0].rule_items has more than 10 items.";
    assert_eq!(many("v2", 11).as_deref(), Some(message));
    assert_eq!(many("v1", 11), None);
    for broken in ["/_rules_/0/global_threshold", "/_rules_/0/rule_items"] {
        assert!(reason(&changed(upstream("v2"), broken, Some(json!({})))).is_some(), "{broken}");
    }
}

#[test]
fn without_our_key_the_second_generation_is_meant_and_nothing_to_enforce_does_not_start() {
    let keys =
        json!({"rule_name": "r", "redis": {"service_name": "r.static"}, "global_threshold": {"token_per_day": 1}});
    let policies = read(&keys).unwrap();
    let Some(Target::Enforce { policy, open: false }) = policies.target(&Subject::default()) else { panic!() };
    assert_eq!(policy.flavor, Flavor::Upstream(Dialect::V2));
    assert_eq!(policy.limits.global, [Rate { tokens: 1, window_seconds: 86_400 }]);
    assert_eq!((policy.rejection.code, policy.rejection.message.as_str()), (429, "Too many requests"));
    let huge = changed(keys.clone(), "/global_threshold/token_per_day", Some(json!(u64::MAX)));
    let policies = read(&huge).unwrap();
    let Some(Target::Enforce { policy, .. }) = policies.target(&Subject::default()) else { panic!() };
    assert_eq!(policy.limits.global[0].tokens, MAX_AMOUNT);
    for config in [json!({}), changed(keys, "/rule_name", None)] {
        assert!(matches!(read(&config), Err(ConfigError::Nothing(_))), "{config}");
    }
}

fn native() -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000, "password": "hunter2"}},
            "policies": {"p": {
                "store": "s", "ruleName": "ns.chat", "paths": ["/v1/chat/completions"],
                "global": [{"tokens": 5, "windowSeconds": 60}],
                "rules": [
                    {"by": {"header": "k"}, "limits": [
                        {"match": {"exact": "vip"}, "tokens": 5, "windowSeconds": 60},
                        {"match": {"pattern": "^a"}, "tokens": 5, "windowSeconds": 60},
                    ]},
                    {"by": {"ip": {}}, "limits": [{"match": {"cidr": "::/0"}, "tokens": 5, "windowSeconds": 60}]},
                ]
            }}
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p"}]
    })
}

#[test]
fn a_broken_policy_of_ours_is_named_by_its_field() {
    assert_eq!(reason(&native()), None);
    for (field, value, message) in [
        ("/store", None, "store is missing"),
        ("/store", Some(json!("gone")), "store names a store that is not there"),
        ("/ruleName", None, "ruleName is missing"),
        ("/ruleName", Some(json!("")), "ruleName is not a rule name"),
        ("/ruleName", Some(json!("a{b}")), "ruleName is not a rule name"),
        ("/paths", Some(json!([])), "paths are not path suffixes"),
        ("/paths", Some(json!(["v1"])), "paths are not path suffixes"),
        ("/rejection", Some(json!({"code": 200, "message": ""})), "rejection.code is out of range"),
        ("/rejection", Some(json!({"code": 429, "message": 5})), "rejection is unknown or not what it should be"),
        ("/global", Some(json!([{"tokens": 0, "windowSeconds": 60}])), "global is too long or out of range"),
        ("/global", Some(json!([{"tokens": 1_u64 << 53, "windowSeconds": 60}])), "global is too long or out of range"),
        ("/global", Some(json!([{"tokens": 1, "windowSeconds": 0}])), "global is too long or out of range"),
        ("/global", Some(json!([{"tokens": 1, "windowSeconds": 2_678_401}])), "global is too long or out of range"),
        (
            "/global",
            Some(json!(vec![json!({"tokens": 1, "windowSeconds": 1}); 11])),
            "global is too long or out of range",
        ),
        ("/rules/0/by", Some(json!({"header": ""})), "rules[0].by names nothing"),
        ("/rules/0/by", Some(json!({"ip": {"fromHeader": ""}})), "rules[0].by names nothing"),
        ("/rules/0/by", Some(json!({"body": "x"})), "rules is unknown or not what it should be"),
        ("/rules/0/limits", Some(json!([])), "rules[0].limits are missing"),
        ("/rules/0/limits/1/tokens", Some(json!(0)), "rules[0].limits[1] is out of range"),
        (
            "/rules/0/limits/1/match",
            Some(json!({"pattern": "a**"})),
            "rules[0].limits[1].match is a pattern that repeats nothing, or a repetition",
        ),
        ("/rules/0/limits/0/match", Some(json!({"exact": ""})), "rules[0].limits[0].match is empty"),
        ("/rules/0/limits/0/match", Some(json!({"cidr": "::/0"})), "rules[0].limits[0].match is only for addresses"),
        (
            "/rules/1/limits/0/match",
            Some(json!("any")),
            "rules[1].limits[0].match is not for addresses: they are matched by network",
        ),
        (
            "/rules/1/limits/0/match",
            Some(json!({"cidr": "x"})),
            "rules[1].limits[0].match is neither an address nor a network",
        ),
        ("/surprise", Some(json!(1)), "surprise is unknown or not what it should be"),
    ] {
        let config = changed(native(), &format!("/aiquota/policies/p{field}"), value);
        let expected = format!("Invalid configuration: aiquota.policies.p.{message}.");
        assert_eq!(reason(&config), Some(expected), "{field}");
    }
    let mut rules = native();
    let rule = rules["aiquota"]["policies"]["p"]["rules"][0].clone();
    rules["aiquota"]["policies"]["p"]["rules"] = json!(vec![rule; 11]);
    assert_eq!(reason(&rules).as_deref(), Some("Invalid configuration: aiquota.policies.p.rules are too many."));
    let nothing = changed(changed(native(), "/aiquota/policies/p/global", None), "/aiquota/policies/p/rules", None);
    let message = "Invalid configuration: aiquota.policies.p.rules are missing, and so is global.";
    assert_eq!(reason(&nothing).as_deref(), Some(message));
}

#[test]
fn our_envelope_has_nothing_of_quotas() {
    for (field, value) in [("/guard", json!(true)), ("/schedules", json!({})), ("/dialect", json!("v3"))] {
        let config = changed(native(), &format!("/aiquota{field}"), Some(value));
        assert!(matches!(read(&config), Err(ConfigError::Native(_))), "{field}");
    }
    let whole = format!("{:?}", read(&native()).unwrap());
    assert!(whole.contains("ns.chat") && !whole.contains("hunter2"));
}
