//! What `limits.lua` reads, writes and answers, byte for byte, in the keys of both generations.

use anyhow::{Context as _, Result, ensure};
use e2e::raw::Raw;
use enforcement::redis::Invocation;
use enforcement::redis::limits::{self, Asks, Counter, LIMITS, Limit, Name};
use enforcement::redis::warned::Warn;
use enforcement::wire::limit::{Dialect, Rate};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use testbed::{Redis, RedisOptions};

const MINUTE: Rate = Rate { tokens: 100, window_seconds: 60 };
const HOUR: Rate = Rate { tokens: 1000, window_seconds: 3600 };

/// Each test has its own Redis, asked as a module asks and looked at with another client.
struct Bed {
    _redis: Redis,
    raw: Raw,
    look: MultiplexedConnection,
}

impl Bed {
    async fn new() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let mut raw = Raw::connect(&redis.addr()).await?;
        // Redis is told the library by a call that changes nothing.
        raw.send(&limits::check(&[global(Dialect::V1)]).eval()).await?;
        Ok(Self { raw, look: redis.connect().await?, _redis: redis })
    }

    async fn answer(&mut self, call: Invocation) -> Result<String> {
        Ok(String::from_utf8(self.raw.send(&call.evalsha()).await?)?)
    }

    async fn check(&mut self, limits: &[Limit]) -> Result<String> {
        self.answer(limits::check(limits)).await
    }

    async fn charge(&mut self, limits: &[Limit], tokens: i64) -> Result<String> {
        self.answer(limits::charge(limits, tokens, None)).await
    }

    async fn value(&mut self, key: &str) -> Result<Option<String>> {
        Ok(self.look.get(key).await?)
    }

    /// Seconds; -1 without expiry, -2 without key.
    async fn ttl(&mut self, key: &str) -> Result<i64> {
        Ok(self.look.ttl(key).await?)
    }

    async fn set(&mut self, key: &str, value: &str) -> Result<()> {
        Ok(self.look.set(key, value).await?)
    }
}

const fn name(dialect: Dialect) -> Name<'static> {
    Name { dialect, rule: "default_rule", model: None, kept: Some(512), observed: false }
}

fn global(dialect: Dialect) -> Limit {
    Limit { counter: Counter::global(name(dialect), MINUTE), asks: Asks::Rate(MINUTE) }
}

fn item(rate: Rate) -> Limit {
    item_of(Dialect::V2, rate)
}

fn item_of(dialect: Dialect, rate: Rate) -> Limit {
    let counter = Counter::item(name(dialect), "limit_by_per_header", rate, "x-api-key", b"a{b}:c");
    Limit { counter, asks: Asks::Rate(rate) }
}

const GLOBAL: &str = "higress-token-ratelimit:{default_rule}:global_threshold:60";
const ITEM: &str = "higress-token-ratelimit:{default_rule}:limit_by_per_header:3600:x-api-key:a{b}:c";

const fn at(percent: u8) -> Option<Warn<'static>> {
    Some(Warn { percent, noted: None })
}

/// Redis rounds what is left to seconds.
fn near(left: i64, whole: i64) -> bool {
    (whole - 2..=whole).contains(&left)
}

#[tokio::test]
async fn a_missing_counter_is_zero_with_its_whole_window_and_asking_makes_none() -> Result<()> {
    let mut bed = Bed::new().await?;
    let reply = bed.check(&[global(Dialect::V2), item(HOUR)]).await?;
    assert_eq!(reply, "*2\r\n*3\r\n:100\r\n:0\r\n:60\r\n*3\r\n:1000\r\n:0\r\n:3600\r\n");
    assert_eq!(bed.check(&[global(Dialect::V1)]).await?, "*1\r\n*3\r\n:100\r\n:0\r\n:60\r\n");
    let keys: i64 = redis::cmd("DBSIZE").query_async(&mut bed.look).await?;
    assert_eq!(keys, 0);
    Ok(())
}

