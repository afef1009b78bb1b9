//! Requests that never stop, each with a name and a cost of its own, so that afterwards each can be asked of the
//! gateway: under which configuration it ran, and who metered it there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use testbed::{Gateway, eventually, post};
use tokio::task::JoinSet;

/// Who asks: name and key.
pub(super) const CONSUMERS: [(&str, &str); 2] = [("aliyun-user1", "user1-key"), ("aliyun-user2", "user2-key")];
/// Loops per consumer.
const LOOPS: usize = 4;
/// The dearest request.
const DEAREST: i64 = 40;

/// While a module is replaced its Redis connection is: a question that was on its way then has no answer.
const NO_ANSWER: [(u16, &str); 2] = [
    (403, "Request denied by ai quota check, No quota left"),
    (503, "Request denied by ai quota check. Quota store unavailable."),
];

pub(super) struct Load {
    loops: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stops: AtomicBool,
    answered: AtomicUsize,
    refused: AtomicUsize,
    /// By name, whose it is and what it costs.
    answers: Mutex<BTreeMap<String, (&'static str, i64)>>,
}

/// What was answered.
pub(super) struct Answered {
    pub(super) all: BTreeMap<String, (&'static str, i64)>,
    pub(super) refused: usize,
}

/// What becomes of one consumer's requests where a plugin and its successor meter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// What is booked, each request as often as it was metered.
    pub(super) booked: i64,
    /// The part of it that may be on its way when a module, and its connection, is replaced.
    pub(super) on_the_way: i64,
    pub(super) unmetered: usize,
    pub(super) twice: usize,
}

impl Load {
    pub(super) fn start(gateway: &Gateway) -> Self {
        let (mut loops, shared) = (JoinSet::new(), Arc::new(Shared::default()));
        for (consumer, key) in CONSUMERS {
            for number in 0..LOOPS {
                loops.spawn(ask(gateway.url(), consumer, key, number, Arc::clone(&shared)));
            }
        }
        Self { loops, shared }
    }

    /// Waits until so many more were answered; fails when a loop has ended.
    pub(super) async fn flows(&mut self, more: usize) -> Result<()> {
        let goal = self.shared.answered.load(Ordering::SeqCst) + more;
        let what = format!("{goal} requests are answered");
        let reached = eventually(&what, async || {
            let found = self.shared.answered.load(Ordering::SeqCst);
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

    /// Lets the loops come to an end.
    pub(super) async fn stop(mut self) -> Result<Answered> {
        self.shared.stops.store(true, Ordering::SeqCst);
        while let Some(ended) = self.loops.join_next().await {
            ended??;
        }
        let all = std::mem::take(&mut *self.shared.answers());
        Ok(Answered { all, refused: self.shared.refused.load(Ordering::SeqCst) })
    }
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, BTreeMap<String, (&'static str, i64)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    gateway: String,
    consumer: &'static str,
    key: &'static str,
    number: usize,
    shared: Arc<Shared>,
) -> Result<()> {
    let body = json!({"model": "qwen-max", "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
    let call = post(format!("{gateway}/v1/chat/completions")).json(&body).header("x-api-key", key);
    let mut count: i64 = 0;
    while !shared.stops.load(Ordering::SeqCst) {
        count += 1;
        let (name, cost) = (format!("{consumer}-{number}-{count}"), 1 + count % DEAREST);
        let asked = call.clone().header("x-request-id", &name).header("x-test-usage", format!("{},1", cost - 1));
        let reply = asked.send().await?;
        match (reply.status, reply.text()) {
            (200, _) => {
                shared.answers().insert(name, (consumer, cost));
                shared.answered.fetch_add(1, Ordering::SeqCst);
            }
            (status, text) if NO_ANSWER.contains(&(status, text.as_str())) => {
                shared.refused.fetch_add(1, Ordering::SeqCst);
            }
            (status, text) => bail!("{consumer} was answered {status} {text}"),
        }
    }
    Ok(())
}

impl Answered {
    /// Who of these plugins had a rule over the route when a request came.
    pub(super) fn accounts(&self, gateway: &Gateway, plugins: [&str; 2]) -> Result<BTreeMap<&'static str, Account>> {
        let mut meters: BTreeMap<u64, i64> = BTreeMap::new();
        let mut accounts: BTreeMap<&'static str, Account> = BTreeMap::new();
        let mut found = 0;
        for exchange in gateway.access_log() {
            let Some((consumer, cost)) = self.all.get(&exchange.request_id) else { continue };
            found += 1;
            let meters = *meters.entry(exchange.generation).or_insert_with(|| {
                let configs = plugins.iter().filter_map(|plugin| gateway.config_in(exchange.generation, plugin));
                let has_rule = |config: &serde_json::Value| {
                    let rules = config["_rules_"].as_array().into_iter().flatten();
                    rules.filter_map(|rule| rule["_match_route_"].as_array()).flatten().any(|route| route == "qwen")
                };
                configs.filter(has_rule).map(|_| 1).sum()
            });
            let account = accounts.entry(consumer).or_insert_with(|| {
                // What the loops have sent when a worker replaces its modules, though their clients have their answers.
                Account { on_the_way: LOOPS as i64 * DEAREST, ..Account::default() }
            });
            account.booked += cost * meters;
            account.unmetered += usize::from(meters == 0);
            account.twice += usize::from(meters > 1);
            if exchange.generation != exchange.ended_in {
                account.on_the_way += cost * meters;
            }
        }
        ensure!(found == self.all.len(), "{found} of {} requests are in the access log", self.all.len());
        Ok(accounts)
    }
}
