//! What is refused and what is not: a valid object with one thing changed, the field that must be named and why.
//! One table for the planner (tests/refusals.rs) and for the real API server (tests/tests/e2e/refusals.rs).

use plan::Refused;
use serde_json::{Value, json};

mod limits;
mod models;

pub(crate) struct Case {
    /// The JSON pointer of what is changed in the valid object.
    at: &'static str,
    /// What is put there.
    pub(crate) to: Value,
    pub(crate) kind: Kind,
    /// The field that both must name.
    pub(crate) field: &'static str,
    /// Why the planner refuses it.
    pub(crate) reason: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Quota,
    Limit,
    Store,
}

impl Case {
    pub(crate) fn object(&self) -> Value {
        put(valid(self.kind), self.at, self.to.clone())
    }

    /// For messages: what was changed, without the whole of a long value.
    pub(crate) fn name(&self) -> String {
        let value: String = self.to.to_string().chars().take(60).collect();
        format!("{:?} {} = {value}", self.kind, self.at)
    }
}

pub(crate) fn valid(kind: Kind) -> Value {
    match kind {
        Kind::Quota => json!({
            "apiVersion": "quota.higress.io/v1alpha1",
            "kind": "AIQuota",
            "metadata": {"name": "chat", "namespace": "higress-system"},
            "spec": {
                "targetRefs": [{"kind": "Ingress", "name": "qwen"}, {"kind": "Domain", "name": "ai.example.com"}],
                "storeRef": {"name": "default"},
                "keyPrefix": "chat_quota:",
                "admin": {"consumer": "admin", "path": "/quota"},
                "consumers": [{"name": "user1", "quota": 10000}, {"name": "user2", "unlimited": true}],
                "defaultQuota": 1000,
                "refresh": {"schedule": "0 0 * * *", "timeZone": "Asia/Shanghai", "mode": "CarryOver", "maxBalance": 5000},
                "models": models::valid(),
                "paths": ["/v1/chat/completions", ":generateContent"],
                "admission": "Reserve",
                "reservation": {"defaultMaxTokens": 1000},
                "mode": "Enforce",
                "onStoreFailure": "Refuse",
                "onMissingUsage": "Estimate",
                "unlistedPaths": "Admit",
                "rateLimitHeaders": true,
                "errors": "Text",
                "includeUsage": true,
                "warnAt": 80,
            },
        }),
        Kind::Limit => limits::valid(),
        Kind::Store => json!({
            "apiVersion": "quota.higress.io/v1alpha1",
            "kind": "AIQuotaStore",
            "metadata": {"name": "default", "namespace": "higress-system"},
            "spec": {
                "service": {"name": "local-redis.static", "port": 80},
                "address": "redis://10.0.0.7:6379",
                "database": 0,
                "timeout": "1s",
                "auth": {"secretName": "redis-auth", "usernameKey": "username", "passwordKey": "password"},
            },
        }),
    }
}

