//! Requests that never stop: some loops per consumer, each asking again when it was answered. What was answered is
//! added up, so that it can be compared with what was booked; any answer that is not documented ends the load.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use testbed::{Gateway, eventually, post};
use tokio::task::JoinSet;

/// Loops per consumer.
const LOOPS: usize = 13;
/// What a request of a loop costs.
const COSTS: [(i64, i64); 4] = [(7, 4), (1, 0), (20, 30), (3, 5)];
/// What the loops of one consumer can have on the way at once: each the dearest.
pub(super) const IN_FLIGHT_COSTS: i64 = LOOPS as i64 * 50;
/// A loop that was refused asks again after this: clients do not ask faster.
const PACE: Duration = Duration::from_millis(20);

const UNAVAILABLE: &str = "Request denied by ai quota check. Quota store unavailable.";
const NO_QUOTA: &str = "Request denied by ai quota check, No quota left";

/// Who asks: name and key.
pub(super) const CONSUMERS: [(&str, &str); 3] =
    [("aliyun-user1", "user1-key"), ("aliyun-user2", "user2-key"), ("aliyun-user3", "user3-key")];

/// Which refusals are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusals {
    None,
    /// While the store is away.
    Unavailable,
    /// Also while it has forgotten everything.
    NoQuota,
}

pub(super) struct Load {
    loops: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stops: AtomicBool,
    answered: AtomicUsize,
    refused: AtomicUsize,
    /// How often [`Load::mark`] was called.
    marks: AtomicUsize,
    spent: Mutex<Spent>,
}

/// Tokens of answered requests by consumer and the marks at the request's start and end.
pub(super) type Spent = BTreeMap<(&'static str, usize, usize), i64>;

impl Load {
    pub(super) fn start(gateway: &Gateway, refusals: Refusals) -> Self {
        let (mut loops, shared) = (JoinSet::new(), Arc::new(Shared::default()));
        for (consumer, key) in CONSUMERS {
            for n in 0..LOOPS {
                let cost = COSTS[n % COSTS.len()];
                loops.spawn(ask(gateway.url(), consumer, key, cost, refusals, shared.clone()));
            }
        }
        Self { loops, shared }
    }

    /// Waits until so many more were answered; fails when a loop has ended.
    pub(super) async fn flows(&mut self, more: usize) -> Result<()> {
        let goal = self.shared.answered.load(Ordering::SeqCst) + more;
        self.reaches("answered", goal, |shared| &shared.answered).await
    }

    /// Waits until so many more were refused.
    pub(super) async fn is_refused(&mut self, more: usize) -> Result<()> {
        let goal = self.shared.refused.load(Ordering::SeqCst) + more;
        self.reaches("refused", goal, |shared| &shared.refused).await
    }

    async fn reaches(&mut self, what: &str, goal: usize, count: fn(&Shared) -> &AtomicUsize) -> Result<()> {
        let count = count(&self.shared);
        let what = format!("{goal} requests are {what}");
        let reached = eventually(&what, async || {
            let found = count.load(Ordering::SeqCst);
            ensure!(found >= goal, "it is {found}");
            Ok(())
        });
        tokio::select! {
            reached = reached => reached,
            ended = self.loops.join_next() => match ended {
                Some(ended) => ended?,
                None => bail!("no loop runs"),
            },
        }
    }

    /// Requests that start after this can be told from those before.
    pub(super) fn mark(&self) {
        self.shared.marks.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets the loops come to an end; what their requests cost.
    pub(super) async fn stop(mut self) -> Result<Spent> {
        self.shared.stops.store(true, Ordering::SeqCst);
        while let Some(ended) = self.loops.join_next().await {
            ended??;
        }
        Ok(std::mem::take(&mut *self.shared.spent()))
    }
}

impl Shared {
    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    gateway: String,
    consumer: &'static str,
    key: &'static str,
    (input, output): (i64, i64),
    refusals: Refusals,
    shared: Arc<Shared>,
) -> Result<()> {
    let body = json!({"model": "qwen-max", "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
    let call = post(format!("{gateway}/v1/chat/completions")).json(&body).header("x-api-key", key);
    let call = call.header("x-test-usage", format!("{input},{output}"));
    while !shared.stops.load(Ordering::SeqCst) {
        let started = shared.marks.load(Ordering::SeqCst);
        let reply = call.clone().send().await?;
        match (reply.status, reply.text().as_str()) {
            (200, _) => {
                let ended = shared.marks.load(Ordering::SeqCst);
                *shared.spent().entry((consumer, started, ended)).or_default() += input + output;
                shared.answered.fetch_add(1, Ordering::SeqCst);
            }
            (503, UNAVAILABLE) if refusals != Refusals::None => refused(&shared).await,
            (403, NO_QUOTA) if refusals == Refusals::NoQuota => refused(&shared).await,
            (status, text) => bail!("{consumer} was answered {status} {text}"),
        }
    }
    Ok(())
}

async fn refused(shared: &Shared) {
    shared.refused.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(PACE).await;
}
