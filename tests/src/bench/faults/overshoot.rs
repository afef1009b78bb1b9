//! How much 500 requests at once spend of what suffices for 50: what `admission` lets through before the first charge
//! is booked. Counts and tokens go out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use testbed::{eventually, post};

use super::bed::Bed;
use super::{Fault, Kind, Size};

pub const REQUESTS: usize = 500;
const SUFFICES_FOR: i64 = 50;
const ESTIMATED: i64 = 100;

/// Long enough that nobody is refused for it, on any machine.
const SIZE: Size = Size {
    tokens: SUFFICES_FOR * ESTIMATED,
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
    /// Whether the model answered nobody before all were decided over.
    pub decided_first: bool,
    pub admitted: usize,
    pub refused: usize,
    /// Tokens beyond what there was.
    pub over: i64,
}

/// Each kind and admission, with a model that thinks until all are decided over, and with one that answers at once.
///
/// # Errors
/// When something does not start, or an answer is another one.
pub async fn overshoot() -> Result<Vec<Overshoot>> {
    let mut all = Vec::new();
    // What a failing store leads to makes no difference here.
    for kind in Kind::ALL.into_iter().filter(Kind::is_usual) {
        for kind in [kind, kind.reserving()] {
            for decided_first in [true, false] {
                all.push(measure(kind, decided_first, ESTIMATED).await?);
            }
        }
    }
    Ok(all)
}

/// 500 requests that each use so many tokens and are estimated at 100, on what suffices for 50 such.
///
/// # Errors
/// As [`overshoot`].
pub async fn measure(kind: Kind, decided_first: bool, costs: i64) -> Result<Overshoot> {
    let bed = Bed::set(&kind, Fault::Nothing, SIZE).await?;
    let gate = bed.model.gate("thinks");
    if !decided_first {
        gate.open();
    }
    let refused = AtomicUsize::new(0);
    let body = body()?;
    let requests = (0..REQUESTS).map(async |_| {
        let call = post(format!("{}/v1/chat/completions", bed.gateway.url())).header("x-mse-consumer", "everybody");
        let call = call.header("x-test-usage", format!("10,{}", costs - 10)).header("x-test-gate", "thinks");
        let reply = call.json(&body).send().await?;
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
    let due = kind.books(charges, costs, SIZE.tokens);
    eventually("all is booked, once, and nothing is held any more", async || {
        let stored = bed.redis.get(&kind.key("everybody")).await?.context("nothing is stored")?;
        let booked = kind.booked(Some(stored.parse()?), SIZE.tokens);
        ensure!(booked == due, "{booked} tokens are booked, expected {due}");
        let held: i64 =
            redis::cmd("ZCARD").arg(kind.holds("everybody")).query_async(&mut bed.redis.connect().await?).await?;
        ensure!(held == 0, "{held} holds are left");
        Ok(())
    })
    .await?;
    let over = (charges * costs - SIZE.tokens).max(0);
    Ok(Overshoot { kind, decided_first, admitted, refused, over })
}

/// A request that is estimated at 100 tokens: its own length and what it lets its answer have.
fn body() -> Result<Value> {
    let body = |max: i64| json!({"model": "qwen-max", "stream": true, "messages": [], "max_tokens": max});
    let own = i64::try_from(body(10).to_string().len().div_ceil(4))?;
    ensure!((10..100).contains(&(ESTIMATED - own)), "the body is {own} tokens long");
    Ok(body(ESTIMATED - own))
}
