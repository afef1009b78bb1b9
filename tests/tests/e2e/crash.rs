//! The controller is killed (or loses its connections) after each of its operations in turn, the first, the second, up to the last one that a
//! story takes. Started again it must come to the same end as a run that nothing interrupted: the same balances and
//! ledgers, WasmPlugins, statuses and finalizers, with what was spent meanwhile spent once.

mod bed;
mod leaving;
mod moving;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use futures::future::LocalBoxFuture;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use serde_json::{Value, json};
use testbed::Operation;

use crate::stage::quota;
use bed::Bed;
use state::State;

/// What is done to the objects, and what must be so when it is over.
struct Story {
    name: &'static str,
    /// What is applied before, one after the other, besides the gateway's objects; the controller has made it so when
    /// the story begins.
    before: fn() -> Vec<Vec<Value>>,
    act: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>>,
    /// What only an end has, where objects that are ready do not say it.
    ended: fn(&State) -> bool,
    /// Who, of the prefix `chat:`, spends before the story (after what is applied first), and who while the controller
    /// is dead.
    spent_before: Spent,
    spent_meanwhile: Spent,
    interruption: Interruption,
}

/// What happens after an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// The controller is killed, and started again.
    Kill,
    /// Every connection of it breaks, and the operation's answer never comes; it goes on.
    Break,
}

type Spent = &'static [(&'static str, i64)];

/// Plays a story without an interruption and then with one after each operation.
async fn play(story: Story) -> Result<()> {
    let bed = Bed::new().await?;
    begin(&bed, &story).await?;
    (story.act)(&bed).await?;
    bed.done().await?;
    let ended = |state: &State| {
        ensure!((story.ended)(state), "{} has not ended: {}", story.name, json!(state));
        Ok(())
    };
    let expected = bed.settled(ended).await?;
    // With what was late.
    let operations = bed.operations();
    ensure!(!operations.is_empty(), "{}: nothing was written", story.name);
    ensure!(expected.iter().any(|(name, _)| name.starts_with("redis ")), "{}: no balance", story.name);

    let mut kinds: BTreeSet<String> = operations.iter().filter(|operation| decides(operation)).map(kind).collect();
    let mut over_before = Vec::new();
    for n in 1..=operations.len() {
        let interrupted = async {
            begin(&bed, &story).await?;
            let reached = match story.interruption {
                Interruption::Kill => bed.kill_after(n),
                Interruption::Break => bed.break_after(n),
            };
            (story.act)(&bed).await?;
            let Some(last) = bed.comes(reached, &expected).await? else {
                over_before.push(n);
                return Ok(());
            };
            kinds.remove(&kind(&last));
            let mut expected = expected.clone();
            for (consumer, tokens) in story.spent_meanwhile {
                let booked = bed.spend(consumer, *tokens).await?;
                state::spend(&mut expected, &bed.balance(consumer), *tokens, booked)?;
            }
            if story.interruption == Interruption::Kill {
                bed.restart()?;
            }
            let ended = bed.settled(|found| state::compare(found, &expected)).await;
            ended.map(drop).with_context(|| format!("it was interrupted after {last}"))
        };
        let after = || {
            format!("{}: interrupted after operation {n} of {}:\n{}", story.name, operations.len(), listed(&operations))
        };
        interrupted.await.with_context(after)?;
    }
    let interrupted = operations.len() - over_before.len();
    println!("{}: interrupted after each of {interrupted} operations\n{}", story.name, table(&operations));
    // Statuses may be fewer than the first time, what decides may not.
    let few = over_before.len() <= interrupted;
    ensure!(few && kinds.is_empty(), "{}: over before operations {over_before:?}; never {kinds:?}", story.name);
    Ok(())
}

fn kind(operation: &Operation) -> String {
    format!("{} {}", operation.verb, operation.kind)
}

/// Whether something else than words depends on it.
fn decides(operation: &Operation) -> bool {
    operation.kind != "events" && !operation.kind.ends_with("/status")
}

/// The world in which a story begins.
async fn begin(bed: &Bed, story: &Story) -> Result<()> {
    bed.clear().await?;
    for (step, objects) in (story.before)().iter().enumerate() {
        bed.apply(objects).await?;
        if step == 0 {
            bed.restart()?;
        }
        bed.done().await?;
        bed.settled(|_| Ok(())).await?;
        for (consumer, tokens) in story.spent_before.iter().filter(|_| step == 0) {
            ensure!(bed.spend(consumer, *tokens).await?, "{consumer} has no balance to spend from");
        }
    }
    bed.forget();
    Ok(())
}

fn listed(operations: &[Operation]) -> String {
    let lines = operations.iter().enumerate().map(|(at, operation)| format!("{:3} {operation}", at + 1));
    lines.collect::<Vec<_>>().join("\n")
}

