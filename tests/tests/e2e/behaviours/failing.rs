//! A Redis that cannot serve as a store answers with what is wrong, and that is told apart.

use anyhow::{Context as _, Result};
use e2e::raw::Raw;
use enforcement::redis::{Balance, Check, CheckOutcome, Invocation, Left, ReplyError};
use testbed::{Redis, RedisOptions};

/// A check that writes: it creates the balance.
fn creating(balance: &Balance) -> Invocation {
    let default = Some(10);
    Check { balance, need: 1, hold: None, default, owner: "c/n/o", yields: false, period: None }.invocation()
}

async fn refused(redis: &Redis) -> Result<ReplyError> {
    let mut raw = Raw::connect(&redis.addr()).await?;
    let error = raw.call(&creating(&Balance::new("q:", b"ann")), CheckOutcome::of).await.expect_err("no store");
    error.downcast().context("not a reply of Redis")
}

async fn with(config: &[&str]) -> Result<Redis> {
    let config = config.iter().map(|line| (*line).to_owned()).collect();
    Redis::start(RedisOptions { config, ..RedisOptions::default() }).await
}

async fn clustered() -> Result<Redis> {
    let bus = format!("cluster-port {}", testbed::free_port()?);
    with(&["cluster-enabled yes", &bus]).await
}

#[tokio::test]
async fn what_a_redis_cannot_do_is_told_apart() -> Result<()> {
    let locked = Redis::start(RedisOptions { password: Some("secret".into()), ..RedisOptions::default() }).await?;
    let error = refused(&locked).await?;
    assert!(matches!(error, ReplyError::NoAuth(_)), "{error:?}");

    let replica = with(&["replicaof 127.0.0.1 1"]).await?;
    let error = refused(&replica).await?;
    assert!(matches!(error, ReplyError::ReadOnly(_)), "{error:?}");
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "replica-serve-stale-data", "no"])
        .query_async(&mut replica.connect().await?)
        .await?;
    let error = refused(&replica).await?;
    assert!(matches!(error, ReplyError::NotReady(_)), "{error:?}");

    let full = with(&["maxmemory 1"]).await?;
    let error = refused(&full).await?;
    assert!(matches!(error, ReplyError::OutOfMemory(_)), "{error:?}");

    let member = clustered().await?;
    let error = refused(&member).await?;
    assert!(matches!(error, ReplyError::Cluster(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_could_not_book_a_request_admits_none() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    redis.set("q:ann", 10).await?;
    let balance = Balance::new("q:", b"ann");
    let check =
        Check { balance: &balance, need: 1, hold: None, default: None, owner: "c/n/o", yields: false, period: None }
            .invocation();
    let mut raw = Raw::connect(&redis.addr()).await?;
    let admitted = CheckOutcome::Admitted { left: Left::Tokens(10), period: None };
    assert_eq!(raw.call(&check, CheckOutcome::of).await?, admitted);

    let set = async |words: &[&str]| -> Result<()> {
        Ok(redis::cmd("CONFIG").arg("SET").arg(words).query_async(&mut redis.connect().await?).await?)
    };
    set(&["maxmemory", "1"]).await?;
    let error = raw.call(&check, CheckOutcome::of).await.expect_err("it is full").downcast()?;
    assert!(matches!(error, ReplyError::OutOfMemory(_)), "{error:?}");
    set(&["maxmemory", "0"]).await?;
    assert_eq!(raw.call(&check, CheckOutcome::of).await?, admitted);

    let () = redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).query_async(&mut redis.connect().await?).await?;
    let error = raw.call(&check, CheckOutcome::of).await.expect_err("it is a replica").downcast()?;
    assert!(matches!(error, ReplyError::ReadOnly(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn all_keys_of_a_call_lie_in_one_slot() -> Result<()> {
    let redis = clustered().await?;
    let mut connection = redis.connect().await?;
    let () = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).query_async(&mut connection).await?;
    testbed::eventually("the cluster of one serves all slots", async || {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut redis.connect().await?).await?;
        anyhow::ensure!(info.contains("cluster_state:ok"), "{info}");
        Ok(())
    })
    .await?;
    let mut raw = Raw::connect(&redis.addr()).await?;
    for consumer in ["ann", "a:b", "chat_quota:", "~", "|[]()"] {
        let outcome = raw.call(&creating(&Balance::new("q:", consumer.as_bytes())), CheckOutcome::of).await?;
        assert_eq!(outcome, CheckOutcome::Admitted { left: Left::Tokens(10), period: None }, "{consumer}");
    }
    Ok(())
}
