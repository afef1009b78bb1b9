//! Whether what was booked is what was served, request by request: once, or not at all where the module says that it
//! does not know. Requests and Redis come in, counts go out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::{eventually, eventually_within};

use super::Fault;
use super::bed::Bed;
use super::load::{Asked, Phase};

/// What the charges of a load came to. Of those in the last three there must be none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Served and booked once; nothing was said about it.
    pub booked: usize,
    /// Of these the module says that they may not have been booked.
    pub unknown: usize,
    /// Of the unknown ones those that were.
    pub unknown_booked: usize,
    /// Booked otherwise than once: more than the request used.
    pub twice: usize,
    /// Served, not booked, and nothing was said about it.
    pub unreported: usize,
    /// Refused, and something was booked nevertheless.
    pub refused: usize,
}

const PIPELINED: usize = 1_000;

/// Waits until every charge is accounted for, and counts again when everything that may still be on its way has come.
pub(super) async fn audit(bed: &Bed, fault: Fault, asked: &[Asked]) -> Result<Books> {
    let settled = eventually("every charge is booked or reported", async || {
        let books = count(bed, fault, asked).await?;
        ensure!(books.unreported == 0, "{books:?}");
        Ok(())
    });
    let settled = settled.await;
    // The module's calls are answered in order: when both workers have had an answer again, those before it are done.
    let mut last = 0;
    eventually("both workers are answered by the store", async || {
        for _ in 0..2 {
            last += 1;
            answered(bed, &format!("last-{last}")).await?;
        }
        Ok(())
    })
    .await?;
    let books = count(bed, fault, asked).await?;
    settled.map(|()| books)
}

/// Asks for one who has not asked before, and waits until what that used is booked.
async fn answered(bed: &Bed, consumer: &str) -> Result<()> {
    let call = testbed::post(format!("{}/v1/chat/completions", bed.gateway.url()));
    let call = call.header("x-mse-consumer", consumer).json(&serde_json::json!({"model": "m", "messages": []}));
    let reply = call.send().await?;
    ensure!(reply.status == 200, "the last requests were answered {} {}", reply.status, reply.text());
    // Not for ever: what was admitted without the store may not be booked.
    eventually_within(Duration::from_secs(5), "it is booked", async || {
        let stored = bed.redis.get(&bed.kind.key(consumer)).await?;
        let stored = stored.map(|text| text.parse::<i64>().with_context(|| text.clone())).transpose()?;
        ensure!(bed.kind.booked(stored, bed.size.tokens) > 0, "{stored:?}");
        Ok(())
    })
    .await
}

async fn count(bed: &Bed, fault: Fault, asked: &[Asked]) -> Result<Books> {
    let logs = bed.gateway.logs();
    let mut unknown: BTreeMap<&str, i64> = BTreeMap::new();
    for (key, tokens) in logs.iter().filter_map(|line| bed.kind.unknown(&line.text)) {
        ensure!(unknown.insert(key, tokens).is_none(), "{key} is reported twice");
    }
    let mut redis = bed.redis.connect().await?;
    let mut books = Books::default();
    for some in asked.chunks(PIPELINED) {
        let keys: Vec<String> = some.iter().map(|asked| bed.kind.key(&asked.consumer)).collect();
        let stored: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query_async(&mut redis).await?;
        for ((asked, key), stored) in some.iter().zip(&keys).zip(stored) {
            let stored = stored.map(|text| text.parse::<i64>().with_context(|| text.clone())).transpose()?;
            let booked = bed.kind.booked(stored, bed.size.tokens);
            let silence = match asked.phases.0 {
                Phase::Before if fault.forgets() => Silence::Forgotten,
                Phase::During if fault.replaces_module() => Silence::Replaced,
                _ => Silence::Wrong,
            };
            books.add(asked, booked, bed.kind.admitted(), unknown.get(&**key), silence);
        }
    }
    Ok(books)
}

impl Books {
    fn add(&mut self, asked: &Asked, booked: i64, admitted: &str, unknown: Option<&i64>, silence: Silence) {
        let once = booked == asked.tokens;
        match (asked.answer == admitted, unknown, silence) {
            (false, None, _) if booked == 0 => {}
            (false, _, _) => self.refused += 1,
            (true, _, _) if booked != 0 && !once => self.twice += 1,
            (true, Some(tokens), _) if *tokens == asked.tokens => {
                self.unknown += 1;
                self.unknown_booked += usize::from(once);
            }
            (true, None, _) if once => self.booked += 1,
            (true, None, Silence::Forgotten) => self.booked += 1,
            (true, None, Silence::Replaced) => self.unknown += 1,
            (true, _, _) => self.unreported += 1,
        }
    }
}

/// Why a served request may be neither booked nor reported.
#[derive(Clone, Copy)]
enum Silence {
    /// For no reason.
    Wrong,
    /// The store has forgotten what was booked.
    Forgotten,
    /// The module was replaced while the charge was on its way.
    Replaced,
}