fn table(operations: &[Operation]) -> Table {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for operation in operations {
        *counts.entry((&operation.kind, &operation.verb)).or_default() += 1;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(["what", "operation", "times"]);
    for ((kind, verb), count) in counts {
        table.add_row([kind, verb, &count.to_string()]);
    }
    table
}

fn ann() -> Value {
    json!({"name": "ann", "quota": 1000})
}

/// Half a year from now: no period begins while a story is played.
fn yearly() -> String {
    let month = Timestamp::now().to_zoned(TimeZone::UTC).month();
    format!("0 0 1 {} *", (month + 5) % 12 + 1)
}

fn bob() -> Value {
    json!({"name": "bob", "quota": 500})
}

fn cid() -> Value {
    json!({"name": "cid", "quota": 0})
}

fn dan() -> Value {
    json!({"name": "dan", "unlimited": true})
}

fn chat(consumers: &[Value]) -> Value {
    quota("chat", &json!({"keyPrefix": "chat:", "consumers": consumers}))
}

/// Merges with [`chat`]: the same settings, other consumers.
fn more() -> Value {
    quota("more", &json!({"keyPrefix": "chat:", "consumers": [{"name": "eve", "quota": 70}]}))
}

/// Four consumers, each of another kind, and the other object's.
fn all() -> Vec<Vec<Value>> {
    vec![vec![bed::store(), chat(&[ann(), bob(), cid(), dan()]), more()]]
}

/// A story whose end is that all objects are ready.
fn story(name: &'static str, act: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>>) -> Story {
    Story {
        name,
        before: all,
        act,
        ended: |_| true,
        spent_before: &[("ann", 7), ("bob", 11), ("dan", 5), ("eve", 3)],
        spent_meanwhile: &[("ann", 2), ("bob", 4), ("eve", 6)],
        interruption: Interruption::Kill,
    }
}

#[tokio::test]
async fn seeding_survives_a_kill_after_each_operation() -> Result<()> {
    let seed = story("seed", |bed| {
        Box::pin(async {
            bed.apply(&all().concat()).await?;
            bed.restart()
        })
    });
    play(Story { before: Vec::new, spent_before: &[], spent_meanwhile: &[("ann", 7), ("dan", 5), ("eve", 3)], ..seed })
        .await
}

#[tokio::test]
async fn editing_grants_and_consumers_survives_a_kill_after_each_operation() -> Result<()> {
    // Of dan nobody spends meanwhile: what is spent while unlimited does not count afterwards, so when matters.
    play(story("edit", |bed| {
        let consumers = [
            json!({"name": "ann", "quota": 1500}),
            json!({"name": "bob", "quota": 200}),
            json!({"name": "cid", "unlimited": true}),
            json!({"name": "dan", "quota": 300}),
            json!({"name": "fay", "quota": 60}),
        ];
        Box::pin(async move { bed.apply(&[chat(&consumers)]).await })
    }))
    .await
}

#[tokio::test]
async fn a_schedule_survives_a_kill_after_each_operation() -> Result<()> {
    // Alone: one of two that merge cannot have another schedule.
    let alone = || vec![vec![bed::store(), chat(&[ann(), bob(), cid(), dan()])]];
    let schedule = story("schedule", |bed| {
        let mut scheduled = chat(&[ann(), bob(), cid(), dan()]);
        scheduled["spec"]["refresh"] = json!({"schedule": yearly(), "timeZone": "Asia/Shanghai", "mode": "Reset"});
        Box::pin(async move { bed.apply(&[scheduled]).await })
    });
    play(Story { before: alone, spent_before: &[("ann", 7)], spent_meanwhile: &[("ann", 2)], ..schedule }).await
}

#[tokio::test]
async fn a_boundary_that_passed_survives_a_kill_after_each_operation() -> Result<()> {
    let before = || {
        let mut scheduled = chat(&[ann(), bob(), cid(), dan()]);
        // A boundary that gave twice would show.
        scheduled["spec"]["refresh"] = json!({"schedule": yearly(), "timeZone": "Asia/Shanghai", "mode": "Add"});
        vec![vec![bed::store(), scheduled]]
    };
    let boundary = story("boundary", |bed| Box::pin(bed.rewind(&["ann", "bob", "cid", "dan"])));
    let ended = |state: &State| state["redis chat:ann"] == "1993";
    play(Story { before, ended, spent_before: &[("ann", 7)], spent_meanwhile: &[("ann", 2)], ..boundary }).await
}

#[tokio::test]
async fn a_refresh_by_hand_survives_a_kill_after_each_operation() -> Result<()> {
    let refresh = story("refresh", |bed| Box::pin(bed.annotate("chat", "quota.higress.io/refresh", "now")));
    // What is spent before the refresh is forgiven, and afterwards it is not: when matters.
    let ended = |state: &State| state["AIQuota chat"]["status"]["refreshed"] == "now";
    play(Story { ended, spent_meanwhile: &[("eve", 6)], ..refresh }).await
}

#[tokio::test]
async fn quotas_of_models_survive_a_kill_after_each_operation() -> Result<()> {
    fn with(consumers: &Value) -> Value {
        let mut chat = chat(&[ann(), bob(), cid(), dan()]);
        chat["spec"]["models"] = json!([{"name": "qwen-*", "consumers": consumers}]);
        chat
    }
    let before = || {
        let own = json!([{"name": "ann", "quota": 300}, {"name": "bob", "quota": 20}]);
        vec![vec![bed::store(), with(&own)]]
    };
    // One has more, one is listed no more, one is new; what they have for all models stays as it is.
    let models = story("models", |bed| {
        let own = json!([{"name": "ann", "quota": 400}, {"name": "cid", "quota": 50}]);
        Box::pin(async move { bed.apply(&[with(&own)]).await })
    });
    let ended = |state: &State| {
        let is = |key: &str, value: &str| {
            state.get(&format!("redis chat: qwen-* {key}")).is_some_and(|found| found == value)
        };
        is("ann", "393")
            && is("cid", "50")
            && !state.contains_key("redis chat: qwen-* bob")
            && state["redis chat:ann"] == "995"
    };
    // As keys are spelled: the model, then the consumer.
    let spent_before = &[(" qwen-* ann", 7), (" qwen-* bob", 3), ("ann", 5)];
    play(Story { before, ended, spent_before, spent_meanwhile: &[(" qwen-* ann", 2), ("ann", 4)], ..models }).await
}
