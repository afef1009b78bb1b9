//! Scenario A: token management for one AI route, declared as in examples/quickstart.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testbed::{Call, Gateway, RedisOptions, get, post};

use crate::stage::{PASSWORD, Stage, quota};

/// All keys with their values, to see whether anything was written.
pub(crate) async fn contents(stage: &Stage) -> Result<Vec<(String, String)>> {
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
pub(crate) async fn versions(stage: &Stage) -> Result<Vec<(String, Option<String>)>> {
    let mut versions = Vec::new();
    for api in [stage.quotas().await?, stage.stores().await?, stage.plugins().await?] {
        for object in api.list(&kube::api::ListParams::default()).await?.items {
            versions.push((object.metadata.name.unwrap_or_default(), object.metadata.resource_version));
        }
    }
    Ok(versions)
}

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A request of the consumer with this key.
pub(crate) fn completion(gateway: &Gateway, key: &str, stream: bool) -> Call {
    let body = json!({"model": "qwen-max", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]});
    let call = post(format!("{}{CHAT}", gateway.url())).json(&body);
    call.header("x-api-key", key).header("x-higress-llm-model", "qwen-max")
}

pub(crate) async fn is(call: Call, status: u16, body: &str) -> Result<()> {
    let shown = call.shown();
    let reply = call.send().await?;
    ensure!(reply.status == status && reply.text().contains(body), "{shown}: {} {}", reply.status, reply.text());
    Ok(())
}

