//! The behaviour suite: what a balance does, each behaviour by name, on real Redis. What a request can reach is
//! written once and played through two doors: the scripts directly, and the built module in the gateway.

mod administering;
mod applying;
mod comparing;
mod door;
mod holding;
mod oracle;
mod requesting;
mod rolling;
mod stage;

use std::{future::Future, pin::Pin, sync::Arc};

use anyhow::Result;
use door::Door;
use e2e::raw::Raw;
use stage::{Setup, Stage};
use testbed::{Redis, RedisOptions};
use tokio::sync::Mutex;

type Played = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One line of a suite: what is true, under which policy, and how it is seen.
struct Behaviour {
    name: &'static str,
    setup: Setup,
    play: fn(Stage) -> Played,
}

const fn behaviour(name: &'static str, setup: Setup, play: fn(Stage) -> Played) -> Behaviour {
    Behaviour { name, setup, play }
}

/// What a request or an administrator reaches, through either door.
const REACHABLE: &[&[Behaviour]] = &[requesting::SUITE, rolling::SUITE, administering::SUITE];

/// Plays every behaviour, also after one failed, and names all that failed.
async fn play(redis: &Redis, door: Door, suites: &[&[Behaviour]]) -> Result<()> {
    let door = Arc::new(door);
    let raw = Arc::new(Mutex::new(Raw::connect(&redis.addr()).await?));
    let mut failed = Vec::new();
    for (number, Behaviour { name, setup, play }) in suites.iter().copied().flatten().enumerate() {
        let mut connection = redis.connect().await?;
        let (now, _): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let stage = Stage::new(door.clone(), connection, raw.clone(), stage::policy(number, *setup, now), now);
        match tokio::spawn(play(stage)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error:#}")),
            Err(panic) => failed.push(format!("{name}: {panic}")),
        }
    }
    anyhow::ensure!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

async fn play_scripts(suites: &[&[Behaviour]]) -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let door = Door::Scripts(Mutex::new(Raw::connect(&redis.addr()).await?));
    play(&redis, door, suites).await
}

#[tokio::test]
async fn what_requests_reach_holds_for_the_scripts() -> Result<()> {
    play_scripts(REACHABLE).await
}

#[tokio::test]
async fn what_objects_declare_becomes_the_balance() -> Result<()> {
    play_scripts(&[applying::SUITE]).await
}

#[tokio::test]
async fn holds_and_late_charges_are_settled() -> Result<()> {
    play_scripts(&[holding::SUITE]).await
}