#[tokio::test]
async fn a_counter_is_the_same_in_both_generations_but_for_its_key() -> Result<()> {
    const GLOBAL_V1: &str = "higress-token-ratelimit:default_rule:global_threshold:60";
    const ITEM_V1: &str = "higress-token-ratelimit:default_rule:limit_by_per_header:3600:x-api-key:a{b}:c";
    for (limit, key, rate) in [
        (global(Dialect::V1), GLOBAL_V1, MINUTE),
        (item_of(Dialect::V1, HOUR), ITEM_V1, HOUR),
        (global(Dialect::V2), GLOBAL, MINUTE),
        (item_of(Dialect::V2, HOUR), ITEM, HOUR),
    ] {
        let mut bed = Bed::new().await?;
        let (limit, window) = ([limit], i64::from(rate.window_seconds));
        let state = |counted: i64, left: i64| format!("*1\r\n*3\r\n:{}\r\n:{counted}\r\n:{left}\r\n", rate.tokens);
        assert_eq!(bed.check(&limit).await?, state(0, window));
        assert_eq!(bed.charge(&limit, 7).await?, state(7, window));
        let keys: Vec<String> = bed.look.keys("*").await?;
        assert_eq!(keys, [key]);
        assert_eq!(bed.value(key).await?.as_deref(), Some("7"));
        ensure!((window - 30..=window).contains(&bed.ttl(key).await?), "{key}: {}", bed.ttl(key).await?);

        // The window that is open stays open until its end, which the reply tells.
        let _: () = bed.look.expire(key, 20).await?;
        let told: Vec<String> = (0..=20).map(|left| state(7, left)).collect();
        let reply = bed.check(&limit).await?;
        ensure!(told.contains(&reply), "{key}: {reply:?}");
        bed.charge(&limit, 5).await?;
        assert_eq!(bed.value(key).await?.as_deref(), Some("12"));
        ensure!((0..=20).contains(&bed.ttl(key).await?), "{key}: {}", bed.ttl(key).await?);

        // One that somebody took away is told as whole, and begins with the next charge.
        let _: () = bed.look.persist(key).await?;
        assert_eq!(bed.check(&limit).await?, state(12, window));
        assert_eq!(bed.ttl(key).await?, -1);
        assert_eq!(bed.charge(&limit, rate.tokens).await?, state(12 + rate.tokens, window));
        ensure!((window - 30..=window).contains(&bed.ttl(key).await?), "{key}: {}", bed.ttl(key).await?);

        // Above the limit nothing is added.
        bed.charge(&limit, 1).await?;
        assert_eq!(bed.value(key).await?, Some((12 + rate.tokens).to_string()));
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_changes_nothing_and_fails_where_a_charge_would() -> Result<()> {
    let mut bed = Bed::new().await?;
    let limits = [global(Dialect::V2), item(HOUR)];
    let answer = "*2\r\n*3\r\n:100\r\n:0\r\n:60\r\n*3\r\n:1000\r\n:0\r\n:3600\r\n";
    assert_eq!(bed.answer(limits::probe(&limits)).await?, answer);
    let keys: i64 = redis::cmd("DBSIZE").query_async(&mut bed.look).await?;
    assert_eq!(keys, 0);
    bed.set(GLOBAL, "40").await?;
    ensure!(bed.answer(limits::probe(&limits)).await?.starts_with("*2\r\n*3\r\n:100\r\n:40\r\n:60\r\n"));
    assert_eq!((bed.value(GLOBAL).await?.as_deref(), bed.ttl(GLOBAL).await?), (Some("40"), -1));
    // What is no counter is answered as it is; another key is written to for the proof.
    let _: () = redis::cmd("DEL").arg(GLOBAL).query_async(&mut bed.look).await?;
    let _: () = redis::cmd("LPUSH").arg(GLOBAL).arg("x").query_async(&mut bed.look).await?;
    ensure!(bed.answer(limits::probe(&limits)).await?.starts_with("*2\r\n*3\r\n:100\r\n$10\r\nno counter"));

    for (set, unset, code) in [
        (&["CONFIG", "SET", "maxmemory", "1"][..], &["CONFIG", "SET", "maxmemory", "0"][..], "-OOM"),
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "-READONLY"),
    ] {
        let _: () = redis::cmd(set[0]).arg(&set[1..]).query_async(&mut bed.look).await?;
        let probed = bed.answer(limits::probe(&limits)).await?;
        let checked = bed.check(&limits).await?;
        let _: () = redis::cmd(unset[0]).arg(&unset[1..]).query_async(&mut bed.look).await?;
        ensure!(probed.starts_with(code), "{probed:?}");
        ensure!(checked.starts_with("*2\r\n*3"), "one that is only asked need not be written to: {checked:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_charge_that_comes_to_a_share_of_a_limit_says_so_once_per_window() -> Result<()> {
    let mut bed = Bed::new().await?;
    let limits = [global(Dialect::V2), item(HOUR)];
    let state = |tokens, counted, left, warned| match warned {
        true => format!("*4\r\n:{tokens}\r\n:{counted}\r\n:{left}\r\n:1\r\n"),
        false => format!("*3\r\n:{tokens}\r\n:{counted}\r\n:{left}\r\n"),
    };
    // 80 of 100 in the minute, 800 of 1,000 in the hour. At 120 the minute stops, though 120 less these is below 80.
    for (tokens, minute, hour) in [
        (79, (79, false), (79, false)),
        (1, (80, true), (80, false)),
        (20, (100, false), (100, false)),
        (20, (120, false), (120, false)),
        (41, (120, false), (161, false)),
        (700, (120, false), (861, true)),
    ] {
        for key in [GLOBAL, ITEM] {
            let _: () = redis::cmd("PERSIST").arg(key).query_async(&mut bed.look).await?;
        }
        let reply = bed.answer(limits::charge(&limits, tokens, at(80))).await?;
        let expected = [state(100, minute.0, 60, minute.1), state(1000, hour.0, 3600, hour.1)].concat();
        // A counter that stopped gets no window.
        assert_eq!(reply, format!("*2\r\n{expected}"), "{tokens}");
    }
    let _: () = redis::cmd("DEL").arg(GLOBAL).query_async(&mut bed.look).await?;
    let whole = bed.answer(limits::charge(&limits[..1], 100, at(100))).await?;
    assert_eq!(whole, format!("*1\r\n{}", state(100, 100, 60, true)), "the next window, all of it at once");
    let _: () = redis::cmd("DEL").arg(GLOBAL).query_async(&mut bed.look).await?;
    let settled = |tokens| limits::settle(&limits[..1], tokens, b"1", at(80));
    assert_eq!(bed.answer(settled(0)).await?, format!("*1\r\n{}", state(100, 0, 60, false)));
    assert_eq!(bed.answer(settled(90)).await?, format!("*1\r\n{}", state(100, 90, 60, true)));
    Ok(())
}

#[tokio::test]
async fn a_charge_opens_the_windows_and_counts_in_all_of_them() -> Result<()> {
    let mut bed = Bed::new().await?;
    let limits = [global(Dialect::V2), item(HOUR)];
    let reply = bed.charge(&limits, 7).await?;
    assert_eq!(reply, "*2\r\n*3\r\n:100\r\n:7\r\n:60\r\n*3\r\n:1000\r\n:7\r\n:3600\r\n");
    assert_eq!((bed.value(GLOBAL).await?.as_deref(), bed.value(ITEM).await?.as_deref()), (Some("7"), Some("7")));
    ensure!(near(bed.ttl(GLOBAL).await?, 60) && near(bed.ttl(ITEM).await?, 3600));

    // A second charge leaves the window as it is.
    let _: () = redis::cmd("EXPIRE").arg(GLOBAL).arg(30).query_async(&mut bed.look).await?;
    bed.charge(&limits, 5).await?;
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("12"));
    ensure!(near(bed.ttl(GLOBAL).await?, 30), "{}", bed.ttl(GLOBAL).await?);
    let reply = bed.check(&limits[..1]).await?;
    ensure!(reply.starts_with("*1\r\n*3\r\n:100\r\n:12\r\n:"), "{reply:?}");

    bed.charge(&[global(Dialect::V1)], 3).await?;
    let first = "higress-token-ratelimit:default_rule:global_threshold:60";
    assert_eq!(bed.value(first).await?.as_deref(), Some("3"), "the first generation has a key of its own");
    Ok(())
}

#[tokio::test]
async fn a_counter_without_expiry_reports_its_window_and_gets_one_with_the_next_charge() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.set(GLOBAL, "40").await?;
    assert_eq!(bed.check(&[global(Dialect::V2)]).await?, "*1\r\n*3\r\n:100\r\n:40\r\n:60\r\n");
    assert_eq!(bed.ttl(GLOBAL).await?, -1, "asking changes nothing");
    assert_eq!(bed.charge(&[global(Dialect::V2)], 2).await?, "*1\r\n*3\r\n:100\r\n:42\r\n:60\r\n");
    ensure!(near(bed.ttl(GLOBAL).await?, 60));
    Ok(())
}

#[tokio::test]
async fn a_counter_takes_charges_up_to_the_limit_and_none_above_it() -> Result<()> {
    let mut bed = Bed::new().await?;
    let limit = [global(Dialect::V2)];
    bed.charge(&limit, 100).await?;
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("100"));
    bed.charge(&limit, 30).await?;
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("130"), "exactly at the limit is not above it");
    let reply = bed.charge(&limit, 30).await?;
    ensure!(reply.starts_with("*1\r\n*3\r\n:100\r\n:130\r\n:"), "{reply:?}");
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("130"));
    // One counter that is full keeps no other from counting.
    bed.charge(&[global(Dialect::V2), item(HOUR)], 9).await?;
    assert_eq!((bed.value(GLOBAL).await?.as_deref(), bed.value(ITEM).await?.as_deref()), (Some("130"), Some("9")));
    Ok(())
}

