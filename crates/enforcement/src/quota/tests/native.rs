//! The native form: scripts instead of plain commands, the same texts, and what upstream has nothing for.

use super::*;
use crate::redis::{SHA1, SOURCE};

const CHECK: [&str; 4] = ["k:user", "{k:user}:ledger", "{k:user}:holds", "{k:user}:amounts"];

fn check() -> Ask {
    ask(start(&native_config(false), &["user"], "/v1/chat/completions"))
}

fn store_unavailable(response: &Response) -> bool {
    (response.status, &*response.body, response.details)
        == (503, "Request denied by ai quota check. Quota store unavailable.", "ai-quota.error")
        && response.log.is_some()
}

fn no_quota(response: &Response) -> bool {
    (response.status, &*response.body, response.details)
        == (403, "Request denied by ai quota check, No quota left", "ai-quota.noquota")
}

#[test]
fn a_check_is_one_script_call_with_default_and_period() {
    let sent = words(&check().call.command);
    assert_eq!(sent[..3], ["EVALSHA", SHA1, "4"]);
    assert_eq!(sent[3..7], CHECK);
    assert_eq!(sent[7], "check");
    assert!(sent.contains(&"1000".to_owned()) && sent.contains(&"uid/ns/p".to_owned()));
    assert_eq!(sent[sent.len() - 7..], ["daily", "reset", "9007199254740991", "7", "1000", "8", "2000"]);
}

#[test]
fn a_script_that_is_not_loaded_is_sent_whole_once() {
    let noscript: &[u8] = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";
    let Next::Ask(second) = check().pending.answer(Ok(noscript)) else { panic!() };
    let sent = words(&second.call.command);
    assert_eq!(sent[..3], ["EVAL", SOURCE, "4"]);
    assert_eq!(sent[3..], words(&check().call.command)[3..]);
    assert!(store_unavailable(&refusal(second.pending.answer(Ok(noscript)))));
}

#[test]
fn authentication_and_script_may_both_be_missing() {
    let noscript: &[u8] = b"-NOSCRIPT No matching script.\r\n";
    // The second is what Redis says to a command of more than ten words.
    let texts = ["-NOAUTH Authentication required.\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"];
    for noauth in texts.map(str::as_bytes) {
        let Next::Reauthenticate(second) = check().pending.answer(Ok(noauth)) else { panic!() };
        let Next::Ask(third) = second.pending.answer(Ok(noscript)) else { panic!() };
        assert_eq!(words(&third.call.command)[0], "EVAL");
        assert!(store_unavailable(&refusal(third.pending.answer(Ok(noauth)))));
    }
}

#[test]
fn outcomes_of_the_check_decide() {
    for reply in [
        "*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
        "*3\r\n$8\r\nadmitted\r\n:5\r\n$-1\r\n",
        "*2\r\n$9\r\nunlimited\r\n$-1\r\n",
    ] {
        assert!(matches!(check().pending.answer(Ok(reply.as_bytes())), Next::Admit(_)), "{reply}");
    }
    for reply in ["*2\r\n$7\r\nrefused\r\n:0\r\n", "*2\r\n$7\r\nrefused\r\n$-1\r\n"] {
        let response = refusal(check().pending.answer(Ok(reply.as_bytes())));
        assert!(no_quota(&response) && response.log.is_none(), "{reply}");
    }
    let response = refusal(check().pending.answer(Ok(b"*2\r\n$9\r\nmalformed\r\n$4\r\n1e17\r\n")));
    assert!(no_quota(&response));
    assert_eq!(response.log.as_deref(), Some("the balance k:user is malformed: 1e17"));
}

#[test]
fn a_store_that_fails_a_check_is_said_to_be_unavailable() {
    for reply in [
        "-ERR x\r\n",
        "-MOVED 1 1.2.3.4:6379\r\n",
        "-READONLY x\r\n",
        "-LOADING x\r\n",
        "$1\r\n5\r\n",
        "$-1\r\n",
        ":1\r\n",
        "*0\r\n",
        "",
        "garbage",
        "*3\r\n$8\r\nadmitted\r\n",
        "*2\r\n$6\r\nlayout\r\n$1\r\n9\r\n",
    ] {
        assert!(store_unavailable(&refusal(check().pending.answer(Ok(reply.as_bytes())))), "{reply:?}");
    }
    for failure in [Failure::Network, Failure::Deadline, Failure::Dispatch(2), Failure::Dispatch(10)] {
        assert!(store_unavailable(&refusal(check().pending.answer(Err(failure)))), "{failure}");
    }
}

#[test]
fn consumers_outside_the_alphabet_are_unauthorized() {
    let long = "x".repeat(254);
    for consumer in ["a b", "a{b", "}", "ü", "a\u{7f}", long.as_str()] {
        let Step::Refuse(response) = start(&native_config(false), &[consumer], "/v1/chat/completions") else {
            panic!("{consumer}")
        };
        assert_eq!((response.status, response.details), (403, "ai-quota.unauthorized"));
        assert_eq!(response.body, "Request denied by ai quota check. Unauthorized consumer.");
    }
}

