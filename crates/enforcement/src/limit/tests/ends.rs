//! What a policy may say about the ends of its requests: each choice against what is usual.

use super::*;
use crate::steps::{Admitted, Count};

const OVER: &[u8] = b"*1\r\n*3\r\n:5\r\n:6\r\n:42\r\n";
const UNDER: &[u8] = b"*1\r\n*3\r\n:5\r\n:5\r\n:42\r\n";
const KEY: &str = "higress-token-ratelimit:{r}:global_threshold:60";
const OBSERVED: &str = "higress-token-ratelimit:{r}:observed:global_threshold:60";

fn with(ends: &Value) -> Value {
    native(json!({
        "global": [{"tokens": 5, "windowSeconds": 60}],
        "rules": [{"by": {"consumer": {}}, "limits": [{"match": {"exact": "vip"}, "tokens": 3, "windowSeconds": 60}]}],
        "ends": ends
    }))
}

fn answered(config: &Value, reply: Result<&[u8], Failure>) -> Next {
    ask(config, &Asked::with(&[])).pending.answer(reply)
}

fn refusal(next: Next) -> Response {
    match next {
        Next::Refuse(response) => response,
        other => panic!("{other:?}"),
    }
}

fn sent(config: &Value) -> Vec<String> {
    words(&ask(config, &Asked::with(&[])).call.command)
}

#[test]
fn without_the_stores_answer_a_request_is_refused_where_that_is_chosen() {
    let (refuses, usual) = (with(&json!({"onStoreFailure": "Refuse"})), with(&json!({})));
    let admits = with(&json!({"onStoreFailure": "Admit"}));
    let replies: [Result<&[u8], Failure>; 9] = [
        Err(Failure::Network),
        Err(Failure::Deadline),
        Err(Failure::Dispatch(2)),
        Ok(b"-LOADING x\r\n"),
        Ok(b"-READONLY x\r\n"),
        Ok(b"-OOM x\r\n"),
        Ok(b"garbage"),
        Ok(b"*2\r\n:5\r\n:6\r\n"),
        Ok(b"*1\r\n*3\r\n:5\r\n$1\r\nx\r\n:60\r\n"),
    ];
    for reply in replies {
        let response = refusal(answered(&refuses, reply));
        assert_eq!((response.status, response.details), (503, "ai-token-ratelimit.error"), "{reply:?}");
        assert_eq!(response.body, "Request denied by ai token ratelimit check. Limit store unavailable.");
        assert_eq!(response.counts, [Count::Refused, Count::StoreFailure]);
        assert!(response.log.is_some());
        for config in [&usual, &admits] {
            let Next::Admit(Admitted { counts, log, .. }) = answered(config, reply) else { panic!("{reply:?}") };
            assert!(counts == [Count::Admitted, Count::StoreFailure] && log.is_some());
        }
    }
    let response = refusal(answered(&refuses, Ok(OVER)));
    assert_eq!((response.status, response.details), (429, "ai-token-ratelimit.rejected"), "the store did answer");
    assert!(matches!(answered(&refuses, Ok(UNDER)), Next::Admit(_)));
}

#[test]
fn who_is_refused_without_the_store_is_asked_for_with_what_fails_where_writes_do() {
    assert_eq!(sent(&with(&json!({"onStoreFailure": "Refuse"})))[4], "probe");
    for ends in [json!({}), json!({"onStoreFailure": "Admit"})] {
        assert_eq!(sent(&with(&ends))[4], "check", "{ends}: one that can only be read refuses nobody");
    }
}

