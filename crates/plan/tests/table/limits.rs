//! The table's part on AITokenRateLimit.

use plan::Refused;
use serde_json::{Value, json};

use super::{Case, Kind, put};

pub(super) fn valid() -> Value {
    json!({
        "apiVersion": "quota.higress.io/v1alpha1",
        "kind": "AITokenRateLimit",
        "metadata": {"name": "chat", "namespace": "higress-system"},
        "spec": {
            "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
            "storeRef": {"name": "default"},
            "ruleName": "default_rule",
            "global": [{"tokens": 100_000, "window": "1m"}],
            "rules": [
                {"by": {"header": "x-api-key"}, "limits": [
                    {"match": {"exact": "vip"}, "tokens": 100, "window": "1m"},
                    {"match": {"pattern": "^a.*"}, "tokens": 50, "window": "1h"},
                    {"match": {"any": true}, "tokens": 5, "window": "1m"},
                ]},
                {"by": {"ip": {"fromHeader": "X-Forwarded-For"}}, "limits": [
                    {"match": {"cidr": "10.0.0.0/8"}, "tokens": 7, "window": "1d"},
                ]},
            ],
            "models": [
                {"name": "gpt-4o", "weights": {"output": 3}, "global": [rate(1000, "1m")], "rules": rules(1)},
                {"name": "gpt-*", "global": [rate(5000, "1m")]},
            ],
            "rejection": {"code": 429, "message": "Too many requests"},
            "paths": ["/v1/chat/completions", ":generateContent"],
            "admission": "Reserve",
            "reservation": {"defaultMaxTokens": 1000},
            "mode": "Enforce",
            "onStoreFailure": "Admit",
            "onMissingUsage": "Estimate",
            "unlistedPaths": "Admit",
            "rateLimitHeaders": true,
            "errors": "Text",
            "includeUsage": true,
            "warnAt": 80,
        },
    })
}

fn rate(tokens: u64, window: &str) -> Value {
    json!({"tokens": tokens, "window": window})
}

fn any(window: &str) -> Value {
    json!({"match": {"any": true}, "tokens": 5, "window": window})
}

fn source(kind: &str, name: &str) -> Value {
    json!({"kind": kind, "name": name})
}

/// As many rules, each by another header.
fn rules(count: usize) -> Value {
    json!((0..count).map(|n| json!({"by": {"header": format!("h{n}")}, "limits": [any("1m")]})).collect::<Vec<_>>())
}

