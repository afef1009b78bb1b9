//! Models: whose balance a request draws on, what its tokens weigh, and who names two of them.

use super::*;
use crate::prompt::Reader;
use crate::redis::SHA1;

const ANSWER: &[u8] = br#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}"#;
const PATH: &str = "/v1/chat/completions";

fn config() -> Value {
    let mut config = native_config(false);
    config["aiquota"]["policies"]["p"]["models"] = json!([
        {"name": "dear", "weights": [2, 10, 1, 7]},
        {"name": "own-*", "own": {"defaultQuota": 5, "yields": true}, "weights": [1, 3, 1, 3]},
        {"name": "closed", "own": {}},
        {"name": "free", "weights": [0, 0, 0, 0]},
    ]);
    config["aiquota"]["policies"]["p"]["paths"] = json!([PATH, ":generateContent"]);
    config
}

/// A request with this body, to this path, with these headers besides.
fn step(config: &Value, path: &str, headers: &'static [(&'static str, &'static str)], body: &str) -> Step {
    let quota = quota(config);
    let asked = Asked { identity: &[b"user"], path: path.as_bytes(), upgrade: &[], now: NOW };
    let request = With(asked, headers);
    match begin(quota.target(&Subject::default()).unwrap(), &request) {
        Step::AwaitBody(awaiting) => {
            let mut reader = Reader::new();
            reader.feed(body.as_bytes());
            Quotas::body(awaiting, Body::Read(reader.finish()), &request)
        }
        other => panic!("{other:?}"),
    }
}

struct With<'a>(Asked<'a>, &'static [(&'static str, &'static str)]);

impl Request for With<'_> {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        let own = self.1.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_bytes());
        self.0.header(name).into_iter().chain(own).collect()
    }

    fn source(&self) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> i64 {
        NOW
    }

    fn unique(&self) -> Vec<u8> {
        b"id".to_vec()
    }
}

/// The balance that is asked for, the default it is made from, and what is counted.
fn drawn(path: &str, headers: &'static [(&'static str, &'static str)], body: &str) -> (String, String, String) {
    let ask = ask(step(&config(), path, headers, body));
    let model = ask.pending.model().unwrap().to_owned();
    let sent = words(&ask.call.command);
    assert_eq!(sent[7], "check");
    (sent[3].clone(), sent[11].clone(), model)
}

