//! The life of a balance, from kubectl to Redis: each row of the table in docs/balances.md.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{Controller, ControllerOptions, Gateway, eventually_within, kubectl};

use crate::scenario_a::{self, completion};
use crate::stage::{NAMESPACE, Stage, condition, quota};

const USER: &str = "chat_quota:aliyun-user1";

async fn query<T: redis::FromRedisValue>(stage: &Stage, words: &[&str]) -> Result<T> {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(*word);
    });
    Ok(command.query_async(&mut stage.redis.connect().await?).await?)
}

/// A field of the ledger of [`USER`].
async fn ledger(stage: &Stage, field: &str) -> Result<Option<String>> {
    query(stage, &["HGET", &format!("{{{USER}}}:ledger"), field]).await
}

async fn ledger_is(stage: &Stage, field: &str, expected: Option<&str>) -> Result<()> {
    stage
        .eventually(&format!("the ledger's {field} is {expected:?}"), async || {
            let found = ledger(stage, field).await?;
            ensure!(found.as_deref() == expected, "it is {found:?}");
            Ok(())
        })
        .await
}

/// The quickstart's objects with one consumer who has spent 4000 of 10000 tokens.
async fn spent(stage: &Stage, fields: &Value) -> Result<()> {
    stage.apply_example("gateway.yaml").await?;
    // Without its AIQuota: what two appliers list, one cannot take off the list.
    let store = |text: &str| text.split("---").next().unwrap_or_default().to_owned();
    stage.apply_example_with("quota.yaml", store).await?;
    stage.api.apply(&quota("chat", fields)).await?;
    stage.ready("chat").await?;
    query::<i64>(stage, &["DECRBY", USER, "4000"]).await?;
    Ok(())
}

async fn lists(stage: &Stage, name: &str, consumers: &Value) -> Result<()> {
    stage.api.apply(&quota(name, &json!({"consumers": consumers}))).await?;
    stage.ready(name).await
}

async fn delete(stage: &Stage, name: &str) -> Result<()> {
    kubectl(&stage.api, &["delete", "aiquota", name, "-n", NAMESPACE, "--wait=false"]).await.map(drop)
}

async fn is_gone(stage: &Stage, name: &str) -> Result<()> {
    let quotas = stage.quotas().await?;
    stage
        .eventually(&format!("{name} is gone"), async || {
            let found = quotas.get_opt(name).await?;
            ensure!(found.is_none(), "{:?}", found.map(|found| found.data["status"]["conditions"].clone()));
            Ok(())
        })
        .await
}