pub(super) fn accepted() -> Vec<(Kind, Value)> {
    let limit = |at: &'static str, to: Value| (Kind::Limit, put(valid(), at, to));
    let target = || json!([{"kind": "Ingress", "name": "qwen"}]);
    vec![
        (Kind::Limit, valid()),
        limit("/spec", json!({"targetRefs": target(), "global": [rate(1, "1s")]})),
        limit("/spec", json!({"targetRefs": target(), "rules": rules(1)})),
        limit("/spec", json!({"targetRefs": [{"kind": "Gateway"}], "allowNarrower": true, "rules": rules(1)})),
        limit("/spec/ruleName", json!("!\"#$%&'()*+,-/09:;<=>?@AZ[\\]^_`az|~")),
        limit("/spec/ruleName", json!(null)),
        limit("/spec/global", json!([rate(9_007_199_254_740_991, "31d"), rate(1, "1s")])),
        limit("/spec/global", json!([rate(1, "59s"), rate(1, "1m"), rate(1, "24h"), rate(1, "2d")])),
        limit("/spec/global", json!([])),
        limit("/spec/rules", json!(null)),
        limit("/spec/rules", rules(10)),
        limit("/spec/rules/0/by", json!({"param": "key[0]"})),
        limit("/spec/rules/0/by", json!({"cookie": "session"})),
        limit("/spec/rules/0/by", json!({"consumer": {}})),
        limit("/spec/rules/1/by", json!({"ip": {}})),
        limit(
            "/spec/rules/0/limits",
            json!(
                (0..64)
                    .map(|n| json!({"match": {"exact": format!("v{n}")}, "tokens": 1, "window": "1m"}))
                    .collect::<Vec<_>>()
            ),
        ),
        limit("/spec/rules/0/limits", json!((1..11).map(|n| any(&format!("{n}s"))).collect::<Vec<_>>())),
        limit("/spec/rules/0/limits/0/match", json!({"exact": "用户 $ { \" ä"})),
        limit("/spec/rules/0/limits/1/match", json!({"pattern": "^(?:team-\\d+|\\Qa.b\\E)[[:alpha:]]{1,3}$"})),
        limit("/spec/rules/1/limits/0/match", json!({"cidr": "2001:db8::/32"})),
        limit("/spec/rules/1/limits/0/match", json!({"cidr": "192.0.2.7"})),
        limit("/spec/rules/1/limits/0/match", json!({"cidr": "0.0.0.0/0"})),
        limit("/spec", json!({"targetRefs": target(), "models": [{"name": "a", "global": [rate(1, "1s")]}]})),
        limit("/spec", json!({"targetRefs": target(), "models": [{"name": "a"}, {"name": "*", "rules": rules(10)}]})),
        limit("/spec/models", json!((0..32).map(|n| json!({"name": format!("m{n}")})).collect::<Vec<_>>())),
        limit("/spec/models", json!(null)),
        limit("/spec/reservation/defaultMaxTokens", json!(1)),
        limit("/spec/rules/0/overridesFrom", json!([{"kind": "Secret", "name": "keys.vip"}])),
        limit(
            "/spec/rules/0",
            json!({"by": {"consumer": {}}, "overridesFrom": [source("ConfigMap", "n"), source("Secret", "n")]}),
        ),
        limit(
            "/spec/rules/1/overridesFrom",
            json!((0..32).map(|n| source("ConfigMap", &format!("n{n}"))).collect::<Vec<_>>()),
        ),
        limit("/spec/rejection", json!({})),
        limit("/spec/rejection/code", json!(400)),
        limit("/spec/rejection/code", json!(599)),
        limit("/spec/rejection/message", json!("")),
        limit("/spec/mode", json!("Observe")),
        limit("/spec/mode", json!(null)),
        limit("/spec/onStoreFailure", json!("Refuse")),
        limit("/spec/onMissingUsage", json!("Ignore")),
        limit("/spec/unlistedPaths", json!("Refuse")),
        limit("/spec/rateLimitHeaders", json!(false)),
        limit("/spec/includeUsage", json!(false)),
        limit("/spec/errors", json!("OpenAI")),
        limit("/spec/errors", json!("Anthropic")),
        limit("/spec/warnAt", json!(1)),
        limit("/spec/warnAt", json!(100)),
        limit("/spec/warnAt", json!(null)),
        limit("/spec/rejection/message", json!("Zu viele Anfragen: \"später\"")),
    ]
}

