//! Values and patterns that are meant to cost a gateway or its store much.

use super::*;
use crate::values::{KEPT_MAX, PATTERNS_SIZE_MAX, TRIED_MAX};

fn rules(matches: &[Value]) -> Value {
    let limits: Vec<_> =
        matches.iter().map(|matches| json!({"match": matches, "tokens": 5, "windowSeconds": 60})).collect();
    native(json!({"rules": [{"by": {"header": "k"}, "limits": limits}]}))
}

fn asked(length: usize) -> Asked {
    let value: &'static str = "v".repeat(length).leak();
    Asked::with(&[("k", value)])
}

#[test]
fn a_value_that_is_too_long_for_patterns_is_refused_and_neither_passes_nor_falls_to_another_limit() {
    let (pattern, any) = (json!({"pattern": "^vip"}), json!("any"));
    let config = rules(&[pattern.clone(), any.clone()]);
    assert!(matches!(start(&config, &asked(TRIED_MAX)), Step::Ask(_)));
    for config in [&config, &rules(std::slice::from_ref(&pattern))] {
        let Step::Refuse(response) = start(config, &asked(TRIED_MAX + 1)) else { panic!() };
        assert_eq!((response.status, response.details), (403, "ai-token-ratelimit.value_too_long"));
    }
    let exact = json!({"exact": "vip"});
    for config in [rules(&[any.clone(), pattern]), rules(&[exact.clone(), any])] {
        assert!(matches!(start(&config, &asked(60_000)), Step::Ask(_)), "no pattern is tried");
    }
    assert_eq!(start(&rules(&[exact]), &asked(60_000)), Step::Pass, "it is none of the values");
    let items = json!({"rule_items": [
        {"limit_by_per_header": "k", "limit_keys": [{"key": "regexp:^v", "token_per_minute": 5}]}
    ]});
    assert!(matches!(start(&upstream(items), &asked(60_000)), Step::Ask(_)), "upstream tries any");
}

#[test]
fn what_a_request_sends_and_the_store_keeps_is_bounded() {
    let sent = |length| ask(&rules(&[json!("any")]), &asked(length)).call.command.len();
    assert_eq!(sent(KEPT_MAX + 1), sent(60_000));
    assert!(sent(60_000) < sent(KEPT_MAX));
}

#[test]
fn patterns_are_bounded_together_and_so_are_the_limits_of_one_match() {
    let error = |config: &Value| match start(config, &Asked::with(&[("k", "v")])) {
        Step::Refuse(response) => response.body.into_owned(),
        other => panic!("{other:?}"),
    };
    let works = |config: &Value| assert!(!matches!(start(config, &Asked::with(&[("k", "v")])), Step::Refuse(_)));
    let large = |n: usize| json!({"pattern": format!("^{n}[a-z]{{200}}$")});
    let one = pattern::Pattern::new("^1[a-z]{200}$").unwrap().size();
    let fit = PATTERNS_SIZE_MAX / one;
    assert!((2..32).contains(&fit), "{one}");
    let patterns = |count: usize| rules(&(0..count).map(large).collect::<Vec<_>>());
    works(&patterns(fit));
    assert!(error(&patterns(fit + 1)).contains("aiquota.policies.p.rules have patterns that are too large together"));
    // They are tried one after the other, whichever rule and model they stand with.
    let mut apart = patterns(fit);
    apart["aiquota"]["policies"]["p"]["models"] = json!([{"name": "m", "rules": [
        {"by": {"param": "k"}, "limits": [{"match": large(0), "tokens": 5, "windowSeconds": 60}]}
    ]}]);
    assert!(error(&apart).contains("aiquota.policies.p.rules have patterns that are too large together"));

    let windows = |count: u32| {
        let limit = |n| json!({"match": "any", "tokens": 5, "windowSeconds": n});
        let limits: Vec<_> = (1..=count).map(limit).collect();
        native(json!({"rules": [{"by": {"header": "k"}, "limits": limits}]}))
    };
    works(&windows(10));
    assert!(error(&windows(11)).contains("aiquota.policies.p.rules[0].limits are too many of one match"));
}
