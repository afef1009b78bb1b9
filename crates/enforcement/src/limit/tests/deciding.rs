//! What replies decide, what a rejection says, and what is charged.

use super::*;
use crate::redis::limits::LIMITS;

const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"12345678"}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
const WITHOUT: &[u8] = br#"{"choices":[{"message":{"content":"12345678"}}]}"#;

fn global() -> Value {
    json!({"global_threshold": {"token_per_minute": 5}})
}

fn ours() -> Value {
    native(json!({"global": [{"tokens": 5, "windowSeconds": 60}]}))
}

fn decide(config: &Value, reply: Result<&[u8], Failure>) -> Next {
    ask(config, &Asked::with(&[("x-mse-consumer", "user1")])).pending.answer(reply)
}

fn two() -> Value {
    upstream(json!({"global_threshold": {"token_per_minute": 5}, "rule_items": [
        {"limit_by_consumer": "", "limit_keys": [{"key": "user1", "token_per_minute": 3}]}
    ]}))
}

#[test]
fn exactly_at_the_threshold_a_request_passes_and_above_it_is_rejected() {
    for config in [upstream(global()), v1(global()), ours()] {
        for reply in [
            "*1\r\n*3\r\n:5\r\n:5\r\n:60\r\n",
            "*3\r\n$1\r\n5\r\n$1\r\n5\r\n:60\r\n",
            "*1\r\n*3\r\n:5\r\n:0\r\n:60\r\n",
        ] {
            assert_eq!(admitted(decide(&config, Ok(reply.as_bytes()))).1, None, "{reply:?}");
        }
        for reply in ["*1\r\n*3\r\n:5\r\n:6\r\n:42\r\n", "*3\r\n:5\r\n$1\r\n6\r\n$2\r\n42\r\n"] {
            let Next::Refuse(response) = decide(&config, Ok(reply.as_bytes())) else { panic!("{reply:?}") };
            assert_eq!(
                (response.status, response.content_type, &*response.body),
                (429, "text/plain", "Too many requests")
            );
            assert_eq!(response.headers, [("X-TokenRateLimit-Reset", "42".to_owned())]);
            assert_eq!((response.details, response.log), ("ai-token-ratelimit.rejected", None));
            let metric = "route.r.upstream.outbound|80||c.model.none.consumer.user1.metric.token_ratelimit_count";
            let count = response.by_route.unwrap();
            assert_eq!(count.name(Some(b"r"), Some(b"outbound|80||c")), metric);
        }
    }
}

#[test]
fn the_metric_says_what_is_not_known() {
    let ask = ask(&upstream(global()), &Asked::with(&[]));
    let Next::Refuse(response) = ask.pending.answer(Ok(b"*3\r\n:5\r\n:6\r\n:42\r\n")) else { panic!() };
    let name = "route.-.upstream.-.model.none.consumer.none.metric.token_ratelimit_count";
    assert_eq!(response.by_route.unwrap().name(None, None), name);
}

#[test]
fn any_limit_may_reject_and_the_first_of_them_says_when_it_ends() {
    let reply =
        |first: &str, second: &str| format!("*2\r\n*3\r\n:5\r\n{first}\r\n:11\r\n*3\r\n:3\r\n{second}\r\n:22\r\n");
    for (first, second, left) in [(":6", ":0", "11"), (":0", ":4", "22"), (":6", ":4", "11"), ("$1\r\nx", ":4", "22")] {
        let Next::Refuse(response) = decide(&two(), Ok(reply(first, second).as_bytes())) else {
            panic!("{first} {second}")
        };
        assert_eq!(response.headers[0].1, left, "{first} {second}");
    }
    assert!(matches!(decide(&two(), Ok(reply(":5", ":3").as_bytes())), Next::Admit(_)));
}

#[test]
fn a_rejection_is_worded_as_configured() {
    let keys = json!({"global_threshold": {"token_per_minute": 5}, "rejected_code": 503, "rejected_msg": "später"});
    let ours = native(json!({
        "global": [{"tokens": 5, "windowSeconds": 60}], "rejection": {"code": 503, "message": "später"}
    }));
    for config in [upstream(keys), ours] {
        let Next::Refuse(response) = decide(&config, Ok(b"*3\r\n:5\r\n:6\r\n:1\r\n")) else { panic!() };
        assert_eq!((response.status, &*response.body), (503, "später"));
    }
}

