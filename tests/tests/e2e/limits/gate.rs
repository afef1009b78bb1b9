//! Limits through the gateway: real HTTP, real Redis, the built modules as Higress loads them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use testbed::{Call, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions, Reply, Source, eventually, post};

use crate::gateway::bed::{bridge, consumers, key_auth, plugin, route};

struct Bed {
    gateway: Gateway,
    redis: Redis,
    look: MultiplexedConnection,
    _model: ModelServer,
}

fn redis_block() -> Value {
    json!({"service_name": "redis.static", "timeout": 5000})
}

/// The module of limits with this `defaultConfig` and these rules.
fn limits(default: &Value, rules: &Value) -> Result<Value> {
    let url = format!("file://{}", testbed::module("ai-token-ratelimit")?.display());
    Ok(plugin("ai-token-ratelimit", &url, json!({"priority": 600, "defaultConfig": default, "matchRules": rules})))
}

fn quota() -> Result<Value> {
    let url = format!("file://{}", testbed::module("ai-quota")?.display());
    let default = json!({"admin_consumer": "admin", "redis": redis_block()});
    Ok(plugin("ai-quota", &url, json!({"priority": 750, "defaultConfig": default})))
}

impl Bed {
    async fn new(mut plugins: Vec<Value>) -> Result<Self> {
        let (redis, model) = (Redis::start(RedisOptions::default()).await?, ModelServer::start().await?);
        let names: Vec<String> =
            plugins.iter().filter_map(|plugin| plugin["metadata"]["name"].as_str().map(str::to_owned)).collect();
        plugins.push(bridge(&[("llm", &model.addr().to_string()), ("redis", &redis.addr())]));
        plugins.push(route("chat", json!({})));
        plugins.push(key_auth(json!({"defaultConfig": consumers()})));
        let gateway =
            Gateway::start(GatewayOptions { source: Source::Objects(plugins), ..GatewayOptions::default() }).await?;
        ensure!(names.iter().all(|name| gateway.loaded().runs(name)), "{:#?}", gateway.loaded());
        Ok(Self { gateway, look: redis.connect().await?, redis, _model: model })
    }

    /// A completion as alice that uses so many tokens.
    fn call(&self, tokens: i64, query: &str) -> Call {
        post(format!("{}/v1/chat/completions{query}", self.gateway.url()))
            .header("x-api-key", "a")
            .header("x-test-usage", format!("{tokens},0"))
            .json(&json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]}))
    }

    /// Every counter and balance with its value.
    async fn stored(&self) -> Result<BTreeMap<String, String>> {
        let mut look = self.look.clone();
        let keys: Vec<String> = look.keys("*").await?;
        let mut stored = BTreeMap::new();
        for key in keys {
            if let Some(value) = look.get::<_, Option<String>>(&key).await? {
                stored.insert(key, value);
            }
        }
        Ok(stored)
    }

    /// Returns when exactly this is stored.
    async fn stores(&self, expected: &[(&str, &str)]) -> Result<()> {
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        eventually("what was used is booked", async || {
            let stored = self.stored().await?;
            ensure!(stored == expected, "stored are {stored:#?}, expected {expected:#?}");
            Ok(())
        })
        .await
    }

    /// That the window of a counter has just begun.
    async fn ensure_ends_in(&self, key: &str, window: i64) -> Result<()> {
        let left: i64 = self.look.clone().ttl(key).await?;
        ensure!((window - 30..=window).contains(&left), "{key}: {left}");
        Ok(())
    }

    /// How many scripts were run.
    async fn scripts(&self) -> Result<i64> {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.look.clone()).await?;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        Ok(line.and_then(|line| line.split(',').next()).map_or(Ok(0), str::parse)?)
    }

    fn ensure_sound(&self) -> Result<()> {
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }
}

fn ensure_rejected(reply: &Reply, code: u16, message: &str, window: i64) -> Result<()> {
    ensure!((reply.status, &*reply.text()) == (code, message), "{} {}", reply.status, reply.text());
    let left: i64 = reply.header("x-tokenratelimit-reset").context("no header says when it ends")?.parse()?;
    ensure!((window - 30..=window).contains(&left), "{left}");
    Ok(())
}

/// An item that limits each value of a header, and one that limits alice.
fn items() -> Value {
    json!([
        {"limit_by_per_param": "tenant", "limit_keys": [{"key": "regexp:^a=", "token_per_hour": 5}]},
        {"limit_by_consumer": "", "limit_keys": [{"key": "alice", "token_per_minute": 50}]},
    ])
}

const TENANT: &str = "?tenant=a%3Db%26c";

