//! What a store that fails does to requests under load, through the built module in the test bed's gateway: what
//! `cargo xtask bench --faults` prints, and what a test asserts by outcomes and counts. A kind of rule and a fault come
//! in, one row of the table goes out.

mod audit;
mod bed;
mod fault;
mod held;
mod kind;
mod load;
mod overshoot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

pub use audit::Books;
pub use fault::Fault;
pub use held::Holds;
pub use kind::Kind;
pub use load::Counts;
pub use overshoot::{Overshoot, REQUESTS, measure, overshoot};

use super::{print, table};
use audit::audit;
use bed::Bed;
use held::held;
use load::{Load, Phase};

/// How much is played.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What everybody has.
    pub tokens: i64,
    /// The timeout of the store.
    pub timeout: Duration,
    /// Loops that ask again as soon as they were answered, but for a short pause.
    pub loops: usize,
    /// How many answers each phase is waited for: before, during and after the fault.
    pub answers: usize,
    /// Streams that were admitted before the fault and end during it.
    pub streams: usize,
    /// How long a fault lasts at least.
    pub lasts: Duration,
}

/// What `cargo xtask bench --faults` plays.
pub const FULL: Size = Size {
    tokens: 100_000,
    timeout: Duration::from_secs(1),
    loops: 50,
    answers: 500,
    streams: 50,
    lasts: Duration::from_secs(5),
};

/// What came of one fault.
#[derive(Clone, Debug)]
pub struct Played {
    pub counts: Counts,
    pub books: Books,
    /// Of a kind that reserves.
    pub holds: Holds,
    /// Callbacks of the module that trapped.
    pub traps: u64,
    /// Runs of the gateway's filter chain that have not ended, and answers of the model that nobody takes.
    pub stuck: usize,
    /// How late this machine woke a sleeper at worst: what it adds to a wait by itself.
    pub machine_late: Duration,
}

/// A module's own deadline is counted in ticks of 50 ms, of which the first may be due at once.
const TICK: Duration = Duration::from_millis(50);
/// What every request may take beyond its deadline.
const SLACK: Duration = Duration::from_millis(100);

impl Size {
    /// Within which every request is to have its answer.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.timeout + TICK + SLACK
    }
}

/// Plays one fault: requests flow, the store fails, streams end meanwhile, it heals, requests flow again.
///
/// # Errors
/// When something does not start, an answer is none of those that are documented, or those that are due do not come.
pub async fn play(kind: &Kind, fault: Fault, size: Size) -> Result<Played> {
    let context = || format!("{}: {}", kind.title(), fault.name());
    let mut bed = Bed::set(kind, fault, size).await.with_context(context)?;
    let played = async {
        let late = Lateness::watch();
        let mut load = Load::start(&bed, size.loops);
        load.answers(Phase::Before, kind.admitted(), size.answers).await?;
        let streams = load.admit_streams(&bed, size.streams).await?;
        load.enter(Phase::During);
        let lasts = tokio::time::sleep(size.lasts);
        fault.strike(&mut bed).await?;
        load.answers(Phase::During, fault.answered(kind), size.answers).await?;
        let ended = load.end(streams).await?;
        if fault.loses_charges(kind) {
            bed.reports(&ended).await?;
        }
        lasts.await;
        fault.heal(&mut bed).await?;
        load.enter(Phase::After);
        load.answers(Phase::After, kind.admitted(), size.answers).await?;
        let asked = load.stop().await?;
        let books = audit(&bed, fault, &asked).await?;
        let (traps, stuck) = (bed.gateway.traps(), bed.stuck(asked.len()).await?);
        let holds = if kind.reserves() { held(&bed, &asked).await? } else { Holds::default() };
        let (counts, machine_late) = (Counts::of(&asked), late.worst());
        Ok::<_, anyhow::Error>(Played { counts, books, holds, traps, stuck, machine_late })
    };
    played.await.with_context(context)
}

/// Plays all and prints the table of docs/reliability.md.
///
/// # Errors
/// As [`play`].
pub async fn run() -> Result<()> {
    let size = FULL;
    for kind in Kind::ALL.into_iter().chain(Kind::RESERVING) {
        let mut rows = if kind.reserves() { table(HEAD_RESERVING) } else { table(HEAD) };
        for fault in Fault::ALL {
            let Played { counts, books, holds, traps, stuck, machine_late } = play(&kind, fault, size).await?;
            eprintln!("{}: {:?}, {books:?}, {holds:?}", fault.name(), counts.answers);
            let mut row = vec![
                fault.name().to_owned(),
                fault.answered(&kind).to_owned(),
                counts.asked.to_string(),
                counts.during.to_string(),
                counts.longest.as_millis().to_string(),
                machine_late.as_millis().to_string(),
                counts.late(size.bound()).to_string(),
                (traps + stuck as u64).to_string(),
                books.unknown.to_string(),
                books.unknown_booked.to_string(),
                (books.twice + books.unreported + books.refused).to_string(),
            ];
            if kind.reserves() {
                row.extend([holds.left, holds.leaked].map(|count| count.to_string()));
            }
            rows.add_row(row);
        }
        let (timeout, bound) = (size.timeout.as_millis(), size.bound().as_millis());
        print(
            &format!("{}: timeout of the store {timeout} ms, every answer due within {bound} ms", kind.title()),
            &rows,
        );
    }
    let mut rows = table(["kind", "admission", "the model answers", "admitted", "refused", "overshoot, tokens"]);
    for Overshoot { kind, decided_first, admitted, refused, over } in overshoot().await? {
        let when = if decided_first { "when all are decided over" } else { "at once" };
        let counts = [admitted.to_string(), refused.to_string(), over.to_string()];
        rows.add_row([kind.name, kind.admission(), when].map(str::to_owned).into_iter().chain(counts));
    }
    print("500 requests at once on what suffices for 50, 100 tokens each", &rows);
    Ok(())
}

/// Measures how late sleepers are woken, as long as it lives.
struct Lateness {
    worst: Arc<AtomicU64>,
    _watch: JoinSet<()>,
}

impl Lateness {
    fn watch() -> Self {
        const NAP: Duration = Duration::from_millis(10);
        let (worst, mut watch) = (Arc::<AtomicU64>::default(), JoinSet::new());
        let seen = Arc::clone(&worst);
        watch.spawn(async move {
            loop {
                let begun = Instant::now();
                tokio::time::sleep(NAP).await;
                let late = begun.elapsed().saturating_sub(NAP).as_millis();
                seen.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { worst, _watch: watch }
    }

    fn worst(&self) -> Duration {
        Duration::from_millis(self.worst.load(Ordering::Relaxed))
    }
}

/// The columns of the table; a test compares them with docs/reliability.md.
pub const HEAD: [&str; 11] = [
    "fault",
    "answers meanwhile",
    "requests",
    "meanwhile",
    "longest wait, ms",
    "machine late, ms",
    "too late",
    "traps, stuck streams",
    "charges unknown",
    "of those booked",
    "booked wrongly",
];

/// The same for a kind that reserves.
pub const HEAD_RESERVING: [&str; 13] = {
    let [a, b, c, d, e, f, g, h, i, j, k] = HEAD;
    [a, b, c, d, e, f, g, h, i, j, k, "holds left to expire", "leaked"]
};
