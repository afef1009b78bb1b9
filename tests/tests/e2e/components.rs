//! The components of the test bed do what the other tests rely on.

use std::time::Duration;

use anyhow::Result;
use testbed::{Redis, RedisOptions};

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
