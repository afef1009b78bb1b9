//! Where one behaviour is played: a key prefix of its own, its policy, and Redis to prepare and look at.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use e2e::raw::Raw;
use enforcement::{
    redis::{
        Apply, ApplyOutcome, Balance, Charge, ChargeOutcome, Check, CheckOutcome, Fence, Grant, Invocation,
        LeaveOutcome, Park, Period, Reply, ReplyError,
    },
    wire::{Admin, Ends, Policy, Refresh, RefreshMode, Schedule},
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::door::Door;

/// The owner that policies name and objects apply as, unless a behaviour says otherwise.
pub(super) const OWNER: &str = "cluster/ns/chat";

/// The period that is now in every table of these tests: it began half an hour ago and lasts an hour.
pub(super) const NOW: i64 = 100;

/// What a behaviour's policy is.
#[derive(Clone, Copy, Default)]
pub(super) struct Setup {
    pub(super) default_quota: Option<i64>,
    pub(super) refresh: Option<(RefreshMode, Option<i64>)>,
    /// Whether another policy decides on what other objects' defaults made.
    pub(super) yields: bool,
}

/// What a behaviour is played under.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) schedule: Option<Schedule>,
    boundaries: Vec<(i64, i64)>,
}

#[derive(Clone)]
pub(super) struct Stage {
    pub(super) setting: Setting,
    /// Redis' clock when the suite began.
    pub(super) now: i64,
    door: Arc<Door>,
    redis: MultiplexedConnection,
    raw: Arc<Mutex<Raw>>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Served,
    /// Also where what is stored is not a balance.
    NoQuota,
}

/// What became of a call of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Administered {
    Done,
    Refused,
}

impl Setting {
    /// A policy as the controller would write it, with a table around Redis' clock.
    pub(super) fn new(number: usize, setup: Setup, now: i64) -> Self {
        let Setup { default_quota, refresh, yields } = setup;
        let schedule = refresh
            .map(|_| Schedule { first: NOW - 8, at: (-8..8).map(|period| now - 1800 + period * 3600).collect() });
        let boundaries = schedule.as_ref().and_then(Schedule::boundaries).unwrap_or_default();
        let schedule_name = format!("hourly-{number}");
        let refresh = refresh.map(|(mode, max_balance)| Refresh { schedule: schedule_name, mode, max_balance });
        let policy = Policy {
            store: Some("default".into()),
            key_prefix: format!("b{number}:"),
            owner: OWNER.into(),
            paths: vec!["/v1/chat/completions".into()],
            admin: Some(Admin { consumer: "admin".into(), path: "/quota".into() }),
            default_quota,
            yields,
            refresh,
            reserve: None,
            ends: Ends::default(),
            models: Vec::new(),
            unavailable: None,
        };
        Self { name: format!("b{number}"), policy, schedule, boundaries }
    }
}

impl Stage {
    pub(super) const fn new(
        setting: Setting,
        now: i64,
        door: Arc<Door>,
        redis: MultiplexedConnection,
        raw: Arc<Mutex<Raw>>,
    ) -> Self {
        Self { setting, now, door, redis, raw }
    }

    pub(super) fn key(&self, consumer: &str) -> Balance {
        Balance::new(&self.setting.policy.key_prefix, consumer.as_bytes())
    }

