//! The built modules, callback by callback: when they say what of themselves, and what they do when nobody hears it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{Redis, RedisOptions};

use super::VERSION;
use crate::module::{Stage, stage_of};

const MODULES: [(&str, &str); 2] = [("ai-quota", "quota"), ("ai-token-ratelimit", "limit")];
/// In a minute there are so many ticks.
const MINUTE: usize = 1200;
/// After so many it is said again that was not heard.
const AGAIN: usize = 200;

/// What the controller writes, with or without the wish to be told.
fn configuration(kind: &str, report: bool) -> Value {
    let policy = match kind {
        "quota" => json!({"store": "s", "keyPrefix": "k:", "owner": "o", "paths": ["/v1/messages"]}),
        _ => json!({
            "store": "s", "ruleName": "r", "paths": ["/v1/messages"], "global": [{"tokens": 5, "windowSeconds": 60}]
        }),
    };
    let mut configuration = json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 100}},
            "policies": {"p": policy},
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p", "open": true}],
    });
    if report {
        configuration["aiquota"]["report"] = json!({"of": "c-uid/higress-system", "revision": "abc"});
    }
    configuration
}

fn warnings(stage: &Stage) -> usize {
    stage.vm.logs().iter().filter(|line| line.text.contains("was not told which module runs here")).count()
}

fn shown(query: &[u8]) -> String {
    String::from_utf8_lossy(query).into_owned()
}

#[test]
fn both_modules_speak_with_their_first_tick_and_once_a_minute() -> Result<()> {
    for (module, kind) in MODULES {
        let mut stage = stage_of(module, &configuration(kind, true))?;
        ensure!(stage.vm.take_redis_calls().is_empty(), "a start that is only tried says nothing");
        stage.ticks(1)?;
        let first = stage.call()?;
        let said = shown(&first.query);
        ensure!(said.contains("EVALSHA") && said.contains(&format!("aiquota:loaded:c-uid/higress-system:{kind}\r\n")));
        ensure!(said.contains(&format!(" {VERSION} abc ")), "{said}");
        stage.reply(first.token, b":1\r\n")?;
        stage.ticks(MINUTE - 1)?;
        ensure!(stage.vm.take_redis_calls().is_empty());
        stage.ticks(1)?;
        let second = stage.call()?;
        ensure!(stage.vm.take_redis_inits().len() == 1, "nothing is initialised for it");
        stage.reply(second.token, b":1\r\n")?;
        ensure!(warnings(&stage) == 0);
    }
    Ok(())
}

#[test]
fn who_is_not_asked_says_nothing() -> Result<()> {
    for (module, kind) in MODULES {
        let mut stage = stage_of(module, &configuration(kind, false))?;
        stage.ticks(2 * MINUTE)?;
        ensure!(stage.vm.take_redis_calls().is_empty(), "{module}");
    }
    let upstream = json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static"}});
    let mut stage = stage_of("ai-quota", &upstream)?;
    stage.ticks(2 * MINUTE)?;
    ensure!(stage.vm.take_redis_calls().is_empty());
    Ok(())
}

#[test]
fn words_that_are_not_heard_cost_one_line_and_are_said_again_and_no_request_waits() -> Result<()> {
    let mut stage = stage_of("ai-quota", &configuration("quota", true))?;
    stage.ticks(1)?;
    let refused = stage.call()?;
    stage.reply(refused.token, b"-NOPERM this user has no permissions to run the 'evalsha' command\r\n")?;
    ensure!(warnings(&stage) == 1);
    stage.ticks(AGAIN)?;
    // Never answered, which is known some ticks later.
    stage.call()?;
    stage.ticks(AGAIN + 5)?;
    let late = stage.vm.take_redis_calls();
    ensure!(late.len() == 1, "{late:?}");
    // The host takes no call.
    stage.vm.refuse_redis_calls(2);
    stage.ticks(2 * AGAIN)?;
    ensure!(warnings(&stage) == 1, "one line, however often");
    stage.vm.refuse_redis_calls(0);
    stage.ticks(AGAIN + 5)?;
    ensure!(!stage.vm.take_redis_calls().is_empty(), "it goes on");
    Ok(())
}

#[tokio::test]
async fn redis_keeps_one_word_per_worker_that_ends_by_itself_for_a_user_of_few_rights() -> Result<()> {
    // As in docs/balances.md; nothing but what stands there.
    let user = "user few on >s3cret ~aiquota:* resetchannels -@all +auth +evalsha +eval +time +zadd +zrem \
                +zremrangebyscore +zremrangebyrank +zrange +expire";
    let config = vec![user.to_owned()];
    let redis = Redis::start(RedisOptions { config, ..RedisOptions::default() }).await?;
    let mut raw = e2e::raw::Raw::connect(&redis.addr()).await?;
    let auth = raw.forward(b"*3\r\n$4\r\nAUTH\r\n$3\r\nfew\r\n$6\r\ns3cret\r\n").await?;
    ensure!(auth == b"+OK\r\n", "{}", shown(&auth));
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut stage = stage_of("ai-quota", &configuration("quota", true))?;
        stage.ticks(1)?;
        let first = stage.call()?;
        let mut answer = raw.forward(&first.query).await?;
        stage.reply(first.token, &answer)?;
        if answer.starts_with(b"-NOSCRIPT") {
            let whole = stage.call()?;
            answer = raw.forward(&whole.query).await?;
            stage.reply(whole.token, &answer)?;
        }
        ensure!(answer == b":1\r\n", "{}", shown(&answer));
        stage.ticks(MINUTE)?;
        let again = stage.call()?;
        ensure!(raw.forward(&again.query).await? == b":1\r\n");
        stage.reply(again.token, b":1\r\n")?;
        workers.push((stage, shown(&again.query)));
    }
    let list = enforcement::redis::loaded::list("c-uid/higress-system", "quota");
    let listed = raw.forward(&list.encode()).await?;
    let reply = enforcement::redis::Reply::parse(&listed)?;
    let said = enforcement::redis::loaded::said(&reply, i64::MAX)?;
    ensure!(said.len() == 2, "one for each worker, however often it speaks: {said:?}");
    ensure!(said.iter().all(|said| said.version == VERSION && said.revision == "abc"), "{said:?}");
    let mut admin = redis.connect().await?;
    let key = "aiquota:loaded:c-uid/higress-system:quota";
    let expires: i64 = redis::cmd("TTL").arg(key).query_async(&mut admin).await?;
    ensure!((1..=180).contains(&expires), "{expires}");

    // Who has not spoken for three minutes is forgotten with the next word of anybody.
    let first = said.first().context("nobody")?;
    let member = format!("{} {} {} {}", first.worker, first.version, first.revision, first.gateway);
    redis::cmd("ZADD").arg(key).arg(1).arg(&member).query_async::<()>(&mut admin).await?;
    let other = workers.iter_mut().find(|(_, query)| !query.contains(&first.worker));
    let (other, _) = other.context("both are called the same")?;
    other.ticks(MINUTE)?;
    ensure!(raw.forward(&other.call()?.query).await? == b":1\r\n");
    let left: Vec<String> = redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query_async(&mut admin).await?;
    ensure!(left.len() == 1 && !left.contains(&member), "{left:?}");
    Ok(())
}
