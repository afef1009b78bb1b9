//! What `limits.lua` notes of counters that come near to their limits: each limit once per window, and nobody's value.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::raw::Raw;
use enforcement::redis::Invocation;
use enforcement::redis::limits::{self, Asks, Counter, Limit, Name};
use enforcement::redis::overrides::{self, Overrides};
use enforcement::redis::warned::{self, Warn};
use enforcement::wire::limit::{By, Dialect, Rate};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use testbed::{Redis, RedisOptions};

const RULE: &str = "team.chat";
const NAME: Name<'static> = Name { dialect: Dialect::V2, rule: RULE, model: None, kept: Some(512), observed: false };
const HASH: &str = "aiquota:warned:{team.chat}";
const MINUTE: Rate = Rate { tokens: 100, window_seconds: 60 };
const HOUR: Rate = Rate { tokens: 1000, window_seconds: 3600 };
const OF_MINUTE: &str = "80:100:higress-token-ratelimit:{team.chat}:limit_by_header:60:x-api-key:";
const OF_HOUR: &str = "80:1000:higress-token-ratelimit:{team.chat}:limit_by_header:3600:x-api-key:";
const WARN: Option<Warn<'static>> = Some(Warn { percent: 80, noted: Some(RULE) });
/// Who looks every minute sees what was noted.
const AT_LEAST: i64 = 120;

struct Bed {
    _redis: Redis,
    raw: Raw,
    look: MultiplexedConnection,
}

/// `<since>/<till>/<last>/<counters>`.
type Note = [i64; 4];

impl Bed {
    async fn new() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        Ok(Self { raw: Raw::connect(&redis.addr()).await?, look: redis.connect().await?, _redis: redis })
    }

    async fn answer(&mut self, call: &Invocation) -> Result<String> {
        Ok(String::from_utf8(self.raw.send(&call.eval()).await?)?)
    }

    /// Charges the minute and the hour of a value.
    async fn charge(&mut self, value: &str, tokens: i64) -> Result<String> {
        self.answer(&limits::charge(&of(value), tokens, WARN)).await
    }

    async fn noted(&mut self) -> Result<BTreeMap<String, Note>> {
        let all: BTreeMap<String, String> = self.look.hgetall(HASH).await?;
        let note = |(field, text): (String, String)| {
            let numbers: Vec<i64> = text.split('/').map(str::parse).collect::<Result<_, _>>().context(text)?;
            Ok((field, numbers.try_into().ok().context("not four numbers")?))
        };
        all.into_iter().map(note).collect()
    }

    async fn now(&mut self) -> Result<i64> {
        Ok(redis::cmd("TIME").query_async::<(i64, i64)>(&mut self.look).await?.0)
    }

    async fn keeps_for(&mut self, seconds: i64) -> Result<()> {
        let left: i64 = self.look.ttl(HASH).await?;
        ensure!((seconds - 2..=seconds).contains(&left), "{left}");
        Ok(())
    }
}

fn item(rate: Rate, value: &str) -> Counter {
    Counter::item(NAME, "limit_by_header", rate, "x-api-key", value.as_bytes())
}

fn of(value: &str) -> Vec<Limit> {
    [MINUTE, HOUR].map(|rate| Limit { counter: item(rate, value), asks: Asks::Rate(rate) }).to_vec()
}

#[tokio::test]
async fn what_comes_near_is_noted_once_per_limit_with_the_number_of_values_and_none_of_them() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.charge("sk-1", 79).await?;
    assert_eq!(bed.look.exists::<_, i64>(HASH).await?, 0, "nothing came near");
    let before = bed.now().await?;
    bed.charge("sk-1", 1).await?;
    let noted = bed.noted().await?;
    assert_eq!(noted.keys().collect::<Vec<_>>(), [OF_MINUTE]);
    let [since, till, last, counters] = noted[OF_MINUTE];
    ensure!((before..=before + 2).contains(&since), "{since}, not {before}");
    // Its window has a minute left.
    assert_eq!((till, last, counters), (since + AT_LEAST, since + AT_LEAST, 1));
    bed.keeps_for(AT_LEAST).await?;

    for _ in 0..3 {
        bed.charge("sk-1", 1).await?;
    }
    assert_eq!(bed.noted().await?, noted, "it is there already");
    bed.charge("sk-2", 800).await?;
    let noted = bed.noted().await?;
    assert_eq!((noted[OF_MINUTE][0], noted[OF_MINUTE][3]), (since, 2), "the same warning, of two values");
    let [since, till, last, counters] = noted[OF_HOUR];
    assert_eq!((till, last, counters, noted.len()), (since + 3_600, since + 3_600, 1, 2));
    bed.keeps_for(3_600).await?;
    // As who warns reads it.
    let fields = [MINUTE, HOUR].map(|rate| warned::field(80, Some(rate.tokens), &item(rate, "")));
    assert_eq!(fields.map(|field| String::from_utf8_lossy(&field).into_owned()), [OF_MINUTE, OF_HOUR]);
    Ok(())
}

