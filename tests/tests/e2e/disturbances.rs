//! What the control plane stands on goes away or changes while requests flow: rules stay in force, nothing passes
//! unmetered, every refusal is the documented one, statuses say what is so, and little is written.

mod load;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};
use testbed::{ApiProxy, Controller, Gateway, Mode, Operations, RedisOptions, RedisProxy, eventually};

use crate::stage::{NAMESPACE, PASSWORD, Stage};
use load::{CONSUMERS, Load, Refusals, Spent};

/// More than any load here spends.
const GRANT: i64 = 1_000_000_000;
/// What an edit in the middle adds to the first consumer.
const MORE: i64 = 1_000;

/// The whole system with the controller behind a proxy that counts what it writes.
struct Bed {
    stage: Stage,
    gateway: Gateway,
    writes: Operations,
    _to_api: ApiProxy,
    /// As the WasmPlugin was when the load began, and when that was.
    version: Option<String>,
    begun: Instant,
}

/// Of which requests the charges must be booked.
#[derive(Clone, Copy)]
enum Exactness {
    All,
    /// Those that started since this mark; those that were on their way then may be.
    Since(usize),
    /// All but those that were on their way between this mark and the next, where the gateway gave its modules other
    /// options for Redis: what a module has sent when it is replaced is answered to nobody, and is lost with the
    /// connection that is closed for the new options. At most what can be on the way at once.
    Outside(usize),
}

impl Bed {
    /// `redis_at`: where the gateway and the controller find Redis, if not where it is.
    async fn new(options: RedisOptions, redis_at: impl AsyncFnOnce(&Stage) -> Result<String>) -> Result<Self> {
        const USER2: &str = "- {name: aliyun-user2, credential: user2-key}";
        let options = RedisOptions { password: Some(PASSWORD.to_owned()), ..options };
        let (stage, writes) = (Stage::set_with(options).await?, Operations::new());
        let to_api = ApiProxy::start(&stage.api, &writes).await?;
        stage.start_controller_through(&to_api)?;
        let gateway = stage.start_gateway().await?;
        let address = redis_at(&stage).await?;
        let change = |text: &str| {
            let user3 = format!("{USER2}\n      - {{name: aliyun-user3, credential: user3-key}}");
            text.replace(USER2, &user3).replace(&stage.redis.addr(), &address)
        };
        stage.apply_example_with("gateway.yaml", change).await?;
        stage.apply_example("quota.yaml").await?;
        stage.apply_consumers(&consumers(GRANT)).await?;
        stage.ready("chat").await?;
        stage.in_force(&gateway).await?;
        stage.loaded("chat").await?;
        let mut bed = Self { stage, gateway, writes, _to_api: to_api, version: None, begun: Instant::now() };
        // Rules are in force, and what followed the last write is written as well.
        bed.stage.rounds(1).await?;
        bed.version = bed.plugin_version().await?;
        bed.begun = Instant::now();
        bed.writes.take();
        Ok(bed)
    }

    async fn direct(options: RedisOptions) -> Result<Self> {
        Self::new(options, async |stage| Ok(stage.redis.addr())).await
    }

    fn controller(&self) -> Result<&Controller> {
        self.stage.controller().context("no controller was started")
    }

    async fn plugin_version(&self) -> Result<Option<String>> {
        Ok(self.stage.plugins().await?.get("aiquota-ai-quota").await?.metadata.resource_version)
    }

    /// Gives the first consumer more, as somebody does in the middle of everything.
    async fn edit(&self) -> Result<()> {
        self.stage.apply_consumers(&consumers(GRANT + MORE)).await
    }

    /// Waits until an edit has become true everywhere.
    async fn edited(&self) -> Result<()> {
        self.stage.ready("chat").await?;
        self.stage.condition(&self.stage.stores().await?, "default", "Connected", "True").await.map(drop)
    }

    /// Waits until everything spent is booked, once, but for what the module itself says it does not know of.
    async fn booked(&self, spent: &Spent, exactness: Exactness, first_grant: i64) -> Result<()> {
        for (consumer, _) in CONSUMERS {
            let sum = |wanted: &dyn Fn(usize, usize) -> bool| -> i64 {
                let those = spent.iter().filter(|((name, from, to), _)| *name == consumer && wanted(*from, *to));
                those.map(|(_, tokens)| tokens).sum()
            };
            let (sure, may_be, may_be_lost) = match exactness {
                Exactness::All => (sum(&|_, _| true), 0, 0),
                Exactness::Since(mark) => (sum(&|from, _| from >= mark), sum(&|from, to| from < mark && to >= mark), 0),
                Exactness::Outside(mark) => {
                    let touching = sum(&|from, to| from <= mark && to >= mark);
                    (sum(&|_, _| true), 0, touching.min(load::IN_FLIGHT_COSTS))
                }
            };
            ensure!(sure > may_be_lost, "{consumer} spent {sure}, of which {may_be_lost} need not be booked");
            let grant = if consumer == CONSUMERS[0].0 { first_grant } else { GRANT };
            let key = format!("chat_quota:{consumer}");
            eventually(&format!("what {consumer} spent is booked"), async || {
                let balance: i64 = self.stage.redis.get(&key).await?.context("no balance")?.parse()?;
                let (booked, unknown) = (grant - balance, self.unknown(&key));
                ensure!(
                    (sure - unknown - may_be_lost..=sure + may_be).contains(&booked),
                    "{booked} tokens are booked of {sure}; {unknown} are unknown, {may_be_lost} may be lost, and \
                     {may_be} more may be booked"
                );
                Ok(())
            })
            .await?;
        }
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }

