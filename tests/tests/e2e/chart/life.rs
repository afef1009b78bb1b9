//! From nothing to requests that are refused at the gateway, with no more rights than the chart grants: the controller
//! runs with the arguments and as the service account that helm has installed.

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use testbed::{ApiServer, RedisOptions, built_module, kubectl};

use super::pod::Pod;
use super::{Charts, OURS, RELEASE, permissions};
use crate::scenario_a::{completion, is};
use crate::stage::{NAMESPACE, PASSWORD, Stage};

const TENANT: &str = "team";

/// The values with which the gateway of the test bed finds the built modules.
fn values() -> Result<Vec<String>> {
    let module = |name: &str| -> Result<Value> {
        let (url, sha256) = built_module(name)?;
        Ok(json!({"url": url, "sha256": sha256}))
    };
    Ok(vec![
        format!("modules.quota={}", module("ai-quota")?),
        format!("modules.limits={}", module("ai-token-ratelimit")?),
        r#"drain="1s""#.to_owned(),
        r#"log={"format":"text","filter":"controller=debug,info"}"#.to_owned(),
    ])
}

fn tenants(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": "mine", "namespace": TENANT}, "spec": spec})
}

fn tenants_quota(consumers: &Value) -> Value {
    let target = json!([{"kind": "Ingress", "name": "mine"}]);
    tenants("AIQuota", &json!({"targetRefs": target, "consumers": consumers, "deletionPolicy": "Delete"}))
}

/// Namespaces that are not the gateway's have objects of each kind: what is granted everywhere is needed everywhere.
async fn settle_a_tenant(stage: &Stage) -> Result<()> {
    stage.api.namespace(TENANT).await?;
    let backend = json!({"service": {"name": "model", "port": {"number": 80}}});
    let rules = json!([{"http": {"paths": [{"path": "/mine", "pathType": "Prefix", "backend": backend}]}}]);
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "mine", "namespace": TENANT}, "spec": {"ingressClassName": "higress", "rules": rules}});
    let limit =
        json!({"targetRefs": [{"kind": "Ingress", "name": "mine"}], "global": [{"tokens": 100, "window": "1h"}]});
    let store = json!({"service": {"name": "local-redis.static"}});
    for object in [ingress, tenants("AITokenRateLimit", &limit), tenants("AIQuotaStore", &store)] {
        stage.api.apply(&object).await?;
    }
    Ok(())
}

/// Waits for a condition of the tenant's object.
async fn tenants_condition(stage: &Stage, kind: &str, condition: &str, status: &str) -> Result<()> {
    let objects = stage.api.objects(OURS, kind, TENANT).await?;
    stage.condition(&objects, "mine", condition, status).await.map(drop)
}

