//! How far 500 requests at once get below zero on a balance for 50: what `admission` lets through before the first
//! charge is booked. Counts and tokens go out.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use testbed::{eventually, post};

use super::bed::Bed;
use super::kind::{NO_QUOTA, PREFIX};
use super::{Fault, Kind, Size};

const REQUESTS: usize = 500;
const SUFFICES_FOR: i64 = 50;
const TOKENS: i64 = 100;

/// Long enough that nobody is refused for it, on any machine.
const SIZE: Size = Size { timeout: Duration::from_secs(30), loops: 0, answers: 0, streams: 0, lasts: Duration::ZERO };

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overshoot {
    pub admission: &'static str,
    pub admitted: usize,
    pub refused: usize,
    /// The balance when all is booked; below zero where more was spent than there was.
    pub left: i64,
}

/// With a model that thinks until all are decided, and with one that answers at once.
///
/// # Errors
/// When something does not start, or an answer is another one.
pub async fn overshoot() -> Result<Vec<(&'static str, Overshoot)>> {
    let kind = &Kind::ALL[0];
    Ok(vec![("when all are decided", measure(kind, true).await?), ("at once", measure(kind, false).await?)])
}

async fn measure(kind: &Kind, thinks: bool) -> Result<Overshoot> {
    let bed = Bed::set(kind, Fault::Nothing, SIZE).await?;
    let key = format!("{PREFIX}everybody");
    let balance = SUFFICES_FOR * TOKENS;
    bed.redis.set(&key, balance).await?;
    let gate = bed.model.gate("thinks");
    if !thinks {
        gate.open();
    }
    let refused = std::sync::atomic::AtomicUsize::new(0);
    let requests = (0..REQUESTS).map(async |_| {
        let call = post(format!("{}/v1/chat/completions", bed.gateway.url())).header("x-mse-consumer", "everybody");
        let call = call.header("x-test-usage", format!("{},{}", 10, TOKENS - 10)).header("x-test-gate", "thinks");
        let reply = call.json(&json!({"model": "qwen-max", "stream": true, "messages": []})).send().await?;
        let text = reply.text();
        let answer = kind.answer(reply.status, &text);
        let answer = answer.with_context(|| format!("a request was answered {} {text}", reply.status))?;
        if answer == NO_QUOTA {
            refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        anyhow::Ok(answer)
    });
    let decided = async {
        let decided = eventually("all are decided", async || {
            let decided = gate.waiting() + refused.load(std::sync::atomic::Ordering::SeqCst);
            ensure!(!thinks || decided == REQUESTS, "{decided} are");
            Ok(())
        });
        decided.await?;
        gate.open();
        anyhow::Ok(())
    };
    let (answers, ()) = futures::try_join!(try_join_all(requests), decided)?;
    let count = |wanted: &str| answers.iter().filter(|answer| **answer == wanted).count();
    let (admitted, refused) = (count(kind.admitted()), count(NO_QUOTA));
    ensure!(admitted + refused == REQUESTS, "{admitted} were admitted and {refused} refused");
    let expected = balance - TOKENS * i64::try_from(admitted)?;
    eventually("all is booked", async || {
        let left = bed.redis.get(&key).await?.context("no balance")?;
        ensure!(left == expected.to_string(), "{left} tokens are left, {expected} were not spent");
        Ok(())
    })
    .await?;
    Ok(Overshoot { admission: "Check", admitted, refused, left: expected })
}