/// Valid objects: changes that neither may refuse.
pub(crate) fn accepted() -> Vec<(Kind, Value)> {
    let quota = |at: &'static str, to: Value| (Kind::Quota, put(valid(Kind::Quota), at, to));
    let store = |at: &'static str, to: Value| (Kind::Store, put(valid(Kind::Store), at, to));
    let many = |count: usize| (0..count).map(|n| json!({"name": format!("user{n}"), "quota": n})).collect::<Vec<_>>();
    let mut all = limits::accepted();
    all.extend(models::accepted());
    all.extend([
        (Kind::Quota, valid(Kind::Quota)),
        (Kind::Store, valid(Kind::Store)),
        quota("/spec", json!({"targetRefs": [{"kind": "Gateway"}]})),
        quota("/spec/targetRefs", json!([{"kind": "HTTPRoute", "name": "r"}, {"kind": "Ingress", "name": "r"}])),
        quota(
            "/spec/targetRefs",
            json!(
                (0..16)
                    .map(|n| json!({"kind": "Service", "name": format!("s{n}.a.svc.cluster.local")}))
                    .collect::<Vec<_>>()
            ),
        ),
        quota("/spec/targetRefs/1/name", json!("*.example.com")),
        quota("/spec/targetRefs/0/name", json!("n".repeat(253))),
        quota("/spec/allowNarrower", json!(true)),
        quota("/spec/allowNarrower", json!(false)),
        quota("/spec", json!({"targetRefs": [{"kind": "Gateway"}], "allowNarrower": true})),
        quota("/spec/keyPrefix", json!("!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az|~")),
        quota("/spec/keyPrefix", json!("p".repeat(128))),
        quota("/spec/keyPrefix", json!("aiquotas")),
        quota("/spec/keyPrefix", json!("q")),
        quota("/spec/keyPrefix", json!(null)),
        quota("/spec/consumers", json!(null)),
        quota("/spec/consumers", json!([])),
        quota("/spec/consumers", json!(many(10_000))),
        quota("/spec/consumers/0/name", json!("!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az|~")),
        quota("/spec/consumers/0/name", json!("n".repeat(253))),
        quota("/spec/consumers/0/quota", json!(0)),
        quota("/spec/consumers/0/quota", json!(9_007_199_254_740_991_i64)),
        quota("/spec/consumers/0/unlimited", json!(false)),
        quota("/spec/defaultQuota", json!(0)),
        quota("/spec/refresh", json!(null)),
        quota("/spec/refresh", json!({"schedule": "@hourly"})),
        quota("/spec/refresh", json!({"schedule": "@annually", "mode": "Reset"})),
        quota("/spec/refresh", json!({"schedule": "@midnight", "mode": "Add", "maxBalance": null})),
        quota("/spec/refresh/schedule", json!("0,30 */6,9-17/2  1-31 JAN,mar-12 MON-sun")),
        quota("/spec/refresh/schedule", json!("59 23 31 12 7")),
        quota("/spec/refresh/schedule", json!("* * * * *")),
        quota("/spec/refresh/schedule", json!("0 0 29 2 *")),
        quota("/spec/refresh/schedule", json!("00 09 01 02 05")),
        quota("/spec/refresh/timeZone", json!("UTC")),
        quota("/spec/refresh/timeZone", json!("America/Argentina/Buenos_Aires")),
        quota("/spec/refresh/timeZone", json!("Etc/GMT+8")),
        quota("/spec/refresh/timeZone", json!("Asia/Calcutta")),
        quota("/spec/refresh/maxBalance", json!(0)),
        quota("/spec/refresh/maxBalance", json!(9_007_199_254_740_991_i64)),
        quota("/spec/admin/path", json!("/quota/v2:x")),
        quota("/spec/paths", json!((0..32).map(|n| format!("/v{n}")).collect::<Vec<_>>())),
        quota("/spec/paths/0", json!("/".to_owned() + &"p".repeat(127))),
        quota("/spec/reservation/defaultMaxTokens", json!(1)),
        quota("/spec/reservation/defaultMaxTokens", json!(9_007_199_254_740_991_i64)),
        quota("/spec/mode", json!("Observe")),
        quota("/spec/mode", json!(null)),
        quota("/spec/onStoreFailure", json!("Admit")),
        quota("/spec/onStoreFailure", json!(null)),
        quota("/spec/onMissingUsage", json!("Ignore")),
        quota("/spec/onMissingUsage", json!(null)),
        quota("/spec/unlistedPaths", json!("Refuse")),
        quota("/spec/rateLimitHeaders", json!(false)),
        quota("/spec/includeUsage", json!(false)),
        quota("/spec/includeUsage", json!(null)),
        quota("/spec/rateLimitHeaders", json!(null)),
        quota("/spec/errors", json!("OpenAI")),
        quota("/spec/errors", json!("Anthropic")),
        quota("/spec/errors", json!(null)),
        quota("/spec/warnAt", json!(1)),
        quota("/spec/warnAt", json!(100)),
        quota("/spec/warnAt", json!(null)),
        quota("/spec/unlistedPaths", json!(null)),
        store("/spec", json!({"service": {"name": "redis.infra.svc.cluster.local"}})),
        store("/spec/service/port", json!(65535)),
        store("/spec/address", json!("redis://[fd00::7]:6379")),
        store("/spec/address", json!("redis://redis-0.redis.infra.svc:6379")),
        store("/spec/database", json!(65535)),
        store("/spec/timeout", json!("10ms")),
        store("/spec/timeout", json!("60s")),
        store("/spec/timeout", json!("60000ms")),
        store("/spec/auth/passwordKey", json!("REDIS_PASSWORD-1")),
    ]);
    all
}

