//! The Redis user that docs/security.md advises: a whole life with it meets no refusal, and it may do nothing else.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use testbed::{eventually, kubectl_with_input, post, workspace};

use super::GATEWAY;
use super::blocks::{Rule, blocks};
use crate::stage::{PASSWORD, Stage};

const PAGE: &str = "docs/security.md";
const USER: &str = "aiquota";

/// Sends each line as a command.
pub(super) async fn commands(redis: &mut MultiplexedConnection, lines: &str) -> Result<()> {
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        let mut command = redis::cmd(words.next().context("an empty line")?);
        command.arg(words.collect::<Vec<_>>());
        command.query_async::<redis::Value>(redis).await.with_context(|| line.to_owned())?;
    }
    Ok(())
}

pub(super) async fn play() -> Result<()> {
    let stage = Stage::set().await?;
    let mut admin = stage.redis.connect().await?;
    for block in blocks(PAGE, &super::read(PAGE)?)?.iter().filter(|block| block.rule == Rule::Redis) {
        commands(&mut admin, &block.content).await?;
    }
    stage.start_controller_with(&["--drain=1s"])?;
    let gateway = stage.start_gateway().await?;
    stage.apply_example("gateway.yaml").await?;
    let auth = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis-auth", "namespace": GATEWAY},
        "stringData": {"username": USER, "password": PASSWORD}});
    stage.api.apply(&auth).await?;
    let as_user = |text: &str| text.replace("passwordKey: password", "usernameKey: username, passwordKey: password");
    let held = |text: &str| {
        as_user(text).replace(
            "  consumers:\n",
            "  admission: Reserve\n  reservation: {defaultMaxTokens: 10}\n  defaultQuota: 5\n  deletionPolicy: Delete\n  \
             refresh: {schedule: \"0 0 29 2 *\"}\n  consumers:\n",
        )
    };
    stage.apply_example_with("quota.yaml", held).await?;
    let keys = fs::read_to_string(workspace().join("examples/keys/keys.yaml"))?;
    let keys = keys.replace("  rules:\n", "  admission: Reserve\n  reservation: {defaultMaxTokens: 10}\n  rules:\n");
    kubectl_with_input(&stage.api, &["apply", "--server-side", "-f", "-"], &keys).await?;
    // A namespace that may choose no prefix, whose balances have another.
    stage.api.namespace("team").await?;
    for (version, kind, name, spec) in [
        (
            "networking.k8s.io/v1",
            "Ingress",
            "own",
            json!({"defaultBackend": {"service": {"name": "m", "port": {"number": 80}}}}),
        ),
        (
            "quota.higress.io/v1alpha1",
            "AIQuota",
            "own",
            json!({"targetRefs": [{"kind": "Ingress", "name": "own"}], "consumers": [{"name": "user", "quota": 1}]}),
        ),
    ] {
        let metadata = json!({"name": name, "namespace": "team"});
        stage.api.apply(&json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})).await?;
    }
    let own = stage.api.objects("quota.higress.io/v1alpha1", "AIQuota", "team").await?;
    stage.condition(&own, "own", "Ready", "True").await?;
    stage.ready("chat").await?;
    let limits = stage.limits().await?;
    stage.condition(&limits, "keys", "Seeded", "True").await?;
    stage.in_force(&gateway).await?;

    let url = format!("{}/v1/chat/completions", gateway.url());
    let ask =
        |key: &str| post(&url).json(&json!({"model": "qwen-max", "messages": []})).header("x-api-key", key).send();
    ensure!(ask("user1-key").await?.status == 200, "the user may not do what a request needs: {:?}", gateway.logs());
    eventually("the answer is charged", async || {
        let balance = stage.redis.get("chat_quota:aliyun-user1").await?;
        ensure!(balance.as_deref().is_some_and(|balance| balance != "10000"), "{balance:?}");
        Ok(())
    })
    .await?;
    // An edit, one that parks, and the end of it all.
    let others = json!([{"name": "aliyun-user1", "quota": 20000}]);
    stage.apply_consumers(&others).await?;
    stage.ready("chat").await?;
    let quotas = stage.quotas().await?;
    quotas.delete("chat", &DeleteParams::default()).await?;
    stage
        .eventually("the object and its balances are gone", async || {
            ensure!(quotas.get_opt("chat").await?.is_none(), "the object is there");
            Ok(())
        })
        .await?;
    let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut admin).await?;
    ensure!(refused.is_empty(), "refused: {refused:?}");

    // And no more.
    let client = redis::Client::open(format!("redis://{USER}:{PASSWORD}@{}", stage.redis.addr()))?;
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let mut user = client.get_multiplexed_async_connection_with_config(&patient).await?;
    for words in [
        &["GET", "another:key"][..],
        &["FLUSHALL"],
        &["KEYS", "*"],
        &["CONFIG", "GET", "*"],
        &["MONITOR"],
        &["ACL", "LIST"],
        &["EVAL", "return redis.call('GET', 'another:key')", "0"],
    ] {
        let answer = redis::cmd(words[0]).arg(&words[1..]).query_async::<redis::Value>(&mut user).await;
        let error = answer.err().map(|error| error.to_string().to_lowercase()).unwrap_or_default();
        // Of a script's commands Redis 7.0 says it in other words.
        ensure!(error.contains("perm") || error.contains("can't access"), "{words:?}: {error}");
    }
    Ok(())
}