    /// The tokens of charges that were never answered, as the module logs them.
    fn unknown(&self, key: &str) -> i64 {
        let against = format!("may not have been booked against {key}: ");
        let lines = self.gateway.logs().into_iter().filter(|line| line.text.contains(&against));
        lines.filter_map(|line| line.text.split(' ').next()?.parse::<i64>().ok()).sum()
    }

    /// How often each thing was written: at most this often, and the WasmPlugins not at all. Besides, each minute the
    /// AIQuota tells what is left.
    async fn wrote_at_most(&self, bounds: &[(&str, usize)]) -> Result<()> {
        let told = usize::try_from(self.begun.elapsed().as_secs() / 60)? + 1;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for operation in self.writes.seen() {
            *counts.entry(operation.kind).or_default() += 1;
        }
        for (kind, count) in &counts {
            let told = if kind == "aiquotas/status" { told } else { 0 };
            let bound = told + bounds.iter().find(|(bounded, _)| bounded == kind).map_or(0, |(_, bound)| *bound);
            ensure!(*count <= bound, "{kind}: {count} writes, not more than {bound}: {:#?}", self.writes.seen());
        }
        println!("writes: {counts:?}");
        ensure!(self.plugin_version().await? == self.version, "the WasmPlugin was written");
        self.controller()?.ensure_running()?;
        let starts = self.controller()?.log().matches("controller: watching").count();
        ensure!(starts == 1, "the controller was started {starts} times");
        Ok(())
    }
}

fn consumers(first: i64) -> Value {
    let grant = |name: &str| if name == CONSUMERS[0].0 { first } else { GRANT };
    CONSUMERS.iter().map(|(name, _)| json!({"name": name, "quota": grant(name)})).collect()
}

/// How long something stays away, beyond what is waited for: a minute with `AIQUOTA_LONG=1`.
fn outage() -> Duration {
    let long = std::env::var("AIQUOTA_LONG").is_ok_and(|value| value == "1");
    Duration::from_secs(if long { 60 } else { 2 })
}