/// Waits until the object is being deleted for this reason.
async fn is_deleting(stage: &Stage, name: &str, reason: &str) -> Result<String> {
    let quotas = stage.quotas().await?;
    stage
        .eventually(&format!("{name} is Deleting for {reason}"), async || {
            let object = quotas.get(name).await?;
            let found = condition(&object, "Deleting").context("no such condition")?;
            ensure!(found["status"] == "True" && found["reason"] == reason, "{found}");
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
}

#[tokio::test]
async fn what_was_spent_stays_spent_when_quotas_and_lists_are_edited() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    spent(&stage, &json!({})).await?;
    let user = |quota: i64| json!([{"name": "aliyun-user1", "quota": quota}]);
    // Up, down, and somebody new.
    lists(&stage, "chat", &user(20_000)).await?;
    stage.holds(USER, Some("16000")).await?;
    lists(&stage, "chat", &json!([{"name": "aliyun-user1", "quota": 5000}, {"name": "aliyun-user2", "quota": 7}]))
        .await?;
    stage.holds(USER, Some("1000")).await?;
    stage.holds("chat_quota:aliyun-user2", Some("7")).await?;
    // Taken off the list: parked, and restored.
    lists(&stage, "chat", &json!([])).await?;
    stage.holds(USER, None).await?;
    ledger_is(&stage, "parked", Some("1000")).await?;
    lists(&stage, "chat", &user(5000)).await?;
    stage.holds(USER, Some("1000")).await?;
    ledger_is(&stage, "parked", None).await?;
    // To another object, with what it has left.
    lists(&stage, "chat", &json!([])).await?;
    lists(&stage, "other", &user(6000)).await?;
    stage.holds(USER, Some("2000")).await?;
    let owner = ledger(&stage, "owner").await?.unwrap_or_default();
    ensure!(owner.ends_with("/higress-system/other"), "{owner}");
    // Only who has it now has it recorded.
    stage
        .eventually("the balance is recorded once", async || {
            let mut recorded = Vec::new();
            for key in query::<Vec<String>>(&stage, &["KEYS", "aiquota:owned:*"]).await? {
                if query::<bool>(&stage, &["SISMEMBER", &key, USER]).await? {
                    recorded.push(key);
                }
            }
            ensure!(recorded.len() == 1 && recorded[0].ends_with("/other"), "{recorded:?}");
            Ok(())
        })
        .await
}

/// More than two polls of balances, which are a minute apart.
const POLLS: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_key_that_was_lost_is_made_again_and_one_that_was_broken_is_named_without_any_edit() -> Result<()> {
    const OTHER: &str = "chat_quota:aliyun-user2";
    let stage = Stage::set().await?;
    stage.start_controller()?;
    spent(&stage, &json!({})).await?;
    query::<i64>(&stage, &["DEL", OTHER]).await?;
    query::<String>(&stage, &["SET", USER, "1e5"]).await?;
    let quotas = stage.quotas().await?;
    eventually_within(POLLS, "the one is there, the other is named", async || {
        let found = stage.redis.get(OTHER).await?;
        ensure!(found.as_deref() == Some("50000"), "it is {found:?}");
        let seeded = condition(&quotas.get("chat").await?, "Seeded").context("no such condition")?;
        let message = seeded["message"].as_str().unwrap_or_default();
        ensure!(seeded["reason"] == "MalformedBalance" && message.contains(USER), "{seeded}");
        Ok(())
    })
    .await?;
    ensure!(stage.redis.get(USER).await?.as_deref() == Some("1e5"), "what was broken is left alone");
    query::<String>(&stage, &["SET", USER, "0"]).await?;
    let shown = json!([
        {"name": "aliyun-user1", "quota": 10_000, "balance": 0, "used": 0},
        {"name": "aliyun-user2", "quota": 50_000, "balance": 50_000, "used": 0},
    ]);
    eventually_within(POLLS, "nothing left is shown", async || {
        let status = quotas.get("chat").await?.data["status"].clone();
        ensure!(status["consumers"] == shown && status["summary"]["exhausted"] == 1, "{status}");
        Ok(())
    })
    .await?;
    stage.ready("chat").await
}

#[tokio::test]
async fn another_prefix_begins_anew_and_the_old_one_comes_back_as_it_was() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    let user = json!([{"name": "aliyun-user1", "quota": 10_000}]);
    spent(&stage, &json!({"consumers": user})).await?;
    stage.api.apply(&quota("chat", &json!({"keyPrefix": "new:", "consumers": user}))).await?;
    stage.holds("new:aliyun-user1", Some("10000")).await?;
    stage.holds(USER, None).await?;
    ledger_is(&stage, "parked", Some("6000")).await?;
    stage.api.apply(&quota("chat", &json!({"consumers": user}))).await?;
    stage.holds(USER, Some("6000")).await?;
    stage.holds("new:aliyun-user1", None).await
}

#[tokio::test]
async fn an_object_with_another_store_begins_anew_there_and_finds_the_old_one_as_it_was() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    let user = json!([{"name": "aliyun-user1", "quota": 10_000}]);
    spent(&stage, &json!({"consumers": user})).await?;
    let store = json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
        "metadata": {"name": "second", "namespace": NAMESPACE},
        "spec": {"service": {"name": "second.static", "port": 80}, "database": 1,
            "auth": {"secretName": "redis-auth", "passwordKey": "password"}}});
    let registry = |name: &str, address: &str| json!({"name": name, "type": "static", "domain": address, "port": 80});
    let address = stage.redis.addr();
    let bridge = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {"registries": [registry("local-redis", &address), registry("second", &address)]}});
    stage.api.apply(&bridge).await?;
    stage.api.apply(&store).await?;
    stage.api.apply(&quota("chat", &json!({"consumers": user, "storeRef": {"name": "second"}}))).await?;
    stage.holds(USER, None).await?;
    stage.ready("chat").await?;
    ledger_is(&stage, "parked", Some("6000")).await?;
    let mut second = stage.redis.connect().await?;
    redis::cmd("SELECT").arg(1).query_async::<()>(&mut second).await?;
    let there: Option<String> = redis::cmd("GET").arg(USER).query_async(&mut second).await?;
    assert_eq!(there.as_deref(), Some("10000"));
    stage.api.apply(&quota("chat", &json!({"consumers": user, "storeRef": {"name": "default"}}))).await?;
    stage.holds(USER, Some("6000")).await
}

