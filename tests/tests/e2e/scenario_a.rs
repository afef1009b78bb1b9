//! Scenario A: token management for one AI route, declared as in examples/quickstart.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::stage::{PASSWORD, Stage, quota};

/// All keys with their values, to see whether anything was written.
async fn contents(stage: &Stage) -> Result<Vec<(String, String)>> {
    let mut redis = stage.redis.connect().await?;
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    keys.sort();
    let mut contents = Vec::new();
    for key in keys {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut redis).await?;
        contents.push((key, dump.escape_ascii().to_string()));
    }
    Ok(contents)
}

/// The versions of everything the controller writes.
async fn versions(stage: &Stage) -> Result<Vec<(String, Option<String>)>> {
    let mut versions = Vec::new();
    for api in [stage.quotas().await?, stage.stores().await?, stage.plugins().await?] {
        for object in api.list(&kube::api::ListParams::default()).await?.items {
            versions.push((object.metadata.name.unwrap_or_default(), object.metadata.resource_version));
        }
    }
    Ok(versions)
}

/// How many rules the gateway has.
async fn rules(stage: &Stage) -> Result<usize> {
    let plugin = stage.plugins().await?.get_opt("aiquota-ai-quota").await?;
    Ok(plugin.and_then(|plugin| plugin.data["spec"]["matchRules"].as_array().map(Vec::len)).unwrap_or(0))
}

#[tokio::test]
async fn manual_changes_survive_edits_and_a_restarted_controller_writes_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    assert_eq!(stage.redis.get("chat_quota:aliyun-user1").await?.as_deref(), Some("10000"));
    assert_eq!(stage.redis.get("chat_quota:aliyun-user2").await?.as_deref(), Some("50000"));

    stage.redis.set("chat_quota:aliyun-user1", 150).await?;
    stage
        .apply_consumers(&json!([
            {"name": "aliyun-user1", "quota": 10000},
            {"name": "aliyun-user2", "quota": 50500},
            {"name": "aliyun-user3", "quota": 7},
        ]))
        .await?;
    stage
        .eventually("the edit is in Redis", async || {
            ensure!(stage.redis.get("chat_quota:aliyun-user2").await?.as_deref() == Some("50500"));
            ensure!(stage.redis.get("chat_quota:aliyun-user3").await?.as_deref() == Some("7"));
            Ok(())
        })
        .await?;
    stage.ready("chat").await?;
    assert_eq!(
        stage.redis.get("chat_quota:aliyun-user1").await?.as_deref(),
        Some("150"),
        "set by hand, not declared anew"
    );

    stage.rounds(1).await?;
    let (before, written) = (contents(&stage).await?, versions(&stage).await?);
    assert!(controller.terminate().await?.success(), "a controller that is asked to end has not failed");
    controller.restart()?;
    stage.rounds(1).await?;
    assert_eq!(contents(&stage).await?, before);
    assert_eq!(versions(&stage).await?, written);
    Ok(())
}

#[tokio::test]
async fn the_generated_plugins_hold_no_secret_and_no_consumer_and_are_ours_alone() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let plugins = stage.plugins().await?;
    for name in ["aiquota-guard", "aiquota-ai-quota"] {
        let plugin = plugins.get(name).await?;
        let text = serde_json::to_string(&plugin)?;
        assert!(!text.contains(PASSWORD) && !text.contains("aliyun-user1"), "{text}");
        assert_eq!(
            plugin.metadata.labels.unwrap_or_default().get(api::MANAGED_BY).map(String::as_str),
            Some(api::MANAGER)
        );
    }

    // What others change comes back, what they add to the metadata stays.
    let wanted = plugins.get("aiquota-ai-quota").await?.data["spec"].clone();
    let change = json!({"metadata": {"annotations": {"note": "mine"}}, "spec": {"phase": "STATS", "defaultConfigDisable": true}});
    plugins.patch("aiquota-ai-quota", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&change)).await?;
    stage
        .eventually("the WasmPlugin is as it should be again", async || {
            let plugin = plugins.get("aiquota-ai-quota").await?;
            ensure!(plugin.data["spec"] == wanted, "{}", plugin.data["spec"]);
            ensure!(plugin.metadata.annotations.unwrap_or_default().contains_key("note"), "foreign metadata is gone");
            let told = stage.events("Restored").await?;
            ensure!(
                told.iter().any(|note| note.contains("spec.phase") && note.contains("spec.defaultConfigDisable")),
                "{told:?}"
            );
            Ok(())
        })
        .await?;

    plugins.delete("aiquota-guard", &kube::api::DeleteParams::default()).await?;
    stage.eventually("the deleted WasmPlugin comes back", async || Ok(plugins.get("aiquota-guard").await?)).await?;
    stage
        .eventually("the deletion is told", async || {
            ensure!(!stage.events("Recreated").await?.is_empty());
            Ok(())
        })
        .await?;
    controller.ensure_running()
}

#[tokio::test]
async fn status_tells_the_truth_while_redis_is_away_and_balances_come_back_after_it_lost_them() -> Result<()> {
    let stage = Stage::set().await?;
    stage.redis.kill();
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    let quotas = stage.quotas().await?;
    let stores = stage.stores().await?;
    let connected = stage.condition(&stores, "default", "Connected", "False").await?;
    assert_eq!(connected["reason"], "StoreUnreachable");
    let seeded = stage.condition(&quotas, "chat", "Seeded", "False").await?;
    assert_eq!(seeded["reason"], "StoreUnreachable");
    assert_eq!(rules(&stage).await?, 0, "a rule waits for its balances");

    stage.redis.restart().await?;
    stage.ready("chat").await?;
    stage.condition(&stores, "default", "Connected", "True").await?;
    assert_ne!(rules(&stage).await?, 0);

    // A Redis that was restarted empty is filled again, and rules that were programmed stay meanwhile.
    stage.redis.kill();
    stage
        .api
        .apply(&quota("other", &json!({"keyPrefix": "other:", "targetRefs": [{"kind": "Ingress", "name": "none"}]})))
        .await?;
    stage.redis.restart().await?;
    stage
        .eventually("the balances are there again", async || {
            ensure!(stage.redis.get("chat_quota:aliyun-user1").await?.as_deref() == Some("10000"));
            Ok(())
        })
        .await?;
    let other = stage.condition(&quotas, "other", "Accepted", "False").await?;
    assert_eq!(other["reason"], "TargetNotFound");
    assert_ne!(rules(&stage).await?, 0);
    let log = controller.log();
    assert!(!log.contains(PASSWORD), "{log}");
    Ok(())
}