fn said(condition: &Value, words: &[&str]) -> Result<()> {
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(condition["reason"] == "StoreUnreachable", "{condition}");
    ensure!(words.iter().all(|word| message.contains(word)), "{words:?} are not all in {message:?}");
    ensure!(!message.contains(PASSWORD), "{message}");
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_restarts_disturbs_no_request_and_causes_no_write() -> Result<()> {
    let bed = Bed::direct(RedisOptions::default()).await?;
    let mut load = Load::start(&bed.gateway, Refusals::None);
    load.flows(200).await?;
    let stopped = Instant::now();
    bed.stage.api.stop()?;
    load.flows(200).await?;
    tokio::time::sleep(outage()).await;
    load.flows(200).await?;
    bed.stage.api.restart().await?;
    // What cannot be told meanwhile is tried again each 5 s.
    let tried = usize::try_from(stopped.elapsed().as_secs() / 5)?;
    bed.edit().await?;
    bed.edited().await?;
    load.flows(200).await?;
    bed.booked(&load.stop().await?, Exactness::All, GRANT + MORE).await?;
    // The objects it lists again are as they were: nothing is due but the word that the edit was seen.
    bed.wrote_at_most(&[("aiquotas/status", 1 + tried)]).await
}

#[tokio::test]
async fn while_redis_is_down_requests_are_refused_and_statuses_say_why() -> Result<()> {
    // What was booked survives the kill: with `everysec` a write may be put off for two seconds after its reply.
    let config = ["appendonly yes", "appendfsync no"].map(str::to_owned).to_vec();
    let bed = Bed::direct(RedisOptions { config, ..RedisOptions::default() }).await?;
    let mut load = Load::start(&bed.gateway, Refusals::Unavailable);
    load.flows(200).await?;
    bed.stage.redis.kill();
    load.is_refused(200).await?;
    bed.edit().await?;
    let (stores, quotas) = (bed.stage.stores().await?, bed.stage.quotas().await?);
    let down = async |objects: &Api<DynamicObject>, name: &str, kind: &str| {
        bed.stage
            .eventually(&format!("{name} says that nobody listens"), async || {
                let condition = bed.stage.condition(objects, name, kind, "False").await?;
                said(&condition, &[&bed.stage.redis.addr(), "refused"])
            })
            .await
    };
    down(&stores, "default", "Connected").await?;
    down(&quotas, "chat", "Seeded").await?;
    tokio::time::sleep(outage()).await;
    load.is_refused(200).await?;
    down(&stores, "default", "Connected").await?;
    ensure!(bed.stage.rules().await? > 0, "the rules are gone");

    bed.stage.redis.restart().await?;
    load.flows(200).await?;
    bed.edited().await?;
    load.flows(200).await?;
    bed.booked(&load.stop().await?, Exactness::All, GRANT + MORE).await?;
    // One patch per object and message, of which there are three: nobody listens, Redis is loading, and all is well.
    // That a connection broke is none. The way down is told once per object.
    bed.wrote_at_most(&[("aiquotas/status", 3), ("aiquotastores/status", 3), ("events", 2)]).await
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_seeded_again_and_only_what_it_granted_is_spent() -> Result<()> {
    let bed = Bed::direct(RedisOptions::default()).await?;
    let mut load = Load::start(&bed.gateway, Refusals::NoQuota);
    load.flows(200).await?;
    load.mark();
    bed.stage.redis.kill();
    load.is_refused(200).await?;
    bed.stage.redis.restart().await?;
    load.flows(200).await?;
    bed.edit().await?;
    bed.edited().await?;
    load.flows(200).await?;
    bed.booked(&load.stop().await?, Exactness::Since(1), GRANT + MORE).await?;
    // The edit; and down and up of two objects, should the controller ask in the moment it was away.
    bed.wrote_at_most(&[("aiquotas/status", 3), ("aiquotastores/status", 3), ("events", 2)]).await
}

#[tokio::test]
async fn a_password_that_is_rotated_reaches_the_gateway_and_the_controller() -> Result<()> {
    const NEW: &str = "changed-now";
    let bed = Bed::direct(RedisOptions::default()).await?;
    let mut load = Load::start(&bed.gateway, Refusals::Unavailable);
    load.flows(200).await?;
    load.mark();
    let mut redis = bed.stage.redis.connect().await?;
    let acl = ["SETUSER", "default", "resetpass", &format!(">{NEW}")].map(str::to_owned);
    redis::cmd("ACL").arg(&acl).query_async::<()>(&mut redis).await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "redis-auth", "namespace": NAMESPACE}, "stringData": {"password": NEW}});
    bed.stage.api.apply(&secret).await?;
    let rotated = |loaded: &testbed::gateway::Loaded| {
        loaded.plugin("aiquota-ai-quota").is_some_and(|plugin| plugin.config.to_string().contains(NEW))
    };
    bed.gateway.settled(rotated).await?;
    // Whoever is still in by the old password is thrown out, and must come again by the new one.
    redis::cmd("CLIENT").arg(&["KILL", "USER", "default"]).query_async::<i64>(&mut redis).await?;
    load.flows(100).await?;
    load.mark();
    bed.edit().await?;
    bed.edited().await?;
    load.flows(400).await?;
    bed.booked(&load.stop().await?, Exactness::Outside(1), GRANT + MORE).await?;
    // The edit; and the store away and back, should the controller come between the two passwords or be thrown out.
    bed.wrote_at_most(&[("aiquotas/status", 3), ("aiquotastores/status", 2), ("events", 2)]).await?;
    let logged = bed.controller()?.log() + &format!("{:?}", bed.gateway.logs());
    ensure!(!logged.contains(NEW) && !logged.contains(PASSWORD), "a password is in a log");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_moves_is_followed_by_its_registry() -> Result<()> {
    let counted = Operations::new();
    let (mut old, mut new) = (None, None);
    let bed = Bed::new(RedisOptions::default(), async |stage| {
        new = Some(RedisProxy::start(stage.redis.addr(), &counted).await?);
        Ok(old.insert(RedisProxy::start(stage.redis.addr(), &counted).await?).addr().to_string())
    })
    .await?;
    let (old, new) = (old.context("no proxy")?, new.context("no proxy")?);
    let mut load = Load::start(&bed.gateway, Refusals::Unavailable);
    load.flows(200).await?;
    load.mark();
    let registry = |name: &str, address: String| json!({"name": name, "type": "static", "domain": address, "port": 80});
    let registries =
        [registry("local-redis", new.addr().to_string()), registry("llm-qwen", bed.stage.model.addr().to_string())];
    bed.stage
        .api
        .apply(&json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
            "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"registries": registries}}))
        .await?;
    bed.edit().await?;
    bed.edited().await?;
    load.flows(200).await?;
    // Nobody needs the old address any more.
    old.set(Mode::Refuse);
    load.flows(100).await?;
    load.mark();
    load.flows(400).await?;
    bed.stage.apply_consumers(&consumers(GRANT + 2 * MORE)).await?;
    bed.edited().await?;
    bed.booked(&load.stop().await?, Exactness::Outside(1), GRANT + 2 * MORE).await?;
    // Two edits; the rest is as it was.
    bed.wrote_at_most(&[("aiquotas/status", 2)]).await
}
