//! What the control plane costs others, at five hundred objects: writes to the API server and to Redis by their own
//! counters. Counts, not times: `cargo xtask bench --scale` has those.

use anyhow::{Result, ensure};
use e2e::bench::scale::{Bed, Counts, Edit, Size};

const SIZE: Size = Size { objects: 500, consumers: 10, routes: 50, spare_routes: 1 };
const OBJECTS: u64 = SIZE.objects as u64;
const BALANCES: u64 = SIZE.balances() as u64;
/// Of the object that is edited.
const CONSUMERS: u64 = SIZE.consumers as u64;

/// A balance and its ledger; the list of owners, and of each of them the list of its balances; what tells the database.
const KEYS: usize = 2 * SIZE.balances() + 1 + SIZE.objects + 1;
/// What tells the database from others.
const CHANGES_PER_DATABASE: u64 = 1;
/// The balance, and in its ledger layout, owner, uid, term, generation, grant, used; its entry in the owner's list.
const CHANGES_PER_BALANCE: u64 = 9;
/// Its entry in the list of owners.
const CHANGES_PER_OBJECT: u64 = 1;
/// The fence of an edited object, in the ledger of each of its consumers: owner, uid, term, generation.
const CHANGES_PER_FENCE: u64 = 4;

/// What came on top of `before`, when nothing more comes.
async fn since(bed: &Bed, before: &Counts) -> Result<Counts> {
    bed.settle().await?;
    Ok(bed.counts().await?.since(before))
}

/// The names of the objects that were written to.
async fn touched(bed: &Bed, before: &[(String, String)]) -> Result<Vec<String>> {
    let now = bed.versions().await?;
    Ok(now.into_iter().filter(|version| !before.contains(version)).map(|(name, _)| name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_objects_cost_the_writes_they_need_and_unchanged_ones_none() -> Result<()> {
    let bed = Bed::set(SIZE).await?;
    bed.create().await?;

    let before = bed.counts().await?;
    bed.start_controller().await?;
    let start = since(&bed, &before).await?;
    // One says that all is well. Where the balances take longer than a round waits for a store, one before says so.
    let statuses = start.written("PATCH aiquotas/status");
    ensure!((OBJECTS..=2 * OBJECTS).contains(&statuses), "{start:?}");
    // The guard and the rules; those of objects whose balances came late are added by another write.
    ensure!(start.written("POST wasmplugins") == 2 && start.written("PUT wasmplugins") <= 1, "{start:?}");
    let changes = BALANCES * CHANGES_PER_BALANCE + OBJECTS * CHANGES_PER_OBJECT + CHANGES_PER_DATABASE;
    ensure!(start.redis_changes == changes, "{start:?}");
    ensure!(bed.keys().await? == KEYS, "{} keys", bed.keys().await?);
    // Nothing is wrong with any of them: nobody is told anything.
    ensure!(start.api.keys().all(|what| !what.ends_with("events")), "{start:?}");

    let before = bed.counts().await?;
    bed.start_controller().await?;
    let again = since(&bed, &before).await?;
    ensure!(again.api.is_empty() && again.redis_changes == 0, "{again:?}");
    // It is asked about each of them once, in case somebody else changed something.
    ensure!(again.redis.get("evalsha") == Some(&BALANCES), "{again:?}");

    let (before, versions) = (bed.counts().await?, bed.versions().await?);
    bed.edit(Edit::Grant, 217, 0).await?;
    let grant = since(&bed, &before).await?;
    ensure!(touched(&bed, &versions).await? == ["quota-00217"], "{grant:?}");
    ensure!(grant.written("PATCH aiquotas/status") == 1, "{grant:?}");
    // One balance and its grant.
    ensure!(grant.redis_changes == CONSUMERS * CHANGES_PER_FENCE + 2, "{grant:?}");

    let (before, versions) = (bed.counts().await?, bed.versions().await?);
    bed.edit(Edit::Rule, 217, 0).await?;
    let rule = since(&bed, &before).await?;
    ensure!(touched(&bed, &versions).await? == ["quota-00217", "aiquota-ai-quota"], "{rule:?}");
    ensure!(rule.written("PUT wasmplugins") == 1, "{rule:?}");
    // That the rule waits for the next write may be said before it is there.
    ensure!((1..=2).contains(&rule.written("PATCH aiquotas/status")), "{rule:?}");
    ensure!(rule.redis_changes == CONSUMERS * CHANGES_PER_FENCE, "{rule:?}");
    Ok(())
}