/// A store that leads to the stage's Redis under another name.
async fn alias(stage: &Stage) -> Result<()> {
    let registry = |name: &str, kind: &str, domain: &str, port: u16| json!({"name": name, "type": kind, "domain": domain, "port": port});
    let address = stage.redis.addr();
    let port = address.rsplit_once(':').context("an address with a port")?.1.parse()?;
    let bridge = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {"registries": [
            registry("local-redis", "static", &address, 80), registry("alias", "dns", "localhost", port)]}});
    stage.api.apply(&bridge).await?;
    let store = json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
        "metadata": {"name": "alias", "namespace": NAMESPACE},
        "spec": {"service": {"name": "alias.dns", "port": port},
            "auth": {"secretName": "redis-auth", "passwordKey": "password"}}});
    stage.api.apply(&store).await.map(drop)
}

#[tokio::test]
async fn a_redis_under_two_names_is_one_and_keeps_what_an_object_takes_from_one_name_to_the_other() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    let user = json!([{"name": "aliyun-user1", "quota": 10_000}]);
    spent(&stage, &json!({"consumers": user})).await?;
    alias(&stage).await?;
    stage.api.apply(&quota("chat", &json!({"consumers": user, "storeRef": {"name": "alias"}}))).await?;
    stage.ready("chat").await?;
    // Whoever begins finds two stores, each of which has it recorded.
    controller.kill();
    controller.restart()?;
    stage.rounds(2).await?;
    stage.holds(USER, Some("6000")).await?;
    ledger_is(&stage, "parked", None).await?;
    // What one object has through one name, another may not have through the other.
    stage.api.apply(&quota("younger", &json!({"consumers": user}))).await?;
    stage.says(&stage.quotas().await?, "younger", "Accepted", ("False", "Conflicted"), &[]).await?;
    stage.holds(USER, Some("6000")).await
}

#[tokio::test]
async fn an_object_whose_balances_others_took_over_through_another_name_of_their_redis_can_be_deleted() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller_with(&["--drain=0s"])?;
    let user = json!([{"name": "aliyun-user1", "quota": 10_000}, {"name": "broken", "quota": 1}]);
    spent(&stage, &json!({"deletionPolicy": "Delete", "consumers": user})).await?;
    alias(&stage).await?;
    // What cannot be taken over is another's trouble.
    query::<()>(&stage, &["SET", "chat_quota:broken", "text"]).await?;
    stage.api.apply(&quota("other", &json!({"consumers": user, "storeRef": {"name": "alias"}}))).await?;
    stage.condition(&stage.quotas().await?, "other", "Accepted", "False").await?;
    delete(&stage, "chat").await?;
    is_gone(&stage, "chat").await?;
    stage.holds(USER, Some("6000")).await?;
    stage.says(&stage.quotas().await?, "other", "Seeded", ("False", "MalformedBalance"), &[]).await.map(drop)
}

#[tokio::test]
async fn a_deleted_object_leaves_its_balances_to_whoever_lists_them_next() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    let user = json!({"consumers": [{"name": "aliyun-user1", "quota": 10_000}]});
    spent(&stage, &user).await?;
    delete(&stage, "chat").await?;
    is_gone(&stage, "chat").await?;
    ledger_is(&stage, "owner", None).await?;
    stage.holds(USER, Some("6000")).await?;
    stage.api.apply(&quota("chat", &user)).await?;
    stage.ready("chat").await?;
    stage.holds(USER, Some("6000")).await?;
    // The same while nobody looks.
    controller.kill();
    delete(&stage, "chat").await?;
    is_gone(&stage, "chat").await?;
    controller.restart()?;
    ledger_is(&stage, "owner", None).await?;
    stage.api.apply(&quota("younger", &user)).await?;
    stage.ready("younger").await?;
    stage.holds(USER, Some("6000")).await
}

/// Waits until the gateway has this object's default.
async fn enforces(stage: &Stage, gateway: &Gateway, object: &str, default: i64) -> Result<()> {
    let pointer = format!("/aiquota/policies/{NAMESPACE}~1{object}/defaultQuota");
    let says = |config: &Value| config.pointer(&pointer) == Some(&json!(default));
    gateway.settled(|loaded| loaded.plugin("aiquota-ai-quota").is_some_and(|plugin| says(&plugin.config))).await?;
    stage.in_force(gateway).await
}

