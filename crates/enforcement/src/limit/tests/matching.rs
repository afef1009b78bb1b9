//! Which counters a request is asked for.

use super::*;

fn none() -> Vec<(String, String)> {
    Vec::new()
}

fn some(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(key, tokens)| ((*key).to_owned(), (*tokens).to_owned())).collect()
}

#[test]
fn a_global_threshold_counts_every_request_on_every_path() {
    let keys = json!({"global_threshold": {"token_per_hour": 100}});
    for path in [PATH, "/", "/any?x=y"] {
        let asked = Asked::to(path, &[]);
        assert_eq!(counters(&upstream(keys.clone()), &asked), some(&[("{r}:global_threshold:3600", "100")]));
        assert_eq!(counters(&v1(keys.clone()), &asked), some(&[("r:global_threshold:3600", "100")]));
    }
}

#[test]
fn each_limiter_takes_its_value_from_its_place() {
    let exact = |limiter: &str, name: &str, key: &str| {
        upstream(json!({"rule_items": [{limiter: name, "limit_keys": [{"key": key, "token_per_minute": 5}]}]}))
    };
    for (limiter, name, key, shown) in [
        ("limit_by_header", "X-Api-Key", "vip", "limit_by_header:60:X-Api-Key:vip"),
        ("limit_by_param", "apikey", "a b", "limit_by_param:60:apikey:a b"),
        ("limit_by_cookie", "sid", "a=b=", "limit_by_cookie:60:sid:a=b="),
        ("limit_by_consumer", "", "user1", "limit_by_consumer:60:x-mse-consumer:user1"),
        ("limit_by_per_header", "x-api-key", "*", "limit_by_per_header:60:x-api-key:vip"),
        ("limit_by_per_param", "apikey", "regexp:^a", "limit_by_per_param:60:apikey:a b"),
        ("limit_by_per_cookie", "sid", "regexp:=$", "limit_by_per_cookie:60:sid:a=b="),
        ("limit_by_per_consumer", "", "*", "limit_by_per_consumer:60:x-mse-consumer:user1"),
        ("limit_by_per_ip", "from-remote-addr", "10.0.0.0/8", "limit_by_per_ip:60:from-remote-addr:10.0.0.1"),
        ("limit_by_per_ip", "from-header-X-Real-IP", "::/0", "limit_by_per_ip:60:from-header-X-Real-IP:fd00::1"),
    ] {
        let config = exact(limiter, name, key);
        let hit = Asked::to(
            "/x?z=%zz&apikey=a+%62&apikey=c",
            &[
                ("x-api-key", "vip"),
                ("x-api-key", "other"),
                ("x-mse-consumer", "user1"),
                ("x-mse-consumer", "user1"),
                ("cookie", "other=1; sid=a=b=; sid=c"),
                ("x-real-ip", " [FD00::1]:80, 10.0.0.2"),
            ],
        );
        assert_eq!(counters(&config, &hit), some(&[(&format!("{{r}}:{shown}"), "5")]), "{limiter}");
        let miss = Asked::to(
            "/x?apikey=%zz&other=a",
            &[
                ("x-other", "vip"),
                ("cookie", "sidx=a; sid; xsid=b; sid=; sid=a=b="),
                ("x-real-ip", "unknown, 10.0.0.2"),
            ],
        );
        let miss = Asked { source: None, ..miss };
        assert_eq!(counters(&config, &miss), none(), "{limiter}");
    }
}

#[test]
fn within_an_item_the_first_key_that_matches_counts() {
    let item = json!({"rule_items": [{"limit_by_per_header": "k", "limit_keys": [
        {"key": "regexp:^a", "token_per_minute": 1},
        {"key": "*", "token_per_hour": 2},
        {"key": "regexp:b", "token_per_minute": 3},
    ]}]});
    for config in [upstream(item.clone()), v1(item)] {
        let of = |value: &str| counters(&config, &Asked::with(&[("k", value)])).pop().unwrap();
        assert!(of("ab").0.ends_with(":limit_by_per_header:60:k:ab"));
        assert_eq!(of("ab").1, "1");
        assert!(of("b").0.ends_with(":3600:k:b"));
        assert!(of("").0.ends_with(":3600:k:"), "an empty header is there");
        assert_eq!(counters(&config, &Asked::with(&[])), none());
    }
    let networks = upstream(json!({"rule_items": [{"limit_by_per_ip": "from-remote-addr", "limit_keys": [
        {"key": "10.0.0.0/8", "token_per_minute": 1}, {"key": "10.0.0.1", "token_per_minute": 2},
    ]}]}));
    assert_eq!(counters(&networks, &Asked::with(&[]))[0].1, "1");
    let exact = upstream(json!({"rule_items": [{"limit_by_header": "k", "limit_keys": [
        {"key": "a", "token_per_minute": 1}, {"key": "a", "token_per_minute": 2}, {"key": "*", "token_per_minute": 3},
    ]}]}));
    assert_eq!(counters(&exact, &Asked::with(&[("k", "a")])), some(&[("{r}:limit_by_header:60:k:a", "1")]));
    assert_eq!(counters(&exact, &Asked::with(&[("k", "*")])), some(&[("{r}:limit_by_header:60:k:*", "3")]));
    assert_eq!(counters(&exact, &Asked::with(&[("k", "b")])), none());
}