#[test]
fn an_answer_without_usage_is_estimated_unless_that_is_to_be_ignored() {
    let end = |config: &Value| {
        let (mut meter, _) = admitted(answered(config, Ok(UNDER)));
        meter.response_headers(Some(200), Some(b"application/json"), None);
        meter.response_body(br#"{"choices":[{"message":{"content":"12345678"}}]}"#);
        meter.end(NOW)
    };
    let Ending::Charge(charge) = end(&with(&json!({}))) else { panic!() };
    assert_eq!((charge.booking.tokens, charge.booking.estimated), (2, true));
    assert_eq!(end(&with(&json!({"onMissingUsage": "Ignore"}))), Ending::Nothing(Unbooked::NoUsage));
}

#[test]
fn other_paths_are_refused_where_that_is_chosen_whoever_asks() {
    let config = with(&json!({"unlistedPaths": "Refuse"}));
    for (path, headers) in [("/v1/models", &[][..]), ("/", &[("x-mse-consumer", "vip")])] {
        let Step::Refuse(response) = start(&config, &Asked::to(path, headers)) else { panic!("{path}") };
        assert_eq!((response.status, response.details), (403, "ai-token-ratelimit.unlisted_path"));
        assert_eq!(response.body, "Request denied by ai token ratelimit check. This path is not listed.");
        assert_eq!(start(&with(&json!({})), &Asked::to(path, headers)), Step::Pass);
    }
    assert!(matches!(start(&config, &Asked::to("/V1//chat/completions/", &[])), Step::Ask(_)), "a listed path still");
    let mut gone = config;
    gone["aiquota"]["policies"]["p"]["unavailable"] = json!("gone");
    let Step::Refuse(response) = start(&gone, &Asked::to("/v1/models", &[])) else { panic!() };
    assert_eq!(response.status, 503, "what it closes it does not open when it cannot be enforced");
}

#[test]
fn a_policy_that_only_observes_counts_by_itself_and_refuses_nothing() {
    let config = with(&json!({"mode": "Observe", "unlistedPaths": "Refuse", "onStoreFailure": "Refuse"}));
    assert_eq!(sent(&config)[3], OBSERVED);
    assert_eq!(sent(&with(&json!({})))[3], KEY, "what was observed does not count when it enforces");
    for (reply, counted) in [(UNDER, &[Count::Admitted][..]), (OVER, &[Count::Admitted, Count::WouldRefuse])] {
        let Next::Admit(Admitted { mut meter, counts, log: None }) = answered(&config, Ok(reply)) else { panic!() };
        assert_eq!(counts, counted);
        meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
        let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
        assert_eq!(words(&charge.call.command)[3..6], [OBSERVED, "charge", "7"]);
    }
    let Next::Admit(Admitted { counts, .. }) = answered(&config, Err(Failure::Deadline)) else { panic!() };
    assert_eq!(counts, [Count::Admitted, Count::WouldRefuse, Count::StoreFailure]);
    let two = Asked::with(&[("x-mse-consumer", "a"), ("x-mse-consumer", "b")]);
    let socket = Asked::with(&[("upgrade", "websocket")]);
    for asked in [two, socket, Asked::to("/v1/models", &[])] {
        assert_eq!(start(&config, &asked), Step::Spare, "{asked:?}");
    }
    let mut gone = config;
    gone["aiquota"]["policies"]["p"]["unavailable"] = json!("gone");
    for path in [PATH, "/v1/models"] {
        assert_eq!(start(&gone, &Asked::to(path, &[])), Step::Pass, "{path}");
    }
}

#[test]
fn a_charge_asks_for_the_share_to_warn_at_and_counts_the_limits_that_come_to_it() {
    let charge = |ends: &Value, reply: &[u8]| {
        let (mut meter, _) = admitted(answered(&with(ends), Ok(UNDER)));
        meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
        let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
        (words(&charge.call.command).split_off(3), charge.booking.answer(Ok(reply)))
    };
    let one = b"*1\r\n*4\r\n:5\r\n:4\r\n:60\r\n:1\r\n";
    let length = KEY.len().to_string();
    let noted = [KEY, "aiquota:warned:{r}", "charge", "7", "5", "60", "80", &length];
    for (ends, reply, expected, warned) in [
        (json!({"warnAt": 80}), &one[..], &noted[..], 1),
        (json!({"warnAt": 80}), UNDER, &noted, 0),
        // What is only observed is noted nowhere.
        (json!({"warnAt": 80, "mode": "Observe"}), one, &[OBSERVED, "charge", "7", "5", "60", "80"], 1),
    ] {
        let (sent, booked) = charge(&ends, reply);
        assert_eq!(sent, expected, "{ends}");
        assert_eq!(booked, Booked::Done { tokens: 7, estimated: false, warned });
    }
    assert_eq!(charge(&json!({}), UNDER).0, [KEY, "charge", "7", "5", "60"], "nobody asked");
}

/// The fields under which `limits.lua` would note each counter of a charge, from the words of its call.
fn fields(call: &[String]) -> Vec<Vec<u8>> {
    let count: usize = call[2].parse().unwrap();
    let (keys, args) = call[3..].split_at(count);
    let (counters, args) = (&keys[..count - 1], &args[2..]);
    let (rates, warned) = args.split_at(2 * (count - 1));
    let field = |at: usize| {
        let common: usize = warned[1 + at].parse().unwrap();
        format!("{}:{}:{}", warned[0], rates[2 * at], &counters[at][..common]).into_bytes()
    };
    let is_counter = |at: &usize| rates[2 * at + 1] != "overrides";
    (0..count - 1).filter(is_counter).map(field).collect()
}

#[test]
fn what_a_charge_may_note_is_what_the_policy_declares_and_names_no_value() {
    let limits = |matches: Value| json!([{"match": matches, "tokens": 5, "windowSeconds": 60}]);
    let rules = json!([
        {"by": {"header": "X-Api-Key"}, "limits": limits(json!({"exact": "secret"}))},
        {"by": {"header": "x-other"}, "limits": limits(json!("any"))},
        {"by": {"param": "k:1"}, "limits": limits(json!({"pattern": "^s"})), "overridden": true},
        {"by": {"cookie": "sid"}, "overridden": true},
        {"by": {"consumer": {}}, "limits": limits(json!("any"))},
        {"by": {"ip": {}}, "limits": limits(json!({"cidr": "10.0.0.0/8"}))},
        {"by": {"ip": {"fromHeader": "x-real-ip"}}, "limits": limits(json!({"cidr": "0.0.0.0/0"}))},
    ]);
    let global = json!([{"tokens": 7, "windowSeconds": 9}, {"tokens": 8, "windowSeconds": 10}]);
    let model = json!({"name": "m*", "global": global, "rules": [
        {"by": {"header": "x-other"}, "limits": limits(json!({"exact": "secret"}))},
    ]});
    let config = native(json!({"ends": {"warnAt": 80}, "global": global, "rules": rules, "models": [model]}));
    let headers = [
        ("x-api-key", "secret"),
        ("x-other", "secret"),
        ("cookie", "sid=secret"),
        ("x-mse-consumer", "secret"),
        ("x-real-ip", "10.9.9.9"),
    ];
    let asked = Asked::to(&format!("{PATH}?k:1=secret"), &headers);
    let Step::AwaitBody(body) = start(&config, &asked) else { panic!() };
    let mut reader = crate::prompt::Reader::new();
    reader.feed(br#"{"model":"m1"}"#);
    let Step::Ask(ask) = Limits::body(body, crate::steps::Body::Read(reader.finish()), &asked) else { panic!() };
    let (mut meter, _) = admitted(ask.pending.answer(Err(Failure::Network)));
    meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
    let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
    let mut noted = fields(&words(&charge.call.command));

    let policy = serde_json::from_value(config["aiquota"]["policies"]["p"].clone()).unwrap();
    let mut declared: Vec<_> = declared::declared(&policy).into_iter().map(|declared| declared.field).collect();
    noted.sort();
    declared.sort();
    let shown =
        |fields: &[Vec<u8>]| fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect::<Vec<_>>();
    assert_eq!(shown(&noted), shown(&declared));
    assert_eq!(noted.len(), 13);
    for field in shown(&noted) {
        assert!(!field.contains("secret") && !field.contains("10.9"), "{field}");
    }
}

#[test]
fn a_share_to_warn_at_that_is_none_is_refused() {
    for percent in [0, 101] {
        let said = policies(&with(&json!({"warnAt": percent})))
            .target(&Subject::default())
            .map(|target| format!("{target:?}"));
        assert!(said.as_ref().is_some_and(|said| said.contains("ends.warnAt is out of range")), "{said:?}");
    }
}

/// The replies of two limits, `[tokens, counted, left]` each.
fn states(states: [[i64; 3]; 2]) -> Vec<u8> {
    let state = |[tokens, counted, left]: [i64; 3]| format!("*3\r\n:{tokens}\r\n:{counted}\r\n:{left}\r\n");
    format!("*2\r\n{}", states.map(state).concat()).into_bytes()
}

#[test]
fn clients_are_told_of_the_tightest_limit_where_that_is_chosen() {
    let told = |config: &Value, reply: &[u8]| {
        let headers = match ask(config, &Asked::with(&[("x-mse-consumer", "vip")])).pending.answer(Ok(reply)) {
            Next::Admit(Admitted { mut meter, .. }) => meter.take_headers(),
            Next::Refuse(response) => response.headers,
            other => panic!("{other:?}"),
        };
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
    };
    let config = with(&json!({"rateLimitHeaders": true}));
    let line = |limit, remaining, reset: &str| {
        format!(
            "x-ratelimit-limit-tokens: {limit}, x-ratelimit-remaining-tokens: {remaining}, \
             x-ratelimit-reset-tokens: {reset}"
        )
    };
    for (reply, expected) in [
        ([[100, 40, 60], [50, 10, 3600]], line(50, 40, "1h0m0s")),
        ([[100, 60, 60], [50, 10, 3600]], line(50, 40, "1h0m0s")),
        ([[100, 61, 60], [50, 10, 3600]], line(100, 39, "1m0s")),
        ([[100, 100, 60], [50, 50, 30]], line(100, 0, "1m0s")),
    ] {
        assert_eq!(told(&config, &states(reply)), expected, "{reply:?}");
    }
    // A refused client may try again when none of those is left that it is over.
    for (reply, first, limit, seconds) in [
        ([[5, 6, 10], [3, 9, 40]], 10, 3, 40),
        ([[5, 9, 40], [3, 4, 10]], 40, 5, 40),
        ([[5, 5, 50], [3, 4, 40]], 40, 3, 40),
    ] {
        let expected = format!("{}, retry-after: {seconds}", line(limit, 0, &format!("{seconds}s")));
        assert_eq!(told(&config, &states(reply)), format!("X-TokenRateLimit-Reset: {first}, {expected}"), "{reply:?}");
    }
    let not_for_it = states([[9_007_199_254_740_991, 0, 0], [50, 10, 3600]]);
    assert_eq!(told(&config, &not_for_it), line(50, 40, "1h0m0s"), "what does not apply is not told");
    assert_eq!(told(&config, &states([[9_007_199_254_740_991, 0, 0]; 2])), "", "nor where nothing does");
    assert_eq!(told(&config, b"-LOADING x\r\n"), "", "nobody knows");
    assert_eq!(told(&with(&json!({})), &states([[5, 1, 1], [3, 1, 1]])), "", "off unless chosen");
    assert_eq!(told(&with(&json!({})), &states([[5, 6, 10], [3, 9, 40]])), "X-TokenRateLimit-Reset: 10");
}

#[test]
fn refusals_have_the_shape_that_is_chosen_with_the_code_and_text_of_the_rejection() {
    let mut config = with(&json!({"errors": "OpenAI", "unlistedPaths": "Refuse", "onStoreFailure": "Refuse"}));
    let response = refusal(answered(&config, Ok(OVER)));
    assert_eq!((response.status, response.content_type), (429, "application/json"));
    let body = r#"{"error":{"message":"Too many requests","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
    assert_eq!(response.body, body);
    assert_eq!(response.headers, [("X-TokenRateLimit-Reset", "42".to_owned())]);
    assert!(response.by_route.is_some(), "upstream's metric counts it still");
    let response = refusal(answered(&config, Err(Failure::Network)));
    assert_eq!((response.status, response.content_type), (503, "application/json"));
    let Step::Refuse(response) = start(&config, &Asked::to("/v1/models", &[])) else { panic!() };
    assert_eq!((response.status, response.content_type), (404, "application/json"));

    config["aiquota"]["policies"]["p"]["ends"] = json!({"errors": "Anthropic"});
    config["aiquota"]["policies"]["p"]["rejection"] = json!({"code": 503, "message": "later"});
    let response = refusal(answered(&config, Ok(OVER)));
    let body = r#"{"type":"error","error":{"type":"rate_limit_error","message":"later"}}"#;
    assert_eq!((response.status, &*response.body), (503, body));
}
