//! A release with default values from nothing to nothing: installed, objects applied with kubectl, enforced at the gateway,
//! upgraded with other definitions, uninstalled twice: with balances that are retained, and with balances that are deleted.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use serde_json::json;
use testbed::{ApiServer, Gateway, GatewayOptions, RedisOptions, Source, helm, kubectl, module};

use super::pod::Pod;
use super::{Charts, HOME, RELEASE};
use crate::scenario_a::{CHAT, completion, is};
use crate::stage::{NAMESPACE, PASSWORD, Stage};

const DEFINITIONS: [&str; 3] = ["aiquotas", "aitokenratelimits", "aiquotastores"];
/// The administrator does not want to wait for the longest streams that there may be.
const DRAIN: &str = r#"drain="1s""#;
const SPENT: &str = "chat_quota:aliyun-user1";

/// A gateway that finds the modules under the url that the chart gives them.
async fn gateway(stage: &Stage) -> Result<Gateway> {
    let modules = module("ai-quota")?.parent().context("no folder")?.to_owned();
    let source = Source::Cluster(stage.api.client(), NAMESPACE.to_owned());
    Gateway::start(GatewayOptions { source, module_dir: Some(modules), ..GatewayOptions::default() }).await
}

async fn uninstall(stage: &Stage, pod: Pod) -> Result<()> {
    let status = pod.controller.terminate().await?;
    ensure!(status.success(), "{status}: {}", pod.controller.log());
    let said = helm(Some(&stage.api), &["uninstall", RELEASE, "--namespace", HOME]).await?;
    for definition in DEFINITIONS {
        ensure!(said.contains(&format!("{definition}.quota.higress.io")), "{said}");
        kubectl(&stage.api, &["get", "crd", &format!("{definition}.quota.higress.io")]).await?;
    }
    let deployments = stage.api.objects("apps/v1", "Deployment", HOME).await?;
    ensure!(deployments.get_opt(RELEASE).await?.is_none(), "the controller is left");
    Ok(())
}

/// Nobody without a key, nobody without balance, nobody too fast; what was spent is what is left.
async fn enforced(stage: &Stage, gateway: &Gateway) -> Result<()> {
    let nobody = completion(gateway, "no-such-key", false);
    is(nobody, 403, "Unauthorized consumer").await?;
    is(testbed::post(format!("{}{CHAT}", gateway.url())).json(&json!({})), 401, "No Key").await?;
    is(completion(gateway, "user1-key", false), 403, "No quota left").await?;
    is(completion(gateway, "user2-key", false), 429, "Too many requests").await?;
    ensure!(stage.redis.get(SPENT).await?.as_deref() == Some("-30"), "{:?}", stage.redis.get(SPENT).await?);
    stage.balance("aliyun-user2", 49_970).await
}

