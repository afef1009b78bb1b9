//! Limits that single values have instead of their rule's: what `overrides.lua` writes, and what `limits.lua` makes of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use e2e::raw::Raw;
use enforcement::redis::limits::{self, Asks, Counter, Limit, Name};
use enforcement::redis::overrides::{self, DropOverrides, Overrides, SetOverrides};
use enforcement::redis::{Fence, Hold, Invocation};
use enforcement::wire::limit::{By, Dialect, Rate};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use testbed::{Redis, RedisOptions};

const RULE: &str = "team.chat";
const NAME: Name<'static> = Name { dialect: Dialect::V2, rule: RULE, model: None, kept: Some(512), observed: false };
const OWNER: &str = "cluster/higress-system/chat";
const OWN: Rate = Rate { tokens: 100, window_seconds: 60 };
const SET: &str = "*2\r\n$3\r\nset\r\n:1\r\n";
const UNCHANGED: &str = "*2\r\n$3\r\nset\r\n:0\r\n";
const NONE: &str = "*3\r\n:9007199254740991\r\n:0\r\n:0\r\n";

struct Bed {
    _redis: Redis,
    raw: Raw,
    look: MultiplexedConnection,
}

impl Bed {
    async fn new() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        Ok(Self { raw: Raw::connect(&redis.addr()).await?, look: redis.connect().await?, _redis: redis })
    }

    async fn answer(&mut self, call: &Invocation) -> Result<String> {
        Ok(String::from_utf8(self.raw.send(&call.eval()).await?)?)
    }

    async fn set(&mut self, fence: Fence<'_>, entries: &[(String, String)]) -> Result<String> {
        self.set_by(OWNER, fence, entries).await
    }

    async fn set_by(&mut self, owner: &str, fence: Fence<'_>, entries: &[(String, String)]) -> Result<String> {
        let digest = format!("{entries:?}");
        let set = SetOverrides { key: &key(), owner, fence, digest: &digest, entries };
        self.answer(&set.invocation()).await
    }

    /// What is held of each counter, which agrees with the holds themselves.
    async fn held(&mut self) -> Result<Vec<(String, i64)>> {
        let mut all = Vec::new();
        let mut keys: Vec<String> = self.look.keys("aiquota:amounts:*").await?;
        keys.sort();
        let holds: Vec<String> = self.look.keys("aiquota:holds:*").await?;
        ensure!(holds.len() == keys.len(), "{holds:?}, {keys:?}");
        for key in keys {
            let counter = key.trim_start_matches("aiquota:amounts:");
            let amounts: BTreeMap<String, i64> = self.look.hgetall(&key).await?;
            let holds: usize = self.look.zcard(format!("aiquota:holds:{counter}")).await?;
            let sum = amounts.get("").copied().unwrap_or_default();
            ensure!(amounts.values().sum::<i64>() == 2 * sum && amounts.len() == holds + 1, "{key}: {amounts:?}");
            all.push((counter.to_owned(), sum));
        }
        Ok(all)
    }

    /// What is counted, by counter.
    async fn counted(&mut self) -> Result<Vec<(String, i64)>> {
        let mut keys: Vec<String> = self.look.keys("higress-*").await?;
        keys.sort();
        let mut all = Vec::new();
        for key in keys {
            let counted = self.look.get(&key).await?;
            all.push((key, counted));
        }
        Ok(all)
    }

    async fn fields(&mut self) -> Result<Vec<String>> {
        let mut fields: Vec<String> = self.look.hkeys(key().as_bytes()).await?;
        fields.sort();
        Ok(fields)
    }
}

fn entry(value: &str, limit: &str) -> (String, String) {
    (overrides::field(RULE, value.as_bytes()), limit.to_owned())
}

fn key() -> Overrides {
    Overrides::new(RULE, &By::Header("x-api-key".into()))
}

fn fence(term: i64, generation: i64) -> Fence<'static> {
    Fence { term, uid: "u-1", generation }
}

/// What a request with this value asks for: it has a limit of its own perhaps, and one by the rule.
fn of(value: &str) -> Vec<Limit> {
    let value = value.as_bytes();
    let own = Counter::item(NAME, "limit_by_per_header", OWN, "x-api-key", value);
    vec![
        Limit { counter: Counter::overrides(&key()), asks: Asks::Overrides(overrides::field(RULE, value)) },
        Limit { counter: Counter::overridden(NAME, ("header", "x-api-key"), value), asks: Asks::Override },
        Limit { counter: own, asks: Asks::Unless(OWN) },
    ]
}

fn counter(value: &str) -> String {
    format!("higress-token-ratelimit:{{{RULE}}}:override:header:x-api-key:{value}")
}

/// The counter of a value that has no limit of its own.
fn own(value: &str) -> String {
    format!("higress-token-ratelimit:{{{RULE}}}:limit_by_per_header:60:x-api-key:{value}")
}

