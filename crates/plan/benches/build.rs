//! How long a plan takes at the size the design names: `cargo bench -p aiquota-plan`. Prints the best and the
//! median of 20 runs per step.

use std::time::{Duration, Instant};

use plan::{Answers, Deletions, Figures, Seeded, Write, Writes};

#[path = "../tests/large/mod.rs"]
mod world;

fn main() {
    let world = world::world(10_000, 10, 1_000);
    let plan = plan::build(&world);
    let seeded = vec![Seeded::Applied; plan.seeds.len()];
    let figures = vec![Some(Figures { balance: Some(1), used: 0 }); plan.seeds.len()];
    let answers = Answers { seeded: &seeded, figures: &figures, ..Answers::default() };
    let program = plan::program(&plan, &seeded);
    let writes: Writes = program.plugins.iter().map(|plugin| (plugin.name, Write::Done)).collect();
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;

    println!("10,000 objects x 10 consumers on 1,000 routes");
    measure("build", || plan::build(&world).seeds.len());
    measure("program", || plan::program(&plan, &seeded).plugins.len());
    measure("status of all", || {
        (0..plan.verdicts.len())
            .map(|verdict| {
                plan::status(&plan, verdict, answers, &program, &writes, &Deletions::new(), now).conditions.len()
            })
            .sum()
    });

    let world = world::world_of_wide_objects(1_000, 5);
    println!("1,000 objects on 5,000 routes");
    measure("build", || plan::build(&world).seeds.len());

    let mut world = world::world_of_rare_schedules(1_000);
    println!("1,000 objects with 1,000 schedules that come once in four years");
    measure("build, no table known", || plan::build(&world).seeds.len());
    let plan = plan::build(&world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    world.plugins.extend(program.plugins.into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
    measure("build, tables found in the WasmPlugin", || plan::build(&world).seeds.len());
    world.last_written = world
        .plugins
        .iter()
        .filter(|plugin| plugin.metadata.name.as_deref() == Some(plan::AI_QUOTA))
        .cloned()
        .collect();
    measure("build, tables written by this process", || plan::build(&world).seeds.len());
}

#[expect(clippy::disallowed_methods, reason = "a benchmark has a clock")]
fn measure(what: &str, run: impl Fn() -> usize) {
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(run());
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!("{what}: best {:.1?}, median {:.1?}", took[0], took[took.len() / 2]);
}
