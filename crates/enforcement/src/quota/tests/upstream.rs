//! Every row of upstream's table of answers, byte for byte, and the commands that are sent for them.

use super::*;

const TEXT: &str = "text/plain";
const NO_QUOTA: (u16, &str, &str, &str) =
    (403, TEXT, "Request denied by ai quota check, No quota left", "ai-quota.noquota");

fn seen(response: &Response) -> (u16, &str, &str, &str) {
    (response.status, response.content_type, &response.body, response.details)
}

fn refused(identity: &[&str], path: &str) -> Response {
    match start(&upstream_config(), identity, path) {
        Step::Refuse(response) => response,
        other => panic!("{other:?}"),
    }
}

fn form(path: &str, body: &str) -> Step {
    match start(&upstream_config(), &["admin"], path) {
        Step::AwaitForm(await_form) => await_form.form(body.as_bytes(), NOW),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_without_identity_is_answered_as_upstream_answers() {
    for path in ["/v1/chat/completions", "/v1/chat/completions/quota", "/other"] {
        assert_eq!(
            seen(&refused(&[], path)),
            (
                401,
                TEXT,
                "Request denied by ai quota check. No Key Authentication information found.",
                "ai-quota.no_key"
            )
        );
        for identity in [&[""][..], &["a", "b"], &["a", ""]] {
            assert_eq!(
                seen(&refused(identity, path)),
                (403, TEXT, "Request denied by ai quota check. Unauthorized consumer.", "ai-quota.unauthorized")
            );
        }
    }
}

#[test]
fn a_metered_request_asks_for_the_balance() {
    for path in ["/v1/chat/completions", "/v1/messages", "/x/v1/chat/completions?a=b"] {
        let ask = ask(start(&upstream_config(), &["user", "user"], path));
        assert!(ask.pending.is_metered());
        assert_eq!(words(&ask.call.command), ["GET", "chat_quota:user"]);
        assert_eq!(ask.call.store.cluster, "outbound|80||redis.static");
    }
    // Upstream puts any name into a key.
    let ask = ask(start(&upstream_config(), &["a b{c}\u{fc}"], "/v1/messages"));
    assert_eq!(words(&ask.call.command), ["GET", "chat_quota:a b{c}\u{fc}"]);
}

#[test]
fn only_a_positive_integer_admits() {
    let answer = |reply: Result<&[u8], Failure>| {
        ask(start(&upstream_config(), &["user"], "/v1/chat/completions")).pending.answer(reply)
    };
    for reply in ["$1\r\n1\r\n", ":1000\r\n", "$3\r\n+10\r\n", "+7\r\n", "$20\r\n99999999999999999999\r\n"] {
        assert!(matches!(answer(Ok(reply.as_bytes())), Next::Admit(_)), "{reply}");
    }
    for reply in [
        "$-1\r\n",
        "$1\r\n0\r\n",
        "$2\r\n-5\r\n",
        ":0\r\n",
        "$0\r\n\r\n",
        "$3\r\nabc\r\n",
        "$3\r\n1.5\r\n",
        "$3\r\n1e3\r\n",
        "*1\r\n:5\r\n",
        "-ERR x\r\n",
        "-WRONGTYPE x\r\n",
        "$21\r\n-99999999999999999999\r\n",
        "",
        "garbage",
        "$5\r\n12",
    ] {
        assert_eq!(seen(&refusal(answer(Ok(reply.as_bytes())))), NO_QUOTA, "{reply:?}");
    }
    for failure in [Failure::Network, Failure::Deadline, Failure::Dispatch(2), Failure::Unreadable] {
        let response = refusal(answer(Err(failure)));
        assert_eq!(seen(&response), NO_QUOTA);
        assert_eq!(response.log, Some(failure.to_string()));
    }
}

#[test]
fn only_the_admin_may_use_the_admin_api() {
    for path in ["/quota", "/quota?consumer=a", "/quota/refresh", "/quota/delta"] {
        assert_eq!(
            seen(&refused(&["user"], &format!("/v1/chat/completions{path}"))),
            (403, TEXT, "Request denied by ai quota check. Unauthorized admin consumer.", "ai-quota.unauthorized")
        );
    }
}

#[test]
fn a_query_tells_the_balance() {
    for path in ["/v1/chat/completions/quota", "/v1/chat/completions/quota?consumer=", "/v1/chat/completions/quota?c=a"]
    {
        assert_eq!(
            seen(&refused(&["admin"], path)),
            (403, TEXT, "Request denied by ai quota check. consumer can't be empty.", "ai-quota.unauthorized")
        );
    }
    let query = || ask(start(&upstream_config(), &["admin"], "/v1/chat/completions/quota?consumer=consumer1"));
    assert!(!query().pending.is_metered());
    assert_eq!(words(&query().call.command), ["GET", "chat_quota:consumer1"]);
    for (reply, body) in [
        ("$3\r\n500\r\n", r#"{"consumer":"consumer1","quota":500}"#),
        (":500\r\n", r#"{"consumer":"consumer1","quota":500}"#),
        ("$-1\r\n", r#"{"consumer":"consumer1","quota":0}"#),
        ("$3\r\nabc\r\n", r#"{"consumer":"consumer1","quota":0}"#),
        ("$3\r\n-20\r\n", r#"{"consumer":"consumer1","quota":-20}"#),
    ] {
        let response = refusal(query().pending.answer(Ok(reply.as_bytes())));
        assert_eq!(seen(&response), (200, "application/json", body, "ai-quota.queryquota"));
    }
    let response = refusal(query().pending.answer(Ok(b"-WRONGTYPE Operation against a key\r\n")));
    assert_eq!(seen(&response), (503, TEXT, "redis error:WRONGTYPE Operation against a key", "ai-quota.error"));
    for (failure, text) in [
        (Failure::Network, "redis error:cannot connect to redis cluster"),
        (Failure::Deadline, "redis error:cannot connect to redis cluster"),
        (Failure::Dispatch(2), "redis error:error status returned by host: bad argument"),
        (Failure::Unreadable, "redis error:cannot read redis response"),
    ] {
        assert_eq!(seen(&refusal(query().pending.answer(Err(failure)))), (503, TEXT, text, "ai-quota.error"));
    }
    let response = refusal(query().pending.answer(Ok(b"nonsense")));
    assert_eq!(seen(&response), (503, TEXT, "redis error:cannot read redis response", "ai-quota.error"));
}

#[test]
fn a_refresh_sets_the_balance() {
    let ask = || ask(form("/v1/chat/completions/quota/refresh", "consumer=consumer1&quota=-100"));
    assert_eq!(words(&ask().call.command), ["SET", "chat_quota:consumer1", "-100"]);
    assert!(!ask().pending.is_metered());
    let response = refusal(ask().pending.answer(Ok(b"+OK\r\n")));
    assert_eq!(seen(&response), (200, TEXT, "refresh quota successful", "ai-quota.refreshquota"));
    let response = refusal(ask().pending.answer(Ok(b"-OOM command not allowed\r\n")));
    assert_eq!(seen(&response), (503, TEXT, "redis error:OOM command not allowed", "ai-quota.error"));
    for body in [
        "",
        "consumer=a",
        "quota=5",
        "consumer=&quota=5",
        "consumer=a&quota=",
        "consumer=a&quota=x",
        "consumer=a&quota=1.0",
        "consumer=a&quota=9223372036854775808",
        "consumer=a&value=5",
        "consumer=a&quota=%205",
        "{\"consumer\":\"a\"}",
    ] {
        let Step::Refuse(response) = form("/v1/chat/completions/quota/refresh", body) else { panic!("{body}") };
        let text = "Request denied by ai quota check. consumer can't be empty and quota must be integer.";
        assert_eq!(seen(&response), (403, TEXT, text, "ai-quota.unauthorized"), "{body}");
    }
}

#[test]
fn a_delta_adds_or_subtracts() {
    for (value, sent) in [
        ("100", ["INCRBY", "chat_quota:c", "100"]),
        ("%2B7", ["INCRBY", "chat_quota:c", "7"]),
        ("0", ["INCRBY", "chat_quota:c", "0"]),
        ("-50", ["DECRBY", "chat_quota:c", "50"]),
        ("-9223372036854775808", ["DECRBY", "chat_quota:c", "-9223372036854775808"]),
    ] {
        let ask = ask(form("/v1/chat/completions/quota/delta", &format!("consumer=c&value={value}")));
        assert_eq!(words(&ask.call.command), sent);
        let response = refusal(ask.pending.answer(Ok(b":150\r\n")));
        assert_eq!(seen(&response), (200, TEXT, "delta quota successful", "ai-quota.deltaquota"));
    }
    for body in ["consumer=a&quota=5", "value=5", "consumer=a&value=+"] {
        let Step::Refuse(response) = form("/v1/chat/completions/quota/delta", body) else { panic!("{body}") };
        let text = "Request denied by ai quota check. consumer can't be empty and value must be integer.";
        assert_eq!(seen(&response), (403, TEXT, text, "ai-quota.unauthorized"), "{body}");
    }
}

#[test]
fn any_other_path_passes_unmetered() {
    for path in ["/", "/v1/models", "/v1/chat/completions/other", "/v1/responses"] {
        assert_eq!(start(&upstream_config(), &["user"], path), Step::Pass);
    }
}

#[test]
fn a_rule_that_does_not_parse_answers_503_on_all_it_matches() {
    let config = json!({"admin_consumer": "a", "_rules_": [
        {"_match_domain_": ["x.org"], "admin_consumer": "a"},
        {"_match_domain_": ["y.org"], "admin_consumer": "a", "redis": {"service_name": "r.static"}}
    ]});
    let quota = quota(&config);
    let step = |authority: &str, path: &str| {
        let subject = Subject { authority: authority.as_bytes(), ..Subject::default() };
        begin(
            quota.target(&subject).unwrap(),
            &Asked { identity: &[b"user"], path: path.as_bytes(), upgrade: &[], now: NOW },
        )
    };
    for (host, body) in [
        ("x.org", "Request denied by ai quota check. Invalid configuration: _rules_[0].redis is missing."),
        ("other.org", "Request denied by ai quota check. Invalid configuration: redis is missing."),
    ] {
        for path in ["/v1/chat/completions", "/any"] {
            let Step::Refuse(response) = step(host, path) else { panic!("{host}") };
            assert_eq!(seen(&response), (503, TEXT, body, "ai-quota.error"));
        }
    }
    assert!(matches!(step("y.org", "/v1/chat/completions"), Step::Ask(_)));
}

#[test]
fn authentication_is_tried_again_once() {
    let noauth: &[u8] = b"-NOAUTH Authentication required.\r\n";
    let first = ask(start(&upstream_config(), &["user"], "/v1/chat/completions"));
    let command = first.call.command.clone();
    let Next::Reauthenticate(second) = first.pending.answer(Ok(noauth)) else { panic!() };
    assert_eq!(second.call.command, command);
    assert_eq!(seen(&refusal(second.pending.answer(Ok(noauth)))), NO_QUOTA);

    let first = ask(start(&upstream_config(), &["admin"], "/v1/chat/completions/quota?consumer=c"));
    let Next::Reauthenticate(second) = first.pending.answer(Ok(noauth)) else { panic!() };
    let response = refusal(second.pending.answer(Ok(noauth)));
    assert_eq!(seen(&response), (503, TEXT, "redis error:NOAUTH Authentication required.", "ai-quota.error"));
}

#[test]
fn a_second_identity_is_no_way_out_of_a_rule_for_one_consumer() {
    let mut rule = upstream_config();
    rule["_match_route_prefix_"] = json!(["r"]);
    rule["_match_consumer_"] = json!(["user"]);
    let quota = quota(&json!({"_rules_": [rule]}));
    let subject = |consumer| Subject { route: b"route", consumer, ..Subject::default() };
    let target = |identity: &[&'static [u8]]| {
        quota.matched_by_any(&subject(identity.first().unwrap_or(&&b""[..])), identity).map(|matched| matched.target)
    };
    assert!(target(&[]).is_none() && target(&[b"other"]).is_none() && target(&[b"other", b"third"]).is_none());
    for identity in [&[&b"user"[..]][..], &[b"user", b"other"], &[b"other", b"user"], &[b"", b"third", b"user"]] {
        let request = Asked { identity, path: b"/v1/messages", upgrade: &[], now: NOW };
        let step = begin(target(identity).unwrap(), &request);
        assert_eq!(matches!(step, Step::Ask(_)), identity.len() == 1, "{identity:?}");
    }
}
