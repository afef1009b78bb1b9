//! How much 500 requests at once spend of what suffices for 50: what `admission` lets through before the first charge
//! is booked. Counts and tokens go out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use testbed::{eventually, post};

use super::bed::Bed;
use super::{Fault, Kind, Size};

pub const REQUESTS: usize = 500;
const SUFFICES_FOR: i64 = 50;
const COSTS: i64 = 100;

/// Long enough that nobody is refused for it, on any machine.
const SIZE: Size = Size {
    tokens: SUFFICES_FOR * COSTS,
    timeout: Duration::from_secs(30),
    loops: 0,
    answers: 0,
    streams: 0,
    lasts: Duration::ZERO,
};

/// What became of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overshoot {
    pub kind: Kind,
    pub admission: &'static str,
    /// Whether the model answered nobody before all were decided over.
    pub decided_first: bool,
    pub admitted: usize,
    pub refused: usize,
    /// Tokens beyond what there was.
    pub over: i64,
}

/// Each kind, with a model that thinks until all are decided over, and with one that answers at once.
///
/// # Errors
/// When something does not start, or an answer is another one.
pub async fn overshoot() -> Result<Vec<Overshoot>> {
    let mut all = Vec::new();
    // What a failing store leads to makes no difference here.
    for kind in Kind::ALL.into_iter().filter(Kind::is_usual) {
        for decided_first in [true, false] {
            all.push(measure(kind, decided_first).await?);
        }
    }
    Ok(all)
}

async fn measure(kind: Kind, decided_first: bool) -> Result<Overshoot> {
    let bed = Bed::set(&kind, Fault::Nothing, SIZE).await?;
    let gate = bed.model.gate("thinks");
    if !decided_first {
        gate.open();
    }
    let refused = AtomicUsize::new(0);
    let requests = (0..REQUESTS).map(async |_| {
        let call = post(format!("{}/v1/chat/completions", bed.gateway.url())).header("x-mse-consumer", "everybody");
        let call = call.header("x-test-usage", format!("10,{}", COSTS - 10)).header("x-test-gate", "thinks");
        let reply = call.json(&json!({"model": "qwen-max", "stream": true, "messages": []})).send().await?;
        let text = reply.text();
        let answer = kind.answer(reply.status, &text);
        let answer = answer.with_context(|| format!("a request was answered {} {text}", reply.status))?;
        if answer == kind.spent() {
            refused.fetch_add(1, Ordering::SeqCst);
        }
        anyhow::Ok(answer)
    });
    let decided = async {
        let decided = eventually("all are decided over", async || {
            let decided = gate.waiting() + refused.load(Ordering::SeqCst);
            ensure!(!decided_first || decided == REQUESTS, "{decided} are");
            Ok(())
        });
        decided.await?;
        gate.open();
        anyhow::Ok(())
    };
    let (answers, ()) = futures::try_join!(try_join_all(requests), decided)?;
    let count = |wanted: &str| answers.iter().filter(|answer| **answer == wanted).count();
    let (admitted, refused) = (count(kind.admitted()), count(kind.spent()));
    ensure!(admitted + refused == REQUESTS, "{admitted} were admitted and {refused} refused");
    let charges = i64::try_from(admitted)?;
    let due = kind.books(charges, COSTS, SIZE.tokens);
    eventually("all is booked, once", async || {
        let stored = bed.redis.get(&kind.key("everybody")).await?.context("nothing is stored")?;
        let booked = kind.booked(Some(stored.parse()?), SIZE.tokens);
        ensure!(booked == due, "{booked} tokens are booked, expected {due}");
        Ok(())
    })
    .await?;
    let over = (charges * COSTS - SIZE.tokens).max(0);
    Ok(Overshoot { kind, admission: "Check", decided_first, admitted, refused, over })
}
