//! Two replicas, as the chart runs them, whose leader is killed again and again while grants are edited and requests
//! are answered: what was edited and spent comes out exactly, and how long nobody led is printed.

use std::cell::Cell;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testbed::{Call, Controller, ControllerOptions, eventually};

use super::set;
use crate::scenario_a::completion;
use crate::stage::{Stage, quota};

const KILLS: u32 = 50;
/// The shortest there is.
const LEASE: &str = "--lease-duration=3s";
/// What the two have that ask the gateway: more than they can spend.
const GRANT: i64 = 1_000_000_000;
/// What a refresh by hand gives to the one who only saves.
const SAVED: i64 = 1_000;
/// Clients and people do not follow one another faster.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(25);
const BETWEEN_EDITS: Duration = Duration::from_millis(100);

/// The pods of the Deployment.
struct Replicas {
    both: [Controller; 2],
    /// How many ended by themselves: on a machine that is too slow for so short a Lease.
    ended: Cell<u32>,
}

impl Replicas {
    fn start(stage: &Stage) -> Result<Self> {
        let pod = || {
            let args = vec![LEASE.to_owned()];
            Controller::start(&stage.api, ControllerOptions { elected: true, args, ..ControllerOptions::default() })
        };
        Ok(Self { both: [pod()?, pod()?], ended: Cell::new(0) })
    }

    /// The highest term that was told, and who told it.
    fn leader(&self) -> Option<(i64, &Controller)> {
        let term = |pod: &Controller| {
            let log = pod.log();
            let term = log.rsplit_once("leading with term ")?.1.lines().next()?;
            term.trim().parse().ok()
        };
        let terms = self.both.iter().filter_map(|pod| Some((term(pod)?, pod)));
        terms.max_by_key(|(term, _)| *term)
    }

    /// Starts those anew that do not run, as a kubelet does.
    fn revive(&self) -> Result<()> {
        for pod in self.both.iter().filter(|pod| pod.ensure_running().is_err()) {
            self.ended.set(self.ended.get() + 1);
            pod.restart()?;
        }
        Ok(())
    }

    /// Does this while those are started anew that do not run.
    async fn revived<T>(&self, meanwhile: impl Future<Output = Result<T>>) -> Result<T> {
        let reviving = async {
            loop {
                if let Err(error) = self.revive() {
                    return error;
                }
                tokio::time::sleep(BETWEEN_EDITS).await;
            }
        };
        tokio::select! {
            biased;
            done = meanwhile => done,
            error = reviving => Err(error),
        }
    }

    /// Waits until one leads with a term above this.
    async fn led_above(&self, term: i64) -> Result<()> {
        eventually(&format!("another leads than the one of term {term}"), async || {
            let now = self.leader().map(|(term, _)| term);
            ensure!(now > Some(term), "the last term is {now:?}: {}\n{}", self.both[0].log(), self.both[1].log());
            Ok(())
        })
        .await
    }

    /// Kills the one that leads, which is then started anew; the term that it had, and when that was.
    fn kill(&self) -> Result<(i64, Instant)> {
        let (term, leader) = self.leader().context("nobody leads")?;
        leader.kill();
        let killed = Instant::now();
        leader.restart()?;
        Ok((term, killed))
    }
}

/// Grants that rise and fall while they are spent, and consumers that come and go.
fn consumers(step: i64, all: bool) -> Value {
    let spenders = (1..=2).map(|n| json!({"name": format!("aliyun-user{n}"), "quota": granted(step, n)}));
    let here = (1..=3).filter(|n| all || (step + n) % 3 != 0);
    let guests = here.map(|n| json!({"name": format!("guest{n}"), "quota": granted(step, n)}));
    Value::Array(spenders.chain(guests).collect())
}

fn granted(step: i64, n: i64) -> i64 {
    GRANT + (step * 7 + n * 13) % 5 * 100
}

/// Edits until it is done; the last edit.
async fn edit(stage: &Stage, done: &Cell<bool>) -> Result<i64> {
    let mut step = 0;
    while !done.get() {
        step += 1;
        stage.apply_consumers(&consumers(step, false)).await?;
        tokio::time::sleep(BETWEEN_EDITS).await;
    }
    step += 1;
    stage.apply_consumers(&consumers(step, true)).await?;
    Ok(step)
}

