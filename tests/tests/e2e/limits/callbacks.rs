//! The built ai-token-ratelimit module, callback by callback: which actions it returns, when it asks Redis and when not,
//! what a rejection carries, and what passes when Redis says nothing that can be understood.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::gateway::{Effect, HeaderAction, Headers, LocalReply, RedisCall, Trapped, Vm, VmModule, Way};

const ANSWER: &[u8] = br#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
const GLOBAL: &str = "higress-token-ratelimit:{r}:global_threshold:60";
const ITEM: &str = "higress-token-ratelimit:{r}:limit_by_per_header:60:k:v";
const PASSES: &[u8] = b"*2\r\n*3\r\n:5\r\n:5\r\n:60\r\n*3\r\n:3\r\n:0\r\n:60\r\n";

struct Stage {
    vm: Vm,
}

fn configuration() -> Value {
    json!({
        "rule_name": "r", "redis": {"service_name": "redis.static", "timeout": 100},
        "global_threshold": {"token_per_minute": 5},
        "rule_items": [{"limit_by_per_header": "k", "limit_keys": [{"key": "*", "token_per_minute": 3}]}]
    })
}

fn stage(configuration: &Value) -> Result<Stage> {
    let module = VmModule::load(&testbed::module("ai-token-ratelimit")?)?;
    let vm = module.start(configuration.to_string().as_bytes());
    Ok(Stage { vm: vm.map_err(|failure| anyhow::anyhow!("{failure:?}"))? })
}

fn trap(Trapped(cause): Trapped) -> anyhow::Error {
    anyhow::anyhow!("the VM trapped: {cause}")
}

impl Stage {
    fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let mut all = Headers::default();
        all.add(":path", "/v1/chat/completions");
        all.add(":authority", "host");
        headers.iter().for_each(|(name, value)| all.add(name, *value));
        self.vm.open(all, "chat").map_err(trap)
    }

    fn begin(&mut self, headers: &[(&str, &str)]) -> Result<(u32, HeaderAction)> {
        let stream = self.open(headers)?;
        Ok((stream, self.vm.request_headers(stream, false).map_err(trap)?))
    }

    /// The words of the only call since, and its token.
    fn call(&mut self) -> Result<(Vec<String>, u32)> {
        let mut calls = self.vm.take_redis_calls();
        ensure!(calls.len() == 1, "{calls:?}");
        let RedisCall { query, token, .. } = calls.pop().context("no call")?;
        let text = String::from_utf8(query)?;
        Ok((text.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect(), token))
    }

    fn reply(&mut self, token: u32, reply: &[u8]) -> Result<()> {
        self.vm.redis_reply(token, Some(reply)).map_err(trap)
    }

    fn respond(&mut self, stream: u32) -> Result<()> {
        let mut headers = Headers::default();
        headers.add(":status", "200");
        headers.add("content-type", "application/json");
        self.vm.response_headers(stream, headers, false).map_err(trap)?;
        self.vm.body(stream, Way::Response, ANSWER.to_vec(), true).map_err(trap)?;
        Ok(())
    }

    fn refused(&mut self, stream: u32) -> Result<LocalReply> {
        match self.vm.take_effects().as_slice() {
            [(of, Effect::Reply(reply))] if *of == stream => Ok(reply.clone()),
            other => anyhow::bail!("{other:?}"),
        }
    }

    fn goes_on(&mut self, stream: u32) -> Result<()> {
        let effects = self.vm.take_effects();
        ensure!(effects == [(stream, Effect::Continue(Way::Request))], "{effects:?}");
        Ok(())
    }
}