#[tokio::test]
async fn the_second_generation_counts_every_item_and_the_threshold() -> Result<()> {
    let default = json!({"rule_name": "default_rule", "redis": redis_block(), "rule_items": items(),
        "global_threshold": {"token_per_day": 500}, "rejected_code": 430, "rejected_msg": "slow down"});
    let bed = Bed::new(vec![limits(&default, &json!([]))?]).await?;
    let (global, tenant, alice) = (
        "higress-token-ratelimit:{default_rule}:global_threshold:86400",
        "higress-token-ratelimit:{default_rule}:limit_by_per_param:3600:tenant:a=b&c",
        "higress-token-ratelimit:{default_rule}:limit_by_consumer:60:x-mse-consumer:alice",
    );
    ensure!(bed.call(5, TENANT).send().await?.status == 200);
    bed.stores(&[(global, "5"), (tenant, "5"), (alice, "5")]).await?;
    for (key, window) in [(global, 86_400), (tenant, 3_600), (alice, 60)] {
        bed.ensure_ends_in(key, window).await?;
    }
    ensure!(bed.call(3, TENANT).send().await?.status == 200, "exactly at the threshold");
    bed.stores(&[(global, "8"), (tenant, "8"), (alice, "8")]).await?;
    let before = bed.scripts().await?;
    ensure_rejected(&bed.call(3, TENANT).send().await?, 430, "slow down", 3_600)?;
    ensure!(bed.call(3, "").send().await?.status == 200, "under the other limits only");
    bed.stores(&[(global, "11"), (tenant, "8"), (alice, "11")]).await?;
    ensure!(bed.scripts().await? - before == 3, "one call per phase");
    let log = eventually("both are logged", async || {
        let log = bed.gateway.access_log();
        ensure!(log.len() == 4, "{log:#?}");
        Ok(log)
    })
    .await?;
    let rejected = log.iter().find(|exchange| exchange.status == 430).context("none was rejected")?;
    ensure!(rejected.details == "ai-token-ratelimit.rejected", "{rejected:?}");
    let name = format!(
        "route.chat.upstream.{}.model.none.consumer.alice.metric.token_ratelimit_count",
        log[0].cluster.as_deref().context("no cluster")?
    );
    ensure!(bed.gateway.metrics().get(&name) == Some(&1), "{:#?}", bed.gateway.metrics());
    bed.ensure_sound()
}

#[tokio::test]
async fn the_first_generation_counts_the_first_item_that_matches() -> Result<()> {
    let default = json!({"aiquota": {"version": 1, "dialect": "v1"}, "rule_name": "default_rule",
        "redis": redis_block(), "rule_items": items()});
    let bed = Bed::new(vec![limits(&default, &json!([]))?]).await?;
    let (tenant, alice) = (
        "higress-token-ratelimit:default_rule:limit_by_per_param:3600:tenant:a=b&c",
        "higress-token-ratelimit:default_rule:limit_by_consumer:60:x-mse-consumer:alice",
    );
    ensure!(bed.call(6, TENANT).send().await?.status == 200);
    bed.stores(&[(tenant, "6")]).await?;
    bed.ensure_ends_in(tenant, 3_600).await?;
    ensure_rejected(&bed.call(6, TENANT).send().await?, 429, "Too many requests", 3_600)?;
    ensure!(bed.call(6, "?tenant=b").send().await?.status == 200);
    bed.stores(&[(tenant, "6"), (alice, "6")]).await?;
    bed.ensure_ends_in(alice, 60).await?;
    bed.ensure_sound()
}

#[tokio::test]
async fn our_form_limits_metered_paths_and_passes_when_redis_is_gone() -> Result<()> {
    let native = json!({"version": 1,
    "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 500}},
    "policies": {"p": {"store": "s", "ruleName": "ns.chat", "paths": ["/v1/chat/completions"],
        "rules": [{"by": {"ip": {"fromHeader": "X-Real-IP"}}, "limits": [
            {"match": {"cidr": "fd00::/8"}, "tokens": 5, "windowSeconds": 7200},
            {"match": {"cidr": "fd00::/8"}, "tokens": 500, "windowSeconds": 90_000},
        ]}]}}});
    let rules = json!([{"ingress": ["chat"], "config": {"policy": "p"}}]);
    let bed = Bed::new(vec![limits(&json!({"aiquota": native}), &rules)?]).await?;
    let from = |tokens| bed.call(tokens, "").header("x-real-ip", "[FD00:0::1]:4711, 10.0.0.1");
    let key = |window: u32| {
        format!("higress-token-ratelimit:{{ns.chat}}:limit_by_per_ip:{window}:from-header-X-Real-IP:fd00::1")
    };
    ensure!(from(6).send().await?.status == 200);
    bed.stores(&[(&key(7_200), "6"), (&key(90_000), "6")]).await?;
    bed.ensure_ends_in(&key(7_200), 7_200).await?;
    bed.ensure_ends_in(&key(90_000), 90_000).await?;
    ensure_rejected(&from(6).send().await?, 429, "Too many requests", 7_200)?;
    ensure!(bed.call(6, "").header("x-real-ip", "10.0.0.1").send().await?.status == 200, "in no network");
    let models = testbed::get(format!("{}/v1/models", bed.gateway.url())).header("x-api-key", "a");
    ensure!(models.header("x-real-ip", "fd00::1").send().await?.status != 429, "not metered");
    bed.redis.kill();
    ensure!(from(6).send().await?.status == 200, "nobody knows where its counters stand");
    bed.ensure_sound()
}

