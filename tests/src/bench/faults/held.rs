//! What is still held when all requests are over, and whether that ends by itself. Requests and Redis come in, counts go
//! out.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use testbed::eventually;

use super::bed::Bed;
use super::load::Asked;

/// How long a hold lasts, in seconds, and how long its keys at most.
const HOLD: i64 = 60;
const KEYS: i64 = 2 * HOLD;
const PIPELINED: usize = 1_000;

/// What is held for consumers whose requests are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Their charge did not reach the store: they expire.
    pub left: usize,
    /// Consumers of whom more is held, or for longer, than such holds explain. Of these there must be none.
    pub leaked: usize,
}

/// Counts again until nothing changes for the better: a hold whose check was heard too late is dropped afterwards.
pub(super) async fn held(bed: &Bed, asked: &[Asked]) -> Result<Holds> {
    let settled = eventually("what is held is explained", async || {
        let holds = count(bed, asked).await?;
        ensure!(holds.leaked == 0, "{holds:?}");
        Ok(holds)
    });
    match settled.await {
        Ok(holds) => Ok(holds),
        Err(_) => count(bed, asked).await,
    }
}

async fn count(bed: &Bed, asked: &[Asked]) -> Result<Holds> {
    let mut redis = bed.redis.connect().await?;
    let mut found = Holds::default();
    for some in asked.chunks(PIPELINED) {
        let (mut holds, mut lives) = (redis::pipe(), redis::pipe());
        let (mut amounts, mut sums) = (redis::pipe(), redis::pipe());
        for Asked { consumer, .. } in some {
            let keys = [bed.kind.holds(consumer), bed.kind.amounts(consumer)];
            let (hash, field) = bed.kind.sum(consumer);
            holds.cmd("ZRANGE").arg(&keys[0]).arg(0).arg(-1).arg("WITHSCORES");
            for key in &keys {
                lives.cmd("TTL").arg(key);
            }
            amounts.cmd("HGETALL").arg(&keys[1]);
            sums.cmd("HGET").arg(hash).arg(field);
        }
        let (now, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await?;
        let holds: Vec<BTreeMap<String, i64>> = holds.query_async(&mut redis).await?;
        let lives: Vec<i64> = lives.query_async(&mut redis).await?;
        let amounts: Vec<BTreeMap<String, i64>> = amounts.query_async(&mut redis).await?;
        let sums: Vec<Option<i64>> = sums.query_async(&mut redis).await?;
        for (((holds, lives), mut amounts), sum) in holds.iter().zip(lives.chunks(2)).zip(amounts).zip(sums) {
            amounts.remove("");
            found.left += holds.len();
            let expire = holds.values().all(|till| *till <= now + HOLD);
            // -2: there is no such key, -1: it stays for ever.
            let vanish = lives.iter().all(|left| match left {
                -2 => true,
                -1 => !bed.kind.holds_vanish(),
                left => (0..=KEYS).contains(left),
            });
            let explained = amounts.keys().eq(holds.keys()) && sum.unwrap_or(0) == amounts.values().sum::<i64>();
            found.leaked += usize::from(!(expire && vanish && explained));
        }
    }
    Ok(found)
}