/// Asks until it is done, and is answered each time; how often.
async fn ask(call: Call, done: &Cell<bool>) -> Result<i64> {
    let mut answered = 0;
    while !done.get() {
        let reply = call.clone().send().await?;
        ensure!(reply.status == 200, "it was answered {} {}", reply.status, reply.text());
        answered += 1;
        tokio::time::sleep(BETWEEN_REQUESTS).await;
    }
    Ok(answered)
}

/// A quota that a refresh by hand adds to: doing it twice, or never, would be seen.
fn saving() -> Value {
    quota(
        "saving",
        &json!({
            "targetRefs": [{"kind": "Domain", "name": "saving.example"}],
            "keyPrefix": "saving:",
            "consumers": [{"name": "saver", "quota": SAVED}],
            "refresh": {"schedule": "0 0 29 2 *", "mode": "Add"},
        }),
    )
}

async fn saved(stage: &Stage, expected: i64) -> Result<()> {
    eventually(&format!("{expected} tokens are saved"), async || {
        let found = stage.redis.get("saving:saver").await?;
        ensure!(found == Some(expected.to_string()), "it is {found:?}");
        Ok(())
    })
    .await
}

/// How long nobody led.
#[derive(Default)]
struct Took {
    until_led: Vec<Duration>,
    /// Until what was asked for when nobody led was in Redis.
    until_done: Vec<Duration>,
}

/// Kills the leader so often; each time something is asked for that must be done once, before it or when nobody leads.
async fn kill(stage: &Stage, replicas: &Replicas, done: &Cell<bool>) -> Result<Took> {
    let mut took = Took::default();
    let quotas = stage.quotas().await?;
    let refresh = async |time: u32| {
        let annotation = json!({"metadata": {"annotations": {"quota.higress.io/refresh": format!("kill-{time}")}}});
        quotas.patch("saving", &PatchParams::default(), &Patch::Merge(annotation)).await
    };
    for time in 1..=KILLS {
        let before = time % 2 == 0;
        if before {
            refresh(time).await?;
            // At another place of the leader's round each time.
            tokio::time::sleep(Duration::from_millis(u64::from(time * 61 % 600))).await;
        }
        let (term, killed) = replicas.kill()?;
        if !before {
            refresh(time).await?;
        }
        replicas.led_above(term).await?;
        took.until_led.push(killed.elapsed());
        saved(stage, SAVED * i64::from(time + 1)).await?;
        if !before {
            took.until_done.push(killed.elapsed());
        }
    }
    done.set(true);
    Ok(took)
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() - 1) * part / 2).map_or(0, Duration::as_millis);
    format!("{} / {} / {} ms", at(0), at(1), at(2))
}

#[tokio::test]
async fn a_leader_that_is_killed_fifty_times_under_load_loses_no_edit_and_applies_none_twice() -> Result<()> {
    const COST: i64 = 7;
    let stage = set().await?;
    let replicas = Replicas::start(&stage)?;
    let gateway = stage.start_gateway().await?;
    stage.apply_consumers(&consumers(0, true)).await?;
    stage.api.apply(&saving()).await?;
    stage.ready("chat").await?;
    stage.ready("saving").await?;
    stage.in_force(&gateway).await?;
    saved(&stage, SAVED).await?;

    let done = Cell::new(false);
    let asked = ["user1-key", "user2-key"].map(|key| {
        let call = completion(&gateway, key, true).header("x-test-usage", "3,4");
        ask(call, &done)
    });
    let played = async {
        let asked = futures::future::try_join_all(asked);
        let played = tokio::try_join!(kill(&stage, &replicas, &done), edit(&stage, &done), asked)?;
        let (_, last, answered) = &played;
        for (n, answered) in (1..).zip(answered) {
            stage.balance(&format!("aliyun-user{n}"), granted(*last, n) - answered * COST).await?;
        }
        stage.ready("chat").await?;
        for n in 1..=3 {
            stage.balance(&format!("guest{n}"), granted(*last, n)).await?;
        }
        saved(&stage, SAVED * i64::from(KILLS + 1)).await?;
        Ok(played)
    };
    let (took, last, answered) = Box::pin(replicas.revived(played)).await?;
    ensure!(gateway.traps() == 0, "{:#?}", gateway.logs());
    // Also where what tests print is not shown.
    writeln!(
        std::io::stderr(),
        "{KILLS} leaders killed, {LEASE}, {last} edits and {} requests meanwhile. Another led after {} (least / median / \
         most); what was asked for when nobody led was done after {}. {} ended by themselves.",
        answered.iter().sum::<i64>(),
        summary(took.until_led),
        summary(took.until_done),
        replicas.ended.get(),
    )?;
    Ok(())
}
