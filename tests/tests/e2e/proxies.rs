//! The proxies of the test bed do what crash and lease tests rely on: they count exactly, cut exactly, and hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::future::poll_immediate;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use redis::aio::MultiplexedConnection;
use testbed::{
    ApiProxy, ApiServer, Blackhole, Mode, Moment, Operation, Operations, Redis, RedisOptions, RedisProxy, Replies,
    eventually,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than anything takes that is not held on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(proxy: &RedisProxy) -> Result<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(format!("redis://{}", proxy.addr()))?;
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

fn verbs(operations: &[Operation]) -> Vec<(&str, &str)> {
    operations.iter().map(|operation| (operation.verb.as_str(), operation.name.as_str())).collect()
}

#[tokio::test]
async fn the_redis_proxy_counts_what_may_write_and_delivers_every_reply() -> Result<()> {
    let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::new());
    let proxy = RedisProxy::start(redis.addr(), &operations).await?;
    let mut connection = connect(&proxy).await?;
    let script = "return redis.call('INCRBY', KEYS[1], ARGV[2])";
    let replies: (String, i64, i64, Vec<String>) = redis::pipe()
        .cmd("SET")
        .arg("a\r\n$")
        .arg("1\r\n")
        .cmd("INCR")
        .arg("n")
        .cmd("EVAL")
        .arg(script)
        .arg(1)
        .arg("n")
        .arg("add")
        .arg(4)
        .cmd("MGET")
        .arg("a\r\n$")
        .arg("n")
        .query_async(&mut connection)
        .await?;
    assert_eq!(replies, ("OK".into(), 1, 5, vec!["1\r\n".into(), "5".into()]));
    assert_eq!(verbs(&operations.take()), [("SET", "a\r\n$"), ("INCR", "n"), ("EVAL add", "n")]);
    let wrong = redis::cmd("LPUSH").arg("n").arg(1).query_async::<i64>(&mut connection).await;
    assert!(wrong.expect_err("n is a number").to_string().contains("WRONGTYPE"), "errors are answers as well");
    assert_eq!(verbs(&operations.seen()), [("LPUSH", "n")]);
    Ok(())
}

#[tokio::test]
async fn replies_that_do_not_arrive_whole_answer_what_was_done() -> Result<()> {
    let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::new());
    let proxy = RedisProxy::start(redis.addr(), &operations).await?;
    for (replies, arrives) in [(Replies::Cut, "$5\r\na"), (Replies::Lost, ""), (Replies::Stuck, "$5\r\na")] {
        redis.flush().await?;
        redis.set("text", "abcde").await?;
        proxy.replies(replies);
        let mut stream = TcpStream::connect(proxy.addr()).await?;
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$4\r\ntext\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").await?;
        if replies == Replies::Stuck {
            eventually("what was sent behind it is done", async || {
                ensure!(redis.get("n").await?.as_deref() == Some("1"));
                Ok(())
            })
            .await?;
            stream.shutdown().await?;
        }
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await?;
        ensure!(read == arrives.as_bytes(), "{replies:?}: {}", read.escape_ascii());
        ensure!(redis.get("n").await?.as_deref() == Some("1"), "{replies:?}");
    }
    Ok(())
}

#[tokio::test]
async fn late_replies_hold_nothing_up_and_keep_their_order() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let proxy = RedisProxy::start(redis.addr(), &Operations::new()).await?;
    let mut stream = TcpStream::connect(proxy.addr()).await?;
    proxy.replies(Replies::Late(Duration::from_millis(300)));
    stream.write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".repeat(2).as_slice()).await?;
    eventually("both are done", async || {
        ensure!(redis.get("n").await?.as_deref() == Some("2"));
        Ok(())
    })
    .await?;
    proxy.replies(Replies::Whole);
    stream.write_all(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").await?;
    let mut read = [0; 12];
    stream.read_exact(&mut read).await?;
    ensure!(read == *b":1\r\n:2\r\n:3\r\n", "{}", read.escape_ascii());
    Ok(())
}