#[test]
fn a_request_draws_on_the_balance_of_its_model_if_that_has_one() {
    let all = |balance: &str, default: &str, model: &str| (balance.to_owned(), default.to_owned(), model.to_owned());
    let body = |model: &str| format!(r#"{{"messages":[],"model":"{model}"}}"#);
    assert_eq!(drawn(PATH, &[], &body("dear")), all("k:user", "1000", "dear"));
    assert_eq!(drawn(PATH, &[], &body("own-4")), all("k: own-* user", "5", "own-*"));
    assert_eq!(drawn(PATH, &[], &body("closed")), all("k: closed user", "", "closed"));
    assert_eq!(drawn(PATH, &[], &body("else")), all("k:user", "1000", "other"));
    assert_eq!(drawn(PATH, &[], r#"{"messages":[]}"#), all("k:user", "1000", "other"));
    assert_eq!(drawn(PATH, &[], ""), all("k:user", "1000", "other"));
    // What a body does not say is said by the header, and by a path as Gemini's.
    assert_eq!(drawn(PATH, &[("x-higress-llm-model", "own-4")], "{}"), all("k: own-* user", "5", "own-*"));
    let gemini = "/v1beta/models/own-g:generateContent?alt=sse";
    assert_eq!(drawn(gemini, &[], r#"{"contents":[]}"#), all("k: own-* user", "5", "own-*"));
    assert_eq!(drawn(gemini, &[], r#"{"model":"models/own-g"}"#), all("k: own-* user", "5", "own-*"));
    let azure = "/openai/deployments/own-a/v1/chat/completions";
    assert_eq!(drawn(azure, &[], "{}"), all("k: own-* user", "5", "own-*"));
    // Model-router leaves the provider in the header.
    let routed = &[("x-higress-llm-model", "p/own-4")];
    assert_eq!(drawn(PATH, routed, &body("own-4")), all("k: own-* user", "5", "own-*"));
    // Said to be a form, yet none.
    let form = &[("content-type", "multipart/form-data")];
    assert_eq!(drawn(PATH, form, &body("own-4")), all("k: own-* user", "5", "own-*"));
}

#[test]
fn a_key_that_is_written_with_escapes_is_read_as_what_it_stands_for() {
    assert_eq!(drawn(PATH, &[], r#"{"mod\u0065l":"own\u002d4"}"#).0, "k: own-* user");
}

#[test]
fn who_names_two_models_or_none_that_is_clear_is_refused() {
    type Headers = &'static [(&'static str, &'static str)];
    let cases: [(&str, Headers, &str); 9] = [
        (PATH, &[("x-higress-llm-model", "else")], r#"{"model":"dear"}"#),
        (PATH, &[("x-higress-llm-model", "dear"), ("x-higress-llm-model", "else")], r#"{"model":"dear"}"#),
        (PATH, &[("x-higress-llm-model", "dear"), ("x-higress-llm-model", "else")], "{}"),
        ("/v1beta/models/own-g:generateContent", &[], r#"{"model":"dear"}"#),
        (PATH, &[], r#"{"model":"else","model":"dear"}"#),
        (PATH, &[], r#"{"model":["dear"]}"#),
        // What another reader may make sense of.
        (PATH, &[], r#"{"model":"else","x":NaN,"model":"dear"}"#),
        (PATH, &[], r#"{"Model":"dear"}"#),
        (PATH, &[], "\u{1f}model=dear"),
    ];
    for (path, headers, body) in cases {
        let Step::Refuse(response) = step(&config(), path, headers, body) else { panic!("{body}") };
        assert_eq!((response.status, response.details), (403, "ai-quota.unclear_model"), "{body}");
        let said = "Request denied by ai quota check. It is not clear which model the request is for.";
        assert_eq!(response.body, said);
    }
    let mut observing = config();
    observing["aiquota"]["policies"]["p"]["ends"] = json!({"mode": "Observe"});
    assert_eq!(step(&observing, PATH, &[], r#"{"model":["dear"]}"#), Step::Spare);
}

#[test]
fn the_model_in_a_form_is_not_read_and_nobody_escapes_a_price_by_one() {
    let form = &[("content-type", "Multipart/Form-Data; boundary=x"), ("x-higress-llm-model", "else")];
    for body in ["--x\r\n\r\ndear\r\n--x--", r#"{"model":"else","x":NaN}"#] {
        let Step::Refuse(response) = step(&config(), PATH, form, body) else { panic!("{body}") };
        let said = "Request denied by ai quota check. The model in a form is not read: serve this path by an AIQuota \
                    without models.";
        assert_eq!((response.status, response.details, &*response.body), (415, "ai-quota.form_body", said));
    }
}

#[test]
fn what_is_held_weighs_as_the_dearer_sorts_of_tokens() {
    let mut config = config();
    config["aiquota"]["policies"]["p"]["reserve"] = json!({"defaultMaxTokens": 70});
    config["aiquota"]["policies"]["p"]["models"] = json!([{"name": "m", "weights": [1, 3, 2, 5]}]);
    let body = r#"{"model":"m","max_tokens":10}"#;
    let sent = words(&ask(step(&config, PATH, &[], body)).call.command);
    assert_eq!(sent[8], (body.len().div_ceil(4) * 2 + 10 * 5).to_string());
}

/// What is charged for an answer, and to which balance.
fn charged(model: &str, answer: &[u8]) -> Option<(String, String)> {
    let ask = ask(step(&config(), PATH, &[], &format!(r#"{{"model":"{model}"}}"#)));
    let Next::Admit(admitted) = ask.pending.answer(Ok(b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n")) else { panic!() };
    let mut meter = *admitted.meter;
    meter.response_headers(Some(200), None, None);
    meter.response_body(answer);
    match meter.end(NOW) {
        Ending::Charge(charge) => {
            let sent = words(&charge.call.command);
            assert_eq!((sent[1].as_str(), sent[7].as_str()), (SHA1, "charge"));
            Some((sent[3].clone(), sent[8].clone()))
        }
        Ending::Nothing(_) => None,
    }
}

#[test]
fn each_token_weighs_what_its_model_says_also_where_it_is_estimated() {
    let all = |balance: &str, tokens: &str| Some((balance.to_owned(), tokens.to_owned()));
    assert_eq!(charged("dear", ANSWER), all("k:user", &(6 * 2 + 4 + 3 * 10 + 2 * 7).to_string()));
    assert_eq!(charged("own-4", ANSWER), all("k: own-* user", "25"));
    assert_eq!(charged("else", ANSWER), all("k:user", "15"));
    assert_eq!(charged("free", ANSWER), None);
    // A body of 16 bytes, and an answer of 8.
    let without = br#"{"choices":[{"message":{"content":"12345678"}}]}"#;
    assert_eq!(charged("dear", without), all("k:user", &(4 * 2 + 2 * 10).to_string()));
    // A client that leaves before the output is counted.
    let left =
        b"data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n\
        data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"0123456789abcdef\"}}\n\n";
    assert_eq!(charged("dear", left), all("k:user", &(9 * 2 + 4 * 10).to_string()));
}

#[test]
fn the_admin_api_reaches_the_balance_that_requests_for_a_model_draw_on() {
    let of = |query: &str| {
        let step = start(&config(), &["admin"], &format!("{PATH}/quota?consumer=user{query}"));
        words(&ask(step).call.command)[3].clone()
    };
    assert_eq!(of(""), "k:user");
    assert_eq!(of("&model=own-4"), "k: own-* user");
    assert_eq!(of("&model=own-*"), "k: own-* user");
    assert_eq!(of("&model="), "k:user");
    let Step::AwaitForm(form) = start(&config(), &["admin"], &format!("{PATH}/quota/refresh")) else { panic!() };
    let sent = words(&ask(Quotas::form(form, b"consumer=user&quota=7&model=closed", NOW)).call.command);
    assert_eq!(sent[3], "k: closed user");
}

#[test]
fn the_admin_api_changes_no_common_balance_for_a_model_without_its_own() {
    let refused = |step: Step| match step {
        Step::Refuse(response) => (response.status, response.body.into_owned()),
        other => panic!("{other:?}"),
    };
    let said = (403, "Request denied by ai quota check. This model has no balances of its own.".to_owned());
    for model in ["dear", "typo"] {
        assert_eq!(refused(start(&config(), &["admin"], &format!("{PATH}/quota?consumer=user&model={model}"))), said);
        for (operation, field) in [("refresh", "quota"), ("delta", "value")] {
            let path = format!("{PATH}/quota/{operation}");
            let Step::AwaitForm(form) = start(&config(), &["admin"], &path) else { panic!() };
            let form = Quotas::form(form, format!("consumer=user&{field}=7&model={model}").as_bytes(), NOW);
            assert_eq!(refused(form), said);
        }
    }
    let upstream = start(&upstream_config(), &["admin"], &format!("{PATH}/quota?consumer=user&model=x"));
    assert!(matches!(upstream, Step::Ask(_)), "upstream knows no such field");
}