/// What another writes into our WasmPlugins is put right, also when it can no longer be read.
async fn meddle(stage: &Stage, plugin: &str) -> Result<()> {
    let plugins = stage.plugins().await?;
    let expected = plugins.get(plugin).await?.data["spec"].clone();
    let priority = json!([{"op": "replace", "path": "/spec/priority", "value": 5}]);
    let nothing = json!([{"op": "remove", "path": "/spec"}]);
    // The same twice: the second is told as the first one's repetition.
    for patch in [&priority, &priority, &nothing] {
        kubectl(&stage.api, &["patch", "wasmplugin", plugin, "-n", NAMESPACE, "--type=json", "-p", &patch.to_string()])
            .await?;
        stage
            .eventually(&format!("{plugin} is as it was"), async || {
                let found = plugins.get(plugin).await?;
                ensure!(found.data["spec"] == expected, "{}", found.data["spec"]);
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_the_chart_grants_is_enough_for_a_whole_life_and_no_more_than_it_takes() -> Result<()> {
    let (api, charts) = (ApiServer::start_audited().await?, Charts::copied().await?);
    api.install_higress_crds().await?;
    api.install_gateway_api().await?;
    let password = Some(PASSWORD.to_owned());
    let stage = Stage::set_on(api, RedisOptions { password, ..RedisOptions::default() }).await?;
    let values = values()?;
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    charts.release(&stage.api, "install", &values).await?;

    let first = Pod::start(&stage).await?;
    first.says("leading with term 2").await?;
    let second = Pod::start(&stage).await?;
    second.says("standing by while").await?;
    let gateway = stage.start_gateway().await?;
    for file in ["gateway.yaml", "quota.yaml"] {
        stage.apply_example(file).await?;
    }
    // A minute could be over on a slow machine.
    stage.apply_example_with("limit.yaml", |text| text.replace("window: 1m", "window: 1h")).await?;
    stage.ready("chat").await?;
    let limits = stage.limits().await?;
    stage.condition(&limits, "chat", "Ready", "True").await?;
    let plugins = [plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT];
    gateway.settled(|loaded| plugins.iter().all(|plugin| loaded.runs(plugin))).await?;
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 9970).await?;
    let counter = "higress-token-ratelimit:{default_rule}:limit_by_per_header:3600:x-api-key:user1-key";
    stage.holds(counter, Some("30")).await?;
    is(completion(&gateway, "user1-key", false), 429, "Too many requests").await?;

    settle_a_tenant(&stage).await?;
    // Warned of twice: the second Event is the first one's repetition.
    for _ in 0..2 {
        stage.api.apply(&tenants_quota(&json!([]))).await?;
        tenants_condition(&stage, "AIQuota", "NobodyMaySpend", "True").await?;
        stage.api.apply(&tenants_quota(&json!([{"name": "aliyun-user1", "quota": 100}]))).await?;
        tenants_condition(&stage, "AIQuota", "Ready", "True").await?;
    }
    tenants_condition(&stage, "AITokenRateLimit", "Ready", "True").await?;
    tenants_condition(&stage, "AIQuotaStore", "Ready", "False").await?;
    for plugin in plugins {
        meddle(&stage, plugin).await?;
    }

    // The node of the one that leads is lost.
    first.controller.kill();
    second.says("leading with term 3").await?;
    let edited = |text: &str| {
        text.replace("quota: 10000", "quota: 10100").replace("    - {name: aliyun-user2, quota: 50000}\n", "")
    };
    stage.apply_example_with("quota.yaml", edited).await?;
    stage.balance("aliyun-user1", 10_070).await?;
    stage
        .eventually("who is not listed any more has nothing", async || {
            ensure!(stage.redis.get("chat_quota:aliyun-user2").await?.is_none(), "it has a balance");
            Ok(())
        })
        .await?;
    is(completion(&gateway, "user2-key", false), 403, "No quota left").await?;

    // What is deleted with its balances, what leaves them, and in the end nothing is enforced.
    let of_tenant = stage.redis.get("aiquota:team/Ingress/mine:aliyun-user1").await?;
    ensure!(of_tenant.as_deref() == Some("100"), "{of_tenant:?}");
    for (kind, namespace, name) in [
        ("AIQuota", TENANT, "mine"),
        ("AITokenRateLimit", TENANT, "mine"),
        ("AIQuota", NAMESPACE, "chat"),
        ("AITokenRateLimit", NAMESPACE, "chat"),
    ] {
        stage.api.objects(OURS, kind, namespace).await?.delete(name, &DeleteParams::default()).await?;
    }
    let found = stage.plugins().await?;
    for plugin in plugins {
        stage
            .eventually(&format!("{plugin} is gone"), async || {
                ensure!(found.get_opt(plugin).await?.is_none(), "it is there");
                Ok(())
            })
            .await?;
    }
    let quotas = stage.api.objects(OURS, "AIQuota", TENANT).await?;
    stage
        .eventually("the tenant's object goes when its balances are gone", async || {
            ensure!(quotas.get_opt("mine").await?.is_none(), "it is there");
            ensure!(stage.redis.get("aiquota:team/Ingress/mine:aliyun-user1").await?.is_none(), "its balance is there");
            Ok(())
        })
        .await?;
    stage.balance("aliyun-user1", 10_070).await?;
    let status = second.controller.terminate().await?;
    ensure!(status.success(), "{status}: {}", second.controller.log());
    permissions::compare(&stage.api, RELEASE).await
}
