//! What the Lua library costs Redis: scripts per second, pipelined over one connection and many balances, beside the
//! plain commands that upstream's module sends, in the same run. A running, empty Redis comes in, figures go out.

use std::time::{Duration, Instant};

use anyhow::Result;
use enforcement::{
    redis::{
        Apply, Balance, Charge, Check, Command, Fence, Grant, Hold, Invocation, Period,
        limits::{self, Asks, Counter, Limit, Name},
    },
    wire::{
        RefreshMode,
        limit::{Dialect, Rate},
    },
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use redis::aio::MultiplexedConnection;

const BALANCES: usize = 10_000;
const PIPELINED: usize = 500;
const ON_THE_WAY: usize = 4;
const MEASURED: Duration = Duration::from_secs(2);
const OWNER: &str = "0c1d2e3f-7b3e-4f6a-9f0e-1f2a3b4c5d6e/higress-system/bench";

/// Applies so many new balances, some round trips on the way at once, and says how long that took.
///
/// # Errors
/// When Redis fails.
pub async fn seed(redis: &MultiplexedConnection, balances: usize) -> Result<Duration> {
    let balances: Vec<_> = (0..balances).map(|n| Balance::new("bare:", n.to_string().as_bytes())).collect();
    tell(&mut redis.clone()).await?;
    let begun = Instant::now();
    let sent = balances.chunks(PIPELINED).map(async |batch| {
        let calls: Vec<_> = batch.iter().map(|balance| apply(balance, None).evalsha()).collect();
        send(&mut redis.clone(), &calls).await
    });
    stream::iter(sent).buffered(ON_THE_WAY).try_collect::<()>().await?;
    Ok(begun.elapsed())
}

/// Calls per second of the scripts of limits, by name: with one counter and with ten.
///
/// # Errors
/// When Redis fails or refuses a command.
pub async fn limits(redis: &mut MultiplexedConnection) -> Result<Vec<(&'static str, f64)>> {
    let limits = |n: usize, counters| limits_on(&n.to_string(), counters);
    encoded(&limits::check(&limits(0, 1)).eval()).query_async::<redis::Value>(redis).await?;
    let calls = |call: &dyn Fn(&[Limit]) -> Invocation, counters| -> Vec<Command> {
        (0..BALANCES / counters).map(|n| call(&limits(n, counters)).evalsha()).collect()
    };
    let charge = |limits: &[Limit]| limits::charge(limits, 25, None);
    Ok(vec![
        ("check, one counter", measure(redis, &calls(&limits::check, 1)).await?),
        ("charge, one counter", measure(redis, &calls(&charge, 1)).await?),
        ("check, ten counters", measure(redis, &calls(&limits::check, 10)).await?),
        ("charge, ten counters", measure(redis, &calls(&charge, 10)).await?),
    ])
}

/// Scripts per second by name, with 10 and with 5,000 requests in flight whose tokens are held: a request comes and goes.
///
/// # Errors
/// When Redis fails or refuses a command.
pub async fn holds(redis: &mut MultiplexedConnection) -> Result<Vec<(&'static str, [f64; 2])>> {
    const LIVE: [usize; 2] = [10, 5_000];
    let [mut balances, mut one, mut ten] = [[0.0; 2]; 3];
    // Both of a row one after the other: what else the machine does meanwhile is nearly the same.
    for (live, figure) in LIVE.into_iter().zip(&mut balances) {
        let balance = Balance::new("held:", live.to_string().as_bytes());
        apply_to(redis, &balance).await?;
        let check = |id: &[u8]| {
            let hold = Some(held(id));
            Check { balance: &balance, need: 70, hold, default: None, owner: OWNER, yields: false, period: None }
                .invocation()
        };
        let charge = |id: &[u8]| {
            Charge { balance: &balance, tokens: 7, hold: Some(id), admitted_in: None, period: None }.invocation()
        };
        *figure = comes_and_goes(redis, live, &check, &charge).await?;
    }
    for (counters, figures) in [(1, &mut one), (10, &mut ten)] {
        for (live, figure) in LIVE.into_iter().zip(figures) {
            let limits = limits_on(&format!("held-{live}"), counters);
            encoded(&limits::check(&limits).eval()).query_async::<redis::Value>(redis).await?;
            let reserve = |id: &[u8]| limits::reserve(&limits, 70, held(id));
            let settle = |id: &[u8]| limits::settle(&limits, 7, id, None);
            *figure = comes_and_goes(redis, live, &reserve, &settle).await?;
        }
    }
    Ok(vec![
        ("check and charge of a balance", balances),
        ("reserve and settle of a counter", one),
        ("reserve and settle of ten counters", ten),
    ])
}

/// Scripts per second where so many requests stay, and one more is admitted and ends again and again.
async fn comes_and_goes(
    redis: &mut MultiplexedConnection,
    live: usize,
    admit: &dyn Fn(&[u8]) -> Invocation,
    end: &dyn Fn(&[u8]) -> Invocation,
) -> Result<f64> {
    let stay: Vec<_> = (0..live).map(|id| admit(format!("live-{id}").as_bytes()).evalsha()).collect();
    for batch in stay.chunks(PIPELINED) {
        send(redis, batch).await?;
    }
    let pair = [admit(b"new").evalsha(), end(b"new").evalsha()];
    measure(redis, &pair.into_iter().cycle().take(PIPELINED).collect::<Vec<_>>()).await
}

/// So many limits of one request, each under a rule of its own.
fn limits_on(value: &str, counters: usize) -> Vec<Limit> {
    let rate = Rate { tokens: 1_000_000_000_000, window_seconds: 3600 };
    let name = Name { dialect: Dialect::V2, rule: "bench", model: None, kept: Some(512), observed: false };
    let counter =
        |rule: usize| Counter::item(name, "limit_by_header", rate, &format!("x-tenant-{rule}"), value.as_bytes());
    (0..counters).map(|rule| Limit { counter: counter(rule), asks: Asks::Rate(rate) }).collect()
}

/// Operations per second by name: each script after the plain command it stands for.
///
/// # Errors
/// When Redis fails or refuses a command.
pub async fn run(redis: &mut MultiplexedConnection) -> Result<Vec<(&'static str, f64)>> {
    let balances: Vec<_> = (0..BALANCES).map(|n| Balance::new("bench:", n.to_string().as_bytes())).collect();
    let (now, _): (i64, i64) = redis::cmd("TIME").query_async(redis).await?;
    let boundaries = [(1, now - 7200), (2, now - 3600), (3, now + 3600), (4, now + 7200)];
    let period = Some(Period { schedule: "hourly", mode: RefreshMode::Reset, cap: 0, boundaries: &boundaries });

    let apply = |balance: &Balance| apply(balance, period);
    let check = |balance: &Balance| {
        Check { balance, need: 1, hold: None, default: None, owner: OWNER, yields: false, period }.invocation()
    };
    let charge =
        |balance: &Balance| Charge { balance, tokens: 25, hold: None, admitted_in: Some(2), period }.invocation();

    let commands = |call: &dyn Fn(&Balance) -> Command| balances.iter().map(call).collect::<Vec<_>>();
    let scripts = |call: &dyn Fn(&Balance) -> Invocation| commands(&|balance| call(balance).evalsha());

    // Every balance is seeded once.
    tell(redis).await?;
    let seeding = scripts(&apply);
    let seeded = Instant::now();
    for batch in seeding.chunks(PIPELINED) {
        send(redis, batch).await?;
    }
    let seeded = seeding.len() as f64 / seeded.elapsed().as_secs_f64();

    Ok(vec![
        ("GET", measure(redis, &commands(&|balance| Command::get(balance.as_bytes()))).await?),
        ("check", measure(redis, &scripts(&check)).await?),
        ("DECRBY", measure(redis, &commands(&|balance| Command::decr_by(balance.as_bytes(), 25))).await?),
        ("charge", measure(redis, &scripts(&charge)).await?),
        ("apply, new balances", seeded),
        ("apply, unchanged", measure(redis, &seeding).await?),
    ])
}

fn apply(balance: &Balance, period: Option<Period<'_>>) -> Invocation {
    let fence = Fence { term: 1, uid: "b4c5ba1c-7b3e-4f6a-9f0e-1f2a3b4c5d6e", generation: 1 };
    let grant = Grant::Tokens(1_000_000_000_000);
    Apply { balance, owner: OWNER, fence, grant, takeover: false, refresh: None, period }.invocation()
}

const fn held(id: &[u8]) -> Hold<'_> {
    Hold { id, expires_in: 3600 }
}