#[test]
fn a_websocket_on_a_metered_path_is_refused_because_nothing_in_it_could_be_charged() {
    let begun = |config: Value, path: &str, upgrade: &[&[u8]]| {
        let quota = quota(&config);
        let request = Asked { identity: &[b"user"], path: path.as_bytes(), upgrade, now: NOW };
        begin(quota.target(&Subject::default()).unwrap(), &request)
    };
    let metered = "/v1/chat/completions";
    for upgrade in [&[b"websocket".as_slice()][..], &[b"WebSocket"], &[b"h2c, websocket"], &[b"h2c", b" websocket "]] {
        let Step::Refuse(response) = begun(native_config(false), metered, upgrade) else { panic!("{upgrade:?}") };
        assert_eq!((response.status, response.details), (403, "ai-quota.websocket"));
        assert_eq!(response.body, "Request denied by ai quota check. A WebSocket cannot be metered.");
        assert_eq!(begun(native_config(false), "/other", upgrade), Step::Pass);
        assert!(matches!(begun(upstream_config(), metered, upgrade), Step::Ask(_)), "upstream lets it pass");
    }
    assert!(matches!(begun(native_config(false), metered, &[b"h2c"]), Step::Ask(_)));
}

#[test]
fn an_open_rule_asks_for_identity_on_its_paths_only() {
    for (identity, path, passes) in [
        (&[][..], "/index.html", true),
        (&["a", "b"], "/index.html", true),
        (&[], "/v1/chat/completions", false),
        (&["a", "b"], "/v1/chat/completions", false),
        (&[], "/v1/chat/completions/quota", false),
    ] {
        let step = start(&native_config(true), identity, path);
        assert_eq!(step == Step::Pass, passes, "{path}");
    }
    assert!(matches!(start(&native_config(false), &[], "/index.html"), Step::Refuse(_)));
    assert_eq!(start(&native_config(false), &["a"], "/index.html"), Step::Pass);
}

#[test]
fn an_unavailable_policy_answers_503_with_its_reason() {
    for open in [true, false] {
        let mut config = native_config(open);
        config["aiquota"]["policies"]["p"]["unavailable"] = json!("secret redis-auth is gone");
        let Step::Refuse(response) = start(&config, &["user"], "/v1/chat/completions") else { panic!() };
        assert_eq!((response.status, response.details), (503, "ai-quota.error"));
        assert_eq!(response.body, "Request denied by ai quota check. secret redis-auth is gone");
        assert_eq!(start(&config, &["user"], "/index.html") == Step::Pass, open);
    }
}

#[test]
fn without_an_admin_there_is_no_admin_api() {
    let mut config = native_config(false);
    config["aiquota"]["policies"]["p"].as_object_mut().unwrap().remove("admin");
    assert_eq!(start(&config, &["admin"], "/v1/chat/completions/quota?consumer=a"), Step::Pass);
}

#[test]
fn the_admin_api_speaks_upstreams_texts_over_scripts() {
    let query = || ask(start(&native_config(false), &["admin"], "/v1/chat/completions/quota?consumer=user"));
    let sent = words(&query().call.command);
    assert_eq!((&sent[0], &sent[3], &sent[7]), (&"EVALSHA".to_owned(), &"k:user".to_owned(), &"query".to_owned()));
    let form = |operation: &str, body: &str| match start(
        &native_config(false),
        &["admin"],
        &format!("/v1/chat/completions/quota/{operation}"),
    ) {
        Step::AwaitForm(await_form) => await_form.form(body.as_bytes(), NOW),
        other => panic!("{other:?}"),
    };
    let balance: &[u8] = b"*2\r\n$7\r\nbalance\r\n:150\r\n";
    assert_eq!(refusal(query().pending.answer(Ok(balance))).body, r#"{"consumer":"user","quota":150}"#);
    let set = ask(form("refresh", "consumer=user&quota=100"));
    assert_eq!(words(&set.call.command)[7..9], ["set", "100"]);
    assert_eq!(refusal(set.pending.answer(Ok(balance))), answers::refreshed());
    let add = ask(form("delta", "consumer=user&value=-50"));
    assert_eq!(words(&add.call.command)[7..9], ["add", "-50"]);
    assert_eq!(refusal(add.pending.answer(Ok(balance))), answers::changed());

    let limit = values::MAX_AMOUNT;
    assert!(matches!(form("refresh", &format!("consumer=user&quota={limit}")), Step::Ask(_)));
    assert_eq!(form("refresh", &format!("consumer=user&quota={}", limit + 1)), Step::Refuse(answers::bad_refresh()));
    assert_eq!(form("delta", &format!("consumer=user&value={}", -limit - 1)), Step::Refuse(answers::bad_delta()));
    assert_eq!(form("delta", "consumer=a%20b&value=1"), Step::Refuse(answers::bad_delta()));

    for (reply, body) in [
        ("*1\r\n$5\r\nrange\r\n", "redis error:ERR increment or decrement would overflow"),
        ("*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n", "redis error:ERR value is not an integer or out of range"),
        ("-READONLY You can't write\r\n", "redis error:READONLY You can't write"),
        (":5\r\n", "redis error:the reply is not one to this question"),
    ] {
        let response = refusal(ask(form("delta", "consumer=user&value=1")).pending.answer(Ok(reply.as_bytes())));
        assert_eq!((response.status, &*response.body, response.details), (503, body, "ai-quota.error"));
    }
}
