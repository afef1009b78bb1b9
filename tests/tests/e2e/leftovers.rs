//! What is left of objects in Redis is settled as each store may, and recorded wherever a store leads.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use testbed::{Redis, RedisOptions, eventually, eventually_within};

use crate::stage::{NAMESPACE, PASSWORD, Stage, condition, quota};

fn bridge(registries: &[(&str, &str)]) -> Value {
    let registry =
        |(name, domain): &(&str, &str)| json!({"name": name, "type": "static", "domain": domain, "port": 80});
    json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {"registries": registries.iter().map(registry).collect::<Value>()}})
}

/// An AIQuota of its own on a route of its own, in a store of its own with its own user of Redis.
async fn object(stage: &Stage, name: &str, consumers: &Value) -> Result<()> {
    let target = json!([{"kind": "Ingress", "name": name}]);
    let fields = json!({"storeRef": {"name": name}, "keyPrefix": format!("{name}:"), "targetRefs": target,
        "consumers": consumers});
    stage.api.apply(&quota(name, &fields)).await.map(drop)
}

async fn parked(stage: &Stage, name: &str) -> Result<()> {
    eventually(&format!("the consumer of {name} is parked"), async || {
        let mut redis = stage.redis.connect().await?;
        let ledger = format!("{{{name}:user}}:ledger");
        let parked: Option<String> = redis::cmd("HGET").arg(ledger).arg("parked").query_async(&mut redis).await?;
        ensure!(parked.as_deref() == Some("10"), "{parked:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_stores_of_one_redis_settle_their_own_objects_as_their_own_users_and_say_what_they_may_not() -> Result<()> {
    let user = |name: &str| format!("user {name} on >s3cret ~aiquota:* ~{name}:* ~{{{name}:* +@all");
    let options = RedisOptions {
        password: Some(PASSWORD.to_owned()),
        config: vec![user("one"), user("two")],
        ..RedisOptions::default()
    };
    let stage = Stage::set_with(options).await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    let address = stage.redis.addr();
    stage.api.apply(&bridge(&[("one", &address), ("two", &address)])).await?;
    let (listed, nobody) = (json!([{"name": "user", "quota": 10}]), json!([]));
    for name in ["one", "two"] {
        let backend =
            json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        for object in [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                "stringData": {"username": name, "password": "s3cret"}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
                "spec": {"ingressClassName": "higress",
                    "rules": [{"host": format!("{name}.example.com"), "http": {"paths": paths}}]}}),
            json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore", "metadata": metadata,
                "spec": {"service": {"name": format!("{name}.static"), "port": 80},
                    "auth": {"secretName": name, "usernameKey": "username", "passwordKey": "password"}}}),
        ] {
            stage.api.apply(&object).await?;
        }
        object(&stage, name, &listed).await?;
        stage.ready(name).await?;
    }
    for name in ["one", "two"] {
        object(&stage, name, &nobody).await?;
    }
    for name in ["one", "two"] {
        parked(&stage, name).await?;
    }

    // What none of them may do is said of the object, until it is done.
    object(&stage, "two", &listed).await?;
    stage.ready("two").await?;
    let acl = async |rules: &[&str]| {
        let mut redis = stage.redis.connect().await?;
        Ok::<_, anyhow::Error>(
            redis::cmd("ACL").arg("SETUSER").arg("two").arg(rules).query_async::<()>(&mut redis).await?,
        )
    };
    acl(&["resetkeys", "~aiquota:*"]).await?;
    object(&stage, "two", &nobody).await?;
    let quotas = stage.quotas().await?;
    stage.says(&quotas, "two", "NotParked", ("True", "NotParked"), &["two:user", "NOPERM"]).await?;
    ensure!(condition(&quotas.get("one").await?, "NotParked").is_none(), "the other has nothing left");
    acl(&["~two:*", "~{two:*"]).await?;
    eventually_within(Duration::from_secs(120), "it is tried again", async || {
        let two = quotas.get("two").await?;
        ensure!(condition(&two, "NotParked").is_none(), "{}", two.data["status"]);
        Ok(())
    })
    .await?;
    parked(&stage, "two").await
}

#[tokio::test]
async fn balances_are_recorded_anew_in_a_copy_of_redis_at_another_address() -> Result<()> {
    const NEW: &str = "chat_quota:aliyun-user3";
    let stage = Stage::set().await?;
    let copy = Redis::start(RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() }).await?;
    stage.start_controller()?;
    stage.apply_example("gateway.yaml").await?;
    stage.apply_example("quota.yaml").await?;
    stage.ready("chat").await?;
    let (mut from, mut to) = (stage.redis.connect().await?, copy.connect().await?);
    for key in keys(&mut from, "*").await? {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(&mut from).await?;
        redis::cmd("RESTORE").arg(&key).arg(0).arg(dump).query_async::<()>(&mut to).await?;
    }
    // After that, somebody more.
    stage.apply_consumers(&json!([{"name": "aliyun-user1", "quota": 1}, {"name": "aliyun-user3", "quota": 3}])).await?;
    stage.ready("chat").await?;
    let model = stage.model.addr().to_string();
    stage.api.apply(&bridge(&[("local-redis", &copy.addr()), ("llm-qwen", &model)])).await?;
    eventually("the copy has the balance", async || {
        ensure!(copy.get(NEW).await?.as_deref() == Some("3"));
        Ok(())
    })
    .await?;
    let owned = keys(&mut to, "aiquota:owned:*").await?;
    let mut recorded = redis::cmd("SISMEMBER");
    ensure!(recorded.arg(&owned).arg(NEW).query_async::<bool>(&mut to).await?, "{owned:?}");
    Ok(())
}

async fn keys(redis: &mut MultiplexedConnection, pattern: &str) -> Result<Vec<String>> {
    Ok(redis::cmd("KEYS").arg(pattern).query_async(redis).await?)
}
