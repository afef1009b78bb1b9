//! The controller is killed after each of its operations in turn, the first, the second, up to the last one that a
//! story takes. Started again it must come to the same end as a run that nothing interrupted: the same balances and
//! ledgers, WasmPlugins, statuses and finalizers, with what was spent meanwhile spent once.

mod bed;
mod state;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use testbed::Operation;

use crate::stage::quota;
use bed::Bed;

/// What is done to the objects, and what must be so when it is over.
struct Story {
    name: &'static str,
    /// The objects that are there before, besides the gateway's; the controller has made them so when the story begins.
    before: fn() -> Vec<Value>,
    act: for<'a> fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>>,
    /// Who, of the prefix `chat:`, spends before the story, and who while the controller is dead.
    spent_before: Spent,
    spent_meanwhile: Spent,
}

type Spent = &'static [(&'static str, i64)];

/// Plays a story without an interruption and then with one after each operation.
async fn play(story: Story) -> Result<()> {
    let bed = Bed::new().await?;
    begin(&bed, &story).await?;
    (story.act)(&bed).await?;
    bed.done().await?;
    let own = bed.operations().len();
    let expected = bed.settled(|_| Ok(())).await?;
    // What comes after that is the probe's doing, or was late.
    let late = bed.operations().split_off(own).into_iter().filter(|operation| !bed::is_of_probe(operation));
    let operations: Vec<Operation> = bed.operations().into_iter().take(own).chain(late).collect();
    ensure!(!operations.is_empty(), "{}: nothing was written", story.name);
    ensure!(expected.iter().any(|(name, _)| name.starts_with("redis ")), "{}: no balance", story.name);

    for n in 1..=operations.len() {
        let interrupted = async {
            begin(&bed, &story).await?;
            let reached = bed.kill_after(n);
            (story.act)(&bed).await?;
            let last = bed.patiently(&format!("operation {n} comes"), reached.operation()).await??;
            let mut expected = expected.clone();
            for (consumer, tokens) in story.spent_meanwhile {
                let booked = bed.spend(consumer, *tokens).await?;
                state::spend(&mut expected, &bed.balance(consumer), *tokens, booked)?;
            }
            bed.restart()?;
            let ended = bed.settled(|found| state::compare(found, &expected)).await;
            ended.map(drop).with_context(|| format!("it was killed after {last}"))
        };
        let after =
            || format!("{}: killed after operation {n} of {}:\n{}", story.name, operations.len(), listed(&operations));
        interrupted.await.with_context(after)?;
    }
    println!("{}: killed after each of {} operations\n{}", story.name, operations.len(), table(&operations));
    Ok(())
}

/// The world in which a story begins.
async fn begin(bed: &Bed, story: &Story) -> Result<()> {
    bed.clear().await?;
    let before = (story.before)();
    if before.is_empty() {
        return Ok(());
    }
    bed.apply(&before).await?;
    bed.restart()?;
    bed.done().await?;
    bed.settled(|_| Ok(())).await?;
    for (consumer, tokens) in story.spent_before {
        ensure!(bed.spend(consumer, *tokens).await?, "{consumer} has no balance to spend from");
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

/// Four consumers, each of another kind.
fn chat() -> Value {
    let consumers = json!([
        {"name": "ann", "quota": 1000}, {"name": "bob", "quota": 500},
        {"name": "cid", "quota": 0}, {"name": "dan", "unlimited": true}]);
    quota("chat", &json!({"keyPrefix": "chat:", "consumers": consumers}))
}

/// Merges with [`chat`]: the same settings, other consumers.
fn more() -> Value {
    quota("more", &json!({"keyPrefix": "chat:", "consumers": [{"name": "eve", "quota": 70}]}))
}

#[tokio::test]
async fn seeding_survives_a_kill_after_each_operation() -> Result<()> {
    play(Story {
        name: "seed",
        before: Vec::new,
        act: |bed| {
            Box::pin(async {
                bed.apply(&[bed::store(), chat(), more()]).await?;
                bed.restart()
            })
        },
        spent_before: &[],
        spent_meanwhile: &[("ann", 7), ("dan", 5), ("eve", 3)],
    })
    .await
}

#[tokio::test]
async fn editing_grants_and_consumers_survives_a_kill_after_each_operation() -> Result<()> {
    play(Story {
        name: "edit",
        before: || vec![bed::store(), chat(), more()],
        act: |bed| {
            let consumers = json!([
                {"name": "ann", "quota": 1500}, {"name": "bob", "quota": 200},
                {"name": "cid", "unlimited": true}, {"name": "dan", "quota": 300}, {"name": "fay", "quota": 60}]);
            Box::pin(async move {
                bed.apply(&[quota("chat", &json!({"keyPrefix": "chat:", "consumers": consumers}))]).await
            })
        },
        spent_before: &[("ann", 7), ("bob", 11), ("dan", 5), ("eve", 3)],
        // Not dan: what is spent while unlimited does not count afterwards, so when matters.
        spent_meanwhile: &[("ann", 2), ("bob", 4), ("eve", 6)],
    })
    .await
}