/// A balance, with a ledger as objects declare them.
async fn apply_to(redis: &mut MultiplexedConnection, balance: &Balance) -> Result<()> {
    Ok(encoded(&apply(balance, None).eval()).query_async(redis).await?)
}

/// Redis is told the library, by a call that changes nothing.
async fn tell(redis: &mut MultiplexedConnection) -> Result<()> {
    let balance = Balance::new("bench:", b"nobody");
    let check =
        Check { balance: &balance, need: 1, hold: None, default: None, owner: OWNER, yields: false, period: None }
            .invocation();
    encoded(&check.eval()).query_async::<redis::Value>(redis).await?;
    Ok(())
}

async fn measure(redis: &mut MultiplexedConnection, commands: &[Command]) -> Result<f64> {
    let (begun, mut done) = (Instant::now(), 0);
    for batch in commands.chunks(PIPELINED).cycle() {
        send(redis, batch).await?;
        done += batch.len();
        if begun.elapsed() >= MEASURED {
            break;
        }
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

async fn send(redis: &mut MultiplexedConnection, batch: &[Command]) -> Result<()> {
    let mut pipe = redis::pipe();
    for command in batch {
        pipe.add_command(encoded(command)).ignore();
    }
    Ok(pipe.query_async(redis).await?)
}

fn encoded(command: &Command) -> redis::Cmd {
    let mut encoded = redis::Cmd::new();
    for word in command.words() {
        encoded.arg(word);
    }
    encoded
}
