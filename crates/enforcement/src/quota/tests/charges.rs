//! What an admitted request ends in: the usage it told, else in the native form an estimate, and never twice.

use super::*;
use crate::redis::SHA1;

const ANSWER: &[u8] = br#"{"choices":[{"message":{"content":"12345678"}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
const WITHOUT: &[u8] = br#"{"choices":[{"message":{"content":"12345678"}}]}"#;
const JSON: Option<&[u8]> = Some(b"application/json");

fn sent(ending: Ending) -> Vec<String> {
    words(&charge(ending).call.command)
}

fn tokens(ending: Ending) -> Option<(i64, bool)> {
    match ending {
        Ending::Charge(charge) => Some((charge.booking.tokens, charge.booking.estimated)),
        Ending::Nothing(_) => None,
    }
}

#[test]
fn the_usage_an_answer_tells_is_charged() {
    let mut meter = admitted(&upstream_config());
    meter.response_headers(Some(200), JSON, None);
    meter.response_body(ANSWER);
    assert_eq!(sent(meter.end(NOW)), ["DECRBY", "chat_quota:user", "7"]);

    let mut meter = admitted(&native_config(false));
    meter.response_headers(Some(200), JSON, None);
    meter.response_body(ANSWER);
    let sent = sent(meter.end(NOW));
    assert_eq!(sent[..4], ["EVALSHA", SHA1, "4", "k:user"]);
    // Tokens, no hold, the period in which the request was admitted, and the periods around now.
    assert_eq!(sent[7..], ["charge", "7", "", "7", "daily", "reset", "9007199254740991", "7", "1000", "8", "2000"]);
}

#[test]
fn only_successful_answers_are_charged() {
    for config in [upstream_config(), native_config(false)] {
        for (status, charged) in
            [(200, true), (201, true), (299, true), (199, false), (300, false), (404, false), (503, false)]
        {
            let mut meter = admitted(&config);
            meter.request_body(100);
            meter.response_headers(Some(status), JSON, None);
            meter.response_body(ANSWER);
            assert_eq!(tokens(meter.end(NOW)), charged.then_some((7, false)), "{status}");
        }
        let mut meter = admitted(&config);
        meter.response_headers(None, JSON, None);
        meter.response_body(ANSWER);
        assert_eq!(tokens(meter.end(NOW)), Some((7, false)));
        let mut meter = admitted(&config);
        meter.response_body(ANSWER);
        assert_eq!(tokens(meter.end(NOW)), Some((7, false)), "no headers were seen");
    }
}

#[test]
fn an_answer_without_usage_is_estimated_in_the_native_form_only() {
    for (request, estimate) in [(0, 2), (1, 3), (400, 102), (16_384, 4_098), (1_000_000, 4_098)] {
        let end = |config: Value| {
            let mut meter = admitted(&config);
            meter.request_body(request / 2);
            meter.request_body(request - request / 2);
            meter.response_headers(Some(200), JSON, None);
            meter.response_body(WITHOUT);
            meter.end(NOW)
        };
        assert_eq!(tokens(end(native_config(false))), Some((estimate, true)));
        assert_eq!(end(upstream_config()), Ending::Nothing(Unbooked::NoUsage));
    }
}

#[test]
fn an_encoded_answer_counts_as_one_without_usage() {
    for (encoding, read) in [
        ("gzip", false),
        ("br", false),
        ("identity, gzip", false),
        ("identity", true),
        (" Identity ", true),
        ("", true),
    ] {
        let mut meter = admitted(&native_config(false));
        meter.request_body(40);
        meter.response_headers(Some(200), JSON, Some(encoding.as_bytes()));
        meter.response_body(ANSWER);
        assert_eq!(tokens(meter.end(NOW)), Some(if read { (7, false) } else { (10, true) }), "{encoding}");
    }
    let mut meter = admitted(&upstream_config());
    meter.response_headers(Some(200), JSON, Some(b"gzip"));
    meter.response_body(ANSWER);
    assert_eq!(meter.end(NOW), Ending::Nothing(Unbooked::NoUsage));
}

#[test]
fn a_client_that_leaves_is_charged_what_was_seen_of_its_answer() {
    let stream = b"data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\ndata: [DONE]\n\n";
    let first = stream.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    let second = first + stream[first..].windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    for config in [native_config(false), upstream_config()] {
        let native = config.get("aiquota").is_some();
        for (seen, usage, estimate) in
            [(stream.len(), Some(7), 0), (second, Some(7), 0), (first, None, 12), (first - 3, None, 12), (0, None, 10)]
        {
            let mut meter = admitted(&config);
            meter.request_body(40);
            if seen > 0 {
                meter.response_headers(Some(200), Some(b"text/event-stream"), None);
                stream[..seen].chunks(5).for_each(|chunk| meter.response_body(chunk));
            }
            let expected = usage.map(|usage| (usage, false)).or(native.then_some((estimate, true)));
            let got = tokens(meter.end(NOW));
            // A cut event may or may not have told its text.
            if seen == first - 3 && native {
                assert!(matches!(got, Some((10..=12, true))), "{got:?}");
            } else {
                assert_eq!(got, expected, "native {native}, {seen} bytes seen");
            }
        }
    }
}