#[tokio::test]
async fn clients_are_limited_by_the_address_that_they_connect_from() -> Result<()> {
    let native = json!({"version": 1,
    "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 5000}},
    "policies": {"p": {"store": "s", "ruleName": "ns.chat", "paths": ["/v1/chat/completions"],
        "rules": [{"by": {"ip": {}}, "limits": [{"match": {"cidr": "127.0.0.0/8"}, "tokens": 5, "windowSeconds": 7200}]}]}}});
    let rules = json!([{"ingress": ["chat"], "config": {"policy": "p"}}]);
    let bed = Bed::new(vec![limits(&json!({"aiquota": native}), &rules)?]).await?;
    let key = "higress-token-ratelimit:{ns.chat}:limit_by_per_ip:7200:from-remote-addr:127.0.0.1";
    // What a client says of itself is not looked at.
    let from = |tokens| bed.call(tokens, "").header("x-real-ip", "10.0.0.1").header("x-forwarded-for", "10.0.0.1");
    ensure!(from(6).send().await?.status == 200);
    bed.stores(&[(key, "6")]).await?;
    bed.ensure_ends_in(key, 7_200).await?;
    ensure_rejected(&from(6).send().await?, 429, "Too many requests", 7_200)?;
    bed.stores(&[(key, "6")]).await?;
    bed.ensure_sound()
}

#[tokio::test]
async fn both_kinds_charge_once_and_who_is_refused_by_one_is_charged_by_neither() -> Result<()> {
    let default = json!({"rule_name": "r", "redis": redis_block(), "global_threshold": {"token_per_hour": 10}});
    let bed = Bed::new(vec![limits(&default, &json!([]))?, quota()?]).await?;
    let (counter, balance) = ("higress-token-ratelimit:{r}:global_threshold:3600", "chat_quota:alice");
    bed.redis.set(balance, 100).await?;

    ensure!(bed.call(6, "").send().await?.status == 200);
    bed.stores(&[(counter, "6"), (balance, "94")]).await?;
    let streamed = bed.call(6, "").json(&json!({"model": "m", "stream": true, "messages": []})).send().await?;
    ensure!(streamed.status == 200, "{}", streamed.text());
    bed.stores(&[(counter, "12"), (balance, "88")]).await?;

    // The quota admits, the limit rejects.
    ensure_rejected(&bed.call(6, "").send().await?, 429, "Too many requests", 3_600)?;
    // The quota, which comes first, refuses: the limit is not even asked.
    bed.redis.set(balance, 0).await?;
    let before = bed.scripts().await?;
    let refused = bed.call(6, "").send().await?;
    ensure!((refused.status, &*refused.text()) == (403, "Request denied by ai quota check, No quota left"));
    let log = eventually("all are logged", async || {
        let log = bed.gateway.access_log();
        ensure!(log.len() == 4, "{log:#?}");
        Ok(log)
    })
    .await?;
    let mut answers: Vec<u16> = log.iter().map(|exchange| exchange.status).collect();
    answers.sort_unstable();
    ensure!(answers == [200, 200, 403, 429], "{log:#?}");
    ensure!(bed.scripts().await? == before);
    // What an exchange charges is sent before it is logged; another request's charge comes behind it on each worker.
    bed.redis.set(balance, 50).await?;
    redis::cmd("SET").arg(counter).arg(3).query_async::<()>(&mut bed.look.clone()).await?;
    for _ in 0..2 {
        ensure!(bed.call(1, "").send().await?.status == 200);
    }
    bed.stores(&[(counter, "5"), (balance, "48")]).await?;
    bed.ensure_sound()
}