fn two_items() -> Value {
    let item = |limiter: &str, name: &str, tokens| json!({limiter: name, "limit_keys": [{"key": "*", "token_per_minute": tokens}]});
    json!({"rule_items": [item("limit_by_per_header", "a", 1), item("limit_by_per_param", "b", 2)]})
}

#[test]
fn the_second_generation_asks_for_every_item_and_the_first_for_one() {
    let both = Asked::to("/x?b=2", &[("a", "1")]);
    let only_second = Asked::to("/x?b=2", &[]);
    let (first, second) = ("limit_by_per_header:60:a:1", "limit_by_per_param:60:b:2");
    let keys = |name: &str, list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(key, tokens)| (format!("{name}:{key}"), (*tokens).to_owned())).collect()
    };
    assert_eq!(counters(&upstream(two_items()), &both), keys("{r}", &[(first, "1"), (second, "2")]));
    assert_eq!(counters(&v1(two_items()), &both), keys("r", &[(first, "1")]));
    assert_eq!(counters(&upstream(two_items()), &only_second), keys("{r}", &[(second, "2")]));
    assert_eq!(counters(&v1(two_items()), &only_second), keys("r", &[(second, "2")]));

    let mut all = two_items();
    all["global_threshold"] = json!({"token_per_day": 9});
    let expected = keys("{r}", &[("global_threshold:86400", "9"), (first, "1"), (second, "2")]);
    assert_eq!(counters(&upstream(all), &both), expected, "global first");
}

#[test]
fn our_form_applies_all_limits_of_the_first_match_on_metered_paths_only() {
    let limit = |matches: Value, tokens, window| json!({"match": matches, "tokens": tokens, "windowSeconds": window});
    let config = native(json!({
        "global": [{"tokens": 100, "windowSeconds": 60}, {"tokens": 900, "windowSeconds": 7200}],
        "rules": [{"by": {"header": "k"}, "limits": [
            limit(json!({"pattern": "^a"}), 1, 60),
            limit(json!({"exact": "vip"}), 2, 60),
            limit(json!("any"), 3, 60),
            limit(json!({"exact": "vip"}), 4, 3600),
            limit(json!({"exact": "abc"}), 5, 60),
        ]}]
    }));
    let global = [("{r}:global_threshold:60", "100"), ("{r}:global_threshold:7200", "900")];
    let of = |value: &str| counters(&config, &Asked::with(&[("k", value)]));
    let with = |more: &[(&str, &str)]| some(&[&global[..], more].concat());
    assert_eq!(
        of("vip"),
        with(&[("{r}:limit_by_per_header:60:k:vip", "2"), ("{r}:limit_by_per_header:3600:k:vip", "4")])
    );
    assert_eq!(of("abc"), with(&[("{r}:limit_by_per_header:60:k:abc", "1")]), "the pattern stands in front");
    assert_eq!(of("x"), with(&[("{r}:limit_by_per_header:60:k:x", "3")]));
    assert_eq!(counters(&config, &Asked::with(&[])), with(&[]));
    for path in ["/v1/models", "/"] {
        assert_eq!(start(&config, &Asked::to(path, &[("k", "vip")])), Step::Pass, "{path}");
    }
    assert_eq!(counters(&config, &Asked::to("/V1/chat//completions/", &[])), with(&[]), "metered in every spelling");
}

#[test]
fn two_limits_on_one_counter_are_one_in_our_form() {
    let rule =
        |tokens| json!({"by": {"consumer": {}}, "limits": [{"match": "any", "tokens": tokens, "windowSeconds": 60}]});
    let config = native(json!({"rules": [rule(9), rule(5), rule(7)]}));
    let asked = Asked::with(&[("x-mse-consumer", "u")]);
    assert_eq!(counters(&config, &asked), some(&[("{r}:limit_by_per_consumer:60:x-mse-consumer:u", "5")]));
}

