//! What moves: a consumer to another object, an object to another prefix, an object to another store.

use anyhow::Result;
use serde_json::{Value, json};

use super::state::State;
use super::{Story, all, ann, bed, bob, chat, cid, dan, play, story};
use crate::stage::quota;

/// Merges with [`chat`].
fn more(consumers: &[Value]) -> Value {
    quota("more", &json!({"keyPrefix": "chat:", "consumers": consumers}))
}

fn eve() -> Value {
    json!({"name": "eve", "quota": 70})
}

fn has(state: &State, key: &str, value: &str) -> bool {
    state.get(&format!("redis {key}")).is_some_and(|found| found == value)
}

/// Whether the index has a balance under this object and no other.
fn is_recorded(state: &State, object: &str, balance: &str) -> bool {
    let owned = state.iter().filter(|(key, _)| key.starts_with("redis aiquota:owned:"));
    let with = owned.filter(|(_, all)| all.as_array().is_some_and(|all| all.contains(&json!(balance))));
    let owners: Vec<&String> = with.map(|(key, _)| key).collect();
    owners.len() == 1 && owners[0].ends_with(&format!("/{object}"))
}

#[tokio::test]
async fn a_takeover_survives_a_kill_after_each_operation() -> Result<()> {
    let takeover = story("takeover", |bed| {
        Box::pin(async {
            let moved = [chat(&[bob(), cid(), dan()]), more(&[eve(), json!({"name": "ann", "quota": 1200})])];
            bed.apply(&moved).await
        })
    });
    let ended = |state: &State| has(state, "chat:ann", "1193") && is_recorded(state, "more", "chat:ann");
    play(Story { ended, ..takeover }).await
}

/// The only object, since with others its rule could not change while theirs stays.
fn alone() -> Vec<Vec<Value>> {
    vec![vec![bed::store(), chat(&[ann(), bob(), cid(), dan()])]]
}

#[tokio::test]
async fn another_prefix_survives_a_kill_after_each_operation() -> Result<()> {
    let prefix = story("prefix", |bed| {
        let moved = quota("chat", &json!({"keyPrefix": "new:", "consumers": [ann(), bob(), cid(), dan()]}));
        Box::pin(async move { bed.apply(&[moved]).await })
    });
    let ended = |state: &State| has(state, "new:ann", "1000") && !state.contains_key("redis chat:ann");
    // What is spent of the old balance meanwhile is taken off what is parked of it.
    play(Story { before: alone, ended, spent_before: SPENT, spent_meanwhile: &[("ann", 2), ("bob", 4)], ..prefix })
        .await
}

const SPENT: super::Spent = &[("ann", 7), ("bob", 11), ("dan", 5)];

#[tokio::test]
async fn another_store_survives_a_kill_after_each_operation() -> Result<()> {
    let before = || vec![[vec![bed::second_store()], alone().concat()].concat()];
    let store = story("store", |bed| {
        let mut moved = chat(&[ann(), bob(), cid(), dan()]);
        moved["spec"]["storeRef"] = json!({"name": "second"});
        Box::pin(async move { bed.apply(&[moved]).await })
    });
    let ended = |state: &State| has(state, "1/chat:ann", "1000") && !state.contains_key("redis chat:ann");
    play(Story { before, ended, spent_before: SPENT, spent_meanwhile: &[("ann", 2), ("bob", 4)], ..store }).await
}

/// The other name of one Redis: there is nothing to move.
#[tokio::test]
async fn another_name_of_the_store_survives_a_kill_after_each_operation() -> Result<()> {
    let before = || vec![[vec![bed::store_under_another_name()], all().concat()].concat()];
    let store = story("name of the store", |bed| {
        let moved = [chat(&[ann(), bob(), cid(), dan()]), more(&[eve()])].map(|mut object| {
            object["spec"]["storeRef"] = json!({"name": "alias"});
            object
        });
        Box::pin(async move { bed.apply(&moved).await })
    });
    let ended = |state: &State| has(state, "chat:ann", "993") && has(state, "chat:eve", "67");
    play(Story { before, ended, ..store }).await
}
