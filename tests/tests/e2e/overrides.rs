//! Limits of single values from a Secret, through controller, Redis and gateway: an edit is in force without a change of
//! the WasmPlugin, what cannot be read changes nothing, and no credential is where it need not be.

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject};
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use testbed::{Gateway, kubectl_with_input};

use crate::scenario_a::completion;
use crate::stage::{NAMESPACE, Stage};

const OURS: &str = "quota.higress.io/v1alpha1";
const PLUGIN: &str = "aiquota-ai-token-ratelimit";
const SET: &str = "aiquota:overrides:{burst}:header:x-api-key";
const COUNTER: &str =
    "higress-token-ratelimit:{burst}:override:header:x-api-key:sha1:2e0300945cd913be92e5626ce4f3f8c9c15457cb";
const OWN: &str =
    "higress-token-ratelimit:{burst}:limit_by_per_header:3600:x-api-key:sha1:f6d49a2cab4f8cb42ab444cad067560a23b5cc7e";

struct Bed {
    stage: Stage,
    gateway: Gateway,
    limits: Api<DynamicObject>,
}

impl Bed {
    /// 1,000 tokens an hour for each key, but for those of the Secret.
    async fn new(keys: &str) -> Result<Self> {
        let stage = Stage::set().await?;
        stage.start_controller()?;
        let gateway = stage.start_gateway().await?;
        stage.apply_example("gateway.yaml").await?;
        stage
            .apply_example_with("quota.yaml", |text| {
                let store = text.split("---").find(|object| object.contains("kind: AIQuotaStore"));
                store.unwrap_or_default().to_owned()
            })
            .await?;
        let limits = stage.limits().await?;
        let bed = Self { stage, gateway, limits };
        bed.keys(keys).await?;
        let any = |tokens: i64| json!([{"match": {"any": true}, "tokens": tokens, "window": "1h"}]);
        let limit = json!({
            "apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": "burst", "namespace": NAMESPACE},
            "spec": {
                "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
                "ruleName": "burst",
                "rules": [
                    {"by": {"header": "x-api-key"}, "limits": any(1_000),
                        "overridesFrom": [{"kind": "Secret", "name": "keys"}]},
                    {"by": {"consumer": {}}, "limits": any(1_000_000)},
                ],
            },
        });
        bed.stage.api.apply(&limit).await?;
        bed.stage.condition(&bed.limits, "burst", "Ready", "True").await?;
        bed.stage.condition(&bed.limits, "burst", "Seeded", "True").await?;
        bed.stage.in_force(&bed.gateway).await?;
        Ok(bed)
    }

    async fn keys(&self, lines: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": NAMESPACE},
            "stringData": {"list": lines},
        });
        kubectl_with_input(&self.stage.api, &["apply", "-f", "-"], &secret.to_string()).await.map(drop)
    }

    async fn ask(&self, key: &str, tokens: i64) -> Result<u16> {
        let reply = completion(&self.gateway, key, false).header("x-test-usage", format!("{tokens},0")).send().await?;
        Ok(reply.status)
    }

    /// Waits until there is no set.
    async fn nothing_is_left(&self) -> Result<()> {
        self.stage
            .eventually("nothing of it is left", async || {
                let mut redis = self.stage.redis.connect().await?;
                let left: Vec<String> = redis.keys("aiquota:overrides:*").await?;
                ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
            .await
    }

    /// All that stands in the set.
    async fn set(&self) -> Result<Vec<String>> {
        let mut redis = self.stage.redis.connect().await?;
        let fields: std::collections::BTreeMap<String, String> = redis.hgetall(SET).await?;
        Ok(fields.into_iter().flat_map(|(field, value)| [field, value]).collect())
    }

    /// All that Redis was asked lately, as its slow log keeps it.
    async fn asked(&self) -> Result<String> {
        let mut redis = self.stage.redis.connect().await?;
        let log: redis::Value = redis::cmd("SLOWLOG").arg("GET").arg(-1).query_async(&mut redis).await?;
        let mut words = Vec::new();
        texts(&log, &mut words);
        Ok(words.join(" "))
    }

    async fn plugin(&self) -> Result<DynamicObject> {
        Ok(self.stage.plugins().await?.get(PLUGIN).await?)
    }
}

fn texts(value: &redis::Value, into: &mut Vec<String>) {
    match value {
        redis::Value::Array(values) => values.iter().for_each(|value| texts(value, into)),
        redis::Value::BulkString(text) => into.push(String::from_utf8_lossy(text).into_owned()),
        _ => {}
    }
}

#[tokio::test]
async fn an_edited_secret_is_in_force_without_a_change_of_the_wasm_plugin() -> Result<()> {
    let bed = Bed::new("# vips\nuser1-key: 15/1h\n").await?;
    let written = bed.plugin().await?.metadata.resource_version;
    assert_eq!(bed.ask("user1-key", 20).await?, 200);
    bed.stage.holds(COUNTER, Some("20")).await?;
    assert_eq!(bed.ask("user1-key", 20).await?, 429, "its own limit, not the rule's");
    assert_eq!(bed.ask("user2-key", 20).await?, 200);
    bed.stage.holds(OWN, Some("20")).await?;
    assert_eq!(bed.ask("user2-key", 20).await?, 200, "the rule's");

    bed.keys("user1-key: 100/1h").await?;
    bed.stage
        .eventually("the edit is in force", async || {
            let status = bed.ask("user1-key", 20).await?;
            ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
    assert_eq!(bed.plugin().await?.metadata.resource_version, written);

    // What Redis lost is there again.
    bed.stage.redis.flush().await?;
    bed.stage
        .eventually("the set is there again", async || {
            let set = bed.set().await?;
            ensure!(set.iter().any(|word| word == "100/3600"), "{set:?}");
            Ok(())
        })
        .await?;
    assert_eq!(bed.plugin().await?.metadata.resource_version, written);

    bed.limits.delete("burst", &DeleteParams::default()).await?;
    bed.nothing_is_left().await
}

#[tokio::test]
async fn a_line_that_cannot_be_read_is_named_without_its_value_and_leaves_what_is_there() -> Result<()> {
    let bed = Bed::new("user1-key: 15/1h\n").await?;
    let set = bed.set().await?;
    let mut redis = bed.stage.redis.connect().await?;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("slowlog-log-slower-than").arg(0).query_async(&mut redis).await?;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("slowlog-max-len").arg(100_000).query_async(&mut redis).await?;
    bed.keys("# vips\nuser1-key: many/1h\n").await?;
    let said = ["Secret higress-system/keys, key list, line 2", "what was last read stays in force"];
    bed.stage.says(&bed.limits, "burst", "OverridesInvalid", ("True", "OverridesInvalid"), &said).await?;
    assert_eq!(bed.set().await?, set);
    assert_eq!(bed.ask("user1-key", 20).await?, 200);
    bed.stage.holds(COUNTER, Some("20")).await?;
    assert_eq!(bed.ask("user1-key", 20).await?, 429);

    // A credential stands in the Secret and in requests only.
    let object = serde_json::to_string(&bed.limits.get("burst").await?)?;
    let plugin = serde_json::to_string(&bed.plugin().await?)?;
    // It is written behind the condition.
    let events = bed
        .stage
        .eventually("an Event tells it", async || {
            let events = bed.stage.events("OverridesInvalid").await?;
            ensure!(!events.is_empty(), "there is none");
            Ok(events)
        })
        .await?;
    let log = bed.stage.controller().context("it runs")?.log();
    for (what, text) in [
        ("the object", object),
        ("the WasmPlugin", plugin),
        ("Events", events.join("\n")),
        ("the controller's log", log),
        ("the set", set.join("\n")),
        ("what Redis was asked", bed.asked().await?),
    ] {
        ensure!(!text.contains("user1-key"), "{what}: {text}");
    }
    ensure!(bed.asked().await?.contains(COUNTER), "the requests are among it");

    let others: Value = json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "rules": [
        {"by": {"header": "x-other"}, "overridesFrom": [{"kind": "Secret", "name": "nothing"}]},
    ]});
    let other = json!({
        "apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": "other", "namespace": NAMESPACE},
        "spec": others,
    });
    bed.stage.api.apply(&other).await?;
    let said = ["Secret higress-system/nothing does not exist"];
    bed.stage.says(&bed.limits, "other", "Accepted", ("False", "OverridesInvalid"), &said).await.map(drop)
}

#[tokio::test]
async fn a_controller_that_was_killed_misses_no_edit_and_leaves_no_set_behind() -> Result<()> {
    let bed = Bed::new("user1-key: 15/1h\n").await?;
    let is_set = async |limit: &str| {
        bed.stage
            .eventually("the edit is written", async || {
                let set = bed.set().await?;
                ensure!(set.iter().any(|word| word == limit), "{set:?}");
                Ok(())
            })
            .await
    };
    let controller = bed.stage.controller().context("no controller")?;
    // In the middle of writing, and while nothing runs.
    for (tokens, running) in [(16, true), (17, false), (18, true), (19, true)] {
        if !running {
            controller.kill();
        }
        bed.keys(&format!("user1-key: {tokens}/1h\n")).await?;
        controller.kill();
        controller.restart()?;
        is_set(&format!("{tokens}/3600")).await?;
    }
    bed.limits.delete("burst", &DeleteParams::default()).await?;
    controller.kill();
    controller.restart()?;
    bed.nothing_is_left().await
}
