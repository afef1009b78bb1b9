//! The components of the test bed do what the other tests rely on.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use testbed::{After, Answer, ApiServer, Controller, ControllerOptions, ModelServer, Redis, RedisOptions};

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
    assert_eq!(redis::cmd("PING").query_async::<String>(&mut redis.connect().await?).await?, "PONG");
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

#[tokio::test]
async fn the_model_server_reports_its_usage_in_the_shape_of_each_api() -> Result<()> {
    let model = ModelServer::start().await?;
    // path, whether it streams, where the last part with usage has its total or output
    let shapes = [
        ("/v1/chat/completions", "/usage/total_tokens", 37),
        ("/v1/completions", "/usage/total_tokens", 37),
        ("/v1/responses", "/usage/total_tokens", 37),
        ("/v1/messages", "/usage/output_tokens", 30),
        ("/v1beta/models/gemini-2.5-pro:generateContent", "/usageMetadata/totalTokenCount", 37),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", "/usageMetadata/totalTokenCount", 37),
    ];
    for (path, pointer, expected) in shapes {
        for stream in [false, true] {
            let call = testbed::post(format!("{}{path}", model.url())).header("x-test-usage", "7,30");
            let reply = call.json(&json!({"stream": stream})).send().await?;
            assert_eq!(reply.status, 200, "{path}");
            let text = reply.text();
            let last = match reply.header("content-type") {
                Some("text/event-stream") => {
                    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
                    let events = events.filter_map(|event| serde_json::from_str::<serde_json::Value>(event).ok());
                    let events = events.map(|event| event.get("response").cloned().unwrap_or(event));
                    events.rev().find(|event| event.pointer(pointer).is_some())
                }
                _ => Some(reply.json()?),
            };
            let found = last.as_ref().and_then(|last| last.pointer(pointer)?.as_i64());
            assert_eq!(found, Some(expected), "{path} stream={stream}: {text}");
        }
    }
    let url = format!("{}/v1/embeddings", model.url());
    let embeddings = testbed::post(url).json(&json!({"stream": true})).send().await?;
    assert_eq!(embeddings.json()?["usage"], json!({"prompt_tokens": 10, "total_tokens": 10}));
    let array = testbed::post(format!("{}/v1beta/models/g:streamGenerateContent", model.url())).send().await?;
    assert_eq!(array.json()?[4]["usageMetadata"]["totalTokenCount"], 30);
    assert_eq!(array.json()?[4]["modelVersion"], "g");
    Ok(())
}

#[tokio::test]
async fn the_model_server_cuts_fails_stalls_hangs_up_and_waits_as_it_is_told() -> Result<()> {
    let model = ModelServer::start().await?;
    let call = || testbed::post(format!("{}/v1/chat/completions", model.url()));

    let failed = call().header("x-test-status", "429").send().await?;
    assert_eq!((failed.status, failed.json()?["error"]["type"].as_str()), (429, Some("server_error")));
    assert_eq!(testbed::get(format!("{}/other", model.url())).send().await?.status, 404);
    let silent = call().header("x-test-usage", "none").send().await?;
    assert_eq!(silent.json()?.get("usage"), None);

    let mut cut = call().header("x-test-border", "7").open().await?;
    assert_eq!(cut.chunk().await?.map(|chunk| chunk.len()), Some(7), "borders arrive as they were set");

    let parts = ["data: a\n\n", "data: b\n\n", "data: c\n\n"];
    model.script("stall", Answer::ok("text/event-stream", parts).then(After::Stall));
    let mut stalled = call().header("x-answer", "stall").open().await?;
    assert_eq!(stalled.read_until("c\n\n").await?, parts.concat());
    assert_eq!(model.in_flight(), 1);
    drop(stalled);
    testbed::eventually("the server notices that its reader left", async || {
        anyhow::ensure!(model.in_flight() == 0);
        Ok(())
    })
    .await?;

    let mut broken = call().header("x-answer", "stall").header("x-test-chunks", "2");
    broken = broken.header("x-test-after", "hang-up");
    let mut broken = broken.open().await?;
    assert_eq!(broken.read_until("b\n\n").await?, parts[..2].concat(), "what came before the break arrives");
    assert!(broken.chunk().await.is_err(), "a break is no end");

    let gate = model.gate("all");
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(call().header("x-test-gate", "all").send())).collect();
    gate.reached_by(20).await;
    assert_eq!(model.received().last().map(|last| last.path.clone()).as_deref(), Some("/v1/chat/completions"));
    gate.open();
    for reply in waiting {
        assert_eq!(reply.await??.status, 200);
    }
    assert_eq!(gate.waiting(), 0);
    Ok(())
}

#[tokio::test]
async fn the_controller_starts_with_its_cluster_and_ends_when_it_is_asked_to() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    api.namespace("higress-system").await?;
    let controller = Controller::start(&api, ControllerOptions::default())?;
    testbed::eventually("the controller watches", async || {
        controller.ensure_running()?;
        anyhow::ensure!(controller.log().contains("watching"), "its log is {:?}", controller.log());
        Ok(())
    })
    .await?;
    assert!(controller.terminate().await?.success());
    assert!(controller.ensure_running().is_err(), "it has ended");

    let wrong = ControllerOptions { args: vec!["--no-such-flag".to_owned()], ..ControllerOptions::default() };
    let controller = Controller::start(&api, wrong)?;
    let why = testbed::eventually("its end is noticed", async || match controller.ensure_running() {
        Ok(()) => anyhow::bail!("it runs"),
        Err(why) => Ok(why),
    })
    .await?;
    assert!(why.to_string().contains("--no-such-flag"), "its own words are in the error: {why}");
    Ok(())
}