#[test]
fn a_limited_request_waits_for_one_call_and_is_charged_with_one() -> Result<()> {
    let mut stage = stage(&configuration())?;
    let (stream, action) = stage.begin(&[("k", "v"), ("accept-encoding", "gzip")])?;
    ensure!(action == HeaderAction::StopAllAndWatermark);
    ensure!(stage.vm.request(stream).get("accept-encoding").is_none(), "a compressed answer could not be read");
    let (words, token) = stage.call()?;
    assert_eq!(
        (&*words[0], &words[2..]),
        ("EVALSHA", &["2", GLOBAL, ITEM, "check", "5", "60", "3", "60"].map(String::from)[..])
    );
    stage.reply(token, PASSES)?;
    stage.goes_on(stream)?;
    stage.respond(stream)?;
    let (words, token) = stage.call()?;
    assert_eq!(words[2..], ["2", GLOBAL, ITEM, "charge", "7", "5", "60", "3", "60"].map(String::from));
    stage.reply(token, PASSES)?;
    stage.vm.close(stream).map_err(trap)?;
    ensure!(stage.vm.take_redis_calls().is_empty(), "charged twice");
    Ok(())
}

#[test]
fn a_request_under_no_limit_passes_without_a_call() -> Result<()> {
    let mut configuration = configuration();
    configuration.as_object_mut().context("an object")?.remove("global_threshold");
    let mut stage = stage(&configuration)?;
    let (stream, action) = stage.begin(&[("accept-encoding", "gzip")])?;
    ensure!(action == HeaderAction::Continue);
    ensure!(stage.vm.request(stream).get("accept-encoding").is_some());
    stage.respond(stream)?;
    stage.vm.close(stream).map_err(trap)?;
    ensure!(stage.vm.take_redis_calls().is_empty());
    Ok(())
}

#[test]
fn a_rejection_carries_its_header_and_is_counted_by_upstreams_name() -> Result<()> {
    let mut stage = stage(&configuration())?;
    for round in 1..=2 {
        let (stream, _) = stage.begin(&[("x-mse-consumer", "user1")])?;
        let (_, token) = stage.call()?;
        stage.reply(token, b"*3\r\n:5\r\n:6\r\n:42\r\n")?;
        let reply = stage.refused(stream)?;
        assert_eq!((reply.status, reply.details.as_str()), (429, "ai-token-ratelimit.rejected"));
        assert_eq!((&*reply.body, &*reply.headers.text("content-type")), (&b"Too many requests"[..], "text/plain"));
        assert_eq!(reply.headers.text("x-tokenratelimit-reset"), "42");
        let metrics = stage.vm.metrics();
        let name = "route.chat.upstream.-.model.none.consumer.user1.metric.token_ratelimit_count";
        assert_eq!(metrics.into_iter().collect::<Vec<_>>(), [(name.to_owned(), round)]);
        stage.vm.close(stream).map_err(trap)?;
        ensure!(stage.vm.take_redis_calls().is_empty(), "a rejection costs nothing");
    }
    Ok(())
}

#[test]
fn replies_that_say_nothing_failing_calls_and_deadlines_let_requests_pass() -> Result<()> {
    let mut stage = stage(&configuration())?;
    for reply in [&b"-ERR x\r\n"[..], b"garbage", b"*2\r\n:1\r\n:2\r\n", b"$-1\r\n"] {
        let (stream, _) = stage.begin(&[])?;
        let (_, token) = stage.call()?;
        stage.reply(token, reply)?;
        stage.goes_on(stream)?;
    }
    let (lost, _) = stage.begin(&[])?;
    let (_, token) = stage.call()?;
    stage.vm.redis_reply(token, None).map_err(trap)?;
    stage.goes_on(lost)?;

    let (late, _) = stage.begin(&[])?;
    let (_, token) = stage.call()?;
    (0..3).try_for_each(|_| stage.vm.tick().map_err(trap))?;
    stage.goes_on(late)?;
    stage.reply(token, b"*3\r\n:5\r\n:6\r\n:42\r\n")?;
    ensure!(stage.vm.take_effects().is_empty(), "it has been decided");

    stage.vm.refuse_redis_calls(2);
    let (_, action) = stage.begin(&[])?;
    ensure!(action == HeaderAction::Continue, "decided at once");
    let logs = format!("{:?}", stage.vm.logs());
    ensure!(logs.contains("a request passed unchecked: Redis refuses: ERR x"), "{logs}");
    Ok(())
}

