//! What is hunted in: each module with valid configurations, replies and pieces of requests, from which cases are made.

use serde_json::{Value, json};

/// A module that is hunted in, and what is thrown at it.
#[derive(Clone, Copy)]
pub(super) struct Ground {
    pub(super) module: &'static str,
    pub(super) upstream: fn() -> Value,
    pub(super) native: fn() -> Value,
    pub(super) replies: &'static [&'static [u8]],
    /// What Redis says to a request that may pass.
    pub(super) admits: &'static [u8],
}

pub(super) const QUOTA: Ground =
    Ground { module: "ai-quota", upstream, native, replies: REPLIES, admits: b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n" };

pub(super) const LIMITS: Ground = Ground {
    module: "ai-token-ratelimit",
    upstream: upstream_limits,
    native: native_limits,
    replies: REPLIES_TO_LIMITS,
    admits: b"*1\r\n*3\r\n:5\r\n:0\r\n:60\r\n",
};

fn upstream() -> Value {
    json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static", "password": "p", "database": 1}})
}

fn native() -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000, "username": "u", "password": "p"}},
            "schedules": {"daily": {"first": 7, "at": [1000, 2000]}},
            "policies": {"p": {
                "store": "s", "keyPrefix": "k:", "owner": "uid/ns/p", "paths": ["/v1/chat/completions"],
                "admin": {"consumer": "admin", "path": "/quota"}, "defaultQuota": 1000,
                "refresh": {"schedule": "daily", "mode": "CarryOver", "maxBalance": 9}
            }}
        },
        "_rules_": [{"_match_route_": ["r"], "policy": "p"}, {"_match_domain_": ["*"], "policy": "p", "open": true}]
    })
}

fn upstream_limits() -> Value {
    let item = |limiter: &str, name: &str, key: &str| json!({limiter: name, "limit_keys": [{"key": key, "token_per_minute": 5}]});
    json!({
        "rule_name": "r", "redis": {"service_name": "redis.static", "password": "p"},
        "global_threshold": {"token_per_day": 9}, "rejected_code": 430, "rejected_msg": "x",
        "rule_items": [
            item("limit_by_per_header", "x-mse-consumer", "regexp:^[a-z]{1,3}(?i)s.*$|\\d"),
            item("limit_by_per_param", "consumer", "*"),
            item("limit_by_cookie", "c", "1"),
            item("limit_by_per_ip", "from-header-x-real-ip", "10.0.0.0/8"),
        ]
    })
}

fn native_limits() -> Value {
    let limit = |matches: Value| json!({"match": matches, "tokens": 5, "windowSeconds": 60});
    json!({
        "aiquota": {
            "version": 1, "dialect": "v1",
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000}},
            "policies": {"p": {
                "store": "s", "ruleName": "r", "paths": ["/v1/chat/completions"],
                "rules": [
                    {"by": {"consumer": {}}, "limits": [limit(json!({"pattern": "^u"})), limit(json!({"exact": "vip"})), limit(json!("any"))]},
                    {"by": {"ip": {"fromHeader": "x-real-ip"}}, "limits": [limit(json!({"cidr": "::/0"}))]},
                ],
                "rejection": {"code": 429, "message": "x"}
            }}
        },
        "_rules_": [{"_match_route_": ["r"], "policy": "p"}, {"_match_domain_": ["*"], "policy": "p"}]
    })
}

const REPLIES_TO_LIMITS: &[&[u8]] = &[
    b"*1\r\n*3\r\n:5\r\n:0\r\n:60\r\n",
    b"*3\r\n:5\r\n:9\r\n:60\r\n",
    b"*1\r\n*3\r\n:5\r\n:9\r\n:60\r\n",
    b"*1\r\n*3\r\n$1\r\n5\r\n$19\r\n9223372036854775807\r\n:-2\r\n",
    b"*2\r\n*3\r\n:9\r\n:9\r\n:60\r\n*3\r\n:5\r\n$1\r\nx\r\n:60\r\n",
    b"-NOSCRIPT No matching script.\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-ERR x\r\n",
    b"$-1\r\n",
    b"*2147483647\r\n",
];

/// Pieces of what a client sends: a path, names of consumers, cookies, addresses.
pub(super) const REQUESTS: [&[&[u8]]; 4] = [
    &[b"/v1/chat/completions?consumer=%41+b&consumer=c", b"/v1//chat/completions;x/..?consumer=%zz&a;b", b"/?#?", b"%"],
    &[b"user", b"vip", b"", b"\xff\xe2\x82{}:"],
    &[b"c=1; c=2", b"c==1;;c", b";=", b"\"c=1\""],
    &[b"10.0.0.1:80, x", b"[::1]:80", b"::ffff:10.0.0.1", b"fe80::1%eth0", b"]["],
];

const REPLIES: &[&[u8]] = &[
    b"$1\r\n5\r\n",
    b"$-1\r\n",
    b":5\r\n",
    b"+OK\r\n",
    b"-ERR x\r\n",
    b"-NOSCRIPT No matching script.\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
    b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
    b"*2\r\n$9\r\nunlimited\r\n$-1\r\n",
    b"*2\r\n$7\r\nrefused\r\n:0\r\n",
    b"*2\r\n$7\r\nbalance\r\n:150\r\n",
    b"*2\r\n$6\r\nbooked\r\n:5\r\n",
    b"*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n",
    b"*2147483647\r\n",
    b"$9223372036854775807\r\nx\r\n",
];
