//! The built ai-quota module, callback by callback: which actions it returns, when it initialises and calls Redis, what
//! it does with late, lost and immediate answers, and what it sends when a stream is over.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::gateway::{BodyAction, Effect, HeaderAction, Headers, LocalReply, RedisCall, Trapped, Vm, VmModule, Way};
use testbed::{Redis, RedisOptions};

const METERED: &str = "/v1/chat/completions";
const ANSWER: &[u8] = br#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
const GET: &str = "*2\r\n$3\r\nGET\r\n$15\r\nchat_quota:user\r\n";
const DECRBY: &str = "*3\r\n$6\r\nDECRBY\r\n$15\r\nchat_quota:user\r\n$1\r\n7\r\n";
const NOAUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";

/// What one test plays the host with.
pub(crate) struct Stage {
    pub(crate) vm: Vm,
}

fn upstream() -> Value {
    json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static", "timeout": 100}})
}

fn native() -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 100}},
            "policies": {"p": {"store": "s", "keyPrefix": "k:", "owner": "o", "paths": [METERED]}}
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p", "open": true}]
    })
}

fn stage(configuration: &Value) -> Result<Stage> {
    stage_of("ai-quota", configuration)
}

pub(crate) fn stage_of(module: &str, configuration: &Value) -> Result<Stage> {
    let module = VmModule::load(&testbed::module(module)?)?;
    let vm = module.start(configuration.to_string().as_bytes());
    Ok(Stage { vm: vm.map_err(|failure| anyhow::anyhow!("{failure:?}"))? })
}

pub(crate) fn trap(Trapped(cause): Trapped) -> anyhow::Error {
    anyhow::anyhow!("the VM trapped: {cause}")
}

impl Stage {
    pub(crate) fn open(&mut self, identity: &[&str], path: &str, extra: &[(&str, &str)]) -> Result<u32> {
        let mut headers = Headers::default();
        headers.add(":path", path);
        headers.add(":authority", "host:80");
        identity.iter().for_each(|consumer| headers.add("x-mse-consumer", *consumer));
        extra.iter().for_each(|(name, value)| headers.add(name, *value));
        self.vm.open(headers, "r").map_err(trap)
    }

    pub(crate) fn headers(&mut self, stream: u32, end: bool) -> Result<HeaderAction> {
        self.vm.request_headers(stream, end).map_err(trap)
    }

    /// The only call since.
    pub(crate) fn call(&mut self) -> Result<RedisCall> {
        let mut calls = self.vm.take_redis_calls();
        ensure!(calls.len() == 1, "{calls:?}");
        calls.pop().context("no call")
    }

    pub(crate) fn reply(&mut self, token: u32, reply: &[u8]) -> Result<()> {
        self.vm.redis_reply(token, Some(reply)).map_err(trap)
    }

    pub(crate) fn ticks(&mut self, count: usize) -> Result<()> {
        (0..count).try_for_each(|_| self.vm.tick().map_err(trap))
    }

    /// A metered request that Redis lets pass.
    fn admitted(&mut self) -> Result<u32> {
        let stream = self.open(&["user"], METERED, &[])?;
        self.headers(stream, false)?;
        let call = self.call()?;
        self.reply(call.token, b"$1\r\n5\r\n")?;
        ensure!(self.vm.take_effects() == [(stream, Effect::Continue(Way::Request))]);
        Ok(stream)
    }

    fn respond(&mut self, stream: u32, end: bool) -> Result<()> {
        let mut headers = Headers::default();
        headers.add(":status", "200");
        headers.add("content-type", "application/json");
        self.vm.response_headers(stream, headers, false).map_err(trap)?;
        for (index, chunk) in ANSWER.chunks(9).enumerate() {
            let last = end && (index + 1) * 9 >= ANSWER.len();
            let passed = self.vm.body(stream, Way::Response, chunk.to_vec(), last).map_err(trap)?;
            ensure!(passed == (BodyAction::Continue, chunk.to_vec()), "the response is changed or held");
        }
        Ok(())
    }

