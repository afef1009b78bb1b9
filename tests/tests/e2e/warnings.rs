//! What the controller says where a rule is in force, or could be, but other people's plugins or the Redis itself
//! make something else of it.

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject};
use serde_json::{Value, json};
use testbed::RedisOptions;

use crate::stage::{NAMESPACE, PASSWORD, Stage, condition, quota};

fn plugin(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

/// Waits until an object does not have a condition any more.
async fn gone(stage: &Stage, objects: &Api<DynamicObject>, name: &str, kind: &str) -> Result<()> {
    stage
        .eventually(&format!("{kind} of {name} is gone"), async || {
            let object = objects.get(name).await?;
            ensure!(condition(&object, kind).is_none(), "{}", object.data["status"]);
            Ok(())
        })
        .await
}

/// Waits until a warning is a condition that says all of this, and an Event that does.
async fn warned(stage: &Stage, objects: &Api<DynamicObject>, name: &str, kind: &str, said: &[&str]) -> Result<()> {
    stage
        .eventually(&format!("{name} has {kind}"), async || {
            let object = objects.get(name).await?;
            let found = condition(&object, kind).with_context(|| object.data["status"].to_string())?;
            let message = found["message"].as_str().unwrap_or_default();
            ensure!(found["status"] == "True" && said.iter().all(|said| message.contains(said)), "{found}");
            Ok(())
        })
        .await?;
    stage
        .eventually("the warning is told", async || {
            let told = stage.events(kind).await?;
            ensure!(
                told.iter().any(|told| said.iter().all(|said| told.contains(said))),
                "{told:?} do not say {said:?}"
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn consumers_that_the_auth_plugin_does_not_know_or_let_through_are_named_with_it() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let quotas = stage.quotas().await?;
    let chat = quotas.get("chat").await?;
    assert!(condition(&chat, "ConsumerUnknown").is_none(), "{}", chat.data["status"]);

    let consumers = json!([{"name": "aliyun-user1", "quota": 1}, {"name": "aliyun-user9", "quota": 1}]);
    stage.apply_consumers(&consumers).await?;
    warned(&stage, &quotas, "chat", "ConsumerUnknown", &["aliyun-user9", "key-auth", "Ingress qwen"]).await?;

    // The admin is forgotten on the route, as people did.
    let mut key_auth = stage.plugins().await?.get("key-auth").await?;
    key_auth.data["spec"]["matchRules"] =
        json!([{"ingress": ["qwen"], "config": {"allow": ["aliyun-user1", "aliyun-user2"]}}]);
    stage.api.apply(&plugin("key-auth", &key_auth.data["spec"])).await?;
    warned(&stage, &quotas, "chat", "ConsumerNotAllowed", &["aliyun-admin", "key-auth", "Ingress qwen"]).await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn a_rule_waits_for_another_ai_quota_to_go_and_is_warned_about_when_one_comes() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    let by_hand = plugin(
        "ai-quota-1.0.0",
        &json!({"url": "oci://example/plugins/ai-quota:1.0.0", "priority": 750,
            "matchRules": [{"ingress": ["qwen"], "config": {"admin_consumer": "aliyun-admin"}}]}),
    );
    stage.api.apply(&by_hand).await?;
    stage.apply_example("quota.yaml").await?;
    let quotas = stage.quotas().await?;
    stage.says(&quotas, "chat", "Programmed", ("False", "ForeignRule"), &["ai-quota-1.0.0"]).await?;
    stage.balance("aliyun-user1", 10_000).await?;
    assert_eq!(stage.rules().await?, 0);

    stage.plugins().await?.delete("ai-quota-1.0.0", &DeleteParams::default()).await?;
    stage.ready("chat").await?;
    let rules = stage.rules().await?;
    assert_ne!(rules, 0);

    stage.api.apply(&by_hand).await?;
    warned(&stage, &quotas, "chat", "ForeignRule", &["ai-quota-1.0.0", "Ingress qwen", "charged twice"]).await?;
    stage.ready("chat").await?;
    assert_eq!(stage.rules().await?, rules, "what is in force stays");
    Ok(())
}

#[tokio::test]
async fn a_store_says_who_else_sets_up_its_redis_and_that_it_may_lose_balances() -> Result<()> {
    let config = vec!["maxmemory-policy allkeys-lru".to_owned()];
    let options = RedisOptions { password: Some(PASSWORD.to_owned()), config, ..RedisOptions::default() };
    let stage = Stage::set_with(options).await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let stores = stage.stores().await?;
    warned(&stage, &stores, "default", "MayEvict", &["allkeys-lru", "noeviction"]).await?;
    let mut redis = stage.redis.connect().await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("noeviction").query_async::<()>(&mut redis).await?;
    gone(&stage, &stores, "default", "MayEvict").await?;

    let cache = |database: i64, password: &str| {
        let redis = json!({"service_name": "local-redis.static", "service_port": 80, "timeout": 30_000,
            "database": database, "password": password});
        plugin("ai-cache", &json!({"matchRules": [{"ingress": ["qwen"], "config": {"redis": redis}}]}))
    };
    stage.api.apply(&cache(5, PASSWORD)).await?;
    warned(&stage, &stores, "default", "RedisShared", &["ai-cache", "local-redis.static:80", "database"]).await?;
    stage.api.apply(&cache(0, "another-secret")).await?;
    let message = stage
        .eventually("the other option is named", async || {
            let found = condition(&stores.get("default").await?, "RedisShared").context("RedisShared")?;
            let message = found["message"].as_str().unwrap_or_default().to_owned();
            ensure!(message.contains("another password"), "{message}");
            Ok(message)
        })
        .await?;
    assert!(!message.contains("another-secret") && !message.contains(PASSWORD), "{message}");
    stage.api.apply(&cache(0, PASSWORD)).await?;
    gone(&stage, &stores, "default", "RedisShared").await
}

#[tokio::test]
async fn a_younger_ceiling_takes_a_route_by_its_host_when_its_own_rule_is_there() -> Result<()> {
    let stage = Stage::set().await?;
    stage.api.install_gateway_api().await?;
    stage.api.namespace("team").await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    let route = |name: &str, host: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"hostnames": [host], "rules": [{"backendRefs": [{"name": "model", "port": 80}]}]}})
    };
    stage.api.apply(&route("inside", "chat.corp.example")).await?;
    stage.api.apply(&route("outside", "chat.other.example")).await?;
    let of = |name: &str, namespace: &str, spec: Value| {
        json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuota",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    };
    let targets = json!([{"kind": "HTTPRoute", "name": "inside"}, {"kind": "HTTPRoute", "name": "outside"}]);
    let consumers = json!([{"name": "aliyun-user1", "quota": 7}]);
    stage.api.apply(&of("mine", "team", json!({"targetRefs": targets, "consumers": consumers}))).await?;
    let of_team = stage.api.objects("quota.higress.io/v1alpha1", "AIQuota", "team").await?;
    stage.condition(&of_team, "mine", "Ready", "True").await?;

    let domain = json!([{"kind": "Domain", "name": "*.corp.example"}]);
    let closed = quota("corp", &json!({"targetRefs": domain, "keyPrefix": "corp:", "storeRef": {"name": "later"}}));
    stage.api.apply(&closed).await?;
    let words = ["HTTPRoute inside", "Domain *.corp.example", "higress-system/corp", "allowNarrower"];
    let message = stage.says(&of_team, "mine", "Accepted", ("False", "Overridden"), &words).await?;
    assert!(!message.contains("outside"), "{message}");
    let routes = async || {
        let plugin = stage.plugins().await?.get("aiquota-ai-quota").await?;
        let rules = plugin.data["spec"]["matchRules"].as_array().context("rules")?.clone();
        let of_team = rules.into_iter().filter(|rule| rule["config"]["policy"] == "team/mine");
        Ok::<_, anyhow::Error>(of_team.map(|rule| rule["ingress"].clone()).collect::<Vec<_>>())
    };
    // The ceiling's store is not there: nothing becomes free.
    assert_eq!(routes().await?, [json!(["team/inside", "team/outside"])]);

    stage.api.apply(&quota("corp", &json!({"targetRefs": domain, "keyPrefix": "corp:"}))).await?;
    stage.ready("corp").await?;
    stage
        .eventually("the ceiling has taken the route", async || {
            let routes = routes().await?;
            ensure!(routes == [json!(["team/outside"])], "{routes:?}");
            Ok(())
        })
        .await?;

    let open = quota("corp", &json!({"targetRefs": domain, "keyPrefix": "corp:", "allowNarrower": true}));
    stage.api.apply(&open).await?;
    stage.condition(&of_team, "mine", "Ready", "True").await.map(drop)
}