#[tokio::test]
async fn a_day_of_token_management_goes_as_declared() -> Result<()> {
    const USER2: &str = "- {name: aliyun-user2, credential: user2-key}";
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    let gateway = stage.start_gateway().await?;
    let with_user3 =
        |text: &str| text.replace(USER2, &format!("{USER2}\n      - {{name: aliyun-user3, credential: user3-key}}"));
    stage.apply_example_with("gateway.yaml", with_user3).await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    stage.in_force(&gateway).await?;

    // 1. The admin looks up the declared balance.
    let query = |key: &str, consumer: &str| {
        get(format!("{}{CHAT}/quota?consumer={consumer}", gateway.url())).header("x-api-key", key)
    };
    let admin = |operation: &str, form: &str| {
        post(format!("{}{CHAT}/quota/{operation}", gateway.url())).header("x-api-key", "admin-key").form(form)
    };
    is(query("admin-key", "aliyun-user1"), 200, r#"{"consumer":"aliyun-user1","quota":10000}"#).await?;

    // 2. Sets it; a resync, after an edit and a restart, keeps it. 5 of the table: a new consumer needs only itself.
    is(admin("refresh", "consumer=aliyun-user1&quota=100"), 200, "refresh quota successful").await?;
    is(completion(&gateway, "user3-key", false), 403, "No quota left").await?;
    controller.restart()?;
    let consumers = [("aliyun-user1", 10000), ("aliyun-user2", 50000), ("aliyun-user3", 500)];
    stage
        .apply_consumers(&consumers.iter().map(|(name, quota)| json!({"name": name, "quota": quota})).collect())
        .await?;
    stage.balance("aliyun-user3", 500).await?;
    is(completion(&gateway, "user3-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user3", 470).await?;
    stage.balance("aliyun-user1", 100).await?;

    // 3. Corrects it.
    is(admin("delta", "consumer=aliyun-user1&value=100"), 200, "delta quota successful").await?;
    stage.balance("aliyun-user1", 200).await?;
    is(admin("delta", "consumer=aliyun-user1&value=-50"), 200, "delta quota successful").await?;
    is(query("admin-key", "aliyun-user1"), 200, r#""quota":150"#).await?;

    // 4. A consumer spends: what the answers say they used, plain and streamed.
    is(completion(&gateway, "user1-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user1", 120).await?;
    is(completion(&gateway, "user1-key", true), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user1", 90).await?;

    // 5. Until nothing is left.
    is(completion(&gateway, "user1-key", true).header("x-test-usage", "30,70"), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user1", -10).await?;
    let answered = stage.model.received().len();
    is(completion(&gateway, "user1-key", false), 403, "Request denied by ai quota check, No quota left").await?;

    // And with 5 tokens per window and key: what goes over it is answered, what comes then is not. A minute could be over
    // on a slow machine.
    stage.apply_example_with("limit.yaml", |text| text.replace("window: 1m", "window: 1h")).await?;
    let limits = stage.limits().await?;
    stage.condition(&limits, "chat", "Ready", "True").await?;
    stage.in_force(&gateway).await?;
    is(completion(&gateway, "user2-key", false), 200, r#""total_tokens":30"#).await?;
    stage.balance("aliyun-user2", 49970).await?;
    let counter = "higress-token-ratelimit:{default_rule}:limit_by_per_header:3600:x-api-key:user2-key";
    stage.holds(counter, Some("30")).await?;
    let answered = answered + 1;
    let too_fast = completion(&gateway, "user2-key", true).send().await?;
    ensure!((too_fast.status, &*too_fast.text()) == (429, "Too many requests"), "{too_fast:?}");
    let reset: u64 = too_fast.header("x-tokenratelimit-reset").context("when to come back")?.parse()?;
    ensure!((1..=3600).contains(&reset), "{reset}");

    // 6. Who may not, cannot; and a client cannot say who it is.
    is(query("user1-key", "aliyun-user1"), 403, "Unauthorized admin consumer.").await?;
    let nobody = post(format!("{}{CHAT}", gateway.url())).json(&json!({}));
    is(nobody, 401, "No Key Authentication information found.").await?;
    let forged = completion(&gateway, "user1-key", false).header("x-mse-consumer", "aliyun-user2");
    is(forged, 403, "No quota left").await?;
    assert_eq!(stage.model.received().len(), answered, "what is refused reaches no model");
    stage.balance("aliyun-user2", 49970).await?;
    assert_eq!(gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn a_redis_user_who_may_touch_only_balances_and_index_is_enough_for_controller_and_gateway() -> Result<()> {
    let user = "user quota on >s3cret ~aiquota:* ~chat_quota:* ~{chat_quota:* \
                +@read +@write -@dangerous +eval +evalsha +ping +time +select";
    let config = vec!["user default off".to_owned(), user.to_owned()];
    let stage = Stage::set_with(RedisOptions { config, ..RedisOptions::default() }).await?;
    stage.start_controller()?;
    let gateway = stage.start_gateway().await?;
    let with_user = |text: &str| text.replace("password: change-me", "username: quota\n  password: s3cret");
    stage.apply_example_with("gateway.yaml", with_user).await?;
    let named = |text: &str| text.replace("secretName: redis-auth,", "secretName: redis-auth, usernameKey: username,");
    stage.apply_example_with("quota.yaml", named).await?;
    stage.ready("chat").await?;
    stage.in_force(&gateway).await?;
    is(completion(&gateway, "user1-key", true), 200, "data: [DONE]").await?;
    stage.balance("aliyun-user1", 9970).await
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
    stage.says(&stores, "default", "Connected", ("False", "StoreUnreachable"), &[]).await?;
    stage.says(&quotas, "chat", "Seeded", ("False", "StoreUnreachable"), &[]).await?;
    assert_eq!(stage.rules().await?, 0, "a rule waits for its balances");

    stage.redis.restart().await?;
    stage.ready("chat").await?;
    stage.condition(&stores, "default", "Connected", "True").await?;
    assert_ne!(stage.rules().await?, 0);

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
    stage.says(&quotas, "other", "Accepted", ("False", "TargetNotFound"), &[]).await?;
    assert_ne!(stage.rules().await?, 0);
    let log = controller.log();
    assert!(!log.contains(PASSWORD), "{log}");
    Ok(())
}
