//! A policy that holds tokens for requests in flight: what is asked for, and that whatever becomes of a request, its
//! hold is dropped.

use super::*;
use crate::prompt::Reader;
use crate::steps::{Admitted, Body, Count};

const METERED: &str = "/v1/chat/completions";
const ADMITTED: &[u8] = b"*4\r\n$8\r\nadmitted\r\n:500\r\n:7\r\n:1000\r\n";

fn reserving(ends: Value) -> Value {
    let mut config = native_config(false);
    config["aiquota"]["policies"]["p"]["reserve"] = json!({"defaultMaxTokens": 70});
    config["aiquota"]["policies"]["p"]["ends"] = ends;
    config
}

fn request() -> Asked<'static> {
    Asked { identity: &[b"user"], path: METERED.as_bytes(), upgrade: &[], now: NOW }
}

fn held(config: &Value, body: &str) -> Ask {
    let Step::AwaitBody(awaiting) = start(config, &["user"], METERED) else { panic!("the body is not awaited") };
    let mut reader = Reader::new();
    reader.feed(body.as_bytes());
    ask(Quotas::body(awaiting, Body::Read(reader.finish()), &request()))
}

fn admitted_with(config: &Value, reply: &[u8]) -> Meter {
    match held(config, r#"{"max_tokens":20}"#).pending.answer(Ok(reply)) {
        Next::Admit(admitted) => *admitted.meter,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_check_holds_what_the_request_may_cost() {
    let config = reserving(json!({}));
    let sent = |body: &str| words(&held(&config, body).call.command)[7..11].to_vec();
    assert_eq!(sent(r#"{"max_tokens":20}"#), ["check", "25", "7-1", "60"], "20 and 17 bytes");
    assert_eq!(sent(r#"{"model":"m"}"#), ["check", "74", "7-1", "60"], "70 and 13 bytes");
    assert_eq!(sent("no JSON"), ["check", "72", "7-1", "60"]);
    assert_eq!(sent(""), ["check", "70", "7-1", "60"]);
}

#[test]
fn whatever_a_request_comes_to_its_charge_drops_the_hold() {
    let config = reserving(json!({"onMissingUsage": "Ignore"}));
    let ended = |end: &dyn Fn(&mut Meter)| {
        let mut meter = admitted_with(&config, ADMITTED);
        end(&mut meter);
        words(&charge(meter.end(NOW)).call.command)[7..11].to_vec()
    };
    let dropped = ["charge", "0", "7-1", "7"];
    assert_eq!(
        ended(&|meter| {
            meter.response_headers(Some(200), None, None);
            meter.response_body(br#"{"usage":{"total_tokens":9}}"#);
        }),
        ["charge", "9", "7-1", "7"]
    );
    assert_eq!(ended(&|_| {}), dropped, "the client left");
    assert_eq!(ended(&|meter| meter.response_headers(Some(500), None, None)), dropped);
    assert_eq!(ended(&|meter| meter.response_headers(Some(200), None, Some(b"gzip"))), dropped);
    assert_eq!(ended(&|meter| meter.redirected()), dropped);
    let mut estimated = admitted_with(&reserving(json!({})), ADMITTED);
    estimated.response_headers(Some(200), None, None);
    let sent = words(&charge(estimated.end(NOW)).call.command);
    assert_eq!(sent[7..10], ["charge", "5", "7-1"], "17 bytes of a body that was read before");
}

#[test]
fn a_hold_that_could_not_be_dropped_is_no_lost_charge() {
    let replies: [Result<&[u8], Failure>; 3] =
        [Err(Failure::Deadline), Ok(b"*1\r\n$6\r\nabsent\r\n"), Ok(b"*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n")];
    for reply in replies {
        let charge = charge(admitted_with(&reserving(json!({"onMissingUsage": "Ignore"})), ADMITTED).end(NOW));
        assert_eq!(charge.booking.tokens, 0);
        assert_eq!(charge.booking.answer(reply), Booked::Done { tokens: 0, estimated: false, warned: 0 });
    }
}

#[test]
fn who_has_no_limit_holds_nothing() {
    let meter = admitted_with(&reserving(json!({"onMissingUsage": "Ignore"})), b"*2\r\n$9\r\nunlimited\r\n:7\r\n");
    assert_eq!(meter.end(NOW), Ending::Nothing(Unbooked::NoUsage));
}

#[test]
fn what_passes_without_the_stores_word_drops_what_the_store_may_hold_for_it() {
    let config = reserving(json!({"onStoreFailure": "Admit", "onMissingUsage": "Ignore"}));
    let Next::Admit(Admitted { meter, counts, log: _ }) = held(&config, "{}").pending.answer(Err(Failure::Network))
    else {
        panic!()
    };
    assert_eq!(counts, [Count::Admitted, Count::StoreFailure]);
    assert_eq!(words(&charge(meter.end(NOW)).call.command)[7..11], ["charge", "0", "7-1", ""]);
}

#[test]
fn who_only_observes_reads_no_body_and_holds_nothing() {
    let config = reserving(json!({"mode": "Observe"}));
    let sent = words(&ask(start(&config, &["user"], METERED)).call.command);
    assert_eq!(sent[7..11], ["observe", "1", "", ""]);
}

#[test]
fn a_body_that_is_too_long_is_refused_in_the_shape_that_is_chosen() {
    let refused = |ends: Value| {
        let Step::AwaitBody(awaiting) = start(&reserving(ends), &["user"], METERED) else { panic!() };
        match Quotas::body(awaiting, Body::TooLong, &request()) {
            Step::Refuse(response) => response,
            other => panic!("{other:?}"),
        }
    };
    let response = refused(json!({}));
    let text = "Request denied by ai quota check. The request body is longer than 10 MiB.";
    assert_eq!((response.status, &*response.body, response.content_type), (413, text, "text/plain"));
    assert_eq!((response.details, response.counts), ("ai-quota.body_too_long", &[Count::Refused][..]));
    let response = refused(json!({"errors": "Anthropic"}));
    assert_eq!((response.status, response.content_type), (413, "application/json"));
}

#[test]
fn a_request_is_made_to_ask_for_usage_only_where_that_is_said_and_known() {
    let asks = |ends: Value, body: &str| held(&reserving(ends), body).edit.is_some();
    let body = r#"{"stream":true}"#;
    assert!(asks(json!({"includeUsage": true}), body) && !asks(json!({}), body));
    assert!(!asks(json!({"includeUsage": true}), r#"{"stream":false}"#));

    let mut config = native_config(false);
    config["aiquota"]["policies"]["p"]["ends"] = json!({"includeUsage": true});
    config["aiquota"]["policies"]["p"]["paths"] = json!([METERED, "/v1/messages"]);
    assert!(matches!(start(&config, &["user"], METERED), Step::AwaitBody(_)), "its body says whether it asks");
    assert!(matches!(start(&config, &["user"], "/v1/messages"), Step::Ask(_)), "another API");
}

#[test]
fn only_who_was_made_to_ask_is_spared_the_usage_and_it_is_charged_all_the_same() {
    const USAGE: &[u8] = b"data: {\"choices\":[],\"usage\":{\"total_tokens\":9}}\n\n";
    let answered = |edited: bool, status: u16, content_type: &[u8], encoding: Option<&[u8]>| {
        let mut ask = held(&reserving(json!({"includeUsage": true})), r#"{"stream":true}"#);
        if edited {
            ask.pending.was_edited();
        }
        let Next::Admit(admitted) = ask.pending.answer(Ok(ADMITTED)) else { panic!() };
        let mut meter = *admitted.meter;
        meter.response_headers(Some(status), Some(content_type), encoding);
        meter.response_body(USAGE);
        let got = meter.in_place_of(USAGE, false);
        assert_eq!(got.is_some(), meter.changes_body());
        (got, words(&charge(meter.end(NOW)).call.command)[8].clone())
    };
    let events = b"text/event-stream";
    assert_eq!(answered(true, 200, events, None), (Some(Vec::new()), "9".to_owned()));
    assert_eq!(answered(false, 200, events, None), (None, "9".to_owned()), "its client asked");
    assert_eq!(answered(true, 200, b"application/json", None).0, None);
    assert_eq!(answered(true, 200, events, Some(b"gzip")).0, None);
    assert_eq!(answered(true, 500, events, None), (None, "0".to_owned()));
}

#[test]
fn what_a_client_is_told_is_left_is_without_its_own_hold() {
    let config = reserving(json!({"rateLimitHeaders": true}));
    let headers = admitted_with(&config, ADMITTED).take_headers();
    let remaining = headers.iter().find(|(name, _)| *name == "x-ratelimit-remaining-tokens").unwrap();
    assert_eq!(remaining.1, "475");
}

#[test]
fn a_hold_is_renewed_while_its_request_lives_and_only_what_is_held() {
    let meter = admitted_with(&reserving(json!({})), ADMITTED);
    assert!(meter.holds());
    let sent = words(&meter.renewal().unwrap().call.command);
    assert_eq!(sent[3..], ["k:user", "{k:user}:ledger", "{k:user}:holds", "{k:user}:amounts", "renew", "7-1", "60"]);
    let renewal = meter.renewal().unwrap();
    let Booked::Again(again) = renewal.booking.answer(Ok(b"-NOSCRIPT x\r\n")) else { panic!() };
    assert_eq!(words(&again.call.command)[0], "EVAL", "a renewal is not lost to a Redis that forgot the script");
    assert_eq!(
        again.booking.answer(Ok(b"*2\r\n$7\r\nrenewed\r\n:0\r\n")),
        Booked::Done { tokens: 0, estimated: false, warned: 0 }
    );
    let plain = admitted(&native_config(false));
    assert!(!plain.holds() && plain.renewal().is_none());
}

#[test]
fn what_a_late_answer_may_have_held_can_be_dropped() {
    let pending = held(&reserving(json!({})), r#"{"max_tokens":20}"#).pending;
    let sent = words(&pending.release(NOW).unwrap().call.command);
    assert_eq!(sent[7..11], ["charge", "0", "7-1", ""]);
    let plain = ask(start(&native_config(false), &["user"], METERED)).pending;
    assert!(plain.release(NOW).is_none());
}
