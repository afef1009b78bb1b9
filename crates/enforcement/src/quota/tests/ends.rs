//! What a policy may say about the ends of its requests: each choice against what is usual.

use super::*;
use crate::steps::{Admitted, Count};

const METERED: &str = "/v1/chat/completions";

fn with(ends: &Value, open: bool) -> Value {
    let mut config = native_config(open);
    config["aiquota"]["policies"]["p"]["ends"] = ends.clone();
    config
}

fn answered(config: &Value, reply: Result<&[u8], Failure>) -> Next {
    ask(start(config, &["user"], METERED)).pending.answer(reply)
}

/// Ends an admitted request whose answer was this.
fn ended(config: &Value, body: &[u8]) -> Ending {
    let mut meter = admitted(config);
    meter.request_body(40);
    meter.response_headers(Some(200), Some(b"application/json"), None);
    meter.response_body(body);
    meter.end(NOW)
}

#[test]
fn without_the_stores_answer_a_request_passes_where_that_is_chosen_and_is_charged_to_the_period_it_ends_in() {
    let config = with(&json!({"onStoreFailure": "Admit"}), false);
    let replies: [Result<&[u8], Failure>; 8] = [
        Err(Failure::Network),
        Err(Failure::Deadline),
        Err(Failure::Dispatch(2)),
        Ok(b"-LOADING x\r\n"),
        Ok(b"-READONLY x\r\n"),
        Ok(b"-OOM x\r\n"),
        Ok(b"garbage"),
        Ok(b"*2\r\n$6\r\nlayout\r\n$1\r\n9\r\n"),
    ];
    for reply in replies {
        let Next::Admit(Admitted { mut meter, counts, log }) = answered(&config, reply) else { panic!("{reply:?}") };
        assert!(counts == [Count::Admitted, Count::StoreFailure] && log.is_some());
        meter.response_headers(Some(200), None, None);
        meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
        let sent = words(&charge(meter.end(NOW)).call.command);
        assert_eq!(sent[7..11], ["charge", "7", "", ""], "no period is named");
        assert_eq!(sent[11], "daily");
        let refused = refusal(answered(&with(&json!({"onStoreFailure": "Refuse"}), false), reply));
        assert_eq!(refused.counts, [Count::Refused, Count::StoreFailure]);
    }
    for reply in ["*2\r\n$7\r\nrefused\r\n:0\r\n", "*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n"] {
        let response = refusal(answered(&config, Ok(reply.as_bytes())));
        assert_eq!(response.details, "ai-quota.noquota", "the store did answer: {reply}");
    }
}

#[test]
fn the_admin_api_answers_503_without_the_store_whatever_becomes_of_requests() {
    let config = with(&json!({"onStoreFailure": "Admit"}), false);
    let query = ask(start(&config, &["admin"], "/v1/chat/completions/quota?consumer=user"));
    assert_eq!(refusal(query.pending.answer(Err(Failure::Network))).status, 503);
}

#[test]
fn an_answer_without_usage_is_estimated_unless_that_is_to_be_ignored() {
    let text: &[u8] = br#"{"choices":[{"message":{"content":"12345678"}}]}"#;
    let usual = native_config(false);
    assert_eq!(charge(ended(&usual, text)).booking.tokens, 2 + 10);
    let ignoring = with(&json!({"onMissingUsage": "Ignore"}), false);
    assert_eq!(ended(&ignoring, text), Ending::Nothing(Unbooked::NoUsage));
    let usage: &[u8] = br#"{"usage":{"total_tokens":7}}"#;
    assert_eq!(charge(ended(&ignoring, usage)).booking.tokens, 7);
    // A stream that is left before it has counted its output.
    let begun: &[u8] = b"data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n\
        data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"12345678901234567890\"}}\n\n";
    assert_eq!(charge(ended(&usual, begun)).booking.tokens, 9 + 5);
    assert_eq!(charge(ended(&ignoring, begun)).booking.tokens, 10);
}