    pub(crate) fn refused(&mut self, stream: u32) -> Result<LocalReply> {
        match self.vm.take_effects().as_slice() {
            [(of, Effect::Reply(reply))] if *of == stream => Ok(reply.clone()),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

#[test]
fn a_metered_request_waits_whole_until_redis_has_answered() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.open(&["user"], METERED, &[("accept-encoding", "gzip"), ("x-other", "1")])?;
    ensure!(stage.headers(stream, false)? == HeaderAction::StopAllAndWatermark);
    let call = stage.call()?;
    ensure!((call.cluster.as_str(), &*call.query) == ("outbound|80||redis.static", GET.as_bytes()));
    ensure!(stage.vm.request(stream).get("accept-encoding").is_none(), "a compressed answer could not be read");
    ensure!(stage.vm.request(stream).get("x-other").is_some());
    ensure!(stage.vm.take_effects().is_empty());
    stage.reply(call.token, b"$1\r\n5\r\n")?;
    ensure!(stage.vm.take_effects() == [(stream, Effect::Continue(Way::Request))]);
    let body = stage.vm.body(stream, Way::Request, b"{}".to_vec(), true).map_err(trap)?;
    ensure!(body == (BodyAction::Continue, b"{}".to_vec()));
    Ok(())
}

#[test]
fn the_usage_is_charged_once_at_the_end_of_the_answer() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.admitted()?;
    stage.respond(stream, true)?;
    let charge = stage.call()?;
    ensure!(charge.query == DECRBY.as_bytes(), "{charge:?}");
    stage.reply(charge.token, b":-2\r\n")?;
    stage.vm.close(stream).map_err(trap)?;
    ensure!(stage.vm.take_redis_calls().is_empty(), "charged twice");
    Ok(())
}

#[test]
fn a_client_that_leaves_is_charged_when_its_stream_is_over() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.admitted()?;
    stage.respond(stream, false)?;
    ensure!(stage.vm.take_redis_calls().is_empty());
    stage.vm.close(stream).map_err(trap)?;
    let charge = stage.call()?;
    ensure!(charge.query == DECRBY.as_bytes());
    // The stream is gone; a charge still heals what can be healed.
    stage.reply(charge.token, NOAUTH)?;
    ensure!(stage.call()?.query == DECRBY.as_bytes());
    Ok(())
}

#[test]
fn an_admin_query_pauses_and_a_form_is_awaited() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let query = stage.open(&["admin"], "/v1/chat/completions/quota?consumer=user", &[("accept-encoding", "gzip")])?;
    ensure!(stage.headers(query, true)? == HeaderAction::StopIteration);
    ensure!(stage.vm.request(query).get("accept-encoding").is_some());
    let call = stage.call()?;
    stage.reply(call.token, b"$3\r\n500\r\n")?;
    let reply = stage.refused(query)?;
    ensure!((reply.status, reply.details.as_str()) == (200, "ai-quota.queryquota"));
    ensure!(reply.body == br#"{"consumer":"user","quota":500}"#);
    ensure!(reply.headers.text("content-type") == "application/json");

    let form = stage.open(&["admin"], "/v1/chat/completions/quota/refresh", &[])?;
    ensure!(stage.headers(form, false)? == HeaderAction::StopIteration);
    ensure!(stage.vm.take_redis_calls().is_empty());
    let whole = b"consumer=user&quota=100";
    let first = stage.vm.body(form, Way::Request, whole[..10].to_vec(), false).map_err(trap)?;
    ensure!(first.0 == BodyAction::StopAndBuffer);
    // The host collects what is held.
    let second = stage.vm.body(form, Way::Request, whole.to_vec(), true).map_err(trap)?;
    ensure!(second.0 == BodyAction::StopAndBuffer);
    let call = stage.call()?;
    ensure!(call.query == b"*3\r\n$3\r\nSET\r\n$15\r\nchat_quota:user\r\n$3\r\n100\r\n");
    stage.reply(call.token, b"+OK\r\n")?;
    ensure!(stage.refused(form)?.body == b"refresh quota successful");

    let bare = stage.open(&["admin"], "/v1/chat/completions/quota/delta", &[])?;
    stage.headers(bare, true)?;
    ensure!(stage.refused(bare)?.status == 403, "without a body nothing more would come");
    Ok(())
}

#[test]
fn refusals_are_sent_at_once_and_nothing_goes_on() -> Result<()> {
    let mut stage = stage(&upstream())?;
    for (identity, path, status) in [
        (&[][..], METERED, 401),
        (&[""], METERED, 403),
        (&["victim", "user"], METERED, 403),
        (&["user"], "/v1/chat/completions/quota", 403),
        (&["user"], "/v1/chat/completions/quota/delta", 403),
    ] {
        let stream = stage.open(identity, path, &[])?;
        ensure!(stage.headers(stream, false)? != HeaderAction::Continue);
        let reply = stage.refused(stream)?;
        ensure!((reply.status, &*reply.headers.text("content-type")) == (status, "text/plain"), "{reply:?}");
        ensure!(stage.vm.take_redis_calls().is_empty());
        stage.vm.close(stream).map_err(trap)?;
        ensure!(stage.vm.take_redis_calls().is_empty());
    }
    let stream = stage.open(&["user"], "/other", &[("accept-encoding", "gzip")])?;
    ensure!(stage.headers(stream, false)? == HeaderAction::Continue);
    ensure!(stage.vm.request(stream).get("accept-encoding").is_some());
    Ok(())
}