#[tokio::test]
async fn when_its_window_is_over_it_begins_anew_and_takes_out_what_else_is() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.charge("sk-1", 900).await?;
    let now = bed.now().await?;
    let over = format!("{}/{}/{}/7", now - 300, now - 60, now - 1);
    let lasts = format!("{}/{}/{}/7", now - 300, now - 60, now + 600);
    let _: () = bed.look.hset(HASH, OF_MINUTE, &lasts).await?;
    for (field, text) in [("80:5:gone", over.as_str()), ("80:5:broken", "x"), ("80:5:there", &lasts)] {
        let _: () = bed.look.hset(HASH, field, text).await?;
    }
    bed.charge("sk-2", 90).await?;
    let noted = bed.noted().await?;
    assert_eq!(noted.keys().collect::<Vec<_>>(), [OF_HOUR, OF_MINUTE, "80:5:there"]);
    let [since, till, last, counters] = noted[OF_MINUTE];
    ensure!(since >= now && till == since + AT_LEAST, "{since}, {till}");
    assert_eq!((last, counters), (now + 600, 1), "another counter's window lasts longer");
    bed.keeps_for(3_600).await
}

#[tokio::test]
async fn charges_are_booked_whatever_stands_where_they_are_noted_and_where_nobody_wants_it_nothing_is() -> Result<()> {
    let mut bed = Bed::new().await?;
    let _: () = bed.look.set(HASH, "text").await?;
    let reply = bed.charge("sk-1", 90).await?;
    ensure!(reply.starts_with("*2\r\n*4\r\n:100\r\n:90\r\n"), "{reply:?}");
    assert_eq!(bed.look.get::<_, String>(HASH).await?, "text");
    let _: () = bed.look.del(HASH).await?;
    let quiet = [None, Some(Warn { percent: 80, noted: None })];
    for (value, warn) in ["sk-2", "sk-3"].into_iter().zip(quiet) {
        bed.answer(&limits::charge(&of(value), 90, warn)).await?;
    }
    assert_eq!(bed.look.exists::<_, i64>(HASH).await?, 0);
    Ok(())
}

#[tokio::test]
async fn settled_charges_and_limits_of_single_values_are_noted_too() -> Result<()> {
    let mut bed = Bed::new().await?;
    bed.answer(&limits::settle(&of("sk-1"), 90, b"7-1", WARN)).await?;
    assert_eq!(bed.noted().await?.keys().collect::<Vec<_>>(), [OF_MINUTE]);

    let set = Overrides::new(RULE, &By::Header("x-api-key".into()));
    let field = overrides::field(RULE, b"sk-9");
    let _: () = bed.look.hset(set.as_bytes(), &field, "10/3600").await?;
    let own = Counter::overridden(Name { kept: Some(0), ..NAME }, ("header", "x-api-key"), b"sk-9");
    let limits = [
        Limit { counter: Counter::overrides(&set), asks: Asks::Overrides(field) },
        Limit { counter: own, asks: Asks::Override },
        Limit { counter: item(HOUR, "sk-9"), asks: Asks::Unless(HOUR) },
    ];
    bed.answer(&limits::charge(&limits, 9, WARN)).await?;
    let noted = bed.noted().await?;
    let single = "80::higress-token-ratelimit:{team.chat}:override:header:x-api-key:";
    assert_eq!(noted.keys().collect::<Vec<_>>(), [OF_MINUTE, single]);
    assert_eq!(noted[single][1] - noted[single][0], 3_600, "by its own window");
    Ok(())
}
