//! A controller with `--flavor=upstream`: upstream's configuration in the WasmPlugin, seeds and refreshes by the
//! controller. Upstream's own module is in no registry, so ours, which reads the same configuration, is loaded.

mod limits;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{Controller, ControllerOptions, Gateway, eventually, eventually_within, get, post};

use crate::scenario_a::{CHAT, completion, contents, is, versions};
use crate::stage::{Stage, condition, quota};

const PLUGIN: &str = "aiquota-ai-quota";

fn start(stage: &Stage, upstream: bool) -> Result<Controller> {
    let args = vec!["--log=controller=debug,info".to_owned()];
    Controller::start(&stage.api, ControllerOptions { upstream, args, ..ControllerOptions::default() })
}

/// Waits until the controller has gone twice from a snapshot to the last report.
async fn rounds(controller: &Controller) -> Result<()> {
    let rounds = || controller.log().matches("round done").count();
    let goal = rounds() + 2;
    eventually("the controller goes round", async || {
        controller.ensure_running()?;
        ensure!(rounds() >= goal, "{} of {goal} rounds", rounds());
        Ok(())
    })
    .await
}

/// Waits until the gateway's rules for quotas have this form and are those that were written last.
async fn runs(stage: &Stage, gateway: &Gateway, upstream: bool) -> Result<()> {
    gateway
        .settled(|loaded| {
            let rule = loaded.plugin(PLUGIN).and_then(|plugin| plugin.config.pointer("/_rules_/0").cloned());
            let upstreams = rule.map(|rule| rule.get("redis_key_prefix").is_some());
            upstreams == Some(upstream)
        })
        .await?;
    stage.in_force(gateway).await
}