#[test]
fn a_value_that_may_have_a_limit_of_its_own_is_looked_up_whether_or_not_the_rule_has_one_for_it() {
    let limits = json!([
        {"match": {"exact": "vip"}, "tokens": 5, "windowSeconds": 60},
        {"match": {"exact": "vip"}, "tokens": 9, "windowSeconds": 3600},
    ]);
    let rule = json!({"by": {"header": "x-api-key"}, "limits": limits, "overridden": true});
    let address = json!({"by": {"ip": {"fromHeader": "x-real-ip"}}, "overridden": true});
    let config = native(json!({"rules": [rule, address]}));
    let call = |headers: &[(&str, &str)]| words(&ask(&config, &Asked::with(headers)).call.command)[2..].to_vec();
    let counter = "higress-token-ratelimit:{r}:";
    // The SHA-1 of `vip`: where single values are kept in Secrets, Redis hears none.
    let vip = "sha1:dc7d96d4125e819d53e0efe8001afa6a64b35728";
    assert_eq!(
        call(&[("x-api-key", "vip")]),
        [
            "4",
            "aiquota:overrides:{r}:header:x-api-key",
            &format!("{counter}override:header:x-api-key:{vip}"),
            &format!("{counter}limit_by_header:60:x-api-key:{vip}"),
            &format!("{counter}limit_by_header:3600:x-api-key:{vip}"),
            "check",
            &overrides::field("r", b"vip"),
            "overrides",
            "",
            "override",
            "5",
            "-60",
            "9",
            "-3600"
        ]
    );
    assert_eq!(
        call(&[("x-real-ip", "[2001:DB8::1]:80")]),
        [
            "2",
            "aiquota:overrides:{r}:ip:x-real-ip",
            &format!("{counter}override:ip:x-real-ip:2001:db8::1"),
            "check",
            &overrides::field("r", b"2001:db8::1"),
            "overrides",
            "",
            "override"
        ]
    );
    assert_eq!(start(&config, &Asked::with(&[])), Step::Pass, "it has no value");
}

#[test]
fn identity_must_agree_where_a_rule_looks_at_it() {
    let by = |limiter: &str| {
        upstream(json!({"rule_items": [{limiter: "x", "limit_keys": [{"key": "*", "token_per_minute": 5}]}]}))
    };
    let forged = Asked::with(&[("x-mse-consumer", "victim"), ("x-mse-consumer", "user"), ("x", "1")]);
    let Step::Refuse(response) = start(&by("limit_by_per_consumer"), &forged) else { panic!() };
    let seen = (response.status, &*response.body, response.details);
    let text = "Request denied by ai token ratelimit check. Unauthorized consumer.";
    assert_eq!(seen, (403, text, "ai-token-ratelimit.unauthorized"));
    assert_eq!(counters(&by("limit_by_per_header"), &forged).len(), 1);
    let limits = json!([{"match": "any", "tokens": 5, "windowSeconds": 60}]);
    let config = native(json!({"rules": [{"by": {"header": "X-MSE-Consumer"}, "limits": limits}]}));
    assert!(matches!(start(&config, &forged), Step::Refuse(response) if response.status == 403), "by its other name");
}

#[test]
fn a_websocket_is_refused_where_it_would_be_metered_in_our_form() {
    let rule = json!({"by": {"header": "k"}, "limits": [{"match": "any", "tokens": 5, "windowSeconds": 60}]});
    let config = native(json!({"rules": [rule]}));
    let upgrade = [("upgrade", "h2c, WebSocket")];
    let Step::Refuse(response) = start(&config, &Asked::with(&[&upgrade[..], &[("k", "1")]].concat())) else {
        panic!()
    };
    assert_eq!((response.status, response.details), (403, "ai-token-ratelimit.websocket"));
    assert_eq!(start(&config, &Asked::with(&upgrade)), Step::Pass, "it is under no limit");
    let upstream = upstream(json!({"global_threshold": {"token_per_day": 9}}));
    assert_eq!(counters(&upstream, &Asked::with(&upgrade)).len(), 1);
}

#[test]
fn what_cannot_be_enforced_is_answered_with_503_and_an_unavailable_policy_on_metered_paths() {
    let seen = |step: Step| match step {
        Step::Refuse(response) => (response.status, response.details, response.body.into_owned()),
        other => panic!("{other:?}"),
    };
    let config = json!({"aiquota": {"version": 1}, "_rules_": [{"_match_domain_": ["*"], "rule_name": "r"}]});
    let body = "Request denied by ai token ratelimit check. Invalid configuration: _rules_[0].rule_items is missing, and so \
                is global_threshold.";
    assert_eq!(seen(start(&config, &Asked::to("/any", &[]))), (503, "ai-token-ratelimit.error", body.into()));
    let mut config =
        native(json!({"global": [{"tokens": 1, "windowSeconds": 1}], "unavailable": "The Secret is gone."}));
    let body = "Request denied by ai token ratelimit check. The Secret is gone.";
    assert_eq!(seen(start(&config, &Asked::with(&[]))), (503, "ai-token-ratelimit.error", body.into()));
    config["_rules_"][0]["open"] = json!(true);
    assert_eq!(start(&config, &Asked::to("/any", &[])), Step::Pass);
}