pub(crate) fn refused() -> Vec<Case> {
    use Refused::{Characters, Duplicate, Excluded, OutOfRange, Required, TooLong, TooMany, Unknown, Unreadable};
    let quota = |at, to, field, reason| Case { at, to, kind: Kind::Quota, field, reason };
    let store = |at, to, field, reason| Case { at, to, kind: Kind::Store, field, reason };
    let long = || json!("n".repeat(10_000));
    let mut cases = vec![
        // what there is not, or is of another type
        quota("/spec/surprise", json!("Observe"), "spec.surprise", Unreadable),
        quota("/spec/consumers/0/model", json!("qwen-max"), "spec.consumers[0].model", Unreadable),
        quota("/spec/consumers/0/quota", json!("10000"), "spec.consumers[0].quota", Unreadable),
        quota("/spec/consumers/0/quota", json!(1.5), "spec.consumers[0].quota", Unreadable),
        quota("/spec/consumers/0/quota", json!(null), "spec.consumers[0]", Excluded),
        quota("/spec/targetRefs/0/kind", json!("Pod"), "spec.targetRefs[0].kind", Unreadable),
        quota("/spec/targetRefs", json!("Gateway"), "spec.targetRefs", Unreadable),
        // amounts
        quota("/spec/consumers/0/quota", json!(-1), "spec.consumers[0].quota", OutOfRange),
        quota("/spec/consumers/0/quota", json!(1_i64 << 53), "spec.consumers[0].quota", OutOfRange),
        quota("/spec/consumers/0/quota", json!(i64::MAX), "spec.consumers[0].quota", OutOfRange),
        quota("/spec/consumers/0/quota", json!(1_u64 << 63), "spec.consumers[0].quota", Unreadable),
        quota("/spec/consumers/0/quota", json!(1e30), "spec.consumers[0].quota", Unreadable),
        quota("/spec/defaultQuota", json!(-1), "spec.defaultQuota", OutOfRange),
        quota("/spec/defaultQuota", json!(1_i64 << 53), "spec.defaultQuota", OutOfRange),
        quota("/spec/defaultQuota", json!(1_u64 << 63), "spec.defaultQuota", Unreadable),
        // consumers
        quota("/spec/consumers/1/unlimited", json!(false), "spec.consumers[1]", Excluded),
        quota("/spec/consumers/0/unlimited", json!(true), "spec.consumers[0]", Excluded),
        quota("/spec/consumers/1", json!({"name": "user2"}), "spec.consumers[1]", Excluded),
        quota("/spec/consumers/1", json!({"name": "user1", "quota": 1}), "spec.consumers[1]", Duplicate),
        quota(
            "/spec/consumers",
            json!((0..10_001).map(|n| json!({"name": format!("u{n}"), "quota": 1})).collect::<Vec<_>>()),
            "spec.consumers",
            TooMany,
        ),
        // targets
        quota("/spec/targetRefs", json!([]), "spec.targetRefs", Required),
        quota(
            "/spec/targetRefs",
            json!((0..17).map(|n| json!({"kind": "Ingress", "name": format!("i{n}")})).collect::<Vec<_>>()),
            "spec.targetRefs",
            TooMany,
        ),
        quota("/spec/targetRefs/1", json!({"kind": "Ingress", "name": "qwen"}), "spec.targetRefs", Duplicate),
        quota("/spec/targetRefs/0", json!({"kind": "Ingress"}), "spec.targetRefs[0].name", Required),
        quota("/spec/targetRefs/0/name", json!(""), "spec.targetRefs[0].name", Required),
        quota("/spec/targetRefs/0", json!({"kind": "Gateway", "name": "all"}), "spec.targetRefs[0].name", Excluded),
        quota("/spec/targetRefs/0/name", json!("*.example.com"), "spec.targetRefs[0].name", Characters),
        quota("/spec/targetRefs/0/name", json!("other/qwen"), "spec.targetRefs[0].name", Characters),
        quota("/spec/targetRefs/0/name", json!("Qwen"), "spec.targetRefs[0].name", Characters),
        quota("/spec/targetRefs/1/name", json!("*"), "spec.targetRefs[1].name", Characters),
        quota("/spec/targetRefs/1/name", json!("ai.*.com"), "spec.targetRefs[1].name", Characters),
        quota("/spec/targetRefs/0/name", long(), "spec.targetRefs[0].name", TooLong),
        quota(
            "/spec",
            json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "allowNarrower": true}),
            "spec.allowNarrower",
            Excluded,
        ),
        quota("/spec/allowNarrower", json!("true"), "spec.allowNarrower", Unreadable),
        // refresh
        quota("/spec/refresh", json!("@daily"), "spec.refresh", Unreadable),
        quota("/spec/refresh/every", json!("1h"), "spec.refresh.every", Unreadable),
        quota("/spec/refresh/schedule", json!(""), "spec.refresh.schedule", Required),
        quota("/spec/refresh/schedule", json!("0 0 1 * * ".repeat(13)), "spec.refresh.schedule", TooLong),
        quota("/spec/refresh/schedule", json!("0 0 * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 0 * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 * * * 2027"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("@fortnightly"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("@DAILY"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("60 0 * * *"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 24 * * *"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 0 0 * *"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 0 32 * *"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 0 * 13 *"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 0 * * 8"), "spec.refresh.schedule", OutOfRange),
        quota("/spec/refresh/schedule", json!("0 0 L * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 15W * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 ? * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 * * 1#2"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 * * +1"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 1,,2 * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 5/2 * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("*/0 * * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("000 0 * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("MON 0 * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0\t0 * * *"), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/schedule", json!("0 0 * * * "), "spec.refresh.schedule", Characters),
        quota("/spec/refresh/timeZone", json!(""), "spec.refresh.timeZone", Required),
        quota("/spec/refresh/timeZone", json!("Europe/".repeat(10)), "spec.refresh.timeZone", TooLong),
        quota("/spec/refresh/timeZone", json!("Local"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("Europe/Atlantis"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("europe/berlin"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("utc"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("CEST"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("+08:00"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/timeZone", json!("../Europe/Berlin"), "spec.refresh.timeZone", Unknown),
        quota("/spec/refresh/mode", json!("reset"), "spec.refresh.mode", Unreadable),
        quota("/spec/refresh/mode", json!("Reset"), "spec.refresh.maxBalance", Excluded),
        quota("/spec/refresh/mode", json!("Add"), "spec.refresh.maxBalance", Excluded),
        quota("/spec/refresh/mode", json!(null), "spec.refresh.maxBalance", Excluded),
        quota("/spec/refresh/maxBalance", json!(null), "spec.refresh.maxBalance", Required),
        quota("/spec/refresh/maxBalance", json!(-1), "spec.refresh.maxBalance", OutOfRange),
        quota("/spec/refresh/maxBalance", json!(1_i64 << 53), "spec.refresh.maxBalance", OutOfRange),
        // prefix, store, admin, paths
        quota("/spec/keyPrefix", json!("aiquota:other/Ingress/x:"), "spec.keyPrefix", Excluded),
        quota("/spec/keyPrefix", json!("aiquota"), "spec.keyPrefix", Excluded),
        quota("/spec/keyPrefix", json!("a"), "spec.keyPrefix", Excluded),
        quota("/spec/keyPrefix", json!("p".repeat(129)), "spec.keyPrefix", TooLong),
        quota("/spec/storeRef/name", json!(""), "spec.storeRef.name", Required),
        quota("/spec/storeRef/name", json!("a b"), "spec.storeRef.name", Characters),
        quota("/spec/admin/path", json!("quota"), "spec.admin.path", Characters),
        quota("/spec/admin/path", json!("/"), "spec.admin.path", Characters),
        quota("/spec/admin/path", json!("/quota?x=1"), "spec.admin.path", Characters),
        quota("/spec/paths", json!([]), "spec.paths", Required),
        quota("/spec/paths", json!((0..33).map(|n| format!("/v{n}")).collect::<Vec<_>>()), "spec.paths", TooMany),
        quota("/spec/paths/0", json!("v1/chat/completions"), "spec.paths[0]", Characters),
        quota("/spec/paths/0", json!("/v1#x"), "spec.paths[0]", Characters),
        quota("/spec/paths/1", json!("/v1/chat/completions"), "spec.paths[1]", Duplicate),
        quota("/spec/paths/1", json!("/quota"), "spec.admin", Excluded),
        quota("/spec/paths/1", json!("/delta"), "spec.admin", Excluded),
        // when requests are admitted
        quota("/spec/admission", json!("Hold"), "spec.admission", Unreadable),
        quota("/spec/admission", json!("Check"), "spec.reservation", Excluded),
        quota("/spec/admission", json!(null), "spec.reservation", Excluded),
        quota("/spec/reservation", json!(null), "spec.reservation", Required),
        quota("/spec/reservation", json!(1000), "spec.reservation", Unreadable),
        quota("/spec/reservation/defaultMaxTokens", json!(0), "spec.reservation.defaultMaxTokens", OutOfRange),
        quota(
            "/spec/reservation/defaultMaxTokens",
            json!(1_i64 << 53),
            "spec.reservation.defaultMaxTokens",
            OutOfRange,
        ),
        // how requests end
        quota("/spec/mode", json!("Off"), "spec.mode", Unreadable),
        quota("/spec/onStoreFailure", json!("Pass"), "spec.onStoreFailure", Unreadable),
        quota("/spec/onStoreFailure", json!("admit"), "spec.onStoreFailure", Unreadable),
        quota("/spec/onMissingUsage", json!("Refuse"), "spec.onMissingUsage", Unreadable),
        quota("/spec/rateLimitHeaders", json!("true"), "spec.rateLimitHeaders", Unreadable),
        quota("/spec/includeUsage", json!("true"), "spec.includeUsage", Unreadable),
        quota("/spec/errors", json!("openai"), "spec.errors", Unreadable),
        quota("/spec/warnAt", json!(0), "spec.warnAt", OutOfRange),
        quota("/spec/warnAt", json!(101), "spec.warnAt", OutOfRange),
        quota("/spec/warnAt", json!(256), "spec.warnAt", Unreadable),
        quota("/spec/warnAt", json!("80"), "spec.warnAt", Unreadable),
        quota("/spec/unlistedPaths", json!(true), "spec.unlistedPaths", Unreadable),
        // stores
        store("/spec/caSecret", json!("ca"), "spec.caSecret", Unreadable),
        store("/spec/service/name", json!(""), "spec.service.name", Required),
        store("/spec/service/name", json!("local redis.static"), "spec.service.name", Characters),
        store("/spec/service/name", json!("a|b"), "spec.service.name", Characters),
        store("/spec/service/name", long(), "spec.service.name", TooLong),
        store("/spec/service/port", json!(0), "spec.service.port", OutOfRange),
        store("/spec/service/port", json!(65536), "spec.service.port", Unreadable),
        store("/spec/address", json!("rediss://10.0.0.7:6379"), "spec.address", Characters),
        store("/spec/address", json!("redis://10.0.0.7"), "spec.address", Characters),
        store("/spec/address", json!("redis://user:secret@10.0.0.7:6379"), "spec.address", Characters),
        store("/spec/address", json!("redis://10.0.0.7:6379/1"), "spec.address", Characters),
        store("/spec/database", json!(-1), "spec.database", Unreadable),
        store("/spec/database", json!(65536), "spec.database", OutOfRange),
        store("/spec/timeout", json!("1"), "spec.timeout", Characters),
        store("/spec/timeout", json!("0s"), "spec.timeout", Characters),
        store("/spec/timeout", json!("1m"), "spec.timeout", Characters),
        store("/spec/timeout", json!("9ms"), "spec.timeout", OutOfRange),
        store("/spec/timeout", json!("61s"), "spec.timeout", OutOfRange),
        store("/spec/auth/secretName", json!("redis.auth"), "spec.auth.secretName", Characters),
        store("/spec/auth/passwordKey", json!("pass.word"), "spec.auth.passwordKey", Characters),
    ];
    cases.extend(limits::refused());
    cases.extend(models::refused());
    // Everything that a user chooses and that reaches Redis or the gateway, with what must never get there.
    let free = [
        ("/spec/consumers/0/name", "spec.consumers[0].name", Kind::Quota, ""),
        ("/spec/keyPrefix", "spec.keyPrefix", Kind::Quota, ""),
        ("/spec/admin/consumer", "spec.admin.consumer", Kind::Quota, ""),
        ("/spec/admin/path", "spec.admin.path", Kind::Quota, "/"),
        ("/spec/paths/0", "spec.paths[0]", Kind::Quota, "/"),
        ("/spec/targetRefs/0/name", "spec.targetRefs[0].name", Kind::Quota, ""),
        ("/spec/targetRefs/1/name", "spec.targetRefs[1].name", Kind::Quota, ""),
        ("/spec/storeRef/name", "spec.storeRef.name", Kind::Quota, ""),
        ("/spec/ruleName", "spec.ruleName", Kind::Limit, ""),
        ("/spec/targetRefs/0/name", "spec.targetRefs[0].name", Kind::Limit, ""),
        ("/spec/storeRef/name", "spec.storeRef.name", Kind::Limit, ""),
        ("/spec/paths/0", "spec.paths[0]", Kind::Limit, "/"),
        ("/spec/rules/0/by/header", "spec.rules[0].by.header", Kind::Limit, ""),
        ("/spec/rules/1/by/ip/fromHeader", "spec.rules[1].by.ip.fromHeader", Kind::Limit, ""),
        ("/spec/service/name", "spec.service.name", Kind::Store, ""),
        ("/spec/address", "spec.address", Kind::Store, "redis://"),
        ("/spec/timeout", "spec.timeout", Kind::Store, ""),
        ("/spec/auth/secretName", "spec.auth.secretName", Kind::Store, ""),
        ("/spec/auth/usernameKey", "spec.auth.usernameKey", Kind::Store, ""),
        ("/spec/auth/passwordKey", "spec.auth.passwordKey", Kind::Store, ""),
    ];
    let hostile = [
        "${secret.higress-system/redis-auth.password}",
        "{tag}",
        "a}b",
        "a{b",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\nb",
        "a\n",
        "a\u{0}b",
        "a\u{7f}b",
        "ä",
        "用户",
    ];
    for (at, field, kind, begin) in free {
        cases.extend(hostile.map(|text| Case {
            at,
            to: json!(format!("{begin}{text}")),
            kind,
            field,
            reason: Characters,
        }));
        let reason = if field == "spec.timeout" || field == "spec.address" { Characters } else { TooLong };
        cases.push(Case { at, to: json!(format!("{begin}{}", "n".repeat(10_000))), kind, field, reason });
    }
    cases
}

/// Replaces, adds or (at the end of a list) appends what a JSON pointer names.
fn put(mut object: Value, at: &str, to: Value) -> Value {
    let (parent, key) = at.rsplit_once('/').expect("a pointer");
    match object.pointer_mut(parent).expect("the parent exists") {
        Value::Object(map) => drop(map.insert(key.to_owned(), to)),
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = to,
        other => panic!("{parent} is {other}"),
    }
    object
}
