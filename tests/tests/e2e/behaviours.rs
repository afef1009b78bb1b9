//! The behaviour suite: what a balance does, each behaviour by name, on real Redis. What a request can reach is
//! written once and played through two doors: the scripts directly, and the built module in the gateway.

mod administering;
mod applying;
mod comparing;
mod door;
mod failing;
mod gate;
mod holding;
mod leaving;
mod observing;
mod oracle;
mod refreshing;
mod removing;
mod requesting;
mod rolling;
mod stage;

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use anyhow::Result;
use door::Door;
use e2e::raw::Raw;
use futures::FutureExt as _;
use gate::Gate;
use stage::{Setting, Setup, Stage};
use testbed::{Redis, RedisOptions};
use tokio::sync::Mutex;

type Played = Pin<Box<dyn Future<Output = Result<()>>>>;

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
const REACHABLE: &[&[Behaviour]] = &[requesting::SUITE, rolling::SUITE, administering::SUITE, leaving::SUITE];

/// The policies of all behaviours, with tables around Redis' clock, and that clock.
async fn settings(redis: &Redis, suites: &[&[Behaviour]]) -> Result<(Vec<Setting>, i64)> {
    let (now, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis.connect().await?).await?;
    let numbered = suites.iter().copied().flatten().enumerate();
    Ok((numbered.map(|(number, behaviour)| Setting::new(number, behaviour.setup, now)).collect(), now))
}

/// Plays every behaviour, also after one failed, and names all that failed.
async fn play(
    redis: &Redis,
    door: Arc<Door>,
    suites: &[&[Behaviour]],
    (settings, now): (Vec<Setting>, i64),
) -> Result<()> {
    let raw = Arc::new(Mutex::new(Raw::connect(&redis.addr()).await?));
    let mut failed = Vec::new();
    for (Behaviour { name, setup: _, play }, setting) in suites.iter().copied().flatten().zip(settings) {
        let stage = Stage::new(setting, now, door.clone(), redis.connect().await?, raw.clone());
        match AssertUnwindSafe(play(stage)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error:#}")),
            Err(_) => failed.push(format!("{name}: panicked, see above")),
        }
    }
    anyhow::ensure!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

async fn play_scripts(suites: &[&[Behaviour]]) -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let door = Door::Scripts(Mutex::new(Raw::connect(&redis.addr()).await?));
    let settings = settings(&redis, suites).await?;
    play(&redis, Arc::new(door), suites, settings).await
}

#[tokio::test]
async fn what_requests_reach_holds_for_the_scripts() -> Result<()> {
    play_scripts(REACHABLE).await
}

#[tokio::test]
async fn what_requests_reach_holds_for_the_module_in_the_gateway() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let settings = settings(&redis, REACHABLE).await?;
    let door = Arc::new(Door::Gateway(Gate::open(&redis, &settings.0).await?));
    play(&redis, door.clone(), REACHABLE, settings).await?;
    match &*door {
        Door::Gateway(gate) => gate.ensure_no_traps(),
        Door::Scripts(_) => Ok(()),
    }
}

#[tokio::test]
async fn what_objects_declare_becomes_the_balance() -> Result<()> {
    play_scripts(&[applying::SUITE, refreshing::SUITE]).await
}

#[tokio::test]
async fn what_objects_declare_no_longer_is_parked_released_or_deleted() -> Result<()> {
    play_scripts(&[removing::SUITE]).await
}

#[tokio::test]
async fn what_is_only_observed_counts_against_nothing() -> Result<()> {
    play_scripts(&[observing::SUITE]).await
}

#[tokio::test]
async fn holds_and_late_charges_are_settled() -> Result<()> {
    play_scripts(&[holding::SUITE]).await
}