pub(super) fn refused() -> Vec<Case> {
    use Refused::{Characters, Duplicate, Excluded, OutOfRange, Required, TooLong, TooMany, Unreadable};
    let limit = |at, to, field, reason| Case { at, to, kind: Kind::Limit, field, reason };
    let match0 = "/spec/rules/0/limits/0/match";
    let mut cases = vec![
        limit("/spec/surprise", json!("Observe"), "spec.surprise", Unreadable),
        limit("/spec/keyPrefix", json!("q:"), "spec.keyPrefix", Unreadable),
        limit("/spec", json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}]}), "spec.rules", Required),
        limit("/spec/targetRefs", json!([]), "spec.targetRefs", Required),
        limit("/spec/targetRefs/0", json!({"kind": "Gateway", "name": "all"}), "spec.targetRefs[0].name", Excluded),
        limit("/spec/allowNarrower", json!(true), "spec.allowNarrower", Excluded),
        limit("/spec/ruleName", json!("team-a.chat"), "spec.ruleName", Characters),
        limit("/spec/ruleName", json!(""), "spec.ruleName", Required),
        // when requests are admitted
        limit("/spec/admission", json!("reserve"), "spec.admission", Unreadable),
        limit("/spec/admission", json!("Check"), "spec.reservation", Excluded),
        limit("/spec/reservation", json!(null), "spec.reservation", Required),
        limit("/spec/reservation/defaultMaxTokens", json!(0), "spec.reservation.defaultMaxTokens", OutOfRange),
        // rates
        limit("/spec/global/0/tokens", json!(0), "spec.global[0].tokens", OutOfRange),
        limit("/spec/global/0/tokens", json!(1_i64 << 53), "spec.global[0].tokens", OutOfRange),
        limit("/spec/global/0/tokens", json!("5"), "spec.global[0].tokens", Unreadable),
        limit("/spec/global/0/window", json!("32d"), "spec.global[0].window", OutOfRange),
        limit("/spec/global/0/window", json!("745h"), "spec.global[0].window", OutOfRange),
        limit("/spec/global/0/window", json!("9999999h"), "spec.global[0].window", OutOfRange),
        limit("/spec/global/0/burst", json!(1), "spec.global[0].burst", Unreadable),
        limit("/spec/global", json!([rate(1, "1m"), rate(2, "1m")]), "spec.global", Duplicate),
        limit(
            "/spec/global",
            json!((1..12).map(|n| rate(1, &format!("{n}s"))).collect::<Vec<_>>()),
            "spec.global",
            TooMany,
        ),
        // rules
        limit("/spec/rules", rules(11), "spec.rules", TooMany),
        limit(
            "/spec/rules",
            json!([{"by": {"header": "a"}, "limits": [any("1m")]}, {"by": {"header": "a"}, "limits": [any("1h")]}]),
            "spec.rules",
            Duplicate,
        ),
        limit("/spec/rules/0/by", json!({}), "spec.rules[0].by", Excluded),
        limit("/spec/rules/0/by", json!({"header": "a", "param": "b"}), "spec.rules[0].by", Excluded),
        limit("/spec/rules/0/by", json!({"body": "x"}), "spec.rules[0].by.body", Unreadable),
        limit("/spec/rules/0/limits", json!([]), "spec.rules[0].limits", Required),
        limit(
            "/spec/rules/0/limits",
            json!(
                (0..65)
                    .map(|n| json!({"match": {"exact": format!("v{n}")}, "tokens": 1, "window": "1m"}))
                    .collect::<Vec<_>>()
            ),
            "spec.rules[0].limits",
            TooMany,
        ),
        limit("/spec/rules/0/limits/0/tokens", json!(0), "spec.rules[0].limits[0].tokens", OutOfRange),
        limit(match0, json!({}), "spec.rules[0].limits[0].match", Excluded),
        limit(match0, json!({"exact": "a", "any": true}), "spec.rules[0].limits[0].match", Excluded),
        limit(match0, json!({"any": false}), "spec.rules[0].limits[0].match.any", Excluded),
        limit(match0, json!({"exact": ""}), "spec.rules[0].limits[0].match.exact", Required),
        limit(match0, json!({"exact": "e".repeat(254)}), "spec.rules[0].limits[0].match.exact", TooLong),
        limit(match0, json!({"exact": "a\nb"}), "spec.rules[0].limits[0].match.exact", Characters),
        limit(match0, json!({"cidr": "10.0.0.0/8"}), "spec.rules[0].limits", Excluded),
        limit("/spec/rules/1/limits/0/match", json!({"any": true}), "spec.rules[1].limits", Excluded),
        // models
        limit(
            "/spec",
            json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "models": [{"name": "a"}]}),
            "spec.rules",
            Required,
        ),
        limit("/spec/models/0/name", json!("a b"), "spec.models[0].name", Characters),
        limit("/spec/models/0/weights/output", json!(1001), "spec.models[0].weights.output", OutOfRange),
        limit("/spec/models/0/global/0/tokens", json!(0), "spec.models[0].global[0].tokens", OutOfRange),
        limit("/spec/models/0/global", json!([rate(1, "1m"), rate(2, "1m")]), "spec.models[0].global", Duplicate),
        limit("/spec/models/0/rules", rules(11), "spec.models[0].rules", TooMany),
        limit("/spec/models/0/rules/0/by", json!({}), "spec.models[0].rules[0].by", Excluded),
        limit("/spec/models/0/rules/0/overridesFrom", json!([source("Secret", "n")]), "spec.models[0].rules", Excluded),
        limit("/spec/models/0/defaultQuota", json!(5), "spec.models[0].defaultQuota", Unreadable),
        // limits of single values
        limit(
            "/spec/rules/0/overridesFrom",
            json!([source("ConfigMap", "n")]),
            "spec.rules[0].overridesFrom",
            Excluded,
        ),
        limit(
            "/spec/rules/0/overridesFrom",
            json!([source("Pod", "n")]),
            "spec.rules[0].overridesFrom[0].kind",
            Unreadable,
        ),
        limit(
            "/spec/rules/0/overridesFrom",
            json!([source("Secret", "")]),
            "spec.rules[0].overridesFrom[0].name",
            Required,
        ),
        limit(
            "/spec/rules/0/overridesFrom",
            json!([source("Secret", "Keys")]),
            "spec.rules[0].overridesFrom[0].name",
            Characters,
        ),
        limit(
            "/spec/rules/0/overridesFrom",
            json!([source("Secret", "n"), source("Secret", "n")]),
            "spec.rules[0].overridesFrom[1]",
            Duplicate,
        ),
        limit(
            "/spec/rules",
            json!([
                {"by": {"header": "a"}, "overridesFrom": (0..17).map(|n| source("Secret", &format!("n{n}"))).collect::<Vec<_>>()},
                {"by": {"header": "b"}, "overridesFrom": (0..16).map(|n| source("Secret", &format!("n{n}"))).collect::<Vec<_>>()},
            ]),
            "spec.rules",
            TooMany,
        ),
        limit("/spec/rules/0", json!({"by": {"header": "a"}, "overridesFrom": []}), "spec.rules[0].limits", Required),
        limit("/spec/rejection/code", json!(399), "spec.rejection.code", OutOfRange),
        limit("/spec/rejection/code", json!(600), "spec.rejection.code", OutOfRange),
        limit("/spec/rejection/message", json!("m".repeat(1_025)), "spec.rejection.message", TooLong),
        limit("/spec/rejection/message", json!("a\r\nb"), "spec.rejection.message", Characters),
        limit("/spec/paths", json!([]), "spec.paths", Required),
        // how requests end
        limit("/spec/mode", json!("Off"), "spec.mode", Unreadable),
        limit("/spec/onStoreFailure", json!("Pass"), "spec.onStoreFailure", Unreadable),
        limit("/spec/onMissingUsage", json!("Refuse"), "spec.onMissingUsage", Unreadable),
        limit("/spec/unlistedPaths", json!(true), "spec.unlistedPaths", Unreadable),
        limit("/spec/rateLimitHeaders", json!("true"), "spec.rateLimitHeaders", Unreadable),
        limit("/spec/includeUsage", json!("true"), "spec.includeUsage", Unreadable),
        limit("/spec/errors", json!("openai"), "spec.errors", Unreadable),
        limit("/spec/warnAt", json!(0), "spec.warnAt", OutOfRange),
        limit("/spec/warnAt", json!(101), "spec.warnAt", OutOfRange),
        limit("/spec/warnAt", json!(256), "spec.warnAt", Unreadable),
        limit("/spec/warnAt", json!("80"), "spec.warnAt", Unreadable),
    ];
    let template = "x${secret.higress-system/redis-auth.password}";
    cases.push(limit(match0, json!({"exact": template}), "spec.rules[0].limits[0].match.exact", Characters));
    cases.push(limit("/spec/rejection/message", json!(template), "spec.rejection.message", Characters));
    for pattern in ["(", "a**", "[z-a]", "\\8", "a{1001}", "(?=a)", "x${1}"] {
        cases.push(limit(match0, json!({"pattern": pattern}), "spec.rules[0].limits[0].match.pattern", Characters));
    }
    for window in ["", "1", "0s", "01s", "1.5h", "1w", "-1s", "s", "12345678s", "1m30s", "100ms"] {
        cases.push(limit("/spec/global/0/window", json!(window), "spec.global[0].window", Characters));
    }
    for network in
        ["10.0.0.0/33", "10.0.0", "x", "10.0.0.0/", "10.0.0.0/08", "::ffff:10.0.0.1", "010.0.0.1", "fe80::1%eth0"]
    {
        let field = "spec.rules[1].limits[0].match.cidr";
        cases.push(limit("/spec/rules/1/limits/0/match", json!({"cidr": network}), field, Characters));
    }
    cases
}
