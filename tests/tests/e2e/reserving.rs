//! The built modules while tokens are held for requests in flight: how bodies are awaited, and that no hold is left of a
//! request that is gone, whenever it goes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::gateway::{BodyAction, Effect, HeaderAction, Headers, RedisCall, Way};

use crate::module::{Stage, stage_of, trap};

mod both;

const METERED: &str = "/v1/chat/completions";
const ADMITTED: &[u8] = b"*4\r\n$8\r\nadmitted\r\n:500\r\n$-1\r\n:1000\r\n";
const LEFT: &[u8] = b"*1\r\n*3\r\n:100\r\n:0\r\n:60\r\n";
/// Between two renewals: 20 s.
const TICKS: usize = 400;

fn configuration(policy: &Value) -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 100}},
            "policies": {"p": policy}
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p", "open": true}]
    })
}

fn quota() -> Result<Stage> {
    stage_of(
        "ai-quota",
        &configuration(&json!({"store": "s", "keyPrefix": "k:", "owner": "o", "paths": [METERED],
        "reserve": {"defaultMaxTokens": 70}, "ends": {"onMissingUsage": "Ignore"}})),
    )
}

fn limit() -> Result<Stage> {
    stage_of(
        "ai-token-ratelimit",
        &configuration(&json!({"store": "s", "ruleName": "r", "paths": [METERED],
        "global": [{"tokens": 100, "windowSeconds": 60}], "reserve": {"defaultMaxTokens": 70},
        "ends": {"onMissingUsage": "Ignore", "onStoreFailure": "Refuse"}})),
    )
}

/// The words of a call that are no keys: from this one on.
fn words(call: &RedisCall, from: &str) -> Vec<String> {
    let lines: Vec<String> = String::from_utf8_lossy(&call.query).split("\r\n").map(str::to_owned).collect();
    let words = lines.into_iter().skip(2).step_by(2);
    words.skip_while(|word| word != from).collect()
}

/// Opens a stream whose body is this, and answers the call that it makes and the id of its hold.
fn asked(stage: &mut Stage, operation: &str, body: &[u8]) -> Result<(u32, RedisCall, String)> {
    let stream = stage.open(&["user"], METERED, &[])?;
    ensure!(stage.headers(stream, false)? == HeaderAction::StopIteration);
    ensure!(stage.vm.take_redis_calls().is_empty(), "it was asked before the body came");
    stage.vm.body(stream, Way::Request, body.to_vec(), true).map_err(trap)?;
    let call = stage.call()?;
    let id = words(&call, operation)[2].clone();
    Ok((stream, call, id))
}

fn status(stage: &mut Stage, stream: u32, status: &str) -> Result<()> {
    let mut headers = Headers::default();
    headers.add(":status", status);
    stage.vm.response_headers(stream, headers, false).map_err(trap)?;
    Ok(())
}

#[test]
fn a_body_that_comes_in_pieces_is_read_once_and_held_until_the_store_has_answered() -> Result<()> {
    let mut stage = quota()?;
    let stream = stage.open(&["user"], METERED, &[("accept-encoding", "gzip")])?;
    ensure!(stage.headers(stream, false)? == HeaderAction::StopIteration);
    ensure!(stage.vm.request(stream).get("accept-encoding").is_none(), "a compressed answer could not be read");
    let body = br#"{"model":"m","max_tokens":20,"messages":[]}"#;
    // The host shows all that it holds, each time.
    for end in [10, 25, 26] {
        let (action, left) = stage.vm.body(stream, Way::Request, body[..end].to_vec(), false).map_err(trap)?;
        ensure!(action == BodyAction::StopAndBuffer && left == body[..end]);
        ensure!(stage.vm.take_redis_calls().is_empty());
    }
    let (action, _) = stage.vm.body(stream, Way::Request, body.to_vec(), true).map_err(trap)?;
    ensure!(action == BodyAction::StopAndBuffer);
    let call = stage.call()?;
    let words = words(&call, "check");
    ensure!(words[1] == "31" && words[3] == "60", "20 tokens and 43 bytes: {words:?}");
    stage.reply(call.token, ADMITTED)?;
    ensure!(stage.vm.take_effects() == [(stream, Effect::Continue(Way::Request))]);
    Ok(())
}