/// The gateway's objects and the quota of the quickstart.
async fn prepare(stage: &Stage) -> Result<()> {
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_day_of_token_management_goes_as_declared_with_upstreams_configuration() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = start(&stage, true)?;
    let gateway = stage.start_gateway().await?;
    prepare(&stage).await?;
    runs(&stage, &gateway, true).await?;

    let plugin = stage.plugins().await?.get(PLUGIN).await?;
    ensure!(plugin.data["spec"].get("defaultConfig").is_none(), "{}", plugin.data["spec"]);
    assert_eq!(
        plugin.data["spec"]["matchRules"],
        json!([{
            "ingress": ["qwen", "qwen-default", "qwen-fallback"],
            "config": {
                "redis_key_prefix": "chat_quota:",
                "admin_consumer": "aliyun-admin",
                "admin_path": "/quota",
                "redis": {
                    "service_name": "local-redis.static",
                    "service_port": 80,
                    "timeout": 30_000,
                    "password": "${secret.higress-system/redis-auth.password}",
                },
            },
        }])
    );

    // The admin looks up, sets and corrects balances.
    let query = |key: &str, consumer: &str| {
        get(format!("{}{CHAT}/quota?consumer={consumer}", gateway.url())).header("x-api-key", key)
    };
    let admin = |operation: &str, form: &str| {
        post(format!("{}{CHAT}/quota/{operation}", gateway.url())).header("x-api-key", "admin-key").form(form)
    };
    is(query("admin-key", "aliyun-user1"), 200, r#"{"consumer":"aliyun-user1","quota":10000}"#).await?;
    is(admin("refresh", "consumer=aliyun-user1&quota=100"), 200, "refresh quota successful").await?;
    is(admin("delta", "consumer=aliyun-user1&value=-40"), 200, "delta quota successful").await?;

    // A resync after a restart and an edit keeps what was spent and set.
    controller.restart()?;
    let consumers = json!([{"name": "aliyun-user1", "quota": 10010}, {"name": "aliyun-user2", "quota": 50000}]);
    stage.apply_consumers(&consumers).await?;
    stage.balance("aliyun-user1", 70).await?;

    // A consumer spends, plain and streamed, until nothing is left, and cannot say that it is another.
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 40).await?;
    is(completion(&gateway, "user1-key", true).header("x-test-usage", "20,70"), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user1", -50).await?;
    let forged = completion(&gateway, "user1-key", false).header("x-mse-consumer", "aliyun-user2");
    is(forged, 403, "Request denied by ai quota check, No quota left").await?;
    is(query("user1-key", "aliyun-user1"), 403, "Unauthorized admin consumer.").await?;
    stage.balance("aliyun-user2", 50000).await?;

    // Started again with nothing changed, it knows what is in force and writes nothing: an edit has brought the figures
    // in the status up to what was spent.
    let consumers = json!([{"name": "aliyun-user1", "quota": 10010}, {"name": "aliyun-user2", "quota": 50001}]);
    stage.apply_consumers(&consumers).await?;
    stage.balance("aliyun-user2", 50001).await?;
    stage.ready("chat").await?;
    rounds(&controller).await?;
    let before = (versions(&stage).await?, contents(&stage).await?);
    controller.restart()?;
    rounds(&controller).await?;
    assert_eq!((versions(&stage).await?, contents(&stage).await?), before);
    assert_eq!(gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn a_rule_in_force_outlives_a_restart_while_redis_is_away_also_without_the_names_of_its_policy() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = start(&stage, true)?;
    prepare(&stage).await?;
    controller.kill();
    let plugins = stage.plugins().await?;
    let strip = json!({"metadata": {"annotations": {"quota.higress.io/policies": null}}});
    plugins.patch(PLUGIN, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&strip)).await?;
    let rules = plugins.get(PLUGIN).await?.data["spec"]["matchRules"].clone();
    stage.redis.pause()?;
    controller.restart()?;
    let named = eventually("the names are back", async || {
        let plugin = plugins.get(PLUGIN).await?;
        let names = plugin.metadata.annotations.as_ref().and_then(|all| all.get("quota.higress.io/policies"));
        names.context("there are none")?;
        Ok(plugin)
    })
    .await;
    stage.redis.resume()?;
    assert_eq!(named?.data["spec"]["matchRules"], rules);
    Ok(())
}

#[tokio::test]
async fn what_upstreams_module_cannot_do_is_refused_by_field() -> Result<()> {
    let stage = Stage::set().await?;
    let _controller = start(&stage, true)?;
    prepare(&stage).await?;
    let consumers = json!([{"name": "aliyun-user1", "unlimited": true}]);
    let fields =
        json!({"admin": null, "consumers": consumers, "defaultQuota": 1000, "targetRefs": [{"kind": "Gateway"}]});
    let quotas = stage.quotas().await?;
    let mut refused = quota("everything", &fields);
    refused["spec"].as_object_mut().context("a spec")?.remove("admin");
    stage.api.apply(&refused).await?;
    let fields = ["spec.targetRefs[0]", "spec.admin", "spec.consumers[0].unlimited", "spec.defaultQuota"];
    stage.says(&quotas, "everything", "Accepted", ("False", "NotSupportedByPlugin"), &fields).await?;
    // The other object is none the worse for it.
    let chat = quotas.get("chat").await?;
    ensure!(condition(&chat, "Ready").is_some_and(|ready| ready["status"] == "True"), "{}", chat.data["status"]);
    Ok(())
}

#[tokio::test]
async fn the_controller_begins_a_new_period_without_any_request() -> Result<()> {
    let stage = Stage::set().await?;
    let _controller = start(&stage, true)?;
    prepare(&stage).await?;
    let refresh = json!({"schedule": "* * * * *", "mode": "Reset"});
    stage.api.apply(&quota("chat", &json!({"refresh": refresh}))).await?;
    stage.ready("chat").await?;
    stage.redis.set("chat_quota:aliyun-user1", 7).await?;
    stage.redis.set("chat_quota:aliyun-user2", -7).await?;
    // A minute at most until the next one.
    eventually_within(Duration::from_secs(150), "both are refreshed", async || {
        let balances =
            (stage.redis.get("chat_quota:aliyun-user1").await?, stage.redis.get("chat_quota:aliyun-user2").await?);
        ensure!(balances == (Some("10000".to_owned()), Some("50000".to_owned())), "{balances:?}");
        Ok(())
    })
    .await?;
    let plugin = stage.plugins().await?.get(PLUGIN).await?.data.to_string();
    ensure!(!plugin.contains("schedule"), "upstream's module knows of no schedules: {plugin}");
    Ok(())
}

#[tokio::test]
async fn switching_the_flavor_loses_no_balance_in_either_direction() -> Result<()> {
    let stage = Stage::set().await?;
    let gateway = stage.start_gateway().await?;
    let native = start(&stage, false)?;
    prepare(&stage).await?;
    runs(&stage, &gateway, false).await?;
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 9970).await?;
    rounds(&native).await?;
    let ledgers = async || {
        let contents = contents(&stage).await?;
        Ok::<_, anyhow::Error>(
            contents.into_iter().filter(|(key, _)| key.ends_with("user2}:ledger")).collect::<Vec<_>>(),
        )
    };
    let before = ledgers().await?;
    ensure!(before.len() == 1, "{before:?}");
    native.terminate().await?;

    let upstream = start(&stage, true)?;
    runs(&stage, &gateway, true).await?;
    stage.balance("aliyun-user1", 9970).await?;
    is(completion(&gateway, "user1-key", true), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user1", 9940).await?;
    rounds(&upstream).await?;
    stage.ready("chat").await?;
    assert_eq!(ledgers().await?, before, "whose balance nobody touched");
    upstream.terminate().await?;

    let native = start(&stage, false)?;
    runs(&stage, &gateway, false).await?;
    let plugin = stage.plugins().await?.get(PLUGIN).await?;
    ensure!(plugin.metadata.annotations.unwrap_or_default().is_empty(), "our annotation is upstream's form's alone");
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 9910).await?;
    let more: Value = json!([{"name": "aliyun-user1", "quota": 10100}, {"name": "aliyun-user2", "quota": 50000}]);
    stage.apply_consumers(&more).await?;
    stage.balance("aliyun-user1", 10010).await?;
    native.ensure_running()?;
    assert_eq!(gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn traffic_that_no_quota_is_about_is_not_refused_after_a_switch_to_upstream() -> Result<()> {
    let stage = Stage::set().await?;
    let gateway = stage.start_gateway().await?;
    let native = start(&stage, false)?;
    // Who may call is asked on one route only.
    let user = "      - {name: aliyun-user2, credential: user2-key}\n";
    let rule =
        "  matchRules:\n    - ingress: [qwen]\n      config: {allow: [aliyun-admin, aliyun-user1, aliyun-user2]}\n";
    let on_one_route =
        |yaml: &str| yaml.replace("global_auth: true", "global_auth: false").replace(user, &format!("{user}{rule}"));
    stage.apply_example_with("gateway.yaml", on_one_route).await?;
    stage.apply_example("quota.yaml").await?;
    let backend = json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
    let open = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "open", "namespace": "higress-system",
            "annotations": {"higress.io/destination": "llm-qwen.static:80"}},
        "spec": {"ingressClassName": "higress", "rules": [{"host": "open.example.com",
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    stage.api.apply(&open).await?;
    let whole = json!({"targetRefs": [{"kind": "Gateway"}], "keyPrefix": "whole:", "consumers": []});
    stage.api.apply(&quota("whole", &whole)).await?;
    stage.ready("chat").await?;
    stage.ready("whole").await?;
    runs(&stage, &gateway, false).await?;
    let stranger = |path: &str| get(format!("{}{path}", gateway.url())).header("host", "open.example.com");
    let elsewhere = stranger("/anything").send().await?.status;
    ensure!(elsewhere != 401, "{elsewhere}");
    assert_eq!(stranger(CHAT).send().await?.status, 401, "the rule over the gateway is in force");
    native.terminate().await?;

    let _upstream = start(&stage, true)?;
    runs(&stage, &gateway, true).await?;
    assert_eq!(stranger("/anything").send().await?.status, elsewhere);
    eventually("the target is said to be unmetered", async || {
        let whole = stage.quotas().await?.get("whole").await?;
        let accepted = condition(&whole, "Accepted").context("a condition")?;
        let says = accepted["message"].as_str().is_some_and(|text| text.contains("the whole gateway is unmetered now"));
        ensure!(says && accepted["reason"] == "NotSupportedByPlugin", "{accepted}");
        let events = stage.events("NotSupportedByPlugin").await?;
        ensure!(events.iter().any(|note| note.contains("the whole gateway is unmetered now")), "{events:?}");
        Ok(())
    })
    .await?;
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 9970).await
}