#[tokio::test]
async fn a_value_that_has_a_limit_of_its_own_is_held_to_that_and_others_to_the_rules() -> Result<()> {
    let mut bed = Bed::new().await?;
    let without = format!("*3\r\n{NONE}{NONE}*3\r\n:100\r\n:0\r\n:60\r\n");
    assert_eq!(bed.answer(&limits::check(&of("sk-1"))).await?, without, "there are none");
    let entries = [entry("sk-1", "7/3600")];
    bed.set(fence(1, 1), &entries).await?;
    let with = |counted: i64| format!("*3\r\n{NONE}*3\r\n:7\r\n:{counted}\r\n:3600\r\n{NONE}");
    assert_eq!(bed.answer(&limits::check(&of("sk-1"))).await?, with(0));
    assert_eq!(bed.answer(&limits::charge(&of("sk-1"), 9, None)).await?, with(9), "read again by the charge");
    assert_eq!(bed.answer(&limits::check(&of("sk-1"))).await?, with(9));
    assert_eq!(bed.answer(&limits::charge(&of("sk-2"), 9, None)).await?, without.replace(":0\r\n:60", ":9\r\n:60"));
    let counted = [(own("sk-2"), 9), (counter("sk-1"), 9)];
    assert_eq!(bed.counted().await?, counted, "each counts where it is held");
    Ok(())
}

fn reserve(value: &str, need: i64, id: &str) -> Invocation {
    limits::reserve(&of(value), need, Hold { id: id.as_bytes(), expires_in: 60 })
}

#[tokio::test]
async fn who_has_a_limit_of_its_own_can_hold_what_that_leaves_and_nobody_more() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.set(fence(1, 1), &[entry("sk-1", "7/3600")]).await?;
    let with = |counted: i64| format!("*3\r\n{NONE}*3\r\n:7\r\n:{counted}\r\n:3600\r\n{NONE}");
    let without = |counted: i64| format!("*3\r\n{NONE}{NONE}*3\r\n:100\r\n:{counted}\r\n:60\r\n");
    assert_eq!(bed.answer(&reserve("sk-1", 8, "1")).await?, with(0));
    assert_eq!(bed.held().await?, [], "8 of 7 are not left, though the rule has 100");
    assert_eq!(bed.answer(&reserve("sk-1", 4, "2")).await?, with(0));
    assert_eq!(bed.answer(&reserve("sk-1", 4, "3")).await?, with(4));
    assert_eq!(bed.answer(&reserve("sk-1", 3, "4")).await?, with(4));
    assert_eq!(bed.answer(&reserve("sk-2", 100, "5")).await?, without(0));
    assert_eq!(bed.answer(&reserve("sk-2", 1, "6")).await?, without(100));
    let held = [(own("sk-2"), 100), (counter("sk-1"), 7)];
    assert_eq!(bed.held().await?, held, "each holds where it is counted, and who was refused nothing");
    bed.answer(&limits::settle(&of("sk-1"), 5, b"2", None)).await?;
    bed.answer(&limits::settle(&of("sk-2"), 5, b"5", None)).await?;
    assert_eq!(bed.held().await?, [(counter("sk-1"), 3)]);
    assert_eq!(bed.counted().await?, [(own("sk-2"), 5), (counter("sk-1"), 5)]);
    assert_eq!(bed.answer(&reserve("sk-1", 1, "7")).await?, with(8), "5 are counted and 3 held");
    Ok(())
}

#[tokio::test]
async fn a_limit_of_its_own_that_comes_changes_or_goes_meanwhile_leaves_no_hold_and_one_charge() -> Result<()> {
    let (seven, nine) = (entry("sk-1", "7/3600"), entry("sk-1", "9/60"));
    let changes = [
        ("edited", vec![seven.clone()], vec![nine], counter("sk-1")),
        ("removed", vec![seven.clone()], vec![], own("sk-1")),
        ("added", vec![], vec![seven], counter("sk-1")),
    ];
    for (change, before, after, charged) in changes {
        let mut bed = Bed::new().await?;
        bed.set(fence(1, 1), &before).await?;
        bed.answer(&reserve("sk-1", 6, "1")).await?;
        let held = if before.is_empty() { own("sk-1") } else { counter("sk-1") };
        assert_eq!(bed.held().await?, [(held, 6)], "{change}");
        bed.set(fence(1, 2), &after).await?;
        bed.answer(&limits::settle(&of("sk-1"), 5, b"1", None)).await?;
        assert_eq!(bed.held().await?, [], "{change}");
        assert_eq!(bed.counted().await?, [(charged, 5)], "{change}: where the next request is held to it");
    }
    Ok(())
}

