//! What a policy may say about the ends of its requests: each choice against what is usual.

use super::*;

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
        let Next::Admit(mut meter) = answered(&config, reply) else { panic!("{reply:?}") };
        meter.response_headers(Some(200), None, None);
        meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
        let sent = words(&charge(meter.end(NOW)).call.command);
        assert_eq!(sent[7..11], ["charge", "7", "", ""], "no period is named");
        assert_eq!(sent[11], "daily");
        assert!(matches!(answered(&with(&json!({"onStoreFailure": "Refuse"}), false), reply), Next::Refuse(_)));
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
