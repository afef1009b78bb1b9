//! The components of the test bed do what the other tests rely on.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use testbed::{ApiServer, Redis, RedisOptions};

#[tokio::test]
async fn redis_refuses_who_is_not_its_user_and_forgets_when_killed() -> Result<()> {
    let user = Some(("quota".to_owned(), "p@ss:w/rd".to_owned()));
    let redis = Redis::start(RedisOptions { user, ..RedisOptions::default() }).await?;
    let ping = |url: String| async move {
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    assert_eq!(ping(redis.url()).await?, "PONG");
    let anonymous = ping(format!("redis://{}", redis.addr())).await.expect_err("the default user is off");
    assert!(anonymous.to_string().contains("NOAUTH"), "{anonymous}");
    assert!(ping(format!("redis://quota:wrong@{}", redis.addr())).await.is_err());

    redis.set("k", 7).await?;
    redis.kill();
    assert!(ping(redis.url()).await.is_err(), "nobody listens on a killed server's port");
    redis.restart().await?;
    assert_eq!(redis.get("k").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_paused_redis_is_connected_to_but_answers_only_when_resumed() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let mut connection = redis.connect().await?;
    connection.set_response_timeout(Duration::from_millis(200));
    redis.pause()?;
    assert!(redis::cmd("PING").query_async::<String>(&mut connection).await.expect_err("frozen").is_timeout());
    tokio::net::TcpStream::connect(redis.addr()).await?;
    redis.resume()?;
    assert_eq!(redis::cmd("PING").query_async::<String>(&mut connection).await?, "PONG");
    Ok(())
}

#[tokio::test]
async fn the_api_server_keeps_its_objects_over_a_restart_and_serves_higress_kinds() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    api.namespace("higress-system").await?;
    let mut plugin = json!({
        "apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
        "metadata": {"name": "p", "namespace": "higress-system"},
        "spec": {"url": "oci://example/p:1.0.0", "matchRules": [{"ingress": ["a"], "config": {"any": [1]}}]},
    });
    api.apply(&plugin).await?;
    plugin["spec"]["unknown"] = json!(1);
    let refused = api.apply(&plugin).await.expect_err("Higress knows no such field");
    assert!(format!("{refused:#}").contains(".spec.unknown"), "{refused:#}");

    api.stop()?;
    assert!(api.namespace("other").await.is_err(), "a stopped API server answers nobody");
    api.restart().await?;
    let plugins = api.objects("extensions.higress.io/v1alpha1", "WasmPlugin", "higress-system").await?;
    let stored = plugins.get("p").await?;
    assert_eq!(stored.data.pointer("/spec/matchRules/0/config/any/0"), Some(&json!(1)), "configuration is free");
    let listed = testbed::kubectl(&api, &["get", "wasmplugin,mcpbridge", "-A", "-o", "name"]).await?;
    assert_eq!(listed.trim(), "wasmplugin.extensions.higress.io/p");
    Ok(())
}