#[tokio::test]
async fn who_lives_on_a_default_follows_the_next_object_when_the_first_is_gone() -> Result<()> {
    const DEFAULTED: &str = "chat_quota:aliyun-user2";
    let stage = Stage::set().await?;
    stage.start_controller_with(&["--drain=0s"])?;
    let gateway = stage.start_gateway().await?;
    let with = |consumer: &str, default: i64, policy: &str| {
        let consumers = json!([{"name": consumer, "quota": 10_000}]);
        json!({"defaultQuota": default, "consumers": consumers, "deletionPolicy": policy})
    };
    spent(&stage, &with("aliyun-user1", 1000, "Retain")).await?;
    // The next in the order of their age, which counts whole seconds, or their names.
    for (name, policy) in [("heir-a", "Delete"), ("heir-b", "Retain")] {
        stage.api.apply(&quota(name, &with(name, 1000, policy))).await?;
        stage.ready(name).await?;
    }
    enforces(&stage, &gateway, "chat", 1000).await?;
    // 30 tokens each.
    scenario_a::is(completion(&gateway, "user2-key", false), 200, "total_tokens").await?;
    stage.holds(DEFAULTED, Some("970")).await?;
    delete(&stage, "chat").await?;
    is_gone(&stage, "chat").await?;
    enforces(&stage, &gateway, "heir-a", 1000).await?;
    scenario_a::is(completion(&gateway, "user2-key", false), 200, "total_tokens").await?;
    stage.holds(DEFAULTED, Some("940")).await?;
    // With balances that were to go: not this one, which the other object's default decides on.
    delete(&stage, "heir-a").await?;
    is_gone(&stage, "heir-a").await?;
    stage.holds(DEFAULTED, Some("940")).await?;
    stage.api.apply(&quota("heir-b", &with("heir-b", 500, "Retain"))).await?;
    enforces(&stage, &gateway, "heir-b", 500).await?;
    scenario_a::is(completion(&gateway, "user2-key", false), 200, "total_tokens").await?;
    stage.holds(DEFAULTED, Some("410")).await?;
    let owner: Option<String> = query(&stage, &["HGET", &format!("{{{DEFAULTED}}}:ledger"), "owner"]).await?;
    ensure!(owner.as_deref().is_some_and(|owner| owner.ends_with("/heir-b")), "{owner:?}");
    Ok(())
}

#[tokio::test]
async fn what_a_default_made_and_another_object_lists_is_not_deleted_with_the_first() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller_with(&["--drain=0s"])?;
    let user = json!([{"name": "aliyun-user1", "quota": 10_000}]);
    spent(&stage, &json!({"deletionPolicy": "Delete", "consumers": user})).await?;
    // One that the other cannot take over, so that it is the first object's to the end.
    let owner = ledger(&stage, "owner").await?.context("the balance has an owner")?;
    for name in ["listed", "not-listed"] {
        let lazy = format!("{{chat_quota:{name}}}:ledger");
        query::<i64>(&stage, &["HSET", &lazy, "layout", "1", "owner", &owner, "grant", "5", "lazy", "1"]).await?;
        query::<()>(&stage, &["SET", &format!("chat_quota:{name}"), "text"]).await?;
    }
    stage.api.apply(&quota("other", &json!({"consumers": [{"name": "listed", "quota": 1}]}))).await?;
    stage.condition(&stage.quotas().await?, "other", "Seeded", "False").await?;
    delete(&stage, "chat").await?;
    is_gone(&stage, "chat").await?;
    stage.holds("chat_quota:not-listed", None).await?;
    stage.holds("chat_quota:listed", Some("text")).await
}

#[tokio::test]
async fn who_is_taken_off_the_list_while_no_controller_runs_is_parked_by_the_next_one() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    spent(&stage, &json!({"consumers": [{"name": "aliyun-user1", "quota": 10_000}]})).await?;
    controller.kill();
    stage.api.apply(&quota("chat", &json!({"consumers": []}))).await?;
    controller.restart()?;
    stage.holds(USER, None).await?;
    ledger_is(&stage, "parked", Some("6000")).await
}