#[tokio::test]
async fn an_edit_is_in_force_with_the_next_request_and_a_window_never_lasts_longer_than_it_says() -> Result<()> {
    let mut bed = Bed::new().await?;
    let day = [entry("sk-1", "7/86400")];
    bed.set(fence(1, 1), &day).await?;
    bed.answer(&limits::charge(&of("sk-1"), 9, None)).await?;
    let minute = [entry("sk-1", "8/60")];
    bed.set(fence(1, 1), &minute).await?;
    let reply = bed.answer(&limits::check(&of("sk-1"))).await?;
    assert_eq!(reply, format!("*3\r\n{NONE}*3\r\n:8\r\n:9\r\n:60\r\n{NONE}"));
    let left: i64 = bed.look.ttl(counter("sk-1")).await?;
    ensure!((1..=60).contains(&left), "{left}: who is refused charges nothing that could shorten it");
    Ok(())
}

#[tokio::test]
async fn a_set_is_all_or_nothing_and_what_is_said_already_is_written_only_where_it_is_damaged() -> Result<()> {
    let mut bed = Bed::new().await?;
    let many: Vec<(String, String)> = (0..2_500).map(|n| (format!("{n:040}"), "1/1".to_owned())).collect();
    assert_eq!(bed.set(fence(2, 1), &many).await?, SET);
    assert_eq!(bed.fields().await?.len(), 2_505);
    assert_eq!(bed.set(fence(3, 1), &many).await?, UNCHANGED, "a newer term alone is not stored");
    let term: String = bed.look.hget(key().as_bytes(), "term").await?;
    assert_eq!(term, "2");
    let _: i64 = bed.look.hdel(key().as_bytes(), many[7].0.as_str()).await?;
    assert_eq!(bed.set(fence(3, 1), &many).await?, SET, "somebody took one away");
    assert_eq!(bed.fields().await?.len(), 2_505);
    assert_eq!(bed.set(fence(3, 1), &many[..1]).await?, SET);
    let metadata = ["digest", "generation", "owner", "term", "uid"];
    assert_eq!(bed.fields().await?, [&[many[0].0.as_str()], &metadata[..]].concat());
    assert_eq!(bed.set(fence(3, 1), &[]).await?, SET);
    assert_eq!(bed.fields().await?, metadata);
    Ok(())
}

#[tokio::test]
async fn who_is_behind_or_of_another_cluster_changes_nothing() -> Result<()> {
    let mut bed = Bed::new().await?;
    let one = [("a".repeat(40), "1/1".to_owned())];
    bed.set(fence(3, 5), &one).await?;
    let stale = "*2\r\n$5\r\nstale\r\n:3\r\n";
    assert_eq!(bed.set(fence(2, 9), &[]).await?, stale, "an older controller");
    assert_eq!(bed.set(fence(3, 4), &[]).await?, stale, "an older generation of the same object");
    let foreign = format!("*2\r\n$7\r\nforeign\r\n${}\r\n{OWNER}\r\n", OWNER.len());
    assert_eq!(bed.set_by("other/higress-system/chat", fence(9, 9), &[]).await?, foreign);
    let drop = |owner, term| DropOverrides { key: &key(), owner, term }.invocation();
    assert_eq!(bed.answer(&drop("cluster/higress-system/other", 3)).await?, foreign);
    assert_eq!(bed.answer(&drop(OWNER, 2)).await?, stale);
    assert_eq!(bed.fields().await?.len(), 6);

    let heir = "cluster/higress-system/heir";
    assert_eq!(bed.set_by(heir, fence(3, 1), &one).await?, SET, "the planner gave it to another of this cluster");
    let owner: String = bed.look.hget(key().as_bytes(), "owner").await?;
    assert_eq!(owner, heir);
    assert_eq!(bed.answer(&drop(heir, 3)).await?, "*2\r\n$7\r\ndropped\r\n:1\r\n");
    assert_eq!(bed.answer(&drop(heir, 3)).await?, "*1\r\n$6\r\nabsent\r\n");
    Ok(())
}

#[tokio::test]
async fn what_is_no_set_of_overrides_overrides_nothing() -> Result<()> {
    let mut bed = Bed::new().await?;
    let expected = format!("*3\r\n{NONE}{NONE}*3\r\n:100\r\n:0\r\n:60\r\n");
    let (field, _) = entry("sk-1", "");
    for broken in ["", "x", "5", "5/", "-5/60", "5/60/1", "1e3/60"] {
        let _: () = bed.look.hset(key().as_bytes(), &field, broken).await?;
        assert_eq!(bed.answer(&limits::check(&of("sk-1"))).await?, expected, "{broken:?}");
    }
    let _: () = bed.look.set(key().as_bytes(), "text").await?;
    assert_eq!(bed.answer(&limits::check(&of("sk-1"))).await?, expected);
    assert_eq!(bed.set(fence(1, 1), &[]).await?, SET, "and is replaced");
    Ok(())
}