#[test]
fn who_leaves_before_a_message_stream_counts_its_output_owes_the_text_that_was_sent() {
    let start =
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"output_tokens\":1}}}\n\n";
    let text = "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"123456789012345678901234567890\"}}\n\n";
    let end = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n";
    let owed = |config: Value, events: &[&str]| {
        let mut meter = admitted(&config);
        meter.request_body(400);
        meter.response_headers(Some(200), Some(b"text/event-stream"), None);
        events.iter().for_each(|event| meter.response_body(event.as_bytes()));
        tokens(meter.end(NOW))
    };
    assert_eq!(owed(native_config(false), &[start]), Some((51, false)));
    assert_eq!(owed(native_config(false), &[start, text]), Some((58, true)));
    assert_eq!(owed(native_config(false), &[start, text, text]), Some((65, true)));
    assert_eq!(owed(native_config(false), &[start, text, text, end]), Some((55, false)), "its own count decides");
    assert_eq!(owed(upstream_config(), &[start, text, text]), Some((51, false)), "upstream estimates nothing");
}

#[test]
fn a_request_that_began_anew_is_not_charged_for_its_first_try() {
    for config in [upstream_config(), native_config(false)] {
        let mut meter = admitted(&config);
        meter.request_body(400);
        assert!(meter.is_unanswered());
        meter.redirected();
        assert_eq!(meter.end(NOW), Ending::Nothing(Unbooked::Redirected));
        let mut meter = admitted(&config);
        meter.response_body(ANSWER);
        assert!(!meter.is_unanswered());
    }
}

#[test]
fn an_amount_beyond_what_redis_can_count_is_capped() {
    let mut meter = admitted(&native_config(false));
    meter.response_headers(Some(200), JSON, None);
    meter.response_body(br#"{"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":18446744073709551615}}"#);
    let ending = meter.end(NOW);
    assert!(tokens(ending).is_some_and(|(tokens, _)| tokens <= values::MAX_AMOUNT));
}

fn booking(config: &Value) -> Booking {
    let mut meter = admitted(config);
    meter.response_body(ANSWER);
    charge(meter.end(NOW)).booking
}

#[test]
fn a_charge_is_repeated_only_where_it_cannot_have_been_booked() {
    for config in [upstream_config(), native_config(false)] {
        let native = config.get("aiquota").is_some();
        let noauth: &[u8] = b"-NOAUTH Authentication required.\r\n";
        let noscript: &[u8] = b"-NOSCRIPT No matching script.\r\n";
        let Booked::Reauthenticate(second) = booking(&config).answer(Ok(noauth)) else { panic!() };
        match second.booking.answer(Ok(noscript)) {
            Booked::Again(third) if native => {
                assert_eq!(words(&third.call.command)[0], "EVAL");
                assert!(matches!(third.booking.answer(Ok(noauth)), Booked::Unknown(_)));
            }
            Booked::Unknown(_) if !native => {}
            other => panic!("{other:?}"),
        }
        for failure in [Failure::Network, Failure::Deadline, Failure::Dispatch(10), Failure::Unreadable] {
            let Booked::Unknown(what) = booking(&config).answer(Err(failure)) else { panic!() };
            assert!(what.starts_with("7 tokens may not have been booked against "), "{what}");
        }
    }
}

#[test]
fn what_became_of_a_charge_is_told() {
    let native = |reply: &str| booking(&native_config(false)).answer(Ok(reply.as_bytes()));
    let booked = || Booked::Done { tokens: 7, estimated: false, warned: 0 };
    for done in ["*2\r\n$6\r\nbooked\r\n:5\r\n", "*2\r\n$6\r\nbooked\r\n$-1\r\n", "*1\r\n$8\r\nforgiven\r\n"] {
        assert_eq!(native(done), booked());
    }
    for unknown in ["*1\r\n$6\r\nabsent\r\n", "*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n", "-ERR x\r\n", ":1\r\n", ""] {
        assert!(matches!(native(unknown), Booked::Unknown(_)), "{unknown:?}");
    }
    let upstream = |reply: &str| booking(&upstream_config()).answer(Ok(reply.as_bytes()));
    assert_eq!(upstream(":-3\r\n"), booked());
    assert!(matches!(upstream("-ERR value is not an integer or out of range\r\n"), Booked::Unknown(_)));
    assert!(matches!(upstream("garbage"), Booked::Unknown(_)));
}
