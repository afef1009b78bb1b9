//! What `limits.lua` holds for requests in flight: in every counter or in none, until it is settled or expires.

use anyhow::{Result, ensure};
use e2e::raw::Raw;
use enforcement::redis::limits::{self, Asks, Counter, Limit, Name};
use enforcement::redis::{Hold, Invocation};
use enforcement::wire::limit::{Dialect, Rate};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use testbed::{Redis, RedisOptions};

const MINUTE: Rate = Rate { tokens: 100, window_seconds: 60 };
const HOUR: Rate = Rate { tokens: 1000, window_seconds: 3600 };

struct Bed {
    _redis: Redis,
    raw: Raw,
    look: MultiplexedConnection,
    limits: [Limit; 2],
}

fn limit(rate: Rate) -> Limit {
    let name = Name { dialect: Dialect::V2, rule: "r", model: None, observed: false, kept: None };
    Limit { counter: Counter::global(name, rate), asks: Asks::Rate(rate) }
}

const fn hold(id: &str) -> Hold<'_> {
    Hold { id: id.as_bytes(), expires_in: 60 }
}

fn key(what: &str, rate: Rate) -> String {
    format!("aiquota:{what}:higress-token-ratelimit:{{r}}:global_threshold:{}", rate.window_seconds)
}

impl Bed {
    async fn new() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let (mut raw, limits) = (Raw::connect(&redis.addr()).await?, [limit(MINUTE), limit(HOUR)]);
        raw.send(&limits::check(&limits).eval()).await?;
        Ok(Self { raw, look: redis.connect().await?, limits, _redis: redis })
    }

    async fn answer(&mut self, call: Invocation) -> Result<String> {
        Ok(String::from_utf8(self.raw.send(&call.evalsha()).await?)?)
    }

    /// Whether the request is admitted, by what is answered as counted.
    async fn reserve(&mut self, id: &str, need: i64) -> Result<[i64; 2]> {
        let answer = self.answer(limits::reserve(&self.limits, need, hold(id))).await?;
        let numbers: Vec<i64> = answer.lines().filter_map(|line| line.strip_prefix(':')?.parse().ok()).collect();
        ensure!(numbers.len() == 6, "{answer}");
        Ok([numbers[1], numbers[4]])
    }

    async fn settle(&mut self, id: &str, tokens: i64) -> Result<()> {
        let answer = self.answer(limits::settle(&self.limits, tokens, id.as_bytes(), None)).await?;
        ensure!(answer.starts_with('*'), "{answer}");
        Ok(())
    }

    /// The sum that is held of each counter agrees with the holds themselves.
    async fn held(&mut self) -> Result<[i64; 2]> {
        let mut all = [0; 2];
        for (at, rate) in [MINUTE, HOUR].into_iter().enumerate() {
            let amounts: Vec<(String, i64)> = self.look.hgetall(key("amounts", rate)).await?;
            let held: i64 = amounts.iter().filter(|(id, _)| !id.is_empty()).map(|(_, amount)| amount).sum();
            let sum = amounts.iter().find(|(id, _)| id.is_empty()).map_or(0, |(_, sum)| *sum);
            let live: usize = self.look.zcard(key("holds", rate)).await?;
            ensure!(sum == held && amounts.len().saturating_sub(1) == live, "{amounts:?}, {live} holds");
            all[at] = sum;
        }
        Ok(all)
    }
}