#[tokio::test]
async fn a_black_hole_neither_takes_nor_refuses_a_connection() -> Result<()> {
    let hole = Blackhole::open().await?;
    let attempt = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(hole.addr())).await;
    ensure!(attempt.is_err(), "{attempt:?}");
    Ok(())
}

#[tokio::test]
async fn exactly_n_commands_of_a_pipeline_reach_redis_when_it_is_cut() -> Result<()> {
    let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::new());
    let proxy = RedisProxy::start(redis.addr(), &operations).await?;
    for (moment, done) in [(Moment::Unanswered, 4), (Moment::Unsent, 3)] {
        redis.flush().await?;
        operations.take();
        let mut connection = connect(&proxy).await?;
        let called = Arc::new(AtomicBool::new(false));
        let hook = called.clone();
        let reached = operations.cut(4, moment, move || hook.store(true, Ordering::SeqCst));
        let mut pipeline = redis::pipe();
        for _ in 0..10 {
            pipeline.cmd("INCR").arg("n");
        }
        ensure!(pipeline.query_async::<Vec<i64>>(&mut connection).await.is_err(), "{moment:?}: answered");
        assert_eq!(reached.operation().await?.verb, "INCR");
        assert!(called.load(Ordering::SeqCst));
        assert_eq!(redis.get("n").await?, Some(done.to_string()), "{moment:?}");
        assert_eq!(operations.seen().len(), done, "{moment:?}");
        let next: i64 = redis::cmd("INCR").arg("n").query_async(&mut connect(&proxy).await?).await?;
        assert_eq!(next, i64::try_from(done)? + 1, "{moment:?}: what comes after a cut passes");
    }
    Ok(())
}

#[tokio::test]
async fn a_hook_that_cuts_nothing_holds_one_answer_back() -> Result<()> {
    let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::new());
    let proxy = RedisProxy::start(redis.addr(), &operations).await?;
    let mut connection = connect(&proxy).await?;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let reached = operations.at(2, Moment::Unanswered, move || {
        let _ = held.recv();
    });
    let mut pipeline = redis::pipe();
    pipeline.cmd("INCR").arg("n").cmd("INCR").arg("n").cmd("INCR").arg("n");
    let mut replies = std::pin::pin!(pipeline.query_async::<Vec<i64>>(&mut connection));
    eventually("two are done", async || {
        ensure!(poll_immediate(replies.as_mut()).await.is_none(), "answered");
        ensure!(redis.get("n").await? == Some("2".into()));
        Ok(())
    })
    .await?;
    release.send(())?;
    assert_eq!(replies.await?, [1, 2, 3]);
    assert_eq!(reached.operation().await?.name, "n");
    Ok(())
}

#[tokio::test]
async fn the_redis_proxy_pauses_swallows_and_refuses() -> Result<()> {
    let (redis, operations) = (Redis::start(RedisOptions::default()).await?, Operations::new());
    let proxy = RedisProxy::start(redis.addr(), &operations).await?;
    let mut connection = connect(&proxy).await?;
    let incr = async |mut connection: MultiplexedConnection| {
        redis::cmd("INCR").arg("n").query_async::<i64>(&mut connection).await
    };

    connection.set_response_timeout(Duration::from_millis(100));
    proxy.set(Mode::Pause);
    assert!(incr(connection.clone()).await.expect_err("paused").is_timeout());
    assert_eq!(redis.get("n").await?, None, "a paused proxy forwards nothing");
    proxy.set(Mode::Pass);
    eventually("what was paused comes", async || {
        ensure!(redis.get("n").await? == Some("1".into()));
        Ok(())
    })
    .await?;

    proxy.set(Mode::Swallow);
    assert!(incr(connection.clone()).await.expect_err("thrown away").is_timeout());
    proxy.set(Mode::Pass);
    assert_eq!(incr(connect(&proxy).await?).await?, 2, "what was swallowed does not come later");

    proxy.set(Mode::Refuse);
    eventually("connections are refused", async || {
        ensure!(tokio::net::TcpStream::connect(proxy.addr()).await.is_err());
        Ok(())
    })
    .await?;
    ensure!(incr(connection).await.is_err(), "an open connection survived");
    proxy.set(Mode::Pass);
    let connection = eventually("connections are accepted", async || connect(&proxy).await).await?;
    assert_eq!(incr(connection).await?, 3);

    let mut idle = tokio::net::TcpStream::connect(proxy.addr()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut idle, b"*1\r\n$4\r\nPING\r\n").await?;
    let mut answer = [0; 7];
    tokio::io::AsyncReadExt::read_exact(&mut idle, &mut answer).await?;
    redis.kill();
    let end = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read(&mut idle, &mut answer)).await??;
    assert_eq!(end, 0, "a Redis that ends is seen by who asks nothing");
    Ok(())
}