/// Waits until no plugin of ours that meters is in the gateway.
async fn nothing_is_metered(stage: &Stage, gateway: &Gateway) -> Result<()> {
    let plugins = stage.plugins().await?;
    stage
        .eventually("the rules are gone", async || {
            for plugin in [plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT] {
                ensure!(plugins.get_opt(plugin).await?.is_none(), "{plugin} has still a rule");
            }
            Ok(())
        })
        .await?;
    let metering = [plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT];
    gateway.settled(|loaded| !metering.iter().any(|plugin| loaded.runs(plugin))).await?;
    is(completion(gateway, "user1-key", false), 200, r#""total_tokens":30"#).await
}

async fn keys(stage: &Stage) -> Result<Vec<String>> {
    let keys = redis::cmd("KEYS").arg("*chat_quota:*").query_async(&mut stage.redis.connect().await?).await?;
    Ok(keys)
}

/// The generated WasmPlugins' versions.
async fn written(stage: &Stage) -> Result<Vec<Option<String>>> {
    let plugins = stage.plugins().await?;
    let mut versions = Vec::new();
    for plugin in [plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT] {
        versions.push(plugins.get(plugin).await?.resource_version());
    }
    Ok(versions)
}

#[tokio::test]
async fn from_nothing_to_enforcement_over_an_upgrade_and_two_uninstalls_to_nothing() -> Result<()> {
    let (api, charts) = (ApiServer::start().await?, Charts::copied().await?);
    api.install_higress_crds().await?;
    let password = Some(PASSWORD.to_owned());
    let stage = Stage::set_on(api, RedisOptions { password, ..RedisOptions::default() }).await?;
    let gateway = gateway(&stage).await?;

    charts.release(&stage.api, "install", &[]).await?;
    let old = Pod::start(&stage).await?;
    for file in ["gateway.yaml", "quota.yaml"] {
        stage.apply_example(file).await?;
    }
    // A minute could be over on a slow machine.
    stage.apply_example_with("limit.yaml", |text| text.replace("window: 1m", "window: 1h")).await?;
    let kubectl = async |arguments: &[&str]| kubectl(&stage.api, &[arguments, &["-n", NAMESPACE]].concat()).await;
    let wait = ["wait", "--for=condition=Ready", "--timeout=60s"];
    kubectl(&[&wait[..], &["aiquotastore/default", "aiquota/chat", "aitokenratelimit/chat"]].concat()).await?;
    stage.in_force(&gateway).await?;
    is(completion(&gateway, "user1-key", false).header("x-test-usage", "30,10000"), 200, "total_tokens").await?;
    stage.balance("aliyun-user1", -30).await?;
    is(completion(&gateway, "user2-key", true), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user2", 49_970).await?;
    let counter = "higress-token-ratelimit:{default_rule}:limit_by_per_header:3600:x-api-key:user2-key";
    stage.holds(counter, Some("30")).await?;
    enforced(&stage, &gateway).await?;

    // The next version knows a field more.
    let definition = charts.path("aiquota-crds/templates/aiquotas.quota.higress.io.yaml");
    let text = fs::read_to_string(&definition)?;
    let field = "              storeRef:\n";
    let newer = text.replacen(field, &format!("              comment:\n                type: string\n{field}"), 1);
    ensure!(newer != text, "no field to put another before");
    fs::write(&definition, newer)?;
    charts.build().await?;
    let (uid, before) = (stage.quotas().await?.get("chat").await?.uid(), written(&stage).await?);
    charts.release(&stage.api, "upgrade", &[DRAIN]).await?;
    let new = Pod::start(&stage).await?;
    new.says("standing by while").await?;
    enforced(&stage, &gateway).await?;
    let status = old.controller.terminate().await?;
    ensure!(status.success(), "{status}: {}", old.controller.log());
    new.says("leading with term 3").await?;
    let comment = [r#"--patch={"spec": {"comment": "new"}}"#, "--dry-run=server", "-o", "jsonpath={.spec.comment}"];
    let known = kubectl(&[&["patch", "aiquota", "chat", "--type=merge"][..], &comment].concat()).await?;
    ensure!(known == "new", "the upgrade did not reach the definitions: {known:?}");
    stage.ready("chat").await?;
    enforced(&stage, &gateway).await?;
    ensure!(stage.quotas().await?.get("chat").await?.uid() == uid, "it is another object");
    ensure!(written(&stage).await? == before, "the upgrade wrote the gateway's rules anew");

    // Uninstalled, what is declared and enforced stays, and the next release takes it up.
    uninstall(&stage, new).await?;
    enforced(&stage, &gateway).await?;
    charts.release(&stage.api, "install", &[DRAIN]).await?;
    let retaining = Pod::start(&stage).await?;
    retaining.says("leading with term 4").await?;
    stage.ready("chat").await?;
    enforced(&stage, &gateway).await?;
    ensure!(written(&stage).await? == before, "the second install wrote the gateway's rules anew");

    // With `Retain`, which is the default, an object goes at once and its balances stay.
    kubectl(&["delete", "aitokenratelimit/chat", "aiquota/chat"]).await?;
    nothing_is_metered(&stage, &gateway).await?;
    uninstall(&stage, retaining).await?;
    stage.balance("aliyun-user1", -30).await?;
    stage.balance("aliyun-user2", 49_970).await?;

    // Who declares the same again goes on with them. With `Delete` the object waits for a controller.
    charts.release(&stage.api, "install", &[DRAIN]).await?;
    let deleting = Pod::start(&stage).await?;
    stage.apply_example_with("quota.yaml", |text| format!("{text}  deletionPolicy: Delete\n")).await?;
    stage.ready("chat").await?;
    stage.in_force(&gateway).await?;
    is(completion(&gateway, "user1-key", false), 403, "No quota left").await?;
    is(completion(&gateway, "user2-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user2", 49_940).await?;
    uninstall(&stage, deleting).await?;
    kubectl(&["delete", "aiquota/chat", "--wait=false"]).await?;
    let waiting = stage.quotas().await?.get("chat").await?;
    ensure!(waiting.metadata.deletion_timestamp.is_some(), "{waiting:?}");
    ensure!(waiting.finalizers() == ["quota.higress.io/balances"], "{waiting:?}");
    is(completion(&gateway, "user1-key", false), 403, "No quota left").await?;
    stage.balance("aliyun-user2", 49_940).await?;
    charts.release(&stage.api, "install", &[DRAIN]).await?;
    let last = Pod::start(&stage).await?;
    kubectl(&["wait", "--for=delete", "aiquota/chat", "--timeout=60s"]).await?;
    let left = keys(&stage).await?;
    ensure!(left.is_empty(), "{left:?}");
    nothing_is_metered(&stage, &gateway).await?;
    uninstall(&stage, last).await?;
    ensure!(gateway.traps() == 0, "{:#?}", gateway.logs());
    kubectl(&["get", "aiquotastore", "default"]).await.map(drop)
}