#[test]
fn a_store_is_initialised_once_however_many_rules_use_it() -> Result<()> {
    let mut rules: Vec<Value> = Vec::new();
    for n in 0..50 {
        let mut rule = upstream();
        rule["_match_route_"] = json!([format!("route-{n}")]);
        if n == 7 {
            rule["redis"]["password"] = json!("other");
            rule["redis"]["service_name"] = json!("other.dns");
            rule["redis"]["database"] = json!(2);
        }
        rules.push(rule);
    }
    let stage = stage(&json!({"_rules_": rules}))?;
    let inits: Vec<(String, String)> =
        stage.vm.take_redis_inits().into_iter().map(|init| (init.cluster, init.password)).collect();
    let options = "buffer_flush_timeout=3&max_buffer_size_before_flush=1024";
    ensure!(
        inits
            == [
                (format!("outbound|80||redis.static?{options}"), String::new()),
                (format!("outbound|6379||other.dns?db=2&{options}"), "other".to_owned()),
            ],
        "{inits:?}"
    );
    Ok(())
}

#[test]
fn authentication_is_repeated_once_per_call_and_at_most_once_a_second() -> Result<()> {
    let mut stage = stage(&upstream())?;
    stage.vm.take_redis_inits();
    let mut pending = Vec::new();
    for _ in 0..3 {
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        pending.push((stream, stage.call()?.token));
    }
    for (index, (_, token)) in pending.iter_mut().enumerate() {
        stage.reply(*token, NOAUTH)?;
        ensure!(stage.vm.take_redis_inits().len() == usize::from(index == 0));
        *token = stage.call()?.token;
        ensure!(stage.vm.take_effects().is_empty());
    }
    for (stream, token) in &pending[1..] {
        stage.reply(*token, b"$1\r\n5\r\n")?;
        ensure!(stage.vm.take_effects() == [(*stream, Effect::Continue(Way::Request))]);
    }
    let (stream, token) = pending[0];
    stage.reply(token, NOAUTH)?;
    ensure!(stage.refused(stream)?.details == "ai-quota.noquota");
    ensure!(stage.vm.take_redis_calls().is_empty() && stage.vm.take_redis_inits().is_empty());
    Ok(())
}

#[test]
fn a_call_has_a_deadline_and_what_comes_later_is_dropped() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    let call = stage.call()?;
    stage.ticks(2)?;
    ensure!(stage.vm.take_effects().is_empty(), "100 ms are two ticks and one more");
    stage.ticks(1)?;
    ensure!(stage.refused(stream)?.details == "ai-quota.noquota");
    stage.reply(call.token, b"$1\r\n5\r\n")?;
    ensure!(stage.vm.take_effects().is_empty());
    Ok(())
}

#[test]
fn a_request_that_asks_again_has_one_deadline_for_all_of_it() -> Result<()> {
    for healed in [NOAUTH, b"-NOSCRIPT No matching script.\r\n"] {
        let mut stage = stage(&native())?;
        let stream = stage.open(&["user"], METERED, &[])?;
        stage.headers(stream, false)?;
        let call = stage.call()?;
        stage.ticks(2)?;
        stage.reply(call.token, healed)?;
        stage.call()?;
        ensure!(stage.vm.take_effects().is_empty(), "100 ms are two ticks and one more");
        stage.ticks(1)?;
        ensure!(stage.refused(stream)?.status == 503);
    }
    Ok(())
}

#[test]
fn a_lost_connection_and_an_immediate_error_decide_at_once() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    let call = stage.call()?;
    stage.vm.redis_reply(call.token, None).map_err(trap)?;
    ensure!(stage.refused(stream)?.details == "ai-quota.noquota");

    stage.vm.refuse_redis_calls(2);
    let metered = stage.open(&["user"], METERED, &[])?;
    ensure!(stage.headers(metered, false)? != HeaderAction::Continue);
    ensure!(stage.refused(metered)?.details == "ai-quota.noquota");
    let query = stage.open(&["admin"], "/v1/chat/completions/quota?consumer=user", &[])?;
    stage.headers(query, true)?;
    let reply = stage.refused(query)?;
    ensure!(reply.status == 503);
    ensure!(reply.body == b"redis error:error status returned by host: bad argument");

    // The host may have forgotten the client with its cluster.
    stage.vm.refuse_redis_calls(0);
    stage.vm.take_redis_inits();
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    stage.call()?;
    Ok(())
}