    pub(super) fn period(&self) -> Option<Period<'_>> {
        Period::around(self.setting.policy.refresh.as_ref()?, &self.setting.boundaries, self.now)
    }

    // What a client or an administrator does, through the door.

    /// A request whose answer uses `tokens`.
    pub(super) async fn ask(&self, consumer: &str, tokens: i64) -> Result<Asked> {
        self.door.ask(self, consumer, tokens).await
    }

    /// A request whose answer uses `tokens`, and what happens after it was admitted and before it is charged.
    pub(super) async fn ask_while(
        &self,
        consumer: &str,
        tokens: i64,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        self.door.ask_while(self, consumer, tokens, meanwhile).await
    }

    pub(super) async fn query(&self, consumer: &str) -> Result<Option<i64>> {
        self.door.query(self, consumer).await
    }

    pub(super) async fn set(&self, consumer: &str, value: i64) -> Result<Administered> {
        self.door.set(self, consumer, value).await
    }

    pub(super) async fn add(&self, consumer: &str, value: i64) -> Result<Administered> {
        self.door.add(self, consumer, value).await
    }

    // What a controller does.

    /// Declares a consumer as the policy's own object does, first generation.
    pub(super) async fn declare(&self, consumer: &str, grant: Grant) -> Result<ApplyOutcome> {
        self.apply(Apply {
            balance: &self.key(consumer),
            owner: OWNER,
            fence: Fence { term: 1, uid: "uid-1", generation: 1 },
            grant,
            takeover: false,
            refresh: None,
            period: self.period(),
        })
        .await
    }

    pub(super) async fn apply(&self, apply: Apply<'_>) -> Result<ApplyOutcome> {
        self.raw.lock().await.call(&apply.invocation(), ApplyOutcome::of).await
    }

    /// Removes a consumer from the policy's own object, still at its first generation.
    pub(super) async fn park(&self, consumer: &str) -> Result<()> {
        let fence = Fence { term: 1, uid: "uid-1", generation: 1 };
        let park = Park { balance: &self.key(consumer), owner: OWNER, fence, period: self.period() };
        let outcome = self.leave(&park.invocation()).await?;
        anyhow::ensure!(outcome == LeaveOutcome::Done { changed: true }, "parking {consumer} is answered {outcome:?}");
        Ok(())
    }

    pub(super) async fn leave(&self, call: &Invocation) -> Result<LeaveOutcome> {
        self.raw.lock().await.call(call, LeaveOutcome::of).await
    }

    // The scripts a module calls, one by one.

    pub(super) async fn call<T>(
        &self,
        call: &Invocation,
        of: impl Fn(&Reply<'_>) -> std::result::Result<T, ReplyError>,
    ) -> Result<T> {
        self.raw.lock().await.call(call, of).await
    }

    pub(super) async fn check(&self, check: Check<'_>) -> Result<CheckOutcome> {
        self.raw.lock().await.call(&check.invocation(), CheckOutcome::of).await
    }

    pub(super) async fn charge(&self, charge: Charge<'_>) -> Result<ChargeOutcome> {
        self.raw.lock().await.call(&charge.invocation(), ChargeOutcome::of).await
    }

    // Redis, to prepare and look at.

    pub(super) async fn redis<T: FromRedisValue>(&self, words: &[&[u8]]) -> Result<T> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        Ok(command.query_async(&mut self.redis.clone()).await?)
    }

    pub(super) async fn store(&self, consumer: &str, value: &str) -> Result<()> {
        self.redis(&[b"SET", self.key(consumer).as_bytes(), value.as_bytes()]).await
    }

    pub(super) async fn stored(&self, consumer: &str) -> Result<Option<String>> {
        self.redis(&[b"GET", self.key(consumer).as_bytes()]).await
    }

    pub(super) async fn ledger(&self, consumer: &str) -> Result<BTreeMap<String, String>> {
        self.redis(&[b"HGETALL", &self.key(consumer).ledger()]).await
    }

    /// One field of the ledger; empty where there is none.
    pub(super) async fn field(&self, consumer: &str, field: &str) -> Result<String> {
        Ok(self.ledger(consumer).await?.remove(field).unwrap_or_default())
    }

    pub(super) async fn edit(&self, consumer: &str, field: &str, value: &str) -> Result<()> {
        self.redis(&[b"HSET", &self.key(consumer).ledger(), field.as_bytes(), value.as_bytes()]).await
    }

    /// Makes it as if the ledger had last been touched `boundaries` periods ago.
    pub(super) async fn rewind(&self, consumer: &str, boundaries: i64) -> Result<()> {
        self.edit(consumer, "ordinal", &(NOW - boundaries).to_string()).await
    }

    #[track_caller]
    pub(super) fn balance_is(
        &self,
        consumer: &str,
        expected: impl Into<Option<i64>>,
    ) -> impl Future<Output = Result<()>> {
        let (place, expected) = (std::panic::Location::caller(), expected.into());
        async move {
            let stored = self.stored(consumer).await?;
            anyhow::ensure!(
                stored == expected.map(|value| value.to_string()),
                "{place}: the balance of {consumer} is {stored:?}, expected {expected:?}"
            );
            Ok(())
        }
    }
}