async fn client(proxy: &ApiProxy) -> Result<Client> {
    let config = Kubeconfig::read_from(proxy.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    }
}

#[tokio::test]
async fn the_api_proxy_counts_cuts_and_holds_watches_back() -> Result<()> {
    let (api, operations) = (ApiServer::start().await?, Operations::new());
    api.namespace("a").await?;
    let proxy = ApiProxy::start(&api, &operations).await?;
    let through: Api<ConfigMap> = Api::namespaced(client(&proxy).await?, "a");
    let direct: Api<ConfigMap> = Api::namespaced(api.client(), "a");
    through.create(&PostParams::default(), &map("one")).await?;
    through.get("one").await?;
    through.delete("one", &DeleteParams::default()).await?;
    let refused = through.delete("one", &DeleteParams::default()).await.expect_err("gone");
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_not_found()), "{refused}");
    let seen = operations.take();
    assert_eq!(verbs(&seen), [("POST", "a"), ("DELETE", "a/one"), ("DELETE", "a/one")]);
    assert!(seen.iter().all(|operation| operation.kind == "configmaps"), "{seen:?}");

    for (moment, done) in [(Moment::Unanswered, true), (Moment::Unsent, false)] {
        let name = format!("{moment:?}").to_lowercase();
        let reached = operations.cut(2, moment, || ());
        through.create(&PostParams::default(), &map(&format!("{name}-1"))).await?;
        ensure!(through.create(&PostParams::default(), &map(&format!("{name}-2"))).await.is_err(), "{moment:?}");
        assert_eq!(reached.operation().await?.verb, "POST");
        assert_eq!(direct.get_opt(&format!("{name}-2")).await?.is_some(), done, "{moment:?}");
        through.create(&PostParams::default(), &map(&format!("{name}-3"))).await.context("after the cut")?;
    }

    let version = direct.list(&Default::default()).await?.metadata.resource_version.context("no version")?;
    let mut events = through.watch(&WatchParams::default(), &version).await?.boxed();
    let held = proxy.hold("configmaps");
    direct.create(&PostParams::default(), &map("late")).await?;
    // Another watch sees it, so that this one could.
    let mut others = direct.watch(&WatchParams::default(), &version).await?.boxed();
    others.next().await.context("no event")??;
    assert!(poll_immediate(events.next()).await.is_none(), "a held watch delivers");
    through.get("late").await.context("reads are not held")?;
    drop(held);
    let event = tokio::time::timeout(PATIENCE, events.next()).await?.context("the watch ended")??;
    assert!(matches!(&event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("late")), "{event:?}");

    proxy.set(Mode::Refuse);
    eventually("the API server is out of reach", async || {
        ensure!(through.get("late").await.is_err());
        Ok(())
    })
    .await?;
    proxy.set(Mode::Pass);
    eventually("the API server is back", async || Ok(through.get("late").await?)).await?;
    Ok(())
}
