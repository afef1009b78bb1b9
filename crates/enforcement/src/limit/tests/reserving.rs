//! Limits that hold tokens for requests in flight: what is asked for, when a request is refused, and that its charge
//! drops the hold.

use super::*;
use crate::prompt::Reader;
use crate::steps::Body;

fn reserving(ends: &Value) -> Value {
    let mut config = native(json!({"global": [{"tokens": 100, "windowSeconds": 60}]}));
    config["aiquota"]["policies"]["p"]["reserve"] = json!({"defaultMaxTokens": 70});
    config["aiquota"]["policies"]["p"]["ends"] = ends.clone();
    config
}

fn held(config: &Value, body: &str) -> Ask {
    let Step::AwaitBody(awaiting) = start(config, &Asked::with(&[])) else { panic!("the body is not awaited") };
    let mut reader = Reader::new();
    reader.feed(body.as_bytes());
    match Limits::body(awaiting, Body::Read(reader.finish()), &Asked::with(&[])) {
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    }
}

fn answered(ends: &Value, counted: i64) -> Next {
    let reply = format!("*1\r\n*3\r\n:100\r\n:{counted}\r\n:30\r\n");
    held(&reserving(ends), r#"{"max_tokens":20}"#).pending.answer(Ok(reply.as_bytes()))
}

#[test]
fn every_counter_holds_what_the_request_may_cost() {
    let sent = words(&held(&reserving(&json!({})), r#"{"max_tokens":20}"#).call.command);
    let counter = "higress-token-ratelimit:{r}:global_threshold:60";
    assert_eq!(
        sent[3..6],
        [counter.to_owned(), format!("aiquota:holds:{counter}"), format!("aiquota:amounts:{counter}")]
    );
    assert_eq!(sent[6..], ["reserve", "25", "7-1", "60", "100", "60"]);
}

#[test]
fn a_request_is_made_to_ask_for_usage_only_where_that_is_said() {
    let asks = |ends: Value| held(&reserving(&ends), r#"{"stream":true}"#).edit.is_some();
    assert!(asks(json!({"includeUsage": true})) && !asks(json!({})));
    let mut config = native(json!({"global": [{"tokens": 100, "windowSeconds": 60}]}));
    assert!(matches!(start(&config, &Asked::with(&[])), Step::Ask(_)));
    config["aiquota"]["policies"]["p"]["ends"] = json!({"includeUsage": true});
    assert!(matches!(start(&config, &Asked::with(&[])), Step::AwaitBody(_)), "its body says whether it asks");
}

#[test]
fn a_request_passes_if_what_it_may_cost_is_left() {
    assert!(matches!(answered(&json!({}), 75), Next::Admit(_)));
    let Next::Refuse(response) = answered(&json!({}), 76) else { panic!() };
    assert_eq!((response.status, response.details), (429, "ai-token-ratelimit.rejected"));
    let Next::Admit(mut admitted) = answered(&json!({"rateLimitHeaders": true}), 60) else { panic!() };
    let told = admitted.meter.take_headers();
    assert!(told.contains(&("x-ratelimit-remaining-tokens", "15".to_owned())), "{told:?}");
}

#[test]
fn its_charge_drops_the_hold_whatever_it_comes_to() {
    let ended = |status, body: &[u8]| {
        let Next::Admit(admitted) = answered(&json!({"onMissingUsage": "Ignore"}), 0) else { panic!() };
        let mut meter = admitted.meter;
        meter.response_headers(Some(status), None, None);
        meter.response_body(body);
        match meter.end(NOW) {
            Ending::Charge(charge) => charge,
            other => panic!("{other:?}"),
        }
    };
    let sent = words(&ended(200, br#"{"usage":{"total_tokens":9}}"#).call.command);
    assert_eq!(sent[6..], ["settle", "9", "7-1", "100", "60"]);
    let dropped = ended(500, b"");
    assert_eq!(words(&dropped.call.command)[6..], ["settle", "0", "7-1", "100", "60"]);
    assert_eq!(dropped.booking.answer(Ok(b"-READONLY x\r\n")), Booked::Done { tokens: 0, estimated: false, warned: 0 });
}

#[test]
fn a_hold_is_renewed_and_dropped_behind_a_late_answer() {
    let Next::Admit(admitted) = answered(&json!({}), 0) else { panic!() };
    let sent = words(&admitted.meter.renewal().unwrap().call.command);
    assert_eq!((sent[2].as_str(), &sent[5..]), ("2", &["renew", "7-1", "60"].map(str::to_owned)[..]));
    let pending = held(&reserving(&json!({})), "{}").pending;
    assert_eq!(words(&pending.release(NOW).unwrap().call.command)[6..9], ["settle", "0", "7-1"]);
}

#[test]
fn without_the_stores_word_what_it_may_hold_is_dropped_and_who_observes_holds_nothing() {
    let pending = held(&reserving(&json!({"onMissingUsage": "Ignore"})), "{}").pending;
    let Next::Admit(admitted) = pending.answer(Err(Failure::Network)) else { panic!() };
    let Ending::Charge(charge) = admitted.meter.end(NOW) else { panic!() };
    assert_eq!(words(&charge.call.command)[6..9], ["settle", "0", "7-1"]);
    let Step::Ask(ask) = start(&reserving(&json!({"mode": "Observe"})), &Asked::with(&[])) else { panic!() };
    assert!(words(&ask.call.command).contains(&"check".to_owned()));
}

#[test]
fn a_body_that_is_too_long_is_refused_and_what_no_limit_is_for_is_not_awaited() {
    let Step::AwaitBody(awaiting) = start(&reserving(&json!({"errors": "OpenAI"})), &Asked::with(&[])) else {
        panic!()
    };
    let Step::Refuse(response) = Limits::body(awaiting, Body::TooLong, &Asked::with(&[])) else { panic!() };
    assert_eq!((response.status, response.content_type), (413, "application/json"));
    assert_eq!(response.details, "ai-token-ratelimit.body_too_long");
    let mut config = reserving(&json!({}));
    let any = json!([{"by": {"header": "k"}, "limits": [{"match": "any", "tokens": 1, "windowSeconds": 60}]}]);
    config["aiquota"]["policies"]["p"]["global"] = json!([]);
    config["aiquota"]["policies"]["p"]["rules"] = any;
    assert!(matches!(start(&config, &Asked::with(&[])), Step::Pass), "no limit is for it");
}
