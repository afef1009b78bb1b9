//! `cargo xtask bench --scale`: plays every phase once, at full size, and prints what each took. A size comes in,
//! tables go to standard output.

use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Table;

use super::{Bed, Counts, Edit, Edited, Round, Size};
use crate::bench::{print, table};

/// Plays and prints.
///
/// # Errors
/// When something does not start, or objects do not become ready.
pub async fn run(objects: usize, edits: usize) -> Result<()> {
    let size = Size { objects, consumers: 10, routes: objects.div_ceil(10), spare_routes: edits };
    println!("{objects} AIQuota x {} consumers on {} routes\n", size.consumers, size.routes);
    let bed = Bed::set(size).await?;
    let mut phases = Phases::new();

    phases.bare("objects created", bed.create().await?);
    let patching = bed.patch_statuses().await?;
    phases.bare("bare status patches of all", patching);
    let seeding = bed.seed_bare().await?;
    phases.bare("bare seeding of all balances", seeding);

    let before = bed.counts().await?;
    let first = bed.start_controller().await?;
    bed.settle().await?;
    phases.controlled("empty Redis, until all are ready", first.took, &bed, &before).await?;

    let mut latencies = table(["ms", "in force, p50", "in force, p99", "reported, p50", "reported, p99"]);
    for (edit, name) in [(Edit::Grant, "a grant (Redis)"), (Edit::Rule, "a target (WasmPlugin)")] {
        let (before, begun) = (bed.counts().await?, Instant::now());
        let mut edited = Vec::with_capacity(edits);
        for turn in 0..edits {
            // Objects of all ages, and no two on one route.
            edited.push(bed.edit(edit, turn * 197 % objects, turn).await?);
        }
        let took = begun.elapsed();
        bed.settle().await?;
        phases.controlled(&format!("{edits} edits of {name}"), took, &bed, &before).await?;
        add_latencies(&mut latencies, name, &edited);
    }

    let before = bed.counts().await?;
    let again = bed.start_controller().await?;
    bed.settle().await?;
    phases.controlled("unchanged restart, until all are known", again.took, &bed, &before).await?;

    print("By phase", &phases.table);
    let mut ratios = table(["", "controller, s", "bare, s", "times"]);
    let seeded: Duration = first.rounds.iter().map(|round| round.step("seeding")).sum();
    for (what, took, bare) in [("all ready / status patches", first.took, patching), ("seeding", seeded, seeding)] {
        let times = format!("{:.1}", took.as_secs_f64() / bare.as_secs_f64());
        ratios.add_row([what.to_owned(), seconds(took), seconds(bare), times]);
    }
    print("Beside bare writes of the same, in the same run", &ratios);
    print("One edit, one after the other, counted from the API server's answer", &latencies);
    print(
        "The controller's rounds, ms",
        &steps(&[
            ("first", first.rounds.first()),
            ("first after the restart", again.rounds.first()),
            ("without a change", bed.rounds().last()),
        ]),
    );
    Ok(())
}

struct Phases {
    table: Table,
    /// Of the controller, in phases before.
    processor: Duration,
}

impl Phases {
    fn new() -> Self {
        let table = table([
            "phase",
            "s",
            "statuses patched",
            "WasmPlugins written",
            "other API writes",
            "scripts",
            "Redis changes",
            "CPU of the controller, s",
            "memory, MiB",
            "at most, MiB",
        ]);
        Self { table, processor: Duration::ZERO }
    }

    fn bare(&mut self, name: &str, took: Duration) {
        self.table.add_row([name.to_owned(), seconds(took)]);
    }

    /// The controller runs; `before` was counted when the phase began.
    async fn controlled(&mut self, name: &str, took: Duration, bed: &Bed, before: &Counts) -> Result<()> {
        let Counts { api, redis, redis_changes } = bed.counts().await?.since(before);
        let usage = bed.usage()?;
        // A controller that was restarted begins anew.
        let processor = usage.processor.checked_sub(self.processor).unwrap_or(usage.processor);
        self.processor = usage.processor;
        let sum =
            |of: &dyn Fn(&str) -> bool| api.iter().filter(|(what, _)| of(what)).map(|(_, count)| count).sum::<u64>();
        let statuses = sum(&|what| what == "PATCH aiquotas/status");
        let plugins = sum(&|what| what.ends_with(" wasmplugins"));
        let scripts = ["eval", "evalsha"].iter().filter_map(|name| redis.get(*name)).sum::<u64>();
        self.table.add_row([
            name.to_owned(),
            seconds(took),
            statuses.to_string(),
            plugins.to_string(),
            (sum(&|_| true) - statuses - plugins).to_string(),
            scripts.to_string(),
            redis_changes.to_string(),
            seconds(processor),
            usage.resident.to_string(),
            usage.peak.to_string(),
        ]);
        eprintln!("{name}: API {api:?}, Redis {redis:?}");
        Ok(())
    }
}

fn add_latencies(table: &mut Table, name: &str, edited: &[Edited]) {
    let quantile = |of: &dyn Fn(&Edited) -> Duration, part: f64| {
        let mut all: Vec<Duration> = edited.iter().map(of).collect();
        all.sort_unstable();
        let at = (all.len() as f64 * part).ceil() as usize;
        all.get(at.max(1) - 1).map(|took| took.as_millis().to_string()).unwrap_or_default()
    };
    let (in_force, reported) = (|edited: &Edited| edited.in_force, |edited: &Edited| edited.reported);
    table.add_row([
        name.to_owned(),
        quantile(&in_force, 0.5),
        quantile(&in_force, 0.99),
        quantile(&reported, 0.5),
        quantile(&reported, 0.99),
    ]);
}

fn steps(rounds: &[(&str, Option<&Round>)]) -> Table {
    let names = ["snapshot", "plan", "seeding", "program", "writing", "reporting"];
    let mut table = table(["round", names[0], names[1], names[2], names[3], names[4], names[5]]);
    for (name, round) in rounds {
        let took = names.map(|step| round.map(|round| round.step(step).as_millis().to_string()).unwrap_or_default());
        table.add_row([(*name).to_owned()].into_iter().chain(took));
    }
    table
}

fn seconds(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64())
}
