//! What leaves: consumers that are not listed any more and listed again, objects that are deleted.

use anyhow::Result;
use serde_json::{Value, json};

use super::state::State;
use super::{Interruption, Story, all, ann, chat, cid, play, story};

#[tokio::test]
async fn removing_consumers_survives_a_kill_after_each_operation() -> Result<()> {
    let remove = story("remove", |bed| Box::pin(async { bed.apply(&[chat(&[ann(), cid()])]).await }));
    let ended = |state: &State| ["bob", "dan"].iter().all(|name| parked(state, name));
    play(Story { ended, ..remove }).await
}

#[tokio::test]
async fn listing_consumers_again_survives_a_kill_after_each_operation() -> Result<()> {
    let before = || [all(), vec![vec![chat(&[ann(), cid()])]]].concat();
    let relist = story("relist", |bed| Box::pin(async { bed.apply(&all().concat()).await }));
    play(Story { before, ..relist }).await
}

#[tokio::test]
async fn a_deletion_that_retains_survives_a_kill_after_each_operation() -> Result<()> {
    let delete = story("delete, Retain", |bed| Box::pin(bed.delete("chat")));
    let ended = |state: &State| {
        is_ruled_by_more(state) && ledger(state, "ann").is_some_and(|ledger| ledger.get("owner").is_none())
    };
    play(Story { ended, ..delete }).await
}

/// The object is deleted with its balances.
fn delete() -> Story {
    let before = || {
        let mut objects = all();
        objects[0][1]["spec"]["deletionPolicy"] = json!("Delete");
        objects
    };
    let ended = |state: &State| is_ruled_by_more(state) && ledger(state, "ann").is_none();
    // What is spent of deleted balances is spent of nothing.
    let delete = story("delete, Delete", |bed| Box::pin(bed.delete("chat")));
    Story { before, ended, spent_meanwhile: &[("eve", 6)], ..delete }
}

#[tokio::test]
async fn a_deletion_that_deletes_survives_a_kill_after_each_operation() -> Result<()> {
    play(delete()).await
}

#[tokio::test]
async fn a_deletion_that_deletes_survives_broken_connections_after_each_operation() -> Result<()> {
    play(Story { interruption: Interruption::Break, ..delete() }).await
}

/// What a request made from the default of the object that goes follows that of the object that stays: it is not among
/// what is deleted.
#[tokio::test]
async fn a_deletion_that_leaves_a_default_to_another_object_survives_a_kill_after_each_operation() -> Result<()> {
    let before = || {
        let mut objects = all();
        objects[0][1]["spec"]["deletionPolicy"] = json!("Delete");
        for object in &mut objects[0][1..] {
            object["spec"]["defaultQuota"] = json!(1000);
        }
        objects
    };
    let ended = |state: &State| {
        let kept = ledger(state, "zoe").and_then(|ledger| ledger["owner"].as_str()?.rsplit('/').next());
        is_ruled_by_more(state) && ledger(state, "ann").is_none() && kept == Some("chat")
    };
    let heir = story("delete, leave a default", |bed| {
        Box::pin(async {
            bed.start("zoe", "ann", 1000).await?;
            bed.delete("chat").await
        })
    });
    play(Story { before, ended, spent_meanwhile: &[("zoe", 8), ("eve", 6)], ..heir }).await
}

fn ledger<'a>(state: &'a State, consumer: &str) -> Option<&'a Value> {
    state.get(&format!("redis {{chat:{consumer}}}:ledger"))
}

fn parked(state: &State, consumer: &str) -> bool {
    !state.contains_key(&format!("redis chat:{consumer}")) && ledger(state, consumer).is_some()
}

/// Whether the gateway has the rule of the object that stays, and only that.
fn is_ruled_by_more(state: &State) -> bool {
    let policies = &state["WasmPlugin aiquota-ai-quota"]["spec"]["defaultConfig"]["aiquota"]["policies"];
    let ready = state["AIQuota more"]["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    ready && policies.as_object().is_some_and(|policies| policies.keys().eq(["higress-system/more"]))
}