#[test]
fn a_request_without_a_body_is_asked_about_at_once_and_no_two_have_one_id() -> Result<()> {
    let mut stage = quota()?;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let stream = stage.open(&["user"], METERED, &[("x-request-id", "same")])?;
        ensure!(stage.headers(stream, true)? == HeaderAction::StopAllAndWatermark);
        let words = words(&stage.call()?, "check");
        ensure!(words[1] == "70" && words[2].len() == 32, "{words:?}");
        ids.insert(words[2].clone());
    }
    ensure!(ids.len() == 10, "{ids:?}");
    Ok(())
}

#[test]
fn a_body_that_is_too_long_is_answered_413_by_the_module() -> Result<()> {
    for (mut stage, details) in [(quota()?, "ai-quota.body_too_long"), (limit()?, "ai-token-ratelimit.body_too_long")] {
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        let longest = vec![b' '; 10 << 20];
        let (action, _) = stage.vm.body(stream, Way::Request, longest.clone(), false).map_err(trap)?;
        ensure!(action == BodyAction::StopAndBuffer && stage.vm.take_effects().is_empty());
        stage.vm.body(stream, Way::Request, [&longest[..], b" "].concat(), false).map_err(trap)?;
        let reply = stage.refused(stream)?;
        ensure!((reply.status, reply.details.as_str()) == (413, details), "{reply:?}");
        ensure!(stage.vm.take_redis_calls().is_empty());
    }
    Ok(())
}

#[test]
fn who_only_observes_lets_a_body_pass_that_is_too_long() -> Result<()> {
    let mut stage = stage_of(
        "ai-quota",
        &configuration(&json!({"store": "s", "keyPrefix": "k:", "owner": "o", "paths": [METERED],
        "models": [{"name": "m"}], "ends": {"mode": "Observe"}})),
    )?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    for (body, end) in [(vec![b' '; (10 << 20) + 1], false), (vec![b' '; 9], false), (vec![], true)] {
        let (action, _) = stage.vm.body(stream, Way::Request, body, end).map_err(trap)?;
        ensure!(action == BodyAction::Continue, "it hangs");
    }
    ensure!(stage.vm.take_effects().is_empty() && stage.vm.take_redis_calls().is_empty());
    Ok(())
}

#[test]
fn no_more_than_256_mib_of_bodies_are_awaited_at_once() -> Result<()> {
    let mut stage = quota()?;
    let body = vec![b' '; 10 << 20];
    let mut streams = Vec::new();
    for _ in 0..25 {
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        stage.vm.body(stream, Way::Request, body.clone(), false).map_err(trap)?;
        ensure!(stage.vm.take_effects().is_empty());
        streams.push(stream);
    }
    let one_more = |stage: &mut Stage| {
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        stage.vm.body(stream, Way::Request, body.clone(), true).map_err(trap)?;
        Ok::<_, anyhow::Error>(stream)
    };
    let refused = one_more(&mut stage)?;
    let reply = stage.refused(refused)?;
    let said = b"Request denied by ai quota check. Too many request bodies are awaited.";
    ensure!((reply.status, &reply.body[..]) == (503, &said[..]), "{reply:?}");
    // Who leaves makes room, and so does who is decided over.
    stage.vm.close(streams[0]).map_err(trap)?;
    for _ in 0..3 {
        one_more(&mut stage)?;
        let call = stage.call().context("there is room")?;
        stage.reply(call.token, ADMITTED)?;
        stage.vm.take_effects();
    }
    Ok(())
}

#[test]
fn a_call_that_may_have_been_heard_before_the_connection_was_lost_is_undone() -> Result<()> {
    for (mut stage, ask, charge) in [(quota()?, "check", "charge"), (limit()?, "reserve", "settle")] {
        let (stream, call, id) = asked(&mut stage, ask, b"{}")?;
        stage.vm.redis_reply(call.token, None).map_err(trap)?;
        ensure!(stage.refused(stream)?.status == 503);
        ensure!(words(&stage.call()?, charge)[..3] == [charge, "0", id.as_str()].map(str::to_owned));
        // Lost behind its deadline.
        let (stream, call, id) = asked(&mut stage, ask, b"{}")?;
        stage.ticks(3)?;
        stage.refused(stream)?;
        stage.vm.take_redis_calls();
        stage.vm.redis_reply(call.token, None).map_err(trap)?;
        ensure!(words(&stage.call()?, charge)[..3] == [charge, "0", id.as_str()].map(str::to_owned));
    }
    Ok(())
}