#[test]
fn answers_for_streams_that_are_gone_are_dropped() -> Result<()> {
    let mut stage = stage(&upstream())?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    let call = stage.call()?;
    stage.vm.close(stream).map_err(trap)?;
    stage.reply(call.token, b"$1\r\n5\r\n")?;
    ensure!(stage.vm.take_effects().is_empty() && stage.vm.take_redis_calls().is_empty());
    stage.ticks(10)?;
    ensure!(stage.vm.take_effects().is_empty());
    Ok(())
}

#[test]
fn the_native_form_sends_its_script_by_name_then_whole() -> Result<()> {
    let mut stage = stage(&native())?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    let call = stage.call()?;
    ensure!(call.query.windows(7).any(|word| word == b"EVALSHA"));
    stage.reply(call.token, b"-NOSCRIPT No matching script.\r\n")?;
    let call = stage.call()?;
    ensure!(call.query.windows(8).any(|word| word == b"\r\nEVAL\r\n"));
    stage.reply(call.token, b"*3\r\n$8\r\nadmitted\r\n:5\r\n$-1\r\n")?;
    ensure!(stage.vm.take_effects() == [(stream, Effect::Continue(Way::Request))]);
    stage.vm.body(stream, Way::Request, vec![b'x'; 400], true).map_err(trap)?;
    // It leaves before any answer: its prompt is estimated.
    stage.vm.close(stream).map_err(trap)?;
    let charge = stage.call()?;
    ensure!(
        charge.query.windows(19).any(|words| words == b"charge\r\n$3\r\n100\r\n$0"),
        "{}",
        charge.query.escape_ascii()
    );

    let anonymous = stage.open(&[], "/index.html", &[])?;
    ensure!(stage.headers(anonymous, true)? == HeaderAction::Continue);
    let slow = stage.open(&["user"], METERED, &[])?;
    stage.headers(slow, false)?;
    stage.ticks(3)?;
    let reply = stage.refused(slow)?;
    ensure!(reply.status == 503 && reply.body == b"Request denied by ai quota check. Quota store unavailable.");
    Ok(())
}

#[tokio::test]
async fn redis_knows_a_script_it_was_sent_by_the_name_it_is_called_by() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let mut raw = e2e::raw::Raw::connect(&redis.addr()).await?;
    let mut stage = stage(&native())?;
    let stream = stage.open(&["user"], METERED, &[])?;
    stage.headers(stream, false)?;
    let by_name = stage.call()?;
    let unknown = raw.forward(&by_name.query).await?;
    ensure!(unknown.starts_with(b"-NOSCRIPT"), "{}", unknown.escape_ascii());
    stage.reply(by_name.token, &unknown)?;
    let whole = raw.forward(&stage.call()?.query).await?;
    ensure!(raw.forward(&by_name.query).await? == whole, "every request would send the script whole");
    Ok(())
}

#[test]
fn the_guard_removes_every_value_of_the_identity_header() -> Result<()> {
    let mut stage = stage(&json!({"aiquota": {"version": 1, "guard": true}}))?;
    let stream = stage.open(&["victim", "victim", "other"], METERED, &[("x-api-key", "k")])?;
    ensure!(stage.headers(stream, false)? == HeaderAction::Continue);
    let left = stage.vm.request(stream);
    ensure!(left.get("x-mse-consumer").is_none() && left.get("x-api-key").is_some());
    ensure!(stage.vm.take_redis_inits().is_empty() && stage.vm.take_redis_calls().is_empty());
    Ok(())
}

#[test]
fn a_configuration_that_cannot_be_enforced_does_not_start_and_tells_no_secret() -> Result<()> {
    let module = VmModule::load(&testbed::module("ai-quota")?)?;
    for configuration in
        [json!({}), json!({"redis": {"service_name": "x", "password": "hunter2"}}), json!({"aiquota": {"version": 9}})]
    {
        let failure = module.start(configuration.to_string().as_bytes()).err().context("it starts")?;
        ensure!(!failure.trapped && !failure.cause.contains("hunter2"), "{failure:?}");
    }
    let mut configuration = upstream();
    configuration["_rules_"] = json!([{
        "_match_route_": ["broken"], "admin_consumer": "a",
        "redis": {"service_name": "x", "service_port": 1e9, "password": "hunter2"}
    }]);
    let stage = stage(&configuration)?;
    let logs = format!("{:?}", stage.vm.logs());
    ensure!(logs.contains("_rules_[0].redis.service_port") && !logs.contains("hunter2"), "{logs}");
    Ok(())
}
