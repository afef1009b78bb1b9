//! The table's part on models of an AIQuota.

use plan::Refused;
use serde_json::{Value, json};

use super::{Case, Kind, put};

pub(super) fn valid() -> Value {
    json!([
        {
            "name": "gpt-4o",
            "weights": {"input": 1, "output": 4, "cachedInput": 0, "reasoning": 4},
            "consumers": [{"name": "user1", "quota": 500}, {"name": "user2", "unlimited": true}],
            "defaultQuota": 10,
        },
        {"name": "claude-*", "weights": {"output": 5}},
    ])
}

fn many(count: usize) -> Value {
    json!((0..count).map(|n| json!({"name": format!("m{n}*")})).collect::<Vec<_>>())
}

pub(super) fn accepted() -> Vec<(Kind, Value)> {
    let quota = |at: &'static str, to: Value| (Kind::Quota, put(super::valid(Kind::Quota), at, to));
    vec![
        quota("/spec/models", json!(null)),
        quota("/spec/models", json!([])),
        quota("/spec/models", many(32)),
        quota("/spec/models", json!([{"name": "*"}])),
        quota("/spec/models/0/name", json!("!\"#$%&'()+,-./09:;<=>?@AZ[\\]^_`az|~")),
        quota("/spec/models/0/name", json!("n".repeat(128))),
        quota("/spec/models/0/name", json!("n".repeat(127) + "*")),
        quota("/spec/models/0/name", json!("publishers/models/x")),
        quota("/spec/models/0/weights", json!({"input": 0, "output": 0})),
        quota("/spec/models/0/weights", json!({"input": 1000, "reasoning": 0})),
        quota("/spec/models/0/weights", json!({})),
        quota("/spec/models/0/weights", json!(null)),
        quota("/spec/models/0/consumers", json!([])),
        quota("/spec/models/0/consumers", json!(null)),
        quota("/spec/models/0/defaultQuota", json!(0)),
        quota("/spec/models/0/defaultQuota", json!(null)),
    ]
}

pub(super) fn refused() -> Vec<Case> {
    use Refused::{Characters, Duplicate, Excluded, OutOfRange, Required, TooLong, TooMany, Unreadable};
    let quota = |at, to, field, reason| Case { at, to, kind: Kind::Quota, field, reason };
    let name = |name: &str, reason| quota("/spec/models/0/name", json!(name), "spec.models[0].name", reason);
    let weight = |at, weight: Value, field, reason| quota(at, weight, field, reason);
    let mut cases = vec![
        quota("/spec/models", many(33), "spec.models", TooMany),
        quota("/spec/models", json!([{"name": "a"}, {"name": "b"}, {"name": "a"}]), "spec.models[2]", Duplicate),
        quota("/spec/models/0/global", json!([]), "spec.models[0].global", Unreadable),
        name("", Required),
        name(&"n".repeat(129), TooLong),
        weight("/spec/models/0/weights/input", json!(1001), "spec.models[0].weights.input", OutOfRange),
        weight("/spec/models/0/weights/output", json!(1001), "spec.models[0].weights.output", OutOfRange),
        weight("/spec/models/0/weights/cachedInput", json!(1001), "spec.models[0].weights.cachedInput", OutOfRange),
        weight("/spec/models/0/weights/reasoning", json!(1001), "spec.models[0].weights.reasoning", OutOfRange),
        weight("/spec/models/0/weights/output", json!(1.5), "spec.models[0].weights.output", Unreadable),
        weight("/spec/models/0/weights/output", json!("3"), "spec.models[0].weights.output", Unreadable),
        weight("/spec/models/0/weights/total", json!(1), "spec.models[0].weights.total", Unreadable),
        quota("/spec/models/0/consumers/0/quota", json!(-1), "spec.models[0].consumers[0].quota", OutOfRange),
        quota("/spec/models/0/consumers/0/name", json!("a b"), "spec.models[0].consumers[0].name", Characters),
        quota("/spec/models/0/consumers/0/unlimited", json!(true), "spec.models[0].consumers[0]", Excluded),
        quota("/spec/models/0/defaultQuota", json!(1_i64 << 53), "spec.models[0].defaultQuota", OutOfRange),
        quota(
            "/spec/models/0/consumers",
            json!([{"name": "a", "quota": 1}, {"name": "a", "quota": 2}]),
            "spec.models[0].consumers[1]",
            Duplicate,
        ),
    ];
    cases.extend(["a b", "a*b", "**", "*a", "a{b}", "modèle", "models/gemini"].map(|text| name(text, Characters)));
    cases
}