#[test]
fn other_paths_are_refused_where_that_is_chosen_whoever_asks_and_whatever_the_target_is() {
    for open in [true, false] {
        let config = with(&json!({"unlistedPaths": "Refuse"}), open);
        for (identity, path) in [(&["user"][..], "/v1/models"), (&[], "/"), (&["admin"], "/v1/chat/completions/other")]
        {
            let Step::Refuse(response) = start(&config, identity, path) else { panic!("{path}") };
            assert_eq!((response.status, response.details), (403, "ai-quota.unlisted_path"));
            assert_eq!(response.body, "Request denied by ai quota check. This path is not listed.");
        }
        assert!(matches!(start(&config, &["user"], METERED), Step::Ask(_)));
        assert!(matches!(start(&config, &["user"], "/V1//chat/completions/"), Step::Ask(_)), "a listed path still");
        assert!(matches!(start(&config, &["admin"], "/v1/chat/completions/quota?consumer=a"), Step::Ask(_)));
    }
}

#[test]
fn a_policy_that_cannot_be_enforced_opens_no_path_that_it_closes() {
    let mut config = with(&json!({"unlistedPaths": "Refuse"}), true);
    config["aiquota"]["policies"]["p"]["unavailable"] = json!("gone");
    let Step::Refuse(response) = start(&config, &[], "/v1/models") else { panic!() };
    assert_eq!(response.status, 503);
}

#[test]
fn a_policy_that_only_observes_notes_and_refuses_nothing() {
    let config = with(&json!({"mode": "Observe", "unlistedPaths": "Refuse"}), false);
    let check = || ask(start(&config, &["user"], METERED));
    assert_eq!(words(&check().call.command)[7], "observe");
    let admitted: &[u8] = b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n";
    let Next::Admit(Admitted { mut meter, counts, log: None }) = check().pending.answer(Ok(admitted)) else { panic!() };
    assert_eq!(counts, [Count::Admitted]);
    meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
    let Charge { call, booking } = charge(meter.end(NOW));
    assert_eq!(words(&call.command)[7..11], ["note", "7", "", "7"]);
    let absent: &[u8] = b"*1\r\n$6\r\nabsent\r\n";
    assert_eq!(booking.answer(Ok(absent)), Booked::Done { tokens: 7, estimated: false, warned: 0 });

    for reply in ["*2\r\n$7\r\nrefused\r\n:0\r\n", "*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n"] {
        let Next::Admit(Admitted { mut meter, counts, .. }) = check().pending.answer(Ok(reply.as_bytes())) else {
            panic!("{reply}")
        };
        meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
        assert_eq!(counts, [Count::Admitted, Count::WouldRefuse]);
        assert_eq!(words(&charge(meter.end(NOW)).call.command)[7], "note", "what it used is noted nevertheless");
    }
    let Next::Admit(Admitted { counts, .. }) = check().pending.answer(Err(Failure::Deadline)) else { panic!() };
    assert_eq!(counts, [Count::Admitted, Count::WouldRefuse, Count::StoreFailure]);

    for (identity, path) in [(&[][..], METERED), (&["a", "b"], METERED), (&["a b"], METERED), (&["user"], "/v1/models")]
    {
        assert_eq!(start(&config, identity, path), Step::Spare, "{identity:?} {path}");
    }
    // The admin API changes balances, which stay when the policy enforces.
    let Step::Refuse(response) = start(&config, &["user"], "/v1/chat/completions/quota?consumer=user") else {
        panic!()
    };
    assert_eq!((response.status, response.counts), (403, &[Count::Refused][..]));
}

#[test]
fn a_policy_that_only_observes_refuses_nothing_when_its_store_is_gone() {
    for open in [true, false] {
        let mut config = with(&json!({"mode": "Observe"}), open);
        config["aiquota"]["policies"]["p"]["unavailable"] = json!("gone");
        for path in [METERED, "/v1/models", "/v1/chat/completions/quota"] {
            assert_eq!(start(&config, &[], path), Step::Pass, "{path}");
        }
    }
}

#[test]
fn a_request_is_counted_under_the_policy_whose_rule_matches_it() {
    let quota = quota(&native_config(true));
    let matched = quota.matched_by_any(&Subject::default(), &[]).unwrap();
    assert_eq!(matched.policy.map(|name| &**name), Some("p"));
    let quota = super::quota(&upstream_config());
    assert_eq!(quota.matched_by_any(&Subject::default(), &[]).unwrap().policy, None, "upstream's form names none");
}