#[test]
fn streams_that_ended_keep_no_hold_of_another_from_being_renewed() -> Result<()> {
    let mut stage = quota()?;
    for _ in 0..200 {
        let (stream, call, _) = asked(&mut stage, "check", b"{}")?;
        stage.reply(call.token, ADMITTED)?;
        stage.vm.close(stream).map_err(trap)?;
        let charge = stage.call()?;
        stage.reply(charge.token, b"*2\r\n$6\r\nbooked\r\n:1\r\n")?;
    }
    let (_, call, id) = asked(&mut stage, "check", b"{}")?;
    stage.reply(call.token, ADMITTED)?;
    stage.ticks(TICKS)?;
    ensure!(words(&stage.call()?, "renew")[1] == id);
    Ok(())
}

#[test]
fn an_answer_for_a_client_that_left_meanwhile_releases_what_it_held() -> Result<()> {
    for (mut stage, ask, admitted, charge) in
        [(quota()?, "check", ADMITTED, "charge"), (limit()?, "reserve", LEFT, "settle")]
    {
        let (stream, call, id) = asked(&mut stage, ask, b"{}")?;
        stage.vm.close(stream).map_err(trap)?;
        ensure!(stage.vm.take_redis_calls().is_empty(), "nothing is known to be held yet");
        stage.reply(call.token, admitted)?;
        ensure!(words(&stage.call()?, charge)[..3] == [charge, "0", id.as_str()].map(str::to_owned));
        // The client leaves before its body has come: nothing was asked.
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        stage.vm.close(stream).map_err(trap)?;
        ensure!(stage.vm.take_redis_calls().is_empty());
    }
    Ok(())
}

#[test]
fn an_answer_behind_the_deadline_releases_what_it_held() -> Result<()> {
    for (mut stage, ask, admitted, charge) in
        [(quota()?, "check", ADMITTED, "charge"), (limit()?, "reserve", LEFT, "settle")]
    {
        let (stream, call, id) = asked(&mut stage, ask, b"{}")?;
        stage.ticks(3)?;
        ensure!(stage.refused(stream)?.status == 503);
        ensure!(stage.vm.take_redis_calls().is_empty());
        stage.reply(call.token, admitted)?;
        ensure!(words(&stage.call()?, charge)[..3] == [charge, "0", id.as_str()].map(str::to_owned));
    }
    Ok(())
}

#[test]
fn a_hold_is_renewed_while_its_stream_lives_whether_chunks_come_or_not() -> Result<()> {
    for (mut stage, ask, admitted, charge) in
        [(quota()?, "check", ADMITTED, "charge"), (limit()?, "reserve", LEFT, "settle")]
    {
        let (stream, call, id) = asked(&mut stage, ask, b"{}")?;
        stage.reply(call.token, admitted)?;
        for _ in 0..3 {
            stage.ticks(TICKS - 1)?;
            ensure!(stage.vm.take_redis_calls().is_empty(), "renewed too early");
            stage.ticks(1)?;
            let renewal = stage.call().with_context(|| format!("{ask} {:?}", stage.vm.take_effects()))?;
            ensure!(words(&renewal, "renew")[..3] == ["renew", id.as_str(), "60"].map(str::to_owned));
            stage.reply(renewal.token, b"*1\r\n$7\r\nrenewed\r\n")?;
        }
        status(&mut stage, stream, "500")?;
        stage.vm.close(stream).map_err(trap)?;
        ensure!(words(&stage.call()?, charge)[..3] == [charge, "0", id.as_str()].map(str::to_owned));
        stage.ticks(TICKS)?;
        ensure!(stage.vm.take_redis_calls().is_empty(), "what is gone is not renewed");
    }
    Ok(())
}