#[tokio::test]
async fn what_is_held_cannot_be_held_again_and_a_settled_hold_is_gone_everywhere() -> Result<()> {
    let mut bed = Bed::new().await?;
    ensure!(bed.reserve("1", 60).await? == [0, 0]);
    ensure!(bed.reserve("2", 41).await? == [60, 60], "41 of 100 are not left");
    ensure!(bed.held().await? == [60, 60], "who is refused by one counter holds nothing of the other");
    ensure!(bed.reserve("3", 40).await? == [60, 60]);
    ensure!(bed.held().await? == [100, 100]);
    bed.settle("1", 25).await?;
    ensure!(bed.held().await? == [40, 40]);
    ensure!(bed.reserve("4", 36).await? == [65, 65], "25 are counted and 40 held");
    ensure!(bed.reserve("5", 35).await? == [65, 65]);
    bed.settle("3", 0).await?;
    bed.settle("5", 0).await?;
    bed.settle("5", 0).await?;
    ensure!(bed.held().await? == [0, 0]);
    let keys: Vec<String> = bed.look.keys("aiquota:*").await?;
    ensure!(keys.is_empty(), "{keys:?}");
    let counted: Option<i64> = bed.look.get("higress-token-ratelimit:{r}:global_threshold:60").await?;
    ensure!(counted == Some(25), "a charge of nothing makes no counter and changes none: {counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_repeated_holds_once() -> Result<()> {
    let mut bed = Bed::new().await?;
    for need in [60, 60, 70] {
        ensure!(bed.reserve("1", need).await? == [0, 0], "its own hold does not stand in its way");
    }
    ensure!(bed.held().await? == [70, 70]);
    Ok(())
}

#[tokio::test]
async fn expired_holds_are_dropped_some_per_call_and_all_keys_expire_by_themselves() -> Result<()> {
    let mut bed = Bed::new().await?;
    for id in 0..80 {
        bed.reserve(&id.to_string(), 1).await?;
        for rate in [MINUTE, HOUR] {
            let _: () = bed.look.zadd(key("holds", rate), id.to_string(), 1).await?;
        }
        // Each met the one before it: let them be old at once.
        if id < 79 {
            for rate in [MINUTE, HOUR] {
                let _: () = bed.look.zadd(key("holds", rate), id.to_string(), 4_000_000_000_i64).await?;
            }
        }
    }
    for rate in [MINUTE, HOUR] {
        for id in 0..80 {
            let _: () = bed.look.zadd(key("holds", rate), id.to_string(), 1).await?;
        }
        for what in ["holds", "amounts"] {
            let left: i64 = bed.look.ttl(key(what, rate)).await?;
            ensure!((61..=120).contains(&left), "{what}: {left}");
        }
    }
    ensure!(bed.reserve("a", 1).await? == [16, 16], "64 of 80 were dropped");
    ensure!(bed.reserve("b", 1).await? == [1, 1]);
    ensure!(bed.held().await? == [2, 2]);
    Ok(())
}

#[tokio::test]
async fn a_renewed_hold_lasts_on_and_one_that_is_gone_is_not_made_again() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.reserve("1", 60).await?;
    for rate in [MINUTE, HOUR] {
        let _: () = bed.look.zadd(key("holds", rate), "1", 1).await?;
    }
    let renew = limits::renew(&bed.limits, hold("1"));
    bed.answer(renew.clone()).await?;
    ensure!(bed.reserve("2", 41).await? == [60, 60]);
    bed.settle("1", 0).await?;
    bed.answer(renew).await?;
    ensure!(bed.reserve("2", 100).await? == [0, 0]);
    ensure!(bed.held().await? == [100, 100]);
    Ok(())
}

#[tokio::test]
async fn holds_that_vanished_do_not_count_and_what_is_no_counter_holds_nothing() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.reserve("1", 60).await?;
    for rate in [MINUTE, HOUR] {
        let _: () = bed.look.del(key("holds", rate)).await?;
    }
    ensure!(bed.reserve("2", 100).await? == [0, 0]);
    bed.settle("2", 0).await?;
    let _: () = bed.look.set("higress-token-ratelimit:{r}:global_threshold:3600", "x").await?;
    let answer = bed.answer(limits::reserve(&bed.limits, 5, hold("3"))).await?;
    ensure!(answer.contains("\r\nx\r\n"), "{answer}");
    ensure!(bed.held().await? == [0, 0]);
    Ok(())
}