#[test]
fn the_script_is_sent_by_name_then_whole_and_authentication_is_repeated() -> Result<()> {
    let mut stage = stage(&configuration())?;
    let inits = stage.vm.take_redis_inits().len();
    let (stream, _) = stage.begin(&[])?;
    let (_, token) = stage.call()?;
    stage.reply(token, b"-NOAUTH Authentication required.\r\n")?;
    ensure!(stage.vm.take_redis_inits().len() == inits);
    let (words, token) = stage.call()?;
    ensure!(words[0] == "EVALSHA");
    stage.reply(token, b"-NOSCRIPT No matching script.\r\n")?;
    let (words, token) = stage.call()?;
    ensure!(words[0] == "EVAL");
    stage.reply(token, b"*1\r\n*3\r\n:5\r\n:0\r\n:60\r\n")?;
    stage.goes_on(stream)
}

#[test]
fn what_does_not_parse_answers_503_on_what_it_matches() -> Result<()> {
    let mut configuration = configuration();
    configuration["_rules_"] = json!([{"_match_route_": ["chat"], "rule_name": "x", "redis": {"password": "hunter2"}}]);
    let mut stage = stage(&configuration)?;
    let (stream, _) = stage.begin(&[])?;
    let reply = stage.refused(stream)?;
    assert_eq!((reply.status, reply.details.as_str()), (503, "ai-token-ratelimit.error"));
    let logs = format!("{:?}", stage.vm.logs());
    ensure!(logs.contains("_rules_[0].rule_items is missing") && !logs.contains("hunter2"), "{logs}");
    ensure!(logs.contains("enforces token rate limits: 1 rules, 1 stores"), "{logs}");
    Ok(())
}

#[test]
fn a_hundred_thousand_exact_keys_are_read_in_one_callback_and_the_last_is_found() -> Result<()> {
    let limit = |n: usize| json!({"match": {"exact": n.to_string()}, "tokens": 5, "windowSeconds": 60});
    let policy = json!({"store": "s", "ruleName": "r", "paths": ["/v1/chat/completions"],
        "rules": [{"by": {"header": "k"}, "limits": (0..100_000).map(limit).collect::<Vec<_>>()}]});
    let native = json!({"version": 1, "policies": {"p": policy},
        "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 100}}});
    let rules = json!([{"_match_route_": ["chat"], "policy": "p"}]);
    let mut stage = stage(&json!({"aiquota": native, "_rules_": rules}))?;
    stage.begin(&[("k", "99999")])?;
    assert_eq!(stage.call()?.0[3], "higress-token-ratelimit:{r}:limit_by_header:60:k:99999");
    Ok(())
}

#[test]
fn the_address_of_a_client_counts_without_its_port_also_where_it_is_ipv6() -> Result<()> {
    let mut stage = stage(&json!({
        "rule_name": "r", "redis": {"service_name": "redis.static", "timeout": 100},
        "rule_items": [{"limit_by_per_ip": "from-remote-addr",
            "limit_keys": [{"key": "fd00::/8", "token_per_minute": 3}, {"key": "10.0.0.0/8", "token_per_minute": 3}]}]
    }))?;
    for (peer, address) in [("[fd00::7]:4711", "fd00::7"), ("10.1.2.3:4711", "10.1.2.3")] {
        let mut headers = Headers::default();
        headers.add(":path", "/v1/chat/completions");
        headers.add(":authority", "host");
        let stream = stage.vm.open_from(peer.parse()?, headers, "chat").map_err(trap)?;
        stage.vm.request_headers(stream, false).map_err(trap)?;
        let (words, _) = stage.call()?;
        let counter = format!("higress-token-ratelimit:{{r}}:limit_by_per_ip:60:from-remote-addr:{address}");
        ensure!(words.contains(&counter), "{words:?}");
    }
    let stream = stage.open(&[])?;
    ensure!(stage.vm.request_headers(stream, false).map_err(trap)? == HeaderAction::Continue, "in no network");
    ensure!(stage.vm.take_redis_calls().is_empty());
    Ok(())
}
