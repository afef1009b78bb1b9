//! Limits that are planned for each generation of upstream's module, through the gateway: what the controller wrote, read
//! by our module, which plays upstream's and is told in the gateway of which generation it is.

use anyhow::{Context as _, Result, ensure};
use kube::api::ListParams;
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use testbed::{Call, Controller, ControllerOptions, Gateway, GatewayOptions, Source, eventually};

use super::rounds;
use crate::scenario_a::completion;
use crate::stage::{NAMESPACE, Stage};

const OURS: &str = "quota.higress.io/v1alpha1";
const WASM_PLUGIN: &str = "extensions.higress.io/v1alpha1";
const PLUGIN: &str = "aiquota-ai-token-ratelimit";
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

fn start(stage: &Stage, dialect: &str) -> Result<Controller> {
    let args = vec!["--log=controller=debug,info".to_owned(), format!("--limit-dialect={dialect}")];
    Controller::start(&stage.api, ControllerOptions { upstream: true, args, ..ControllerOptions::default() })
}

/// 40 tokens an hour for one API key, 5 a day for each other.
fn limit(more: &Value) -> Value {
    let limits = json!([
        {"match": {"exact": "user1-key"}, "tokens": 40, "window": "1h"},
        {"match": {"any": true}, "tokens": 5, "window": "1d"},
    ]);
    let mut limit = json!({
        "apiVersion": OURS, "kind": "AITokenRateLimit", "metadata": {"name": "chat", "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [{"kind": "Ingress", "name": "qwen"}], "ruleName": "default_rule",
            "rules": [{"by": {"header": "x-api-key"}, "limits": limits}],
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        limit["spec"][field] = value.clone();
    }
    limit
}

/// Returns the generation of the WasmPlugin when it has these items and the object is ready.
async fn written(stage: &Stage, items: &Value) -> Result<i64> {
    let limits = stage.limits().await?;
    let plugins = stage.plugins().await?;
    let generation = eventually("the limits are written for this generation", async || {
        let plugin = plugins.get(PLUGIN).await?;
        let found = &plugin.data["spec"]["matchRules"][0]["config"]["rule_items"];
        ensure!(found == items, "{}", plugin.data["spec"]);
        plugin.metadata.generation.context("no generation")
    })
    .await?;
    stage.condition(&limits, "chat", "Ready", "True").await?;
    Ok(generation)
}

/// A gateway with what is there now.
async fn gateway(stage: &Stage, dialect: &str) -> Result<Gateway> {
    let mut all = Vec::new();
    for (version, kind) in [
        (WASM_PLUGIN, "WasmPlugin"),
        ("networking.higress.io/v1", "McpBridge"),
        ("networking.k8s.io/v1", "Ingress"),
        ("v1", "Secret"),
    ] {
        for object in stage.api.objects(version, kind, NAMESPACE).await?.list(&ListParams::default()).await?.items {
            let mut object = serde_json::to_value(object)?;
            object["kind"] = kind.into();
            if object["metadata"]["name"] == PLUGIN {
                ensure!(object["spec"].get("defaultConfig").is_none(), "{object}");
                object["spec"]["defaultConfig"] = json!({"aiquota": {"version": 1, "dialect": dialect}});
            }
            all.push(object);
        }
    }
    let gateway = Gateway::start(GatewayOptions { source: Source::Objects(all), ..GatewayOptions::default() }).await?;
    ensure!(gateway.loaded().runs(PLUGIN) && gateway.loaded().problems.is_empty(), "{:#?}", gateway.loaded());
    Ok(gateway)
}

/// Waits until exactly these counters are there, with what they count, each in a window that has just begun.
async fn counted(stage: &Stage, expected: &[(&str, i64, i64)]) -> Result<()> {
    let mut redis = stage.redis.connect().await?;
    eventually("what was used is counted", async || {
        let mut found: Vec<(String, i64, i64)> = Vec::new();
        for key in redis.keys::<_, Vec<String>>("higress-token-ratelimit:*").await? {
            let (value, left): (i64, i64) = (redis.get(&key).await?, redis.ttl(&key).await?);
            found.push((key, value, left));
        }
        found.sort();
        let is = |((key, value, left), (of, counts, window)): (&(String, i64, i64), &(&str, i64, i64))| {
            (key.as_str(), value) == (of, counts) && (window - 600..=*window).contains(left)
        };
        ensure!(found.len() == expected.len() && found.iter().zip(expected).all(is), "{found:#?}");
        Ok(())
    })
    .await
}

async fn admitted(call: Call) -> Result<()> {
    let reply = call.send().await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok(())
}

/// Until so many seconds, about, have passed.
async fn rejected(call: Call, window: i64) -> Result<()> {
    let reply = call.send().await?;
    ensure!((reply.status, &*reply.text()) == (429, "Too many requests"), "{} {}", reply.status, reply.text());
    let left: i64 = reply.header("x-tokenratelimit-reset").context("no header says when it ends")?.parse()?;
    ensure!((window - 600..=window).contains(&left), "{left}");
    Ok(())
}

#[tokio::test]
async fn limits_are_enforced_as_declared_in_both_generations_of_upstreams_module() -> Result<()> {
    let stage = Stage::set().await?;
    stage.apply_example("gateway.yaml").await?;
    let store = |text: &str| text.split("\n---").next().unwrap_or_default().to_owned();
    stage.apply_example_with("quota.yaml", store).await?;
    let first = start(&stage, "v1")?;
    stage.api.apply(&limit(&json!({}))).await?;
    let items = json!([
        {"limit_by_header": "x-api-key", "limit_keys": [{"key": "user1-key", "token_per_hour": 40}]},
        {"limit_by_per_header": "x-api-key", "limit_keys": [{"key": "*", "token_per_day": 5}]},
    ]);
    let generation = written(&stage, &items).await?;

    // The guides' module: a value that is named has its own limit, others have one each.
    let by_value = "higress-token-ratelimit:default_rule:limit_by_header:3600:x-api-key:user1-key";
    let by_any = "higress-token-ratelimit:default_rule:limit_by_per_header:86400:x-api-key:user2-key";
    let played = gateway(&stage, "v1").await?;
    admitted(completion(&played, "user1-key", false)).await?;
    counted(&stage, &[(by_value, 30, HOUR)]).await?;
    admitted(completion(&played, "user2-key", true)).await?;
    counted(&stage, &[(by_value, 30, HOUR), (by_any, 30, DAY)]).await?;
    rejected(completion(&played, "user2-key", false), DAY).await?;
    admitted(completion(&played, "user1-key", true)).await?;
    counted(&stage, &[(by_value, 60, HOUR), (by_any, 30, DAY)]).await?;
    rejected(completion(&played, "user1-key", false), HOUR).await?;
    counted(&stage, &[(by_value, 60, HOUR), (by_any, 30, DAY)]).await?;
    assert_eq!(played.traps(), 0);
    drop(played);
    first.terminate().await?;

    // The other generation is written for once, and settles.
    let second = start(&stage, "v2")?;
    let items = json!([{"limit_by_per_header": "x-api-key", "limit_keys": [
        {"key": r"regexp:^\Quser1-key\E$", "token_per_hour": 40}, {"key": "*", "token_per_day": 5},
    ]}]);
    assert_eq!(written(&stage, &items).await?, generation + 1, "one write");
    rounds(&second).await?;
    assert_eq!(written(&stage, &items).await?, generation + 1);

    // Rules and the limit for all requests together.
    stage.api.apply(&limit(&json!({"global": [{"tokens": 70, "window": "1d"}]}))).await?;
    eventually("the limit for all requests is written", async || {
        let plugin = stage.plugins().await?.get(PLUGIN).await?;
        let threshold = plugin.data.pointer("/spec/matchRules/0/config/global_threshold");
        ensure!(threshold == Some(&json!({"token_per_day": 70})), "{}", plugin.data["spec"]);
        Ok(())
    })
    .await?;
    let mut redis = stage.redis.connect().await?;
    redis.del::<_, ()>(&[by_value, by_any]).await?;
    let all = "higress-token-ratelimit:{default_rule}:global_threshold:86400";
    let by_value = "higress-token-ratelimit:{default_rule}:limit_by_per_header:3600:x-api-key:user1-key";
    let by_any = "higress-token-ratelimit:{default_rule}:limit_by_per_header:86400:x-api-key:user2-key";
    let played = gateway(&stage, "v2").await?;
    admitted(completion(&played, "user1-key", true)).await?;
    counted(&stage, &[(all, 30, DAY), (by_value, 30, HOUR)]).await?;
    admitted(completion(&played, "user1-key", false)).await?;
    counted(&stage, &[(all, 60, DAY), (by_value, 60, HOUR)]).await?;
    rejected(completion(&played, "user1-key", false), HOUR).await?;
    admitted(completion(&played, "user2-key", false)).await?;
    counted(&stage, &[(all, 90, DAY), (by_value, 60, HOUR), (by_any, 30, DAY)]).await?;
    rejected(completion(&played, "admin-key", false), DAY).await?;
    assert_eq!(played.traps(), 0);
    Ok(())
}