#[tokio::test]
async fn with_the_policy_delete_rules_go_first_then_balances_then_the_object() -> Result<()> {
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    let gone = json!({"deletionPolicy": "Delete", "consumers": [{"name": "aliyun-user1", "quota": 10_000}]});
    spent(&stage, &gone).await?;
    // One that a request made from the default, and one of somebody else with the same prefix.
    let owner = ledger(&stage, "owner").await?.context("the balance has an owner")?;
    let lazy = "{chat_quota:lazy}:ledger";
    query::<i64>(&stage, &["HSET", lazy, "layout", "1", "owner", &owner, "grant", "5", "lazy", "1"]).await?;
    stage.redis.set("chat_quota:lazy", 5).await?;
    query::<i64>(&stage, &["HSET", "{chat_quota:x}:ledger", "layout", "1", "owner", "else/a/b", "grant", "5"]).await?;
    stage.redis.set("chat_quota:x", 5).await?;

    delete(&stage, "chat").await?;
    is_deleting(&stage, "chat", "Draining").await?;
    ensure!(stage.rules().await? == 0, "a rule of an object that is being deleted");
    stage.holds(USER, Some("6000")).await?;
    // How long that was is known to the next controller too.
    controller.terminate().await?;
    let args = vec!["--drain=1s".to_owned()];
    let _next = Controller::start(&stage.api, ControllerOptions { args, ..ControllerOptions::default() })?;
    is_gone(&stage, "chat").await?;
    let mut left: Vec<String> = query(&stage, &["KEYS", "*"]).await?;
    left.sort();
    ensure!(left == ["aiquota:database", "chat_quota:x", "{chat_quota:x}:ledger"], "{left:?}");

    // Afresh.
    stage.api.apply(&quota("chat", &gone)).await?;
    stage.ready("chat").await?;
    stage.holds(USER, Some("10000")).await
}

#[tokio::test]
async fn a_dead_store_is_named_and_an_annotation_lets_the_object_go() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller_with(&["--drain=0s"])?;
    spent(&stage, &json!({"deletionPolicy": "Delete"})).await?;
    stage.redis.kill();
    delete(&stage, "chat").await?;
    let message = is_deleting(&stage, "chat", "StoreUnreachable").await?;
    for said in ["store default", "quota.higress.io/abandon-balances=true"] {
        ensure!(message.contains(said), "{message}");
    }
    stage
        .eventually("an Event says so too", async || {
            let told = stage.events("StoreUnreachable").await?;
            ensure!(told.iter().any(|told| told.contains("abandon-balances")), "{told:?}");
            Ok(())
        })
        .await?;
    let annotation = "quota.higress.io/abandon-balances=true";
    kubectl(&stage.api, &["annotate", "aiquota", "chat", "-n", NAMESPACE, annotation]).await?;
    is_gone(&stage, "chat").await
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_seeded_again_without_a_new_connection() -> Result<()> {
    let stage = Stage::set().await?;
    stage.start_controller()?;
    spent(&stage, &json!({})).await?;
    stage.redis.flush().await?;
    stage.holds(USER, Some("10000")).await?;
    stage
        .eventually("what is owned is recorded again", async || {
            let recorded: Vec<String> = query(&stage, &["KEYS", "aiquota:*"]).await?;
            ensure!(recorded.len() == 3, "{recorded:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_restart_without_changes_writes_nothing_to_redis() -> Result<()> {
    const READS: [&str; 16] = [
        "auth",
        "client|setinfo",
        "config|resetstat",
        "config|set",
        "eval",
        "evalsha",
        "get",
        "hello",
        "hgetall",
        "hmget",
        "info",
        "ping",
        "select",
        "smembers",
        "time",
        "zrange",
    ];
    let stage = Stage::set().await?;
    let controller = stage.start_controller()?;
    spent(&stage, &json!({})).await?;
    // With somebody parked.
    lists(&stage, "chat", &json!([{"name": "aliyun-user1", "quota": 10_000}])).await?;
    stage.holds("chat_quota:aliyun-user2", None).await?;
    stage.rounds(1).await?;
    query::<()>(&stage, &["CONFIG", "RESETSTAT"]).await?;
    controller.restart()?;
    stage.rounds(2).await?;
    let stats: String = query(&stage, &["INFO", "commandstats"]).await?;
    let commands = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let commands: Vec<&str> = commands.collect();
    ensure!(commands.contains(&"evalsha") && commands.contains(&"smembers"), "nothing was looked at: {commands:?}");
    let others: Vec<&&str> = commands.iter().filter(|command| !READS.contains(*command)).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}