#[test]
fn clients_are_told_what_is_left_to_them_where_that_is_chosen() {
    let told = |config: &Value, reply: &str| match answered(config, Ok(reply.as_bytes())) {
        Next::Admit(Admitted { mut meter, .. }) => meter.take_headers(),
        Next::Refuse(response) => response.headers,
        other => panic!("{other:?}"),
    };
    let text = |headers: Vec<(&str, String)>| {
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    let config = with(&json!({"rateLimitHeaders": true}), false);
    let admitted = "*4\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n:100\r\n";
    let (limit, reset) = ("x-ratelimit-limit-tokens: 100", "x-ratelimit-reset-tokens: 8m20s");
    assert_eq!(text(told(&config, admitted)), [limit, "x-ratelimit-remaining-tokens: 5", reset]);
    let refused = "*3\r\n$7\r\nrefused\r\n:-3\r\n:100\r\n";
    assert_eq!(text(told(&config, refused)), [limit, "x-ratelimit-remaining-tokens: 0", reset, "retry-after: 500"]);
    let nobody = "*2\r\n$7\r\nrefused\r\n$-1\r\n";
    assert_eq!(text(told(&config, nobody))[0], "x-ratelimit-remaining-tokens: 0");
    for nothing in ["*2\r\n$9\r\nunlimited\r\n$-1\r\n", "*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n", "-LOADING x\r\n"] {
        assert_eq!(told(&config, nothing), [], "{nothing}");
    }
    assert_eq!(told(&native_config(false), admitted), [], "off unless chosen: the model's bytes stay");
    let mut forever = config;
    forever["aiquota"]["policies"]["p"].as_object_mut().unwrap().remove("refresh");
    assert_eq!(text(told(&forever, refused)), [limit, "x-ratelimit-remaining-tokens: 0"]);
}

#[test]
fn refusals_have_the_shape_that_is_chosen_but_for_the_admins() {
    let config = with(&json!({"errors": "OpenAI", "unlistedPaths": "Refuse"}), false);
    let response = refusal(answered(&config, Ok(b"*2\r\n$7\r\nrefused\r\n$-1\r\n")));
    assert_eq!(
        (response.status, response.content_type, response.details),
        (429, "application/json", "ai-quota.noquota")
    );
    assert_eq!(
        response.body,
        r#"{"error":{"message":"Request denied by ai quota check, No quota left","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#
    );
    let response = refusal(answered(&config, Err(Failure::Network)));
    assert_eq!((response.status, response.content_type), (503, "application/json"));
    assert!(response.log.is_some());
    for (identity, path, status) in
        [(&[][..], METERED, 401), (&["a", "b"], METERED, 403), (&["user"], "/v1/models", 404)]
    {
        let Step::Refuse(response) = start(&config, identity, path) else { panic!("{path}") };
        assert_eq!((response.status, response.content_type), (status, "application/json"), "{path}");
    }
    let Step::Refuse(response) = start(&config, &["user"], "/v1/chat/completions/quota?consumer=user") else {
        panic!()
    };
    assert_eq!((response.status, response.content_type), (403, "text/plain"));
}

#[test]
fn the_charge_that_reaches_the_share_of_a_grant_at_which_to_warn_says_so_and_no_other() {
    let warned = |config: &Value, used: i64, grant: &str| {
        let Charge { booking, .. } = charge(ended(config, br#"{"usage":{"total_tokens":7}}"#));
        let reply = format!("*4\r\n$6\r\nbooked\r\n:5\r\n:{used}\r\n{grant}\r\n");
        match booking.answer(Ok(reply.as_bytes())) {
            Booked::Done { tokens: 7, warned, .. } => warned,
            other => panic!("{other:?}"),
        }
    };
    let config = with(&json!({"warnAt": 80}), false);
    for (used, grant, expected) in [
        (79, ":100", 0),
        (80, ":100", 1),
        (86, ":100", 1),
        (87, ":100", 0),
        // A quota of 0 is used up before anything is used.
        (7, ":0", 0),
        (7, "$-1", 0),
        (7, ":8", 1),
        (9_007_199_254_740_991, ":9007199254740991", 0),
    ] {
        assert_eq!(warned(&config, used, grant), expected, "{used} of {grant}");
    }
    let all = with(&json!({"warnAt": 100}), false);
    assert_eq!((warned(&all, 99, ":100"), warned(&all, 100, ":100")), (0, 1));
    let observing = with(&json!({"warnAt": 80, "mode": "Observe"}), false);
    assert_eq!(warned(&observing, 86, ":100"), 1);
    assert_eq!(warned(&with(&json!({}), false), 86, ":100"), 0, "nobody asked");
}