#[tokio::test]
async fn what_is_no_counter_is_answered_as_it_is_never_written_and_keeps_no_other_from_counting() -> Result<()> {
    let mut bed = Bed::new().await?;
    let limits = [global(Dialect::V2), item(HOUR)];
    for value in ["abc", "", "007", "1.5", "-0", "1e3", " 1", "-99999999999999999999"] {
        bed.set(GLOBAL, value).await?;
        let expected = format!("*2\r\n*3\r\n:100\r\n${}\r\n{value}\r\n:60\r\n", value.len());
        let reply = bed.check(&limits).await?;
        ensure!(reply.starts_with(&expected), "{value:?}: {reply:?}");
        bed.charge(&limits, 1).await?;
        assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some(value));
    }
    assert_eq!(bed.value(ITEM).await?.as_deref(), Some("8"));
    let _: () = redis::cmd("DEL").arg(GLOBAL).query_async(&mut bed.look).await?;
    let _: () = redis::cmd("HSET").arg(GLOBAL).arg("a").arg("b").query_async(&mut bed.look).await?;
    let reply = bed.charge(&limits, 1).await?;
    ensure!(reply.starts_with("*2\r\n*3\r\n:100\r\n$10\r\nno counter\r\n:60\r\n"), "{reply:?}");
    for (value, counted) in [("9007199254740993", "9007199254740992"), ("99999999999999999999", "9007199254740992")] {
        let _: () = redis::cmd("DEL").arg(GLOBAL).query_async(&mut bed.look).await?;
        bed.set(GLOBAL, value).await?;
        let reply = bed.charge(&limits[..1], 1).await?;
        assert_eq!(reply, format!("*1\r\n*3\r\n:100\r\n:{counted}\r\n:60\r\n"), "over any limit");
    }
    bed.set(GLOBAL, "-5").await?;
    assert_eq!(bed.charge(&limits[..1], 6).await?, "*1\r\n*3\r\n:100\r\n:1\r\n:60\r\n");
    Ok(())
}

#[tokio::test]
async fn the_largest_amounts_are_counted_exactly() -> Result<()> {
    let mut bed = Bed::new().await?;
    let most = Rate { tokens: 9_007_199_254_740_991, window_seconds: 60 };
    let limit = [Limit { counter: Counter::global(name(Dialect::V2), most), asks: Asks::Rate(most) }];
    bed.charge(&limit, i64::MAX).await?;
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("9007199254740991"));
    bed.charge(&limit, i64::MAX).await?;
    assert_eq!(bed.value(GLOBAL).await?.as_deref(), Some("18014398509481982"));
    Ok(())
}

#[tokio::test]
async fn the_library_has_the_name_that_redis_gives_it_and_knows_no_other_operation() -> Result<()> {
    let mut bed = Bed::new().await?;
    let name: String = redis::cmd("SCRIPT").arg("LOAD").arg(LIMITS.source).query_async(&mut bed.look).await?;
    assert_eq!(name, LIMITS.sha1);
    let refused = redis::cmd("EVALSHA").arg(LIMITS.sha1).arg(0).arg("other").query_async::<()>(&mut bed.look).await;
    let refused = refused.err().context("it was answered")?.to_string();
    ensure!(refused.contains("unknown operation"), "{refused}");
    Ok(())
}
