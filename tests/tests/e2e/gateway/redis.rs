//! What a module gets of Redis: raw replies, failures told apart, options shared by all plugins of a cluster.

use anyhow::Result;
use serde_json::json;
use testbed::{GatewayOptions, Redis, RedisOptions, get};

use super::bed::{Bed, bridge, plugin, route};
use super::guest;

/// Initialises Redis with database 3 and a timeout of 300 ms; each request is answered with what a command answers:
/// 200 and the reply, 504 for a network failure, 500 and the status for an immediate error.
pub(crate) fn asks(initialises: bool) -> String {
    let init = "(drop (call $redis_init (i32.const 96) (i32.const 30) (i32.const 300) (i32.const 5)
        (i32.const 308) (i32.const 6) (i32.const 300)))";
    format!(
        r#"(data (i32.const 300) "quota")
        (data (i32.const 308) "secret")
        (func (export "proxy_on_configure") (param i32 i32) (result i32) {} (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $status i32)
            (local.set $status
                (call $redis_call (i32.const 16) (i32.const 25) (i32.const 160) (i32.const 13) (i32.const 4)))
            (if (local.get $status) (then (call $answer (i32.add (i32.const 500) (local.get $status)))))
            (i32.const 4))
        (func (export "proxy_on_redis_call_response") (param $root i32) (param $token i32) (param $status i32)
            (param $size i32)
            (drop (call $act_for (global.get $seen)))
            (if (local.get $status) (then (call $answer (i32.const 504))) (else
                (drop (call $buffer (i32.const 9) (i32.const 0) (local.get $size) (i32.const 8) (i32.const 12)))
                (drop (call $reply (i32.const 200) (i32.const 448) (i32.const 11)
                    (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 0) (i32.const 0) (i32.const -1))))))"#,
        if initialises { init } else { "" }
    )
}

async fn serve_redis(bed: &Bed, name: &str, callbacks: &str, address: &str) -> Result<()> {
    let url = guest::write(bed.folder.path(), name, "0_2_100", callbacks)?;
    let llm = bed.model.addr().to_string();
    let objects =
        vec![bridge(&[("llm", &llm), ("redis", address)]), route("all", json!({})), plugin(name, &url, json!({}))];
    bed.gateway.set_objects(objects).await
}

#[tokio::test]
async fn a_redis_call_is_answered_raw_and_its_failures_are_told_apart() -> Result<()> {
    let user = Some(("quota".to_owned(), "secret".to_owned()));
    let redis = Redis::start(RedisOptions { user, ..RedisOptions::default() }).await?;
    let bed = Bed::new().await?;
    serve_redis(&bed, "asks", &asks(true), &redis.addr()).await?;
    let reply = get(bed.url()).send().await?;
    assert!(reply.status == 200 && reply.text().starts_with('$') && reply.text().ends_with("\r\n"), "{reply:?}");
    assert!(reply.text().contains(" db=3 ") && reply.text().contains(" user=quota "), "{}", reply.text());

    redis.pause()?;
    assert_eq!(get(bed.url()).send().await?.status, 504, "the timer of the call");
    redis.resume()?;
    redis.kill();
    assert_eq!(get(bed.url()).send().await?.status, 504, "the connection is gone, or refused");
    redis.restart().await?;
    assert_eq!(get(bed.url()).send().await?.status, 200, "a new connection is made, with the options of before");

    serve_redis(&bed, "hasty", &asks(false), &redis.addr()).await?;
    assert_eq!(get(bed.url()).send().await?.status, 200, "another plugin shares the options of the cluster");
    serve_redis(&bed, "hasty", &asks(false), "127.0.0.1:1").await?;
    assert_eq!(get(bed.url()).send().await?.status, 510, "a rebuilt cluster has no options");
    bed.serve_guest("0_2_100", &asks(true)).await?;
    assert_eq!(get(bed.url()).send().await?.status, 502, "no such cluster");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_no_route_uses_does_not_exist_where_only_route_clusters_do() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let bed = Bed::with(GatewayOptions { only_route_clusters: true, ..GatewayOptions::default() }).await?;
    serve_redis(&bed, "asks", &asks(true), &redis.addr()).await?;
    assert_eq!(get(bed.url()).send().await?.status, 502);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_shows_in_the_reply_to_the_command() -> Result<()> {
    let user = Some(("quota".to_owned(), "other".to_owned()));
    let redis = Redis::start(RedisOptions { user, ..RedisOptions::default() }).await?;
    let bed = Bed::new().await?;
    serve_redis(&bed, "asks", &asks(true), &redis.addr()).await?;
    assert_eq!(get(bed.url()).send().await?.text(), "-NOAUTH Authentication required.\r\n");
    Ok(())
}
