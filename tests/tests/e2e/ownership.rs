//! The WasmPlugins that are ours are ours whole: what others put into them does not survive and is told, what they lack
//! comes back, and what is as it should be is not written.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use testbed::{ApiProxy, Controller, ControllerOptions, Operations, RedisProxy, kubectl};

use crate::stage::{NAMESPACE, Stage};

const OURS: [&str; 2] = ["aiquota-guard", "aiquota-ai-quota"];

async fn specs(stage: &Stage) -> Result<Vec<Value>> {
    let plugins = stage.plugins().await?;
    let mut specs = Vec::new();
    for name in OURS {
        specs.push(plugins.get(name).await?.data["spec"].clone());
    }
    Ok(specs)
}

/// Waits until both are as they were, and an Event with this reason says all of these words.
async fn restored(stage: &Stage, what: &str, expected: &[Value], reason: &str, words: &[&str]) -> Result<()> {
    stage
        .eventually(&format!("{what} does not survive"), async || {
            let found = specs(stage).await?;
            ensure!(found == expected, "{found:#?}");
            Ok(())
        })
        .await?;
    stage
        .eventually(&format!("{what} is told"), async || {
            let told = stage.events(reason).await?;
            let tells = |note: &&String| words.iter().all(|word| note.contains(word));
            ensure!(told.iter().any(|note| tells(&note)), "{words:?} are not in {told:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_others_put_into_our_plugins_does_not_survive_and_is_told() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let expected = specs(&stage).await?;
    // A controller that has not written them itself knows what they should be.
    controller.restart()?;
    stage.rounds(1).await?;

    let mut patches = vec![
        (
            "a default",
            json!([{"op": "add", "path": "/spec/defaultConfig/injected", "value": {"a": 1}}]),
            "spec.defaultConfig.injected",
        ),
        ("another phase", json!([{"op": "add", "path": "/spec/phase", "value": "STATS"}]), "spec.phase"),
        (
            "a switch",
            json!([{"op": "add", "path": "/spec/defaultConfigDisable", "value": true}]),
            "spec.defaultConfigDisable",
        ),
        ("a priority", json!([{"op": "add", "path": "/spec/priority", "value": 5}]), "spec.priority"),
        ("a strategy", json!([{"op": "add", "path": "/spec/failStrategy", "value": "FAIL_OPEN"}]), "spec.failStrategy"),
        (
            "another module",
            json!([{"op": "replace", "path": "/spec/url", "value": "oci://evil.example/x:1.0.0"}]),
            "spec.url",
        ),
    ];
    let rule = json!({"ingress": ["qwen"], "config": {}, "configDisable": true});
    patches.push(("a rule", json!([{"op": "add", "path": "/spec/matchRules/0", "value": rule}]), "spec.matchRules"));
    patches.push(("no rules", json!([{"op": "remove", "path": "/spec/matchRules"}]), "spec.matchRules"));
    let off = json!([{"op": "add", "path": "/spec/matchRules/0/configDisable", "value": true}]);
    patches.push(("a rule that is off", off, "spec.matchRules[0].configDisable"));

    let plugin = "aiquota-ai-quota";
    kubectl(&stage.api, &["annotate", "wasmplugin", plugin, "-n", NAMESPACE, "example.com/note=kept"]).await?;
    kubectl(&stage.api, &["label", "wasmplugin", plugin, "-n", NAMESPACE, "team=platform"]).await?;
    for (what, patch, path) in patches {
        kubectl(&stage.api, &["patch", "wasmplugin", plugin, "-n", NAMESPACE, "--type=json", "-p", &patch.to_string()])
            .await?;
        restored(&stage, what, &expected, "Restored", &[path]).await?;
        let told = stage.events("Restored").await?;
        ensure!(!told.iter().any(|note| note.contains("evil.example")), "values are not for everybody: {told:?}");
    }
    let found = stage.plugins().await?.get(plugin).await?;
    ensure!(
        found.annotations().get("example.com/note").is_some_and(|note| note == "kept"),
        "{:?}",
        found.annotations()
    );
    ensure!(found.labels().get("team").is_some_and(|team| team == "platform"), "{:?}", found.labels());

    // Not even a WasmPlugin: neither is it taken for one, nor does it end the watch of the others.
    let nothing = json!([{"op": "remove", "path": "/spec"}]).to_string();
    kubectl(&stage.api, &["patch", "wasmplugin", plugin, "-n", NAMESPACE, "--type=json", "-p", &nothing]).await?;
    restored(&stage, "no spec", &expected, "Restored", &["unreadable"]).await?;

    let mine = "app.kubernetes.io/managed-by";
    kubectl(&stage.api, &["label", "wasmplugin", plugin, "-n", NAMESPACE, &format!("{mine}-")]).await?;
    stage
        .eventually("our label comes back", async || {
            let found = stage.plugins().await?.get(plugin).await?;
            ensure!(found.labels().get(mine).is_some_and(|manager| manager == "aiquota"), "{:?}", found.labels());
            ensure!(found.labels().contains_key("team"), "{:?}", found.labels());
            Ok(())
        })
        .await
}

#[tokio::test]
async fn our_plugins_come_back_when_they_are_deleted() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let expected = specs(&stage).await?;
    kubectl(&stage.api, &["delete", "wasmplugin", "-n", NAMESPACE, OURS[0], OURS[1]]).await?;
    restored(&stage, "a deletion", &expected, "Recreated", &["deleted"]).await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn what_is_not_known_whole_is_not_planned() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let expected = specs(&stage).await?;
    let rounds = || controller.log().matches("round done").count();

    // As if the definition had been lost while nobody looked: without stores no rule could be planned.
    controller.kill();
    let definition = "aiquotastores.quota.higress.io";
    kubectl(&stage.api, &["delete", "crd", definition, "--wait"]).await?;
    let path = format!("/apis/quota.higress.io/v1alpha1/namespaces/{NAMESPACE}/aiquotastores");
    stage
        .eventually("they are not served any more", async || {
            let served = kubectl(&stage.api, &["get", "--raw", &path]).await;
            ensure!(served.is_err(), "they are");
            Ok(())
        })
        .await?;
    let before = rounds();
    controller.restart()?;
    stage
        .eventually("the controller says what is missing", async || {
            let log = controller.log();
            ensure!(log.contains("install its CustomResourceDefinition"), "it says:\n{log}");
            Ok(())
        })
        .await?;
    ensure!(rounds() == before, "it planned half a world");
    ensure!(specs(&stage).await? == expected, "it took rules away");

    stage.api.install_crds().await?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage
        .eventually("the controller goes on", async || {
            controller.ensure_running()?;
            ensure!(rounds() > before, "no round");
            Ok(())
        })
        .await?;
    // Where it came before the stores it has written that they are gone.
    stage
        .eventually("the rules are as they were", async || {
            let found = specs(&stage).await?;
            ensure!(found == expected, "{found:#?}");
            Ok(())
        })
        .await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_restart_without_changes_writes_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let operations = Operations::new();
    let (api, redis) =
        (ApiProxy::start(&stage.api, &operations).await?, RedisProxy::start(stage.redis.addr(), &operations).await?);
    let options = ControllerOptions {
        args: vec!["--log=controller=debug,info".to_owned()],
        kubeconfig: Some(api.kubeconfig().to_owned()),
        ..ControllerOptions::default()
    };
    let real = stage.redis.addr();
    let through = |text: &str| text.replace(&real, &redis.addr().to_string());
    stage.apply_example_with("gateway.yaml", through).await?;
    stage.apply_example("quota.yaml").await?;
    let controller = Controller::start(&stage.api, options)?;
    stage.ready("chat").await?;
    settled(&stage, &controller).await?;
    ensure!(!operations.take().is_empty(), "the proxies see what it writes, or this test shows nothing");
    let changes = redis_changes(&stage).await?;

    controller.restart()?;
    settled(&stage, &controller).await?;
    // A script that changes nothing is a question.
    let asked = operations.take();
    let written: Vec<String> =
        asked.iter().filter(|operation| operation.kind != "redis").map(ToString::to_string).collect();
    ensure!(written.is_empty(), "{written:#?}");
    ensure!(asked.iter().any(|operation| operation.kind == "redis"), "it does not know what it did not ask");
    ensure!(redis_changes(&stage).await? == changes, "Redis was changed by {asked:#?}");
    Ok(())
}

/// Waits until the controller goes round and has nothing left to write.
async fn settled(stage: &Stage, controller: &Controller) -> Result<()> {
    let rounds = || controller.log().matches("round done").count();
    for _ in 0..2 {
        let before = rounds();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "nudge", "namespace": NAMESPACE},
            "stringData": {"rounds": before.to_string()}});
        stage.api.apply(&secret).await?;
        stage
            .eventually("the controller goes round", async || {
                controller.ensure_running()?;
                ensure!(rounds() > before, "{before} rounds");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// How often Redis changed.
async fn redis_changes(stage: &Stage) -> Result<String> {
    let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut stage.redis.connect().await?).await?;
    let changes = info.lines().find(|line| line.starts_with("rdb_changes_since_last_save"));
    changes.map(str::to_owned).context("no count of changes")
}