#[test]
fn what_cannot_be_asked_or_understood_refuses_nobody_and_is_logged() {
    for config in [upstream(global()), v1(global()), ours()] {
        for (reply, log) in [
            (Err(Failure::Network), "the store cannot be reached"),
            (Err(Failure::Deadline), "the store did not answer in time"),
            (Ok("garbage"), "the reply of the store cannot be read"),
            (Ok("-ERR x\r\n"), "Redis refuses: ERR x"),
            (Ok("*2\r\n:5\r\n:6\r\n"), "the reply is not one to this question"),
            (Ok("*1\r\n*2\r\n:5\r\n:6\r\n"), "what is stored at higress-token-ratelimit:"),
        ] {
            let (mut meter, logged) = admitted(decide(&config, reply.map(str::as_bytes)));
            assert!(logged.as_deref().is_some_and(|logged| logged.starts_with(log)), "{logged:?}");
            meter.response_body(ANSWER);
            assert!(matches!(meter.end(NOW), Ending::Charge(_)), "its tokens still count where they can");
        }
    }
}

#[test]
fn a_store_that_has_not_loaded_the_script_or_wants_authentication_is_asked_again_once() {
    let first = ask(&two(), &Asked::with(&[("x-mse-consumer", "user1")]));
    let Next::Reauthenticate(second) = first.pending.answer(Ok(b"-NOAUTH Authentication required.\r\n")) else {
        panic!()
    };
    let Next::Ask(third) = second.pending.answer(Ok(b"-NOSCRIPT No matching script.\r\n")) else { panic!() };
    assert_eq!(words(&third.call.command)[..3], ["EVAL", LIMITS.source, "2"]);
    assert!(admitted(third.pending.answer(Ok(b"-NOSCRIPT x\r\n"))).1.is_some());
}

#[test]
fn the_usage_is_charged_to_every_counter_in_one_call() {
    let (mut meter, _) = admitted(decide(&two(), Ok(b"*2\r\n*3\r\n:5\r\n:0\r\n:60\r\n*3\r\n:3\r\n:0\r\n:60\r\n")));
    meter.response_headers(Some(200), Some(b"application/json"), None);
    meter.response_body(ANSWER);
    let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
    let keys = ["{r}:global_threshold:60", "{r}:limit_by_consumer:60:x-mse-consumer:user1"];
    let keys = keys.map(|key| format!("higress-token-ratelimit:{key}"));
    let expected =
        [&["EVALSHA", LIMITS.sha1, "2"], &[&*keys[0], &*keys[1]][..], &["charge", "7", "5", "60", "3", "60"]];
    assert_eq!(words(&charge.call.command), expected.concat());
    let unknown = |reply: &[u8]| {
        let (mut meter, _) = admitted(decide(&two(), Ok(b"*2\r\n*3\r\n:5\r\n:0\r\n:60\r\n*3\r\n:3\r\n:0\r\n:60\r\n")));
        meter.response_body(ANSWER);
        let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
        match charge.booking.answer(Ok(reply)) {
            Booked::Unknown(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let begin = format!("7 tokens may not have been booked against {}, {}: ", keys[0], keys[1]);
    assert_eq!(unknown(b"-OOM x\r\n"), format!("{begin}Redis is out of memory: OOM x"));
    let broken = unknown(b"*2\r\n*3\r\n:5\r\n:7\r\n:60\r\n*3\r\n:3\r\n$1\r\nx\r\n:60\r\n");
    assert_eq!(broken, format!("{begin}what is stored at {} is no counter", keys[1]));
    let done = charge.booking.answer(Ok(b"*2\r\n*3\r\n:5\r\n:7\r\n:60\r\n*3\r\n:3\r\n:7\r\n:60\r\n"));
    assert!(matches!(done, Booked::Done { .. }));
}

#[test]
fn an_answer_without_usage_is_estimated_in_our_form_only() {
    let end = |config: &Value| {
        let (mut meter, _) = admitted(decide(config, Ok(b"*3\r\n:5\r\n:0\r\n:60\r\n")));
        meter.request_body(400);
        meter.response_headers(Some(200), Some(b"application/json"), None);
        meter.response_body(WITHOUT);
        meter.end(NOW)
    };
    let Ending::Charge(charge) = end(&ours()) else { panic!() };
    assert_eq!((charge.booking.tokens, charge.booking.estimated), (102, true));
    for config in [upstream(global()), v1(global())] {
        assert!(matches!(end(&config), Ending::Nothing(Unbooked::NoUsage)));
    }
}
